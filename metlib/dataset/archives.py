"""The real Met dataset: fetched in pieces that survive a bad line, checked, and unpacked in a shut room.

`<root>/archives` keeps the archives while they are needed, SHA256SUMS (what arrived) and a marker for each
finished archive; `<root>/ground_truth` and `<root>/images` are the layout that `metlib.dataset` reads.
Whatever the server sends is hostile until checked.
"""

from __future__ import annotations

import gzip
import http.client
import logging
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from metlib.common.files import replacing, sha256, sync_folder
from metlib.common.progress import track

SUMS = "SHA256SUMS"
URL = "http://ptak.felk.cvut.cz/met/dataset/"
TIMEOUT = 30.0  # seconds without one byte
ATTEMPTS = 6  # in a row that bring less than STEP new bytes
STEP = 1 << 24
BLOCK = 1 << 18
UNPACKED = 1.25  # bytes on disk per byte of an archive: JPEGs hardly compress, file systems round up
RATIO, FLOOR = 50, 1 << 26  # an honest archive unpacks to less than RATIO times itself or less than FLOOR
MEMBERS, HEADER = 2_000_000, 1 << 22  # members at most (the Met has 397,121 images); bytes between two

log = logging.getLogger(__name__)


class DownloadError(OSError):
    """A download that can't go on; the message names what was found, what was expected and the way out."""


class DamagedArchive(DownloadError):
    """An archive that isn't what it should be: of another size or hash, broken, or unsafe to unpack."""


class _RetryableError(Exception):
    """One attempt failed in a way that the next may not."""


def _check_known(name: str, size: int | None, sha256: str | None, digits: int = 64) -> None:
    """Check what is known of a file beforehand: its size, and its hash or at least so many digits of it."""
    if size is not None and size <= 0:
        raise ValueError(f"{name}: size is {size}; expected a positive number or None")
    if sha256 is not None and not re.fullmatch(rf"[0-9a-f]{{{digits},64}}", sha256):
        expected = "64" if digits == 64 else f"{digits} to 64"
        raise ValueError(f"{name}: sha256 is {sha256!r}; expected {expected} lower-case digits")


@dataclass(frozen=True)
class File:
    """One file on a server, with its size in bytes and its SHA-256, or the leading digits of it, where known."""

    file: str
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,250}", self.file, re.ASCII):
            raise ValueError(f"file name is {self.file!r}; expected letters, digits, dots and dashes")
        _check_known(self.file, self.size, self.sha256, digits=8)


@dataclass(frozen=True)
class Archive:
    """One `<name>.tar.gz` of the dataset, with its size in bytes and its hash where they are known."""

    name: str
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+", self.name, re.ASCII):
            raise ValueError(f"archive name is {self.name!r}; expected letters, digits and underscores")
        _check_known(self.name, self.size, self.sha256)

    @property
    def file(self) -> str:
        """Name the file on the server."""
        return f"{self.name}.tar.gz"

    @property
    def folder(self) -> Path:
        """Say where its files belong under the root: the ground truth calls both MET archives `MET/`."""
        if self.name == "ground_truth":
            return Path("ground_truth")
        return Path("images", "MET" if self.name == "small_MET" else self.name)


_KNOWN = (
    Archive("ground_truth"),
    Archive("test_met", 34_048_842, "2bc9b2e906d5fc69c4c136860b42604ef867b69ada10f1e08aa49175cbe08a35"),
    Archive("test_other"),
    Archive("test_noart"),
    Archive("small_MET", 2_865_082_125, "0cf5736dee3eac8598daa1a929723834abcb037d57d3f0f0f58018f4bfa9a916"),
    Archive("MET"),
)
ARCHIVES = {archive.name: archive for archive in _KNOWN}
PARTS: dict[str, tuple[str, ...]] = {
    "mini": ("ground_truth", "test_met", "test_other", "test_noart", "small_MET"),
    "full": ("ground_truth", "test_met", "test_other", "test_noart", "MET"),
    **{name: (name,) for name in ARCHIVES},
}


