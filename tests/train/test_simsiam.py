"""SimSiam: its loss by hand, gradients that stop, and the number that shows a collapse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from metlib import backbone
from metlib.backbone import Embedder
from metlib.dataset import Museum
from metlib.train import simsiam
from metlib.train.loop import history
from metlib.train.settings import Settings
from metlib.train.simsiam import SimSiam, build_predictor, build_projector, simsiam_loss


def test_the_loss_against_a_loop() -> None:
    p1, p2, z1, z2 = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0)).unbind()
    total = 0.0
    for a, b, c, d in zip(p1, p2, z1, z2, strict=True):
        total -= float(a @ d / a.norm() / d.norm()) / 2 + float(b @ c / b.norm() / c.norm()) / 2
    assert simsiam_loss((p1, p2), (z1, z2)).item() == pytest.approx(total / 5, rel=1e-5)


def test_the_loss_worked_by_hand_and_where_it_stops() -> None:
    p = torch.tensor([[2.0, 0.0]], requires_grad=True)
    z = torch.tensor([[3.0, 4.0]], requires_grad=True)
    loss = simsiam_loss((p, p), (z, z))
    assert loss.item() == pytest.approx(-0.6)
    loss.backward()
    assert z.grad is None
    assert p.grad is not None and torch.allclose(p.grad, torch.tensor([[0.0, -0.4]]))  # -0.8/2, both terms


def test_the_heads_are_the_published_ones() -> None:
    projector, predictor = build_projector(512, 2048), build_predictor(2048, 512)
    assert [tuple(layer.weight.shape) for layer in projector if isinstance(layer, nn.Linear)] == [
        (2048, 512),
        (2048, 2048),
        (2048, 2048),
    ]
    assert isinstance(projector[-1], nn.BatchNorm1d) and not projector[-1].affine
    assert [tuple(layer.weight.shape) for layer in predictor if isinstance(layer, nn.Linear)] == [
        (512, 2048),
        (2048, 512),
    ]
    assert isinstance(predictor[-1], nn.Linear)


def test_the_spread_tells_a_collapse(embedder: Embedder) -> None:
    method = SimSiam(embedder, hidden=64, neck=16)
    images = torch.rand(16, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(16, dtype=torch.int64)
    assert method(images, targets)["std"].item() == pytest.approx(1 / 8, rel=0.1)  # 1/√64
    method.eval()  # batch norm would blow equal rows up
    alike = images[:1, :1].expand(16, 2, 3, 32, 32)
    assert method(alike, targets)["std"].item() == pytest.approx(0, abs=1e-4)


def test_it_plans_two_views_of_every_image(embedder: Embedder) -> None:
    plan = SimSiam(embedder, 8, 4).plan(np.eye(5, dtype=np.float32), np.arange(5), np.random.default_rng(0))
    assert plan.images.tolist() == [[i, i] for i in range(5)]


@pytest.mark.slow
def test_training_reports_the_spread_and_leaves_no_head(
    museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path
) -> None:
    path = simsiam.train(museum, embedder, tmp_path / "out", hidden=32, neck=8, settings=settings)
    table = history(tmp_path / "out")
    assert table["std"].isna().tolist() == [True, False, False]
    assert table["std"].iloc[1:].between(0.05, 0.3).all()
    loaded = backbone.load(path)
    assert loaded.dim == embedder.dim and loaded.recipe.training["method"] == "simsiam"
