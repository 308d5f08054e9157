"""Files that appear whole or not at all, and the hash that names what is in them."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

# Parts that are empty (an absolute path's first), `.` or `..`, drives, backslashes, control and surrogate characters.
_LEAVES_ROOT = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|^[A-Za-z]:|[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def leaves_root(path: str) -> bool:
    """Whether a path from outside may leave its root: it is absolute, has `..`, or isn't plain with slashes."""
    return _LEAVES_ROOT.search(path) is not None


def lock_beside(path: str | Path) -> FileLock:
    """Give the lock of what is written at `path`, a file beside it: `with` holds it, and other processes wait.

    Folders above are made as needed. A killed process leaves it open.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


@contextmanager
def replacing(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its name only when the block ends well.

    A crash, a kill, an exception in the block or a full disk (an OSError with the file and what to do) leaves the old
    file or the new one, never half of one. Folders are made as needed; text modes write UTF-8.
    """
    path = Path(path)
    if "w" not in mode or not set(mode) <= set("wbt+"):
        raise ValueError(f"mode {mode!r}: expected 'w' or 'wb', since a new file replaces {path}")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        # mkstemp makes files that only their owner reads; give it the mode that a plain open() would.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
        with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def explained(error: OSError, path: Path) -> OSError:
    """The error itself, or where it means a full disk, one that says which path and what to do."""
    # numpy writes arrays past Python's file object, and reports a short write without an errno.
    cut_short = error.errno is None and "requested and" in str(error)
    if not cut_short and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    text = "the disk is full: free some space and run again, what was finished is kept"
    return OSError(error.errno or errno.ENOSPC, text, str(path))


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut, where the system can: Windows and some networks can't."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def short_hash(value: Any) -> str:
    """Name what JSON can hold by eight hexadecimal digits; the order of an object's keys doesn't count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def sha256(path: str | Path) -> str:
    """Hash one file, hexadecimal, without reading it into memory at once."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
