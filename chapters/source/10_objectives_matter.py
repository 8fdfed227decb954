# %% [markdown]
# # 10 · Objectives matter
#
# **After this chapter you can say whether two networks hold the same thing because they learned alike or because they look
# at the same pixels, where in a network the class can be read, and what a few labels change.**
#
# You will be able to
#
# 1. compare every part of every network with every other by CKA, and take out what the pixels alone explain;
# 2. ask of a similarity whether it comes from the objective or from how little was trained;
# 3. probe CLS, pooled patches and single patches with ten labels a class;
# 4. measure invariance, and tell the learned kind from the kind that comes of knowing little;
# 5. measure whether two probes agree on an image, or only on a class;
# 6. fine-tune on a few labels and see which blocks move.
#
# *You need:* chapters 02 to 06; CKA is made from nothing below. *Time:* about 95 minutes to read, 40 for the exercises;
# the cells run in about 40 seconds on a CPU.

# %%
import textwrap

import matplotlib.pyplot as plt
import torch

from lib.data import Loaded, Shapes
from lib.models import zoo
from lib.viz import plots

plots.style()
torch.set_num_threads(min(2, torch.get_num_threads()));

# %% [markdown]
# Numbers after the sign ≈ come from trained networks; their last digits may differ between processors.
#
# Shekhar et al. (2023) set two families beside each other. **Joint-embedding** objectives ask that two views of an
# image get the same code: MoCo v3 and DINO. **Reconstructive** ones ask for what was hidden: MAE, to which we add
# SimMIM. Beside them stand a supervised network and an untrained one. How much training each had matters in this
# chapter, so look at that first:

# %%
names = {"supervised": "supervised", "mocov3": "MoCo v3", "dino": "DINO", "simmim": "SimMIM", "mae": "MAE",
         "untrained": "untrained"}
networks = {name: zoo.load(name) for name in names}
for name in list(names)[:-1]:
    entry = zoo.manifest()[f"shapes/{name}"]
    steps = entry["recipe"]["images"] * entry["recipe"]["epochs"] // entry["recipe"]["batch_size"]
    print(f"{names[name]:>10}: {steps:,} steps, linear probe ≈ {100 * entry['linear']:.0f} %")

# %% [markdown]
# DINO is the **weakest** of the trained ones: it had as many steps as MoCo v3 and learned far less from them. What is true
# of it here may be true of little learning as much as of joint embedding, and section 2 tries to tell the two apart. MoCo
# v3 is a good network; where the two differ, look there first.
#
# ## 1. Which networks are alike?
#
# Two networks of 96 channels have no channel in common, so features cannot be compared one by one. But each says how alike
# any two *images* are: the **Gram matrix** $K$ of products of the images' features, centred. CKA is the cosine of two Gram
# matrices, read as two long vectors: 1 if both networks arrange images alike, up to a rotation and a scale; about 0 if they
# have nothing in common.
#
# The papers' estimator leaves out what is certain to be alike, an image and itself, and works on minibatches:
#
# $$ \text{CKA} = \frac{\sum_i \text{HSIC}_1(K_i, L_i)}{\sqrt{\sum_i \text{HSIC}_1(K_i, K_i)}\,\sqrt{\sum_i \text{HSIC}_1(L_i, L_i)}} $$
#
# with $\text{HSIC}_1$ the inner product of two Gram matrices, each first freed of its diagonal and of its means by row and
# column; the sums run over minibatches. Why free it? Give both networks *random* features:

# %%
from lib.analysis.similarity import linear_cka

x, y = torch.randn(2, 32, 768, generator=torch.Generator().manual_seed(0)).double()  # 32 images, 768 channels each
print(f"random and random: biased {linear_cka(x, y, biased=True):.2f}, unbiased {linear_cka(x, y):.2f}")

# %% [markdown]
# With more channels than images, the plain form calls noise alike. From here on all CKA is unbiased.
#
# Now all parts of all networks: 10 parts a block (norms, queries/keys/values, heads, projections, the MLP's three steps and
# the residual stream halfway and at the end) and the embedding, 121 a network. Tokens are laid side by side, so that a part
# has one long vector for each image. To the networks come **two controls**: a second untrained one from another seed, and
# the pixels themselves.

# %%
from lib.analysis.similarity import CKA, Representations, gram, minibatches

images = Loaded(Shapes("val", size=64, length=96, difficulty="mild"))
batches = minibatches(len(images), None, batch_size=16, seed=0)  # 6 of 16 images


def gram_matrices(networks, source, batches):
    """For each minibatch {"network/part": Gram matrix (n, n)}, and at the end "pixels"."""
    found = []
    for batch in batches:
        found.append({f"{name}/{part}": k for name, network in networks.items()
                      for part, k in Representations(network, source).grams(batch).items()})
        found[-1]["pixels"] = gram(source.images(batch).float())
    return found


# %%
grams = gram_matrices(networks | {"second": zoo.untrained(seed=2)}, images, batches)
layers = list(grams[0])
print(len(layers), "layers:", *layers[:4], "...", layers[-1])

# %%
def cka_of(grams):
    """CKA of every layer with every other (L, L), from the minibatches' Gram matrices."""
    cka = CKA()
    for batch in grams:
        cka.update(list(batch.values()))
    return cka.compute()


def place(layers, name, parts):
    """Numbers of a network's parts among the layers."""
    return [layers.index(f"{name}/{part}") for part in parts]


# %%
from lib.analysis.recording import part_names

cka, parts, blocks = cka_of(grams), part_names(12), [f"block{block}" for block in range(1, 13)]
where = {name: place(layers, name, parts) for name in [*names, "second"]}
chance = (2 / (16 * 15 * len(batches))) ** 0.5
print(tuple(cka.shape), f"independent layers would differ from 0 by about {chance:.2f}")

# %% [markdown]
# **Predict, then run.** Four maps: MoCo v3 with DINO (both joint-embedding), MoCo v3 with MAE (one of each), SimMIM with
# MAE (both reconstructive), and two untrained networks that share nothing but their form. Which one is the brightest?

# %%
figure, axes = plt.subplots(1, 4, figsize=(8.2, 2.6), sharey=True)
pairs = [("mocov3", "dino"), ("mocov3", "mae"), ("simmim", "mae"), ("untrained", "second")]
for axis, (a, b) in zip(axes, pairs):
    shown = axis.imshow(cka[where[a]][:, where[b]], vmin=0, vmax=1, origin="lower")
    axis.set(title=f"{names[a]}\nand {names.get(b, 'another seed')}", xlabel="block of the second", xticks=[10, 60, 120],
             xticklabels=[1, 6, 12], yticks=[10, 60, 120], yticklabels=[1, 6, 12])
axes[0].set_ylabel("block of the first")
figure.colorbar(shown, ax=axes, label="CKA, n = 96")
plots.show(figure, alt="Four heat maps of CKA between parts of two networks: the pair of untrained networks is the brightest.")

# %% [markdown]
# The two that share nothing; and next to them MoCo v3 with MAE, one of each family. Stripes cross the maps, at the same
# place in nearly every block, darkest in MoCo v3 beside MAE, where they run only across: some part of MoCo v3's blocks
# is much less like MAE than the rest is. Which part of a block are they? Point at one, or use the arrow keys: all four
# maps say what that pair of parts has. (Without a kernel you see a still picture.)

# %%
from lib.viz.heatmap import HeatMaps

maps = {f"{names[a]}, {names.get(b, 'another seed')}": cka[where[a]][:, where[b]] for a, b in pairs}
HeatMaps(maps, parts, parts, axes=("first", "second"), low=0.0, high=1.0, row=parts.index("block9.heads"),
         column=parts.index("block9.heads"))

# %% [markdown]
# They are what attention writes before it joins the residual stream (the heads and their projection). Random networks
# show them too, if faintly: section 3 comes back to it.
#
# Before you read anything into a CKA of 0.8 between two trained networks, you need to know what two random ones have, and
# why. Ask the pixels:

# %%
figure, axis = plt.subplots(figsize=(6.5, 2.8))
pixels = layers.index("pixels")
for name in names:
    axis.plot(range(1, 13), cka[place(layers, name, blocks), pixels], "o-", ms=3, color=plots.COLORS[name], label=names[name])
