"""The published numbers, and what they may stand beside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metlib import dataset
from metlib.analysis import published
from metlib.dataset import Split
from tests.analysis.test_results import museum, rows


def test_the_published_numbers_are_whole_and_sourced() -> None:
    table = published.read()
    assert len(table) == 47 and set(table.source) == set(published.SOURCES)
    assert set(table.museum) == {"met"}
    assert table[["gap", "gap_minus", "acc"]].stack().dropna().between(1, 100).all()  # percent, no fractions
    best = table[table.gap == 36.1].iloc[0]
    assert (best.model, best.k, best.tau, best.acc) == ("R18SWSL Con-Syn+Real-closest", 10, 50, 55.0)
    assert set(table.protocol) == {
        "full database, scored on test, tuned on val",
        "mini database, scored on test, tuned on val",
        "full database, scored on val, tuned on the same queries",
        "mini database, scored on val, tuned on the same queries",
    }


def test_the_published_numbers_are_those_beside_the_checkout(shared: Path) -> None:
    reference = shared / "reference_results.csv"
    if not reference.is_file():
        pytest.skip("no reference_results.csv in ../shared")
    assert published.PUBLISHED.read_bytes() == reference.read_bytes()


@pytest.mark.slow
def test_the_met_is_known_by_its_lists(shared: Path) -> None:
    root = shared / "data" / "met_ground_truth"
    if not root.is_dir():
        pytest.skip("no met_ground_truth in ../shared")
    mini = dataset.load(root, "mini")
    assert published.is_met(mini)
    assert published.comparable(mini, split="test").model.tolist() == ["R18IN"]
    report = published.comparable(mini, split="val")
    assert len(report) == 10 and set(report.source) == {"report2022"} and set(report.database) == {"mini"}
    assert published.comparable(mini, split="test", tuned_on="given").empty
    cut = dataclasses.replace(mini, database=mini.database.take(np.arange(1000)))
    for other in (cut, dataclasses.replace(mini, kind="full"), dataclasses.replace(mini, val=mini.test)):
        assert not published.is_met(other)
        assert published.comparable(other, split="val").empty
    n = 397_121
    full = Split(np.char.add("MET/", np.arange(n).astype(str)), np.arange(n))
    whole = dataclasses.replace(mini, database=full, kind="full")
    assert len(published.comparable(whole, split="test", training=None)) == 17 + 9
    as_they_come, trained = (published.comparable(whole, split="test", training=kind) for kind in ("none", "met"))
    assert len(as_they_come) + len(trained) == 17 + 9 and not as_they_come.model.str.contains("Con-").any()
    assert trained.model.str.contains("Con-").any()
    assert len(published.comparable(whole, split="val")) == 10


def test_another_museum_has_no_published_numbers_whatever_its_name() -> None:
    of = museum("met")
    assert not published.is_met(of)
    assert published.comparable(of, split="test").empty and published.comparable(of, split="val").empty
    assert "protocol" in published.comparable(of, split="test")
    with pytest.raises(ValueError, match="split 'database': expected 'val' or 'test'"):
        published.comparable(of, split="database")


def test_beside_published_numbers_of_the_same_protocol_only() -> None:
    ours, numbers = [rows()[1]], published.read()
    theirs = numbers[(numbers.database == "full") & (numbers.split == "test")]
    both = published.beside(ours, theirs[:2])
    assert both.label.tolist() == ["R18IN", "R18IN (met2021)", "R18SWSL (met2021)"]
    assert both.published.tolist() == [False, True, True]
    assert both.acc.tolist() == pytest.approx([0.7, 0.423, 0.509])
    assert both.gap_low[0] == pytest.approx(ours[0]["gap_low"] / 100) and both.gap_low[1:].isna().all()
    assert set(both.protocol) == {"full database, scored on test, tuned on val"}
    alone = published.beside(pd.DataFrame(ours), theirs[:0])
    assert alone.label.tolist() == ["R18IN"] and alone.published.dtype == bool
    with pytest.raises(ValueError, match=r"1 museum\(s\) and 3 protocol\(s\): .*tuned on the same queries"):
        published.beside(ours, numbers[numbers.split == "val"])
    with pytest.raises(ValueError, match=r"1 museum\(s\) and 2 protocol\(s\)"):
        published.beside(rows(), theirs)
    with pytest.raises(ValueError, match=r"2 museum\(s\) and 1 protocol\(s\)"):
        published.beside([rows()[1], rows(of=museum(exhibits=4))[1]], theirs[:0])
