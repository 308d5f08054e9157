"""Run the course headless, check that every cell ran, and leave the report.

Notebooks run in order through papermill, each in a fresh kernel, with `notebooks/` as their working folder.
papermill lets two things pass that are refused here: a parameter that a notebook doesn't know, and a notebook
that ends early with status 0. The setup cell and the Colab badges are rendered here as well (`stamp`).
"""

from __future__ import annotations

import ast
import difflib
import json
import logging
import os
import re
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
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

from metlib import dataset, synthetic
from metlib.common.files import replacing
from metlib.notebooks import report

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "python3"
COMMON = ("data_root", "backbone", "database", "work_dir", "figures_dir", "seed")
"""The parameters that every notebook has and that the runner's own options fill."""

SETUP = """\
# Setup, the same in every notebook: where metlib is missing (Colab), it is installed beside the torch there.
import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

if Path("../pyproject.toml").is_file():
    os.chdir("..")  # from notebooks/ to the project, so that paths mean the same however this page is run
if util.find_spec("metlib") is None:
    places = (".", "/content/metlib", "/content/drive/MyDrive/metlib")
    source = next((place for place in places if (Path(place) / "pyproject.toml").is_file()), {source!r})
    if source is None:
        raise ModuleNotFoundError(f"no metlib, and no checkout in {{', '.join(places)}}: upload or mount one")
    pair = [name for name in ("torch", "torchvision") if util.find_spec(name)]
    pins = [f"{{name}}=={{metadata.version(name)}}" for name in pair]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *pins, source], check=True)

from metlib import synthetic

data_root = synthetic.find_or_paint(data_root, seed)  # as given, on Colab's disk, or on a mounted Drive"""


class Refused(ValueError):
    """Something asked for that can't be done, found before the first notebook runs."""


class NotebookFailed(RuntimeError):
    """A notebook that didn't run to its end: which, at which cell, and why."""

    exit_status = 1  # of the command


