"""Curves by depth agree with the metrics that they come from, and the command writes them."""
import json
import math
import sys

import pytest
import torch

from lib import cli
from lib.analysis import __main__ as program
from lib.analysis.attention import AttentionStatistics
from lib.analysis.curves import CURVES, curve, curves, written
from lib.analysis.fourier import Frequencies
from lib.analysis.recording import record
from lib.data import Shapes
from lib.errors import CourseError
from lib.models.vit import create


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return create("vit_nano", image_size=32, patch_size=8).eval()


def test_every_curve_has_a_point_for_each_depth(backbone):
    source = Shapes("val", 32, 12)
    found, blocks = curves(backbone, source), len(backbone.blocks)
    assert found.keys() == CURVES.keys()
    for name, first in CURVES.items():
        assert found[name]["depth"] == list(range(first, blocks + 1))
        assert all(low <= value <= high for low, value, high in zip(*(found[name][k] for k in ("low", "value", "high"))))
    plain = record(backbone, source, [AttentionStatistics(), Frequencies()])
    assert found["nmi"]["value"] == pytest.approx(plain["nmi"].mean((0, 2)).tolist(), rel=1e-5)
    assert found["delta_log_amplitude"]["value"] == pytest.approx(plain["delta_log_amplitude"].mean(0).tolist(), rel=1e-5)


def test_the_interval_is_over_images_not_heads():
    values = torch.tensor([[[1.0, 5.0]], [[3.0, 3.0]], [[2.0, 10.0]]])             # 3 images, 1 block, 2 heads
    each = [3.0, 3.0, 6.0]
    error = math.sqrt(sum((x - 4) ** 2 for x in each) / 2) / math.sqrt(3)
    assert curve(values, 1) == {"depth": [1], "value": [4.0], "low": [pytest.approx(4 - 1.96 * error)],
                                "high": [pytest.approx(4 + 1.96 * error)]}


def test_one_image_has_no_interval(backbone):
    with pytest.raises(CourseError, match="at least 2 images"):
        curves(backbone, Shapes("val", 32, 1))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["analysis", *arguments])
    try:
        cli.main(program.main)
    except SystemExit as end:
        return end.code
    return 0


def test_the_command_writes_them_beside_the_control(tmp_path, monkeypatch, capsys):
    out = tmp_path / "x.json"
    assert run(monkeypatch, "curves", "shapes/mocov3", "--images", "4", "--out", str(out)) == 0
    result = json.loads(out.read_text())
    assert result["images"] == 4 and result["command"].startswith("python -m lib.analysis curves shapes/mocov3")
    out.rename(tmp_path / "shapes-mocov3-curves.json")
    assert written("shapes", "mocov3", folder=tmp_path) == result["trained"]
    assert written("shapes", "mocov3", "untrained", tmp_path) == result["untrained"]
    with pytest.raises(CourseError, match=r"no curves of 'dino' in world 'shapes'; there are mocov3$"):
        written("shapes", "dino", folder=tmp_path)
    assert result["trained"]["nmi"]["value"] != result["untrained"]["nmi"]["value"]
    assert "trained                  nmi: " in capsys.readouterr().out


@pytest.mark.parametrize("arguments, message", [
    (["curve"], "there is no 'curve'; choose curves"),
    (["curves", "nowhere"], "nowhere"),
    (["curves", "shapes/mocov3", "--out", ""], "an empty name was given for --out"),
])
def test_bad_input_gets_a_line(monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error


def test_help_says_what_there_is(monkeypatch, capsys):
    assert run(monkeypatch) == 0 and "curves" in capsys.readouterr().out
