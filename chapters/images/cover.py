"""Draw the picture of the README: `python chapters/images/cover.py` writes cover.png beside this file."""
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from lib.data import Shapes, views
from lib.objectives.masked import cell_mask, patchify, unpatchify
from lib.viz import plots

plots.style()
picked = torch.tensor([0, 1, 4, 8, 11, 19])
images = Shapes("train", size=64, difficulty="medium").images(picked)
pairs = [views.denormalize(views.make_view(images, view, 64, picked + 7 * n)) for n, view in enumerate(views.MOCO_V3)]
mask = cell_mask(picked, side=8, cell=2, ratio=0.6)
hidden = unpatchify(patchify(images / 255, 8).masked_fill(mask[..., None], 0.5), 8)

rows = {"images": images / 255, "contrastive learning:\nwhich two belong together?": torch.stack(pairs, 1)[:3].flatten(0, 1),
        "masked modelling:\nwhat is behind the grey?": hidden}
colors = ("black", plots.COLORS["mocov3"], plots.COLORS["simmim"])
figure, grid = plt.subplots(3, 6, figsize=(8.6, 3.7))
for line, (text, row), color in zip(grid, rows.items(), colors):
    for axes, picture in zip(line, row):
        axes.imshow(picture.permute(1, 2, 0))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=color, linewidth=2)
        axes.grid(False)
    line[0].set_ylabel(text, rotation=0, ha="right", va="center", color=color)
figure.savefig(Path(__file__).with_name("cover.png"), dpi=110, metadata={"Software": None})
