"""plots: read from the artists what a picture says, and from the file what `publish` promises."""

from __future__ import annotations

import base64
import html
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from nbconvert import HTMLExporter
from PIL import Image

from metlib import dataset, plots
from metlib.plots import COLOURS, Case

ROOT = Path(__file__).resolve().parents[2]
STAMP = "synthetic museum, seed 0 | full database | random (untrained: a floor, not a result)"


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (30 + 10 * i, 60, 3), np.uint8)).save(path)
    return paths


@pytest.fixture
def scores() -> pd.DataFrame:
    table = pd.DataFrame({"dim": [64, 32, 128], "gap": [0.2, 0.1, 0.361], "gap_minus": [0.3, 0.2, np.nan]})
    return table.assign(name=["b", "a", "c"], gap_low=table.gap - 0.05, gap_high=table.gap + 0.04)


def says(drawn: Axes | Figure) -> list[str]:
    """All texts that are seen."""
    return [t.get_text() for t in drawn.findobj(Text) if t.get_text() and t.get_visible()]


def frames(figure: Figure) -> list[tuple[str, bool]]:
    """Colour and dashedness of the thick frames around pictures."""
    drawn = [patch for patch in figure.findobj(Rectangle) if patch.get_linewidth() == 3]
    colours = [mpl.colors.to_hex(patch.get_edgecolor()).upper() for patch in drawn]
    return [(colour, patch.get_linestyle() != "solid") for colour, patch in zip(colours, drawn, strict=True)]


# --- numbers ---


def test_long_tail_orders_exhibits_and_says_what_share_has_one_image() -> None:
    ax = plots.long_tail([5, 5, 5, 7, 9, 9, 2, 1])
    assert ax.lines[0].get_ydata().tolist() == [3, 2, 1, 1, 1]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "60.0 % of 5 exhibits\nhave one image" in says(ax)
    with pytest.raises(ValueError, match="distractor is no exhibit"):
        plots.long_tail([1, -1])


def test_counts_are_written_beside_their_bars() -> None:
    ax = plots.histogram_counts({"database": 397121, "val": 129})
    assert [bar.get_width() for bar in ax.patches] == [397121, 129]
    assert mpl.colors.to_hex(ax.patches[0].get_facecolor()).upper() == COLOURS["database"]
    assert {"397,121", "129", "images"} <= set(says(ax))


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
    assert {"rank 3", "2"} <= set(says(ax))
    with pytest.raises(ValueError, match="dimension 5: expected 1 to 4"):
        plots.spectrum([4, 2, 1, 0], dims=[5])
    with pytest.raises(ValueError, match="descend"):
        plots.spectrum([1, 2])


def test_score_lines_are_percent_in_order_of_x_with_band_and_choice(scores: pd.DataFrame) -> None:
    ax = plots.score_lines(scores, x="dim", ys=["gap", "gap_minus"], xlabel="d", logx=True, best=64)
    assert ax.lines[0].get_xdata().tolist() == [32, 64, 128]
    assert ax.lines[0].get_ydata() == pytest.approx([10, 20, 36.1])
    assert len(ax.collections) == 1  # only GAP has an interval
    assert {"GAP", "GAP⁻", "chosen: 64", "score (%)", "d"} <= set(says(ax))
    ax.figure.canvas.draw()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["32", "64", "128"]
    with pytest.raises(ValueError, match="no column acc; it has dim"):
        plots.score_lines(scores, x="dim", ys="acc")


def test_score_bars_have_values_and_whiskers_and_no_bar_for_a_missing_score(scores: pd.DataFrame) -> None:
    ax = plots.score_bars(scores, label="name", scores=("gap", "gap_minus"))
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([20, 10, 36.1, 30, 20])
    assert ax.lines[0].get_xdata() == pytest.approx([15, 24])
    assert len(ax.lines) == 3
    assert {"36.1", "GAP", "GAP⁻", "score (%)", "a", "b", "c"} <= set(says(ax))


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


