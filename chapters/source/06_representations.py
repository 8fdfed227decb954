# %% [markdown]
# # 06 · How are representations transformed?
#
# **After this chapter you can show what attention does to the tokens of an image, say whether it moves them together or one
# by one, and tell a finding about an objective from one that an untrained network shows as well.**
#
# You will be able to
#
# 1. draw the tokens of an image before and after attention, and say how much of the movement a drawing leaves out;
# 2. measure how much tokens move in unison, and what part of that is the same for every image;
# 3. compute singular-value spectra of tokens and of images, and say where they end and why logs are averaged;
# 4. read a t-SNE picture with a number beside it;
# 5. turn a claim into a difference with an interval and a verdict.
#
# *You need:* chapters 01 to 03 and 05, and what principal components are. *Time:* about 70 minutes to read, 40 for the
# exercises; the cells run in about 40 seconds on a CPU.

# %%
import matplotlib.pyplot as plt
import torch

from lib.analysis.recording import PerImage, mean_and_error, record
from lib.analysis.spectra import ImageSpectrum, TokenSpectrum, token_spectrum
from lib.analysis.tokens import Unison, neighbour_purity, patch_tokens, project_tokens, silhouette, token_tsne, unison
from lib.data import Shapes
from lib.models import zoo
from lib.viz import plots

plots.style()
torch.set_num_threads(min(2, torch.get_num_threads()));

# %% [markdown]
# Numbers after the sign ≈ come from trained networks; their last digits differ between processors.
#
# Three networks lead through the chapter: MoCo v3 for contrastive learning (CL), SimMIM for masked image modelling (MIM),
# and one with random weights, the **control**. All have 12 blocks, 6 heads, 96 channels and 8 × 8 patches; the two trained
# ones ship with the course, each in three trainings (seeds 0, 1 and 2: other first weights, views and order of images).
# Seed 0 leads; the others stand beside it in the first curve and in the last table. None has seen the validation images
# below.

# %%
names = {"mocov3": "MoCo v3", "simmim": "SimMIM", "untrained": "untrained"}
networks = {name: zoo.load(name) for name in names}
world = Shapes("val", size=64, length=256, difficulty="mild")
image = world.images(torch.tensor([0]))  # (1, 3, 64, 64) uint8
plots.show(plots.image_grid(image, ["the image"]), alt="A noisy image of the procedural world: a bright ring on dark ground.")

# %% [markdown]
# ## 1. Do tokens move together?
#
# The image has 64 patches of 8 × 8 pixels and becomes 64 tokens, points in a space of 96 dimensions. The attention of a
# block adds a step to each. You cannot look at 96 dimensions; Park et al. (Figure 6) look at the three in which the tokens
# vary most. The same here, for attention in block 10: a line leads from each token before attention to the same token after
# it (most are too short to be seen).

# %%
block = 10
halves = {name: patch_tokens(network, image) for name, network in networks.items()}  # depth -> (1, 64, 96)
before = {name: tokens[block - 1][0] for name, tokens in halves.items()}
after = {name: tokens[block - 0.5][0] for name, tokens in halves.items()}
shown = {name: project_tokens(before[name], after[name]) for name in names}  # three directions of both together

# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.9), subplot_kw={"projection": "3d"})
for axis, (name, view) in zip(axes, shown.items()):
    for a, b in zip(view.before, view.after):
        axis.plot(*torch.stack([a, b]).T, color=plots.COLORS[name], lw=1)
    axis.scatter(*view.before.T, s=8, color="white", edgecolor="black", lw=0.5, depthshade=False)
    axis.scatter(*view.after.T, s=8, color=plots.COLORS[name], depthshade=False)
    axis.set(title=names[name], xticklabels=[], yticklabels=[], zticklabels=[])
    axis.set(xlabel="1st", ylabel="2nd"), axis.set_zlabel("3rd", labelpad=-12)
    axis.xaxis.labelpad = axis.yaxis.labelpad = -12
figure.suptitle("Block 10, principal directions: white before attention, coloured after", fontsize=10)
plots.show(figure, alt="Three clouds of 64 tokens in three dimensions, each token with a short line to where attention takes it.")

# %% [markdown]
# Not much seems to move. Before you write that down, ask the drawing how much of the movement it holds:

# %%
for name, view in shown.items():
    print(f"{names[name]:<9} tokens' variance shown ≈ {view.variance.sum():.2f}, movement shown ≈ {view.movement:.2f}")

# %% [markdown]
# The drawing keeps most of the *places* and few of the *steps*. Where tokens vary most is not where they move most. So
# leave the places out: draw the 64 steps from one origin, the first axis along their mean, the second along the largest
# variation that is left. Lengths are in units of the root mean square, which the dotted circle marks.

# %%
def step_plane(before, after):
    """(P, D), (P, D) -> steps (P, 2), along their mean and along the first principal direction at right angles to it."""
    steps = after - before
    steps = steps / steps.square().sum(1).mean().sqrt()
    mean = torch.nn.functional.normalize(steps.mean(0), dim=0)
    rest = steps - (steps @ mean)[:, None] * mean
    return steps @ torch.stack([mean, torch.linalg.svd(rest).Vh[0]], 1)


# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.8))
for axis, name in zip(axes, names):
    ends = step_plane(before[name], after[name])
    axis.quiver(0 * ends[:, 0], 0 * ends[:, 0], *ends.T, angles="xy", scale_units="xy", scale=1, width=0.008,
                color=plots.COLORS[name], alpha=0.6)
    axis.add_patch(plt.Circle((0, 0), 1, fill=False, ls=":"))
    axis.set(title=names[name], xlabel="along the mean step", aspect="equal", xlim=(-1.3, 1.4), ylim=(-1.25, 1.25))
