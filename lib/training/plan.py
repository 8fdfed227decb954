"""What a recipe would take, before it is begun: `python -m lib.training mocov3 --scale paper --dry-run --gpus 8`.

Parameters and steps are exact: they are counted in the network itself, built without numbers in it (the "meta" device).
Memory and operations are counted in one step of that network, run on tensors that have a shape but no content, under the
precision of a GPU. What no count can know, the utilisation that a GPU reaches and its price, is given by flags. Everything
that is not exact is printed with ≈ before it.
"""
from dataclasses import asdict, dataclass, fields, replace

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lib.data import gpu_holds, open_source
from lib.data.images import KNOWN
from lib.data.shapes import SHAPES
from lib.errors import CourseError
from lib.models.vit import ViT
from lib.objectives import Objective
from lib.training.build import build
from lib.training.memory import checkpoint_blocks
from lib.training.recipes import DEPARTURES, Recipe, objective_of, recipe
from lib.training.settings import FREE, option

CLASSES = {"shapes": len(SHAPES), "cifar10": 10, "imagenette": 10, "tiny-imagenet": 200, "imagenet": 1000}
SLOWER = 15                            # times, of an H100 in fp32 and fp64 against bf16: 67 TFLOP/s on its data sheet, not 990
LEFT_OUT = "what compiled code saves, temporary tensors, the allocator's slack, the libraries' workspaces"


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan rests on and cannot know."""
    gpus: int = option(8, "of a dry run: GPUs that share the batch")
    tflops: float = option(990.0, "of a dry run: the most a GPU computes, in TFLOP/s; 990 is about the data sheet of an H100, "
                                  f"dense bf16; fp32 and fp64 are taken to be {SLOWER} times slower")
    utilisation: float = option(0.4, "of a dry run: share of that which the training reaches, an assumption")
    price: float = option(0.0, "of a dry run: price of a GPU-hour, in any currency; 0 for no cost")
    gpu_memory: float = option(80.0, "of a dry run: memory of a GPU, in GB")

    def __post_init__(self):
        if self.gpus < 1:
            raise CourseError(f"a plan needs at least 1 GPU, got --gpus {self.gpus}")
        if not 1e-6 <= self.utilisation <= 1 or not 1e-6 <= self.tflops < float("inf") or not 0 <= self.price < float("inf"):
            raise CourseError("a plan needs a utilisation from 1e-6 to 1, at least 1e-6 TFLOP/s and a price that is not "
                              f"negative, got {self.utilisation}, {self.tflops} and {self.price}")
        if not 0 < self.gpu_memory < float("inf"):
            raise CourseError(f"a GPU has more than 0 GB of memory, got --gpu-memory {self.gpu_memory}")

    def rate(self, r: Recipe) -> float:
        """The most that a GPU computes in the recipe's precision, in TFLOP/s."""
        return self.tflops if in_bf16(r) else self.tflops / SLOWER


def in_bf16(r: Recipe) -> bool:
    """Whether a GPU runs the networks of a recipe in bf16."""
    return r.precision in ("auto", "bf16")


@dataclass(frozen=True)
class Plan:
    """Numbers of parameters, images, steps; bytes of one GPU; operations of one sample; hours."""
    images: int
    steps: int
    backbone: int                     # parameters of the network that is trained
    heads: int                        # of what is trained beside it: projectors, decoders
    copies: int                       # of what follows without a gradient: momentum encoders, teachers
    trained: int                      # parameters that get a gradient
    local: int                        # images of a step on one GPU
    memory: dict[str, float]          # by use, bytes
    flops: float                      # of one sample, forward and backward
    gpu_hours: float


