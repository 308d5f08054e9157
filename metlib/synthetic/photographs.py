"""Photographs of exhibits, in the studio and in the gallery."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image
from scipy.ndimage import gaussian_filter

from metlib.synthetic.colours import Array, Choices, mix, noise, pick_colour, pigment, to_array, to_image
from metlib.synthetic.drawing import Sheet, bell, edge, grid
from metlib.synthetic.objects import GLAZES, LOOMS, MINTS, cloth, coin, vessel
from metlib.synthetic.paintings import PAINTINGS
from metlib.synthetic.visitors import gallery, hang, label, visit

FORMATS = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0), (1.0, 0.8), (0.8, 1.0))  # few shapes: extraction batches by shape
SCHOOLS = {"painting": tuple(PAINTINGS), "vessel": tuple(GLAZES), "coin": tuple(MINTS), "textile": tuple(LOOMS)}
KINDS, SHARES = tuple(SCHOOLS), (0.52, 0.2, 0.1, 0.18)


@dataclass(frozen=True)
class Exhibit:
    """One exhibit's line in the catalogue; `series_key` and `key` seed its two random generators."""

    id: int
    kind: str
    school: str
    palette: str
    maker: str
    title: str
    series: int
    series_key: tuple[int, ...]
    key: tuple[int, ...]

    def shape(self, size: int) -> tuple[int, int]:
        """Give the studio photograph's width and height in pixels, the same for a whole series."""
        flat = self.kind in ("painting", "textile")
        choice = int(default_rng([*self.series_key, 7]).integers(len(FORMATS))) if flat else 0
        w, h = FORMATS[{"ink mountains": 2, "long faces": 4, "luminists": 1}.get(self.school, choice)]
        return round(w * size), round(h * size)


def render(exhibit: Exhibit, size: int, view: int = 0, rng: Generator | None = None) -> tuple[Array, Array | None]:
    """Draw the thing itself: its picture, and its coverage if it's no full rectangle. Later views turn it."""
    pick = Choices(exhibit.series_key, exhibit.key)
    p = pick.palette(exhibit.palette)
    part, (w, h) = pick.part(1), exhibit.shape(size)
    if exhibit.kind == "painting":
        return PAINTINGS[exhibit.school](part, p, w, h), None
    nudge = 0.0 if rng is None else float(rng.normal(0, 0.12))
    if exhibit.kind == "vessel":
        return vessel(pick.part(2), GLAZES[exhibit.school](part, p), w, h, 0.6 * view + nudge)
    if exhibit.kind == "coin":
        metals, motifs = MINTS[exhibit.school]
        reverse = view >= 2 and view % 2 == 0
        return coin(part, pick.among(metals), pick.among(motifs), w, h, reverse, -2.3 + 0.3 * view + nudge)
    return cloth(pick.part(2), LOOMS[exhibit.school](part, p, w, h), w, h)


def studio(exhibit: Exhibit, view: int, size: int) -> Array:
    """Photograph an exhibit as museums do: paintings cut to the picture, objects before a grey sweep.

    The first view is the whole thing; later ones are details, other light, the other side.
    """
    rng = default_rng([*exhibit.key, 100 + view])
    rgb, alpha = render(exhibit, size, view)
    h, w = rgb.shape[:2]
    if alpha is not None:
        x, y, a = grid(w, h)
        tone = default_rng([*exhibit.series_key, 8]).choice([0.92, 0.84, 0.70]) + rng.normal(0, 0.02)
        floor = 0.25 * np.clip(y - 0.55, 0, 1) * (exhibit.kind != "textile")
        sweep = tone * (1.04 - floor - 0.22 * np.hypot(x - 0.5 * a, y - 0.4) ** 2)
        rgb = mix(drop_shadow(sweep[..., None] * pigment(1.0, 1.0, 1.01), alpha, exhibit.kind), rgb, alpha)
    image = to_image(rgb)
    if view:
        zoom = rng.uniform(0.5, 0.85) if view % 2 else rng.uniform(0.9, 1.0)
        left, top = (1 - zoom) * w * rng.random(), (1 - zoom) * h * rng.random()
        image = image.resize((w, h), Image.Resampling.BICUBIC, (left, top, left + zoom * w, top + zoom * h))
    exposure = rng.normal(1, 0.02 if view == 0 else 0.07) * (1 + rng.normal(0, 0.01, 3))
    return to_array(image) * exposure.astype(np.float32)


