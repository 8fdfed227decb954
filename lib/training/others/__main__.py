"""Train and evaluate the CNN and the Mixer that ship beside the ViTs: `python -m lib.training.others mixer_slim --ship`.

They are trained as the supervised ViT of their world is: the same recipe, the same images in the same order, the same views;
only the network differs. Ten minutes to an hour on a CPU. With --resume, a run that was cut short goes on from its last
checkpoint, and one that is finished is evaluated again.
"""
import hashlib
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lib import cli, random
from lib.data import Loaded, open_source
from lib.data.views import ViewRecipe, make_view, normalize
from lib.errors import CourseError
from lib.evaluation.linear import linear_probe
from lib.evaluation.neighbors import knn_predict
from lib.evaluation.report import commit, write_report
from lib.evaluation.yardsticks import COUNTS, share
from lib.models import mixer, others, zoo
from lib.objectives import Objective
from lib.training.checkpoint import read_export, write_atomically
from lib.training.recipes import describe
from lib.training.settings import SupervisedRecipe
from lib.training.trainer import Trainer
from lib.training.zoo import WORLDS, in_order, planned

RESULTS = Path(__file__).parents[3] / "data" / "results" / "zoo"
# What a recipe says of its ViT, and of no other network. Of these a Mixer has patches alone: see the manifest's "model".
OF_A_VIT = ("model", "heads", "patch_size", "positions", "init", "layer_scale", "drop_path", "pooling")


