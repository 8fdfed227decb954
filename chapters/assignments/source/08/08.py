# %% [markdown]
# # Assignment 08 · Which layers matter
#
# Five tasks on chapter 08, from easy to hard: four more ways to ask what a block does, and a figure to read.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `overtakes`: from which block on does one network lead? | 3 | 10 |
# | 2 | `influence`: how far does a block turn its tokens? | 4 | 15 |
# | 3 | `added_r2`: what can a line read after a block, and not before? | 5 | 25 |
# | 4 | `turn`: the same in another direction? | 5 | 25 |
# | 5 | an open question | 3 | 15 |
#
# Replace each `raise NotImplementedError` by your answer, and leave the names and arguments as they are. The cell below each task
# checks your answer and names the usual mistakes (`checks.py` and `checks.json` lie beside this notebook for that). Other tests,
# with other shapes and numbers, run when you have handed in; each earns its points alone, so an answer that is right for some
# cases earns some. *Run All* stops at the first task that is not done; the cells of the others can be run one by one. Before
# you hand in this notebook: *Kernel → Restart Kernel and Run All Cells*.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. From which block on? · 3 points
#
# In Park et al.'s figure MoCo v3 overtakes SimMIM at block 8 and stays ahead. Curves of fewer images cross more than once, so say it exactly: the first
# depth at which the second curve is above the first **and stays above** at all later depths. Level is not above.
#
# `overtakes(first, second)`: two curves `(L,)`, entry 0 is depth 0 → a whole number. If the second is not above at the last depth, the answer
# is $L$, the number of depths.

# %% nbgrader={"answer": "overtakes"}
def overtakes(first, second):
    """first (L,), second (L,) -> the first depth from which on the second is above the first to the end; L if there is none."""
    ### BEGIN SOLUTION
    not_above = (second <= first).nonzero().flatten()
    return int(not_above[-1]) + 1 if len(not_above) else 0
    ### END SOLUTION

# %% nbgrader={"test": "overtakes-1", "points": 1}
first = torch.tensor([15.0, 28, 35, 43, 48, 53, 56, 57, 56, 53, 49, 48])
check(overtakes, first, torch.tensor([5.0, 30, 39, 41, 48, 53, 58, 61, 64, 66, 68, 63]), case="more than one crossing")
check(overtakes, first, first + torch.arange(1, 13), case="ahead at all depths")
check(overtakes, first[:5], torch.tensor([5.0, 30, 47, 46, 45]), case="behind in the end")

