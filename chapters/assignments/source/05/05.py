# %% [markdown]
# # Assignment 05 · Self-attention
#
# Five tasks on chapter 05, from easy to hard: other numbers for the same maps, and one map to read.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `patches_seen`: how many patches does a head look at? | 3 | 10 |
# | 2 | `patch_attention`: drop the prefix before the softmax | 4 | 15 |
# | 3 | `share_within`: how local is a head? | 5 | 25 |
# | 4 | `label_nmi`: do two labelings say the same? | 5 | 25 |
# | 5 | an open question | 3 | 15 |
#
# Replace each `raise NotImplementedError` by your answer, and leave the names and arguments as they are. The cell below each task
# checks your answer and names the usual mistakes (`checks.py` and `checks.json` lie beside this notebook for that). Other tests,
# with other shapes and numbers, run when you have handed in; each earns its points alone, so an answer that is right for some
# cases earns some. *Run All* stops at the first task that is not done; the cells of the others can be run one by one. Before
# you hand in this notebook: *Kernel → Restart Kernel and Run All Cells*.

# %%
import math

import matplotlib.pyplot as plt
import torch
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. How many patches does a head look at? · 3 points
#
# Entropy is hard to picture. $e$ to its power is not: a query that looks evenly at 7 patches has $e^{H} = 7$. Compute it **for each query**,
# with $0 \log 0 = 0$, and average over queries:
#
# $$ n_h = \frac1P \sum_q \exp\Big(-\sum_k A_h[q,k] \log A_h[q,k]\Big) $$
#
# `patches_seen(attention)`: attention `(H, P, P)`, rows are queries → `(H,)`, from 1 to $P$.

# %% nbgrader={"answer": "patches_seen"}
def patches_seen(attention):
    """attention (H, P, P), rows are queries and sum to 1 -> number of patches a query looks at, averaged over queries, (H,)."""
    ### BEGIN SOLUTION
    entropy = torch.special.entr(attention).sum(-1)                            # (H, P), in nats
    return entropy.exp().mean(-1)
    ### END SOLUTION

# %% nbgrader={"test": "patches_seen-1", "points": 1}
heads = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.4, 0.4, 0.2]], [[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.98, 0.01, 0.01]]])
check(patches_seen, heads, case="no zeros")
check(patches_seen, torch.tensor([[[1.0, 0, 0], [0.5, 0, 0.5], [0.2, 0.3, 0.5]]]), case="with zeros")

# %% nbgrader={"test": "patches_seen-2", "points": 1}
# Hidden: four heads on ten patches.
### BEGIN HIDDEN TESTS
soft = (2 * torch.randn(4, 10, 10, generator=torch.Generator().manual_seed(11)).double()).softmax(-1)
slow = [sum(math.exp(-sum(p * math.log(p) for p in row)) for row in head) / 10 for head in soft.tolist()]
same(patches_seen(soft.clone()), torch.tensor(slow), "for 4 heads on 10 patches")
### END HIDDEN TESTS

# %% nbgrader={"test": "patches_seen-3", "points": 1}
# Hidden: everywhere alike, and one patch alone.
### BEGIN HIDDEN TESTS
ends = torch.stack([torch.full((9, 9), 1 / 9), torch.eye(9).roll(2, 1)])
same(patches_seen(ends.clone()), torch.tensor([9.0, 1.0]), "for even attention on 9 patches, and for one patch alone")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Drop the prefix before the softmax · 4 points
#
# In the exercises of chapter 05 you dropped CLS from *probabilities*, and divided each row by what was left. Where CLS takes nearly
# everything, what is left is rounding. From the logits there is no such trouble: a softmax over the patches **alone** is the same
# thing, and exact. Networks with registers have more than one token before the patches: `prefix` of them.
#
# `patch_attention(logits, prefix)`: logits `(B, H, N, N)` (scaled products of queries and keys, before the softmax) → attention among
# patches `(B, H, N - prefix, N - prefix)`.

# %% nbgrader={"answer": "patch_attention"}
def patch_attention(logits, prefix):
    """logits (B, H, N, N), the first `prefix` tokens are no patches -> attention among patches, rows sum to 1."""
    ### BEGIN SOLUTION
    return logits[..., prefix:, prefix:].softmax(-1)
    ### END SOLUTION

# %% nbgrader={"test": "patch_attention-1", "points": 1}
logits = torch.tensor([[[[0.0, 1, 2, 0], [1, 0, 1, 2], [3, 1, 0, 1], [0, 2, 1, -1]]]])
check(patch_attention, logits, 1, case="CLS")

# %% nbgrader={"test": "patch_attention-2", "points": 1}
check(patch_attention, logits, 2, case="CLS and a register")

# %% nbgrader={"test": "patch_attention-3", "points": 1}
# Hidden: two images, three heads, no prefix, and five tokens of it.
### BEGIN HIDDEN TESTS
many = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(21))
for prefix in (0, 5):
    kept = many[:, :, prefix:, prefix:].double().exp()
    same(patch_attention(many.clone(), prefix), kept / kept.sum(-1, keepdim=True), f"for 12 tokens and a prefix of {prefix}")
