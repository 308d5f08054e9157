"""The loop that every method shares: epochs, validation by the study's protocol, resuming, several devices.

An epoch shows the network the images of its `Plan`, then describes the database and the val queries at a single scale,
and scores val (`Method.score`): whitened by PCA, or as they are where the network ends with a projector, which whitens.
The best epoch is kept; the untouched network counts as epoch 0. Every draw comes from seed and epoch, and each epoch
writes the whole state: a killed and resumed run ends as one that was never killed.
"""

import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from metlib import backbone, extract
from metlib.backbone import Embedder
from metlib.common.files import lock_beside, replacing, short_hash
from metlib.common.progress import track
from metlib.dataset import Museum, Split
from metlib.train.method import Method, Plan, Process, join
from metlib.train.projector import with_whitening
from metlib.train.settings import PRESETS as PRESETS
from metlib.train.settings import Settings
from metlib.train.views import Views
from metlib.whiten import PCAWhitening


def fit(
    museum: Museum,
    embedder: Embedder,
    out: str | Path,
    settings: Settings,
    make: Callable[[Embedder], Method],
    about: Mapping[str, Any],
    reader: extract.Reader | None = None,
) -> Path:
    """Train a copy of `embedder` by a method, or go on where `out` stopped; give the path of the best checkpoint.

    `make` puts the method around the embedder, `about` names it ("method") with all that decides its result; "title"
    goes into the checkpoint's name. `reader` gives pixels that are not to be decoded from the images' files. `out` then
    holds the checkpoint, `history.csv`, `run.json` (what decides the result) and `state.pt`. Raises ValueError if `out`
    holds another run or the database is smaller than the batch, and RuntimeError for a loss that is NaN or infinite.
    """
    if len(museum.database) < settings.batch:
        found = f"the database of {museum.name} has {len(museum.database)} images"
        raise ValueError(f"{found}, fewer than a batch of {settings.batch}: ask for a smaller batch")
    path = Path(out) / f"{embedder.name}-{about.get('title', about['method'])}.safetensors".replace("/", "-")
    decides = {name: value for name, value in about.items() if name != "title"}
    decides |= {"pixels": reader.name} if reader else {}
    # The caller's generators stay as they are.
    with join(settings) as process, torch.random.fork_rng([process.device] if process.device.type == "cuda" else []):
        training = _Training(museum, embedder, Path(out), path, settings, decides, process, reader)
        with lock_beside(out) if process.world == 1 else nullcontext():  # the same run elsewhere goes first
            return training.run(make)


