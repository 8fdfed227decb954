"""The claims of Raghu et al. 2021, "Do Vision Transformers See Like Convolutional Neural Networks?", a row each.

The paper's networks are supervised: here the supervised ViT, the same with pooled tokens (GAP in the paper) or fewer images,
and the ResNet and the Mixer that were trained on the same images. Shares of them stand in for the paper's private ones
(JFT-300M).
"""
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lib.analysis.attention import AttentionStatistics, patch_distances
from lib.analysis.claims.claim import BOTH, Claim
from lib.analysis.claims.intervals import apart, average, jackknife, over_images, over_seeds, resampled
from lib.analysis.claims.lab import Images, Lab, cka, gram_rows, label
from lib.analysis.claims.verdict import Check
from lib.analysis.head_subsets import head_subset_similarity
from lib.analysis.localization import localization
from lib.analysis.receptive_field import centre_of_mass, radius, receptive_fields
from lib.analysis.residual import NormRatios, resnet_norm_ratios, without_skip
from lib.analysis.residual import apart as cls_and_patches
from lib.analysis.similarity import Representations
from lib.data import Loaded, Shapes
from lib.evaluation.finetune import RECIPES, finetune
from lib.models import resnet
from lib.models.vit import create, init_xavier

PAPER = "Raghu et al. 2021"


def blocks(lab: Lab, name: str) -> Tensor:
    """Gram matrices of the ends of all blocks, and of a ViT's halves: (minibatches, blocks, BATCH^2)."""
    names, rows = lab.layers(name)
    return rows[:, [i for i, n in enumerate(names) if "." not in n or n.endswith(".attention") or n.startswith("stage")]]


def all_pairs(first: Tensor, second: Tensor) -> Tensor:
    """CKA of every layer of the first with every one of the second: (minibatches, L, n) and (minibatches, M, n) -> (L, M)."""
    return cka(first[:, :, None], second[:, None])


def ends_alike(rows: Tensor) -> Tensor:
    """Mean CKA of the first third of layers with the last third."""
    k = rows.shape[1] // 3
    return all_pairs(rows[:, :k], rows[:, -k:]).mean()


def uniform(lab: Lab, vit: str, cnn: str) -> Iterator[Check]:
    b, a = blocks(lab, cnn), blocks(lab, vit)                      # the CNN first, which may be missing
    yield Check(f"first and last third are more alike in the {label(vit)} ViT than in the {label(cnn)}",
                *jackknife(lambda x, y: ends_alike(x) - ends_alike(y), a, b), "CKA")


def best_match(cnn: Tensor, vit: Tensor, part: slice) -> float:
    """Relative depth in the ViT, 0 to 1, of the layers most like a part of the CNN's: mean over them."""
    found = all_pairs(cnn[:, part], vit)
    return (found.argmax(1).double() / (vit.shape[1] - 1)).mean().item()


def correspondence(lab: Lab, vit: str, cnn: str) -> Iterator[Check]:
    b, a = blocks(lab, cnn), blocks(lab, vit)                      # the CNN first, which may be missing
    half, third = b.shape[1] // 2, a.shape[1] // 3
    low = resampled(lambda x, y: 0.25 - best_match(y, x, slice(half)), a, b, draws=300)
    yield Check(f"the lower half of the {label(cnn)} is most like the lowest quarter of the ViT", *low, "depth")
    order = resampled(lambda x, y: best_match(y, x, slice(half, None)) - best_match(y, x, slice(half)), a, b, draws=300)
    yield Check("its upper half is like later layers of the ViT than its lower half", *order, "depth")
    last = jackknife(lambda x, y: all_pairs(x[:, :-third], y).amax(1).mean() - all_pairs(x[:, -third:], y).amax(1).mean(), a, b)
    yield Check(f"the last third of the ViT is less like any layer of the {label(cnn)} than the rest is", *last, "CKA")


def ends(lab: Lab, name: str) -> Tensor:
    """Gram matrices of the embedding, or stem, and of the ends of all blocks, without a ViT's halves."""
    names, rows = lab.layers(name)
    return rows[:, [i for i, n in enumerate(names) if "." not in n or n.startswith("stage")]]


