"""How far attention looks, how much it cares who is asking, and how alike heads, tokens and depths are (Park et al. 2023).

Shapes: B images, H heads, N tokens of which the first `prefix` are not patches, P = N - prefix patches. Two conventions:
- *patches* (the published one): prefix tokens are dropped from queries and keys, and each row is renormalised over patches;
- *full*: rows of patch queries as they are. What they give to the prefix counts in the entropy, and as 0 px in the distance.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.analysis.recording import Attention, Layout, PerImage, layout_of, observe


def patch_attention(logits: Tensor, prefix: int = 1) -> Tensor:
    """Softmax over patches alone: (B, H, N, N) logits -> (B, H, P, P).

    The same as dropping the prefix from the probabilities and renormalising, but exact even where the prefix took
    nearly all of a row.
    """
    return logits[..., prefix:, prefix:].softmax(-1)


def patch_distances(grid: tuple[int, int], patch: tuple[float, float]) -> Tensor:
    """Distance in pixels between the centres of every two patches, `patch` pixels high and wide: (P, P) float64."""
    rows, columns = (torch.arange(n, dtype=torch.float64) * size for n, size in zip(grid, patch, strict=True))
    centres = torch.cartesian_prod(rows, columns)                                # (P, 2)
    return (centres[:, None] - centres).square().sum(-1).sqrt()


def attention_distance(attention: Tensor, distances: Tensor) -> Tensor:
    """Mean pixels from a query to where it looks: (B, H, P, P), (P, P) -> (B, H) (Raghu et al. 2021; Park et al. 2023).

    Uniform attention on 14 x 14 patches of 16 px gives 116.49.
    """
    return torch.einsum("bhqk,qk->bhq", attention, distances.to(attention)).mean(-1)


def entropy(p: Tensor) -> Tensor:
    """-sum p log p over the last axis, in nats; 0 log 0 is 0."""
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(-1)


def normalized_mutual_information(attention: Tensor) -> Tensor:
    """How much a query's position tells about where it looks: (B, H, P, P) -> (B, H), from 0 to 1 (Park et al. 2023).

    0: every query looks at the same places, attention has collapsed. 1: each query has a key of its own.
    Queries are uniform, so H(q) = log P;  NMI = I(q; k) / sqrt(H(q) H(k)). Where all look at one key, H(k) = I = 0: NMI is 0.
    """
    return _nmi(entropy(attention.mean(-2)), entropy(attention).mean(-1), attention.shape[-1])


def _nmi(keys: Tensor, keys_given_query: Tensor, patches: int) -> Tensor:
    """From H(k) and H(k|q), both (B, H)."""
    information = (keys - keys_given_query).clamp(min=0)
    return information / (math.log(patches) * keys).sqrt().clamp(min=1e-6)


class AttentionStatistics(PerImage):
    """Each (images, blocks, heads):

    "distance", "distance_full" in pixels; "entropy", "entropy_full" in nats; "nmi"; and "prefix_mass", the share of
    attention that patches give to prefix tokens.
    """
    reads = "attention"

    def start(self, layout: Layout) -> None:
        super().start(layout)
        self.distances = patch_distances(layout.grid, layout.patch)

    def measure(self, depth: int, attention: Attention) -> dict[str, Tensor]:
        prefix, logits = self.layout.prefix, attention.logits[:, :, self.layout.prefix:]        # (B, H, P, N), patch queries
        log_p = logits[..., prefix:].log_softmax(-1)                             # (B, H, P, P)
        patches = logits[..., prefix:].amax(-1, keepdim=True) - log_p.amax(-1, keepdim=True)     # log of their summed exp
        p = log_p.exp()
        self.distances = self.distances.to(p)
        distance = torch.einsum("bhqk,qk->bhq", p, self.distances)               # (B, H, P), of each query
        keys = p.mean(-2)                                                        # (B, H, P)  p(k)
        rows = -log_p.mul_(p).sum(-1)                                            # (B, H, P), entropy of each query

        # How a query shares itself out over each prefix token and all patches together gives the rest: the entropy of a
        # row is that of the shares plus, with the share of the patches, that among patches.
        shares = torch.cat([logits[..., :prefix], patches], dim=-1).softmax(-1)
        return {"distance": distance.mean(-1), "entropy": rows.mean(-1),
                "nmi": _nmi(entropy(keys), rows.mean(-1), p.shape[-1]),
                "distance_full": (shares[..., -1] * distance).mean(-1),
                "entropy_full": (entropy(shares) + shares[..., -1] * rows).mean(-1),
                "prefix_mass": shares[..., :prefix].sum(-1).mean(-1)}


def pairwise_cosine(x: Tensor) -> Tensor:
    """Mean cosine of every two different rows: (..., n, D) -> (...). Without a second row it is nan.

    For unit vectors u, the sum over pairs of u_i . u_j is |sum u|^2 less the n squares.
    """
    n, units = x.shape[-2], F.normalize(x, dim=-1)
    pairs = units.sum(-2).square().sum(-1) - units.square().sum((-2, -1))
    return pairs / (n * (n - 1)) if n > 1 else torch.full_like(pairs, math.nan)


class HeadSimilarity(PerImage):
    """"head_similarity" (images, blocks): cosine of what two heads give a patch, A_h V_h, mean over pairs and patches.

    It depends on the axes in which each head happens to hold its values, which mean nothing: see `MapSimilarity`.
    """
    reads = "attention"

    def measure(self, depth: int, attention: Attention) -> dict[str, Tensor]:
        heads = attention.logits[:, :, self.layout.prefix:].softmax(-1) @ attention.values       # (B, H, P, d)
        return {"head_similarity": pairwise_cosine(heads.transpose(1, 2)).mean(-1)}


class MapSimilarity(PerImage):
    """"map_similarity" (images, blocks): cosine of two heads' maps over patches for one query, mean over pairs and queries."""
    reads = "attention"

    def measure(self, depth: int, attention: Attention) -> dict[str, Tensor]:
        maps = patch_attention(attention.logits, self.layout.prefix)                             # (B, H, P, P)
        return {"map_similarity": pairwise_cosine(maps.transpose(1, 2)).mean(-1)}


