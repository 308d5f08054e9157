"""The loop that every method shares: epochs, validation by the study's protocol, resuming, several devices.

An epoch shows the network what its `Plan` says (pairs mined with the network as it is), then describes the database
and the val queries at a single scale, and scores val: whitening from the database, its dimension, k and tau from val.
The best epoch by val GAP is kept, the untouched network (epoch 0) counted too. A method that learns something else
than exhibits scores val its own way (`Method.score`). Every draw is made from the seed and the epoch, and the state is
written whole after each epoch: a run that was killed ends as if it hadn't been.

Under torchrun every process takes a share of each batch. Descriptors are gathered before the loss, which therefore
sees the whole batch: several processes give the loss of one.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from metlib import backbone, evaluate, extract
from metlib.backbone import Embedder
from metlib.common.device import check_device
from metlib.common.files import replacing, short_hash
from metlib.common.progress import track
from metlib.dataset import Museum, Split
from metlib.descriptors import Described
from metlib.extract import Reader
from metlib.train.views import Views
from metlib.whiten import PCAWhitening

FREE = ("workers", "device", "log", "verbose")
"""The settings that may change when a run is resumed: they change no result."""

_LATER = ("colour", "flip", "patience")  # settings that runs from before don't have


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the published ones (Ypsilantis et al., 2021, section 5 and supplement).

    `lr` is Adam's rate for the network, `head_lr` for what a method puts on top of it, which starts from nothing;
    both are multiplied by `gamma` after every `step` epochs. `batch` items make one step of the optimiser, computed
    in `accumulate` parts where memory is short; `checkpointing` saves memory too, and computes activations twice.
    Views are square, `size` pixels, crops of `crop` to all of the area, with other colours (`colour`), mirrored only
    where `flip` says so. `patience` ends training after so many epochs without a better one (None: never).
    `projector` is the dimension of a linear layer that starts as PCA whitening learned on the database (None: no such
    layer). `frozen_norm` keeps batch norm's statistics as they came; training from scratch needs them learned (False).
    `precision` is "float32" or "bf16", automatic mixed precision. `device` is found by itself; `log` writes
    TensorBoard's files, `verbose` prints a line an epoch.
    Raises ValueError for values that are none of these.
    """

    lr: float = 1e-7
    head_lr: float = 1e-3
    weight_decay: float = 1e-6
    epochs: int = 10
    step: int = 6
    gamma: float = 0.1
    batch: int = 64
    accumulate: int = 1
    size: int = 500
    crop: float = 0.7
    colour: bool = True
    flip: bool = False
    patience: int | None = None
    projector: int | None = None
    frozen_norm: bool = True
    precision: str = "float32"
    checkpointing: bool = False
    seed: int = 0
    workers: int = 4
    device: str | None = None
    log: bool = False
    verbose: bool = True

    def __post_init__(self) -> None:
        least = {"epochs": 1, "step": 1, "batch": 2, "accumulate": 1, "size": 32, "seed": 0, "workers": 0}
        least |= {name: 1 for name in ("projector", "patience") if getattr(self, name) is not None}
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
        ranges = {"lr": (0, 1e9), "head_lr": (0, 1e9), "weight_decay": (-1e-9, 1e9), "gamma": (0, 1), "crop": (0, 1)}
        for name, (above, most) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
                kind = "at least 0" if above < 0 else "positive" if most > 1 else "above 0 and at most 1"
                raise ValueError(f"{name} must be a number, {kind}, got {value!r}")
        for name in ("colour", "flip", "frozen_norm", "checkpointing", "log", "verbose"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"precision must be 'float32' or 'bf16', got {self.precision!r}")
        if self.accumulate > 1 and self.batch < 2 * self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} parts need a batch of {2 * self.accumulate} or more")

    @property
    def lasting(self) -> dict[str, Any]:
        """The settings that decide the result, without those that a resumed run may change.

        Those that came later are left out at their defaults: runs from before are the same runs.
        """
        values = {key: value for key, value in asdict(self).items() if key not in FREE}
        return {key: value for key, value in values.items() if key not in _LATER or value != getattr(Settings, key)}


