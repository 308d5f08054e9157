"""What the tests of the runner share: the environment put back, and a museum without images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner sets these for its kernels; put them back."""
    monkeypatch.setenv("METLIB_PROGRESS", "0")
    monkeypatch.setenv("JUPYTER_PATH", os.environ.get("JUPYTER_PATH", ""))


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ground truth alone: the runner reads no image."""
    root = tmp_path_factory.mktemp("a museum") / "toy <museum>"
    (root / "images").mkdir(parents=True)
    rows = {
        "MET_database": [{"id": i, "path": f"MET/{i}/0.jpg"} for i in range(3)],
        "valset": [{"MET_id": 1, "path": "test_met/a.jpg"}, {"path": "test_other/b.jpg", "category": "b"}],
        "testset": [{"MET_id": 2, "path": "test_met/c.jpg"}, {"path": "test_noart/d.jpg", "category": "d"}],
    }
    (root / "ground_truth").mkdir()
    for name, content in rows.items():
        (root / "ground_truth" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return root
