"""The log of a run: log.jsonl and TensorBoard events, for one process at a time."""
import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from lib import distributed, locks
from lib.errors import CourseError
from lib.training.checkpoint import write_atomically


@contextlib.contextmanager
def alone(folder: Path | None) -> Iterator[None]:
    """No other run may write to the folder meanwhile. Raises CourseError if one does, where the file system can tell."""
    if folder is None or distributed.rank() != 0:
        yield
        return
    with open(folder / "lock", "w") as lock:
        try:
            locks.take(lock, "two runs in one folder would not be noticed", wait=False)
        except BlockingIOError:
            raise CourseError(f"another run is writing to {folder}; wait for it, or choose another --out") from None
        yield


@contextlib.contextmanager
def opened(folder: Path | None, step: int, recipe: dict) -> Iterator[Callable[[dict], None]]:
    """-> a function that adds a line to log.jsonl and TensorBoard. Lines after `step`, resumed from, are dropped."""
    if folder is None or distributed.rank() != 0:
        yield lambda line: None
        return
    from torch.utils.tensorboard import SummaryWriter  # here, since it is slow to import

    path = folder / "log.jsonl"
    before = [line for line in path.read_text(errors="replace").splitlines() if line] if path.exists() else []
    before = [line for line in before if _step_of(line) <= step]
    write_atomically(path, lambda temporary: temporary.write_text("".join(line + "\n" for line in before)))
    write_atomically(folder / "recipe.json", lambda temporary: temporary.write_text(json.dumps(recipe, indent=1) + "\n"))
    with open(path, "a") as file, contextlib.closing(SummaryWriter(folder, purge_step=step + 1)) as board:
        def write(line: dict) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()
            for name, value in line.items():
                if name not in ("step", "epoch"):
                    board.add_scalar(name, value, line["step"])
        yield write


def _step_of(line: str) -> float:
    """The step of a log line; a line cut short by a kill counts as later than all."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
