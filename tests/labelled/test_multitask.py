"""Many labels, one trunk: the loss against its formula, what learns and what doesn't, heads on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from metlib import backbone
from metlib.backbone import Embedder, Recipe
from metlib.labelled import UNKNOWN, Labelled, multitask
from metlib.labelled.cache import build
from metlib.labelled.multitask import Heads, MultiTask, heads_file, load_heads, save_heads, train
from metlib.train.loop import Settings, history


@pytest.fixture
def budget(settings: Settings) -> Settings:
    return replace(settings, lr=1e-4, head_lr=3e-2, epochs=3, step=2, batch=18, colour=False, flip=True)


def test_the_loss_is_the_sum_of_smoothed_cross_entropies_over_labelled_images(
    paintings: Labelled, embedder: Embedder
) -> None:
    method = MultiTask(embedder, paintings, frozen=False, smoothing=0.1)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for head in method.heads:
            head.weight.copy_(torch.from_numpy(rng.normal(size=head.weight.shape)))
            head.bias.copy_(torch.from_numpy(rng.normal(size=head.bias.shape)))
    images, rows = torch.rand(7, 1, 3, 32, 32), torch.tensor([0, 3, 4, 11, 20, 33, 50])
    method.eval()
    with torch.no_grad():
        loss = method(images, rows)["loss"].item()
        x = embedder(images[:, 0]).numpy().astype(np.float64) * np.sqrt(embedder.dim)
    expected = 0.0
    train_rows = paintings.rows("train")
    for name, head in zip(paintings.attributes, method.heads, strict=True):
        labels = paintings.labels[name][train_rows[rows.numpy()]]
        logs = log_softmax(x @ head.weight.detach().numpy().T.astype(float) + head.bias.detach().numpy(), axis=1)
        each = [-0.9 * row[y] - 0.1 * row.mean() for row, y in zip(logs, labels, strict=True) if y != UNKNOWN]
        assert 0 < len(each) <= 7
        expected += float(np.mean(each))
    assert loss == pytest.approx(expected, rel=1e-4)


def test_a_batch_without_a_label_for_an_attribute_learns_from_the_others(
    paintings: Labelled, embedder: Embedder
) -> None:
    method = MultiTask(embedder, paintings, frozen=False)
    rows = torch.from_numpy(np.flatnonzero(paintings.labels["edge"][paintings.rows("train")] == UNKNOWN))[:4]
    loss = method(torch.rand(4, 1, 3, 32, 32), rows)["loss"]
    assert loss.item() == pytest.approx(np.log(3), rel=1e-4)  # colour's heads at zero: three classes alike


@pytest.mark.slow
def test_it_learns_two_attributes_at_once_and_keeps_the_best_epoch(
    paintings: Labelled, embedder: Embedder, budget: Settings, tmp_path: Path
) -> None:
    reader = build(paintings.images, tmp_path, 32)
    path = train(paintings, embedder, tmp_path / "run", reader=reader, settings=replace(budget, epochs=6, step=6))
    rows = history(path.parent)
    assert list(rows["accuracy"]) == pytest.approx(list((rows["accuracy_colour"] + rows["accuracy_edge"]) / 2))
    assert rows["accuracy"].iloc[-1] > 0.75 > rows["accuracy"].iloc[0]
    assert rows["best"].idxmax() == rows["accuracy"].idxmax()
    assert rows["val_loss"].iloc[0] == pytest.approx(np.log(3) + np.log(2), rel=1e-5)
    heads, trained = load_heads(path), backbone.load(path)
    val = paintings.rows("val")
    descriptors = multitask.describe_collection(paintings, trained, tmp_path, reader, split="val")
    for name, named in heads.predict(descriptors).items():
        truth = paintings.labels[name][val]
        known = truth != UNKNOWN
        accuracy = (named[known] == truth[known]).mean()
        assert accuracy == pytest.approx(rows.loc[rows["best"], f"accuracy_{name}"].item())


@pytest.mark.slow
def test_a_frozen_trunk_stays_as_it_is_and_only_heads_learn(
    paintings: Labelled, embedder: Embedder, budget: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train(paintings, embedder, tmp_path / "run", frozen=True, settings=replace(budget, verbose=False))
    assert capsys.readouterr().out == ""
    assert train(paintings, embedder, tmp_path / "run", frozen=True, settings=budget) == path
    assert "best by val accuracy: epoch" in capsys.readouterr().out
    after = backbone.load(path)
    for name, tensor in embedder.trunk.state_dict().items():
        assert torch.equal(tensor, after.trunk.state_dict()[name]), name
    assert history(path.parent)["accuracy"].iloc[-1] > 0.5
    assert all(parameter.requires_grad for parameter in embedder.parameters())  # the one that was given is untouched


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end_and_patience_ends_it(
    paintings: Labelled, embedder: Embedder, budget: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(paintings, embedder, tmp_path / "whole", frozen=True, settings=budget)
    real, calls = MultiTask.score, []

    def killed(self: MultiTask, *arguments):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(MultiTask, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        train(paintings, embedder, tmp_path / "killed", frozen=True, settings=budget)
    monkeypatch.setattr(MultiTask, "score", real)
    resumed = train(paintings, embedder, tmp_path / "killed", frozen=True, settings=budget)
    same = ["loss", "val_loss", "accuracy"]
    assert history(whole.parent)[same].equals(history(resumed.parent)[same])
    monkeypatch.setattr(MultiTask, "score", lambda *_: {"accuracy": 0.5})
    still = train(paintings, embedder, tmp_path / "still", settings=replace(budget, epochs=9, patience=2))
    assert list(history(still.parent)["epoch"]) == [0, 1, 2]
    again = train(paintings, embedder, tmp_path / "still", settings=replace(budget, epochs=9, patience=2))
    assert again == still and len(history(still.parent)) == 3


def test_heads_survive_the_disk_and_are_checked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 5)).astype(np.float32)
    heads = Heads({"style": weight}, {"style": np.zeros(3, np.float32)}, {"style": ("a", "b, c", "d")})
    save_heads(heads, heads_file(tmp_path / "net.safetensors"))
    back = load_heads(tmp_path / "net.safetensors")
    assert back.classes == heads.classes
    rows = rng.normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_array_equal(back.logits(rows)["style"], heads.logits(rows)["style"])
    assert back.predict(rows)["style"].tolist() == (rows @ weight.T).argmax(axis=1).tolist()
    with pytest.raises(ValueError, match="3 classes, but weights \\(2, 5\\)"):
        Heads({"style": weight[:2]}, {"style": np.zeros(2, np.float32)}, {"style": ("a", "b", "c")})
    with pytest.raises(ValueError, match="NaN"):
        Heads({"style": weight * np.nan}, {"style": np.zeros(3, np.float32)}, {"style": ("a", "b", "c")})
    file = heads_file(tmp_path / "net.safetensors")
    for damaged in (b"PK nothing", file.read_bytes()[:300]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="holds no heads"):
            load_heads(tmp_path / "net.safetensors")


def test_what_cannot_be_trained_is_refused(paintings: Labelled, embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="smoothing must be from 0 to below 1, got 1"):
        train(paintings, embedder, tmp_path, smoothing=1)
    without = replace(paintings, splits=np.where(paintings.splits == "val", "", paintings.splits))
    with pytest.raises(ValueError, match="has no val images: make splits"):
        train(without, embedder, tmp_path)
    edge = np.where(paintings.splits == "test", UNKNOWN, paintings.labels["edge"])
    unjudged = replace(paintings, labels={**paintings.labels, "edge": edge})
    with pytest.raises(ValueError, match="paintings, edge: classes with images: 2 in train, 2 in val, 0 in test"):
        train(unjudged, embedder, tmp_path)
    with pytest.raises(ValueError, match="accumulate 2: paintings lacks labels"):
        train(paintings, embedder, tmp_path, settings=Settings(accumulate=2))


@pytest.mark.slow
def test_a_frozen_trunk_has_no_dropout_while_heads_learn(
    paintings: Labelled, budget: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = backbone.build(Recipe("test_resnet", {"drop_path_rate": 0.5}, seed=1), "dropped")
    modes = []
    real = MultiTask.forward

    def watched(self: MultiTask, images, rows):  # type: ignore[no-untyped-def]
        modes.append({module.training for module in self.embedder.modules()})
        return real(self, images, rows)

    monkeypatch.setattr(MultiTask, "forward", watched)
    train(paintings, dropped, tmp_path / "run", frozen=True, settings=replace(budget, epochs=1))
    assert modes and all(mode == {False} for mode in modes)


def test_runs_that_differ_have_different_names(paintings: Labelled, embedder: Embedder, budget: Settings) -> None:
    names = {
        multitask.name_run(paintings, embedder, budget),
        multitask.name_run(paintings, embedder, budget, frozen=True),
        multitask.name_run(paintings, embedder, budget, smoothing=0),
        multitask.name_run(paintings.select("colour"), embedder, budget),
        multitask.name_run(paintings, embedder, replace(budget, flip=False)),
    }
    assert len(names) == 5
    assert multitask.name_run(paintings, embedder, budget) in names
