"""Labelled collections read: four formats of files, and the images that they list.

Sources: Tan et al., IEEE TIP 28(1), 2019, for ArtGAN's CSVs of WikiArt; the Rijksmuseum; the National Gallery of Art.
A collection's `notes` list what reading corrected or left out; what it can't correct is a BadLabels with file and line.
"""

import difflib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metlib import dataset
from metlib.common.checks import UNKNOWN
from metlib.labelled import tables
from metlib.labelled.collections import SPLITS, BadLabels, Labelled, few, noted
from metlib.labelled.splits import stratify

Names = Sequence[str] | None  # the attributes asked for, or None for all
Classes = Mapping[str, Collection[str] | None]  # by attribute; None for all that the rows have, sorted


@dataclass(frozen=True)
class _Row:
    """One image as a file lists it; `labels` maps attributes to class names, "" for unknown ones."""

    path: str
    source: str
    labels: Mapping[str, str]
    split: str = ""
    group: str = ""  # by default a work of its own


def read(root: str | Path, **options: Any) -> Labelled:
    """Read a collection in whatever format its files have; `options` go to that format's reader.

    Raises FileNotFoundError for a folder in none of the four formats, and as the readers do.
    """
    root = Path(root)
    for reader, patterns in _FORMATS.values():
        if all(any(root.glob(pattern)) for pattern in patterns):
            return reader(root, **options)
    found = few(sorted(path.name for path in root.iterdir())) if root.is_dir() else ""
    expected = f"{'; or '.join(_FORMATS)}; images lie under images/ or beside them"
    raise FileNotFoundError(f"{root} is no labelled collection (found: {found or 'nothing'}). Expected {expected}")


def read_artgan(root: str | Path, *, attributes: Names = None, least: int = 1, on_missing: str = "raise") -> Labelled:
    """Read ArtGAN's CSVs: `<attribute>_{train,val,test}.csv` and `<attribute>_class.txt`.

    Lines are `path,class_index` (or `path,,class_index`, perhaps below a header), and `0 name` in the class file.
    ArtGAN split each attribute by itself; here an image has one split: test wins over val, val over train, and each
    pair of files that disagrees is noted. `attributes` chooses some (the splits of all count); classes of fewer than
    `least` images are left out (0 keeps the class file's numbers), and with `on_missing` "skip" rows without an image.
    Raises FileNotFoundError for missing files and images, BadLabels for bad lines and images with two classes.
    """
    root = Path(root)
    files = {(file.stem.rpartition("_")[0], split): file for split in SPLITS for file in root.glob(f"*_{split}.csv")}
    split_up, named = {name for name, _ in files}, {file.stem[: -len("_class")] for file in root.glob("*_class.txt")}
    notes = [f"{name}: left out, it has CSVs without a class file or the reverse" for name in sorted(split_up ^ named)]
    chosen = tables.choose(attributes, sorted(split_up & named), root)
    classes = {attribute: tables.read_classes(root / f"{attribute}_class.txt") for attribute in chosen}
    found: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)  # path -> attribute -> class, source
    listed: dict[tuple[str, str], dict[str, str]] = {}  # attribute, split -> path -> source
    for attribute, split in sorted(files, key=lambda file: file[0]):
        own, twice = listed.setdefault((attribute, split), {}), []
        for source, path, index in _read_pairs(files[attribute, split]):
            first = own.setdefault(path, source)
            if attribute not in classes:
                continue  # only its splits are read: an image that is judged for any attribute is trained on for none
            if index >= (n := len(classes[attribute])):
                names = f"{attribute}_class.txt has {n} classes, 0 to {n - 1}"
                raise BadLabels(f"{source}: class index {index}, but {names}")
            name = classes[attribute][index]
            before, where = found[path].setdefault(attribute, (name, source))
            if before != name:
                raise BadLabels(f"{path} is {before!r} in {where} but {name!r} in {source}: correct one of them")
            if first != source:
                twice.append(f"{path} ({first} and {source})")
        notes += noted(twice, f"lines of {files[attribute, split].name} repeat an image with its class")
    best: dict[str, tuple[str, str]] = {}  # path -> split, source
    for (_, split), own in sorted(listed.items(), key=lambda item: -SPLITS.index(item[0][1])):
        best = {path: (split, source) for path, source in own.items()} | best
    notes += _disagreements(listed, best)
    rows = []
    for path, of_path in found.items():
        split, source = best[path]
        sources = [line for _, line in of_path.values()]  # of the chosen attributes
        labels = {attribute: name for attribute, (name, _) in of_path.items()}
        rows.append(_Row(path, source if source in sources else sources[0], labels, split))
    return _collect(root, rows, classes, notes, least, on_missing)


