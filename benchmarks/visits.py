"""What pays in whitening that is learned from simulated visits: `python -m benchmarks.visits MUSEUM [NETWORK]`.

Every line changes one thing of the default (three visits of each image; val chooses dimension, shrinkage, k and tau),
chooses anew on val, and is compared with the default on the same queries: GAP in percent, its difference with a paired
95 % interval, and a star where that leaves 0 out. `without` compares one visit lacking a disturbance with one visit.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metlib import NETWORK, VISITS, backbone, dataset, descriptors, evaluate, extract
from metlib.analysis import checks
from metlib.backbone import Embedder
from metlib.descriptors import Described, Visits
from metlib.evaluate import Choice, Scored
from metlib.extract import Visitor
from metlib.visits import DISTURBANCES

Variant = tuple[str, Described, dict[str, Any]]  # its name, descriptors, and options of evaluate.choose


def counts(default: Described, embedder: Embedder, work: Path, numbers: Sequence[int]) -> Iterator[Variant]:
    """Fewer and more visits of each image, and none: PCA whitening, and no whitening."""
    yield "no whitening", default, {"whitening": "none"}
    yield "PCA whitening", default, {"whitening": "pca"}
    for n in numbers:
        yield f"{n} visits", extract.describe(default.museum, embedder, work, visits=n), {}


def without(default: Described, embedder: Embedder, work: Path, *_: Any) -> Iterator[Variant]:
    """One visit of each image, whole and with one disturbance left out."""
    whole = extract.describe(default.museum, embedder, work, visits=1)
    yield "nothing", whole, {}
    images, rows = default.museum.database, np.arange(len(default.database))
    for name in DISTURBANCES:
        rest = extract.describe_split(images, embedder, work, Visitor(0, (name,)), label=name, scales=extract.SCALES)
        yield name, replace(whole, visits=Visits(rows, rest)), {}


def shrinkages(default: Described, *_: Any) -> Iterator[Variant]:
    """Every shrinkage, each with its own best dimension."""
    for shrinkage in (0.003, 0.01, 0.03, 0.1, 0.3, 0.6):
        yield f"{shrinkage:g}", default, {"shrinkage": shrinkage}


def dims(default: Described, *_: Any) -> Iterator[Variant]:
    """Every dimension, each with its own best shrinkage."""
    for dim in (32, 64, 128, 256, 512):
        if dim < len(default.database):
            yield f"{dim}", default, {"dim": dim}


def joined(default: Described, *_: Any) -> Iterator[Variant]:
    """PCA whitening after the learned one, before it, and beside it."""
    pca = transformed(default, evaluate.choose(default, whitening="pca"))
    best = evaluate.choose(default)
    for dim in sorted({best.dim or 256, 256}):
        learned = transformed(default, best if dim == best.dim else evaluate.choose(default, dim=dim))
        wide = learned.database.shape[1]
        for shrinkage in (0.25, 0.5, 1.0):
            options = {"whitening": "pca", "dim": wide, "shrinkage": shrinkage}
            yield f"learned to {wide} then PCA by {shrinkage:g}", learned, options
        yield f"learned to {wide} beside PCA", descriptors.concatenate([learned, pca]), {"whitening": "none"}
    yield "PCA then learned", pca, {}


def pairs(default: Described, *_: Any) -> Iterator[Variant]:
    """Pairs of database images of one work, as a museum took them: alone, and joined to the visits."""
    visits, labels = default.visits, default.museum.database.labels
    first, second = np.nonzero(np.triu(labels[:, None] == labels, 1))
    if not len(first) or visits is None:
        return
    real = Visits(first, default.database[second])
    rows, seen = np.append(visits.rows, real.rows), np.concatenate([visits.descriptors, real.descriptors])
    yield f"{len(first)} real pairs", replace(default, visits=real), {}
    yield "visits and real pairs", replace(default, visits=Visits(rows, seen)), {}


PARTS: dict[str, Callable[..., Iterator[Variant]]] = {
    "counts": counts, "without": without, "shrinkages": shrinkages, "dims": dims, "joined": joined, "pairs": pairs,
}  # fmt: skip


def transformed(described: Described, choice: Choice) -> Described:
    """Whiten all of a descriptor set."""
    visits = described.visits and Visits(described.visits.rows, choice.transform(described.visits.descriptors))
    rows: dict[str, Any] = {name: choice.transform(getattr(described, name)) for _, name in described.museum.splits()}
    return replace(described, **rows, visits=visits)


def judge(described: Described, options: dict[str, Any]) -> tuple[Choice, dict[str, Scored]]:
    """Choose on val; answer and judge val and test."""
    choice = evaluate.choose(described, **options)
    return choice, {split: evaluate.score(choice, described, split) for split in ("val", "test")}


def compare(one: Scored, other: Scored) -> str:
    """The difference of two GAPs on the same queries in percent, with a paired 95 % interval: "+0.4 [-0.2, 1.1]"."""
    found = checks.gain(other.answers, one.answers, one.truth)
    gap, low, high = (100 * found[key] for key in ("gap", "gap_low", "gap_high"))
    return f"{gap:+.1f} [{low:+.1f}, {high:+.1f}]" + " *" * bool(low > 0 or high < 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.visits", description=__doc__)
    parser.add_argument("museum", type=Path)
    parser.add_argument("network", nargs="?", default=NETWORK)
    parser.add_argument("--work", type=Path, default=Path("work"), help="where descriptors are kept")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--visits", nargs="+", type=int, default=[1, 2, 3, 6], help="numbers of visits that are tried")
    chosen = parser.parse_args(arguments)
    museum, embedder = dataset.load(chosen.museum), backbone.load(chosen.network)
    default = extract.describe(museum, embedder, chosen.work, visits=VISITS)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["part", "variant", "dim", "shrinkage", "k", "tau", "val", "difference", "test", "difference"])
    whole = judge(default, {})
    for part in chosen.only:
        against = whole
        for name, described, options in PARTS[part](default, embedder, chosen.work, chosen.visits):
            choice, scored = now = judge(described, options)
            if name == "nothing":
                against = now
            row = [part, name, choice.dim, choice.whitening and choice.whitening.shrinkage]
            row += [choice.tuning.k, choice.tuning.tau]
            for split, judged in scored.items():
                row += [f"{100 * judged.scores.gap:.1f}", compare(judged, against[1][split])]
            writer.writerow(row)
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
