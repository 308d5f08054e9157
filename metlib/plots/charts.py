"""Charts of numbers: each function draws one finding and returns its Axes, without `ax` those of a new figure.

Scores come as fractions and are shown in percent. All raise ValueError where there is nothing to draw, and for what
doesn't fit: another shape, values that aren't finite or out of range, a column that the table lacks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import ArrayLike

from metlib.dataset import DISTRACTOR
from metlib.plots import theme
from metlib.plots.theme import COLOURS, CYCLE, GREY, INK, LINES, style


@style()
def long_tail(labels: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw the images of each exhibit, richest exhibit first, and write what share of exhibits has one image.

    `labels` (N,) int, the exhibit of each database image. Raises ValueError where empty or with distractors.
    """
    labels = theme.as_vector(labels, "labels")
    if (labels == DISTRACTOR).any():
        raise ValueError(f"labels hold {DISTRACTOR}: a distractor is no exhibit, leave those rows out")
    images = np.sort(np.unique(labels, return_counts=True)[1])[::-1]
    rank = np.arange(1, len(images) + 1)
    lone = int((images == 1).sum())
    ax = ax or theme.axes_of_size(7.0, 3.8)
    ax.fill_between(rank, images, 0.8, step="mid", color=COLOURS["database"], alpha=0.25, lw=0)
    ax.step(rank, images, where="mid", color=COLOURS["val"])
    if lone:
        ax.axvspan(len(images) - lone + 0.5, len(images) + 0.5, color=COLOURS["accent"], alpha=0.18, lw=0)
    ax.set(xscale="log", yscale="log", ylim=(0.8, max(2.0, 2.0 * images[0])), xlim=(0.9, len(images) + 0.5))
    note = f"{theme.format_percent(lone / len(images))} of {len(images):,} exhibits\nhave one image"
    ax.text(0.97, 0.95, note, transform=ax.transAxes, ha="right", va="top", weight="bold")
    theme.plain_ticks(ax.xaxis, ax.yaxis)
    ax.set(xlabel="exhibit, by number of images", ylabel="images in the database")
    return ax


@style()
def histogram_counts(counts: Mapping[str, int], *, ax: Axes | None = None, xlabel: str = "images") -> Axes:
    """Draw how many there are of each kind as horizontal bars with their numbers, in the order given."""
    if not counts:
        raise ValueError("no counts: expected a name and a number of at least one group")
    ax = ax or theme.axes_of_size(7.0, 0.9 + 0.38 * len(counts))
    numbers = [int(number) for number in counts.values()]
    bars = ax.barh(list(counts), numbers, 0.65, color=[COLOURS.get(name, COLOURS["val"]) for name in counts])
    ax.bar_label(bars, [f"{number:,}" for number in numbers], padding=4, fontsize=9)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.grid(False, axis="y")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel(xlabel)
    return ax


