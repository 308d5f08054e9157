"""Whole runs with several notebooks at once: what overlaps, what the first page says, what a failure leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metlib import cli
from tests.notebooks.test_runner import refused, write

pytestmark = pytest.mark.slow  # kernels start

REFRESH = '<meta http-equiv="refresh" content="10">'
# Each waits for the other's file: alone it would never end.
MEET = """\
import os, time
from pathlib import Path
mine, other = {!r}
Path(work_dir).mkdir(parents=True, exist_ok=True)
(Path(work_dir) / mine).write_text(os.environ["OMP_NUM_THREADS"] + os.environ["OMP_WAIT_POLICY"])
while not (Path(work_dir) / other).exists():
    time.sleep(0.05)
"""


def arguments(folder: Path, museum: Path, *more: object) -> list[str]:
    given = ["report", "--notebooks", folder / "notebooks", "--data", museum, "--reports", folder / "reports"]
    return [str(word) for word in (*given, "--work", folder / "work", *more)]


def start(folder: Path, museum: Path, *more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "metlib", *arguments(folder, museum, *more)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def states(folder: Path) -> dict[str, str]:
    """What the first page says of each notebook, by its number."""
    path = folder / "reports" / "index.html"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    cards = re.findall(r'<h3><span>(\d\d)</span>.*?<p class="time">(.*?)</p>', text, re.DOTALL)
    return {number: "finished" if re.fullmatch(r"\d+ s", state) else state for number, state in cards}


def test_two_notebooks_run_at_once_and_share_the_cores(
    tmp_path: Path, museum: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metlib.notebooks.schedule.count_cores", lambda: 6)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for mine, other in (("00_a", "01_b"), ("01_b", "00_a")):
        write(tmp_path / "notebooks", f"{mine}.ipynb", MEET.format((mine, other)))
    assert cli.main(arguments(tmp_path, museum, "--jobs", 2, "--timeout", 60)) == 0
    assert [(tmp_path / "work" / name).read_text() for name in ("00_a", "01_b")] == ["3PASSIVE", "3PASSIVE"]


def test_a_failed_notebook_leaves_the_others_pages(
    tmp_path: Path, museum: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "notebooks", "00_a.ipynb", "print('so far')", "1 / 0")
    write(tmp_path / "notebooks", "01_b.ipynb", "raise ValueError('<b>')")
    write(tmp_path / "notebooks", "02_c.ipynb", "print('all of it')")
    assert cli.main(arguments(tmp_path, museum, "--jobs", 2)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 2 of 3 notebooks failed: 00_a.ipynb, code cell 3 of 3 (1 / 0): ZeroDivisionError")
    assert "01_b.ipynb, code cell 2 of 2" in error and error.endswith("index.html")
    reports = tmp_path / "reports"
    pages = {path.stem: path.read_text(encoding="utf-8") for path in reports.glob("*.html")}
    assert set(pages) == {"index", "00_a", "01_b", "02_c"}
    assert states(tmp_path) == {"00": "failed", "01": "failed", "02": "finished"}
    index = pages["index"]
    assert "ZeroDivisionError: division by zero" in index and "&lt;b&gt;" in index and REFRESH not in index
    assert "so far" in pages["00_a"] and "ZeroDivisionError" in pages["00_a"] and "all of it" in pages["02_c"]
    for page in pages.values():
        assert all((reports / target).is_file() for target in re.findall(r'href="([^"#]+)"', page))


def test_the_first_page_tells_how_far_the_run_is(tmp_path: Path, museum: Path) -> None:
    go = tmp_path / "go"
    wait = f"import time\nfrom pathlib import Path\nwhile not Path({str(go)!r}).exists(): time.sleep(0.05)"
    write(tmp_path / "notebooks", "00_a.ipynb", "print('done')")
    write(tmp_path / "notebooks", "01_b.ipynb", wait)
    write(tmp_path / "notebooks", "02_c.ipynb", "x = 1")
    process = start(tmp_path, museum, "--jobs", 1)
    try:
        wait_for(lambda: states(tmp_path) == {"00": "finished", "01": "running", "02": "to come"})
        index = (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")
        assert REFRESH in index and 'href="00_a.html"' in index and 'href="01_b.html"' not in index
        page = (tmp_path / "reports" / "00_a.html").read_text(encoding="utf-8")
        assert 'href="01_b.html" rel="next"' in page and REFRESH not in page
        go.touch()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert set(states(tmp_path).values()) == {"finished"}
    assert REFRESH not in (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")


def test_an_interrupted_run_stops_its_kernels_and_keeps_what_was_finished(tmp_path: Path, museum: Path) -> None:
    sleep = "import os, time\nfrom pathlib import Path\n(Path(work_dir) / {!r}).write_text(str(os.getpid()))"
    (tmp_path / "work").mkdir()
    write(tmp_path / "notebooks", "00_a.ipynb", "print('done')")
    for name in ("01_b", "02_c"):
        write(tmp_path / "notebooks", f"{name}.ipynb", sleep.format(name), "time.sleep(600)")
    write(tmp_path / "notebooks", "03_d.ipynb", "x = 1")
    process = start(tmp_path, museum, "--jobs", 2)
    pids = [tmp_path / "work" / name for name in ("01_b", "02_c")]
    try:
        wait_for(lambda: states(tmp_path).get("00") == "finished" and all(pid.exists() for pid in pids))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert states(tmp_path) == {"00": "finished", "01": "stopped", "02": "stopped", "03": "stopped"}
    assert REFRESH not in (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in sorted((tmp_path / "reports").glob("0*.html"))] == ["00_a.html"]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


def test_shared_descriptors_are_made_once_before_those_that_need_them(
    tmp_path: Path,
    museum: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = tmp_path / "made"

    def prepare(museum: object, backbone: str, database: str, work: Path, threads: int) -> None:
        assert (backbone, database, work) == ("random", "full", (tmp_path / "work").resolve())
        made.write_text("once" if not made.exists() else "twice")

    monkeypatch.setattr("metlib.notebooks.schedule.prepare", prepare)
    needs = f"if False: extract.describe()\nfrom pathlib import Path\nassert Path({str(made)!r}).read_text() == 'once'"
    for number in range(2):
        write(tmp_path / "notebooks", f"0{number}_a.ipynb", needs)
    assert cli.main(arguments(tmp_path, museum, "--jobs", 2, "--backbone", "random")) == 0
    assert capsys.readouterr().err.startswith("descriptors of the museum ...\ndescriptors of the museum: there\n")


def test_jobs_that_are_no_number_are_refused(tmp_path: Path, museum: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "notebooks", "00_a.ipynb", "x = 1")
    given = arguments(tmp_path, museum)[1:]
    assert "--jobs 0: expected how many" in refused(capsys, *given, "--jobs", 0)
    assert cli.main(["report", "--jobs", "many"]) == 2 and "--jobs" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()
