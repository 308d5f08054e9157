"""Photographs by visitors: a gallery's wall, a picture on it, and how a hand-held camera sees the scene."""

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import gaussian_filter

from metlib.synthetic.drawing import Array, Sheet, edge, grid, mix, noise, pick_colour, pigment, to_array, to_image


def gallery(rng: Generator, w: int, h: int) -> Array:
    """Draw an empty gallery (h, w, 3): a wall, a skirting board, a floor."""
    x, y, a = grid(w, h)
    wall = pick_colour(rng, "e8e4da d8d2c4 8a9099 c4b8a2 f1efea c9cfd2 dcdad6 7a4442 4d5a52 44536a")
    wall = wall * (0.9 + 0.12 * noise(rng, (h, w), 2, 2))[..., None]
    wall = wall * (1.12 - 0.5 * np.hypot(x - rng.uniform(0, a), y - rng.uniform(-0.3, 0.6)) ** 2)[..., None]
    skirting = rng.uniform(0.86, 1.3)
    floor = pick_colour(rng, "8a5f3c a98a64 4a3426 77736d b5aea2")
    boards = floor * (0.75 + 0.35 * noise(rng, (h, w), (30, 3), 3))[..., None]
    rgb = mix(wall, boards, edge(y - skirting))
    return mix(rgb, pigment(0.85, 0.83, 0.8) * 0.8, edge(0.02 - np.abs(y - skirting + 0.02)))


def hang(rng: Generator, wall: Array, picture: Image.Image) -> None:
    """Hang a picture on a wall (H, W, 3), in place: on at most 80 % of its sides, with or without a frame."""
    H, W = wall.shape[:2]
    picture = picture.copy()
    picture.thumbnail((int(W * 0.80), int(H * 0.80)))
    w, h = picture.size
    frame = int(w * rng.choice([0.0, 0.03, 0.06, 0.09]))
    top, left = int((H - h) * rng.uniform(0.35, 0.5)), (W - w) // 2
    drop = max(2, frame // 2)
    shadow = np.zeros((H, W), np.float32)
    rows = slice(max(0, top - frame + drop), top + h + frame + drop)
    shadow[rows, max(0, left - frame + drop) : left + w + frame + drop] = 1
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
    wall[top : top + h, left : left + w] = to_array(picture)


def label(sheet: Sheet, rng: Generator, x: float, y: float) -> None:
    """Draw a label with lines of text; x, y: its upper left corner."""
    w, h = 0.18, 0.09
    sheet.rectangle((x, y, x + w, y + h), (0.96, 0.95, 0.92))
    for k in range(4):
        left, level = x + 0.07 * w, y + h * (0.2 + 0.2 * k)
        long = w * (0.85 if k else 0.5) * rng.uniform(0.7, 1)
        sheet.line([(left, level), (left + long, level)], (0.25,) * 3, 0.06 * h)


def visit(rng: Generator, view: Array, w: int, h: int) -> Image.Image:
    """Photograph a scene (H, W, 3) by hand, in w by h pixels: any scene, somewhat larger than the photograph.

    The camera is close, askew and tilted; the light is uneven, too dark or of another colour; at times there is glare,
    another visitor's head and shoulders, blur and noise.
    """
    H, W = view.shape[:2]
    zoom = rng.uniform(0.74, 0.94)
    reach = np.array([min(W, H * w / h), min(H, W * h / w)]) * zoom / 2
    centre = np.array([W, H]) / 2 + rng.normal(0, 0.035, 2) * (W, H)
    corners = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * reach
    tilt = rng.normal(0, 0.035)
    corners = corners @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    corners = corners * (1 + rng.uniform(-0.08, 0.08, (4, 1))) + centre
    quad = np.clip(corners, [0, 0], [W - 1, H - 1]).ravel().tolist()
    rgb = to_array(to_image(view).transform((w, h), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC))
    x, y, a = grid(w, h)
    way = rng.uniform(0, 2 * np.pi)
    gradient = 1 + rng.uniform(0.05, 0.3) * ((x / a - 0.5) * np.cos(way) + (y - 0.5) * np.sin(way))
    vignette = 1 - rng.uniform(0.05, 0.35) * ((x / a - 0.5) ** 2 + (y - 0.5) ** 2)
    warmth = rng.normal(0, 0.03)
    cast = pigment(1 + warmth, 1 + rng.normal(0, 0.015), 1 - warmth)
    rgb = np.clip(rgb, 0, 1) ** rng.uniform(0.9, 1.15) * cast * rng.uniform(0.85, 1.08)
    rgb = rgb * (gradient * vignette)[..., None]
    if rng.random() < 0.35:  # glare
        gx, gy, lean = rng.uniform(0, a), rng.uniform(0, 0.7), rng.normal(0, 0.5)
        u, v = (x - gx) * np.cos(lean) + (y - gy) * np.sin(lean), (y - gy) * np.cos(lean) - (x - gx) * np.sin(lean)
        glare = np.exp(-((u / rng.uniform(0.04, 0.25)) ** 2) - (v / rng.uniform(0.03, 0.12)) ** 2)
        rgb = 1 - (1 - rgb) * (1 - rng.uniform(0.35, 0.9) * glare)[..., None]
    if rng.random() < 0.22:  # somebody's head and shoulders
        side, s = rng.choice([-1, 1]), rng.uniform(0.13, 0.2)
        cx, top = a / 2 + side * a * rng.uniform(0.25, 0.5), rng.uniform(0.62, 0.85)
        head = edge(1 - np.hypot((x - cx) / s, (y - top - 1.2 * s) / (1.2 * s)), 0.25)
        body = edge(1 - np.hypot((x - cx) / (2.3 * s), (y - top - 4.2 * s) / (2.2 * s)), 0.2)
        body = np.maximum(body, edge(0.5 * s - np.abs(x - cx), 0.03) * (y > top + 1.2 * s))
        coat = pick_colour(rng, "1c1d22 3a2a22 4a5568 6b2f2f")
        hair = pick_colour(rng, "1d1512 3a2718 7a5a36 9b9894")
        rim = 0.75 + 0.5 * edge((y - top) * -1 + 0.25 * s, 0.5 * s)
        rgb = mix(mix(rgb, coat * rim[..., None], body), hair * rim[..., None], head)
    blurring = rng.choice([0, 0.4, 0.8, 1.3], p=[0.4, 0.3, 0.2, 0.1]) * h / 320
    if blurring:
        rgb = gaussian_filter(rgb, (blurring * rng.uniform(0.6, 1.6), blurring, 0))
    return to_image(rgb + rng.normal(0, rng.uniform(0.0, 0.02), (h, w, 1)))
