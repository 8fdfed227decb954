# %% [markdown]
# # 09 · Do ViTs see like CNNs?
#
# **After this chapter you can hold two networks of different kinds against each other, layer by layer, and say which of
# their differences come from the architecture, which from training, and which from too few images.**
#
# You will be able to
#
# 1. compare layers of any two networks by CKA, and choose the estimator that does not call everything alike;
# 2. read a CKA heat map beside the one thing that makes it readable, that of untrained networks;
# 3. find local and global heads, and measure how far a unit of a ViT and of a CNN sees;
# 4. measure what skip connections carry, and say what removing one shows;
# 5. ask whether a token still stands for its place;
# 6. say which findings of Raghu et al. (2021) show in small networks, and which cannot.
#
# *You need:* chapters 01 and 05. *Time:* about 90 minutes to read, 35 for the exercises; the cells run in about 40
# seconds on a CPU.

# %%
import re

import matplotlib.pyplot as plt
import torch

from lib.analysis.similarity import CKA, Representations, gram, linear_cka
from lib.data import Shapes
from lib.data.views import normalize
from lib.evaluation.table import written
from lib.models import mixer, resnet, zoo
from lib.viz import plots

plots.style()
torch.set_num_threads(min(2, torch.get_num_threads()));

# %% [markdown]
# Numbers after the sign ≈ come from trained networks; their last digits differ between processors.
#
# ## 1. Two networks, one task
#
# The **ViT** is the supervised one of chapter 04: 12 blocks, 96 channels, 8 × 8 patches. The **CNN** is a ResNet-18, made
# narrow. Both were told the shapes of the same 16,000 images, with the same views and the same optimiser; the ViT passed
# over them four times, the CNN once (`python -m lib.training.others resnet_slim --epochs 1`). Both ship with the course.
# Are they equally good?

# %%
vit, cnn = zoo.load("supervised"), zoo.load("resnet")
for label, name, network in (("ViT", "supervised", vit), ("CNN", "resnet", cnn)):
    m = written("shapes", name)["linear"]
    print(f"{label}: {sum(p.numel() for p in network.parameters()):>9,} weights; linear probe on new images {m['value']:.1%}",
          f"({m['interval'][0]:.1%} to {m['interval'][1]:.1%})")

# %% [markdown]
# They see at different grains. The ViT has 8 × 8 tokens from its first block to its last; the CNN begins fine and ends
# coarse:

# %%
world = Shapes("val", size=64, length=256, difficulty="mild")
images = world.images(torch.arange(256))
with torch.no_grad():
    maps = cnn.act1(cnn.bn1(cnn.conv1(normalize(images[:1]))))
    for number in (1, 2, 3, 4):
        maps = getattr(cnn, f"layer{number}")(maps)  # two blocks
        print(f"stage {number}: {maps.shape[1]:>3} channels at {maps.shape[2]} × {maps.shape[3]} places")

# %% [markdown]
# So there is no channel-by-channel or place-by-place comparison. What both have in common is the images.
#
# ## 2. When do two layers say the same?
#
# Ask a layer how alike it finds every two of 60 images: the product of their features, less the mean. That is its **Gram
# matrix**, 60 × 60 whatever the layer's width. Here the images are sorted by shape.

# %%
some = world.labels(torch.arange(60)).argsort(stable=True)
alike = {"pixels": gram(world.images(some).float()),
         "ViT, last block": Representations(vit, world).grams(some)["block12"],
         "CNN, last block": Representations(cnn, world, resnet.stages(cnn)).grams(some)["stage4.2"]}

# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.9), sharey=True)
for axis, (name, k) in zip(axes, alike.items()):
    axis.imshow(k / k.diagonal().mean(), cmap="cividis", vmin=-0.5, vmax=1)
    axis.set(title=name, xlabel="image, sorted by shape")
axes[0].set_ylabel("image, sorted by shape")
plots.show(figure, alt="Three 60 x 60 Gram matrices: pixels show one chequered square; ViT and CNN bright squares of shapes, the CNN more.")

# %% [markdown]
# Yellow: alike. As pixels, images of one shape are no more alike than others (the chequered square is one shape in two
# brightnesses), though a line can read the shape off them (chapter 08); both networks make
# bright squares of some shapes, the CNN of more. **Centred kernel alignment (CKA)** says how much two such pictures agree:
# it is their cosine.

# %%
def cosine(k, l):
    """Of two Gram matrices (n, n), seen as long vectors."""
    return ((k * l).sum() / (k.norm() * l.norm())).item()


pairs = [("pixels", "ViT, last block"), ("pixels", "CNN, last block"), ("ViT, last block", "CNN, last block")]
for a, b in pairs:
    print(f"{a:<15} and {b:<15} ≈ {cosine(alike[a], alike[b]):.2f}")

# %% [markdown]
# Pixels and a last block agree by 0.5 and more? How much of that is real? Here is a test where you know the answer.
#
# **Predict, then run.** Two layers of 768 features, all random and independent, on 32 images. What is their CKA?

# %%
torch.manual_seed(0)
for n in (32, 256, 1024):
    x, y = torch.randn(2, n, 768)
    print(f"n = {n:>4}: cosine {linear_cka(x, y, biased=True):.2f}, unbiased {abs(linear_cka(x, y)):.2f}")

# %% [markdown]
# The cosine finds them nearly the same: with more features than images, each image is alike to itself and to nobody else,
# in *both* layers, and the diagonals agree. Raghu et al. use the unbiased estimator, which leaves the diagonals out:
#
# $$ \mathrm{HSIC}(K, L) = \frac{1}{n(n-3)}\left[\mathrm{tr}(\tilde K \tilde L) + \frac{\sum \tilde K \, \sum \tilde L}{(n-1)(n-2)} -
# \frac{2}{n-2} \mathbf{1}^\top \tilde K \tilde L \mathbf{1}\right], \qquad \mathrm{CKA} = \frac{\mathrm{HSIC}(K,
# L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}} $$
#
# with $\tilde K$ the Gram matrix $K$ with zeros on its diagonal. (Over minibatches, sum each HSIC first; then divide.)

# %%
def hsic(k, l):
    """Entry by entry: two lists of lists, n by n -> HSIC."""
    n = len(k)
    others = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(k[i][j] * l[j][i] for i, j in others)
    sums = sum(k[i][j] for i, j in others) * sum(l[i][j] for i, j in others)
    chains = sum(k[i][j] * l[j][m] for i, j in others for m in range(n) if m != j)
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * chains / (n - 2)) / (n * (n - 3))


# %%
k, l = (alike[name][:20, :20] for name in ("ViT, last block", "CNN, last block"))
library = CKA()
library.update([k], [l])
k, l = k.tolist(), l.tolist()
print("loop = library:", abs(hsic(k, l) / (hsic(k, k) * hsic(l, l)) ** 0.5 - library.compute().item()) < 1e-9)

