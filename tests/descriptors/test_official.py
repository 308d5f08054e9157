"""The authors' pickle in and out, and pickles that want to do more."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metlib.descriptors import read_official, write_official

# --- what is written -------------------------------------------------------------------------------------------------


def test_what_we_write_names_numpy_as_every_version_does(tmp_path: Path) -> None:
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.asfortranarray(np.ones((3, 2), np.float64))}
    data = write_official(tmp_path / "x.pkl", arrays).read_bytes()
    opcodes = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data)]
    assert opcodes[0] == ("PROTO", 4) and opcodes[1][0] == "FRAME"
    assert [argument for name, argument in opcodes if name == "GLOBAL"] == ["numpy.core.multiarray _reconstruct"]
    texts = [argument for name, argument in opcodes if "UNICODE" in name]
    assert texts == ["a", "numpy", "ndarray", "dtype", "f4", "<", "b"]  # what comes again is from the memo
    assert b"_core" not in data
    assert read_official(tmp_path / "x.pkl")["b"].dtype == np.float32


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write_official(tmp_path / "x.pkl", {"a": np.ones((2, 3))})
    before = path.read_bytes()
    bad: dict[str, Mapping[Any, Any]] = {
        "row 1 is NaN": {"a": np.array([[1.0], [np.nan]])},
        "row 0 is zero": {"a": np.zeros((2, 2))},
        "must be .N, D.": {"a": np.ones(3)},
        "expected arrays by name": {},
        r"got \[3\]": {3: np.ones((2, 2))},
    }
    for message, arrays in bad.items():
        with pytest.raises(ValueError, match=message):
            write_official(path, arrays)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# --- pickles that want to do more ------------------------------------------------------------------------------------


def official(dtype: str = "<f4") -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    sizes = {"train_descriptors": 5, "val_descriptors": 3, "test_descriptors": 4}
    return {name: generator.normal(size=(n, 6)).astype(dtype) for name, n in sizes.items()}


def write(tmp_path: Path, content: Any, protocol: int = 4) -> Path:
    path = tmp_path / "descriptors.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_the_authors_arrays_come_back(protocol: int, dtype: str, tmp_path: Path) -> None:
    content = official(dtype)
    content["val_descriptors"] = np.asfortranarray(content["val_descriptors"])
    content["test_descriptors"] = content["test_descriptors"][::2]
    read = read_official(write(tmp_path, content, protocol))
    assert list(read) == list(content)
    for name, array in read.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
        np.testing.assert_array_equal(array, content[name].astype(np.float32))


@pytest.mark.parametrize("protocol", [0, 2])
def test_files_of_either_numpy_are_read(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps(official(), protocol)
    old, new = (data.replace(b"numpy._core", b"numpy.core"), data.replace(b"numpy.core", b"numpy._core"))
    assert old != new or np.__version__ < "2"
    for version in (old, new):
        np.testing.assert_array_equal(
            read_official(write(tmp_path, version))["val_descriptors"], official()["val_descriptors"]
        )


class Calls:
    """Pickles as a call of anything with anything, and then a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.how = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.how


RECONSTRUCT = np.zeros(1).__reduce__()[0]
FROMBUFFER = np.zeros(1).__reduce_ex__(5)[0]
F4 = np.dtype("<f4")


def array_of(*state: Any) -> Calls:
    return Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


def wild() -> Calls:
    """Two made-up pointers as Python objects, which numpy's own __setstate__ accepts."""
    objects = Calls(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0))
    return array_of(1, (2,), objects, False, b"\x41" * 16)