def lowest(alpha: Array) -> float:
    """Give the y where a thing stands, in heights: the lowest row that its coverage reaches."""
    return float(np.nonzero(alpha.max(1) > 0.5)[0].max()) / len(alpha)


def drop_shadow(ground: Array, alpha: Array, kind: str) -> Array:
    """Darken the ground on which a thing stands (vessel) or lies (coin, textile)."""
    h, w = alpha.shape
    if kind == "vessel":
        x, y, _ = grid(w, h)
        foot = lowest(alpha)
        across = np.nonzero(alpha[int(foot * h) - 2] > 0.5)[0]
        middle, half = (across.min() + across.max()) / 2 / h, np.ptp(across) / 2 / h
        near = np.hypot((x - middle - 0.04) / (1.25 * half + 0.02), (y - foot + 0.015) / 0.035)
        far = np.hypot((x - middle - 0.16) / (2.2 * half + 0.05), (y - foot + 0.02) / 0.06)
        dark = 0.55 * bell(near, 1) + 0.28 * bell(far, 1)
    else:
        dark = 0.55 * np.roll(gaussian_filter(alpha, h / 45), (round(h / 50), round(h / 70)), (0, 1))
    return ground * (1 - dark)[..., None].astype(np.float32)


def scene(exhibit: Exhibit, rng: Generator, size: int, w: int, h: int) -> Array:
    """Set an exhibit where visitors meet it: on a wall, on a plinth, in a case."""
    wall = gallery(rng, w, h)
    art, alpha = render(exhibit, size, int(rng.integers(0, 2)) if exhibit.kind == "vessel" else 0, rng)
    if alpha is None:
        hang(rng, wall, to_image(art))
        return wall
    image = to_image(np.dstack([art, alpha]))
    image.thumbnail((int(w * 0.86), int(h * 0.86)))
    placed = Image.new("RGBA", (w, h))
    placed.paste(image, ((w - image.width) // 2, (h - image.height) // 2))
    cut = to_array(placed)
    art, alpha = cut[..., :3], cut[..., 3]
    x, y, a = grid(w, h)
    if exhibit.kind == "vessel":
        wall = gaussian_filter(wall, (h / 25, h / 25, 0)) * 0.85
        spot, other = rng.uniform(0, a), rng.uniform(0.02, 0.06)
        wall = mix(wall, pigment(1, 0.93, 0.8), 0.6 * bell(np.hypot(x - spot, y - 0.2), other))
        foot = lowest(alpha)
        plinth = pick_colour(rng, "eeece6 d9d4c8 2c2b2e 6e5b45")
        wall = mix(wall, plinth * (1.0 - 0.4 * (y - foot))[..., None], edge(y - foot + 0.06, 0.01))
    else:
        lining = pick_colour(rng, "e9e4d8 b7b2a6 d6d4d0 8f8d8a 6d2f38 33405a")
        wall = lining * (0.85 + 0.2 * noise(rng, (h, w), 40, 2) - 0.25 * np.abs(y - 0.4))[..., None]
    rgb = mix(drop_shadow(wall, alpha, exhibit.kind), art, alpha)
    if rng.random() < 0.6:
        sheet = Sheet(rgb)
        label(sheet, rng, rng.uniform(0.1, 0.7) * a, rng.uniform(0.86, 0.94))
        rgb = sheet.rgb()
    return rgb


def query(rng: Generator, exhibit: Exhibit, size: int) -> Image.Image:
    """Take one visitor's photograph of an exhibit, its longer side `size` pixels."""
    art_w, art_h = exhibit.shape(size)
    fitting = int(np.sign(art_w - art_h)) % 3  # visitors turn their phones to suit the picture, mostly
    w, h = (round(side * size) for side in FORMATS[fitting if rng.random() < 0.8 else int(rng.integers(3))])
    wide = 1.15 if art_w >= art_h else 1.0
    return visit(rng, scene(exhibit, rng, size, round(1.25 * size * wide), round(1.25 * size * (2.15 - wide))), w, h)
