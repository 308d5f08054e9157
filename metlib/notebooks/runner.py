"""Run the course headless, check that every cell ran, and leave the report.

Notebooks run in order through papermill, each in a fresh kernel, with `notebooks/` as their working folder. papermill
accepts a parameter that a notebook doesn't know, and a notebook that ends early with status 0; both are refused here.
"""

import ast
import difflib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
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

from metlib import NETWORK, dataset, synthetic
from metlib.notebooks import report

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "python3"
# The parameters that every notebook has and that the runner's own options fill.
COMMON = ("data_root", "backbone", "database", "work_dir", "figures_dir", "seed")


class Refused(ValueError):
    """Something asked for that can't be done, found before the first notebook runs."""


class NotebookFailed(RuntimeError):
    """A notebook that didn't run to its end: which, at which cell, and why."""

    exit_status = 1  # of the command


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells that carry a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def read_parameters(notebook: NotebookNode) -> dict[str, Any]:
    """Names and defaults in the one cell tagged `parameters`; ValueError unless it holds plain literals."""
    if len(cells := tagged(notebook, "parameters")) != 1:
        raise ValueError(f"expected one cell tagged 'parameters', found {len(cells)}")
    found: dict[str, Any] = {}
    for statement in ast.parse(cells[0].source).body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            raise ValueError(f"the parameters cell holds {ast.unparse(statement)!r}: expected NAME = LITERAL")
        found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def choose(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """List the notebooks `NN_*.ipynb` of a folder in order, or those that `only` names (`02`, or in full)."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise Refused(f"no notebooks NN_*.ipynb in {folder}: use a checkout, or --notebooks FOLDER")
    names = {path: {path.stem, path.name, path.stem[:2]} for path in found}
    if unknown := set(only).difference(*names.values()):
        raise Refused(f"--only {min(unknown)}: expected one of {', '.join(path.stem for path in found)}")
    return [path for path in found if not only or names[path] & set(only)]


def assign(
    known: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any], overrides: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Give every notebook its parameters: all `common` ones, and of the overrides ("NAME=VALUE") those it knows.

    `known` holds the defaults of each notebook; a value is read as a JSON or Python literal of the default's
    type. Raises Refused for a name that no notebook knows, and for a value of another type.
    """
    for notebook, defaults in known.items():
        if missing := [name for name in common if name not in defaults]:
            raise Refused(f"{notebook} lacks parameters: {', '.join(missing)}; all need {', '.join(COMMON)}")
    given, names = {notebook: dict(common) for notebook in known}, sorted(set().union(*known.values()))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise Refused(f"-p {override}: expected NAME=VALUE, such as -p seed=1")
        if name in common:
            raise Refused(f"-p {name}: this one has an option of its own, see --help")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3) or names
            raise Refused(f"-p {name}: no chosen notebook has such a parameter; nearest: {', '.join(near)}")
        for notebook, defaults in known.items():
            if name in defaults:
                given[notebook][name] = _read(name, text, defaults[name])
    return given


def _read(name: str, text: str, default: Any) -> Any:
    """The value that a text means for a parameter with this default."""
    if isinstance(default, str):
        return text
    value: Any = text
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError):
            value = parse(text)
            break
    if (type(default), type(value)) in ((float, int), (tuple, list)):
        value = type(default)(value)
    if default is None and isinstance(value, str):
        raise Refused(f"-p {name}={text}: expected a number, a list or None")
    if default is not None and value is not None and type(value) is not type(default):
        raise Refused(f"-p {name}={text}: expected {type(default).__name__}, such as {default!r}")
    return value


