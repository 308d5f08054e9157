"""Extraction against one image at a time, through damage and change, from Python and from a shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from metlib import __version__, backbone, cli, dataset, descriptors, extract, visits
from metlib.backbone import Embedder, Recipe
from metlib.dataset import Museum, Split
from metlib.descriptors import name_folder, shards, split_folder
from metlib.extract import SCALES, describe, load_descriptors, load_labels, load_recipe, multiscale, prepare

SHAPES = [(64, 48), (48, 64), (64, 48), (72, 72), (64, 48), (96, 50), (72, 72), (48, 64), (64, 48), (57, 61)]


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return backbone.build(Recipe("test_resnet", seed=1), "tiny")


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return paint(tmp_path / "images")


def paint(root: Path, n: int = 10) -> Split:
    """Draw n images of mixed shapes: smooth colours, one grey, one palette PNG, one that lies on its side."""
    root.mkdir(parents=True, exist_ok=True)
    names = []
    for i in range(n):
        width, height = SHAPES[i % len(SHAPES)]
        noise = np.random.default_rng(i).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        names.append(f"{i}.png" if i % 5 == 3 else f"{i}.jpg")
        options: dict[str, Any] = {} if i % 5 == 3 else {"quality": 90}
        if i % 10 == 1:
            image = image.convert("L")
        if i % 10 == 3:
            image = image.quantize(16)
        if i % 10 == 4:  # held upright: stored on its side
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = 6
        image.save(root / names[-1], **options)
    return Split(np.array(names), np.arange(n) - 1, root)


def one_by_one(split: Split, embedder: Embedder, scales: tuple[float, ...] = SCALES) -> NDArray[np.float64]:
    """The definition, for one image at a time: no batches, no shards, own EXIF, own GeM."""
    rows = []
    mean, std = torch.tensor(embedder.recipe.mean), torch.tensor(embedder.recipe.std)
    for i in range(len(split)):
        image = Image.open(split.file(i))
        turned = image.getexif().get(0x0112) == 6
        image = image.convert("RGB")
        pixels = np.asarray(image.transpose(Image.Transpose.ROTATE_270) if turned else image)
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()
        total = torch.zeros(embedder.dim, dtype=torch.float64)
        for scale in scales:
            y = torch.nn.functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
            y = (y - mean[:, None, None]) / std[:, None, None]
            with torch.inference_mode():
                features = embedder.trunk.forward_features(y)[0].double()  # (C, h, w)
            pooled = features.clamp(min=1e-6).pow(3).mean(dim=(1, 2)).pow(1 / 3)
            total += pooled / pooled.norm()
        rows.append((total / total.norm()).numpy())
    return np.stack(rows)


def run(split: Split, embedder: Embedder, out: Path, **options: Any) -> Path:
    return extract.extract(split, embedder, out, **({"device": "cpu", "batch_size": 4, "shard_size": 4} | options))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List every image that is opened from now on."""
    opened: list[str] = []
    real = dataset.read_image

    def read(path: str | Path) -> Image.Image:
        opened.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(dataset, "read_image", read)
    return opened


def cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    return (a.astype(np.float64) * b).sum(axis=1)


# --- the definition -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scales", [SCALES, (1,), (0.5, 1.3)])
def test_extraction_is_one_image_at_a_time(
    split: Split, embedder: Embedder, scales: tuple[float, ...], tmp_path: Path
) -> None:
    rows = load_descriptors(run(split, embedder, tmp_path / "out", scales=scales))
    assert rows.shape == (10, embedder.dim) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    naive = one_by_one(split, embedder, scales)
    assert cosine(rows, naive).min() > 1 - 1e-5
    np.testing.assert_allclose(rows, naive, atol=2e-5)


