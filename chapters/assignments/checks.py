"""The checks that an assignment comes with. They know the right numbers and those of the usual mistakes, and no code.

    check(attend, q, k, v)                      compare with the numbers in checks.json; the name is that of the function
    check(attend, q, k, v, case="one token")    other numbers of the same function
    same(got, expected, "for 3 tokens")         compare with numbers that are given

Each raises NotRight, an AssertionError: what was expected, what came, and the likely mistake where it is one of the usual.
A function that is still a stub raises NotImplementedError, as if it had been called without a check.
"""
import copy
import json
import warnings
from pathlib import Path

import torch

KNOWN = Path(__file__).with_name("checks.json")
TOLERANCE = 1e-4                                               # of a number, and of its size where that is above 1


class NotRight(AssertionError):
    """What a check says; a notebook shows the sentence alone, without the lines of the program."""

    def _render_traceback_(self):
        return [f"Not right. {self}"]


def check(function, *inputs, case=""):
    """function(*inputs) against the numbers on file."""
    name = getattr(function, "__name__", type(function).__name__)
    entry = entries().get(key(name, case))
    if entry is None:
        raise NotRight(f"there is no task `{name}`: write the answer as `def`, with the name that the task gives it")
    given = copy.deepcopy(inputs)
    outcome = packed(function, *given)
    complaint = difference(outcome, entry["right"]) or changed(inputs, given)
    if complaint is None:
        print(f"`{name}` is right here{': ' * bool(case)}{case}")
        return
    likely = " Or: ".join(text for text, wrong in entry["mistakes"] if difference(outcome, wrong) is None)
    mistake = f" Likely mistake: {likely}" if likely else ""
    raise NotRight(f"`{name}`{', ' * bool(case)}{case}: {complaint}.{mistake}")


def same(got, expected, given, tolerance=TOLERANCE):
    """`got` against what was expected, for tests that work the answer out themselves."""
    complaint = difference(pack(got), pack(expected), tolerance)
    if complaint is not None:
        raise NotRight(f"{given}: {complaint}")


def entries():
    """{check: {"right": numbers, "mistakes": [(what to say, numbers)]}}"""
    return json.loads(KNOWN.read_text(encoding="utf-8"))


def key(name, case):
    return f"{name} · {case}" if case else name


# ------------------------------------------------------------------------------------------- results as plain numbers

def packed(function, *inputs):
    """What function(*inputs) gave, or the name of what it raised, in a form that JSON can hold."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return pack(function(*inputs))
        except (NotImplementedError, MemoryError):
            raise
        except Exception as error:                             # whatever a student's code may raise
            return {"raised": type(error).__name__, "text": str(error).strip().split("\n")[0][:200]}


def pack(result):
    """A tensor, number or list of them -> {"type", "shape", "numbers"}, {"parts"}, or {"other"} for anything else."""
    if isinstance(result, (bool, int, float)):
        result = torch.tensor(result)
    if isinstance(result, torch.Tensor):
        kind = "bool" if result.dtype == torch.bool else "real" if result.is_floating_point() else "whole"
        numbers = result.detach().cpu().double().flatten().tolist()
        return {"type": kind, "shape": list(result.shape), "numbers": [float(f"{x:.6g}") for x in numbers]}
    if isinstance(result, (list, tuple)):
        return {"parts": [pack(part) for part in result]}
    return {"other": type(result).__name__}


def difference(got, expected, tolerance=TOLERANCE):
    """None where the two agree; else what was expected and what came."""
    if "raised" in got or "raised" in expected:
        if got.get("raised") == expected.get("raised"):
            return None
        return f"it stopped with {got['raised']}: {got['text']}" if "raised" in got else "an error was expected"
    if kind(got) != kind(expected):
        missing = " (is the return missing?)" if got.get("other") == "NoneType" else ""
        return f"{kind(expected)} was expected, and {kind(got)} came{missing}"
    if "parts" in expected:
        found = [difference(a, b, tolerance) for a, b in zip(got["parts"], expected["parts"])]
        return next((f"result {i} of {len(found)}: {text}" for i, text in enumerate(found, 1) if text), None)
    if "other" in expected:
        return None
    if got["shape"] != expected["shape"]:
        return f"the shape {tuple(expected['shape'])} was expected, and {tuple(got['shape'])} came"
    off = [i for i, (a, b) in enumerate(zip(got["numbers"], expected["numbers"])) if not near(a, b, tolerance)]
    if off:
        i = max(off, key=lambda i: distance(got["numbers"][i], expected["numbers"][i]))
        place = [int(x) for x in torch.unravel_index(torch.tensor(i), expected["shape"])] if expected["shape"] else None
        at = "" if place is None else f" at {place}"
        if expected["type"] == "bool" == got["type"]:
            return f"{bool(expected['numbers'][i])} was expected{at}, and {bool(got['numbers'][i])} came"
        return f"{expected['numbers'][i]:.5g} was expected{at}, and {got['numbers'][i]:.5g} came"
    if (got["type"] == "bool") != (expected["type"] == "bool"):
        return "True and False were expected, and numbers came" if expected["type"] == "bool" else \
            "numbers were expected, and True and False came"
    return None


def kind(result):
    if "parts" in result:
        return f"{len(result['parts'])} results together"
    return f"a {result['other']}".replace("a NoneType", "nothing") if "other" in result else "a tensor or number"


def near(a, b, tolerance):
    return a == b or (a != a and b != b) or abs(a - b) <= tolerance * max(1, abs(b))


def distance(a, b):
    return abs(a - b) if abs(a - b) == abs(a - b) else float("inf")


def changed(before, after):
    """Did the function write into what it was given?"""
    def flat(x):
        if isinstance(x, (list, tuple)):
            return [y for part in x for y in flat(part)]
        return [x] if isinstance(x, torch.Tensor) else []
    same_as_before = all(torch.equal(a, b) or bool(a.isnan().any()) for a, b in zip(flat(before), flat(after)))
    return None if same_as_before else "the result is right, but an input was changed on the way: work on a copy"
