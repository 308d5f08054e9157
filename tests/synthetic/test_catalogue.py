"""The catalogue of the painted museum: its long tail, its series, its queries, and that it is quick."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from metlib.synthetic.catalogue import MOST, SINGLE, plan
from metlib.synthetic.photographs import studio


def test_exhibits_of_a_series_share_their_attributes_but_not_their_pixels() -> None:
    catalogue = plan(60, 0, 1, 1, 1.0)
    members = np.flatnonzero(catalogue.series == np.argmax(np.bincount(catalogue.series)))
    exhibits = [catalogue.exhibit(int(row)) for row in members]
    assert len(exhibits) > 2
    assert len({(e.kind, e.school, e.palette, e.maker) for e in exhibits}) == 1
    assert len({e.title for e in exhibits}) == len(exhibits)
    pictures = [studio(e, 0, 64) for e in exhibits]
    assert len({p.shape for p in pictures}) == 1
    assert all(np.abs(pictures[0] - p).mean() > 0.005 for p in pictures[1:])


def test_more_exhibits_leave_the_first_ones_as_they_are() -> None:
    few, many = plan(20, 3, 4, 8, 1.0), plan(500, 3, 4, 8, 1.0)
    for name in ("ids", "photos", "series", "places"):
        assert np.array_equal(getattr(few, name), getattr(many, name)[:20]), name
    assert few.exhibit(7) == many.exhibit(7)


def test_the_long_tail_of_the_default_museum() -> None:
    catalogue = plan(300, 0, 60, 120, 7 / 6)
    assert 0.54 <= (catalogue.photos == 1).mean() <= 0.66
    assert 550 <= catalogue.photos.sum() <= 650
    assert catalogue.photos.max() <= MOST
    big = plan(33_501, 0, 1, 1, 1.0).photos
    counts = np.bincount(big)
    assert abs((big == 1).mean() - SINGLE) < 0.01
    assert big.max() == MOST and (np.diff(counts[2:10]) < 0).all()


def test_queries_ask_for_common_and_rare_exhibits_mostly_once() -> None:
    catalogue = plan(300, 0, 60, 120, 7 / 6)
    asked = [row for rows in catalogue.queries.values() for row, kind, _ in rows if kind == "test_met"]
    assert {1, 2} >= set(Counter(asked).values())
    assert 1 < len(asked) / len(set(asked)) < 1.3
    assert (catalogue.photos[asked] == 1).any() and (catalogue.photos[asked] > 1).any()
    kinds = [Counter(kind for _, kind, _ in catalogue.queries[name]) for name in ("val", "test")]
    assert kinds == [
        {"test_met": 60, "test_other": 40, "test_noart": 30},
        {"test_met": 120, "test_other": 80, "test_noart": 60},
    ]


@pytest.mark.slow
def test_a_museum_as_large_as_the_met_is_planned_in_seconds() -> None:
    start = time.perf_counter()
    catalogue = plan(33_501, 0, 129, 1003, 7 / 6)
    rows = catalogue.database(range(33_501))
    mini, test = catalogue.mini(), catalogue.split("test")
    assert time.perf_counter() - start < 20
    ids = [row["id"] for row in rows]
    assert ids == sorted(ids) and len(set(ids)) == 33_501 and len({row["path"] for row in rows}) == len(rows)
    assert len(rows) / 4 < len(mini) < len(rows) / 2
    assert len({row["path"] for row in test}) == len(test) == 1003 + round(1003 * 7 / 6 * 4 / 7) + round(1003 * 0.5)
