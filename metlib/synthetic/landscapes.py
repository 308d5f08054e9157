"""Paintings of land, sea and mountains, of four schools."""

from __future__ import annotations

import numpy as np

from metlib.synthetic.choices import Choices, noise
from metlib.synthetic.drawing import Sheet, bell, brushed, canvas, edge, grid
from metlib.synthetic.palettes import Array, mix, pigment, ramp


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
        foot = horizon + 0.055 * k
        crest = foot - part.between(0.04, 0.16) * (1 - 0.15 * k) * part.noise((1, w), (1, 2 + k), 4)
        hill = ramp([p[4], p[2], p[1], p[1]], np.float32(0.18 + 0.25 * k))
        rgb = mix(rgb, mix(hill, p[4], 0.5 * np.clip(1 - (y - crest) / 0.06, 0, 1)), edge(y - crest, 0.01))
    shore = horizon + 0.2
    field = ramp([p[1], p[2], p[3], p[4]], 0.75 * pick.noise((h, w), (10, 2)) + 0.2 * (1 - y))
    rgb = mix(rgb, field, edge(y - shore, 0.03))
    if pick.among([True, False]):
        bend = pick.between(0.2, 0.8) * a + 0.16 * np.sin(9 * y + pick.between(0, 6))
        river = edge((y - shore) * pick.between(0.3, 0.6) + 0.02 - np.abs(x - bend), 0.02) * edge(y - shore, 0.03)
        rgb = mix(rgb, mix(p[5], p[4], pick.noise((h, w), (24, 3))), 0.9 * river)
    sheet, part = Sheet(rgb), pick.part(9)
    tall, places = part.between(0.18, 0.42), part.series.random((9, 3))
    for u, v, size in places[: part.count(2, 8)]:
        cx, foot, top = u * a + part.own.normal(0, 0.02), shore + 0.1 * v, tall * (0.6 + 0.6 * size)
        side = np.sign(sun[0] - cx)
        sheet.line([(cx, foot), (cx, foot - top * 0.6)], p[0], 0.014)
        for _ in range(80):
            dx, dy = part.own.normal(0, 0.20 * top), part.own.uniform(0, 1)
            dx *= 1.1 - dy if tall > 0.3 else 1.2 * np.sqrt(dy * (1.05 - dy))
            tone = np.clip(0.45 + 2.2 * side * dx / top + 0.35 * dy + part.own.normal(0, 0.15), 0, 1)
            sheet.disc(cx + dx, foot - top * (0.25 + 0.75 * dy), 0.05 * top, ramp([p[0], p[1], p[3], p[4]], tone * 0.8))
    angle = np.where(y < horizon, 0.25, 1.2) * (pick.noise((h, w), 3, 2) - 0.4) * 2
    return brushed(sheet.rgb(), pick.own, angle, 0.022, 0.008, 1300)


def seascape(pick: Choices, p: Array, w: int, h: int) -> Array:
    """A calm sea with the light on it, and sails."""
    x, y, a = grid(w, h)
    horizon, sun = pick.between(0.45, 0.68), (pick.between(0.2, 0.8) * a, pick.between(0.1, 0.5))
    night = pick.among([False, False, True])
    high, low, glow = (p[0], p[1], p[5]) if night else (p[2], p[4], mix(p[3], p[5], 0.5))
    clouds = pick.noise((h, w), (6, 2), 5)
    rgb = ramp([high, mix(high, low, 0.6), low, glow], y / horizon + 0.3 * (clouds - 0.5))
    distance = np.hypot(x - sun[0], y - sun[1])
    light = bell(distance, 0.35)
    bank = np.clip((clouds - pick.between(0.45, 0.6)) * 4, 0, 1)
    rgb = mix(rgb, mix(mix(high, p[1], 0.4), p[5], np.clip(light + 0.3 - bank * 0.2, 0, 1)), 0.7 * bank)
    rgb = mix(rgb, glow, 0.6 * light)
    rgb = mix(rgb, p[5], edge(0.045 - distance, 0.012))
    depth = np.clip((y - horizon) / (1 - horizon), 1e-3, 1)
    swell = pick.noise((h, w), (40, 5), 3)
    sea = ramp([mix(low, p[1], 0.4), p[1], p[0]], depth**0.6 + 0.5 * (swell - 0.5))
    glitter = bell(x - sun[0], 0.05 + 0.22 * depth) * np.clip((swell - 0.42 - 0.1 * depth) * 9, 0, 1)
    sea = mix(mix(sea, low, 0.25), p[5], 0.9 * glitter)
    rgb = mix(rgb, sea, edge(y - horizon, 0.004))
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
        tone = (0.25 + 0.6 * near) * np.clip(body + 0.5 * line, 0, 1) * (below > 0)
        rgb = mix(rgb, mix(p[2], p[0], near), tone)
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
