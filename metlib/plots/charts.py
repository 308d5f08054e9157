"""The course's pictures: each function draws one finding and returns its Axes (the Figure, for many images).

Drawn in seaborn's manner: data first, the rest by keyword, `ax=None` makes a figure of its own. Scores come
as fractions and are shown in percent. `publish` writes a picture as a small PNG that carries its alt text
and the stamp of its data. Colours: Okabe and Ito, Color Universal Design, 2008; right and wrong differ by
mark and line style as well.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from metlib.common.files import replacing
from metlib.dataset import DISTRACTOR, read_image

if TYPE_CHECKING:
    import IPython.display
    import pandas as pd

DPI = 110
LIMIT = 200_000
"""Bytes that a published PNG may have."""

COLOURS = {
    "right": "#009E73",
    "wrong": "#D55E00",
    "distractor": "#7A7A7A",
    "database": "#56B4E9",
    "val": "#0072B2",
    "test": "#CC79A7",
    "accent": "#E69F00",
}
"""Okabe and Ito's palette by meaning; groups with one of these names get its colour everywhere."""

CYCLE = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
LINES = ("solid", "dashed", "dashdot", "dotted")
INK, GREY = "#333333", "#666666"
# Frame of a picture: colour, line style, width in points, mark in its corner.
FRAMES: dict[str | None, tuple[str, Any, float, str]] = {
    "right": (COLOURS["right"], "solid", 3, "✓"),
    "wrong": (COLOURS["wrong"], (0, (3.5, 1.5)), 3, "✗"),
    "distractor": (COLOURS["distractor"], (0, (1, 1)), 3, ""),
    None: ("#CCCCCC", "solid", 0.8, ""),
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, has ✓ ✗ ⁻: pictures are the same everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(color=CYCLE),
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the course's style inside a `with` block or a decorated function; nothing changes outside."""
    with mpl.rc_context(STYLE):
        yield


@dataclass(frozen=True)
class Case:
    """One answered query: the photo, an image of the exhibit it was taken for, and one of what it shows.

    `confidence` is that of the answer, `truth_confidence` that of the true exhibit (None where it has no
    vote); `truth` is None for a distractor. Raises ValueError for confidences outside [0, 1] and for a
    distractor that is called right or has a true exhibit's confidence.
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


# --- plots of numbers ---


@style()
def long_tail(labels: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw the images of each exhibit, richest exhibit first, and say what share of exhibits has one image.

    `labels` (N,) int, the exhibit of each database image. Raises ValueError where empty or with distractors.
    """
    labels = _vector(labels, "labels")
    if (labels == DISTRACTOR).any():
        raise ValueError(f"labels hold {DISTRACTOR}: a distractor is no exhibit, leave those rows out")
    images = np.sort(np.unique(labels, return_counts=True)[1])[::-1]
    rank = np.arange(1, len(images) + 1)
    lone = int((images == 1).sum())
    ax = _axes(ax, 7.0, 3.8)
    ax.fill_between(rank, images, 0.8, step="mid", color=COLOURS["database"], alpha=0.25, lw=0)
    ax.step(rank, images, where="mid", color=COLOURS["val"])
    if lone:
        ax.axvspan(len(images) - lone + 0.5, len(images) + 0.5, color=COLOURS["accent"], alpha=0.18, lw=0)
    ax.set(xscale="log", yscale="log", ylim=(0.8, max(2.0, 2.0 * images[0])), xlim=(0.9, len(images) + 0.5))
    note = f"{_percent(lone / len(images))} of {len(images):,} exhibits\nhave one image"
    ax.text(0.97, 0.95, note, transform=ax.transAxes, ha="right", va="top", weight="bold")
    _plain_ticks(ax, "xy")
    ax.set(xlabel="exhibit, by number of images", ylabel="images in the database")
    return ax


@style()
def histogram_counts(counts: Mapping[str, int], *, ax: Axes | None = None, xlabel: str = "images") -> Axes:
    """Draw how many there are of each kind as horizontal bars with their numbers, in the order given."""
    if not counts:
        raise ValueError("no counts: expected a name and a number of at least one group")
    ax = _axes(ax, 7.0, 0.9 + 0.38 * len(counts))
    names, numbers = list(counts), [int(number) for number in counts.values()]
    bars = ax.barh(names, numbers, color=[_colour(name, COLOURS["val"]) for name in names], height=0.65)
    ax.bar_label(bars, [f"{number:,}" for number in numbers], padding=4, fontsize=9)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.grid(False, axis="y")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel(xlabel)
    return ax


@style()
def similarity_histogram(
    groups: Mapping[str, ArrayLike],
    *,
    ax: Axes | None = None,
    xlabel: str = "cosine similarity",
    bins: int | ArrayLike = 20,
) -> Axes:
    """Draw the density of each group's values over common bins; `groups` maps names to (n,) finite values.

    `bins` is a number of equal bins, or their edges. A group without values is named in the legend only.
    """
    values = {name: _vector(group, f"group {name!r}") for name, group in groups.items() if np.size(group)}
    if not values:
        raise ValueError("no groups with values: expected names and values of at least one")
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)  # type: ignore[call-overload]
    ax = _axes(ax, 7.0, 3.8)
    for number, name in enumerate(groups):
        group = values.get(name, np.empty(0))
        colour = _colour(name, CYCLE[number % len(CYCLE)])
        density = np.histogram(group, edges, density=True)[0] if len(group) else np.zeros(len(edges) - 1)
        ax.stairs(density, edges, fill=True, color=colour, alpha=0.22)
        label = f"{name} (n = {len(group):,})"
        ax.stairs(density, edges, color=colour, lw=1.8, ls=LINES[number % len(LINES)], label=label)
    ax.set(xlabel=xlabel, ylabel="density", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.legend(loc="best")
    return ax


@style()
def spectrum(
    eigenvalues: ArrayLike, *, rank: int | None = None, dims: Sequence[int] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw descending eigenvalues (D,) as shares of the largest, with the rank and candidate dims marked.

    Those of zero or less have no place on a log axis and are left out. Raises ValueError for eigenvalues that
    don't descend from a positive one, and for a rank or dims outside 1..D.
    """
    values = _vector(eigenvalues, "eigenvalues")
    if values[0] <= 0 or (np.diff(values) > 1e-9 * values[0]).any():
        raise ValueError("eigenvalues must descend from a positive one: pass PCAWhitening.eigenvalues_")
    for number in [*([] if rank is None else [rank]), *(dims or [])]:
        if not 1 <= number <= len(values):
            raise ValueError(f"dimension {number}: expected 1 to {len(values)}, the number of eigenvalues")
    share = values / values[0]
    index = np.arange(1, len(share) + 1)
    seen = share > 0
    ax = _axes(ax, 7.0, 3.8)
    ax.plot(index[seen], share[seen], color=COLOURS["val"])
    ax.set(xscale="log", yscale="log", xlabel="component", ylabel="eigenvalue / largest")
    if rank is not None:
        ax.set_ylim(bottom=max(share[rank - 1], 1e-15) / 30)  # what lies lower is rounding
        ax.axvline(rank, color=COLOURS["wrong"], ls="dashed", lw=1.4)
        ax.annotate(
            f"rank {rank}",
            (rank, 0.03),
            (-5, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            color=COLOURS["wrong"],
        )
    shown = [d for d in dims or [] if seen[d - 1]]
    ax.plot(shown, share[[d - 1 for d in shown]], "o", color=COLOURS["accent"], mec="white", ms=8, zorder=3)
    for d in shown:
        over = {"fc": "white", "ec": "none", "pad": 0.8}
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{d}", (d, share[d - 1]), (0, 9), fontsize=9, bbox=over, **place)
    _plain_ticks(ax, "x")
    return ax


@style()
def score_lines(
    table: pd.DataFrame,
    *,
    x: str,
    ys: str | Sequence[str],
    ax: Axes | None = None,
    xlabel: str | None = None,
    ylabel: str = "score (%)",
    logx: bool = False,
    best: Any = None,
    percent: bool = True,
) -> Axes:
    """Draw columns `ys` of a DataFrame against column `x`: fractions in percent, or with percent=False as they are.

    A band is drawn where columns `<y>_low` and `<y>_high` exist; `best` marks one value of x.
    """
    ys = [ys] if isinstance(ys, str) else list(ys)
    _columns(table, [x, *ys])
    table = table.sort_values(x) if table[x].dtype.kind in "iuf" else table
    ax, times = _axes(ax, 7.0, 3.8), 100 if percent else 1
    for number, y in enumerate(ys):
        colour = CYCLE[number % len(CYCLE)]
        if {f"{y}_low", f"{y}_high"} <= set(table.columns):
            low, high = times * table[f"{y}_low"], times * table[f"{y}_high"]
            ax.fill_between(table[x], low, high, color=colour, alpha=0.15, lw=0)
        marker, line = "os^Dv"[number % 5], LINES[number % len(LINES)]
        ax.plot(table[x], times * table[y], color=colour, marker=marker, ms=5, ls=line, label=_say(y))
    if logx:
        ax.set_xscale("log")
        if table[x].nunique() <= 12:
            ax.xaxis.set_major_locator(FixedLocator(sorted(table[x].unique())))
        _plain_ticks(ax, "x")
    elif table[x].dtype.kind in "iu":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if best is not None:
        says = f"chosen: {best:g}" if isinstance(best, int | float) else f"chosen: {best}"
        ax.axvline(best, color=GREY, ls="dotted", lw=1.6, label=says)
    ax.set(xlabel=xlabel or _say(x), ylabel=ylabel)
    if len(ys) > 1 or best is not None:
        ax.legend()
    return ax


@style()
def score_bars(
    table: pd.DataFrame,
    *,
    label: str,
    scores: Sequence[str] = ("gap", "gap_minus", "acc"),
    pale: str | None = None,
    baseline: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw scores (fractions) of each row in percent as grouped bars; column `label` names the rows.

    Whiskers show `<score>_low` to `<score>_high` where those columns exist; a missing score (NaN) has no bar.
    Where the boolean column `pale` is true the bars are pale and hatched: published numbers, named so in the legend.
    Column `baseline` (fractions), named in the legend, is a line through a row's bars: what they have to beat.
    """
    _columns(table, [label, *scores, *([pale] if pale else []), *([baseline] if baseline else [])])
    hatched = table[pale].to_numpy(bool) if pale else np.zeros(len(table), bool)
    ax = _axes(ax, 7.0, 1.0 + (0.3 * len(scores) + 0.15) * len(table))
    height = 0.82 / len(scores)
    rows = np.arange(len(table))
    for number, score in enumerate(scores):
        value = 100 * table[score].to_numpy(np.float64)
        low, high = (
            100 * table[name].to_numpy(np.float64) if name in table else value
            for name in (f"{score}_low", f"{score}_high")
        )
        centre = rows + (number - (len(scores) - 1) / 2) * height
        there = np.isfinite(value)
        colour = CYCLE[number % len(CYCLE)]
        bars = ax.barh(centre[there], value[there], height * 0.92, color=colour, alpha=0.85, label=_say(score))
        for bar in np.array(bars, object)[hatched[there]]:
            bar.set(fc=(colour, 0.25), ec=colour, hatch="////", alpha=None)
        for y, v, a, b in zip(centre[there], value[there], low[there], high[there], strict=True):
            if b > a:
                ax.plot([a, b], [y, y], color=INK, lw=1.2, marker="|", ms=5)
            end = np.nanmax([v, b])
            ax.annotate(f"{v:.1f}", (end, y), (5, 0), textcoords="offset points", va="center", fontsize=9)
    for y, value in zip(rows, 100 * table[baseline].to_numpy(np.float64) if baseline else [], strict=False):
        ax.plot([value, value], [y - 0.45, y + 0.45], color=INK, ls="dotted", lw=2)
    ax.set_yticks(rows, [_literal(name) for name in table[label]])
    ax.set_ylim(len(table) - 0.45, -0.55)
    ax.margins(x=0.1)
    ax.set_xlim(left=0)
    ax.grid(False, axis="y")
    ax.set_xlabel("score (%)")
    keys: list[Artist] = [
        Patch(fc=CYCLE[i % len(CYCLE)], alpha=0.85, label=_say(score)) for i, score in enumerate(scores)
    ]
    keys += [Patch(fc="white", ec=GREY, hatch="////", label="published")] if hatched.any() else []
    keys += [Line2D([], [], color=INK, ls="dotted", lw=2, label=_say(baseline))] if baseline else []
    if len(keys) > 1:
        _legend_above(ax, keys)
    return ax


@style()
def heatmap(
    grid: ArrayLike,
    *,
    ks: Sequence[int],
    taus: Sequence[float],
    best: tuple[int, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw validation GAP (len(ks), len(taus)), fractions, in percent, the cell `best` = (k, tau) framed."""
    import seaborn as sns  # here, since it brings IPython and scipy along

    values = np.asarray(grid, np.float64)
    if values.shape != (len(ks), len(taus)) or not values.size:
        raise ValueError(f"grid of shape {values.shape}: expected (ks, taus), here ({len(ks)}, {len(taus)})")
    ax = _axes(ax, max(4.5, 1.9 + 0.56 * len(taus)), max(2.4, 1.1 + 0.36 * len(ks)))
    sns.heatmap(
        100 * values,
        annot=True,
        fmt=".1f",
        annot_kws={"fontsize": 9},
        cmap="viridis",
        xticklabels=[f"{tau:g}" for tau in taus],
        yticklabels=[f"{k}" for k in ks],
        linewidths=0.5,
        cbar_kws={"label": "val GAP (%)"},
        ax=ax,
    )
    ax.tick_params(rotation=0, length=0)
    ax.set(xlabel="tau", ylabel="k")
    if best is not None:
        if best[0] not in ks or best[1] not in taus:
            raise ValueError(f"best {best}: expected (k, tau) among ks {list(ks)} and taus {list(taus)}")
        corner = (list(taus).index(best[1]), list(ks).index(best[0]))
        frame = Rectangle(corner, 1, 1, fill=False, ec="black", lw=2.2, zorder=5, clip_on=False)
        frame.set_path_effects([withStroke(linewidth=5, foreground="white")])
        ax.add_patch(frame)
    return ax


@style()
def class_counts(table: pd.DataFrame, *, most: int = 24, ax: Axes | None = None) -> Axes:
    """Draw the images of each class of one attribute as bars, largest class first, a part for each split.

    `table` has the columns `class`, `train`, `val`, `test`, as `labelled.count_classes` gives them. Of more than
    `most` classes the rest are one bar, which says how many they are. Raises ValueError for more than one attribute.
    """
    splits = ("train", "val", "test")
    _columns(table, ["class", *splits])
    if "attribute" in table and table["attribute"].nunique() > 1:
        raise ValueError(f"counts of {table['attribute'].nunique()} attributes: choose the rows of one")
    table = table.assign(all=table[list(splits)].sum(axis=1)).sort_values("all", ascending=False, kind="stable")
    shown, rest = table.iloc[:most], table.iloc[most:]
    names = [_plain(name) for name in shown["class"]]
    names += [f"{len(rest)} other classes"] if len(rest) else []
    ax = _axes(ax, 7.0, 0.8 + 0.24 * len(names))
    starts = np.zeros(len(names))
    for split, colour in zip(splits, ("database", "val", "test"), strict=True):
        counts = np.append(shown[split].to_numpy(np.float64), [rest[split].sum()] * bool(len(rest)))
        if counts.any():
            ax.barh(np.arange(len(names)), counts, 0.75, left=starts, color=COLOURS[colour], label=split)
        starts += counts
    for y, total in enumerate(starts):
        ax.annotate(f"{total:,.0f}", (total, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.margins(x=0.1)
    ax.set_xlabel("images")
    ax.grid(False, axis="y")
    ax.legend()
    return ax


@style()
def confusion(counts: ArrayLike, *, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix (C, C), rows the truth, each row in percent of its own images.

    `counts[i, j]` is how many images of class i were called j. A class without images has an empty row.
    Raises ValueError for another shape and for counts that aren't 0 or more.
    """
    matrix = np.asarray(counts, np.float64)
    if matrix.shape != (len(classes),) * 2 or not len(classes) or not (matrix >= 0).all():
        raise ValueError(f"counts {matrix.shape} for {len(classes)} classes: expected (C, C), 0 or more")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(100 * matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    small = len(classes) > 12
    side = 2.2 + (0.24 if small else 0.42) * len(classes)
    ax = _axes(ax, side + 0.6, side)
    names = [_plain(name) for name in classes]
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    for (i, j), share in np.ndenumerate(shares):
        if totals[i] and (share >= 1 if not small else share >= 10):
            colour = "white" if share < 55 else "black"
            ax.text(j, i, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=7 if small else 9)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    rows = [f"{name} ({int(total)})" for name, total in zip(names, totals[:, 0], strict=True)]
    ax.set_yticks(range(len(names)), rows)
    ax.tick_params(labelsize=7 if small else 9)
    ax.grid(False)
    ax.set(xlabel="called", ylabel="what it is (images)")
    ax.figure.colorbar(image, ax=ax, label="share of the row (%)", fraction=0.04, pad=0.02)
    return ax


@style()
def scatter(points: ArrayLike, labels: ArrayLike, *, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw points (N, 2), those of a t-SNE say, marked by class: the largest in colours, the others grey.

    `labels` (N,) int index `classes`, -1 where unknown. Classes differ by colour and by mark.
    Raises ValueError for another shape and labels beyond the classes.
    """
    where, labels = np.asarray(points, np.float64), _vector(labels, "labels").astype(np.int64)
    if where.shape != (len(labels), 2) or labels.min() < -1 or labels.max() >= len(classes):
        raise ValueError(
            f"points {where.shape}, labels from {labels.min()} to {labels.max()}: expected (N, 2), -1 to C-1"
        )
    sizes = np.bincount(labels[labels >= 0], minlength=len(classes))
    largest = [int(c) for c in np.argsort(-sizes, kind="stable")[:8] if sizes[c]]
    ax = _axes(ax, 6.4, 4.8)
    others = ~np.isin(labels, largest)
    if others.any():
        ax.scatter(where[others, 0], where[others, 1], s=9, color="#BBBBBB", lw=0, label="others")
    for place, c in enumerate(largest):
        colour, marker = CYCLE[place % len(CYCLE)], "os^Dv*PX"[place]
        name = _plain(classes[c])
        look: dict[str, Any] = {"s": 22, "color": colour, "marker": marker, "alpha": 0.85, "ec": INK, "lw": 0.3}
        ax.scatter(where[labels == c, 0], where[labels == c, 1], label=name, **look)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.3)
    return ax


@style()
def precision_recall(recall: ArrayLike, precision: ArrayLike, *, gap: float, ax: Axes | None = None) -> Axes:
    """Draw precision over recall (both (n,) fractions, recall ascending) as steps whose area is `gap`.

    Each precision holds from the recall before it, so the filled area is sum(diff(recall) * precision).
    """
    recall, precision = _same_length(recall=recall, precision=precision)
    recall, precision = np.append(0, recall), np.append(precision[0], precision)
    ax = _axes(ax, 6.0, 4.0)
    ax.fill_between(100 * recall, 100 * precision, step="pre", color=COLOURS["val"], alpha=0.2, lw=0)
    ax.step(100 * recall, 100 * precision, where="pre", color=COLOURS["val"])
    ax.text(
        0.04,
        0.06,
        f"area = GAP = {_percent(gap)}",
        transform=ax.transAxes,
        weight="bold",
        bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 3},
    )
    ax.set(xlim=(0, 100), ylim=(0, 103))
    ax.set(xlabel="recall (% of queries with an exhibit)", ylabel="precision (% of answers)")
    return ax


@style()
def reliability(
    mean_confidence: ArrayLike, share_correct: ArrayLike, count: ArrayLike, *, ax: Axes | None = None
) -> Axes:
    """Draw the share answered right against the confidence stated, bin by bin, with the number of queries.

    All (bins,): fractions, fractions, counts; bins that hold nothing are left out.
    """
    confidence, share, number = _same_length(
        finite=False, mean_confidence=mean_confidence, share_correct=share_correct, count=count
    )
    used = number > 0
    confidence, share, number = 100 * confidence[used], 100 * share[used], number[used]
    if not used.any():
        raise ValueError("all bins are empty: reliability needs at least one answered query")
    ax = _axes(ax, 5.0, 4.4)
    ax.plot([0, 100], [0, 100], color=GREY, ls="dashed", lw=1.2, label="as confident as right")
    ax.plot(confidence, share, color=COLOURS["val"], lw=1.2, alpha=0.6)
    size = 25 + 250 * number / number.max()
    ax.scatter(confidence, share, s=size, color=COLOURS["val"], ec="white", zorder=3, label="queries (n)")
    for x, y, n, s in zip(confidence, share, number, size, strict=True):
        above = 3 + math.sqrt(s) / 2  # points from the middle of the dot
        ax.annotate(f"{n:,.0f}", (x, y), (0, above), textcoords="offset points", fontsize=9, ha="center", va="bottom")
    ax.set(xlim=(-7, 107), ylim=(-7, 114), xlabel="mean confidence (%)", ylabel="answered right (%)")
    ax.set_aspect("equal")
    ax.legend(loc="upper left")
    return ax


# --- plots of images ---


@style()
def sheet(
    files: Sequence[Path | NDArray[Any]],
    *,
    heats: Sequence[ArrayLike | None] | None = None,
    titles: Sequence[str] | None = None,
    frames: Sequence[str | None] | None = None,
    columns: int = 6,
    width: float = 9.0,
) -> Figure:
    """Draw images as a contact sheet, each whole in a square cell, with titles and frames if given.

    `files` are image files, or (H, W, 3) arrays (uint8, or floats in [0, 1]). `heats` gives for each a map (h, w) to
    lay over it, upsampled, as share of the map's maximum, or None. `frames` names "right", "wrong", "distractor" or
    None for each file; `width` in inches. Raises ValueError for maps that aren't 2-D, finite and 0 or more.
    """
    _check_pictures(len(files), titles=titles, frames=frames, heats=heats)
    columns = min(columns, len(files)) if len(files) < 4 else columns
    side = min(3.0, (width - 0.12) / columns - 0.12)
    texts = _wrapped(titles, side + 0.12)
    below = 0.12 + 0.17 * max((text.count("\n") + 1 for text in texts), default=0)
    fig = plt.figure(figsize=(width, 0.12 + math.ceil(len(files) / columns) * (side + below)))
    for number, file in enumerate(files):
        row, column = divmod(number, columns)
        ax = _cell(fig, 0.12 + column * (side + 0.12), 0.12 + row * (side + below), side)
        heat = heats[number] if heats is not None else None
        picture = file if heat is None else _warmed(file, heat)
        _picture(ax, _thumbnail(picture, side), frames[number] if frames else None)
        if titles:
            ax.set_xlabel(texts[number], fontsize=9, labelpad=3)
    return fig


@style()
def pairs(
    lefts: Sequence[Path],
    rights: Sequence[Path],
    *,
    titles: Sequence[str] | None = None,
    labels: tuple[str, str] = ("studio", "visitor"),
    width: float = 9.0,
) -> Figure:
    """Draw pairs of image files as columns of two, `lefts` above `rights`; `labels` name the two rows."""
    if len(lefts) != len(rights):
        raise ValueError(f"{len(lefts)} lefts but {len(rights)} rights: pairs need one for each")
    _check_pictures(len(lefts), titles=titles)
    left, side = 0.35, min(3.0, (width - 0.45) / len(lefts) - 0.1)
    texts = _wrapped(titles, side + 0.1)
    above = 0.1 + 0.17 * max((text.count("\n") + 1 for text in texts), default=0)
    fig = plt.figure(figsize=(width, above + 2 * (side + 0.1)))
    for row, files in enumerate((lefts, rights)):
        for column, file in enumerate(files):
            ax = _cell(fig, left + column * (side + 0.1), above + row * (side + 0.1), side)
            _picture(ax, _thumbnail(file, side))
            if titles and row == 0:
                ax.set_title(texts[column], fontsize=9, pad=4)
            if column == 0:
                ax.set_ylabel(labels[row], labelpad=5)
    return fig


@style()
def gallery(cases: Sequence[Case], *, title: str | None = None, columns: int = 2, width: float = 10.0) -> Figure:
    """Draw answered queries as cards: the visitor's photo, what it was taken for, and what it is.

    A right answer stands in a solid green frame with a tick, a wrong one in a dashed red frame with a cross.
    """
    _check_pictures(len(cases))
    columns = min(columns, len(cases))
    gap, pad, head, foot, top = 0.14, 0.1, 0.27, 0.27, 0.34 if title else 0.0
    card = (width - gap * (columns - 1)) / columns
    side = (card - 2 * pad - 0.24 - 0.12) / 3
    tall = head + side + foot
    rows = math.ceil(len(cases) / columns)
    fig = plt.figure(figsize=(width, top + rows * (tall + gap) - gap))
    if title:
        fig.text(0, 1, title, fontsize=12, weight="bold", va="top", ha="left")
    for number, case in enumerate(cases):
        row, column = divmod(number, columns)
        x, y = column * (card + gap), top + row * (tall + gap)
        frame = "right" if case.right else "wrong"
        _card(fig, x, y, card, tall, COLOURS[frame])
        lefts = (x + pad, x + pad + side + 0.24, x + pad + 2 * side + 0.36)
        query, answer, truth = (_cell(fig, left, y + head, side) for left in lefts)
        _picture(query, _thumbnail(case.query, side))
        query.set_title("the photo", fontsize=9, pad=4, color=GREY)
        query.annotate(
            "",
            (1 + 0.21 / side, 0.5),
            (1 + 0.03 / side, 0.5),
            xycoords="axes fraction",
            arrowprops={"arrowstyle": "-|>", "color": COLOURS[frame], "shrinkA": 0, "shrinkB": 0},
        )
        _picture(answer, _thumbnail(case.predicted, side), frame)
        answer.set_title("taken for", fontsize=9, pad=4, color=GREY)
        says = f"confidence {_probability(case.confidence)}"
        answer.set_xlabel(says, fontsize=9, labelpad=4, weight="bold")
        truth.set_title("what it is", fontsize=9, pad=4, color=GREY)
        if case.truth is None:
            _picture(truth, np.full((2, 2, 3), 224, np.uint8))
            centre: dict[str, Any] = {"ha": "center", "va": "center"}
            truth.text(0.5, 0.5, "not in the\ncollection", transform=truth.transAxes, **centre)
        else:
            _picture(truth, _thumbnail(case.truth, side))
            known = case.truth_confidence is not None
            says = f"confidence {_probability(case.truth_confidence or 0.0)}" if known else "not a neighbour"
            truth.set_xlabel(says, fontsize=9, labelpad=4)
    return fig


@style()
def pooling(
    image: str | Path | Image.Image | NDArray[Any],
    maps: Sequence[ArrayLike],
    *,
    titles: Sequence[str],
    width: float = 10.0,
) -> Figure:
    """Draw an image, then each (h, w) map over it as heat: upsampled, as share of the map's maximum.

    `image` is a file, a PIL image or an (H, W, 3) array (uint8, or floats in [0, 1]); `titles` name the maps,
    or the image and the maps. Raises ValueError for maps that aren't 2-D, finite and 0 or more.
    """
    if len(titles) == len(maps):
        titles = ["the image", *titles]
    _check_pictures(len(maps))
    if len(titles) != len(maps) + 1:
        raise ValueError(f"{len(titles)} titles for {len(maps)} maps: one each, or one more for the image")
    columns = len(titles)
    picture = _as_image(image)
    side = (width - 0.7) / columns - 0.1
    picture = ImageOps.contain(picture, (round(side * DPI * 2),) * 2)
    tall = side * picture.height / picture.width
    fig = plt.figure(figsize=(width, tall + 0.35))
    grey = np.asarray(ImageOps.autocontrast(picture.convert("L"), cutoff=1))
    for column, title in enumerate(titles):
        ax = _cell(fig, column * (side + 0.1), 0.3, side, tall)
        if column == 0:
            _picture(ax, np.asarray(picture))
        else:
            ax.imshow(grey, cmap="gray", vmin=-120, vmax=255)
            heat = _heat(maps[column - 1], picture.size)
            _picture(ax, heat, cmap="inferno", vmin=0, vmax=1, alpha=0.25 + 0.5 * heat)
        ax.set_title(title, fontsize=10, pad=5)
    bar = _cell(fig, columns * (side + 0.1) + 0.02, 0.3, 0.12, tall)
    drawn = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "inferno")
    fig.colorbar(drawn, cax=bar, format=PercentFormatter(1, symbol=" %"), label="share of the largest weight")
    return fig


# --- publishing ---


def publish(
    fig: Figure | Axes, path: str | Path, *, alt: str, stamp: str, table: pd.DataFrame | None = None
) -> IPython.display.Image:
    """Save a figure as a PNG of at most 200 KB, close it, and return what was saved for a notebook to show.

    `stamp` says which data are shown and is written below the picture; `alt` says what is seen, for readers
    who can't see it. The file carries both (Description, Source) and nothing that changes between runs;
    `table` is written beside it as CSV. Raises ValueError for an empty alt or stamp, a path that isn't .png,
    and a picture that is too large even at half the resolution.
    """
    path = Path(path)
    if not alt.strip():
        raise ValueError(f"{path.name} has no alt text: say in a sentence what the picture shows")
    if not stamp.strip():
        raise ValueError(f"{path.name} has no stamp: name the data, the database and the backbone it shows")
    if path.suffix != ".png":
        raise ValueError(f"{path}: figures are published as .png")
    figure: Any = fig.figure if isinstance(fig, Axes) else fig
    alt, stamp = " ".join(alt.split()), " ".join(stamp.split())
    info = PngInfo()
    for key, text in (("Title", path.stem), ("Description", alt), ("Source", stamp)):
        if text.isascii():
            info.add_text(key, text)
        else:
            info.add_itxt(key, text)
    try:
        png = _encode(figure, stamp, info)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    finally:
        plt.close(figure)  # else the notebook would show it a second time
    with replacing(path) as file:
        file.write(png)
    if table is not None:
        index = type(table.index).__name__ != "RangeIndex"
        with replacing(path.with_suffix(".csv"), "w") as file:
            table.to_csv(file, index=index, float_format="%.7g", lineterminator="\n")
    return _shown(png, alt)


def _shown(png: bytes, alt: str) -> IPython.display.Image:
    """The picture for a notebook, as image and as HTML: JupyterLab drops the alt text of an image."""
    from IPython.display import Image as Shown

    class Picture(Shown):  # type: ignore[misc]
        def _repr_html_(self) -> str:
            source = base64.b64encode(png).decode()
            return f'<img src="data:image/png;base64,{source}" alt="{html.escape(alt)}">'

    # As metadata, since older IPython (Colab's) doesn't know the argument `alt`.
    return Picture(data=png, format="png", metadata={"alt": alt})


def _encode(fig: Figure, stamp: str, info: PngInfo) -> bytes:
    """The figure as PNG: in full colour where that is small enough, else in 256 at a resolution that fits."""
    lines = textwrap.fill(stamp, max(20, int(fig.get_figwidth() * 16)))
    below = fig.transFigure + ScaledTranslation(0.02, -0.08, fig.dpi_scale_trans)
    dpi = DPI
    with style():
        # Below the figure's edge, where no layout puts anything; the tight box then grows to hold it.
        fig.text(0, 0, lines, transform=below, fontsize=8, color=GREY, va="top", ha="left")
        while dpi >= DPI // 2:
            drawn = io.BytesIO()
            fig.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)
            picture = Image.open(drawn).convert("RGB")
            for small in (picture, picture.quantize(256, dither=Image.Dither.NONE)):
                png = io.BytesIO()
                small.save(png, "PNG", optimize=True, pnginfo=info, dpi=(dpi, dpi))
                if png.tell() <= LIMIT:
                    return png.getvalue()
            dpi = int(dpi * min(0.95, math.sqrt(LIMIT / png.tell())))
    raise ValueError(f"over {LIMIT // 1000} KB even at half the resolution: show fewer or smaller images")


# --- helpers ---


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def _vector(values: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} of shape {array.shape}: expected (n,) with at least one value")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers")
    return array


def _same_length(*, finite: bool = True, **given: ArrayLike) -> list[NDArray[Any]]:
    arrays = [_vector(array if finite else np.nan_to_num(array), name) for name, array in given.items()]
    if len({len(array) for array in arrays}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in zip(given, arrays, strict=True))
        raise ValueError(f"lengths differ: {lengths}")
    return arrays


def _columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in table.columns]:
        there = ", ".join(map(str, table.columns))
        raise ValueError(f"the table has no column {', '.join(missing)}; it has {there}")
    if not len(table):
        raise ValueError("the table has no rows")


def _check_pictures(
    count: int,
    *,
    titles: Sequence[str] | None = None,
    frames: Sequence[str | None] | None = None,
    heats: Sequence[Any] | None = None,
) -> None:
    if not count:
        raise ValueError("nothing to draw: expected at least one picture")
    for name, given in (("titles", titles), ("frames", frames), ("heats", heats)):
        if given is not None and len(given) != count:
            raise ValueError(f"{len(given)} {name} for {count} pictures: expected one for each")
    if unknown := set(frames or []) - set(FRAMES):
        raise ValueError(f"unknown frame {unknown.pop()!r}: expected 'right', 'wrong', 'distractor' or None")


def _colour(name: str, default: str) -> str:
    return COLOURS.get(name, default)


def _say(name: str) -> str:
    """A column's name as readers know it: `val_gap_minus` -> "val GAP⁻"."""
    name = re.sub(r"(?<![a-z])gap_minus(?![a-z])", "GAP⁻", name)
    return re.sub(r"(?<![a-z])(gap|acc)(?![a-z])", lambda found: found[0].upper(), name).replace("_", " ")


def _plain(name: Any) -> str:
    """A class's name as text, with spaces for underscores."""
    return _literal(name).replace("_", " ")


def _literal(text: Any) -> str:
    """Text in which a dollar starts no formula."""
    return str(text).replace("$", r"\$")


def _percent(fraction: float) -> str:
    """A share in percent, with enough places that a small one isn't called nothing."""
    value = 100 * fraction
    return "< 0.01 %" if 0 < value < 0.01 else f"{value:.2f} %" if 0 < value < 1 else f"{value:.1f} %"


def _probability(value: float) -> str:
    """A probability as text that is never 0.00: "0.93", "0.0012", "1.2e-5", "< 1e-300"."""
    if value < 1e-300:
        return "< 1e-300"
    return f"{value:.2f}" if value >= 0.01 else re.sub(r"e-0*", "e-", f"{value:.2g}")


def _plain_ticks(ax: Axes, which: str) -> None:
    """Numbers as 1, 10, 100 on log axes."""
    for axis in (getattr(ax, f"{letter}axis") for letter in which):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_locator(NullLocator())


def _legend_above(ax: Axes, handles: Sequence[Artist]) -> None:
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), borderaxespad=0.2)


def _wrapped(titles: Sequence[str] | None, inches: float) -> list[str]:
    """Titles broken into at most three lines of 9 pt text."""
    room = max(6, int(inches * 72 / 5.2))
    wrapped = (textwrap.wrap(title, room, max_lines=3, placeholder=" …") for title in titles or [])
    return [_literal("\n".join(lines)) for lines in wrapped]


def _thumbnail(image: str | Path | NDArray[Any], side: float) -> NDArray[np.uint8]:
    """The whole image in a pale square as large as it is shown."""
    pixels = round(side * DPI)
    return np.asarray(ImageOps.pad(_as_image(image), (pixels, pixels), color="white"))


def _as_image(image: str | Path | Image.Image | NDArray[Any]) -> Image.Image:
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind not in "uf":
        raise ValueError(f"image {array.shape}, {array.dtype}: expected (H, W, 3), uint8 or floats in [0, 1]")
    if array.dtype.kind == "f":
        array = np.rint(255 * array.clip(0, 1))
    return Image.fromarray(array.astype(np.uint8))


def _warmed(image: str | Path | NDArray[Any], weights: ArrayLike) -> NDArray[np.uint8]:
    """An image in grey with a map (h, w) over it as heat, (H, W, 3) uint8."""
    picture = ImageOps.contain(_as_image(image), (480, 480))
    grey = np.asarray(ImageOps.autocontrast(picture.convert("L"), cutoff=1), np.float32)[..., None]
    heat = _heat(weights, picture.size)[..., None]  # (H, W, 1)
    warm = mpl.colormaps["inferno"](heat[..., 0])[..., :3] * 255
    share = 0.25 + 0.5 * heat
    return np.rint(share * warm + (1 - share) * (80 + 0.68 * grey)).astype(np.uint8)


def _heat(weights: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (h, w) as shares of its maximum, upsampled to `size` = (width, height)."""
    heat = np.asarray(weights, np.float32)
    if heat.ndim != 2 or not heat.size or not np.isfinite(heat).all() or heat.min() < 0:
        raise ValueError(f"map of shape {heat.shape}: expected (h, w) finite weights of 0 or more")
    heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC)).clip(0)
    return heat / max(float(heat.max()), 1e-30)  # type: ignore[no-any-return]


def _cell(fig: Figure, x: float, y: float, width: float, height: float | None = None) -> Axes:
    """Axes at inches from the figure's top left corner; square without a height."""
    height = width if height is None else height
    wide, tall = fig.get_size_inches()
    return fig.add_axes((x / wide, 1 - (y + height) / tall, width / wide, height / tall))


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
        centred: dict[str, Any] = {"transform": ax.transAxes, "va": "center", "ha": "center"}
        ax.text(0.03, 0.97, mark, color="white", bbox=badge, zorder=6, **centred)


def _card(fig: Figure, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A tinted card behind the pictures of one case."""
    ax = _cell(fig, x, y, width, height)
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    size = (width - 0.12, height - 0.12)
    ax.add_patch(FancyBboxPatch((0.06, 0.06), *size, boxstyle="round,pad=0.06", fc=(colour, 0.09), ec="none"))