def hostile(marker: str) -> dict[str, Any]:
    touch = f"open({marker!r}, 'w').close()"
    rows = b"\0" * 16
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, touch),
        "exec nested": {"train_descriptors": [({"x": Calls(exec, touch)},)]},
        "subprocess": Calls(subprocess.Popen, ["touch", marker]),
        "open": Calls(io.open, marker, "w"),
        "as a state": Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=Calls(eval, touch)),
        "as an argument": Calls(np.dtype, Calls(eval, touch), False, True),
        "numpy.load": f"cnumpy\nload\n(V{marker}\ntR.".encode(),
        "numpy.save": b"cnumpy\nsave\n(V" + marker.encode() + b"\nI1\ntR.",
        "numpy file": b"cnumpy\nndarray.tofile\n(V" + marker.encode() + b"\ntR.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len("touch " + marker)])
        + f"touch {marker}".encode() + b"\x85R.",
        "inst": f"(S'touch {marker}'\nios\nsystem\n.".encode(),
        "runpy": b"crunpy\nrun_path\n(Vx.py\ntR.",
        "objects": {"x": np.array([[1, "a"]], dtype=object)},
        "records": {"x": np.zeros((2, 2), dtype=[("a", "f4")])},
        "texts": {"x": np.array([["a"]])},
        "integers": {"x": np.zeros((2, 2), dtype=int)},
        "1-D": {"x": np.zeros(3, dtype=np.float32)},
        "3-D": {"x": np.zeros((3, 3, 3), dtype=np.float32)},
        "scalar": {"x": np.float32(3)},
        "list": [np.zeros((2, 2), dtype=np.float32)],
        "array": np.zeros((2, 2), dtype=np.float32),
        "number": {"x": 3},
        "dtype": {"x": F4},
        "bytes": {"x": b"abc"},
        "key": {3: np.zeros((2, 2), dtype=np.float32)},
        "nothing": {},
        "huge shape": {"x": array_of(1, (2**40, 2**20), F4, False, rows)},
        "overflowing shape": {"x": array_of(1, (2**62, 4), F4, False, rows)},
        "negative shape": {"x": array_of(1, (-1, 2), F4, False, rows)},
        "no values": {"x": Calls(RECONSTRUCT, np.ndarray, (0,), b"b")},
        "huge ndarray": {"x": Calls(np.ndarray, (2**20, 2**20))},
        "ndarray": {"x": Calls(np.ndarray, (2, 2))},
        "huge buffer": {"x": Calls(FROMBUFFER, rows, F4, (2**40, 4), "C")},
        "text buffer": {"x": Calls(FROMBUFFER, "0000", F4, (1, 1), "C")},
        "order": {"x": Calls(FROMBUFFER, rows, F4, (2, 2), "X")},
        "pointers": {"x": wild()},
        "pointers followed": {"x": Calls(FROMBUFFER, b"1234", np.dtype("u1"), wild(), "C")},
        "dtype state": {"x": array_of(1, (2, 2), Calls(np.dtype, "f4", False, True, state=(3, 5, 5, 5)), False, rows)},
        "codec": {"x": b"c_codecs\nencode\n(Vabc\nVzip\ntR."},
        "raw codec": b"c_codecs\nencode\n(Vabc\nVzip\ntR.",
        "codec of a kind": b"c_codecs\nencode\n(I3\nVlatin1\ntR.",
        "state of a function": b"c_codecs\nencode\n}S'__globals__'\nI1\nsb.",
        "slots of a function": b"c_codecs\nencode\n(N}S'__defaults__'\n)stb.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pabc\n.",
        "deep": b"(" * 200_000 + b"t" * 200_000 + b".",
        "empty": b"",
        "garbage": b"\x00\xff garbage",
        "torch": b"\x80\x02ctorch._utils\n_rebuild_tensor\n(tR.",
        "truncated": pickle.dumps(official(), 4)[:-50],
        "cut short": pickle.dumps(official(), 2)[:40],
        "long": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"abc.",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", hostile("/marker"))
def test_a_hostile_or_damaged_pickle_runs_nothing(case: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = hostile(str(marker))[case]
    for protocol in (2, 4, 5):
        with pytest.raises(ValueError, match=r"descriptors\.pkl"):
            read_official(write(tmp_path, content, protocol))
    time.sleep(0.05 if case == "subprocess" else 0)
    assert [p.name for p in tmp_path.iterdir()] == ["descriptors.pkl"]
    read_official(write(tmp_path, official()))  # and it left nothing changed behind


def test_a_missing_pickle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        read_official(tmp_path / "none.pkl")
