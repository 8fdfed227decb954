"""Which layers, of one network or of two, arrange images alike? Centred kernel alignment, CKA.

The estimator is that of Raghu et al. 2021 and Shekhar et al. 2023.

A layer's Gram matrix K = X X^T says how alike it finds every two of n images; X (n, p) is what it gives for them, less the
mean. CKA is the cosine of two layers' Gram matrices, so the layers need not have the same width, only the same images.

    HSIC_1(K, L) = [tr(K~ L~) + sum(K~) sum(L~) / ((n - 1)(n - 2)) - 2 1^T K~ L~ 1 / (n - 2)] / (n (n - 3))
    CKA          = sum HSIC_1(K, L) / sqrt(sum HSIC_1(K, K) sum HSIC_1(L, L)),  sums over minibatches

K~ is K with zeros on its diagonal. The biased form, with HKH in place of K~, H = 1 - 1/n, is here for comparison: it calls
everything similar whose features outnumber the images (.96 for independent Gaussians, n = 32, p = 768).

Memory, however many images: each part is reduced to its Gram matrix as soon as the network gives it. L parts and minibatches
of n take 8 L n^2 bytes, as much again while they are compared: 2 x 0.9 GB for L = 108 and n = 1024, 2 x 0.06 GB for n = 256.
Before that the forward pass holds one block's residual stream, norm2, fc1 and act, (1 + 1 + 4 + 4) 4 n N D bytes for N tokens
of width D: 6.2 GB for ViT-B/16 and n = 1024, 1.5 GB for n = 256.
"""
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import distributed
from lib.analysis.recording import layout_of, observe, observe_modules
from lib.errors import CourseError
from lib.precision import widen
from lib.random import combine, permutation

POOLINGS = {
    "flat": "all tokens side by side, the whole representation",
    "cls": "the CLS token",
    "mean": "the mean of the patch tokens",
}
CONTROLS = {
    None: "features as they are",
    "channels": "each channel over its deviation in the minibatch: no outlier counts more than others, nor a learned gain",
    "tokens": "each token through a LayerNorm without gain and shift: the residual stream as a norm sees it",
}
COLUMNS = 4096                        # features that are centred and multiplied at a time


# ---------------------------------------------------------------------------------------------------- Gram matrices and CKA

def gram(x: Tensor) -> Tensor:
    """Products of every two images' features, centred: (n, ...) -> (n, n) float64. All 0 if the images do not differ.

    The mean goes first: it changes nothing about CKA, but a large one would leave float32 no digits for the differences.
    """
    x = x.flatten(1)                                                               # (n, p)
    found, squares = x.new_zeros(len(x), len(x), dtype=torch.float64), 0.0
    for part in x.split(COLUMNS, dim=1):
        part = widen(part)
        squares += part.square().sum(dtype=torch.float64)
        part = part - part.mean(0)
        found += part @ part.mT
    rounding = 10 * torch.finfo(widen(x[:0]).dtype).eps
    return found * (found.trace() > rounding**2 * squares)


def centered(k: Tensor, biased: bool = False) -> Tensor:
    """The matrix whose inner product with another such is n (n - 3) HSIC_1, or (n - 1)^2 HSIC if biased: (n, n) -> (n, n).

    Raises CourseError for fewer than 4 images, or 2 if biased.
    """
    n = len(k)
    check_images(n, biased)
    if biased:
        return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
    k = k - k.diag().diag()
    k = k - k.sum(0) / (n - 2) - k.sum(1, keepdim=True) / (n - 2) + k.sum() / ((n - 1) * (n - 2))
    return k - k.diag().diag()


def check_images(n: int, biased: bool) -> None:
    if n < (2 if biased else 4):
        raise CourseError(f"{n} image(s) in a minibatch, {'biased' if biased else 'unbiased'} CKA needs at least "
                          f"{2 if biased else 4}; take more images or larger minibatches")


