# %% [markdown]
# # Assignment 09 · Do ViTs see like CNNs?
#
# Five tasks on chapter 09, from easy to hard: CKA from its parts, and maps of it to read.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `centred`: take the mean off when the features are gone | 3 | 10 |
# | 2 | `u_centred`: the matrix behind the unbiased HSIC | 4 | 15 |
# | 3 | `minibatch_cka`: add up first, divide last | 5 | 25 |
# | 4 | `place_map`: which patch does a token stand for? | 5 | 25 |
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
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. Take the mean off when the features are gone · 3 points
#
# Somebody kept the Gram matrix $K = XX^\top$ of $n$ images, forgot to take the mean over images off the features $X$, and threw $X$ away.
# Nothing is lost: the same is done on $K$ itself, which is symmetric.
#
# $$ K^c_{ij} = K_{ij} - \frac1n \sum_a K_{aj} - \frac1n \sum_b K_{ib} + \frac1{n^2} \sum_{a,b} K_{ab} $$
#
# `centred(k)`: `(n, n)` → `(n, n)`.

# %% nbgrader={"answer": "centred"}
def centred(k):
    """k (n, n), products of features as they are -> products of features less their mean over images, (n, n)."""
    ### BEGIN SOLUTION
    return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
    ### END SOLUTION

# %% nbgrader={"test": "centred-1", "points": 1}
x = torch.tensor([[2.0, 1, 0], [3, -1, 1], [0, 2, 5], [1, 4, 1]])
check(centred, x @ x.T)

# %% nbgrader={"test": "centred-2", "points": 1}
# Hidden: nine images of forty features.
### BEGIN HIDDEN TESTS
x = torch.randn(9, 40, generator=torch.Generator().manual_seed(11)).double() + torch.linspace(-1, 2, 40)
same(centred(x @ x.T), torch.einsum("if,jf->ij", x - x.mean(0), x - x.mean(0)), "for 9 images of 40 features")
### END HIDDEN TESTS

# %% nbgrader={"test": "centred-3", "points": 1}
# Hidden: what is centred stays as it is, and images that are all alike leave nothing.
### BEGIN HIDDEN TESTS
x = x - x.mean(0)
same(centred(x @ x.T), x @ x.T, "for a matrix that is centred already")
same(centred(torch.full((5, 5), 3.0)), torch.zeros(5, 5), "for five images that are all alike")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. The matrix behind the unbiased HSIC · 4 points
#
# How alike an image is to itself says nothing about two networks, and yet it is what makes wide layers look alike. So set the
# diagonal to 0 first: that is $\tilde K$. Its sums are then divided by other numbers than above, and the diagonal of the result is 0 again:
#
# $$ \bar K_{ij} = \tilde K_{ij} - \frac{1}{n-2} \sum_a \tilde K_{aj} - \frac{1}{n-2} \sum_b \tilde K_{ib}
# + \frac{1}{(n-1)(n-2)} \sum_{a,b} \tilde K_{ab} \quad (i \ne j), \qquad \bar K_{ii} = 0 . $$
#
# The unbiased HSIC of chapter 09 is then the sum of the products of two such matrices, entry by entry, divided by $n(n-3)$.
#
# `u_centred(k)`: `(n, n)`, symmetric, with $n$ from 4 → $\bar K$, `(n, n)`. Do not write into `k`.

# %% nbgrader={"answer": "u_centred"}
def u_centred(k):
    """k (n, n), symmetric -> the matrix whose products with another such sum to n (n - 3) times the unbiased HSIC, (n, n)."""
    ### BEGIN SOLUTION
    n, off = len(k), 1 - torch.eye(len(k), dtype=k.dtype)
    k = k * off
    return off * (k - k.sum(0) / (n - 2) - k.sum(1, keepdim=True) / (n - 2) + k.sum() / ((n - 1) * (n - 2)))
    ### END SOLUTION

# %% nbgrader={"test": "u_centred-1", "points": 1}
k = torch.tensor([[4.0, 1, 0, 2, 3], [1, 9, 2, 5, 1], [0, 2, 3, 1, 4], [2, 5, 1, 6, 0], [3, 1, 4, 0, 7]])
check(u_centred, k)

# %% nbgrader={"test": "u_centred-2", "points": 1}
# Hidden: each row sums to 0, and so does the diagonal.
### BEGIN HIDDEN TESTS
x = torch.randn(12, 3, generator=torch.Generator().manual_seed(21)).double()
got = u_centred(x @ x.T)
same(got.sum(1), torch.zeros(12), "the sums of the rows, for 12 images")
same(got.diagonal(), torch.zeros(12), "the diagonal, for 12 images")
### END HIDDEN TESTS

