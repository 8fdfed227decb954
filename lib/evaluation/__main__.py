"""Evaluate a network: `python -m lib.evaluation frozen runs/x --out data/results/x.json`, and seven more yardsticks.

A network is a run's folder, a checkpoint that ships ("shapes/mocov3"), an official one ("official:mocov3-vitb16") or "timm:"
and a name. It is measured beside an untrained one of its kind, the negative control. Several processes share the images of
`frozen`, `attentive`, `depths` and `finetune`: `torchrun --nproc-per-node 8 -m lib.evaluation finetune runs/x --recipe mae`.
On a cluster: lib/training/slurm.sh.

Exit codes: 0 done; 2 something given was wrong; 75 stopped by SIGTERM: the same command begins again, with --keep after the
last epoch that was finished.
"""
from lib import cli

if __name__ == "__main__":                                         # now, since the imports below take seconds
    cli.end_early("stopped; the same command begins again, or goes on where --keep was given and an epoch was finished")

import argparse
import contextlib
import json
import math
import shlex
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch

from lib import distributed
from lib.data import Loaded, in_memory, open_source
from lib.data.centre import Centre
from lib.data.pairs import PairFolder
from lib.data.shapes import DIFFICULTIES
from lib.errors import CourseError
from lib.evaluation import finetune as tuning
from lib.evaluation import kept
from lib.evaluation.attentive import AttentiveRecipe, attentive_probe
from lib.evaluation.classifier import LinearClassifier
from lib.evaluation.dense import OBJECT_MASKS, dense_probe
from lib.evaluation.depths import by_depth
from lib.evaluation.features import JOINED, POOLINGS
from lib.evaluation.linear import PROTOCOLS, published_probe
from lib.evaluation.load import Subject, open_subject, resized
from lib.evaluation.report import check_out, write_report
from lib.evaluation.robustness import MODES, STRENGTHS, noise_robustness
from lib.evaluation.shape_bias import cue_conflict, read_categories, shapes_cue_conflict
from lib.evaluation.table import rebuild
from lib.evaluation.yardsticks import COUNTS, measure, share
from lib.training.build import from_description
from lib.training.recipes import command
from lib.training.settings import Own, Recipe
from lib.training.trainer import pick_device


def minutes(log: list[dict], recipe: Recipe) -> float:
    """How long the steps of a run took, by its log: views, training and reading, without k-NN and checkpoints."""
    lines = [line for line in log if "images_per_second" in line]
    steps = [line["step"] - before for line, before in zip(lines, [0, *(line["step"] for line in lines)])]
    seconds = sum(n * recipe.batch_size / line["images_per_second"] for n, line in zip(steps, lines))
    return round(seconds / 60, 1)


def read_log(path: Path) -> list[dict]:
    """The lines of a run's log, finite numbers by name; one that was cut short or changed is left out."""
    lines = []
    for text in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict) and "step" in line and all(
                    isinstance(x, int | float) and math.isfinite(x) for x in line.values()):
                lines.append(line)
    return lines


def about_training(run: str, subject: Subject) -> dict:
    """The log of a run, its command and its minutes, where it is a run's folder."""
    log = Path(run) / "log.jsonl"
    if not log.is_file():
        return {}
    recipe, lines = from_description(subject.recipe), read_log(log)
    words = command(recipe) if type(recipe) is not Own else ""                  # an objective of one's own: begun in Python
    return {"log": lines, "training": {"command": words, "device": recipe.device, "minutes": minutes(lines, recipe)}}


# ----------------------------------------------------------------------------- what is measured; each gives plain data

def to_look_at(a, subject: Subject, split: str, limit: int | None = None):
    """A source of central squares of the images, at the size of the network."""
    if split == "train" and getattr(a, "stored_size", 0):
        return Centre(opened(a.data, split, subject.size, limit=limit, stored=a.stored_size), subject.size, a.crop)
    if a.crop == 1:
        return opened(a.data, split, subject.size, limit=limit, difficulty=a.difficulty)
    return Centre(opened(a.data, split, round(subject.size / a.crop), limit=limit), subject.size, a.crop)


def opened(data: str, split: str, size: int, **more):
    """A source, of at least two classes. Raises CourseError: of one class every network is right about all, and of one image to
    measure on there is no interval."""
    source = open_source(data, split, size, **more)
    if split == "val" and len(source) < 2:
        raise CourseError(f"{data} has one image to measure on, and an interval over images needs two or more; give more")
    if len(source.classes) < 2:
        raise CourseError(f"{data} has one class, {source.classes[0]}: nothing is to be told apart; give two classes or more")
    return source


