"""Search at scale in LanceDB: descriptors as a table on disk, `knn.Neighbours` out, exact or through an index.

The index is IVF-PQ: rows are parted by the nearest of some centres and kept as short codes. A query takes the nearest
codes of a few partitions, and their rows are measured again by their true descriptors.
Source: Jégou et al., Product Quantization for Nearest Neighbor Search, TPAMI 2011 (IVFADC).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metlib import knn
from metlib.common.checks import check_integer
from metlib.common.files import sync_folder
from metlib.common.vectors import as_rows, slices
from metlib.descriptors import load_descriptors
from metlib.knn import Neighbours

try:
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfPq
    from lancedb.table import Table
except ImportError as error:
    raise ModuleNotFoundError(f"no LanceDB ({error}): pip install -e '.[scale]' in the project's folder") from error

_TABLE = "descriptors"
_MEMORY = 2**27  # bytes of descriptors in memory at once
_BATCH = 2**23  # bytes that LanceDB is given at once: four times as many took longer to write
_CENTRES = 256  # of a code's byte; and the rows that LanceDB's k-means wants for each partition
_ITERATIONS = 15  # of k-means: LanceDB's own 50 took twice as long to build, for the same recall


def write_table(descriptors: ArrayLike | str | Path, folder: str | Path) -> Path:
    """Write descriptors as a LanceDB table with the columns `row` (int64) and `vector` (D float32); gives `folder`.

    `descriptors` (N, D) have L2-normalised rows: an array, a memory map (read in blocks), or the path of a
    `descriptors.npy` or of its folder. The table appears whole or not at all, and replaces an older one and its index.
    Raises ValueError for rows that are NaN, infinite, zero or of another norm than 1 (to 0.001) and for a damaged file;
    FileExistsError where `folder` holds anything but such a table; OSError where LanceDB can't write.
    """
    in_file = isinstance(descriptors, str | Path)
    rows = load_descriptors(str(descriptors), mapped=True) if in_file else np.asarray(descriptors)
    folder = Path(folder).resolve()
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"descriptors must be (N, D) with rows as vectors and N, D > 0, got shape {rows.shape}")
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= {f"{_TABLE}.lance"}):
        raise FileExistsError(f"{folder} holds something else than a table of descriptors: name another folder")
    blocks = list(slices(len(rows), _BATCH // (4 * rows.shape[1])))
    for block in blocks:  # first, since LanceDB would hide these errors within its own
        name = f"descriptors[{block.start}:{min(block.stop, len(rows))}]"
        norms = np.linalg.norm(as_rows(rows[block], name), axis=1)
        far = np.flatnonzero(np.abs(norms - 1) > 1e-3)
        if len(far):
            row = f"{name}: row {far[0]} has norm {norms[far[0]]:.4g} ({len(far)} such rows)"
            raise ValueError(f"{row}, expected 1: metlib.common.vectors.unit divides rows by their norms")
    vector = pa.list_(pa.float32(), rows.shape[1])
    schema = pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("vector", vector, nullable=False)])

    def batches() -> Iterator[pa.RecordBatch]:
        for block in blocks:
            part = np.ascontiguousarray(rows[block], np.float32)
            values, numbers = pa.array(part.reshape(-1)), pa.array(np.arange(block.start, block.start + len(part)))
            yield pa.record_batch([numbers, pa.FixedSizeListArray.from_arrays(values, type=vector)], schema=schema)

    with _replacing(folder) as unfinished, _explained(folder):
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        lancedb.connect(unfinished).create_table(_TABLE, reader)
    return folder


def build_index(folder: str | Path, *, partitions: int | None = None, subvectors: int | None = None) -> Path:
    """Build, or replace, the IVF-PQ index of a table that `write_table` made; gives `folder`.

    `partitions` (1 to N / 256) are one for every 4,096 rows by default. `subvectors`, which divide D, are the bytes of
    a row's code; by default each stands for 4 dimensions or the next fewer that divide D. LanceDB's k-means takes no
    seed: two builds find slightly different neighbours. Raises FileNotFoundError where there is no table; ValueError
    for fewer than 256 rows and for numbers that don't fit; OSError where LanceDB can't write.
    """
    table, n, D = _open(folder)
    if n < _CENTRES:
        raise ValueError(f"{folder} has {n} rows, an index needs {_CENTRES} at least: search with exact=True")
    partitions = max(n // 4096, 1) if partitions is None else partitions
    if subvectors is None:
        subvectors = next(m for m in range(1, D + 1) if D % m == 0 and 4 * m >= D)
    check_integer("partitions", partitions, 1, n // _CENTRES, f"{n // _CENTRES}, one for {_CENTRES} of the {n} rows")
    if not isinstance(subvectors, int | np.integer) or subvectors < 1 or D % subvectors:
        raise ValueError(f"subvectors must be an integer that divides {D} dimensions, got {subvectors!r}")
    with _explained(folder):
        # Of L2-normalised rows, cosine orders as the inner product does. LanceDB's "dot" parts them worse.
        counts: dict[str, Any] = {"num_partitions": int(partitions), "num_sub_vectors": int(subvectors)}
        table.create_index("vector", config=IvfPq(distance_type="cosine", max_iterations=_ITERATIONS, **counts))
        # An index before this one, or half of one. (LanceDB's optimize would do it, and join small partitions.)
        kept = {index.index_uuid for index in table.list_indices()}
    for index in (Path(folder) / f"{_TABLE}.lance" / "_indices").iterdir():
        if index.name not in kept:
            shutil.rmtree(index)
    return Path(folder)


def search(
    folder: str | Path, queries: ArrayLike, k: int, *, exact: bool = False, probes: int = 32, refine: int = 8
) -> Neighbours:
    """Find the k rows of a table of largest inner product with each of `queries` (Q, D), as `knn.search` would.

    With `exact`, they are what `knn.search` finds, and the table is read once for all queries. Otherwise the index is
    asked: of the `probes` partitions nearest to a query, the k·`refine` rows of the nearest codes are measured again,
    and the k best of these are given. On a million clustered rows of 128 dimensions, k 50, the defaults found 0.975 of
    the exact neighbours; one query was answered 30 times sooner than exactly, a thousand at once no sooner.
    Similarities are true inner products, summed in float64 and rounded to float32; ties come in row order; indices are
    the rows of the descriptors written. Raises FileNotFoundError for no table; ValueError for no index, NaN, infinite
    or zero queries, other D, k outside 1..N, and probes or refine below 1; OSError where LanceDB can't read.
    """
    table, n, D = _open(folder)
    queries = as_rows(queries, "query descriptors")
    if queries.shape[1] != D:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the table {D}: describe both alike")
    check_integer("k", k, 1, n, f"{n}, the rows of the table")
    check_integer("probes", probes, 1)
    check_integer("refine", refine, 1)
    with _explained(folder):
        if exact:
            return _scan(table, queries, int(k))
        if not table.list_indices():
            raise ValueError(f"{folder} has no index: build_index makes it, or search with exact=True")
        wanted = min(int(k * refine), n)
        blocks = slices(len(queries), _MEMORY // (4 * D * wanted))
        found = [_probe(table, queries[block], int(k), wanted, int(probes)) for block in blocks]
    return Neighbours(np.vstack([near.similarities for near in found]), np.vstack([near.indices for near in found]))


def recall(found: Neighbours, exact: Neighbours) -> float:
    """The share of the exact k nearest that were found, 0 to 1, a mean over queries; both of one shape (Q, k).

    A row as similar as the exact k-th counts, whichever of equal rows it is. Raises ValueError for other shapes.
    """
    if found.indices.shape != exact.indices.shape:
        shapes = f"found is {found.indices.shape}, exact {exact.indices.shape}"
        raise ValueError(f"{shapes}: search both for the same queries and k")
    return float((found.similarities >= exact.similarities[:, -1:]).mean())


def _scan(table: Table, queries: NDArray[np.float32], k: int) -> Neighbours:
    """The k nearest of every row: each block's own k nearest, and the best of these."""
    similarities, indices = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for block in slices(table.count_rows(), _MEMORY // (4 * queries.shape[1])):
        start, step = block.start, block.stop - block.start
        read = table.search().select(["row", "vector"]).offset(start).limit(step).to_arrow()
        near = knn.search(_vectors(read, np.arange(start, start + len(read))), queries, min(k, len(read)))
        both = np.hstack([similarities, near.similarities]), np.hstack([indices, near.indices + start])
        best = np.argsort(-both[0], axis=1, kind="stable")[:, :k]  # stable: of equal ones, earlier rows first
        similarities, indices = (np.take_along_axis(part, best, axis=1) for part in both)
    return Neighbours(similarities, indices)


def _probe(table: Table, queries: NDArray[np.float32], k: int, wanted: int, probes: int) -> Neighbours:
    """The k nearest of the candidates that the index names, by their true inner products."""
    asked, rows = _candidates(table, queries, wanted, probes)
    short = np.flatnonzero(np.bincount(asked, minlength=len(queries)) < k)
    if len(short):  # small partitions: these queries look into all of them
        again, more = _candidates(table, queries[short], wanted, table.count_rows())
        keep = ~np.isin(asked, short)
        asked, rows = np.concatenate([asked[keep], short[again]]), np.concatenate([rows[keep], more])
    order = np.lexsort((rows, asked))  # each query's candidates in row order, so that ties come in it
    distinct, places = np.unique(rows[order], return_inverse=True)  # many queries share candidates: read them once
    vectors = _vectors(table.take_offsets(distinct.tolist()).select(["row", "vector"]).to_arrow(), distinct)
    similarities, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    ends = np.cumsum(np.bincount(asked, minlength=len(queries)))
    for query, own in enumerate(np.split(places, ends[:-1])):
        near = knn.search(vectors[own], queries[query : query + 1], k)
        similarities[query], indices[query] = near.similarities[0], distinct[own[near.indices[0]]]
    return Neighbours(similarities, indices)


def _candidates(
    table: Table, queries: NDArray[np.float32], wanted: int, probes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of nearest codes among the partitions probed: which query each is for, and its number; both (C,)."""
    # LanceDB's own refine_factor reads the vectors for one query after the other, which takes several times longer.
    asking: Any = table.search(queries)
    found = asking.distance_type("cosine").nprobes(probes).limit(wanted).select(["row", "_distance"]).to_arrow()
    alone = len(queries) == 1  # then LanceDB doesn't number it
    asked = np.zeros(len(found)) if alone else found["query_index"].to_numpy()
    return asked.astype(np.int64), found["row"].to_numpy()


def _vectors(read: pa.Table, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The descriptors (n, D) in what was read, which must be these rows (n,) in this order."""
    if not np.array_equal(read["row"].to_numpy(), rows):
        raise ValueError("the table's rows aren't numbered in order: something else has changed it, write_table again")
    vector = read["vector"].combine_chunks()
    return vector.flatten().to_numpy().reshape(-1, vector.type.list_size)


def _open(folder: str | Path) -> tuple[Table, int, int]:
    """A table as `write_table` makes it, with its N and D."""
    folder = Path(folder).resolve()
    if not (folder / f"{_TABLE}.lance").is_dir():
        raise FileNotFoundError(f"no table of descriptors in {folder}: write_table makes it")
    with _explained(folder):
        table = lancedb.connect(folder).open_table(_TABLE)
        n = table.count_rows()
    kinds = {field.name: field.type for field in table.schema}
    D = getattr(kinds.get("vector"), "list_size", 0)
    if not (n and D and kinds == {"row": pa.int64(), "vector": pa.list_(pa.float32(), D)}):
        raise ValueError(f"{folder} isn't a table of descriptors ({n} rows, {kinds}): write_table makes one")
    return table, n, D


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its name only when the block ends well."""
    unfinished, old = (folder.with_name(f".{folder.name}.{state}") for state in ("unfinished", "old"))
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for path in filter(Path.is_file, unfinished.rglob("*")):
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        unfinished.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _explained(folder: str | Path) -> Iterator[None]:
    """Turn LanceDB's errors, RuntimeErrors with places in its source, into OSErrors with the way out."""
    try:
        yield
    except RuntimeError as error:
        full = "No space left" in str(error)
        way_out = "free some space and run again" if full else "if the table is damaged, write_table makes it anew"
        raise OSError(f"{folder}: LanceDB can't go on ({error}); {way_out}") from error
