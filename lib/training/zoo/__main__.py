"""Train, evaluate and pack the checkpoints that ship: `python -m lib.training.zoo --world shapes --budget gpu`.

What is finished is left alone and what was cut short goes on, so the same command may be given again until all is done.
--jobs trains several at once, which fills a large GPU. Runs are in --runs, measurements in data/results/zoo, checkpoints in
data/checkpoints.
"""
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from lib import cli
from lib.errors import CourseError
from lib.models import zoo
from lib.training.build import from_description
from lib.training.checkpoint import read_export, write_atomically
from lib.training.recipes import command, describe
from lib.training.settings import Recipe
from lib.training.zoo import LABELS, LAMBDAS, MODELS, SEEDS, SIZES, TRAINED_AGAIN, VARIANTS, WORLDS, in_order, planned

RESULTS = Path(__file__).parents[3] / "data" / "results" / "zoo"
LARGEST = 12_000_000                                               # bytes of a checkpoint
# What is measured of each: the end of the file's name -> the command.
EVALUATIONS = {"": ["lib.evaluation", "frozen"], "-finetuned": ["lib.evaluation", "finetune"],
               "-depths": ["lib.evaluation", "depths"], "-curves": ["lib.analysis", "curves"],
               "-attentive": ["lib.evaluation", "attentive"],
               "-noise": ["lib.evaluation", "noise", "--images", "1000", "--val-images", "250"],
               "-shape-bias": ["lib.evaluation", "shape-bias", "--images", "1000", "--val-images", "400"]}
SHIPPED_ONLY = ("-depths", "-attentive", "-noise", "-shape-bias")                # minutes for each
OF_VARIANTS = ("", "-depths")


@dataclass(frozen=True)
class Job:
    """One network to train. Those without another λ or size ship, of SEEDS; of the others the measurements do."""
    world: str
    model: str                                                     # of MODELS or VARIANTS
    name: str
    recipe: Recipe
    ships: bool
    labels: int | None                                             # images that fine-tuning gets, None for all

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.world}-{self.name}"


def jobs_of(a) -> list[Job]:
    def job(name: str, model: str, seed: int, ships: bool, cl_weight: float | None = None, size: str | None = None) -> Job:
        r = planned(a.world, model, a.budget, seed, cl_weight, a.share, size)
        return Job(a.world, model, name + (f"-seed{seed}" if seed else ""), r, ships, LABELS[a.budget][a.world])

    if a.sizes:
        return [job(f"{model}-{size}", model, seed, False, size=size) for seed in a.seeds for model in a.models
                for size in a.sizes]
    jobs = [job(model, model, seed, not seed or (seed in SEEDS and model in TRAINED_AGAIN.get(a.world, ())))
            for seed in a.seeds for model in a.models]
    weights = LAMBDAS if a.sweep == [] else a.sweep or []
    return jobs + [job(f"hybrid-{weight:g}", "hybrid", seed, False, weight) for seed in a.seeds for weight in weights]


def train(job: Job, runs: Path) -> None:
    """Run the public command line, or go on with what it left."""
    folder = job.folder(runs)
    if (folder / "backbone.safetensors").exists():
        return check_run(job, folder / "backbone.safetensors")
    words = [*shlex.split(command(job.recipe))[1:], "--out", str(folder)]
    words += ["--resume"] if (folder / "last.pt").exists() else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        output = open(folder / "output.txt", "a")                  # noqa: SIM115, closed below
    except OSError as error:
        raise CourseError(f"cannot write to {folder}: {error.strerror}; choose another --runs") from None
    with output:
        done = subprocess.run([sys.executable, *words], stdout=output, stderr=subprocess.STDOUT)
    if done.returncode or not (folder / "backbone.safetensors").exists():
        raise CourseError(f"{job.name} did not finish; its output is in {folder / 'output.txt'}")


