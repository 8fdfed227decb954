# %% [markdown]
# # 12 · At paper scale: official checkpoints, ImageNet, many GPUs
#
# **After this chapter you can put the papers' own networks through every analysis of this course, say what a published
# recipe costs before you start it, and what changes, and what must not, when a training moves from one GPU to many.**
#
# You will be able to
#
# 1. fetch official checkpoints, and tell weights that fit from weights that are right;
# 2. get every curve of this course for any ViT that timm can make, in three lines;
# 3. hold published curves against an untrained network of the same size;
# 4. compute parameters, floating-point operations, memory and GPU-hours of a recipe;
# 5. show which losses several GPUs compute as one would, and what the others need for it;
# 6. measure throughput, and turn images a second into days and into a share of what the machine can do.
#
# *You need:* chapters 01 to 03 and 05. *Time:* about 70 minutes to read, 40 for the exercises; the cells run in about 40
# seconds on a CPU.

# %%
import matplotlib.pyplot as plt
import torch

from lib.analysis.curves import curves, written
from lib.models import official, zoo
from lib.models.vit import SIZES, ViT
from lib.viz import plots

plots.style()
torch.set_num_threads(min(2, torch.get_num_threads()));

# %% [markdown]
# Numbers after the sign ≈ come from trained or random networks; their last digits may differ between processors.
#
# ## 1. What there is, and what is here
#
# The authors publish their weights. They are large, and some may not be used for all purposes (those of MoCo v3 and MAE are
# CC BY-NC), so none ships with the course. But the library knows where they are, how each file is laid out, and what must
# be in it. A network on PyTorch's device `meta` has shapes and no numbers: it can be counted without being fetched.

# %%
def count(network):
    return sum(p.numel() for p in network.parameters())


for name, checkpoint in official.CHECKPOINTS.items():
    with torch.device("meta"):
        millions = count(official.backbone(name)) / 1e6
    here = "here" if official.path_of(name).is_file() else "not here"
    print(f"{name:18} {millions:5.1f} M weights, {checkpoint.size.heads:2} heads, positions {checkpoint.positions:8}  {here}")

# %% [markdown]
# As this page was made, none was here. Two commands fetch what the published curves below belong to, and the photographs on
# which Park et al.'s own code looks at them:
#
# ```bash
# python -m lib.models fetch mocov3-vitb16 simmim-vitb16
# python -m lib.data fetch imagenette
# ```
#
# Run the chapter again, and the last column and the figures of section 4 change. (The tests compare what cells print with
# what is saved here. With official files on disk they report the last column and the lines of section 4, and rightly so.) A
# name like `mocov3-vitb16` then works wherever a network is asked for: `zoo.load("mocov3-vitb16")` in Python,
# `official:mocov3-vitb16` on the command line.
#
# ## 2. Weights that fit, and are wrong
#
# PyTorch loads weights by name and shape. Is a network right once all names and shapes agree? Take a network of the course
# that is well trained, MAE, and load its weights into ViTs that differ in one thing: the number of heads. It has 6.

# %%
tensors = {key: x for key, x in zoo.weights("mae", "shapes").items() if not key.startswith("decoder.")}
networks = {}
for heads in (3, 6, 12):
    networks[heads] = ViT(image_size=64, patch_size=8, dim=96, depth=12, heads=heads).eval()
    print(f"{heads:2} heads:", networks[heads].load_state_dict(tensors))

# %% [markdown]
# No error: queries, keys and values of all heads lie side by side in one matrix, and how it is cut shows in no shape.
#
# **Predict, then run.** Cut rightly, k-NN finds the shape of more than eight images in ten. What will the two wrong ones
# find: nothing (one in ten, chance), a third (about what untrained networks find), or nearly as much?

# %%
from lib.data import Loaded, Shapes
from lib.evaluation.features import extract
from lib.evaluation.neighbors import knn_accuracy

bank, queries = (Loaded(Shapes(split, 64, n, difficulty="mild")) for split, n in (("train", 300), ("val", 150)))
knn = {h: knn_accuracy(*extract(v, bank, "mean"), *extract(v, queries, "mean")) for h, v in networks.items()}
print({f"{heads} heads": f"≈ {share:.0%}" for heads, share in knn.items()})

# %%
found = {heads: curves(network, Loaded(queries, limit=32)) for heads, network in networks.items()}
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
for axis, quantity, label in zip(axes, ("distance", "nmi"), ("attention distance, px", "NMI")):
    for (heads, results), style in zip(found.items(), (":", "-", "--")):
        right = "right" if heads == 6 else "wrong"
        axis.plot(results[quantity]["depth"], results[quantity]["value"], style, color=plots.COLORS["mae"], label=f"{heads}, {right}")
    axis.set(xlabel="block", ylabel=label, xticks=(1, 4, 8, 12), ylim=(0, None))
axes[1].legend(title="heads")
figure.suptitle("The same weights of MAE, cut into 3, 6 and 12 heads; n = 32 images", fontsize=10)
plots.show(figure, alt="Attention distance and NMI by block: 12 heads look further and have a lower NMI than the right 6, 3 the reverse.")

# %% [markdown]
# Nothing looks broken. Cut into 3, the network loses a few points, which one might blame on the probe; cut into 12, hardly
# any. And their curves have the right course at another height: cut into 12, MAE seems less local and nearer to collapse
# than it is. A reader of that figure would draw a false conclusion about *masked modelling*.
#
# This is no made-up danger. The official MoCo v3 ViT-S has **12 heads**; the `vit_small` of timm, like everyone else's, has
# 6. Here are random weights in the shapes of that file. (No file is needed: what follows is about names, shapes and heads.)

