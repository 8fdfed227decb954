"""What every measurement has in common: an interval over images, and a file that says how it was made."""
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.errors import CourseError
from lib.training.checkpoint import write_atomically


def bootstrap(correct: torch.Tensor, draws: int = 2000) -> list[float]:
    """95 % interval of a share over images, by resampling them: (N,) bool -> [low, high].

    How many of N images drawn with replacement are right is binomial, so the images need not be drawn one by one. Raises
    CourseError for less than 2 images.
    """
    if len(correct) < 2:
        raise CourseError(f"an interval over images needs 2 images or more, got {len(correct)}; measure on more")
    shares = np.random.default_rng(0).binomial(len(correct), correct.float().mean().item(), draws) / len(correct)
    return np.quantile(shares, [0.025, 0.975]).tolist()


def bootstrap_statistic(statistic: Callable[..., float], *values: Tensor, draws: int = 2000) -> list[float]:
    """95 % interval over images of statistic(*values), a number, by resampling images: each of values (N, ...) -> [low, high].

    What belongs to one image is drawn together. Raises CourseError if there are no images, or not as many everywhere.
    """
    n = len(values[0])
    if not n or any(len(v) != n for v in values):
        raise CourseError(f"an interval over images needs values of the same images, got {[len(v) for v in values]} of them")
    if not all(v.isfinite().all() for v in values):
        raise CourseError("an interval over images needs finite values; some of these are nan or infinite")
    generator = np.random.default_rng(0)
    drawn = (torch.from_numpy(generator.integers(n, size=n)) for _ in range(draws))
    return np.quantile([float(statistic(*(v[images] for v in values))) for images in drawn], [0.025, 0.975]).tolist()


def bootstrap_mean(values: Tensor, draws: int = 2000) -> list[float]:
    """95 % interval over images of the mean of one number an image: (N,) -> [low, high]. Raises CourseError."""
    return bootstrap_statistic(torch.mean, values.double().cpu(), draws=draws)


def r_squared(predicted: Tensor, truth: Tensor) -> float:
    """1 - squared error / squared deviation from the mean, of (N,) and (N,): 1 is exact, 0 no better than the mean.

    Raises CourseError where the truth is the same for all.
    """
    predicted, truth = predicted.double(), truth.double()
    spread = (truth - truth.mean()).square().sum()
    if not spread:
        raise CourseError(f"R2 compares errors with the spread of the truth, and here all {len(truth)} values are the same")
    return 1 - ((truth - predicted).square().sum() / spread).item()


def bootstrap_r2(predicted: Tensor, truth: Tensor, draws: int = 2000) -> list[float]:
    """95 % interval over images of R²: predicted (N,), truth (N,) -> [low, high]. Raises CourseError."""
    return bootstrap_statistic(r_squared, predicted.cpu(), truth.cpu(), draws=draws)


def check_out(out: str | None, what: str) -> None:
    """Raises CourseError if a report cannot be written there, or would replace one of another kind: told before the work.

    what: the module and the word that make such reports, "lib.evaluation dense".
    """
    if out == "":
        raise CourseError("an empty name was given for --out; name a file")
    if out:
        try:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(f"cannot write {out}: {error.strerror}; choose another --out") from None
        if not os.access(Path(out).parent, os.W_OK):
            raise CourseError(f"cannot write {out}: no permission to write in its folder; choose another --out")
        if Path(out).is_dir():
            raise CourseError(f"{out} is a folder; --out is the JSON file to write")
        if len(os.fsencode(Path(out).name)) > 200:
            raise CourseError(f"the name {Path(out).name[:30]}... is too long for a file; choose another --out")
        if os.path.lexists(out) and (not Path(out).is_file() or Path(out).suffix != ".json"):
            raise CourseError(f"{out} is there already and is no .json file; choose another --out")
        if Path(out).suffix != ".json":
            raise CourseError(f"--out is the JSON file to write, and its name ends in .json; got {out}")
        if Path(out).is_file():
            command = _command_of(Path(out))
            if not command:
                raise CourseError(f"{out} is there already and is no report, or a damaged one; choose another --out")
            made = " ".join(command.split()[2:4])
            made = "lib.evaluation frozen" if made.startswith("lib.evaluation ") and "/" in made else made     # runs/x alone
            if made != what:
                raise CourseError(f"{out} holds what python -m {made} found; choose another --out")


def _command_of(path: Path) -> str:
    """The command that a report comes from; nothing if the file is no report."""
    try:
        return str(json.loads(path.read_text())["command"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return ""


def commit() -> str:
    if not shutil.which("git"):
        return "unknown"
    answer = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                            cwd=Path(__file__).parent)
    return answer.stdout.strip() or "unknown"


def write_report(path: str | Path, result: dict, *, command: str, seeds: list[int], device: str | torch.device) -> None:
    """Write a result as JSON, after how it was made: command, commit, date, torch's version, seeds, device.

    The file is whole or not there at all; folders on its way are made. Raises CourseError if it cannot be written, or if the
    result holds what JSON cannot (a tensor, nan, infinity) or has an entry for one of these names.
    """
    device = torch.device(device)
    made = {"command": command, "commit": commit(), "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
            "seeds": list(seeds), "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)}
    if made.keys() & result.keys():
        raise CourseError(f"a result has no {', '.join(sorted(made.keys() & result.keys()))} of its own: the report says it")
    try:
        text = json.dumps(made | result, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CourseError(f"a result must be plain finite numbers, words, lists and dicts, for JSON: {error}") from None
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"cannot write {path}: {error.strerror}; choose another file") from None
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_report(path: Path, *parts: str) -> dict:
    """What a report holds. Raises CourseError, with the way back, if it is damaged or lacks one of the parts."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(found, dict) and all(part in found for part in parts)
    except ValueError:
        whole = False
    if not whole:
        raise CourseError(f"{path} is damaged; restore it with git checkout {path}, or delete it and measure again")
    return found


README = Path(__file__).resolve().parents[2] / "README.md"


def put_between(document: str, mark: str, text: str) -> str:
    """A document with `text` between its lines <!-- mark --> and <!-- end of mark -->. Raises CourseError without them."""
    start, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    if start not in document or end not in document.split(start, 1)[1]:
        raise CourseError(f"README.md has no place for this; write two lines into it: {start.strip()} and {end}")
    before, rest = document.split(start, 1)
    return f"{before}{start}\n{text}\n{end}{rest.split(end, 1)[1]}"


def put_into_readme(mark: str, text: str) -> None:
    """Replace what README.md holds between the two lines of a mark."""
    new = put_between(README.read_text(encoding="utf-8"), mark, text)
    write_atomically(README, lambda temporary: temporary.write_text(new, encoding="utf-8"))
