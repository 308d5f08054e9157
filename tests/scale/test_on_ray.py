"""Extraction on Ray against `metlib.extract`: on a real Ray through a kill, and its worker alone in this process."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from metlib import backbone, cli, dataset, extract
from metlib.backbone import Embedder, Recipe
from metlib.dataset import Split
from metlib.descriptors import shards
from metlib.extract import load_descriptors, load_labels, load_recipe

ray = pytest.importorskip("ray")
on_ray = pytest.importorskip("metlib.scale.on_ray")
pytestmark = pytest.mark.slow  # one Ray for all of them takes seconds to start

SIZES = [(64, 48), (48, 64), (72, 72), (57, 61), (50, 70)]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return backbone.build(Recipe("test_resnet", seed=1), "tiny")


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Twelve images that decoders differ in: on its side, grey, 16-bit grey, palette, transparent."""
    root = tmp_path / "images"
    root.mkdir()
    names = []
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize(SIZES[i % 5], Image.Resampling.BICUBIC)
        kind = ["colour", "sideways", "grey", "16 bits", "palette", "transparent"][i % 6]
        names.append(f"{i}.jpg" if i % 6 < 3 else f"{i}.png")
        options: dict[str, Any] = {}
        if kind == "sideways":
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = 6
        elif kind == "grey":
            image = image.convert("L")
        elif kind == "16 bits":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
        elif kind == "palette":
            image = image.quantize(16)
        elif kind == "transparent":
            image.putalpha(image.convert("L"))
        image.save(root / names[-1], **options)
    return Split(np.array(names), np.arange(12) - 1, root)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Describe in this process instead of on Ray; lists the shards."""
    described: list[str] = []

    def describe(worker: Any, pending: dict[str, Any], *_: Any) -> Iterator[tuple[str, Any]]:
        worker = pickle.loads(pickle.dumps(worker))  # as it travels
        for shard in reversed(pending):
            described.append(shard)
            yield shard, worker.describe(pending[shard].tolist())

    monkeypatch.setattr(on_ray, "_describe_on_ray", describe)
    monkeypatch.setattr(on_ray, "_connected", lambda address: nullcontext())
    return described


def by_extract(split: Split, embedder: Embedder, out: Path, **options: Any) -> Path:
    return extract.extract(split, embedder, out, **({"device": "cpu", "shard_size": 3} | options))


def by_ray(split: Split, embedder: Embedder, out: Path, **options: Any) -> Path:
    return on_ray.extract(split, embedder, out, **({"shard_size": 3} | options))


def same(a: Path, b: Path) -> None:
    """Two folders hold the same."""
    assert sorted(p.name for p in a.parent.iterdir()) == sorted(p.name for p in b.parent.iterdir())
    assert load_recipe(a) == load_recipe(b)
    assert np.array_equal(load_labels(a), load_labels(b))
    np.testing.assert_allclose(load_descriptors(a), load_descriptors(b), atol=1e-5)


def finished(out: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (out / "shards").glob("[0-9]*.npy")}


def cut(file: Path) -> bytes:
    """Damage an image behind its header; what it was is given back."""
    content = file.read_bytes()
    file.write_bytes(content[:-30])
    return content


# --- on Ray ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray with two CPUs, of which nothing is left."""
    import ray

    for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    token = os.urandom(24).hex()
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)  # or Ray writes one into the home folder
    # Workers import `Mortal`. What jsonschema compiles here for one of its formats takes each of Ray's processes 2 s.
    (tmp_path / "rfc3987_syntax.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parent)]))
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # a short name: Ray's sockets lie in it
    try:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=10**8,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=str(folder),
        )
        assert len(list(ours(token))) > 3
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder)
    _, alive = psutil.wait_procs(list(ours(token)), timeout=30)
    assert not alive and not folder.exists()


