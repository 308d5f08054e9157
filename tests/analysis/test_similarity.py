"""Neighbours within a collection and what agrees in another space, against loops over all pairs."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from metlib.analysis import similarity
from metlib.common.vectors import unit
from metlib.knn import Neighbours, search

FAST = settings(deadline=None, max_examples=60)


def unit_rows(n: int, D: int, seed: int = 0) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def two_spaces(n: int = 60) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Works of one to four images, seen by two models that agree in part; some images of no known work."""
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 25, n))
    groups[rng.choice(n, 8, replace=False)] = -1
    meaning = rng.normal(size=(n, 5))
    first, second = (meaning @ rng.normal(size=(5, D)) + 0.5 * rng.normal(size=(n, D)) + 1 for D in (8, 12))
    return unit(first.astype(np.float32)), unit(second.astype(np.float32)), groups[rng.permutation(n)]


def same_work(groups: NDArray[np.int64] | None, i: int, j: int) -> bool:
    return i == j or (groups is not None and groups[i] != -1 and groups[i] == groups[j])


# ---- nearest works ----


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("grouped", [False, True])
def test_nearest_works_are_all_other_works_sorted(k: int, grouped: bool) -> None:
    rows, _, groups = two_spaces()
    groups = groups if grouped else None
    found = similarity.nearest_works(rows, k, groups=groups)
    assert found.indices.shape == (60, k)
    exact = (rows.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    for i in range(60):
        others = sorted((-exact[i, j], j) for j in range(60) if not same_work(groups, i, j))
        np.testing.assert_allclose(found.similarities[i], [-s for s, _ in others[:k]], atol=1e-6)
        assert found.indices[i].tolist() == [j for _, j in others[:k]]


@pytest.mark.slow
@FAST
@given(
    grid=hnp.arrays(np.int64, st.tuples(st.integers(2, 20), st.just(2)), elements=st.integers(-2, 2)),
    data=st.data(),
)
def test_twins_and_ties_are_left_out_or_kept_exactly(grid: NDArray[np.int64], data: st.DataObject) -> None:
    grid[np.abs(grid).sum(axis=1) == 0] = (1, 2)  # whole numbers: many ties, and exact sums
    n = len(grid)
    groups = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)))
    largest = max([1, *(int((groups == g).sum()) for g in set(groups.tolist()) - {-1})])
    if largest == n:
        with pytest.raises(ValueError, match="k must be an integer from 1 to 0"):
            similarity.nearest_works(grid, 1, groups=groups)
        return
    k = data.draw(st.integers(1, n - largest))
    found = similarity.nearest_works(grid, k, groups=groups)
    for i in range(n):
        others = sorted((-int(grid[i] @ grid[j]), j) for j in range(n) if not same_work(groups, i, j))
        assert found.indices[i].tolist() == [j for _, j in others[:k]]


