"""Search and confidence against twins that loop over queries, neighbours and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from metlib import knn, metrics
from metlib.knn import (
    KNNClassifier,
    Neighbours,
    Predictions,
    classify,
    log_confidence_of,
    log_confidences,
    neighbour_labels,
    search,
)

FAST = settings(deadline=None, max_examples=60)


def unit_rows(n: int, D: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(n, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive_search(database: ArrayLike, queries: ArrayLike, k: int) -> tuple[list[list[float]], list[list[int]]]:
    """Every pair in float64, sorted by (similarity descending, row)."""
    similarities, indices = [], []
    for query in np.asarray(queries, dtype=np.float64):
        found = []
        for row, image in enumerate(np.asarray(database, dtype=np.float64)):
            found.append((-float(np.float32(sum(a * b for a, b in zip(query, image, strict=True)))), row))
        found.sort()
        similarities.append([-s for s, _ in found[:k]])
        indices.append([row for _, row in found[:k]])
    return similarities, indices


def naive_log_confidence(similarities: Sequence[float], labels: Sequence[int], n: int, k: int, tau: float) -> Decimal:
    """The definition with 300 digits: a softmax over all n classes, absent ones at similarity 0."""
    with localcontext(prec=300):
        best: dict[int, float] = {}
        for s, label in zip(similarities[:k], labels[:k], strict=True):
            best[label] = max(best.get(label, 0.0), s)
        weights = [(Decimal(tau) * Decimal(s)).exp() for s in best.values()]
        return (max(weights) / (sum(weights) + n - len(best))).ln()


def naive_label(similarities: Sequence[float], labels: Sequence[int]) -> int:
    """The class of the nearest; of exactly equal similarities the smaller id."""
    return min(label for s, label in zip(similarities, labels, strict=True) if s == similarities[0])


@st.composite
def answered(draw: st.DrawFn) -> tuple[Neighbours, NDArray[np.int64]]:
    """Neighbours of a few queries among a few classes, with ties and negative similarities; the labels."""
    n_database = draw(st.integers(1, 12))
    labels = np.array(draw(st.lists(st.integers(0, 5), min_size=n_database, max_size=n_database)))
    n_queries, k = draw(st.integers(1, 4)), draw(st.integers(1, n_database))
    steps = draw(hnp.arrays(np.int64, (n_queries, k), elements=st.integers(-4, 8)))
    similarities = np.sort(steps / 8, axis=1)[:, ::-1]
    indices = [draw(st.permutations(range(n_database)))[:k] for _ in range(n_queries)]
    return Neighbours(similarities.astype(np.float32), np.array(indices)), labels


taus = st.one_of(st.sampled_from([0.01, 0.1, 1.0, 20.0, 50.0, 500.0]), st.floats(0.001, 500))


# ---- search ----


@pytest.mark.parametrize(("n", "q", "D", "k"), [(40, 15, 6, 10), (40, 15, 6, 40), (7, 3, 2, 1), (1, 2, 3, 1)])
def test_search_is_all_pairs_sorted(n: int, q: int, D: int, k: int) -> None:
    database, queries = unit_rows(n, D), unit_rows(q, D, seed=1)
    found = search(database, queries, k)
    similarities, indices = naive_search(database, queries, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-7)
    assert (found.similarities.dtype, found.indices.dtype) == (np.float32, np.int64)
    assert found.k == k


@pytest.mark.slow
@FAST
@given(
    grid=hnp.arrays(np.int64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(-2, 2)),
    data=st.data(),
)
def test_ties_come_in_the_order_of_the_database_also_across_the_kth_place(
    grid: NDArray[np.int64], data: st.DataObject
) -> None:
    database = grid[np.abs(grid).sum(axis=1) > 0]  # whole numbers: many ties, and exact sums
    assume(len(database))
    k = data.draw(st.integers(1, len(database)))
    queries = np.array([[1, 0], [1, 1], [-1, 2]])
    found = search(database, queries, k)
    similarities, indices = naive_search(database, queries, k)
    np.testing.assert_array_equal(found.similarities, similarities)
    np.testing.assert_array_equal(found.indices, indices)


def test_a_tie_far_wider_than_k() -> None:
    database = np.repeat(unit_rows(2, 4), 300, axis=0)
    found = search(database, database[[0, 599]], 3)
    assert found.indices.tolist() == [[0, 1, 2], [300, 301, 302]]


def test_equal_rows_are_equally_similar_in_a_large_search() -> None:
    """A large search is a matrix product, whose float32 sums depend on where in the matrix a row lies."""
    rng = np.random.default_rng(0)
    base = unit_rows(300, 128)
    where = rng.permutation(600)
    database = np.empty((600, 128), np.float32)
    database[where[:300]] = database[where[300:]] = base
    queries = (base[rng.integers(300, size=1100)] + 0.03 * rng.normal(size=(1100, 128))).astype(np.float32)
    assert queries.size > 128_000  # where faiss starts to use BLAS
    found = search(database, queries, 2)
    np.testing.assert_array_equal(found.similarities[:, 0], found.similarities[:, 1])
    assert (found.indices[:, 0] < found.indices[:, 1]).all()


def test_a_query_finds_the_same_in_any_batch() -> None:
    database, queries = unit_rows(500, 128), unit_rows(1100, 128, seed=1)
    whole = search(database, queries, 5)
    few = search(database, queries[1000:1010], 5)
    np.testing.assert_array_equal(whole.similarities[1000:1010], few.similarities)
    np.testing.assert_array_equal(whole.indices[1000:1010], few.indices)


@pytest.mark.slow
def test_rows_closer_than_float32_sums_can_tell_come_in_their_true_order() -> None:
    rng = np.random.default_rng(0)
    database = (unit_rows(1, 256) + 2e-8 * rng.normal(size=(400, 256))).astype(np.float32)
    queries = unit_rows(1, 256) + 0.01 * unit_rows(600, 256, seed=2)
    found = search(database, queries, 5)
    true = (queries.astype(np.float64) @ database.astype(np.float64).T).astype(np.float32)
    expected = np.argsort(-true, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found.similarities, np.take_along_axis(true, expected, axis=1))
    np.testing.assert_array_equal(found.indices, expected)


def test_searching_more_begins_with_searching_fewer() -> None:
    database, queries = unit_rows(200, 8), unit_rows(20, 8, seed=1)
    many = search(database, queries, 50)
    for k in (1, 7, 20):
        np.testing.assert_array_equal(search(database, queries, k).indices, many.indices[:, :k])


@pytest.mark.parametrize("k", [0, -1, 6, 2.0, None, "3"])
def test_search_refuses_a_k_that_the_database_cannot_answer(k: object) -> None:
    with pytest.raises(ValueError, match=r"from 1 to the 5 images of the database, got") as caught:
        search(unit_rows(5, 3), unit_rows(2, 3), k)  # type: ignore[arg-type]
    assert repr(k) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_search_refuses_rows_that_mean_nothing(value: float) -> None:
    good, bad = unit_rows(5, 3), unit_rows(5, 3)
    bad[3] = value
    with pytest.raises(ValueError, match=r"query descriptors: row 3 is (zero|NaN)"):
        search(good, bad, 2)
    with pytest.raises(ValueError, match=r"database descriptors: row 3 is (zero|NaN)"):
        search(bad, good, 2)


def test_search_refuses_different_dimensions() -> None:
    with pytest.raises(ValueError, match=r"queries have 4 dimensions, the database 3"):
        search(unit_rows(5, 3), unit_rows(5, 4), 2)


# ---- the values ----


@pytest.mark.parametrize(
    ("similarities", "indices", "said"),
    [
        ([[0.5, 0.6]], [[0, 1]], "descending"),
        ([[0.5, np.nan]], [[0, 1]], "finite"),
        ([[0.5, 0.4]], [[0, -1]], r"index -1"),
        ([[0.5]], [[0, 1]], r"\(1, 1\) and \(1, 2\)"),
        ([0.5], [0], r"\(Q, K\)"),
        (np.zeros((2, 0)), np.zeros((2, 0)), r"\(Q, K\)"),
    ],
)
def test_neighbours_are_checked_when_made(similarities: ArrayLike, indices: ArrayLike, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Neighbours(similarities, indices)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "log_confidence", "said"),
    [
        ([1, 2], [0.0], r"\(2,\) and \(1,\)"),
        ([1], [0.1], "at most 0"),
        ([1], [np.nan], "NaN"),
        ([[1]], [[0.0]], ""),
    ],
)
def test_predictions_are_checked_when_made(labels: ArrayLike, log_confidence: ArrayLike, said: str) -> None:
    with pytest.raises(ValueError, match=rf"log_confidence must.*{said}"):
        Predictions(labels, log_confidence)  # type: ignore[arg-type]


def test_confidence_is_the_exponential() -> None:
    predictions = Predictions(np.array([3, 4]), np.log([0.25, 1.0]))
    np.testing.assert_allclose(predictions.confidence, [0.25, 1.0])
    assert len(predictions) == 2


# ---- confidence ----


def test_a_case_by_hand() -> None:
    # Classes 7, 7, 2, 9 at .9, .8, .5, -.3 of a database that has the five classes 1, 2, 3, 7, 9.
    neighbours = Neighbours(np.array([[0.9, 0.8, 0.5, -0.3]]), np.array([[0, 1, 2, 3]]))  # type: ignore[arg-type]
    labels = np.array([7, 7, 2, 9, 1, 3, 3])
    nine, half = float(np.float32(0.9)), 0.5
    for k, weights in (
        (1, math.exp(2 * nine) + 4),
        (2, math.exp(2 * nine) + 4),
        (3, math.exp(2 * nine) + math.exp(2 * half) + 3),
        (4, math.exp(2 * nine) + math.exp(2 * half) + 3),  # class 9 is present, at 0 as if it were absent
    ):
        predictions = classify(neighbours, labels, k, 2.0)
        assert predictions.labels.tolist() == [7]
        assert predictions.confidence[0] == pytest.approx(math.exp(2 * nine) / weights, rel=1e-14)


@pytest.mark.slow
@FAST
@given(case=answered(), tau=taus)
def test_classify_is_the_definition(case: tuple[Neighbours, NDArray[np.int64]], tau: float) -> None:
    neighbours, labels = case
    n = len(set(labels.tolist()))
    for k in range(1, neighbours.k + 1):
        predictions = classify(neighbours, labels, k, tau)
        for q, row in enumerate(labels[neighbours.indices].tolist()):
            similarities = neighbours.similarities[q].tolist()
            expected = naive_log_confidence(similarities, row, n, k, tau)
            assert predictions.log_confidence[q] == pytest.approx(float(expected), rel=1e-13, abs=0)
            assert predictions.labels[q] == naive_label(similarities, row)


@pytest.mark.slow
@FAST
@given(case=answered(), tau=taus)
def test_confidences_lie_above_zero_and_up_to_one(case: tuple[Neighbours, NDArray[np.int64]], tau: float) -> None:
    neighbours, labels = case
    n = len(np.unique(labels))
    predictions = classify(neighbours, labels, neighbours.k, tau)
    assert (predictions.confidence > 0).all()
    assert (predictions.confidence <= 1).all()
    assert (predictions.log_confidence >= -math.log(n) - 1e-12).all()  # no class is above the winner
    assert (predictions.log_confidence < 0).all() or n == 1


@pytest.mark.slow
@FAST
@given(case=answered(), tau=taus)
def test_one_cumulative_sum_answers_every_k(case: tuple[Neighbours, NDArray[np.int64]], tau: float) -> None:
    neighbours, labels = case
    ks = range(1, neighbours.k + 1)
    together = log_confidences(neighbours, labels, ks, (tau,))[:, 0]
    for k, row in zip(ks, together, strict=True):
        cut = Neighbours(neighbours.similarities[:, :k], neighbours.indices[:, :k])
        np.testing.assert_allclose(row, log_confidences(cut, labels, (k,), (tau,))[0, 0], rtol=1e-14)
        np.testing.assert_allclose(row, classify(neighbours, labels, k, tau).log_confidence, rtol=1e-14)


@pytest.mark.slow
@FAST
@given(case=answered(), tau=taus)
def test_labels_depend_on_neither_k_nor_tau(case: tuple[Neighbours, NDArray[np.int64]], tau: float) -> None:
    neighbours, labels = case
    reference = classify(neighbours, labels, neighbours.k, 1.0).labels
    for k in range(1, neighbours.k + 1):
        np.testing.assert_array_equal(classify(neighbours, labels, k, tau).labels, reference)


@pytest.mark.slow
@FAST
@given(case=answered(), seed=st.integers(0, 99))
def test_the_order_of_the_queries_decides_nothing(case: tuple[Neighbours, NDArray[np.int64]], seed: int) -> None:
    neighbours, labels = case
    order = np.random.default_rng(seed).permutation(len(neighbours.indices))
    shuffled = Neighbours(neighbours.similarities[order], neighbours.indices[order])
    straight, mixed = (classify(one, labels, neighbours.k, 20.0) for one in (neighbours, shuffled))
    np.testing.assert_array_equal(mixed.labels, straight.labels[order])
    np.testing.assert_array_equal(mixed.log_confidence, straight.log_confidence[order])


@pytest.mark.slow
@FAST
@given(
    similarities=st.lists(st.floats(0.0625, 1, width=32), min_size=2, max_size=20, unique=True),
    n=st.sampled_from([2, 224, 33_501, 224_408]),
    tau=st.sampled_from([0.01, 1.0, 15.0, 50.0, 100.0, 500.0]),
)
def test_distinct_similarities_have_distinct_confidences(similarities: list[float], n: int, tau: float) -> None:
    similarities.sort()
    column = np.array(similarities, np.float32)[:, None]
    found = Neighbours(column, np.zeros(column.shape, np.int64))
    log_confidence = classify(found, np.arange(n), 1, tau).log_confidence
    assert (np.diff(log_confidence) > 0).all()
    assert (log_confidence < 0).all()


def test_plain_probabilities_saturate_and_ours_do_not() -> None:
    """The trap: at tau = 500 every plain probability is 1.0, and the order of the file decides.

    The ground truth lists exhibits before distractors, so a ranking that keeps that order looks perfect.
    """
    exhibits, distractors = [0.95, 0.60, 0.90, 0.70], [0.80, 0.65, 0.85]
    s = np.array([exhibits + distractors], np.float32).T
    truth = np.array([0, 1, 2, 3, -1, -1, -1])
    indices = np.array([[0], [1], [2], [3], [4], [5], [6]])
    predictions = classify(Neighbours(s, indices), np.arange(1000), 1, 500.0)

    tau_s = 500 * s[:, 0].astype(np.float64)
    plain = np.exp(tau_s) / (np.exp(tau_s) + 999)
    assert (plain == 1.0).all()
    right, in_file_order = 0, 0.0
    for place, correct in enumerate(predictions.labels == truth, start=1):
        right += int(correct)
        in_file_order += correct * right / place / 4
    assert in_file_order == 1.0  # what the published evaluation would report

    honest = (1 / 1 + 2 / 2 + 3 / 5 + 4 / 7) / 4  # by similarity: right, right, wrong, wrong, right, wrong, right
    assert metrics.gap(predictions.labels, predictions.log_confidence, truth) == pytest.approx(honest)
    assert len(np.unique(predictions.log_confidence)) == 7
    assert metrics.gap(predictions.labels, plain, truth) == pytest.approx(4 / 7)  # one block: no order at all


def test_of_equal_similarities_the_smaller_class_wins() -> None:
    neighbours = Neighbours(np.array([[0.5, 0.5, 0.5, 0.4]], np.float32), np.array([[0, 1, 2, 3]]))
    assert classify(neighbours, np.array([9, 4, 6, 1]), 4, 10.0).labels.tolist() == [4]
    assert classify(neighbours, np.array([9, 4, 6, 1]), 1, 10.0).labels.tolist() == [4]


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("labels", [[8, 3, 5, 8, 3], [3, 8, 5, 3, 8]])
def test_the_same_photo_under_two_ids_is_called_by_the_smaller(labels: list[int], k: int) -> None:
    database = np.repeat(unit_rows(1, 16), 5, axis=0)
    database[2] = unit_rows(1, 16, seed=1)
    classifier = KNNClassifier(k=k, tau=50.0).fit(database, labels)
    assert classifier.predict(database[:2]).tolist() == [3, 3]


def test_negative_similarities_count_as_zero() -> None:
    neighbours = Neighbours(np.array([[-0.1, -0.2], [0.0, -0.9]], np.float32), np.array([[0, 1], [1, 0]]))
    predictions = classify(neighbours, np.array([5, 6, 7, 8]), 2, 100.0)
    np.testing.assert_allclose(predictions.log_confidence, -math.log(4), rtol=1e-15)
    assert predictions.labels.tolist() == [5, 6]  # still the nearest


def test_n_counts_every_class_of_the_database() -> None:
    neighbours = Neighbours(np.array([[0.5]], np.float32), np.array([[0]]))
    few = classify(neighbours, np.array([0, 1, 1, 1]), 1, 10.0).confidence[0]
    many = classify(neighbours, np.arange(1000), 1, 10.0).confidence[0]
    assert few == pytest.approx(math.exp(5) / (math.exp(5) + 1))
    assert many == pytest.approx(math.exp(5) / (math.exp(5) + 999))


def test_one_class_is_certain() -> None:
    neighbours = Neighbours(np.array([[0.5, 0.2]], np.float32), np.array([[0, 1]]))
    assert classify(neighbours, np.array([4, 4]), 2, 10.0).confidence.tolist() == [1.0]


@pytest.mark.parametrize("tau", [0, -1.0, np.nan, np.inf, "20", None])
def test_a_tau_that_is_no_positive_number_is_refused(tau: object) -> None:
    neighbours = Neighbours(np.array([[0.5]], np.float32), np.array([[0]]))
    with pytest.raises(ValueError, match=r"tau must be a positive number, got") as caught:
        classify(neighbours, np.array([4]), 1, tau)  # type: ignore[arg-type]
    assert repr(tau) in str(caught.value)


@pytest.mark.parametrize("k", [0, 3, -1, 1.0])
def test_a_k_beyond_the_search_is_refused(k: object) -> None:
    neighbours = Neighbours(np.array([[0.5, 0.2]], np.float32), np.array([[0, 1]]))
    with pytest.raises(ValueError, match=r"from 1 to 2, the neighbours searched, got"):
        classify(neighbours, np.array([4, 5]), k, 10.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"from 1 to 2"):
        log_confidence_of(neighbours, np.array([4, 5]), k, 10.0, [4])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "said"),
    [([1, 2], "2 database labels.*index 2"), ([1.0, 2, 3], "float64"), ([[1, 2, 3]], r"\(1, 3\)")],
)
def test_labels_that_do_not_fit_are_refused(labels: ArrayLike, said: str) -> None:
    neighbours = Neighbours(np.array([[0.5, 0.2]], np.float32), np.array([[0, 2]]))
    with pytest.raises(ValueError, match=said):
        neighbour_labels(neighbours, labels)
    with pytest.raises(ValueError, match=said):
        classify(neighbours, labels, 1, 10.0)


@pytest.mark.slow
@FAST
@given(case=answered(), tau=st.floats(0.01, 60), data=st.data())
def test_the_confidence_of_any_class_comes_from_the_same_softmax(
    case: tuple[Neighbours, NDArray[np.int64]], tau: float, data: st.DataObject
) -> None:
    neighbours, labels = case
    k = data.draw(st.integers(1, neighbours.k))
    winners = classify(neighbours, labels, k, tau)
    np.testing.assert_array_equal(log_confidence_of(neighbours, labels, k, tau, winners.labels), winners.log_confidence)
    best = neighbours.similarities == neighbours.similarities[:, :1]
    assume((best.sum(axis=1) <= k).all())  # no tie at the top is cut by k
    total = np.zeros(len(winners))
    for label in set(labels.tolist()):
        total += np.exp(log_confidence_of(neighbours, labels, k, tau, np.full(len(winners), label)))
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    with pytest.raises(ValueError, match=r"one class for each"):
        log_confidence_of(neighbours, labels, k, tau, np.zeros(len(winners) + 1, np.int64))


# ---- the classifier ----


def test_the_classifier_is_search_and_classify() -> None:
    database, queries = unit_rows(60, 8), unit_rows(10, 8, seed=1)
    labels = np.random.default_rng(0).integers(0, 20, size=60)
    classifier = KNNClassifier(k=7, tau=15.0).fit(database, labels)
    expected = classify(search(database, queries, 7), labels, 7, 15.0)
    answer = classifier.classify(queries)
    np.testing.assert_array_equal(answer.labels, expected.labels)
    np.testing.assert_allclose(answer.log_confidence, expected.log_confidence, rtol=1e-14)
    np.testing.assert_array_equal(classifier.predict(queries), expected.labels)
    assert classifier.score(queries, expected.labels) == 1.0
    assert clone(classifier).get_params() == {"k": 7, "tau": 15.0}
    np.testing.assert_array_equal(classifier.classes_, np.unique(labels))


@pytest.mark.parametrize("labels", [[1, 2], [[1], [2], [3]], [1.0, 2.0, 3.0], ["a", "b", "c"]])
def test_the_classifier_refuses_labels_that_do_not_fit(labels: ArrayLike) -> None:
    with pytest.raises(ValueError, match=r"3 descriptors need as many integer labels, got"):
        KNNClassifier().fit(unit_rows(3, 4), labels)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    database = np.repeat(rng.normal(size=(20, 8)), 6, axis=0).astype(np.float32)  # ties make the search widen
    queries = rng.normal(size=(30, 8)).astype(np.float32)
    whole = search(database, queries, 4)
    monkeypatch.setattr(knn, "_RESULTS", 50)
    blocks = search(database, queries, 4)
    assert np.array_equal(whole.indices, blocks.indices)
    assert np.array_equal(whole.similarities, blocks.similarities)


def clusters(n: int, D: int, seed: int = 5) -> NDArray[np.float32]:
    """Unit rows with duplicates, near-duplicates and strangers."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(n // 5, D)), 5, axis=0)
    rows[1::5] += 1e-7 * rng.normal(size=rows[1::5].shape)
    rows[2::5] += 0.1 * rng.normal(size=rows[2::5].shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("bytes_", [1, 4 * 16 * 7, 4 * 16 * 64])
def test_blocks_of_the_database_change_nothing(bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    database, queries = clusters(200, 16), clusters(40, 16)
    whole = search(database, queries, 9)
    monkeypatch.setattr(knn, "_BLOCK", bytes_)  # blocks of 1, 7 and 64 rows
    blocks = search(database, queries, 9)
    assert np.array_equal(whole.indices, blocks.indices)
    assert np.array_equal(whole.similarities, blocks.similarities)


def test_a_memory_map_is_searched_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, queries = clusters(300, 16), clusters(25, 16)
    np.save(tmp_path / "rows.npy", database)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    seen = []

    def spy(queries: NDArray[np.float32], rows: NDArray[np.float32], k: int, **options: int) -> object:
        seen.append((len(rows), np.shares_memory(rows, mapped)))
        return real(queries, rows, k, **options)

    real = knn.faiss.knn
    monkeypatch.setattr(knn.faiss, "knn", spy)
    monkeypatch.setattr(knn, "_BLOCK", 4 * 16 * 100)
    found = search(mapped, queries, 6)
    assert seen[:3] == [(100, True)] * 3  # no copy of the database
    assert found.indices.tolist() == naive_search(database, queries, 6)[1]


def test_a_matrix_product_on_a_device_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    database, queries = clusters(200, 16), clusters(60, 16)
    here = search(database, queries, 9)
    monkeypatch.setattr(knn, "_BLOCK", 4 * 16 * 64)
    there = search(database, queries, 9, device="cpu:0")  # torch's own matrix product: the code of a GPU
    assert np.array_equal(here.indices, there.indices)
    assert np.array_equal(here.similarities, there.similarities)


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'abacus' can't be used here"):
        search(unit_rows(3, 4), unit_rows(2, 4), 1, device="abacus")
