"""From images to descriptors, the one slow step: multi-scale, batched by shape, sharded, resumable.

A finished extraction is a folder with `descriptors.npy` (N, D) float32, L2-normalised rows, `labels.npy` (N,) int64,
and `recipe.json`, which states what made them. Source of the scales: Ypsilantis et al., NeurIPS 2021, section 5.
From a shell: `metlib extract MUSEUM BACKBONE`, on several devices `torchrun --nproc-per-node 4 -m metlib extract ...`.
"""

import math
import os
import platform
import re
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from metlib import __version__, backbone, dataset
from metlib import visits as simulated
from metlib.backbone import Embedder
from metlib.common.checks import check_integer
from metlib.common.device import check_device, find_device
from metlib.common.files import lock_beside, short_hash
from metlib.common.progress import track
from metlib.dataset import Museum, Split
from metlib.descriptors import Described, load_descriptors, name_folder, read, shards, split_folder, visited
from metlib.descriptors import load_labels as load_labels  # names as themselves: they may be had from here too
from metlib.descriptors import load_recipe as load_recipe
from metlib.descriptors import read_official as read_official

SCALES = (1, 2**-0.5, 0.5)
"""The published scales: full size, and smaller by the square root of two, twice."""

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Pixels of a batch, all its images together. On a CPU more don't pay: every layer then waits for fresh pages.
_PIXELS = {"cpu": 400_000, "gpu": 8_000_000}
_MOST = 64  # images of a batch