figure.supylabel("where steps differ most", fontsize=10)
plots.show(figure, alt="Arrows from one origin. MoCo v3 and untrained: one bundle of length 1. SimMIM: a fan of many lengths.")

# %% [markdown]
# How much of the steps' squared lengths does this second drawing hold?

# %%
print({names[name]: f"≈ {step_plane(before[name], after[name]).square().sum(1).mean():.2f}" for name in names})

# %% [markdown]
# Nearly all. Now you see it: in MoCo v3 all tokens take nearly the same step; in SimMIM their steps fan out. And the
# untrained network? Look at it again before you read on.
#
# ### A number for it
#
# $$ U = \frac{\lVert \bar{s} \rVert^2}{\frac{1}{P}\sum_n \lVert s_n \rVert^2}, \qquad s_n = z_n^\text{after} - z_n^\text{before}, \quad
# \bar{s} = \frac{1}{P}\sum_n s_n $$
#
# The share of the squared movement that all $P$ tokens of an image have in common: **unison**. (It is this course's number,
# not the paper's.)
#
# **Predict, then run.** Three movements that we make up: all tokens take one step; each takes a random step; all move away
# from their middle, to twice the distance. Which unison has each?

# %%
torch.manual_seed(0)
tokens = torch.randn(1, 64, 96)  # (B, P, D)
made_up = {"the same step": tokens + torch.randn(96), "random steps": tokens + torch.randn(1, 64, 96),
           "away from the middle": tokens + (tokens - tokens.mean(1, keepdim=True))}
for name, moved in made_up.items():
    print(f"{name:<21} {unison(tokens, moved).item():.2f}")
print(f"{'1 / 64':<21} {1 / 64:.2f}")

# %% [markdown]
# One, about 1 / P, and zero: steps that only change where tokens are *to each other* have no part in common.
#
# Now 256 images and all blocks, in one pass for each network. `record` hands activations to metrics as they appear; beside
# the library's two metrics goes one of four lines, which you will need later: the mean token of each image.

# %%
class MeanToken(PerImage):
    """"means" (images, 1 + 2 blocks, D): the mean patch token at depths 0, 0.5, 1, 1.5, ..."""
    reads = "halves"

    def measure(self, depth, tokens):
        return {"means": tokens[:, self.layout.prefix:].double().mean(1)}


# %%
found = {name: record(network, world, [Unison(), TokenSpectrum(), MeanToken()]) for name, network in networks.items()}
print({key: tuple(values.shape) for key, values in found["mocov3"].items()})

# %%
figure, axis = plt.subplots()
for name, results in found.items():
    mean, error = mean_and_error(results["attention_unison"])
    axis.errorbar(range(1, 13), mean, 1.96 * error, color=plots.COLORS[name], marker="o", ms=4, lw=2, label=names[name])
    for seed in (1, 2):
        other = zoo.untrained("shapes", seed) if name == "untrained" else zoo.load(f"{name}-seed{seed}")
        axis.plot(range(1, 13), record(other, world, [Unison()])["attention_unison"].mean(0), color=plots.COLORS[name], lw=0.9)
axis.set(xlabel="block (n = 256 images; thin: the other two trainings)", ylabel="unison of attention's steps", ylim=(0, 1.03),
         xticks=range(1, 13), title="From block 5 on, every SimMIM shares less of a step than MoCo v3 or random weights")
axis.legend(loc="lower left", ncols=3)
plots.show(figure, alt="Unison by block: MoCo v3 and the untrained network rise to nearly 1, SimMIM stays between 0.17 and 0.7.")

# %% [markdown]
# Bars are 95 % intervals over 256 images; most are smaller than the dots. Park et al. find that CL moves all tokens in
# unison and MIM far less so: here, from block 5 on, every MoCo v3 lies above every SimMIM, near 1. (In blocks 1 and 4
# the trainings overlap.) And the control takes half of the meaning away: **random weights move tokens in unison too**.
# The network that training changed most is SimMIM, and it went *away* from unison.
#
# Why would random weights do that? Chapter 05 has a number for it: the NMI of an attention map, 0 if every query gets the
# same answer. MAE, the second masked network, comes along:

# %%
from lib.analysis.attention import AttentionStatistics

first = Shapes("val", size=64, length=32, difficulty="mild")
for name in (*names, "mae"):
    late = record(zoo.load(name), first, [AttentionStatistics(), Unison()])
    nmi, together = late["nmi"].mean(2), late["attention_unison"]  # (images, blocks) each
    print(f"{name:<9} blocks 7 to 12: NMI ≈ {nmi[:, 6:].mean():.3f}, unison ≈ {together[:, 6:].mean():.2f}")

# %% [markdown]
# The two networks with the lowest NMI move tokens together most: where attention gives every query about the same
# average, that average is one step for all. **Collapsed attention makes unison. It does not hold the other way round**:
# this MAE's attention has not collapsed, and its tokens move mostly together all the same. Maps may differ while what
# they fetch does not.
#
# ## 2. In unison with whom?
#
# A step that all 64 tokens share may tell something about this image. Or it may be the same for every image, and tell
# nothing: a bias. So split the squared movement into three parts that add up to 1:
#
# - the step common to **all tokens of all images**,
# - what the mean step of an **image** has besides,
# - what a single **token** has besides that.
#
# **Predict, then run.** In MoCo v3's late blocks, unison is nearly 1. How much of it is the same for every image: a tenth,
# a half or nine tenths?

