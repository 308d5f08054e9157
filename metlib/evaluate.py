"""The protocol whole: whitening from the database, k and tau from val, scores on test. No image is needed for it.

    python -m metlib.evaluate descriptors.pkl --ground-truth data/met --database mini

scores the authors' `descriptors.pkl`, or a folder that `extract.describe` left; several are joined before whitening.
It answers to the authors' own `python -m code.examples.knn_eval DIR --autotune --info_dir DIR`, with one difference.
The authors' released tool tunes only tau, at k = 1, because its --k defaults to 1; its published figures came from the
whole grid (36.1 GAP becomes about 23 otherwise). Here the whole grid is the default, and `--k 1 --whitening 512` does
as their tool.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metlib import __version__, dataset, descriptors, metrics, tune
from metlib.common.files import replacing
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.knn import Neighbours, Predictions, classify, search
from metlib.tune import KS, TAUS, DimTuning, Tuning
from metlib.whiten import PCAWhitening, decompose

RELEASED_TOOL = (
    "The authors' released tool tunes only tau, at k = 1, because its --k defaults to 1; its published figures came "
    "from the whole grid (36.1 GAP becomes about 23 otherwise)."
)


@dataclass(frozen=True, eq=False)
class Run:
    """One measured run: how it was set, what val chose, and the scores of val and test as fractions.

    `dim` is the whitened dimension (None: raw), `raw_dim` that of the descriptors, `dims` the dimensions that were
    tried on val (None: none was). `val` and `test` are rows of `metrics.summary`; val's are optimistic where
    `tuned_on_val`. `answers` and `neighbours` are by split, "val" and "test". `seconds` says how long each step took.
    """

    dim: int | None
    raw_dim: int
    shrinkage: float
    dims: DimTuning | None
    tuning: Tuning
    val: dict[str, float]
    test: dict[str, float]
    answers: dict[str, Predictions]
    neighbours: dict[str, Neighbours]
    seconds: dict[str, float]
    seed: int

    def __post_init__(self) -> None:
        for split, row in (("val", self.val), ("test", self.test)):
            if len(self.answers[split]) != row["queries"]:
                raise ValueError(f"{split}: {len(self.answers[split])} answers, but scores of {row['queries']} queries")

    @property
    def tuned_on_val(self) -> bool:
        """Whether val chose anything (k, tau or the dimension), so that its own scores are optimistic."""
        return self.dims is not None or self.tuning.gap_grid.size > 1

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays of answers and neighbours, as plain values that JSON can hold; fractions."""
        tuning, dims = self.tuning, self.dims
        grid = {"ks": list(tuning.ks), "taus": list(tuning.taus), "gap_grid": tuning.gap_grid.tolist()}
        return {
            "dim": self.dim,
            "raw_dim": self.raw_dim,
            "shrinkage": self.shrinkage,
            "dims": None if dims is None else {"tried": list(dims.dims), "val_gaps": list(dims.gaps)},
            "k": tuning.k,
            "tau": tuning.tau,
            "tuning": grid,
            "val": self.val | {"tuned_on": "the same queries" if self.tuned_on_val else "nothing"},
            "test": self.test | {"tuned_on": "val" if self.tuned_on_val else "nothing"},
            "seconds": self.seconds,
            "seed": self.seed,
        }


