"""The protocol, written once: whitening from the database, every choice from val, scores on a split; no image needed.

`choose` decides on val, `score` judges a split, `measure` does both for val and test. It answers to the authors' own
`python -m code.examples.knn_eval DIR --autotune --info_dir DIR`, with one difference.
The authors' released tool tunes only tau, at k = 1, because its --k defaults to 1; its published figures came from the
whole grid (36.1 GAP becomes about 23 otherwise). Here the whole grid is the default, and `--k 1 --whitening pca
--dim 512` does as their tool.
Source: Ypsilantis et al., The Met Dataset, NeurIPS 2021, section 5.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metlib import __version__, descriptors, metrics, tune
from metlib.common.files import replacing
from metlib.common.vectors import unit
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.knn import Neighbours, Predictions, classify, search
from metlib.metrics import Scores
from metlib.tune import KS, TAUS, DimTuning, Tuning
from metlib.whiten import LearnedWhitening, PCAWhitening, Spectrum, decompose, disturbance

RELEASED_TOOL = (
    "The authors' released tool tunes only tau, at k = 1, because its --k defaults to 1; its published figures came "
    "from the whole grid (36.1 GAP becomes about 23 otherwise)."
)


WHITENINGS = ("auto", "learned", "pca", "none")
Whitening = PCAWhitening | LearnedWhitening


@dataclass(frozen=True, eq=False)
class Choice:
    """What the database and val decide: how descriptors are whitened, k and tau.

    `whitening` is fitted on the database (None: raw), `dims` says what val chose its dimension and shrinkage from
    (None: they were given, or there was one only). `database` (N, d) is as it is searched, `neighbours` are val's.
    """

    whitening: Whitening | None
    dims: DimTuning | None
    tuning: Tuning
    database: NDArray[np.float32]
    neighbours: Neighbours

    @property
    def dim(self) -> int | None:
        """The whitened dimension d; None where descriptors are raw."""
        return None if self.whitening is None else int(self.whitening.dim)

    @property
    def kind(self) -> str:
        """The whitening in a word: "learned", "pca" or "none"."""
        if self.whitening is None:
            return "none"
        return "learned" if isinstance(self.whitening, LearnedWhitening) else "pca"

    @property
    def tuned_on_val(self) -> bool:
        """Whether val chose anything (k, tau or the dimension), so that its own scores are optimistic."""
        return self.dims is not None or self.tuning.gap_grid.size > 1

    def transform(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Whiten descriptors (n, D) -> (n, d) as the database was; raw ones stay as they are."""
        return rows if self.whitening is None else self.whitening.transform(rows)


@dataclass(frozen=True, eq=False)
class Scored:
    """The queries of one split answered: `answers`, their `neighbours`, and the `truth` (Q,) they are judged by."""

    answers: Predictions
    neighbours: Neighbours
    truth: NDArray[np.int64]

    @property
    def scores(self) -> Scores:
        """GAP, GAP⁻ and ACC, fractions."""
        return metrics.evaluate(self.answers.labels, self.answers.log_confidence, self.truth)

    def summary(self, seed: int = 0) -> dict[str, float]:
        """One row of `metrics.summary`: the scores with 95 % intervals drawn by `seed`, fractions."""
        return metrics.summary(self.answers.labels, self.answers.log_confidence, self.truth, seed=seed)


def choose(
    described: Described,
    *,
    whitening: str = "auto",
    dim: int | None = None,
    shrinkage: float | None = None,
    ks: Sequence[int] = KS,
    taus: Sequence[float] = TAUS,
    k: int | None = None,
    tau: float | None = None,
    spectrum: Spectrum | None = None,
    device: str = "cpu",
) -> Choice:
    """Choose the whitened dimension, shrinkage, k and tau by val GAP; the test queries aren't looked at.

    `whitening` is "learned", from simulated visits, "pca", "none", or "auto": learned where `described` has visits,
    else pca. `dim` and `shrinkage` fix those of the whitening; otherwise val chooses of `tune.candidate_dims`, and for
    a learned one of `tune.SHRINKAGES` (PCA's is 1), each with its own best k and tau; of equals the smallest dimension,
    then the largest shrinkage. `ks` and `taus` are the grid (the published ks are cut to the size of the database),
    unless `k` or `tau` fix them. The database is decomposed once, or not at all where its `spectrum` is given, and val
    is searched once for each whitening tried, on `device` as in `knn.search`.
    Raises ValueError for a learned whitening without visits, a dimension above the rank, k above the images of the
    database, another `whitening`, tau that isn't positive.
    """
    if whitening not in WHITENINGS:
        raise ValueError(f"whitening must be one of {', '.join(WHITENINGS)}, got {whitening!r}")
    if whitening == "none" and (dim, shrinkage) != (None, None):
        raise ValueError("whitening 'none' has no dimension and no shrinkage: leave them out, or take 'pca'")
    labels = described.museum.database.labels
    if k is not None:
        ks = (k,)
    elif ks is KS:
        ks = tune.fitting(KS, len(labels))
    taus = tuple(taus) if tau is None else (tau,)
    gaps: dict[tuple[int, float], float] = {}
    best = None
    for fitted, white, val in _whiten(described, whitening, dim, shrinkage, spectrum):
        neighbours = search(white, val, max(ks), device=device)
        tuning = tune.tune(neighbours, labels, described.museum.val.labels, tuple(ks), taus)
        key = (0, 0.0) if fitted is None else (int(fitted.dim), float(fitted.shrinkage))
        gaps[key] = tuning.gap
        order = -tuning.gap, key[0], -key[1]
        if best is None or order < best[0]:
            best = order, Choice(fitted, None, tuning, white, neighbours)
    assert best is not None  # one whitening at least was tried
    if len(gaps) == 1:
        return best[1]
    dims, shrinkages = (tuple(sorted(set(values))) for values in zip(*gaps, strict=True))
    per_dim = tuple(max(gap for (tried, _), gap in gaps.items() if tried == dim) for dim in dims)
    return replace(best[1], dims=DimTuning(dims, per_dim, best[1].dim or 0, shrinkages))


