"""Textiles: three weaves, and how a textile is laid out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from metlib.synthetic.choices import Choices, noise
from metlib.synthetic.drawing import edge, grid, relief
from metlib.synthetic.palettes import Array, mix, pigment, to_array, to_image


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
    swap, other = int(pick.own.integers(0, 8)), int(pick.own.integers(0, 6))
    order[swap] = other
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
    row = np.floor(y / tile)
    u = np.abs(((x / tile + 0.5 * (row % 2) * pick.among([0, 1])) % 1) - 0.5) * 2
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