def both(a, subject: Subject) -> list:
    """The sources to train a probe on and to measure it on."""
    return [to_look_at(a, subject, split, limit_of(a, split)) for split in COUNTS]


def limit_of(a, split: str) -> int | None:
    """How many images of a split a probe gets, None for all."""
    return a.images if split == "train" and a.images is not None else COUNTS[split] if a.data == "shapes" else None


def to_crop(a, subject: Subject, limit: int | None):
    """A source of training images from which random crops are cut."""
    return in_memory(opened(a.data, "train", subject.size, limit=limit, difficulty=a.difficulty, stored=a.stored_size))


def state_file(a, subject: Subject, backbone, start: str = "") -> Path | None:
    """Where --keep keeps the state of a network's training."""
    return Path(a.keep) / f"{start}{'trained' if backbone is subject.backbone else 'untrained'}.pt" if a.keep else None


def frozen(a, subject: Subject, backbone) -> dict:
    if a.protocol:
        cropped = PROTOCOLS[a.protocol].augment
        train = to_crop(a, subject, a.images) if cropped else in_memory(to_look_at(a, subject, "train", a.images))
        val = in_memory(to_look_at(a, subject, "val"))
        predicted = published_probe(backbone, train, val, a.protocol, a.pooling, a.depth, seed=a.seed,
                                    keep=state_file(a, subject, backbone, "linear-"))
        return {"linear": share(predicted == val.labels(torch.arange(len(val))))}
    return measure(backbone, *both(a, subject), a.pooling, a.depth)


def finetune(a, subject: Subject, backbone) -> dict:
    train, val = to_crop(a, subject, a.images), in_memory(to_look_at(a, subject, "val"))
    tuned = tuning.finetune(backbone, train, val, a.tuning, a.pooling, a.seed, a.device, progress=True,
                            keep=state_file(a, subject, backbone))
    return {"finetuned": share(tuned.predictions == val.labels(torch.arange(len(val)))), "history": tuned.history}


def attentive(a, subject: Subject, backbone) -> dict:
    limit = limit_of(a, "train")
    train = to_crop(a, subject, limit) if a.tuning.augment else to_look_at(a, subject, "train", limit)
    val = to_look_at(a, subject, "val", limit_of(a, "val"))
    kind = "trained" if backbone is subject.backbone else "untrained"
    found = attentive_probe(backbone, train, val, a.tuning, a.depth, a.seed, keep=Path(a.keep) / kind if a.keep else None,
                            progress=True)
    return {"attentive": share(found.predictions == val.labels(torch.arange(len(val)))), "learning_rate": found.learning_rate}


def depths(a, subject: Subject, backbone) -> dict:
    return by_depth(backbone, *both(a, subject), None if a.depth is None else [a.depth])


def dense(a, subject: Subject, backbone) -> dict:
    if a.pairs:
        train, val = (PairFolder(a.pairs, split, subject.size, a.void) for split in ("train", "val"))
        if a.void is not None and a.void not in train.values:      # of both splits
            raise CourseError(f"no mask of {a.pairs} holds the value {a.void} of --void")
        if a.void != 255 and "255" in train.classes and len(train.classes) > 2 and not distributed.rank():
            print("note: 255 counts as a class of the masks; if it marks pixels of no class, as in Pascal VOC, add --void 255",
                  flush=True)
        return dense_probe(backbone, train, val, tuple(train.classes), a.depth)
    train, val = (open_source("shapes", split, subject.size, limit=limit, difficulty=a.difficulty)
                  for split, limit in (("train", 2000 if a.images is None else a.images), ("val", 1000)))
    return dense_probe(backbone, train, val, OBJECT_MASKS, a.depth)


def classifier(a, subject: Subject, backbone) -> LinearClassifier:
    train = in_memory(opened(a.data, "train", subject.size, limit=a.images, difficulty=a.difficulty))
    return LinearClassifier(backbone, train, a.pooling, a.depth)


def noise(a, subject: Subject, backbone) -> dict:
    probe = classifier(a, subject, backbone)
    val = Loaded(open_source(a.data, "val", subject.size, limit=a.val_images, difficulty=a.difficulty))
    strength = STRENGTHS[a.mode]
    found = noise_robustness(probe.predict, val, mode=a.mode, strength=strength, seed=a.seed, device=pick_device(a.device))
    return {"mode": a.mode, "strength": strength} | found


