"""Photographs: of exhibits in the studio, and by visitors of exhibits or of what is no art."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image
from scipy.ndimage import gaussian_filter

from metlib.common.drawing import Array, bell, colours, edge, grid, mix, noise, pick_colour, pigment, to_array, to_image
from metlib.synthetic.colours import Choices, ramp
from metlib.synthetic.drawing import Sheet
from metlib.synthetic.objects import GLAZES, LOOMS, MINTS, cloth, coin, vessel
from metlib.synthetic.paintings import PAINTINGS
from metlib.visits import gallery, hang, visit

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
    """Photograph an exhibit as museums do: whole in view 0, later from other sides, in other light or in detail."""
    rng = default_rng([*exhibit.key, 100 + view])
    rgb, alpha = render(exhibit, size, view)
    w, h = exhibit.shape(size)
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


def label(sheet: Sheet, rng: Generator, x: float, y: float) -> None:
    """Draw a label with lines of text; x, y: its upper left corner."""
    w, h = 0.18, 0.09
    sheet.rectangle((x, y, x + w, y + h), (0.96, 0.95, 0.92))
    for k in range(4):
        left, level = x + 0.07 * w, y + h * (0.2 + 0.2 * k)
        long = w * (0.85 if k else 0.5) * rng.uniform(0.7, 1)
        sheet.line([(left, level), (left + long, level)], (0.25,) * 3, 0.06 * h)


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
        spot = np.hypot(x - rng.uniform(0, a), y - 0.2)
        wall = mix(wall, pigment(1, 0.93, 0.8), 0.6 * bell(spot, rng.uniform(0.02, 0.06)))
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


def crop_of_photo(rng: Generator, w: int, h: int) -> Array:
    """Cut from one of scikit-learn's two sample photographs, at times mirrored and in other colours."""
    from sklearn.datasets import load_sample_images

    photo = Image.fromarray(load_sample_images().images[int(rng.integers(2))])
    wide = int(rng.uniform(0.25, 0.8) * photo.width)
    tall = min(photo.height, wide * h // w)
    left, top = int(rng.integers(0, photo.width - wide + 1)), int(rng.integers(0, photo.height - tall + 1))
    rgb = to_array(photo.resize((w, h), Image.Resampling.BICUBIC, (left, top, left + wide, top + tall)))
    rgb = rgb[:, :: rng.choice([-1, 1])]
    if rng.random() < 0.5:
        rgb = rgb[..., rng.permutation(3)]
    return rgb ** rng.uniform(0.6, 1.5) * rng.uniform(0.8, 1.15, 3).astype(np.float32)


def empty_gallery(rng: Generator, w: int, h: int) -> Array:
    rgb = gallery(rng, w, h)
    skirting, floor = 0.72 + 0.1 * rng.random(), pick_colour(rng, "8a5f3c a98a64 4a3426 77736d")
    x, y, a = grid(w, h)
    depth = np.clip(y - skirting, 1e-3, 1)
    lines = 0.85 + 0.15 * np.sin((x - a / 2) / (depth + 0.06) * 14) * np.sin(3 / (depth + 0.05))
    sheet = Sheet(mix(rgb, floor * lines[..., None], edge(y - skirting)))
    door = rng.uniform(0.1, 0.7) * a
    sheet.rectangle((door, 0.2, door + 0.25, skirting), (0.12, 0.11, 0.11), 0.9)
    bench = rng.uniform(0.2, 0.6) * a
    sheet.shape([(bench, 0.84), (bench + 0.4, 0.84), (bench + 0.44, 0.89), (bench - 0.04, 0.89)], (0.2, 0.13, 0.09))
    for leg in (0.02, 0.36):
        sheet.line([(bench + leg, 0.88), (bench + leg, 0.97)], (0.1, 0.1, 0.1), 0.02)
    for k in range(4):
        sheet.disc((k + 0.5) / 4 * a, 0.06, 0.03, (1, 0.97, 0.88), 1, 0.012)
    return sheet.rgb()


def open_sky(rng: Generator, w: int, h: int) -> Array:
    x, y, _ = grid(w, h)
    sky = rng.choice(colours("2f6fb5 a9cdea 24344d e8a36a 6f86a0 d5dbe0").reshape(3, 2, 3))
    clouds = noise(rng, (h, w), (5, 3), 6)
    rgb = mix(ramp(sky, y + 0 * x), pigment(1, 0.98, 0.95) * (0.7 + 0.3 * clouds[..., None]), (clouds - 0.45) * 4)
    roofs = 0.75 + 0.2 * rng.random() - 0.15 * np.repeat(rng.random(12), -(-w // 12))[:w]
    return mix(rgb, pigment(0.18, 0.17, 0.18), edge(y - roofs)) if rng.random() < 0.5 else rgb


def tiled_floor(rng: Generator, w: int, h: int) -> Array:
    x, y, a = grid(w, h)
    lean, n = rng.uniform(0.2, 1.2), rng.uniform(3, 8)
    depth = 1 / (0.15 + lean * y + 0.3)
    u, v = (x - a / 2) * depth * n, depth * n * 1.5
    two = rng.choice(colours("d9d2c3 5a4a3e b8bcc0 35383d 9c5b3c e0c49a").reshape(3, 2, 3))
    check = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    grout = np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) < 0.03
    shade = (0.8 + 0.3 * noise(rng, (h, w), 6, 4) - 0.3 * grout)[..., None]
    return mix(two[0], two[1], check) * shade * (1.1 - 0.3 * y)[..., None]


def sign(rng: Generator, w: int, h: int) -> Array:
    sheet, a = Sheet(gallery(rng, w, h)), w / h
    board, ink = rng.choice(colours("f5f3ee 1d1d1f 204a87 f5f3ee 8c1c13 f7e9c8").reshape(3, 2, 3))
    x, y, bw, bh = 0.12 * a, rng.uniform(0.1, 0.25), 0.76 * a, rng.uniform(0.45, 0.65)
    sheet.rectangle((x, y, x + bw, y + bh), board)
    for k in range(int(rng.integers(4, 10))):
        tall, at = (0.03 if k else 0.06), x + 0.06 * a
        level = y + 0.08 + 0.052 * k + (0.03 if k else 0)
        while at < x + bw - 0.12 * a and level < y + bh - 0.03:
            word = rng.uniform(0.02, 0.12) * a
            sheet.line([(at, level), (at + word, level)], ink, tall * 0.6)
            at += word + 0.022
    if rng.random() < 0.6:
        arrow = [(-1, -0.3), (0.2, -0.3), (0.2, -0.8), (1.2, 0), (0.2, 0.8), (0.2, 0.3), (-1, 0.3)]
        sheet.placed((x + bw - 0.15, y + bh - 0.1), rng.choice([0, np.pi / 2, np.pi]), 0.07).shape(arrow, ink)
    return sheet.rgb()


def greenery(rng: Generator, w: int, h: int) -> Array:
    p = colours("16240f 2f4d1e 5a7d33 c2b23a 9dbb62 dfe9c0")
    sheet = Sheet(ramp(p[:3], noise(rng, (h, w), 5, 4)))
    for x, y, shade, angle, size in rng.random((220, 5)):
        leaf = sheet.placed((x * w / h, y), angle * 6.3, 0.05 + 0.12 * size)
        leaf.shape([(0, 0), (0.3, -0.12), (1, 0), (0.3, 0.12)], ramp(p[[1, 2, 4]], np.float32(shade)))
    return sheet.rgb()


NOT_ART: dict[str, Callable[[Generator, int, int], Array]] = {
    "Photographs": crop_of_photo, "Galleries": empty_gallery, "Skies": open_sky,
    "Floors": tiled_floor, "Signs": sign, "Plants": greenery,
}  # fmt: skip
