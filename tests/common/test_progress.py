"""The progress bar: shown to a person, silent in a batch."""

from __future__ import annotations

import sys

import pytest

from metlib.common import progress


@pytest.fixture(autouse=True)
def batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, no terminal, no notebook: each test adds what it is about."""
    monkeypatch.delenv("METLIB_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)


def use() -> None:
    with progress.track(total=3, label="reading", unit="page") as bar:
        for _ in range(3):
            bar.update(1)


def test_a_batch_run_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    use()
    assert capsys.readouterr() == ("", "")


def test_zero_silences_even_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("METLIB_PROGRESS", "0")
    assert not progress.watched()
    use()
    assert capsys.readouterr() == ("", "")


def test_zero_silences_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert progress.watched()
    monkeypatch.setenv("METLIB_PROGRESS", "0")
    assert not progress.watched()


def test_a_terminal_sees_label_count_and_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METLIB_PROGRESS", "1")
    use()
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "3/3" in shown
    assert "page" in shown


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METLIB_PROGRESS", "")
    assert not progress.watched()


def test_earlier_work_counts_as_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("METLIB_PROGRESS", "1")
    with progress.track(total=10, label="resumed", done=4):
        pass
    assert "4/10" in capsys.readouterr().err