class Classifier(Objective):
    """Cross-entropy of a network that gives logits, with label smoothing."""
    needs_labels = True

    def __init__(self, network: nn.Module, size: int, smoothing: float, view: ViewRecipe):
        super().__init__()
        self.backbone = network.to(memory_format=torch.channels_last)              # a CNN is twice as fast so, on a CPU
        self.size, self.smoothing, self.view = size, smoothing, view

    def prepare(self, images: Tensor, keys: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """uint8 images (B, 3, H, W), keys (B,), labels (B,) -> {"view": (B, 3, S, S), "labels": (B,)}."""
        return {"view": make_view(images, self.view, self.size, random.combine(keys, 1)), "labels": labels.to(images.device)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.backbone(batch["view"])                                      # (B, classes)
        right = (logits.argmax(1) == batch["labels"]).float().mean()
        return F.cross_entropy(logits, batch["labels"], label_smoothing=self.smoothing), {"accuracy": right}


class OtherTrainer(Trainer):
    """The trainer of the course, with a network of `lib.models.others` in place of the ViT that the recipe names."""

    def __init__(self, r: SupervisedRecipe, source, folder: str | Path | None, model: str, *,
                 resume: bool = False, progress: bool = False):
        self.model = model
        super().__init__(r, source, folder, resume=resume, progress=progress, make=self.classifier)

    def classifier(self, r: SupervisedRecipe) -> Classifier:
        network = others.create(self.model, r.classes, r.image_size, r.patch_size)
        return Classifier(network, r.image_size, r.smoothing, r.view(*r.published(), r.crop_min))

    def described(self) -> dict:
        return described(self.recipe, self.model)


def described(r: SupervisedRecipe, model: str) -> dict:
    """The recipe as plain data, with the network that was trained in the ViT's place."""
    own = {"model": model} | ({"patch_size": r.patch_size} if model in mixer.SIZES else {})
    return {key: value for key, value in describe(r).items() if key not in OF_A_VIT} | own


# ------------------------------------------------------------------------------------------------- how good it is

@torch.no_grad()
def outputs(network: nn.Module, source) -> tuple[Tensor, Tensor, Tensor]:
    """-> features after the global pooling (N, D), logits (N, classes), labels (N,)."""
    network, features, logits, indices = network.eval(), [], [], torch.arange(len(source))
    for some in indices.split(256):
        maps = network.forward_features(normalize(source.images(some)).to(next(network.parameters())))
        features.append(network.forward_head(maps, pre_logits=True).cpu())
        logits.append(network.forward_head(maps).cpu())
    return torch.cat(features), torch.cat(logits), source.labels(indices)


def evaluate(network: nn.Module, r: SupervisedRecipe, counts: dict[str, int] = COUNTS) -> dict[str, dict]:
    """"knn" and "linear" of the pooled features, as for the ViTs, and "accuracy" of the network's own last layer.

    Each is {"value", "interval"}, on images that it was not trained on; the interval is over images. counts: how many of the
    procedural world; of a real set all are taken.
    """
    (bank, _, known), (queries, logits, truth) = (
        outputs(network, open_source(r.data, split, r.image_size, n if r.data == "shapes" else None, r.difficulty))
        for split, n in counts.items())
    return {"knn": share(knn_predict(bank, known, queries) == truth),
            "linear": share(linear_probe(bank, known, queries)[0] == truth),
            "accuracy": share(logits.argmax(1) == truth)}


# --------------------------------------------------------------------------------------------------- what is kept

def name_of(model: str, seed: int) -> str:
    """The name under which it ships: "resnet", "mixer", and "resnet-seed1" for another training of it."""
    return model.split("_")[0] + (f"-seed{seed}" if seed else "")


def pack(run: Path, result: dict, words: str, folder: Path = zoo.FOLDER) -> None:
    """Half precision into data/checkpoints, and an entry in its manifest of others."""
    known = zoo.others(folder)                                     # a damaged one is told before anything is replaced
    tensors, recipe = read_export(run / "backbone.safetensors")
    name = f"{recipe['data']}/{name_of(recipe['model'], recipe['seed'])}"
    path = folder / f"{name.replace('/', '-')}.safetensors"
    half = {name: x.half().contiguous() if x.is_floating_point() else x for name, x in tensors.items()}
    write_atomically(path, lambda temporary: save_file(half, temporary))
    data, losses = path.read_bytes(), [line["loss"] for line in result["log"]]
    entry = {
        "file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
        "model": {"name": recipe["model"], "classes": recipe["classes"], "image_size": recipe["image_size"],
                  **({"patch_size": recipe["patch_size"]} if "patch_size" in recipe else {})},
        "recipe": recipe, "command": words, "data": recipe["data"], "seed": recipe["seed"], "commit": commit(),
        "device": recipe["device"], "minutes": result["training"]["minutes"], "first_loss": losses[0], "last_loss": losses[-1],
        **{name: measured["value"] for name, measured in result["trained"].items()},
    }
    ordered = in_order(known | {name: entry})
    write_atomically(folder / zoo.OTHERS, lambda temporary: temporary.write_text(json.dumps(ordered, indent=1) + "\n"))


def minutes(run: Path, batch_size: int) -> float:
    """How long the steps of a run took, by its log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] - before for line, before in zip(lines, [0, *(line["step"] for line in lines)])]
    return round(sum(n * batch_size / line["images_per_second"] for n, line in zip(steps, lines)) / 60, 1)


def main() -> None:
    parser = cli.Parser(prog="python -m lib.training.others",
                        description="Train and evaluate a network that is no ViT.")
    parser.add_argument("model", choices=others.NAMES, help="which network")
    parser.add_argument("--world", choices=tuple(WORLDS), default="shapes", help="what it sees")
    parser.add_argument("--images", type=int, help="to train on (default: those of the supervised ViT)")
    parser.add_argument("--epochs", type=int, help="passes over them (default: as many as that ViT made)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and views")
    parser.add_argument("--out", help="folder of the run (default: runs/zoo/WORLD-resnet or -mixer, with -seedN for another)")
    parser.add_argument("--resume", action="store_true", help="continue the run in that folder")
    parser.add_argument("--ship", action="store_true", help="put the network and what was measured into data/, in the place of "
                        "those that ship (git checkout data brings them back)")
    a = parser.parse_args()
    if a.ship:
        zoo.others()                                               # told before the work, not after it
    if a.epochs is not None and a.epochs < 1:
        raise CourseError(f"--epochs must be at least 1, got {a.epochs}")
    if a.out == "":
        raise CourseError("--out is empty; name a folder, such as --out runs/first")
    if a.seed < 0:
        raise CourseError(f"--seed is 0 or more, got {a.seed}")
    name, vit = f"{a.world}-{name_of(a.model, a.seed)}", planned(a.world, "supervised", "cpu")
    out = Path(a.out or f"runs/zoo/{name}").expanduser()
    if a.images is not None and a.images < vit.batch_size:
        raise CourseError(f"--images must be at least {vit.batch_size}, a batch, got {a.images}")
    r = replace(vit, images=a.images or vit.images, epochs=a.epochs or vit.epochs, seed=a.seed)
    source = Loaded(open_source(r.data, "train", r.image_size, r.images or None, r.difficulty), progress=True)
    trainer = OtherTrainer(r, source, out, a.model, resume=a.resume, progress=True)
    trainer.run()
    network, r = trainer.objective.backbone, trainer.recipe
    words = shlex.join(word for word in sys.argv[1:] if word not in ("--resume", "--ship"))
    words = f"python -m lib.training.others {words}"
    control = others.untrained(a.model, source.images(torch.arange(min(512, len(source)))), a.seed)
    result = {"network": str(out), "recipe": trainer.described(), "data": r.data, "model": a.model,
              "trained": evaluate(network, r), "untrained": evaluate(control, r), "log": trainer.history,
              "training": {"command": words, "device": r.device, "minutes": minutes(out, r.batch_size)}}
    for kind in ("trained", "untrained"):
        print(f"{kind}: " + ", ".join(f"{yardstick} {m['value']:.1%} ({m['interval'][0]:.1%} to {m['interval'][1]:.1%})"
                                      for yardstick, m in result[kind].items()))
    where = RESULTS / f"{name}.json" if a.ship else out / "results.json"
    write_report(where, result, command=words, seeds=[r.seed], device=trainer.device)
    if a.ship:
        pack(out, result, words)


if __name__ == "__main__":
    cli.main(main)
