"""The checks of chapter 01: right answers pass, and each usual mistake fails with its name."""
import pytest
import torch
import torch.nn.functional as F

from lib.exercises import chapter01


def unpatchify(patches, size, rows, columns):
    grid = patches.reshape(len(patches), rows, columns, 3, size, size)
    return torch.einsum("bhwcpq->bchpwq", grid).reshape(len(patches), 3, rows * size, columns * size)


def masked_attention(q, k, v, mask):
    logits = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    return logits.masked_fill(mask[:, None, None, :], -torch.inf).softmax(-1) @ v


def relative_bias(table, rows, columns):
    n = torch.arange(rows * columns)
    row, column = n // columns, n % columns
    return table[row[:, None] - row + rows - 1, column[:, None] - column + columns - 1].permute(2, 0, 1)


def block_cost(tokens, dim):
    return 12 * tokens * dim**2 + 2 * tokens**2 * dim


def loops(patches, size, rows, columns):
    """Another right answer to the first exercise."""
    images = torch.zeros(len(patches), 3, rows * size, columns * size)
    for n in range(rows * columns):
        top, left = n // columns * size, n % columns * size
        images[:, :, top:top + size, left:left + size] = patches[:, n].reshape(-1, 3, size, size)
    return images


def fused(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~mask[:, None, None, :])


def by_column(patches, size, rows, columns):
    grid = patches.reshape(len(patches), columns, rows, 3, size, size)
    return torch.einsum("bwhcpq->bchpwq", grid).reshape(len(patches), 3, rows * size, columns * size)


def channels_last(patches, size, rows, columns):
    grid = patches.reshape(len(patches), rows, columns, size, size, 3)
    return torch.einsum("bhwpqc->bchpwq", grid).reshape(len(patches), 3, rows * size, columns * size)


def on_its_side(patches, size, rows, columns):
    grid = patches.reshape(len(patches), rows, columns, 3, size, size).transpose(-1, -2)
    return torch.einsum("bhwcpq->bchpwq", grid).reshape(len(patches), 3, rows * size, columns * size)


def merged_too_early(patches, size, rows, columns):
    grid = patches.reshape(len(patches), rows, columns, 3, size, size)
    return grid.permute(0, 3, 1, 2, 4, 5).reshape(len(patches), 3, rows * size, columns * size)


def only_reshape(patches, size, rows, columns):
    return patches.reshape(len(patches), 3, rows * size, columns * size)


def rows_for_columns(patches, size, rows, columns):
    return unpatchify(patches, size, rows, columns).mT


def logits(q, k):
    return q @ k.mT / q.shape[-1] ** 0.5


