"""Downloads from a server on this machine that cuts, lies, hangs and redirects."""
import hashlib
import http.server
import resource
import shutil
import socket
import threading
import time
from collections import namedtuple
from types import SimpleNamespace

import pytest

from lib.errors import CourseError
from lib.models import download as module
from lib.models.download import download

BAD_LOCATIONS = {"/bracket": "http://[::bad", "/dots": "http://a..b/x", "/label": f"http://{'a' * 70}.b/x"}
DATA = bytes(range(256)) * 40                                      # 10,240 bytes


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        site, asked = self.server.site, self.headers.get("Range")
        site.asked.append((self.path, asked, self.headers.get("If-Range")))
        if self.path == "/there":
            return self.answer(302, {"Location": "/file"})
        if self.path == "/loop":
            return self.answer(302, {"Location": "/loop"})
        if self.path == "/page":
            return self.answer(200, {"Content-Type": "text/html", "Content-Length": "4"}, b"<p/>")
        if self.path == "/long":
            return self.answer(200, {}, DATA)
        if self.path == "/silent":
            return site.release.wait(10)
        if self.path in BAD_LOCATIONS:
            return self.answer(302, {"Location": BAD_LOCATIONS[self.path]})
        if self.path == "/empty":
            return self.answer(200, {"Content-Length": "0"})
        if self.path == "/unasked":
            return self.answer(206, {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}, DATA)
        if self.path != "/file":
            return self.answer(404, {"Content-Length": "0"})
        start = 0
        if asked and site.ranges and self.version_asked() == site.version:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(site.data):
                return self.answer(416, {"Content-Length": "0"})
        headers = {"Content-Length": str(len(site.data) - start), site.header: site.version}
        if start:
            headers["Content-Range"] = f"bytes {start + site.shift}-{len(site.data) - 1}/{len(site.data) + site.grown}"
        cut = site.cuts.pop(0) if site.cuts else None
        self.answer(206 if start else 200, headers, site.data[start:][:cut])
        if cut is not None and site.hang:
            site.release.wait(10)

    def version_asked(self):
        return self.headers.get("If-Range")

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    """What the server does next; `asked` is what it was asked."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.site = SimpleNamespace(data=DATA, version='"one"', header="ETag", ranges=True, cuts=[], hang=False, shift=0, grown=0,
                                  asked=[], release=threading.Event(), root=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.site
    server.site.release.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "weights.pth"


def left(path) -> set[str]:
    return {p.name for p in path.parent.iterdir() if not p.name.startswith(".")}


def refused(site, path, what: str, address: str = "/file", **settings) -> str:
    with pytest.raises(CourseError) as error:
        download(site.root + address, path, by_hand=f"put it at {path}", **settings)
    message = str(error.value)
    assert what in message and site.root + address in message and str(path) in message and "\n" not in message
    assert not path.exists()
    return message


# ----------------------------------------------------------------------------------------------------------- it arrives

@pytest.mark.parametrize("address", ["/file", "/there"])
def test_a_file_arrives_and_leaves_nothing_beside_it(site, path, address):
    download(site.root + address, path)
    assert path.read_bytes() == DATA and left(path) == {"weights.pth"}
    site.asked.clear()
    download(site.root + address, path)                            # it is there
    assert not site.asked


def test_a_cut_download_goes_on_where_it_stopped(site, path):
    site.cuts = [3000, 500]
    download(site.root + "/file", path, size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest()[:8])
    assert path.read_bytes() == DATA and left(path) == {"weights.pth"}
    assert [(asked, version) for _, asked, version in site.asked] == [
        (None, None), ("bytes=3000-", '"one"'), ("bytes=3500-", '"one"')]


def test_what_was_fetched_is_kept_for_the_next_time(site, path):
    site.cuts = [1000] * 5
    message = refused(site, path, "broke off 5 times (after 5,000 of 10,240 bytes)")
    assert "goes on from there" in message
    assert (path.parent / "weights.pth.part").read_bytes() == DATA[:5000]
    site.asked.clear()
    download(site.root + "/file", path)
    assert path.read_bytes() == DATA and [asked for _, asked, _ in site.asked] == ["bytes=5000-"]


def test_a_whole_part_needs_no_server(site, path):
    site.cuts = [len(DATA) - 1] + [0] * 4
    refused(site, path, "broke off")
    with open(path.parent / "weights.pth.part", "ab") as file:
        file.write(DATA[-1:])
    site.asked.clear()
    download(site.root + "/file", path, size=len(DATA))
    assert path.read_bytes() == DATA and not site.asked


@pytest.mark.parametrize("version", ['"one"', 'W/"weak"', ""])
def test_another_version_begins_anew(site, path, version):
    site.version, site.cuts = version, [1000, *[0] * 4]
    refused(site, path, "broke off")
    site.data = DATA[::-1]
    site.version = '"two"' if version == '"one"' else version      # where no strong tag tells, the bytes may be others too
    download(site.root + "/file", path)
    assert path.read_bytes() == site.data


def test_a_part_of_another_version_is_not_joined_to_ours(site, path, monkeypatch):
    """From a server that goes on though it was told to do so only if nothing has changed."""
    site.cuts = [1000, *[0] * 4]
    refused(site, path, "broke off")
    monkeypatch.setattr(Handler, "version_asked", lambda handler: handler.server.site.version)
    site.data, site.version = DATA[::-1], '"two"'
    download(site.root + "/file", path)
    assert path.read_bytes() == site.data


@pytest.mark.parametrize("notes", ["[]", "null", '{"size": "x", "version": "a"}', '{"size": 10240, "version": [1]}',
                                   '{"size": 10240, "version": "a\\r\\nX: y"}', "\\xff"])
def test_damaged_notes_begin_anew(site, path, notes):
    path.parent.mkdir()
    (path.parent / "weights.pth.part").write_bytes(b"something")
    (path.parent / "weights.pth.part.json").write_text(notes)
    download(site.root + "/file", path)
    assert path.read_bytes() == DATA and left(path) == {"weights.pth"}


def test_a_server_without_ranges_begins_anew(site, path):
    site.ranges, site.cuts = False, [1000]
    download(site.root + "/file", path)
    assert path.read_bytes() == DATA and site.asked[-1][1] == "bytes=1000-"


def test_a_date_does_where_there_is_no_tag(site, path):
    site.header, site.version, site.cuts = "Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT", [1000]
    download(site.root + "/file", path)
    assert path.read_bytes() == DATA and site.asked[-1][1:] == ("bytes=1000-", site.version)


def test_a_file_that_shrank_or_grew_begins_anew(site, path):
    site.cuts = [5000, *[0] * 4]
    refused(site, path, "broke off")
    site.data = b"short"                                           # 416: the same tag, though a part is longer than it
    download(site.root + "/file", path)
    assert path.read_bytes() == b"short"
    path.unlink()
    site.data, site.cuts, site.grown = DATA, [5000], 7             # a part of a longer file, under the same tag
    download(site.root + "/file", path)
    assert path.read_bytes() == DATA and [asked for _, asked, _ in site.asked[-3:]] == [None, "bytes=5000-", None]


def test_two_at_once_fetch_once(site, path):
    threads = [threading.Thread(target=download, args=(site.root + "/file", path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert path.read_bytes() == DATA and len(site.asked) == 1


# ----------------------------------------------------------------------------------------------------------- it does not

def test_a_wrong_hash_is_not_kept(site, path):
    refused(site, path, "expected 1234abcd", sha256="1234abcd")
    assert left(path) == set()


def test_a_wrong_size_is_not_kept(site, path):
    refused(site, path, "gives a file of 10,240 bytes, expected 10,241", size=10_241)
    assert left(path) == set()


@pytest.mark.parametrize(("address", "what"), [
    ("/nowhere", "answers 404 Not Found"), ("/loop", "answers 302"), ("/page", "gives a web page instead of the file"),
    ("/long", "does not say how long the file is"), ("/silent", "timed out"),
    ("/empty", "gives an empty file"), ("/unasked", "gives another part of the file"),
    *((address, "could not reach") for address in BAD_LOCATIONS)])
def test_answers_that_are_no_file(site, path, address, what):
    refused(site, path, what, address)
    assert left(path) == set()


def test_the_wrong_part_is_refused(site, path):
    site.cuts, site.shift = [1000], 1
    refused(site, path, "gives another part of the file")


def test_a_server_that_falls_silent_on_the_way(site, path, monkeypatch):
    monkeypatch.setattr(module, "CONNECTIONS", 2)
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    site.cuts, site.hang = [1000, 1000], True
    started = time.monotonic()
    refused(site, path, "broke off 2 times (")
    assert (path.parent / "weights.pth.part").stat().st_size == 2000 and time.monotonic() - started < 5


def test_no_server_at_all(path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))                               # and does not listen
        there = SimpleNamespace(root=f"http://127.0.0.1:{taken.getsockname()[1]}")
        refused(there, path, "could not reach")


# ------------------------------------------------------------------------------------------------------------- the disk

def test_no_room(site, path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(10_239))
    with pytest.raises(CourseError, match="has no room for the 10,240 bytes still to come"):
        download(site.root + "/file", path)
    assert not path.exists() and site.asked


def test_a_disk_that_fills_up(site, path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CourseError, match=r"could not write .*weights\.pth \(File too large\); COURSE_DATA names another"):
            download(site.root + "/file", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()
    download(site.root + "/file", path)
    assert path.read_bytes() == DATA


def test_a_folder_that_is_none(site, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CourseError, match=r"could not write .*weights\.pth"):
        download(site.root + "/file", tmp_path / "cache" / "weights.pth")
