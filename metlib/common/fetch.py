"""Files fetched over HTTP, in pieces that survive a broken connection, and checked by size and hash."""

import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from metlib.common.files import replacing, sha256, sync_folder
from metlib.common.progress import track

SUMS = "SHA256SUMS"
TIMEOUT = 30.0  # seconds without one byte
ATTEMPTS = 6  # in a row that bring less than STEP new bytes
STEP = 1 << 24
BLOCK = 1 << 18

log = logging.getLogger(__name__)


class DownloadError(OSError):
    """A download that can't go on; the message names what was found, what was expected and the way out."""


class DamagedFile(DownloadError):
    """A file that isn't what it should be: of another size or hash, broken, or unsafe to unpack."""


class _RetryableError(Exception):
    """One attempt failed in a way that the next may not."""


@dataclass(frozen=True)
class File:
    """One file on a server, with its size in bytes and its SHA-256, or the leading digits of it, where known."""

    file: str
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,250}", self.file, re.ASCII):
            raise ValueError(f"file name is {self.file!r}; expected letters, digits, dots and dashes")
        if self.size is not None and self.size <= 0:
            raise ValueError(f"{self.file}: size is {self.size}; expected a positive number or None")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256):
            raise ValueError(f"{self.file}: sha256 is {self.sha256!r}; expected 8 to 64 lower-case digits")


def fetch(file: File, folder: str | Path, url: str) -> Path:
    """Bring `<url>/<file.file>` into `folder`, going on from what an earlier call left; return its path.

    Size and SHA-256 are checked against `file` and SHA256SUMS in `folder`, to which a new hash is added. Raises
    DamagedFile (the file is set aside as `*.damaged`), DownloadError, and ValueError for the URL.
    """
    folder, address = Path(folder), _address(url, file)
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / file.file, folder / f"{file.file}.part"
    best = failures = 0
    while not path.exists():
        try:
            _continue(address, part, file)
            part.replace(path)
            Path(f"{part}.note").unlink(missing_ok=True)
            sync_folder(folder)
        except _RetryableError as error:
            # Only new bytes count: a server that starts from zero every time can't hold us for ever.
            if (have := _size(part)) >= best + STEP:
                best, failures = have, 0
            failures += 1
            if failures == ATTEMPTS:
                found = f"gave up after {ATTEMPTS} attempts, the last: {error}; {have:,} bytes are kept in {part}"
                raise DownloadError(f"{address}: {found}, and the same command goes on from there") from error
            wait = 2.0 ** (failures - 1)
            log.warning("%s: %s; trying again in %.0f s", file.file, error, wait)
            time.sleep(wait)
    known, found = read_sums(folder).get(file.file), sha256(path)
    for what, expected, got in (
        ("bytes", file.size, _size(path)),
        ("SHA-256", file.sha256, found),
        (f"SHA-256 as before (if the edition is new, delete its line in {folder / SUMS})", known, found),
    ):
        if expected not in (None, got) and not (what == "SHA-256" and str(got).startswith(str(expected))):
            raise DamagedFile(f"{path}: expected {what} {expected}, found {got}; {set_aside(path)}")
    if known is None:
        _record(folder, file.file, found)
    return path


def remaining(file: File, folder: Path, url: str) -> tuple[int, int]:
    """Count a file's bytes: those in all (0 if neither `file` nor the server knows), and those not yet in `folder`."""
    address, total = _address(url, file), file.size or 0
    if not total:  # the server may know no HEAD; `fetch` asks again
        with suppress(DownloadError, _RetryableError), _open(address, {}, method="HEAD") as response:
            total = _length(response)
    kept = max(_size(folder / file.file), _kept(folder / f"{file.file}.part", address)[0])
    return total, max(0, total - kept)


def check_space(folder: Path, need: int) -> None:
    """Raise DownloadError where the disk of `folder`, which may not exist yet, has no `need` bytes left."""
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if need > free:
        raise DownloadError(
            f"{folder}: about {need:,} bytes are needed, {free:,} are free; make room, or choose another folder"
        )