def test_heatmap_writes_percent_and_frames_the_best_cell() -> None:
    ax = plots.heatmap([[0.1, 0.2, 0.3], [0.361, 0.5, 0.6]], ks=[1, 7], taus=[0.1, 5, 25], best=(7, 5))
    assert {"10.0", "36.1", "60.0", "0.1", "25", "7"} <= set(says(ax))
    assert ax.patches[-1].get_xy() == (1, 1)
    assert "val GAP (%)" in says(ax.figure)
    with pytest.raises(ValueError, match=r"best \(3, 5\)"):
        plots.heatmap([[0.1]], ks=[1], taus=[5], best=(3, 5))
    with pytest.raises(ValueError, match=r"grid of shape \(1, 1\)"):
        plots.heatmap([[0.1]], ks=[1, 2], taus=[5])


def test_the_area_of_precision_recall_is_gap() -> None:
    recall, precision = np.array([0.25, 0.25, 0.5]), np.array([1, 0.5, 2 / 3])
    area = 0.25 * 1 + 0.25 * 2 / 3
    ax = plots.precision_recall(recall, precision, gap=area)
    corners = ax.collections[0].get_paths()[0].vertices / 100
    x, y = corners.T
    assert abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 == pytest.approx(area)  # the polygon that is filled
    assert "area = GAP = 41.7 %" in says(ax)
    assert "area = GAP = < 0.01 %" in says(plots.precision_recall([0.1], [1e-4], gap=1e-5))
    with pytest.raises(ValueError, match="lengths differ: recall 1, precision 2"):
        plots.precision_recall([0.1], [1, 1], gap=0.1)


def test_reliability_leaves_empty_bins_out() -> None:
    ax = plots.reliability([0.1, np.nan, 0.9], [0.2, np.nan, 0.5], [1200, 0, 30])
    assert ax.collections[0].get_offsets().data == pytest.approx(np.array([[10, 20], [90, 50]]))
    assert {"1,200", "30", "as confident as right"} <= set(says(ax))
    with pytest.raises(ValueError, match="all bins are empty"):
        plots.reliability([0.1], [0.1], [0])


def test_an_axes_that_is_given_is_drawn_on_and_settings_stay() -> None:
    before, backend = dict(mpl.rcParams), mpl.get_backend()
    _, ax = plt.subplots()
    assert plots.long_tail([1, 1, 2], ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert dict(mpl.rcParams) == before and mpl.get_backend() == backend


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.long_tail([]),
        lambda: plots.histogram_counts({}),
        lambda: plots.similarity_histogram({}),
        lambda: plots.similarity_histogram({"a": []}),
        lambda: plots.similarity_histogram({"a": [np.nan]}),
        lambda: plots.score_bars(pd.DataFrame({"n": [], "gap": []}), label="n", scores=["gap"]),
        lambda: plots.sheet([]),
        lambda: plots.pairs([], []),
        lambda: plots.gallery([]),
        lambda: plots.pooling(np.zeros((4, 4, 3)), [], titles=[]),
    ],
)
def test_nothing_to_draw_is_an_error(draw) -> None:
    with pytest.raises(ValueError):
        draw()


# --- images ---


def test_lines_of_what_is_no_score_are_drawn_as_they_are_and_epochs_are_whole() -> None:
    table = pd.DataFrame({"epoch": [0, 1, 2], "loss": [0.5, 0.4, 0.3], "loss_low": 0.1, "loss_high": 0.6})
    ax = plots.score_lines(table, x="epoch", ys="loss", ylabel="loss", percent=False)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.4, 0.3])
    assert ax.collections[0].get_paths()[0].get_extents().ymax == pytest.approx(0.6)
    ax.figure.canvas.draw()
    assert all(tick == round(tick) for tick in ax.get_xticks())


