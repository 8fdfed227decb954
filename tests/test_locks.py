"""Locks: another process is noticed, and a file system without locks is one line of warning and no end."""
import errno
import fcntl
import os

import pytest

from lib import locks
from lib.data.images import _alone
from lib.errors import CourseError
from lib.models.download import download
from lib.training import log


def test_one_holds_it_at_a_time(tmp_path, capsys):
    with open(tmp_path / "lock", "w") as first, open(tmp_path / "lock", "w") as second:
        locks.take(first, "")
        with pytest.raises(BlockingIOError):
            locks.take(second, "", wait=False)
        first.close()
        locks.take(second, "", wait=False)
    assert capsys.readouterr().err == ""
    with log.alone(tmp_path), pytest.raises(CourseError, match="another run is writing"), log.alone(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_it_warns_in_one_line_and_goes_on(tmp_path, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "file").write_text("here already")
    for user, said in ((lambda: log.alone(tmp_path), "two runs in one folder would not be noticed"),
                       (lambda: _alone(tmp_path), "python -m lib.data pack"),
                       (lambda: download("http://nowhere", tmp_path / "file"), "two processes that download one file")):
        inside = user()
        if inside:
            with inside:
                pass
        warned = capsys.readouterr().err
        assert warned.count("\n") == 1 and warned.startswith(f"note: the file system of {tmp_path}") and said in warned
        assert os.strerror(number) in warned


def test_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken disk"), log.alone(tmp_path):
        pass