class Reader(Protocol):
    """Something that gives an image's pixels (H, W, 3) uint8 instead of its file; `name` states how they are made."""

    @property
    def name(self) -> str: ...
    def __call__(self, path: Path, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Visitor:
    """A reader that gives a simulated visit of an image instead: the first of each has `number` 0.

    `without` names disturbances to leave out. Wherever an image lies, its visits are the same: its pixels seed them.
    """

    number: int
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        lacking = "".join(f", without {name}" for name in self.without)
        return f"simulated visit {self.number}, drawing {simulated.VERSION}{lacking}"

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        photo = read_pixels(path)
        rng = np.random.default_rng([self.number, zlib.crc32(photo.tobytes())])
        return np.asarray(simulated.simulate(Image.fromarray(photo), rng, without=self.without))


def plan_museum(
    museum: Museum, embedder: Embedder, work_dir: str | Path, *, visits: int = 0, **options: Any
) -> Iterator[tuple[str, Split, Path, Reader | None]]:
    """List what describing a museum takes: name, images, folder and reader of its splits, and of `visits` of the images
    that `descriptors.visited` selects; options as for `extract`.
    """
    folder = name_folder(museum, embedder, work_dir, options.get("scales", SCALES), options.get("precision", "float32"))
    for split, name in museum.splits():
        yield name, split, split_folder(folder, split, name), None
    of = visited(museum.database)
    for number in range(visits):
        yield f"visit-{number}", of, split_folder(folder, of, f"visit-{number}"), Visitor(number)


def describe(museum: Museum, embedder: Embedder, work_dir: str | Path, *, visits: int = 0, **options: Any) -> Described:
    """Extract all three splits of a museum under `work_dir`, or read what is finished there; options as for `extract`.

    Folders state the recipe, so no work is repeated. Gives `database` (N, D), `val` and `test` (Q, D), float32,
    L2-normalised, and the museum without the images that were skipped. With `visits`, so many simulated visits of each
    database image (of at most 20,000 works) are described too, for `whiten.LearnedWhitening`. Raises as `extract` does.
    """
    for name, split, out, reader in plan_museum(museum, embedder, work_dir, visits=visits, **options):
        extract(split, embedder, out, label=name, reader=reader, **options)
    return read(out.parent, museum, visits)


def describe_split(
    split: Split,
    embedder: Embedder,
    work_dir: str | Path,
    reader: Reader,
    *,
    label: str = "images",
    scales: Sequence[float] = (1,),
) -> NDArray[np.float32]:
    """Describe any images through a reader, or read what is finished: (n, D) float32, L2-normalised rows.

    Folders under `work_dir` state images, network and weights, pixels and scales. Raises as `extract` does.
    """
    ways = "-".join(["pixels", re.sub(r"[^a-z0-9]+", "-", reader.name), *(f"{scale:.3g}" for scale in scales)])
    # By its identity too: runs that froze the trunk share their weights.
    network = f"{embedder.name}-{embedder.weights_sha256()[:8]}-{short_hash(embedder.identity)}"
    folder = Path(work_dir, f"{split.root.resolve().parent.name}-{split.sha256[:8]}", network, ways)
    return load_descriptors(extract(split, embedder, folder, scales=scales, reader=reader, label=label))


def extract(
    split: Split,
    embedder: Embedder,
    out: str | Path,
    *,
    scales: Sequence[float] = SCALES,
    precision: str = "float32",
    device: str | None = None,
    channels_last: bool | None = None,
    batch_size: int | None = None,
    shard_size: int = shards.SHARD,
    workers: int | None = None,
    on_error: str = "raise",
    rank: int = 0,
    ranks: int = 1,
    label: str = "images",
    reader: Reader | None = None,
) -> Path:
    """Describe every image of a split and give the path of `descriptors.npy` (N, D) float32, in the folder `out`.

    A descriptor is the sum of the L2-normalised descriptors at each of `scales` (the image resized bilinearly,
    align_corners=False), L2-normalised again. Images keep their native size and are batched with others of the same
    shape only. `device` is cuda, mps or cpu, by default the fastest here; `batch_size`, `workers` (threads that decode)
    and `channels_last` are chosen for it. `precision` "float16" or "bfloat16" computes the network in half precision,
    which is another recipe; GeM and all sums stay float32. The embedder is left in evaluation mode, and on that device
    where nothing of it could be folded.
    Shards of `shard_size` images are written whole; a run that was killed resumes after the last one, and a finished
    folder is returned at once. With `on_error="skip"`, images that can't be read are listed under `skipped` in
    `recipe.json` and leave descriptors and labels. A `reader` gives pixels instead of the files; the recipe names it.
    Of several `ranks` that run at the same time for one `out`, each describes its share, and the last to finish joins
    all; until then the file isn't there. Otherwise a run for the same `out` waits for the one before.
    Raises, with the image's path, OSError for one that can't be read, ValueError for one that changed since (a finished
    folder compares the bytes of up to 2,000 that still exist) or whose descriptor is NaN or zero, RuntimeError for one
    that the network can't take; ValueError where `out` holds another recipe.
    """
    check_options(on_error, batch_size=batch_size, shard_size=shard_size, workers=workers)
    if not 0 <= rank < ranks:
        raise ValueError(f"rank must be from 0 to ranks - 1, got rank {rank!r} of {ranks!r}")
    recipe, out = make_recipe(split, embedder, scales, precision, reader.name if reader else None), Path(out)
    if finished := shards.find_finished(split, out, recipe, on_error):
        return finished
    device = device or find_device()
    check_device(device)
    workers = workers or (4 if torch.device(device).type == "cpu" else os.cpu_count() or 4)
    with lock_beside(out) if ranks == 1 else nullcontext():
        if finished := shards.find_finished(split, out, recipe, on_error):  # while this run waited
            return finished
        plan = shards.plan(split, out, recipe, shard_size=shard_size, workers=workers, label=label)
        pending = list(plan.pending(rank, ranks))
        todo = sum(len(rows) for _, rows in pending)
        ready = prepare(embedder, device, precision, channels_last)
        with track(total=len(split), done=len(split) - todo, label=label) as bar, ThreadPoolExecutor(workers) as pool:
            files = (split.file(i) for _, rows in pending for i in rows)
            images = decode_ahead(files, pool, 4 * workers, reader)
            for shard, rows in pending:
                named, decoded = [split.file(i) for i in rows], islice(images, len(rows))
                options = device, scales, precision, batch_size, on_error
                shards.write_shard(plan, shard, embed_images(ready, decoded, named, *options, seen=bar.update))
        return shards.join(plan, on_error)


def check_options(on_error: str, **counts: int | None) -> None:
    """Raise ValueError for an `on_error` other than "raise" and "skip", and for a count below 1 (None is accepted)."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    for name, value in counts.items():
        if value is not None:
            check_integer(name, value, 1)


def prepare(embedder: Embedder, device: str, precision: str = "float32", channels_last: bool | None = None) -> Embedder:
    """Make a network ready for a device: batch norm folded, by default channels last on a CPU and in half precision."""
    ready = backbone.fold_batch_norm(embedder.eval()).to(device)
    if channels_last is None:
        channels_last = torch.device(device).type == "cpu" or precision != "float32"
    return ready.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)  # type: ignore[call-overload]


def embed_images(
    embedder: Embedder,
    images: Iterable[NDArray[np.uint8] | OSError],
    files: Sequence[Path],
    device: str,
    scales: Sequence[float],
    precision: str = "float32",
    batch_size: int | None = None,
    on_error: str = "raise",
    seen: Callable[[int], Any] = lambda n: None,
) -> NDArray[np.float32]:
    """Describe decoded images: (n, D) float32, a row of NaN where one was skipped. Raises as `extract` does.

    `embedder` comes from `prepare`, `images` from `decode_ahead(files)`; `seen` is called with each batch's length.
    """
    most_pixels = _PIXELS["cpu" if torch.device(device).type == "cpu" else "gpu"]

    def describe_batches() -> Iterator[tuple[list[int], Tensor]]:
        for places, pixels in _batches(images, batch_size, most_pixels, on_error):
            try:
                yield places, multiscale(embedder, pixels.to(device), scales, precision)
            except RuntimeError as error:  # too small for its layers or a scale, or out of memory
                raise RuntimeError(
                    f"{embedder.name} can't describe {len(places)} image(s) of {pixels.shape[2]} x {pixels.shape[1]} "
                    f"pixels at scales {tuple(scales)} on {device}, the first {files[places[0]]}: {error}. Lower "
                    "batch_size where memory is short, or leave such images out of the split"
                ) from error

    array = np.full((len(files), embedder.dim), np.nan, dtype=np.float32)
    # Each batch is read when the next is under way, so that a GPU doesn't wait for it.
    for (places, described), _ in pairwise(chain(describe_batches(), [([], torch.empty(0))])):
        array[places] = described.cpu().numpy()
        bad = np.flatnonzero(~(np.linalg.norm(array[places], axis=1) > 0.5))
        if len(bad):
            fault = f"{files[places[bad[0]]]}: {embedder.name} gives a descriptor that is NaN or zero"
            raise ValueError(f"{fault}: check the image, then the weights, or leave the image out of the split")
        seen(len(places))
    return array


def multiscale(
    embedder: Embedder, pixels: Tensor, scales: Sequence[float] = SCALES, precision: str = "float32"
) -> Tensor:
    """Describe one batch of equal shape: uint8 (B, H, W, 3) -> float32 (B, D), L2-normalised, on one device."""
    images = pixels.permute(0, 3, 1, 2).float().div(255)  # (B, 3, H, W), channels last in memory
    if all(weight.is_contiguous() for weight in embedder.parameters()):  # the network wasn't made for that layout
        images = images.contiguous()
    half = torch.autocast(images.device.type, PRECISIONS[precision], enabled=precision != "float32")
    # enabled=True: the default of flags() turns cuDNN off.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False), half:
        total = torch.zeros(len(images), embedder.dim, device=images.device)
        for scale in scales:
            total += embedder(images, scale)
        return F.normalize(total, dim=1)


def decode_ahead(
    files: Iterable[Path], pool: ThreadPoolExecutor, ahead: int, read: Callable[[Path], NDArray[np.uint8]] | None = None
) -> Iterator[NDArray[np.uint8] | OSError]:
    """Decode in threads, some images ahead, and give pixels (H, W, 3) in order, or why a file can't be read."""
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    todo = iter(files)
    while True:
        waiting.extend(pool.submit(read or read_pixels, file) for file in islice(todo, ahead - len(waiting)))
        if not waiting:
            return
        try:
            yield waiting.popleft().result()
        except OSError as error:
            yield error


def _batches(
    images: Iterable[NDArray[np.uint8] | OSError], batch_size: int | None, most_pixels: int, on_error: str
) -> Iterator[tuple[list[int], Tensor]]:
    """Stack images of one shape, in reading order: their places, and uint8 pixels (B, H, W, 3)."""

    def stack(batch: list[tuple[int, NDArray[np.uint8]]]) -> tuple[list[int], Tensor]:
        return [place for place, _ in batch], torch.from_numpy(np.stack([pixels for _, pixels in batch]))

    same_shape: dict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]] = defaultdict(list)
    for place, pixels in enumerate(images):
        if isinstance(pixels, OSError):
            if on_error == "raise":
                way_out = "Replace it and run again (what is finished is kept), or skip such with on_error='skip'"
                raise OSError(f"can't read an image: {pixels}. {way_out}") from pixels
            continue
        batch = same_shape[pixels.shape]
        batch.append((place, pixels))
        if len(batch) >= (batch_size or max(min(most_pixels // (pixels.size // 3), _MOST), 1)):
            yield stack(same_shape.pop(pixels.shape))
    yield from map(stack, same_shape.values())


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Read an image as pixels (H, W, 3). Raises OSError, with the path, where it can't be read or is below 8 x 8."""
    pixels = np.asarray(dataset.read_image(path))
    if min(pixels.shape[:2]) < 8:
        raise OSError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, expected 8 x 8 at least")
    return pixels


def make_recipe(
    split: Split,
    embedder: Embedder,
    scales: Sequence[float] = SCALES,
    precision: str = "float32",
    pixels: str | None = None,
) -> dict[str, Any]:
    """Describe how these descriptors are made: first what must be the same to resume, then what is good to know.

    `pixels` is the `Reader.name` of pixels that aren't those of the files. Raises ValueError for a split without
    images, scales that aren't positive numbers, an unknown precision.
    """
    if isinstance(scales, str | float | int) or not len(scales) or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must be positive numbers, a sequence such as (1, 0.5), got {scales!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if not len(split):
        raise ValueError(f"the split of {split.root} has no images: nothing to describe")
    return {
        "weights_sha256": embedder.weights_sha256(),
        "network": embedder.identity,
        "dim": embedder.dim,
        "scales": [float(scale) for scale in scales],
        "images": len(split),
        "images_sha256": split.sha256,
        "precision": precision,
        "pixels": pixels,
        "backbone": embedder.name,
        "skipped": [],
        "versions": {"metlib": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "timm", "numpy", "pillow")},
    }


def extract_museum(
    museum: Museum,
    embedder: Embedder,
    work_dir: str | Path,
    *,
    visits: int = 0,
    device: str | None = None,
    **options: Any,
) -> Iterator[tuple[str, Path, bool]]:
    """Extract what `describe` does, this process its share; give each part's name, path and whether it's whole.

    Shares come from RANK, WORLD_SIZE and LOCAL_RANK in the environment, as torchrun sets them. Raises ValueError for
    variables that aren't numbers, and as `extract` does.
    """
    rank, ranks = _read_number("RANK", 0), _read_number("WORLD_SIZE", 1)
    device = device or find_device()
    if device == "cuda" and ranks > 1:
        device = f"cuda:{_read_number('LOCAL_RANK', 0)}"
    shared = {"device": device, "rank": rank, "ranks": ranks, **options}
    for name, split, out, reader in plan_museum(museum, embedder, work_dir, visits=visits, **options):
        path = extract(split, embedder, out, label=name, reader=reader, **shared)
        yield name, path, path.exists()


def _read_number(variable: str, otherwise: int) -> int:
    value = os.environ.get(variable, str(otherwise))
    if not value.isdecimal():
        raise ValueError(f"{variable} is {value!r} in the environment, expected a number as torchrun sets it")
    return int(value)
