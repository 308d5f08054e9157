"""What the readers of labelled collections share: texts and CSVs read by line, images found by their ids."""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from metlib.labelled.collections import BadLabels, clean, few

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
NUMBER = re.compile(r"[0-9]{1,9}")
_ANONYMOUS = ("", "nan", "unknown", "onbekend")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise BadLabels(f"{path.name}:{line}: no UTF-8 ({error.reason}), save it as UTF-8") from None


def read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield source (file and first line) and stripped cells of every row that isn't blank."""
    rows, line = csv.reader(io.StringIO(read_text(path), newline=""), strict=True), 1
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield f"{path.name}:{line}", cells
            line = rows.line_num + 1
    except csv.Error as error:
        raise BadLabels(f"{path.name}:{line}: damaged CSV ({error}), save it as CSV again") from None


def read_table(
    path: Path, needed: Sequence[str], wanted: Sequence[str] | None = None
) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Read a CSV with a header: its named columns, and source and cells of each row, if asked of `wanted` ones only."""
    rows = read_csv(path)
    _, header = next(rows, ("", []))
    columns = [name for name in header if name and not name.startswith("Unnamed:")]  # an index column has no name
    for name in needed:
        if name not in columns:
            raise BadLabels(f"{path.name}:1: no column {name!r}, but {few(columns, 20) or 'nothing'}")
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


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the class names of a `*_class.txt`, lines of `0 name`, in the order of their numbers."""
    names: dict[int, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        index, _, name = clean(line).partition(" ")
        if not index:
            continue
        if not NUMBER.fullmatch(index) or not name:
            raise BadLabels(f"{path.name}:{number}: expected a class as '0 name', got {line[:80]!r}")
        if int(index) in names or name in names.values():
            raise BadLabels(f"{path.name}:{number}: class {index} {name!r} repeats a number or a name")
        names[int(index)] = name
    if sorted(names) != list(range(len(names))) or not names:
        raise BadLabels(f"{path.name}: classes must be numbered from 0 without gaps, got {few(sorted(names))}")
    return tuple(names[index] for index in range(len(names)))


def known(value: str) -> str:
    """Give a class name, or "" where the value stands for an unknown one."""
    plain = clean(value).lower()
    return "" if plain in _ANONYMOUS or plain.startswith(("anonym", "anoniem")) else clean(value)


def choose(wanted: Sequence[str] | None, there: Sequence[str], where: Path) -> list[str]:
    """Give the attributes asked for, each once, or all that are there."""
    if not there:
        raise FileNotFoundError(f"{where} has no attribute: it needs labels beside the images")
    chosen = list(dict.fromkeys(there if wanted is None else wanted))
    strange = [name for name in chosen if name not in there]
    if strange or not chosen:
        raise ValueError(f"{where} has no attribute {few(strange) or 'of no name'}; choose from {', '.join(there)}")
    return chosen


def find_images(root: Path) -> tuple[Path, set[str]]:
    """Find the folder of images, images/ or else the root, and the paths in it, with slashes, of all image files."""
    folder = root / "images" if (root / "images").is_dir() else root
    return folder, {
        (Path(place) / name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    }


def files_by_id(root: Path) -> Mapping[str, Sequence[str]]:
    """Find the paths of a collection's images by their stems, and by their names with the suffix in small letters."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(find_images(root)[1]):
        name = path.rpartition("/")[2]
        for key in (name.rpartition(".")[0], _lower_suffix(name)):
            files[key].append(path)
    return dict(files)


def find_file(files: Mapping[str, Sequence[str]], name: str, source: str) -> str:
    """Find the path of the image with this id, or give the id itself where there's none."""
    if not name:
        raise BadLabels(f"{source}: no id, so no image can be found")
    found = files.get(name) or files.get(_lower_suffix(name), [])
    if len(found) > 1:
        raise BadLabels(f"{source}: {len(found)} files for the id {name!r} ({few(found)}): keep one of them")
    return found[0] if found else name


def _lower_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{suffix.lower()}" if dot else name
