"""Outliers: scores of how far a row lies from what was learned, and how well they find planted ones.

Every score is (N,) float64, and larger means more outlying. Without labels, a score finds rows that belong to no class;
with the labels that rows carry, those whose label may be wrong.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.metrics import average_precision_score

from metlib.common.checks import UNKNOWN, check_integer
from metlib.common.vectors import as_rows, slices, unit
from metlib.knn import search

Scores = NDArray[np.float64]
Labels = ArrayLike | None
_NUMBERS = 2**22  # similarities at a time: in float64, 32 MiB


def max_softmax(logits: ArrayLike, labels: Labels = None) -> Scores:
    """Score rows by -log p of their most probable class, or of the `labels` (N,) that they carry; logits (N, C).

    It orders rows as 1 - p does, without its ties: rows stay apart while their logits lead by less than about 700.
    Raises ValueError for logits that are not finite or of less than two classes, and labels that are no column.
    Source: Hendrycks and Gimpel, ICLR 2017; with labels the self-confidence of Northcutt et al., JAIR 2021.
    """
    z = _as_logits(logits)
    n, C = z.shape
    own = z.argmax(axis=1) if labels is None else _as_labels(labels, n, "labels")  # (N,)
    if n and own.max() >= C:
        raise ValueError(f"label {own.max()} has no column: logits of {C} classes are for labels 0 to {C - 1}")
    behind = z - z[np.arange(n), own][:, None]  # (N, C)
    behind[np.arange(n), own] = -np.inf
    return np.logaddexp(0, logsumexp(behind, axis=1))


def energy(logits: ArrayLike, temperature: float = 1.0) -> Scores:
    """Score rows by their free energy -T log sum exp(z / T), of logits (N, C).

    Raises ValueError for a temperature that isn't positive, and logits as for `max_softmax`.
    Source: Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020, equation 4.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number, got {temperature!r}")
    return -temperature * logsumexp(_as_logits(logits) / temperature, axis=1)


