"""Evaluate a run: `python -m lib.evaluation runs/x --out data/results/x.json`.

k-NN and a linear probe on frozen features of the validation images, beside the same network untrained.
"""
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from lib import cli
from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.evaluation.features import POOLINGS, extract
from lib.evaluation.linear import linear_probe
from lib.evaluation.load import load_backbone, untrained_backbone
from lib.evaluation.neighbors import knn_predict
from lib.training.checkpoint import write_atomically
from lib.training.recipes import Recipe, command, describe
from lib.training.trainer import pick_device


def bootstrap(correct: torch.Tensor, draws: int = 2000) -> list[float]:
    """95 % interval of a share over images, by resampling them: (N,) bool -> [low, high].

    How many of N images drawn with replacement are right is binomial, so the images need not be drawn one by one.
    """
    shares = np.random.default_rng(0).binomial(len(correct), correct.float().mean().item(), draws) / len(correct)
    return np.quantile(shares, [0.025, 0.975]).tolist()


def minutes(log: list[dict], recipe: Recipe) -> float:
    """How long the steps of a run took, by its log: views, training and reading, without k-NN and checkpoints."""
    lines = [line for line in log if "images_per_second" in line]
    steps = [line["step"] - before for line, before in zip(lines, [0, *(line["step"] for line in lines)])]
    seconds = sum(n * recipe.batch_size / line["images_per_second"] for n, line in zip(steps, lines))
    return round(seconds / 60, 1)


def read_log(path: Path) -> list[dict]:
    """The lines of a run's log; one that was cut short is left out."""
    lines = []
    for text in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines += [line for line in [json.loads(text)] if isinstance(line, dict)]
    return lines


def measure(backbone, train, val, pooling: str) -> dict:
    features, labels = extract(backbone, train, pooling)
    queries, truth = extract(backbone, val, pooling)
    right = {"knn": knn_predict(features, labels, queries) == truth,
             "linear": linear_probe(features, labels, queries)[0] == truth}
    return {name: {"accuracy": c.float().mean().item(), "interval": bootstrap(c)} for name, c in right.items()}


def commit() -> str:
    answer = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                            cwd=Path(__file__).parent)
    return answer.stdout.strip() or "unknown"


def evaluate() -> None:
    parser = cli.Parser(prog="python -m lib.evaluation", description="k-NN and linear probe of a trained backbone.")
    parser.add_argument("run", help="folder of a run, or a backbone.safetensors")
    parser.add_argument("--data", help="evaluate on another set than it was trained on")
    parser.add_argument("--difficulty", choices=("easy", "medium", "hard"), help="of shapes, if not that of the training")
    parser.add_argument("--pooling", choices=POOLINGS, help="the objective's own if left out: cls for mocov3, mean for simmim")
    parser.add_argument("--images", type=int, help="use N training images only, evenly spread over the set")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    parser.add_argument("--out", help="a JSON file to write")
    a = parser.parse_args()
    if not a.run or a.out == "":
        raise CourseError("an empty name was given for the run or for --out; name a folder or a file")
    if a.out:                                                                      # told now, not after the work
        try:
            Path(a.out).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(f"cannot write {a.out}: {error.strerror}; choose another --out") from None
        if not os.access(Path(a.out).parent, os.W_OK):
            raise CourseError(f"cannot write {a.out}: no permission to write in its folder; choose another --out")
        if Path(a.out).is_dir():
            raise CourseError(f"{a.out} is a folder; --out is the JSON file to write")
    backbone, recipe = load_backbone(a.run)
    device = pick_device(a.device)
    data, difficulty = a.data or recipe.data, a.difficulty or recipe.difficulty
    pooling = a.pooling or ("cls" if hasattr(recipe, "momentum") else "mean")
    train = Loaded(open_source(data, "train", recipe.image_size, limit=a.images, difficulty=difficulty))
    val = Loaded(open_source(data, "val", recipe.image_size, difficulty=difficulty))
    result = {"recipe": describe(recipe), "data": data, "pooling": pooling, "training_images": len(train),
              "validation_images": len(val), "command": f"python -m lib.evaluation {shlex.join(sys.argv[1:])}",
              "commit": commit(), "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
              "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    print(f"{len(val):,} validation images of {data} against {len(train):,} training images, {pooling} features", flush=True)
    for name, network in {"trained": backbone, "untrained": untrained_backbone(recipe)}.items():
        result[name] = measure(network.to(device), train, val, pooling)
        for probe, m in result[name].items():
            print(f"{name:>9} {probe:>6}: {m['accuracy']:.1%}  (95 % interval over images {m['interval'][0]:.1%} to "
                  f"{m['interval'][1]:.1%})", flush=True)
    log = Path(a.run) / "log.jsonl"
    if log.exists():
        result["log"] = read_log(log)
        result["training"] = {"command": command(recipe), "device": recipe.device, "minutes": minutes(result["log"], recipe)}
    if a.out:
        write_atomically(Path(a.out), lambda temporary: temporary.write_text(json.dumps(result, indent=1) + "\n"))


if __name__ == "__main__":
    cli.main(evaluate)
