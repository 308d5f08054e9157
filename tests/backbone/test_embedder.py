"""GeM against loops, the map that is pooled, and batch norms folded: what can't be folded is returned itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metlib import backbone
from metlib.analysis.sweep import Panel
from metlib.backbone import Embedder, GeM, Recipe, fold_batch_norm, gem, load, recipes

TINY = Recipe("test_resnet", seed=1, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))


def tiny(**changes: Any) -> Embedder:
    """A small untrained network, the same every time."""
    return backbone.build(Recipe(**{"arch": "test_resnet", "seed": 1} | changes), "tiny")


def images(n: int = 2, height: int = 64, width: int = 48, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def naive_gem(x: Tensor, p: float, eps: float) -> list[list[float]]:
    pooled = []
    for image in x.double().tolist():
        pooled.append([])
        for channel in image:
            powers = [max(value, eps) ** p for row in channel for value in row]
            pooled[-1].append((sum(powers) / len(powers)) ** (1 / p))
    return pooled


# --- GeM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.5, 1.0, 2.2, 3.0, 8.0])
def test_gem_is_the_mean_of_powers(p: float) -> None:
    x = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0)) * 3
    expected = torch.tensor(naive_gem(x, p, 1e-6), dtype=torch.float64)
    torch.testing.assert_close(gem(x, p).double(), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(gem(x.double(), p), expected, rtol=1e-12, atol=0)


def test_gem_lies_between_mean_and_max() -> None:
    x = images() * 50
    torch.testing.assert_close(gem(x, 1.0), x.mean(dim=(2, 3)))
    torch.testing.assert_close(gem(x, 5000.0), x.amax(dim=(2, 3)), rtol=3e-3, atol=0)
    assert (gem(x, 3.0) > gem(x, 2.0)).all() and (gem(x, 100.0) > gem(x, 3.0)).all()  # and no overflow on the way


def test_gem_clamps_what_is_not_positive() -> None:
    x = torch.full((1, 2, 3, 3), -4.0)
    torch.testing.assert_close(gem(x, 3.0, eps=1e-3), torch.full((1, 2), 1e-3))
    torch.testing.assert_close(gem(x, 30.0), torch.full((1, 2), 1e-6))  # 1e-6 ** 30 is 0 in float32


def test_gem_is_float32_under_autocast() -> None:
    x = (torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 60).to(torch.bfloat16)
    pool = GeM()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        function, module = gem(x), pool(x)
    assert function.dtype == module.dtype == torch.float32
    torch.testing.assert_close(function, torch.tensor(naive_gem(x, 3.0, 1e-6), dtype=torch.float32))
    half = gem(torch.full((1, 1, 2, 2), 100.0, dtype=torch.float16))  # 100 cubed is too much for half precision
    torch.testing.assert_close(half, torch.tensor([[100.0]]))


def test_gem_p_learns() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) + 0.1
    p = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: gem(x, p), (x.detach().requires_grad_(), p))
    pool = GeM(2.5)
    pool(torch.rand(2, 3, 4, 4)).sum().backward()
    assert pool.p.grad is not None and pool.p.grad.item() > 0  # the p-mean grows with p
    assert "p=2.5" in repr(pool)
    dead = torch.zeros(1, 1, 2, 2, requires_grad=True)
    gem(dead, torch.tensor(20.0)).sum().backward()
    assert torch.isfinite(dead.grad).all()


# --- Embedder --------------------------------------------------------------------------------------------------------


def test_a_batch_is_its_images_one_by_one() -> None:
    for embedder in (tiny(), tiny(projector=7), tiny(stage=2)):
        x = images(2)
        with torch.inference_mode():
            both = embedder(x)
            single = torch.cat([embedder(x[:1]), embedder(x[1:])])
        assert both.shape == (2, embedder.dim) and both.dtype == torch.float32
        torch.testing.assert_close(both, single, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(both.norm(dim=1), torch.ones(2))  # each row, not the batch


def test_pixels_are_normalised_by_the_recipe() -> None:
    embedder = tiny(mean=TINY.mean, std=TINY.std)
    x = images()
    by_hand = x.clone()
    for channel in range(3):
        by_hand[:, channel] = (x[:, channel] - TINY.mean[channel]) / TINY.std[channel]
    with torch.inference_mode():
        expected = embedder.trunk.forward_features(by_hand)
        torch.testing.assert_close(embedder.features(x), expected)
        pooled = gem(expected)
        torch.testing.assert_close(embedder(x), pooled / pooled.norm(dim=1, keepdim=True))


def test_the_last_map_is_that_of_forward_features() -> None:
    embedder = backbone.build(Recipe("mobilenetv2_100", seed=0), "mobile")
    assert embedder.dim == embedder.channels == 1280
    with torch.inference_mode():
        assert embedder.features(images(1)).shape == (1, 1280, 2, 2)


@pytest.mark.slow
def test_a_stage_drops_what_comes_after_it() -> None:
    embedder = backbone.build(Recipe("resnet18", stage=3, seed=0), "to layer3")
    assert embedder.dim == 256
    assert not any(key.startswith(("layer4", "fc")) for key in embedder.trunk.state_dict())
    whole = timm.create_model("resnet18", num_classes=0).eval()
    whole.load_state_dict(embedder.trunk.state_dict(), strict=False)
    x = images()
    with torch.inference_mode():
        outside = whole.layer3(whole.layer2(whole.layer1(whole.maxpool(whole.act1(whole.bn1(whole.conv1(
            (x - embedder.mean) / embedder.std
        )))))))  # fmt: skip
        torch.testing.assert_close(embedder.features(x), outside)


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_every_stage_has_the_channels_that_timm_lists(arch: str) -> None:
    size = 160 if arch == "test_vit" else 64
    for stage, info in enumerate(timm.create_model(arch).feature_info):
        embedder = backbone.build(Recipe(arch, stage=stage, seed=0), arch)
        with torch.inference_mode():
            assert embedder(images(2, size, size)).shape == (2, info["num_chs"])


@pytest.mark.parametrize("scale", [2**-0.5, 0.5, 1.5])
def test_most_networks_are_given_images_as_they_were_before_recipes_had_a_resolution(scale: float) -> None:
    embedder, x = tiny(), images(2, 75, 50)
    by_hand = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    assert embedder.resize(x) is x
    assert torch.equal(embedder.resize(x, scale), by_hand)
    with torch.inference_mode():
        assert torch.equal(embedder(x, scale), embedder(by_hand))
        assert torch.equal(embedder.features(x, scale), embedder.features(by_hand))


def test_what_says_where_weights_are_from_is_no_part_of_a_networks_identity() -> None:
    embedder = tiny(origin="here", licence="MIT", projector=3, training={"epochs": 2})
    with torch.no_grad():
        embedder.pool.p += 0.5
    assert embedder.identity == {
        "arch": "test_resnet", "arch_args": {}, "seed": 1, "projector": 3, "gem_p": 3.5, "training": {"epochs": 2},
        "mean": list(recipes.IMAGENET_MEAN), "std": list(recipes.IMAGENET_STD),
    }  # fmt: skip


def test_tokens_are_no_map() -> None:
    embedder = backbone.build(Recipe("test_vit", seed=0), "tokens")
    with pytest.raises(ValueError, match=r"tokens ends with \(2, 101, 64\), expected a map .*stage"):
        embedder(images(2, 160, 160))


def test_a_projector_comes_after_pooling() -> None:
    embedder = tiny(projector=5)
    assert embedder.dim == 5
    with torch.inference_mode():
        unit = torch.nn.functional.normalize(gem(embedder.features(images())), dim=1)
        expected = unit @ embedder.projector.weight.T + embedder.projector.bias
        torch.testing.assert_close(embedder(images()), expected / expected.norm(dim=1, keepdim=True))


@pytest.mark.slow
def test_the_title_says_untrained() -> None:
    assert "untrained" in load("random").title and "floor" in load("random").title
    assert Embedder(tiny().trunk, Recipe("test_resnet"), "mine").title == "mine"


def test_the_hash_sees_every_weight() -> None:
    one, two = tiny(), tiny()
    assert one.weights_sha256() == two.weights_sha256()
    assert one.to(memory_format=torch.channels_last).weights_sha256() == two.weights_sha256()
    with torch.no_grad():
        two.pool.p += 0.5
    assert one.weights_sha256() != two.weights_sha256()
    assert tiny(seed=2).weights_sha256() != one.weights_sha256()


# --- batch norms folded -----------------------------------------------------------------------------------------------


def lived(embedder: Embedder, seed: int = 0) -> Embedder:
    """Give batch norms statistics and weights as after training; new ones change next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    for norm in norms(embedder):
        norm.running_mean = torch.randn(norm.num_features, generator=generator) / 5
        norm.running_var = torch.rand(norm.num_features, generator=generator) + 0.5
        if norm.affine:
            norm.weight.data = torch.rand(norm.num_features, generator=generator) + 0.5
            norm.bias.data = torch.randn(norm.num_features, generator=generator) / 5
    return embedder


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


