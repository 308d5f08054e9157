"""Extraction in pieces: killed at any moment, shared by ranks, on a file system where files come and go."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from metlib import backbone, cli, dataset, extract
from metlib.backbone import Embedder, Recipe
from metlib.dataset import Museum, Split
from metlib.descriptors import load_descriptors, load_labels, load_recipe, name_folder, shards
from metlib.descriptors.shards import Plan, find_finished, join, plan, write_shard

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [(16, 24), (24, 16), (16, 24), (20, 20)]  # widths and heights
RECIPE = {"weights_sha256": "0", "network": {}, "dim": 3, "scales": [1.0], "images": 10, "images_sha256": "1"}
RECIPE |= {"precision": "float32", "skipped": []}
FINISHED = ["descriptors.npy", "labels.npy", "recipe.json"]


def paint(root: Path, n: int = 10) -> Split:
    """Draw n small images of mixed shapes."""
    root.mkdir(parents=True)
    for i in range(n):
        width, height = SHAPES[i % len(SHAPES)]
        noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"{i}.png")
    return Split(np.array([f"{i}.png" for i in range(n)]), np.arange(n) - 1, root)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return paint(tmp_path / "images")


def cut(split: Split, out: Path, recipe: dict[str, Any] = RECIPE) -> Plan:
    return plan(split, out, recipe, shard_size=4)


def rows_of(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What stands for descriptors (n, 3): by its values, each row is known again."""
    return np.stack([rows + 1, rows * 2, rows**2], axis=1).astype(np.float32)


def fill(planned: Plan, **which: int) -> list[str]:
    """Write the pending shards; their names are given back."""
    names = []
    for shard, rows in planned.pending(**which):
        write_shard(planned, shard, rows_of(rows))
        names.append(shard)
    return names


