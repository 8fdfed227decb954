"""One trainer for all objectives.

What happens at step s depends on the recipe and s alone: the order of the images, the views, the masks, the learning rate.
So a run that is killed and resumed is the run that was never killed, on a CPU bit for bit (on a GPU some sums have no fixed
order), and several processes train like one, but for what each draws by itself: paths to drop and partners to mix images with.
"""
import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lib import distributed, random
from lib.data.ahead import Ahead
from lib.errors import CourseError
from lib.objectives import Objective
from lib.precision import has_bf16
from lib.training import checkpoint, initial, log, memory, sharding
from lib.training.build import build
from lib.training.recipes import Recipe, describe
from lib.training.settings import FREE, later


def learning_rate_at(r: Recipe, epoch: float) -> float:
    """Learning rate at a time in epochs: linear warm-up, then half a cosine to its end, or a tenth for the last eighth."""
    if epoch < r.warmup_epochs:
        return r.warmup_start + (r.learning_rate - r.warmup_start) * epoch / r.warmup_epochs
    if r.schedule == "step":
        return r.learning_rate * (0.1 if epoch >= r.epochs * 7 / 8 else 1)
    progress = (epoch - r.warmup_epochs) / max(r.epochs - r.warmup_epochs, 1e-9)
    return r.learning_rate_end + (r.learning_rate - r.learning_rate_end) * (1 + math.cos(math.pi * min(progress, 1))) / 2


def weight_decay_at(r: Recipe, progress: float) -> float:
    """Weight decay at a share of the training: constant, or along half a cosine to `weight_decay_end` (DINO)."""
    if not r.weight_decay_end:
        return r.weight_decay
    return r.weight_decay_end + (r.weight_decay - r.weight_decay_end) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(r: Recipe, objective: nn.Module) -> torch.optim.AdamW:
    """AdamW over what learns. Vectors, CLS and positions are not decayed, unless the recipe decays all (MoCo v3 does)."""
    decayed, free = [], []
    for name, p in objective.named_parameters():
        if p.requires_grad:
            (free if not r.decay_all and (p.ndim == 1 or name.endswith(("cls_token", "pos_embed"))) else decayed).append(p)
    groups = [{"params": decayed, "weight_decay": r.weight_decay, "decayed": True},
              {"params": free, "weight_decay": 0.0, "decayed": False}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=r.learning_rate, betas=(0.9, r.beta2), fused=True)