# %%
def step_parts(results):
    """Squared steps of attention: common to all (blocks,), and for each image its own part and its tokens' (images, blocks)."""
    means = results["means"]
    steps = means[:, 1::2] - means[:, :-1:2]  # (images, blocks, D), the mean step of each image
    common = steps.mean(0)
    image = (steps - common).square().sum(-1)
    token = steps.square().sum(-1) * (1 / results["attention_unison"] - 1)
    return common.square().sum(-1), image, token


# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), sharey=True)
for axis, name in zip(axes, names):
    common, own, token = step_parts(found[name])
    parts = torch.stack([common, own.mean(0), token.mean(0)])  # (3, blocks)
    parts = parts / parts.sum(0)
    for height, bottom, color, label in zip(parts, parts.cumsum(0) - parts, ("#DDDDDD", "#56B4E9", "#CC79A7"),
                                           ("all images", "one image", "nothing: one token's own")):
        axis.bar(range(1, 13), height, bottom=bottom, color=color, label=label, width=0.85)
    axis.set(title=names[name], xlabel="block", xticks=[1, 4, 8, 12])
figure.supylabel("share of squared steps", fontsize=10)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, title="the step is common to")
plots.show(figure, alt="Stacked bars by block: MoCo v3 and untrained are mostly common to all images; SimMIM is mostly single tokens.")

# %% [markdown]
# More than nine tenths. What looks like unison in the late blocks is mostly a constant that attention adds to every token
# of every image. It cannot help to tell images, or tokens, apart.
#
# Take the constant out and ask again: of what remains, which share belongs to images and which to single tokens? (Over 256
# images; for the networks that join in here, over 128.)

# %%
def unison_without_constant(own, token):
    """(images, ..., blocks) twice -> over blocks 7 to 12, the mean of image / (image + token)."""
    own, token = own.mean(0), token.mean(0)
    return (own / (own + token))[..., 6:].mean(-1)


# %%
for name in [*zoo.names("shapes"), "untrained"]:
    if name not in found:                                         # the others that ship, on half of the images
        some = Shapes("val", size=64, length=128, difficulty="mild")
        found[name] = record(zoo.load(name), some, [Unison(), MeanToken()])
    late, (_, own, token) = found[name]["attention_unison"][:, 6:].mean(), step_parts(found[name])
    print(f"{name:<11} unison in blocks 7 to 12 ≈ {late:.2f}, without the constant ≈ {unison_without_constant(own, token):.2f}")

# %% [markdown]
# Of the three, MoCo v3 stays ahead, SimMIM far behind, and now training shows: MoCo v3 lies clearly above the untrained
# network. So the paper's sentence has a part that random weights do not explain. It is a small one, and not what you may
# think: in the late blocks one to two hundredths of MoCo v3's squared movement tell images apart (random weights: seven to
# ten), and next to nothing tells the tokens of an image apart (random weights: one to six hundredths). Training took the
# second away; it did not add to the first.
#
# MAE, the second masked network, shows what the constant hides: with it, MAE seems to move tokens mostly together; without
# it, MAE stands beside SimMIM. (`hybrid` mixes both losses; chapter 11 is about it.)
#
# ## 3. Spectra: which variance does attention make?
#
# Moving in unison leaves the differences between the tokens of an image as they were. So there is a second way to ask,
# without any steps: how large are the differences, before and after? Park et al. (Figure 7) take the singular values of the
# covariance at two levels:
#
# - **token level**: how the tokens of one image differ, a spectrum for each image;
# - **image level**: how the *mean* tokens of images differ, one spectrum for all.
#
# ### By hand: five tokens
#
# A covariance of D channels is D × D. The same numbers come out of an N × N matrix, the products of N tokens with each
# other: the **Gram matrix**. It is the smaller one where an image has fewer tokens than channels, 64 and 96 here, 196 and
# 768 in a ViT-B.

# %%
tokens = torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 0]], dtype=torch.float64)  # 5 tokens, 3 channels
centred = tokens - tokens.mean(0)
covariance, gram = centred.T @ centred / 4, centred @ centred.T / 4  # 3 x 3 and 5 x 5, both over N - 1
for name, matrix in {"covariance": covariance, "Gram": gram}.items():
    print(f"{name:<11}", [f"{value:.2f}" for value in torch.linalg.eigvalsh(matrix).flip(0).abs()])

# %% [markdown]
# 2 and 0.5 by both ways; the rest is zeros, one above and three below. (A covariance is symmetric and not negative: its
# singular values are its eigenvalues, the variances along the principal directions.)
#
# **Predict, then run.** Five tokens of 8 channels, all random. The covariance has 8 eigenvalues. How many are not 0?

# %%
torch.manual_seed(0)
tokens = torch.randn(5, 8, dtype=torch.float64)
logs = torch.linalg.eigvalsh(tokens.T.cov()).flip(0).abs().log()  # (8,)
print("ln of eigenvalues:", [f"{v:.1f}" for v in logs[:4]], "and four more, all below -30:", bool((logs[4:] < -30).all()))
print("the library's:    ", [f"{v:.1f}" for v in token_spectrum(tokens[None])[0]])

# %% [markdown]
# Four: five points less their mean span four directions. The other four are rounding noise, and a logarithm makes a curve
# of it that falls off a cliff. So a spectrum of N tokens ends at rank **N - 1** at the latest: 63 here, 195 for 14 × 14
# patches, however wide the network.
#
# One more choice. Spectra of many images are averaged, and it is their *logarithms* that are averaged:

# %%
variances = torch.tensor([100.0, 0.01])  # along the first direction, in two images
print(f"mean of logs {variances.log().mean():.1f}, log of the mean {variances.mean().log():.1f}")

