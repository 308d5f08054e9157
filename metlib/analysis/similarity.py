"""Which works are alike, and whether more than chance: neighbours within a collection, agreement of two spaces."""

from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from metlib.common.checks import UNKNOWN, check_integer
from metlib.common.vectors import as_rows, slices
from metlib.knn import Neighbours, neighbour_labels, search

EXACT = 20_000  # rows up to which `uniformity` takes every pair, 200 million of them
PAIRS = 2**22  # pairs that it draws where there are more rows
_NUMBERS = 2**22  # of rows, or of similarities, at a time: in float64, 32 MiB


def nearest_works(descriptors: ArrayLike, k: int, *, groups: ArrayLike | None = None) -> Neighbours:
    """Find the k nearest rows of each row (N, D) among the others, by `knn.search`; exact.

    `groups` (N,) integers number the works: of an image's neighbours none is of its own work. Rows of group -1 are
    each a work of their own, and so are all where no groups are given, even those of equal pixels.
    Raises ValueError where fewer than k rows are left for some row, for groups that don't fit, and as `knn.search`.
    """
    rows = as_rows(descriptors)
    group, size = _works(groups, len(rows))
    left = len(rows) - int(size.max())
    if not isinstance(k, int | np.integer) or not 1 <= k <= left:
        raise ValueError(
            f"k must be an integer from 1 to {left}, what the largest work ({size.max()} of {len(rows)} rows) leaves, "
            f"got {k!r}: ask for fewer, or give more works"
        )
    similarities = np.empty((len(rows), k), np.float32)
    indices = np.empty((len(rows), k), np.int64)
    for own in np.unique(size):  # of k + own neighbours, at most `own` are of the work itself
        asked = np.flatnonzero(size == own)
        found = search(rows, rows[asked], int(k + own))
        kept = np.argsort(group[found.indices] == group[asked][:, None], axis=1, kind="stable")[:, :k]
        similarities[asked] = np.take_along_axis(found.similarities, kept, axis=1)
        indices[asked] = np.take_along_axis(found.indices, kept, axis=1)
    return Neighbours(similarities, indices)


