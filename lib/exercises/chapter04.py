"""Checks of chapter 04, what a representation is worth."""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import CourseError
from lib.exercises import check, compare


@check
def check_knn_votes(knn_votes) -> str:
    """knn_votes(cosine (N,), labels (N,), classes, k, temperature) -> (classes,), sums to 1."""
    cosine = torch.tensor([0.9, 0.2, 0.85, 0.5, 0.87, 0.1, 0.8])
    labels, k, temperature = torch.tensor([0, 3, 1, 1, 1, 0, 2]), 5, 0.3

    def votes(weights: Tensor, places: Tensor) -> Tensor:
        return torch.zeros(4).index_add(0, labels[places], weights)

    near, far = cosine.topk(k).indices, (-cosine).topk(k).indices
    weights = (cosine[near] / temperature).exp()
    right, everyone = votes(weights, near), torch.arange(len(cosine))
    once = torch.zeros(4)
    for place, weight in zip(near, weights):                                       # the last of a class overwrites the others
        once[labels[place]] = weight
    mistakes = {
        "Every neighbour counts the same here; weigh it with exp(cosine / temperature).": votes(torch.ones(k), near) / k,
        "The temperature is missing.": votes(cosine[near].softmax(0), near),
        "Divide the cosine by the temperature, do not multiply.": votes((cosine[near] * temperature).softmax(0), near),
        "The exponential is missing.": votes(cosine[near], near) / cosine[near].sum(),
        "Those are the votes of all of the bank; only the k nearest vote.":
            votes((cosine / temperature).softmax(0), everyone),
        "You took the farthest; a large cosine is near.": votes((cosine[far] / temperature).softmax(0), far),
        "A class gets the vote of one neighbour: `votes[labels] += w` adds once where a class occurs twice. Use index_add_.":
            once / once.sum(),
        "Take the labels of the nearest, labels[nearest], not the first k labels.":
            votes(weights, everyone[:k]) / weights.sum(),
        "The votes are right and do not sum to 1: divide by their sum.": right,
        "Add up the weights first; a softmax over the sums is something else.": right.softmax(0),
        "That is the class; the share of votes of every class was asked for.": right.argmax(),
    }
    got = knn_votes(cosine.clone(), labels.clone(), 4, k, temperature)
    compare(got, right / right.sum(), mistakes, "For 7 images of 4 classes, k = 5 and a temperature of 0.3")
    return "One near neighbour may outvote several far ones."


def _whitened(vectors: Tensor, others: Tensor, keep: int, centre: Tensor | None = None, power: float = 1.0,
              last: bool = False) -> Tensor:
    """Others (M, D) -> (M, keep), right, or with one of the usual mistakes."""
    mean = vectors.mean(0)
    _, singular, rows = torch.linalg.svd(vectors - mean, full_matrices=False)
    kept = slice(-keep, None) if last else slice(keep)
    deviation = singular[kept] / len(vectors) ** 0.5
    return (others - (mean if centre is None else centre)) @ rows[kept].T / deviation**power


@check
def check_whiten(whiten) -> str:
    """whiten(vectors (N, D), others (M, D), keep) -> (M, keep), float64."""
    generator = torch.Generator().manual_seed(0)
    loud = torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1]).double()
    vectors, others = (torch.randn(n, 5, generator=generator).double() * loud + 3 for n in (40, 6))
    got = whiten(vectors.clone(), others.clone(), 3)
    if isinstance(got, tuple):
        raise CourseError(f"{len(got)} results came, and one was expected: return the whitened `others` alone.")
    if isinstance(got, Tensor) and got.shape != (6, 3):
        raise CourseError(f"for 6 vectors and keep = 3, the shape (6, 3) was expected, and {tuple(got.shape)} came. "
                          "The second argument is what is to be whitened; the first gives mean and directions.")
    both = {
        "Take the mean of the first argument from the second.": _whitened(vectors, others, 3, torch.zeros(5).double()),
        "The mean to take out is that of the first argument, not of the second.": _whitened(vectors, others, 3, others.mean(0)),
        "Mean and directions are those of the first argument.": _whitened(others, others, 3),
        "You project, and do not divide by the deviation along each direction.": _whitened(vectors, others, 3, power=0),
        "Divide by the deviation, not by the variance.": _whitened(vectors, others, 3, power=2),
        "Those are the quietest directions; keep the loudest.": _whitened(vectors, others, 3, last=True),
        "Divide the singular values by the root of N: only then are they deviations.":
            _whitened(vectors, others, 3) / len(vectors) ** 0.5,
        "Divide by the root of N, not of N - 1.": _whitened(vectors, others, 3) * (39 / 40) ** 0.5,
    }
    products = {text: wrong @ wrong.T for text, wrong in both.items()}             # a direction may point either way
    right = _whitened(vectors, others, 3)
    compare(got @ got.T if isinstance(got, Tensor) else got, right @ right.T, products,
            "For the products of 6 whitened vectors with each other")
    return "Every direction has the same say; that is what a linear probe may choose to do, and a cosine may not."