def shape_bias(a, subject: Subject, backbone) -> dict:
    if not a.stimuli:
        train_images = 4000 if a.images is None else a.images
        return shapes_cue_conflict(backbone, a.pooling, a.difficulty, train_images, a.val_images, a.depth)
    if not a.categories:
        raise CourseError("--stimuli needs --categories, the JSON file that maps ImageNet's classes to Geirhos' 16 categories")
    if a.data == "shapes":
        raise CourseError("--stimuli are of ImageNet's classes, which shapes has not; give --data imagenet, or a part of it")
    probe = classifier(a, subject, backbone)
    folders = open_source(a.data, "train", subject.size).folders
    return cue_conflict(probe.probabilities, a.stimuli, folders, read_categories(a.categories), subject.size,
                        device=pick_device(a.device))


MEASURES = {"frozen": frozen, "attentive": attentive, "depths": depths, "finetune": finetune, "dense": dense, "noise": noise,
            "shape-bias": shape_bias}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ABOUT = {
    "frozen": "k-NN and linear probe of frozen features; in shapes also texture, ground, position and segmentation.",
    "attentive": "A probe of frozen tokens that chooses where to look.",
    "depths": "k-NN and linear probe after every block, for CLS and for the mean of the patches.",
    "finetune": "Fine-tune the whole network on the labels.",
    "dense": "Linear segmentation on frozen patch tokens.",
    "noise": "Accuracy of a linear probe under noise of one frequency band at a time.",
    "shape-bias": "Does it decide by shape or by texture where the two disagree?",
    "table": "A world's table, measured again from the shipped checkpoints.",
}


# ---------------------------------------------------------------------------------------------------- the command line

def parser_of(name: str, recipe: str = "course") -> argparse.ArgumentParser:
    """recipe: of fine-tuning, which decides the defaults of its flags."""
    parser = cli.Parser(prog=f"python -m lib.evaluation {name}", description=ABOUT[name])
    parser.add_argument("network", help="a run's folder, a shipped one (shapes/mocov3), official:NAME or timm:NAME")
    if name != "dense":
        parser.add_argument("--data", help="a set or folder; that of the training if left out")
    parser.add_argument("--difficulty", choices=tuple(DIFFICULTIES), help="of shapes, if not that of the training")
    if name not in ("dense", "depths", "attentive"):
        parser.add_argument("--pooling", choices=POOLINGS if name == "finetune" else (*POOLINGS, *JOINED),
                            help="the objective's own if left out: cls for mocov3, mean for simmim"
                            + ("; as published, cls with --protocol mae, and cls4, the last four blocks' CLS, with dino"
                               if name == "frozen" else ""))
    if name != "finetune":
        parser.add_argument("--depth", type=int, help="take features after this block; after the last norm if left out")
    parser.add_argument("--images", type=int, help="use N training images only, evenly spread over the set")
    if name in ("frozen", "attentive", "finetune", "noise"):
        parser.add_argument("--seed", type=int, default=0, help="of --protocol" if name == "frozen" else f"of {name}")
    parser.add_argument("--image-size", type=int, help="look at images of another size, with the positions resampled")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    if name != "finetune":
        parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32",
                            help="of the frozen network; bf16 is far faster on a GPU and turns a few images of a thousand")
    parser.add_argument("--untrained", action=argparse.BooleanOptionalAction, default=True,
                        help="measure an untrained network of its kind too, the control")
    parser.add_argument("--out", help="a JSON file to write")
    if name in ("frozen", "attentive", "finetune", "depths"):
        parser.add_argument("--crop", type=float, default=1.0,
                            help="look at the middle of photographs, a square of this share of the short side; published for "
                                 "ImageNet is 0.875, 224 of 256 pixels")
    if name in ("frozen", "attentive", "finetune"):
        parser.add_argument("--stored-size", type=int, default=0,
                            help="take training images from whole photographs, as training does with this flag: random crops, "
                                 "or else the middle")
    if name == "frozen":
        parser.add_argument("--protocol", choices=tuple(PROTOCOLS), help="a published linear protocol instead")
    if name == "finetune":
        parser.add_argument("--recipe", choices=tuple(tuning.RECIPES), default="course",
                            help="course, or a published one, for a ViT-B, whose learning rates follow the batch size; the "
                                 "flags below start from it")
        cli.add_fields(parser, tuning.RECIPES[recipe])
    if name == "attentive":
        cli.add_fields(parser, AttentiveRecipe())
    if name in ("frozen", "attentive", "finetune"):
        parser.add_argument("--keep", help="a folder for the state after each epoch; the same command goes on from it"
                            + (". Of --protocol mocov3, mae and dino" if name == "frozen" else ""))
    if name == "dense":
        parser.add_argument("--pairs", help="a folder of images/ and masks/; the objects of shapes if left out")
        parser.add_argument("--void", type=int, help="of --pairs: the value of pixels of no class, 255 in many sets")
    if name in ("noise", "shape-bias"):
        parser.add_argument("--val-images", type=int, default={"noise": 1000, "shape-bias": 2000}[name],
                            help="decide on N validation images only")
    if name == "noise":
        parser.add_argument("--mode", choices=MODES, default="published", help="the published noise, or equal energy a band")
    if name == "shape-bias":
        parser.add_argument("--stimuli", help="folder of Geirhos' cue-conflict stimuli; the conflicts of shapes if left out")
        parser.add_argument("--categories", help="JSON: Geirhos' 16 categories and the ImageNet classes of each")
    return parser


