"""Descriptor sets: read, written in the Met authors' form, joined; from here on nothing needs an image or a network.

A set is `Described`: the descriptors of the three splits of a museum, row for row with its ground truth. It comes
from a folder that `extract.describe` left, or from the authors' `descriptors.pkl`.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metlib import dataset
from metlib.common.files import replacing, sha256
from metlib.common.vectors import as_rows, unit
from metlib.dataset import Museum, Split

OFFICIAL = {"database": "train_descriptors", "val": "val_descriptors", "test": "test_descriptors"}
"""What the authors' file calls the descriptors of each split."""

_MET_IMAGES = {"full": 397_121, "mini": 38_307}  # of the Met's own databases


@dataclass(frozen=True, eq=False)
class Described:
    """A museum with its descriptors: `database` (N, D), `val` and `test` (Q, D), float32 unit rows.

    `museum` lists the images that were described, row for row (without those that were skipped). `made_by` says, as
    far as it is known, what made them: `backbone` (its name), `weights` (their sha256, hexadecimal), `scales` (tuple
    of float) and `network` (its recipe as JSON). Raises ValueError for other lengths than the museum's, and where the
    three have different D.
    """

    museum: Museum
    database: NDArray[np.float32]
    val: NDArray[np.float32]
    test: NDArray[np.float32]
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split, name in self.museum.splits():
            rows = getattr(self, name)
            if len(rows) != len(split):
                raise ValueError(f"{name}: {len(rows)} descriptors but {len(split)} labels")
            if rows.shape[1:] != self.database.shape[1:]:
                raise ValueError(
                    f"{name} has descriptors of {rows.shape[1]} dimensions, the database of {self.database.shape[1]}: "
                    "describe all three splits alike"
                )


def read(path: str | Path, museum: Museum) -> Described:
    """Read the descriptors of a museum: the authors' `descriptors.pkl`, or a folder that `extract.describe` left.

    The folder is that of one backbone and its scales, with a folder for each split (`.../scales-1-0.707-0.5`). It may
    hold those of several lists of images (the full and the mini database): the museum's own are read, and its images
    that were skipped leave the museum too. Raises FileNotFoundError where there is nothing, or only other lists;
    ValueError for damaged files, descriptors of other images, or splits that were described differently.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, museum)
    if not path.exists():
        raise FileNotFoundError(f"no {path}: expected the authors' descriptors.pkl, or a folder of extract.describe")
    return from_official(path, museum)


def from_official(path: str | Path, museum: Museum) -> Described:
    """Read the authors' `descriptors.pkl` as the descriptors of a museum; nothing in it is executed.

    The file doesn't say what made it, so its own hash stands for the weights' in `made_by`.
    Rows stay as they are where they are unit (to 0.001, as float16 leaves them), and are made unit otherwise.
    Raises ValueError for a file that `read_official` refuses, without descriptors of the database, with another number
    of rows than the ground truth has images, with different D, or with rows that are NaN or zero.
    """
    arrays = read_official(path)
    missing = [key for key in OFFICIAL.values() if key not in arrays]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)} (found: {', '.join(arrays)}): nothing can be scored without the "
            "descriptors of all three splits; the authors' files of queries alone lack the database's"
        )
    for split, name in museum.splits():
        n = len(arrays[OFFICIAL[name]])
        if n != len(split):
            other = _other_database(museum, n) if name == "database" else None
            way_out = f"the {other} database has {n}: ask for {other!r}" if other else "name the one it was made of"
            raise ValueError(
                f"{path}: {OFFICIAL[name]} has {n} rows, but the ground truth of {museum.name} lists {len(split)} "
                f"{name} images ({museum.kind} database); {way_out}"
            )
    try:
        database, val, test = (_as_unit(arrays[key], key) for key in OFFICIAL.values())
        return Described(museum, database, val, test, made_by={"weights": sha256(path)})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _as_unit(array: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    rows = as_rows(array, name)
    return rows if np.allclose(np.linalg.norm(rows, axis=1), 1, rtol=0, atol=1e-3) else unit(rows)


def _other_database(museum: Museum, n: int) -> str | None:
    """The kind of database of n images that is meant instead, where one is known."""
    for kind in dataset.DATABASES:
        if kind != museum.kind:
            try:
                images = len(dataset.load(museum.root, kind).database)
            except (OSError, ValueError):  # it isn't there: ask the Met's own count
                images = _MET_IMAGES[kind]
            if images == n:
                return kind
    return None


def _read_folder(folder: Path, museum: Museum) -> Described:
    kept, arrays, made_by = {}, {}, {}
    for split, name in museum.splits():
        path = split_folder(folder, split, name)
        if not path.is_dir():
            others = sorted(other.name for other in folder.iterdir() if other.is_dir())
            raise FileNotFoundError(
                f"{folder} has no {path.name}, the {len(split)} {name} images of {museum.name} ({museum.kind} "
                f"database); it holds {', '.join(others) or 'no folder'}. Expected the folder that extract.describe "
                "left for one backbone and scales, of these very lists of images"
            )
        recipe = load_recipe(path)
        if recipe.get("images_sha256") != split.sha256:
            raise ValueError(f"{path} was made of other images than the {name} images of {museum.name}: describe them")
        made_by[name], skipped = _made_by(recipe, path)
        if any(made_by[name][key] != made_by["database"][key] for key in ("weights", "network", "scales")):
            raise ValueError(
                f"{path} was described with another network, weights or scales than the database beside it: "
                "describe all three splits alike"
            )
        arrays[name] = load_descriptors(path)
        kept[name] = split.take(np.array([p not in skipped for p in split.paths])) if skipped else split
    try:
        described = Museum(**kept, root=museum.root, name=museum.name, kind=museum.kind)
        return Described(described, **arrays, made_by=made_by["database"])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def split_folder(folder: Path, split: Split, name: str) -> Path:
    """Where in `folder` the descriptors of a split lie: its name, and the first digits of its list's hash."""
    return folder / f"{name}-{split.sha256[:8]}"


