"""Labelled collections: images with an artist, a genre, a style, a type or a material each, read and checked.

Four forms are read: ArtGAN's WikiArt CSVs (Tan et al., IEEE TIP 28(1), 2019), a `metadata.csv` as the Rijksmuseum's
data come in, the National Gallery of Art's open data, and a museum painted by `metlib.synthetic`. What reading mends or
leaves out is said in the collection's `notes`; what it can't mend is a BadLabels that names file and line.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from metlib import dataset
from metlib.common.files import sha256

UNKNOWN = -1
"""The label of an image that has none."""

SPLITS = ("train", "val", "test")  # by rank: where files disagree, being judged wins over training
SHARES: Mapping[str, float] = {"train": 0.6, "val": 0.2, "test": 0.2}

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
_ANONYMOUS = ("", "nan", "unknown", "onbekend")
_NUMBER = re.compile(r"[0-9]{1,9}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and halves of letters, which no file can hold


class BadLabels(ValueError):
    """Labels that are damaged, that contradict each other, or that leave nothing to tell apart."""


# ------------------------------------------------------------------------------------------------ the collection


@dataclass(frozen=True, eq=False)
class Labelled:
    """N images with one label, or none, for each of several attributes.

    `root` is the folder that `paths` (N,) str, each once, are relative to. `splits` (N,) are "train", "val", "test" or
    "" (in none yet). `labels` maps an attribute to (N,) int64, numbers of its `classes`, UNKNOWN where an image has
    none. Images of one work share a number in `groups` (N,) int64: they never part when splits are made.
    `sources` (N,) says where a row stands ("style_train.csv:12"), `notes` what reading found, mended or left out.
    Raises BadLabels (a ValueError) for lengths that differ, duplicate paths or classes, labels without a class, unknown
    splits, and an attribute with a single labelled image, or of whose classes fewer than two have images.
    """

    name: str
    root: Path
    paths: NDArray[np.str_]
    splits: NDArray[np.str_]
    labels: Mapping[str, NDArray[np.int64]]
    classes: Mapping[str, tuple[str, ...]]
    groups: NDArray[np.int64]
    sources: NDArray[np.str_]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = {name: np.array(getattr(self, name), np.str_) for name in ("paths", "splits", "sources")}
        numbers = {name: np.array(values) for name, values in {"groups": self.groups, **self.labels}.items()}
        for name, values in (texts | numbers).items():
            if values.shape != texts["paths"].shape or values.ndim != 1:
                raise BadLabels(f"{self.name}: {name} must be one for each of {len(self.paths)} paths, (N,)")
        for name, values in numbers.items():
            if values.size and values.dtype.kind not in "iu":
                raise BadLabels(f"{self.name}: {name} must be integers, got {values.dtype}")
        paths, repeats = np.unique(texts["paths"], return_counts=True)
        if (repeats > 1).any():
            raise BadLabels(f"{self.name}: duplicate path {str(paths[repeats > 1][0])!r}: list every image once")
        strange = sorted({*texts["splits"].tolist()} - {"", *SPLITS})
        if strange:
            raise BadLabels(f"{self.name}: unknown split {strange[0]!r}, expected {', '.join(SPLITS)}, or nothing")
        classes = {attribute: tuple(names) for attribute, names in self.classes.items()}
        if not classes or classes.keys() != self.labels.keys():
            raise BadLabels(
                f"{self.name}: labels for {', '.join(self.labels) or 'no attribute'} but classes for "
                f"{', '.join(classes) or 'none'}: each attribute needs both"
            )
        for attribute, names in classes.items():
            twins = [name for name, times in Counter(names).items() if times > 1]
            if twins:
                raise BadLabels(f"{self.name}, {attribute}: class {twins[0]!r} stands there twice")
            self._check_labels(attribute, names, numbers[attribute], texts["sources"])
        fixed: dict[str, Any] = {**texts, "groups": numbers.pop("groups").astype(np.int64)}
        fixed["splits"] = texts["splits"].astype("<U5")  # so that "train" fits where only "val" was
        labels = {attribute: numbers[attribute].astype(np.int64) for attribute in self.labels}
        for array in (*fixed.values(), *labels.values()):
            array.flags.writeable = False
        fixed |= {"labels": labels, "classes": classes, "root": Path(self.root), "notes": tuple(self.notes)}
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    def _check_labels(self, attribute: str, names: Sequence[str], labels: NDArray[Any], sources: NDArray[Any]) -> None:
        """Refuse labels (N,) that have no class, or that leave nothing to tell apart."""
        wrong = np.flatnonzero((labels < UNKNOWN) | (labels >= len(names)))
        if len(wrong):
            raise BadLabels(
                f"{self.name}, {attribute}: label {labels[wrong[0]]} ({sources[wrong[0]]}), expected 0 to "
                f"{len(names) - 1}, or {UNKNOWN} where there is none"
            )
        known = np.flatnonzero(labels != UNKNOWN)
        if len(np.unique(labels[known])) > 1:
            return
        if not len(known):
            reason = "no image has a label"
        elif len(known) == 1:
            reason = f"a single labelled image ({sources[known[0]]}), nothing to learn from"
        else:
            reason = f"one class only ({names[labels[known[0]]]!r}, first {sources[known[0]]}), nothing to tell apart"
        raise BadLabels(f"{self.name}, {attribute}: {reason}; leave it out with attributes= or select()")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def sha256(self) -> str:
        """Images, splits, classes and labels named by a hash, hexadecimal: by this, runs know what they learned."""
        parts = [*self.paths, *self.splits]
        for name in self.attributes:
            parts += [name, *self.classes[name], *map(str, self.labels[name].tolist())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return tuple(self.labels)

    def file(self, i: int) -> Path:
        """The file of image `i`."""
        return self.root / str(self.paths[i])

    @property
    def images(self) -> dataset.Split:
        """All images as the rest of the package reads them; their labels are row numbers of this collection."""
        return dataset.Split(self.paths, np.arange(len(self)), self.root)

    def rows(self, split: str) -> NDArray[np.int64]:
        """The row numbers (n,) int64 of a split's images; "" asks for those that are in none."""
        if split not in ("", *SPLITS):
            raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}, or '' for the images in none")
        return np.flatnonzero(self.splits == split)

    def split(self, name: str) -> dataset.Split:
        """A split as the rest of the package reads it; its labels are row numbers of this collection."""
        return self.images.take(self.rows(name))

    def take(self, rows: ArrayLike) -> Labelled:
        """The collection of these rows only (indices, or a mask (N,)); classes stay, also those without images."""
        chosen = np.arange(len(self))[rows]  # type: ignore[index]
        return replace(
            self,
            **{name: getattr(self, name)[chosen] for name in ("paths", "splits", "groups", "sources")},
            labels={attribute: labels[chosen] for attribute, labels in self.labels.items()},
        )

    def select(self, *attributes: str) -> Labelled:
        """The collection with these attributes only, without the images that then have no label at all."""
        labels = {attribute: _labels(self, attribute) for attribute in attributes}
        classes = {attribute: self.classes[attribute] for attribute in attributes}
        chosen = replace(self, labels=labels, classes=classes)
        return chosen.take(np.any([values != UNKNOWN for values in labels.values()], axis=0))


