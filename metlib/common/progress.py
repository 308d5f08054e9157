"""The one progress display of the package: a bar for a person, nothing for a batch run."""

import os
import sys
from typing import Any

from tqdm.auto import tqdm


def watched() -> bool:
    """Whether a person is likely to watch: a terminal or a live notebook, unless METLIB_PROGRESS=0.

    Under papermill every refresh of a bar would become one output of the notebook, so the runner sets that
    variable.
    """
    if setting := os.environ.get("METLIB_PROGRESS"):
        return setting != "0"
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def track(*, total: int, label: str, unit: str = "image", done: int = 0, scale: bool = False) -> Any:
    """Start a bar with rate and time left; a context manager with `.update(n)`.

    `total` and `done` count `unit`s; what was finished by an earlier run (`done`) doesn't count in the rate.
    `scale=True` shows 1.2M instead of 1200000 (bytes).
    """
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        unit_scale=scale,
        mininterval=0.5,
        disable=not watched(),
    )