# %% [markdown]
# What does it leave of the likeness of pixels and last blocks?

# %%
for a, b in pairs:
    library = CKA()
    library.update([alike[a]], [alike[b]])
    print(f"{a:<15} and {b:<15} cosine ≈ {cosine(alike[a], alike[b]):.2f}, unbiased ≈ {library.compute().item():.2f}")

# %% [markdown]
# The likeness falls by .04 to .09, most where pixels are one of the two. The rest is real: the pixels and a last block
# do find some of the same images alike. That does not say that training put it there; section 3 has the control.

# %% [markdown]
# ## 3. Within one network
#
# Take the Gram matrix of every layer: the ends of blocks, and the steps inside them. All 256 images, in four minibatches of
# 64; a layer's representation is all its tokens, or all its places, side by side. Beside each network stands its control,
# with random weights. (That of the CNN has batch norms that know the images, as they would from the first training step
# on.)

# %%
def vit_layers(network):
    """{name: module}: four steps of each block, and its end."""
    found = {}
    for number, block in enumerate(network.blocks, start=1):
        found |= {f"block{number}.{step}": getattr(block, step) for step in ("norm1", "attn", "norm2", "mlp")}
        found[f"block{number}"] = block
    return found


def gram_batches(network, modules, world, size=64):
    """Gram matrices of all modules, minibatch by minibatch: a list of {name: (size, size)}."""
    side = Representations(network, world, modules)
    return [side.grams(batch) for batch in torch.arange(len(world)).split(size)]


# %%
networks = {("ViT", "trained"): vit, ("CNN", "trained"): cnn,
            ("ViT", "untrained"): zoo.load("untrained"), ("CNN", "untrained"): resnet.untrained(images)}
layers = {"ViT": vit_layers, "CNN": resnet.layers}
grams = {key: gram_batches(network, layers[key[0]](network), world) for key, network in networks.items()}
print({", ".join(key): f"{len(batches[0])} layers" for key, batches in grams.items()})

# %%
def heat_map(first, second):
    """CKA of every layer of one network with every layer of another, from the same minibatches: (L, M)."""
    cka = CKA()
    for a, b in zip(first, second):
        cka.update(list(a.values()), list(b.values()))
    return cka.compute()


# %% [markdown]
# **Predict, then run.** Raghu et al. find that one of the two kinds has layers that are much alike from bottom to top, and
# the other falls into stages. Which is which? And what will the random networks look like?

# %%
figure, axes = plt.subplots(1, 4, figsize=(9, 2.7))
for axis, (key, batches) in zip(axes, grams.items()):
    drawn = axis.imshow(heat_map(batches, batches), vmin=0, vmax=1, origin="lower")
    axis.set(title=", ".join(key), xlabel="layer")
axes[0].set_ylabel("layer")
figure.colorbar(drawn, ax=axes.tolist(), label="CKA")
plots.show(figure, alt="Four CKA heat maps of all layers with each other: ViT and CNN, trained, then untrained.")

# %% [markdown]
# The ViT is nearly one piece: after its first block, everything resembles everything (the thin dark lines are the branches,
# `attn` and `mlp`, before they are added to the residual stream). The CNN fades from early to late. That is Raghu et al.'s
# Figure 1.
#
# And now the right half. **Random weights show the contrast too, and show it more strongly**: the untrained ViT is uniform
# through and through, the untrained CNN a narrow diagonal. In numbers, for the ends of blocks: how alike is the first third
# to the last?

# %%
def ends(batches):
    """Only the ends of blocks (and of the CNN's stem), without the steps inside."""
    return [{name: k for name, k in batch.items() if re.fullmatch(r"stem|(block|stage)[\d.]*", name)} for batch in batches]


def early_late(batches):
    """Mean CKA of the ends of the first third of blocks with those of the last third, one value a minibatch."""
    each = [heat_map([batch], [batch]) for batch in ends(batches)]
    third = len(each[0]) // 3
    return torch.stack([values[:third, -third:].mean() for values in each])


# %%
spans = {key: early_late(batches) for key, batches in grams.items()}
for key, values in spans.items():
    print(f"{', '.join(key):<15} first with last third ≈ {values.mean():.2f}, spread over minibatches ≈ {values.std():.2f}")

# %% [markdown]
# The spread is that of single minibatches of 64 images: the noise of the estimator is small beside the differences.
# Training moves both numbers *towards each other*: it makes the ViT less uniform, and the CNN more. So "ViTs are more
# uniform than CNNs" holds in these two (section 11 has two more of each), and training is not the reason. A likely one:
# each block adds a small step to a residual stream that no block replaces (section 7), while the CNN halves its grid
# three times, and flattened maps of another grid are other features.
#
# ## 4. Across the two
#
# Run the next cell, then move the pointer over the maps, or use the arrow keys: both say the CKA of that pair of layers.
# (Without a kernel you see a still picture.)

# %%
from lib.viz.heatmap import HeatMaps

across = {kind: heat_map(grams["ViT", kind], grams["CNN", kind]) for kind in ("trained", "untrained")}
rows, columns = ([re.sub("block|stage", "", name) for name in grams[kind, "trained"][0]] for kind in ("ViT", "CNN"))
HeatMaps({f"both {kind}": values for kind, values in across.items()}, rows, columns,
         axes=("layer of the ViT", "layer of the CNN"), low=0.0, high=1.0)

# %% [markdown]
# Now the columns of five layers of the CNN as lines. A dot marks the block of the ViT that is most like each.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), sharey=True)
for axis, kind in zip(axes, ("trained", "untrained")):
    values = torch.as_tensor(heat_map(ends(grams["ViT", kind]), ends(grams["CNN", kind])))  # (12, 9)
    for column, label, shade in zip((0, 2, 4, 6, 8), ("stem", "1.2", "2.2", "3.2", "4.2"), (0.1, 0.3, 0.5, 0.7, 0.9)):
        line, = axis.plot(range(1, 13), values[:, column], color=plt.cm.viridis(shade), label=label)
        axis.plot(values[:, column].argmax() + 1, values[:, column].max(), "o", color=line.get_color())
    axis.set(title=f"both {kind}", xlabel="block of the ViT", ylim=(-0.05, 1.05))
axes[0].set_ylabel("CKA (n = 256)")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, title="layer of the CNN")
plots.show(figure, alt="Trained, all lines but the CNN's last fall from the ViT's block 1; the last rises once, then is flat. Untrained it lies at .1.")

