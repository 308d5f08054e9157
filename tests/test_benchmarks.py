"""The benchmarks' own arithmetic, on small sizes; what they measure is never judged here."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as bench
from benchmarks import descriptors, images, measure

FIGURES = Path(__file__).resolve().parents[1] / "figures"


def test_steps_take_turns() -> None:
    ran: list[str] = []
    seconds = measure.take_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 3)
    assert ran == ["a", "b"] * 4  # the first round warms up
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert all((values >= 0).all() for values in seconds.values())


@pytest.mark.parametrize(
    ("values", "bound", "reached"),
    [
        ([3, 1, 2], "<= 2", "yes"),
        ([3, 1, 2.1], "<= 2", "no"),
        (0.8, ">= 0.8", "yes"),
        (0.7, ">= 0.8", "no"),
        (1, "", ""),
    ],
)
def test_a_row_is_a_median_judged_by_its_bound(values: object, bound: str, reached: str) -> None:
    row = measure.row("step", "work", "figure", values, bound, "s")
    assert row["reached"] == reached and row["must be"] == bound and row["unit"] == "s"
    assert float(row["value"]) == pytest.approx(np.median(values))
    assert float(row["lowest"]) == np.min(values) and float(row["highest"]) == np.max(values)
    assert row["rounds"] == np.size(values)


def test_unit_rows_are_unit_and_the_peak_is_in_bytes() -> None:
    rows = measure.unit_rows(40_000, 3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert len(np.unique(rows[:, 0])) > 39_000  # no block is another's copy
    assert 2**24 < measure.peak_bytes() < 2**40
    assert measure.product_rate(64, 1) > 1e6


def test_every_benchmark_is_there() -> None:
    for module, function in bench.BENCHMARKS.values():
        assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), function))


@pytest.mark.slow
def test_rows_are_written_beside_those_of_other_runs_and_drawn(tmp_path: Path) -> None:
    def line(name: str, value: float, bound: str) -> dict[str, object]:
        return {"benchmark": name, **measure.row(name, "work, more", "seconds", [value, value / 2], bound)}

    path = tmp_path / "benchmarks.csv"
    bench.write([line("whitening", 1, "<= 2"), line("import", 9, "<= 2")], path)
    bench.write([line("search-mini", 70, ">= 50"), line("import", 1, "")], path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["benchmark"] for row in rows] == ["search-mini", "whitening", "import"]
    assert [row["must be"] for row in rows] == [">= 50", "<= 2", ""]
    bench.draw(path)
    with Image.open(tmp_path / "benchmarks.png") as picture:
        assert picture.width > 500 and "share of what it must be" in picture.info["Description"]


@pytest.mark.slow
def test_the_steps_run_on_small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "MINI", {"n": 600, "q": 40, "exhibits": 500})
    monkeypatch.setattr(descriptors, "FULL", {"n": 700, "q": 60, "exhibits": 500})
    monkeypatch.setattr(descriptors, "DIM", 16)
    monkeypatch.setattr(descriptors.os, "sched_setaffinity", lambda *_: None, raising=False)
    lines = [
        *descriptors.search_mini(1),
        *descriptors.grid(1),
        *descriptors.bootstrap(1),
        *descriptors._whitening(600, 24, 1),
    ]
    assert len(lines) == 7 and all(float(line["highest"]) >= float(line["lowest"]) for line in lines)


@pytest.mark.slow
def test_the_gpu_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LONGEST", 320)
    lines = images._gpu_lines("test_resnet", "cpu", 6, 1)
    assert {line["figure"] for line in lines} >= {"faster than one by one", "half precision: cosine distance"}
    assert float(next(line for line in lines if "cosine" in line["figure"])["value"]) < 1e-2


def test_the_committed_figures_are_of_these_benchmarks() -> None:
    with (FIGURES / "benchmarks.csv").open(encoding="utf-8", newline="") as file:
        names = {row["benchmark"] for row in csv.DictReader(file)}
    assert names <= set(bench.BENCHMARKS)
    assert names >= set(bench.BENCHMARKS) - {"extraction-gpu"}
