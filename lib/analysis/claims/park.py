"""The claims of Park et al. 2023, "What Do Self-Supervised Vision Transformers Learn?", one for each row of our list.

CL is contrastive learning (MoCo v3), MIM masked image modelling (SimMIM). Blocks count from 1; "early" is the first half of
them, "late" the second, as in chapter 05.
"""
from collections.abc import Iterator

import torch
from torch import Tensor

from lib.analysis.attention import AttentionStatistics, DepthSimilarity, MapSimilarity, TokenSimilarity
from lib.analysis.claims.claim import BOTH, Claim
from lib.analysis.claims.intervals import Interval, apart, average, jackknife, over_images
from lib.analysis.claims.lab import Lab, label
from lib.analysis.claims.verdict import Check, NotMeasured
from lib.analysis.fourier import Frequencies, log_amplitude
from lib.analysis.recording import PerImage
from lib.analysis.spectra import TokenSpectrum, token_spectrum
from lib.analysis.tokens import Unison, neighbour_purity, patch_tokens
from lib.data.views import normalize
from lib.models import zoo
from lib.models.decoder import MAEDecoder

PAPER = "Park et al. 2023"
MOCO, SIMMIM = "mocov3", "simmim"


def halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values of all blocks (images, blocks) -> their means over the first and the second half: (images,) each."""
    k = values.shape[1] // 2
    return values[:, :k].mean(1), values[:, k:].mean(1)


def heads_mean(lab: Lab, name: str, quantity: str) -> Tensor:
    """Of `AttentionStatistics`, mean over heads: (images, blocks)."""
    return lab.recorded(name, AttentionStatistics)[quantity].double().mean(2)


def attention_distance(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    a, b = (heads_mean(lab, name, "distance") for name in (cl, mim))
    early, late = halves(a - b)
    yield Check(f"late, {label(cl)} looks further than {label(mim)}", *over_images(late), "px")
    yield Check("the gap is wider late than early", *over_images(late - early), "px")
    yield Check(f"{label(cl)}'s distance rises from block 8 to 12", *over_images(a[:, 11] - a[:, 7]), "px")


def collapse(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    a, b = (heads_mean(lab, name, "nmi") for name in (cl, mim))
    yield Check(f"late, the NMI of {label(mim)} is above that of {label(cl)}", *over_images(halves(b - a)[1]))
    yield Check(f"the NMI of {label(cl)} in blocks 11 and 12 is below .03, by", *over_images(0.03 - a[:, 10:].mean(1)))
    yield Check(f"the NMI of {label(cl)} falls from block 3 to 12, by", *over_images(a[:, 2] - a[:, 11]))


def diversity(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    for what, metric, key in (("maps of the heads", MapSimilarity, "map_similarity"),
                              ("tokens", TokenSimilarity, "token_similarity"), ("depths", DepthSimilarity, "block_similarity")):
        a, b = (lab.recorded(name, metric)[key].double()[:, -12:] for name in (cl, mim))
        yield Check(f"late, {what} of {label(cl)} are more alike than those of {label(mim)}", *over_images(halves(a - b)[1]),
                    "cosine")


class MeanTokens(PerImage):
    """"means" (images, 1 + 2 blocks, D): the mean patch token at depths 0, 0.5, 1, ..."""
    reads = "halves"

    def measure(self, depth: float, tokens: Tensor) -> dict[str, Tensor]:
        return {"means": tokens[:, self.layout.prefix:].double().mean(1)}


def added_by_attention(values: Tensor) -> Tensor:
    """ln variance at depths 0, 0.5, ..., 12 on the last axis -> what attention adds to it, mean over the last six blocks."""
    return (values[..., 1::2] - values[..., :-1:2])[..., -6:].mean(-1)


def image_level(means: Tensor) -> Tensor:
    """The same of the images' mean tokens (images, 25, D), over the first 63 ranks: a number."""
    return added_by_attention(token_spectrum(means.transpose(0, 1))[:, :63].mean(1))


