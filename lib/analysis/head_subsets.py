"""Are local heads more like a CNN than global ones? (Raghu et al. 2021, Fig. 5.)

The heads of a block are sorted by attention distance, and each run of some neighbours in that order is one representation: what
its heads give, A_h V_h, side by side, before the projection mixes them. The paper does not say how many heads make a subset,
nor whether it looks before or after the projection.

The Gram matrix of heads side by side is the sum of theirs, and HSIC is linear in each of its two: that of any subset is a sum
over its heads, so one pass serves all subsets.
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib import distributed
from lib.analysis.attention import attention_distance, patch_attention, patch_distances
from lib.analysis.recording import Attention, Layout, layout_of, observe
from lib.analysis.similarity import CKA, Representations, examples, gram, minibatches
from lib.errors import CourseError


class HeadSubsets(NamedTuple):
    """`values[s, m]` is the CKA of the heads `subsets[s]` with layer `columns[m]`; the most local subset comes first."""
    subsets: list[list[int]]
    distances: Tensor                 # (subsets,) float64, pixels: mean attention distance of a subset's heads
    columns: list[str]
    values: Tensor                    # (subsets, columns) float64


class HeadDistances:
    """Sum over images of the attention distance of each head of one block, over patches alone: (H,) float64."""
    reads = "attention"

    def __init__(self, layout: Layout, block: int):
        self.prefix, self.pixels, self.block, self.sum = layout.prefix, patch_distances(layout.grid, layout.patch), block, 0.0

    def update(self, depth: int, attention: Attention) -> None:
        if depth == self.block:
            found = attention_distance(patch_attention(attention.logits, self.prefix), self.pixels)            # (B, H)
            self.sum += found.double().sum(0)


class HeadGrams:
    """Gram matrix (n, n) of each head of one block, all tokens side by side, from one minibatch."""
    reads = "parts"

    def __init__(self, block: int, heads: int):
        self.part, self.heads, self.found = f"block{block}.heads", heads, []

    def update(self, name: str, activation: Tensor) -> None:
        if name == self.part:                                                    # (B, N, H d)
            self.found = [gram(examples(head)) for head in activation.chunk(self.heads, dim=-1)]


def head_subset_similarity(backbone: nn.Module, other: Representations, block: int = 1, size: int | None = None,
                           images: int | None = None, batch_size: int = 256, seed: int = 0, source=None) -> HeadSubsets:
    """CKA of subsets of a block's heads with the layers of another network, such as stages of a ResNet.

    backbone: a timm-style ViT; source: what it sees, that of `other` if None. block: from 1. size: heads in a subset, a quarter
    of them if None, at least 1. images, batch_size and seed as in `lib.analysis.similarity.similarity`. Raises CourseError as
    that does, and for a block or size that is not there.
    """
    source = other.source if source is None else source
    labels = [one.labels(torch.arange(len(one))) for one in (source, other.source)]
    if not torch.equal(*labels):
        raise CourseError(f"the sources, of {len(labels[0])} and {len(labels[1])} images, differ in length or order of labels; "
                          "CKA needs the same images in the same order")
    batches, cka, distances, columns = minibatches(len(source), images, batch_size, seed), CKA(), None, []
    for batch in batches:
        x = source.images(batch)
        layout = layout_of(backbone, x)
        if block not in range(1, layout.depth + 1):
            raise CourseError(f"there is no block {block}; this backbone has {layout.depth}, counted from 1")
        heads = backbone.blocks[block - 1].attn.num_heads
        size = max(heads // 4, 1) if size is None else size
        if size not in range(1, heads + 1):
            raise CourseError(f"subsets of {size} heads of {heads}; take 1 to {heads}")
        distances, grams = distances or HeadDistances(layout, block), HeadGrams(block, heads)
        observe(backbone, x, [distances, grams], layout, f"a minibatch of {getattr(source, 'name', 'the source')}")
        layers = other.grams(batch)
        columns = list(layers)
        cka.update(grams.found + list(layers.values()))
    hsic, total = distributed.mean(cka.cross).cpu(), distributed.mean(torch.tensor(float(sum(map(len, batches)))))
    pixels = distributed.mean(distances.sum).cpu() / total                       # (H,)
    order = pixels.argsort().tolist()
    subsets = [order[start:start + size] for start in range(heads - size + 1)]
    member = torch.zeros(len(subsets), len(hsic), dtype=torch.float64)           # 1 where a head is in a subset
    for row, subset in zip(member, subsets, strict=True):
        row[subset] = 1
    own = ((member @ hsic) * member).sum(1)                                      # HSIC of each subset with itself
    values = (member @ hsic)[:, heads:] / (own[:, None] * hsic.diagonal()[heads:]).sqrt()
    return HeadSubsets(subsets, pixels[torch.tensor(subsets)].mean(1), columns, values)