# %% nbgrader={"test": "overtakes-2", "points": 1}
# Hidden: many curves that cross often.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(11)
for length in (3, 8, 13, 25):
    a, b = torch.randint(6, (2, length), generator=generator).double()
    b[length // 2:] += 3
    expected = next(d for d in range(length + 1) if all(b[k] > a[k] for k in range(d, length)))
    same(overtakes(a.clone(), b.clone()), expected, f"for two curves of {length} depths")
### END HIDDEN TESTS

# %% nbgrader={"test": "overtakes-3", "points": 1}
# Hidden: level everywhere, level at the end, and a single depth.
### BEGIN HIDDEN TESTS
same(overtakes(torch.ones(6), torch.ones(6)), 6, "for curves that are level everywhere")
same(overtakes(torch.zeros(4), torch.tensor([1.0, 1, 1, 0])), 4, "for curves that are level at the last of 4 depths")
same(overtakes(torch.zeros(1), torch.ones(1)), 0, "for a single depth, where the second is ahead")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. How far does a block turn its tokens? · 4 points
#
# Which blocks could be left out? A cheap guess looks at no label: a block that hardly turns its tokens may not be needed. The *influence* of block $l$
# (Men et al. 2024, *ShortGPT*) is one less the cosine between a token before and after it, averaged over images and tokens:
#
# $$ I_l = 1 - \frac{1}{BP} \sum_{b, n} \cos\big(z^{l-1}_{bn},\, z^{l}_{bn}\big) $$
#
# `influence(stream, prefix)`: stream `(L + 1, B, N, D)`, the tokens at depths 0 to $L$, of which the first `prefix` in each image are no patches, and the other
# $P$ are → the influence of blocks 1 to $L$ on **patches**, `(L,)`.

# %% nbgrader={"answer": "influence"}
def influence(stream, prefix):
    """stream (L + 1, B, N, D) at depths 0 to L -> one less the mean cosine of patches before and after each block, (L,)."""
    ### BEGIN SOLUTION
    patches = stream[:, :, prefix:]
    return 1 - F.cosine_similarity(patches[:-1], patches[1:], dim=-1).mean((1, 2))
    ### END SOLUTION

# %% nbgrader={"test": "influence-1", "points": 1}
steps = torch.arange(4 * 2 * 5 * 3)
stream = (steps**2 * 13 % 29 - steps * 3 % 11 - 8.0).reshape(4, 2, 5, 3).cumsum(0)
check(influence, stream, 1, case="CLS")

# %% nbgrader={"test": "influence-2", "points": 1}
check(influence, stream, 3, case="CLS and two registers")

# %% nbgrader={"test": "influence-3", "points": 1}
# Hidden: six blocks, three images, no prefix, and one of four.
### BEGIN HIDDEN TESTS
x = torch.randn(7, 3, 10, 6, generator=torch.Generator().manual_seed(21)).double().cumsum(0)
for prefix in (0, 4):
    slow = [1 - sum(float(x[l, b, n] @ x[l + 1, b, n] / (x[l, b, n].norm() * x[l + 1, b, n].norm()))
                    for b in range(3) for n in range(prefix, 10)) / (3 * (10 - prefix)) for l in range(6)]
    same(influence(x.clone(), prefix), torch.tensor(slow), f"for 6 blocks and a prefix of {prefix}")
### END HIDDEN TESTS

# %% nbgrader={"test": "influence-4", "points": 1}
# Hidden: blocks that only stretch, that turn by a right angle, and that turn round.
### BEGIN HIDDEN TESTS
start = torch.randn(1, 2, 4, 2, generator=torch.Generator().manual_seed(22))
right_angle = 3 * torch.stack([-start[..., 1], start[..., 0]], -1)
same(influence(torch.cat([start, 5 * start, right_angle, -right_angle]), 1), torch.tensor([0.0, 1, 2]),
     "for blocks that stretch, turn by a right angle, and turn round")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. What is new after a block? · 5 points
#
# A probe reads more after a block than before. Did it read what it read before, and something else besides, or other things instead? Fit **both together**.
# Let $R^2(X)$ be the share of the targets' variance that a line with a bias, fitted to features $X$ `(N, D)`, gives on the same $N$ images:
#
# $$ R^2(X) = 1 - \frac{\sum (Y - \hat Y)^2}{\sum (Y - \bar Y)^2}, \qquad \hat Y = X W + b \text{ by least squares}, $$
#
# where both sums run over images and all $K$ columns of $Y$ `(N, K)`, and $\bar Y$ is the mean over images. What the block **adds** is
#
# $$ R^2([\text{before}, \text{after}]) - R^2(\text{before}), $$
#
# with the features of both side by side. It is never below 0, and 0 if all that is read after the block can be had before it by a line.
#
# `added_r2(before, after, targets)`: `(N, D)`, `(N, E)`, `(N, K)` → a number. There are more images than features, and some features may be combinations of others.
# *Hint: on the CPU, `torch.linalg.lstsq(X, Y).solution` copes with that; a column of ones makes a bias.*

# %% nbgrader={"answer": "added_r2"}
def added_r2(before, after, targets):
    """before (N, D), after (N, E), targets (N, K) -> R² of both features together less R² of those before."""
    ### BEGIN SOLUTION
    y = targets.double() - targets.double().mean(0)
    x = torch.cat([before, after], 1).double()
    x = x - x.mean(0)                                                          # as good as a bias
    left = [(y - some @ torch.linalg.lstsq(some, y).solution).square().sum() for some in (x[:, :before.shape[1]], x)]
    return (left[0] - left[1]) / y.square().sum()
    ### END SOLUTION

# %% nbgrader={"test": "added_r2-1", "points": 1}
before = torch.tensor([[1.0, 4], [2, 1], [3, 5], [4, 2], [5, 7], [6, 1], [7, 3], [8, 6]])
after = torch.tensor([[2.0, 1], [1, 0], [3, 4], [9, 1], [4, 6], [5, 2], [2, 8], [7, 7]])
targets = torch.tensor([[3.0, 9], [1, 2], [6, 7], [9, 5], [8, 4], [4, 6], [5, 12], [9, 9]])
check(added_r2, before, after, targets, case="two features each, two targets")

# %% nbgrader={"test": "added_r2-2", "points": 1}
check(added_r2, before[:, :1], after, targets[:, :1] + 20, case="one feature, then two, one target")

# %% nbgrader={"test": "added_r2-3", "points": 1}
# Hidden: fifty images, three targets of very different size.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(31)
a = torch.randn(50, 4, generator=generator).double() + 3
b = torch.cat([a[:, :2] @ torch.tensor([[1.0, 2], [0, 1]]).double(), torch.randn(50, 3, generator=generator).double()], 1)
y = torch.cat([a, b[:, 2:]], 1) @ torch.randn(7, 3, generator=generator).double() + torch.randn(50, 3, generator=generator)
y = y * torch.tensor([1.0, 5, 0.2]) + 10
def left_over(x):
    basis = torch.linalg.svd(torch.cat([x, torch.ones(50, 1).double()], 1), full_matrices=False)
    basis = basis.U[:, basis.S > 1e-8 * basis.S[0]]
    return (y - basis @ (basis.T @ y)).square().sum()
expected = (left_over(a) - left_over(torch.cat([a, b], 1))) / (y - y.mean(0)).square().sum()
same(added_r2(a.clone(), b.clone(), y.clone()), expected, "for 50 images and 3 targets, some features combinations of others")
### END HIDDEN TESTS

# %% nbgrader={"test": "added_r2-4", "points": 1}
# Hidden: a block that does nothing, and one that is a linear map with a bias.
### BEGIN HIDDEN TESTS
same(added_r2(a.clone(), a.clone(), y.clone()), 0.0, "for a block that does nothing")
same(added_r2(a.clone(), a @ torch.ones(4, 6).double().tril() + 2, y.clone()), 0.0, "for a block that is a linear map")
### END HIDDEN TESTS

# %% nbgrader={"test": "added_r2-5", "points": 1}
# Hidden: a block that says the target, where nothing could be read before.
### BEGIN HIDDEN TESTS
sign = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]).repeat(10, 1).double()
other = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]).repeat(10, 1).double()
same(added_r2(sign, sign * other + 7, sign * other), 1.0, "for a block that multiplies two signs, of which a line saw one")
same(added_r2(torch.cat([sign, other], 1), sign * other, 3 * sign + 5), 0.0, "for a target that could be read before")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. The same in another direction? · 5 points
#
# The last block's probe reads little in the middle of a network. Perhaps the middle says the same in other directions. Then a **rotation** would be enough to make
# it readable: allow no stretching, or you might as well fit a new probe. The best rotation or reflection $R$ (orthogonal, `(D, D)`) makes
#
# $$ \big\| (X - \bar x) R - (Y - \bar y) \big\|^2 $$
#
# as small as possible, and is known in closed form (*Procrustes*): with the singular value decomposition $(X - \bar x)^\top (Y - \bar y) = U S V^\top$ it is
# $R = U V^\top$. (`torch.linalg.svd` returns $U$, $S$ and $V^\top$, already transposed.)
#
# `turn(features, targets, queries)`: $X$ `(N, D)` after a middle block and $Y$ `(N, D)` after the last, of the same $N$ images, with means $\bar x$ and $\bar y$ `(D,)`; queries
# `(M, D)` after the middle block → what they are in the last block's directions, $(q - \bar x) R + \bar y$, `(M, D)`.