# %% [markdown]
# One image varies ten thousand times as much as the other. The mean of logs stands half-way; the log of the mean forgets
# the smaller one. Logs also turn "twice the variance" into the same distance everywhere.
#
# ### Token level

# %%
figure, axis = plt.subplots()
for name in names:
    mean, error = mean_and_error(found[name]["token_spectrum"][:, -1])
    axis.plot(range(1, 64), mean, color=plots.COLORS[name], label=names[name])
    axis.fill_between(range(1, 64), mean - 1.96 * error, mean + 1.96 * error, color=plots.COLORS[name], alpha=0.25)
axis.set(xlabel="rank", ylabel="ln variance", title="Token level, after block 12, mean of 256 images")
axis.legend()
plots.show(figure, alt="Falling spectra of 63 ranks: SimMIM lies highest throughout, MoCo v3 and untrained nearly coincide from rank 15 on.")

# %% [markdown]
# In every direction SimMIM's tokens differ most. MoCo v3 and the untrained network have nearly the same spectrum from rank
# 15 on; what training added lies in the first directions. (Shaded 95 % intervals over 256 images are thinner than the
# lines.) But how long are the tokens?

# %%
for name, network in networks.items():
    last = patch_tokens(network, world.images(torch.arange(32)))[12]  # (32, 64, 96)
    print(f"{names[name]:<9} mean length after block 12 ≈ {last.norm(dim=-1).mean():.0f}, "
          f"of the mean of all tokens ≈ {last.mean((0, 1)).norm():.0f}")

# %% [markdown]
# Training made tokens longer, and the norm behind the last block takes length away again. Nearly all of MoCo v3's length is
# one vector that all tokens share, which a covariance does not see; SimMIM's is not. So the height of a curve says little
# from one network to the next: scale lifts all ranks, and both levels, alike. Mind *where* a curve rises, and at which
# level.
#
# Now the mean over ranks, at every depth, for both levels. At image level each image is one point; so the same function
# serves, with images in the place of tokens. The library's `ImageSpectrum` sums up over batches instead; the two agree:

# %%
streamed = record(networks["simmim"], world, [ImageSpectrum()])["image_spectrum"]  # (25, 96)
short = token_spectrum(found["simmim"]["means"].transpose(0, 1))  # (25, 255), cut to its 96 channels
print("images as tokens = ImageSpectrum, 63 ranks:", torch.allclose(streamed[:, :63], short[:, :63], atol=1e-2))

# %%
def mean_log_variance(results):
    """Mean over the first 63 ranks of ln variance at depths 0, 0.5, 1, ...: token level, then image level."""
    image = token_spectrum(results["means"].transpose(0, 1))
    return results["token_spectrum"].mean((0, 2)), image[:, :63].mean(1)


# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.9))
depths = torch.arange(25) / 2
for name in names:
    for axis, values in zip(axes, mean_log_variance(found[name])):
        axis.plot(depths, values, color=plots.COLORS[name], label=names[name])
        axis.plot(depths[1::2], values[1::2], "o", ms=3, color=plots.COLORS[name])
for axis, title in zip(axes, ("Token level, mean of 256 images", "Image level, of 256 images")):
    axis.set(title=title, xlabel="depth (dots: after attention)", ylabel="mean ln variance, 63 ranks")
axes[0].legend()
plots.show(figure, alt="Token level: MoCo v3 is flat from depth 4, SimMIM keeps rising. Image level: all rise, MoCo v3 earliest.")

# %% [markdown]
# Token level, left: MoCo v3 is nearly flat from depth 4 on, SimMIM climbs to the end. Image level, right: all three climb,
# the untrained network as well; MoCo v3 is the first to rise, and SimMIM has passed it by the end.
#
# ### What attention adds
#
# The curves hold attention and MLP together. Take only the steps from a block's input to the dot after it.
#
# **Predict, then run.** Movement in unison cannot change how tokens differ from each other, only where images are. How much
# variance does attention add in blocks 7 to 12: which networks have a bar of about 0 at token level, and which has the
# *lowest* at image level?

# %%
def attention_gain(values):
    """ln variance at depths 6, 6.5, ..., 12 (..., 13) -> what attention adds, mean over blocks 7 to 12: (...)."""
    return (values[..., 1::2] - values[..., :-1:2]).mean(-1)


def image_gain(means):
    """The same at image level: mean tokens (images, 13, D) -> a number."""
    return attention_gain(token_spectrum(means.transpose(0, 1))[:, :63].mean(1))


# %% [markdown]
# At token level every image has a number of its own, and the interval is that of a mean. At image level there is one number
# for all images. Leave out one sixteenth of the images, compute it again, do so for each sixteenth: how far these numbers
# scatter says how far off it may be. That is the **jackknife**; 2.13 is Student's factor for sixteen groups.

# %%
def leave_out(statistic, values, groups=16):
    """Statistic of values (images, ...), of all and then without each group of images: (1 + groups,)."""
    group = torch.arange(len(values)) % groups
    return torch.stack([statistic(values[group != g]) for g in (-1, *range(groups))])


def jackknife(values):
    """What `leave_out` gives -> the value of all, and how far its 95 % interval goes to either side."""
    whole, without = values[0], values[1:]
    return whole.item(), 2.13 * ((len(without) - 1) * without.var(correction=0)).sqrt().item()


# %%
gains, image_level = {}, {}
for name in names:
    results = found[name]
    mean, error = mean_and_error(attention_gain(results["token_spectrum"][:, 12:].mean(2)))
    image_level[name] = leave_out(image_gain, results["means"][:, 12:])
    gains[name] = [(mean.item(), 1.96 * error.item()), jackknife(image_level[name])]
    print(f"{names[name]:<9}", ", ".join(f"{level} level ≈ {value:+.4f} ± {wide:.4f}"
                                         for level, (value, wide) in zip(("token", "image"), gains[name])))

# %%
figure, axis = plt.subplots(figsize=(6.5, 2.6))
for place, name in enumerate(names):
    values, wide = zip(*gains[name])
    axis.bar([place - 0.2, place + 0.2], values, 0.36, yerr=wide, color=plots.COLORS[name], hatch=["", "//"],
             edgecolor="white", capsize=3)
    for x, text in ((place - 0.2, "token"), (place + 0.2, "image")):
        axis.annotate(text, (x, 0), (0, -12), textcoords="offset points", ha="center", fontsize=9)
axis.axhline(0, color="black", lw=0.8)
axis.set(xticks=range(3), ylabel="gain in mean ln variance", title="What attention adds, blocks 7 to 12, per block")
axis.set_xticklabels(names.values()), axis.tick_params("x", pad=14, length=0), axis.set_xlabel("network")
plots.show(figure, alt="Bars: attention of SimMIM adds variance at both levels, that of MoCo v3 and untrained at image level alone.")

# %% [markdown]
# At token level it is as unison demands: MoCo v3 and the untrained network add next to nothing, SimMIM adds in every block.
# At image level it is not what you may have expected: attention adds in all three, and **least in MoCo v3**. If late
# contrastive attention were special for driving images apart, its bar would be the highest. And if you count SimMIM's gain
# at token level as scale and take it off, MoCo v3 and SimMIM are left with about the same.
#
# A likely reason, not tested here: MoCo v3 did that work early. Its image curve rises steepest in the first two blocks and
# has flattened by block 7. A network of 96 channels on a world of ten shapes may need no more.
#
# ## 4. Whom is a token next to?
#
# Nine images, three each of three shapes, make 576 tokens after block 12. t-SNE lays them out in the plane so that near
# ones stay near (Park et al., Figure E.2).

# %%
labels = world.labels(torch.arange(256))
picked = torch.cat([torch.where(labels == shape)[0][:3] for shape in (0, 4, 7)])  # disks, crosses, stars
nine = {name: patch_tokens(network, world.images(picked))[12] for name, network in networks.items()}
places = {name: token_tsne(tokens)[0] for name, tokens in nine.items()}  # (9, 64, 2)

# %%
figure, axes = plt.subplots(2, 3, figsize=(7.5, 5))
for column, name in enumerate(names):
    for axis, kind, palette, group in zip(axes[:, column], ("image", "shape"), ("tab10", "Dark2"), (1, 3)):
        colors = (torch.arange(9) // group).repeat_interleave(64)
        axis.scatter(*places[name].flatten(0, 1).T, s=5, c=colors, cmap=palette, vmin=0, vmax=9 if group == 1 else 7)
        axis.set(title=f"{names[name]}, by {kind}", xticks=[], yticks=[])
figure.supxlabel("t-SNE, first axis; below, green: disks, orange: crosses, purple: stars", fontsize=9)
figure.supylabel("second axis", fontsize=9)
plots.show(figure, alt="Six t-SNE pictures of 576 tokens of three networks, coloured by image above and by shape below.")

# %% [markdown]
# In MoCo v3's upper half many tokens lie beside those of their image, and the stars' stand apart; the lower half is mixed.
# In SimMIM colours are mixed nearly everywhere, as the paper shows. But look to the right: **the untrained network also
# sorts many tokens by image**, without having learned anything.
#
# How far can you trust the gaps and groups? The untrained tokens once more, under two values of *perplexity*, which says
# about how many neighbours of a point count:

# %%
from sklearn.manifold import TSNE

points = nine["untrained"].flatten(0, 1).numpy()
fine = TSNE(perplexity=4, init="random", random_state=0).fit_transform(points)
figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.7))
for axis, layout, perplexity in zip(axes, (fine, places["untrained"].flatten(0, 1)), (4, 20)):
    axis.scatter(*layout.T, s=5, c=torch.arange(9).repeat_interleave(64), cmap="tab10", vmin=0, vmax=9)
    axis.set(title=f"untrained, perplexity {perplexity}", xticks=[], yticks=[])
figure.supxlabel("t-SNE, first axis", fontsize=9), figure.supylabel("second axis", fontsize=9)
plots.show(figure, alt="The same tokens of the untrained network twice: at perplexity 4 many crumbs, at 20 larger groups.")

# %% [markdown]
# The same 576 points: crumbs on the left, groups on the right. Size, distance and number of groups are the method's as much
# as the data's. So take a number that needs no picture. Among the ten nearest tokens of a token (by cosine), what share is
# of **its own image**? And, a question the colours above cannot ask: what share is at **the same place** of another image?
# From here on with 32 images.

# %%
def neighbour_shares(tokens, k=10):
    """(B, P, D) -> (2, B): which share of its tokens' k nearest is of an image itself, and at the same place in others."""
    images, patches, _ = tokens.shape
    x = torch.nn.functional.normalize(tokens.double(), dim=-1).flatten(0, 1)
    nearest = (x @ x.T).fill_diagonal_(-2).topk(k).indices  # (B P, k)
    own = torch.arange(images * patches)[:, None]
    same_image, same_place = nearest // patches == own // patches, nearest % patches == own % patches
    return torch.stack([same.double().reshape(images, -1).mean(1) for same in (same_image, same_place)])


# %%
some = world.images(torch.arange(32))
stacks = {name: patch_tokens(network, some) for name, network in networks.items()}  # depth -> (32, 64, 96)
shares = {name: [neighbour_shares(stack[depth]) for depth in range(0, 13, 2)] for name, stack in stacks.items()}
library = neighbour_purity(stacks["mocov3"][12])  # (32,)
print("own image, as the library's neighbour_purity:", torch.allclose(shares["mocov3"][-1][0], library.double(), atol=0.02))

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), sharey=True)
for axis, title, chance, kind in zip(axes, ("Of its own image", "At its place in another image"), (63 / 2047, 31 / 2047), (0, 1)):
    for name in names:
        mean, error = mean_and_error(torch.stack([s[kind] for s in shares[name]], 1))
        axis.errorbar(range(0, 13, 2), mean, 1.96 * error, color=plots.COLORS[name], marker="o", ms=4, label=names[name])
    axis.axhline(chance, color="black", lw=1, ls=":", label="chance")
    axis.set(title=title, xlabel="depth (n = 32 images)", xticks=range(0, 13, 2), ylim=(0, None))
figure.supylabel("share of the 10 nearest tokens", fontsize=10)
axes[1].legend()
plots.show(figure, alt="Left: tokens of their own image among the nearest, untrained most, SimMIM least. Right: SimMIM's early tokens sit with their place.")

# %% [markdown]
# Left (bars: 95 % intervals over images): SimMIM's tokens keep to their image less than MoCo v3's, as the paper has it. But
# the untrained network's keep to it most: training took both away from there. Right: SimMIM's tokens are mixed, and yet not
# unsorted. After block 2, half of a token's nearest are at **its place in other images**: early on SimMIM sorts by *where*.
# A likely reason: a masked token has nothing but its place to start from.
#
# A second number, the **silhouette**, compares mean distances, to the token's own image and to the nearest other one: above
# 0 if its own is nearer.

# %%
purity = {name: neighbour_purity(stack[12]) for name, stack in stacks.items()}  # (32,) each
apart = {name: silhouette(stack[12]) for name, stack in stacks.items()}
for name in names:
    print(f"{names[name]:<9} purity ≈ {purity[name].mean():.2f}, silhouette ≈ {apart[name].mean():.2f}")

# %% [markdown]
# All are below 0: on average, some other image is nearer than one's own. (A patch of ground resembles another image's
# ground more than its own object.) SimMIM is last by both numbers, and **the untrained network is first by both**.
# "More clustered by image than SimMIM" holds for MoCo v3; "than random weights" does not (in this training; section 6
# has all three).
#
# ## 5. On photographs
#
# Two photographs come with scikit-learn. Cut into squares of 64 pixels they are as far from the procedural world as can be:
# no network so far has seen a photograph. So two more come in, of the same body and the same objectives, that were trained
# on nothing else (Imagenette, chapter 04).

# %%
from sklearn.datasets import load_sample_images

