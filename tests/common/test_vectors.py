"""Descriptors are checked where they enter."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from metlib.common import vectors
from metlib.common.vectors import as_rows, unit


def test_float32_rows_pass_without_a_copy() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert np.shares_memory(as_rows(rows), rows)


def test_a_memory_map_is_neither_copied_nor_read_into_large_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((20_000, 64), np.float32))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    tracemalloc.start()
    rows = as_rows(mapped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(rows, mapped)
    assert peak < 20_000 * 64  # bytes: a quarter of what a copy would take


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8])
def test_other_numbers_become_contiguous_float32(dtype: type) -> None:
    rows = as_rows(np.arange(1, 7).reshape(3, 2).T.astype(dtype))
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert rows.tolist() == [[1, 3, 5], [2, 4, 6]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1.0, 2.0], r"\(2,\)"),
        (np.zeros((0, 4)), r"\(0, 4\)"),
        (np.zeros((4, 0)), r"\(4, 0\)"),
        (np.ones((2, 2, 2)), r"\(2, 2, 2\)"),
        ([["a", "b"]], r"numbers.*<U1"),
        ([[True, False]], r"numbers.*bool"),
        ([[1j]], r"numbers.*complex"),
        ([[1, 2], [0, 0], [0, 0]], r"row 1 is zero \(2 such rows\); leave these images out"),
        ([[1, 2], [3, np.nan]], r"row 1 is NaN"),
        ([[np.inf, 2]], r"row 0 is NaN or infinite"),
        ([[1e300, 2]], r"row 0 is NaN or infinite"),
        ([[1e-30, 1e-30]], r"row 0 is out of float32's range"),
        ([[1e30, 1e30]], r"row 0 is out of float32's range"),
    ],
)
def test_what_is_no_descriptor_is_refused_by_name_and_row(rows: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        as_rows(rows, "query descriptors")
    assert str(caught.value).startswith("query descriptors")


def test_unit_divides_each_row_by_its_own_norm() -> None:
    rows = unit(np.array([[3, 4], [0, -2]], np.float32))  # two rows: one norm for both would show
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, -1]], rtol=1e-6)
    assert rows.dtype == np.float32


def test_a_row_without_direction_is_refused_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"row 1 is zero"):
        unit(np.array([[3, 4], [0, 0]], np.float32))
    monkeypatch.setattr(vectors, "_NUMBERS", 6)  # three rows at a time
    with pytest.raises(ValueError, match=r"row 7 is zero"):
        unit(np.array([[3, 4]] * 7 + [[0, 0]] * 2, np.float32))


def test_unit_makes_one_array_or_none() -> None:
    rows = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    expected = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    before = rows.copy()
    tracemalloc.start()
    made = unit(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.9 * rows.nbytes
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(rows, before)
    assert unit(rows, out=rows) is rows
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("n", "step", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2]), (2, 0, [1, 1]), (0, 3, [])]
)
def test_slices_cover_every_row_once(n: int, step: int, sizes: list[int]) -> None:
    rows = np.arange(n)
    parts = [rows[part] for part in vectors.slices(n, step)]
    assert [len(part) for part in parts] == sizes
    assert [row for part in parts for row in part] == rows.tolist()
