"""Networks: GeM against loops, the map that is pooled, checkpoints there and back, and no silent random network."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from metlib import backbone
from metlib.backbone import Embedder, GeM, Panel, Recipe, fold_batch_norm, gem, load, recipes, save
from metlib.dataset import Split
from metlib.descriptors import load_descriptors
from metlib.extract import extract

TINY = Recipe("test_resnet", seed=1, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))


def tiny(**changes: Any) -> Embedder:
    """A small untrained network, the same every time."""
    return backbone.build(Recipe(**{"arch": "test_resnet", "seed": 1} | changes), "tiny")


def images(n: int = 2, height: int = 64, width: int = 48, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def naive_gem(x: Tensor, p: float, eps: float) -> list[list[float]]:
    pooled = []
    for image in x.double().tolist():
        pooled.append([])
        for channel in image:
            powers = [max(value, eps) ** p for row in channel for value in row]
            pooled[-1].append((sum(powers) / len(powers)) ** (1 / p))
    return pooled


# --- GeM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.5, 1.0, 2.2, 3.0, 8.0])
def test_gem_is_the_mean_of_powers(p: float) -> None:
    x = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0)) * 3
    expected = torch.tensor(naive_gem(x, p, 1e-6), dtype=torch.float64)
    torch.testing.assert_close(gem(x, p).double(), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(gem(x.double(), p), expected, rtol=1e-12, atol=0)


def test_gem_lies_between_mean_and_max() -> None:
    x = images() * 50
    torch.testing.assert_close(gem(x, 1.0), x.mean(dim=(2, 3)))
    torch.testing.assert_close(gem(x, 5000.0), x.amax(dim=(2, 3)), rtol=3e-3, atol=0)
    assert (gem(x, 3.0) > gem(x, 2.0)).all() and (gem(x, 100.0) > gem(x, 3.0)).all()  # and no overflow on the way


def test_gem_clamps_what_is_not_positive() -> None:
    x = torch.full((1, 2, 3, 3), -4.0)
    torch.testing.assert_close(gem(x, 3.0, eps=1e-3), torch.full((1, 2), 1e-3))
    torch.testing.assert_close(gem(x, 30.0), torch.full((1, 2), 1e-6))  # 1e-6 ** 30 is 0 in float32


def test_gem_is_float32_under_autocast() -> None:
    x = (torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 60).to(torch.bfloat16)
    pool = GeM()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        function, module = gem(x), pool(x)
    assert function.dtype == module.dtype == torch.float32
    torch.testing.assert_close(function, torch.tensor(naive_gem(x, 3.0, 1e-6), dtype=torch.float32))
    half = gem(torch.full((1, 1, 2, 2), 100.0, dtype=torch.float16))  # 100 cubed is too much for half precision
    torch.testing.assert_close(half, torch.tensor([[100.0]]))


def test_gem_p_learns() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) + 0.1
    p = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: gem(x, p), (x.detach().requires_grad_(), p))
    pool = GeM(2.5)
    pool(torch.rand(2, 3, 4, 4)).sum().backward()
    assert pool.p.grad is not None and pool.p.grad.item() > 0  # the p-mean grows with p
    assert "p=2.5" in repr(pool)
    dead = torch.zeros(1, 1, 2, 2, requires_grad=True)
    gem(dead, torch.tensor(20.0)).sum().backward()
    assert torch.isfinite(dead.grad).all()


# --- Embedder -------------------------------------------------------------------------------------------------------


def test_a_batch_is_its_images_one_by_one() -> None:
    for embedder in (tiny(), tiny(projector=7), tiny(stage=2)):
        x = images(2)
        with torch.inference_mode():
            both = embedder(x)
            single = torch.cat([embedder(x[:1]), embedder(x[1:])])
        assert both.shape == (2, embedder.dim) and both.dtype == torch.float32
        torch.testing.assert_close(both, single, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(both.norm(dim=1), torch.ones(2))  # each row, not the batch


def test_pixels_are_normalised_by_the_recipe() -> None:
    embedder = tiny(mean=TINY.mean, std=TINY.std)
    x = images()
    by_hand = x.clone()
    for channel in range(3):
        by_hand[:, channel] = (x[:, channel] - TINY.mean[channel]) / TINY.std[channel]
    with torch.inference_mode():
        expected = embedder.trunk.forward_features(by_hand)
        torch.testing.assert_close(embedder.features(x), expected)
        pooled = gem(expected)
        torch.testing.assert_close(embedder(x), pooled / pooled.norm(dim=1, keepdim=True))


def test_the_last_map_is_that_of_forward_features() -> None:
    embedder = backbone.build(Recipe("mobilenetv2_100", seed=0), "mobile")
    assert embedder.dim == embedder.channels == 1280
    with torch.inference_mode():
        assert embedder.features(images(1)).shape == (1, 1280, 2, 2)


def test_a_stage_drops_what_comes_after_it() -> None:
    embedder = backbone.build(Recipe("resnet18", stage=3, seed=0), "to layer3")
    assert embedder.dim == 256
    assert not any(key.startswith(("layer4", "fc")) for key in embedder.trunk.state_dict())
    whole = timm.create_model("resnet18", num_classes=0).eval()
    whole.load_state_dict(embedder.trunk.state_dict(), strict=False)
    x = images()
    with torch.inference_mode():
        outside = whole.layer3(whole.layer2(whole.layer1(whole.maxpool(whole.act1(whole.bn1(whole.conv1(
            (x - embedder.mean) / embedder.std
        )))))))  # fmt: skip
        torch.testing.assert_close(embedder.features(x), outside)


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_every_stage_has_the_channels_that_timm_lists(arch: str) -> None:
    size = 160 if arch == "test_vit" else 64
    for stage, info in enumerate(timm.create_model(arch).feature_info):
        embedder = backbone.build(Recipe(arch, stage=stage, seed=0), arch)
        with torch.inference_mode():
            assert embedder(images(2, size, size)).shape == (2, info["num_chs"])


@pytest.mark.parametrize("scale", [2**-0.5, 0.5, 1.5])
def test_most_networks_are_given_images_as_they_were_before_recipes_had_a_resolution(scale: float) -> None:
    embedder, x = tiny(), images(2, 75, 50)
    by_hand = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    assert embedder.resize(x) is x
    assert torch.equal(embedder.resize(x, scale), by_hand)
    with torch.inference_mode():
        assert torch.equal(embedder(x, scale), embedder(by_hand))
        assert torch.equal(embedder.features(x, scale), embedder.features(by_hand))


def test_what_says_where_weights_are_from_is_no_part_of_a_networks_identity() -> None:
    embedder = tiny(origin="here", licence="MIT", projector=3, training={"epochs": 2})
    with torch.no_grad():
        embedder.pool.p += 0.5
    assert embedder.identity == {
        "arch": "test_resnet", "arch_args": {}, "seed": 1, "projector": 3, "gem_p": 3.5, "training": {"epochs": 2},
        "mean": list(recipes.IMAGENET_MEAN), "std": list(recipes.IMAGENET_STD),
    }  # fmt: skip


def test_tokens_are_no_map() -> None:
    embedder = backbone.build(Recipe("test_vit", seed=0), "tokens")
    with pytest.raises(ValueError, match=r"tokens ends with \(2, 101, 64\), expected a map .*stage"):
        embedder(images(2, 160, 160))


def test_a_projector_comes_after_pooling() -> None:
    embedder = tiny(projector=5)
    assert embedder.dim == 5
    with torch.inference_mode():
        unit = torch.nn.functional.normalize(gem(embedder.features(images())), dim=1)
        expected = unit @ embedder.projector.weight.T + embedder.projector.bias
        torch.testing.assert_close(embedder(images()), expected / expected.norm(dim=1, keepdim=True))


def test_the_title_says_untrained() -> None:
    assert "untrained" in load("random").title and "floor" in load("random").title
    assert Embedder(tiny().trunk, Recipe("test_resnet"), "mine").title == "mine"


def test_the_hash_sees_every_weight() -> None:
    one, two = tiny(), tiny()
    assert one.weights_sha256() == two.weights_sha256()
    assert one.to(memory_format=torch.channels_last).weights_sha256() == two.weights_sha256()
    with torch.no_grad():
        two.pool.p += 0.5
    assert one.weights_sha256() != two.weights_sha256()
    assert tiny(seed=2).weights_sha256() != one.weights_sha256()


# --- many stages at once ---------------------------------------------------------------------------------------------


def read_alone(embedder: Embedder, stage: int, p: float) -> Embedder:
    """The network that a panel's part stands for: the same weights, ended at the stage, pooled with p."""
    alone = backbone.build(replace(embedder.recipe, stage=stage, gem_p=p, projector=None), "alone")
    assert all(torch.equal(v, embedder.trunk.state_dict()[k]) for k, v in alone.trunk.state_dict().items())
    return alone


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext"])
def test_a_part_of_a_panel_is_what_that_network_alone_would_have_given(arch: str) -> None:
    embedder = backbone.build(Recipe(arch, seed=1, gem_p=2.5, projector=4), "whole")
    panel, x = Panel(embedder, stages=(1, 3), ps=(1, 3, 6.5)), images(3)
    assert list(panel.columns) == [(1, 1.0), (1, 3.0), (1, 6.5), (3, 1.0), (3, 3.0), (3, 6.5)]
    assert panel.dim == 3 * sum(embedder.trunk.feature_info[stage]["num_chs"] for stage in (1, 3))
    with torch.inference_mode():
        rows = panel(x)
        assert rows.shape == (3, panel.dim)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
        for stage, p in panel.columns:
            part = panel.part(rows.numpy(), stage, p)
            torch.testing.assert_close(torch.from_numpy(part), read_alone(embedder, stage, p)(x))


