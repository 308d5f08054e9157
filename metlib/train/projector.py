"""A whitening as the last layer of a network: training then starts from it, and its loss sees whitened descriptors."""

import copy
from dataclasses import replace

import torch

from metlib.backbone import Embedder
from metlib.evaluate import Whitening


def with_whitening(embedder: Embedder, whitening: Whitening) -> Embedder:
    """Put a fitted whitening on top of a copy of a network, as its projector: a linear layer from D to `whitening.dim`.

    The result's descriptors are the whitened ones of `embedder`. Raises ValueError where it has a projector already.
    """
    if embedder.projector is not None:
        raise ValueError(f"{embedder.name} has a projector of {embedder.dim} dimensions: take a network without one")
    weight, bias = whitening.as_linear()
    recipe = replace(embedder.recipe, projector=len(weight), gem_p=embedder.pool.p.item())
    projected = Embedder(copy.deepcopy(embedder.trunk), recipe, embedder.name)
    assert projected.projector is not None  # the recipe asks for one
    projected.projector.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return projected.to(embedder.mean.device)