class TokenSimilarity(PerImage):
    """"token_similarity" (images, 1 + blocks): cosine of two patch tokens of an image, mean over pairs, from depth 0."""
    reads = "tokens"

    def measure(self, depth: int, tokens: Tensor) -> dict[str, Tensor]:
        return {"token_similarity": pairwise_cosine(tokens[:, self.layout.prefix:].float())}


class DepthSimilarity(PerImage):
    """Cosine of a patch token with itself at two depths, mean over patches, each (images, blocks):

    "block_similarity": before and after a block; "attention_similarity": before and after its attention half.
    """
    reads = "halves"

    def measure(self, depth: float, tokens: Tensor) -> dict[str, Tensor]:
        tokens, whole = tokens[:, self.layout.prefix:].float(), depth == int(depth)
        found = {}
        if depth > 0:
            name = "block_similarity" if whole else "attention_similarity"
            found[name] = F.cosine_similarity(self.before, tokens, dim=-1).mean(-1)               # (B,)
        if whole:
            self.before = tokens if depth < self.layout.depth else None                           # nothing is kept at the end
        return found


class AttentionMaps:
    """Keeps the attention of every block, all of it: for a handful of images."""
    reads = "attention"

    def start(self, layout: Layout) -> None:
        self.maps = []

    def update(self, depth: int, attention: Attention) -> None:
        self.maps.append(attention.logits.softmax(-1))

    def compute(self) -> dict[str, Tensor]:
        return {"maps": torch.stack(self.maps)}


def attention_maps(backbone: nn.Module, images: Tensor) -> Tensor:
    """Attention of every block: images (B, 3, S, S) -> (blocks, B, heads, N, N), rows are queries and sum to 1.

    `maps[-1, 0, 2, prefix + 30, prefix:]` is what patch 30 looks at in head 2 of the last block, over patches. uint8 images
    are normalised, float images are taken as they come. Raises CourseError as `record` does.
    """
    metric, layout = AttentionMaps(), layout_of(backbone, images)
    metric.start(layout)
    observe(backbone, images, [metric], layout)
    return metric.compute()["maps"]
