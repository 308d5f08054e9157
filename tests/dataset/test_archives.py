"""Everything a bad line or a bad server can do, done by a server of our own on 127.0.0.1."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from metlib.common import fetch as fetching
from metlib.common.fetch import DamagedFile, DownloadError, fetch
from metlib.dataset import archives
from metlib.dataset.archives import ARCHIVES, PARTS, Archive, download, unpack
from tests.servers import Site

pytestmark = pytest.mark.usefixtures("naps")

NOISE = os.urandom(200_000)  # doesn't compress, so that archives have a middle to be cut in


def packed(files: dict[str, bytes], *members: tarfile.TarInfo) -> bytes:
    """Pack files and bare members into the bytes of a .tar.gz."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in members:
            tar.addfile(info)
    return out.getvalue()


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def serve(site: Site, monkeypatch: pytest.MonkeyPatch, known: bool = True, **contents: bytes) -> None:
    """Serve archives under the Met's names and make their sizes and hashes the expected ones, or unknown."""
    for name, data in contents.items():
        site.files[f"{name}.tar.gz"] = data
        file = f"{name}.tar.gz"
        archive = Archive(file, len(data), hashlib.sha256(data).hexdigest()) if known else Archive(file)
        monkeypatch.setitem(ARCHIVES, name, archive)


BIG = packed({"test_met/a.jpg": NOISE})


def test_numbers_of_the_met() -> None:
    assert archives.URL == "http://ptak.felk.cvut.cz/met/dataset/"
    assert ARCHIVES["small_MET"].size == 2_865_082_125 and ARCHIVES["test_met"].size == 34_048_842
    assert ARCHIVES["MET"].sha256 is None
    assert PARTS["mini"][-1] == "small_MET" and PARTS["full"][-1] == "MET" and PARTS["MET"] == ("MET",)
    assert {str(a.folder) for a in ARCHIVES.values()} == {
        str(Path(p))
        for p in ("ground_truth", "images/MET", "images/test_met", "images/test_other", "images/test_noart")
    }