def lying(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def check_nothing_lost(split: Split, out: Path) -> None:
    """Every row in its place, and nothing else in the folder."""
    assert np.array_equal(load_descriptors(out), rows_of(np.arange(len(split))))
    assert np.array_equal(load_labels(out), split.labels)
    assert lying(out) == FINISHED


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_folder_states_the_scales_and_the_precision() -> None:
    split = Split(np.array(["a.jpg"]), np.array([0]))
    museum = Museum(split, split, split, name="ours")
    network = SimpleNamespace(name="tiny", weights_sha256=lambda: "0123456789")
    published = (1, 2**-0.5, 0.5)
    for scales, options, last in (
        (published, [], "scales-1-0.707-0.5"),
        (published, ["float32"], "scales-1-0.707-0.5"),
        ((1, 0.5), ["bfloat16"], "scales-1-0.5-bfloat16"),
    ):
        folder = name_folder(museum, network, "work", scales, *options)
        assert folder == Path("work") / "ours" / "tiny-01234567" / last


def test_readers_refuse_what_is_not_there_or_damaged(tmp_path: Path) -> None:
    for missing in (tmp_path / "none", tmp_path / "none" / "descriptors.npy"):
        with pytest.raises(FileNotFoundError, match=r"descriptors.*isn't finished|none.*isn't finished"):
            load_descriptors(missing)
    path = tmp_path / "descriptors.npy"
    np.save(path, np.ones((10, 96), np.float32))
    np.save(tmp_path / "labels.npy", np.arange(10))
    assert np.array_equal(load_descriptors(tmp_path), np.ones((10, 96))) and len(load_labels(path)) == 10
    good = path.read_bytes()
    huge = good.replace(b"(10, 96)", b"(9999999999, 96)".ljust(8))
    damaged = {"cut": good[:-5], "empty": b"", "text": b"hello", "zip": b"PK\x03\x04" + good, "huge": huge}
    for content in damaged.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"descriptors\.npy is damaged"):
            load_descriptors(path)
    for array in (np.ones((3, 4)), np.ones(4, np.float32)):
        np.save(path, array)
        with pytest.raises(ValueError, match="expected float32 with 2 axes"):
            load_descriptors(path)
    for bad, word in ((np.nan, "NaN"), (0, "zero")):
        np.save(path, np.full((2, 3), bad, np.float32))
        with pytest.raises(ValueError, match=word):
            load_descriptors(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged"):
        load_descriptors(path)
    for text in ("{", "[1]"):
        (path.parent / "recipe.json").write_text(text)
        with pytest.raises(ValueError, match=r"recipe.json"):
            load_recipe(path)


# --- the plan -------------------------------------------------------------------------------------------------------


def test_images_of_one_shape_are_side_by_side(split: Split, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright, stored on its side: 20 wide and 30 high
    Image.new("RGB", (30, 20)).save(split.file(5), exif=exif)
    Image.new("RGB", (20, 30)).save(split.file(8))
    planned = cut(split, tmp_path / "out")
    assert list(planned.order) == [1, 9, 3, 7, 0, 2, 4, 6, 5, 8]  # by height and width, then as they are listed
    assert [list(rows) for rows in planned.shards.values()] == [[1, 9, 3, 7], [0, 2, 4, 6], [5, 8]]
    assert [name[:19] for name in planned.shards] == [f"{a:09d}-{b:09d}" for a, b in ((0, 4), (4, 8), (8, 10))]
    assert list(planned.sizes) == [split.file(i).stat().st_size for i in range(10)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_share_all_shards_and_none_twice(ranks: int, split: Split, tmp_path: Path) -> None:
    planned = cut(split, tmp_path / "out")
    shares = [[shard for shard, _ in planned.pending(rank, ranks)] for rank in range(ranks)]
    assert sorted(itertools.chain(*shares)) == sorted(planned.shards)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_folder_is_filled_by_several_ranks_and_joined_by_the_last(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for rank in (2, 0, 1):
        assert find_finished(split, out, RECIPE, "raise") is None
        planned = cut(split, out)
        assert len(fill(planned, rank=rank, ranks=3)) == 1
        path = join(planned, "raise")
        assert path == out / "descriptors.npy" and path.exists() == (rank == 1)
    check_nothing_lost(split, out)
    assert find_finished(split, out, RECIPE, "raise") == path
    recipe = load_recipe(out)
    assert recipe.pop("sizes") == {f"{i}.png": split.file(i).stat().st_size for i in range(10)}
    assert recipe == RECIPE


def test_a_large_list_keeps_some_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_KNOWN", 4)
    planned = cut(paint(tmp_path / "images"), tmp_path / "out")
    assert list(planned.recipe["sizes"]) == ["0.png", "3.png", "6.png", "9.png"]


DAMAGED: dict[str, Any] = {
    "cut": lambda good: good[:-9],
    "empty": lambda good: b"",
    "text": lambda good: b"an order of images",
    "another list's": np.stack([np.arange(9), np.arange(9)]),
    "one row": np.arange(10),
    "floats": np.zeros((2, 10)),
    "no order": np.zeros((2, 10), np.int64),
    "out of range": np.stack([np.arange(10) + 1, np.arange(10)]),
    "objects": np.array([[None] * 10] * 2),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_or_foreign_plan_is_named(case: str, split: Split, tmp_path: Path) -> None:
    out, content = tmp_path / "out", DAMAGED[case]
    names = fill(cut(split, out))
    good = (out / "plan.npy").read_bytes()
    if callable(content):
        (out / "plan.npy").write_bytes(content(good))
    else:
        np.save(out / "plan.npy", content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"plan\.npy is damaged .*delete this one file and run again"):
        cut(split, out)
    (out / "plan.npy").unlink()
    again = cut(split, out)
    assert list(again.shards) == names and not list(again.pending())  # nothing else was lost
    join(again, "raise")
    check_nothing_lost(split, out)


# --- images that come and go ----------------------------------------------------------------------------------------


def test_an_image_that_went_after_its_shard_was_finished_changes_nothing(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = cut(split, out)
    done = fill(first, rank=0, ranks=2)
    content = split.file(1).read_bytes()  # of the first shard
    split.file(1).unlink()
    again = cut(split, out)
    assert list(again.shards) == list(first.shards) and again.shards[done[0]][0] == 1
    assert fill(again) == [shard for shard in first.shards if shard not in done]
    join(again, "raise")
    check_nothing_lost(split, out)
    assert find_finished(split, out, RECIPE, "raise")
    split.file(1).write_bytes(content)
    assert find_finished(split, out, RECIPE, "raise")  # as it was: it didn't change
    split.file(1).write_bytes(content + b"x")
    with pytest.raises(ValueError, match=r"1\.png changed since"):
        find_finished(split, out, RECIPE, "raise")


def test_an_image_that_went_before_its_shard_was_finished_is_looked_for_again(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = cut(split, out)
    done = fill(first, rank=0, ranks=2)
    (missing,) = set(first.shards) - set(done)
    row = int(first.shards[missing][0])
    content = split.file(row).read_bytes()
    split.file(row).unlink()
    gone = cut(split, out)
    assert set(done) < set(gone.shards) and missing not in gone.shards
    assert [list(rows) for _, rows in gone.pending()] == [list(first.shards[missing])]
    split.file(row).write_bytes(content)
    assert fill(cut(split, out)) == [missing]


def test_an_image_that_comes_later_is_described_then(split: Split, tmp_path: Path) -> None:
    out, content = tmp_path / "out", split.file(1).read_bytes()
    split.file(1).unlink()
    first = cut(split, out)
    assert first.order[0] == 1 and first.sizes[1] == -1  # without a shape it comes first: a run that stops, stops soon
    for shard, rows in first.pending():
        array = rows_of(rows)
        array[rows == 1] = np.nan
        write_shard(first, shard, array)
    with pytest.raises(OSError, match=r"1 images were skipped before, the first .*1\.png"):
        join(first, "raise")
    split.file(1).write_bytes(content)
    again = cut(split, out)
    assert [list(rows) for _, rows in again.pending()] == [list(rows) for rows in first.shards.values()][:1]
    fill(again)
    join(again, "raise")
    check_nothing_lost(split, out)


# --- several at once ------------------------------------------------------------------------------------------------


def test_ranks_that_finish_at_the_same_moment_join_once(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, joined, failed = shards._join, [], []
    both = threading.Barrier(3)

    def slow(*arguments: Any) -> None:
        joined.append(threading.get_ident())
        time.sleep(0.2)  # the others wait for the lock meanwhile
        real(*arguments)

    monkeypatch.setattr(shards, "_join", slow)
    planned = cut(split, tmp_path / "out")
    fill(planned)

    def finish() -> None:
        both.wait()
        try:
            assert join(planned, "raise").exists()
        except BaseException as error:
            failed.append(error)

    ranks = [threading.Thread(target=finish) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert not failed and len(joined) == 1
    check_nothing_lost(split, tmp_path / "out")


def test_a_rank_that_comes_when_all_is_joined_has_nothing_to_do(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "out"
    late = cut(split, out)  # it had seen no `descriptors.npy` and no shard
    prompt = cut(split, out)
    fill(prompt)
    join(prompt, "raise")
    assert not list(late.pending()) and join(late, "raise").exists()
    check_nothing_lost(split, out)


def test_a_rank_that_starts_while_another_writes_its_first_shard(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", Path.iterdir
    out.mkdir()
    planned = cut(split, out)

    def iterdir(path: Path) -> Iterator[Path]:
        if path == out and not (out / "plan.npy").exists():
            fill(planned, rank=0, ranks=3)
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert find_finished(split, out, RECIPE, "raise") is None
    assert (out / "recipe.json").exists()


# --- processes that are killed --------------------------------------------------------------------------------------

needs_kills = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no processes that can be forked and killed"
)


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    """Children of a process that has imported everything and computed nothing: started at once, safe to kill."""
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        forkserver.ensure_running()
    return context


@dataclass(frozen=True)
class Child:
    """A process, and the pipe through which it speaks."""

    process: BaseProcess
    pipe: Connection

    def hear(self) -> Any:
        """Its next word."""
        assert self.pipe.poll(120), "a child says nothing"
        return self.pipe.recv()

    def end(self) -> int:
        """Wait for its end; its exit code, negative where a signal killed it."""
        self.process.join(120)
        assert self.process.exitcode is not None, "a child doesn't end"
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        assert self.end() == -signal.SIGKILL, "a child had ended before it was killed"


def start(processes: BaseContext, target: Any, *arguments: Any) -> Child:
    ours, theirs = processes.Pipe()
    process = processes.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return Child(process, ours)


def fill_until(theirs: Connection, split: Split, out: Path, moment: int) -> None:
    """In a child: fill and join, killed at the n-th moment, just before a file is renamed or removed."""
    moments = itertools.count(1)

    def wrapped(real: Any) -> Any:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            trifle = real is unlink and str(path).endswith(".tmp")  # when a file has its name, there is none
            if not trifle and next(moments) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path, *arguments, **options)

        return call

    unlink = os.unlink
    os.replace, os.unlink, os.rmdir = wrapped(os.replace), wrapped(os.unlink), wrapped(os.rmdir)  # type: ignore[assignment]
    planned = cut(split, out)
    fill(planned)
    join(planned, "raise")


@pytest.mark.slow
@needs_kills
def test_a_kill_at_any_step_loses_nothing(processes: BaseContext, tmp_path: Path) -> None:
    split = paint(tmp_path / "images", 6)
    for moment in itertools.count(1):
        out = tmp_path / f"{moment}"
        code = start(processes, fill_until, split, out, moment).end()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        finished, shards_there = (out / "descriptors.npy").exists(), {path.name for path in out.glob("shards/*")}
        assert (find_finished(split, out, RECIPE, "raise") is not None) == finished
        if not finished:
            planned = cut(split, out)
            assert set(fill(planned)) == set(planned.shards) - shards_there
            join(planned, "raise")
        check_nothing_lost(split, out)
    assert moment > 12  # recipe, plan, 2 shards, labels, recipe, descriptors; then 2 shards, their folder, plan, lock
    check_nothing_lost(split, out)


def watch(theirs: Connection, log: Path, allowed: int | None = None) -> None:
    """In a child: log what is read and written, say how many images are described; after `allowed`, only wait."""
    torch.set_num_threads(1)
    seen = [0]
    read, write, multiscale = extract.read_pixels, shards.write_shard, extract.multiscale

    def note(line: str) -> None:
        with log.open("a") as file:
            file.write(f"{line}\n")

    def read_pixels(path: Path) -> NDArray[np.uint8]:
        note(f"read {path}")
        return read(path)

    def described(network: Embedder, pixels: torch.Tensor, *options: Any) -> torch.Tensor:
        if allowed is not None and seen[0] >= allowed:
            theirs.send("waiting")
            threading.Event().wait()
        theirs.send(seen[0])
        seen[0] += len(pixels)
        return multiscale(network, pixels, *options)

    def write_shard(planned: Plan, shard: str, array: NDArray[np.float32]) -> None:
        write(planned, shard, array)
        note(f"wrote {shard}")

    extract.read_pixels, shards.write_shard, extract.multiscale = read_pixels, write_shard, described  # type: ignore[assignment]
    theirs.send("at work")


def noted(log: Path, kind: str) -> list[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [name for what, name in (line.split(maxsplit=1) for line in lines) if what == kind]


def describe(theirs: Connection, split: Split, out: Path, log: Path, allowed: int | None = None) -> None:
    watch(theirs, log, allowed)
    network = backbone.build(Recipe("test_resnet", seed=1), "tiny")
    extract.extract(split, network, out, device="cpu", scales=(1,), batch_size=1, shard_size=3)


@pytest.mark.slow
@needs_kills
def test_twenty_kills_change_nothing(processes: BaseContext, tmp_path: Path) -> None:
    # A child may describe at most 8 images, two shards of three, so twenty can't finish forty-one. It is killed a
    # little after it said how far it is, not after a time alone: on a busy machine that would be before any work.
    split, out, rng = paint(tmp_path / "images", 123), tmp_path / "out", np.random.default_rng(0)
    assert start(processes, describe, split, tmp_path / "whole", tmp_path / "log of the whole").end() == 0
    rows_in = plan(split, tmp_path / "none", {}, shard_size=3).shards
    done: dict[str, tuple[int, int]] = {}
    for kill in range(20):
        log = tmp_path / f"log {kill}"
        child = start(processes, describe, split, out, log, 8)
        for _ in range(rng.integers(1, 11)):
            child.hear()
        time.sleep(rng.uniform(0, 0.01))
        child.kill()
        files = [path for path in out.glob("shards/*") if not path.name.startswith(".")]
        now = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
        assert done.items() <= now.items()  # not written again
        assert not {str(split.file(i)) for shard in done for i in rows_in[shard]} & set(noted(log, "read"))  # nor read
        wrote, new = noted(log, "wrote"), set(now) - set(done)
        # A kill may come between a shard's last rename and the line in the log.
        assert len(wrote) == len(set(wrote)) and set(wrote) <= new and len(new) - len(wrote) <= 1
        done = now
    assert 0 < len(done) < 41 and not (out / "descriptors.npy").exists()
    with pytest.raises(FileNotFoundError, match="isn't finished"):
        load_descriptors(out)
    assert start(processes, describe, split, out, tmp_path / "log").end() == 0
    assert sorted(noted(tmp_path / "log", "wrote")) == sorted(set(rows_in) - set(done))
    assert lying(out) == FINISHED
    for name in ("descriptors.npy", "labels.npy"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- ranks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """A museum to describe from the command line; `reference` are the files that one process makes."""

    museum: Path
    checkpoint: Path
    reference: dict[str, bytes]

    def command(self, work: Path) -> list[str]:
        options = ["--device", "cpu", "--work", str(work), "--scales", "0.5", "--shard-size", "8", "--workers", "2"]
        options += ["--whitening", "pca"]  # no visits
        return ["extract", str(self.museum), str(self.checkpoint), *options]


def arrays(work: Path) -> dict[str, bytes]:
    return {str(path.relative_to(work)): path.read_bytes() for path in sorted(work.rglob("*.npy"))}


def run_rank(theirs: Connection, command: list[str], rank: int, ranks: int, log: Path, allowed: int | None) -> None:
    watch(theirs, log, allowed)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    sys.stdout = log.with_suffix(".txt").open("w", buffering=1)
    sys.exit(cli.main(command))


@pytest.fixture(scope="module")
def work(processes: BaseContext, small_museum: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("one process")
    checkpoint = backbone.save(backbone.build(Recipe("test_resnet", seed=1), "tiny"), folder / "tiny.safetensors")
    alone = Work(small_museum, checkpoint, {})
    assert start(processes, run_rank, alone.command(folder), 0, 1, folder / "log", None).end() == 0
    return Work(small_museum, checkpoint, arrays(folder))


@needs_kills
def test_two_ranks_at_once_write_every_shard_once(processes: BaseContext, work: Work, tmp_path: Path) -> None:
    logs = [tmp_path / "0", tmp_path / "1"]
    ranks = [start(processes, run_rank, work.command(tmp_path / "work"), i, 2, logs[i], None) for i in (0, 1)]
    assert [rank.end() for rank in ranks] == [0, 0]
    written = Counter(noted(logs[0], "wrote") + noted(logs[1], "wrote"))
    museum = dataset.load(work.museum)
    assert set(written.values()) == {1}
    assert len(written) == sum(-(-len(split) // 8) for split, _ in museum.splits())
    assert not set(noted(logs[0], "read")) & set(noted(logs[1], "read"))
    assert arrays(tmp_path / "work") == work.reference


@needs_kills
def test_a_rank_that_is_killed_leaves_its_share_to_the_next_run(
    processes: BaseContext, work: Work, tmp_path: Path
) -> None:
    command, logs = work.command(tmp_path / "work"), [tmp_path / "0", tmp_path / "1", tmp_path / "next"]
    other = start(processes, run_rank, command, 0, 2, logs[0], None)
    victim = start(processes, run_rank, command, 1, 2, logs[1], 11)
    while victim.hear() != "waiting":
        pass
    victim.kill()  # in its second shard
    assert other.end() == 0
    said = logs[0].with_suffix(".txt").read_text().splitlines()
    assert said == [f"{name}: rank 0 is done, others aren't" for name in ("database", "val", "test")]
    assert len(noted(logs[1], "wrote")) == 1
    assert start(processes, run_rank, command, 0, 1, logs[2], None).end() == 0
    assert set(Counter(itertools.chain(*(noted(log, "wrote") for log in logs))).values()) == {1}
    assert not set(noted(logs[2], "read")) & set(noted(logs[0], "read"))
    said = logs[2].with_suffix(".txt").read_text().splitlines()
    assert [line.endswith("descriptors.npy") for line in said] == [True] * 3
    assert arrays(tmp_path / "work") == work.reference


def run_torchrun(theirs: Connection, arguments: list[str], log: Path) -> None:
    """In a child: what `torchrun` does; what its workers say goes to `log`."""
    from torch.distributed import run

    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
    run.main(arguments)


@pytest.mark.slow
@needs_kills
def test_torchrun_on_one_machine(processes: BaseContext, work: Work, tmp_path: Path) -> None:
    options = ["--standalone", "--nproc-per-node", "2", "-m", "metlib"]
    assert start(processes, run_torchrun, [*options, *work.command(tmp_path / "work")], tmp_path / "said").end() == 0
    said = (tmp_path / "said").read_text().splitlines()
    assert Counter(line.split(":")[0] for line in said) == {"database": 2, "val": 2, "test": 2}
    assert arrays(tmp_path / "work") == work.reference
