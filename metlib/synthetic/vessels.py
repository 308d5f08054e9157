"""Vessels: a profile turned around its axis, and four kinds of glaze to go around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from metlib.synthetic.choices import Choices
from metlib.synthetic.drawing import Sheet, bell, black, edge, grid, relief, smoothed
from metlib.synthetic.palettes import Array, mix, pigment, ramp

# Radii from lip to foot, in heights.
SHAPES = {
    "bottle": (0.13, 0.10, 0.09, 0.10, 0.16, 0.30, 0.37, 0.37, 0.30, 0.20, 0.19),
    "plum vase": (0.10, 0.09, 0.26, 0.36, 0.38, 0.36, 0.31, 0.26, 0.22, 0.20, 0.21),
    "moon jar": (0.20, 0.21, 0.34, 0.43, 0.47, 0.48, 0.46, 0.41, 0.33, 0.23, 0.21),
    "amphora": (0.20, 0.15, 0.13, 0.15, 0.30, 0.36, 0.36, 0.32, 0.25, 0.15, 0.18),
    "jar": (0.24, 0.22, 0.31, 0.39, 0.42, 0.42, 0.40, 0.36, 0.31, 0.27, 0.26),
    "gourd": (0.09, 0.11, 0.20, 0.23, 0.19, 0.17, 0.28, 0.36, 0.37, 0.31, 0.20),
    "beaker": (0.34, 0.29, 0.25, 0.23, 0.23, 0.26, 0.27, 0.25, 0.22, 0.22, 0.25),
}


def revolve(
    profile: Any, glaze: Array, w: int, h: int, place: tuple[float, float, float], turn: float, gloss: float = 0.8
) -> tuple[Array, Array]:
    """Make the solid of revolution of a profile, seen a little from above; returns picture and coverage.

    `glaze` (H', W', 3) goes once around it; `place` is the axis' x, the lip's y and the height; `turn` in radians.
    """
    x, y, _ = grid(w, h)
    axis, lip, tall = place
    v = (y - lip) / tall
    fine = np.linspace(0, 1, 200)
    curve = gaussian_filter1d(np.interp(fine, np.linspace(0, 1, len(profile)), profile), 7, mode="nearest")
    tip = 0.17
    radius = np.interp(v, fine, curve)
    radius = radius * np.sqrt(np.clip(1 - ((v - np.clip(v, 0, 1)) / (tip * radius)) ** 2, 0, 1))  # round ends
    s = (x - axis) / tall / np.maximum(radius, 1e-4)
    alpha = edge((1 - np.abs(s)) * radius * tall, 0.006) * (radius > 1e-3)
    s = np.clip(s, -1, 1)
    front = np.sqrt(1 - s * s)
    slope = np.interp(v, fine, np.gradient(curve, fine[1]))
    norm = 1 / np.sqrt(1 + slope**2)
    nx, ny, nz = s * norm, -slope * norm + 0 * s, front * norm
    level = np.clip(v - tip * radius * front, 0, 0.999)
    around = ((np.arcsin(s) + turn) / (2 * np.pi)) % 1
    albedo = glaze[(level * glaze.shape[0]).astype(int), (around * glaze.shape[1]).astype(int) % glaze.shape[1]]
    light = np.clip(-0.52 * nx - 0.5 * ny + 0.69 * nz, 0, 1)
    back = 0.14 * np.clip(0.9 * nx + 0.2 * ny, 0, 1)
    mirror = np.clip(-0.31 * nx - 0.3 * ny + 0.90 * nz, 0, 1)
    rgb = albedo * (0.16 + 0.92 * light + back)[..., None] + (gloss * (mirror**90 + 0.12 * mirror**12))[..., None]
    mouth = 1 - np.hypot((x - axis) / tall / curve[0], v / (tip * curve[0]))
    hollow = 0.12 + 0.5 * np.clip((v / (tip * curve[0]) + 1) / 2, 0, 1)
    rgb = mix(rgb, glaze.mean((0, 1)) * hollow[..., None], edge((mouth - 0.14) * curve[0] * tip, 0.004))
    return rgb, np.asarray(alpha, np.float32)


GLAZE = (240, 480)  # height and width of a glaze, in pixels


def celadon(pick: Choices, p: Array) -> Array:
    """A jade glaze, crackled, over carved petals."""
    x, y, _ = grid(*GLAZE[::-1])
    jade = mix(pigment(0.62, 0.74, 0.64), mix(p[2], p[4], 0.5), pick.between(0.2, 0.8))
    petals = pick.count(8, 16)
    carved = np.abs(((x * petals / 2) % 1) - 0.5) * 2
    line = np.abs(y - pick.between(0.45, 0.7) - 0.16 * carved**2)
    rgb = jade * (1.04 - 0.3 * bell(line, 0.012) - 0.12 * np.exp(-((carved - 1) ** 2) / 0.004) * (y > 0.6))[..., None]
    for k in range(2):
        rgb = mix(rgb, jade * 0.45, 0.65 * bell(pick.part(k).noise(GLAZE, (10, 20), 3) - 0.5, 0.012))
    return mix(rgb, pigment(0.45, 0.27, 0.17), edge(y - 0.965, 0.01)) * (1.05 - 0.2 * y)[..., None]


def blue_and_white(pick: Choices, p: Array) -> Array:
    """Vines in cobalt under a clear glaze."""
    sheet = Sheet(np.broadcast_to(pigment(0.93, 0.94, 0.93), (*GLAZE, 3)))
    deep, pale = p[1] * 0.9, mix(p[1], p[2], 0.6)
    waves, flowers = pick.among([3, 4, 5]), pick.count(4, 9)
    mid, swing = pick.between(0.42, 0.56), pick.between(0.05, 0.12)
    sheet.line([(u, mid + swing * np.sin(np.pi * waves * u)) for u in np.linspace(0, 2, 160)], deep, 0.012)
    for k in range(44):
        u = 2 * k / 44
        leaf = sheet.placed((u, mid + swing * np.sin(np.pi * waves * u)))
        out = 0.045 * (1 if k % 2 else -1)
        leaf.shape([(0, 0), (0.03, 0.5 * out), (0.028, 1.6 * out), (-0.004, out)], pale if k % 3 else deep)
    petals, size = pick.among([5, 6, 8]), pick.between(0.05, 0.085)
    for k in range(flowers):
        cx = 2 * (k + 0.5) / flowers
        cy = mid - 0.7 * swing * np.sin(np.pi * waves * cx)
        for j in range(petals):
            petal = sheet.placed((cx, cy), 2 * np.pi * j / petals, size)
            petal.disc(0, 0.62, 0.42 * size, deep)
            petal.disc(0, 0.62, 0.25 * size, pale)
        sheet.disc(cx, cy, 0.3 * size, p[5])
        sheet.disc(cx, cy, 0.17 * size, deep)
    for level in (0.04, 0.065, 0.23, 0.25, 0.74, 0.76, 0.955):
        sheet.line([(0, level), (2, level)], deep, 0.008)
    lappets = pick.count(10, 18)
    for k in range(lappets):
        cx, half = 2 * (k + 0.5) / lappets, 0.85 / lappets
        arch = [(cx - half, 0.94), (cx - half, 0.85), (cx, 0.78), (cx + half, 0.85), (cx + half, 0.94)]
        sheet.line(arch, deep, 0.01)
        sheet.disc(cx, 0.88, 0.4 * half, pale, 1, 0.035)
        sheet.line([(cx - half, 0.09), (cx, 0.2), (cx + half, 0.09)], deep, 0.01)
        sheet.disc(cx, 0.115, 0.25 * half, deep)
    bleed = gaussian_filter(sheet.rgb(), (0.9, 0.9, 0))
    return bleed * (0.96 + 0.08 * pick.noise(GLAZE, 8, 3))[..., None]


def banded(pick: Choices, p: Array) -> Array:
    """Dark slip on red clay: meanders, rays, rings and a frieze of birds."""
    clay = mix(pigment(0.78, 0.47, 0.28), mix(p[3], p[4], 0.5), pick.between(0.0, 0.8))
    slip = pigment(0.11, 0.08, 0.07)
    sheet = Sheet(clay * (0.9 + 0.2 * pick.noise(GLAZE, 12, 4))[..., None])
    levels = np.cumsum([0.06] + [pick.between(0.09, 0.2) for _ in range(6)])
    levels = 0.06 + (levels - 0.06) / levels[-1] * 0.86
    motifs = [pick.among(["meander", "zigzag", "rings", "birds", "diamonds", "dark"]) for _ in range(6)]
    sheet.rectangle((0, 0, 2, 0.05), slip)
    sheet.rectangle((0, 0.94, 2, 1), slip)
    for motif, top, low in zip(motifs, levels[:-1], levels[1:], strict=True):
        tall = (low - top) * 0.8
        mid = (top + low) / 2
        sheet.line([(0, low), (2, low)], slip, 0.012)
        if motif == "dark":
            sheet.rectangle((0, top + 0.01, 2, low - 0.01), slip)
            sheet.line([(0, mid), (2, mid)], p[3], 0.008)
            continue
        n = max(6, round(2 / (tall * (1.8 if motif == "birds" else 1.05))))
        s = tall / 2
        for k in range(n):
            at = sheet.placed((2 * (k + 0.5) / n, mid), 0, s)
            if motif == "meander":
                hook = [(-1, 0.8), (-1, -0.8), (0.7, -0.8), (0.7, 0.3), (-0.2, 0.3), (-0.2, -0.2)]
                at.line(hook, slip, 0.2 * s)
                at.line([(-1, 0.8), (1.2, 0.8)], slip, 0.2 * s)
            elif motif == "zigzag":
                at.shape([(-1, 0.9), (0, -0.9), (1, 0.9)], slip)
            elif motif == "rings":
                for i, r in enumerate((0.9, 0.7, 0.5, 0.32, 0.16)):
                    at.disc(0, 0, r * s, clay if i % 2 else slip)
            elif motif == "diamonds":
                for i, r in enumerate((1.0, 0.66, 0.34)):
                    at.shape([(-0.9 * r, 0), (0, -0.9 * r), (0.9 * r, 0), (0, 0.9 * r)], clay if i % 2 else slip)
            else:
                at.disc(0, 0.1, 0.75 * s, slip, 1, 0.42 * s)
                at.line([(0.5, 0.0), (0.8, -0.7), (1.15, -0.62)], slip, 0.2 * s)
                at.shape([(-0.5, 0), (-1.3, -0.45), (-0.6, 0.4)], slip)
                at.line([(-0.1, 0.4), (-0.15, 0.95)], slip, 0.1 * s)
                at.line([(0.2, 0.4), (0.25, 0.95)], slip, 0.1 * s)
                at.disc(0, 0.05, 0.22 * s, p[3], 1, 0.12 * s)
    return sheet.rgb() * (0.92 + 0.16 * pick.noise(GLAZE, 20, 3))[..., None]


def drip_glaze(pick: Choices, p: Array) -> Array:
    """Two glazes that ran into each other in the fire, over bare clay."""
    _, y, _ = grid(*GLAZE[::-1])
    h, w = GLAZE
    fold = np.minimum(np.abs(np.arange(w) - w // 2), w // 2 - 1)  # there and back: the glaze meets itself behind

    def around(rows: int, grain: tuple[int, int], octaves: int) -> Array:
        return pick.noise((rows, w // 2), grain, octaves)[:, fold]

    streak = around(h, (2, 30), 3)
    upper = ramp([p[1], p[2], p[3], p[4]], 0.15 + 0.6 * streak + 0.35 * (0.4 - y))
    lower = ramp([p[0], p[0] * 1.3, p[1]], streak)
    drips = around(1, (1, 8), 2)
    run = pick.between(0.3, 0.55) + 0.3 * drips**3
    rgb = mix(upper, mix(p[5], p[3], 0.5), 0.6 * bell(y - run, 0.025))
    rgb = mix(rgb, lower, edge(y - run, 0.03))
    foot = pick.between(0.86, 0.93) + 0.05 * (around(1, (1, 5), 2) - 0.5)
    clay = pigment(0.55, 0.40, 0.29) * (0.85 + 0.3 * pick.noise(GLAZE, 30, 2))[..., None]
    return mix(rgb, clay, edge(y - foot, 0.012))


GLAZES = {"jade kilns": celadon, "cobalt kilns": blue_and_white, "banded ware": banded, "running glaze": drip_glaze}


def vessel(pick: Choices, glaze: Array, w: int, h: int, turn: float) -> tuple[Array, Array]:
    """Draw a pot of the series' shape, with handles if it is an amphora; returns picture and coverage."""
    name = pick.among(list(SHAPES))
    stretch = np.array([pick.between(0.85, 1.15, 0.6) for _ in SHAPES[name]])
    profile = np.asarray(SHAPES[name]) * (0.5 + 0.5 * stretch) * pick.between(0.85, 1.05)
    tall = min(0.78, 0.40 * (w / h) / profile.max())
    lip, axis = 0.9 - tall, w / h / 2
    rgb, alpha = revolve(profile, glaze, w, h, (axis, lip, tall), turn, pick.between(0.4, 0.9))
    if name == "amphora":
        handles = black(w, h)
        loop = smoothed([(0.13, 0.06), (0.27, 0.03), (0.36, 0.14), (0.35, 0.28), (0.27, 0.42)], 5, closed=False)
        for side in (-1, 1):
            handles.line([(axis + side * tall * x, lip + tall * y) for x, y in loop], (1, 1, 1), 0.05 * tall)
        arms = handles.rgb()[..., 0]
        light = 0.35 + 0.7 * relief(gaussian_filter(arms, h / 130), 3.0)
        rgb, alpha = mix(glaze[6:30].mean((0, 1)) * light * 0.7, rgb, alpha), np.maximum(alpha, arms)
    return rgb, alpha
