"""The one progress display of the package: a bar for a person, nothing for a batch run."""

import os
import sys
from typing import Any

from tqdm.auto import tqdm


def watched() -> bool:
    """Whether a person is likely to watch: a terminal or a live notebook, unless METLIB_PROGRESS=0."""
    if setting := os.environ.get("METLIB_PROGRESS"):  # 0 under papermill, where each refresh would become an output
        return setting != "0"
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def track(*, total: int, label: str, unit: str = "image", done: int = 0, scale: bool = False) -> Any:
    """Start a bar with rate and time left; a context manager with `.update(n)`.

    `done` of `total` were finished by an earlier run and don't count in the rate; `scale` shows 1200000 as 1.2M.
    """
    return tqdm(
        total=total, initial=done, desc=label, unit=unit, unit_scale=scale, mininterval=0.5, disable=not watched()
    )
