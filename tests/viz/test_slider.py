"""The slider shows the figure of its position, and a saved notebook shows the first."""
import base64

import ipywidgets
import matplotlib.pyplot as plt
import pytest

from lib.errors import CourseError
from lib.viz import slider

ALT = "A line that rises, steeper with every position of the slider."


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, (bundle, metadata), and the slider and image in it."""
    calls, boxes, box = [], [], ipywidgets.VBox
    monkeypatch.setattr(slider, "display", lambda bundle, metadata, raw: calls.append((bundle, metadata)))
    monkeypatch.setattr(ipywidgets, "VBox", lambda children: boxes.append(children) or box(children))
    return calls, boxes


def figures():
    drawn = {}
    for slope in (1, 2, 3):
        drawn[str(slope)], axis = plt.subplots(figsize=(2, 2))
        axis.plot([0, slope])
        axis.set(xlabel="x", ylabel="y")
    return drawn


def test_every_position_shows_its_figure(shown):
    calls, boxes = shown
    slider.slide(figures(), "slope", ALT, start="2")
    (bundle, metadata), (bar, image) = calls[0], boxes[0]
    first = bytes(image.value)
    assert base64.b64decode(bundle["image/png"]) == first and bundle["text/plain"] == ALT
    assert "application/vnd.jupyter.widget-view+json" in bundle and metadata["image/png"]["alt"] == ALT
    seen = {}
    for name in ("1", "2", "3"):
        bar.value = name
        seen[name] = bytes(image.value)
    assert seen["2"] == first and len(set(seen.values())) == 3
    assert all(picture.startswith(b"\x89PNG") and b"Software" not in picture for picture in seen.values())
    assert not plt.get_fignums()


@pytest.mark.parametrize("change, message", [
    (dict(figures={}), "at least two figures, got 0"),
    (dict(start="4"), "no position '4'; it has 1, 2, 3"),
    (dict(alt="a line"), "too short"),
])
def test_bad_input_gets_a_line(change, message):
    arguments = {"figures": figures(), "description": "slope", "alt": ALT} | change
    with pytest.raises(CourseError, match=message):
        slider.slide(**arguments)
    plt.close("all")
