"""Vessels turned around an axis, with four glazes; coins, in four metals; textiles, of three weaves."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from metlib.common.drawing import Array, bell, colours, edge, grid, mix, noise, pigment, to_array, to_image
from metlib.synthetic.colours import KINSHIP, Choices, ramp
from metlib.synthetic.drawing import Point, Sheet, black, relief, smoothed, turned

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
    alpha = (edge((1 - np.abs(s)) * radius * tall) * (radius > 1e-3)).astype(np.float32)
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
    return mix(rgb, glaze.mean((0, 1)) * hollow[..., None], edge((mouth - 0.14) * curve[0] * tip, 0.004)), alpha


GLAZE = (240, 480)  # height and width of a glaze, in pixels


def celadon(pick: Choices, p: Array) -> Array:
    """A jade glaze, crackled, over carved petals."""
    x, y, _ = grid(*GLAZE[::-1])
    jade = mix(pigment(0.62, 0.74, 0.64), mix(p[2], p[4], 0.5), pick.between(0.2, 0.8))
    carved = np.abs(((x * pick.count(8, 16) / 2) % 1) - 0.5) * 2
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
        sheet.line([(cx - half, 0.94), (cx - half, 0.85), (cx, 0.78), (cx + half, 0.85), (cx + half, 0.94)], deep, 0.01)
        sheet.disc(cx, 0.88, 0.4 * half, pale, 1, 0.035)
        sheet.line([(cx - half, 0.09), (cx, 0.2), (cx + half, 0.09)], deep, 0.01)
        sheet.disc(cx, 0.115, 0.25 * half, deep)
    return gaussian_filter(sheet.rgb(), (0.9, 0.9, 0)) * (0.96 + 0.08 * pick.noise(GLAZE, 8, 3))[..., None]


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
                at.line([(-1, 0.8), (-1, -0.8), (0.7, -0.8), (0.7, 0.3), (-0.2, 0.3), (-0.2, -0.2)], slip, 0.2 * s)
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
    h, w = GLAZE
    y = grid(w, h)[1]
    fold = np.minimum(np.abs(np.arange(w) - w // 2), w // 2 - 1)  # there and back: the glaze meets itself behind

    def around(rows: int, grain: tuple[int, int], octaves: int) -> Array:
        return pick.noise((rows, w // 2), grain, octaves)[:, fold]

    streak = around(h, (2, 30), 3)
    drips = around(1, (1, 8), 2)
    run = pick.between(0.3, 0.55) + 0.3 * drips**3
    rgb = mix(ramp(p[1:5], 0.15 + 0.6 * streak + 0.35 * (0.4 - y)), mix(p[5], p[3], 0.5), 0.6 * bell(y - run, 0.025))
    rgb = mix(rgb, ramp([p[0], p[0] * 1.3, p[1]], streak), edge(y - run, 0.03))
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
            sheet.placed(c, 2 * np.pi * k / n, s).shape([(-0.1, -0.35), (0, -0.6 - 0.35 * (k % 2)), (0.1, -0.35)], high)
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
    rim = r * (1 + ragged * 0.5 * sum(np.sin(k * angle + pick.own.uniform(0, 6)) / k for k in range(2, 7)))
    distance = np.hypot(x - c[0], y - c[1])
    beads, letters = pick.count(36, 70), pick.count(8, 16)
    begin, span = (-0.95, 1.9) if motif == "sun" else (-1.15, 1.3)
    sheet = black(w, h)
    for k in range(beads):
        t = 2 * np.pi * k / beads
        sheet.disc(c[0] + 0.92 * r * np.cos(t), c[1] + 0.92 * r * np.sin(t), 0.022 * r, (0.8, 0.8, 0.8))
    for k, glyph in enumerate(pick.series.random((letters, 4, 2)) - 0.5):
        t = np.pi * begin + span * np.pi * k / letters
        letter = sheet.placed((c[0] + 0.79 * r * np.cos(t), c[1] + 0.79 * r * np.sin(t)), t + np.pi / 2, 0.075 * r)
        letter.line([(-0.4, 0.7), (-0.4, -0.7), *(glyph * 1.6)], (0.75,) * 3, 0.022 * r)
    emblem(sheet, pick.part(8), ("sun" if motif != "sun" else "urn") if reverse else motif, c, 0.62 * r)
    struck = sheet.rgb()[..., 0]
    height = gaussian_filter(struck, h / 240) + 0.6 * gaussian_filter(struck, h / 70)
    domed = 0.3 * (1 - (distance / r) ** 2)
    height += 0.9 * bell(distance - 0.97 * rim, 0.03 * r) + 0.10 * pick.noise((h, w), 24, 4) + domed
    down, across = np.gradient(gaussian_filter(height, h / 400))
    steep = h / 55
    nz = 1 / np.sqrt(1 + (steep * down) ** 2 + (steep * across) ** 2)
    facing = nz * (0.62 - steep * (across * np.cos(light) + down * np.sin(light)) * 0.75)
    hollow = np.clip((height - gaussian_filter(height, h / 40)) * 0.7, -0.3, 0.3)
    tone = 0.12 + 0.62 * facing + 0.45 * hollow + 0.10 * (pick.noise((h, w), 3, 4) - 0.5)
    rgb = ramp(colours(METALS[metal]), tone)
    if tarnish := {"bronze": "patina", "patina": "bronze"}.get(metal):
        rgb = mix(rgb, ramp(colours(METALS[tarnish]), tone), 0.8 * np.clip((pick.noise((h, w), 5, 4) - 0.55) * 4, 0, 1))
    toned = (1 + 0.12 * KINSHIP * pick.own.normal(size=3)).astype(np.float32)  # every hoard tarnishes in its own way
    return rgb * toned + 0.5 * np.clip(facing - 0.78, 0, 1)[..., None] ** 0.8, edge(rim - distance)


def kilim(pick: Choices, p: Array, w: int, h: int) -> Array:
    """Stepped diamonds between borders, in wool."""
    rows = 72
    columns = max(8, round(rows * w / h))
    i, j = np.mgrid[0:rows, 0:columns]
    tall, step = pick.among([18, 24, 36]), pick.among([2, 3])
    wide = pick.among([12, 16, 24])
    u = np.abs((j - columns // 2) % wide - wide / 2) // step * step / wide
    shifted = i - rows // 2 + (j - columns // 2) // wide % 2 * pick.among([0, tall // 2])
    v = np.abs(shifted % tall - tall / 2) // step * step / tall
    order = np.array([pick.among([0, 1, 2, 3, 4, 5]) for _ in range(8)])
    np.put(order, pick.own.integers(0, 8), pick.own.integers(0, 6))
    index = order[((u + v) * pick.among([6, 8, 11])).astype(int) % 8]
    border = np.minimum(np.minimum(i, rows - 1 - i), np.minimum(j, columns - 1 - j))
    tooth = ((i + j) // pick.among([2, 3])) % 2
    a, b, c = (pick.among([0, 1, 2, 3, 4, 5]) for _ in range(3))
    index = np.select([border < 2, border < 7, border < 9], [0, np.where(tooth, a, b), c], index)
    thread = p[index] * (1 + 0.07 * pick.own.normal(size=(rows, 1, 1)))
    thread = thread * (1 + 0.04 * pick.own.normal(size=(rows, columns, 1)))
    big = to_image(thread).resize((w, h), Image.Resampling.BOX if w < columns else Image.Resampling.NEAREST)
    y, x = np.mgrid[0:h, 0:w]
    ply = 0.86 + 0.14 * np.abs(np.sin(np.pi * y * rows * 2 / h)) + 0.05 * np.sin(np.pi * x * columns / w + y)
    return to_array(big) * ply[..., None].astype(np.float32)


def brocade(pick: Choices, p: Array, w: int, h: int) -> Array:
    """A figure mirrored in all directions, in silk and gold thread."""
    x, y, _ = grid(w, h)
    tile = pick.between(0.28, 0.5)
    u = np.abs(((x / tile + 0.5 * (np.floor(y / tile) % 2) * pick.among([0, 1])) % 1) - 0.5) * 2
    v = np.abs(((y / tile) % 1) - 0.5) * 2
    field = np.zeros((h, w), np.float32)
    for k in range(5):
        part = pick.part(k)
        wave = np.cos(np.pi * (part.count(0, 4) * u + part.among([0, 1, 2, 3]) * v) + part.between(0, 6))
        field += wave * np.cos(np.pi * part.among([1, 2, 3]) * v + part.between(0, 1))
    field += 1.6 * np.cos(np.pi * np.hypot(u, v) * pick.among([2, 3, 4]))
    field = (field - field.min()) / np.ptp(field)
    figure = [p[1], p[0], p[1], p[3], p[4], p[2]] if pick.among([0, 1]) else [p[5], p[4], p[2], p[1], p[3], p[0]]
    levels = np.clip((field * 6).astype(int), 0, 5)
    outline = np.abs(field * 6 - np.round(field * 6)) < 0.07
    rgb = mix(np.asarray(figure, np.float32)[levels], mix(p[3], p[5], 0.4), 0.75 * outline)
    weave = np.sin(np.arange(h)[:, None] * 2.4 + np.arange(w)[None] * np.where(levels % 2, 1.1, -1.1))
    return rgb * (0.97 + 0.09 * weave)[..., None].astype(np.float32)


def plaid(pick: Choices, p: Array, w: int, h: int) -> Array:
    """Stripes across stripes, in twill."""
    n = pick.count(7, 13)
    widths = np.array([pick.between(0.3, 3.0) ** 1.3 for _ in range(13)])[:n]
    which = np.array([pick.among([0, 1, 1, 2, 3, 4, 5]) for _ in range(13)])[:n]
    sett = pick.between(0.3, 0.55)
    ends = np.cumsum(np.concatenate([widths, widths[::-1]]))
    which = np.concatenate([which, which[::-1]])

    def yarn(length: int) -> Array:
        place = (np.arange(length) / h / sett + 0.25) % 1 * ends[-1]
        return p[which[np.searchsorted(ends, place).clip(0, len(which) - 1)]]

    y, x = np.mgrid[0:h, 0:w]
    twill = (np.sin((x + y) * 1.6) * 0.5 + 0.5)[..., None].astype(np.float32)
    rgb = yarn(w)[None] * (0.25 + 0.5 * twill) + yarn(h)[:, None] * (0.75 - 0.5 * twill)
    return rgb * (0.94 + 0.06 * twill) * (1 + 0.03 * pick.own.normal(size=(h, w, 1)).astype(np.float32))


LOOMS: dict[str, Callable[[Choices, Array, int, int], Array]] = {"kilims": kilim, "brocades": brocade, "plaids": plaid}


def cloth(pick: Choices, woven: Array, w: int, h: int) -> tuple[Array, Array]:
    """Lay a textile out: a little uneven at the edges, soft folds, a fringe at both ends."""
    x, y, a = grid(w, h)
    wave = 0.012 * (noise(pick.own, (h, 1), (4, 1), 2) - 0.5), 0.012 * (noise(pick.own, (1, w), (1, 4), 2) - 0.5)
    fringe = pick.among([0.0, 0.035, 0.05])
    body = np.minimum(np.minimum(x - 0.06 * a, 0.94 * a - x) + wave[0], np.minimum(y - 0.06, 0.94 - y) + wave[1])
    inner = np.minimum(y - 0.06 - fringe, 0.94 - fringe - y) + wave[1]
    tassel = 0.5 + 0.5 * np.sin(x * 150 + 3 * np.sin(30 * y + x * 9))
    alpha = edge(body) * np.where(inner > 0, 1, np.clip(tassel * 1.6 - 0.3, 0, 1))
    rgb = mix(pigment(0.86, 0.81, 0.70) * (0.6 + 0.4 * tassel)[..., None], woven, edge(inner, 0.004))
    return rgb * relief(gaussian_filter(noise(pick.own, (h, w), 3, 2), h / 40), 5.0), alpha
