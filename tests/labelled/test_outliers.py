"""Scores of what doesn't belong against loops over pairs, decimals of 200 digits, scikit-learn, and cases by hand."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from metlib.common.vectors import unit
from metlib.knn import search
from metlib.labelled import outliers

FAST = settings(deadline=None, max_examples=60)


def collection(n: int = 80, D: int = 6, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows around five class centres, with their classes 3, 4, 7, 11 and 20 in no order."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([3, 4, 7, 11, 20], n)
    labels[:5] = [20, 3, 4, 7, 11]
    centres = rng.normal(size=(21, D))
    return unit((centres[labels] + 0.7 * rng.normal(size=(n, D))).astype(np.float32)), labels


def naive_surprise(logits: list[float], label: int) -> Decimal:
    with localcontext(prec=200):
        return (sum(Decimal(z).exp() for z in logits) / Decimal(logits[label]).exp()).ln()


# ---- of logits ----


@pytest.mark.slow
@FAST
@given(
    logits=hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=st.floats(-60, 60)),
    data=st.data(),
)
def test_max_softmax_is_the_definition(logits: NDArray[np.float64], data: st.DataObject) -> None:
    n, C = logits.shape
    labels = np.array(data.draw(st.lists(st.integers(0, C - 1), min_size=n, max_size=n)))
    found, own = outliers.max_softmax(logits), outliers.max_softmax(logits, labels)
    for i, row in enumerate(logits.tolist()):
        assert own[i] == pytest.approx(float(naive_surprise(row, labels[i])), rel=1e-12, abs=0)
        assert found[i] == pytest.approx(float(naive_surprise(row, row.index(max(row)))), rel=1e-12, abs=0)
    assert (found <= own * (1 + 1e-12)).all() and found.dtype == np.float64


def test_rows_that_plain_probabilities_cannot_tell_apart_stay_in_order() -> None:
    lead = np.array([30.0, 40, 50, 300, 690])
    logits = np.column_stack([np.zeros(5), lead])
    plain = 1 - np.exp(logits[:, 1] - np.logaddexp(0, lead))
    assert (np.diff(plain) == 0).any()
    assert (np.diff(outliers.max_softmax(logits)) < 0).all() and (outliers.max_softmax(logits) > 0).all()
    of_wrong = outliers.max_softmax(logits, np.zeros(5, int))
    np.testing.assert_allclose(of_wrong, lead, rtol=1e-12)
    assert outliers.max_softmax(np.zeros((1, 4)))[0] == pytest.approx(math.log(4))


@pytest.mark.slow
@FAST
@given(
    logits=hnp.arrays(np.float64, (3, 4), elements=st.floats(-500, 500)), temperature=st.sampled_from([0.5, 1.0, 10.0])
)
def test_energy_is_the_definition(logits: NDArray[np.float64], temperature: float) -> None:
    found = outliers.energy(logits, temperature)
    with localcontext(prec=200):
        for score, row in zip(found, logits.tolist(), strict=True):
            t = Decimal(temperature)
            expected = -t * sum((Decimal(z) / t).exp() for z in row).ln()
            assert score == pytest.approx(float(expected), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("logits", [np.zeros(3), np.zeros((3, 1)), np.array([[0, np.nan]]), np.array([[0, np.inf]])])
def test_logits_that_mean_nothing_are_refused(logits: NDArray[np.float64]) -> None:
    for score in (outliers.max_softmax, outliers.energy):
        with pytest.raises(ValueError, match=r"logits must be \(N, C\), finite and of two classes at least"):
            score(logits)


def test_labels_and_temperatures_that_mean_nothing_are_refused() -> None:
    logits = np.zeros((2, 3))
    with pytest.raises(ValueError, match="label 3 has no column: logits of 3 classes"):
        outliers.max_softmax(logits, [0, 3])
    with pytest.raises(ValueError, match=r"labels: -1 is no label.*leave them out"):
        outliers.max_softmax(logits, [0, -1])
    with pytest.raises(ValueError, match=r"labels must be \(2,\) integers, got float64"):
        outliers.max_softmax(logits, [0.0, 1.0])
    for temperature in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be a positive number"):
            outliers.energy(logits, temperature)


# ---- of descriptors ----


def test_mean_distance_is_a_loop_over_classes() -> None:
    train, labels = collection()
    rows, asked = collection(30, seed=1)
    means = {}
    for label in set(labels.tolist()):
        mean = train[labels == label].astype(np.float64).mean(axis=0)
        means[label] = mean / np.linalg.norm(mean)
    distances = [{label: 1 - float(row @ mean) for label, mean in means.items()} for row in rows.astype(np.float64)]
    nearest = outliers.mean_distance(train, labels, rows)
    own = outliers.mean_distance(train, labels, rows, asked)
    np.testing.assert_allclose(nearest, [min(d.values()) for d in distances], atol=1e-6)
    np.testing.assert_allclose(own, [d[label] for d, label in zip(distances, asked.tolist(), strict=True)], atol=1e-6)
    np.testing.assert_array_equal(outliers.mean_distance(train, labels, rows * np.float32(4)), nearest)


def test_mean_distance_by_hand_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    train = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    rows = np.array([[1, 1], [-1, 0], [0, -3]], np.float32)
    labels = [5, 5, 8]
    for size in (2**22, 1):
        monkeypatch.setattr(outliers, "_NUMBERS", size)
        np.testing.assert_allclose(outliers.mean_distance(train, labels, rows), [0, 0, 1], atol=1e-7)
        own = outliers.mean_distance(train, labels, rows, [8, 5, 5])
        np.testing.assert_allclose(own, [1 + 0.5**0.5, 1 + 0.5**0.5, 1 + 0.5**0.5], atol=1e-7)


@pytest.mark.parametrize("k", [1, 5, 80])
def test_knn_distance_is_every_pair_sorted(k: int) -> None:
    train, labels = collection()
    rows, asked = collection(30, seed=1)
    similar = (rows.astype(np.float64) @ train.astype(np.float64).T).astype(np.float32)
    expected, of_own = [], []
    for row, label in zip(similar.tolist(), asked.tolist(), strict=True):
        expected.append(1 - sorted(row, reverse=True)[k - 1])
        own = sorted((s for s, of in zip(row, labels.tolist(), strict=True) if of == label), reverse=True)
        of_own.append(1 - own[min(k, len(own)) - 1])
    np.testing.assert_allclose(outliers.knn_distance(train, labels, rows, k), expected, atol=2e-7)
    np.testing.assert_allclose(outliers.knn_distance(train, labels, rows, k, asked), of_own, atol=2e-7)
    whole = 1 - search(train, rows, k).similarities[:, -1].astype(np.float64)
    np.testing.assert_allclose(outliers.knn_distance(train, labels, rows, k), whole, atol=2e-7)


def test_a_row_of_train_is_its_own_nearest() -> None:
    train, labels = collection()
    np.testing.assert_allclose(outliers.knn_distance(train, labels, train, 1, labels), 0, atol=1e-6)
    assert (outliers.knn_distance(train, labels, train, 2, labels) > 1e-4).all()


def test_swapped_labels_score_high_and_the_distances_find_them() -> None:
    train, labels = collection(400, D=32)
    given_labels, swapped = outliers.swap_labels(labels, 0.1)
    scores = {
        "mean": outliers.mean_distance(train, given_labels, train, given_labels),
        "knn": outliers.knn_distance(train, given_labels, train, 5, given_labels),
    }
    assert (outliers.compare(scores, swapped, draws=20).auroc > 0.95).all()


@pytest.mark.parametrize("score", [outliers.mean_distance, outliers.knn_distance])
def test_distances_refuse_labels_and_rows_that_mean_nothing(score: object) -> None:
    assert callable(score)
    train, labels = collection()
    rows, asked = train[:9], labels[:9].copy()
    with pytest.raises(ValueError, match=r"train_labels: -1 is no label.*leave them out"):
        score(train, np.where(labels == 3, -1, labels), rows)
    with pytest.raises(ValueError, match=r"labels: -1 is no label"):
        score(train, labels, rows, labels=np.where(asked == 3, -1, asked))
    with pytest.raises(ValueError, match=r"label 5 is that of no row of train: leave such rows out \(2 have one\)"):
        score(train, labels, rows, labels=np.r_[asked[:7], 5, 99])
    with pytest.raises(ValueError, match=r"train_labels must be \(80,\) integers"):
        score(train, labels[:-1], rows)
    with pytest.raises(ValueError, match="descriptors have 5 dimensions, train 6"):
        score(train, labels, rows[:, :5])
    with pytest.raises(ValueError, match="row 0 is NaN"):
        score(train, labels, np.full((2, 6), np.nan))


def test_a_class_without_a_direction_and_an_impossible_k_are_refused() -> None:
    train = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    with pytest.raises(ValueError, match="the rows of class 4 cancel out"):
        outliers.mean_distance(train, [4, 4, 6], train)
    for k in (0, 4, 2.0):
        with pytest.raises(ValueError, match="k must be an integer from 1 to the 3 rows of train, got"):
            outliers.knn_distance(train, [4, 4, 6], train, k)  # type: ignore[arg-type]


# ---- planted ----


@FAST
@given(labels=st.lists(st.integers(-1, 4), min_size=1, max_size=40), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_swapped_labels_are_others_and_as_many_as_asked(labels: list[int], share: float, seed: int) -> None:
    before = np.array(labels)
    known = before != -1
    n = round(share * known.sum())
    if n and len(set(before[known].tolist())) < 2:
        with pytest.raises(ValueError, match="there is no other to swap to"):
            outliers.swap_labels(before, share, seed)
        return
    after, swapped = outliers.swap_labels(before, share, seed)
    assert swapped.sum() == n and not swapped[~known].any()
    assert ((after != before) == swapped).all()
    assert set(after.tolist()) <= set(labels) and after.dtype == np.int64
    again = outliers.swap_labels(before, share, seed)
    assert (again[0] == after).all() and (again[1] == swapped).all() and before.tolist() == labels


def test_new_labels_are_uniform_over_the_others() -> None:
    labels = np.repeat([2, 5, 9, 30], [10_000, 3000, 2000, 1000])
    after, swapped = outliers.swap_labels(labels, 1.0, seed=4)
    assert swapped.all()
    for label in (2, 5, 9, 30):
        counts = [(after[labels == label] == other).sum() for other in (2, 5, 9, 30) if other != label]
        n = sum(counts)
        assert n == (labels == label).sum()
        assert np.abs(np.array(counts) - n / 3).max() < 5 * math.sqrt(n * 2 / 9)
    assert not (outliers.swap_labels(labels, 0.5, 1)[0] == outliers.swap_labels(labels, 0.5, 2)[0]).all()


def test_labels_and_shares_that_cannot_be_swapped_are_refused() -> None:
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"share must lie in \[0, 1\]"):
            outliers.swap_labels([0, 1], share)
    with pytest.raises(ValueError, match="labels: -2 is no label, expected -1 or more"):
        outliers.swap_labels([0, -2], 0.5)
    with pytest.raises(ValueError, match="labels must be"):
        outliers.swap_labels(np.zeros((2, 2), int), 0.5)


def naive_row(score: list[float], planted: list[bool]) -> dict[str, float]:
    high = [s for s, p in zip(score, planted, strict=True) if p]
    low = [s for s, p in zip(score, planted, strict=True) if not p]
    auroc = sum((h > s) + (h == s) / 2 for h in high for s in low) / len(high) / len(low)
    rates = []  # of the others, at every threshold that finds 95 % of the planted
    for threshold in score:
        if 100 * sum(h >= threshold for h in high) >= 95 * len(high):
            rates.append(sum(s >= threshold for s in low) / len(low))
    shares, n = [], len(high)
    draw = np.random.default_rng(0)
    for _ in range(3000):  # ties broken at random
        order = draw.permutation(len(score))
        first = sorted(order.tolist(), key=lambda i: -score[i])[:n]
        shares.append(sum(planted[i] for i in first) / n)
    return {"auroc": auroc, "fpr95": min(rates), "found": float(np.mean(shares))}


@pytest.mark.parametrize("steps", [3, 10, 1000])
@pytest.mark.parametrize("n", [7, 60])
def test_compare_is_the_definition_with_ties(steps: int, n: int) -> None:
    rng = np.random.default_rng(steps + n)
    planted = np.zeros(n, bool)
    planted[rng.choice(n, max(n // 4, 1), replace=False)] = True
    score = rng.integers(0, steps, n) + steps // 4 * planted
    row = outliers.compare({"a": score}, planted, draws=10).loc["a"]
    expected = naive_row(score.tolist(), planted.tolist())
    assert row.auroc == pytest.approx(expected["auroc"], rel=1e-12)
    assert row.auroc == pytest.approx(roc_auc_score(planted, score), rel=1e-12)
    assert row.average_precision == pytest.approx(average_precision_score(planted, score))
    assert row.fpr95 == pytest.approx(expected["fpr95"])
    false, true, _ = roc_curve(planted, score, drop_intermediate=False)
    assert row.fpr95 == pytest.approx(false[true >= 0.95].min())
    assert row.found == pytest.approx(expected["found"], abs=0.04)


def test_compare_by_hand() -> None:
    planted = np.array([True, False, True, False, False])
    table = outliers.compare({"good": [9, 1, 8, 2, 3], "flat": [1, 1, 1, 1, 1], "bad": [0, 7, 1, 8, 9]}, planted)
    assert table.index.tolist() == ["good", "flat", "bad"] and table.index.name == "score"
    columns = ["auroc", "auroc_low", "auroc_high", "average_precision", "fpr95", "found"]
    assert table.columns.tolist() == columns
    assert table.loc["good"].tolist() == [1, 1, 1, 1, 0, 1]
    assert table.loc["flat"].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.4, 1, 0.4])
    assert table.loc["bad"].tolist() == pytest.approx([0, 0, 0, (1 / 4 + 2 / 5) / 2, 1, 0])


@pytest.mark.slow
def test_intervals_are_those_of_rows_drawn_again_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    planted = np.arange(50) < 12
    scores = {"a": rng.integers(0, 9, 50) + 3 * planted, "b": rng.random(50)}
    table = outliers.compare(scores, planted, draws=80, seed=5)
    draw, samples = np.random.default_rng(5), {"a": [], "b": []}
    for _ in range(80):  # the naive twin: scikit-learn on the drawn rows
        rows = np.concatenate([draw.choice(np.flatnonzero(mask), mask.sum()) for mask in (planted, ~planted)])
        for name, score in scores.items():
            samples[name].append(roc_auc_score(planted[rows], score[rows]))
    for name in scores:
        expected = np.quantile(samples[name], (0.025, 0.975))
        np.testing.assert_allclose(table.loc[name, ["auroc_low", "auroc_high"]].astype(float), expected, atol=1e-12)
    assert table.equals(outliers.compare(scores, planted, draws=80, seed=5))
    alone = outliers.compare({"b": scores["b"]}, planted, draws=80, seed=5)
    assert alone.loc["b"].equals(table.loc["b"])  # the company decides nothing
    assert not table.equals(outliers.compare(scores, planted, draws=80, seed=6))


def test_compare_refuses_what_it_cannot_compare() -> None:
    planted = np.array([True, False])
    for wrong in ([True, True], [False, False], [1, 0], [[True, False]]):
        with pytest.raises(ValueError, match=r"planted must be \(N,\) bool with some rows True and some False"):
            outliers.compare({"a": [0, 1]}, wrong)
    with pytest.raises(ValueError, match=r"score 'a' must be \(2,\) finite numbers.*with 1 NaN or infinite"):
        outliers.compare({"a": [0, np.nan]}, planted)
    with pytest.raises(ValueError, match=r"score 'b' must be \(2,\)"):
        outliers.compare({"a": [0, 1], "b": [0, 1, 2]}, planted)
    for scores, draws in (({}, 10), ({"a": [0, 1]}, 0)):
        with pytest.raises(ValueError, match="need one of each at least"):
            outliers.compare(scores, planted, draws=draws)


def test_wrong_on_every_is_a_loop() -> None:
    rng = np.random.default_rng(0)
    truth = {name: rng.integers(-1, 3, 200) for name in ("culture", "century", "medium")}
    predicted = {name: rng.integers(0, 3, 200) for name in ("medium", "culture", "century")}
    expected = [
        i for i in range(200) if all(truth[name][i] != -1 and truth[name][i] != predicted[name][i] for name in truth)
    ]
    found = outliers.wrong_on_every(predicted, truth)
    assert found.tolist() == expected and 0 < len(expected) < 200 and found.dtype == np.int64
    assert outliers.wrong_on_every(truth, truth).tolist() == []


def test_wrong_on_every_refuses_other_attributes_and_lengths() -> None:
    for predicted, truth in (({}, {}), ({"a": [0]}, {"b": [0]}), ({"a": [0]}, {"a": [0], "b": [0]})):
        with pytest.raises(ValueError, match="must be of the same attributes"):
            outliers.wrong_on_every(predicted, truth)
    with pytest.raises(ValueError, match=r"predicted a must be \(2,\) integers"):
        outliers.wrong_on_every({"a": [0]}, {"a": [0, 1]})


def test_all_scores_are_those_of_each() -> None:
    train, labels = collection(60, D=8)
    logits = np.random.default_rng(0).normal(size=(60, 4))
    for given_labels in (None, labels % 4):
        table = outliers.score_all(logits, train, labels % 4, train, given_labels)
        expected = {
            "maximum softmax": outliers.max_softmax(logits, given_labels),
            "energy": outliers.energy(logits),
            "class mean": outliers.mean_distance(train, labels % 4, train, given_labels),
            "k nearest": outliers.knn_distance(train, labels % 4, train, labels=given_labels),
        }
        assert list(table) == list(expected)
        for name, score in expected.items():
            np.testing.assert_array_equal(table[name], score)