PRESETS = {
    "paper": Settings(),
    "small": Settings(lr=1e-5, epochs=3, step=2, batch=32, size=128, workers=0),
}
"""The published settings, and some for a few minutes on two cores.

The small ones load images in the process itself: two cores gain little by more, and a notebook's kernel that has been
forked has been seen to hang.
"""


@dataclass(frozen=True, eq=False)
class Plan:
    """What an epoch shows: `images` (M, V) int64, rows of the database, V to an item; `targets` (M,) int64."""

    images: NDArray[np.int64]
    targets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 2 or self.targets.shape != self.images.shape[:1]:
            raise ValueError(f"images must be (M, V), targets (M,), got {self.images.shape} and {self.targets.shape}")


def plan_two_views(n: int) -> Plan:
    """Plan two views of each of `n` images, without labels."""
    rows = np.arange(n)
    return Plan(np.stack([rows, rows], axis=1), np.zeros_like(rows))


def spread_of(rows: Tensor) -> Tensor:
    """Measure what a collapse takes away: the mean over channels of the standard deviation of unit rows (B, d)."""
    return F.normalize(rows.detach().float(), dim=1).std(dim=0).mean()


def check_batches(settings: Settings) -> None:
    """Refuse batches whose parts could fall below the four items that the batch norm of a head on top needs."""
    if settings.batch < 8 * settings.accumulate:
        raise ValueError(f"batch norm needs a batch of {8 * settings.accumulate} or more, got {settings.batch}")


def name_run(museum: Museum, embedder: Embedder, settings: Settings, **choices: Any) -> str:
    """Name a folder for a run after museum, network, settings and the `choices` that its method is told.

    So the same run finds its folder again. Runs that differ in what isn't said here share one, and `fit` refuses it.
    """
    decides = _decides(museum, embedder, settings, choices)
    return "-".join([museum.name, embedder.name, *map(str, choices.values()), short_hash(decides)]).replace("/", "-")


