"""Images of a museum: decoded as RGB, measured by their headers, and verified."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from metlib.dataset.layout import Museum


@dataclass(frozen=True)
class Problem:
    """An image that can't be used: its file and why (missing, empty, truncated, undecodable)."""

    path: Path
    reason: str


def read_image(path: str | Path) -> Image.Image:
    """Decode one image as RGB with its EXIF orientation applied, at its native size.

    Raises OSError (with the path in it) for a file that is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit greyscale, which convert() would clip to white
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except UnidentifiedImageError as error:
        raise OSError(f"{path}: undecodable, no image format fits") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything, from SyntaxError to struct.error
        reason = "truncated" if "truncated" in str(error).lower() else "undecodable"
        raise OSError(f"{path}: {reason} ({error})") from error


def read_size(path: str | Path) -> tuple[int, int]:
    """Read width and height of an image, in pixels and upright, from its header alone.

    Raises OSError (with the path in it) for a file that is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Not the image's own method: a PNG's would decode the whole picture.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) >= 5
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: undecodable ({error})") from error
    return (height, width) if turned else (width, height)


def verify(museum: Museum, workers: int = 8) -> list[Problem]:
    """Decode every image of a museum, on `workers` threads; return those that can't be used, in the splits' order."""
    return verify_files((split.file(i) for split, _ in museum.splits() for i in range(len(split))), workers)


def verify_files(files: Iterable[Path], workers: int = 8) -> list[Problem]:
    """Decode image files, each once; return those that are missing, empty, truncated or undecodable."""
    once = dict.fromkeys(files)
    with ThreadPoolExecutor(workers) as pool:
        reasons = pool.map(_reason, once)
        return [Problem(path, reason) for path, reason in zip(once, reasons, strict=True) if reason]


def _reason(path: Path) -> str:
    try:
        if not path.is_file():
            return "missing"
        if not path.stat().st_size:
            return "empty"
    except OSError:  # a name that is too long, a folder that may not be entered
        return "missing"
    try:
        read_image(path)
    except OSError as error:
        return "truncated" if str(error).startswith(f"{path}: truncated") else "undecodable"
    return ""
