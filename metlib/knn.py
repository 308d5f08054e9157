"""Nearest neighbours, the classes that they give to queries, and the confidence of each answer.

Search once, at the largest k; every smaller k and every tau is answered from that one result, because
neighbours are sorted: the first time a class appears in a row is its largest similarity.
Source: Ypsilantis et al., NeurIPS 2021, section 5 (non-parametric classification), with the confidence kept
as a logarithm in float64: the plain softmax is exactly 1.0 in floating point above tau·s of about 49.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Self

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from metlib.common.checks import check_integer
from metlib.common.vectors import as_rows, slices

_RESULTS = 2**22  # neighbours asked for at once: with what sorting them takes, about 200 MiB
_BLOCK = 2**28  # bytes of the database searched at once: of a memory map, no more need lie in memory
_MEASURED = 2**18  # values of descriptors that are multiplied again at once: in float64, 2 MiB
_PRODUCTS = 2**28  # similarities computed at once on a device: a gibibyte of float32

# Queries (Q, D), database rows (n, D) and k to the k nearest: similarities (Q, k) and indices (Q, k), roughly.
_Nearest = Callable[[NDArray[np.float32], NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[np.int64]]]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The K nearest rows of Q queries: `similarities` (Q, K) float32 descending, `indices` (Q, K) int64."""

    similarities: NDArray[np.float32]
    indices: NDArray[np.int64]

    def __post_init__(self) -> None:
        similarities = np.asarray(self.similarities, dtype=np.float32)
        indices = np.asarray(self.indices, dtype=np.int64)
        if similarities.ndim != 2 or similarities.shape != indices.shape or not similarities.shape[1]:
            raise ValueError(
                f"similarities and indices must both be (Q, K), got {similarities.shape} and {indices.shape}"
            )
        if not np.isfinite(similarities).all() or (np.diff(similarities, axis=1) > 0).any():
            raise ValueError("similarities must be finite and descending along each row")
        if indices.size and indices.min() < 0:
            raise ValueError(f"index {indices.min()}: a row of the database is 0 or more (k above its size gives -1)")
        object.__setattr__(self, "similarities", similarities)
        object.__setattr__(self, "indices", indices)

    @property
    def k(self) -> int:
        """K, the largest k that these neighbours can answer."""
        return int(self.similarities.shape[1])