### END HIDDEN TESTS

# %% nbgrader={"test": "patch_attention-4", "points": 1}
# Hidden: CLS takes all but a billionth of a billionth of a billionth of a billionth of a billionth.
### BEGIN HIDDEN TESTS
greedy = many.clone()
greedy[..., 0] += 120
same(patch_attention(greedy, 1), patch_attention(many.clone(), 1), "when CLS takes nearly everything")
same(patch_attention(greedy, 1).sum(-1), torch.ones(2, 3, 11), "the rows, when CLS takes nearly everything")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. How local is a head? · 5 points
#
# A mean distance hides much: half the attention next door and half far away looks like all of it half way. So ask what **share**
# of its attention a query spends on patches no farther than `radius` from itself, itself included, and average over queries. Distances are
# straight (Euclidean), between centres, in patches: the patch below is 1 away, a diagonal one $\sqrt 2$.
#
# `share_within(attention, rows, columns, radius)`: attention `(H, P, P)` with $P$ = rows · columns, patch $n$ in row $n$ // columns and
# column $n$ % columns → `(H,)`, from 0 to 1.

# %% nbgrader={"answer": "share_within"}
def share_within(attention, rows, columns, radius):
    """attention (H, P, P) on rows x columns patches -> share spent no farther than radius patches away, mean over queries, (H,)."""
    ### BEGIN SOLUTION
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    squared = (place[:, None] - place).square().sum(-1)                        # (P, P), whole numbers
    return (attention * (squared <= radius**2 + 1e-9)).sum(-1).mean(-1)
    ### END SOLUTION

# %% nbgrader={"test": "share_within-1", "points": 1}
attention = torch.tensor([[[8.0, 1, 2, 1, 3, 1], [1, 5, 1, 4, 2, 3], [2, 1, 9, 1, 1, 2], [3, 2, 1, 6, 1, 3],
                           [1, 2, 3, 1, 7, 2], [4, 1, 1, 2, 1, 7]],
                          [[1.0, 4, 4, 1, 4, 2], [5, 1, 2, 3, 2, 3], [2, 6, 1, 3, 2, 2], [6, 2, 3, 1, 1, 3],
                           [1, 5, 3, 4, 1, 2], [1, 2, 5, 3, 4, 1]]]) / 16
check(share_within, attention, 2, 3, 1, case="2 rows of 3, radius 1")

# %% nbgrader={"test": "share_within-2", "points": 1}
check(share_within, attention, 3, 2, 1.5, case="3 rows of 2, radius 1.5")

# %% nbgrader={"test": "share_within-3", "points": 1}
check(share_within, attention, 2, 3, 2.5, case="2 rows of 3, radius 2.5")

