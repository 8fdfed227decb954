"""A lock that one process holds at a time and the operating system takes back when the process ends, however it ends."""
import errno
import fcntl
import sys
from typing import IO

NONE_HERE = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)           # Lustre without -o flock, NFS without lockd


def take(file: IO, danger: str, wait: bool = True) -> None:
    """Hold the lock of an open file until it is closed. Raises BlockingIOError if another has it and `wait` is False.

    Where the file system knows no locks, one line on standard error says so, with the `danger` that follows from it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NONE_HERE:
            raise
        print(f"note: the file system of {file.name} has no locks ({error.strerror}): {danger}", file=sys.stderr, flush=True)
