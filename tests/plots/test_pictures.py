"""plots.pictures: read from the artists what a picture shows."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metlib import dataset, plots
from metlib.plots import COLOURS, Case, pictures
from tests.plots.conftest import texts


def frames(figure: Figure) -> list[tuple[str, bool]]:
    """Colour and dashedness of the thick frames around pictures."""
    drawn = [patch for patch in figure.findobj(Rectangle) if patch.get_linewidth() == 3]
    colours = [mpl.colors.to_hex(patch.get_edgecolor()).upper() for patch in drawn]
    return [(colour, patch.get_linestyle() != "solid") for colour, patch in zip(colours, drawn, strict=True)]


def test_a_sheet_shows_every_file_with_title_and_frame(files: list[Path]) -> None:
    given = ["right", "wrong", "distractor", None, None, None, None]
    figure = plots.sheet(files, titles=[f"exhibit {i}" for i in range(7)], frames=given)
    assert len(figure.axes) == 7
    assert {"✓", "✗", "exhibit 6"} <= set(texts(figure))
    expected = [(COLOURS["right"], False), (COLOURS["wrong"], True), (COLOURS["distractor"], True)]
    assert frames(figure) == expected
    shapes = {ax.images[0].get_array().shape for ax in figure.axes}
    assert len(shapes) == 1 and max(shapes.pop()) < 200  # as small as they are shown
    with pytest.raises(ValueError, match="unknown frame 'blue'"):
        plots.sheet(files[:1], frames=["blue"])
    with pytest.raises(ValueError, match="2 titles for 1 pictures"):
        plots.sheet(files[:1], titles=["a", "b"])


def test_a_sheet_shows_arrays_as_it_shows_files(files: list[Path]) -> None:
    pixels = np.asarray(dataset.read_image(files[0]))
    sheet = plots.sheet([files[0], pixels, pixels / 255.0])
    of_file, of_bytes, of_floats = (ax.images[0].get_array() for ax in sheet.axes)
    np.testing.assert_array_equal(of_file, of_bytes)
    np.testing.assert_array_equal(of_file, of_floats)
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\)"):
        plots.sheet([np.zeros((3, 8, 8), np.uint8)])


def test_a_sheet_lays_heat_over_the_images_that_have_one(files: list[Path]) -> None:
    heat = np.zeros((2, 2))
    heat[0, 0] = 1
    fig = plots.sheet(files[:2], heats=[None, heat], columns=2)
    plain, warm = (np.asarray(ax.images[0].get_array(), float) for ax in fig.axes)
    assert np.array_equal(plain, pictures._thumbnail(files[0], 3.0))
    inside = warm[warm.shape[0] // 2 - 20 : warm.shape[0] // 2 + 20]  # the image's rows in its padded square
    assert inside[:, :40].max() > inside[:, -40:].max()  # hot where the map is large
    with pytest.raises(ValueError, match="1 heats for 2"):
        plots.sheet(files[:2], heats=[heat])
    with pytest.raises(ValueError, match="0 or more"):
        plots.sheet(files[:1], heats=[-heat])


def test_pairs_stand_in_two_named_rows(files: list[Path]) -> None:
    figure = plots.pairs(files[:3], files[3:6], titles=["a", "b", "c"])
    assert len(figure.axes) == 6
    assert {"studio", "visitor", "a", "b", "c"} <= set(texts(figure))
    with pytest.raises(ValueError, match="1 lefts but 2 rights"):
        plots.pairs(files[:1], files[:2])


@pytest.mark.slow
def test_a_gallery_tells_right_wrong_and_invented_apart(files: list[Path]) -> None:
    q, p, t = files[:3]
    cases = [
        Case(q, p, p, 0.93, 0.93, True),
        Case(q, p, t, 0.41, 1.2e-5, False),
        Case(q, p, t, 0.4, None, False),
        Case(q, p, None, 0.77, None, False),
    ]
    figure = plots.gallery(cases, title="What it sees")
    written = texts(figure)
    assert len([ax for ax in figure.axes if ax.images]) == 12
    assert {"confidence 0.93", "confidence 1.2e-5", "not a neighbour", "not in the\ncollection"} <= set(written)
    assert (written.count("✓"), written.count("✗")) == (1, 3)
    assert frames(figure) == [(COLOURS["right"], False)] + 3 * [(COLOURS["wrong"], True)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1.00"), (0.934, "0.93"), (0.01, "0.01"), (0.00412, "0.0041"), (1.2e-5, "1.2e-5"), (0, "< 1e-300")],
)
def test_a_probability_is_never_written_as_nothing(value: float, text: str) -> None:
    assert pictures._probability(value) == text


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


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.sheet([]),
        lambda: plots.pairs([], []),
        lambda: plots.gallery([]),
        lambda: plots.pooling(np.zeros((4, 4, 3)), [], titles=[]),
    ],
)
def test_nothing_to_draw_is_an_error(draw) -> None:
    with pytest.raises(ValueError):
        draw()
