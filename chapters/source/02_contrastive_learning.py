# %% [markdown]
# # 02 · Contrastive learning
#
# **After this chapter you can train a Vision Transformer without a single label, show that it groups images by shape far
# better than before training, and say which parts keep it from giving every image the same answer.**
#
# You will be able to
#
# 1. make two *views* of an image and say what they share and what they do not;
# 2. write the InfoNCE loss as a loop, as one matrix product, and check one against the other;
# 3. say what the momentum encoder, the predictor and the negatives of MoCo v3 are for;
# 4. train MoCo v3 on a CPU in seconds, and measure it with k nearest neighbours;
# 5. make a network collapse on purpose, and see the collapse in a number.
#
# *You need:* chapter 01, PyTorch. *Time:* about 65 minutes to read, 70 for the exercises; the cells run in about 40 seconds
# on a CPU.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from lib.data import Loaded, Shapes, views
from lib.objectives.contrastive import info_nce, momentum_at
from lib.training.recipes import recipe
from lib.viz import plots

plots.style()
torch.set_num_threads(min(2, torch.get_num_threads()));

# %% [markdown]
# At most two threads; the outputs that are stored were made with one. Numbers after the sign ≈ come from networks
# trained in this notebook; their last digits depend on the processor and on the threads.
#
# ## 1. Two views of one image
#
# Cover the labels and ask: which of these pictures show *the same thing*? Without labels the only pictures of which you
# can be sure are two distorted copies of one image. They are called **views**. (What the library calls `keys` here are
# random numbers that decide what happens to each image; the keys of section 2 are something else.)

# %%
world = Shapes("train", size=64, difficulty="medium")
images = world.images(torch.arange(6))                             # (6, 3, 64, 64) uint8
draws = torch.arange(6)  # one number an image decides its random draws
first = views.make_view(images, views.MOCO_V3[0], size=64, keys=draws)
second = views.make_view(images, views.MOCO_V3[1], size=64, keys=draws + 100)

# %%
shown = torch.cat([images / 255, views.denormalize(first), views.denormalize(second)])
titles = [*(f"image {i}" for i in range(6)), *["view 1"] * 6, *["view 2"] * 6]
figure = plots.image_grid(shown, titles, rows=3)
plots.show(figure, alt="Six images of shapes, and below each two views of it: other crops, colours, blur and mirror images.")

# %% [markdown]
# Each column is one image. Position, size, colour and sharpness change from view to view; what a crop happens to hold of the
# object and its texture stays. MoCo v3 draws a crop of 8 to 100 % of the area, then flips, shifts colours, turns some views
# grey, blurs every first view and one in ten second ones, and solarises (inverts the bright part of) a fifth of the second
# ones. **A network that must recognise the pair can only use what survives all this.**
#
# Each image has a draw of its own, made from a number of its own. The same number gives the same view, in any batch and in
# any order:

# %%
again = views.make_view(images[2:3], views.MOCO_V3[0], size=64, keys=draws[2:3])
print("image 2 alone, same number:     same view?", torch.allclose(again[0], first[2], atol=1e-5))
other = views.make_view(images[2:3], views.MOCO_V3[0], size=64, keys=draws[2:3] + 1)
print("image 2 alone, another number:  same view?", torch.allclose(other[0], first[2], atol=1e-5))

# %% [markdown]
# That is how a training run that was interrupted can go on as if nothing had happened (`lib/random.py`).
#
# Why so many distortions, and which of them counts? Ask what a **lazy network** could get away with: one that sees nothing of
# a view but its mean colour, three numbers. Give it two views each of 64 images. How often is the mean colour that lies
# nearest to that of view 1 the one of its own view 2?

# %%
def turned(least, jitter, blur, grey):
    """Views with crops of at least this part of the area; jitter times MoCo v3's; blur in pixels of a 224-pixel view."""
    strengths = tuple(jitter * s for s in views.MOCO_V3[0].strengths)
    return views.ViewRecipe(scale=(least, 1.0), jitter=float(jitter > 0), strengths=strengths, grayscale=grey,
                            blur=float(blur > 0), sigma=(max(blur, 0.1), max(blur, 0.1)))


def lazy(crowd, recipe):
    """How often the mean colour of view 1 lies nearest to that of its own view 2, among all images of a crowd."""
    keys = torch.arange(len(crowd))
    first, second = (views.make_view(crowd, recipe, 16, keys + n).mean((2, 3)) for n in (1000, 2000))  # (64, 3)
    return (torch.cdist(first, second).argmin(1) == keys).float().mean().item()


# %% [markdown]
# **Predict, then turn.** At the start there are crops alone, down to 8 % of the area. Which slider spoils the lazy network's
# game, and which one does nothing to it: jitter, blur or grey? And with the whole image in every view?

# %%
from functools import partial

from lib.viz.frames import Frames


def playground(image, crowd, *strengths):
    recipe = turned(*strengths)
    seen = views.denormalize(views.make_view(image.repeat(5, 1, 1, 1), recipe, 64, torch.arange(5)))
    return torch.cat([image / 255, seen]), (f"The lazy network finds {lazy(crowd, recipe):.0%} of the partners, "
                                            f"guessing finds {1 / len(crowd):.0%}.")


