# %% [markdown]
# # Assignment 11 · The hybrid
#
# Five tasks on chapter 11, from easy to hard: a λ that moves, a λ that is chosen fairly, the loss itself, and who pulls where.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `weight_at`: a λ that moves during training | 3 | 10 |
# | 2 | `choose_weight`: the best λ, without luck | 4 | 20 |
# | 3 | `hybrid_loss`: both halves, and either alone | 5 | 25 |
# | 4 | `block_cosines`: in which blocks do the objectives disagree? | 5 | 20 |
# | 5 | an open question | 3 | 15 |
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
# ## 1. A λ that moves during training · 3 points
#
# One could begin with masked modelling and end with contrastive learning. Steps count from 0. In the first `hold` steps λ is `first`, in the
# last `hold` steps it is `last`, and from the last of the former to the first of the latter it goes in a straight line. For 8 steps,
# `hold` = 2, from 0 to 1: step 1 is the last at 0 and step 6 the first at 1, so step 2 has ⅕, step 3 has ⅖, and so on.
#
# `weight_at(step, steps, first, last, hold)` → a number. `hold` is at least 1, and 2 · `hold` is at most `steps`.

# %% nbgrader={"answer": "weight_at"}
def weight_at(step, steps, first, last, hold):
    """λ in step 0 .. steps - 1: `first` for `hold` steps, a straight line, `last` for `hold` steps."""
    ### BEGIN SOLUTION
    progress = (step - (hold - 1)) / (steps - hold - (hold - 1))
    return first + (last - first) * min(max(progress, 0.0), 1.0)
    ### END SOLUTION

# %% nbgrader={"test": "weight_at-1", "points": 1}
check(weight_at, 7, 13, 0.1, 0.8, 3, case="step 7 of 13")
check(weight_at, 1, 13, 0.1, 0.8, 3, case="one of the first steps")
check(weight_at, 11, 13, 0.1, 0.8, 3, case="one of the last steps")

# %% nbgrader={"test": "weight_at-2", "points": 1}
# Hidden: a long training, all its steps.
### BEGIN HIDDEN TESTS
steps, slope = [], 0.5 / 61
for step in range(100):
    steps.append(0.2 if step < 20 else 0.7 if step >= 80 else 0.2 + slope * (step - 19))
same([weight_at(step, 100, 0.2, 0.7, 20) for step in range(100)], steps, "for 100 steps, 20 held, from 0.2 to 0.7")
### END HIDDEN TESTS

# %% nbgrader={"test": "weight_at-3", "points": 1}
# Hidden: a λ that falls, one step held, and no step between.
### BEGIN HIDDEN TESTS
same([weight_at(step, 5, 1.0, 0.0, 1) for step in range(5)], [1.0, 0.75, 0.5, 0.25, 0.0], "for 5 steps, 1 held, from 1 to 0")
same([weight_at(step, 4, 0.0, 0.4, 2) for step in range(4)], [0.0, 0.0, 0.4, 0.4], "for 4 steps, 2 held, from 0 to 0.4")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. The best λ, without luck · 4 points
#
# Who looks for the best λ on the images that score it favours the hybrid: the best of many looks good by luck alone. Do it
# fairly, with one network for each λ. The first network (λ = 0) and the last (λ = 1) are the parents.
#
# On images 0, 2, 4, … **choose**: of the networks between the parents, the one that is right most often; and of the two parents, the better one.
# On images 1, 3, 5, … **measure**: for each image take 1 if the chosen network is right, else 0, less the same for the chosen parent. The lead is the mean
# $\bar d$ of these $n$ differences, and its 95 % interval is $\bar d \pm 1.96\, s / \sqrt n$, with $s$ their standard deviation (divided by $n - 1$).
#
# `choose_weight(weights, right)`: λ of the networks, in order, `(K,)`; which images they name right, `(K, Q)` bool → three numbers: the chosen
# λ, the lead, and the half width $1.96\, s / \sqrt n$. There are no ties.

