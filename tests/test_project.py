"""The project as a whole: who imports whom, its dependencies, notebooks as git has them, the Makefile."""

from __future__ import annotations

import ast
import csv
import io
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from metlib import NETWORK
from metlib.notebooks import read_parameters, runner, stamping

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

MODULES = sorted((ROOT / "metlib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
def test_imports_follow_the_rules_in_pyproject() -> None:
    pytest.importorskip("importlinter", reason="import-linter isn't installed: pip install -e '.[dev]'")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_metlib_imports_nothing_heavy() -> None:
    heavy = {"numpy", "torch", "pandas", "matplotlib", "faiss", "sklearn"}
    code = f"import sys, metlib; print(*{heavy!r}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    heavy = {"numpy", "torch", "pandas", "matplotlib"}
    code = (
        f"import sys; from metlib import cli; print(cli.main(['--help'])); print(*{heavy!r}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", ""]


# --- dependencies ---


def test_environment_yml_installs_this_project_and_lists_nothing_itself() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["project"]["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert environment["dependencies"] == [
        f"python{PROJECT['project']['requires-python']}",
        "pip",
        {"pip": ["-e ."]},
    ]


@pytest.mark.slow
def test_every_third_party_import_is_a_dependency() -> None:
    named = {"PIL": "pillow", "sklearn": "scikit-learn", "faiss": "faiss-cpu", "IPython": "ipykernel"}
    listed = {re.split(r"[<>=~! \[]", line)[0] for line in PROJECT["project"]["dependencies"]}
    optional = {re.split(r"[<>=~! \[]", line)[0] for line in PROJECT["project"]["optional-dependencies"]["scale"]}
    used: set[str] = set()
    optionally: set[str] = set()
    for path in MODULES:
        found = optionally if path.parent.name == "scale" else used
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    for names, allowed in ((used, listed), (optionally, listed | optional | {"pyarrow"})):  # comes with both of them
        third = {named.get(name, name).replace("_", "-") for name in names - set(sys.stdlib_module_names)}
        assert third - {"metlib"} <= allowed


def test_torch_and_torchvision_are_left_to_the_resolver() -> None:
    pair = [line for line in PROJECT["project"]["dependencies"] if line.startswith("torch")]
    assert len(pair) == 2 and not any(mark in line for line in pair for mark in ("==", "<", "~", "@"))


# --- notebooks as they belong in git ---


def code_lines(source: str) -> int:
    """Lines that hold code: neither blank nor comment alone."""
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def test_there_are_notebooks() -> None:
    if not NOTEBOOKS:
        pytest.skip("notebooks/ is empty")
    numbers = [int(path.stem[:2]) for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers) and numbers[:12] == list(range(12))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_a_notebook_is_clean(path: Path, notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, "clear the outputs: `metlib stamp` does"
    assert path.stat().st_size < 100_000


def test_a_notebook_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/home/|/Users/|/root/|/tmp/|/mnt/|[A-Z]:\\\\", text)


def test_parameters_are_literals_with_a_reason_each(notebook: nbformat.NotebookNode) -> None:
    found = read_parameters(notebook)
    assert set(runner.COMMON) | {"interactive"} <= set(found)
    assert found["interactive"] is False and found["seed"] == 0 and found["backbone"] == NETWORK
    (cell,) = runner.tagged(notebook, "parameters")
    lines = cell.source.splitlines()
    for statement in ast.parse(cell.source).body:
        above = lines[statement.lineno - 2] if statement.lineno > 1 else ""
        beside = lines[statement.end_lineno - 1]  # type: ignore[operator]
        assert "#" in beside or above.lstrip().startswith("#"), f"no reason beside {ast.unparse(statement)}"


def test_the_setup_cell_and_the_badge_are_the_templates(path: Path, notebook: nbformat.NotebookNode) -> None:
    (setup,) = runner.tagged(notebook, "setup")
    assert setup.source == stamping.setup_cell(), "run metlib stamp"
    assert stamping.badged(notebook.cells[0].source, path.name) == notebook.cells[0].source, "run metlib stamp"
    order = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert order.index("parameters") < order.index("setup")


def test_the_helper_of_the_setup_cell_knows_the_address() -> None:
    text = (ROOT / "notebooks" / "setup_course.py").read_text(encoding="utf-8")
    expected = f'"{stamping.address()}"' if stamping.address() else "None"
    assert re.findall(r"^REPOSITORY = (\S+)", text, re.MULTILINE) == [expected], "run metlib stamp"


def test_a_notebook_keeps_its_budget(notebook: nbformat.NotebookNode) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) <= 20
    own = [cell for cell in cells if "setup" not in cell.metadata.get("tags", [])]
    assert sum(code_lines(cell.source) for cell in own) <= 110
    nodes = [node for cell in own for node in ast.walk(ast.parse(cell.source))]
    assert not any(isinstance(node, ast.ClassDef) for node in nodes)
    assert sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes) <= 1
    stars = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    assert not stars


def test_a_notebook_asks_and_answers(notebook: nbformat.NotebookNode) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "**Question.**" in first.source
    assert any("**Answer.**" in cell.source for cell in notebook.cells[-3:])  # in prose, or computed before the last


def test_links_between_notebooks_are_alive(path: Path, notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", cell.source):
                assert (path.parent / target).exists(), f"dead link {target}"


# --- the Makefile ---


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # of the `make test` that runs these tests
        monkeypatch.delenv(name, raising=False)
    return shutil.which("make") or pytest.skip("no make on this machine")


def test_make_alone_lists_the_goals(make: str) -> None:
    text = subprocess.run([make], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in ("report", "test", "check", "lab", "paint", "clean", "DATA=", "BACKBONE=", "DATABASE="):
        assert word in text


def test_make_hands_paths_with_spaces_and_quotes_to_the_runner(make: str, tmp_path: Path) -> None:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    python = tmp_path / "env" / "bin" / "python"
    python.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n', encoding="utf-8")
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "env" / "installed").touch()
    variables = ["VENV=env", 'DATA=my "own" museum\'s', "DATABASE=mini", "ARGS=--only 00"]
    done = subprocess.run([make, "report", *variables], cwd=tmp_path, capture_output=True, text=True, check=True)
    words = ["-m", "metlib", "report", "--data", 'my "own" museum\'s', "--database", "mini", "--only", "00"]
    assert done.stdout.splitlines() == [f"<{word}>" for word in words]


def test_make_without_a_fitting_python_says_so(make: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    done = subprocess.run([make, "report", "PYTHON="], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "Python 3.11" in done.stderr
    assert not (tmp_path / ".venv" / "installed").exists()


def test_ci_runs_what_a_newcomer_types() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text and "make test" in text


def test_committed_pictures_are_small() -> None:
    for path in (ROOT / "figures").glob("*.png"):
        assert path.stat().st_size <= 200_000, f"{path.name} is larger than 200 KB"


# --- the README ---


def test_the_readme_shows_the_scores_of_the_committed_figures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- scores: figures/00_the_whole_thing.csv -->")[1].split("<!-- /scores -->")[0]
    shown = [re.findall(r"\d+\.\d", line) for line in table.strip().splitlines()[2:]]
    with (ROOT / "figures" / "00_the_whole_thing.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name + part for name in ("gap", "gap_minus", "acc") for part in ("", "_low", "_high")]
    assert len(shown) == len(rows)
    for words, row in zip(shown, rows, strict=True):  # another machine's last digits may differ
        assert [float(word) for word in words] == pytest.approx([100 * float(row[name]) for name in names], abs=2)


def test_the_readme_links_to_what_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), f"README.md: dead link {target}"
