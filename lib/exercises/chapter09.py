"""Checks of chapter 09, do ViTs see like CNNs?"""
import torch
from torch import Tensor

from lib.exercises import check, compare, number


def _features(*shape: int, seed: int) -> Tensor:
    """Features off the origin, with columns of unlike scale."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * torch.linspace(0.5, 2, shape[-1], dtype=torch.float64) + torch.linspace(-1, 1.5, shape[-1], dtype=torch.float64)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


def _cosine(k: Tensor, other: Tensor) -> Tensor:
    return (k * other).sum() / (k.norm() * other.norm())


@check
def check_biased_cka(biased_cka) -> str:
    """biased_cka(x (n, p), y (n, q)) -> the cosine of their centred Gram matrices."""
    x, shift = _features(8, 5, seed=0), _features(8, 3, seed=1)
    y = shift + x[:, :3]
    a, b = _centred(x), _centred(y)
    k, other, given = a @ a.T, b @ b.T, "For 8 images, 5 and 3 features"
    right = _cosine(k, other)
    raw, rows = _cosine(x @ x.T, y @ y.T), _cosine(*((z - z.mean(1, keepdim=True)) @ (z - z.mean(1, keepdim=True)).T
                                                     for z in (x, y)))
    compare(number(biased_cka(x.clone(), y.clone()), given), right, {
        "Take the mean over images off each feature first.": raw,
        "Every feature has a mean of its own, over images (the first axis); you took one of each image.": rows,
        "Divide by the two lengths: this is the product of the matrices, not their cosine.": (k * other).sum(),
        "The lengths stand below as they are; you took their squares.": right / (k.norm() * other.norm()),
        "Below stand the two lengths, not their square root.": right * (k.norm() * other.norm()).sqrt(),
        "Above, multiply entry by entry and sum; the sum of a matrix product is another number.":
            (k @ other).sum() / (k.norm() * other.norm()),
        "That is the square of the cosine.": right.square(),
    }, given)
    given = "For features in another order, times 3, plus 7"
    same = number(biased_cka(x.clone(), 3 * x[:, [4, 2, 0, 1, 3]] + 7), given)
    compare(same, torch.ones((), dtype=torch.float64), {}, given)
    return "Order, scale and shift of the features do not matter to it."


@check
def check_hsic(hsic) -> str:
    """hsic(k (n, n), l (n, n)) -> HSIC_1 of two symmetric matrices, the unbiased one."""
    x, y = _features(6, 3, seed=2), _features(6, 4, seed=3)
    n, given = 6, "For 6 images"
    k, other = _centred(x) @ _centred(x).T, _centred(y) @ _centred(y).T + 0.3
    a, b = k - k.diag().diag(), other - other.diag().diag()

    def of(a: Tensor, b: Tensor, trace: float = 1, sums: float = 1, chains: float = 2, over: float = n * (n - 3)) -> Tensor:
        middle = a.sum() * b.sum() / ((n - 1) * (n - 2))
        return (trace * (a * b).sum() + sums * middle - chains * (a @ b).sum() / (n - 2)) / over

    compare(number(hsic(k.clone(), other.clone()), given), of(a, b), {
        "Set both diagonals to 0 first: how alike an image is to itself is what biases it.": of(k, other),
        "Set both diagonals to 0; you did it to one matrix.": of(a, other),
        "Set both diagonals to 0; you did it to one matrix. ": of(k, b),
        "Divide by n (n - 3) at the end.": of(a, b, over=1),
        "Divide by n (n - 3), not by (n - 1) squared: that is the biased one.": of(a, b, over=(n - 1) ** 2),
        "The last term counts twice.": of(a, b, chains=1),
        "The last term is subtracted.": of(a, b, chains=-2),
        "The term in the middle is added.": of(a, b, sums=-1),
        "The term in the middle is missing.": of(a, b, sums=0),
        "The last term is missing.": of(a, b, chains=0),
        "In the middle, divide by (n - 1)(n - 2).": of(a, b, sums=(n - 1) * (n - 2)),
        "The last term is the sum of all entries of the matrix product; you took the product entry by entry.":
            ((a * b).sum() * (1 - 2 / (n - 2)) + a.sum() * b.sum() / ((n - 1) * (n - 2))) / (n * (n - 3)),
        "The first term is the trace of the matrix product; you took the sum of its entries.":
            ((a @ b).sum() * (1 - 2 / (n - 2)) + a.sum() * b.sum() / ((n - 1) * (n - 2))) / (n * (n - 3)),
    }, given)
    return "For independent features it is 0 on average, so it may fall below 0. Never clamp it."


@check
def check_norm_ratio(norm_ratio) -> str:
    """norm_ratio(before (N, D), after (N, D)) -> the mean over tokens of |z| / |f(z)|, where after = z + f(z)."""
    z, f = _features(7, 4, seed=4), _features(7, 4, seed=5) / 2
    after, given = z + f, "For 7 tokens of 4 channels"
    ratio = z.norm(dim=1) / f.norm(dim=1)
    compare(number(norm_ratio(z.clone(), after.clone()), given), ratio.mean(), {
        "After is z + f(z): take z off to get f(z).": (z.norm(dim=1) / after.norm(dim=1)).mean(),
        "That is |f(z)| / |z|; the skip stands above.": (1 / ratio).mean(),
        "Above stands z, what went in, not what came out.": (after.norm(dim=1) / f.norm(dim=1)).mean(),
        "Take the ratio of each token, then the mean; you have a ratio of mean lengths.":
            z.norm(dim=1).mean() / f.norm(dim=1).mean(),
        "One ratio for each token; you have one for all of them together.": z.norm() / f.norm(),
        "Lengths run over channels (the last axis); yours run over tokens.": (z.norm(dim=0) / f.norm(dim=0)).mean(),
        "A length is the root of the sum of squares; you left out the root.": ratio.square().mean(),
        "A length is the root of the sum of squares; you summed absolute values.":
            (z.abs().sum(1) / f.abs().sum(1)).mean(),
        "The mean is missing: one number for all tokens.": ratio,
        "That is the sum over tokens; take the mean.": ratio.sum(),
    }, given)
    return "Far above 1, the token passes as it is; below 1, the branch makes a new one of it."


@check
def check_half_radius(half_radius) -> str:
    """half_radius(field (H, W), centre (row, column)) -> the least distance within which lies half of the field."""
    field = torch.rand(6, 9, generator=torch.Generator().manual_seed(6), dtype=torch.float64).square()
    centre, given = (1.3, 5.8), "For a field of 6 x 9 pixels"

    def radius(field: Tensor, centre=centre, share: float = 0.5, off: float = 0.5, root: bool = True) -> Tensor:
        rows, columns = torch.arange(field.shape[0]) + off - centre[0], torch.arange(field.shape[1]) + off - centre[1]
        distance = (rows[:, None].square() + columns.square()).double().flatten()
        distance, order = (distance.sqrt() if root else distance).sort(stable=True)
        held = field.flatten()[order].cumsum(0)
        return distance[(held < share * held[-1] - 1e-12).sum()]

    def area(field: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = torch.arange(6) + 0.5 - centre[0], torch.arange(9) + 0.5 - centre[1]
        distance = (rows[:, None].square() + columns.square()).sqrt().double()
        return distance.flatten().sort().values[distance.numel() // 2 - 1], (distance * field).sum() / field.sum()

    counted, mean = area(field)
    compare(number(half_radius(field.clone(), centre), given), radius(field), {
        "Half of the field, not half of the pixels: weigh each pixel by its value.": counted,
        "That is the mean distance; asked is the distance that holds half.": mean,
        "A pixel's middle lies half a pixel behind its number.": radius(field, off=0.0),
        "Take the root: that is a squared distance.": radius(field, root=False),
        "Row first, then column: you turned the centre around.": radius(field, centre[::-1]),
        "Distances are from the centre that was given, not from the middle of the field.": radius(field, (3.0, 4.5)),
        "That is the radius that holds all of it.": radius(field, share=1.0),
        "Divide by the sum of the field: half of its sum, not 0.5.": radius(field, share=0.5 / field.sum().item()),
    }, given)
    point, given = torch.zeros(6, 9, dtype=torch.float64), "For a field of one pixel, at the centre"
    point[1, 4] = 2.0
    compare(number(half_radius(point, (1.5, 4.5)), given), torch.zeros((), dtype=torch.float64), {}, given)
    return "A field that is the same everywhere has about 0.4 of the side of the image."
