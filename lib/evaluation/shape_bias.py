"""Shape or texture? What a network goes by when the two disagree (Geirhos et al. 2019, used by Park et al. 2023).

An image shows the shape of one class in the texture of another. Decisions for a third class tell nothing; of the others,

    shape bias = decisions for the shape / (decisions for the shape + decisions for the texture).

Images in which shape and texture agree are left out. The bias is a property of network *and* resolution: the smaller the
images, the less is left of their texture, and the higher it comes out. Compare networks at one size only.
"""
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lib.data.images import read_image
from lib.data.shapes import Shapes
from lib.data.store import square
from lib.errors import CourseError
from lib.evaluation.features import extract, standardize
from lib.evaluation.linear import linear_probe
from lib.evaluation.report import bootstrap

STIMULUS = re.compile(r"([a-z]+)\d+-([a-z]+)\d+")                 # cat1-bottle2.png: the shape of a cat, filled with bottles


def shape_bias(predicted: Tensor, shapes: Tensor, textures: Tensor, draws: int = 2000) -> dict:
    """Decisions for conflict images, all (N,) int64 -> shares "shape", "texture", "neither" of N "images"; "shape_bias" and
    its 95 % "interval" over images, by resampling them. Bias and interval are None if every decision is "neither".

    Raises CourseError if there are no images, and if shape and texture agree in one.
    """
    if not len(predicted) or (shapes == textures).any():
        raise CourseError(f"a shape bias needs images in which shape and texture disagree, got {len(predicted)} images, "
                          f"{int((shapes == textures).sum())} of them without conflict: leave those out")
    counts = np.array([(predicted == shapes).sum(), (predicted == textures).sum(), 0])
    counts[2] = len(predicted) - counts.sum()
    result = dict(zip(("shape", "texture", "neither"), (counts / len(predicted)).tolist(), strict=True))
    if not counts[:2].any():
        return {"images": len(predicted), **result, "shape_bias": None, "interval": None}
    # How often N images drawn with replacement are of each kind is multinomial, so they need not be drawn one by one.
    drawn = np.random.default_rng(0).multinomial(len(predicted), counts / len(predicted), draws)[:, :2]
    drawn = drawn[drawn.any(1)]                                                    # no decision, no bias
    return {"images": len(predicted), **result, "shape_bias": (counts[0] / counts[:2].sum()).item(),
            "interval": np.quantile(drawn[:, 0] / drawn.sum(1), [0.025, 0.975]).tolist()}


# ---------------------------------------------------------------------------------------------------- in the shapes world

def shapes_cue_conflict(backbone: VisionTransformer, pooling: str = "cls", difficulty: str = "medium", train_images: int = 4000,
                        val_images: int = 2000, depth: int | None = None, mean: tuple[float, ...] | None = None,
                        std: tuple[float, ...] | None = None) -> dict:
    """Geirhos' experiment in the `shapes` world, on frozen features.

    A linear probe learns classes from congruent images, where shape k comes in texture k and either cue would do. Then it
    meets conflict images, the same scenes as its congruent validation images with another texture. pooling, depth, mean and
    std as in `lib.evaluation.features.extract_depths`.
    -> `shape_bias` of its decisions; "congruent", its accuracy on the congruent validation images; "readable", accuracies of
    probes that were trained to name the "shape" and the "texture" on images where the two are independent, which tells a cue
    that is not preferred from one that is not there; and "told_shape", `shape_bias` of that probe for the shape.
    """
    size = backbone.patch_embed.img_size[0]

    def features(split: str, pairing: str) -> tuple[Tensor, dict[str, Tensor]]:
        length = train_images if split == "train" else val_images
        source = Shapes(split, size, length=length, difficulty=difficulty, pairing=pairing)
        return extract(backbone, source, pooling, depth=depth, mean=mean, std=std)[0], source.factors(torch.arange(length))

    congruent, congruent_truth = features("train", "congruent")
    familiar, familiar_truth = features("val", "congruent")
    conflict, cues = features("val", "conflict")
    predicted, _ = linear_probe(congruent, congruent_truth["shape"], torch.cat([familiar, conflict]))
    right = predicted[:val_images] == familiar_truth["shape"]

    independent, independent_truth = features("train", "independent")
    queries, truth = features("val", "independent")
    named = {cue: linear_probe(independent, independent_truth[cue], torch.cat([queries, conflict]))[0]
             for cue in ("shape", "texture")}
    readable = {cue: named[cue][:val_images] == truth[cue] for cue in named}
    return {
        **shape_bias(predicted[val_images:], cues["shape"], cues["texture"]),
        "congruent": {"accuracy": right.double().mean().item(), "interval": bootstrap(right)},
        "readable": {cue: {"accuracy": r.double().mean().item(), "interval": bootstrap(r)} for cue, r in readable.items()},
        "told_shape": shape_bias(named["shape"][val_images:], cues["shape"], cues["texture"]),
        "training_images": train_images,
    }


# ------------------------------------------------------------------------------------------------- with Geirhos' stimuli

def stimuli(folder: str | Path) -> list[tuple[Path, str, str]]:
    """File, shape and texture of Geirhos' stimuli, SHAPE/SHAPE1-TEXTURE2.png, by name. Raises CourseError, which names a file
    that is called otherwise."""
    folder, found = Path(folder).expanduser(), []
    for path in sorted(folder.glob("*/*.png")):
        cues = STIMULUS.fullmatch(path.stem)
        if not cues or cues[1] != path.parent.name:
            raise CourseError(f"{path} is not named like a cue-conflict stimulus, SHAPE/SHAPE1-TEXTURE2.png: rename or "
                              "remove it")
        found.append((path, cues[1], cues[2]))
    if not found:
        raise CourseError(f"{folder} holds no stimuli SHAPE/SHAPE1-TEXTURE2.png: name the folder that holds airplane/, bear/ "
                          "and so on, from github.com/rgeirhos/texture-vs-shape")
    return found


