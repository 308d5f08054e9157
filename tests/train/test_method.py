"""What methods share: plans are checked, and several processes that train together give the losses of one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metlib import backbone
from metlib.backbone import Embedder
from metlib.dataset import Museum
from metlib.train import contrastive
from metlib.train.loop import history
from metlib.train.method import Plan, Process, gather
from metlib.train.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_a_plan_is_checked() -> None:
    with pytest.raises(ValueError, match=r"\(M, V\)"):
        Plan(np.zeros((3, 2), np.int64), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="visits"):
        Plan(np.zeros((3, 2), np.int64), np.zeros(3, np.int64), np.zeros((3, 1), bool))


def test_gathering_alone_changes_nothing() -> None:
    rows = torch.rand(3, 2)
    assert gather(rows, 3) is rows


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(
    museum: Museum, embedder: Embedder, settings: Settings, tmp_path: Path
) -> None:
    pairs, checkpoint = 2 * len(museum.database), backbone.save(embedder, tmp_path / "tiny.safetensors")
    # batches of an odd number of pairs, which two processes can't halve
    batch = next(b for b in range(6, 20) if -(-pairs // -(-pairs // b)) % 2)
    odd = replace(settings, batch=batch, projector=8)
    contrastive.train(museum, backbone.load(checkpoint), tmp_path / "one", settings=odd)
    options = [
        "--data",
        str(museum.root),
        "--backbone",
        str(checkpoint),
        "--out",
        str(tmp_path / "two"),
        "--device",
        "cpu",
    ]
    for name in ("lr", "epochs", "step", "batch", "size", "workers", "projector"):
        options += [f"--{name}", str(getattr(odd, name))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "metlib", "train", "contrastive", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall("best by val GAP", done.stdout)) == 1
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    np.testing.assert_allclose(two["loss"], one["loss"], atol=1e-5)
    np.testing.assert_allclose(two["p"], one["p"], atol=1e-5)
    assert two["gap"].tolist() == pytest.approx(one["gap"].tolist(), abs=1e-6)
    (path,) = (tmp_path / "two").glob("*.safetensors")
    assert backbone.load(path).dim == 8


def test_shares_have_one_length_and_hold_all_items() -> None:
    items = np.array([5, 6, 7])
    shares = [Process(rank, 2, torch.device("cpu")).share(items).tolist() for rank in range(2)]
    assert shares == [[5, 6], [7, 7]]