axis.set(xlabel="block", ylabel="CKA with the pixels (n = 96)", xticks=range(1, 13), ylim=(0, 1.03),
         title="Untrained, MoCo v3, MAE: images arranged much as their pixels are")
axis.legend(ncols=2, fontsize=9, loc="lower left")
plots.show(figure, alt="CKA with pixels by block: high for the untrained network, MoCo v3 and MAE; the supervised and SimMIM's fall most.")

# %% [markdown]
# In this world, which places are light and which are dark decides most of the pixels' Gram matrix, more than how bright the
# whole image is, and residual connections carry that through a network that has learned nothing. MoCo v3 has learned a lot,
# and its patches hold it still. All networks that do are alike *for that reason*.
#
# ### What is left without the pixels
#
# Since CKA is a cosine, a third Gram matrix can be taken out of both, as in a partial correlation:
#
# $$ r_{KL \cdot P} = \frac{r_{KL} - r_{KP}\, r_{LP}}{\sqrt{1 - r_{KP}^2}\,\sqrt{1 - r_{LP}^2}} $$
#
# (Cui et al. 2022 free CKA of the input's similarity in this spirit.) For one layer or several to take out, the same in
# matrices, and a check against the long way, a regression of the vectors themselves:

# %%
def without(cka, known):
    """CKA (L, L) of what is left after the layers numbered `known` are regressed out of every Gram matrix."""
    rest = cka - cka[:, known] @ torch.linalg.solve(cka[known][:, known], cka[known])
    scale = rest.diagonal().clamp(min=1e-12).sqrt()
    return rest / (scale[:, None] * scale)


# %%
from lib.analysis.similarity import centered

def vector(grams, layer):
    """The centred Gram matrices of all minibatches, one after the other."""
    return torch.cat([centered(batch[layer]).flatten() for batch in grams])


k, l, p = (vector(grams, layer) for layer in ("mocov3/block9", "mae/block9", "pixels"))
k, l = (v - (v @ p) / (p @ p) * p for v in (k, l))  # what the pixels do not explain
slow = torch.cosine_similarity(k, l, dim=0)
fast = without(cka, [pixels])[layers.index("mocov3/block9"), layers.index("mae/block9")]
print("formula = regression:", torch.allclose(slow, fast, atol=1e-6))

# %% [markdown]
# **Predict, then run.** Three panels: CKA as it is; without the pixels; and without the pixels *and* all depths of the
# second untrained network, so that nothing counts that a random network has as well. Which pairs stay alike in late blocks?

# %%
kinds = {"both joint-embedding": ([("mocov3", "dino")], "#0072B2", "-"),
         "both reconstructive": ([("simmim", "mae")], "#D55E00", "-"),
         "one of each": ([(a, b) for a in ("mocov3", "dino") for b in ("simmim", "mae")], "#CC79A7", "-"),
         "joint-embedding, supervised": ([("mocov3", "supervised"), ("dino", "supervised")], "#0072B2", ":"),
         "reconstructive, supervised": ([("simmim", "supervised"), ("mae", "supervised")], "#D55E00", ":")}


def alike(cka, layers, pairs, parts):
    """Same-depth CKA, mean over pairs of networks: (parts,)."""
    return torch.stack([cka[place(layers, a, parts), place(layers, b, parts)] for a, b in pairs]).mean(0)


def three_looks(cka, layers):
    """CKA as it is, without the pixels, and without the pixels and all depths of the second untrained network."""
    depths = place(layers, "second", ["embedding", *(f"block{block}" for block in range(1, 13))])
    pixels = layers.index("pixels")
    return {"as it is": cka, "without pixels": without(cka, [pixels]),
            "without pixels and\na random network": without(cka, [pixels, *depths])}


# %%
looks = three_looks(cka, layers)
figure, axes = plt.subplots(1, 3, figsize=(8.2, 3.3), sharey=True)
for axis, (title, values) in zip(axes, looks.items()):
    for kind, (pairs, color, line) in kinds.items():
        axis.plot(range(1, 13), alike(values, layers, pairs, blocks), line, marker="o", ms=3, color=color, label=kind)
    axis.axhline(0, color="black", lw=0.8)
    axis.set(title=title, xlabel="block", xticks=[1, 4, 8, 12])
axes[0].set_ylabel("CKA at the same depth (n = 96)")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
plots.show(figure, alt="CKA by block in three panels: late, two joint-embedding networks lie highest, until a random network is taken out too.")

# %% [markdown]
# Left, as it is: all pairs start near 1, where every network still holds the pixels, and most fall from block to block.
# Middle: without the pixels, little is left between most pairs, and the pair of joint-embedding networks stands out in late
# blocks. Right: a good part of that was what a random network has as well; the pair still lies above one of each, and no
# higher than joint-embedding networks beside the supervised one. SimMIM and MAE, in their late blocks, are not like one
# another.
#
# (A negative number is no mistake: taken out of both, the pixels may leave two remainders that disagree.)
#
# How sure? Leave out one minibatch of the six, compute all of it again, do so for each: how far these six values scatter
# says how far off the value of all may be (the **jackknife** of chapter 06; 2.57 is Student's factor for six groups).

# %%
def late_cka(grams, kinds=kinds):
    """Mean over blocks 7 to 12, for each look and each kind of pair: (3, 5)."""
    layers, late = list(grams[0]), [f"block{block}" for block in range(7, 13)]
    looks = three_looks(cka_of(grams), layers).values()
    return torch.stack([torch.stack([alike(look, layers, pairs, late).mean() for pairs, _, _ in kinds.values()])
                        for look in looks])


def leave_out(statistic, grams):
    """A statistic of all minibatches, and of all but each in turn: (1 + minibatches, ...)."""
    return torch.stack([statistic(grams), *(statistic(grams[:i] + grams[i + 1:]) for i in range(len(grams)))])


def jackknife(values):
    """What `leave_out` gives -> the value of all, and how far its 95 % interval goes to either side."""
    whole, left = values[0], values[1:]
    return whole, 2.57 * ((len(left) - 1) * left.var(0, correction=0)).sqrt()


# %%
ends = [{layer: k for layer, k in batch.items() if "." not in layer} for batch in grams]  # the residual stream alone
late = leave_out(late_cka, ends)  # (1 + 6, looks, kinds)
value, wide = jackknife(late)
print("blocks 7 to 12".ljust(28), *(title.replace("\n", " ").rjust(16) for title in ("as it is", "no pixels", "nor random")))
for kind, row, error in zip(kinds, value.T, wide.T):
    print(kind.ljust(28), *(f"≈ {v:+.2f} ± {e:.2f}".rjust(16) for v, e in zip(row, error)))

# %% [markdown]
# The second row is worth a second look. Two networks that both reconstruct have CKA to show as they are, and little
# without the pixels, no more than either has with MoCo v3: "reconstructive" is one word for two different late halves.
# Why, these numbers do not say.
#
# ## 2. The objective, or how much was learned?
#
# DINO learned least of all. Networks that stayed near their start are alike for what they have from there. So ask how near
# each is to a random network:

# %%
for name in names:
    if name != "untrained":
        row = [alike(look, layers, [(name, "second")], blocks[6:]).mean() for look in list(looks.values())[:2]]
        print(f"{names[name]:>10} and a random network, blocks 7 to 12: as it is ≈ {row[0]:.2f}, without pixels ≈ {row[1]:+.2f}")

# %% [markdown]
# That is a warning for DINO: beside the pixels, what its late blocks hold is mostly what a random network holds. MoCo
# v3 has some of the same; the other three have little or none. So the blue line of the middle panel is in good part
# what random networks have in common, and the right-hand panel is the fairer one. What is left there is not shared with
# random networks in general. It may still come from the very weights with which MoCo v3 and DINO both began (seed 0).
#
# ### Another start
#
# So train MoCo v3 once more, from another seed: other weights to begin with, other views, another order of the images
# (`mocov3-seed1`). Now two questions have answers. How alike are two networks of *one* objective, which is the most that
# "alike" can mean? And what is left of a pair's likeness when the two did not begin with the same weights?
#
# **Predict, then run.** MoCo v3 twice, or MoCo v3 and DINO from one start: which pair is more alike, without the pixels?

# %%
again = zoo.load("mocov3-seed1")
reader = Representations(again, images, {f"block{block}": module for block, module in enumerate(again.blocks, start=1)})
for batch, found in zip(batches, ends):
    found.update({f"again/{part}": k for part, k in reader.grams(batch).items()})

starts = {"MoCo v3 twice": [("mocov3", "again")],
          "MoCo v3 and DINO": [("mocov3", "dino")], "... from another start": [("again", "dino")],
          "MoCo v3 and SimMIM, MAE": [("mocov3", "simmim"), ("mocov3", "mae")],
          "... from another start ": [("again", "simmim"), ("again", "mae")],
          "one of each, another start": [("again", "simmim"), ("again", "mae"), ("dino", "simmim"), ("dino", "mae")]}
start_kinds = {name: (pairs, None, None) for name, pairs in starts.items()}
started = leave_out(lambda some, kinds=start_kinds: late_cka(some, kinds), ends)
value, wide = jackknife(started)  # (looks, pairs)
print("blocks 7 to 12".ljust(28), *(title.rjust(16) for title in ("as it is", "no pixels", "nor random")))
for name, row, error in zip(starts, value.T, wide.T):
    print(name.ljust(28), *(f"≈ {v:+.2f} ± {e:.2f}".rjust(16) for v, e in zip(row, error)))

# %% [markdown]
# Two trainings of MoCo v3 are far more alike than any two objectives. But **the lead of MoCo v3 beside DINO is gone with the
# second of them**, and the mixed pairs lose nothing. Is that because MoCo v3 and DINO began with the same weights, and the
# second MoCo v3 with others? Ask each how much it has of the weights of seed 0, with which both began (they are those of the
# untrained network), and how much of any others:

# %%
named, kept = list(ends[0]), without(cka_of(ends), [list(ends[0]).index("pixels")])
for name, words in {"mocov3": "MoCo v3", "again": "MoCo v3 again", "dino": "DINO"}.items():
    own, other = (alike(kept, named, [(name, start)], blocks[6:]).mean() for start in ("untrained", "second"))
    print(f"{words:>13}, without pixels: with the weights of seed 0 ≈ {own:+.2f}, with other random weights ≈ {other:+.2f}")

# %% [markdown]
# It is not the start: DINO is as much like random weights that it never had as like its own. What DINO shares with the
# first MoCo v3 and *not* with the second is mostly what all random networks share; the second has shed nearly all of
# it, with the same recipe. So MoCo v3's lead beside DINO hung on one training, and no interval over images or
# minibatches could have said so.
#
# So take all trainings that there are: MoCo v3, SimMIM, MAE and DINO from three starts each, the same three for all of
# them. Every pair is a dot.
#
# **Predict, then run.** If objectives make networks alike, which dots lie highest? And if *families* of objectives do?

# %%
from itertools import combinations, product

for name in ("mocov3-seed2", "simmim-seed1", "simmim-seed2", "mae-seed1", "mae-seed2", "dino-seed1", "dino-seed2"):
    network = zoo.load(name)
    reader = Representations(network, images, {f"block{block}": module for block, module in enumerate(network.blocks, start=1)})
    for batch, found in zip(batches, ends):
        found.update({f"{name}/{part}": k for part, k in reader.grams(batch).items()})

three = {"MoCo v3": ["mocov3", "again", "mocov3-seed2"], "SimMIM": ["simmim", "simmim-seed1", "simmim-seed2"],
         "MAE": ["mae", "mae-seed1", "mae-seed2"], "DINO": ["dino", "dino-seed1", "dino-seed2"]}
every_pair = {f"{name}, itself": list(combinations(those, 2)) for name, those in three.items()}
every_pair |= {f"{a}, {b}": list(product(three[a], three[b])) for a, b in combinations(three, 2)}

# %%
kin = {"one objective, two trainings": ("#0072B2", "o", list(every_pair)[:4]),
       "two objectives of a family": ("#009E73", "s", ["MoCo v3, DINO", "SimMIM, MAE"]),
       "one of each family": ("#D55E00", "^", ["MoCo v3, SimMIM", "MoCo v3, MAE", "SimMIM, DINO", "MAE, DINO"])}
rows_of = [pair for _, _, some in kin.values() for pair in some]
named, seen = list(ends[0]), three_looks(cka_of(ends), list(ends[0]))
dots = {title: {pair: [alike(look, named, [two], blocks[6:]).mean().item() for two in every_pair[pair]] for pair in rows_of}
        for title, look in seen.items()}


def draw_dots(dots, kin, rows_of):
    """Every pair of trainings as a dot, one panel for each look; objectives, families and mixed pairs in their colors."""
    figure, axes = plt.subplots(1, len(dots), figsize=(7.5, 3.8), sharey=True)
    for axis, (title, of_pair) in zip(axes, dots.items()):
        for name, (color, marker, some) in kin.items():
            for pair in some:
                axis.plot(of_pair[pair], [rows_of.index(pair)] * len(of_pair[pair]), marker, ms=5, alpha=0.6, color=color,
                          label=name if pair == some[0] else "")
        axis.axvline(0, color="black", lw=0.8)
        axis.set(title=title, xlabel="CKA (n = 96)", yticks=range(len(rows_of)), ylim=(len(rows_of) - 0.5, -0.5))
    axes[0].set_yticklabels(rows_of), axes[0].set_ylabel("pair")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle("Blocks 7 to 12: an objective makes alike, a family does not", fontsize=10)
    return figure


# %%
figure = draw_dots(dots, kin, rows_of)
plots.show(figure, alt="Likeness of every pair as a dot: trainings of one objective are most alike, pairs of a family lie among the mixed pairs.")

# %%
without_pixels = list(seen.values())[1]
print("blocks 7 to 12".ljust(16), *(title.rjust(26) for title in ("as it is", "no pixels", "nor random")))
for pair in rows_of:
    found = [torch.tensor(of_pair[pair]) for of_pair in dots.values()]
    print(pair.ljust(16), *(f"≈ {x.mean():+.2f} (≈ {x.min():+.2f} to ≈ {x.max():+.2f})".rjust(26) for x in found))
found = [alike(without_pixels, named, [(name, "second")], blocks[6:]).mean() for name in three["DINO"]]
print("DINO, random weights, without pixels:", *(f"≈ {dot:+.2f}" for dot in found))

# %% [markdown]
# **Trainings of one objective are far more alike than any two objectives**: without the pixels .7 and more, against .43
# at most. So much an objective decides. (DINO's three are the most alike of all, .94 and more. Each of them is mostly
# like random weights, and these are like each other; but with a random network taken out they keep .83, so DINO too
# learned something of its own.) **A family does not show from MoCo v3's side**: without the pixels its three trainings
# lie beside DINO about where they lie beside MAE, and in the other two panels MAE is nearer. From DINO's side every
# MoCo v3 is nearer than any masked network, in all nine pairs; whether by what it asks for or by what it never learned,
# a DINO that learned little cannot say. The two masked objectives are no nearer to each other than each is to MoCo v3.
# Of two different objectives MoCo v3 and MAE, one of each family, are the most alike as they are. Without the pixels,
# which both keep (section 1), their lead is gone; with a random network out too (right) it is back, and MoCo v3 with
# DINO are no more alike than SimMIM with MAE or with MoCo v3.
#
# ## 3. Which part of a block?
#
# Shekhar et al. find that between joint-embedding and reconstructive networks the inputs of attention differ most (the
# first norm, and queries, keys and values), the MLP's first layer and its norm least; and that between two joint-embedding
# networks the former agree more than the MLP's first layer. The same question here, mean over 12 blocks:

# %%
steps = {"norm1": "first norm", "qkv": "queries, keys,\nvalues", "heads": "heads", "proj": "projection",
         "norm2": "second norm", "fc1": "MLP, layer 1", "act": "activation", "fc2": "MLP, layer 2"}
figure, axes = plt.subplots(2, 1, figsize=(7.5, 4.4), sharex=True)
for axis, (title, values) in zip(axes, list(looks.items())[::2]):
    table = torch.stack([torch.stack([alike(values, layers, pairs, [f"{block}.{step}" for block in blocks]).mean()
                                      for step in steps]) for pairs, _, _ in kinds.values()])  # (kinds, steps)
    axis.imshow(table, vmin=0, vmax=1, aspect="auto")
    for (i, j), number in zip(torch.cartesian_prod(torch.arange(5), torch.arange(8)).tolist(), table.flatten()):
        axis.text(j, i, f"{number:.2f}", ha="center", va="center", color="black" if number > 0.5 else "white", fontsize=9)
    axis.set(title="CKA " + title.replace("\n", " "), yticks=range(5), yticklabels=kinds)
axes[1].set_xticks(range(8), steps.values(), rotation=30, ha="right")
plots.show(figure, alt="Two tables of CKA by kind of pair and part of a block, as it is and without pixels and a random network.")

# %% [markdown]
# The turn-about does not show here. The norm and the queries, keys and values agree *more* than the MLP's first layer
# in **every** kind of pair, with the pixels and without. (Why, this does not say: the MLP's first layer is linear in a
# norm of the same stream, as queries, keys and values are.) What sets the kinds apart is what attention *writes*, heads
# and projection. There the two joint-embedding networks agree most of all (the first MoCo v3; section 2); of the
# self-supervised pairs, one of each agrees least. The paper's networks are eight times as wide, were trained to the
# end, and on photographs.
#
# ### On photographs
#
# The third of these can be tried. The same objectives trained the same body on Imagenette (chapter 04), and `python -m
# lib.analysis claims --world imagenette` put the paper's sentences to them and to images that they had not seen; chapter
# 13 keeps what came out. Three sentences, as differences, for one training of each: to the right of 0 the paper is right.
# The crosses are the control, a network with random weights in MoCo v3's place.
#
# **Predict, then run.** Will the photographs move the dots to the right?

# %%
from lib.analysis.claims import ledger

sentences = {("shekhar-1", 0): "MoCo v3 is more like\nDINO than like MAE",
             ("shekhar-5", 0): "MoCo v3, MAE: MLP layer 1 agrees\nmore than norm and QKV",
             ("shekhar-4", 1): "the same in\nblocks 5 to 7"}
figure, axis = plt.subplots(figsize=(7.5, 2.9))
for shift, (world, color) in zip((-0.15, 0.15), {"shapes": "#0072B2", "imagenette": "#D55E00"}.items()):
    claims = {id: ledger.of_one_training(entry) for id, entry in ledger.of_world(ledger.written(), world).items()}
    for row, (id, number) in enumerate(sentences):
        check, control = claims[id]["checks"][number], claims[id]["control"]["checks"][number]
        axis.plot([check["low"], check["high"]], [row + shift] * 2, color=color, lw=2)
        axis.plot(check["value"], row + shift, "o", color=color, label=None if row else world.replace("imagenette", "photographs"))
        axis.plot(control["values"][0], row + shift, "x", color=color, label="random weights" if (row, shift) == (0, 0.15) else None)
axis.axvline(0, color="black", lw=1)
axis.set(yticks=range(3), yticklabels=sentences.values(), ylabel="the paper's sentence",
         xlabel="difference of CKA, 95 % interval over minibatches (n = 512)")
axis.set(ylim=(2.5, -0.5), title="Right of 0 the paper is right: on photographs, more often")
axis.legend(loc="lower right")
plots.show(figure, alt="Three differences in two worlds: on shapes all lie left of 0, on photographs two lie right of it.")

# %% [markdown]
# They do. **The paper's sign shows on photographs**, over all blocks at a fifth of its size (.06 against .30), and in
# blocks 5 to 7, where its gap is widest, at a tenth (.06 against .63): the MLP's first layer of MoCo v3 and MAE agrees
# more than what attention reads, and a network with random weights in MoCo v3's place has the opposite. So it was
# learned. Whether the world did it or the training, two networks cannot say; but MoCo v3 after 8 epochs instead of 40
# had it in blocks 5 to 7 alone, so the training has a part in it. The first row is another matter: random weights lie
# far to the right of MoCo v3, in both worlds. That a network is more like DINO than like MAE says little about its
# objective as long as random weights are so by more.
#
# ## 4. Where can the class be read?
#
# Now ask for content. A probe learns from **ten labelled images a class** (Raghu et al. 2021): least squares with a
# penalty, in closed form, towards +1 for an image's class and -1 for the others. Ten labels find what lies on the surface.
# Each token can have a probe of its own: CLS, the mean of the patches, and each of the 64 patches.

# %%
from lib.evaluation.features import extract_depths
from lib.evaluation.few_shot import few_shot_probe, over_tokens

train, val = (Loaded(Shapes(split, size=64, length=length, difficulty="mild")) for split, length in (("train", 200), ("val", 200)))


def probe_tokens(network, train, val, depths):
    """Is each token's probe right? {depth: (2 + 64, Q)}: the mean, CLS, patches. And the tokens the network ends in."""
    (features, labels), (queries, truth) = (extract_depths(network, s, [*depths, None], "tokens") for s in (train, val))
    right = {}
    for depth in depths:
        known, asked = (torch.cat([x[depth][:, 1:].mean(1, keepdim=True), x[depth]], 1).transpose(0, 1)
                        for x in (features, queries))                             # (2 + 64, images, 96)
        right[depth] = few_shot_probe(known, labels, asked)[0] == truth
    return right, (features[None], queries[None])


# %% [markdown]
# **Predict, then run.** MoCo v3 and DINO are trained on CLS, SimMIM and MAE on patches alone. In which network does CLS
# know the class better than the mean of the patches, and in which does a *single patch* know it?

# %%
depths = [0, 2, 4, 8, 12]
probed, final = {}, {}
for name, network in networks.items():
    probed[name], final[name] = probe_tokens(network, train, val, depths)

# %%
figure, axes = plt.subplots(1, 3, figsize=(8.2, 3.3), sharey=True)
for axis, (title, tokens) in zip(axes, {"CLS": slice(1, 2), "mean of the patches": slice(0, 1),
                                        "one patch (mean of 64 probes)": slice(2, None)}.items()):
    for name, right in probed.items():
        share = [100 * right[depth][tokens].float().mean() for depth in depths]
        axis.plot(depths, share, "o-", ms=3, color=plots.COLORS[name], label=names[name])
    axis.axhline(10, color="black", lw=0.8, ls=":")
    axis.set(title=title, xlabel="depth (0: embedding)", xticks=[0, 4, 8, 12], ylim=(0, 100))
axes[0].set_ylabel("10-shot accuracy, %")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
plots.show(figure, alt="Accuracy by depth from CLS, mean and single patches: supervised highest; next MAE, from CLS MoCo v3 too.")

# %% [markdown]
# (n = 200 images, one draw of ten a class; a share of one half has an interval of about 7 points to each side.) At
# depth 0 CLS tells nothing: it is the same for every image, so the probe names one class for all, which is right as
# often as that class comes up. The patches tell little. From block 2 on every network is above the untrained one, from
# CLS. From CLS, MoCo v3 and MAE are about level and well ahead of SimMIM and DINO; from the patches, MAE is far ahead
# of the other self-supervised networks. So the paper's finding that the class lies closer to the surface in
# joint-embedding networks **does not show on these shapes** (on photographs it does, by k-NN: shekhar-6 in chapter 13):
# MoCo v3 keeps up with MAE, from CLS alone, and its 1,000 steps cost about four times as much as MAE's 2,000 (chapter 12
# counts). DINO and SimMIM change places with the probe: by k-NN DINO is ahead by 20 points (chapter 04), with ten labels a
# class it is not.
#
# Where does CLS know more than the mean? Image by image, with intervals:

# %%
from lib.evaluation.report import bootstrap_mean

for name in names:
    points = 100 * (probed[name][12][1].float() - probed[name][12][0].float())  # CLS less mean, (Q,)
    low, high = bootstrap_mean(points)
    print(f"{names[name]:>10}, block 12: CLS less mean ≈ {points.mean():+.1f} points (≈ {low:+.1f} to ≈ {high:+.1f})")

# %% [markdown]
# Clearly in the supervised network and in MoCo v3, both trained on CLS until it knew. MAE puts about as much into one as
# into the other, though its loss never touches CLS: attention fills it on the way. The paper finds the same of MAE, and CLS
# ahead in late blocks of joint-embedding networks. MoCo v3 shows that here; DINO leaves it open.
#
# ### Patch by patch