@pytest.mark.parametrize("bad", [{"file": "../x"}, {"file": "x", "size": 0}, {"file": "x", "sha256": "beef"}])
def test_archive_is_checked(bad: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Archive(**bad)


# ---- the whole way


def test_mini_lands_in_the_layout_and_a_second_run_asks_nothing(site, monkeypatch, tmp_path) -> None:
    """One archive with its folder's name, one with ./, one bare, one with the other name of its folder."""
    serve(
        site,
        monkeypatch,
        ground_truth=packed({"./ground_truth/testset.json": b"[]"}, member("./ground_truth", tarfile.DIRTYPE)),
        test_met=packed({"test_met/a.jpg": b"a"}),
        test_other=packed({"b.jpg": b"b"}),
        test_noart=packed({"./c.jpg": b"c"}),
        small_MET=packed(
            {"MET/1/0.jpg": b"1", "small_MET/2/0.jpg": b"2", "./small_MET/MET/3/0.jpg": b"3", "4/0.jpg": b"4"}
        ),
    )
    root = tmp_path / "met"
    assert download(root, url=site.url) == root
    images = tree(root / "images")
    assert tree(root / "ground_truth") == {"testset.json": b"[]"}
    assert images == {"test_met/a.jpg": b"a", "test_other/b.jpg": b"b", "test_noart/c.jpg": b"c"} | {
        f"MET/{i}/0.jpg": str(i).encode() for i in range(1, 5)
    }
    assert not list(root.rglob("*.tar.gz*")) and not list(root.rglob(".*"))
    assert len((root / "archives" / "SHA256SUMS").read_text().splitlines()) == 5
    asked = len(site.asked)
    download(root, url=site.url)
    assert len(site.asked) == asked
    shutil.rmtree(root / "images" / "test_other")  # what someone deletes comes back, and nothing else
    download(root, url=site.url, keep_archives=True)
    assert [row[1] for row in site.asked[asked:]] == ["test_other.tar.gz"] and tree(root / "images") == images
    assert (root / "archives" / "test_other.tar.gz").exists()


def test_full_after_mini_adds_to_the_same_folder(site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, small_MET=packed({"MET/1/0.jpg": b"1"}))
    serve(site, monkeypatch, known=False, MET=packed({"MET/1/0.jpg": b"1", "MET/2/0.jpg": b"2"}))
    download(tmp_path, "small_MET", url=site.url)
    download(tmp_path, "MET", url=site.url)
    assert tree(tmp_path / "images") == {"MET/1/0.jpg": b"1", "MET/2/0.jpg": b"2"}


def test_other_data_is_not_mixed_with_the_met(site, tmp_path) -> None:
    (tmp_path / "ground_truth").mkdir()
    with pytest.raises(DownloadError, match="holds data that this download didn't make"):
        download(tmp_path, url=site.url)
    assert not site.asked


def test_unknown_part_names_the_choices(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"'maxi'; expected one of mini, full, ground_truth"):
        download(tmp_path / "met", "maxi")
    assert not (tmp_path / "met").exists()


@pytest.mark.parametrize("url", ["file:///etc/", "ftp://x/", "http://", "http:// x/", "http://x:y/", "met/"])
def test_only_http(url, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"url is|[Pp]ort"):
        download(tmp_path, "test_met", url=url)


# ---- the line


def test_a_cut_line_goes_on_where_it_was(site, monkeypatch, tmp_path, naps, caplog) -> None:
    serve(site, monkeypatch, test_met=BIG)
    site.cuts = [70_000, 50_000]
    with caplog.at_level(logging.WARNING):
        download(tmp_path, "test_met", url=site.url)
    ranges = [row[2:] for row in site.gets]
    assert ranges == [("", ""), ("bytes=70000-", '"one"'), ("bytes=120000-", '"one"')]
    assert site.sent == len(BIG)  # nothing came twice
    assert naps == [1.0, 2.0] and "byte 70,000" in caplog.text
    assert tree(tmp_path / "images") == {"test_met/a.jpg": NOISE}


def test_attempts_are_bounded_and_the_next_call_goes_on(site, monkeypatch, tmp_path, naps) -> None:
    serve(site, monkeypatch, test_met=BIG)
    site.cuts = [1000] * fetching.ATTEMPTS
    with pytest.raises(DownloadError, match=r"gave up after 6 attempts.*6,000 bytes are kept"):
        download(tmp_path, "test_met", url=site.url)
    assert len(site.gets) == fetching.ATTEMPTS and naps == [1, 2, 4, 8, 16]
    assert not (tmp_path / "images").exists()
    download(tmp_path, "test_met", url=site.url)
    assert site.gets[-1][2] == "bytes=6000-" and site.sent == len(BIG)


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_had_and_no_half_folder(site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, known=False, test_met=BIG)
    site.cuts, site.stall = [120_000], threading.Event()
    code = f"from metlib.dataset.archives import *; download({str(tmp_path)!r}, 'test_met', url={site.url!r})"
    # In the child the real size of test_met must not count.
    code = "import metlib.dataset.archives as d; d.ARCHIVES['test_met'] = d.Archive('test_met.tar.gz'); " + code
    child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    part = tmp_path / "archives" / "test_met.tar.gz.part"
    try:
        for _ in range(1000):
            if part.exists() and part.stat().st_size:
                break
            threading.Event().wait(0.01)
    finally:
        child.kill()
        child.wait()
        site.stall.set()
    have = part.stat().st_size
    assert 0 < have <= 120_000 and not (tmp_path / "images").exists()
    site.stall = None
    download(tmp_path, "test_met", url=site.url)
    assert site.gets[-1][2] == f"bytes={have}-" and tree(tmp_path / "images") == {"test_met/a.jpg": NOISE}


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(status, site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, known=False, test_met=BIG)
    site.head, site.statuses = False, [status] * 9
    with pytest.raises(DownloadError, match=f"test_met.tar.gz: status {status}.*check url"):
        download(tmp_path, "test_met", url=site.url)
    assert len(site.gets) == 1


# ---- sizes, hashes, room


def test_lengths_that_lie_or_are_missing(site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, known=False, test_met=BIG)
    site.length = len(BIG) - 10
    with pytest.raises(DamagedFile, match=r"not a whole \.tar\.gz.*set aside as .*damaged, run again"):
        download(tmp_path, "test_met", url=site.url)
    assert not (tmp_path / "images" / "test_met").exists()
    site.length = len(BIG) + 10
    with pytest.raises(DownloadError, match="gave up"):
        download(tmp_path, "test_met", url=site.url)
    site.length = None
    with pytest.raises(DownloadError, match="doesn't say how long"):
        fetch(Archive("test_met.tar.gz"), tmp_path / "a", site.url)
    assert fetch(Archive("test_met.tar.gz", len(BIG)), tmp_path / "b", site.url).read_bytes() == BIG
    site.length = 0
    download(tmp_path, "test_met", url=site.url)  # the hash of the damaged one isn't held against the good one
    assert tree(tmp_path / "images") == {"test_met/a.jpg": NOISE}


def test_a_wrong_hash_is_set_aside_and_the_next_run_recovers(site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, test_met=BIG)
    site.files["test_met.tar.gz"] = bad = BIG[:-1] + bytes([BIG[-1] ^ 1])
    with pytest.raises(DamagedFile) as caught:
        download(tmp_path, "test_met", url=site.url)
    for word in ("test_met.tar.gz: expected SHA-256", hashlib.sha256(bad).hexdigest(), "run again"):
        assert word in str(caught.value)
    assert ARCHIVES["test_met"].sha256 in str(caught.value)
    assert [p.name for p in (tmp_path / "archives").iterdir()] == ["test_met.tar.gz.damaged"]
    site.files["test_met.tar.gz"] = BIG
    download(tmp_path, "test_met", url=site.url)
    assert tree(tmp_path / "images") == {"test_met/a.jpg": NOISE}


def test_an_unknown_hash_is_recorded_and_compared(site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, known=False, test_met=BIG)
    download(tmp_path, "test_met", url=site.url)
    sums = tmp_path / "archives" / "SHA256SUMS"
    assert sums.read_text() == f"{hashlib.sha256(BIG).hexdigest()}  test_met.tar.gz\n"
    shutil.rmtree(tmp_path / "images")
    site.files["test_met.tar.gz"] = packed({"b.jpg": b"b"})
    with pytest.raises(DamagedFile, match=r"SHA-256 as before .*delete its line in .*SHA256SUMS"):
        download(tmp_path, "test_met", url=site.url)
    sums.write_text("")
    download(tmp_path, "test_met", url=site.url)
    assert tree(tmp_path / "images") == {"test_met/b.jpg": b"b"}


@pytest.mark.parametrize("known", [True, False])
def test_disk_space_is_asked_first(known, site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, known=known, test_met=BIG, test_other=BIG)
    monkeypatch.setitem(PARTS, "two", ("test_met", "test_other"))
    need = 2 * (len(BIG) + int(len(BIG) * archives.UNPACKED))
    free = need - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(DownloadError, match=f"about {need:,} bytes are needed, {free:,} are free"):
        download(tmp_path / "met", "two", url=site.url)
    assert not site.gets and not (tmp_path / "met").exists()
    free = need
    download(tmp_path / "met", "two", url=site.url)


def test_disk_space_without_head(site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, known=False, test_met=BIG)
    site.head = False
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match=f"{len(BIG):,} bytes are needed, 1,000 are free"):
        download(tmp_path, "test_met", url=site.url)
    assert not list(tmp_path.rglob("*.part"))