# %% nbgrader={"test": "u_centred-3", "points": 1}
# Hidden: the HSIC of six numbers and their squares, worked out by hand.
### BEGIN HIDDEN TESTS
line = torch.arange(1.0, 7.0).double()[:, None]
first, second = u_centred(line @ line.T), u_centred(line**2 @ (line**2).T)
same((first * first).sum() / 18, 10.5, "the HSIC of 1 to 6 with themselves")
same((first * second).sum() / 18, 504.27778, "the HSIC of 1 to 6 with their squares")
### END HIDDEN TESTS

# %% nbgrader={"test": "u_centred-4", "points": 1}
# Hidden: the smallest matrix there is, and a diagonal that does not matter.
### BEGIN HIDDEN TESTS
small = torch.tensor([[0.0, 1, 2, 5], [1, 0, 3, 1], [2, 3, 0, 1], [5, 1, 1, 0]])
expected = torch.tensor([[0.0, -7 / 6, -2 / 3, 11 / 6], [-7 / 6, 0, 11 / 6, -2 / 3],
                         [-2 / 3, 11 / 6, 0, -7 / 6], [11 / 6, -2 / 3, -7 / 6, 0]])
same(u_centred(small.clone()), expected, "for 4 images")
same(u_centred(small + torch.diag(torch.tensor([9.0, -2, 4, 100]))), expected, "for 4 images and another diagonal")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Add up first, divide last · 5 points
#
# A million images make a Gram matrix that fits nowhere. So CKA adds up the HSIC of **minibatches**, and divides once, at the end:
#
# $$ \mathrm{CKA} = \frac{\sum_i \mathrm{HSIC}(K_i, L_i)}{\sqrt{\sum_i \mathrm{HSIC}(K_i, K_i)\; \sum_i \mathrm{HSIC}(L_i, L_i)}} $$
#
# The HSIC is given, as the sum of chapter 09:

# %%
def hsic(k, l):
    """Two Gram matrices (n, n), n from 4 -> the unbiased HSIC, a number that may fall below 0."""
    n = len(k)
    k, l = k - k.diag().diag(), l - l.diag().diag()
    ends = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2))
    return (ends - 2 * (k.sum(0) * l.sum(0)).sum() / (n - 2)) / (n * (n - 3))

# %% [markdown]
# Two things go wrong in practice. The last minibatch may be too small: one of **fewer than 4** images has no unbiased HSIC, so leave it out.
# And features may lie far from the origin, say at 1000 with a spread of 1, in 32 bits: their products then have no digits left
# for the differences. Taking the mean over the images of the minibatch off **first** changes nothing else.
#
# `minibatch_cka(first, second)`: two lists of features, one entry for each minibatch, `(n_i, p)` and `(n_i, q)` of the same images → a number,
# not clamped.

# %% nbgrader={"answer": "minibatch_cka"}
def minibatch_cka(first, second):
    """first [(n_i, p), ...], second [(n_i, q), ...], the same images in both -> unbiased CKA, sums over minibatches."""
    ### BEGIN SOLUTION
    both = own = other = 0.0
    for x, y in zip(first, second):
        if len(x) > 3:
            x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
            k, l = x @ x.T, y @ y.T
            both, own, other = both + hsic(k, l), own + hsic(k, k), other + hsic(l, l)
    return both / (own * other) ** 0.5
    ### END SOLUTION

# %% nbgrader={"test": "minibatch_cka-1", "points": 1}
generator = torch.Generator().manual_seed(31)
x = torch.randn(16, 4, generator=generator)
y = 2 * x[:, :3] + torch.randn(16, 3, generator=generator)
x[:5] *= 3
check(minibatch_cka, [x[:5], x[5:9], x[9:]], [y[:5], y[5:9], y[9:]], case="minibatches of 5, 4 and 7")

# %% nbgrader={"test": "minibatch_cka-2", "points": 1}
check(minibatch_cka, [x[:6], x[6:13], x[13:]], [y[:6], y[6:13], y[13:]], case="minibatches of 6, 7 and 3")

# %% nbgrader={"test": "minibatch_cka-3", "points": 1}
# Hidden: a hundred images in four minibatches.
### BEGIN HIDDEN TESTS
def slow_hsic(k, l):
    n = len(k)
    off = 1 - torch.eye(n, dtype=torch.float64)
    k, l, ones = k * off, l * off, torch.ones(n, dtype=torch.float64)
    total = torch.trace(k @ l) + (ones @ k @ ones) * (ones @ l @ ones) / (n - 1) / (n - 2) - 2 / (n - 2) * ones @ k @ l @ ones
    return total / n / (n - 3)
