"""Many labels, one trunk: a linear head for each attribute on the descriptor of one network.

The loss is the sum over attributes of the cross-entropy with label smoothing; an image without a label for an
attribute counts for the others. All regimes of `transfer` but the probe are this method.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.nn import functional as F

from metlib.backbone import Embedder
from metlib.common.files import replacing, short_hash
from metlib.common.vectors import as_rows
from metlib.dataset import Museum
from metlib.extract import Reader, describe_split
from metlib.labelled import SPLITS, UNKNOWN, Labelled
from metlib.train.loop import Method, Plan, Settings, fit
from metlib.train.loop import name_run as name_run_of

SMOOTHING = 0.1
"""The share of a label's weight that goes to all classes alike (Szegedy et al., CVPR 2016)."""


@dataclass(frozen=True, eq=False)
class Heads:
    """A linear classifier an attribute: `weights` (C, D) and `biases` (C,), float32, and the names of its C classes.

    Raises ValueError for other shapes, and for weights or biases that are NaN or infinite.
    """

    weights: Mapping[str, NDArray[np.float32]]
    biases: Mapping[str, NDArray[np.float32]]
    classes: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.classes or not self.classes.keys() == self.weights.keys() == self.biases.keys():
            raise ValueError(f"heads of {list(self.classes)} need weights and biases of the same attributes")
        for attribute, names in self.classes.items():
            weight, bias = self.weights[attribute], self.biases[attribute]
            if weight.ndim != 2 or len(weight) != len(names) or bias.shape != (len(names),):
                shapes = f"weights {weight.shape}, biases {bias.shape}"
                raise ValueError(f"{attribute} has {len(names)} classes, but {shapes}; expected (C, D) and (C,)")
            if not np.isfinite(weight).all() or not np.isfinite(bias).all():
                raise ValueError(f"the head of {attribute} holds NaN or infinite numbers: train again, with a lower lr")

    def logits(self, descriptors: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """Score each class of each attribute for descriptors (N, D): (N, C) float64, before the softmax."""
        rows = as_rows(descriptors)
        return {name: (rows @ self.weights[name].T + self.biases[name]).astype(np.float64) for name in self.classes}

    def predict(self, descriptors: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """Name the class of largest logit of each attribute for descriptors (N, D): (N,) int64; of equals the first."""
        return {name: values.argmax(axis=1) for name, values in self.logits(descriptors).items()}


def heads_file(checkpoint: str | Path) -> Path:
    """Name the file of heads that lies beside a checkpoint of this method."""
    return Path(checkpoint).with_suffix(".heads.npz")


def save_heads(heads: Heads, path: str | Path) -> None:
    """Write heads as one npz file of arrays."""
    arrays: dict[str, Any] = {"attributes": np.array(list(heads.classes))}
    for i, (name, classes) in enumerate(heads.classes.items()):
        head = {"weight": heads.weights[name], "bias": heads.biases[name], "classes": np.array(classes)}
        arrays |= {f"{part}_{i}": values for part, values in head.items()}
    with replacing(path) as file:
        np.savez(file, **arrays)


def load_heads(checkpoint: str | Path) -> Heads:
    """Load the heads that go with a checkpoint of this method. Raises OSError or ValueError without them."""
    path = heads_file(checkpoint)
    try:
        with np.load(path, allow_pickle=False) as file:
            numbers = {name: i for i, name in enumerate(file["attributes"].tolist())}
            weights = {name: file[f"weight_{i}"] for name, i in numbers.items()}
            biases = {name: file[f"bias_{i}"] for name, i in numbers.items()}
            classes = {name: tuple(file[f"classes_{i}"].tolist()) for name, i in numbers.items()}
        return Heads(weights, biases, classes)
    except (KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no heads ({error}): train again") from error


class MultiTask(Method):
    """The embedder, and a linear head for each attribute; frozen, the heads alone learn.

    `labels` (N, A) are those of the database's rows, UNKNOWN where an image has none. Heads read the normalised
    descriptor times the root of its dimension, whose entries are about 1, and start at zero: all classes alike.
    """

    criterion: ClassVar[str] = "accuracy"
    needs_database: ClassVar[bool] = False
    labels: Tensor

    def __init__(self, embedder: Embedder, collection: Labelled, *, frozen: bool, smoothing: float = SMOOTHING) -> None:
        super().__init__(embedder)
        self.frozen, self.smoothing = frozen, smoothing
        self.classes = {name: collection.classes[name] for name in collection.attributes}
        self.val = _labels_of(collection, "val")
        self.register_buffer("labels", torch.from_numpy(_labels_of(collection, "train")), persistent=False)
        self.scale = embedder.dim**0.5
        self.heads = nn.ModuleList(nn.Linear(embedder.dim, len(classes)) for classes in self.classes.values())
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)
        if frozen:
            embedder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.embedder.eval()  # no dropout either: a frozen trunk is the one that will describe the test images
        return self

    def plan(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator) -> Plan:
        rows = np.arange(len(labels))
        return Plan(rows[:, None], rows)

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):
            rows = self.embed(images, len(targets))[:, 0].float()  # (n, D)
        labels = self.labels[targets]  # (n, A)
        pairs = zip(self.heads, labels.unbind(dim=1), strict=True)
        losses = [_cross_entropy(head(self.scale * rows), own, self.smoothing) for head, own in pairs]
        return {"loss": torch.stack(losses).sum()}

    @property
    def trained(self) -> Heads:
        """The heads as they are now, the scale multiplied into their weights."""
        heads: dict[str, Any] = dict(zip(self.classes, self.heads, strict=True))
        weights = {name: (self.scale * head.weight).detach().float().cpu().numpy() for name, head in heads.items()}
        biases = {name: head.bias.detach().float().cpu().numpy() for name, head in heads.items()}
        return Heads(weights, biases, self.classes)

    def score(self, museum: Museum, database: NDArray[np.float32], val: NDArray[np.float32]) -> dict[str, Any]:
        """Score val: `val_loss` (without smoothing), the accuracy of each attribute, and `accuracy`, their mean."""
        losses, accuracies = [], {}
        for (name, logits), truth in zip(self.trained.logits(val).items(), self.val.T, strict=True):
            known = np.flatnonzero(truth != UNKNOWN)  # some are: `as_museum` checks it
            logs = log_softmax(logits[known], axis=1)
            losses.append(-logs[np.arange(len(known)), truth[known]].mean())
            accuracies[f"accuracy_{name}"] = float((logs.argmax(axis=1) == truth[known]).mean())
        return {"val_loss": float(sum(losses)), "accuracy": float(np.mean(list(accuracies.values())))} | accuracies

    def keep(self, checkpoint: Path) -> None:
        save_heads(self.trained, heads_file(checkpoint))


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The mean over labelled rows, 0 where a batch has none (torch's own mean would be NaN)."""
    total = F.cross_entropy(logits, labels, ignore_index=UNKNOWN, label_smoothing=smoothing, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp(min=1)


def _labels_of(collection: Labelled, split: str) -> NDArray[np.int64]:
    """Labels (n, A) of a split's images."""
    rows = collection.rows(split)
    return np.stack([collection.labels[name][rows] for name in collection.attributes], axis=1)


def as_museum(collection: Labelled) -> Museum:
    """Give a labelled collection as the training loop reads it: train is the database, labels are row numbers.

    Raises ValueError without train, val or test, and for an attribute without a label in one, or of one class in train.
    """
    for name in SPLITS:
        if not len(collection.rows(name)):
            raise ValueError(f"{collection.name} has no {name} images: make splits with stratify() or hold_out()")
    for attribute, labels in collection.labels.items():
        counts = {name: len({*labels[collection.rows(name)].tolist()} - {UNKNOWN}) for name in SPLITS}
        if counts["train"] < 2 or not counts["val"] or not counts["test"]:
            found = ", ".join(f"{count} in {name}" for name, count in counts.items())
            way_out = "expected 2, 1 and 1 at least: split by it with stratify(), or leave it out with select()"
            raise ValueError(f"{collection.name}, {attribute}: classes with images: {found}; {way_out}")
    train, val, test = map(collection.split, SPLITS)
    return Museum(train, val, test, collection.root, collection.name)


def describe_collection(
    collection: Labelled,
    embedder: Embedder,
    work_dir: str | Path,
    reader: Reader,
    *,
    split: str | None = None,
    scales: Sequence[float] = (1,),
) -> NDArray[np.float32]:
    """Describe the images of one split or all, or read what is finished: (n, D) float32, L2-normalised rows."""
    images = collection.images if split is None else collection.split(split)
    return describe_split(images, embedder, work_dir, reader, label=split or collection.name, scales=scales)


def train(
    collection: Labelled,
    embedder: Embedder,
    out: str | Path,
    *,
    reader: Reader | None = None,
    frozen: bool = False,
    smoothing: float = SMOOTHING,
    settings: Settings | None = None,
) -> Path:
    """Train a copy of `embedder` with a head for each of the collection's attributes; give the best checkpoint's path.

    `reader` gives pixels (`cache.build`); without it files are decoded again each epoch, at their native size. With
    `frozen` the heads alone learn. The best epoch is that of the largest mean val accuracy over attributes; its heads
    lie beside the checkpoint (`load_heads`), and the history has `val_loss` and each attribute's accuracy. Test images
    are never read; that they weren't learned under another name, `transfer.check_shared` checks.
    Raises ValueError for a smoothing outside [0, 1), a batch in parts where labels are missing, and as `fit` does.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be from 0 to below 1, got {smoothing!r}")
    settings = settings or Settings()
    if settings.accumulate > 1 and (_labels_of(collection, "train") == UNKNOWN).any():
        reason = "lacks labels, and their mean needs the whole batch; ask for a smaller batch instead"
        raise ValueError(f"accumulate {settings.accumulate}: {collection.name} {reason}")
    title = "-".join(collection.attributes)
    title = title if len(title) <= 60 else f"{len(collection.attributes)}-attributes"  # a file's name has a limit
    about = _about(collection, frozen, smoothing) | {"title": title}
    method = partial(MultiTask, collection=collection, frozen=frozen, smoothing=smoothing)
    return fit(as_museum(collection), embedder, out, settings, method, about, reader)


def name_run(
    collection: Labelled, embedder: Embedder, settings: Settings, *, frozen: bool = False, smoothing: float = SMOOTHING
) -> str:
    """Name a folder for a run of `train`, so that the same run finds it again."""
    about, regime = short_hash(_about(collection, frozen, smoothing)), "frozen" if frozen else "trained"
    return name_run_of(as_museum(collection), embedder, settings, method="multitask", regime=regime, about=about)


def _about(collection: Labelled, frozen: bool, smoothing: float) -> dict[str, Any]:
    labels = {"attributes": list(collection.attributes), "labels": collection.sha256[:8]}
    return {"method": "multitask", **labels, "frozen": frozen, "smoothing": smoothing}
