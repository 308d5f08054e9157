"""Scores against worked cases, a twin in fractions, and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from metlib import metrics
from metlib.dataset import DISTRACTOR
from metlib.metrics import Scores, accuracy, bootstrap, evaluate, gap, gap_minus

FAST = settings(deadline=None, max_examples=60)
Case = tuple[list[int], list[float], list[int]]


def naive_gap(predicted: Sequence[int], confidence: Sequence[float], truth: Sequence[int]) -> Fraction:
    """Sum over correct queries of the precision among all that are at least as confident, over M, exactly."""
    queries = list(zip(predicted, confidence, truth, strict=True))
    total = Fraction(0)
    for p, c, t in queries:
        if t != -1 and p == t:
            answered = [(p2, t2) for p2, c2, t2 in queries if c2 >= c]
            right = sum(1 for p2, t2 in answered if t2 != -1 and p2 == t2)
            total += Fraction(right, len(answered))
    return total / sum(1 for t in truth if t != -1)


def naive_scores(predicted: Sequence[int], confidence: Sequence[float], truth: Sequence[int]) -> list[Fraction]:
    rows = [row for row in zip(predicted, confidence, truth, strict=True) if row[2] != -1]
    positive: Case = ([p for p, _, _ in rows], [c for _, c, _ in rows], [t for _, _, t in rows])
    right = sum(1 for p, _, t in rows if p == t)
    return [naive_gap(predicted, confidence, truth), naive_gap(*positive), Fraction(right, len(rows))]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Right and wrong predictions with many ties in confidence, distractors, and at least one exhibit."""
    q = draw(st.integers(1, 15))
    truth = draw(st.lists(st.integers(-1, 2), min_size=q, max_size=q).filter(lambda t: max(t) >= 0))
    predicted = draw(st.lists(st.integers(0, 2), min_size=q, max_size=q))
    steps = st.one_of(st.integers(-4, 4).map(float), st.floats(-1e6, 1e6))
    return predicted, draw(st.lists(steps, min_size=q, max_size=q)), truth


# ---- by hand ----


def test_the_label_of_a_distractor_is_the_datasets() -> None:
    assert metrics.DISTRACTOR == DISTRACTOR == -1


def test_a_ranking_by_hand() -> None:
    # By confidence: right 1/1, a distractor, right 2/3, a wrong one; three queries have an exhibit.
    predicted, confidence, truth = [5, 6, 7, 8], [0.9, 0.7, 0.8, 0.1], [5, 6, -1, 9]
    assert gap(predicted, confidence, truth) == pytest.approx((1 + 2 / 3) / 3)
    assert gap_minus(predicted, confidence, truth) == pytest.approx((1 + 1) / 3)
    assert accuracy(predicted, truth) == pytest.approx(2 / 3)
    assert evaluate(predicted, confidence, truth) == Scores(
        gap(predicted, confidence, truth), gap_minus(predicted, confidence, truth), accuracy(predicted, truth)
    )


def test_a_block_of_equal_confidence_counts_at_its_end() -> None:
    # Right alone: 1/1. Then two right and two wrong in one block: each right one has precision 3/5.
    predicted, confidence, truth = [0, 1, 2, 3, 4], [0.9, 0.5, 0.5, 0.5, 0.5], [0, 1, 2, -1, 9]
    assert gap(predicted, confidence, truth) == pytest.approx((1 + 2 * 3 / 5) / 4)
    assert gap_minus(predicted, confidence, truth) == pytest.approx((1 + 2 * 3 / 4) / 4)


def test_no_order_at_all_is_the_share_of_right_answers() -> None:
    truth = [0, 1, 2, -1, -1, -1]
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 4, 1, 5, 2]):
        mixed = [truth[i] for i in order]
        predicted = [max(t, 0) for t in mixed]
        assert gap(predicted, [1.0] * 6, mixed) == pytest.approx(3 * (3 / 6) / 3)


