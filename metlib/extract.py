"""From images to descriptors, the one slow step: multi-scale, batched by shape, sharded, resumable.

A finished extraction is a folder with `descriptors.npy` (N, D) float32 unit rows, `labels.npy` (N,) int64, and
`recipe.json`, which says what made them. Source of the scales: Ypsilantis et al., NeurIPS 2021, section 5.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metlib import __version__, dataset
from metlib.backbone import Embedder
from metlib.dataset import Museum, Split
from metlib.descriptors import Described as Described  # names as themselves: they may be had from here too
from metlib.descriptors import list_sha256, read, read_array, split_folder
from metlib.descriptors import load_descriptors as load_descriptors
from metlib.descriptors import load_labels as load_labels
from metlib.descriptors import load_recipe as load_recipe
from metlib.descriptors import read_official as read_official
from metlib.files import replacing
from metlib.progress import track

SCALES = (1, 2**-0.5, 0.5)
"""The published scales: full size, and smaller by the square root of two, twice."""

SHARD = 512  # images between two points from which a killed run resumes


def describe(museum: Museum, embedder: Embedder, work_dir: str | Path, **options: Any) -> Described:
    """Extract all three splits of a museum under `work_dir`, or read what is finished there; options as for `extract`.

    Folders state the recipe (museum / backbone and weights / scales / split and image list), so nothing is repeated
    that a notebook, or another database of the same museum, has done before.
    """
    scales = options.get("scales", SCALES)
    backbone = f"{embedder.name}-{embedder.weights_sha256()[:8]}"
    folder = Path(work_dir) / museum.name / backbone / _scales_name(scales)
    for split, name in museum.splits():
        extract(split, embedder, split_folder(folder, split, name), label=name, **options)
    return read(folder, museum)


def extract(
    split: Split,
    embedder: Embedder,
    out: str | Path,
    *,
    scales: Sequence[float] = SCALES,
    device: str | None = None,
    batch_size: int | None = None,
    shard_size: int = SHARD,
    workers: int = 4,
    on_error: str = "raise",
    label: str = "images",
) -> Path:
    """Describe every image of a split and give the path of `descriptors.npy`, in the folder `out`.

    A descriptor is the sum of the unit descriptors at each scale (the image resized bilinearly, align_corners=False),
    made unit again. Images keep their native size and are batched with others of the same shape only, so a row is what
    one-by-one extraction gives. `device` is found by itself (cuda, mps, cpu) and `batch_size` chosen for it;
    computation is float32. The embedder stays on that device, in evaluation mode.
    Shards of `shard_size` images are written whole; a run that was killed resumes after the last one, and a finished
    folder is returned at once. An image that can't be read raises OSError with its path; with `on_error="skip"` it is
    listed under `skipped` in `recipe.json` and leaves its row out of descriptors and labels.
    Raises ValueError where `out` holds another recipe, or images that changed since (in a finished folder, the
    number of bytes of up to 2,000 of them is compared, where they still exist). One run at a time for one `out`.
    Raises RuntimeError, with an image's path, where the network can't take such images.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if isinstance(scales, str | float | int):
        raise ValueError(f"scales must be a sequence of numbers such as (1, 0.5), got {scales!r}")
    if not len(scales) or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must be positive numbers, at least one, got {scales!r}")
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    if not len(split):
        raise ValueError(f"the split of {split.root} has no images: nothing to describe")
    out = Path(out)
    if out.is_file():
        raise ValueError(f"{out} is a file: name a folder for the descriptors, a new one or one to resume")
    recipe = _recipe(split, embedder, scales)
    finished = out / "descriptors.npy"
    _refuse_another_recipe(out, recipe, split, finished=finished.exists())
    if finished.exists():
        _refuse_skipped(load_recipe(finished).get("skipped", []), split, on_error)
        _sweep(out)
        return finished
    device = device or _find_device()
    _refuse_missing_device(device)
    # Measured on 2 cores, images of one shape: batches of 16 take 1.4 to 4 times as long an image as batches of 2.
    batch_size = batch_size or (2 if torch.device(device).type == "cpu" else 16)
    recipe["sizes"] = {str(split.paths[i]): _size(split.file(i)) for i in _sample(len(split))}
    shards = _plan_shards(split, shard_size)
    pending = [(shard, rows) for shard, rows in shards.items() if not (out / "shards" / shard).exists()]
    done = len(split) - sum(len(rows) for _, rows in pending)
    embedder = embedder.to(device).eval().to(memory_format=torch.channels_last)
    with track(total=len(split), done=done, label=label) as bar, ThreadPoolExecutor(workers) as pool:
        for shard, rows in pending:
            # a row that stays NaN was skipped
            array = np.full((len(rows), embedder.dim), np.nan, dtype=np.float32)
            for places, pixels in _batches(split, rows, batch_size, pool, on_error):
                first = split.file(rows[places[0]])
                try:
                    array[places] = _multiscale(embedder, pixels.to(device), scales).cpu().numpy()
                except RuntimeError as error:  # too small for its layers or a scale, or out of memory
                    height, width = pixels.shape[1:3]
                    raise RuntimeError(
                        f"{embedder.name} can't describe {len(places)} image(s) of {width} x {height} pixels at "
                        f"scales {tuple(scales)} on {device}, the first {first}: {error}. Lower batch_size where "
                        "memory is short, or leave such images out of the split"
                    ) from error
                norms = np.linalg.norm(array[places], axis=1)
                bad = np.flatnonzero(~(norms > 0.5))  # NaN, or zero, which has no direction
                if len(bad):
                    culprit = split.file(rows[places[bad[0]]])
                    raise ValueError(
                        f"{culprit}: {embedder.name} gives a descriptor that is NaN or zero; expected a unit vector. "
                        "Look at the image, then at the weights, or leave the image out of the split"
                    )
                bar.update(len(places))
            if not (out / "recipe.json").exists():  # before the first shard, which it explains
                with replacing(out / "recipe.json", "w") as file:
                    json.dump(recipe, file, indent=1)
            with replacing(out / "shards" / shard) as file:
                np.save(file, array)
    return _assemble(split, shards, out, recipe, on_error)


