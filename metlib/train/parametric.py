"""A parametric classifier: one learned vector a class, compared by cosine; trained by cross-entropy or ArcFace.

It is scored twice: as a classifier, with its softmax as confidence, and without it, by the nearest neighbours of the
descriptors. Class vectors start as the mean descriptor of their images (imprinting, Qi et al., CVPR 2018).
Source: Ypsilantis et al., NeurIPS 2021, section 5; ArcFace: Deng et al., CVPR 2019.
"""

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pytorch_metric_learning.losses import ArcFaceLoss, NormalizedSoftmaxLoss
from scipy.special import log_softmax
from torch import Tensor

from metlib import backbone, evaluate, extract, metrics
from metlib.backbone import Embedder
from metlib.common.checks import check_integer
from metlib.common.files import replacing
from metlib.common.vectors import as_rows, slices, unit
from metlib.dataset import Museum
from metlib.knn import Predictions
from metlib.train.loop import fit
from metlib.train.method import Method, Plan
from metlib.train.settings import Settings

LOSSES = ("softmax", "arcface")
SCALE = {"softmax": 20.0, "arcface": 64.0}  # of cosines before the softmax: pytorch-metric-learning's defaults


@dataclass(frozen=True, eq=False)
class Classifier:
    """A cosine classifier: `vectors` (n, D) float32, L2-normalised, `labels` (n,) int64, ascending, `scale`."""

    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]
    scale: float

    def __post_init__(self) -> None:
        as_rows(self.vectors, "class vectors")
        if self.labels.shape != (len(self.vectors),) or (np.diff(self.labels) <= 0).any():
            raise ValueError(f"{len(self.vectors)} class vectors need as many labels, ascending")
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale!r}")

    def classify(self, descriptors: ArrayLike) -> Predictions:
        """Give each of the descriptors (Q, D) the label of the class vector of largest cosine, of equals the smaller.

        Confidence is the log of a softmax over all classes, in float64. Raises ValueError for another D.
        """
        queries = as_rows(descriptors, "query descriptors")
        if queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"queries have {queries.shape[1]} dimensions, class vectors {self.vectors.shape[1]}")
        labels, confidence = [], []
        for rows in slices(len(queries), 256):
            logs = log_softmax(self.scale * (queries[rows] @ self.vectors.T).astype(np.float64), axis=1)
            labels.append(self.labels[logs.argmax(axis=1)])
            confidence.append(logs.max(axis=1))
        return Predictions(np.concatenate(labels), np.concatenate(confidence).clip(max=0))


def classifier_file(checkpoint: str | Path) -> Path:
    """Name the file of class vectors that lies beside a checkpoint of this method."""
    return Path(checkpoint).with_suffix(".classes.npz")


def load_classifier(checkpoint: str | Path) -> Classifier:
    """Load the class vectors that go with a checkpoint of this method. Raises OSError or ValueError without them."""
    path = classifier_file(checkpoint)
    try:
        with np.load(path, allow_pickle=False) as file:
            return Classifier(file["vectors"], file["labels"], float(file["scale"]))
    except (KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no class vectors ({error}): train again") from error


class Parametric(Method):
    """The embedder and a vector for each of the database's classes."""

    def __init__(self, embedder: Embedder, labels: NDArray[np.int64], loss: str, views: int = 1) -> None:
        super().__init__(embedder)
        self.views = views
        self.classes, self.targets = np.unique(labels, return_inverse=True)
        n, self.scale = len(self.classes), SCALE[loss]
        if loss == "arcface":
            self.loss: Any = ArcFaceLoss(n, embedder.dim, margin=28.6, scale=self.scale)  # degrees, 0.5 in radians
        else:
            self.loss = NormalizedSoftmaxLoss(n, embedder.dim, temperature=1 / self.scale)

    def start(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        means = np.zeros((len(self.classes), descriptors.shape[1]), np.float32)
        np.add.at(means, self.targets, descriptors)
        with torch.no_grad():
            self.loss.W.copy_(torch.from_numpy(unit(means).T))  # (D, n)

    def plan(self, descriptors: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator) -> Plan:
        rows = np.tile(np.arange(len(labels)), self.views)
        return Plan(rows[:, None], self.targets[rows].astype(np.int64))

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        rows = self.embed(images, len(targets))[:, 0]  # (n, D)
        with torch.autocast(rows.device.type, enabled=False):  # cosines times 64 need all their digits
            return {"loss": self.loss(rows.float(), targets)}

    @property
    def classifier(self) -> Classifier:
        """The learned vectors, one for each class, as a classifier of descriptors."""
        vectors = self.loss.W.detach().float().cpu().numpy().T
        return Classifier(unit(np.ascontiguousarray(vectors)), self.classes, self.scale)

    def score(self, museum: Museum, database: NDArray[np.float32], val: NDArray[np.float32]) -> dict[str, Any]:
        """Add `classifier_gap`, `_gap_minus` and `_acc` of val to the scores by neighbours, fractions."""
        answers = self.classifier.classify(val)
        scores = asdict(metrics.evaluate(answers.labels, answers.log_confidence, museum.val.labels))
        return super().score(museum, database, val) | {f"classifier_{name}": score for name, score in scores.items()}

    def keep(self, checkpoint: Path) -> None:
        with replacing(classifier_file(checkpoint)) as file:
            np.savez(file, **asdict(self.classifier))


def compare(museum: Museum, checkpoint: str | Path, work_dir: str | Path) -> dict[str, dict[str, float]]:
    """Score test at a single scale: `metrics.summary` as "classifier", the protocol of `evaluate` as "neighbours"."""
    described = extract.describe(museum, backbone.load(checkpoint), work_dir, scales=(1,))
    answers = load_classifier(checkpoint).classify(described.test)
    own = metrics.summary(answers.labels, answers.log_confidence, described.museum.test.labels)
    return {"classifier": own, "neighbours": evaluate.measure(described).test}


def train(
    museum: Museum,
    embedder: Embedder,
    out: str | Path,
    *,
    loss: str = "arcface",
    views: int = 1,
    settings: Settings | None = None,
) -> Path:
    """Train a copy of `embedder` to distinguish the database's classes; give the path of the best checkpoint.

    `loss` is "softmax", cross-entropy, or "arcface"; an epoch shows `views` views of every image. The neighbours' val
    GAP chooses the best epoch; the classifier's val scores are columns of the history, its vectors lie beside the
    checkpoint. Raises ValueError for another loss, a database of one class, and as `loop.fit` does.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    labels = museum.database.labels
    if len(np.unique(labels)) < 2:
        raise ValueError("all images are of one class: there is nothing to tell apart; add exhibits")
    check_integer("views", views, 1)
    about = {"method": "parametric", "title": f"parametric-{loss}", "loss": loss, "views": int(views)}
    return fit(museum, embedder, out, settings or Settings(), lambda net: Parametric(net, labels, loss, views), about)
