"""The parametric classifier: losses against their formulas, scores both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metlib import backbone, evaluate, extract
from metlib.backbone import Embedder
from metlib.common.vectors import unit
from metlib.dataset import Museum, Split
from metlib.train import parametric
from metlib.train.loop import history
from metlib.train.parametric import Classifier, Parametric, classifier_file, compare, load_classifier
from metlib.train.settings import Settings


@pytest.fixture
def rows() -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32))


@pytest.mark.parametrize("loss", parametric.LOSSES)
def test_the_loss_against_its_formula(loss: str, embedder: Embedder) -> None:
    method = Parametric(embedder, np.array([4, 9, 4, 30, 7]), loss)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        method.loss.W.copy_(torch.from_numpy(rng.normal(size=(embedder.dim, 4)).astype(np.float32)))
    vectors = method.loss.W.detach().numpy().T.astype(np.float64)
    x = unit((vectors[[0, 1, 3]] + 0.5 * rng.normal(size=(3, embedder.dim))).astype(np.float32))
    targets = [0, 1, 2]
    total = 0.0
    for row, target in zip(x.astype(np.float64), targets, strict=True):
        cosines = vectors @ row / np.linalg.norm(vectors, axis=1) / np.linalg.norm(row)
        logits = (20 if loss == "softmax" else 64) * cosines
        if loss == "arcface":
            angle = np.arccos(cosines[target]) + np.radians(28.6)
            assert angle < np.pi
            logits[target] = 64 * np.cos(angle)
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]
    assert method.loss(torch.from_numpy(x), torch.tensor(targets)).item() == pytest.approx(total / 3, rel=1e-4)


def test_class_vectors_start_as_the_means_of_their_images(embedder: Embedder) -> None:
    labels = np.array([4, 9, 4, 30])
    descriptors = unit(np.random.default_rng(0).random((4, embedder.dim)).astype(np.float32))
    method = Parametric(embedder, labels, "softmax")
    method.start(descriptors, labels)
    mean = descriptors[0] + descriptors[2]
    expected = np.stack([mean / np.linalg.norm(mean), descriptors[1], descriptors[3]])
    assert method.classifier.labels.tolist() == [4, 9, 30]
    np.testing.assert_allclose(method.classifier.vectors, expected, atol=1e-6)
    assert method.plan(descriptors, labels, np.random.default_rng(0)).targets.tolist() == [0, 1, 0, 2]


def test_a_classifier_against_a_loop(rows: np.ndarray) -> None:
    classifier = Classifier(rows[:4], np.array([2, 5, 6, 11]), 20.0)
    answers = classifier.classify(rows)
    for i, row in enumerate(rows.astype(np.float64)):
        logits = 20 * rows[:4].astype(np.float64) @ row
        assert answers.labels[i] == [2, 5, 6, 11][int(logits.argmax())]
        expected = logits.max() - np.log(np.exp(logits).sum())
        assert answers.log_confidence[i] == pytest.approx(expected, abs=1e-5)


def test_of_equal_cosines_the_smaller_class_wins_and_confidence_stays_apart_near_one() -> None:
    twins = Classifier(np.array([[1, 0], [1, 0]], np.float32), np.array([3, 8]), 64.0)
    assert twins.classify([[1, 0]]).labels.tolist() == [3]
    sure = Classifier(np.array([[1, 0], [-1, 0]], np.float32), np.array([3, 8]), 64.0)
    log_confidence = sure.classify(unit(np.array([[1, 0], [1, 1]], np.float32))).log_confidence
    assert log_confidence[0] <= 0 and log_confidence[0] >= log_confidence[1]


def test_a_classifier_is_checked(rows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Classifier(rows, np.array([0, 1, 2, 3, 4, 4]), 20.0)
    with pytest.raises(ValueError, match="scale"):
        Classifier(rows, np.arange(6), 0.0)
    with pytest.raises(ValueError, match="queries have 4 dimensions"):
        Classifier(rows, np.arange(6), 20.0).classify(rows[:, :4])
    np.savez(tmp_path / "a.classes.npz", labels=np.arange(3))
    with pytest.raises(ValueError, match="holds no class vectors"):
        load_classifier(tmp_path / "a.safetensors")
    whole = (tmp_path / "a.classes.npz").read_bytes()
    (tmp_path / "a.classes.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="holds no class vectors"):
        load_classifier(tmp_path / "a.safetensors")


@pytest.mark.slow
def test_training_is_scored_both_ways(museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path) -> None:
    quick = replace(settings, lr=1e-4)
    path = parametric.train(museum, embedder, tmp_path / "out", loss="softmax", settings=quick)
    table = history(tmp_path / "out")
    classifier, best = load_classifier(path), table[table["best"]].iloc[0]
    assert classifier.labels.tolist() == np.unique(museum.database.labels).tolist() and classifier.scale == 20
    network = backbone.load(path)
    described = extract.describe(museum, network, tmp_path / "work", scales=(1,), device="cpu")
    answers = classifier.classify(described.val)
    correct = answers.labels == museum.val.labels
    assert best["classifier_acc"] == pytest.approx(correct[museum.val.labels >= 0].mean())
    both = compare(museum, path, tmp_path / "work")
    assert both["neighbours"] == evaluate.measure(described).test
    truth = museum.test.labels
    correct = (classifier.classify(described.test).labels == truth)[truth >= 0]
    assert both["classifier"]["acc"] == pytest.approx(correct.mean())
    classifier_file(path).unlink()
    with pytest.raises(OSError):
        load_classifier(path)


def test_more_views_an_epoch_show_every_image_as_often(
    museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path
) -> None:
    labels = museum.database.labels
    method = Parametric(embedder, labels, "softmax", views=3)
    plan = method.plan(np.empty((0, 0), np.float32), labels, np.random.default_rng(0))
    assert np.bincount(plan.images[:, 0]).tolist() == [3] * len(labels)
    np.testing.assert_array_equal(method.classes[plan.targets], labels[plan.images[:, 0]])
    with pytest.raises(ValueError, match="views must be an integer of at least 1, got 0"):
        parametric.train(museum, embedder, tmp_path / "v", views=0, settings=settings)


def test_bad_input_is_refused(museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="softmax, arcface"):
        parametric.train(museum, embedder, tmp_path / "out", loss="triplet", settings=settings)
    one = Split(museum.database.paths, np.zeros(len(museum.database), np.int64), museum.database.root)
    with pytest.raises(ValueError, match="one class"):
        parametric.train(replace(museum, database=one), embedder, tmp_path / "out", settings=settings)