def _multiscale(embedder: Embedder, pixels: Tensor, scales: Sequence[float]) -> Tensor:
    """Describe one batch of equal shape: uint8 (B, H, W, 3) -> float32 unit rows (B, D)."""
    images = pixels.permute(0, 3, 1, 2).float().div(255)  # (B, 3, H, W), channels last in memory
    # enabled=True: flags() turns cuDNN off unless told otherwise.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        total = torch.zeros(len(images), embedder.dim, device=images.device)
        for scale in scales:
            total += embedder(images, scale)
        return F.normalize(total, dim=1)


def _batches(
    split: Split, rows: range, batch_size: int, pool: ThreadPoolExecutor, on_error: str
) -> Iterator[tuple[list[int], Tensor]]:
    """Decode ahead in threads and give batches of one shape: places within the shard, uint8 pixels (B, H, W, 3).

    Threads and not processes: Pillow decodes without the interpreter's lock, and nothing is forked or copied.
    Batches are cut in reading order, so memory holds at most one unfinished batch for each shape.
    """
    waiting: deque[tuple[int, Future[NDArray[np.uint8]]]] = deque()
    todo = iter(range(len(rows)))
    same_shape: dict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]] = defaultdict(list)
    while True:
        while len(waiting) < 4 * batch_size and (place := next(todo, None)) is not None:
            waiting.append((place, pool.submit(_pixels, split.file(rows[place]))))
        if not waiting:
            break
        place, future = waiting.popleft()
        try:
            pixels = future.result()
        except OSError as error:
            if on_error == "raise":
                pool.shutdown(wait=False, cancel_futures=True)
                raise OSError(
                    f"can't read an image: {error}. Replace it and run again (what is finished is kept), "
                    "or leave such images out with on_error='skip', or their rows out of the ground truth"
                ) from error
            continue
        batch = same_shape[pixels.shape]
        batch.append((place, pixels))
        if len(batch) == batch_size:
            yield _stack(same_shape.pop(pixels.shape))
    for batch in same_shape.values():
        yield _stack(batch)


def _stack(batch: list[tuple[int, NDArray[np.uint8]]]) -> tuple[list[int], Tensor]:
    return [place for place, _ in batch], torch.from_numpy(np.stack([pixels for _, pixels in batch]))


def _pixels(path: Path) -> NDArray[np.uint8]:
    pixels = np.asarray(dataset.read_image(path))  # (H, W, 3)
    if min(pixels.shape[:2]) < 8:
        raise OSError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, expected 8 x 8 at least")
    return pixels


def _plan_shards(split: Split, shard_size: int) -> dict[str, range]:
    """Name every shard after its rows and a hash of its files' names and sizes: changed images are done again."""
    plan = {}
    for start in range(0, len(split), shard_size):
        rows = range(start, min(start + shard_size, len(split)))
        listing = "\n".join(f"{split.paths[i]}\t{_size(split.file(i))}" for i in rows)
        plan[f"{start:09d}-{rows.stop:09d}-{hashlib.sha256(listing.encode()).hexdigest()[:12]}.npy"] = rows
    return plan


