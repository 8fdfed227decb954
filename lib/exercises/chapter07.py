"""Checks of chapter 07, frequency, shape and texture."""
import math

import torch
from torch import Tensor

from lib.errors import CourseError
from lib.exercises import check, compare, number


@check
def check_delta_log_amplitude(delta_log_amplitude) -> str:
    """delta_log_amplitude(tokens (P, D)) -> a number: F(K) - F(0) on a square grid, K one less than half its side."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(36, 5, generator=generator, dtype=torch.float64) * torch.linspace(0.2, 3, 5) + torch.linspace(-2, 3, 5)
    maps = tokens.view(6, 6, 5)
    spectrum = torch.fft.fft2(maps, dim=(0, 1))

    def delta(amplitude: Tensor, k: int = 2) -> Tensor:
        """From logs of amplitudes (6, 6, ...), mean over what is left."""
        return amplitude[k, k].mean() - amplitude[0, 0].mean()

    logs = spectrum.abs().log()
    given = "For 36 tokens of 5 channels"
    compare(number(delta_log_amplitude(tokens.clone()), given), delta(logs), {
        "The last on the diagonal is half the side less 1: k = 2 for a side of 6. You took k = 3.": delta(logs, 3),
        "You took k = 1, or -1; the last on the diagonal is k = 2 for a side of 6.": delta(logs, 1),
        "The diagonal is k cycles down and k across; you took none down.": logs[0, 2].mean() - logs[0, 0].mean(),
        "The diagonal is k cycles down and k across; you took none across.": logs[2, 0].mean() - logs[0, 0].mean(),
        "Take the logarithm of each channel first and the mean over channels afterwards.": delta(spectrum.abs().mean(-1).log()),
        "First the amplitude, then the mean over channels: you transform the mean channel.":
            delta(torch.fft.fft2(maps.mean(-1)).abs().log()),
        "This is the logarithm of the squared amplitude, twice as large.": 2 * delta(logs),
        "This is F(0) - F(K); turn it round.": -delta(logs),
        "F(0) has to come off.": logs[2, 2].mean(),
        "The logarithm is the natural one, torch.log.": delta(spectrum.abs().log10()),
        "The logarithm is missing.": delta(spectrum.abs()),
        "The transform runs over the two axes of the grid, dim=(0, 1); fft2 takes the last two if you do not say.":
            delta(torch.fft.fft2(maps).abs().log()),
        "Tokens are (P, D), so the grid comes first: view(side, side, -1); yours mixes channels and places.":
            delta(torch.fft.fft2(tokens.reshape(-1, 6, 6)).abs().log().permute(1, 2, 0)),
    }, given)
    return "A number for an image; the chapter's curves are its means."


@check
def check_band_of(band_of) -> str:
    """band_of(n, low, high) -> (n, n) bool: frequencies of fft2 with low <= max(|down|, |across|) <= high, in radians."""
    n, low, high = 12, 0.45 * math.pi, 0.7 * math.pi
    step = 2 * math.pi / n
    k = torch.arange(n, dtype=torch.float64)
    folded = step * torch.minimum(k, n - k)                                        # |frequency| of each entry

    def ring(f: Tensor, combine=torch.maximum) -> Tensor:
        larger = combine(f[:, None].expand(n, n), f.expand(n, n))
        return (low <= larger) & (larger <= high)

    centred = ring((step * (k - n // 2)).abs())
    given = f"For 12 x 12 pixels, from {low:.2f} to {high:.2f}"
    got = band_of(n, low, high)
    if isinstance(got, Tensor) and got.dtype != torch.bool:
        raise CourseError(f"{given}, a tensor of bool was expected, and one of {got.dtype} came: compare, and join with &")
    mistakes = {
        "Entry k of fft2 stands for the frequency k or k - n, whichever is nearer to 0; fftfreq knows.": ring(step * k),
        "Zero lies in the middle of yours; fft2 puts it at [0, 0].": centred,
        "A frequency and its negative must go together: take absolute values.": ring(step * (k - n * (k >= n / 2))),
        "The band is a square ring, by the larger of the two components; yours is round.": ring(folded, torch.hypot),
        "The larger of the two components decides, not the smaller.": ring(folded, torch.minimum),
        "The larger of the two components decides, not their sum.": ring(folded, torch.add),
        "Both components lie in the band in yours; it is enough that the larger one does.":
            ((low <= folded) & (folded <= high))[:, None] & ((low <= folded) & (folded <= high)),
        "In radians a pixel: multiply fftfreq by 2 pi.": ring(folded / (2 * math.pi)),
        "fftfreq gives cycles a pixel, up to one half; pi is reached after multiplying by 2 pi, not by pi.": ring(folded / 2),
        "This is what lies outside the band.": ~ring(folded),
        "This is everything below the band's upper end; it has a lower end too.": folded[:, None].maximum(folded) <= high,
    }
    if not isinstance(got, Tensor):
        compare(got, folded, {}, given)
    compare(got.double(), ring(folded).double(), {text: wrong.double() for text, wrong in mistakes.items()}, given)
    edge = band_of(n, 0.0, high)
    if not edge[0, 0]:
        raise CourseError(f"for 12 x 12 pixels, from 0 to {high:.2f}, True was expected at [0, 0], and False came. Both ends "
                          "belong to the band: <= and not <")
    return "A ring that a frequency and its negative share, so noise in it stays real."


@check
def check_as_strong(as_strong) -> str:
    """as_strong(noise (B, 3, H, W), strength) -> the same, each image's root mean square equal to strength."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    noise = noise * torch.tensor([0.5, 3]).view(2, 1, 1, 1) * torch.tensor([1, 2, 0.5]).view(3, 1, 1) + 0.2
    power = noise.square().mean((1, 2, 3), keepdim=True)
    right = 0.3 * noise / power.sqrt()
    compare(as_strong(noise.clone(), 0.3), right, {
        "Each image has a strength of its own: the mean runs over channels and pixels, not over images.":
            0.3 * noise / noise.square().mean().sqrt(),
        "The mean runs over channels too; you treat each one apart.":
            0.3 * noise / noise.square().mean((2, 3), keepdim=True).sqrt(),
        "Divide by the root of the mean square.": 0.3 * noise / power,
        "Divide by the root of the *mean* square, not of the sum.": right / math.sqrt(60),
        "A standard deviation takes a mean off; a root mean square does not.":
            0.3 * noise / noise.std((1, 2, 3), keepdim=True),
        "A standard deviation takes a mean off; a root mean square does not. ":
            0.3 * noise / noise.std((1, 2, 3), keepdim=True, correction=0),
        "The largest value is made equal; the root mean square was asked for.":
            0.3 * noise / noise.abs().amax((1, 2, 3), keepdim=True),
        "Squares: the mean of absolute values is something else.": 0.3 * noise / noise.abs().mean((1, 2, 3), keepdim=True),
        "The strength is missing: this has a root mean square of 1.": right / 0.3,
        "Multiply by the strength; you divide by it.": right / 0.3**2,
    }, "For 2 images and a strength of 0.3")
    return "Now bands differ in frequency alone."


