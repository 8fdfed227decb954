"""Checks of chapter 08, which layers matter."""
import torch
from torch import Tensor

from lib.errors import CourseError
from lib.exercises import check, compare


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _tensor(got, what: str) -> Tensor:
    """A tensor, from one or from a number. Raises CourseError for anything else."""
    if isinstance(got, float | int) and not isinstance(got, bool):
        got = torch.tensor(got, dtype=torch.float64)
    if not isinstance(got, Tensor):
        raise CourseError(f"{what}, a number or a tensor was expected, and a {type(got).__name__} came. Is the return missing?")
    return got


def _pair(got, what: str) -> tuple[Tensor, Tensor]:
    """The two things that an answer returns. Raises CourseError unless they are two."""
    if not isinstance(got, tuple) or len(got) != 2:
        came = f"{len(got)} came" if isinstance(got, tuple) else f"a {type(got).__name__} came"
        raise CourseError(f"{what}, two things were expected, and {came}. Is the return missing, or half of it?")
    return _tensor(got[0], f"{what}, for the first"), _tensor(got[1], f"{what}, for the second")


@check
def check_without(without) -> str:
    """without(blocks, tokens (B, N, D), left_out) -> what stands after the last block; blocks count from 1."""
    order, given = [], "For 4 blocks with the third left out"

    def block(k: int):
        def forward(tokens: Tensor) -> Tensor:
            order.append(k)
            return tokens * (1 + k / 4) + k**2
        return forward

    def run(numbers, tokens: Tensor) -> Tensor:
        for k in numbers:
            tokens = tokens * (1 + k / 4) + k**2
        return tokens

    tokens, blocks = _random(2, 3, 2), [block(k) for k in (1, 2, 3, 4)]
    got = _tensor(without(blocks, tokens.clone(), 3), given)
    compare(got, run((1, 2, 4), tokens), {
        "Blocks count from 1: you left out the one before.": run((1, 3, 4), tokens),
        "Blocks count from 1: you left out the one after, or cut the network off behind the block.": run((1, 2, 3), tokens),
        "None is left out.": run((1, 2, 3, 4), tokens),
        "You cut the network short: the blocks behind the gap run too.": run((1, 2), tokens),
        "Only the block that was to be left out runs.": run((3,), tokens),
        "Every block gets the first tokens; hand each what the one before it gave.": run((4,), tokens),
        "The blocks run in the wrong order.": run((4, 2, 1), tokens),
        "No block runs.": tokens,
    }, given)
    if order != [1, 2, 4]:
        raise CourseError(f"the blocks 1, 2, 4 were expected to run, once each and in this order, and {order} ran")
    return "The stream goes on as if the block had added nothing."


@check
def check_fold(fold) -> str:
    """fold(weights (D, K), bias (K,), mean (D,), std (D,)) -> weights (D, K), bias (K,) for features as they are."""
    weights, bias, mean, std = _random(4, 3), _random(3, seed=1), _random(4, seed=2) + 1, _random(4, seed=3).abs() + 0.5
    given = "For 4 features and 3 classes"
    new, offset = _pair(fold(weights.clone(), bias.clone(), mean.clone(), std.clone()), given)
    divided = weights / std[:, None]
    compare(new, divided, {
        "The standard deviation divides; you multiply by it.": weights * std[:, None],
        "The standard deviation is missing: x is divided by it before the weights.": weights,
        "The mean does not change the weights, only the bias.": divided * mean[:, None],
        "Divide by the standard deviation, not by its square.": weights / std[:, None].square(),
        "Features are the first axis of the weights, classes the second.": divided.T,
    }, f"{given}, the new weights")
    compare(offset, bias - mean @ divided, {
        "The mean is missing in the bias.": bias,
        "The mean is taken off, not added.": bias + mean @ divided,
        "The mean goes through the new weights: it is divided by the standard deviation too.": bias - mean @ weights,
        "The old bias is missing.": -mean @ divided,
        "The old bias is not divided by anything.": (bias - mean @ divided) / std.mean(),
    }, f"{given}, the new bias")
    return "One layer, and nothing to remember of the training set."


