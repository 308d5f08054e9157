"""A labelled collection: images with an artist, a genre, a style, a type or a material each, checked when made."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metlib import dataset
from metlib.common.checks import UNKNOWN

SPLITS = ("train", "val", "test")
"""By rank: where files disagree about an image, test wins over val, and val over train."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and lone surrogates, which no file can hold


class BadLabels(ValueError):
    """Labels that are damaged, that contradict each other, or that leave no two classes to distinguish."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """N images with one label, or none, for each of several attributes.

    `root` is the folder that `paths` (N,) str, each once, are relative to. `splits` (N,) are "train", "val", "test" or
    "" (in none yet). `labels` maps an attribute to (N,) int64, numbers of its `classes`, UNKNOWN where an image has
    none. Images of one work share a number in `groups` (N,) int64: they stay together when splits are made.
    `sources` (N,) names the line that lists an image ("style_train.csv:12"), `notes` what reading changed or left out.
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
        labels = {attribute: np.array(values) for attribute, values in self.labels.items()}
        numbers = [("groups", np.array(self.groups)), *labels.items()]
        for name, values in [*texts.items(), *numbers]:
            if values.shape != (texts["paths"].size,):
                raise BadLabels(f"{self.name}: {name} must be one for each of {len(self.paths)} paths, (N,)")
        for name, values in numbers:
            if values.size and values.dtype.kind not in "iu":
                raise BadLabels(f"{self.name}: {name} must be integers, got {values.dtype}")
        if twin := _find_twin(texts["paths"].tolist()):
            raise BadLabels(f"{self.name}: duplicate path {twin!r}: list every image once")
        if strange := sorted({*texts["splits"].tolist()} - {"", *SPLITS}):
            raise BadLabels(f"{self.name}: unknown split {strange[0]!r}, expected {', '.join(SPLITS)}, or nothing")
        classes = {attribute: tuple(names) for attribute, names in self.classes.items()}
        if not classes or classes.keys() != labels.keys():
            found = f"labels for {', '.join(labels) or 'no attribute'} but classes for {', '.join(classes) or 'none'}"
            raise BadLabels(f"{self.name}: {found}: each attribute needs both")
        for attribute, names in classes.items():
            if twin := _find_twin(names):
                raise BadLabels(f"{self.name}, {attribute}: class {twin!r} stands there twice")
            self._check_labels(attribute, names, labels[attribute], texts["sources"])
        # Five letters, so that "train" fits where only "val" was.
        fixed = texts | {"splits": texts["splits"].astype("<U5"), "groups": numbers[0][1].astype(np.int64)}
        labels = {attribute: values.astype(np.int64) for attribute, values in labels.items()}
        for array in (*fixed.values(), *labels.values()):
            array.flags.writeable = False
        others = {"labels": labels, "classes": classes, "root": Path(self.root), "notes": tuple(self.notes)}
        for name, value in (fixed | others).items():
            object.__setattr__(self, name, value)

    def _check_labels(self, attribute: str, names: Sequence[str], labels: NDArray[Any], sources: NDArray[Any]) -> None:
        """Raise BadLabels for labels (N,) that have no class, and unless two classes have images."""
        if len(wrong := np.flatnonzero((labels < UNKNOWN) | (labels >= len(names)))):
            found = f"label {labels[wrong[0]]} ({sources[wrong[0]]})"
            raise BadLabels(f"{self.name}, {attribute}: {found}, expected 0 to {len(names) - 1}, or {UNKNOWN} for none")
        known = np.flatnonzero(labels != UNKNOWN)
        if len(np.unique(labels[known])) > 1:
            return
        reason = "no image has a label"
        if len(known) == 1:
            reason = f"a single labelled image ({sources[known[0]]}), nothing to learn from"
        elif len(known):
            reason = f"one class only ({names[labels[known[0]]]!r}, first {sources[known[0]]}), nothing to tell apart"
        raise BadLabels(f"{self.name}, {attribute}: {reason}; leave it out with attributes= or select()")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def sha256(self) -> str:
        """A hash of images, splits, classes and labels, hexadecimal: by this, runs know what they learned."""
        parts = [*self.paths, *self.splits]
        for name in self.attributes:
            parts += [name, *self.classes[name], *map(str, self.labels[name].tolist())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return tuple(self.labels)

    @property
    def images(self) -> dataset.Split:
        """All images as the rest of the package reads them; their labels are row numbers of this collection."""
        return dataset.Split(self.paths, np.arange(len(self)), self.root)

    def file(self, i: int) -> Path:
        """The file of image `i`."""
        return self.root / str(self.paths[i])

    def labels_of(self, attribute: str) -> NDArray[np.int64]:
        """The labels (N,) of an attribute. Raises ValueError for an attribute that the collection doesn't have."""
        if attribute not in self.labels:
            raise ValueError(f"{self.name} has no attribute {attribute!r}, but {', '.join(self.attributes)}")
        return self.labels[attribute]

    def rows(self, split: str) -> NDArray[np.int64]:
        """The row numbers (n,) int64 of a split's images; "" asks for those that are in none."""
        if split not in ("", *SPLITS):
            raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}, or '' for the images in none")
        return np.flatnonzero(self.splits == split)

    def split(self, name: str) -> dataset.Split:
        """A split as the rest of the package reads it; its labels are row numbers of this collection."""
        return self.images.take(self.rows(name))

    def take(self, rows: ArrayLike) -> Self:
        """The collection of these rows only (indices, or a mask (N,)); classes stay, also those without images."""
        chosen = np.arange(len(self))[rows]  # type: ignore[index]
        columns: Any = {name: getattr(self, name)[chosen] for name in ("paths", "splits", "groups", "sources")}
        return replace(self, labels={name: labels[chosen] for name, labels in self.labels.items()}, **columns)

    def select(self, *attributes: str) -> Self:
        """The collection with these attributes only, without the images that then have no label at all."""
        labels = {attribute: self.labels_of(attribute) for attribute in attributes}
        chosen = replace(self, labels=labels, classes={attribute: self.classes[attribute] for attribute in attributes})
        return chosen.take(np.any([values != UNKNOWN for values in labels.values()], axis=0))

    def with_splits(self, splits: NDArray[np.str_], *notes: str) -> Self:
        """The collection with other splits (N,), and with more notes."""
        return replace(self, splits=splits, notes=(*self.notes, *notes))


def _find_twin(names: Iterable[str]) -> str | None:
    """The first of the names that occur twice."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def clean(text: str) -> str:
    """The text in one line, without control characters."""
    return " ".join(_CONTROL.sub(" ", text).split())


def few(items: Collection[Any], most: int = 3) -> str:
    """The first few of many, for a message."""
    shown = ", ".join(clean(str(item))[:200] for item in list(items)[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"


def noted(items: Collection[Any], what: str, about: str = "") -> list[str]:
    """A note of how many items there are, with the first few; none where there are none."""
    return [f"{about}{len(items):,} {what}: {few(items)}"] if items else []
