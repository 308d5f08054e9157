"""What methods share: plans are checked."""

from __future__ import annotations

import numpy as np
import pytest

from metlib.train.method import Plan


def test_a_plan_is_checked() -> None:
    with pytest.raises(ValueError, match=r"\(M, V\)"):
        Plan(np.zeros((3, 2), np.int64), np.zeros(2, np.int64))
