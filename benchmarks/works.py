"""What whitening buys on photographs of one or several works: `python -m benchmarks.works FOLDER [NETWORK]`.

The folder is a plain collection: `works.csv` (id, file) of images in `exhibits/`, and `answers.csv` (photo; ids,
blank-separated; works_not_in_collection) of `photos/`. There is no val, so the settings are fixed beforehand.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metlib import NETWORK, VISITS, backbone, extract, knn, metrics
from metlib.dataset import Museum, Split
from metlib.descriptors import Described
from metlib.whiten import LearnedWhitening, PCAWhitening

DIMS, SHRINKAGE, RANKS = (128, 256), 0.1, (1, 2, 10)


def read(folder: Path, same: Sequence[Sequence[int]] = ()) -> tuple[Museum, list[set[int]]]:
    """Read a collection as a museum, and the works that each photo of its test split shows.

    Val are the photos of one work, test those of several; photos of works that the collection lacks are left out.
    `same` lists ids that are one work.
    """
    one = {i: min(ids) for ids in same for i in ids}
    answers, rows = _rows(folder / "answers.csv"), _rows(folder / "works.csv")
    works = [(f"exhibits/{row['file']}", one.get(int(row["id"]), int(row["id"]))) for row in rows]
    shown = [(f"photos/{row['photo']}", [one.get(int(i), int(i)) for i in row["ids"].split()]) for row in answers]
    known = [part for part, row in zip(shown, answers, strict=True) if row["works_not_in_collection"] == "0"]
    single = [(path, ids[0]) for path, ids in known if len(ids) == 1]
    several = [(path, ids) for path, ids in known if len(ids) > 1]
    splits = [_split(part, folder) for part in (works, single, [(path, ids[0]) for path, ids in several])]
    return Museum(splits[0], splits[1], splits[2], folder, folder.resolve().name), [set(ids) for _, ids in several]


def _split(rows: Sequence[tuple[str, int]], folder: Path) -> Split:
    return Split(np.array([path for path, _ in rows]), np.array([label for _, label in rows]), folder)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def recall(ranked: NDArray[np.int64], shown: Sequence[set[int]], rank: int) -> NDArray[np.float64]:
    """The share of the works that each photo shows which are among its first `rank` works; `ranked` repeats works."""
    firsts = [list(dict.fromkeys(row.tolist()))[:rank] for row in ranked]
    return np.array([len(works & set(first)) / len(works) for works, first in zip(shown, firsts, strict=True)])


def measure(described: Described, shown: Sequence[set[int]], dims: Sequence[int] = DIMS) -> Iterator[dict[str, Any]]:
    """Give a row for each whitening: shares in percent with 95 % intervals over photos."""
    X, visits, museum = described.database, described.visits, described.museum
    assert visits is not None
    ways: dict[tuple[str, int], PCAWhitening | LearnedWhitening | None] = {("none", X.shape[1]): None}
    for dim in dims:
        ways["pca", dim] = PCAWhitening(dim).fit(X)
        ways["learned", dim] = LearnedWhitening(dim, SHRINKAGE).fit(X, X[visits.rows], visits.descriptors)
    for (way, dim), whitening in ways.items():
        database, one, several = (
            rows if whitening is None else whitening.transform(rows) for rows in (X, described.val, described.test)
        )
        single = [{work} for work in museum.val.labels.tolist()]
        ranked = [museum.database.labels[knn.search(database, rows, len(X)).indices] for rows in (one, several)]
        shares = {"one work: right at rank 1": recall(ranked[0], single, 1)}
        shares |= {f"several: recall at {rank}": recall(ranked[1], shown, rank) for rank in RANKS}
        yield {"whitening": way, "dim": dim} | {name: _percent(share) for name, share in shares.items()}


def _percent(shares: NDArray[np.float64]) -> str:
    row = metrics.summarise_accuracy(shares[None])
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * row[f"accuracy{part}"] for part in ("", "_low", "_high")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.works", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("network", nargs="?", default=NETWORK)
    parser.add_argument("--work", type=Path, default=Path("work"), help="where descriptors are kept")
    parser.add_argument("--same", nargs="*", default=[], metavar="ID/ID", help="ids that are one work, such as 43/249")
    chosen = parser.parse_args(arguments)
    museum, shown = read(chosen.folder, [[int(i) for i in ids.split("/")] for ids in chosen.same])
    described = extract.describe(museum, backbone.load(chosen.network), chosen.work, visits=VISITS)
    print(f"{len(museum.database)} exhibits, {len(museum.val)} photos of one work, {len(shown)} of several")
    dims = [dim for dim in DIMS if dim < min(described.database.shape)]
    for number, row in enumerate(measure(described, shown, dims)):
        if not number:
            writer = csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
