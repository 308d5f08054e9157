"""The drawing code of the synthetic museum: colours, pictures as arrays (H, W, 3) float32 in [0, 1], shapes, light.

Functions that draw a picture take the random `Choices`, a palette (6, 3) and the width and height in pixels. Lengths
are in units of the picture's height: y runs from 0 to 1, x from 0 to width/height.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, gaussian_filter1d

Array = np.ndarray

# From dark to light, the fourth is the accent.
PALETTES = {
    "harbour at dusk": "1b2a41 324a5f 5b7a8c e08e45 f2c078 fbe8c8",
    "olive grove": "2b2d1f 4f5b32 7d8a4e c7863b d9c58a f3ead0",
    "winter light": "22313f 4a6274 8aa2b2 c96f53 d5dde1 f4f1ea",
    "rose garden": "3a1f2d 7a3b4d b0647a 6f8f6b e6b7b0 f8e9e2",
    "cobalt": "0f1f4b 1f3f8f 4a76c4 c9a24a b9cde8 f2f5f8",
    "terracotta": "2a1712 6b2f1d b4552d e0a458 ecc9a0 f7ecdc",
    "moss and gold": "1f2a22 3f5a45 7a9470 d4a72c dcd3a2 f5f0dc",
    "plum": "251a33 4a3266 7f5a99 e0956b cdb4d8 f3ebf2",
    "peacock": "0b2b33 11606b 3c9a9a e2703a a9d6c9 eff6ec",
    "vermilion": "2b1414 7d1f1f c8402b e9a23b f0cf9b faf0df",
    "ink": "1a1a1c 3d3d40 77757a a63a2c c9c0ad ece3cf",
    "lapis": "101b3a 27407a 5878ad d8863f c7c3b0 f1eada",
    "autumn": "2c1a12 6d3a1c a8642a c93f26 e3b04b f6e5c1",
    "sea glass": "16323a 3b6e75 79aaa6 e0b15c c8e0d5 f6f4e6",
    "desert": "38241f 7f4f3a b97f57 4f7f86 e3bd8f f7e6cb",
    "iris": "1d1f47 3f4391 7c7fc2 f0b54a c3c6ea f4f2fa",
}


def colours(hexes: str) -> Array:
    """Read "1b2a41 324a5f" as an (n, 3) array."""
    return np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in hexes.split()], np.float32)


def pick_colour(rng: Generator, hexes: str) -> Array:
    """Pick one of several colours."""
    options = colours(hexes)
    return options[int(rng.integers(len(options)))]


def pigment(*channels: float) -> Array:
    return np.array(channels, np.float32)


def ramp(stops: Any, t: Any) -> Array:
    """Look t in [0, 1] up in evenly spaced colours: (..., 3)."""
    stops = np.asarray(stops, np.float32)
    table = np.stack([np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(stops)), c) for c in stops.T], 1)
    return table.astype(np.float32)[np.clip(np.asarray(t) * 255, 0, 255).astype(np.uint8)]


def mix(below: Any, above: Any, t: Any) -> Array:
    """Lay `above` over `below` with opacity t (H, W)."""
    t = np.clip(np.asarray(t, np.float32), 0, 1)[..., None]
    return np.asarray(below * (1 - t) + above * t, np.float32)


def to_image(rgb: Array) -> Image.Image:
    return Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))


def to_array(image: Image.Image) -> Array:
    return np.asarray(image, np.float32) / 255


KINSHIP = 0.26  # how far an exhibit strays from its series, as a part of each choice's range


class Choices:
    """Two random generators, the series' and the exhibit's own: every choice is the series' choice, varied a little.

    `part(k)` is a fresh pair for one part of the picture; what is drawn for one part doesn't shift the next.
    """

    def __init__(self, series: Sequence[int], own: Sequence[int]) -> None:
        self.seeds = (list(series), list(own))
        self.series, self.own = default_rng(self.seeds[0]), default_rng(self.seeds[1])

    def part(self, k: int) -> "Choices":
        return Choices([*self.seeds[0], k], [*self.seeds[1], k])

    def between(self, low: float, high: float, variation: float = 1.0) -> float:
        varied = self.series.uniform(low, high) + variation * KINSHIP * (high - low) * self.own.normal()
        return float(np.clip(varied, low, high))

    def count(self, low: int, high: int) -> int:
        return int(np.clip(self.series.integers(low, high + 1) + self.own.integers(-1, 2), low, high))

    def among(self, options: Sequence[Any]) -> Any:
        return options[int(self.series.integers(len(options)))]

    def noise(self, shape: tuple[int, int], grain: Any = 4, octaves: int = 4) -> Array:
        own = 2 * KINSHIP
        return (1 - own) * noise(self.series, shape, grain, octaves) + own * noise(self.own, shape, grain, octaves)


def noise(rng: Generator, shape: tuple[int, int], grain: Any = 4, octaves: int = 4) -> Array:
    """Draw clouds: (H, W) in [0, 1], `grain` blobs (down, across) in the coarsest of `octaves` layers."""
    down, across = grain if isinstance(grain, tuple) else (grain, grain)
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        coarse = rng.random((max(1, down * 2**octave), max(1, across * 2**octave)), np.float32)
        fine = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        total += 0.5**octave * np.asarray(fine)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


Point = tuple[float, float]


def grid(w: int, h: int) -> tuple[Array, Array, float]:
    """Give every pixel its x (1, W) and y (H, 1), and the picture its width, all in heights."""
    x, y = (np.arange(w, dtype=np.float32)[None] + 0.5) / h, (np.arange(h, dtype=np.float32)[:, None] + 0.5) / h
    return x, y, w / h


def edge(distance: Array, width: float = 0.006) -> Array:
    """Turn a signed distance into coverage: 1 inside, a soft border of `width`."""
    return np.clip(0.5 + distance / width, 0, 1)


def bell(distance: Any, width: Any) -> Any:
    """Fall off from 1 at distance 0, as a Gaussian does: exp(-(distance / width)²)."""
    return np.exp(-((distance / width) ** 2))


def relief(height: Array, strength: float) -> Array:
    """Light a height map from the upper left: a factor (H, W, 1) around 1."""
    down, across = np.gradient(height)
    return np.clip(1 + strength * (down + across), 0.4, 1.6)[..., None]


class Sheet:
    """A picture to draw on with hard-edged shapes, four samples a pixel, in units of its height.

    `placed` gives the same sheet with its points scaled, turned and moved; widths and radii stay in heights.
    """

    def __init__(self, rgb: Array) -> None:
        self.unit = 2 * rgb.shape[0]
        self.image = to_image(rgb).resize((2 * rgb.shape[1], self.unit), Image.Resampling.BILINEAR)
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        self.place: tuple[Point, float, float] | None = None

    def placed(self, centre: Point, angle: float = 0.0, scale: float = 1.0) -> Self:
        sheet = copy(self)
        sheet.place = (centre, angle, scale)
        return sheet

    def pixels(self, points: Any) -> list[Point]:
        points = points if self.place is None else turned(points, *self.place)
        return [(x * self.unit, y * self.unit) for x, y in points]

    def ink(self, colour: Any, opacity: float) -> tuple[int, ...]:
        return (*(int(v) for v in np.clip(np.asarray(colour) * 255, 0, 255)), int(255 * opacity))

    def shape(self, points: Any, colour: Any, opacity: float = 1.0) -> None:
        self.pen.polygon(self.pixels(points), fill=self.ink(colour, opacity))

    def rectangle(self, box: tuple[float, float, float, float], colour: Any, opacity: float = 1.0) -> None:
        left, top, right, bottom = box
        self.shape([(left, top), (right, top), (right, bottom), (left, bottom)], colour, opacity)

    def line(self, points: Any, colour: Any, width: float = 0.006, opacity: float = 1.0) -> None:
        self.pen.line(self.pixels(points), self.ink(colour, opacity), max(1, round(width * self.unit)), joint="curve")

    def disc(self, x: float, y: float, rx: float, colour: Any, opacity: float = 1.0, ry: float | None = None) -> None:
        ry = rx if ry is None else ry
        x, y = (x, y) if self.place is None else turned([(x, y)], *self.place)[0]
        box = [(x - rx) * self.unit, (y - ry) * self.unit, (x + rx) * self.unit, (y + ry) * self.unit]
        self.pen.ellipse(box, fill=self.ink(colour, opacity))

    def rgb(self) -> Array:
        return to_array(self.image.reduce(2))


def black(w: int, h: int) -> Sheet:
    """Give a black sheet: what is drawn on it in white or grey is a coverage or a height map, in any channel."""
    return Sheet(np.zeros((h, w, 3), np.float32))


def turned(points: Any, centre: Point, angle: float, scale: float = 1.0) -> list[Point]:
    """Scale and turn points around the origin, then move them to `centre`."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return [(centre[0] + c * x - s * y, centre[1] + s * x + c * y) for x, y in points]


