"""Descriptor sets: read and joined; from here on nothing needs an image or a network.

A set is `Described`: the descriptors of the three splits of a museum, row for row with its ground truth. It comes
from a folder that `extract.describe` left, or from the authors' `descriptors.pkl`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metlib import dataset
from metlib.common.files import sha256
from metlib.common.vectors import as_rows, unit
from metlib.dataset import MET_IMAGES, Museum
from metlib.descriptors.folders import RECIPE, load_descriptors, load_recipe, split_folder
from metlib.descriptors.official import OFFICIAL, read_official


@dataclass(frozen=True, eq=False)
class Described:
    """A museum with its descriptors: `database` (N, D), `val` and `test` (Q, D), float32, L2-normalised rows.

    `museum` lists the images that were described, row for row (without those that were skipped). `made_by` holds, as
    far as it is known, what made them: `backbone` (its name), `weights` (their sha256, hexadecimal), `scales` (tuple
    of float) and `network` (its recipe as JSON). Raises ValueError for other lengths than the museum's, and where the
    three have different D.
    """

    museum: Museum
    database: NDArray[np.float32]
    val: NDArray[np.float32]
    test: NDArray[np.float32]
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split, name in self.museum.splits():
            rows = getattr(self, name)
            if len(rows) != len(split):
                raise ValueError(f"{name}: {len(rows)} descriptors but {len(split)} labels")
            if rows.shape[1:] != self.database.shape[1:]:
                raise ValueError(
                    f"{name} has descriptors of {rows.shape[1]} dimensions, the database of {self.database.shape[1]}: "
                    "describe all three splits alike"
                )


def read(path: str | Path, museum: Museum) -> Described:
    """Read the descriptors of a museum: the authors' `descriptors.pkl`, or a folder that `extract.describe` left.

    The folder is that of one backbone and its scales, with a folder for each split (`.../scales-1-0.707-0.5`). It may
    hold those of several lists of images (the full and the mini database): the museum's own are read, and its images
    that were skipped leave the museum too. Raises FileNotFoundError where there is nothing, or only other lists;
    ValueError for damaged files, descriptors of other images, or splits that were described differently.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, museum)
    if not path.exists():
        raise FileNotFoundError(f"no {path}: expected the authors' descriptors.pkl, or a folder of extract.describe")
    return from_official(path, museum)


def from_official(path: str | Path, museum: Museum) -> Described:
    """Read the authors' `descriptors.pkl` as the descriptors of a museum; nothing in it is executed.

    The file doesn't state what made it, so its own hash stands for the weights' in `made_by`. Rows stay as they are
    where all have norm 1 (to 0.001, as float16 leaves them), and are L2-normalised otherwise.
    Raises ValueError for a file that `read_official` refuses, without descriptors of the database, with another number
    of rows than the ground truth has images, with different D, or with rows that are NaN or zero.
    """
    arrays = read_official(path)
    missing = [key for key in OFFICIAL.values() if key not in arrays]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)} (found: {', '.join(arrays)}): nothing can be scored without the "
            "descriptors of all three splits; the authors' files of queries alone lack the database's"
        )
    for split, name in museum.splits():
        n = len(arrays[OFFICIAL[name]])
        if n != len(split):
            other = _other_database(museum, n) if name == "database" else None
            way_out = f"the {other} database has {n}: ask for {other!r}" if other else "name the one it was made of"
            raise ValueError(
                f"{path}: {OFFICIAL[name]} has {n} rows, but the ground truth of {museum.name} lists {len(split)} "
                f"{name} images ({museum.kind} database); {way_out}"
            )
    try:
        for key in OFFICIAL.values():
            rows = as_rows(arrays[key], key)
            if not np.allclose(np.linalg.norm(rows, axis=1), 1, rtol=0, atol=1e-3):
                unit(rows, out=arrays[key])
        database, val, test = (arrays[key] for key in OFFICIAL.values())
        return Described(museum, database, val, test, {"weights": sha256(path)})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _other_database(museum: Museum, n: int) -> str | None:
    """The kind of database of n images that is meant instead, where one is known."""
    for kind in dataset.DATABASES:
        if kind != museum.kind:
            try:
                images = len(dataset.load(museum.root, kind).database)
            except (OSError, ValueError):  # it isn't there: the Met's own may be meant
                images = MET_IMAGES[kind]
            if images == n:
                return kind
    return None


