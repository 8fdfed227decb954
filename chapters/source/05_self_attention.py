# %% [markdown]
# # 05 · How do self-attentions behave?
#
# **After this chapter you can put numbers on where the heads of a trained network look, tell attention that reaches far
# from attention that has collapsed, and say which of it training made.**
#
# You will be able to
#
# 1. draw what a token attends to, head by head;
# 2. measure how far a head looks, and say why distance alone misleads;
# 3. measure whether it matters who is asking, with the normalised mutual information (NMI);
# 4. compare heads, tokens and depths, and find what of a similarity is there before training or shared by all images;
# 5. put published claims to a test that may answer *supported*, *not supported* or *inconclusive*.
#
# *You need:* chapters 01 to 03. *Time:* about 80 minutes to read, 45 for the exercises; the cells run in about 40 seconds
# on a CPU.

# %%
import matplotlib.pyplot as plt
import torch

from lib.analysis.attention import attention_maps, patch_attention
from lib.data import Loaded, Shapes
from lib.models import zoo
from lib.viz import plots

plots.style()
torch.set_num_threads(min(2, torch.get_num_threads()));

# %% [markdown]
# Numbers after the sign ≈ come from trained networks; their last digits may differ between processors.
#
# ## 1. Two fingers on one image
#
# The networks of this chapter are trained already and come with the course: 12 blocks of 6 heads, 96 wide, on images of
# 64 pixels in patches of 8. One learned by contrasting views (MoCo v3, chapter 02), one by filling in (SimMIM, chapter
# 03). Beside them stands an **untrained** network. Both were **trained three times**, from other first weights, with
# other views and another order of the images, and random weights were drawn three times: maps are drawn of the first
# training, and curves of all three wherever it matters. Whatever else ships joins in at the end.

# %%
source = Loaded(Shapes("val", size=64, length=256, difficulty="mild"))
networks = {name: zoo.load(name, "shapes") for name in [*zoo.names("shapes"), "untrained"]}
labels = {"mocov3": "MoCo v3", "simmim": "SimMIM", "untrained": "untrained"}
for name in zoo.names("shapes"):
    r = zoo.manifest()[f"shapes/{name}"]["recipe"]
    print(f"{name:>10}: {r['images']:,} images, {r['epochs']} epochs, {r['images'] * r['epochs'] // r['batch_size']:,} steps")

# %% [markdown]
# Put one finger on the ground and one on the object, as Park et al. do in Figure 2, and ask what these two patches attend
# to. Patch $n$ of an 8 × 8 grid lies in row `n // 8` and column `n % 8`, and its middle is 8 (row + ½) pixels down and 8
# (column + ½) across.
#
# CLS has no place on the grid, so it is dropped, from queries and keys, and what a patch gives to patches is divided by its
# sum. The library does this from logits; the logarithm of attention is its logits, up to a number for each row that softmax
# ignores.

# %%
image, block = source.images(torch.tensor([13])), 11
queries = {"ground": 8 * 6 + 1, "object": 8 * 3 + 4}
attention = {name: attention_maps(networks[name], image)[:, 0] for name in labels}  # (12, 6, 65, 65), CLS first
maps = {name: patch_attention(a.log(), prefix=1) for name, a in attention.items()}  # (12, 6, 64, 64), rows sum to 1


# %%
def draw_row(axes, picture, maps, query, label, patch=8):
    """The image (3, S, S) with the query marked, then a map for each head: (heads, P)."""
    side = picture.shape[-1] // patch
    row, column = divmod(query, side)
    axes[0].imshow(picture.permute(1, 2, 0))
    axes[0].plot(patch * (column + 0.5) - 0.5, patch * (row + 0.5) - 0.5, "rs", ms=5, mfc="none", mew=1.5)
    axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
    for axis, head in zip(axes[1:], maps):
        axis.imshow(head.reshape(side, side), vmin=0, vmax=6 / side**2)
        axis.plot(column, row, "rs", ms=4, mfc="none", mew=1)
    for axis in axes:
        axis.set(xticks=[], yticks=[])


# %%
figure, axes = plt.subplots(6, 7, figsize=(7.5, 6.4))
rows = [(name, finger) for name in labels for finger in queries]
for row, (name, finger) in zip(axes, rows):
    draw_row(row, image[0], maps[name][block - 1][:, queries[finger]], queries[finger], f"{labels[name]}\n{finger}")
for head, axis in enumerate(axes[0, 1:], start=1):
    axis.set_title(f"head {head}")
figure.suptitle(f"Where the marked patch looks, block {block}; yellow: six times a fair share (1/64) or more")
plots.show(figure, alt="Attention maps of two query patches in six heads of three networks; SimMIM's change with the query.")

# %% [markdown]
# In MoCo v3, both fingers get nearly the same six maps, whoever asks: a few patches of ground in head 1, and in the others
# nearly everything. In SimMIM, heads 1 and 3 answer the ground with the ground and the object with the object. The
# untrained network picks out little, and it too answers both much alike; keep that in mind.
#
# As a number: two maps **overlap** by $\sum_k \min(A[q, k], A[q', k])$, 1 if they are equal, 0 if they share no patch.

# %%
for name, label in labels.items():
    overlap = maps[name][block - 1][:, list(queries.values())].amin(1).sum(-1)  # (heads, 2, P) -> (heads,)
    print(f"{label:>9}: overlap ≈ {overlap.mean():.2f}")

# %% [markdown]
# One image, one block, two queries. Here is the ground's query in all blocks at once. Make it
# `"object"` and run again.

# %%
def mosaic(maps):
    """(blocks, heads, P) -> one picture, a row for each block and a column for each head."""
    rows, columns, side = *maps.shape[:2], int(maps.shape[2] ** 0.5)
    framed = torch.nn.functional.pad(maps.reshape(rows, columns, side, side), (0, 1, 0, 1), value=torch.nan)
    return framed.transpose(1, 2).reshape(rows * (side + 1), columns * (side + 1))


# %%
place = "ground"
down, across = (place_of.flatten() for place_of in torch.meshgrid(torch.arange(12), torch.arange(6), indexing="ij"))
figure, axes = plt.subplots(1, 3, figsize=(7.5, 5.4))
for axis, (name, label) in zip(axes, labels.items()):
    axis.imshow(mosaic(maps[name][:, :, queries[place]]), vmin=0, vmax=6 / 64)
    row, column = divmod(queries[place], 8)
    axis.plot(9 * across + column, 9 * down + row, "rs", ms=2.5, mfc="none", mew=0.6)
    axis.set(title=label, xlabel="head", xticks=range(4, 54, 9), xticklabels=range(1, 7), yticks=[])
