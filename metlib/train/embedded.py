"""The network that comes with metlib, recipe `embedded`: how it was made, and how to make it again.

    metlib embedded                 (or make weights: half an hour on two cores)

A small ResNet learns from scratch to distinguish painted exhibits, from studio and visitors' photographs. Its museum
has a seed of its own, 1000: it has seen no exhibit of other seeds. It is for machines that can't fetch a better one.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metlib import backbone, dataset
from metlib.train.parametric import train as train_classifier
from metlib.train.settings import Settings

MUSEUM: dict[str, Any] = dict(n_exhibits=3000, seed=1000, size=256, n_val=200, n_test=6000, distractors=0.02)
"""The arguments of `synthetic.write_museum`; the test split are the visitors' photographs that training shows."""

NETWORK = replace(backbone.RECIPES["embedded"], seed=0, origin="")  # the same, to start from: weights drawn by a seed

SETTINGS = Settings(
    lr=1e-3, head_lr=1e-2, epochs=5, step=4, batch=64, size=96, frozen_norm=False, precision="bf16", workers=1
)
VIEWS = 6  # of each image an epoch


def add_visits(museum: dataset.Museum) -> dataset.Museum:
    """Put the visitors' photographs of the test split into the database, each with its exhibit."""
    shown = museum.test.take(np.flatnonzero(museum.test.labels != dataset.DISTRACTOR))
    studio = museum.database
    paths, labels = np.concatenate([studio.paths, shown.paths]), np.concatenate([studio.labels, shown.labels])
    return replace(museum, database=dataset.Split(paths, labels, studio.root))


def train(
    root: str | Path,
    work_dir: str | Path,
    out: str | Path,
    *,
    network: backbone.Recipe = NETWORK,
    painted: Mapping[str, Any] = MUSEUM,
    settings: Settings = SETTINGS,
    views: int = VIEWS,
) -> Path:
    """Train on the painted museum at `root`, and write the best epoch to `out` in half precision; gives `out`.

    `painted` is what the museum was painted with, for the checkpoint. The run is kept under `work_dir`: the same call
    goes on where it was stopped. Weights are the same on the same machine and versions only. Raises RuntimeError if no
    epoch is better than untrained weights, and as `loop.fit`.
    """
    shown = add_visits(dataset.load(root))
    # Epochs are compared on images as small as the views: there are twelve thousand to describe each time.
    start = backbone.build(replace(network, longest=settings.size), "embedded")
    best = train_classifier(shown, start, Path(work_dir) / "embedded", loss="softmax", views=views, settings=settings)
    embedder = backbone.load(best)
    if embedder.recipe.untrained:
        raise RuntimeError("no epoch was better than untrained weights: train for longer, or on more exhibits")
    training = {**embedder.recipe.training, "command": "metlib embedded", "painted": dict(painted)}
    training |= {"shown": "studio and visitors", "start": f"weights drawn by seed {network.seed}"}
    embedder.recipe = replace(embedder.recipe, longest=network.longest, training=training)
    embedder.trunk.half()
    return backbone.save(embedder, out)
