"""The Met layout: ground truth and images read into frozen, checked values.

A museum is a folder with `ground_truth/{MET_database,mini_MET_database,valset,testset}.json` and `images/<path>` (or
both beside each other, as mirrors keep them). Database rows are `{"id": int, "path": str}`; query rows `{"path": str,
"MET_id": int}`, without `MET_id` for a distractor. Source: Ypsilantis et al., The Met Dataset, NeurIPS 2021, section 3.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metlib.common.files import leaves_root

DISTRACTOR = -1  # the label of a query that shows no exhibit of the database
DATABASES = {"full": "MET_database.json", "mini": "mini_MET_database.json"}
QUERIES = {"val": "valset.json", "test": "testset.json"}
MET_IMAGES = {"full": 397_121, "mini": 38_307}  # images of the Met's own databases

# Where data lie on Colab: its own disk, or a mounted Drive.
_COLAB = Path("/content")
_COLAB_HOMES = (_COLAB, _COLAB / "drive/MyDrive", _COLAB / "drive/MyDrive/metlib")


class BadGroundTruth(ValueError):
    """Ground truth that is damaged, of another schema, or that names what it must not."""


@dataclass(frozen=True, eq=False)
class Split:
    """N images with labels: `paths` (N,) str relative to `root`, `labels` (N,) int64, -1 for distractors.

    Both arrays are read-only, and copies where the caller could change them. Raises ValueError for different
    lengths, labels that are no integers or below -1, and duplicate paths.

    >>> split = Split(["MET/52/0.jpg", "test_other/b.jpg"], [52, DISTRACTOR])
    >>> len(split), split.take(split.labels != DISTRACTOR).paths.tolist()
    (2, ['MET/52/0.jpg'])
    """

    paths: NDArray[np.str_]
    labels: NDArray[np.int64]
    root: Path = Path()

    def __post_init__(self) -> None:
        paths, labels = np.asarray(self.paths), np.array(self.labels)
        if paths.ndim != 1 or paths.dtype.kind != "U":
            paths = np.array([str(path) for path in self.paths], dtype=np.str_)
        elif paths.flags.writeable or paths.base is not None:  # the caller may change it
            paths = paths.copy()
        if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
            raise ValueError(f"labels must be (N,) integers, got {labels.dtype} of shape {labels.shape}")
        if len(paths) != len(labels):
            raise ValueError(f"{len(paths)} paths but {len(labels)} labels: a split needs one label for each path")
        if labels.size and labels.min() < DISTRACTOR:
            raise ValueError(f"label {labels.min()}: exhibits are 0 or more, distractors are {DISTRACTOR}")
        if labels.size and labels.max() > np.iinfo(np.int64).max:
            raise ValueError(f"label {labels.max()} is too large for int64: number the exhibits from 0")
        if (twin := _find_twin(paths)) is not None:
            raise ValueError(f"duplicate path {twin!r}: list every image once")
        for name, array in (("paths", paths), ("labels", labels.astype(np.int64))):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "root", Path(self.root))

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def sha256(self) -> str:
        """The list of images and labels named by a hash, hexadecimal; another order is another list."""
        lines = "\n".join(f"{path}\t{label}" for path, label in zip(self.paths, self.labels, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()

    def file(self, i: int) -> Path:
        """The file of image `i`."""
        return self.root / str(self.paths[i])

    def take(self, rows: ArrayLike) -> "Split":
        """The split of these rows only (indices, or a mask (N,))."""
        return Split(self.paths[rows], self.labels[rows], self.root)  # type: ignore[index]


@dataclass(frozen=True, eq=False)
class Museum:
    """Three splits of one collection: `database` to search in, `val` to tune on, `test` to be scored on.

    `kind` is "full" or "mini", `name` what figures and tables call it, `root` the folder it was read from. Raises
    ValueError where the database holds distractors or nothing, or a query split has no query with an exhibit.
    """

    database: Split
    val: Split
    test: Split
    root: Path = Path()
    name: str = "museum"
    kind: str = "full"

    def __post_init__(self) -> None:
        if not len(self.database):
            raise ValueError(f"the database of {self.name} is empty: it needs at least one image")
        if (self.database.labels == DISTRACTOR).any():
            raise ValueError(f"the database of {self.name} holds distractors: every database image needs an exhibit")
        for split, label in ((self.val, "val"), (self.test, "test")):
            if not (split.labels != DISTRACTOR).any():
                found = f"the {label} split of {self.name} has no positive query among {len(split)}"
                raise ValueError(f"{found}: no score is defined without one; add rows with a MET_id")

    @property
    def sha256(self) -> str:
        """The three lists of images and labels named by a hash, hexadecimal."""
        return hashlib.sha256("\n".join(split.sha256 for split, _ in self.splits()).encode()).hexdigest()

    def splits(self) -> Iterator[tuple[Split, str]]:
        """The three splits with their names, database first."""
        yield from ((self.database, "database"), (self.val, "val"), (self.test, "test"))


def find(root: str | Path) -> Path:
    """Find a museum's folder: as given, else by its last name on Colab's disk or on a mounted Drive.

    Raises FileNotFoundError that lists the places searched.
    """
    root = Path(root).expanduser()
    places = [root]
    if not root.is_absolute() or root.is_relative_to(_COLAB):
        places += [home / part / root.name for home in _COLAB_HOMES for part in ("data", "")]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"no folder {root} (searched: {', '.join(map(str, places))}). Paint a museum with `metlib paint {root}`, "
        f"fetch the Met with `metlib download --root {root}`, or name the folder of your own"
    )


def load(root: str | Path, database: str = "full") -> Museum:
    """Read a museum's ground truth; images aren't opened (that is `verify`).

    `database` is "full" (MET_database.json) or "mini" (mini_MET_database.json). Labels are the exhibit ids as written.
    Raises FileNotFoundError for a root without the files, BadGroundTruth (a ValueError) for damaged JSON, another
    schema, paths that leave the image root, duplicates, ids that are no integers, splits without positive queries.
    """
    if database not in DATABASES:
        raise ValueError(f"database {database!r}: expected one of {', '.join(DATABASES)}")
    root = Path(root)
    truth = root / "ground_truth" if (root / "ground_truth").is_dir() else root
    wanted = [truth / name for name in (DATABASES[database], *QUERIES.values())]
    missing = [path.name for path in wanted if not path.is_file()]
    if missing:
        there = sorted(path.name for path in truth.glob("*.json"))
        way_out = f"paint one with `metlib paint {root}`, or fetch the Met with `metlib download`"
        for other, name in DATABASES.items():
            if name in there and missing == [DATABASES[database]]:
                way_out = f"it has the {other} database: add --database {other} (in code: database={other!r})"
        raise FileNotFoundError(
            f"{root} is no museum: {truth} has no {', '.join(missing)} (found: {', '.join(there) or 'no JSON'}). "
            f"Expected images/ and ground_truth/{{MET_database,mini_MET_database,valset,testset}}.json; {way_out}"
        )
    images = root / "images" if (root / "images").is_dir() else root
    database_split = _read_split(wanted[0], "id", images, required=True)
    val, test = (_read_split(path, "MET_id", images, required=False) for path in wanted[1:])
    try:
        return Museum(database_split, val, test, root, root.resolve().name, database)
    except ValueError as error:
        raise BadGroundTruth(f"{truth}: {error}") from None


def _read_split(path: Path, key: str, images: Path, *, required: bool) -> Split:
    """Read one ground-truth file; rows without `key` (the exhibit) are distractors, unless `required`."""
    raw = path.read_bytes()
    paths, labels = _at_once(raw, key, required=required) or _row_by_row(raw, path, key, images, required=required)
    try:
        return Split(np.asarray(paths), np.asarray(labels), images)
    except ValueError as error:
        raise BadGroundTruth(f"{path}: {error}") from None


def _at_once(raw: bytes, key: str, *, required: bool) -> tuple[NDArray[np.str_], NDArray[np.int64]] | None:
    """Check paths and labels in bulk, in a third of the time; None where one is wrong or odd: `_row_by_row` decides."""

    def query(row: dict[str, Any]) -> tuple[Any, Any]:
        if row.get(key) == DISTRACTOR:
            raise ValueError(f"{key} is {DISTRACTOR}")
        return row["path"], row.get(key, DISTRACTOR)

    try:  # each row becomes (path, label) as it is parsed
        rows = json.loads(raw, object_hook=itemgetter("path", key) if required else query)
        if not isinstance(rows, list) or raw.count(b"[") != 1:  # a list inside may look like such a row
            return None
        names, ids = list(map(itemgetter(0), rows)), list(map(itemgetter(1), rows))
        del rows
        labels = np.fromiter(ids, np.int64, len(ids))
        text = "\n{}\n".format("\n".join(names))
        letters = np.frombuffer(text.encode("ascii"), np.uint8)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None
    ends = np.flatnonzero(letters < ord(" "))  # the line breaks around names, and no other control character
    begins = (letters == ord("/")) | (letters == ord("\n"))  # no dot, slash or break may follow
    if (
        set(map(type, ids)) != {int}
        or labels.min() < (0 if required else DISTRACTOR)
        or len(ends) != len(names) + 1
        or (begins[:-1] & (letters[1:] < ord("0"))).any()
        or any(letter in text for letter in ":\\\x7f")
    ):
        return None
    width = int(np.diff(ends).max()) - 1
    width += width % 2  # even: `_find_twin` reads letters in pairs
    paths: NDArray[np.str_] = np.fromiter(names, f"<U{width}", len(names))
    paths.flags.writeable = False  # so that the split takes it as it is
    return paths, labels


def _row_by_row(raw: bytes, path: Path, key: str, images: Path, *, required: bool) -> tuple[list[str], list[int]]:
    """Paths and labels of any file, or BadGroundTruth with the first row that is wrong."""
    try:
        rows = json.loads(raw)
    except (ValueError, RecursionError) as error:  # damaged JSON, or not UTF-8
        raise BadGroundTruth(f"{path} is damaged JSON ({error}): fetch or write it again") from None
    if not isinstance(rows, list):
        raise BadGroundTruth(f"{path}: expected a list of objects, got {type(rows).__name__}")
    for number, row in enumerate(rows):
        name = row.get("path") if isinstance(row, dict) else None
        if not isinstance(name, str):
            problem = f"expected an object with a text 'path', got {_short(row)}"
        elif required and key not in row:
            problem = f"expected the exhibit under {key!r}, got {_short(row)}"
        elif key in row and (type(row[key]) is not int or not 0 <= row[key] < 2**63):
            problem = f"{key} must be an integer of 0 or more, got {_short(row[key])}"
        elif leaves_root(name):
            expected = "expected a relative path with forward slashes, such as MET/52/0.jpg"
            problem = f"path {_short(name)} leaves the image root {images} or isn't plain; {expected}"
        else:
            continue
        raise BadGroundTruth(f"{path}, row {number}: {problem}")
    return [row["path"] for row in rows], [row.get(key, DISTRACTOR) for row in rows]


def _find_twin(paths: NDArray[np.str_]) -> str | None:
    """The first path, in their order, that appears twice."""
    # Equal rows have equal sums. Where two sums are equal, which is nearly never chance, sorting decides.
    width = 4 if paths.itemsize % 8 else 8  # bytes of a number: one letter, or two
    letters: NDArray[Any] = paths.view(f"u{width}").reshape(len(paths), paths.itemsize // width)
    weights = np.random.default_rng(0).integers(2**64, size=letters.shape[1], dtype=np.uint64) | np.uint64(1)
    sums = np.sort(letters @ weights)
    if (sums[1:] != sums[:-1]).all():
        return None
    ordered = np.sort(paths)
    twins = np.flatnonzero(ordered[1:] == ordered[:-1])
    return str(ordered[twins[0]]) if len(twins) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
