"""Images: where they come from and how they are turned into views.

A *source* of images has a length, a `size` in pixels, `classes`, and hands out `images(indices)`, uint8 (B, 3, S, S), and
`labels(indices)`, int64 (B,). `Shapes` draws them, `PackedImages` reads them from disk, `Loaded` holds them in memory, a
`Subset` is some of another source's. Where whole photographs were squeezed into squares, `aspects` (N,) are their widths /
heights; elsewhere it is None or not there.
"""
import os

import torch
from torch import Tensor
from tqdm import tqdm

from lib.data.images import open_images
from lib.data.shapes import Shapes
from lib.data.subset import Subset
from lib.errors import CourseError

LENGTHS = {"train": 20_000, "val": 4_000}                          # of the procedural world, unless told otherwise
FITS = 40e9                           # bytes of images held at most: by a GPU, or by all processes of a machine together
OF_A_GPU = 0.25                       # of its free memory, at most, since a network has to fit in beside them


def gpu_holds(images: int, size: int, free: float) -> bool:
    """Whether a GPU with so many bytes of free memory should hold so many images of `size` pixels a side."""
    return images * 3 * size**2 < min(FITS, OF_A_GPU * free)


def in_memory(source, device: str | torch.device = "cpu", progress: bool = False):
    """A source `Loaded`, or as it is where it is too large for that: read from the disk as it is needed."""
    if torch.device(device).type == "cuda":
        fits = gpu_holds(len(source), source.size, torch.cuda.mem_get_info(device)[0])
    else:
        fits = len(source) * 3 * source.size**2 < FITS / int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return Loaded(source, device, progress=progress) if fits else source


class Loaded:
    """A source held in memory, on any device: any other source, read once. `limit` keeps a `Subset` of so many."""

    def __init__(self, source, device: str | torch.device = "cpu", limit: int | None = None, progress: bool = False):
        source = source if limit is None else Subset(source, limit)
        self.name, self.split, self.size, self.classes = source.name, source.split, source.size, source.classes
        everything = torch.arange(len(source))
        self.all_images = torch.empty(len(source), 3, self.size, self.size, dtype=torch.uint8, device=device)
        for start in tqdm(range(0, len(source), 512), desc=f"reading {self.name}/{self.split}",
                          disable=None if progress else True, leave=False):
            self.all_images[start:start + 512] = source.images(everything[start:start + 512]).to(device)
        self.all_labels, self.aspects = source.labels(everything), getattr(source, "aspects", None)

    def __len__(self) -> int:
        return len(self.all_labels)

    def images(self, indices: Tensor) -> Tensor:
        return self.all_images.index_select(0, indices.to(self.all_images.device, non_blocking=True))

    def labels(self, indices: Tensor) -> Tensor:
        return self.all_labels[indices]


def open_source(name: str, split: str, size: int, limit: int | None = None, difficulty: str = "medium", stored: int = 0):
    """A source by name: "shapes", a real set ("cifar10", "imagenette", "tiny-imagenet", "imagenet"), or a folder.

    split is "train" or "val". `limit` keeps so many, evenly spread, and reads none; `shapes` makes as many as asked for (20,000
    by default to train on, 4,000 to validate on). stored: not the centres of photographs at `size`, but all of each, squeezed
    into a square of so many pixels, for views to be cut from (`lib.data.store`); shapes are square. Raises CourseError, in one
    line, if there is no such set or it is not on disk.
    """
    if limit is not None and not 1 <= limit < 2**40:
        raise CourseError(f"from 1 image to a million millions can be asked for, got a limit of {limit}")
    if name == "shapes":
        return Shapes(split, size, length=limit or LENGTHS[split], difficulty=difficulty)
    source = open_images(name, split, stored or size, whole=bool(stored))
    return source if limit is None or limit >= len(source) else Subset(source, limit)
