"""What the course's command lines share: flags made from a dataclass, and errors that are one line."""
import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import fields

from lib.errors import CourseError


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says every default but None, of which the help speaks itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, without the whole usage before it."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, formatter_class=Help, **settings)

    def error(self, message: str):
        print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def add_fields(parser: argparse.ArgumentParser, defaults) -> None:
    """A flag for every field of a dataclass instance: `learning_rate` becomes --learning-rate."""
    for f in fields(defaults):
        value, flag = getattr(defaults, f.name), "--" + f.name.replace("_", "-")
        settings = {"dest": f.name, "default": value, "help": f.metadata.get("help", "")}
        if isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **settings)
        else:
            parser.add_argument(flag, type=f.type, choices=f.metadata.get("choices") or None,
                                metavar=None if f.metadata.get("choices") else f.type.__name__.upper(), **settings)


def end_early(what: str) -> None:
    """From now on SIGTERM writes one line and ends with 75: not done, worth starting again, as a cluster does. Ctrl-C ends
    with `interrupted`, until `main` begins.

    At once, for an exception may come where a thread holds a lock. Whoever calls this writes files whole or not at all.
    """
    def end(*_) -> None:
        os.write(2, f"\n{what}\n".encode())
        os._exit(os.EX_TEMPFAIL)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(*_) -> None:
    os.write(2, b"\ninterrupted\n")
    os._exit(130)


def main(program: Callable[[], None]) -> None:
    """Run a program: what the user got wrong becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")                                   # a terminal that cannot show λ or ≈
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        program()
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:                                                        # who read the output has gone
        sys.stdout = sys.stderr = open(os.devnull, "w")                            # noqa: SIM115, Python flushes them later
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            print(f"error: a name is too long: {str(error.filename)[:60]}...", file=sys.stderr)
            raise SystemExit(2) from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(f"error: {error.filename or 'a file'} could not be written: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    except (RuntimeError, MemoryError) as error:                                   # PyTorch's word for it, on any device
        if "Could not determine home directory" in str(error):                     # Python's word for ~nobody
            print("error: a path begins with ~ and a name that no user of this machine has; write it out", file=sys.stderr)
            raise SystemExit(2) from None
        if not isinstance(error, MemoryError) and "out of memory" not in str(error) and "allocate memory" not in str(error):
            raise
        print("error: not enough memory; take smaller batches, smaller images or fewer of them", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
