"""Recipes: every network of the study built and run without a network, and what a recipe may say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from metlib import backbone
from metlib.backbone import Embedder, gem
from metlib.backbone.recipes import FILES, IMAGENET_MEAN, RECIPES, Recipe, find_in_files, of_timm

DIMS = {
    "R18IN": 512, "R50IN": 2048, "R50SwAV": 2048, "R50SIN": 2048, "R18SWSL": 512, "R50SWSL": 2048,
    "RX50-32x4d-SWSL": 2048, "RX101-32x4d-SWSL": 2048, "RX101-32x8d-SWSL": 2048, "RX101-32x16d-SWSL": 2048,
    "DINOv2-S": 384, "DINOv2-B": 768, "DINOv2-L": 1024, "DINOv2-g": 1536,
    "DINOv2-S-reg": 384, "DINOv2-B-reg": 768, "DINOv2-L-reg": 1024, "DINOv2-g-reg": 1536,
    "DINOv3-S": 384, "DINOv3-B": 768, "DINOv3-L": 1024, "DINOv3-7B": 4096,
    "DINOv3-ConvNeXt-T": 768, "DINOv3-ConvNeXt-S": 768, "DINOv3-ConvNeXt-B": 1024, "DINOv3-ConvNeXt-L": 1536,
    "CLIP-B16": 768, "CLIP-L14": 1024, "CLIP-L14-336": 1024,
    "SigLIP2-B16": 768, "SigLIP2-L16": 1024, "SigLIP2-So400m": 1152,
    "VGG19": 512, "Inception-v3": 2048, "Xception": 2048, "EfficientNet-Lite0": 1280, "random": 128,
}  # fmt: skip
LARGE = (  # more than 100 million weights: built and run without numbers, on the meta device
    "RX101-32x16d-SWSL", "DINOv2-L", "DINOv2-L-reg", "DINOv2-g", "DINOv2-g-reg", "DINOv3-L", "DINOv3-7B",
    "DINOv3-ConvNeXt-L", "CLIP-L14", "CLIP-L14-336", "SigLIP2-L16", "SigLIP2-So400m",
)  # fmt: skip
SMALL = [name for name in RECIPES if name not in LARGE]
TRANSFORMERS = [name for name in RECIPES if RECIPES[name].arch.startswith("vit_")]
TAGGED = [name for name in RECIPES if "." in RECIPES[name].arch]
SIZE = (93, 77)  # a multiple of neither patch

pytestmark = pytest.mark.usefixtures("one_thread")


def prefix(name: str) -> int:
    """How many tokens come before the patches: class token, and registers."""
    registers = 4 if name.endswith("-reg") or name.startswith("DINOv3") else 0
    return 0 if name.startswith("SigLIP") else 1 + registers


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def blank(*size: int) -> Tensor:
    return torch.empty(2, 3, *size)


def prepared(embedder: Embedder, x: Tensor) -> Tensor:
    """Resize and normalise by hand: what the trunk should be given at scale 1."""
    recipe = embedder.recipe
    if recipe.multiple > 1:
        size = [recipe.multiple * round(side / recipe.multiple) for side in x.shape[-2:]]
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    return (x - torch.tensor(recipe.mean)[:, None, None]) / torch.tensor(recipe.std)[:, None, None]


# --- every network ----------------------------------------------------------------------------------------------------


OURS = ("random",)  # weights that nobody else published


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest) -> Iterator[Embedder]:
    """One network with random weights; the next test's takes its place in memory."""
    name = request.param
    embedder = backbone.build(replace(RECIPES[name], seed=0), name)
    with torch.no_grad():
        for key, weight in embedder.trunk.named_parameters():
            if "gamma" in key:  # at their start, 1e-5, every block does almost nothing
                weight.fill_(1.0)
    yield embedder


def test_every_recipe_is_built_and_run() -> None:
    assert list(DIMS) == list(RECIPES) and set(LARGE) < set(RECIPES)


@pytest.mark.slow
@torch.inference_mode()
def test_a_network_gives_unit_rows_that_depend_on_the_image(small: Embedder) -> None:
    rows = small(images(*SIZE))
    assert rows.shape == (2, DIMS[small.name]) == (2, small.dim) and rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    assert (rows[0] - rows[1]).norm() > 1e-3
    assert not small.training


