"""Fine-tuning: what is a backbone worth as a start, when every weight may move?

A linear head is put on a copy of the backbone and all of it is trained on labels: on the CLS token after the final
LayerNorm, as MoCo v3 does, or on the mean of the patch tokens with a fresh LayerNorm behind the mean (`fc_norm`) instead of
the final one, as SimMIM and MAE do. Early layers, which are the most general, move the least: from the head down, every
layer's learning rate is smaller by the factor `layer_decay`.

What the published recipes do and this does not:
- One lambda of mixup or cutmix for a whole batch: here each image has its own (`lib.data.mixing`).
- DeiT's repeated augmentation and averaged weights. RandAugment takes pixels bilinearly from where they
  were, not bicubically.
- A first scale of the head for each recipe: all start at MAE's, so small that the first answers are even.
- SimMIM copies its relative position bias into every block. Here all blocks go on sharing one table, which moves at the rate of
  the head, as BEiT's shared one does.
"""
import contextlib
import copy
import functools
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from tqdm import tqdm

from lib import distributed, random
from lib.data.ahead import Ahead
from lib.data.mixing import erase, mix
from lib.data.views import SUPERVISED, make_view, normalize
from lib.errors import CourseError
from lib.evaluation import kept
from lib.evaluation.features import POOLINGS, frozen
from lib.models.vit import ViT
from lib.precision import has_bf16, widen
from lib.training.settings import option
from lib.training.sharding import load_optimizer
from lib.training.trainer import learning_rate_at, pick_device

HEAD_STD = 2e-5                                                    # of the head's first weights, MAE
LOG_EVERY = 10                                                     # steps from one wait for the device to the next
EMBEDDING = ("cls_token", "reg_token", "mask_token", "pos_embed", "patch_embed", "norm_pre")
TOP = ("norm", "fc_norm", "head", "bias_table", "rel_pos_bias")
NEVER_DECAYED = ("cls_token", "reg_token", "pos_embed")


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe:
    """Everything that fine-tuning depends on, but for the backbone, the images and the seed."""
    schedule: ClassVar[str] = "cosine"
    epochs: int = option(100, "passes over the training images")
    batch_size: int = option(1024, "images a step")
    accumulate: int = option(1, "parts of a step, one after the other: less memory, the same mean over images")
    learning_rate: float = option(1e-3, "peak learning rate of the head at this batch size")
    learning_rate_end: float = option(1e-6, "learning rate of the head at the end of the cosine")
    warmup_epochs: float = option(5.0, "epochs of linear warm-up")
    warmup_start: float = option(0.0, "learning rate of the head at the first step")
    layer_decay: float = option(1.0, "learning rate of a layer, as a share of that of the layer above it")
    weight_decay: float = option(0.05, "of AdamW, on matrices")
    drop_path: float = option(0.1, "rate of stochastic depth in the last block, rising from 0 in the first")
    clip_norm: float = option(0.0, "largest gradient norm; 0 for no clipping")
    crop_min: float = option(0.08, "smallest area of a crop, as a share of the image")
    bicubic: bool = option(True, "bring crops to their size bicubically, not bilinearly")
    rand_augment: float = option(9.0, "magnitude of RandAugment, up to 10; 0 for none")
    jitter: float = option(0.0, "probability of a colour jitter, which a training without RandAugment may have")
    erase: float = option(0.25, "probability that a box of noise covers a part of the image")
    mixup: float = option(0.8, "parameter of the Beta distribution; 0 for no mixup")
    cutmix: float = option(1.0, "parameter of the Beta distribution; 0 for no cutmix")
    smoothing: float = option(0.1, "share of a label's weight that is spread over all classes")

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type is not type(value) and not (f.type is float and type(value) is int):
                raise CourseError(f"{f.name} must be {f.type.__name__}, got {value!r}")
            if not 0 <= getattr(self, f.name) < math.inf:
                raise CourseError(f"{f.name} must not be negative or infinite, got {getattr(self, f.name)}")
        for name, low, high in (("epochs", 1, math.inf), ("batch_size", 1, math.inf), ("accumulate", 1, self.batch_size),
                                ("crop_min", 1e-6, 1), ("jitter", 0, 1), ("erase", 0, 1), ("rand_augment", 0, 10),
                                ("layer_decay", 1e-6, 1), ("drop_path", 0, 0.999), ("smoothing", 0, 0.999)):
            if not low <= getattr(self, name) <= high:
                raise CourseError(f"{name} must lie from {low} to {high}, got {getattr(self, name)}")
        if self.warmup_epochs >= self.epochs:
            raise CourseError(f"a warm-up of {self.warmup_epochs} epochs leaves nothing of {self.epochs}; give a smaller "
                              "warmup_epochs")


