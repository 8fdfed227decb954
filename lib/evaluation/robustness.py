"""Noise of one frequency band: which frequencies does a network lean on? (Park et al. 2023; Park and Kim 2022)

The published form draws Gaussian noise, takes its sign times eps, keeps a square ring of the 2-D spectrum, and adds what is
left to the normalised image, unclipped. There the ring is off the centre of the spectrum by one frequency, so that the result
is complex and a part of it is thrown away with the imaginary part. Here the ring is centred and the noise is real by itself.
That apart, `mode="published"` is the published form. In it, noise grows with the frequency, about three times from 0.1 pi to
0.9 pi, because a ring holds more frequencies the larger it is (and in small images by steps: at 64 pixels a band of 0.1 pi is
three or four frequencies wide). A fall of the accuracy towards high frequencies shows this as well as the network's own
sensitivity. `mode="energy"` therefore gives the noise of every band and image the same strength.

Frequencies are in radians a pixel: pi is the highest there is, one cycle in two pixels.
"""
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib import random
from lib.errors import CourseError
from lib.evaluation.features import standardize
from lib.evaluation.report import bootstrap, bootstrap_mean

MODES = ("published", "energy")
BANDS = tuple(k * math.pi / 10 for k in range(1, 10))
EPS = 0.7
# What to give each mode so that the two are alike over BANDS together: a band 0.1 pi wide at f holds the share 0.2 f / pi of
# the spectrum, a tenth on average, and 0.7 times the root of a tenth is 0.22.
STRENGTHS = {"published": EPS, "energy": round(EPS * math.sqrt(0.1), 2)}


def band(size: tuple[int, int], centre: float, half_width: float, device: torch.device | str = "cpu") -> Tensor:
    """Which frequencies of `torch.fft.fft2` belong to the band: (H, W) bool, a square ring, the same for f and -f.

    The frequency of a wave is here the larger of its two components, across and down; the band goes from centre - half_width
    to centre + half_width, both included. Raises CourseError if an image of this size has no such frequency.
    """
    down, across = (2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64, device=device).abs() for n in size)
    inside = (torch.maximum(down[:, None], across) - centre).abs() <= half_width + 1e-9
    if not inside.any():
        raise CourseError(f"images of {size[0]} x {size[1]} pixels have no frequency from {centre - half_width:.3f} to "
                          f"{centre + half_width:.3f} (pi is the highest): take a wider band, or one within 0 and pi")
    return inside


def band_noise(keys: Tensor, size: tuple[int, int], centre: float, half_width: float, mode: str = "published",
               strength: float = EPS) -> Tensor:
    """Noise for normalised images: keys (B,) int64 -> (B, 3, H, W) float32, real, on the device of the keys.

    Two bands of the same key are cut from the same noise. strength: in mode "published" eps, of the noise before the cut; in
    mode "energy" the root mean square of the noise itself, of every image over all its pixels and channels. With eps = 0.7
    the published form has a root mean square of about 0.1 in the band 0.1 pi and 0.3 in 0.9 pi (half width 0.05 pi).
    Raises CourseError for another mode and for a band without frequencies.
    """
    if mode not in MODES:
        raise CourseError(f"there is no mode {mode!r} of band noise; choose one of {', '.join(MODES)}")
    inside = band(size, centre, half_width, keys.device)
    coins = random.uniform(keys, 3 * size[0] * size[1]).view(-1, 3, *size) < 0.5   # the sign of Gaussian noise is a coin
    noise = torch.fft.ifft2(torch.fft.fft2(torch.where(coins, -1.0, 1.0)) * inside).real
    if mode == "energy":
        noise = noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    return strength * noise


@torch.no_grad()
def correct_under_noise(predict: Callable[[Tensor], Tensor], source, bands: Sequence[float] = BANDS,
                        half_width: float = 0.05 * math.pi, mode: str = "published", strength: float = EPS, seed: int = 0,
                        batch_size: int = 64, device: torch.device | str = "cpu", mean: tuple[float, ...] | None = None,
                        std: tuple[float, ...] | None = None) -> tuple[Tensor, Tensor]:
    """Which images are classified correctly: (N,) bool without noise, and (bands, N) bool with the noise of each band.

    predict: normalised images (B, 3, S, S) on the device -> classes (B,). The noise of image i depends on (seed, i) alone, so
    that several networks can be compared image by image. mean and std as in `lib.evaluation.features.extract_depths`.
    """
    if not len(source) or not len(bands):
        raise CourseError(f"noise robustness needs at least 1 image and 1 band, got {len(source)} and {len(bands)}")
    clean, noisy = [], []
    for indices in torch.arange(len(source)).split(batch_size):
        images = standardize(source.images(indices).to(device), mean, std)         # (B, 3, S, S)
        labels, keys = source.labels(indices), random.combine("band noise", seed, indices).to(device)
        noises = (band_noise(keys, images.shape[2:], centre, half_width, mode, strength) for centre in bands)
        clean.append(predict(images).cpu() == labels)
        noisy.append(torch.stack([predict(images + noise).cpu() == labels for noise in noises]))
    return torch.cat(clean), torch.cat(noisy, 1)


def noise_robustness(predict: Callable[[Tensor], Tensor], source, bands: Sequence[float] = BANDS, **options) -> dict:
    """Accuracy without noise and with the noise of each band; options as in `correct_under_noise`.

    -> "clean" with "accuracy" and its 95 % "interval" over images; "bands", a dict for each with "centre", "accuracy",
    "interval", "drop" (accuracy lost, in shares of all images) and "drop_interval". The interval of a drop is paired: the
    same images are drawn with and without noise.
    """
    clean, noisy = correct_under_noise(predict, source, bands, **options)
    lost = clean.double() - noisy.double()                                         # (bands, N): 1 lost, -1 won
    return {
        "images": len(clean),
        "clean": {"accuracy": clean.double().mean().item(), "interval": bootstrap(clean)},
        "bands": [{"centre": centre, "accuracy": noisy[k].double().mean().item(), "interval": bootstrap(noisy[k]),
                   "drop": lost[k].mean().item(), "drop_interval": bootstrap_mean(lost[k])}
                  for k, centre in enumerate(bands)],
    }
