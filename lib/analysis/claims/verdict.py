"""From an interval to a verdict: the rules of the ledger, all of them, in one place.

A claim is one or more *checks*. A check is a number that is larger than its margin if the claim holds, with a 95 % interval:

    supported       all of the interval lies above the margin
    not supported   all of it lies below
    inconclusive    it holds the margin

The margin is 0 unless one was read off the authors' figures. A claim is supported if all its checks are, and not supported if
one of them is not; in between it is inconclusive. Many checks therefore make a claim hard to support and easy to refute, as a
claim that says much should be. Two things come before any number, and count neither for nor against a claim: something that it
needs has not been measured, or one of its networks is undertrained (`shortfall`).
"""
import math
from dataclasses import dataclass

from lib.errors import CourseError
from lib.training.zoo import SIZES, planned

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE, NOT_HERE = "supported", "not supported", "inconclusive", "cannot be measured here"


class NotMeasured(Exception):
    """What a claim needs is not there (yet). The message says what."""


@dataclass(frozen=True)
class Check:
    """A difference that a claim predicts, with the ends of its 95 % interval."""
    text: str                         # what is larger than the margin if the claim holds
    value: float
    low: float
    high: float
    unit: str = ""
    margin: float = 0.0

    def __post_init__(self):
        if not self.low <= self.value <= self.high or not math.isfinite(self.high - self.low):
            raise CourseError(f"{self.text}: {self.value} with an interval from {self.low} to {self.high}; expected finite "
                              "numbers, and the value within its interval")

    @property
    def reading(self) -> str:
        return reading(self.low, self.high, self.margin)


def reading(low: float, high: float, margin: float = 0.0) -> str:
    """What a 95 % interval says of "larger than the margin"."""
    return SUPPORTED if low > margin else NOT_SUPPORTED if high < margin else INCONCLUSIVE


def together(readings: list[str]) -> str:
    """What all checks of a claim say together. Raises CourseError for none."""
    if not readings:
        raise CourseError("a claim without a check has no verdict")
    if NOT_SUPPORTED in readings:
        return NOT_SUPPORTED
    return SUPPORTED if set(readings) == {SUPPORTED} else INCONCLUSIVE


def verdict(checks: list[Check], missing: str = "", short: dict[str, str] | None = None) -> tuple[str, str]:
    """-> the verdict, and why in a few words.

    missing: what has not been measured, if anything. short: {network: how it falls short} of the undertrained ones.
    """
    if missing:
        return INCONCLUSIVE, f"not measured yet: {missing}"
    if short:
        return INCONCLUSIVE, "; ".join(f"{name} is undertrained: {why}" for name, why in short.items())
    found = together([check.reading for check in checks])
    if found == SUPPORTED:
        return found, "the interval of every check lies above its margin" if len(checks) > 1 else "the interval lies above"
    against = [check.text for check in checks if check.reading == found]
    return found, ("does not hold: " if found == NOT_SUPPORTED else "cannot be told apart: ") + "; ".join(against)


def shortfall(recipe: dict, trained: dict, untrained: dict) -> str:
    """How a network falls short of being well trained by its own yardstick, "" if it does not.

    It does if its training was cut, to fewer epochs than `lib.training.zoo` plans for its objective, world and model, whatever
    the λ of a hybrid; or if the interval of its linear probe does not lie above that of its untrained control. recipe: as a
    file in data/results describes it. trained, untrained: {"linear": {"value", "interval"}, ...}.
    """
    budgets = [budget for budget, sizes in SIZES.items() if recipe.get("model") in sizes]
    epochs = planned(recipe["data"], recipe["objective"], budgets[0]).epochs if budgets else 0
    if recipe["epochs"] < epochs:
        return f"{recipe['epochs']} of {epochs} planned epochs"
    if trained["linear"]["interval"][0] <= untrained["linear"]["interval"][1]:
        return (f"its linear probe, {trained['linear']['value']:.1%}, is not clearly above that of an untrained network, "
                f"{untrained['linear']['value']:.1%}")
    return ""
