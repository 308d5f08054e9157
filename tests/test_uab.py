"""Real photographs and real weights: the whole pipeline must agree with an independent implementation of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from metlib import backbone, dataset
from metlib.dataset import Museum
from metlib.extract import SCALES, Described, describe
from metlib.knn import classify, search
from metlib.metrics import evaluate
from metlib.whiten import PCAWhitening

pytestmark = pytest.mark.slow
TOLERANCE = 0.01  # JPEG decoders and convolution kernels differ a little


@pytest.fixture(scope="module")
def museum(shared: Path) -> Museum:
    """The collection with its labels as corrected on 2026-11-25."""
    root = shared / "data" / "uab_museum"
    if not root.is_dir():
        pytest.skip("no uab_museum in ../shared")
    return dataset.load(root)


def scores(described: Described, dim: int | None) -> tuple[float, float, float]:
    """Test GAP, GAP⁻ and ACC at k = 5, tau = 20, as fractions."""
    database, test = described.database, described.test
    if dim is not None:
        whitening = PCAWhitening(dim).fit(database)
        database, test = whitening.transform(database), whitening.transform(test)
    labels, truth = described.museum.database.labels, described.museum.test.labels
    predictions = classify(search(database, test, 50), labels, 5, 20)
    measured = evaluate(predictions.labels, predictions.log_confidence, truth)
    return measured.gap, measured.gap_minus, measured.acc


@pytest.mark.parametrize(
    ("weights", "scales", "expected"),
    [
        ("mobilenetv2_100", (1,), {None: (0.938, 0.949, 0.950)}),
        ("mobilenetv2_100", SCALES, {256: (0.963, 0.971, 0.971), 128: (0.957, 0.964, 0.964)}),
        ("resnet18_layer3", SCALES, {128: (0.909, 0.949, 0.950)}),
    ],
)
def test_the_independent_numbers_of_uab(
    weights: str,
    scales: tuple[float, ...],
    expected: dict[int | None, tuple[float, float, float]],
    museum: Museum,
    shared: Path,
    tmp_path: Path,
) -> None:
    file = shared / "weights" / f"{weights}.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file.name} in ../shared")
    described = describe(museum, backbone.load(file), tmp_path, scales=scales, device="cpu")
    for dim, numbers in expected.items():
        assert scores(described, dim) == pytest.approx(numbers, abs=TOLERANCE), dim
