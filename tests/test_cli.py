"""The command: what it prints alone, how its help is grouped, and the one handler of errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from metlib import __version__, cli, dataset
from metlib.notebooks import NotebookFailed

COMMANDS = {
    "Run the course": {"report", "paint", "stamp"},
    "Look after data": {"download", "verify", "labels"},
    "Measure": {"extract", "evaluate", "compare"},
    "Train": {"train", "transfer"},
}


def test_alone_it_prints_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    for command in re.findall(r"^  metlib (\S+)", out, re.MULTILINE):
        assert command == "--help" or command in {name for names in COMMANDS.values() for name in names}
    assert "metlib report" in out and "reports/index.html" in out


def test_the_help_groups_commands_by_what_a_person_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    panels = re.split(r"╭─ (.+?) ─+╮", capsys.readouterr().out)
    found = dict(zip(panels[1::2], panels[2::2], strict=True))
    for group, names in COMMANDS.items():
        assert set(re.findall(r"^│ (\w+) ", found[group], re.MULTILINE)) == names


@pytest.mark.parametrize("command", [name for names in COMMANDS.values() for name in names])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: metlib {command}" in out and len(out.splitlines()) > 5


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.slow
def test_python_m_metlib_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "metlib", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("two\nlines"), 2, "error: two lines\n"),
        (FileNotFoundError("no folder x"), 2, "error: no folder x\n"),
        (MemoryError(), 2, "error: MemoryError\n"),
        (ModuleNotFoundError("no Ray Data"), 2, "error: no Ray Data\n"),
        (NotebookFailed("00, code cell 1"), 1, "error: 00, code cell 1\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted: the same command again keeps the steps that were finished\n"),
    ],
)
def test_errors_are_one_line_and_a_status(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(dataset, "find", fail)
    assert cli.main(["verify", "anywhere"]) == status
    assert capsys.readouterr().err == message


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "find", lambda *_: None)
    with pytest.raises(TypeError):
        cli.main(["verify", "anywhere"])


def test_words_that_mean_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (
        (["nonsense"], "No such command 'nonsense'"),
        (["verify"], "Missing argument"),
        (["verify", str(tmp_path), "--database", "big"], "big"),
        (["extract", str(tmp_path), "random", "--scales", "one"], "expected numbers separated by commas"),
        (["extract", str(tmp_path), "random", "--scales", ","], "expected numbers separated by commas"),
        (["extract", str(tmp_path), "random", "--gpus", "1"], "are options of --ray"),
        (["extract", str(tmp_path), "random", "--ray", "--device", "cuda"], "with --ray, ask for --gpus"),
        (["paint", "--exhibits", "50"], "need a FOLDER"),
    ):
        assert cli.main(wrong) == 2
        assert message in capsys.readouterr().err
