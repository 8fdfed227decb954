"""Mixing: random erasing, mixup and cutmix of a batch, on its device, with draws of its own for each image.

timm, whose settings the published recipes name, draws one lambda for a whole batch unless it is told otherwise. Here each
image has a lambda, a box and a choice between mixup and cutmix of its own (timm calls this "elem"): what happens to an
image then depends on its key, and on its partner, alone. Partners stand opposite each other in the batch: the first is
mixed with the last, the second with the last but one; in an odd batch the one in the middle is its own partner.

Shapes: images (B, 3, H, W), float, normalised; keys (B,) int64 on the CPU. The keys of `make_view` will do: each function
turns them into keys of its own. A box is top, left, height, width, in pixels.
"""
import math

import torch
from scipy.special import betaincinv
from torch import Tensor

from lib import random
from lib.data.transfer import send
from lib.errors import CourseError

AREA, RATIO, TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10             # of random erasing, as in timm


def symmetric_beta(u: Tensor, alpha: float) -> Tensor:
    """From U(0, 1) to Beta(alpha, alpha), by the inverse of its distribution function: float64, shape of u."""
    return torch.as_tensor(betaincinv(alpha, alpha, u.double().numpy()))


def draw_mix(keys: Tensor, height: int, width: int, mixup: float, cutmix: float) -> tuple[Tensor, Tensor, Tensor]:
    """What each image keeps of itself: -> own share (B,) float64, cut (B,) bool, boxes (B, 4) int64, all on the CPU.

    An image that is not cut is own * image + (1 - own) * partner, own ~ Beta(mixup, mixup) (Zhang et al. 2018). One that is
    cut has its partner's pixels in a box (Yun et al. 2019): lambda ~ Beta(cutmix, cutmix), sides of sqrt(1 - lambda) times
    those of the image, rounded down, centre uniform, what juts out cut off; own is the share of the pixels left, not lambda.
    Both happen to half of the images; a parameter of 0 leaves all of them to the other.
    """
    kind, u, row, column = random.uniform(random.combine("mix", keys), 4).double().unbind(1)
    cut = kind < (0.5 if mixup and cutmix else float(cutmix > 0))
    side = (1 - symmetric_beta(u, cutmix or 1.0)).sqrt()
    h, w = (side * height).floor(), (side * width).floor()
    top, left = (row * height).floor() - (h / 2).floor(), (column * width).floor() - (w / 2).floor()
    bottom, right = (top + h).clamp(max=height), (left + w).clamp(max=width)
    top, left = top.clamp(min=0), left.clamp(min=0)
    boxes = torch.stack([top, left, bottom - top, right - left], 1).long()
    blended = symmetric_beta(u, mixup) if mixup else torch.ones_like(u)
    return torch.where(cut, 1 - boxes[:, 2] * boxes[:, 3] / (height * width), blended), cut, boxes


