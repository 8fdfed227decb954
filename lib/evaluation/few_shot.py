"""What can be read off frozen features with ten labels a class? A ridge probe, of one token or of many at once.

Raghu et al. 2021 (Figures 11, 13 and D.4) measure so where in a ViT a class can be told: at every depth, from CLS, from pooled
tokens, and from each single token by a probe of its own. The probe is least squares with a penalty, in closed form, from
features to +1 for an image's class and -1 for every other. The penalty is chosen on training images that were not drawn. Which
penalties the paper tries is not said; features are standardised here, and RIDGES are the course's own.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib import random
from lib.errors import CourseError
from lib.evaluation.factors import fit_ridge

RIDGES = (10.0, 1.0, 0.1, 0.01)       # of equally good ones the first


def draw_shots(labels: Tensor, shots: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Numbers of so many images of each class, drawn by the seed, and of all others: (N,) -> (classes shots,), the rest.

    Raises CourseError if a class has too few images, or if no image is left over.
    """
    counts = torch.bincount(labels)
    if shots < 1 or counts.min() < shots or len(labels) == shots * len(counts):
        raise CourseError(f"{shots} images a class were asked for, of {len(labels)} with {int(counts.min())} in the smallest "
                          f"of {len(counts)} classes; expected at least as many, and some left over to choose the penalty by")
    order = random.permutation(random.combine("shots", seed), len(labels))
    place = torch.cat([(labels[order] == c).nonzero()[:shots, 0] for c in range(len(counts))])
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[place] = False
    return order[place], order[rest]


def few_shot_probe(features: Tensor, labels: Tensor, queries: Tensor, shots: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Train on `shots` images a class of features (..., N, D), labels (N,); -> predictions of queries (..., Q, D) and ridges.

    Leading axes are probes apart, of tokens or depths: predictions (..., Q) int64, ridges (...). Features are standardised by
    the images drawn, and the bias, the mean of the targets, is not penalised. Each probe takes the ridge with which it is best
    on the training images not drawn. The queries have no say in it. Raises CourseError as `draw_shots` does, and for features
    that do not fit or are not finite.
    """
    if (features.ndim < 2 or features.shape[-2:-1] != labels.shape or features.shape[:-2] != queries.shape[:-2]
            or features.shape[-1] != queries.shape[-1]):
        raise CourseError(f"a few-shot probe needs features (..., N, D), labels (N,) and queries (..., Q, D), got "
                          f"{tuple(features.shape)}, {tuple(labels.shape)} and {tuple(queries.shape)}")
    if not (features.isfinite().all() and queries.isfinite().all()):
        raise CourseError("a few-shot probe needs finite features; some of these are nan or infinite")
    drawn, held = draw_shots(labels, shots, seed)
    x, held_out, asked = (z.double() for z in (features[..., drawn, :], features[..., held, :], queries))
    mean, std = x.mean(-2, keepdim=True), x.std(-2, keepdim=True) + 1e-6
    x, held_out, asked = ((z - mean) / std for z in (x, held_out, asked))
    targets = 2 * F.one_hot(labels[drawn]).double() - 1                            # (n, classes)
    bias = targets.mean(0)
    probes = features.shape[:-2]
    best, ridges = torch.full(probes, -1.0), torch.zeros(probes)
    predictions = torch.zeros(*probes, queries.shape[-2], dtype=torch.int64)
    for ridge in RIDGES:
        weights = fit_ridge(x, targets - bias, ridge)                              # (..., D, classes)
        right = ((held_out @ weights + bias).argmax(-1) == labels[held]).float().mean(-1)
        better = right > best
        best, ridges = torch.where(better, right, best), torch.where(better, ridge, ridges)
        predictions = torch.where(better[..., None], (asked @ weights + bias).argmax(-1), predictions)
    return predictions, ridges


class OverTokens(NamedTuple):
    """Shares of images, from 0 to 1, of the worst and the best of all tokens' probes and of all on average."""
    worst: float
    mean: float
    best: float


def over_tokens(right: Tensor) -> OverTokens:
    """Whether each token's probe is right about each image, (tokens, Q) bool -> worst, mean and best token.

    The best of 64 coins looks better than a coin. So the best token (and the worst) is found on every second image and
    measured on the others, then the other way round, and the two shares are averaged. Raises CourseError for less than 2
    images.
    """
    if right.ndim != 2 or right.shape[1] < 2 or not len(right):
        raise CourseError(f"answers {tuple(right.shape)}; expected (tokens, images) with at least 1 token and 2 images")
    halves = right[:, ::2].double().mean(1), right[:, 1::2].double().mean(1)       # (tokens,) each
    worst, best = (sum(there[pick(here)].item() for here, there in (halves, halves[::-1])) / 2
                   for pick in (torch.argmin, torch.argmax))
    return OverTokens(worst, right.double().mean().item(), best)