@pytest.mark.slow
@FAST
@given(case=cases(), data=st.data())
def test_many_confidences_at_once_are_each_alone(case: Case, data: st.DataObject) -> None:
    predicted, confidence, truth = case
    cells = np.array([data.draw(st.permutations(confidence)) for _ in range(6)]).reshape(2, 3, -1)
    grid = metrics.gaps(predicted, cells, truth)
    assert grid.shape == (2, 3)
    assert grid.tolist() == [[gap(predicted, cell, truth) for cell in row] for row in cells]
    assert metrics.gaps(predicted, confidence, truth) == gap(predicted, confidence, truth)


def test_many_confidences_are_refused_as_one_is() -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\), as many as the queries, got \(3, 1\)"):
        metrics.gaps([1, 2], np.zeros((3, 1)), [1, 2])
    with pytest.raises(ValueError, match=r"1 confidences are NaN"):
        metrics.gaps([1, 2], [[0.5, 0.4], [np.nan, 0.1]], [1, 2])
    with pytest.raises(ValueError, match=r"M = 0"):
        metrics.gaps([1, 2], np.zeros((3, 2)), [-1, -1])


def test_the_best_and_the_worst() -> None:
    assert evaluate([0, 1, 5], [0.9, 0.8, 0.7], [0, 1, -1]) == Scores(1.0, 1.0, 1.0)
    assert evaluate([1, 0, 5], [0.9, 0.8, 0.7], [0, 1, -1]) == Scores(0.0, 0.0, 0.0)


def test_a_distractor_is_always_wrong() -> None:
    assert gap([-1, 3], [0.9, 0.5], [-1, 3]) == pytest.approx(0.5)  # even where "no exhibit" is the answer
    assert accuracy([-1, 3], [-1, 3]) == 1.0


def test_infinite_confidences_are_ranked() -> None:
    assert gap([0, 1, 2], [-np.inf, np.inf, 0.0], [0, 1, -1]) == pytest.approx((1 + 2 / 3) / 2)


# ---- twins ----


@pytest.mark.slow
@FAST
@given(case=cases())
def test_all_three_are_the_definition(case: Case) -> None:
    scores = evaluate(*case)
    for ours, twin in zip((scores.gap, scores.gap_minus, scores.acc), naive_scores(*case), strict=True):
        assert ours == pytest.approx(float(twin), rel=1e-12)
        assert 0 <= ours <= 1 + 1e-12


@pytest.mark.slow
@FAST
@given(case=cases())
def test_gap_is_scikit_learns_average_precision_scaled_by_what_was_missed(case: Case) -> None:
    predicted, confidence, truth = (np.array(one) for one in case)
    correct = (predicted == truth) & (truth != -1)
    # scikit-learn divides by the number of correct answers, GAP by the number of queries with an exhibit.
    average_precision = average_precision_score(correct, confidence) if correct.any() else 0.0
    expected = average_precision * correct.sum() / (truth != -1).sum()
    assert gap(predicted, confidence, truth) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
@FAST
@given(case=cases(), data=st.data())
def test_the_order_of_the_queries_decides_nothing(case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(case[2]))))
    mixed = [[one[i] for i in order] for one in case]
    assert evaluate(*mixed) == evaluate(*case)  # ties and all, to the last bit


@pytest.mark.slow
@FAST
@given(case=cases())
@pytest.mark.parametrize(
    "transform", [lambda r: 3.0 * r - 7.0, lambda r: r**3, lambda r: np.exp(r), lambda r: -1 / (1 + r)]
)
def test_only_the_order_of_confidences_counts(case: Case, transform: Callable[..., object]) -> None:
    predicted, confidence, truth = case
    rank = np.unique(confidence, return_inverse=True)[1].astype(float)
    assert evaluate(predicted, transform(rank), truth) == evaluate(predicted, confidence, truth)  # type: ignore[arg-type]


