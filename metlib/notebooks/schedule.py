"""Which notebooks run when: several side by side, each with its share of the cores; shared work is done once, before.

A notebook needs the museum's descriptors if it describes a museum, by `extract.describe` or through `compare`. Where
several do, one process makes these descriptors first, beside the notebooks that don't, so that no two compute them at
once. Runs of training that two notebooks share are locked by `train.loop`: the second waits, and reads what is there.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from nbformat import NotebookNode

from metlib.common.cores import count_cores, free_memory, thread_settings
from metlib.dataset import Museum
from metlib.notebooks.kernel import NotebookFailed, stop_kernels
from metlib.notebooks.report import Entry

MEMORY = 1_500_000_000  # bytes of a kernel with torch, a network and what a notebook keeps
DESCRIPTORS = "descriptors of the museum"  # the shared work, as lines of progress name it
MINUTES = {"some": 5, "few": 4, "two": 2, "minute": 1}  # what a notebook says it takes, by its first such word

T = TypeVar("T")

_processes: set[subprocess.Popen[str]] = set()  # that prepare, now


def count_jobs(cores: int | None = None, memory: int | None = None) -> int:
    """How many notebooks run side by side by default: one per core, as far as free memory (bytes) goes."""
    memory = free_memory() if memory is None else memory
    return max(1, min(cores or count_cores(), memory // MEMORY if memory is not None else sys.maxsize))


def find_waits(entries: Mapping[str, Entry]) -> dict[str, set[str]]:
    """What each notebook waits for, by stem: DESCRIPTORS where at least two need them."""
    needing = [stem for stem, entry in entries.items() if needs_descriptors(entry.notebook)]
    return {stem: {DESCRIPTORS} if stem in needing and len(needing) > 1 else set() for stem in entries}


def needs_descriptors(notebook: NotebookNode) -> bool:
    """Whether a notebook asks for the descriptors of the museum."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return re.search(r"\b(extract\.describe|compare\.\w+)\(", code) is not None


def expect_minutes(notebook: NotebookNode) -> float:
    """How long a notebook says it takes ("*Takes:* a few minutes"), in minutes; half of one where it doesn't say."""
    words = re.findall(r"under|" + "|".join(MINUTES), _takes(notebook))
    return MINUTES.get(words[0], 0.5) if words else 0.5


def _takes(notebook: NotebookNode) -> str:
    return notebook.cells[0].source.partition("*Takes:*")[2] if notebook.cells else ""


def order(entries: Mapping[str, Entry]) -> list[str]:
    """The order in which notebooks start: a short one first, then the scores, then the longest, as the rest fits in.

    The short one needs no descriptors, so that the report has a page early.
    """
    minutes = {stem: expect_minutes(entry.notebook) for stem, entry in entries.items()}
    ranked = sorted(entries, key=lambda stem: (entries[stem].number != "00", -minutes[stem]))
    free = [stem for stem in ranked if not needs_descriptors(entries[stem].notebook)]
    first = min(free, key=lambda stem: minutes[stem], default=None)
    return sorted(ranked, key=lambda stem: stem != first)


def side_by_side(
    tasks: Mapping[str, Callable[..., T]], jobs: int, waits: Mapping[str, set[str]]
) -> Generator[tuple[str, Future[T] | None], None, None]:
    """Run tasks in threads, in their order, at most `jobs` at once, each called with `threads`, its share.

    A task starts once all that `waits` names for it have ended. Gives a task's name and None as it starts, and its
    name and future once it has ended. Whoever leaves early closes the iterator: kernels are then stopped.
    """
    waiting, running, cores = dict(tasks), dict[Future[T], str](), count_cores()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                open_ = {*waiting, *running.values()}
                ready = [name for name in waiting if not waits.get(name, set()) & open_]
                share = max(1, cores // max(1, min(jobs, len(running) + len(ready))))
                for name in ready[: jobs - len(running)]:
                    running[pool.submit(waiting.pop(name), threads=share)] = name
                    yield name, None
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done
        finally:
            while running:  # a kernel that was about to start is there a moment later
                stop_kernels()
                for process in list(_processes):
                    process.terminate()
                running = dict.fromkeys(wait(running, timeout=0.2).not_done, "")


def prepare(museum: Museum, backbone: str, database: str, work: Path, threads: int) -> None:
    """Compute the descriptors of a museum that notebooks share, in a process of its own, or find them finished.

    Raises NotebookFailed with the last line that the process wrote.
    """
    command = [sys.executable, "-m", "metlib", "extract", str(museum.root), backbone]
    command += ["--database", database, "--work", str(work)]
    environment = {**os.environ, "METLIB_PROGRESS": "0", **thread_settings(threads)}
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    _processes.add(process)
    _, errors = process.communicate()
    _processes.discard(process)
    if process.returncode:
        raise NotebookFailed((errors.strip() or f"exit status {process.returncode}").splitlines()[-1])
