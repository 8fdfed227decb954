"""Pictures under controls: every setting is drawn beforehand, so that a turn needs neither matplotlib nor a kernel."""
import base64
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from lib.errors import CourseError
from lib.viz.page import write_page
from lib.viz.plots import image_grid, png_of
from lib.viz.widget import BadValue, Widget

HERE = Path(__file__).parent
MOST = 400                                                         # settings: what a browser holds without thinking of it


class Frames(Widget):
    """A slider for each control, and the pictures of the setting below them.

    draw(*values) -> images (B, 3, H, W), uint8 or float from 0 to 1, and a line of text about them; it is called once for
    every setting. controls: {name: {label: value}}, or {name: [value, ...]} where the values are labels enough. titles: one
    for each of the B pictures. start: {name: label} where the controls stand at first, the first label where none is given.
    alt: what there is to see, in at least 20 characters, for a reader who cannot see it.
    `position` holds the place of each control, and `setting` its label; both are seen and set from Python. Without a kernel
    the pictures of `start` stand there. Raises CourseError for controls, titles or a start that do not fit.
    """
    _esm = (HERE / "frames.js").read_text(encoding="utf-8")
    _css = (HERE / "frames.css").read_text(encoding="utf-8")

    meta = traitlets.Dict().tag(sync=True)
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)    # for each setting a PNG file, all images side by side
    position = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(self, draw: Callable[..., tuple[Tensor, str]], controls: dict[str, dict | list], titles: list[str], alt: str,
                 start: dict[str, str] | None = None):
        if (not isinstance(controls, dict) or not isinstance(start or {}, dict)
                or not all(isinstance(values, dict | list | tuple) for values in controls.values())):
            raise CourseError("controls are {name: {label: value}} or {name: [value, ...]}, start is {name: label}")
        if not isinstance(titles, list | tuple):
            raise CourseError(f"titles are a list, one for each picture, got a {type(titles).__name__}")
        ranges = {name: {str(label): value for label, value in values.items()} if isinstance(values, dict)
                  else {str(value): value for value in values} for name, values in controls.items()}
        for name, values in controls.items():
            if len(ranges[name]) != len(values):
                raise CourseError(f"the control {name!r} has one label for several settings: {', '.join(map(str, values))}")
        start = {name: str(label) for name, label in (start or {}).items()}
        count = int(np.prod([len(values) for values in ranges.values()])) if ranges else 0
        if not 2 <= count <= MOST:
            raise CourseError(f"the controls have {count} settings together; give 2 to {MOST}")
        if len(str(alt).strip()) < 20:
            raise CourseError(f"the alt text {alt!r} is too short: say in at least 20 characters what there is to see")
        self.alt, self.start = alt, self._places({name: list(values) for name, values in ranges.items()}, start or {})
        pictures, captions, size = [], [], None
        for number, values in enumerate(itertools.product(*(values.values() for values in ranges.values()))):
            images, caption = check_drawn(draw(*values), f"draw{values}", len(titles))
            size = size or images.shape
            if images.shape != size:
                raise CourseError(f"draw{values} gave images {tuple(images.shape)}, and those before were {tuple(size)}; draw "
                                  "all settings at one size")
            if number == self._number(self.start, ranges):
                self._first = images, caption
            pictures.append(png_of_row(images)), captions.append(caption)
        meta = {"controls": [{"name": name, "labels": list(values)} for name, values in ranges.items()],
                "titles": list(titles), "captions": captions, "alt": alt}
        super().__init__(meta=meta, pictures=pictures, position=list(self.start))

    @staticmethod
    def _places(labels: dict[str, list[str]], setting: dict[str, str]) -> list[int]:
        """{name: label} -> the place of each control, 0 where none is given."""
        for name, label in setting.items():
            if name not in labels:
                raise CourseError(f"there is no control {name!r}; there are {', '.join(labels)}")
            if label not in labels[name]:
                raise CourseError(f"{name} has no position {label!r}; it has {', '.join(labels[name])}")
        return [known.index(setting[name]) if name in setting else 0 for name, known in labels.items()]

    @staticmethod
    def _number(places: list[int], controls) -> int:
        """The last control runs fastest."""
        return int(np.ravel_multi_index(places, [len(values) for values in controls.values()]))

    @property
    def labels(self) -> dict[str, list[str]]:
        return {control["name"]: control["labels"] for control in self.meta["controls"]}

    @property
    def setting(self) -> dict[str, str]:
        """{name: label} of every control. Setting some of them leaves the others where they are."""
        return {name: known[place] for (name, known), place in zip(self.labels.items(), self.position)}

    @setting.setter
    def setting(self, changes: dict[str, str]) -> None:
        if not isinstance(changes, dict):
            raise CourseError(f"setting = {changes!r}; give {{name: label}}, of some controls or all")
        self.position = self._places(self.labels, self.setting | changes)

    @property
    def caption(self) -> str:
        """The line of text of the setting."""
        return self.meta["captions"][self._number(self.position, self.labels)]

    @traitlets.validate("position")
    def _in_range(self, proposal):
        lengths = [len(known) for known in self.labels.values()]
        places = proposal["value"]
        if len(places) != len(lengths) or not all(
                type(place) is int and 0 <= place < length for place, length in zip(places, lengths)):
            raise BadValue(f"position = {places} does not exist; the controls have {lengths} positions, from 0")
        return places

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, **kwargs):
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        bundle |= {"image/png": base64.b64encode(self.still()).decode(), "text/plain": self.alt}
        return bundle, metadata | {"image/png": {"alt": self.alt}}

    def to_html(self, path: str | Path) -> Path:
        """Write one page that works without a kernel and without a network, and return its path."""
        return write_page(path, self.alt, self._esm, self._css, {"meta": self.meta, "position": self.position},
                          {"pictures": self.pictures})

    def still(self) -> bytes:
        """The pictures of `start`, with what is set there and the line of text, as a PNG file."""
        images, caption = self._first
        figure = image_grid(images, self.meta["titles"])
        width, height = figure.get_size_inches()
        figure.set_size_inches(max(width, 6), height + 0.4)
        places = zip(self.labels.items(), self.start)
        figure.suptitle(" · ".join(f"{name}: {known[place]}" for (name, known), place in places), fontsize=9)
        figure.supxlabel(caption, fontsize=9)
        return png_of(figure)