def _decides(museum: Museum, embedder: Embedder, settings: Settings, about: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the result of a run, as JSON would give it back: a tuple is then a list."""
    images = {name: split.sha256 for split, name in museum.splits() if name != "test"}
    network = {"weights": embedder.weights_sha256(), "recipe": embedder.identity}
    decides = {**about, **settings.lasting, **network, "museum": museum.name, "images": images}
    return json.loads(json.dumps(decides))  # type: ignore[no-any-return]


_NOTHING = Plan(np.empty((0, 1), np.int64), np.empty(0, np.int64))


class Method(nn.Module, ABC):
    """A way to train: the embedder and what the loss needs beside it. A method says its plan and its loss.

    `criterion` is the column of the history whose largest value marks the best epoch. A method that never looks at
    the database's descriptors says so (`needs_database`): they are then not made, and it is given none.
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
        """Give the "loss", and what else is worth a column of the history, of a batch.

        `images` (m, V, 3, S, S) in [0, 1] are this process' share, `targets` (n,) those of the whole batch: see
        `describe`.
        """

    def describe(self, images: Tensor, n: int, embedder: Embedder | None = None) -> Tensor:
        """Describe a share (m, V, 3, S, S) and gather those of all processes: (n, V, D) unit rows."""
        rows = (embedder or self.embedder)(images.flatten(0, 1))
        return gather(rows.unflatten(0, images.shape[:2]), n)

    def start(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Set up, once before the first epoch, what depends on the database's descriptors."""

    def after_step(self) -> None:
        """Do what follows a step of the optimiser."""

    def score(self, museum: Museum, database: NDArray[np.float32], val: NDArray[np.float32]) -> dict[str, Any]:
        """Score an epoch from the descriptors of database (N, D) and val (Q, D): columns of the history."""
        return validate(museum, database, val) | self.judge(val, museum.val.labels)

    def judge(self, val: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float]:
        """Score what else the method can be scored by on val descriptors (Q, D): more columns of the history."""
        return {}

    def keep(self, checkpoint: Path) -> None:
        """Write what belongs beside the checkpoint of the best epoch."""


def gather(rows: Tensor, n: int) -> Tensor:
    """Put the rows (m, ...) of all processes in order: the first n, which are the batch; gradients flow to their own.

    Shares have the same length, so the last may repeat an item; it is cut off here.
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


def history(out: str | Path) -> pd.DataFrame:
    """Read the history of a run, one row an epoch from 0, the untouched network.

    Columns: `epoch`, `lr`, `loss` (mean over items) and what else the method reports, val's `gap`, `gap_minus`,
    `acc` as fractions with the `dim`, `k`, `tau` that val chose (or what else the method scores), GeM's `p`,
    `images_per_second`, `seconds`, `best`.
    Raises FileNotFoundError where no run has finished an epoch.
    """
    path = Path(out) / "history.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: expected the folder of a training run that has finished an epoch")
    return pd.read_csv(path)


def fit(
    museum: Museum,
    embedder: Embedder,
    out: str | Path,
    settings: Settings,
    make: Callable[[Embedder], Method],
    about: Mapping[str, Any],
    reader: Reader | None = None,
) -> Path:
    """Train a copy of `embedder` by a method, or go on where `out` stopped; give the path of the best checkpoint.

    `make` puts the method around the embedder, `about` names it ("method") with all that decides its result; "title"
    goes into the checkpoint's name. `reader` gives images' pixels where they aren't to be decoded from their files, in
    training and in validation. `out` then holds the checkpoint, `history.csv`, `run.json` (what was asked for)
    and `state.pt`. Raises ValueError where `out` holds another run, for a database smaller than the batch, and
    RuntimeError for a loss that is NaN or infinite, with the batch's images.
    """
    if len(museum.database) < settings.batch:
        raise ValueError(
            f"the database of {museum.name} has {len(museum.database)} images, fewer than a batch of {settings.batch}: "
            "ask for a smaller batch"
        )
    with _team(settings) as team, torch.random.fork_rng(team.gpus):
        return _Run(museum, embedder, Path(out), settings, about, team, reader).train(make)


@dataclass(frozen=True)
class _Team:
    """This process among those that train together, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def gpus(self) -> list[int]:
        return [self.device.index or 0] if self.device.type == "cuda" else []

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def share(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process' items of a batch: as many as all others have, the last repeated where it doesn't divide."""
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
def _team(settings: Settings) -> Iterator[_Team]:
    """Join the processes that torchrun started, if it did."""
    world, local = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("LOCAL_RANK", "0")
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(f"cuda:{local}" if name == "cuda" and world > 1 else name)
    check_device(str(device))
    if world == 1:
        yield _Team(0, 1, device)
        return
    if not settings.frozen_norm:
        raise ValueError("frozen_norm=False learns the statistics of whole batches: train in one process")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=12))  # the others wait while the first one mines
    try:
        yield _Team(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


class _Run:
    """One run of training in its folder."""

    def __init__(
        self,
        museum: Museum,
        embedder: Embedder,
        out: Path,
        settings: Settings,
        about: Mapping[str, Any],
        team: _Team,
        reader: Reader | None,
    ) -> None:
        self.museum, self.untouched, self.out, self.settings, self.team = museum, embedder, out, settings, team
        self.reader, self.criterion = reader, Method.criterion
        self.about = {key: value for key, value in about.items() if key != "title"}
        if reader:
            self.about["pixels"] = reader.name
        self.path = out / f"{embedder.name}-{about.get('title', about['method'])}.safetensors".replace("/", "-")
        self.rows: list[dict[str, Any]] = []

    def train(self, make: Callable[[Embedder], Method]) -> Path:
        settings, team = self.settings, self.team
        team.from_first(self._claim)
        state = self._read_state()
        if state:
            self.rows, self.criterion = state["rows"], state.get("criterion", Method.criterion)  # older runs have none
            team.from_first(self._write_history)  # the run may have been killed just before
        if not self._has_ended():
            self._train(make, state)
        if team.rank == 0 and settings.verbose:
            row, score = self.rows[_best(self.rows, self.criterion)], _SCORES[self.criterion]
            last = f"epoch {row['epoch']} of {settings.epochs}, {100 * row[self.criterion]:.1f}"
            print(f"best by {score}: {last}", flush=True)
        return self.path

    def _has_ended(self) -> bool:
        """Whether all epochs are done, or as many as patience allows came without a better one."""
        if not self.rows:
            return False
        done, patience = len(self.rows) - 1, self.settings.patience
        waited = done - _best(self.rows, self.criterion)
        return done >= self.settings.epochs or (patience is not None and waited >= patience)

    def _train(self, make: Callable[[Embedder], Method], state: dict[str, Any] | None) -> None:
        settings, team = self.settings, self.team
        embedder = copy.deepcopy(self.untouched).to(team.device)
        embedder.pool.p.requires_grad_(embedder.recipe.pooling == "gem")
        if settings.projector is not None:
            embedder = self._with_projector(embedder, settings.projector, fresh=state is None)
        if settings.checkpointing:
            try:
                embedder.trunk.set_grad_checkpointing(True)
            except (AttributeError, AssertionError) as error:  # some of timm's networks assert that they can't
                raise ValueError(f"{embedder.name} has no activation checkpointing: accumulate instead") from error
        torch.manual_seed(settings.seed)  # of what a method draws to put on top
        method = make(embedder)
        self.criterion = method.criterion
        method = method.to(team.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        heads = [p for name, p in method.named_parameters() if not name.startswith("embedder.") and p.requires_grad]
        learned = [p for p in embedder.parameters() if p.requires_grad]  # none of a frozen network
        starts = ((learned, settings.lr), (heads, settings.head_lr))
        groups = [{"params": parameters, "start": start} for parameters, start in starts if parameters]
        optimizer = torch.optim.Adam(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        if state:
            method.load_state_dict(state["method"])
            optimizer.load_state_dict(state["optimizer"])
            plan = Plan(state["images"].numpy(), state["targets"].numpy())
        else:
            plan = self._finish_epoch(method, optimizer, {"epoch": 0})
        model = DistributedDataParallel(method, broadcast_buffers=False) if team.world > 1 else method
        for epoch in range(len(self.rows), settings.epochs + 1):
            factor = settings.gamma ** ((epoch - 1) // settings.step)
            for group in optimizer.param_groups:
                group["lr"] = group["start"] * factor
            begun = time.perf_counter()
            means = self._train_epoch(epoch, model, method, optimizer, plan)
            seconds = time.perf_counter() - begun
            row = {"epoch": epoch, "lr": settings.lr * factor} | means
            row |= {"seconds": seconds, "images_per_second": plan.images.size / seconds}
            plan = self._finish_epoch(method, optimizer, row)
            if self._has_ended():
                break

    def _train_epoch(
        self, epoch: int, model: nn.Module, method: Method, optimizer: torch.optim.Optimizer, plan: Plan
    ) -> dict[str, float]:
        """Go through a plan once; give the means over its items of what the method reports."""
        settings, device = self.settings, self.team.device
        n = len(plan.targets)
        order = np.random.default_rng([settings.seed, epoch, 1]).permutation(n)
        # Batches of nearly one size, at most that asked for: a rest of one item would have no statistics.
        batches = [np.array_split(b, settings.accumulate) for b in np.array_split(order, -(-n // settings.batch))]
        options = {name: getattr(settings, name) for name in ("size", "crop", "seed", "colour", "flip")}
        views = Views(self.museum.database, plan.images, epoch=epoch, reader=self.reader, **options)
        shares = [self.team.share(part).tolist() for batch in batches for part in batch]
        pixels: Iterator[Tensor] = iter(DataLoader(views, batch_sampler=shares, num_workers=settings.workers))
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0]))  # of dropout
        method.train()
        if settings.frozen_norm:
            for network in (module for module in method.modules() if isinstance(module, Embedder)):
                for layer in network.modules():
                    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                        layer.eval()
        means: dict[str, float] = {}
        with track(total=plan.images.size, label=f"epoch {epoch}/{settings.epochs}") as bar:
            for number, batch in enumerate(batches, 1):
                optimizer.zero_grad()
                for part in batch:
                    images = next(pixels).to(device, non_blocking=True).float().div(255)
                    targets = torch.from_numpy(plan.targets[part]).to(device)
                    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                        values = model(images, targets)
                    if not math.isfinite(values["loss"].item()):
                        self._check_loss(values["loss"].item(), plan.images[part], f"epoch {epoch}, batch {number}")
                    (values["loss"] * (len(part) / sum(map(len, batch)))).backward()
                    for name, value in values.items():
                        means[name] = means.get(name, 0.0) + value.item() * len(part) / n
                    bar.update(len(part) * plan.images.shape[1])
                bar.set_postfix(loss=f"{values['loss'].item():.4f}", refresh=False)
                optimizer.step()
                method.after_step()
        return means

    def _check_loss(self, loss: float, images: NDArray[np.int64], where: str) -> None:
        paths = [str(self.museum.database.paths[i]) for i in np.unique(images)]
        raise RuntimeError(
            f"{where}: the loss is {loss} with the images {', '.join(paths)}. Look at them; or lower lr, "
            "or compute in float32"
        )

    def _finish_epoch(self, method: Method, optimizer: torch.optim.Optimizer, row: dict[str, Any]) -> Plan:
        """Validate, keep the best, plan the next epoch and write all that resuming needs."""
        museum, embedder = self.museum, method.embedder
        database = np.empty((0, embedder.dim), np.float32)
        if method.needs_database:
            database = self._describe(embedder, museum.database, "database")
        val = self._describe(embedder, museum.val, "val")

        def finish() -> tuple[dict[str, Any], Plan]:
            if row["epoch"] == 0:
                method.start(database, museum.database.labels)
            done = row | method.score(museum, database, val) | {"p": embedder.pool.p.item()}
            rng = np.random.default_rng([self.settings.seed, row["epoch"] + 1, 0])
            last = row["epoch"] == self.settings.epochs
            plan = _NOTHING if last else method.plan(database, museum.database.labels, rng)
            rows = [*self.rows, done]
            if _best(rows, method.criterion) == len(rows) - 1:
                self._save_best(embedder, row["epoch"])
                method.keep(self.path)
            state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows}
            state |= {"criterion": method.criterion}
            state |= {"images": torch.from_numpy(plan.images), "targets": torch.from_numpy(plan.targets)}
            with replacing(self.out / "state.pt") as file:
                torch.save(state, file)
            return done, plan

        done, plan = self.team.from_first(finish)
        self.rows.append(done)
        if self.team.rank == 0:
            self._write_history()
            if self.settings.verbose:
                print(_say(done, self.settings.epochs), flush=True)
        return plan

    def _describe(self, embedder: Embedder, split: Split, name: str) -> NDArray[np.float32]:
        """Describe a split at a single scale, each process a share: (N, D) in the first, no rows in the others."""
        folder, team = self.out / "descriptors", self.team
        shares = np.array_split(np.arange(len(split)), team.world)
        parts = {rank: folder / f"{name}-{rank}" for rank in range(team.world) if len(shares[rank])}
        if team.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        team.wait()
        if team.rank in parts:
            share = split.take(shares[team.rank])
            options: dict[str, Any] = {"scales": (1,), "device": str(team.device), "label": name, "reader": self.reader}
            extract.extract(share, embedder, parts[team.rank], **options)
        team.wait()
        if team.rank:
            return np.empty((0, embedder.dim), np.float32)
        rows = np.concatenate([extract.load_descriptors(part) for part in parts.values()])
        shutil.rmtree(folder)
        return rows

    def _with_projector(self, embedder: Embedder, dim: int, *, fresh: bool) -> Embedder:
        """Put a linear layer on top: PCA whitening of the database's descriptors, where the run is fresh."""
        if embedder.projector is not None:
            raise ValueError(f"{embedder.name} has a projector of {embedder.dim} dimensions: leave projector out")
        recipe = replace(embedder.recipe, projector=dim, gem_p=embedder.pool.p.item())
        projected = Embedder(embedder.trunk, recipe, embedder.name).to(self.team.device)
        if fresh and projected.projector is not None:
            database = self._describe(embedder, self.museum.database, "database")
            weight, bias = self.team.from_first(lambda: PCAWhitening(dim).fit(database).as_linear())
            projected.projector.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        return projected

    def _claim(self) -> None:
        """Say in run.json what this folder is for, or refuse the folder of another run."""
        if self.settings.log:
            _tensorboard()
        mine = _decides(self.museum, self.untouched, self.settings, self.about)
        file = self.out / "run.json"
        if not file.exists():
            if self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir())):
                raise ValueError(f"{self.out} holds something, but no run.json: name a new or empty folder")
            with replacing(file, "w") as text:
                json.dump(mine, text, indent=1)
            return
        try:
            theirs = json.loads(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error}): delete {self.out} to train again") from None
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            if mine.get(key) != theirs.get(key):
                raise ValueError(
                    f"{self.out} is another run: its {key} is {theirs.get(key)!r}, yours {mine.get(key)!r}. "
                    "Name another folder, or delete this one to train again"
                )

    def _read_state(self) -> dict[str, Any] | None:
        file = self.out / "state.pt"
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch, pickle and zipfile raise their own kinds
            raise ValueError(f"{file} is damaged ({error}): delete {self.out} to train again") from error
        return state

    def _save_best(self, embedder: Embedder, epoch: int) -> None:
        """Write the checkpoint with how it was trained; the untouched network stays untrained where it was."""
        before = self.untouched
        training = {**self.about, **self.settings.lasting, "epoch": epoch, "museum": self.museum.name}
        training |= {"database": self.museum.kind, "start": before.name, "start_weights": before.weights_sha256()}
        if before.recipe.training:
            training["before"] = dict(before.recipe.training)
        recipe = replace(embedder.recipe, training=training)
        if epoch:
            source = "scratch" if recipe.untrained else recipe.origin or before.name
            recipe = replace(recipe, seed=None, origin=f"trained by metlib from {source}")
        copied = copy.copy(embedder)  # the same weights under another recipe
        copied.recipe = recipe
        backbone.save(copied, self.path)

    def _write_history(self) -> None:
        best = _best(self.rows, self.criterion)
        columns = [*self.rows[-1], "best"]
        table = pd.DataFrame([row | {"best": row["epoch"] == best} for row in self.rows], columns=columns)
        with replacing(self.out / "history.csv", "w") as file:
            table.to_csv(file, index=False)
        if self.settings.log:
            with _tensorboard()(str(self.out / "tensorboard")) as writer:
                for name in [name for name in self.rows[-1] if name != "epoch"]:
                    writer.add_scalar(name, self.rows[-1][name], self.rows[-1]["epoch"])


