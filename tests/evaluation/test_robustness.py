"""Band noise: in its band, real, keyed on the image, as strong as it should be; accuracy under it against slow counts."""
import cmath
import math

import numpy as np
import pytest
import torch

from lib import random
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.evaluation.robustness import BANDS, STRENGTHS, band, band_noise, correct_under_noise, noise_robustness

PI, HALF = math.pi, 0.05 * math.pi
SIZES = [(16, 16), (15, 15), (24, 17), (9, 32)]
KEYS = random.combine("test", torch.arange(40))


def inside(size: tuple[int, int], low: float, high: float) -> torch.Tensor:
    """The frequencies of a band, one by one."""
    answer = torch.zeros(size, dtype=torch.bool)
    for y in range(size[0]):
        for x in range(size[1]):
            wave = [2 * PI * min(k, n - k) / n for k, n in ((y, size[0]), (x, size[1]))]        # k and n - k are conjugate
            answer[y, x] = low - 1e-6 <= max(wave) <= high + 1e-6
    return answer


# ------------------------------------------------------------------------------------------------------------- the noise

@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["published", "energy"])
def test_noise_lands_in_its_band(size, mode):
    for centre, half_width in ((0.25 * PI, 0.15 * PI), (0.5 * PI, 0.1 * PI), (0.9 * PI, 0.1 * PI)):
        noise = band_noise(KEYS[:6], size, centre, half_width, mode)
        assert noise.shape == (6, 3, *size) and noise.dtype == torch.float32
        power = torch.fft.fft2(noise.double()).abs().square().sum((0, 1))          # of what is real: nothing was cut off
        wanted = inside(size, centre - half_width, centre + half_width)
        assert power[~wanted].sum() < 1e-6 * power[wanted].sum()
        assert (power[wanted] > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_bands_are_rings_that_a_wave_and_its_conjugate_share(size):
    for centre in BANDS:
        if inside(size, centre - 2 * HALF, centre + 2 * HALF).any():
            ring = band(size, centre, 2 * HALF)
            assert torch.equal(ring, inside(size, centre - 2 * HALF, centre + 2 * HALF))
            assert torch.equal(ring, ring.flip(0).roll(1, 0).flip(1).roll(1, 1))   # f -> -f


def test_the_highest_frequency_and_the_mean_can_be_had():
    assert band((8, 8), PI, 0.1).sum() == 15                       # the row and the column of pi
    assert band((8, 8), 0.0, 0.1).nonzero().tolist() == [[0, 0]]
    flat = band_noise(KEYS[:2], (8, 8), 0.0, 0.1)
    assert flat.var((2, 3)).max() < 1e-10


def test_against_a_slow_transform():
    """Signs, a discrete Fourier transform by its definition, the band, and back."""
    n, centre, half_width = 6, 0.66 * PI, 0.1 * PI
    signs = band_noise(KEYS[:1], (n, n), 0.5 * PI, PI, strength=1.0)[0, 0].round().tolist()      # the whole spectrum
    assert {abs(s) for row in signs for s in row} == {1.0}
    places = [(y, x) for y in range(n) for x in range(n)]
    spectrum = {(v, u): sum(signs[y][x] * cmath.exp(-2j * PI * (v * y + u * x) / n) for y, x in places) for v, u in places}
    kept = inside((n, n), centre - half_width, centre + half_width)
    noise = band_noise(KEYS[:1], (n, n), centre, half_width, strength=0.7)[0, 0]
    for y, x in places:
        expected = sum(spectrum[v, u] * cmath.exp(2j * PI * (v * y + u * x) / n) for v, u in places if kept[v, u]) / n**2
        assert abs(expected.imag) < 1e-9 and noise[y, x].item() == pytest.approx(0.7 * expected.real, abs=1e-5)


def test_the_whole_spectrum_is_a_fair_coin_times_eps():
    whole = band_noise(KEYS, (16, 16), 0.5 * PI, PI, strength=0.7)
    assert (whole.abs() - 0.7).abs().max() < 1e-5
    n = whole.numel()
    assert abs(whole.sign().mean()) < 4 / math.sqrt(n)
    pairs = [(whole[1:] * whole[:-1]), (whole[:, 1:] * whole[:, :-1]), (whole[..., 1:] * whole[..., :-1])]
    assert all(abs(p.mean()) < 4 * 0.49 / math.sqrt(p.numel()) for p in pairs)     # images, channels, neighbours: unrelated


def test_published_noise_grows_threefold_from_low_to_high():
    """As strong as the share of the spectrum that a ring holds: sqrt(0.02) and sqrt(0.18) of eps, in large images."""
    low, high = (band_noise(KEYS[:6], (151, 151), f * PI, HALF).square().mean().sqrt().item() for f in (0.1, 0.9))
    assert low == pytest.approx(0.7 * math.sqrt(0.02), rel=0.06) and high == pytest.approx(0.7 * math.sqrt(0.18), rel=0.06)
    assert 2.7 < high / low < 3.3
    double = band_noise(KEYS[:6], (151, 151), 0.1 * PI, HALF, strength=1.4)
    assert double.square().mean().sqrt().item() == pytest.approx(2 * low)


def test_the_two_modes_are_as_strong_over_all_bands_together():
    """What the command line gives: one mode three times as strong as the other could not be compared with it."""
    mean = [sum(band_noise(KEYS[:3], (151, 151), centre, HALF, mode, strength).square().mean().item() for centre in BANDS) / 9
            for mode, strength in STRENGTHS.items()]
    assert mean[1] == pytest.approx(mean[0], rel=0.05) and STRENGTHS["published"] == 0.7


@pytest.mark.parametrize("size", SIZES)
def test_energy_is_the_same_for_every_band_and_image(size):
    for centre in (0.3 * PI, 0.6 * PI, 0.9 * PI):
        noise = band_noise(KEYS[:5], size, centre, 0.1 * PI, "energy", strength=0.2)
        assert noise.square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx([0.2] * 5, rel=1e-5)


def test_modes_differ_in_strength_alone():
    published, energy = (band_noise(KEYS[:3], (16, 16), 0.5 * PI, 0.1 * PI, mode) for mode in ("published", "energy"))
    stronger = 0.7 / published.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert stronger.min() > 2 and stronger.std() > 0.01
    torch.testing.assert_close(energy, stronger * published)


def test_noise_is_keyed_on_the_image():
    whole = band_noise(KEYS, (16, 16), 0.5 * PI, 0.1 * PI)
    torch.testing.assert_close(band_noise(KEYS[[7, 3]], (16, 16), 0.5 * PI, 0.1 * PI), whole[[7, 3]], rtol=0, atol=1e-6)
    flat = whole.flatten(1)
    cosine = (flat @ flat.T) / flat.square().sum(1)
    assert cosine.fill_diagonal_(0).abs().max() < 0.4


def test_wrong_noise_is_named():
    with pytest.raises(CourseError, match="no mode 'equal' of band noise; choose one of published, energy"):
        band_noise(KEYS, (8, 8), 1.0, 0.5, "equal")
    for centre, half_width in ((4.0, 0.5), (0.3, 0.05)):
        with pytest.raises(CourseError, match="images of 8 x 8 pixels have no frequency from"):
            band_noise(KEYS, (8, 8), centre, half_width)


# ------------------------------------------------------------------------------------------------------------ robustness

class Waves:
    """Images of one wave each, of the frequency of its class: pi / 4 or 3 pi / 4 across."""
    name, size, classes = "waves", 16, ["slow", "fast"]

    def __len__(self):
        return 90

    def labels(self, indices):
        return indices % 2

    def images(self, indices):
        x = torch.arange(16) * torch.where(self.labels(indices) == 0, PI / 4, 3 * PI / 4)[:, None]         # (B, 16)
        return (128 + 20 * torch.cos(x + indices[:, None])).round().to(torch.uint8)[:, None, None].expand(-1, 3, 16, 16)


def ear(images):
    """Which of the two waves is the louder?"""
    loud = torch.fft.fft2(images[:, 0]).abs()[:, 0]
    return (loud[:, 6] > loud[:, 2]).long()


def test_noise_hurts_where_a_network_listens():
    result = noise_robustness(ear, Waves(), bands=(PI / 4, PI / 2, 3 * PI / 4), half_width=0.1, strength=20.0)
    slow, middle, fast = result["bands"]
    assert result["clean"]["accuracy"] == 1 and result["images"] == 90
    assert middle["accuracy"] == 1 and middle["drop"] == 0 and middle["drop_interval"] == [0, 0]
    assert slow["drop"] > 0.2 and fast["drop"] > 0.2 and slow["drop_interval"][0] > 0.1


def test_results_against_a_loop():
    """Image by image, with noise of its own; the drop is that of the same images."""
    def predict(images):                                           # neither sure nor blind
        return (images[:, 0].mean((1, 2)) + 3 * images[:, 1, 3, 4] > 0.1).long()

    source = Shapes("val", 16, length=70)
    source.labels = lambda indices: indices % 2
    result = noise_robustness(predict, source, bands=(0.3 * PI, 0.8 * PI), half_width=0.1 * PI, seed=3)
    clean, noisy = correct_under_noise(predict, source, (0.3 * PI, 0.8 * PI), half_width=0.1 * PI, seed=3)
    assert clean.shape == (70,) and noisy.shape == (2, 70) and clean.dtype == noisy.dtype == torch.bool
    for k, centre in enumerate((0.3 * PI, 0.8 * PI)):
        for i in range(70):
            image = normalize(source.images(torch.tensor([i])))
            noise = band_noise(random.combine("band noise", 3, torch.tensor([i])), (16, 16), centre, 0.1 * PI)
            assert noisy[k, i] == (predict(image + noise) == i % 2) and clean[i] == (predict(image) == i % 2)
        line = result["bands"][k]
        assert line["centre"] == centre and line["accuracy"] == pytest.approx(noisy[k].sum().item() / 70)
        assert line["drop"] == pytest.approx(result["clean"]["accuracy"] - line["accuracy"])
        rng, lost = np.random.default_rng(5), clean.double().numpy() - noisy[k].double().numpy()
        means = [lost[rng.integers(70, size=70)].mean() for _ in range(2000)]
        assert line["drop_interval"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    assert (clean != noisy[0]).any() and (noisy[0] != noisy[1]).any()


def test_drops_are_paired():
    """Where noise changes nothing the drop is exactly 0, though the accuracy itself is uncertain."""
    result = noise_robustness(lambda images: torch.zeros(len(images), dtype=torch.int64), Waves(), bands=(1.0,), half_width=0.3)
    (line,), (low, high) = result["bands"], result["clean"]["interval"]
    assert line["drop_interval"] == [0, 0] and line["accuracy"] == result["clean"]["accuracy"] == 0.5 and high - low > 0.15


def test_batches_modes_and_seeds():
    source = Waves()
    options = dict(bands=(PI / 4, 3 * PI / 4), half_width=0.1, mode="energy", strength=0.7)
    whole = correct_under_noise(ear, source, **options)[1]
    assert torch.equal(whole, correct_under_noise(ear, source, batch_size=13, **options)[1])
    assert not torch.equal(whole, correct_under_noise(ear, source, seed=1, **options)[1])
    assert not torch.equal(whole, correct_under_noise(ear, source, **options | {"mode": "published"})[1])
    seen = []
    correct_under_noise(lambda images: seen.append(images) or ear(images), source, mean=(0.5,) * 3, std=(0.5,) * 3, **options)
    torch.testing.assert_close(seen[0][0], source.images(torch.tensor([0]))[0] / 127.5 - 1)


def test_nothing_to_measure_is_named():
    with pytest.raises(CourseError, match="at least 1 image and 1 band, got 90 and 0"):
        noise_robustness(ear, Waves(), bands=())
