"""Decoded images, kept on disk and mapped into memory: the second epoch reads pixels where the first decoded files.

One flat file of bytes and a table of places: threads and worker processes share one memory map without a lock, and the
collection never has to fit into memory. Images are resized to one area, with their proportions kept.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from metlib import dataset
from metlib.common.checks import check_integer
from metlib.common.files import replacing
from metlib.common.progress import track
from metlib.dataset import Split
from metlib.extract import decode_ahead

STEP = 32
"""Sides are multiples of this, a network's usual stride: so there are few shapes, and stacks of one shape are full."""

_FORM = 1  # raise it when the same files give other bytes
_THREADS = 4


@dataclass(frozen=True, eq=False)
class Cache:
    """Decoded images: call it with a file's path for its pixels (h, w, 3) uint8, which mustn't be written to.

    `places` (N, 3) int64 are first byte, height and width, `rows` maps a file to its row, `digest` is a hash of all
    pixels. Raises KeyError for a file that isn't in it.
    """

    folder: Path
    side: int
    rows: Mapping[str, int]
    places: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    digest: str

    @property
    def name(self) -> str:
        """How pixels were made of files, and the hash of the result: a recipe of descriptors contains it."""
        return f"area of {self.side} x {self.side}, sides multiples of {STEP}, bicubic; {self.digest}"

    def __len__(self) -> int:
        return len(self.places)

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        """The pixels of a file: a view of the memory map."""
        start, height, width = self.places[self.rows[str(path)]].tolist()
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.folder, self.side, list(self.rows))  # a worker maps the file; the bytes aren't sent to it


def build(split: Split, work_dir: str | Path, side: int, *, sources: Sequence[str] | None = None) -> Cache:
    """Decode the images of a split once, into a folder under `work_dir`, or open what is there.

    `side` is the square root of the images' area in pixels. Files of another size or date are decoded again; of several
    processes one decodes, the others wait. `sources` (N,) are the lines that list the images, for errors.
    Raises ValueError for a side below 32 or a split without images, OSError for an image that can't be read.
    """
    check_integer("side", side, STEP)
    if not len(split):
        raise ValueError(f"the split of {split.root} has no images: nothing to decode")
    files = [split.file(i) for i in range(len(split))]
    listing = "\n".join([str(_FORM), str(split.root.resolve()), *map(_state, split.paths, files)])
    folder = Path(work_dir, "pixels", f"{side}-{hashlib.sha256(listing.encode()).hexdigest()[:12]}")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not (folder / "places.npy").exists():
            _decode(files, folder, side, sources)
    return _open(folder, side, [str(file) for file in files])


def fit_area(width: int, height: int, side: int) -> tuple[int, int]:
    """Choose width and height, multiples of `STEP`, of nearly the area side x side and the proportions given."""
    factor = side / math.sqrt(width * height)
    across, down = (max(STEP, STEP * round(edge * factor / STEP)) for edge in (width, height))
    return across, down


def _state(path: str, file: Path) -> str:
    """A file's path with its size and date, by which it is known to be the same."""
    try:
        now = file.stat()
        return f"{path}\t{now.st_size}\t{now.st_mtime_ns}"
    except OSError:
        return path  # reading it raises the error


def _decode(files: Sequence[Path], folder: Path, side: int, sources: Sequence[str] | None) -> None:
    """Write all pixels one after another, then the table of places: where a table is, the pixels are whole."""

    def read(path: Path) -> NDArray[np.uint8]:
        image = dataset.read_image(path)
        return np.asarray(image.resize(fit_area(*image.size, side), Image.Resampling.BICUBIC))

    places: list[tuple[int, ...]] = []
    start, digest = 0, hashlib.sha256()
    bar = track(total=len(files), label="decoding")
    with replacing(folder / "pixels.bin") as out, ThreadPoolExecutor(_THREADS) as pool, bar:
        for pixels in decode_ahead(files, pool, 4 * _THREADS, read):
            if isinstance(pixels, OSError):
                where = f" ({sources[len(places)]})" if sources is not None else ""
                raise OSError(f"can't read an image: {pixels}{where}. Replace it, or leave its row out") from pixels
            places.append((start, *pixels.shape[:2]))
            raw = pixels.tobytes()
            start += out.write(raw)
            digest.update(raw)
            bar.update()
    with replacing(folder / "sha256", "w") as text:
        text.write(digest.hexdigest())
    with replacing(folder / "places.npy") as table:
        np.save(table, np.array(places, np.int64))


def _open(folder: Path, side: int, files: Sequence[str]) -> Cache:
    """Map a finished cache. Raises ValueError where its files don't fit each other."""
    try:
        places = np.load(folder / "places.npy", allow_pickle=False)
        pixels = np.memmap(folder / "pixels.bin", np.uint8, "r")
        digest = (folder / "sha256").read_text(encoding="ascii")[:8]
        ends = places[:, 0] + 3 * places[:, 1] * places[:, 2]
        if places.shape != (len(files), 3) or ends[-1] != len(pixels) or (places[1:, 0] != ends[:-1]).any():
            raise ValueError(f"{len(pixels)} bytes, places {places.shape} for {len(files)} images")
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"{folder} is damaged ({error}): delete it to decode again") from error
    return Cache(folder, side, {file: row for row, file in enumerate(files)}, places, pixels, digest)