def _read_pairs(path: Path) -> Iterator[tuple[str, str, int]]:
    """Source, path and class index of each line of one of ArtGAN's CSVs."""
    for place, (source, cells) in enumerate(tables.read_csv(path)):
        image, index = cells[0], cells[-1]
        if place == 0 and not tables.NUMBER.fullmatch(index) and not image.lower().endswith(tables.SUFFIXES):
            continue  # a header
        if len(cells) not in (2, 3) or any(cells[1:-1]):
            raise BadLabels(f"{source}: expected path,class_index, got {','.join(cells)[:80]!r}")
        if not tables.NUMBER.fullmatch(index):
            raise BadLabels(f"{source}: the class index must be an integer of 0 or more, got {index[:80]!r}")
        if dataset.leaves_root(image):
            problem = f"path {image[:80]!r} leaves the image root or isn't plain"
            raise BadLabels(f"{source}: {problem}; expected a relative path with slashes, such as Cubism/1.jpg")
        yield source, image, int(index)


def _disagreements(listed: dict[tuple[str, str], dict[str, str]], best: dict[str, tuple[str, str]]) -> Iterator[str]:
    """A note for each pair of files, of which one trains on (or validates with) what the other judges."""
    for ((judged, higher), own), ((trained, lower), others) in permutations(listed.items(), 2):
        both = [path for path in own if path in others]
        if both and SPLITS.index(higher) > SPLITS.index(lower):
            what = f"{len(both):,} of {len(own):,} images of {judged}-{higher} are in {trained}-{lower}"
            first = f"first {both[0]}, {own[both[0]]} and {others[both[0]]}"
            ends = " or ".join(sorted({best[path][0] for path in both}))
            yield f"{what} ({first}): they count as {ends} for every attribute"


def read_metadata(
    root: str | Path,
    file: str = "metadata.csv",
    id_column: str = "ImageId",
    split_column: str = "split",
    *,
    attributes: Names = None,
    least: int = 1,
    on_missing: str = "raise",
) -> Labelled:
    """Read a table as the Rijksmuseum's data come in: `,ImageId,dc_creator,dc_type[,split]`, one row an image.

    A row's image is the file whose stem (or name, or path) is its id. All other named columns are attributes;
    anonymous and unknown makers are UNKNOWN. Where a `<column>_class.txt` lies beside the table, its classes are the
    only ones. Options as in `read_artgan`.
    Raises FileNotFoundError for missing files, BadLabels for damaged tables, unknown splits or classes, repeated ids.
    """
    root = Path(root)
    columns, table = tables.read_table(root / file, (id_column,))
    for name in columns:
        if "/" in name or dataset.leaves_root(name):
            raise BadLabels(f"{root / file}:1: column {name[:80]!r} is no plain name: rename it")
    there = [name for name in columns if name not in (id_column, split_column)]
    lists = {name: root / f"{name}_class.txt" for name in tables.choose(attributes, there, root / file)}
    classes = {
        name: dict.fromkeys(tables.read_classes(path)) if path.is_file() else None for name, path in lists.items()
    }
    notes = [] if split_column in columns else [f"{file} has no column {split_column!r}: make splits with stratify()"]
    files, rows = tables.files_by_id(root), []
    for source, cells in table:
        split = cells.get(split_column, "")
        if split not in ("", *SPLITS):
            raise BadLabels(f"{source}: {split_column} {split[:80]!r}, expected {', '.join(SPLITS)}, or nothing")
        labels = {name: tables.known(cells[name]) for name in classes}
        for name, label in labels.items():
            if label and (allowed := classes[name]) and label not in allowed:
                (nearest,) = difflib.get_close_matches(label, allowed, 1, cutoff=0)
                raise BadLabels(f"{source}: {name} {label[:80]!r} isn't in {name}_class.txt; nearest is {nearest!r}")
        rows.append(_Row(tables.find_file(files, cells[id_column], source), source, labels, split))
    return _collect(root, rows, classes, notes, least, on_missing)


