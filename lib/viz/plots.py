"""How every figure of the course looks, and how it is shown: one colour a method, labelled axes, alt text."""
import base64
import io
import math

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lib.errors import CourseError

# Okabe and Ito (2008), a palette that colour-blind readers can tell apart: contrastive methods are blue, masked ones
# orange, the hybrid of both green, and the controls have no colour.
COLORS = {
    "mocov3": "#0072B2",
    "dino": "#56B4E9",
    "simmim": "#D55E00",
    "mae": "#E69F00",
    "hybrid": "#009E73",
    "supervised": "#000000",
    "untrained": "#999999",
}


def style() -> None:
    """Set matplotlib's defaults for a figure that is read in a notebook."""
    plt.rcParams.update({
        "figure.dpi": 110,
        "figure.figsize": (6.5, 3),
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.prop_cycle": cycler(color=[*COLORS.values(), "#CC79A7"]),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#E6E6E6",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "image.cmap": "cividis",
        "image.interpolation": "nearest",
    })


def _has_label(axes: Axes, x_or_y: str) -> bool:
    """Has this axis a label, of its own, of an axis that it shares its scale with, or of the whole figure?"""
    figure = axes.get_figure(root=True)
    if x_or_y == "x":
        return bool(figure.get_supxlabel() or any(a.get_xlabel() for a in axes.get_shared_x_axes().get_siblings(axes)))
    return bool(figure.get_supylabel() or any(a.get_ylabel() for a in axes.get_shared_y_axes().get_siblings(axes)))


def show(figure: Figure, alt: str) -> None:
    """Display a figure with alt text, and close it.

    `alt` says what the figure shows to a reader who cannot see it, in at least 20 characters. It is the text form of
    the output, which the tests compare, and goes into its metadata under the key that IPython and nbconvert's classic
    template use (JupyterLab 4.6 reads none). Axes with lines, points or bars need a label on x and y; axes that show an
    image, and axes that are switched off, need none.
    Raises CourseError if the text or a label is missing.
    """
    check_readable(figure, alt)
    display({"image/png": base64.b64encode(png_of(figure)).decode(), "text/plain": alt},
            metadata={"image/png": {"alt": alt}}, raw=True)


def check_readable(figure: Figure, alt: str) -> None:
    """Raises CourseError unless the figure has alt text, and its axes have labels where they need them."""
    if not isinstance(alt, str) or len(alt.strip()) < 20:
        raise CourseError(f"the alt text {alt!r} is too short: say in at least 20 characters what the figure shows")
    for axes in figure.axes:
        if axes.images:
            axes.grid(False)
        if axes.images or not (axes.get_visible() and axes.axison) or axes.get_label() == "<colorbar>":
            continue
        for x_or_y in "xy":
            if (axes.lines or axes.collections or axes.patches) and not _has_label(axes, x_or_y):
                raise CourseError(f"the axes {axes.get_title()!r} have no {x_or_y} label: "
                                  f"call axes.set_{x_or_y}label with the quantity and its unit")


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG; the figure is closed."""
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})               # no version of matplotlib in the file
    plt.close(figure)
    return png.getvalue()


def image_grid(images: Tensor, titles: list[str] | None = None, rows: int = 1) -> Figure:
    """Images side by side, row by row, without ticks: uint8 (B, 3, H, W), or floating point from 0 to 1.

    Raises CourseError for another shape, values outside 0 ... 1, a number of titles that is not B, more rows than images.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        came = f"a tensor of shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise CourseError(f"image_grid got {came}: give it images (B, 3, H, W), B > 0, as a tensor")
    if images.is_floating_point() and not (images.min() >= 0 and images.max() <= 1):
        raise CourseError(f"image_grid got values from {images.min():.2f} to {images.max():.2f}, not from 0 to 1: "
                          "undo the normalisation of a view, then call .clamp(0, 1)")
    if titles is not None and len(titles) != len(images):
        raise CourseError(f"image_grid got {len(titles)} titles for {len(images)} images: give it one for each")
    if not 1 <= rows <= len(images):
        raise CourseError(f"image_grid got rows={rows} for {len(images)} images: give it 1 to {len(images)} rows")
    columns = math.ceil(len(images) / rows)
    height = 1.4 * images.shape[2] / images.shape[3] + (0.25 if titles else 0)
    figure, grid = plt.subplots(rows, columns, figsize=(1.4 * columns, height * rows), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    pictures = images.detach().float().cpu() if images.is_floating_point() else images.cpu()
    for index, axes in enumerate(grid.flat[:len(images)]):                       # the last row may have empty places
        axes.imshow(pictures[index].permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(titles[index] if titles else "", fontsize=9)
    return figure