def _made_by(recipe: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], set[str]]:
    """What a recipe says of the network and scales, as in `Described.made_by`, and the images that were skipped."""
    try:
        made_by: dict[str, Any] = {
            "backbone": str(recipe["backbone"]),
            "weights": str(recipe["weights_sha256"]),
            "scales": tuple(float(scale) for scale in recipe["scales"]),
            "network": dict(recipe["network"]),
        }
        if recipe.get("precision", "float32") != "float32":  # other descriptors, so another network to a ledger
            made_by["network"] |= {"precision": str(recipe["precision"])}
        return made_by, set(recipe["skipped"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path / 'recipe.json'} is damaged ({error!r}): delete its folder to extract again") from None


def concatenate(sets: Sequence[Described]) -> Described:
    """Join descriptor sets of the same images along D: rows (N, D1 + D2 + ...), float32, unit.

    Each set's rows are made unit before, so that every set weighs the same. Whiten afterwards: the paper's ensembles
    keep 1,024 dimensions. Raises ValueError for no sets, and for two that list different images or labels, with the
    split and the first difference. Source: Ypsilantis et al., NeurIPS 2021 (its ensembles).
    """
    if not sets:
        raise ValueError("no descriptor sets to concatenate: give one or more")
    for number, other in enumerate(sets[1:], 2):
        _check_other_images(sets[0].museum, other.museum, number)
    arrays = {
        name: unit(np.hstack([unit(as_rows(getattr(one, name), f"{name} descriptors")) for one in sets]))
        for _, name in sets[0].museum.splits()
    }
    return Described(sets[0].museum, **arrays, made_by=_joined([one.made_by for one in sets]))


def _check_other_images(first: Museum, other: Museum, number: int) -> None:
    for (ours, name), (theirs, _) in zip(first.splits(), other.splits(), strict=True):
        if ours.sha256 == theirs.sha256:
            continue
        n = min(len(ours), len(theirs))
        different = (ours.paths[:n] != theirs.paths[:n]) | (ours.labels[:n] != theirs.labels[:n])
        row = int(different.argmax()) if different.any() else n
        says = [
            f"{str(split.paths[row])!r} (label {split.labels[row]})" if row < len(split) else f"no row {row}"
            for split in (ours, theirs)
        ]
        raise ValueError(
            f"descriptor sets 1 and {number} list different images: {name} row {row} is {says[0]} in the first, "
            f"{says[1]} in the other ({len(ours)} and {len(theirs)} images). Join sets of the same ground truth, from "
            "which the same images were skipped"
        )


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What made a concatenation: names and weights where all are known, scales and network where all agree."""
    joined: dict[str, Any] = {}
    for key, plus in (("backbone", " + "), ("weights", "+")):
        if all(key in part for part in parts):
            joined[key] = plus.join(part[key] for part in parts)
    for key in ("scales", "network"):
        if all(key in part and part[key] == parts[0][key] for part in parts):
            joined[key] = parts[0][key]
    return joined


def write_official(path: str | Path, descriptors: Described | Mapping[str, ArrayLike]) -> Path:
    """Write the Met authors' `descriptors.pkl`, whole or not at all, and give its path.

    `descriptors` is a `Described`, or arrays (N, D) by name as `read_official` gives them; float32 is what is written.
    Plain `pickle.load` reads the file under old and new numpy alike; pickle protocol 4, so that arrays may exceed
    4 GiB. Raises ValueError for no arrays, names that are no texts, and rows that are NaN, infinite or zero.
    """
    if isinstance(descriptors, Described):
        arrays: Mapping[str, ArrayLike] = {key: getattr(descriptors, name) for name, key in OFFICIAL.items()}
    else:
        arrays = descriptors
    if not arrays or not all(isinstance(key, str) for key in arrays):
        raise ValueError(f"expected arrays by name ({', '.join(OFFICIAL.values())}), got {list(arrays)!r}")
    with replacing(path) as file:
        _ForAnyNumpy(file, protocol=4).dump({key: as_rows(array, key) for key, array in arrays.items()})
    return Path(path)


_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_PythonPickler: Any = pickle._Pickler  # that of C can't be told which name to write


class _ForAnyNumpy(_PythonPickler):
    """A pickler that calls numpy by the name that every version knows: before 1.26 there is no `numpy._core`."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj is _RECONSTRUCT:
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")  # the opcode GLOBAL
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def load_descriptors(path: str | Path, *, mapped: bool = False) -> NDArray[np.float32]:
    """Read descriptors (N, D) float32 that `extract` wrote, given `descriptors.npy` or its folder.

    `mapped` gives a read-only memory map instead, for databases larger than memory: `knn.search` and `PCAWhitening`
    take it block by block. Raises FileNotFoundError for an extraction that isn't finished, ValueError for damaged
    files and NaN or zero rows.
    """
    return as_rows(_load_array(path, "descriptors.npy", np.float32, 2, mapped=mapped), str(path))


def load_labels(path: str | Path) -> NDArray[np.int64]:
    """Read the labels (N,) int64 of the rows of `load_descriptors(path)`, skipped images left out."""
    return _load_array(path, "labels.npy", np.int64, 1)


def load_recipe(path: str | Path) -> dict[str, Any]:
    """Read the `recipe.json` beside descriptors. Raises ValueError where it is damaged."""
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / "recipe.json"
    try:
        recipe = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged JSON ({error}): delete that folder to extract again") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{file}: expected an object, got {type(recipe).__name__}")
    return recipe