def test_one_scale_is_the_network_itself(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    rows = load_descriptors(run(split, embedder, tmp_path / "out", scales=(1,)))
    for i in range(len(split)):
        pixels = np.asarray(dataset.read_image(split.file(i)), dtype=np.float32) / 255
        with torch.inference_mode():
            alone = embedder(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
        np.testing.assert_allclose(rows[i], alone, atol=1e-5)


@pytest.mark.slow
def test_company_does_not_matter(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    reference = load_descriptors(run(split, embedder, tmp_path / "a"))
    for n, (batch, shard) in enumerate([(1, 1), (3, 10), (16, 512), (2, 3)]):
        path = run(split, embedder, tmp_path / f"b{n}", batch_size=batch, shard_size=shard, workers=n + 1)
        np.testing.assert_allclose(load_descriptors(path), reference, atol=1e-5)
    order = np.random.default_rng(0).permutation(10)
    shuffled = load_descriptors(run(split.take(order), embedder, tmp_path / "c"))
    np.testing.assert_allclose(shuffled, reference[order], atol=1e-5)


def test_a_stage_and_a_projector_too(split: Split, tmp_path: Path) -> None:
    network = backbone.build(Recipe("test_resnet", stage=2, projector=9, seed=4), "short")
    rows = load_descriptors(run(split, network, tmp_path / "out"))
    assert rows.shape == (10, 9)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


# --- what lies in the folder ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_folder_says_what_made_it(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    path = run(split, embedder, tmp_path / "new" / "out", scales=(1, 0.5))
    assert path == tmp_path / "new" / "out" / "descriptors.npy"
    assert sorted(p.name for p in path.parent.iterdir()) == ["descriptors.npy", "labels.npy", "recipe.json"]
    recipe = json.loads((path.parent / "recipe.json").read_text())
    assert recipe == load_recipe(path) == load_recipe(path.parent)
    assert recipe["weights_sha256"] == embedder.weights_sha256()
    assert recipe["scales"] == [1.0, 0.5] and recipe["images"] == 10 and recipe["dim"] == embedder.dim
    assert recipe["network"]["arch"] == "test_resnet" and recipe["skipped"] == []
    assert recipe["versions"]["metlib"] == __version__ and recipe["versions"]["torch"].startswith(torch.__version__[:4])
    assert {"timm", "numpy", "pillow", "python"} <= set(recipe["versions"])
    hashes = {recipe["images_sha256"]}
    for n, other in enumerate([split.take(range(9)), split.take(range(9, -1, -1)), relabelled(split)]):
        hashes.add(load_recipe(run(other, embedder, tmp_path / f"{n}", scales=(1,)))["images_sha256"])
    assert len(hashes) == 4
    assert np.array_equal(np.load(path.parent / "labels.npy"), split.labels)
    assert load_labels(path).dtype == np.int64 and np.array_equal(load_labels(path.parent), split.labels)
    assert np.array_equal(load_descriptors(path), load_descriptors(path.parent))


def relabelled(split: Split) -> Split:
    return Split(split.paths, split.labels + 1, split.root)


@pytest.mark.slow
def test_a_finished_folder_is_returned_at_once(
    split: Split, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run(split, embedder, tmp_path / "out")
    before = path.stat().st_mtime_ns
    opened = count_reads(monkeypatch)
    assert run(split, embedder, tmp_path / "out", batch_size=7, shard_size=3) == path
    assert not opened and path.stat().st_mtime_ns == before
    for file in split.root.iterdir():  # images are large: they may be gone by then
        file.unlink()
    assert run(split, embedder, tmp_path / "out") == path


# --- stop and resume -------------------------------------------------------------------------------------------------


def stop_after(n_images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run end with an error when it has described n images."""
    real, seen = extract.multiscale, [0]

    def multiscale(network: Embedder, pixels: Any, *options: Any) -> Any:
        if seen[0] >= n_images:
            raise KeyboardInterrupt
        seen[0] += len(pixels)
        return real(network, pixels, *options)

    monkeypatch.setattr(extract, "multiscale", multiscale)


def interrupted(split: Split, embedder: Embedder, out: Path) -> list[Path]:
    """Leave a folder with two of three shards."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(8, patch)
        run(split, embedder, out)
    done = sorted((out / "shards").iterdir())
    assert len(done) == 2
    return done


@pytest.mark.slow
@pytest.mark.parametrize("finish", [False, True])
def test_another_recipe_is_refused(finish: bool, split: Split, embedder: Embedder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if finish:
        run(split, embedder, out)
    else:
        interrupted(split, embedder, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    other_weights = backbone.build(Recipe("test_resnet", seed=2), "tiny")
    other_pixels = Embedder(embedder.trunk, replace(embedder.recipe, mean=(0, 0, 0)), "tiny").eval()
    for key, arguments, options in (
        ("scales", (split, embedder), {"scales": (1,)}),
        ("precision", (split, embedder), {"precision": "bfloat16"}),
        ("weights_sha256", (split, other_weights), {}),
        ("network", (split, other_pixels), {}),
        ("images", (split.take(range(9)), embedder), {}),
        ("images_sha256", (split.take(range(9, -1, -1)), embedder), {}),
        ("images_sha256", (relabelled(split), embedder), {}),
    ):
        with pytest.raises(ValueError, match=rf"another recipe: its {key} is .* yours .*Name another folder"):
            run(*arguments, out, **options)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_a_tuple_in_the_recipe_does_not_hinder_resuming(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    network = Embedder(embedder.trunk, replace(embedder.recipe, training={"steps": (1, 2)}), "tiny").eval()
    interrupted(split, network, tmp_path / "out")
    run(split, network, tmp_path / "out")


@pytest.mark.slow
def test_foreign_folders_are_left_alone(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(split, embedder, out)
    (out / "recipe.json").unlink()  # whose shards are these now?
    with pytest.raises(ValueError, match=r"holds files but no recipe.json.*new or empty folder"):
        run(split, embedder, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds files but no recipe.json"):
        run(split, embedder, tmp_path / "mine")
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / ".recipe.json.abc.tmp").write_text("{")  # killed at the first step
    path = run(split, embedder, tmp_path / "started")
    assert sorted(p.name for p in path.parent.iterdir()) == ["descriptors.npy", "labels.npy", "recipe.json"]


@pytest.mark.slow
def test_a_damaged_shard_is_named_and_alone_described_again(
    split: Split, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = interrupted(split, embedder, tmp_path / "out")[0]
    for content in (first.read_bytes()[:-9], b"", first.read_bytes().replace(b"(4, 96)", b"(9, 96)")):
        first.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{first.name} is damaged .*delete this one file and run again"):
            run(split, embedder, tmp_path / "out")
        assert not (tmp_path / "out" / "descriptors.npy").exists()
    first.unlink()
    opened = count_reads(monkeypatch)
    path = run(split, embedder, tmp_path / "out")
    assert len(opened) == 4 and "6.jpg" not in opened  # which is of the third
    np.testing.assert_array_equal(load_descriptors(path), load_descriptors(run(split, embedder, tmp_path / "b")))


@pytest.mark.slow
def test_changed_images_are_described_again(
    split: Split, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(split, embedder, tmp_path / "out")
    Image.new("RGB", (80, 60), (200, 30, 10)).save(split.file(5))
    opened = count_reads(monkeypatch)
    path = run(split, embedder, tmp_path / "out")
    assert sorted(opened) == ["0.jpg", "2.jpg", "3.png", "5.jpg", "6.jpg", "8.png"]  # its shard, and the third
    np.testing.assert_array_equal(load_descriptors(path), load_descriptors(run(split, embedder, tmp_path / "b")))
    Image.new("RGB", (50, 50), (0, 30, 10)).save(split.file(2))
    with pytest.raises(ValueError, match=r"2.jpg changed since .*delete that folder"):
        run(split, embedder, tmp_path / "out")


# --- images that can't be used --------------------------------------------------------------------------------------


def damage(split: Split, *rows: int) -> dict[int, bytes]:
    """Cut files in half; what they were is given back."""
    before = {i: split.file(i).read_bytes() for i in rows}
    for i, content in before.items():
        split.file(i).write_bytes(content[: len(content) // 2])
    return before


@pytest.mark.slow
def test_a_corrupt_image_stops_the_run_which_resumes_when_it_is_mended(
    split: Split, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load_descriptors(run(split, embedder, tmp_path / "a"))
    before = damage(split, 6)
    with pytest.raises(OSError, match=r"6\.jpg: .*Replace it and run again .*on_error='skip'"):
        run(split, embedder, tmp_path / "out")
    assert not (tmp_path / "out" / "descriptors.npy").exists()
    split.file(6).write_bytes(before[6])
    opened = count_reads(monkeypatch)
    np.testing.assert_array_equal(load_descriptors(run(split, embedder, tmp_path / "out")), reference)
    assert "0.jpg" not in opened and "6.jpg" in opened  # the first shard was finished


@pytest.mark.slow
def test_an_image_that_vanishes_under_way_is_named_and_done_when_it_is_back(
    split: Split, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = load_descriptors(run(split, embedder, tmp_path / "a")), tmp_path / "out"
    content, real = split.file(6).read_bytes(), shards.plan

    def plan(*arguments: Any, **options: Any) -> shards.Plan:
        planned = real(*arguments, **options)
        split.file(6).unlink(missing_ok=True)
        return planned

    monkeypatch.setattr(shards, "plan", plan)
    for _ in range(2):
        with pytest.raises(OSError, match=r"6\.jpg.*Replace it and run again"):
            run(split, embedder, out)
        assert len(list((out / "shards").iterdir())) == 2
    monkeypatch.undo()
    split.file(6).write_bytes(content)
    split.file(0).unlink()  # its shard is finished
    opened = count_reads(monkeypatch)
    assert np.array_equal(load_descriptors(run(split, embedder, out)), whole)
    assert sorted(opened) == ["3.png", "6.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "empty", "text", "small", "folder"])
def test_every_kind_of_bad_image_is_named(how: str, split: Split, embedder: Embedder, tmp_path: Path) -> None:
    file = split.file(2)
    file.unlink()
    if how == "small":
        Image.new("RGB", (7, 90)).save(file)
    elif how == "folder":
        file.mkdir()
    elif how != "missing":
        file.write_text("" if how == "empty" else "no image")
    with pytest.raises(OSError, match=r"2\.jpg.*on_error='skip'"):
        run(split, embedder, tmp_path / "out")
    run(split, embedder, tmp_path / "out", on_error="skip")
    assert load_recipe(tmp_path / "out")["skipped"] == ["2.jpg"]


@pytest.mark.slow
def test_skipped_images_leave_descriptors_and_labels(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    reference = load_descriptors(run(split, embedder, tmp_path / "a"))
    damage(split, 0, 6, 7)
    path = run(split, embedder, tmp_path / "out", on_error="skip")
    keep = [1, 2, 3, 4, 5, 8, 9]
    assert load_recipe(path)["skipped"] == ["0.jpg", "6.jpg", "7.jpg"]
    assert np.array_equal(load_labels(path), split.labels[keep])
    np.testing.assert_allclose(load_descriptors(path), reference[keep], atol=1e-5)
    assert run(split, embedder, tmp_path / "out", on_error="skip") == path
    with pytest.raises(OSError, match=r"3 images were skipped before, the first .*0\.jpg.*on_error='skip'"):
        run(split, embedder, tmp_path / "out")


def test_a_split_without_one_readable_image(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    damage(split, *range(10))
    with pytest.raises(ValueError, match="none of the 10 images"):
        run(split, embedder, tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out" / "descriptors.npy").exists()


@pytest.mark.slow
def test_a_descriptor_without_direction_names_its_image(split: Split, tmp_path: Path) -> None:
    network = backbone.build(Recipe("test_resnet", seed=1, projector=4), "broken")
    for value in (float("nan"), 0.0):
        with torch.no_grad():
            network.projector.weight.fill_(value)
            network.projector.bias.fill_(value)
        with pytest.raises(ValueError, match=r"images/0\.jpg: broken gives a descriptor that is NaN or zero"):
            run(split, network, tmp_path / f"out{value}")
        assert not list((tmp_path / f"out{value}").glob("shards/*"))


def test_what_the_network_cannot_take_names_its_image(split: Split, tmp_path: Path, embedder: Embedder) -> None:
    with pytest.raises(RuntimeError, match=r"tiny can't describe .*64 x 48 pixels at scales \(0.001,\) on cpu.*0\.jpg"):
        run(split, embedder, tmp_path / "out", scales=(0.001,))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["shards", "recipe.json", "plan.npy", "labels.npy", "descriptors.npy"])
def test_a_full_disk_leaves_nothing_half_written(
    victim: str, split: Split, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", os.fsync

    def fsync(handle: int) -> None:
        name = str(Path(f"/proc/self/fd/{handle}").readlink())
        if f"out/{victim}" in name or f"out/.{victim}" in name:
            raise OSError(28, "No space left on device")
        real(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell files apart")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="disk is full: free some space and run again"):
        run(split, embedder, out)
    assert not (out / "descriptors.npy").exists() and not list(out.rglob("*.tmp"))
    monkeypatch.undo()
    resumed = run(split, embedder, out)
    np.testing.assert_array_equal(load_descriptors(resumed), load_descriptors(run(split, embedder, tmp_path / "b")))


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales must be positive numbers"),
        ({"scales": (1, 0)}, "scales must be positive numbers"),
        ({"scales": (1, float("nan"))}, "scales must be positive numbers"),
        ({"scales": (float("inf"),)}, "scales must be positive numbers"),
        ({"precision": "half"}, "precision must be one of float32, float16, bfloat16, got 'half'"),
        ({"rank": 2, "ranks": 2}, "rank must be from 0 to ranks - 1, got rank 2 of 2"),
        ({"rank": -1}, "rank must be from 0 to ranks - 1, got rank -1 of 1"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip', got 'ignore'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"shard_size": -1}, "shard_size must be an integer of at least 1, got -1"),
        ({"workers": 0}, "workers must be an integer of at least 1, got 0"),
        ({"device": "abacus"}, "device 'abacus' can't be used here .*cuda, mps or cpu"),
        ({"device": "cuda:99"}, "device 'cuda:99' can't be used here"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, split: Split, embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(split, embedder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_empty_split_and_an_unknown_option(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        run(split.take([]), embedder, tmp_path / "out")
    with pytest.raises(TypeError, match="batchsize"):
        run(split, embedder, tmp_path / "out", batchsize=3)


def test_a_device_is_found(split: Split, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "find_device", lambda: "cpu")
    assert load_descriptors(run(split, embedder, tmp_path / "out", device=None)).shape == (10, embedder.dim)


def test_cudnn_stays_on_and_tf32_off(split: Split, embedder: Embedder) -> None:
    seen = []

    class Spy(torch.nn.Module):
        dim = 3

        def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
            seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32, x.dtype, x.shape, scale))
            return torch.ones(len(x), 3)

    before = torch.backends.cudnn.enabled
    extract.multiscale(Spy(), torch.zeros(2, 64, 48, 3, dtype=torch.uint8), (1, 0.5))  # type: ignore[arg-type]
    assert seen == [(True, False, torch.float32, (2, 3, 64, 48), scale) for scale in (1, 0.5)]
    assert torch.backends.cudnn.enabled == before


# --- how it is computed ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_half_precision_is_another_recipe_and_nearly_the_same(
    split: Split, embedder: Embedder, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    whole = load_descriptors(run(split, embedder, tmp_path / "float32"))
    half = run(split, embedder, tmp_path / "bfloat16", precision="bfloat16")
    assert load_recipe(half)["precision"] == "bfloat16" and load_recipe(tmp_path / "float32")["precision"] == "float32"
    rows = load_descriptors(half)  # refuses other than float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not np.array_equal(rows, whole)
    assert cosine(rows, whole).min() > 1 - 1e-3
    assert not [warning for warning in recwarn if "autocast" in str(warning.message)]


@pytest.mark.slow
def test_the_layout_in_memory_changes_nothing(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    last, first = (
        load_descriptors(run(split, embedder, tmp_path / f"{way}", channels_last=way)) for way in (True, False)
    )
    np.testing.assert_allclose(last, first, atol=1e-5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_layout_is_that_which_was_asked_for(channels_last: bool, embedder: Embedder) -> None:
    seen = []
    ready = extract.prepare(embedder, "cpu", channels_last=channels_last)
    ready.trunk.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    extract.multiscale(ready, torch.zeros(2, 32, 48, 3, dtype=torch.uint8), (1,))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert seen[0].is_contiguous(memory_format=layout) and seen[0].shape == (2, 3, 32, 48)
    assert ready is not embedder and not embedder.training


def test_a_batch_has_as_many_images_as_its_pixels_allow() -> None:
    def sizes(images: list[tuple[int, int]], batch_size: int | None = None) -> list[tuple[int, ...]]:
        pixels = (np.zeros((*shape, 3), np.uint8) for shape in images)
        return [tuple(x.shape[:3]) for _, x in extract._batches(pixels, batch_size, 1000, "raise")]

    assert sizes([(20, 10)] * 12) == [(5, 20, 10), (5, 20, 10), (2, 20, 10)]
    assert sizes([(20, 10), (40, 40)] * 3) == [(1, 40, 40)] * 3 + [(3, 20, 10)]  # each alone exceeds it
    assert sizes([(2, 2)] * 70) == [(64, 2, 2), (6, 2, 2)]
    assert sizes([(20, 10)] * 12, batch_size=7) == [(7, 20, 10), (5, 20, 10)]


@pytest.mark.slow
def test_images_of_one_shape_come_together_however_they_are_listed(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(24):
        Image.new("RGB", [(40, 30), (30, 40), (36, 36)][i % 3], (10 * i, 99, 99)).save(tmp_path / f"{i}.png")
    split = Split(np.array([f"{i}.png" for i in range(24)]), np.arange(24), tmp_path)
    batches, real = [], extract.multiscale

    def multiscale(network: Embedder, pixels: torch.Tensor, *options: Any) -> torch.Tensor:
        batches.append(tuple(pixels.shape[:3]))
        return real(network, pixels, *options)

    monkeypatch.setattr(extract, "multiscale", multiscale)
    run(split, embedder, tmp_path / "out", shard_size=8, batch_size=None)
    assert batches == [(8, 30, 40), (8, 36, 36), (8, 40, 30)]


# --- a whole museum -------------------------------------------------------------------------------------------------


@pytest.fixture
def museum(tmp_path: Path) -> Museum:
    split = paint(tmp_path / "images", 20)
    database = Split(split.paths[:8], np.arange(8), split.root)
    val = Split(split.paths[8:14], np.array([0, 1, -1, 2, -1, 3]), split.root)
    test = Split(split.paths[14:], np.array([4, -1, 5, 6, -1, 7]), split.root)
    return Museum(database, val, test, tmp_path, "ours", "full")


@pytest.mark.slow
def test_describe_repeats_nothing(
    museum: Museum, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = describe(museum, embedder, tmp_path / "work", device="cpu")
    assert full.museum.database is museum.database
    assert full.made_by["backbone"] == "tiny" and full.made_by["weights"] == embedder.weights_sha256()
    assert full.made_by["scales"] == SCALES and full.made_by["network"]["arch"] == "test_resnet"
    for split, name in museum.splits():
        alone = load_descriptors(run(split, embedder, tmp_path / name))
        np.testing.assert_allclose(getattr(full, name), alone, atol=1e-5)
    opened = count_reads(monkeypatch)
    describe(museum, embedder, tmp_path / "work", device="cpu")
    assert not opened
    mini = Museum(museum.database.take(range(5)), museum.val, museum.test, tmp_path, "ours", "mini")
    described = describe(mini, embedder, tmp_path / "work", device="cpu")
    assert sorted(opened) == sorted(str(path) for path in mini.database.paths)  # val and test were there
    assert np.array_equal(described.val, full.val) and described.museum.kind == "mini"
    assert np.allclose(described.database, full.database[:5], atol=1e-5)
    for options in ({"scales": (1,)}, {"precision": "bfloat16"}):  # each in a folder of its own
        other = describe(museum, embedder, tmp_path / "work", device="cpu", **options)
        assert not np.array_equal(other.val, full.val)
    other = describe(museum, backbone.build(Recipe("test_resnet", seed=2), "tiny"), tmp_path / "work", device="cpu")
    assert not np.allclose(other.val, full.val)  # of the same name, but other weights: another folder


@pytest.mark.slow
def test_describe_aligns_the_museum_with_what_was_skipped(museum: Museum, embedder: Embedder, tmp_path: Path) -> None:
    damage(museum.database, 3)
    damage(museum.test, 1)
    with pytest.raises(OSError, match=r"3\.png"):
        describe(museum, embedder, tmp_path / "strict", device="cpu")
    described = describe(museum, embedder, tmp_path / "work", device="cpu", on_error="skip")
    assert list(described.museum.database.labels) == [0, 1, 2, 4, 5, 6, 7]
    assert list(described.museum.test.labels) == [4, 5, 6, -1, 7]
    assert described.museum.val is museum.val and described.museum.name == "ours"
    assert (len(described.database), len(described.val), len(described.test)) == (7, 6, 5)
    for split, name in described.museum.splits():
        assert cosine(getattr(described, name), one_by_one(split, embedder)).min() > 1 - 1e-5


def test_a_run_that_made_nothing_leaves_nothing_to_resume(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    good = split.file(0).read_bytes()
    split.file(0).write_bytes(b"no image")
    with pytest.raises(OSError, match="can't read an image"):
        extract.extract(split, embedder, tmp_path / "x")
    split.file(0).write_bytes(good)
    assert not (tmp_path / "x" / "recipe.json").exists()
    extract.extract(split, embedder, tmp_path / "x", scales=(1,))  # another recipe is welcome here


@pytest.mark.parametrize("scales", [1.0, "1", 1])
def test_scales_are_a_sequence(split: Split, embedder: Embedder, tmp_path: Path, scales: Any) -> None:
    with pytest.raises(ValueError, match="sequence"):
        extract.extract(split, embedder, tmp_path / "x", scales=scales)


def test_a_folder_may_be_called_npy_and_no_file_is_a_folder(split: Split, embedder: Embedder, tmp_path: Path) -> None:
    path = extract.extract(split, embedder, tmp_path / "val.npy", scales=(1,))
    assert load_recipe(tmp_path / "val.npy") == load_recipe(path)
    assert np.array_equal(load_descriptors(tmp_path / "val.npy"), np.load(path))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        extract.extract(split, embedder, tmp_path / "file")


# --- from a shell ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_describes_a_museum_and_says_where(
    small_museum: Path, embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = backbone.save(embedder, tmp_path / "tiny.safetensors")
    options = ["--database", "mini", "--scales", "0.5", "--precision", "bfloat16", "--device", "cpu"]
    for _ in range(2):  # the second time all is there
        assert (
            cli.main(["extract", str(small_museum), str(checkpoint), "--work", str(tmp_path / "work"), *options]) == 0
        )
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[0] for line in lines] == ["database", "val", "test", "visit-0", "visit-1", "visit-2"]
    museum = dataset.load(small_museum, "mini")
    for line, (split, _) in zip(lines, museum.splits(), strict=False):
        path = Path(line.split(": ")[1])
        assert "scales-0.5-bfloat16" in path.parts and load_recipe(path)["precision"] == "bfloat16"
        assert np.array_equal(load_labels(path), split.labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["{tmp}/none", "random"], {}, "error: no folder .*none .*Paint a museum with"),
        (["{tmp}", "random"], {}, "error: .* is no museum: .*Expected images/"),
        (["{museum}", "resnt18"], {}, "error: backbone 'resnt18' .*nearest names are resnet18"),
        (["{museum}", "{tmp}/none.safetensors"], {}, "error: no checkpoint .*none.safetensors"),
        (["{museum}", "random", "--device", "abacus"], {}, "error: device 'abacus' can't be used here"),
        (["{museum}", "random", "--scales", "0"], {}, r"error: scales must be positive numbers.*got \(0.0,\)"),
        (["{museum}", "random", "--batch-size", "0"], {}, "error: batch_size must be an integer of at least 1, got 0"),
        (["{museum}", "random"], {"RANK": "2", "WORLD_SIZE": "2"}, "error: rank must be from 0 to ranks - 1"),
        (["{museum}", "random"], {"RANK": "one"}, "error: RANK is 'one' in the environment, expected a number"),
        (["{museum}", "random"], {"WORLD_SIZE": ""}, "error: WORLD_SIZE is '' in the environment"),
    ],
)
def test_the_command_names_what_is_wrong(
    arguments: list[str],
    environment: dict[str, str],
    message: str,
    small_museum: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(tmp=tmp_path, museum=small_museum) for argument in arguments]
    assert cli.main(["extract", "--device", "cpu", *filled]) == 2
    output = capsys.readouterr()
    assert re.match(message, output.err) and output.out == ""
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_the_command_names_an_image_and_skips_it_where_told(
    small_museum: Path, embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    museum = Path(shutil.copytree(small_museum, tmp_path / "museum"))
    checkpoint = backbone.save(embedder, tmp_path / "tiny.safetensors")
    dataset.load(museum).val.file(2).unlink()
    options = ["--scales", "0.5", "--device", "cpu", "--work", str(tmp_path / "work")]
    assert cli.main(["extract", str(museum), str(checkpoint), *options]) == 2
    output = capsys.readouterr()
    assert output.out.startswith("database: ") and re.match(r"error: can't read an image: .*\.jpg", output.err)
    assert cli.main(["extract", str(museum), str(checkpoint), *options, "--on-error", "skip"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["museum"], 2), (["a", "b", "--precision", "half"], 2)]
)
def test_the_command_explains_itself(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extract", *arguments]) == code
    output = capsys.readouterr()
    if code == 0:
        assert "metlib extract" in output.out and "torchrun" in output.out
        for option in ("--database", "--work", "--scales", "--precision", "--device", "--on-error"):
            assert option in output.out


# --- simulated visits -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_visits_are_described_once_and_read_back(
    museum: Museum, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    described = describe(museum, embedder, work, visits=2)
    assert described.visits is not None
    np.testing.assert_array_equal(described.visits.rows, np.tile(np.arange(8), 2))
    rows = described.visits.descriptors
    own = (rows * described.database[described.visits.rows]).sum(axis=1)
    assert rows.shape == (16, embedder.dim) and (own < 0.9999).all() and not np.array_equal(rows[:8], rows[8:])
    pixels = np.asarray(dataset.read_image(museum.database.file(3)))
    seed = [1, zlib.crc32(pixels.tobytes())]
    taken = visits.simulate(Image.fromarray(pixels), np.random.default_rng(seed))
    twin = multiscale(prepare(embedder, "cpu"), torch.from_numpy(np.array(taken))[None])
    np.testing.assert_allclose(rows[8 + 3], twin[0].numpy(), atol=1e-5)

    monkeypatch.setattr("metlib.extract.multiscale", lambda *a, **k: pytest.fail("it was described before"))
    again = describe(museum, embedder, work, visits=2)
    assert again.visits is not None and np.array_equal(again.visits.descriptors, rows)
    one = describe(museum, embedder, work, visits=1)
    assert one.visits is not None and np.array_equal(one.visits.descriptors, rows[:8])
    assert describe(museum, embedder, work).visits is None
    folder = name_folder(museum, embedder, work, SCALES)
    found = descriptors.read(folder, museum)
    assert found.visits is not None and np.array_equal(found.visits.descriptors, rows)
    recipe = load_recipe(split_folder(folder, museum.database, "visit-1"))
    assert recipe["pixels"] == f"simulated visit 1, drawing {visits.VERSION}"


@pytest.mark.slow
def test_visits_of_images_that_were_skipped_are_left_out(museum: Museum, embedder: Embedder, tmp_path: Path) -> None:
    museum.database.file(2).write_bytes(b"no image")
    described = describe(museum, embedder, tmp_path / "work", visits=1, on_error="skip")
    assert described.visits is not None and len(described.database) == 7
    np.testing.assert_array_equal(described.visits.rows, np.arange(7))
    own = (described.visits.descriptors * described.database).sum(axis=1)
    other = (described.visits.descriptors * np.roll(described.database, 1, axis=0)).sum(axis=1)
    assert own.mean() > other.mean()


def test_a_lost_database_image_stops_visits_with_its_name(museum: Museum, embedder: Embedder, tmp_path: Path) -> None:
    describe(museum, embedder, tmp_path / "work")
    museum.database.file(5).unlink()
    with pytest.raises(OSError, match=museum.database.file(5).name):
        describe(museum, embedder, tmp_path / "work", visits=1)


def test_a_visit_without_a_disturbance_is_otherwise_the_same_and_has_its_own_name(tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).integers(256, size=(40, 30, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(tmp_path / "a.png")
    whole, lacking = (extract.Visitor(0, names) for names in ((), ("jpeg",)))
    assert lacking.name == f"{whole.name}, without jpeg"
    one, other = whole(tmp_path / "a.png"), lacking(tmp_path / "a.png")
    assert one.shape == other.shape and 0 < np.abs(one.astype(int) - other).mean() < 40
    assert np.array_equal(one, extract.Visitor(0)(tmp_path / "a.png"))
