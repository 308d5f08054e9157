"""Which stage, pooling exponent and whitening a network should be read with: all of them measured in one pass."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metlib import evaluate, extract
from metlib.backbone import Embedder, gem
from metlib.common.vectors import unit
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.whiten import PCAWhitening, decompose


class Panel(Embedder):
    """An embedder that reads several stages with several values of GeM's p, in one pass over the images.

    `stages` are indices into timm's `feature_info`. Its descriptors (B, sum of C) are the L2-normalised descriptors of
    every (stage, p) side by side, L2-normalised as a whole; `part` returns those of one, as that network alone would
    compute them. Raises ValueError for stages that the network hasn't got, a p that isn't positive or comes twice.
    """

    def __init__(self, embedder: Embedder, stages: Sequence[int], ps: Sequence[float]) -> None:
        info, last = embedder.trunk.feature_info, _last_stage(embedder)
        if not stages or sorted(set(stages)) != list(stages) or not 0 <= stages[0] <= stages[-1] <= last:
            raise ValueError(f"stages must ascend from 0 to at most {last} for {embedder.name}, got {stages}")
        if not ps or len(set(ps)) < len(ps) or not all(0 < p < math.inf for p in ps):
            raise ValueError(f"ps must be positive numbers, at least one and each once, got {ps}")
        if not hasattr(embedder.trunk, "forward_intermediates"):
            raise ValueError(f"timm gives no maps of {embedder.name} but the last: take another network")
        name = f"{embedder.name}-stages-{'-'.join(map(str, stages))}-p-{'-'.join(f'{p:g}' for p in ps)}"
        recipe = replace(embedder.recipe, pooling="gem", stage=stages[-1], projector=None)
        super().__init__(embedder.trunk, recipe, name)
        self.columns: dict[tuple[int, float], slice] = {}
        self.dim = 0
        for stage in stages:
            for p in ps:
                start, self.dim = self.dim, self.dim + int(info[stage]["num_chs"])
                self.columns[stage, float(p)] = slice(start, self.dim)
        self.train(embedder.training)

    @property
    def identity(self) -> dict[str, Any]:
        """What, beside the weights, decides a descriptor: stages and values of p too."""
        return super().identity | {"panel": [[stage, p] for stage, p in self.columns]}

    def part(self, descriptors: NDArray[np.float32], stage: int, p: float) -> NDArray[np.float32]:
        """Take the L2-normalised descriptors (N, C) of one stage and p out of those of the panel (N, D)."""
        return unit(descriptors[:, self.columns[stage, float(p)]])

    def forward(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Describe RGB images (B, 3, H, W) in [0, 1] for every stage and p: L2-normalised rows (B, D)."""
        stages = list(dict.fromkeys(stage for stage, _ in self.columns))
        of_stage = dict(zip(stages, self.maps(self.resize(images, scale), stages), strict=True))
        parts = [F.normalize(gem(of_stage[stage], p), dim=-1) for stage, p in self.columns]
        return F.normalize(torch.cat(parts, dim=1), dim=-1)


def _last_stage(embedder: Embedder) -> int:
    return len(embedder.trunk.feature_info) - 1 if embedder.recipe.stage is None else embedder.recipe.stage


def sweep(
    museum: Museum,
    embedder: Embedder,
    work_dir: str | Path,
    *,
    stages: Sequence[int] | None = None,
    ps: Sequence[float] = (1, 2, 3, 6),
    dims: Sequence[int] = (16, 32, 64, 128, 256, 512, 1024, 2048),
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Measure every way of reading one network: stage, GeM's p, raw or PCA or whitened, and dimensions kept.

    `stages` are indices into timm's `feature_info` (default: the last two that the network has). One pass over the
    images serves all of them; options as for `extract.extract`. Of `dims` those are tried that the database can carry:
    up to the rank where it has ten images a channel, else up to half of it, because the last eigenvalues are noise.
    Returns one row a way: `stage`, `p`, `way`, `dim`, `k`, `tau` (tuned on val), and GAP, GAP⁻ and ACC with intervals
    of val (`val_gap`, tuned on the same queries) and test (`gap`, `gap_low`, ...), as fractions.
    """
    last = _last_stage(embedder)
    panel = Panel(embedder, range(max(last - 1, 0), last + 1) if stages is None else stages, ps).eval()
    described = extract.describe(museum, panel, work_dir, **options)
    table = []
    for stage, p in panel.columns:
        splits = [panel.part(rows, stage, p) for rows in (described.database, described.val, described.test)]
        for way, dim, changed in _ways(splits, dims):
            measured = evaluate.measure(Described(described.museum, *changed), whitening="none", seed=seed)
            tuned = measured.tuning
            row = {"stage": stage, "p": p, "way": way, "dim": dim, "k": tuned.k, "tau": tuned.tau}
            table.append(row | {"val_gap": tuned.gap} | measured.test)
    return pd.DataFrame(table)


def _ways(splits: list[Any], dims: Sequence[int]) -> Iterator[tuple[str, int, list[Any]]]:
    """Yield three splits as they are, rotated, and whitened, at every dimension that the database can carry."""
    n, channels = splits[0].shape
    yield "raw", channels, splits
    spectrum = decompose(splits[0])
    most = spectrum.rank if n >= 10 * channels else max(spectrum.rank // 2, 1)
    kept = sorted({dim for dim in dims if dim <= most} or {most})
    for way, shrinkage in (("PCA", 0.0), ("whitened", 1.0)):
        full = PCAWhitening(kept[-1], shrinkage).fit_spectrum(spectrum)
        changed = [full.transform(rows) for rows in splits]
        for dim in kept:
            yield way, dim, [unit(rows[:, :dim]) for rows in changed]  # the leading columns are the smaller whitening
