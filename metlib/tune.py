"""Choosing k and tau on val: the whole published grid from one search; and the dimensions that are worth trying."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metlib import metrics
from metlib.knn import Neighbours, log_confidences, nearest_labels

KS = (1, 2, 3, 5, 7, 10, 15, 20, 50)
TAUS = (0.01, 0.1, 1, 5, 10, 15, 20, 25, 30, 50, 100, 500)
"""The published grid (Ypsilantis et al., 2021, supplementary material)."""

PUBLISHED_DIM = 512


@dataclass(frozen=True, eq=False)
class Tuning:
    """The GAP of every cell, `gap_grid` (len(ks), len(taus)) float64, and the best cell: `k`, `tau`."""

    ks: tuple[int, ...]
    taus: tuple[float, ...]
    gap_grid: NDArray[np.float64]
    k: int
    tau: float

    @property
    def gap(self) -> float:
        """GAP of the best cell, on the queries that chose it: an optimistic number, to be labelled so."""
        return float(self.gap_grid.max())


def tune(
    neighbours: Neighbours,
    database_labels: ArrayLike,
    truth: ArrayLike,
    ks: Sequence[int] = KS,
    taus: Sequence[float] = TAUS,
) -> Tuning:
    """Measure GAP for every (k, tau) and choose the best; of equal cells the smallest k, then smallest tau.

    `database_labels` (N,), `truth` (Q,) with -1 for distractors. The published `ks` are cut to the K that were
    searched. Raises ValueError for another k above K, tau that isn't positive, a split without positive queries.

    >>> from metlib.knn import search
    >>> near = search([[1, 0], [0, 1], [0.6, 0.8]], [[1, 0.1], [0.1, 1]], k=3)
    >>> best = tune(near, [7, 3, 7], [7, 3], ks=(1, 3), taus=(1, 10))
    >>> best.k, best.tau, best.gap
    (1, 1.0, 1.0)
    """
    ks, taus = (fitting(KS, neighbours.k) if ks is KS else tuple(ks)), tuple(taus)
    if not len(ks) or not len(taus):
        raise ValueError("the grid needs at least one k and one tau")
    predicted = nearest_labels(neighbours, database_labels)  # the same in every cell
    confidences = log_confidences(neighbours, database_labels, ks, taus)  # (len(ks), len(taus), Q)
    grid = metrics.gaps(predicted, confidences, truth)
    cells = [(-grid[i, j], k, tau) for i, k in enumerate(ks) for j, tau in enumerate(taus)]
    _, k, tau = min(cells)
    return Tuning(tuple(int(k) for k in ks), tuple(float(tau) for tau in taus), grid, int(k), float(tau))


def fitting(ks: Sequence[int], largest: int) -> tuple[int, ...]:
    """Select the values of `ks` that a database of `largest` images, or as many neighbours, can answer."""
    return tuple(k for k in ks if k <= largest)


@dataclass(frozen=True)
class DimTuning:
    """Val GAP of every candidate dimension (each with its own best k, tau and of `shrinkages`), and the best: `dim`."""

    dims: tuple[int, ...]
    gaps: tuple[float, ...]
    dim: int
    shrinkages: tuple[float, ...] = ()


SHRINKAGES = (0.01, 0.03, 0.1, 0.3)
"""The shrinkages of a learned whitening that are worth trying."""


def candidate_dims(n: int, D: int, *, learned: bool = False) -> tuple[int, ...]:
    """The dimensions worth trying for n database images of D raw dimensions, ascending.

    A database of at least ten images a dimension takes the published 512 (or D, where that is less). On a
    smaller one the trailing eigenvalues are noise that PCA whitening would blow up, so the list goes down from
    3/4 of min(n, D). A learned whitening (`learned`) doesn't scale them up: powers of two from 64 to 512.
    """
    most = max(min(n, D), 1)
    if learned:
        return tuple(sorted({min(64 << doublings, most) for doublings in range(4)}))
    if n >= 10 * D:
        return (min(PUBLISHED_DIM, D),)
    return tuple(sorted({min(PUBLISHED_DIM, max(most * eighths // 8, 1)) for eighths in (1, 2, 4, 6)}))
