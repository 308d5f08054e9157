"""A web server on 127.0.0.1 that misbehaves as a test asks, and no waiting for it: fixtures of several test modules."""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest


@dataclass
class Site:
    """What the server serves, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    head: bool = True
    length: int | None = 0  # what Content-Length claims: 0 the truth, None nothing
    cuts: list[int] = field(default_factory=list)  # body bytes that the next GETs send before the line is cut
    statuses: list[int] = field(default_factory=list)  # what the next GETs answer instead
    heed: bool = True  # If-Range
    stall: threading.Event | None = None  # holds the line open after a cut
    location: str = ""
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)  # method, file, Range, If-Range
    sent: int = 0

    @property
    def gets(self) -> list[tuple[str, str, str, str]]:
        return [row for row in self.asked if row[0] == "GET"]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    state = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(state.head)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, allowed: bool) -> None:
            name, asked = self.path.rsplit("/", 1)[1], self.headers.get("Range", "")
            state.asked.append((self.command, name, asked, self.headers.get("If-Range", "")))
            assert len(state.asked) < 60
            get = self.command == "GET"
            status = state.statuses.pop(0) if get and state.statuses else 200 if name in state.files else 404
            status = status if allowed else 405
            if state.location:
                status = 302
            if status != 200:
                self.send_response(status)
                self.send_header("Location", state.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            whole, start = state.files[name], 0
            fresh = not state.heed or self.headers.get("If-Range", state.etag) in (state.etag, state.modified)
            if asked and state.ranges and fresh:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(whole):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
            for key, value in (("ETag", state.etag), ("Last-Modified", state.modified)):
                if value:
                    self.send_header(key, value)
            if state.length is not None:
                self.send_header("Content-Length", str(state.length or len(whole) - start))
            self.end_headers()
            if get:
                body = whole[start : start + state.cuts.pop(0)] if state.cuts else whole[start:]
                self.wfile.write(body)
                self.wfile.flush()
                state.sent += len(body)
                if state.stall:
                    state.stall.wait(10)

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

    # The environment in which the tests run may send http through a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/met/dataset/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the waits instead of waiting, and leave the disks of a test machine unsynced."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(os, "sync", lambda: None)
    return waits
