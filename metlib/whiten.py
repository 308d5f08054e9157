"""PCA whitening of descriptors, learned on the database only."""

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


class PCAWhitening(TransformerMixin, BaseEstimator):  # type: ignore[misc]
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
        D = len(spectrum.mean)
        if self.dim > spectrum.rank:
            raise ValueError(
                f"dim {self.dim} is above the rank {spectrum.rank} of these {spectrum.n} x {D} descriptors: "
                f"whitening would divide by zero; ask for at most {max(spectrum.rank // 2, 1)} "
                "(the last eigenvalues are noise)"
            )
        leading = spectrum.vectors[:, : self.dim].T  # (dim, D)
        # An eigenvector's sign is arbitrary: make its largest entry positive, so that every machine agrees.
        signs = np.sign(leading[np.arange(self.dim), np.abs(leading).argmax(axis=1)])
        scale = spectrum.values[: self.dim] ** (-self.shrinkage / 2)
        self.mean_ = spectrum.mean
        self.components_ = leading * (signs * scale)[:, None]
        self.eigenvalues_ = spectrum.values
        self.rank_ = spectrum.rank
        self.n_features_in_ = D
        return self

    def _check(self) -> None:
        check_integer("dim", self.dim, 1)
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in [0, 1], got {self.shrinkage!r}")

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
