# %% [markdown]
# # Assignment 04 · What is it worth
#
# Five tasks on chapter 04, from easy to hard: the yardsticks once more, as papers use them, and a figure to read.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `rate_of`: who learns how fast when all is fine-tuned? | 3 | 10 |
# | 2 | `votes_of_others`: k-NN without a second set of images | 5 | 20 |
# | 3 | `difference_interval`: would other images *and* other trainings say the same? | 4 | 20 |
# | 4 | `ridge_scores`: a linear probe in closed form | 5 | 25 |
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
import torch.nn.functional as F
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. Who learns how fast? · 3 points
#
# With layer decay, layer $l$ learns at $\text{base} \cdot \text{decay}^{\,L + 1 - l}$, where $L$ is the number of blocks. Layer 0 holds all that comes
# before the first block, layer $l$ is block $l$, and layer $L + 1$ is what comes after the last block: the final norm and the head.
#
# An optimiser knows parameters by their names. In `timm`'s ViT there are, and there are no others:
#
# - `cls_token`, `pos_embed`, `patch_embed.proj.weight` and others that begin with `patch_embed.`;
# - `blocks.0.norm1.weight`, `blocks.0.attn.qkv.weight`, … `blocks.11.mlp.fc2.bias`. Here numbers **begin at 0**: `blocks.0.` is block 1;
# - `norm.weight`, `norm.bias`, `head.weight`, `head.bias`.
#
# `rate_of(name, blocks, base, decay)` → the learning rate of the parameter of this name, a number.

# %% nbgrader={"answer": "rate_of"}
def rate_of(name, blocks, base, decay):
    """name of a parameter, number of blocks, rate of the head, decay -> the parameter's learning rate."""
    ### BEGIN SOLUTION
    layer = 0
    if name.startswith("blocks."):
        layer = int(name.split(".")[1]) + 1
    elif name.startswith(("norm.", "head.")):
        layer = blocks + 1
    return base * decay ** (blocks + 1 - layer)
    ### END SOLUTION

# %% nbgrader={"test": "rate_of-1", "points": 1}
check(rate_of, "patch_embed.proj.weight", 4, 16.0, 0.25, case="patch embedding, 4 blocks")
check(rate_of, "blocks.0.attn.qkv.weight", 4, 16.0, 0.25, case="first of 4 blocks")
check(rate_of, "blocks.2.norm2.bias", 4, 16.0, 0.25, case="norm of the third of 4 blocks")
check(rate_of, "norm.weight", 4, 16.0, 0.25, case="final norm, 4 blocks")
check(rate_of, "blocks.11.mlp.fc1.weight", 24, 1e6, 0.75, case="twelfth of 24 blocks")

# %% nbgrader={"test": "rate_of-2", "points": 1}
# Hidden: all blocks of a ViT-B, and its head.
### BEGIN HIDDEN TESTS
for block in range(12):
    for part in ("norm1.weight", "attn.proj.bias", "mlp.fc2.weight"):
        same(rate_of(f"blocks.{block}.{part}", 12, 100.0, 0.65), 100 * 0.65 ** (12 - block), f"for blocks.{block}.{part}, 12 blocks")
same(rate_of("head.bias", 12, 100.0, 0.65), 100.0, "for head.bias")
### END HIDDEN TESTS

# %% nbgrader={"test": "rate_of-3", "points": 1}
# Hidden: what comes before the first block, and after the last.
### BEGIN HIDDEN TESTS
for name in ("cls_token", "pos_embed", "patch_embed.proj.bias", "patch_embed.norm.weight"):
    same(rate_of(name, 6, 100.0, 0.8), 100 * 0.8**7, f"for {name}, 6 blocks")
same(rate_of("norm.bias", 6, 100.0, 0.8), 100.0, "for norm.bias, 6 blocks")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. k-NN without a second set · 5 points
#
# Few labelled images? Then let each be judged by all **others**. Image $i$ asks the $k$ images whose vectors have the largest cosine with its own,
# **not itself**, and each votes for its class with a weight, as published (Wu et al. 2018, section 3.4):
#
# $$ \text{votes}_i(c) = \sum_{n \,\in\, \text{nearest } k,\; n \ne i} \exp(\cos(f_i, f_n) / \tau)\;[y_n = c] $$
#
# `votes_of_others(features, labels, classes, k, temperature)`: features `(N, D)`, of any length, labels `(N,)` → the votes `(N, classes)`, divided so that
# each row sums to 1. Temperatures go down to 0.005. *Hint: what cosine should an image have with itself so that it is never chosen?*

