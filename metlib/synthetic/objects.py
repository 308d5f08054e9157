"""Vessels, coins and textiles: things with a shape of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from metlib.synthetic.drawing import (
    KINSHIP,
    Array,
    Hand,
    Point,
    Sheet,
    colours,
    edge,
    grid,
    mask,
    mix,
    noise,
    pigment,
    ramp,
    relief,
    smoothed,
    to_array,
    to_image,
    turned,
)

# ------------------------------------------------------------------------------------------------------ vessels

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


def throw(
    profile: Any, glaze: Array, w: int, h: int, place: tuple[float, float, float], turn: float, gloss: float = 0.8
) -> tuple[Array, Array]:
    """Turn a profile on the wheel: `glaze` (H', W', 3) goes once around it; returns picture and coverage.

    `place` is the axis' x, the lip's y and the height; `turn` in radians; seen a little from above.
    """
    x, y = grid(w, h)
    axis, lip, tall = place
    v = (y - lip) / tall
    fine = np.linspace(0, 1, 200)
    curve = gaussian_filter1d(np.interp(fine, np.linspace(0, 1, len(profile)), profile), 7, mode="nearest")
    tip = 0.17
    radius = np.interp(v, fine, curve)

    def bulge(end: Array, r: float) -> Array:
        return np.sqrt(np.clip(1 - (end / (tip * r)) ** 2, 0, 1))

    radius = np.where(
        v < 0, curve[0] * bulge(v, curve[0]), np.where(v > 1, curve[-1] * bulge(v - 1, curve[-1]), radius)
    )
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
    shine = gloss * (
        np.clip(-0.31 * nx - 0.3 * ny + 0.90 * nz, 0, 1) ** 90
        + 0.12 * np.clip(-0.31 * nx - 0.3 * ny + 0.9 * nz, 0, 1) ** 12
    )
    rgb = albedo * (0.16 + 0.92 * light + back)[..., None] + shine[..., None]
    mouth = 1 - np.hypot((x - axis) / tall / curve[0], v / (tip * curve[0]))
    hollow = 0.12 + 0.5 * np.clip((v / (tip * curve[0]) + 1) / 2, 0, 1)
    rgb = mix(rgb, glaze.mean((0, 1)) * hollow[..., None], edge((mouth - 0.14) * curve[0] * tip, 0.004))
    return np.asarray(rgb, np.float32), np.asarray(alpha, np.float32)


def celadon(hand: Hand, p: Array) -> Array:
    """A jade glaze, crackled, over carved petals."""
    h, w = 240, 480
    x, y = grid(w, h)
    jade = mix(pigment(0.62, 0.74, 0.64), mix(p[2], p[4], 0.5), np.float32(hand.between(0.2, 0.8)))
    petals = hand.count(8, 16)
    carved = np.abs(((x * petals / 2) % 1) - 0.5) * 2
    line = np.abs(y - hand.between(0.45, 0.7) - 0.16 * carved**2)
    rgb = (
        jade
        * (1.04 - 0.3 * np.exp(-((line / 0.012) ** 2)) - 0.12 * np.exp(-((carved - 1) ** 2) / 0.004) * (y > 0.6))[
            ..., None
        ]
    )
    for k in range(2):
        rgb = mix(rgb, jade * 0.45, 0.65 * np.exp(-(((hand.part(k).noise((h, w), (10, 20), 3) - 0.5) / 0.012) ** 2)))
    return mix(rgb, pigment(0.45, 0.27, 0.17), edge(y - 0.965, 0.01)) * (1.05 - 0.2 * y)[..., None]


def blue_and_white(hand: Hand, p: Array) -> Array:
    """Vines in cobalt under a clear glaze."""
    h, w = 240, 480
    sheet = Sheet(np.broadcast_to(pigment(0.93, 0.94, 0.93), (h, w, 3)))
    deep, pale = p[1] * 0.9, mix(p[1], p[2], np.float32(0.6))
    waves, flowers = hand.pick([3, 4, 5]), hand.count(4, 9)
    mid, swing = hand.between(0.42, 0.56), hand.between(0.05, 0.12)
    t = np.linspace(0, 2, 160)
    sheet.line([(u, mid + swing * np.sin(np.pi * waves * u)) for u in t], deep, 0.012)
    for k in range(44):
        u = 2 * k / 44
        stem = mid + swing * np.sin(np.pi * waves * u)
        out = 0.045 * (1 if k % 2 else -1)
        sheet.shape(
            [(u, stem), (u + 0.03, stem + 0.5 * out), (u + 0.028, stem + 1.6 * out), (u - 0.004, stem + out)],
            pale if k % 3 else deep,
        )
    petals, size = hand.pick([5, 6, 8]), hand.between(0.05, 0.085)
    for k in range(flowers):
        cx = 2 * (k + 0.5) / flowers
        cy = mid - 0.7 * swing * np.sin(np.pi * waves * cx)
        for j in range(petals):
            bx, by = turned([(0, 0.62)], (cx, cy), 2 * np.pi * j / petals, size)[0]
            sheet.disc(bx, by, 0.42 * size, deep)
            sheet.disc(bx, by, 0.25 * size, pale)
        sheet.disc(cx, cy, 0.3 * size, p[5])
        sheet.disc(cx, cy, 0.17 * size, deep)
    for level in (0.04, 0.065, 0.23, 0.25, 0.74, 0.76, 0.955):
        sheet.line([(0, level), (2, level)], deep, 0.008)
    lappets = hand.count(10, 18)
    for k in range(lappets):
        cx, half = 2 * (k + 0.5) / lappets, 0.85 / lappets
        arch = [(cx - half, 0.94), (cx - half, 0.85), (cx, 0.78), (cx + half, 0.85), (cx + half, 0.94)]
        sheet.line(arch, deep, 0.01)
        sheet.disc(cx, 0.88, 0.4 * half, pale, 1, 0.035)
        sheet.line([(cx - half, 0.09), (cx, 0.2), (cx + half, 0.09)], deep, 0.01)
        sheet.disc(cx, 0.115, 0.25 * half, deep)
    bleed = gaussian_filter(sheet.rgb(), (0.9, 0.9, 0))
    return bleed * (0.96 + 0.08 * hand.noise((h, w), 8, 3))[..., None]


def banded(hand: Hand, p: Array) -> Array:
    """Dark slip on red clay: meanders, rays, rings and a frieze of birds."""
    h, w = 240, 480
    clay = mix(pigment(0.78, 0.47, 0.28), mix(p[3], p[4], 0.5), np.float32(hand.between(0.0, 0.8)))
    slip = pigment(0.11, 0.08, 0.07)
    sheet = Sheet(clay * (0.9 + 0.2 * hand.noise((h, w), 12, 4))[..., None])
    levels = np.cumsum([0.06] + [hand.between(0.09, 0.2) for _ in range(6)])
    levels = 0.06 + (levels - 0.06) / levels[-1] * 0.86
    motifs = [hand.pick(["meander", "zigzag", "rings", "birds", "diamonds", "dark"]) for _ in range(6)]
    sheet.shape([(0, 0), (2, 0), (2, 0.05), (0, 0.05)], slip)
    sheet.shape([(0, 0.94), (2, 0.94), (2, 1), (0, 1)], slip)
    for motif, top, low in zip(motifs, levels[:-1], levels[1:], strict=True):
        tall = (low - top) * 0.8
        mid = (top + low) / 2
        n = max(6, round(2 / (tall * (1.8 if motif == "birds" else 1.05))))
        sheet.line([(0, low), (2, low)], slip, 0.012)
        if motif == "dark":
            sheet.shape([(0, top + 0.01), (2, top + 0.01), (2, low - 0.01), (0, low - 0.01)], slip)
            sheet.line([(0, mid), (2, mid)], p[3], 0.008)
        for k in range(n if motif != "dark" else 0):
            c, s = 2 * (k + 0.5) / n, tall / 2
            if motif == "meander":
                sheet.line(
                    turned([(-1, 0.8), (-1, -0.8), (0.7, -0.8), (0.7, 0.3), (-0.2, 0.3), (-0.2, -0.2)], (c, mid), 0, s),
                    slip,
                    0.2 * s,
                )
                sheet.line(turned([(-1, 0.8), (1.2, 0.8)], (c, mid), 0, s), slip, 0.2 * s)
            elif motif == "zigzag":
                sheet.shape(turned([(-1, 0.9), (0, -0.9), (1, 0.9)], (c, mid), 0, s), slip)
            elif motif == "rings":
                for i, r in enumerate((0.9, 0.7, 0.5, 0.32, 0.16)):
                    sheet.disc(c, mid, r * s, clay if i % 2 else slip)
            elif motif == "diamonds":
                for i, r in enumerate((1.0, 0.66, 0.34)):
                    sheet.shape(
                        turned([(-0.9, 0), (0, -0.9), (0.9, 0), (0, 0.9)], (c, mid), 0, r * s), clay if i % 2 else slip
                    )
            else:
                sheet.disc(c, mid + 0.1 * s, 0.75 * s, slip, 1, 0.42 * s)
                sheet.line(turned([(0.5, 0.0), (0.8, -0.7), (1.15, -0.62)], (c, mid), 0, s), slip, 0.2 * s)
                sheet.shape(turned([(-0.5, 0), (-1.3, -0.45), (-0.6, 0.4)], (c, mid), 0, s), slip)
                sheet.line(turned([(-0.1, 0.4), (-0.15, 0.95)], (c, mid), 0, s), slip, 0.1 * s)
                sheet.line(turned([(0.2, 0.4), (0.25, 0.95)], (c, mid), 0, s), slip, 0.1 * s)
                sheet.disc(c, mid + 0.05 * s, 0.22 * s, p[3], 1, 0.12 * s)
    return sheet.rgb() * (0.92 + 0.16 * hand.noise((h, w), 20, 3))[..., None]


def drip_glaze(hand: Hand, p: Array) -> Array:
    """Two glazes that ran into each other in the fire, over bare clay."""
    h, w = 240, 480
    _, y = grid(w, h)
    fold = np.minimum(
        np.abs(np.arange(w) - w // 2), w // 2 - 1
    )  # there and back, so that the glaze meets itself behind

    def around(rows: int, grain: tuple[int, int], octaves: int) -> Array:
        return hand.noise((rows, w // 2), grain, octaves)[:, fold]

    streak = around(h, (2, 30), 3)
    upper = ramp([p[1], p[2], p[3], p[4]], 0.15 + 0.6 * streak + 0.35 * (0.4 - y))
    lower = ramp([p[0], p[0] * 1.3, p[1]], streak)
    fingers = around(1, (1, 8), 2)
    run = hand.between(0.3, 0.55) + 0.3 * fingers**3
    rgb = mix(upper, mix(p[5], p[3], np.float32(0.5)), 0.6 * np.exp(-(((y - run) / 0.025) ** 2)))
    rgb = mix(rgb, lower, edge(y - run, 0.03))
    foot = hand.between(0.86, 0.93) + 0.05 * (around(1, (1, 5), 2) - 0.5)
    clay = pigment(0.55, 0.40, 0.29) * (0.85 + 0.3 * hand.noise((h, w), 30, 2))[..., None]
    return mix(rgb, clay, edge(y - foot, 0.012))


def vessel(hand: Hand, glaze: Array, w: int, h: int, turn: float) -> tuple[Array, Array]:
    """Throw a pot of the series' shape, with handles if it is an amphora."""
    name = hand.pick(list(SHAPES))
    stretch = np.array([hand.between(0.85, 1.15, 0.6) for _ in SHAPES[name]])
    profile = np.asarray(SHAPES[name]) * (0.5 + 0.5 * stretch) * hand.between(0.85, 1.05)
    tall = min(0.78, 0.40 * (w / h) / profile.max())
    lip = 0.9 - tall
    axis = w / h / 2
    rgb, alpha = throw(profile, glaze, w, h, (axis, lip, tall), turn, hand.between(0.4, 0.9))
    if name == "amphora":
        loop = [(0.13, 0.06), (0.27, 0.03), (0.36, 0.14), (0.35, 0.28), (0.27, 0.42)]
        points = smoothed(loop, 5, closed=False)

        def handles(sheet: Sheet) -> None:
            for side in (-1, 1):
                sheet.line([(axis + side * tall * q[0], lip + tall * q[1]) for q in points], (1, 1, 1), 0.05 * tall)

        arms = mask(w, h, handles)
        tone = (
            glaze[6:30].mean((0, 1))
            * (0.35 + 0.7 * relief(gaussian_filter(arms, h / 130), 3.0)[..., 0])[..., None]
            * 0.7
        )
        rgb, alpha = mix(tone, rgb, alpha), np.maximum(alpha, arms)
    return rgb, alpha


