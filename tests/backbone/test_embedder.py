"""GeM against loops, and the map that is pooled."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from metlib import backbone
from metlib.backbone import Embedder, GeM, Recipe, gem, load, recipes

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
