"""Times that can be compared on a noisy machine: taken in turns in one process, repeated, the median kept."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def take_turns(steps: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, NDArray[np.float64]]:
    """Seconds (repeats,) of each step; every round runs all of them, so that what slows one round slows all."""
    for step in steps.values():  # the first time allocates, compiles and reads
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def row(step: str, work: str, figure: str, values: Any, bound: str, unit: str = "") -> dict[str, Any]:
    """One line of figures/benchmarks.csv: the median of `values` (one a round) with its range, and what it must be.

    `bound` is "<= 1.15", ">= 0.8", or "" for what is only reported.
    """
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    value = float(np.median(values))
    sign, _, limit = bound.partition(" ")
    reached = {"<=": lambda: value <= float(limit), ">=": lambda: value >= float(limit), "": lambda: None}[sign]()
    return {
        "step": step,
        "work": work,
        "figure": figure,
        "value": f"{value:.4g}",
        "unit": unit,
        "lowest": f"{values.min():.4g}",
        "highest": f"{values.max():.4g}",
        "rounds": len(values),
        "must be": bound,
        "reached": {True: "yes", False: "no", None: ""}[reached],
    }


def peak_bytes() -> int:
    """The most memory that this process has held, mapped files among it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def product_rate(n: int = 4096, repeats: int = 3) -> float:
    """The machine's float32 rate, in operations a second: the best of some products of n x n matrices by numpy."""
    a = np.random.default_rng(0).random((n, n), dtype=np.float32)
    out = np.empty_like(a)
    seconds = take_turns({"product": lambda: np.matmul(a, a, out=out)}, repeats)["product"]
    return 2 * n**3 / float(seconds.min())


def unit_rows(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Random unit rows (n, dim), made block by block."""
    rng = np.random.default_rng(seed)
    rows = np.empty((n, dim), np.float32)
    for start in range(0, n, 2**15):
        block = rng.standard_normal((min(2**15, n - start), dim), dtype=np.float32)
        rows[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows
