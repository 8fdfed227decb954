"""A trained backbone from the folder of its run."""
from pathlib import Path

from lib.errors import CourseError
from lib.models.vit import ViT
from lib.training.build import build, from_description
from lib.training.checkpoint import read_export
from lib.training.recipes import Recipe


def load_backbone(path: str | Path) -> tuple[ViT, Recipe]:
    """A run's folder, or its backbone.safetensors -> backbone in eval mode, recipe. Raises CourseError if damaged."""
    path = Path(path)
    path = path / "backbone.safetensors" if path.is_dir() else path
    weights, described = read_export(path)
    if not described:
        raise CourseError(f"{path} holds weights but no recipe: it is not a backbone that this course trained")
    recipe = from_description(described)
    objective = build(recipe)
    backbone = objective.backbone
    weights = {name: tensor for name, tensor in weights.items() if name.split(".")[0] not in objective.ships}
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    for name in sorted(shapes.keys() | weights.keys()):
        if name not in weights or tuple(weights[name].shape) != shapes.get(name):
            has = tuple(weights[name].shape) if name in weights else "missing"
            raise CourseError(f"{path} does not fit its own recipe: {name} is {has}, expected "
                              f"{shapes.get(name, 'no such weight')}; it was written by another version of the course")
    backbone.load_state_dict(weights)
    return backbone.eval(), recipe


def untrained_backbone(recipe: Recipe) -> ViT:
    """The same network before its first step."""
    return build(recipe).backbone.eval()
