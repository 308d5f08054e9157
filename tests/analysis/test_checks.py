"""Each score check against a naive twin, a case worked by hand, or a textbook's formula."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from metlib import metrics
from metlib.analysis import checks, published
from metlib.common.vectors import unit
from metlib.knn import Neighbours, Predictions, classify, search

Collection = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]
KS, TAUS = (1, 3, 7), (1.0, 10.0, 100.0)


def collection(seed: int = 0, q: int = 60, noise: float = 0.8) -> Collection:
    """40 exhibits of one to four photos, and noisy visits of half of them among distractors."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(40), rng.integers(1, 5, 40))
    centres = rng.normal(size=(40, 8)) + 0.5
    truth = np.where(np.arange(q) < q // 2, rng.integers(0, 20, q), -1)
    queries = np.where(truth[:, None] >= 0, centres[truth], rng.normal(size=(q, 8)) + 0.5)
    database = centres[labels] + 0.2 * rng.normal(size=(len(labels), 8))
    queries = queries + noise * rng.normal(size=(q, 8))
    return unit(database.astype(np.float32)), labels, unit(queries.astype(np.float32)), truth


# ---- multiples ----


@pytest.mark.slow
@pytest.mark.parametrize(("n", "decimals"), [(1, 1), (7, 2), (8, 0), (129, 2), (1003, 2), (1003, 1)])
def test_a_multiple_is_what_some_count_of_n_is_printed_as(n: int, decimals: int) -> None:
    step = Fraction(1, 10**decimals)
    every = [i * step for i in range(100 * 10**decimals + 1)]
    shares = [Fraction(100 * m, n) for m in range(n + 1)]
    cut = {share // step * step for share in shares}
    around = [(share, v) for share in shares for v in (share // step * step, share // step * step + step)]
    rounded = {v for share, v in around if abs(v - share) <= step / 2}
    some = every[:: max(len(every) // 50, 1)] + sorted(rounded | cut)[:50]
    table = checks.multiples([float(v) for v in some], n, decimals=decimals)
    assert table.rounded.tolist() == [v in rounded for v in some]
    assert table.cut.tolist() == [v in cut for v in some]
    assert table.passes.tolist() == [v in rounded | cut for v in some]
    nearest = [min(abs(v - share) for share in shares) for v in some]
    assert table.distance.to_numpy() == pytest.approx([float(d) for d in nearest], abs=1e-9)
    assert (table.multiple - table.value).abs().to_numpy() == pytest.approx(table.distance.to_numpy())
    assert set(table.chance) == {len(rounded | cut) / len(every)}


def test_every_accuracy_of_the_report_is_a_multiple_of_one_in_129_with_its_decimals_cut() -> None:
    report = published.read().query("source == 'report2022'")
    table = checks.multiples(report.acc, 129)
    assert len(table) == 20 and table.passes.all()
    assert table.cut.all() and table.rounded.sum() == 7
    assert table.chance[0] == pytest.approx(0.019398, abs=5e-6)
    assert not checks.multiples(report.gap, 129).passes.all()
    assert table.m[0] == 68 and table.value[0] == 52.71  # R18IN: 68 of 129


def test_one_decimal_says_nothing_of_1003_queries() -> None:
    assert checks.multiples([42.3], 1003, decimals=1).chance[0] == 1


@pytest.mark.parametrize("wrong", [{"values": [100.01]}, {"values": [-0.1]}, {"values": [52.713]}, {"n": 0}])
def test_what_is_no_printed_percentage_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected n of at least 1|percentages from 0 to 100 with 2 decimals"):
        checks.multiples(**({"values": [50.0], "n": 129} | wrong))  # type: ignore[arg-type]


# ---- tuned on the scored split ----


def grid(neighbours: Neighbours, labels: NDArray[np.int64], truth: NDArray[np.int64]) -> dict[tuple[int, float], float]:
    """GAP of every cell, each on its own, in the order in which the first of equals is chosen."""
    cells = {}
    for k in KS:
        for tau in TAUS:
            answers = classify(neighbours, labels, k, tau)
            cells[k, tau] = metrics.gap(answers.labels, answers.log_confidence, truth)
    return cells


def test_tuning_elsewhere_and_on_the_scored_split() -> None:
    database, labels, val, val_truth = collection()
    _, _, test, test_truth = collection(seed=1)
    test = unit((test + val).astype(np.float32))
    near_val, near_test = search(database, val, 7), search(database, test, 7)
    table = checks.tuned_on_scored(near_val, val_truth, near_test, test_truth, labels, KS, TAUS, draws=3, seed=5)
    on_val, on_test = grid(near_val, labels, val_truth), grid(near_test, labels, test_truth)
    best = max(on_val, key=lambda cell: on_val[cell])
    honest, itself = table[table.scored == "test"].to_dict("records")
    assert (honest["k"], honest["tau"], honest["tuned_on"]) == (*best, "val")
    assert honest["gap"] == pytest.approx(on_test[best])
    assert itself["gap"] == pytest.approx(max(on_test.values())) and itself["tuned_on"] == "itself"

    rng, halves = np.random.default_rng(5), table[table.scored == "half of val"]
    assert len(halves) == 3 * 2 * 2
    for draw in range(3):
        first = checks._half(val_truth, rng)
        assert (first & (val_truth >= 0)).sum() == 15 and first.sum() == 30
        cells = [
            grid(Neighbours(near_val.similarities[half], near_val.indices[half]), labels, val_truth[half])
            for half in (first, ~first)
        ]
        expected = []
        for own, other in (cells, cells[::-1]):
            expected += [own[max(other, key=lambda cell: other[cell])], max(own.values())]
        assert halves[halves.draw == draw].gap.tolist() == pytest.approx(expected)
    means = halves.groupby("tuned_on").gap.mean()
    assert means["itself"] > means["the other half"]


def test_the_published_ks_are_cut_to_both_searches_alike() -> None:
    database, labels, val, truth = collection()
    table = checks.tuned_on_scored(search(database, val, 4), truth, search(database, val, 9), truth, labels, draws=1)
    assert table.k.max() <= 3
    assert table.gap[0] == table.gap[1]  # the same queries twice: val chooses what test would


def test_a_val_that_cannot_be_halved_is_refused() -> None:
    database, labels, val, truth = collection()
    near = search(database, val, 3)
    with pytest.raises(ValueError, match="two queries that show an exhibit"):
        checks.tuned_on_scored(near, [3] + [-1] * 59, near, truth, labels, (1,), (1.0,))


# ---- ties ----


def test_ties_by_hand() -> None:
    # Two exhibits right at 0.9 and 0.8, then a distractor at 0.95: at tau = 500 all are certain in floating point.
    near = Neighbours(np.array([[0.9, 0], [0.8, 0], [0.95, 0]]), np.array([[0, 1], [1, 0], [0, 1]]))
    table = checks.ties(near, [7, 8], [7, 8, -1], 1, (10, 500)).set_index("tau")
    honest = (1 / 2 + 2 / 3) / 2
    assert table.loc[10].tolist() == pytest.approx([0, honest, honest, honest])
    assert table.loc[500].tolist() == pytest.approx([1, 1, 2 / 3, honest])


def test_the_order_of_the_file_decides_between_ties_only() -> None:
    database, labels, queries, truth = collection()
    near = search(database, queries, 7)
    table = checks.ties(near, labels, truth, 7, (5, 500), dtype=np.float32)
    for tau, saturated, file_order, blocks, logs in table.itertuples(index=False):
        answers = classify(near, labels, 7, tau)
        plain = [float(np.float32(c)) for c in answers.confidence]
        order = sorted(range(len(plain)), key=lambda i: (-plain[i], i))
        right = np.array([answers.labels[i] == truth[i] for i in order])
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        assert file_order == pytest.approx(precision[right].sum() / 30)
        assert saturated == np.mean([p == 1 for p in plain])
        assert blocks == pytest.approx(metrics.gap(answers.labels, plain, truth))
        assert logs == pytest.approx(metrics.gap(answers.labels, answers.log_confidence, truth))
    assert table.saturated[1] > 0.5 and table.file_order[1] > table.logs[1]  # exhibits come first in the file


# ---- the size of the database ----


def test_smaller_databases_keep_what_the_queries_show(monkeypatch: pytest.MonkeyPatch) -> None:
    database, labels, queries, truth = collection()
    searched: list[NDArray[np.int64]] = []

    def spy(rows: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> Neighbours:
        places = (rows[:, None] == database[None]).all(2).argmax(1)
        searched.append(labels[places])
        return search(rows, queries, k)

    monkeypatch.setattr(checks, "search", spy)
    table = checks.database_size(database, labels, queries, truth, k=5, tau=20.0, draws=2)
    shown = set(truth[truth >= 0].tolist())
    ratio = (40 / len(shown)) ** 0.2
    assert sorted(set(table.exhibits)) == sorted({round(len(shown) * ratio**step) for step in range(6)})
    assert len(searched) == len(table)
    for kept, (exhibits, images, *_, gap, gap_minus, acc) in zip(searched, table.itertuples(index=False), strict=True):
        assert shown <= set(kept.tolist()) and len(set(kept.tolist())) == exhibits and len(kept) == images
        rows = np.isin(labels, kept)
        assert rows.sum() == images  # an exhibit comes with all its images
        answers = classify(search(database[rows], queries, 5), labels[rows], 5, 20.0)
        expected = vars(metrics.evaluate(answers.labels, answers.log_confidence, truth))
        assert {"gap": gap, "gap_minus": gap_minus, "acc": acc} == expected
    draws = [set(kept.tolist()) for kept, size in zip(searched, table.exhibits, strict=True) if len(shown) < size < 40]
    assert len(draws) >= 2 and draws[0] != draws[1]
    assert table.gap.iloc[0] > table.gap.iloc[-1]  # nothing learned, and yet


def test_a_tiny_database_is_searched_for_what_it_has_and_impossible_sizes_are_refused() -> None:
    database, labels, queries, truth = collection()
    few = checks.database_size(database[:3], np.arange(3), queries, np.zeros(60, int), exhibits=(1, 2), k=5, tau=20)
    assert few.images.tolist() == [1, 2, 2, 2] and few.acc[0] == 1
    for size in (3, 41):
        with pytest.raises(ValueError, match=rf"{size} exhibits: the queries show \d+ of 40"):
            checks.database_size(database, labels, queries, truth, exhibits=(size,), k=5, tau=20)
    with pytest.raises(ValueError, match="need as many labels"):
        checks.database_size(database, labels[:-1], queries, truth, k=5, tau=20)


# ---- intervals ----


@pytest.mark.slow
def test_the_width_for_accuracy_is_the_textbooks() -> None:
    truth = np.concatenate([np.zeros(500, int), np.full(1000, -1)])
    predicted = (np.arange(1500) >= 300).astype(int)  # 0.6 of the positives right
    confidence = np.random.default_rng(0).random(1500)
    table = checks.interval_widths(predicted, confidence, truth, n_resamples=600, draws=6)
    assert table.positives.tolist() == [129, 1003] and table.queries.tolist() == [387, 3009]
    textbook = 2 * 1.96 * np.sqrt(0.6 * 0.4 / table.positives)
    assert table.acc.to_numpy() == pytest.approx(textbook.to_numpy(), rel=0.1)
    assert (table.iloc[0, 2:] > 2 * table.iloc[1, 2:]).all()  # about the root of 1003 / 129, 2.8


def test_widths_are_the_means_over_sets_and_repeatable() -> None:
    predicted, confidence, truth = np.zeros(4, int), np.arange(4.0), np.zeros(4, int)
    sure = checks.interval_widths(predicted, confidence, truth, (10,), 50, draws=2)
    assert sure.iloc[0].tolist() == [10, 10, 0, 0, 0]  # all right, whichever are drawn
    predicted = np.array([0, 0, 1, 1])
    once, again, other = (
        checks.interval_widths(predicted, confidence, truth, (10,), 50, seed=seed) for seed in (0, 0, 1)
    )
    assert once.equals(again) and not once.equals(other)
    with pytest.raises(ValueError, match="0 queries show an exhibit"):
        checks.interval_widths([0], [0.5], [-1])


# ---- gain ----


def predictions(rng: np.random.Generator, truth: NDArray[np.int64], right: float) -> Predictions:
    correct = rng.random(len(truth)) < right
    return Predictions(np.where(correct & (truth >= 0), truth, 99), np.log(rng.uniform(0.01, 1, len(truth))))


def test_a_gain_is_the_difference_and_its_interval_that_of_paired_resamples() -> None:
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(70) < 40, rng.integers(0, 9, 70), -1)
    before, after = predictions(rng, truth, 0.5), predictions(rng, truth, 0.8)
    found = checks.gain(before, after, truth, 60, seed=3)
    draws, differences = np.random.default_rng(3), []
    for _ in range(60):  # the naive twin: both scored anew on the same drawn queries
        rows = draws.integers(70, size=70)
        old, new = (metrics.evaluate(r.labels[rows], r.log_confidence[rows], truth[rows]) for r in (before, after))
        differences.append([new.gap - old.gap, new.gap_minus - old.gap_minus, new.acc - old.acc])
    old, new = (metrics.evaluate(r.labels, r.log_confidence, truth) for r in (before, after))
    for column, name in enumerate(("gap", "gap_minus", "acc")):
        assert found[name] == getattr(new, name) - getattr(old, name)
        expected = np.quantile(np.array(differences)[:, column], (0.025, 0.975))
        np.testing.assert_allclose((found[f"{name}_low"], found[f"{name}_high"]), expected, atol=1e-12)


@pytest.mark.slow
def test_nothing_is_gained_over_oneself_and_pairs_are_surer_than_their_parts() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 9, 200)
    before = predictions(rng, truth, 0.5)
    assert set(checks.gain(before, before, truth, 50).values()) == {0.0}
    mended = before.labels.copy()
    mended[np.flatnonzero(before.labels != truth)[:10]] = truth[np.flatnonzero(before.labels != truth)[:10]]
    found = checks.gain(before, Predictions(mended, before.log_confidence), truth)
    low, high = metrics.bootstrap(mended, before.log_confidence, truth)
    assert found["acc"] == pytest.approx(0.05)
    assert found["acc_low"] > 0
    assert found["acc_high"] - found["acc_low"] < 0.6 * (high.acc - low.acc)
