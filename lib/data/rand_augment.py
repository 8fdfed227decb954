"""RandAugment (Cubuk et al. 2020) of a batch, on its device, with draws of its own for each image.

What the recipes of DeiT, MAE and SimMIM call `rand-m9-mstd0.5-inc1`: two operations in a row, each one of 15 at random and
done every other time, at a level drawn around 9 of 10 with standard deviation 0.5; a higher level always changes more.
Every operation agrees with Pillow's of the same name, image by image, to one of 256 grey levels; what moves pixels is
bilinear, and where nothing comes to lie is ImageNet's mean colour.

Shapes: images (B, 3, H, W), float with whole values from 0 to 255; a level, or a sign (+1 or -1), is (B,).
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib import random
from lib.data.transfer import send
from lib.errors import CourseError

IN_A_ROW, CHANCE, SPREAD = 2, 0.5, 0.5
MOST = 10.0                                                        # the highest level
FILL = torch.tensor([124.0, 116.0, 104.0]).view(3, 1, 1)           # ImageNet's mean colour, in grey levels
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


# ------------------------------------------------------------------------------------------- what changes colours

def auto_contrast(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Each channel is stretched from 0 to 255; one that is even stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    scale = 255 / (high - low).double().clamp(min=1)
    stretched = (images * scale - low * scale).floor().clamp(0, 255).to(images)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Each channel gets about as many pixels of each grey level: a level goes where its share of the darker ones lies."""
    flat = images.flatten(2).long()                                                # (B, 3, P)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    step = (flat.shape[2] - counts.gather(2, flat.amax(2, keepdim=True))) // 255   # (B, 3, 1), without the brightest
    darker = counts.cumsum(2) - counts
    table = ((darker + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, flat), flat).view_as(images).to(images)


