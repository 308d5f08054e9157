"""`python -m metlib.train`: every method trains, and every refusal is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from metlib.train.__main__ import main

from metlib import backbone
from metlib.dataset import Museum

QUICK = ["--epochs", "1", "--batch", "8", "--size", "32", "--workers", "0", "--device", "cpu", "--lr", "0.001"]


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
    assert main([method, *common, *own]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path.parent == out and backbone.load(path).recipe.training["method"] == method
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["frozen_norm"] is (method != "parametric") and run["epochs"] == 1 and run["weight_decay"] == 1e-6
    if method == "contrastive":
        assert (run["pairs"], run["margin"], run["hardest"]) == ("syn", 1.5, 5)


def test_a_preset_is_taken_and_changed(
    museum: Museum, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["contrastive", "--data", str(museum.root), "--backbone", str(checkpoint), "--out", str(tmp_path / "a")]
    # the small preset's batch is larger than this museum, and so refused: it was taken
    assert main([*arguments, "--preset", "small"]) == 2
    assert "a batch of 32" in capsys.readouterr().err
    assert main([*arguments]) == 2
    assert "a batch of 64" in capsys.readouterr().err


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
        assert main(["contrastive", *wrong]) == 2
        error = capsys.readouterr().err
        assert reason in error and error.startswith("error: ") and error.count("\n") == 1
