"""Rows of the table: networks on a museum, by the study's protocol, written in the ledger.

    python -m metlib.benchmark data/met R18IN R50SWSL DINOv2-B --database mini

adds two rows a network, scored on val and on test, to the ledger; `R18SWSL,R18IN` joins the descriptors of two
networks before whitening. `sweep` asks which stage, pooling exponent and whitening a network should be read with.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from metlib import backbone, dataset, descriptors, evaluate, extract
from metlib.analysis import results
from metlib.backbone import RECIPES, Embedder, Panel, of_timm
from metlib.common.vectors import unit
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.whiten import PCAWhitening

LEDGER = "figures/results.csv"


def run(
    museum: Museum,
    embedders: Embedder | Sequence[Embedder],
    work_dir: str | Path,
    *,
    whitening: int | str = "auto",
    seed: int = 0,
    name: str | None = None,
    ledger_file: str | Path | None = None,
    **options: Any,
) -> evaluate.Run:
    """Describe a museum with one network, or several joined, and measure it by the protocol of `evaluate.measure`.

    Descriptors are kept under `work_dir`; options as for `extract.extract`. With `ledger_file` the val and test rows
    are written there, under `name` (default: the networks' own).
    """
    several = [embedders] if isinstance(embedders, Embedder) else list(embedders)
    described = describe(museum, several, work_dir, **options)
    measured = evaluate.measure(described, whitening=whitening, seed=seed)
    if ledger_file is not None:
        _record(measured, described, several, ledger_file, name)
    return measured


def _record(
    measured: evaluate.Run,
    described: Described,
    embedders: Sequence[Embedder],
    ledger_file: str | Path,
    name: str | None = None,
) -> None:
    untrained = any(embedder.recipe.untrained for embedder in embedders)
    note = "untrained: a floor, not a result" if untrained else ""
    results.append(ledger_file, results.rows_of(measured, described, described.museum, name=name, note=note))


def describe(museum: Museum, embedders: Sequence[Embedder], work_dir: str | Path, **options: Any) -> Described:
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure networks on a museum from the command line; 2 where something asked for can't be done."""
    parser = argparse.ArgumentParser(
        prog="python -m metlib.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a museum in the Met layout")
    parser.add_argument("networks", nargs="+", help="recipes, timm names or checkpoints; A,B joins descriptors")
    parser.add_argument("--database", choices=dataset.DATABASES, default="full", help="default: full")
    parser.add_argument(
        "--whitening",
        type=evaluate.read_whitening,
        default="auto",
        metavar="auto|raw|N",
        help="dimensions to keep; auto: 512, or the best on val where the database is small (default: auto)",
    )
    parser.add_argument("--single-scale", action="store_true", help="full size only, not three scales")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that can't be read")
    parser.add_argument("--weights", help="a folder of weights, or the file of one network")
    parser.add_argument("--work", default="work", help="descriptors, kept between runs (default: work)")
    parser.add_argument("--ledger", default=LEDGER, help=f"default: {LEDGER}")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals (default: 0)")
    chosen = parser.parse_args(arguments)
    options: dict[str, Any] = {"scales": (1,)} if chosen.single_scale else {}
    options |= {"on_error": "skip"} if chosen.skip_unreadable else {}
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without the sign ⁻ shows another for it
        sys.stdout.reconfigure(errors="replace")
    try:
        museum = dataset.load(chosen.data, chosen.database)
        rows = [[text] if Path(text).is_file() else text.split(",") for text in chosen.networks]
        _refuse_early(rows, chosen)
        for names in rows:
            embedders = [backbone.load(name, chosen.weights) for name in names]
            described = describe(museum, embedders, chosen.work, **options)
            measured = evaluate.measure(described, whitening=chosen.whitening, seed=chosen.seed)
            _record(measured, described, embedders, chosen.ledger)
            print(" + ".join(embedder.title for embedder in embedders))
            print(evaluate.say(measured, described.museum), end="\n\n")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"rows are in {chosen.ledger}")
    return 0


def _refuse_early(rows: Sequence[Sequence[str]], chosen: argparse.Namespace) -> None:
    """Find before the first network runs, for hours maybe, what would stop a later one."""
    names = [name for row in rows for name in row]
    if chosen.weights and Path(chosen.weights).is_file() and len(names) > 1:
        raise ValueError(f"--weights {chosen.weights} is one file, for {len(names)} networks: name a folder of weights")
    for name in names:
        if name not in RECIPES and not Path(name).is_file():
            of_timm(name)
    if Path(chosen.ledger).exists():
        results.read(chosen.ledger)


if __name__ == "__main__":
    sys.exit(main())
