"""Mixup, cutmix and erasing: each image against a slow version of its own, targets against the pixels pasted."""
import math

import pytest
import torch

from lib import random
from lib.data import mixing
from lib.data.mixing import draw_erase, draw_mix, erase, mix, symmetric_beta
from lib.errors import CourseError

B, CLASSES = 12, 5
BOTH = {"mixup": 0.8, "cutmix": 1.0}


def keys(n: int = B, epoch: int = 0) -> torch.Tensor:
    return random.combine(0, epoch, torch.arange(n))


def noise(n: int = B, height: int = 16, width: int = 20) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(B) * 7 % CLASSES


def beta_density(x: float, alpha: float) -> float:
    return (x * (1 - x)) ** (alpha - 1) * math.gamma(2 * alpha) / math.gamma(alpha) ** 2


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0, 3.0])
def test_beta_is_the_inverse_of_its_distribution_function(alpha):
    """Between the draws of two u lies a mass of their difference, by the midpoint rule; the median is a half."""
    u = torch.tensor([0.1, 0.35, 0.5, 0.65, 0.9])
    x = symmetric_beta(u, alpha).tolist()
    for i in range(4):
        step = (x[i + 1] - x[i]) / 2000
        mass = sum(beta_density(x[i] + (k + 0.5) * step, alpha) * step for k in range(2000))
        assert mass == pytest.approx(float(u[i + 1] - u[i]), abs=1e-5)
    assert x[2] == pytest.approx(0.5) and x[0] == pytest.approx(1 - x[4], abs=1e-6)


# --------------------------------------------------------------------------------------------------------- mixup and cutmix

def slow_draw(key: torch.Tensor, height: int, width: int, mixup: float, cutmix: float):
    """-> own share, and the box (top, left, bottom, right) or None, for one image."""
    kind, u, row, column = random.uniform(random.combine("mix", key), 4).tolist()
    if cutmix and (not mixup or kind < 0.5):
        share = float(symmetric_beta(torch.tensor(u), cutmix))
        h, w = int(height * math.sqrt(1 - share)), int(width * math.sqrt(1 - share))
        top, left = int(row * height) - h // 2, int(column * width) - w // 2
        box = max(top, 0), max(left, 0), min(top + h, height), min(left + w, width)
        return 1 - (box[2] - box[0]) * (box[3] - box[1]) / (height * width), box
    return (float(symmetric_beta(torch.tensor(u), mixup)) if mixup else 1.0), None


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.0, 1.0), (0.8, 0.0), (0.3, 2.0), (0.0, 0.0)])
@pytest.mark.parametrize("n", [B, B - 1])
def test_mix_against_one_image_at_a_time(mixup, cutmix, n):
    images, labels = noise(n), LABELS[:n]
    mixed, targets = mix(images, labels, keys(n), CLASSES, mixup, cutmix, smoothing=0.1)
    for i in range(n):
        partner = n - 1 - i
        own, box = slow_draw(keys(n)[i], 16, 20, mixup, cutmix)
        expected = images[i].clone()
        if box is None:
            expected = own * images[i] + (1 - own) * images[partner]
        else:
            for row in range(box[0], box[2]):
                for column in range(box[1], box[3]):
                    expected[:, row, column] = images[partner, :, row, column]
        target = [0.1 / CLASSES] * CLASSES
        target[labels[i]] += 0.9 * own
        target[labels[partner]] += 0.9 * (1 - own)
        torch.testing.assert_close(mixed[i], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(targets[i], torch.tensor(target), rtol=0, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_the_share_of_the_pixels(smoothing):
    """Each image has a colour and a class of its own, so a mixed image shows what it is made of."""
    n = 40
    images = torch.arange(n).view(-1, 1, 1, 1).expand(n, 3, 16, 20).float()
    mixed, targets = mix(images, torch.arange(n), keys(n), n, **BOTH, smoothing=smoothing)
    other = torch.arange(n).flip(0)
    share = (mixed.mean((1, 2, 3)) - other) / (torch.arange(n) - other)           # 1: all its own
    expected = torch.zeros(n, n).scatter_(1, torch.arange(n)[:, None], share[:, None])
    expected = expected.scatter_(1, other[:, None], 1 - share[:, None])
    torch.testing.assert_close(targets, (1 - smoothing) * expected + smoothing / n, rtol=0, atol=1e-4)
    torch.testing.assert_close(targets.sum(1), torch.ones(n), rtol=0, atol=1e-6)
    assert share.min() < 0.2 and share.max() > 0.8


def test_a_box_that_juts_out_counts_for_what_is_pasted():
    """Of a side s of a box with a uniform centre, s - s^2 / 4 lies within on average, so that with s^2 ~ U(0, 1) a share of
    2 (1/4 - 1/10 + 1/96) = 0.321 is pasted. Boxes that kept their size would give 1/2."""
    own, cut, boxes = draw_mix(keys(4000), 256, 256, 0.0, 1.0)
    assert cut.all() and own.mean() == pytest.approx(1 - 0.321, abs=0.02)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    assert (low >= 0).all() and (high <= 256).all() and (boxes[:, 2:] >= 0).all()
    assert (low == 0).any(0).all() and (high == 256).any(0).all()


def test_label_smoothing_by_hand():
    """4 classes, smoothing 0.2: 0.85 for the true one and 0.05 for the others."""
    images, targets = mix(noise(2), torch.tensor([2, 0]), keys(2), 4, mixup=0, cutmix=0, smoothing=0.2)
    torch.testing.assert_close(targets, torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]))
    assert torch.equal(images, noise(2))


