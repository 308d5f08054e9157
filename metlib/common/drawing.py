"""Pictures as arrays (H, W, 3) float32 in [0, 1]: colours, layers, noise, and places in heights of the picture.

y runs from 0 to 1, x from 0 to width/height.
"""

from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

Array = np.ndarray


def colours(hexes: str) -> Array:
    """Read "1b2a41 324a5f" as an (n, 3) array."""
    return np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in hexes.split()], np.float32)


def pick_colour(rng: Generator, hexes: str) -> Array:
    """Pick one of several colours."""
    return np.asarray(rng.choice(colours(hexes)))


def pigment(*channels: float) -> Array:
    return np.array(channels, np.float32)


def mix(below: Any, above: Any, t: Any) -> Array:
    """Lay `above` over `below` with opacity t (H, W)."""
    t = np.clip(np.asarray(t, np.float32), 0, 1)[..., None]
    return np.asarray(below * (1 - t) + above * t, np.float32)


def to_image(rgb: Array) -> Image.Image:
    return Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))


def to_array(image: Image.Image) -> Array:
    return np.asarray(image, np.float32) / 255


def noise(rng: Generator, shape: tuple[int, int], grain: Any = 4, octaves: int = 4) -> Array:
    """Draw clouds: (H, W) in [0, 1], `grain` blobs (down, across) in the coarsest of `octaves` layers."""
    down, across = grain if isinstance(grain, tuple) else (grain, grain)
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        coarse = rng.random((max(1, down * 2**octave), max(1, across * 2**octave)), np.float32)
        fine = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        total += 0.5**octave * np.asarray(fine)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def grid(w: int, h: int) -> tuple[Array, Array, float]:
    """Give every pixel its x (1, W) and y (H, 1), and the picture its width, all in heights."""
    x, y = (np.arange(w, dtype=np.float32)[None] + 0.5) / h, (np.arange(h, dtype=np.float32)[:, None] + 0.5) / h
    return x, y, w / h


def edge(distance: Array, width: float = 0.006) -> Array:
    """Turn a signed distance into coverage: 1 inside, a soft border of `width`."""
    return np.clip(0.5 + distance / width, 0, 1)


def bell(distance: Any, width: Any) -> Any:
    """Fall off from 1 at distance 0, as a Gaussian does: exp(-(distance / width)²)."""
    return np.exp(-((distance / width) ** 2))
