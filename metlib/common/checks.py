"""Checks of arguments where they enter: one sentence with the name, the value and what was expected."""

from typing import Any

import numpy as np

UNKNOWN = -1
"""The label of an image that has none."""


def check_integer(name: str, value: Any, least: int, most: int | None = None, bound: str = "") -> None:
    """Raise ValueError unless `value` is an integer (no bool) from `least` to `most`; `bound` is `most` in words.

    >>> check_integer("k", 0, 1, 20, "the 20 images of the database")
    Traceback (most recent call last):
    ValueError: k must be an integer from 1 to the 20 images of the database, got 0
    """
    plain = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not plain or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {bound or most}"
        raise ValueError(f"{name} must be an integer {span}, got {value!r}")
