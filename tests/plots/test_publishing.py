"""plots.publishing: read from the file and the notebook what `publish` promises."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from nbconvert import HTMLExporter
from PIL import Image

from metlib import plots
from metlib.plots import publishing
from tests.plots.conftest import texts

STAMP = "synthetic museum, seed 0 | full database | random (untrained: a floor, not a result)"


@pytest.mark.slow
def test_publish_writes_a_small_png_that_carries_its_text(tmp_path: Path) -> None:
    path, table = tmp_path / "figures" / "01_tail.png", pd.DataFrame({"k": [1, 7], "gap": [0.1, 1 / 3]})
    figure = plots.long_tail([1, 1, 2]).figure
    shown = plots.publish(figure, path, alt="Two exhibits,\n one — rare.", stamp=STAMP, table=table)
    assert not plt.get_fignums()
    assert path.read_bytes() == shown.data and len(shown.data) <= publishing.LIMIT
    with Image.open(path) as picture:
        carried = {name: text for name, text in picture.info.items() if isinstance(text, str)}
    assert carried == {"Title": "01_tail", "Description": "Two exhibits, one — rare.", "Source": STAMP}
    assert STAMP in texts(figure)
    assert path.with_suffix(".csv").read_text() == "k,gap\n1,0.1\n7,0.3333\n"
    assert sorted(file.name for file in path.parent.iterdir()) == ["01_tail.csv", "01_tail.png"]


@pytest.mark.slow
def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    first, second = (
        plots.publish(plots.long_tail([1, 1, 2]), tmp_path / f"{folder}" / "a.png", alt="a", stamp="s").data
        for folder in "xy"
    )
    assert first == second


@pytest.mark.slow
def test_rounding_of_another_processor_changes_neither_picture_nor_table(tmp_path: Path) -> None:
    written = []
    for folder, noise in (("x", 0.0), ("y", 1e-7), ("z", 2e-3)):
        scores = np.array([0.25123, 0.5 - noise, 0.75111, np.nan]) + noise
        table = pd.DataFrame({"dim": [4, 8, 16, 32], "gap": scores, "images": [397_121.0, 1e9, 1234.6, np.nan]})
        path = tmp_path / folder / "a.png"
        plots.publish(plots.score_lines(table, x="dim", ys="gap"), path, alt="a", stamp="s", table=table)
        plots.publish(plots.score_lines(table[:3], x="gap", ys="dim"), path.with_name("b.png"), alt="b", stamp="s")
        plots.publish(plots.similarity_histogram({"c": scores[:3]}), path.with_name("c.png"), alt="c", stamp="s")
        drawn = b"".join(file.read_bytes() for file in sorted(path.parent.glob("*.png")))
        written.append((drawn, path.with_suffix(".csv").read_text()))
    assert written[0] == written[1]
    assert written[0][1].splitlines() == [
        *("dim,gap,images", "4,0.2512,397121", "8,0.5,1000000000", "16,0.7511,1235", "32,,")
    ]
    assert written[0][0] != written[2][0] and written[0][1] != written[2][1]  # what can be seen is


@pytest.mark.slow
def test_a_noisy_picture_is_made_small_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    figure, ax = plt.subplots(figsize=(8, 6))
    ax.imshow(noise)
    shown = plots.publish(figure, tmp_path / "noise.png", alt="noise", stamp=STAMP)
    assert len(shown.data) <= publishing.LIMIT
    with Image.open(io.BytesIO(shown.data)) as picture:
        assert picture.info["Description"] == "noise"
        assert picture.mode == "P" and picture.width >= 400
    monkeypatch.setattr(publishing, "LIMIT", 4096)
    figure, ax = plt.subplots()
    ax.imshow(noise)
    with pytest.raises(ValueError, match=r"large\.png: over 4 KB"):
        plots.publish(figure, tmp_path / "large.png", alt="noise", stamp=STAMP)
    assert not (tmp_path / "large.png").exists() and not plt.get_fignums()


@pytest.mark.parametrize(
    ("name", "alt", "stamp", "match"),
    [("a.png", " ", "s", "no alt"), ("a.png", "a", "", "no stamp"), ("a.jpg", "a", "s", "as .png")],
)
def test_publish_raises(tmp_path: Path, name: str, alt: str, stamp: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plots.publish(plots.long_tail([1]), tmp_path / name, alt=alt, stamp=stamp)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
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
