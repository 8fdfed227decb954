"""A trained backbone from the folder of its run."""
from pathlib import Path

import torch

from lib.errors import CourseError
from lib.models.vit import ViT
from lib.training.build import build, from_description
from lib.training.checkpoint import read_export
from lib.training.recipes import Recipe


def load_backbone(path: str | Path) -> tuple[ViT, Recipe]:
    """From a run's folder, or its backbone.safetensors -> backbone in eval mode, recipe. Raises CourseError if damaged."""
    path = Path(path)
    path = path / "backbone.safetensors" if path.is_dir() else path
    weights, described = read_export(path)
    recipe = from_description(described)
    backbone = build(recipe).backbone
    mismatch = set(weights) ^ set(backbone.state_dict())
    if mismatch:
        raise CourseError(f"{path} does not fit its own recipe: {sorted(mismatch)[0]} is missing or left over")
    backbone.load_state_dict(weights)
    return backbone.eval(), recipe


def untrained_backbone(recipe: Recipe) -> ViT:
    """The same network before its first step."""
    torch.manual_seed(recipe.seed)
    return build(recipe).backbone.eval()