def download(root: str | Path, part: str = "mini", *, url: str = URL, keep_archives: bool = False) -> Path:
    """Fetch and unpack one part of the Met under `root`, skipping what is finished; return `root`.

    `part` is a key of PARTS. A stopped download goes on where it was when the same call is made again.
    Raises ValueError for an unknown part or a URL that isn't http(s); DamagedArchive for an archive that
    fails a check (it is set aside as `*.damaged`); DownloadError where the server refuses, the disk is too
    small, or `root` holds other data.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    root = Path(root)
    archives = root / "archives"
    if not archives.is_dir() and any((root / name).exists() for name in ("ground_truth", "images")):
        raise DownloadError(
            f"{root}: holds data that this download didn't make, and they would mix; give a new root"
            f" (or, if what lies there is the Met, make an empty folder {archives})"
        )
    todo = [ARCHIVES[name] for name in PARTS[part] if not _finished(root, ARCHIVES[name])]
    _ask_for_room(root, _bytes_needed(todo, archives, url))
    for archive in todo:
        path = fetch(archive, archives, url)
        try:
            unpack(path, root / archive.folder)
        except DamagedArchive as error:
            _record(archives, archive, None)  # a hash that doesn't unpack is nothing to compare with
            raise DamagedArchive(f"{error}; {_set_aside(path)}") from error
        with replacing(_marker(root, archive), "w") as file:
            file.write(_sums(archives)[archive.file])
        if not keep_archives:
            path.unlink()
    return root


def fetch(archive: Archive | File, folder: str | Path, url: str = URL) -> Path:
    """Bring `<url>/<archive.file>` into `folder`, going on from what an earlier call left; return its path.

    Size and SHA-256 are checked against `archive`, and against what SHA256SUMS in `folder` has of an earlier
    download; a new hash is added there, so that the first download pins a file whose hash nobody published.
    Raises DamagedArchive, DownloadError, and ValueError for the URL.
    """
    folder = Path(folder)
    address = _address(url, archive)
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / archive.file, folder / f"{archive.file}.part"
    best = failures = 0
    while not path.exists():
        try:
            _continue(address, part, archive)
            part.replace(path)
            _note(part).unlink(missing_ok=True)
            sync_folder(folder)
        except _RetryableError as cut:
            # Only new ground counts: a server that starts from zero every time can't hold us for ever.
            if (have := _size(part)) >= best + STEP:
                best, failures = have, 0
            failures += 1
            if failures == ATTEMPTS:
                raise DownloadError(
                    f"{address}: gave up after {ATTEMPTS} attempts, the last: {cut}; {have:,} bytes are"
                    f" kept in {part}, and the same command goes on from there"
                ) from cut
            wait = 2.0 ** (failures - 1)
            log.warning("%s: %s; trying again in %.0f s", archive.file, cut, wait)
            time.sleep(wait)
    known, found = _sums(folder).get(archive.file), sha256(path)
    for what, expected, got in (
        ("bytes", archive.size, _size(path)),
        ("SHA-256", archive.sha256, found),
        (f"SHA-256 as before (if the edition is new, delete its line in {folder / SUMS})", known, found),
    ):
        if expected not in (None, got) and not (what == "SHA-256" and str(got).startswith(str(expected))):
            raise DamagedArchive(f"{path}: expected {what} {expected}, found {got}; {_set_aside(path)}")
    if known is None:
        _record(folder, archive, found)
    return path


def unpack(path: str | Path, folder: str | Path) -> None:
    """Unpack a .tar.gz into `folder`, all or nothing; an existing `folder` keeps its other files.

    Leading `./`, `<archive name>/` and `<folder name>/` are taken off: for small_MET into images/MET,
    `small_MET/1/0.jpg`, `MET/1/0.jpg` and `1/0.jpg` are all `images/MET/1/0.jpg`.
    Raises DamagedArchive for links, devices, names that leave the folder, broken data and bombs;
    DownloadError where the disk is too small.
    """
    path, folder = Path(path), Path(folder)
    prefixes = {path.name.removesuffix(".tar.gz"), folder.name}
    folder = folder.resolve()  # it may be a link to a larger disk
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(fresh, ignore_errors=True)  # of a killed run
    fresh.mkdir()
    try:
        _extract(path, fresh, prefixes)
        if hasattr(os, "sync"):
            os.sync()  # all files, before the name that promises them
        if folder.exists():
            for file in [file for file in fresh.rglob("*") if file.is_file()]:
                goal = folder / file.relative_to(fresh)
                goal.parent.mkdir(parents=True, exist_ok=True)
                file.replace(goal)
        else:
            fresh.replace(folder)
        sync_folder(folder.parent)
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, OverflowError) as error:
        raise DamagedArchive(f"{path}: not a whole .tar.gz ({type(error).__name__}: {error})") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedArchive(f"{path}: one name is a file and a folder ({error})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


class _Ration(gzip.GzipFile):
    """Unpacks no more than `left` bytes until that is set anew: no header may take gigabytes of memory."""

    left = HEADER

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        self.left -= len(block)
        if self.left < 0:
            raise tarfile.ReadError(f"more than {HEADER:,} bytes between two members")
        return block


def _extract(path: Path, fresh: Path, prefixes: set[str]) -> None:
    most, free = max(FLOOR, RATIO * _size(path)), shutil.disk_usage(fresh).free
    files = members = seen = 0
    with (
        track(total=_size(path), label=f"unpack {path.name}", unit="B", scale=True) as bar,
        path.open("rb") as raw,
        _Ration(fileobj=raw) as plain,
        tarfile.open(fileobj=plain, mode="r|", bufsize=BLOCK) as tar,
    ):
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # 600,000 of them would stay in memory
            members += 1
            name, end = PurePosixPath(member.name), member.offset_data + member.size
            if name.is_absolute() or ".." in name.parts or set(member.name) & set("\\:\0"):
                raise DamagedArchive(f"{path}: {member.name!r} leaves the folder; expected a path inside")
            if not (member.isdir() or member.isreg()) or member.issparse():
                raise DamagedArchive(f"{path}: {member.name!r} is a link or device; expected a file")
            if end > most or members > MEMBERS:
                raise DamagedArchive(f"{path}: a bomb: {end:,} bytes in {members:,} members or more")
            if end > free:
                raise DownloadError(f"{path}: unpacks to {end:,} bytes or more, {free:,} are free; make room")
            parts = name.parts
            while parts and parts[0] in prefixes:
                parts = parts[1:]
            if member.isreg():
                if not parts:
                    raise DamagedArchive(f"{path}: {member.name!r} is a file; expected a folder")
                plain.left, goal = member.size + HEADER, fresh.joinpath(*parts)
                goal.parent.mkdir(parents=True, exist_ok=True)
                # Written by hand: the name is checked above, and tarfile's own filters came with Python 3.11.4.
                with tar.extractfile(member) as source, goal.open("wb") as sink:  # type: ignore[union-attr]
                    shutil.copyfileobj(source, sink, BLOCK)
                files += 1
            plain.left = HEADER
            bar.update(raw.tell() - seen)
            seen = raw.tell()
        # tarfile ends quietly at a broken header, and before the checksum of the gzip: read on to the end.
        while rest := tar.fileobj.read(BLOCK):
            if rest.strip(b"\0"):
                raise DamagedArchive(f"{path}: broken after {members:,} members")
    if not files:
        raise DamagedArchive(f"{path}: holds no file")


def _continue(address: str, part: Path, archive: Archive | File) -> None:
    """Make one attempt to complete `part`; its note says of which edition of which file the bytes are."""
    have, version, total = _kept(part, address)
    if have and have == total:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and version:
        headers["If-Range"] = version  # the server sends everything if it has another edition now
    with _open(address, headers, part) as response:
        fresh = _version(response)
        if response.status == 206:
            extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not extent or extent.groups() != (str(have), str(total)) or fresh not in ("", version):
                part.unlink(missing_ok=True)
                raise _RetryableError("the file on the server changed, starting again")
        else:
            have, total = 0, _length(response) or archive.size or 0
            if not total:
                raise DownloadError(f"{address}: the server doesn't say how long it is; try another url")
            if archive.size not in (None, total):
                raise DamagedArchive(f"{address}: expected bytes {archive.size}, found {total}; check url")
            part.unlink(missing_ok=True)  # first: old bytes must never stand under a new note
            with replacing(_note(part), "w") as note:
                note.write(f"{address}\n{fresh}\n{total}")
        _ask_for_room(part.parent, total - have)
        bar = track(total=total, label=archive.file, unit="B", done=have, scale=True)
        with bar, part.open("ab") as file:
            while have < total:
                try:
                    block = response.read1(min(BLOCK, total - have))
                except (OSError, http.client.HTTPException) as error:
                    raise _RetryableError(f"the connection broke at byte {have:,} of {total:,} ({error})") from error
                if not block:
                    raise _RetryableError(f"the connection ended at byte {have:,} of {total:,}")
                file.write(block)
                have += len(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())


def _open(
    address: str, headers: dict[str, str], part: Path | None = None, method: str = "GET"
) -> http.client.HTTPResponse:
    """Ask for `address`, over http(s) even if redirected; a `part` that is out of range is dropped."""
    headers = {"User-Agent": "metlib", "Accept-Encoding": "identity", **headers}
    request = urllib.request.Request(address, headers=headers, method=method)
    try:
        response: http.client.HTTPResponse = urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and part is not None:
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 425, 429) or error.code >= 500:
            raise _RetryableError(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(f"{address}: status {error.code} {error.reason}; check url") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _RetryableError(f"no answer ({error})") from error
    if not response.url.startswith(("http://", "https://")):
        response.close()
        raise DownloadError(f"{address}: leads to {response.url}; expected http(s)://; check url")
    return response


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _version(response: http.client.HTTPResponse) -> str:
    """Name the edition of the file as If-Range takes it: a strong ETag, else the date, else nothing."""
    etag = response.headers.get("ETag", "")
    return " ".join((etag if etag.startswith('"') else response.headers.get("Last-Modified", "")).split())


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.note")


def _kept(part: Path, address: str) -> tuple[int, str, int]:
    """Say how many bytes of `address` an earlier attempt left, of which version, of how many in all."""
    try:
        origin, version, total = _note(part).read_text("utf-8").split("\n")
        if origin == address and _size(part) <= int(total):
            return _size(part), version, int(total)
    except (OSError, ValueError):
        pass  # no note, or a damaged one: start again
    return 0, "", 0


def _bytes_needed(archives: Iterable[Archive], folder: Path, url: str) -> int:
    """Estimate what is still to be written: the rest of the archives, and what is in them."""
    need, answers = 0, True
    for archive in archives:
        address, length = _address(url, archive), archive.size
        if length is None and answers:
            try:
                with _open(address, {}, method="HEAD") as response:
                    length = _length(response)
            except (DownloadError, _RetryableError) as error:
                answers = isinstance(error, DownloadError)  # it may know no HEAD; fetch asks again
        kept = max(_size(folder / archive.file), _kept(folder / f"{archive.file}.part", address)[0])
        need += max(0, (length or 0) - kept) + int(UNPACKED * (length or 0))
    return need


def _ask_for_room(folder: Path, need: int) -> None:
    disk = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(disk).free
    if need > free:
        raise DownloadError(
            f"{folder}: about {need:,} bytes are needed, {free:,} are free; make room or give another root"
        )


def _address(url: str, archive: Archive | File) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9\[][!-~]*", url):
        raise ValueError(f"url is {url!r}; expected an http:// or https:// address such as {URL}")
    urlsplit(url).port  # noqa: B018  raises ValueError where it is no number
    return f"{url.rstrip('/')}/{archive.file}"


def _marker(root: Path, archive: Archive) -> Path:
    return root / "archives" / f"{archive.name}.unpacked"


def _finished(root: Path, archive: Archive) -> bool:
    marker = _marker(root, archive)
    return (
        marker.exists()
        and (archive.sha256 is None or marker.read_text("utf-8") == archive.sha256)
        and (root / archive.folder).is_dir()
    )


def _sums(folder: Path) -> dict[str, str]:
    """Read SHA256SUMS (lines as sha256sum writes them: hash, two spaces, file name) as {file name: hash}."""
    path = folder / SUMS
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {name: found for found, _, name in (line.partition("  ") for line in lines)}


def _record(folder: Path, archive: Archive | File, found: str | None) -> None:
    sums = {**_sums(folder), archive.file: found}
    with replacing(folder / SUMS, "w") as file:
        file.writelines(f"{value}  {name}\n" for name, value in sums.items() if value)


def _set_aside(path: Path) -> str:
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    return f"set aside as {aside}, run again to fetch it anew"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
