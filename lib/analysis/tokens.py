"""Where tokens go and whom they stay with: together or one by one, by image or intermingled (Park et al. 2023, section 3).

Shapes: B images, P patch tokens each, without prefix, D channels. Each picture has its number beside it: the projection has
`unison`, t-SNE has `neighbour_purity` and `silhouette`.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from torch import Tensor, nn

from lib.analysis.recording import Layout, PerImage, layout_of, observe
from lib.errors import CourseError
from lib.random import combine, permutation

PERPLEXITY = 20                                                                  # of t-SNE: about so many neighbours count


class PatchTokens:
    """Keeps the patch tokens of every depth, all of them: for a handful of images."""
    reads = "halves"

    def start(self, layout: Layout) -> None:
        self.layout, self.tokens = layout, {}

    def update(self, depth: float, tokens: Tensor) -> None:
        self.tokens[depth] = tokens[:, self.layout.prefix:]

    def compute(self) -> dict[float, Tensor]:
        return self.tokens


def patch_tokens(backbone: nn.Module, images: Tensor) -> dict[float, Tensor]:
    """Patch tokens before, in and after every block: images (B, 3, S, S) -> {0: (B, P, D), 0.5: ..., 1: ..., ...}.

    At l - 0.5 attention of block l has been added, at l its MLP too. uint8 images are normalised, float images are taken as
    they come. Raises CourseError as `record` does.
    """
    metric, layout = PatchTokens(), layout_of(backbone, images)
    metric.start(layout)
    observe(backbone, images, [metric], layout)
    return metric.compute()


# ------------------------------------------------------------------------------------------------- how tokens are moved

class TokenProjection(NamedTuple):
    """Tokens of one image in the three directions in which they vary most."""
    before: Tensor                    # (P, 3)
    after: Tensor                     # (P, 3)
    variance: Tensor                  # (3,) share of the variance of all 2 P tokens that lies along each direction
    movement: float                   # share of the squared displacement that the three directions show


def project_tokens(before: Tensor, after: Tensor) -> TokenProjection:
    """Tokens of an image before and after, (P, D) each, along the top three principal directions of both together.

    Of both, because a step that all tokens take alike may leave the directions in which they differed before; in those alone
    it would not be seen at all. The origin is the mean of all 2 P tokens. Raises CourseError for less than two tokens or three
    channels, or if the two differ in shape.
    """
    if before.shape != after.shape or before.ndim != 2 or len(before) < 2 or before.shape[1] < 3:
        raise CourseError(f"tokens {tuple(before.shape)} before and {tuple(after.shape)} after; expected both (P, D) of one "
                          "image, at least 2 tokens of at least 3 channels")
    both = torch.cat([before, after]).double()                                   # (2 P, D)
    both = both - both.mean(0)
    _, values, directions = torch.linalg.svd(both, full_matrices=False)
    directions = directions[:3]                                                  # (3, D)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()                                     # or the sign would be left to chance
    old, new = (both @ directions.mT).chunk(2)
    shown = (new - old).square().sum() / (after.double() - before.double()).square().sum()
    return TokenProjection(old, new, values[:3].square() / values.square().sum(), shown.item())


def unison(before: Tensor, after: Tensor) -> Tensor:
    """The part of the tokens' displacement that is common to all: (B, P, D), (B, P, D) -> (B,) float64, from 0 to 1.

    |mean displacement|^2 / mean |displacement|^2: 1 if every token takes the same step, 0 if steps only change where tokens are
    to each other, 1 / P on average if steps are independent around 0, nan if no token moves. Raises CourseError for less than
    two tokens.
    """
    if before.shape[1] < 2:
        raise CourseError(f"{before.shape[1]} patch token(s) in an image, always in unison; expected at least 2")
    steps = after.double() - before.double()
    return steps.mean(1).square().sum(-1) / steps.square().sum(-1).mean(1)


class Unison(PerImage):
    """`unison` of the steps that tokens take, each (images, blocks):

    "attention_unison": in the attention half of a block; "mlp_unison": in its other half; "block_unison": in both together.
    """
    reads = "halves"

    def measure(self, depth: float, tokens: Tensor) -> dict[str, Tensor]:
        tokens, found = tokens[:, self.layout.prefix:], {}
        if depth % 1:
            found["attention_unison"] = unison(self.entered, tokens)
            self.halfway = tokens
        else:
            if depth > 0:
                found["mlp_unison"] = unison(self.halfway, tokens)
                found["block_unison"] = unison(self.entered, tokens)
            self.entered, self.halfway = (tokens if depth < self.layout.depth else None), None    # nothing is kept at the end
        return found


# ------------------------------------------------------------------------------------------------- whom tokens are next to

def token_tsne(tokens: Tensor, seed: int = 0, per_image: int = 64) -> tuple[Tensor, Tensor]:
    """t-SNE of tokens of a few images: (B, P, D) -> positions (B, n, 2) and which patches they are (B, n), n at most per_image.

    Perplexity 20 and a random start, as in Park et al. 2023, Fig. E.2. The seed decides on start and patches; another seed
    gives another picture. Raises CourseError if there are no more tokens than the perplexity.
    """
    patches = torch.stack([permutation(combine(seed, "t-SNE", image), tokens.shape[1])[:per_image].sort().values
                           for image in range(len(tokens))])                     # (B, n)
    if patches.numel() <= PERPLEXITY:
        raise CourseError(f"{patches.numel()} tokens for a perplexity of {PERPLEXITY}; take more images or more tokens of each")
    chosen = tokens.cpu().float().gather(1, patches[:, :, None].expand(-1, -1, tokens.shape[2]))   # (B, n, D)
    start = int(combine(seed, "t-SNE start")) % 2**32
    tsne = TSNE(perplexity=PERPLEXITY, init="random", learning_rate="auto", max_iter=1000, random_state=start)
    return torch.from_numpy(tsne.fit_transform(chosen.flatten(0, 1).numpy())).unflatten(0, patches.shape), patches


def comparable(tokens: Tensor, metric: str) -> Tensor:
    """Tokens (B, P, D) in float64, of length 1 for "cosine", so that a shorter distance is a larger cosine."""
    if metric not in ("cosine", "euclidean"):
        raise CourseError(f"metric {metric!r}; expected cosine or euclidean")
    if len(tokens) < 2 or tokens.shape[1] < 2:
        raise CourseError(f"{len(tokens)} image(s) of {tokens.shape[1]} token(s); expected at least 2 images of at least 2")
    return F.normalize(tokens.double(), dim=-1) if metric == "cosine" else tokens.double()


def neighbour_purity(tokens: Tensor, k: int = 10, metric: str = "cosine") -> Tensor:
    """Share of a token's k nearest others that are of its own image, mean over tokens: (B, P, D) -> (B,) float64.

    1: the tokens of an image keep to themselves. `chance_purity`: they lie among those of the other images. Tokens equally far
    away, as on a plain background, share the places that are left for them. metric: "cosine" or "euclidean". Raises CourseError
    for another metric, less than two images or tokens, or k above P - 1.
    """
    x, (images, patches) = comparable(tokens, metric), tokens.shape[:2]
    if not 1 <= k < patches:
        raise CourseError(f"{k} neighbours where a token has {patches - 1} others in its image; take 1 to {patches - 1}")
    equal = 1e-12 * x.square().sum(-1).max()                                     # squared distances this close are the same
    x = (x - x.mean((0, 1))).flatten(0, 1)                                       # (B P, D)
    squares, found = x.square().sum(-1), []
    for image in range(images):
        own = slice(image * patches, (image + 1) * patches)
        distances = squares[own, None] + squares - 2 * x[own] @ x.mT             # (P, B P), squared
        distances[:, own].fill_diagonal_(torch.inf)                              # a token is no neighbour of its own
        furthest = distances.kthvalue(k, dim=1, keepdim=True).values
        closer, tied = distances < furthest - equal, (distances - furthest).abs() <= equal
        places = (k - closer.sum(1)).double() / tied.sum(1)                      # for each of those tied
        found.append((closer[:, own].sum(1) + places * tied[:, own].sum(1)).mean() / k)
    return torch.stack(found)


def chance_purity(images: int, patches: int) -> float:
    """Purity where images do not matter: the share of a token's image among all other tokens."""
    return (patches - 1) / (images * patches - 1)


def silhouette(tokens: Tensor, metric: str = "cosine") -> Tensor:
    """How far the tokens of an image stand apart from those of the nearest other image: (B, P, D) -> (B,) float64.

    Of a token (b - a) / max(a, b), with a its mean distance to the others of its image and b to those of the nearest other
    image; mean over tokens (Rousseeuw 1987). 1: apart, 0: on the border, below: amid another image. metric: "cosine" (the
    distance is 1 - cosine) or "euclidean". Raises CourseError for another metric, or less than two images or tokens.
    """
    x, (images, patches) = comparable(tokens, metric), tokens.shape[:2]
    labels = torch.arange(images).repeat_interleave(patches)
    values = silhouette_samples(x.flatten(0, 1).cpu().numpy(), labels.numpy(), metric=metric)
    return torch.from_numpy(values).unflatten(0, (images, patches)).mean(1)