class CKA:
    """Linear CKA of every layer in one list with every layer in another, from minibatches: sums of HSIC, then their ratio.

    Each minibatch is one matrix product of all centred Gram matrices, in float64.
    """

    def __init__(self, biased: bool = False):
        self.biased, self.cross, self.first, self.second = biased, 0.0, 0.0, 0.0

    def update(self, first: list[Tensor], second: list[Tensor] | None = None) -> None:
        """Gram matrices (n, n) of the same n images in the same order; second: other layers, or none to compare the first.

        Raises CourseError if they are not of equally many images, or of fewer than 4 (2 if biased).
        """
        sizes = sorted({len(k) for k in [*first, *(second or [])]})
        if len(sizes) > 1:
            raise CourseError(f"layers of {sizes[0]} and of {sizes[-1]} images cannot be compared; give all the same minibatch")
        n, a = sizes[0], self.stack(first)                                                        # (L, n n)
        b = a if second is None else self.stack(second).to(a.device)                              # (M, n n)
        pairs = (n - 1)**2 if self.biased else n * (n - 3)
        self.cross += a @ b.mT / pairs                                                            # (L, M)
        self.first += torch.linalg.vector_norm(a, dim=1).square() / pairs                         # (L,)
        self.second += torch.linalg.vector_norm(b, dim=1).square() / pairs                        # (M,)

    def stack(self, grams: list[Tensor]) -> Tensor:
        """Centred, one a row; one after the other, so that no third copy of them is needed: (L, n n)."""
        rows = grams[0].new_empty(len(grams), grams[0].numel())
        for row, k in zip(rows, grams, strict=True):
            row.copy_(centered(k, self.biased).flatten())
        return rows

    def compute(self) -> Tensor:
        """(L, M) float64 on the CPU, over all minibatches and processes; nan where the images of a layer do not differ."""
        cross, first, second = (distributed.mean(x).cpu() for x in (self.cross, self.first, self.second))
        return cross / (first.sqrt()[:, None] * second.sqrt())


def linear_cka(x: Tensor, y: Tensor, biased: bool = False) -> float:
    """CKA of two layers' features of the same n images, (n, ...) and (n, ...), as one minibatch."""
    cka = CKA(biased)
    cka.update([gram(x)], [gram(y)])
    return cka.compute().item()


# ----------------------------------------------------------------------------------------------------- what is compared

def examples(activation: Tensor, prefix: int = 0, pooling: str | int = "flat", control: str | None = None) -> Tensor:
    """One representation for each image: (B, N, D), (B, D) or maps (B, C, rows, columns) -> (B, tokens, D).

    prefix: how many tokens, CLS first, come before the patches. pooling: one of POOLINGS, or the number of a patch (or place in
    a map), row by row from 0. control: one of CONTROLS. Raises CourseError if there is no such pooling, patch or control.
    """
    if activation.ndim not in (2, 3, 4):
        raise CourseError(f"an activation {tuple(activation.shape)}, expected (B, D), (B, N, D) or (B, C, rows, columns)")
    if control not in CONTROLS:
        raise CourseError(f"there is no control {control!r}; choose one of {', '.join(map(str, CONTROLS))}")
    tokens = activation.flatten(2).mT if activation.ndim == 4 else activation.view(len(activation), -1, activation.shape[-1])
    patches = tokens.shape[1] - prefix
    if pooling == "cls" and not prefix:
        raise CourseError("there is no CLS token here; choose the pooling mean or flat")
    if isinstance(pooling, int) and pooling in range(patches):
        tokens = tokens[:, prefix + pooling, None]
    elif pooling in POOLINGS:
        tokens = {"flat": tokens, "cls": tokens[:, :1], "mean": tokens[:, prefix:]}[pooling]
    else:
        raise CourseError(f"there is no pooling {pooling!r}; choose one of {', '.join(POOLINGS)}, or a patch from 0 to "
                          f"{patches - 1}")
    if control == "tokens":
        tokens = F.layer_norm(widen(tokens), tokens.shape[-1:], eps=1e-6)
    if pooling == "mean":
        tokens = widen(tokens).mean(1, keepdim=True)
    if control == "channels":
        tokens = widen(tokens) - widen(tokens).mean(0)
        deviation = tokens.square().mean((0, 1)).sqrt()                            # (D,)
        tokens = tokens / torch.where(deviation > 0, deviation, 1.0)
    return tokens


class Grams:
    """Collects {name: Gram matrix (n, n)} of all parts, in the order in which they come, from a single minibatch."""
    reads = "parts"

    def __init__(self, prefix: int, pooling: str | int, control: str | None):
        self.prefix, self.pooling, self.control, self.found = prefix, pooling, control, {}

    def update(self, name: str, activation: Tensor) -> None:
        prefix = self.prefix if activation.ndim == 3 else 0
        self.found[name] = gram(examples(activation, prefix, self.pooling, self.control))


