"""Photographs: every school and every scene can be drawn, and any picture can be hung and photographed."""

from __future__ import annotations

import numpy as np
import pytest

from metlib.synthetic.photographs import NOT_ART, SCHOOLS, Exhibit, query, studio


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


def test_every_scene_without_art_paints() -> None:
    for name, paint in NOT_ART.items():
        assert paint(np.random.default_rng(1), 96, 72).shape == (72, 96, 3), name
