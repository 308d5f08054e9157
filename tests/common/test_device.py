"""Which device computes."""

from __future__ import annotations

import pytest
import torch

from metlib.common.device import check_device, find_device


@pytest.mark.parametrize(("cuda", "mps", "found"), [(1, 1, "cuda"), (1, 0, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_fastest_device_is_found(cuda: int, mps: int, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert find_device() == found


def test_what_is_found_is_not_refused() -> None:
    check_device("cpu")
    check_device(find_device())


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "", "cpu:x", "xpu", "mps:7", 1.5])
def test_a_device_that_is_not_here_is_refused_by_name(device: str) -> None:
    with pytest.raises(
        ValueError, match=r"device .* can't be used here \(.*\): name cuda, mps or cpu, or none"
    ) as caught:
        check_device(device)
    assert repr(device) in str(caught.value) and "\n" not in str(caught.value)