@dataclass(frozen=True)
class Representations:
    """What a network gives for the images of a source.

    modules: {name: module} to read, in that order, of any network: `{"stage1": resnet.layer1, ...}`. Without them the
    network is a timm-style ViT and all its parts are read, see `lib.analysis.recording.part_names`. uint8 images are
    normalised, float images are taken as they come. pooling and control: see `examples`.
    """
    network: nn.Module
    source: object
    modules: dict[str, nn.Module] | None = None
    pooling: str | int = "flat"
    control: str | None = None

    def grams(self, indices: Tensor) -> dict[str, Tensor]:
        """{name: Gram matrix (n, n)} of images by their numbers (n,). Raises CourseError as `record` and `examples` do."""
        images, where = self.source.images(indices), f"a minibatch of {getattr(self.source, 'name', 'the source')}"
        metric = Grams(getattr(self.network, "num_prefix_tokens", 0), self.pooling, self.control)
        if self.modules is None:
            observe(self.network, images, [metric], layout_of(self.network, images), where)
            return metric.found
        observe_modules(self.network, self.modules, images, [metric], where)
        return {name: metric.found[name] for name in self.modules}


class Similarity(NamedTuple):
    """A heat map: `values[i, j]` is the CKA of the layers `rows[i]` and `columns[j]`, from the first layer to the last."""
    rows: list[str]
    columns: list[str]
    values: Tensor                    # (rows, columns) float64

    def only(self, pattern: str) -> "Similarity":
        """The layers whose whole name matches a regular expression: ".*fc1", or "block[0-9]+" for the ends of blocks."""
        i, j = ([k for k, name in enumerate(names) if re.fullmatch(pattern, name)] for names in (self.rows, self.columns))
        return Similarity([self.rows[k] for k in i], [self.columns[k] for k in j], self.values[i][:, j])


def minibatches(total: int, images: int | None, batch_size: int, seed: int, biased: bool = False) -> list[Tensor]:
    """Numbers of the images of this process's minibatches, in the order that the seed draws.

    Raises CourseError for more images than there are, for minibatches too small for the estimator, and for more processes
    than minibatches.
    """
    images = total if images is None else images
    if not 0 < images <= total:
        raise CourseError(f"{images} images of {total}; take at least one and at most all of them")
    check_images(batch_size, biased)
    batches = permutation(combine("similarity", seed), total)[:images].tensor_split(-(-images // batch_size))
    check_images(len(batches[-1]), biased)
    if len(batches) < distributed.world_size():
        raise CourseError(f"{len(batches)} minibatches for {distributed.world_size()} processes; each needs at least one")
    return list(batches[distributed.rank()::distributed.world_size()])


def similarity(first: Representations, second: Representations | None = None, images: int | None = None,
               batch_size: int = 256, seed: int = 0, biased: bool = False) -> Similarity:
    """CKA of all layers of the first with all layers of the second, or of the first with themselves.

    images: how many, drawn by the seed without replacement; all if None. They are shared out into minibatches of at most
    `batch_size`, none smaller than another by more than one, in an order drawn by the seed: a source is often sorted by class,
    and minibatches of one class each would say how layers arrange that class. The standard deviation between independent layers
    and k minibatches of n is at most sqrt(2 / (n (n - 1) k)). With several processes, each takes every so-many-th minibatch.
    Raises CourseError for too few images, for sources that differ in length or labels, and where network and source do not fit.
    """
    total, sides = len(first.source), [first] if second is None else [first, second]
    if sides[-1].source is not first.source:
        labels = [side.source.labels(torch.arange(len(side.source))) for side in sides]
        if not torch.equal(*labels):
            raise CourseError(f"the sources, of {len(labels[0])} and {len(labels[1])} images, differ in length or order of "
                              "labels; CKA needs the same images in the same order: open both with the same split")
    cka = CKA(biased)
    for batch in minibatches(total, images, batch_size, seed, biased):
        grams = [side.grams(batch) for side in sides]
        cka.update(*(list(layers.values()) for layers in grams))
        names = [list(layers) for layers in grams]
        del grams                                                  # before the next forward pass, which needs the memory
    return Similarity(names[0], names[-1], cka.compute())