def test_a_sheet_shows_arrays_as_it_shows_files(files: list[Path]) -> None:
    pixels = np.asarray(dataset.read_image(files[0]))
    sheet = plots.sheet([files[0], pixels, pixels / 255.0])
    of_file, of_bytes, of_floats = (ax.images[0].get_array() for ax in sheet.axes)
    np.testing.assert_array_equal(of_file, of_bytes)
    np.testing.assert_array_equal(of_file, of_floats)
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\)"):
        plots.sheet([np.zeros((3, 8, 8), np.uint8)])


def test_a_sheet_shows_every_file_with_title_and_frame(files: list[Path]) -> None:
    given = ["right", "wrong", "distractor", None, None, None, None]
    figure = plots.sheet(files, titles=[f"exhibit {i}" for i in range(7)], frames=given)
    assert len(figure.axes) == 7
    assert {"✓", "✗", "exhibit 6"} <= set(says(figure))
    expected = [(COLOURS["right"], False), (COLOURS["wrong"], True), (COLOURS["distractor"], True)]
    assert frames(figure) == expected
    shapes = {ax.images[0].get_array().shape for ax in figure.axes}
    assert len(shapes) == 1 and max(shapes.pop()) < 200  # as small as they are shown
    with pytest.raises(ValueError, match="unknown frame 'blue'"):
        plots.sheet(files[:1], frames=["blue"])
    with pytest.raises(ValueError, match="2 titles for 1 pictures"):
        plots.sheet(files[:1], titles=["a", "b"])


def test_pairs_stand_in_two_named_rows(files: list[Path]) -> None:
    figure = plots.pairs(files[:3], files[3:6], titles=["a", "b", "c"])
    assert len(figure.axes) == 6
    assert {"studio", "visitor", "a", "b", "c"} <= set(says(figure))
    with pytest.raises(ValueError, match="1 lefts but 2 rights"):
        plots.pairs(files[:1], files[:2])


def test_a_gallery_tells_right_wrong_and_invented_apart(files: list[Path]) -> None:
    q, p, t = files[:3]
    cases = [
        Case(q, p, p, 0.93, 0.93, True),
        Case(q, p, t, 0.41, 1.2e-5, False),
        Case(q, p, t, 0.4, None, False),
        Case(q, p, None, 0.77, None, False),
    ]
    figure = plots.gallery(cases, title="What it sees")
    texts = says(figure)
    assert len([ax for ax in figure.axes if ax.images]) == 12
    assert {"confidence 0.93", "confidence 1.2e-5", "not a neighbour", "not in the\ncollection"} <= set(texts)
    assert (texts.count("✓"), texts.count("✗")) == (1, 3)
    assert frames(figure) == [(COLOURS["right"], False)] + 3 * [(COLOURS["wrong"], True)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1.00"), (0.934, "0.93"), (0.01, "0.01"), (0.00412, "0.0041"), (1.2e-5, "1.2e-5"), (0, "< 1e-300")],
)
def test_a_probability_is_never_written_as_nothing(value: float, text: str) -> None:
    assert plots._probability(value) == text


def test_a_case_is_checked_when_it_is_made() -> None:
    a = Path("a.jpg")
    with pytest.raises(ValueError, match="expected a probability"):
        Case(a, a, a, -3.2, None, False)
    with pytest.raises(ValueError, match="distractor"):
        Case(a, a, None, 0.5, None, True)


def test_pooling_upsamples_maps_over_the_image() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    figure = plots.pooling(image, [[[0, 1], [0, 4]], [[0, 0], [0, 0]]], titles=["p = 1", "max"])
    first, one, none = (ax for ax in figure.axes if ax.images and ax.get_title())
    assert [ax.get_title() for ax in (first, one, none)] == ["the image", "p = 1", "max"]
    heat = one.images[1].get_array()
    assert heat.shape == first.images[0].get_array().shape[:2]
    assert heat.max() == 1 and heat[-1, -1] == heat.max() and heat[0, 0] < 0.1
    assert none.images[1].get_array().max() == 0
    with pytest.raises(ValueError, match="finite weights"):
        plots.pooling(image, [[[-1.0]]], titles=["a"])
    with pytest.raises(ValueError, match="3 titles for 1 maps"):
        plots.pooling(image, [[[1.0]]], titles=["a", "b", "c"])


