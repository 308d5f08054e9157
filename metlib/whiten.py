"""Whitening of descriptors, from the database only: by its PCA, or learned from simulated visits of its images."""

from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dsyrk
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from metlib.common.checks import check_integer
from metlib.common.vectors import as_rows, slices, unit

_NUMBERS = 2**20  # of rows at a time: 8 MiB in float64, which a processor's cache holds


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What every whitening of n descriptors is made from, all float64.

    `mean` (D,), `values` (D,) the covariance's eigenvalues, descending, `vectors` (D, D) its eigenvectors as columns,
    `rank` how many eigenvalues are no rounding. Raises ValueError for arrays that don't fit together.
    """

    n: int
    mean: NDArray[np.float64]
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    rank: int

    def __post_init__(self) -> None:
        D = len(self.mean)
        if self.values.shape != (D,) or self.vectors.shape != (D, D) or not 1 <= self.rank <= D:
            raise ValueError(
                f"a spectrum of {D} dimensions has {D} values, {D} x {D} vectors and a rank of 1 to {D}, "
                f"got {self.values.shape}, {self.vectors.shape} and {self.rank}"
            )


def decompose(X: ArrayLike) -> Spectrum:
    """Take mean and covariance of database descriptors (N, D) in one pass, in float64, and decompose it.

    Raises ValueError for rows that are NaN, infinite or zero, and for rows that are all alike.
    """
    rows = as_rows(X, "database descriptors")
    n, D = rows.shape
    step = max(_NUMBERS // D, 1)
    # Relative to the first rows' mean, the sums below are small and lose nothing; the offset is corrected afterwards.
    origin = rows[:step].mean(axis=0, dtype=np.float64)
    total, products = np.zeros(D), np.zeros((D, D), order="F")
    block = np.empty((min(step, n), D))
    for cut in slices(n, step):
        part = rows[cut]
        shifted = block[: len(part)]
        shifted[...] = part  # on its own: converted while they are subtracted, rows take twice as long
        shifted -= origin
        total += shifted.sum(axis=0)
        products = dsyrk(1.0, shifted.T, beta=1.0, c=products, overwrite_c=True, lower=True)  # one triangle is enough
    offset = total / n
    mean = origin + offset
    values, vectors = np.linalg.eigh(products / n - np.outer(offset, offset), UPLO="L")
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    # Below these an eigenvalue is rounding: of the decomposition, and of descriptors stored as float32.
    energy = values.sum() + mean @ mean  # of a descriptor, on average
    noise = max(values[0] * max(n, D) * np.finfo(np.float64).eps, energy * np.finfo(np.float32).eps ** 2)
    rank = min(int((values > noise).sum()), n - 1)
    if not rank:
        raise ValueError(f"these {n} x {D} descriptors have rank 0: whitening needs at least two different rows")
    return Spectrum(n, mean, values, vectors, rank)


def disturbance(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Average (a - b)(a - b)ᵀ over pairs of descriptors (P, D) of the same works: (D, D), its lower triangle mirrored.

    Raises ValueError for other shapes, rows that are NaN, infinite or zero, and pairs that don't differ.
    """
    first, second = as_rows(a, "descriptors a"), as_rows(b, "descriptors b")
    if first.shape != second.shape:
        raise ValueError(f"a has shape {first.shape}, b {second.shape}: give two descriptors of each work, row for row")
    n, D = first.shape
    products = np.zeros((D, D), order="F")
    for cut in slices(n, max(_NUMBERS // D, 1)):
        apart = np.subtract(first[cut], second[cut], dtype=np.float64)
        products = dsyrk(1.0, apart.T, beta=1.0, c=products, overwrite_c=True, lower=True)
    if not products.trace() > 0:
        raise ValueError(f"all {n} pairs are of equal descriptors: no disturbance can be learned from them")
    lower = np.tril(products / n)
    return lower + np.tril(lower, -1).T


class _Whitening(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted `mean_` (D,) and `components_` (dim, D), and the projection by them."""

    dim: int
    shrinkage: float

    def _check(self) -> None:
        check_integer("dim", self.dim, 1)
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in [0, 1], got {self.shrinkage!r}")

    def _check_rank(self, spectrum: Spectrum) -> None:
        if self.dim > spectrum.rank:
            raise ValueError(
                f"dim {self.dim} is above the rank {spectrum.rank} of these {spectrum.n} x {len(spectrum.mean)} "
                f"descriptors: whitening would divide by zero; ask for at most {max(spectrum.rank // 2, 1)} "
                "(the last eigenvalues are noise)"
            )

    def leading(self, dim: int) -> Self:
        """Give the whitening to the first `dim` of its dimensions, as a fit with that `dim` would be."""
        check_is_fitted(self)
        kept = copy(self)
        kept.dim, kept.components_ = dim, self.components_[:dim]
        return kept

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Whiten descriptors (N, D) -> (N, dim), float32, L2-normalised. Raises ValueError for another D."""
        check_is_fitted(self)
        rows = as_rows(X)
        n, D = rows.shape
        if self.n_features_in_ != D:
            raise ValueError(f"descriptors have {D} dimensions, the whitening was fitted on {self.n_features_in_}")
        mean, weight = self.mean_.astype(np.float32), self.components_.astype(np.float32).T
        step = max(_NUMBERS // D, 1)
        white, block = np.empty((n, weight.shape[1]), np.float32), np.empty((min(step, n), D), np.float32)
        for cut in slices(n, step):  # the mean first: projected apart, the two nearly cancel
            part = rows[cut]
            centred = np.subtract(part, mean, out=block[: len(part)])
            projected = np.matmul(centred, weight, out=white[cut])
            unit(projected, out=projected, first=cut.start)
        return white

    def as_linear(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give the whitening as a linear layer: weight (dim, D) and bias (dim,); normalise its output."""
        check_is_fitted(self)
        return self.components_.astype(np.float32), (-self.components_ @ self.mean_).astype(np.float32)


class PCAWhitening(_Whitening):
    """Project descriptors on `dim` leading eigenvectors, scaled by eigenvalue^(-shrinkage/2), and L2-normalise them.

    `shrinkage=1` whitens, `0` only rotates (PCA), between them the spectrum is flattened in part.
    Mean and covariance are taken in float64. After `fit`: `mean_` (D,), `components_` (dim, D) already
    scaled, `eigenvalues_` (D,) descending, `rank_`.
    Source: Jégou and Chum, ECCV 2012; shrinkage as in Mukundan et al., IJCV 2019.

    >>> X = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    >>> PCAWhitening(dim=4).fit(X).transform(X).shape
    (100, 4)
    """

    def __init__(self, dim: int = 512, shrinkage: float = 1.0) -> None:
        self.dim = dim
        self.shrinkage = shrinkage

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn from database descriptors (N, D). ValueError for `dim` above the rank, which it names."""
        self._check()
        return self.fit_spectrum(decompose(X))

    def fit_spectrum(self, spectrum: Spectrum) -> Self:
        """Learn from descriptors that are already decomposed: several whitenings of one database cost as one."""
        self._check()
        self._check_rank(spectrum)
        scale = spectrum.values[: self.dim] ** (-self.shrinkage / 2)
        self.mean_ = spectrum.mean
        self.components_ = _signed(spectrum.vectors[:, : self.dim].T) * scale[:, None]
        self.eigenvalues_ = spectrum.values
        self.rank_ = spectrum.rank
        self.n_features_in_ = len(spectrum.mean)
        return self


class LearnedWhitening(_Whitening):
    """Damp what differs between two descriptors of one work, then keep the leading `dim` directions of the database.

    W is the mean of (a - b)(a - b)ᵀ over pairs, shrunk to (1 - s) W + s tr(W)/D I with s = `shrinkage`; P = W^(-1/2);
    U are the leading eigenvectors of the covariance of P(x - mean) over the database; the output is UᵀP(x - mean),
    L2-normalised. Unlike PCA whitening, the database's own directions aren't scaled. All in float64. After `fit`:
    `mean_` (D,), `components_` (dim, D), `eigenvalues_` (D,) of that covariance, descending, `rank_` of the database.
    Source: Mikolajczyk and Matas, ICCV 2007; Radenović et al., TPAMI 2019, section 3.3, whose pairs come from
    structure from motion; here they are database images with simulated visits of them (`metlib.visits`).

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 8)).astype(np.float32)
    >>> LearnedWhitening(dim=4).fit(X, X, X + rng.normal(size=X.shape)).transform(X).shape
    (100, 4)
    """

    def __init__(self, dim: int = 512, shrinkage: float = 0.1) -> None:
        self.dim = dim
        self.shrinkage = shrinkage

    def fit(self, X: ArrayLike, a: ArrayLike, b: ArrayLike) -> Self:
        """Learn from database descriptors X (N, D) and pairs a, b (P, D), row for row of the same works.

        Raises ValueError for `dim` above the rank of X, for another D, and where W is singular: fewer pairs than
        dimensions without shrinkage.
        """
        self._check()
        return self.fit_spectrum(decompose(X), disturbance(a, b), np.shape(a)[0])

    def fit_spectrum(self, spectrum: Spectrum, within: NDArray[np.float64], pairs: int) -> Self:
        """Learn from a database that is already decomposed, and the `disturbance` of so many pairs."""
        self._check()
        self._check_rank(spectrum)
        D = len(spectrum.mean)
        if within.shape != (D, D):
            raise ValueError(f"the pairs have {len(within)} dimensions, the database {D}: describe both alike")
        shrunk = (1 - self.shrinkage) * within + self.shrinkage * within.trace() / D * np.eye(D)
        values, vectors = np.linalg.eigh(shrunk)
        if not values[0] > D * np.finfo(np.float64).eps * values[-1]:
            raise ValueError(
                f"{pairs} pairs leave directions of {D} dimensions without any difference (shrinkage "
                f"{self.shrinkage:g}): W is singular; raise shrinkage, such as 0.1, or give more pairs"
            )
        P = (vectors * values**-0.5) @ vectors.T  # (D, D)
        spread = P @ spectrum.vectors  # the database's covariance is vectors diag(values) vectorsᵀ
        gains, directions = np.linalg.eigh((spread * spectrum.values) @ spread.T)
        self.mean_ = spectrum.mean
        self.components_ = _signed(directions[:, ::-1][:, : self.dim].T @ P)
        self.eigenvalues_ = gains[::-1].clip(min=0)
        self.rank_ = spectrum.rank
        self.n_features_in_ = D
        return self


def _signed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the largest entry of each row positive: an eigenvector's sign is arbitrary, and machines shall agree."""
    return rows * np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])[:, None]
