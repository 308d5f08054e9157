"""SimSiam (Chen and He, CVPR 2021): no labels, no negatives; each view predicts the other, which gets no gradient.

A projector and a predictor stand on the descriptor during training, and go afterwards. The loss does not show a
collapse to a constant: watch `std`, the standard deviation of the normalised features over a batch, mean over channels.
It is 1/√d where they spread over the sphere (0.022 for d = 2,048), and 0 after a collapse.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from metlib.backbone import Embedder
from metlib.dataset import Museum
from metlib.train.loop import fit
from metlib.train.method import TwoViews, check_batches, spread_of
from metlib.train.settings import Settings


def simsiam_loss(predicted: tuple[Tensor, Tensor], projected: tuple[Tensor, Tensor]) -> Tensor:
    """Average the negative cosine of each view's prediction with the other's projection, which gets no gradient.

    All are (B, d); -½·(cos(p1, z2) + cos(p2, z1)), mean over the batch: from 1 to -1.
    """
    (p1, p2), (z1, z2) = predicted, projected
    return -0.5 * (F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach())).mean()


def build_projector(dim: int, hidden: int) -> nn.Sequential:
    """Build three layers with batch norm, the last without slope and shift: (B, dim) -> (B, hidden)."""
    layers: list[nn.Module] = []
    for wide in (dim, hidden):
        layers += [nn.Linear(wide, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden, affine=False))


def build_predictor(hidden: int, neck: int) -> nn.Sequential:
    """Build two layers with a narrow middle: (B, hidden) -> (B, hidden)."""
    return nn.Sequential(nn.Linear(hidden, neck, bias=False), nn.BatchNorm1d(neck), nn.ReLU(), nn.Linear(neck, hidden))


class SimSiam(TwoViews):
    """The embedder under a projector and a predictor."""

    def __init__(self, embedder: Embedder, hidden: int, neck: int) -> None:
        super().__init__(embedder)
        self.projector = build_projector(embedder.dim, hidden)
        self.predictor = build_predictor(hidden, neck)

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        rows = self.embed(images, len(targets))  # (n, 2, D)
        z1, z2 = self.projector(rows[:, 0]).float(), self.projector(rows[:, 1]).float()
        p1, p2 = self.predictor(z1).float(), self.predictor(z2).float()
        return {"loss": simsiam_loss((p1, p2), (z1, z2)), "std": spread_of(z1)}


def train(
    museum: Museum,
    embedder: Embedder,
    out: str | Path,
    *,
    hidden: int = 2048,
    neck: int = 512,
    settings: Settings | None = None,
) -> Path:
    """Train a copy of `embedder` on two views of every database image; give the path of the best checkpoint.

    `hidden` is the width of the projector, `neck` that of the predictor's middle. Labels only choose the best epoch,
    on val. Raises ValueError for parts of a batch below the four items of batch norm, and as `loop.fit` does.
    """
    settings = settings or Settings()
    check_batches(settings)
    about = {"method": "simsiam", "hidden": hidden, "neck": neck}
    return fit(museum, embedder, out, settings, lambda network: SimSiam(network, hidden, neck), about)