sliders = {"a crop keeps at least": {"the whole image": 1.0, "60 % of it": 0.6, "30 %": 0.3, "8 %, MoCo v3": 0.08},
           "colour jitter": {"none": 0.0, "half": 0.5, "MoCo v3": 1.0},
           "blur": {"none": 0.0, "2 pixels of 224, MoCo v3's most": 2.0, "12 pixels of 224": 12.0},
           "grey": {"no view": 0.0, "every view": 1.0}}
crowd = Shapes("train", size=32, difficulty="medium").images(torch.arange(64))
Frames(partial(playground, images[1:2], crowd), sliders, ["image", *(f"view {n}" for n in range(1, 6))],
       "An image and five views of it under sliders for crop, jitter, blur and grey.",
       start={"a crop keeps at least": "8 %, MoCo v3"})

# %%
for name, strengths in {"crops": (0.08, 0, 0, 0), "crops, blur": (0.08, 0, 12, 0), "crops, grey": (0.08, 0, 0, 1),
                        "crops, jitter": (0.08, 1, 0, 0), "grey": (1, 0, 0, 1), "jitter": (1, 1, 0, 0)}.items():
    print(f"{name:<14} mean colour finds the partner: ≈ {lazy(crowd, turned(*strengths)):.0%}")

# %% [markdown]
# **Crops leave the colours, and a network that can win by colour need not look at shapes.** Blur does nothing to a
# mean; grey spoils the game after a crop, and not at all without one; jitter spoils it with and without. What you take
# out of the views is what the network need not learn, and whatever you leave in can serve as a shortcut.
#
# ## 2. Find your partner
#
# Take a batch of images and two views of each. The network turns view 1 of image $i$ into a **query** $q_i$, view 2 of
# image $j$ into a **key** $k_j$. (These are whole images; the queries and keys inside attention are something else.)
# The task is a matching game: query $i$ must find key $i$ among all keys of the batch.
#
# **Predict, then run.** Below are the cosine similarities of 4 queries and 4 keys that we make up, with the partners on the
# diagonal. Each query chooses among the keys by a softmax. Which temperature makes it choose more firmly, 1 or 0.2?

# %%
similarity = torch.tensor([[0.9, 0.2, 0.1, 0.0],
                           [0.1, 0.5, 0.4, 0.2],
                           [0.0, 0.3, 0.6, 0.1],
                           [0.2, 0.7, 0.1, 0.3]])                  # row: query, column: key
figure, axes = plt.subplots(1, 3, figsize=(7, 2.4))
panels = {"cosine similarity": similarity, "softmax, temperature 1": similarity.softmax(1),
          "softmax, temperature 0.2": (similarity / 0.2).softmax(1)}
for axis, (title, panel) in zip(axes, panels.items()):
    axis.imshow(panel, vmin=0, vmax=1)
    axis.set(title=title, xlabel="key", ylabel="query", xticks=range(4), yticks=range(4))
    for row, column in torch.cartesian_prod(torch.arange(4), torch.arange(4)).tolist():
        value = panel[row, column].item()
        axis.text(column, row, f"{value:.1f}", ha="center", va="center", color="black" if value > 0.5 else "white")
plots.show(figure, alt="Three 4 by 4 maps: similarities, and softmax choices. A low temperature makes rows choose one key.")

# %% [markdown]
# 0.2 chooses more firmly: rows 0, 2 and 3 nearly settle on one key, row 1 still wavers. Query 3 is firmly wrong, it takes
# key 1 for its own, and pays for it. What it pays is the cross-entropy of choosing the partner, **InfoNCE**:
#
# $$ \mathcal{L}_q = -\log \frac{\exp(q \cdot k_+ / \tau)}{\exp(q \cdot k_+ / \tau) + \sum_{k_-} \exp(q \cdot k_- / \tau)} $$
#
# with queries and keys of length 1, so that $q \cdot k$ is a cosine. $k_+$ is the partner, the $k_-$ are **negatives**: the
# keys of all other images of the batch. As a loop, it reads like the formula:

# %%
def info_nce_loop(queries, keys, temperature):
    loss = 0.0
    for i, query in enumerate(queries):
        scores = [torch.cosine_similarity(query, key, dim=0) / temperature for key in keys]
        loss -= scores[i] - torch.stack(scores).logsumexp(0)
    return loss / len(queries)


# %% [markdown]
# And as one matrix product, (B, D) times (D, B), followed by the cross-entropy that you know from classification. The
# "classes" are the images of the batch, and the right class of query $i$ is $i$:

# %%
def info_nce_matrix(queries, keys, temperature):
    logits = F.normalize(queries) @ F.normalize(keys).T / temperature              # (B, B)
    return F.cross_entropy(logits, torch.arange(len(queries)))


# %%
torch.manual_seed(0)
q, k = torch.randn(2, 8, 16)  # two of (8, 16)
loop, matrix = info_nce_loop(q, k, 0.2), info_nce_matrix(q, k, 0.2)
library, accuracy = info_nce(q, k, 0.2)
print("loop = matrix:              ", torch.allclose(loop, matrix, atol=1e-6))
print("lib = 2 x temperature x this:", torch.allclose(library, 2 * 0.2 * matrix, atol=1e-6))

