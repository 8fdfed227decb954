"""The instant checks of the chapters' exercises, one module a chapter.

A check prints one line: that the answer is right, that it is not written yet, or what came, what was expected and which
mistake makes the two differ. To name the mistake, it makes the usual ones itself and looks which gives the same result.
"""
import functools
import traceback
from collections.abc import Callable

import torch
from torch import Tensor

from lib.errors import CourseError


def check(judge: Callable) -> Callable:
    """Make a check of a judge. judge(answer) returns what is right with the answer, or raises CourseError.

    The check prints that and returns True or False, or None where the answer is still a stub. It raises nothing, so that
    a notebook whose exercises are not done runs to its end.
    """
    @functools.wraps(judge)
    def checked(answer: Callable) -> bool | None:
        name = getattr(answer, "__name__", "the answer")
        try:
            with torch.no_grad():
                print(f"Right. {judge(answer)}")
            return True
        except CourseError as error:
            print(f"Not right: {error}".rstrip())
        except Exception as error:                               # whatever a student's code may raise
            if isinstance(error, NotImplementedError) and not error.args:          # the stub's own; PyTorch's say something
                print(f"Not yet: write `{name}`, then run this cell again.")
                return None
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            print(f"Not right: `{name}` stopped with {said}{_line(error, answer)}")
        return False
    return checked


def _line(error: Exception, answer: Callable) -> str:
    """Where in the learner's own cell an error was raised: " (line 3 of its cell)", if that can be told."""
    cell = getattr(getattr(answer, "__code__", None), "co_filename", None)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == cell]
    return f" (line {lines[-1]} of its cell)" if lines else ""


def compare(got, expected: Tensor, mistakes: dict[str, Tensor], given: str, tolerance: float = 1e-5) -> None:
    """Raise CourseError unless `got` equals `expected` to the tolerance.

    mistakes: what to say -> the result of that mistake. given: what the answer was given, for the message.
    """
    if not isinstance(got, Tensor):
        raise CourseError(f"{given}, a tensor was expected, and a {type(got).__name__} came. Is the return missing?")
    hint = next((f"{text} " for text, wrong in mistakes.items() if alike(got, wrong, tolerance)), "")
    if got.shape != expected.shape:
        raise CourseError(f"{hint}{given}, the shape {tuple(expected.shape)} was expected, and {tuple(got.shape)} came.")
    if not alike(got, expected, tolerance):
        place = (got.double() - expected).abs().nan_to_num(torch.inf).flatten().argmax()
        index = tuple(int(i) for i in torch.unravel_index(place, expected.shape))
        at = f" at {list(index)}" if index else ""
        raise CourseError(f"{hint}{given}, {expected[index]:.4f} was expected{at}, and {got[index]:.4f} came.")


def alike(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """The same shape, and the same numbers to the tolerance?"""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance)


def number(got, given: str) -> Tensor:
    """What an answer gave, as a tensor: a number, or a tensor as it is. Raises CourseError for anything else."""
    if isinstance(got, float | int) and not isinstance(got, bool):
        got = torch.tensor(got, dtype=torch.float64)
    if not isinstance(got, Tensor):
        raise CourseError(f"{given}, a number was expected, and a {type(got).__name__} came. Is the return missing?")
    return got
