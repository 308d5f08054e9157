"""Views: what is cropped, and that they hang on their key alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from metlib.dataset import Museum, Split, read_image
from metlib.train.views import Views, build_transform
from metlib.visits import simulate


def ramp(side: int = 200) -> Image.Image:
    """An image whose red is the column and whose green is the row, both 0 to 255; blue is nothing."""
    line = np.linspace(0, 255, side)
    columns, rows = np.meshgrid(line, line)
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).round().astype(np.uint8))


def test_a_crop_has_70_to_100_percent_of_the_area_and_is_not_flipped() -> None:
    crop, areas = build_transform(48).transforms[0], []
    torch.manual_seed(0)  # else the draws depend on which tests ran before
    for _ in range(60):
        pixels = np.asarray(crop(ramp()), dtype=float)
        assert pixels.shape == (48, 48, 3)
        width, height = (np.ptp(pixels[..., channel]) / 255 for channel in (0, 1))
        areas.append(width * height)
        assert (np.diff(pixels[0, :, 0]) >= 0).all() and (np.diff(pixels[:, 0, 1]) >= 0).all()
    assert 0.66 <= min(areas) < 0.8 and 0.9 < max(areas) <= 1


@pytest.mark.slow
def test_a_fifth_turns_grey_and_a_fifth_of_the_others_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (200, 100, 50)).save(tmp_path / "one.png")
    split = Split(np.array(["one.png"]), np.array([0]), tmp_path)
    views = Views(split, np.zeros((400, 1), np.int64), size=32, crop=0.7, seed=0, epoch=1)
    centres = np.array([views[i][0, :, 16, 16].numpy() for i in range(400)])
    grey = (np.ptp(centres, axis=1) == 0).mean()
    as_it_is = (centres == (200, 100, 50)).all(axis=1).mean()
    assert 0.14 < grey < 0.26 and 0.10 < as_it_is < 0.23  # 0.2, and 0.2 * 0.8
    assert len(np.unique(centres, axis=0)) > 200


def test_a_view_depends_on_seed_epoch_item_and_place_alone(museum: Museum) -> None:
    images = np.array([[3, 3], [3, 3], [5, 3]])
    make = lambda seed=0, epoch=1: Views(museum.database, images, size=32, crop=0.7, seed=seed, epoch=epoch)  # noqa: E731
    views = make()
    first = views[0]
    assert first.shape == (2, 3, 32, 32) and first.dtype == torch.uint8
    _ = views[2], views[1]
    assert torch.equal(views[0], first) and torch.equal(make()[0], first)
    others = (first[1], views[1][0], make(seed=1)[0][0], make(epoch=2)[0][0])
    assert not any(torch.equal(first[0], other) for other in others)


def test_a_visit_is_simulated_anew_each_epoch_and_the_views_beside_it_stay(museum: Museum) -> None:
    images, marks = np.array([[3, 3], [5, 4]]), np.array([[False, True], [False, False]])
    options: dict[str, Any] = {"seed": 7, "size": 40, "crop": 1.0, "colour": False}
    plain = Views(museum.database, images, epoch=1, **options)
    views, later = (Views(museum.database, images, epoch=epoch, visited=marks, **options) for epoch in (1, 2))
    assert torch.equal(views[0][0], plain[0][0]) and torch.equal(views[1], plain[1])
    key = np.random.SeedSequence([7, 1, 0, 1])  # seed, epoch, item, place
    visit = simulate(read_image(museum.database.file(3)), np.random.default_rng(key), size=40)
    torch.manual_seed(int(key.generate_state(1)[0]))
    assert torch.equal(views[0][1], build_transform(40, 1.0, colour=False)(visit))
    assert not torch.equal(later[0][1], views[0][1])


@pytest.mark.slow
def test_workers_see_the_same_pixels_and_torchs_generator_stays(museum: Museum) -> None:
    views = Views(museum.database, np.arange(6)[:, None], size=48, crop=0.7, seed=0, epoch=1)
    before = torch.random.get_rng_state()
    here = torch.stack([views[i] for i in range(6)])
    assert torch.equal(torch.random.get_rng_state(), before)
    there = torch.cat(list(DataLoader(views, batch_size=2, num_workers=2)))
    assert torch.equal(here, there)
