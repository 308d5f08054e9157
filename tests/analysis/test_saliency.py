"""Maps of what two photographs have in common: naive twins, cases by hand, and whether they change with the weights."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from metlib import NETWORK, backbone
from metlib.analysis import saliency
from metlib.analysis.saliency import describe_image, grad_cam, map_agreement, randomise
from metlib.analysis.sweep import Panel
from metlib.backbone import Embedder, Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

VIT: dict[str, Any] = {"arch": "test_vit", "multiple": 16}
CLASS = VIT | {"arch_args": {"dynamic_img_size": True, "global_pool": "token"}, "pooling": "class"}
MEAN = VIT | {"arch_args": {"dynamic_img_size": True}, "pooling": "mean"}
HEAD = VIT | {"arch_args": {"dynamic_img_size": True, "global_pool": "avg"}, "pooling": "head"}
REGISTERS = {"reg_tokens": 3, "dynamic_img_size": True, "global_pool": "token"}


def network(**changes: Any) -> Embedder:
    """A small untrained network, the same every time."""
    return backbone.build(Recipe(**{"arch": "test_resnet", "seed": 1} | changes), "tiny")


def trained() -> Embedder:
    """The same as if it were trained: its weights are its own, and no seed made them."""
    embedder = network()
    embedder.recipe = replace(embedder.recipe, seed=None)
    for value in embedder.state_dict().values():
        value += 1 if value.dtype == torch.int64 else 0.01  # batches counted, ones and zeros too
    embedder.pool.p.data.fill_(3)
    return embedder


def scene(seed: int = 0, height: int = 96, width: int = 80) -> NDArray[np.uint8]:
    """A picture with structure: a gradient, and rectangles on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x / width, y / height, (x + y) / (height + width)], axis=2) * 120
    for _ in range(6):
        top, left = rng.integers(0, height - 30), rng.integers(0, width - 30)
        h, w = rng.integers(12, 30, 2)
        picture[top : top + h, left : left + w] = rng.integers(0, 256, 3)
    return picture.astype(np.uint8)