# ---- unpacking

HOSTILE = {
    "dotdot": member("../evil", tarfile.REGTYPE),
    "deep dotdot": member("test_met/a/../../../evil", tarfile.REGTYPE),
    "dotdot folder": member("..", tarfile.DIRTYPE),
    "absolute": member("/tmp/evil", tarfile.REGTYPE),
    "symlink": member("evil", tarfile.SYMTYPE, "/etc"),
    "inner symlink": member("evil", tarfile.SYMTYPE, "a.jpg"),
    "hardlink": member("evil", tarfile.LNKTYPE, "/etc/passwd"),
    "inner hardlink": member("evil", tarfile.LNKTYPE, "test_met/a.jpg"),
    "device": member("evil", tarfile.CHRTYPE),
    "block device": member("evil", tarfile.BLKTYPE),
    "fifo": member("evil", tarfile.FIFOTYPE),
    "file for the folder": member("test_met", tarfile.REGTYPE),
    "file below a file": member("a.jpg/b.jpg", tarfile.REGTYPE),
    "nul": member("evil\0.jpg", tarfile.REGTYPE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_refused_and_leave_nothing(name, tmp_path) -> None:
    path, folder = tmp_path / "test_met.tar.gz", tmp_path / "root" / "images" / "test_met"
    if name == "nul":
        info = tarfile.TarInfo("x")
        info.pax_headers = {"path": "evil\0.jpg"}
        path.write_bytes(packed({"test_met/a.jpg": b"a"}, info))
    else:
        path.write_bytes(packed({"test_met/a.jpg": b"a"}, HOSTILE[name]))
    with pytest.raises(DamagedFile, match=r"test_met\.tar\.gz: "):
        unpack(path, folder)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not p.is_dir()) == [path.name]
    assert not list(folder.parent.iterdir())


@pytest.mark.slow
def test_damage_anywhere_is_an_error(tmp_path) -> None:
    """Cut at any place and with any byte flipped, the archive is refused or unpacks to exactly the same."""
    files = {f"test_met/{i}.jpg": NOISE[i * 100 : i * 100 + 90] for i in range(5)}
    good = packed(files)
    path, folder = tmp_path / "test_met.tar.gz", tmp_path / "images" / "test_met"
    refused = 0
    for place in range(0, len(good), 7):
        flipped = bytearray(good)
        flipped[place] ^= 0x55
        for data in (good[:place], bytes(flipped)):
            path.write_bytes(data)
            try:
                unpack(path, folder)
            except DamagedFile:
                refused += 1
                assert not folder.exists()
            else:  # the header of gzip has bytes without meaning
                assert tree(folder.parent) == files and data != good[:place]
                shutil.rmtree(folder)
    assert refused >= 2 * (len(good) // 7) - 4


def test_a_broken_header_in_a_sound_gzip_is_an_error(tmp_path) -> None:
    plain = bytearray(gzip.decompress(packed({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})))
    plain[1024 + 10] ^= 1  # the name of b.jpg
    path = tmp_path / "test_met.tar.gz"
    path.write_bytes(gzip.compress(bytes(plain)))
    with pytest.raises(DamagedFile, match="broken after 1 members"):
        unpack(path, tmp_path / "images")
    for junk in (b"", b"no tar at all", gzip.compress(b""), gzip.compress(b"x" * 2000), packed({})):
        path.write_bytes(junk)
        with pytest.raises(DamagedFile):
            unpack(path, tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_bombs(monkeypatch, tmp_path) -> None:
    path = tmp_path / "test_met.tar.gz"
    path.write_bytes(packed({"a.jpg": bytes(3_000_000)}))
    monkeypatch.setattr(archives, "FLOOR", 1_000_000)
    with pytest.raises(DamagedFile, match="bomb"):
        unpack(path, tmp_path / "x")
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"comment": "x" * 6_000_000}  # a header that would stay in memory
    path.write_bytes(packed({}, info))
    with pytest.raises(DamagedFile, match="bytes between two members"):
        unpack(path, tmp_path / "x")
    path.write_bytes(packed({f"{i}": b"" for i in range(4)}))
    monkeypatch.setattr(archives, "MEMBERS", 3)
    with pytest.raises(DamagedFile, match="4 members"):
        unpack(path, tmp_path / "x")
    path.write_bytes(BIG)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match="1,000 are free"):
        unpack(path, tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_stop_while_unpacking_leaves_no_half_folder(site, monkeypatch, tmp_path) -> None:
    serve(site, monkeypatch, test_met=packed({f"{i}.jpg": b"x" for i in range(4)}))
    extract, count = tarfile.TarFile.extract, iter(range(9))

    def stopped(self, *args, **kwargs):
        if next(count) == 2:
            raise KeyboardInterrupt
        return extract(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tarfile.TarFile, "extract", stopped)
        download(tmp_path, "test_met", url=site.url)
    assert not list((tmp_path / "images").iterdir())
    litter = tmp_path / "images" / ".test_met.unpacking"  # what a kill -9 leaves
    litter.mkdir()
    (litter / "half.jpg").write_bytes(b"ha")
    download(tmp_path, "test_met", url=site.url)
    assert sorted(tree(tmp_path / "images")) == [f"test_met/{i}.jpg" for i in range(4)]
    assert len(site.gets) == 1 and not litter.exists()


def test_images_may_live_behind_a_link(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "small_MET.tar.gz").write_bytes(packed({"small_MET/1/0.jpg": b"1"}))
    (tmp_path / "MET").symlink_to(tmp_path / "disk" / "pictures")
    unpack(tmp_path / "small_MET.tar.gz", tmp_path / "MET")
    assert tree(tmp_path / "disk") == {"pictures/1/0.jpg": b"1"}


def test_archive_values_are_frozen() -> None:
    with pytest.raises(AttributeError):
        ARCHIVES["MET"].size = 3  # type: ignore[misc]
    assert replace(ARCHIVES["MET"], size=3).size == 3
