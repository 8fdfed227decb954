"""Looking inside: one pass over images, activations handed to metrics as they appear and then dropped.

`record(backbone, source, [AttentionStatistics(), Frequencies()])` -> {"nmi": (images, blocks, heads), ...}. A metric has

    reads                        one of READS
    start(layout)                before the first batch: forget everything
    update(depth, activation)    as often as the network passes a place that the metric reads, block after block; metrics
                                 that read "parts" get a name instead of a depth
    compute() -> dict            at the end, named results over all batches and all processes

The backbone is not edited and its fused attention stays on: hooks on its blocks see what goes in and out, and attention is
computed a second time from the queries, keys and values of each block. No activation outlives its `update`.
"""
import inspect
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import distributed
from lib.data.views import normalize
from lib.errors import CourseError

# What a metric may read, and what `update` then gets.
READS = {
    "tokens": "the residual stream (B, N, D): depth 0 is the embedding, depth l follows block l; before the final norm",
    "halves": "the same, and between attention and MLP of block l at depth l - 0.5",
    "attention": "an `Attention` for each block, depth 1 to the last",
    "parts": "what every step of a block gives, (B, N, its width), with a name of `part_names` instead of a depth",
}
# The steps of a block: `heads` goes into `proj`, and `attention` is the residual stream between the two halves.
STEPS = ("norm1", "qkv", "heads", "proj", "attention", "norm2", "fc1", "act", "fc2")


class Attention(NamedTuple):
    """Attention of one block is `logits.softmax(-1)`, rows are queries; its heads give `logits.softmax(-1) @ values`."""
    logits: Tensor                    # (B, heads, N, N) scaled products of queries and keys, with every bias
    values: Tensor                    # (B, heads, N, d)


@dataclass(frozen=True)
class Layout:
    """Which token is what: `prefix` tokens first (CLS, distillation, registers), then the patches, row by row."""
    prefix: int
    grid: tuple[int, int]             # rows and columns of patches
    patch: tuple[float, float]        # height and width of a patch in pixels
    depth: int                        # number of blocks


