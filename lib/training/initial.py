"""A training that does not begin with random weights: `--start-from`, for continued pre-training and supervised fine-tuning."""
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.errors import CourseError
from lib.models import official, zoo
from lib.models.vit import SIZES, ViT, sincos_positions
from lib.training.checkpoint import read_export

PARTS = ("cls_token", "pos_embed", "patch_embed", "blocks", "norm", "bias_table")         # of a ViT; all must be taken


def begin(objective: nn.Module, name: str) -> None:
    """Give every ViT of an objective, momentum encoders and teachers too, the weights of another backbone. In place.

    name: a run's folder or a .safetensors file of it, "world/name" of a shipped checkpoint, or "official:" and a name of
    `lib.models.official`. Heads, decoders and a mask token that it lacks keep their first weights; sines and cosines of
    another image size are drawn for this one. Raises CourseError where there are no such weights, or those of another network.
    """
    found = check_all(objective, name)
    for network in networks_of(objective):
        fill(network, found)


def networks_of(objective: nn.Module) -> list[ViT]:
    return [network for network in objective.modules() if isinstance(network, ViT)]


def check_all(objective: nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of a backbone by name, if all ViTs of an objective can begin with them; its own are not read. For errors see
    `begin`."""
    if not networks_of(objective):
        raise CourseError(f"{type(objective).__name__} has no lib.models.vit.ViT that could begin with the weights of {name}")
    found, heads = weights(name)
    for network in networks_of(objective):
        check(network, found, heads, name)
    return found


def weights(name: str) -> tuple[dict[str, Tensor], int]:
    """The weights of a backbone by name, and its heads: 0 if not known."""
    world, _, model = name.partition("/")
    if name.startswith("official:"):
        return of_network(official.load(name.removeprefix("official:")))
    if not Path(name).exists() and zoo.FOLDER.exists() and name in zoo.vits():
        return of_network(zoo.load(model, world))
    path = Path(name).expanduser()
    if not path.is_dir() and not (path.is_file() and path.suffix == ".safetensors"):
        raise CourseError("--start-from takes a run's folder, a .safetensors file of one, a shipped ViT such as shapes/mocov3, "
                          f"or official:NAME (python -m lib.models list); got {name!r}")
    found, described = read_export(path / "backbone.safetensors" if path.is_dir() else path)
    return found, described.get("heads", 0) or SIZES.get(described.get("model"), (0, 0, 0))[2]


def of_network(network: ViT) -> tuple[dict[str, Tensor], int]:
    return network.state_dict(), network.blocks[0].attn.num_heads


def check(network: ViT, found: dict[str, Tensor], heads: int, name: str) -> None:
    """Raises CourseError unless the weights are those of such a network: none missing, none left over, of the same shapes."""
    def wrong(what: str) -> CourseError:
        return CourseError(f"the weights of {name} do not fit: {what}; give --model, --patch-size, --image-size, --heads, "
                           "--positions and --layer-scale as they were there")

    mine = network.state_dict()
    for key in dict.fromkeys([*mine, *found]):
        if key == "mask_token" or key.split(".")[0] not in PARTS or (key == "pos_embed" and drawn_anew(network, found)):
            continue
        has, expected = (tuple(x[key].shape) if key in x else "missing" for x in (found, mine))
        if has != expected:
            raise wrong(f"{key} is {has}, expected {'none' if expected == 'missing' else expected}")
    if heads and heads != network.blocks[0].attn.num_heads:
        raise wrong(f"it has {heads} heads, expected {network.blocks[0].attn.num_heads}")


def drawn_anew(network: ViT, found: dict[str, Tensor]) -> bool:
    """Whether both have sines and cosines for positions, of grids of different size: then each keeps its own."""
    theirs = found.get("pos_embed")                                # (1, 1 + N, D)
    if network.positions != "sincos" or theirs is None or theirs.shape == network.pos_embed.shape:
        return False
    side = math.isqrt(theirs.shape[1] - 1)
    return theirs.shape[1] == 1 + side**2 and theirs.shape[2] == network.embed_dim and torch.allclose(
        theirs[0, 1:].float(), sincos_positions((side, side), network.embed_dim), atol=1e-2)


@torch.no_grad()
def fill(network: ViT, found: dict[str, Tensor]) -> None:
    """Copy weights that fit into a ViT."""
    keeps = ("pos_embed",) if drawn_anew(network, found) else ()
    for key, x in network.state_dict().items():
        if key in found and key not in keeps:
            x.copy_(found[key])
