"""Batch norms folded: the same descriptors, and what can't be folded is returned itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metlib import backbone
from metlib.analysis.sweep import Panel
from metlib.backbone import Embedder, Recipe, fold_batch_norm


def tiny(**changes: Any) -> Embedder:
    """A small untrained network, the same every time."""
    return backbone.build(Recipe(**{"arch": "test_resnet", "seed": 1} | changes), "tiny")


def images(n: int = 2, height: int = 64, width: int = 48, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


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
