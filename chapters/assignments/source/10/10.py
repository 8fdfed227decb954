# %% [markdown]
# # Assignment 10 · Objectives matter
#
# Five tasks on chapter 10, from easy to hard: ways to say how alike two networks are, and what each of them hides.
#
# | | task | points | minutes |
# |---|---|---|---|
# | 1 | `consistency_ceiling`: how consistent can two probes be, class by class? | 3 | 15 |
# | 2 | `agreement_f1`: do two probes give the same answers? | 4 | 15 |
# | 3 | `class_by_place`: which tokens know the class? | 5 | 25 |
# | 4 | `kept_neighbours`: what does fine-tuning leave as it was? | 5 | 20 |
# | 5 | an open question | 3 | 15 |
#
# Replace each `raise NotImplementedError` by your answer, and leave the names and arguments as they are. The cell below each task
# checks your answer and names the usual mistakes (`checks.py` and `checks.json` lie beside this notebook for that). Other tests,
# with other shapes and numbers, run when you have handed in; each earns its points alone, so an answer that is right for some
# cases earns some. *Run All* stops at the first task that is not done; the cells of the others can be run one by one. Before
# you hand in this notebook: *Kernel → Restart Kernel and Run All Cells*.

# %%
import torch
import torch.nn.functional as F
from checks import check, same

torch.set_num_threads(1);

# %% [markdown]
# ## 1. How consistent can two probes be? · 3 points
#
# Two probes are right in shares $a$ and $b$ of all images. Let $o$ be the share of images where both are right **or** both are wrong, and
# $e$ what $o$ would be by luck, $e = ab + (1-a)(1-b)$. Their error consistency is
#
# $$ \kappa = \frac{o - e}{1 - e} . $$
#
# Probes of unlike accuracy cannot reach 1 (chapter 10). Nor can probes of equal accuracy, if one is good at crescents and the other at stars. So
# let their accuracies $a_c$ and $b_c$ **in each class** be known; all $C$ classes have equally many images. How large can $\kappa$ become? In the best case,
# wherever the probe that is weaker **in that class** is right, the other one is right too. Find $o$ in this case, over all images, and return $\kappa$;
# $e$ stays as above, from the accuracies over all images.
#
# `consistency_ceiling(first, second)`: accuracies $a_c$ `(C,)` and $b_c$ `(C,)`, from 0 to 1, either of which may be the larger in a class → one number.
# Over all images, the probes are neither always right nor always wrong.

# %% nbgrader={"answer": "consistency_ceiling"}
def consistency_ceiling(first, second):
    """first (C,), second (C,), accuracies in classes of equal size -> the largest error consistency that such probes can have."""
    ### BEGIN SOLUTION
    best, a, b = 1 - (first - second).abs().mean(), first.mean(), second.mean()
    luck = a * b + (1 - a) * (1 - b)
    return (best - luck) / (1 - luck)
    ### END SOLUTION

# %% nbgrader={"test": "consistency_ceiling-1", "points": 1}
check(consistency_ceiling, torch.tensor([0.5, 0.6, 0.55]), torch.tensor([0.9, 0.4, 0.7]), case="three classes")
check(consistency_ceiling, torch.tensor([0.3, 0.5]), torch.tensor([0.8, 0.9]), case="two classes, the second is better in both")

# %% nbgrader={"test": "consistency_ceiling-2", "points": 1}
# Hidden: a single class, equal accuracies in each class, and the same two probes in another order.
### BEGIN HIDDEN TESTS
one, other = torch.tensor([0.2, 0.9, 0.5, 0.6]), torch.tensor([0.7, 0.3, 0.8, 0.5])
same(consistency_ceiling(one[:1], other[:1]), 0.12 / 0.62, "for a single class, 20 % and 70 %")
same(consistency_ceiling(one.clone(), one.clone()), 1.0, "for two probes that are alike in each class")
same(consistency_ceiling(one.clone(), other.clone()), consistency_ceiling(other.clone(), one.clone()), "for two probes, in both orders")
### END HIDDEN TESTS