# %% nbgrader={"test": "share_within-4", "points": 1}
# Hidden: three heads on 4 × 5 patches, a radius of 2.
### BEGIN HIDDEN TESTS
soft = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(31)).softmax(-1)
slow = [sum(float(head[q, k]) for q in range(20) for k in range(20)
            if (q // 5 - k // 5) ** 2 + (q % 5 - k % 5) ** 2 <= 4) / 20 for head in soft]
same(share_within(soft.clone(), 4, 5, 2), torch.tensor(slow), "for 3 heads on 4 × 5 patches, radius 2")
### END HIDDEN TESTS

# %% nbgrader={"test": "share_within-5", "points": 1}
# Hidden: a radius of 0, one that holds everything, and one row of patches.
### BEGIN HIDDEN TESTS
same(share_within(soft.clone(), 4, 5, 0), soft.diagonal(dim1=1, dim2=2).mean(1), "for radius 0: what a query spends on itself")
same(share_within(soft.clone(), 4, 5, 9), torch.ones(3), "for a radius that holds the image")
row = torch.full((1, 6, 6), 1 / 6)
same(share_within(row, 1, 6, 1), torch.tensor([16 / 36]), "for even attention in one row of 6, radius 1")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Do two labelings say the same? · 5 points
#
# Mutual information also compares two ways to sort $N$ things into groups, such as clusters of tokens and true classes. Count how
# often group $a$ of the first meets group $b$ of the second, divide by $N$ to get $p(a, b)$, and
#
# $$ I = \sum_{a,b} p(a,b) \log \frac{p(a,b)}{p(a)\,p(b)}, \qquad \mathrm{NMI} = \frac{I}{\sqrt{H(a)\,H(b)}} . $$
#
# A pair that never meets adds nothing. If either labeling has a single group, the answer is 0.
#
# `label_nmi(first, second)`: two tensors `(N,)` of whole numbers from 0 → a number from 0 to 1. What the groups are called does not matter,
# and some numbers may not occur.

# %% nbgrader={"answer": "label_nmi"}
def label_nmi(first, second):
    """first (N,), second (N,), whole numbers from 0 -> normalised mutual information, from 0 to 1."""
    ### BEGIN SOLUTION
    joint = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    joint.index_put_((first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    joint /= len(first)
    h_first, h_second, h_both = (torch.special.entr(p).sum() for p in (joint.sum(1), joint.sum(0), joint))
    if h_first == 0 or h_second == 0:
        return 0.0
    return (h_first + h_second - h_both) / (h_first * h_second).sqrt()
    ### END SOLUTION

# %% nbgrader={"test": "label_nmi-1", "points": 1}
first = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
second = torch.tensor([1, 1, 1, 0, 0, 0, 1, 1, 1, 1])
check(label_nmi, first, second)

# %% nbgrader={"test": "label_nmi-2", "points": 1}
# Hidden: the same groups under other names, some names unused.
### BEGIN HIDDEN TESTS
names = torch.tensor([5, 0, 3])
same(label_nmi(first.clone(), names[first]), 1.0, "for the same groups under other names")
### END HIDDEN TESTS

# %% nbgrader={"test": "label_nmi-3", "points": 1}
# Hidden: groups that have nothing to do with each other.
### BEGIN HIDDEN TESTS
a, b = torch.cartesian_prod(torch.arange(4), torch.arange(3)).repeat(2, 1).T
same(label_nmi(a.clone(), b.clone()), 0.0, "for labelings that have nothing to do with each other")
### END HIDDEN TESTS

# %% nbgrader={"test": "label_nmi-4", "points": 1}
# Hidden: two hundred random labels, five groups and seven.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(41)
a = torch.randint(5, (200,), generator=generator)
b = torch.where(torch.rand(200, generator=generator) < 0.5, a, torch.randint(7, (200,), generator=generator))
pairs = [(x, y) for x, y in zip(a.tolist(), b.tolist())]
def surprise(values):
    return -sum(values.count(v) / len(values) * math.log(values.count(v) / len(values)) for v in set(values))
expected = (surprise(a.tolist()) + surprise(b.tolist()) - surprise(pairs)) / math.sqrt(surprise(a.tolist()) * surprise(b.tolist()))
same(label_nmi(a.clone(), b.clone()), expected, "for 200 labels of 5 and 7 groups")
### END HIDDEN TESTS

# %% nbgrader={"test": "label_nmi-5", "points": 1}
# Hidden: a single group.
### BEGIN HIDDEN TESTS
same(label_nmi(a.clone(), torch.zeros_like(a)), 0.0, "when the second labeling has one group only")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. Read the maps · 3 points
#
# Three heads that we made up, on 8 × 8 patches. Each column is one query, marked by a cross; bright is where it looks.

# %%
place = torch.cartesian_prod(torch.arange(8), torch.arange(8)).float()
near = (-(torch.cdist(place, place) ** 2) / 3).softmax(-1)
target = (-((place - torch.tensor([2.0, 5.0])) ** 2).sum(-1) / 3).softmax(-1).expand(64, 64)
mirror = near.reshape(64, 8, 8).flip(1, 2).reshape(64, 64)
figure, axes = plt.subplots(3, 4, figsize=(6, 4.8))
for line, (name, head) in zip(axes, {"A": near, "B": target, "C": mirror}.items()):
    for axis, query in zip(line, (9, 22, 41, 54)):
        axis.imshow(head[query].reshape(8, 8), cmap="cividis", vmin=0)
        axis.plot(query % 8, query // 8, "x", color="white", markeredgewidth=2)
        axis.set(xticks=[], yticks=[], ylabel=f"head {name}" if query == 9 else "")
figure.suptitle("Where four queries look, in three heads");

# %% [markdown]
# (a) Which head looks nearby, which about as far as a head that looks everywhere (4.1 patches on this grid), and which farther? And which
# has an NMI near 0? Say both for each of the three. (b) Park et al. say that
# attention of contrastive models *collapses* in the last blocks. Which head has collapsed, and why is a long distance alone no proof of it?
# (c) You find a head like B in the last block of a trained network, at the object. Name one more thing you would measure, or compare with, before you
# write "the network finds objects".
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "maps", "points": 3}
# **Model answer.** (a) A: nearby (1.4 patches), high NMI. B: nearly as far as uniform attention (3.8), NMI 0, as all queries look at the same
# place. C: farther (5.8: it looks at the opposite place), NMI as high as that of A. (b) B: where it looks does not depend on who asks. C
# looks as far or farther, and yet each query has its own place, so distance alone cannot tell the two apart; NMI does. (c) For instance the
# same map in an untrained network; whether the place moves with the object over many images (and is not a fixed place of the grid); agreement
# with the true masks, with an interval over images.
#
# **Rubric.** (a) 1 point: all six right; half for four or five. (b) 1 point: B, and C as the counterexample (half without). (c) 1 point:
# a sensible control or measurement.
