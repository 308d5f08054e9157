"""Batch norms folded into the convolutions before them: the same descriptors, computed faster."""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metlib.backbone.embedder import Embedder


def fold_batch_norm(embedder: Embedder) -> Embedder:
    """Fold the batch norms of a copy into the convolutions before them, for inference; the descriptors stay the same.

    y = w (conv(x) - mean) / sqrt(var + eps) + b is one convolution with other weights. One run of the network on a
    small image finds which norm follows which convolution, and the copy is checked on that image. `embedder` itself is
    returned where it has no such pairs, doesn't take that image, or the copy would differ.
    """
    if not any(isinstance(module, _BatchNorm) for module in embedder.modules()):
        return embedder
    folded = copy.deepcopy(embedder).eval()
    device = next(folded.parameters()).device
    probe = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.inference_mode():
            before = folded(probe)
    except Exception:  # a network of one image size raises anything; on the museum's images the caller will see it
        return embedder
    parents = {child: (parent, name) for parent in folded.modules() for name, child in parent.named_children()}
    pairs = _convolutions_before_norms(folded, probe)
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


def _convolutions_before_norms(network: nn.Module, probe: Tensor) -> list[tuple[nn.Conv2d, Any]]:
    """Find pairs of a convolution and the batch norm that takes its output, both used once in a pass over `probe`."""
    sources: dict[int, tuple[nn.Conv2d, Any]] = {}  # with the outputs, or another tensor could get an output's id
    pairs, calls = [], Counter[nn.Module]()

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            sources[id(output)] = module, output
        elif isinstance(module, _BatchNorm) and inputs and id(inputs[0]) in sources:
            pairs.append((sources[id(inputs[0])][0], module))

    hooks = [module.register_forward_hook(after) for module in network.modules()]
    with torch.no_grad():
        network(probe)
    for hook in hooks:
        hook.remove()
    once = [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
    return [(convolution, norm) for convolution, norm in once if norm.affine and norm.track_running_stats]