axes[0].set(ylabel="block", yticks=range(4, 108, 9), yticklabels=range(1, 13))
figure.suptitle("Where it looks in every block and head; red: the patch that asks")
plots.show(figure, alt="Maps of one query in 12 blocks of 6 heads: SimMIM's early ones stay near the query, MoCo v3's do not.")

# %% [markdown]
# Many heads of SimMIM's blocks 2 and 3 look near the query, bottom left. In MoCo v3's blocks 2 to 10 some heads pick out
# the heart, though it is the ground that asks; its last two blocks look at nearly everything, but for a head or two. (The untrained network has such
# heads as well, fainter: a heart is brighter than its ground.) But 72 heads are too many to read one by one.
#
# ### Point at it yourself
#
# Run the next cell, then move the pointer over the image: all three networks show where that patch looks. A click keeps it,
# the arrow keys move it, C asks CLS; in the strip below each map, all blocks and heads, click the one you want to see.
# (Without a kernel you see a still picture.) Can you find a head of SimMIM that looks at the query's neighbours only? One
# that looks at the object whoever asks? (For instance block 2, head 3, and block 11, head 4.)
#
# *View* changes what the maps show: attention multiplied through all blocks up to this one (rollout, Abnar and Zuidema
# 2020), or how alike the tokens of a block are. *Your image …* lets the networks look at a picture of yours.

# %%
from lib.viz.explorer import explore

explore(source.images(torch.tensor([13, 5])), {label: networks[name] for name, label in labels.items()})

# %% [markdown]
# The next two sections make numbers of what you saw.
#
# ## 2. How far does a head look?
#
# $$ d_h = \frac{1}{P} \sum_q \sum_k A_h[q, k] \, \lVert r_q - r_k \rVert $$
#
# the distance in pixels from the query at $r_q$ to the patches it looks at, weighted by attention, mean over the $P$
# queries (Raghu et al. 2021). Try it on heads that we make up:

# %%
from lib.analysis.attention import attention_distance, normalized_mutual_information, patch_distances

pixels = patch_distances((8, 8), (8, 8))  # (64, 64), between the middles of patches
heads = {"itself": torch.eye(64), "neighbours": torch.softmax(-pixels.float() / 4, 1),
         "next patch": torch.eye(64).roll(1, 1), "everywhere": torch.full((64, 64), 1 / 64)}
made_up = torch.stack(list(heads.values()))[None]  # (1, 4, 64, 64)


# %%
def distance_loop(head, pixels):
    total = 0.0
    for query in range(len(head)):
        for key in range(len(head)):
            total += head[query, key].item() * pixels[query, key].item()
    return total / len(head)


# %%
library = attention_distance(made_up, pixels)[0]  # (4,)
for (name, head), distance in zip(heads.items(), library):
    print(f"{name:>10}: {distance:5.2f} px, loop = library: {abs(distance_loop(head, pixels) - distance) < 1e-4}")

# %% [markdown]
# **33.09 px is what a head gets that looks everywhere**, and that is a property of the grid alone. On the papers' grid of
# 14 × 14 patches of 16 pixels it is another number:

# %%
paper_uniform = patch_distances((14, 14), (16, 16)).mean().item()
print(f"uniform attention, 14 × 14 patches of 16 px: {paper_uniform:.2f} px")

# %% [markdown]
# **Predict, then run.** Park et al. find that contrastive learning looks globally and masked modelling locally. Which
# network will be *farthest from 33 px*, and in which blocks: MoCo v3, SimMIM or the untrained one?

# %%
from lib.analysis.attention import AttentionStatistics
from lib.analysis.recording import mean_and_error, record

found = {name: record(network, source, [AttentionStatistics()]) for name, network in networks.items()}
print({name: tuple(values.shape) for name, values in found["mocov3"].items()})  # (images, blocks, heads)

# %% [markdown]
# `record` runs a network once over the images and hands what each block makes to the metrics in the list (a metric's
# `measure` gets it, block by block; you will see some below). Here and below: mean over heads and 256 validation images. Where a line has a band, that is a 95 % interval over
# images, often thinner than the line; *error* below a figure is the standard error. (Of the names above, those that end
# in `_full` keep what patches give to CLS; this chapter does not use them.) The same curves of the other two trainings,
# and of two more draws of random weights, were written down by `python -m lib.analysis curves` on 500 images; they are
# the thin lines.

# %%
from lib.analysis.curves import written

again = {name: [written("shapes", f"{name}-seed{seed}") for seed in (1, 2)] for name in ("mocov3", "simmim", "mae")}
again["untrained"] = [written("shapes", f"mocov3-seed{seed}", "untrained") for seed in (1, 2)]


def draw_again(axis, again, name, quantity, scale=torch.as_tensor):
    """Thin lines: the other two trainings of a network, or two more draws of random weights."""
    for curves in again[name]:
        axis.plot(curves[quantity]["depth"], scale(torch.tensor(curves[quantity]["value"])), color=plots.COLORS[name], lw=0.9)


# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 3), sharey=True)
for axis, (name, label) in zip(axes, labels.items()):
    distance = found[name]["distance"].mean(0)  # (12, 6)
    axis.plot(range(1, 13), distance, "o", ms=3, color=plots.COLORS[name], alpha=0.4)
    axis.plot(range(1, 13), distance.mean(1), color=plots.COLORS[name], lw=2.5)
    draw_again(axis, again, name, "distance")
    axis.axhline(pixels.mean(), color="black", lw=1, ls="--")
    axis.set(title=label, xlabel="block", xticks=(1, 4, 8, 12), ylim=(0, 45))
axes[0].set_ylabel("attention distance, px")
figure.suptitle("Only SimMIM looks nearby, in blocks 2 to 4 and in every training")
figure.supxlabel("dots: heads; thick: their mean; thin: two more trainings; dashed: uniform attention", fontsize=9)
plots.show(figure, alt="Distance by block: MoCo v3 and untrained lie near the uniform value; SimMIM dips in block 2, comes close.")