def _labels(collection: Labelled, attribute: str) -> NDArray[np.int64]:
    if attribute not in collection.labels:
        raise ValueError(f"{collection.name} has no attribute {attribute!r}, but {', '.join(collection.attributes)}")
    return collection.labels[attribute]


# ----------------------------------------------------------------------------------------------------- the readers


@dataclass(frozen=True)
class _Row:
    """One image as its file tells of it; `labels` maps attributes to class names, "" for unknown ones."""

    path: str
    source: str
    labels: Mapping[str, str]
    split: str = ""
    group: str = ""  # by default a work of its own


def read(root: str | Path, **options: Any) -> Labelled:
    """Read a collection in whatever form its files have; `options` go to that form's reader.

    Raises FileNotFoundError for a folder in none of the four forms, and as the readers do.
    """
    root = Path(root)
    for reader, patterns in _FORMS.values():
        if all(any(root.glob(pattern)) for pattern in patterns):
            return reader(root, **options)
    found = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    raise FileNotFoundError(
        f"{root} is no labelled collection (found: {_few(found) or 'nothing'}). Expected {'; or '.join(_FORMS)}; "
        "images lie under images/ or beside them"
    )


def read_artgan(
    root: str | Path, *, attributes: Sequence[str] | None = None, least: int = 1, on_missing: str = "raise"
) -> Labelled:
    """Read ArtGAN's CSVs: `<attribute>_{train,val,test}.csv` and `<attribute>_class.txt`.

    Lines are `path,class_index` (or `path,,class_index`, perhaps below a header), and `0 name` in the class file.
    ArtGAN split each attribute by itself, so an image may be trained on for one and judged for another. Here an image
    has one split: test wins over val, val over train, and each pair of files that disagrees is noted.
    `attributes` chooses some (the splits of all count); classes of fewer than `least` images are left out (0 keeps the
    class file's numbers); `on_missing` says whether a row without its image is an error ("raise") or left out ("skip").
    Raises FileNotFoundError for missing files and images, BadLabels for lines that can't be read, indices beyond the
    class file, one image with two classes, and what Labelled refuses.
    """
    root = Path(root)
    files: dict[str, dict[str, Path]] = defaultdict(dict)  # attribute -> split -> file
    for file in root.glob("*_*.csv"):
        attribute, split = file.stem.rsplit("_", 1)
        if split in SPLITS:
            files[attribute][split] = file
    named = {file.name.removesuffix("_class.txt") for file in root.glob("*_class.txt")}
    notes = [f"{name}: left out, it has CSVs without a class file or the reverse" for name in sorted(named ^ {*files})]
    chosen = _choose(attributes, sorted(named & {*files}), root)
    classes = {attribute: _read_classes(root / f"{attribute}_class.txt") for attribute in chosen}
    # Of the others only the splits are read: whoever is judged for any attribute is trained on for none.
    found: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)  # path -> attribute -> class, source
    listed: dict[tuple[str, str], dict[str, str]] = {}  # attribute, split -> path -> source
    for attribute, split in ((attribute, split) for attribute in sorted(files) for split in SPLITS):
        if split not in files[attribute]:
            continue
        file, names, twice = files[attribute][split], classes.get(attribute), []
        own = listed[attribute, split] = {}
        for source, path, index in _read_pairs(file):
            if names is None:
                own.setdefault(path, source)
                continue
            if index >= len(names):
                raise BadLabels(
                    f"{source}: class index {index}, but {attribute}_class.txt has {len(names)} classes, "
                    f"0 to {len(names) - 1}"
                )
            before, where = found[path].setdefault(attribute, (names[index], source))
            if before != names[index]:
                raise BadLabels(
                    f"{path} is {before!r} in {where} but {names[index]!r} in {source}: correct one of them"
                )
            if own.setdefault(path, source) != source:
                twice.append(f"{path} ({own[path]} and {source})")
        if twice:
            notes.append(f"{len(twice):,} lines of {file.name} repeat an image with its class: {_few(twice)}")
    best: dict[str, tuple[str, str]] = {}  # path -> split, source
    for (_, split), own in sorted(listed.items(), key=lambda item: SPLITS.index(item[0][1]), reverse=True):
        for path, source in own.items():
            best.setdefault(path, (split, source))
    notes += _disagreements(listed, best)
    rows = []
    for path, told in found.items():
        split, source = best[path]
        sources = [line for _, line in told.values()]  # of the chosen attributes: the one that decided, if it is there
        labels = {attribute: name for attribute, (name, _) in told.items()}
        rows.append(_Row(path, source if source in sources else sources[0], labels, split))
    return _collect(root, _image_folder(root), rows, classes, notes, least, on_missing)