def _load_array(path: str | Path, name: str, dtype: type, ndim: int, *, mapped: bool = False) -> Any:
    path = Path(path)
    file = path / name if path.is_dir() else path.with_name(name) if path.name == "descriptors.npy" else path
    if not file.exists():
        raise FileNotFoundError(f"no {file}: extraction of {path} isn't finished; run it again, it resumes")
    try:
        array = read_array(file, mapped=mapped)
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): delete its folder to extract again") from error
    if array.ndim != ndim or array.dtype != dtype:
        raise ValueError(f"{file}: expected {np.dtype(dtype)} with {ndim} axes, got {array.dtype} {array.shape}")
    return array


def read_array(file: Path, *, mapped: bool = False) -> NDArray[Any]:
    """Read a .npy file; through a memory map, which refuses a header that claims more than the file holds."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")
        return array if mapped else np.array(array)
    except (EOFError, OverflowError) as error:
        raise ValueError(str(error)) from error


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build dicts, lists, strings, numbers and numpy arrays of floats, and runs no other code.

    What a pickle asks of numpy is done by the few classes below instead: numpy's own `__setstate__` believes what it
    is given, and a dtype of objects with its flags cleared makes it follow pointers that the file made up.
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
    """What a pickle says of a dtype: floats of 2, 4 or 8 bytes, in one byte order."""

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
    """What a pickle says of an array, made of its bytes with every length checked."""

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


def read_official(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """Read the Met authors' `descriptors.pkl`: `{"train_descriptors": (N, D), "val_...", "test_..."}`, float32.

    Nothing in the file is executed: an unpickler that admits numpy arrays only reads it.
    Raises ValueError for a file that is damaged, asks for anything else, or isn't a dict of numeric (N, D) arrays.
    """
    path = Path(path)
    with path.open("rb") as file:
        content = _unpickle(file, path)
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path}: expected a dict of arrays by name, got {type(content).__name__}")
    arrays = {key: value.values if isinstance(value, _Array) else None for key, value in content.items()}
    for key, values in arrays.items():
        if values is None or values.ndim != 2:
            got = type(content[key]).__name__ if values is None else f"shape {values.shape}"
            raise ValueError(f"{path}: {key!r} must be a float array (N, D), got {got}")
    return {key: np.array(values, dtype=np.float32, order="C") for key, values in arrays.items()}


def _unpickle(file: IO[bytes], path: Path) -> Any:
    try:
        return _ArraysOnly(file).load()
    except Exception as error:  # a damaged pickle can make the machine raise anything
        raise ValueError(f"{path} can't be read as the authors' descriptors: {error}") from error