@dataclass(eq=False)
class _Training:
    """One run of training in its folder `out`: its checkpoint is `path`, `rows` are the history so far."""

    museum: Museum
    untouched: Embedder
    out: Path
    path: Path
    settings: Settings
    about: Mapping[str, Any]
    process: Process
    reader: extract.Reader | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    criterion: str = Method.criterion

    def run(self, make: Callable[[Embedder], Method]) -> Path:
        """Train what is missing and give the path of the best checkpoint."""
        settings, device = self.settings, self.process.device
        self.process.from_first(self._claim)
        state = self._read_state()
        embedder = copy.deepcopy(self.untouched).to(device)
        embedder.pool.p.requires_grad_(embedder.recipe.pooling == "gem")
        if settings.projector is not None:
            embedder = self._with_projector(embedder, settings.projector, fresh=state is None)
        if settings.last is not None:
            _freeze(embedder.trunk, settings.last)
        if settings.checkpointing:
            try:
                embedder.trunk.set_grad_checkpointing(True)
            except (AttributeError, AssertionError) as error:  # some of timm's networks assert that they can't
                raise ValueError(f"{embedder.name} has no activation checkpointing: accumulate instead") from error
        torch.manual_seed(settings.seed)  # of what a method draws to put on top
        method = make(embedder).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.criterion = method.criterion
        heads = [p for name, p in method.named_parameters() if not name.startswith("embedder.") and p.requires_grad]
        learned = [p for p in embedder.parameters() if p.requires_grad]  # none of a frozen network
        starts = ((learned, settings.lr), (heads, settings.head_lr))
        groups = [{"params": parameters, "start": start} for parameters, start in starts if parameters]
        optimizer = torch.optim.Adam(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        if state:
            method.load_state_dict(state["method"])
            optimizer.load_state_dict(state["optimizer"])
            plan = Plan(*(state[name].numpy() for name in ("images", "targets", "visits") if name in state))
            self.rows = state["rows"]
            self.process.from_first(self._write_history)  # the run may have been killed just before
        else:
            plan = self._finish_epoch(method, optimizer, {"epoch": 0})
        model = DistributedDataParallel(method, broadcast_buffers=False) if self.process.world > 1 else method
        patience = settings.patience or settings.epochs  # None: never
        while len(self.rows) <= min(settings.epochs, _best(self.rows, self.criterion) + patience):
            epoch = len(self.rows)
            factor = settings.gamma ** ((epoch - 1) // settings.step)
            for group in optimizer.param_groups:
                group["lr"] = group["start"] * factor
            begun = time.perf_counter()
            row = {"epoch": epoch, "lr": settings.lr * factor}
            row |= self._train_epoch(epoch, model, method, optimizer, plan)
            seconds = time.perf_counter() - begun
            row |= {"seconds": seconds, "images_per_second": plan.images.size / seconds}
            plan = self._finish_epoch(method, optimizer, row)
        if self.process.rank == 0 and settings.verbose:
            best = self.rows[_best(self.rows, self.criterion)]
            score = f"{_TITLES[self.criterion]}: epoch {best['epoch']} of {settings.epochs}"
            print(f"best by {score}, {100 * best[self.criterion]:.1f}", flush=True)
        return self.path

    def _train_epoch(
        self, epoch: int, model: nn.Module, method: Method, optimizer: torch.optim.Optimizer, plan: Plan
    ) -> dict[str, float]:
        """Go through a plan once; give the means over its items of what the method reports."""
        settings, n = self.settings, len(plan.targets)
        order = np.random.default_rng([settings.seed, epoch, 1]).permutation(n)
        # Batches of nearly one size, at most that asked for: a rest of one item would have no statistics.
        batches = [np.array_split(b, settings.accumulate) for b in np.array_split(order, -(-n // settings.batch))]
        look = ("size", "crop", "seed", "colour", "flip")
        options: dict[str, Any] = {name: getattr(settings, name) for name in look}
        options |= {"reader": self.reader, "visited": plan.visits}
        views = Views(self.museum.database, plan.images, epoch=epoch, **options)
        shares = [self.process.share(part).tolist() for batch in batches for part in batch]
        pixels: Iterator[Tensor] = iter(DataLoader(views, batch_sampler=shares, num_workers=settings.workers))
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0]))  # of dropout
        method.train()
        if settings.frozen_norm:
            networks = (module for module in method.modules() if isinstance(module, Embedder))
            for norm in (layer for network in networks for layer in network.modules() if isinstance(layer, _BatchNorm)):
                norm.eval()
        means: dict[str, float] = {}
        with track(total=plan.images.size, label=f"epoch {epoch}/{settings.epochs}") as bar:
            for number, batch in enumerate(batches, 1):
                optimizer.zero_grad()
                for part in batch:
                    images = next(pixels).to(self.process.device, non_blocking=True).float().div(255)
                    targets = torch.from_numpy(plan.targets[part]).to(self.process.device)
                    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                        values = model(images, targets)
                    loss = values["loss"].item()
                    if not math.isfinite(loss):
                        paths = ", ".join(self.museum.database.paths[np.unique(plan.images[part])])
                        found = f"epoch {epoch}, batch {number}: the loss is {loss} with the images {paths}"
                        raise RuntimeError(f"{found}. Look at them; or lower lr, or compute in float32")
                    (values["loss"] * (len(part) / sum(map(len, batch)))).backward()
                    for name, value in values.items():
                        means[name] = means.get(name, 0.0) + value.item() * len(part) / n
                    bar.update(len(part) * plan.images.shape[1])
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                optimizer.step()
                method.after_step()
        return means

    def _finish_epoch(self, method: Method, optimizer: torch.optim.Optimizer, row: dict[str, Any]) -> Plan:
        """Validate, keep the best, plan the next epoch and write all that resuming needs."""
        museum, embedder, epoch = self.museum, method.embedder, row["epoch"]
        database = np.empty((0, embedder.dim), np.float32)
        if method.needs_database:
            database = self._extract(embedder, museum.database, "database")
        val = self._extract(embedder, museum.val, "val")

        def finish() -> tuple[list[dict[str, Any]], Plan]:
            if epoch == 0:
                method.start(database, museum.database.labels)
            rows = [*self.rows, row | method.score(museum, database, val) | {"p": embedder.pool.p.item()}]
            plan = Plan(np.empty((0, 1), np.int64), np.empty(0, np.int64))
            if epoch < self.settings.epochs:
                rng = np.random.default_rng([self.settings.seed, epoch + 1, 0])
                plan = method.plan(database, museum.database.labels, rng)
            if _best(rows, method.criterion) == epoch:
                self._save_best(embedder, epoch)
                method.keep(self.path)
            state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows}
            state |= {name: torch.from_numpy(rows) for name, rows in vars(plan).items() if rows is not None}
            with replacing(self.out / "state.pt") as file:
                torch.save(state, file)
            return rows, plan

        self.rows, plan = self.process.from_first(finish)
        if self.process.rank == 0:
            self._write_history()
            if self.settings.verbose:
                print(_format_epoch(self.rows[-1], self.settings.epochs), flush=True)
        return plan

    def _extract(self, embedder: Embedder, split: Split, name: str) -> NDArray[np.float32]:
        """Describe a split at validation's scale, each process a share: (N, D) in the first, no rows in the others."""
        folder, process = self.out / "descriptors", self.process
        shares = [rows for rows in np.array_split(np.arange(len(split)), process.world) if len(rows)]
        parts = [folder / f"{name}-{rank}" for rank in range(len(shares))]
        if process.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        process.wait()
        if process.rank < len(parts):
            options: dict[str, Any] = {"device": str(process.device), "label": name, "reader": self.reader}
            extract.extract(
                split.take(shares[process.rank]),
                embedder,
                parts[process.rank],
                scales=(self.settings.scale,),
                **options,
            )
        process.wait()
        if process.rank:
            return np.empty((0, embedder.dim), np.float32)
        rows = np.concatenate([extract.load_descriptors(part) for part in parts])
        shutil.rmtree(folder)
        return rows

    def _with_projector(self, embedder: Embedder, dim: int, *, fresh: bool) -> Embedder:
        """Put a linear layer on top; in a fresh run it starts as PCA whitening of the database's descriptors."""
        if embedder.projector is not None:
            raise ValueError(f"{embedder.name} has a projector of {embedder.dim} dimensions: leave projector out")
        if fresh:
            database = self._extract(embedder, self.museum.database, "database")
            return with_whitening(embedder, self.process.from_first(lambda: PCAWhitening(dim).fit(database)))
        recipe = replace(embedder.recipe, projector=dim, gem_p=embedder.pool.p.item())
        return Embedder(embedder.trunk, recipe, embedder.name).to(self.process.device)

    def _claim(self) -> None:
        """Write what decides the result to run.json; raise ValueError if the folder holds anything else."""
        if self.settings.log:
            _tensorboard()
        mine = _identity(self.museum, self.untouched, self.settings, self.about)
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
        for key in mine | theirs:
            if mine.get(key) != theirs.get(key):
                found = f"{self.out} is another run: its {key} is {theirs.get(key)!r}, yours {mine.get(key)!r}"
                raise ValueError(f"{found}. Name another folder, or delete this one to train again")

    def _read_state(self) -> dict[str, Any] | None:
        file = self.out / "state.pt"
        try:
            return torch.load(file, map_location="cpu", weights_only=True) if file.exists() else None
        except Exception as error:  # torch, pickle and zipfile raise their own kinds
            raise ValueError(f"{file} is damaged ({error}): delete {self.out} to train again") from error

    def _save_best(self, embedder: Embedder, epoch: int) -> None:
        """Write the checkpoint with how it was trained; at epoch 0 an untrained network stays marked as untrained."""
        before = self.untouched
        training = {**self.about, **self.settings.lasting, "epoch": epoch, "museum": self.museum.name}
        training |= {"database": self.museum.kind, "start": before.name, "start_weights": before.weights_sha256()}
        training |= {"before": dict(before.recipe.training)} if before.recipe.training else {}
        saved = copy.copy(embedder)  # the same weights under another recipe
        saved.recipe = replace(embedder.recipe, training=training)
        if epoch:
            source = "scratch" if saved.recipe.untrained else saved.recipe.origin or before.name
            saved.recipe = replace(saved.recipe, seed=None, origin=f"trained by metlib from {source}")
        backbone.save(saved, self.path)

    def _write_history(self) -> None:
        last, best = self.rows[-1], _best(self.rows, self.criterion)
        table = pd.DataFrame([row | {"best": row["epoch"] == best} for row in self.rows], columns=[*last, "best"])
        with replacing(self.out / "history.csv", "w") as file:
            table.to_csv(file, index=False)
        if self.settings.log:
            with _tensorboard()(str(self.out / "tensorboard")) as writer:
                for name in [name for name in last if name != "epoch"]:
                    writer.add_scalar(name, last[name], last["epoch"])


def history(out: str | Path) -> pd.DataFrame:
    """Read the history of a run, one row an epoch from 0, the untouched network.

    Columns: `epoch`, `lr`, `loss` (mean over items) and what else the method reports, val's `gap`, `gap_minus`, `acc`
    as fractions with the `dim`, `k`, `tau` chosen on val (or what else the method scores), GeM's `p`,
    `images_per_second`, `seconds`, `best`. Raises FileNotFoundError if no epoch was finished in the folder `out`.
    """
    path = Path(out) / "history.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: expected the folder of a training run that has finished an epoch")
    return pd.read_csv(path)