def read_sums(folder: Path) -> dict[str, str]:
    """Read SHA256SUMS (lines as sha256sum writes them: hash, two spaces, file name) as {file name: hash}."""
    lines = (folder / SUMS).read_text("utf-8").splitlines() if (folder / SUMS).exists() else []
    return {name: found for found, _, name in (line.partition("  ") for line in lines)}


def set_aside(path: Path, *, forget: bool = False) -> str:
    """Rename a damaged file, and `forget` its hash if asked to; return the end of the error's sentence."""
    if forget:
        _record(path.parent, path.name, None)
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    return f"set aside as {aside}, run again to fetch it anew"


def _record(folder: Path, name: str, found: str | None) -> None:
    sums = {**read_sums(folder), name: found}
    with replacing(folder / SUMS, "w") as out:
        out.writelines(f"{value}  {key}\n" for key, value in sums.items() if value)


def _continue(address: str, part: Path, file: File) -> None:
    """Make one attempt to complete `part`; its note holds of which edition of which file the bytes are."""
    have, version, total = _kept(part, address)
    if have and have == total:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and version:
        headers["If-Range"] = version  # the server sends everything if it has another edition now
    with _open(address, headers, part) as response:
        etag = response.headers.get("ETag", "")  # If-Range takes a strong one, else the date
        fresh = " ".join((etag if etag.startswith('"') else response.headers.get("Last-Modified", "")).split())
        if response.status == 206:
            extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not extent or extent.groups() != (str(have), str(total)) or fresh not in ("", version):
                part.unlink(missing_ok=True)
                raise _RetryableError("the file on the server changed, starting again")
        else:
            have, total = 0, _length(response) or file.size or 0
            if not total:
                raise DownloadError(f"{address}: the server doesn't say how long it is; try another url")
            if file.size not in (None, total):
                raise DamagedFile(f"{address}: expected bytes {file.size}, found {total}; check url")
            part.unlink(missing_ok=True)  # first: old bytes must never stand under a new note
            with replacing(f"{part}.note", "w") as note:
                note.write(f"{address}\n{fresh}\n{total}")
        check_space(part.parent, total - have)
        with track(total=total, label=file.file, unit="B", done=have, scale=True) as bar, part.open("ab") as out:
            while have < total:
                try:
                    block = response.read1(min(BLOCK, total - have))
                except (OSError, HTTPException) as error:
                    raise _RetryableError(f"the connection broke at byte {have:,} of {total:,} ({error})") from error
                if not block:
                    raise _RetryableError(f"the connection ended at byte {have:,} of {total:,}")
                out.write(block)
                have += len(block)
                bar.update(len(block))
            out.flush()
            os.fsync(out.fileno())


def _open(address: str, headers: dict[str, str], part: Path | None = None, method: str = "GET") -> HTTPResponse:
    """Ask for `address`, over http(s) even if redirected; a `part` that is out of range is dropped."""
    headers = {"User-Agent": "metlib", "Accept-Encoding": "identity", **headers}
    request = urllib.request.Request(address, headers=headers, method=method)
    try:
        response: HTTPResponse = urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and part is not None:
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 425, 429) or error.code >= 500:
            raise _RetryableError(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(f"{address}: status {error.code} {error.reason}; check url") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _RetryableError(f"no answer ({error})") from error
    if not response.url.startswith(("http://", "https://")):
        response.close()
        raise DownloadError(f"{address}: leads to {response.url}; expected http(s)://; check url")
    return response


def _length(response: HTTPResponse) -> int:
    """Read Content-Length in bytes, 0 where there is none."""
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def _kept(part: Path, address: str) -> tuple[int, str, int]:
    """Read what an earlier attempt left of `address`: the number of bytes, their version, and the bytes in all."""
    with suppress(OSError, ValueError):  # no note, or a damaged one: start again
        origin, version, total = Path(f"{part}.note").read_text("utf-8").split("\n")
        if origin == address and _size(part) <= int(total):
            return _size(part), version, int(total)
    return 0, "", 0


def _address(url: str, file: File) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9\[][!-~]*", url):
        raise ValueError(f"url is {url!r}; expected an http:// or https:// address such as https://example.org/files/")
    urlsplit(url).port  # noqa: B018  raises ValueError where it is no number
    return f"{url.rstrip('/')}/{file.file}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
