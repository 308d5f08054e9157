"""Coins: a height map with an emblem, an inscription and a rim, in one of four metals."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from metlib.synthetic.choices import KINSHIP, Choices
from metlib.synthetic.drawing import Point, Sheet, bell, black, edge, grid, smoothed, turned
from metlib.synthetic.palettes import Array, colours, mix, ramp
from metlib.synthetic.vessels import SHAPES

METALS = {
    "gold": "3a2405 7d5310 c2912a e9c65f fff3c0",
    "silver": "23262b 5c636b 9aa1a8 cfd4d8 ffffff",
    "bronze": "1f130b 54351f 8f6239 c0905a f2d6a6",
    "patina": "10201c 2f5a4c 5b8f78 93b79c e6efd2",
}
MINTS = {  # school: (metals, emblems)
    "royal mint": (("gold", "silver"), ("head",)),
    "harbour mint": (("silver", "bronze", "patina"), ("galley", "sun")),
    "field mint": (("bronze", "gold", "patina"), ("urn", "sun")),
}


def emblem(sheet: Sheet, pick: Choices, motif: str, c: Point, s: float) -> None:
    """Draw what stands on a coin, as a height map."""
    top, high, mid, low = ((v, v, v) for v in (1, 0.95, 0.8, 0.55))
    at = sheet.placed(c, 0, s)
    if motif == "head":
        nose, chin, brow = pick.between(0.05, 0.16), pick.between(0.0, 0.12), pick.between(0, 0.08)
        face = [(-0.42, 0.95), (-0.3, 0.55), (-0.42, 0.3), (-0.6, 0.0), (-0.6, -0.4), (-0.35, -0.72), (0.0, -0.8)]
        face += [(0.3, -0.68), (0.42 + brow, -0.36), (0.42, -0.16), (0.54 + nose, 0.1), (0.44, 0.14), (0.5, 0.25)]
        face += [(0.43, 0.31), (0.48, 0.38), (0.4 + chin, 0.52), (0.26, 0.56), (0.1, 0.5), (0.08, 0.7), (0.4, 0.95)]
        at.shape(smoothed(face, 1.6), mid)
        at.shape([(0.2, -0.16), (0.31, -0.22), (0.4, -0.17), (0.31, -0.12)], high)
        at.line([(0.18, -0.3), (0.42, -0.31)], high, 0.05 * s)
        at.disc(-0.08, 0.05, 0.08 * s, high, 1, 0.13 * s)
        locks = pick.part(3)
        for k in range(locks.count(30, 60)):  # curls over the back of the head, down to the nape
            t, r = locks.series.uniform(-3.5, -0.7), locks.series.uniform(0.25, 1)
            at.disc(-0.1 + 0.5 * r * np.cos(t), -0.2 + 0.56 * r * np.sin(t), 0.085 * s, high if k % 2 else mid)
        crown = pick.among(["laurel", "diadem", "rays"])
        for k in range(8):
            place = turned([(-0.6 + 0.13 * k, -0.22 - 0.03 * k)], c, 0, s)[0]
            if crown == "laurel":
                sheet.placed(place, 0, s * 1.2).shape([(-0.1, 0.05), (0.06, -0.13), (0.12, 0.03)], top)
            elif crown == "rays" and k % 2:
                sheet.placed(place, -0.5 + 0.12 * k, s).shape([(-0.05, -0.2), (0.02, -0.85), (0.1, -0.2)], top)
            else:
                sheet.disc(*place, 0.06 * s, top)
    elif motif == "galley":
        at.shape([(-0.85, -0.1), (-0.7, 0.4), (0.6, 0.42), (0.95, -0.3), (0.7, 0.05), (-0.7, 0.08)], mid)
        belly = 0.4 + pick.between(0.3, 0.55) * 0.4
        at.shape([(-0.4, -0.05), (-0.5, -0.75), (0.4, -0.75), (belly, -0.4), (0.42, -0.05)], high)
        at.line([(0, 0.1), (0, -0.95)], top, 0.05 * s)
        for k in range(pick.count(5, 9)):
            at.line([(-0.6 + 0.16 * k, 0.3), (-0.75 + 0.16 * k, 0.72)], mid, 0.04 * s)
        for k in range(5):
            at.line([(-0.8 + 0.36 * k, 0.78), (-0.62 + 0.36 * k, 0.7), (-0.44 + 0.36 * k, 0.78)], high, 0.04 * s)
    elif motif == "sun":
        n = pick.count(8, 16)
        for k in range(n):
            ray = sheet.placed(c, 2 * np.pi * k / n, s)
            ray.shape([(-0.1, -0.35), (0, -0.6 - 0.35 * (k % 2)), (0.1, -0.35)], high)
        for r, level in ((0.36, mid), (0.3, high), (0.2, low), (0.1, high)):
            at.disc(0, 0, r * s, level)
    else:
        profile = np.asarray(SHAPES["amphora"]) * pick.between(0.8, 1.1)
        sides = [(r * 1.7, 1.7 * t - 0.85) for r, t in zip(profile, np.linspace(0, 1, 11), strict=True)]
        at.shape([*sides, *[(-x, y) for x, y in sides[::-1]]], mid)
        for flip in (-1, 1):
            at.line([(flip * 0.2, -0.75), (flip * 0.62, -0.6), (flip * 0.5, -0.15)], high, 0.08 * s)
        for level in np.linspace(-0.2, 0.45, pick.count(3, 6)):
            at.line([(-0.45, level), (0.45, level)], high, 0.05 * s)


def coin(pick: Choices, metal: str, motif: str, w: int, h: int, reverse: bool, light: float) -> tuple[Array, Array]:
    """Draw a coin: a height map, lit from `light`, worn on the heights, dark in the hollows; picture and coverage."""
    x, y, a = grid(w, h)
    c = (a / 2, 0.5)
    r = 0.42 * min(1.0, a)
    angle = np.arctan2(y - c[1], x - c[0])
    ragged = pick.between(0.0, 0.05)
    wobble = sum(np.sin(k * angle + pick.own.uniform(0, 6)) / k for k in range(2, 7))
    rim = r * (1 + ragged * 0.5 * wobble)
    distance = np.hypot(x - c[0], y - c[1])
    beads, letters = pick.count(36, 70), pick.count(8, 16)
    alphabet = pick.series.random((letters, 4, 2)) - 0.5
    begin, span = (-0.95, 1.9) if motif == "sun" else (-1.15, 1.3)
    sheet = black(w, h)
    for k in range(beads):
        t = 2 * np.pi * k / beads
        sheet.disc(c[0] + 0.92 * r * np.cos(t), c[1] + 0.92 * r * np.sin(t), 0.022 * r, (0.8, 0.8, 0.8))
    for k, glyph in enumerate(alphabet):
        t = np.pi * begin + span * np.pi * k / letters
        place = (c[0] + 0.79 * r * np.cos(t), c[1] + 0.79 * r * np.sin(t))
        letter = sheet.placed(place, t + np.pi / 2, 0.075 * r)
        letter.line([(-0.4, 0.7), (-0.4, -0.7), *(glyph * 1.6)], (0.75,) * 3, 0.022 * r)
    emblem(sheet, pick.part(8), ("sun" if motif != "sun" else "urn") if reverse else motif, c, 0.62 * r)
    struck = sheet.rgb()[..., 0]
    height = gaussian_filter(struck, h / 240) + 0.6 * gaussian_filter(struck, h / 70)
    height += 0.9 * bell(distance - 0.97 * rim, 0.03 * r) + 0.10 * pick.noise((h, w), 24, 4)
    height += 0.3 * (1 - (distance / r) ** 2)
    down, across = np.gradient(gaussian_filter(height, h / 400))
    steep = h / 55
    nz = 1 / np.sqrt(1 + (steep * down) ** 2 + (steep * across) ** 2)
    facing = nz * (0.62 - steep * (across * np.cos(light) + down * np.sin(light)) * 0.75)
    hollow = np.clip((height - gaussian_filter(height, h / 40)) * 0.7, -0.3, 0.3)
    tone = 0.12 + 0.62 * facing + 0.45 * hollow + 0.10 * (pick.noise((h, w), 3, 4) - 0.5)
    rgb = ramp(colours(METALS[metal]), tone)
    tarnish = {"bronze": "patina", "patina": "bronze"}.get(metal)
    if tarnish:
        spots = 0.8 * np.clip((pick.noise((h, w), 5, 4) - 0.55) * 4, 0, 1)
        rgb = mix(rgb, ramp(colours(METALS[tarnish]), tone), spots)
    toned = (1 + 0.12 * KINSHIP * pick.own.normal(size=3)).astype(np.float32)  # every hoard tarnishes in its own way
    rgb = rgb * toned + 0.5 * np.clip(facing - 0.78, 0, 1)[..., None] ** 0.8
    return rgb, edge(rim - distance, 0.006)
