"""The attention explorer: point at a patch, and every model shows at once where that patch looks.

`explore(images, {"CL": vit, "MIM": vit})` computes the attention of all blocks and heads and sends it to the browser once,
a byte for each query and patch. From then on the pointer needs no kernel. Python sees and sets what is shown:
`explorer.query = 27`, `explorer.layer = 12`, `explorer.head = "mean"`, `explorer.view = "rollout"`.
"""
import io
from pathlib import Path

import numpy as np
import torch
import traitlets
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from lib.analysis.recording import layout_of
from lib.errors import CourseError
from lib.viz.checks import check_attention, check_fits, check_grid, check_images, check_networks, check_size
from lib.viz.explorer_data import VIEWS, Seen, check_cosines, look
from lib.viz.gallery import gallery, read_pictures
from lib.viz.heads import rank
from lib.viz.page import write_page
from lib.viz.plots import COLORS
from lib.viz.still import still
from lib.viz.widget import BadValue, Widget, check_number

HERE = Path(__file__).parent


def explore(images=None, models: dict[str, nn.Module] | None = None, names: list[str] | None = None) -> "AttentionExplorer":
    """An explorer of the attention of several models, side by side.

    images: uint8 (B, 3, H, W), or a list of paths, PIL images and uint8 (3, H, W), of which paths and PIL images are brought to
    the size that the models take; the default gallery of shapes and photographs if None. models: {label: timm-style ViT}, as
    `lib.models.zoo.load` gives them, all with the same grid of patches; they run in eval mode. names: what to call the images.
    Raises CourseError for images or models that do not fit, for attention that is not finite, and if there is too much.
    """
    if not isinstance(models, dict) or not models or not all(isinstance(label, str) for label in models):
        raise CourseError('explore needs at least one model: give models={"label": network}')
    models, size = dict(models), check_networks(models)
    if images is None:
        pictures = gallery(size[0])
        images, names = torch.stack(list(pictures.values())), list(pictures)
    elif not isinstance(images, Tensor | np.ndarray):
        images, found = read_pictures(images, size[0])
        names = found if names is None else names
    images = check_images(images)
    check_fits(images, models)
    layouts = {label: layout_of(model, images) for label, model in models.items()}
    first, layout = next(iter(layouts.items()))
    for label, other in layouts.items():
        if other.grid != layout.grid:
            raise CourseError(f"{first!r} sees {layout.grid[0]} x {layout.grid[1]} patches and {label!r} {other.grid[0]} x "
                              f"{other.grid[1]}; models side by side need the same grid")
    maps = sum(sum(block.attn.num_heads + 2 for block in model.blocks) for model in models.values())
    _check_bytes(len(images), maps, layout.grid)
    attention, cosines = look(models, images)
    return AttentionExplorer(images, attention, layout.grid, names, cosines, models)


def _check_bytes(images: int, maps: int, grid: tuple[int, int]) -> None:
    patches = grid[0] * grid[1]
    check_size(images * maps * (patches + 1) * patches, images)