def relative(table, rows, columns, sign=1, shift=1, order=(2, 0, 1), size=None, turn=lambda x: x):
    n, size = torch.arange(rows * columns), size or columns
    row, column = (n // size, n % size) if size == columns else (n % size, n // size)
    down, right = (turn(sign * (x[:, None] - x)) for x in (row, column))
    return table[down + shift * (rows - 1), right + shift * (columns - 1)].permute(*order)


def test_the_helper_behind_the_mistakes_is_right_itself():
    table = torch.rand(3, 5, 2)
    assert torch.equal(relative(table, 2, 3), relative_bias(table, 2, 3))


@pytest.mark.parametrize("name, answer", [
    ("unpatchify", unpatchify), ("unpatchify", loops), ("masked_attention", masked_attention), ("masked_attention", fused),
    ("relative_bias", relative_bias), ("block_cost", block_cost),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter01, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. ")


@pytest.mark.parametrize("name, answer, message", [
    ("unpatchify", by_column, "column by column"),
    ("unpatchify", channels_last, "channel last"),
    ("unpatchify", on_its_side, "on its side"),
    ("unpatchify", merged_too_early, "beside the rows of the grid"),
    ("unpatchify", only_reshape, "moves no pixel"),
    ("unpatchify", rows_for_columns, "the shape (2, 3, 8, 12) was expected, and (2, 3, 12, 8) came"),
    ("masked_attention", lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v), "no effect"),
    ("masked_attention", lambda q, k, v, mask: fused(q, k, v, ~mask), "True means hidden"),
    ("masked_attention", lambda q, k, v, mask: masked_attention(q * q.shape[-1] ** 0.5, k, v, mask), "not divided by sqrt(d)"),
    ("masked_attention", lambda q, k, v, mask: masked_attention(q / q.shape[-1] ** 0.5, k, v, mask), "the root is missing"),
    ("masked_attention", lambda q, k, v, mask: logits(q, k).masked_fill(mask[:, None, None], -1e9).softmax(-2) @ v,
     "runs over the queries"),
    ("masked_attention", lambda q, k, v, mask: logits(q, k).masked_fill(mask[:, None, None], -torch.inf).softmax(-2) @ v,
     "run over the keys"),
    ("masked_attention", lambda q, k, v, mask: (logits(q, k).softmax(-1) * ~mask[:, None, None]) @ v, "no longer sum to 1"),
    ("masked_attention", lambda q, k, v, mask: (logits(q, k) * ~mask[:, None, None]).softmax(-1) @ v, "exp(0) is 1"),
    ("masked_attention", lambda q, k, v, mask: logits(q, k).masked_fill(mask[:, None, :, None], -1e9).softmax(-1) @ v,
     "queries instead of keys"),
    ("masked_attention", lambda q, k, v, mask: logits(q, k).masked_fill(mask[:, None, :, None], -torch.inf).softmax(-1) @ v,
     "holds nan"),
    ("masked_attention", lambda q, k, v, mask: (logits(q, k) - torch.inf * mask[:, None, None]).softmax(-1) @ v,
     "holds nan"),
    ("relative_bias", lambda table, r, c: relative(table, r, c, sign=-1), "Queries and keys are swapped"),
    ("relative_bias", lambda table, r, c: relative(table, r, c, shift=0), "counts from the end"),
    ("relative_bias", lambda table, r, c: relative(table, r, c, size=r), "number the patches by columns"),
    ("relative_bias", lambda table, r, c: relative(table, r, c, order=(0, 1, 2)), "heads come first"),
    ("relative_bias", lambda table, r, c: relative(table, r, c, turn=torch.abs), "not in which direction"),
    ("block_cost", lambda n, d: 2 * block_cost(n, d), "counts once here"),
    ("block_cost", lambda n, d: block_cost(n, d) - n * n * d, "is there once"),
    ("block_cost", lambda n, d: 12 * n * d * d, "The N² part is missing"),
    ("block_cost", lambda n, d: block_cost(n, d) - n * d * d, "projection after the heads"),
    ("block_cost", lambda n, d: block_cost(n, d) - 2 * n * d * d, "three matrices"),
    ("block_cost", lambda n, d: block_cost(n, d) - 4 * n * d * d, "two layers"),
    ("block_cost", lambda n, d: 4 * n * d * d + 2 * n * n * d, "The MLP is missing"),
    ("block_cost", lambda n, d: 12 * n * d * d + 2 * n * n, "each pair costs"),
    ("block_cost", lambda n, d: 12 * d * d, "multiply by N"),
    ("block_cost", lambda n, d: 12 * n * d * d + 2 * {96: 3, 768: 12}[d] * n * n * d, "Heads do not add to the cost"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter01, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


def test_an_unknown_mistake_still_says_what_came(verdict):
    result, line = verdict(chapter01.check_unpatchify, lambda *a: unpatchify(*a) + 1)
    assert result is False and "0.0000 was expected at [0, 0, 0, 0], and 1.0000 came" in line


@pytest.mark.parametrize("answer", [unpatchify, masked_attention, relative_bias])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter01, f"check_{answer.__name__}"), answer)