# %% [markdown]
# The CNN's first three stages, six blocks of its eight, are most like *one* block of the ViT, the first. Raghu et al.
# (Figure 2) find the same order: the lower half of a ResNet goes with the lowest quarter of a ViT. Only the two blocks
# of the CNN's last stage go with later ones, 2 and 3, and the last is about as much like any block from the second on;
# that the ViT's last third is like nothing in the ResNet, as the paper has it, does not show. (It is less like it than
# the other blocks are, by .06, but so it is with random weights. The third check of raghu-2 in chapter 13 asks for no
# more.) The control divides the finding in two. That an early ViT layer is like an early CNN layer needs **no
# training**. That the two meet again at the top does, on the CNN's side at least: with random weights next to nothing
# of its last stage is like any block of the ViT. Section 10 asks how much of it the labels of the ViT add.
#
# ### A third kind
#
# What makes a ViT a ViT, attention, or its patches and its residual stream? An **MLP-Mixer** (Tolstikhin et al. 2021) has
# the latter two without the former: where a ViT's tokens attend to each other, an MLP with fixed weights mixes the 64
# places, one channel at a time. Ours has 12 blocks of 96 channels and was trained as the ViT was (`python -m
# lib.training.others mixer_slim`). Raghu et al. (Figure H.2) find a Mixer more like a ViT than like a ResNet.
#
# One thing has to be equal first. Mixer and CNN are told the class from the *mean* of their places; our ViT from CLS. So
# beside it comes the same ViT, trained with its mean (`supervised-mean`).
#
# **Predict, then run.** Which is ours more like, and is it so before training?

# %%
mixers = {"trained": zoo.load("mixer"), "untrained": mixer.untrained()}
m = written("shapes", "mixer")["linear"]
print(f"Mixer: {sum(p.numel() for p in mixers['trained'].parameters()):,} weights; linear probe on new images {m['value']:.1%}")
mean_vit = zoo.load("supervised-mean")
beside = {("ViT by its mean", "trained"): gram_batches(mean_vit, {f"block{k}": b for k, b in enumerate(mean_vit.blocks, 1)}, world),
          ("ViT by CLS", "trained"): ends(grams["ViT", "trained"]), ("CNN", "trained"): ends(grams["CNN", "trained"]),
          ("ViT", "untrained"): ends(grams["ViT", "untrained"]), ("CNN", "untrained"): ends(grams["CNN", "untrained"])}
of_mixer = {kind: gram_batches(network, {name: block for name, block in mixer.layers(network).items() if name != "embedding"},
                               world) for kind, network in mixers.items()}
with_mixer = {key: heat_map(of_mixer[key[1]], other) for key, other in beside.items()}

# %%
figure, axes = plt.subplots(1, 5, figsize=(9, 2.7), sharey=True)
for axis, ((other, kind), values) in zip(axes, with_mixer.items()):
    drawn = axis.imshow(values, vmin=0, vmax=1, origin="lower", aspect="auto", extent=(0.5, values.shape[1] + 0.5, 0.5, 12.5))
    axis.set(title=f"{other},\n{kind}", xlabel="ends of its blocks", xticks=(1, values.shape[1]), yticks=(1, 4, 8, 12))
    axis.grid(False)
axes[0].set_ylabel("block of the Mixer")
figure.colorbar(drawn, ax=axes.tolist(), label="CKA (n = 256)")
plots.show(figure, alt="CKA of the Mixer's blocks with the ends of the blocks of two ViTs and the CNN, trained, then untrained.")

# %%
for (other, kind), values in with_mixer.items():
    print(f"{kind:<9} Mixer and {other:<15} all pairs ≈ {values.mean():.2f}, best match of each of its blocks ≈ "
          f"{values.amax(1).mean():.2f}")

# %% [markdown]
# Before training a Mixer *is* a ViT, to CKA: nearly 1 with every block. That is their common form, patches and a residual
# stream that passes them on. Training takes some of it away. Over all pairs the Mixer stays nearer to either ViT than to
# the CNN, as in the paper; by the best matches **only if the ViT is read by its mean as well**. Beside the ViT that keeps
# the class in CLS, the CNN's best matches are nearer: the last eight blocks of the Mixer are like the CNN's last two more
# than like anything in that ViT. What the three have to do with their places counts beside what they are made of.
# (raghu-16 in chapter 13, with the mean. There two more trainings of all three give +.04 and -.01 beside this one's +.05,
# so that it is open; beside the ViT with CLS all three lie below 0. On photographs the Mixer is nearer to both ViTs. The
# CNN of shapes had a quarter of the passes of the other two.)
#
# ## 5. Local and global heads
#
# Chapter 05 measured how far a head looks: the attention distance, 33 px for a head that looks everywhere. Raghu et al.
# find that a ViT trained on 300 million images has, in its first blocks, local heads *and* global ones, and only global
# ones in its last. A CNN's first layers can only be local.
#
# **Predict, then run.** Our supervised ViT saw 16,000 images. Does it have local heads? Does MAE, which fills in what is
# hidden?

# %%
from lib.analysis.attention import AttentionStatistics, patch_distances
from lib.analysis.recording import mean_and_error, record
from lib.analysis.residual import NormRatios, apart, resnet_norm_ratios

half = Shapes("val", size=64, length=128, difficulty="mild")
looked = {"supervised": vit, "mae": zoo.load("mae"), "untrained": networks["ViT", "untrained"]}
found = {name: record(network, half, [AttentionStatistics(), NormRatios()]) for name, network in looked.items()}

# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.8), sharey=True)
for axis, (name, results) in zip(axes, found.items()):
    axis.plot(range(1, 13), results["distance"].mean(0), "o", ms=3, color=plots.COLORS[name], alpha=0.7)  # (12, 6)
    axis.axhline(patch_distances((8, 8), (8, 8)).mean(), color="black", lw=1, ls="--")
    axis.set(title=name, xlabel="block", xticks=(1, 4, 8, 12), ylim=(0, 40))
axes[0].set_ylabel("attention distance, px")
figure.suptitle("A dot for each head, dashed: uniform attention; n = 128 images", fontsize=10)
plots.show(figure, alt="Attention distance of heads by block: supervised and untrained near 33 px, MAE down to 11 px in block 3.")

# %% [markdown]
# All heads of the supervised ViT look about as far as they would by chance. MAE has local heads from block 2 on; in
# block 3 all heads of this training are local (12 px; two more look 22 and 17 px far there). So it is not that a
# network of this size *cannot* look nearby: labels do not make it in 500 steps. (MAE had 2,000, on the same images.)
# Raghu et al. report the like of their large models: trained on ImageNet alone, without the 300 million, they lack
# local heads in their first blocks, and are worse for it; their smaller one keeps them.
#
# Or do drawn shapes simply not ask for local heads? The same body learned photographs too, from labels and from MAE
# (Imagenette, chapter 04). Below, what its heads do on 64 squares cut out of two photographs that come with scikit-learn.

# %%
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2.functional import resized_crop

class Squares:
    """64 squares of 160 to 420 pixels out of two photographs (427 x 640), made 64 wide: a source."""
    name = "squares of two photographs"

    def __init__(self):
        whole = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in load_sample_images().images]
        draws, squares = torch.rand(64, 3, generator=torch.Generator().manual_seed(0)).tolist(), []
        for i, (size, y, x) in enumerate(draws):
            width = int(160 + 260 * size)
            squares.append(resized_crop(whole[i % 2], int(y * (427 - width)), int(x * (640 - width)), width, width, [64, 64]))
        self.squares = torch.stack(squares)  # (64, 3, 64, 64) uint8

    def __len__(self):
        return 64

    def images(self, indices):
        return self.squares[indices]