class AttentionExplorer(Widget):
    """The explorer of attention that is at hand already: {label: (L, B, H, N, N)}, rows are queries and sum to 1.

    grid: rows and columns of patches, the last tokens; the first of any tokens before them is CLS. cosines: {label: (L, B, N,
    N)} of the tokens behind each block, for the view "similarity", which is left out without them. networks: {label: ViT}, so
    that images can be added, here with `add` and in a notebook with a button.
    Traits, each seen and set from Python and linkable to any ipywidget: `view` ("attention", "rollout" or "similarity"),
    `query` (patch from 0, row by row; -1 is CLS), `layer` and `head` (from 1; head also "mean" or "all", and without a meaning
    but in the view "attention"), `image` (from 0), `overlay` (0 to 1), `scale` ("own": each map is as bright as its brightest
    patch, "shared": one scale for all models). A model with fewer layers or heads shows its last.
    Raises CourseError for whatever does not fit, before anything is sent.
    """
    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("dom.js", "attention.js", "explorer.js"))
    _css = (HERE / "explorer.css").read_text(encoding="utf-8")

    meta = traitlets.Dict().tag(sync=True)                        # what the browser needs to know of images and models
    codes = traitlets.Bytes().tag(sync=True)                      # as in `Quantized`, one model after the other
    brightest = traitlets.Bytes().tag(sync=True)
    outside = traitlets.Bytes().tag(sync=True)
    rollout = traitlets.List(traitlets.Bytes()).tag(sync=True)    # the same three, with one head
    similarity = traitlets.List(traitlets.Bytes()).tag(sync=True)                 # as in `QuantizedCosines`, or empty
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)   # PNG files

    view = traitlets.Enum(VIEWS, default_value="attention").tag(sync=True)
    query = traitlets.Int().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    head = traitlets.Union([traitlets.Int(), traitlets.Enum(["mean", "all"])], default_value="mean").tag(sync=True)
    image = traitlets.Int(0).tag(sync=True)
    overlay = traitlets.Float(0.75).tag(sync=True)
    scale = traitlets.Enum(["own", "shared"], default_value="own").tag(sync=True)

    def __init__(self, images: Tensor, attention: dict[str, Tensor], grid: tuple[int, int], names: list[str] | None = None,
                 cosines: dict[str, Tensor] | None = None, networks: dict[str, nn.Module] | None = None, **shown):
        images, (rows, columns) = check_images(images), check_grid(grid)
        names = [f"image {n}" for n in range(len(images))] if names is None else names
        if not isinstance(names, list | tuple) or len(names) != len(images):
            given = f"{len(names)} names" if isinstance(names, list | tuple) else f"names = {names!r}"
            raise CourseError(f"{given} were given for {len(images)} images; give a list with one for each")
        if not isinstance(attention, dict) or not attention or not all(isinstance(label, str) for label in attention):
            raise CourseError("no models were given; expected {label: attention}")
        for label, maps in attention.items():
            check_attention(label, maps, len(images), rows * columns)
        if cosines is not None:
            check_cosines(attention, cosines)
        self._maps = sum(maps.shape[0] * (maps.shape[2] + 2) for maps in attention.values())
        _check_bytes(len(images), self._maps, grid)

        self.images, self.grid, self._networks = images, (rows, columns), networks
        self._seen = Seen(attention, cosines, self.grid, (images.shape[2] / rows, images.shape[3] / columns))
        models = [{"label": label, "layers": maps.shape[0], "heads": maps.shape[2], "cls": self._seen.prefix[label] > 0,
                   "color": _color(label), "statistics": self._seen.statistics[label]} for label, maps in attention.items()]
        meta = {"models": models, "images": [str(name) for name in names], "rows": rows, "columns": columns,
                "views": list(self._seen.views), "aspect": images.shape[3] / images.shape[2], "open": networks is not None}
        start = {"query": rows // 2 * columns + columns // 2, "layer": max(model["layers"] for model in models)}
        super().__init__(meta=meta, **self._data(range(len(images))), **start | shown)
        self.on_msg(self._received)

    def _data(self, images, small: bool = False) -> dict:
        """The traits that are bytes, of some of the images."""
        images = list(images)
        return self._seen.traits(images, small) | {"pictures": [_png(self.images[image]) for image in images]}

    def add(self, image, name: str | None = None) -> None:
        """Let the models look at one more image, and show it: a path, a PIL image, or uint8 (3, H, W).

        Raises CourseError for a file that cannot be read, if there is too much, and if the explorer has no models.
        """
        if self._networks is None:
            raise CourseError("this explorer was made of attention alone and has no models to look at another image; make one "
                              "with explore(images, models)")
        images, _ = read_pictures([image], self.images.shape[2])
        if images.shape[2:] != self.images.shape[2:]:
            had, came = (" x ".join(str(n) for n in some.shape[2:]) for some in (self.images, images))
            raise CourseError(f"the images here are {had} pixels, this one is {came}; give uint8 (3, H, W) of that size")
        name = name or (Path(image).stem if isinstance(image, str | Path) else f"image {len(self.images)}")
        _check_bytes(len(self.images) + 1, self._maps, self.grid)
        seen = Seen(*look(self._networks, images), self.grid,
                    (images.shape[2] / self.grid[0], images.shape[3] / self.grid[1]))
        self._seen.add(seen)
        self.images = torch.cat([self.images, images])
        models = [model | {"statistics": self._seen.statistics[model["label"]]} for model in self.meta["models"]]
        with self.hold_sync():
            for trait, value in self._data(range(len(self.images))).items():
                self.set_trait(trait, value)
            self.meta = self.meta | {"models": models, "images": [*self.meta["images"], name]}
            self.image = len(self.images) - 1

    def _received(self, _, content: dict, buffers: list) -> None:
        """The browser sends an image: the bytes of a PNG and its name. Whatever is wrong with it is said there."""
        if "add" not in content:
            return
        try:
            with Image.open(io.BytesIO(bytes(buffers[0]))) as picture:
                self.add(picture, str(content["add"]))
            self.send({"added": True})
        except UnidentifiedImageError:
            self.send({"problem": "this is no image that can be read; give a PNG or JPEG file"})
        except Exception as error:                                 # whatever it is, it is said where the image was given
            self.send({"problem": str(error) if isinstance(error, CourseError) else f"{type(error).__name__}: {error}"})

    @traitlets.validate("query", "layer", "head", "image", "overlay")
    def _in_range(self, proposal):
        name, value, models = proposal["trait"].name, proposal["value"], self.meta["models"]
        low, high, what = {
            "query": (-1, self.grid[0] * self.grid[1] - 1, "a patch, or -1 for CLS"),
            "layer": (1, max(model["layers"] for model in models), "a layer"),
            "head": (1, max(model["heads"] for model in models), 'a head, "mean" or "all"'),
            "image": (0, len(self.images) - 1, "an image"),
            "overlay": (0, 1, "a share"),
        }[name]
        if not isinstance(value, str):
            check_number(name, value, low, high, what)
        return value

    @traitlets.validate("view")
    def _is_there(self, proposal):
        if proposal["value"] not in self.meta["views"]:
            raise BadValue(f"there is no view {proposal['value']!r} here: it needs the cosines of tokens, which "
                           f"explore(images, models) brings; there are {', '.join(self.meta['views'])}")
        return proposal["value"]

    def map(self, label: str, head: int | str | None = None) -> np.ndarray:
        """The map that a model shows now: float32 (rows, columns), cosines for the view "similarity", else shares of 1.

        head: another one than the chosen, from 1; for "all" it is the mean of heads. A model without CLS has no map of its
        query: zeros. Raises CourseError for another label or head.
        """
        model = self._model(label)
        if head is not None and head not in ("mean", "all"):
            if not isinstance(head, int):
                raise CourseError(f'head = {head!r} does not exist; give a number from 1, or "mean"')
            check_number("head", head, 1, model["heads"], "a head")
        quantized, head = self._seen.views[self.view][label], head or self.head
        query = self.query + model["cls"]
        if query < 0:
            return np.zeros(self.grid, np.float32)
        heads = range(model["heads"]) if isinstance(head, str) else [min(head, model["heads"]) - 1]
        heads = heads if self.view == "attention" else [0]
        rows = [quantized.row(self.image, min(self.layer, model["layers"]) - 1, h, query) for h in heads]
        return np.mean(rows, axis=0).reshape(self.grid)

    def statistics(self, label: str) -> dict[str, tuple[float, int | None]]:
        """Of the chosen head: {"distance" (px) | "entropy" (nats) | "nmi": (mean over images, rank among all heads)}.

        Rank 1 has the largest value. For "mean" and "all" it is the mean over the layer's heads, without a rank.
        """
        model = self._model(label)
        layer = min(self.layer, model["layers"]) - 1
        if isinstance(self.head, str):
            return {name: (float(np.mean(values[layer])), None) for name, values in model["statistics"].items()}
        head = min(self.head, model["heads"]) - 1
        return {name: (values[layer][head], rank(values, layer, head)) for name, values in model["statistics"].items()}

    def _model(self, label: str) -> dict:
        models = {model["label"]: model for model in self.meta["models"]}
        if label not in models:
            raise CourseError(f"there is no model {label!r} here; there are {', '.join(models)}")
        return models[label]

    def __repr__(self) -> str:
        models = "; ".join(f"{m['label']}: {m['layers']} layers x {m['heads']} heads" for m in self.meta["models"])
        return f"AttentionExplorer(images: {len(self.images)}, patches: {self.grid[0]} x {self.grid[1]}; {models})"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture, alt = still(self)
        return data | {"text/plain": repr(self), "image/png": picture}, metadata | {"image/png": {"alt": alt}}

    def to_html(self, path: str | Path, images: list[int] | None = None) -> Path:
        """Write one page that shows the explorer without a kernel and without a network, and return its path.

        images: positions of those to put into the page, all if None; its size grows with images times models. What a query
        gives to a patch is rounded to 33 steps there (`lib.viz.quantized.coarse`). The page is written whole or not at all.
        Raises CourseError for images that are not there, and if the folder does not exist.
        """
        images = list(range(len(self.images))) if images is None else images
        if not (isinstance(images, list | tuple) and images and all(type(image) is int and 0 <= image < len(self.images)
                                                                    for image in images)):
            raise CourseError(f"a page cannot show images {images}; give some of 0 to {len(self.images) - 1}")
        state = {name: getattr(self, name) for name in ("view", "query", "layer", "head", "overlay", "scale")}
        state["meta"] = self.meta | {"open": False, "images": [self.meta["images"][image] for image in images]}
        state["image"] = images.index(self.image) if self.image in images else 0
        return write_page(path, "Attention explorer: " + ", ".join(model["label"] for model in self.meta["models"]),
                          self._esm, self._css, state, self._data(images, small=True))


def _color(label: str) -> str | None:
    """The course's colour of a method, where the label names one: "SimMIM", "MoCo v3" and the like."""
    return COLORS.get(label.lower().replace(" ", "").replace("-", ""))


def _png(image: Tensor) -> bytes:
    """uint8 (3, H, W) as a file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()