# %%
for name, label in labels.items():
    mean, error = mean_and_error(found[name]["distance"].mean(2))
    print(f"{label:>9}: block 2 ≈ {mean[1]:.1f} px, block 12 ≈ {mean[-1]:.1f} px; error at most ≈ {error.max():.2f} px")

# %% [markdown]
# **SimMIM, in blocks 2 to 4: its second block looks at about half that distance**, three times out of three. Then it comes
# back up, and in the last block the trainings of the two methods overlap. MoCo v3 stays within 3 px of the uniform value in
# every block of every training, random weights within about 1; what training did to MoCo v3 is to spread its heads. In
# looking *far*, then, the network that has learned nothing is as good.
#
# But does SimMIM's last block look *everywhere*? A head that puts everything on one far patch also has a long distance. So
# ask how many patches a query spreads over. The **entropy** $H = -\sum_k A[q, k] \ln A[q, k]$ is $\ln 64 = 4.16$ for
# uniform attention, and $e^H$ reads as a number of patches.

# %%
def draw_depth(axis, values, **style):
    """Mean over images of (images, depths), and its 95 % band; the last depth is block 12."""
    mean, error = mean_and_error(values)
    depths = torch.arange(13 - len(mean), 13)
    axis.plot(depths, mean, **style)
    axis.fill_between(depths, mean - 1.96 * error, mean + 1.96 * error, color=style["color"], alpha=0.25, lw=0)


# %%
figure, axis = plt.subplots()
for name, label in labels.items():
    draw_depth(axis, found[name]["entropy"].mean(2).exp(), color=plots.COLORS[name], label=label, lw=2.5)
    draw_again(axis, again, name, "entropy", torch.exp)
axis.axhline(64, color="black", lw=1, ls="--", label="uniform")
axis.set(xlabel="block", ylabel="patches, $e^H$", xticks=range(1, 13), ylim=(0, 68), title="Patches a query spreads over")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(figure, alt="Patches a query spreads over, by block: untrained 40 to 57, MoCo v3 up to 46 to 55 at the end, SimMIM 12 to 32 from block 2 on.")

# %% [markdown]
# There is the difference. In the last block, MoCo v3 spreads over 46 to 55 of 64 patches, SimMIM over 18 to 24, at
# nearly the same distance. The first blocks of both choose more than random weights do; in its last two the first MoCo
# v3 is as even as those again, the other two are not. **Distance cannot tell "everywhere" from "a few places, some of
# them far"; read it beside the entropy.** Why does SimMIM look far here? The ground repeats its texture all over the
# image, so what is missing may be found anywhere; but section 6 shows another masked network on the same images that
# looks less far, so this cannot be all of it.
#
# ## 3. Does it matter who is asking?
#
# The two fingers of section 1 asked it for one pair of queries. For all of them at once: draw a query $q$ at random, each
# with probability $1/P$, then a key $k$ with probability $A[q, k]$. How much does $k$ tell about $q$? That is their mutual
# information,
#
# $$ I = \sum_{q, k} \frac{A[q, k]}{P} \ln \frac{A[q, k]}{p(k)} = H(k) - H(k \mid q), \qquad p(k) = \frac{1}{P} \sum_q A[q, k], $$
#
# where $H(k)$ is the entropy of the average row, and $H(k \mid q)$ the average entropy of a row. Divided by $\sqrt{H(q)
# H(k)}$, with $H(q) = \ln P$, it lies between 0 and 1: the **NMI**.
#
# **Predict, then run.** What is the NMI of the four heads made up above: itself, neighbours, next patch, everywhere? And of
# a fifth, in which all queries look at one key?

# %%
heads["one key"] = torch.zeros(64, 64).index_fill(1, torch.tensor([27]), 1.0)
for (name, head), nmi in zip(heads.items(), normalized_mutual_information(torch.stack(list(heads.values()))[None])[0]):
    print(f"{name:>10}: NMI {nmi.abs():.2f}, distance {distance_loop(head, pixels):5.2f} px")

# %% [markdown]
# *Next patch* is a permutation: each query has a key of its own, NMI 1, wherever that key lies. *Everywhere* and *one key*
# are opposite in entropy and both 0: no matter who asks, the answer is the same. Attention like that has **collapsed**.
# (Not the collapse of chapter 02: what the network gives still differs from image to image. Alike are the maps within one.)
# *Neighbours* lies between: many keys each, few of them shared. (For *one key* the formula says 0/0, for there H(k) is 0 too; it is called 0.)

# %%
from math import log


def nmi_loop(head):
    patches, p_k, information = len(head), head.mean(0).tolist(), 0.0
    for row in head.tolist():
        for a, p in zip(row, p_k):
            information += a / patches * log(a / p) if a > 0 else 0.0
    h_k = -sum(p * log(p) for p in p_k)
    return information / (log(patches) * h_k) ** 0.5


# %%
library = normalized_mutual_information(maps["simmim"][block - 1][None])[0]  # (6,)
print("loop = library, SimMIM's six heads:",
      all(abs(nmi_loop(head) - nmi) < 1e-4 for head, nmi in zip(maps["simmim"][block - 1], library)))

# %% [markdown]
# The library takes the two entropies instead of the double sum; exercise 3 is to do the same.
#
# **Predict, then run.** Section 2 found MoCo v3 and the untrained network alike. Will the NMI tell them apart?

# %%
figure, axis = plt.subplots()
for name, label in labels.items():
    draw_depth(axis, found[name]["nmi"].mean(2), color=plots.COLORS[name], label=label, lw=2.5)
    draw_again(axis, again, name, "nmi")
axis.set(xlabel="block", ylabel="NMI (log scale)", xticks=range(1, 13), yscale="log")
axis.set_title("SimMIM cares who asks; MoCo v3 stops caring")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(figure, alt="NMI by block, log scale: SimMIM stays above 0.1 from block 2, MoCo v3 falls below untrained.")

# %%
for name, label in labels.items():
    mean, error = mean_and_error(found[name]["nmi"].mean(2))
    print(f"{label:>9}: block 2 ≈ {mean[1]:.3f}, block 12 ≈ {mean[-1]:.4f}; error at most ≈ {error.max():.4f}")

