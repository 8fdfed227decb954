# %% [markdown]
# # Assignment 01 · A Vision Transformer
#
# Five tasks on chapter 01, from easy to hard. What the chapter writes for you comes back in another form here, as you
# will meet it in other people's code.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `patchify`: patches that overlap | 3 | 15 |
# | 2 | `pool`: one query reads all tokens | 5 | 20 |
# | 3 | `resize_positions`: the same network, a larger image | 4 | 20 |
# | 4 | `rollout`: attention through many blocks | 5 | 25 |
# | 5 | an open question | 3 | 10 |
#
# Replace each `raise NotImplementedError` by your answer, and leave the names and arguments as they are. The cell below each task
# checks your answer and names the usual mistakes (`checks.py` and `checks.json` lie beside this notebook for that). Other tests,
# with other shapes and numbers, run when you have handed in; each earns its points alone, so an answer that is right for some
# cases earns some. *Run All* stops at the first task that is not done; the cells of the others can be run one by one. Before
# you hand in this notebook: *Kernel → Restart Kernel and Run All Cells*.

# %%
import math

import torch
import torch.nn.functional as F
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. Patches that overlap · 3 points
#
# Chapter 01 cuts an image into patches that lie side by side, and lays out each as channel, row, column. Two things are different
# here. Patches begin every `stride` pixels, so that with a stride below their size they **overlap**, as in the stems of
# several later Transformers. And inside a patch the order is **row, column, channel**, as in MAE's code: all colours of a pixel
# stand side by side. Patches still come row by row.
#
# `patchify(images, size, stride)`: images `(B, C, H, W)` → patches `(B, N, size · size · C)`, of all patches that fit inside the
# image. It need not be a square. *Hint: `images.unfold(2, size, stride)` makes windows along one axis, as a new last axis.*

# %% nbgrader={"answer": "patchify"}
def patchify(images, size, stride):
    """images (B, C, H, W) -> patches (B, N, size size C), row by row; inside a patch: row, column, channel."""
    ### BEGIN SOLUTION
    windows = images.unfold(2, size, stride).unfold(3, size, stride)           # (B, C, rows, columns, size, size)
    return windows.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    ### END SOLUTION

# %% nbgrader={"test": "patchify-1", "points": 1}
images = torch.arange(48.0).reshape(1, 2, 4, 6)
check(patchify, images, 2, 2, case="side by side")
check(patchify, images[:, :1], 2, 1, case="overlapping, one channel")

# %% nbgrader={"test": "patchify-2", "points": 1}
# Hidden: several images, three channels, patches of three pixels, side by side.
### BEGIN HIDDEN TESTS
colour = torch.rand(3, 3, 6, 9, generator=torch.Generator().manual_seed(11))
expected = F.unfold(colour, 3, stride=3).reshape(3, 3, 9, 6).permute(0, 3, 2, 1).reshape(3, 6, 27)
same(patchify(colour.clone(), 3, 3), expected, "for 3 images of 6 × 9 pixels, patches of 3 and a stride of 3")
### END HIDDEN TESTS

# %% nbgrader={"test": "patchify-3", "points": 1}
# Hidden: overlapping patches in colour, of an image that they do not fill.
### BEGIN HIDDEN TESTS
slow = [colour[:, :, top:top + 4, left:left + 4].permute(0, 2, 3, 1).flatten(1) for top in (0, 2) for left in (0, 2, 4)]
same(patchify(colour.clone(), 4, 2), torch.stack(slow, 1), "for 6 × 9 pixels, patches of 4 and a stride of 2")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. One query reads all tokens · 5 points
#
# A classifier may ask for more than the mean of the tokens: a single query, learned with the head, attends to all of them.
#
# $$ w_{bn} = \operatorname{softmax}_n\Big(\frac{q \cdot k_{bn}}{\sqrt d}\Big), \qquad y_b = \sum_n w_{bn}\, v_{bn} $$
#
# `pool(query, keys, values)`: query `(d,)`, keys `(B, N, d)`, values `(B, N, e)` → `(B, e)`. The width $e$ of the values need not be
# the width $d$ of the keys.

# %% nbgrader={"answer": "pool"}
def pool(query, keys, values):
    """query (d,), keys (B, N, d), values (B, N, e) -> the attention-weighted mean of the values, (B, e)."""
    ### BEGIN SOLUTION
    weights = (keys @ query / math.sqrt(query.shape[0])).softmax(1)            # (B, N)
    return torch.einsum("bn,bne->be", weights, values)
    ### END SOLUTION

