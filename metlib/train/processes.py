"""The processes that torchrun started: each takes a share of every batch. Without torchrun there is one.

Descriptors are gathered before the loss, which therefore sees the whole batch: several processes give the loss of one.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from metlib.common.device import check_device
from metlib.train.settings import Settings


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
    """Put the rows (m, ...) of all processes in order and give the first n, the batch without repeated items.

    Gradients flow to this process' own rows.
    """
    if not dist.is_initialized():
        return rows
    world = dist.get_world_size()
    parts = [torch.empty_like(rows) for _ in range(world)]
    dist.all_gather(parts, rows.detach().contiguous())
    if rows.requires_grad:  # DistributedDataParallel takes the mean over processes, where this needs the sum
        rows.register_hook(lambda gradient: gradient * world)
    parts[dist.get_rank()] = rows
    return torch.cat(parts)[:n]