# %%
figure, axes = plt.subplots(2, 6, figsize=(8.2, 3.2))
for column, (name, right) in zip(axes.T, probed.items()):
    for axis, depth in zip(column, (2, 12)):
        shown = axis.imshow(100 * right[depth][2:].float().mean(1).view(8, 8), vmin=10, vmax=90)
        axis.set(xticks=[], yticks=[])
    column[0].set_title(names[name])
for axis, depth in zip(axes[:, 0], (2, 12)):
    axis.set_ylabel(f"block {depth}")
figure.colorbar(shown, ax=axes, label="10-shot accuracy, %")
plots.show(figure, alt="Maps of 64 single-patch probes after blocks 2 and 12: late, the supervised network and MAE know the class most widely.")

# %% [markdown]
# After block 2 the middle knows, where the object lies, in every network but the supervised one, which has told nearly all
# patches by then. After block 12 the supervised network has the class everywhere, and MAE has spread it a good way; MoCo
# v3, SimMIM and, with less of it, DINO still have it in the middle above all.
#
# A warning before you write down "the best patch has ...": the best of 64 coins, each thrown 200 times, looks better than a
# coin. `over_tokens` finds the best patch on one half of the images and measures it on the other.

# %%
coins = torch.rand(64, 200, generator=torch.Generator().manual_seed(0)) < 0.5
print(f"coins: best of 64 {coins.float().mean(1).max():.2f}, found on one half, measured on the other {over_tokens(coins).best:.2f}")
for name in names:
    worst, mean, best = over_tokens(probed[name][12][2:])
    print(f"{names[name]:>10}, block 12: worst patch ≈ {worst:.2f}, mean ≈ {mean:.2f}, best ≈ {best:.2f}")

# %% [markdown]
# In the supervised network worst and best are as good as the mean: what differs between its patches in the map is luck. In
# MAE and MoCo v3 the best patch knows far more than the worst, even without luck.
#
# ## 5. What does a network not care about?
#
# Joint-embedding objectives *ask* for one code for two views of an image, so whatever makes the views must leave the code
# alone. What the networks of this course saw:
#
# | | crop, flip | brightness, contrast, blur | quarter turn | asked to give views one code |
# |---|---|---|---|---|
# | MoCo v3, DINO | yes | yes | no | yes |
# | supervised | yes | brightness, contrast | no | through the label |
# | SimMIM, MAE | yes | no | no | no |
#
# Of images $x$ and what a transform $T$ makes of them, the mean patch token gives the mean cosine $c$ of $f(x)$ and
# $f(Tx)$. All images may have much the same code, so set it against other images, with $c_0$ the mean cosine of $f(x)$
# and $f(Tx')$:
#
# $$ \text{invariance} = \frac{c - c_0}{1 - c_0} $$
#
# 1 where $T$ changes nothing, 0 where $Tx$ is as strange as any other image.

# %%
from lib.analysis.invariance import Transformed, invariances
from lib.data.views import denormalize

transforms = {"colour": "brightness, contrast", "blur": "blur", "flip": "flip", "quarter turn": "quarter turn"}
few = Loaded(Shapes("val", size=64, length=40, difficulty="mild"))
shown = [few.images(torch.tensor([13])).float() / 255, *(denormalize(Transformed(few, t).images(torch.tensor([13]))) for t in transforms)]
plots.show(plots.image_grid(torch.cat(shown), ["the image", *transforms.values()]),
           alt="One image, and after each transform: darker, blurred, mirrored, turned.")

# %% [markdown]
# **Predict, then run.** Which networks are invariant to brightness and contrast, and which to a quarter turn, which no
# objective asks for?

# %%
invariant = {name: invariances(network, few, transforms, pooling="mean") for name, network in networks.items()}
figure, axes = plt.subplots(1, 4, figsize=(8.2, 3), sharey=True)
for axis, (transform, title) in zip(axes, transforms.items()):
    for name in names:
        values = invariant[name][transform].invariance
        mean, error = values.mean(0), 1.96 * values.std(0) / len(few) ** 0.5
        axis.plot(range(13), mean, color=plots.COLORS[name], label=names[name])
        axis.fill_between(range(13), mean - error, mean + error, color=plots.COLORS[name], alpha=0.15)
    axis.set(title=title, xlabel="depth", xticks=[0, 4, 8, 12])
axes[0].set_ylabel("invariance (n = 40)")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
plots.show(figure, alt="Invariance by depth: to brightness the joint-embedding and supervised networks lie highest; to turns most are high.")

# %% [markdown]
# Brightness and contrast, left, is the clean case. The networks whose objective demanded it, through views or through
# labels, are above 0.9 from block 8 on. SimMIM, whose target keeps the brightness, falls below the untrained network; MAE,
# whose targets have each patch's brightness and contrast taken out, stays near it and ends a little above. (Bands are 95 %
# intervals over images; SimMIM's are wide, because some images change much more than others.)
#
# The other three teach caution. MoCo v3 and DINO both saw blurred views, yet MoCo v3 is less invariant to blur than the
# untrained network (to this blur, which is four times as wide as the widest of its views). Flipped images were in every
# training, but only MoCo v3 and DINO were asked directly to give an image and its mirror image one code, and the
# supervised network through the label; SimMIM has come as far as the first two without being asked, while the
# supervised network and MAE stay where random weights are. **Nobody asked for invariance to a quarter turn**, and yet
# most networks have it, the untrained one too; the supervised network, which knows the class best, has the least.

# %%
for name in names:
    turn, colour = (invariant[name][t].invariance.mean(0)[-1] for t in ("quarter turn", "colour"))
    accuracy = 100 * probed[name][12][0].float().mean()
    print(f"{names[name]:>10}, block 12: turn ≈ {turn:.2f}, brightness ≈ {colour:.2f}, class from the mean ≈ {accuracy:.0f} %")

# %% [markdown]
# A code that tells little of an object's shape may not care how it is turned. Of the trained networks, the three that are
# most invariant to a turn know the class *less* well from these same tokens than the other two. (MoCo v3 does know it, but
# in CLS.) But the untrained network knows least of all, and is no more invariant than MAE: knowing little is not all. So an
# invariance means something beside a number that says what is still known, and beside a transform that no objective asked
# for.
#
# ## 6. Do probes agree?
#
# Two networks may arrange images differently and still lead a probe to the same answers. A linear probe gives each class a
# score, so it ranks the ten classes for each image. **Kendall's** $\tau$ compares two rankings: of all pairs of classes,
# the share that both put in the same order, less the share that they do not. 1 for the same ranking, 0 for unrelated ones.

# %%
from lib.analysis.agreement import class_rank_tau, kendall_tau, prediction_f1

first, second = torch.tensor([5.0, 3, 2, 1]), torch.tensor([5.0, 2, 3, 1])  # the middle two change places
print(f"6 pairs of classes, 5 in the same order: (5 - 1) / 6 = {4 / 6:.2f}, library {kendall_tau(first, second):.2f}")

# %%
from lib.evaluation.linear import linear_scores

own = {"supervised": 0, "mocov3": 0, "dino": 0}  # these read CLS; the others the mean of the patches
labels, truth = train.labels(torch.arange(len(train))), val.labels(torch.arange(len(val)))
scores = {}
for name, ends_in in final.items():
    features, queries = (x[:, 0] if name in own else x[:, 1:].mean(1) for x in ends_in)
    scores[name] = linear_scores(features, labels, queries)[0]  # (Q, 10)
    print(f"{names[name]:>10}: linear probe ≈ {100 * (scores[name].argmax(1) == truth).float().mean():.0f} %")

# %% [markdown]
# (200 training images are few; the probes of chapter 04 have more and are better.) The control: compare the first network's
# ranking for an image with the second's for **another image of the same class**. What is left then is what both know of the
# class.
#
# **Predict, then run.** How much of the agreement will the control take away: most of it, half, or little?

# %%
def next_of_class(truth):
    """For each image the number of another one of its class: (Q,)."""
    other = torch.arange(len(truth))
    for label in truth.unique():
        members = (truth == label).nonzero()[:, 0]
        other[members] = members.roll(1)
    return other


