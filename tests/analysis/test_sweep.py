"""One pass that reads a network in every way: each part is what that network alone would have given."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from metlib import backbone, dataset, extract, knn, metrics, tune
from metlib.analysis import sweep
from metlib.analysis.sweep import Panel
from metlib.backbone import Embedder, Recipe, load
from metlib.dataset import Museum, Split
from metlib.descriptors import load_descriptors
from metlib.whiten import PCAWhitening


def tiny(**changes: object) -> Embedder:
    """A small untrained network, the same every time."""
    return backbone.build(replace(Recipe("test_resnet", seed=1), **changes), "tiny")  # type: ignore[arg-type]


def images(n: int = 2, height: int = 64, width: int = 48, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def museum(small_museum: Path) -> Museum:
    return dataset.load(small_museum)


# --- many stages at once ---------------------------------------------------------------------------------------------


def read_alone(embedder: Embedder, stage: int, p: float) -> Embedder:
    """The network that a panel's part stands for: the same weights, ended at the stage, pooled with p."""
    alone = backbone.build(replace(embedder.recipe, stage=stage, gem_p=p, projector=None), "alone")
    assert all(torch.equal(v, embedder.trunk.state_dict()[k]) for k, v in alone.trunk.state_dict().items())
    return alone


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext"])
def test_a_part_of_a_panel_is_what_that_network_alone_would_have_given(arch: str) -> None:
    embedder = backbone.build(Recipe(arch, seed=1, gem_p=2.5, projector=4), "whole")
    panel, x = Panel(embedder, stages=(1, 3), ps=(1, 3, 6.5)), images(3)
    assert list(panel.columns) == [(1, 1.0), (1, 3.0), (1, 6.5), (3, 1.0), (3, 3.0), (3, 6.5)]
    assert panel.dim == 3 * sum(embedder.trunk.feature_info[stage]["num_chs"] for stage in (1, 3))
    with torch.inference_mode():
        rows = panel(x)
        assert rows.shape == (3, panel.dim)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
        for stage, p in panel.columns:
            part = panel.part(rows.numpy(), stage, p)
            torch.testing.assert_close(torch.from_numpy(part), read_alone(embedder, stage, p)(x))


@pytest.mark.slow
def test_a_panel_of_a_network_that_is_cut_off() -> None:
    embedder = load("random")  # to stage 2
    panel = Panel(embedder, (2,), (3,))
    with torch.inference_mode():
        torch.testing.assert_close(panel(images()), embedder(images()))
    with pytest.raises(ValueError, match=r"stages must ascend from 0 to at most 2 for random, got \(2, 3\)"):
        Panel(embedder, (2, 3), (3,))


@pytest.mark.slow
def test_a_panel_through_three_scales(tmp_path: Path) -> None:
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (80, 60 + 10 * (i % 2), 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    split = Split(np.array([f"{i}.png" for i in range(3)]), np.arange(3), tmp_path)
    embedder = tiny()
    panel = Panel(embedder, (2, 4), (1, 3))
    rows = load_descriptors(extract.extract(split, panel, tmp_path / "panel", device="cpu"))
    for stage, p in panel.columns:
        alone = extract.extract(split, read_alone(embedder, stage, p), tmp_path / f"{stage} {p}", device="cpu")
        np.testing.assert_allclose(panel.part(rows, stage, p), load_descriptors(alone), atol=2e-6)
    for other in (Panel(embedder, (2, 4), (1, 2)), Panel(embedder, (3, 4), (1, 3)), embedder):
        assert other.weights_sha256() == panel.weights_sha256()
        with pytest.raises(ValueError, match="made with another recipe"):
            extract.extract(split, other, tmp_path / "panel", device="cpu")
    again = extract.extract(split, Panel(embedder, (2, 4), (1, 3)), tmp_path / "panel")
    assert again == tmp_path / "panel" / "descriptors.npy"


def test_a_panel_knows_itself() -> None:
    embedder = tiny()
    panel, other = Panel(embedder, (2, 4), (1, 3)), Panel(embedder, (2, 4), (1, 2))
    assert panel.identity != other.identity != embedder.identity != panel.identity
    assert panel.identity["panel"] == [[2, 1.0], [2, 3.0], [4, 1.0], [4, 3.0]]
    assert json.loads(json.dumps(panel.identity)) == panel.identity
    assert panel.name == "tiny-stages-2-4-p-1-3" and not panel.training
    assert all(own is theirs for own, theirs in zip(panel.trunk.parameters(), embedder.trunk.parameters(), strict=True))


@pytest.mark.parametrize("stages", [(), (3, 2), (2, 2), (-1, 2), (5,)])
def test_stages_that_a_panel_refuses(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="stages must ascend from 0 to at most 4 for tiny"):
        Panel(tiny(), stages, (3,))


@pytest.mark.parametrize("ps", [(), (0,), (3, -1), (math.nan,), (math.inf,), (3, 3.0)])
def test_exponents_that_a_panel_refuses(ps: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ps must be positive numbers, at least one and each once"):
        Panel(tiny(), (2,), ps)


# --- every way of reading --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_way_of_a_sweep_is_that_network_alone(museum: Museum, tmp_path: Path) -> None:
    table = sweep.sweep(museum, tiny(), tmp_path, ps=(1, 3), dims=(4, 8, 4096), scales=(1,))
    stages = len(tiny().trunk.feature_info)
    assert sorted(set(table["stage"])) == [stages - 2, stages - 1] and set(table["p"]) == {1, 3}
    assert set(table[table["way"] != "raw"]["dim"]) == {4, 8}  # 4,096 is more than this database carries
    labels, truth = museum.database.labels, museum.test.labels
    row = table[(table["stage"] == stages - 2) & (table["p"] == 1) & (table["way"] == "whitened") & (table["dim"] == 4)]
    alone = tiny(stage=stages - 2, gem_p=1.0)
    alone.trunk.load_state_dict(tiny().trunk.state_dict(), strict=False)
    described = extract.describe(museum, alone, tmp_path, scales=(1,))
    white = PCAWhitening(8).fit(described.database)
    database, val, test = (
        rows[:, :4] / np.linalg.norm(rows[:, :4], axis=1, keepdims=True)
        for rows in map(white.transform, (described.database, described.val, described.test))
    )
    ks = tune.fitting(tune.KS, len(labels))
    tuned = tune.tune(knn.search(database, val, ks[-1]), labels, museum.val.labels, ks)
    answers = knn.classify(knn.search(database, test, ks[-1]), labels, tuned.k, tuned.tau)
    scores = metrics.evaluate(answers.labels, answers.log_confidence, truth)
    assert (row["k"].item(), row["tau"].item()) == (tuned.k, tuned.tau)
    assert row["gap"].item() == pytest.approx(scores.gap, abs=1e-6)
    assert row["val_gap"].item() == pytest.approx(tuned.gap, abs=1e-6)


def test_a_large_database_carries_dimensions_up_to_its_rank() -> None:
    rng = np.random.default_rng(0)
    many = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(3, 80, 8)).astype("f4")]
    assert {dim for way, dim, _ in sweep._ways(many, (2, 8, 16)) if way != "raw"} == {2, 8}
    few = [rows[:20] for rows in many]
    assert {dim for way, dim, _ in sweep._ways(few, (2, 8, 16)) if way != "raw"} == {2}
    # Half the rank, where all are too many.
    assert {dim for way, dim, _ in sweep._ways(few, (16,)) if way != "raw"} == {4}