def mean_distance(train: ArrayLike, train_labels: ArrayLike, descriptors: ArrayLike, labels: Labels = None) -> Scores:
    """Score rows by cosine distance, 0 to 2, to the nearest class mean, or to the mean of the label they carry.

    `train` (M, D) with `train_labels` (M,), `descriptors` (N, D) with `labels` (N,): rows are L2-normalised, and so are
    the means of each class. Raises ValueError for unknown labels (-1), a label that no row of `train` has, a class
    whose rows cancel out, and rows that are NaN, infinite or zero.
    """
    known, rows, classes, of_train, place = _check_rows(train, train_labels, descriptors, labels)
    means = np.stack([known[of_train == c].mean(axis=0, dtype=np.float64) for c in range(len(classes))])  # (C, D)
    norms = np.linalg.norm(means, axis=1)
    if norms.min() < 1e-6:  # normalised rows of float32 that cancel out leave about 1e-8
        raise ValueError(f"the rows of class {classes[norms.argmin()]} cancel out: their mean has no direction")
    means /= norms[:, None]
    found = np.empty(len(rows))
    for part in slices(len(rows), _NUMBERS // len(means)):
        block = rows[part].astype(np.float64)
        block /= np.linalg.norm(block, axis=1, keepdims=True)  # to the precision of float64 too
        if place is None:
            found[part] = (block @ means.T).max(axis=1)
        else:
            found[part] = np.einsum("nd,nd->n", block, means[place[part]])
    return 1 - found


def knn_distance(
    train: ArrayLike, train_labels: ArrayLike, descriptors: ArrayLike, k: int = 5, labels: Labels = None
) -> Scores:
    """Score rows by 1 - similarity of their k-th nearest in `train`, or of the k-th nearest of the label they carry.

    Arguments as for `mean_distance`. A class of fewer than k rows answers with the farthest it has. A row that is in
    `train` itself is its own nearest, and counts among the k.
    Raises ValueError for k outside 1..M, and as `mean_distance` does.
    Source: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022, section 3.
    """
    known, rows, _, of_train, place = _check_rows(train, train_labels, descriptors, labels)
    check_integer("k", k, 1, len(known), f"the {len(known)} rows of train")
    if place is None:
        return 1 - search(known, rows, k).similarities[:, -1].astype(np.float64)
    found = np.empty(len(rows))
    for c in np.unique(place):
        own, asked = known[of_train == c], place == c
        found[asked] = search(own, rows[asked], min(k, len(own))).similarities[:, -1]
    return 1 - found


def score_all(
    logits: ArrayLike, train: ArrayLike, train_labels: ArrayLike, descriptors: ArrayLike, labels: Labels = None
) -> dict[str, Scores]:
    """Score images (N,) by all four ways, by name; arguments and errors as for each.

    `logits` (N, C) and `descriptors` (N, D) are of the same images. Energy never sees `labels`.
    """
    return {
        "maximum softmax": max_softmax(logits, labels),
        "energy": energy(logits),
        "class mean": mean_distance(train, train_labels, descriptors, labels),
        "k nearest": knn_distance(train, train_labels, descriptors, labels=labels),
    }


def swap_labels(labels: ArrayLike, share: float, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Give a share of the rows another label: the labels (N,) int64, and which were swapped (N,) bool.

    `share` is that of the rows with a label, rounded to whole rows. A new label is drawn uniformly from all others
    that occur, and never the old one; rows without a label (-1) stay as they are.
    Raises ValueError for a share outside 0 to 1, and for less than two classes to swap between.
    """
    given = _as_labels(labels, np.size(labels), "labels", unknown=True).copy()
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")
    known = np.flatnonzero(given != UNKNOWN)
    classes, place = np.unique(given[known], return_inverse=True)
    n = round(share * len(known))
    if n and len(classes) < 2:
        raise ValueError(f"labels have {len(classes)} class, there is no other to swap to: give rows of two at least")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(known), n, replace=False)
    swapped = np.zeros(len(given), bool)
    swapped[known[drawn]] = True
    if n:
        given[known[drawn]] = classes[(place[drawn] + rng.integers(1, len(classes), n)) % len(classes)]
    return given, swapped


def compare(scores: Mapping[str, ArrayLike], planted: ArrayLike, *, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Measure how well scores (N,) find what was planted (N,) bool; one row a score, all values fractions.

    `auroc` is the chance that a planted row scores above another one, ties counting half, with the 95 % interval
    `auroc_low`, `auroc_high` of rows drawn again, the planted and the others apart, the same draws for every score.
    `average_precision` takes ties as one block. `fpr95` is the share of the others that score as high as the threshold
    that finds 95 % of the planted. `found` is the share of the n planted among the n highest scores; where ties cross
    the n-th place, what it would be on average if they were broken at random.
    Raises ValueError for no scores, another length, NaN or infinity, and where none or all rows are planted.
    """
    hidden = np.asarray(planted)
    if hidden.ndim != 1 or hidden.dtype != bool or not hidden.any() or hidden.all():
        got = f"{hidden.dtype} of shape {hidden.shape} with {np.count_nonzero(hidden)} True"
        raise ValueError(f"planted must be (N,) bool with some rows True and some False, got {got}")
    if not scores or draws < 1:
        raise ValueError(f"{len(scores)} scores and {draws} draws: need one of each at least")
    given = {name: np.asarray(score, dtype=np.float64) for name, score in scores.items()}
    for name, score in given.items():
        if score.shape != hidden.shape or not np.isfinite(score).all():
            got = f"shape {score.shape} with {np.count_nonzero(~np.isfinite(score))} NaN or infinite"
            raise ValueError(f"score {name!r} must be ({len(hidden)},) finite numbers, got {got}")
    # Every score as its places among its distinct values: AUROC asks for no more.
    places = {name: np.unique(score, return_inverse=True)[1] for name, score in given.items()}
    rng = np.random.default_rng(seed)
    high, low = np.flatnonzero(hidden), np.flatnonzero(~hidden)
    samples: dict[str, list[float]] = {name: [] for name in given}
    for _ in range(draws):
        some, others = rng.choice(high, len(high)), rng.choice(low, len(low))
        for name, place in places.items():
            samples[name].append(_auroc(place[some], place[others]))
    found = []
    for name, score in given.items():
        lower, upper = np.quantile(samples[name], (0.025, 0.975)).tolist()
        auroc = _auroc(places[name][high], places[name][low])
        row = {"score": name, "auroc": auroc, "auroc_low": lower, "auroc_high": upper}
        row |= {"average_precision": float(average_precision_score(hidden, score))}
        found.append(row | {"fpr95": _fpr95(score[high], score[low]), "found": _found(score, hidden)})
    return pd.DataFrame(found).set_index("score")


def wrong_on_every(predicted: Mapping[str, ArrayLike], truth: Mapping[str, ArrayLike]) -> NDArray[np.int64]:
    """Find the rows that have every attribute's label and are wrong on each: (n,) int64, ascending.

    Both map an attribute's name to labels (N,), -1 where there is none. Raises ValueError for no attributes, others in
    one than in the other, and different lengths.
    """
    if not truth or set(predicted) != set(truth):
        raise ValueError(f"predicted {sorted(predicted)} and truth {sorted(truth)} must be of the same attributes")
    n = np.size(next(iter(truth.values())))
    wrong = np.ones(n, bool)
    for name in truth:
        expected = _as_labels(truth[name], n, f"truth of {name}", unknown=True)
        wrong &= (expected != UNKNOWN) & (expected != _as_labels(predicted[name], n, f"predicted {name}", unknown=True))
    return np.flatnonzero(wrong)


def _auroc(high: NDArray[np.int64], low: NDArray[np.int64]) -> float:
    """The share of pairs whose first place (P,) is above the second (Q,), ties counting half; exact."""
    size = int(max(high.max(), low.max())) + 1
    planted, others = np.bincount(high, minlength=size), np.bincount(low, minlength=size)
    twice = planted @ (2 * np.cumsum(others) - others)  # in halves of pairs, whole numbers
    return float(twice) / (2 * len(high) * len(low))


def _fpr95(high: NDArray[np.float64], low: NDArray[np.float64]) -> float:
    needed = -(-95 * len(high) // 100)  # the least number that is 95 %
    return float((low >= np.sort(high)[-needed]).mean())


def _found(score: NDArray[np.float64], planted: NDArray[np.bool_]) -> float:
    n = int(planted.sum())
    threshold = np.sort(score)[-n]
    above, tied = score > threshold, score == threshold
    return float((planted[above].sum() + (n - above.sum()) * planted[tied].mean()) / n)


def _check_rows(
    train: ArrayLike, train_labels: ArrayLike, descriptors: ArrayLike, labels: Labels
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
    """L2-normalised `train` and `descriptors`, the classes (C,), and the rows' places in these, (M,) and (N,)."""
    known, rows = unit(as_rows(train, "train")), unit(as_rows(descriptors))
    if known.shape[1] != rows.shape[1]:
        raise ValueError(f"descriptors have {rows.shape[1]} dimensions, train {known.shape[1]}: describe both alike")
    classes, of_train = np.unique(_as_labels(train_labels, len(known), "train_labels"), return_inverse=True)
    if labels is None:
        return known, rows, classes, of_train, None
    given = _as_labels(labels, len(rows), "labels")
    if len(other := given[~np.isin(given, classes)]):
        raise ValueError(f"label {other[0]} is that of no row of train: leave such rows out ({len(other)} have one)")
    return known, rows, classes, of_train, np.searchsorted(classes, given)


def _as_labels(labels: ArrayLike, n: int, name: str, *, unknown: bool = False) -> NDArray[np.int64]:
    given = np.asarray(labels)
    if given.shape != (n,) or given.dtype.kind not in "iu":
        raise ValueError(f"{name} must be ({n},) integers, got {given.dtype} of shape {given.shape}")
    least = UNKNOWN if unknown else 0
    if n and given.min() < least:
        without = "" if unknown else f"; rows without a label ({UNKNOWN}) can't be asked about it, leave them out"
        raise ValueError(f"{name}: {given.min()} is no label, expected {least} or more{without}")
    return given.astype(np.int64)


def _as_logits(logits: ArrayLike) -> NDArray[np.float64]:
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] < 2 or not np.isfinite(z).all():
        raise ValueError(f"logits must be (N, C), finite and of two classes at least, got shape {z.shape}")
    return z