def alignment(first: ArrayLike, second: ArrayLike, alpha: float = 2) -> float:
    """Measure how far positive pairs lie apart: the mean of ||x - y||^alpha over rows (N, D) and (N, D), L2-normalised.

    0 where both images of every pair have the same descriptor; 2 is what random directions give for alpha = 2.
    Raises ValueError for different shapes, and for alpha <= 0. Source: Wang and Isola, ICML 2020, section 4.1.
    """
    x, y = as_rows(first, "first"), as_rows(second, "second")
    if x.shape != y.shape or not alpha > 0:
        raise ValueError(f"alignment needs two sets of one shape and alpha > 0, got {x.shape}, {y.shape} and {alpha!r}")
    total = 0.0
    for part in slices(len(x), _NUMBERS // x.shape[1]):
        total += float((np.linalg.norm(_unit(x[part]) - _unit(y[part]), axis=1) ** alpha).sum())
    return total / len(x)


def uniformity(descriptors: ArrayLike, t: float = 2, *, seed: int = 0) -> float:
    """Measure how evenly L2-normalised rows (N, D) fill the sphere: log of the mean of exp(-t ||x - y||²) over pairs.

    Lower is more even, 0 where all rows are one. Pairs are of two different rows: all of them up to EXACT rows, of
    more rows PAIRS that `seed` draws. Raises ValueError for less than two rows, and a t that isn't positive.
    Source: Wang and Isola, Understanding Contrastive Representation Learning, ICML 2020, section 4.1.
    """
    rows = as_rows(descriptors)
    n, D = rows.shape
    if n < 2 or not t > 0:
        raise ValueError(f"uniformity needs two rows and t > 0, got {n} rows and t {t!r}")
    logs = []  # of sums, by block
    if n <= EXACT:
        for one, other in combinations_with_replacement(slices(n, int(_NUMBERS**0.5)), 2):
            exponents = 2 * t * (_unit(rows[one]) @ _unit(rows[other]).T - 1)  # ||x - y||² = 2 - 2 x·y
            if one == other:  # each pair once, and no row with itself
                exponents[np.tri(len(exponents), dtype=bool)] = -np.inf
            logs.append(logsumexp(exponents))
        return float(logsumexp(logs) - np.log(n * (n - 1) / 2))
    rng = np.random.default_rng(seed)
    first, second = rng.integers(n, size=PAIRS), rng.integers(n - 1, size=PAIRS)
    second += second >= first  # any row but the first
    for part in slices(PAIRS, _NUMBERS // D):
        logs.append(logsumexp(2 * t * (_dot(rows, first[part], second[part]) - 1)))
    return float(logsumexp(logs) - np.log(PAIRS))


def agreement(
    neighbours: Neighbours, second: ArrayLike, *, groups: ArrayLike | None = None, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Measure how similar neighbours of one space are in a `second` one (N, D), rank by rank, beside random pairs.

    `neighbours` are those of all N rows in the first space (from `nearest_works`, with the same `groups`). One row a
    rank, 1 to K, and last "random": each row with one drawn by `seed` from those of other works. Columns: `similarity`,
    the mean cosine over all queries, with the 95 % interval `low` and `high` of queries drawn again; and `lift`, how
    many standard deviations of a random pair's similarity the mean lies above theirs: a mean by itself says nothing.
    Raises ValueError for neighbours of other rows or of a query's own work, one work only, and random pairs all alike.
    """
    rows = as_rows(second, "second")
    n, K = neighbours.indices.shape
    group, size = _works(groups, len(rows))
    if n != len(rows) or neighbours.indices.max() >= n:
        raise ValueError(
            f"{n} queries with neighbours up to row {neighbours.indices.max()}, but second has {len(rows)} rows: both "
            "must be of the same images"
        )
    _check_own(neighbours, group)
    check_integer("draws", draws, 1)
    rng = np.random.default_rng(seed)
    pairs = np.column_stack([neighbours.indices, _others(group, size, rng)])  # (N, K + 1)
    values = np.empty(pairs.shape)
    for part in slices(n, _NUMBERS // ((K + 1) * rows.shape[1])):
        values[part] = _dot(rows, np.arange(n)[part][:, None], pairs[part])
    spread = values[:, -1].std()
    if spread < 1e-12:
        raise ValueError("all random pairs are equally similar in second: nothing can agree more than they do")
    samples = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) @ values / n for _ in range(draws)])
    low, high = np.quantile(samples, (0.025, 0.975), axis=0)
    means = values.mean(axis=0)
    found = {"similarity": means, "low": low, "high": high, "lift": (means - means[-1]) / spread}
    return pd.DataFrame(found, index=pd.Index([*range(1, K + 1), "random"], name="rank"))


def agreement_of_labels(neighbours: Neighbours, labels: ArrayLike, *, groups: ArrayLike | None = None) -> pd.DataFrame:
    """Measure how often neighbours share their query's label (N,), rank by rank, and how often chance would.

    Columns, by `rank` from 1: `pairs`, those where both have a label (not -1); `share` of them with the same; and
    `chance`, the share where each of these queries meets a row with a label, of another work by `groups`, at random:
    without groups, and with all labels known, sum over classes of n_c (n_c - 1) / (n (n - 1)).
    Raises ValueError for labels or groups that don't fit, neighbours of a query's own work, and a rank without a pair.
    """
    own = np.asarray(labels)
    if len(own) != len(neighbours.indices):
        raise ValueError(f"{len(neighbours.indices)} queries but {len(own)} labels: both must be of the same images")
    near = neighbour_labels(neighbours, own)  # (N, K)
    group, _ = _works(groups, len(own))
    _check_own(neighbours, group)
    known = own != UNKNOWN
    both = known[:, None] & (near != UNKNOWN)
    if not both.any(axis=0).all():
        raise ValueError("at some rank no query and neighbour both have a label: give labels of more images")
    label = np.unique(own, return_inverse=True)[1]
    n_same = _sizes(label, known) - _sizes(label * (group.max() + 1) + group, known)
    n_rest = known.sum() - _sizes(group, known)
    chances = np.divide(n_same, n_rest, out=np.zeros(len(own)), where=n_rest > 0)  # (N,), of a query's random partner
    same = (near == own[:, None]) & both
    pairs = both.sum(axis=0)
    found = {"pairs": pairs, "share": same.sum(axis=0) / pairs, "chance": chances @ both / pairs}
    return pd.DataFrame(found, index=pd.RangeIndex(1, neighbours.k + 1, name="rank"))


def _works(groups: ArrayLike | None, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The work of each row (N,), numbered from 0, and how many rows it has (N,)."""
    if groups is None:
        return np.arange(n), np.ones(n, np.int64)
    given = np.asarray(groups)
    if given.shape != (n,) or given.dtype.kind not in "iu" or (n and given.min() < UNKNOWN):
        raise ValueError(f"groups must be ({n},) integers of {UNKNOWN} or more, got {given.dtype} {given.shape}")
    work = np.unique(given, return_inverse=True)[1]
    alone = given == UNKNOWN
    work[alone] = n + np.arange(alone.sum())
    _, work, count = np.unique(work, return_inverse=True, return_counts=True)
    return work, count[work]


def _check_own(neighbours: Neighbours, group: NDArray[np.int64]) -> None:
    own = np.flatnonzero((group[neighbours.indices] == group[:, None]).any(axis=1))
    if len(own):
        raise ValueError(f"query {own[0]} has a neighbour of its own work: take nearest_works with the same groups")


def _sizes(values: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of the counted rows have each row's value: (N,)."""
    _, place = np.unique(values, return_inverse=True)
    return np.bincount(place, counted, place.max() + 1)[place].astype(np.int64)


def _others(group: NDArray[np.int64], size: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For every row one of another work, drawn uniformly: (N,)."""
    n = len(group)
    if size.max() == n:
        raise ValueError("all rows are of one work: there is no other to compare with, give groups of two at least")
    order = np.argsort(group, kind="stable")  # a work's rows side by side, so that they can be stepped over
    start = np.searchsorted(group[order], group)
    drawn = rng.integers(n - size)
    return order[drawn + size * (drawn >= start)]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def _dot(rows: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosines of these pairs of rows, in float64; both indices are brought to one shape."""
    return np.einsum("...d,...d->...", _unit(rows[first]), _unit(rows[second]))
