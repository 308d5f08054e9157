"""Rows are vectors: descriptors checked where they enter, L2-normalised, and cut into blocks."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NUMBERS = 2**20  # of rows at a time, 4 MiB: intermediate results stay in the processor's cache


def slices(n: int, step: int) -> Iterator[slice]:
    """Cut n rows into slices of `step`, of one at least: what is computed of each then stays small."""
    step = max(step, 1)
    return (slice(start, start + step) for start in range(0, n, step))


def as_rows(descriptors: ArrayLike, name: str = "descriptors") -> NDArray[np.float32]:
    """Check descriptors and give them as C-ordered float32 (N, D), without a copy where they already are.

    Raises ValueError (with `name`) for another shape, no rows, and rows that are NaN, infinite or zero, to which
    search libraries answer silently with a wrong index.
    """
    rows = np.asarray(descriptors)
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers, got dtype {rows.dtype}")
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"{name} must be (N, D) with rows as vectors and N, D > 0, got shape {rows.shape}")
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and is refused below
        rows = np.ascontiguousarray(rows, dtype=np.float32)
    energy = np.einsum("nd,nd->n", rows, rows)  # (N,), NaN or inf where any entry of the row is
    bad = np.flatnonzero(~(np.isfinite(energy) & (energy > 0)))
    if len(bad):
        first = rows[bad[0]]
        kind = "out of float32's range" if first.any() else "zero"
        if not np.isfinite(first).all():
            kind = "NaN or infinite"
        raise ValueError(
            f"{name}: row {bad[0]} is {kind} ({len(bad)} such rows); leave these images out or extract again"
        )
    return rows


def unit(rows: NDArray[np.float32], out: NDArray[np.float32] | None = None, *, first: int = 0) -> NDArray[np.float32]:
    """Divide every row by its norm: (N, D) -> (N, D), a new array or `out`, which may be `rows` itself.

    Raises ValueError for a row without a direction, with its number, counted from `first`.
    """
    normalised = np.empty(rows.shape, np.float32) if out is None else out
    for cut in slices(len(rows), _NUMBERS // max(rows.shape[1], 1)):
        part = rows[cut]
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        if not (norms > 0).all():
            number = first + cut.start + int(np.argmin(norms))
            raise ValueError(f"row {number} is zero: it has no direction, so it can't be L2-normalised")
        np.divide(part, norms, out=normalised[cut], casting="same_kind")
    return normalised