@pytest.mark.slow
@FAST
@given(case=cases())
def test_gap_is_the_area_under_precision_and_recall(case: Case) -> None:
    recall, precision = metrics.precision_recall(*case)
    assert np.sum(np.diff(recall, prepend=0) * precision) == pytest.approx(gap(*case), rel=1e-12)
    assert (np.diff(recall) >= 0).all()
    assert recall[-1] == pytest.approx(accuracy(case[0], case[2]))
    assert len(recall) == len(set(case[1]))


@pytest.mark.slow
@FAST
@given(case=cases())
def test_distractors_can_only_lower_gap(case: Case) -> None:
    scores = evaluate(*case)
    assert scores.gap <= scores.gap_minus + 1e-12
    assert scores.gap_minus <= scores.acc + 1e-12


# ---- how sure ----


def drawn(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(n) < 0.5, rng.integers(0, 9, n), -1)
    predicted = np.where(rng.random(n) < 0.7, truth.clip(min=0), 9)
    return predicted, rng.integers(0, 12, n) / 12, truth


def test_the_interval_is_that_of_rescored_resamples() -> None:
    predicted, confidence, truth = drawn(0)
    rng = np.random.default_rng(5)
    samples = []
    for _ in range(40):
        rows = rng.integers(60, size=60)
        samples.append(
            [float(s) for s in naive_scores(*(one[rows].tolist() for one in (predicted, confidence, truth)))]
        )
    low, high = bootstrap(predicted, confidence, truth, n_resamples=40, level=0.8, seed=5)
    expected = np.quantile(samples, [0.1, 0.9], axis=0)
    np.testing.assert_allclose([low.gap, low.gap_minus, low.acc], expected[0], rtol=1e-12)
    np.testing.assert_allclose([high.gap, high.gap_minus, high.acc], expected[1], rtol=1e-12)


def test_the_interval_is_repeatable_and_holds_the_score() -> None:
    case = drawn(1)
    low, high = bootstrap(*case, n_resamples=300)
    assert (low, high) == bootstrap(*case, n_resamples=300)
    assert (low, high) != bootstrap(*case, n_resamples=300, seed=1)
    scores = evaluate(*case)
    for name in ("gap", "gap_minus", "acc"):
        assert 0 <= getattr(low, name) <= getattr(scores, name) <= getattr(high, name) <= 1


@pytest.mark.slow
def test_the_interval_of_accuracy_is_the_binomial_one() -> None:
    truth = np.zeros(400, np.int64)
    predicted = (np.arange(400) < 80).astype(np.int64)  # 0.8 right
    low, high = bootstrap(predicted, np.linspace(0, 1, 400), truth, n_resamples=2000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert low.acc == pytest.approx(0.8 - half, abs=0.006)
    assert high.acc == pytest.approx(0.8 + half, abs=0.006)


def test_a_draw_without_any_exhibit_is_left_out() -> None:
    low, high = bootstrap([3, 3, 3, 3], [0.9, 0.1, 0.2, 0.3], [3, -1, -1, -1], n_resamples=200)
    assert low.acc == high.acc == 1.0
    assert np.isfinite([low.gap, high.gap, low.gap_minus, high.gap_minus]).all()


@pytest.mark.parametrize("wrong", [{"n_resamples": 0}, {"level": 0.0}, {"level": 1.0}, {"level": float("nan")}])
def test_an_interval_of_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"n_resamples >= 1 and 0 < level < 1, got"):
        bootstrap([3], [0.9], [3], **wrong)  # type: ignore[arg-type]


def test_summary_is_one_row_of_scores_with_their_intervals() -> None:
    case = drawn(2)
    row = metrics.summary(*case, n_resamples=50, seed=3)
    scores, (low, high) = evaluate(*case), bootstrap(*case, n_resamples=50, seed=3)
    assert row["queries"] == 60
    assert row["positives"] == (case[2] != -1).sum()
    for name in ("gap", "gap_minus", "acc"):
        expected = [getattr(one, name) for one in (scores, low, high)]
        assert [row[name], row[f"{name}_low"], row[f"{name}_high"]] == expected