# --- publishing ---


def test_publish_writes_a_small_png_that_carries_its_text(tmp_path: Path) -> None:
    path, table = tmp_path / "figures" / "01_tail.png", pd.DataFrame({"k": [1, 7], "gap": [0.1, 1 / 3]})
    figure = plots.long_tail([1, 1, 2]).figure
    shown = plots.publish(figure, path, alt="Two exhibits,\n one — rare.", stamp=STAMP, table=table)
    assert not plt.get_fignums()
    assert path.read_bytes() == shown.data and len(shown.data) <= plots.LIMIT
    with Image.open(path) as picture:
        texts = {name: text for name, text in picture.info.items() if isinstance(text, str)}
    assert texts == {"Title": "01_tail", "Description": "Two exhibits, one — rare.", "Source": STAMP}
    assert STAMP in says(figure)
    assert path.with_suffix(".csv").read_text() == "k,gap\n1,0.1\n7,0.3333333\n"
    assert sorted(file.name for file in path.parent.iterdir()) == ["01_tail.csv", "01_tail.png"]


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    first, second = (
        plots.publish(plots.long_tail([1, 1, 2]), tmp_path / f"{folder}" / "a.png", alt="a", stamp="s").data
        for folder in "xy"
    )
    assert first == second


def test_a_noisy_picture_is_made_small_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    figure, ax = plt.subplots(figsize=(8, 6))
    ax.imshow(noise)
    shown = plots.publish(figure, tmp_path / "noise.png", alt="noise", stamp=STAMP)
    assert len(shown.data) <= plots.LIMIT
    with Image.open(io.BytesIO(shown.data)) as picture:
        assert picture.info["Description"] == "noise"
        assert picture.mode == "P" and picture.width >= 400
    monkeypatch.setattr(plots, "LIMIT", 4096)
    figure, ax = plt.subplots()
    ax.imshow(noise)
    with pytest.raises(ValueError, match=r"large\.png: over 4 KB"):
        plots.publish(figure, tmp_path / "large.png", alt="noise", stamp=STAMP)
    assert not (tmp_path / "large.png").exists() and not plt.get_fignums()


