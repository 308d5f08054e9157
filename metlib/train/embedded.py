"""The network that comes with metlib, recipe `embedded`: how it was made, and how to make it again.

    metlib embedded                 (or make weights: half an hour on two cores)

A small ResNet learns from scratch to distinguish painted exhibits. Its museum is painted with a seed of its own, 1000,
so it has seen no exhibit of a museum of another seed. It learns from studio photographs and, unlike a network that is
trained on the Met's, visitors' photographs of the same exhibits: a network for machines that can't fetch a better one.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metlib import backbone, dataset
from metlib.backbone import RECIPES, Recipe
from metlib.dataset import Museum, Split
from metlib.train.parametric import train as train_classifier
from metlib.train.settings import Settings

MUSEUM: dict[str, Any] = dict(n_exhibits=3000, seed=1000, size=256, n_val=200, n_test=6000, distractors=0.02)
"""The arguments of `synthetic.write_museum`; the test split are the visitors' photographs that training shows."""

NETWORK: Recipe = replace(RECIPES["embedded"], seed=0, origin="")
"""The same network with its weights drawn by a seed, to start from."""

SETTINGS = Settings(
    lr=1e-3, head_lr=1e-2, epochs=5, step=4, batch=64, size=96, frozen_norm=False, precision="bf16", workers=1
)
VIEWS = 6
"""Views of each image an epoch."""


def add_visits(museum: Museum) -> Museum:
    """Put the visitors' photographs of the test split into the database, each with its exhibit."""
    shown = museum.test.take(np.flatnonzero(museum.test.labels != dataset.DISTRACTOR))
    paths = np.concatenate([museum.database.paths, shown.paths])
    labels = np.concatenate([museum.database.labels, shown.labels])
    return replace(museum, database=Split(paths, labels, museum.database.root))


def train(
    root: str | Path,
    work_dir: str | Path,
    out: str | Path,
    *,
    network: Recipe = NETWORK,
    painted: Mapping[str, Any] = MUSEUM,
    settings: Settings = SETTINGS,
    views: int = VIEWS,
) -> Path:
    """Train on the painted museum at `root`, and write the best epoch to `out` in half precision; gives `out`.

    `painted` is what the museum was painted with; it goes into the checkpoint. The run is kept under `work_dir`: the
    same call goes on where it was stopped. Weights are the same on the same machine and versions only: elsewhere sums
    are taken in another order. Raises RuntimeError if no epoch is better than untrained weights, and as `loop.fit`.
    """
    shown = add_visits(dataset.load(root))
    # The epochs are compared on images as small as the views: there are twelve thousand of them to describe each time.
    start = backbone.build(replace(network, longest=settings.size), "embedded")
    best = train_classifier(shown, start, Path(work_dir) / "embedded", loss="softmax", views=views, settings=settings)
    embedder = backbone.load(best)
    if embedder.recipe.untrained:
        raise RuntimeError("no epoch was better than untrained weights: train for longer, or on more exhibits")
    training = {
        **embedder.recipe.training,
        "command": "metlib embedded",
        "painted": dict(painted),
        "shown": "studio and visitors",
        "start": f"weights drawn by seed {network.seed}",
    }
    embedder.recipe = replace(embedder.recipe, longest=network.longest, training=training)
    embedder.trunk.half()
    return backbone.save(embedder, out)
