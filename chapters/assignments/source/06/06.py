# %% [markdown]
# # Assignment 06 · Representations
#
# Five tasks on chapter 06, from easy to hard: four numbers for what happens to tokens, and what they cannot tell.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `token_similarity`: how alike are the tokens of an image? | 3 | 10 |
# | 2 | `spectrum_gain`: what does a block do to the spectrum? | 4 | 20 |
# | 3 | `components_for`: how many directions matter? | 5 | 20 |
# | 4 | `silhouette`: do tokens keep to their image? | 5 | 30 |
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
# ## 1. How alike are the tokens of an image? · 3 points
#
# The mean cosine over all pairs of **different** tokens of the same image. 1: all tokens point one way.
#
# `token_similarity(tokens)`: `(B, P, D)` → `(B,)`. Tokens are not centred here.

# %% nbgrader={"answer": "token_similarity"}
def token_similarity(tokens):
    """tokens (B, P, D) -> the mean cosine of two different tokens of an image, (B,)."""
    ### BEGIN SOLUTION
    unit = F.normalize(tokens, dim=-1)
    cosine = unit @ unit.mT                                                    # (B, P, P)
    count = tokens.shape[1]
    return (cosine.sum((1, 2)) - count) / (count * (count - 1))
    ### END SOLUTION

# %% nbgrader={"test": "token_similarity-1", "points": 1}
tokens = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]], [[1.0, 1.0], [-1.0, 2.0], [0.5, 4.0]]])
check(token_similarity, tokens)

# %% nbgrader={"test": "token_similarity-2", "points": 1}
# Hidden: three images of six tokens.
### BEGIN HIDDEN TESTS
x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(11)) + 0.5
slow = [sum(float(torch.cosine_similarity(x[b, i], x[b, j], dim=0)) for i in range(6) for j in range(6) if i != j) / 30
        for b in range(3)]
same(token_similarity(x.clone()), torch.tensor(slow), "for 3 images of 6 tokens")
### END HIDDEN TESTS

# %% nbgrader={"test": "token_similarity-3", "points": 1}
# Hidden: equal directions, and opposite ones.
### BEGIN HIDDEN TESTS
ends = torch.tensor([[[1.0, 2.0], [2.0, 4.0]], [[1.0, 2.0], [-2.0, -4.0]]])
same(token_similarity(ends), torch.tensor([1.0, -1.0]), "for two equal directions, and for two opposite ones")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. What does a block do to the spectrum? · 4 points
#
# The singular values of the tokens of **one image**, less their mean token, say how far they spread along their own directions.
# Take natural logarithms, so that twice as large is the same step everywhere, subtract what was there before the block, and
# average over images:
#
# $$ g_i = \frac1B \sum_b \big(\log \sigma_i(\text{after}_b) - \log \sigma_i(\text{before}_b)\big), \qquad i = 1 \ldots k, $$
#
# largest first. `spectrum_gain(before, after, k)`: `(B, P, D)` twice → `(k,)`, with $k < P$ and $k \le D$.

# %% nbgrader={"answer": "spectrum_gain"}
def spectrum_gain(before, after, k):
    """before (B, P, D), after (B, P, D) -> mean gain of the k largest log singular values of centred tokens, (k,)."""
    ### BEGIN SOLUTION
    logs = [torch.linalg.svdvals(x - x.mean(1, keepdim=True))[:, :k].log() for x in (before, after)]   # (B, k) each
    return (logs[1] - logs[0]).mean(0)
    ### END SOLUTION

# %% nbgrader={"test": "spectrum_gain-1", "points": 1}
before = torch.tensor([[[3.0, 1, 0], [1, 2, 1], [0, 1, 3], [2, 0, 2]], [[1.0, 0, 0], [0, 2, 1], [4, 1, 0], [1, 1, 5]]])
after = torch.tensor([[[5.0, 1, 2], [2, 2, 1], [1, 9, 3], [2, 0, 4]], [[2.0, 0, 1], [3, 2, 1], [4, 3, 0], [1, 1, 2]]])
check(spectrum_gain, before, after, 2)

# %% nbgrader={"test": "spectrum_gain-2", "points": 1}
# Hidden: five images of seven tokens.
### BEGIN HIDDEN TESTS
a, b = torch.randn(2, 5, 7, 9, generator=torch.Generator().manual_seed(21)).double()
b = 2 * b + 3
grams = [torch.einsum("bpd,bqd->bpq", x - x.mean(1, keepdim=True), x - x.mean(1, keepdim=True)) for x in (a, b)]
logs = [torch.linalg.eigvalsh(gram).flip(1)[:, :6].log() / 2 for gram in grams]
same(spectrum_gain(a.clone(), b.clone(), 6), (logs[1] - logs[0]).mean(0), "for 5 images of 7 tokens, k = 6")
### END HIDDEN TESTS