def layout_of(backbone: nn.Module, images: Tensor, grid: tuple[int, int] | None = None) -> Layout:
    """The layout of the tokens that a timm-style ViT makes of images (B, 3, H, W).

    The grid follows from the size of images and patches unless it is given. Raises CourseError if the backbone has no
    attention blocks, takes images of another size, or has no patch size while no grid is given.
    """
    blocks = getattr(backbone, "blocks", ())
    if (not blocks or not hasattr(backbone, "num_prefix_tokens")
            or any(getattr(getattr(block, "attn", None), "qkv", None) is None for block in blocks)):
        raise CourseError(f"{type(backbone).__name__} has no attention blocks to look into; expected a timm-style Vision "
                          "Transformer: `num_prefix_tokens`, `blocks`, and in each of them `attn.qkv`")
    embed, (height, width) = backbone.patch_embed, images.shape[-2:]
    wanted = getattr(embed, "img_size", None)
    if wanted is not None and getattr(embed, "strict_img_size", True) and (height, width) != tuple(wanted):
        raise CourseError(f"the source gives images of {height} x {width} pixels, the backbone takes {wanted[0]} x "
                          f"{wanted[1]}; open the source at that size, or make the backbone for this one")
    if grid is None:
        if getattr(embed, "patch_size", None) is None:
            raise CourseError(f"{type(embed).__name__} does not say how large a patch is; give grid=(rows, columns)")
        grid = (height // embed.patch_size[0], width // embed.patch_size[1])
    return Layout(backbone.num_prefix_tokens, tuple(grid), (height / grid[0], width / grid[1]), len(blocks))


def part_names(depth: int) -> list[str]:
    """Names of the parts of a ViT with so many blocks, in the order in which it passes them, 1 + 10 depth of them:

    "embedding", "block1.norm1", ..., "block1.fc2", "block1", "block2.norm1", ... The residual stream is "embedding",
    "block1.attention" (after the attention half), "block1" (after the MLP half) and so on, as in `ViT.intermediates`.
    """
    return ["embedding"] + [name for block in range(1, depth + 1)
                            for name in [*(f"block{block}.{step}" for step in STEPS), f"block{block}"]]


def record(backbone: nn.Module, source, metrics: list, batch_size: int = 64, grid: tuple[int, int] | None = None) -> dict:
    """Run a backbone over all images of a source, once, and -> the named results of all metrics.

    backbone: any timm-style ViT, on any device; it runs in eval mode and is left as it was. source: see `lib.data`; uint8
    images are normalised, float images are taken as they come. grid: rows and columns of patches, if they do not follow
    from the patch size. With several processes, process r looks at images r, r + processes, ...; each gets all results.
    Raises CourseError where backbone, source, grid and metrics do not fit, and if an activation is not finite.
    """
    for metric in metrics:
        if metric.reads not in READS:
            raise CourseError(f"{type(metric).__name__} reads {metric.reads!r}; a metric reads one of {', '.join(READS)}")
    if len(source) < distributed.world_size():
        raise CourseError(f"{len(source)} images for {distributed.world_size()} process(es): each needs at least one")
    indices = torch.arange(distributed.rank(), len(source), distributed.world_size())
    layout = layout_of(backbone, source.images(indices[:1]), grid)
    for metric in metrics:
        metric.start(layout)
    for batch, some in enumerate(indices.split(batch_size), start=1):
        where = f"batch {batch} (images {some[0]} to {some[-1]} of {getattr(source, 'name', 'the source')})"
        observe(backbone, source.images(some), metrics, layout, where, verify=batch == 1)
    results = {}
    for metric in metrics:
        found = metric.compute()
        if results.keys() & found.keys():
            raise CourseError(f"two metrics give {', '.join(results.keys() & found.keys())}; record them one after the other")
        results |= found
    return results


@torch.no_grad()
def observe(backbone: nn.Module, images: Tensor, metrics: list, layout: Layout, where: str = "these images",
            verify: bool = True) -> None:
    """Run a backbone over one batch and hand what happens inside to the metrics. verify: check recomputed attention."""
    observer = Observer(metrics, layout, verify)
    run(backbone, backbone.forward_features, images, observer.attach(backbone))
    if observer.readers["parts"]:
        observer.check_passed(part_names(layout.depth))
    observer.check_finite(where)


@torch.no_grad()
def observe_modules(network: nn.Module, modules: dict[str, nn.Module], images: Tensor, metrics: list,
                    where: str = "these images") -> None:
    """Run any network over one batch and hand what the named modules give to metrics that read "parts".

    Raises CourseError if none is named, or if one is not passed, or more than once, or gives anything but a finite tensor.
    """
    if not modules:
        raise CourseError("no modules were named; expected {name: module}, such as {'stage1': resnet.layer1}")
    observer = Observer(metrics, None, verify=False)
    run(network, network, images, observer.attach_modules(modules))
    observer.check_passed(modules)
    observer.check_finite(where)


def run(network: nn.Module, forward, images: Tensor, handles) -> None:
    """Forward pass of a batch in eval mode, with hooks that are removed after it."""
    parameter, training = next(network.parameters()), network.training
    images = (normalize(images) if images.dtype == torch.uint8 else images).to(parameter)
    with ExitStack() as hooks:
        for handle in handles:
            hooks.enter_context(handle)
        try:
            network.eval()
            forward(images)
        finally:
            network.train(training)


class Observer:
    """What the hooks in a network do during one forward pass. Its layout is None where named modules are all it reads."""

    def __init__(self, metrics: list, layout: Layout | None, verify: bool):
        self.readers = {kind: [metric for metric in metrics if metric.reads == kind] for kind in READS}
        self.layout, self.verify, self.sums = layout, verify, {}

    def attach(self, backbone: nn.Module):
        """Yields the handles of the hooks, each removed by leaving it as a context."""
        yield backbone.blocks[0].register_forward_pre_hook(lambda _, args: self.embedding(args[0]))
        for depth, block in enumerate(backbone.blocks, start=1):
            yield from self.attach_block(block, depth, f"blocks.{depth - 1}")

    def attach_block(self, block: nn.Module, depth: int, name: str):
        if self.readers["attention"]:
            kept = {}                                              # the block's queries, keys and values, until it used them
            yield block.attn.qkv.register_forward_hook(lambda _, args, out: kept.update(qkv=out))
            yield block.attn.register_forward_hook(
                lambda attn, args, kwargs, out: self.attention(attn, args, kwargs, out, kept.pop("qkv", None), depth, name),
                with_kwargs=True)
        if self.readers["parts"]:
            yield from self.attach_parts(block, depth, name)
        if self.readers["halves"] or self.readers["parts"]:
            entered = {}
            yield block.register_forward_pre_hook(lambda _, args: entered.update(block=args[0]))
            yield block.norm1.register_forward_pre_hook(lambda _, args: entered.update(norm1=args[0]))
            yield block.norm2.register_forward_pre_hook(lambda _, args: self.halfway(args[0], entered, depth, name))
        yield block.register_forward_hook(
            lambda _, args, out: self.stream(["tokens", "halves"], depth, out, name, f"block{depth}"))

    def attach_parts(self, block: nn.Module, depth: int, name: str):
        attn, mlp = block.attn, block.mlp
        if not all(hasattr(mlp, step) for step in ("fc1", "act", "fc2")):
            raise CourseError(f"{name}.mlp is a {type(mlp).__name__} without fc1, act or fc2, so not all parts can be read; "
                              "name those to read: modules={...}")
        yield from self.attach_modules({f"block{depth}.{step}": module for step, module in [
            ("norm1", block.norm1), ("proj", attn.proj), ("norm2", block.norm2),
            ("fc1", mlp.fc1), ("act", mlp.act), ("fc2", mlp.fc2)]})
        if getattr(attn, "q_bias", None) is None:
            yield from self.attach_modules({f"block{depth}.qkv": attn.qkv})
        else:
            yield attn.register_forward_pre_hook(lambda _, args: self.part(f"block{depth}.qkv", beit_qkv(attn, args[0])))
        yield attn.proj.register_forward_pre_hook(lambda _, args: self.part(f"block{depth}.heads", args[0]))

    def attach_modules(self, modules: dict[str, nn.Module]):
        for name, module in modules.items():
            yield module.register_forward_hook(lambda _, args, out, name=name: self.part(name, out))

    def embedding(self, tokens: Tensor) -> None:
        prefix, (rows, columns) = self.layout.prefix, self.layout.grid
        if tokens.ndim != 3 or tokens.shape[1] != prefix + rows * columns:
            raise CourseError(f"the backbone makes tokens {tuple(tokens.shape)}, which is not {prefix} + {rows} x {columns} "
                              "for an image; give grid=(rows, columns)")
        self.stream(["tokens", "halves"], 0, tokens, "the embedding", "embedding")

    def halfway(self, tokens: Tensor, entered: dict, depth: int, name: str) -> None:
        if entered.pop("block") is not entered.pop("norm1", None):
            raise CourseError(f"{name} does not start with a norm, so it has no residual stream halfway; record whole blocks")
        self.stream(["halves"], depth - 0.5, tokens, f"the attention half of {name}", f"block{depth}.attention")

    def attention(self, attn: nn.Module, args: tuple, kwargs: dict, output: Tensor, qkv: Tensor | None, depth: int,
                  name: str) -> None:
        given = inspect.signature(attn.forward).bind(*args, **kwargs).arguments
        attention = recompute(attn, given, qkv)
        if self.verify:
            check_recomputed(attn, attention, output, f"{name}.attn")
        self.hand(["attention"], depth, attention, attention.logits, f"{name}.attn")

    def stream(self, kinds: list[str], depth: float, tokens: Tensor, name: str, part: str) -> None:
        self.hand(kinds, depth, tokens, tokens, name)
        if self.readers["parts"]:
            self.part(part, tokens)

    def part(self, name: str, output: Tensor) -> None:
        if not isinstance(output, Tensor):
            raise CourseError(f"{name} gives a {type(output).__name__}, expected a tensor; name a module inside it")
        if name in self.sums:
            raise CourseError(f"{name} is passed more than once in a forward pass; name a module that is passed once")
        self.hand(["parts"], name, output, output, name)

    def hand(self, kinds: list[str], depth: float | str, activation, tensor: Tensor, name: str) -> None:
        self.sums[name] = tensor.sum(dtype=torch.float32)          # finite only if all of it is; looked at after the batch
        with torch.autocast(tensor.device.type, enabled=False):
            for metric in [metric for kind in kinds for metric in self.readers[kind]]:
                metric.update(depth, activation)

    def check_passed(self, names) -> None:
        missing = [name for name in names if name not in self.sums]
        if missing:
            raise CourseError(f"{missing[0]} is not passed when the network runs, so it gives nothing to look at; name "
                              "modules that its forward calls")

    def check_finite(self, where: str) -> None:
        finite = torch.stack(list(self.sums.values())).isfinite().tolist()
        if not all(finite):
            raise CourseError(f"activations are not finite, first out of {list(self.sums)[finite.index(False)]} in {where}: "
                              "weights or images are damaged")


def recompute(attn: nn.Module, given: dict, qkv: Tensor | None) -> Attention:
    """Attention of a module of timm's ViT or BEiT kind, from the arguments of its forward call by name.

    qkv: what its `qkv` layer made, (B, N, 3 heads d), queries first, or None where the module did not call it.
    """
    if getattr(attn, "q_bias", None) is not None:
        qkv = beit_qkv(attn, next(iter(given.values())))
    q, k, v = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)                   # (B, H, N, d) each
    if hasattr(attn, "q_norm"):
        q, k = attn.q_norm(q), attn.k_norm(k)
    biases = [given.get("attn_mask"), given.get("shared_rel_pos_bias")]
    if getattr(attn, "relative_position_bias_table", None) is not None:
        biases.append(attn.relative_position_bias_table[attn.relative_position_index].permute(2, 0, 1))   # (H, N, N)
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
        logits = (q * attn.scale) @ k.mT                                                          # (B, H, N, N)
        for bias in biases:
            if bias is not None:
                logits += bias
    return Attention(logits, v)