def _read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a `*_class.txt`, in the order of their numbers."""
    names: dict[int, str] = {}
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        index, _, name = _clean(line).partition(" ")
        if not index:
            continue
        if not _NUMBER.fullmatch(index) or not name:
            raise BadLabels(f"{path.name}:{number}: expected a class as '0 name', got {line[:80]!r}")
        if int(index) in names or name in names.values():
            raise BadLabels(f"{path.name}:{number}: class {index} {name!r} repeats a number or a name")
        names[int(index)] = name
    if sorted(names) != list(range(len(names))) or not names:
        raise BadLabels(f"{path.name}: classes must be numbered from 0 without gaps, got {_few(sorted(names))}")
    return tuple(names[index] for index in range(len(names)))


def _read_pairs(path: Path) -> Iterator[tuple[str, str, int]]:
    """Source, path and class index of each line of one of ArtGAN's CSVs."""
    for place, (source, cells) in enumerate(_read_csv(path)):
        image, index = cells[0], cells[-1]
        if place == 0 and not _NUMBER.fullmatch(index) and not image.lower().endswith(_SUFFIXES):
            continue  # a header
        if len(cells) not in (2, 3) or any(cells[1:-1]):
            raise BadLabels(f"{source}: expected path,class_index, got {','.join(cells)[:80]!r}")
        if not _NUMBER.fullmatch(index):
            raise BadLabels(f"{source}: the class index must be an integer of 0 or more, got {index[:80]!r}")
        if dataset.leaves_root(image):
            raise BadLabels(
                f"{source}: path {image[:80]!r} leaves the image root or isn't plain; expected a relative path with "
                "forward slashes, such as Cubism/1.jpg"
            )
        yield source, image, int(index)


def _disagreements(
    listed: Mapping[tuple[str, str], Mapping[str, str]], best: Mapping[str, tuple[str, str]]
) -> list[str]:
    """A note for each pair of files, of which one trains on (or validates with) what the other judges."""
    notes = []
    for (judged, other), (trained, lower) in permutations(listed, 2):
        both = [path for path in listed[judged, other] if path in listed[trained, lower]]
        if both and SPLITS.index(other) > SPLITS.index(lower):
            first = f"{both[0]}, {listed[judged, other][both[0]]} and {listed[trained, lower][both[0]]}"
            ends = " or ".join(sorted({best[path][0] for path in both}))
            notes.append(
                f"{len(both):,} of {len(listed[judged, other]):,} images of {judged}-{other} are in {trained}-{lower} "
                f"(first {first}): they count as {ends} for every attribute"
            )
    return notes


