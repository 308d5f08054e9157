"""Networks that turn images into descriptors: GeM, the `Embedder`, the named recipes, checkpoints in and out.

A checkpoint is one safetensors file whose header carries its recipe: `load(path)` needs nothing else.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metlib.files import replacing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Arguments of timm.create_model that a checkpoint must not set: they load other files, come from `load` itself, or
# make something else than a network from RGB images to one map.
_FORBIDDEN_ARGS = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
    "num_classes", "in_chans", "features_only", "out_indices",
}  # fmt: skip


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


@dataclass(frozen=True)
class Recipe:
    """What it takes to build a network and use it right; the JSON object in a checkpoint's header.

    `arch` is a timm name (with its weights' tag for a named recipe), `arch_args` further arguments for it, `mean`
    and `std` the pixel statistics it was trained with, `gem_p` GeM's exponent, `stage` an index into timm's
    `feature_info` (None: the last map), `projector` the output dimension of a linear layer after pooling (None: no
    such layer), `origin` where the weights come from and their licence, `training` how they were trained, `seed` set
    for untrained weights only. Raises ValueError for values that are none of these.
    """

    arch: str
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    gem_p: float = 3.0
    stage: int | None = None
    projector: int | None = None
    origin: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.arch, str) or not timm.is_model(self.arch):
            known = f"is no model that timm {timm.__version__} knows"
            raise ValueError(f"arch {self.arch!r} {known}{_nearest(self.arch)}")
        if not isinstance(self.arch_args, Mapping) or _FORBIDDEN_ARGS & set(self.arch_args):
            without = sorted(_FORBIDDEN_ARGS)
            raise ValueError(f"arch_args must be an object without {without}, got {self.arch_args!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or len(value) != 3 or not all(map(_is_number, value)):
                raise ValueError(f"{name} must be three numbers, got {value!r}")
            object.__setattr__(self, name, tuple(float(v) for v in value))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std!r}")
        if not _is_number(self.gem_p) or self.gem_p <= 0:
            raise ValueError(f"gem_p must be a positive number, got {self.gem_p!r}")
        for name, kind in (("origin", str), ("training", Mapping)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        for name, least in (("stage", 0), ("projector", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not least <= value < 2**63):
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")

    @property
    def untrained(self) -> bool:
        """Whether the weights are random numbers: a floor to compare with, not a result."""
        return self.seed is not None

    def to_json(self) -> dict[str, Any]:
        """Give the recipe as a JSON object: `arch`, `arch_args`, `mean`, `std`, and what differs from the defaults."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {"mean": list(self.mean), "std": list(self.std)}
        plain |= {"arch_args": dict(self.arch_args), "training": dict(self.training)}
        always = ("arch", "arch_args", "mean", "std")
        defaults = {"gem_p": 3.0, "origin": "", "training": {}}
        return {k: v for k, v in plain.items() if k in always or v != defaults.get(k)}

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe from a checkpoint's header. Raises ValueError for anything that isn't one."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the recipe is damaged JSON ({error})") from None
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or "arch" not in values or set(values) - known:
            extra = sorted(set(values) - known) if isinstance(values, dict) else type(values).__name__
            expected = f"a recipe is a JSON object with 'arch' and otherwise only {sorted(known - {'arch'})}"
            raise ValueError(f"{expected}, got {extra if extra else 'no arch'}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"the recipe holds a value of the wrong kind: {error}") from None


def _is_number(value: object) -> bool:
    """Say whether a value from outside is a finite number that a float can hold, and no bool."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _swsl(arch: str) -> Recipe:
    origin = "semi-weakly supervised, Yalniz et al. 2019; CC BY-NC 4.0"
    return Recipe(f"{arch}.fb_swsl_ig1b_ft_in1k", origin=origin)


RECIPES: dict[str, Recipe] = {
    "R18IN": Recipe("resnet18.tv_in1k", origin="ImageNet-1k, torchvision; BSD 3-Clause"),
    "R50IN": Recipe("resnet50.tv_in1k", origin="ImageNet-1k, torchvision; BSD 3-Clause"),
    "R18SWSL": _swsl("resnet18"),
    "R50SWSL": _swsl("resnet50"),
    "RX50-32x4d-SWSL": _swsl("resnext50_32x4d"),
    "RX101-32x4d-SWSL": _swsl("resnext101_32x4d"),
    "RX101-32x8d-SWSL": _swsl("resnext101_32x8d"),
    "RX101-32x16d-SWSL": _swsl("resnext101_32x16d"),
    "random": Recipe("resnet18", stage=2, seed=0, origin="untrained: a floor, not a result"),
}
"""The study's networks by its names. `random` is a small untrained one: what code and pixels give without learning."""


class Embedder(nn.Module):
    """A network with its recipe: images in, unit descriptors out.

    `trunk` is a timm model, `name` what tables call it, `channels` those of the map that is pooled, `dim` the
    descriptor's dimension D.
    """

    mean: Tensor
    std: Tensor
    pool: GeM

    def __init__(self, trunk: Any, recipe: Recipe, name: str) -> None:
        super().__init__()
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

    def features(self, images: Tensor) -> Tensor:
        """Compute the map that is pooled: RGB (B, 3, H, W) in [0, 1] -> (B, C, h, w).

        Raises ValueError where the network's last output is no such map (tokens, or channels last): pooling would
        take the mean over the wrong axes.
        """
        x = (images - self.mean) / self.std
        if self.recipe.stage is None:
            x = self.trunk.forward_features(x)
        else:
            stages = [self.recipe.stage]
            x = self.trunk.forward_intermediates(x, indices=stages, stop_early=True, intermediates_only=True)[0]
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"{self.name} ends with {tuple(x.shape)}, expected a map (B, {self.channels}, h, w): take a "
                "convolutional network, or give the recipe a stage (an index into timm's feature_info)"
            )
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Describe RGB images (B, 3, H, W) in [0, 1] with unit rows (B, D), at one scale."""
        x = F.normalize(self.pool(self.features(images)), dim=-1)  # (B, C)
        return x if self.projector is None else F.normalize(self.projector(x), dim=-1)

    def weights_sha256(self) -> str:
        """Hash names, shapes and values of all weights, hexadecimal: by this, descriptors know their network."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load(name_or_checkpoint: str | Path) -> Embedder:
    """Load a named recipe, any timm model, or a metlib checkpoint file, in evaluation mode on the CPU.

    Raises FileNotFoundError for a file that isn't there, ValueError for an unknown name (the nearest are offered) or
    a checkpoint that doesn't fit its recipe, RuntimeError where weights can't be fetched or aren't those of the
    network: never a silent random one.
    """
    name = str(name_or_checkpoint)
    if name in RECIPES:
        return _build(RECIPES[name], name)
    path = Path(name).expanduser()
    if path.is_file():
        return _load_checkpoint(path)
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise FileNotFoundError(f"no checkpoint {path}: expected a .safetensors file that metlib wrote, or a name")
    try:
        config: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the network is known, the tag of its weights isn't
        config = None
    if config is None:
        names = ", ".join(RECIPES)
        raise ValueError(f"backbone {name!r} is no recipe ({names}), file or timm model{_nearest(name)}")
    licence = config.license or "licence not stated"
    return _build(Recipe(name, mean=config.mean, std=config.std, origin=f"timm; {licence}"), name)


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


