"""Frozen features, fine-tuning or from scratch? The regimes of transfer learning on one labelled collection.

Every regime has the same budget on the collection: the same images and views, patience and largest number of epochs,
the best epoch chosen on val and judged once on test. They differ in where the trunk starts and whether it learns. Seeds
are averaged. A linear probe on frozen descriptors at three scales is compared with them; they see a single scale.
Source: Sabatelli, Kestemont, Daelemans, Geurts, ECCV Workshops 2018.
"""

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from metlib import backbone, labelled, metrics
from metlib.backbone import Embedder
from metlib.common.files import short_hash
from metlib.extract import SCALES, Reader
from metlib.labelled import UNKNOWN, Labelled, cache
from metlib.labelled.multitask import Heads, describe_collection, load_heads, name_run, train
from metlib.train.loop import Settings, history

REGIMES = ("probe", "frozen", "fine-tuned", "scratch", "art-to-art")
"""Logistic regression; softmax on a frozen trunk; the whole network; from random weights; by another collection."""

_VIEWS: dict[str, Any] = {"size": 128, "crop": 0.4, "colour": False, "flip": True}
BUDGET = Settings(
    lr=3e-4, head_lr=1e-3, weight_decay=0, epochs=10, step=5, gamma=0.3, batch=32, patience=4, workers=0, **_VIEWS
)
"""What each regime may spend. Views keep their colours, by which styles differ; half of them are mirrored."""

SCRATCH_LR = 1e-3
"""The trunk's rate from scratch, where there is nothing to be careful of."""

_STRENGTHS = 10.0 ** np.arange(-4, 2.5, 0.5)  # C of the logistic regression, chosen on val


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a regime: `predicted` (S, n) classes of the test images by attribute, a row for each seed.

    `curves` are the histories with a column `seed` (empty for the probe), `checkpoints` the best epochs' files.
    """

    regime: str
    predicted: Mapping[str, NDArray[np.int64]]
    curves: pd.DataFrame
    checkpoints: tuple[Path, ...] = ()


def fit_probe(collection: Labelled, descriptors: NDArray[np.float32]) -> Heads:
    """Fit logistic regression for each attribute on the train rows of descriptors (N, D), its strength chosen on val.

    The strength is that of least log loss on val's images of classes that train has. Entries are standardised by
    train's mean and deviation, which are multiplied into the heads. A class that train lacks is never predicted.
    Raises ValueError where an attribute has no labelled train or val images, or one class only.
    """
    learned, val = collection.rows("train"), collection.rows("val")
    weights, biases = {}, {}
    for name in collection.attributes:
        labels, n = collection.labels[name], len(collection.classes[name])
        known = learned[labels[learned] != UNKNOWN]
        held = val[np.isin(labels[val], labels[known])]
        if (count := len(np.unique(labels[known]))) < 2 or not len(held):
            found = f"{name} has {count} class(es) in train and {len(held)} labelled images in val"
            raise ValueError(f"{found}: a probe needs two classes and a val split; make splits with labelled.stratify")
        scaler = StandardScaler().fit(descriptors[known])
        x, x_held = (scaler.transform(descriptors[rows]) for rows in (known, held))
        fits = [LogisticRegression(C=c, max_iter=1000).fit(x, labels[known]) for c in _STRENGTHS]
        best = min(fits, key=lambda fit: _log_loss(fit, x_held, labels[held]))
        slopes, offsets = best.coef_, best.intercept_
        if len(slopes) == 1:  # two classes: one row, the lead of the second
            slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
        slopes = slopes / scaler.scale_
        weight, bias = np.zeros((n, descriptors.shape[1])), np.full(n, -1e9)
        weight[best.classes_], bias[best.classes_] = slopes, offsets - slopes @ scaler.mean_
        weights[name], biases[name] = weight.astype(np.float32), bias.astype(np.float32)
    return Heads(weights, biases, {name: collection.classes[name] for name in collection.attributes})


def _log_loss(fit: LogisticRegression, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The mean of -log p of the labels (n,), all of classes that the fit has."""
    scores = fit.decision_function(rows)  # (n, C), of two classes (n,): the lead of the second
    logs = log_softmax(scores if scores.ndim == 2 else np.stack([np.zeros_like(scores), scores], axis=1), axis=1)
    return float(-logs[np.arange(len(logs)), np.searchsorted(fit.classes_, labels)].mean())


def from_scratch(embedder: Embedder, seed: int) -> Embedder:
    """Build the same architecture with weights drawn by `seed`."""
    recipe = replace(embedder.recipe, seed=seed, origin="", training={}, gem_p=3.0)
    return backbone.build(recipe, f"{embedder.name}-scratch")


