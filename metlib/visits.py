"""Visits that never were: a visitor's photograph of an exhibit, simulated from the museum's own photograph of it."""

import io
from collections.abc import Collection

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import gaussian_filter

from metlib.common.checks import check_integer
from metlib.common.drawing import Array, edge, grid, mix, noise, pick_colour, pigment, to_array, to_image

FORMATS = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0))  # sides of a visitor's photograph: square, wide, tall
DISTURBANCES = ("wall", "perspective", "light", "cast", "glare", "shoulder", "blur", "noise", "jpeg")
"""What stands between the two photographs: all that `simulate` can leave out."""

VERSION = 1  # raise it when the same photo and seed give another picture: descriptors of visits are then made anew
LEAST, MOST = 8, 1024  # pixels of the photo's shorter side; of the visit's longer side where none is given


def simulate(
    photo: Image.Image, rng: Generator, *, size: int | None = None, without: Collection[str] = ()
) -> Image.Image:
    """Simulate a visitor's photograph of an exhibit from any photo of it: hung on a wall, and taken by hand.

    Wall, frame, perspective and tilt, light, colour cast, glare, somebody's shoulder, blur, noise and JPEG are drawn by
    `rng`: the same photo and seed give the same picture. A photo with transparency hangs as a cut-out. The longer side
    has `size` pixels, by default the photo's, at most 1,024. `without` names disturbances to leave out, of
    DISTURBANCES; all others are drawn as they would be with them.
    Returns an RGB image. Raises ValueError for a photo below 8 x 8 pixels, and for other disturbances.

    >>> visit = simulate(Image.new("RGB", (90, 120), "navy"), np.random.default_rng(0))
    >>> visit.mode, max(visit.size)
    ('RGB', 120)
    """
    if min(photo.size) < LEAST:
        raise ValueError(f"the photo has {photo.width} x {photo.height} pixels, expected {LEAST} x {LEAST} at least")
    if unknown := set(without) - set(DISTURBANCES):
        raise ValueError(f"without {min(unknown)!r}: expected some of {', '.join(DISTURBANCES)}")
    size = min(max(photo.size), MOST) if size is None else size
    check_integer("size", size, LEAST)
    picture = photo.convert("RGBA" if photo.has_transparency_data else "RGB")
    fit = size / max(photo.size)
    picture = picture.resize((max(round(photo.width * fit), 1), max(round(photo.height * fit), 1)))
    fitting = int(np.sign(photo.width - photo.height)) % 3  # visitors turn their phones to suit the picture, mostly
    w, h = (round(side * size) for side in FORMATS[fitting if rng.random() < 0.8 else int(rng.integers(3))])
    wide = 1.15 if photo.width >= photo.height else 1.0
    wall = gallery(rng, round(1.25 * size * wide), round(1.25 * size * (2.15 - wide)))
    if "wall" in without:
        wall[:] = 0.5
    hang(rng, wall, picture, framed="wall" not in without)
    taken = visit(rng, wall, w, h, without)
    quality = int(rng.integers(40, 93))
    if "jpeg" in without:
        return taken
    file = io.BytesIO()
    taken.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def gallery(rng: Generator, w: int, h: int) -> Array:
    """Draw an empty gallery (h, w, 3): a wall, a skirting board, a floor."""
    x, y, a = grid(w, h)
    wall = pick_colour(rng, "e8e4da d8d2c4 8a9099 c4b8a2 f1efea c9cfd2 dcdad6 7a4442 4d5a52 44536a")
    wall = wall * (0.9 + 0.12 * noise(rng, (h, w), 2, 2))[..., None]
    wall = wall * (1.12 - 0.5 * np.hypot(x - rng.uniform(0, a), y - rng.uniform(-0.3, 0.6)) ** 2)[..., None]
    skirting, floor = rng.uniform(0.86, 1.3), pick_colour(rng, "8a5f3c a98a64 4a3426 77736d b5aea2")
    rgb = mix(wall, floor * (0.75 + 0.35 * noise(rng, (h, w), (30, 3), 3))[..., None], edge(y - skirting))
    return mix(rgb, pigment(0.85, 0.83, 0.8) * 0.8, edge(0.02 - np.abs(y - skirting + 0.02)))