def read_nga(
    root: str | Path, *, attributes: Names = ("classification", "attribution"), least: int = 1, on_missing: str = "skip"
) -> Labelled:
    """Read the National Gallery of Art's open data: `published_images.csv`, and labels from `objects.csv`.

    An image file is called `<uuid>.<suffix>`; views of one object share a group. The data have no splits: make them
    with `stratify`. Options as in `read_artgan`; with `attributes` None, all columns of `objects.csv` but its id.
    Raises FileNotFoundError for missing files, BadLabels for damaged tables, and objects, uuids or files that repeat.
    """
    root = Path(root)
    columns, table = tables.read_table(root / "objects.csv", ("objectid",), attributes)
    chosen = tables.choose(attributes, [name for name in columns if name != "objectid"], root / "objects.csv")
    objects: dict[str, tuple[str, dict[str, str]]] = {}
    for source, cells in table:
        number = cells["objectid"]
        if number in objects:
            raise BadLabels(f"{source}: object {number[:80]!r} stands in {objects[number][0]} already")
        objects[number] = source, {name: tables.known(cells[name]) for name in chosen}
    files, rows, orphans = tables.files_by_id(root), [], []
    _, table = tables.read_table(root / "published_images.csv", ("uuid", "depictstmsobjectid"), ())
    for source, cells in table:
        number, uuid = cells["depictstmsobjectid"], cells["uuid"]
        if number not in objects and uuid in files:
            orphans.append(f"{uuid} ({source})")
        _, labels = objects.get(number, ("", {}))
        path = tables.find_file(files, uuid, source)
        rows.append(_Row(path, source, labels, group=f"object {number}" if number else ""))
    notes = noted(orphans, "images show no object of objects.csv")
    return _collect(root, rows, dict.fromkeys(chosen), notes, least, on_missing)


def read_museum(
    root: str | Path, *, attributes: Names = ("kind", "school", "palette"), least: int = 1, on_missing: str = "raise"
) -> Labelled:
    """Read the studio photographs of a museum painted by `metlib.synthetic`, with what is known of their exhibits.

    Photographs of one exhibit share a group. Splits are made here, by "school" where it is asked for, else by the first
    attribute: `stratify` with its defaults. Options as in `read_artgan`.
    Raises BadLabels for a damaged `attributes.json`, and as `dataset.load` does.
    """
    root = Path(root)
    database, file = dataset.load(root).database, root / "ground_truth" / "attributes.json"
    try:
        lines = json.loads(tables.read_text(file))
    except (ValueError, RecursionError) as error:
        raise BadLabels(f"{file} is damaged JSON ({error}): paint the museum again") from None
    if not isinstance(lines, list) or not lines or not all(isinstance(line, dict) for line in lines):
        raise BadLabels(f"{file}: expected a list of objects, one an exhibit")
    chosen = tables.choose(attributes, [name for name, value in lines[0].items() if isinstance(value, str)], file)
    exhibits: dict[int, dict[str, str]] = {}
    for number, line in enumerate(lines):
        if type(line.get("id")) is not int or line["id"] in exhibits:
            raise BadLabels(f"{file.name}, row {number}: expected an integer id of its own, got {str(line)[:80]}")
        if not all(isinstance(line.get(name), str) for name in chosen):
            raise BadLabels(f"{file.name}, row {number}: expected texts for {', '.join(chosen)}, got {str(line)[:80]}")
        exhibits[line["id"]] = {name: tables.known(line[name]) for name in chosen}
    rows = []
    for number, (path, label) in enumerate(zip(database.paths.tolist(), database.labels.tolist(), strict=True)):
        if label not in exhibits:
            raise BadLabels(f"MET_database.json, row {number}: exhibit {label} isn't in {file.name}")
        rows.append(_Row(path, f"MET_database.json, row {number}", exhibits[label], group=f"exhibit {label}"))
    collection = _collect(root, rows, dict.fromkeys(chosen), [], least, on_missing, unlisted=False)
    return stratify(collection, "school" if "school" in chosen else chosen[0])