def test_reliability_by_hand() -> None:
    predicted, confidence, truth = [1, 1, 1, 1, 1], [0.05, 0.45, 0.5, 0.75, 1.0], [1, 1, -1, 1, 1]
    mean, share, count = metrics.reliability(predicted, confidence, truth, bins=2)
    assert count.tolist() == [2, 3]
    np.testing.assert_allclose(mean, [0.25, 0.75])
    np.testing.assert_allclose(share, [1.0, 2 / 3])
    assert metrics.reliability(predicted, confidence, truth, bins=100)[2].tolist() == [1] * 5  # empty bins left out
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], got -1.5"):
        metrics.reliability([1], [-1.5], [1])
    with pytest.raises(ValueError, match=r"bins must be an integer of at least 1, got 0"):
        metrics.reliability([1], [0.5], [1], bins=0)


# ---- refused ----


@pytest.mark.parametrize(
    ("predicted", "confidence", "truth", "said"),
    [
        ([1, 2], [0.5], [1, 2], r"\(2,\), \(1,\), \(2,\)"),
        ([1, 2], [0.5, 0.4], [1], r"\(2,\), \(2,\), \(1,\)"),
        ([[1]], [[0.5]], [[1]], r"\(Q,\)"),
        ([1, 2], [0.5, np.nan], [1, 2], r"confidence of query 1 is NaN"),
        ([1.0], [0.5], [1], r"predicted must be integer.*float64"),
        ([1], [0.5], ["1"], r"truth must be integer"),
        ([1], [0.5], [-2], r"truth -2: exhibits are 0 or more"),
        ([1, 2], [0.5, 0.4], [-1, -1], r"none of 2 queries has an exhibit \(M = 0\)"),
        ([], [], [], r"none of 0 queries"),
    ],
)
def test_what_cannot_be_scored_is_refused(predicted: object, confidence: object, truth: object, said: str) -> None:
    for score in (gap, gap_minus, evaluate, bootstrap, metrics.precision_recall, metrics.reliability):
        with pytest.raises(ValueError, match=said):
            score(predicted, confidence, truth)  # type: ignore[operator]


def test_accuracy_refuses_too() -> None:
    with pytest.raises(ValueError, match=r"\(2,\).*\(1,\)"):
        accuracy([1, 2], [1])
    with pytest.raises(ValueError, match=r"M = 0"):
        accuracy([1], [-1])


def test_accuracy_of_several_networks_is_their_mean_and_the_interval_covers_both_draws() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((3, 400)) < np.array([[0.6], [0.7], [0.8]])
    row = metrics.summarise_accuracy(correct)
    assert row["images"] == 400 and row["seeds"] == 3
    assert row["accuracy"] == pytest.approx(correct.mean())
    assert row["seed_std"] == pytest.approx(correct.mean(axis=1).std(ddof=1))
    one = metrics.summarise_accuracy(correct[1:2])
    assert one["seed_std"] == 0 and one["accuracy_low"] < correct[1].mean() < one["accuracy_high"]
    assert row["accuracy_high"] - row["accuracy_low"] > one["accuracy_high"] - one["accuracy_low"]
    binomial = 2 * 1.96 * np.sqrt(0.7 * 0.3 / 400)
    assert one["accuracy_high"] - one["accuracy_low"] == pytest.approx(binomial, rel=0.15)
    assert metrics.summarise_accuracy(correct) == row
    paired = metrics.summarise_accuracy(1.0 * correct[2:] - correct[:1])
    assert paired["accuracy"] == pytest.approx(correct[2].mean() - correct[0].mean()) and paired["accuracy_low"] > 0
    for bad in ([], [[]], [True, False]):
        with pytest.raises(ValueError, match=r"must be \(S, n\)"):
            metrics.summarise_accuracy(bad)
