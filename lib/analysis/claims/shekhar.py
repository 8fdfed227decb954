"""The claims of Shekhar et al. 2023, "Objectives Matter", one for each row of our list.

JE is a joint-embedding objective (MoCo v3, DINO), REC a reconstructive one (MAE). Parts of a block have the names of
`lib.analysis.recording.STEPS`; of the paper's full text the abstract alone was at hand, and a workshop version of it.
"""
from collections.abc import Iterator

import torch
from torch import Tensor

from lib.analysis.agreement import class_rank_tau, prediction_f1
from lib.analysis.claims.claim import BOTH, Claim
from lib.analysis.claims.intervals import apart, average, jackknife, over_images, resampled
from lib.analysis.claims.lab import Lab, cka, label
from lib.analysis.claims.park import better
from lib.analysis.claims.verdict import Check

PAPER = "Shekhar et al. 2023"
PARTS = ("norm1", "qkv", "proj", "norm2", "fc1", "act", "fc2")
Network = str | tuple[str, bool]      # a name, or (name, True) of the fine-tuned one


def parts(lab: Lab, network: Network, steps: tuple[str, ...] = PARTS, depths=range(1, 13)) -> Tensor:
    """Gram matrices of some parts: (minibatches, depths, steps, BATCH^2)."""
    names, rows = lab.layers(*network) if isinstance(network, tuple) else lab.layers(network)
    where = torch.tensor([[names.index(f"block{k}.{step}") for step in steps] for k in depths])
    return rows[:, where]