def name_run(museum: Museum, embedder: Embedder, settings: Settings, **choices: Any) -> str:
    """Name a folder for a run after museum, network, settings and its method's `choices`: the same run, the same name.

    Runs that differ in anything else share a name, and `fit` refuses the second.
    """
    identity = _identity(museum, embedder, settings, choices)
    return "-".join([museum.name, embedder.name, *map(str, choices.values()), short_hash(identity)]).replace("/", "-")


def _identity(museum: Museum, embedder: Embedder, settings: Settings, about: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the result of a run, as it is read back from JSON: a tuple becomes a list."""
    images = {name: split.sha256 for split, name in museum.splits() if name != "test"}
    network = {"weights": embedder.weights_sha256(), "recipe": embedder.identity}
    identity = {**about, **settings.lasting, **network, "museum": museum.name, "images": images}
    return json.loads(json.dumps(identity))  # type: ignore[no-any-return]


def _freeze(trunk: Any, last: int) -> None:
    """Freeze all but the last stages of a trunk, as timm groups its weights."""
    stages = group_parameters(trunk, trunk.group_matcher(coarse=True))
    for stage in sorted(stages)[:-last]:
        for name in stages[stage]:
            trunk.get_parameter(name).requires_grad_(False)


def _best(rows: Sequence[Mapping[str, Any]], criterion: str) -> int:
    """The epoch of the largest value of `criterion`; of equals the first."""
    return int(np.argmax([row[criterion] for row in rows]))


_TITLES = dict(
    gap="val GAP", acc="ACC", classifier_gap="the classifier's val GAP", classifier_acc="ACC", accuracy="val accuracy"
)
"""How the line of an epoch calls the scores that it shows."""


def _format_epoch(row: Mapping[str, Any], epochs: int) -> str:
    """Format one line of an epoch, scores in percent."""
    words = [f"{key} {row[key]:.4g}" for key in ("loss", "std", "p") if key in row]
    words += [f"{title} {100 * row[key]:.1f}" for key, title in _TITLES.items() if key in row]
    words.append(f"{row['images_per_second']:.0f} images/s" if row["epoch"] else "untouched")
    return f"epoch {row['epoch']}/{epochs}: {', '.join(words)}"


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("log=True needs TensorBoard: install tensorboard, or leave log out") from error
    return SummaryWriter