def _read_folder(folder: Path, museum: Museum) -> Described:
    kept: dict[str, Any] = {}
    arrays, made_by = {}, {}
    for split, name in museum.splits():
        path = split_folder(folder, split, name)
        if not path.is_dir():
            others = sorted(other.name for other in folder.iterdir() if other.is_dir())
            raise FileNotFoundError(
                f"{folder} has no {path.name}, the {len(split)} {name} images of {museum.name} ({museum.kind} "
                f"database); it holds {', '.join(others) or 'no folder'}. Expected the folder that extract.describe "
                "left for one backbone and scales, of these very lists of images"
            )
        recipe = load_recipe(path)
        if recipe.get("images_sha256") != split.sha256:
            raise ValueError(f"{path} was made of other images than the {name} images of {museum.name}: describe them")
        made_by[name], skipped = _made_by(recipe, path)
        if any(made_by[name][key] != made_by["database"][key] for key in ("weights", "network", "scales")):
            raise ValueError(
                f"{path} was described with another network, weights or scales than the database beside it: "
                "describe all three splits alike"
            )
        arrays[name] = load_descriptors(path)
        kept[name] = split.take(np.array([p not in skipped for p in split.paths])) if skipped else split
    try:
        return Described(replace(museum, **kept), **arrays, made_by=made_by["database"])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _made_by(recipe: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], set[str]]:
    """What a recipe states of the network and scales, as in `Described.made_by`, and the images that were skipped."""
    try:
        made_by: dict[str, Any] = {
            "backbone": str(recipe["backbone"]),
            "weights": str(recipe["weights_sha256"]),
            "scales": tuple(float(scale) for scale in recipe["scales"]),
            "network": dict(recipe["network"]),
        }
        if recipe.get("precision", "float32") != "float32":  # other descriptors, so another network to a results table
            made_by["network"] |= {"precision": str(recipe["precision"])}
        return made_by, set(recipe["skipped"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path / RECIPE} is damaged ({error!r}): delete its folder to extract again") from None


def concatenate(sets: Sequence[Described]) -> Described:
    """Join descriptor sets of the same images along D: rows (N, D1 + D2 + ...), float32, L2-normalised.

    Each set's rows are L2-normalised before, so that every set weighs the same. Whiten afterwards: the paper's
    ensembles keep 1,024 dimensions. `made_by` joins names and weights where all are known, and keeps scales and network
    where all agree. Raises ValueError for no sets, and for two that list different images or labels, with the split
    and the first difference. Source: Ypsilantis et al., NeurIPS 2021 (its ensembles).
    """
    if not sets:
        raise ValueError("no descriptor sets to concatenate: give one or more")
    first, parts = sets[0].museum, [one.made_by for one in sets]
    for number, other in enumerate(sets[1:], 2):
        _check_same_images(first, other.museum, number)
    arrays = {
        name: unit(np.hstack([unit(as_rows(getattr(one, name), f"{name} descriptors")) for one in sets]))
        for _, name in first.splits()
    }
    made_by: dict[str, Any] = {}
    for key, plus in (("backbone", " + "), ("weights", "+")):
        if all(key in part for part in parts):
            made_by[key] = plus.join(part[key] for part in parts)
    for key in ("scales", "network"):
        if all(key in part and part[key] == parts[0][key] for part in parts):
            made_by[key] = parts[0][key]
    return Described(first, **arrays, made_by=made_by)


def _check_same_images(first: Museum, other: Museum, number: int) -> None:
    for (ours, name), (theirs, _) in zip(first.splits(), other.splits(), strict=True):
        if ours.sha256 == theirs.sha256:
            continue
        n = min(len(ours), len(theirs))
        different = (ours.paths[:n] != theirs.paths[:n]) | (ours.labels[:n] != theirs.labels[:n])
        row = int(different.argmax()) if different.any() else n
        here, there = (
            f"{str(split.paths[row])!r} (label {split.labels[row]})" if row < len(split) else f"no row {row}"
            for split in (ours, theirs)
        )
        raise ValueError(
            f"descriptor sets 1 and {number} list different images: {name} row {row} is {here} in the first, "
            f"{there} in the other ({len(ours)} and {len(theirs)} images). Join sets of the same ground truth, from "
            "which the same images were skipped"
        )