def read_metadata(
    root: str | Path,
    file: str = "metadata.csv",
    id_column: str = "ImageId",
    split_column: str = "split",
    *,
    attributes: Sequence[str] | None = None,
    least: int = 1,
    on_missing: str = "raise",
) -> Labelled:
    """Read a table as the Rijksmuseum's data come in: `,ImageId,dc_creator,dc_type[,split]`, one row an image.

    A row's image is the file whose stem (or name, or path) is its id, never the one at its position. All other named
    columns are attributes, of stripped values; anonymous and unknown makers are UNKNOWN. Where a
    `<column>_class.txt` lies beside the table, its classes are the only ones. Options as in `read_artgan`.
    Raises FileNotFoundError for missing files and images, BadLabels for a damaged table, unknown splits, one id twice,
    two files for one id, a label that isn't in the class file, and what Labelled refuses.
    """
    root = Path(root)
    columns, table = _read_table(root / file, (id_column,))
    for name in columns:
        if "/" in name or dataset.leaves_root(name):
            raise BadLabels(f"{root / file}:1: column {name[:80]!r} is no plain name: rename it")
    chosen = _choose(attributes, [name for name in columns if name not in (id_column, split_column)], root / file)
    notes = [] if split_column in columns else [f"{file} has no column {split_column!r}: make splits with stratify()"]
    listed = {name: root / f"{name}_class.txt" for name in chosen}
    allowed = {name: dict.fromkeys(_read_classes(path)) for name, path in listed.items() if path.is_file()}
    images = _image_folder(root)
    files = _by_id(images)
    rows = []
    for source, cells in table:
        split = cells.get(split_column, "")
        if split not in ("", *SPLITS):
            raise BadLabels(f"{source}: {split_column} {split[:80]!r}, expected {', '.join(SPLITS)}, or nothing")
        labels = {name: _known(cells[name]) for name in chosen}
        for name, names in allowed.items():
            if labels[name] and labels[name] not in names:
                (nearest,) = difflib.get_close_matches(labels[name], names, 1, cutoff=0)
                raise BadLabels(
                    f"{source}: {name} {labels[name][:80]!r} isn't in {name}_class.txt; the nearest is {nearest!r}"
                )
        rows.append(_Row(_find(files, cells[id_column], source), source, labels, split))
    classes = {name: tuple(allowed[name]) if name in allowed else None for name in chosen}
    return _collect(root, images, rows, classes, notes, least, on_missing)


def read_nga(
    root: str | Path,
    *,
    attributes: Sequence[str] | None = ("classification", "attribution"),
    least: int = 1,
    on_missing: str = "skip",
) -> Labelled:
    """Read the National Gallery of Art's open data: `published_images.csv`, and labels from `objects.csv`.

    An image file is called `<uuid>.<suffix>`; views of one object share a group. The data have no splits: make them
    with `stratify`. Most use a part of the images, so rows without one are left out. Options as in `read_artgan`; with
    `attributes` None, all columns of `objects.csv` but its id.
    Raises FileNotFoundError for missing files, BadLabels for damaged tables, one object or uuid twice, two files for
    one uuid, and what Labelled refuses.
    """
    root = Path(root)
    columns, table = _read_table(root / "objects.csv", ("objectid",), attributes)
    chosen = _choose(attributes, [name for name in columns if name != "objectid"], root / "objects.csv")
    objects: dict[str, tuple[str, dict[str, str]]] = {}
    for source, cells in table:
        number = cells["objectid"]
        if number in objects:
            raise BadLabels(f"{source}: object {number[:80]!r} stands in {objects[number][0]} already")
        objects[number] = source, {name: _known(cells[name]) for name in chosen}
    images = _image_folder(root)
    files = _by_id(images)
    rows, orphans = [], []
    _, table = _read_table(root / "published_images.csv", ("uuid", "depictstmsobjectid"), ())
    for source, cells in table:
        number, uuid = cells["depictstmsobjectid"], cells["uuid"]
        if number not in objects and uuid in files:
            orphans.append(f"{uuid} ({source})")
        _, labels = objects.get(number, ("", {}))
        rows.append(_Row(_find(files, uuid, source), source, labels, group=f"object {number}" if number else ""))
    notes = [f"{len(orphans):,} images show no object of objects.csv: {_few(orphans)}"] if orphans else []
    return _collect(root, images, rows, dict.fromkeys(chosen), notes, least, on_missing)


def read_museum(
    root: str | Path,
    *,
    attributes: Sequence[str] | None = ("kind", "school", "palette"),
    least: int = 1,
    on_missing: str = "raise",
) -> Labelled:
    """Read the studio photographs of a museum painted by `metlib.synthetic`, with what is known of their exhibits.

    Photographs of one exhibit share a group. Splits are made here, by "school" where it is asked for, else by the first
    attribute: `stratify` with its defaults. Options as in `read_artgan`.
    Raises as `dataset.load` does, and BadLabels for a damaged `attributes.json` and what Labelled refuses.
    """
    root = Path(root)
    database = dataset.load(root).database
    file = root / "ground_truth" / "attributes.json"
    text = _read_text(file)
    try:
        lines = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLabels(f"{file} is damaged JSON ({error}): paint the museum again") from None
    if not isinstance(lines, list) or not lines or not all(isinstance(line, dict) for line in lines):
        raise BadLabels(f"{file}: expected a list of objects, one an exhibit")
    chosen = _choose(attributes, [name for name, value in lines[0].items() if isinstance(value, str)], file)
    exhibits: dict[int, dict[str, str]] = {}
    for number, line in enumerate(lines):
        if type(line.get("id")) is not int or line["id"] in exhibits:
            raise BadLabels(f"{file.name}, row {number}: expected an integer id of its own, got {str(line)[:80]}")
        if not all(isinstance(line.get(name), str) for name in chosen):
            raise BadLabels(f"{file.name}, row {number}: expected texts for {', '.join(chosen)}, got {str(line)[:80]}")
        exhibits[line["id"]] = {name: _known(line[name]) for name in chosen}
    rows = []
    for number, (path, label) in enumerate(zip(database.paths.tolist(), database.labels.tolist(), strict=True)):
        if label not in exhibits:
            raise BadLabels(f"MET_database.json, row {number}: exhibit {label} isn't in {file.name}")
        rows.append(_Row(path, f"MET_database.json, row {number}", exhibits[label], group=f"exhibit {label}"))
    collection = _collect(root, database.root, rows, dict.fromkeys(chosen), [], least, on_missing, listed_only=True)
    return stratify(collection, "school" if "school" in chosen else chosen[0])


