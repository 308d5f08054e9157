"""Networks by name and from files: checkpoints there and back, and no silent random network."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from metlib import backbone
from metlib.backbone import Embedder, Recipe, load, recipes, save

TINY = Recipe("test_resnet", seed=1, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))


def tiny(**changes: Any) -> Embedder:
    """A small untrained network, the same every time."""
    return backbone.build(Recipe(**{"arch": "test_resnet", "seed": 1} | changes), "tiny")


def images(n: int = 2, height: int = 64, width: int = 48, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_random_is_the_same_everywhere_and_disturbs_nobody() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    here = load("random").weights_sha256()
    assert torch.equal(torch.get_rng_state(), before)
    program = "from metlib import backbone; print(backbone.load('random').weights_sha256())"
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("R18-IN", "R18IN"), ("r50swsl", "R50SWSL"), ("resnt18", "resnet18"), ("resnet18.tv_in2k", "resnet18.tv_in1k")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'.*nearest names are .*{nearest}"):
        load(name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in (tmp_path / "none.safetensors", "weights/none", "none.safetensors"):
        with pytest.raises(FileNotFoundError, match=r"none.*expected"):
            load(name)


# --- weights that are fetched ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """Serve one local file as every file of the Hub; what timm asked for is listed."""

    def serve(file: Path) -> list[str]:
        asked: list[str] = []

        def download(repo_id: str, filename: str, **options: Any) -> str:
            asked.append(f"{repo_id}/{filename}")
            return str(file)

        monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
        return asked

    return serve


def published(path: Path, arch: str, without: str = "none", seed: int = 3) -> dict[str, Tensor]:
    """Write weights as the Hub holds them, classifier included."""
    torch.manual_seed(seed)
    weights = {k: v for k, v in timm.create_model(arch).state_dict().items() if not k.startswith(without)}
    safetensors.torch.save_file(weights, path)
    return weights


@pytest.mark.slow
def test_a_recipe_loads_the_weights_that_are_fetched(hub: Callable[[Path], list[str]], tmp_path: Path) -> None:
    weights = published(tmp_path / "model.safetensors", "resnet18")
    asked = hub(tmp_path / "model.safetensors")
    embedder = load("R18IN")
    assert asked == ["timm/resnet18.tv_in1k/model.safetensors"]
    own = embedder.trunk.state_dict()
    assert set(weights) - set(own) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[key], weights[key]) for key in own)
    assert embedder.name == embedder.title == "R18IN" and embedder.dim == 512 and not embedder.training
    again = load(save(embedder, tmp_path / "own.safetensors"))
    assert again.weights_sha256() == embedder.weights_sha256()


def test_any_timm_name_with_the_pixels_of_its_own_config(hub: Callable[[Path], list[str]], tmp_path: Path) -> None:
    published(tmp_path / "model.safetensors", "test_convnext")
    hub(tmp_path / "model.safetensors")
    embedder = load("test_convnext")
    assert embedder.recipe.mean == timm.get_pretrained_cfg("test_convnext").mean == (0.5, 0.5, 0.5)
    with torch.inference_mode():
        assert embedder(images()).shape == (2, embedder.dim) == (2, 64)


@pytest.mark.slow
def test_weights_of_another_network_are_refused(hub: Callable[[Path], list[str]], tmp_path: Path) -> None:
    published(tmp_path / "model.safetensors", "resnet18", without="layer3")
    hub(tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"R18IN [\s\S]*layer3"):
        load("R18IN")  # layer3 would have stayed random


@pytest.mark.slow
def test_weights_that_cannot_be_fetched(tmp_path: Path) -> None:
    program = "from metlib import backbone\ntry: backbone.load('R18IN')\nexcept RuntimeError as error: print(error)"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment,
                         cwd=Path(__file__).parents[2])  # fmt: skip
    assert "R18IN (resnet18.tv_in1k) can't be loaded" in ran.stdout, ran
    assert "HF_HOME" in ran.stdout and "checkpoint" in ran.stdout and "'random'" in ran.stdout


def test_any_failure_of_timm_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyError("no route")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RuntimeError, match=r"R50SWSL.*no route[\s\S]*Check the network"):
        load("R50SWSL")


@pytest.mark.slow
def test_a_network_without_published_weights_is_not_made_at_random() -> None:
    with_weights = {name.split(".")[0] for name in timm.list_pretrained()}
    known = (name for name in timm.list_models("resnet*") if not name.endswith("_rla"))  # those are metlib's own
    name = next(name for name in known if name not in with_weights)
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        load(name)


# --- checkpoints -----------------------------------------------------------------------------------------------------


VIT = {"arch": "test_vit", "arch_args": {"dynamic_img_size": True, "global_pool": "token"}, "pooling": "class"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"projector": 6},
        {"stage": 2},
        {"gem_p": 2.25, "training": {"epochs": 3}},
        {"pooling": "mean", "multiple": 16, "longest": 48},
        VIT | {"multiple": 16, "longest": 160, "projector": 5},
    ],
)
def test_a_checkpoint_comes_back_as_it_went(changes: dict[str, Any], tmp_path: Path) -> None:
    embedder = tiny(mean=TINY.mean, std=TINY.std, **changes)
    with torch.no_grad():
        embedder.pool.p += 0.123  # as if learned
    path = save(embedder.to(memory_format=torch.channels_last), tmp_path / "new" / "mine.safetensors")
    again = load(path)
    assert again.weights_sha256() == embedder.weights_sha256()
    assert again.pool.p.item() == embedder.pool.p.item() == again.recipe.gem_p
    assert again.name == "mine" and not again.training
    assert again.recipe.to_json() == embedder.recipe.to_json() | {"gem_p": embedder.pool.p.item()}
    with torch.inference_mode():
        torch.testing.assert_close(again(images()), embedder(images()))


def test_the_header_is_one_json_object(tmp_path: Path) -> None:
    with safetensors.safe_open(save(tiny(), tmp_path / "x.safetensors"), framework="pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert recipe == {
        "arch": "test_resnet", "arch_args": {}, "seed": 1,
        "mean": list(recipes.IMAGENET_MEAN), "std": list(recipes.IMAGENET_STD),
    }  # fmt: skip


def checkpoint(path: Path, recipe: Any, weights: dict[str, Tensor] | None = None) -> Path:
    """Write a checkpoint with any header."""
    text = recipe if isinstance(recipe, str) else json.dumps(recipe)
    weights = tiny().trunk.state_dict() if weights is None else weights
    safetensors.torch.save_file(dict(weights), path, metadata={"recipe": text})
    return path


@pytest.mark.slow
def test_a_classifier_in_the_file_is_left_out(tmp_path: Path) -> None:
    weights = timm.create_model("mobilenetv2_100").state_dict()
    assert "classifier.weight" in weights
    embedder = load(checkpoint(tmp_path / "m.safetensors", {"arch": "mobilenetv2_100"}, weights))
    assert not any("classifier" in key for key in embedder.state_dict())
    assert torch.equal(embedder.trunk.conv_stem.weight, weights["conv_stem.weight"])


HOSTILE = {
    "another site": ({"arch": "hf-hub:evil/x"}, "arch 'hf-hub:evil/x' is no model"),
    "local folder": ({"arch": "local-dir:/etc"}, "is no model"),
    "fetches": ({"arch": "test_resnet", "arch_args": {"pretrained": True}}, "arch_args must be an object without"),
    "other file": ({"arch": "test_resnet", "arch_args": {"checkpoint_path": "/etc/passwd"}}, "without"),
    "overlay": ({"arch": "test_resnet", "arch_args": {"pretrained_cfg_overlay": {"file": "/x"}}}, "without"),
    "another thing": ({"arch": "test_resnet", "arch_args": {"features_only": True}}, "without"),
    "unknown argument": ({"arch": "test_resnet", "arch_args": {"wings": 2}}, "can't build test_resnet"),
    "bad argument": ({"arch": "test_resnet", "arch_args": {"act_layer": "bogus"}}, "can't build test_resnet"),
    "arguments of a kind": ({"arch": "test_resnet", "arch_args": [1]}, "arch_args must be an object"),
    "unknown key": ({"arch": "test_resnet", "run": "rm"}, r"otherwise only .*got \['run'\]"),
    "no arch": ({"mean": [0, 0, 0]}, "got no arch"),
    "a list": (["test_resnet"], "got list"),
    "arch of a kind": ({"arch": 7}, "arch 7 is no model"),
    "near": ({"arch": "test_resnett"}, "nearest names are test_resnet"),
    "no tag": ({"arch": "resnet18.bogus"}, "can't build"),
    "std 0": ({"arch": "test_resnet", "std": [0.1, 0, 0.1]}, "std must be positive"),
    "NaN": ({"arch": "test_resnet", "mean": [math.nan, 0, 0]}, "mean must be three numbers"),
    "two": ({"arch": "test_resnet", "mean": [0, 0]}, "mean must be three numbers"),
    "a number": ({"arch": "test_resnet", "mean": 0.5}, "mean must be three numbers"),
    "truth": ({"arch": "test_resnet", "std": [True, True, True]}, "std must be three numbers"),
    "huge": ({"arch": "test_resnet", "std": [10**400, 1, 1]}, "std must be three numbers"),
    "huge p": ({"arch": "test_resnet", "gem_p": 10**400}, "gem_p must be a positive number"),
    "p 0": ({"arch": "test_resnet", "gem_p": 0}, "gem_p must be a positive number"),
    "p text": ({"arch": "test_resnet", "gem_p": "3"}, "gem_p must be a positive number"),
    "stage -1": ({"arch": "test_resnet", "stage": -1}, "stage must be an integer of at least 0"),
    "stage true": ({"arch": "test_resnet", "stage": True}, "stage must be an integer"),
    "stage 9": ({"arch": "test_resnet", "stage": 9}, "no stage 9: timm lists 5, from 0 to 4"),
    "huge projector": ({"arch": "test_resnet", "projector": 10**13}, "projector is 10000000000000, .* has no rows"),
    "seed": ({"arch": "test_resnet", "seed": 2**70}, "seed must be an integer"),
    "training": ({"arch": "test_resnet", "training": 5}, "training must be a Mapping"),
    "origin": ({"arch": "test_resnet", "origin": None}, "origin must be a str"),
    "damaged": ('{"arch": "test_resnet"', "damaged JSON"),
    "deep": ("[" * 100_000, "damaged JSON"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_a_recipe_is_checked_before_it_is_used(case: str, tmp_path: Path) -> None:
    recipe, message = HOSTILE[case]
    with pytest.raises(ValueError, match=message) as caught:
        load(checkpoint(tmp_path / "bad.safetensors", recipe))
    assert "bad.safetensors" in str(caught.value)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    good = save(tiny(), tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "text").write_text("no weights")
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(good[: len(good) // 2])
    (tmp_path / "header").write_bytes(good[:8] + b"\xff" * 40 + good[48:])
    for name in ("text", "empty", "cut", "header"):
        with pytest.raises(ValueError, match=f"{name} is no readable safetensors file"):
            load(tmp_path / name)
    safetensors.torch.save_file(tiny().trunk.state_dict(), tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare has no recipe .*backbone.save"):
        load(tmp_path / "bare")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    recipe, good = {"arch": "test_resnet"}, tiny().trunk.state_dict()
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"missing \['conv1.0.weight'\]"):
        load(checkpoint(path, recipe, {k: v for k, v in good.items() if k != "conv1.0.weight"}))
    with pytest.raises(ValueError, match=r"unexpected \['wings.weight'\]"):
        load(checkpoint(path, recipe, good | {"wings.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"conv1.0.weight \(1, 2\), expected \("):
        load(checkpoint(path, recipe, good | {"conv1.0.weight": torch.ones(1, 2)}))
    with pytest.raises(ValueError, match=r"projector is None, .* has \(4,\) rows"):
        load(checkpoint(path, recipe, good | {"projector.weight": torch.ones(4, 96)}))
    with pytest.raises(ValueError, match=r"projector is 5, .* has no rows"):
        load(checkpoint(path, recipe | {"projector": 5}))
    with pytest.raises(ValueError, match=r"weight \(5, 7\), expected \(5, 96\)"):
        extra = {"projector.weight": torch.ones(5, 7), "projector.bias": torch.ones(5)}
        load(checkpoint(path, recipe | {"projector": 5}, good | extra))


def test_nothing_is_left_when_saving_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tiny(), tmp_path / "x.safetensors")
    before = path.read_bytes()

    def full(*arguments: Any, **options: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save", full)
    with pytest.raises(OSError, match="disk is full"):
        save(tiny(seed=2), path)
    with pytest.raises(OSError, match="disk is full"):
        save(tiny(), tmp_path / "y.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"] and path.read_bytes() == before


# --- real weights ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim"), [("mobilenetv2_100", 1280), ("resnet18_layer3", 256)])
def test_the_shared_weights_load(shared: Path, name: str, dim: int) -> None:
    embedder = load(shared / "weights" / f"{name}.safetensors")
    assert embedder.dim == dim and embedder.title == name and not embedder.training
    with torch.inference_mode():
        rows = embedder(images(2, 96, 80))
    assert rows.shape == (2, dim)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
