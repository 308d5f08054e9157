"""A whitening as a network's last layer: its descriptors are the whitened ones, and training starts from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metlib import backbone, evaluate, extract
from metlib.backbone import Embedder
from metlib.dataset import Museum
from metlib.train import contrastive
from metlib.train.loop import history
from metlib.train.projector import with_whitening
from metlib.train.settings import Settings
from metlib.whiten import PCAWhitening


def test_its_descriptors_are_whitened(embedder: Embedder) -> None:
    x = torch.rand(12, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        rows = embedder(x).numpy()
        whitening = PCAWhitening(5).fit(rows)
        projected = with_whitening(embedder, whitening)
        np.testing.assert_allclose(projected(x).numpy(), whitening.transform(rows), atol=1e-4)
    assert projected.dim == projected.recipe.projector == 5 and embedder.projector is None
    with pytest.raises(ValueError, match="has a projector of 5 dimensions"):
        with_whitening(projected, whitening)


@pytest.mark.slow
def test_training_starts_from_it_and_moves_the_last_stage_alone(
    museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path
) -> None:
    quick: dict[str, Any] = {"epochs": 1, "last": 1, "scale": 0.5}
    half = extract.describe(museum, embedder, tmp_path / "work", scales=(0.5,), visits=1, device="cpu")
    choice = evaluate.choose(half, whitening="learned", dim=8, shrinkage=0.1)
    assert choice.whitening is not None
    network = with_whitening(embedder, choice.whitening)
    path = contrastive.train(
        museum, network, tmp_path / "out", pairs="visit", temperature=0.1, settings=replace(settings, **quick)
    )
    first, second = history(tmp_path / "out")["gap"]
    assert first == pytest.approx(choice.tuning.gap, abs=0.02) and 0 <= second <= 1
    state = torch.load(tmp_path / "out" / "state.pt", weights_only=True)["method"]
    moved = {name for name, old in network.state_dict().items() if not torch.equal(state[f"embedder.{name}"], old)}
    stages = {".".join(name.split(".")[:3]) for name in moved if name.startswith("trunk")}
    assert "projector.weight" in moved and len(stages) == 1
    assert backbone.load(path).dim == 8