# %%
import timm

weights = official.untrained("mocov3-vits16").state_dict()
small = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
print("timm, 6 heads:", small.load_state_dict(weights))

# %%
torch.manual_seed(0)
images, twelve = torch.randn(2, 3, 224, 224), official.untrained("mocov3-vits16")
with torch.no_grad():
    wrong, right = small(images), twelve(images)
print(f"largest difference ≈ {(wrong - right).abs().max():.2f}, standard deviation of the outputs ≈ {right.std():.2f}")

# %% [markdown]
# The difference is small here only because random attention is nearly uniform, however it is cut. The library writes down
# the number of heads with each checkpoint, and compares:

# %%
from lib.errors import CourseError

try:
    official.fill(small, "mocov3-vits16", weights)
except CourseError as error:
    print("CourseError:", error)

# %% [markdown]
# A second trap. In the file, the names begin with `module.base_encoder.`. `strict=False`, which code on the web uses to get
# rid of the error, gets rid of the weights as well:

# %%
in_the_file = {f"module.base_encoder.{key}": x for key, x in weights.items()}
loaded = small.load_state_dict(in_the_file, strict=False)
print(f"{len(loaded.missing_keys)} of {len(weights)} weights missing, {len(loaded.unexpected_keys)} left over, and no error")

# %% [markdown]
# The network is the one before. So every official layout is taken apart weight by weight (`lib/models/layouts.py`): one
# that is missing, left over or of another shape is an error that names it. And what shows in no shape is written down:
# heads, SimMIM's relative position bias, the normalisation of BEiT's and AugReg's images.
#
# ## 3. Any ViT of timm, in three lines
#
# Whatever has timm's blocks can be looked into. First something to look at: squares cut out of the two photographs that
# come with scikit-learn, 224 pixels wide. A source of images is anything with a length and `images(indices)`.

# %%
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2.functional import resized_crop


class Photographs:
    """Squares of two photographs, as many of each: uint8 (B, 3, size, size)."""
    name = "photographs"

    def __init__(self, number, size=224):
        photos = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in load_sample_images().images]  # (3, 427, 640)
        places = torch.rand(number, 3, generator=torch.Generator().manual_seed(0)).tolist()
        cut = [(int(427 - (1 - w) * 203), photos[i % 2], y, x) for i, (w, y, x) in enumerate(places)]        # 224 to 427 wide
        self.all = torch.stack([resized_crop(photo, int(y * (427 - w)), int(x * (640 - w)), w, w, [size, size])
                                for w, photo, y, x in cut])

    def __len__(self):
        return len(self.all)

    def images(self, indices):
        return self.all[indices]


# %%
photographs = Photographs(8)
plots.show(plots.image_grid(photographs.all, rows=2), alt="Eight squares out of two photographs: a Chinese temple and a flower.")

# %% [markdown]
# (Photographs: *china.jpg* by danielbuechele and *flower.jpg* by vultilion, [CC BY
# 2.0](https://creativecommons.org/licenses/by/2.0/), cropped and scaled.)
#
# `curves` gives seven quantities at every depth, with 95 % intervals over images. One function draws them:

# %%
def draw_curves(found, colors):
    """{label: what `curves` gives} -> a figure with seven panels."""
    panels = {"distance": ("px", (0, 150)), "entropy": ("nats", (0, 6)), "nmi": ("0 to 1", (0, 0.5)), "prefix_mass": ("share", (0, 0.5)),
              "head_similarity": ("cosine", (-0.5, 1)), "token_similarity": ("cosine", (-0.5, 1)), "delta_log_amplitude": ("ln", None)}
    figure, axes = plt.subplots(2, 4, figsize=(9, 4.2))
    for axis, (quantity, (unit, limits)) in zip(axes.flat, panels.items()):
        for label, results in found.items():
            depth, value, low, high = (results[quantity][k] for k in ("depth", "value", "low", "high"))
            axis.plot(depth, value, color=colors[label], label=label)
            axis.fill_between(depth, low, high, color=colors[label], alpha=0.25, lw=0)
        axis.set(title=quantity.replace("_", " "), ylabel=unit, ylim=limits, xticks=range(0, depth[-1] + 1, 4))
    figure.supxlabel("depth")
    axes.flat[-1].axis("off"), axes.flat[-1].legend(*axis.get_legend_handles_labels(), loc="center")
    return figure


# %% [markdown]
# And these are the three lines:

# %%
torch.manual_seed(0)
tiny = timm.create_model("vit_tiny_patch16_224", pretrained=False)
figure = draw_curves({"vit_tiny": curves(tiny, photographs)}, {"vit_tiny": plots.COLORS["untrained"]})
plots.show(figure, alt="Seven curves of a ViT with random weights, all nearly flat: distance near 116 px, NMI near 0.")

# %% [markdown]
# These weights are random, so all is flat, and the distance is that of uniform attention, 116 px. (The wide band of the
# last panel is the two photographs: their frequencies differ.) With `pretrained=True` timm fetches trained ones. Where are
# the patches among the tokens, and how many? That is read off the network:

# %%
from lib.analysis.recording import layout_of

