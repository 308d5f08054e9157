"""Real photographs and real weights: the whole river must agree with an independent implementation of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from metlib import backbone, dataset
from metlib.extract import SCALES, Described, describe
from metlib.knn import classify, search
from metlib.metrics import evaluate
from metlib.tune import KS, tune
from metlib.whiten import PCAWhitening

TOLERANCE = 0.01  # JPEG decoders and convolution kernels differ a little


def scores(described: Described, dim: int | None) -> tuple[float, float, float, float]:
    """Val GAP tuned on val, then test GAP, GAP⁻ and ACC at k = 5, tau = 20; all as fractions."""
    database, val, test = described.database, described.val, described.test
    if dim is not None:
        whitening = PCAWhitening(dim).fit(database)
        database, val, test = (whitening.transform(rows) for rows in (database, val, test))
    museum = described.museum
    k = min(max(KS), len(database))
    tuned = tune(search(database, val, k), museum.database.labels, museum.val.labels)
    predictions = classify(search(database, test, k), museum.database.labels, 5, 20)
    measured = evaluate(predictions.labels, predictions.log_confidence, museum.test.labels)
    return float(tuned.gap_grid.max()), measured.gap, measured.gap_minus, measured.acc


def test_the_published_numbers_of_uab(shared: Path, tmp_path: Path) -> None:
    root, weights = shared / "data" / "uab_museum", shared / "weights" / "mobilenetv2_100.safetensors"
    if not root.is_dir() or not weights.is_file():
        pytest.skip("no uab_museum or mobilenetv2_100.safetensors in ../shared")
    museum, embedder = dataset.load(root), backbone.load(weights)
    single = scores(describe(museum, embedder, tmp_path, scales=(1,), device="cpu"), None)
    assert single == pytest.approx((0.956, 0.894, 0.903, 0.921), abs=TOLERANCE)
    multi = scores(describe(museum, embedder, tmp_path, scales=SCALES, device="cpu"), 256)
    assert multi == pytest.approx((0.987, 0.917, 0.925, 0.943), abs=TOLERANCE)
    print(f"single scale {single}, three scales and whitening {multi}")
