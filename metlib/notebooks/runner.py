"""Run the course headless, check that every cell ran, and leave the report.

Notebooks run through papermill, each in a fresh kernel, with `notebooks/` as their working folder, several side by
side. papermill accepts a parameter that a notebook doesn't know; it is refused here.
"""

import ast
import difflib
import json
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from metlib import NETWORK, dataset, synthetic
from metlib.common.cores import count_cores
from metlib.notebooks import report, schedule
from metlib.notebooks.kernel import NotebookFailed, Refused, execute, read
from metlib.notebooks.report import Entry

ROOT = Path(__file__).resolve().parents[2]
# The parameters that every notebook has and that the runner's own options fill.
COMMON = ("data_root", "backbone", "database", "work_dir", "figures_dir", "seed")


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


def paint_default(seed: int) -> Path:
    """Find the default museum of this seed, or paint it; return its folder."""
    root = ROOT / "data" / ("synthetic" if seed == 0 else f"synthetic-{seed}")
    if not root.exists():
        print("painting the museum ...", file=sys.stderr)
    return synthetic.write_museum(root, seed=seed, workers=min(8, count_cores()))


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
    jobs: int | None = None,
    notebooks: Path = ROOT / "notebooks",
) -> Path:
    """Run the chosen notebooks, write the report, print the table of scores, and return the report's first page.

    `data` is a museum (None: the default one, painted if it does not exist yet), `only` names notebooks ("02", or in
    full), `parameters` are "NAME=VALUE" for the notebooks that have them, `timeout` counts seconds for one cell, `jobs`
    notebooks run side by side (None: one per core, as far as memory goes) and share the cores. The first page is there
    from the start and tells how far the run is; where a notebook fails, the others go on.
    Pictures and tables go to `figures`: by default to the project's own for the default run, else into `reports`.
    Raises ValueError (Refused, or of the museum) or OSError before the first notebook runs, and at the end
    NotebookFailed, which names all that failed.
    """
    start = time.monotonic()
    jobs = schedule.count_jobs() if jobs is None else jobs
    if jobs < 1:
        raise Refused(f"--jobs {jobs}: expected how many notebooks run side by side, 1 or more; or leave it out")
    notebooks, reports = notebooks.resolve(), reports.resolve()
    paths = choose(notebooks, only)
    try:
        sources = [read(path) for path in paths]
        known = {path.name: read_parameters(source) for path, source in zip(paths, sources, strict=True)}
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

    scores: list[dict[str, str]] = []
    entries = {path.stem: Entry(path.stem, source) for path, source in zip(paths, sources, strict=True)}
    tasks: dict[str, Any] = {}
    for path in paths:
        values = given[path.name] | {"data_root": str(museum.root.resolve())}
        tasks[path.stem] = partial(execute, path, reports / path.name, values, timeout=timeout)
    waits: dict[str, set[str]] = {}
    if jobs > 1:  # one at a time needs no plan: the course's order, and the first that needs descriptors makes them
        tasks, waits = {stem: tasks[stem] for stem in schedule.order(entries)}, schedule.find_waits(entries)
        if any(schedule.DESCRIPTORS in names for names in waits.values()):
            made = partial(schedule.prepare, museum, backbone, database, work.resolve())
            tasks = {schedule.DESCRIPTORS: made} | tasks

    def show() -> Path:
        scored = any(entry.number == "00" and entry.state == "finished" for entry in entries.values())
        scores[:] = report.read_scores(figures) if scored else []
        minutes = (time.monotonic() - start) / 60
        return report.write_index(list(entries.values()), reports, museum, backbone, scores, minutes)

    _follow(schedule.side_by_side(tasks, jobs, waits), entries, reports, show)
    index = show()
    report.write_figures_readme([entry for entry in entries.values() if entry.state == "finished"], figures)
    print(report.format_scores(scores))
    if failed := [entry for entry in entries.values() if entry.state == "failed"]:
        reasons = "; ".join(entry.reason for entry in failed)
        raise NotebookFailed(f"{len(failed)} of {len(entries)} notebooks failed: {reasons}; see {index}")
    return index


def _follow(
    events: Generator[tuple[str, Future[Any] | None], None, None],
    entries: dict[str, Entry],
    reports: Path,
    show: Callable[[], Path],
) -> None:
    """Keep entries, pages, the first page and lines on stderr up to date while notebooks start and end."""
    for stem in entries:
        (reports / f"{stem}.html").unlink(missing_ok=True)  # of an earlier run
    show()
    try:
        with closing(events):
            for name, future in events:
                if future is None:
                    print(f"{name} ...", file=sys.stderr, flush=True)
                    if name in entries:
                        entries[name] = replace(entries[name], state="running")
                        show()
                elif name in entries:
                    entries[name] = _result(future, entries[name], reports / f"{name}.ipynb")
                    report.write_page(entries[name], list(entries.values()), reports)
                    show()
                    ended = [entry for entry in entries.values() if entry.state in ("finished", "failed")]
                    what = f"{entries[name].seconds:.0f} s" if entries[name].state == "finished" else "failed"
                    print(f"[{len(ended)}/{len(entries)}] {name}: {what}", file=sys.stderr, flush=True)
                else:
                    problem = future.exception()
                    what = f"failed ({problem}); notebooks try themselves" if problem else "there"
                    print(f"{name}: {what}", file=sys.stderr, flush=True)
    except BaseException:
        for stem, entry in entries.items():
            if entry.state in ("running", "to come"):
                entries[stem] = replace(entry, state="stopped")
        show()
        raise


def _result(future: Future[Entry], entry: Entry, out: Path) -> Entry:
    """The entry of a notebook that ended; where it failed, with what it did so far, and why."""
    try:
        return future.result()
    except NotebookFailed as error:
        so_far = read(out) if out.is_file() else entry.notebook
        return replace(entry, notebook=so_far, state="failed", reason=str(error).partition("\n")[0])
