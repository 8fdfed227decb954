"""The checks of chapter 07: right answers pass, and each usual mistake fails with its name."""
import cmath
import math

import pytest
import torch

from lib.analysis.fourier import diagonal, log_amplitude
from lib.evaluation.robustness import band
from lib.evaluation.shape_bias import shape_bias
from lib.exercises import chapter07

PI = math.pi


def delta_log_amplitude(tokens, dims=(0, 1), read=lambda a: a.log().mean(-1), k=None):
    side = math.isqrt(len(tokens))
    logs = read(torch.fft.fft2(tokens.view(side, side, -1), dim=dims).abs())
    k = side // 2 - 1 if k is None else k
    down, across = k if isinstance(k, tuple) else (k, k)
    return logs[down, across] - logs[0, 0]


def band_of(n, low, high, frequencies=lambda n: 2 * PI * torch.fft.fftfreq(n).abs(), combine=torch.maximum):
    f = frequencies(n)
    larger = combine(f[:, None].expand(n, n), f.expand(n, n))
    return (low <= larger) & (larger <= high)


def as_strong(noise, strength, over=(1, 2, 3)):
    return strength * noise / noise.square().mean(over, keepdim=True).sqrt()


def bias_for_shape(predicted, shapes, textures):
    conflict = shapes != textures
    by_shape, by_texture = ((predicted == cue)[conflict].sum() for cue in (shapes, textures))
    return by_shape / (by_shape + by_texture)


# Other right answers

