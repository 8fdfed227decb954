"""Log amplitudes against a Fourier transform by its definition, and at waves whose spectrum is known."""
import cmath
import itertools
import math

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib.analysis.fourier import Frequencies, diagonal, log_amplitude, phases_and_amplitudes, radial, rings
from lib.analysis.recording import record
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.models.vit import ViT

GRIDS = [(4, 4), (5, 5), (3, 6), (6, 3), (2, 5)]


def tokens_of(grid: tuple[int, int], n: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(n, grid[0] * grid[1], channels, generator=torch.Generator().manual_seed(0))


def slow_log_amplitude(tokens: list[list[float]], grid: tuple[int, int], i: int, j: int) -> float:
    """Mean over channels of ln(|sum of the channel times a wave| + 1e-6), i cycles over the height and j over the width."""
    rows, columns = grid
    logs = []
    for channel in zip(*tokens, strict=True):
        total = sum(x * cmath.exp(-2j * math.pi * (i * (n // columns) / rows + j * (n % columns) / columns))
                    for n, x in enumerate(channel))
        logs.append(math.log(abs(total) + 1e-6))
    return sum(logs) / len(logs)


def signed(n: int) -> list[int]:
    """The frequencies of n samples, from 0 up and then the negative ones."""
    return [k if k < (n + 1) // 2 else k - n for k in range(n)]


def slow_radial(tokens: list[list[float]], grid: tuple[int, int]) -> list[float]:
    """Mean over all frequencies, negative ones too, of each ring."""
    found = {}
    for i, j in itertools.product(signed(grid[0]), signed(grid[1])):
        ring = round(max(grid) * math.hypot(i / grid[0], j / grid[1]))
        found.setdefault(ring, []).append(slow_log_amplitude(tokens, grid, i, j))
    return [sum(found[ring]) / len(found[ring]) for ring in sorted(found)]


# ------------------------------------------------------------------------------------------------------ against loops

@pytest.mark.parametrize("grid", GRIDS)
def test_log_amplitude_against_the_definition(grid):
    tokens = tokens_of(grid)
    spectrum = log_amplitude(tokens, grid)
    assert spectrum.shape == (2, grid[0], grid[1] // 2 + 1)
    for image, i, j in itertools.product(range(2), range(grid[0]), range(grid[1] // 2 + 1)):
        assert spectrum[image, i, j].item() == pytest.approx(slow_log_amplitude(tokens[image].tolist(), grid, i, j), abs=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_diagonal_and_rings_against_the_definition(grid):
    tokens = tokens_of(grid)
    spectrum = log_amplitude(tokens, grid)
    along, around = diagonal(spectrum, grid), radial(spectrum, grid)
    assert along.shape == (2, min(grid) // 2)
    for image in range(2):
        nested = tokens[image].tolist()
        line = [slow_log_amplitude(nested, grid, k, k) for k in range(min(grid) // 2)]
        assert along[image].tolist() == pytest.approx([value - line[0] for value in line], abs=1e-5)
        assert around[image].tolist() == pytest.approx(slow_radial(nested, grid), abs=1e-5)


def test_the_published_form():
    """FFT of each channel, log amplitude, mean, the zero frequency moved to the centre, the diagonal from there."""
    tokens = tokens_of((14, 14), n=4, channels=8).double()
    maps = tokens.mT.reshape(4, 8, 14, 14)
    centred = torch.fft.fftshift(((torch.fft.fft2(maps).abs() + 1e-6).log()).mean((0, 1)))
    line = torch.stack([centred[7 + k, 7 + k] for k in range(7)])
    found = diagonal(log_amplitude(tokens), (14, 14)).mean(0)
    torch.testing.assert_close(found, line - line[0], rtol=0, atol=1e-12)
    assert len(found) == 7 and found.dtype == torch.float64


SMALL = dict(patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=0)


@pytest.mark.parametrize("build", [lambda: ViT(16, 4, dim=24, depth=2, heads=3), lambda: VisionTransformer((12, 16), **SMALL),
                                   lambda: VisionTransformerDistilled(16, **SMALL)], ids=["course", "oblong", "distilled"])
def test_metric_against_the_definition(build):
    torch.manual_seed(0)
    backbone = build().eval()
    height, width = backbone.patch_embed.img_size
    grid, prefix = (height // 4, width // 4), backbone.num_prefix_tokens

    class Source:
        def __len__(self):
            return 3

        def images(self, indices):
            return Shapes("val", 16, length=3).images(indices)[..., :height, :width]

    found = record(backbone, Source(), [Frequencies()], batch_size=2)
    stream = in_float64(backbone, normalize(Source().images(torch.arange(3))))
    assert found["delta_log_amplitude"].shape == (3, 3) and found["diagonal"].shape == (3, 3, min(grid) // 2)
    for image, depth in itertools.product(range(3), range(3)):
        tokens, last = stream[depth][image, prefix:].tolist(), min(grid) // 2 - 1
        expected = slow_log_amplitude(tokens, grid, last, last) - slow_log_amplitude(tokens, grid, 0, 0)
        assert found["delta_log_amplitude"][image, depth].item() == pytest.approx(expected, abs=1e-4)
        assert found["diagonal"][image, depth, -1] == found["delta_log_amplitude"][image, depth]
        assert found["radial"][image, depth].tolist() == pytest.approx(slow_radial(tokens, grid), abs=1e-4)
    assert last == 0 or found["delta_log_amplitude"].abs().min() > 0.01


def in_float64(backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The stream (B, N, D) at every depth."""
    stream = []
    backbone.double().blocks[0].register_forward_pre_hook(lambda _, args: stream.append(args[0]))
    for block in backbone.blocks:
        block.register_forward_hook(lambda _, args, out: stream.append(out))
    with torch.no_grad():
        backbone.forward_features(images.double())
    return stream


# ------------------------------------------------------------------------------------------------------- known points

@pytest.mark.parametrize(("i", "j"), [(0, 0), (3, 0), (0, 5), (4, 4), (6, 6), (7, 7), (-4, 2)])
def test_a_wave_has_one_frequency(i, j):
    row, column = torch.meshgrid(*2 * [torch.arange(14, dtype=torch.float64)], indexing="ij")
    wave = torch.cos(2 * math.pi * (i * row + j * column) / 14).reshape(1, 196, 1)
    spectrum = log_amplitude(wave)
    peak = divmod(int(spectrum.argmax()), 8)
    assert peak == (i % 14, j)
    alone = (2 * i) % 14 == 0 and (2 * j) % 14 == 0                # otherwise the other half lies at (-i, -j)
    assert spectrum.max().item() == pytest.approx(math.log(196 if alone else 98), abs=1e-4)
    assert radial(spectrum, (14, 14)).argmax().item() == round(math.hypot(i, j))


def test_one_bright_patch_is_white_and_a_flat_picture_is_all_zero_frequency():
    bright = torch.zeros(1, 16, 1, dtype=torch.float64)
    bright[0, 5] = 1
    assert log_amplitude(bright).abs().max() < 2e-6
    assert diagonal(log_amplitude(bright), (4, 4)).abs().max() < 1e-12
    flat = log_amplitude(torch.ones(1, 16, 1, dtype=torch.float64))
    assert flat[0, 0, 0].item() == pytest.approx(math.log(16), abs=1e-6)
    assert diagonal(flat, (4, 4))[0, 1].item() == pytest.approx(math.log(1e-6) - math.log(16), abs=1e-6)    # the 1e-6 inside


def test_sizes_cancel_and_images_do_not_mix():
    tokens = tokens_of((6, 6), n=3)
    spectrum = log_amplitude(tokens)
    torch.testing.assert_close(diagonal(log_amplitude(100 * tokens), (6, 6)), diagonal(spectrum, (6, 6)), rtol=0, atol=1e-4)
    torch.testing.assert_close(log_amplitude(tokens[1:2]), spectrum[1:2])


def test_rings_count_every_frequency_once():
    for grid in itertools.product(range(1, 17), range(1, 17)):
        ring, weight = rings(grid)
        assert weight.sum() == grid[0] * grid[1]
        assert set(ring.flatten().tolist()) == set(range(int(ring.max()) + 1))     # none is empty
    assert len(radial(log_amplitude(tokens_of((14, 14))), (14, 14))[0]) == 11


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (3, 3)])
def test_small_grids_have_a_diagonal_of_one(grid):
    assert diagonal(log_amplitude(tokens_of(grid), grid), grid).tolist() == [[0.0], [0.0]]


def test_low_precision_is_transformed_in_float32():
    tokens = tokens_of((4, 4)).bfloat16()
    torch.testing.assert_close(log_amplitude(tokens), log_amplitude(tokens.float()), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------------ bad input

def test_a_grid_is_asked_for_where_patches_are_not_a_square():
    with pytest.raises(CourseError, match=r"18 patches are not 4 x 4; give grid="):
        log_amplitude(torch.zeros(1, 18, 2))
    with pytest.raises(CourseError, match=r"18 patches are not 2 x 8"):
        log_amplitude(torch.zeros(1, 18, 2), (2, 8))
    assert log_amplitude(torch.ones(1, 18, 2), (3, 6)).shape == (1, 3, 4)


# ------------------------------------------------------------------------------------------------------ phases and amplitudes

def test_a_picture_of_the_phases_of_one_and_the_amplitudes_of_another():
    columns = torch.arange(8.0).expand(8, 8)
    lying, weak = ((0.5 + strength * (2 * math.pi * (columns + shift) / 8).cos())[None, None].double()
                   for strength, shift in ((0.4, 1), (0.1, 3)))
    mixed = phases_and_amplitudes(lying, weak)                     # the wave of the first, as strong as that of the second
    torch.testing.assert_close(mixed, (0.5 + 0.1 * (2 * math.pi * (columns + 1) / 8).cos())[None, None].double())
    images = torch.rand(2, 3, 6, 7)
    torch.testing.assert_close(phases_and_amplitudes(images, images), images)
    assert phases_and_amplitudes(images, images.flip(0)).min() >= 0 and phases_and_amplitudes(images, images.flip(0)).max() <= 1
    with pytest.raises(CourseError, match=r"phases of images \(2, 3, 6, 7\) and amplitudes of \(1, 3, 6, 7\)"):
        phases_and_amplitudes(images, images[:1])