def test_the_law_of_the_draws():
    """Half are cut; shares of the others have mean 1/2 and the variance of Beta(0.8, 0.8), 1 / (4 (2 * 0.8 + 1))."""
    own, cut, _ = draw_mix(keys(4000), 32, 32, **BOTH)
    assert cut.double().mean() == pytest.approx(0.5, abs=0.03)
    assert own[~cut].mean() == pytest.approx(0.5, abs=0.03)
    assert own[~cut].var() == pytest.approx(1 / (4 * 2.6), abs=0.01)


def test_draws_belong_to_the_key_and_not_to_the_batch():
    together = draw_mix(keys(), 32, 32, **BOTH), draw_erase(keys(), 32, 32, 0.5)
    alone = [(draw_mix(k[None], 32, 32, **BOTH), draw_erase(k[None], 32, 32, 0.5)) for k in keys()]
    for which in (0, 1):
        for position, whole in enumerate(together[which]):
            assert torch.equal(torch.cat([a[which][position] for a in alone]), whole)
    assert not torch.equal(draw_mix(keys(epoch=1), 32, 32, **BOTH)[0], together[0][0])


def test_the_keys_of_views_will_do():
    """What is drawn from a key itself, as crops are, tells nothing of what is mixed or erased."""
    low = random.uniform(keys(4000), 1)[:, 0] < 0.5
    cut, erased = draw_mix(keys(4000), 32, 32, **BOTH)[1], draw_erase(keys(4000), 32, 32, 0.5)[0]
    for which in (cut[low], erased[low], erased[cut]):
        assert which.double().mean() == pytest.approx(0.5, abs=0.05)


# ------------------------------------------------------------------------------------------------------------------- erasing