@pytest.mark.slow
@torch.inference_mode()
def test_a_network_is_pooled_as_its_recipe_says(small: Embedder) -> None:
    x = prepared(small, images(*SIZE))
    if small.recipe.pooling == "gem":
        if small.recipe.stage is None:
            expected = gem(small.trunk.forward_features(x))
        else:
            expected = gem(small.trunk.forward_intermediates(x, intermediates_only=True)[-1])
        assert small.features(images(*SIZE)).min() >= 0, "GeM would cut negative values off"
    else:
        expected = small.trunk(x)  # timm's own way from the image to what its classifier would be given
    torch.testing.assert_close(small(images(*SIZE)), F.normalize(expected, dim=1))
    if small.recipe.pooling == "class":
        torch.testing.assert_close(expected, small.trunk.forward_features(x)[:, 0])
    if small.recipe.pooling == "head":
        head = small.trunk.forward_head(small.trunk.forward_features(x), pre_logits=True)
        torch.testing.assert_close(expected, head)


@pytest.mark.slow
@pytest.mark.parametrize("small", [name for name in TRANSFORMERS if name in SMALL], indirect=True)
@torch.inference_mode()
def test_prefix_tokens_are_no_part_of_the_map(small: Embedder) -> None:
    x, n = prepared(small, images(*SIZE)), prefix(small.name)
    h, w = (side // small.recipe.multiple for side in x.shape[-2:])
    tokens = small.trunk.forward_features(x)
    assert tokens.shape == (2, n + h * w, small.dim)
    by_hand = torch.stack([tokens[:, n + i * w : n + (i + 1) * w] for i in range(h)], dim=1)  # (B, h, w, C)
    torch.testing.assert_close(small.features(images(*SIZE)), by_hand.permute(0, 3, 1, 2))
    timms = small.trunk.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(small.features(images(*SIZE)), timms)
    mean = Embedder(small.trunk, replace(small.recipe, pooling="mean"), "mean").eval()
    torch.testing.assert_close(mean(images(*SIZE)), F.normalize(tokens[:, n:].mean(dim=1), dim=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_network_has_the_right_shapes(name: str) -> None:
    with torch.device("meta"):
        embedder = backbone.build(replace(RECIPES[name], seed=0), name)
        rows, features = embedder(blank(*SIZE)), embedder.features(blank(*SIZE))
    assert rows.shape == (2, DIMS[name]) == (2, embedder.dim)
    if name in TRANSFORMERS:
        patch = RECIPES[name].multiple
        assert features.shape[2:] == tuple(round(side / patch) for side in SIZE)
        assert embedder.trunk.num_prefix_tokens == prefix(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in OURS])
def test_the_published_file_fits(name: str) -> None:
    """What timm builds by default has the names and shapes that the Hub's file has: our arguments may change none."""
    recipe = RECIPES[name]
    with torch.device("meta"):
        default, ours = timm.create_model(recipe.arch), timm.create_model(recipe.arch, **recipe.arch_args)
    shapes, expected = ({k: v.shape for k, v in net.state_dict().items()} for net in (ours, default))
    assert shapes == expected
    if name in TRANSFORMERS:  # DINOv3 would be averaged over its patches; we ask for the class token
        poolings = {"DINOv2": ("token", "token", "class"), "DINOv3": ("avg", "token", "class")}
        poolings |= {"CLIP": ("token", "token", "class"), "SigLIP2": ("map", "map", "head")}
        assert (default.global_pool, ours.global_pool, recipe.pooling) == poolings[name.split("-")[0]]


# --- resolution -------------------------------------------------------------------------------------------------------


def arriving(name: str, size: tuple[int, int], scale: float = 1.0, **changes: Any) -> tuple[int, ...]:
    """The size at which an image reaches the network's first layer."""
    seen: list[tuple[int, ...]] = []
    with torch.device("meta"):
        embedder = backbone.build(replace(RECIPES[name], seed=0, **changes), name)
        embedder.trunk.patch_embed.register_forward_pre_hook(lambda layer, given: seen.append(given[0].shape[-2:]))
        embedder(blank(*size), scale)
    assert len(seen) == 1
    return tuple(seen[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "scale", "expected"),
    [
        ("DINOv2-S", (500, 333), 1, (504, 336)),  # 35.7 and 23.8 patches of 14
        ("DINOv2-S", (500, 333), 2**-0.5, (350, 238)),  # 25.3 and 16.8
        ("DINOv2-S", (500, 333), 0.5, (252, 168)),
        ("DINOv2-S", (518, 14), 1, (518, 14)),
        ("DINOv2-S", (1036, 700), 1, (518, 350)),  # the longer side comes down to 518
        ("DINOv2-S", (1036, 700), 0.5, (252, 168)),  # of what scale 1 is: 18.5 patches, to even
        ("DINOv2-S", (259, 200), 4, (518, 406)),  # nothing brings it above 518; 28.6 patches
        ("DINOv2-S", (500, 5), 1, (504, 14)),  # one patch at least
        ("DINOv3-S", (500, 333), 1, (496, 336)),  # 31.25 and 20.8 patches of 16
        ("DINOv3-S", (1000, 640), 1, (992, 640)),  # no largest size; 62.5, to even
        ("CLIP-B16", (500, 333), 1, (224, 144)),  # 9.3 patches
        ("CLIP-B16", (500, 333), 0.5, (112, 80)),
        ("CLIP-B16", (160, 90), 1, (160, 96)),  # a small image isn't enlarged
        ("SigLIP2-B16", (333, 500), 1, (336, 496)),
        ("SigLIP2-B16", (1024, 512), 2**-0.5, (368, 176)),  # 22.6 and 11.3
    ],
)
def test_sides_are_whole_patches(name: str, size: tuple[int, int], scale: float, expected: tuple[int, int]) -> None:
    assert arriving(name, size, scale) == expected


@pytest.mark.slow
def test_rounding_up_does_not_pass_the_longest_side() -> None:
    assert arriving("DINOv2-S", (600, 300), longest=500) == (490, 252)  # 35.7 patches, and 35 is the most


@pytest.mark.slow
def test_resizing_is_one_step_with_antialiasing() -> None:
    embedder, x = backbone.build(replace(RECIPES["random"], stage=2, multiple=16, longest=64), "x"), images(150, 90)
    by_hand = F.interpolate(x, size=(64, 32), mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(embedder.resize(x), by_hand)
    same = images(64, 48)
    assert embedder.resize(same) is same
    assert embedder.recipe.resolution == "at most 64 pixels, sides rounded to multiples of 16"
    assert RECIPES["R18IN"].resolution == "native size"


# --- what the recipes say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_agrees_with_timm_and_names_its_source(name: str) -> None:
    recipe = RECIPES[name]
    if name in TAGGED:
        config = timm.get_pretrained_cfg(recipe.arch)
        assert config is not None and config.tag == recipe.arch.split(".")[1]
        assert config.mean == recipe.mean and config.std == recipe.std
        assert bool(config.hf_hub_id) != (name in FILES)
    else:  # torchvision's ResNet-50 in form, and its pixel statistics
        assert (recipe.arch == "resnet50" and name in FILES) or name in OURS
        assert recipe.mean == IMAGENET_MEAN
    assert recipe.origin and recipe.untrained == (name == "random")
    assert bool(recipe.licence) == (name not in OURS)


def test_the_pixel_statistics_are_the_published_ones() -> None:
    clip = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    imagenet, half = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)
    for name, recipe in RECIPES.items():
        like_half = name.startswith("SigLIP") or name in ("Inception-v3", "Xception", "EfficientNet-Lite0")
        expected = clip if name.startswith("CLIP") else half if like_half else imagenet
        assert (recipe.mean, recipe.std) == expected, name


@pytest.mark.slow
@pytest.mark.parametrize("name", TAGGED)
def test_a_timm_name_gives_what_the_recipe_has(name: str) -> None:
    written, found = RECIPES[name], of_timm(RECIPES[name].arch)
    same = {f.name for f in fields(Recipe)} - {"origin", "licence"}
    assert {key: getattr(found, key) for key in same} == {key: getattr(written, key) for key in same}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pooling", "multiple", "longest"),
    [
        ("test_resnet", "gem", 1, None),
        ("test_vit", "class", 16, 160),
        ("test_vit3", "head", 16, 160),
        ("vit_base_patch16_siglip_gap_224", "mean", 16, 224),
        ("deit_tiny_distilled_patch16_224", "class", 16, 224),
        ("vit_small_r26_s32_224", "class", 32, 224),  # a convolutional stem before the patches
        ("eva02_tiny_patch14_224", "class", 14, 224),  # rotary and learned positions
    ],
)
def test_any_transformer_of_timm(name: str, pooling: str, multiple: int, longest: int | None) -> None:
    recipe = of_timm(name)
    assert (recipe.pooling, recipe.multiple, recipe.longest) == (pooling, multiple, longest)
    with torch.device("meta"):
        embedder = backbone.build(replace(recipe, seed=0), name)
        assert embedder(blank(*SIZE)).shape == (2, embedder.dim)


def test_a_transformer_without_dynamic_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"beit_base_patch16_224 is of a family .*take a network"):
        of_timm("beit_base_patch16_224")


