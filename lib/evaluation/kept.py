"""Fine-tuning, and the training of linear heads, that was killed goes on.

Its state after an epoch is one file, written whole and read without running code.
"""
import contextlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from lib import distributed, locks
from lib.data.subset import Subset
from lib.errors import CourseError
from lib.training.checkpoint import read_checked, write_atomically


def fingerprint(network: nn.Module) -> int:
    """A checksum of all weights and their names."""
    checksum = 0
    for name, tensor in network.state_dict().items():
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
    return checksum


def fingerprint_of_images(source) -> int:
    """A checksum of all labels and all images; of a set that is read from the disk, of what its file says of them."""
    if isinstance(source, Subset):
        return zlib.crc32(source.kept.numpy(), fingerprint_of_images(source.source))
    checksum = zlib.crc32(source.labels(torch.arange(len(source))).cpu().numpy())
    if hasattr(source, "header"):
        return zlib.crc32(repr(source.header["checksums"]).encode(), checksum)
    for some in torch.arange(len(source)).split(4096):
        checksum = zlib.crc32(source.images(some).cpu().contiguous().numpy(), checksum)
    return checksum


def random_state(device: torch.device) -> list[torch.Tensor]:
    """Of PyTorch's global generators, from which drop path draws."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def check(folder: Path) -> None:
    """Raises CourseError if no state can be kept in a folder: told before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"cannot keep states in {folder}: {error.strerror}; name another folder") from None


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """No other evaluation may keep its state in the file meanwhile. Raises CourseError if one does, or if the folder cannot be
    written to."""
    if path is None or distributed.rank() != 0:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f"{path.name}.lock"), "w")      # noqa: SIM115, closed below
    except OSError as error:
        raise CourseError(f"cannot write to {path.parent}: {error.strerror}; keep states in another folder") from None
    with lock:
        try:
            locks.take(lock, "two evaluations that keep one state would not be noticed", wait=False)
        except BlockingIOError:
            raise CourseError(f"another evaluation keeps its state in {path}; wait for it, or keep states elsewhere") from None
        for left in path.parent.glob(f".{path.name}.*"):           # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        yield


def keep(path: Path, about: dict, state: dict) -> None:
    """Write the state, and of what it is, from the first process. Raises CourseError if the file cannot be written."""
    def write(temporary: Path) -> None:
        try:
            torch.save({"about": about} | state, temporary)
        except RuntimeError:                                       # PyTorch's word for it
            raise OSError("not all of it could be written; is the disk full?") from None

    if distributed.rank() == 0:
        write_atomically(path, write)


def go_on(path: Path, about: dict, load: Callable[[dict], int], end: int) -> int:
    """Load the state in a file with `load`, which gives the step or epoch it is of; -> that, or 0 where there is no file.

    Raises CourseError if it is damaged, or of another call, or if not all processes find the same.
    """
    begun = _loaded(path, about, load, end) if path.exists() else 0
    distributed.check_same({f"the place at which {path} goes on": begun})
    return begun


def _loaded(path: Path, about: dict, load: Callable[[dict], int], end: int) -> int:
    again = "delete it to begin anew"
    try:
        state = read_checked(path)
        if not isinstance(state, dict) or not isinstance(state.get("about"), dict):
            raise ValueError("another program wrote this")
    except Exception as error:                                     # a damaged file makes torch.load raise nearly anything
        raise CourseError(f"{path} cannot be read ({type(error).__name__}): {again}") from None
    differ = [name for name in about if state["about"].get(name) != about[name]]
    if differ:
        raise CourseError(f"{path} is of another call (other {', '.join(differ)}): delete it, or keep states elsewhere")
    try:
        begun = load(state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CourseError(f"{path} does not hold what it should ({type(error).__name__}): {again}") from None
    if type(begun) is not int or not 0 < begun <= end:
        raise CourseError(f"{path} says that it is of step {begun} of {end}: {again}")
    return begun
