"""The Met's own archives: fetched, checked, and unpacked all or nothing.

`<root>/archives` keeps the archives while they are needed, SHA256SUMS (what arrived) and a marker for each finished
archive. Whatever the server sends is hostile until checked.
"""

import gzip
import os
import shutil
import tarfile
import zlib
from itertools import dropwhile
from pathlib import Path, PurePosixPath

from metlib.common.fetch import DamagedFile, DownloadError, File, check_space, fetch, read_sums, remaining, set_aside
from metlib.common.files import replacing, sync_folder
from metlib.common.progress import track

URL = "http://ptak.felk.cvut.cz/met/dataset/"
UNPACKED = 1.25  # bytes on disk per byte of an archive: JPEGs hardly compress, file systems round up
RATIO, FLOOR = 50, 1 << 26  # an honest archive unpacks to less than RATIO times itself or less than FLOOR
MEMBERS, HEADER = 2_000_000, 1 << 22  # members at most (the Met has 397,121 images); bytes between two
BLOCK = 1 << 18  # bytes read and written at a time


class Archive(File):
    """A `<name>.tar.gz` of the dataset, with its size in bytes and its hash where they are known."""

    @property
    def name(self) -> str:
        """The name without `.tar.gz`."""
        return self.file.removesuffix(".tar.gz")

    @property
    def folder(self) -> Path:
        """Where its files belong under the root: the ground truth calls both MET archives `MET/`."""
        folders = {"ground_truth": "ground_truth", "small_MET": "images/MET"}
        return Path(folders.get(self.name, f"images/{self.name}"))


_KNOWN = (
    Archive("ground_truth.tar.gz"),
    Archive("test_met.tar.gz", 34_048_842, "2bc9b2e906d5fc69c4c136860b42604ef867b69ada10f1e08aa49175cbe08a35"),
    Archive("test_other.tar.gz"),
    Archive("test_noart.tar.gz"),
    Archive("small_MET.tar.gz", 2_865_082_125, "0cf5736dee3eac8598daa1a929723834abcb037d57d3f0f0f58018f4bfa9a916"),
    Archive("MET.tar.gz"),
)
ARCHIVES = {archive.name: archive for archive in _KNOWN}
PARTS: dict[str, tuple[str, ...]] = {
    "mini": ("ground_truth", "test_met", "test_other", "test_noart", "small_MET"),
    "full": ("ground_truth", "test_met", "test_other", "test_noart", "MET"),
    **{name: (name,) for name in ARCHIVES},
}


def download(root: str | Path, part: str = "mini", *, url: str = URL, keep_archives: bool = False) -> Path:
    """Fetch and unpack one part of the Met under `root`, skipping what is finished; return `root`.

    `part` is a key of PARTS. The same call goes on where a stopped download was. Raises ValueError for an unknown part
    or a URL that isn't http(s); DamagedFile for an archive that fails a check (it is set aside as `*.damaged`);
    DownloadError where the server refuses, the disk is too small, or `root` holds other data.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    root, archives = Path(root), Path(root, "archives")
    if not archives.is_dir() and any((root / name).exists() for name in ("ground_truth", "images")):
        raise DownloadError(
            f"{root}: holds data that this download didn't make; give a new root (or, if it's the Met, make {archives})"
        )
    todo = [ARCHIVES[name] for name in PARTS[part] if not _finished(root, ARCHIVES[name])]
    sizes = [remaining(archive, archives, url) for archive in todo]
    check_space(root, sum(rest + int(UNPACKED * total) for total, rest in sizes))
    for archive in todo:
        path = fetch(archive, archives, url)
        try:
            unpack(path, root / archive.folder)
        except DamagedFile as error:
            raise DamagedFile(f"{error}; {set_aside(path, forget=True)}") from error
        with replacing(archives / f"{archive.name}.unpacked", "w") as file:
            file.write(read_sums(archives)[archive.file])
        if not keep_archives:
            path.unlink()
    return root


def _finished(root: Path, archive: Archive) -> bool:
    marker = root / "archives" / f"{archive.name}.unpacked"
    known = marker.exists() and marker.read_text("utf-8").startswith(archive.sha256 or "")
    return known and (root / archive.folder).is_dir()


def unpack(path: str | Path, folder: str | Path) -> None:
    """Unpack a .tar.gz into `folder`, all or nothing; an existing `folder` keeps its other files.

    Leading `./`, `<archive name>/` and `<folder name>/` are taken off: for small_MET into images/MET,
    `small_MET/1/0.jpg`, `MET/1/0.jpg` and `1/0.jpg` are all `images/MET/1/0.jpg`. Raises DamagedFile for links,
    devices, names that leave the folder, broken data and bombs; DownloadError where the disk is too small.
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
        raise DamagedFile(f"{path}: not a whole .tar.gz ({type(error).__name__}: {error})") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedFile(f"{path}: one name is a file and a folder ({error})") from error
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
    """Write the files of an archive into `fresh`; members are bounded in number, size and kind."""
    size, free = path.stat().st_size, shutil.disk_usage(fresh).free
    most, members = max(FLOOR, RATIO * size), 0
    with (
        track(total=size, label=f"unpack {path.name}", unit="B", scale=True) as bar,
        path.open("rb") as raw,
        _Ration(fileobj=raw) as plain,
        tarfile.open(fileobj=plain, mode="r|", bufsize=BLOCK, copybufsize=BLOCK) as tar,  # type: ignore[call-overload]
    ):
        while member := tar.next():
            tar.members.clear()  # 600,000 of them would stay in memory
            members += 1
            name, end = PurePosixPath(member.name), member.offset_data + member.size
            # tarfile's filter would take a leading slash off, and let `..` stay where it leads nowhere else.
            if name.is_absolute() or ".." in name.parts or set(member.name) & set("\\:\0"):
                raise DamagedFile(f"{path}: {member.name!r} leaves the folder; expected a path inside")
            if not (member.isdir() or member.isreg()) or member.issparse():
                raise DamagedFile(f"{path}: {member.name!r} is a link or device; expected a file")
            if end > most or members > MEMBERS:
                raise DamagedFile(f"{path}: a bomb: {end:,} bytes in {members:,} members or more")
            if end > free:
                raise DownloadError(f"{path}: unpacks to {end:,} bytes or more, {free:,} are free; make room")
            if member.isreg():
                if not (inside := "/".join(dropwhile(prefixes.__contains__, name.parts))):
                    raise DamagedFile(f"{path}: {member.name!r} is a file; expected a folder")
                plain.left = member.size + HEADER
                tar.extract(member.replace(name=inside, deep=False), fresh, set_attrs=False, filter="data")
            plain.left = HEADER
            bar.update(raw.tell() - bar.n)
        # tarfile ends quietly at a broken header, and before the checksum of the gzip: read on to the end.
        while rest := tar.fileobj.read(BLOCK):
            if rest.strip(b"\0"):
                raise DamagedFile(f"{path}: broken after {members:,} members")
    if not any(fresh.iterdir()):
        raise DamagedFile(f"{path}: holds no file")