# %%
n = len(names)
taus = torch.full((2, n, n), torch.nan)
for i, a in enumerate(names):
    for j, b in enumerate(names):
        if i != j:
            taus[0, i, j] = class_rank_tau(scores[a], scores[b]).mean()
            taus[1, i, j] = class_rank_tau(scores[a], scores[b][next_of_class(truth)]).mean()

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.8, 3.6), sharey=True)
for axis, table, title in zip(axes, taus, ("the same image", "another image of its class")):
    shown = axis.imshow(table, vmin=0, vmax=0.8)
    for i, j in torch.cartesian_prod(torch.arange(n), torch.arange(n)).tolist():
        if i != j:
            axis.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", fontsize=9,
                      color="black" if table[i, j] > 0.4 else "white")
    axis.set_xticks(range(n), names.values(), rotation=30, ha="right"), axis.set_yticks(range(n), names.values())
    axis.set_title(f"τ of class ranks, {title}")
plots.show(figure, alt="Two tables of Kendall's tau between probes of six networks; the second is only slightly darker.")

# %% [markdown]
# Little. What two probes agree on is mostly which classes resemble the right one, and that holds for any image of the
# class; what they share about *this* image is the difference of the two tables, a few hundredths. The supervised network's
# probe agrees with nobody: it is all but sure of one class, and how it ranks the other nine, once these no longer matter,
# is as good as arbitrary.
#
# Among the four self-supervised probes, those of MoCo v3 and DINO agree most, as in the paper, but those of MoCo v3 and
# SimMIM are not far behind: any pair with MoCo v3 agrees more than any without it. So this may say more of one network than
# of a family. (The paper's Figure 4 is for the top 5 to 100 of 1,000 classes, and its way of comparing lists is not known;
# its numbers do not stand beside these.)
#
# ### Right and wrong together
#
# Of two probes that are right in 90 and 60 % of images, both are right or both wrong in 58 % by luck alone (0.9 · 0.6 + 0.1
# · 0.4). **Error consistency** is how much of the room above luck they fill (Geirhos et al. 2020): 0 for luck, 1 for always
# together, which only probes of equal accuracy can reach. For others the most that is possible, the **ceiling**, is lower.

# %%
def error_consistency(first, second):
    """Right answers (Q,) bool of two probes -> from below 0 to 1."""
    a, b = first.double(), second.double()
    luck = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return ((a == b).double().mean() - luck) / (1 - luck)


def ceiling(first, second):
    """The same if the weaker of the two were right only where the stronger one is."""
    a, b = first.double().mean(), second.double().mean()
    luck = a * b + (1 - a) * (1 - b)
    return (1 - (a - b).abs() - luck) / (1 - luck)


# %%
from lib.evaluation.report import bootstrap_statistic

right = {name: scores[name].argmax(1) == truth for name in names}
for a, b in [("mocov3", "dino"), ("mocov3", "simmim"), ("mocov3", "mae"), ("dino", "mae"), ("simmim", "mae"), ("mae", "supervised")]:
    low, high = bootstrap_statistic(error_consistency, right[a], right[b], draws=500)
    print(f"{names[a]:>8} and {names[b]:<10} error consistency ≈ {error_consistency(right[a], right[b]):+.2f} "
          f"(≈ {low:+.2f} to ≈ {high:+.2f}), ceiling ≈ {ceiling(right[a], right[b]):.2f}, "
          f"F1 ≈ {prediction_f1(scores[a].argmax(1), scores[b].argmax(1)):.2f}")

# %% [markdown]
# All intervals are wide with 200 images. The highest value belongs to MoCo v3 and MAE, one of each family; but these
# two are also nearly level in accuracy, and two probes of unlike accuracy cannot be right together often. Error
# consistency takes luck out, not that ceiling. As a share of it, MoCo v3 and DINO come to most; but DINO and MAE, one
# of each, come to more than SimMIM and MAE, one family: with intervals this wide no finding. F1, which the paper
# reports (one probe's answers are taken for the truth and the other's for predictions, mean over classes), rises with
# accuracy itself, so it cannot be compared across pairs of unlike quality either.
#
# ## 7. What do a few labels change?
#
# Shekhar et al. find that fine-tuning makes MAE more like joint-embedding networks, and that fine-tuning these does not
# make them more like MAE. Fine-tune one of each kind here, for 24 steps of 16 images, all layers at one learning rate:

# %%
from dataclasses import replace

from lib.evaluation.finetune import RECIPES, finetune

recipe = replace(RECIPES["course"], epochs=1, warmup_epochs=0.1, batch_size=16, learning_rate=1e-3, layer_decay=1.0,
                 drop_path=0.0, smoothing=0.0, crop_min=0.9)
labelled = Loaded(Shapes("train", size=64, length=384, difficulty="mild"))
tuned = {}
for name, pooling in {"mocov3": "cls", "mae": "mean"}.items():
    result = finetune(networks[name], labelled, images, recipe, pooling, device="cpu")
    tuned[name] = result.network
    right_now = 100 * (result.predictions == images.labels(torch.arange(len(images)))).float().mean()
    print(f"{names[name]:>8}: loss ≈ {result.history[0]['loss']:.1f} in steps 1 to 10, ≈ {result.history[-1]['loss']:.1f} "
          f"in the last 4; accuracy ≈ {right_now:.0f} %")

# %%
def ends_of(network):
    """{name: module} of the residual stream after each block."""
    return {f"block{block}": module for block, module in enumerate(network.blocks, start=1)}


for name, network in tuned.items():
    reader = Representations(network, images, ends_of(network))
    for batch, found in zip(batches, ends):
        found.update({f"{name} tuned/{part}": k for part, k in reader.grams(batch).items()})

# %% [markdown]
# **Predict, then run.** Which blocks will have moved most, the first or the last? And in which of the two networks?

# %%
named = list(ends[0])
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True)
for axis, (title, values) in zip(axes, list(three_looks(cka_of(ends), named).items())[:2]):
    for name in tuned:
        axis.plot(range(1, 13), alike(values, named, [(name, f"{name} tuned")], blocks), "o-", ms=3,
                  color=plots.COLORS[name], label=names[name])
    axis.set(title=title, xlabel="block", xticks=[1, 4, 8, 12], ylim=(0, 1.03))
axes[0].set_ylabel("CKA before and after (n = 96)"), axes[0].legend()
plots.show(figure, alt="CKA of each block before and after fine-tuning: near 1 in the first block, much lower from the middle on.")

# %% [markdown]
# The first block stays as it was, the later ones move. As they are, the two seem to have moved equally far. Without the
# pixels both have moved much further: most of what late blocks had in common before and after was the pixels. MoCo v3 has
# then changed more in the middle, MAE more in its last blocks; without intervals, that is a picture and no test. And mind
# the accuracies above: after 24 steps both networks are below what a linear probe reads off them *without* moving anything
# (section 6). This is the start of a fine-tuning, not its end.

# %%
def mean_alike(grams, pairs):
    """Without pixels, mean over blocks 7 to 12: a number for each pair of networks (pairs,)."""
    layers, late = list(grams[0]), [f"block{block}" for block in range(7, 13)]
    values = without(cka_of(grams), [layers.index("pixels")])
    return torch.stack([alike(values, layers, [pair], late).mean() for pair in pairs])


# %%
pairs = [("mocov3", "mae"), ("mocov3", "mae tuned"), ("mocov3 tuned", "mae"), ("mocov3 tuned", "mae tuned"),
         ("supervised", "mae"), ("supervised", "mae tuned"), ("supervised", "mocov3"), ("supervised", "mocov3 tuned")]
moved = leave_out(lambda some, pairs=pairs: mean_alike(some, pairs), ends)  # (1 + 6, pairs)
value, wide = jackknife(moved)
for (a, b), v, e in zip(pairs, value, wide):
    a, b = (" ".join([names[name.split()[0]], *name.split()[1:]]) for name in (a, b))
    print(f"{a:>13} and {b:<13} without pixels, blocks 7 to 12 ≈ {v:+.2f} ± {e:.2f}")

# %% [markdown]
# Without pixels, a few labels bring MAE's late blocks closer to the supervised network's. That they come closer to those of
# MoCo v3 before its own fine-tuning, as in the paper, does not show; MoCo v3 fine-tuned moves away from MAE as it was. But
# fine-tuned to the same labels, the two end up more alike than they were. Whether the labels did it, or the damage that
# both took, is open.
#
# One look back: the first line is one pair of one of each family, and it lies well above the mean of four such pairs in
# section 1. A mean over a family hides its pairs.
#
# ## 8. What held?
#
# Each sentence becomes a difference that is positive if the sentence is true, with a 95 % interval: **supported** if all of
# it is above 0, **not supported** if all of it is below, **inconclusive** otherwise. Intervals of CKA are over minibatches,
# the others over images.

