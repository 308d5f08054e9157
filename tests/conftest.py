"""What every test may use: real data where it lies beside the checkout, a small painted museum."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.servers import naps, site  # noqa: F401 (fixtures)

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("METLIB_PROGRESS", "0")

# The first example often pays for an import, and machines differ: no deadline.
hypothesis.settings.register_profile("metlib", deadline=None, print_blob=True)
hypothesis.settings.load_profile("metlib")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs, weights and ground truth beside the checkout; tests that need them skip without."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("no ../shared with real data beside this checkout")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: where batches are tiny, threads wait for each other longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A painted museum of 40 exhibits at 96 pixels, in the Met layout."""
    from metlib import synthetic

    root = tmp_path_factory.mktemp("museum") / "small"
    return synthetic.write_museum(root, n_exhibits=40, size=96)