def measure(
    described: Described,
    *,
    whitening: int | str = "auto",
    shrinkage: float = 1.0,
    ks: Sequence[int] = KS,
    taus: Sequence[float] = TAUS,
    k: int | None = None,
    tau: float | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Run:
    """Measure descriptors by the study's protocol.

    Whitening is fitted on the database alone: `whitening` is the dimension to keep, "raw" for none, or "auto", the
    published 512 where the database has ten images a dimension, and otherwise chosen on val, over the published grid
    (`tune.choose_dim`). Val and test are searched once each. Then k and tau are chosen on val, from `ks` (the
    published ones are cut to the size of the database) and `taus`, unless `k` or `tau` fix them; and test is scored
    once, with 95 % intervals drawn by `seed`. `device` is where the two searches run, as in `knn.search`. Raises
    ValueError for a dimension above the rank, k above the images of the database, another `whitening`, tau that isn't
    positive.
    """
    if not (whitening in ("auto", "raw") or (isinstance(whitening, int | np.integer) and whitening >= 1)):
        raise ValueError(f"whitening must be 'auto', 'raw' or the dimensions to keep, at least 1, got {whitening!r}")
    museum, labels = described.museum, described.museum.database.labels
    truth = {"val": museum.val.labels, "test": museum.test.labels}
    if k is not None:
        ks = (k,)
    elif ks is KS:
        ks = tune.fitting(KS, len(labels))
    taus = taus if tau is None else (tau,)
    seconds: dict[str, float] = {}

    dims = spectrum = None
    if whitening == "auto":
        with _timed(seconds, "choose dim"):
            spectrum = decompose(described.database)
            whitening, dims = _choose_dim(described, spectrum.rank, shrinkage)
    rows: dict[str, NDArray[np.float32]] = {name: getattr(described, name) for _, name in museum.splits()}
    if whitening != "raw":
        with _timed(seconds, "whiten"):
            fitted = PCAWhitening(int(whitening), shrinkage).fit_spectrum(spectrum or decompose(described.database))
            rows = {name: fitted.transform(raw) for name, raw in rows.items()}
    with _timed(seconds, "search"):
        neighbours = {name: search(rows["database"], rows[name], max(ks), device=device) for name in truth}
    with _timed(seconds, "tune"):
        tuning = tune.tune(neighbours["val"], labels, truth["val"], tuple(ks), tuple(taus))
    with _timed(seconds, "evaluate"):
        answers = {name: classify(neighbours[name], labels, tuning.k, tuning.tau) for name in truth}
        scores = {
            name: metrics.summary(answers[name].labels, answers[name].log_confidence, truth[name], seed=seed)
            for name in truth
        }
    return Run(
        dim=None if whitening == "raw" else int(whitening),
        raw_dim=described.database.shape[1],
        shrinkage=shrinkage,
        dims=dims,
        tuning=tuning,
        val=scores["val"],
        test=scores["test"],
        answers=answers,
        neighbours=neighbours,
        seconds=seconds,
        seed=seed,
    )


def _choose_dim(described: Described, rank: int, shrinkage: float) -> tuple[int, DimTuning | None]:
    """The dimension to keep, and what was tried on val, where there was a choice."""
    database, museum = described.database, described.museum
    candidates = tune.candidate_dims(*database.shape)
    if len(candidates) == 1:  # channels that never fire lower the rank
        return min(candidates[0], rank), None
    dims = tune.choose_dim(database, museum.database.labels, described.val, museum.val.labels, shrinkage=shrinkage)
    return dims.dim, dims


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)


def say(run: Run, museum: Museum) -> str:
    """The lines that a reader wants: what was measured, what val chose, scores in percent with intervals, seconds."""
    tuning = run.tuning
    kept = "raw" if run.dim is None else f"whitened to {run.dim} (learned from the database)"
    if run.dims is not None:
        kept += f", best on val of {', '.join(map(str, run.dims.dims))}"
    cells = f"best on val of {tuning.gap_grid.size} cells" if tuning.gap_grid.size > 1 else "given"
    titles = {"val": "val (tuned on these)" if run.tuned_on_val else "val", "test": "test"}
    lines = [
        f"{museum.name}, {museum.kind} database: {len(museum.database):,} images of "
        f"{len(np.unique(museum.database.labels)):,} exhibits; {len(museum.val):,} val and {len(museum.test):,} test "
        "queries",
        f"descriptors of {run.raw_dim} dimensions, {kept}",
        f"k = {tuning.k}, tau = {tuning.tau:g}, {cells}",
        "",
        f"{'':<22}{'GAP':<22}{'GAP⁻':<22}ACC",
    ]
    for split, row in (("val", run.val), ("test", run.test)):
        lines.append(f"{titles[split]:<22}" + "".join(f"{text:<22}" for text in metrics.as_text(row).values()).rstrip())
    took = ", ".join(f"{step} {taken:.2f}" for step, taken in run.seconds.items())
    return "\n".join([*lines, "(percent, 95 % bootstrap intervals over queries)", "", f"seconds: {took}"])


