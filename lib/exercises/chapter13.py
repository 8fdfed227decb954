"""Checks of chapter 13, the ledger."""
from math import sqrt

import torch
from torch import Tensor

from lib.errors import CourseError
from lib.exercises import check, compare


def _number(got, given: str) -> Tensor:
    """A tensor without axes, from a number or a tensor with one element. Raises CourseError for anything else."""
    if isinstance(got, Tensor) and got.numel() == 1 and not got.is_complex():
        return got.double().reshape(())
    if isinstance(got, (int, float)) and not isinstance(got, bool):
        return torch.tensor(float(got), dtype=torch.float64)
    kind = f"a tensor {tuple(got.shape)}" if isinstance(got, Tensor) else f"a {type(got).__name__}"
    raise CourseError(f"{given}, a number was expected, and {kind} came. Is the return missing?")


@check
def check_readings(readings) -> str:
    """readings(low (n,), high (n,), margin) -> (n,): 1 supported, -1 not supported, 0 inconclusive."""
    low = torch.tensor([0.2, -0.3, -0.1, 0.04, 0.08, 0.11, 0.0], dtype=torch.float64)
    high = torch.tensor([0.4, -0.1, 0.5, 0.08, 0.14, 0.13, 0.15], dtype=torch.float64)

    def read(supported: Tensor, refuted: Tensor) -> Tensor:
        return supported.double() - refuted.double()

    got = readings(low.clone(), high.clone(), 0.1)
    compare(got.double() if isinstance(got, Tensor) and not got.is_complex() else got, read(low > 0.1, high < 0.1), {
        "The margin is left out: more than 0 is not enough where the paper says how much.": read(low > 0, high < 0),
        "The margin counts for refuting too: all below it, and the claim as stated does not hold.": read(low > 0.1, high < 0),
        "The middle of an interval decides nothing; its ends do.": read((low + high) / 2 > 0.1, (low + high) / 2 < 0.1),
        "Supported needs the lower end above the margin, not the upper one.": read(high > 0.1, high < 0.1),
        "The upper end says whether a claim is refuted, not the lower one.": read(low > 0.1, low < 0.1),
        "The two ends are swapped.": read(high > 0.1, low < 0.1),
        "The signs are swapped: 1 is supported.": read(high < 0.1, low > 0.1),
    }, "For seven intervals and a margin of 0.1")
    return "An interval that holds the margin leaves a claim open."


@check
def check_paired(paired) -> str:
    """paired(a (n,), b (n,)) -> half the width of the 95 % interval of the mean difference."""
    generator = torch.Generator().manual_seed(0)
    hard = torch.randn(50, generator=generator, dtype=torch.float64)
    a, b = hard + 0.2, hard + 0.3 * torch.randn(50, generator=generator, dtype=torch.float64)
    error = (a - b).std() / sqrt(50)
    given = "For 50 images, half the width"
    compare(_number(paired(a.clone(), b.clone()), given), 1.96 * error, {
        "You add the two networks' variances as if they had seen different images; take the difference image by image first.":
            1.96 * ((a.var() + b.var()) / 50).sqrt(),
        "That is the scatter of images; the mean of n of them scatters by a root of n less.": 1.96 * (a - b).std(),
        "Divide by the root of n, not by n.": 1.96 * (a - b).std() / 50,
        "That is one standard error; a 95 % interval reaches 1.96 of them to each side.": error,
        "That is the whole width; half of it was asked for.": 3.92 * error,
        "The deviation divides by n - 1 (`std` does so by itself).": 1.96 * (a - b).std(correction=0) / sqrt(50),
        "Standard deviations do not add up, and pairs are subtracted first.": 1.96 * (a.std() + b.std()) / sqrt(50),
    }, given)
    return "What both networks find hard cancels out."


@check
def check_both(both) -> str:
    """both(values (n,), images, factor) -> half the width over seeds and images together."""
    values = torch.tensor([0.10, 0.14, 0.21], dtype=torch.float64)
    images, factor = 0.03, 4.303
    seeds = factor * values.std() / sqrt(3)
    given = "For three seeds"
    compare(_number(both(values.clone(), images, factor), given), (seeds**2 + images**2).sqrt(), {
        "Half widths of independent causes add as squares.": seeds + images,
        "The images are left out.": seeds,
        "The seeds are left out.": torch.tensor(images, dtype=torch.float64),
        "The root at the end is missing.": seeds**2 + images**2,
        "Divide the deviation of the seeds by the root of their number: it is their mean that you report.":
            ((factor * values.std())**2 + images**2).sqrt(),
        "1.96 is for many; three seeds need Student's factor, which is given.":
            ((1.96 * values.std() / sqrt(3))**2 + images**2).sqrt(),
        "The deviation divides by n - 1 (`std` does so by itself).":
            ((factor * values.std(correction=0) / sqrt(3))**2 + images**2).sqrt(),
        "All seeds see the same images: more seeds make that part no smaller.": (seeds**2 + images**2 / 3).sqrt(),
    }, given)
    return "Three seeds are few: Student's factor makes you pay for that."
