"""What the tests of training share: a museum of a dozen exhibits at 64 pixels, a tiny network, quick settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from metlib import backbone, dataset, synthetic
from metlib.backbone import Embedder, Recipe
from metlib.dataset import Museum
from metlib.train.settings import Settings


@pytest.fixture(scope="session")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Museum:
    root = tmp_path_factory.mktemp("train") / "dozen"
    return dataset.load(synthetic.write_museum(root, n_exhibits=12, size=64))


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return backbone.build(Recipe("test_resnet", seed=1), "tiny")


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(lr=1e-3, epochs=2, step=1, batch=8, size=32, workers=0, device="cpu")


@pytest.fixture
def checkpoint(embedder: Embedder, tmp_path: Path) -> Path:
    return backbone.save(embedder, tmp_path / "tiny.safetensors")


@pytest.fixture(autouse=True, scope="module")
def quick(one_thread: None) -> None:
    """Two threads on images this small cost more than they save."""