# %% [markdown]
# It does. In the first blocks both trained networks ask *who*, more than the untrained one. Then they part: SimMIM stays
# above 0.1 in every training, and MoCo v3 falls below the untrained network in its last two blocks, in every training (one
# of the three comes back up twice on its way). **In its last blocks every query of MoCo v3 gets the same answer: Park et
# al.'s attention collapse.** In blocks 7 to 10 of the first training that answer is a choice, of fewer patches than the
# untrained network takes; in the last two it is nearly everything.
#
# Mind the control, though. Untrained attention is nearly collapsed as well. In the last block, training took the first MoCo
# v3 from about 0.01 to a thirtieth of it; counted in plain units, the larger step is SimMIM's.
#
# ### When CLS takes it all
#
# CLS was dropped from the keys, and rows divided by their sums. In these networks CLS gets little:

# %%
for name, label in labels.items():
    print(f"{label:>9}: CLS gets at most ≈ {found[name]['prefix_mass'].mean((0, 2)).max():.1%} of a block's attention")

# %% [markdown]
# Elsewhere it may get nearly all. Then what is left for patches is a tiny number, and whoever adds $10^{-8}$ to each before
# the division, to keep away from $\ln 0$, mixes in a *uniform* head. See what that does. Take SimMIM's last block and set
# the logit of CLS so that it leaves a given share to the patches; *among themselves* they share it as before.

# %%
def naive_nmi(attention):
    """Drop CLS, add a little against log 0, divide by the sum: (H, N, N) -> (H,)."""
    patches = attention[..., 1:, 1:] + 1e-8
    return normalized_mutual_information((patches / patches.sum(-1, keepdim=True))[None])[0]


# %%
logits = attention["simmim"][-1].log()  # (6, 65, 65)
for share in (0.99, 1e-2, 1e-4, 1e-5, 1e-6, 1e-7):
    logits[..., 0] = logits[..., 1:].logsumexp(-1) + log((1 - share) / share)
    naive, safe = naive_nmi(logits.softmax(-1)).mean(), normalized_mutual_information(patch_attention(logits)[None]).mean()
    print(f"left for patches {share:>6g}: naive NMI ≈ {naive:.3f}, from logits ≈ {safe:.3f}")

# %% [markdown]
# Nothing about *where patches look* changed, and the naive number falls to nothing: a collapse made by the measurement.
# Softmax over the logits of the patches alone never sees how much is left. That is what the library does.
#
# ### Beside the published curves
#
# Park et al. publish code for a MoCo v3 ViT-B/16 trained on ImageNet: 12 blocks as here, on a grid of 14 × 14. The numbers
# below are read off the figures saved in their notebook, from one batch of photographs, to about 0.3 px and 0.003.
# Distances are comparable only as a share of the grid's uniform value; and NMI too depends on the grid. We have no such
# numbers for SimMIM.

# %%
paper = {"distance": [110.5, 89.2, 73.1, 69.5, 72.8, 81.4, 88.2, 79.7, 95.7, 101.2, 109.8, 113.6],
         "nmi": [.062, .122, .321, .296, .238, .180, .145, .171, .093, .077, .029, .009]}
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8))
for axis, quantity, ours, theirs in zip(axes, paper, (pixels.mean(), 1), (paper_uniform, 1)):
    for name in ("untrained", "mocov3"):
        draw_depth(axis, found[name][quantity].mean(2) / ours, color=plots.COLORS[name], label=f"{labels[name]}, here")
    axis.plot(range(1, 13), [value / theirs for value in paper[quantity]], "k--", label="published")
    axis.set(xlabel="block", xticks=range(1, 13), ylim=(0, None))
axes[0].set(ylabel="distance, share of uniform", title="Distance of MoCo v3")
axes[1].set(ylabel="NMI", title="NMI of MoCo v3")
axes[0].legend(loc="lower right")
plots.show(figure, alt="MoCo v3: the published distance dips and rises, ours hardly; both NMI rise to block 3, then fall.")

# %% [markdown]
# The NMI has the same course, up to block 3 and then down to nearly 0, on a lower level; the untrained network (grey) has a
# trace of it. The distance has not: the published network looks at closer range in blocks 3 to 5 and reaches out again,
# ours dips by less than a tenth. Two likely reasons, not tested: a thousand steps are few, and where textures repeat there
# is little to be had nearby that is not also far away.
#
# ### On photographs
#
# Is it the shapes' doing, then, that the distance hardly dips? The same body was trained on photographs too (Imagenette,
# chapter 04). What its networks do with 500 photographs they have not seen was written down by `python -m lib.analysis
# curves imagenette/NAME`.

# %%
from lib.evaluation.table import NAMES

inside = {name: written("imagenette", name) for name in ("mocov3", "simmim", "mae")}
inside["untrained"] = written("imagenette", "mocov3", "untrained")
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8))
for axis, quantity in zip(axes, ("distance", "nmi")):
    for name, curves in inside.items():
        c = curves[quantity]
        axis.plot(c["depth"], c["value"], color=plots.COLORS[name], label=NAMES[name])
        axis.fill_between(c["depth"], c["low"], c["high"], color=plots.COLORS[name], alpha=0.25, lw=0)
    axis.set(xlabel="block", xticks=range(1, 13))
axes[0].set(ylabel="attention distance, px", title="Distance, photographs", ylim=(0, None))
axes[1].set(ylabel="NMI (log scale)", title="NMI, photographs", yscale="log")
axes[0].legend(loc="lower right", fontsize=8)
plots.show(figure, alt="On photographs: SimMIM's distance dips to 7 px in block 3, MAE's begins at 26, the others stay near 30; MoCo v3's NMI ends near 0.")

# %% [markdown]
# No: on photographs too MoCo v3's distance dips little, to 29 px in block 2, so repeating textures cannot be the whole
# reason. The two methods differ more in distance than on shapes, and less in late NMI. **SimMIM's blocks 2 to 4 look 7
# to 15 px far, block 3 hardly beyond the patch itself, and late (blocks 7 to 12) it still looks some 3 px less far than
# MoCo v3. MoCo v3's NMI falls below that of random weights from block 8 on** (on shapes from block 6, 9 and 7): there
# every query gets nearly the same map. MAE, masked modelling with a decoder, starts between the two and ends at MoCo
# v3's distance; its NMI ends between MoCo v3's and that of random weights.
#
# ## 4. Who is like whom?
#
# If all queries get one answer, tokens may grow alike; and heads that look alike are heads too many. Park et al. compare
# heads, depths and tokens by cosine similarity. Each comparison has a trap.
#
# ### Heads
#
# Take what two heads give the same patch, $(A_h V_h)[n]$, a vector of 16 numbers each, and their cosine; mean over pairs of
# heads and over patches. The trap: turn the values of each head by a rotation of its own. The projection behind the heads
# can turn them back, so this is *the same network*. Does the similarity stay?

