"""The loop: epochs scored as the study scores, runs that resume to the last bit."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from metlib import backbone, evaluate, extract
from metlib.backbone import Embedder, Recipe
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.train import byol, contrastive, loop, method, parametric, simsiam
from metlib.train.loop import history
from metlib.train.method import Plan
from metlib.train.settings import Settings
from metlib.whiten import PCAWhitening

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def state_of(out: Path) -> dict[str, Any]:
    return torch.load(out / "state.pt", weights_only=True)


def assert_same_state(first: Any, second: Any) -> None:
    """Compare two states to the last bit, but for the time that they took."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in set(first) - {"seconds", "images_per_second"}:
            assert_same_state(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same_state(a, b)
    else:
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


# --- an epoch ---


@pytest.mark.slow
def test_the_untouched_network_is_epoch_0_scored_as_the_study_scores(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path, tmp_path: Path
) -> None:
    contrastive.train(museum, embedder, out, settings=settings)
    described = extract.describe(museum, embedder, tmp_path / "work", scales=(1,), device="cpu")
    val_twice = Described(replace(museum, test=museum.val), described.database, described.val, described.val)
    run = evaluate.measure(val_twice)
    first = history(out).iloc[0]
    assert [first[name] for name in ("gap", "gap_minus", "acc")] == [run.val[n] for n in ("gap", "gap_minus", "acc")]
    assert (first["dim"], first["k"], first["tau"]) == (run.dim, run.tuning.k, run.tuning.tau)
    assert pd.isna(first["loss"])


@pytest.mark.slow
def test_the_history_and_what_is_kept(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = contrastive.train(museum, embedder, out, pairs="syn", settings=replace(settings, epochs=3, step=2))
    table = history(out)
    assert table["epoch"].tolist() == [0, 1, 2, 3]
    assert table["lr"].tolist()[1:] == pytest.approx([1e-3, 1e-3, 1e-4])
    best = int(table["gap"].argmax())  # of equals the first
    assert table["best"].tolist() == [epoch == best for epoch in range(4)]
    assert sorted(p.name for p in out.iterdir()) == ["history.csv", "run.json", "state.pt", path.name]
    assert path.name == "tiny-contrastive-syn.safetensors"
    text = capsys.readouterr().out
    assert f"best by val GAP: epoch {best} of 3" in text and "epoch 0/3: p 3, val GAP" in text and "images/s" in text


@pytest.mark.slow
def test_the_checkpoint_is_the_network_of_the_best_epoch(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[str] = []
    scores = iter([0.1, 0.5, 0.5, 0.3])

    def judge(museum: Museum, database: Any, val: Any, whitening: str) -> dict[str, Any]:
        return {"gap": next(scores), "gap_minus": 0.0, "acc": 0.0}

    real = loop._Training._finish_epoch

    def finish(run: Any, trained: Any, optimizer: Any, row: Any) -> Plan:
        weights.append(trained.embedder.weights_sha256())
        return real(run, trained, optimizer, row)

    monkeypatch.setattr(method, "validate", judge)
    monkeypatch.setattr(loop._Training, "_finish_epoch", finish)
    path = contrastive.train(museum, embedder, out, settings=replace(settings, epochs=3))
    loaded = backbone.load(path)
    assert len(set(weights)) == 4 and loaded.weights_sha256() == weights[1]
    assert not loaded.recipe.untrained and loaded.recipe.origin == "trained by metlib from scratch"
    training = loaded.recipe.training
    assert (training["epoch"], training["epochs"], training["seed"], training["museum"]) == (1, 3, 0, "dozen")
    assert training["start"] == "tiny" and training["start_weights"] == weights[0] == embedder.weights_sha256()
    assert "workers" not in training and "device" not in training
    # and the notebooks take it as it is
    described = extract.describe(museum, loaded, tmp_path / "work", scales=(1,), device="cpu")
    assert described.database.shape == (len(museum.database), embedder.dim)


@pytest.mark.slow
def test_an_untrained_network_that_stays_best_stays_untrained(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path
) -> None:
    path = contrastive.train(museum, embedder, out, settings=replace(settings, lr=1e-12, epochs=1))
    loaded = backbone.load(path)
    assert loaded.recipe.untrained and loaded.recipe.training["epoch"] == 0
    assert loaded.weights_sha256() == embedder.weights_sha256()


@pytest.mark.slow
def test_nothing_of_the_caller_changes(museum: Museum, embedder: Embedder, settings: Settings, out: Path) -> None:
    before, generator = embedder.weights_sha256(), torch.random.get_rng_state()
    simsiam.train(museum, embedder, out, hidden=16, neck=4, settings=settings)
    assert embedder.weights_sha256() == before and not embedder.training
    assert torch.equal(torch.random.get_rng_state(), generator)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norms_statistics_stay_where_they_are_to_stay(
    frozen: bool, museum: Museum, embedder: Embedder, settings: Settings, out: Path
) -> None:
    contrastive.train(museum, embedder, out, settings=replace(settings, frozen_norm=frozen, epochs=1))
    state = state_of(out)["method"]
    norms = [name for name, m in embedder.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    for name in norms:
        old = embedder.get_submodule(name)
        for key in ("running_mean", "running_var"):
            assert torch.equal(state[f"embedder.{name}.{key}"], getattr(old, key)) == frozen
        assert not torch.equal(state[f"embedder.{name}.bias"], old.bias)  # slope and shift are learned
    assert state["embedder.pool.p"] != embedder.pool.p


@pytest.mark.slow
def test_parts_of_a_batch_and_saved_memory_change_nothing(
    museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path
) -> None:
    losses = []
    for i, change in enumerate(({}, {"accumulate": 3}, {"checkpointing": True})):
        once: dict[str, Any] = {"epochs": 1, **change}
        contrastive.train(museum, embedder, tmp_path / str(i), settings=replace(settings, **once))
        losses.append(history(tmp_path / str(i))["loss"].to_numpy()[1:])
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)


@pytest.mark.slow
def test_mixed_precision_trains(museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path) -> None:
    for precision in ("float32", "bf16"):
        quick = replace(settings, precision=precision, epochs=1)
        parametric.train(museum, embedder, tmp_path / precision, settings=quick)
    full, mixed = (history(tmp_path / precision)["loss"].to_numpy()[1:] for precision in ("float32", "bf16"))
    assert (full != mixed).all()
    np.testing.assert_allclose(mixed, full, rtol=0.05)


@pytest.mark.slow
def test_the_projector_starts_as_whitening_and_is_saved(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path, tmp_path: Path
) -> None:
    quick = replace(settings, projector=5, lr=1e-12, epochs=1)
    path = contrastive.train(museum, embedder, out, settings=quick)
    loaded = backbone.load(path)
    assert loaded.dim == 5 and loaded.recipe.projector == 5
    raw, projected = (
        extract.describe(museum, network, tmp_path / "work", scales=(1,), device="cpu")
        for network in (embedder, loaded)
    )
    whitening = PCAWhitening(5).fit(raw.database)
    np.testing.assert_allclose(projected.val, whitening.transform(raw.val), atol=2e-4)
    with pytest.raises(ValueError, match="has a projector of 5 dimensions"):
        contrastive.train(museum, loaded, tmp_path / "again", settings=quick)
    with pytest.raises(ValueError, match="rank"):
        contrastive.train(museum, embedder, tmp_path / "wide", settings=replace(quick, projector=64))


@pytest.mark.slow
def test_a_loss_that_is_nan_stops_and_names_the_images(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"epoch 1, batch [2-9].*the loss is (nan|inf).* MET/\d+/\d\.jpg"):
        contrastive.train(museum, embedder, out, settings=replace(settings, lr=1e8))
    assert history(out)["epoch"].tolist() == [0]


def test_a_database_smaller_than_the_batch_is_refused(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path
) -> None:
    with pytest.raises(ValueError, match=f"{len(museum.database)} images, fewer than a batch of 64"):
        contrastive.train(museum, embedder, out, settings=replace(settings, batch=64))
    assert not out.exists()


def test_a_device_that_is_not_there_is_refused(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path
) -> None:
    with pytest.raises(ValueError, match="device 'xla' can't be used"):
        contrastive.train(museum, embedder, out, settings=replace(settings, device="xla"))


@pytest.mark.slow
def test_logs_need_tensorboard(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="install tensorboard"):
        contrastive.train(museum, embedder, out, settings=replace(settings, log=True))
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None: ...
        def __enter__(self) -> Writer:
            return self

        def __exit__(self, *_: object) -> None: ...
        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            written.append((name, value, epoch))

    monkeypatch.setattr(loop, "_tensorboard", lambda: Writer)
    contrastive.train(museum, embedder, out, settings=replace(settings, log=True, epochs=1))
    assert ("loss", history(out)["loss"][1], 1) in written and {epoch for *_, epoch in written} == {0, 1}


# --- resuming ---


KILLED = """
    import os, signal, sys
    import torch
    from metlib import backbone, dataset
    from metlib.train import contrastive, loop
    from metlib.train.settings import Settings

    real, seen = loop.Views.__getitem__, []
    def get(views, item):
        seen.append(item)
        if len(seen) > 3 * len(views) // 2:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGKILL)
        return real(views, item)
    loop.Views.__getitem__ = get
    torch.set_num_threads(1)
    contrastive.train(dataset.load(sys.argv[1]), backbone.load(sys.argv[2]), sys.argv[3], settings=eval(sys.argv[4]))
"""


def assert_same_end(resumed: Path, whole: Path, name: str) -> None:
    assert_same_state(state_of(resumed), state_of(whole))
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    times = ["seconds", "images_per_second"]
    pd.testing.assert_frame_equal(history(resumed).drop(columns=times), history(whole).drop(columns=times))


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(
    museum: Museum, checkpoint: Path, settings: Settings, tmp_path: Path
) -> None:
    longer, network = replace(settings, epochs=3), backbone.load(checkpoint)
    path = contrastive.train(museum, network, tmp_path / "whole", settings=longer)
    arguments = [str(museum.root), str(checkpoint), str(tmp_path / "killed"), repr(longer)]
    code = textwrap.dedent(KILLED)
    killed = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert history(tmp_path / "killed")["epoch"].tolist() == [0, 1]
    contrastive.train(museum, network, tmp_path / "killed", settings=replace(longer, workers=1))
    assert_same_end(tmp_path / "killed", tmp_path / "whole", path.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "own"),
    [
        (contrastive, {"pairs": "visit"}),
        (simsiam, {"hidden": 32, "neck": 8}),
        (byol, {"hidden": 32, "width": 8}),
        (parametric, {}),
    ],
    ids=["visit", "simsiam", "byol", "parametric"],
)
def test_every_method_resumes(
    method: Any,
    own: dict[str, Any],
    museum: Museum,
    embedder: Embedder,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = partial(method.train, museum, embedder, settings=settings, **own)
    path = train(tmp_path / "whole")
    real, epochs = loop._Training._train_epoch, []

    def stop(run: Any, epoch: int, *more: Any) -> dict[str, float]:
        epochs.append(epoch)
        means = real(run, epoch, *more)
        if epoch == 2:  # all of it was computed, none of it written
            raise KeyboardInterrupt
        return means

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop._Training, "_train_epoch", stop)
        train(tmp_path / "stopped")
    assert epochs == [1, 2] and history(tmp_path / "stopped")["epoch"].tolist() == [0, 1]
    assert train(tmp_path / "stopped").name == path.name
    assert_same_end(tmp_path / "stopped", tmp_path / "whole", path.name)


@pytest.mark.slow
def test_a_run_killed_while_it_validates_resumes(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = extract.load_descriptors, []

    def stop(path: Path) -> Any:
        calls.append(path)
        if len(calls) == 4:  # val, after the first epoch
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(extract, "load_descriptors", stop)
        contrastive.train(museum, embedder, out, settings=settings)
    assert (out / "descriptors").is_dir() and history(out)["epoch"].tolist() == [0]
    contrastive.train(museum, embedder, out, settings=settings)
    assert history(out)["epoch"].tolist() == [0, 1, 2] and not (out / "descriptors").exists()


@pytest.mark.parametrize("method", [byol, simsiam])
def test_parts_of_a_batch_too_small_for_batch_norm_are_refused(
    method: Any, museum: Museum, embedder: Embedder, settings: Settings, out: Path
) -> None:
    with pytest.raises(ValueError, match="16 or more, got 8"):
        method.train(museum, embedder, out, settings=replace(settings, accumulate=2))


def test_a_run_is_named_after_all_that_decides_it(museum: Museum, embedder: Embedder, settings: Settings) -> None:
    named = partial(loop.name_run, museum, embedder)
    here = named(settings, method="contrastive", pairs="syn")
    assert re.fullmatch(r"dozen-tiny-contrastive-syn-[0-9a-f]{8}", here)
    assert here == named(replace(settings, workers=3, device="cuda"), method="contrastive", pairs="syn")
    others = {named(replace(settings, seed=1), method="contrastive", pairs="syn"), named(settings, pairs="syn")}
    others.add(loop.name_run(replace(museum, val=museum.test), embedder, settings, method="contrastive", pairs="syn"))
    other = backbone.build(Recipe("test_resnet", seed=2), "tiny")
    others.add(loop.name_run(museum, other, settings, method="contrastive", pairs="syn"))
    assert len(others | {here}) == 5


@pytest.mark.slow
def test_a_finished_run_is_returned_at_once(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = contrastive.train(museum, embedder, out, settings=settings)
    monkeypatch.setattr(loop.Views, "__getitem__", lambda *_: pytest.fail("an image was opened"))
    monkeypatch.setattr(extract, "extract", lambda *_, **__: pytest.fail("an image was described"))
    (out / "history.csv").unlink()  # as if killed before it was written
    assert contrastive.train(museum, embedder, out, settings=replace(settings, workers=2, device=None)) == path
    assert history(out)["epoch"].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_another_run_is_refused_by_name(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path, tmp_path: Path
) -> None:
    contrastive.train(museum, embedder, out, settings=replace(settings, epochs=1))

    def refused(key: str, train: Any = contrastive.train, **change: Any) -> None:
        given: dict[str, Any] = {"museum": museum, "embedder": embedder, "settings": replace(settings, epochs=1)}
        with pytest.raises(ValueError, match=f"is another run: its {key} is .*another folder"):
            train(out=out, **given | change)

    refused("method", train=parametric.train)
    refused("pairs", pairs="syn")
    refused("lr", settings=replace(settings, epochs=1, lr=1e-4))
    refused("epochs", settings=settings)
    refused("weights", embedder=backbone.build(Recipe("test_resnet", seed=2), "tiny"))
    same_weights = copy.deepcopy(embedder)
    same_weights.recipe = replace(embedder.recipe, longest=48)
    refused("recipe", embedder=same_weights)
    refused("museum", museum=replace(museum, name="other"))
    refused("images", museum=replace(museum, val=museum.val.take(np.arange(len(museum.val) - 1))))
    theirs = json.loads((out / "run.json").read_text(encoding="utf-8"))
    (out / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        contrastive.train(museum, embedder, out, settings=replace(settings, epochs=1))
    (out / "run.json").write_text(json.dumps(theirs), encoding="utf-8")
    (out / "state.pt").write_bytes(b"half a state")
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        contrastive.train(museum, embedder, out, settings=replace(settings, epochs=1))


def test_a_folder_of_something_else_is_refused(
    museum: Museum, embedder: Embedder, settings: Settings, out: Path
) -> None:
    out.mkdir()
    (out / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"no run\.json"):
        contrastive.train(museum, embedder, out, settings=settings)
    with pytest.raises(FileNotFoundError, match=r"no .*history\.csv"):
        history(out)
