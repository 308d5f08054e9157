"""What a way to train must provide, the parts that several share, and the processes that train together.

Under torchrun, each takes a share of every batch; descriptors are gathered before the loss, which sees the whole batch.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from metlib import evaluate
from metlib.backbone import Embedder
from metlib.common.device import check_device
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.train.settings import Settings


@dataclass(frozen=True, eq=False)
class Plan:
    """What an epoch shows: `images` (M, V) int64, rows of the database, V to an item; `targets` (M,) int64.

    `visits` (M, V) bool marks images that are shown as a simulated visit (None: none is). ValueError for other shapes.
    """

    images: NDArray[np.int64]
    targets: NDArray[np.int64]
    visits: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 2 or self.targets.shape != self.images.shape[:1]:
            raise ValueError(f"images must be (M, V), targets (M,), got {self.images.shape} and {self.targets.shape}")
        if self.visits is not None and self.visits.shape != self.images.shape:
            raise ValueError(f"visits {self.visits.shape} must mark each of the images {self.images.shape}")


class Method(nn.Module, ABC):
    """A way to train: the embedder and what its loss needs beside it. A method gives `plan` and `forward`, the loss."""

    criterion: ClassVar[str] = "gap"  # the column of the history whose largest value marks the best epoch
    needs_database: ClassVar[bool] = True  # False: the database's descriptors are not computed, and it gets none

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    @abstractmethod
    def plan(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator) -> Plan:
        """Plan an epoch from the database's descriptors (N, D) by the network as it is."""

    @abstractmethod
    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Give the "loss" of a batch, and more values for columns of the history.

        `images` (m, V, 3, S, S) in [0, 1] are this process' share (see `embed`), `targets` (n,) the whole batch's.
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
        return validate(museum, database, val, "pca" if self.embedder.projector is None else "none")

    def keep(self, checkpoint: Path) -> None:
        """Write what belongs beside the checkpoint of the best epoch."""


class TwoViews(Method):
    """A method that learns from two views of every image, without labels."""

    def plan(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator) -> Plan:
        rows = np.arange(len(labels))
        return Plan(np.stack([rows, rows], axis=1), np.zeros_like(rows))


def validate(
    museum: Museum, database: NDArray[np.float32], val: NDArray[np.float32], whitening: str = "pca"
) -> dict[str, Any]:
    """Score val by the study's protocol, tuned on val itself: good for comparing epochs, optimistic as a number.

    `database` (N, D), `val` (Q, D), `whitening` as for `evaluate.choose`; gives `gap`, `gap_minus`, `acc` as fractions
    and the chosen `dim`, `k`, `tau`.
    """
    described = Described(replace(museum, test=museum.val), database, val, val)  # training does not see test
    choice = evaluate.choose(described, whitening=whitening)
    scores = evaluate.score(choice, described, "val").scores
    return asdict(scores) | {"dim": choice.dim, "k": choice.tuning.k, "tau": choice.tuning.tau}


def spread_of(rows: Tensor) -> Tensor:
    """Measure the spread of features (B, d), 0 after a collapse: L2-normalise, then average std over channels."""
    return F.normalize(rows.detach().float(), dim=1).std(dim=0).mean()


def check_batches(settings: Settings) -> None:
    """Raise ValueError if a part of a batch could have fewer than four items, the least for a head's batch norm."""
    if settings.batch < 8 * settings.accumulate:
        raise ValueError(f"batch norm needs a batch of {8 * settings.accumulate} or more, got {settings.batch}")


@dataclass(frozen=True)
class Process:
    """This process among the `world` that train together, and its device."""

    rank: int
    world: int
    device: torch.device

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def share(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take this process' items of a batch. All shares have one length; the last item repeats where needed."""
        each = -(-len(items) // self.world)
        return np.pad(items, (0, each * self.world - len(items)), "edge")[self.rank * each :][:each]

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Compute a value in the first process alone, and give it to all; its error ends all of them."""
        if self.world == 1:
            return make()
        box: list[Any] = [None]
        if self.rank == 0:
            try:
                box = [make()]
            except (ValueError, OSError, RuntimeError) as error:
                box = [error]
        dist.broadcast_object_list(box, device=self.device if self.device.type == "cuda" else None)
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]


@contextmanager
def join(settings: Settings) -> Iterator[Process]:
    """Join the other processes if torchrun started several, and leave them at the end."""
    world, local = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("LOCAL_RANK", "0")
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(f"cuda:{local}" if name == "cuda" and world > 1 else name)
    check_device(str(device))
    if world == 1:
        yield Process(0, 1, device)
        return
    if not settings.frozen_norm:
        raise ValueError("frozen_norm=False learns the statistics of whole batches: train in one process")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=12))  # the others wait while the first one mines
    try:
        yield Process(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


def gather(rows: Tensor, n: int) -> Tensor:
    """Give the first n of all processes' rows (m, ...), in order; gradients flow to this process' own rows."""
    if not dist.is_initialized():
        return rows
    world = dist.get_world_size()
    parts = [torch.empty_like(rows) for _ in range(world)]
    dist.all_gather(parts, rows.detach().contiguous())
    if rows.requires_grad:  # DistributedDataParallel takes the mean over processes, where this needs the sum
        rows.register_hook(lambda gradient: gradient * world)
    parts[dist.get_rank()] = rows
    return torch.cat(parts)[:n]
