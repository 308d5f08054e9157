"""Networks compared on a museum by the study's protocol, written as rows of the results table.

    metlib compare data/met R18IN R50SWSL DINOv2-B --database mini

adds two rows a network, scored on val and on test, to the results table; `R18SWSL,R18IN` joins the descriptors of two
networks before whitening. `sweep` asks which stage, pooling exponent and whitening a network should be read with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from metlib import backbone, descriptors, evaluate, extract
from metlib.analysis import results as table
from metlib.backbone import RECIPES, Embedder, Panel, of_timm
from metlib.common.vectors import unit
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.whiten import PCAWhitening

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


def sweep(
    museum: Museum,
    embedder: Embedder,
    work_dir: str | Path,
    *,
    stages: Sequence[int] | None = None,
    ps: Sequence[float] = (1, 2, 3, 6),
    dims: Sequence[int] = (16, 32, 64, 128, 256, 512, 1024, 2048),
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Measure every way of reading one network: stage, GeM's p, raw or PCA or whitened, and dimensions kept.

    `stages` are indices into timm's `feature_info` (default: the last two that the network has). The images are gone
    through once, for all of them. Of `dims` those are tried that the database can carry: up to the rank where it has
    ten images a channel, else up to half of it, for the last eigenvalues are noise.
    One row a way: `stage`, `p`, `way`, `dim`, `k`, `tau` (tuned on val), and GAP, GAP⁻ and ACC with intervals of val
    (`val_gap`, tuned on the same queries) and test (`gap`, `gap_low`, ...), as fractions.
    """
    if stages is None:
        last = len(embedder.trunk.feature_info) - 1 if embedder.recipe.stage is None else embedder.recipe.stage
        stages = (last - 1, last) if last else (last,)
    panel = Panel(embedder, stages, ps).eval()
    described = extract.describe(museum, panel, work_dir, **options)
    rows = []
    for stage, p in panel.columns:
        splits = [panel.part(rows, stage, p) for rows in (described.database, described.val, described.test)]
        for way, dim, changed in _ways(splits, dims):
            measured = evaluate.measure(Described(described.museum, *changed), whitening="raw", seed=seed)
            tuned = measured.tuning
            row = {"stage": stage, "p": p, "way": way, "dim": dim, "k": tuned.k, "tau": tuned.tau}
            rows.append(row | {"val_gap": tuned.gap} | measured.test)
    return pd.DataFrame(rows)


def _ways(splits: list[Any], dims: Sequence[int]) -> Iterator[tuple[str, int, list[Any]]]:
    """Three splits as they are, rotated, and whitened, at every dimension that the database can carry."""
    yield "raw", splits[0].shape[1], splits
    (n, channels), rank = splits[0].shape, PCAWhitening(1).fit(splits[0]).rank_
    most = rank if n >= 10 * channels else max(rank // 2, 1)
    kept = sorted({dim for dim in dims if dim <= most} or {most})
    for way, shrinkage in (("PCA", 0.0), ("whitened", 1.0)):
        full = PCAWhitening(kept[-1], shrinkage).fit(splits[0])
        changed = [full.transform(rows) for rows in splits]
        # Leading columns, made unit again, are the smaller whitening.
        for dim in kept:
            yield way, dim, [unit(rows[:, :dim]) for rows in changed]


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
