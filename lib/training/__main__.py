"""Train from the command line: `python -m lib.training mocov3 --scale smoke --data shapes --out runs/x`.

Several processes: `torchrun --nproc-per-node 2 -m lib.training mocov3 --scale smoke`; batch_size stays the size over all.
On a cluster: slurm.sh beside this file. What a run would take, without starting it: --dry-run.

Exit codes: 0 done; 2 something given was wrong; 75 stopped by SIGTERM or Ctrl-C with a checkpoint, to go on with --resume, or
by SIGTERM before the training began.
"""
from lib import cli

if __name__ == "__main__":                                                         # now, since the imports below take seconds
    cli.end_early("stopped before the training began; the same command begins again, and packing goes on where it was")

import argparse
import os
import signal
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from lib import distributed
from lib.data import Loaded, in_memory, open_source
from lib.data.centre import Centre
from lib.data.subset import Subset
from lib.errors import CourseError
from lib.evaluation.features import extract
from lib.evaluation.neighbors import knn_accuracy
from lib.models import official
from lib.training import initial
from lib.training.plan import Assumptions, show, without_numbers
from lib.training.recipes import OBJECTIVES, RECIPES, SCALES, Recipe, note_on_rate, recipe
from lib.training.trainer import Trainer, pick_device


class Order(NamedTuple):
    """What the command line asks for; `plan` is set where it asks only what that would take."""
    objective: str
    scale: str
    recipe: Recipe
    out: str
    resume: bool
    plan: Assumptions | None


def parse() -> Order:
    """The scale chosen decides the defaults of all other flags."""
    first = cli.Parser(prog="python -m lib.training", add_help=False, conflict_handler="resolve")
    first.add_argument("objective", choices=OBJECTIVES, nargs="?", default=OBJECTIVES[0])
    first.add_argument("--scale", choices=SCALES, default="smoke")
    first.add_argument("--out")
    for r in (*RECIPES.values(), Assumptions()):                                   # so that it knows which flags take a value
        cli.add_fields(first, r)
    known, _ = first.parse_known_args([a for a in sys.argv[1:] if a not in ("-h", "--help")])
    defaults = RECIPES[known.objective, known.scale]
    parser = cli.Parser(prog="python -m lib.training", description=f"Train {known.objective} at scale {known.scale}. "
                        "Other objectives and scales have other defaults: name them before --help.")
    parser.add_argument("objective", choices=OBJECTIVES, help="what to train")
    parser.add_argument("--scale", choices=SCALES, default="smoke", help="which recipe the other flags start from")
    parser.add_argument("--out", default=f"runs/{known.objective}-{known.scale}", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in that folder")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would take, and start nothing")
    cli.add_fields(parser, Assumptions())
    cli.add_fields(parser, defaults)
    chosen = vars(parser.parse_args())
    objective, scale, out, resume, dry = (chosen.pop(k) for k in ("objective", "scale", "out", "resume", "dry_run"))
    assumed = {f.name: chosen.pop(f.name) for f in fields(Assumptions)}
    given = vars(parser.parse_args(namespace=argparse.Namespace(**dict.fromkeys(chosen))))     # what is not stays None
    changes = {name: given[name] for name in chosen if given[name] is not None}
    if not out:
        raise CourseError("--out is empty; name a folder, such as --out runs/first")
    if not dry and assumed != vars(Assumptions()):
        flags = ", ".join("--" + f.name.replace("_", "-") for f in fields(Assumptions))
        raise CourseError(f"{flags} belong to --dry-run; a run takes the GPUs that torchrun gives it")
    return Order(objective, scale, recipe(objective, scale, **changes), str(Path(out).expanduser()), resume,
                 Assumptions(**assumed) if dry else None)


def knn_monitor(r: Recipe, train):
    """A function of a backbone: k-NN accuracy of at most 2,000 validation images among 5,000 training images, or 50 a class.

    With fewer images of a class there than neighbours that vote, 20, not even perfect features would find it.
    """
    bank = Subset(Centre(train, r.image_size) if r.stored_size else train, max(5_000, 50 * len(train.classes)))
    queries = Loaded(open_source(r.data, "val", r.image_size, difficulty=r.difficulty), limit=2_000)

    def monitor(backbone) -> dict[str, float]:
        return {"knn": knn_accuracy(*extract(backbone, bank, r.pooling), *extract(backbone, queries, r.pooling))}

    return monitor


def train() -> None:
    objective, scale, r, out, resume, asked = parse()
    note = note_on_rate(r, scale)
    if asked:
        if r.start_from.startswith("official:"):
            official.known(r.start_from.removeprefix("official:"))                 # and no download
        elif r.start_from:
            initial.check_all(without_numbers(r), r.start_from)
        print("\n".join([show(r, scale, asked), *([note] if note else [])]))
        return
    device = distributed.start(pick_device(r.device))
    main = distributed.rank() == 0
    try:
        source = open_source(r.data, "train", r.image_size, limit=r.images or None, difficulty=r.difficulty,
                             stored=r.stored_size)
        source = in_memory(source, device, progress=main)
        monitor = knn_monitor(r, source) if r.knn_every else None
        trainer = Trainer(r, source, out, resume=resume, monitor=monitor, progress=True)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, lambda number, _: stop(trainer, number))
        if main:
            parameters = sum(p.numel() for p in trainer.objective.parameters() if p.requires_grad)
            print(f"{objective} at scale {scale}: {len(source):,} images of {r.data}, {trainer.steps:,} steps of "
                  f"{r.batch_size}, {parameters / 1e6:.1f} M parameters, {device}, {distributed.world_size()} process(es), "
                  f"into {out}", flush=True)
            if note:
                print(note, flush=True)
            if r.warmup_epochs >= r.epochs:
                print(f"note: the warm-up takes {r.warmup_epochs:g} epochs, the training {r.epochs}: the learning rate never "
                      "reaches its peak; lower --warmup-epochs", flush=True)
        begun = time.perf_counter()
        try:
            trainer.run()
        except BrokenPipeError:                                                    # who read the output has gone
            if distributed.world_size() == 1:
                trainer.save()
            raise
        distributed.wait()                                                         # a launcher ends all when the first one ends
        if main:
            report(trainer, out, time.perf_counter() - begun)
    finally:
        distributed.stop()
    if trainer.step < trainer.steps:
        raise SystemExit(os.EX_TEMPFAIL)                                           # 75: not done, worth starting again


def stop(trainer: Trainer, number: int) -> None:
    """End after this step, with a checkpoint. A second Ctrl-C ends at once; SIGTERM may come twice, from torchrun and SLURM."""
    print("\nstopping after this step, with a checkpoint", file=sys.stderr, flush=True)
    trainer.stop = True
    if number == signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)


def report(trainer: Trainer, out: str, seconds: float) -> None:
    if trainer.step < trainer.steps:
        print(f"stopped after step {trainer.step} of {trainer.steps}; the same command with --resume goes on from there")
        return
    losses = [line["loss"] for line in trainer.history if "loss" in line]
    knn = [line["knn"] for line in trainer.history if "knn" in line]
    began = f"{losses[0]:.4f} -> " if len(losses) > 1 else ""
    print(f"done in {seconds / 60:.1f} min: loss {began}{losses[-1]:.4f}"
          + (f", k-NN {knn[-1]:.1%}" if knn else "") + f"; weights in {out}/backbone.safetensors")


if __name__ == "__main__":
    cli.main(train)
