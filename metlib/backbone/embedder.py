"""Networks that turn images into descriptors: GeM, the `Embedder`, checkpoints in and out.

A checkpoint is one safetensors file whose header carries its recipe: `load(path)` needs nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from metlib.backbone import weights as weights_files
from metlib.backbone.recipes import RECIPES, Recipe, find_in_files, of_timm
from metlib.common.files import replacing
from metlib.common.vectors import unit

__all__ = ["RECIPES", "Embedder", "GeM", "Panel", "Recipe", "build", "gem", "load", "save"]

# timm doesn't ask whether every weight of these is in a file: what is missing would stay random.
_LOOSE = ("inception_v3", "dla")

EMBEDDED = Path(__file__).with_name("embedded.safetensors")
"""The checkpoint that comes with metlib."""


def gem(x: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """Pool a map by its generalised mean: (B, C, H, W) -> (B, C), each channel the p-mean of its clamped values.

    p = 1 is average pooling, p -> inf max pooling. Computed in float32 at least, also under autocast (which lowers
    none of these operations): cubes of half-precision activations overflow. The channel's largest value is divided
    out before the power and multiplied back, so no p overflows or vanishes.
    Source: Radenović et al., TPAMI 2019, equation 3.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32)).clamp(min=eps)
    top = x.detach().amax(dim=(-2, -1), keepdim=True)  # (B, C, 1, 1); the result doesn't depend on it, nor gradients
    return (x / top).pow(p).mean(dim=(-2, -1)).pow(1.0 / p) * top[..., 0, 0]


class GeM(nn.Module):
    """`gem` with a learnable p."""

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
    """A network with its recipe: images in, unit descriptors out.

    `trunk` is a timm model, `name` what tables call it, `channels` those of the map that is pooled, `dim` the
    descriptor's dimension D. The recipe says how the output is pooled, and to what resolution images are brought.
    Raises ValueError where it asks for a class token that the network hasn't got.
    """

    mean: Tensor
    std: Tensor
    pool: GeM

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
        """The name for figures and tables, which says where a network is untrained."""
        return f"{self.name} (untrained: a floor, not a result)" if self.recipe.untrained else self.name

    @property
    def identity(self) -> dict[str, Any]:
        """What, beside the weights, decides a descriptor: the recipe with GeM's p as learned."""
        recipe = {k: v for k, v in self.recipe.to_json().items() if k not in ("origin", "licence")}
        return recipe | {"gem_p": self.pool.p.item()}

    def resize(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Bring images (B, 3, H, W) to `scale` times the resolution of the recipe, bilinearly, align_corners=False.

        Most networks take any size. Where the recipe has a `longest` side or a `multiple`, one step goes to the
        nearest size that it allows, with antialiasing, for it may shrink by much.
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

        A transformer's map are its patch tokens, without class token and registers. Raises ValueError where the
        network's last output is neither tokens nor such a map (channels last, say): pooling would take the mean
        over the wrong axes.
        """
        images = self.resize(images, scale)
        return self._as_map(self._run(images), images)

    def _run(self, images: Tensor) -> Tensor:
        if self.recipe.stage is None:
            return self.trunk.forward_features((images - self.mean) / self.std)
        return self._maps(images, [self.recipe.stage])[0]

    def _maps(self, images: Tensor, stages: list[int]) -> list[Tensor]:
        x = (images - self.mean) / self.std
        return self.trunk.forward_intermediates(x, indices=stages, stop_early=True, intermediates_only=True)

    def _as_map(self, x: Tensor, images: Tensor) -> Tensor:
        shape = tuple(x.shape)
        if x.ndim == 3 and hasattr(self.trunk, "num_prefix_tokens"):  # (B, prefix + h * w, C)
            x = x[:, self.trunk.num_prefix_tokens :].transpose(1, 2)  # (B, C, h * w)
            h, w = (side // self.recipe.multiple for side in images.shape[-2:])
            if x.shape[2] == h * w:
                x = x.unflatten(2, (h, w))  # (B, C, h, w)
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"{self.name} ends with {shape}, expected a map (B, {self.channels}, h, w) or a transformer's tokens: "
                "take a convolutional network, or give the recipe a stage (an index into timm's feature_info)"
            )
        return x

    def forward(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Describe RGB images (B, 3, H, W) in [0, 1] with unit rows (B, D), at one scale."""
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
            raise ValueError(
                f"{self.name}: pooling {self.recipe.pooling!r} gives {tuple(x.shape)}, expected (B, {self.channels}): "
                "choose a pooling that fits the network in its recipe"
            )
        x = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)  # in float32 under autocast too
        return x if self.projector is None else F.normalize(self.projector(x), dim=-1)

    def weights_sha256(self) -> str:
        """Hash names, shapes and values of all weights, hexadecimal: by this, descriptors know their network."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


class Panel(Embedder):
    """An embedder that answers for several stages and values of GeM's p at once, in one pass over the images.

    `stages` are indices into timm's `feature_info`. Its descriptors (B, sum of C) are the unit descriptors of every
    (stage, p) side by side, as a whole made unit; `part` gives those of one of them, exactly as that network alone
    would have given them. The weights are those of `embedder`, which must not end before the last stage.
    Raises ValueError for stages that the network hasn't got, a p that isn't positive or comes twice.
    """

    def __init__(self, embedder: Embedder, stages: Sequence[int], ps: Sequence[float]) -> None:
        info = embedder.trunk.feature_info
        last = len(info) - 1 if embedder.recipe.stage is None else embedder.recipe.stage
        if not stages or sorted(set(stages)) != list(stages) or not 0 <= stages[0] <= stages[-1] <= last:
            raise ValueError(f"stages must ascend from 0 to at most {last} for {embedder.name}, got {stages}")
        if not ps or len(set(ps)) < len(ps) or not all(0 < p < math.inf for p in ps):
            raise ValueError(f"ps must be positive numbers, at least one and each once, got {ps}")
        if not hasattr(embedder.trunk, "forward_intermediates"):
            raise ValueError(f"timm gives no maps of {embedder.name} but the last: take another network")
        super().__init__(embedder.trunk, replace(embedder.recipe, pooling="gem", stage=stages[-1], projector=None), "")
        text = "-".join(map(str, stages)), "-".join(f"{p:g}" for p in ps)
        self.name = f"{embedder.name}-stages-{text[0]}-p-{text[1]}"
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
        """Take the unit descriptors (N, C) of one stage and p out of those of the panel (N, D)."""
        return unit(descriptors[:, self.columns[stage, float(p)]])

    def forward(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Describe RGB images (B, 3, H, W) in [0, 1] for every stage and p: unit rows (B, D)."""
        stages = list(dict.fromkeys(stage for stage, _ in self.columns))
        of_stage = dict(zip(stages, self._maps(self.resize(images, scale), stages), strict=True))
        parts = [F.normalize(gem(of_stage[stage], p), dim=-1) for stage, p in self.columns]
        return F.normalize(torch.cat(parts, dim=1), dim=-1)


