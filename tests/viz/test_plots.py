import base64

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from lib.errors import CourseError
from lib.viz import plots

ALT = "A line that rises from one to three"


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as (mime bundle, metadata); figures are drawn without a window and in matplotlib's defaults."""
    matplotlib.use("Agg")
    displayed = []
    monkeypatch.setattr(plots, "display", lambda data, metadata, raw: displayed.append((data, metadata)))
    with matplotlib.rc_context():
        yield displayed
    plt.close("all")


def line(xlabel="epoch", ylabel="loss"):
    figure, axes = plt.subplots()
    axes.plot([1, 2, 3])
    axes.set_xlabel(xlabel), axes.set_ylabel(ylabel)
    return figure


def test_a_figure_carries_its_alt_text_and_is_closed(shown):
    plots.style()
    plots.show(line(), ALT)
    [(data, metadata)] = shown
    png = base64.b64decode(data["image/png"])
    assert data.keys() == {"image/png", "text/plain"} and data["text/plain"] == ALT
    assert metadata == {"image/png": {"alt": ALT}}
    assert png.startswith(b"\x89PNG") and b"atplotlib" not in png
    assert plt.get_fignums() == []


def test_the_same_figure_gives_the_same_bytes(shown):
    plots.show(line(), ALT), plots.show(line(), ALT)
    assert shown[0] == shown[1]


def test_short_alt_text_is_refused(shown):
    with pytest.raises(CourseError, match="too short"):
        plots.show(line(), "a line   " + " " * 20)
    assert shown == []


@pytest.mark.parametrize("draw", [
    lambda axes: axes.plot([1, 2]), lambda axes: axes.scatter([1], [2]), lambda axes: axes.bar([1], [2]),
    lambda axes: axes.fill_between([1, 2], [1, 2]),
])
@pytest.mark.parametrize("missing", ["x", "y"])
def test_data_without_an_axis_label_is_refused(shown, draw, missing):
    figure, axes = plt.subplots()
    draw(axes)
    axes.set_ylabel("loss") if missing == "x" else axes.set_xlabel("epoch")
    with pytest.raises(CourseError, match=f"no {missing} label"):
        plots.show(figure, ALT)


def test_shared_figure_wide_and_unneeded_labels_are_accepted(shown):
    figure, axes = plt.subplots(1, 2, sharey=True)
    for ax in axes:
        ax.plot([1, 2]), ax.set_xlabel("epoch")
    axes[0].set_ylabel("loss")
    plots.show(figure, ALT)
    figure, axes = plt.subplots(1, 2)
    axes[0].plot([1, 2]), axes[1].plot([1, 2])
    figure.supxlabel("epoch"), figure.supylabel("loss")
    plots.show(figure, ALT)
    figure, axes = plt.subplots(1, 3)
    figure.colorbar(axes[0].imshow([[1, 2]]))
    axes[1].plot([1, 2]), axes[1].set_axis_off()
    axes[2].plot([1, 2]), axes[2].set_visible(False)
    plots.show(figure, ALT)
    assert len(shown) == 3


def test_colours_are_distinct_and_complete():
    assert list(plots.COLORS) == ["mocov3", "dino", "simmim", "mae", "hybrid", "supervised", "untrained"]
    assert len(set(plots.COLORS.values())) == 7


def test_image_grid_shows_each_image_as_it_is(shown):
    images = torch.randint(256, (5, 3, 4, 6), dtype=torch.uint8)
    figure = plots.image_grid(images, titles=list("abcde"), rows=2)
    assert len(figure.axes) == 6
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == list("abcde")
    for axes, image in zip(drawn, images, strict=True):
        assert axes.images[0].get_interpolation() == "nearest"
        assert (torch.as_tensor(axes.images[0].get_array()) == image.permute(1, 2, 0)).all()
    plots.show(plots.image_grid(images / 255), ALT)
    assert len(shown) == 1


@pytest.mark.parametrize("images, settings, message", [
    (torch.zeros(3, 8, 8), {}, r"\(3, 8, 8\)"),
    (torch.zeros(2, 1, 8, 8), {}, r"\(2, 1, 8, 8\)"),
    (torch.zeros(0, 3, 8, 8), {}, "B > 0"),
    (torch.full((1, 3, 8, 8), 1.5), {}, "from 1.50 to 1.50"),
    (torch.full((1, 3, 8, 8), -0.1), {}, "normalisation"),
    (torch.full((1, 3, 8, 8), torch.nan), {}, "nan"),
    (torch.zeros(2, 3, 8, 8), {"rows": 3}, "rows=3 for 2 images"),
    (torch.zeros(2, 3, 8, 8), {"titles": ["one"]}, "1 titles for 2 images"),
])
def test_image_grid_refuses(images, settings, message):
    with pytest.raises(CourseError, match=message):
        plots.image_grid(images, **settings)