class _Line:
    """One line of progress on stderr: kept up to date on a terminal, written once elsewhere."""

    def __init__(self, head: str) -> None:
        self.head, self.live, self.start = head, sys.stderr.isatty(), time.monotonic()
        print(f"{head} ... ", end="", file=sys.stderr, flush=True)

    def now(self, text: str) -> None:
        if self.live:
            print(f"\r{self.head} ... {text}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self, text: str = "") -> float:
        """Close the line with a text, or with the seconds since it began, which are returned."""
        seconds = time.monotonic() - self.start
        text = text or f"{seconds:.0f} s"
        print(f"\r{self.head} ... {text}\x1b[K" if self.live else text, file=sys.stderr, flush=True)
        return seconds


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
        return client.execute()


papermill_engines.register("metlib", _Engine)


def execute(
    path: Path, out: Path, values: dict[str, Any], *, kernel: str = KERNEL, timeout: int | None = None, head: str = ""
) -> report.ExecutedNotebook:
    """Run one notebook with these parameters and write the executed copy to `out`, even if it fails.

    `timeout` counts seconds for one cell; `head` begins the line of progress. Raises NotebookFailed, which names
    notebook and cell, if a cell raised, took too long, killed its kernel, ended the notebook early or did not run;
    Refused if there is no such kernel.
    """
    os.environ["METLIB_PROGRESS"] = "0"  # a bar would leave one output per refresh
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # its errors are raised below
    # This environment's `python3` is found first.
    places = [str(Path(sys.prefix) / "share" / "jupyter"), *os.environ.get("JUPYTER_PATH", "").split(os.pathsep)]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(dict.fromkeys(filter(None, places)))

    total = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
    number, running = 0, NotebookNode(source="")  # the cell that runs, and its place among the code cells
    line = _Line(head or path.stem)

    def follow(cell: NotebookNode, cell_index: int) -> None:
        nonlocal number, running
        if _is_code(cell):
            number, running = number + 1, cell
            line.now(f"cell {number}/{total}")

    def failed(reason: str) -> NotebookFailed:
        line.end("failed")
        first, what = running.source.strip().partition("\n")[0].strip()[:80], " ".join(reason.split())[:600]
        place = f"{path.name}, code cell {number} of {total} ({first})"
        return NotebookFailed(f"{place}: {what}\nwhat it did so far: {out}")

    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    try:
        executed = papermill.execute_notebook(
            *(str(name).replace("{", "{{").replace("}", "}}") for name in (path, out)),  # format strings
            parameters=values,
            kernel_name=kernel,
            engine_name="metlib",
            language="python",
            cwd=path.parent,
            progress_bar=False,
            execution_timeout=timeout,
            on_cell_start=follow,
        )
    except papermill.PapermillExecutionError as error:
        raise failed(f"{error.ename}: {error.evalue}") from None
    except CellTimeoutError:
        raise failed(f"took longer than {timeout} s; allow more by --timeout") from None
    except DeadKernelError:
        raise failed("the kernel died (killed, out of memory, or the notebook ended it)") from None
    except NoSuchKernel:
        line.end("refused")
        way_out = f"`make report` installs one, or run `{sys.executable} -m pip install ipykernel`"
        raise Refused(f"no Jupyter kernel named {kernel!r} for {sys.executable}: {way_out}") from None
    except RuntimeError as error:  # a kernel that never answered
        raise failed(str(error)) from None
    for number, running in enumerate(filter(_is_code, executed.cells), start=1):  # noqa: B007
        if any(output.output_type == "error" for output in running.outputs):
            raise failed("ended the notebook early; a notebook runs to its last cell")
        if running.source.strip() and running.execution_count is None:
            raise failed("did not run")
    return report.ExecutedNotebook(path.stem, executed, line.end())


def _is_code(cell: NotebookNode) -> bool:
    """Whether this is a code cell of the notebook's own, not the one in which papermill puts parameters."""
    return cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])


def paint_default(seed: int) -> Path:
    """Find the default museum of this seed, or paint it; return its folder."""
    root = ROOT / "data" / ("synthetic" if seed == 0 else f"synthetic-{seed}")
    if not root.exists():
        print("painting the museum ...", file=sys.stderr)
    return synthetic.write_museum(root, seed=seed, workers=min(8, os.cpu_count() or 1))


def course(
    *,
    data: Path | None = None,
    backbone: str = NETWORK,
    database: str = "full",
    work: Path = ROOT / "work",
    reports: Path = ROOT / "reports",
    figures: Path | None = None,
    only: Sequence[str] = (),
    parameters: Sequence[str] = (),
    seed: int = 0,
    timeout: int | None = None,
    notebooks: Path = ROOT / "notebooks",
) -> Path:
    """Run the chosen notebooks, write the report, print the table of scores, and return the report's first page.

    `data` is a museum (None: the default one, painted if it does not exist yet), `only` names notebooks ("02", or in
    full), `parameters` are "NAME=VALUE" for the notebooks that have them, `timeout` counts seconds for one cell.
    Pictures and tables go to `figures`: by default to the project's own for the default run, else into `reports`.
    Raises ValueError (Refused, or of the museum) or OSError before the first notebook runs, and NotebookFailed.
    """
    notebooks, reports = notebooks.resolve(), reports.resolve()
    paths = choose(notebooks, only)
    try:
        known = {path.name: read_parameters(nbformat.read(path, as_version=4)) for path in paths}
    except (ValueError, SyntaxError) as error:
        raise Refused(f"a notebook in {notebooks} can't be read: {error}") from None
    committed = (ROOT / "figures").resolve()  # its pictures are in git: only the default run may write there
    default = (data, backbone, database, seed, list(parameters)) == (None, NETWORK, "full", 0, [])
    figures = (figures or (committed if default else reports / "figures")).resolve()
    if figures == committed and not default:
        raise Refused(f"--figures {figures} holds the pictures of the default run alone; name another folder")
    if (checkpoint := Path(backbone).expanduser()).is_file():
        backbone = str(checkpoint.resolve())  # notebooks run in another folder
    elif checkpoint.suffix in (".safetensors", ".pt", ".pth", ".bin") or backbone.startswith(("/", "./", "../", "~")):
        raise Refused(f"no backbone file {backbone}: expected a recipe, a timm name or a checkpoint's path")
    # The museum's folder is known once it is painted.
    common = dict(zip(COMMON, ("", backbone, database, str(work.resolve()), str(figures), seed), strict=True))
    given = assign(known, common, parameters)
    museum = dataset.load(paint_default(seed) if data is None else dataset.find(data), database)

    (reports / "index.html").unlink(missing_ok=True)  # a run that fails leaves no page of an earlier one behind
    executed = []
    for number, path in enumerate(paths, start=1):
        values = given[path.name] | {"data_root": str(museum.root.resolve())}
        head = f"[{number}/{len(paths)}] {path.stem}"
        executed.append(execute(path, reports / path.name, values, timeout=timeout, head=head))
    scores = report.read_scores(figures) if any(notebook.number == "00" for notebook in executed) else []
    index = report.write_pages(executed, reports, museum, backbone, scores)
    report.write_figures_readme(executed, figures)
    print(report.format_scores(scores))
    return index