# %%
from lib.analysis.attention import HeadSimilarity


class TurnedHeads(HeadSimilarity):
    """The same, after the values of each head were turned by a random rotation."""

    def measure(self, depth, attention):
        _, heads, _, width = attention.values.shape
        random = torch.randn(heads, width, width, generator=torch.Generator().manual_seed(depth))
        turned = attention._replace(values=attention.values @ torch.linalg.qr(random).Q)
        return {"turned_similarity": super().measure(depth, turned)["head_similarity"]}


# %% [markdown]
# The maps themselves do not depend on such a choice. So compare where two heads look from the same patch:

# %%
from lib.analysis.attention import MapSimilarity

for name in labels:
    found[name] |= record(networks[name], source, [HeadSimilarity(), TurnedHeads(), MapSimilarity()])
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True)
for name, label in labels.items():
    draw_depth(left, found[name]["head_similarity"], color=plots.COLORS[name])
    draw_depth(left, found[name]["turned_similarity"], color=plots.COLORS[name], ls=":")
    draw_depth(right, found[name]["map_similarity"], color=plots.COLORS[name], label=label)
left.set(xlabel="block", ylabel="cosine of two heads", ylim=(-0.2, 1), title="What heads give; dotted: values turned")
right.set(xlabel="block", title="Where heads look")
right.legend(loc="upper left", ncols=3, columnspacing=1, handlelength=1)
plots.show(figure, alt="Left: what heads give has cosines near 0, turned or not. Right: both trained ones lie below the untrained; at the end SimMIM's far below.")

# %% [markdown]
# Left, everything is within about 0.1 of zero, and rotations that change nothing about what the network computes change
# the number by as much as training does: here the measure says nothing. Right, the two trained networks cross several
# times, and in the last two blocks MoCo v3's heads look at more similar places. The untrained network's heads are
# *more* alike still, in all blocks but one: maps that are nearly uniform are all alike. Training made the heads of both
# differ more; at the end MoCo v3's are back near random weights, SimMIM's are not.
#
# ### Tokens
#
# **Predict, then run.** Two patch tokens of one image have a mean cosine of about 0.9 in MoCo v3's last block. Now take the
# two tokens from *different* images. Is their cosine about 0, 0.4 or 0.9?

# %%
from lib.analysis.attention import DepthSimilarity, TokenSimilarity


class Strangers(TokenSimilarity):
    """The same for tokens of 64 different images: place j of row b comes from image b + j of the batch."""

    def measure(self, depth, tokens):
        places = torch.arange(tokens.shape[1])
        images = (torch.arange(len(tokens))[:, None] + places) % len(tokens)  # (B, N)
        return {"stranger_similarity": super().measure(depth, tokens[images, places])["token_similarity"]}


class Centred(TokenSimilarity):
    """The same after the mean token of the batch is taken out."""

    def measure(self, depth, tokens):
        common = tokens[:, self.layout.prefix:].mean((0, 1))  # prefix: tokens before the patches, here CLS
        return {"centred_similarity": super().measure(depth, tokens - common)["token_similarity"]}


# %%
for name in labels:
    found[name] |= record(networks[name], source, [TokenSimilarity(), Strangers(), Centred(), DepthSimilarity()])
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True)
for name, label in labels.items():
    draw_depth(left, found[name]["token_similarity"], color=plots.COLORS[name], label=label)
    draw_depth(left, found[name]["stranger_similarity"], color=plots.COLORS[name], ls=":")
    draw_depth(right, found[name]["centred_similarity"], color=plots.COLORS[name])
left.set(xlabel="depth", ylabel="cosine of two patch tokens", ylim=(0, 1), title="MoCo v3's tokens are alike, across images too")
left.plot([], [], ":", color="black", label="different images")
right.set(xlabel="depth", title="Of one image, mean token taken out")
left.legend(loc="upper left", fontsize=7.5, borderaxespad=0)
plots.show(figure, alt="Left: MoCo v3's tokens grow alike, across images too. Right: without the mean, all end near 0.2.")

# %%
for name, label in labels.items():
    own, strangers, centred = (found[name][f"{kind}_similarity"][:, -1].mean() for kind in ("token", "stranger", "centred"))
    print(f"{label:>9}, last block: one image ≈ {own:.2f}, different images ≈ {strangers:.2f}, mean taken out ≈ {centred:.2f}")

# %% [markdown]
# About 0.9 again. MoCo v3's tokens are alike, far more than SimMIM's, as the paper has it. But nearly all of that is **one
# vector that all tokens of all images share**: tokens of strangers are just as alike, and the untrained network has such a
# vector too. Take it out, and MoCo v3's tokens are the *least* alike of the three. A cosine around a mean that is not zero
# measures the mean.
#
# ### Depths
#
# How much does a block change its tokens? Cosine of a token before and after each block:

# %%
figure, axis = plt.subplots()
for name, label in labels.items():
    draw_depth(axis, found[name]["block_similarity"], color=plots.COLORS[name], label=label)
axis.set(xlabel="block", ylabel="cosine before and after", xticks=range(1, 13), ylim=(0.5, 1))
axis.set_title("Late blocks change little")
axis.legend(loc="lower right")
plots.show(figure, alt="Cosine of tokens before and after each block: about 0.95 or more late, highest in MoCo v3.")

# %% [markdown]
# In all three, late blocks change tokens little; MoCo v3's change them least, and about 0.01 separates it from SimMIM. The
# trap is the same: where tokens share a long vector, a cosine stays near 1 whatever a block does to the rest.
#
# ### How far did training go?
#
# A control for all of this chapter. The untrained network has exactly the weights from which the others started (the
# same seed). So compare the weights that make queries, keys and values with what they were, by cosine:

# %%
def attention_weights(network):
    return torch.cat([block.attn.qkv.weight.detach().flatten() for block in network.blocks])


start = attention_weights(networks["untrained"])
moved = {name: torch.cosine_similarity(attention_weights(network), start, dim=0) for name, network in networks.items()}
print({name: f"≈ {cosine:.3f}" for name, cosine in moved.items()})
other_start = attention_weights(zoo.untrained("shapes", seed=1))
print(f"another seed ≈ {torch.cosine_similarity(other_start, start, dim=0):.3f}")

