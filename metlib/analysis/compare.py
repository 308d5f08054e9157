"""Networks compared on a museum by the study's protocol, as rows of the results table: `metlib compare`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metlib import backbone, descriptors, evaluate, extract
from metlib.analysis import results as table
from metlib.backbone import RECIPES, Embedder, of_timm
from metlib.dataset import Museum
from metlib.descriptors import Described


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
        table.append(results, table.rows_of(evaluation, described, name=name, note=_note(several)))
    return evaluation


def _note(embedders: Sequence[Embedder]) -> str:
    return "untrained: a floor, not a result" if any(embedder.recipe.untrained for embedder in embedders) else ""


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
    results: str | Path = "figures/results.csv",
    **options: Any,
) -> Iterator[tuple[str, evaluate.Evaluation, Museum]]:
    """Measure networks by name, one after the other, each written to the results table before the next begins.

    A name is a recipe, a timm model or a checkpoint's path; "A,B" joins the descriptors of two before whitening. Gives
    titles, evaluations and museums as they were described; options as for `extract.extract`. Raises ValueError, before
    the first runs, for unknown names, one file of weights for several networks, and a damaged results table.
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
        described = describe_joined(museum, embedders, work_dir, **options)
        evaluation = evaluate.measure(described, whitening=whitening, seed=seed)
        table.append(results, table.rows_of(evaluation, described, note=_note(embedders)))
        yield " + ".join(embedder.title for embedder in embedders), evaluation, described.museum