# %%
photographs = Squares()
of_photographs = {"supervised": zoo.load("supervised", "imagenette"), "mae": zoo.load("mae", "imagenette"),
                  "untrained": looked["untrained"]}
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.8), sharey=True)
for axis, (name, network) in zip(axes, of_photographs.items()):
    distance = record(network, photographs, [AttentionStatistics()])["distance"]
    axis.plot(range(1, 13), distance.mean(0), "o", ms=3, color=plots.COLORS[name], alpha=0.7)  # (12, 6)
    axis.axhline(patch_distances((8, 8), (8, 8)).mean(), color="black", lw=1, ls="--")
    axis.set(title=f"{name}, photographs", xlabel="block", xticks=(1, 4, 8, 12), ylim=(0, 40))
axes[0].set_ylabel("attention distance, px")
plots.show(figure, alt="Attention distance of heads by block, networks of photographs: MAE's begin at 23 to 29 px and end near 33.")

# %% [markdown]
# Hardly. In the supervised ViT's first block the heads look a little less far than by chance, and later they scatter about
# the dashed line. Two photographs are no sample: on Imagenette's own images the most local head of its blocks 1 and 2 looks
# 30 px far, that of random weights 32 (raghu-3 in chapter 13). MAE's heads go from nearer to farther, but none is as local
# as those it learned from shapes, and none of block 1 is global, as in the paper some are.
#
# Are local heads more like a CNN? Raghu et al. (Figure 5) sort the heads of a first block by distance and compare what they
# give, $A_h V_h$, with early layers of a CNN. Below, every single head of MAE's blocks 2 and 3.

# %%
from lib.analysis.head_subsets import head_subset_similarity

early = {name: module for name, module in resnet.stages(cnn).items() if name in ("stem", "stage1.2", "stage2.2")}
subsets = {}
for name, block in (("mae", 2), ("mae", 3), ("untrained", 2)):
    subsets[name, block] = head_subset_similarity(looked[name], Representations(cnn, half, early), block, 1, batch_size=64)

# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.7), sharey=True)
for axis, column in zip(axes, early):
    for (name, block), result in subsets.items():
        axis.plot(result.distances, result.values[:, result.columns.index(column)], "o" if block == 2 else "^",
                  color=plots.COLORS[name], label=f"{name}, block {block}")
    axis.set(title=f"with the CNN's {column}", xlabel="attention distance, px", ylim=(0, 1))
axes[0].set_ylabel("CKA of one head (n = 128)")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plots.show(figure, alt="CKA of single heads with early CNN layers against attention distance, MAE and untrained.")

# %% [markdown]
# The paper's points fall from left to right: the more local, the more like the CNN. **Twelve heads of two blocks cannot
# decide that here.** MAE's heads reach from 10 to 25 px and fall but weakly, if at all; some heads of the untrained ViT,
# which look everywhere, reach values as high. A head that averages over everything still passes on how bright and how rough
# the picture is, and early layers of a CNN hold that as well. Without the grey points you could not tell.
#
# ## 6. How far does a unit see?
#
# Attention says where a head looks, not which pixels arrive. So take the gradient: how much does each pixel move one unit?
# The **effective receptive field** of a unit is the mean of $|\partial y_c / \partial x_{uv}|$ over its channels $c$, and
# over images.
#
# **Predict, then run.** Below, the middle unit at five depths of each network. Where does the whole image come in?

# %%
from lib.analysis.receptive_field import radius, receptive_fields

parts = ["embedding"] + [f"block{k}.attention" for k in (1, 3, 6, 12)]
few, fields = images[:12], {}
for name, network in {"ViT": vit, "ViT, untrained": networks["ViT", "untrained"], "MAE": looked["mae"]}.items():
    fields[name] = receptive_fields(network, few, parts, channels=6)
for name, kind in (("CNN", "trained"), ("CNN, untrained", "untrained")):
    modules = {key: m for key, m in resnet.stages(networks["CNN", kind]).items() if key == "stem" or key.endswith(".2")}
    fields[name] = receptive_fields(networks["CNN", kind], few, modules=modules, channels=6)

# %%
figure, axes = plt.subplots(2, 5, figsize=(7.5, 3.4))
for row, name in zip(axes, ("ViT", "CNN")):
    for axis, (part, field) in zip(row, fields[name].items()):
        field = field.fields.mean(0)  # (64, 64)
        axis.imshow((field / field.max()).sqrt(), vmin=0, vmax=1)
        axis.set(title=f"{name}, {part.removesuffix('.attention')}", xticks=[], yticks=[])
figure.suptitle("Root of the gradient, mean over 12 images", fontsize=10)
plots.show(figure, alt="Receptive fields: the ViT sees its patch, then the whole image faintly from block 1; the CNN's grows slowly.")

# %% [markdown]
# Above: in its first block the ViT already reaches the whole image, faintly, and its own patch stays the brightest to the
# end. Below: the CNN grows from one stage to the next, and ends wide and without a centre. Both are as Raghu et al. show
# (Figure 6).
#
# As a number: the radius in pixels within which half of the gradient lies.

# %%
COLORS = {"ViT": "black", "MAE": plots.COLORS["mae"], "CNN": "#CC79A7"}
figure, axis = plt.subplots()
for name, found_fields in fields.items():
    color, line = COLORS[name.split(",")[0]], ":" if "untrained" in name else "-"
    for draw, alpha in ((slice(0, 6), 0.3), (slice(6, 12), 0.3), (slice(0, 12), 1)):  # two draws of six images, and all
        radii = torch.stack([radius(f.fields[draw].mean(0)) for f in found_fields.values()])
        axis.plot(range(5), radii, line, marker="o", ms=4, color=color, alpha=alpha, label=name if alpha == 1 else None)
axis.axhline(0.4 * 64, color="grey", lw=1, ls="--")
axis.set(xlabel="depth, as in the figure above (faint: 6 images each)", ylabel="radius, px", xticks=range(5),
         xticklabels=["first", "2nd", "3rd", "4th", "last"], ylim=(0, 28))
axis.set_title("Half of the gradient lies within; dashed: a uniform field")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(figure, alt="Radius of the receptive field at five depths, for ViT, MAE and CNN and two untrained controls.")

