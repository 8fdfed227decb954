"""Which frequencies do tokens carry? The patch tokens of an image, back in their grid, are a picture with D channels.

Park et al. 2023 take the logarithm of the amplitude of its Fourier transform, average over images and channels, and follow the
diagonal: F(k) is the log amplitude at k cycles over the height and k over the width, and *Delta log amplitude* is F(k) - F(0).
"""
import math

import torch
from torch import Tensor

from lib.analysis.recording import PerImage
from lib.errors import CourseError


def log_amplitude(tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """ln(|FFT| + 1e-6), mean over channels: patch tokens (B, rows columns, D) -> (B, rows, columns // 2 + 1).

    Entry (i, j) is i cycles over the height, with i > rows / 2 standing for i - rows, and j over the width. Negative j are left
    out: the amplitude at (-i, -j) is that at (i, j). Raises CourseError if no grid is given and the patches are not a square.
    """
    if grid is None:
        side = math.isqrt(tokens.shape[1])
        grid = (side, side)
    if grid[0] * grid[1] != tokens.shape[1]:
        raise CourseError(f"{tokens.shape[1]} patches are not {grid[0]} x {grid[1]}; give grid=(rows, columns)")
    maps = tokens.to(torch.promote_types(tokens.dtype, torch.float32)).unflatten(1, grid)         # (B, rows, columns, D)
    return torch.fft.rfft2(maps, dim=(1, 2)).abs().add_(1e-6).log_().mean(-1)


def diagonal(spectrum: Tensor, grid: tuple[int, int]) -> Tensor:
    """F(k) - F(0) along the diagonal: (B, rows, columns // 2 + 1) -> (B, K), k from 0 to K - 1, K half the shorter side.

    On 14 x 14 patches the last is k = 6, at 6/7 of the highest frequency of an axis.
    """
    k = torch.arange(max(min(grid) // 2, 1), device=spectrum.device)
    return spectrum[:, k, k] - spectrum[:, :1, 0]


def phases_and_amplitudes(phases: Tensor, amplitudes: Tensor) -> Tensor:
    """Pictures whose waves lie as in the one and are as strong as in the other: twice (B, C, H, W) in [0, 1] -> the same.

    Channel by channel; what falls outside of [0, 1] is cut off. Raises CourseError if the shapes differ.
    """
    if phases.shape != amplitudes.shape:
        raise CourseError(f"phases of images {tuple(phases.shape)} and amplitudes of {tuple(amplitudes.shape)}; give as many "
                          "of the same size")
    waves = torch.polar(torch.fft.fft2(amplitudes).abs(), torch.fft.fft2(phases).angle())
    return torch.fft.ifft2(waves).real.clamp(0, 1)


def rings(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rings of equal frequency, r cycles over the longer side, rounded: -> ring of each entry and how often it counts.

    Both (rows, columns // 2 + 1). An entry counts twice if the one at minus its frequency was left out. Ring r is
    2 r / max(grid) of the highest frequency of an axis.
    """
    rows, columns = torch.fft.fftfreq(grid[0], dtype=torch.float64), torch.fft.rfftfreq(grid[1], dtype=torch.float64)
    ring = (max(grid) * (rows[:, None].square() + columns.square()).sqrt()).round().long()
    j = torch.arange(len(columns))
    return ring, torch.where((j == 0) | (2 * j == grid[1]), 1.0, 2.0).expand(ring.shape)


def radial(spectrum: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean log amplitude of each ring, from 0 cycles to the corner: (B, rows, columns // 2 + 1) -> (B, rings)."""
    ring, weight = (x.flatten().to(spectrum.device) for x in rings(grid))
    weights = torch.zeros(len(ring), int(ring.max()) + 1).to(spectrum).scatter_(1, ring[:, None], weight[:, None].to(spectrum))
    return spectrum.flatten(1) @ (weights / weights.sum(0))


class Frequencies(PerImage):
    """Log amplitudes of the residual stream at depths 0, 1, ..., without prefix tokens; each (images, 1 + blocks, ...):

    "diagonal" (..., K): F(k) - F(0); "delta_log_amplitude" (...): its last entry, what Park et al. 2023 plot by depth;
    "radial" (..., rings): F itself, mean over rings.
    """
    reads = "tokens"

    def measure(self, depth: int, tokens: Tensor) -> dict[str, Tensor]:
        spectrum = log_amplitude(tokens[:, self.layout.prefix:], self.layout.grid)
        along = diagonal(spectrum, self.layout.grid)
        return {"diagonal": along, "delta_log_amplitude": along[:, -1], "radial": radial(spectrum, self.layout.grid)}