@pytest.mark.parametrize(
    ("name", "alt", "stamp", "match"),
    [("a.png", " ", "s", "no alt"), ("a.png", "a", "", "no stamp"), ("a.jpg", "a", "s", "as .png")],
)
def test_publish_refuses(tmp_path: Path, name: str, alt: str, stamp: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plots.publish(plots.long_tail([1]), tmp_path / name, alt=alt, stamp=stamp)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("template", ["lab", "classic"])
def test_the_alt_text_reaches_the_reader(tmp_path: Path, template: str) -> None:
    alt = 'GAP by k & τ: "k = 7" is best'
    shown = plots.publish(plots.long_tail([1, 1, 2]), tmp_path / "a.png", alt=alt, stamp=STAMP)
    data, metadata = DisplayFormatter().format(shown)
    assert base64.b64decode(data["image/png"]) == shown.data
    assert metadata["image/png"]["alt"] == alt
    output = nbformat.v4.new_output("execute_result", data=data, metadata=metadata, execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    page, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
    found = re.findall(r"""<img[^>]*\balt=(["'])(.*?)\1""", page)
    assert [html.unescape(text) for _, text in found] == [alt]
    assert page.count("<img") == 1


def test_importing_plots_chooses_no_backend_and_loads_no_ipython() -> None:
    code = (
        "import sys, metlib.plots, matplotlib.rcsetup as rc;"
        "assert dict.__getitem__(metlib.plots.mpl.rcParams, 'backend') is rc._auto_backend_sentinel;"
        "assert not {'IPython', 'torch', 'seaborn'} & set(sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def test_class_counts_stack_splits_largest_class_first_and_fold_the_rest() -> None:
    table = pd.DataFrame({"class": list("abcd"), "train": [1, 9, 4, 2], "val": [0, 2, 1, 0], "test": [0, 3, 0, 1]})
    ax = plots.class_counts(table.assign(attribute="style"), most=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "c", "2 other classes"]
    assert [text.get_text() for text in ax.texts] == ["14", "5", "4"]
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers}
    assert widths == {"train": [9, 4, 3], "val": [2, 1, 0], "test": [3, 0, 1]}
    with pytest.raises(ValueError, match="2 attributes"):
        plots.class_counts(table.assign(attribute=["style", "style", "genre", "genre"]))


def test_a_confusion_matrix_is_in_percent_of_its_rows() -> None:
    ax = plots.confusion([[3, 1], [0, 0]], classes=["still_life", "nude"])
    np.testing.assert_allclose(ax.images[0].get_array(), [[75, 25], [0, 0]])
    assert [text.get_text() for text in ax.texts] == ["75", "25"]  # nothing is written in a row without images
    assert [label.get_text() for label in ax.get_yticklabels()] == ["still life (4)", "nude (0)"]
    with pytest.raises(ValueError, match=r"\(2, 2\) for 3 classes"):
        plots.confusion(np.zeros((2, 2)), classes=["a", "b", "c"])


def test_points_differ_by_colour_and_mark_and_small_classes_are_grey() -> None:
    labels = np.repeat(np.arange(10), np.arange(10, 0, -1))
    points = np.random.default_rng(0).normal(size=(len(labels), 2))
    ax = plots.scatter(points, labels, classes=[f"c{i}" for i in range(10)])
    shown = {str(dots.get_label()): len(np.asarray(dots.get_offsets())) for dots in ax.collections}
    assert shown == {"others": 3} | {f"c{i}": 10 - i for i in range(8)}
    with pytest.raises(ValueError, match="labels from 0 to 9"):
        plots.scatter(points, labels, classes=["a"])


def test_bars_show_what_they_have_to_beat(scores: pd.DataFrame) -> None:
    ax = plots.score_bars(scores.assign(chance=[0.1, 0.2, 0.3]), label="name", scores=("gap",), baseline="chance")
    dotted = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([10, 20, 30])
    legend = ax.get_legend()
    assert legend is not None and "chance" in [text.get_text() for text in legend.get_texts()]


def test_a_sheet_lays_heat_over_the_images_that_have_one(files: list[Path]) -> None:
    heat = np.zeros((2, 2))
    heat[0, 0] = 1
    fig = plots.sheet(files[:2], heats=[None, heat], columns=2)
    plain, warm = (np.asarray(ax.images[0].get_array(), float) for ax in fig.axes)
    assert np.array_equal(plain, plots._thumbnail(files[0], 3.0))
    inside = warm[warm.shape[0] // 2 - 20 : warm.shape[0] // 2 + 20]  # the image's rows in its padded square
    assert inside[:, :40].max() > inside[:, -40:].max()  # hot where the map is large
    with pytest.raises(ValueError, match="1 heats for 2"):
        plots.sheet(files[:2], heats=[heat])
    with pytest.raises(ValueError, match="0 or more"):
        plots.sheet(files[:1], heats=[-heat])


def test_a_dollar_in_a_name_starts_no_formula(tmp_path: Path, files: list[Path]) -> None:
    odd = [r"$\\foo$", "a $x^$ b"]
    table = pd.DataFrame({"class": odd, "train": [2, 1], "val": [0, 0], "test": [1, 1], "gap": [0.5, 0.4]})
    drawn = (
        plots.class_counts(table),
        plots.confusion(np.eye(2), classes=odd),
        plots.scatter(np.eye(2), [0, 1], classes=odd),
        plots.score_bars(table, label="class", scores=("gap",)),
        plots.sheet(files[:2], titles=odd),
    )
    for number, picture in enumerate(drawn):
        plots.publish(picture, tmp_path / f"{number}.png", alt="names with dollars", stamp=STAMP)
