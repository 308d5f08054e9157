"""Recurrent layer aggregation: a twin that goes step by step, what is shared, and what a trunk must do for metlib."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metlib.backbone.aggregation  # first: it makes the names known to timm
from metlib import backbone
from metlib.analysis.sweep import Panel
from metlib.backbone import Embedder, Recipe, fold_batch_norm

pytestmark = pytest.mark.usefixtures("one_thread")

NARROW = {"channels": [8, 12, 16, 20], "rla_channels": 6}
VARIANTS = {
    "plain": ("resnet18", {}),
    "rla": ("resnet18_rla", {"rla_channels": 8}),
    "se": ("resnet18", {"block_args": {"attn_layer": "se"}}),
    "eca": ("resnet18", {"block_args": {"attn_layer": "eca"}}),
    "cbam": ("resnet18", {"block_args": {"attn_layer": "cbam"}}),
}


def narrow(arch: str = "resnet18_rla", **changes: Any) -> Embedder:
    return backbone.build(Recipe(**{"arch": arch, "arch_args": NARROW, "seed": 0} | changes), "narrow")


def images(n: int = 2, height: int = 70, width: int = 53) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def stir(trunk: nn.Module) -> None:
    """Give batch norms something to do."""
    draw = torch.Generator().manual_seed(1)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=draw) / 4)


def pooled(state: Tensor) -> Tensor:
    """Means over windows of 2 x 2, those at an odd edge over what there is of them; one by one."""
    n, S, height, width = state.shape
    small = state.new_empty(n, S, math.ceil(height / 2), math.ceil(width / 2))
    for i in range(small.shape[2]):
        for j in range(small.shape[3]):
            small[:, :, i, j] = state[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(2, 3))
    return small


def step_by_step(weights: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The network from its weights alone, without timm's modules."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, weights.get(f"{name}.bias"), stride, padding=kernel.shape[-1] // 2)

    x = norm(conv(x, "conv1", 2), "bn1").relu()
    maps = [x]
    x = F.max_pool2d(x, 3, 2, 1)
    S = len(weights["norm.weight"])
    h = c = x.new_zeros(len(x), S, *x.shape[2:])
    for stage in (1, 2, 3, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y, part = torch.cat([x, h], dim=1), 1
            while f"{name}.conv{part}.weight" in weights:
                y = y if part == 1 else y.relu()
                y = norm(conv(y, f"{name}.conv{part}", stride if part == 1 else 1), f"{name}.bn{part}")
                part += 1
            if f"{name}.downsample.0.weight" in weights:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).relu()
            if stride == 2:
                h, c = pooled(h), pooled(c)
            cell = f"cells.{stage - 1}"  # the same for every block of the stage
            gates = conv(torch.cat([conv(y, f"{cell}.reduce"), h], dim=1), f"{cell}.gates")
            i, f, o, g = gates[:, :S], gates[:, S : 2 * S], gates[:, 2 * S : 3 * S], gates[:, 3 * S :]
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            block += 1
        maps.append(x)
    maps[-1] = torch.cat([x, norm(h, "norm").relu()], dim=1)
    return maps


@pytest.mark.parametrize("size", [(64, 64), (70, 53), (33, 97)])
def test_the_network_is_its_recurrence_step_by_step(size: tuple[int, int]) -> None:
    trunk = narrow().trunk.double()
    stir(trunk)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        expected = step_by_step(trunk.state_dict(), x)
        last, maps = trunk.forward_intermediates(x)
        found = trunk.forward_features(x)
    for mine, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    assert torch.equal(found, last) and torch.equal(found, maps[-1])
    assert found.shape[1:] == (trunk.num_features, math.ceil(size[0] / 32), math.ceil(size[1] / 32))
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in trunk.feature_info]
    assert [math.ceil(size[0] / info["reduction"]) for info in trunk.feature_info] == [m.shape[2] for m in maps]
    assert found.min() == 0 and found[:, -NARROW["rla_channels"] :].max() > 0  # GeM takes it


def test_a_stages_blocks_share_one_cell() -> None:
    widths, S = [8, 12, 16, 20], 6
    plain = narrow("resnet18", arch_args={"channels": widths}).trunk
    state = sum(2 * S * width * 3 * 3 for width in widths)  # the first convolution of two blocks a stage
    cells = sum(S * width + 4 * S * 2 * S * 3 * 3 + 4 * S for width in widths)  # 1 x 1, the four gates, their bias
    trunk = narrow().trunk
    assert sum(p.numel() for p in trunk.parameters()) == sum(p.numel() for p in plain.parameters()) + state + cells + 12
    deeper = timm.create_model("resnet18_rla", layers=(3, 5, 2, 2), num_classes=0, **NARROW)
    assert [p.shape for p in deeper.cells.parameters()] == [p.shape for p in trunk.cells.parameters()]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_weight(checkpointing: bool) -> None:
    trunk = narrow().trunk
    trunk.set_grad_checkpointing(checkpointing)
    trunk(images()).pow(2).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.cells.parameters())
    assert all(p.grad is not None for p in trunk.parameters())


def test_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointing in (False, True):
        trunk = narrow().trunk.train()
        trunk.set_grad_checkpointing(checkpointing)
        trunk(images()).pow(2).mean().backward()
        grads.append([p.grad for p in trunk.parameters()])
    for straight, again in zip(*grads, strict=True):
        torch.testing.assert_close(straight, again)


@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3, 4])
def test_a_checkpoint_there_and_back(tmp_path: Path, stage: int | None) -> None:
    embedder = narrow(stage=stage)
    stir(embedder.trunk)
    loaded = backbone.load(backbone.save(embedder, tmp_path / "narrow.safetensors"))
    assert loaded.recipe == embedder.recipe and loaded.recipe.arch_args == NARROW
    with torch.inference_mode():
        whole, mine, theirs = (one(images()) for one in (narrow(), embedder, loaded))
    assert torch.equal(mine, theirs) and mine.shape == (2, embedder.dim)
    torch.testing.assert_close(mine.norm(dim=1), torch.ones(2))
    sizes = [sum(p.numel() for p in one.trunk.parameters()) for one in (embedder, narrow())]
    assert sizes[0] < sizes[1] if stage in (0, 1, 2, 3) else sizes[0] == sizes[1]
    assert whole.shape == (2, 26)


@pytest.mark.slow
def test_pruned_networks_give_the_maps_of_the_whole_one() -> None:
    whole = narrow()
    with torch.inference_mode():
        maps = whole.trunk.forward_intermediates(images(), intermediates_only=True)
        for stage in range(5):
            early = whole.trunk.forward_intermediates(images(), [stage], stop_early=True, intermediates_only=True)
            assert torch.equal(early[0], maps[stage])
            pruned = narrow(stage=stage).trunk
            assert torch.equal(pruned.forward_features(images()), maps[stage])
            assert pruned.num_features == maps[stage].shape[1]
        assert [m.shape for m in whole.trunk.forward_intermediates(images(), 2)[1]] == [m.shape for m in maps[-2:]]
        panel = Panel(whole, [2, 4], [1.0, 3.0])
        both = panel(images()).numpy()
        np.testing.assert_allclose(panel.part(both, 4, 3.0), whole(images()), atol=1e-6)
    with pytest.raises(ValueError, match="NCHW"):
        whole.trunk.forward_intermediates(images(), output_fmt="NLC")


def test_folded_batch_norms_give_the_same_descriptors() -> None:
    embedder = narrow()
    stir(embedder.trunk)
    folded = fold_batch_norm(embedder)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["trunk.norm"]  # it follows the state, no convolution
    with torch.inference_mode():
        torch.testing.assert_close(folded(images()), embedder(images()), rtol=0, atol=1e-5)


def test_half_precision_is_near() -> None:
    embedder = narrow()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        half = embedder(images())
    with torch.inference_mode():
        assert (half * embedder(images())).sum(dim=1).min() > 0.999


def test_classifiers_come_and_go() -> None:
    trunk = timm.create_model("resnet18_rla", num_classes=5, **NARROW)
    assert trunk(images()).shape == (2, 5) and trunk.get_classifier().in_features == 26
    assert trunk.forward_head(trunk.forward_features(images()), pre_logits=True).shape == (2, 26)
    trunk.reset_classifier(0)
    assert trunk(images()).shape == (2, 26)
    assert trunk.pretrained_cfg["classifier"] == "fc"


@pytest.mark.slow
def test_timm_knows_the_names_and_that_they_have_no_weights(tmp_path: Path) -> None:
    assert set(timm.list_models("*_rla")) == {"resnet18_rla"}
    assert metlib.backbone.aggregation.resnet18_rla(num_classes=0).num_features == 512 + 32
    assert not timm.list_pretrained("*_rla")
    with pytest.raises(ValueError, match="no weights of resnet18_rla are published"):
        timm.create_model("resnet18_rla", pretrained=True)
    with pytest.raises(RuntimeError, match="no weights of resnet18_rla are published"):
        backbone.load("resnet18_rla")
    features = timm.create_model("resnet18_rla", features_only=True, **NARROW)
    assert [m.shape[1] for m in features(images())] == features.feature_info.channels() == [64, 8, 12, 16, 26]


@pytest.mark.parametrize(
    ("arch_args", "said"),
    [
        ({"rla_channels": 0}, "rla_channels must be an integer of at least 1, got 0"),
        ({"rla_channels": "32"}, "rla_channels must be an integer"),
        ({"channels": [8, 8, 8]}, "expected 4 stages"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_arguments_are_checked(arch_args: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        narrow(arch_args=arch_args)


def test_attention_fits_into_recurrent_blocks_too() -> None:
    trunk = narrow(arch_args=NARROW | {"block_args": {"attn_layer": "eca"}}).trunk
    assert all(block.se is not None for stage in (trunk.layer1, trunk.layer4) for block in stage)
    assert trunk(images()).shape == (2, 26)


@pytest.mark.slow
def test_five_trunks_of_comparable_size_by_arguments_that_json_can_hold(tmp_path: Path) -> None:
    sizes = {}
    for name, (arch, arch_args) in VARIANTS.items():
        arguments = json.loads(json.dumps({"channels": [24, 48, 96, 192]} | arch_args))
        embedder = backbone.build(Recipe(arch, arguments, seed=0), name)
        loaded = backbone.load(backbone.save(embedder, tmp_path / f"{name}.safetensors"))
        with torch.inference_mode():
            assert torch.equal(loaded(images(1)), embedder(images(1)))
            torch.testing.assert_close(fold_batch_norm(embedder)(images(1)), embedder(images(1)), rtol=0, atol=1e-5)
        sizes[name] = sum(p.numel() for p in embedder.trunk.parameters())
    assert sizes == {"plain": 1592336, "rla": 1665632, "se": 1610800, "eca": 1592364, "cbam": 1605424}
