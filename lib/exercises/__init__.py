"""The instant checks of the chapters' exercises, one module a chapter.

A check prints one line: that the answer is right, that it is not written yet, or what came, what was expected and which
mistake makes the two differ. To name the mistake, it makes the usual ones itself and looks which gives the same result.
"""
import functools
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
        except NotImplementedError:
            print(f"Not yet: write `{name}`, then run this cell again.")
            return None
        except CourseError as error:
            print(f"Not right: {error}".rstrip())
        except Exception as error:                               # whatever a student's code may raise
            print(f"Not right: `{name}` stopped with {type(error).__name__}: {error}")
        return False
    return checked


def compare(got, expected: Tensor, mistakes: dict[str, Tensor], given: str) -> None:
    """Raise CourseError unless `got` equals `expected` to 1e-5.

    mistakes: what to say -> the result of that mistake. given: what the answer was given, for the message.
    """
    if not isinstance(got, Tensor):
        raise CourseError(f"{given}, a tensor was expected, and a {type(got).__name__} came. Is the return missing?")
    hint = next((f"{text} " for text, wrong in mistakes.items() if alike(got, wrong)), "")
    if got.shape != expected.shape:
        raise CourseError(f"{hint}{given}, the shape {tuple(expected.shape)} was expected, and {tuple(got.shape)} came.")
    if not alike(got, expected):
        place = (got.double() - expected).abs().nan_to_num(torch.inf).flatten().argmax()
        index = tuple(int(i) for i in torch.unravel_index(place, expected.shape))
        at = f" at {list(index)}" if index else ""
        raise CourseError(f"{hint}{given}, {expected[index]:.4f} was expected{at}, and {got[index]:.4f} came.")


def alike(a: Tensor, b: Tensor) -> bool:
    """The same shape, and the same numbers to 1e-5?"""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=0, atol=1e-5)


def number(got, given: str) -> Tensor:
    """What an answer gave, as a tensor: a number, or a tensor as it is. Raises CourseError for anything else."""
    if isinstance(got, float | int) and not isinstance(got, bool):
        got = torch.tensor(got, dtype=torch.float64)
    if not isinstance(got, Tensor):
        raise CourseError(f"{given}, a number was expected, and a {type(got).__name__} came. Is the return missing?")
    return got