@check
def check_peak_split(peak_split) -> str:
    """peak_split(right (depths, images) bool) -> the best depth on images 0, 2, ..., its share on images 1, 3, ..."""
    even = torch.tensor([[0, 0, 0, 0, 1], [0, 1, 1, 1, 1], [1, 0, 0, 1, 1],
                         [1, 1, 0, 1, 1], [0, 1, 0, 0, 1], [1, 1, 1, 0, 0]])       # right: 1 4 3 4 2 3
    odd = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [1, 1, 1, 0, 1],
                        [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 1, 0]])        # right: 2 2 4 3 5 2
    right = torch.stack([even, odd], 2).flatten(1).bool()                          # (6, 10)
    given = "For 6 depths and 10 images"
    depth, share = _pair(peak_split(right.clone()), given)

    def number(value: float) -> Tensor:
        return torch.tensor(float(value), dtype=torch.float64)

    compare(depth, number(1), {
        "That is the best depth over all images; choose on images 0, 2, 4, ... alone.": number(2),
        "Depths 1 and 3 are level: take the first of them.": number(3),
        "That is the best depth of images 1, 3, 5, ...; choose on the others.": number(4),
        "That is the worst depth.": number(0),
        "That is the best depth on the first half of the images; choose on every second one, right[:, ::2].": number(5),
    }, f"{given}, the depth")
    compare(share, number(0.4), {
        "That is the share of the images that had a say in the choice; take the others.": number(0.8),
        "That is the share of all images; take those that had no say in the choice.": number(0.6),
        "That is how many images were right, not which share.": number(2),
        "That is the best share of the other half; the depth was chosen before.": number(1),
    }, f"{given}, the share")
    return "Chosen on one half, measured on the other: the winner's luck is not counted."


@check
def check_early_exit(early_exit) -> str:
    """early_exit(probabilities (depths, N, K), threshold) -> classes (N,), number of the depth at which each stops (N,)."""
    probabilities = torch.tensor([[[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [0.3, 0.4, 0.3]],
                                  [[0.03, 0.97, 0.0], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1], [0.85, 0.1, 0.05]],
                                  [[0.0, 0.95, 0.05], [0.0, 0.97, 0.03], [0.2, 0.3, 0.5], [0.3, 0.1, 0.6]]],
                                 dtype=torch.float64)
    given = "For 3 depths, 4 images, 3 classes and a threshold of 0.8"
    classes, depth = _pair(early_exit(probabilities.clone(), 0.8), given)

    def numbers(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    compare(depth, numbers(0, 1, 2, 1), {
        "Image 1 reaches 0.8 exactly: at least the threshold, not above it.": numbers(0, 2, 2, 1),
        "Image 2 is never sure: it goes to the last depth.": numbers(0, 1, 0, 1),
        "Image 2 is never sure: it goes to the last depth, not to its surest.": numbers(0, 1, 1, 1),
        "These are the surest depths; stop at the first that is sure enough.": numbers(1, 2, 1, 1),
        "These are the last depths that are sure enough; stop at the first.": numbers(2, 2, 2, 1),
        "Depths count from 0.": numbers(1, 2, 3, 2),
        "Classes come first, then depths.": numbers(0, 2, 2, 0),
    }, f"{given}, the depths")
    compare(classes, numbers(0, 2, 2, 0), {
        "These are the classes of the last depth; each image speaks at its own.": numbers(1, 1, 2, 2),
        "These are the classes of the first depth; each image speaks at its own.": numbers(0, 0, 0, 1),
        "This is how sure it is; the class is where that stands.": torch.tensor([0.9, 0.8, 0.5, 0.85], dtype=torch.float64),
    }, f"{given}, the classes")
    given = given.replace("0.8", "0.9")
    classes, depth = _pair(early_exit(probabilities.clone(), 0.9), given)
    compare(depth, numbers(0, 2, 2, 2), {"Is the threshold the one that you are given?": numbers(0, 1, 2, 1)},
            f"{given}, the depths")
    compare(classes, numbers(0, 1, 2, 2), {}, f"{given}, the classes")
    return "Easy images leave early."