def slow_cka(first, second):
    grams = [[(x.double() - x.double().mean(0)) for x in side] for side in (first, second)]
    grams = [[x @ x.T for x in side] for side in grams]
    sums = [sum(slow_hsic(k, l) for k, l in zip(grams[a], grams[b])) for a, b in ((0, 1), (0, 0), (1, 1))]
    return sums[0] / (sums[1] * sums[2]) ** 0.5
many = torch.randn(100, 12, generator=torch.Generator().manual_seed(32))
noisy = (many[:, :8] * torch.linspace(0.2, 3, 8) + torch.randn(100, 8, generator=torch.Generator().manual_seed(33))).relu()
same(minibatch_cka(list(many.split(25)), list(noisy.split(25))), slow_cka(many.split(25), noisy.split(25)),
     "for 100 images in 4 minibatches")
### END HIDDEN TESTS

# %% nbgrader={"test": "minibatch_cka-4", "points": 1}
# Hidden: layers that have less in common than chance.
### BEGIN HIDDEN TESTS
corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
same(minibatch_cka([corners[:, :1]], [corners[:, 1:]]), -0.5, "for four images that two layers part in two, each its own way")
### END HIDDEN TESTS

# %% nbgrader={"test": "minibatch_cka-5", "points": 1}
# Hidden: features in 32 bits, far from the origin.
### BEGIN HIDDEN TESTS
same(minibatch_cka([many[:50] + 2000, many[50:] + 2000], [noisy[:50] - 3000, noisy[50:] - 3000]),
     slow_cka([many[:50], many[50:]], [noisy[:50], noisy[50:]]), "for features far from the origin", tolerance=2e-3)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Which patch does a token stand for? · 5 points
#
# Does a token still stand for its place? Take **one** token over $n$ images, and the pixels of **one** patch of the same images: their
# CKA says how much of this token is what that patch shows. All patches together make a map. The CKA of two sets of features is given:

# %%
def cka(x, y):
    """Features of the same n images, (n, p) and (n, q) -> unbiased CKA, in one minibatch."""
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    k, l = x @ x.T, y @ y.T
    return hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()

# %% [markdown]
# `place_map(token, images, patch)`: one token `(n, D)`, images `(n, C, H, W)`, and the side of a patch in pixels, which divides H and W →
# `(H // patch, W // patch)`: at row $r$ and column $c$ the CKA of the token with all pixels, of all channels, of the patch there. Row 0 is the
# top, column 0 the left.

# %% nbgrader={"answer": "place_map"}
def place_map(token, images, patch):
    """token (n, D), images (n, C, H, W), patch: side in pixels -> CKA of the token with each patch, (H // patch, W // patch)."""
    ### BEGIN SOLUTION
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    here = [[images[:, :, r * patch:(r + 1) * patch, c * patch:(c + 1) * patch] for c in range(columns)] for r in range(rows)]
    return torch.stack([torch.stack([cka(token, pixels.flatten(1)) for pixels in row]) for row in here])
    ### END SOLUTION

# %% nbgrader={"test": "place_map-1", "points": 1}
generator = torch.Generator().manual_seed(41)
images = torch.rand(8, 2, 4, 6, generator=generator)
images[:, :, :2] *= 2                                                          # the upper half has more contrast
token = images[:, :, 2:4, 4:6].flatten(1)[:, [0, 3, 5]] + 0.2 * torch.rand(8, 3, generator=generator)
check(place_map, token, images, 2, case="2 × 3 patches")

# %% nbgrader={"test": "place_map-2", "points": 1}
check(place_map, token, images[:, :, :, :3], 1, case="4 × 3 patches of one pixel")

# %% nbgrader={"test": "place_map-3", "points": 1}
# Hidden: a token that is a patch: 1 at its place.
### BEGIN HIDDEN TESTS
pictures = torch.rand(20, 3, 12, 20, generator=torch.Generator().manual_seed(42))
known = pictures[:, :, 4:8, 12:16].flatten(1)
got = place_map(known.clone(), pictures.clone(), 4)
same(got[1, 3], 1.0, "at row 1, column 3, for the token that holds that patch")
same(torch.tensor(got.shape), torch.tensor([3, 5]), "the shape of the map, for images of 12 × 20 and patches of 4")
### END HIDDEN TESTS

