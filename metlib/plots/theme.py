"""The look that all pictures share, and helpers of the charts: checks of what is drawn, texts, axes."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.rcsetup import cycler
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray

DPI = 110  # pixels per inch of what is published

COLOURS = {"right": "#009E73", "wrong": "#D55E00", "distractor": "#7A7A7A"}  # answers
COLOURS |= {"database": "#56B4E9", "val": "#0072B2", "test": "#CC79A7", "accent": "#E69F00"}
"""Colours by meaning; groups of these names get them everywhere. Okabe and Ito, Color Universal Design, 2008."""

CYCLE = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
LINES = ("solid", "dashed", "dashdot", "dotted")
INK, GREY = "#333333", "#666666"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, has ✓ ✗ ⁻: pictures are the same everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), "white"),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "axes.edgecolor": "#888888",
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(color=CYCLE),
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the course's style inside a `with` block or a decorated function; nothing changes outside."""
    with mpl.rc_context(STYLE):
        yield


def axes_of_size(width: float, height: float) -> Axes:
    """The axes of a new figure, in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def as_vector(values: ArrayLike, name: str) -> NDArray[Any]:
    """Values as an array (n,), or ValueError unless they are finite numbers, one at least."""
    array = np.asarray(values)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} of shape {array.shape}: expected (n,) with at least one value")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers")
    return array


def as_vectors(**given: ArrayLike) -> list[NDArray[Any]]:
    """Each as `as_vector`, or ValueError where their lengths differ."""
    arrays = [as_vector(array, name) for name, array in given.items()]
    if len({len(array) for array in arrays}) > 1:
        raise ValueError("lengths differ: " + ", ".join(f"{name} {np.size(array)}" for name, array in given.items()))
    return arrays


def check_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise ValueError unless the table has these columns and at least one row."""
    if missing := [name for name in names if name not in table.columns]:
        raise ValueError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    if not len(table):
        raise ValueError("the table has no rows")


def digits(value: float) -> str:
    """A number to four digits, or to a whole one: what processors compute alike, whose sums differ by some 1e-6."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def stable(values: ArrayLike) -> NDArray[np.float64]:
    """Numbers to those digits: what is drawn from them is the same picture on another processor, to the byte."""
    array = np.asarray(values, np.float64)
    return np.array([float(digits(value)) for value in array.flat]).reshape(array.shape)


def heading(name: str) -> str:
    """A column's name as readers know it: `val_gap_minus` -> "val GAP⁻"."""
    name = re.sub(r"(?<![a-z])gap_minus(?![a-z])", "GAP⁻", name)
    return re.sub(r"(?<![a-z])(gap|acc)(?![a-z])", lambda found: found[0].upper(), name).replace("_", " ")


def literal(text: Any) -> str:
    """Text in which a dollar starts no formula."""
    return str(text).replace("$", r"\$")


def class_name(name: Any) -> str:
    """A class's name as literal text, with spaces for underscores."""
    return literal(name).replace("_", " ")


def format_percent(fraction: float) -> str:
    """A share in percent, with enough places that a small one isn't written as nothing."""
    value = 100 * fraction
    return "< 0.01 %" if 0 < value < 0.01 else f"{value:.2f} %" if 0 < value < 1 else f"{value:.1f} %"


def rows_of_bars(ax: Axes, names: Sequence[str], xlabel: str) -> None:
    """Name the rows of horizontal bars at 0, 1, ..., the first on top, and leave space for numbers behind the bars."""
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.45, -0.55), xlabel=xlabel)
    ax.margins(x=0.1)
    ax.grid(False, axis="y")


def plain_ticks(*axes: Axis) -> None:
    """Write the numbers of log axes as 1, 10, 100."""
    for axis in axes:
        axis.set_major_formatter("{x:,.10g}")
        axis.set_minor_locator(NullLocator())