def smoothed(points: Any, softness: float = 2.0, closed: bool = True) -> list[Point]:
    """Round the corners of an outline, or of an open line that keeps its ends."""
    corners = np.asarray([*points, points[0]] if closed else points, float)
    steps = np.linspace(0, len(corners) - 1, 8 * len(corners))
    fine = np.stack([np.interp(steps, np.arange(len(corners)), axis) for axis in corners.T], 1)
    return [(x, y) for x, y in gaussian_filter1d(fine, softness, axis=0, mode="wrap" if closed else "nearest")]


def brushed(rgb: Array, rng: Generator, angle: Array, length: float, width: float, n: int, mess: float = 0.04) -> Array:
    """Repaint in n strokes along `angle` (H, W), each of one colour, with the light on their ridges."""
    h, w = rgb.shape[:2]
    raised = np.dstack([rgb, np.full((h, w), 0.5, np.float32)])
    image = to_image(raised).resize((2 * w, 2 * h), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    row, column = rng.integers(0, h, n), rng.integers(0, w, n)
    ink = rgb[row, column] + rng.normal(0, mess, (n, 1)) + rng.normal(0, mess / 2, (n, 3))
    ink = (np.clip(np.column_stack([ink, rng.uniform(0.1, 0.9, n)]), 0, 1) * 255).astype(int)
    turn = angle[row, column] + rng.normal(0, 0.25, n)
    reach = length * h * rng.uniform(0.6, 1.4, n)
    dx, dy = reach * np.cos(turn), reach * np.sin(turn)
    ends = np.stack([2 * column - dx, 2 * row - dy, 2 * column + dx, 2 * row + dy], 1).tolist()
    for place, colour in zip(ends, ink.tolist(), strict=True):
        pen.line(place, tuple(colour), max(2, round(2 * width * h)))
    painted = to_array(image.reduce(2))
    return painted[..., :3] * relief(gaussian_filter(painted[..., 3], 0.7), 0.28)


def canvas(rgb: Array, rng: Generator, weave: float = 0.03) -> Array:
    """Let the threads of a canvas show through."""
    h, w = rgb.shape[:2]
    y, x = np.mgrid[0:h, 0:w]
    threads = np.sin(x * 2.1) * np.sin(y * 2.1) + rng.normal(0, 0.5, (h, w))
    return rgb * (1 + weave * threads[..., None]).astype(np.float32)
