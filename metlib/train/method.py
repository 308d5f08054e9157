"""What a way to train must provide, and the parts that several of them share."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from metlib import evaluate
from metlib.backbone import Embedder
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.train.processes import gather
from metlib.train.settings import Settings


@dataclass(frozen=True, eq=False)
class Plan:
    """What an epoch shows: `images` (M, V) int64, rows of the database, V to an item; `targets` (M,) int64."""

    images: NDArray[np.int64]
    targets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 2 or self.targets.shape != self.images.shape[:1]:
            raise ValueError(f"images must be (M, V), targets (M,), got {self.images.shape} and {self.targets.shape}")


class Method(nn.Module, ABC):
    """A way to train: the embedder and what its loss needs beside it. A method gives `plan` and `forward`, the loss.

    `criterion` is the column of the history whose largest value marks the best epoch. A method that does not use the
    database's descriptors sets `needs_database` to False: they are then not computed, and it gets none.
    """

    criterion: ClassVar[str] = "gap"
    needs_database: ClassVar[bool] = True

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    @abstractmethod
    def plan(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator) -> Plan:
        """Plan an epoch from the database's descriptors (N, D) by the network as it is."""

    @abstractmethod
    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Give the "loss" of a batch, and more values for columns of the history.

        `images` (m, V, 3, S, S) in [0, 1] are this process' share, `targets` (n,) those of the whole batch: see
        `embed`.
        """

    def embed(self, images: Tensor, n: int, embedder: Embedder | None = None) -> Tensor:
        """Describe a share (m, V, 3, S, S) and gather those of all processes: (n, V, D), L2-normalised."""
        rows = (embedder or self.embedder)(images.flatten(0, 1))
        return gather(rows.unflatten(0, images.shape[:2]), n)

    def start(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Set up, once before the first epoch, what depends on the database's descriptors."""

    def after_step(self) -> None:
        """Do what follows a step of the optimiser."""

    def score(self, museum: Museum, database: NDArray[np.float32], val: NDArray[np.float32]) -> dict[str, Any]:
        """Score an epoch from the descriptors of database (N, D) and val (Q, D): columns of the history."""
        return validate(museum, database, val)

    def keep(self, checkpoint: Path) -> None:
        """Write what belongs beside the checkpoint of the best epoch."""


def validate(museum: Museum, database: NDArray[np.float32], val: NDArray[np.float32]) -> dict[str, Any]:
    """Score val by the study's protocol, tuned on val itself: good for comparing epochs, optimistic as a number.

    `database` (N, D) and `val` (Q, D) are the museum's descriptors; gives `gap`, `gap_minus`, `acc` as fractions
    and what was chosen on val, `dim`, `k`, `tau`.
    """
    described = Described(replace(museum, test=museum.val), database, val, val)  # training does not see test
    choice = evaluate.choose(described)
    scores = evaluate.score(choice, described, "val").scores
    return asdict(scores) | {"dim": choice.dim, "k": choice.tuning.k, "tau": choice.tuning.tau}


def plan_two_views(n: int) -> Plan:
    """Plan two views of each of `n` images, without labels."""
    rows = np.arange(n)
    return Plan(np.stack([rows, rows], axis=1), np.zeros_like(rows))


def spread_of(rows: Tensor) -> Tensor:
    """Measure the spread of features (B, d), 0 after a collapse: L2-normalise, then average std over channels."""
    return F.normalize(rows.detach().float(), dim=1).std(dim=0).mean()


def check_batches(settings: Settings) -> None:
    """Raise ValueError if a part of a batch could have fewer than four items, the least for a head's batch norm."""
    if settings.batch < 8 * settings.accumulate:
        raise ValueError(f"batch norm needs a batch of {8 * settings.accumulate} or more, got {settings.batch}")