# %% nbgrader={"answer": "votes_of_others"}
def votes_of_others(features, labels, classes, k, temperature):
    """features (N, D), labels (N,) -> what the k nearest others vote for each image, (N, classes), rows sum to 1."""
    ### BEGIN SOLUTION
    unit = F.normalize(features, dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)                        # (N, N)
    nearest = cosine.topk(k, dim=1)
    weights = (nearest.values / temperature).softmax(1)                        # (N, k), exp(...) divided by its sum
    return torch.zeros(len(features), classes).to(weights).scatter_add(1, labels[nearest.indices], weights)
    ### END SOLUTION

# %% nbgrader={"test": "votes_of_others-1", "points": 1}
features = torch.tensor([[4.0, 1, 0], [3, 2, 1], [0, 3, 1], [1, 1, 4], [2, 2, 1], [1, 5, 2], [0, 1, 2]])
labels = torch.tensor([0, 2, 1, 0, 2, 1, 0])
check(votes_of_others, features, labels, 4, 3, 0.2, case="3 of 6 others")

# %% nbgrader={"test": "votes_of_others-2", "points": 1}
check(votes_of_others, features, labels, 3, 5, 0.5, case="5 of 6 others")

# %% nbgrader={"test": "votes_of_others-3", "points": 1}
# Hidden: twenty images of five classes.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(21)
f, y = torch.randn(20, 8, generator=generator), torch.randint(5, (20,), generator=generator)
slow = torch.zeros(20, 5).double()
for i in range(20):
    cosines = {n: float(torch.cosine_similarity(f[i], f[n], dim=0)) for n in range(20) if n != i}
    for n in sorted(cosines, key=cosines.get)[-6:]:
        slow[i, y[n]] += math.exp(cosines[n] / 0.3)
same(votes_of_others(f.clone(), y.clone(), 5, 6, 0.3), slow / slow.sum(1, keepdim=True), "for 20 images of 5 classes, k = 6")
### END HIDDEN TESTS

# %% nbgrader={"test": "votes_of_others-4", "points": 1}
# Hidden: a temperature of 0.005. Is there an `exp` that overflows?
### BEGIN HIDDEN TESTS
close = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])         # cosines 0.8, 0.6, 0; 0.96, 0.6; 0.8
expected = torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]])
same(votes_of_others(close, torch.tensor([0, 1, 2, 0]), 3, 3, 0.005), expected, "for a temperature of 0.005")
### END HIDDEN TESTS