def fold_batch_norm(embedder: Embedder) -> Embedder:
    """Give a copy whose batch norms are folded into the convolutions before them, for inference; same descriptors.

    y = w (conv(x) - mean) / sqrt(var + eps) + b is one convolution with other weights. Which norm follows which
    convolution is seen by running the network once on a small image; the copy is then checked on it. A network
    without such pairs, or that doesn't take that image, or whose copy would differ, is given back itself.
    """
    if not any(isinstance(module, _BatchNorm) for module in embedder.modules()):
        return embedder
    folded = copy.deepcopy(embedder).eval()
    device = next(folded.parameters()).device
    probe = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.inference_mode():
            before = folded(probe)
    except Exception:  # networks of one size of image raise all kinds; of the museum's images the caller will hear
        return embedder
    parents = {id(child): (parent, name) for parent in folded.modules() for name, child in parent.named_children()}
    pairs = _convolutions_before_norms(folded, probe)
    for convolution, norm in pairs:
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (C,)
        bias = 0 if convolution.bias is None else convolution.bias
        convolution.weight = nn.Parameter(convolution.weight * scale[:, None, None, None])
        convolution.bias = nn.Parameter(norm.bias + (bias - norm.running_mean) * scale)
        # timm's norms carry the activation that follows
        rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
        parent, name = parents[id(norm)]
        setattr(parent, name, nn.Sequential(*rest))
    with torch.inference_mode():
        same = torch.allclose(folded(probe), before, atol=1e-5)
    return folded if pairs and same else embedder