def plan(r: Recipe, given: Assumptions) -> Plan:
    """Count it. Raises CourseError where the batch does not divide, or the data are unknown and not there."""
    if r.batch_size % (given.gpus * r.accumulate):
        raise CourseError(f"a batch of {r.batch_size} does not divide over {given.gpus} GPUs"
                          + (f" in {r.accumulate} parts" if r.accumulate > 1 else "") + "; change --batch-size"
                          + (", --accumulate" if r.accumulate > 1 else "") + " or --gpus")
    images, local = count_images(r), r.batch_size // given.gpus
    if images < r.batch_size:
        raise CourseError(f"a batch of {r.batch_size} needs as many images, {r.data} has {images}; lower --batch-size")
    if getattr(r, "classes", None) == 0:
        r = replace(r, classes=CLASSES.get(r.data) or len(open_source(r.data, "train", r.image_size).classes))
    objective = without_numbers(r)
    network = next(m for m in objective.modules() if isinstance(m, ViT) and m.norm.weight.requires_grad)
    backbone, everything = (sum(p.numel() for p in m.parameters()) for m in (network, objective))
    learning, trained = (sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (network, objective))
    heads = trained - learning
    shared = given.gpus if r.shard else 1
    shapes, stored = batch_shapes(r), r.stored_size or r.image_size
    memory = {"weights": 4 * everything / shared, "gradients": 4 * trained / shared,
              "buckets": 4 * trained * (given.gpus > 1 and r.accumulate > 1 and not r.shard), "AdamW": 8 * trained / shared,
              "images": 3 * stored**2 * images * gpu_holds(images, stored, given.gpu_memory * 1e9),
              "views": sum(x.nbytes for x in empty(shapes, local).values()),
              "backward": saved_bytes(r, empty(shapes, local // r.accumulate))}
    steps = r.epochs * (images // r.batch_size)
    flops = count_flops(r, empty(shapes, 2)) / 2
    hours = flops * steps * r.batch_size / (given.rate(r) * 1e12 * given.utilisation) / 3600
    return Plan(images, steps, backbone, heads, everything - backbone - heads, trained, local, memory, flops, hours)


def count_images(r: Recipe) -> int:
    """Training images: those of a known set as published, whether it is on the disk or not; else they are looked at."""
    if r.data == "shapes" or r.data not in KNOWN:
        return len(open_source(r.data, "train", r.image_size, limit=r.images or None))
    known = next(iter(KNOWN[r.data].folders.values()))[0]
    return min(r.images or known, known)


def batch_shapes(r: Recipe) -> dict[str, Tensor]:
    """What `prepare` makes of two images, by an objective with a network as small as may be."""
    small = {name: 8 for name in ("hidden", "dim", "bottleneck", "prototypes", "decoder_dim") if name in asdict(r)}
    small |= {name: 1 for name in ("decoder_depth", "decoder_heads") if name in asdict(r)}
    objective = build(replace(r, model="vit_nano", **small))
    images, keys = torch.zeros(2, 3, r.image_size, r.image_size, dtype=torch.uint8), torch.arange(2)
    return objective.prepare(images, keys, *([torch.zeros(2, dtype=torch.int64)] if objective.needs_labels else []))


def empty(shapes: dict[str, Tensor], images: int) -> dict[str, Tensor]:
    """The same for another number of images, on the meta device."""
    return {name: torch.empty(len(x) // 2 * images, *x.shape[1:], dtype=x.dtype, device="meta") for name, x in shapes.items()}


def without_numbers(r: Recipe) -> Objective:
    """The recipe's objective on the meta device: shapes and names, no content."""
    with torch.device("meta"):
        return build(r)


def pretend(objective: Objective, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inside FakeTensorMode: the objective, in place, and the batch come to a CPU that holds no numbers either."""
    made: dict[int, tuple[Tensor, Tensor]] = {}                                    # the halves of a hybrid share a backbone
    for held in [held for module in objective.modules() for held in (module._parameters, module._buffers)]:
        for name, x in [(name, x) for name, x in held.items() if x is not None]:
            if id(x) not in made:
                new = torch.empty(x.shape, dtype=x.dtype)
                made[id(x)] = x, nn.Parameter(new, x.requires_grad) if isinstance(x, nn.Parameter) else new
            held[name] = made[id(x)][1]
    objective.train().begin_step(0.0)
    return {name: torch.empty(x.shape, dtype=x.dtype) for name, x in batch.items()}


def saved_bytes(r: Recipe, batch: dict[str, Tensor]) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of a batch, weights not counted.

    With checkpoint_blocks a block keeps its input, and one block at a time the rest. A relative bias counts as one that does
    not learn: the fused attention of a GPU takes one that does, that of a CPU does not and would keep all attention maps.
    """
    inside, inputs, kept = [None], {}, {}                                          # kept: storage -> block, bytes, tensor

    def enter(block: nn.Module, arguments: tuple) -> None:
        inside[0], inputs[block] = block, arguments[0].nbytes

    def leave(*_) -> None:
        inside[0] = None

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept.setdefault(storage._cdata, (inside[0], storage.nbytes(), x))          # x: or its address would be used again
        return x

    objective = without_numbers(r)
    for block in (m for m in objective.modules() if isinstance(m, Block)):
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    for network in (m for m in objective.modules() if isinstance(m, ViT) and m.positions == "relative"):
        network.relative_bias = lambda learning=network.relative_bias: learning().detach()
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = pretend(objective, batch)
        weights = {p.untyped_storage()._cdata for p in (*objective.parameters(), *objective.buffers())}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), \
                torch.autocast("cpu", torch.bfloat16, enabled=in_bf16(r)):
            objective(batch)
    found = [(block, size) for storage, (block, size, _) in kept.items() if storage not in weights]
    if not r.checkpoint_blocks:
        return sum(size for _, size in found)
    within = {block: sum(size for b, size in found if b is block) for block in {b for b, _ in found}}
    outside = within.pop(None, 0)
    return outside + sum(inputs[block] for block in within) + max(within.values())


def count_flops(r: Recipe, batch: dict[str, Tensor]) -> int:
    """Operations of the forward and backward pass of a batch: 2 for each multiplication in a matrix product or convolution.

    With checkpoint_blocks, those of the blocks' second forward pass too.
    """
    objective = without_numbers(r)
    if r.checkpoint_blocks:
        checkpoint_blocks(objective)
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = pretend(objective, batch)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            objective(batch)[0].backward()
    return counter.get_total_flops()


def packed_file(r: Recipe, images: int) -> list[str]:
    """A line about what training on photographs reads; none for shapes, which are drawn."""
    size, what = (r.stored_size, "whole photographs") if r.stored_size else (r.image_size, "their centres")
    line = f"            read from a packed file of {3 * size**2 * images / 1e9:,.1f} GB: {what}, squares of {size} pixels"
    return [] if r.data == "shapes" else [line]


def show(r: Recipe, scale: str, given: Assumptions) -> str:
    """The plan as text."""
    p = plan(r, given)
    gb = {name: x / 1e9 for name, x in p.memory.items()}
    shared = f" over {given.gpus} GPUs" if r.shard and given.gpus > 1 else ""
    parts = f", in {r.accumulate} parts" if r.accumulate > 1 else ""
    recomputed = ", with what checkpointed blocks compute again; left out: views, norms" if r.checkpoint_blocks else \
        "; left out: views, norms"
    lines = [
        f"plan of {objective_of(r)} at scale {scale}; nothing is started, and ≈ marks an estimate",
        f"data        {p.images:,} images of {r.data}, views of {r.image_size} pixels; {r.model}, patches of {r.patch_size}",
        *packed_file(r, p.images),
        f"steps       {p.steps:,} of {r.batch_size:,} images, {r.epochs:,} epochs of {p.steps // r.epochs:,}; "
        f"{p.steps * r.batch_size:,} samples seen",
        optimiser(r),
        f"parameters  {p.backbone:,} backbone + {p.heads:,} heads + {p.copies:,} copies without a gradient; "
        f"{p.trained:,} are trained",
        f"memory      ≈ {sum(gb.values()):.1f} GB on each of {given.gpus} GPU(s), {p.local:,} images each{parts}, the sum of",
        f"            {gb['weights']:7.2f}  weights: 4 bytes x all parameters{shared}",
        f"            {gb['gradients']:7.2f}  gradients: 4 bytes x trained parameters{shared}",
        f"            {gb['buckets']:7.2f}  DistributedDataParallel's buckets: none beside the gradients, but with parts",
        f"            {gb['AdamW']:7.2f}  AdamW: 8 bytes x trained parameters{shared}",
        f"            {gb['images']:7.2f}  the training images, if they take less than a quarter of the GPU",
        f"            {gb['views']:7.2f}  the views of a step",
        f"            {gb['backward']:7.2f}  kept for the backward pass: what autograd saves in a forward pass of "
        f"{p.local // r.accumulate:,} images" + (", blocks checkpointed" if r.checkpoint_blocks else ""),
        f"            left out: {LEFT_OUT}" + ("; with --shard, the whole weights of the block at work" if r.shard else ""),
        f"            {verdict(r, sum(gb.values()), given)}",
        f"work        ≈ {p.flops / 1e9:,.1f} GFLOP a sample, {p.flops * p.steps * r.batch_size:.2e} FLOP in all: matrix "
        f"products and convolutions, forward and backward{recomputed}",
        f"time        ≈ {p.gpu_hours:,.0f} GPU-hours, {p.gpu_hours / given.gpus:,.1f} hours on {given.gpus} GPU(s), if a GPU "
        f"reaches {given.utilisation:.0%} of {given.rate(r):.3g} TFLOP/s in {'bf16' if in_bf16(r) else r.precision} (assumed, "
        "not measured)",
    ]
    if given.price:
        lines.append(f"cost        ≈ {p.gpu_hours * given.price:,.0f} at {given.price:g} a GPU-hour")
    if scale == "paper":
        stored = f"; views are cut from photographs stored as squares of {r.stored_size} pixels" if r.stored_size else ""
        huge = "; a published ViT-H has patches of 14 pixels" if (r.model, r.patch_size) == ("vit_huge", 16) else ""
        lines.append(f"departures  from the paper: {DEPARTURES[objective_of(r)]}{stored}{huge}")
        if chosen := ", ".join(f"{name} {value!r}" for name, value in changed(r).items()):
            lines.append(f"            and here: {chosen}")
    return "\n".join(lines)


def changed(r: Recipe) -> dict:
    """The fields in which it differs from its paper's recipe for the same model and batch, but for how a run is carried out."""
    published = recipe(objective_of(r), "paper", model=r.model, batch_size=r.batch_size)
    return {f.name: getattr(r, f.name) for f in fields(r)
            if f.name not in FREE | {"seed", "precision", "classes"} and getattr(r, f.name) != getattr(published, f.name)}


def optimiser(r: Recipe) -> str:
    """A line about its settings over time."""
    end = f"a cosine to {r.learning_rate_end:g}" if r.schedule == "cosine" else "a tenth of it in the last eighth"
    decay = f"{r.weight_decay:g}" + (f" to {r.weight_decay_end:g}" if r.weight_decay_end else "")
    return (f"optimiser   AdamW, learning rate {r.learning_rate:g} after {r.warmup_epochs:g} epochs of warm-up, then {end}; "
            f"weight decay {decay}")


def verdict(r: Recipe, needed: float, given: Assumptions) -> str:
    """Whether so many GB fit into a GPU, and which flags would help where they do not."""
    there = given.gpu_memory
    if needed <= there:
        return f"fits into the {there:g} GB of a GPU, with ≈ {there - needed:.1f} GB for what is left out"
    ways = [("--checkpoint-blocks", not r.checkpoint_blocks), ("--shard", not r.shard and given.gpus > 1),
            ("--accumulate", r.mean_over_images), ("a smaller --batch-size", True), ("more --gpus", True)]
    *others, last = [way for way, untried in ways if untried]
    return f"does not fit into the {there:g} GB of a GPU: try {', '.join(others)} or {last}"