# %% nbgrader={"test": "pool-1", "points": 1}
query = torch.tensor([2.0, -1.0, 1.0, 0.5])
keys = torch.tensor([[[1.0, 0, 1, 0], [0, 2, 0, 1], [1, 1, -1, 0]], [[0, -1, 1, 2], [2, 0, 0, 0], [0, 0, 0, 1]]])
values = torch.tensor([[[1.0, 0], [0, 2], [3, 1]], [[5, 1], [2, 2], [-1, 0]]])
check(pool, query, keys, values)

# %% nbgrader={"test": "pool-2", "points": 1}
check(pool, torch.tensor([3.0, 1.0, 2.0]), keys[..., :3], values, case="another width")

# %% nbgrader={"test": "pool-3", "points": 1}
# Hidden: another batch, more tokens, wider values.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(21)
q, k, v = torch.randn(6, generator=generator), torch.randn(4, 7, 6, generator=generator), torch.randn(4, 7, 9, generator=generator)
slow = torch.zeros(4, 9)
for b in range(4):
    raised = [math.exp(float(q @ k[b, n]) / math.sqrt(6)) for n in range(7)]
    for n in range(7):
        slow[b] += raised[n] / sum(raised) * v[b, n]
same(pool(q.clone(), k.clone(), v.clone()), slow, "for 4 images of 7 tokens")
### END HIDDEN TESTS

# %% nbgrader={"test": "pool-4", "points": 1}
# Hidden: a single image with a single token.
### BEGIN HIDDEN TESTS
same(pool(q.clone(), k[:1, :1].clone(), v[:1, :1].clone()), v[:1, 0], "for one image of one token, its value")
### END HIDDEN TESTS

# %% nbgrader={"test": "pool-5", "points": 1}
# Hidden: logits in the hundreds. Is there an `exp` that overflows?
### BEGIN HIDDEN TESTS
same(pool(300 * q, k.clone(), v.clone()), v[torch.arange(4), (k @ q).argmax(1)], "for logits in the hundreds")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. The same network, a larger image · 4 points
#
# A network trained on a grid of 4 × 4 patches has 16 learned positions, and one for CLS, which comes first. To use it with a
# grid of 6 × 8, its positions are stretched like an image: the grid is resized by bilinear interpolation
# (`F.interpolate(..., mode="bilinear", align_corners=False)`, which takes `(B, C, H, W)`), and CLS, which is nowhere, keeps its own.
#
# `resize_positions(positions, old, new)`: positions `(1 + rows · columns, D)`, `old` and `new` are `(rows, columns)` →
# `(1 + new rows · new columns, D)`.

# %% nbgrader={"answer": "resize_positions"}
def resize_positions(positions, old, new):
    """positions (1 + rows columns, D), CLS first, from the grid old (rows, columns) to the grid new (rows, columns)."""
    ### BEGIN SOLUTION
    cls, patches = positions[:1], positions[1:]
    grid = patches.T.reshape(1, -1, *old)                                      # (1, D, rows, columns)
    stretched = F.interpolate(grid, size=tuple(new), mode="bilinear", align_corners=False)
    return torch.cat([cls, stretched[0].flatten(1).T])
    ### END SOLUTION

# %% nbgrader={"test": "resize_positions-1", "points": 1}
positions = torch.tensor([[9.0, -9], [0, 0], [1, 0], [2, 0], [0, 4], [1, 4], [2, 5]])   # CLS, then 2 rows of 3
check(resize_positions, positions, (2, 3), (3, 4))

# %% nbgrader={"test": "resize_positions-2", "points": 1}
check(resize_positions, positions, (2, 3), (2, 3), case="the same grid")

# %% nbgrader={"test": "resize_positions-3", "points": 1}
# Hidden: from 4 × 4 to 7 × 5, in 8 dimensions.
### BEGIN HIDDEN TESTS
random_positions = torch.randn(17, 8, generator=torch.Generator().manual_seed(31))
got = resize_positions(random_positions.clone(), (4, 4), (7, 5))
expected = torch.cat([random_positions[:1], torch.stack([
    F.interpolate(random_positions[1:, d].reshape(1, 1, 4, 4), size=(7, 5), mode="bilinear", align_corners=False).flatten()
    for d in range(8)], dim=1)])
same(got, expected, "from 4 × 4 to 7 × 5 in 8 dimensions")
### END HIDDEN TESTS