for name in ("vit_small_patch32_224", "deit_small_distilled_patch16_224", "vit_small_patch14_reg4_dinov2", "beit_base_patch16_224"):
    with torch.device("meta"):
        network = timm.create_model(name)
    size = network.patch_embed.img_size[0]
    layout = layout_of(network, torch.empty(1, 3, size, size, device="meta"))
    print(f"{name:33} {layout.prefix} prefix tokens, then {layout.grid[0]} x {layout.grid[1]} patches, {layout.depth} blocks")

# %% [markdown]
# CLS, a second token for distillation, four registers: `prefix` counts them all, and the curves leave them out.
#
# ## 4. The published curves, and what was there before training
#
# Park et al. measured MoCo v3 and SimMIM, ViT-B/16 on ImageNet. The numbers below are read off their figures: distance and
# NMI off the notebook they publish, one batch of photographs, for MoCo v3 alone (to about 0.3 px and 0.003); high
# frequencies off their poster (to about 0.05). We have no published numbers of SimMIM's distance and NMI.

# %%
published = {
    "mocov3": {"distance": [110.5, 89.2, 73.1, 69.5, 72.8, 81.4, 88.2, 79.7, 95.7, 101.2, 109.8, 113.6],
               "nmi": [.062, .122, .321, .296, .238, .180, .145, .171, .093, .077, .029, .009],
               "delta_log_amplitude": [-2.90, -3.18, -3.14, -3.07, -2.95, -2.81, -2.67, -2.55, -2.46, -2.40, -2.39, -2.40, -2.51]},
    "simmim": {"delta_log_amplitude": [-2.00, -2.05, -2.25, -2.18, -2.13, -2.12, -2.09, -2.06, -2.04, -2.06, -2.13, -2.12, -2.31]}}

# %% [markdown]
# A published figure seldom shows the network before its first step. We can make one of the same size, with the initial
# weights of each recipe, and look. It takes a CPU some seconds, and needs no download.
#
# **Predict, then run.** In which of three quantities, distance, NMI and high frequencies, is the published MoCo v3
# *nearest* to random weights in its last block?

# %%
start = {name: curves(official.untrained(f"{name}-vitb16"), photographs) for name in published}
here = [name for name in official.CHECKPOINTS if official.path_of(name).is_file()]
trained = {name: curves(zoo.load(name), photographs) for name in here}
print(f"official checkpoints on this disk: {', '.join(trained) or 'none'}")


# %%
def draw(axis, results, quantity, share=1.0, **style):
    """A curve with its interval, divided by `share`."""
    depth, value, low, high = (torch.tensor(results[quantity][k]) for k in ("depth", "value", "low", "high"))
    axis.plot(depth, value / share, **style)
    axis.fill_between(depth, low / share, high / share, color=style["color"], alpha=0.2, lw=0)


def draw_published(axis, published, quantity, share=1.0):
    for name in published:
        if quantity in published[name]:
            values = torch.tensor(published[name][quantity])
            axis.plot(range(13 - len(values), 13), values / share, "--", color=plots.COLORS[name], label=f"{name}, published")


# %%
titles = {"distance": "attention distance, px", "nmi": "NMI", "delta_log_amplitude": "Δ log amplitude, ln"}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4))
for axis, (quantity, title) in zip(axes, titles.items()):
    draw_published(axis, published, quantity)
    for name, style in (("mocov3", "-"), ("simmim", ":")):
        draw(axis, start[name], quantity, color=plots.COLORS["untrained"], ls=style, label=f"{name}, untrained")
    for name, results in trained.items():
        draw(axis, results, quantity, color=plots.COLORS.get(name.split("-")[0], "#CC79A7"), label=name)
    axis.set(ylabel=title, xlabel="depth (untrained: n = 8 squares)", xticks=(0, 4, 8, 12))
axes[0].set_ylim(0, None)
figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=4)
figure.suptitle("MoCo v3's last block ends where random weights are, by distance and NMI", fontsize=11)
plots.show(figure, alt="Published and untrained ViT-B: MoCo's distance and NMI end at the untrained; the two untrained differ in frequencies.")

# %%
for quantity, title in titles.items():
    for name in published:
        if quantity in published[name]:
            last, control = published[name][quantity][-1], start[name][quantity]["value"][-1]
            print(f"{title:<21} {name}, depth 12: published {last:7.3g}, untrained ≈ {round(control, 3):.3g}")

# %% [markdown]
# Distance and NMI; not the frequencies. Look at the left and the middle panel. Untrained attention lies at the uniform 116
# px in every block, with an NMI near 0. The published MoCo v3 leaves both in between, where it looks at closer range and
# asks who is asking, **and in its last block comes back to within a few px and a few thousandths of them**. That
# contrastive attention ends global and collapsed is true as published; it is also true of a network of this size that has
# learned nothing. What training made, and what calls for an explanation, is the middle of the network. (A low NMI can come
# about in two ways: uniform attention, or all queries choosing the same few places. Only the entropy tells them apart, and
# we have no published one.)
#
# The right panel needs care. Its wide grey bands are intervals over squares of two photographs, which are no sample: how
# high frequencies come out depends much on the photograph, so do not hold a published curve against a grey one. Hold pairs
# against each other, each on images of its own. The published pair: SimMIM lies above MoCo v3 at every depth, by 0.9 before
# the first block and by 0.2 after the last. The pair of starts, which no loss has touched: the same order, about 0.6 and
# 1.4 apart. SimMIM begins with small weights and a layer scale of 0.1, so that its blocks do next to nothing; MoCo v3
# begins with larger ones, whose attention smooths, block after block, and with sines and cosines added to its tokens. **A
# gap in the published direction is there before training, and at the end a larger one.** The two recipes differ in
# positions, layer scale and initial weights, not in the objective alone, and so this pair alone cannot say which of these
# the gap comes from.
#
# ### The course's networks beside the published curves
#
# The small networks that ship have 12 blocks too, on a grid of 8 × 8. Distance is comparable only as a share of what
# uniform attention gets on its grid; NMI and frequencies depend on the grid as well, so look at the course of a curve, not
# at its height.

