"""The benchmarks' own arithmetic, on small sizes; what they measure is never judged here."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as bench
from benchmarks import descriptors, images, measure, visits, works
from metlib import evaluate
from metlib.common.vectors import unit
from metlib.descriptors import Described, Visits

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


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A plain collection's two tables: works 7 and 9 are one, one photo shows what isn't there."""
    (tmp_path / "works.csv").write_text("id,file\n" + "".join(f"{i},{i}.jpg\n" for i in range(10)), encoding="utf-8")
    answers = "photo,ids,works_not_in_collection\n0.jpg,4,0\n1.jpg,,1\n2.jpg,9 2,0\n3.jpg,9,0\n"
    (tmp_path / "answers.csv").write_text(answers, encoding="utf-8")
    return tmp_path


def test_a_plain_collection_is_read_and_measured(collection: Path) -> None:
    museum, shown = works.read(collection, [(7, 9)])
    assert museum.database.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 7]
    assert museum.val.labels.tolist() == [4, 7] and shown == [{2, 7}]
    assert museum.test.paths.tolist() == ["photos/2.jpg"]
    rng = np.random.default_rng(0)
    X, rows = unit(rng.normal(size=(10, 16)).astype(np.float32)), np.arange(10).repeat(3)
    nearby = unit(X[rows] + 0.1 * rng.normal(size=(30, 16)).astype(np.float32))
    described = Described(museum, X, nearby[[12, 27]], unit(X[[9]] + X[[2]]), visits=Visits(rows, nearby))
    lines = list(works.measure(described, shown, dims=[8]))
    assert [line["whitening"] for line in lines] == ["none", "pca", "learned"]
    assert all(line["one work: right at rank 1"] == "100.0 [100.0, 100.0]" for line in lines)
    assert lines[0]["several: recall at 1"] == "50.0 [50.0, 50.0]"
    assert lines[0]["several: recall at 2"] == "100.0 [100.0, 100.0]"


def test_recall_counts_works_not_images() -> None:
    ranked = np.array([[3, 3, 5, 8], [8, 3, 5, 5]])
    assert works.recall(ranked, [{3, 5}, {5, 9}], 2).tolist() == [1, 0]
    assert works.recall(ranked, [{3, 5}, {5, 9}], 3).tolist() == [1, 0.5]


def test_whitenings_are_compared_in_pairs(collection: Path) -> None:
    museum, _ = works.read(collection, [(7, 9)])
    rng = np.random.default_rng(0)
    X, val, test = (unit(rng.normal(size=(n, 16)).astype(np.float32)) for n in (10, 2, 1))
    default = Described(museum, X, val, test, visits=Visits(np.arange(10), unit(X + 0.1 * X[::-1])))
    real, both = visits.pairs(default)
    assert real[0] == "1 real pairs" and both[1].visits is not None and len(both[1].visits.rows) == 11
    choice, scored = visits.judge(default, {"dim": 4, "shrinkage": 0.1})
    white = visits.transformed(default, choice)
    assert white.database.shape == (10, 4) and white.visits is not None and white.visits.descriptors.shape == (10, 4)
    assert visits.compare(scored["val"], scored["val"]) == "+0.0 [+0.0, +0.0]"
    raw = visits.judge(default, {"whitening": "none"})[1]["val"]
    assert isinstance(raw, evaluate.Scored) and visits.compare(raw, scored["val"])[0] in "+-"