@torch.no_grad()
def mix(images: Tensor, labels: Tensor, keys: Tensor, classes: int, mixup: float = 0.8, cutmix: float = 1.0,
        smoothing: float = 0.1) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of every image with its partner, and the targets that belong to it.

    images (B, 3, H, W) float, labels (B,) int64 on the CPU -> mixed images, targets (B, classes) float32 that sum to 1, on
    the device of the images. A label is smoothed first (`smoothing` of its weight is spread over all classes), then mixed
    by the share of the image that is its own. With mixup and cutmix 0 the images stay as they are.
    Raises CourseError for another kind of input, a label that is no class or a parameter that is out of range.
    """
    _check(images, keys)
    if labels.shape != keys.shape or labels.dtype != torch.int64 or labels.device.type != "cpu":
        raise CourseError(f"{len(images)} images need as many int64 labels on the CPU, got {labels.dtype} "
                          f"{tuple(labels.shape)} on {labels.device}")
    if labels.min() < 0 or labels.max() >= classes:
        raise CourseError(f"labels of {classes} classes lie from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    if not (0 <= mixup < math.inf and 0 <= cutmix < math.inf and 0 <= smoothing < 1):
        raise CourseError("mixup and cutmix must not be negative and smoothing lie in [0, 1), got "
                          f"{mixup}, {cutmix} and {smoothing}")
    height, width = images.shape[2:]
    own, cut, boxes = draw_mix(keys, height, width, mixup, cutmix)
    own, cut, boxes, labels = (send(x, images.device) for x in (own.float(), cut, boxes, labels))
    weight = torch.where(_column(cut), (~_inside(boxes, height, width)).float(), _column(own))    # (B, 1, H, W)
    hard = torch.zeros(len(labels), classes, device=images.device).scatter_(1, labels[:, None], 1.0)
    smooth = (1 - smoothing) * hard + smoothing / classes
    return torch.lerp(images.flip(0), images, weight.to(images)), torch.lerp(smooth.flip(0), smooth, own[:, None])


def draw_erase(keys: Tensor, height: int, width: int, probability: float) -> tuple[Tensor, Tensor]:
    """Which images are erased, and where: -> (B,) bool, boxes (B, 4) int64, on the CPU.

    A box is the first of 10 draws of an area and a log-uniform height / width that is smaller than the image both ways,
    at a uniform place (Zhong et al. 2020, with the ranges of timm). An image in which none fits is left alone.
    """
    u = random.uniform(random.combine("erase", keys), 2 * TRIES + 3).double()
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * u[:, :TRIES])
    low, high = map(math.log, RATIO)
    ratio = (low + (high - low) * u[:, TRIES:2 * TRIES]).exp()
    h, w = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()          # (B, 10)
    fits = (h < height) & (w < width)
    first = fits.int().argmax(1, keepdim=True)
    h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]                    # (B,)
    row, column, chance = u[:, -3:].unbind(1)
    top, left = (row * (height - h + 1)).floor(), (column * (width - w + 1)).floor()
    return (chance < probability) & fits.any(1), torch.stack([top, left, h, w], 1).long()


@torch.no_grad()
def erase(images: Tensor, keys: Tensor, probability: float = 0.25) -> Tensor:
    """Random erasing: standard normal noise in a box, in some of the images (B, 3, H, W). They are left as they were given.

    Raises CourseError for another kind of input or a probability that is none.
    """
    _check(images, keys)
    if not 0 <= probability <= 1:
        raise CourseError(f"the probability of erasing must lie between 0 and 1, got {probability}")
    height, width = images.shape[2:]
    erased, boxes = draw_erase(keys, height, width, probability)
    rows = erased.nonzero()[:, 0]
    if not len(rows):
        return images
    boxes, keys, rows = (send(x, images.device) for x in (boxes[rows], random.combine("noise", keys[rows]), rows))
    u = random.uniform(keys, 3 * height * width).clamp(min=2**-25)               # in (0, 1): the noise is finite
    noise = torch.special.ndtri(u).view(-1, 3, height, width).to(images)
    return images.index_copy(0, rows, torch.where(_inside(boxes, height, width), noise, images[rows]))


def _inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in a box: (B, 4) -> (B, 1, H, W) bool."""
    top, left, h, w = (_column(x) for x in boxes.unbind(1))
    row = torch.arange(height, device=boxes.device)[:, None]
    column = torch.arange(width, device=boxes.device)
    return (row >= top) & (row < top + h) & (column >= left) & (column < left + w)


def _column(x: Tensor) -> Tensor:
    return x[:, None, None, None]


def _check(images: Tensor, keys: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not len(images) or not images.is_floating_point():
        raise CourseError(f"float images (B, 3, H, W) can be mixed or erased, got {images.dtype} {tuple(images.shape)}: "
                          "make them with make_view")
    if keys.shape != images.shape[:1] or keys.dtype != torch.int64 or keys.device.type != "cpu":
        raise CourseError(f"{len(images)} images need as many int64 keys on the CPU, got {keys.dtype} "
                          f"{tuple(keys.shape)} on {keys.device}: make them with random.combine")
