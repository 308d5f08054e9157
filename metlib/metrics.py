"""GAP, GAP⁻ and accuracy of predictions, with intervals that say how well a set of queries determines them.

All scores are fractions. A query whose truth is -1 (a distractor) has no exhibit, and any answer to it is
wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metlib.common.checks import check_integer
from metlib.dataset import DISTRACTOR


@dataclass(frozen=True)
class Scores:
    """The study's scores, as fractions: `gap` over all queries, the others over those with an exhibit."""

    gap: float
    gap_minus: float
    acc: float


def gap(predicted: ArrayLike, confidence: ArrayLike, truth: ArrayLike) -> float:
    """Global average precision: rank all queries by confidence, sum precision(i)·correct(i), divide by M.

    `predicted` (Q,) and `truth` (Q,) are integer labels, `confidence` (Q,) any scores (prefer
    `log_confidence`), M is the number of queries that have an exhibit. Queries of equal confidence form one
    block whose precision is taken at its end, as in scikit-learn's `average_precision_score`, so the order of
    a file decides nothing.
    Raises ValueError for different lengths, NaN, and M = 0.
    Source: Perronnin et al., CVPR 2009; Weyand et al., CVPR 2020 (as micro-AP); Ypsilantis et al., 2021,
    section 3.3.

    >>> gap([3, 5, 5], [0.9, 0.8, 0.7], [3, -1, 5])  # right, an answer to a distractor, right: (1 + 2 / 3) / 2
    0.8333333333333333
    """
    correct, confidence, positive = _checked(predicted, confidence, truth)
    return _gap(correct, confidence, int(positive.sum()))