def slow_erase_box(key: torch.Tensor, height: int, width: int, probability: float):
    """-> top, left, height, width, or None if the image is left alone."""
    u = random.uniform(random.combine("erase", key), 23).tolist()
    if u[22] >= probability:
        return None
    for area, ratio in zip(u[:10], u[10:20], strict=True):
        area = height * width * (0.02 + area * (1 / 3 - 0.02))
        ratio = math.exp(math.log(0.3) + ratio * (math.log(1 / 0.3) - math.log(0.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            return int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w
    return None


@pytest.mark.parametrize(("height", "width"), [(32, 32), (12, 60)])               # in the second, first draws often do not fit
def test_erase_boxes_against_one_image_at_a_time(height, width):
    erased, boxes = draw_erase(keys(400), height, width, 0.5)
    expected = [slow_erase_box(k, height, width, 0.5) for k in keys(400)]
    assert [tuple(box) if e else None for e, box in zip(erased.tolist(), boxes.tolist(), strict=True)] == expected
    assert 140 < sum(box is not None for box in expected) < 260


def test_an_image_in_which_nothing_fits_is_left_alone():
    assert not draw_erase(keys(50), 1, 60, 1.0)[0].any()


def test_erase_fills_the_box_with_noise_and_nothing_else():
    n, size = 200, 24
    images = noise(n, size, size) + 100
    before = images.clone()
    out = erase(images, keys(n), 0.5)
    assert torch.equal(images, before)
    erased, boxes = draw_erase(keys(n), size, size, 0.5)
    pixels = []
    for i in range(n):
        inside = torch.zeros(size, size, dtype=torch.bool)
        if erased[i]:
            top, left, h, w = boxes[i].tolist()
            inside[top:top + h, left:left + w] = True
        assert torch.equal(out[i, :, ~inside], images[i, :, ~inside])
        pixels.append(out[i, :, inside].flatten())
    assert not torch.equal(pixels[erased.nonzero()[0]][:9], pixels[erased.nonzero()[1]][:9])
    pixels = torch.cat(pixels)                                                    # about 30,000 numbers
    assert pixels.mean() == pytest.approx(0, abs=0.03) and pixels.std() == pytest.approx(1, abs=0.03)
    assert (pixels.abs() < 1).double().mean() == pytest.approx(0.6827, abs=0.02)   # and it is normal


def test_erase_with_probability():
    assert torch.equal(erase(noise(), keys(), 0.0), noise())
    assert (erase(noise(), keys(), 1.0) != noise()).any(3).any(2).any(1).all()
    assert draw_erase(keys(4000), 32, 32, 0.25)[0].double().mean() == pytest.approx(0.25, abs=0.03)


def test_noise_is_finite_where_a_draw_is_0(monkeypatch):
    monkeypatch.setattr(mixing.random, "uniform", lambda key, count: torch.zeros(*key.shape, count))
    assert erase(noise(), keys(), 1.0).isfinite().all()


# ----------------------------------------------------------------------------------------------------------------- bad input

WRONG_IMAGES = [(noise().to(torch.uint8), keys()), (noise()[0], keys()), (noise()[:, :1], keys()), (noise()[:0], keys()[:0]),
                (noise(), keys(B - 1)), (noise(), keys().int()), (noise(), keys()[:, None])]


@pytest.mark.parametrize(("images", "k"), WRONG_IMAGES,
                         ids=["uint8", "no batch", "one channel", "none", "few keys", "int32", "2-D"])
def test_wrong_images_and_keys_are_named(images, k):
    for call in (lambda: mix(images, LABELS[:len(images)], k, CLASSES), lambda: erase(images, k)):
        with pytest.raises(CourseError, match=r"^[^\n]*got[^\n]*$"):
            call()


@pytest.mark.parametrize(("labels", "says"), [
    (LABELS[:3], "12 images need as many int64 labels"), (LABELS.int(), "int64 labels on the CPU, got torch.int32"),
    (LABELS + 1, "labels of 5 classes lie from 0 to 4, got 1 to 5"), (LABELS - 1, "got -1 to 3"),
])
def test_wrong_labels_are_named(labels, says):
    with pytest.raises(CourseError, match=says):
        mix(noise(), labels, keys(), CLASSES)


@pytest.mark.parametrize("wrong", [{"mixup": -0.1}, {"cutmix": math.inf}, {"smoothing": 1.0}, {"smoothing": -0.1}])
def test_wrong_parameters_are_named(wrong):
    with pytest.raises(CourseError, match="mixup and cutmix must not be negative and smoothing lie in"):
        mix(noise(), LABELS, keys(), CLASSES, **wrong)
    with pytest.raises(CourseError, match=r"probability of erasing must lie between 0 and 1, got 1\.5"):
        erase(noise(), keys(), 1.5)
