"""Pictures made of images: each function returns its Figure.

Right and wrong answers differ by the frame's colour, its line and a mark in its corner. All raise ValueError where
there is nothing to draw, for numbers of arguments that differ, and for maps that aren't 2-D, finite and 0 or more.
"""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from metlib.dataset import read_image
from metlib.plots.theme import COLOURS, DPI, GREY, literal, style

Picture = str | Path | Image.Image | NDArray[Any]

# Frame of a picture: colour, line style, width in points, mark in its corner.
FRAMES: dict[str | None, tuple[str, Any, float, str]] = {
    "right": (COLOURS["right"], "solid", 3, "✓"),
    "wrong": (COLOURS["wrong"], (0, (3.5, 1.5)), 3, "✗"),
    "distractor": (COLOURS["distractor"], (0, (1, 1)), 3, ""),
    None: ("#CCCCCC", "solid", 0.8, ""),
}


@dataclass(frozen=True)
class Case:
    """One answered query: the photo, an image of the exhibit it was taken for, and one of what it shows.

    `truth` is None for a distractor, `truth_confidence` (of the true exhibit) where that has no vote. Raises ValueError
    for confidences outside [0, 1], and for a distractor that is called right or has a true exhibit's confidence.
    """

    query: Path
    predicted: Path
    truth: Path | None
    confidence: float
    truth_confidence: float | None
    right: bool

    def __post_init__(self) -> None:
        for value in (self.confidence, self.truth_confidence):
            if value is not None and not 0 <= value <= 1 + 1e-9:
                raise ValueError(f"{self.query}: confidence {value}, expected a probability (exp of the log)")
        if self.truth is None and (self.right or self.truth_confidence is not None):
            raise ValueError(f"{self.query} is a distractor (truth is None): no answer to it is right")


@style()
def sheet(
    files: Sequence[Picture],
    *,
    heats: Sequence[ArrayLike | None] | None = None,
    titles: Sequence[str] | None = None,
    frames: Sequence[str | None] | None = None,
    columns: int = 6,
    width: float = 9.0,
) -> Figure:
    """Draw images as a contact sheet, each whole in a square cell; `width` in inches.

    `files` are image files, or (H, W, 3) arrays (uint8, or floats in [0, 1]). For each, `heats` gives a map (h, w) to
    lay over it, upsampled, as share of the map's maximum, or None, and `frames` "right", "wrong", "distractor" or None.
    """
    _check_number(len(files), titles=titles, frames=frames, heats=heats)
    if unknown := set(frames or []) - set(FRAMES):
        raise ValueError(f"unknown frame {unknown.pop()!r}: expected 'right', 'wrong', 'distractor' or None")
    columns = min(columns, len(files)) if len(files) < 4 else columns
    side = min(3.0, (width - 0.12) / columns - 0.12)
    texts, lines = _wrapped(titles, side + 0.12)
    below = 0.12 + lines
    fig = plt.figure(figsize=(width, 0.12 + math.ceil(len(files) / columns) * (side + below)))
    for number, file in enumerate(files):
        row, column = divmod(number, columns)
        ax = _cell(fig, 0.12 + column * (side + 0.12), 0.12 + row * (side + below), side, side)
        heat = None if heats is None else heats[number]
        picture = file if heat is None else _warmed(file, heat)
        _picture(ax, _thumbnail(picture, side), frames[number] if frames else None)
        if titles:
            ax.set_xlabel(texts[number], fontsize=9, labelpad=3)
    return fig


@style()
def pairs(lefts: Sequence[Path], rights: Sequence[Path], *, titles: Sequence[str] | None = None) -> Figure:
    """Draw pairs of image files as columns of two: `lefts`, from the studio, above `rights`, a visitor's."""
    if len(lefts) != len(rights):
        raise ValueError(f"{len(lefts)} lefts but {len(rights)} rights: pairs need one for each")
    _check_number(len(lefts), titles=titles)
    side = min(3.0, (9.0 - 0.45) / len(lefts) - 0.1)
    texts, lines = _wrapped(titles, side + 0.1)
    above = 0.1 + lines
    fig = plt.figure(figsize=(9.0, above + 2 * (side + 0.1)))
    for row, (label, files) in enumerate((("studio", lefts), ("visitor", rights))):
        for column, file in enumerate(files):
            ax = _cell(fig, 0.35 + column * (side + 0.1), above + row * (side + 0.1), side, side)
            _picture(ax, _thumbnail(file, side))
            if titles and row == 0:
                ax.set_title(texts[column], fontsize=9, pad=4)
            if column == 0:
                ax.set_ylabel(label, labelpad=5)
    return fig


