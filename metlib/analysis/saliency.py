"""Which pixels make two photographs the same work: maps of what a descriptor, or a similarity, is made of.

Images are uint8 (H, W, 3) or a file's path, at the recipe's scale; maps float32, (H, W) over pixels or (h, w) over the
positions of the network's map. Embedders are left in evaluation mode, their weights and gradients as they are.
"""

import copy
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from metlib import backbone
from metlib.analysis.sweep import Panel
from metlib.backbone import Embedder
from metlib.common.vectors import as_rows
from metlib.dataset import read_image

Picture = NDArray[np.uint8] | str | Path


def describe_image(embedder: Embedder, image: Picture) -> NDArray[np.float32]:
    """Describe an image at one scale: (D,), L2-normalised; OSError if it can't be read, ValueError if not uint8 RGB."""
    with torch.inference_mode():
        return embedder.eval()(_pixels(embedder, image))[0].cpu().numpy()


def grad_cam(embedder: Embedder, image: Picture, target: ArrayLike, upsample: bool = True) -> NDArray[np.float32]:
    """Map what in an image raises the cosine between its descriptor and `target` (D,), L2-normalised: (H, W).

    Channels of the network's last map are added with the mean of their gradients as weights, and what is negative
    is cut to 0; then enlarged bilinearly, or (h, w) as it is with `upsample=False`. Where a transformer gives its
    class token, or what its head attends to, the map are the patch tokens that enter the last block: those that
    leave it have no part in the class token. The gradient of a cosine has no part along the image's own descriptor, so
    the map isn't all that both have in common. Raises ValueError for a target that isn't one descriptor of this
    network, L2-normalised, for the image's own descriptor, a `Panel`, and a network whose map can't be had; errors of
    images as `describe_image`. Source: Selvaraju et al., ICCV 2017, equations 1 and 2, with the cosine as the score.
    """
    towards = _target(embedder, target)
    pixels = _pixels(embedder, image)
    seamed = _Seamed(embedder.eval())

    def cosine(images: Tensor) -> Tensor:
        value = seamed(images) @ towards  # (1,)
        if value.item() > 1 - 1e-6:  # the gradient is float32's noise
            raise ValueError(
                f"target is the image's own descriptor (cosine {value.item():.7f}), where the gradient is zero: take "
                "that of another photograph, or draw similarity_map"
            )
        return value

    # Pixels ask for gradients so that a network with frozen weights has some too.
    heat = LayerGradCam(cosine, seamed.seam).attribute(pixels.requires_grad_(), relu_attributions=True)
    return _enlarge(heat.detach(), pixels if upsample else heat)[0, 0].cpu().numpy()


class _Seamed(Embedder):
    """The same network, modules shared, whose map (B, C, h, w) goes through `seam`, where captum can hook it."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(embedder.trunk, replace(embedder.recipe, projector=None), embedder.name)
        self.pool, self.projector, self.dim = embedder.pool, embedder.projector, embedder.dim
        self.mean, self.std = embedder.mean, embedder.std
        self.seam = nn.Identity()

    def _as_map(self, x: Tensor, images: Tensor) -> Tensor:
        return self.seam(super()._as_map(x, images))

    def _run(self, images: Tensor) -> Tensor:
        if self.recipe.pooling in ("gem", "mean"):  # `forward` makes a map of it
            return super()._run(images)
        if not hasattr(self.trunk, "num_prefix_tokens"):
            return self._as_map(super()._run(images), images)
        if not hasattr(self.trunk, "blocks"):
            raise ValueError(f"{self.name} has no blocks whose tokens could be mapped: give its recipe pooling 'mean'")

        def through_map(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            tokens, *rest = inputs  # (B, prefix + h * w, C)
            patches = self._as_map(tokens, images).flatten(2).transpose(1, 2)  # (B, h * w, C)
            return torch.cat([tokens[:, : self.trunk.num_prefix_tokens], patches], dim=1), *rest

        hook = self.trunk.blocks[-1].register_forward_pre_hook(through_map)
        try:
            return super()._run(images)
        finally:
            hook.remove()


def similarity_map(embedder: Embedder, image: Picture, target: ArrayLike) -> NDArray[np.float32]:
    """Map the cosine of every position's vector with `target` (D,), a descriptor: (h, w), 0 for a zero vector.

    Raises ValueError as `grad_cam` does for a target, and for networks whose descriptor doesn't live in the space of
    their map: those with a projector, and poolings other than gem and mean. Errors of images as `describe_image`.
    """
    towards = _target(embedder, target)
    if embedder.projector is not None or embedder.recipe.pooling not in ("gem", "mean"):
        what = f"pooling {embedder.recipe.pooling!r}" if embedder.projector is None else "a projector"
        raise ValueError(
            f"{embedder.name} has {what}: expected gem or mean pooling, no projector. Take grad_cam or patch_similarity"
        )
    return torch.einsum("chw,c->hw", _unit_map(embedder, image), towards).cpu().numpy()


def patch_similarity(embedder: Embedder, first: Picture, second: Picture) -> NDArray[np.float32]:
    """Compare every position of one image's map with each of another's: cosines (h1, w1, h2, w2), 0 for zero vectors.

    Positions are the last map's, or patches. Raises ValueError for networks without a map; others as `describe_image`.
    """
    one, two = _unit_map(embedder, first), _unit_map(embedder, second)
    return torch.einsum("chw,cij->hwij", one, two).cpu().numpy()


def best_matches(similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    """How near each position of the first image comes to any of the second: (h1, w1, h2, w2) -> (h1, w1)."""
    return _checked(similarity).max(axis=(2, 3))


def mutual_matches(similarity: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pair the positions that are each other's nearest: (M, 4) of row, column, row, column, and cosines (M,).

    The best pair comes first; of equal cosines the first position counts. Raises ValueError for other shapes and NaN.
    """
    h1, w1, h2, w2 = _checked(similarity).shape
    table = similarity.reshape(h1 * w1, h2 * w2)
    nearest, back = table.argmax(axis=1), table.argmax(axis=0)
    one = np.flatnonzero(back[nearest] == np.arange(len(table)))
    one = one[np.argsort(-table[one, nearest[one]], kind="stable")]
    two = nearest[one]
    places = np.stack([*np.divmod(one, w1), *np.divmod(two, w2)], axis=1).astype(np.int64)
    return places, table[one, two]