# %% [markdown]
# A cosine near 1 does not mean that nothing happened; the coloured curves above do leave the grey ones. MoCo v3's weights
# have turned away from where they began by less than SimMIM's, in nearly as many steps (section 1). DINO took as many steps
# as MoCo v3, at a quarter of its learning rate (two trials with more did worse), and has hardly moved: read what differs
# between it and the others as *objective and amount of training together*. And that attention is global and nearly
# collapsed is true of the start already. What training added is what differs from the grey curves.
#
# ## 5. Shown something else
#
# Are these properties of the networks, or of the images we show them? Two photographs come with scikit-learn. Cut out 64
# squares, make them 64 pixels wide, and measure again. The networks of shapes have never seen a photograph, nor a colour;
# those of Imagenette have seen nothing else.

# %%
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2.functional import resized_crop

photographs = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in load_sample_images().images]  # (3, 427, 640)
draw = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
crops = []
for i, (size, y, x) in enumerate(draw.tolist()):
    width = int(160 + 260 * size)
    crops.append(resized_crop(photographs[i % 2], int(y * (427 - width)), int(x * (640 - width)), width, width, [64, 64]))
crops = torch.stack(crops)  # (64, 3, 64, 64) uint8


# %%
figure, axes = plt.subplots(4, 7, figsize=(7.5, 4.4))
places = {"sky": 8 * 1 + 1, "pagoda": 8 * 5 + 4}
rows = [(name, place) for name in ("mocov3", "simmim") for place in places]
for row, (name, place) in zip(axes, rows):
    shown = patch_attention(attention_maps(networks[name], crops[:1])[block - 1].log())[0]  # (6, 64, 64)
    draw_row(row, crops[0], shown[:, places[place]], places[place], f"{labels[name]}\n{place}")
for head, axis in enumerate(axes[0, 1:], start=1):
    axis.set_title(f"head {head}")
figure.suptitle(f"Where the marked patch looks, block {block}; yellow: six times a fair share or more")
plots.show(figure, alt="Attention maps on a photograph: MoCo v3's are much the same for two queries, SimMIM's differ.")

# %% [markdown]
# (Photograph: *china.jpg* by danielbuechele, [CC BY 2.0](https://creativecommons.org/licenses/by/2.0/), cropped and
# reduced.) The habit is the same: MoCo v3's head 1 lights up the same pieces of roof for both queries, SimMIM's heads
# change with the query.
#
# As numbers: each network on the drawn world, the validation images of section 2, and on squares of these two photographs
# (which are not Imagenette's).
#
# **Predict, then run.** Whose late attention will depend most on what it is shown: MoCo v3's or that of masked modelling?
# And in which world of training?

# %%
from lib.analysis.recording import layout_of, observe


def statistics(network, images):
    metric, layout = AttentionStatistics(), layout_of(network, images)
    metric.start(layout)
    observe(network, images, [metric], layout)
    return metric.compute()


# %%
photographed = {name: zoo.load(name, "imagenette") for name in ("mocov3", "simmim", "mae")}
trained_on = {"shapes": {name: networks[name] for name in ("mocov3", "simmim", "mae")}, "photos": photographed,
              "nothing": {"untrained": networks["untrained"]}}
late = slice(6, 12)  # blocks 7 to 12
print("                      late NMI, shown       late distance, shown\n"
      "network    trained on shapes    photographs shapes     photographs")
for learned_from, those in trained_on.items():
    for name, network in those.items():
        drawn = record(network, source, [AttentionStatistics()]) if learned_from == "photos" else found[name]
        (nmi, px), (photo_nmi, photo_px) = ([x[q][:, late].mean() for q in ("nmi", "distance")]
                                            for x in (drawn, statistics(network, crops)))
        print(f"{NAMES[name]:10} {learned_from:10} ≈ {nmi:.3f}  ≈ {photo_nmi:.3f}     ≈ {px:.1f} px  ≈ {photo_px:.1f} px")

# %% [markdown]
# - **MoCo v3's late NMI is 0.003 to 0.007 in all four combinations**: one map for every query is a habit of these two
#   networks, whatever they were trained on and whatever they are shown.
# - Masked modelling of *shapes* keeps its habits on photographs too, nearly.
# - Masked modelling of *photographs* keeps less. Shown shapes, MAE looks as far as random weights do, and its NMI falls to
#   a ninth of that on these squares (and to a quarter of the 0.02 that it has on Imagenette's own validation images).
#   SimMIM's NMI stays far above random weights', whatever it is shown, and it looks less far.
#
# So a habit of a *method* has to be shown on more than one kind of images. (Two photographs are no sample of photographs,
# so there is no interval.)
#
# ## 6. Does it hold?
#
# Each line below is what Park et al. lead one to expect, or a control beside it, turned into *one number an image that
# should be positive*. It is **supported** if the 95 % interval of its mean over images lies above 0, **not supported** if
# it lies below, **inconclusive** if it holds 0. Differences are taken image by image, *late* means blocks 7 to 12, *early*
# 1 to 6.

# %%
from lib.evaluation.report import bootstrap_mean


def verdict(values):
    """(images,) -> one line: mean, interval and verdict."""
    low, high = bootstrap_mean(values)
    word = "supported" if low > 0 else "not supported" if high < 0 else "inconclusive"
    return f"≈ {values.mean():.4f} (≈ {low:.4f} to ≈ {high:.4f})  {word}"


# %%
def by_image(results, quantity, blocks=slice(6, 12)):
    """Mean over blocks, and over heads where there are any: (images, blocks[, heads]) -> (images,)."""
    return results[quantity][:, -12:][:, blocks].flatten(1).mean(1)


# %%
moco, simmim, control = (found[name] for name in labels)
gap = [by_image(moco, "distance", blocks) - by_image(simmim, "distance", blocks) for blocks in (slice(6), slice(6, 12))]
claims = {
    "late: MoCo v3 looks further than SimMIM, px": gap[1],
    "that gap is larger late than early, px": gap[1] - gap[0],
    "MoCo v3 looks further in block 12 than in block 8, px": by_image(moco, "distance", [11]) - by_image(moco, "distance", [7]),
    "late: MoCo v3's NMI is below SimMIM's": by_image(simmim, "nmi") - by_image(moco, "nmi"),
    "late: MoCo v3's NMI is below untrained": by_image(control, "nmi") - by_image(moco, "nmi"),
    "MoCo v3's NMI is lower in block 12 than in block 3": by_image(moco, "nmi", [2]) - by_image(moco, "nmi", [11]),
}
alike = {"maps of MoCo v3's heads more alike than": "map_similarity", "MoCo v3's tokens more alike than": "token_similarity",
         "the same, mean token taken out, than": "centred_similarity", "MoCo v3's blocks change less than": "block_similarity"}
