"""Checkpoints that ship with the course: `zoo.load("mocov3", world="shapes")` is a network ready to be looked at.

`data/checkpoints` holds a safetensors file for each, in half precision, and `manifest.json`, which says of each how it was
trained, on what, and how good it is. Others ship beside the networks of the six objectives, in `manifest-others.json`: what
Raghu et al. 2021 compare, `zoo.load("resnet")`, a CNN, `zoo.load("mixer")`, and supervised ViTs that were trained otherwise;
and further trainings of most networks of shapes, `zoo.load("mocov3-seed1")`.
`zoo.load("mocov3-vitb16")` is an official checkpoint: see `lib.models.official`.
"""
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load as read_safetensors
from torch import Tensor, nn

from lib.errors import CourseError
from lib.models import official
from lib.models import others as no_vits
from lib.models.vit import ViT, create, init_xavier

FOLDER = Path(__file__).parents[2] / "data" / "checkpoints"
OTHERS = "manifest-others.json"


def manifest(folder: Path = FOLDER) -> dict[str, dict]:
    """The networks of the objectives: "world/name" -> recipe, data, seed, device, minutes, losses, accuracies, SHA-256..."""
    return _read(Path(folder) / "manifest.json")


def others(folder: Path = FOLDER) -> dict[str, dict]:
    """The same of the others that ship."""
    return _read(Path(folder) / OTHERS)


def vits(folder: Path = FOLDER) -> dict[str, dict]:
    """The ViTs of both."""
    known = manifest(folder) | others(folder)
    return {key: entry for key, entry in known.items() if entry["model"]["name"] not in no_vits.NAMES}


def _read(path: Path) -> dict[str, dict]:
    try:
        found = json.loads(path.read_text())
        whole = isinstance(found, dict) and all(
            {"file", "sha256", "bytes", "model"} <= set(entry) and "name" in entry["model"] for entry in found.values())
    except FileNotFoundError:
        raise CourseError(f"{path} does not exist: this copy of the course is incomplete; clone it again") from None
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise CourseError(f"{path} is damaged; restore it with git checkout {path}")
    return found


def names(world: str, folder: Path = FOLDER) -> list[str]:
    """The networks of the objectives that ship for a world, in the manifest's order. Raises CourseError if there are none."""
    keys = [key.split("/") for key in manifest(folder)]
    if world not in (w for w, _ in keys):
        raise CourseError(f"no checkpoints ship for world {world!r}; there are {', '.join(sorted({w for w, _ in keys}))}")
    return [name for w, name in keys if w == world]


def trainings(name: str, world: str = "shapes", folder: Path = FOLDER) -> list[str]:
    """The names of all trainings of a network that ship, such as ["mocov3", "mocov3-seed1", "mocov3-seed2"], by seed.

    They differ in the seed alone: first weights, views and masks, order of the images. name: that of the first one. Raises
    CourseError for a name that does not ship.
    """
    _entry(name, world, folder)
    again = [key.split("/")[1] for key in others(folder) if key.startswith(f"{world}/{name}-seed")]
    return [name, *sorted(again, key=lambda key: int(key.rsplit("-seed", 1)[1]))]


def _entry(name: str, world: str, folder: Path) -> dict:
    """What the manifests say of a checkpoint. Raises CourseError for an unknown name."""
    known = manifest(folder)
    if f"{world}/{name}" not in known:
        known |= others(folder)
    if f"{world}/{name}" not in known:
        here = [key.split("/")[1] for key in known if key.startswith(f"{world}/")]
        if not here:
            names(world, folder)                                   # says which worlds there are
        raise CourseError(f"no checkpoint {name!r} ships for world {world!r}; there are {', '.join(here)}")
    return known[f"{world}/{name}"]


def weights(name: str, world: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """All tensors of a checkpoint, float32: the backbone's, and "head." or "decoder." where they ship too.

    Raises CourseError for an unknown name, and names the file when it is missing or damaged (its SHA-256 differs).
    """
    entry = _entry(name, world, folder)
    path = Path(folder) / entry["file"]
    if not path.exists():
        raise CourseError(f"{path} is missing; restore it with git checkout {path}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CourseError(f"{path} is damaged: it has {len(data):,} bytes and another SHA-256 than the manifest's "
                          f"{entry['bytes']:,} bytes; restore it with git checkout {path}")
    return {key: tensor.float() for key, tensor in read_safetensors(data).items()}


def load(name: str, world: str = "shapes", folder: Path = FOLDER) -> nn.Module:
    """A trained backbone in eval mode, on the CPU; its images are in [0, 1], normalised with ImageNet's mean and std.

    "untrained" is a ViT like the world's others before its first step, the negative control of every comparison. "resnet" is
    a CNN and "mixer" an MLP-Mixer, both with their classifiers; their control is `lib.models.others.untrained`.
    A name in `official.CHECKPOINTS` is a network of the papers, whatever the world; it is downloaded on first use.
    """
    if name in official.CHECKPOINTS:
        return official.load(name)
    if name == "untrained":
        return untrained(world, folder=folder)
    tensors, model = weights(name, world, folder), _entry(name, world, folder)["model"]
    if model["name"] in no_vits.NAMES:
        network = no_vits.create(**model)
        network.load_state_dict(tensors)
        return network.eval()
    backbone = create(**model)
    backbone.load_state_dict({key: x for key, x in tensors.items() if not key.startswith(("head.", "decoder."))})
    return backbone.eval()


def untrained(world: str = "shapes", seed: int = 0, folder: Path = FOLDER) -> ViT:
    """A network of a world's architecture with initial weights, the same for the same seed."""
    model = manifest(folder)[f"{world}/{names(world, folder)[0]}"]["model"] | {"mask_token": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return init_xavier(create(**model)).eval()
