"""The `Embedder`, a network that turns images into descriptors; the pooling of its maps, GeM; batch norms folded."""

import copy
import hashlib
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from metlib.backbone.recipes import Recipe


def gem(x: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """Pool a map by its generalised mean: (B, C, H, W) -> (B, C), each channel the p-mean of its values.

    `p` > 0 is a number or a tensor: 1 is average pooling, p -> inf max pooling. Values below `eps` count as `eps`.
    The result is float32 at least, also under autocast. Each channel's largest value is divided out before the power
    and multiplied back, so no p overflows or vanishes. Source: Radenović et al., TPAMI 2019, equation 3.

    >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> gem(x, p=1), gem(x)
    (tensor([[2.5000]]), tensor([[2.9240]]))
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32)).clamp(min=eps)
    top = x.detach().amax(dim=(-2, -1), keepdim=True)  # (B, C, 1, 1); the result doesn't depend on it, nor gradients
    return (x / top).pow(p).mean(dim=(-2, -1)).pow(1.0 / p) * top[..., 0, 0]


class GeM(nn.Module):
    """`gem` as a layer with a learnable p, which starts at `p`.

    >>> GeM(p=1)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).item()
    2.5
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, C, H, W) -> (B, C)."""
        return gem(x, self.p, self.eps)

    def extra_repr(self) -> str:
        return f"p={self.p.item():.3f}, eps={self.eps}"


class Embedder(nn.Module):
    """A network with its recipe: images in, L2-normalised descriptors out.

    `trunk` is a timm model, `name` its name in tables, `channels` the channels C of the map that is pooled, `dim` the
    descriptor's dimension D. Raises ValueError where the recipe asks for a class token that the network hasn't got.

    >>> from metlib.backbone import build
    >>> embedder = build(Recipe("test_resnet", seed=1), "tiny")
    >>> with torch.inference_mode():
    ...     embedder(torch.rand(2, 3, 64, 48)).shape
    torch.Size([2, 96])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: Any, recipe: Recipe, name: str) -> None:
        super().__init__()
        if recipe.pooling == "class" and getattr(trunk, "cls_token", None) is None:  # the first token is then a patch
            raise ValueError(f"{name} has no class token: choose another pooling in its recipe")
        self.trunk: Any = trunk  # timm's models share their methods by custom, not by a class
        self.recipe, self.name = recipe, name
        self.pool = GeM(recipe.gem_p)
        stage = recipe.stage
        self.channels = int(trunk.num_features if stage is None else trunk.feature_info[stage]["num_chs"])
        self.projector = nn.Linear(self.channels, recipe.projector) if recipe.projector else None
        self.dim = recipe.projector or self.channels
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1), persistent=False)

    @property
    def title(self) -> str:
        """The name for figures and tables, with a note where the network is untrained."""
        return f"{self.name} (untrained: a floor, not a result)" if self.recipe.untrained else self.name

    @property
    def identity(self) -> dict[str, Any]:
        """What, beside the weights, decides a descriptor: the recipe with GeM's p as learned."""
        recipe = {k: v for k, v in self.recipe.to_json().items() if k not in ("origin", "licence")}
        return recipe | {"gem_p": self.pool.p.item()}

    def resize(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Bring images (B, 3, H, W) to `scale` times the resolution of the recipe, bilinearly, align_corners=False.

        Where the recipe has a `longest` side or a `multiple`, one antialiased step goes to the nearest size it allows.
        """
        recipe = self.recipe
        if recipe.multiple == 1 and recipe.longest is None:
            if scale == 1:
                return images
            return F.interpolate(images, scale_factor=float(scale), mode="bilinear", align_corners=False)
        height, width = images.shape[-2:]
        longest = recipe.longest or 2**31
        limit = longest / max(height, width)
        fit = min(scale * min(1.0, limit), limit)
        most = longest // recipe.multiple  # rounding up mustn't go beyond it
        size = [recipe.multiple * max(min(round(side * fit / recipe.multiple), most), 1) for side in (height, width)]
        if size == [height, width]:
            return images
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

    def features(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Compute the map before pooling: RGB (B, 3, H, W) in [0, 1] -> (B, C, h, w).

        A transformer's map is its patch tokens, without class token and registers. Raises ValueError where the
        network's last output is neither tokens nor such a map (channels last, say).
        """
        images = self.resize(images, scale)
        return self._as_map(self._run(images), images)

    def maps(self, images: Tensor, stages: list[int]) -> list[Tensor]:
        """Compute the maps of several stages in one pass, from images as `resize` returns them."""
        x = (images - self.mean) / self.std
        return self.trunk.forward_intermediates(x, indices=stages, stop_early=True, intermediates_only=True)

    def _run(self, images: Tensor) -> Tensor:
        if self.recipe.stage is None:
            return self.trunk.forward_features((images - self.mean) / self.std)
        return self.maps(images, [self.recipe.stage])[0]

    def _as_map(self, x: Tensor, images: Tensor) -> Tensor:
        shape = tuple(x.shape)
        if x.ndim == 3 and hasattr(self.trunk, "num_prefix_tokens"):  # (B, prefix + h * w, C)
            x = x[:, self.trunk.num_prefix_tokens :].transpose(1, 2)  # (B, C, h * w)
            h, w = (side // self.recipe.multiple for side in images.shape[-2:])
            if x.shape[2] == h * w:
                x = x.unflatten(2, (h, w))  # (B, C, h, w)
        if x.ndim != 4 or x.shape[1] != self.channels:
            expected = f"expected a map (B, {self.channels}, h, w) or a transformer's tokens"
            way_out = "take a convolutional network, or give the recipe a stage (an index into timm's feature_info)"
            raise ValueError(f"{self.name} ends with {shape}, {expected}: {way_out}")
        return x

    def forward(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Describe RGB images (B, 3, H, W) in [0, 1] at one scale: L2-normalised float32 rows (B, D).

        Raises ValueError where the recipe's pooling doesn't fit the network's output.
        """
        images = self.resize(images, scale)
        x = self._run(images)
        if self.recipe.pooling == "head":
            x = self.trunk.forward_head(x, pre_logits=True)  # (B, C)
        elif self.recipe.pooling == "class":
            x = x[:, 0]  # tokens (B, prefix + h * w, C) -> (B, C)
        elif self.recipe.pooling == "mean":
            x = self._as_map(x, images).mean(dim=(-2, -1))
        else:
            x = self.pool(self._as_map(x, images))
        if x.ndim != 2 or x.shape[1] != self.channels:
            found = f"gives {tuple(x.shape)}, expected (B, {self.channels})"
            raise ValueError(f"{self.name}: pooling {self.recipe.pooling!r} {found}: choose another in its recipe")
        x = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)  # in float32 under autocast too
        return x if self.projector is None else F.normalize(self.projector(x), dim=-1)

    def weights_sha256(self) -> str:
        """Hash names, shapes and values of all weights, in hexadecimal; descriptors name their network by it."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def fold_batch_norm(embedder: Embedder) -> Embedder:
    """Fold the batch norms of a copy into the convolutions before them, for inference; the descriptors stay the same.

    y = w (conv(x) - mean) / sqrt(var + eps) + b is one convolution with other weights. One run of the network on a
    small image finds which norm follows which convolution, and the copy is checked on that image. `embedder` itself is
    returned where it has no such pairs, doesn't take that image, or the copy would differ.
    """
    if not any(isinstance(module, _BatchNorm) for module in embedder.modules()):
        return embedder
    folded = copy.deepcopy(embedder).eval()
    probe = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)).to(folded.mean.device)
    try:
        pairs, before = _convolutions_before_norms(folded, probe)
    except Exception:  # a network of one image size raises anything; on the museum's images the caller will see it
        return embedder
    parents = {child: (parent, name) for parent in folded.modules() for name, child in parent.named_children()}
    for convolution, norm in pairs:
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (C,)
        bias = 0 if convolution.bias is None else convolution.bias
        convolution.weight = nn.Parameter(convolution.weight * scale[:, None, None, None])
        convolution.bias = nn.Parameter(norm.bias + (bias - norm.running_mean) * scale)
        # timm's norms carry the activation that follows
        rest = [getattr(norm, part) for part in ("drop", "act") if getattr(norm, part, None) is not None]
        setattr(*parents[norm], nn.Sequential(*rest))
    with torch.inference_mode():
        same = torch.allclose(folded(probe), before, atol=1e-5)
    return folded if pairs and same else embedder


def _convolutions_before_norms(network: nn.Module, probe: Tensor) -> tuple[list[tuple[nn.Conv2d, Any]], Tensor]:
    """Find each convolution and batch norm that takes its output, both used once in a pass; return its result too."""
    sources: dict[int, tuple[nn.Conv2d, Any]] = {}  # with the outputs, or another tensor could get an output's id
    pairs, calls = [], Counter[nn.Module]()

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            sources[id(output)] = module, output
        elif isinstance(module, _BatchNorm) and inputs and id(inputs[0]) in sources:
            pairs.append((sources[id(inputs[0])][0], module))

    hooks = [module.register_forward_hook(after) for module in network.modules()]
    with torch.inference_mode():
        result = network(probe)
    for hook in hooks:
        hook.remove()
    once = [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
    return [(convolution, norm) for convolution, norm in once if norm.affine and norm.track_running_stats], result