def parse(name: str, arguments: list[str]) -> argparse.Namespace:
    """What was asked for, and as `tuning` the recipe of fine-tuning. Raises CourseError for what does not go together."""
    if name == "attentive":
        a = parser_of(name).parse_args(arguments)
        a.tuning = AttentiveRecipe(**{f.name: vars(a).pop(f.name) for f in fields(AttentiveRecipe)})
        return a
    if name != "finetune":
        return parser_of(name).parse_args(arguments)
    first = cli.Parser(prog="python -m lib.evaluation finetune", add_help=False)
    first.add_argument("--recipe", choices=tuple(tuning.RECIPES), default="course")
    published = first.parse_known_args(arguments)[0].recipe
    parser, r = parser_of(name, published), tuning.RECIPES[published]
    a, names = parser.parse_args(arguments), [f.name for f in fields(r)]
    given = {k: v for k, v in vars(parser.parse_args(arguments, argparse.Namespace(**dict.fromkeys(names)))).items()
             if k in names and v is not None}
    for field in names:
        delattr(a, field)
    a.tuning = tuning.recipe(published, **given)
    return a


def check(name: str, a: argparse.Namespace) -> None:
    """Raises CourseError for flags without a sense, and for those that would do nothing."""
    if not a.network:
        raise CourseError("an empty name was given for the network; name a run's folder")
    for flag in ("data", "pairs", "keep", "stimuli", "categories"):
        if getattr(a, flag, None) == "":
            raise CourseError(f"an empty name was given for --{flag}")
    if not 0.01 <= getattr(a, "crop", 1.0) <= 1:
        raise CourseError(f"--crop is a share of the short side, from 0.01 to 1, got {a.crop}")
    if abs(getattr(a, "seed", 0)) >= 2**63:
        raise CourseError(f"--seed must fit into 64 bits, got {a.seed}")
    if getattr(a, "val_images", 1) < 1:
        raise CourseError(f"--val-images must be at least 1, got {a.val_images}")
    if name == "frozen" and not a.protocol:
        for flag, default in (("keep", None), ("seed", 0)):
            if getattr(a, flag) != default:
                raise CourseError(f"--{flag} is for --protocol; k-NN and the course's own probe take minutes and draw nothing")
    if name == "dense" and a.pairs and a.images is not None:
        raise CourseError("--images is of the objects of shapes; with --pairs all images of the folder are used")
    if name == "dense" and a.void is not None and not (a.pairs and 0 <= a.void <= 255):
        raise CourseError(f"--void is a value of the masks of --pairs, from 0 to 255, got {a.void}"
                          + ("" if a.pairs else " without --pairs"))
    if name == "shape-bias" and not a.stimuli:
        if a.data not in (None, "shapes"):
            raise CourseError(f"--data {a.data} goes with --stimuli; without it the conflicts of shapes are looked at")
        if a.categories:
            raise CourseError("--categories goes with --stimuli; without it the conflicts of shapes are looked at")
    if getattr(a, "keep", None):
        kept.check(Path(a.keep))


def check_data(a: argparse.Namespace) -> None:
    """The same, once it is known what is looked at."""
    unused = ("crop", "stored_size") if a.data == "shapes" else ("difficulty",)
    for flag in unused:
        if getattr(a, flag, None) not in (None, 0, 1.0):
            kind = "of photographs, and shapes are square" if a.data == "shapes" else f"of shapes, and {a.data} has one only"
            raise CourseError(f"--{flag.replace('_', '-')} is {kind}; leave it out")