@dataclass(frozen=True, eq=False)
class Predictions:
    """One answer a query: `labels` (Q,) int64, `log_confidence` (Q,) float64, logs of probabilities."""

    labels: NDArray[np.int64]
    log_confidence: NDArray[np.float64]

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels, dtype=np.int64)
        log_confidence = np.asarray(self.log_confidence, dtype=np.float64)
        if labels.ndim != 1 or labels.shape != log_confidence.shape:
            raise ValueError(
                f"labels and log_confidence must both be (Q,), got {labels.shape} and {log_confidence.shape}"
            )
        if np.isnan(log_confidence).any() or (log_confidence > 0).any():
            raise ValueError("log_confidence must be the log of a probability: at most 0 and not NaN")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "log_confidence", log_confidence)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probabilities (Q,). Rank by `log_confidence` instead: probabilities near 1 round to ties."""
        return np.exp(self.log_confidence)

    def __len__(self) -> int:
        return len(self.labels)


def search(database: ArrayLike, queries: ArrayLike, k: int, *, device: str = "cpu") -> Neighbours:
    """Find the k rows of `database` (N, D) of largest inner product with each of `queries` (Q, D); exact.

    Candidates come from faiss, or on another `device` ("cuda", "mps") from a matrix product there. Their similarities
    are inner products summed in float64 and rounded to float32, so a pair of rows has the same one in every batch and
    on every device, and equal rows have equal ones. (A matrix product's float32 sums depend on the place in the
    matrix: of two equal rows now one and now the other would win.) Rows of equal similarity come in the order of the
    database, also where a tie crosses the k-th place.
    A database that is a memory map is searched in blocks, so it may be larger than memory.
    Raises ValueError for NaN, infinite or zero rows, different D, k outside 1..N, and a device that isn't here.

    >>> search([[1, 0], [0, 1], [0.6, 0.8]], [[0, 1]], k=2)
    Neighbours(similarities=array([[1. , 0.8]], dtype=float32), indices=array([[1, 2]]))
    """
    database, queries = as_rows(database, "database descriptors"), as_rows(queries, "query descriptors")
    n = len(database)
    if database.shape[1] != queries.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions, the database {database.shape[1]}: describe both alike"
        )
    check_integer("k", k, 1, n, f"the {n} images of the database")
    nearest = _nearest_on(device)
    # The largest error of float32 sums: (Q,)
    noise = np.sqrt(database.shape[1]) * np.finfo(np.float32).eps * np.linalg.norm(queries, axis=1)
    noise *= _largest_norm(database)
    similarities = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int64)
    open_rows = np.arange(len(queries))  # queries whose k nearest aren't certain yet
    wide = min(int(k) + 8, n)  # a few more than asked: noise, or a tie, may push rows beyond the k-th place
    while len(open_rows):
        still_open = []
        for part in slices(len(open_rows), _RESULTS // wide):
            rows = open_rows[part]
            rough, found = _candidates(queries[rows], database, wide, nearest)
            s, i = _sorted(_measure(queries[rows], database, found), found)
            similarities[rows], indices[rows] = s[:, :k], i[:, :k]
            still_open.append(rows[s[:, k - 1] <= rough.min(axis=1) + noise[rows]])
        open_rows = np.concatenate(still_open) if wide < n else np.empty(0, np.int64)
        wide = min(2 * wide, n)
    return Neighbours(similarities, indices)


def _nearest_on(device: str) -> _Nearest:
    """The function that finds the k nearest rows, roughly, on a device."""
    if device == "cpu":
        return lambda queries, rows, k: faiss.knn(queries, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
    from metlib.common.device import check_device  # with torch, which nothing else of search needs

    check_device(device)
    return partial(_nearest_by_products, device=device)


def _nearest_by_products(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int, device: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k rows (of n, D) of largest inner product with each query (Q, D): similarities and indices (Q, k).

    Inner products in float32, without TF32, whose ten bits of mantissa aren't enough to distinguish neighbours.
    """
    import torch

    similarities, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        columns = torch.tensor(rows, device=device).T  # (D, n)
        for part in slices(len(queries), _PRODUCTS // len(rows)):
            s, i = torch.topk(torch.tensor(queries[part], device=device) @ columns, k, dim=1)
            similarities[part], indices[part] = s.cpu().numpy(), i.cpu().numpy()
    finally:
        torch.set_float32_matmul_precision(precision)
    return similarities, indices


def _blocks(database: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Parts of the database (n, D) that fit into memory, each with its first row."""
    for part in slices(len(database), _BLOCK // (4 * database.shape[1])):
        yield part.start, database[part]


def _largest_norm(database: NDArray[np.float32]) -> float:
    return float(np.sqrt(max(np.einsum("nd,nd->n", block, block).max() for _, block in _blocks(database))))


def _candidates(
    queries: NDArray[np.float32], database: NDArray[np.float32], k: int, nearest: _Nearest
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest rows of the whole database, unsorted: rough similarities (Q, k) and indices (Q, k)."""
    rough, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start, block in _blocks(database):
        s, i = nearest(queries, block, min(k, len(block)))
        rough, found = np.hstack([rough, s]), np.hstack([found, i + start])
        if rough.shape[1] > k:
            best = np.argpartition(rough, -k, axis=1)[:, -k:]
            rough, found = np.take_along_axis(rough, best, axis=1), np.take_along_axis(found, best, axis=1)
    return rough, found


def _measure(
    queries: NDArray[np.float32], database: NDArray[np.float32], indices: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Inner products (Q, K) of queries with these rows of the database, in float64, the same in every batch."""
    similarities = np.empty(indices.shape, np.float32)

    def measure(part: slice) -> None:
        rows = database[indices[part]].astype(np.float64)  # (q, K, D); cast before: einsum would in small buffers
        similarities[part] = np.einsum("qkd,qd->qk", rows, queries[part].astype(np.float64))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy releases the interpreter's lock
        list(pool.map(measure, slices(len(queries), _MEASURED // (indices.shape[1] * queries.shape[1]))))
    return similarities


def _sorted(
    similarities: NDArray[np.float32], indices: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Both (Q, K) by descending similarity, ties in database order."""
    order = np.lexsort((indices, -similarities), axis=1)
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(indices, order, axis=1)


def classify(neighbours: Neighbours, database_labels: ArrayLike, k: int, tau: float) -> Predictions:
    """Give queries the class of their nearest neighbour, with the log of a softmax over all n classes as confidence.

    s_c is the largest similarity among the k nearest that carry class c, never below 0, and 0 for absent
    classes; log p = tau·s_1 - log(sum over classes of exp(tau·s_c)). `database_labels` is (N,), `tau` > 0 has
    no unit. Of exactly equal similarities the smallest class id among all K searched wins, so the label
    depends on neither k nor tau. (A search cut inside such a tie can't know the rest: search for a few
    neighbours more than the ties expected.) Two confidences stay apart while tau·s is below about 700, where
    what is left of 1 is too small for a float64.
    Raises ValueError for k above the K searched, tau that isn't positive, labels that don't fit the indices.
    Source: Ypsilantis et al., NeurIPS 2021, section 5.

    >>> near = search([[1, 0], [0, 1], [0.6, 0.8]], [[0, 1]], k=3)
    >>> classify(near, [7, 3, 7], k=3, tau=10).confidence.round(3)
    array([0.881])
    """
    log_confidence = log_confidences(neighbours, database_labels, (k,), (tau,))[0, 0]
    return Predictions(nearest_labels(neighbours, database_labels), log_confidence)


def nearest_labels(neighbours: Neighbours, database_labels: ArrayLike) -> NDArray[np.int64]:
    """The labels of `classify`, (Q,) int64, which depend on neither k nor tau; errors as `neighbour_labels`."""
    labels = neighbour_labels(neighbours, database_labels)
    best = neighbours.similarities == neighbours.similarities[:, :1]  # (Q, K), the ties at the top
    return np.where(best, labels, np.iinfo(np.int64).max).min(axis=1)


def neighbour_labels(neighbours: Neighbours, database_labels: ArrayLike) -> NDArray[np.int64]:
    """The classes of the neighbours, (Q, K) int64; ValueError for labels that don't fit the indices."""
    classes = np.asarray(database_labels)
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ValueError(f"database_labels must be (N,) integers, got {classes.dtype} of shape {classes.shape}")
    if neighbours.indices.size and neighbours.indices.max() >= len(classes):
        raise ValueError(
            f"{len(classes)} database labels, but a neighbour has index {neighbours.indices.max()}: "
            "descriptors and labels must be of the same images"
        )
    return classes.astype(np.int64, copy=False)[neighbours.indices]


def log_confidences(
    neighbours: Neighbours, database_labels: ArrayLike, ks: Sequence[int], taus: Sequence[float]
) -> NDArray[np.float64]:
    """The log confidences of `classify` for every k and tau: (len(ks), len(taus), Q) float64.

    Which class appears where is found once; then one exponential for each tau answers every k. Written as
    -log(1 + rest), rest being what all other classes weigh against the winner's exp(0) = 1: every term is
    positive, so nothing cancels, and 1 - 1e-30 still differs from 1 - 1e-31.
    """
    for k in ks:
        check_integer("k", k, 1, neighbours.k, f"{neighbours.k}, the neighbours searched")
    for tau in taus:
        if not isinstance(tau, int | float | np.integer | np.floating) or not (np.isfinite(tau) and tau > 0):
            raise ValueError(f"tau must be a positive number, got {tau!r}")
    widest = max(ks, default=1)
    first = _first_of_class(neighbour_labels(neighbours, database_labels)[:, :widest]).T  # (k, Q): sums add whole rows
    s = neighbours.similarities[:, :widest].T.astype(np.float64, order="C").clip(min=0)
    missing = _count(database_labels) - np.cumsum(first, axis=0)  # (k, Q): classes not among the nearest so far
    behind = np.where(first, s - s[0], -np.inf)
    behind[0] = -np.inf  # the winner's own
    answers = np.empty((len(ks), len(taus), s.shape[1]))
    weight = np.empty_like(behind)
    for place, tau in enumerate(taus):
        np.exp(np.multiply(behind, tau, out=weight), out=weight)
        for nearer, row in pairwise(weight):  # a cumulative sum; np.cumsum takes ten times as long along this axis
            row += nearer
        absent = np.exp(-tau * s[0])
        for cell, k in zip(answers[:, place], ks, strict=True):
            cell[:] = -np.log1p(weight[k - 1] + missing[k - 1] * absent)
    return answers


def _count(labels: ArrayLike) -> int:
    """How many different labels there are; of many classes, sorting is faster than np.unique."""
    ordered = np.sort(np.asarray(labels))
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def log_confidence_of(
    neighbours: Neighbours, database_labels: ArrayLike, k: int, tau: float, classes: ArrayLike
) -> NDArray[np.float64]:
    """The log probability (Q,) that the same softmax gives to `classes` (Q,), one a query."""
    winner = log_confidences(neighbours, database_labels, (k,), (tau,))[0, 0]
    labels = neighbour_labels(neighbours, database_labels)
    asked = np.asarray(classes)
    if asked.shape != (len(labels),):
        raise ValueError(f"need one class for each of {len(labels)} queries, got shape {asked.shape}")
    s = neighbours.similarities.astype(np.float64).clip(min=0)
    near = (np.arange(neighbours.k) < k) | (s == s[:, :1])  # ties at the top count, as they do for the label
    own = np.where(near & (labels == asked[:, None]), s, 0).max(axis=1)  # 0 for a class that isn't among them
    return tau * (own - s[:, 0]) + winner


def _first_of_class(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a class appears for the first time in its row: (Q, K) -> (Q, K)."""
    order = np.argsort(labels, axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, axis=1)
    new = np.ones_like(ordered, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    return first


class KNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The study's nearest-neighbour classifier as a scikit-learn estimator, with `classify` for confidences.

    `k` neighbours enter the softmax, `tau` > 0 sharpens it. After `fit`: `database_` (N, D) and `labels_` (N,), by
    class, and `classes_` (n,).

    >>> classifier = KNNClassifier(k=1, tau=10).fit([[1.0, 0.0], [0.0, 1.0]], [4, 9])
    >>> classifier.predict([[0.1, 0.9]])
    array([9])
    """

    def __init__(self, k: int = 10, tau: float = 50.0) -> None:
        self.k = k
        self.tau = tau

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Keep database descriptors (N, D) and their labels (N,). Raises ValueError for different lengths."""
        rows, labels = as_rows(X, "database descriptors"), np.asarray(y)
        if labels.shape != (len(rows),) or labels.dtype.kind not in "iu":
            raise ValueError(f"{len(rows)} descriptors need as many integer labels, got {labels.dtype} {labels.shape}")
        order = np.argsort(labels, kind="stable")  # equal similarities come by row, and so by class
        self.database_, self.labels_ = rows[order], labels[order].astype(np.int64)
        self.classes_ = np.unique(self.labels_)
        self.n_features_in_ = rows.shape[1]
        return self

    def classify(self, Q: ArrayLike) -> Predictions:
        """Classify queries (Q, D): labels and log confidences."""
        check_is_fitted(self)
        return classify(search(self.database_, Q, self.k), self.labels_, self.k, self.tau)

    def predict(self, Q: ArrayLike) -> NDArray[np.int64]:
        """The labels (Q,) of queries (Q, D)."""
        return self.classify(Q).labels
