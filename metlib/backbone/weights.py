"""Weights in other people's files: fetched by URL and hash, read without running them, renamed to timm's names.

Three forms are read: a plain state dict (safetensors too), one under `state_dict` (as training scripts leave it), and
the Met authors' checkpoints, whose ResNet is a Sequential, with GeM's p and the FC projector beside it.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from metlib.backbone.recipes import FILES, Recipe
from metlib.common import fetch as http

ENVIRONMENT = "METLIB_WEIGHTS"  # names a folder of weights files, looked through before anything is fetched
SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".bin")
_WHOLE = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")  # as folders of the Hub have them

# Children of torchvision's ResNet in order, as `nn.Sequential` numbers them in the authors' checkpoints.
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# What was only needed in training: classifiers (Inception has a second), SwAV's projection head and prototypes.
_HEADS = re.compile(r"(fc|classifier|head|AuxLogits|projection_head|prototypes|predictor)\.")
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
_RESNEXTS = ("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d")
_NUMPY = ("core.multiarray.scalar", "_core.multiarray.scalar", "dtype", "dtypes.Float64DType", "dtypes.Float32DType")


def find(name: str, arch: str, place: str | Path | None = None) -> Path | None:
    """Find the weights of a recipe or timm model on this disk: in `place`, a file or a folder, or in METLIB_WEIGHTS.

    A folder may hold files named after the recipe, the model with its tag, or the file of a URL, or folders of
    these names as the Hub lays them out. Raises FileNotFoundError where `place` is given and holds no such file.
    """
    given = place if place is not None else os.environ.get(ENVIRONMENT)
    if not given:
        return None
    folder = Path(given).expanduser()
    if folder.is_file():
        return folder
    stems, files = [name], [FILES[name][1].file] if name in FILES else []
    if name not in FILES or "." in arch:  # without a tag, other weights have that arch too
        config: Any = timm.get_pretrained_cfg(arch)
        hub = [config.hf_hub_id.split("/")[-1]] if config and config.hf_hub_id else []
        stems = list(dict.fromkeys([name, arch, *hub]))
    expected = " or ".join(files + [stem + SUFFIXES[0] for stem in stems])
    files += [f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
    files += [f"{stem}/{whole}" for stem in stems for whole in _WHOLE]
    found = next((folder / file for file in files if (folder / file).is_file()), None)
    if found is None and place is not None:
        others = f"(or {', '.join(SUFFIXES[1:])}), or {_WHOLE[0]} in a folder of that name"
        raise FileNotFoundError(f"{folder} has no weights of {name}: expected {expected} {others}")
    return found


def fetch(name: str) -> Path:
    """Fetch the file of a recipe in `recipes.FILES` once, into torch's cache, and check its hash; returns its path.

    With HF_HUB_OFFLINE set nothing is fetched. Raises DownloadError as `common.fetch.fetch` does.
    """
    url, file = FILES[name]
    path = Path(torch.hub.get_dir()) / "metlib" / file.file
    offline = os.environ.get("HF_HUB_OFFLINE", "").casefold() in ("1", "on", "yes", "true")
    if offline and not path.exists():
        way_out = f"fetch {url}{file.file} elsewhere and copy it"
        raise http.DownloadError(f"HF_HUB_OFFLINE is set and {path} isn't there: {way_out}")
    return http.fetch(file, path.parent, url)


def is_torch(path: Path) -> bool:
    """Check whether `torch.save` wrote a file: a zip archive, or a pickle as before PyTorch 1.6."""
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors begins with its header's length in eight bytes, of which the first may be 0x80 too; then comes a {.
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{")


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or `torch.save` file by name, without running anything in it.

    `module.`, which DataParallel puts before every name, is taken off.
    Raises ValueError for a file that is damaged, asks for other code, or holds no plain tensors by name.
    """
    stand_ins: list[Any] = [_Ignored, *((_Ignored, f"numpy.{name}") for name in _NUMPY)]
    content: Any
    try:
        if is_torch(path):
            with torch.serialization.safe_globals(stand_ins):
                content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            content = safetensors.torch.load_file(path)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        # torch's own message begins with how to run the file all the same.
        text = "not as torch.save writes" if "Weights only" in str(error) else str(error)[:200]
        reason = f"{type(error).__name__}: {text}; a damaged or cut download? fetch it again"
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"it asks for {code[1]}, expected nothing but tensors and numbers; nothing of it was run"
        raise ValueError(f"{path} can't be read as weights: {reason}") from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        raise ValueError(f"{path} holds {type(content).__name__}, expected weights by name, or under 'state_dict'")
    if odd := next((key for key, tensor in tensors.items() if not _is_plain(tensor)), None):
        raise ValueError(f"{path}: {odd} is no plain tensor with a place in the file for every value: save it again")
    return {re.sub(r"^(module\.)+", "", key): tensor for key, tensor in tensors.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Check that a tensor has a value in the file for every entry: sparse, empty and expanded ones claim any shape."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


class _Ignored:
    """Stands for numpy's scalars and dtypes (of saved scores), which trust the file's content; weights need none."""

    def __init__(self, *arguments: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename foreign weights as timm does, the projector to `projector.*` and GeM's p to `pool.p`, without heads.

    `module.` (DataParallel) and `backbone.` are taken off, a Sequential's numbers become layers, and a bias of
    shape (1, D) becomes (D,): so the authors store their projector's, where PCA initialised it.
    """
    renamed = {}
    for key, tensor in tensors.items():
        first, dot, rest = re.sub(r"^(module\.|backbone\.)+", "", key).partition(".")
        name = _SEQUENTIAL.get(first, first) + dot + rest
        if not _HEADS.match(name):
            bias = name == "projector.bias" and tensor.ndim == 2 and len(tensor) == 1
            renamed[name] = tensor[0] if bias else tensor
    return renamed


def recognise(tensors: dict[str, Tensor]) -> Recipe:
    """Find by the shapes which ResNet renamed weights belong to, and make its recipe, to which GeM's p moves.

    Raises ValueError where none fits (with the nearest, and the first keys that differ), and for a p or projector of
    another shape.
    """
    p, projector = tensors.pop("pool.p", None), tensors.get("projector.weight")
    shapes = {k: tuple(v.shape) for k, v in tensors.items() if not k.startswith("projector.")}
    wrong: dict[str, list[str]] = {}
    for arch in _RESNETS + _RESNEXTS:
        with torch.device("meta"):
            own = {k: tuple(v.shape) for k, v in timm.create_model(arch, num_classes=0).state_dict().items()}
        differ = [k for k in (*own, *shapes) if own.get(k) != shapes.get(k)]
        # Files from before 2018 don't count batches; nothing of inference depends on it.
        wrong[arch] = sorted({k for k in differ if not (k.endswith("num_batches_tracked") and k not in shapes)})
        if not wrong[arch]:
            break
    arch = min(wrong, key=lambda arch: len(wrong[arch]))
    if wrong[arch]:
        nearest = f"nearest is {arch}, which differs at {wrong[arch][:3]}"
        raise ValueError(f"no ResNet or ResNeXt has these weights; {nearest}")
    if p is not None and p.numel() != 1:
        raise ValueError(f"pool.p has shape {tuple(p.shape)}, expected one number")
    if projector is not None and projector.ndim != 2:
        raise ValueError(f"projector.weight has shape {tuple(projector.shape)}, expected a matrix")
    rows = None if projector is None else len(projector)
    if p is None:
        return Recipe(arch, projector=rows, origin="a PyTorch checkpoint")
    return Recipe(arch, gem_p=p.item(), projector=rows, origin="a checkpoint in the Met authors' format")