# %% nbgrader={"test": "place_map-4", "points": 1}
# Hidden: thirty images in colour, a token that mixes two places.
### BEGIN HIDDEN TESTS
pictures = torch.rand(30, 3, 9, 12, generator=torch.Generator().manual_seed(43))
mixed = torch.cat([pictures[:, 0, :3, 3], 2 * pictures[:, 1, 6:, 10], torch.ones(30, 2)], dim=1)
blocks = pictures.reshape(30, 3, 3, 3, 4, 3)                                   # image, channel, row, pixel, column, pixel
slow = torch.tensor([[float(cka(mixed, blocks[:, :, r, :, c].reshape(30, -1))) for c in range(4)] for r in range(3)])
same(place_map(mixed.clone(), pictures.clone(), 3), slow, "for 30 images of 9 × 12 and patches of 3")
### END HIDDEN TESTS

# %% nbgrader={"test": "place_map-5", "points": 1}
# Hidden: one patch that is the whole image, and grey images.
### BEGIN HIDDEN TESTS
grey = torch.rand(10, 1, 5, 5, generator=torch.Generator().manual_seed(44))
same(place_map(grey.flatten(1)[:, :7], grey.clone(), 5), cka(grey.flatten(1)[:, :7], grey.flatten(1))[None, None],
     "for one patch that is the whole image")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. Read the maps · 3 points
#
# Three networks of 14 blocks with **random** weights that we made up, seen by the unbiased CKA of every two blocks. In a block with a skip
# connection a small step is added to what came in; in a block without, the step replaces it. One of the networks has all its skips, one
# lacks those of a single block, one has none.

# %%
def blocks_of(skips, generator):
    """skips: 14 times True or False -> features after each block, for 48 images of 64 numbers."""
    x, found = torch.randn(48, 64, generator=generator), []
    for skip in skips:
        step = torch.sin(1.3 * x @ torch.randn(64, 64, generator=generator) / 8)
        x = x + 0.25 * step / step.std() * x.std() if skip else step / step.std()
        found.append(x)
    return found

# %%
kinds = {"A": [False] * 14, "B": [True] * 14, "C": [block != 9 for block in range(1, 15)]}
figure, axes = plt.subplots(1, 3, figsize=(8, 2.8), sharey=True)
for axis, (name, skips) in zip(axes, kinds.items()):
    found = blocks_of(skips, torch.Generator().manual_seed(5))
    values = [[float(cka(x, y)) for y in found] for x in found]
    drawn = axis.imshow(values, vmin=0, vmax=1, cmap="viridis", origin="lower", extent=(0.5, 14.5, 0.5, 14.5))
    axis.set(title=f"network {name}", xlabel="block", xticks=(1, 4, 7, 10, 13), yticks=(1, 4, 7, 10, 13))
axes[0].set_ylabel("block")
figure.colorbar(drawn, ax=list(axes), label="CKA (n = 48)");

# %% [markdown]
# (a) Which network is which, and how can you tell from its map? (The code says so too; what counts is how you tell.) (b) Somebody
# shows a map like that of B for a trained ViT and one like that of A for a trained CNN, and writes: "training makes ViTs uniform". What do
# the maps above say to that, and which two maps would you ask for? (c) Which of these changes to **one** of two layers leave their CKA as
# it is: all features times 3; another factor for each feature; a rotation of the features; the same step added to all images; the images in
# another order? Why do the learned gains of a LayerNorm matter here?
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "heat", "points": 3}
# **Model answer.** (a) B has all its skips: bright nearly everywhere, as each block changes little of what came in. C lacks those of block 9: two bright
# squares, blocks 1 to 8 and 9 to 14, and darkness between them, because what block 9 puts out has little to do with what came in. A has
# none: bright along the diagonal alone, and darker with every block between. (b) All three have random weights, so skips alone make the contrast,
# without any training. Ask for both networks untrained, and compare how much training changed; best with an interval over minibatches or seeds.
# (c) A common factor, a rotation and a common step leave it. Another factor for each feature changes it (features with a large factor decide the
# Gram matrix), and another order of images destroys it. A learned gain is another factor for each feature: two LayerNorms that read the same
# stream may look unlike for their gains alone.
#
# **Rubric.** (a) 1 point: all three with what is seen, and block 9; half without the block or the reasons. (b) 1 point: random weights show it too, and
# untrained controls of both; half for one. (c) 1 point: all five right and the gains; half for four, or without the gains.
