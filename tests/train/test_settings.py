"""Settings: the published defaults, and every value checked by its name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from metlib.train.settings import PRESETS, Settings


def test_the_defaults_are_the_published_settings() -> None:
    paper = PRESETS["paper"]
    assert (paper.lr, paper.weight_decay, paper.epochs, paper.step, paper.gamma) == (1e-7, 1e-6, 10, 6, 0.1)
    assert (paper.batch, paper.size, paper.crop, paper.frozen_norm) == (64, 500, 0.7, True)
    assert paper == Settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": float("nan")},
        {"lr": "1e-7"},
        {"head_lr": -1.0},
        {"weight_decay": -1e-6},
        {"epochs": 0},
        {"epochs": 2.0},
        {"step": 0},
        {"gamma": 1.5},
        {"batch": 1},
        {"accumulate": 0},
        {"accumulate": 40},
        {"size": 8},
        {"crop": 0},
        {"projector": 0},
        {"last": 0},
        {"scale": 1.5},
        {"precision": "half"},
        {"seed": -1},
        {"workers": -1},
    ],
)
def test_settings_are_checked_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* got|accumulate 40"):
        Settings(**wrong)


@pytest.mark.parametrize("name", ["colour", "flip", "frozen_norm", "checkpointing", "log", "verbose"])
def test_a_switch_is_on_or_off(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
        Settings(**{name: "no"})


def test_integers_of_numpy_become_plain_ones() -> None:
    settings = Settings(epochs=np.int64(3), projector=np.int32(8))  # type: ignore[arg-type]
    assert settings == Settings(epochs=3, projector=8)
    assert json.loads(json.dumps(settings.lasting)) == settings.lasting
