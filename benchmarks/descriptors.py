"""Right of the descriptors: search, the grid, whitening, intervals, at the sizes of the Met."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.measure import peak_bytes, product_rate, row, take_turns, unit_rows
from metlib import knn, metrics, tune
from metlib.whiten import PCAWhitening

MINI = {"n": 38_307, "q": 2_165, "exhibits": 33_501}
FULL = {"n": 397_121, "q": 19_319, "exhibits": 224_408}
DIM = 512


def _labels(size: dict[str, int], seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of a database and truth of its queries, one in ten an exhibit."""
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(size["exhibits"]), rng.integers(size["exhibits"], size=size["n"] - size["exhibits"]))
    truth = np.where(rng.random(size["q"]) < 0.1, rng.integers(size["exhibits"], size=size["q"]), -1)
    return labels, truth


def search_mini(repeats: int = 9) -> list[dict[str, Any]]:
    """Search and the whole grid against one search by faiss, and against one search for each cell."""
    database, queries = unit_rows(MINI["n"], DIM), unit_rows(MINI["q"], DIM, seed=1)
    labels, truth = _labels(MINI)

    def search_once(k: int = 50) -> None:
        faiss.knn(queries, database, k, metric=faiss.METRIC_INNER_PRODUCT)

    def ours() -> None:
        tune.tune(knn.search(database, queries, 50), labels, truth)

    def once_per_cell() -> None:
        for k in tune.KS:
            for _ in tune.TAUS:
                search_once(k)

    seconds = take_turns({"faiss": search_once, "ours": ours}, repeats)
    cells = take_turns({"cells": once_per_cell, "ours": ours}, 1)
    work = f"{MINI['n']:,} x {DIM}, {MINI['q']:,} queries, 108 cells"
    return [
        row("search and grid", work, "of one exact search by faiss", seconds["ours"] / seconds["faiss"], "<= 1.15"),
        row("search and grid", work, "faster than a search for each cell", cells["cells"] / cells["ours"], ">= 50"),
    ]


def search_full(repeats: int = 3) -> list[dict[str, Any]]:
    """The search of all test queries from a memory map: share of the machine's product rate, and memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "descriptors.npy"
        np.save(path, unit_rows(FULL["n"], DIM))
        return _in_child("_search_full", str(path), repeats)


def _search_full(path: str, repeats: int) -> list[dict[str, Any]]:
    database, queries = np.load(path, mmap_mode="r"), unit_rows(FULL["q"], DIM, seed=1)
    operations = 2 * FULL["n"] * FULL["q"] * DIM
    shares, faiss_shares = [], []
    for _ in range(repeats):  # the rate is asked for in every round: a busy neighbour lowers both
        before = product_rate()
        seconds = take_turns_once(lambda: knn.search(database, queries, 50))
        after = product_rate()
        shares.append(operations / seconds / ((before + after) / 2))
    beyond = (peak_bytes() - database.nbytes) / 2**20
    rate = product_rate()
    seconds = take_turns_once(lambda: faiss.knn(queries, database, 50, metric=faiss.METRIC_INNER_PRODUCT))
    faiss_shares.append(operations / seconds / rate)
    work = f"{FULL['n']:,} x {DIM} from a memory map, {FULL['q']:,} queries"
    return [
        row("search of test", work, "of the float32 product rate", shares, ">= 0.8"),
        row("search of test", work, "of the float32 product rate, faiss alone", faiss_shares, ""),
        row("search of test", work, "peak memory beyond the descriptors", beyond, "<= 512", "MiB"),
    ]


def grid(repeats: int = 5) -> list[dict[str, Any]]:
    """Confidences and GAP of 108 cells for all test queries, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    labels, truth = _labels(FULL)
    similarities = -np.sort(-rng.random((FULL["q"], 50), dtype=np.float32), axis=1)
    neighbours = knn.Neighbours(similarities, rng.integers(FULL["n"], size=(FULL["q"], 50)))
    with threadpool_limits(1):
        seconds = take_turns({"ours": lambda: tune.tune(neighbours, labels, truth)}, repeats)["ours"]
    work = f"{FULL['q']:,} queries x 50 neighbours, 108 cells, one core"
    return [row("confidence and grid", work, "seconds", seconds, "<= 2", "s")]


def bootstrap(repeats: int = 5) -> list[dict[str, Any]]:
    """Intervals of the three scores."""
    rng = np.random.default_rng(0)
    _, truth = _labels(FULL)
    predicted = np.where(rng.random(len(truth)) < 0.5, truth, 0)
    confidence = rng.random(len(truth))
    seconds = take_turns({"ours": lambda: metrics.bootstrap(predicted, confidence, truth)}, repeats)["ours"]
    return [row("bootstrap", f"{FULL['q']:,} queries, 1,000 resamples", "seconds", seconds, "<= 3", "s")]


def whitening(repeats: int = 3) -> list[dict[str, Any]]:
    """Fit and apply against the matrix products of which they consist."""
    sizes = ((FULL["n"], 512), (100_000, 2048))
    return [line for n, dim in sizes for line in _in_child("_whitening", n, dim, repeats)]


def _whitening(n: int, dim: int, repeats: int) -> list[dict[str, Any]]:
    rows = unit_rows(n, dim) * np.linspace(1, 0.1, dim, dtype=np.float32)
    blocks = [rows[start : start + 2048] for start in range(0, n, 2048)]
    ready = blocks[0].astype(np.float64)
    weight = np.random.default_rng(0).random((dim, DIM), dtype=np.float32)
    out = np.empty((2048, DIM), np.float32)

    def products() -> None:
        for block in blocks:
            ready[: len(block)].T @ ready[: len(block)]
            np.matmul(block, weight, out=out[: len(block)])

    def ours() -> None:
        PCAWhitening(DIM).fit(rows).transform(rows)

    tracemalloc.start()  # numpy tells it of its arrays
    ours()
    beyond = (tracemalloc.get_traced_memory()[1] - 4 * n * DIM) / 2**20
    tracemalloc.stop()
    seconds = take_turns({"products": products, "ours": ours}, repeats)
    decomposition = take_turns({"eigh": lambda: np.linalg.eigh(np.cov(ready[:, :dim].T))}, 3)["eigh"]
    work = f"{n:,} x {dim:,} to {DIM}"
    return [
        row("whitening", work, "of its matrix products", seconds["ours"] / seconds["products"], "<= 1.5"),
        row("whitening", work, "of that, one eigendecomposition", decomposition / np.median(seconds["products"]), ""),
        row("whitening", work, "memory beyond input and output", beyond, "<= 512", "MiB"),
    ]


def take_turns_once(step: Any) -> float:
    """Seconds of a step that is long enough to be taken once, without warming up."""
    import time

    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _in_child(function: str, *arguments: Any) -> list[dict[str, Any]]:
    """Run one of these functions in a process of its own, whose peak memory is its alone."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(globals()[function], *arguments).result()
