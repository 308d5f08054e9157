"""The random choices behind a picture: what a series has in common, and how far an exhibit strays from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image

from metlib.synthetic.palettes import Array

KINSHIP = 0.26  # how far an exhibit strays from its series, as a part of each choice's range


class Choices:
    """Two random generators, the series' and the exhibit's own: every choice is the series' choice, varied a little.

    `part(k)` is a fresh pair for one part of the picture; what is drawn for one part doesn't shift the next.
    """

    def __init__(self, series: Sequence[int], own: Sequence[int]) -> None:
        self.seeds = (list(series), list(own))
        self.series, self.own = default_rng(self.seeds[0]), default_rng(self.seeds[1])

    def part(self, k: int) -> Choices:
        return Choices([*self.seeds[0], k], [*self.seeds[1], k])

    def between(self, low: float, high: float, variation: float = 1.0) -> float:
        varied = self.series.uniform(low, high) + variation * KINSHIP * (high - low) * self.own.normal()
        return float(np.clip(varied, low, high))

    def count(self, low: int, high: int) -> int:
        return int(np.clip(self.series.integers(low, high + 1) + self.own.integers(-1, 2), low, high))

    def among(self, options: Sequence[Any]) -> Any:
        return options[int(self.series.integers(len(options)))]

    def noise(self, shape: tuple[int, int], grain: Any = 4, octaves: int = 4) -> Array:
        own = 2 * KINSHIP
        return (1 - own) * noise(self.series, shape, grain, octaves) + own * noise(self.own, shape, grain, octaves)


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