# %% nbgrader={"test": "consistency_ceiling-3", "points": 1}
# Hidden: forty images of each class, counted one by one.
### BEGIN HIDDEN TESTS
for a, b in (((4, 30), (20, 11)), ((20, 36, 40), (33, 0, 40)), ((10, 20, 30, 25, 15), (30, 20, 10, 15, 25))):
    pairs = [(image < x, image < y) for x, y in zip(a, b) for image in range(40)]
    observed, p, q = (sum(some) / len(pairs) for some in ([x == y for x, y in pairs], *zip(*pairs)))
    chance = p * q + (1 - p) * (1 - q)
    same(consistency_ceiling(torch.tensor(a) / 40, torch.tensor(b) / 40), (observed - chance) / (1 - chance),
         f"for {a} and {b} right of 40 images in each class")
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Do two probes give the same answers? · 4 points
#
# Shekhar et al. compare the answers of two probes by F1, as if those of one were the truth. For a class $c$ that the first probe gives to
# $n_1$ images, the second to $n_2$, and both to the same $m$ of them, $F_1(c) = 2m / (n_1 + n_2)$, whichever of the two is the "truth". They do not
# say how they average over classes; take the plain mean over all classes that **at least one** of the two probes gives to some image. A class that
# only one of them uses counts, with 0.
#
# `agreement_f1(first, second)`: two tensors `(Q,)` of classes, whole numbers from 0; some numbers may not occur → a number from 0 to 1.

# %% nbgrader={"answer": "agreement_f1"}
def agreement_f1(first, second):
    """first (Q,), second (Q,), whole numbers from 0 -> mean F1 over the classes that occur in either."""
    ### BEGIN SOLUTION
    scores = []
    for c in torch.cat([first, second]).unique():
        both, given = ((first == c) & (second == c)).sum(), (first == c).sum() + (second == c).sum()
        scores.append(2 * both / given)
    return torch.stack(scores).mean()
    ### END SOLUTION

# %% nbgrader={"test": "agreement_f1-1", "points": 1}
first = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 4, 4, 6, 6, 0])
second = torch.tensor([0, 0, 0, 1, 1, 1, 2, 0, 7, 4, 2, 2, 4, 5])
check(agreement_f1, first, second)

# %% nbgrader={"test": "agreement_f1-2", "points": 1}
# Hidden: three hundred answers, eight classes.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(21)
a = torch.randint(8, (300,), generator=generator).square() // 7                # classes that are not equally frequent
b = torch.where(torch.rand(300, generator=generator) < 0.7, a, torch.randint(8, (300,), generator=generator))
pairs, slow = list(zip(a.tolist(), b.tolist())), []
for c in sorted({x for pair in pairs for x in pair}):
    slow.append(2 * sum(x == y == c for x, y in pairs) / sum((x == c) + (y == c) for x, y in pairs))
same(agreement_f1(a.clone(), b.clone()), sum(slow) / len(slow), "for 300 answers")
### END HIDDEN TESTS

# %% nbgrader={"test": "agreement_f1-3", "points": 1}
# Hidden: equal answers, and answers that never agree.
### BEGIN HIDDEN TESTS
gaps = torch.tensor([9, 2, 2, 5])
same(agreement_f1(gaps, gaps.clone()), 1.0, "for equal answers, of classes 2, 5 and 9")
same(agreement_f1(gaps, gaps + 20), 0.0, "for answers that never agree")
### END HIDDEN TESTS

# %% nbgrader={"test": "agreement_f1-4", "points": 1}
# Hidden: one probe that gives the same class to every image.
### BEGIN HIDDEN TESTS
truth = torch.tensor([0, 0, 0, 1, 2, 3])
same(agreement_f1(torch.zeros_like(truth), truth), (6 / 9) / 4, "when the first says class 0 of every image")
same(agreement_f1(truth, torch.zeros_like(truth)), (6 / 9) / 4, "when the second says class 0 of every image")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Which tokens know the class? · 5 points
#
# Chapter 10 gave each token a probe with two sets of images. With one small set there is a classifier without any fitting: the **nearest
# class mean**. Each place has its own. At place $p$, the mean of a class is the mean of token $p$ over the images of that class; an image gets the class
# whose mean is nearest (Euclidean) to its token $p$. So that no image answers for itself, leave it out of the mean of **its own** class;
# the means of the other classes do not hold it anyway.
#
# `class_by_place(tokens, labels)`: tokens `(N, P, D)`, labels `(N,)` whole numbers → the share of images that get their own class, for each place,
# `(P,)`. Every class has at least two images. Labels need not begin at 0.

# %% nbgrader={"answer": "class_by_place"}
def class_by_place(tokens, labels):
    """tokens (N, P, D), labels (N,) -> share of images whose nearest class mean, made without them, is their own, (P,)."""
    ### BEGIN SOLUTION
    right = []
    for i, token in enumerate(tokens):                                         # (P, D)
        others = torch.arange(len(tokens)) != i
        means = torch.stack([tokens[others & (labels == c)].mean(0) for c in labels.unique()])   # (C, P, D)
        nearest = (means - token).norm(dim=-1).argmin(0)                       # (P,)
        right.append(labels.unique()[nearest] == labels[i])
    return torch.stack(right).double().mean(0)
    ### END SOLUTION

