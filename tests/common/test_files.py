"""Files appear whole or not at all: what raising, killing and a full disk leave behind."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from metlib.common import files

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    with files.replacing(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert names(path.parent) == ["a.bin"]


def test_an_existing_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with files.replacing(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_raising_block_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, files.replacing(path) as file:
        file.write(b"half")
        raise error
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys\nfrom metlib.common.files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    with files.replacing(path) as file:  # what the killed one left behind is in nobody's way
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_text_is_utf8_with_plain_newlines(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "a.txt", "w") as file:
        file.write("GAP⁻\né\n")
    assert (tmp_path / "a.txt").read_bytes() == "GAP⁻\né\n".encode()


@pytest.mark.parametrize("mode", ["r", "rb", "a", "ab", "x", "wz"])
def test_modes_that_do_not_write_anew_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ValueError, match=r"'wb'") as caught, files.replacing(tmp_path / "a", mode):
        pass
    assert repr(mode) in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_the_file_has_the_permissions_of_a_plain_open(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with files.replacing(tmp_path / "replaced"):
        pass
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_the_file_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"disk is full: free") as caught, files.replacing(path) as file:
        file.write(b"too much")
    assert caught.value.errno == number
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_short_write_by_numpy_is_a_full_disk_too(tmp_path: Path) -> None:
    # ndarray.tofile writes past Python's file object and raises without an errno, in just these words.
    with pytest.raises(OSError, match=r"disk is full") as caught, files.replacing(tmp_path / "a.npy"):
        raise OSError("100000 requested and 8176 written")
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of file size are POSIX")
def test_an_array_that_does_not_fit_is_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, numpy as np\nfrom metlib.common.files import replacing\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "with replacing(sys.argv[1]) as file:\n    np.save(file, np.zeros(100_000))"
    )
    path = tmp_path / "a.npy"
    ended = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    last_line = ended.stderr.splitlines()[-1]
    assert "the disk is full" in last_line
    assert str(path) in last_line
    assert names(tmp_path) == []


def test_a_disk_too_full_for_a_folder_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.tempfile, "mkstemp", full)
    with pytest.raises(OSError, match=r"disk is full"), files.replacing(tmp_path / "a.bin"):
        pass


def test_other_errors_of_the_system_pass_unchanged(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError) as caught, files.replacing(tmp_path / "taken") as file:
        file.write(b"x")
    assert "disk is full" not in str(caught.value)
    assert names(tmp_path) == ["taken"]


def test_sha256_is_hashlibs(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert files.sha256(str(tmp_path / "a")) == hashlib.sha256(content).hexdigest()


def test_a_digest_names_a_value_whatever_the_order_of_its_keys() -> None:
    named = files.short_hash({"a": 1, "b": [2.5, None]})
    assert named == files.short_hash({"b": [2.5, None], "a": 1}) and re.fullmatch("[0-9a-f]{8}", named)
    assert named != files.short_hash({"a": 1, "b": [2.5, 0]})


def test_the_lock_beside_a_path_makes_folders_and_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "run"
    with files.lock_beside(path), pytest.raises(Timeout):
        files.lock_beside(str(path)).acquire(timeout=0)
    assert not path.exists() and path.parent.is_dir()
    with files.lock_beside(path):
        pass  # it is free again