# %% nbgrader={"answer": "choose_weight"}
def choose_weight(weights, right):
    """weights (K,), right (K, Q) bool, parents first and last -> λ chosen on even images; lead and half width on odd ones."""
    ### BEGIN SOLUTION
    count, odd = right[:, ::2].sum(1), right[:, 1::2].double()
    chosen = 1 + int(count[1:-1].argmax())
    parent = 0 if count[0] > count[-1] else -1
    difference = odd[chosen] - odd[parent]
    return weights[chosen], difference.mean(), 1.96 * difference.std() / len(difference) ** 0.5
    ### END SOLUTION

# %% nbgrader={"test": "choose_weight-1", "points": 1}
weights = torch.tensor([0.0, 0.1, 0.2, 0.4, 0.6, 1.0])
chances = torch.tensor([0.45, 0.5, 0.6, 0.58, 0.55, 0.5])
right = torch.rand(6, 61, generator=torch.Generator().manual_seed(276)) < chances[:, None]
check(choose_weight, weights, right, case="six networks, 61 images")

# %% nbgrader={"test": "choose_weight-2", "points": 1}
# Hidden: the λ alone, also where a parent is the best of all.
### BEGIN HIDDEN TESTS
lots = torch.rand(5, 400, generator=torch.Generator().manual_seed(22)) < torch.tensor([0.9, 0.3, 0.4, 0.6, 0.2])[:, None]
grid = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
same(choose_weight(grid.clone(), lots.clone())[0], 0.75, "the λ, where λ = 0 is better than all between")
same(choose_weight(grid.clone(), lots[[0, 3, 1, 2, 4]])[0], 0.25, "the λ, where λ = 0.25 is the best between")
### END HIDDEN TESTS

# %% nbgrader={"test": "choose_weight-3", "points": 1}
# Hidden: the lead alone, over the one parent and over the other.
### BEGIN HIDDEN TESTS
rows = lots.tolist()
for order, best, other in (((0, 1, 2, 3, 4), 3, 0), ((4, 1, 2, 3, 0), 3, 0), ((1, 4, 2, 3, 0), 3, 0)):
    slow = sum(rows[best][q] - rows[other][q] for q in range(1, 400, 2)) / 200
    same(choose_weight(grid.clone(), lots[list(order)])[1], slow, "the lead over the better parent, for 400 images")
halves = torch.tensor([[1, 0, 1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1, 0, 1]]).bool()
same(choose_weight(grid[::2], halves)[1], 0.5, "the lead, where one parent is better on even images and the other on odd ones")
### END HIDDEN TESTS

# %% nbgrader={"test": "choose_weight-4", "points": 1}
# Hidden: the interval alone.
### BEGIN HIDDEN TESTS
each = [rows[3][q] - rows[0][q] for q in range(1, 400, 2)]
mean = sum(each) / 200
same(choose_weight(grid.clone(), lots.clone())[2], 1.96 * math.sqrt(sum((d - mean) ** 2 for d in each) / 199 / 200),
     "the half width, for 400 images")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Both halves, and either alone · 5 points
#
# Write the loss from what comes out of the network, $\mathcal L = (1 - \lambda)\, \mathcal L_\text{MIM} + \lambda\, \mathcal L_\text{CL}$:
#
# - $\mathcal L_\text{MIM}$ is SimMIM's: the mean of $|\text{predicted} - \text{target}|$ over all pixels of all **masked** patches of the minibatch, taken together
#   (some images may have more masked patches than others);
# - $\mathcal L_\text{CL}$ is half of MoCo v3's: queries and keys are normalised to length 1, the logits of query $i$ are its products with all keys
#   divided by the temperature $\tau$, its own key has the same number $i$, and the mean cross-entropy over queries is multiplied by $2\tau$.
#
# At λ = 0 and λ = 1 one half is not computed at all: what it needs is then `None`.
#
# `hybrid_loss(predicted, target, mask, queries, keys, weight, temperature)` → a number. `predicted` and `target` are `(B, N, P)`, $P$ numbers a patch, `mask` is
# `(B, N)` bool, True is masked; `queries` and `keys` are `(M, D)`; `weight` is λ.