# %% nbgrader={"test": "resize_positions-4", "points": 1}
# Hidden: to a smaller grid, of one column.
### BEGIN HIDDEN TESTS
small = resize_positions(torch.cat([random_positions[:1], random_positions[1:7]]), (3, 2), (3, 1))
same(small, torch.cat([random_positions[:1], (random_positions[1:7:2] + random_positions[2:7:2]) / 2]), "from 3 × 2 to 3 × 1")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Attention through many blocks · 5 points
#
# What does CLS see in the last block? Its attention there points at tokens that have mixed with others in every block before.
# *Attention rollout* (Abnar and Zuidema 2020, section 3) follows them back. In each block, take the mean over heads, and add the residual
# stream, which passes half of every token on unchanged:
#
# $$ \tilde A_l = \tfrac12 \Big(\frac1H \sum_h A_{l,h} + I\Big), \qquad R = \tilde A_L\, \tilde A_{L-1} \cdots \tilde A_1 $$
#
# Row $i$ of $R$ says which *input* tokens flow into token $i$ at the end. `rollout(attention)`: attention `(L, H, N, N)` of one image,
# block 1 first, rows are queries → `(N, N)`.

# %% nbgrader={"answer": "rollout"}
def rollout(attention):
    """attention (L, H, N, N), block 1 first -> how much of each input token is in each output token, (N, N)."""
    ### BEGIN SOLUTION
    tokens = attention.shape[-1]
    reached = torch.eye(tokens)
    for block in attention.mean(1):                                            # (N, N), block 1 first
        reached = (block + torch.eye(tokens)) / 2 @ reached                    # the later block stands on the left
    return reached
    ### END SOLUTION

# %% nbgrader={"test": "rollout-1", "points": 1}
one = torch.tensor([[[[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.2, 0.0, 0.8]], [[0.1, 0.9, 0.0], [1.0, 0.0, 0.0], [0.0, 0.4, 0.6]]]])
check(rollout, one, case="one block of two heads")

# %% nbgrader={"test": "rollout-2", "points": 1}
two = torch.cat([one, torch.tensor([[[[1.0, 0, 0], [0.6, 0.4, 0], [0.3, 0.3, 0.4]], [[0.0, 0, 1], [0, 1, 0], [0.9, 0, 0.1]]]])])
check(rollout, two, case="two blocks")

# %% nbgrader={"test": "rollout-3", "points": 1}
# Hidden: rows still sum to 1 after many blocks.
### BEGIN HIDDEN TESTS
deep = (3 * torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(41))).softmax(-1)
same(rollout(deep.clone()).sum(-1), torch.ones(5), "for 8 blocks, the sum of each row")
### END HIDDEN TESTS

# %% nbgrader={"test": "rollout-4", "points": 1}
# Hidden: eight blocks, every path counted.
### BEGIN HIDDEN TESTS
expected = torch.eye(5).double()
for layer in range(7, -1, -1):                                                 # from the last block down, right to left
    expected = expected @ (deep[layer].double().sum(0) / 6 + torch.eye(5).double() / 2)
same(rollout(deep.clone()), expected, "for 8 blocks of 3 heads on 5 tokens")
### END HIDDEN TESTS

# %% nbgrader={"test": "rollout-5", "points": 1}
# Hidden: blocks that attend to themselves only.
### BEGIN HIDDEN TESTS
same(rollout(torch.eye(4).expand(3, 2, 4, 4).clone()), torch.eye(4), "for blocks in which every token looks at itself")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. What would you expect? · 3 points
#
# A colleague has a ViT-B with patches of 16 pixels for images of 224 pixels, and wants finer maps: patches of **8** pixels.
# (a) How many patches are there then, and by what factor do the two parts of a block's cost, $12ND^2$ and $2N^2D$, grow? (b) Which
# weights of the trained network no longer fit, and what would you do with each? (c) The map of the *untrained* network with patches
# of 8 outlines the object in some heads. What does that show?
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "finer", "points": 3}
# **Model answer.** (a) 28 × 28 = 784 patches instead of 196. The first part grows by 4 with N, the second by 16 with N².
# (b) The patch projection, which takes 3 · 8² numbers instead of 3 · 16²: resize its filters, or train it anew. The positions,
# of which there are 196: stretch the grid as in task 3, and keep that of CLS. All other weights are per token and stay.
# (c) Nothing about learning: patches of like colour are like tokens, and random matrices map them to like keys. It is a
# control; a trained map has to beat it.
#
# **Rubric.** (a) 1 point: 784, and both factors; half for one of them wrong. CLS (785) may be counted or not.
# (b) 1 point: both the projection and the positions, with something sensible to do; half for one.
# (c) 1 point: that an outline alone is no sign of training, with a reason or with the word control.
