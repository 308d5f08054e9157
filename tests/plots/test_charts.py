"""plots.charts: read from the artists what a chart shows."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from metlib import plots
from metlib.plots import COLOURS
from tests.plots.conftest import texts


def test_long_tail_orders_exhibits_and_says_what_share_has_one_image() -> None:
    ax = plots.long_tail([5, 5, 5, 7, 9, 9, 2, 1])
    assert ax.lines[0].get_ydata().tolist() == [3, 2, 1, 1, 1]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "60.0 % of 5 exhibits\nhave one image" in texts(ax)
    with pytest.raises(ValueError, match="distractor is no exhibit"):
        plots.long_tail([1, -1])


def test_counts_are_written_beside_their_bars() -> None:
    ax = plots.histogram_counts({"database": 397121, "val": 129})
    assert [bar.get_width() for bar in ax.patches] == [397121, 129]
    assert mpl.colors.to_hex(ax.patches[0].get_facecolor()).upper() == COLOURS["database"]
    assert {"397,121", "129", "images"} <= set(texts(ax))


def test_similarity_histogram_draws_densities_with_counts_and_known_colours() -> None:
    ax = plots.similarity_histogram({"right": np.linspace(0, 0.5, 1200), "else": [0.9, 0.9]}, bins=10)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["right (n = 1,200)", "else (n = 2)"]
    outline = next(patch for patch in ax.patches if patch.get_label() == labels[0])
    assert mpl.colors.to_hex(outline.get_edgecolor()).upper() == COLOURS["right"]
    values, edges, _ = outline.get_data()
    assert (values * np.diff(edges)).sum() == pytest.approx(1)


def test_similarity_histogram_of_equal_values() -> None:
    plots.similarity_histogram({"one": [1.0], "same": [1.0, 1.0]})


def test_spectrum_shows_shares_with_rank_and_dims() -> None:
    ax = plots.spectrum([4, 2, 1, 0], rank=3, dims=[2])
    assert ax.lines[0].get_ydata().tolist() == [1, 0.5, 0.25]
    assert {"rank 3", "2"} <= set(texts(ax))
    with pytest.raises(ValueError, match="dimension 5: expected 1 to 4"):
        plots.spectrum([4, 2, 1, 0], dims=[5])
    with pytest.raises(ValueError, match="descend"):
        plots.spectrum([1, 2])


def test_class_counts_stack_splits_largest_class_first_and_fold_the_rest() -> None:
    table = pd.DataFrame({"class": list("abcd"), "train": [1, 9, 4, 2], "val": [0, 2, 1, 0], "test": [0, 3, 0, 1]})
    ax = plots.class_counts(table.assign(attribute="style"), most=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "c", "2 other classes"]
    assert [text.get_text() for text in ax.texts] == ["14", "5", "4"]
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers}
    assert widths == {"train": [9, 4, 3], "val": [2, 1, 0], "test": [3, 0, 1]}
    with pytest.raises(ValueError, match="2 attributes"):
        plots.class_counts(table.assign(attribute=["style", "style", "genre", "genre"]))


def test_points_differ_by_colour_and_mark_and_small_classes_are_grey() -> None:
    labels = np.repeat(np.arange(10), np.arange(10, 0, -1))
    points = np.random.default_rng(0).normal(size=(len(labels), 2))
    ax = plots.scatter(points, labels, classes=[f"c{i}" for i in range(10)])
    shown = {str(dots.get_label()): len(np.asarray(dots.get_offsets())) for dots in ax.collections}
    assert shown == {"others": 3} | {f"c{i}": 10 - i for i in range(8)}
    with pytest.raises(ValueError, match="labels from 0 to 9"):
        plots.scatter(points, labels, classes=["a"])


def test_score_lines_are_percent_in_order_of_x_with_band_and_choice(scores: pd.DataFrame) -> None:
    ax = plots.score_lines(scores, x="dim", ys=["gap", "gap_minus"], xlabel="d", logx=True, best=64)
    assert ax.lines[0].get_xdata().tolist() == [32, 64, 128]
    assert ax.lines[0].get_ydata() == pytest.approx([10, 20, 36.1])
    assert len(ax.collections) == 1  # only GAP has an interval
    assert {"GAP", "GAP⁻", "chosen: 64", "score (%)", "d"} <= set(texts(ax))
    ax.figure.canvas.draw()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["32", "64", "128"]
    with pytest.raises(ValueError, match="no column acc; it has dim"):
        plots.score_lines(scores, x="dim", ys="acc")


def test_lines_of_what_is_no_score_are_drawn_as_they_are_and_epochs_are_whole() -> None:
    table = pd.DataFrame({"epoch": [0, 1, 2], "loss": [0.5, 0.4, 0.3], "loss_low": 0.1, "loss_high": 0.6})
    ax = plots.score_lines(table, x="epoch", ys="loss", ylabel="loss", percent=False)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.4, 0.3])
    assert ax.collections[0].get_paths()[0].get_extents().ymax == pytest.approx(0.6)
    ax.figure.canvas.draw()
    assert all(tick == round(tick) for tick in ax.get_xticks())


def test_score_bars_have_values_and_whiskers_and_no_bar_for_a_missing_score(scores: pd.DataFrame) -> None:
    ax = plots.score_bars(scores, label="name", scores=("gap", "gap_minus"))
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([20, 10, 36.1, 30, 20])
    assert ax.lines[0].get_xdata() == pytest.approx([15, 24])
    assert len(ax.lines) == 3
    assert {"36.1", "GAP", "GAP⁻", "score (%)", "a", "b", "c"} <= set(texts(ax))


def test_score_bars_of_published_numbers_are_pale_and_named(scores: pd.DataFrame) -> None:
    table = scores.assign(published=[True, False, True])
    ax = plots.score_bars(table, label="name", scores=("gap", "gap_minus"), pale="published")
    assert [bar.get_hatch() for bar in ax.patches] == ["////", None, "////", "////", None]
    assert [bar.get_facecolor()[3] for bar in ax.patches] == pytest.approx([0.25, 0.85, 0.25, 0.25, 0.85])
    colours = [mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert colours == 3 * [plots.CYCLE[0]] + 2 * [plots.CYCLE[1]]  # the score's colour stays
    key = dict(zip((text.get_text() for text in ax.get_legend().texts), ax.get_legend().legend_handles, strict=True))
    assert list(key) == ["GAP", "GAP⁻", "published"]
    assert key["published"].get_hatch() == "////" and not key["GAP"].get_hatch()
    assert mpl.colors.to_hex(key["GAP"].get_facecolor()).upper() == plots.CYCLE[0]
    one = plots.score_bars(table, label="name", scores=["gap"], pale="published")
    assert [text.get_text() for text in one.get_legend().texts] == ["GAP", "published"]
    none = plots.score_bars(table.assign(published=False), label="name", scores=["gap"], pale="published")
    assert none.get_legend() is None
    with pytest.raises(ValueError, match="no column paper"):
        plots.score_bars(table, label="name", scores=["gap"], pale="paper")


def test_score_bars_on_a_shared_axis_keep_the_first_row_on_top(scores: pd.DataFrame) -> None:
    _, axes = plt.subplots(1, 2, sharey=True)
    for ax in axes:
        plots.score_bars(scores, label="name", scores=["gap"], ax=ax)
    assert all(ax.yaxis_inverted() for ax in axes)


def test_bars_show_what_they_have_to_beat(scores: pd.DataFrame) -> None:
    ax = plots.score_bars(scores.assign(chance=[0.1, 0.2, 0.3]), label="name", scores=("gap",), baseline="chance")
    dotted = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([10, 20, 30])
    legend = ax.get_legend()
    assert legend is not None and "chance" in [text.get_text() for text in legend.get_texts()]


@pytest.mark.slow
def test_heatmap_writes_percent_and_frames_the_best_cell() -> None:
    ax = plots.heatmap([[0.1, 0.2, 0.3], [0.361, 0.5, 0.6]], ks=[1, 7], taus=[0.1, 5, 25], best=(7, 5))
    assert {"10.0", "36.1", "60.0", "0.1", "25", "7"} <= set(texts(ax))
    assert ax.patches[-1].get_xy() == (1, 1)
    assert "val GAP (%)" in texts(ax.figure)
    with pytest.raises(ValueError, match=r"best \(3, 5\)"):
        plots.heatmap([[0.1]], ks=[1], taus=[5], best=(3, 5))
    with pytest.raises(ValueError, match=r"grid of shape \(1, 1\)"):
        plots.heatmap([[0.1]], ks=[1, 2], taus=[5])


def test_a_confusion_matrix_is_in_percent_of_its_rows() -> None:
    ax = plots.confusion([[3, 1], [0, 0]], classes=["still_life", "nude"])
    np.testing.assert_allclose(ax.images[0].get_array(), [[75, 25], [0, 0]])
    assert [text.get_text() for text in ax.texts] == ["75", "25"]  # nothing is written in a row without images
    assert [label.get_text() for label in ax.get_yticklabels()] == ["still life (4)", "nude (0)"]
    with pytest.raises(ValueError, match=r"\(2, 2\) for 3 classes"):
        plots.confusion(np.zeros((2, 2)), classes=["a", "b", "c"])


def test_the_area_of_precision_recall_is_gap() -> None:
    recall, precision = np.array([0.25, 0.25, 0.5]), np.array([1, 0.5, 2 / 3])
    area = 0.25 * 1 + 0.25 * 2 / 3
    ax = plots.precision_recall(recall, precision, gap=area)
    corners = ax.collections[0].get_paths()[0].vertices / 100
    x, y = corners.T
    assert abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 == pytest.approx(area)  # the polygon that is filled
    assert "area = GAP = 41.7 %" in texts(ax)
    assert "area = GAP = < 0.01 %" in texts(plots.precision_recall([0.1], [1e-4], gap=1e-5))
    with pytest.raises(ValueError, match="lengths differ: recall 1, precision 2"):
        plots.precision_recall([0.1], [1, 1], gap=0.1)


def test_reliability_leaves_empty_bins_out() -> None:
    ax = plots.reliability([0.1, np.nan, 0.9], [0.2, np.nan, 0.5], [1200, 0, 30])
    assert ax.collections[0].get_offsets().data == pytest.approx(np.array([[10, 20], [90, 50]]))
    assert {"1,200", "30", "as confident as right"} <= set(texts(ax))
    with pytest.raises(ValueError, match="all bins are empty"):
        plots.reliability([0.1], [0.1], [0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.long_tail([]),
        lambda: plots.histogram_counts({}),
        lambda: plots.similarity_histogram({}),
        lambda: plots.similarity_histogram({"a": []}),
        lambda: plots.similarity_histogram({"a": [np.nan]}),
        lambda: plots.score_bars(pd.DataFrame({"n": [], "gap": []}), label="n", scores=["gap"]),
    ],
)
def test_nothing_to_draw_is_an_error(draw) -> None:
    with pytest.raises(ValueError):
        draw()