@style()
def similarity_histogram(
    groups: Mapping[str, ArrayLike], *, ax: Axes | None = None, xlabel: str = "cosine similarity", bins: ArrayLike = 20
) -> Axes:
    """Draw the density of each group's values over common bins; `groups` maps names to (n,) finite values.

    `bins` is a number of equal bins, or their edges. A group without values is named in the legend only.
    """
    values = {name: theme.as_vector(group, f"group {name!r}") for name, group in groups.items() if np.size(group)}
    values = {name: theme.stable(group) for name, group in values.items()}
    if not values:
        raise ValueError("no groups with values: expected names and values of at least one")
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)  # type: ignore[call-overload]
    ax = ax or theme.axes_of_size(7.0, 3.8)
    for number, (name, group) in enumerate(groups.items()):
        colour, line, count = COLOURS.get(name, CYCLE[number % len(CYCLE)]), LINES[number % len(LINES)], np.size(group)
        density = np.histogram(values[name], edges, density=True)[0] if count else np.zeros(len(edges) - 1)
        ax.stairs(density, edges, fill=True, color=colour, alpha=0.22)
        ax.stairs(density, edges, color=colour, lw=1.8, ls=line, label=f"{name} (n = {count:,})")
    ax.set(xlabel=xlabel, ylabel="density", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.legend(loc="best")
    return ax


@style()
def spectrum(
    eigenvalues: ArrayLike, *, rank: int | None = None, dims: Sequence[int] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw descending eigenvalues (D,) as shares of the largest, with the rank and candidate dims (1..D) marked.

    Those of zero or less are left out. Raises ValueError for eigenvalues that don't descend from a positive one.
    """
    values = theme.as_vector(eigenvalues, "eigenvalues")
    if values[0] <= 0 or (np.diff(values) > 1e-9 * values[0]).any():
        raise ValueError("eigenvalues must descend from a positive one: pass PCAWhitening.eigenvalues_")
    for number in [*([] if rank is None else [rank]), *(dims or [])]:
        if not 1 <= number <= len(values):
            raise ValueError(f"dimension {number}: expected 1 to {len(values)}, the number of eigenvalues")
    share, index = values / values[0], np.arange(1, len(values) + 1)
    ax = ax or theme.axes_of_size(7.0, 3.8)
    ax.plot(index[share > 0], share[share > 0], color=COLOURS["val"])
    ax.set(xscale="log", yscale="log", xlabel="component", ylabel="eigenvalue / largest")
    if rank is not None:
        ax.set_ylim(bottom=max(share[rank - 1], 1e-15) / 30)  # what lies lower is rounding
        ax.axvline(rank, color=COLOURS["wrong"], ls="dashed", lw=1.4)
        units, colour = ("data", "axes fraction"), COLOURS["wrong"]
        ax.annotate(f"rank {rank}", (rank, 0.03), (-5, 0), units, "offset points", ha="right", color=colour)
    shown, box = [d for d in dims or [] if share[d - 1] > 0], {"fc": "white", "ec": "none", "pad": 0.8}
    ax.plot(shown, share[[d - 1 for d in shown]], "o", color=COLOURS["accent"], mec="white", ms=8, zorder=3)
    for d in shown:
        ax.annotate(f"{d}", (d, share[d - 1]), (0, 9), "data", "offset points", ha="center", fontsize=9, bbox=box)
    theme.plain_ticks(ax.xaxis)
    return ax


@style()
def class_counts(table: pd.DataFrame, *, most: int = 24, ax: Axes | None = None) -> Axes:
    """Draw the images of each class of one attribute as bars, largest class first, a part for each split.

    `table` has the columns `class`, `train`, `val`, `test`, as `labelled.count_classes` gives them, of one attribute.
    Of more than `most` classes the rest are one bar, which gives their number. ValueError for several attributes.
    """
    splits = ["train", "val", "test"]
    theme.check_columns(table, ["class", *splits])
    if "attribute" in table and table["attribute"].nunique() > 1:
        raise ValueError(f"counts of {table['attribute'].nunique()} attributes: choose the rows of one")
    table = table.assign(all=table[splits].sum(axis=1)).sort_values("all", ascending=False, kind="stable")
    shown, rest = table.iloc[:most], table.iloc[most:]
    names = [theme.class_name(name) for name in shown["class"]]
    names += [f"{len(rest)} other classes"] if len(rest) else []
    ax = ax or theme.axes_of_size(7.0, 0.8 + 0.24 * len(names))
    starts = np.zeros(len(names))
    for split, colour in zip(splits, ("database", "val", "test"), strict=True):
        counts = np.append(shown[split].to_numpy(np.float64), [rest[split].sum()] * bool(len(rest)))
        if counts.any():
            ax.barh(np.arange(len(names)), counts, 0.75, left=starts, color=COLOURS[colour], label=split)
        starts += counts
    for y, total in enumerate(starts):
        ax.annotate(f"{total:,.0f}", (total, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
    theme.rows_of_bars(ax, names, "images")
    ax.legend()
    return ax


@style()
def scatter(points: ArrayLike, labels: ArrayLike, *, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw points (N, 2), for example of a t-SNE, marked by class: the largest eight in colours, the others grey.

    `labels` (N,) int index `classes`, -1 where unknown.
    """
    where, labels = np.asarray(points, np.float64), theme.as_vector(labels, "labels").astype(np.int64)
    if where.shape != (len(labels), 2) or labels.min() < -1 or labels.max() >= len(classes):
        found = f"points {where.shape}, labels from {labels.min()} to {labels.max()}"
        raise ValueError(f"{found}: expected (N, 2), -1 to C-1")
    sizes = np.bincount(labels[labels >= 0], minlength=len(classes))
    largest = [int(c) for c in np.argsort(-sizes, kind="stable")[:8] if sizes[c]]
    ax = ax or theme.axes_of_size(6.4, 4.8)
    others = ~np.isin(labels, largest)
    if others.any():
        ax.scatter(where[others, 0], where[others, 1], s=9, color="#BBBBBB", lw=0, label="others")
    for place, c in enumerate(largest):
        (x, y), colour, marker = where[labels == c].T, CYCLE[place % len(CYCLE)], "os^Dv*PX"[place]
        name = theme.class_name(classes[c])
        ax.scatter(x, y, s=22, color=colour, marker=marker, alpha=0.85, ec=INK, lw=0.3, label=name)
    ax.set(xticks=[], yticks=[])
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.3)
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
    theme.check_columns(table, [x, *ys])
    kind, times = table[x].dtype.kind, 100 if percent else 1
    table = table.assign(**{x: theme.stable(table[x])}) if kind == "f" else table
    table = table.sort_values(x) if kind in "iuf" else table
    ax = ax or theme.axes_of_size(7.0, 3.8)
    for number, y in enumerate(ys):
        colour, marker, line = CYCLE[number % len(CYCLE)], "os^Dv"[number % 5], LINES[number % len(LINES)]
        if {f"{y}_low", f"{y}_high"} <= set(table.columns):
            low, high = (times * theme.stable(table[f"{y}_{end}"]) for end in ("low", "high"))
            ax.fill_between(table[x], low, high, color=colour, alpha=0.15, lw=0)
        drawn = times * theme.stable(table[y])
        ax.plot(table[x], drawn, color=colour, marker=marker, ms=5, ls=line, label=theme.heading(y))
    if logx:
        ax.set_xscale("log")
        if table[x].nunique() <= 12:
            ax.xaxis.set_major_locator(FixedLocator(sorted(table[x].unique())))
        theme.plain_ticks(ax.xaxis)
    elif kind in "iu":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if best is not None:
        label = f"chosen: {best:g}" if isinstance(best, int | float) else f"chosen: {best}"
        ax.axvline(best, color=GREY, ls="dotted", lw=1.6, label=label)
    ax.set(xlabel=xlabel or theme.heading(x), ylabel=ylabel)
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
    theme.check_columns(table, [label, *scores, *(name for name in (pale, baseline) if name)])
    hatched = table[pale].to_numpy(bool) if pale else np.zeros(len(table), bool)
    ax = ax or theme.axes_of_size(7.0, 1.0 + (0.3 * len(scores) + 0.15) * len(table))
    height, rows = 0.82 / len(scores), np.arange(len(table))
    keys: list[Artist] = []
    for number, score in enumerate(scores):
        columns = (table.get(name, table[score]) for name in (score, f"{score}_low", f"{score}_high"))
        values = np.stack([100 * theme.stable(column) for column in columns], axis=1)
        centre = rows + (number - (len(scores) - 1) / 2) * height
        there = np.isfinite(values[:, 0])
        colour = CYCLE[number % len(CYCLE)]
        bars = ax.barh(centre[there], values[there, 0], height * 0.92, color=colour, alpha=0.85)
        keys.append(Patch(fc=colour, alpha=0.85, label=theme.heading(score)))
        for bar in np.array(bars, object)[hatched[there]]:
            bar.set(fc=(colour, 0.25), ec=colour, hatch="////", alpha=None)
        for y, (value, low, high) in zip(centre[there], values[there], strict=True):
            if high > low:
                ax.plot([low, high], [y, y], color=INK, lw=1.2, marker="|", ms=5)
            end = np.nanmax([value, high])
            ax.annotate(f"{value:.1f}", (end, y), (5, 0), textcoords="offset points", va="center", fontsize=9)
    theme.rows_of_bars(ax, [theme.literal(name) for name in table[label]], "score (%)")
    ax.set_xlim(left=0)
    if hatched.any():
        keys.append(Patch(fc="white", ec=GREY, hatch="////", label="published"))
    if baseline:
        for y, value in enumerate(100 * table[baseline].to_numpy(np.float64)):
            ax.plot([value, value], [y - 0.45, y + 0.45], color=INK, ls="dotted", lw=2)
        keys.append(Line2D([], [], color=INK, ls="dotted", lw=2, label=theme.heading(baseline)))
    if len(keys) > 1:
        ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(keys), borderaxespad=0.2)
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
    if best is not None and (best[0] not in ks or best[1] not in taus):
        raise ValueError(f"best {best}: expected (k, tau) among ks {list(ks)} and taus {list(taus)}")
    ax = ax or theme.axes_of_size(max(4.5, 1.9 + 0.56 * len(taus)), max(2.4, 1.1 + 0.36 * len(ks)))
    labels = {"xticklabels": [f"{tau:g}" for tau in taus], "yticklabels": [f"{k}" for k in ks]}
    numbers = {"annot": True, "fmt": ".1f", "annot_kws": {"fontsize": 9}, "cbar_kws": {"label": "val GAP (%)"}}
    sns.heatmap(100 * values, cmap="viridis", linewidths=0.5, ax=ax, **labels, **numbers)
    ax.tick_params(rotation=0, length=0)
    ax.set(xlabel="tau", ylabel="k")
    if best is not None:
        corner = (list(taus).index(best[1]), list(ks).index(best[0]))
        frame = Rectangle(corner, 1, 1, fill=False, ec="black", lw=2.2, zorder=5, clip_on=False)
        frame.set_path_effects([withStroke(linewidth=5, foreground="white")])
        ax.add_patch(frame)
    return ax


