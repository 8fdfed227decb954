"""Views: random augmentation of a batch of images, on their device, with one draw for each image.

torchvision's transforms draw once for a whole batch; here every image gets a crop, colours and a blur of its own. Each
operation takes one parameter per image, and agrees with its namesake in `torchvision.transforms.v2.functional` image by
image. Random numbers are keyed on (seed, epoch, sample, view), so a view depends neither on its batch nor on what was
drawn before. They are drawn on the CPU, which therefore knows which images an operation concerns without asking the GPU.

Shapes: images (B, 3, H, W), float in [0, 1] where nothing else is said; a parameter is (B,), on the device of the images.
"""
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lib import random
from lib.data.rand_augment import MOST, rand_augment
from lib.data.transfer import send
from lib.errors import CourseError

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)                         # of ImageNet, red, green, blue
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
TRIES = 10                                                                       # crops tried before the central one


@dataclass(frozen=True)
class ViewRecipe:
    """What a view may do to an image, in this order. A word that names an operation is its probability, from 0 to 1.

    crop       scale: part of the area kept; ratio: width / height of the crop. (1, 1) for both keeps a square image whole.
               bicubic: it is brought to its size by a cubic curve, not by a triangle
    jitter     strengths s of brightness, contrast, saturation and hue, in a random order for each image. The first three
               multiply by U(max(0, 1 - s), 1 + s); hue turns by U(-s, s) of the colour circle, s at most 0.5
    grayscale
    blur       Gaussian; sigma: range of its standard deviation, in pixels of a 224-pixel view. `make_view` scales it by
               size / 224: 2 pixels soften a view of 224 and would wipe out the shapes in one of 32
    solarize   inverts what is brighter than 0.5
    flip       left to right
    rand_augment   no probability but the magnitude, from 0 for none to 10: two operations more, see `lib.data.rand_augment`
    """
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.0
    strengths: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    grayscale: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    flip: float = 0.0
    rand_augment: float = 0.0
    bicubic: bool = False

    def __post_init__(self):
        if not 0 <= self.rand_augment <= MOST:
            raise CourseError(f"rand_augment is a magnitude, from 0 to {MOST:g}, got {self.rand_augment}")
        for name in ("jitter", "grayscale", "blur", "solarize", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise CourseError(f"{name} is a probability, from 0 to 1, got {getattr(self, name)}")
        for name, most in (("scale", 1), ("ratio", math.inf), ("sigma", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise CourseError(f"{name} must be a range (low, high) with 0 < low <= high <= {most}, got {(low, high)}")
        if min(self.strengths) < 0 or self.strengths[3] > 0.5:
            raise CourseError(f"strengths must not be negative, and hue at most 0.5, got {self.strengths}")


CAN_BE_LEFT_OUT = ("crop", "jitter", "grayscale", "blur", "solarize", "flip", "rand_augment")


def without(view: ViewRecipe, names: tuple[str, ...]) -> ViewRecipe:
    """A view that leaves some of CAN_BE_LEFT_OUT out. Without "crop" it shows a square image whole."""
    probabilities = {name: 0.0 for name in names if name != "crop"}
    return replace(view, **probabilities, **(dict(scale=(1.0, 1.0), ratio=(1.0, 1.0)) if "crop" in names else {}))


PLAIN = ViewRecipe(ratio=(1.0, 1.0))
SIMMIM = ViewRecipe(scale=(0.67, 1.0), flip=0.5)                                 # Xie et al. 2022
SUPERVISED = ViewRecipe(scale=(0.08, 1.0), jitter=1.0, strengths=(0.4, 0.4, 0.4, 0.0), flip=0.5)   # without RandAugment
MAE_VIEW = ViewRecipe(scale=(0.2, 1.0), flip=0.5)                                # He et al. 2022
MOCO_V3 = (                                                                      # Chen et al. 2021, with the views of BYOL
    ViewRecipe(scale=(0.08, 1.0), jitter=0.8, grayscale=0.2, blur=1.0, flip=0.5),
    ViewRecipe(scale=(0.08, 1.0), jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2, flip=0.5),
)
DINO_GLOBAL = (                                                                  # Caron et al. 2021
    ViewRecipe(scale=(0.4, 1.0), jitter=0.8, grayscale=0.2, blur=1.0, flip=0.5),
    ViewRecipe(scale=(0.4, 1.0), jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2, flip=0.5),
)
DINO_LOCAL = ViewRecipe(scale=(0.05, 0.4), jitter=0.8, grayscale=0.2, blur=0.5,  # sigma: 0.1 to 2 pixels of a view of 96
                        sigma=(0.1 * 224 / 96, 2 * 224 / 96), flip=0.5)


class Whole(NamedTuple):
    """Images of any shape, each squeezed into a square. A crop of one is drawn as from the image before."""
    pixels: Tensor                    # (B, 3, S, S) uint8
    aspects: Tensor                   # (B,) width / height before, on the CPU


def repeat(images: Tensor | Whole, times: int) -> Tensor | Whole:
    """All of them several times over, (times B, ...)."""
    if isinstance(images, Whole):
        return Whole(repeat(images.pixels, times), images.aspects.repeat(times))
    return images.repeat(times, 1, 1, 1)


@dataclass(frozen=True)
class Draws:
    """What happens to each of B images, on the CPU."""
    boxes: Tensor                     # (B, 4) int64: top, left, height, width of the crop
    jitter: Tensor                    # (B,) bool
    factors: Tensor                   # (B, 4): brightness, contrast, saturation, hue
    order: Tensor                     # (B, 4) int64: which of these four is done first, second, ...
    grayscale: Tensor                 # (B,) bool
    blur: Tensor                      # (B,) bool
    sigma: Tensor                     # (B,) pixels of a 224-pixel view
    solarize: Tensor                  # (B,) bool
    flip: Tensor                      # (B,) bool


def normalize(images: Tensor) -> Tensor:
    """uint8, or float in [0, 1] -> float32 with ImageNet's mean and standard deviation taken out. Any (..., 3, H, W)."""
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return (x - send(MEAN, x.device)).div_(send(STD, x.device))


def denormalize(x: Tensor) -> Tensor:
    """The inverse, to look at: normalised (..., 3, H, W) -> float32 in [0, 1], clamped."""
    return (x.float() * send(STD, x.device) + send(MEAN, x.device)).clamp(0, 1)


def resized_crop(images: Tensor, boxes: Tensor, size: int, bicubic: bool = False) -> Tensor:
    """Crop and resize, antialiased, bilinear or bicubic: (B, 3, H, W), boxes (B, 4) of top, left, height, width ->
    (B, 3, size, size). Two batched matrix products, W_y @ image @ W_x^T; boxes must lie within the images. What a cubic curve
    throws beyond [0, 1] is cut off."""
    top, left, height, width = boxes.unbind(1)
    rows = _crop_weights(top, height, size, images.shape[2], bicubic)            # (B, size, H)
    columns = _crop_weights(left, width, size, images.shape[3], bicubic)         # (B, size, W)
    return _multiply(rows, images, columns).clamp_(0, 1) if bicubic else _multiply(rows, images, columns)


def flip(images: Tensor, which: Tensor) -> Tensor:
    """Left to right, where `which` (B,) bool."""
    return torch.where(_column(which), images.flip(3), images)


def grayscale(images: Tensor, which: Tensor) -> Tensor:
    """Three equal channels, where `which` (B,) bool."""
    return torch.where(_column(which), _luma(images), images)


def solarize(images: Tensor, which: Tensor) -> Tensor:
    """Values from 0.5 upwards are inverted, where `which` (B,) bool."""
    return torch.where(_column(which) & (images >= 0.5), 1 - images, images)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """factor 0 is black, 1 the image; at least 0."""
    return (images * _column(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """factor 0 is the mean grey of the image, 1 the image; at least 0."""
    return _blend(_luma(images).mean((2, 3), keepdim=True), images, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """factor 0 is grey, 1 the image; at least 0."""
    return _blend(_luma(images), images, factor)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the colours by `factor` of the colour circle, from -0.5 to 0.5; lightness and saturation stay (HSV)."""
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)                        # (B, H, W)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    hue = torch.where(high == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    hue = torch.where(high == red, green - blue, hue) / chroma.clamp(min=1e-30)  # in sixths of the circle; grey has 0
    hue = hue.add_(6 * factor[:, None, None]).remainder_(6)
    out = torch.empty_like(images)
    for channel, opposite in enumerate((3, 5, 1)):                               # red is least at cyan, 3 sixths; ...
        away = ((hue - opposite).abs_() - 3).abs_() - 1                          # 2 - distance from there, on the circle
        torch.sub(high, chroma * away.clamp_(0, 1), out=out[:, channel])
    return out


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Gaussian with standard deviation sigma (B,) pixels, cut to kernel_size (odd) pixels; borders are reflected.
    Two batched matrix products, like `resized_crop`."""
    return _multiply(_blur_weights(sigma, kernel_size, images.shape[2]), images,
                     _blur_weights(sigma, kernel_size, images.shape[3]))


def draw(recipe: ViewRecipe, keys: Tensor, height: int, width: int, aspects: Tensor | None = None) -> Draws:
    """All parameters for images of height x width pixels, one set for each key: keys (B,) int64.

    Crops follow torchvision's RandomResizedCrop: the first of 10 draws of an area and a log-uniform width / height that
    fits, else the largest central crop whose width / height is allowed. aspects (B,): width / height of each image before
    it was squeezed into these pixels, see `Whole`; areas and crops are then those of the image before.
    """
    rows, columns = height, width
    squeeze = torch.ones(len(keys), dtype=torch.float64) if aspects is None else (aspects * rows / columns).double().sqrt()
    height, width = rows / squeeze, columns * squeeze                            # (B,) each: before, with the same area
    u = random.uniform(keys, 2 * TRIES + 16).double()
    area, ratio = u[:, :TRIES], u[:, TRIES:2 * TRIES]
    top, left, jitter, grayscale, blur, sigma, solarize, flip = u[:, 2 * TRIES:2 * TRIES + 8].unbind(1)
    factors, order = u[:, -8:-4], u[:, -4:].argsort(dim=1)

    area = (height * width)[:, None] * _between(area, *recipe.scale)
    ratio = _between(ratio, *map(math.log, recipe.ratio)).exp()
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()          # (B, 10)
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first, found = fits.int().argmax(1, keepdim=True), fits.any(1)
    central_w = torch.minimum(width, (height * recipe.ratio[1]).round())
    central_h = torch.minimum(height, (width / recipe.ratio[0]).round())
    w = torch.where(found, w.gather(1, first)[:, 0], central_w)                  # (B,)
    h = torch.where(found, h.gather(1, first)[:, 0], central_h)
    top = torch.where(found, top * (height.floor() - h + 1), (height - h) / 2).floor()
    left = torch.where(found, left * (width.floor() - w + 1), (width - w) / 2).floor()
    if aspects is not None:                                                      # to the pixels that are there
        bottom, right = ((top + h) * squeeze).round(), ((left + w) / squeeze).round()
        top, left = (top * squeeze).round().clamp(max=rows - 1), (left / squeeze).round().clamp(max=columns - 1)
        h, w = (bottom - top).clamp(min=1), (right - left).clamp(min=1)

    s = torch.tensor(recipe.strengths, dtype=torch.float64)
    least = torch.cat([(1 - s[:3]).clamp(min=0), -s[3:]])
    most = torch.cat([1 + s[:3], s[3:]])
    return Draws(torch.stack([top, left, h, w], 1).long(), jitter < recipe.jitter, _between(factors, least, most).float(),
                 order, grayscale < recipe.grayscale, blur < recipe.blur, _between(sigma, *recipe.sigma).float(),
                 solarize < recipe.solarize, flip < recipe.flip)


@torch.no_grad()
def make_view(images: Tensor | Whole, recipe: ViewRecipe, size: int, keys: Tensor) -> Tensor:
    """One view of each image: uint8 (B, 3, H, W), or `Whole` images, and keys (B,) int64 on the CPU -> normalised float32
    (B, 3, size, size).

    keys = random.combine(seed, epoch, sample, view). An image with the same key gets the same view in any batch, to the
    rounding of the matrix products: about 1e-6, or 2e-3 where TensorFloat-32 is switched on. Nothing waits for the GPU.
    Raises CourseError if images, keys or size are of another kind.
    """
    images, aspects = images if isinstance(images, Whole) else (images, None)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise CourseError(f"a view is made of uint8 images (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if keys.shape != images.shape[:1] or keys.dtype != torch.int64 or keys.device.type != "cpu":
        raise CourseError(f"{len(images)} images need as many int64 keys on the CPU, got {keys.dtype} "
                          f"{tuple(keys.shape)} on {keys.device}: make them with random.combine")
    if size < 2:
        raise CourseError(f"a view is at least 2 pixels wide, got a size of {size}")
    draws = draw(recipe, keys, *images.shape[2:], aspects)
    view = resized_crop(images.float().div_(255), send(draws.boxes, images.device), size, recipe.bicubic)
    for step in draws.order.unbind(1):
        for kind, adjust in enumerate((adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)):
            _on_rows(view, draws.jitter & (step == kind), adjust, draws.factors[:, kind])
    if recipe.grayscale:
        view = grayscale(view, send(draws.grayscale, view.device))
    radius = min(math.ceil(3 * recipe.sigma[1] * size / 224), size - 1)
    _on_rows(view, draws.blur, gaussian_blur, draws.sigma * size / 224, kernel_size=2 * radius + 1)
    if recipe.solarize:
        view = solarize(view, send(draws.solarize, view.device))
    if recipe.flip:
        view = flip(view, send(draws.flip, view.device))
    if recipe.rand_augment:
        view = rand_augment(view, keys, recipe.rand_augment)
    return normalize(view)


def _on_rows(images: Tensor, which: Tensor, operation, parameter: Tensor, **options) -> None:
    """Change, in place, the images where `which` is true. `which` and `parameter` are (B,), on the CPU."""
    rows = which.nonzero()[:, 0]
    if len(rows):
        parameter, rows = send(parameter[rows], images.device), send(rows, images.device)
        images[rows] = operation(images[rows], parameter, **options)


def _column(x: Tensor) -> Tensor:
    return x[:, None, None, None]


def _between(u: Tensor, low, high) -> Tensor:
    return low + (high - low) * u


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)       # (B, 1, H, W)


def _blend(start: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(start, images, _column(factor)).clamp_(0, 1)


def _multiply(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """rows (B, h, H) @ images (B, 3, H, W) @ columns^T (B, W, w) -> (B, 3, h, w)"""
    b, c, height, width = images.shape
    images = torch.bmm(images.reshape(b, c * height, width), columns.mT).view(b, c, height, -1)
    return rows[:, None] @ images


def _crop_weights(start: Tensor, length: Tensor, size: int, extent: int, bicubic: bool) -> Tensor:
    """How much each of `size` outputs, spread over [start, start + length), takes from each of `extent` pixels."""
    length = length[:, None, None]
    step = length / size                                                         # pixels from one output to the next
    outputs = (torch.arange(size, device=start.device)[:, None] + 0.5) * step    # (B, size, 1), from the crop's edge
    pixels = torch.arange(extent, device=start.device) + 0.5 - start[:, None, None]   # (B, 1, extent), likewise
    distance = (pixels - outputs).abs() / step.clamp(min=1)                      # the curve is wider when shrinking
    weights = _cubic(distance) if bicubic else (1 - distance).clamp(min=0)       # (B, size, extent)
    weights = weights * ((pixels > 0) & (pixels < length))
    return weights / weights.sum(2, keepdim=True)                                # (B, size, extent)


def _cubic(distance: Tensor) -> Tensor:
    """The cubic curve of Keys 1981 with a = -1/2, as Pillow has it: 1 at 0, 0 at 1 and from 2 on, below 0 between."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _blur_weights(sigma: Tensor, kernel_size: int, extent: int) -> Tensor:
    """How much each pixel takes from each pixel, which also stands for its two reflections: (B, extent, extent)."""
    pixel = torch.arange(extent, device=sigma.device)
    places = torch.stack([pixel, -pixel, 2 * (extent - 1) - pixel])              # (3, extent)
    distance = (pixel[:, None] - places[:, None]).abs()                          # (3, extent, extent)
    distance[1, :, 0] = distance[2, :, -1] = kernel_size                         # a border pixel has one reflection less
    offsets = torch.arange(kernel_size // 2 + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / (2 * kernel.sum(1, keepdim=True) - 1)                      # (B, radius + 1); both sides, centre once
    taps = (distance == offsets[:, None, None, None]).sum(1)                     # (radius + 1, extent, extent)
    return (kernel @ taps.flatten(1).to(kernel)).view(-1, extent, extent)
