"""Augmented views: a photograph as it might have been taken another time (Ypsilantis et al., NeurIPS 2021, section 5).

A crop of 70 to 100 % of the area, brought to a square of `size` pixels; colour jitter (0.4, 0.4, 0.4, 0.1) for four
images of five; grey for one of five. No flip: a mirrored artwork is another artwork. Both are options.
A view may also be of a simulated visit (`metlib.visits`) instead of the photograph itself.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from metlib import dataset, visits
from metlib.dataset import Split
from metlib.extract import Reader


def build_transform(size: int = 500, crop: float = 0.7, *, colour: bool = True, flip: bool = False) -> v2.Compose:
    """Build the transform of one view: PIL image -> uint8 (3, size, size); draws from torch's global generator.

    `colour` changes colours, or takes them away, as published; `flip` mirrors every other view.
    """
    steps: list[v2.Transform] = [v2.RandomResizedCrop(size, scale=(crop, 1.0))]
    if colour:
        steps += [v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), v2.RandomGrayscale(p=0.2)]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, v2.PILToTensor()])


class Views(Dataset[Tensor]):
    """The items of one epoch: item m is uint8 (V, 3, size, size), a view of each of the images `images[m]`.

    `images` (M, V) are rows of `split`, read from their files or by a `reader`; `visited` (M, V) bool marks those of
    which a simulated visit is seen (None: none). `size`, `crop` and `look` are what `build_transform` takes.
    A view depends on (seed, epoch, item, place in it) alone. Pillow computes it: torch's sums differ with threads.
    """

    def __init__(
        self,
        split: Split,
        images: NDArray[np.int64],
        seed: int,
        epoch: int,
        reader: Reader | None = None,
        visited: NDArray[np.bool_] | None = None,
        *,
        size: int = 500,
        crop: float = 0.7,
        **look: Any,
    ) -> None:
        self.split, self.images, self.key, self.reader = split, images, (seed, epoch), reader
        self.visited = np.zeros(images.shape, bool) if visited is None else visited
        self.side = round(size / crop**0.5)  # of a visit, of whose pixels the smallest crop then has enough
        self.transform = build_transform(size, crop, **look)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> Tensor:
        views = []
        with torch.random.fork_rng(devices=[]):
            for place, row in enumerate(self.images[item]):
                key = np.random.SeedSequence([*self.key, int(item), place])
                torch.default_generator.manual_seed(int(key.generate_state(1)[0]))
                file = self.split.file(row)
                picture = Image.fromarray(self.reader(file)) if self.reader else dataset.read_image(file)
                if self.visited[item, place]:
                    picture = visits.simulate(picture, np.random.default_rng(key), size=self.side)
                views.append(self.transform(picture))
        return torch.stack(views)
