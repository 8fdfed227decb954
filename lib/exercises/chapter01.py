"""Checks of chapter 01, a Vision Transformer."""
import math

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lib.errors import CourseError
from lib.exercises import check, compare
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
