"""Networks compared on a museum by the study's protocol, written as rows of the results table.

    metlib compare data/met R18IN R50SWSL DINOv2-B --database mini

adds two rows a network, scored on val and on test, to the results table; `R18SWSL,R18IN` joins the descriptors of two
networks before whitening.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metlib import backbone, descriptors, evaluate, extract
from metlib.analysis import results as table
from metlib.backbone import RECIPES, Embedder, of_timm
from metlib.dataset import Museum
from metlib.descriptors import Described

RESULTS = "figures/results.csv"


def measure(
    museum: Museum,
    embedders: Embedder | Sequence[Embedder],
    work_dir: str | Path,
    *,
    whitening: int | str = "auto",
    seed: int = 0,
    name: str | None = None,
    results: str | Path | None = None,
    **options: Any,
) -> evaluate.Evaluation:
    """Describe a museum with one network, or several joined, and measure it by the protocol of `evaluate.measure`.

    Descriptors are kept under `work_dir`; options as for `extract.extract`. With `results` the val and test rows
    are written there, under `name` (default: the networks' own).
    """
    several = [embedders] if isinstance(embedders, Embedder) else list(embedders)
    described = describe_joined(museum, several, work_dir, **options)
    evaluation = evaluate.measure(described, whitening=whitening, seed=seed)
    if results is not None:
        _record(evaluation, described, several, results, name)
    return evaluation


def _record(
    evaluation: evaluate.Evaluation,
    described: Described,
    embedders: Sequence[Embedder],
    results: str | Path,
    name: str | None = None,
) -> None:
    untrained = any(embedder.recipe.untrained for embedder in embedders)
    note = "untrained: a floor, not a result" if untrained else ""
    table.append(results, table.rows_of(evaluation, described, name=name, note=note))


def describe_joined(museum: Museum, embedders: Sequence[Embedder], work_dir: str | Path, **options: Any) -> Described:
    """Describe a museum with each of several networks and join their descriptors; options as for `extract.extract`."""
    sets = [extract.describe(museum, embedder, work_dir, **options) for embedder in embedders]
    return descriptors.concatenate(sets) if len(sets) > 1 else sets[0]


def measure_all(
    museum: Museum,
    networks: Sequence[str],
    work_dir: str | Path,
    *,
    weights: str | Path | None = None,
    whitening: int | str = "auto",
    seed: int = 0,
    results: str | Path = RESULTS,
    **options: Any,
) -> Iterator[tuple[str, evaluate.Evaluation, Museum]]:
    """Measure networks by name, one after the other, each written to the results table before the next begins.

    A name is a recipe, a timm model or a checkpoint's path; "A,B" joins the descriptors of two. What would stop a later
    network stops the first. Gives titles, evaluations and museums as they were described; options as for
    `extract.extract`.
    Raises ValueError for unknown names, one file of weights for several networks, and a damaged results table.
    """
    rows = [[text] if Path(text).is_file() else text.split(",") for text in networks]
    _check_early(rows, weights, results)
    for names in rows:
        embedders = [backbone.load(name, weights) for name in names]
        described = describe_joined(museum, embedders, work_dir, **options)
        evaluation = evaluate.measure(described, whitening=whitening, seed=seed)
        _record(evaluation, described, embedders, results)
        yield " + ".join(embedder.title for embedder in embedders), evaluation, described.museum


def _check_early(rows: Sequence[Sequence[str]], weights: str | Path | None, results: str | Path) -> None:
    """Find before the first network runs, for hours maybe, what would stop a later one."""
    names = [name for row in rows for name in row]
    if weights and Path(weights).is_file() and len(names) > 1:
        raise ValueError(f"--weights {weights} is one file, for {len(names)} networks: name a folder of weights")
    for name in names:
        if name not in RECIPES and not Path(name).is_file():
            of_timm(name)
    if Path(results).exists():
        table.read(results)
