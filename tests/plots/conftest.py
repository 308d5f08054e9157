"""What the tests of pictures share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (30 + 10 * i, 60, 3), np.uint8)).save(path)
    return paths


@pytest.fixture
def scores() -> pd.DataFrame:
    table = pd.DataFrame({"dim": [64, 32, 128], "gap": [0.2, 0.1, 0.361], "gap_minus": [0.3, 0.2, np.nan]})
    return table.assign(name=["b", "a", "c"], gap_low=table.gap - 0.05, gap_high=table.gap + 0.04)


def texts(drawn: Axes | Figure) -> list[str]:
    """All texts that are seen."""
    return [t.get_text() for t in drawn.findobj(Text) if t.get_text() and t.get_visible()]
