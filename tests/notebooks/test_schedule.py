"""Which notebooks run when, on functions instead of notebooks; whole runs are in test_side_by_side.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from metlib import VISITS
from metlib.notebooks import runner, schedule
from metlib.notebooks.report import Entry

GB = 10**9


@pytest.mark.parametrize(
    ("cores", "memory", "expected"), [(2, 16 * GB, 2), (8, 4 * GB, 2), (8, 64 * GB, 8), (4, GB, 1), (1, 64 * GB, 1)]
)
def test_a_notebook_per_core_as_far_as_memory_goes(cores: int, memory: int, expected: int) -> None:
    assert schedule.count_jobs(cores, memory) == expected


def test_where_memory_is_unknown_cores_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "free_memory", lambda: None)
    assert schedule.count_jobs(3) == 3


def notebook(takes: str = "", code: str = "x = 1") -> NotebookNode:
    return new_notebook(cells=[new_markdown_cell(f"# A\n\n*Needs:* b. *Takes:* {takes}"), new_code_cell(code)])


@pytest.mark.parametrize(
    ("takes", "minutes"),
    [
        ("a few minutes for the painted one", 4),
        ("about two minutes on two cores, seconds once", 2),
        ("about a minute, once they exist", 1),
        ("under a minute, once they exist", 0.5),
        ("", 0.5),
    ],
)
def test_a_notebook_says_how_long_it_takes(takes: str, minutes: float) -> None:
    assert schedule.expect_minutes(notebook(takes)) == minutes


def test_a_short_one_is_first_then_the_scores_then_the_longest() -> None:
    describes = "described = extract.describe(museum, embedder)"
    books = {
        "00_a": notebook("a minute", describes),
        "01_b": notebook("under a minute", describes),
        "02_c": notebook("some minutes"),
        "03_d": notebook("about a minute"),
        "04_e": notebook("two minutes", "run = compare.measure(museum)"),
    }
    entries = {stem: Entry(stem, book) for stem, book in books.items()}
    assert schedule.order(entries) == ["03_d", "00_a", "02_c", "04_e", "01_b"]


def test_the_course_s_notebooks_say_what_they_need() -> None:
    books = {path.stem[:2]: nbformat.read(path, as_version=4) for path in runner.choose(runner.ROOT / "notebooks")}
    needing = {number for number, book in books.items() if schedule.needs_descriptors(book)}
    assert needing >= {"00", "01", "03", "04", "05", "06", "07", "08", "09", "10"} and "02" not in needing


def test_where_two_need_descriptors_they_wait_for_them() -> None:
    describes = "described = extract.describe(museum, embedder)"
    entries = {stem: Entry(stem, notebook("", code)) for stem, code in (("09_a", describes), ("11_b", "1"))}
    assert schedule.find_waits(entries) == {"09_a": set(), "11_b": set()}
    entries["13_d"] = Entry("13_d", notebook("", describes))
    shared = {schedule.DESCRIPTORS}
    assert schedule.find_waits(entries) == {"09_a": shared, "11_b": set(), "13_d": shared}


class Log:
    """Tasks that note when they run and with how many threads."""

    def __init__(self) -> None:
        self.now, self.most, self.shares, self.lock = 0, 0, dict[str, int](), threading.Lock()

    def task(self, name: str, seconds: float = 0.02) -> Callable[..., str]:
        def run(threads: int) -> str:
            with self.lock:
                self.now, self.shares[name] = self.now + 1, threads
                self.most = max(self.most, self.now)
            time.sleep(seconds)
            self.now -= 1
            return name

        return run


@pytest.mark.parametrize(
    ("jobs", "n", "shares"), [(1, 3, {8}), (2, 4, {4}), (3, 9, {2}), (16, 16, {1}), (4, 2, {4}), (4, 1, {8})]
)
def test_cores_are_shared_out(jobs: int, n: int, shares: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "count_cores", lambda: 8)
    log = Log()
    names = [f"{number:02}" for number in range(n)]
    events = list(schedule.side_by_side({name: log.task(name) for name in names}, jobs, {}))
    assert [name for name, future in events if future is None] == names
    assert {future.result() for _, future in events if future} == set(names)
    assert log.most == min(jobs, n)
    # Towards the end fewer are left, and a task that starts alone has all cores.
    assert {log.shares[name] for name in names[: min(jobs, n)]} == shares


def test_what_needs_the_shared_work_waits_for_it_and_the_rest_does_not() -> None:
    log = Log()
    tasks = {name: log.task(name, 0.05 if name == "shared" else 0.01) for name in ("shared", "needs", "free", "also")}
    waits = {"needs": {"shared"}, "also": {"shared"}}
    seen = [(name, future is not None) for name, future in schedule.side_by_side(tasks, 2, waits)]
    place = seen.index
    assert seen[:2] == [("shared", False), ("free", False)]
    assert place(("free", True)) < place(("shared", True)) < place(("needs", False)) < place(("also", False))


def test_a_task_that_raises_leaves_the_others() -> None:
    def fails(threads: int) -> str:
        raise ValueError("no")

    ended = {name: f for name, f in schedule.side_by_side({"a": fails, "b": Log().task("b")}, 1, {"b": {"a"}}) if f}
    assert isinstance(ended["a"].exception(), ValueError) and ended["b"].result() == "b"


def test_who_leaves_early_stops_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(schedule, "stop_kernels", stop.set)
    tasks = {name: lambda threads: stop.wait(10) for name in "abc"}
    with closing(schedule.side_by_side(tasks, 2, {})) as events:
        assert [next(events) for _ in range(2)] == [("a", None), ("b", None)]
    assert stop.is_set()


@pytest.mark.slow
def test_descriptors_are_made_by_another_process(
    small_museum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metlib import dataset

    museum = dataset.load(small_museum)
    schedule.prepare(museum, "random", "full", tmp_path, threads=1)
    assert len(list(tmp_path.rglob("descriptors.npy"))) == 3 + VISITS
    with pytest.raises(schedule.NotebookFailed, match="no-such-network"):
        schedule.prepare(museum, "no-such-network", "full", tmp_path, threads=1)
