"""Checks of chapter 01, a Vision Transformer."""
import functools
import math

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.exercises import check, compare
from lib.models import zoo
from lib.models.vit import relative_index


@check
def check_unpatchify(unpatchify) -> str:
    """unpatchify(patches (B, N, 3 size²), size, rows, columns) -> images (B, 3, rows size, columns size)."""
    size, rows, columns = 4, 2, 3
    images = torch.arange(2 * 3 * rows * size * columns * size).reshape(2, 3, rows * size, columns * size).float()
    patches = F.unfold(images, size, stride=size).transpose(1, 2)                  # (B, N, 3 size²)
    grid = patches.reshape(2, rows, columns, 3, size, size)
    by_column = patches.reshape(2, columns, rows, 3, size, size)
    channels_last = patches.reshape(2, rows, columns, size, size, 3)
    mistakes = {
        "You put the patches down column by column; they come row by row.":
            torch.einsum("bwhcpq->bchpwq", by_column).reshape(images.shape),
        "Inside a patch the channel comes first, then the row, then the column; you read the channel last.":
            torch.einsum("bhwpqc->bchpwq", channels_last).reshape(images.shape),
        "Each patch lies on its side: the row inside the patch comes before the column.":
            torch.einsum("bhwcpq->bchqwp", grid).reshape(images.shape),
        "A reshape alone moves no pixel: swap axes before you merge them.": patches.reshape(images.shape),
        "The rows inside a patch must sit beside the rows of the grid when you merge: c, h, p, w, q.":
            torch.einsum("bhwcpq->bchwpq", grid).reshape(images.shape),
    }
    got = unpatchify(patches.clone(), size, rows, columns)
    compare(got, images, mistakes, f"For {rows} × {columns} patches of {size} pixels")
    return "Every pixel is back in its place, on a grid that is not square."


@check
def check_masked_attention(masked_attention) -> str:
    """masked_attention(q, k, v (B, heads, N, d), mask (B, N) bool, True is hidden) -> (B, heads, N, d)."""
    batch, heads, tokens, d = 2, 3, 5, 4
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, batch, heads, tokens, d, generator=generator)
    mask = torch.tensor([[False, True, False, False, True], [True, False, False, False, False]])
    keys, queries = mask[:, None, None, :], mask[:, None, :, None]                 # over (B, heads, N, N)
    logits = q @ k.transpose(-1, -2) / math.sqrt(d)
    hidden = logits.masked_fill(keys, -torch.inf)

    def look(logits: Tensor, dim: int = -1) -> Tensor:
        return logits.softmax(dim) @ v

    mistakes = {
        "The mask has no effect: set the logits of hidden keys to minus infinity.": look(logits),
        "You hide the keys that should be seen: True means hidden.": look(logits.masked_fill(~keys, -torch.inf)),
        "The logits are not divided by sqrt(d).": look(hidden * math.sqrt(d)),
        "You divide by d; the root is missing.": look(hidden / math.sqrt(d)),
        "The softmax runs over the queries: a row of the attention, over all keys, must sum to 1.":
            look(logits.masked_fill(keys, -1e9), dim=-2),
        "The mask comes after the softmax, so the rows no longer sum to 1: hide the logits, then take the softmax.":
            logits.softmax(-1).masked_fill(keys, 0) @ v,
        "You set hidden logits to 0, which is a logit like another: exp(0) is 1. It takes minus infinity.":
            look(logits.masked_fill(keys, 0)),
        "You hide queries instead of keys: the mask belongs to the last axis, mask[:, None, None, :].":
            look(logits.masked_fill(queries, -1e9)),
    }
    got = masked_attention(q.clone(), k.clone(), v.clone(), mask.clone())
    if isinstance(got, Tensor) and got.isnan().any():
        raise CourseError("the result holds nan, which is what a softmax over nothing but minus infinity gives. Does your "
                          "softmax run over the keys (dim=-1), and does the mask hide keys (mask[:, None, None, :])?")
    compare(got, look(hidden), mistakes, f"For {tokens} tokens of which 2 and 1 are hidden")
    return "Nothing flows from a hidden token, and every row still sums to 1."


@check
def check_relative_bias(relative_bias) -> str:
    """relative_bias(table (2 rows - 1, 2 columns - 1, heads), rows, columns) -> (heads, N, N), queries first."""
    rows, columns, heads = 2, 3, 2
    table = torch.arange((2 * rows - 1) * (2 * columns - 1) * heads).reshape(2 * rows - 1, 2 * columns - 1, heads).float()
    index = relative_index((rows, columns))[1:, 1:]                                # (N, N), without CLS
    expected = table.flatten(0, 1)[index].permute(2, 0, 1)                         # (heads, N, N)
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))        # (N, 2)
    down, right = (place[:, None] - place[None]).unbind(-1)                        # (N, N) each
    by_column = torch.cartesian_prod(torch.arange(columns), torch.arange(rows)).flip(1)
    low, far = (by_column[:, None] - by_column[None]).unbind(-1)
    mistakes = {
        "Queries and keys are swapped: the displacement is the query's place minus the key's.": expected.mT,
        "A displacement may be negative, and a negative index counts from the end of the table: "
        "add rows - 1 and columns - 1.": table[down, right].permute(2, 0, 1),
        "Token n lies in row n // columns and column n % columns; you number the patches by columns.":
            table[low + rows - 1, far + columns - 1].permute(2, 0, 1),
        "The heads come first: permute(2, 0, 1).": expected.permute(1, 2, 0),
        "You look at how far, not in which direction: two to the left and two to the right differ.":
            table[down.abs() + rows - 1, right.abs() + columns - 1].permute(2, 0, 1),
    }
    compare(relative_bias(table.clone(), rows, columns), expected, mistakes, f"On a grid of {rows} × {columns} patches")
    return "It is what `lib.models.vit` adds to the logits between patches when positions are relative."


