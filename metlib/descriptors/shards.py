"""The folder of an extraction: planned once, written in shards, resumed after any kill, joined at the end, read.

A finished folder holds `descriptors.npy` (N, D) float32, `labels.npy` (N,) int64 and `recipe.json`; until then,
`shards/` and `plan.npy` stand for the arrays. Ranks (processes, or machines on one file system) take every `ranks`-th
shard and need nothing of each other.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from metlib import dataset
from metlib.common.files import replacing
from metlib.common.progress import track
from metlib.common.vectors import as_rows
from metlib.dataset import Museum, Split

DESCRIPTORS, LABELS, RECIPE = "descriptors.npy", "labels.npy", "recipe.json"
SHARDS, PLAN, LOCK = "shards", "plan.npy", ".lock"

SHARD = 512
"""Images between two points from which a killed run resumes."""

# What must be the same in a folder's recipe and in that of a run that wants to go on there.
_IDENTITY = ("weights_sha256", "network", "dim", "scales", "images", "images_sha256", "precision", "pixels")
_KNOWN = 2000  # images whose sizes stay in the recipe: by these changes are found once a folder is finished
_RETRY = "this one file and run again"  # what to delete where a plan or a shard is damaged


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


@dataclass(frozen=True, eq=False)
class Plan:
    """One extraction into the folder `out` by `recipe`: `shards` gives, by file name, the rows (n,) of `split`.

    `order` (N,) is the order in which images are described, `sizes` (N,) their bytes when that was decided.
    """

    split: Split
    out: Path
    recipe: Mapping[str, Any]
    shards: Mapping[str, NDArray[np.int64]]
    order: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def file(self, shard: str) -> Path:
        """Where a shard lies once it is finished."""
        return self.out / SHARDS / shard

    def pending(self, rank: int = 0, ranks: int = 1) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """The shards of one rank that aren't finished, with their rows."""
        mine = list(self.shards.items())[rank::ranks]
        missing = [(shard, rows) for shard, rows in mine if not self.file(shard).exists()]
        if not (self.out / DESCRIPTORS).exists():  # another rank may have joined and removed them meanwhile
            yield from missing


def find_finished(split: Split, out: Path, recipe: Mapping[str, Any], on_error: str) -> Path | None:
    """Give the path of `descriptors.npy` where the extraction is finished, None where there is work to do.

    Raises ValueError for a folder of another recipe, or of images that have changed since; OSError where images were
    skipped and `on_error` is "raise".
    """
    if out.is_file():
        raise ValueError(f"{out} is a file: name a folder for the descriptors, a new one or one to resume")
    finished = out / DESCRIPTORS
    done = finished.exists()  # then the recipe is the final one
    present = list(out.iterdir()) if out.is_dir() else []  # before the recipe, which another rank may just be writing
    if not (out / RECIPE).exists():
        # A run that was killed at its first step left a temporary recipe; shards without a recipe could be anyone's.
        if not all(path.match(f".{RECIPE}.*.tmp") for path in present):
            raise ValueError(f"{out} holds files but no {RECIPE}: name a new or empty folder for descriptors")
        return None
    old, new = load_recipe(out), json.loads(json.dumps(recipe))  # as it would be read: a tuple is then a list
    for key in _IDENTITY:
        if old.get(key) != new.get(key):
            values = f"its {key} is {old.get(key)!r}, yours {new.get(key)!r}"
            raise ValueError(f"{out} was made with another recipe: {values}. Name another folder, or delete this one")
    if not done:
        return None
    for path, size in old.get("sizes", {}).items():  # images may have gone (they are large), but mustn't have changed
        if _inspect(split.root / path, shape=False)[0] not in (-1, size):
            way_out = "delete that folder to extract again, or bring the image back"
            raise ValueError(f"{split.root / path} changed since {out} was made: {way_out}")
    _check_skipped(old.get("skipped", []), split, on_error)
    _sweep(out)
    return finished


def plan(
    split: Split, out: Path, recipe: Mapping[str, Any], *, shard_size: int = SHARD, workers: int = 4, label: str = ""
) -> Plan:
    """Decide in which order images are described and where the list is cut, or go on as an earlier run decided.

    Images of one shape come side by side, as a network takes stacks of one shape. A shard is named after its places in
    the order and a hash of its files' names and sizes, so changed images are described again; an image that went after
    its shard was finished changes nothing.
    """
    file, n = out / PLAN, len(split)
    stored = _read_array(file, np.int64, (2, n), _RETRY) if file.exists() else None
    if stored is not None and not np.array_equal(np.sort(stored[0]), np.arange(n)):
        raise ValueError(f"{file} is damaged (no order of {n} images): delete {_RETRY}")
    inspected = np.empty((n, 3), np.int64)  # bytes, height, width
    with ThreadPoolExecutor(workers) as pool, track(total=n, label=f"{label}, inspected") as bar:
        for i, row in enumerate(pool.map(lambda i: _inspect(split.file(i), shape=stored is None), range(n))):
            inspected[i] = row
            bar.update()
    now, heights, widths = inspected.T
    order, sizes = (np.lexsort((widths, heights)), now) if stored is None else stored
    kept = np.where(now == -1, sizes, now)  # as if none had gone
    shards = {}
    for start in range(0, n, shard_size):
        rows = order[start : start + shard_size]
        name, if_kept = (_name(split, start, rows, bytes_) for bytes_ in (now, kept))
        shards[if_kept if (out / SHARDS / if_kept).exists() else name] = rows
    some = sorted({round(i) for i in np.linspace(0, n - 1, min(n, _KNOWN))})
    known = {str(split.paths[i]): int(kept[i]) for i in some}
    return Plan(split, out, {**recipe, "sizes": known}, shards, order, sizes)


