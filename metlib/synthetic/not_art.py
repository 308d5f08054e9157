"""What visitors photograph that is no art: other photographs, galleries, skies, floors, signs, plants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image

from metlib.synthetic.choices import noise
from metlib.synthetic.drawing import Sheet, edge, grid
from metlib.synthetic.palettes import Array, colours, mix, pick_colour, pigment, ramp, to_array
from metlib.synthetic.visitors import gallery


def crop_of_photo(rng: Generator, w: int, h: int) -> Array:
    """Cut from one of scikit-learn's two sample photographs, at times mirrored and in other colours."""
    from sklearn.datasets import load_sample_images

    photo = Image.fromarray(load_sample_images().images[int(rng.integers(2))])
    wide = int(rng.uniform(0.25, 0.8) * photo.width)
    tall = min(photo.height, wide * h // w)
    left, top = int(rng.integers(0, photo.width - wide + 1)), int(rng.integers(0, photo.height - tall + 1))
    rgb = to_array(photo.resize((w, h), Image.Resampling.BICUBIC, (left, top, left + wide, top + tall)))
    rgb = rgb[:, :: rng.choice([-1, 1])]
    if rng.random() < 0.5:
        rgb = rgb[..., rng.permutation(3)]
    return rgb ** rng.uniform(0.6, 1.5) * rng.uniform(0.8, 1.15, 3).astype(np.float32)


def empty_gallery(rng: Generator, w: int, h: int) -> Array:
    rgb = gallery(rng, w, h)
    skirting = 0.72 + 0.1 * rng.random()
    floor = pick_colour(rng, "8a5f3c a98a64 4a3426 77736d")
    x, y, a = grid(w, h)
    depth = np.clip(y - skirting, 1e-3, 1)
    lines = 0.85 + 0.15 * np.sin((x - a / 2) / (depth + 0.06) * 14) * np.sin(3 / (depth + 0.05))
    sheet = Sheet(mix(rgb, floor * lines[..., None], edge(y - skirting)))
    door = rng.uniform(0.1, 0.7) * a
    sheet.rectangle((door, 0.2, door + 0.25, skirting), (0.12, 0.11, 0.11), 0.9)
    bench = rng.uniform(0.2, 0.6) * a
    sheet.shape([(bench, 0.84), (bench + 0.4, 0.84), (bench + 0.44, 0.89), (bench - 0.04, 0.89)], (0.2, 0.13, 0.09))
    for leg in (0.02, 0.36):
        sheet.line([(bench + leg, 0.88), (bench + leg, 0.97)], (0.1, 0.1, 0.1), 0.02)
    for k in range(4):
        sheet.disc((k + 0.5) / 4 * a, 0.06, 0.03, (1, 0.97, 0.88), 1, 0.012)
    return sheet.rgb()


def open_sky(rng: Generator, w: int, h: int) -> Array:
    x, y, _ = grid(w, h)
    high, low = colours("2f6fb5 a9cdea 24344d e8a36a 6f86a0 d5dbe0").reshape(3, 2, 3)[int(rng.integers(3))]
    clouds = noise(rng, (h, w), (5, 3), 6)
    white = pigment(1, 0.98, 0.95) * (0.7 + 0.3 * clouds[..., None])
    rgb = mix(ramp([high, low], y + 0 * x), white, (clouds - 0.45) * 4)
    roofs = 0.75 + 0.2 * rng.random() - 0.15 * np.repeat(rng.random(12), -(-w // 12))[:w]
    return mix(rgb, pigment(0.18, 0.17, 0.18), edge(y - roofs)) if rng.random() < 0.5 else rgb


def tiled_floor(rng: Generator, w: int, h: int) -> Array:
    x, y, a = grid(w, h)
    lean, n = rng.uniform(0.2, 1.2), rng.uniform(3, 8)
    depth = 1 / (0.15 + lean * y + 0.3)
    u, v = (x - a / 2) * depth * n, depth * n * 1.5
    two = colours("d9d2c3 5a4a3e b8bcc0 35383d 9c5b3c e0c49a").reshape(3, 2, 3)[int(rng.integers(3))]
    check = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    grout = np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) < 0.03
    rgb = mix(two[0], two[1], check) * (0.8 + 0.3 * noise(rng, (h, w), 6, 4) - 0.3 * grout)[..., None]
    return rgb * (1.1 - 0.3 * y)[..., None]


def sign(rng: Generator, w: int, h: int) -> Array:
    sheet, a = Sheet(gallery(rng, w, h)), w / h
    board, ink = colours("f5f3ee 1d1d1f 204a87 f5f3ee 8c1c13 f7e9c8").reshape(3, 2, 3)[int(rng.integers(3))]
    x, y, bw, bh = 0.12 * a, rng.uniform(0.1, 0.25), 0.76 * a, rng.uniform(0.45, 0.65)
    sheet.rectangle((x, y, x + bw, y + bh), board)
    for k in range(int(rng.integers(4, 10))):
        tall, at = (0.03 if k else 0.06), x + 0.06 * a
        level = y + 0.08 + 0.052 * k + (0.03 if k else 0)
        while at < x + bw - 0.12 * a and level < y + bh - 0.03:
            word = rng.uniform(0.02, 0.12) * a
            sheet.line([(at, level), (at + word, level)], ink, tall * 0.6)
            at += word + 0.022
    if rng.random() < 0.6:
        arrow = [(-1, -0.3), (0.2, -0.3), (0.2, -0.8), (1.2, 0), (0.2, 0.8), (0.2, 0.3), (-1, 0.3)]
        way = rng.choice([0, np.pi / 2, np.pi])
        sheet.placed((x + bw - 0.15, y + bh - 0.1), way, 0.07).shape(arrow, ink)
    return sheet.rgb()


def greenery(rng: Generator, w: int, h: int) -> Array:
    p = colours("16240f 2f4d1e 5a7d33 c2b23a 9dbb62 dfe9c0")
    sheet = Sheet(ramp(p[:3], noise(rng, (h, w), 5, 4)))
    blade = [(0, 0), (0.3, -0.12), (1, 0), (0.3, 0.12)]
    for x, y, shade, angle, size in rng.random((220, 5)):
        leaf = sheet.placed((x * w / h, y), angle * 6.3, 0.05 + 0.12 * size)
        leaf.shape(blade, ramp([p[1], p[2], p[4]], np.float32(shade)))
    return sheet.rgb()


NOT_ART: dict[str, Callable[[Generator, int, int], Array]] = {
    "Photographs": crop_of_photo, "Galleries": empty_gallery, "Skies": open_sky,
    "Floors": tiled_floor, "Signs": sign, "Plants": greenery,
}  # fmt: skip