def squares(photo, height=192):
    """A photograph (H, W, 3) -> (12, 3, 64, 64) uint8: shrunk to 192 x 256 pixels and cut."""
    photo = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(photo, size=(height, height * 4 // 3), mode="area")
    return small.unfold(2, 64, 64).unfold(3, 64, 64).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).round().byte()


# %%
photos = {name: squares(photo) for name, photo in zip(("temple", "flower"), load_sample_images().images)}
figure = plots.image_grid(torch.cat([photo[4:8] for photo in photos.values()]), rows=2)
plots.show(figure, alt="Eight squares out of two photographs: a Chinese temple above, a flower below.")

# %%
def late_unison(network, images):
    """How much attention moves an image's tokens in unison, mean over images and blocks 7 to 12."""
    tokens = patch_tokens(network, images)
    return sum(unison(tokens[block - 1], tokens[block - 0.5]).mean() for block in range(7, 13)) / 6


trained_on = {"shapes": networks, "photographs": {name: zoo.load(name, "imagenette") for name in ("mocov3", "simmim")}}
for learned_from, those in trained_on.items():
    for name, network in those.items():
        values = ", ".join(f"{place} ≈ {late_unison(network, images):.2f}" for place, images in {"shapes": some, **photos}.items())
        print(f"{names[name] + ('' if name == 'untrained' else f', trained on {learned_from}'):<32} shown {values}")

# %% [markdown]
# The order stays, also for the networks of photographs. Both MoCo v3 and the control move everything together, whatever
# they are shown, which fits a step that is mostly a constant. Both SimMIM lie below them; on the squares closer than on
# shapes, and the one that was trained on photographs closer than the other. Squares of sky and dark background have patches
# that are all alike, and tokens that are alike take like steps: a likely reason for the first of these, not for the second.
# Twelve squares of one photograph are no sample, so there is no interval.
#
# ## 6. What held?
#
# Each sentence becomes a difference that is positive if the sentence is true, with a 95 % interval over images:
# **supported** if all of the interval is above 0, **not supported** if all of it is below, **inconclusive** otherwise.

# %%
from lib.evaluation.report import bootstrap_mean, bootstrap_statistic

def verdict(low, high):
    return "supported" if low > 0 else "not supported" if high < 0 else "inconclusive"


def over_images(values):
    """One difference for each image (images,) -> its mean, and an interval by drawing images again and again."""
    return values.mean().item(), *bootstrap_mean(values)


# %%
def unison_difference(own, token):
    """Steps' parts of two networks, (images, 2, blocks) each -> unison without the constant, first less second."""
    first, second = unison_without_constant(own, token)
    return first - second


# %%
moco, simmim, untrained = (found[name] for name in names)
late = {name: found[name]["attention_unison"][:, 6:].mean(1) for name in names}
rows = [("attention moves tokens more in unison in MoCo v3 than in SimMIM", *over_images(late["mocov3"] - late["simmim"])),
        ("... and more than in the untrained network", *over_images(late["mocov3"] - late["untrained"])),
        ("SimMIM moves them less in unison than the untrained one", *over_images(late["untrained"] - late["simmim"]))]

# %%
for text, pair in {"without the constant, MoCo v3 more than SimMIM": (moco, simmim),
                   "without the constant, MoCo v3 more than untrained": (moco, untrained)}.items():
    own, token = (torch.stack(part, 1) for part in list(zip(*map(step_parts, pair)))[1:])  # (images, 2, blocks)
    rows.append((text, unison_difference(own, token).item(), *bootstrap_statistic(unison_difference, own, token)))

# %%
gain = {name: attention_gain(found[name]["token_spectrum"][:, 12:].mean(2)) for name in names}
rows += [("attention adds less token-level variance in MoCo v3 than in SimMIM", *over_images(gain["simmim"] - gain["mocov3"])),
         ("... and less than in the untrained network", *over_images(gain["untrained"] - gain["mocov3"]))]

# %%
for text, other in {"attention adds more image-level variance in MoCo v3 than in SimMIM": "simmim",
                    "... and more than in the untrained network": "untrained"}.items():
    value, wide = jackknife(image_level["mocov3"] - image_level[other])
    rows.append((text, value, value - wide, value + wide))

# %%
rows += [("tokens keep to their image more in MoCo v3 than in SimMIM", *over_images(purity["mocov3"] - purity["simmim"])),
         ("... and more than in the untrained network", *over_images(purity["mocov3"] - purity["untrained"])),
         ("... the same by silhouette", *over_images(apart["mocov3"] - apart["untrained"]))]

# %%
for text, value, low, high in rows:
    print(f"{text:<67} {verdict(low, high):<13} ≈ {value:+.3f} (≈ {low:+.3f} to ≈ {high:+.3f})")

# %% [markdown]
# These intervals are over images, for **one network of each kind**; another training may move a difference by more than
# its interval. So here are the sentences that chapter 13 puts to all three trainings (256 images each, 32 for the
# neighbours), and what the three say together:

# %%
from IPython.display import Markdown, display

from lib.analysis.claims import ledger

entries = ledger.of_world(ledger.written(), "shapes")
display(Markdown(ledger.over_trainings([entries[id] for id in ("park-4", "park-15")])))

# %% [markdown]
# **Every difference has the same sign three times.** Of Park et al.'s picture holds: contrastive attention moves tokens
# in unison and leaves their differences alone, and tokens keep to their image more in MoCo v3 than in SimMIM. (By how
# much is less sure: the last is twice as large in two trainings as in the first, and its interval, .10 wide over
# images, runs from .01 to .35 over trainings.) What the control adds: an untrained network does all of this too, a
# little less in unison, and it keeps tokens to their image as well: more than MoCo v3 in the first training, as
# much in the second, less in the third. What does not show on shapes: that late contrastive attention drives
# images apart more than other attention does. (On photographs it does, and random weights do it more: park-4 in chapter
# 13.)
#
# ## Exercises
#
# Write your answer where it says `raise NotImplementedError`, run the cell, read what the check says.

# %%
from lib.exercises import chapter06

# %% [markdown]
# ### Exercise 1 · ★☆☆ · 5 minutes
#
# Write `unison_of(before, after)` for the tokens of one image, (P, D) each → the squared length of the mean step, divided
# by the mean of the squared lengths of the steps.
#
# *Hint:* the two means run over tokens, the sums inside a length over channels.
#
# <details><summary>Solution</summary>
#
# ```python
# def unison_of(before, after):
#     steps = after - before                                         # (P, D)
#     return steps.mean(0).square().sum() / steps.square().sum(1).mean()
# ```
#
# </details>

# %%
def unison_of(before, after):
    raise NotImplementedError


chapter06.check_unison_of(unison_of);

# %% [markdown]
# ### Exercise 2 · ★★☆ · 10 minutes
#
# Write `gram_spectrum(tokens)`: tokens (P, D) of one image, with P no larger than D → the natural logarithms of the P - 1
# eigenvalues that are not 0, largest first, from the P × P Gram matrix.
#
# *Hint:* `torch.linalg.eigvalsh` gives the smallest first. What comes off the tokens before any product?
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def gram_spectrum(tokens):
#     centred = tokens - tokens.mean(0)
#     gram = centred @ centred.T / (len(tokens) - 1)                  # (P, P)
#     return torch.linalg.eigvalsh(gram).flip(0)[:-1].log()           # the last one is rounding noise
# ```
#
# </details>

# %%
def gram_spectrum(tokens):
    raise NotImplementedError


chapter06.check_gram_spectrum(gram_spectrum);

# %% [markdown]
# ### Exercise 3 · ★★☆ · 10 minutes
#
# Write `project(tokens, k)`, (P, D) → (P, k): where the tokens, less their mean, lie along the k directions in which they
# vary most, the most varying first. A direction may point either way; the check accepts both.
#
# *Hint:* `torch.linalg.svd(x, full_matrices=False)` gives U, S and Vh, and a direction is a *row* of Vh.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def project(tokens, k):
#     centred = tokens - tokens.mean(0)
#     directions = torch.linalg.svd(centred, full_matrices=False).Vh[:k]   # (k, D)
#     return centred @ directions.T
# ```
#
# </details>

# %%
def project(tokens, k):
    raise NotImplementedError


chapter06.check_project(project);

# %% [markdown]
# ### Exercise 4 · ★★★ · 15 minutes
#
# Write `image_purity(tokens, k)`: tokens (B, P, D) of B images → one number. For each of the B · P tokens take the k
# others, of any image, with the largest cosine; which share of them is of the token's own image? The mean over all tokens.
#
# *Hint:* flatten the first two axes; token i then belongs to image i // P. Who is always nearest to you?
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def image_purity(tokens, k):
#     unit = torch.nn.functional.normalize(tokens, dim=-1).flatten(0, 1)       # (B P, D)
#     cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)                      # a token is no neighbour of its own
#     image = torch.arange(len(unit)) // tokens.shape[1]
#     return (image[cosine.topk(k).indices] == image[:, None]).double().mean()
# ```
#
# </details>

# %%
def image_purity(tokens, k):
    raise NotImplementedError


chapter06.check_image_purity(image_purity);

# %% [markdown]
# ## Find out
#
# No check stands behind this one: the answer is a measurement, and you make it.
#
# *Is what varies most what it knows?* Spectra count variance, and a steep one is often read as a poor representation. Keep of
# the mean patch token of each image only what lies in its 1, 2, 4, 8, 16 or 32 loudest directions (singular vectors over the
# training images), and ask a linear probe for the shape. **Predict**: which network says most with four numbers, and
# whom do four numbers leave with nothing, although they hold nearly all of its variance?

# %%
from lib.evaluation.features import extract


def loudest(bank, queries, directions):
    """Features (N, D) and (Q, D) -> (N, k) and (Q, k), along the k directions of largest variance, and its share of it all."""
    centre = bank.mean(0)
    _, singular_values, right = torch.linalg.svd(bank - centre, full_matrices=False)
    variance = singular_values**2 / singular_values.square().sum()
    return (bank - centre) @ right[:directions].T, (queries - centre) @ right[:directions].T, variance[:directions].sum()


few = extract(networks["simmim"], Shapes("train", 64, 200, difficulty="mild"), "mean")[0]
print(f"four directions hold ≈ {loudest(few, few, 4)[2]:.1%} of the variance between SimMIM's images")

# %% [markdown]
# <details><summary>What came out for us</summary>
#
# ```python
# from lib.evaluation.linear import linear_probe
# bank, asked = Shapes("train", 64, 1500, difficulty="mild"), Shapes("val", 64, 500, difficulty="mild")
# for name in ("mocov3", "simmim", "mae"):
#     (known, labels), (queries, truth) = (extract(zoo.load(name), source, "mean") for source in (bank, asked))
#     for k in (1, 2, 4, 8, 16, 32):
#         some, of_queries, share = loudest(known, queries, k)
#         right = linear_probe(some, labels, of_queries)[0] == truth
#         print(f"{name}, {k} directions: {share:.0%} of the variance, {right.float().mean():.0%} of the shapes")
# ```
#
# Shapes named from so many directions, in per cent (500 images, lowest and highest of three trainings):
#
# | | variance in 4 | 1 | 2 | 4 | 8 | 16 | 32 | all 96 |
# |---|---|---|---|---|---|---|---|---|
# | MAE | 71–82 | 20–35 | 40–50 | 71–78 | 84–86 | 88–91 | 88–93 | 88–91 |
# | hybrid | 88–89 | 20–23 | 46–55 | 55–82 | 85–90 | 87–90 | 86–92 | 87–91 |
# | MoCo v3 | 86–92 | 17–18 | 27–38 | 58–70 | 70–78 | 75–82 | 77–84 | 79–83 |
# | DINO | 94–97 | 19–20 | 21–26 | 35–42 | 43–48 | 52–58 | 61–63 | 63–70 |
# | SimMIM | 98–99 | 11–14 | 17–20 | 20–31 | 34–57 | 68–71 | 75–78 | 75–78 |
# | untrained | 77 | 17 | 18 | 27 | 31 | 35 | 49 | 59 |
#
# SimMIM's four loudest directions hold 98 % of its variance, and name the shape no better than those of random weights;
# the next twelve, with 1 % of the variance, know it. MAE and the hybrid say most with four numbers; MAE's spectrum is the
# flattest of these five. **What varies most is not what is known**, so a spectrum tells how a representation is laid out,
# not what it is worth; and k-NN, which listens to the loud, must find SimMIM poor (chapter 04).
#
# </details>

# %% [markdown]
# ## What to take away
#
# - The directions in which tokens vary most need not be those in which they move. Ask a drawing how much it shows.
# - MoCo v3's attention moves the tokens of an image together, SimMIM's does so far less. An untrained network moves them
#   together too, so unison alone is no sign of learning.
# - Most of that common step is the same for all images. Take it out before you read meaning into it.
# - N tokens vary in N - 1 directions at most; the Gram matrix gives their variances. Average logarithms.
# - Attention that moves tokens in unison leaves the token-level spectrum alone: so it is in MoCo v3 and the control, not in
#   SimMIM.
# - A t-SNE picture needs a number and an untrained network beside it. SimMIM's tokens do not sort by image; early on they
#   sort by place.
#
# **Limits.** One small network of each kind, trained on a procedural world; intervals are over images, but for the last
# table; three trainings are drawn in section 1 alone. That image-level variance does not set MoCo v3 apart here says
# nothing about ViT-B on ImageNet. Only the attention half of a block is taken apart; `Unison` measures the MLP half
# too. Unison and the shares of neighbours are measures of this course; the paper's figures are pictures and spectra.
#
# **References.** Park et al. 2023, *What Do Self-Supervised Vision Transformers Learn?*, section 3, Figures 6, 7 and E.2.
# van der Maaten and Hinton 2008, *Visualizing Data using t-SNE*. Rousseeuw 1987, *Silhouettes*, for the silhouette.
