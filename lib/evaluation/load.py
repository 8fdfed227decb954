"""What is evaluated, by name: a run of ours, a checkpoint that ships with the course, an official one, or a ViT of timm."""
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from lib.errors import CourseError
from lib.models import official, others, zoo
from lib.models.vit import ViT
from lib.training.build import build, from_description
from lib.training.checkpoint import read_export
from lib.training.recipes import describe
from lib.training.settings import Own, Recipe
from lib.training.zoo import WORLDS

ANSWER = 5                             # seconds for a server to answer in


@dataclass(frozen=True)
class Subject:
    """A backbone in eval mode beside an untrained one of its kind, and what it is evaluated on unless told otherwise."""
    backbone: nn.Module
    untrained: nn.Module
    size: int                          # pixels on a side of an image
    data: str | None
    difficulty: str
    pooling: str
    recipe: dict


def open_subject(name: str) -> Subject:
    """A run's folder or its backbone.safetensors; "world/name" of a shipped checkpoint, such as shapes/mocov3; "official:" and
    a name of `lib.models.official`, such as official:mocov3-vitb16; or "timm:" and a name that timm knows. The last two are
    downloaded on first use. Raises CourseError for another name."""
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"))
    if name.startswith("official:"):
        return _official(name.removeprefix("official:"))
    world, _, model = name.partition("/")
    if not Path(name).exists() and zoo.FOLDER.exists() and world in WORLDS:
        if name in (shipped := zoo.vits()):
            recipe = from_description(shipped[name]["recipe"])
            return _ours(zoo.load(model, world), zoo.untrained(world, recipe.seed), recipe)
        if name in zoo.others():
            raise CourseError(f"{name} is no ViT, which is what is measured here; data/results/zoo/{world}-{model}.json says "
                              "how good it is")
        zoo.trainings(model, world)                                # raises, and says which names ship
    backbone, recipe = load_backbone(name)
    return _ours(backbone, untrained_backbone(recipe), recipe)


def _ours(backbone: ViT, untrained: ViT, recipe: Recipe) -> Subject:
    return Subject(backbone, untrained, recipe.image_size, recipe.data, recipe.difficulty, recipe.pooling, describe(recipe))


def _official(name: str) -> Subject:
    backbone, checkpoint = official.load(name), official.known(name)
    return Subject(backbone, official.untrained(name), checkpoint.size.image_size, None, "medium", checkpoint.pooling,
                   {"official": name, "address": checkpoint.address, "sha256": official.check(name)["sha256"]})


def _timm(name: str) -> Subject:
    _weights_in_reach(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)                                   # the control is the same in every process and every start
            backbone, untrained = (timm.create_model(name, pretrained=p, num_classes=0).eval() for p in (True, False))
    except Exception as error:         # an unknown name, no network, no weights: timm and its hub raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CourseError(f"timm cannot make {name!r}: {reason}") from None
    if not hasattr(backbone, "blocks") or not hasattr(backbone, "patch_embed"):
        raise CourseError(f"{name} is no Vision Transformer of timm's kind: it has no blocks or no patch_embed")
    for network in (backbone, untrained):
        _take_imagenet_normalized(network, backbone.pretrained_cfg, name)
    cls = backbone.num_prefix_tokens and backbone.global_pool == "token"
    size, pooling = backbone.patch_embed.img_size[0], "cls" if cls else "mean"
    return Subject(backbone, untrained, size, None, "medium", pooling, {"timm": name})


def _take_imagenet_normalized(network: nn.Module, published: dict, name: str) -> None:
    """Change the patch projection so that images normalised with ImageNet's mean and std are to it what its own were."""
    mean, std = (tuple(published[key]) for key in ("mean", "std"))
    if (mean, std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        return
    projection = getattr(network.patch_embed, "proj", None)
    if not isinstance(projection, nn.Conv2d) or projection.in_channels != 3:
        raise CourseError(f"{name} wants images normalised by {mean} and {std}, and its patch embedding is not a convolution "
                          "that could be adapted; in Python, give mean and std to lib.evaluation.features.extract")
    if projection.bias is None:
        projection.bias = nn.Parameter(torch.zeros(projection.out_channels))
    held = {f"patch_embed.proj.{key}": x.detach() for key, x in projection.state_dict().items()}
    adapted = official.renormalize(held, mean, std)
    projection.load_state_dict({key.removeprefix("patch_embed.proj."): x for key, x in adapted.items()})


def _weights_in_reach(name: str) -> None:
    """Raises CourseError, in seconds, if weights of timm are not on the disk and the network has no answer.

    Left to itself, the hub's client tries again for a minute. A server that answers anything is left to timm.
    """
    try:
        published = timm.get_pretrained_cfg(name)
    except RuntimeError:               # no such tag: timm says so in its own words
        return
    if published is None or not published.hf_hub_id:
        return
    repository, files = published.hf_hub_id, (published.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files if file):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, files[0] or files[1]), timeout=ANSWER)
    except HfHubHTTPError:
        return
    except Exception as error:         # its client has had errors of requests, of httpx and of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CourseError(f"the weights of timm:{name} are not in {HF_HUB_CACHE}, and {repository} cannot be reached "
                          f"({reason}): run the same command where there is a network, and copy that folder here "
                          "(HF_HUB_CACHE names another one)") from None


def resized(subject: Subject, size: int) -> Subject:
    """The same for images of another size, with its positions resampled, as is done for larger images than those of the
    training. Its networks are changed. Raises CourseError if the size is no number of patches, or if positions are relative.
    """
    patch = subject.backbone.patch_embed.patch_size[0]
    if size < patch or size % patch:
        raise CourseError(f"--image-size must be a multiple of the patch size {patch}, got {size}")
    if getattr(subject.backbone, "positions", "") == "relative":
        raise CourseError(f"this network has a relative position bias, which is for images of {subject.size} pixels; leave "
                          "--image-size out")
    for network in (subject.backbone, subject.untrained):
        try:
            network.set_input_size(img_size=(size, size))
        except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise CourseError(f"timm cannot change {type(network).__name__} to images of {size} pixels: {error}") from None
    return replace(subject, size=size)


def load_backbone(path: str | Path) -> tuple[ViT, Recipe]:
    """A run's folder, or its backbone.safetensors -> backbone in eval mode, recipe. Raises CourseError if damaged."""
    path = Path(path)
    path = path / "backbone.safetensors" if path.is_dir() else path
    weights, described = read_export(path)
    if not described:
        raise CourseError(f"{path} holds weights but no recipe: it is not a backbone that this course trained")
    if described.get("model") in others.NAMES:
        raise CourseError(f"{path} is a {described['model']}, no ViT, which is what is measured here; python -m "
                          "lib.training.others measured it when it was trained")
    recipe = from_description(described)
    if type(recipe) is Own:                                     # of a user's own objective, whose other parts are not known
        backbone = recipe.backbone(mask_token="mask_token" in weights)
        parts = {name.split(".")[0] for name in backbone.state_dict()}
        weights = {name: tensor for name, tensor in weights.items() if name.split(".")[0] in parts}
    else:
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
    """The same network before its first step; of a user's own objective one of its kind."""
    if type(recipe) is Own:
        torch.manual_seed(recipe.seed)
        return recipe.backbone().eval()
    return build(recipe).backbone.eval()
