"""The network that comes with metlib: made again in small, and the file that is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from metlib import backbone, cli, dataset, synthetic
from metlib.analysis import compare
from metlib.backbone import RECIPES, Recipe
from metlib.train import embedded
from metlib.train.settings import Settings

TINY = {"n_exhibits": 12, "seed": 7, "size": 64, "n_val": 12, "n_test": 24, "distractors": 0.5}
NETWORK = Recipe("test_resnet", seed=1)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_museum(tmp_path_factory.mktemp("embedded") / "painted", **TINY)


def test_visits_join_the_database_with_their_exhibits_and_strangers_stay_outside(small_museum: Path) -> None:
    museum = dataset.load(small_museum)
    shown = embedded.add_visits(museum)
    added = shown.database.take(np.arange(len(museum.database), len(shown.database)))
    positive = museum.test.labels != dataset.DISTRACTOR
    assert added.paths.tolist() == museum.test.paths[positive].tolist()
    assert added.labels.tolist() == museum.test.labels[positive].tolist()
    assert all(shown.database.file(i).is_file() for i in range(len(shown.database)))
    assert shown.val.paths.tolist() == museum.val.paths.tolist()


@pytest.mark.slow
def test_it_is_made_in_half_precision_with_all_that_made_it(painted: Path, settings: Settings, tmp_path: Path) -> None:
    short = replace(settings, epochs=3, step=3, head_lr=1e-2, frozen_norm=False)
    asked = {"network": NETWORK, "painted": TINY, "settings": short, "views": 4}
    made = embedded.train(painted, tmp_path, tmp_path / "made.safetensors", **asked)
    with safetensors.safe_open(made, "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (it is no dict)
    assert kinds == {torch.float16, torch.int64}  # batch norm counts its batches
    again = backbone.load(made)
    assert next(again.parameters()).dtype == torch.float32
    training = again.recipe.training
    assert training["painted"] == TINY and training["views"] == 4 and training["seed"] == 0
    assert training["command"] == "metlib embedded" and not again.recipe.untrained
    before = made.read_bytes()
    embedded.train(painted, tmp_path, made, **asked)  # finished: nothing is trained
    assert made.read_bytes() == before


@pytest.mark.slow
def test_weights_that_learned_nothing_are_not_written(painted: Path, settings: Settings, tmp_path: Path) -> None:
    still = replace(settings, epochs=1, lr=1e-15)
    with pytest.raises(RuntimeError, match="no epoch was better than untrained weights"):
        embedded.train(painted, tmp_path, tmp_path / "made", network=NETWORK, painted=TINY, settings=still, views=1)
    assert not (tmp_path / "made").exists()


def test_the_command_says_what_went_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"painted-{embedded.MUSEUM['seed']}").write_text("in the way")
    assert cli.main(["embedded", "--work", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


# ---- the file that is there ----


def test_the_file_is_small_and_says_how_it_was_made() -> None:
    assert backbone.EMBEDDED.stat().st_size <= 4_000_000
    here = backbone.load("embedded")
    assert replace(here.recipe, training={}, gem_p=3.0) == RECIPES["embedded"]
    training = here.recipe.training
    assert training["painted"] == embedded.MUSEUM and training["views"] == embedded.VIEWS
    later = {"colour": True, "flip": False, "patience": None}  # settings that came after the file
    assert {key: training.get(key, later.get(key)) for key in embedded.SETTINGS.lasting} == embedded.SETTINGS.lasting
    assert here.name == "embedded" and here.title == "embedded"


def test_it_comes_with_its_own_weights_only() -> None:
    with pytest.raises(ValueError, match=r"embedded comes with its weights: leave x\.pt out"):
        backbone.load("embedded", weights="x.pt")


@pytest.mark.slow
def test_it_beats_random_by_far_on_a_museum_that_it_never_saw(tmp_path: Path) -> None:
    root = synthetic.write_museum(tmp_path / "museum", n_exhibits=80, size=256, n_test=80, workers=2)
    museum = dataset.load(root)
    one, floor = (compare.measure(museum, backbone.load(name), tmp_path).test for name in ("embedded", "random"))
    assert one["gap_low"] > floor["gap"] and one["gap"] > floor["gap_high"]
    assert one["acc"] > floor["acc"] + 0.1