def check_drawn(drawn, name: str, titles: int) -> tuple[Tensor, str]:
    """What `draw` gave. Raises CourseError unless it is images (B, 3, H, W), one for each title, and a line of text."""
    if not isinstance(drawn, tuple) or len(drawn) != 2 or not isinstance(drawn[0], Tensor):
        raise CourseError(f"{name} gave a {type(drawn).__name__}; expected images (B, 3, H, W) and a line of text")
    images, caption = drawn
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise CourseError(f"{name} gave images of shape {tuple(images.shape)}; expected (B, 3, H, W)")
    if len(images) != titles:
        raise CourseError(f"{name} gave {len(images)} images, and there are {titles} titles")
    if images.dtype != torch.uint8 and not (images.is_floating_point() and bool(((images >= 0) & (images <= 1)).all())):
        raise CourseError(f"{name} gave images of {images.dtype}, from {images.min():g} to {images.max():g}; expected uint8, "
                          "or float from 0 to 1")
    return images.detach(), str(caption)


def png_of_row(images: Tensor) -> bytes:
    """Images (B, 3, H, W) side by side, as a PNG file of H x BW pixels."""
    pixels = images if not images.is_floating_point() else (images.clamp(0, 1) * 255).round().byte()
    row = np.concatenate(list(pixels.permute(0, 2, 3, 1).cpu().numpy()), axis=1)                 # (H, B W, 3)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(row)).save(file, "PNG")
    return file.getvalue()