def by_definition(tokens):
    """Fourier sums, channel by channel."""
    side, logs = math.isqrt(len(tokens)), []
    for k in (side // 2 - 1, 0):
        waves = [cmath.exp(-2j * PI * (k * (n // side) + k * (n % side)) / side) for n in range(len(tokens))]
        logs.append([math.log(abs(sum(w * x for w, x in zip(waves, channel, strict=True)))) for channel in tokens.T.tolist()])
    return sum(a - b for a, b in zip(*logs, strict=True)) / len(logs[0])


def entry_by_entry(n, low, high):
    answer = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            answer[i, j] = low <= 2 * PI / n * max(min(i, n - i), min(j, n - j)) <= high
    return answer


def image_by_image(noise, strength):
    return torch.stack([strength * image / math.sqrt(sum(x**2 for x in image.flatten().tolist()) / image.numel())
                        for image in noise])


def decision_by_decision(predicted, shapes, textures):
    votes = [p == s for p, s, t in zip(predicted.tolist(), shapes.tolist(), textures.tolist(), strict=True)
             if s != t and p in (s, t)]
    return sum(votes) / len(votes)


def test_the_answers_are_the_librarys():
    tokens = torch.randn(64, 7, generator=torch.Generator().manual_seed(4)).double() + 1
    torch.testing.assert_close(delta_log_amplitude(tokens), diagonal(log_amplitude(tokens[None]), (8, 8))[0, -1],
                               rtol=0, atol=1e-5)
    assert torch.equal(band_of(20, 0.45 * PI, 0.65 * PI), band((20, 20), 0.55 * PI, 0.1 * PI))
    shapes, textures = torch.arange(40) % 5, (torch.arange(40) + 1 + torch.arange(40) % 3) % 5
    predicted = torch.where(torch.arange(40) < 23, shapes, textures)
    assert bias_for_shape(predicted, shapes, textures) == pytest.approx(shape_bias(predicted, shapes, textures)["shape_bias"])


@pytest.mark.parametrize("name, answer", [
    ("delta_log_amplitude", delta_log_amplitude), ("delta_log_amplitude", by_definition),
    ("delta_log_amplitude", lambda x: diagonal(log_amplitude(x[None]), (6, 6))[0, -1]),
    ("band_of", band_of), ("band_of", entry_by_entry),
    ("band_of", lambda n, low, high: band((n, n), (low + high) / 2, (high - low) / 2)),
    ("as_strong", as_strong), ("as_strong", image_by_image),
    ("bias_for_shape", bias_for_shape), ("bias_for_shape", decision_by_decision),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter07, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


def logs(tokens):
    return torch.fft.fft2(tokens.view(6, 6, -1), dim=(0, 1)).abs().log().mean(-1)


def signed(n):
    return 2 * PI * torch.fft.fftfreq(n, dtype=torch.float64)


@pytest.mark.parametrize("name, answer, message", [
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x, k=3), "half the side less 1"),
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x, k=-1), "You took k = 1"),
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x, k=1), "You took k = 1"),
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x, k=(0, 2)), "you took none down"),
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x, k=(2, 0)), "you took none across"),
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x, read=lambda a: a.mean(-1).log()), "of each channel first"),
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x.mean(1)), "you transform the mean channel"),
    ("delta_log_amplitude", lambda x: 2 * delta_log_amplitude(x), "squared amplitude"),
    ("delta_log_amplitude", lambda x: -delta_log_amplitude(x), "turn it round"),
    ("delta_log_amplitude", lambda x: logs(x)[2, 2], "F(0) has to come off"),
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x) / math.log(10), "the natural one"),
    ("delta_log_amplitude", lambda x: delta_log_amplitude(x, read=lambda a: a.mean(-1)), "The logarithm is missing"),
    ("delta_log_amplitude", lambda x: (lambda f: f[2, 2].mean() - f[0, 0].mean())(
        torch.fft.fft2(x.view(6, 6, -1)).abs().log()), "dim=(0, 1)"),
    ("delta_log_amplitude", lambda x: (lambda f: (f[:, 2, 2] - f[:, 0, 0]).mean())(
        torch.fft.fft2(x.reshape(-1, 6, 6)).abs().log()), "yours mixes channels and places"),
    ("delta_log_amplitude", lambda x: logs(x) - logs(x)[0, 0], "the shape () was expected, and (6, 6) came"),
    ("band_of", lambda *a: band_of(*a, lambda n: 2 * PI / n * torch.arange(n)), "k or k - n"),
    ("band_of", lambda *a: torch.fft.fftshift(band_of(*a)), "Zero lies in the middle"),
    ("band_of", lambda *a: band_of(*a, signed), "must go together"),
    ("band_of", lambda *a: band_of(*a, combine=torch.hypot), "yours is round"),
    ("band_of", lambda *a: band_of(*a, combine=torch.minimum), "not the smaller"),
    ("band_of", lambda *a: band_of(*a, combine=torch.add), "not their sum"),
    ("band_of", lambda n, low, high: (lambda ok: ok[:, None] & ok)((signed(n).abs() >= low) & (signed(n).abs() <= high)),
     "it is enough that the larger one does"),
    ("band_of", lambda *a: band_of(*a, lambda n: torch.fft.fftfreq(n).abs()), "multiply fftfreq by 2 pi"),
    ("band_of", lambda *a: band_of(*a, lambda n: PI * torch.fft.fftfreq(n).abs()), "not by pi"),
    ("band_of", lambda *a: ~band_of(*a), "outside the band"),
    ("band_of", lambda n, low, high: band_of(n, low + 1e-9, high), "Both ends belong to the band"),
    ("band_of", lambda n, low, high: band_of(n, 0, high), "it has a lower end too"),
    ("band_of", lambda *a: band_of(*a).float(), "one of torch.float32 came"),
    ("band_of", lambda n, *a: band_of(n // 2 + 1, *a), "the shape (12, 12) was expected, and (7, 7) came"),
    ("as_strong", lambda x, s: as_strong(x, s, (0, 1, 2, 3)), "a strength of its own"),
    ("as_strong", lambda x, s: as_strong(x, s, (2, 3)), "over channels too"),
    ("as_strong", lambda x, s: s * x / x.square().mean((1, 2, 3), keepdim=True), "root of the mean square"),
    ("as_strong", lambda x, s: s * x / x.square().sum((1, 2, 3), keepdim=True).sqrt(), "not of the sum"),
    ("as_strong", lambda x, s: s * x / x.std((1, 2, 3), keepdim=True), "takes a mean off"),
    ("as_strong", lambda x, s: s * x / x.std((1, 2, 3), keepdim=True, correction=0), "takes a mean off"),
    ("as_strong", lambda x, s: s * x / x.abs().amax((1, 2, 3), keepdim=True), "The largest value"),
    ("as_strong", lambda x, s: s * x / x.abs().mean((1, 2, 3), keepdim=True), "the mean of absolute values"),
    ("as_strong", lambda x, s: as_strong(x, 1), "The strength is missing"),
    ("as_strong", lambda x, s: as_strong(x, 1 / s), "you divide by it"),
    ("bias_for_shape", lambda p, s, t: (p == s).sum() / ((p == s).sum() + (p == t).sum()), "images whose shape and texture"),
    ("bias_for_shape", lambda p, s, t: (p == s).float().mean(), "agree, and decisions for neither"),
    ("bias_for_shape", lambda p, s, t: (p == s)[s != t].float().mean(), "divide by those for shape or texture"),
    ("bias_for_shape", lambda p, s, t: ((p == s) & (s != t)).float().mean(), "divide by those for shape or texture"),
    ("bias_for_shape", lambda p, s, t: 1 - bias_for_shape(p, s, t), "the bias for texture"),
    ("bias_for_shape", lambda p, s, t: 7 / 3, "the ratio of the two"),
    ("bias_for_shape", lambda p, s, t: 2 * bias_for_shape(p, s, t) - 1, "the difference of the two"),
    ("bias_for_shape", lambda p, s, t: (p == s).sum() / ((p == s).sum() + ((p == t) & (s != t)).sum()),
     "still count as decisions for shape"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter07, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


def test_an_unknown_mistake_still_says_what_came(verdict):
    result, line = verdict(chapter07.check_bias_for_shape, lambda *a: 0.123)
    assert result is False and line.endswith("was expected, and 0.1230 came."), line


@pytest.mark.parametrize("answer", [delta_log_amplitude, band_of, as_strong, bias_for_shape])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter07, f"check_{answer.__name__}"), answer)