# %% nbgrader={"test": "spectrum_gain-3", "points": 1}
# Hidden: all tokens three times as long.
### BEGIN HIDDEN TESTS
same(spectrum_gain(a.clone(), 3 * a, 4), torch.full((4,), math.log(3)), "for tokens three times as long")
### END HIDDEN TESTS

# %% nbgrader={"test": "spectrum_gain-4", "points": 1}
# Hidden: all tokens of an image moved by the same step.
### BEGIN HIDDEN TESTS
same(spectrum_gain(a.clone(), a + torch.arange(5.0)[:, None, None], 3), torch.zeros(3), "for tokens that moved together")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. How many directions matter? · 5 points
#
# The variance of centred tokens along their principal directions is the **square** of the singular values (up to a factor). How many
# directions, the largest first, have together **at least** `share` of all variance?
#
# `components_for(tokens, share)`: `(N, D)`, share above 0 and up to 1 → a whole number from 1.

# %% nbgrader={"answer": "components_for"}
def components_for(tokens, share):
    """tokens (N, D) -> the smallest number of principal directions that have at least `share` of the variance."""
    ### BEGIN SOLUTION
    variance = torch.linalg.svdvals((tokens - tokens.mean(0)).double()).square()
    reached = variance.cumsum(0) / variance.sum()
    return int((reached < share - 1e-9).sum()) + 1
    ### END SOLUTION

# %% nbgrader={"test": "components_for-1", "points": 0.5}
loud = torch.zeros(8, 5)
loud[range(0, 8, 2), range(4)] = torch.tensor([5.0, 4, 3, 2])                  # variances 25, 16, 9 and 4 of 54
loud = loud - loud.roll(1, 0) + torch.tensor([0.0, 0, 0, 0, 30])               # each step there and back, far from the origin
check(components_for, loud, 0.75, case="three quarters")

# %% nbgrader={"test": "components_for-2", "points": 0.5}
check(components_for, loud, 0.99, case="nearly all")

# %% nbgrader={"test": "components_for-3", "points": 0.5}
check(components_for, loud, 0.1, case="a tenth")

# %% nbgrader={"test": "components_for-4", "points": 0.5}
steps = torch.diag(torch.tensor([10.0, 1, 1, 1, 1]))
check(components_for, torch.cat([steps, -steps]), 100 / 104, case="exactly the first")

# %% nbgrader={"test": "components_for-5", "points": 1}
# Hidden: sixty tokens in twelve dimensions, several shares.
### BEGIN HIDDEN TESTS
x = torch.randn(60, 12, generator=torch.Generator().manual_seed(31)).double() * torch.linspace(4, 0.2, 12) + 7
values = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)
for share in (0.3, 0.5, 0.9, 0.99):
    expected = next(n for n in range(1, 13) if values[:n].sum() >= share * values.sum())
    same(components_for(x.clone(), share), expected, f"for 60 tokens in 12 dimensions and a share of {share}")
### END HIDDEN TESTS

# %% nbgrader={"test": "components_for-6", "points": 1}
# Hidden: more dimensions than tokens.
### BEGIN HIDDEN TESTS
few = torch.eye(5, 40)
same(components_for(few, 0.99), 4, "for 5 tokens in 40 dimensions, all alike")
### END HIDDEN TESTS

# %% nbgrader={"test": "components_for-7", "points": 1}
# Hidden: a single direction.
### BEGIN HIDDEN TESTS
line = torch.arange(6.0)[:, None] * torch.tensor([[1.0, 2, 3]])
same(components_for(line, 0.2), 1, "for tokens on a line")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Do tokens keep to their image? · 5 points
#
# The *silhouette* of a token compares two mean (Euclidean) distances: $a$, to the **other** tokens of its own image, and $b$, to the
# tokens of the **nearest other image**, the one for which this mean is smallest.
#
# $$ s = \frac{b - a}{\max(a, b)} $$
#
# 1: images lie far apart; 0: they overlap; below 0: a token is nearer to another image. `silhouette(tokens, images)`: tokens `(N, D)`, images
# `(N,)` whole numbers that say whose each token is, in any order → the mean of $s$ over tokens. Every image has at least two tokens, and
# there are at least two images.