# %%
from lib.analysis.attention import patch_distances

uniform = {"here": patch_distances((8, 8), (8, 8)).mean().item(), "paper": patch_distances((14, 14), (16, 16)).mean().item()}
print({scale: f"{pixels:.2f} px" for scale, pixels in uniform.items()})
course = {name: written("shapes", name) for name in published} | {"untrained": written("shapes", "mocov3", "untrained")}

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
for axis, (quantity, title) in zip(axes, titles.items()):
    ours, theirs = uniform.values() if quantity == "distance" else (1, 1)
    draw_published(axis, published, quantity, theirs)
    for name, results in course.items():
        draw(axis, results, quantity, ours, color=plots.COLORS[name], label=f"{name}, here")
    axis.set(xlabel="depth", ylabel=title, xticks=(0, 4, 8, 12))
axes[0].set(ylabel="distance, share of uniform", ylim=(0, None))
figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Dashed: ViT-B/16 on ImageNet, published; lines: the course's networks, n = 500 shapes", fontsize=10)
plots.show(figure, alt="Three panels by depth: published curves dashed, the course's MoCo v3, SimMIM and untrained network as lines.")

# %% [markdown]
# Here both start from the *same* untrained network, which is what the published pair lacks. In the right panel MoCo v3
# ends below that start and SimMIM above it: with the start held equal, the claim about frequencies holds late in the
# network, and against the control, on shapes and for Δ as it is defined. (Chapter 07 takes a constant vector out of the
# tokens, and SimMIM's lead is gone; on photographs, too, SimMIM ends above the control.)
#
# The published courses do not all show. In the middle, both of MoCo v3's NMI curves rise early and fall to nearly 0. On the
# left, the published distance dips to 0.6 of uniform and comes back, and ours stays near it; on the right, the published
# frequencies of MoCo v3 rise from depth 1 to 10, and ours fall. Section 5 says how little training ours had.
#
# ## 5. What does a recipe cost?
#
# Before a thousand GPU-hours, a page of arithmetic. Almost all of a ViT's work is multiplying matrices. A block of width
# $D$ maps each of $N$ tokens to queries, keys and values ($3D^2$ multiplications), through a projection ($D^2$) and an MLP
# ($8D^2$); and its attention compares every token with every other, twice ($2ND$ for each token). A multiplication and the
# addition after it are two floating-point operations (FLOP):
#
# $$ \text{FLOP of a forward pass} \approx 2 \, L \, N \, (12 D^2 + 2 N D) $$
#
# for $L$ blocks. PyTorch can count instead of us, on `meta`. It counts the patch projection too.

# %%
from torch.utils.flop_counter import FlopCounterMode


def vit_flops(tokens, dim, depth):
    return 2 * depth * tokens * (12 * dim**2 + 2 * tokens * dim)


# %%
with torch.device("meta"):
    base, image = official.backbone("mae-vitb16"), torch.empty(1, 3, 224, 224)
with FlopCounterMode(display=False) as counter:
    base.forward_features(image)
arithmetic = vit_flops(197, 768, 12) + 2 * 196 * (3 * 16**2) * 768  # 12 blocks, and the patch projection
print(f"ViT-B/16, one image: {counter.get_total_flops() / 1e9:.2f} GFLOP counted, {arithmetic / 1e9:.2f} by the formula")

# %% [markdown]
# A backward pass costs two forward passes: one for the gradient of what went in, one for that of the weights. What a step
# costs *an image* is then a matter of how many passes it takes:
#
# - **supervised, SimMIM**: one, forward and backward. 3 forward passes. (Masked patches stay in as mask tokens.)
# - **MoCo v3**: two views forward and backward, and both through the momentum encoder. 2 × 3 + 2 = 8.
# - **DINO**: the same 8, and ten small crops of 37 tokens forward and backward.
# - **MAE**: a quarter of the patches through the encoder, then all of them through a narrower decoder.
# - **hybrid**: MoCo v3's 8 and SimMIM's 3.

# %%
from lib.training.recipes import objective_of, recipe


