"""Contrastive training: the loss by hand, pairs against naive twins, and what can't be paired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metlib import backbone
from metlib.backbone import Embedder
from metlib.common.vectors import unit
from metlib.dataset import Museum, Split
from metlib.train import contrastive
from metlib.train.contrastive import (
    PAIRS,
    Contrastive,
    batch_loss,
    contrastive_loss,
    find_closest,
    find_negatives,
    find_random,
    plan_pairs,
)
from metlib.train.loop import history
from metlib.train.settings import Settings

LABELS = np.array([7, 3, 7, 9, 3, 7, 4, 9, 2, 1, 0, 5])


@pytest.fixture
def rows() -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32))


def test_the_loss_worked_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[0.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]])
    # d² is 2, 2, 4 and 0.8; the third pair lies beyond the margin
    by_hand = (2 / 2 + (1.8 - 2**0.5) ** 2 / 2 + 0 + 0.8 / 2) / 4
    assert contrastive_loss(a, b, torch.tensor([1, 0, 0, 1])).item() == pytest.approx(by_hand, rel=1e-6)
    assert contrastive_loss(a, b, torch.tensor([1, 0, 0, 1]), margin=1).item() == pytest.approx(1.4 / 4, rel=1e-6)


def test_the_loss_against_a_loop_and_at_distance_zero(rows: np.ndarray) -> None:
    same = np.array([1, 0, 0, 1, 0, 1])
    total = 0.0
    for a, b, y in zip(rows[:6].astype(float), rows[6:].astype(float), same, strict=True):
        d = np.sqrt(((a - b) ** 2).sum())
        total += 0.5 * (y * d**2 + (1 - y) * max(0.0, 1.8 - d) ** 2)
    x = torch.from_numpy(rows)
    assert contrastive_loss(x[:6], x[6:], torch.from_numpy(same)).item() == pytest.approx(total / 6, rel=1e-5)
    x.requires_grad_()
    contrastive_loss(x, x.detach(), torch.zeros(12)).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_the_loss_over_a_batch_against_a_loop(rows: np.ndarray) -> None:
    first, second, labels = rows[:4].astype(float), rows[4:8].astype(float), [5, 3, 5, 8]
    total = 0.0
    for a, b in ((first, second), (second, first)):
        for i in range(4):
            others = [j for j in range(4) if j == i or labels[j] != labels[i]]
            total -= np.log(np.exp(a[i] @ b[i] / 0.1) / sum(np.exp(a[i] @ b[j] / 0.1) for j in others))
    parts = torch.from_numpy(rows[:4]), torch.from_numpy(rows[4:8]), torch.tensor(labels)
    assert batch_loss(*parts, temperature=0.1).item() == pytest.approx(total / 8, rel=1e-5)


def test_negatives_are_the_nearest_of_other_classes(rows: np.ndarray) -> None:
    found = find_negatives(rows, LABELS, count=4)
    for i in range(12):
        others = [j for j in range(12) if LABELS[j] != LABELS[i]]
        assert found[i].tolist() == sorted(others, key=lambda j: -float(rows[i] @ rows[j]))[:4]


def test_the_closest_of_a_class(rows: np.ndarray) -> None:
    for i, found in enumerate(find_closest(rows, LABELS)):
        own = [j for j in range(12) if LABELS[j] == LABELS[i] and j != i] or [i]
        assert found == max(own, key=lambda j: float(rows[i] @ rows[j]))


def test_a_random_one_of_a_class_is_another_and_all_come_up() -> None:
    drawn = np.stack([find_random(LABELS, np.random.default_rng(seed)) for seed in range(50)])
    for i in range(12):
        own = {j for j in range(12) if LABELS[j] == LABELS[i] and j != i} or {i}
        assert set(drawn[:, i].tolist()) == own


@pytest.mark.parametrize("pairs", PAIRS)
def test_every_image_is_an_anchor_of_each_sort_once(pairs: str, rows: np.ndarray) -> None:
    plan = plan_pairs(rows, LABELS, pairs, np.random.default_rng(3), hardest=4)
    positive, negative = plan.images[plan.targets == 1], plan.images[plan.targets == 0]
    assert positive[:, 0].tolist() == list(range(12))
    assert negative[:, 0].tolist() == ([] if pairs == "syn-alone" else list(range(12)))
    assert (LABELS[positive[:, 0]] == LABELS[positive[:, 1]]).all()
    marked = [[pairs == "visit" and target == 1 and place == 1 for place in (0, 1)] for target in plan.targets]
    assert (np.zeros(plan.images.shape, bool) if plan.visits is None else plan.visits).tolist() == marked
    assert all(j in find_negatives(rows, LABELS, 4)[i] for i, j in negative)
    real = positive[:, 0] != positive[:, 1]
    alone = np.array([(label == LABELS).sum() == 1 for label in LABELS])
    if pairs == "syn+real":
        assert (real == ~alone).all()
    elif pairs == "syn+real-closest":
        assert not real[alone].any() and 0 < real[~alone].sum() < (~alone).sum()
        assert (positive[real, 1] == find_closest(rows, LABELS)[real]).all()
    else:
        assert not real.any()


def test_over_a_batch_there_are_positive_pairs_with_their_labels(rows: np.ndarray, embedder: Embedder) -> None:
    plan = Contrastive(embedder, "visit", temperature=0.1).plan(rows, LABELS, np.random.default_rng(0))
    assert plan.images.tolist() == [[i, i] for i in range(12)] and (plan.targets == LABELS).all()
    assert plan.visits is not None and plan.visits.tolist() == [[False, True]] * 12


def test_another_seed_draws_other_pairs(rows: np.ndarray) -> None:
    a, b, c = (plan_pairs(rows, LABELS, "syn+real", np.random.default_rng(s), 4).images for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


def test_what_cannot_be_paired_is_refused(rows: np.ndarray) -> None:
    rng, alone = np.random.default_rng(0), np.arange(12)
    with pytest.raises(ValueError, match="one class"):
        plan_pairs(rows, np.zeros(12, np.int64), "syn", rng)
    with pytest.raises(ValueError, match="two images"):
        plan_pairs(rows, alone, "syn+real-closest", rng)
    with pytest.raises(ValueError, match="10 negatives asked for, but a class leaves 9"):
        plan_pairs(rows, LABELS, "syn", rng)
    with pytest.raises(ValueError, match="pairs must be one of syn, "):
        plan_pairs(rows, LABELS, "real", rng)


@pytest.mark.slow
def test_training_refuses_before_it_starts(
    museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path
) -> None:
    alone = museum.database.take(np.unique(museum.database.labels, return_index=True)[1])
    for options, reason in (
        ({"pairs": "all"}, "pairs"),
        ({"margin": 0}, "margin"),
        ({"hardest": 0}, "hardest"),
        ({"temperature": 0}, "temperature"),
    ):
        with pytest.raises(ValueError, match=reason):
            contrastive.train(museum, embedder, tmp_path / "out", settings=settings, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two images"):
        contrastive.train(replace(museum, database=alone), embedder, tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()
    one = Split(museum.database.paths, np.zeros(len(museum.database), np.int64), museum.database.root)
    with pytest.raises(ValueError, match="one class"):
        contrastive.train(replace(museum, database=one), embedder, tmp_path / "one", pairs="syn", settings=settings)


@pytest.mark.slow
def test_training_lowers_the_loss(museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path) -> None:
    longer = replace(settings, epochs=4, step=4, batch=16)
    path = contrastive.train(museum, embedder, tmp_path / "out", pairs="syn+real", settings=longer)
    losses = history(tmp_path / "out")["loss"].to_numpy()[1:]
    assert losses[-1] < losses[0]
    training = backbone.load(path).recipe.training
    assert (training["method"], training["pairs"], training["margin"]) == ("contrastive", "syn+real", 1.8)