# --- what a notebook says about itself ---


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells that carry a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def read_parameters(notebook: NotebookNode) -> dict[str, Any]:
    """Names and defaults in the one cell tagged `parameters`; ValueError unless it holds plain literals."""
    cells = tagged(notebook, "parameters")
    if len(cells) != 1:
        raise ValueError(f"expected one cell tagged 'parameters', found {len(cells)}")
    found: dict[str, Any] = {}
    for statement in ast.parse(cells[0].source).body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            raise ValueError(f"the parameters cell holds {ast.unparse(statement)!r}: expected NAME = LITERAL")
        found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def choose(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """The notebooks `NN_*.ipynb` of a folder in order, or those that `only` names (`02`, or in full)."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise Refused(f"no notebooks NN_*.ipynb in {folder}: use a checkout, or --notebooks FOLDER")
    names = {path: {path.stem, path.name, path.stem[:2]} for path in found}
    for name in only:
        if not any(name in own for own in names.values()):
            raise Refused(f"--only {name}: expected one of {', '.join(path.stem for path in found)}")
    return [path for path in found if not only or names[path] & set(only)]


def assign(
    known: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any], overrides: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Give every notebook its parameters: all `common` ones, and of the overrides ("NAME=VALUE") those it knows.

    `known` holds the defaults of each notebook; a value is read as a JSON or Python literal of the default's
    type. Raises Refused for a name that no notebook knows, and for a value of another type.
    """
    names = sorted({name for defaults in known.values() for name in defaults})
    given: dict[str, dict[str, Any]] = {}
    for notebook, defaults in known.items():
        if missing := [name for name in common if name not in defaults]:
            raise Refused(f"{notebook} lacks parameters: {', '.join(missing)}; all need {', '.join(COMMON)}")
        given[notebook] = dict(common)
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
    if isinstance(default, str):
        return text
    value: Any = text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
            break
        except (ValueError, SyntaxError):
            continue
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if default is None and isinstance(value, str):
        raise Refused(f"-p {name}={text}: expected a number, a list or None")
    if default is not None and value is not None and type(value) is not type(default):
        raise Refused(f"-p {name}={text}: expected {type(default).__name__}, such as {default!r}")
    return value


# --- running ---


class _Line:
    """One line of progress on stderr: kept up to date on a terminal, written once elsewhere."""

    def __init__(self, head: str) -> None:
        self.live = sys.stderr.isatty()
        self.head = head
        print(f"{head} ... ", end="", file=sys.stderr, flush=True)

    def now(self, text: str) -> None:
        if self.live:
            print(f"\r{self.head} ... {text}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self, text: str) -> None:
        print(f"\r{self.head} ... {text}\x1b[K" if self.live else text, file=sys.stderr, flush=True)


class _Output(OutputWidget):  # type: ignore[misc]
    """Holds what a slider's function draws, as a browser would, but sends nothing back to the kernel.

    nbclient sends on the channel where a cell's reply is awaited; now and then that reply then lay there unread, and
    the cell never ended.
    """

    def send(self, *_: Any, **__: Any) -> None:
        """Keep what was drawn here."""


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client, with those outputs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.widget_registry["@jupyter-widgets/output"] = {"OutputModel": _Output}


class _Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's own engine, with that client."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        **options: Any,
    ) -> Any:
        """Run a notebook's cells."""
        options |= {"startup_timeout": start_timeout, "timeout": execution_timeout, "kernel_name": kernel_name}
        options.pop("input_path", None)  # papermill's, no trait of the client
        return _Client(nb_man, **options).execute()


papermill_engines.register("metlib", _Engine)


def execute(
    path: Path,
    out: Path,
    values: Mapping[str, Any],
    *,
    kernel: str = KERNEL,
    timeout: int | None = None,
    head: str = "",
) -> report.ExecutedNotebook:
    """Run one notebook with these parameters and write the executed copy to `out`, whatever comes of it.

    `timeout`: seconds for one cell. Raises NotebookFailed, which names notebook and cell, for a cell that
    raised, took too long, killed its kernel, ended the notebook early or did not run; Refused for no kernel.
    """
    os.environ["METLIB_PROGRESS"] = "0"  # a bar would leave one output per refresh
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it has to say is said here
    own = str(Path(sys.prefix) / "share" / "jupyter")
    others = [place for place in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if place not in ("", own)]
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, *others])  # no other environment's `python3` kernel wins

    source = nbformat.read(path, as_version=4)
    total = sum(cell.cell_type == "code" for cell in source.cells)
    number, running = 0, NotebookNode(source="")
    line = _Line(head or path.stem)

    def follow(cell: NotebookNode, cell_index: int) -> None:
        nonlocal number, running
        if _is_code(cell):
            number, running = number + 1, cell
            line.now(f"cell {number}/{total}")

    def failed(reason: str) -> NotebookFailed:
        line.end("failed")
        first = next((text for text in running.source.splitlines() if text.strip()), "")
        return NotebookFailed(
            f"{path.name}, code cell {number} of {total} ({first.strip()[:80]}): "
            f"{' '.join(reason.split())[:600]}\nwhat it did so far: {out}"
        )

    start = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    try:
        executed = papermill.execute_notebook(
            *(str(name).replace("{", "{{").replace("}", "}}") for name in (path, out)),  # format strings
            parameters=dict(values),
            kernel_name=kernel,
            engine_name="metlib",
            language="python",
            cwd=path.parent,
            progress_bar=False,
            log_output=False,
            execution_timeout=timeout,
            on_cell_start=follow,
            config=_quiet(),
        )
    except papermill.PapermillExecutionError as error:
        raise failed(f"{error.ename}: {error.evalue}") from None
    except CellTimeoutError:
        raise failed(f"took longer than {timeout} s; allow more by --timeout") from None
    except DeadKernelError:
        raise failed("the kernel died (killed, out of memory, or the notebook ended it)") from None
    except NoSuchKernel:
        line.end("refused")
        raise Refused(
            f"no Jupyter kernel named {kernel!r} for {sys.executable}: `make report` installs one, or run "
            f"`{sys.executable} -m pip install ipykernel`"
        ) from None
    except RuntimeError as error:  # a kernel that never answered
        raise failed(str(error)) from None
    for number, running in enumerate(filter(_is_code, executed.cells), start=1):  # noqa: B007
        if any(output.output_type == "error" for output in running.outputs):
            raise failed("ended the notebook early; a notebook runs to its last cell")
        if running.source.strip() and running.execution_count is None:
            raise failed("did not run")
    seconds = time.monotonic() - start
    line.end(f"{seconds:.0f} s")
    return report.ExecutedNotebook(path.stem, executed, seconds)


def _is_code(cell: NotebookNode) -> bool:
    """Whether this is a code cell of the notebook's own, not the one in which papermill puts parameters."""
    return cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])


def _quiet() -> Config:
    """Keep kernels from writing between the lines of progress.

    They tell when they are interrupted to shut down; newer ones warn unless what they say is encrypted, which is done
    where jupyter_client can.
    """
    config = {"NotebookClient": {"extra_arguments": ["--log-level=50"]}}
    if "transport_encryption" in KernelManager.class_trait_names():
        config["KernelManager"] = {"transport_encryption": "auto"}  # type: ignore[dict-item]
    return Config(config)


# --- the setup cell, the badges ---


def address() -> str | None:
    """The repository's public address in the checkout's pyproject.toml, `[project.urls]`; None if unknown."""
    project = ROOT / "pyproject.toml"
    if not project.is_file():
        return None
    urls = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("urls", {})
    return next((url.rstrip("/") for name, url in urls.items() if name.lower() == "repository"), None)


def setup_cell() -> str:
    """The setup cell of every notebook, rendered with the repository's address."""
    known = address()
    return SETUP.format(source=f"git+{known}" if known else None)


def badge(name: str) -> str:
    """The 'open in Colab' badge for one notebook, between its markers; empty without a GitHub address."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?", address() or "")
    if not match:
        return ""
    page = f"https://colab.research.google.com/github/{match[1]}/blob/main/notebooks/{name}"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"<!-- badge -->\n[![Open in Colab]({image})]({page})\n<!-- /badge -->\n"


def badged(text: str, name: str) -> str:
    """A Markdown text with this notebook's badge under its first line, in place of an older one."""
    text = re.sub(r"\n*<!-- badge -->.*?<!-- /badge -->\n*", "\n\n", text, flags=re.DOTALL)
    if not (mark := badge(name)):
        return text
    first, _, rest = text.partition("\n")
    return first + "\n\n" + mark + "\n" + rest.lstrip("\n")


