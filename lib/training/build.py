"""From a recipe to the objective that it trains."""
from dataclasses import replace

import torch
from torch import nn

from lib.data.views import MOCO_V3, SIMMIM
from lib.errors import CourseError
from lib.objectives.contrastive import MoCoV3
from lib.objectives.masked import SimMIM
from lib.training.recipes import MoCoV3Recipe, Recipe, SimMIMRecipe, describe, recipe


def build(r: Recipe) -> nn.Module:
    """An objective with fresh weights, the same for the same seed. Its `backbone` is what evaluation looks at."""
    torch.manual_seed(r.seed)
    match r:
        case MoCoV3Recipe():
            views = tuple(replace(view, scale=(r.crop_min, 1.0)) for view in MOCO_V3)
            return MoCoV3(r.backbone(), r.hidden, r.dim, r.temperature, r.momentum, r.freeze_patches, views)
        case SimMIMRecipe():
            return SimMIM(r.backbone(mask_token=True), r.mask_ratio, r.mask_cell, replace(SIMMIM, scale=(r.crop_min, 1.0)))
    raise CourseError(f"nothing is known about training a {type(r).__name__}")


def from_description(described: dict) -> Recipe:
    """The recipe behind `describe`'s plain data; fields of another version are named. Raises CourseError."""
    changes = {k: v for k, v in described.items() if k != "objective"}
    r = recipe(described.get("objective", "?"), "smoke", **changes)
    missing = set(describe(r)) - set(described)
    if missing:
        raise CourseError(f"the recipe lacks {', '.join(sorted(missing))}: it was written by another version of the course")
    return r