# %% nbgrader={"answer": "turn"}
def turn(features, targets, queries):
    """features (N, D), targets (N, D), queries (M, D) -> the queries, turned as the features are to meet the targets, (M, D)."""
    ### BEGIN SOLUTION
    start, end = features.mean(0), targets.mean(0)
    u, _, vt = torch.linalg.svd((features - start).T @ (targets - end))
    return (queries - start) @ (u @ vt) + end
    ### END SOLUTION

# %% nbgrader={"test": "turn-1", "points": 1}
features = torch.tensor([[1.0, 0, 4], [3, 1, 0], [0, 5, 2], [6, 2, 1], [2, 2, 9]])
targets = torch.tensor([[2.0, 7, 1], [1, 2, 3], [5, 3, 0], [0, 1, 8], [4, 12, 2]])
queries = torch.tensor([[1.0, 2, 3], [4, 0, 1]])
check(turn, features, targets, queries, case="5 images")

# %% nbgrader={"test": "turn-2", "points": 1}
check(turn, features, targets * torch.tensor([-1.0, 1, 1]), queries, case="the first target mirrored")

# %% nbgrader={"test": "turn-3", "points": 1}
# Hidden: targets that are the features, turned and moved.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(41)
x, q = torch.randn(30, 6, generator=generator).double() + 4, torch.randn(7, 6, generator=generator).double()
rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator).double()).Q
for flip in (1.0, -1.0):
    bend = rotation * torch.tensor([flip, 1, 1, 1, 1, 1]).double()
    same(turn(x.clone(), x @ bend + 9, q.clone()), q @ bend + 9, "for targets that are the features, turned and moved")
### END HIDDEN TESTS

