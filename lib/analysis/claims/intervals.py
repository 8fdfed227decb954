"""95 % intervals for the ledger: over images always, over seeds of training where there are any.

Each function gives (value, low, high). Where two networks see the same images, images are drawn together: intervals are of the
difference. Where only numbers with intervals were written down, `apart` takes the two as independent, which is too wide
for networks that find the same images hard: it errs towards "inconclusive".
"""
from collections.abc import Callable
from math import sqrt

import torch
from scipy.stats import t as student
from torch import Tensor

from lib.errors import CourseError
from lib.evaluation.report import bootstrap_mean, bootstrap_statistic

Interval = tuple[float, float, float]


def over_images(values: Tensor) -> Interval:
    """One number for each image, such as a difference of two networks, (images,) -> its mean, and a bootstrap interval."""
    return values.double().mean().item(), *bootstrap_mean(values)


def resampled(statistic: Callable[..., float], *values: Tensor, draws: int = 1000) -> Interval:
    """statistic(*values), and a bootstrap interval: rows of values (images, ...) are drawn together."""
    return float(statistic(*values)), *bootstrap_statistic(statistic, *values, draws=draws)


def jackknife(statistic: Callable[..., Tensor | float], *values: Tensor, groups: int = 16) -> Interval:
    """statistic(*values), and an interval from leaving out each of the groups of rows in turn.

    For a smooth statistic of all images at once, such as a spectrum, or a CKA of so many minibatches. Raises CourseError for
    fewer than 2 rows or groups.
    """
    n = len(values[0])
    if n < 2 or groups < 2 or any(len(v) != n for v in values):
        raise CourseError(f"a jackknife needs at least 2 groups and 2 rows, as many everywhere, got {groups} groups and "
                          f"{[len(v) for v in values]} rows")
    groups = min(groups, n)
    group = torch.arange(n) % groups
    whole = float(statistic(*values))
    without = torch.tensor([float(statistic(*(v[group != g] for v in values))) for g in range(groups)], dtype=torch.float64)
    wide = student.ppf(0.975, groups - 1) * sqrt((groups - 1) * without.var(correction=0).item())
    return whole, whole - wide, whole + wide


def of(measured: dict) -> Interval:
    """What data/results holds, {"value", "interval"}."""
    return measured["value"], *measured["interval"]


def apart(first: Interval, second: Interval) -> Interval:
    """First less second, two numbers with intervals of their own, as if independent."""
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return a - b, a - b - sqrt((a - a_low)**2 + (b_high - b)**2), a - b + sqrt((a_high - a)**2 + (b - b_low)**2)


def average(intervals: list[Interval]) -> Interval:
    """Mean of several numbers of the same images, such as one network's at several depths: as if their errors were one."""
    return tuple(sum(ends) / len(intervals) for ends in zip(*intervals, strict=True))


def over_seeds(intervals: list[Interval]) -> Interval:
    """One number for each seed of training, each with its interval over images -> their mean, with both uncertainties.

    Seeds: Student's interval of the mean. Images: the mean interval, because all seeds are measured on the same ones. The two
    are added as squares. A single seed keeps its interval over images.
    """
    if len(intervals) < 2:
        return intervals[0]
    (value, low, high), n = average(intervals), len(intervals)
    seeds = student.ppf(0.975, n - 1) * torch.tensor([i[0] for i in intervals], dtype=torch.float64).std().item() / sqrt(n)
    return value, value - sqrt((value - low)**2 + seeds**2), value + sqrt((high - value)**2 + seeds**2)