def _whiten(
    described: Described, whitening: str, dim: int | None, shrinkage: float | None, spectrum: Spectrum | None
) -> Iterator[tuple[Whitening | None, NDArray[np.float32], NDArray[np.float32]]]:
    """Whiten database and val in every way that val chooses from; one fit and one product a shrinkage."""
    database, visits = described.database, described.visits
    if whitening == "none":
        yield None, database, described.val
        return
    learned = whitening == "learned" or (whitening == "auto" and visits is not None)
    if learned and visits is None:
        raise ValueError(
            "learned whitening needs simulated visits, and these descriptors have none: where the images are at hand, "
            "describe them too (metlib extract MUSEUM NETWORK; in code extract.describe(..., visits=3)); elsewhere "
            "take whitening 'pca'"
        )
    spectrum = spectrum or decompose(database)
    # Channels that never fire lower the rank; a dimension that was asked for is refused above it.
    candidates = {min(most, spectrum.rank) for most in tune.candidate_dims(*database.shape, learned=learned)}
    dims = sorted(candidates) if dim is None else [dim]
    within = disturbance(database[visits.rows], visits.descriptors) if learned and visits else None
    tried = tune.SHRINKAGES if learned else (1.0,)
    for shrunk in tried if shrinkage is None else (shrinkage,):
        fitted: Whitening
        if within is None or visits is None:
            fitted = PCAWhitening(dims[-1], shrunk).fit_spectrum(spectrum)
        else:
            fitted = LearnedWhitening(dims[-1], shrunk).fit_spectrum(spectrum, within, len(visits.rows))
        wide = fitted.transform(database), fitted.transform(described.val)
        for kept in dims:
            white, val = wide if kept == dims[-1] else (unit(rows[:, :kept]) for rows in wide)
            yield fitted.leading(kept), white, val


def score(choice: Choice, described: Described, split: str = "test", *, device: str = "cpu") -> Scored:
    """Answer and judge the queries of one split, "val" or "test", by what was chosen; val isn't searched again.

    Scores of val are optimistic where `choice.tuned_on_val`: say so beside them. Raises ValueError for another split.
    """
    if split not in ("val", "test"):
        raise ValueError(f"split {split!r}: expected 'val' or 'test', the queries that are scored")
    tuning, neighbours = choice.tuning, choice.neighbours
    if split == "test":
        neighbours = search(choice.database, choice.transform(described.test), neighbours.k, device=device)
    answers = classify(neighbours, described.museum.database.labels, tuning.k, tuning.tau)
    truth = described.museum.val.labels if split == "val" else described.museum.test.labels
    return Scored(answers, neighbours, truth)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One measured set of descriptors: what val chose, and the scores of val and test as fractions.

    `whitening` is "learned", "pca" or "none", `dim` its dimension of `raw_dim` and `shrinkage` its own (None: none);
    `dims` and `tuning` say what val chose them, k and tau from, as in `Choice`. `val` and `test` are rows of
    `metrics.summary`; val's are optimistic where `tuned_on_val`. `answers` and `neighbours` are by split, "val" and
    "test". `seconds` says how long each step took, `seed` drew the intervals.
    """

    whitening: str
    dim: int | None
    shrinkage: float | None
    raw_dim: int
    dims: DimTuning | None
    tuning: Tuning
    tuned_on_val: bool
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

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays of answers and neighbours, as plain values that JSON can hold; fractions."""
        tuning, dims = self.tuning, self.dims
        grid = {"ks": list(tuning.ks), "taus": list(tuning.taus), "gap_grid": tuning.gap_grid.tolist()}
        return {
            "whitening": self.whitening,
            "dim": self.dim,
            "shrinkage": self.shrinkage,
            "raw_dim": self.raw_dim,
            "dims": dims
            and {"tried": list(dims.dims), "val_gaps": list(dims.gaps), "shrinkages": list(dims.shrinkages)},
            "k": tuning.k,
            "tau": tuning.tau,
            "tuning": grid,
            "val": self.val | {"tuned_on": "the same queries" if self.tuned_on_val else "nothing"},
            "test": self.test | {"tuned_on": "val" if self.tuned_on_val else "nothing"},
            "seconds": self.seconds,
            "seed": self.seed,
        }