def image_flops(r):
    """FLOP that a training step of a recipe takes for an image; heads and patch projections are left out."""
    dim, depth, _ = SIZES[r.model]
    patches = (r.image_size // r.patch_size) ** 2
    forward, objective = vit_flops(1 + patches, dim, depth), objective_of(r)
    if objective == "mae":
        visible = patches - int(r.mask_ratio * patches)
        return 3 * (vit_flops(1 + visible, dim, depth) + vit_flops(1 + patches, r.decoder_dim, r.decoder_depth))
    if objective == "dino":
        small = (r.local_size // r.patch_size) ** 2
        return 8 * forward + 3 * r.local_crops * vit_flops(1 + small, dim, depth)
    return forward * {"supervised": 3, "simmim": 3, "mocov3": 8, "hybrid": 11}[objective]


# %% [markdown]
# **Predict, then run.** The published recipes for ViT-B take 300 epochs for MoCo v3, 800 for SimMIM and 800 for MAE. Which
# is the most expensive of the three, and which the cheapest?

# %%
IMAGES = 1_281_167  # ImageNet-1k, training
total = {}
for objective in ("supervised", "mocov3", "dino", "simmim", "mae", "hybrid"):
    r = recipe(objective, "paper")
    total[objective] = image_flops(r) * IMAGES * r.epochs
    print(f"{objective:10} {r.epochs} epochs, {r.epochs * (IMAGES // r.batch_size):,} steps of {r.batch_size:,} images, "
          f"{image_flops(r) / 1e9:.0f} GFLOP an image: {total[objective] / 1e18:.1f} EFLOP")

# %%
figure, axis = plt.subplots(figsize=(6.5, 2.6))
names = sorted(total, key=total.get)
axis.barh(names, [total[name] / 1e18 for name in names], color=[plots.COLORS[name] for name in names])
axis.set(xlabel="1e18 FLOP, computed from the recipes", ylabel="recipe, ViT-B/16", title="300 epochs of MoCo v3 cost what 800 of SimMIM do")
axis.grid(axis="y", visible=False)
plots.show(figure, alt="Bars: DINO costs most, MoCo v3 and SimMIM exactly the same, MAE about half of that, supervised least.")

# %% [markdown]
# MoCo v3 and SimMIM cost **the same**: 300 × 8 = 800 × 3 = 2,400 forward passes over ImageNet. "Fewer epochs" is not
# "cheaper". MAE's 800 epochs cost about half of either, because its encoder sees a quarter of the patches; the weights that
# its authors released had 1,600 epochs, which again comes to about the same. So MoCo v3, SimMIM and MAE, as published, had
# about equal *compute*. DINO had more than twice as much; the hybrid of Park et al., as this course reconstructs it (100
# epochs at 11 passes), less than half.
#
# And the networks of this course?

# %%
from lib.training.build import build, from_description

for objective in ("mocov3", "simmim", "mae"):
    r = from_description(zoo.manifest()[f"shapes/{objective}"]["recipe"])
    print(f"{objective}: ours saw {r.images * r.epochs:,} images and took ≈ {image_flops(r) * r.images * r.epochs / 1e15:.3f} PFLOP, "
          f"the paper's ≈ {total[objective] / (image_flops(r) * r.images * r.epochs) / 1e6:.1f} million times as much")

# %% [markdown]
# Keep that factor in mind at every "does not show at this scale".
#
# ### A dry run
#
# The library counts instead of reckoning: it builds the whole objective without numbers in it, heads and decoder too, and
# follows one step of it. Do the two agree?

# %%
from lib.training.plan import Assumptions, plan

r = recipe("mocov3", "paper")
given = Assumptions(gpus=16)
planned = plan(r, given)
print(f"MoCo v3: {planned.steps:,} steps; ≈ {planned.flops / 1e9:.1f} GFLOP an image counted, {image_flops(r) / 1e9:.1f} by passes")

# %% [markdown]
# What the passes leave out, heads and patch projections, is less than a hundredth. And how much memory does each of 16 GPUs
# need?

# %%
print(f"{planned.trained:,} weights learn, {planned.copies:,} follow as a momentum encoder; {planned.local} images a GPU")
for use, size in planned.memory.items():
    if size:
        print(f"{use:10} ≈ {size / 1e9:.2f} GB")

# %% [markdown]
# Not the weights: what autograd keeps of the forward pass for the *backward* pass takes nearly all of it, and that grows
# with the images of a GPU. So memory is bought with more GPUs, or with time: `--checkpoint-blocks` keeps only what enters a
# block and computes the rest again; `--accumulate 4` takes the images of a step in four parts (not with MoCo v3: section 6
# says why). `--shard` spreads weights and optimiser over the GPUs, which pays where *they* are large, beyond ViT-L.
#
# Last, a number that no count can give: how many FLOP a second a GPU *delivers* in such a training, data, views and
# waiting included. The dry run **assumes** a share of what a data sheet promises. Put in your own from section 7: the
# utilisation, and with it the *measured* rate as `--tflops`. (Published trainings of small ViTs report from 5 to 23 %
# of the data sheet, so read the hours as a lower bound.)

# %%
delivered = given.tflops * 1e12 * given.utilisation  # FLOP a second
print(f"assumed: {given.utilisation:.0%} of {given.tflops:.0f} TFLOP/s, about what an H100's data sheet says of bf16")
print({name: f"{flops / delivered / 3600:.0f} GPU-hours" for name, flops in total.items()})

# %% [markdown]
# These are estimates, and of the pre-training alone; linear probe and fine-tuning come on top. The whole plan, for any
# recipe, as a command that starts nothing:
#
# ```bash
# python -m lib.training mocov3 --scale paper --dry-run --gpus 16 --price 2.5
# ```
#
# ## 6. Many GPUs: what is averaged, and what must be gathered
#
# With `torchrun` each GPU has a process and its share of the batch. DistributedDataParallel (DDP) does one thing: after the
# backward pass it puts the **mean of all processes' gradients** in the place of each one's own. Is this the gradient of the
# whole batch? That depends on the loss, and one process is enough to see it: cut a batch in parts, as if each were on a GPU
# of its own.

# %%
def averaged_gradient(loss, network, batch, processes):
    """Mean over parts of a batch of the gradient of each part's loss, as DDP makes it: one vector."""
    size = len(next(iter(batch.values())))
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(loss(network, batch, part), parameters) for part in torch.arange(size).chunk(processes)]
    return torch.stack([torch.cat([g.flatten() for g in found]) for found in gradients]).mean(0)


def difference(loss, network, batch, processes):
    """How far it is from the gradient of the whole batch, as a share of the latter's length."""
    whole = averaged_gradient(loss, network, batch, 1)
    return ((averaged_gradient(loss, network, batch, processes) - whole).norm() / whole.norm()).item()


# %% [markdown]
# First masked modelling. The error of an image has nothing to do with other images:

# %%
from lib import random

indices = torch.arange(64)
keys = random.combine(0, indices)  # one for each image: which view, which mask
simmim = build(recipe("simmim", "smoke")).double()
masked_batch = simmim.prepare(Shapes("train", 32, 64).images(indices), keys)
masked_batch["view"] = masked_batch["view"].double()


def masked(network, batch, part):
    return network.loss({key: x[part] for key, x in batch.items()})[0]


print({n: f"below 1e-12: {difference(masked, simmim, masked_batch, n) < 1e-12}" for n in (2, 4, 16)})

# %% [markdown]
# The mean of gradients is the gradient of the mean, to the last digits, as long as every process holds as many images
# and masks as many patches.
#
# Now contrastive learning. In InfoNCE the other images of the batch are what an image is told apart from. Two views each of
# 128 images, and what MoCo v3 of the course says of them (its CLS tokens):

# %%
r = from_description(zoo.manifest()["shapes/mocov3"]["recipe"])
indices = torch.arange(128)
images = Shapes("train", 64, 128, difficulty="mild").images(indices)
views = build(r).prepare(images, random.combine(0, indices))
with torch.no_grad():
    features = {name: zoo.load("mocov3")(view).double() for name, view in views.items()}  # (128, 96) each

# %%
def contrast(queries, keys, first, temperature=0.2):
    """InfoNCE of queries (B, D) whose own keys begin at row `first` of all keys (K, D)."""
    queries, keys = (torch.nn.functional.normalize(x, dim=1) for x in (queries, keys))
    own = first + torch.arange(len(queries))
    return 2 * temperature * torch.nn.functional.cross_entropy(queries @ keys.T / temperature, own)


# %% [markdown]
# **Predict, then run.** A process that keeps to itself tells each image from the others *of its share*. With more GPUs and
# the same batch, does the task get harder or easier?

# %%
shares = [2, 4, 8, 16, 32, 64, 128]
q, k = (torch.nn.functional.normalize(x, dim=1) for x in features.values())
right = [torch.cat([(a @ b.T).argmax(1) == torch.arange(n) for a, b in zip(q.split(n), k.split(n))]) for n in shares]
figure, axis = plt.subplots(figsize=(5.5, 2.8))
axis.plot(shares, [x.double().mean() for x in right], "o-", color=plots.COLORS["mocov3"], label="MoCo v3's CLS")
axis.plot(shares, [1 / n for n in shares], ":", color="black", label="chance")
axis.set(xscale="log", xticks=shares, xlabel="images that a process compares (128 in all)", ylabel="share that find their key", ylim=(0, 1))
axis.set_xticklabels(shares), axis.minorticks_off(), axis.legend()
axis.set_title("The fewer images a GPU compares, the easier the task")
plots.show(figure, alt="Share of queries that find their key falls as a process compares more images, from 2 to 128; chance below.")

# %% [markdown]
# Easier, with every step to the left. A GPU that keeps to itself has an easier task the fewer images it holds, and InfoNCE
# learns from the hard ones. The same recipe on more GPUs would be another recipe.
#
# So MoCo v3 *gathers*: each process sends its keys to all others, and every query is compared with the keys of the
# whole batch. Keys carry no gradient, so nothing need come back. Each of the four functions below is the loss of one
# process, for a head on these CLS tokens: own keys, gathered keys; and then a head with batch normalisation, which MoCo
# v3 has, over its own share or over the whole batch.

# %%
def own_keys(head, batch, part):
    return contrast(head(batch["view1"][part]), head(batch["view2"][part]).detach(), 0)


def gathered_keys(head, batch, part):
    return contrast(head(batch["view1"][part]), head(batch["view2"]).detach(), part[0])


def own_statistics(head, batch, part):
    keys = torch.cat([head(share) for share in batch["view2"].split(len(part))]).detach()
    return contrast(head(batch["view1"][part]), keys, part[0])


def all_statistics(head, batch, part):
    keys = head(batch["view2"]).detach()
    return contrast(head(batch["view1"])[part], keys, part[0])


# %%
from lib.models.heads import mlp

torch.manual_seed(0)
linear, normed = torch.nn.Linear(96, 64).double(), mlp([96, 128, 64]).double()
cases = {"masked modelling": (masked, simmim, masked_batch, "simmim", "-"),
         "InfoNCE, own keys": (own_keys, linear, features, "mocov3", "--"),
         "InfoNCE, gathered": (gathered_keys, linear, features, "mocov3", "-"),
         "gathered, norm of a share": (own_statistics, normed, features, "dino", "--"),
         "gathered, norm of all": (all_statistics, normed, features, "dino", "-")}
processes = (2, 4, 8, 16)
gaps = {name: [difference(*case[:3], n) for n in processes] for name, case in cases.items()}

# %%
figure, axis = plt.subplots(figsize=(6.5, 3))
for size, (name, (*_, color, style)) in zip((11, 4, 7, 4, 3), cases.items()):
    axis.plot(processes, gaps[name], style, marker="o", ms=size, color=plots.COLORS[color], label=name)
axis.set(xscale="log", xticks=processes, xlabel="processes, one batch", ylabel="gradient's difference, share")
axis.set_xticklabels(processes), axis.minorticks_off()
figure.suptitle("Mean of the parts' gradients against that of the whole batch: three lines lie on 0", fontsize=10)
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(figure, alt="Difference of gradients by processes: zero for masked modelling and gathered keys, large with own keys or norms.")

# %%
for name, gap in gaps.items():
    print(f"{name:<26}", "none, to 1e-12" if max(gap) < 1e-12 else f"2 processes ≈ {gap[0]:.2f}, 16 processes ≈ {gap[-1]:.2f}")

# %% [markdown]
# Masked modelling needs nothing but the mean. InfoNCE with own keys follows another gradient, because it is another loss;
# gathered keys repair that to the last digits. Batch normalisation breaks it once more, and here by more than the keys did:
# statistics of a share are not those of the whole. This is why MoCo v3 both gathers its keys and synchronises its batch
# norms, and why the library refuses `--accumulate` for it: images taken in parts, one after the other, are parts all the
# same.
#
# In the library this is `lib/distributed.py`: `gather` and `BatchNorm`, each a few lines. Its tests train with one process
# and with two, and compare. Whatever the number of processes, `--batch-size` is the size of the whole batch, and images,
# views and masks are keyed by step and image and not by process. The commands:

# %%
from lib.training.recipes import command

for objective in ("mocov3", "simmim", "mae"):
    print("torchrun --nproc-per-node 8 -m", command(recipe(objective, "paper")).removeprefix("python -m "))

# %% [markdown]
# ## 7. Throughput: measure, then multiply
#
# Three rules for a number of images a second. *Warm up*: the first steps allocate and compile. *Wait*: a GPU works while
# Python goes on, so read the clock after `torch.cuda.synchronize()`. *Say what is in it*: decoding, views, forward,
# backward, optimiser.
#
# And set it beside what the machine can do. **Model-FLOP utilisation** (MFU) is the FLOP that the formula of section 5
# asks for, a second, divided by the machine's rate of plain matrix products. (The literature often divides by the data
# sheet's rate, which no product reaches, and finds less.) Measure both in one go. Below, the course's SimMIM on a CPU,
# in seconds of processor time (of all cores together), so that other programs do not count.

# %%
import time


def seconds(work, *arguments, repeats=3):
    """The shortest of some runs, after one to warm up."""
    work(*arguments)
    found = []
    for _ in range(repeats):
        began = time.process_time()
        work(*arguments)
        found.append(time.process_time() - began)
    return min(found)


def forward_and_backward(objective, batch):
    objective.loss(batch)[0].backward()


# %%
r = from_description(zoo.manifest()["shapes/simmim"]["recipe"])
step = build(r)
matrix = torch.randn(1024, 1024)
peak = 2 * 1024**3 / seconds(torch.mm, matrix, matrix)  # FLOP a second
sizes, rates = (1, 2, 4, 8, 16), []
for size in sizes:
    batch = step.prepare(images[:size], random.combine(0, torch.arange(size)))
    rates.append(size / seconds(forward_and_backward, step, batch, repeats=2))

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.6))
axes[0].plot(sizes, rates, "o-", color=plots.COLORS["simmim"])
axes[1].plot(sizes, [rate * image_flops(r) / peak for rate in rates], "o-", color=plots.COLORS["simmim"])
for axis, label in zip(axes, ("images a second", "MFU")):
    axis.set(xlabel="batch size", ylabel=label, ylim=(0, None), xscale="log", xticks=sizes)
    axis.set_xticklabels(sizes), axis.minorticks_off()
