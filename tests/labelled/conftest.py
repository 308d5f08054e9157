"""What the tests of labelled collections share: those of training, and ninety plain pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from metlib.labelled import UNKNOWN, Labelled
from tests.train.conftest import checkpoint, embedder, museum, quick, settings  # noqa: F401


@pytest.fixture(scope="session")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Ninety plain pictures of two attributes: `colour` (three) is easily seen, `edge` is their upper half's light.

    A sixth of the images has no label for `edge`; of five in a row three are train, one val and one test.
    """
    root, rng, n = tmp_path_factory.mktemp("paintings"), np.random.default_rng(0), 90
    colour, edge = np.arange(n) % 3, (np.arange(n) // 3) % 2
    for i in range(n):
        pixels = np.full((48, 36 + 12 * (i % 2), 3), 60.0)
        pixels[..., colour[i]] = 200
        pixels[:24] += 50 * edge[i]
        noisy = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"{i}.png")
    return Labelled(
        name="paintings",
        root=root,
        paths=np.array([f"{i}.png" for i in range(n)]),
        splits=np.array(["train", "train", "train", "val", "test"])[np.arange(n) % 5],
        labels={"colour": colour, "edge": np.where(np.arange(n) % 6 == 5, UNKNOWN, edge)},
        classes={"colour": ("red", "green", "blue"), "edge": ("dark", "light")},
        groups=np.arange(n),
        sources=np.array([f"made.csv:{i}" for i in range(n)]),
    )
