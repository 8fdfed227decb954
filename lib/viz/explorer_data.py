"""What the explorer hands to the browser: three views of what models make of images, a byte a patch.

*attention*: where a query looks, in each head. *rollout*: where it draws from through all blocks so far.
*similarity*: cosine of the query's token, behind a block, with those of all patches. The last two have no heads.
"""
import numpy as np
import torch
from torch import Tensor, nn

from lib.analysis.attention import AttentionMaps, patch_distances
from lib.analysis.recording import Layout, layout_of, observe
from lib.analysis.rollout import attention_rollout, token_cosines
from lib.errors import CourseError
from lib.viz.heads import head_statistics
from lib.viz.quantized import coarse, join, parts, quantize, quantize_cosines

VIEWS = ("attention", "rollout", "similarity")


class TokenCosines:
    """Keeps the cosines of all tokens, prefix too, behind every block: (L, B, N, N)."""
    reads = "tokens"

    def start(self, layout: Layout) -> None:
        self.cosines = []

    def update(self, depth: int, tokens: Tensor) -> None:
        if depth > 0:
            self.cosines.append(token_cosines(tokens))

    def compute(self) -> dict[str, Tensor]:
        return {"cosines": torch.stack(self.cosines)}


def look(models: dict[str, nn.Module], images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Attention (L, B, H, N, N) and cosines of tokens (L, B, N, N) of each model, from one pass over the images."""
    attention, cosines = {}, {}
    for label, model in models.items():
        layout, metrics = layout_of(model, images), [AttentionMaps(), TokenCosines()]
        for metric in metrics:
            metric.start(layout)
        observe(model, images, metrics, layout)
        attention[label], cosines[label] = metrics[0].compute()["maps"].cpu(), metrics[1].compute()["cosines"].cpu()
    return attention, cosines


def check_cosines(attention: dict[str, Tensor], cosines: dict[str, Tensor]) -> None:
    """Raises CourseError unless each model has cosines (L, B, N, N) that go with its attention, all from -1 to 1."""
    if not isinstance(cosines, dict):
        raise CourseError(f"cosines are a {type(cosines).__name__}; expected {{label: (layers, images, tokens, tokens)}}")
    for label, maps in attention.items():
        shape = (*maps.shape[:2], *maps.shape[3:])
        found = cosines.get(label)
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise CourseError(f"cosines of {label!r} have shape {came}; expected "
                              f"{shape}, (layers, images, tokens, tokens), as its attention has")
        if not bool((found.abs() <= 1.001).all()):               # nan is not
            raise CourseError(f"cosines of {label!r} hold values that are not from -1 to 1")


class Seen:
    """What every model makes of every image, quantised: `views[view][label]`, and statistics of heads, means over images.

    cosines: None leaves out the view of similarity.
    """

    def __init__(self, attention: dict[str, Tensor], cosines: dict[str, Tensor] | None, grid: tuple[int, int],
                 patch: tuple[float, float]):
        distances = patch_distances(grid, patch)
        self.images = len(next(iter(attention.values()))[0])
        self.prefix = {label: maps.shape[-1] - grid[0] * grid[1] for label, maps in attention.items()}
        self.statistics = {label: head_statistics(maps, self.prefix[label], distances) for label, maps in attention.items()}
        self.views = {
            "attention": {label: quantize(maps, self.prefix[label]) for label, maps in attention.items()},
            "rollout": {label: quantize(attention_rollout(maps)[:, :, None], self.prefix[label])
                        for label, maps in attention.items()}}
        if cosines is not None:
            self.views["similarity"] = {label: quantize_cosines(maps, self.prefix[label]) for label, maps in cosines.items()}

    def add(self, more: "Seen") -> None:
        """The same models' views of further images. Raises CourseError, and adds nothing, where a model has changed since."""
        try:
            views = {view: {label: join(maps, more.views[view][label]) for label, maps in models.items()}
                     for view, models in self.views.items()}
        except ValueError:
            raise CourseError("a model has another depth or other heads than when the explorer was made; make another "
                              "explorer") from None
        self.views = views
        share = more.images / (self.images + more.images)
        for label, numbers in self.statistics.items():
            for name, values in numbers.items():
                mean = (1 - share) * np.array(values) + share * np.array(more.statistics[label][name])
                numbers[name] = mean.round(5).tolist()
        self.images += more.images

    def traits(self, images: list[int], small: bool = False) -> dict:
        """The bytes of some of the images, one model after the other, by the names of the explorer's traits."""
        packed = {}
        for view, models in self.views.items():
            chosen = [type(maps)(*(part[images] for part in parts(maps))) for maps in models.values()]
            arrays = zip(*(parts(coarse(maps) if small else maps) for maps in chosen))
            packed[view] = [b"".join(array.astype(kind).tobytes() for array in each)
                            for kind, each in zip(("u1", "<f4", "<f4"), arrays)]
        codes, brightest, outside = packed.pop("attention")
        return {"codes": codes, "brightest": brightest, "outside": outside} | packed