def test_a_copy_of_an_image_is_found_unless_it_is_of_the_same_work() -> None:
    rows = np.repeat(unit_rows(3, 4), 2, axis=0)
    assert similarity.nearest_works(rows, 1).indices[:, 0].tolist() == [1, 0, 3, 2, 5, 4]
    of_works = similarity.nearest_works(rows, 1, groups=[7, 7, 0, 0, 3, 3]).indices[:, 0]
    assert (of_works // 2 != np.arange(6) // 2).all()


def test_too_few_other_works_and_strange_groups_are_refused() -> None:
    rows = unit_rows(5, 3)
    for k in (0, 5, 2.0):
        with pytest.raises(
            ValueError, match=r"k must be an integer from 1 to 4, what the largest work \(1 of 5 rows\)"
        ):
            similarity.nearest_works(rows, k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"from 1 to 2.*3 of 5 rows.*got 3: ask for fewer"):
        similarity.nearest_works(rows, 3, groups=[1, 1, 1, 2, 3])
    for groups in ([1, 2], [0.0] * 5, [-2] * 5):
        with pytest.raises(ValueError, match=r"groups must be \(5,\) integers"):
            similarity.nearest_works(rows, 1, groups=groups)
    with pytest.raises(ValueError, match="row 0 is zero"):
        similarity.nearest_works(np.zeros((3, 2)), 1)


# ---- alignment and uniformity ----


@pytest.mark.parametrize("alpha", [0.5, 1, 2])
@pytest.mark.parametrize("size", [1, 2**22])
def test_alignment_is_a_loop_over_pairs(alpha: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_NUMBERS", size)
    x, y = unit_rows(40, 5), unit_rows(40, 5, seed=1)
    expected = np.mean([math.dist(a, b) ** alpha for a, b in zip(x.tolist(), y.tolist(), strict=True)])
    assert similarity.alignment(x, y, alpha) == pytest.approx(expected, rel=1e-6)
    assert similarity.alignment(3 * x, y, alpha) == pytest.approx(expected, rel=1e-6)
    assert similarity.alignment(x, x, alpha) == 0
    assert similarity.alignment(x, -x, alpha) == pytest.approx(2**alpha)


@pytest.mark.parametrize("t", [0.5, 2, 5000])
@pytest.mark.parametrize("size", [1, 70, 2**22])
def test_uniformity_is_a_loop_over_pairs(t: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_NUMBERS", size)
    rows = unit_rows(30, 5)
    exact = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    exponents = np.array([-t * math.dist(a, b) ** 2 for a, b in combinations(exact.tolist(), 2)])
    expected = exponents.max() + math.log(np.exp(exponents - exponents.max()).mean())
    assert similarity.uniformity(rows, t) == pytest.approx(expected, rel=1e-9)
    assert similarity.uniformity(np.repeat(rows[:1], 4, axis=0), t) == pytest.approx(0, abs=1e-9)


def test_uniformity_of_opposites_by_hand() -> None:
    rows = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)  # squared distances 4, 2 and 2
    assert similarity.uniformity(rows) == pytest.approx(math.log((math.exp(-8) + 2 * math.exp(-4)) / 3))


@pytest.mark.slow
def test_uniformity_of_drawn_pairs_is_near_and_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(200, 6)
    exact = similarity.uniformity(rows)
    monkeypatch.setattr(similarity, "EXACT", 199)
    monkeypatch.setattr(similarity, "PAIRS", 2**17)
    drawn = similarity.uniformity(rows)
    assert drawn != exact and drawn == pytest.approx(exact, abs=0.02)
    assert similarity.uniformity(rows) == drawn != similarity.uniformity(rows, seed=1)
    monkeypatch.setattr(similarity, "_NUMBERS", 2**12)
    assert similarity.uniformity(rows) == pytest.approx(drawn, rel=1e-12)
    monkeypatch.setattr(similarity, "EXACT", 1)  # two rows are one pair, and never a row with itself
    assert similarity.uniformity(np.eye(2)) == pytest.approx(-4)


def test_sets_without_pairs_are_refused() -> None:
    rows = unit_rows(3, 4)
    for first, second, alpha in ((rows, rows[:2], 2), (rows, rows[:, :3], 2), (rows, rows, 0), (rows, rows, math.nan)):
        with pytest.raises(ValueError, match="alignment needs two sets of one shape and alpha > 0"):
            similarity.alignment(first, second, alpha)
    for some, t in ((rows[:1], 2), (rows, 0), (rows, math.nan)):
        with pytest.raises(ValueError, match="uniformity needs two rows and t > 0"):
            similarity.uniformity(some, t)


# ---- agreement ----


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("size", [1, 2**22])
def test_agreement_is_a_loop_over_queries(grouped: bool, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_NUMBERS", size)
    first, second, groups = two_spaces()
    groups = groups if grouped else None
    found = similarity.nearest_works(first, 4, groups=groups)
    table = similarity.agreement(found, second, groups=groups, draws=50, seed=3)
    assert table.index.tolist() == [1, 2, 3, 4, "random"] and table.index.name == "rank"
    wide = second.astype(np.float64)
    ranks = [[float(wide[i] @ wide[found.indices[i, rank]]) for i in range(60)] for rank in range(4)]
    for rank, values in enumerate(ranks, start=1):
        assert table.similarity[rank] == pytest.approx(np.mean(values), abs=1e-6)
    others = [[float(wide[i] @ wide[j]) for j in range(60) if not same_work(groups, i, j)] for i in range(60)]
    mean = np.mean([np.mean(values) for values in others])  # what random pairs are drawn from
    spread = np.std(np.concatenate(others))
    assert table.similarity["random"] == pytest.approx(mean, abs=5 * spread / 60**0.5)
    assert table.lift["random"] == 0 and table.lift[1] > 0.3
    lift = (table.similarity[1] - table.similarity["random"]) / table.lift[1]
    assert lift == pytest.approx(spread, rel=0.4)
    draw, samples = np.random.default_rng(3), []
    draw.integers(np.full(60, 59))  # the partners come first
    if not grouped:
        for _ in range(50):
            rows = draw.integers(60, size=60)
            samples.append([np.mean(np.array(values)[rows]) for values in ranks])
        expected = np.quantile(samples, (0.025, 0.975), axis=0)
        np.testing.assert_allclose(table[["low", "high"]].to_numpy()[:4].T, expected, atol=1e-6)
    assert (table.low < table.similarity).all() and (table.similarity < table.high).all()
    pd.testing.assert_frame_equal(table, similarity.agreement(found, second, groups=groups, draws=50, seed=3))
    assert not table.equals(similarity.agreement(found, second, groups=groups, draws=50, seed=4))


@FAST
@given(groups=st.lists(st.integers(-1, 4), min_size=2, max_size=12), seed=st.integers(0, 99))
def test_random_partners_are_of_other_works(groups: list[int], seed: int) -> None:
    given_groups = np.array(groups)
    work, size = similarity._works(given_groups, len(groups))
    if size.max() == len(groups):
        with pytest.raises(ValueError, match="all rows are of one work"):
            similarity._others(work, size, np.random.default_rng(seed))
        return
    partners = similarity._others(work, size, np.random.default_rng(seed))
    assert not any(same_work(given_groups, i, int(j)) for i, j in enumerate(partners))


def test_random_partners_are_uniform_over_all_others() -> None:
    work, size = similarity._works(np.array([3, 0, 3, -1, 0, 3, -1]), 7)
    rng = np.random.default_rng(0)
    drawn = np.stack([similarity._others(work, size, rng) for _ in range(6000)])
    for i, others in enumerate([{1, 3, 4, 6}, {0, 2, 3, 5, 6}, {1, 3, 4, 6}, {0, 1, 2, 4, 5, 6}]):
        counts = np.bincount(drawn[:, i], minlength=7)
        assert set(np.flatnonzero(counts).tolist()) == others
        n = 6000 / len(others)
        assert np.abs(counts[sorted(others)] - n).max() < 5 * math.sqrt(n)


def test_a_space_in_which_everything_is_alike_lifts_nothing() -> None:
    """The trap: the mean is near 1, and no more than that of random pairs."""
    first = unit_rows(400, 8)
    second = unit(unit_rows(400, 8, seed=1) + np.float32(3))
    table = similarity.agreement(similarity.nearest_works(first, 2), second, draws=20)
    assert table.similarity.min() > 0.9
    assert table.lift.abs().max() < 0.3
    itself = similarity.agreement(similarity.nearest_works(first, 2), first, draws=20)
    assert itself.lift[1] > itself.lift[2] > 1


def test_agreement_refuses_what_agrees_by_nature_and_what_cannot() -> None:
    first, second, groups = two_spaces()
    alone = similarity.nearest_works(first, 3)
    with pytest.raises(ValueError, match="query 0 has a neighbour of its own work"):
        similarity.agreement(search(first, first, 3), second)
    with pytest.raises(ValueError, match="has a neighbour of its own work"):
        similarity.agreement(alone, second, groups=np.zeros(60, int))
    with pytest.raises(ValueError, match="60 queries with neighbours up to row 59, but second has 59 rows"):
        similarity.agreement(alone, second[:-1])
    with pytest.raises(ValueError, match="draws must be an integer of at least 1"):
        similarity.agreement(alone, second, draws=0)
    with pytest.raises(ValueError, match="all random pairs are equally similar"):
        similarity.agreement(alone, np.ones((60, 3)))
    with pytest.raises(ValueError, match=r"groups must be \(60,\) integers"):
        similarity.agreement(alone, second, groups=groups[:-1])


# ---- labels ----


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_agreement_of_labels_is_a_loop(unknown: bool, grouped: bool) -> None:
    first, _, groups = two_spaces()
    groups = groups if grouped else None
    labels = np.random.default_rng(2).choice([-1 if unknown else 9, 0, 0, 4, 5], 60)
    found = similarity.nearest_works(first, 3, groups=groups)
    table = similarity.agreement_of_labels(found, labels, groups=groups)
    assert table.index.tolist() == [1, 2, 3] and table.columns.tolist() == ["pairs", "share", "chance"]
    for rank in range(3):
        hits, chances = [], []
        for i in range(60):
            j = found.indices[i, rank]
            if labels[i] != -1 and labels[j] != -1:
                hits.append(labels[i] == labels[j])
                rest = [labels[m] for m in range(60) if labels[m] != -1 and not same_work(groups, i, m)]
                chances.append(np.mean(np.array(rest) == labels[i]))
        assert table.pairs[rank + 1] == len(hits)
        assert table.share[rank + 1] == pytest.approx(np.mean(hits))
        assert table.chance[rank + 1] == pytest.approx(np.mean(chances))


def test_chance_is_the_textbooks_without_replacement() -> None:
    labels = np.repeat([2, 3, 8], [5, 3, 2])
    table = similarity.agreement_of_labels(similarity.nearest_works(unit_rows(10, 4), 2), labels)
    assert table.chance.tolist() == pytest.approx([(5 * 4 + 3 * 2 + 2 * 1) / (10 * 9)] * 2)
    by_hand = Neighbours(np.full((3, 1), 0.5, np.float32), np.array([[1], [0], [0]]))
    row = similarity.agreement_of_labels(by_hand, [7, 7, 1]).loc[1]
    assert row.tolist() == pytest.approx([3, 2 / 3, 1 / 3])


def test_labels_that_do_not_fit_are_refused() -> None:
    found = similarity.nearest_works(unit_rows(5, 3), 2)
    with pytest.raises(ValueError, match="5 queries but 4 labels"):
        similarity.agreement_of_labels(found, [1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"must be \(N,\) integers"):
        similarity.agreement_of_labels(found, [1.0] * 5)
    with pytest.raises(ValueError, match="no query and neighbour both have a label"):
        similarity.agreement_of_labels(found, [1, -1, -1, -1, -1])
    with pytest.raises(ValueError, match="has a neighbour of its own work"):
        similarity.agreement_of_labels(found, [1] * 5, groups=[2] * 5)
