"""Heat maps that say what is under the pointer: CKA of two networks by depth, say, several pairs side by side."""
import base64
import io
from collections.abc import Sized
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from PIL import Image
from torch import Tensor

from lib.errors import CourseError
from lib.viz.page import write_page
from lib.viz.plots import png_of
from lib.viz.widget import Widget, check_number

HERE = Path(__file__).parent


class HeatMaps(Widget):
    """Point at a cell: every panel says the value of that pair. A click keeps it, arrow keys move it. One scale for all panels.

    maps: {title: (R, C)}, finite, row 0 at the bottom. rows, columns: the name of each row and each column; axes: what rows
    and columns are. quantity: what a value is. low, high: the ends of the colour scale, the smallest and the largest value
    if left out. `row` and `column` are seen and set from Python. Without a kernel a picture of all panels stands there.
    Raises CourseError for maps that do not fit the names, are not finite, or if there are none.
    """
    _esm = (HERE / "heatmap.js").read_text(encoding="utf-8")
    _css = (HERE / "heatmap.css").read_text(encoding="utf-8")

    meta = traitlets.Dict().tag(sync=True)
    values = traitlets.Bytes().tag(sync=True)                      # float32 (panels, R, C)
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)    # PNG files of C x R pixels
    row = traitlets.Int(0).tag(sync=True)
    column = traitlets.Int(0).tag(sync=True)

    def __init__(self, maps: dict[str, Tensor], rows: list, columns: list, quantity: str = "CKA",
                 axes: tuple[str, str] = ("row", "column"), low: float | None = None, high: float | None = None, **shown):
        if not isinstance(maps, dict) or not maps:
            raise CourseError("no maps were given; expected {title: (rows, columns)}")
        if not all(isinstance(names, Sized) for names in (rows, columns)):
            raise CourseError("rows and columns are lists, the names of each")
        if not isinstance(axes, tuple | list) or len(axes) != 2:
            raise CourseError(f"axes = {axes!r}; give two names, what rows are and what columns are")
        shape, stack = (len(rows), len(columns)), {}
        for title, values in maps.items():
            try:
                values = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values
                stack[str(title)] = np.array(values, dtype=np.float32)               # a copy
            except (TypeError, ValueError):
                raise CourseError(f"the map {title!r} is no array of numbers, (rows, columns)") from None
        for title, values in stack.items():
            if values.shape != shape or 0 in shape:
                raise CourseError(f"the map {title!r} has shape {values.shape}; {shape[0]} rows and {shape[1]} columns are "
                                  "named")
            if not np.isfinite(values).all():
                bad = np.count_nonzero(~np.isfinite(values))
                raise CourseError(f"the map {title!r} holds {bad} values that are not finite")
        self.maps = stack
        self.low = min(float(values.min()) for values in stack.values()) if low is None else float(low)
        self.high = max(float(values.max()) for values in stack.values()) if high is None else float(high)
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise CourseError(f"the colour scale runs from {self.low:g} to {self.high:g}; give low and high, low < high")
        meta = {"titles": list(stack), "rows": [str(name) for name in rows], "columns": [str(name) for name in columns],
                "quantity": quantity, "axes": list(axes), "low": self.low, "high": self.high}
        super().__init__(meta=meta, values=np.stack(list(stack.values())).tobytes(),
                         pictures=[self._png(values) for values in stack.values()], **shown)

    @traitlets.validate("row", "column")
    def _in_range(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        most = len(self.meta[f"{name}s"]) - 1
        check_number(name, value, 0, most, f"a {name}")
        return value

    def under_pointer(self) -> dict[str, float]:
        """The value of each panel at (`row`, `column`)."""
        return {title: float(values[self.row, self.column]) for title, values in self.maps.items()}

    def _png(self, values: np.ndarray) -> bytes:
        shares = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        colors = matplotlib.colormaps["cividis"](shares[::-1], bytes=True)[..., :3]               # row 0 at the bottom
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(colors)).save(file, "PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        return f"Heat maps of {self.meta['quantity']}: {', '.join(self.maps)}"

    def _repr_mimebundle_(self, **kwargs):
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        bundle |= {"image/png": base64.b64encode(self.still()).decode(), "text/plain": repr(self)}
        return bundle, metadata | {"image/png": {"alt": repr(self)}}

    def to_html(self, path: str | Path) -> Path:
        """Write one page that shows the maps without a kernel and without a network, and return its path."""
        state = {"meta": self.meta, "row": self.row, "column": self.column}
        return write_page(path, repr(self), self._esm, self._css, state, {"values": self.values, "pictures": self.pictures})

    def still(self) -> bytes:
        """All panels beside each other with their scale, as a PNG file."""
        figure, panels = plt.subplots(1, len(self.maps), figsize=(2.3 * len(self.maps) + 0.9, 2.6), squeeze=False, dpi=110,
                                      layout="constrained")
        for axis, (title, values) in zip(panels[0], self.maps.items()):
            drawn = axis.imshow(values, vmin=self.low, vmax=self.high, cmap="cividis", origin="lower", aspect="auto",
                                interpolation="nearest")
            axis.grid(False)
            axis.set_title(title, fontsize=9)
            axis.set(xlabel=self.meta["axes"][1])
            for set_ticks, names in ((axis.set_xticks, self.meta["columns"]), (axis.set_yticks, self.meta["rows"])):
                places = np.unique(np.linspace(0, len(names) - 1, min(len(names), 5)).round().astype(int))
                set_ticks(places, [names[place] for place in places], fontsize=8)
            if len(self.maps) > 2:                                                         # no room side by side
                axis.tick_params("x", rotation=60)
        panels[0][0].set_ylabel(self.meta["axes"][0])
        figure.colorbar(drawn, ax=panels[0].tolist(), label=self.meta["quantity"])
        return png_of(figure)
