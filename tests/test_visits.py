"""Visits: any picture is hung and photographed, the same by the same seed, with or without each disturbance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image

from metlib import visits
from metlib.visits import DISTURBANCES, gallery, hang, simulate, visit


def photo(width: int = 90, height: int = 120, seed: int = 0) -> Image.Image:
    coarse = default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)


@pytest.mark.parametrize("size", [(300, 40), (40, 300), (90, 100), (8, 8), (9, 300)])
def test_any_size_is_photographed(size: tuple[int, int]) -> None:
    taken = simulate(photo(*size), default_rng(1))
    assert taken.mode == "RGB" and max(taken.size) == max(size) and np.asarray(taken).std() > 2
    assert max(simulate(photo(*size), default_rng(1), size=64).size) == 64


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_any_mode_is_photographed(mode: str) -> None:
    assert (
        simulate(photo().convert(mode) if mode != "I;16" else Image.new(mode, (90, 120), 999), default_rng(0)).mode
        == "RGB"
    )


@pytest.mark.slow
def test_a_large_photo_gives_a_visit_of_at_most_1024_pixels() -> None:
    assert max(simulate(Image.new("RGB", (2000, 1500), "navy"), default_rng(0)).size) == visits.MOST == 1024


def test_the_seed_and_the_photo_decide() -> None:
    one, same, other = (np.asarray(simulate(photo(), default_rng(seed))) for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not (one.shape == other.shape and np.array_equal(one, other))
    before = photo()
    kept = np.asarray(before).copy()
    simulate(before, default_rng(0))
    assert np.array_equal(np.asarray(before), kept)


def test_a_visit_shows_the_photo_somewhere() -> None:
    for seed in range(6):
        red = np.asarray(simulate(Image.new("RGB", (120, 90), (230, 10, 10)), default_rng(seed)), float)
        share = ((red[..., 0] > 110) & (red[..., 1:].max(axis=2) < 0.6 * red[..., 0])).mean()
        assert 0.25 < share < 0.98, "the picture fills most of the view, but the wall is seen"


def test_without_every_disturbance_the_colours_are_those_of_the_photo() -> None:
    plain = np.asarray(simulate(photo(120, 120), default_rng(0), without=DISTURBANCES), float)
    own = np.unique(np.asarray(photo(120, 120), float).reshape(-1, 3), axis=0)
    known = np.vstack([own, [[128] * 3]])  # and the grey in place of a wall; its shadow is left
    far = np.linalg.norm(plain.reshape(-1, 1, 3) - known, axis=2).min(axis=1)
    assert np.median(far) < 2 and (far < 12).mean() > 0.7
    disturbed = np.asarray(simulate(photo(120, 120), default_rng(0)), float)
    assert np.median(np.linalg.norm(disturbed.reshape(-1, 1, 3) - known, axis=2).min(axis=1)) > 5


@pytest.mark.parametrize("name", DISTURBANCES)
def test_leaving_one_out_changes_only_what_it_does(name: str) -> None:
    """Over some seeds it changes pictures; what is left out may not have been drawn in one of them."""
    changed = 0
    for seed in range(8):
        whole, without = (simulate(photo(), default_rng(seed), without=names) for names in ((), (name,)))
        assert whole.size == without.size, "other draws stay as they are"
        changed += not np.array_equal(np.asarray(whole), np.asarray(without))
    assert changed >= (1 if name in ("glare", "shoulder") else 4)


def test_a_cut_out_hangs_without_a_frame_and_the_wall_shows_around_it() -> None:
    cut = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    cut.paste((200, 20, 20, 255), (30, 30, 70, 70))
    wall = gallery(default_rng(0), 140, 140)
    bare = wall.copy()
    hang(default_rng(0), wall, cut)
    red = (wall[..., 0] > 0.7) & (wall[..., 1] < 0.2)
    assert 0.9 < red.sum() / 40**2 < 1.1
    assert np.array_equal(wall[:15], bare[:15])  # no frame, no shadow of the empty part


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"without": ("rain",)}, (90, 90), "without 'rain': expected some of wall, perspective"),
        ({}, (7, 90), "the photo has 7 x 90 pixels, expected 8 x 8 at least"),
        ({"size": 7}, (90, 90), "size must be an integer of at least 8, got 7"),
    ],
)
def test_what_cannot_be_photographed_is_refused(options: dict, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(Image.new("RGB", size), default_rng(0), **options)


@pytest.mark.parametrize("size", [(300, 40), (40, 300), (90, 100), (5, 5)])
def test_any_picture_hangs_and_is_photographed(size: tuple[int, int]) -> None:
    pixels = default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(pixels)
    for seed in range(8):  # with and without a frame
        rng = default_rng(seed)
        wall = gallery(rng, 130, 100)
        bare = wall.copy()
        hang(rng, wall, picture)
        assert wall.shape == bare.shape and np.isfinite(wall).all() and not np.array_equal(wall, bare)
        taken = visit(rng, wall, 96, 72)
        assert taken.size == (96, 72) and taken.mode == "RGB" and np.asarray(taken).std() > 2
    assert np.array_equal(np.asarray(picture), pixels)
