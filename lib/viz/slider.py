"""A figure that a slider redraws: drawn once for every position, so that the pointer never waits for matplotlib."""
import base64

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure

from lib.errors import CourseError
from lib.viz.plots import check_readable, png_of


def slide(figures: dict[str, Figure], description: str, alt: str, start: str | None = None) -> None:
    """Display a slider with a position for each figure, and below it the figure of that position.

    start: where it stands at first, the first figure if left out. A saved notebook, and a page without a kernel, show the
    figure of `start` as a picture; `alt` is its text, in at least 20 characters. Draw all figures with the same axes.
    Raises CourseError if there are fewer than two figures, no such start, or if the text or a label of an axis is missing.
    """
    if not isinstance(figures, dict) or not all(isinstance(figure, Figure) for figure in figures.values()):
        raise CourseError("a slider takes {position: matplotlib figure}")
    if len(figures) < 2:
        raise CourseError(f"a slider needs at least two figures, got {len(figures)}")
    start = next(iter(figures)) if start is None else start
    if start not in figures:
        raise CourseError(f"the slider has no position {start!r}; it has {', '.join(figures)}")
    for figure in figures.values():
        check_readable(figure, alt)
    pictures = {name: png_of(figure) for name, figure in figures.items()}
    slider = ipywidgets.SelectionSlider(options=list(pictures), value=start, description=description)
    image = ipywidgets.Image(value=pictures[start], format="png", layout=ipywidgets.Layout(max_width="100%"))

    def redraw(change) -> None:
        image.value = pictures[change["new"]]

    slider.observe(redraw, names="value")
    bundle = ipywidgets.VBox([slider, image])._repr_mimebundle_()
    display(bundle | {"image/png": base64.b64encode(pictures[start]).decode(), "text/plain": alt},
            metadata={"image/png": {"alt": alt}}, raw=True)