def hang(rng: Generator, wall: Array, picture: Image.Image, framed: bool = True) -> None:
    """Hang a picture on a wall (H, W, 3), in place: on at most 80 % of its sides, with or without a frame.

    A cut-out (RGBA) has no frame, and a shadow of its own shape.
    """
    H, W = wall.shape[:2]
    picture = picture.copy()
    picture.thumbnail((int(W * 0.80), int(H * 0.80)))
    w, h = picture.size
    cut_out = picture.mode == "RGBA"
    frame = int(w * rng.choice([0.0, 0.03, 0.06, 0.09])) * (framed and not cut_out)
    top, left = int((H - h) * rng.uniform(0.35, 0.5)), (W - w) // 2
    drop = max(2, frame // 2)
    rows, columns = (slice(max(0, k - frame + drop), k + n + frame + drop) for k, n in ((top, h), (left, w)))
    shadow = np.zeros((H, W), np.float32)
    if cut_out:
        shadow[top : top + h, left : left + w] = to_array(picture.getchannel("A"))
        shadow = np.roll(shadow, (drop, drop), (0, 1))
    else:
        shadow[rows, columns] = 1
    wall *= (1 - 0.55 * gaussian_filter(shadow, max(2, H / 50)))[..., None]
    if frame > 2:
        wood = pick_colour(rng, "b98d3a d6b25e 3a2416 1d1a18 e9e3d5 7a4a25")
        fh, fw = h + 2 * frame, w + 2 * frame
        y, x = np.mgrid[0:fh, 0:fw]
        dy, dx = np.minimum(y, fh - 1 - y), np.minimum(x, fw - 1 - x)
        light = np.where(dy < dx, np.where(y < fh / 2, 1.25, 0.75), np.where(x < fw / 2, 1.1, 0.8))
        depth = np.clip(np.minimum(dy, dx) / frame, 0, 1)
        profile = 0.55 + 0.45 * np.sin(depth * np.pi * rng.choice([1, 1.5, 2.5])) ** 2
        gilt = wood * (profile * light)[..., None] * (0.9 + 0.2 * noise(rng, (fh, fw), 20, 2))[..., None]
        around = np.pad(wall, ((frame, frame), (frame, frame), (0, 0)))  # a frame may reach past the wall
        around[top : top + fh, left : left + fw] = gilt
        wall[:] = around[frame:-frame, frame:-frame]
    rgb = to_array(picture)
    place = wall[top : top + h, left : left + w]
    place[:] = mix(place, rgb[..., :3], rgb[..., 3]) if cut_out else rgb


def visit(rng: Generator, view: Array, w: int, h: int, without: Collection[str] = ()) -> Image.Image:
    """Photograph a scene (H, W, 3) by hand, in w by h pixels: askew, in bad light, blurred or from behind others.

    Disturbances named in `without` are drawn, so that all others stay as they are, but not applied.
    """
    H, W = view.shape[:2]
    reach = np.array([min(W, H * w / h), min(H, W * h / w)]) * rng.uniform(0.74, 0.94) / 2
    centre = np.array([W, H]) / 2 + rng.normal(0, 0.035, 2) * (W, H)
    straight = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * reach
    tilt = rng.normal(0, 0.035)
    corners = straight @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    corners = corners * (1 + rng.uniform(-0.08, 0.08, (4, 1))) + centre
    if "perspective" in without:
        corners = straight + np.array([W, H]) / 2
    quad = np.clip(corners, [0, 0], [W - 1, H - 1]).ravel().tolist()
    rgb = to_array(to_image(view).transform((w, h), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC))
    x, y, a = grid(w, h)
    way = rng.uniform(0, 2 * np.pi)
    gradient = 1 + rng.uniform(0.05, 0.3) * ((x / a - 0.5) * np.cos(way) + (y - 0.5) * np.sin(way))
    vignette = 1 - rng.uniform(0.05, 0.35) * ((x / a - 0.5) ** 2 + (y - 0.5) ** 2)
    warmth = rng.normal(0, 0.03)
    cast = pigment(1 + warmth, 1 + rng.normal(0, 0.015), 1 - warmth)
    gamma, exposure = rng.uniform(0.9, 1.15), rng.uniform(0.85, 1.08)
    rgb = np.clip(rgb, 0, 1)
    if "light" not in without:
        rgb = rgb**gamma
    if "cast" not in without:
        rgb = rgb * cast
    if "light" not in without:
        rgb = rgb * exposure * (gradient * vignette)[..., None]
    if rng.random() < 0.35:
        gx, gy, lean = rng.uniform(0, a), rng.uniform(0, 0.7), rng.normal(0, 0.5)
        u, v = (x - gx) * np.cos(lean) + (y - gy) * np.sin(lean), (y - gy) * np.cos(lean) - (x - gx) * np.sin(lean)
        glare = np.exp(-((u / rng.uniform(0.04, 0.25)) ** 2) - (v / rng.uniform(0.03, 0.12)) ** 2)
        shone = 1 - (1 - rgb) * (1 - rng.uniform(0.35, 0.9) * glare)[..., None]
        rgb = rgb if "glare" in without else shone
    if rng.random() < 0.22:  # somebody's head and shoulders
        side, s = rng.choice([-1, 1]), rng.uniform(0.13, 0.2)
        cx, top = a / 2 + side * a * rng.uniform(0.25, 0.5), rng.uniform(0.62, 0.85)
        head = edge(1 - np.hypot((x - cx) / s, (y - top - 1.2 * s) / (1.2 * s)), 0.25)
        body = edge(1 - np.hypot((x - cx) / (2.3 * s), (y - top - 4.2 * s) / (2.2 * s)), 0.2)
        body = np.maximum(body, edge(0.5 * s - np.abs(x - cx), 0.03) * (y > top + 1.2 * s))
        coat, hair = pick_colour(rng, "1c1d22 3a2a22 4a5568 6b2f2f"), pick_colour(rng, "1d1512 3a2718 7a5a36 9b9894")
        rim = 0.75 + 0.5 * edge((y - top) * -1 + 0.25 * s, 0.5 * s)
        hidden = mix(mix(rgb, coat * rim[..., None], body), hair * rim[..., None], head)
        rgb = rgb if "shoulder" in without else hidden
    blurring = rng.choice([0, 0.4, 0.8, 1.3], p=[0.4, 0.3, 0.2, 0.1]) * h / 320
    if blurring:
        blurred = gaussian_filter(rgb, (blurring * rng.uniform(0.6, 1.6), blurring, 0))
        rgb = rgb if "blur" in without else blurred
    return to_image(rgb if "noise" in without else rgb + rng.normal(0, rng.uniform(0.0, 0.02), (h, w, 1)))
