"""One large file over HTTP: with a progress bar, resumed where it stopped, and under its name only once it is whole."""
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from lib import locks
from lib.errors import CourseError

TIMEOUT = 30                           # seconds without a byte
CONNECTIONS = 5                        # that may break before we give up; what has come so far is kept
NETWORK = (OSError, http.client.HTTPException)                    # what urllib raises; URLError is an OSError


class Broken(Exception):
    """The connection ended before the file did."""


def download(address: str, path: Path, size: int | None = None, sha256: str = "", by_hand: str = "") -> None:
    """Fetch a file to `path`, unless it is there; a second process that wants the same waits and finds it.

    What has come lies in `path`.part meanwhile, and goes on from there the next time if the server's file is still the
    same. size: bytes expected, if known. sha256: the expected hash, or its first characters, as publishers give them.
    by_hand: what to do instead, for the messages. Raises CourseError, in one line, for an address that does not answer or
    answers with something else, a size or a hash that is not the expected one (nothing is kept then), and a disk that is
    full or may not be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f".{path.name}.lock"), "w") as lock:
            locks.take(lock, "two processes that download one file would spoil it")
            if not path.exists():
                partial = path.with_name(f"{path.name}.part")
                _complete(address, partial, size, by_hand)
                digest = sha256_of(partial)
                if not digest.startswith(sha256):
                    _discard(partial)
                    raise CourseError(f"what {address} gave has the SHA-256 {digest}, expected {sha256}: damaged on the way or "
                                      f"replaced, and not kept; {by_hand}")
                _notes(partial).unlink(missing_ok=True)
                os.replace(partial, path)
    except OSError as error:
        raise CourseError(f"could not write {path} ({error.strerror or error}); COURSE_DATA names another folder for "
                          "downloads") from None


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _complete(address: str, partial: Path, size: int | None, by_hand: str) -> None:
    """Bring the partial file to its full length, over several connections if need be."""
    broken = ""
    for _ in range(CONNECTIONS):
        try:
            return _go_on(address, partial, size, by_hand)
        except Broken as error:
            broken = str(error)
    raise CourseError(f"{address} broke off {CONNECTIONS} times ({broken}); the same command goes on from there, or {by_hand}")


def _go_on(address: str, partial: Path, size: int | None, by_hand: str) -> None:
    """One connection: fetch what the partial file lacks. Raises Broken where it ends too early."""
    known = _read_notes(partial)
    start = partial.stat().st_size if known else 0
    if known and start == known["size"] == (size or start):
        return
    headers = {"User-Agent": "what-vits-learn", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["version"]}
    with _connect(address, headers, partial, by_hand) as response:
        total, resumed = _length(response, start, address, by_hand)
        if size is not None and total != size:
            _discard(partial)
            raise CourseError(f"{address} gives a file of {total:,} bytes, expected {size:,}: it was replaced, and is not "
                              f"kept; {by_hand}")
        if resumed and (total != known["size"] or _version(response.headers) not in ("", known["version"])):
            _discard(partial)
            raise Broken("another file than before")
        if not total:
            raise CourseError(f"{address} gives an empty file; {by_hand}")
        start = start if resumed else 0
        if shutil.disk_usage(partial.parent).free < total - start:
            raise CourseError(f"{partial.parent} has no room for the {total - start:,} bytes still to come from {address}; "
                              "make room, or name another folder in COURSE_DATA")
        if not resumed:
            _discard(partial)
            _notes(partial).write_text(json.dumps({"size": total, "version": _version(response.headers)}))
        with open(partial, "ab") as file, tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=None,
                                               desc=partial.stem, leave=False) as bar:
            while block := _read(response):
                file.write(block)
                bar.update(len(block))
    if partial.stat().st_size != total:
        raise Broken(f"after {partial.stat().st_size:,} of {total:,} bytes")


def _connect(address: str, headers: dict[str, str], partial: Path, by_hand: str):
    try:
        return urlopen(Request(address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and "Range" in headers:                               # our part does not fit this file
            _discard(partial)
            raise Broken("another file than before") from None
        raise CourseError(f"{address} answers {error.code} {_reason(error)}; {by_hand}") from None
    except (*NETWORK, ValueError) as error:                        # ValueError: it sends us on to what is no address
        raise CourseError(f"could not reach {address} ({_reason(error)}); {by_hand}") from None


def _length(response, start: int, address: str, by_hand: str) -> tuple[int, bool]:
    """-> bytes of the whole file, whether the server goes on where we stopped."""
    if response.headers.get_content_type() == "text/html":                         # a page that asks to log in or to confirm
        raise CourseError(f"{address} gives a web page instead of the file; {by_hand}")
    if response.status == 206:
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not part or int(part[1]) != start or not start:
            raise CourseError(f"{address} gives another part of the file than the one asked for; {by_hand}")
        return int(part[2]), True
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        raise CourseError(f"{address} does not say how long the file is, so nothing would show that it is whole; {by_hand}")
    return int(length), False


def _version(headers) -> str:
    """What tells whether the server's file is still the same: it must stand for the bytes, as a weak ETag does not."""
    tag = headers.get("ETag") or "W/"
    return headers.get("Last-Modified") or "" if tag.startswith("W/") else tag


def _read(response) -> bytes:
    try:
        return response.read1(1 << 20)
    except NETWORK as error:
        raise Broken(_reason(error)) from None


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__


def _notes(partial: Path) -> Path:
    """Beside a partial file: how long the whole is, and which version of it the server gave."""
    return partial.with_name(f"{partial.name}.json")


def _read_notes(partial: Path) -> dict | None:
    """The notes of a partial file that can be gone on with, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        notes = json.loads(_notes(partial).read_text())
        plain = type(notes["size"]) is int and type(notes["version"]) is str and notes["version"].isprintable()
        if plain and notes["version"] and 0 < partial.stat().st_size <= notes["size"]:
            return notes
    return None


def _discard(partial: Path) -> None:
    for path in (partial, _notes(partial)):
        path.unlink(missing_ok=True)