FOLDED: dict[str, Callable[[], Embedder]] = {
    "resnet": tiny,
    "norms with activation": lambda: backbone.build(Recipe("mobilenetv2_100", seed=0), "mobile"),
    "branches": lambda: backbone.build(Recipe("test_byobnet", seed=0), "branches"),
    "stage": lambda: tiny(stage=2),
    "projector": lambda: tiny(projector=5),
    "panel": lambda: Panel(tiny(), (1, 4), (1, 4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOLDED)
def test_a_folded_network_describes_alike(kind: str) -> None:
    embedder = lived(FOLDED[kind]())
    before, weights = embedder.weights_sha256(), {k: v.clone() for k, v in embedder.state_dict().items()}
    folded = fold_batch_norm(embedder)
    assert norms(embedder) and not norms(folded)
    with torch.inference_mode():
        for x, scale in ((images(2), 1.0), (images(1, 75, 130, seed=1), 0.5)):
            torch.testing.assert_close(folded(x, scale), embedder(x, scale), rtol=0, atol=1e-5)
    assert type(folded) is type(embedder) and (folded.name, folded.dim) == (embedder.name, embedder.dim)
    assert embedder.weights_sha256() == before  # the original is as it was
    assert all(torch.equal(value, weights[key]) for key, value in embedder.state_dict().items())
    assert not folded.training


def test_folding_by_hand() -> None:
    trunk = Convolutions("conv", "norm", bias=True)
    trunk.conv.weight.data = torch.eye(3)[:, :, None, None] * torch.tensor([1.0, 2.0, -1.0])[:, None, None, None]
    trunk.conv.bias.data = torch.tensor([0.5, 0.0, 3.0])
    trunk.norm.running_mean = torch.tensor([1.5, -1.0, 1.0])
    trunk.norm.running_var = torch.tensor([4.0, 0.25, 16.0]) - trunk.norm.eps
    trunk.norm.weight.data, trunk.norm.bias.data = torch.tensor([4.0, 1.0, 2.0]), torch.tensor([3.0, 0.5, 0.0])
    folded = fold_batch_norm(Embedder(trunk, Recipe("test_resnet"), "mine").eval()).trunk
    # w (conv(x) - mean) / deviation + b: 2 (x + 0.5 - 1.5) + 3; 2 (2x + 1) + 0.5; 0.5 (-x + 3 - 1)
    torch.testing.assert_close(folded.conv.weight[:, :, 0, 0], torch.diag(torch.tensor([2.0, 4.0, -0.5])))
    torch.testing.assert_close(folded.conv.bias, torch.tensor([1.0, 2.5, 1.0]))
    assert isinstance(folded.norm, nn.Sequential) and not len(folded.norm)


class Convolutions(nn.Module):
    """A trunk of one convolution and one norm, applied as `steps` say."""

    num_features = 3

    def __init__(self, *steps: str, bias: bool = False, **norm: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.steps = nn.Conv2d(3, 3, 1, bias=bias), nn.BatchNorm2d(3, **norm), steps

    def forward_features(self, x: Tensor) -> Tensor:
        made = x
        for step in self.steps:
            if step == "add":
                x = x + made
            elif step == "only 64 pixels" and x.shape[-1] != 64:
                raise AssertionError(x.shape)
            elif step == "conv":
                x = made = self.conv(x)
            elif step in ("norm", "stem"):
                x = getattr(self, step)(x)
        return x


UNFOLDED: dict[str, tuple[list[str], dict[str, bool]]] = {
    "the convolution is used twice": (["conv", "conv", "norm"], {}),
    "the norm is used twice": (["conv", "norm", "norm"], {}),
    "both are used twice": (["conv", "norm", "conv", "norm"], {}),
    "its output goes elsewhere too": (["conv", "norm", "add"], {}),
    "the norm comes first": (["norm", "conv"], {}),
    "the norm has no weights": (["conv", "norm"], {"affine": False}),
    "the norm keeps no statistics": (["conv", "norm"], {"track_running_stats": False}),
    "it takes images of one size": (["only 64 pixels", "conv", "norm"], {}),
}


@pytest.mark.parametrize("case", UNFOLDED)
def test_what_cannot_be_folded_is_given_back_itself(case: str) -> None:
    steps, options = UNFOLDED[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = Convolutions(*steps, **options)
    embedder = Embedder(trunk, Recipe("test_resnet"), "mine").eval()
    if not options:
        lived(embedder)
    before = embedder.weights_sha256()
    assert fold_batch_norm(embedder) is embedder
    assert embedder.weights_sha256() == before and len(norms(embedder)) == 1


def test_what_is_used_once_is_folded_beside_what_is_used_twice() -> None:
    trunk = Convolutions("stem", "conv", "conv", "norm")
    trunk.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    embedder = lived(Embedder(trunk, Recipe("test_resnet"), "mine").eval())
    folded = fold_batch_norm(embedder)
    assert len(norms(embedder)) == 2 and norms(folded) == [folded.trunk.norm]
    with torch.inference_mode():
        torch.testing.assert_close(folded(images()), embedder(images()), rtol=0, atol=1e-5)


def test_networks_without_batch_norm_are_given_back_themselves() -> None:
    vit = backbone.build(Recipe("test_vit", {"dynamic_img_size": True}, seed=0, pooling="class", multiple=16), "vit")
    for embedder in (vit, backbone.build(Recipe("test_convnext", seed=0), "convnext")):
        assert fold_batch_norm(embedder) is embedder


def test_a_broken_network_is_given_back_itself() -> None:
    embedder = tiny()
    norms(embedder)[0].running_mean.fill_(math.nan)
    assert fold_batch_norm(embedder) is embedder