def measure(described: Described, *, seed: int = 0, device: str = "cpu", **options: Any) -> Evaluation:
    """Measure descriptors by the study's protocol: `choose` on val, `score` val and test, 95 % intervals by `seed`.

    `options` and errors are those of `choose`.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "choose"):
        choice = choose(described, device=device, **options)
    with _timed(seconds, "score"):
        scored = {split: score(choice, described, split, device=device) for split in ("val", "test")}
        rows = {split: one.summary(seed) for split, one in scored.items()}
    return Evaluation(
        whitening=choice.kind,
        dim=choice.dim,
        shrinkage=None if choice.whitening is None else float(choice.whitening.shrinkage),
        raw_dim=described.database.shape[1],
        dims=choice.dims,
        tuning=choice.tuning,
        tuned_on_val=choice.tuned_on_val,
        **rows,
        answers={split: one.answers for split, one in scored.items()},
        neighbours={split: one.neighbours for split, one in scored.items()},
        seconds=seconds,
        seed=seed,
    )


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)


def measure_files(paths: Sequence[str | Path], museum: Museum, **options: Any) -> tuple[Evaluation, Described]:
    """Read descriptors of a museum, join them where there are several files or folders, and measure them.

    `options` are those of `measure`; raises as `descriptors.read` and `descriptors.concatenate` do.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "read"):
        sets = [descriptors.read(path, museum) for path in paths]
        described = descriptors.concatenate(sets) if len(sets) > 1 else sets[0]
    evaluation = measure(described, **options)
    return replace(evaluation, seconds=seconds | evaluation.seconds), described


def format_evaluation(evaluation: Evaluation, museum: Museum) -> str:
    """The lines that a reader wants: what was measured, what val chose, scores in percent with intervals, seconds."""
    tuning = evaluation.tuning
    ways = {"learned": "learned from simulated visits", "pca": "PCA of the database"}
    kept = "not whitened"
    if evaluation.dim is not None:
        kept = f"whitened to {evaluation.dim} ({ways[evaluation.whitening]}, shrinkage {evaluation.shrinkage:g})"
    if evaluation.dims is not None:
        kept += f", best on val of {', '.join(map(str, evaluation.dims.dims))}"
        if len(evaluation.dims.shrinkages) > 1:
            kept += f" with shrinkage {', '.join(f'{tried:g}' for tried in evaluation.dims.shrinkages)}"
    cells = f"best on val of {tuning.gap_grid.size} cells" if tuning.gap_grid.size > 1 else "given"
    titles = {"val": "val (tuned on these)" if evaluation.tuned_on_val else "val", "test": "test"}
    lines = [
        f"{museum.name}, {museum.kind} database: {len(museum.database):,} images of "
        f"{len(np.unique(museum.database.labels)):,} exhibits; {len(museum.val):,} val and {len(museum.test):,} test "
        "queries",
        f"descriptors of {evaluation.raw_dim} dimensions, {kept}",
        f"k = {tuning.k}, tau = {tuning.tau:g}, {cells}",
        "",
        f"{'':<22}{'GAP':<22}{'GAP⁻':<22}ACC",
    ]
    for split, row in (("val", evaluation.val), ("test", evaluation.test)):
        lines.append(f"{titles[split]:<22}" + "".join(f"{text:<22}" for text in metrics.as_text(row).values()).rstrip())
    took = ", ".join(f"{step} {taken:.2f}" for step, taken in evaluation.seconds.items())
    return "\n".join([*lines, "(percent, 95 % bootstrap intervals over queries)", "", f"seconds: {took}"])


def write_scores(
    evaluation: Evaluation, described: Described, inputs: Sequence[str | Path], file: str | Path | None = None
) -> Path:
    """Write an evaluation as JSON, with what was scored; give the path, by default beside the first of `inputs`."""
    names = [Path(name).resolve().name.removesuffix(".pkl") for name in inputs]
    path = Path(file) if file else Path(inputs[0]).resolve().parent / f"{'+'.join(names)}.scores.json"
    content = {
        "descriptors": [str(name) for name in inputs],
        "made_by": dict(described.made_by),
        "museum": described.museum.name,
        "database": described.museum.kind,
        "images": len(described.database),
        **evaluation.to_json(),
        "metlib": __version__,
    }
    with replacing(path, "w") as out:
        json.dump(content, out, indent=1, allow_nan=False)
    return path
