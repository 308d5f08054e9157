"""BYOL: its loss by hand, and a slow copy that follows as it should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metlib import backbone
from metlib.backbone import Embedder
from metlib.dataset import Museum
from metlib.train import byol
from metlib.train.byol import BYOL, byol_loss, momentum_at
from metlib.train.loop import history
from metlib.train.settings import Settings


def test_the_loss_against_a_loop_and_where_it_stops() -> None:
    p1, p2, t1, t2 = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0)).unbind()
    total = 0.0
    for a, b, c, d in zip(p1, p2, t1, t2, strict=True):
        for first, second in ((a, d), (b, c)):
            total += float((first / first.norm() - second / second.norm()).pow(2).sum())
    p1.requires_grad_(), t2.requires_grad_()
    loss = byol_loss((p1, p2), (t1, t2))
    assert loss.item() == pytest.approx(total / 5, rel=1e-5)
    loss.backward()
    assert t2.grad is None and p1.grad is not None


def test_the_loss_worked_by_hand() -> None:
    p, t = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert byol_loss((p, p), (t, p)).item() == pytest.approx(0 + 2 - 2 * 0.6)


def test_the_momentum_goes_from_its_start_to_one() -> None:
    assert momentum_at(0, 100) == pytest.approx(0.996)
    assert momentum_at(50, 100) == pytest.approx(0.998)
    assert momentum_at(100, 100) == 1


def test_the_slow_copy_moves_a_little_and_only_after_a_step(embedder: Embedder) -> None:
    method = BYOL(embedder, hidden=16, width=8, steps=10)
    method.after_step()  # nothing to follow yet, but it counts
    before = method.slow_projector[0].weight.clone()
    with torch.no_grad():
        method.projector[0].weight += 1
    images = torch.rand(8, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    values = method(images, torch.zeros(8, dtype=torch.int64))
    values["loss"].backward()
    slow = [*method.slow_embedder.parameters(), *method.slow_projector.parameters()]
    assert all(p.grad is None for p in slow)
    assert method.projector[0].weight.grad is not None and method.predictor[0].weight.grad is not None
    assert torch.equal(method.slow_projector[0].weight, before)
    method.after_step()
    moved = method.slow_projector[0].weight - before
    assert torch.allclose(moved, torch.full_like(moved, 1 - momentum_at(1, 10)), atol=1e-6)


@pytest.mark.slow
def test_training_moves_the_copy_and_leaves_no_head(
    museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path
) -> None:
    path = byol.train(museum, embedder, tmp_path / "out", hidden=32, width=16, settings=settings)
    assert history(tmp_path / "out")["std"].iloc[1:].between(0.05, 0.4).all()
    state = torch.load(tmp_path / "out" / "state.pt", weights_only=True)["method"]
    assert state["step"] == 2 * -(-len(museum.database) // 8)
    fast, slow = state["embedder.trunk.conv1.0.weight"], state["slow_embedder.trunk.conv1.0.weight"]
    start = embedder.trunk.conv1[0].weight
    assert 0 < (slow - start).norm() < 0.1 * (fast - start).norm()
    loaded = backbone.load(path)
    assert loaded.dim == embedder.dim and loaded.recipe.training["method"] == "byol"