# %% nbgrader={"test": "turn-4", "points": 1}
# Hidden: forty images, eight features, targets with noise and of another size.
### BEGIN HIDDEN TESTS
x = torch.randn(40, 8, generator=generator).double() * torch.linspace(1, 3, 8) - 2
y = 3 * x @ torch.linalg.qr(torch.randn(8, 8, generator=generator).double()).Q + torch.randn(40, 8, generator=generator) + 1
asked = torch.randn(5, 8, generator=generator).double()
product = (x - x.mean(0)).T @ (y - y.mean(0))
values, vectors = torch.linalg.eigh(product.T @ product)
expected = (asked - x.mean(0)) @ product @ (vectors / values.sqrt() @ vectors.T) + y.mean(0)
same(turn(x.clone(), y.clone(), asked.clone()), expected, "for 40 images with noise, targets three times as large")
### END HIDDEN TESTS

# %% nbgrader={"test": "turn-5", "points": 1}
# Hidden: distances stay as they are.
### BEGIN HIDDEN TESTS
turned = turn(x.clone(), y.clone(), asked.clone())
same(torch.cdist(turned, turned), torch.cdist(asked, asked), "the distances between queries")
same(turn(x.clone(), y.clone(), x.mean(0, keepdim=True)), y.mean(0, keepdim=True), "for the mean of the features as a query")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. Read the figure · 3 points
#
# A network that we made up; ten classes, 500 images, features are means of patch tokens. Left: linear probes after each block. Right: one block is left out, and the end
# of the network is read with the last block's probe as it was, or with a new one.

# %%
own = [22, 48, 60, 66, 70, 73, 75, 75, 74, 72, 69, 66, 62]
last = [10, 11, 12, 12, 13, 15, 17, 20, 26, 34, 44, 55, 62]
untrained = [22, 45, 54, 56, 57, 57, 56, 57, 56, 57, 56, 57, 56]
without_old, without_new = [12, 20, 25, 30, 33, 35, 36, 38, 40, 42, 45, 55], [35, 55, 60, 61, 62, 62, 61, 63, 62, 62, 64, 66]
figure, axes = plt.subplots(1, 2, figsize=(8.5, 3), sharey=True, layout="constrained")
axes[0].plot(own, "o-", color="black", ms=4, label="a probe for each depth")
axes[0].plot(last, "s--", color="black", ms=4, label="the last block's probe")
axes[0].plot(untrained, "o-", color="grey", ms=4, label="untrained, a probe for each depth")
axes[1].bar([b - 0.2 for b in range(1, 13)], without_old, 0.4, color="lightgrey", label="the last block's probe")
axes[1].bar([b + 0.2 for b in range(1, 13)], without_new, 0.4, color="black", label="a new probe")
axes[0].set(xlabel="depth", xticks=range(13), ylabel="classes named right (%)", ylim=(0, 100), title="Read after each block")
axes[1].set(xlabel="block left out", xticks=range(1, 13), title="Read at the end, one block left out")
axes[1].axhline(62, color="black", lw=1, ls=":")
for axis in axes:
    axis.legend(fontsize=7, loc="upper right", ncols=2)

# %% [markdown]
# (a) "Blocks 1 and 2 create the class: accuracy goes from 22 to 60 %." Give two reasons not to write that. (b) After block 4 a probe of its own is right in 70 %
# of the images, the last block's probe in 13 %. How can both be true, and which of the two would `turn` of task 4 change if the middle said the same as the end in other
# directions? (c) Blocks 9 to 12 are cut off **together**, and the end is read with a new probe. Which accuracy do you predict, and from which curve? Can the right
# panel tell what happens if blocks 3 **and** 6 are left out? Say why.
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "figure", "points": 3}
# **Model answer.** (a) Random weights climb from 22 to 54 as well, so most of the rise is no learning. And what stands after a block is a function of what stood
# before it: it cannot know more of the image; what grew is what *this reader*, a line on the mean of the patches, can read (at depth 0 the mean
# has thrown away where things are; another reader of the pixels might read as much). (b) The class is there, but in other directions (or at another strength) than those that
# the last probe looks at; each probe tells of itself as well as of the block. `turn` would lift the 13 %, towards 70 at most if the rotation is all there is
# to it; a new probe is fitted after any rotation, so the 70 % stay (but for what standardising feature by feature changes).
# (c) 74 %: cut off after block 8, the network ends at depth 8, and a new probe there is the solid black curve. No: each bar leaves one block out and lets the others run on
# tokens that they know nearly; with two left out the effects need not add up, since blocks 4, 5 and 7 to 12 get other inputs. It has to be run.
#
# **Rubric.** (a) 1 point: two of control, function of its input, reader; half for one. (b) 1 point: other directions, and that the last probe's number rises; half for
# one. (c) 1 point: 74 from the own probes at depth 8, and no with a reason; half for one.
