"""Paintings in nine schools. Each takes random choices, a palette (6, 3), and the width and height in pixels."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from metlib.common.drawing import Array, bell, edge, grid, mix, noise, pigment
from metlib.synthetic.colours import KINSHIP, Choices, ramp
from metlib.synthetic.drawing import Point, Sheet, black, brushed, canvas, relief, turned
from metlib.synthetic.objects import SHAPES, revolve


def landscape(pick: Choices, p: Array, w: int, h: int) -> Array:
    """Hills under a low sun, in broken strokes."""
    x, y, a = grid(w, h)
    horizon, sun = pick.between(0.36, 0.56), (pick.between(0.15, 0.85) * a, pick.between(0.12, 0.32))
    rgb = ramp([mix(p[2], p[4], 0.3), p[4], p[5], p[4]], y / horizon + 0.5 * (pick.noise((h, w), (4, 2)) - 0.5))
    distance = np.hypot(x - sun[0], y - sun[1])
    rgb = mix(rgb, mix(p[5], pigment(1, 0.97, 0.85), 0.7), 0.9 * bell(distance, 0.16))
    rgb = mix(rgb, mix(p[3], p[5], 0.55), 0.35 * bell(distance, 0.45))
    for k in range(4):
        part = pick.part(k)
        crest = horizon + 0.055 * k - part.between(0.04, 0.16) * (1 - 0.15 * k) * part.noise((1, w), (1, 2 + k), 4)
        hill = ramp([p[4], p[2], p[1], p[1]], np.float32(0.18 + 0.25 * k))
        rgb = mix(rgb, mix(hill, p[4], 0.5 * np.clip(1 - (y - crest) / 0.06, 0, 1)), edge(y - crest, 0.01))
    shore = horizon + 0.2
    rgb = mix(rgb, ramp(p[1:5], 0.75 * pick.noise((h, w), (10, 2)) + 0.2 * (1 - y)), edge(y - shore, 0.03))
    if pick.among([True, False]):
        bend = pick.between(0.2, 0.8) * a + 0.16 * np.sin(9 * y + pick.between(0, 6))
        river = edge((y - shore) * pick.between(0.3, 0.6) + 0.02 - np.abs(x - bend), 0.02) * edge(y - shore, 0.03)
        rgb = mix(rgb, mix(p[5], p[4], pick.noise((h, w), (24, 3))), 0.9 * river)
    sheet, part = Sheet(rgb), pick.part(9)
    tall, places = part.between(0.18, 0.42), part.series.random((9, 3))
    for u, v, size in places[: part.count(2, 8)]:
        cx, foot, top = u * a + part.own.normal(0, 0.02), shore + 0.1 * v, tall * (0.6 + 0.6 * size)
        sheet.line([(cx, foot), (cx, foot - top * 0.6)], p[0], 0.014)
        for _ in range(80):
            dx, dy = part.own.normal(0, 0.20 * top), part.own.uniform(0, 1)
            dx *= 1.1 - dy if tall > 0.3 else 1.2 * np.sqrt(dy * (1.05 - dy))
            tone = np.clip(0.45 + 2.2 * np.sign(sun[0] - cx) * dx / top + 0.35 * dy + part.own.normal(0, 0.15), 0, 1)
            sheet.disc(cx + dx, foot - top * (0.25 + 0.75 * dy), 0.05 * top, ramp([p[0], p[1], p[3], p[4]], tone * 0.8))
    angle = np.where(y < horizon, 0.25, 1.2) * (pick.noise((h, w), 3, 2) - 0.4) * 2
    return brushed(sheet.rgb(), pick.own, angle, 0.022, 0.008, 1300)


def seascape(pick: Choices, p: Array, w: int, h: int) -> Array:
    """A calm sea with the light on it, and sails."""
    x, y, a = grid(w, h)
    horizon, sun = pick.between(0.45, 0.68), (pick.between(0.2, 0.8) * a, pick.between(0.1, 0.5))
    day, night = (p[2], p[4], mix(p[3], p[5], 0.5)), (p[0], p[1], p[5])
    high, low, glow = pick.among([day, day, night])
    clouds = pick.noise((h, w), (6, 2), 5)
    rgb = ramp([high, mix(high, low, 0.6), low, glow], y / horizon + 0.3 * (clouds - 0.5))
    distance = np.hypot(x - sun[0], y - sun[1])
    light = bell(distance, 0.35)
    bank = np.clip((clouds - pick.between(0.45, 0.6)) * 4, 0, 1)
    rgb = mix(rgb, mix(mix(high, p[1], 0.4), p[5], np.clip(light + 0.3 - bank * 0.2, 0, 1)), 0.7 * bank)
    rgb = mix(mix(rgb, glow, 0.6 * light), p[5], edge(0.045 - distance, 0.012))
    depth = np.clip((y - horizon) / (1 - horizon), 1e-3, 1)
    swell = pick.noise((h, w), (40, 5), 3)
    sea = ramp([mix(low, p[1], 0.4), p[1], p[0]], depth**0.6 + 0.5 * (swell - 0.5))
    glitter = bell(x - sun[0], 0.05 + 0.22 * depth) * np.clip((swell - 0.42 - 0.1 * depth) * 9, 0, 1)
    rgb = mix(rgb, mix(mix(sea, low, 0.25), p[5], 0.9 * glitter), edge(y - horizon, 0.004))
    if pick.among([True, True, False]):
        side = pick.among([-1, 1])
        rise = pick.between(0.08, 0.3) * np.clip(side * (x / a - 0.5) * 2 - 0.1, 0, 1) ** 0.7
        crest = horizon + 0.02 - rise * (0.6 + 0.7 * pick.noise((1, w), (1, 5), 4))
        land = mix(p[1], p[0], pick.noise((h, w), 12, 3))
        rgb = mix(rgb, mix(land, glow, 0.25), edge(y - crest, 0.006) * (y < horizon + 0.02 + 0.01 * np.sin(40 * x)))
    sheet, part = Sheet(rgb), pick.part(9)
    for u, v, size in part.series.random((6, 3))[: part.count(1, 5)]:
        near = 0.15 + 0.85 * v**2
        cx, cy = u * a + part.own.normal(0, 0.03), horizon + 0.28 * near * (1 - horizon) * 2
        s = (0.05 + 0.16 * near) * (0.7 + 0.5 * size)
        boat, cloth = sheet.placed((cx, cy), 0, s), mix(p[5], p[3], 0.8 * (size > 0.6))
        boat.shape([(0.04, -0.12), (0.04, -1.1), (0.5, -0.18)], cloth)
        boat.shape([(-0.02, -0.12), (-0.02, -0.95), (-0.36, -0.16)], mix(cloth, p[1], 0.35))
        boat.shape([(-0.45, -0.1), (0.55, -0.12), (0.4, 0.06), (-0.32, 0.06)], p[0])
        for k in range(7):
            reach = 0.4 * (1 - k / 8) * s * part.own.uniform(0.5, 1.2)
            level = cy + s * (0.1 + 0.09 * k)
            sheet.line([(cx - reach, level), (cx + reach, level)], cloth if k % 2 else p[0], 0.006, 0.35)
    flat = (pick.noise((h, w), 3, 2) - 0.5) * np.where(y < horizon, 1.2, 0.3)
    return canvas(brushed(sheet.rgb(), pick.own, flat, 0.02, 0.006, 700, 0.015), pick.own, 0.02)


def ink_mountains(pick: Choices, p: Array, w: int, h: int) -> Array:
    """Peaks in the mist, brush and wash on silk, with a seal."""
    x, y, a = grid(w, h)
    silk = mix(p[5], p[4], 0.5 * noise(pick.own, (h, w), 3) + 0.12 * np.sin(y * h * 1.7))
    moon = (pick.between(0.15, 0.85) * a, pick.between(0.1, 0.3))
    moonlight = mix(p[3], p[5], 0.25) if pick.among([True, False]) else p[5] * 1.03
    rgb = mix(silk, moonlight, 0.85 * edge(0.06 - np.hypot(x - moon[0], y - moon[1])))
    wash = pick.noise((h, w), (6, 9), 5)
    layers = pick.count(4, 6)
    for k in range(layers):
        part, near = pick.part(k), (k + 1) / layers
        peak, spread = part.between(0.05, 0.95) * a, part.between(0.10, 0.32)
        hump = bell(x - peak, spread) + 0.5 * bell((x - peak - 1.3 * spread) / spread, 0.7)
        crest = 0.25 + 0.62 * near - part.between(0.15, 0.36) * hump - 0.12 * part.noise((1, w), (1, 5), 5)
        below = y - crest
        body = np.exp(-np.clip(below, 0, 1) / part.between(0.1, 0.22)) * (0.35 + 0.65 * wash)
        line = bell(below, 0.008) * (0.3 + 0.7 * part.noise((1, w), (1, 20), 2))
        rgb = mix(rgb, mix(p[2], p[0], near), (0.25 + 0.6 * near) * np.clip(body + 0.5 * line, 0, 1) * (below > 0))
    sheet, part = Sheet(rgb), pick.part(90)
    for u, v, s in part.series.random((7, 3))[: part.count(2, 6)]:
        foot, lean, tall = u * a + part.own.normal(0, 0.02), part.series.normal(0, 0.05), 0.1 + 0.1 * s
        t = np.linspace(0, 1, 9)
        trunk = list(zip(foot + lean * t + 0.012 * np.sin(5 * t + 6 * s), 0.84 + 0.12 * v - tall * t, strict=True))
        sheet.line(trunk, p[0], 0.007, 0.9)
        for k, (cx, cy) in enumerate(trunk[3:]):
            reach = 0.05 * (1.15 - k / 6) * (0.6 + 0.6 * s)
            side = 0.5 * reach * (-1) ** k if k < 5 else 0.0
            sheet.line([(cx, cy + 0.006), (cx + side, cy)], p[0], 0.004, 0.9)
            for _ in range(26):
                dx, dy = part.own.normal(0, 0.5 * reach), abs(part.own.normal(0, 0.006))
                sheet.line([(cx + side + dx, cy), (cx + side + 1.15 * dx, cy - 0.007 - dy)], p[0], 0.004, 0.45)
    for u, v, _ in part.series.random((5, 3))[: part.count(0, 5)]:
        cx, cy = (0.2 + 0.5 * u) * a + part.own.normal(0, 0.02), 0.12 + 0.2 * v
        sheet.line([(cx - 0.014, cy - 0.006), (cx, cy), (cx + 0.014, cy - 0.007)], p[0], 0.004, 0.8)
    edge_x = 0.08 * a if moon[0] > a / 2 else 0.92 * a
    for k in range(part.count(4, 8)):
        for _ in range(3):
            dx, dy = part.own.uniform(-0.012, 0.012, 2)
            sheet.line([(edge_x + dx, 0.06 + 0.035 * k + dy), (edge_x - dx, 0.075 + 0.035 * k)], p[0], 0.005, 0.8)
    sheet.rectangle((edge_x - 0.018, 0.37, edge_x + 0.018, 0.41), p[3])
    return canvas(sheet.rgb(), pick.own, 0.018)


def woodblock(pick: Choices, p: Array, w: int, h: int) -> Array:
    """A mountain and the sea in flat colours, printed from wood."""
    x, y, a = grid(w, h)
    horizon = pick.between(0.52, 0.66)
    sheet = Sheet(ramp([p[1], mix(p[2], p[4], 0.5), p[5], p[5]], y / horizon + 0 * x))
    sun = (pick.between(0.12, 0.88) * a, pick.between(0.12, 0.35))
    sheet.disc(*sun, pick.between(0.05, 0.1), p[3])
    top, peak, spread = pick.between(0.14, 0.3), pick.between(0.3, 0.7) * a, pick.between(0.45, 0.75)
    slopes = [(side, s) for side, t in ((-1, np.linspace(1, 0, 30)), (1, np.linspace(0, 1, 30))) for s in t]
    sides = [(peak + side * (0.03 + spread * s**1.5), top + (horizon - top) * s) for side, s in slopes]
    sheet.shape(sides, p[pick.among([1, 2, 3])])
    snow = [q for q in sides if q[1] < top + 0.12]
    teeth = np.linspace(snow[-1][0], snow[0][0], 9)
    zig = [(tx, top + (0.16 if k % 2 else 0.09) + 0.02 * pick.own.normal()) for k, tx in enumerate(teeth)]
    sheet.shape([*snow, *zig[1:-1]], p[5])
    sheet.line(sides, p[0], 0.005)
    for k in range(pick.count(1, 4)):
        part = pick.part(k)
        cx, cy, long = part.between(0.1, 0.9) * a, part.between(0.3, 0.8) * horizon, part.between(0.08, 0.22)
        for i in range(3):
            left, right, level = cx - long * (1 - 0.25 * i), cx + long * (0.6 + 0.2 * i), cy + 0.022 * i
            sheet.line([(left, level), (right, level)], mix(p[5], p[4], 0.3), 0.016, 0.85)
    sea = pick.part(50)
    scale = sea.between(0.05, 0.085)
    rows = int((1 - horizon) / (scale * 0.5)) + 2
    light = p[sea.among([1, 2])]
    for i in range(rows):
        cy = horizon + scale * (0.5 * i + 0.9)
        deep = mix(light, p[0], i / rows)
        sway = 0.012 * np.sin(i + sea.between(0, 6))
        for j in range(-1, int(a / scale / 2) + 2):
            cx = (2 * j + i % 2) * scale + sway
            for k, r in enumerate((1.0, 0.72, 0.46, 0.2)):
                sheet.disc(cx, cy, scale * r, deep if k % 2 else p[5])
                sheet.disc(cx, cy, scale * (r - 0.1), deep)
    boat = pick.part(70)
    for _ in range(boat.count(0, 2)):
        at = sheet.placed((boat.between(0.15, 0.85) * a, boat.between(0.72, 0.9)), 0, boat.between(0.1, 0.18))
        hull = [(-1, -0.22), (-0.7, 0.05), (0.6, 0.08), (1.1, -0.3), (0.5, -0.06), (-0.6, -0.08)]
        sail = [(-0.1, -1.1), (0.55, -0.9), (0.5, -0.2)]
        at.shape(hull, p[3])
        at.line([*hull, hull[0]], p[0], 0.005)
        at.shape([(-0.1, -0.1), *sail], p[5])
        at.line([(-0.1, -0.05), *sail], p[0], 0.005)
    left = 0.04 if sun[0] > a / 2 else a - 0.11
    sheet.rectangle((left, 0.05, left + 0.07, 0.26), p[5])
    for k in range(5):
        dx = pick.own.uniform(0.01, 0.03, 2)
        sheet.line([(left + dx[0], 0.075 + 0.037 * k), (left + 0.06 - dx[1], 0.085 + 0.037 * k)], p[0], 0.006)
    wood = noise(pick.own, (h, w), (3, 40), 3)
    return sheet.rgb() * (0.9 + 0.14 * wood + 0.03 * pick.own.normal(size=(h, w)))[..., None].astype(np.float32)


def ball(rgb: Array, x: float, y: float, r: float, colour: Any) -> None:
    """Draw a lit ball into the picture: light from the upper left, light thrown back from the table."""
    h, w = rgb.shape[:2]
    down, across = (slice(max(0, int((c - r) * h) - 3), int((c + r) * h) + 4) for c in (y, x))
    gx, gy, _ = grid(w, h)
    u, v = (gx[:, across] - x) / r, (gy[down] - y) / r
    z = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
    light = np.clip(-0.55 * u - 0.55 * v + 0.63 * z, 0, 1)
    shine = 0.35 * np.clip(-0.33 * u - 0.36 * v + 0.87 * z, 0, 1) ** 40
    body = colour * (0.10 + 0.95 * light + 0.18 * np.clip(v, 0, 1) * (1 - light))[..., None] + shine[..., None]
    rgb[down, across] = mix(rgb[down, across], body, edge(1 - np.hypot(u, v), 0.006 / r))


def still_life(pick: Choices, p: Array, w: int, h: int) -> Array:
    """Fruit and a jar on a table, out of the dark."""
    x, y, a = grid(w, h)
    table = pick.between(0.6, 0.7)
    dark = pick.among([True, True, False])
    wall = [p[0] * 0.5, p[0], p[1]] if dark else [p[2], p[4], p[5]]
    wood = [p[0], p[1], mix(p[1], p[3], 0.5)] if dark else [p[4], p[5]]
    rgb = ramp(wall, np.clip(1.1 - 0.8 * x / a - 0.3 * y, 0, 1) + 0.2 * (pick.noise((h, w), 3) - 0.5))
    grain = pick.noise((h, w), (30, 2), 3)
    rgb = mix(rgb, ramp(wood, 0.25 + 0.5 * grain + 0.3 * (1 - x / a) if dark else grain), edge(y - table))
    if pick.among([True, False]):
        left, right = pick.between(0.05, 0.3) * a, pick.between(0.6, 0.95) * a
        hem = table + 0.12 + 0.1 * pick.noise((1, w), (1, 3), 2)
        folds = np.sin(pick.between(14, 24) * x + 6 * pick.noise((h, w), 2, 2))
        cloth = ramp([p[4] * 0.7, p[4], p[5]], 0.5 + 0.4 * folds - 0.2 * x / a)
        rgb = mix(rgb, cloth, edge(y - table - 0.02) * edge(hem - y) * edge(x - left) * edge(right - x))
    part = pick.part(5)
    jar_x, tall = part.between(0.25, 0.75) * a, part.between(0.38, 0.55)
    base = table + 0.1
    things: list[tuple[float, float, float, Any]] = []
    for u, v, s in part.series.random((9, 3))[: part.count(3, 8)].tolist():
        hue = ramp([p[3], p[2], mix(p[3], p[4], 0.4), pigment(0.72, 0.16, 0.12)], np.float32(part.series.random()))
        cx, cy = (0.12 + 0.76 * u) * a + part.own.normal(0, 0.02), base + 0.02 + 0.14 * v
        things.append((cx, cy, 0.055 + 0.035 * s, hue))
    shadows = black(w, h)
    shadows.disc(jar_x + 0.1, base, 0.2, (1, 1, 1), 1, 0.04)
    for cx, cy, r, _ in things:
        shadows.disc(cx + 0.5 * r, cy + 0.75 * r, 1.5 * r, (1, 1, 1), 1, 0.45 * r)
    rgb = rgb * (1 - 0.75 * gaussian_filter(shadows.rgb()[..., 0], h / 45))[..., None]
    profile = SHAPES[part.among(["bottle", "jar", "gourd", "moon jar"])]
    glaze = np.broadcast_to(mix(p[2], p[4], part.between(0, 1)), (8, 16, 3))
    rgb = mix(rgb, *revolve(profile, glaze, w, h, (jar_x, base - tall, tall), 0.0))
    for cx, cy, r, hue in sorted(things, key=lambda t: t[1]):
        ball(rgb, cx, cy, r, hue)
    light = 0.75 + 0.5 * np.exp(-(((x - 0.35 * a) / 0.6) ** 2) - ((y - 0.55) / 0.5) ** 2)
    return brushed(rgb * light[..., None], pick.own, 3 * pick.noise((h, w), 3, 2), 0.014, 0.007, 900, 0.012)


def geometric(pick: Choices, p: Array, w: int, h: int) -> Array:
    """Discs, bars and arcs in balance on paper."""
    a = w / h
    sheet = Sheet(mix(p[5], p[4], 0.25 * noise(pick.own, (h, w), 4) + 0.1))
    tilt = pick.between(-0.8, 0.8)
    cx, cy, r = pick.between(0.3, 0.7) * a, pick.between(0.3, 0.6), pick.between(0.16, 0.28)
    rings, first = pick.count(1, 5), int(pick.series.integers(0, 4))
    for k in range(rings):
        sheet.disc(cx, cy, r * (1 - k / rings), p[(first + k * 3) % 5], 0.95)
    half = [(np.cos(t), np.sin(t)) for t in np.linspace(0, np.pi, 40)]
    for k in range(pick.count(2, 5)):
        part = pick.part(k)
        place = (part.between(0.1, 0.9) * a, part.between(0.1, 0.9))
        size, colour = part.between(0.06, 0.2), p[part.among([0, 1, 2, 3, 3])]
        form = part.among(["bar", "bar", "half", "triangle", "grid"])
        if form == "bar":
            sheet.placed(place, tilt + part.among([0, np.pi / 2]), size).rectangle((-2, -0.14, 2, 0.14), colour, 0.9)
        elif form == "half":
            sheet.placed(place, tilt + part.among([0, np.pi / 2, np.pi]), size).shape(half, colour, 0.85)
        elif form == "triangle":
            sheet.placed(place, tilt + part.between(0, 6), size).shape([(0, -1), (0.9, 0.6), (-0.9, 0.6)], colour, 0.85)
        else:
            for i in range(6):
                sheet.placed(place, tilt, size).line([(-1, i / 3 - 1), (1, i / 3 - 1)], colour, 0.007)
    for k in range(pick.count(1, 4)):
        part = pick.part(30 + k)
        place, angle = (part.between(0.2, 0.8) * a, part.between(0.2, 0.8)), tilt + part.among([0, np.pi / 2, 0.6])
        sheet.placed(place, angle, 0.6).line([(-1, 0), (1, 0)], p[0], part.among([0.004, 0.008, 0.016]))
    for k in range(pick.count(1, 5)):
        part = pick.part(60 + k)
        cx, cy, r = part.between(0.1, 0.9) * a, part.between(0.1, 0.9), part.between(0.012, 0.05)
        sheet.disc(cx, cy, r, p[part.among([0, 3, 2])], 0.95)
    return canvas(sheet.rgb() * relief(noise(pick.own, (h, w), 60, 2), 0.12), pick.own, 0.015)


def mosaic(pick: Choices, p: Array, w: int, h: int) -> Array:
    """A town of coloured squares and roofs under a sun, in watercolour."""
    a = w / h
    n = pick.among([7, 8, 9, 10])
    m = max(4, round(n * a))
    tones = pick.series.random((n, m, 2)) + KINSHIP * pick.own.normal(size=(n, m, 2))
    height = 0.3 + 0.5 * pick.noise((1, m), (1, 4), 2)[0]
    sheet = Sheet(np.broadcast_to(p[0], (h, w, 3)))
    sway = 0.35 * (pick.series.random((n + 1, m + 1, 2)) - 0.5)
    sway[0], sway[-1], sway[:, 0], sway[:, -1] = 0, 0, 0, 0
    down, across = np.mgrid[0 : n + 1, 0 : m + 1]
    corners = np.dstack([(across + sway[..., 0]) * a / m, (down + sway[..., 1]) / n])
    sky, town = [p[1], p[2], p[4]], [p[0], p[1], p[3], p[2], p[4], p[5]]
    for i, j in np.ndindex(n, m):
        box = corners[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
        built = i / n > 1 - height[j]
        tone, detail = tones[i, j]
        sheet.shape(box, ramp(town, np.float32(tone)) if built else ramp(sky, np.float32(0.6 * tone + 0.4 * i / n)))
        if built and (detail > 0.72 or (i - 1) / n <= 1 - height[j]):
            sheet.shape([box[3], (box[0] + box[1]) / 2, box[2]], p[int(detail * 997) % 4])
        elif built and detail < 0.25:
            sheet.placed(box.mean(0), 0, 1 / n).rectangle((-0.2, -0.25, 0.2, 0.25), p[4])
    x, y, r = pick.between(0.15, 0.85) * a, pick.between(0.1, 0.3), pick.between(0.05, 0.1)
    sheet.disc(x, y, r * 1.12, p[0])
    sheet.disc(x, y, r, p[3])
    wash = noise(pick.own, (h, w), 8, 5)
    return canvas(mix(sheet.rgb(), p[5], 0.45 * wash**2) * relief(wash, 0.6), pick.own, 0.03)


def portrait(pick: Choices, p: Array, w: int, h: int) -> Array:
    """A long quiet face, three-quarter light."""
    x, y, a = grid(w, h)
    rgb = ramp([p[1], p[2], p[4]], 0.75 - 0.5 * x / a + 0.6 * (pick.noise((h, w), 3) - 0.5))
    cx, cy = a / 2 + pick.between(-0.08, 0.08), pick.between(0.36, 0.42)
    face_w, face_h = pick.between(0.12, 0.15), pick.between(0.18, 0.22)
    skin = mix(pigment(0.93, 0.76, 0.62), pigment(0.48, 0.30, 0.21), pick.between(0, 1))
    hair = ramp([p[0] * 0.7, [0.25, 0.13, 0.07], [0.55, 0.3, 0.12], [0.6, 0.57, 0.53]], np.float32(pick.between(0, 1)))
    dress, trim = p[pick.among([0, 1, 3, 3])], p[pick.among([4, 5])]
    shade = (0.55 + 0.55 * np.clip(0.5 - (x - cx) / 0.5, 0, 1))[..., None]
    tilt = pick.between(-0.1, 0.1)
    style, broad = pick.among(["long", "bun", "short", "hat"]), pick.between(0.28, 0.38)
    u, v = (x - cx) * np.cos(tilt) + (y - cy) * np.sin(tilt), (y - cy) * np.cos(tilt) - (x - cx) * np.sin(tilt)
    if style == "long":
        back = edge(1 - np.hypot(u / (face_w * 1.38), np.where(v < 0, v / (face_h * 1.25), v / (face_h * 2.1))), 0.04)
        rgb = mix(rgb, hair * shade * 0.8, back)
    chin = cy + face_h
    slope = np.clip((y - (chin + 0.09)) / 0.3, 0, 1)
    body = edge(broad * np.sqrt(slope) + 0.08 - np.abs(x - cx) - 0.4 * (y < chin), 0.012) * (y > chin + 0.02)
    rgb = mix(rgb, dress * (shade * (0.85 + 0.3 * pick.noise((h, w), (2, 6), 3))[..., None]), body)
    neck = edge(face_w * 0.5 - np.abs(x - cx - 0.01), 0.01) * (y > cy) * edge(chin + 0.14 - y - 2 * (x - cx) ** 2, 0.02)
    rgb = mix(rgb, skin * (shade * 0.78), neck)
    collar = pick.between(0.02, 0.06)
    curve = y - cy - face_h - 0.13 + 2.2 * (x - cx) ** 2 * np.sign(0.03 - collar)
    rgb = mix(rgb, trim * shade, body * edge(collar - np.abs(curve), 0.01))
    if style == "bun":
        rgb = mix(rgb, hair * shade * 0.85, edge(1 - np.hypot(u / 0.075, (v + face_h * 1.22) / 0.06), 0.08))
    if style != "long":
        rgb = mix(rgb, hair * shade, edge(1 - np.hypot(u / (face_w * 1.16), (v + 0.035) / (face_h * 1.06)), 0.04))
    oval = edge(1 - np.hypot(u / (face_w * (1 - 0.22 * np.clip(v / face_h, 0, 1))), v / face_h), 0.04)
    form = shade * (1.06 - 0.3 * np.clip(u / face_w, 0, 1) ** 2)[..., None]
    cheek = np.exp(-((u / face_w + 0.45) ** 2 + (v / face_h - 0.25) ** 2) / 0.05)
    rgb = mix(rgb, skin * form + pigment(0.09, 0.0, 0.0) * cheek[..., None], oval)
    fringe = edge(-v - face_h * (0.5 + 0.35 * np.abs(u / face_w + pick.among([-0.5, 0, 0.5]))), 0.03)
    rgb = mix(rgb, hair * shade, oval * fringe)
    sheet = Sheet(rgb)

    def at(s: float, t: float) -> Point:
        return turned([(s * face_w, t * face_h)], (cx, cy), tilt)[0]

    deep, lips = skin * 0.45, mix(skin, pigment(0.7, 0.16, 0.16), 0.65) * 0.85
    for side in (-1, 1):
        sheet.line([at(side * 0.68, -0.20), at(side * 0.42, -0.27), at(side * 0.2, -0.22)], hair * 0.7, 0.009, 0.8)
        eye = [at(side * 0.64, -0.06), at(side * 0.43, -0.125), at(side * 0.2, -0.05), at(side * 0.43, -0.015)]
        sheet.shape(eye, pigment(0.93, 0.9, 0.84) * (0.95 if side < 0 else 0.75))
        sheet.disc(*at(side * 0.43 + 0.03, -0.07), 0.0135, p[0])
        sheet.line(eye[:3], deep, 0.007, 0.9)
    sheet.line([at(0.12, -0.15), at(0.16, 0.18), at(0.2, 0.27), at(0.02, 0.32), at(-0.12, 0.28)], deep, 0.007, 0.65)
    sheet.shape([at(-0.3, 0.56), at(-0.1, 0.51), at(0.02, 0.535), at(0.13, 0.51), at(0.32, 0.56), at(0.02, 0.66)], lips)
    sheet.line([at(-0.3, 0.56), at(0.02, 0.57), at(0.32, 0.56)], deep, 0.005, 0.8)
    if style == "hat":
        brim = [at(-1.1, -0.55), at(0.1, -0.72), at(1.15, -0.6)]
        sheet.shape([brim[0], at(-0.9, -1.35), at(0.8, -1.4), brim[2], brim[1]], dress * 0.75)
        sheet.line(brim, trim, 0.02)
    if pick.among([True, False]):
        for k in np.linspace(-1, 1, 11):
            sheet.disc(cx + 0.085 * k, chin + 0.115 - 0.05 * k * k, 0.009, p[5])
    return brushed(sheet.rgb(), pick.own, 1.2 + 2 * (pick.noise((h, w), 3, 2) - 0.5), 0.011, 0.006, 1100, 0.018)


def colour_field(pick: Choices, p: Array, w: int, h: int) -> Array:
    """Two or three clouds of colour, breathing."""
    x, y, a = grid(w, h)
    rgb = p[pick.among([0, 1, 2, 3])] * (0.85 + 0.3 * pick.noise((h, w), (5, 3), 5))[..., None]
    cuts = np.cumsum([pick.between(0.6, 1.6) for _ in range(pick.among([2, 3, 3]))])
    cuts = np.concatenate([[0], cuts / cuts[-1]]) * 0.9 + 0.05
    order = pick.series.permutation(6)
    for k, (top, low) in enumerate(pairwise(cuts)):
        veil = noise(pick.own, (h, w), (8, 5), 5)
        inside = np.minimum(np.minimum(y - top - 0.015, low - 0.015 - y), np.minimum(x - 0.07 * a, 0.93 * a - x))
        inside = inside + 0.05 * (veil - 0.5)  # frayed edges
        rgb = mix(rgb, p[order[k]] * (0.9 + 0.2 * veil)[..., None], edge(inside, 0.05) * (0.75 + 0.25 * veil))
    return brushed(rgb, pick.own, np.zeros((h, w)) + 0.1, 0.04, 0.01, 300, 0.01)


PAINTINGS: dict[str, Callable[[Choices, Array, int, int], Array]] = {
    "river school": landscape, "luminists": seascape, "ink mountains": ink_mountains,
    "tenebrists": still_life, "constructors": geometric, "little towns": mosaic,
    "long faces": portrait, "floating world": woodblock, "colour field": colour_field,
}  # fmt: skip