for other, results in {"SimMIM's": simmim, "untrained": control}.items():
    for claim, quantity in alike.items():
        claims[f"late: {claim} {other}"] = by_image(moco, quantity) - by_image(results, quantity)

# %%
for claim, values in claims.items():
    print(f"{claim:<55} {verdict(values)}")

# %% [markdown]
# These intervals say what other *images* would give. They say nothing of what another *training* would. So here are the
# paper's sentences again, put to all three trainings by chapter 13, whose verdicts are over trainings and images.
#
# **Predict, then run.** Which of the *supported* lines will no longer be?

# %%
from IPython.display import Markdown, display

from lib.analysis.claims import ledger

entries = ledger.of_world(ledger.written(), "shapes")
display(Markdown(ledger.over_trainings([entries[id] for id in ("park-1", "park-2", "park-3")])))

# %% [markdown]
# - **Collapse holds, in all three trainings**: late, MoCo v3's NMI is far below SimMIM's, and in its last two blocks
#   below random weights'. (Random weights, DINO and the hybrid have a low NMI too; what stands out are the high ones of
#   the masked networks. Over blocks 7 to 12 together the second MoCo v3 is only level with random weights.)
# - **"Looks further" is open again.** Over images it was *supported*, by half a pixel of 33. In three trainings it is half a
#   pixel, one and a half, half a pixel: never against the paper, and three numbers so far apart allow a mean of 0. Block 12
#   against block 8 even changes its sign. The intervals over images were right, and were about one network.
# - **The gap is wider early than late, every time**: it is in blocks 2 to 4 that SimMIM looks nearby.
# - **Alike** holds against SimMIM for heads, tokens and depths. (On photographs it turns round for heads and depths,
#   and holds for tokens alone: park-3 in chapter 13.) Against the untrained network it fails for heads. And for tokens
#   it is the shared vector alone: without it, MoCo v3's are *less* alike than either's (first training).
#
# ### Is it the method, or the network?
#
# SimMIM has not collapsed, and looks nearly as far as MoCo v3 late. Is that masked modelling? MAE is masked modelling too
# (chapter 03), on the same images and the same grid. (It learned from a quarter of the patches; here it is shown all.)
#
# **Predict, then run.** Three lines for each objective. In which of the two quantities will MAE's side with SimMIM's?

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8))
for axis, quantity in zip(axes, ("distance", "nmi")):
    for name in ("mocov3", "simmim", "mae", "untrained"):
        axis.plot(range(1, 13), found[name][quantity].mean((0, 2)), color=plots.COLORS[name], lw=2, label=NAMES[name])
        draw_again(axis, again, name, quantity)
    axis.set(xlabel="block", xticks=range(1, 13))
axes[0].set(ylabel="attention distance, px", title="MAE looks nearby for longer", ylim=(0, None))
axes[1].set(ylabel="NMI (log scale)", title="Two of three MAE end at random weights or below", yscale="log")
axes[0].legend(loc="lower right", fontsize=8)
plots.show(figure, alt="Three lines each: MoCo v3's NMI ends at 0, SimMIM's at .15; of MAE two of three end near 0. Distances overlap late.")

# %% [markdown]
# **MAE is the more local, and where it ends is a matter of the training.** All three look at closer range than SimMIM
# in blocks 6 to 10, so the small gap in distance above is SimMIM's, and not one of masked modelling as such. But in two
# of three the NMI comes down, from .016 to .005 in one and from .029 to .017 in the other between blocks 11 and 12, where
# random weights have about .015; only the first training (.130 and .086) has not collapsed. Contrast is not needed for it, and masks do not
# prevent it. On photographs (section 3) MAE's NMI too falls below that of random weights, in its last two blocks, and stays
# about five times MoCo v3's; there SimMIM is the more local.
#
# The same quantities for every network of shapes, first training, blocks 7 to 12:

# %%
print(f"{'':>10}   distance      patches      NMI        weights against the start")
for name, results in found.items():
    px, entropy, nmi = (results[quantity][:, late].mean() for quantity in ("distance", "entropy", "nmi"))
    print(f"{name:>10}   ≈ {px:.1f} px   ≈ {entropy.exp():.0f} of 64   ≈ {nmi:.3f}   cosine ≈ {moved[name]:.3f}")

# %% [markdown]
# The hybrid looks about as far as MoCo v3, and its NMI is nearer to MoCo v3's than to SimMIM's (chapter 11 has three
# trainings of it). DINO, whose weights hardly moved, is where random weights are.
#
# ## Exercises
#
# Write your answer where it says `raise NotImplementedError`, run the cell, read what the check says.

# %%
from lib.exercises import chapter05

# %% [markdown]
# ### Exercise 1 · ★☆☆ · 5 minutes
#
# You have attention with CLS in it, as probabilities. Write `drop_cls(attention)`, (B, H, N, N) → (B, H, N − 1, N − 1):
# patches as queries, patches as keys, each row divided by what is left of it. CLS is the first token.
#
# *Hint:* `keepdim=True`.
#
# <details><summary>Solution</summary>
#
# ```python
# def drop_cls(attention):
#     patches = attention[:, :, 1:, 1:]                              # rows are queries
#     return patches / patches.sum(-1, keepdim=True)
# ```
#
# </details>

# %%
def drop_cls(attention):
    raise NotImplementedError


chapter05.check_drop_cls(drop_cls);

# %% [markdown]
# ### Exercise 2 · ★★☆ · 10 minutes
#
# Images need not be square. Write `attention_distance(attention, rows, columns, patch)`: attention of H heads (H, P, P)
# over a grid of `rows` × `columns` patches, numbered row by row, each `patch` pixels wide and high → pixels for each head,
# (H,). No loop over patches.
#
# *Hint:* `torch.cartesian_prod` gives the places, `torch.cdist` their distances.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def attention_distance(attention, rows, columns, patch):
#     places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) * patch   # (P, 2)
#     pixels = torch.cdist(places.double(), places.double())                            # (P, P)
#     return (attention * pixels).sum(-1).mean(-1)                                      # over keys, then queries
# ```
#
# </details>

