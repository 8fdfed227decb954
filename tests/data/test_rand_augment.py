"""RandAugment: each operation against Pillow's, draws against their distribution, a batch against one image at a time."""
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from lib import random
from lib.data import rand_augment as ra
from lib.errors import CourseError

FILL = (124, 116, 104)


def pictures(n: int = 4, height: int = 24, width: int = 32) -> torch.Tensor:
    """Smooth colours with a little noise, whole values; the last is nearly even, so that it has few grey levels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, 4, 5, generator=generator)
    x = torch.nn.functional.interpolate(x, (height, width), mode="bilinear") * 220 + 15
    x = x + 6 * torch.randn(x.shape, generator=generator)
    x[-1] = x[-1] / 20 + 90
    return x.round().clamp(0, 255)


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=FILL)


def by_pillow(name: str, image: Image.Image, level: float, sign: float) -> Image.Image:
    """Written from the description of each operation: a level of 10 is the most."""
    part = level / 10
    factor, slope, way = max(0.1, 1 + 0.9 * part * sign), 0.3 * part * sign, 0.45 * part * sign
    return {
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "rotate": lambda: image.rotate(30 * part * sign, resample=Image.Resampling.BILINEAR, fillcolor=FILL),
        "posterize": lambda: image.point([v & ~(2 ** (4 + int(4 * part)) - 1) for v in range(256)] * 3),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(256 * part)),
        "solarize_add": lambda: image.point([min(255, v + int(110 * part)) if v < 128 else v for v in range(256)] * 3),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "shear_x": lambda: affine(image, 1, slope, 0, 0, 1, 0),
        "shear_y": lambda: affine(image, 1, 0, 0, slope, 1, 0),
        "translate_x": lambda: affine(image, 1, 0, way * image.width, 0, 1, 0),
        "translate_y": lambda: affine(image, 1, 0, 0, 0, 1, way * image.height),
    }[name]()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("operation", ra.OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_operation_is_pillows_at_every_level(operation, sign):
    name, images, levels = operation.__name__, pictures(), torch.tensor([0.0, 4.3, 8.9, 10.0])
    ours = operation(images, levels, torch.full((4,), sign))
    assert ours.shape == images.shape and torch.equal(ours, ours.round()) and 0 <= ours.min() and ours.max() <= 255
    for image, mine, level in zip(images, ours, levels.tolist(), strict=True):
        pil = Image.fromarray(image.permute(1, 2, 0).byte().numpy())
        theirs = torch.from_numpy(np.array(by_pillow(name, pil, level, sign))).permute(2, 0, 1).float()
        away = (mine - theirs).abs()
        assert (away <= 1).float().mean() >= (0.995 if name in ("rotate", "shear_x", "shear_y") else 1.0), away.max()


def test_an_even_image_stays_where_there_is_nothing_to_stretch():
    even = torch.full((1, 3, 8, 8), 77.0)
    for operation in (ra.auto_contrast, ra.equalize):
        assert torch.equal(operation(even, torch.ones(1), torch.ones(1)), even)


def test_draws_have_their_distribution():
    kind, level, sign = ra.draw(random.combine(0, torch.arange(20_000)), 9.0)
    assert (kind == -1).float().mean().item() == pytest.approx(0.5, abs=0.01)
    shares = torch.bincount(kind[kind >= 0], minlength=15) / (kind >= 0).sum()
    assert len(shares) == 15 and (shares - 1 / 15).abs().max() < 0.01
    assert level.max() <= 10 and level.median().item() == pytest.approx(9, abs=0.02)
    assert level[level < 9].sub(9).square().mean().sqrt().item() == pytest.approx(0.5, abs=0.01)   # the half that is not cut
    assert sign.mean().abs() < 0.02 and set(sign.flatten().tolist()) == {-1.0, 1.0}


def test_a_batch_is_one_image_at_a_time():
    images, keys = pictures(24) / 255, random.combine(3, torch.arange(24))
    together = ra.rand_augment(images, keys, 9.0)
    alone = torch.cat([ra.rand_augment(image[None], key[None], 9.0) for image, key in zip(images, keys, strict=True)])
    assert (together - alone).abs().max() <= 1 / 255 + 1e-6 and (together == alone).float().mean() > 0.999
    assert 0 <= together.min() and together.max() <= 1
    untouched = (ra.draw(keys, 9.0)[0] == -1).all(1)
    assert untouched.any() and torch.equal(together[untouched], (255 * images[untouched]).round() / 255)
    assert (together != images).flatten(1).any(1)[~untouched].all()


def test_two_in_a_row_are_done_one_after_the_other():
    images, keys = pictures(64) / 255, random.combine(5, torch.arange(64))
    kinds, levels, signs = ra.draw(keys, 9.0)
    both = (kinds >= 0).all(1).nonzero()[:, 0].tolist()
    assert both
    for i in both:
        x = (255 * images[i:i + 1]).round()
        for k in range(2):
            x = ra.OPERATIONS[kinds[i, k]](x, levels[i:i + 1, k], signs[i:i + 1, k])
        assert (ra.rand_augment(images[i:i + 1], keys[i:i + 1], 9.0) * 255 - x).abs().max() < 1e-3


@pytest.mark.parametrize("magnitude", [-1.0, 10.5, float("nan")])
def test_a_magnitude_beyond_the_scale_is_refused(magnitude):
    with pytest.raises(CourseError, match="the magnitude of RandAugment lies from 0 to 10"):
        ra.rand_augment(torch.rand(1, 3, 8, 8), random.combine(torch.arange(1)), magnitude)


@pytest.mark.parametrize(("images", "keys"), [
    (torch.rand(10, 3, 8, 8), 5), (torch.rand(2, 3, 2, 8), 2), (torch.rand(2, 1, 8, 8), 2),
    (torch.rand(2, 3, 8, 8).double(), 2), (torch.ones(2, 3, 8, 8).byte(), 2)])
def test_images_and_keys_of_another_kind_are_refused(images, keys):
    with pytest.raises(CourseError, match=r"RandAugment takes float32 images \(B, 3, H, W\) .* got torch"):
        ra.rand_augment(images, random.combine(torch.arange(keys)))