@check
def check_bias_for_shape(bias_for_shape) -> str:
    """bias_for_shape(predicted (N,), shapes (N,), textures (N,)) -> shape decisions / (shape + texture decisions)."""
    shapes = torch.arange(24) % 6
    textures = (shapes + 1 + torch.arange(24) // 6) % 6
    textures[20:] = shapes[20:]                                                    # four images without conflict
    other = (shapes + 5) % 6                                                       # never the texture of the first 18
    predicted = torch.where(torch.arange(24) < 7, shapes, torch.where(torch.arange(24) < 10, textures, other))
    predicted[20:] = shapes[20:]
    conflict = shapes != textures
    by_shape, by_texture = ((predicted == cue) & conflict for cue in (shapes, textures))
    s, t = by_shape.sum().double(), by_texture.sum().double()
    both, all_shape, all_texture = (x.sum().double() for x in (conflict, predicted == shapes, predicted == textures))
    given = "For 24 images, 4 of them without conflict"
    compare(number(bias_for_shape(predicted.clone(), shapes.clone(), textures.clone()), given), s / (s + t), {
        "Leave out images whose shape and texture agree: they do not tell which of the two decided.":
            all_shape / (all_shape + all_texture),
        "Leave out images whose shape and texture agree, and decisions for neither.": all_shape / 24,
        "Decisions for neither are left out: divide by those for shape or texture.": s / both,
        "Decisions for neither are left out: divide by those for shape or texture. ": s / 24,
        "This is the bias for texture.": t / (s + t),
        "This is the ratio of the two; a bias lies between 0 and 1.": s / t,
        "This is the difference of the two; divide shape by both together.": (s - t) / (s + t),
        "The images without conflict still count as decisions for shape.": all_shape / (all_shape + t),
    }, given)
    return "Nothing is said of how often it is right, or whether it could see the texture at all."