_FORMATS: Mapping[str, tuple[Callable[..., Labelled], tuple[str, ...]]] = {
    "ArtGAN's <attribute>_class.txt with <attribute>_train.csv": (read_artgan, ("*_class.txt", "*_train.csv")),
    "the NGA's published_images.csv with objects.csv": (read_nga, ("published_images.csv", "objects.csv")),
    "a metadata.csv with a column ImageId": (read_metadata, ("metadata.csv",)),
    "a painted museum's ground_truth/attributes.json": (read_museum, ("ground_truth/attributes.json",)),
}


def _collect(
    root: Path, rows: list[_Row], classes: Classes, notes: list[str], least: int, on_missing: str, unlisted: bool = True
) -> Labelled:
    """Make the collection of all rows whose images are there; `unlisted` notes images without a row."""
    if on_missing not in ("raise", "skip") or least < 0:
        raise ValueError(f"on_missing {on_missing!r}, least {least}: expected 'raise' or 'skip', and 0 or more")
    images, there = tables.find_images(root)
    seen: dict[str, str] = {}
    for row in rows:
        if row.path in seen:
            raise BadLabels(f"{row.source}: image {row.path!r} stands in {seen[row.path]} already, keep one of them")
        seen[row.path] = row.source
    if gone := [f"{row.path} ({row.source})" for row in rows if row.path not in there]:
        suffixes = ", ".join(tables.SUFFIXES)
        what = f"{len(gone):,} of {len(rows):,} rows name no image ({suffixes}) in {images}: {few(gone)}"
        if on_missing == "raise" or len(gone) == len(rows):
            raise FileNotFoundError(f"{what}. Fetch them, or leave such rows out with on_missing='skip'")
        notes.append(f"{what}; left out")
    notes += noted(sorted(there - {*seen}) if unlisted else [], f"images in {images} have no row")
    rows = [row for row in rows if row.path in there]
    labels, kept = {}, {}
    for attribute, listed in classes.items():
        values = [row.labels.get(attribute, "") for row in rows]
        counts = Counter(values)
        if unknown := counts.pop("", 0):
            notes.append(f"{attribute}: {unknown:,} of {len(rows):,} images are of no known class")
        names = sorted(counts) if listed is None else listed
        small = [f"{name} ({counts[name]})" for name in names if counts[name] < least]
        notes += noted(small, f"classes of fewer than {least} images left out", f"{attribute}: ")
        single = [f"{value} ({row.source})" for value, row in zip(values, rows, strict=True) if counts[value] == 1]
        notes += noted(single if least <= 1 else [], "classes of a single image", f"{attribute}: ")
        kept[attribute] = tuple(name for name in names if counts[name] >= least)
        labels[attribute] = pd.Index(kept[attribute], dtype=object).get_indexer(values)  # of others -1: UNKNOWN
    labelled = np.any([values != UNKNOWN for values in labels.values()], axis=0)  # (n,)
    notes += noted([rows[i].source for i in np.flatnonzero(~labelled)], "images without any label left out")
    labels = {attribute: values[labelled] for attribute, values in labels.items()}
    rows = [rows[i] for i in np.flatnonzero(labelled)]
    paths = np.array([row.path for row in rows], np.str_)
    splits = np.array([row.split for row in rows], np.str_)
    sources = np.array([row.source for row in rows], np.str_)
    groups = pd.factorize(np.array([row.group or f"/{row.path}" for row in rows], object))[0]
    return Labelled(root.resolve().name, images, paths, splits, labels, kept, groups, sources, tuple(notes))