RECIPES: dict[str, FineTuneRecipe] = {
    # For a small ViT on small images, in minutes. Few steps want a high learning rate, small batches and gentle views.
    "course": FineTuneRecipe(epochs=20, batch_size=64, learning_rate=2e-3, warmup_epochs=2, layer_decay=0.75, clip_norm=5.0,
                             crop_min=0.6, bicubic=False, rand_augment=0.0, erase=0.0, mixup=0.0, cutmix=0.0),
    # MoCo v3 names DeiT's defaults for 150 epochs; lr, decay, drop path, warm-up, mixing and clipping are those of
    # mmpretrain's configuration (batch 8 x 64), the ends of the schedule and erasing those of DeiT.
    "mocov3": FineTuneRecipe(epochs=150, batch_size=512, learning_rate=5e-4, learning_rate_end=1e-5, warmup_epochs=5,
                             warmup_start=1e-6, clip_norm=5.0),
    # SimMIM, the official configuration of ViT-B: lr 1.25e-3 x batch / 512, layer decay 0.65.
    "simmim": FineTuneRecipe(epochs=100, batch_size=1024, learning_rate=1.25e-3 * 1024 / 512,
                             learning_rate_end=2.5e-7 * 1024 / 512, warmup_epochs=20, warmup_start=2.5e-7 * 1024 / 512,
                             layer_decay=0.65, clip_norm=5.0),
    # MAE, FINETUNE.md of the official repository, ViT-B: lr 5e-4 x batch / 256, layer decay 0.65, no clipping.
    "mae": FineTuneRecipe(epochs=100, batch_size=1024, learning_rate=5e-4 * 1024 / 256, learning_rate_end=1e-6,
                          warmup_epochs=5, layer_decay=0.65),
}


def recipe(name: str, **changes) -> FineTuneRecipe:
    """A recipe by name, with some fields changed. The learning rates of a published one follow the batch size, unless given.

    Raises CourseError for another name.
    """
    if name not in RECIPES:
        raise CourseError(f"there is no recipe {name!r} of fine-tuning; choose one of {', '.join(RECIPES)}")
    r = RECIPES[name]
    if name != "course" and "batch_size" in changes and "learning_rate" not in changes:
        share = changes["batch_size"] / r.batch_size
        changes = {rate: share * getattr(r, rate) for rate in ("learning_rate", "learning_rate_end", "warmup_start")} | changes
    return replace(r, **changes)


@dataclass(frozen=True)
class FineTuned:
    """network: a classifier, (B, 3, S, S) -> logits (B, classes), in eval mode, otherwise a backbone like the one it came
    from. predictions (N,) int64: its answers to the validation images. history: a line for every 10 steps."""
    network: nn.Module
    predictions: Tensor
    history: list[dict[str, float]]


def layer_lr_scale(name: str, depth: int, decay: float) -> float:
    """Learning rate of a parameter, as a share of that of the head: decay^(depth + 1 - layer).

    The embedding (patches, positions, tokens) is layer 0, block i, counted from 0, layer i + 1; the head, the final LayerNorm
    and a relative bias that all blocks share are layer depth + 1 (BEiT, MAE). Raises CourseError for a name that belongs
    nowhere.
    """
    part, *rest = name.split(".")
    if part in EMBEDDING:
        layer = 0
    elif part == "blocks":
        layer = int(rest[0]) + 1
    elif part in TOP:
        layer = depth + 1
    else:
        raise CourseError(f"it is not known to which layer the parameter {name!r} belongs; fine-tune a plain ViT")
    return decay ** (depth + 1 - layer)


def parameter_groups(network: nn.Module, r: FineTuneRecipe) -> list[dict]:
    """Every parameter once, by learning rate and weight decay. What has one axis, CLS and positions are not decayed."""
    groups = {}
    for name, p in network.named_parameters():
        scale = layer_lr_scale(name, len(network.blocks), r.layer_decay)
        decay = 0.0 if p.ndim == 1 or name in NEVER_DECAYED else r.weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "lr_scale": scale, "weight_decay": decay})
        group["params"].append(p)
    return list(groups.values())