def difference(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
    """Mean CKA of one pair of layers, in pairs, less that of another."""
    return jackknife(lambda a, b, c, d: cka(a, b).mean() - cka(c, d).mean(), *first, *second)


def same_objective(lab: Lab, je: str, je2: str, rec: str) -> Iterator[Check]:
    a, b, c = (parts(lab, name) for name in (je, je2, rec))
    yield Check(f"{label(je)}–{label(je2)} above {label(je)}–{label(rec)}, same depth", *difference((a, b), (a, c)), "CKA")
    yield Check(f"{label(je)}–{label(je2)} above {label(je2)}–{label(rec)}", *difference((a, b), (b, c)), "CKA")


def falls_late(lab: Lab, je: str, je2: str) -> Iterator[Check]:
    early, late = ([parts(lab, name, depths=d) for name in (je, je2)] for d in (range(1, 10), range(10, 13)))
    yield Check(f"{label(je)}–{label(je2)}: blocks 1 to 9 above blocks 10 to 12", *difference(tuple(early), tuple(late)), "CKA")


def ahead(rec: Tensor, je: Tensor, depths: int) -> float:
    """How many blocks later than their own the first blocks of REC find their like in JE; mean."""
    found = cka(rec[:, :depths, None, 0], je[:, None, :, 0])       # (depths, 12)
    return (found.argmax(1) - torch.arange(depths)).double().mean().item()


def matching(lab: Lab, je: str, rec: str) -> Iterator[Check]:
    a, b = parts(lab, rec, ("norm2",)), parts(lab, je, ("norm2",))
    yield Check(f"blocks 1 to 4 of {label(rec)} are most like later blocks of {label(je)}",
                *resampled(lambda x, y: ahead(x, y, 4), a, b, draws=300), "blocks")


def early_divergence(lab: Lab, je: str, rec: str) -> Iterator[Check]:
    pair = {(steps, depths): (parts(lab, je, steps, depths), parts(lab, rec, steps, depths)) for steps, depths in (
        (("norm1", "qkv"), range(1, 3)), (("norm1", "qkv"), range(5, 8)), (("fc1",), range(5, 8)), (("fc1",), range(1, 11)))}
    first, drop, mlp, all_mlp = pair.values()
    yield Check("LN-1 and QKV are less alike in blocks 5 to 7 than in 1 and 2", *difference(first, drop), "CKA")
    yield Check("in blocks 5 to 7 FC1 is more alike than they are", *difference(mlp, drop), "CKA")
    lowest = cka(*all_mlp)[:, 0].argmin()
    yield Check(f"FC1 stays above .5 through block 10; lowest in block {int(lowest) + 1}",
                *jackknife(lambda a, b: cka(a[:, lowest, 0], b[:, lowest, 0]), *all_mlp), "CKA", 0.5)


def by_part(lab: Lab, je: str, je2: str, rec: str) -> Iterator[Check]:
    norm = {name: parts(lab, name, ("norm1", "qkv")) for name in (je, je2, rec)}
    mlp = {name: parts(lab, name, ("fc1",)) for name in (je, je2, rec)}
    yield Check(f"{label(je)}–{label(rec)}: FC1 above LN-1 and QKV", *difference((mlp[je], mlp[rec]), (norm[je], norm[rec])),
                "CKA")
    yield Check(f"{label(je)}–{label(je2)}: LN-1 and QKV above FC1", *difference((norm[je], norm[je2]), (mlp[je], mlp[je2])),
                "CKA")


def readable_neighbours(lab: Lab, je: str, rec: str) -> Iterator[Check]:
    a, b = (lab.depths(name, "cls", "knn") for name in (je, rec))
    early, late = (apart(*(average([x[k] for k in depths]) for x in (a, b))) for depths in (range(1, 4), range(4, 13)))
    yield Check(f"k-NN of CLS: {label(je)} is ahead of {label(rec)} in blocks 4 to 12", *late, "accuracy")
    yield Check("by more than in blocks 1 to 3", *apart(late, early), "accuracy")
    gaps = [apart(lab.depths(name, "cls", "linear")[12], x[12]) for name, x in ((je, a), (rec, b))]
    yield Check(f"from k-NN to probe in block 12, {label(rec)} gains more than {label(je)}", *apart(gaps[1], gaps[0]),
                "accuracy")


def in_cls(lab: Lab, je: str, rec: str) -> Iterator[Check]:
    gaps = [apart(lab.depths(name, "cls", "knn")[12], lab.depths(name, "mean", "knn")[12]) for name in (je, rec)]
    yield Check(f"k-NN in block 12: CLS of {label(je)} above its pooled patches", *gaps[0], "accuracy")
    yield Check(f"by more than in {label(rec)}", *apart(*gaps), "accuracy")


def agreement(lab: Lab, je: str, je2: str, rec: str) -> Iterator[Check]:
    a, b, c = (lab.probe(name) for name in (je, je2, rec))
    for other, pair in ((a, je), (b, je2)):
        taus = class_rank_tau(a, b) - class_rank_tau(other, c)
        yield Check(f"class ranks: {label(je)}–{label(je2)} agree more than {label(pair)}–{label(rec)}", *over_images(taus),
                    "τ")
    guesses = [x.argmax(1) for x in (a, b, c)]
    yield Check(f"predictions: {label(je)}–{label(je2)} agree more than {label(je)}–{label(rec)}",
                *resampled(lambda x, y, z: prediction_f1(x, y) - prediction_f1(x, z), *guesses, draws=500), "F1")


def tuned_rec(lab: Lab, je: str, rec: str) -> Iterator[Check]:
    for steps, text in ((PARTS, "over all parts"), (("norm1", "qkv"), "in LN-1 and QKV")):
        a, b, c = parts(lab, je, steps), parts(lab, rec, steps), parts(lab, (rec, True), steps)
        yield Check(f"fine-tuning moves {label(rec)} towards {label(je)}, {text}", *difference((a, c), (a, b)), "CKA")


def tuned_both(lab: Lab, je: str, rec: str) -> Iterator[Check]:
    def gain(depths) -> tuple[float, float, float]:
        before, after = ([parts(lab, (name, tuned), ("fc1",), depths) for name in (je, rec)] for tuned in (False, True))
        return difference(tuple(after), tuple(before))
    yield Check("FC1 of the two grows more alike in blocks 1 to 9", *gain(range(1, 10)), "CKA")
    value, low, high = gain(range(10, 13))
    yield Check("and less alike in blocks 10 to 12", -value, -high, -low, "CKA")


def tuned_je(lab: Lab, je: str, rec: str) -> Iterator[Check]:
    a, b, c, d = (parts(lab, network) for network in ((je, False), (rec, False), (je, True), (rec, True)))
    gain = jackknife(lambda a, b, c, d: (cka(a, d).mean() - cka(a, b).mean()) - (cka(c, b).mean() - cka(a, b).mean()), a, b, c,
                     d)
    yield Check(f"fine-tuning {label(je)} brings the two together less than fine-tuning {label(rec)} does", *gain, "CKA")


def spatial(lab: Lab, je: str, rec: str) -> Iterator[Check]:
    yield Check(f"linear probe of the class: {label(je)} above {label(rec)}", *better(lab, je, rec, "linear"), "accuracy")
    for axis in ("x", "y"):
        yield Check(f"where the object is, {axis}: {label(rec)} above {label(je)}", *better(lab, rec, je, axis), "R²")


def across(lab: Lab, vit: str, cnn: str, other: str) -> Iterator[Check]:
    last = {}
    for name in (cnn, vit, other):
        names, rows = lab.layers(name)
        last[name] = rows[:, [i for i, n in enumerate(names) if "." not in n or n.startswith("stage")]][:, -1]
    yield Check(f"the last layer of the {label(cnn)} is more like that of the {label(vit)} ViT than that of {label(other)}",
                *difference((last[vit], last[cnn]), (last[other], last[cnn])), "CKA")


MOCO, DINO, MAE = "mocov3", "dino", "mae"
BASE = "ViT-B/16 on ImageNet, official MoCo v3, DINO and MAE: `official:` checkpoints, chapter 12"
JE2 = dict(networks=(MOCO, DINO, MAE), control=("untrained", DINO, MAE), worlds=BOTH)
JE1 = dict(networks=(MOCO, MAE), control=("untrained", MAE), worlds=BOTH)
TUNED = "500 labels and 6 epochs of fine-tuning instead of ImageNet and 150"

CLAIMS = [
    Claim("shekhar-1", PAPER, "1", "networks of alike objectives are alike", "CKA of the same parts at the same depth",
          "MoCo v3–DINO .72 against .46 and .42 with MAE", BASE, same_objective, **JE2),
    Claim("shekhar-2", PAPER, "1", "joint-embedding networks part in the last blocks", "the same by depth",
          "falls in the last three blocks", BASE, falls_late, (MOCO, DINO), ("untrained", DINO), worlds=BOTH),
    Claim("shekhar-3", PAPER, "1", "the first quarter of MAE corresponds to the first half of MoCo v3",
          "CKA of all pairs, LN-2",
          "MAE's blocks 1 to 4 are most like MoCo v3's 1, 3, 3, 7", BASE, matching, **JE1),
    Claim("shekhar-4", PAPER, "2", "JE and REC part early, in LN-1 and QKV", "CKA by part and depth",
          "LN-1 and QKV fall from block 3 to about .1 at 5 to 7; FC1 stays above .5 through block 10", BASE, early_divergence,
          **JE1),
    Claim("shekhar-5", PAPER, "1", "norm and QKV set objectives apart, the MLP does not", "CKA by part",
          "JE–REC: LN-1 .31 and QKV .35 below FC1 .63; JE–JE: .88 and .89 above .77", BASE, by_part, **JE2),
    Claim("shekhar-6", PAPER, "3", "class information is laid out for neighbours in JE, not in REC",
          "k-NN and probe of CLS by block",
          "even through block 3, then JE ahead; from k-NN to probe 88 to 90 in MoCo v3, 67 to 83 in MAE", BASE,
          readable_neighbours, **JE1),
    Claim("shekhar-7", PAPER, "3", "JE gathers class information in CLS", "k-NN of CLS and of pooled patches",
          "block 12: MoCo v3 88 against 78, MAE 67 against 66", BASE, in_cls, **JE1),
    Claim("shekhar-8", PAPER, "4", "probes of JE networks agree with each other", "Kendall's τ of class ranks; F1",
          "MoCo v3–DINO above both with MAE", BASE, agreement, **JE2,
          stand_in="all ten classes are ranked, for all images, right or wrong; the paper's top 5 to 100 of 1,000"),
    Claim("shekhar-9", PAPER, "5", "fine-tuning makes MAE more like MoCo v3", "CKA at the same depth",
          ".46 to .66, most in LN-1 and QKV", BASE, tuned_rec, **JE1, stand_in=TUNED),
    Claim("shekhar-10", PAPER, "6", "fine-tuned on the same labels, FC1 grows alike early and apart late",
          "CKA of FC1 by depth",
          "up early and in the middle, down in blocks 10 to 12", BASE, tuned_both, **JE1, stand_in=TUNED),
    Claim("shekhar-11", PAPER, "5", "fine-tuning MoCo v3 does not make it more like MAE", "CKA at the same depth",
          "no gain: .44",
          BASE, tuned_je, **JE1, stand_in=TUNED + "; less than the other way round, since 'no gain' has no margin"),
    Claim("shekhar-12", PAPER, "abstract", "JE is better for classes, REC for spatial tasks",
          "linear probe; position of the object",
          "opposite orders", BASE, spatial, (MOCO, MAE), ("untrained", MAE),
          stand_in="the paper's own spatial tasks were not seen"),
    Claim("shekhar-13", PAPER, "abstract", "alike objectives make alike features across architectures", "CKA of last layers",
          "an ordering", "MoCo v3 on a ResNet-50 beside the ViTs", across, ("supervised", "resnet", "mae"),
          ("untrained", "resnet", "mae"), (("supervised", "resnet", "simmim"),), worlds=BOTH,
          stand_in="the alike objectives are supervised ones, because no self-supervised ResNet ships"),
]