@check
def check_paired_interval(paired_interval) -> str:
    """paired_interval(first (N,) bool, second (N,) bool, draws (R, N) int64) -> (low, high)."""
    generator = torch.Generator().manual_seed(0)
    second = torch.rand(200, generator=generator) < 0.5
    first = second | (torch.rand(200, generator=generator) < 0.2)                  # right wherever the second is, and more
    draws = torch.randint(200, (500, 200), generator=generator)
    a, b = first.double()[draws].mean(1), second.double()[draws].mean(1)
    ends = torch.tensor([0.025, 0.975]).double()
    right = (a - b).quantile(ends)
    mistakes = {
        "Draw the same images for both networks: the interval shrinks, because an image that is hard is hard for both.":
            (a - b.roll(1)).quantile(ends),
        "These are the ends for the first network alone.": a.quantile(ends),
        "The difference is the other way round: first minus second.": (b - a).quantile(ends),
        "That is the 90 % interval; 95 % leaves 2.5 % on either side.":
            (a - b).quantile(torch.tensor([0.05, 0.95]).double()),
        "These are the smallest and the largest difference, not the middle 95 %.": torch.stack([(a - b).min(), (a - b).max()]),
        "Subtract before you take the quantiles: ends of a difference are not differences of ends.":
            a.quantile(ends) - b.quantile(ends),
        "Low comes first.": right.flip(0),
    }
    got = paired_interval(first.clone(), second.clone(), draws.clone())
    try:
        got = torch.stack([torch.as_tensor(end).double() for end in got])
    except (TypeError, RuntimeError, ValueError):
        raise CourseError(f"two numbers were expected, and a {type(got).__name__} came. Is the return missing?") from None
    compare(got, right, mistakes, "For 200 images and 500 draws")
    return "Compare networks on the same images, image by image."


@check
def check_mean_iou(mean_iou) -> str:
    """mean_iou(predicted (B, H, W), truth (B, H, W), classes) -> a number from 0 to 1."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(3, (4, 5, 5), generator=generator)
    predicted = torch.where(torch.rand(4, 5, 5, generator=generator) < 0.7, truth,
                            torch.randint(4, (4, 5, 5), generator=generator))
    p, t = (F.one_hot(x, 5).double() for x in (predicted, truth))                  # class 3 is predicted only, 4 is nowhere
    both, either = (p * t).sum((0, 1, 2)), (p + t).clamp(max=1).sum((0, 1, 2))
    present = either > 0
    right = (both / either)[present].mean()
    each = (p * t).sum((1, 2)) / (p + t).clamp(max=1).sum((1, 2))
    mistakes = {
        "That is the share of pixels that are right; a small class counts next to nothing in it.":
            (predicted == truth).double().mean(),
        "A class that is neither there nor predicted has no say; you count it as 0.": (both / either.clamp(min=1)).mean(),
        "A class that is neither there nor predicted has no say; you count it as 1.":
            torch.where(present, both / either, 1.0).mean(),
        "Add up the pixels of all images first, then divide.": each.nanmean(),
        "The pixels that are both count twice below the line: the union is predicted + true - both.":
            (both / (p.sum((0, 1, 2)) + t.sum((0, 1, 2))))[present].mean(),
        "That is Dice, 2 · both / (predicted + true); IoU divides by the union.":
            (2 * both / (p.sum((0, 1, 2)) + t.sum((0, 1, 2))))[present].mean(),
        "These are all classes' pixels in one fraction; take the mean of a fraction for each.": both.sum() / either.sum(),
        "That is the share of each true class that was found; pixels wrongly claimed count against it too.":
            (both / t.sum((0, 1, 2)))[t.sum((0, 1, 2)) > 0].mean(),
        "A class that is predicted and nowhere true counts too: its IoU is 0.":
            (both / either)[t.sum((0, 1, 2)) > 0].mean(),
    }
    got = mean_iou(predicted.clone(), truth.clone(), 5)
    got = got if isinstance(got, Tensor) else torch.as_tensor(got).double() if isinstance(got, float | int) else got
    compare(got, right, mistakes, "For 4 masks with three classes out of five, and a fourth that is only predicted")
    return "A class counts by its pixels only within itself, so small classes count as much as large ones."