# %% [markdown]
# Early, the ViT sees further; late, the CNN does; the ViT's own patch keeps its weight, which may be why. Of the CNN's
# curve the dotted control has nearly everything: its reach is its **architecture**. In the ViT, training brings far
# pixels in *earlier* than random weights do, and afterwards stops short of them. MAE, with its local heads, sees least
# far of the ViTs from the third depth on.
#
# ## 7. What do skip connections carry?
#
# A half of a block makes $z + f(z)$ of a token $z$. The ratio $\lVert z \rVert / \lVert f(z) \rVert$ says what the sum is
# made of: far above 1, the token passes as it is. Raghu et al. find a change of phase: in the first half of a ViT, CLS
# passes and patches are made anew; in the second half it is the other way round; and a ViT's ratios are larger than a
# ResNet's.

# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.8), sharey=True)
for axis, (name, results) in zip(axes, found.items()):
    for values, style, label in zip(apart(results["attention_norm_ratio"], 1), ("o--", "s-"), ("CLS", "patches")):
        mean, error = mean_and_error(values)
        axis.errorbar(range(1, 13), mean, 1.96 * error, fmt=style, ms=4, color=plots.COLORS[name], label=label)
    axis.set(title=name, xlabel="block", xticks=(1, 4, 8, 12), ylim=(0, None))
    axis.legend()
axes[0].set_ylabel("$|z|\\;/\\;|f(z)|$, attention")
figure.suptitle("What goes past attention over what attention adds; n = 128 images", fontsize=10)
plots.show(figure, alt="Norm ratios rise with depth in all three networks; CLS and patches do not change places as published.")

# %%
ratios = {kind: resnet_norm_ratios(networks["CNN", kind], images[:64]) for kind in ("trained", "untrained")}
for kind, found_here in ratios.items():
    print(f"CNN, {kind:<9}", ", ".join(f"≈ {ratio.mean():.1f}" for ratio in found_here.values()), "in its eight blocks")

# %% [markdown]
# The ratios of the ViT are far larger than those of the CNN, where both parts are about the same; so far the paper holds.
# The change of phase **does not show at this scale**. In the first blocks it is CLS whose token is made anew (it starts the
# same for all images, and short), and patches pass more; in the supervised network CLS takes over later on, in MAE and the
# control never. That is the reverse of the published order; the differences are small in the supervised network and large
# in MAE. What training adds to the untrained network is the rise: attention in late blocks of the supervised ViT changes
# its tokens least.
#
# ### Take one out
#
# Take the skip connections of block 6 away, and change nothing else. Is that a test of what they carry?

# %%
from lib.analysis.residual import without_skip

with torch.no_grad():
    whole, broken = (network.forward_features(normalize(images)) for network in (vit, without_skip(vit, 6)))
print(f"CKA of the last layers, with and without the skips of block 6: ≈ {linear_cka(whole, broken):.2f}")

# %% [markdown]
# It drops, but what does that tell? Everything behind block 6 was trained on a sum that is no longer there. Such damage
# would be there whatever they carry.
#
# Raghu et al. therefore *train* without them. Here is that in the smallest: a ViT of three blocks on 1,536 images of 32
# pixels, with and without the skips of block 2, and once more from another seed, to know what a difference means.

# %%
from lib.data import Loaded
from lib.training.recipes import recipe
from lib.training.trainer import Trainer, make_optimizer


def train_small(source, seed=0, lacks=None):
    """A supervised ViT of 3 blocks; lacks: the block whose skip connections go before the first step."""
    r = recipe("supervised", "smoke", epochs=4, seed=seed, batch_size=64, device="cpu", knn_every=0)
    trainer = Trainer(r, source)
    if lacks:
        trainer.objective.backbone = without_skip(trainer.objective.backbone, lacks)
        trainer.optimizer = make_optimizer(r, trainer.objective)
    trainer.run()
    return trainer.objective


# %%
many = Loaded(Shapes("train", size=32, length=1536, difficulty="easy"))
small = {"whole": train_small(many), "another seed": train_small(many, seed=1), "no skip": train_small(many, lacks=2)}
test = Loaded(Shapes("val", size=32, length=512, difficulty="easy"))

# %%
small_grams = {}
for name, objective in small.items():
    blocks = {f"block{k}": block for k, block in enumerate(objective.backbone.blocks, start=1)}
    small_grams[name] = gram_batches(objective.backbone, blocks, test, 128)
    with torch.no_grad():
        right = objective.head(objective.backbone(normalize(test.all_images))).argmax(1) == test.all_labels
    print(f"{name:<12} named right ≈ {right.float().mean():.2f} of {len(right)} new images")

# %%
for name in ("whole", "no skip"):
    values = heat_map(small_grams[name], small_grams[name])
    print(f"{name:<10} CKA of block 1 with 2 ≈ {values[0, 1]:.2f}, with 3 ≈ {values[0, 2]:.2f}, of 2 with 3 ≈ {values[1, 2]:.2f}")

# %% [markdown]
# With its skips, the network is one piece; without those of block 2, what lies before and what lies behind are far less
# alike. That is Raghu et al.'s Figure 8, and it holds in three blocks. The paper also loses 4 % of accuracy; here the loss
# is no more than another seed's, so one of that size could not be seen. (Over eight seeds and twice as many epochs the ledger
# finds one of 7 points, 3 to 12: raghu-8 in chapter 13.)
#
# ## 8. Does a token still stand for its place?
#
# Compare a token, over many images, with the pixels of each patch of the image: CKA again, 64 values for a token. If the
# largest is at the token's own place, the token is a **hit**. Raghu et al. find that the tokens of a ViT with CLS keep
# their place to the last block, better than the places of a ResNet.

# %%
from lib.analysis.localization import localization

wanted = ["block1", "block6", "block12"]
places = {name: localization(network, half, wanted, batch_size=64)
          for name, network in (("ViT", vit), ("ViT, untrained", networks["ViT", "untrained"]), ("MAE", looked["mae"]))}
for name, kind in (("CNN", "trained"), ("CNN, untrained", "untrained")):
    modules = {key: m for key, m in resnet.stages(networks["CNN", kind]).items() if key in ("stage3.2", "stage4.2")}
    places[name] = localization(networks["CNN", kind], half, modules=modules, batch_size=64)

# %%
for name, depths in places.items():
    for part, place in depths.items():
        found_here = place.summary()
        print(f"{name:<15} {part:<8} {place.grid[0]} × {place.grid[1]} places: hits ≈ {found_here['hits']:.2f} "
              f"(chance {1 / place.grid[0]**2:.2f}), own place ≈ {found_here['own']:.2f}")