def run_regime(
    collection: Labelled,
    embedder: Embedder,
    work_dir: str | Path,
    regime: str,
    *,
    settings: Settings = BUDGET,
    seeds: Sequence[int] = (0, 1, 2),
    other: Labelled | None = None,
) -> Outcome:
    """Learn a collection's attributes, all in one network, by one of `REGIMES`, and predict the test images' classes.

    `settings.size` is the square root of the area, in pixels, that images are resized to. "art-to-art" fine-tunes on
    `other` first, by the same settings, then on the collection. What is finished under `work_dir` is not repeated.
    Raises ValueError for another regime, no seeds, "art-to-art" without `other`, and as `check_shared` and `train` do.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("transfer runs in one process; with torchrun, train by multitask.train")
    if regime not in REGIMES:
        raise ValueError(f"regime must be one of {', '.join(REGIMES)}, got {regime!r}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one, got {list(seeds)}")
    if regime == "art-to-art" and other is None:
        raise ValueError("art-to-art needs another collection to learn first: give other=")
    other = other if regime == "art-to-art" else None  # the other regimes don't learn it
    check_shared(collection, other)
    reader = read_cached(collection, work_dir, settings.size)
    if regime == "probe":
        descriptors = describe_collection(collection, embedder, work_dir, reader, scales=SCALES)
        classes = fit_probe(collection, descriptors).predict(descriptors[collection.rows("test")])
        return Outcome(regime, {name: values[None] for name, values in classes.items()}, pd.DataFrame())
    from_random = regime == "scratch"
    predictions, curves, checkpoints = [], [], []
    for seed in seeds:
        lr = SCRATCH_LR if from_random else settings.lr
        chosen = replace(settings, seed=seed, lr=lr, frozen_norm=not from_random)
        start = from_scratch(embedder, seed) if from_random else embedder
        if other is not None:
            pixels = read_cached(other, work_dir, settings.size)
            start = backbone.load(_train(other, start, work_dir, pixels, chosen, frozen=False))
        path = _train(collection, start, work_dir, reader, chosen, frozen=regime == "frozen")
        rows = describe_collection(collection, backbone.load(path), work_dir, reader, split="test")
        predictions.append(load_heads(path).predict(rows))
        curves.append(history(path.parent).assign(seed=seed))
        checkpoints.append(path)
    predicted = {name: np.stack([of_seed[name] for of_seed in predictions]) for name in collection.attributes}
    return Outcome(regime, predicted, pd.concat(curves, ignore_index=True), tuple(checkpoints))


def read_cached(collection: Labelled, work_dir: str | Path, size: int) -> Reader:
    """Decode a collection's images once, resized to an area of `size` squared, or open what is there."""
    return cache.build(collection.images, work_dir, size, sources=collection.sources.tolist())


def check_shared(collection: Labelled, other: Labelled | None = None) -> None:
    """Raise ValueError where a judged image was learned, in train or in `other`, and OSError for a missing file."""
    if len(shared := labelled.find_shared(collection)):
        first = shared.iloc[0]
        pair = f"the first {first.path} in {first.split} and {first.other} in {first.other_split}"
        raise ValueError(f"{len(shared)} image(s) of {collection.name} stand in two splits, {pair}: use drop_shared()")
    if other is not None and len(learned := labelled.find_learned(collection, other)):
        found = f"the first {learned.path[0]} as {learned.other[0]}"
        problem = f"{len(learned)} judged image(s) of {collection.name} are also in {other.name}"
        raise ValueError(f"{problem}, {found}: learn another collection first, or leave them out")


def _train(
    collection: Labelled, start: Embedder, work_dir: str | Path, reader: Reader, settings: Settings, frozen: bool
) -> Path:
    out = Path(work_dir, "train", name_run(collection, start, settings, frozen=frozen))
    return train(collection, start, out, reader=reader, settings=settings, frozen=frozen)


def score(collection: Labelled, outcomes: Iterable[Outcome], seed: int = 0) -> pd.DataFrame:
    """Score outcomes on the test images that have a label: a row an attribute and regime, fractions.

    Columns: `attribute`, `regime`, those of `metrics.summarise_accuracy`, and `majority`, the accuracy of always
    naming train's largest class.
    """
    rows, test = [], collection.rows("test")
    for outcome in outcomes:
        for name, predicted in outcome.predicted.items():
            truth = collection.labels[name][test]
            known = truth != UNKNOWN
            summary = metrics.summarise_accuracy(predicted[:, known] == truth[known], seed=seed)
            majority = labelled.majority(collection, name)
            rows.append({"attribute": name, "regime": outcome.regime} | summary | {"majority": majority})
    return pd.DataFrame(rows).sort_values("attribute", kind="stable", ignore_index=True)


def result_rows(
    collection: Labelled,
    scores: pd.DataFrame,
    embedder: Embedder,
    settings: Settings,
    *,
    other: Labelled | None = None,
    note: str = "",
    date: str | None = None,
) -> list[dict[str, Any]]:
    """Give finished rows for a table of results, one a row of `scores` (a table of `score`), in percent.

    `embedder` is the network started from, `other` the collection that art-to-art learned first, `date` an ISO date, by
    default today's. `labels` is a hash of images, splits and labels, `settings` of all settings but the seed.
    """
    run: dict[str, Any] = {"collection": collection.name, "network": embedder.name, "pixels": settings.size}
    run |= {"date": date or datetime.date.today().isoformat(), "weights": embedder.weights_sha256()[:8], "note": note}
    together = f", {' + '.join(collection.attributes)} in one" if len(collection.attributes) > 1 else ""
    source = f" from {other.name} {other.sha256[:8]}" if other is not None else ""
    lasting = {name: value for name, value in settings.lasting.items() if name != "seed"}
    accuracies = ("accuracy", "accuracy_low", "accuracy_high", "seed_std", "majority")
    rows = []
    for row in scores.to_dict("records"):
        name, method = row["attribute"], row["regime"]
        labels: dict[str, Any] = {"attribute": name, "classes": len(collection.classes[name])}
        known = collection.labels[name][collection.rows("train")] != UNKNOWN
        labels |= {"labels": collection.select(name).sha256[:8], "train": int(known.sum()), "test": int(row["images"])}
        trained: dict[str, Any] = {"epochs": settings.epochs, "settings": short_hash(lasting)}
        trained |= {"method": method + (source if method == "art-to-art" else "") + together}
        if method == "probe":
            trained = {"epochs": 0, "settings": "", "method": method}
        found = {"seeds": int(row["seeds"])} | {column: 100 * row[column] for column in accuracies}
        rows.append(run | labels | trained | found)
    return rows