def visual_backprop(embedder: Embedder, image: Picture) -> NDArray[np.float32]:
    """Map the pixels that activate a convolutional network at every depth, whatever the target: (H, W) in [0, 1].

    Maps are averaged over channels; from the deepest on, each is brought to the size of the one before and multiplied
    with it. In VGG these are the outputs of all ReLUs, brought to size as in the paper: by a transposed convolution of
    ones for each convolution (and pooling) between them. Of other networks they are the maps of timm's stages, cut at
    0 and enlarged bilinearly. A constant result is all 0. Raises ValueError for transformers and networks without such
    maps; errors of images as `describe_image`. Source: Bojarski et al., ICRA 2018, section III.
    """
    if hasattr(embedder.trunk, "num_prefix_tokens") or not hasattr(embedder.trunk, "forward_intermediates"):
        raise ValueError(f"{embedder.name} gives no maps of convolutions at every depth: draw grad_cam instead")
    pixels = _pixels(embedder, image)
    with torch.inference_mode():
        images = embedder.eval().resize(pixels)
        heat = (_back_vgg if type(embedder.trunk).__name__ == "VGG" else _back_stages)(embedder, images)
        heat = _enlarge(heat, pixels)[0, 0].cpu()
    low, high = heat.aminmax()
    return ((heat - low) / (high - low)).numpy() if high > low else np.zeros(tuple(heat.shape), np.float32)


def _back_vgg(embedder: Embedder, images: Tensor) -> Tensor:
    """Go forward through VGG's layers, then back through the means of its ReLUs: (1, 3, H, W) -> (1, 1, H, W)."""
    x = (images - embedder.mean) / embedder.std
    trail = []  # each layer with the size of what it takes and the mean over the channels of what it gives
    for layer in embedder.trunk.features:
        size = (1, 1, *x.shape[-2:])
        x = layer(x)
        trail.append((layer, size, x.mean(dim=1, keepdim=True)))
    heat = None
    for layer, size, mean in reversed(trail):
        if isinstance(layer, nn.ReLU):
            heat = mean if heat is None else _to_one(heat * mean)
        elif isinstance(layer, nn.Conv2d | nn.MaxPool2d) and heat is not None:
            ones = torch.ones(1, 1, *np.broadcast_to(layer.kernel_size, 2).tolist(), device=x.device)
            heat = conv2d_input(size, ones, heat, layer.stride, layer.padding)  # a convolution's transpose, any size
    if heat is None:
        raise ValueError("VGG without a ReLU: VisualBackProp needs the maps after them; draw grad_cam instead")
    return heat


def _back_stages(embedder: Embedder, images: Tensor) -> Tensor:
    """Go back through the means of a network's stages: (1, 3, H, W) -> (1, 1, h, w), the size of the first map."""
    stage = embedder.recipe.stage
    maps = embedder.maps(images, list(range(len(embedder.trunk.feature_info) if stage is None else stage + 1)))
    means = [_to_one(F.relu(m).mean(dim=1, keepdim=True)) for m in maps]
    return reduce(lambda heat, mean: _to_one(_enlarge(heat, mean) * mean), reversed(means))