# %%
shown = {"ViT": "block12", "ViT, untrained": "block12", "MAE": "block12", "CNN": "stage3.2"}
figure, axes = plt.subplots(2, 4, figsize=(7.5, 3.7))
for row, token in zip(axes, (0, 36)):  # a corner, and one near the middle
    for axis, (name, part) in zip(row, shown.items()):
        drawn = axis.imshow(places[name][part].values[token].view(8, 8), vmin=0, vmax=0.8)
        axis.plot(token % 8, token // 8, "x", color="red")
        axis.set(title=f"{name}\n{part}", xticks=[], yticks=[])
figure.colorbar(drawn, ax=axes.ravel().tolist(), label="CKA with pixels (n = 128)")
plots.show(figure, alt="Maps of a corner token and a middle token in four networks; a red cross marks the token's own place.")

# %% [markdown]
# Hits fall with depth in the supervised ViT, yet a quarter of its last tokens are still at their place. The CNN's places
# are near chance (each holds a bit of everything: its receptive field is the image). So **"the ViT localises better than
# the CNN" holds by hits**; by CKA at the own place it does not. (By that CKA *less its mean at the other places* it does,
# narrowly; raghu-9 in chapter 13 takes this one, and over three trainings it is open: section 11.) And the control: the
# untrained ViT keeps most of its tokens in place. Supervision *wears that down*; in its maps even a corner token is like
# the middle of the image, where the objects are. MAE, which has to paint each patch where it belongs, keeps places apart.
#
# ## 9. How much of this is a question of data?
#
# Much of the paper compares 300 million images with 1.3 million. In Figure 12 it asks which layers a part of the data
# teaches: train a network on all images and one on 3 or 10 % of them, and compare block with block. Early blocks agree,
# late ones do not: so a tenth of the data, the paper reads, is enough for the early ones only.
#
# Here 16,000 drawn images stand for the 300 million. Two more ViTs had as many steps on a tenth and on 3 % of them, from the
# same first weights. And all of it was done three times, with other first weights and views: nine networks, which give the
# control that the paper lacks. How alike are two networks that saw **all** the images?
#
# **Predict, then run.** Order them by the likeness of their last blocks: all images and a tenth, from the same start; all
# images and all images, from another start.

# %%
again = ("", "-seed1", "-seed2")
shares = {"all": "supervised", "a tenth": "supervised-data10", "3 %": "supervised-data3"}
by_share = {}
for share, name in shares.items():
    for k, seed in enumerate(again):
        network = zoo.load(name + seed)
        by_share[share, k] = gram_batches(network, {f"block{n}": b for n, b in enumerate(network.blocks, start=1)}, half)

# %%
def same_block(first, second):
    """CKA of each block with the same block of another network: (12,)."""
    return heat_map(first, second).diagonal()


starts = [(0, 1), (0, 2), (1, 2)]
everything, tenth, little = ([by_share[share, k] for k in range(3)] for share in shares)
lines = {"all and all, other starts": [same_block(everything[j], everything[k]) for j, k in starts],
         "all and a tenth, same start": [same_block(everything[k], tenth[k]) for k in range(3)],
         "all and 3 %, same start": [same_block(everything[k], little[k]) for k in range(3)],
         "all and 3 %, other starts": [same_block(everything[j], little[k]) for j, k in starts]}

# %%
figure, axis = plt.subplots(figsize=(6, 3.2))
for (name, values), color, style in zip(lines.items(), ("black", "#0072B2", "#D55E00", "#D55E00"), ("-", "--", "-", ":")):
    for line in values:
        axis.plot(range(1, 13), line, style, color=color, lw=0.8, alpha=0.5)
    axis.plot(range(1, 13), torch.stack(values).mean(0), style, color=color, lw=2.2, zorder=4 if style == "--" else 3, label=name)
axis.set(xlabel="block (thin: one pair of networks each, thick: their mean)", ylabel="CKA, block with block (n = 128)",
         xticks=(1, 4, 8, 12), ylim=(0, 1), title="Another start matters more than 97 % of the images")
axis.legend(loc="lower left", fontsize=9)
plots.show(figure, alt="CKA of equal blocks by depth for pairs of networks that saw all, a tenth or 3 % of the images.")

# %%
for name, values in lines.items():
    first, last = (torch.stack(values)[:, some].mean(1) for some in (slice(0, 4), slice(8, 12)))
    print(f"{name:<28} blocks 1 to 4", *(f"≈ {v:.2f}" for v in first), "  blocks 9 to 12", *(f"≈ {v:.2f}" for v in last))

# %% [markdown]
# Likeness falls with depth, as in the paper. But so it does between two networks that **both saw all the images**
# (black), and by as much. Another start (with it, other views and another order of the images) lowers the likeness at
# every depth, by about .08 early and .10 late: on the average a network that saw all images from another start is less
# like the first than one that saw 3 % of them from the same start (orange). A tenth (blue, dashed) does no better than
# 3 %. With another start 3 % do worse than all in two of the three pairs, in one of them by much (dotted). So the
# paper's sentence holds, over three trainings (raghu-13 in chapter 13), and **does not mean what it seems to**: that
# early blocks agree more than late ones is so of all pairs here, and of random weights beside a trained network in all
# three draws. (After training on 480 images a probe, which has 2,000 labels, names as many shapes as after all, 97 %.
# Where data are scarce indeed, the orange line may well fall below the black one.)
#
# ## 10. Which objective is most like the CNN?
#
# The paper's ViTs are supervised, as is the CNN, so labels may be what makes them alike. Take four objectives
# that never saw a label.
#
# **Predict, then run.** Order by likeness to the CNN: supervised, MoCo v3, DINO, SimMIM, MAE, untrained.

# %%
objectives = {"supervised": ends(grams["ViT", "trained"]), "untrained": ends(grams["ViT", "untrained"])}
for name in ("mocov3", "dino", "simmim", "mae"):
    network = zoo.load(name)
    objectives[name] = gram_batches(network, {f"block{k}": b for k, b in enumerate(network.blocks, start=1)}, world)
with_cnn = {name: heat_map(batches, ends(grams["CNN", "trained"])) for name, batches in objectives.items()}  # (12, 9)

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True)
for name, values in with_cnn.items():
    axes[0].plot(range(1, 13), values[:, 4], "o-", ms=3, color=plots.COLORS[name], label=name)
    axes[1].plot(range(1, 13), values[:, -1], "o-", ms=3, color=plots.COLORS[name], label=name)
axes[0].set(title="end of the CNN's stage 2", xlabel="block of the ViT", ylabel="CKA (n = 256)", ylim=(0, 1))
axes[1].set(title="end of the CNN's stage 4", xlabel="block of the ViT")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
plots.show(figure, alt="CKA of each block of six ViTs with the middle and with the last block of the CNN.")

# %% [markdown]
# The answer depends on which layer of the CNN you ask. With the middle of the CNN, MAE and MoCo v3 agree most; but the
# untrained network is close below them, so most of this likeness is what any ViT passes on of the picture. The supervised
# ViT falls *below* the control: from its second block on it has dropped what the middle of the CNN still holds. With the
# CNN's last block the order turns, and the supervised ViT leads: **the same labels make two architectures more alike
# where the labels matter**. But an untrained ViT has most of that likeness already; the ViT's labels add a part. SimMIM's
# and DINO's late blocks lie below the untrained network here (SimMIM's in both panels; why is open, as its pixels are
# worked out in its first half, chapter 08). (Over three trainings of ViT and CNN the labels add .16 to .20 of CKA to what
# random weights have, each time; beside MAE the lead is .16, .08 and .20, which leaves it open: shekhar-13.)

