"""The checks of chapter 13: right answers pass, and each usual mistake fails with its name."""
from math import sqrt

import pytest
import torch

from lib.analysis.claims.intervals import over_seeds
from lib.analysis.claims.verdict import reading
from lib.exercises import chapter13


def readings(low, high, margin):
    return (low > margin).int() - (high < margin).int()


def one_by_one(low, high, margin):
    numbers = {"supported": 1, "not supported": -1, "inconclusive": 0}
    return torch.tensor([numbers[reading(a, b, margin)] for a, b in zip(low.tolist(), high.tolist(), strict=True)])


def paired(a, b):
    return 1.96 * (a - b).std() / len(a) ** 0.5


def in_numbers(a, b):
    differences = [x - y for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    mean = sum(differences) / len(differences)
    return 1.96 * sqrt(sum((d - mean) ** 2 for d in differences) / (len(differences) - 1) / len(differences))


def both(values, images, factor):
    return ((factor * values.std() / len(values) ** 0.5) ** 2 + images**2) ** 0.5


def from_the_library(values, images, factor):
    middle, _, high = over_seeds([(v, v - images, v + images) for v in values.tolist()])
    return high - middle


@pytest.mark.parametrize("check, answer", [
    (chapter13.check_readings, readings), (chapter13.check_readings, one_by_one),
    (chapter13.check_paired, paired), (chapter13.check_paired, in_numbers),
    (chapter13.check_both, both),
])
def test_right_answers_pass(check, answer, verdict):
    result, line = verdict(check, answer)
    assert result is True and line.startswith("Right. "), line


def test_the_library_agrees():
    values = torch.tensor([0.10, 0.14, 0.21], dtype=torch.float64)
    assert from_the_library(values, 0.03, 4.3027) == pytest.approx(float(both(values, 0.03, 4.3027)), rel=1e-4)


@pytest.mark.parametrize("check, answer, hint", [
    (chapter13.check_readings, lambda l, h, m: readings(l, h, 0), "margin is left out"),
    (chapter13.check_readings, lambda l, h, m: (l > m).int() - (h < 0).int(), "refuting too"),
    (chapter13.check_readings, lambda l, h, m: ((l + h) / 2 - m).sign(), "its ends do"),
    (chapter13.check_readings, lambda l, h, m: (h > m).int() - (h < m).int(), "not the upper one"),
    (chapter13.check_readings, lambda l, h, m: -readings(l, h, m), "signs are swapped"),
    (chapter13.check_paired, lambda a, b: 1.96 * ((a.var() + b.var()) / len(a)) ** 0.5, "image by image first"),
    (chapter13.check_paired, lambda a, b: 1.96 * (a - b).std(), "root of n less"),
    (chapter13.check_paired, lambda a, b: 2 * paired(a, b), "whole width"),
    (chapter13.check_paired, lambda a, b: paired(a, b) / 1.96, "one standard error"),
    (chapter13.check_both, lambda v, i, f: f * v.std() / 3**0.5 + i, "add as squares"),
    (chapter13.check_both, lambda v, i, f: both(v, 0, f), "images are left out"),
    (chapter13.check_both, lambda v, i, f: both(v, i, 1.96), "Student's factor"),
    (chapter13.check_both, lambda v, i, f: both(v, i / 3**0.5, f), "no smaller"),
    (chapter13.check_both, lambda v, i, f: ((f * v.std()) ** 2 + i**2) ** 0.5, "root of their number"),
])
def test_mistakes_are_named(check, answer, hint, verdict):
    result, line = verdict(check, answer)
    assert result is False and hint in line, line