@check
def check_block_cost(block_cost) -> str:
    """block_cost(tokens, dim) -> multiply-adds of one block for one image, compared with PyTorch's own counter."""
    for n, d, heads in ((17, 96, 3), (197, 768, 12)):
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            Block(d, heads)(torch.empty(1, n, d))
        expected = counter.get_total_flops() // 2                                  # it counts a multiply-add as two
        mistakes = {
            "You count operations; a multiply-add is one multiplication and one addition, and counts once here.":
                2 * expected,
            "The N² part is there once: logits (q·k) and weighted values each take N²D.": expected - n * n * d,
            "The N² part is missing: logits (q·k) and weighted values.": expected - 2 * n * n * d,
            "The projection after the heads is missing: N D².": expected - n * d * d,
            "q, k and v take three matrices of D × D, not one.": expected - 2 * n * d * d,
            "The MLP has two layers: D to 4D, and back.": expected - 4 * n * d * d,
            "The MLP is missing: D to 4D, and back.": expected - 8 * n * d * d,
            "N² alone is the number of pairs; each pair costs D multiply-adds.": expected - 2 * n * n * d + 2 * n * n,
            "Heads do not add to the cost: each of them is narrower by their number.":
                expected + 2 * (heads - 1) * n * n * d,
            "These are weights: every token passes through them, so multiply by N.": 12 * d * d,
        }
        got = block_cost(n, d)
        if not isinstance(got, int | float):
            raise CourseError(f"a number was expected, and a {type(got).__name__} came. Is the return missing?")
        if got != expected:
            hint = next((text for text, wrong in mistakes.items() if got == wrong), "")
            raise CourseError(f"for {n} tokens of width {d}, {expected:,} was expected, and {got:,} came. {hint}")
    return "PyTorch's counter finds the same for timm's block, to the last multiply-add."


@check
def check_class_scores(class_scores) -> str:
    """class_scores(images (B, 3, 64, 64), w {name: weight}) -> (B, 10), the shipped supervised network, from its weights."""
    w, (many, truth, right) = zoo.weights("supervised", "shapes"), _two_hundred()
    images = many[:3]
    compare(class_scores(images.clone(), {name: value.clone() for name, value in w.items()}), _vit(images, w),
            _wrong_networks(), "For 3 images", tolerance=1e-4)
    found = class_scores(many.clone(), w).argmax(1)
    if (found != right).sum() > 2:
        raise CourseError(f"for 3 images the scores are right, and for 200 images {(found != right).sum()} classes are not. "
                          "Does your answer depend on how many images it gets, or on what it was given before?")
    share = (found == truth).double().mean()
    return f"And it names {share:.0%} of 200 shapes that it never saw: a network, from a file."