# %%
def over_minibatches(values):
    """What `leave_out` gives of a difference -> the difference, and an interval."""
    value, wide = jackknife(values)
    return value.item(), (value - wide).item(), (value + wide).item()


def over_images(values):
    """One difference for each image (images,) -> its mean, and an interval."""
    return values.double().mean().item(), *bootstrap_mean(values)


# %%
text = "late blocks: both joint-embedding are more alike than one of each"
looked = ("", ", without pixels", ", without pixels and random")
rows = [(text + title, *over_minibatches(late[:, look, 0] - late[:, look, 2])) for look, title in enumerate(looked)]
rows += [("... MoCo v3 from another start" + title, *over_minibatches(started[:, look, 2] - started[:, look, 5]))
         for look, title in enumerate(looked)]

# %%
def norm_less(grams, kinds=kinds):
    """How much more alike the MLP's first layer is than the first norm, mean over blocks, for each kind of pair: (5,)."""
    layers, cka = list(grams[0]), cka_of(grams)
    norm, mlp = (torch.stack([alike(cka, layers, pairs, [f"block{block}.{step}" for block in range(1, 13)]).mean()
                              for pairs, _, _ in kinds.values()]) for step in ("norm1", "fc1"))
    return mlp - norm


two = [{layer: k for layer, k in batch.items() if layer.endswith((".norm1", ".fc1"))} for batch in grams]
less = leave_out(norm_less, two)  # (1 + 6, kinds)
rows += [("one of each: the first norm differs more than the MLP's first layer", *over_minibatches(less[:, 2])),
         ("both joint-embedding: it differs less", *over_minibatches(-less[:, 0]))]

# %%
for name in ("mocov3", "dino"):
    points = probed[name][12][1].float() - probed[name][12][0].float()
    rows.append((f"{names[name]}, block 12: CLS tells the class better than the mean of the patches", *over_images(points)))
for transform, title in transforms.items():
    joint, rebuilt = ((invariant[a][transform].invariance[:, -1] + invariant[b][transform].invariance[:, -1]) / 2
                      for a, b in (("mocov3", "dino"), ("simmim", "mae")))
    rows.append((f"{title}: joint-embedding networks are more invariant, block 12", *over_images(joint - rebuilt)))

# %%
def tau_difference(scores, other, kinds=kinds):
    """tau of the two joint-embedding probes less that of one of each, image by image (Q,); `other`: whose second ranking."""
    tau = {pair: class_rank_tau(scores[pair[0]], scores[pair[1]][other]) for kind in ("both joint-embedding", "one of each")
           for pair in kinds[kind][0]}
    return tau["mocov3", "dino"] - torch.stack([tau[pair] for pair in kinds["one of each"][0]]).mean(0)


same, other = tau_difference(scores, torch.arange(len(truth))), tau_difference(scores, next_of_class(truth))
rows += [("probes of both joint-embedding networks rank classes more alike", *over_images(same)),
         ("... more than class by class", *over_images(same - other)),
         ("a few labels bring MAE nearer to MoCo v3", *over_minibatches(moved[:, 1] - moved[:, 0])),
         ("a few labels bring MAE nearer to the supervised network", *over_minibatches(moved[:, 5] - moved[:, 4]))]

# %%
def draw_rows(rows):
    """(text, value, low, high) of each sentence -> an interval for each, in the color of its verdict."""
    figure, axis = plt.subplots(figsize=(7.5, 0.36 * len(rows) + 0.9))
    for y, (_, value, low, high) in enumerate(rows):
        color = "#0072B2" if low > 0 else "#D55E00" if high < 0 else "#777777"
        axis.plot([low, high], [y, y], lw=3, color=color, alpha=0.5)
        axis.plot(value, y, "o", ms=5, color=color)
    axis.axvline(0, ls="--", color="black", lw=1)
    axis.set(yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6), xlabel="difference (CKA, accuracy, invariance or τ)",
             ylabel="sentence")
    axis.set_yticklabels([textwrap.fill(text, 62) for text, *_ in rows], fontsize=7)
    for color, verdict in (("#0072B2", "supported"), ("#777777", "inconclusive"), ("#D55E00", "not supported")):
        axis.plot([], [], "o-", lw=3, ms=5, color=color, label=verdict)
    figure.legend(loc="outside lower right", ncols=3, fontsize=8)
    figure.suptitle("What held, with one network of each kind", fontsize=10)
    return figure


# %%
figure = draw_rows(rows)
plots.show(figure, alt="Each sentence with its interval: right of 0 it is supported, left of 0 it is not.")

# %%
for text, value, low, high in rows:
    print(f"{text:<93} ≈ {value:+.2f} (≈ {low:+.2f} to ≈ {high:+.2f})")

# %% [markdown]
# Intervals are over images or minibatches, for **one network of each kind**; another seed of training may move a difference
# by more.
#
# What holds of the papers' picture: joint-embedding networks are more invariant to brightness, blur and flips than
# masked networks (to blur not more than random weights); their probes rank classes more alike; MoCo v3's CLS tells the
# class better than its patches (three times, by amounts that differ too much for a verdict over trainings). What the
# controls take back: the two joint-embedding networks are more alike in late blocks than the mean of the four mixed
# pairs, as they are and without pixels, with either training of MoCo v3 (not than each of the four: as they are, MoCo
# v3 and MAE lie above them); **once a random network is taken out too, both leave it open**. Joint-embedding networks
# are more invariant to a quarter turn as well, which nobody asked for, so "invariant to its views" is not all there is
# to it; and that they agree more on an image than class by class, these images do not show. What does not show on
# shapes: the part of the block in which the families differ, the lead of joint-embedding networks with ten labels a
# class, and that a few labels bring MAE nearer to MoCo v3. (On photographs the first shows, k-NN finds the lead, and
# MAE comes nearer, though nearer to random weights too: shekhar-5, 6 and 9.)
#
# What the paper says of MoCo v3, DINO and MAE was put to three trainings of each (chapter 13, on images of its own):

# %%
from IPython.display import Markdown, display

entries = ledger.of_world(ledger.written(), "shapes")
claimed = [f"shekhar-{number}" for number in range(1, 12)]
display(Markdown(ledger.over_trainings([entries[id] for id in claimed])))

# %% [markdown]
# Two fifths of what one training seemed to decide are open. In which later block MAE's first ones find their like (+1.5, +.5
# and -.5 blocks), that CLS beats the patches, what fine-tuning changes: each was supported or refuted with the first
# training. What three trainings agree on:
#
# - Of the two joint-embedding networks: they are less alike in blocks 10 to 12 than before. MoCo v3 is more like DINO than
#   DINO is like MAE, and ranks classes more as DINO does than as MAE. But its *predictions* agree less with DINO's than with
#   MAE's, by 21 points, and layer by layer it is not more like DINO than like MAE (all three times a little less): who is
#   near DINO depends on DINO, which learned little.
# - Of MoCo v3 and MAE: norm and QKV are less alike in blocks 5 to 7 than at the beginning; the MLP's first layer is
#   *not* more alike than they are, there and over all blocks, against the paper, and stays above .5 through block 10;
#   MoCo v3 gathers more in CLS than MAE does; and fine-tuning MoCo v3 leaves the two less alike than fine-tuning MAE
#   does (neither brings them together; on photographs it is open).
#
# Random weights in MoCo v3's place show nearly all of this too: they part from DINO in the last blocks, they are more
# like DINO than MAE is (by more than MoCo v3), and norm and QKV come out as they do; whether the MLP's first layer
# stays above .5 is open for them. Their predictions, too, agree less with DINO's than with MAE's (by 7 points, not 21).
# For rankings and for fine-tuning their own scatter leaves it open. **That CLS gathers more, they do not show.**
#
# ## Exercises
#
# Write your answer where it says `raise NotImplementedError`, run the cell, read what the check says.

# %%
from lib.exercises import chapter10

