"""What is in a labelled collection: classes counted, missing ones named, images decoded."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metlib import dataset
from metlib.common.checks import UNKNOWN
from metlib.labelled.collections import SPLITS, Labelled


def count_classes(collection: Labelled) -> pd.DataFrame:
    """Count each class's images: columns attribute, class, train, val, test, all (also those in no split)."""
    tables = []
    for attribute, names in collection.classes.items():
        counts = {split or "all": _count(collection, attribute, split) for split in (*SPLITS, None)}
        tables.append(pd.DataFrame({"attribute": attribute, "class": names} | counts))
    return pd.concat(tables, ignore_index=True)


def find_missing_classes(collection: Labelled) -> pd.DataFrame:
    """Find classes without an image in a split that has images: columns attribute, class, split."""
    used = [split for split in SPLITS if len(collection.rows(split))]
    counts = count_classes(collection).to_dict("records")
    missing = [(row["attribute"], row["class"], split) for row in counts for split in used if not row[split]]
    return pd.DataFrame(missing, columns=["attribute", "class", "split"])


def _count(collection: Labelled, attribute: str, split: str | None) -> NDArray[np.int64]:
    """Images of each class (C,), in one split or in all (None)."""
    labels = collection.labels_of(attribute)
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
        counts, train, test = (_count(collection, attribute, split) for split in (None, "train", "test"))
        train, test = (part if part.any() else counts for part in (train, test))
        most, least = int(train.argmax()), int(np.where(counts, counts, counts.max() + 1).argmin())
        shares = counts[counts > 0] / counts.sum()
        row = {"attribute": attribute, "classes": len(names), "images": int(counts.sum())}
        row |= {"majority": names[most], "majority_share": test[most] / test.sum(), "smallest": names[least]}
        row |= {"smallest_images": int(counts[least]), "imbalance": counts.max() / counts[least]}
        rows.append(row | {"effective_classes": np.exp(-(shares * np.log(shares)).sum())})
    return pd.DataFrame(rows)


def majority(collection: Labelled, attribute: str, split: str = "test") -> float:
    """Measure the accuracy, a fraction, of always naming train's most frequent class (of equals the first).

    Images without a label don't count. Raises ValueError where train, or the split, has no labelled image.
    """
    train, judged = _count(collection, attribute, "train"), _count(collection, attribute, split)
    if not train.any() or not judged.any():
        found = f"{train.sum()} labelled images in train, {judged.sum()} in {split}"
        raise ValueError(f"{collection.name}, {attribute}: {found}: both need one; make splits with stratify()")
    return float(judged[train.argmax()] / judged.sum())


def verify(collection: Labelled, workers: int = 8) -> list[dataset.Problem]:
    """Decode every image and name those that can't be used, with the row that lists them in the reason."""
    sources = {collection.file(i): source for i, source in enumerate(collection.sources)}
    problems = dataset.verify_files(sources, workers)
    return [dataset.Problem(problem.path, f"{problem.reason} ({sources[problem.path]})") for problem in problems]
