"""What a device computes: which one is here, and the nearest rows by matrix products on it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from metlib.common.vectors import slices

_PRODUCTS = 2**28  # similarities computed at once: a gibibyte of float32


def find_device() -> str:
    """The fastest device here: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raise ValueError for a device that can't be used here, with the reason."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} can't be used here ({reason}): name cuda, mps or cpu, or none") from error


def nearest(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int, device: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k rows (of n, D) of largest inner product with each query (Q, D): similarities and indices (Q, k).

    Inner products in float32, without TF32, whose ten bits of mantissa aren't enough to tell neighbours apart.
    """
    similarities, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        columns = torch.tensor(rows, device=device).T  # (D, n)
        for some in slices(len(queries), _PRODUCTS // len(rows)):
            s, i = torch.topk(torch.tensor(queries[some], device=device) @ columns, k, dim=1)
            similarities[some], indices[some] = s.cpu().numpy(), i.cpu().numpy()
    finally:
        torch.set_float32_matmul_precision(precision)
    return similarities, indices