def _build(recipe: Recipe, name: str) -> Embedder:
    """Build a named recipe with its weights: fetched by timm, or drawn by the recipe's seed."""
    if recipe.seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)  # not torch.manual_seed: it also seeds every GPU
            return Embedder(_prune(_bare_trunk(recipe), recipe), recipe, name).eval()
    try:
        # With its classifier, which goes after: timm then checks that every weight of the network is in the file,
        # and with num_classes=0 it leaves at random what is missing.
        trunk: Any = timm.create_model(recipe.arch, pretrained=True, **recipe.arch_args)
    except Exception as error:  # the Hub's client, urllib and timm all raise their own kinds
        raise RuntimeError(
            f"the weights of {name} ({recipe.arch}) can't be loaded: {type(error).__name__}: {error}\n"
            "Check the network; or fetch them into the Hub's cache on a machine that has one and copy it here "
            "(HF_HOME, HF_HUB_OFFLINE=1); or name a metlib checkpoint file; or take the untrained 'random'"
        ) from error
    trunk.reset_classifier(0)
    return Embedder(_prune(trunk, recipe), recipe, name).eval()


def _bare_trunk(recipe: Recipe) -> Any:
    """Build a network without weights of its own. Raises ValueError for arguments that timm can't use."""
    try:
        return timm.create_model(recipe.arch, pretrained=False, num_classes=0, **recipe.arch_args)
    except Exception as error:  # whatever wrong arguments run into: KeyError, AssertionError, ...
        arguments = dict(recipe.arch_args)
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"timm can't build {recipe.arch} with arch_args {arguments}: {reason}") from error


def _prune(trunk: Any, recipe: Recipe) -> Any:
    """Drop what comes after the recipe's stage."""
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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except Exception as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}): fetch or save it again") from error
    if "recipe" not in header:
        raise ValueError(f"{path} has no recipe in its header that says how to use it: write it with backbone.save")
    projector = {key: tensors.pop(key) for key in list(tensors) if key.startswith("projector.")}
    try:
        recipe = Recipe.from_json(header["recipe"])
        rows = tuple(projector["projector.weight"].shape[:1]) if "projector.weight" in projector else ()
        if rows != (() if recipe.projector is None else (recipe.projector,)):  # before memory is asked for
            raise ValueError(f"the recipe's projector is {recipe.projector}, that of the file has {rows or 'no'} rows")
        trunk = _bare_trunk(recipe)
        heads = (trunk.pretrained_cfg or {}).get("classifier") or ()
        embedder = Embedder(_prune(trunk, recipe), recipe, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if embedder.projector is not None:
        _fill(embedder.projector, {k.removeprefix("projector."): v for k, v in projector.items()}, path)
    # A file may still hold the classifier (of the network as published); whatever else is too much is refused.
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    _fill(embedder.trunk, {k: v for k, v in tensors.items() if not k.startswith(prefixes)}, path)
    return embedder.eval()


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into a module, or name the first keys that differ."""
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    if missing or extra or shapes:
        differ = [f"{k} {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}" for k in shapes[:3]]
        raise ValueError(
            f"{path} doesn't fit the architecture of its recipe (missing {missing[:3]}, unexpected {extra[:3]}, "
            f"of another shape {differ}): mend arch, arch_args or stage in its recipe, or save it again"
        )
    module.load_state_dict(tensors)


def _nearest(name: object) -> str:
    if not isinstance(name, str):
        return ""
    known = {known.casefold(): known for known in (*timm.list_models(), *timm.list_pretrained(), *RECIPES)}
    close = difflib.get_close_matches(name.casefold()[:100], known, n=3)
    return f"; the nearest names are {', '.join(known[c] for c in close)}" if close else ""
