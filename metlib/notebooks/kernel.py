"""Run one notebook in a fresh kernel, and check that every cell ran.

papermill accepts a notebook that ends early with status 0; that is refused here.
"""

import logging
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import KernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from traitlets.config import Config

from metlib.common.cores import thread_settings
from metlib.notebooks.report import Entry

KERNEL = "python3"


class Refused(ValueError):
    """Something asked for that can't be done, found before the first notebook runs."""


class NotebookFailed(RuntimeError):
    """A notebook that didn't run to its end: which, at which cell, and why."""

    exit_status = 1  # of the command


class _Output(OutputWidget):  # type: ignore[misc]
    """Holds what a slider's function draws, as a browser would."""

    def send(self, *_: Any, **__: Any) -> None:
        """Send nothing: on this channel nbclient awaits a cell's reply, which then got lost now and then."""


class _Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's own engine, with those outputs and without kernels that write between the lines of progress."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Run a notebook's cells; of papermill's options, those that `execute` sets."""
        config = Config({"NotebookClient": {"extra_arguments": ["--log-level=50"]}})  # kernels log their interruption
        if "transport_encryption" in KernelManager.class_trait_names():  # newer kernels warn without it
            config.KernelManager.transport_encryption = "auto"
        chosen = {"timeout": options["execution_timeout"], "on_cell_start": options["on_cell_start"]}
        client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, config=config, **chosen)
        client.widget_registry["@jupyter-widgets/output"] = {"OutputModel": _Output}
        _clients.add(client)
        try:
            return client.execute(cwd=options["folder"], env=options["environment"])
        finally:
            _clients.discard(client)


_clients: set[PapermillNotebookClient] = set()  # of the kernels that run now
papermill_engines.register("metlib", _Engine)


def stop_kernels() -> None:
    """Kill the kernels of all notebooks that other threads execute; each of these then raises NotebookFailed."""
    for client in list(_clients):
        provisioner = getattr(client.km, "provisioner", None)
        if provisioner is None or provisioner.process is None or provisioner.process.poll() is not None:
            continue
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(provisioner.pgid, signal.SIGKILL)  # and what the kernel itself started
            else:
                provisioner.process.kill()


def execute(
    path: Path,
    out: Path,
    values: dict[str, Any],
    *,
    kernel: str = KERNEL,
    timeout: int | None = None,
    threads: int | None = None,
) -> Entry:
    """Run one notebook with these parameters and write the executed copy to `out`, even if it fails.

    `timeout` counts seconds for one cell, `threads` what the kernel may use (None: all cores). Several notebooks may
    be executed at once, each in a thread. Raises NotebookFailed, which names notebook and cell, if a cell raised, took
    too long, killed its kernel, ended the notebook early or did not run; Refused if there is no such kernel.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # its errors are raised below
    # This environment's `python3` is found first.
    places = [str(Path(sys.prefix) / "share" / "jupyter"), *os.environ.get("JUPYTER_PATH", "").split(os.pathsep)]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(dict.fromkeys(filter(None, places)))
    # A bar of progress would leave one output per refresh.
    environment = {**os.environ, "METLIB_PROGRESS": "0", **(thread_settings(threads) if threads else {})}

    number, running, start = 0, NotebookNode(source=""), time.monotonic()  # the cell that runs, and its place

    def follow(cell: NotebookNode, cell_index: int) -> None:
        nonlocal number, running
        if _is_code(cell):
            number, running = number + 1, cell

    def failed(reason: str) -> NotebookFailed:
        total = sum(cell.cell_type == "code" for cell in read(path).cells)
        first, what = running.source.strip().partition("\n")[0].strip()[:80], " ".join(reason.split())[:600]
        return NotebookFailed(
            f"{path.name}, code cell {number} of {total} ({first}): {what}\nwhat it did so far: {out}"
        )

    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    try:
        executed = papermill.execute_notebook(
            *(str(name).replace("{", "{{").replace("}", "}}") for name in (path, out)),  # format strings
            parameters=values,
            kernel_name=kernel,
            engine_name="metlib",
            language="python",
            progress_bar=False,
            execution_timeout=timeout,
            on_cell_start=follow,
            folder=str(path.parent),  # papermill's own `cwd` moves the whole process, other threads included
            environment=environment,
        )
    except papermill.PapermillExecutionError as error:
        raise failed(f"{error.ename}: {error.evalue}") from None
    except CellTimeoutError:
        raise failed(f"took longer than {timeout} s; allow more by --timeout") from None
    except DeadKernelError:
        raise failed("the kernel died (killed, out of memory, or the notebook ended it)") from None
    except NoSuchKernel:
        way_out = f"`make report` installs one, or run `{sys.executable} -m pip install ipykernel`"
        raise Refused(f"no Jupyter kernel named {kernel!r} for {sys.executable}: {way_out}") from None
    except RuntimeError as error:  # a kernel that never answered
        raise failed(str(error)) from None
    for number, running in enumerate(filter(_is_code, executed.cells), start=1):  # noqa: B007
        if any(output.output_type == "error" for output in running.outputs):
            raise failed("ended the notebook early; a notebook runs to its last cell")
        if running.source.strip() and running.execution_count is None:
            raise failed("did not run")
    return Entry(path.stem, executed, "finished", time.monotonic() - start)


def read(path: Path) -> NotebookNode:
    """Read a notebook's file."""
    return nbformat.read(path, as_version=4)


def _is_code(cell: NotebookNode) -> bool:
    """Whether this is a code cell of the notebook's own, not the one in which papermill puts parameters."""
    return cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
