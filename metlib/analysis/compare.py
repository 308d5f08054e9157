"""Networks compared on a museum by the study's protocol, as rows of the results table: `metlib compare`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metlib import VISITS, backbone, descriptors, evaluate, extract
from metlib.analysis import results as table
from metlib.backbone import RECIPES, Embedder, of_timm
from metlib.dataset import Museum
from metlib.descriptors import Described


def measure(
    museum: Museum, embedders: Embedder | Sequence[Embedder], work_dir: str | Path, **options: Any
) -> evaluate.Evaluation:
    """Measure a museum as `describe_and_measure` does, and give the evaluation alone."""
    return describe_and_measure(museum, embedders, work_dir, **options)[0]


def describe_and_measure(
    museum: Museum,
    embedders: Embedder | Sequence[Embedder],
    work_dir: str | Path,
    *,
    whitening: str = "learned",
    dim: int | None = None,
    shrinkage: float | None = None,
    visits: int = VISITS,
    seed: int = 0,
    name: str | None = None,
    results: str | Path | None = None,
    **options: Any,
) -> tuple[evaluate.Evaluation, Described]:
    """Describe a museum with one network, or several joined, and measure it by the protocol of `evaluate.measure`.

    `whitening`, `dim` and `shrinkage` are those of `evaluate.choose`; a learned one describes `visits` of each image.
    Descriptors are kept under `work_dir`; options as for `extract.extract`. With `results` the val and test rows are
    written there, under `name` (default: the networks' own).
    """
    several = [embedders] if isinstance(embedders, Embedder) else list(embedders)
    count = visits if whitening in ("auto", "learned") else 0
    described = describe_joined(museum, several, work_dir, visits=count, **options)
    evaluation = evaluate.measure(described, whitening=whitening, dim=dim, shrinkage=shrinkage, seed=seed)
    if results is not None:
        untrained = any(embedder.recipe.untrained for embedder in several)
        note = "untrained: a floor, not a result" if untrained else ""
        table.append(results, table.rows_of(evaluation, described, name=name, note=note))
    return evaluation, described


def describe_joined(museum: Museum, embedders: Sequence[Embedder], work_dir: str | Path, **options: Any) -> Described:
    """Describe a museum with each of several networks and join their descriptors; options as for `extract.describe`."""
    sets = [extract.describe(museum, embedder, work_dir, **options) for embedder in embedders]
    return descriptors.concatenate(sets) if len(sets) > 1 else sets[0]


def measure_all(
    museum: Museum,
    networks: Sequence[str],
    work_dir: str | Path,
    *,
    weights: str | Path | None = None,
    results: str | Path = "figures/results.csv",
    **options: Any,
) -> Iterator[tuple[str, evaluate.Evaluation, Museum]]:
    """Measure networks by name, one after the other, each written to the results table before the next begins.

    A name is a recipe, a timm model or a checkpoint's path; "A,B" joins the descriptors of two before whitening. Gives
    titles, evaluations and museums as they were described; options as for `describe_and_measure`. Raises ValueError,
    before the first runs, for unknown names, one file of weights for several networks, and a damaged results table.
    """
    rows = [[text] if Path(text).is_file() else text.split(",") for text in networks]
    names = [name for row in rows for name in row]
    if weights and Path(weights).is_file() and len(names) > 1:
        raise ValueError(f"--weights {weights} is one file, for {len(names)} networks: name a folder of weights")
    for name in names:
        if name not in RECIPES and not Path(name).is_file():
            of_timm(name)
    if Path(results).exists():
        table.read(results)
    for names in rows:
        embedders = [backbone.load(name, weights) for name in names]
        evaluation, described = describe_and_measure(museum, embedders, work_dir, results=results, **options)
        yield " + ".join(embedder.title for embedder in embedders), evaluation, described.museum