def _convolutions_before_norms(network: nn.Module, probe: Tensor) -> list[tuple[nn.Conv2d, Any]]:
    """Pairs of a convolution and the batch norm that takes its output, both used once in a pass over `probe`."""
    made: dict[int, nn.Conv2d] = {}
    outputs, pairs, calls = [], [], Counter[int]()

    def after(module: nn.Module, _: Any, output: Any) -> None:
        calls[id(module)] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module
            outputs.append(output)  # kept, or another tensor could get its id

    def before(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, _BatchNorm) and inputs and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])], module))

    hooks = [module.register_forward_hook(after) for module in network.modules()]
    hooks += [module.register_forward_pre_hook(before) for module in network.modules()]
    with torch.no_grad():
        network(probe)
    for hook in hooks:
        hook.remove()
    return [
        (convolution, norm)
        for convolution, norm in pairs
        if calls[id(convolution)] == calls[id(norm)] == 1 and norm.affine and norm.track_running_stats
    ]


def load(name_or_checkpoint: str | Path, weights: str | Path | None = None) -> Embedder:
    """Load a named recipe, any timm model, or a checkpoint file, in evaluation mode on the CPU.

    A file is a checkpoint that metlib wrote, or a `torch.save` file of a ResNet, such as the Met authors' trained
    networks. A name's weights come from `weights`, a file or folder (or the folder in the environment variable
    METLIB_WEIGHTS, where it has them), else from the Hub or the recipe's URL.
    Raises FileNotFoundError for a file that isn't there, ValueError for an unknown name (the nearest are offered) or
    a checkpoint that doesn't fit its recipe, RuntimeError where weights can't be fetched or aren't those of the
    network: never a silent random one.
    """
    name = str(name_or_checkpoint)
    if name == "embedded":
        if weights is not None:
            raise ValueError(f"embedded comes with its weights: leave {weights} out, or load that file by its path")
        return _load_checkpoint(EMBEDDED)
    if name in RECIPES:
        return build(RECIPES[name], name, weights)
    path = Path(name).expanduser()
    if path.is_file():
        return _load_checkpoint(path)
    if name.endswith(weights_files.SUFFIXES) or len(path.parts) > 1:
        raise FileNotFoundError(f"no checkpoint {path}: expected a file of weights, or the name of a network")
    return build(of_timm(name), name, weights)


def save(embedder: Embedder, path: str | Path) -> Path:
    """Write an embedder as one safetensors file with its recipe in the header; GeM's p is kept as learned."""
    recipe = replace(embedder.recipe, gem_p=embedder.pool.p.item()).to_json()
    tensors = dict(embedder.trunk.state_dict())
    if embedder.projector is not None:
        tensors |= {f"projector.{key}": value for key, value in embedder.projector.state_dict().items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replacing(path) as file:
        file.write(safetensors.torch.save(tensors, metadata={"recipe": json.dumps(recipe)}))
    return Path(path)


def build(recipe: Recipe, name: str, weights: str | Path | None = None) -> Embedder:
    """Build the network of a recipe with its weights: from `weights` as in `load`, or drawn by the recipe's seed.

    `name` is what tables call it. Raises as `load` does.
    """
    if recipe.seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)  # not torch.manual_seed: it also seeds every GPU
            return Embedder(_prune(_bare_trunk(recipe), recipe), recipe, name).eval()
    trunk: Any
    source = find_in_files(recipe)
    path = weights_files.find(source or name, recipe.arch, weights)
    try:
        if source or (path and recipe.arch.startswith(_LOOSE)):
            path = path or weights_files.fetch(str(source))
            trunk = _bare_trunk(recipe)
            _fill(trunk, weights_files.rename(weights_files.read(path)), path)
        else:
            # With its classifier, which goes after: timm then checks that every weight of the network is in the
            # file, and with num_classes=0 it leaves at random what is missing.
            trunk = timm.create_model(
                recipe.arch, pretrained=True, pretrained_cfg_overlay=_place(path), **recipe.arch_args
            )
            trunk.reset_classifier(0)
            trunk.pretrained_cfg.pop("state_dict", None)  # a copy of all weights
    except Exception as error:  # the Hub's client, urllib and timm all raise their own kinds
        # timm lists every key that differs, one kind a line.
        reason = "\n".join(line[:600] for line in str(error).splitlines()[:8])
        advice = (
            "Check the network; or fetch them into the Hub's cache on a machine that has one and copy it here "
            f"(HF_HOME, HF_HUB_OFFLINE=1), or into a folder that {weights_files.ENVIRONMENT} names; "
            "or name a checkpoint file; or take the untrained 'random'"
        )
        if path is not None:
            advice = f"They were looked for in {path}: name the file of this network, or none to fetch its own"
        raise RuntimeError(
            f"the weights of {name} ({recipe.arch}) can't be loaded: {type(error).__name__}: {reason}\n{advice}"
        ) from error
    return Embedder(_prune(trunk, recipe), recipe, name).eval()


