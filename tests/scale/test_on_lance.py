"""Search in a table on disk against the search in memory, which has its own naive twin."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from metlib import knn
from metlib.knn import Neighbours

pytest.importorskip("lancedb")

from metlib.scale import on_lance
from metlib.scale.on_lance import build_index, recall, search, write_table


def unit_rows(n: int, D: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(n, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def with_twins(n: int, D: int) -> NDArray[np.float32]:
    """Rows of which many come twice, some three times, far from each other."""
    rows = unit_rows(n, D)
    rows[n // 2 : n // 2 + n // 4] = rows[: n // 4]
    rows[-5:] = rows[:5]
    return rows


def same(a: Neighbours, b: Neighbours) -> bool:
    return np.array_equal(a.indices, b.indices) and np.array_equal(a.similarities, b.similarities)


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return with_twins(3000, 24)


@pytest.fixture(scope="module")
def queries(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Some of their own, some of rows that have twins; not all of norm 1."""
    return np.vstack([unit_rows(20, 24, seed=1), rows[:8], 3 * rows[8:12]])


@pytest.fixture(scope="module")
def table(rows: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with an index of 8 partitions."""
    return build_index(write_table(rows, tmp_path_factory.mktemp("lance") / "table"), partitions=8)


# ---- exact ----


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 50, 3000])
@pytest.mark.parametrize("block", [211, 1000, 2**20])
def test_exact_search_is_the_search_in_memory(
    table: Path, rows: NDArray[np.float32], queries: NDArray[np.float32], k: int, block: int, monkeypatch
) -> None:
    monkeypatch.setattr(on_lance, "_MEMORY", block * 24 * 4)
    assert same(search(table, queries, k, exact=True), knn.search(rows, queries, k))


def test_an_array_a_memory_map_a_file_and_its_folder_make_the_same_table(tmp_path: Path) -> None:
    rows, queries = unit_rows(300, 5), unit_rows(4, 5, seed=1)
    np.save(tmp_path / "descriptors.npy", rows)
    mapped = np.load(tmp_path / "descriptors.npy", mmap_mode="r")
    for number, source in enumerate(
        (rows, mapped, tmp_path / "descriptors.npy", str(tmp_path), np.asfortranarray(rows))
    ):
        table = write_table(source, tmp_path / f"table {number} #%20é")
        assert same(search(table, queries, 9, exact=True), knn.search(rows, queries, 9))


def test_rows_in_other_types_become_float32(tmp_path: Path) -> None:
    rows = unit_rows(300, 5).astype(np.float16)
    found = search(write_table(rows, tmp_path / "table"), unit_rows(3, 5), 4, exact=True)
    assert same(found, knn.search(rows.astype(np.float32), unit_rows(3, 5), 4))


def test_a_table_may_be_moved(tmp_path: Path) -> None:
    rows = unit_rows(600, 4)
    table = build_index(write_table(rows, tmp_path / "here"))
    moved = table.rename(tmp_path / "there")
    assert same(search(moved, rows[:3], 5, probes=1, refine=120), knn.search(rows, rows[:3], 5))


# ---- through the index ----


def test_all_partitions_and_all_candidates_are_the_exact_search(
    table: Path, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    assert same(search(table, queries, 30, probes=8, refine=100), knn.search(rows, queries, 30))


@pytest.mark.parametrize(("probes", "refine"), [(1, 1), (1, 4), (3, 8)])
def test_what_is_found_is_measured_truly_and_sorted(
    table: Path, rows: NDArray[np.float32], queries: NDArray[np.float32], probes: int, refine: int
) -> None:
    found = search(table, queries, 25, probes=probes, refine=refine)
    everything = knn.search(rows, queries, len(rows))
    place = np.argsort(everything.indices, axis=1)  # where each row of the database comes in the whole order
    places = np.take_along_axis(place, found.indices, axis=1)
    assert np.array_equal(np.take_along_axis(everything.similarities, places, axis=1), found.similarities)
    assert (np.diff(places, axis=1) > 0).all()  # descending, ties in row order, no row twice


def test_more_probes_and_more_candidates_find_more(
    table: Path, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    exact = knn.search(rows, queries, 10)
    least, probed, refined = (
        recall(search(table, queries, 10, probes=probes, refine=refine), exact)
        for probes, refine in ((1, 1), (8, 1), (8, 50))
    )
    assert 0.05 < least < probed < refined == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_a_query_is_answered_alike_alone_and_in_company(
    table: Path, queries: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = search(table, queries, 10, probes=2)
    alone = [search(table, query[None], 10, probes=2) for query in queries]
    assert np.array_equal(np.vstack([one.indices for one in alone]), together.indices)
    monkeypatch.setattr(on_lance, "_MEMORY", 24 * 4 * 10 * 8 * 5)  # five queries at once
    assert same(search(table, queries, 10, probes=2), together)


@pytest.mark.slow
def test_partitions_smaller_than_k_are_filled_from_the_others(
    table: Path, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    found = search(table, queries, 1200, probes=1, refine=3)
    assert same(found, knn.search(rows, queries, 1200))  # 3,000 candidates: all


@pytest.mark.slow
def test_an_index_has_the_partitions_asked_for(tmp_path: Path) -> None:
    """LanceDB may join small ones (its `optimize` does), and then every query reads everything."""
    table = build_index(write_table(unit_rows(3000, 24), tmp_path / "table"), partitions=8)
    opened, n, _ = on_lance._open(table)
    asked, _ = on_lance._candidates(opened, unit_rows(5, 24, seed=1), n, 1)
    assert (np.bincount(asked) < n / 2).all()


@pytest.mark.slow
def test_a_new_index_replaces_the_old_one(tmp_path: Path) -> None:
    rows, queries = unit_rows(1200, 8), unit_rows(5, 8, seed=1)
    table = build_index(write_table(rows, tmp_path / "table"))
    indices = table / "descriptors.lance" / "_indices"
    (indices / "half of one").mkdir()
    before = {path.name for path in indices.iterdir()}
    build_index(table, partitions=4, subvectors=8)
    after = {path.name for path in indices.iterdir()}
    assert len(after) == 1 and not after & before
    assert same(search(table, queries, 5, refine=300), knn.search(rows, queries, 5))


@pytest.mark.parametrize("D", [1, 2, 7, 9, 34])
def test_every_dimension_has_a_default_of_subvectors(D: int, tmp_path: Path) -> None:
    rows = unit_rows(400, D)
    table = build_index(write_table(rows, tmp_path / "table"))
    found = search(table, rows[:5], 3, refine=200)
    assert same(found, knn.search(rows, rows[:5], 3))


def test_found_neighbours_are_classified_like_exact_ones(
    table: Path, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    labels = np.arange(len(rows)) % 97
    found = search(table, queries, 10, probes=8, refine=100)
    exact = knn.search(rows, queries, 10)
    a, b = (knn.classify(near, labels, 5, 20.0) for near in (found, exact))
    assert np.array_equal(a.labels, b.labels) and np.array_equal(a.log_confidence, b.log_confidence)


# ---- recall ----


def test_recall_is_the_share_of_the_exact_ones_found() -> None:
    exact = Neighbours(np.array([[0.9, 0.8, 0.7], [0.5, 0.4, 0.3]]), np.array([[4, 2, 7], [1, 0, 3]]))
    found = Neighbours(np.array([[0.9, 0.7, 0.6], [0.3, 0.2, 0.1]]), np.array([[4, 7, 5], [3, 6, 5]]))
    assert recall(exact, exact) == 1
    assert recall(found, exact) == pytest.approx((2 + 1) / 6)


def test_of_equal_rows_any_counts() -> None:
    exact = Neighbours(np.array([[0.9, 0.7]]), np.array([[4, 2]]))
    assert recall(Neighbours(np.array([[0.9, 0.7]]), np.array([[4, 8]])), exact) == 1


def test_recall_against_sets() -> None:
    rows, queries = unit_rows(500, 8), unit_rows(30, 8, seed=1)
    kept = np.flatnonzero(np.arange(500) % 3)  # a search that never sees a third of the rows
    exact, seen = knn.search(rows, queries, 9), knn.search(rows[kept], queries, 9)
    found = Neighbours(seen.similarities, kept[seen.indices])
    shares = [len(set(a) & set(b)) / 9 for a, b in zip(found.indices.tolist(), exact.indices.tolist(), strict=True)]
    assert np.mean(shares) < 0.9
    assert recall(found, exact) == pytest.approx(np.mean(shares))


def test_recall_refuses_other_shapes() -> None:
    two, three = (Neighbours(np.zeros((1, k)), np.arange(k)[None]) for k in (2, 3))
    with pytest.raises(ValueError, match=r"found is \(1, 2\), exact \(1, 3\)"):
        recall(two, three)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (np.nan, r"descriptors\[200:300\]: row 50 is NaN"),
        (np.inf, r"row 50 is NaN or infinite"),
        (0.0, "row 50 is zero"),
        (
            2.0,
            r"descriptors\[200:300\]: row 50 has norm 4\.\d+ \(1 such rows\), expected 1: metlib.common.vectors.unit",
        ),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(
    spoil: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_lance, "_BATCH", 100 * 5 * 4)
    rows = unit_rows(300, 5)
    rows[250] = spoil
    with pytest.raises(ValueError, match=message):
        write_table(rows, tmp_path / "table")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,), (2, 2, 2)])
def test_arrays_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be \(N, D\)"):
        write_table(np.ones(shape, np.float32), tmp_path / "table")


def test_texts_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be numbers"):
        write_table(np.array([["a", "b"]]), tmp_path / "table")
    np.save(tmp_path / "descriptors.npy", unit_rows(300, 5))
    whole = (tmp_path / "descriptors.npy").read_bytes()
    for damaged in (b"", b"no array", whole[:-100], whole[:20]):
        (tmp_path / "descriptors.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"descriptors\.npy is damaged"):
            write_table(tmp_path, tmp_path / "table")
    np.save(tmp_path / "objects.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects\.npy is damaged"):
        write_table(tmp_path / "objects.npy", tmp_path / "table")
    with pytest.raises(FileNotFoundError):
        write_table(tmp_path / "nothing.npy", tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(FileExistsError, match="holds something else"):
            write_table(unit_rows(10, 4), tmp_path / name)
    assert (tmp_path / "full" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert write_table(unit_rows(10, 4), tmp_path / "empty") == tmp_path / "empty"


def test_a_table_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(300, 5)
    table = write_table(rows, tmp_path / "table")

    class Full:
        def __init__(self, folder: Path) -> None:
            (folder / "half").write_text("of it")

        def create_table(self, *_: object) -> None:
            raise RuntimeError(
                "lance error: LanceError(IO): No space left on device (os error 28), src/writer.rs:191:9"
            )

    with monkeypatch.context() as patch:
        patch.setattr(on_lance.lancedb, "connect", Full)
        with pytest.raises(OSError, match=r"table: LanceDB can't go on .*; free some space and run again"):
            write_table(unit_rows(300, 5, seed=1), table)
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    assert same(search(table, rows[:3], 5, exact=True), knn.search(rows, rows[:3], 5))


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    for left in (".table.unfinished", ".table.old"):
        (tmp_path / left / "descriptors.lance").mkdir(parents=True)
        (tmp_path / left / "descriptors.lance" / "half").write_text("of it")
    write_table(unit_rows(300, 5), tmp_path / "table")
    build_index(tmp_path / "table")
    rows = unit_rows(20, 3)  # other N and D; the index goes too
    table = write_table(rows, tmp_path / "table")
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    assert same(search(table, rows, 5, exact=True), knn.search(rows, rows, 5))
    with pytest.raises(ValueError, match="has no index: build_index makes it"):
        search(table, rows, 5)


def test_an_index_refuses_what_it_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="write_table makes it"):
        build_index(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    small = write_table(unit_rows(255, 8), tmp_path / "small")
    with pytest.raises(ValueError, match="has 255 rows, an index needs 256 at least: search with exact=True"):
        build_index(small)
    table = write_table(unit_rows(600, 8), tmp_path / "table")
    for partitions in (0, 3, -1, 1.5):
        with pytest.raises(ValueError, match=r"partitions must be an integer from 1 to 2, .* of the 600 rows"):
            build_index(table, partitions=partitions)
    for subvectors in (0, 3, -8, 2.0):
        with pytest.raises(ValueError, match="subvectors must be an integer that divides 8"):
            build_index(table, subvectors=subvectors)


@pytest.mark.parametrize("exact", [True, False])
def test_search_refuses_what_the_search_in_memory_refuses(table: Path, exact: bool) -> None:
    good = unit_rows(2, 24)
    for k in (0, 3001, 1.5, -1):
        with pytest.raises(ValueError, match="k must be an integer from 1 to 3000, the rows of the table"):
            search(table, good, k, exact=exact)
    with pytest.raises(ValueError, match="queries have 8 dimensions, the table 24"):
        search(table, unit_rows(2, 8), 1, exact=exact)
    for spoil in (np.nan, np.inf, 0):
        bad = good.copy()
        bad[1] = spoil
        with pytest.raises(ValueError, match="query descriptors: row 1"):
            search(table, bad, 1, exact=exact)
    with pytest.raises(ValueError, match="query descriptors"):
        search(table, good[0], 1, exact=exact)
    with pytest.raises(FileNotFoundError, match="no table of descriptors"):
        search(table.with_name("nothing"), good, 1, exact=exact)


def test_probes_and_refine_are_positive_integers(table: Path) -> None:
    for name in ("probes", "refine"):
        for value in (0, -1, 2.5, None):
            with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
                search(table, unit_rows(2, 24), 1, **{name: value})


def test_other_tables_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    import lancedb
    import pyarrow as pa

    lancedb.connect(tmp_path / "other").create_table("descriptors", pa.table({"name": ["a"], "vector": [[1.0, 0.0]]}))
    with pytest.raises(ValueError, match="isn't a table of descriptors"):
        search(tmp_path / "other", unit_rows(1, 2), 1, exact=True)
    rows = unit_rows(300, 5)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 5)
    shuffled = pa.table({"row": np.arange(300)[::-1], "vector": vectors})
    lancedb.connect(tmp_path / "shuffled").create_table("descriptors", shuffled)
    with pytest.raises(ValueError, match="aren't numbered in order"):
        search(tmp_path / "shuffled", rows, 1, exact=True)
    table = write_table(rows, tmp_path / "table")
    (data,) = (table / "descriptors.lance" / "data").iterdir()
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(OSError, match="if the table is damaged, write_table makes it anew"):
        search(table, rows, 1, exact=True)


@pytest.mark.slow
def test_without_lancedb_the_import_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    monkeypatch.delitem(sys.modules, "metlib.scale.on_lance")
    with pytest.raises(ImportError, match=r"pip install -e '\.\[scale\]'"):
        importlib.import_module("metlib.scale.on_lance")