@style()
def gallery(cases: Sequence[Case], *, title: str | None = None, columns: int = 2) -> Figure:
    """Draw answered queries as cards: the visitor's photo, what it was taken for, and what it is.

    A right answer stands in a solid green frame with a tick, a wrong one in a dashed red frame with a cross.
    """
    _check_number(len(cases))
    columns = min(columns, len(cases))
    gap, pad, head, foot, top = 0.14, 0.1, 0.27, 0.27, 0.34 if title else 0.0
    card = (10.0 - gap * (columns - 1)) / columns
    side = (card - 2 * pad - 0.24 - 0.12) / 3
    tall = head + side + foot
    fig = plt.figure(figsize=(10.0, top + math.ceil(len(cases) / columns) * (tall + gap) - gap))
    if title:
        fig.text(0, 1, title, fontsize=12, weight="bold", va="top", ha="left")
    for number, case in enumerate(cases):
        row, column = divmod(number, columns)
        x, y = column * (card + gap), top + row * (tall + gap)
        frame = "right" if case.right else "wrong"
        colour, pale = COLOURS[frame], (COLOURS[frame], 0.09)
        behind = _cell(fig, x, y, card, tall)
        behind.set(xlim=(0, card), ylim=(0, tall))
        behind.axis("off")
        behind.add_patch(FancyBboxPatch((0.06, 0.06), card - 0.12, tall - 0.12, "round,pad=0.06", fc=pale, ec="none"))
        lefts = (x + pad, x + pad + side + 0.24, x + pad + 2 * side + 0.36)
        query, answer, truth = (_cell(fig, left, y + head, side, side) for left in lefts)
        for ax, heading in ((query, "the photo"), (answer, "taken for"), (truth, "what it is")):
            ax.set_title(heading, fontsize=9, pad=4, color=GREY)
        _picture(query, _thumbnail(case.query, side))
        arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
        query.annotate("", (1 + 0.21 / side, 0.5), (1 + 0.03 / side, 0.5), "axes fraction", arrowprops=arrow)
        _picture(answer, _thumbnail(case.predicted, side), frame)
        answer.set_xlabel(f"confidence {_probability(case.confidence)}", fontsize=9, labelpad=4, weight="bold")
        if case.truth is None:
            _picture(truth, np.full((2, 2, 3), 224, np.uint8))
            truth.text(0.5, 0.5, "not in the\ncollection", ha="center", va="center", transform=truth.transAxes)
        else:
            _picture(truth, _thumbnail(case.truth, side))
            sure = case.truth_confidence
            text = "not a neighbour" if sure is None else f"confidence {_probability(sure)}"
            truth.set_xlabel(text, fontsize=9, labelpad=4)
    return fig


@style()
def pooling(image: Picture, maps: Sequence[ArrayLike], *, titles: Sequence[str]) -> Figure:
    """Draw an image, then each (h, w) map over it as heat: upsampled, as share of the map's maximum.

    `image` is one of `sheet`'s files, or a PIL image; `titles` name the maps, or the image and the maps.
    """
    if len(titles) == len(maps):
        titles = ["the image", *titles]
    _check_number(len(maps))
    if len(titles) != len(maps) + 1:
        raise ValueError(f"{len(titles)} titles for {len(maps)} maps: one each, or one more for the image")
    side = (10.0 - 0.7) / len(titles) - 0.1
    picture = ImageOps.contain(_as_image(image), (round(side * DPI * 2),) * 2)
    grey, tall = ImageOps.autocontrast(picture.convert("L"), cutoff=1), side * picture.height / picture.width
    fig = plt.figure(figsize=(10.0, tall + 0.35))
    cells = [_cell(fig, column * (side + 0.1), 0.3, side, tall) for column in range(len(titles))]
    for ax, title in zip(cells, titles, strict=True):
        ax.set_title(title, fontsize=10, pad=5)
    _picture(cells[0], np.asarray(picture))
    for ax, weights in zip(cells[1:], maps, strict=True):
        ax.imshow(grey, cmap="gray", vmin=-120, vmax=255)
        heat = _heat(weights, picture.size)
        _picture(ax, heat, cmap="inferno", vmin=0, vmax=1, alpha=0.25 + 0.5 * heat)
    bar = _cell(fig, len(titles) * (side + 0.1) + 0.02, 0.3, 0.12, tall)
    drawn = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "inferno")
    fig.colorbar(drawn, cax=bar, format=PercentFormatter(1, symbol=" %"), label="share of the largest weight")
    return fig