# %% nbgrader={"test": "votes_of_others-5", "points": 1}
# Hidden: the same image twice, under two labels.
### BEGIN HIDDEN TESTS
twice = torch.tensor([[0.0, 2.0], [0.0, 2.0], [3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
votes = votes_of_others(twice, torch.tensor([0, 1, 2, 2, 3]), 4, 1, 0.1)
same(votes.sum(1), torch.ones(5), "the rows, for an image that is there three times")
same(votes[[0, 1, 3], [0, 1, 2]], torch.zeros(3), "the vote of an image for itself, when others are exactly like it")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Other images and other trainings · 4 points
#
# A method is trained with several seeds, each network is scored on the same $N$ images. The chapter's intervals draw images only. A claim about the
# *method* has to survive other seeds as well, so draw both. In draw $r$:
#
# - draw seeds for the first method and, apart from them, seeds for the second, with replacement;
# - draw $N$ images, **the same ones for all networks**;
# - take the share that is right over the drawn seeds and images, for each method, and subtract: first − second.
#
# The draws are given as numbers, a row for each draw. `difference_interval(first, second, first_seeds, second_seeds, images)`: right or wrong `(S, N)` bool
# for the first method and `(T, N)` for the second; draws `(R, S)`, `(R, T)` and `(R, N)` → the lower and the upper end of the middle
# 95 % of the differences, from `torch.quantile`. *Hint: `first[a[:, None], b]` takes the rows `a` and, of each, the columns `b`.*

# %% nbgrader={"answer": "difference_interval"}
def difference_interval(first, second, first_seeds, second_seeds, images):
    """right or wrong (S, N), (T, N), draws (R, S), (R, T), (R, N) -> both ends of the middle 95 % of first - second."""
    ### BEGIN SOLUTION
    scores = [right.double()[seeds[:, :, None], images[:, None]].mean((1, 2))                   # (R,)
              for right, seeds in ((first, first_seeds), (second, second_seeds))]
    ends = (scores[0] - scores[1]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return ends[0], ends[1]
    ### END SOLUTION

# %%
def mixed(*shape, below):
    """Whole numbers from 0 to below - 1 that look drawn, and are the same on every computer."""
    return ((torch.arange(math.prod(shape)) * 40503 + 97) ** 2 % 65521 * below // 65521).reshape(shape)

# %% nbgrader={"test": "difference_interval-1", "points": 1}
hard = mixed(20, below=10)                                                     # of each image
first, second = mixed(3, 20, below=9) + 4 >= hard, mixed(2, 20, below=8) + 1 >= hard
first[0] &= mixed(20, below=3) > 0                                             # one training was worse
draws = mixed(60, 3, below=3), mixed(60, 2, below=2), mixed(60, 20, below=20)
check(difference_interval, first, second, *draws, case="3 and 2 seeds")

# %% nbgrader={"test": "difference_interval-2", "points": 1}
# Hidden: four and five seeds on fifty images.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(31)
a, b = torch.rand(4, 50, generator=generator) < 0.7, torch.rand(5, 50, generator=generator) < 0.6
seeds, others, some = (torch.randint(n, (80, n), generator=generator) for n in (4, 5, 50))
slow = [sum(float(a[s, n]) for s in seeds[r].tolist() for n in some[r].tolist()) / 200
        - sum(float(b[s, n]) for s in others[r].tolist() for n in some[r].tolist()) / 250 for r in range(80)]
ends = torch.tensor(slow).double().quantile(torch.tensor([0.025, 0.975]).double())
same(tuple(difference_interval(a, b, seeds, others, some)), tuple(ends), "for 4 and 5 seeds on 50 images")
### END HIDDEN TESTS

# %% nbgrader={"test": "difference_interval-3", "points": 1}
# Hidden: one seed each.
### BEGIN HIDDEN TESTS
none = torch.zeros(80, 1, dtype=torch.int64)
each = (a[0].double() - b[0].double())[some].mean(1)
same(tuple(difference_interval(a[:1], b[:1], none, none, some)), tuple(each.quantile(torch.tensor([0.025, 0.975]).double())),
     "for one seed each")
### END HIDDEN TESTS

# %% nbgrader={"test": "difference_interval-4", "points": 1}
# Hidden: a method against itself.
### BEGIN HIDDEN TESTS
alike = a[:1].repeat(4, 1)
same(tuple(difference_interval(alike, alike[:3], seeds, others[:, :3] % 3, some)), (0.0, 0.0),
     "for two methods whose networks are all alike")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. A linear probe in closed form · 5 points
#
# From few labels, Dosovitskiy et al. (2021, the first ViT) and Raghu et al. (2021) probe with regularised least squares in closed form: no optimiser,
# no learning rate. The targets are $+1$ for an image's class and $-1$ for all others: $Y$ `(N, K)`, with the mean $\bar Y$ `(K,)` over images. $Z$ `(N, D)` are
# the features, standardised by their mean and standard deviation over the $N$ images (divided by $N$). Then, with $Q$ the queries, **standardised by the same numbers**,
#
# $$ W = (Z^\top Z + \lambda I)^{-1} Z^\top (Y - \bar Y), \qquad \text{scores} = Q W + \bar Y . $$
#
# $\bar Y$ stands for the bias, which no penalty holds small. A feature that is the same in all $N$ images has no standard deviation to divide by: it becomes 0,
# in features and queries.
#
# `ridge_scores(features, labels, queries, classes, penalty)`: `(N, D)`, `(N,)`, `(M, D)` → scores `(M, classes)`; `penalty` is $\lambda$, as it stands
# in the formula. There may be more features than images.

# %% nbgrader={"answer": "ridge_scores"}
def ridge_scores(features, labels, queries, classes, penalty):
    """features (N, D), labels (N,), queries (M, D) -> scores (M, classes) of least squares on targets of +1 and -1."""
    ### BEGIN SOLUTION
    features, queries = features.double(), queries.double()
    mean, std = features.mean(0), features.std(0, correction=0)
    varies = std > 0
    z, q = ((x - mean)[:, varies] / std[varies] for x in (features, queries))
    y = 2 * F.one_hot(labels, classes).double() - 1
    square = z.T @ z + penalty * torch.eye(z.shape[1], dtype=torch.float64)
    return q @ torch.linalg.solve(square, z.T @ (y - y.mean(0))) + y.mean(0)
    ### END SOLUTION

# %% nbgrader={"test": "ridge_scores-1", "points": 1}
features = torch.tensor([[1.0, 4, 2], [2, 0, 9], [4, 1, 3], [6, 2, 1], [5, 5, 8], [9, 3, 4], [8, 7, 1]])
labels = torch.tensor([0, 1, 0, 2, 1, 2, 2])
queries = torch.tensor([[2.0, 3, 1], [9, 9, 2], [3, 0, 7]])
check(ridge_scores, features, labels, queries, 3, 2.0, case="3 features")

# %% nbgrader={"test": "ridge_scores-2", "points": 1}
still = torch.full((7, 1), 3.0)
check(ridge_scores, torch.cat([features, still], 1), labels, torch.cat([queries, still[:3]], 1), 3, 0.5, case="a feature that never varies")

# %% nbgrader={"test": "ridge_scores-3", "points": 1}
# Hidden: sixty images of four classes, five features.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(41)
x = torch.randn(60, 5, generator=generator) * torch.tensor([10.0, 1, 1, 0.1, 3]) + 5
y, q = torch.randint(4, (60,), generator=generator), torch.randn(9, 5, generator=generator) * 3 + 5
def stacked(x, y, q, classes, penalty):
    x, q = x.double(), q.double()
    middle, spread = x.mean(0), (x - x.mean(0)).square().mean(0).sqrt()
    rows = torch.cat([(x - middle) / spread, math.sqrt(penalty) * torch.eye(x.shape[1]).double()])
    goal = torch.where(y[:, None] == torch.arange(classes), 1.0, -1.0).double()
    goals = torch.cat([goal - goal.mean(0), torch.zeros(x.shape[1], classes).double()])
    return (q - middle) / spread @ (torch.linalg.pinv(rows) @ goals) + goal.mean(0)
same(ridge_scores(x.clone(), y.clone(), q.clone(), 4, 3.0), stacked(x, y, q, 4, 3.0), "for 60 images of 4 classes")
### END HIDDEN TESTS

# %% nbgrader={"test": "ridge_scores-4", "points": 1}
# Hidden: more features than images.
### BEGIN HIDDEN TESTS
wide, asked = torch.randn(8, 30, generator=generator), torch.randn(3, 30, generator=generator)
same(ridge_scores(wide.clone(), y[:8].clone(), asked.clone(), 4, 0.7), stacked(wide, y[:8], asked, 4, 0.7), "for 8 images, 30 features")
### END HIDDEN TESTS

# %% nbgrader={"test": "ridge_scores-5", "points": 1}
# Hidden: a class without an image, and a penalty that leaves only the bias.
### BEGIN HIDDEN TESTS
scores = ridge_scores(x.clone(), y.clone(), q.clone(), 6, 1e9)
shares = torch.tensor([float((y == c).double().mean()) for c in range(6)])
same(scores, (2 * shares - 1).expand(9, 6), "for a penalty of a billion, and two classes without an image")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. Read the figure · 3 points
#
# Two networks that we made up, frozen, by three yardsticks; grey is an untrained one. One training each; all scored on the same 1,000 images; bars are
# bootstrap intervals over images, 95 %. The dotted line in the last panel needs no network: it calls every pixel object that is brighter than a threshold.

# %%
scores = {"k-NN (%)": {"A": (71, 2.8), "B": (33, 2.9), "untrained": (34, 2.9)},
          "linear probe (%)": {"A": (84, 2.3), "B": (82, 2.4), "untrained": (55, 3.1)},
          "object or ground (mIoU, %)": {"A": (91.0, 0.5), "B": (92.4, 0.5), "untrained": (90.6, 0.5)}}
figure, axes = plt.subplots(1, 3, figsize=(9, 2.4), sharey=True, layout="constrained")
for axis, (title, rows) in zip(axes, scores.items()):
    for name, (score, half) in rows.items():
        axis.errorbar(score, name, xerr=half, marker="o", capsize=3, color="grey" if name == "untrained" else "black")
    axis.set(title=title, ylim=(2.5, -0.5))
axes[2].axvline(93.5, color="black", ls=":")
figure.suptitle("Three yardsticks, n = 1,000 images");

# %% [markdown]
# (a) By k-NN, B is worth no more than random weights. Say in a sentence how the class may lie in B's vectors, so that both k-NN and linear probe are
# right, and name a change of the vectors that uses **no labels** and would test it: what do you predict for B's k-NN? (b) "B is the best network for dense
# prediction: 92.4 against 91.0, and the intervals do not overlap." Give a reason not to write that. (c) "A's linear probe is better than B's." What can be
# computed from the results at hand to decide this for *these two networks*, and what more does a claim about the two *methods* need?
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "yardsticks", "points": 3}
# **Model answer.** (a) The class lies in directions that vary little, and others, such as brightness or size, vary much: a cosine counts
# each by how much it varies, a probe standardises and weighs for itself. Whitening (or taking the loudest directions out) uses no labels; B's k-NN
# should rise well above 33 %. (b) A rule without any network scores more, and random weights come within two points, so the yardstick is filled by
# brightness and cannot rank networks; B's lead may be nothing but brightness. (c) Whether each image was right is known for both: the
# interval of the paired difference, image by image, is narrower than two separate ones suggest (overlap alone decides nothing). For the
# methods, more trainings with other seeds (and equal effort for both), and an interval over seeds too.
#
# **Rubric.** (a) 1 point: loud and quiet directions, a change without labels, and that k-NN rises; half without the change. (b) 1 point: the threshold
# or the untrained network, with what follows for the yardstick; half if only named. (c) 1 point: paired difference, and other seeds; half for one of them.
