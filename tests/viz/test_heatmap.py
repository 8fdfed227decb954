"""Heat maps: what the browser is handed, the picture that stands for it, and a line for bad input."""
import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from lib.errors import CourseError
from lib.viz.heatmap import HeatMaps

MAPS = {"first": torch.arange(6.0).reshape(2, 3), "second": torch.full((2, 3), 3.0)}


def heat(**changes):
    given = {"maps": MAPS, "rows": [1, 2], "columns": ["a", "b", "c"], "axes": ("block", "part")} | changes
    return HeatMaps(**given)


def test_the_value_under_the_pointer():
    shown = heat()
    assert shown.under_pointer() == {"first": 0.0, "second": 3.0}
    shown.row, shown.column = 1, 2
    assert shown.under_pointer() == {"first": 5.0, "second": 3.0}
    np.testing.assert_array_equal(np.frombuffer(shown.values, "<f4").reshape(2, 2, 3)[0], MAPS["first"])


def test_row_0_is_at_the_bottom_and_one_scale_serves_all():
    first, second = (np.asarray(Image.open(io.BytesIO(picture))).astype(int) for picture in heat().pictures)
    brightness = first.sum(-1)
    assert first.shape == (2, 3, 3) and brightness[1, 0] == brightness.min() and brightness[0, 2] == brightness.max()
    np.testing.assert_array_equal(second, np.broadcast_to(first[0, 0], (2, 3, 3)))               # 3 in both


def test_without_a_kernel_a_picture_and_a_name():
    shown = heat()
    bundle, metadata = shown._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == repr(shown) == "Heat maps of CKA: first, second" == metadata["image/png"]["alt"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize("change, message", [
    (dict(maps={}), "no maps were given"),
    (dict(rows=[1]), r"the map 'first' has shape \(2, 3\); 1 rows and 3 columns are named"),
    (dict(maps={"odd": torch.tensor([[1.0, 2, float("nan")]] * 2)}), "the map 'odd' holds 2 values that are not finite"),
    (dict(maps={"flat": torch.ones(2, 3)}), "the colour scale runs from 1 to 1; give low and high, low < high"),
    (dict(row=2), "row = 2 does not exist; give a row, from 0 to 1"),
    (dict(column=-1), "column = -1 does not exist; give a column, from 0 to 2"),
])
def test_bad_input_gets_a_line(change, message):
    with pytest.raises(CourseError, match=message):
        heat(**change)