def gaps(predicted: ArrayLike, confidences: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """GAP of the same answers under many confidences: (..., Q) -> (...) float64, each cell as `gap` has it.

    Raises ValueError as `gap` does.
    """
    correct, _, positive = _checked(predicted, np.zeros(np.shape(predicted)), truth)
    confidences = np.asarray(confidences, dtype=np.float64)
    if confidences.shape[-1:] != correct.shape:
        raise ValueError(f"confidences must be (..., {len(correct)}), as many as the queries, got {confidences.shape}")
    if np.isnan(confidences).any():
        raise ValueError(f"{np.isnan(confidences).sum()} confidences are NaN: they can't be ranked")
    m = int(positive.sum())
    cells = [_gap(correct, cell, m) for cell in confidences.reshape(-1, len(correct))]
    return np.array(cells).reshape(confidences.shape[:-1])


def gap_minus(predicted: ArrayLike, confidence: ArrayLike, truth: ArrayLike) -> float:
    """GAP⁻: the same over the queries that have an exhibit, so without distractors."""
    correct, confidence, positive = _checked(predicted, confidence, truth)
    return _gap(correct[positive], confidence[positive], int(positive.sum()))


def accuracy(predicted: ArrayLike, truth: ArrayLike) -> float:
    """The share of correct labels among the queries that have an exhibit."""
    correct, _, positive = _checked(predicted, np.zeros(np.shape(predicted)), truth)
    return float(correct[positive].mean())


def evaluate(predicted: ArrayLike, confidence: ArrayLike, truth: ArrayLike) -> Scores:
    """All three scores of one set of predictions; arguments and errors as for `gap`."""
    return Scores(
        gap(predicted, confidence, truth), gap_minus(predicted, confidence, truth), accuracy(predicted, truth)
    )


def resample(
    predicted: ArrayLike, confidence: ArrayLike, truth: ArrayLike, n_resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Score resampled queries: (R, 3) GAP, GAP⁻ and ACC, the same resamples for the same `truth` and `seed`.

    Queries are drawn with replacement, Q of Q, distractors and all; a draw without any positive query is left out,
    so R is at most `n_resamples`. The queries are ranked once: a resample only changes how often each counts.
    Raises ValueError as `gap` does, and where no draw has a positive query.
    """
    correct, confidence, positive = _checked(predicted, confidence, truth)
    of_all = _Ranking(correct, confidence, positive)
    only_positive = _Ranking(correct[positive], confidence[positive], positive[positive])
    rng = np.random.default_rng(seed)
    n, samples = len(correct), []
    for _ in range(n_resamples):
        counts = np.bincount(rng.integers(n, size=n), minlength=n)[None].astype(np.float64)
        m = counts[0, positive].sum()
        if m:
            acc = (counts[0] * correct).sum() / m
            samples.append((of_all.scores(counts)[0], only_positive.scores(counts[:, positive])[0], acc))
    if not samples:
        raise ValueError(f"none of {n_resamples} resamples drew a positive query: ask for more resamples")
    return np.array(samples)


def bootstrap(
    predicted: ArrayLike,
    confidence: ArrayLike,
    truth: ArrayLike,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Scores, Scores]:
    """Percentile intervals of the three scores over resampled queries: (low, high), deterministic by `seed`.

    Raises ValueError for a level outside (0, 1), no resamples, and as `resample` does.
    """
    if n_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need n_resamples >= 1 and 0 < level < 1, got {n_resamples} and {level}")
    samples = resample(predicted, confidence, truth, n_resamples, seed)
    low, high = np.quantile(samples, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return Scores(*map(float, low)), Scores(*map(float, high))


def summary(
    predicted: ArrayLike, confidence: ArrayLike, truth: ArrayLike, n_resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """One table row: number of queries and positives, and each score with its 95 % interval, as fractions.

    Keys: `queries`, `positives`, and `gap`, `gap_low`, `gap_high`, likewise for `gap_minus` and `acc`.
    """
    scores = evaluate(predicted, confidence, truth)
    low, high = bootstrap(predicted, confidence, truth, n_resamples=n_resamples, seed=seed)
    row: dict[str, float] = {
        "queries": len(np.asarray(truth)),
        "positives": int((np.asarray(truth) != DISTRACTOR).sum()),
    }
    for name in ("gap", "gap_minus", "acc"):
        row |= {name: getattr(scores, name), f"{name}_low": getattr(low, name), f"{name}_high": getattr(high, name)}
    return row


def summarise_accuracy(correct: ArrayLike, n_resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Average the accuracy of S trained networks on the same n images, with a 95 % interval, as fractions.

    `correct` (S, n) bool, a row for each training seed; or differences of two networks' answers, from -1 to 1. Images
    are resampled, and among several networks those too, so the interval covers the draw of both. Keys: `images`,
    `seeds`, `accuracy`, `accuracy_low`, `accuracy_high`, and `seed_std`, the standard deviation over networks (0 for
    one). Raises ValueError for another shape or no images.
    """
    right = np.asarray(correct, dtype=np.float64)
    if right.ndim != 2 or not right.size:
        raise ValueError(f"correct must be (S, n), a row a network and a column an image, got {right.shape}")
    rng, (s, n) = np.random.default_rng(seed), right.shape
    means = np.empty(n_resamples)
    for draw in range(n_resamples):
        networks = rng.integers(s, size=s)
        means[draw] = right[networks][:, rng.integers(n, size=n)].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    of_each = right.mean(axis=1)
    row: dict[str, float] = {"images": n, "seeds": s, "accuracy": float(right.mean())}
    spread = float(of_each.std(ddof=1)) if s > 1 else 0.0
    return row | {"accuracy_low": float(low), "accuracy_high": float(high), "seed_std": spread}


def as_text(row: Mapping[str, float], *, signed: bool = False) -> dict[str, str]:
    """The three scores of a `summary` as a reader wants them, in percent: {"GAP": "36.1 [33.0, 39.2]"}.

    `signed` puts a sign before every number: for differences.
    """
    names, form = {"GAP": "gap", "GAP⁻": "gap_minus", "ACC": "acc"}, "+.1f" if signed else ".1f"
    return {
        title: "{} [{}, {}]".format(*(format(100 * row[f"{name}{part}"], form) for part in ("", "_low", "_high")))
        for title, name in names.items()
    }


def precision_recall(
    predicted: ArrayLike, confidence: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision after each block of equal confidence, most confident first; GAP is the area below.

    Recall is correct answers over M, precision correct answers over answers given:
    sum(diff(recall) * precision) = GAP.
    """
    correct, confidence, positive = _checked(predicted, confidence, truth)
    ranking = _Ranking(correct, confidence, positive)
    right = np.cumsum(ranking.correct)[ranking.ends]
    return right / positive.sum(), right / (ranking.ends + 1)


def reliability(
    predicted: ArrayLike, confidence: ArrayLike, truth: ArrayLike, bins: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Compare probabilities with what came true, in `bins` equal steps of [0, 1]; distractors count as wrong.

    `confidence` holds probabilities, not logs. Gives mean confidence, share correct and count of each
    non-empty bin.
    """
    correct, confidence, _ = _checked(predicted, confidence, truth)
    check_integer("bins", bins, 1)
    if confidence.min() < 0 or confidence.max() > 1:
        raise ValueError(f"reliability needs probabilities in [0, 1], got {confidence.min()} to {confidence.max()}")
    step = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(step, minlength=bins)
    used = count > 0
    mean = np.bincount(step, confidence, bins)[used] / count[used]
    share = np.bincount(step, correct, bins)[used] / count[used]
    return mean, share, count[used]


def _gap(correct: NDArray[np.bool_], confidence: NDArray[np.float64], m: int) -> float:
    """Sum, over the correct queries, of the precision among all that are at least as confident; over m."""
    ranked, right = np.sort(confidence), np.sort(confidence[correct])
    answered = len(ranked) - np.searchsorted(ranked, right)
    return float(((len(right) - np.searchsorted(right, right)) / answered).sum() / m)


class _Ranking:
    """Queries ranked by confidence once, to be scored under any number of weightings."""

    def __init__(
        self, correct: NDArray[np.bool_], confidence: NDArray[np.float64], positive: NDArray[np.bool_]
    ) -> None:
        self.order = np.argsort(-confidence, kind="stable")
        ranked = confidence[self.order]
        # The last place of each block of ties.
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self.correct = correct[self.order]
        self.positive = positive[self.order]

    def scores(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """GAP with query q counted weights[r, q] times: (R, Q) -> (R,)."""
        weights = weights[:, self.order]
        total = np.cumsum(weights, axis=1)[:, self.ends]
        right = np.cumsum(weights * self.correct, axis=1)[:, self.ends]
        gained = np.diff(right, axis=1, prepend=0)  # correct answers inside each block
        precision = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
        return (gained * precision).sum(axis=1) / (weights * self.positive).sum(axis=1)


def _checked(
    predicted: ArrayLike, confidence: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]:
    """Check the arguments; give correct (Q,), confidence (Q,) and positive (Q,)."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    confidence = np.asarray(confidence, dtype=np.float64)
    if predicted.ndim != 1 or not predicted.shape == confidence.shape == truth.shape:
        raise ValueError(
            f"predicted, confidence and truth must all be (Q,), "
            f"got {predicted.shape}, {confidence.shape}, {truth.shape}"
        )
    for name, labels in (("predicted", predicted), ("truth", truth)):
        if labels.size and labels.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integer labels, got dtype {labels.dtype}")
    if np.isnan(confidence).any():
        raise ValueError(f"confidence of query {int(np.isnan(confidence).argmax())} is NaN: it can't be ranked")
    if truth.size and truth.min() < DISTRACTOR:
        raise ValueError(f"truth {truth.min()}: exhibits are 0 or more, distractors are {DISTRACTOR}")
    positive = truth != DISTRACTOR
    if not positive.any():
        raise ValueError(f"none of {len(truth)} queries has an exhibit (M = 0): no score is defined")
    return (predicted == truth) & positive, confidence, positive
