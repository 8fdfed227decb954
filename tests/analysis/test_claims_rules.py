"""From numbers to verdicts: the rules, and the intervals that they are applied to."""
import json
from math import sqrt

import numpy as np
import pytest
import torch

from lib.analysis.claims import intervals
from lib.analysis.claims.verdict import Check, shortfall, together, verdict
from lib.errors import CourseError
from lib.evaluation.table import RESULTS
from lib.models import zoo


def check(low, high, margin=0.0):
    return Check("a above b", (low + high) / 2, low, high, "px", margin)


@pytest.mark.parametrize("low, high, margin, reading", [
    (0.1, 0.3, 0.0, "supported"),
    (-0.3, -0.1, 0.0, "not supported"),                            # all of it on the wrong side
    (-0.1, 0.3, 0.0, "inconclusive"),                              # straddles
    (0.0, 0.3, 0.0, "inconclusive"), (-0.3, 0.0, 0.0, "inconclusive"),          # touches
    (0.04, 0.08, 0.1, "not supported"),                            # right sign, but less than the paper's margin
    (0.08, 0.12, 0.1, "inconclusive"), (0.11, 0.12, 0.1, "supported"),
])
def test_an_interval_is_read_against_the_margin(low, high, margin, reading):
    assert check(low, high, margin).reading == reading
    assert verdict([check(low, high, margin)])[0] == reading


def test_one_check_refutes_and_all_support():
    yes, no, open_ = "supported", "not supported", "inconclusive"
    assert together([yes, yes]) == yes and together([yes, open_]) == open_
    assert together([yes, no]) == no and together([open_, no]) == no
    with pytest.raises(CourseError, match="without a check"):
        together([])


def test_what_is_missing_or_undertrained_counts_neither_way():
    good, bad = check(1, 2), check(-2, -1)
    for checks in ([good], [bad], []):
        assert verdict(checks, missing="no ResNet") == ("inconclusive", "not measured yet: no ResNet")
    for checks in ([good], [bad]):
        assert verdict(checks, short={"DINO": "2 of 8 planned epochs"}) == (
            "inconclusive", "DINO is undertrained: 2 of 8 planned epochs")
    assert verdict([good, bad])[1] == "does not hold: a above b"


@pytest.mark.parametrize("value, low, high", [(0.5, 0.6, 0.7), (0.5, float("nan"), 0.7), (0.5, 0.1, float("inf"))])
def test_a_check_needs_an_interval_around_its_value(value, low, high):
    with pytest.raises(CourseError, match="a above b"):
        Check("a above b", value, low, high)


# ------------------------------------------------------------------------------------------------- undertrained

def probed(value, wide=0.02):
    return {"linear": {"value": value, "interval": [value - wide, value + wide]}}


def test_a_run_that_was_cut_is_undertrained():
    recipe = zoo.manifest()["shapes/simmim"]["recipe"]
    assert shortfall(recipe, probed(0.8), probed(0.6)) == ""
    assert shortfall(recipe | {"epochs": 2}, probed(0.8), probed(0.6)) == "2 of 10 planned epochs"
    hybrid = zoo.manifest()["shapes/hybrid"]["recipe"] | {"cl_weight": 0.4, "epochs": 2}
    assert shortfall(hybrid, probed(0.8), probed(0.6)) == "2 of 8 planned epochs"
    assert shortfall(hybrid | {"model": "vit_large"}, probed(0.8), probed(0.6)) == ""          # of which there is no plan
    cnn = {key: value for key, value in recipe.items() if key != "model"} | {"objective": "supervised", "epochs": 1}
    assert shortfall(cnn, probed(0.9), probed(0.6)) == "" and shortfall(cnn, probed(0.6), probed(0.6)) != ""


def test_a_probe_near_the_untrained_one_is_undertrained():
    recipe = zoo.manifest()["shapes/simmim"]["recipe"]
    assert "60.0%, is not clearly above" in shortfall(recipe, probed(0.60), probed(0.57))
    assert shortfall(recipe, probed(0.62), probed(0.57)) == ""
    for name in ("supervised", "simmim", "mae"):
        result = json.loads((RESULTS / "zoo" / f"shapes-{name}.json").read_text())
        assert shortfall(result["recipe"], result["trained"], result["untrained"]) == ""


# ------------------------------------------------------------------------------------------------- intervals

def test_paired_differences_are_narrower_than_numbers_apart():
    generator = torch.Generator().manual_seed(0)
    hard = torch.randn(400, generator=generator)                   # what both networks find hard
    a, b = (hard + 0.1 * torch.randn(400, generator=generator) + shift for shift in (0.05, 0.0))
    paired = intervals.over_images(a - b)
    loose = intervals.apart(intervals.over_images(a), intervals.over_images(b))
    assert paired[0] == pytest.approx(loose[0], abs=1e-6)
    assert paired[1] > 0 > loose[1]
    error = float((a - b).double().std()) / 20
    assert paired[2] - paired[0] == pytest.approx(1.96 * error, rel=0.15)


def test_apart_adds_squares_of_the_ends_that_face_each_other():
    value, low, high = intervals.apart((5.0, 4.7, 5.1), (3.0, 2.6, 3.4))
    assert (value, low, high) == pytest.approx((2.0, 2 - sqrt(0.3**2 + 0.4**2), 2 + sqrt(0.1**2 + 0.4**2)))


def test_the_jackknife_of_a_mean_is_the_interval_of_a_mean():
    x = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, low, high = intervals.jackknife(torch.mean, x)
    error = float(np.std(x.numpy(), ddof=1)) / 4
    assert value == pytest.approx(float(x.mean())) and high - value == pytest.approx(2.1314 * error, rel=1e-4)
    assert value - low == pytest.approx(high - value)
    with pytest.raises(CourseError, match="as many everywhere"):
        intervals.jackknife(torch.mean, x, x[:3])


def test_seeds_widen_an_interval():
    one = (0.10, 0.08, 0.12)
    assert intervals.over_seeds([one]) == one
    value, low, high = intervals.over_seeds([one, (0.20, 0.18, 0.22), (0.30, 0.28, 0.32)])
    half = sqrt((4.3027 * 0.1 / sqrt(3)) ** 2 + 0.02**2)           # Student with 2 degrees of freedom, and images
    assert (value, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-5)


def test_rows_are_drawn_together():
    x = torch.arange(50.0)
    value, low, high = intervals.resampled(lambda a, b: (a - b).mean(), x, x - 1, draws=50)
    assert (value, low, high) == pytest.approx((1.0, 1.0, 1.0))