# %% nbgrader={"answer": "silhouette"}
def silhouette(tokens, images):
    """tokens (N, D), images (N,) whole numbers -> the mean silhouette, from -1 to 1."""
    ### BEGIN SOLUTION
    member = F.one_hot(images.unique(return_inverse=True)[1]).double()         # (N, K)
    between = torch.cdist(tokens.double(), tokens.double())                    # (N, N)
    own, total = member.bool(), between @ member                               # (N, K), sums of distances to each image
    a = total[own] / (member.sum(0)[None] - 1).expand_as(total)[own]
    b = (total / member.sum(0)).masked_fill(own, torch.inf).min(1).values
    return ((b - a) / torch.maximum(a, b)).mean()
    ### END SOLUTION

# %% nbgrader={"test": "silhouette-1", "points": 1}
tokens = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [4.0, 0.0], [5.0, 1.0], [0.0, 7.0], [3.0, 6.0], [1.0, 5.0]])
images = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
check(silhouette, tokens, images)

# %% nbgrader={"test": "silhouette-2", "points": 1}
check(silhouette, tokens[[0, 3, 1, 4, 5]], torch.tensor([0, 1, 1, 0, 1]), case="two images, mixed up")

# %% nbgrader={"test": "silhouette-3", "points": 1}
# Hidden: four images of different sizes, in any order.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(41)
whose = torch.tensor([0] * 5 + [1] * 2 + [2] * 7 + [3] * 3)[torch.randperm(17, generator=generator)]
x = torch.randn(17, 6, generator=generator) + 1.5 * torch.randn(4, 6, generator=generator)[whose]
def mean_distance(i, others):
    return sum(float((x[i] - x[j]).norm()) for j in others) / len(others)
slow = 0.0
for i in range(17):
    a = mean_distance(i, [j for j in range(17) if whose[j] == whose[i] and j != i])
    b = min(mean_distance(i, [j for j in range(17) if whose[j] == k]) for k in range(4) if k != whose[i])
    slow += (b - a) / max(a, b) / 17
same(silhouette(x.clone(), whose.clone()), slow, "for 17 tokens of 4 images")
### END HIDDEN TESTS

# %% nbgrader={"test": "silhouette-4", "points": 1}
# Hidden: images that lie far apart.
### BEGIN HIDDEN TESTS
apart = torch.tensor([[0.0], [0.0], [9.0], [9.0]])
same(silhouette(apart, torch.tensor([0, 0, 1, 1])), 1.0, "for two images, each in one point")
### END HIDDEN TESTS

# %% nbgrader={"test": "silhouette-5", "points": 1}
# Hidden: numbers of images that do not begin at 0.
### BEGIN HIDDEN TESTS
names = torch.tensor([0, 0, 1, 1, 1])
points = torch.tensor([[0.0], [2.0], [3.0], [4.0], [6.0]])
same(silhouette(points, names * 5 + 3), silhouette(points, names), "when the images are called 3 and 8")
expected = torch.tensor([(13 / 3 - 2) / (13 / 3), (7 / 3 - 2) / (7 / 3), (2 - 2) / 2, (3 - 1.5) / 3, (5 - 2.5) / 5]).mean()
same(silhouette(points, names * 5 + 3), expected, "for five tokens on a line")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. What can these numbers not tell? · 3 points
#
# A block adds the **same** long step to all tokens of an image, and another one for each image. (a) What happens to the token similarity (task
# 1), to the spectrum gain (task 2) and to the silhouette (task 4): up, down, or nothing? Say why for each. (b) A colleague shows a t-SNE picture
# in which the images of network A lie farther apart than those of network B, and concludes that A separates images better. What is wrong, and
# what would you measure? (c) An untrained network has a high token similarity in its last block. Why does that matter to a claim about
# a trained one?
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "limits", "points": 3}
# **Model answer.** (a) The similarity goes up: a long common part points all tokens of an image the same way. The spectrum gain is 0, because the
# mean token is taken out first. The silhouette goes up: distances within an image stay as they are, those between images grow (for steps that
# are long compared with the spread, and different). (b) t-SNE keeps neighbours, not distances: gaps and sizes of groups in the picture depend on
# perplexity, start and number of steps. Measure in the original space: silhouette or purity of neighbours, with an interval, for both.
# (c) It is the control: what an untrained network does too was not learned. Compare with the untrained network, and report the difference.
#
# **Rubric.** (a) 1 point: all three with reasons; half for two. (b) 1 point: distances in t-SNE mean nothing, and a measure in the original
# space; half for one. (c) 1 point: that a control is needed, with a reason.
