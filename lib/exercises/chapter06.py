"""Checks of chapter 06, how representations are transformed."""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import CourseError
from lib.exercises import check, compare, number


def _tokens(*shape: int, seed: int = 0) -> Tensor:
    """Tokens that lie off the origin, with channels of unlike scale."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * torch.linspace(0.5, 2, shape[-1], dtype=torch.float64) + torch.linspace(-1, 2, shape[-1], dtype=torch.float64)


@check
def check_unison_of(unison_of) -> str:
    """unison_of(before (P, D), after (P, D)) -> a number from 0 to 1."""
    before = _tokens(6, 4)
    after = before + _tokens(6, 4, seed=1) + 0.5
    steps = after - before
    mean, length = steps.mean(0), steps.norm(dim=1)
    compare(number(unison_of(before.clone(), after.clone()), "For 6 tokens of 4 channels"),
            mean.square().sum() / length.square().mean(), {
        "Lengths are squared, above and below.": mean.norm() / length.mean(),
        "Below, square each length first and take the mean afterwards.": mean.square().sum() / length.mean().square(),
        "Below stands the mean over tokens, not the sum.": mean.square().sum() / length.square().sum(),
        "Above stands the mean step, not the sum of steps.": steps.sum(0).square().sum() / length.square().mean(),
        "Above, first take the mean over tokens, then the length: you have the mean of the lengths.":
            length.mean().square() / length.square().mean(),
        "The mean runs over tokens (the first axis); yours runs over channels.":
            steps.mean(1).square().sum() / steps.square().sum(0).mean(),
        "You compare places; take steps: after less before.":
            after.mean(0).square().sum() / after.square().sum(1).mean(),
        "This is the share that is not common; it is 1 less that.": 1 - mean.square().sum() / length.square().mean(),
        "Sum the squares over the channels, above and below.": (mean.square() / steps.square().mean(0)).mean(),
    }, "For 6 tokens of 4 channels")
    apart, given = 2 * before - before.mean(0), "For tokens that move away from their middle"
    compare(number(unison_of(before.clone(), apart), given), torch.zeros((), dtype=torch.float64), {}, given)
    return "1 where all take one step, 0 where steps only change where tokens are to each other."


@check
def check_gram_spectrum(gram_spectrum) -> str:
    """gram_spectrum(tokens (P, D)), P no more than D -> (P - 1,) ln of eigenvalues, largest first."""
    tokens = _tokens(5, 8)
    x = tokens - tokens.mean(0)

    def largest(gram: Tensor, count: int = 4) -> Tensor:
        return torch.linalg.eigvalsh(gram).flip(0)[:count].clamp(min=1e-300)

    values = largest(x @ x.T / 4)
    of_channels = tokens - tokens.mean(1, keepdim=True)
    got = gram_spectrum(tokens.clone())
    if isinstance(got, Tensor) and got.shape == (5,):
        raise CourseError("for 5 tokens, 4 values were expected, and 5 came. Tokens less their mean span P - 1 directions: "
                          "the last value is rounding noise, leave it out")
    if isinstance(got, Tensor) and got.shape == (8,):
        raise CourseError("for 5 tokens of 8 channels, 4 values were expected, and 8 came. That is the D x D covariance; "
                          "products of tokens with tokens are P x P, and P - 1 of their eigenvalues are not 0")
    if isinstance(got, Tensor) and got.shape == (4,) and not (got > -25).all():
        raise CourseError("for 5 tokens of 8 channels, four variances were expected, and rounding noise came with them. "
                          "eigvalsh gives the smallest first: turn that round, and leave out the smallest")
    compare(got, values.log(), {
        "Take the mean token off first.": largest(tokens @ tokens.T / 4).log(),
        "The mean runs over tokens: every channel has a mean of its own.": largest(of_channels @ of_channels.T / 4).log(),
        "The mean runs over tokens; torch.cov takes rows for variables, so this centres each token.":
            largest(of_channels @ of_channels.T / 7).log(),
        "Divide by P - 1, as a covariance does; you divide by P.": largest(x @ x.T / 5).log(),
        "Divide by P - 1.": largest(x @ x.T).log(),
        "Divide by P - 1; D counts channels.": largest(x @ x.T / 8).log(),
        "Divide by P - 1; you divide by D - 1.": largest(x @ x.T / 7).log(),
        "Largest first: eigvalsh gives the smallest first.": values.log().flip(0),
        "The logarithm is missing.": values,
        "The logarithm is the natural one, torch.log.": values.log10(),
        "These are singular values of the tokens; a variance is their square.": values.log() / 2,
    }, "For 5 tokens of 8 channels")
    return "Four numbers for five tokens, the same as from the 8 x 8 covariance."


def _upright(coordinates: Tensor) -> Tensor:
    """Each column with the sign that makes its largest entry positive: the sign of a direction is left to chance."""
    if not isinstance(coordinates, Tensor) or coordinates.ndim != 2 or not coordinates.numel():
        return coordinates
    largest = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True))
    return coordinates * largest.sign()


@check
def check_project(project) -> str:
    """project(tokens (P, D), k) -> (P, k), up to the sign of each column."""
    tokens = _tokens(7, 5)
    x = tokens - tokens.mean(0)
    u, _, directions = torch.linalg.svd(x, full_matrices=False)
    right = x @ directions[:2].T
    off = torch.linalg.svd(tokens, full_matrices=False).Vh[:2].T
    mistakes = {
        "Take the mean token off before you look for directions.": tokens @ off,
        "Take the mean token off before you look for directions, not only afterwards.": x @ off,
        "Take the mean token off before you project as well.": tokens @ directions[:2].T,
        "These directions are those of least variance: eigh puts the smallest eigenvalue first.": x @ directions[-2:].T,
        "These directions are those of least variance, the least first: eigh puts the smallest eigenvalue first.":
            x @ directions.flip(0)[:2].T,
        "The second direction stands first.": right.flip(1),
        "This is U; multiply by the singular values, or project on the rows of Vh.": u[:, :2],
        "Directions are the rows of Vh; you took its columns.": x @ directions[:, :2],
        "These are the directions; project the tokens on them.": directions[:2].T,
        "These are the directions; project the tokens on them. ": directions[:2],
    }
    compare(_upright(project(tokens.clone(), 2)), _upright(right), {text: _upright(wrong) for text, wrong in mistakes.items()},
            "For 7 tokens and 2 directions (each up to its sign)")
    return "No two directions hold more of the tokens' variance."


@check
def check_image_purity(image_purity) -> str:
    """image_purity(tokens (B, P, D), k) -> the mean share of a token's k nearest others that are of its image."""
    generator = torch.Generator().manual_seed(243)                                 # no two mistakes give the same number
    tokens = 0.6 * torch.randn(4, 1, 4, generator=generator).double() + torch.randn(4, 7, 4, generator=generator).double()
    tokens = tokens * torch.linspace(0.3, 3, 28, dtype=torch.float64)[torch.randperm(28, generator=generator)].view(4, 7, 1)
    number_of, given = torch.arange(28), "For 4 images of 7 tokens and 5 neighbours"

    def share(likeness: Tensor, k: int = 5, itself: bool = False, image: Tensor = number_of // 7) -> Tensor:
        likeness = likeness if itself else likeness.clone().fill_diagonal_(-torch.inf)
        return (image[likeness.topk(k).indices] == image[:, None]).double().mean()

    mean = tokens.mean((0, 1))
    flat, normed, centred = (x.flatten(0, 1) for x in (tokens, F.normalize(tokens, dim=-1), F.normalize(tokens - mean, dim=-1)))
    cosine = normed @ normed.T
    right = share(cosine)
    compare(number(image_purity(tokens.clone(), 5), given), right, {
        "A token is no neighbour of its own: leave it out.": share(cosine, itself=True),
        "These are the k furthest; the nearest have the largest cosine.":
            share((-cosine).fill_diagonal_(-torch.inf), itself=True),
        "Nearness is the cosine: divide tokens by their length first.": share(flat @ flat.T),
        "Nearness is the cosine, not the distance between tokens of unlike length.": share(-torch.cdist(flat, flat)),
        "That is the share of other images.": 1 - right,
        "Take k neighbours, not k + 1.": share(cosine, 6),
        "Divide by k: that is how many neighbours are of the same image, not which share.": 5 * right,
        "Tokens of all images are candidates; you looked within one image.": torch.tensor(1.0, dtype=torch.float64),
        "Cosines are of the tokens as they are: take no mean off.": share(centred @ centred.T),
        "Token i belongs to image i // P; i % P is its place.": share(cosine, image=number_of % 7),
        "Token i belongs to image i // P, P tokens an image, not i // B.": share(cosine, image=number_of // 4),
        "A cosine may be negative, so 0 does not leave a token out; set its own to -inf.":
            share(cosine.clone().fill_diagonal_(0), itself=True),
    }, given)
    return "And here no picture was needed."
