"""The folder of an extraction, known here alone: where it lies, what its files are called, how they are read.

A finished folder holds `descriptors.npy` (N, D) float32, `labels.npy` (N,) int64 and `recipe.json`. While work is under
way it holds `shards/` and `plan.npy` instead of the arrays, and `.lock` for a moment.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metlib.common.vectors import as_rows
from metlib.dataset import Museum, Split

DESCRIPTORS, LABELS, RECIPE = "descriptors.npy", "labels.npy", "recipe.json"
SHARDS, PLAN, LOCK = "shards", "plan.npy", ".lock"


class Network(Protocol):
    """What names a network, such as an `Embedder`."""

    name: str

    def weights_sha256(self) -> str: ...


def name_folder(
    museum: Museum, network: Network, work_dir: str | Path, scales: Sequence[float], precision: str = "float32"
) -> Path:
    """Where under `work_dir` the descriptors of a museum lie: museum / network and weights / scales and precision."""
    ways = "-".join(["scales", *(f"{scale:.3g}" for scale in scales), *([precision] * (precision != "float32"))])
    return Path(work_dir, museum.name, f"{network.name}-{network.weights_sha256()[:8]}", ways)


def split_folder(folder: Path, split: Split, name: str) -> Path:
    """Where in `folder` the descriptors of a split lie: its name, and the first digits of its list's hash."""
    return folder / f"{name}-{split.sha256[:8]}"


def load_descriptors(path: str | Path, *, mapped: bool = False) -> NDArray[np.float32]:
    """Read descriptors (N, D) float32 that `extract` wrote, given `descriptors.npy` or its folder.

    `mapped` gives a read-only memory map instead, for databases larger than memory: `knn.search` and `PCAWhitening`
    take it block by block. Raises FileNotFoundError for an extraction that isn't finished, ValueError for damaged
    files and NaN or zero rows.
    """
    return as_rows(_load(path, DESCRIPTORS, np.float32, 2, mapped=mapped), str(path))


def load_labels(path: str | Path) -> NDArray[np.int64]:
    """Read the labels (N,) int64 of the rows of `load_descriptors(path)`, skipped images left out; errors as there."""
    return _load(path, LABELS, np.int64, 1)


def load_recipe(path: str | Path) -> dict[str, Any]:
    """Read the `recipe.json` beside descriptors, given their file or folder. Raises ValueError where it is damaged."""
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / RECIPE
    try:
        recipe = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged JSON ({error}): delete that folder to extract again") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{file}: expected an object, got {type(recipe).__name__}")
    return recipe


def _load(path: str | Path, name: str, dtype: type, axes: int, *, mapped: bool = False) -> Any:
    path = Path(path)
    file = path / name if path.is_dir() else path.with_name(name) if path.name == DESCRIPTORS else path
    if not file.exists():
        raise FileNotFoundError(f"no {file}: extraction of {path} isn't finished; run it again, it resumes")
    return read_array(file, dtype, (None,) * axes, "its folder to extract again", mapped=mapped)


def read_array(
    file: Path, dtype: type, shape: tuple[int | None, ...], what: str, *, mapped: bool = False
) -> NDArray[Any]:
    """Read a .npy file of that dtype and shape, where None is any length.

    A memory map reads it, which refuses a header that claims more than the file holds. Raises ValueError for another
    file, with its path and `what` to delete.
    """
    try:
        array = np.lib.format.open_memmap(file, mode="r")
        fits = len(shape) == array.ndim and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        if array.dtype != dtype or not fits:
            expected = f"{np.dtype(dtype)} with {len(shape)} axes, {shape}".replace("None", "any")
            raise ValueError(f"expected {expected}, got {array.dtype} {array.shape}")
    except (ValueError, EOFError, OverflowError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete {what}") from error
    return array if mapped else np.array(array)
