"""From a recipe to the objective that it trains."""
from dataclasses import fields

import torch
from torch import nn

from lib.data.views import DINO_GLOBAL, DINO_LOCAL, MAE_VIEW, MOCO_V3, SIMMIM
from lib.errors import CourseError
from lib.models.vit import ViT
from lib.objectives.contrastive import MoCoV3
from lib.objectives.distillation import DINO
from lib.objectives.hybrid import Hybrid
from lib.objectives.masked import MAE, SimMIM
from lib.objectives.supervised import Supervised
from lib.training.recipes import OWN, describe, recipe
from lib.training.settings import (
    FREE,
    DINORecipe,
    HybridRecipe,
    MAERecipe,
    MoCoV3Recipe,
    Own,
    Recipe,
    SimMIMRecipe,
    SupervisedRecipe,
    later,
)


def build(r: Recipe) -> nn.Module:
    """An objective with fresh weights, the same for the same seed. Its `backbone` is what evaluation looks at."""
    torch.manual_seed(r.seed)
    match r:
        case HybridRecipe():
            backbone = r.backbone(mask_token=r.cl_weight < 1)
            masked = _simmim(r, backbone, r.mim_crop_min) if r.cl_weight < 1 else None
            return Hybrid(r.cl_weight, _mocov3(r, backbone) if r.cl_weight else None, masked)
        case MoCoV3Recipe():
            return _mocov3(r, r.backbone())
        case SimMIMRecipe():
            return _simmim(r, r.backbone(mask_token=True), r.crop_min)
        case DINORecipe():
            return _dino(r)
        case MAERecipe():
            return MAE(r.backbone(), r.mask_ratio, r.decoder_dim, r.decoder_depth, r.decoder_heads, r.normalize_target,
                       r.view(MAE_VIEW, r.crop_min))
        case SupervisedRecipe(classes=0):
            raise CourseError("classes is 0; the trainer takes it from the data, here it must be given")
        case SupervisedRecipe():
            view = r.view(*r.published(), r.crop_min)
            return Supervised(r.backbone(), r.classes, r.mixup, r.cutmix, r.smoothing, view, r.pooling, r.erase)
    raise CourseError(f"nothing is known about training a {type(r).__name__}; to train an objective of your own, give the "
                      "trainer a function that makes it: Trainer(recipe, source, make=...)")


def _mocov3(r: MoCoV3Recipe, backbone: ViT) -> MoCoV3:
    views = tuple(r.view(view, r.crop_min) for view in MOCO_V3)
    return MoCoV3(backbone, r.hidden, r.dim, r.temperature, r.momentum, r.freeze_patches, views)


def _simmim(r: SimMIMRecipe, backbone: ViT, crop_min: float) -> SimMIM:
    return SimMIM(backbone, r.mask_ratio, r.mask_cell, r.view(SIMMIM, crop_min))


def _dino(r: DINORecipe) -> DINO:
    globals_, local = tuple(r.view(view, r.crop_min) for view in DINO_GLOBAL), r.view(DINO_LOCAL, r.local_min, r.crop_min)
    return DINO(r.backbone(), r.hidden, r.bottleneck, r.prototypes, r.student_temperature, r.teacher_temperature,
                r.teacher_temperature_start, r.teacher_warmup, r.momentum, r.center_momentum, r.freeze_last, r.local_crops,
                r.local_size, globals_, local)


def from_description(described: dict) -> Recipe:
    """The recipe behind `describe`'s plain data. Raises CourseError for fields that are unknown, or missing.

    Those in FREE and LATER may be missing: checkpoints outlive the version that wrote them. Of a user's own objective it is an
    `Own`, of what all recipes share.
    """
    objective = described.get("objective", "?")
    if objective == OWN:
        shared = {f.name for f in fields(Own)}
        changes = later(shared) | {k: v for k, v in described.items() if k in shared}
        r = Own(**changes)
    else:
        changes = later(describe(recipe(objective))) | {k: v for k, v in described.items() if k != "objective"}
        r = recipe(objective, "smoke", **changes)
    missing = set(describe(r)) - {"objective", *changes} - FREE
    if missing:
        raise CourseError(f"the recipe lacks {', '.join(sorted(missing))}: it was written by another version of the course")
    return r
