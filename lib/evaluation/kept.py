"""Fine-tuning, and the training of linear heads, that was killed goes on.

Its state after an epoch is one file, written whole and read without running code.
"""
import zlib
from pathlib import Path

import torch
from torch import nn

from lib import distributed
from lib.errors import CourseError
from lib.training.checkpoint import read_checked, write_atomically


def fingerprint(network: nn.Module) -> int:
    """A checksum of all weights."""
    checksum = 0
    for tensor in network.state_dict().values():
        checksum = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
    return checksum


def fingerprint_of_images(source) -> int:
    """A checksum of all labels and of at most 64 images, evenly spread over the set."""
    some = torch.arange(min(64, len(source))) * len(source) // min(64, len(source))
    checksum = zlib.crc32(source.labels(torch.arange(len(source))).cpu().numpy())
    return zlib.crc32(source.images(some).cpu().contiguous().numpy(), checksum)


def random_state(device: torch.device) -> list[torch.Tensor]:
    """Of PyTorch's global generators, from which drop path draws."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def keep(path: Path, about: dict, state: dict) -> None:
    """Write the state, and of what it is, from the first process. Raises CourseError if the file cannot be written."""
    def write(temporary: Path) -> None:
        try:
            torch.save({"about": about} | state, temporary)
        except RuntimeError:                                       # PyTorch's word for it
            raise OSError("not all of it could be written; is the disk full?") from None

    if distributed.rank() == 0:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(f"cannot write to {path.parent}: {error.strerror}; keep states in another folder") from None
        write_atomically(path, write)


def kept(path: Path, about: dict, keys: set[str]) -> dict | None:
    """The state in a file, with these keys, or None where there is none. Raises CourseError if it is damaged, or of another
    call."""
    if distributed.rank() == 0:
        for left in path.parent.glob(f".{path.name}.*"):           # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
    if not path.exists():
        return None
    try:
        state = read_checked(path)
        if not isinstance(state, dict) or set(state) != keys | {"about"} or not isinstance(state["about"], dict):
            raise ValueError("another program wrote this")
    except Exception as error:                                     # a damaged file makes torch.load raise nearly anything
        raise CourseError(f"{path} cannot be read ({type(error).__name__}): delete it to begin anew") from None
    differ = [name for name in about if state["about"].get(name) != about[name]]
    if differ:
        raise CourseError(f"{path} is of another call (other {', '.join(differ)}): delete it, or keep states elsewhere")
    return state
