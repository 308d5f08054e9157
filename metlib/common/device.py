"""Devices that compute: which one is here, and whether one that was asked for can be used."""

import torch


def find_device() -> str:
    """The fastest device here: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raise ValueError for a device that can't be used here, with the reason."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} can't be used here ({reason}): name cuda, mps or cpu, or none") from error