@functools.cache
def _two_hundred() -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images (200, 3, 64, 64), their classes (200,), and what the shipped network takes them for (200,)."""
    world, chosen = Shapes("val", size=64, difficulty="mild"), torch.arange(200)
    images = normalize(world.images(chosen))
    return images, world.labels(chosen), _vit(images, zoo.weights("supervised", "shapes")).argmax(1)


@functools.cache
def _wrong_networks() -> dict[str, Tensor]:
    """What to say -> the scores of a network with this mistake, for the images of the check. They are computed once."""
    images, w = _two_hundred()[0][:3], zoo.weights("supervised", "shapes")
    return {
        "The positions are missing.": _vit(images, w, positions=False),
        "CLS stands in front, before the first patch.": _vit(images, w, cls_last=True),
        "Nothing is added: both halves of a block are added to what is there.": _vit(images, w, skip="none"),
        "Each half of a block reads through a LayerNorm; yours do not.": _vit(images, w, norms=(None, None)),
        "You normalise after adding; this network normalises what each half reads, and adds to what was there.":
            _vit(images, w, skip="after"),
        "The LayerNorm after the last block is missing.": _vit(images, w, last_norm=False),
        "LayerNorm's eps is 1e-6 here; PyTorch's default is 1e-5.": _vit(images, w, eps=1e-5),
        "The logits of the attention are not divided by sqrt(d), d = 16 numbers of a head.": _vit(images, w, scale=1.0),
        "You divide the logits by the root of 96; a head has 16 numbers.": _vit(images, w, scale=96**-0.5),
        "There are six heads; you have one.":
            _vit(images, w, cut=lambda qkv: qkv.unflatten(-1, (3, 1, -1)).permute(2, 0, 3, 1, 4), scale=96**-0.5),
        "qkv holds all queries, then all keys, then all values, and each of them head after head: (3, heads, d).":
            _vit(images, w, cut=lambda qkv: qkv.unflatten(-1, (6, 3, -1)).permute(3, 0, 2, 1, 4)),
        "You cut tokens into heads by reshape alone: reshape to (B, N, heads, d), then transpose.":
            _vit(images, w, cut=lambda qkv: torch.stack([x.reshape(len(x), 6, -1, 16) for x in qkv.chunk(3, -1)])),
        "The heads stand beside each other within a token: transpose (B, heads, N, d) before you join them.":
            _vit(images, w, join=lambda x: x.reshape(len(x), -1, 96)),
        "Tokens attend to tokens; in yours heads attend to heads. The order is (B, heads, N, d).":
            _vit(images, w, cut=lambda qkv: qkv.unflatten(-1, (3, 6, -1)).permute(2, 0, 1, 3, 4), join=lambda x: x.flatten(2)),
        "The softmax runs over keys, the last axis; yours runs over queries.": _vit(images, w, over=-2),
        "The convolution gives (B, D, rows, columns); transpose it, a reshape mixes patches and channels.":
            _vit(images, w, patches=lambda x: x.reshape(len(x), -1, 96)),
        "You add to the normalised tokens; the skip takes them as they were before the LayerNorm.":
            _vit(images, w, skip="normed"),
        "Both halves read the same tokens; the MLP reads what the attention has added to.": _vit(images, w, skip="parallel"),
        "Sorted by name, blocks.10 comes before blocks.2; count the blocks.":
            _vit(images, w, blocks=sorted(range(12), key=str)),
        "norm1 stands before the attention, norm2 before the MLP.": _vit(images, w, norms=("norm2", "norm1")),
        "These are probabilities; give the scores before the softmax.": _vit(images, w).softmax(-1),
        "These are logarithms of probabilities; give the scores before the softmax.": _vit(images, w).log_softmax(-1),
        "The projection after the heads is missing.": _vit(images, w, project=False),
        "GELU is the exact one, without the tanh.": _vit(images, w, act=lambda x: F.gelu(x, approximate="tanh")),
        "The MLP takes GELU, not ReLU.": _vit(images, w, act=F.relu),
        "The class is read from CLS; you read the mean of the patches.": _vit(images, w, read=lambda x: x[:, 1:].mean(1)),
        "The class is read from CLS; you read the mean of all tokens.": _vit(images, w, read=lambda x: x.mean(1)),
        "The head is missing: CLS goes through head.weight and head.bias.": _vit(images, w, head=False),
        "That is one block; there are twelve.": _vit(images, w, blocks=(0,)),
        "That is eleven blocks; there are twelve.": _vit(images, w, blocks=range(11)),
    }


def _heads(qkv: Tensor) -> Tensor:
    """(B, N, 3 D) -> (3, B, heads, N, d)"""
    return qkv.unflatten(-1, (3, 6, -1)).permute(2, 0, 3, 1, 4)


def _vit(x: Tensor, w: dict[str, Tensor], *, patches=lambda x: x.flatten(2).mT, positions=True, cls_last=False, cut=_heads,
         join=lambda x: x.transpose(1, 2).flatten(2), over=-1, scale=0.25, project=True, act=F.gelu, norms=("norm1", "norm2"),
         eps=1e-6, skip="plain", blocks=range(12), last_norm=True, read=None, head=True):
    """Logits (B, 10) from images (B, 3, 64, 64); each option makes a mistake."""
    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = patches(F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8))           # (B, 64, D)
    x = torch.cat([x, w["cls_token"].expand(len(x), -1, -1)][::1 if cls_last else -1], 1)
    if positions:
        x = x + w["pos_embed"]
    for block in (f"blocks.{i}." for i in blocks):
        def attend(x, name=f"{block}attn"):
            q, k, v = cut(linear(x, f"{name}.qkv"))                                # (B, heads, 65, d) each
            mixed = join((scale * q @ k.mT).softmax(over) @ v)
            return linear(mixed, f"{name}.proj") if project else mixed

        def think(x, name=f"{block}mlp"):
            return linear(act(linear(x, f"{name}.fc1")), f"{name}.fc2")

        before = x
        for half, name in zip((attend, think), norms):
            read_by_half = norm(before if skip == "parallel" else x, block + name) if name and skip != "after" else x
            x = {"normed": read_by_half, "none": 0}.get(skip, x) + half(read_by_half)
            x = norm(x, block + name) if skip == "after" else x
    x = norm(x, "norm") if last_norm else x
    x = read(x) if read else x[:, -1 if cls_last else 0]
    return linear(x, "head") if head else x
