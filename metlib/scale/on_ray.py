"""Extraction on Ray Data: a cluster's workers describe, the driver writes the very shards of `metlib.extract`.

A worker that was killed is started again with the same shard. Ray's own `read_images` isn't used: it ignores the EXIF
orientation and reads 16-bit grey otherwise. From a shell: `metlib extract MUSEUM BACKBONE --ray --workers 8 --gpus 1
--address auto`. Every node needs the same metlib, and the images: in a folder that all share, or where Ray reads them.
"""

import copy
import logging
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from metlib import extract as local
from metlib.backbone import Embedder
from metlib.common.progress import track
from metlib.dataset import Museum, Split
from metlib.descriptors import DESCRIPTORS, name_folder, shards, split_folder

try:
    import ray
    import ray.data
    from pyarrow import fs
    from ray.util.debug import log_once
except ImportError as error:
    raise ModuleNotFoundError(f"no Ray Data ({error}): pip install -e '.[scale]' in the project's folder") from error

_BEGINNINGS = 3  # of one shard: Ray would start for ever the workers that it ends
_HEAD = 2**16  # bytes of an image elsewhere that are read to find its width and height
_INSPECTING = 32  # threads that read these: a file system elsewhere answers slowly, but many at once
_AGAIN = "can't reach {}. What is finished is kept: run again once the address answers"
_ERRORS = {"OSError": OSError, "ValueError": ValueError, "RuntimeError": RuntimeError}


def extract(
    split: Split,
    embedder: Embedder,
    out: str | Path,
    *,
    scales: Sequence[float] = local.SCALES,
    precision: str = "float32",
    channels_last: bool | None = None,
    batch_size: int | None = None,
    shard_size: int = shards.SHARD,
    workers: int = 2,
    cpus: int = 1,
    gpus: float = 0,
    on_error: str = "raise",
    address: str | None = None,
    images: str | None = None,
    label: str = "images",
) -> Path:
    """Describe every image of a split on Ray and give the path of `descriptors.npy`, in the folder `out`.

    Descriptors, recipe, shards and errors are those of `metlib.extract.extract`, so either finishes what the other
    began. Up to `workers` processes describe, each with `cpus` cores (and four decoding threads a core) or, where
    `gpus` isn't 0, with that many GPUs or that part of one. `address` is that of a cluster, as `ray.init` takes it.
    Without one, a Ray that this process or machine has is used, else one is started and ended afterwards. `images` is
    the address of the images' root where that isn't the split's own: a folder, s3://..., gs://..., or what fsspec
    knows; a finished folder doesn't compare these. Raises ValueError where no node of the cluster has those cores or
    GPUs; RuntimeError for a shard that ended its worker three times, for a file system that doesn't answer (even with
    `on_error="skip"`), and where Ray itself fails.
    """
    local.check_options(on_error, batch_size=batch_size, shard_size=shard_size, workers=workers, cpus=cpus)
    if not gpus >= 0:
        raise ValueError(f"gpus must be 0 or more, got {gpus!r}")
    split, out = _at(split, images), Path(out)
    recipe = local.make_recipe(split, embedder, scales, precision)
    if finished := shards.find_finished(split, out, recipe, on_error):
        return finished
    inspected = replace(split, most=_HEAD) if isinstance(split, _RemoteSplit) else split
    threads = 4 if inspected is split else _INSPECTING
    plan = shards.plan(inspected, out, recipe, shard_size=shard_size, workers=threads, label=label)
    pending = dict(plan.pending())
    if not pending:
        return shards.join(plan, on_error)
    options = "cuda" if gpus else "cpu", 4 * cpus, scales, precision, channels_last, batch_size, on_error
    worker = _Worker(split, copy.deepcopy(embedder).cpu().eval(), *options)
    done = len(split) - sum(map(len, pending.values()))
    described = _describe_on_ray(worker, pending, workers, cpus, gpus, address)
    with track(total=len(split), done=done, label=label) as bar, closing(described):
        for shard, array in described:
            shards.write_shard(plan, shard, array)
            bar.update(len(array))
    return shards.join(plan, on_error)


