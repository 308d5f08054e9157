"""The cache of decoded images: the same pixels as decoding, whole or not at all, mapped and never copied."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metlib import dataset, extract
from metlib.backbone import Embedder
from metlib.common import files
from metlib.dataset import Split
from metlib.labelled import Labelled, cache
from metlib.labelled.cache import build, fit_area
from metlib.train.views import Views


@pytest.fixture
def split(paintings: Labelled) -> Split:
    return paintings.images


def test_pixels_are_those_of_decoding_and_resizing(split: Split, tmp_path: Path) -> None:
    cached = build(split, tmp_path, 64)
    assert len(cached) == len(split)
    for i in (0, 1, 44, 89):
        image = dataset.read_image(split.file(i))
        size = fit_area(*image.size, 64)
        expected = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(cached(split.file(i)), expected)


@pytest.mark.parametrize(
    ("width", "height", "side", "expected"),
    [(64, 64, 64, (64, 64)), (500, 250, 128, (192, 96)), (10, 1000, 64, (32, 640)), (33, 32, 32, (32, 32))],
)
def test_images_keep_their_proportions_at_one_area(
    width: int, height: int, side: int, expected: tuple[int, int]
) -> None:
    assert fit_area(width, height, side) == expected


def test_the_second_time_no_file_is_decoded(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(split, tmp_path, 32)
    monkeypatch.setattr(dataset, "read_image", lambda path: pytest.fail(f"decoded {path} again"))
    again = build(split, tmp_path, 32)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    views = Views(split, np.arange(6)[:, None], size=32, crop=0.7, seed=0, epoch=2, reader=again)
    assert views[5].shape == (1, 3, 32, 32)


def test_memory_is_mapped_and_a_worker_is_sent_no_pixels(split: Split, tmp_path: Path) -> None:
    cached = build(split, tmp_path, 64)
    assert isinstance(cached.pixels, np.memmap) and not cached.pixels.flags.writeable
    sent = pickle.dumps(cached)
    assert len(sent) < cached.pixels.size / 20
    np.testing.assert_array_equal(pickle.loads(sent)(split.file(3)), cached(split.file(3)))


def test_a_changed_image_is_decoded_again_and_other_sizes_lie_apart(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((32, 32, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    split = Split(np.array([f"{i}.png" for i in range(3)]), np.arange(3), tmp_path)
    before = build(split, tmp_path / "work", 32)
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.png")
    after = build(split, tmp_path / "work", 32)
    np.testing.assert_array_equal(after(tmp_path / "1.png"), noise)
    assert (before(tmp_path / "1.png") == 40).all()
    assert build(split, tmp_path / "work", 64)(tmp_path / "1.png").shape == (64, 64, 3)


def test_a_run_that_was_killed_leaves_nothing_that_is_taken_for_whole(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cache.replacing

    def killed(path: Path, mode: str = "wb"):  # type: ignore[no-untyped-def]
        if Path(path).name == "places.npy":
            raise KeyboardInterrupt
        return real(path, mode)

    monkeypatch.setattr(cache, "replacing", killed)
    with pytest.raises(KeyboardInterrupt):
        build(split, tmp_path, 32)
    monkeypatch.setattr(cache, "replacing", files.replacing)
    assert len(build(split, tmp_path, 32)) == len(split)


def test_bad_input_is_named(split: Split, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="side must be an integer of at least 32, got 16"):
        build(split, tmp_path, 16)
    with pytest.raises(ValueError, match="no images"):
        build(split.take([]), tmp_path, 32)
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(OSError, match=r"torn\.jpg.*Replace it"):
        build(Split(np.array(["torn.jpg"]), np.array([0]), tmp_path), tmp_path / "work", 32)
    folder = build(split, tmp_path, 32).folder
    (folder / "pixels.bin").write_bytes(b"12")
    with pytest.raises(ValueError, match=r"is damaged .* delete it to decode again"):
        build(split, tmp_path, 32)


@pytest.mark.slow
def test_extraction_reads_the_cache_and_its_recipe_says_so(
    split: Split, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = build(split, tmp_path, 64)
    some = split.take(np.arange(5))
    plain = extract.extract(some, embedder, tmp_path / "plain", scales=(1,), device="cpu")
    with pytest.raises(ValueError, match="its pixels is None, yours 'area of 64 x 64"):
        extract.extract(some, embedder, tmp_path / "plain", scales=(1,), device="cpu", reader=cached)
    monkeypatch.setattr(extract, "read_pixels", lambda path: pytest.fail(f"decoded {path}"))
    out = extract.extract(some, embedder, tmp_path / "cached", scales=(1,), device="cpu", reader=cached)
    assert extract.load_recipe(out)["pixels"] == cached.name
    rows = extract.load_descriptors(out)
    network, plainly = extract.prepare(embedder, "cpu"), {"precision": "float32", "batch_size": None}
    for i in range(5):
        file = split.file(i)
        alone = extract.embed_images(network, [cached(file)], [file], "cpu", (1,), on_error="raise", **plainly)
        np.testing.assert_allclose(rows[i], alone[0], atol=1e-5)
    assert np.abs(rows - extract.load_descriptors(plain)).max() > 1e-3
    older = replace(cached, side=32)
    assert older.name != cached.name


def test_images_of_one_name_and_size_in_two_places_are_two(tmp_path: Path) -> None:
    for name, grey in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((40, 40, 3), grey, np.uint8)).save(tmp_path / name / "1.tif")
    splits = [Split(np.array(["1.tif"]), np.array([0]), tmp_path / name) for name in ("a", "b")]
    assert splits[0].file(0).stat().st_size == splits[1].file(0).stat().st_size
    first, second = (build(split, tmp_path / "work", 32) for split in splits)
    assert (first(splits[0].file(0)) == 10).all() and (second(splits[1].file(0)) == 200).all()
    assert first.name != second.name  # so descriptors and runs made of them lie apart
    again = build(splits[0], tmp_path / "elsewhere", 32)
    assert again.name == first.name


def test_an_image_that_cannot_be_read_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    split = Split(np.array(["torn.jpg"]), np.array([0]), tmp_path)
    with pytest.raises(OSError, match=r"torn\.jpg.*\(style_train\.csv:7\)"):
        build(split, tmp_path / "work", 32, sources=["style_train.csv:7"])
