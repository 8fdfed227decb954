"""Frames: every setting has its own pictures and its own line, and bad input gets a line of its own."""
import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from lib.errors import CourseError
from lib.viz.frames import Frames, png_of_row

ALT = "Two flat pictures, as bright as the controls say."
CONTROLS = {"left": {"dark": 0, "light": 200}, "right": [10, 20, 30]}


def flat(left, right):
    levels = torch.tensor([left, right], dtype=torch.uint8)
    return levels[:, None, None, None].expand(2, 3, 4, 5), f"{left} and {right}"


def frames(**changes):
    return Frames(**{"draw": flat, "controls": CONTROLS, "titles": ["one", "two"], "alt": ALT} | changes)


def levels(shown):
    """What the browser shows: the grey of both pictures."""
    labels = [control["labels"] for control in shown.meta["controls"]]
    row = np.asarray(Image.open(io.BytesIO(shown.pictures[shown.position[0] * len(labels[1]) + shown.position[1]])))
    assert row.shape == (4, 10, 3)
    return row[0, 0, 0], row[0, 9, 0]


def test_every_setting_shows_its_pictures_and_its_line():
    shown = frames()
    assert len(shown.pictures) == 6
    for a, (name, left) in enumerate(CONTROLS["left"].items()):
        for b, right in enumerate(CONTROLS["right"]):
            shown.position = [a, b]
            assert shown.setting == {"left": name, "right": str(right)}
            assert levels(shown) == (left, right) and shown.caption == f"{left} and {right}"


def test_python_sets_by_name_and_starts_where_it_is_told():
    shown = frames(start={"right": "20"})
    assert shown.setting == {"left": "dark", "right": "20"} and shown.position == [0, 1]
    shown.setting = {"left": "light"}
    assert shown.position == [1, 1] and levels(shown) == (200, 20)


def test_without_a_kernel_the_pictures_of_the_start():
    shown = frames(start={"left": "light"})
    first = shown.still()
    shown.position = [0, 2]
    bundle, metadata = shown._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == first == shown.still() != frames().still()
    assert bundle["text/plain"] == repr(shown) == ALT == metadata["image/png"]["alt"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    images, caption = shown._first                                 # what the picture is made of
    assert images[:, 0, 0, 0].tolist() == [200, 10] and caption == "200 and 10"


def test_floats_are_rounded_to_bytes():
    row = np.asarray(Image.open(io.BytesIO(png_of_row(torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 3, 2, 2)))))
    assert row[0, ::2, 1].tolist() == [0, 128, 255]


@pytest.mark.parametrize("change, message", [
    (dict(controls={}), "the controls have 0 settings together; give 2 to 400"),
    (dict(controls={"left": [1], "right": []}), "the controls have 0 settings"),
    (dict(controls={"left": list(range(21)), "right": list(range(20))}), "the controls have 420 settings"),
    (dict(titles=["one"]), r"draw\(0, 10\) gave 2 images, and there are 1 titles"),
    (dict(start={"middle": "dark"}), "there is no control 'middle'; there are left, right"),
    (dict(start={"left": "grey"}), "left has no position 'grey'; it has dark, light"),
    (dict(alt="pictures"), "too short"),
    (dict(draw=lambda *values: (torch.zeros(2, 1, 4, 4), "")), r"draw\(0, 10\) gave images of shape \(2, 1, 4, 4\)"),
])
def test_bad_input_gets_a_line(change, message):
    with pytest.raises(CourseError, match=message):
        frames(**change)


@pytest.mark.parametrize("position", [[0, 3], [-1, 0], [0]])
def test_a_position_that_does_not_exist_changes_nothing(position):
    shown = frames()
    with pytest.raises(CourseError, match=r"does not exist; the controls have \[2, 3\] positions, from 0"):
        shown.position = position
    assert shown.position == [0, 0]
