"""PCA whitening of descriptors, learned on the database only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from metlib.vectors import as_rows, unit

_BLOCK = 8192  # rows a step, so that no float64 copy of the whole database is made


class PCAWhitening(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Project descriptors on `dim` leading eigenvectors, scaled by eigenvalue^(-shrinkage/2), to unit rows.

    `shrinkage=1` whitens, `0` only rotates (PCA), between them the spectrum is flattened in part.
    Mean and covariance are taken in float64. After `fit`: `mean_` (D,), `components_` (dim, D) already
    scaled, `eigenvalues_` (D,) descending, `rank_`.
    Source: Jégou and Chum, ECCV 2012; shrinkage as in Mukundan et al., IJCV 2019.
    """

    def __init__(self, dim: int = 512, shrinkage: float = 1.0) -> None:
        self.dim = dim
        self.shrinkage = shrinkage

    def fit(self, X: ArrayLike, y: Any = None) -> PCAWhitening:
        """Learn from database descriptors (N, D). ValueError for `dim` above the rank, which it names."""
        rows = as_rows(X, "database descriptors")
        if not isinstance(self.dim, int | np.integer) or self.dim < 1:
            raise ValueError(f"dim must be an integer of at least 1, got {self.dim!r}")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in [0, 1], got {self.shrinkage!r}")
        n, D = rows.shape
        mean = rows.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((D, D))
        for start in range(0, n, _BLOCK):
            centred = rows[start : start + _BLOCK] - mean
            covariance += centred.T @ centred
        values, vectors = np.linalg.eigh(covariance / n)
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
        # Below these an eigenvalue is rounding: of the decomposition, and of descriptors stored as float32.
        energy = float(np.einsum("nd,nd->", rows, rows, dtype=np.float64)) / n
        noise = max(values[0] * max(n, D) * np.finfo(np.float64).eps, energy * np.finfo(np.float32).eps ** 2)
        rank = min(int((values > noise).sum()), n - 1)
        if not rank:
            raise ValueError(f"these {n} x {D} descriptors have rank 0: whitening needs at least two different rows")
        if self.dim > rank:
            raise ValueError(
                f"dim {self.dim} is above the rank {rank} of these {n} x {D} descriptors: "
                f"whitening would divide by zero; ask for at most {max(rank // 2, 1)} "
                "(the last eigenvalues are noise)"
            )
        leading = vectors[:, : self.dim].T  # (dim, D)
        # An eigenvector's sign is arbitrary: make its largest entry positive, so that every machine agrees.
        signs = np.sign(leading[np.arange(self.dim), np.abs(leading).argmax(axis=1)])
        scale = values[: self.dim] ** (-self.shrinkage / 2)
        self.mean_ = mean
        self.components_ = leading * (signs * scale)[:, None]
        self.eigenvalues_ = values
        self.rank_ = rank
        self.n_features_in_ = D
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Whiten descriptors (N, D) -> (N, dim), float32 unit rows. Raises ValueError for another D."""
        check_is_fitted(self)
        rows = as_rows(X)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"descriptors have {rows.shape[1]} dimensions, the whitening was fitted on {self.n_features_in_}"
            )
        mean, weight = self.mean_.astype(np.float32), self.components_.astype(np.float32).T
        white = np.empty((len(rows), self.dim), np.float32)
        for start in range(0, len(rows), _BLOCK):  # the mean first: projected apart, the two nearly cancel
            white[start : start + _BLOCK] = (rows[start : start + _BLOCK] - mean) @ weight
        return unit(white)

    def as_linear(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give the whitening as a linear layer: weight (dim, D) and bias (dim,); normalise its output."""
        check_is_fitted(self)
        return self.components_.astype(np.float32), (-self.components_ @ self.mean_).astype(np.float32)