_FORMS: Mapping[str, tuple[Callable[..., Labelled], tuple[str, ...]]] = {
    "ArtGAN's <attribute>_class.txt with <attribute>_train.csv": (read_artgan, ("*_class.txt", "*_train.csv")),
    "the National Gallery of Art's published_images.csv with objects.csv": (
        read_nga,
        ("published_images.csv", "objects.csv"),
    ),
    "a metadata.csv with a column ImageId": (read_metadata, ("metadata.csv",)),
    "a painted museum's ground_truth/attributes.json": (read_museum, ("ground_truth/attributes.json",)),
}


# ---------------------------------------------------------------------------------------- what the readers share


def _image_folder(root: Path) -> Path:
    return root / "images" if (root / "images").is_dir() else root


def _image_files(folder: Path) -> set[str]:
    """Paths, relative and with slashes, of all image files in a folder and below."""
    return {
        (Path(place) / name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
    }


def _by_id(folder: Path) -> Mapping[str, Sequence[str]]:
    """The paths of a folder's images by their stems, and by their names with the suffix in small letters."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(_image_files(folder)):
        stem, _, suffix = path.rsplit("/", 1)[-1].rpartition(".")
        files[stem].append(path)
        files[f"{stem}.{suffix.lower()}"].append(path)
    return dict(files)


def _find(files: Mapping[str, Sequence[str]], name: str, source: str) -> str:
    """The path of the image with this id, or the id itself where there's none."""
    if not name:
        raise BadLabels(f"{source}: no id, so no image can be found")
    stem, dot, suffix = name.rpartition(".")
    found = files.get(name) or files.get(f"{stem}.{suffix.lower()}" if dot else name, [])
    if len(found) > 1:
        raise BadLabels(f"{source}: {len(found)} files for the id {name!r} ({_few(found)}): keep one of them")
    return found[0] if found else name


def _read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + raw[: error.start].count(b"\n")
        raise BadLabels(f"{path.name}:{line}: no UTF-8 ({error.reason}), save it as UTF-8") from None


def _read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Source (file and first line) and stripped cells of every row that isn't blank."""
    rows, line = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True), 1
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield f"{path.name}:{line}", cells
            line = rows.line_num + 1
    except csv.Error as error:
        raise BadLabels(f"{path.name}:{line}: damaged CSV ({error}), save it as CSV again") from None


def _read_table(
    path: Path, needed: Sequence[str], wanted: Sequence[str] | None = None
) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """The named columns of a CSV with a header, and its rows: source and cells, of `wanted` columns if not None."""
    rows = _read_csv(path)
    _, header = next(rows, ("", []))
    columns = [name for name in header if name and not name.startswith("Unnamed:")]  # an index column has no name
    for name in needed:
        if name not in columns:
            raise BadLabels(f"{path.name}:1: no column {name!r}, but {_few(columns, 20) or 'nothing'}")
    for name, times in Counter(columns).items():
        if times > 1:
            raise BadLabels(f"{path.name}:1: {times} columns called {name!r}")
    kept = {*columns} if wanted is None else {*needed, *wanted}

    def cells() -> Iterator[tuple[str, dict[str, str]]]:
        for source, row in rows:
            if len(row) != len(header):
                raise BadLabels(f"{source}: {len(row)} cells below a header of {len(header)}")
            yield source, {name: cell for name, cell in zip(header, row, strict=True) if name in kept}

    return columns, cells()


def _clean(text: str) -> str:
    """The text in one line, without control characters."""
    return " ".join(_CONTROL.sub(" ", text).split())


def _known(value: str) -> str:
    """A class name, or "" where the value says that nobody knows."""
    value = _clean(value)
    plain = value.lower()
    return "" if plain in _ANONYMOUS or plain.startswith(("anonym", "anoniem")) else value


def _choose(wanted: Sequence[str] | None, there: Sequence[str], where: Path) -> list[str]:
    """The attributes asked for, each once, or all that are there."""
    if not there:
        raise FileNotFoundError(f"{where} has no attribute: it needs labels beside the images")
    chosen = list(dict.fromkeys(there if wanted is None else wanted))
    strange = [name for name in chosen if name not in there]
    if strange or not chosen:
        raise ValueError(f"{where} has no attribute {_few(strange) or 'of no name'}; choose from {', '.join(there)}")
    return chosen


