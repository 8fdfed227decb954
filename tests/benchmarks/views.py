"""What two views of an image cost, in one run: `python tests/benchmarks/views.py --out results.json`.

The pair of views of MoCo v3, made of the same uint8 images by the course (a batch at once, a draw for each image), by
torchvision's v2 transforms image by image, and by kornia, a batch at once. Each draws its own random numbers, so the pixels
differ; what is done to them, and how often, does not.
"""
import argparse
import math
from pathlib import Path

import torch
from common import Noise, about, interleaved, median_ratio, pick, write
from plain_training import transform
from torch import Tensor, nn

from lib import random
from lib.data.views import MEAN, MOCO_V3, STD, ViewRecipe, make_view

try:
    import kornia.augmentation as kornia
except ImportError:                                                # then it is left out
    kornia = None


def with_kornia(recipe: ViewRecipe, size: int) -> nn.Sequential:
    """A view's recipe in the words of kornia: float (B, 3, H, W) -> normalised (B, 3, size, size)."""
    low, high = (sigma * size / 224 for sigma in recipe.sigma)
    width = 2 * min(math.ceil(3 * high), size - 1) + 1
    return nn.Sequential(
        kornia.RandomResizedCrop((size, size), recipe.scale, recipe.ratio),
        kornia.ColorJitter(*recipe.strengths, p=recipe.jitter),
        kornia.RandomGrayscale(p=recipe.grayscale),
        kornia.RandomGaussianBlur((width, width), (low, high), p=recipe.blur),
        kornia.RandomSolarize(p=recipe.solarize),
        kornia.RandomHorizontalFlip(p=recipe.flip),
        kornia.Normalize(MEAN.flatten(), STD.flatten()))


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="pixels on a side of a view")
    parser.add_argument("--image-size", type=int, default=256, help="pixels on a side of an image")
    parser.add_argument("--batch-size", type=int, default=256, help="images at a time")
    parser.add_argument("--rounds", type=int, default=10, help="how often each is measured")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/views.json"), help="JSON file")
    a = parser.parse_args(arguments)
    a.device = pick(a.device)
    torch.manual_seed(0)
    images = Noise(a.batch_size, a.image_size, a.device).all
    keys = random.combine(0, torch.arange(a.batch_size))
    one_by_one = [transform(recipe, a.size) for recipe in MOCO_V3]
    batched = [with_kornia(recipe, a.size).to(a.device) for recipe in MOCO_V3] if kornia else []
    made: dict[str, list[Tensor]] = {}

    def course() -> None:
        made["course"] = [make_view(images, recipe, a.size, random.combine(keys, k)) for k, recipe in enumerate(MOCO_V3)]

    def torchvision() -> None:
        made["torchvision"] = [torch.stack([each(image) for image in images]) for each in one_by_one]

    def by_kornia() -> None:
        floats = images.float() / 255
        made["kornia"] = [all_of_them(floats) for all_of_them in batched]

    works = {"course": course, "torchvision": torchvision} | ({"kornia": by_kornia} if kornia else {})
    times = interleaved(works, a.device, a.rounds)
    results = {"about": about(a.device), "size": a.size, "image_size": a.image_size, "batch_size": a.batch_size,
               "seconds": times, "statistics": {name: [[view.mean().item(), view.std().item()] for view in views]
                                                for name, views in made.items()},
               **{f"{name}_over_course": median_ratio(times[name], times["course"]) for name in works if name != "course"}}
    write(a.out, results)
    print("two views: " + ", ".join(f"{name} takes {results[f'{name}_over_course']:.2f} times as long as the course"
                                    for name in works if name != "course"))
    return results


if __name__ == "__main__":
    main()