# %%
def attention_distance(attention, rows, columns, patch):
    raise NotImplementedError


chapter05.check_attention_distance(attention_distance);

# %% [markdown]
# ### Exercise 3 · ★★☆ · 10 minutes
#
# Write `nmi(attention)`, (H, P, P) → (H,), from two entropies and without a loop. Neither a zero in the attention nor a
# head whose queries all look at one key may make nan of it; the latter is 0.
#
# *Hint:* `torch.special.entr(p)` is −p ln p, and 0 at 0.
#
# <details><summary>Solution</summary>
#
# ```python
# import math
# import torch
#
# def nmi(attention):
#     h_q = math.log(attention.shape[-1])                            # queries are uniform
#     h_k = torch.special.entr(attention.mean(-2)).sum(-1)           # entropy of the mean row
#     h_k_given_q = torch.special.entr(attention).sum(-1).mean(-1)   # mean entropy of a row
#     return (h_k - h_k_given_q) / (h_q * h_k).sqrt().clamp(min=1e-6)   # 0, not 0/0, where all look at one key
# ```
#
# </details>

# %%
def nmi(attention):
    raise NotImplementedError


chapter05.check_nmi(nmi);

# %% [markdown]
# ### Exercise 4 · ★★☆ · 5 minutes
#
# A long distance and collapse are two things. Make a head that looks further than uniform attention *and* has an NMI of 1.
# Write `far_head(side)` → attention (P, P) over a grid of side × side patches, P = side², for an even side.
#
# *Hint:* a permutation. Where is the patch that lies opposite?
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def far_head(side):
#     return torch.eye(side**2).flip(0)
# ```
#
# Patch n looks at patch P − 1 − n, the point reflection through the middle of the image.
# </details>

# %%
def far_head(side):
    raise NotImplementedError


chapter05.check_far_head(far_head);

# %% [markdown]
# ### Exercise 5 · ★★★ · 15 minutes
#
# How alike are the heads of a block? Write `head_similarity(attention)`, maps over patches (B, H, P, P) → (B,): the cosine
# of two different heads' maps for the same query, mean over all pairs of heads and all queries.
#
# *Hint:* make rows of length 1; then the cosines of all pairs are one `einsum`. Leave out the pairs of a head with itself.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
# import torch.nn.functional as F
#
# def head_similarity(attention):
#     units = F.normalize(attention, dim=-1)                         # (B, H, P, P)
#     cosines = torch.einsum("bgqk,bhqk->bqgh", units, units).mean(1)               # (B, H, H)
#     different = ~torch.eye(attention.shape[1], dtype=torch.bool)
#     return cosines[:, different].mean(1)
# ```
#
# </details>

# %%
def head_similarity(attention):
    raise NotImplementedError


chapter05.check_head_similarity(head_similarity);

# %% [markdown]
# ## Find out
#
# No check stands behind this one: the answer is a measurement, and you make it.
#
# *Are the heads that ask who is asking the heads that look nearby?* Section 2 measured where each of 72 heads looks, section
# 3 whether it matters who asks, and the two were never put beside each other. Draw one against the other, a dot a head, for
# SimMIM and for MAE. **Predict** first: can a head have a high NMI and look far? (Exercise 4 says that it could.)

# %%
by_head = {name: (found[name]["distance"].mean(0).flatten(), found[name]["nmi"].mean(0).flatten()) for name in ("simmim", "mae")}
print({name: tuple(distance.shape) for name, (distance, nmi) in by_head.items()})

# figure, axes = plt.subplots(1, 2)
# ...

# %% [markdown]
# <details><summary>What came out for us</summary>
#
# ```python
# figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
# for axis, (name, (distance, nmi)) in zip(axes, by_head.items()):
#     axis.scatter(distance, nmi, c=torch.arange(1, 13).repeat_interleave(6), s=14)
#     axis.set(xlabel="attention distance, px", ylabel="NMI", title=name)
# ```
#
# In MAE nearly so: the rank correlation is −0.9, and all heads with an NMI above 0.2, half of the 72, look less than 28
# px far. In SimMIM only in part, −0.5: its 15 heads with so high an NMI lie in blocks 2 to 4 but for one (the colour is
# the block), and look between 12 and 32 px far, nearly as far as uniform attention. Later ones with an NMI of 0.15 look
# 31 px far: they answer each query with places of its own, far away. What they look for there, the maps of section 1
# can tell you.
#
# </details>

# %% [markdown]
# ## What to take away
#
# - Attention distance is pixels from a query to where it looks. The grid alone sets its value for uniform attention; beside
#   it stands the entropy, because "everywhere" and "a few places far and near" have the same distance.
# - NMI asks whether the answer depends on who asks: 0 is collapse, 1 a permutation. Drop CLS from the logits, or divide
#   without adding anything to what is left.
# - Here as in the paper, the contrastive network's late attention has collapsed and the masked one's has not. (MAE's
#   ends at random weights' or below, on photographs and in two of three trainings on shapes.) What that costs and what not
#   is asked elsewhere: outlines in chapter 04, the hybrid in 11.
# - Here, unlike the paper, SimMIM's attention is local in blocks 2 to 4, and nearly as far-reaching as MoCo v3's in its
#   last ones. A pixel more or less is a matter of the training.
# - A cosine may measure a choice of basis (heads) or a mean that everybody shares (tokens). Turn, centre, and ask
#   strangers.
# - The untrained network's attention is global and nearly collapsed. Only what differs from it was learned.
#
# **Limits.** Intervals are over images; three trainings are drawn or in the table of section 6 for MoCo v3, SimMIM and
# MAE on shapes, and everything else is one network of each kind. Steps differ from network to network (section 1), and
# a step of MoCo v3 costs several of SimMIM's. An 8 × 8 grid, grey images with repeating textures. The published numbers
# come from another grid, other data and a far longer training, and were read off figures.
#
# **References.** Park et al. 2023, *What Do Self-Supervised Vision Transformers Learn?*, section 2, Figures 2 to 5. Raghu
# et al. 2021, *Do Vision Transformers See Like Convolutional Neural Networks?* (attention distance). Chen, Xie and He 2021
# (MoCo v3). Xie et al. 2022 (SimMIM). Abnar and Zuidema 2020, *Quantifying Attention Flow in Transformers* (rollout).