def beit_qkv(attn: nn.Module, tokens: Tensor) -> Tensor:
    """BEiT multiplies by the weight of `qkv` and adds biases of its own: (B, N, D) -> (B, N, 3 heads d)."""
    return F.linear(tokens, attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))


def check_recomputed(attn: nn.Module, attention: Attention, output: Tensor, name: str) -> None:
    """Raises CourseError unless recomputed attention leads to what the module gave for the first image."""
    heads = attention.logits[:1].softmax(-1) @ attention.values[:1]                               # (1, H, N, d)
    tokens = heads.transpose(1, 2).flatten(2).to(attn.proj.weight.dtype)                          # (1, N, D)
    again = attn.proj.forward(getattr(attn, "norm", nn.Identity())(tokens))                       # past the hook on `proj`
    tolerance = (5e-2 if output.dtype in (torch.float16, torch.bfloat16) else 1e-3) * output[0].abs().max()
    if (again - output[:1]).abs().max() > tolerance:               # not so for nan, which has an error of its own
        raise CourseError(f"{name} ({type(attn).__name__}) does not give softmax(q k / sqrt(d) + bias) v of its own qkv, so "
                          "its attention cannot be recomputed; attention like that of timm's ViT and BEiT can")


class PerImage:
    """A metric that is a few numbers for each image: `measure(depth, activation)` -> {name: (B, ...)}.

    `compute()` -> {name: (images, depths, ...)} on the CPU, images in the order of the source.
    """
    reads = "tokens"

    def start(self, layout: Layout) -> None:
        self.layout, self.found = layout, defaultdict(lambda: defaultdict(list))

    def measure(self, depth: float, activation) -> dict[str, Tensor]:
        raise NotImplementedError

    def update(self, depth: float, activation) -> None:
        for name, values in self.measure(depth, activation).items():
            self.found[name][depth].append(values)

    def compute(self) -> dict[str, Tensor]:
        rows = {name: torch.stack([torch.cat(batches) for batches in depths.values()], dim=1)
                for name, depths in self.found.items()}
        return {name: gather_images(values).cpu() for name, values in rows.items()}


def gather_images(rows: Tensor) -> Tensor:
    """Rows of images r, r + processes, ... that process r holds -> rows of all images, in order, in every process."""
    processes = distributed.world_size()
    images = round(distributed.mean(rows.new_tensor(float(len(rows)))).item() * processes)
    most = -(-images // processes)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])                 # equally many everywhere
    return distributed.gather(padded).unflatten(0, (processes, most)).transpose(0, 1).flatten(0, 1)[:images]


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over images and its standard error: (images, ...) -> (...), (...). The error of one image is nan."""
    return values.mean(0), values.std(0) / len(values) ** 0.5