def _assemble(split: Split, shards: dict[str, range], out: Path, recipe: dict[str, Any], on_error: str) -> Path:
    """Join finished shards into one array without holding it in memory, then remove them."""
    kept = []
    for shard, rows in shards.items():
        array = _read_shard(out / "shards" / shard, len(rows), recipe["dim"])
        kept.append(np.flatnonzero(~np.isnan(array[:, 0])) + rows.start)
    rows_kept = np.concatenate(kept)
    skipped = [str(split.paths[i]) for i in np.setdiff1d(np.arange(len(split)), rows_kept)]
    _refuse_skipped(skipped, split, on_error)
    if not len(rows_kept):
        raise ValueError(f"none of the {len(split)} images of {split.root} can be read: nothing to describe")
    with replacing(out / "labels.npy") as file:
        np.save(file, split.labels[rows_kept])
    with replacing(out / "recipe.json", "w") as file:
        json.dump(recipe | {"skipped": skipped}, file, indent=1)
    shape = (len(rows_kept), recipe["dim"])
    with replacing(out / "descriptors.npy") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for (shard, rows), keep in zip(shards.items(), kept, strict=True):
            array = _read_shard(out / "shards" / shard, len(rows), recipe["dim"])
            file.write(array[keep - rows.start].tobytes())
    _sweep(out)
    return out / "descriptors.npy"


def _sweep(out: Path) -> None:
    """Remove what a finished extraction no longer needs: shards, and what a killed run was writing."""
    for path in (*out.glob("shards/*"), *out.glob(".*.tmp")):
        path.unlink(missing_ok=True)
    if (out / "shards").is_dir():
        (out / "shards").rmdir()


def _read_shard(path: Path, n: int, dim: int) -> NDArray[np.float32]:
    try:
        array = read_array(path)
        if array.shape != (n, dim) or array.dtype != np.float32:
            raise ValueError(f"holds {array.dtype} {array.shape}, expected float32 {(n, dim)}")
    except (ValueError, OSError) as error:
        raise ValueError(f"shard {path} is damaged ({error}): delete this one file and run again") from error
    return array


def _recipe(split: Split, embedder: Embedder, scales: Sequence[float]) -> dict[str, Any]:
    """Say what makes these descriptors: first what must be the same to resume, then what is good to know."""
    return {
        "weights_sha256": embedder.weights_sha256(),
        "network": embedder.identity,
        "dim": embedder.dim,
        "scales": [float(scale) for scale in scales],
        "images": len(split),
        "images_sha256": list_sha256(split),
        "precision": "float32",
        "backbone": embedder.name,
        "skipped": [],
        "versions": {"metlib": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "timm", "numpy", "pillow")},
    }


_IDENTITY = ("weights_sha256", "network", "dim", "scales", "images", "images_sha256", "precision")


def _refuse_another_recipe(out: Path, recipe: dict[str, Any], split: Split, *, finished: bool) -> None:
    if not (out / "recipe.json").exists():
        # A run that was killed at its first step left a temporary recipe; shards without a recipe could be anyone's.
        if out.is_dir() and not all(path.match(".recipe.json.*.tmp") for path in out.iterdir()):
            raise ValueError(f"{out} holds files but no recipe.json: name a new or empty folder for descriptors")
        return
    old = load_recipe(out / "descriptors.npy")
    new = json.loads(json.dumps(recipe))  # as it would be read: a tuple is then a list
    for key in _IDENTITY:
        if old.get(key) != new[key]:
            raise ValueError(
                f"{out} was made with another recipe: its {key} is {old.get(key)!r}, yours {new[key]!r}. "
                "Name another folder, or delete this one to extract again"
            )
    if finished:  # images may have gone since (they are large), but mustn't have changed
        for path, size in old.get("sizes", {}).items():
            if _size(split.root / path) not in (-1, size):
                changed = f"{split.root / path} changed since {out} was made"
                raise ValueError(f"{changed}: delete that folder to extract again, or bring the image back")


def _refuse_skipped(skipped: list[str], split: Split, on_error: str) -> None:
    if skipped and on_error == "raise":
        raise OSError(
            f"{len(skipped)} images were skipped before, the first {split.root / skipped[0]}: "
            "accept that with on_error='skip', or mend them and delete the folder of descriptors"
        )


def _sample(n: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, 2000))})


def _size(path: Path) -> int:
    """Bytes in a file, -1 where it isn't there (reading it will say so)."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _scales_name(scales: Sequence[float]) -> str:
    return "scales-" + "-".join(f"{scale:.3g}" for scale in scales)


def _find_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _refuse_missing_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} can't be used here ({reason}): name cuda, mps or cpu, or none") from error