def _scores_file(inputs: Sequence[str]) -> Path:
    """Where scores go by default: beside the first input, under the names of all."""
    names = [Path(name).resolve().name.removesuffix(".pkl") for name in inputs]
    return Path(inputs[0]).resolve().parent / f"{'+'.join(names)}.scores.json"


def read_whitening(text: str) -> int | str:
    """Read what `measure` calls `whitening` from a command line; argparse.ArgumentTypeError for other words."""
    if text in ("auto", "raw"):
        return text
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected auto, raw or the dimensions to keep, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: score descriptors against a museum's ground truth."""
    parser = argparse.ArgumentParser(
        prog="python -m metlib.evaluate",
        description="Score descriptors by the study's protocol: whitening learned from the database, k and tau tuned "
        "on val, scores on test. Ground truth is needed, images aren't.",
        epilog=f"{RELEASED_TOOL} Here the whole grid is the default; --k 1 --whitening 512 does as their tool.",
    )
    parser.add_argument(
        "descriptors",
        nargs="+",
        help="the authors' descriptors.pkl, or a folder .../scales-... that extraction left; several are joined "
        "before whitening",
    )
    parser.add_argument("--ground-truth", required=True, metavar="DIR", help="a museum, or its folder of ground truth")
    parser.add_argument("--database", default="full", choices=list(dataset.DATABASES), help="default: full")
    parser.add_argument(
        "--whitening",
        type=read_whitening,
        default="auto",
        metavar="auto|raw|N",
        help="dimensions to keep; auto: 512, or the best on val where the database is small (default: auto)",
    )
    parser.add_argument("--k", type=int, help="fix the number of neighbours; 1 tunes tau alone")
    parser.add_argument("--tau", type=float, help="fix the temperature")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals (default: 0)")
    parser.add_argument("--device", default="cpu", help="where to search: cpu, cuda or mps (default: cpu)")
    parser.add_argument("--json", metavar="FILE", help="where to write the scores (default: beside the first input)")
    parser.add_argument("--ledger", metavar="CSV", help="add the rows of val and test to this ledger of results")
    parser.add_argument("--name", help="the network's name in the ledger")
    chosen = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without the sign ⁻ shows another for it
        sys.stdout.reconfigure(errors="replace")
    try:
        _run(chosen)
    except (OSError, ValueError, MemoryError) as error:
        print(f"error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    return 0


def _run(chosen: argparse.Namespace) -> None:
    seconds: dict[str, float] = {}
    with _timed(seconds, "read"):
        museum = dataset.load(dataset.find(chosen.ground_truth), chosen.database)
        sets = [descriptors.read(path, museum) for path in chosen.descriptors]
        described = descriptors.concatenate(sets) if len(sets) > 1 else sets[0]
    if chosen.ledger and not (chosen.name or described.made_by.get("backbone")):
        raise ValueError(f"{chosen.descriptors[0]} doesn't say which network made it: the ledger needs its --name")
    options = {name: getattr(chosen, name) for name in ("whitening", "k", "tau", "seed", "device")}
    run = measure(described, **options)
    run = replace(run, seconds=seconds | run.seconds)
    print(say(run, described.museum))
    print(RELEASED_TOOL)
    file = Path(chosen.json) if chosen.json else _scores_file(chosen.descriptors)
    with replacing(file, "w") as out:
        json.dump(_report(run, described, chosen), out, indent=1, allow_nan=False)
    print(f"scores are in {file}")
    if chosen.ledger:
        from metlib.analysis import results  # with pandas, which the scores don't need

        results.append(Path(chosen.ledger), results.rows_of(run, described, described.museum, name=chosen.name))
        print(f"rows of val and test are in {chosen.ledger}")


def _report(run: Run, described: Described, chosen: argparse.Namespace) -> Mapping[str, Any]:
    """What the JSON file holds: what was scored, and the run."""
    return {
        "descriptors": chosen.descriptors,
        "made_by": dict(described.made_by),
        "museum": described.museum.name,
        "database": described.museum.kind,
        "images": len(described.database),
        "whitening": chosen.whitening,
        **run.to_json(),
        "metlib": __version__,
    }


if __name__ == "__main__":
    sys.exit(main())
