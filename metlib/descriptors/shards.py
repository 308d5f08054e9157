"""An extraction in pieces: planned once, each piece written whole, resumed after any kill, joined at the end.

Images of one shape are put side by side before the list is cut into shards: a network works on stacks of one shape,
and a museum's photographs have hundreds of them. Ranks (several processes, or machines on one file system) take every
`ranks`-th shard and need nothing of each other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from metlib import dataset
from metlib.common.files import replacing
from metlib.common.progress import track
from metlib.dataset import Split
from metlib.descriptors import load_recipe, read_array

SHARD = 512
"""Images between two points from which a killed run resumes."""

# What must be the same in a folder's recipe and in that of a run that wants to go on there.
_IDENTITY = ("weights_sha256", "network", "dim", "scales", "images", "images_sha256", "precision", "pixels")
_KNOWN = 2000  # images whose sizes stay in the recipe: by these a finished folder tells whether images have changed


@dataclass(frozen=True, eq=False)
class Plan:
    """The pieces of one extraction into the folder `out`: `shards` gives, by file name, the rows (n,) of `split`.

    `order` (N,) is the order in which images are described, `sizes` (N,) their bytes when that was decided, `recipe`
    what makes the descriptors.
    """

    split: Split
    out: Path
    recipe: Mapping[str, Any]
    shards: Mapping[str, NDArray[np.int64]]
    order: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def file(self, shard: str) -> Path:
        """Where a shard lies once it is finished."""
        return self.out / "shards" / shard

    def pending(self, rank: int = 0, ranks: int = 1) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """The shards of one rank that aren't finished, with their rows."""
        mine = list(self.shards.items())[rank::ranks]
        missing = [(shard, rows) for shard, rows in mine if not self.file(shard).exists()]
        if not (self.out / "descriptors.npy").exists():  # another rank may have joined and removed them meanwhile
            yield from missing


def find_finished(split: Split, out: Path, recipe: Mapping[str, Any], on_error: str) -> Path | None:
    """Give the path of `descriptors.npy` where the extraction is finished, None where there is work to do.

    Raises ValueError for a folder of another recipe, or of images that have changed since; OSError where images were
    skipped and `on_error` is "raise".
    """
    if out.is_file():
        raise ValueError(f"{out} is a file: name a folder for the descriptors, a new one or one to resume")
    finished = out / "descriptors.npy"
    _check_another_recipe(out, recipe, split, finished=finished.exists())
    if not finished.exists():
        return None
    _check_skipped(load_recipe(finished).get("skipped", []), split, on_error)
    _sweep(out)
    return finished


def plan(
    split: Split, out: Path, recipe: Mapping[str, Any], *, shard_size: int = SHARD, workers: int = 4, label: str = ""
) -> Plan:
    """Decide in which order images are described and where the list is cut, or go on as an earlier run decided.

    Every file's size is asked for and, the first time, its header read. A shard is named after its places in the
    order and a hash of its files' names and sizes, so changed images are described again; an image that went after
    its shard was finished changes nothing.
    """
    stored = _read_plan(out / "plan.npy", len(split))
    with ThreadPoolExecutor(workers) as pool, track(total=len(split), label=f"{label}, looked at") as bar:
        looked = np.empty((len(split), 3), np.int64)  # bytes, height, width
        for i, row in enumerate(pool.map(lambda i: _look(split.file(i), shape=stored is None), range(len(split)))):
            looked[i] = row
            bar.update()
    now = looked[:, 0]
    order, sizes = stored if stored is not None else (np.lexsort((looked[:, 2], looked[:, 1])), now)
    kept = np.where(now == -1, sizes, now)  # as if none had gone
    shards = {}
    for start in range(0, len(split), shard_size):
        rows = order[start : start + shard_size]
        name, if_kept = (_name(split, start, rows, bytes_) for bytes_ in (now, kept))
        shards[if_kept if (out / "shards" / if_kept).exists() else name] = rows
    some = sorted({round(i) for i in np.linspace(0, len(split) - 1, min(len(split), _KNOWN))})
    known = {str(split.paths[i]): int(kept[i]) for i in some}
    return Plan(split, out, {**recipe, "sizes": known}, shards, order, sizes)


def write_shard(plan: Plan, shard: str, array: NDArray[np.float32]) -> None:
    """Write the descriptors (n, D) of a shard, whole or not at all; a row of NaN is an image that was skipped."""
    if not (plan.out / "recipe.json").exists():  # before the first shard, which it explains
        with replacing(plan.out / "recipe.json", "w") as file:
            json.dump(plan.recipe, file, indent=1)
    if not (plan.out / "plan.npy").exists():
        with replacing(plan.out / "plan.npy") as file:
            np.save(file, np.stack([plan.order, plan.sizes]))
    with replacing(plan.file(shard)) as file:
        np.save(file, array)


def join(plan: Plan, on_error: str) -> Path:
    """Join the shards into `descriptors.npy` and remove them, once all are there; give the path of that file.

    While other ranks haven't finished theirs nothing is done. The array isn't held in memory. Raises ValueError for a
    damaged shard (with its name) and where no image could be read, OSError as `find_finished` does.
    """
    finished = plan.out / "descriptors.npy"
    if finished.exists() or next(plan.pending(), None):
        return finished
    with FileLock(plan.out / ".lock"):  # the last two ranks may both see all shards
        if not finished.exists():
            _join(plan, finished, on_error)
    _sweep(plan.out)
    return finished