@style()
def confusion(counts: ArrayLike, *, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix of counts (C, C), rows the truth, in percent of each row; one without images is empty."""
    matrix = np.asarray(counts, np.float64)
    if matrix.shape != (len(classes),) * 2 or not len(classes) or not (matrix >= 0).all():
        raise ValueError(f"counts {matrix.shape} for {len(classes)} classes: expected (C, C), 0 or more")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(100 * matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    cell, size, least = (0.24, 7, 10) if len(classes) > 12 else (0.42, 9, 1)  # small cells: only large shares in text
    side = 2.2 + cell * len(classes)
    ax = ax or theme.axes_of_size(side + 0.6, side)
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    for (i, j), share in np.ndenumerate(shares):
        if share >= least:
            colour = "white" if share < 55 else "black"
            ax.text(j, i, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=size)
    names = [theme.class_name(name) for name in classes]
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), [f"{name} ({int(total)})" for name, total in zip(names, totals.flat, strict=True)])
    ax.tick_params(labelsize=size)
    ax.grid(False)
    ax.set(xlabel="called", ylabel="what it is (images)")
    ax.figure.colorbar(image, ax=ax, label="share of the row (%)", fraction=0.04, pad=0.02)
    return ax


@style()
def precision_recall(recall: ArrayLike, precision: ArrayLike, *, gap: float, ax: Axes | None = None) -> Axes:
    """Draw precision over recall (both (n,) fractions, recall ascending) as steps whose area is `gap`.

    Each precision holds from the recall before it, so the filled area is sum(diff(recall) * precision).
    """
    recall, precision = theme.as_vectors(recall=recall, precision=precision)
    recall, precision = 100 * np.append(0, recall), 100 * np.append(precision[0], precision)
    ax = ax or theme.axes_of_size(6.0, 4.0)
    ax.fill_between(recall, precision, step="pre", color=COLOURS["val"], alpha=0.2, lw=0)
    ax.step(recall, precision, where="pre", color=COLOURS["val"])
    box = {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 3}
    ax.text(0.04, 0.06, f"area = GAP = {theme.format_percent(gap)}", transform=ax.transAxes, weight="bold", bbox=box)
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
    given = {"mean_confidence": mean_confidence, "share_correct": share_correct, "count": count}
    confidence, share, number = theme.as_vectors(**{name: np.nan_to_num(values) for name, values in given.items()})
    used = number > 0
    if not used.any():
        raise ValueError("all bins are empty: reliability needs at least one answered query")
    confidence, share, number = 100 * theme.stable(confidence[used]), 100 * share[used], number[used]
    ax = ax or theme.axes_of_size(5.0, 4.4)
    ax.plot([0, 100], [0, 100], color=GREY, ls="dashed", lw=1.2, label="as confident as right")
    ax.plot(confidence, share, color=COLOURS["val"], lw=1.2, alpha=0.6)
    size = 25 + 250 * number / number.max()
    ax.scatter(confidence, share, s=size, color=COLOURS["val"], ec="white", zorder=3, label="queries (n)")
    for x, y, n, s in zip(confidence, share, number, size, strict=True):
        above = 3 + math.sqrt(s) / 2  # points from the middle of the dot
        ax.annotate(f"{n:,.0f}", (x, y), (0, above), textcoords="offset points", fontsize=9, ha="center", va="bottom")
    ax.set(xlim=(-7, 107), ylim=(-7, 114), xlabel="mean confidence (%)", ylabel="answered right (%)", aspect="equal")
    ax.legend(loc="upper left")
    return ax