figure.suptitle("SimMIM of 1.4 M weights at 64 px, forward and backward, on one CPU core", fontsize=10)
plots.show(figure, alt="Images a second and the share of the machine's matrix rate that is used, for batches of 1 to 16 images.")

# %% [markdown]
# Your curves will differ from these: other processors, other programs. The left panel is what a progress bar shows. The
# right one says how much better it could be: at 1 the machine would do nothing but the products of the formula. What is
# missing goes into norms, softmax, copies, and Python, which takes the same time for a small batch as for a large one.
#
# For a GPU there is one command. It measures all objectives with views, eager and compiled, with peak memory beside the dry
# run's estimate, and utilisation against the device's own matrix rate:
#
# ```bash
# python tests/benchmarks/training.py --model vit_base --out results.json
# ```
#
# No number of a GPU stands here, since this page was made without one. From a number of images a second, though, time
# follows by arithmetic. Three made-up ones:

# %%
def days(r, rate, gpus=1, images=1_281_167):
    """Images a second of one GPU -> days for a recipe, if all GPUs are kept busy."""
    return images * r.epochs / (rate * gpus) / 86_400


for rate in (500, 1_000, 4_000):
    print(f"{rate:,} images/s a GPU, 8 GPUs: " + ", ".join(
        f"{name} {days(recipe(name, 'paper'), rate, 8):.1f} days" for name in ("mocov3", "simmim", "mae")))