# %% [markdown]
# ## 11. What held?
#
# Nearly all of this was one ViT beside one CNN. The ViT, the CNN and the ViT by its mean were trained twice more on shapes,
# from other first weights (`supervised-seed1`, `resnet-seed1` and so on). The ledger of chapter 13 makes of each sentence of
# the paper one or more differences that are positive if it is true, and puts them to networks of one seed beside each
# other, three times over, and to three random ViTs beside the same CNNs. **Supported** means that the 95 % interval over
# trainings and images lies above 0, **not supported** that it lies below, **inconclusive** that it holds 0.
#
# **Predict, then run.** Four sentences, as differences: above 0 the paper is right. In which do the trained ViTs lie
# higher than the random ones?

# %%
from IPython.display import Markdown, display
from lib.analysis.claims import ledger

worlds = {world: ledger.of_world(ledger.written(), world) for world in ("shapes", "imagenette")}
sentences = {("raghu-1", 0): "first and last third\nalike, ViT less CNN", ("raghu-7", 2): "skips carry more,\nViT less CNN",
             ("raghu-9", 1): "tokens know their\nplace, ViT less CNN", ("raghu-2", 1): "the CNN's upper half\ngoes with later blocks"}
figure, axes = plt.subplots(1, 4, figsize=(8.2, 2.9))
for axis, ((id, number), title) in zip(axes, sentences.items()):
    entry = worlds["shapes"][id]
    for x, (found_there, marker, color) in enumerate(((entry, "o", plots.COLORS["supervised"]), (entry["control"], "D", "#777777"))):
        axis.plot([x - 0.15, x, x + 0.15], found_there["checks"][number]["values"], marker, ms=5, color=color)
    axis.axhline(0, color="black", lw=0.8)
    axis.set(xticks=(0, 1), xticklabels=("trained", "random"), xlim=(-0.6, 1.6), xlabel="weights of the ViT",
             ylabel={"depth": "depth, of 1", "ln": "ratio of norms, ln"}.get(entry["checks"][number]["unit"], "CKA"))
    axis.set_title(title, fontsize=9)
plots.show(figure, alt="Four sentences, three trainings and three random ViTs each: random ones lie far higher in the first and third, at 0 in the last.")

# %% [markdown]
# In the first and third panel random ViTs lie far above the trained ones, in the second a little below. **Only in the
# last does a trained ViT show what no random one does**: the CNN's upper half goes with later blocks than its lower
# half. Here are the values behind the panels, and the other sentences that were put to three trainings:

# %%
ids = ("raghu-1", "raghu-2", "raghu-3", "raghu-5", "raghu-6", "raghu-7", "raghu-9", "raghu-10")
display(Markdown(ledger.over_trainings([worlds["shapes"][id] for id in ids])))

# %% [markdown]
# - **Supported**: the CNN's lower half goes with the first quarter of the ViT and its upper half with later blocks; the ViT
#   sees further early; its skips carry more; its tokens know their own place. (And the last third of the ViT is a little
#   less like the CNN than the rest, as in random weights: section 4.) What the controls add: most of this is there *before
#   training*, as a property of the architecture. (That its first block sees further than the CNN's first stage is not:
#   the ledger has no control for it, and in section 6 random weights do not.)
# - **Open**, with all three trainings on the claim's side: that first and last layers are more alike in the ViT than in the
#   CNN (the paper's Figure 1), that heads differ more in the first two blocks, that a token knows its place better than
#   one of the CNN, and both sentences on what single tokens tell of the class. Their values differ too much for three
#   numbers to decide, and an interval over images alone would have called all five decided.
# - **Refuted, or on the other side three times**: local heads under supervision, likeness to the CNN that falls with a
#   head's distance, and the change of phase between CLS and patches in its first half.
#
# ### On photographs
#
# A CNN, a Mixer and a ViT by its mean were trained on photographs as well, those of chapter 04's ViTs (`python -m
# lib.training.others resnet_slim --world imagenette`). The ledger of chapter 13 puts the paper's sentences to the
# networks of both worlds, on images that no network has seen: of shapes to three trainings of each, of photographs to
# one. (In brackets: whether random weights pass as well, and how many of a sentence's checks training made larger,
# smaller, or left open.)

# %%
table = "| sentence | shapes | photographs |\n|---|---|---|\n"
for id in ("raghu-1", "raghu-2", "raghu-3", "raghu-5", "raghu-6", "raghu-7", "raghu-9", "raghu-10", "raghu-16"):
    entries = [found[id] for found in worlds.values()]
    table += f"| {entries[0]['statement']} ({id}) | {' | '.join(ledger.judged(entry) for entry in entries)} |\n"
display(Markdown(table))

# %% [markdown]
# No verdict of the table turns round (beside the ViT with CLS that of the Mixer does, section 4). Random weights have
# uniform layers too, and a random Mixer is even nearer to a random ViT. What a random ViT beside the trained CNN has in
# neither world is both halves of one sentence: the lower half of the CNN goes with the lowest quarter of the ViT *and
# its upper half with somewhat later layers*. And single tokens tell the class *better* in a ViT that is read by its
# mean than in one that is read by CLS: on photographs by 16 points, on shapes by 15, 12 and 15, where ten were asked
# for and the interval over trainings and images goes down to nine (raghu-10; a random ViT's tell it far worse than
# either). What did not show on shapes does not show on photographs: local heads first and global ones last, heads that
# are the more like a CNN the nearer they look, the change of phase. (On shapes the CNN made a quarter of the ViT's
# passes, on photographs as many.)
#
# ## Exercises
#
# Write your answer where it says `raise NotImplementedError`, run the cell, read what the check says.

# %%
from lib.exercises import chapter09

# %% [markdown]
# ### Exercise 1 · ★☆☆ · 5 minutes
#
# Write `biased_cka(x, y)`: features of the same n images, (n, p) and (n, q) → the cosine of their centred Gram matrices.
#
# *Hint:* take the mean over images off each feature; a Gram matrix is `x @ x.T`.
#
# <details><summary>Solution</summary>
#
# ```python
# def biased_cka(x, y):
#     x, y = x - x.mean(0), y - y.mean(0)
#     k, l = x @ x.T, y @ y.T                                         # (n, n) each
#     return (k * l).sum() / (k.norm() * l.norm())
# ```
#
# </details>

# %%
def biased_cka(x, y):
    raise NotImplementedError


chapter09.check_biased_cka(biased_cka);