# %% [markdown]
# The library multiplies by $2\tau$, as MoCo v3 does: that cancels the $1/\tau$ which the temperature puts before the gradient.
#
# Two answers you know beforehand. If all keys are the same, the query can only guess, and the loss is the logarithm of the
# number of keys. If queries equal their keys and all others are opposite, it is nearly 0.

# %%
same = torch.ones(128, 16)
print(f"all keys the same: {info_nce_matrix(same, same, 0.2):.4f}, log of 128: {torch.tensor(128.).log():.4f}")
opposite = torch.tensor([[1.0], [-1.0]])
print(f"partners equal, the other opposite: {info_nce_matrix(opposite, opposite, 0.2):.4f}")

# %% [markdown]
# The library's loss is $2\tau$ times that, in two directions: 2 directions × $2\tau$ = 0.4 × log 128 = 4.85 make
# **3.88**. If the loss stays there, the network cannot tell images apart. (It may begin a little above: random networks
# guess unevenly.)
#
# ## 3. The other network
#
# In MoCo v3, queries and keys do not come from the same network. The **online** network makes the queries and learns. The
# **momentum** network makes the keys; it has no gradient and is a slow average of the online one:
#
# $$ \theta_\text{momentum} \leftarrow m\,\theta_\text{momentum} + (1 - m)\,\theta_\text{online} $$
#
# ```text
#   view 1 ── backbone ── projector ── predictor ── query ─┐
#                │ average     │ average                    ├─ InfoNCE      (and the same with the views exchanged)
#   view 2 ── backbone ── projector ───────────────  key  ─┘
#              momentum     momentum                no gradient
# ```
#
# Projector and predictor are small MLPs that are thrown away after training; what is kept is the backbone, and its CLS
# token is the representation. The predictor sits on the query's side alone. With negatives it is no necessity, the
# paper has it for what it adds; section 5 tries one where there are no negatives, and there it is all that stands
# between the network and collapse.
#
# How slow is slow? Here a weight of the online network jumps about while it drifts from 0 to 1.

# %%
torch.manual_seed(0)
online = torch.linspace(0, 1, 300) + 0.15 * torch.randn(300)
averages = {m: [online[0]] for m in (0.9, 0.99)}
for value in online[1:]:
    for m, average in averages.items():
        average.append(m * average[-1] + (1 - m) * value)

# %%
figure, axis = plt.subplots()
axis.plot(online, color=plots.COLORS["untrained"], lw=0.8, label="online")
for (m, average), color in zip(averages.items(), ("#CC79A7", plots.COLORS["mocov3"])):
    axis.plot(average, color=color, lw=2, label=f"momentum {m}")
axis.set(xlabel="step", ylabel="a weight", title="The average is smoother, and late")
axis.legend()
plots.show(figure, alt="A jumping curve that rises from 0 to 1, and two averages: 0.99 is smoother and lags further behind.")

# %% [markdown]
# Momentum 0.99 is steadier and about a hundred steps late, 0.9 follows within ten. The keys are the targets of the game, and
# a target that jumps is hard to hit. MoCo v3 lets the momentum rise from 0.99 to 1 along half a cosine: the targets stand
# ever stiller. The printed values are at the start, half-way and at the end.

# %%
print([round(momentum_at(progress, start=0.99), 4) for progress in (0, 0.5, 1)])

# %% [markdown]
# ## 4. Train one
#
# The course's world has an easy end made for this: grey images, one shape near the middle, much noise. No label is used to
# train. Afterwards we use labels to ask one question: do the nearest neighbours of an image show the same shape?
#
# The question has a name, **k-NN**: take the CLS token of an image, find the 20 most similar among 2,000 training
# images whose labels are known (the *bank*), and let them vote on the shape; nearer ones count more.

# %%
settings = recipe("mocov3", "smoke", device="cpu")
train = Loaded(Shapes("train", settings.image_size, settings.images, "easy"))
val = Loaded(Shapes("val", settings.image_size, 1000, "easy"))
figure = plots.image_grid(train.images(torch.arange(10)), [train.classes[c] for c in train.labels(torch.arange(10))], rows=2)
plots.show(figure, alt="Ten noisy grey images with a bright shape each, named above: crescent, bar, star and so on.")

# %%
print(f"{settings.images} images, {settings.epochs} epochs, batches of {settings.batch_size}; "
      f"{settings.model} with patches of {settings.patch_size} pixels")
print(f"temperature {settings.temperature}, momentum from {settings.momentum}, learning rate {settings.learning_rate}")

# %% [markdown]
# A hundred steps are few, so much differs from the paper: the learning rate is far higher, the momentum starts at 0.9, crops
# keep at least 60 % of the area, the patch projection learns (the paper freezes it), and projector and predictor are small.
#
# **Predict, then run.** Ten shapes, so guessing is right once in ten. The network has random weights. How often does an
# untrained network's k-NN find the right shape: 10 %, 30 % or 90 % of the time?

# %%
from lib.evaluation.features import extract
from lib.evaluation.neighbors import knn_accuracy
from lib.training.build import build
from lib.training.trainer import Trainer