def check_run(job: Job, path: Path) -> None:
    """Raises CourseError if a finished run is of another network than the job's."""
    theirs, mine = read_export(path)[1], describe(job.recipe)
    for key in ("objective", "model", "data", "image_size", "seed", "cl_weight", "pooling"):
        if theirs.get(key, mine.get(key)) != mine.get(key):
            raise CourseError(f"{path.parent} holds a run with {key}={theirs[key]}, {job.name} has {key}={mine.get(key)}; move "
                              "it away, or choose another --runs")


def measured(out: Path, backbone: Path) -> bool:
    """Is there a result, of this run, not older than it? Raises CourseError for a damaged one."""
    if not out.exists():
        return False
    try:
        recipe = json.loads(out.read_text())["recipe"]
    except (ValueError, KeyError, TypeError):
        raise CourseError(f"{out} is damaged; delete it to measure again, or restore it with git checkout {out}") from None
    same = from_description(recipe) == from_description(read_export(backbone)[1])
    return same and out.stat().st_mtime >= backbone.stat().st_mtime


def evaluate(job: Job, runs: Path) -> dict:
    """Measure it beside the untrained network, each in a file of its own, once. -> what was measured frozen"""
    few, folder = [] if job.labels is None else ["--images", str(job.labels)], str(job.folder(runs))
    wanted = OF_VARIANTS if job.model in VARIANTS else EVALUATIONS
    for end in wanted if job.ships else [end for end in wanted if end not in SHIPPED_ONLY]:
        words = [*EVALUATIONS[end], *(few if end == "-finetuned" else []), folder]
        out = RESULTS / f"{job.world}-{job.name}{end}.json"
        if not measured(out, job.folder(runs) / "backbone.safetensors"):
            words += ["--out", os.path.relpath(out), "--device", job.recipe.device]
            subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL)
    return json.loads((RESULTS / f"{job.world}-{job.name}.json").read_text())


def pack(job: Job, runs: Path, result: dict, folder: Path = zoo.FOLDER) -> None:
    """Half precision into data/checkpoints, and a line in the manifest."""
    tensors, described = read_export(job.folder(runs) / "backbone.safetensors")
    path = folder / f"{job.world}-{job.name}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: x.half().contiguous() for name, x in tensors.items()}
    write_atomically(path, lambda temporary: save_file(half, temporary))
    data, r = path.read_bytes(), from_description(described)       # as trained, whatever is planned by now
    if len(data) > LARGEST:
        raise CourseError(f"{path} has {len(data):,} bytes, more than the {LARGEST:,} that may ship; train a smaller model")
    losses = [line["loss"] for line in result["log"] if "loss" in line]
    entry = {
        "file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
        "model": {"name": r.model, "image_size": r.image_size, "patch_size": r.patch_size, "positions": r.positions,
                  "layer_scale": r.layer_scale or None, "mask_token": "mask_token" in load_file(path),
                  **({"heads": r.heads} if r.heads else {})},
        "recipe": described, "command": command(r), "data": r.data, "seed": r.seed, "commit": result["commit"],
        "device": result["device"], "minutes": result["training"]["minutes"], "first_loss": losses[0], "last_loss": losses[-1],
        "knn": result["trained"]["knn"]["value"], "linear": result["trained"]["linear"]["value"],
    }
    if job.model in VARIANTS or job.recipe.seed:
        name, known = zoo.OTHERS, zoo.others(folder) if (folder / zoo.OTHERS).exists() else {}
    else:
        name, known = "manifest.json", zoo.manifest(folder) if (folder / "manifest.json").exists() else {}
    ordered = in_order(known | {f"{job.world}/{job.name}": entry})
    write_atomically(folder / name, lambda temporary: temporary.write_text(json.dumps(ordered, indent=1) + "\n"))


