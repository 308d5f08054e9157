"""The setup cell and the badges, as they are stamped into notebooks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from metlib.notebooks import runner, stamping

STUB = "def start(data_root, seed):\n    return f'{__file__} {data_root} {seed}'\n"


def start_cell(cwd: Path, content: Path) -> subprocess.CompletedProcess[str]:
    """Run the setup cell in a process of its own, with `content` in place of Colab's /content."""
    cell = stamping.setup_cell().replace("/content", str(content))
    code = f"data_root, seed = 'museum', 3\n{cell}\nprint(data_root)"
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def test_the_setup_cell_is_four_lines_and_a_comment() -> None:
    lines = [line for line in stamping.setup_cell().splitlines() if line.strip()]
    assert lines[0].startswith("# ") and len(lines) == 5 and max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("checkout", "cwd"),
    [
        ("project", "project/notebooks"),  # JupyterLab, papermill
        ("project", "project"),
        ("content/metlib", "content"),
        ("content/metlib-main", "content"),
        ("content/drive/MyDrive/metlib", "content"),
        ("content/drive/MyDrive/metlib-main", "content"),
    ],
)
def test_the_setup_cell_finds_its_helper(checkout: str, cwd: str, tmp_path: Path) -> None:
    helper = tmp_path / checkout / "notebooks" / "setup_course.py"
    helper.parent.mkdir(parents=True)
    helper.write_text(STUB, encoding="utf-8")
    (tmp_path / "content").mkdir(exist_ok=True)
    done = start_cell(tmp_path / cwd, tmp_path / "content")
    place, *given = done.stdout.split()
    assert (tmp_path / cwd / place).samefile(helper) and given == ["museum", "3"], done.stderr


@pytest.mark.parametrize(
    ("address", "hint"),
    [(None, "Put a checkout of metlib into"), ("https://example.org/a/b", "!git clone https://example.org/a/b ")],
)
def test_without_its_helper_the_setup_cell_shows_what_to_do(
    address: str | None, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamping, "address", lambda: address)
    done = start_cell(tmp_path, tmp_path / "content")
    assert done.returncode == 1 and "No module named 'setup_course'" in done.stderr
    (line,) = [line for line in stamping.setup_cell().splitlines() if line.startswith("from setup_course")]
    assert hint in line  # notebooks show the line that failed


@pytest.mark.parametrize("address", [None, "https://example.org/a/b", "https://github.com/some/where"])
def test_stamping_follows_the_address_and_is_stable(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamping, "address", lambda: address)
    path, helper, readme = (
        tmp_path / "notebooks" / "00_a.ipynb",
        tmp_path / "notebooks" / "setup_course.py",
        "README.md",
    )
    cells = [
        new_markdown_cell("# A title\n\n**Question.** Does it run?"),
        new_code_cell("seed = 0  # of all", metadata={"tags": ["parameters"]}),
        new_code_cell("x = 1", outputs=[new_output("stream", text="left over")], execution_count=4),
    ]
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), path)
    helper.write_text('import os\nREPOSITORY = "https://old.org/x"  # why\n', encoding="utf-8")
    old = "# metlib\n\n<!-- badge -->\nold\n<!-- /badge -->\n\nText.\n"
    (tmp_path / readme).write_text(old, encoding="utf-8")

    assert set(stamping.stamp(path.parent)) == {path, helper, tmp_path / readme}
    assert stamping.stamp(path.parent) == []
    stamped, text = nbformat.read(path, as_version=4), (tmp_path / readme).read_text(encoding="utf-8")
    assert [cell.source for cell in runner.tagged(stamped, "setup")] == [stamping.setup_cell()]
    assert stamped.cells[2].metadata.tags == ["setup"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in stamped.cells)
    badge = "https://colab.research.google.com/github/some/where/blob/main/notebooks/00_a.ipynb"
    known = address is not None and "github" in address
    assert (badge in stamped.cells[0].source) == (badge in text) == known
    assert stamped.cells[0].source.startswith("# A title\n") and "**Question.**" in stamped.cells[0].source
    assert "old" not in text and text.startswith("# metlib\n\n") and text.endswith("\n\nText.\n")
    assert (str(address) in stamping.setup_cell()) == (address is not None)
    expected = "import os\nREPOSITORY = None  # why\n".replace("None", f'"{address}"' if address else "None")
    assert helper.read_text(encoding="utf-8") == expected


def test_stamping_needs_notebooks(tmp_path: Path) -> None:
    with pytest.raises(runner.Refused, match=re.escape(f"no notebooks NN_*.ipynb in {tmp_path}")):
        stamping.stamp(tmp_path)