# %% nbgrader={"answer": "hybrid_loss"}
def hybrid_loss(predicted, target, mask, queries, keys, weight, temperature):
    """predicted, target (B, N, P), mask (B, N) bool, queries, keys (M, D) -> (1 - weight) MIM + weight CL; None if without weight."""
    ### BEGIN SOLUTION
    loss = 0.0
    if weight < 1:
        loss = loss + (1 - weight) * (predicted - target)[mask].abs().mean()
    if weight > 0:
        logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
        loss = loss + weight * 2 * temperature * F.cross_entropy(logits, torch.arange(len(logits)))
    return loss
    ### END SOLUTION

# %% nbgrader={"test": "hybrid_loss-1", "points": 1}
generator = torch.Generator().manual_seed(31)
predicted, target = torch.randn(2, 2, 5, 3, generator=generator)
mask = torch.tensor([[True, True, False, True, False], [False, False, True, False, False]])
queries = torch.randn(4, 3, generator=generator)
keys = queries + torch.randn(4, 3, generator=generator)
check(hybrid_loss, predicted, target, mask, queries, keys, 0.3, 0.4, case="λ = 0.3")

# %% nbgrader={"test": "hybrid_loss-2", "points": 1}
check(hybrid_loss, predicted, target, mask, None, None, 0.0, 0.4, case="λ = 0, no queries")
check(hybrid_loss, None, None, None, queries, keys, 1.0, 0.4, case="λ = 1, no pixels")

# %% nbgrader={"test": "hybrid_loss-3", "points": 1}
# Hidden: the masked half alone, six images of nine patches.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(32)
guess, truth = torch.randn(2, 6, 9, 4, generator=generator)
hide = torch.rand(6, 9, generator=generator) < torch.linspace(0.2, 0.9, 6)[:, None]
errors = [abs(float(guess[b, n, p] - truth[b, n, p])) for b in range(6) for n in range(9) for p in range(4) if hide[b, n]]
masked_alone = sum(errors) / len(errors)
same(hybrid_loss(guess.clone(), truth.clone(), hide.clone(), None, None, 0.0, 0.2), masked_alone, "for λ = 0 and 6 images")
### END HIDDEN TESTS

# %% nbgrader={"test": "hybrid_loss-4", "points": 1}
# Hidden: the contrastive half alone, ten queries.
### BEGIN HIDDEN TESTS
ask, known = torch.randn(2, 10, 7, generator=torch.Generator().manual_seed(33)).double()
known = known + ask
contrastive_alone = 0.0
for i in range(10):
    likes = [float(torch.cosine_similarity(ask[i], k, dim=0)) / 0.2 for k in known]
    contrastive_alone += 2 * 0.2 * (math.log(sum(math.exp(v) for v in likes)) - likes[i]) / 10
same(hybrid_loss(None, None, None, ask.clone(), known.clone(), 1.0, 0.2), contrastive_alone, "for λ = 1 and 10 queries")
### END HIDDEN TESTS

# %% nbgrader={"test": "hybrid_loss-5", "points": 1}
# Hidden: both halves together, at three λ.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(34)
guess, truth = torch.randn(2, 3, 8, 2, generator=generator)
hide = torch.arange(24).reshape(3, 8) % 3 == 0
ask, known = torch.randn(2, 6, 5, generator=generator)
least = hybrid_loss(guess.clone(), truth.clone(), hide.clone(), None, None, 0.0, 0.5)
most = hybrid_loss(None, None, None, ask.clone(), known.clone(), 1.0, 0.5)
expected_least = float((guess - truth).abs().mul(hide[..., None]).sum() / (hide.sum() * 2))
for part in (0.1, 0.5, 0.8):
    got = hybrid_loss(guess.clone(), truth.clone(), hide.clone(), ask.clone(), known.clone(), part, 0.5)
    same(got, least + part * (most - least), f"for λ = {part}, between your own λ = 0 and λ = 1")
