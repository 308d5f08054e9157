"""Shapes, strokes and light. Lengths are in heights of the picture: y runs from 0 to 1, x from 0 to width/height."""

from copy import copy
from typing import Any, Self

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from metlib.common.drawing import Array, to_array, to_image

Point = tuple[float, float]


def relief(height: Array, strength: float) -> Array:
    """Light a height map from the upper left: a factor (H, W, 1) around 1."""
    down, across = np.gradient(height)
    return np.clip(1 + strength * (down + across), 0.4, 1.6)[..., None]


class Sheet:
    """A picture to draw on with hard-edged shapes, four samples a pixel, in units of its height."""

    def __init__(self, rgb: Array) -> None:
        self.unit = 2 * rgb.shape[0]
        self.image = to_image(rgb).resize((2 * rgb.shape[1], self.unit), Image.Resampling.BILINEAR)
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        self.place: tuple[Point, float, float] | None = None

    def placed(self, centre: Point, angle: float = 0.0, scale: float = 1.0) -> Self:
        """Give the same sheet with its points scaled, turned and moved; widths and radii stay in heights."""
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