# %% [markdown]
# ### Exercise 1 · ★☆☆ · 5 minutes
#
# Write `partial(kl, kp, lp)`: three CKAs, of two layers K and L with each other and with a third, P → the CKA of K and L
# without P.
#
# *Hint:* the formula stands in section 1. What is left if K has nothing in common with P?
#
# <details><summary>Solution</summary>
#
# ```python
# def partial(kl, kp, lp):
#     return (kl - kp * lp) / ((1 - kp**2) * (1 - lp**2)) ** 0.5
# ```
#
# </details>

# %%
def partial(kl, kp, lp):
    raise NotImplementedError


chapter10.check_partial(partial);

# %% [markdown]
# ### Exercise 2 · ★★☆ · 10 minutes
#
# Write `invariance(features, transformed)`: features (n, D) of n images and of the same images transformed → one
# number, $(c - c_0) / (1 - c_0)$, where $c$ is the mean cosine of an image with its own transform and $c_0$ the mean
# cosine with the transforms of all *other* images: means first, the ratio last.
#
# *Hint:* all cosines at once are one product of two normalised matrices. Which of its entries belong to pairs?
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def invariance(features, transformed):
#     x, y = (torch.nn.functional.normalize(z, dim=1) for z in (features, transformed))
#     cosine, n = x @ y.T, len(x)                                              # (n, n)
#     paired = cosine.trace() / n
#     unpaired = (cosine.sum() - cosine.trace()) / (n * (n - 1))
#     return (paired - unpaired) / (1 - unpaired)
# ```
#
# </details>

# %%
def invariance(features, transformed):
    raise NotImplementedError


chapter10.check_invariance(invariance);

# %% [markdown]
# ### Exercise 3 · ★★☆ · 10 minutes
#
# Write `tau(first, second)`: the scores (C,) that two probes give the C classes of one image, no two alike → Kendall's τ.
#
# *Hint:* the sign of `first[i] - first[j]` says which class the first probe puts ahead. How many pairs are there?
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def tau(first, second):
#     a, b = (torch.sign(x[:, None] - x[None]) for x in (first, second))       # (C, C)
#     c = len(first)
#     return (a * b).sum() / (c * (c - 1))                                      # each pair is in there twice, above and below
# ```
#
# </details>

# %%
def tau(first, second):
    raise NotImplementedError


chapter10.check_tau(tau);

# %% [markdown]
# ### Exercise 4 · ★★★ · 15 minutes
#
# Write `best_token(right)`: whether each of T tokens' probes is right about each of Q images, (T, Q) → the accuracy of the
# best token, without luck: find it on the images 0, 2, 4, ... and measure it on 1, 3, 5, ...; then the other way round; the
# mean of the two.
#
# *Hint:* what you return is never an accuracy on images that had a say in the choice.
#
# <details><summary>Solution</summary>
#
# ```python
# def best_token(right):
#     even, odd = right[:, ::2].double().mean(1), right[:, 1::2].double().mean(1)   # (T,) each
#     return (odd[even.argmax()] + even[odd.argmax()]) / 2
# ```
#
# </details>

# %%
def best_token(right):
    raise NotImplementedError


chapter10.check_best_token(best_token);

# %% [markdown]
# ## Find out
#
# No check stands behind this one: the answer is a measurement, and you make it.
#
# *Is what CKA calls unlike really unknown to each other?* Fit a linear map from one network's vectors to another's (the means
# of the patches after the last block) on some images, and see how much of the variance it tells on new ones. **Predict**
# for SimMIM and MoCo v3, in both directions. Then give every direction of the network that is to be told the same variance,
# and ask again. Do not forget a control.

# %%
def explained(known, wanted, asked, truth):
    """Share of the variance of `truth` (Q, D) that a linear map tells from `asked` (Q, D); fitted on `known` to `wanted` (N, D)."""
    known, asked = (torch.cat([x, x.new_ones(len(x), 1)], 1) for x in (known, asked))
    weights = torch.linalg.lstsq(known, wanted).solution
    return (1 - (truth - asked @ weights).square().sum() / (truth - wanted.mean(0)).square().sum()).item()


one, another = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)).split(150)
turn = torch.linalg.qr(one[:8]).Q
print(f"a turned copy: {explained(one, one @ turn, another, another @ turn):.2f}")

# %% [markdown]
# <details><summary>What came out for us</summary>
#
# ```python
# from lib.evaluation.features import extract
# sources = Shapes("train", 64, 1500, difficulty="mild"), Shapes("val", 64, 500, difficulty="mild")
# (known, asked), (wanted, truth) = ([extract(zoo.load(name), source, "mean")[0] for source in sources]
#                                    for name in ("mocov3", "simmim"))
# print(linear_cka(asked, truth), explained(known, wanted, asked, truth), explained(wanted, known, truth, asked))
# centre = wanted.mean(0)
# _, loud, right = torch.linalg.svd(wanted - centre, full_matrices=False)
# even, even_truth = (((x - centre) @ right.T) / loud for x in (wanted, truth))
# print(explained(known, even, asked, even_truth))
# ```
#
# Lowest and highest of three trainings (two of untrained networks):
#
# | A and B | CKA | B told from A | A told from B | all directions of B alike |
# |---|---|---|---|---|
# | MoCo v3 and SimMIM | .14–.18 | .82–.85 | .61–.74 | .07–.10 |
# | MoCo v3 and MAE | .35–.62 | .67–.73 | .74–.79 | .14 |
# | MoCo v3 and DINO | .59–.80 | .88–.92 | .71–.83 | .18–.21 |
# | SimMIM and MAE | .11–.22 | .72–.78 | .87–.90 | .10–.11 |
# | two MoCo v3 | .87–.90 | .88–.89 | .90–.93 | .21–.22 |
# | two SimMIM | .82–.91 | .92–.93 | .91–.93 | .09–.11 |
# | MoCo v3 and untrained | .65–.82 | .78 | .67–.77 | .19–.20 |
#
# SimMIM and MoCo v3 have little in common by CKA, and yet most of the variance of each can be told from the other: they
# differ in which directions are loud, and that is what CKA weighs. It is no proof of a common lesson either, since
# random weights tell as much of MoCo v3. And where the quiet count like the loud, two trainings of *one* objective
# share a tenth or a fifth. **Likeness is likeness under a weighting of directions**: name it, and give the control.
#
# </details>

# %% [markdown]
# ## What to take away
#
# - Unbiased CKA says how alike two networks arrange images. Before you read it, know what two random networks get: here,
#   nearly 1.
# - CKA is a cosine, so what pixels or a random network explain can be taken out. What is left is the networks' own.
# - Two trainings of one objective say how alike "alike" can be, and whether a likeness to others is the objective's:
#   MoCo v3 and DINO look like a family until what random networks have is taken out; then it is open with each training of
#   MoCo v3 that was tested.
# - Without pixels, SimMIM and MAE are no more alike than either is like MoCo v3.
# - "Learned little" and "trained jointly" look alike. A comparison of objectives needs networks that were trained equally
#   well.
# - Where the class lies depends on the objective: MoCo v3 has more of it in CLS than in the patches, MAE as much in both.
#   Ask one token alone, and you rank networks by where they keep it.
# - Invariance to brightness comes from what an objective asks for. Invariance to everything may come from knowing little.
# - Agreement of class rankings is mostly about classes, hardly about images.
#
# **Limits.** One network of each kind, 96 channels wide, in a procedural world of ten shapes in grey (on photographs,
# the parts of a block alone); DINO learned little. Intervals are over images or minibatches; three trainings stand side
# by side in section 2, in the table of section 8 and in the last question. Taking out pixels and a random network is a
# choice; another yardstick may leave something else. The probes saw 200 images. Of the 2023 paper itself the abstract
# alone was at hand; what is compared with is the workshop paper, and how invariance is measured is this course's own.
#
# **References.** Shekhar, Bordes, Vincent and Morcos 2023, *Objectives Matter: Understanding the Impact of Self-Supervised
# Objectives on Vision Transformer Representations*, arXiv 2304.13089, and their NeurIPS 2022 workshop paper (its Figures 1
# to 6). Raghu et al. 2021, *Do Vision Transformers See Like Convolutional Neural Networks?*, Figures 11, 13 and D.4. Cui,
# Kumar, Marttinen and Kaski 2022, *Deconfounded Representation Similarity for Comparison of Neural Networks*. Geirhos,
# Meding and Wichmann 2020, *Beyond Accuracy*, for error consistency.
