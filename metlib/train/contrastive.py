"""Contrastive training on pairs: images of one exhibit are drawn together, others pushed a margin apart.

Every image is an anchor once an epoch, of one positive and one negative pair. Kinds of pairs differ in the positive:

- `syn`: another augmentation of the anchor itself;
- `syn+real`: another image of its class at random, itself when alone;
- `syn+real-closest`: one of the two nearest of its class, the anchor counted; itself when alone;
- `visit`: a simulated visit of the anchor (`metlib.visits`), another one every epoch;
- `syn-alone`: as `syn`, without negatives.

The negative is one at random of the ten nearest images of other classes, mined every epoch with the network as it is.
Or, with a `temperature`, there are positive pairs only, and all other images of the batch are the negatives.
Source: Ypsilantis et al., NeurIPS 2021, section 5 and supplement; the loss is that of Hadsell et al., CVPR 2006. That
over the batch: Sohn, NeurIPS 2016; van den Oord et al., 2018 (InfoNCE).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from metlib.backbone import Embedder
from metlib.common.checks import check_integer
from metlib.dataset import Museum
from metlib.knn import search
from metlib.train.loop import fit
from metlib.train.method import Method, Plan
from metlib.train.settings import Settings

PAIRS = ("syn", "syn+real", "syn+real-closest", "visit", "syn-alone")
MARGIN = 1.8
HARDEST = 10  # A negative is drawn from so many of the nearest images of other classes.


def contrastive_loss(first: Tensor, second: Tensor, same: Tensor, margin: float = MARGIN) -> Tensor:
    """Average ½·(y·d² + (1 - y)·max(0, margin - d)²) over pairs, d their distance.

    `first` and `second` (B, D) are L2-normalised, `same` (B,) is y: 1 for a positive pair, 0 for a negative one.
    """
    squared = (first - second).pow(2).sum(dim=1)  # (B,)
    distance = squared.clamp(min=1e-12).sqrt()  # a root has no slope at zero
    apart = (margin - distance).clamp(min=0).pow(2)
    return 0.5 * torch.where(same.bool(), squared, apart).mean()


def batch_loss(first: Tensor, second: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Average the cross-entropy of each image's partner among all images of the other side, both ways.

    `first` and `second` (B, D) are L2-normalised, row for row partners; cosines are divided by `temperature`. Others
    of the same of `labels` (B,) are left out: they are no negatives.
    """
    same = (labels[:, None] == labels).fill_diagonal_(False)  # (B, B)
    logits = (first @ second.T / temperature).masked_fill(same, -torch.inf)
    partner = torch.arange(len(labels), device=labels.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2


def find_negatives(descriptors: ArrayLike, labels: NDArray[np.int64], count: int = HARDEST) -> NDArray[np.int64]:
    """Find the nearest images of other classes: rows (N, count) of the database, nearest first.

    `descriptors` (N, D) are L2-normalised. Raises ValueError where a class leaves fewer than `count` other images.
    """
    _, sizes = np.unique(labels, return_counts=True)
    if len(sizes) < 2:
        raise ValueError("all images are of one class: there are no negatives; add exhibits, or train with 'syn-alone'")
    others = len(labels) - sizes.max()
    if others < count:
        raise ValueError(f"{count} negatives asked for, but a class leaves {others} images of others: ask for fewer")
    near = search(descriptors, descriptors, int(count + sizes.max())).indices  # at least `count` are of others
    first = np.argsort(labels[near] == labels[:, None], axis=1, kind="stable")[:, :count]  # False, others, first
    return np.take_along_axis(near, first, axis=1)


def find_closest(descriptors: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the nearest other image of each image's class: rows (N,) of the database, its own when alone."""
    closest = np.arange(len(labels))
    for rows in _shared(labels):
        similarities = descriptors[rows] @ descriptors[rows].T
        np.fill_diagonal(similarities, -np.inf)
        closest[rows] = rows[similarities.argmax(axis=1)]
    return closest


def find_random(labels: NDArray[np.int64], rng: Generator) -> NDArray[np.int64]:
    """Draw another image of each image's class: rows (N,) of the database, its own when alone."""
    drawn = np.arange(len(labels))
    for rows in _shared(labels):
        drawn[rows] = rows[(np.arange(len(rows)) + rng.integers(1, len(rows), len(rows))) % len(rows)]
    return drawn


def _shared(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of every class that has two images or more."""
    order = np.argsort(labels, kind="stable")
    classes = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [rows for rows in classes if len(rows) > 1]


def plan_pairs(
    descriptors: NDArray[np.float32], labels: NDArray[np.int64], pairs: str, rng: Generator, hardest: int = HARDEST
) -> Plan:
    """Pair every image with a positive (target 1), then with a negative (target 0): images (2N, 2), or (N, 2).

    With `visit`, the second image of a positive pair is marked to be shown as one. No `hardest` (0): no negatives.
    Raises ValueError for other `pairs`, for real pairs where no class has two images, and as `find_negatives` does.
    """
    _check_pairs(pairs, labels)
    anchors = positives = np.arange(len(labels))
    if pairs == "syn+real":
        positives = find_random(labels, rng)
    elif pairs == "syn+real-closest":
        positives = np.where(rng.random(len(labels)) < 0.5, anchors, find_closest(descriptors, labels))
    others = [positives]
    if pairs != "syn-alone" and hardest:
        found = find_negatives(descriptors, labels, hardest)
        others.append(found[anchors, rng.integers(hardest, size=len(labels))])
    images = np.concatenate([np.stack([anchors, other], axis=1) for other in others])
    same = np.repeat(np.array([1, 0], np.int64)[: len(others)], len(anchors))
    visits = np.stack([np.zeros_like(same), same], axis=1) == 1 if pairs == "visit" else None
    return Plan(images, same, visits)


def _check_pairs(pairs: str, labels: NDArray[np.int64]) -> None:
    if pairs not in PAIRS:
        raise ValueError(f"pairs must be one of {', '.join(PAIRS)}, got {pairs!r}")
    if "real" in pairs and not _shared(labels):
        raise ValueError(f"{pairs!r} needs a class with two images, and every class has one: train with 'syn'")


class Contrastive(Method):
    """The embedder alone, with pairs and their loss."""

    def __init__(
        self,
        embedder: Embedder,
        pairs: str,
        margin: float = MARGIN,
        hardest: int = HARDEST,
        temperature: float | None = None,
    ) -> None:
        super().__init__(embedder)
        self.pairs, self.margin, self.hardest, self.temperature = pairs, margin, hardest, temperature

    def plan(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64], rng: Generator) -> Plan:
        if self.temperature is None:
            return plan_pairs(descriptors, labels, self.pairs, rng, self.hardest)
        return replace(plan_pairs(descriptors, labels, self.pairs, rng, 0), targets=labels.copy())

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        rows = self.embed(images, len(targets))  # (n, 2, D)
        if self.temperature is not None:
            return {"loss": batch_loss(rows[:, 0].float(), rows[:, 1].float(), targets, self.temperature)}
        return {"loss": contrastive_loss(rows[:, 0], rows[:, 1], targets, self.margin)}


def train(
    museum: Museum,
    embedder: Embedder,
    out: str | Path,
    *,
    pairs: str = "syn+real-closest",
    margin: float = MARGIN,
    hardest: int = HARDEST,
    temperature: float | None = None,
    settings: Settings | None = None,
) -> Path:
    """Train a copy of `embedder` on pairs of a museum's database; give the path of the best checkpoint.

    `margin` lies above 0 and at most at 2, the largest distance of unit vectors; a negative is drawn from the
    `hardest` nearest images of other classes. With a `temperature`, such as 0.05, the loss is `batch_loss` instead, of
    positive pairs alone. What lies in `out`, and what is raised: see `loop.fit` and `plan_pairs`.
    """
    _check_pairs(pairs, museum.database.labels)
    if not 0 < margin <= 2:
        raise ValueError(f"margin must lie above 0 and at most at 2, got {margin!r}")
    check_integer("hardest", hardest, 1)
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be above 0, such as 0.05, got {temperature!r}: or leave it out")
    own: dict[str, Any] = {"pairs": pairs, "margin": margin, "hardest": int(hardest), "temperature": temperature}
    title = f"contrastive-{pairs}" + ("-batch" if temperature else "")
    about = {"method": "contrastive", "title": title, **own}
    return fit(museum, embedder, out, settings or Settings(), lambda network: Contrastive(network, **own), about)