def make_classifier(backbone: nn.Module, classes: int, pooling: str, drop_path: float) -> nn.Module:
    """A copy of a backbone with a head. All of it may learn, also what the pre-training had frozen.

    The head's weights are drawn from PyTorch's random state. Raises CourseError if the backbone is not a ViT like timm's or
    the pooling is unknown.
    """
    needs = ("blocks", "patch_embed", "norm", "fc_norm", "forward_features", "forward_head", "global_pool", "num_prefix_tokens")
    lacks = [name for name in needs if not hasattr(backbone, name)]
    if lacks:
        raise CourseError(f"fine-tuning takes a ViT like timm's, this {type(backbone).__name__} has no {', '.join(lacks)}")
    if pooling not in POOLINGS:
        raise CourseError(f"there is no pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
    if pooling == "cls" and not backbone.num_prefix_tokens:
        raise CourseError("this backbone has no CLS token; choose the pooling mean")
    network = copy.deepcopy(backbone).requires_grad_(True)
    if pooling == "mean" and isinstance(network.fc_norm, nn.Identity):
        network.norm, network.fc_norm = nn.Identity(), nn.LayerNorm(network.embed_dim, eps=1e-6)
    network.global_pool, network.num_classes = {"cls": "token", "mean": "avg"}[pooling], classes
    network.head = nn.Linear(network.embed_dim, classes)
    nn.init.normal_(network.head.weight, std=HEAD_STD)
    nn.init.zeros_(network.head.bias)
    for i, block in enumerate(network.blocks):
        rate = drop_path * i / max(len(network.blocks) - 1, 1)
        block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    return network


def finetune(backbone: nn.Module, train, val, r: FineTuneRecipe, pooling: str = "cls", seed: int = 0, device: str = "auto",
             progress: bool = False, keep: str | Path | None = None) -> FineTuned:
    """Train a copy of a backbone on the labels of `train`, and let it classify the images of `val`, which have no say in it.

    Head, order, views, mixing and drop path depend on the seed alone: on a CPU, the same seed gives the same network to the
    last bit (a GPU may add in another order). The forward pass is bf16 on a GPU and fp32 on a CPU; the device is waited for
    every 10 steps. A remainder of the images that fills no batch is left for another epoch. Of several processes (torchrun)
    each takes its share of every batch; mixup and cutmix then mix an image with one of its own process. keep: a file for the
    state after each epoch; where it is there already, the same call goes on from it, to the same bits. Raises CourseError if
    the sources or the backbone do not fit, if the file is of another call, or if the loss is not finite.
    """
    device = torch.device(pick_device(device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):      # the caller's random state stays
        torch.manual_seed(int(random.combine(seed, "fine-tuning")) % 2**63)              # of the head and of drop path
        network = make_classifier(backbone, len(train.classes), pooling, r.drop_path).to(device)
        _check(network, train, val, r)
        keep = None if keep is None else Path(keep)
        with kept.alone(keep):
            history = _train(network, train, r, seed, device, progress, keep)
    return FineTuned(network, predict(network, val), history)


def _check(network: nn.Module, train, val, r: FineTuneRecipe) -> None:
    size = network.patch_embed.img_size[0]
    if list(train.classes) != list(val.classes):
        raise CourseError("training and validation images must have the same classes in the same order, got "
                          f"{len(train.classes)} of {train.name}/{train.split} and {len(val.classes)} others of "
                          f"{val.name}/{val.split}")
    if len(train) < r.batch_size or not len(val):
        raise CourseError(f"a batch of {r.batch_size} needs as many images and validation at least 1, got {len(train)} and "
                          f"{len(val)}; lower batch_size")
    if r.batch_size % distributed.world_size():
        raise CourseError(f"a batch of {r.batch_size} does not divide over {distributed.world_size()} processes; change "
                          "batch_size")
    if val.size != size:
        raise CourseError(f"this backbone takes images of {size} pixels, those of {val.name}/{val.split} have {val.size}; "
                          f"open the source at a size of {size}")


def _train(network: nn.Module, train, r: FineTuneRecipe, seed: int, device: torch.device, progress: bool,
           keep: Path | None) -> list[dict[str, float]]:
    optimizer = torch.optim.AdamW(parameter_groups(network, r), lr=r.learning_rate, fused=True)
    view = replace(SUPERVISED, scale=(r.crop_min, 1.0), bicubic=r.bicubic, jitter=r.jitter, rand_augment=r.rand_augment)
    labels, size = train.labels(torch.arange(len(train))).cpu(), network.patch_embed.img_size[0]
    per_epoch = len(train) // r.batch_size
    steps, history, pending, since = r.epochs * per_epoch, [], 0, 0
    several, call = distributed.world_size() > 1, network

    @functools.lru_cache(2)                                        # reading ahead may be in the next epoch
    def order_of(epoch: int) -> Tensor:
        return random.permutation(random.combine(seed, "fine-tuning order", epoch), len(train))

    def indices_of(step: int) -> Tensor:
        """Which images this process sees at a step."""
        epoch, place = divmod(step, per_epoch)
        return order_of(epoch)[place * r.batch_size:(place + 1) * r.batch_size][distributed.share(r.batch_size)]

    reading = Ahead(train, indices_of, steps, device)
    about = {"recipe": asdict(replace(r, accumulate=1)), "seed": seed, "images": f"{len(train)} of {train.name}/{train.split}"}
    about |= {"network": kept.fingerprint(network), "content": kept.fingerprint_of_images(train)} if keep else {}

    def load(state: dict) -> int:
        nonlocal history, pending, since
        network.load_state_dict(state["network"])
        load_optimizer(optimizer, state["optimizer"])
        history, pending, since = list(state["history"]), state["pending"].to(device), int(state["since"])
        kept.set_random_state(state["random"], device)
        return state["step"] if all(line["step"] <= state["step"] for line in history) else -1

    begun = kept.go_on(keep, about, load, steps) if keep else 0
    if several:                                                    # a mask token gets no gradient here
        unused = not isinstance(network, ViT) or "mask_token" in dict(network.named_parameters())
        call = distributed.replicate(network, find_unused_parameters=unused)
    call.train()
    progress = progress and distributed.rank() == 0
    for step in tqdm(range(begun, steps), desc="fine-tuning", unit="step", disable=not progress, leave=False, initial=begun,
                     total=steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0 and several:                                 # drop path draws in each process for itself
            torch.manual_seed(int(random.combine(seed, "fine-tuning", epoch, distributed.rank())) % 2**63)
        indices = indices_of(step)
        keys = random.combine(seed, "fine-tuning views", epoch, indices)
        images = make_view(reading(step), view, size, keys)
        images = erase(images, keys, r.erase)
        images, targets = mix(images, labels[indices], keys, len(train.classes), r.mixup, r.cutmix, r.smoothing)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(r, step / per_epoch) * group["lr_scale"]
        optimizer.zero_grad(set_to_none=True)
        loss, parts = 0.0, list(zip(images.chunk(r.accumulate), targets.chunk(r.accumulate), strict=True))
        for i, (some, wanted) in enumerate(parts):
            alone = several and i + 1 < len(parts)                 # processes add up their gradients in the last part
            with call.no_sync() if alone else contextlib.nullcontext():
                with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
                    logits = widen(call(some))                                       # (part, classes)
                part = F.cross_entropy(logits, wanted) * (len(some) / len(images))
                part.backward()
            loss = loss + part.detach()
        if r.clip_norm:
            nn.utils.clip_grad_norm_(network.parameters(), r.clip_norm)
        optimizer.step()
        pending = pending + loss
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            history.append({"step": step + 1, "epoch": (step + 1) / per_epoch,
                            "loss": distributed.mean(pending).item() / (step + 1 - since),
                            "learning_rate": learning_rate_at(r, step / per_epoch)})
            if not math.isfinite(history[-1]["loss"]):
                raise CourseError(f"the loss of fine-tuning is not a finite number between steps {since + 1} and {step + 1} "
                                  f"({', '.join(f'{k}={v}' for k, v in asdict(r).items() if 'rate' in k or 'clip' in k)}); "
                                  "try a lower learning_rate, and make sure that the backbone's weights are finite")
            pending, since = torch.zeros((), device=device), step + 1
        if keep and place == per_epoch - 1:
            kept.keep(keep, about, {"step": step + 1, "since": since, "pending": pending, "history": history,
                                    "network": network.state_dict(), "optimizer": optimizer.state_dict(),
                                    "random": kept.random_state(device)})
    network.eval()
    return history


def predict(network: nn.Module, source, batch_size: int = 256) -> Tensor:
    """The class that a classifier finds in each image: (N,) int64, on the CPU. Raises CourseError if logits are not finite."""
    device, logits = next(network.parameters()).device, []
    with frozen(network):
        for indices in torch.arange(len(source)).split(batch_size * distributed.world_size()):
            images = source.images(indices[distributed.share(len(indices))]).to(device)
            logits.append(distributed.gather_shares(network(normalize(images)).float(), len(indices)).cpu())
    logits = torch.cat(logits)
    if not logits.isfinite().all():
        raise CourseError("the fine-tuned network's logits are not finite: its last steps were too long; try a lower "
                          "learning_rate")
    return logits.argmax(1)