# %% [markdown]
# ### Exercise 2 · ★★☆ · 10 minutes
#
# Write `hsic(k, l)`, the unbiased HSIC of section 2 for two symmetric matrices (n, n), without loops.
#
# *Hint:* the trace of a product of symmetric matrices is the sum of their products, entry by entry; $\mathbf{1}^\top M
# \mathbf{1}$ is the sum of all entries of M.
#
# <details><summary>Solution</summary>
#
# ```python
# def hsic(k, l):
#     n = len(k)
#     k, l = k - k.diag().diag(), l - l.diag().diag()
#     chains = (k @ l).sum() / (n - 2)
#     return ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * chains) / (n * (n - 3))
# ```
#
# </details>

# %%
def hsic(k, l):
    raise NotImplementedError


chapter09.check_hsic(hsic);

# %% [markdown]
# ### Exercise 3 · ★☆☆ · 5 minutes
#
# Write `norm_ratio(before, after)`: tokens before and after a half of a block, (N, D) each → the mean over tokens of
# $\lVert z \rVert / \lVert f(z) \rVert$.
#
# *Hint:* what came out is $z + f(z)$.
#
# <details><summary>Solution</summary>
#
# ```python
# def norm_ratio(before, after):
#     return (before.norm(dim=1) / (after - before).norm(dim=1)).mean()
# ```
#
# </details>

# %%
def norm_ratio(before, after):
    raise NotImplementedError


chapter09.check_norm_ratio(norm_ratio);

# %% [markdown]
# ### Exercise 4 · ★★★ · 15 minutes
#
# Write `half_radius(field, centre)`: a field (H, W), not negative, and a centre (row, column) in pixels from the top and
# the left → the least distance such that the pixels no further away hold half of the field. The middle of pixel (0, 0) is
# at (0.5, 0.5).
#
# *Hint:* sort the pixels by distance, then add up their values until it is enough.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def half_radius(field, centre):
#     rows = torch.arange(field.shape[0]) + 0.5 - centre[0]
#     columns = torch.arange(field.shape[1]) + 0.5 - centre[1]
#     distance, order = (rows[:, None] ** 2 + columns ** 2).sqrt().flatten().sort()
#     held = field.flatten()[order].cumsum(0)
#     return distance[(held < field.sum() / 2).sum()].item()
# ```
#
# </details>

# %%
def half_radius(field, centre):
    raise NotImplementedError


chapter09.check_half_radius(half_radius);

# %% [markdown]
# ## Find out
#
# No check stands behind this one: the answer is a measurement, and you make it.
#
# *Who needs the picture whole?* Cut an image into squares and lay them in another order. What is in each square stays, and
# nobody can see the outline any more. **Predict** for squares of 32, 16 and 8 pixels: who names more of the shapes, the ViT
# or the CNN? A ViT's patch is 8 pixels wide; and the Mixer, which has a weight for each place?

# %%
def shuffled(images, cell, seed=0):
    """Images (B, 3, S, S), cut into squares of so many pixels, which lie in another order in each image."""
    side, draw = images.shape[-1] // cell, torch.Generator().manual_seed(seed)
    squares = images.unflatten(2, (side, cell)).unflatten(4, (side, cell)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    squares = torch.stack([image[torch.randperm(side**2, generator=draw)] for image in squares])
    return squares.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


pieces = torch.stack([images[1:3]] + [shuffled(images[1:3], cell) for cell in (32, 16, 8)], 1).flatten(0, 1)
figure = plots.image_grid(pieces, ["whole", "32 px", "16 px", "8 px"] * 2, rows=2)
plots.show(figure, alt="A ring and a triangle, whole, and cut into 4, 16 and 64 squares that lie in another order.")

# %% [markdown]
# The CNN and the Mixer bring their classifiers (`cnn(normalize(...))` are logits); for a ViT fit
# `lib.evaluation.classifier.LinearClassifier(vit, source)`, which has a `predict`.
#
# <details><summary>What came out for us</summary>
#
# ```python
# from lib.evaluation.classifier import LinearClassifier
# probe = LinearClassifier(vit, Loaded(Shapes("train", size=64, length=600, difficulty="mild")))
# for cell in (64, 32, 16, 8):
#     pieces, truth = normalize(shuffled(images, cell)), world.labels(torch.arange(256))
#     with torch.no_grad():
#         told = {"ViT": probe.predict(pieces), "CNN": cnn(pieces).argmax(1)}
#     print(cell, {name: f"{(k == truth).float().mean():.0%}" for name, k in told.items()})
# ```
#
# Lowest and highest of three trainings, 500 images, per cent of the shapes; chance is 10:
#
# | | whole | 32 px | 16 px | 8 px |
# |---|---|---|---|---|
# | ViT, CLS | 95–97 | 40–46 | 32–44 | 31–46 |
# | ViT, mean of the patches | 95–97 | 35–43 | 28–38 | 27–40 |
# | CNN | 97–99 | 22–27 | 12–17 | 10–12 |
# | MLP-Mixer | 96–98 | 18–22 | 12–15 | 13–15 |
#
# The CNN and the Mixer are lost. Both ViTs, trained on the same images to the same accuracy, still name a third of the
# shapes out of 64 loose patches, and hardly fewer than out of four quarters. They know where each patch lies, and yet
# decide in part as a **bag of patches**: corners, curves and how much of them there is, wherever it lies. CKA of ordinary
# images told nothing of this: likeness on the images that both were trained for says little about images that neither saw.
#
# </details>

# %% [markdown]
# ## What to take away
#
# - CKA compares layers by how alike they find images. Leave the diagonals out, or wide layers all look alike.
# - A heat map means nothing without that of random weights beside it. ViT and CNN differ most *before* training.
# - Early layers of a ViT are like early layers of a CNN without any training; that stage 3 of the CNN is *much* like them
#   too, and that the tops meet, needs a trained CNN, and the same labels add to it.
# - Whether there are local heads is a question of objective or length of training, not only of architecture: on shapes
#   MAE has them, the supervised ViT has not.
# - A skip connection that is cut without training anew shows damage, not function.
# - Before you say what less data does, ask how far apart two seeds are: here, on the average, further than all images and 3 %
#   of them.
#
# **Limits.** One network of each kind but where three trainings are shown, small, on a procedural world, and on 9,469
# photographs for the ledger; intervals are over images or minibatches but for section 11. 16,000 images are far fewer
# than the paper's smallest set, so what it says of large data cannot be tested here. The CNN is a ResNet-18 without its
# first pooling, not a ResNet-50; flattened maps of unlike grids are compared as the paper does. Radii are of 12 images
# and 6 channels drawn at random. The networks of three blocks name only half of new images right: they show how to
# measure.
#
# **References.** Raghu et al. 2021, *Do Vision Transformers See Like Convolutional Neural Networks?*, Figures 1, 2, 3, 5,
# 6, 7, 8, 9, 12 and H.2. Tolstikhin et al. 2021, *MLP-Mixer: An all-MLP Architecture for Vision*. Kornblith et al. 2019,
# *Similarity of Neural Network Representations Revisited*, for CKA. Luo et al. 2016, *Understanding the Effective
# Receptive Field in Deep Convolutional Neural Networks*.