def _check_number(count: int, **given: Sequence[Any] | None) -> None:
    if not count:
        raise ValueError("nothing to draw: expected at least one picture")
    for name, values in given.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{len(values)} {name} for {count} pictures: expected one for each")


def _probability(value: float) -> str:
    """A probability as text that is never 0.00: "0.93", "0.0012", "1.2e-5", "< 1e-300"."""
    if value < 1e-300:
        return "< 1e-300"
    return f"{value:.2f}" if value >= 0.01 else re.sub(r"e-0*", "e-", f"{value:.2g}")


def _wrapped(titles: Sequence[str] | None, inches: float) -> tuple[list[str], float]:
    """Titles broken into at most three lines of 9 pt text, and the height of the tallest in inches."""
    letters = max(6, int(inches * 72 / 5.2))
    wrapped = [textwrap.wrap(title, letters, max_lines=3, placeholder=" …") for title in titles or []]
    height = 0.17 * max((max(1, len(lines)) for lines in wrapped), default=0)
    return [literal("\n".join(lines)) for lines in wrapped], height


def _as_image(image: Picture) -> Image.Image:
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind not in "uf":
        raise ValueError(f"image {array.shape}, {array.dtype}: expected (H, W, 3), uint8 or floats in [0, 1]")
    pixels = np.rint(255 * array.clip(0, 1)) if array.dtype.kind == "f" else array
    return Image.fromarray(pixels.astype(np.uint8))


def _warmed(image: Picture, weights: ArrayLike) -> NDArray[np.uint8]:
    """An image in grey with a map (h, w) over it as heat, (H, W, 3) uint8."""
    picture = ImageOps.contain(_as_image(image), (480, 480))
    grey = np.asarray(ImageOps.autocontrast(picture.convert("L"), cutoff=1), np.float32)[..., None]
    heat = _heat(weights, picture.size)
    warm, share = mpl.colormaps["inferno"](heat)[..., :3] * 255, (0.25 + 0.5 * heat)[..., None]
    return np.rint(share * warm + (1 - share) * (80 + 0.68 * grey)).astype(np.uint8)


def _heat(weights: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (h, w) as shares of its maximum, upsampled to `size` = (width, height)."""
    heat = np.asarray(weights, np.float32)
    if heat.ndim != 2 or not heat.size or not np.isfinite(heat).all() or heat.min() < 0:
        raise ValueError(f"map of shape {heat.shape}: expected (h, w) finite weights of 0 or more")
    heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC)).clip(0)
    return heat / max(float(heat.max()), 1e-30)  # type: ignore[no-any-return]


def _cell(fig: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at inches from the figure's top left corner."""
    wide, tall = fig.get_size_inches()
    return fig.add_axes((x / wide, 1 - (y + height) / tall, width / wide, height / tall))


def _thumbnail(image: Picture, side: float) -> NDArray[np.uint8]:
    """The whole image in a white square as large as it is shown."""
    return np.asarray(ImageOps.pad(_as_image(image), (round(side * DPI),) * 2, color="white"))


def _picture(ax: Axes, pixels: NDArray[Any], frame: str | None = None, **options: Any) -> None:
    colour, line, width, mark = FRAMES[frame]
    ax.imshow(pixels, aspect="auto", **options)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)  # one path instead: its dashes go around the corners
    around = {"ec": colour, "ls": line, "lw": width, "transform": ax.transAxes, "clip_on": False, "zorder": 4}
    ax.add_patch(Rectangle((0, 0), 1, 1, fill=False, **around))
    if mark:
        badge = {"boxstyle": "circle,pad=0.25", "fc": colour, "ec": "white", "lw": 1}
        middle: dict[str, Any] = {"transform": ax.transAxes, "va": "center", "ha": "center"}
        ax.text(0.03, 0.97, mark, color="white", bbox=badge, zorder=6, **middle)
