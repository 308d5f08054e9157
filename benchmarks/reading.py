"""Before anything is computed: importing the package, and reading the ground truth of the whole Met."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import row, take_turns
from metlib import dataset

IMAGES, EXHIBITS = 397_121, 224_408


def ground_truth(repeats: int = 7) -> list[dict[str, Any]]:
    """`dataset.load` of a museum whose database lists as many images as the Met's, against `json.load`."""
    rng = np.random.default_rng(0)
    ids = np.sort(np.append(np.arange(EXHIBITS), rng.integers(EXHIBITS, size=IMAGES - EXHIBITS)))
    first = np.searchsorted(ids, ids)
    rows = [
        {"id": int(3 * i), "path": f"MET/{3 * i}/{n}.jpg"} for i, n in zip(ids, np.arange(IMAGES) - first, strict=True)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "MET_database.json").write_text(json.dumps(rows))
        for queries in dataset.QUERIES.values():
            (folder / queries).write_text(json.dumps([{"MET_id": 0, "path": "a.jpg"}]))

        def plain() -> None:
            with (folder / "MET_database.json").open("rb") as file:
                json.load(file)

        seconds = take_turns({"json": plain, "ours": lambda: dataset.load(folder)}, repeats)
        split = dataset.load(folder).database
    work = f"{IMAGES:,} rows"
    held = (split.paths.nbytes + split.labels.nbytes) / IMAGES
    return [
        row("ground truth", work, "of json.load", seconds["ours"] / seconds["json"], "<= 1.5"),
        row("ground truth", work, "bytes held for an image", held, "", "B"),
    ]


def importing(repeats: int = 15) -> list[dict[str, Any]]:
    """`import metlib` in a new interpreter, beyond numpy."""
    seconds: dict[str, list[float]] = {"import numpy": [], "import numpy, metlib": []}
    for _ in range(repeats):
        for code, taken in seconds.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            taken.append(time.perf_counter() - start)
    beyond = 1000 * np.subtract(seconds["import numpy, metlib"], seconds["import numpy"])
    return [row("import metlib", "a new interpreter", "more than numpy", beyond, "<= 50", "ms")]
