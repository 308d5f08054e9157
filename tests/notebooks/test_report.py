"""The report's small parts; whole pages are looked at in test_runner.py and test_course.py."""

from __future__ import annotations

import csv
from pathlib import Path

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from metlib.notebooks import report


def test_titles_and_questions_are_plain_text() -> None:
    cell = new_markdown_cell(
        "# 05: When is an *answer* worth `giving`?\n\n**Question.** What, at\n[last](x.ipynb)?\n\nMore"
    )
    one = report.Entry("05_confidence", new_notebook(cells=[cell]))
    assert (one.number, one.title, one.question) == (
        "05",
        "When is an answer worth giving?",
        "What, at last?",
    )
    assert one.thumbnail is None
    bare = report.Entry("06_x", new_notebook(cells=[]))
    assert (bare.title, bare.question) == ("06_x", "")


def test_a_table_with_gaps_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    assert report.read_scores(tmp_path) == [] and "no table" in report.format_scores([])
    with (tmp_path / report.SCORES).open("w", newline="") as file:
        csv.writer(file).writerows([["split", "gap", "gap_low", "acc"], ["test", "0.5", "0.4", "nonsense"]])
    (row,) = report.read_scores(tmp_path)
    assert report.percent(row, "gap") == ("50.0", "") and report.percent(row, "acc") == ("", "")
    assert "50.0" in report.format_scores([row])


def test_pictures_without_a_stamp_are_listed_too(tmp_path: Path) -> None:
    assert report.write_figures_readme([], tmp_path) is None
    Image.new("L", (2, 2)).save(tmp_path / "03_x.png")
    readme = report.write_figures_readme([], tmp_path)
    assert readme is not None and "not stamped" in readme.read_text(encoding="utf-8")


def test_widgets_and_badges_stay_out_of_pages() -> None:
    view = new_output("display_data", {report.WIDGET: {"model_id": "x"}, "text/plain": "slider"})
    cells = [
        new_markdown_cell(
            "# A\n\n<!-- badge -->\n![Colab](https://example.org/x.svg)\n<!-- /badge -->\n\n**Question.** B?"
        ),
        new_code_cell("1", outputs=[view, new_output("stream", text="kept")]),
    ]
    page = report._for_a_page(new_notebook(cells=cells, metadata={"widgets": {"state": {}}}))
    assert "example.org" not in page.cells[0].source and "**Question.** B?" in page.cells[0].source
    assert [output.output_type for output in page.cells[1].outputs] == ["stream"]
    assert "widgets" not in page.metadata


def test_the_results_table_is_listed_after_the_pictures(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "03_x.png")
    (tmp_path / "results.csv").write_text("date\n")
    readme = report.write_figures_readme([], tmp_path)
    assert readme is not None and "## results.csv" in readme.read_text(encoding="utf-8").split("03_x.png")[-1]