def test_files_are_those_of_their_recipes() -> None:
    assert set(FILES) == {"R50SwAV", "R50SIN", "Xception"} < set(RECIPES)
    for name, (url, file) in FILES.items():
        assert url.startswith("https://") and url.endswith("/")
        assert file.sha256 is None or f"-{file.sha256}." in file.file  # by torch.hub's custom
        assert find_in_files(replace(RECIPES[name], stage=2, gem_p=1.0)) == name
    for name in ("R50IN", "R50SWSL", "random"):
        assert find_in_files(RECIPES[name]) is None
    assert find_in_files(Recipe("resnet50")) is None


# --- recipes from outside ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_json(name: str) -> None:
    recipe = RECIPES[name]
    text = json.dumps(recipe.to_json())
    assert Recipe.from_json(text) == recipe
    assert ("pooling" in recipe.to_json()) == (recipe.pooling != "gem")
    assert ("multiple" in recipe.to_json()) == (recipe.multiple != 1)
    assert ("longest" in recipe.to_json()) == (recipe.longest is not None)


BAD = {
    "another pooling": ({"pooling": "max"}, "pooling must be one of gem, mean, class, head, got 'max'"),
    "no pooling": ({"pooling": None}, "pooling must be one of"),
    "a list of poolings": ({"pooling": ["gem"]}, "pooling must be one of"),
    "class at a stage": ({"pooling": "class", "stage": 2}, "pooling 'class' reads the network's end: leave stage out"),
    "head at a stage": ({"pooling": "head", "stage": 0}, "pooling 'head' reads the network's end"),
    "multiple 0": ({"multiple": 0}, "multiple must be an integer of at least 1, got 0"),
    "no multiple": ({"multiple": None}, "multiple must be an integer"),
    "half a pixel": ({"multiple": 14.5}, "multiple must be an integer"),
    "a true multiple": ({"multiple": True}, "multiple must be an integer"),
    "huge multiple": ({"multiple": 10**30}, "multiple must be an integer"),
    "longest 0": ({"longest": 0}, "longest must be an integer of at least 1, got 0"),
    "longest -518": ({"longest": -518}, "longest must be an integer"),
    "longest text": ({"longest": "518"}, "longest must be an integer"),
    "licence": ({"licence": ["MIT"]}, "licence must be a str"),
}


@pytest.mark.parametrize("case", BAD)
def test_values_are_checked(case: str) -> None:
    values, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(json.dumps({"arch": "test_vit", **values}))


@pytest.mark.slow
def test_a_class_token_that_is_not_there_is_refused() -> None:
    for arch in ("test_resnet", "vit_base_patch16_siglip_224"):
        with torch.device("meta"), pytest.raises(ValueError, match="mine has no class token"):
            backbone.build(Recipe(arch, pooling="class", seed=0), "mine")


@pytest.mark.parametrize("pooling", ["mean", "head"])
def test_maps_may_be_averaged_or_left_to_their_head(pooling: str) -> None:
    embedder, x = backbone.build(Recipe("test_resnet", pooling=pooling, seed=1), "tiny"), images(64, 48)
    with torch.inference_mode():
        expected = embedder.trunk.forward_features(prepared(embedder, x)).mean(dim=(2, 3))
        torch.testing.assert_close(embedder(x), F.normalize(expected, dim=1))