def _few(items: Collection[Any], most: int = 3) -> str:
    """The first few of many, for a message."""
    shown = ", ".join(_clean(str(item))[:200] for item in list(items)[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"


def _collect(
    root: Path,
    images: Path,
    rows: Sequence[_Row],
    classes: Mapping[str, Sequence[str] | None],
    notes: Sequence[str],
    least: int,
    on_missing: str,
    *,
    listed_only: bool = False,
) -> Labelled:
    """Make the collection of all rows whose images are there; classes None are whatever the rows say, sorted."""
    if on_missing not in ("raise", "skip") or least < 0:
        raise ValueError(f"on_missing {on_missing!r}, least {least}: expected 'raise' or 'skip', and 0 or more")
    notes, there = list(notes), _image_files(images)
    seen: dict[str, str] = {}
    for row in rows:
        if row.path in seen:
            raise BadLabels(f"{row.source}: image {row.path!r} stands in {seen[row.path]} already, keep one of them")
        seen[row.path] = row.source
    gone = [f"{row.path} ({row.source})" for row in rows if row.path not in there]
    if gone:
        what = f"{len(gone):,} of {len(rows):,} rows name no image ({', '.join(_SUFFIXES)}) in {images}: {_few(gone)}"
        if on_missing == "raise" or len(gone) == len(rows):
            raise FileNotFoundError(f"{what}. Fetch them, or leave such rows out with on_missing='skip'")
        notes.append(f"{what}; left out")
    extra = sorted(path for path in there if path not in seen)
    if extra and not listed_only:
        notes.append(f"{len(extra):,} images in {images} have no row: {_few(extra)}")
    rows = [row for row in rows if row.path in there]
    labels: dict[str, NDArray[np.int64]] = {}
    kept: dict[str, tuple[str, ...]] = {}
    for attribute, known in classes.items():
        values = [row.labels.get(attribute, "") for row in rows]
        counts = Counter(values)
        unknown = counts.pop("", 0)
        if unknown:
            notes.append(f"{attribute}: {unknown:,} of {len(rows):,} images are of no known class")
        names = sorted(counts) if known is None else known
        small = [f"{name} ({counts[name]})" for name in names if counts[name] < least]
        if small:
            notes.append(f"{attribute}: {len(small):,} classes of fewer than {least} images left out: {_few(small)}")
        kept[attribute] = tuple(name for name in names if counts[name] >= least)
        single = [
            f"{row.labels[attribute]} ({row.source})"
            for row, value in zip(rows, values, strict=True)
            if counts[value] == 1 and least <= 1
        ]
        if single:
            notes.append(f"{attribute}: {len(single):,} classes of a single image: {_few(single)}")
        number = {name: index for index, name in enumerate(kept[attribute])}
        labels[attribute] = np.array([number.get(value, UNKNOWN) for value in values], np.int64)
    labelled = np.any([values != UNKNOWN for values in labels.values()], axis=0)  # (n,)
    bare = [row.source for row, has in zip(rows, labelled, strict=True) if not has]
    if bare:
        notes.append(f"{len(bare):,} images without any label left out: {_few(bare)}")
    rows = [row for row, has in zip(rows, labelled, strict=True) if has]
    numbers: dict[str, int] = {}
    return Labelled(
        root.resolve().name,
        images,
        np.array([row.path for row in rows], np.str_),
        np.array([row.split for row in rows], np.str_),
        {attribute: values[labelled] for attribute, values in labels.items()},
        kept,
        np.array([numbers.setdefault(row.group or f"/{row.path}", len(numbers)) for row in rows], np.int64),
        np.array([row.source for row in rows], np.str_),
        tuple(notes),
    )


# --------------------------------------------------------------------------------------------------- new splits


def stratify(collection: Labelled, by: str, shares: Mapping[str, float] = SHARES, seed: int = 0) -> Labelled:
    """Split a collection anew, class by class of attribute `by`, groups kept whole.

    `shares` maps splits to fractions that sum to 1. In each class a split's images differ from its share by less than
    one group; where that leaves a choice, the split that lacks more images of all gets the group. A class of a single
    group goes to train (or the first split there is) and is noted. Images UNKNOWN in `by` are split as one more class;
    a group of several classes counts for the last. The same seed gives the same splits.
    Raises ValueError for an unknown attribute or split, and shares that aren't positive or don't sum to 1.
    """
    if {*shares} - {*SPLITS} or not all(share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares {dict(shares)}: expected positive ones of {', '.join(SPLITS)} that sum to 1")
    ordered = {name: shares[name] for name in SPLITS if name in shares}
    splits, notes = _assign_groups(collection, by, np.arange(len(collection)), ordered, next(iter(ordered)), seed)
    told = ", ".join(f"{name} {share:g}" for name, share in ordered.items())
    made = f"splits made anew, stratified by {by} ({told}; seed {seed})"
    return replace(collection, splits=splits, notes=(*collection.notes, made, *notes))


def hold_out(
    collection: Labelled, by: str, split: str = "val", of: str = "train", share: float = 0.2, seed: int = 0
) -> Labelled:
    """Move a share of one split into another, stratified as `stratify` does it; a class of a single group stays.

    For collections that come without val: `share` is the fraction of the images `of` train that become val.
    Raises ValueError for an unknown attribute or split, equal splits, a split without images, a share outside 0 to 1.
    """
    if split not in SPLITS or split == of or not 0 < share < 1:
        raise ValueError(
            f"split {split!r} of {of!r}, share {share}: expected two of {SPLITS}, and more than 0, below 1"
        )
    rows = collection.rows(of)
    if not len(rows):
        raise ValueError(f"{collection.name} has no images in {of or 'none'}: there is nothing to hold out")
    splits = collection.splits.copy()
    splits[rows], notes = _assign_groups(collection, by, rows, {of: 1 - share, split: share}, of, seed)
    made = f"{share:g} of {of} held out as {split}, stratified by {by} (seed {seed})"
    return replace(collection, splits=splits, notes=(*collection.notes, made, *notes))


def prepare_splits(collection: Labelled, by: str | None = None, share: float = 0.15, seed: int = 0) -> Labelled:
    """Give a collection what a fair measurement needs: train, val and test, and no image in two of them.

    A collection without splits is stratified by attribute `by` (the first, if none is named). Of one that comes with
    train and test, `share` of train becomes val. Where train and val are all there is, as in ArtGAN's, val is what
    everybody is judged on: it is called test, and a new val held out of train. Copies of judged images are left out of
    train. All that is done is noted.
    """
    by = collection.attributes[0] if by is None else by
    there = {name for name in SPLITS if len(collection.rows(name))}
    if there == {"train", "val"}:
        splits = np.where(collection.splits == "val", "test", collection.splits)
        note = "it came with train and val: val is what is judged, and is called test here"
        collection, there = replace(collection, splits=splits, notes=(*collection.notes, note)), {"train", "test"}
    if there == {"train", "test"}:
        collection = hold_out(collection, by, share=share, seed=seed)
    elif there != {*SPLITS}:
        collection = stratify(collection, by, seed=seed)
    return drop_shared(collection)


def _assign_groups(
    collection: Labelled, by: str, rows: NDArray[np.int64], shares: Mapping[str, float], home: str, seed: int
) -> tuple[NDArray[np.str_], list[str]]:
    """New splits (n,) of n rows, and notes; a class of a single group goes `home`."""
    rng = np.random.default_rng(seed)
    _, group, sizes = np.unique(collection.groups[rows], return_inverse=True, return_counts=True)  # (n,), (G,)
    classes = np.full(len(sizes), UNKNOWN, np.int64)  # (G,)
    np.maximum.at(classes, group, _labels(collection, by)[rows])
    names, share = np.array(list(shares), "<U5"), np.array(list(shares.values()))  # (S,)
    splits = np.full(len(sizes), home, "<U5")  # (G,)
    lack = share * len(rows)  # (S,) images that each split still lacks
    alone = []
    for label in np.unique(classes):
        own = rng.permutation(np.flatnonzero(classes == label))
        own = own[np.argsort(-sizes[own], kind="stable")]  # large groups first: small ones even them out
        if len(own) == 1:
            lack[names == home] -= sizes[own]
            alone += [collection.classes[by][label]] if label != UNKNOWN else []
            continue
        lack_own = share * sizes[own].sum()
        for one in own:
            to = np.lexsort((lack, lack_own.round(6)))[-1]  # what lacks most of this class, of equals what lacks most
            splits[one] = names[to]
            lack_own[to] -= sizes[one]
            lack[to] -= sizes[one]
    notes = [f"{by}: {len(alone):,} classes of a single work are in {home} only: {_few(alone)}"] if alone else []
    return splits[group], notes


# ------------------------------------------------------------------------------------------------ what is in there


def find_missing_classes(collection: Labelled) -> pd.DataFrame:
    """Find classes without an image in a split that has images: columns attribute, class, split."""
    table = count_classes(collection)
    used = [split for split in SPLITS if len(collection.rows(split))]
    rows = [
        (row["attribute"], row["class"], split) for row in table.to_dict("records") for split in used if not row[split]
    ]
    return pd.DataFrame(rows, columns=["attribute", "class", "split"])


def count_classes(collection: Labelled) -> pd.DataFrame:
    """Count each class's images: columns attribute, class, train, val, test, all (also those in no split)."""
    tables = []
    for attribute, names in collection.classes.items():
        counts = {split: _count(collection, attribute, split) for split in (*SPLITS, None)}
        columns = {"attribute": attribute, "class": names} | {split or "all": n for split, n in counts.items()}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _count(collection: Labelled, attribute: str, split: str | None) -> NDArray[np.int64]:
    """Images of each class (C,), in one split or in all (None)."""
    labels = _labels(collection, attribute)
    labels = labels if split is None else labels[collection.rows(split)]
    return np.bincount(labels[labels != UNKNOWN], minlength=len(collection.classes[attribute]))


def summarise(collection: Labelled) -> pd.DataFrame:
    """Sum up each attribute in a row.

    Columns: attribute; classes and images, those with a label; majority, train's most frequent class (of all images
    where there's no train), and majority_share, its fraction of test (of all where there's no test); smallest and
    smallest_images, of the classes that have images; imbalance, the largest class's images over the smallest's;
    effective_classes, exp of the entropy (in nats) of the classes' shares.
    """
    rows = []
    for attribute, names in collection.classes.items():
        counts = _count(collection, attribute, None)
        train, test = (_count(collection, attribute, split) for split in ("train", "test"))
        train, test = (part if part.any() else counts for part in (train, test))
        most, least = int(train.argmax()), int(np.where(counts, counts, counts.max() + 1).argmin())
        shares = counts[counts > 0] / counts.sum()
        rows.append(
            {
                "attribute": attribute,
                "classes": len(names),
                "images": int(counts.sum()),
                "majority": names[most],
                "majority_share": test[most] / test.sum(),
                "smallest": names[least],
                "smallest_images": int(counts[least]),
                "imbalance": counts.max() / counts[least],
                "effective_classes": np.exp(-(shares * np.log(shares)).sum()),
            }
        )
    return pd.DataFrame(rows)


def majority(collection: Labelled, attribute: str, split: str = "test") -> float:
    """Measure the accuracy, a fraction, of always naming train's most frequent class (of equals the first).

    Images without a label don't count. Raises ValueError where train, or the split, has no labelled image.
    """
    train, judged = _count(collection, attribute, "train"), _count(collection, attribute, split)
    if not train.any() or not judged.any():
        raise ValueError(
            f"{collection.name}, {attribute}: {train.sum()} labelled images in train, {judged.sum()} in {split}: "
            "both need one; make splits with stratify()"
        )
    return float(judged[train.argmax()] / judged.sum())


def find_shared(collection: Labelled) -> pd.DataFrame:
    """Find images of identical bytes in different splits: columns path, split, other, other_split.

    `path` is the copy that is judged, `other` the one that is learnt from (or tuned on, where test has `path`).
    Only files of equal size are read. Raises OSError for a missing file.
    """
    splits: list[str] = collection.splits.tolist()
    used = [row for row, split in enumerate(splits) if split]
    found = []
    for places in _same_bytes([(collection.file(row), splits[row]) for row in used]):
        rows = [used[place] for place in places]
        ranked = sorted(rows, key=lambda row: -SPLITS.index(splits[row]))
        for row, other in combinations(ranked, 2):
            if splits[row] != splits[other]:
                found.append((collection.paths[row], splits[row], collection.paths[other], splits[other]))
    return pd.DataFrame(found, columns=["path", "split", "other", "other_split"])


def find_learned(collection: Labelled, other: Labelled) -> pd.DataFrame:
    """Find images of another collection whose bytes are judged here, in val or test: columns path, split, other.

    Raises OSError for a missing file.
    """
    judged = [row for row, split in enumerate(collection.splits) if split in ("val", "test")]
    files = [(collection.file(row), "judged") for row in judged]
    files += [(other.file(row), "other") for row in range(len(other))]
    found = []
    for places in _same_bytes(files):
        here = [judged[place] for place in places if place < len(judged)]
        there = [place - len(judged) for place in places if place >= len(judged)]
        found += [(collection.paths[i], collection.splits[i], other.paths[j]) for i in here for j in there]
    return pd.DataFrame(found, columns=["path", "split", "other"])


def _same_bytes(files: Sequence[tuple[Path, str]]) -> Iterator[list[int]]:
    """Places of files of identical bytes, of at least two sides; only files of equal size are read."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for place, (file, _) in enumerate(files):
        by_size[file.stat().st_size].append(place)
    for places in by_size.values():
        if len({files[place][1] for place in places}) < 2:
            continue
        by_bytes: dict[str, list[int]] = defaultdict(list)
        for place in places:
            by_bytes[sha256(files[place][0])].append(place)
        yield from (same for same in by_bytes.values() if len({files[place][1] for place in same}) > 1)


def drop_shared(collection: Labelled) -> Labelled:
    """Leave out images whose very bytes are judged: train's copies of val and test, and val's of test; noted."""
    shared = find_shared(collection)
    if shared.empty:
        return collection
    first = shared.iloc[0]
    left = shared.other.nunique()
    note = (
        f"{left:,} images left out because the same bytes are judged: "
        f"{first.other} ({first.other_split}) is {first.path} ({first.split}){' and so on' if left > 1 else ''}"
    )
    kept = collection.take(~np.isin(collection.paths, shared.other.to_numpy(np.str_)))
    return replace(kept, notes=(*collection.notes, note))


def verify(collection: Labelled, workers: int = 8) -> list[dataset.Problem]:
    """Decode every image and name those that can't be used, with the row that lists them in the reason."""
    sources = {collection.file(i): source for i, source in enumerate(collection.sources)}
    problems = dataset.verify_files(sources, workers)
    return [dataset.Problem(problem.path, f"{problem.reason} ({sources[problem.path]})") for problem in problems]
