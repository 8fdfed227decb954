"""Train from the command line: `python -m lib.training mocov3 --scale smoke --data shapes --out runs/x`.

Several processes: `torchrun --nproc-per-node 2 -m lib.training mocov3 --scale smoke`; batch_size stays the size over all.
"""
import signal
import sys
import time
from pathlib import Path

from lib import cli, distributed
from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.evaluation.features import extract
from lib.evaluation.neighbors import knn_accuracy
from lib.training.recipes import OBJECTIVES, RECIPES, SCALES, Recipe, recipe
from lib.training.trainer import Trainer, pick_device

FITS = 40e9                                                                        # bytes held in memory at most


def parse() -> tuple[str, str, Recipe, str, bool]:
    """-> objective, scale, recipe, folder, resume. The scale chosen decides the defaults of all other flags."""
    first = cli.Parser(prog="python -m lib.training", add_help=False, conflict_handler="resolve")
    first.add_argument("objective", choices=OBJECTIVES, nargs="?", default=OBJECTIVES[0])
    first.add_argument("--scale", choices=SCALES, default="smoke")
    first.add_argument("--out")
    for r in RECIPES.values():                                                     # so that it knows which flags take a value
        cli.add_fields(first, r)
    known, _ = first.parse_known_args([a for a in sys.argv[1:] if a not in ("-h", "--help")])
    defaults = RECIPES[known.objective, known.scale]
    parser = cli.Parser(prog="python -m lib.training", description=f"Train {known.objective} at scale {known.scale}. "
                        "Other objectives and scales have other defaults: name them before --help.")
    parser.add_argument("objective", choices=OBJECTIVES, help="what to train")
    parser.add_argument("--scale", choices=SCALES, default="smoke", help="which recipe the other flags start from")
    parser.add_argument("--out", default=f"runs/{known.objective}-{known.scale}", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in that folder")
    cli.add_fields(parser, defaults)
    chosen = vars(parser.parse_args())
    objective, scale, out, resume = (chosen.pop(k) for k in ("objective", "scale", "out", "resume"))
    if not out:
        raise CourseError("--out is empty; name a folder, such as --out runs/first")
    return objective, scale, recipe(objective, scale, **chosen), str(Path(out).expanduser()), resume


def knn_monitor(r: Recipe, train):
    """A function of a backbone: k-NN accuracy of at most 2,000 validation images among at most 5,000 training images."""
    bank = Loaded(train, limit=5_000)
    queries = Loaded(open_source(r.data, "val", r.image_size, difficulty=r.difficulty), limit=2_000)

    def monitor(backbone) -> dict[str, float]:
        return {"knn": knn_accuracy(*extract(backbone, bank, r.pooling), *extract(backbone, queries, r.pooling))}

    return monitor


def train() -> None:
    objective, scale, r, out, resume = parse()
    device = distributed.start(pick_device(r.device))
    main = distributed.rank() == 0
    try:
        source = open_source(r.data, "train", r.image_size, limit=r.images or None, difficulty=r.difficulty)
        if len(source) * 3 * r.image_size**2 < FITS:
            source = Loaded(source, device, progress=main)
        monitor = knn_monitor(r, source) if r.knn_every and main else None
        trainer = Trainer(r, source, out, resume=resume, monitor=monitor, progress=True)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda number, _: stop(trainer, number))
        if main:
            parameters = sum(p.numel() for p in trainer.objective.parameters() if p.requires_grad)
            print(f"{objective} at scale {scale}: {len(source):,} images of {r.data}, {trainer.steps:,} steps of "
                  f"{r.batch_size}, {parameters / 1e6:.1f} M parameters, {device}, {distributed.world_size()} process(es), "
                  f"into {out}", flush=True)
            if r.warmup_epochs >= r.epochs:
                print(f"note: the warm-up takes {r.warmup_epochs:g} epochs, the training {r.epochs}: the learning rate never "
                      "reaches its peak; lower --warmup-epochs", flush=True)
        begun = time.perf_counter()
        trainer.run()
        if main:
            report(trainer, out, time.perf_counter() - begun)
    finally:
        distributed.stop()


def stop(trainer: Trainer, number: int) -> None:
    """End after this step, with a checkpoint; a second signal ends at once."""
    print("\nstopping after this step, with a checkpoint", file=sys.stderr, flush=True)
    trainer.stop = True
    signal.signal(number, signal.SIG_DFL)


def report(trainer: Trainer, out: str, seconds: float) -> None:
    if trainer.step < trainer.steps:
        print(f"stopped after step {trainer.step} of {trainer.steps}; the same command with --resume goes on from there")
        return
    losses = [line["loss"] for line in trainer.history if "loss" in line]
    knn = [line["knn"] for line in trainer.history if "knn" in line]
    print(f"done in {seconds / 60:.1f} min: loss {losses[0]:.4f} -> {losses[-1]:.4f}"
          + (f", k-NN {knn[-1]:.1%}" if knn else "") + f"; weights in {out}/backbone.safetensors")


if __name__ == "__main__":
    cli.main(train)