def test_a_panel_of_a_network_that_is_cut_off() -> None:
    embedder = load("random")  # to stage 2
    panel = Panel(embedder, (2,), (3,))
    with torch.inference_mode():
        torch.testing.assert_close(panel(images()), embedder(images()))
    with pytest.raises(ValueError, match=r"stages must ascend from 0 to at most 2 for random, got \(2, 3\)"):
        Panel(embedder, (2, 3), (3,))


def test_a_panel_through_three_scales(tmp_path: Path) -> None:
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (80, 60 + 10 * (i % 2), 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    split = Split(np.array([f"{i}.png" for i in range(3)]), np.arange(3), tmp_path)
    embedder = tiny()
    panel = Panel(embedder, (2, 4), (1, 3))
    rows = load_descriptors(extract(split, panel, tmp_path / "panel", device="cpu"))
    for stage, p in panel.columns:
        alone = extract(split, read_alone(embedder, stage, p), tmp_path / f"{stage} {p}", device="cpu")
        np.testing.assert_allclose(panel.part(rows, stage, p), load_descriptors(alone), atol=2e-6)
    for other in (Panel(embedder, (2, 4), (1, 2)), Panel(embedder, (3, 4), (1, 3)), embedder):
        assert other.weights_sha256() == panel.weights_sha256()
        with pytest.raises(ValueError, match="made with another recipe"):
            extract(split, other, tmp_path / "panel", device="cpu")
    assert extract(split, Panel(embedder, (2, 4), (1, 3)), tmp_path / "panel") == tmp_path / "panel" / "descriptors.npy"


def test_a_panel_knows_itself() -> None:
    embedder = tiny()
    panel, other = Panel(embedder, (2, 4), (1, 3)), Panel(embedder, (2, 4), (1, 2))
    assert panel.identity != other.identity != embedder.identity != panel.identity
    assert panel.identity["panel"] == [[2, 1.0], [2, 3.0], [4, 1.0], [4, 3.0]]
    assert json.loads(json.dumps(panel.identity)) == panel.identity
    assert panel.name == "tiny-stages-2-4-p-1-3" and not panel.training
    assert all(own is theirs for own, theirs in zip(panel.trunk.parameters(), embedder.trunk.parameters(), strict=True))


@pytest.mark.parametrize("stages", [(), (3, 2), (2, 2), (-1, 2), (5,)])
def test_stages_that_a_panel_refuses(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="stages must ascend from 0 to at most 4 for tiny"):
        Panel(tiny(), stages, (3,))


@pytest.mark.parametrize("ps", [(), (0,), (3, -1), (math.nan,), (math.inf,), (3, 3.0)])
def test_exponents_that_a_panel_refuses(ps: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ps must be positive numbers, at least one and each once"):
        Panel(tiny(), (2,), ps)


# --- batch norm folded ----------------------------------------------------------------------------------------------


def lived(embedder: Embedder, seed: int = 0) -> Embedder:
    """Give batch norms statistics and weights as after training; new ones change next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    for norm in norms(embedder):
        norm.running_mean = torch.randn(norm.num_features, generator=generator) / 5
        norm.running_var = torch.rand(norm.num_features, generator=generator) + 0.5
        if norm.affine:
            norm.weight.data = torch.rand(norm.num_features, generator=generator) + 0.5
            norm.bias.data = torch.randn(norm.num_features, generator=generator) / 5
    return embedder


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


FOLDED: dict[str, Callable[[], Embedder]] = {
    "resnet": tiny,
    "norms with activation": lambda: backbone.build(Recipe("mobilenetv2_100", seed=0), "mobile"),
    "branches": lambda: backbone.build(Recipe("test_byobnet", seed=0), "branches"),
    "stage": lambda: tiny(stage=2),
    "projector": lambda: tiny(projector=5),
    "panel": lambda: Panel(tiny(), (1, 4), (1, 4)),
}


@pytest.mark.parametrize("kind", FOLDED)
def test_a_folded_network_describes_alike(kind: str) -> None:
    embedder = lived(FOLDED[kind]())
    before, weights = embedder.weights_sha256(), {k: v.clone() for k, v in embedder.state_dict().items()}
    folded = fold_batch_norm(embedder)
    assert norms(embedder) and not norms(folded)
    with torch.inference_mode():
        for x, scale in ((images(2), 1.0), (images(1, 75, 130, seed=1), 0.5)):
            torch.testing.assert_close(folded(x, scale), embedder(x, scale), rtol=0, atol=1e-5)
    assert type(folded) is type(embedder) and (folded.name, folded.dim) == (embedder.name, embedder.dim)
    assert embedder.weights_sha256() == before  # the original is as it was
    assert all(torch.equal(value, weights[key]) for key, value in embedder.state_dict().items())
    assert not folded.training


def test_folding_by_hand() -> None:
    trunk = Convolutions("conv", "norm", bias=True)
    trunk.conv.weight.data = torch.eye(3)[:, :, None, None] * torch.tensor([1.0, 2.0, -1.0])[:, None, None, None]
    trunk.conv.bias.data = torch.tensor([0.5, 0.0, 3.0])
    trunk.norm.running_mean = torch.tensor([1.5, -1.0, 1.0])
    trunk.norm.running_var = torch.tensor([4.0, 0.25, 16.0]) - trunk.norm.eps
    trunk.norm.weight.data, trunk.norm.bias.data = torch.tensor([4.0, 1.0, 2.0]), torch.tensor([3.0, 0.5, 0.0])
    folded = fold_batch_norm(Embedder(trunk, Recipe("test_resnet"), "mine").eval()).trunk
    # w (conv(x) - mean) / deviation + b: 2 (x + 0.5 - 1.5) + 3; 2 (2x + 1) + 0.5; 0.5 (-x + 3 - 1)
    torch.testing.assert_close(folded.conv.weight[:, :, 0, 0], torch.diag(torch.tensor([2.0, 4.0, -0.5])))
    torch.testing.assert_close(folded.conv.bias, torch.tensor([1.0, 2.5, 1.0]))
    assert isinstance(folded.norm, nn.Sequential) and not len(folded.norm)


class Convolutions(nn.Module):
    """A trunk of one convolution and one norm, applied as `steps` say."""

    num_features = 3

    def __init__(self, *steps: str, bias: bool = False, **norm: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.steps = nn.Conv2d(3, 3, 1, bias=bias), nn.BatchNorm2d(3, **norm), steps

    def forward_features(self, x: Tensor) -> Tensor:
        made = x
        for step in self.steps:
            if step == "add":
                x = x + made
            elif step == "only 64 pixels" and x.shape[-1] != 64:
                raise AssertionError(x.shape)
            elif step == "conv":
                x = made = self.conv(x)
            elif step in ("norm", "stem"):
                x = getattr(self, step)(x)
        return x


UNFOLDED: dict[str, tuple[list[str], dict[str, bool]]] = {
    "the convolution is used twice": (["conv", "conv", "norm"], {}),
    "the norm is used twice": (["conv", "norm", "norm"], {}),
    "both are used twice": (["conv", "norm", "conv", "norm"], {}),
    "its output goes elsewhere too": (["conv", "norm", "add"], {}),
    "the norm comes first": (["norm", "conv"], {}),
    "the norm has no weights": (["conv", "norm"], {"affine": False}),
    "the norm keeps no statistics": (["conv", "norm"], {"track_running_stats": False}),
    "it takes images of one size": (["only 64 pixels", "conv", "norm"], {}),
}


@pytest.mark.parametrize("case", UNFOLDED)
def test_what_cannot_be_folded_is_given_back_itself(case: str) -> None:
    steps, options = UNFOLDED[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = Convolutions(*steps, **options)
    embedder = Embedder(trunk, Recipe("test_resnet"), "mine").eval()
    if not options:
        lived(embedder)
    before = embedder.weights_sha256()
    assert fold_batch_norm(embedder) is embedder
    assert embedder.weights_sha256() == before and len(norms(embedder)) == 1


def test_what_is_used_once_is_folded_beside_what_is_used_twice() -> None:
    trunk = Convolutions("stem", "conv", "conv", "norm")
    trunk.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    embedder = lived(Embedder(trunk, Recipe("test_resnet"), "mine").eval())
    folded = fold_batch_norm(embedder)
    assert len(norms(embedder)) == 2 and norms(folded) == [folded.trunk.norm]
    with torch.inference_mode():
        torch.testing.assert_close(folded(images()), embedder(images()), rtol=0, atol=1e-5)


def test_networks_without_batch_norm_are_given_back_themselves() -> None:
    vit = backbone.build(Recipe("test_vit", {"dynamic_img_size": True}, seed=0, pooling="class", multiple=16), "vit")
    for embedder in (vit, backbone.build(Recipe("test_convnext", seed=0), "convnext")):
        assert fold_batch_norm(embedder) is embedder


def test_a_broken_network_is_given_back_itself() -> None:
    embedder = tiny()
    norms(embedder)[0].running_mean.fill_(math.nan)
    assert fold_batch_norm(embedder) is embedder


# --- names ----------------------------------------------------------------------------------------------------------


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


# --- weights that are fetched ---------------------------------------------------------------------------------------


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


def test_weights_of_another_network_are_refused(hub: Callable[[Path], list[str]], tmp_path: Path) -> None:
    published(tmp_path / "model.safetensors", "resnet18", without="layer3")
    hub(tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"R18IN [\s\S]*layer3"):
        load("R18IN")  # layer3 would have stayed random


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


def test_a_network_without_published_weights_is_not_made_at_random() -> None:
    with_weights = {name.split(".")[0] for name in timm.list_pretrained()}
    known = (name for name in timm.list_models("resnet*") if not name.endswith("_rla"))  # those are metlib's own
    name = next(name for name in known if name not in with_weights)
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        load(name)


# --- checkpoints ----------------------------------------------------------------------------------------------------


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


# --- real weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dim"), [("mobilenetv2_100", 1280), ("resnet18_layer3", 256)])
def test_the_shared_weights_load(shared: Path, name: str, dim: int) -> None:
    embedder = load(shared / "weights" / f"{name}.safetensors")
    assert embedder.dim == dim and embedder.title == name and not embedder.training
    with torch.inference_mode():
        rows = embedder(images(2, 96, 80))
    assert rows.shape == (2, dim)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