def _join(plan: Plan, finished: Path, on_error: str) -> None:
    split, dim = plan.split, plan.recipe["dim"]
    described = np.zeros(len(split), bool)
    for shard, rows in plan.shards.items():
        described[rows] = ~np.isnan(_read_shard(plan.file(shard), len(rows), dim)[:, 0])
    skipped = [str(path) for path in split.paths[~described]]
    _check_skipped(skipped, split, on_error)
    if not described.any():
        raise ValueError(f"none of the {len(split)} images of {split.root} can be read: nothing to describe")
    with replacing(plan.out / "labels.npy") as file:
        np.save(file, split.labels[described])
    with replacing(plan.out / "recipe.json", "w") as file:
        json.dump({**plan.recipe, "skipped": skipped}, file, indent=1)
    place = np.cumsum(described) - 1  # of a row of the split in the array
    with replacing(finished) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (int(described.sum()), dim)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for shard, rows in plan.shards.items():
            array = _read_shard(plan.file(shard), len(rows), dim)
            for i in np.flatnonzero(described[rows]):  # not through a memory map: a full disk would end the process
                file.seek(start + 4 * dim * int(place[rows[i]]))
                file.write(array[i].tobytes())


def _sweep(out: Path) -> None:
    """Remove what a finished extraction no longer needs: shards, plan, and what a killed run was writing.

    Several ranks may do so at once; one that still waits for the lock makes it anew, and sweeps after the others.
    """
    shutil.rmtree(out / "shards", ignore_errors=True)
    for path in (*out.glob(".*.tmp"), out / "plan.npy", out / ".lock"):
        path.unlink(missing_ok=True)


def _look(file: Path, *, shape: bool) -> tuple[int, int, int]:
    """Bytes of an image's file, and its height and width where asked: -1 where it can't be read (reading will say)."""
    try:
        size = file.stat().st_size
    except OSError:
        return -1, -1, -1
    try:
        width, height = dataset.read_size(file) if shape else (-1, -1)
    except OSError:
        return size, -1, -1
    return size, height, width


def _name(split: Split, start: int, rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> str:
    listing = "\n".join(f"{split.paths[i]}\t{sizes[i]}" for i in rows)
    return f"{start:09d}-{start + len(rows):09d}-{hashlib.sha256(listing.encode()).hexdigest()[:12]}.npy"


def _read_plan(path: Path, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The order (N,) and sizes (N,) of an earlier run, None where there is none."""
    if not path.exists():
        return None
    try:
        both = read_array(path)
        if both.dtype != np.int64 or both.shape != (2, n) or not np.array_equal(np.sort(both[0]), np.arange(n)):
            raise ValueError(f"holds {both.dtype} {both.shape}, expected an order of {n} images and their sizes")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete this one file and run again") from error
    return both[0], both[1]


def _read_shard(path: Path, n: int, dim: int) -> NDArray[np.float32]:
    try:
        array = read_array(path)
        if array.shape != (n, dim) or array.dtype != np.float32:
            raise ValueError(f"holds {array.dtype} {array.shape}, expected float32 {(n, dim)}")
    except (ValueError, OSError) as error:
        raise ValueError(f"shard {path} is damaged ({error}): delete this one file and run again") from error
    return array


def _check_another_recipe(out: Path, recipe: Mapping[str, Any], split: Split, *, finished: bool) -> None:
    lying = list(out.iterdir()) if out.is_dir() else []  # before the recipe, which another rank may just be writing
    if not (out / "recipe.json").exists():
        # A run that was killed at its first step left a temporary recipe; shards without a recipe could be anyone's.
        if not all(path.match(".recipe.json.*.tmp") for path in lying):
            raise ValueError(f"{out} holds files but no recipe.json: name a new or empty folder for descriptors")
        return
    old = load_recipe(out / "descriptors.npy")
    new = json.loads(json.dumps(recipe))  # as it would be read: a tuple is then a list
    for key in _IDENTITY:
        if old.get(key) != new.get(key):  # older folders don't say how pixels were made: as now where nothing is said
            raise ValueError(
                f"{out} was made with another recipe: its {key} is {old.get(key)!r}, yours {new.get(key)!r}. "
                "Name another folder, or delete this one to extract again"
            )
    if finished:  # images may have gone since (they are large), but mustn't have changed
        for path, size in old.get("sizes", {}).items():
            if _look(split.root / path, shape=False)[0] not in (-1, size):
                changed = f"{split.root / path} changed since {out} was made"
                raise ValueError(f"{changed}: delete that folder to extract again, or bring the image back")


def _check_skipped(skipped: list[str], split: Split, on_error: str) -> None:
    if skipped and on_error == "raise":
        raise OSError(
            f"{len(skipped)} images were skipped before, the first {split.root / skipped[0]}: "
            "accept that with on_error='skip', or mend them and delete the folder of descriptors"
        )
