"""BYOL (Grill et al., NeurIPS 2020): no labels; a network predicts how a slow copy of itself describes another view.

A projector and a predictor stand on the descriptor during training, and go afterwards. As with SimSiam, watch `std`:
1/√d where the features spread over the sphere (0.063 for d = 256), and 0 after a collapse.
"""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metlib.backbone import Embedder
from metlib.dataset import Museum
from metlib.train.loop import fit
from metlib.train.method import TwoViews, check_batches, spread_of
from metlib.train.settings import Settings

MOMENTUM = 0.996


def byol_loss(predicted: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """Sum ‖p/‖p‖ - t/‖t‖‖² = 2 - 2·cos(p, t) over both views, mean over the batch; targets get no gradient.

    All are (B, d): each view's prediction, and the slow copy's projection of the same view; they are crossed here.
    """
    (p1, p2), (t1, t2) = predicted, targets
    return (4 - 2 * F.cosine_similarity(p1, t2.detach()) - 2 * F.cosine_similarity(p2, t1.detach())).mean()


def momentum_at(step: int, steps: int, start: float = MOMENTUM) -> float:
    """The share of itself that the slow copy keeps: from `start` to 1 along half a cosine."""
    return 1 - (1 - start) * (math.cos(math.pi * step / steps) + 1) / 2


def build_head(dim: int, hidden: int, out: int) -> nn.Sequential:
    """Build two layers with batch norm between: (B, dim) -> (B, out); projector and predictor alike."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


class BYOL(TwoViews):
    """The embedder under a projector and a predictor, and a slow copy of embedder and projector."""

    step: Tensor

    def __init__(self, embedder: Embedder, hidden: int, width: int, steps: int) -> None:
        super().__init__(embedder)
        self.projector = build_head(embedder.dim, hidden, width)
        self.predictor = build_head(width, hidden, width)
        self.slow_embedder = copy.deepcopy(embedder).requires_grad_(False)
        self.slow_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.steps = steps
        self.register_buffer("step", torch.tensor(0))

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        n = len(targets)
        z1, z2 = (self.projector(rows) for rows in self.embed(images, n).unbind(dim=1))  # (n, width) each
        predicted = self.predictor(z1).float(), self.predictor(z2).float()
        with torch.no_grad():
            slow = self.embed(images, n, self.slow_embedder).unbind(dim=1)  # (n, D) each
            t1, t2 = (self.slow_projector(rows).float() for rows in slow)
        return {"loss": byol_loss(predicted, (t1, t2)), "std": spread_of(z1)}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the slow copy a little towards the network."""
        keep = momentum_at(int(self.step), self.steps)
        for slow, fast in ((self.slow_embedder, self.embedder), (self.slow_projector, self.projector)):
            for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                old.lerp_(new, 1 - keep)
        self.step += 1


def train(
    museum: Museum,
    embedder: Embedder,
    out: str | Path,
    *,
    hidden: int = 4096,
    width: int = 256,
    settings: Settings | None = None,
) -> Path:
    """Train a copy of `embedder` on two views of every database image; give the path of the best checkpoint.

    `hidden` is the width inside projector and predictor, `width` that of their outputs. Labels only choose the best
    epoch, on val. Raises ValueError for parts of a batch below the four items of batch norm, and as `loop.fit` does.
    """
    settings = settings or Settings()
    check_batches(settings)
    steps = settings.epochs * -(-len(museum.database) // settings.batch)
    about = {"method": "byol", "hidden": hidden, "width": width}
    return fit(museum, embedder, out, settings, lambda network: BYOL(network, hidden, width, steps), about)