# %% nbgrader={"test": "class_by_place-1", "points": 1}
labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
generator = torch.Generator().manual_seed(31)
tokens = torch.randn(13, 8, 3, generator=generator) + torch.linspace(0, 2, 8)[:, None] * torch.eye(3)[labels][:, None] + 0.5
check(class_by_place, tokens, labels, case="8 places")

# %% nbgrader={"test": "class_by_place-2", "points": 1}
# Hidden: forty images of four classes, six places.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(32)
kind = torch.arange(40) % 4
x = torch.randn(40, 6, 5, generator=generator) + torch.linspace(0, 1.5, 6)[:, None] * torch.randn(4, 1, 5, generator=generator)[kind]
slow = torch.zeros(6)
for place in range(6):
    for i in range(40):
        away = [float((x[[j for j in range(40) if kind[j] == c and j != i], place].mean(0) - x[i, place]).norm()) for c in range(4)]
        slow[place] += (away.index(min(away)) == int(kind[i])) / 40
same(class_by_place(x.clone(), kind.clone()), slow, "for 40 images of 4 classes, 6 places")
### END HIDDEN TESTS

# %% nbgrader={"test": "class_by_place-3", "points": 1}
# Hidden: one place that knows the class, and one that knows something else.
### BEGIN HIDDEN TESTS
two = torch.tensor([0, 0, 1, 1])
known = torch.stack([torch.tensor([0.0, 1, 8, 9]), torch.tensor([0.0, 9, 1, 8])], dim=1)[:, :, None]
same(class_by_place(known, two), torch.tensor([1.0, 0.0]), "for a place that knows the class, and one that does not")
### END HIDDEN TESTS

# %% nbgrader={"test": "class_by_place-4", "points": 1}
# Hidden: noise, where an image that answers for itself is found out.
### BEGIN HIDDEN TESTS
noise = torch.randn(20, 4, 200, generator=torch.Generator().manual_seed(33))
pairs_of = torch.arange(20) // 2
same((class_by_place(noise, pairs_of) < 0.5).all(), True, "is the share below one half, for noise and two images a class?")
### END HIDDEN TESTS

# %% nbgrader={"test": "class_by_place-5", "points": 1}
# Hidden: labels that do not begin at 0.
### BEGIN HIDDEN TESTS
same(class_by_place(known, two * 4 + 3), torch.tensor([1.0, 0.0]), "when the classes are called 3 and 7")
### END HIDDEN TESTS

# %% [markdown]
# ## 4. What does fine-tuning leave as it was? · 5 points
#
# CKA compares all pairs of images at once, and the pairs that are most alike or most unlike decide. Another yardstick asks each image
# for its neighbours: which $k$ **other** images are most like it, by the cosine of their features, before fine-tuning, and which after? Let $s$
# be the share of the $k$ that are the same, in any order, averaged over images. By luck it would be $k / (N - 1)$, so
#
# $$ \text{kept} = \frac{s - k/(N-1)}{1 - k/(N-1)} : \quad \text{1 if all neighbours stay, about 0 if none has anything to do with those before.} $$
#
# `kept_neighbours(before, after, k)`: features of all layers, `(L, N, D)` and `(L, N, E)`, with $k < N - 1$ → one number for each layer, `(L,)`.

# %% nbgrader={"answer": "kept_neighbours"}
def kept_neighbours(before, after, k):
    """before (L, N, D), after (L, N, E), k < N - 1 -> share of the k nearest other images that stay, above luck, (L,)."""
    ### BEGIN SOLUTION
    near = []
    for x in (before, after):
        unit = F.normalize(x, dim=-1)
        cosine = (unit @ unit.mT).masked_fill(torch.eye(x.shape[1], dtype=torch.bool), -2)
        near.append(torch.zeros_like(cosine).scatter(-1, cosine.topk(k).indices, 1))              # (L, N, N)
    share, luck = (near[0] * near[1]).sum(-1).mean(-1) / k, k / (before.shape[1] - 1)
    return (share - luck) / (1 - luck)
    ### END SOLUTION

# %% nbgrader={"test": "kept_neighbours-1", "points": 1}
generator = torch.Generator().manual_seed(41)
before = torch.randn(3, 9, 3, generator=generator) * torch.linspace(0.3, 3, 9)[:, None] + 0.6
after = before[..., :2] + torch.tensor([0.1, 0.5, 2.0])[:, None, None] * torch.randn(3, 9, 2, generator=generator)
check(kept_neighbours, before, after, 3, case="3 neighbours")