# %% [markdown]
# At equal images a second SimMIM takes 800 / 300 as long as MoCo v3. At equal FLOP a second it takes as long. Both are the
# same fact: an image of MoCo v3 costs 8 passes, an image of SimMIM 3. So compare images a second *within* one objective,
# and utilisation between two.
#
# ## Exercises
#
# Write your answer where it says `raise NotImplementedError`, run the cell, read what the check says.

# %%
from lib.exercises import chapter12

# %% [markdown]
# ### Exercise 1 · ★☆☆ · 5 minutes
#
# Write `misfits(wanted, given)`. Both are dicts from the name of a weight to its shape, a tuple: what a network needs, and
# what a file holds. Return the sorted list of all names that are missing in the file, left over in it, or of another shape.
#
# *Hint:* `wanted.keys() | given.keys()`, and what `dict.get` gives for a name that is not there.
#
# <details><summary>Solution</summary>
#
# ```python
# def misfits(wanted, given):
#     return sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
# ```
#
# </details>

# %%
def misfits(wanted, given):
    raise NotImplementedError


chapter12.check_misfits(misfits);

# %% [markdown]
# ### Exercise 2 · ★★☆ · 10 minutes
#
# Write `vit_parameters(dim, depth, patch, patches)`: how many weights timm's ViT has, without a classifier. That is: a
# projection of patches of patch × patch pixels in three colours, a CLS token, a learned position for every token, `depth`
# blocks, and a last norm. A block has two norms, queries, keys and values, a projection, and an MLP of two layers that is 4
# × `dim` wide inside. Every linear layer and every norm has biases.
#
# *Hint:* a block has 12 dim² + 13 dim. Why?
#
# <details><summary>Solution</summary>
#
# ```python
# def vit_parameters(dim, depth, patch, patches):
#     linear = 3 * dim * dim + dim * dim + 8 * dim * dim             # qkv, projection, two layers of the MLP
#     biases = 3 * dim + dim + (4 * dim + dim)
#     block = linear + biases + 2 * (2 * dim)                        # a norm has scale and shift
#     stem = 3 * patch**2 * dim + dim + dim + (1 + patches) * dim    # projection and bias, CLS, positions
#     return stem + depth * block + 2 * dim
# ```
#
# For ViT-B/16 at 224 pixels it gives 85,798,656, the 85.8 M of section 1.
# </details>

