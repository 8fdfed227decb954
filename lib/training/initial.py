"""A training that does not begin with random weights: `--start-from`, for continued pre-training and supervised fine-tuning."""
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.errors import CourseError
from lib.models import official, zoo
from lib.models.vit import ViT
from lib.training.checkpoint import read_export


def begin(objective: nn.Module, name: str) -> None:
    """Give every ViT of an objective, momentum encoders and teachers too, the weights of another backbone. In place.

    name: a run's folder or a .safetensors file of it, "world/name" of a shipped checkpoint, or "official:" and a name of
    `lib.models.official`. Heads, decoders and a mask token that it lacks keep their first weights, and fixed positions are
    those of the size of the images. Raises CourseError where there are no such weights, or they do not fit.
    """
    found = weights(name)
    for network in objective.modules():
        if isinstance(network, ViT):
            fill(network, found, name)


def weights(name: str) -> dict[str, Tensor]:
    """The weights of a backbone, by name."""
    world, _, model = name.partition("/")
    if name.startswith("official:"):
        return official.load(name.removeprefix("official:")).state_dict()
    if not Path(name).exists() and zoo.FOLDER.exists() and name in zoo.vits():
        return zoo.load(model, world).state_dict()
    path = Path(name).expanduser()
    if not path.is_dir() and not (path.is_file() and path.suffix == ".safetensors"):
        raise CourseError("--start-from takes a run's folder, a .safetensors file of one, a shipped ViT such as shapes/mocov3, "
                          f"or official:NAME (python -m lib.models list); got {name!r}")
    return read_export(path / "backbone.safetensors" if path.is_dir() else path)[0]


@torch.no_grad()
def fill(network: ViT, found: dict[str, Tensor], name: str) -> None:
    """Copy weights into a ViT. Raises CourseError, and changes nothing, if one is missing or of another shape."""
    own = ("mask_token", *(["pos_embed"] if network.positions == "sincos" else []))
    mine = {key: x for key, x in network.state_dict().items() if key not in own or (key == "mask_token" and key in found)}
    for key, x in mine.items():
        if key not in found or found[key].shape != x.shape:
            has = tuple(found[key].shape) if key in found else "missing"
            raise CourseError(f"the weights of {name} do not fit: {key} is {has}, expected {tuple(x.shape)}; give --model, "
                              "--patch-size, --heads, --positions and --layer-scale as they were there")
    blocks = {key.split(".")[1] for key in found if key.startswith("blocks.")}
    if len(blocks) != len(network.blocks):
        raise CourseError(f"the weights of {name} do not fit: they have {len(blocks)} blocks, expected {len(network.blocks)}; "
                          "give --model as it was there")
    for key, x in mine.items():
        x.copy_(found[key])