trainer = Trainer(settings, train)
backbone = trainer.objective.backbone
bank = Loaded(train, limit=2000)
untrained = {"bank": extract(backbone, bank), "queries": extract(backbone, val)}
print(f"untrained k-NN ≈ {knn_accuracy(*untrained['bank'], *untrained['queries']):.0%}")

# %% [markdown]
# About a third: a random network keeps enough of the picture for rough comparisons. So what training adds must be measured
# from there, not from 10 %; an untrained network stands beside nearly every result of this course. And how good are the plain
# pixels, without any network?

# %%
pixels = {name: (views.normalize(source.all_images).flatten(1), source.all_labels)
          for name, source in {"bank": bank, "queries": val}.items()}
print(f"k-NN on pixels: {knn_accuracy(*pixels['bank'], *pixels['queries']):.0%}")

# %% [markdown]
# Nearly all. The shapes lie in the middle and hardly turn, so two images of one shape overlap, and averaging over a thousand
# pixels beats the noise. So this world can show that training *changes a network*; it cannot show that a network is worth
# having. Photographs can (section 6).
#
# One step of MoCo v3 is short enough to read. Both views go through both networks; each view's queries look for their partners
# among the other view's keys.

# %%
def moco_loss(network, view1, view2, temperature):
    """The loss of a batch of two views (B, 3, S, S), in both directions."""
    queries, keys = [], []
    for view in (view1, view2):
        cls = network.backbone.forward_features(view)[:, 0]  # (B, D)
        queries.append(network.predictor(network.projector(cls)))
        with torch.no_grad():  # nothing is learned through a key
            cls = network.momentum_backbone.forward_features(view)[:, 0]
            keys.append(network.momentum_projector(cls))
    there, back = (info_nce_matrix(queries[k], keys[1 - k], temperature) for k in (0, 1))
    return 2 * temperature * (there + back)


# %%
network = build(settings).train()
batch = network.prepare(train.images(torch.arange(128)), torch.arange(128))  # two views of each image
network.begin_step(0.0)  # first the slow networks follow: m · slow + (1 - m) · online, weight by weight
ours, library = moco_loss(network, batch["view1"], batch["view2"], settings.temperature), network.loss(batch)[0]
print("written out = library:", bool((ours - library).abs() < 1e-4))

# %% [markdown]
# What is left of a step is `loss.backward()` and `optimizer.step()`, as in chapter 01: they move backbone, projector and
# predictor, and nothing of the slow pair.
#
# Now train (about ten seconds). `trainer.run()` would do. The monitor runs it beside the notebook's own work, so that you see the
# loss fall, and can stop; given a folder, `Trainer(settings, train, "runs/first")`, the run then leaves a checkpoint to go on from.

# %%
from lib.viz.monitor import Monitor

monitor = Monitor(trainer)
monitor.start()
monitor

# %%
monitor.wait()
trained = {"bank": extract(backbone, bank), "queries": extract(backbone, val)}
print(f"trained k-NN ≈ {knn_accuracy(*trained['bank'], *trained['queries']):.0%}")

# %%
log = trainer.history
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6))
left.plot([line["step"] for line in log], [line["loss"] for line in log], color=plots.COLORS["mocov3"])
left.axhline(4 * 0.2 * torch.tensor(128.0).log(), color=plots.COLORS["untrained"], ls="--")
left.set(xlabel="step", ylabel="loss", title="Loss; dashed: guessing")
right.plot([line["step"] for line in log], [line["accuracy"] for line in log], color=plots.COLORS["mocov3"])
right.axhline(1 / 128, color=plots.COLORS["untrained"], ls="--")
right.set(xlabel="step", ylabel="accuracy", title="Partner found among 128; dashed: guessing", ylim=(0, None))
plots.show(figure, alt="Left: the loss falls below guessing. Right: the share of partners found rises above guessing.")

# %% [markdown]
# The partner is found several times as often as by guessing, and still seldom. That is as it should be: with 128 images
# and 10 shapes, a batch holds a dozen images of the same shape, and a network that sees nothing but shape could not do
# better than one in thirteen. Labels were never shown, yet neighbours now share their shape about twice as often. Is it
# really the shape? A **negative control**: shuffle the labels of the bank.

# %%
shuffled = trained["bank"][1][torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))]
chance = knn_accuracy(trained["bank"][0], shuffled, *trained["queries"])
gain = knn_accuracy(*trained["bank"], *trained["queries"]) - knn_accuracy(*untrained["bank"], *untrained["queries"])
print("with shuffled labels the score is chance, 10 % within 4:", abs(chance - 0.1) < 0.04)
print("training added at least 20 points:", gain > 0.20)

# %% [markdown]
# Is every shape found more often, or a few of them? For each validation image, take its five nearest neighbours and count
# how many show the same shape:

# %%
def same_shape(features, count=5):
    """Share of the `count` nearest bank images that show the query's shape, by shape: (10,)."""
    (bank, bank_labels), (queries, labels) = features["bank"], features["queries"]
    nearest = (F.normalize(queries) @ F.normalize(bank).T).topk(count).indices  # (Q, count)
    hits = (bank_labels[nearest] == labels[:, None]).float().mean(1)
    return torch.stack([hits[labels == c].mean() for c in range(10)])