def show(name: str, found: dict) -> None:
    """A line for every number that has an interval, from the first process."""
    if distributed.rank():
        return
    for measure_name, m in found.items():
        if isinstance(m, dict) and "interval" in m and m["interval"]:
            value = next(m[k] for k in ("value", "accuracy", "shape_bias") if k in m)
            print(f"{name:>9} {measure_name:>10}: {value:.3f}  (95 % interval over images {m['interval'][0]:.3f} to "
                  f"{m['interval'][1]:.3f})", flush=True)
    for pooling in [k for k in ("cls", "mean") if k in found]:
        for place, depth in enumerate(found["depth"]):
            scores = ", ".join(f"{probe} {found[pooling][probe][place]['value']:.3f}" for probe in ("knn", "linear"))
            print(f"{name:>9} {pooling:>4} after block {depth:2}: {scores}", flush=True)
    for band in found.get("bands", []):
        print(f"{name:>9} noise at {band['centre']:.2f} rad: accuracy {band['accuracy']:.3f}, drop {band['drop']:.3f}")
    if found.get("interval"):
        value = found.get("miou", found.get("shape_bias"))
        print(f"{name:>9}: {value:.3f}  (95 % interval over images {found['interval'][0]:.3f} to {found['interval'][1]:.3f})")


def evaluate(name: str, arguments: list[str]) -> None:
    a = parse(name, arguments)
    for flag in ("out", "keep"):                                   # as a shell would read --out=~/x.json
        if getattr(a, flag, None):
            setattr(a, flag, str(Path(getattr(a, flag)).expanduser()))
    check_out(a.out, f"lib.evaluation {name}")
    check(name, a)
    if name == "dense":
        a.data = a.pairs or "shapes"
    if name == "shape-bias" and not a.stimuli:
        a.data = "shapes"
    subject, device = open_subject(a.network), distributed.start(pick_device(a.device))
    subject = subject if a.image_size is None else resized(subject, a.image_size)
    a.data, a.depth = a.data or subject.data, getattr(a, "depth", None)
    if a.data is None:
        raise CourseError("--data is needed: nothing says what this network is to be evaluated on")
    check_data(a)
    a.difficulty = a.difficulty or subject.difficulty
    published = PROTOCOLS[a.protocol].pooling if getattr(a, "protocol", None) else ""
    a.pooling = getattr(a, "pooling", None) or published or subject.pooling
    distributed.check_same({**vars(a), "network": kept.fingerprint(subject.backbone)})
    training = about_training(a.network, subject)
    if a.depth is not None and not 0 <= a.depth <= len(subject.backbone.blocks):
        raise CourseError(f"--depth must lie from 0 to {len(subject.backbone.blocks)}, got {a.depth}")
    result = {"network": a.network, "recipe": subject.recipe, "data": a.data, "pooling": a.pooling, "depth": a.depth}
    if name in ("dense", "depths", "attentive"):
        del result["pooling"]                                      # all patches, both, or all tokens
    result["settings"] = {k: asdict(v) if k == "tuning" else v for k, v in vars(a).items()
                          if k not in {*result, "out", "keep", "device"}}
    for kind in ("trained", "untrained") if a.untrained else ("trained",):
        network = getattr(subject, "backbone" if kind == "trained" else kind)
        network.to(device, PRECISIONS[getattr(a, "precision", "fp32")])
        result[kind] = MEASURES[name](a, subject, network)
        show(kind, result[kind])
    result |= training | {"processes": distributed.world_size()}
    if a.out and not distributed.rank():
        words = f"python -m lib.evaluation {shlex.join([name, *arguments])}"
        write_report(a.out, result, command=words, seeds=[getattr(a, "seed", 0)], device=device)
    distributed.wait()                                             # a launcher ends all when the first one ends


def table(arguments: list[str]) -> None:
    parser = cli.Parser(prog="python -m lib.evaluation table", description=ABOUT["table"])
    parser.add_argument("--world", default="shapes", help="shapes or imagenette")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    a = parser.parse_args(arguments)
    print(rebuild(a.world, pick_device(a.device)))


def main() -> None:
    """`python -m lib.evaluation runs/x` is short for `python -m lib.evaluation frozen runs/x`."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__ + "\n" + "\n".join(f"  {name:12}{text}" for name, text in ABOUT.items()))
        print("\nEach has a --help of its own: python -m lib.evaluation frozen --help")
        return None
    if arguments[:1] == ["table"]:
        return table(arguments[1:])
    name = arguments.pop(0) if arguments and arguments[0] in MEASURES else "frozen"
    try:
        return evaluate(name, arguments)
    finally:
        distributed.stop()


if __name__ == "__main__":
    cli.main(main)
