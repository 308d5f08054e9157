"""Photographs: every school and every scene can be drawn, and any picture can be hung and photographed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from metlib.synthetic.photographs import NOT_ART, SCHOOLS, Exhibit, gallery, hang, query, studio, visit


@pytest.mark.slow
def test_every_school_paints() -> None:
    for kind, schools in SCHOOLS.items():
        for k, school in enumerate(schools):
            exhibit = Exhibit(k, kind, school, "lapis", "", "", k, (0, 1, k), (0, 2, k))
            w, h = exhibit.shape(96)
            for picture in (studio(exhibit, 0, 96), studio(exhibit, 2, 96)):
                assert picture.shape == (h, w, 3) and np.isfinite(picture).all(), school
            photo = query(np.random.default_rng(k), exhibit, 96)
            assert max(photo.size) == 96 and np.asarray(photo).std() > 2, school


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