# %%
figure, axis = plt.subplots(figsize=(7, 3))
place = torch.arange(10)
axis.bar(place - 0.2, 100 * same_shape(untrained), 0.38, color=plots.COLORS["untrained"], label="untrained")
axis.bar(place + 0.2, 100 * same_shape(trained), 0.38, color=plots.COLORS["mocov3"], label="trained")
axis.axhline(10, color="black", lw=0.8, ls="--")
axis.set(xticks=place, xticklabels=val.classes, ylabel="same shape, %", xlabel="shape",
         title="Neighbours of the same shape, n = 1000 images; dashed: chance")
axis.tick_params(axis="x", rotation=30)
axis.legend()
plots.show(figure, alt="Bars for ten shapes: after training, more of the nearest neighbours share the shape, for every shape.")

# %% [markdown]
# Training helps every shape, not one or two that carry the average. Why shape? In this world little differs between images but
# shape, size, brightness and noise. Both views of a pair share the shape; brightness is shuffled by the views, and noise looks
# different in every crop. Whether *size* is lost as well is a question for you: `train.factors` of the world knows each radius.
#
# The same in similarities. Take view 1 of all images of one shape and view 2 of all images of another, and average the
# cosine between their projections:

# %%
def mean_similarity(network, source, count=800):
    """Mean cosine between view 1 of shape a and view 2 of shape b: (10, 10); the average over all pairs is taken out."""
    picked, labels = torch.arange(count), source.labels(torch.arange(count))
    batch = network.prepare(source.images(picked), picked)
    with torch.no_grad():
        a, b = (network.projector(network.backbone.forward_features(batch[v])[:, 0]) for v in ("view1", "view2"))
    similarity = (F.normalize(a) @ F.normalize(b).T).fill_diagonal_(0)  # (count, count), own partners left out
    groups = F.one_hot(labels, 10).float()
    pairs = groups.T @ (1 - torch.eye(count)) @ groups  # how many pairs of images
    return groups.T @ similarity @ groups / pairs - similarity.sum() / pairs.sum()


# %%

figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
for axis, (name, network) in zip(axes, {"untrained": build(settings), "trained": trainer.objective}.items()):
    picture = axis.imshow(mean_similarity(network.train(), train), vmin=-0.3, vmax=0.3, cmap="PuOr")
    axis.set(title=name, xticks=range(10), yticks=range(10), xlabel="shape of view 2", ylabel="shape of view 1")
    axis.set_xticklabels(train.classes, rotation=90, fontsize=8), axis.set_yticklabels(train.classes, fontsize=8)
figure.colorbar(picture, ax=axes, label="cosine, mean removed")
plots.show(figure, alt="Two 10 by 10 maps of mean similarity by shape: flat for the untrained network, structured after training.")

# %% [markdown]
# Untrained, the map is nearly flat. Trained, views of two *different* images of one shape tend to be similar (purple;
# in about half of the rows the diagonal is the darkest), although the loss pushed them apart as negatives. Disks and
# squares, both compact and full, are still taken for one another, and shapes with thin or notched outlines run
# together.
#
# ## 5. Break it
#
# The game has a lazy solution: give every image the same key, and every pair matches. Negatives forbid it, because a key that
# fits everybody's query fits wrongly. What if you only pull partners together and push nothing apart?
#
# **Predict, then run.** Four ways to train, forty steps each:
#
# 1. *MoCo v3*, as above;
# 2. *pull*: raise the cosine of partners, gradient through both branches;
# 3. *pull, slow keys*: the key comes from the momentum network, without gradient;
# 4. *pull, slow keys, predictor*: the query also passes through the predictor (the idea of BYOL).
#
# Which of them give every image the same answer? The number to watch is the **spread** of the projections over a batch: the
# standard deviation of unit vectors times $\sqrt{D}$; 1 when they fill the sphere, 0 when all are the same.

# %%
def spread(projections):
    """(B, D) -> about 1 when unit vectors point everywhere, 0 when all point the same way."""
    return F.normalize(projections, dim=1).std(0).mean().item() * projections.shape[1] ** 0.5


def pull(network, batch, slow, predict):
    """Minus the mean cosine of partners, and no negatives."""
    a, b = (network.projector(network.backbone.forward_features(batch[name])[:, 0]) for name in ("view1", "view2"))
    if slow:
        with torch.no_grad():
            b = network.momentum_projector(network.momentum_backbone.forward_features(batch["view2"])[:, 0])
    return -torch.cosine_similarity(network.predictor(a) if predict else a, b).mean()


# %% [markdown]
# One detail: a batch norm at the end of a head would spread its outputs by force, whatever the network says. We take the last
# one away from projector and predictor, in all four ways (those inside the heads remain).

