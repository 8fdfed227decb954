"""The attention explorer as a picture, for wherever the live one cannot run."""
import base64
import io

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from lib.viz.plots import png_of

SIDE = 1.9                            # inches of a panel


def still(explorer) -> tuple[str, str]:
    """What an `AttentionExplorer` shows now: a PNG as base64, and a sentence that says what is in it.

    The image with the query marked, then each model's map over it; for "all" heads, their mean.
    """
    models, grey = explorer.meta["models"], explorer.images[explorer.image].float().mean(0).numpy()
    height, width = grey.shape
    maps = [explorer.map(model["label"]) for model in models]
    similarity = explorer.view == "similarity"
    lowest = [float(values.min()) if similarity else 0.0 for values in maps]
    highest = [float(values.max()) for values in maps]
    if explorer.scale == "shared":
        lowest, highest = [min(lowest)] * len(maps), [max(highest)] * len(maps)
    figure, (first, *others) = plt.subplots(1, 1 + len(models), layout="constrained", dpi=100,
                                            figsize=(SIDE * (1 + len(models)), SIDE * height / width + 0.75))
    first.imshow(explorer.images[explorer.image].permute(1, 2, 0).numpy())
    first.set_title("the image", fontsize=9)
    for axes, model, values, low, high in zip(others, models, maps, lowest, highest):
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
        axes.imshow(values, cmap="cividis", vmin=low, vmax=high if high > low else low + 1, alpha=explorer.overlay,
                    extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
        scale = f"{low:.2f} to {high:.2f}" if similarity else f"yellow: {high:.1%}"
        axes.set_title(f"{model['label']}\n{scale}", fontsize=9)
    for axes in (first, *others):
        axes.set_axis_off()
        mark(axes, explorer.query, explorer.grid, (height, width))
    asks, does, what = _asks(explorer), *_said(explorer)
    figure.suptitle(f"{does.format(asks)}: {what}", fontsize=10)
    said = does.format(f"{asks} of {explorer.meta['images'][explorer.image]!r}")
    return (base64.b64encode(few_colors(png_of(figure))).decode(),
            f"{said} in {what}: " + ", ".join(model["label"] for model in models))


def mark(axes: Axes, query: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
    """A frame around a patch; CLS has none."""
    if query >= 0:
        (row, column), tall, wide = divmod(query, grid[1]), size[0] / grid[0], size[1] / grid[1]
        for color, line in (("white", 2.5), ("#D55E00", 1.2)):
            axes.add_patch(Rectangle((column * wide - 0.5, row * tall - 0.5), wide, tall, fill=False, edgecolor=color, lw=line))


def few_colors(png: bytes) -> bytes:
    """The same picture in 128 colours, a third of the size: it stays in notebooks for good."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()


def _asks(explorer) -> str:
    row, column = divmod(explorer.query, explorer.grid[1])
    return "CLS" if explorer.query < 0 else f"patch row {row + 1}, column {column + 1}"


def _said(explorer) -> tuple[str, str]:
    """What the picture shows, with a place for who asks, and of which layer and head."""
    if explorer.view == "rollout":
        return "Where {} draws from", f"layers 1 to {explorer.layer}, rollout"
    if explorer.view == "similarity":
        return "Which tokens are like {}", f"layer {explorer.layer}, cosine"
    head = f"head {explorer.head}" if isinstance(explorer.head, int) else "mean of heads"
    return "Where {} looks", f"layer {explorer.layer}, {head}"
