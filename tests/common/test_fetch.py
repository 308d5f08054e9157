"""Everything a bad connection or a bad server can do, done by a server of our own on 127.0.0.1."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from metlib.common import fetch as fetching
from metlib.common.fetch import DamagedFile, DownloadError, File, fetch
from tests.servers import Site

pytestmark = pytest.mark.usefixtures("naps")

BIG = os.urandom(200_000)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def serve(site: Site, content: bytes, known: bool = True) -> File:
    """Serve a file whose size and hash are known beforehand, or not."""
    site.files["photos.tar"] = content
    return File("photos.tar", len(content), hashlib.sha256(content).hexdigest()) if known else File("photos.tar")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"file": "../x"}, "file name is '../x'; expected letters"),
        ({"file": ".hidden"}, "file name"),
        ({"file": "a/b"}, "file name"),
        ({"file": ""}, "file name"),
        ({"file": "x" * 252}, "file name"),
        ({"file": "x", "size": 0}, "x: size is 0; expected a positive number"),
        ({"file": "x", "sha256": "beef"}, "expected 8 to 64 lower-case digits"),
        ({"file": "x", "sha256": "DEADBEEF"}, "expected 8 to 64"),
        ({"file": "x", "sha256": "0" * 65}, "expected 8 to 64"),
    ],
)
def test_file_is_checked(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        File(**bad)
    assert File("swav_800ep.pth.tar", 5, "ca06340c").file == "swav_800ep.pth.tar"


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1:1/x"])
def test_redirects_stay_on_http(location, site, tmp_path) -> None:
    site.location = location
    with pytest.raises(DownloadError):
        fetch(File("photos.tar"), tmp_path, site.url)
    assert not list(tmp_path.rglob("*.tar"))


def test_progress_renews_patience(site, monkeypatch, tmp_path) -> None:
    file = serve(site, BIG)
    monkeypatch.setattr(fetching, "STEP", 10_000)
    site.cuts = [10_000] * 15
    fetch(file, tmp_path, site.url)
    assert len(site.gets) == 16 and site.sent == len(BIG)


def test_a_server_without_ranges_starts_again_and_cannot_hold_us(site, monkeypatch, tmp_path) -> None:
    file = serve(site, BIG)
    monkeypatch.setattr(fetching, "STEP", 10_000)
    site.ranges, site.cuts = False, [150_000]
    assert fetch(file, tmp_path, site.url).read_bytes() == BIG
    assert site.sent == len(BIG) + 150_000
    site.cuts, site.asked = [150_000] * 20, []
    with pytest.raises(DownloadError, match="gave up"):
        fetch(file, tmp_path / "other", site.url)
    assert len(site.asked) == fetching.ATTEMPTS


@pytest.mark.parametrize("heed", [True, False])
@pytest.mark.parametrize("mark", ["etag", "modified", "length"])
def test_a_file_that_changed_meanwhile_starts_again(mark, heed, site, tmp_path) -> None:
    """Some servers heed If-Range; of others ETag, date or length give the new file away."""
    one = {"etag": '"one"', "modified": "Mon, 01 Jan 2024 00:00:00 GMT", "length": ""}[mark]
    two = {"etag": '"two"', "modified": "Tue, 02 Jan 2024 00:00:00 GMT", "length": ""}[mark]
    site.etag, site.heed = 'W/"weak"', heed  # a weak ETag is not for If-Range
    setattr(site, mark if one else "etag", one)
    new = BIG[::-1] + b"more" * (mark == "length")
    file = serve(site, BIG, known=False)
    site.cuts, site.statuses = [100_000], [200] + [503] * (fetching.ATTEMPTS - 1)
    with pytest.raises(DownloadError, match="503"):
        fetch(file, tmp_path, site.url)
    site.files["photos.tar"] = new
    setattr(site, mark if two else "etag", two)
    assert fetch(file, tmp_path, site.url).read_bytes() == new
    assert ("GET", "photos.tar", "bytes=100000-", one) in site.gets


def test_a_file_that_shrank_starts_again(site, tmp_path) -> None:
    """No ETag, no date: the server answers 416 to a range behind the end."""
    site.etag = ""
    file = serve(site, BIG, known=False)
    site.cuts, site.statuses = [100_000], [200] + [503] * (fetching.ATTEMPTS - 1)
    with pytest.raises(DownloadError):
        fetch(file, tmp_path, site.url)
    small = site.files["photos.tar"] = b"small"
    assert fetch(file, tmp_path, site.url).read_bytes() == small
    assert [row[2] for row in site.gets[-2:]] == ["bytes=100000-", ""]


def test_a_part_without_its_note_or_of_another_address_is_not_trusted(site, tmp_path) -> None:
    file = serve(site, BIG)
    part = tmp_path / "photos.tar.part"
    for note in (
        None,
        "junk",
        f"http://elsewhere/photos.tar\n\n{len(BIG)}",
        f"{site.url}photos.tar\n\nx",
    ):
        part.write_bytes(b"rubbish")
        if note:
            part.with_name(f"{part.name}.note").write_text(note)
        path = fetch(file, tmp_path, site.url)
        assert path.read_bytes() == BIG and [row[2] for row in site.gets] == [""]
        site.asked.clear()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["SHA256SUMS", "photos.tar"]
        path.unlink()


def test_a_part_that_is_whole_asks_nothing(site, tmp_path) -> None:
    file = serve(site, BIG)
    (tmp_path / "photos.tar.part").write_bytes(BIG)
    (tmp_path / "photos.tar.part.note").write_text(f'{site.url}photos.tar\n"one"\n{len(BIG)}')
    assert fetch(file, tmp_path, site.url).read_bytes() == BIG and not site.asked


def test_nobody_there(tmp_path, naps) -> None:
    with pytest.raises(DownloadError, match="gave up after 6 attempts, the last: no answer"):
        fetch(File("photos.tar"), tmp_path, "http://127.0.0.1:1/")
    assert len(naps) == fetching.ATTEMPTS - 1


def test_a_length_that_is_not_the_known_one_stops_before_the_download(site, tmp_path) -> None:
    file = serve(site, BIG)
    site.length = len(BIG) + 1
    with pytest.raises(DamagedFile, match=f"expected bytes {len(BIG)}, found {len(BIG) + 1}"):
        fetch(file, tmp_path, site.url)


def test_leading_digits_of_a_hash_are_enough_and_are_checked(site, tmp_path) -> None:
    site.files["net.pth.tar"] = BIG
    found = hashlib.sha256(BIG).hexdigest()
    for digits in (8, 9, 64):
        folder = tmp_path / str(digits)
        file = File("net.pth.tar", sha256=found[:digits])
        assert fetch(file, folder, site.url) == folder / "net.pth.tar"
        assert tree(folder) == {"net.pth.tar": BIG, "SHA256SUMS": f"{found}  net.pth.tar\n".encode()}
    asked = len(site.asked)
    assert fetch(file, folder, site.url).read_bytes() == BIG and len(site.asked) == asked  # checked, not fetched
    for wrong in (found[1:10], found[:8] + ("1" if found[8] == "0" else "0")):  # not leading, one digit off
        folder = tmp_path / wrong
        with pytest.raises(DamagedFile, match=f"net.pth.tar: expected SHA-256 {wrong}, found {found}; set aside"):
            fetch(File("net.pth.tar", sha256=wrong), folder, site.url)
        assert [path.name for path in folder.iterdir()] == ["net.pth.tar.damaged"]
