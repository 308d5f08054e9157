"""Recurrent layer aggregation (RLA): a ResNet with a memory along its depth. Importing this registers `resnet18_rla`.

The blocks of a stage share one ConvLSTM cell. It reads what each block adds; each block reads its state beside the map.
Source: Zhao et al., Recurrence along Depth: Deep Convolutional Neural Networks with RLA, NeurIPS 2021, section 3.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from timm.models import ResNet, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from metlib.common.checks import check_integer

_CONFIG = {"pool_size": (7, 7), "first_conv": "conv1", "classifier": "fc"}
default_cfgs = generate_default_cfgs({"resnet18_rla": _CONFIG})  # timm reads the name


class RecurrentBasicBlock(BasicBlock):
    """timm's basic block of ResNet-18, whose first convolution also takes the state's `rla_channels` maps."""

    def __init__(self, inplanes: int, *args: Any, rla_channels: int, **kwargs: Any) -> None:
        super().__init__(inplanes + rla_channels, *args, **kwargs)

    def forward(self: Any, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Compute the block's map, and what it adds to its input: (B, C, H, W), (B, S, H, W) -> two (B, C', ., .)."""
        y = self.drop_block(self.bn1(self.conv1(torch.cat([x, h], dim=1))))
        y = self.bn2(self.conv2(self.aa(self.act1(y))))
        y = y if self.se is None else self.se(y)
        y = y if self.drop_path is None else self.drop_path(y)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act2(y + shortcut), y  # not in place: the cell reads y


class Cell(nn.Module):
    """What the blocks of a stage share: a 1 x 1 convolution to the state's channels S, and a ConvLSTM over 3 x 3."""

    def __init__(self, channels: int, state: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, state, 1, bias=False)
        self.gates = nn.Conv2d(2 * state, 4 * state, 3, padding=1)

    def forward(self, y: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Read a block's y (B, C, H, W), and compute the next h and c from those before, each (B, S, H, W)."""
        gates = self.gates(torch.cat([self.reduce(y), h], dim=1))  # (B, 4 S, H, W)
        write, forget, show, new = gates.chunk(4, dim=1)
        c = forget.sigmoid() * c + write.sigmoid() * new.tanh()
        return show.sigmoid() * c.tanh(), c


class RecurrentResNet(ResNet):
    """timm's ResNet of four stages, with a `Cell` in each and a state of `rla_channels` maps that runs through all.

    Its last map is cat(x, relu(norm(h))), never negative; `feature_info` lists the stem, the stages' x, and that.
    The arguments are those of timm's ResNet, `block_args` too (an `attn_layer`, say). The last batch norm of a block
    starts at 1: a block that starts by adding nothing leaves the cells nothing to read.
    Raises ValueError for an `rla_channels` that is no positive integer, or another number of stages.
    """

    def __init__(self, layers: Sequence[int] = (2, 2, 2, 2), *, rla_channels: int = 32, **kwargs: Any) -> None:
        check_integer("rla_channels", rla_channels, 1)
        if len(layers) != 4 or len(kwargs.get("channels", layers)) != 4:
            raise ValueError(f"expected 4 stages, got layers {layers} and channels {kwargs.get('channels')}")
        kwargs["block_args"] = (kwargs.get("block_args") or {}) | {"rla_channels": rla_channels}
        block: Any = RecurrentBasicBlock
        super().__init__(block, tuple(layers), **({"zero_init_last": False} | kwargs))
        stages: Any = self.feature_info[1:]
        self.cells = nn.ModuleList(Cell(stage["num_chs"], rla_channels) for stage in stages)
        self.norm: nn.Module = nn.BatchNorm2d(rla_channels)
        like: Any = self.bn1.weight
        self.to(like)  # where, and as precise as, timm was asked to put the rest
        self.rla_channels = rla_channels
        self.num_features += rla_channels
        self.feature_info[-1]["num_chs"] = self.num_features
        self.reset_classifier(self.num_classes)

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the maps of `feature_info` one by one; nothing is computed beyond the last that is taken."""
        x = self.act1(self.bn1(self.conv1(x)))
        yield x
        x = self.maxpool(x)
        h = c = x.new_zeros(len(x), self.rla_channels, *x.shape[2:])
        for number, cell in enumerate(self.cells, start=1):
            for block in getattr(self, f"layer{number}"):
                again = self.grad_checkpointing and torch.is_grad_enabled()
                x, y = (partial(checkpoint, block, use_reentrant=False) if again else block)(x, h)
                if h.shape[2:] != y.shape[2:]:  # strided convolutions round odd sides up
                    h, c = (F.avg_pool2d(state, 2, ceil_mode=True) for state in (h, c))
                h, c = cell(y, h, c)
            if number == len(self.feature_info) - 1:
                x = torch.cat([x, F.relu(self.norm(h))], dim=1)
            yield x

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last map: (B, 3, H, W) -> (B, num_features, h, w)."""
        for last in self._maps(x):
            x = last
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Compute the maps of these indices into `feature_info`, as timm's other networks do; `norm` has no effect."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, got {output_fmt!r}")
        numbers = range(len(self.feature_info))
        wanted = numbers if indices is None else numbers[-indices:] if isinstance(indices, int) else indices
        kept = {numbers[number] for number in wanted}
        maps = list(islice(self._maps(x), max(kept) + 1 if stop_early else None))
        taken = [maps[number] for number in sorted(kept)]
        return taken if intermediates_only else (maps[-1], taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop stages and cells after the last of these indices, and the classifier; returns the indices."""
        kept = list(super().prune_intermediate_layers(indices, prune_norm, prune_head))
        self.cells = self.cells[: max(kept)]
        if max(kept) < len(self.feature_info) - 1:
            self.norm = nn.Identity()
        return kept


@register_model
def resnet18_rla(pretrained: bool = False, **kwargs: Any) -> RecurrentResNet:
    """Build a ResNet-18 with recurrent layer aggregation; `pretrained` raises ValueError, there are no weights."""
    if pretrained and not kwargs.get("pretrained_cfg") and not kwargs.get("pretrained_cfg_overlay"):
        raise ValueError("no weights of resnet18_rla are published: leave pretrained out, or load your own checkpoint")
    features = {"feature_cls": "getter"}
    return build_model_with_cfg(RecurrentResNet, "resnet18_rla", pretrained, feature_cfg=features, **kwargs)
