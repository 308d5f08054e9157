"""Train, val and test of a labelled collection: made by class with works kept whole, and free of shared images."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metlib.common.checks import UNKNOWN
from metlib.common.files import sha256
from metlib.labelled.collections import SPLITS, Labelled, noted

SHARES: Mapping[str, float] = {"train": 0.6, "val": 0.2, "test": 0.2}


def stratify(collection: Labelled, by: str, shares: Mapping[str, float] = SHARES, seed: int = 0) -> Labelled:
    """Split a collection anew, class by class of attribute `by`, groups kept whole.

    `shares` maps splits to fractions that sum to 1. In each class a split's images differ from its share by less than
    one group. A class of a single group goes to train (or the first split there is) and is noted. Images UNKNOWN in
    `by` are split as one more class; a group of several classes counts for the last.
    Raises ValueError for an unknown attribute or split, and shares that aren't positive or don't sum to 1.
    """
    if {*shares} - {*SPLITS} or not all(share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares {dict(shares)}: expected positive ones of {', '.join(SPLITS)} that sum to 1")
    ordered = {name: shares[name] for name in SPLITS if name in shares}
    splits, notes = _assign_groups(collection, by, np.arange(len(collection)), ordered, next(iter(ordered)), seed)
    listed = ", ".join(f"{name} {share:g}" for name, share in ordered.items())
    return collection.with_splits(splits, f"splits made anew, stratified by {by} ({listed}; seed {seed})", *notes)


def hold_out(
    collection: Labelled, by: str, split: str = "val", of: str = "train", share: float = 0.2, seed: int = 0
) -> Labelled:
    """Move a `share` of the images `of` train into val, as `stratify` splits them; a class of a single group stays.

    Raises ValueError for an unknown attribute or split, equal splits, a split without images, a share outside 0 to 1.
    """
    if split not in SPLITS or split == of or not 0 < share < 1:
        raise ValueError(f"split {split!r} of {of!r}, share {share}: expected two of {SPLITS}, and 0 < share < 1")
    if not len(rows := collection.rows(of)):
        raise ValueError(f"{collection.name} has no images in {of or 'none'}: there is nothing to hold out")
    splits = collection.splits.copy()
    splits[rows], notes = _assign_groups(collection, by, rows, {of: 1 - share, split: share}, of, seed)
    note = f"{share:g} of {of} held out as {split}, stratified by {by} (seed {seed})"
    return collection.with_splits(splits, note, *notes)


def prepare_splits(collection: Labelled, by: str | None = None, share: float = 0.15, seed: int = 0) -> Labelled:
    """Give a collection what a measurement needs: train, val and test, and no image in two of them.

    Without splits it is stratified by attribute `by` (default: the first). Of train and test alone, `share` of train
    becomes val. Of train and val alone (ArtGAN's), published scores are those of val: it is called test, and a new val
    held out of train. Copies of judged images are left out of train. Each step is noted.
    """
    by = collection.attributes[0] if by is None else by
    there = {name for name in SPLITS if len(collection.rows(name))}
    if there == {"train", "val"}:
        splits = np.where(collection.splits == "val", "test", collection.splits)
        note = "it came with train and val: val is what is judged, and is called test here"
        collection, there = collection.with_splits(splits, note), {"train", "test"}
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
    np.maximum.at(classes, group, collection.labels_of(by)[rows])
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
    return splits[group], noted(alone, f"classes of a single work are in {home} only", f"{by}: ")


def find_shared(collection: Labelled) -> pd.DataFrame:
    """Find images of identical bytes in different splits: columns path, split, other, other_split.

    `path` is the copy that is judged, `other` the one that is trained on (or tuned on, where test has `path`).
    Only files of equal size are read. Raises OSError for a missing file.
    """
    paths, splits, found = collection.paths.tolist(), collection.splits.tolist(), []
    for same in _same_bytes((split, row, collection.file(row)) for row, split in enumerate(splits) if split):
        pairs = combinations(sorted(same, key=lambda one: -SPLITS.index(one[0])), 2)
        found += [(paths[i], split, paths[j], other) for (split, i), (other, j) in pairs if split != other]
    return pd.DataFrame(found, columns=["path", "split", "other", "other_split"])


def find_learned(collection: Labelled, other: Labelled) -> pd.DataFrame:
    """Find images of another collection whose bytes are judged here, in val or test: columns path, split, other.

    Raises OSError for a missing file.
    """
    judged = np.flatnonzero(np.isin(collection.splits, ("val", "test"))).tolist()
    files = [("here", row, collection.file(row)) for row in judged]
    files += [("there", row, other.file(row)) for row in range(len(other))]
    found = []
    for same in _same_bytes(files):
        here, there = ([row for side, row in same if side == name] for name in ("here", "there"))
        found += [(collection.paths[i], collection.splits[i], other.paths[j]) for i in here for j in there]
    return pd.DataFrame(found, columns=["path", "split", "other"])


def _same_bytes(files: Iterable[tuple[str, int, Path]]) -> Iterator[list[tuple[str, int]]]:
    """Side and row of files of identical bytes, of at least two sides; only files of equal size are read."""
    by_size: dict[int, list[tuple[str, int, Path]]] = defaultdict(list)
    for side, row, file in files:
        by_size[file.stat().st_size].append((side, row, file))
    for alike in by_size.values():
        by_bytes: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for side, row, file in alike if len({side for side, _, _ in alike}) > 1 else ():
            by_bytes[sha256(file)].append((side, row))
        yield from (same for same in by_bytes.values() if len({side for side, _ in same}) > 1)


def drop_shared(collection: Labelled) -> Labelled:
    """Leave out images whose very bytes are judged: train's copies of val and test, and val's of test; noted."""
    shared = find_shared(collection)
    if shared.empty:
        return collection
    first, left = shared.iloc[0], shared.other.nunique()
    pair = f"{first.other} ({first.other_split}) is {first.path} ({first.split}){' and so on' if left > 1 else ''}"
    note = f"{left:,} images left out because the same bytes are judged: {pair}"
    kept = collection.take(~np.isin(collection.paths, shared.other.to_numpy(np.str_)))
    return kept.with_splits(kept.splits, note)
