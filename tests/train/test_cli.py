"""`metlib train`: every method trains, every setting has an option, and every error is one line."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from metlib import backbone, cli
from metlib.dataset import Museum
from metlib.train.contrastive import PAIRS
from metlib.train.settings import Settings

QUICK = ["--epochs", "1", "--batch", "8", "--size", "32", "--workers", "0", "--device", "cpu", "--lr", "0.001"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("contrastive", ["--pairs", "syn", "--margin", "1.5", "--hardest", "5"]),
        ("simsiam", []),
        ("byol", []),
        ("parametric", ["--loss", "softmax", "--no-frozen-norm"]),
    ],
)
def test_every_method_trains(
    method: str, own: list[str], museum: Museum, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = ["--data", str(museum.root), "--backbone", str(checkpoint), "--out", str(out), *QUICK]
    assert cli.main(["train", method, *common, *own]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path.parent == out and backbone.load(path).recipe.training["method"] == method
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["frozen_norm"] is (method != "parametric") and run["epochs"] == 1 and run["weight_decay"] == 1e-6
    if method == "contrastive":
        assert (run["pairs"], run["margin"], run["hardest"]) == ("syn", 1.5, 5)


def test_every_kind_of_pairs_is_an_option() -> None:
    assert get_args(cli.Pairs) == PAIRS


def test_every_setting_has_an_option_of_its_type() -> None:
    options, kinds = get_type_hints(cli.train), get_type_hints(Settings)
    defaults = inspect.signature(cli.train).parameters
    for field in fields(Settings):
        plain = set(get_args(kinds[field.name]) or [kinds[field.name]])
        assert set(get_args(options[field.name])) == plain | {type(None)}, field.name
        assert defaults[field.name].default is None, field.name  # the preset decides


def test_an_option_of_another_method_is_refused(
    museum: Museum, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data", str(museum.root), "--backbone", str(checkpoint), "--out", str(tmp_path / "out"), *QUICK]
    assert cli.main(["train", "simsiam", *common, "--pairs", "syn"]) == 2
    assert capsys.readouterr().err.startswith("error: --pairs is an option of contrastive, not of simsiam")


def test_a_preset_is_taken_and_changed(
    museum: Museum, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"data": museum.root, "backbone": checkpoint, "out": tmp_path / "a"}
    arguments = ["train", "contrastive", *(str(word) for name in places for word in (f"--{name}", places[name]))]
    # the small preset's batch is larger than this museum, and so refused: it was taken
    assert cli.main([*arguments, "--preset", "small"]) == 2
    assert "a batch of 32" in capsys.readouterr().err
    assert cli.main([*arguments]) == 2
    assert "a batch of 64" in capsys.readouterr().err


@pytest.mark.slow
def test_refusals_are_one_line(
    museum: Museum, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = ["--data", str(museum.root)], ["--out", str(tmp_path / "out")]
    for wrong, reason in (
        ([*data, "--backbone", str(tmp_path / "none.safetensors"), *out], "no checkpoint"),
        (["--data", str(tmp_path / "nowhere"), "--backbone", str(checkpoint), *out], "no folder"),
        ([*data, "--backbone", str(checkpoint), *out, "--lr", "-1"], "lr must be"),
        ([*data, "--backbone", str(checkpoint), *out, *QUICK, "--hardest", "999"], "999 negatives"),
    ):
        assert cli.main(["train", "contrastive", *wrong]) == 2
        error = capsys.readouterr().err
        assert reason in error and error.startswith("error: ") and error.count("\n") == 1
