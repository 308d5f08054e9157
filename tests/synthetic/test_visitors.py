"""Photographs by visitors: any picture can be hung and photographed, whatever its shape; so can every other scene."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from metlib.synthetic.visitors import NOT_ART, gallery, hang, visit


@pytest.mark.parametrize("size", [(300, 40), (40, 300), (90, 100), (5, 5)])
def test_any_picture_hangs_and_is_photographed(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(pixels)
    for seed in range(8):  # with and without a frame
        rng = np.random.default_rng(seed)
        wall = gallery(rng, 130, 100)
        bare = wall.copy()
        hang(rng, wall, picture)
        assert wall.shape == bare.shape and np.isfinite(wall).all() and not np.array_equal(wall, bare)
        photo = visit(rng, wall, 96, 72)
        assert photo.size == (96, 72) and photo.mode == "RGB" and np.asarray(photo).std() > 2
    assert np.array_equal(np.asarray(picture), pixels)


def test_every_scene_without_art_paints() -> None:
    for name, paint in NOT_ART.items():
        assert paint(np.random.default_rng(1), 96, 72).shape == (72, 96, 3), name