def clean(notebook: NotebookNode) -> None:
    """Take out what running leaves: outputs, counts, and metadata other than tags and the kernel's name."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": tags} if (tags := cell.metadata.get("tags")) else {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def stamped(path: Path) -> str:
    """A notebook's text as it belongs in git: clean, with the setup cell and the badge of today."""
    notebook = nbformat.read(path, as_version=4)
    clean(notebook)
    cells = tagged(notebook, "setup")
    if not cells:
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        place = next((i for i, own in enumerate(tags) if "parameters" in own), 0)
        cells = [nbformat.v4.new_code_cell(id="setup", metadata={"tags": ["setup"]})]
        notebook.cells.insert(place + 1, cells[0])
    cells[0].source = setup_cell()
    if notebook.cells[0].cell_type == "markdown":
        notebook.cells[0].source = badged(notebook.cells[0].source, path.name)
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def stamp(folder: Path = ROOT / "notebooks") -> list[Path]:
    """Bring the notebooks of a folder, and the README beside it, up to date; returns what changed."""
    texts = {path: stamped(path) for path in choose(folder)}
    readme = folder.parent / "README.md"
    if readme.is_file():
        texts[readme] = badged(readme.read_text(encoding="utf-8"), choose(folder)[0].name)
    changed = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        with replacing(path, "w") as file:
            file.write(texts[path])
    return changed


# --- the course ---


def paint_default(seed: int) -> Path:
    """The default museum of this seed, painted where it isn't there yet."""
    root = ROOT / "data" / ("synthetic" if seed == 0 else f"synthetic-{seed}")
    line = None if root.exists() else _Line("painting the museum")
    start = time.monotonic()
    try:
        synthetic.write_museum(root, seed=seed, workers=min(8, os.cpu_count() or 1))
    except ValueError as error:
        raise Refused(str(error)) from None
    if line:
        line.end(f"{time.monotonic() - start:.0f} s")
    return root


def _backbone(name: str) -> str:
    """A backbone as notebooks in another folder find it: files by their absolute path, names as they are."""
    path = Path(name).expanduser()
    if path.is_file():
        return str(path.resolve())
    if path.suffix in (".safetensors", ".pt", ".pth", ".bin") or name.startswith(("/", "./", "../", "~")):
        raise Refused(f"no backbone file {name}: expected a recipe, a timm name or a checkpoint's path")
    return name


def course(
    *,
    data: Path | None = None,
    backbone: str = "embedded",
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
    """Run the chosen notebooks and write the report; give its first page. Prints the table of scores.

    `data` is a museum (None: the default one, painted where it isn't there), `only` names notebooks ("02", or in
    full), `parameters` are "NAME=VALUE" for the notebooks that have them, `timeout` counts seconds for one cell.
    Pictures and tables go to `figures`: by default to the project's own for the default run, else into `reports`.
    Raises Refused for what can't be done, before the first notebook runs, and NotebookFailed.
    """
    notebooks = notebooks.resolve()
    paths = choose(notebooks, only)
    try:
        known = {path.name: read_parameters(nbformat.read(path, as_version=4)) for path in paths}
    except (ValueError, SyntaxError) as error:
        raise Refused(f"a notebook in {notebooks} can't be read: {error}") from None
    committed = (ROOT / "figures").resolve()  # its pictures are in git: only the default run may write there
    default = (data, backbone, database, seed, list(parameters)) == (None, "embedded", "full", 0, [])
    reports = reports.resolve()
    figures = (figures or (committed if default else reports / "figures")).resolve()
    if figures == committed and not default:
        raise Refused(f"--figures {figures} holds the pictures of the default run alone; name another folder")
    values: dict[str, Any] = {
        "data_root": "",
        "backbone": _backbone(backbone),
        "database": database,
        "work_dir": str(work.resolve()),
        "figures_dir": str(figures),
        "seed": seed,
    }
    assign(known, values, parameters)  # before the museum is painted
    try:
        root = paint_default(seed) if data is None else dataset.find(data)
        museum = dataset.load(root, database)
    except (OSError, ValueError) as error:
        raise Refused(str(error)) from None
    values["data_root"] = str(museum.root.resolve())
    given = assign(known, values, parameters)

    index = reports / "index.html"
    index.unlink(missing_ok=True)  # a run that fails leaves no page of an earlier one behind
    executed = []
    for number, path in enumerate(paths, start=1):
        head = f"[{number}/{len(paths)}] {path.stem}"
        executed.append(execute(path, reports / path.name, given[path.name], timeout=timeout, head=head))
    scores = report.read_scores(figures) if any(one.number == "00" for one in executed) else []
    report.write_pages(executed, reports, museum, values["backbone"], scores)
    report.write_figures_readme(executed, figures)
    print(report.format_scores(scores))
    return index