def ours(token: str) -> Iterator[psutil.Process]:
    """Processes of the Ray with this token."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_AUTH_TOKEN") == token and process.pid != os.getpid():
                yield process
        except psutil.Error:  # it ended meanwhile, or is somebody else's
            continue


class Mortal(Embedder):
    """The first of two processes that has described more than one shard kills itself, when both are at work."""

    state: Path
    seen = 0

    def forward(self, images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        (self.state / f"pid-{os.getpid()}").touch()
        if images.shape[-1] != 96:  # what looks at the network itself is of 96 pixels
            self.seen += len(images)
        if self.seen > 9 and not (self.state / "killed").exists():  # three images at three scales
            while len(list(self.state.glob("pid-*"))) < 2:
                time.sleep(0.01)
            try:
                with (self.state / "killed").open("x") as file:
                    file.write(str(os.getpid()))
            except FileExistsError:
                return super().forward(images, scale)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images, scale)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_two_workers_one_of_them_killed(split: Split, embedder: Embedder, tmp_path: Path, two_cpus: None) -> None:
    reference = by_extract(split, embedder, tmp_path / "a")
    mortal = Mortal(embedder.trunk, embedder.recipe, "tiny").eval()
    mortal.state = tmp_path / "state"
    mortal.state.mkdir()
    out = tmp_path / "out"
    path = by_ray(split, mortal, out, workers=2, shard_size=2, address="ignored")
    same(path, reference)
    pids = {int(p.name.removeprefix("pid-")) for p in mortal.state.glob("pid-*")}
    killed = int((mortal.state / "killed").read_text())
    assert ray.data.DataContext.get_current().enable_progress_bars  # is the caller's
    assert len(pids) == 3 and killed in pids and os.getpid() not in pids  # two, and the one in place of the killed


# --- the worker in this process -------------------------------------------------------------------------------------


def test_the_folder_is_that_of_extract(split: Split, embedder: Embedder, tmp_path: Path, here: list[str]) -> None:
    path = by_ray(split, embedder, tmp_path / "new" / "out", scales=(1, 0.5))
    assert path == tmp_path / "new" / "out" / "descriptors.npy" and len(here) == 4
    same(path, by_extract(split, embedder, tmp_path / "a", scales=(1, 0.5)))
    before = path.stat().st_mtime_ns
    assert by_ray(split, embedder, path.parent, scales=(1, 0.5), shard_size=5) == path
    assert len(here) == 4 and path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another recipe: its scales"):
        by_ray(split, embedder, path.parent)


def test_the_network_stays_as_it_is(split: Split, tmp_path: Path, here: list[str]) -> None:
    network = backbone.build(Recipe("test_resnet", seed=1), "tiny").train()
    by_ray(split, network, tmp_path / "out")
    assert network.training


def test_what_one_began_the_other_finishes(split: Split, embedder: Embedder, tmp_path: Path, here: list[str]) -> None:
    reference = by_extract(split, embedder, tmp_path / "a")
    out = tmp_path / "out"
    row = next(i for i in shards.plan(split, out, {}).order[6:9] if str(split.paths[i]).endswith("jpg"))
    good = cut(split.file(row))
    with pytest.raises(OSError, match=rf"{split.paths[row]}: truncated.*on_error='skip'"):
        by_ray(split, embedder, out)
    one = finished(out)
    assert len(one) == 1 and len(here) == 2  # it is in the third shard, and `here` begins with the last
    with pytest.raises(OSError, match=rf"{split.paths[row]}: truncated"):
        by_extract(split, embedder, out)
    three = finished(out)
    assert len(three) == 3 and one.items() <= three.items()
    split.file(row).write_bytes(good)
    here.clear()
    real, kept = shards.join, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "join", lambda *given: kept.update(finished(out)) or real(*given))
        same(by_ray(split, embedder, out), reference)
    assert len(here) == 1 and three.items() <= kept.items()


def test_images_that_cannot_be_read(split: Split, embedder: Embedder, tmp_path: Path, here: list[str]) -> None:
    cut(split.file(0))
    split.file(4).unlink()
    Image.new("RGB", (7, 90)).save(split.file(7))
    reference = by_extract(split, embedder, tmp_path / "a", on_error="skip")
    path = by_ray(split, embedder, tmp_path / "out", on_error="skip")
    same(path, reference)
    assert load_recipe(path)["skipped"] == ["0.jpg", "4.png", "7.jpg"]
    with pytest.raises(OSError, match="3 images were skipped before"):
        by_ray(split, embedder, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales must be positive numbers"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip', got 'ignore'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"shard_size": 0}, "shard_size must be an integer of at least 1, got 0"),
        ({"workers": 0}, "workers must be an integer of at least 1, got 0"),
        ({"cpus": 0}, "cpus must be an integer of at least 1, got 0"),
        ({"gpus": -1}, "gpus must be 0 or more, got -1"),
        ({"images": "abacus://x"}, r"images 'abacus://x': .*abacus.* an address that Ray reads"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, split: Split, embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        by_ray(split, embedder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# --- images elsewhere -----------------------------------------------------------------------------------------------


def zipped(split: Split, archive: Path) -> str:
    """Move the images into an archive, and give their address there."""
    with zipfile.ZipFile(archive, "w") as file:
        for name in split.paths:
            file.write(split.root / name, f"museum/{name}")
    shutil.rmtree(split.root)
    return f"zip://museum::file://{archive}"


def test_images_may_lie_in_another_file_system(
    split: Split, embedder: Embedder, tmp_path: Path, here: list[str]
) -> None:
    reference = by_extract(split, embedder, tmp_path / "a")
    address = split.root.as_uri()  # of pyarrow's own
    same(by_ray(split, embedder, tmp_path / "b", images=address), reference)
    same(by_ray(split, embedder, tmp_path / "c", images=str(split.root)), reference)
    address = zipped(split, tmp_path / "museum.zip")  # of fsspec's
    path = by_ray(split, embedder, tmp_path / "d", images=address)
    same(path, reference)
    assert by_ray(split, embedder, tmp_path / "d", images=address) == path


def test_a_begun_folder_goes_on_elsewhere(split: Split, embedder: Embedder, tmp_path: Path, here: list[str]) -> None:
    reference = by_extract(split, embedder, tmp_path / "a")
    out = tmp_path / "out"
    row = next(i for i in shards.plan(split, out, {}).order[6:9] if str(split.paths[i]).endswith("jpg"))
    good = cut(split.file(row))
    with pytest.raises(OSError, match=str(split.paths[row])):
        by_extract(split, embedder, out)
    assert len(finished(out)) == 2
    split.file(row).write_bytes(good)
    same(by_ray(split, embedder, out, images=zipped(split, tmp_path / "museum.zip")), reference)
    assert len(here) == 2  # the plan knows images by their names and sizes


def test_images_elsewhere_that_cannot_be_read(
    split: Split, embedder: Embedder, tmp_path: Path, here: list[str]
) -> None:
    cut(split.file(0))
    address = zipped(split, tmp_path / "museum.zip")
    with pytest.raises(OSError, match=r"zip://museum.*/0\.jpg: truncated.*on_error='skip'"):
        by_ray(split, embedder, tmp_path / "out", images=address)
    more = Split(np.append(split.paths, "gone.jpg"), np.append(split.labels, 0), split.root)
    path = by_ray(more, embedder, tmp_path / "skipped", images=address, on_error="skip")
    assert load_recipe(path)["skipped"] == ["0.jpg", "gone.jpg"]


def test_a_file_system_that_does_not_answer_skips_nothing(
    split: Split, embedder: Embedder, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = zipped(split, tmp_path / "museum.zip")
    real = on_ray._File.read

    def read(file: Any) -> bytes:
        silent = file.most is None and file.path.endswith("3.png")
        return real(on_ray.replace(file, files=None) if silent else file)

    monkeypatch.setattr(on_ray._File, "read", read)
    with pytest.raises(RuntimeError, match=r"can't reach zip://museum.*/3\.png: .*run again once the address answers"):
        by_ray(split, embedder, tmp_path / "out", images=address, on_error="skip")
    assert not (tmp_path / "out" / "descriptors.npy").exists()
    with pytest.raises(RuntimeError, match=r"can't reach x/y: "):
        on_ray._File(None, "y", "x/y", None).stat()


def test_sizes_elsewhere_cost_one_short_read(split: Split, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Image.effect_noise((400, 380), 90).save(split.file(2))
    assert split.file(2).stat().st_size > on_ray._HEAD
    here = shards.plan(split, tmp_path / "a", {})
    read, real = Counter[str](), on_ray._File.read

    def count(file: Any) -> bytes:
        content = real(file)
        read[Path(file.path).name] += len(content)
        return content

    monkeypatch.setattr(on_ray._File, "read", count)
    elsewhere = on_ray.replace(on_ray._at(split, split.root.as_uri()), most=on_ray._HEAD)
    plan = shards.plan(elsewhere, tmp_path / "b", {})
    assert plan.shards.keys() == here.shards.keys()
    assert np.array_equal(plan.order, here.order) and np.array_equal(plan.sizes, here.sizes)
    assert len(read) == 12 and max(read.values()) == read["2.jpg"] == on_ray._HEAD


# --- when Ray is not as it should be --------------------------------------------------------------------------------


def test_a_shard_that_kills_its_workers_is_named(
    split: Split, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray.ray, "get", lambda given: given)
    worker = on_ray._Worker(split, embedder, "cpu", 2, (1,), "float32", None, None, "raise")
    begin = on_ray._AttemptCounter().begin
    in_a_process = on_ray._WorkerOnRay(worker, SimpleNamespace(begin=SimpleNamespace(remote=begin)))
    row = {"shard": "0-2.npy", "rows": [5, 1]}
    first = in_a_process(row)
    array = np.frombuffer(first["array"], np.float32).reshape(2, -1)
    assert first["error"] == "" and np.array_equal(array, worker.describe([5, 1]))
    assert [in_a_process(row)["error"] for _ in range(3)] == ["", "", "RuntimeError"]
    assert "killed 3 times while it described the 2 images of shard 0-2.npy, the first" in in_a_process(row)["message"]
    assert in_a_process({"shard": "other", "rows": [5]})["error"] == ""


def test_errors_of_a_worker_are_values(split: Split, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray.ray, "get", lambda given: given)
    begun = SimpleNamespace(begin=SimpleNamespace(remote=lambda shard: 1))
    cut(split.file(0))
    broken = backbone.build(Recipe("test_resnet", seed=1, projector=4), "broken")
    torch.nn.init.constant_(broken.projector.weight, float("nan"))

    def error(**changes: Any) -> tuple[str, str]:
        given = {"device": "cpu", "threads": 2, "scales": (1,), "precision": "float32", "channels_last": None}
        given |= {"split": split, "embedder": embedder, "batch_size": None, "on_error": "raise"} | changes
        result = on_ray._WorkerOnRay(on_ray._Worker(**given), begun)({"shard": "s", "rows": [0, 1]})
        assert result["shard"] == "s" and result["array"] == b""
        return result["error"], result["message"]

    kind, message = error()
    assert kind == "OSError" and "0.jpg: truncated" in message
    kind, message = error(on_error="skip", embedder=broken)
    assert kind == "ValueError" and "1.jpg: broken gives a descriptor that is NaN or zero" in message
    kind, message = error(scales=(0.001,), on_error="skip")
    assert kind == "RuntimeError" and "tiny can't describe" in message
    kind, message = error(precision="float1", on_error="skip")
    assert (kind, message) == ("RuntimeError", "KeyError: 'float1'")


def test_a_cluster_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 9.0, "GPU": 2.0}}]
    monkeypatch.setattr(on_ray.ray, "nodes", lambda: nodes)
    on_ray._check_nodes(4, 0)
    with pytest.raises(ValueError, match=r"wants 8 CPU, but the largest of the cluster's 1 nodes has 4: lower cpus"):
        on_ray._check_nodes(8, 0)
    with pytest.raises(ValueError, match=r"wants 0.5 GPU, .* has 0: lower gpus, or add a node"):
        on_ray._check_nodes(1, 0.5)


def test_what_ray_raises_is_explained() -> None:
    def results() -> Iterator[dict[str, Any]]:
        yield {}
        raise KeyError("lost\nand more")

    with pytest.raises(RuntimeError, match=r"Ray failed: .*lost.* kept.*run again"):
        list(on_ray._explained(results()))


def test_a_missing_ray_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "metlib.scale.on_ray")
    with pytest.raises(ModuleNotFoundError, match=r"no Ray Data .*pip install -e '\.\[scale\]'"):
        importlib.import_module("metlib.scale.on_ray")


# --- the command line -----------------------------------------------------------------------------------------------


def test_the_command_line(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metlib import synthetic  # not above: workers read this file

    root = synthetic.write_museum(tmp_path / "museum", n_exhibits=5, size=64)
    checkpoint = str(
        backbone.save(backbone.build(Recipe("test_resnet", seed=1), "tiny"), tmp_path / "tiny.safetensors")
    )
    work = tmp_path / "work"
    given = [str(root), checkpoint, "--work", str(work), "--scales", "1"]
    assert cli.main(["extract", *given, "--ray", "--workers", "3", "--batch-size", "2", "--shard-size", "4"]) == 0
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["database", "val", "test", "visits aren't simulated on Ray"] and here
    monkeypatch.setattr(dataset, "read_image", None)  # nothing is left to do
    assert cli.main(["extract", *given, "--device", "cpu", "--whitening", "pca"]) == 0
    assert cli.main(["extract", str(tmp_path / "none"), checkpoint, "--ray"]) == 2
    assert "error: no folder" in capsys.readouterr().err