same(least, expected_least, "for λ = 0 and 3 images")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. In which blocks do the objectives disagree? · 5 points
#
# One cosine for the whole network hides that the two objectives may help each other in early blocks and disagree in late ones. Take one for
# each block, with all its gradients as **one** long vector.
#
# `block_cosines(first, second, blocks)`: two dictionaries from the name of a parameter to its gradient, of the one loss and of the other, and the
# number of blocks → `(blocks,)`, for block 0 first.
#
# - Names are those of `timm`: `blocks.0.attn.qkv.weight`, …, `blocks.11.mlp.fc2.bias`. Those that do not begin with `blocks.` belong to no
#   block, and are left out.
# - Both dictionaries have the same names, perhaps in another order. A gradient that is `None` was not reached by its loss: it counts as zeros.
# - Where all of a block's gradients of one loss are zero, there is no angle: the answer is 0.

# %% nbgrader={"answer": "block_cosines"}
def block_cosines(first, second, blocks):
    """first, second: {name: gradient or None} with the same names -> cosine of the two gradients in each block, (blocks,)."""
    ### BEGIN SOLUTION
    found = torch.zeros(blocks)
    for block in range(blocks):
        product = own = other = 0.0
        for name in first:
            if name.startswith(f"blocks.{block}."):
                a, b = first[name], second[name]
                product += float((a * b).sum()) if a is not None and b is not None else 0.0
                own += float(a.square().sum()) if a is not None else 0.0
                other += float(b.square().sum()) if b is not None else 0.0
        if own > 0 and other > 0:
            found[block] = product / (own * other) ** 0.5
    return found
    ### END SOLUTION

