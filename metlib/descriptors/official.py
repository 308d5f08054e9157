"""The Met authors' `descriptors.pkl`, in and out: nothing in such a file is executed."""

import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metlib.common.files import replacing
from metlib.common.vectors import as_rows

OFFICIAL = {"database": "train_descriptors", "val": "val_descriptors", "test": "test_descriptors"}
"""What the authors' file calls the descriptors of each split."""


def read_official(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """Read the Met authors' `descriptors.pkl`: `{"train_descriptors": (N, D), "val_...", "test_..."}`, float32.

    The unpickler admits numpy arrays only, so nothing in the file is executed. Rows stay as they are. Raises ValueError
    for a file that is damaged, asks for anything else, or isn't a dict of float (N, D) arrays.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            content = _ArraysOnly(file).load()
        except Exception as error:  # a damaged pickle can make the machine raise anything
            raise ValueError(f"{path} can't be read as the authors' descriptors: {error}") from error
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path}: expected a dict of arrays by name, got {type(content).__name__}")
    arrays = {key: value.values if isinstance(value, _Array) else None for key, value in content.items()}
    for key, values in arrays.items():
        if values is None or values.ndim != 2:
            got = type(content[key]).__name__ if values is None else f"shape {values.shape}"
            raise ValueError(f"{path}: {key!r} must be a float array (N, D), got {got}")
    return {key: np.array(values, dtype=np.float32, order="C") for key, values in arrays.items()}


def write_official(path: str | Path, descriptors: Any) -> Path:
    """Write the Met authors' `descriptors.pkl`, whole or not at all, and give its path.

    `descriptors` is a `Described`, or arrays (N, D) by name as `read_official` gives them; they are written as float32.
    `pickle.load` reads the file under old and new numpy. Raises ValueError for no arrays, names that are no texts, and
    rows that are NaN, infinite or zero.
    """
    if not isinstance(descriptors, Mapping):
        descriptors = {key: getattr(descriptors, name) for name, key in OFFICIAL.items()}
    if not descriptors or not all(isinstance(key, str) for key in descriptors):
        raise ValueError(f"expected arrays by name ({', '.join(OFFICIAL.values())}), got {list(descriptors)!r}")
    with replacing(path) as file:
        # Protocol 4, which arrays above 4 GiB need.
        _ForAnyNumpy(file, protocol=4).dump({key: as_rows(array, key) for key, array in descriptors.items()})
    return Path(path)


_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_PythonPickler: Any = pickle._Pickler  # pickle's C version has no `save_global` to override


class _ForAnyNumpy(_PythonPickler):
    """A pickler that calls numpy by the name that every version knows: before 1.26 there is no `numpy._core`."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj is _RECONSTRUCT:
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")  # the opcode GLOBAL
            self.memoize(obj)
        else:
            super().save_global(obj, name)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build dicts, lists, strings, numbers and numpy arrays of floats, and runs no other code.

    The classes below do numpy's part: numpy's own `__setstate__` trusts its input, and a dtype of objects with its
    flags cleared makes it follow pointers that the file made up.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Admitted(lambda kind, shape, code: _Array())
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":  # protocol 5
            return _Admitted(lambda data, dtype, shape, order: _Array(_build_array(data, dtype, shape, order)))
        if (module, name) == ("numpy", "dtype"):
            return _Admitted(lambda code, align, copy: _Dtype(code))
        if (module, name) == ("numpy", "ndarray"):
            return None  # only ever named as the kind to rebuild; as a callable it could ask for any size
        if (module, name) == ("_codecs", "encode"):  # how protocols 0 to 2 store bytes
            return _Admitted(_latin1)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only numpy arrays are admitted")


class _Admitted:
    """A call that a pickle may make; one object for each, so that nothing in a pickle can alter this module."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets the state of a function")


class _Dtype:
    """A dtype as a pickle states it: floats of 2, 4 or 8 bytes, in one byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        if code not in ("f2", "f4", "f8"):
            raise pickle.UnpicklingError(f"it holds values of type {code!r}, expected floats (f2, f4 or f8)")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"it holds a damaged dtype {state!r}")
        self.order = ">" if state[1] == ">" else "<"


class _Array:
    """An array as a pickle states it, made of its bytes with every length checked."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any] | None = None) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        self.values = _build_array(data, dtype, shape, "F" if fortran else "C")


def _build_array(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    plain = isinstance(data, bytes | bytearray) and isinstance(dtype, _Dtype) and order in ("C", "F")
    if not plain or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("it holds an array in another form than numpy writes it")
    values = np.frombuffer(data, dtype=dtype.order + dtype.code)
    if math.prod(shape) != values.size:
        raise pickle.UnpicklingError(f"it holds an array of shape {shape}, but {values.size} values for it")
    return values.reshape(shape, order=order)


def _latin1(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}, and only numpy arrays are admitted")
    return text.encode("latin1")