def _to_one(heat: Tensor) -> Tensor:
    """Divide by the largest value, so that products of many maps stay within float32's range."""
    return heat / heat.amax().clamp(min=torch.finfo(heat.dtype).tiny)


def randomise(embedder: Embedder, seed: int = 0, share: float = 1.0) -> Embedder:
    """Give a copy whose layers are drawn anew by its architecture's own initialisation: all, or a `share` from the end.

    `share` counts layers with weights of their own, in the network's order, so 0, 0.1, ... 1 is the cascading test: a
    map that stays the same is no evidence about the network. Statistics of batch norms start anew with their layer;
    GeM's p stays. Neither `embedder` nor torch's global generator change. Raises ValueError for a share outside 0..1, a
    seed that no recipe takes, and an embedder whose weights aren't those of its recipe's architecture (batch norm
    folded, say). Source: Adebayo et al., NeurIPS 2018, section 3.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 (no layer) to 1 (all of them), got {share!r}")
    fresh = backbone.build(replace(embedder.recipe, seed=seed), embedder.name).state_dict()
    state = embedder.state_dict()
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in fresh.items()}:
        raise ValueError(
            f"{embedder.name} has other weights than its recipe's architecture {embedder.recipe.arch}: randomise it "
            "as it was loaded, before it is folded or changed"
        )
    layer_of = {key: key.rpartition(".")[0] for key in state}
    layers = [layer for layer in dict.fromkeys(layer_of.values()) if layer != "pool"]  # in the network's order
    drawn = set(layers[len(layers) - round(share * len(layers)) :])
    made = copy.deepcopy(embedder)
    made.load_state_dict({key: fresh[key] if layer_of[key] in drawn else value for key, value in state.items()})
    made.name = f"{embedder.name}-{100 * share:.0f}-percent-randomised"
    origin = f"{embedder.name}, {len(drawn)} of {len(layers)} layers drawn anew with seed {seed}"
    seed_of_all = seed if len(drawn) == len(layers) else embedder.recipe.seed
    made.recipe = replace(embedder.recipe, seed=seed_of_all, origin=origin, training={})
    return made.eval()


def map_agreement(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation between two maps of one shape, in [-1, 1]; 0 where one of them is constant.

    Raises ValueError for different shapes, none at all, and values that aren't finite.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape or not one.size:
        raise ValueError(f"maps must have one shape, got {one.shape} and {two.shape}: draw both of one image")
    if not np.isfinite(one).all() or not np.isfinite(two).all():
        raise ValueError("maps must be finite, got NaN or infinity: look at the network's weights")
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(spearmanr(one.ravel(), two.ravel()).statistic)


def _pixels(embedder: Embedder, image: Picture) -> Tensor:
    """Bring an image to the network's device: (1, 3, H, W) float32 in [0, 1]."""
    array = np.asarray(read_image(image) if isinstance(image, str | Path) else image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"an image must be uint8 (H, W, 3), or a path, got {array.dtype} of shape {array.shape}")
    own = np.ascontiguousarray(array)  # torch takes no mirrored views
    return torch.tensor(own, device=next(embedder.parameters()).device).permute(2, 0, 1)[None].float().div(255)


def _target(embedder: Embedder, target: ArrayLike) -> Tensor:
    """Check a target: one descriptor of this network, (D,), L2-normalised, on its device."""
    if isinstance(embedder, Panel):
        raise ValueError(f"{embedder.name} gives many descriptors in one: take the network of one of its stages")
    row = as_rows(np.asarray(target)[None] if np.ndim(target) == 1 else target, "target")
    norm = float(np.linalg.norm(row[0]))
    if row.shape != (1, embedder.dim) or np.ndim(target) != 1 or abs(norm - 1) > 1e-3:
        raise ValueError(
            f"target must be one descriptor ({embedder.dim},) of {embedder.name}, L2-normalised, got shape "
            f"{np.shape(target)} and norm {norm:.4g}: take one of describe_image, before any whitening"
        )
    return torch.tensor(row[0], device=next(embedder.parameters()).device)


def _unit_map(embedder: Embedder, image: Picture) -> Tensor:
    """The network's map of an image with an L2-normalised vector (or zero) at each position: (C, h, w)."""
    with torch.inference_mode():
        return F.normalize(embedder.eval().features(_pixels(embedder, image))[0], dim=0)


def _enlarge(heat: Tensor, like: Tensor) -> Tensor:
    """Bring a map (1, 1, h, w) to the size of `like` (.., H, W)."""
    return F.interpolate(heat, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _checked(similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    if similarity.ndim != 4 or not similarity.size or np.isnan(similarity).any():
        raise ValueError(f"similarity {similarity.shape} isn't (h1, w1, h2, w2), or has NaN: take patch_similarity's")
    return similarity