def main() -> None:
    parser = cli.Parser(prog="python -m lib.training.zoo", description="Train, evaluate and pack the shipped checkpoints.")
    parser.add_argument("--world", choices=tuple(WORLDS), default="shapes", help="what they see")
    parser.add_argument("--budget", choices=("gpu", "cpu"), default="gpu", help="course recipes, or what a CPU can do")
    parser.add_argument("--models", nargs="*", choices=(*MODELS, *VARIANTS), default=MODELS, metavar="MODEL",
                        help=f"which of {', '.join(MODELS)} (all if left out; none with --sweep alone), or of "
                             f"{', '.join(VARIANTS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0],
                        help=f"of training; {', '.join(map(str, SEEDS))} ship "
                             + ", ".join(f"of {', '.join(models)} of {world}" for world, models in TRAINED_AGAIN.items())
                             + ", 0 of the others; of further ones the measurements do")
    parser.add_argument("--sweep", nargs="*", type=float, choices=LAMBDAS, metavar="LAMBDA",
                        help="the hybrid at these λ too, at all seven if none is named")
    parser.add_argument("--sizes", nargs="+", choices=[size for sizes in SIZES.values() for size in sizes], metavar="SIZE",
                        help="the objectives at these other sizes instead, for their measurements only: "
                             + "; ".join(f"{', '.join(sizes)} ({budget})" for budget, sizes in SIZES.items()))
    parser.add_argument("--share", type=float, default=1.0, help="share of the planned epochs, to fit the time there is")
    parser.add_argument("--jobs", type=int, default=1, help="how many to train at once")
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"), help="where the runs are")
    a = parser.parse_args()
    for name in ("models", "seeds", "sweep", "sizes"):
        setattr(a, name, getattr(a, name) and list(dict.fromkeys(getattr(a, name))))              # each once
    if not 0 < a.share <= 1 or a.jobs < 1:
        raise CourseError(f"--share lies above 0 and is at most 1, and --jobs is at least 1; got {a.share} and {a.jobs}")
    if min(a.seeds) < 0:
        raise CourseError(f"--seeds are 0 or more, got {min(a.seeds)}")
    if not a.models and a.sweep is None:
        raise CourseError("nothing to train: name --models" + (", of which --sizes are" if a.sizes else ", or --sweep"))
    if a.sizes and set(a.models) & set(VARIANTS):
        raise CourseError(f"--sizes are of the objectives, not of {', '.join(VARIANTS)}")
    if a.sizes and a.sweep is not None:
        raise CourseError("--sizes go without --sweep: the hybrid's λ are tried at one size")
    usual = {planned(a.world, model, a.budget).model for model in a.models}
    strange = set(a.sizes or ()) - (set(SIZES[a.budget]) - usual)
    if strange:
        raise CourseError(f"--sizes of --budget {a.budget} are {', '.join(x for x in SIZES[a.budget] if x not in usual)}, "
                          f"since {', '.join(sorted(usual))} ships; got {', '.join(sorted(strange))}")
    jobs, failed = jobs_of(a), []

    def finish(job: Job) -> str:
        begun = time.perf_counter()
        train(job, a.runs)
        result = evaluate(job, a.runs)
        scores = ", ".join(f"{k} {result['trained'][k]['value']:.1%} ({result['untrained'][k]['value']:.1%})"
                           for k in ("knn", "linear"))
        return f"{job.world}/{job.name}: {scores} untrained in brackets; {(time.perf_counter() - begun) / 60:.1f} min"

    with ThreadPoolExecutor(a.jobs) as pool:
        for job, future in [(job, pool.submit(finish, job)) for job in jobs]:
            try:
                print(future.result(), flush=True)
            except (CourseError, subprocess.CalledProcessError) as error:
                failed.append(job.name)
                print(f"{job.world}/{job.name} failed: {error}", file=sys.stderr, flush=True)
            else:
                if job.ships:
                    pack(job, a.runs, json.loads((RESULTS / f"{job.world}-{job.name}.json").read_text()))
    if failed:
        raise CourseError(f"not finished: {', '.join(failed)}; the same command goes on from there")


if __name__ == "__main__":
    cli.main(main)