# -------------------------------------------------------------------------------------------------------- coins

METALS = {
    "gold": "3a2405 7d5310 c2912a e9c65f fff3c0",
    "silver": "23262b 5c636b 9aa1a8 cfd4d8 ffffff",
    "bronze": "1f130b 54351f 8f6239 c0905a f2d6a6",
    "patina": "10201c 2f5a4c 5b8f78 93b79c e6efd2",
}


def emblem(sheet: Sheet, hand: Hand, motif: str, c: Point, s: float) -> None:
    """Draw what stands on a coin, as a height map."""
    high, mid, low = ((v, v, v) for v in (0.95, 0.8, 0.55))
    if motif == "head":
        nose, chin, brow = hand.between(0.05, 0.16), hand.between(0.0, 0.12), hand.between(0, 0.08)
        face = [(-0.42, 0.95), (-0.3, 0.55), (-0.42, 0.3), (-0.6, 0.0), (-0.6, -0.4), (-0.35, -0.72), (0.0, -0.8)]
        face += [(0.3, -0.68), (0.42 + brow, -0.36), (0.42, -0.16), (0.54 + nose, 0.1), (0.44, 0.14), (0.5, 0.25)]
        face += [(0.43, 0.31), (0.48, 0.38), (0.4 + chin, 0.52), (0.26, 0.56), (0.1, 0.5), (0.08, 0.7), (0.4, 0.95)]
        sheet.shape(turned(smoothed(face, 1.6), c, 0, s), mid)
        sheet.shape(turned([(0.2, -0.16), (0.31, -0.22), (0.4, -0.17), (0.31, -0.12)], c, 0, s), high)
        sheet.line(turned([(0.18, -0.3), (0.42, -0.31)], c, 0, s), high, 0.05 * s)
        sheet.disc(*turned([(-0.08, 0.05)], c, 0, s)[0], 0.08 * s, high, 1, 0.13 * s)
        locks = hand.part(3)
        for k in range(locks.count(30, 60)):  # curls over the back of the head, down to the nape
            t, r = locks.taste.uniform(-3.5, -0.7), locks.taste.uniform(0.25, 1)
            place = (-0.1 + 0.5 * r * np.cos(t), -0.2 + 0.56 * r * np.sin(t))
            sheet.disc(*turned([place], c, 0, s)[0], 0.085 * s, high if k % 2 else mid)
        crown = hand.pick(["laurel", "diadem", "rays"])
        for k in range(8):
            bx, by = turned([(-0.6 + 0.13 * k, -0.22 - 0.03 * k)], c, 0, s)[0]
            if crown == "laurel":
                sheet.shape(turned([(-0.1, 0.05), (0.06, -0.13), (0.12, 0.03)], (bx, by), 0, s * 1.2), (1, 1, 1))
            elif crown == "rays" and k % 2:
                sheet.shape(
                    turned([(-0.05, -0.2), (0.02, -0.85), (0.1, -0.2)], (bx, by), -0.5 + 0.12 * k, s), (1, 1, 1)
                )
            else:
                sheet.disc(bx, by, 0.06 * s, (1, 1, 1))
    elif motif == "galley":
        sheet.shape(
            turned([(-0.85, -0.1), (-0.7, 0.4), (0.6, 0.42), (0.95, -0.3), (0.7, 0.05), (-0.7, 0.08)], c, 0, s), mid
        )
        belly = hand.between(0.3, 0.55)
        sheet.shape(
            turned([(-0.4, -0.05), (-0.5, -0.75), (0.4, -0.75), (0.4 + belly * 0.4, -0.4), (0.42, -0.05)], c, 0, s),
            high,
        )
        sheet.line(turned([(0, 0.1), (0, -0.95)], c, 0, s), (1, 1, 1), 0.05 * s)
        for k in range(hand.count(5, 9)):
            sheet.line(turned([(-0.6 + 0.16 * k, 0.3), (-0.75 + 0.16 * k, 0.72)], c, 0, s), mid, 0.04 * s)
        for k in range(5):
            sheet.line(
                turned([(-0.8 + 0.36 * k, 0.78), (-0.62 + 0.36 * k, 0.7), (-0.44 + 0.36 * k, 0.78)], c, 0, s),
                high,
                0.04 * s,
            )
    elif motif == "sun":
        n = hand.count(8, 16)
        for k in range(n):
            sheet.shape(
                turned([(-0.1, -0.35), (0, -0.6 - 0.35 * (k % 2)), (0.1, -0.35)], c, 2 * np.pi * k / n, s), high
            )
        sheet.disc(*c, 0.36 * s, mid)
        for r in (0.3, 0.2, 0.1):
            sheet.disc(*c, r * s, high if r != 0.2 else low)
    else:
        profile = np.asarray(SHAPES["amphora"]) * hand.between(0.8, 1.1)
        sides = [(r * 1.7, 1.7 * t - 0.85) for r, t in zip(profile, np.linspace(0, 1, 11), strict=True)]
        sheet.shape(turned([*sides, *[(-x, y) for x, y in sides[::-1]]], c, 0, s), mid)
        for flip in (-1, 1):
            sheet.line(turned([(flip * 0.2, -0.75), (flip * 0.62, -0.6), (flip * 0.5, -0.15)], c, 0, s), high, 0.08 * s)
        for level in np.linspace(-0.2, 0.45, hand.count(3, 6)):
            sheet.line(turned([(-0.45, level), (0.45, level)], c, 0, s), high, 0.05 * s)


