"""The runner on tiny notebooks made here: what it passes on, what it refuses, what it leaves."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from metlib import cli
from metlib.notebooks import NotebookFailed, Refused, kernel, report, runner

PARAMETERS = """\
data_root = "../data/synthetic"  # the museum
backbone = "random"  # the floor
database = "full"  # all of it
work_dir = "../work"  # descriptors
figures_dir = "../figs"  # pictures
seed = 0  # of everything
interactive = False  # sliders
"""

PICTURE = """\
from pathlib import Path
from IPython.display import Image
from PIL import Image as Picture, PngImagePlugin
texts = PngImagePlugin.PngInfo()
for name, text in {"Title": "Red", "Description": "A red [square]", "Source": "toy museum"}.items():
    texts.add_text(name, text)
path = Path(figures_dir) / "00_red.png"
path.parent.mkdir(parents=True, exist_ok=True)
Picture.new("RGB", (40, 40), "red").save(path, pnginfo=texts)
Image(path, alt="A red [square]")
"""

TABLE = """\
row = "split,tuned_on,queries,positives,gap,gap_low,gap_high,gap_minus,acc,acc_low,acc_high,"
row += "dim,k,tau,backbone\\n"
row += "test,val,9,3,.5,.25,.75,.625,1,.9,1,8,3,20,random\\nval,val,9,3,1,1,1,1,1,1,1,8,3,20,random\\n"
(Path(figures_dir) / "00_the_whole_thing.csv").write_text(row)
"""


def write(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS, title: str = "A title") -> Path:
    """A notebook with these code cells, as the course has them."""
    folder.mkdir(parents=True, exist_ok=True)
    notebook = new_notebook(
        cells=[
            new_markdown_cell(f"# {title}\n\n**Question.** Does *it* run?\n\nSee [01](01_b.ipynb), [09](09_x.ipynb)."),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *map(new_code_cell, cells),
            new_markdown_cell("**Answer.** It does."),
        ]
    )
    nbformat.write(notebook, folder / name)
    return folder / name


def values(folder: Path) -> dict[str, object]:
    return {name: str(folder) if name.endswith(("_dir", "_root")) else 0 for name in runner.COMMON}


def execute(folder: Path, *cells: str, **options: object) -> report.Entry:
    path = write(folder / "notebooks", "00_a.ipynb", *cells)
    return kernel.execute(path, folder / "out" / "00_a.ipynb", values(folder), **options)  # type: ignore[arg-type]


# --- a whole run ---


@pytest.mark.slow
def test_a_run_leaves_pages_pictures_and_a_table(
    tmp_path: Path, museum: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "note {books}"
    more = PARAMETERS + "k = 5  # neighbours\ndims = [8]  # tried\nlabel = 'x'  # text\n"
    check = "assert (k, dims, label, seed) == (7, [1, 2], '12', 3), (k, dims, label, seed)\nprint(data_root)"
    where = f"import sys; assert sys.prefix == {sys.prefix!r} and Path.cwd() == Path({str(folder)!r})"
    write(folder, "00_the_whole_thing.ipynb", PICTURE, TABLE, where, title="00 · The whole <thing>")
    write(folder, "01_b.ipynb", check, parameters=more, title="01 · The second")
    out = tmp_path / "my reports"
    arguments = ["report", "--notebooks", folder, "--data", museum, "--reports", out]
    arguments += ["--work", tmp_path / "work", "--seed", 3]
    arguments += ["-p", "k=7", "-p", "dims=[1, 2]", "-p", "label=12"]
    assert cli.main([str(word) for word in arguments]) == 0
    text = capsys.readouterr()

    assert {"00_the_whole_thing ...", "01_b ..."} < set(lines := text.err.splitlines()) and len(lines) == 4
    assert re.search(r"^\[1/2\] (00_the_whole_thing|01_b): \d+ s\n(.*\n)*\[2/2\] \w+: \d+ s$", text.err, re.MULTILINE)
    assert text.out.splitlines()[-1] == f"report: {out / 'index.html'}"
    assert "50.0 [25.0–75.0]" in text.out and "val (itself)" in text.out

    pages = {path.name: path.read_text(encoding="utf-8") for path in out.glob("*.html")}
    assert set(pages) == {"index.html", "00_the_whole_thing.html", "01_b.html"}
    for page in pages.values():
        assert not re.search(r"https?://|<script|url\(", page), "a page must work without a network"
        for target in re.findall(r'href="([^"]+)"', page):
            assert (out / target).is_file()
    index = pages["index.html"]
    assert "toy &lt;museum&gt;" in index and "<museum>" not in index
    assert "The whole" in index and "Does it run?" in index and "tuned on these very queries" in index
    assert 'alt="A red [square]"' in index and "data:image/jpeg;base64," in index
    first = pages["00_the_whole_thing.html"]
    assert first.count('href="01_b.html"') >= 2 and "09_x" not in first and 'alt="A red [square]"' in first
    assert museum.parent.name in first  # the parameters of this run are shown
    readme = (out / "figures" / "README.md").read_text(encoding="utf-8")
    assert "toy museum" in readme and "![A red [square)](00_red.png)" in readme and "`seed=3`" in readme
    assert str(tmp_path) not in readme


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "verdict"), [("random", "a floor"), ("resnet18", None)])
def test_the_first_page_says_what_the_network_is_worth(
    backbone: str, verdict: str | None, tmp_path: Path, museum: Path
) -> None:
    write(tmp_path / "books", "00_the_whole_thing.ipynb", "1")
    arguments = ["report", "--notebooks", tmp_path / "books", "--data", museum, "--reports", tmp_path]
    arguments += ["--backbone", backbone, "--work", tmp_path / "work"]
    assert cli.main([str(word) for word in arguments]) == 0
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert f"These scores are {verdict}" in index if verdict else "These scores are" not in index


# --- what a notebook may not do ---


@pytest.mark.slow
def test_a_cell_that_raises_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotebookFailed) as caught:
        execute(tmp_path, "x = 1", "\n# second\nprint(x / 0)", "x = 2")
    text = str(caught.value)
    assert "00_a.ipynb, code cell 3 of 4 (# second): ZeroDivisionError: division by zero" in text
    executed = tmp_path / "out" / "00_a.ipynb"
    assert str(executed) in text and "ZeroDivisionError" in executed.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("cells", [("import sys; sys.exit(0)", "x = 1"), ("x = 1", "raise SystemExit")])
def test_a_notebook_that_ends_early_fails(tmp_path: Path, cells: tuple[str, str]) -> None:
    with pytest.raises(NotebookFailed, match=r"\((import sys|raise System).*ended the notebook early"):
        execute(tmp_path, *cells)


@pytest.mark.slow
def test_a_kernel_that_dies_fails_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotebookFailed, match=r"code cell 2 of 3 \(import os.*the kernel died"):
        execute(tmp_path, "import os; os._exit(0)", "x = 1")


@pytest.mark.slow
def test_a_cell_that_takes_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotebookFailed, match=r"code cell 2 of 2 \(import time.*longer than 1 s"):
        execute(tmp_path, "import time; time.sleep(60)", timeout=1)


@pytest.mark.slow
def test_a_cell_that_did_not_run_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "notebooks", "00_a.ipynb", "x = 1", "y = 2")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].metadata["tags"] = ["skip-execution"]
    nbformat.write(notebook, path)
    with pytest.raises(NotebookFailed, match=r"code cell 2 of 3 \(x = 1\): did not run"):
        kernel.execute(path, tmp_path / "out.ipynb", values(tmp_path))


def test_a_missing_kernel_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no Jupyter kernel named 'klingon'.*pip install ipykernel"):
        execute(tmp_path, "x = 1", kernel="klingon")


# --- what is refused before a notebook runs: one line on stderr, status 2 ---


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["report", *(str(word) for word in arguments)]) == 2
    text = capsys.readouterr()
    assert text.out == "" and text.err.startswith("error: ") and text.err.count("\n") == 1
    return text.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "bacbone=x"], r"-p bacbone: no chosen notebook.*nearest: backbone"),
        (["-p", "backbone=x"], r"-p backbone: this one has an option"),
        (["-p", "interactive=2"], r"-p interactive=2: expected bool, such as False"),
        (["--only", "07"], r"--only 07: expected one of 00_a"),
        (["--backbone", "weights/none.safetensors"], r"no backbone file weights/none.safetensors"),
        (["--figures", runner.ROOT / "figures"], r"figures holds the pictures of the default run alone"),
        (["--database", "mini"], r"mini_MET_database.json"),
        (["--data", "no/such/museum"], r"no/such/museum"),
        (["--notebooks", "no/such/folder"], r"no notebooks NN_\*.ipynb in .*no/such/folder"),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: list[object], message: str, tmp_path: Path, museum: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "notebooks", "00_a.ipynb", "x = 1")
    base = ["--data", museum, "--notebooks", tmp_path / "notebooks", "--reports", tmp_path / "reports"]
    assert re.search(message, refused(capsys, *base, *arguments))
    assert not (tmp_path / "reports").exists()


def test_a_notebook_without_a_common_parameter_is_refused(
    tmp_path: Path, museum: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "00_a.ipynb", parameters="data_root = 'x'")
    assert "00_a.ipynb lacks parameters: backbone" in refused(capsys, "--data", museum, "--notebooks", tmp_path)
    for damaged in ("data_root = open('x')", "data_root = = 'x'"):
        write(tmp_path, "00_a.ipynb", parameters=damaged)
        assert "can't be read" in refused(capsys, "--data", museum, "--notebooks", tmp_path)


def test_overrides_reach_the_notebooks_that_know_them_with_the_default_s_type() -> None:
    known = {
        "a": {"seed": 0, "k": 1, "x": 0.5, "on": False, "pair": (1, 2)},
        "b": {"seed": 0, "name": "n", "k": None},
    }
    overrides = ["k=512", "x=2", "on=true", "pair=[3, 4]", "name=5"]
    given = runner.assign(known, {"seed": 9}, overrides)
    assert given["a"] == {"seed": 9, "k": 512, "x": 2.0, "on": True, "pair": (3, 4)}
    assert given["b"] == {"seed": 9, "k": 512, "name": "5"} and isinstance(given["a"]["x"], float)
    for text in ("five", "true", "1.5"):
        with pytest.raises(Refused, match="expected int"):
            runner.assign(known, {}, [f"k={text}"])
    with pytest.raises(Refused, match="expected a number"):
        runner.assign({"b": known["b"]}, {}, ["k=many"])
    with pytest.raises(Refused, match="expected NAME=VALUE"):
        runner.assign(known, {}, ["k"])


def test_the_default_museum_is_painted_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, int]] = []

    def write_museum(root: Path, seed: int, workers: int) -> Path:
        seen.append((root, seed))
        return root

    monkeypatch.setattr(runner, "synthetic", SimpleNamespace(write_museum=write_museum))
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    assert runner.paint_default(0) == tmp_path / "data" / "synthetic"
    assert runner.paint_default(4) == tmp_path / "data" / "synthetic-4"
    assert [seed for _, seed in seen] == [0, 4]
