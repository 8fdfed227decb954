"""Checkpoints: written whole or not at all, read without running code.

A run's folder holds `last.pt` and `previous.pt`, the two newest checkpoints, at the end `backbone.safetensors`, and, where
the recipe says `keep_every`, a `backbone-epochNNNN.safetensors` of some epochs on the way.
There is no random state to save: every random number is a function of the seed, the epoch, the sample and the step.
"""
import contextlib
import json
import os
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib import distributed
from lib.errors import CourseError
from lib.objectives import Objective
from lib.training.sharding import whole

KEYS = ("recipe", "images", "step", "objective", "optimizer", "history", "pending")          # what a checkpoint holds

def write_atomically(path: Path, write) -> None:
    """Call write(temporary path), then move it into place, so that `path` is always whole."""
    path = path.resolve()                                         # through a link, to what it points to
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CourseError(f"could not write {path}: {error.strerror or error}; what was there before is unharmed") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sweep(folder: Path | None) -> None:
    """Remove what a process that was killed while it wrote has left."""
    if folder is not None and distributed.rank() == 0:
        for left in folder.glob(".*.pt.*"):
            left.unlink(missing_ok=True)


def save(folder: Path, state: dict) -> None:
    """Write last.pt; the last.pt of before becomes previous.pt."""
    last = folder / "last.pt"

    def write(temporary: Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError:                                                       # PyTorch's word for it
            raise OSError("not all of it could be written; is the disk full?") from None
        if last.exists():
            os.replace(last, folder / "previous.pt")

    write_atomically(last, write)


def read_checked(path: Path):
    """What `torch.save` wrote, without running code. Raises what it likes where the file is damaged."""
    with zipfile.ZipFile(path) as file:
        if file.testzip():                                                         # torch.load does not compare checksums
            raise OSError("a checksum is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def check_kinds(state) -> None:
    """Raises ValueError unless it is what the trainer saves, as far as its outside goes."""
    if not isinstance(state, dict) or set(state) != set(KEYS):
        raise ValueError("another program wrote this")
    kinds = {"recipe": dict, "images": int, "step": int, "objective": dict, "optimizer": dict, "history": list, "pending": dict}
    if any(not isinstance(state[key], kind) for key, kind in kinds.items()) or state["step"] < 0:
        raise ValueError("another program wrote this")
    if set(state["pending"]) != {"since", "sums"} or set(state["optimizer"]) != {"state", "param_groups"}:
        raise ValueError("another program wrote this")


def load(folder: Path) -> dict:
    """The newest checkpoint that can be read. Raises CourseError where there is none."""
    damaged = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        if not path.exists():
            continue
        try:
            state = read_checked(path)
            check_kinds(state)
        except Exception:                                         # a damaged file makes torch.load raise nearly anything
            damaged.append(path)
            continue
        if damaged and distributed.rank() == 0:
            print(f"note: {damaged[0]} is damaged; going on from {path}", flush=True)
        for bad in damaged:                                       # out of the way, or the next save would keep it
            with contextlib.suppress(FileNotFoundError):          # another process may have been first
                bad.rename(bad.with_name(f"{bad.name}.damaged"))
        return state
    if damaged:
        raise CourseError(f"{' and '.join(map(str, damaged))} cannot be read: damaged; start again in another folder")
    raise CourseError(f"{folder} holds no checkpoint to resume from; leave --resume out to start a new run")


def export(path: Path, objective: Objective, recipe: dict) -> None:
    """The backbone under timm's names, what else the objective `ships` under its own, and the recipe, as safetensors.

    All processes must call it; the first one writes.
    """
    tensors = objective.backbone.state_dict()
    for part in objective.ships:
        tensors |= {f"{part}.{name}": tensor for name, tensor in getattr(objective, part).state_dict().items()}
    weights = {name: whole(tensor).detach().cpu().contiguous() for name, tensor in tensors.items()}
    if distributed.rank() == 0:
        write_atomically(path, lambda temporary: save_file(weights, temporary, metadata={"recipe": json.dumps(recipe)}))


def read_export(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """-> weights and the described recipe of an exported backbone. Raises CourseError if missing or damaged."""
    if not path.exists():
        unfinished = (path.parent / "last.pt").exists()
        raise CourseError(f"{path} does not exist; a finished run leaves a backbone.safetensors in its folder"
                          + (", and this one has stopped on the way: finish it with --resume" if unfinished else ""))
    try:
        with safe_open(path, "pt") as file:
            recipe = json.loads((file.metadata() or {}).get("recipe", "{}"))
            if not isinstance(recipe, dict) or not isinstance(recipe.get("objective", ""), str):
                raise OSError("its recipe is none")
            return {name: file.get_tensor(name) for name in file.keys()}, recipe  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError, OSError, RecursionError) as error:
        raise CourseError(f"{path} cannot be read ({error}): damaged; train or copy it again") from None