def write_shard(plan: Plan, shard: str, array: NDArray[np.float32]) -> None:
    """Write the descriptors (n, D) of a shard, whole or not at all; a row of NaN is an image that was skipped."""
    if not (plan.out / RECIPE).exists():  # before the first shard, which it explains
        _write_recipe(plan)
    if not (plan.out / PLAN).exists():
        _write(plan.out / PLAN, np.stack([plan.order, plan.sizes]))
    _write(plan.file(shard), array)


def join(plan: Plan, on_error: str) -> Path:
    """Join the shards into `descriptors.npy` and remove them, once all ranks have finished; give that file's path.

    Raises ValueError for a damaged shard and where no image could be read, OSError as `find_finished` does.
    """
    finished = plan.out / DESCRIPTORS
    if finished.exists() or next(plan.pending(), None):
        return finished
    with FileLock(plan.out / LOCK):  # the last two ranks may both see all shards
        if not finished.exists():
            _join(plan, finished, on_error)
    _sweep(plan.out)
    return finished


def _join(plan: Plan, finished: Path, on_error: str) -> None:
    split, dim = plan.split, plan.recipe["dim"]

    def read(shard: str) -> NDArray[np.float32]:
        return _read_array(plan.file(shard), np.float32, (len(plan.shards[shard]), dim), _RETRY)

    described = np.zeros(len(split), bool)
    for shard, rows in plan.shards.items():
        described[rows] = ~np.isnan(read(shard)[:, 0])
    skipped = [str(path) for path in split.paths[~described]]
    _check_skipped(skipped, split, on_error)
    if not described.any():
        raise ValueError(f"none of the {len(split)} images of {split.root} can be read: nothing to describe")
    _write(plan.out / LABELS, split.labels[described])
    _write_recipe(plan, skipped=skipped)
    place = np.cumsum(described) - 1  # of a row of the split in the array
    with replacing(finished) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (int(described.sum()), dim)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for shard, rows in plan.shards.items():
            array = read(shard)
            for i in np.flatnonzero(described[rows]):  # not through a memory map: a full disk would end the process
                file.seek(start + 4 * dim * int(place[rows[i]]))
                file.write(array[i].tobytes())


def _write(path: Path, array: NDArray[Any]) -> None:
    with replacing(path) as file:
        np.save(file, array)


def _write_recipe(plan: Plan, **more: Any) -> None:
    with replacing(plan.out / RECIPE, "w") as file:
        json.dump({**plan.recipe, **more}, file, indent=1)


def _sweep(out: Path) -> None:
    """Remove what a finished extraction no longer needs; ranks may do so at once, the last also removes the lock."""
    shutil.rmtree(out / SHARDS, ignore_errors=True)
    for path in (*out.glob(".*.tmp"), out / PLAN, out / LOCK):
        path.unlink(missing_ok=True)


def _inspect(file: Path, *, shape: bool) -> tuple[int, int, int]:
    """Bytes of an image's file, and its height and width where asked: -1 where it can't be read (reading names it)."""
    size = width = height = -1
    with suppress(OSError):
        size = file.stat().st_size
        if shape:
            width, height = dataset.read_size(file)
    return size, height, width


def _name(split: Split, start: int, rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> str:
    listing = "\n".join(f"{split.paths[i]}\t{sizes[i]}" for i in rows)
    return f"{start:09d}-{start + len(rows):09d}-{hashlib.sha256(listing.encode()).hexdigest()[:12]}.npy"


def _check_skipped(skipped: list[str], split: Split, on_error: str) -> None:
    if skipped and on_error == "raise":
        way_out = "accept that with on_error='skip', or mend them and delete the folder of descriptors"
        raise OSError(f"{len(skipped)} images were skipped before, the first {split.root / skipped[0]}: {way_out}")


def load_descriptors(path: str | Path, *, mapped: bool = False) -> NDArray[np.float32]:
    """Read descriptors (N, D) float32 that `extract` wrote, given `descriptors.npy` or its folder.

    `mapped` gives a read-only memory map instead, for databases larger than memory. Raises FileNotFoundError where
    extraction isn't finished, ValueError for damaged files and rows that are NaN or zero.
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
    return _read_array(file, dtype, (None,) * axes, "its folder to extract again", mapped=mapped)


def _read_array(
    file: Path, dtype: type, shape: tuple[int | None, ...], what: str, *, mapped: bool = False
) -> NDArray[Any]:
    """Read a .npy array of that dtype and shape (None: any length). Raises ValueError with `what` to delete."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # which refuses a header that claims more than the file holds
        fits = len(shape) == array.ndim and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        if array.dtype != dtype or not fits:
            expected = f"{np.dtype(dtype)} with {len(shape)} axes, {shape}".replace("None", "any")
            raise ValueError(f"expected {expected}, got {array.dtype} {array.shape}")
    except (ValueError, EOFError, OverflowError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete {what}") from error
    return array if mapped else np.array(array)