def coin(hand: Hand, metal: str, motif: str, w: int, h: int, reverse: bool, light: float) -> tuple[Array, Array]:
    """Strike a coin: a height map, lit from `light`, worn on the heights, dark in the hollows."""
    x, y = grid(w, h)
    c = (w / h / 2, 0.5)
    r = 0.42 * min(1.0, w / h)
    angle = np.arctan2(y - c[1], x - c[0])
    ragged = hand.between(0.0, 0.05)
    wobble = sum(np.sin(k * angle + hand.own.uniform(0, 6)) / k for k in range(2, 7))
    rim = r * (1 + ragged * 0.5 * wobble)
    distance = np.hypot(x - c[0], y - c[1])
    beads, letters = hand.count(36, 70), hand.count(8, 16)
    alphabet = hand.taste.random((letters, 4, 2)) - 0.5

    def strike(sheet: Sheet) -> None:
        for k in range(beads):
            t = 2 * np.pi * k / beads
            sheet.disc(c[0] + 0.92 * r * np.cos(t), c[1] + 0.92 * r * np.sin(t), 0.022 * r, (0.8, 0.8, 0.8))
        for k, glyph in enumerate(alphabet):
            t = (
                -np.pi * 0.95 + 1.9 * np.pi * k / letters
                if motif == "sun"
                else -np.pi * 1.15 + 1.3 * np.pi * k / letters
            )
            place = (c[0] + 0.79 * r * np.cos(t), c[1] + 0.79 * r * np.sin(t))
            sheet.line(
                turned([(-0.4, 0.7), (-0.4, -0.7), *(glyph * 1.6)], place, t + np.pi / 2, 0.075 * r),
                (0.75,) * 3,
                0.022 * r,
            )
        emblem(sheet, hand.part(8), ("sun" if motif != "sun" else "urn") if reverse else motif, c, 0.62 * r)

    height = gaussian_filter(mask(w, h, strike), h / 240) + 0.6 * gaussian_filter(mask(w, h, strike), h / 70)
    height += (
        0.9 * np.exp(-(((distance - 0.97 * rim) / (0.03 * r)) ** 2))
        + 0.10 * hand.noise((h, w), 24, 4)
        + 0.3 * (1 - (distance / r) ** 2)
    )
    down, across = np.gradient(gaussian_filter(height, h / 400))
    k = h / 55
    nz = 1 / np.sqrt(1 + (k * down) ** 2 + (k * across) ** 2)
    facing = nz * (0.62 - k * (across * np.cos(light) + down * np.sin(light)) * 0.75)
    hollow = np.clip((height - gaussian_filter(height, h / 40)) * 0.7, -0.3, 0.3)
    tone = 0.12 + 0.62 * facing + 0.45 * hollow + 0.10 * (hand.noise((h, w), 3, 4) - 0.5)
    rgb = ramp(colours(METALS[metal]), tone)
    if metal in ("bronze", "patina"):
        rgb = mix(
            rgb,
            ramp(colours(METALS["patina" if metal == "bronze" else "bronze"]), tone),
            0.8 * np.clip((hand.noise((h, w), 5, 4) - 0.55) * 4, 0, 1),
        )
    toned = (1 + 0.12 * KINSHIP * hand.own.normal(size=3)).astype(np.float32)  # every hoard tarnishes in its own way
    rgb = rgb * toned + 0.5 * np.clip(facing - 0.78, 0, 1)[..., None] ** 0.8
    return rgb, edge(rim - distance, 0.006)


