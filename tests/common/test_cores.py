"""What a process may use beside others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metlib import WAITING
from metlib.common import cores


def test_cores_and_memory_of_this_machine_are_plausible() -> None:
    assert 1 <= cores.count_cores() <= (os.cpu_count() or 1)
    assert (free := cores.free_memory()) is None or free > 10**7


@pytest.mark.parametrize(
    ("limit", "available", "expected"),
    [("max", "MemAvailable: 2000 kB", 2_048_000), ("1000000", "MemAvailable: 2000 kB", 1_000_000), ("9", None, 9)],
)
def test_memory_is_what_is_free_within_the_container(
    limit: str, available: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_LIMIT", tmp_path / "limit")
    monkeypatch.setattr(cores, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "limit").write_text(limit + "\n")
    if available:
        (tmp_path / "meminfo").write_text(f"MemTotal: 9000 kB\n{available}\n")
    assert cores.free_memory() == expected


def test_a_person_s_own_settings_stand() -> None:
    given = cores.thread_settings(3, {"MKL_NUM_THREADS": "8"})
    assert given == {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"} | WAITING


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        ({}, WAITING),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, WAITING | {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_importing_metlib_lets_waiting_threads_sleep(mine: dict[str, str], expected: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | mine
    found = f"[os.environ.get(name) for name in {list(WAITING)}]"
    code = f"import json, metlib, os, sys; print(json.dumps({found}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{json.dumps([expected.get(name) for name in WAITING])} False"
