"""plots.theme: what holds for all pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from metlib import plots

ROOT = Path(__file__).resolve().parents[2]


def test_an_axes_that_is_given_is_drawn_on_and_settings_stay() -> None:
    before, backend = dict(mpl.rcParams), mpl.get_backend()
    _, ax = plt.subplots()
    assert plots.long_tail([1, 1, 2], ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert dict(mpl.rcParams) == before and mpl.get_backend() == backend


@pytest.mark.slow
def test_importing_plots_chooses_no_backend_and_loads_no_ipython() -> None:
    code = (
        "import sys, metlib.plots, matplotlib as mpl, matplotlib.rcsetup as rc;"
        "assert dict.__getitem__(mpl.rcParams, 'backend') is rc._auto_backend_sentinel;"
        "assert not {'IPython', 'torch', 'seaborn'} & set(sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_a_dollar_in_a_name_starts_no_formula(tmp_path: Path, files: list[Path]) -> None:
    odd = [r"$\\foo$", "a $x^$ b"]
    table = pd.DataFrame({"class": odd, "train": [2, 1], "val": [0, 0], "test": [1, 1], "gap": [0.5, 0.4]})
    drawn = (
        plots.class_counts(table),
        plots.confusion(np.eye(2), classes=odd),
        plots.scatter(np.eye(2), [0, 1], classes=odd),
        plots.score_bars(table, label="class", scores=("gap",)),
        plots.sheet(files[:2], titles=odd),
    )
    for number, picture in enumerate(drawn):
        plots.publish(picture, tmp_path / f"{number}.png", alt="names with dollars", stamp="synthetic museum, seed 0")
