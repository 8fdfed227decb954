"""Augmentation: each operation against torchvision, the law of the draws, and one draw for each image."""
import math
from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torchvision.transforms import RandomResizedCrop

from lib import random
from lib.data.views import (
    MOCO_V3,
    PLAIN,
    SIMMIM,
    ViewRecipe,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    denormalize,
    draw,
    flip,
    gaussian_blur,
    grayscale,
    make_view,
    normalize,
    resized_crop,
    solarize,
)
from lib.errors import CourseError

CLOSE = {"rtol": 0, "atol": 1e-5}                                 # float32, values in [0, 1]
B = 12


def photos(n: int = B, height: int = 40, width: int = 52) -> torch.Tensor:
    """uint8 noise of several grain sizes, with pure colours, greys, black and white among it."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, height, width, generator=g)
    x[::2] = torch.nn.functional.interpolate(x[::2, :, ::8, ::8], (height, width), mode="bilinear")
    x[:, :, :6] = torch.rand(n, 1, 6, width, generator=g)                        # grey
    x[:, :, 6:9] = (torch.rand(n, 3, 3, width, generator=g) > 0.5).float()       # black, white, pure colours
    return (x * 255).round().to(torch.uint8)


def uniform(low: float, high: float, n: int = B) -> torch.Tensor:
    return low + (high - low) * random.uniform(random.combine("test", low, high), n) if isinstance(low, str) else (
        low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(1)))
