"""The checks of chapter 01: right answers pass, and each usual mistake fails with its name."""
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lib.exercises import chapter01
from lib.models import zoo


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


def class_scores(images, w, eps=1e-6, split=lambda x: x.reshape(*x.shape[:2], 3, 6, 16), act=F.gelu, scale=None, add=1,
                 positions=1, blocks=range(12), read=lambda x: x[:, 0], last=True, attention=True, order=1,
                 flat=lambda x: x.flatten(2).transpose(1, 2), merge=lambda x: x.transpose(1, 2).flatten(2),
                 attend=F.scaled_dot_product_attention, heads_first=lambda qkv: qkv.permute(2, 0, 3, 1, 4)):
    """Right as it is; each option makes a mistake."""
    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=eps)

    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), flat(x)][::order], dim=1) + positions * w["pos_embed"]
    for i in blocks:
        qkv = split(linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv"))
        mixed = merge(attend(*heads_first(qkv), scale=scale))
        x = add * x + linear(mixed, f"blocks.{i}.attn.proj") if attention else add * x + mixed
        x = add * x + linear(act(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    return linear(read(norm(x, "norm") if last else x), "head")


def post_norm(images, w):
    """Each half of a block reads plain tokens, and the sum goes through the LayerNorm."""
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8).flatten(2).mT
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], dim=1) + w["pos_embed"]
    for i in range(12):
        block = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items() if name.startswith(f"blocks.{i}.")}
        q, k, v = (x @ block["attn.qkv.weight"].T + block["attn.qkv.bias"]).unflatten(-1, (3, 6, 16)).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.mT / 4).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + mixed @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        x = F.layer_norm(x, (96,), block["norm1.weight"], block["norm1.bias"], 1e-6)
        hidden = F.gelu(x @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"])
        x = x + hidden @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
        x = F.layer_norm(x, (96,), block["norm2.weight"], block["norm2.bias"], 1e-6)
    return F.layer_norm(x, (96,), w["norm.weight"], w["norm.bias"], 1e-6)[:, 0] @ w["head.weight"].T + w["head.bias"]


def without_norms(images, w):
    """A LayerNorm after the last block, and none in the blocks."""
    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8).flatten(2).mT
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], dim=1) + w["pos_embed"]
    for i in range(12):
        q, k, v = linear(x, f"blocks.{i}.attn.qkv").unflatten(-1, (3, 6, 16)).permute(2, 0, 3, 1, 4)
        x = x + linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        x = x + linear(F.gelu(linear(x, f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    return linear(F.layer_norm(x, (96,), w["norm.weight"], w["norm.bias"], 1e-6)[:, 0], "head")


def from_the_library(images, w):
    """Another right answer to the last exercise: the network that the weights belong to."""
    network = zoo.load("supervised").to(images.dtype)
    return network.forward_features(images)[:, 0] @ w["head.weight"].T + w["head.bias"]


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
    ("class_scores", class_scores), ("class_scores", from_the_library),
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
    ("class_scores", partial(class_scores, positions=0), "positions are missing"),
    ("class_scores", partial(class_scores, order=-1, read=lambda x: x[:, -1]), "CLS stands in front"),
    ("class_scores", partial(class_scores, add=0), "Nothing is added"),
    ("class_scores", without_norms, "reads through a LayerNorm"),
    ("class_scores", post_norm, "You normalise after adding"),
    ("class_scores", partial(class_scores, last=False), "after the last block is missing"),
    ("class_scores", partial(class_scores, eps=1e-5), "eps is 1e-6"),
    ("class_scores", partial(class_scores, scale=1.0), "not divided by sqrt(d)"),
    ("class_scores", partial(class_scores, scale=96**-0.5), "root of 96"),
    ("class_scores", partial(class_scores, split=lambda x: x.reshape(*x.shape[:2], 3, 1, 96)), "six heads; you have one"),
    ("class_scores", partial(class_scores, split=lambda x: x.reshape(*x.shape[:2], 6, 3, 16).transpose(2, 3)),
     "head after head"),
    ("class_scores", partial(class_scores, attention=False), "projection after the heads"),
    ("class_scores", partial(class_scores, act=lambda x: F.gelu(x, approximate="tanh")), "without the tanh"),
    ("class_scores", partial(class_scores, act=F.relu), "not ReLU"),
    ("class_scores", partial(class_scores, read=lambda x: x[:, 1:].mean(1)), "mean of the patches"),
    ("class_scores", partial(class_scores, read=lambda x: x.mean(1)), "mean of all tokens"),
    ("class_scores", partial(class_scores, blocks=[0]), "That is one block; there are twelve"),
    ("class_scores", partial(class_scores, blocks=range(11)), "That is eleven blocks; there are twelve"),
    ("class_scores", partial(class_scores, blocks=[0, 1, 10, 11, *range(2, 10)]), "blocks.10 comes before blocks.2"),
    ("class_scores", partial(class_scores, flat=lambda x: x.reshape(len(x), 64, 96)), "mixes patches and channels"),
    ("class_scores", partial(class_scores, merge=lambda x: x.reshape(len(x), 65, 96)), "before you join them"),
    ("class_scores", partial(class_scores, split=lambda x: x.unflatten(-1, (3, 96)),
                             heads_first=lambda qkv: [x.reshape(len(x), 6, 65, 16) for x in qkv.unbind(2)]),
     "by reshape alone"),
    ("class_scores", partial(class_scores, heads_first=lambda qkv: qkv.permute(2, 0, 1, 3, 4),
                             merge=lambda x: x.flatten(2)), "heads attend to heads"),
    ("class_scores", partial(class_scores, attend=lambda q, k, v, scale: (q @ k.mT / 4).softmax(2) @ v),
     "yours runs over queries"),
    ("class_scores", lambda x, w: class_scores(x, {re.sub("norm[12]", lambda m: f"norm{3 - int(m[0][-1])}", name): value
                                                   for name, value in w.items()}), "norm1 stands before the attention"),
    ("class_scores", lambda x, w: class_scores(x, w).softmax(1), "These are probabilities"),
    ("class_scores", lambda x, w: class_scores(x, w).log_softmax(1), "logarithms of probabilities"),
    ("class_scores", lambda x, w: [value.zero_() for name, value in w.items() if name.endswith("qkv.weight")] and
     class_scores(x, w), "For 3 images"),
    ("class_scores", lambda x, w: class_scores(x, w) if len(x) < 9 else class_scores(x.flip(0), w), "for 200 images"),
    ("class_scores", lambda x, w: zoo.load("supervised").to(x.dtype).forward_features(x)[:, 0], "The head is missing"),
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