def between(lab: Lab, mixer: str, vit: str, cnn: str) -> Iterator[Check]:
    """Of the ViT as many layers as the CNN has, evenly spaced: among more there is a better match by chance alone. Best matches
    and not all pairs, whose mean is high for any network that is alike throughout (raghu-1)."""
    m, b, a = (ends(lab, name) for name in (mixer, cnn, vit))      # the first two may be missing
    a = a[:, torch.linspace(0, a.shape[1] - 1, b.shape[1]).round().long()]
    yield Check(f"layers of the {label(mixer)} find their like in the {label(vit)} more than in the {label(cnn)}",
                *jackknife(lambda x, y, z: (all_pairs(x, y).amax(1) - all_pairs(x, z).amax(1)).mean(), m, a, b), "CKA")


def head_spread(lab: Lab, vit: str) -> Iterator[Check]:
    distance = lab.recorded(vit, AttentionStatistics)["distance"].double()                       # (images, blocks, heads)
    layout = patch_distances((8, 8), (8, 8)).mean().item()

    def spread(x: Tensor) -> Tensor:
        heads = x.mean(0)                                          # (blocks, heads)
        wide = heads.amax(1) - heads.amin(1)
        return wide[:2].mean() - wide[-2:].mean()

    yield Check("heads of blocks 1 and 2 differ more in distance than those of the last two", *resampled(spread, distance),
                "px")
    most = resampled(lambda x: x.mean(0)[-2:].amin() - 0.75 * layout, distance)
    yield Check("the most local head of the last two blocks reaches three quarters of the uniform distance", *most, "px")
    least = resampled(lambda x: 0.75 * layout - x.mean(0)[:2].amin(), distance)
    yield Check("the most local head of the first two does not", *least, "px")