def _place(path: Path | None) -> dict[str, Any] | None:
    """Tell timm where weights are; files of torch.save are read here, for older timm runs what is in them."""
    if path is None:
        return None
    return {"state_dict": weights_files.read(path)} if weights_files.is_torch(path) else {"file": str(path)}


def _bare_trunk(recipe: Recipe) -> Any:
    """Build a network without weights of its own. Raises ValueError for arguments that timm can't use."""
    try:
        return timm.create_model(recipe.arch, pretrained=False, num_classes=0, **recipe.arch_args)
    except Exception as error:  # whatever wrong arguments run into: KeyError, AssertionError, ...
        arguments = dict(recipe.arch_args)
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"timm can't build {recipe.arch} with arch_args {arguments}: {reason}") from error


def _prune(trunk: Any, recipe: Recipe) -> Any:
    """Drop what comes after the recipe's stage, or after the last map that it pools."""
    if type(trunk).__name__ == "VGG":
        trunk.pre_logits = nn.Identity()  # five sixths of its weights, and no part of the map
    if recipe.stage is None:
        return trunk
    if not hasattr(trunk, "prune_intermediate_layers"):
        raise ValueError(f"timm can't stop {recipe.arch} at a stage: leave stage out, or take another arch")
    n = len(trunk.feature_info)
    if recipe.stage >= n:
        raise ValueError(f"{recipe.arch} has no stage {recipe.stage}: timm lists {n}, from 0 to {n - 1}")
    trunk.prune_intermediate_layers([recipe.stage], prune_norm=True, prune_head=True)
    return trunk


def _load_checkpoint(path: Path) -> Embedder:
    if weights_files.is_torch(path):
        return _load_foreign(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except Exception as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}): fetch or save it again") from error
    if "recipe" not in header:
        raise ValueError(
            f"{path} has no recipe in its header that says how to use it: write it with backbone.save, or load the "
            "network by name with weights= this file"
        )
    projector = {key: tensors.pop(key) for key in list(tensors) if key.startswith("projector.")}
    try:
        recipe = Recipe.from_json(header["recipe"])
        rows = tuple(projector["projector.weight"].shape[:1]) if "projector.weight" in projector else ()
        if rows != (() if recipe.projector is None else (recipe.projector,)):  # before memory is asked for
            raise ValueError(f"the recipe's projector is {recipe.projector}, that of the file has {rows or 'no'} rows")
        trunk = _bare_trunk(recipe)
        heads = (trunk.pretrained_cfg or {}).get("classifier") or ()
        embedder = Embedder(_prune(trunk, recipe), recipe, _name(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if embedder.projector is not None:
        _fill(embedder.projector, {k.removeprefix("projector."): v for k, v in projector.items()}, path)
    # A file may still hold the classifier (of the network as published); whatever else is too much is refused.
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    _fill(embedder.trunk, {k: v for k, v in tensors.items() if not k.startswith(prefixes)}, path)
    return embedder.eval()


def _load_foreign(path: Path) -> Embedder:
    """Load a `torch.save` file of a ResNet: a plain one, or one that the Met authors' code left."""
    tensors = weights_files.rename(weights_files.read(path))
    try:
        recipe = weights_files.recognise(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; load a network by name with weights= this file instead") from error
    embedder = Embedder(_bare_trunk(recipe), recipe, _name(path))
    projector = {k.removeprefix("projector."): v for k, v in tensors.items() if k.startswith("projector.")}
    _fill(embedder.projector or nn.Identity(), projector, path)
    _fill(embedder.trunk, {k: v for k, v in tensors.items() if k != "pool.p" and not k.startswith("projector.")}, path)
    return embedder.eval()


def _name(path: Path) -> str:
    """Name a network after its file, without its suffix; what else has dots in it, as the authors' do, is kept."""
    return next(
        (path.name.removesuffix(suffix) for suffix in weights_files.SUFFIXES if path.name.endswith(suffix)), path.name
    )


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into a module, or name the first keys that differ."""
    own = module.state_dict()
    # Files from before 2018 don't count batches; nothing of inference depends on it.
    tensors = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")} | tensors
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    if missing or extra or shapes:
        differ = [f"{k} {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}" for k in shapes[:3]]
        raise ValueError(
            f"{path} doesn't fit the architecture of its recipe (missing {missing[:3]}, unexpected {extra[:3]}, "
            f"of another shape {differ}): mend arch, arch_args or stage in its recipe, or save it again"
        )
    module.load_state_dict(tensors)
