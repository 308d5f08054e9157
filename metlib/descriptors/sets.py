"""Descriptor sets, read and joined: the descriptors of a museum's three splits, row for row with its ground truth."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metlib import dataset
from metlib.common.files import sha256
from metlib.common.vectors import as_rows, unit
from metlib.dataset import MET_IMAGES, Museum, Split
from metlib.descriptors.official import OFFICIAL, read_official
from metlib.descriptors.shards import DESCRIPTORS, RECIPE, load_descriptors, load_recipe, split_folder

MOST_WORKS = 20_000  # of which simulated visits are described


@dataclass(frozen=True, eq=False)
class Visits:
    """Simulated visits of database images: `descriptors` (P, D) float32, each of the database's row in `rows` (P,).

    Raises ValueError for other lengths.
    """

    rows: NDArray[np.int64]
    descriptors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.rows.ndim != 1 or len(self.rows) != len(self.descriptors):
            raise ValueError(f"rows {self.rows.shape} don't name the image of each visit {self.descriptors.shape}")


def visited(database: Split, most: int = MOST_WORKS) -> Split:
    """Select the images of which visits are simulated: those of at most so many works, drawn by a fixed seed."""
    works = np.unique(database.labels)
    if len(works) <= most:
        return database
    drawn = np.random.default_rng(0).choice(works, most, replace=False)
    return database.take(np.isin(database.labels, drawn))


@dataclass(frozen=True, eq=False)
class Described:
    """A museum with its descriptors: `database` (N, D), `val` and `test` (Q, D), float32, L2-normalised rows.

    `museum` lists the images that were described, row for row (without those that were skipped). `made_by` holds what
    is known of their making: `backbone` (name), `weights` (sha256, hexadecimal), `scales` (tuple of float), `network`
    (its recipe as JSON). `visits` are simulated from the database's images (None: there are none). Raises ValueError
    for other lengths than the museum's, and for different D.
    """

    museum: Museum
    database: NDArray[np.float32]
    val: NDArray[np.float32]
    test: NDArray[np.float32]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    visits: Visits | None = None

    def __post_init__(self) -> None:
        if self.visits and (self.visits.descriptors.shape[1:] != self.database.shape[1:] or not len(self.visits.rows)):
            raise ValueError(f"visits {self.visits.descriptors.shape} don't fit the database {self.database.shape}")
        for split, name in self.museum.splits():
            rows = getattr(self, name)
            if len(rows) != len(split):
                raise ValueError(f"{name}: {len(rows)} descriptors but {len(split)} labels")
            if rows.shape[1:] != self.database.shape[1:]:
                dims = f"{rows.shape[1]} dimensions, the database of {self.database.shape[1]}"
                raise ValueError(f"{name} has descriptors of {dims}: describe all three splits alike")


def read(path: str | Path, museum: Museum, visits: int | None = None) -> Described:
    """Read the descriptors of a museum: the authors' `descriptors.pkl`, or a folder that `extract.describe` left.

    `visits` says how many simulated visits of each image are read (default: as many as are finished).
    The folder is that of one backbone and its scales (`.../scales-1-0.707-0.5`), with a folder for each split and list
    of images; the museum's own are read, and images that were skipped leave the museum. Raises FileNotFoundError where
    there is nothing, or only other lists; ValueError for damaged files, descriptors of other images, or splits that
    were described differently.
    """
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"no {path}: expected the authors' descriptors.pkl, or a folder of extract.describe")
    if not folder.is_dir():
        return from_official(path, museum)
    kept: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    made_by: dict[str, Any] = {}
    for split, name in museum.splits():
        part = split_folder(folder, split, name)
        if not part.is_dir():
            others = ", ".join(sorted(other.name for other in folder.iterdir() if other.is_dir())) or "no folder"
            raise FileNotFoundError(
                f"{folder} has no {part.name}, the {len(split)} {name} images of {museum.name} ({museum.kind} database)"
                f"; it holds {others}. Expected the folder that extract.describe left for these very lists of images"
            )
        recipe = load_recipe(part)
        if recipe.get("images_sha256") != split.sha256:
            raise ValueError(f"{part} was made of other images than the {name} images of {museum.name}: describe them")
        made_by[name], skipped = _made_by(recipe, part)
        if not _made_alike(made_by[name], made_by["database"]):
            how = "with another network, weights or scales than the database beside it"
            raise ValueError(f"{part} was described {how}: describe all three splits alike")
        arrays[name] = load_descriptors(part)
        kept[name] = split.take(np.array([p not in skipped for p in split.paths])) if skipped else split
    try:
        simulated = _read_visits(folder, museum.database, kept["database"], visits, made_by["database"])
        return Described(replace(museum, **kept), **arrays, made_by=made_by["database"], visits=simulated)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _read_visits(
    folder: Path, database: Split, kept: Split, count: int | None, made_by: Mapping[str, Any]
) -> Visits | None:
    """Read the first `count` visits of each image (None: those that are finished); rows are of the images kept."""
    of, rows, arrays = visited(database), [], []
    place = {path: row for row, path in enumerate(kept.paths)}
    for number in range(count) if count is not None else itertools.count():
        part = split_folder(folder, of, f"visit-{number}")
        if count is None and not (part / DESCRIPTORS).exists():
            break
        theirs, skipped = _made_by(load_recipe(part), part)
        if not _made_alike(theirs, made_by):
            raise ValueError(
                f"{part} was described with another network, weights or scales than the database beside it"
            )
        rows += [place[path] for path in of.paths if path not in skipped]
        arrays.append(load_descriptors(part))
    return Visits(np.array(rows), np.concatenate(arrays)) if arrays else None


def from_official(path: str | Path, museum: Museum) -> Described:
    """Read the authors' `descriptors.pkl` as the descriptors of a museum; nothing in it is executed.

    The file doesn't state what made it, so its own hash stands for the weights' in `made_by`. Rows stay as they are
    where all have norm 1 (to 0.001, as float16 leaves them), and are L2-normalised otherwise. Raises ValueError for a
    file that `read_official` refuses, and where it lacks a split, or has another number of rows than the ground truth
    has images, different D, or rows that are NaN or zero.
    """
    arrays = read_official(path)
    if missing := [key for key in OFFICIAL.values() if key not in arrays]:
        raise ValueError(
            f"{path} has no {', '.join(missing)} (found: {', '.join(arrays)}): all three splits are needed; "
            "the authors' files of queries alone lack the database"
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
        splits: dict[str, Any] = {name: arrays[key] for name, key in OFFICIAL.items()}
        return Described(museum, **splits, made_by={"weights": sha256(path)})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _other_database(museum: Museum, n: int) -> str | None:
    """The kind of database of n images that is meant instead, where one is known."""
    for kind in set(dataset.DATABASES) - {museum.kind}:
        try:
            images = len(dataset.load(museum.root, kind).database)
        except (OSError, ValueError):  # it isn't there: the Met's own may be meant
            images = MET_IMAGES[kind]
        if images == n:
            return kind
    return None


def _made_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("weights", "network", "scales"))


def _made_by(recipe: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], set[str]]:
    """What a recipe states of the network and scales, as in `Described.made_by`, and the images that were skipped."""
    try:
        made_by: dict[str, Any] = {"backbone": str(recipe["backbone"]), "weights": str(recipe["weights_sha256"])}
        made_by |= {"scales": tuple(map(float, recipe["scales"])), "network": dict(recipe["network"])}
        if recipe.get("precision", "float32") != "float32":  # other descriptors, so another network to a results table
            made_by["network"] |= {"precision": str(recipe["precision"])}
        return made_by, set(recipe["skipped"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path / RECIPE} is damaged ({error!r}): delete its folder to extract again") from None


def concatenate(sets: Sequence[Described]) -> Described:
    """Join descriptor sets of the same images along D: rows (N, D1 + D2 + ...), float32, L2-normalised.

    Each set's rows are L2-normalised before, so that all weigh the same. Whiten afterwards: the paper's ensembles keep
    1,024 dimensions. `made_by` joins names and weights where all are known, and keeps scales and network where all
    agree; visits are joined where all sets have them. Raises ValueError for no sets, and for two that list different
    images or labels, with the first difference.
    Source: Ypsilantis et al., NeurIPS 2021 (its ensembles).
    """
    if not sets:
        raise ValueError("no descriptor sets to concatenate: give one or more")
    first, parts = sets[0].museum, [one.made_by for one in sets]
    for number, other in enumerate(sets[1:], 2):
        _check_same_images(first, other.museum, number)
    arrays: dict[str, Any] = {
        name: unit(np.hstack([unit(as_rows(getattr(one, name), f"{name} descriptors")) for one in sets]))
        for _, name in first.splits()
    }
    known = {key: [part[key] for part in parts] for key in parts[0] if all(key in part for part in parts)}
    made_by = {key: plus.join(known[key]) for key, plus in (("backbone", " + "), ("weights", "+")) if key in known}
    for key in ("scales", "network"):
        if key in known and all(value == known[key][0] for value in known[key]):
            made_by[key] = known[key][0]
    visits = [one.visits for one in sets if one.visits]
    joined = None
    if len(visits) == len(sets) and all(np.array_equal(one.rows, visits[0].rows) for one in visits):
        joined = Visits(visits[0].rows, unit(np.hstack([unit(one.descriptors) for one in visits])))
    return Described(first, **arrays, made_by=made_by, visits=joined)


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
            f"descriptor sets 1 and {number} list different images: {name} row {row} is {here} in the first, {there} "
            f"in the other ({len(ours)} and {len(theirs)} images). Join sets of the same images, with the same skipped"
        )