def validate(museum: Museum, database: NDArray[np.float32], val: NDArray[np.float32]) -> dict[str, Any]:
    """Score val by the study's protocol, tuned on val itself: good for comparing epochs, optimistic as a number.

    `database` (N, D) and `val` (Q, D) are descriptors of the museum's; gives `gap`, `gap_minus`, `acc` as fractions
    and what val chose, `dim`, `k`, `tau`.
    """
    described = Described(replace(museum, test=museum.val), database, val, val)  # test isn't looked at in training
    choice = evaluate.choose(described)
    scores = evaluate.score(choice, described, "val").scores
    return asdict(scores) | {"dim": choice.dim, "k": choice.tuning.k, "tau": choice.tuning.tau}


def _best(rows: Sequence[Mapping[str, Any]], criterion: str) -> int:
    """The epoch of the largest value of `criterion`; of equals the first."""
    return int(np.argmax([row[criterion] for row in rows]))


_SCORES = {
    "gap": "val GAP",
    "acc": "ACC",
    "classifier_gap": "the classifier's val GAP",
    "classifier_acc": "ACC",
    "accuracy": "val accuracy",
}
"""What a score of the history is called, where it is worth a place in the line of an epoch."""


def _say(row: Mapping[str, Any], epochs: int) -> str:
    """One line of an epoch, scores in percent."""
    words = [f"{key} {row[key]:.4g}" for key in ("loss", "std", "p") if key in row]
    words += [f"{text} {100 * row[key]:.1f}" for key, text in _SCORES.items() if key in row]
    words.append(f"{row['images_per_second']:.0f} images/s" if row["epoch"] else "untouched")
    return f"epoch {row['epoch']}/{epochs}: {', '.join(words)}"


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("log=True needs TensorBoard: install tensorboard, or leave log out") from error
    return SummaryWriter