# %%
def vit_parameters(dim, depth, patch, patches):
    raise NotImplementedError


chapter12.check_vit_parameters(vit_parameters);

# %% [markdown]
# ### Exercise 3 · ★★☆ · 10 minutes
#
# You are process `rank` of several. Write `gathered_info_nce(queries, keys, rank, temperature)`: your queries (B, D), the
# keys of all processes (processes · B, D) in the order of their ranks → the mean cross-entropy of finding each query's own
# key by cosine, a number. (No factor in front.)
#
# *Hint:* the key of your query 0 is not key 0.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
# import torch.nn.functional as F
#
# def gathered_info_nce(queries, keys, rank, temperature):
#     logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature   # (B, processes B)
#     own = rank * len(queries) + torch.arange(len(queries))
#     return F.cross_entropy(logits, own)
# ```
#
# </details>

# %%
def gathered_info_nce(queries, keys, rank, temperature):
    raise NotImplementedError


chapter12.check_gathered_info_nce(gathered_info_nce);

# %% [markdown]
# ### Exercise 4 · ★★★ · 15 minutes
#
# Batch normalisation over the whole batch needs its mean and variance, and each process has only its own images. Write
# `whole_variance(counts, means, variances)`: for P processes, how many images each has (P,), the mean of each channel over
# them (P, D), and their variance (P, D), which divides by the count → the variance over all images, (D,). Counts may
# differ.
#
# *Hint:* the mean of variances is not enough. What of two processes with no variance each, and different means?
#
# <details><summary>Solution</summary>
#
# ```python
# def whole_variance(counts, means, variances):
#     shares = (counts / counts.sum())[:, None]                      # (P, 1)
#     mean = (shares * means).sum(0)                                 # (D,)
#     return (shares * (variances + (means - mean) ** 2)).sum(0)     # within processes, and between them
# ```
#
# </details>

# %%
def whole_variance(counts, means, variances):
    raise NotImplementedError


chapter12.check_whole_variance(whole_variance);

# %% [markdown]
# ## What to take away
#
# - Weights that load are not yet right: heads show in no shape, and `strict=False` loads nothing without a word. A wrong
#   head count may cost nothing that you would notice, and shifts distance and NMI.
# - Any ViT of timm gives all curves in three lines, an untrained one of the same size too. Draw both: the published
#   attention of MoCo v3 ends, by distance and NMI, where an untrained ViT-B stands.
# - A forward pass takes $2LN(12D^2 + 2ND)$ FLOP, a backward pass twice that; a recipe's cost is its passes times its
#   epochs. 300 epochs of MoCo v3 cost what 800 of SimMIM do.
# - Activations take the memory, not weights.
# - DDP averages gradients. That is enough where an image's loss is its own; InfoNCE needs the keys of all, and batch norm
#   the statistics of all.
# - Images a second say nothing without model, size and device. Utilisation does, beside the same machine's matrix rate.
#
# **Limits.** No official weights were on the disk as this page was made, so no curve of a trained ViT-B here is our own.
# The untrained ViT-B saw eight squares of two photographs. FLOP count matrix products alone, and hours rest on an assumed
# utilisation. Published numbers were read off figures.
#
# **References.** Park et al. 2023, *What Do Self-Supervised Vision Transformers Learn?*, sections 2, 3 and 5, and the code
# published with it. Chen, Xie and He 2021 (MoCo v3), Xie et al. 2022 (SimMIM), He et al. 2022 (MAE), Caron et al. 2021
# (DINO), Touvron et al. 2021 (DeiT), Bao et al. 2022 (BEiT), Steiner et al. 2022 (AugReg), for weights and recipes. Li et
# al. 2020, *PyTorch Distributed*, for DDP.