def invert(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return 255 - images


def posterize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """4 bits of a value are kept at level 0, none at level 10 (where Pillow refuses)."""
    width = 2.0 ** (4 + (level / MOST * 4).floor())
    return images - images.remainder(_column(width))


def solarize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Values from a threshold upwards are inverted: 256 at level 0, 0 at level 10."""
    threshold = 256 - (level / MOST * 256).floor()
    return torch.where(images < _column(threshold), images, 255 - images)


def solarize_add(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Values below 128 become brighter, by up to 110."""
    return torch.where(images < 128, images + _column((level / MOST * 110).floor()), images).clamp(max=255)


def color(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _blend(_grey(images), images, level, sign)


def contrast(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _blend((_grey(images).mean((2, 3), keepdim=True) + 0.5).floor(), images, level, sign)


def brightness(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _blend(torch.zeros_like(images), images, level, sign)


def sharpness(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Away from, or towards, a mean over 3 x 3 pixels in which the middle one counts 5; the border stays."""
    kernel = torch.ones(3, 1, 3, 3, device=images.device) / 13
    kernel[:, :, 1, 1] *= 5
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (F.conv2d(images, kernel.to(images), groups=3) + 0.5).floor()
    return _blend(smooth, images, level, sign)


# ------------------------------------------------------------------------------------------------ what moves pixels

def rotate(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Around the middle, by up to 30 degrees; a positive sign turns against the clock."""
    angle = torch.deg2rad(30 * level / MOST * sign)
    cos, sin = angle.cos(), angle.sin()
    x, y = images.shape[3] / 2, images.shape[2] / 2
    return _move(images, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def shear_x(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Rows slide by up to 0.3 pixels for each row above them."""
    one, zero, slope = torch.ones_like(level), torch.zeros_like(level), 0.3 * level / MOST * sign
    return _move(images, (one, slope, zero), (zero, one, zero))


def shear_y(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    one, zero, slope = torch.ones_like(level), torch.zeros_like(level), 0.3 * level / MOST * sign
    return _move(images, (one, zero, zero), (slope, one, zero))


def translate_x(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By up to 45 % of the width."""
    one, zero, share = torch.ones_like(level), torch.zeros_like(level), 0.45 * level / MOST * sign
    return _move(images, (one, zero, share * images.shape[3]), (zero, one, zero))


def translate_y(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    one, zero, share = torch.ones_like(level), torch.zeros_like(level), 0.45 * level / MOST * sign
    return _move(images, (one, zero, zero), (zero, one, share * images.shape[2]))


def _move(images: Tensor, across: tuple[Tensor, Tensor, Tensor], down: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The pixel at (x, y) comes from (a x + b y + c, d x + e y + f), in pixels from the upper left corner of the image."""
    height, width = images.shape[2:]
    y = (torch.arange(height, device=images.device) + 0.5)[:, None]
    x = torch.arange(width, device=images.device) + 0.5
    from_x, from_y = (a[:, None, None] * x + b[:, None, None] * y + c[:, None, None] for a, b, c in (across, down))
    grid = torch.stack([2 * from_x / width - 1, 2 * from_y / height - 1], 3)       # (B, H, W, 2)
    moved = F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    return torch.where(inside[:, None], moved.round(), FILL.to(images))


# ------------------------------------------------------------------------------------------------- two at random

OPERATIONS = (auto_contrast, equalize, invert, rotate, posterize, solarize, solarize_add, color, contrast, brightness,
              sharpness, shear_x, shear_y, translate_x, translate_y)


def draw(keys: Tensor, magnitude: float) -> tuple[Tensor, Tensor, Tensor]:
    """For each image and each of the two in a row: number of the operation, -1 for none; level; sign. (B, 2) each, CPU."""
    u = random.uniform(random.combine("RandAugment", keys), 4 * IN_A_ROW).view(-1, IN_A_ROW, 4)
    kind = (u[..., 0] * len(OPERATIONS)).long()
    level = magnitude + SPREAD * torch.special.ndtri(u[..., 1].double().clamp(2**-25, 1 - 2**-25))
    sign = torch.where(u[..., 2] < 0.5, 1.0, -1.0)
    return kind.masked_fill(u[..., 3] >= CHANCE, -1), level.clamp(0, MOST).float(), sign


def rand_augment(images: Tensor, keys: Tensor, magnitude: float = 9.0) -> Tensor:
    """Images (B, 3, H, W), float in [0, 1], and keys (B,) int64 on the CPU -> the same kind; [0, 1] in 256 steps.

    An image with the same key is changed in the same way in any batch. Raises CourseError for a magnitude outside 0 to 10, and
    for images or keys of another kind.
    """
    kind = images.dtype == torch.float32 and images.ndim == 4 and images.shape[1] == 3 and min(images.shape[2:]) > 2
    if not kind or keys.dtype != torch.int64 or keys.shape != images.shape[:1]:
        raise CourseError("RandAugment takes float32 images (B, 3, H, W) of more than 2 pixels a side, from 0 to 1, and B "
                          f"int64 keys, got {images.dtype} {tuple(images.shape)} and {keys.dtype} {tuple(keys.shape)}")
    if not 0 <= magnitude <= MOST:
        raise CourseError(f"the magnitude of RandAugment lies from 0 to {MOST:g}, got {magnitude}")
    images = (255 * images).round()
    for kinds, levels, signs in zip(*(x.unbind(1) for x in draw(keys, magnitude)), strict=True):
        done = images.clone()
        for kind in kinds[kinds >= 0].unique().tolist():
            rows = (kinds == kind).nonzero()[:, 0]
            level, sign, rows = (send(x, images.device) for x in (levels[rows], signs[rows], rows))
            done[rows] = OPERATIONS[kind](images[rows], level, sign)
        images = done
    return images / 255


# ---------------------------------------------------------------------------------------------------------- helpers

def _blend(start: Tensor, images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """From `start` at factor 0 through the image at 1 and beyond; the factor is 1 -+ 0.9 of the level, at least 0.1."""
    factor = (1 + 0.9 * level / MOST * sign).clamp(min=0.1)
    return torch.lerp(start.expand_as(images), images, _column(factor)).clamp(0, 255).floor()


def _grey(images: Tensor) -> Tensor:
    return (images * LUMA.to(images)).sum(1, keepdim=True).round()                 # (B, 1, H, W)


def _column(x: Tensor) -> Tensor:
    return x[:, None, None, None]
