"""Training from the command line.

    python -m metlib.train contrastive --data data/met --backbone R18IN --pairs syn+real-closest --out work/r18

Several devices: `torchrun --nproc-per-node 4 -m metlib.train ...`. The same command again goes on after a kill.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from metlib import backbone, dataset
from metlib.train.byol import train as train_byol
from metlib.train.contrastive import HARDEST, MARGIN, PAIRS
from metlib.train.contrastive import train as train_contrastive
from metlib.train.loop import PRESETS
from metlib.train.parametric import LOSSES
from metlib.train.parametric import train as train_parametric
from metlib.train.simsiam import train as train_simsiam

METHODS: dict[str, Callable[..., Path]] = {
    "contrastive": train_contrastive,
    "simsiam": train_simsiam,
    "byol": train_byol,
    "parametric": train_parametric,
}
_KINDS = {"int": int, "float": float, "str": str, "int | None": int, "str | None": str}


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", required=True, help="a museum in the Met layout")
    shared.add_argument("--database", choices=dataset.DATABASES, default="full", help="default: full")
    shared.add_argument("--backbone", required=True, help="a recipe, timm name or checkpoint to start from")
    shared.add_argument("--weights", help="a folder of weights, or the file of one network")
    shared.add_argument("--out", required=True, help="folder for checkpoint, history and state; resumes what is there")
    shared.add_argument("--preset", choices=PRESETS, default="paper", help="settings to start from (default: paper)")
    for field in fields(PRESETS["paper"]):
        name = "--" + field.name.replace("_", "-")
        values = ", ".join(f"{preset} {getattr(settings, field.name)}" for preset, settings in PRESETS.items())
        if field.type == "bool":
            shared.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=values)
        else:
            shared.add_argument(name, type=_KINDS[str(field.type)], metavar="X", help=values)
    parser = argparse.ArgumentParser(
        prog="python -m metlib.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = parser.add_subparsers(dest="method", required=True)
    pairs = methods.add_parser("contrastive", parents=[shared], help="pairs with mined negatives")
    pairs.add_argument("--pairs", choices=PAIRS, default="syn+real-closest")
    pairs.add_argument("--margin", type=float, default=MARGIN)
    pairs.add_argument("--hardest", type=int, default=HARDEST, help="negatives to draw from")
    methods.add_parser("simsiam", parents=[shared], help="two views, no labels")
    methods.add_parser("byol", parents=[shared], help="two views and a slow copy, no labels")
    classes = methods.add_parser("parametric", parents=[shared], help="a vector a class")
    classes.add_argument("--loss", choices=LOSSES, default="arcface")
    classes.add_argument("--views", type=int, default=1, help="of every image an epoch")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a network; 2 where something asked for can't be done."""
    chosen = vars(_parser().parse_args(arguments))
    preset = PRESETS[chosen["preset"]]
    given = {field.name: chosen[field.name] for field in fields(preset) if chosen[field.name] is not None}
    own = {key: chosen[key] for key in ("pairs", "margin", "hardest", "loss", "views") if key in chosen}
    try:
        museum = dataset.load(dataset.find(chosen["data"]), chosen["database"])
        embedder = backbone.load(chosen["backbone"], chosen["weights"])
        path = METHODS[chosen["method"]](museum, embedder, chosen["out"], settings=replace(preset, **given), **own)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
