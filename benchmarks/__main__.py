"""Run every benchmark in a process of its own; write figures/benchmarks.csv and its chart."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metlib.common.files import replacing

BENCHMARKS = {
    "search-mini": ("descriptors", "search_mini"),
    "search-full": ("descriptors", "search_full"),
    "grid": ("descriptors", "grid"),
    "whitening": ("descriptors", "whitening"),
    "bootstrap": ("descriptors", "bootstrap"),
    "extraction-cpu": ("images", "cpu"),
    "extraction-gpu": ("images", "gpu"),
    "ground-truth": ("reading", "ground_truth"),
    "import": ("reading", "importing"),
}
FIGURES = Path(__file__).resolve().parents[1] / "figures"


def run(name: str) -> list[dict[str, Any]]:
    """Run one benchmark in a new process and give its rows."""
    module, function = BENCHMARKS[name]
    code = f"import json; from benchmarks import {module}; print(json.dumps({module}.{function}()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FIGURES.parent, env=os.environ | {"METLIB_PROGRESS": "0"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [{"benchmark": name, **line} for line in json.loads(done.stdout.splitlines()[-1])]


def machine() -> str:
    """The processor and the versions that decide these figures."""
    try:
        model = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("model name")[1].split(":")[1].splitlines()[0]
    except (OSError, IndexError):
        model = platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "faiss-cpu", "torch"))
    return f"{os.cpu_count()} cores, {model.strip()}, {versions}"


def write(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows, keeping those of benchmarks that weren't run this time."""
    kept = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            kept = list(csv.DictReader(file))
    again = {line["benchmark"] for line in lines}
    rows = [line for line in kept if line["benchmark"] not in again] + list(lines)
    rows.sort(key=lambda line: list(BENCHMARKS).index(line["benchmark"]))
    with replacing(path, "w") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(path: Path) -> None:
    """Draw every figure that has a bound as a share of it, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    from metlib import plots

    with path.open(encoding="utf-8", newline="") as file:
        rows = [line for line in csv.DictReader(file) if line["must be"]][::-1]
    with plots.style():
        figure, ax = plt.subplots(figsize=(10, 0.36 * len(rows) + 1.3), layout="constrained")
    for place, line in enumerate(rows):
        sign, limit = line["must be"].split()
        low, value, high = (float(line[key]) / float(limit) for key in ("lowest", "value", "highest"))
        if sign == "<=":  # right of the line is better for all
            low, value, high = (1 / max(part, 1e-3) for part in (high, value, low))
        good = line["reached"] == "yes"
        colour = plots.COLOURS["right" if good else "wrong"]
        ax.plot([low, high], [place, place], color=colour, linewidth=2)
        ax.plot([value], [place], color=colour, marker="o" if good else "X", markersize=7)
        said = f"{line['value']} {line['unit']}".strip()
        ax.annotate(said, (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                    va="center", fontsize=8)  # fmt: skip
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xscale("log")
    ax.set_yticks(
        range(len(rows)),
        [f"{row['step']}, {row['work'].split(', ')[0]}: {row['figure']} ({row['must be']})" for row in rows],
        fontsize=8,
    )
    ax.set_xlabel("times better than it must be (right of the line: reached); line: lowest to highest round")
    plots.publish(
        figure, path.with_suffix(".png"), stamp=machine(),
        alt="Each figure of figures/benchmarks.csv as a share of what it must be: green dots right of the line are "
        "reached, red crosses left of it aren't.",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder for benchmarks.csv and .png")
    chosen = parser.parse_args(arguments)
    print(machine())
    lines: list[dict[str, Any]] = []
    for name in chosen.only:
        found = run(name)
        lines += found
        for line in found:
            said = f"{line['value']} {line['unit']}".strip()
            bound = f" (must be {line['must be']}: {line['reached']})" if line["must be"] else ""
            print(f"{line['step']}, {line['work']}: {line['figure']} {said}{bound}", flush=True)
    if lines:
        write(lines, chosen.figures / "benchmarks.csv")
        draw(chosen.figures / "benchmarks.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
