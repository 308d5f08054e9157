"""Files that appear whole or not at all, and the hash that names what is in them."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its name only when the block ends well.

    The content is synced before the rename, so a crash, a kill or a full disk leaves either the old file or
    the new one, never half of one. Folders are made as needed; text modes write UTF-8. An exception inside
    the block removes the temporary file and goes on to the caller; a full disk becomes an OSError with
    the file and what to do.
    """
    path = Path(path)
    if "w" not in mode or not set(mode) <= set("wbt+"):
        raise ValueError(
            f"mode {mode!r}: expected 'w' or 'wb', since the file is written anew and then replaces {path}"
        )
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        # mkstemp makes files that only their owner reads; give it the mode that a plain open() would.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        encoding = None if "b" in mode else "utf-8"
        newline = None if "b" in mode else "\n"
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
    way_out = "the disk is full: free some space and run again, what was finished is kept"
    return OSError(error.errno or errno.ENOSPC, way_out, str(path))


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut; does nothing where they can't be opened (Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the rename itself is done
    finally:
        os.close(descriptor)


def short_hash(value: Any) -> str:
    """Name what JSON can hold by eight hexadecimal digits; the order of an object's keys doesn't count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def sha256(path: str | Path) -> str:
    """Hash one file, hexadecimal, without reading it into memory at once."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