# %%
def forty_steps(loss_of, source, settings):
    """Train for forty steps with a loss; -> the spread at every step, and the last loss."""
    network = build(settings)
    del network.projector[-1], network.momentum_projector[-1], network.predictor[-1]
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    spreads = []
    for step in range(40):
        picked = torch.arange(48 * step, 48 * step + 48)
        batch = network.prepare(source.images(picked), picked)
        network.begin_step(0.0)
        loss = loss_of(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            spreads.append(spread(network.projector(network.backbone.forward_features(batch["view1"])[:, 0])))
    return spreads, loss.item()


# %%
ways = {
    "MoCo v3": lambda network, batch: network.loss(batch)[0],
    "pull": lambda network, batch: pull(network, batch, slow=False, predict=False),
    "pull, slow keys": lambda network, batch: pull(network, batch, slow=True, predict=False),
    "pull, slow keys, predictor": lambda network, batch: pull(network, batch, slow=True, predict=True),
}
runs = {name: forty_steps(way, train, settings) for name, way in ways.items()}
for name, (spreads, loss) in runs.items():
    print(f"{name:<27} spread ≈ {spreads[-1]:.2f}   loss ≈ {loss:.2f}")

# %%
figure, axis = plt.subplots()
for (name, (spreads, _)), color, line in zip(runs.items(), ("#0072B2", "black", "black", "#CC79A7"), ("-", "-", ":", "-")):
    axis.plot(spreads, color=color, ls=line, lw=2, label=name)
axis.set(xlabel="step", ylabel="spread of projections", ylim=(0, 1.1), title="Pulling alone collapses")
axis.legend(loc="center right", bbox_to_anchor=(1, 0.42))
plots.show(figure, alt="Spread over forty steps: MoCo v3 and the predictor stay high, the two that only pull fall to zero.")

# %% [markdown]
# *Pull* falls to nothing: within a few dozen steps every image has the same projection, while the loss, −1 at best, looks
# nearly perfect. This is **collapse**. Slow keys alone collapse too. With a predictor on one branch and no gradient through the
# other, the spread stays up, without any negative; why is still argued over, and BYOL rests on it. MoCo v3 has negatives,
# which forbid collapse outright, *and* slow keys and a predictor.

# %%
collapsed = {name: spreads[-1] < 0.15 for name, (spreads, _) in runs.items()}
print("collapsed:", [name for name, it_has in collapsed.items() if it_has])

# %% [markdown]
# ### DINO beside it
#
# | | MoCo v3 | DINO |
# |---|---|---|
# | target of a view | its partner's key among all keys of the batch | the teacher's distribution over 65,536 prototypes |
# | against collapse | negatives | *centring* (subtract the mean output) and *sharpening* (low temperature) |
# | teacher | momentum encoder | momentum encoder |
# | views | 2 large | 2 large and some small ones; the teacher sees the large ones alone |
#
# A **prototype** is one of K outputs, a class that nobody named. The **student** scores each crop for all K, and must give the
# answer that the **teacher**, its slow average, gave for another crop of the same image:
#
# $$ \mathcal{L} = -\sum_{k=1}^{K} t_k \log s_k, \qquad t = \mathrm{softmax}\big((\text{teacher} - c)/0.04\big), \qquad
#    s = \mathrm{softmax}(\text{student}/0.1) $$
#
# $c$ is the running mean of the teacher's scores. Nothing is pushed apart, so two lazy answers are open: always the same
# prototype, or all prototypes alike. Here are made-up scores of 64 images that lean towards prototype 0, as a collapsing teacher's do.
#
# **Predict, then run.** Which of the two steps, centring or sharpening, forbids which lazy answer?

# %%
scores = 0.1 * torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
scores[:, 0] += 0.3
ways_to_answer = {"neither": scores, "centred": scores - scores.mean(0), "sharpened": scores / 0.04,
                  "both": (scores - scores.mean(0)) / 0.04}
figure, axes = plt.subplots(2, 4, figsize=(7.6, 3), sharex=True, sharey=True)
for (name, x), column in zip(ways_to_answer.items(), axes.T):
    answers = x.softmax(1)  # (64, 12)
    for axis, values in zip(column, (answers[3], answers.mean(0))):
        axis.bar(range(12), values, color=plots.COLORS["dino"])
    column[0].set(title=name), column[1].set(xlabel="prototype", ylim=(0, 1))
axes[0, 0].set_ylabel("one image"), axes[1, 0].set_ylabel("mean of 64")
plots.show(figure, alt="Neither: all prototypes alike. Centred: the same. Sharpened: all choose prototype 0. Both: one image "
                       "chooses firmly, and the mean of 64 images uses all prototypes.")

# %% [markdown]
# Sharpened alone, everybody says prototype 0; centred alone, nobody says anything. Both together, each image has an answer of
# its own, and all prototypes are used. Each step guards against what the other would lead to.
#
# ## 6. On photographs
#
# Ten seconds and a made world are good to look at. Does the same code learn from photographs? The file below was written by
# `python -m lib.evaluation` after a run on Imagenette (9,469 photographs in ten classes, without their labels). Its network
# ships with the course: `zoo.load("mocov3", world="imagenette")`.

# %%
import json
from pathlib import Path

measured = json.loads(Path("../data/results/zoo/imagenette-mocov3.json").read_text())
r = measured["recipe"]
print(f"{r['model']}, {r['image_size']} px, {r['epochs']} epochs, {measured['training']['minutes']:.0f} minutes on a CPU")
for name in ("trained", "untrained"):
    scores = {probe: measured[name][probe] for probe in ("knn", "linear")}
    print(f"{name:>10}:", ", ".join(f"{probe} {s['value']:.1%} ({s['interval'][0]:.1%} to {s['interval'][1]:.1%})"
                                    for probe, s in scores.items()))

# %%
log = [line for line in measured["log"] if "loss" in line]
figure, axis = plt.subplots()
axis.plot([line["epoch"] for line in log], [line["loss"] for line in log], color=plots.COLORS["mocov3"])
axis.axhline(4 * r["temperature"] * torch.tensor(float(r["batch_size"])).log(), color=plots.COLORS["untrained"], ls="--")
axis.set(xlabel="epoch", ylabel="loss", title="MoCo v3 on Imagenette; dashed: guessing")
plots.show(figure, alt="The MoCo v3 loss on Imagenette falls over the epochs, well below the dashed line of guessing.")

# %% [markdown]
# *linear* is a linear probe: one linear layer trained on the frozen features, with labels. Brackets hold 95 % intervals over
# validation images, for one seed. A small network on one CPU core is far from the papers' ViT-B, and it stands clearly above its
# untrained self on both: the loss works on photographs.

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `raise NotImplementedError`, run the cell, read what the check says.

# %%
from lib.exercises import chapter02

# %% [markdown]
# ### Exercise 1 · ★☆☆ · 5 minutes
#
# A momentum encoder mixes in a new weight at every step. After how many steps does the weight it started with count only
# half? Write `half_life(momentum)` → steps, a float.
#
# *Hint:* after $n$ steps the old weight counts $m^n$.
#
# <details><summary>Solution</summary>
#
# ```python
# import math
#
# def half_life(momentum):
#     return math.log(0.5) / math.log(momentum)
# ```
#
# At 0.9 it is 6.6 steps, at 0.99 it is 69, at 0.999 it is 693: each further nine makes the memory ten times longer.
# </details>

# %%
def half_life(momentum):
    raise NotImplementedError


chapter02.check_half_life(half_life);

# %% [markdown]
# ### Exercise 2 · ★★☆ · 10 minutes
#
# SimCLR plays the same game in another way: the two views of all images go into one pot of $2B$ vectors, and each must find
# its partner among the $2B - 1$ *others*. There is no second network. Write `nt_xent(z1, z2, temperature)`, (B, D) twice →
# the mean loss over all $2B$ queries, without the factor $2\tau$.
#
# *Hint:* a vector must not choose itself; set the diagonal of the logits to minus infinity.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
# import torch.nn.functional as F
#
# def nt_xent(z1, z2, temperature):
#     z = F.normalize(torch.cat([z1, z2]), dim=1)                    # (2B, D)
#     logits = z @ z.T / temperature
#     logits.fill_diagonal_(-torch.inf)
#     partner = torch.arange(len(z)).roll(len(z1))                   # i <-> i + B
#     return F.cross_entropy(logits, partner)
# ```
#
# </details>

# %%
def nt_xent(z1, z2, temperature):
    raise NotImplementedError


chapter02.check_nt_xent(nt_xent);

# %% [markdown]
# ### Exercise 3 · ★★☆ · 10 minutes
#
# Wang and Isola (2020) split the game into two wishes. **Alignment**: partners lie close together, the mean of
# $\lVert a_i - b_i\rVert^2$. **Uniformity**: all points $a$ spread over the sphere, $\log$ of the mean of
# $e^{-2\lVert a_i - a_j\rVert^2}$ over pairs $i < j$. Both are small when things go well. Write
# `alignment_uniformity(a, b)`, (B, D) twice, not yet of length 1 → the two numbers, as a pair.
#
# *Hint:* `torch.pdist` gives the distances of all pairs $i < j$.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
# import torch.nn.functional as F
#
# def alignment_uniformity(a, b):
#     a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
#     alignment = (a - b).square().sum(1).mean()
#     uniformity = torch.pdist(a).square().mul(-2).exp().mean().log()
#     return alignment, uniformity
# ```
#
# Collapse is perfect alignment (0) and the worst uniformity (0 as well, its largest value).
# </details>

# %%
def alignment_uniformity(a, b):
    raise NotImplementedError


chapter02.check_alignment_uniformity(alignment_uniformity);

# %% [markdown]
# ### Exercise 4 · ★★★ · 15 minutes
#
# Collapse need not be total: features may fill only a few of their dimensions. The **effective rank** counts them (Roy and
# Vetterli 2007): divide the singular values of the feature matrix by their sum, take the entropy of these shares, and
# raise $e$ to it. Write `effective_rank(features)`, (N, D) → a number from 1 to min(N, D). Do not centre the features.
#
# *Hint:* `torch.linalg.svdvals`; and 0 log 0 is 0 (`torch.special.entr`).
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def effective_rank(features):
#     values = torch.linalg.svdvals(features)
#     return torch.special.entr(values / values.sum()).sum().exp()
# ```
#
# </details>

# %%
def effective_rank(features):
    raise NotImplementedError


chapter02.check_effective_rank(effective_rank);

# %% [markdown]
# ### Exercise 5 · ★★★ · 30 minutes
#
# Train a network yourself, from an empty page. You get a small `network` with random weights, images (B, 3, 32, 32) → vectors
# (B, D), and `two_views(step)`, which gives two views of the 128 images of step 0, 1, … `steps - 1`. Write `train_simclr(network,
# two_views, steps)`: SimCLR's game of exercise 2 at temperature 0.2, AdamW with a learning rate of 0.005; return a list with the loss
# of each step.
# The check lets it train for 60 steps (five seconds), and judges the network alone: does k-NN find at least 25 % more of the
# shapes than before?
#
# *Hint:* before you train for long, look at the first loss. What should it be near, if a network cannot tell 256 vectors apart?
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
# import torch.nn.functional as F
#
# def train_simclr(network, two_views, steps):
#     optimizer = torch.optim.AdamW(network.parameters(), lr=0.005)
#     losses = []
#     for step in range(steps):
#         view1, view2 = two_views(step)
#         z = F.normalize(torch.cat([network(view1), network(view2)]), dim=1)        # (2B, D)
#         logits = (z @ z.T / 0.2).fill_diagonal_(-torch.inf)
#         loss = F.cross_entropy(logits, torch.arange(len(z)).roll(len(view1)))
#         optimizer.zero_grad()
#         loss.backward()
#         optimizer.step()
#         losses.append(loss.item())
#     return losses
# ```
#
# The first loss is near log 255 = 5.54: a choice among 255 others. Then break it: leave `zero_grad` out, or the `fill_diagonal_`.
# Both still learn here, which is why such faults live long; a loss that falls is no proof that a loop is right.
#
# </details>

# %%
def train_simclr(network, two_views, steps):
    raise NotImplementedError


chapter02.check_train_simclr(train_simclr);

# %% [markdown]
# ## Find out
#
# No check stands behind this one: the answer is a measurement, and you make it.
#
# *What does the game need?* `knn_after` trains the network of section 4 anew with something changed, in about ten
# seconds, and asks k-NN. It takes `leave_out="crop"`, or `"jitter"`, `"grayscale"`, `"blur"`, `"solarize"`, `"flip"`,
# or several with commas between; `momentum=0.0`, which takes the keys from the network itself; `temperature=1.0`; any
# other field of the recipe. **Predict** which of these take the network down to an untrained one. Then train, with two
# seeds each: if two seeds of one setting lie as far apart as two settings, you have not seen a difference.

# %%
def knn_after(train, bank, val, seed=0, **changes):
    """Train for a hundred steps with something changed -> the share of shapes that k-NN finds."""
    trainer = Trainer(recipe("mocov3", "smoke", device="cpu", seed=seed, **changes), train)
    trainer.run()
    return knn_accuracy(*extract(trainer.objective.backbone, bank), *extract(trainer.objective.backbone, val))


# for seed in (0, 1):
#     print(knn_after(train, bank, val, seed, leave_out="crop"))

# %% [markdown]
# <details><summary>What came out for us</summary>
#
# | changed | seed 0 | seed 1 |
# |---|---|---|
# | nothing | 69 % | 73 % |
# | no crops | 69 % | 49 % |
# | no jitter | 58 % | 65 % |
# | no flip | 70 % | 71 % |
# | no blur, no grey, no solarisation | 74 % | 73 % |
# | none of the six | 35 % | 33 % |
# | `momentum=0.0` | 75 % | 75 % |
# | `temperature=1.0` | 73 % | 71 % |
#
# Without any augmentation both views are the same image, the game is won by comparing noise, and the network stays
# where it began: about a third. One augmentation less is survived; jitter and crops seem to matter most, but look at
# the two seeds without crops. Slow keys are no help in a hundred steps, which says nothing about a hundred epochs: what
# ten seconds can show ends here.
#
# </details>

# %% [markdown]
# ## What to take away
#
# - Two views of an image share what survives cropping, colour and blur; only that helps to find the partner.
# - InfoNCE is cross-entropy over "which of these is my partner?". If all keys are the same it is the logarithm of their number.
# - Pulling alone collapses, with slow keys or without, and its loss looks fine. Negatives prevent it; so do a predictor and a
#   stopped gradient together.
# - k nearest neighbours measure a representation without training anything on it. Beside the number stand the untrained
#   network, the plain pixels, and shuffled labels as a control.
#
# **Limits.** A hundred steps of a network with three blocks, on one seed, in a world so easy that plain pixels do better. Here
# the patch projection learns too; the paper freezes it, for stability. What depth and attention do in a trained model needs
# larger models (chapters 05 to 10).
#
# **References.** Chen, Xie and He 2021, *An Empirical Study of Training Self-Supervised Vision Transformers* (MoCo v3):
# Algorithm 1. van den Oord et al. 2018, *Representation Learning with Contrastive Predictive Coding*
# (InfoNCE). Grill et al. 2020 (BYOL). Caron et al. 2021, *Emerging Properties in Self-Supervised Vision Transformers* (DINO).
# Chen et al. 2020 (SimCLR). Wang and Isola 2020, *Understanding Contrastive Representation Learning through Alignment and
# Uniformity*. Roy and Vetterli 2007 (effective rank); Garrido et al. 2023 (RankMe).