def in_unison(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    unison, spectrum, means = ([lab.recorded(name, metric)[key] for name in (cl, mim)] for metric, key in (
        (Unison, "attention_unison"), (TokenSpectrum, "token_spectrum"), (MeanTokens, "means")))
    late = (unison[0] - unison[1])[:, 6:].mean(1)
    yield Check(f"attention moves tokens more in unison in {label(cl)} than in {label(mim)}, blocks 7 to 12",
                *over_images(late))
    token = [added_by_attention(s.mean(2)) for s in spectrum]
    yield Check(f"it adds less variance between tokens in {label(cl)}", *over_images(token[1] - token[0]), "ln")
    gain = jackknife(lambda a, b: image_level(a) - image_level(b), *means)
    yield Check(f"it adds more variance between images in {label(cl)}", *gain, "ln")


def frequencies(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    a, b = (lab.recorded(name, Frequencies)["delta_log_amplitude"].double() for name in (cl, mim))     # (images, 13)
    depth = 1 + int((b - a)[:, 1:].mean(0).argmin())               # depth 0 is the patch embedding, before any block
    yield Check(f"{label(mim)} has more high frequencies after every block, the smallest lead after block {depth}",
                *over_images((b - a)[:, depth]), "ln")
    yield Check(f"the high frequencies of {label(cl)} rise from depth 1 to 10", *over_images(a[:, 10] - a[:, 1]), "ln")
    yield Check(f"the high frequencies of {label(mim)} fall from depth 11 to 12", *over_images(b[:, 11] - b[:, 12]), "ln")


def shape_bias(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    a, b = (lab.report(name, "shape-bias") for name in (cl, mim))
    yield Check(f"shape bias of {label(cl)} above that of {label(mim)}",
                *apart(*((x["shape_bias"], *x["interval"]) for x in (a, b))))


def noise(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    drops = [average([(band["drop"], *band["drop_interval"]) for band in lab.report(name, "noise")["bands"][-3:]])
             for name in (cl, mim)]
    yield Check(f"noise in the three highest bands costs {label(mim)} more than {label(cl)}", *apart(drops[1], drops[0]),
                "accuracy")


def own_depths(lab: Lab, name: str) -> dict[int, Interval]:
    """Linear probe by depth, on the features that the objective is evaluated on."""
    return lab.depths(name, "cls" if name == "untrained" else lab.recipe(name).pooling, "linear")


def late_and_early(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    a, b = own_depths(lab, cl), own_depths(lab, mim)
    early, late = ([average([x[k] for k in blocks]) for x in (a, b)] for blocks in (range(1, 8), range(8, 13)))
    yield Check(f"{label(mim)} is ahead in blocks 1 to 7", *apart(early[1], early[0]), "accuracy")
    yield Check(f"{label(cl)} is ahead in blocks 8 to 12", *apart(late[0], late[1]), "accuracy")
    peak = max(b, key=lambda k: b[k][0])
    yield Check(f"{label(mim)} falls by 10 points from its best block, {peak}, to its last", *apart(b[peak], b[12]), "accuracy",
                0.1)
    yield Check(f"{label(cl)} still rises from block 8 to 12", *apart(a[12], a[8]), "accuracy")


def decoder(lab: Lab, mae: str, mim: str) -> Iterator[Check]:
    images, backbone = lab.source().images(torch.arange(64)), lab.network(mae)
    tensors = zoo.weights(lab.of_seed(mae), lab.world)
    weights = {k.removeprefix("decoder."): w for k, w in tensors.items() if k.startswith("decoder.")}
    r, patches = lab.recipe(mae), tuple(backbone.patch_embed.grid_size)
    head = MAEDecoder(patches, r.patch_size, backbone.embed_dim, r.decoder_dim, r.decoder_depth, r.decoder_heads).eval()
    head.load_state_dict(weights, strict=False)                    # positions are no weights
    every = torch.arange(patches[0] * patches[1]).expand(len(images), -1)
    with torch.no_grad():
        inside = head.intermediates(backbone.forward_features(normalize(images)), every)
    spectra = torch.stack([log_amplitude(inside[f"block{k}"][:, 1:], patches) for k in range(1, r.decoder_depth + 1)], 1)
    last = min(patches) // 2 - 1
    after = (spectra[..., last, last] - spectra[..., 0, 0]).mean(1).double()                     # (images,)
    encoder = lab.recorded(mae, Frequencies)["delta_log_amplitude"][:64, 1:].mean(1).double()
    yield Check(f"{label(mae)}'s decoder lies below its encoder by half a unit", *over_images(encoder - after), "ln",
                margin=0.5)
    falls = []
    for x in (own_depths(lab, mae), own_depths(lab, mim)):
        falls.append(apart(max(x.values()), x[12]))
    yield Check(f"{label(mae)}'s probe falls less from its best block to its last than {label(mim)}'s",
                *apart(falls[1], falls[0]), "accuracy")


def better(lab: Lab, first: str, second: str, yardstick: str) -> Interval:
    """How much better the first is by a yardstick."""
    return apart(lab.score(first, yardstick), lab.score(second, yardstick))


def probe_or_tune(lab: Lab, cl: str, mae: str, mim: str) -> Iterator[Check]:
    for a, b, yardstick in ((cl, mae, "linear"), (mae, mim, "linear"), (mim, cl, "finetuned"), (mae, cl, "finetuned")):
        how = "linear probe" if yardstick == "linear" else "fine-tuned"
        yield Check(f"{how}: {label(a)} above {label(b)}", *better(lab, a, b, yardstick), "accuracy")


def complementary(lab: Lab, hybrid: str, mim: str, cl: str) -> Iterator[Check]:
    """By linear probe on either pooling, for all three the same one; fine-tuned each with its own."""
    for pooling, words in (("cls", "CLS"), ("mean", "mean of patches")):
        for parent in (mim, cl):
            ends = [lab.depths(name, pooling, "linear") for name in (hybrid, parent)]
            yield Check(f"linear probe, {words}: {label(hybrid)} above {label(parent)}", *apart(*(x[max(x)] for x in ends)),
                        "accuracy")
    for parent in (mim, cl):
        yield Check(f"fine-tuned: {label(hybrid)} above {label(parent)}", *better(lab, hybrid, parent, "finetuned"), "accuracy")


def hybrid_by_depth(lab: Lab, hybrid: str, mim: str) -> Iterator[Check]:
    def fall(quantity: str, before: int, after: int) -> Interval:
        """How much a quantity falls from one depth to another, in twelfths of the network."""
        c = lab.curve(hybrid, quantity)
        return apart(*(c[max(1, depth * max(c) // 12)] for depth in (before, after)))

    yield Check("its NMI falls over the last third", *fall("nmi", 8, 12))
    late = apart(*(max(lab.curve(name, "nmi").items())[1] for name in (mim, hybrid)))
    yield Check(f"its last NMI is below that of {label(mim)}", *late)
    value, low, high = fall("delta_log_amplitude", 1, 4)
    yield Check("high frequencies rise over the first third", -value, -high, -low, "ln")
    yield Check("high frequencies fall over the last third", *fall("delta_log_amplitude", 8, 12), "ln")


def purity(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    tokens = [patch_tokens(lab.network(name), lab.source().images(torch.arange(32)))[12] for name in (cl, mim)]
    a, b = (neighbour_purity(x) for x in tokens)
    yield Check(f"among a token's ten nearest, more are of its image in {label(cl)} than in {label(mim)}", *over_images(a - b))


def scaling(lab: Lab, cl: str, mim: str) -> Iterator[Check]:
    sizes = lab.sizes(cl, mim)
    if len(sizes) < 2:
        raise NotMeasured(f"{label(cl)} and {label(mim)} were not both trained at two sizes")
    if short := lab.undertrained(tuple(name for _, names in sizes for name in names)):
        raise NotMeasured("; ".join(f"{name} is undertrained: {why}" for name, why in short.items()))
    leads = [apart(*(lab.score(name, "finetuned") for name in names)) for _, names in (sizes[0], sizes[-1])]
    yield Check(f"fine-tuned, {label(cl)} is ahead of {label(mim)} in the smallest, {sizes[0][0]}", *leads[0], "accuracy")
    yield Check(f"its lead is smaller in the largest, {sizes[-1][0]}", *apart(*leads), "accuracy")


PAIR = dict(networks=(MOCO, SIMMIM), control=("untrained", SIMMIM), others=((MOCO, "mae"),), worlds=BOTH)
IMAGENET = "ViT-B/16 on ImageNet, 300 epochs of MoCo v3 and 800 of SimMIM; `official:` checkpoints, chapter 12"
FAMILY = ("hybrid", SIMMIM, MOCO)                                  # λ = .2 and the two parents, as they ship

CLAIMS = [
    Claim("park-1", PAPER, "3", "CL attends globally, MIM locally, most of all late", "attention distance",
          "MoCo v3 above SimMIM, most in late blocks; MoCo v3 rises from 80 to 114 px over blocks 8 to 12 (224 px)",
          IMAGENET, attention_distance, **PAIR),
    Claim("park-2", PAPER, "4", "late self-attention of CL collapses: every query gets the same map", "NMI of query and key",
          "MoCo v3 below SimMIM late, below .03 in blocks 11 and 12, falling from block 3 on", IMAGENET, collapse, **PAIR),
    Claim("park-3", PAPER, "5", "CL loses diversity of heads, depths and tokens late", "cosine similarities",
          "CL above MIM late, in all three", IMAGENET, diversity, **PAIR,
          stand_in="the paper's exact formulas were not seen; ours are those of chapter 05, where tokens are alike by a vector "
                   "that all of them share"),
    Claim("park-4", PAPER, "6, 7", "CL moves all tokens of an image in unison, MIM each by itself",
          "unison of steps; log spectra of tokens and of images before and after attention",
          "CL adds variance between images and not between tokens; MIM the reverse", IMAGENET, in_unison, **PAIR),
    Claim("park-5", PAPER, "8", "CL uses low frequencies, MIM high ones", "Δ log amplitude",
          "SimMIM above MoCo v3 at every depth; MoCo v3 rises from -3.18 to -2.39 over depths 1 to 10; SimMIM falls at 12",
          IMAGENET, frequencies, **PAIR),
    Claim("park-6", PAPER, "9", "CL goes by shape, MIM by texture", "shape bias on conflicting cues", "CL above MIM",
          "Geirhos' cue-conflict images at 224 px with ImageNet classifiers: `lib.evaluation shape-bias --stimuli`", shape_bias,
          **PAIR, stand_in="the conflicts are those of the world of shapes, for networks of photographs too"),
    Claim("park-7", PAPER, "9", "CL is hurt less than MIM by noise of high frequencies", "accuracy lost to band noise",
          "smaller drops for CL in the highest bands", "ImageNet at 224 px, where bands are finer", noise, **PAIR,
          stand_in="the published noise has more energy in higher bands; chapter 07 repeats it at equal energy"),
    Claim("park-8", PAPER, "10", "late layers carry CL, early layers carry MIM", "linear probe after every block",
          "SimMIM ahead in blocks 1 to 7, best at 7 or 8, then down by 11.5 points; MoCo v3 rises to the end (71.7 %)",
          IMAGENET, late_and_early, **PAIR),
    Claim("park-9", PAPER, "10, 11", "an explicit decoder leaves the encoder's last layers to the representation",
          "linear probe by block; Δ log amplitude in encoder and decoder",
          "MAE ends .8 points below its best block, SimMIM 11.5; its decoder lies .5 to 1 below its encoder",
          "MAE ViT-B with its decoder of 8 blocks; ours has 2", decoder, ("mae", SIMMIM),
          worlds=BOTH),
    Claim("park-10", PAPER, "1", "linear probing favours CL, fine-tuning favours MIM",
          "linear probe; fine-tuning on 500 labels, of photographs 1,000",
          "probe: MoCo v3 76.7, MAE 68.0, SimMIM 56.7 %; fine-tuned: 83.2, 83.6, 83.8 %", IMAGENET, probe_or_tune,
          (MOCO, "mae", SIMMIM), ("untrained", "mae", SIMMIM), worlds=BOTH),
    Claim("park-11", PAPER, "1", "CL is better in small models, MIM scales better", "fine-tuning by model size",
          "MoCo v3 above SimMIM by 4.3 points (Ti) and 1.1 (S), below by .6 (B)",
          "each objective trained alike at three sizes: `--model vit_tiny`, `vit_small`, `vit_base`, 100 epochs of ImageNet",
          scaling, (MOCO, SIMMIM), ("untrained-mocov3", "untrained-simmim"),
          stand_in="two widths, 48 and 96 channels, far below the paper's 192 to 768"),
    Claim("park-12", PAPER, "1", "MIM is better for dense prediction", "mIoU of a linear segmentation of the object",
          "COCO box AP: MAE 50.3, BEiT 49.8, MoCo v3 47.9, supervised 47.9", "Mask R-CNN on COCO, fine-tuned from ViT-B",
          reason="objects of shapes are lighter than their grounds, so a threshold segments them better than every network"),
    Claim("park-13", PAPER, "12", "CL and MIM complement each other: a hybrid beats both",
          "linear probe on either pooling, and fine-tuning",
          "λ = .2 beats λ = 0 and λ = 1 on both: 61.6 over 18.2 and 58.1 %, 82.29 over 81.90 and 81.33 %",
          "ViT-B, 100 epochs of ImageNet for each λ", complementary, FAMILY,
          worlds=BOTH),
    Claim("park-14", PAPER, "12", "the hybrid is MIM early and CL late", "NMI and Δ log amplitude by depth",
          "NMI falls at the end; high frequencies rise early and fall at the end",
          "ViT-B, 100 epochs of ImageNet", hybrid_by_depth, FAMILY[:2], ("untrained-hybrid", SIMMIM),
          others=(("hybrid-0.2", "hybrid-0"),), worlds=BOTH),
    Claim("park-15", PAPER, "E.2", "CL's tokens cluster by image, MIM's intermingle",
          "share of the ten nearest tokens from the same image",
          "CL above MIM", IMAGENET, purity, **PAIR, stand_in="the paper shows t-SNE pictures; this puts a number on them"),
]