def local_heads(lab: Lab, vit: str, cnn: str) -> Iterator[Check]:
    network, other = lab.network(vit), lab.network(cnn)
    source = lab.source()
    shown = {name: module for name, module in resnet.stages(other).items() if name in ("stage1.1", "stage1.2", "stage2.1")}
    slopes = []
    for some in torch.arange(len(source)).split(len(source) // 8):
        part = Images(source, some)
        found = head_subset_similarity(network, Representations(other, part, shown), size=2, batch_size=len(part))
        slopes.append(found.values[0].mean() - found.values[-1].mean())
    yield Check(f"the two most local heads of block 1 are more like early {label(cnn)} layers than the two most global",
                *over_seeds([(s.item(),) * 3 for s in slopes]), "CKA")


def seen(values: Tensor) -> tuple[float, float, float]:
    """Over the images in which both units see anything: a unit behind a ReLU may be silent, and then has no radius."""
    return over_images(values[values.isfinite()])


def early_fields(lab: Lab, vit: str, cnn: str) -> Iterator[Check]:
    images = lab.source().images(torch.arange(16))
    parts = ["block1.attention", *(f"block{k}.{step}" for k in (3, 6, 9) for step in ("attention", "proj"))]
    fields = receptive_fields(lab.network(vit), images, parts, channels=4)
    gap = sum(fields[f"block{k}.attention"].own_share - fields[f"block{k}.proj"].own_share for k in (3, 6, 9)) / 3
    yield Check("the centre holds more of the field after the skip connection than before it", *over_images(gap), "share")
    modules = {name: module for name, module in resnet.stages(lab.network(cnn)).items() if name.endswith(".2")}
    fields |= receptive_fields(lab.network(cnn), images, modules=modules, channels=16)
    size = {name: radius(field.fields, centre_of_mass(field.fields)) for name, field in fields.items()}
    yield Check(f"the ViT's first block sees wider than the {label(cnn)}'s first stage",
                *seen(size["block1.attention"] - size["stage1.2"]), "px")
    yield Check(f"the {label(cnn)}'s fields grow from stage 1 to 2", *seen(size["stage2.2"] - size["stage1.2"]), "px")
    yield Check(f"the {label(cnn)}'s fields grow from stage 2 to 4", *seen(size["stage4.2"] - size["stage2.2"]), "px")


def norm_ratios(lab: Lab, vit: str, cnn: str) -> Iterator[Check]:
    found = lab.recorded(vit, NormRatios)
    logs = [found[f"{half}_norm_ratio"].double().log() for half in ("attention", "mlp")]         # (images, blocks, N)
    cls, patches = (sum(parts) / 2 for parts in zip(*(cls_and_patches(x, 1) for x in logs), strict=True))
    gap = cls - patches                                            # (images, blocks)
    yield Check("blocks 1 to 6: the skip carries more of CLS than of patches", *over_images(gap[:, :6].mean(1)), "ln")
    yield Check("blocks 7 to 12: the skip carries more of patches than of CLS", *over_images(-gap[:, 6:].mean(1)), "ln")
    ratios = resnet_norm_ratios(lab.network(cnn), lab.source().images(torch.arange(len(patches))))
    convolution = torch.stack([x.double().clamp(min=1e-6).log().mean(1) for x in ratios.values()]).mean(0)
    yield Check(f"the skip carries more in the ViT than in the {label(cnn)}", *over_images(patches.mean(1) - convolution), "ln")


def without_middle(lab: Lab) -> Iterator[Check]:
    """Eight seeds of a small ViT on easy shapes, with all skips and without those of block 2 of 3, trained on labels."""
    train, val = (Loaded(Shapes(split, 32, n, "easy")) for split, n in (("train", 1500), ("val", 512)))
    r = replace(RECIPES["course"], epochs=8, layer_decay=1.0, drop_path=0.0)
    lost, alike = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        whole = init_xavier(create("vit_nano", image_size=32, patch_size=8))
        right, like = [], []
        for network in (whole, without_skip(whole, 2)):
            tuned = finetune(network, train, val, r, "cls", seed, "cpu")
            right.append((tuned.predictions == val.all_labels).double())
            like.append(gram_rows(Representations(tuned.network, val), ("block1", "block2")))
        lost.append(over_images(right[0] - right[1]))
        alike.append(jackknife(lambda a, b: cka(a[:, 0], a[:, 1]) - cka(b[:, 0], b[:, 1]), *like))
    yield Check("CKA of what enters and leaves block 2 is lower without its skips", *over_seeds(alike), "CKA")
    yield Check("accuracy is lower without them", *over_seeds(lost), "accuracy")


def contrasts(lab: Lab, name: str, part: str) -> list[float]:
    """Localization of the tokens after a part, `own` less `others`, in eight parts of the images."""
    network, source, found = lab.network(name), lab.source(images=2 * lab.images), []
    where = dict(parts=[part]) if hasattr(network, "blocks") else dict(modules={part: resnet.stages(network)[part]})
    for some in torch.arange(len(source)).split(len(source) // 8):
        found.append(localization(network, Images(source, some), batch_size=len(some), **where)[part].summary()["contrast"])
    return found


def localized(lab: Lab, vit: str, cnn: str, pooled: str) -> Iterator[Check]:
    mine = contrasts(lab, vit, "block12")
    yield Check("tokens of the last block are told by their own place more than by others",
                *over_seeds([(c, c, c) for c in mine]), "CKA")
    for other, where, words in ((cnn, "stage4.2", f"the places of the {label(cnn)}'s last stage"),
                                (pooled, "block12", f"those of the {label(pooled)}")):
        theirs = contrasts(lab, other, where)
        yield Check(f"more than {words}", *over_seeds([(a - b,) * 3 for a, b in zip(mine, theirs, strict=True)]), "CKA")


def single_tokens(lab: Lab, pooled: str, vit: str, cnn: str) -> Iterator[Check]:
    a, b, c = (lab.tokens_right(name)[1:].double().mean(0) for name in (pooled, vit, cnn))       # (images,) each
    yield Check(f"one token at the end of the {label(pooled)} tells the class as well as a place of the {label(cnn)}, to five "
                "points", *over_images(a - c), "accuracy", -0.05)
    yield Check(f"and better than a token of the {label(vit)} ViT, by ten points", *over_images(a - b), "accuracy", 0.1)


def first_token(lab: Lab, pooled: str) -> Iterator[Check]:
    """The first patch against the mean of all."""
    late, early = (lab.tokens_right(pooled, depth).double() for depth in (12, 3))                # (1 + tokens, images) each
    yield Check("after block 12, the first patch is as good as all together, to five points", *over_images(late[1] - late[0]),
                "accuracy", -0.05)
    yield Check("after block 3 it is ten points behind", *over_images(early[0] - early[1]), "accuracy", 0.1)


def fewer_local(lab: Lab, full: str, *less: str) -> Iterator[Check]:
    whole, *others = (lab.recorded(name, AttentionStatistics)["distance"][:, 0].double() for name in (full, *less))
    near = 0.75 * patch_distances((8, 8), (8, 8)).mean().item()
    least = resampled(lambda x: near - x.mean(0).amin(), whole)
    yield Check("with all images, the most local head of block 1 stays below three quarters of the uniform distance", *least,
                "px")
    for name, other in zip(less, others, strict=True):
        gap = resampled(lambda x, y: y.mean(0).amin() - x.mean(0).amin(), whole, other)
        yield Check(f"the most local head of block 1 looks further with {label(name)}", *gap, "px")


def low_layers_first(lab: Lab, full: str, *less: str) -> Iterator[Check]:
    whole, *others = (blocks(lab, name)[:, 1:] for name in (full, *less))          # without the embedding: 24 halves of blocks
    third = whole.shape[1] // 3
    for name, other in zip(less, others, strict=True):
        gap = jackknife(lambda x, y: (cka(x[:, :third], y[:, :third]) - cka(x[:, -third:], y[:, -third:])).mean(), whole,
                        other)
        yield Check(f"{label(name)}: the lower third is more like that of all images than the upper third", *gap, "CKA")


def data_in_the_middle(lab: Lab, full: str, less: str) -> Iterator[Check]:
    a, b = (lab.depths(name, "cls", "linear") for name in (full, less))
    early, middle, late = (average([apart(a[k], b[k]) for k in part]) for part in (range(1, 4), range(5, 9), range(10, 13)))
    yield Check(f"blocks 5 to 8 know the class better with all images than with {label(less)}", *middle, "accuracy")
    yield Check("by more than blocks 1 to 3", *apart(middle, early), "accuracy")
    yield Check("and by more than blocks 10 to 12", *apart(middle, late), "accuracy")


def cls_or_mean(lab: Lab, vit: str) -> Iterator[Check]:
    cls, mean = (lab.depths(vit, pooling, "linear") for pooling in ("cls", "mean"))
    gaps = {k: apart(cls[k], mean[k]) for k in cls}
    yield Check("in the last block, CLS is ahead of the pooled patches", *gaps[12], "accuracy")
    middle = average([gaps[k] for k in range(5, 9)])
    yield Check("by more than in blocks 5 to 8", *apart(gaps[12], middle), "accuracy")


def kept_when_tuned(lab: Lab, name: str) -> Iterator[Check]:
    (names, before), (_, after) = lab.layers(name), lab.layers(name, tuned=True)
    ends = [names.index(f"block{k}") for k in range(1, 13)]
    change = jackknife(lambda a, b: cka(a[:, ends[:4]], b[:, ends[:4]]).mean() - cka(a[:, ends[-4:]], b[:, ends[-4:]]).mean(),
                       before, after)
    yield Check("blocks 1 to 4 stay more as they were than blocks 9 to 12", *change, "CKA")


JFT = "shares of the images of one world, all trained for as many steps, instead of JFT-300M, which is private, and ImageNet"
LESS = ("supervised-data10", "supervised-data3")
LARGE = "ViT-B/32 to H/14 and ResNet-50 to 152x2, pre-trained on JFT-300M or ImageNet-21k"
VIT, CNN, POOLED = "supervised", "resnet", "supervised-mean"

CLAIMS = [
    Claim("raghu-1", PAPER, "1", "ViT's layers are alike throughout, a ResNet's fall into stages",
          "CKA of the first and last third",
          "ViT far above ResNet", LARGE, uniform, (VIT, CNN), ("untrained", CNN), worlds=BOTH),
    Claim("raghu-2", PAPER, "2", "the lower half of a ResNet corresponds to the lowest quarter of a ViT", "CKA of all pairs",
          "lower half to the lowest quarter, upper half to the next third, the last third of the ViT unlike any layer", LARGE,
          correspondence, (VIT, CNN), ("untrained", CNN), tuple((name, CNN) for name in ("mocov3", "dino", "simmim", "mae")),
          worlds=BOTH),
    Claim("raghu-3", PAPER, "3", "early blocks have local and global heads, late ones only global heads",
          "attention distance by head",
          "distances spread in the first two blocks, all long in the last two", LARGE, head_spread, (VIT,), ("untrained",),
          worlds=BOTH),
    Claim("raghu-4", PAPER, "4", "with little data, early blocks learn no local heads", "least distance in the lowest block",
          "rises for L/16 and H/14 trained on ImageNet alone; B/32 stays local", LARGE, fewer_local, (VIT, *LESS),
          ("untrained", *LESS), stand_in=JFT),
    Claim("raghu-5", PAPER, "5", "local heads compute what early ResNet layers do",
          "CKA of heads by distance with early stages",
          "falls as heads get more global", LARGE, local_heads, (VIT, CNN), ("untrained", CNN), worlds=BOTH),
    Claim("raghu-6", PAPER, "6", "ViT sees wide from the start, a ResNet widens step by step", "effective receptive fields",
          "ViT's early fields wider than ResNet's; the centre is the skip connection's doing", LARGE, early_fields, (VIT, CNN),
          worlds=BOTH),
    Claim("raghu-7", PAPER, "7", "skip connections pass CLS first, patches later, and more than in a ResNet", "norm ratios",
          "CLS above patches in the first half, below in the second; ViT above ResNet-50", LARGE, norm_ratios, (VIT, CNN),
          ("untrained", CNN), worlds=BOTH),
    Claim("raghu-8", PAPER, "8", "without a block's skips, its output no longer resembles its input",
          "CKA before and after; accuracy",
          "CKA collapses, and 4 points of accuracy are lost in the middle",
          "12 blocks, trained anew on ImageNet for each block",
          without_middle, stand_in="three blocks on easy shapes, eight seeds"),
    Claim("raghu-9", PAPER, "9", "tokens of a ViT's last block still stand for their place", "localization by CKA",
          "ViT with CLS above ResNet-50 and above a ViT with pooled tokens", LARGE, localized, (VIT, CNN, POOLED),
          ("untrained", CNN, POOLED), worlds=BOTH),
    Claim("raghu-10", PAPER, "11", "single tokens of pooled ViTs know the class, those of CLS models do not",
          "probe of one token",
          "pooled ViT at or above ResNet, far above CLS models", LARGE, single_tokens, (POOLED, VIT, CNN),
          ("untrained", VIT, CNN), worlds=BOTH),
    Claim("raghu-11", PAPER, "11", "in a pooled ViT the first token ends as good as all of them", "probes by block",
          "equal in the last layer, far worse early", LARGE, first_token, (POOLED,), ("untrained",), worlds=BOTH),
    Claim("raghu-12", PAPER, "11", "in a CLS model, pooled patches keep up until the last layers", "probes by block",
          "equal until late, then CLS ahead", LARGE, cls_or_mean, (VIT,), ("untrained",), worlds=BOTH),
    Claim("raghu-13", PAPER, "12", "a tenth of the data teaches the low layers, not the high ones",
          "CKA with the full-data model",
          "low layers alike at 3 to 10 %, high ones not", LARGE, low_layers_first, (VIT, *LESS), ("untrained", *LESS),
          stand_in=JFT),
    Claim("raghu-14", PAPER, "13", "more pre-training data helps the middle layers most", "probes by block",
          "30 points between JFT and ImageNet for L/16 and H/14", LARGE, data_in_the_middle, (VIT, LESS[0]), stand_in=JFT),
    Claim("raghu-15", PAPER, "G.1", "fine-tuning leaves the first blocks as they were", "CKA before and after fine-tuning",
          "the first four or five blocks preserved", "seven downstream tasks from ImageNet-21k", kept_when_tuned, ("mae",),
          ("untrained",), worlds=BOTH, stand_in="MAE instead of a supervised ViT, fine-tuned on 500 labels of its own world"),
    Claim("raghu-16", PAPER, "H.2", "an MLP-Mixer is more like a ViT than like a ResNet", "CKA of all pairs",
          "closer to the ViT", "Mixer-L/16, ViT-L/16 and ResNet-50, trained alike", between, ("mixer", POOLED, CNN),
          ("untrained-mixer", "untrained", "untrained-resnet"), (("mixer", VIT, CNN),), worlds=BOTH,
          stand_in="a ViT that is read by the mean, as the other two are; on shapes the CNN had a quarter of their epochs"),
]