def read_categories(path: str | Path) -> dict[str, str]:
    """{WordNet id: category} from a JSON file that holds it under "wnid_to_category". Raises CourseError if it does not."""
    try:
        categories = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))["wnid_to_category"]
        if not all(isinstance(category, str) for category in categories.values()):
            raise TypeError("a category that is no word")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CourseError(f"{path} is no map of categories ({error}): it takes a JSON file with an entry \"wnid_to_category\", "
                          "such as {\"n02690373\": \"airplane\", ...}") from error
    return categories


def decide(probabilities: Tensor, classes: Sequence[str], categories: Mapping[str, str]) -> tuple[Tensor, list[str]]:
    """From fine classes to Geirhos' categories: a category's probability is the mean of those of its classes.

    probabilities (B, C) of `classes`, WordNet ids say; categories: {class: category}, classes without a category do not
    matter. -> which of the covered categories is the most probable (B,), and the covered categories, by name.
    Raises CourseError if there are not as many classes as probabilities, and if fewer than 2 categories are covered.
    """
    covered = sorted({categories[c] for c in classes if c in categories})
    if probabilities.shape[1] != len(classes) or len(covered) < 2:
        raise CourseError(f"to decide among categories takes a probability for each of {len(classes)} classes, got "
                          f"{probabilities.shape[1]}, and classes of at least 2 categories, got {len(covered)}")
    members = [[k for k, c in enumerate(classes) if categories.get(c) == category] for category in covered]
    means = torch.stack([probabilities[:, columns].mean(1) for columns in members], 1)         # (B, covered)
    return means.argmax(1), covered


@torch.no_grad()
def cue_conflict(probabilities_of: Callable[[Tensor], Tensor], folder: str | Path, classes: Sequence[str],
                 categories: Mapping[str, str], size: int, batch_size: int = 64, device: torch.device | str = "cpu",
                 mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> dict:
    """Shape bias on the stimuli of Geirhos et al. 2019, in a folder SHAPE/SHAPE1-TEXTURE2.png.

    probabilities_of: normalised images (B, 3, size, size) on the device -> probabilities (B, C) of `classes`; they and
    `categories` as in `decide`. A classifier may know only some of the 16 categories: stimuli whose shape or texture it does
    not know are left out. mean and std as in `lib.evaluation.features.extract_depths`.
    -> `shape_bias`; "size"; the "categories" that are known; "left_out": how many stimuli because their cues "agree", and how
    many because one is "unknown". The 1,280 stimuli share 160 shapes and 48 textures, so the interval is rather too narrow.
    Raises CourseError for a file that is damaged or named otherwise, and if no stimulus is left.
    """
    every = stimuli(folder)
    conflict = [(path, shape, texture) for path, shape, texture in every if shape != texture]
    known = {categories[c] for c in classes if c in categories}
    kept = [(path, shape, texture) for path, shape, texture in conflict if {shape, texture} <= known]
    if not kept:
        raise CourseError(f"none of the {len(conflict)} conflict stimuli in {folder} shows two of the categories that the "
                          f"classifier knows ({', '.join(sorted(known)) or 'none'})")
    decisions = []
    for start in range(0, len(kept), batch_size):
        squares = np.stack([square(read_image(path), size) for path, _, _ in kept[start:start + batch_size]])
        images = standardize(torch.from_numpy(squares).to(device), mean, std)      # (B, 3, S, S)
        chosen, covered = decide(probabilities_of(images), classes, categories)
        decisions.append(chosen.cpu())
    numbers = {category: k for k, category in enumerate(covered)}
    shapes, textures = (torch.tensor([numbers[stimulus[cue]] for stimulus in kept]) for cue in (1, 2))
    return {**shape_bias(torch.cat(decisions), shapes, textures), "size": size, "categories": covered,
            "left_out": {"agree": len(every) - len(conflict), "unknown": len(conflict) - len(kept)}}


@torch.no_grad()
def top1(probabilities_of: Callable[[Tensor], Tensor], source, classes: Sequence[str], batch_size: int = 64,
         device: torch.device | str = "cpu", mean: tuple[float, ...] | None = None,
         std: tuple[float, ...] | None = None) -> dict:
    """Accuracy on another version of a set, Stylized-ImageNet say, opened with `lib.data.images.open_images`.

    probabilities_of: normalised images (B, 3, S, S) on the device -> probabilities (B, C) of `classes`, the class folders of
    the set that it was trained on, in order. The source may hold some of these only; they are matched by name.
    -> "accuracy", its 95 % "interval" over images, and the number of "images". Raises CourseError for a class not in `classes`.
    """
    strange = sorted(set(source.folders) - set(classes))
    if strange:
        raise CourseError(f"{source.name} has a class that the classifier does not know, {strange[0]}: the class folders must "
                          f"be named alike ({classes[0]} is one of the {len(classes)} known)")
    numbers, right = torch.tensor([list(classes).index(name) for name in source.folders]), []
    for indices in torch.arange(len(source)).split(batch_size):
        images = standardize(source.images(indices).to(device), mean, std)
        right.append(probabilities_of(images).argmax(1).cpu() == numbers[source.labels(indices)])
    right = torch.cat(right)
    return {"accuracy": right.double().mean().item(), "interval": bootstrap(right), "images": len(right)}
