"""What a process may use beside others: cores, memory, threads."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from metlib import WAITING

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What numpy, torch and faiss read when they are loaded."""

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
_MEMINFO = Path("/proc/meminfo")


def count_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that are free for new processes, or all there are where the system doesn't say; None if unknown."""
    known = []
    with suppress(OSError, ValueError, AttributeError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        known.append(int(_LIMIT.read_text()))
    with suppress(OSError, ValueError, StopIteration):
        lines = _MEMINFO.read_text().splitlines()
        known.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    return min(known, default=None)


def thread_settings(threads: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Give the variables that keep a process to so many threads; those that `environment` sets already are left out.

    Threads that wait soon sleep, so that processes side by side don't take each other's cores.
    """
    wanted = dict.fromkeys(THREADS, str(threads)) | WAITING
    return {name: value for name, value in wanted.items() if name not in environment}