def _describe_on_ray(
    worker: "_Worker", pending: dict[str, NDArray[np.int64]], workers: int, cpus: int, gpus: float, address: str | None
) -> Generator[tuple[str, NDArray[np.float32]]]:
    """Describe shards, given with their rows; they come in any order, each as (n, D)."""
    with _connected(address), ExitStack() as afterwards:
        _check_nodes(cpus, gpus)
        begun: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_AttemptCounter).remote()
        afterwards.callback(ray.kill, begun)
        rows = [{"shard": shard, "rows": rows.tolist()} for shard, rows in pending.items()]
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            cast(Any, _WorkerOnRay),
            fn_constructor_args=(ray.put(worker), begun),  # the network goes to each node once
            # One shard at a time: a second would wait for a busy worker while another is idle.
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=1),
            num_cpus=None if gpus else cpus,
            num_gpus=gpus or None,
        )
        data.context.enable_progress_bars = data.context.print_on_execution_start = False
        log_once("ray_data_progress_manager_disabled")  # or Ray prints how to turn its bars on
        data.context.execution_no_progress_timeout_s = -1  # a CPU may take longer for a shard than Ray's half an hour
        data.context.max_consecutive_actor_init_deaths = _BEGINNINGS
        for result in _explained(data.iter_rows()):
            if result["error"]:
                raise _ERRORS[result["error"]](result["message"])
            shard, array = result["shard"], np.frombuffer(result["array"], np.float32)
            yield shard, array.reshape(len(pending[shard]), -1)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Be connected to a Ray: the one that this process has, else that of `address`, until the block ends."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray of our own sends no reports
    ray.init(address=address, include_dashboard=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _explained(results: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What Ray gives, or RuntimeError where it fails itself: its own errors have no base in common."""
    try:
        yield from results
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeError(f"Ray failed: {reason}. What is finished is kept: look above, then run again") from error


def _check_nodes(cpus: int, gpus: float) -> None:
    """Raise ValueError where no node could ever hold a worker: Ray would wait for one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind, wanted = ("GPU", gpus) if gpus else ("CPU", cpus)
    most = max((node.get(kind, 0) for node in nodes), default=0)
    if most < wanted:
        largest = f"the largest of the cluster's {len(nodes)} nodes has {most:g}"
        raise ValueError(f"a worker wants {wanted:g} {kind}, but {largest}: lower {kind.lower()}s, or add a node")


@dataclass(frozen=True)
class _Worker:
    """Describes shards as `metlib.extract` does; it travels before it describes the first."""

    split: Split
    embedder: Embedder
    device: str
    threads: int
    scales: Sequence[float]
    precision: str
    channels_last: bool | None
    batch_size: int | None
    on_error: str

    @cached_property
    def ready(self) -> Embedder:
        return local.prepare(self.embedder, self.device, self.precision, self.channels_last)

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads)

    def describe(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Describe images: (n, D), NaN where one was skipped."""
        files = [self.split.file(i) for i in rows]
        images = _check_reachable(local.decode_ahead(files, self.pool, 4 * self.threads))
        options = self.device, self.scales, self.precision, self.batch_size, self.on_error
        return local.embed_images(self.ready, images, files, *options)


class _AttemptCounter:
    """Counts how often each shard was begun, beyond the life of workers."""

    def __init__(self) -> None:
        self.times = Counter[str]()

    def begin(self, shard: str) -> int:
        self.times[shard] += 1
        return self.times[shard]


class _WorkerOnRay:
    """A worker in a process of Ray's. It gives errors as values: Ray would wrap them, and log where they come from."""

    def __init__(self, shared: Any, begun: Any) -> None:
        self.shared, self.begun = shared, begun

    @cached_property
    def worker(self) -> _Worker:
        return ray.get(self.shared)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Describe the images `rows` of a `shard`: `array` (n, D) float32 as bytes, or `error` and `message`."""
        result = {"shard": row["shard"], "array": b"", "error": "", "message": ""}
        try:
            if ray.get(self.begun.begin.remote(row["shard"])) > _BEGINNINGS:
                raise RuntimeError(
                    f"a worker was killed {_BEGINNINGS} times while it described the {len(row['rows'])} images of "
                    f"shard {row['shard']}, the first {self.worker.split.file(row['rows'][0])}: where memory is short, "
                    "lower batch_size or workers, or leave its largest images out of the split"
                )
            return result | {"array": self.worker.describe(row["rows"]).tobytes()}
        except Exception as error:
            name = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), None)
            message = str(error) if name else f"{type(error).__name__}: {error}"
            return result | {"error": name or "RuntimeError", "message": message}


def _at(split: Split, images: str | None) -> Split:
    """The split with its images at `images`, named so that any process finds them."""
    if images is None or "://" not in images:
        return replace(split, root=Path(images or split.root).absolute())
    try:
        files, base = fs.FileSystem.from_uri(images)
    except ValueError:  # a scheme that pyarrow itself doesn't know
        try:
            files, base = fs.FileSystem.from_uri(f"fsspec+{images}")
        except (ValueError, ImportError) as error:
            raise ValueError(f"images {images!r}: {error}. Expected a folder, or an address that Ray reads") from error
    return _RemoteSplit(split.paths, split.labels, Path(images), files, base, images)


@dataclass(frozen=True, eq=False)
class _RemoteSplit(Split):
    """A split with its images at `base` of a pyarrow file system, `address` for messages; `most` bytes of each."""

    files: Any = None
    base: str = ""
    address: str = ""
    most: int | None = None

    def file(self, i: int) -> Any:
        """What Pillow, `shards.plan` and messages need of a path."""
        return _File(self.files, f"{self.base}/{self.paths[i]}", f"{self.address}/{self.paths[i]}", self.most)


class _Unreachable(Exception):
    """The file system doesn't answer, so nothing is known of the image."""


@dataclass(frozen=True)
class _File:
    """A file elsewhere. It can't seek, so Pillow reads it in one go."""

    files: Any
    path: str
    address: str
    most: int | None

    def __str__(self) -> str:
        return self.address

    def stat(self) -> SimpleNamespace:
        try:
            info = self.files.get_file_info(self.path)
        except Exception as error:  # of any library
            raise RuntimeError(_AGAIN.format(f"{self.address}: {error}")) from error
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"no file {self.address}")
        return SimpleNamespace(st_size=info.size)

    def read(self) -> bytes:
        try:
            with self.files.open_input_stream(self.path) as stream:
                return stream.read(self.most)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no file {self.address}") from error
        except Exception as error:
            raise _Unreachable(f"{self.address}: {error}") from error


def _check_reachable(images: Iterable[NDArray[np.uint8] | OSError]) -> Iterator[NDArray[np.uint8] | OSError]:
    """Raise RuntimeError where the file system, and not the image, is to blame: nothing may be skipped for that."""
    for image in images:
        if isinstance(image, OSError) and isinstance(image.__cause__, _Unreachable):
            raise RuntimeError(_AGAIN.format(image.__cause__)) from image
        yield image


def extract_museum(
    museum: Museum, embedder: Embedder, work_dir: str | Path, *, address: str | None = None, **options: Any
) -> Iterator[tuple[str, Path]]:
    """Describe the splits of a museum on Ray, into the folders of `metlib.extract`; give each one's name and path."""
    scales, precision = options.get("scales", local.SCALES), options.get("precision", "float32")
    folder = name_folder(museum, embedder, work_dir, scales, precision)
    outs = [split_folder(folder, split, name) for split, name in museum.splits()]
    with nullcontext() if all((out / DESCRIPTORS).exists() for out in outs) else _connected(address):  # once for all
        for (split, name), out in zip(museum.splits(), outs, strict=True):
            yield name, extract(split, embedder, out, label=name, address=address, **options)
