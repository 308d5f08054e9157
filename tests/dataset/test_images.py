"""Images are decoded upright as RGB, and what can't be decoded is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metlib import dataset
from metlib.dataset import Problem
from tests.dataset.test_layout import write


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = (255, 0, 0)  # stored: red on the left, lying on its side
    for orientation, size, red_at in (
        (1, (40, 20), (5, 10)),
        (6, (20, 40), (10, 5)),
        (3, (40, 20), (35, 10)),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        image = dataset.read_image(tmp_path / "a.png")
        assert (image.size, image.mode) == (size, "RGB")
        assert image.getpixel(red_at) == (255, 0, 0)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("L", "jpg"), ("1", "png"), ("LA", "png"), ("P", "png")])
@pytest.mark.parametrize("grey", [0, 255])
def test_grey_pictures_become_rgb(tmp_path: Path, mode: str, suffix: str, grey: int) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("L", (8, 6), grey).convert(mode).save(path)
    image = dataset.read_image(path)
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (8, 6), (grey, grey, grey))


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("P", "gif")])
def test_colours_survive_other_modes(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (8, 6), (200, 40, 90)).convert(mode).save(path)
    image = dataset.read_image(path)
    assert image.mode == "RGB"
    np.testing.assert_allclose(image.getpixel((3, 3)), (200, 40, 90), atol=40)  # the web palette is coarse


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(dataset.read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 128, 255]


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "truncated": content[: len(content) // 2], "undecodable": b"no picture" * 9}[how]
        )


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "undecodable"])
def test_reading_a_damaged_image_raises_its_path(tmp_path: Path, how: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((64, 48), 60).save(path)
    damage(path, how)
    with pytest.raises(OSError, match=r"a\.(jpg|png)") as caught:
        dataset.read_image(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError) == (how == "missing")


def test_verify_names_every_image_that_cannot_be_used(tmp_path: Path) -> None:
    museum = dataset.load(write(tmp_path, images=True))
    expected = []
    for split, i, how in (
        (museum.database, 1, "missing"),
        (museum.database, 2, "truncated"),
        (museum.val, 0, "empty"),
        (museum.test, 2, "undecodable"),
    ):
        damage(split.file(i), how)
        expected.append(Problem(split.file(i), how))
    assert dataset.verify(museum) == expected


def test_verify_survives_names_that_no_disk_can_hold(tmp_path: Path) -> None:
    rows = [{"id": 1, "path": "a" * 300 + ".jpg"}]
    museum = dataset.load(write(tmp_path, MET_database=rows, images=True))
    assert [problem.reason for problem in dataset.verify(museum)] == ["missing"]


def test_a_header_alone_is_truncated_whatever_pillow_calls_it(tmp_path: Path) -> None:
    museum = dataset.load(write(tmp_path, images=True))
    path = museum.val.file(0)
    path.write_bytes(path.read_bytes()[:13])
    assert [problem.reason for problem in dataset.verify(museum)] == ["truncated"]