# %% nbgrader={"test": "block_cosines-1", "points": 1}
def gradients(blocks, seed):
    """A gradient for each of a few parameters, of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"attn.qkv.weight": (4, 3), "attn.qkv.bias": (4,), "mlp.fc1.weight": (2, 3)}
    found = {"cls_token": torch.randn(1, 1, 3, generator=generator)}
    for block in range(blocks):
        for size, (name, shape) in zip((1.0, 0.1, 3.0), shapes.items()):
            found[f"blocks.{block}.{name}"] = size * (0.5 + torch.randn(shape, generator=generator))
    return found | {"norm.weight": torch.randn(3, generator=generator)}

first, second = gradients(3, seed=41), gradients(3, seed=42)
check(block_cosines, first, second, 3, case="3 blocks")

# %% nbgrader={"test": "block_cosines-2", "points": 1}
check(block_cosines, gradients(12, seed=43), gradients(12, seed=44), 12, case="12 blocks")
check(block_cosines, first | {"blocks.1.mlp.fc1.weight": None}, second, 3, case="a gradient that is None")

# %% nbgrader={"test": "block_cosines-3", "points": 1}
# Hidden: equal, opposite and crossing gradients.
### BEGIN HIDDEN TESTS
ones = {f"blocks.{b}.norm1.{kind}": torch.tensor([1.0, 2.0]) for b in range(3) for kind in ("weight", "bias")}
turned = {name: {"0": 3.0, "1": -0.5}.get(name[7], 1.0) * x for name, x in ones.items()}
turned["blocks.2.norm1.bias"] = -turned["blocks.2.norm1.bias"]
same(block_cosines(ones, turned, 3), torch.tensor([1.0, -1.0, 0.0]), "for equal, for opposite and for crossing gradients")
### END HIDDEN TESTS

# %% nbgrader={"test": "block_cosines-4", "points": 1}
# Hidden: twelve blocks of other sizes, and dictionaries in another order.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(45)
def other_gradients():
    names = [f"blocks.{b}.{name}" for b in range(12) for name in ("norm1.weight", "attn.proj.weight", "mlp.fc2.bias")]
    return {name: (b + 1) * torch.randn(2 + b % 4, generator=generator) for b, name in enumerate(names)}
one, two = other_gradients(), other_gradients()
long = [[torch.cat([side[n] for n in one if int(n.split(".")[1]) == b]) for b in range(12)] for side in (one, two)]
slow = torch.tensor([float(F.cosine_similarity(a.double(), b.double(), dim=0)) for a, b in zip(*long)])
same(block_cosines(one, dict(reversed(two.items())), 12), slow, "for 12 blocks, the second dictionary the other way round")
### END HIDDEN TESTS

# %% nbgrader={"test": "block_cosines-5", "points": 1}
# Hidden: a block that one of the losses does not reach.
### BEGIN HIDDEN TESTS
unreached = {name: None if name.startswith("blocks.1.") else x for name, x in ones.items()}
same(block_cosines(unreached, turned, 3), torch.tensor([1.0, 0.0, 0.0]), "where the first loss does not reach block 1")
zero = {name: 0 * x if name.startswith("blocks.0.") else x for name, x in turned.items()}
same(block_cosines(ones, zero, 3), torch.tensor([0.0, -1.0, 0.0]), "where the second gradient is zero in block 0")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. Predict, and be fair · 3 points
#
# Numbers here are made up. (a) SimMIM, MoCo v3 and the hybrid at λ = 0.2 are trained for 100 epochs. The hybrid leads both by one point of
# fine-tuned accuracy, and somebody writes that the objectives complement each other. For each image SimMIM passes through the backbone once, MoCo v3
# four times (two of them without gradient), the hybrid five times. Name two comparisons that are missing. (b) **Predict an ablation**: the
# contrastive loss reads the tokens after block 6 of 12, the masked loss those after block 12, as before. What happens to the NMI of attention and
# to a linear probe, from block 1 to 12? Say which result would prove you wrong. (c) In your recipe the contrastive gradient is 9 times as long as
# the masked one, and λ = 0.2 was best. With another temperature it is 4.5 times as long. Which λ keeps the ratio of the two pulls, and why may
# it not be the best one there?
#
# One point each; two or three sentences and a calculation are enough.

# %% [markdown] nbgrader={"open": "predict", "points": 3}
# **Model answer.** (a) Equal cost: the parents trained as long as the hybrid's time allows. If a gradient costs two more passes, an image costs 3,
# 2 · 3 + 2 = 8 and 11, so nearly four times as many epochs for SimMIM and 1.4 times for MoCo v3 (5 and 1.25 by passes alone; or by hours).
# Other seeds: is the lead larger than between two trainings of one recipe, with an interval over seeds and images, and λ chosen on other images? Also
# good: SimMIM with views as augmented or as many of them as the hybrid has. (b) Up to block 6 both losses teach, and the contrastive one
# has to be done there: NMI falls towards block 6, and the probe rises up to there (perhaps less far than in MoCo v3: half the blocks, and the
# masked loss needs to know where things are). Behind it the masked loss alone teaches, so NMI rises again and the probe falls (or stays)
# from block 6 to 12. Wrong, if NMI is high at block 6, or if the probe keeps rising up to block 12. (c) The ratio is
# 0.2 · 9 / 0.8 = 2.25; so λ · 4.5 = 2.25 (1 - λ), λ = 1/3. Another temperature changes where the gradient points, not only how long it is; the ratio
# also changes during training; and the best λ depends on what is measured.
#
# **Rubric.** (a) 1 point: two sensible comparisons, one of them of cost; half for one. (b) 1 point: both curves with a reason, and a result that would
# refute them; half without the latter. (c) 1 point: 1/3 (half), and a reason (half).
