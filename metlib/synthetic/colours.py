"""Colours and chance: palettes, pictures as arrays (H, W, 3) float32 in [0, 1], random choices of an exhibit, noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import default_rng

from metlib.common.drawing import Array, colours, mix, noise

# From dark to light, the fourth is the accent.
PALETTES = {
    "harbour at dusk": "1b2a41 324a5f 5b7a8c e08e45 f2c078 fbe8c8",
    "olive grove": "2b2d1f 4f5b32 7d8a4e c7863b d9c58a f3ead0",
    "winter light": "22313f 4a6274 8aa2b2 c96f53 d5dde1 f4f1ea",
    "rose garden": "3a1f2d 7a3b4d b0647a 6f8f6b e6b7b0 f8e9e2",
    "cobalt": "0f1f4b 1f3f8f 4a76c4 c9a24a b9cde8 f2f5f8",
    "terracotta": "2a1712 6b2f1d b4552d e0a458 ecc9a0 f7ecdc",
    "moss and gold": "1f2a22 3f5a45 7a9470 d4a72c dcd3a2 f5f0dc",
    "plum": "251a33 4a3266 7f5a99 e0956b cdb4d8 f3ebf2",
    "peacock": "0b2b33 11606b 3c9a9a e2703a a9d6c9 eff6ec",
    "vermilion": "2b1414 7d1f1f c8402b e9a23b f0cf9b faf0df",
    "ink": "1a1a1c 3d3d40 77757a a63a2c c9c0ad ece3cf",
    "lapis": "101b3a 27407a 5878ad d8863f c7c3b0 f1eada",
    "autumn": "2c1a12 6d3a1c a8642a c93f26 e3b04b f6e5c1",
    "sea glass": "16323a 3b6e75 79aaa6 e0b15c c8e0d5 f6f4e6",
    "desert": "38241f 7f4f3a b97f57 4f7f86 e3bd8f f7e6cb",
    "iris": "1d1f47 3f4391 7c7fc2 f0b54a c3c6ea f4f2fa",
}


def ramp(stops: Any, t: Any) -> Array:
    """Look t in [0, 1] up in evenly spaced colours: (..., 3)."""
    stops = np.asarray(stops, np.float32)
    table = np.stack([np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(stops)), c) for c in stops.T], 1)
    return table.astype(np.float32)[np.clip(np.asarray(t) * 255, 0, 255).astype(np.uint8)]


KINSHIP = 0.26  # how far an exhibit strays from its series, as a part of each choice's range


class Choices:
    """Two random generators, the series' and the exhibit's own: every choice is the series' choice, varied a little."""

    def __init__(self, series: Sequence[int], own: Sequence[int]) -> None:
        self.seeds = (list(series), list(own))
        self.series, self.own = default_rng(self.seeds[0]), default_rng(self.seeds[1])

    def part(self, k: int) -> "Choices":
        """Give a fresh pair for part k of the picture: what is drawn for one part doesn't shift the next."""
        return Choices([*self.seeds[0], k], [*self.seeds[1], k])

    def between(self, low: float, high: float, variation: float = 1.0) -> float:
        varied = self.series.uniform(low, high) + variation * KINSHIP * (high - low) * self.own.normal()
        return float(np.clip(varied, low, high))

    def count(self, low: int, high: int) -> int:
        return int(np.clip(self.series.integers(low, high + 1) + self.own.integers(-1, 2), low, high))

    def among(self, options: Sequence[Any]) -> Any:
        return options[int(self.series.integers(len(options)))]

    def palette(self, name: str) -> Array:
        """Give an exhibit's six colours: the named palette, mixed with one other and varied a little."""
        named, other = colours(PALETTES[name]), colours(PALETTES[self.among(list(PALETTES))])
        mixed = mix(named, other, self.own.uniform(0, 0.7)) * (1 + 0.2 * KINSHIP * self.own.normal(size=3))
        return np.clip(mixed + 0.15 * KINSHIP * self.own.normal(), 0, 1).astype(np.float32)

    def noise(self, shape: tuple[int, int], grain: Any = 4, octaves: int = 4) -> Array:
        own = 2 * KINSHIP
        return (1 - own) * noise(self.series, shape, grain, octaves) + own * noise(self.own, shape, grain, octaves)