# ----------------------------------------------------------------------------------------------------- textiles


def kilim(hand: Hand, p: Array, w: int, h: int) -> Array:
    """Stepped diamonds between borders, in wool."""
    rows = 72
    columns = max(8, round(rows * w / h))
    i, j = np.mgrid[0:rows, 0:columns]
    tall, step = hand.pick([18, 24, 36]), hand.pick([2, 3])
    wide = hand.pick([12, 16, 24])
    u = np.abs((j - columns // 2) % wide - wide / 2) // step * step / wide
    v = (
        np.abs((i - rows // 2 + (j - columns // 2) // wide % 2 * hand.pick([0, tall // 2])) % tall - tall / 2)
        // step
        * step
        / tall
    )
    order = np.array([hand.pick([0, 1, 2, 3, 4, 5]) for _ in range(8)])
    swap, other = int(hand.own.integers(0, 8)), int(hand.own.integers(0, 6))
    order[swap] = other
    index = order[((u + v) * hand.pick([6, 8, 11])).astype(int) % 8]
    border = np.minimum(np.minimum(i, rows - 1 - i), np.minimum(j, columns - 1 - j))
    tooth = ((i + j) // hand.pick([2, 3])) % 2
    a, b, c = (hand.pick([0, 1, 2, 3, 4, 5]) for _ in range(3))
    index = np.where(border < 9, np.where(border < 2, 0, np.where(border < 7, np.where(tooth, a, b), c)), index)
    thread = (
        p[index]
        * (1 + 0.07 * hand.own.normal(size=(rows, 1, 1)))
        * (1 + 0.04 * hand.own.normal(size=(rows, columns, 1)))
    )
    big = to_image(thread).resize((w, h), Image.Resampling.BOX if w < columns else Image.Resampling.NEAREST)
    y, x = np.mgrid[0:h, 0:w]
    ply = 0.86 + 0.14 * np.abs(np.sin(np.pi * y * rows * 2 / h)) + 0.05 * np.sin(np.pi * x * columns / w + y)
    return to_array(big) * ply[..., None].astype(np.float32)


def brocade(hand: Hand, p: Array, w: int, h: int) -> Array:
    """A figure mirrored in all directions, in silk and gold thread."""
    x, y = grid(w, h)
    tile = hand.between(0.28, 0.5)
    row = np.floor(y / tile)
    u = np.abs(((x / tile + 0.5 * (row % 2) * hand.pick([0, 1])) % 1) - 0.5) * 2
    v = np.abs(((y / tile) % 1) - 0.5) * 2
    field = np.zeros((h, w), np.float32)
    for k in range(5):
        part = hand.part(k)
        field += np.cos(np.pi * (part.count(0, 4) * u + part.pick([0, 1, 2, 3]) * v) + part.between(0, 6)) * np.cos(
            np.pi * part.pick([1, 2, 3]) * v + part.between(0, 1)
        )
    field += 1.6 * np.cos(np.pi * np.hypot(u, v) * hand.pick([2, 3, 4]))
    field = (field - field.min()) / np.ptp(field)
    figure = [p[1], p[0], p[1], p[3], p[4], p[2]] if hand.pick([0, 1]) else [p[5], p[4], p[2], p[1], p[3], p[0]]
    levels = np.clip((field * 6).astype(int), 0, 5)
    rgb = np.asarray(figure, np.float32)[levels]
    outline = np.abs(field * 6 - np.round(field * 6)) < 0.07
    rgb = mix(rgb, mix(p[3], p[5], np.float32(0.4)), 0.75 * outline)
    weave = np.sin(np.arange(h)[:, None] * 2.4 + np.arange(w)[None] * np.where(levels % 2, 1.1, -1.1))
    return rgb * (0.97 + 0.09 * weave)[..., None].astype(np.float32)


def plaid(hand: Hand, p: Array, w: int, h: int) -> Array:
    """Stripes across stripes, in twill."""
    n = hand.count(7, 13)
    widths = np.array([hand.between(0.3, 3.0) ** 1.3 for _ in range(13)])[:n]
    which = np.array([hand.pick([0, 1, 1, 2, 3, 4, 5]) for _ in range(13)])[:n]
    sett = hand.between(0.3, 0.55)
    ends = np.cumsum(np.concatenate([widths, widths[::-1]]))
    which = np.concatenate([which, which[::-1]])

    def yarn(length: int) -> Array:
        place = (np.arange(length) / h / sett + 0.25) % 1 * ends[-1]
        return p[which[np.searchsorted(ends, place).clip(0, len(which) - 1)]]

    y, x = np.mgrid[0:h, 0:w]
    twill = (np.sin((x + y) * 1.6) * 0.5 + 0.5)[..., None].astype(np.float32)
    rgb = yarn(w)[None] * (0.25 + 0.5 * twill) + yarn(h)[:, None] * (0.75 - 0.5 * twill)
    return rgb * (0.94 + 0.06 * twill) * (1 + 0.03 * hand.own.normal(size=(h, w, 1)).astype(np.float32))


def cloth(hand: Hand, woven: Array, w: int, h: int) -> tuple[Array, Array]:
    """Lay a textile out: a little uneven at the edges, soft folds, a fringe at both ends."""
    x, y = grid(w, h)
    a = w / h
    wave = 0.012 * (noise(hand.own, (h, 1), (4, 1), 2) - 0.5), 0.012 * (noise(hand.own, (1, w), (1, 4), 2) - 0.5)
    fringe = hand.pick([0.0, 0.035, 0.05])
    body = np.minimum(np.minimum(x - 0.06 * a, 0.94 * a - x) + wave[0], np.minimum(y - 0.06, 0.94 - y) + wave[1])
    inner = np.minimum(y - 0.06 - fringe, 0.94 - fringe - y) + wave[1]
    tassel = 0.5 + 0.5 * np.sin(x * 150 + 3 * np.sin(30 * y + x * 9))
    alpha = edge(body) * np.where(inner > 0, 1, np.clip(tassel * 1.6 - 0.3, 0, 1))
    rgb = mix(pigment(0.86, 0.81, 0.70) * (0.6 + 0.4 * tassel)[..., None], woven, edge(inner, 0.004))
    return rgb * relief(gaussian_filter(noise(hand.own, (h, w), 3, 2), h / 40), 5.0), alpha
