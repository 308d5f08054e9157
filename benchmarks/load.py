"""Load checks, run by hand and recorded in figures/load.csv: `python -m benchmarks.load --only pipeline`.

A museum of as many exhibits as the Met's small database through the whole pipeline; ten million descriptors through
blocked search; and the same through LanceDB, with the extra `[scale]`. Together they need 12 GB of disk.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.__main__ import FIGURES, machine
from benchmarks.measure import peak_bytes, product_rate, row
from metlib import NETWORK, knn
from metlib.common.files import replacing

EXHIBITS, SIDE = 33_501, 64
ROWS, DIM, QUERIES, K = 10_000_000, 128, 1_000, 50


@contextmanager
def _timed(lines: list[dict[str, Any]], step: str, work: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    lines.append(row(step, work, "seconds", time.perf_counter() - start, "", "s"))
    print(f"{step}, {work}: {lines[-1]['value']} s", flush=True)


def pipeline(folder: Path) -> list[dict[str, Any]]:
    """Paint, describe, whiten, search, tune and score a museum of 33,501 exhibits; `folder` keeps the images."""
    from metlib import backbone, dataset, evaluate, extract, synthetic

    lines: list[dict[str, Any]] = []
    root, work = folder / f"museum-{EXHIBITS}", f"{EXHIBITS:,} exhibits at {SIDE} px"
    if not root.exists():
        with _timed(lines, "paint", work):
            synthetic.write_museum(root, n_exhibits=EXHIBITS, size=SIDE, workers=2)
    museum = dataset.load(root)
    images = sum(len(split) for split, _ in museum.splits())
    with _timed(lines, "describe", f"{images:,} images, {NETWORK}, three scales"):
        described = extract.describe(museum, backbone.load(NETWORK), folder / "work")
    run = evaluate.measure(described)
    for step, seconds in run.seconds.items():
        work = f"{len(museum.database):,} images, {len(museum.test):,} test queries"
        lines.append(row(step, work, "seconds", seconds, "", "s"))
    lines.append(row("whole pipeline", work, "test GAP", 100 * run.test["gap"], "", "%"))
    lines.append(row("whole pipeline", work, "peak memory", peak_bytes() / 2**30, "", "GiB"))
    return lines


def ten_million(folder: Path) -> list[dict[str, Any]]:
    """Search ten million descriptors from a memory map, in blocks."""
    path, work = _made(folder)
    database, queries = np.load(path, mmap_mode="r"), _noisy(_centres(), QUERIES, -1)
    lines: list[dict[str, Any]] = []
    rate = product_rate()
    start = time.perf_counter()
    knn.search(database, queries, K)
    seconds = time.perf_counter() - start
    lines += [
        row("blocked search", work, "seconds", seconds, "", "s"),
        row("blocked search", work, "of the float32 product rate", 2 * ROWS * DIM * QUERIES / seconds / rate, ""),
        row("blocked search", work, "peak memory, the map's pages among it", peak_bytes() / 2**30, "", "GiB"),
    ]
    print(*lines, sep="\n", flush=True)
    return lines


def lance(folder: Path) -> list[dict[str, Any]]:
    """Write the same descriptors to LanceDB, index them, and search; needs the extra `[scale]`."""
    from metlib.scale import on_lance

    path, work, queries = *_made(folder), _noisy(_centres(), QUERIES, -1)
    exact = knn.search(np.load(path, mmap_mode="r"), queries, K)
    lines: list[dict[str, Any]] = []
    table = folder / "table"
    with _timed(lines, "LanceDB: write", work):
        on_lance.write_table(path, table)
    with _timed(lines, "LanceDB: build the index", work):
        on_lance.build_index(table)
    for probes, refine in ((8, 2), (32, 8), (128, 8)):
        of = f"{work}, probes {probes}, refine {refine}"
        with _timed(lines, "LanceDB: search", of):
            found = on_lance.search(table, queries, K, probes=probes, refine=refine)
        lines.append(row("LanceDB: search", of, f"recall of the {K} nearest", on_lance.recall(found, exact), ""))
        print(lines[-1]["figure"], lines[-1]["value"], flush=True)
    size = sum(file.stat().st_size for file in table.rglob("*") if file.is_file()) / path.stat().st_size
    lines.append(row("LanceDB: write", work, "disk, of the descriptors'", size, ""))
    lines.append(row("LanceDB: search", work, "peak memory", peak_bytes() / 2**30, "", "GiB"))
    return lines


def _made(folder: Path) -> tuple[Path, str]:
    """The file of ten million descriptors, written unless it is there, and what is done with it in words."""
    path = folder / "ten-million.npy"
    if not path.is_file():
        with replacing(path) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (ROWS, DIM)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, ROWS, 2**18):
                file.write(_noisy(_centres(), min(2**18, ROWS - start), start).tobytes())
    return path, f"{ROWS:,} x {DIM}, {QUERIES:,} queries"


@cache
def _centres() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((ROWS // 100, DIM), dtype=np.float32)


def _noisy(centres: NDArray[np.float32], n: int, seed: int) -> NDArray[np.float32]:
    """Unit rows (n, D) around random centres, as photographs of a hundred like works would be."""
    rng = np.random.default_rng(seed + 1)
    rows = centres[rng.integers(len(centres), size=n)]
    rows += 0.8 * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


CHECKS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "pipeline": pipeline,
    "ten-million": ten_million,
    "lance": lance,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--only", choices=list(CHECKS), help="one of them (default: all)")
    parser.add_argument("--folder", type=Path, help="where to put, and leave, what is made (default: a temporary one)")
    chosen = parser.parse_args(arguments)
    path = FIGURES / "load.csv"
    kept: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            kept = list(csv.DictReader(file))
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        for name in [chosen.only] if chosen.only else CHECKS:
            lines = [{"check": name, **line} for line in CHECKS[name](folder)]
            kept = [line for line in kept if line["check"] != name] + lines
            with replacing(path, "w") as file:
                writer = csv.DictWriter(
                    file,
                    [key for key in kept[0] if key not in ("must be", "reached", "lowest", "highest", "rounds")],
                    lineterminator="\n",
                    extrasaction="ignore",
                )
                writer.writeheader()
                writer.writerows(kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