def pick_device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise CourseError("device cuda was asked for, but PyTorch sees no CUDA GPU here; use --device cpu, or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


BUSY = "this trainer is training already, in another thread; `trainer.stop = True` stops it after its step"


OF_THE_LOG = {"loss", "step", "epoch", "gradient_norm", "learning_rate", "images_per_second"}          # what the trainer writes


class Trainer:
    """Trains a recipe's objective on a source of images.

        trainer = Trainer(recipe("mocov3", "smoke"), source)
        trainer.run()
        trainer.objective.backbone, trainer.history

    folder: where to write log.jsonl, TensorBoard events, checkpoints and, at the end, backbone.safetensors; None writes
    nothing; resume: go on with the run in it. monitor: called with the backbone every `knn_every` epochs, in all processes,
    returns numbers for the log. make: a function of the recipe that gives the objective, for one of your own; it draws weights
    from PyTorch's random state, which the seed sets. Set `stop` to end after the current step, with a checkpoint. Raises
    CourseError if the source is smaller than a batch, if the folder holds another run, if the loss is not finite.
    """

    def __init__(self, r: Recipe, source, folder: str | Path | None = None, *, resume: bool = False,
                 monitor: Callable[[nn.Module], dict[str, float]] | None = None, progress: bool = False,
                 make: Callable[[Recipe], Objective] = build):
        processes = distributed.world_size()
        if processes < int(os.environ.get("WORLD_SIZE") or 1):
            raise CourseError('torchrun started several processes, but they do not know of each other: call '
                              'lib.distributed.start("cuda"), or "cpu", before the trainer is made')
        distributed.check_same({"images": len(source)} | describe(r))
        if r.batch_size % processes:
            raise CourseError(f"a batch of {r.batch_size} images does not divide among {processes} processes")
        if r.batch_size // processes % r.accumulate:
            raise CourseError(f"{r.batch_size // processes} images a process do not divide into {r.accumulate} parts; change "
                              "--accumulate or --batch-size")
        if len(source) < r.batch_size:
            raise CourseError(f"a batch of {r.batch_size} needs as many images, {source.name} has {len(source)}; "
                              "lower --batch-size")
        if getattr(r, "classes", None) == 0:
            r = replace(r, classes=len(source.classes))
        self.recipe, self.source, self.monitor, self.progress = r, source, monitor, progress
        self.folder = Path(folder) if folder is not None else None
        self.device = torch.device(pick_device(r.device), torch.cuda.current_device()) if pick_device(r.device) == "cuda" \
            else torch.device("cpu")
        self.bf16 = r.precision == "bf16" or (r.precision == "auto" and has_bf16(self.device))
        self.steps_per_epoch = len(source) // r.batch_size
        self.steps = r.epochs * self.steps_per_epoch
        self.dtype = torch.float64 if r.precision == "fp64" else torch.float32
        self.make = make
        self.objective = self._made()
        if r.start_from and not resume:
            initial.begin(self.objective, r.start_from)
        self.objective.to(self.device, self.dtype)
        self.sharded = r.shard and processes > 1
        if r.compile and self.sharded:                             # their insides, or nothing would be: see `compile_blocks`
            sharding.compile_blocks(self.objective)
        if r.checkpoint_blocks:
            memory.checkpoint_blocks(self.objective)
        if self.sharded:
            sharding.shard(self.objective, self.device.type)
        self.optimizer = make_optimizer(r, self.objective)
        self.reading = Ahead(source, self.batch_indices, self.steps, self.device)
        self.step, self.stop, self.history = 0, False, []
        self._training = threading.Lock()
        self.pending, self.since = {}, 0                          # sums of what was logged since a step, for the next line
        self.first_bad = torch.full((), math.inf, device=self.device)              # the first step that was not finite
        self._open_folder(resume)
        if r.compile and not self.sharded:
            self.objective.compile()
        replicated = processes > 1 and not self.sharded
        self.call = self.objective
        if replicated:                                            # gradients live in the buckets that travel, not beside them
            self.call = distributed.replicate(self.objective, gradient_as_bucket_view=True)

    def _made(self) -> Objective:
        """The objective with its first weights."""
        torch.manual_seed(self.recipe.seed)
        made = self.make(self.recipe)
        if not isinstance(made, Objective) or not isinstance(getattr(made, "backbone", None), nn.Module):
            raise CourseError(f"make must give a lib.objectives.Objective with a backbone, got a {type(made).__name__}"
                              + (" without one" if isinstance(made, Objective) else ""))
        for part in made.ships:                                    # now, not when the last step is done
            if not isinstance(getattr(made, part, None), nn.Module):
                raise CourseError(f"ships must name modules of the objective, in a tuple; {part!r} is none")
        return made

    def described(self) -> dict:
        """What a run says of itself on disk: its recipe, as plain data."""
        return describe(self.recipe)

    # -- what a run leaves on disk ---------------------------------------------------------------------------------

    def _open_folder(self, resume: bool) -> None:
        self.owns_folder = resume                                  # whether what the folder holds is this run
        if self.folder is None:
            return
        try:
            if not resume:                                         # there is nothing to go on with in a new folder
                self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(f"cannot write to {self.folder}: {error.strerror}; choose another --out") from None
        if self.folder.exists() and not os.access(self.folder, os.W_OK):
            raise CourseError(f"cannot write to {self.folder}: no permission; choose another --out")
        if resume:
            self._load(checkpoint.load(self.folder))
        else:
            self._check_unused()

    def _check_unused(self) -> None:
        """Raises CourseError if the folder holds another run."""
        known = () if self.owns_folder or self.folder is None else ("last.pt", "previous.pt", "backbone.safetensors")
        if any((self.folder / name).exists() for name in known):
            raise CourseError(f"{self.folder} already holds a run; add --resume (in Python resume=True) to "
                              "continue it, or choose another --out")

    def _load(self, state: dict) -> None:
        mine = self.described()
        theirs = later(mine) | state["recipe"]
        differ = [k for k in mine | theirs if k not in FREE and mine.get(k) != theirs.get(k)]
        if differ:
            k = differ[0]
            raise CourseError(f"{self.folder} was begun with {k}={theirs.get(k)}, not {k}={mine.get(k)}"
                              + (f" (also differ: {', '.join(differ[1:])})" if differ[1:] else "")
                              + "; resume with the same recipe, or choose another --out")
        if state["images"] != len(self.source):
            raise CourseError(f"{self.folder} was begun on {state['images']} images, {self.source.name} now has "
                              f"{len(self.source)}; resume with the same data, or choose another --out")
        try:
            sharding.load_weights(self.objective, state["objective"])
            sharding.load_optimizer(self.optimizer, state["optimizer"])
            self.step, self.history, self.since = state["step"], state["history"], state["pending"]["since"]
            self.pending = {name: value.to(self.device) for name, value in state["pending"]["sums"].items()}
            if not 0 <= self.since <= self.step <= self.steps or any(line["step"] > self.step for line in self.history):
                raise ValueError
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
            raise CourseError(f"the checkpoint in {self.folder} does not fit this recipe: it was changed, or another version "
                              "of the course wrote it; choose another --out") from None

    def save(self) -> None:
        """Write last.pt: weights of all networks, optimiser, step (and with it schedules and position), history."""
        pending = {"since": self.since, "sums": {name: distributed.mean(value) for name, value in self.pending.items()}}
        weights, optimizer = self.objective.state_dict(), self.optimizer.state_dict()
        if self.sharded:
            weights, optimizer = sharding.whole(weights), sharding.whole(optimizer)
        self.owns_folder = True
        if self.folder is not None and distributed.rank() == 0:
            checkpoint.save(self.folder, {"recipe": self.described(), "images": len(self.source), "step": self.step,
                                          "objective": weights, "history": self.history,
                                          "optimizer": optimizer, "pending": pending})

    # -- the loop ----------------------------------------------------------------------------------------------------

    def batch_indices(self, step: int) -> Tensor:
        """Which images this process sees at a step: (batch_size / processes,) int64."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if getattr(self, "_order", (None,))[0] != epoch:
            self._order = epoch, random.permutation(random.combine(self.recipe.seed, "order", epoch), len(self.source))
        share = self.recipe.batch_size // distributed.world_size()
        start = place * self.recipe.batch_size + distributed.rank() * share
        return self._order[1][start:start + share]

    def prepare(self, step: int) -> dict[str, Tensor]:
        """The views (and masks) of a step, on the device."""
        indices = self.batch_indices(step)
        images = self.reading(step)
        with torch.no_grad():
            keys = random.combine(self.recipe.seed, "views", step // self.steps_per_epoch, indices)
            labels = (self.source.labels(indices),) if self.objective.needs_labels else ()
            batch = self.objective.prepare(images, keys, *labels)
            if not isinstance(batch, dict):
                raise CourseError(f"prepare must return a dict of tensors, got a {type(batch).__name__}")
            return {k: x.to(self.dtype) if x.is_floating_point() else x for k, x in batch.items()}

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step of the optimiser; -> loss, gradient norm and logs as tensors on the device, so that nothing waits for it."""
        r, epoch = self.recipe, step / self.steps_per_epoch
        torch.manual_seed(int(random.combine(r.seed, "step", step, distributed.rank())) % 2**63)     # for drop path
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(r, epoch)
            if group["decayed"]:
                group["weight_decay"] = weight_decay_at(r, step / self.steps)
        self.objective.train()
        self.objective.begin_step(step / self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        logs = self.backward(self.prepare(step))
        learned = [p for p in self.objective.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in learned])
        logs["gradient_norm"] = sharding.full(norm)                                # before clipping
        if r.clip_norm and r.clip_each:
            for parameter in learned:
                nn.utils.clip_grad_norm_([parameter], r.clip_norm)
        elif r.clip_norm:
            nn.utils.clip_grads_with_norm_(learned, r.clip_norm, norm)
        for parameter in self.objective.resting():
            parameter.grad = None
        self.optimizer.step()
        return logs

    def backward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the gradients of a batch to the parameters, part by part, averaged over processes; -> loss and logs."""
        count = self.recipe.accumulate
        parts = memory.parts(batch, self.recipe.batch_size // distributed.world_size(), count)
        means = {}
        for part in parts:
            waits = part is not parts[-1] and isinstance(self.call, DistributedDataParallel)
            with self.call.no_sync() if waits else contextlib.nullcontext():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    answer = self.call(part)
                    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
                        raise CourseError("loss must return the loss and a dict of scalars for the log, got a "
                                          f"{type(answer).__name__}")
                    loss, logs = answer
                (loss / count).backward()
            if taken := OF_THE_LOG & logs.keys():
                raise CourseError(f"the log has a {min(taken)!r} of its own; the objective must call its number otherwise")
            for name, value in ({"loss": loss} | logs).items():
                value = torch.as_tensor(value, device=self.device).detach()
                if value.ndim:
                    raise CourseError(f"the log takes scalars, and {name} has the shape {tuple(value.shape)}")
                means[name] = value / count + means.get(name, 0)
        return means

    def run(self) -> None:
        """Train from where the run stands to its end, or until `stop`. Raises CourseError if it is training already."""
        if not self._training.acquire(blocking=False):
            raise CourseError(BUSY)
        try:
            self._run()
        finally:
            self.stop = False                                      # it was heard
            self._training.release()

    @property
    def running(self) -> bool:
        return self._training.locked()

    def _run(self) -> None:
        r, main, stop = self.recipe, distributed.rank() == 0, False
        with contextlib.ExitStack() as opened:
            opened.enter_context(log.alone(self.folder))
            self._check_unused()                                   # another run may have come in between
            self.owns_folder = True
            checkpoint.sweep(self.folder)
            write = opened.enter_context(log.opened(self.folder, self.step, self.described()))
            bar = opened.enter_context(tqdm(total=self.steps * r.batch_size, initial=self.step * r.batch_size, unit="img",
                                            unit_scale=True, disable=not (self.progress and main)))
            self._start_clock()
            while self.step < self.steps and not stop:
                logs = self.train_step(self.step)
                self.step += 1
                self.first_bad = torch.where(torch.isfinite(logs["loss"]), self.first_bad, self.first_bad.clamp(max=self.step))
                self.pending = {name: value + self.pending.get(name, 0) for name, value in logs.items()}
                bar.update(r.batch_size)
                last, (epoch, place) = self.step == self.steps, divmod(self.step, self.steps_per_epoch)
                if self.step % r.log_every == 0 or last:
                    self._check()
                    write(self._log_line())
                    bar.set_postfix(loss=f"{self.history[-1]['loss']:.3f}")
                    stop = self._told_to_stop()
                stop = stop or (self.stop and distributed.world_size() == 1)
                if place == 0 and r.knn_every and (last or epoch % r.knn_every == 0):
                    backbone = self._whole_backbone()
                    if self.monitor:                               # in all processes, which may share its work
                        write(self._monitor_line(backbone))
                keep = place == 0 and r.keep_every and epoch % r.keep_every == 0
                if self.step % (r.checkpoint_every or self.steps_per_epoch) == 0 or last or stop or keep:
                    self.first_bad = torch.where(self._weights_finite(), self.first_bad, self.first_bad.clamp(max=self.step))
                    self._check()
                    if keep and self.folder is not None:          # before the checkpoint: a kill between the two repeats it
                        path = self.folder / f"backbone-epoch{epoch:04d}.safetensors"
                        checkpoint.export(path, self.objective, self.described())
                    self.save()
        self.objective.eval()
        if self.step == self.steps and self.folder is not None:
            checkpoint.export(self.folder / "backbone.safetensors", self.objective, self.described())

    def _start_clock(self) -> None:
        self.begun, self.timed_from = time.perf_counter(), self.step

    def _told_to_stop(self) -> bool:
        """Whether any process was: a signal may reach one a step before another."""
        return distributed.mean(torch.tensor(float(self.stop), device=self.device)).item() > 0

    def _log_line(self) -> dict:
        """Means, over the steps since the last line and over processes, of what was logged."""
        count, seconds = self.step - self.since, time.perf_counter() - self.begun
        means = {name: (distributed.mean(value) / count).item() for name, value in self.pending.items()}
        line = {"step": self.step, "epoch": self.step / self.steps_per_epoch, **means,
                "learning_rate": self.optimizer.param_groups[0]["lr"]}
        speed = (self.step - self.timed_from) * self.recipe.batch_size / seconds
        self.history.append(line)
        self.pending, self.since = {}, self.step
        self._start_clock()
        return line | {"images_per_second": round(speed, 1)}

    def _whole_backbone(self) -> nn.Module:
        """The backbone, or of a sharded one a copy that works in one process."""
        self.objective.eval()
        if not self.sharded:
            return self.objective.backbone
        backbone = self._made().backbone.to(self.device, self.dtype).eval()
        backbone.load_state_dict(sharding.whole(self.objective.backbone.state_dict()))
        return backbone

    def _monitor_line(self, backbone: nn.Module) -> dict:
        """What the monitor says of the backbone."""
        line = {"step": self.step, "epoch": self.step / self.steps_per_epoch} | self.monitor(backbone)
        self.history.append(line)
        self._start_clock()
        return line

    def _weights_finite(self) -> Tensor:
        """-> a scalar bool on the device: a finite loss may still have led to a step that no checkpoint should keep."""
        finite = torch.stack(torch._foreach_norm(list(self.objective.parameters()))).isfinite().all()
        return sharding.whole(finite).to(self.device)

    def _check(self) -> None:
        """Raise if a step went wrong. The one place where the host waits for the device besides the log."""
        step = distributed.earliest(self.first_bad).item()
        if math.isinf(step):
            return
        kept = "no checkpoint was written yet"
        if self.folder is not None and (self.folder / "last.pt").exists():
            kept = f"the last good checkpoint is {self.folder / 'last.pt'}"
        settings = {f.name: getattr(self.recipe, f.name) for f in fields(self.recipe)
                    if f.name in ("learning_rate", "warmup_epochs", "batch_size", "precision", "clip_norm")}
        described = ", ".join(f"{k}={v}" for k, v in settings.items())
        clipping = "" if 0 < self.recipe.clip_norm <= 1 else " or --clip-norm 1"
        raise CourseError(f"the loss, or a weight, is not a finite number at step {int(step)} "
                          f"({type(self.recipe).__name__}: {described}); {kept}; try a lower --learning-rate{clipping}")