def tensor(picture: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(picture.transpose(2, 0, 1)[None] / 255, dtype=torch.float32)


def direction(dim: int, seed: int = 0) -> NDArray[np.float32]:
    v = np.random.default_rng(seed).normal(size=dim)
    return (v / np.linalg.norm(v)).astype(np.float32)


class Pixel(nn.Module):
    """The smallest trunk: the map is the picture's red and blue, each pixel a position."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1, bias=False)
        self.layer.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1]])[..., None, None]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layer(x)


def pixel(**changes: Any) -> Embedder:
    plain = Recipe("test_resnet", mean=(0, 0, 0), std=(1, 1, 1), **{"pooling": "mean"} | changes)
    return Embedder(Pixel(), plain, "pixel").eval()


def two_corners() -> NDArray[np.uint8]:
    """Black, but for a red pixel top left and a blue one bottom right."""
    picture = np.zeros((6, 8, 3), np.uint8)
    picture[0, 0, 0] = picture[5, 7, 2] = 255
    return picture


# --- describing -----------------------------------------------------------------------------------------------------


def test_describe_one_is_the_embedder_on_one_image(tmp_path: Path) -> None:
    embedder = network(projector=7).train()
    row = describe_image(embedder, scene())
    assert row.shape == (7,) and row.dtype == np.float32 and not embedder.training
    with torch.no_grad():
        np.testing.assert_allclose(row, embedder(tensor(scene()))[0].numpy(), atol=1e-6)
    Image.fromarray(scene()).save(tmp_path / "scene.png")
    for path in (tmp_path / "scene.png", str(tmp_path / "scene.png")):
        assert np.array_equal(describe_image(embedder, path), row)
    with pytest.raises(FileNotFoundError):
        describe_image(embedder, tmp_path / "none.png")


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(ValueError, match=r"an image must be uint8 \(H, W, 3\), or a path, got (uint8|float64) of"):
        describe_image(network(), image)


# --- Grad-CAM -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arch": "resnet18", "gem_p": 2.0},
        {"projector": 5, "pooling": "mean"},
        {"stage": 2, "mean": (0.5, 0.4, 0.3)},
        {"longest": 64},
        {"arch": "test_convnext", "pooling": "head"},
    ],
)
def test_grad_cam_is_its_naive_twin(changes: dict[str, Any]) -> None:
    embedder, picture = network(**changes), scene()
    target = direction(embedder.dim)
    embedder.requires_grad_(False)  # a frozen network has maps too
    heat = grad_cam(embedder, picture, target, upsample=False)

    recipe, x = embedder.recipe, tensor(picture)
    if recipe.longest:
        x = F.interpolate(x, size=(64, 53), mode="bilinear", antialias=True)
    x = (x - torch.tensor(recipe.mean).view(3, 1, 1)) / torch.tensor(recipe.std).view(3, 1, 1)
    if recipe.stage is None:
        activations = embedder.trunk.forward_features(x).detach()
    else:
        activations = embedder.trunk.forward_intermediates(x, indices=[2], intermediates_only=True)[0].detach()
    activations.requires_grad_()
    if recipe.pooling == "gem":
        pooled = (activations.clamp(min=1e-6) ** recipe.gem_p).mean(dim=(2, 3)) ** (1 / recipe.gem_p)
    elif recipe.pooling == "mean":
        pooled = activations.mean(dim=(2, 3))
    else:
        pooled = embedder.trunk.forward_head(activations, pre_logits=True)
    pooled = pooled[0] / pooled[0].norm()
    if embedder.projector is not None:
        pooled = embedder.projector.weight @ pooled + embedder.projector.bias
        pooled = pooled / pooled.norm()
    (gradient,) = torch.autograd.grad(pooled @ torch.tensor(target), activations)
    _, channels, h, w = activations.shape
    slopes, values = gradient[0].numpy(), activations[0].detach().numpy()
    expected = np.zeros((h, w))
    for i, j in np.ndindex(h, w):
        expected[i, j] = max(sum(slopes[c].mean() * values[c, i, j] for c in range(channels)), 0)
    assert heat.shape == (h, w) and heat.dtype == np.float32 and heat.any()
    np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=1e-5 * expected.max())
    enlarged = F.interpolate(torch.tensor(heat)[None, None], size=picture.shape[:2], mode="bilinear")
    np.testing.assert_allclose(grad_cam(embedder, picture, target), enlarged[0, 0], rtol=1e-5, atol=1e-7)


def test_the_bright_spot_is_found_by_hand() -> None:
    # Pooled, red and blue have 1/48 each: the descriptor is (1, 1)/sqrt(2), its cosine with red 1/sqrt(2). The
    # gradient is ((1, 0) - (1, 1)/2) / |pooled|, over 48 positions: (0.5, -0.5) / sqrt(2) for each channel.
    heat = grad_cam(pixel(), two_corners(), [1.0, 0.0])
    expected = np.zeros((6, 8))
    expected[0, 0] = 0.5 / math.sqrt(2)
    np.testing.assert_allclose(heat, expected, atol=1e-6)
    blue = grad_cam(pixel(), two_corners(), [0.0, 1.0])
    np.testing.assert_allclose(blue, expected[::-1, ::-1], atol=1e-6)


def test_with_mean_pooling_the_map_adds_up_to_zero_before_the_cut() -> None:
    embedder, target = network(pooling="mean"), direction(96)
    up = grad_cam(embedder, scene(), target, upsample=False)
    down = grad_cam(embedder, scene(), -target, upsample=False)  # what was negative
    assert up.any() and up.sum() == pytest.approx(down.sum(), rel=1e-4) and not (up * down).any()


@pytest.mark.parametrize("changes", [CLASS, CLASS | {"projector": 5}, CLASS | {"arch_args": REGISTERS}, HEAD])
def test_a_transformers_map_are_the_tokens_before_its_last_block(changes: dict[str, Any]) -> None:
    embedder, picture = network(**changes), scene()
    target = direction(embedder.dim)
    heat = grad_cam(embedder, picture, target, upsample=False)

    trunk, kept = embedder.trunk, []
    hook = trunk.blocks[-1].register_forward_hook(lambda block, inputs, output: kept.append(inputs[0].detach()))
    embedder(tensor(picture))
    hook.remove()
    tokens = kept[0].requires_grad_()
    out = trunk.norm(trunk.blocks[-1](tokens))
    prefix = trunk.num_prefix_tokens
    pooled = out[0, 0] if embedder.recipe.pooling == "class" else trunk.fc_norm(out[0, prefix:].mean(dim=0))
    pooled = pooled / pooled.norm()
    if embedder.projector is not None:
        pooled = embedder.projector(pooled)
        pooled = pooled / pooled.norm()
    (gradient,) = torch.autograd.grad(pooled @ torch.tensor(target), tokens)
    weights = gradient[0, prefix:].mean(dim=0)  # (C,)
    expected = (tokens[0, prefix:] @ weights).clamp(min=0).reshape(6, 5).detach().numpy()
    assert heat.shape == (6, 5) and heat.any()  # 96 x 80 pixels in patches of 16
    np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize("changes", [MEAN, CLASS | {"arch": "vit_tiny_patch16_224"}])
def test_transformers_have_maps_of_the_image(changes: dict[str, Any]) -> None:
    embedder = network(**changes)
    heat = grad_cam(embedder, scene(), describe_image(embedder, scene(1)))
    assert heat.shape == (96, 80) and np.isfinite(heat).all() and heat.min() >= 0 and heat.max() > 0


def test_nothing_of_the_network_changes() -> None:
    for embedder in (network(projector=5).train(), network(**CLASS).train()):
        next(embedder.parameters()).requires_grad_(False)
        before, wants = embedder.weights_sha256(), [p.requires_grad for p in embedder.parameters()]
        modules, target = list(embedder.modules()), direction(embedder.dim)
        with torch.no_grad():  # even then
            grad_cam(embedder, scene(), target)
        saliency.patch_similarity(embedder, scene(), scene(1))
        assert embedder.weights_sha256() == before and list(embedder.modules()) == modules
        assert [p.requires_grad for p in embedder.parameters()] == wants
        assert all(p.grad is None for p in embedder.parameters())
        assert not any(module.training for module in embedder.modules())
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in embedder.modules())


def test_the_images_own_descriptor_is_refused_and_leaves_no_hook() -> None:
    for embedder in (network(), network(**CLASS)):
        with pytest.raises(ValueError, match=r"own descriptor .*similarity_map"):
            grad_cam(embedder, scene(), describe_image(embedder, scene()))
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in embedder.modules())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (direction(95), r"\(96,\) of tiny, L2-normalised, got shape \(95,\)"),
        (direction(96)[None], r"got shape \(1, 96\)"),
        (2 * direction(96), "norm 2: take one of describe_image"),
        (np.full(96, np.nan), "target: row 0 is NaN"),
        (np.zeros(96), "target: row 0 is zero"),
    ],
)
def test_a_target_that_is_none_is_refused(target: NDArray[np.float32], message: str) -> None:
    for draw in (grad_cam, saliency.similarity_map):
        with pytest.raises(ValueError, match=message):
            draw(network(), scene(), target)


def test_networks_without_such_a_map_are_refused() -> None:
    panel = Panel(network(), [1, 2], [3.0])
    with pytest.raises(ValueError, match="many descriptors in one"):
        grad_cam(panel, scene(), direction(panel.dim))
    no_blocks = network(**CLASS)
    no_blocks.trunk.layers = no_blocks.trunk.blocks
    del no_blocks.trunk.blocks
    with pytest.raises(ValueError, match=r"tiny has no blocks .*pooling 'mean'"):
        grad_cam(no_blocks, scene(), direction(64))


# --- positions against positions ------------------------------------------------------------------------------------


def test_similarity_map_is_the_cosine_of_every_position() -> None:
    target = np.array([0.6, 0.8])
    expected = np.zeros((6, 8))  # a black position has no direction
    expected[0, 0], expected[5, 7] = 0.6, 0.8
    np.testing.assert_allclose(saliency.similarity_map(pixel(), two_corners(), target), expected, atol=1e-6)
    for changes in ({}, MEAN):
        embedder = network(**changes)
        target = describe_image(embedder, scene(1))
        with torch.no_grad():
            vectors = embedder.features(tensor(scene()))[0].numpy()
        heat = saliency.similarity_map(embedder, scene(), target)
        for i, j in np.ndindex(heat.shape):
            v = vectors[:, i, j]
            assert heat[i, j] == pytest.approx(v @ target / np.linalg.norm(v), abs=1e-5)


def test_an_image_of_one_colour_is_all_its_own_descriptor() -> None:
    embedder, flat = pixel(), np.full((6, 8, 3), 90, np.uint8)
    heat = saliency.similarity_map(embedder, flat, describe_image(embedder, flat))
    np.testing.assert_allclose(heat, np.ones((6, 8)), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "what"), [({"projector": 5}, "a projector"), (CLASS, "pooling 'class'"), (HEAD, "pooling 'head'")]
)
def test_descriptors_of_another_space_are_refused(changes: dict[str, Any], what: str) -> None:
    embedder = network(**changes)
    with pytest.raises(ValueError, match=rf"tiny has {what}: .*Take grad_cam"):
        saliency.similarity_map(embedder, scene(), direction(embedder.dim))


@pytest.mark.parametrize("changes", [{}, {"stage": 2}, CLASS, CLASS | {"arch_args": REGISTERS}, {"projector": 5}])
def test_patch_similarity_is_loops_over_both_maps(changes: dict[str, Any]) -> None:
    embedder, one, two = network(**changes), scene(0, 48, 64), scene(1, 64, 32)
    table = saliency.patch_similarity(embedder, one, two)
    with torch.no_grad():
        a, b = (embedder.features(tensor(picture))[0].double().numpy() for picture in (one, two))
    assert table.shape == (*a.shape[1:], *b.shape[1:]) and table.dtype == np.float32
    for i, j, k, m in np.ndindex(table.shape):
        u, v = a[:, i, j], b[:, k, m]
        assert table[i, j, k, m] == pytest.approx(u @ v / (np.linalg.norm(u) * np.linalg.norm(v)), abs=1e-5)
    own = saliency.patch_similarity(embedder, one, one)
    h, w = own.shape[:2]
    np.testing.assert_allclose(np.diagonal(own.reshape(h * w, h * w)), 1, atol=1e-5)
    np.testing.assert_allclose(own, own.transpose(2, 3, 0, 1), atol=1e-6)


def test_matches_by_hand() -> None:
    table = np.array([[0.9, 0.8, 0.1], [0.95, 0.2, 0.3]], np.float32)  # positions of two rows, and of one of three
    similarity = table.reshape(2, 1, 1, 3)
    np.testing.assert_array_equal(saliency.best_matches(similarity), np.array([[0.9], [0.95]], np.float32))
    places, cosines = saliency.mutual_matches(similarity)
    assert places.tolist() == [[1, 0, 0, 0]] and cosines.tolist() == [np.float32(0.95)]
    assert places.dtype == np.int64 and cosines.dtype == np.float32


def test_mutual_matches_are_those_of_loops() -> None:
    similarity = np.random.default_rng(0).normal(size=(4, 5, 3, 6)).astype(np.float32)
    places, cosines = saliency.mutual_matches(similarity)
    expected = [
        (i, j, k, m)
        for i, j, k, m in np.ndindex(similarity.shape)
        if similarity[i, j, k, m] == similarity[i, j].max() == similarity[:, :, k, m].max()
    ]
    expected.sort(key=lambda at: -similarity[at])
    assert len(expected) > 3 and places.tolist() == [list(at) for at in expected]
    assert cosines.tolist() == [similarity[at] for at in expected]


def test_an_image_matches_itself_place_by_place_and_moves_with_its_content() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture[..., 2] = 255 * np.arange(48).reshape(6, 8) / 48 + 1  # every position has a direction of its own
    picture[..., 0] = 255 - picture[..., 2]
    places, cosines = saliency.mutual_matches(saliency.patch_similarity(pixel(), picture, picture[:, ::-1]))
    assert len(places) == 48 and cosines == pytest.approx(np.ones(48))
    assert (places[:, 0] == places[:, 2]).all() and (places[:, 1] == 7 - places[:, 3]).all()


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.zeros((0, 1, 2, 2)), np.full((1, 1, 1, 1), np.nan)])
def test_what_is_no_table_of_similarities_is_refused(wrong: NDArray[np.float32]) -> None:
    for use in (saliency.best_matches, saliency.mutual_matches):
        with pytest.raises(ValueError, match="take patch_similarity's"):
            use(wrong)


# --- VisualBackProp -------------------------------------------------------------------------------------------------


@cache
def vgg() -> Embedder:
    return network(arch="vgg11")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (50, 71)])
def test_visual_backprop_of_vgg_is_its_naive_twin(size: tuple[int, int]) -> None:
    embedder, picture = vgg(), scene(0, *size)
    means, sizes, layers = [], [], []
    x = (tensor(picture) - embedder.mean) / embedder.std
    with torch.no_grad():
        for layer in embedder.trunk.features:
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                layers.append((type(layer), len(means)))
                sizes.append(x.shape[-2:])
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                means.append(x[0].double().numpy().mean(axis=0))
    layers.pop(), sizes.pop()  # the last pooling follows the last ReLU
    heat, used = means[-1], len(means) - 1
    for (kind, before), (h, w) in zip(layers[::-1], sizes[::-1], strict=True):
        if before < used:  # on the way back a ReLU lies between
            used = before
            heat = heat * means[used]
        spread = np.zeros((h + 2, w + 2))  # a border of 1, for the padding of convolutions
        for i, j in np.ndindex(heat.shape):
            if kind is nn.Conv2d:
                spread[i : i + 3, j : j + 3] += heat[i, j]
            else:
                spread[1 + 2 * i : 3 + 2 * i, 1 + 2 * j : 3 + 2 * j] += heat[i, j]
        heat = spread[1:-1, 1:-1]
    assert used == 0 and heat.shape == size
    expected = (heat - heat.min()) / (heat.max() - heat.min())
    np.testing.assert_allclose(saliency.visual_backprop(embedder, picture), expected, rtol=1e-3, atol=1e-6)


def test_visual_backprop_of_other_networks_multiplies_their_stages() -> None:
    for changes, last in (({}, 4), ({"stage": 2}, 2), ({"arch": "test_convnext", "pooling": "head"}, 3)):
        embedder, picture = network(**changes), scene()
        with torch.no_grad():
            maps = embedder.trunk.forward_intermediates(
                (tensor(picture) - embedder.mean) / embedder.std,
                indices=list(range(last + 1)),
                stop_early=True,
                intermediates_only=True,
            )
            means = [m.clamp(min=0).double().mean(dim=1, keepdim=True) for m in maps]
            heat = means[-1]
            for size, mean in [(m.shape[-2:], m) for m in means[-2::-1]] + [(picture.shape[:2], torch.ones(()))]:
                heat = F.interpolate(heat, size=size, mode="bilinear") * mean
        expected = ((heat - heat.min()) / (heat.max() - heat.min()))[0, 0].numpy()
        made = saliency.visual_backprop(embedder, picture)
        assert made.dtype == np.float32 and made.min() == 0 and made.max() == 1
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-5)


def test_visual_backprop_of_a_resized_image_is_as_large_as_the_image() -> None:
    assert saliency.visual_backprop(network(longest=48), scene()).shape == (96, 80)
    small = Embedder(vgg().trunk, replace(vgg().recipe, longest=48), "small")
    assert saliency.visual_backprop(small, scene()).shape == (96, 80)


def test_a_network_that_sees_nothing_gives_zeros() -> None:
    for embedder in (copy.deepcopy(vgg()), network()):
        for parameter in embedder.parameters():
            parameter.data.zero_()
        assert not saliency.visual_backprop(embedder, scene()).any()


def test_visual_backprop_refuses_transformers() -> None:
    for embedder in (network(**CLASS), pixel()):
        with pytest.raises(ValueError, match=r"gives no maps of convolutions .*grad_cam"):
            saliency.visual_backprop(embedder, scene())


# --- do maps depend on the weights? ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_randomise_draws_every_weight_anew_and_the_same_each_time() -> None:
    embedder = trained()
    before, generator = embedder.weights_sha256(), torch.random.get_rng_state()
    made = randomise(embedder, seed=3)
    assert torch.equal(torch.random.get_rng_state(), generator) and embedder.weights_sha256() == before
    old, new = embedder.state_dict(), made.state_dict()
    assert list(old) == list(new)
    assert [key for key in old if torch.equal(old[key], new[key])] == ["pool.p"]
    assert all((new[key] == (1 if "var" in key else 0)).all() for key in new if "running" in key)
    assert randomise(embedder, seed=3).weights_sha256() == made.weights_sha256()
    assert randomise(embedder, seed=4).weights_sha256() != made.weights_sha256()
    assert not made.training and "untrained" in made.title and made.name == "tiny-100-percent-randomised"
    rebuilt = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert {key.removeprefix("trunk.") for key in new} - {"pool.p"} == set(rebuilt)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"projector": 5}, CLASS])
def test_a_share_is_drawn_anew_from_the_end(changes: dict[str, Any]) -> None:
    embedder = network(**changes)
    for parameter in embedder.parameters():
        parameter.data += 0.01  # as if learned: ones and zeros too
    counts, whole = [], None
    for share in (0, 0.3, 0.6, 1):
        made = randomise(embedder, seed=9, share=share)
        old, new = embedder.state_dict(), made.state_dict()
        layers = list(dict.fromkeys(key.rpartition(".")[0] for key in old if key != "pool.p"))
        changed = {key.rpartition(".")[0] for key in old if not torch.equal(old[key], new[key])}
        counts.append(len(changed))
        assert changed == set(layers[len(layers) - round(share * len(layers)) :])
        assert ("untrained" in made.title) == ("untrained" in embedder.title or share == 1)
        whole = new
    assert counts[0] == 0 and sorted(set(counts)) == counts and whole is not None
    fresh = network(**changes | {"seed": 9}).state_dict()
    assert all(torch.equal(whole[key], fresh[key]) for key in fresh if key != "pool.p")


def test_a_share_of_a_trained_network_is_not_called_untrained() -> None:
    made = randomise(trained(), share=0.5)
    assert made.title == "tiny-50-percent-randomised" and "layers drawn anew" in made.recipe.origin


def test_what_cannot_be_randomised_is_refused() -> None:
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"share must be from 0 .*got"):
            randomise(network(), share=share)
    with pytest.raises(ValueError, match="seed must be an integer"):
        randomise(network(), seed=-1)
    with pytest.raises(ValueError, match=r"other weights than its recipe's architecture test_resnet.*folded"):
        randomise(backbone.fold_batch_norm(network()))


@pytest.mark.slow
def test_maps_of_the_trained_network_disagree_with_those_of_random_ones() -> None:
    embedder, agreements = backbone.load(NETWORK), []
    randoms = [randomise(embedder, seed) for seed in range(3)]
    for i in range(3):
        one, two = scene(i, 160, 160), np.roll(scene(i, 160, 160), (20, 10), axis=(0, 1))
        heat = grad_cam(embedder, one, describe_image(embedder, two))
        same = randomise(embedder, share=0)
        assert map_agreement(heat, grad_cam(same, one, describe_image(same, two))) == pytest.approx(1)
        agreements += [map_agreement(heat, grad_cam(other, one, describe_image(other, two))) for other in randoms]
    assert np.mean(np.abs(agreements)) < 0.5  # measured: 0.34, and 0.54 at most


def test_agreement_is_the_correlation_of_ranks() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 9, (5, 7)).astype(np.float32)  # with ties
    two = one + rng.normal(size=(5, 7))
    expected = np.corrcoef(rankdata(one), rankdata(two))[0, 1]
    assert map_agreement(one, two) == pytest.approx(expected) and 0.5 < expected < 1
    assert map_agreement(one, np.exp(one)) == pytest.approx(1) and map_agreement(one, -one) == pytest.approx(-1)
    assert map_agreement(one, np.ones((5, 7))) == map_agreement(np.zeros((5, 7)), one) == 0


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r"one shape, got \(2, 3\) and \(3, 2\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "one shape"),
        (np.array([1.0, np.nan]), np.zeros(2), "must be finite"),
        (np.zeros(2), np.array([1.0, np.inf]), "must be finite"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(
    one: NDArray[np.float64], two: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        map_agreement(one, two)