# %% nbgrader={"test": "kept_neighbours-2", "points": 1}
check(kept_neighbours, before, after, 5, case="5 neighbours")

# %% nbgrader={"test": "kept_neighbours-3", "points": 1}
# Hidden: two layers, twenty images.
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(42)
x = torch.randn(2, 20, 6, generator=generator)
y = torch.cat([x + 0.4 * torch.randn(2, 20, 6, generator=generator), torch.randn(2, 20, 3, generator=generator)], dim=-1)
slow = []
for layer in range(2):
    kept = 0
    for i in range(20):
        near = [set(sorted((j for j in range(20) if j != i), key=lambda j: -float(torch.cosine_similarity(z[i], z[j], dim=0)))[:4])
                for z in (x[layer], y[layer])]
        kept += len(near[0] & near[1]) / 4 / 20
    slow.append((kept - 4 / 19) / (1 - 4 / 19))
same(kept_neighbours(x.clone(), y.clone(), 4), torch.tensor(slow), "for 20 images and 4 neighbours")
### END HIDDEN TESTS

# %% nbgrader={"test": "kept_neighbours-4", "points": 1}
# Hidden: features that are turned, and longer or shorter for some images.
### BEGIN HIDDEN TESTS
turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
longer = torch.linspace(0.2, 5, 20)[:, None]
same(kept_neighbours(x.clone(), longer * (x @ turn), 3), torch.ones(2), "for features that are turned, each with a length of its own")
### END HIDDEN TESTS

# %% nbgrader={"test": "kept_neighbours-5", "points": 1}
# Hidden: one neighbour that leaves, and one that stays.
### BEGIN HIDDEN TESTS
angles = torch.tensor([[0.0, 10, 100, 115], [0.0, 100, 10, 115]]).deg2rad()
circle = torch.stack([angles.cos(), angles.sin()], dim=-1)
same(kept_neighbours(circle[:1], circle[:1], 1), torch.tensor([1.0]), "for four images that stay where they are")
same(kept_neighbours(circle[:1], circle[1:], 1), torch.tensor([-0.5]), "for four images that all change their neighbour")
### END HIDDEN TESTS

# %% [markdown]
# ## 5. What would you conclude? · 3 points
#
# All numbers here are made up. (a) A CKA of 0.85 is reported for block 6 of a joint-embedding and of a reconstructive network: "the two
# objectives learn the same". You compute the CKA of each with the pixels, 0.9 and 0.9, and of two untrained networks, 0.92. What does the 0.85
# tell now, and what would you compute next? (b) Probes of networks A, B and C are right in 90, 60 and 60 % of images. Their error
# consistency is 0.25 for A and B, and 0.4 for B and C. "So C is more like B than A is." Answer with the ceilings (task 1, as if there were one class).
# (c) A pretrained network is adapted to few labels in two ways: all blocks learn at one rate; or each block learns at 0.65 times the rate of the block
# above it. Predict for each way how `kept_neighbours` goes from block 1 to block 12. Which control would show whether it is the **labels** that move it?
#
# One point each; two or three sentences are enough.

# %% [markdown] nbgrader={"open": "conclude", "points": 3}
# **Model answer.** (a) Nothing yet about the objectives: untrained networks are as alike, since all of them still arrange images as their pixels
# do. Compute what is left without the pixels, as in the chapter (here (0.85 − 0.81) / (1 − 0.81) = 0.21), or without a random network, with an
# interval, and compare with two seeds of one objective. (b) The ceiling of A and B is 0.29, so they fill 0.25 / 0.29, nearly nine tenths of what is
# possible; that of B and C is 1 (less, if they are good at other classes), and they fill 0.4 of it. So the two
# values cannot be compared as they are; whether A or C is more like B, they do not show. (c) One rate: less and less is kept from the first blocks to the last, already in the middle (a block also gets changed input from those before it).
# With 0.65 the first blocks hardly learn (0.65¹¹ is below 1 %), so nearly all is kept there, and what changes, changes in the last few. Control: the same
# training with shuffled labels, or as many steps of the pretraining objective.
#
# **Rubric.** (a) 1 point: that pixels or untrained networks explain it, and a sensible next measurement; half for one. (b) 1 point: both ceilings, and
# that the conclusion does not follow; half without numbers. (c) 1 point: both predictions with a reason (half), a control (half).
