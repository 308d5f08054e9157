"""The real course, headless, on a small painted museum: every cell runs, every page and picture is there."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from PIL import Image

from metlib import cli
from metlib.notebooks import report, runner

pytestmark = pytest.mark.slow  # the whole course runs once for all of them

NOTEBOOKS = sorted(runner.ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def reports(small_museum: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `metlib report` leaves for a small museum."""
    if not NOTEBOOKS:
        pytest.skip("notebooks/ is empty")
    out = tmp_path_factory.mktemp("course")
    arguments = ["report", "--data", small_museum, "--reports", out, "--work", out / "work", "--timeout", 300]
    arguments += ["-p", "interactive=true"]  # the sliders are run too, beside the static pictures
    arguments += ["-p", 'changes={"size": 64, "epochs": 1}']  # of the training settings
    arguments += ["-p", f"collection={small_museum}", "-p", "other_exhibits=40"]  # labelled images
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", "")  # the runner sets it for its kernels
        assert cli.main([str(word) for word in arguments]) == 0
    return out


def test_every_notebook_has_a_page_that_needs_no_network(reports: Path) -> None:
    pages = sorted(reports.glob("*.html"))
    assert [page.stem for page in pages] == [*(path.stem for path in NOTEBOOKS), "index"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(?:<script|<link|<iframe)|<img[^>]+src=["'](?!data:)|@import|url\(["']?http""", text)
        for target in re.findall(r'href="([^"#:]+)"', text):
            assert (page.parent / target).is_file(), f"{page.name} links to {target}, which is not there"


def test_every_picture_is_small_described_and_stamped(reports: Path) -> None:
    pictures = sorted((reports / "figures").glob("*.png"))
    assert {path.name[:2] for path in pictures} == {path.name[:2] for path in NOTEBOOKS}
    listed = (reports / "figures" / "README.md").read_text(encoding="utf-8")
    for path in pictures:
        assert path.stat().st_size <= 200_000, f"{path.name} is larger than 200 KB"
        with Image.open(path) as picture:
            assert len(str(picture.info.get("Description", ""))) > 20, f"{path.name} has no alt text"
            assert picture.info.get("Source"), f"{path.name} isn't stamped with its data"
        assert f"## {path.name}" in listed


def test_every_picture_on_a_page_has_an_alt_text(reports: Path) -> None:
    for page in reports.glob("*.html"):
        for image in re.findall(r"<img[^>]*>", page.read_text(encoding="utf-8")):
            alt = re.search(r'alt="([^"]*)"', image)
            assert alt and alt[1] and "No description" not in alt[1], f"{page.name} shows a picture without alt text"


def test_the_scores_are_fractions_inside_their_intervals(reports: Path) -> None:
    rows = report.read_scores(reports / "figures")
    assert {row["split"] for row in rows} >= {"test"}
    for row in rows:
        assert row["museum"] and row["backbone"] and row["tuned_on"]
        for metric in report.METRICS:
            value, low, high = (float(row[metric + part]) for part in ("", "_low", "_high"))
            assert 0 <= low <= high <= 1 and 0 <= value <= 1
            assert report.percent(row, metric)[1]


def test_tables_beside_the_pictures_are_read_as_tables(reports: Path) -> None:
    for path in (reports / "figures").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) >= 2 and len({len(row) for row in rows}) == 1, f"{path.name} is ragged or empty"
