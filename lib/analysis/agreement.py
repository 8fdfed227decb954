"""Do two linear probes agree on classes? Kendall's tau of their rankings (Shekhar et al. 2023, the workshop paper's Fig. 4).

Two questions. Of one image: which classes come first, second, ... for each probe? Of all: which classes does each find easy?
Tau is that with ties (Kendall 1945), tau_b: 1 for the same order, -1 for the reverse, 0 on average for orders drawn at random.
"""
from typing import NamedTuple

import torch
from torch import Tensor

from lib.errors import CourseError
from lib.random import combine, uniform

PAIRS = 10_000_000                    # compared at a time


def kendall_tau(x: Tensor, y: Tensor) -> Tensor:
    """tau_b of C numbers in x with C in y, row by row: (..., C), (..., C) -> (...) float64. nan where one of them is all ties.

    (concordant - discordant) / sqrt(pairs not tied in x * pairs not tied in y): a pair's sign in x times its sign in y, as a
    cosine. What `scipy.stats.kendalltau` gives, of many rows at once. Raises CourseError for different shapes or C below 2.
    """
    if x.shape != y.shape or x.shape[-1:] < (2,):
        raise CourseError(f"tau of {tuple(x.shape)} and {tuple(y.shape)}; expected the same shape (..., C), C at least 2")
    rows, c, found = x.shape[:-1], x.shape[-1], []
    for a, b in zip(*(z.reshape(-1, c).split(max(PAIRS // c**2, 1)) for z in (x, y)), strict=True):
        a, b = (torch.sign(z[:, :, None] - z[:, None]).flatten(1) for z in (a.double(), b.double()))           # (n, C C)
        found.append((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt())
    return torch.cat(found).view(rows)


# ------------------------------------------------------------------------------------------------- image by image

def top_ranks(scores: Tensor, k: int) -> Tensor:
    """Rank of each class for each image, 1 the best; all classes behind the first k share the rank k + 1: (n, C) -> (n, C)."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return (1 + order.argsort(dim=1)).clamp(max=k + 1)


def class_rank_tau(first: Tensor, second: Tensor, k: int | None = None) -> Tensor:
    """tau_b of how two probes rank the classes for each image: scores (n, C), (n, C) -> (n,) float64.

    k: only classes that are among the first k of one of the two count, and those behind a probe's own first k are tied there
    (after Fagin et al. 2003): two probes without a class in common get a tau below 0. None: all classes. The paper shows the
    top 5, 10 and 100, but how it compares lists of different classes is not known: its numbers do not stand beside these.
    Raises CourseError for different shapes or another k.
    """
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] < 2:
        raise CourseError(f"scores {tuple(first.shape)} and {tuple(second.shape)}; expected both (n, C), at least 2 classes")
    classes = first.shape[1]
    k = classes if k is None else k
    if k not in range(1, classes + 1):
        raise CourseError(f"the top {k} of {classes} classes; take 1 to {classes}")
    a, b = top_ranks(first, k), top_ranks(second, k)
    found = []
    for x, y in zip(a, b, strict=True) if k < classes else ():
        counts = (x <= k) | (y <= k)
        found.append(kendall_tau(x[counts], y[counts]) if counts.sum() > 1 else x.new_full((), 1.0, dtype=torch.float64))
    return torch.stack(found) if k < classes else kendall_tau(a, b)


def outcomes(first: Tensor, second: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Which images both probes get right, both wrong, or one of them: predictions (n,), (n,), labels (n,) -> (n,) bool each."""
    a, b = first == labels, second == labels
    return {"both right": a & b, "both wrong": ~a & ~b, "one right": a ^ b}


# ------------------------------------------------------------------------------------------------- class by class

class Agreement(NamedTuple):
    """A tau with a 95 % interval over images."""
    tau: float
    low: float
    high: float


def accuracy_rank_agreement(first: Tensor, second: Tensor, labels: Tensor, resamples: int = 1000, seed: int = 0) -> Agreement:
    """tau_b of the two probes' accuracies by class: predictions (n,), (n,) for the same images, labels (n,).

    Classes without images are left out. The interval is a percentile bootstrap: images are drawn again within each class, the
    same for both probes. Few images of a class blur its accuracy and pull tau towards 0; two probes of one objective show how
    far. Raises CourseError if the three do not fit, or there are less than 2 classes.
    """
    if not first.shape == second.shape == labels.shape or labels.ndim != 1:
        raise CourseError(f"predictions {tuple(first.shape)} and {tuple(second.shape)} for labels {tuple(labels.shape)}; "
                          "expected (n,) each")
    present = labels.unique()
    if len(present) < 2 or resamples < 1:
        raise CourseError(f"{len(present)} class(es) and {resamples} resamples; expected at least 2 classes and 1 resample")
    right, drawn = torch.stack([first == labels, second == labels]).double(), []  # (2, n)
    for label in present.tolist():
        members = (labels == label).nonzero()[:, 0]                              # (m,)
        u = uniform(combine("agreement", seed, label, torch.arange(resamples)), len(members))     # (resamples, m)
        drawn.append(right[:, members[(u * len(members)).long()]].mean(2))       # (2, resamples)
    accuracies = torch.stack([right[:, labels == label].mean(1) for label in present], dim=1)      # (2, classes)
    first, second = torch.stack(drawn, dim=2)                                    # (resamples, classes) each
    taus = kendall_tau(first, second)
    low, high = taus.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Agreement(kendall_tau(*accuracies).item(), low, high)


def prediction_f1(first: Tensor, second: Tensor) -> float:
    """F1 of two probes' predictions with each other, mean over the classes that either predicts: (n,), (n,) -> 0 to 1.

    Of class c it is 2 n(both say c) / (n(first says c) + n(second says c)), the same whichever is taken for the truth. Shekhar
    et al. report a top-1 F1 without saying how classes are averaged. Raises CourseError for different shapes or no images.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise CourseError(f"predictions {tuple(first.shape)} and {tuple(second.shape)}; expected both (n,), at least one image")
    size = int(max(first.max(), second.max())) + 1
    a, b, both = (torch.bincount(z, minlength=size).double() for z in (first, second, first[first == second]))
    said = a + b > 0
    return (2 * both[said] / (a + b)[said]).mean().item()
