"""Photographs with a mask each, from a folder of one's own: images/horse1.jpg beside masks/horse1.png."""
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from lib import random
from lib.data.images import SPLITS, read_image
from lib.data.store import square
from lib.errors import CourseError

VOID = -1                                                         # the class of a pixel that belongs to none
LAYOUT = "such a set holds images/NAME.jpg (or .png) and masks/NAME.png, or train/ and val/ with these two folders in each"


class PairFolder:
    """A source of images with masks: `PairFolder("horses", "val", size=64).masks(torch.arange(8))` -> (8, 64, 64) int64.

    Without train/ and val/, "val" is a quarter of the pairs, by a hash of their names. A mask is a PNG with one channel or a
    palette, of the size of its image. The values that occur in the masks of the set are its classes, in rising order: black
    and white are classes 0 and 1. Pixels of the value `void`, 255 in many sets, belong to no class and are VOID (-1).
    Images are cut square as everywhere in the course; masks in the same way, by the nearest pixel.
    Raises CourseError for another layout, and names a file that is damaged, has no partner, or another size than it.
    """

    def __init__(self, folder: str | Path, split: str = "train", size: int = 64, void: int | None = None):
        if split not in SPLITS:
            raise CourseError(f"{folder} has no split {split!r}; choose one of {', '.join(SPLITS)}")
        folder = Path(folder).expanduser()
        parts = {part: find_pairs(folder / part) for part in SPLITS if (folder / part).is_dir()}
        if not parts:
            parts = divide(folder, find_pairs(folder))
        if split not in parts:
            raise CourseError(f"{folder} has no folder {split}/: {LAYOUT}")
        every = [pair for part in parts.values() for pair in part]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = set().union(*pool.map(lambda pair: np.unique(read_mask(*pair)).tolist(), every))
        values = sorted(found - {void})
        if len(values) < 2:
            raise CourseError(f"the masks of {folder} hold no two values, only {values}: there is nothing to tell apart")
        self.name, self.split, self.size, self.pairs = folder.resolve().name, split, size, parts[split]
        self.values = found                                      # of all masks, void included
        self.classes = [str(value) for value in values]
        self.numbers = np.full(256, VOID)                         # class of each pixel value
        self.numbers[values] = range(len(values))

    def __len__(self) -> int:
        return len(self.pairs)

    def images(self, indices: Tensor) -> Tensor:
        """-> (B, 3, S, S) uint8."""
        squares = [square(read_image(self.pairs[i][0]), self.size) for i in self._checked(indices)]
        return torch.from_numpy(np.stack(squares)) if squares else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)

    def masks(self, indices: Tensor) -> Tensor:
        """-> classes (B, S, S) int64, VOID where there is none."""
        masks = torch.empty(len(indices), self.size, self.size, dtype=torch.int64)
        for k, i in enumerate(self._checked(indices)):
            mask = F.resize(Image.fromarray(read_mask(*self.pairs[i])), self.size, InterpolationMode.NEAREST)
            masks[k] = torch.from_numpy(self.numbers[np.asarray(F.center_crop(mask, self.size))])
        return masks

    def _checked(self, indices: Tensor) -> list[int]:
        indices = torch.as_tensor(indices, dtype=torch.int64).tolist()
        if indices and not (0 <= min(indices) and max(indices) < len(self)):
            raise CourseError(f"{self.name}/{self.split} holds images 0 to {len(self) - 1}, "
                              f"got {min(indices)} to {max(indices)}")
        return indices


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Image and mask of every name in a folder, by name. Raises CourseError, which names a file without a partner."""
    for part in ("images", "masks"):
        if not (folder / part).is_dir():
            raise CourseError(f"{folder} has no folder {part}/: {LAYOUT}")
    images = {}
    for path in sorted((folder / "images").iterdir()):
        if path.suffix.lower() in IMG_EXTENSIONS:
            if path.stem in images:
                raise CourseError(f"{images[path.stem]} and {path} are both images of the mask {path.stem}.png: remove one")
            images[path.stem] = path
    masks = {path.stem: path for path in (folder / "masks").iterdir() if path.suffix.lower() == ".png"}
    lonely = sorted(str(images.get(name, masks.get(name))) for name in images.keys() ^ masks.keys())
    if lonely:
        raise CourseError(f"{lonely[0]} has no partner of the same name ({len(lonely)} such files): {LAYOUT}")
    if not images:
        raise CourseError(f"{folder} holds no pairs: {LAYOUT}")
    return [(images[name], masks[name]) for name in images]


def divide(folder: Path, pairs: list[tuple[Path, Path]]) -> dict[str, list[tuple[Path, Path]]]:
    """A quarter of the pairs to "val", the rest to "train". The hash of a name decides: a new file moves hardly any other."""
    if len(pairs) < 2:
        raise CourseError(f"{folder} holds 1 pair: at least 2 are needed to train on one and test on the other")
    order = sorted(pairs, key=lambda pair: int(random.combine("pairs", pair[0].stem)))
    count = max(1, len(pairs) // 4)
    return {"train": sorted(order[count:]), "val": sorted(order[:count])}


def read_mask(image: Path, mask: Path) -> np.ndarray:
    """-> the pixel values of a mask, (H, W) uint8. Raises CourseError, which names the file, if it cannot go with its image."""
    try:
        path = image
        if not image.is_file():
            raise ValueError("no regular file")
        with Image.open(image) as opened:
            width, height = opened.size
        path = mask
        if not mask.is_file():
            raise ValueError("no regular file")
        with Image.open(mask) as opened:
            mode, values = opened.mode, np.asarray(opened)
    except Exception as error:                                    # decoders raise SyntaxError, struct.error and more
        raise CourseError(f"{path} cannot be decoded ({error}): replace this file") from error
    if mode not in ("1", "L", "P"):
        raise CourseError(f"{mask} is of mode {mode}: a mask has one channel of 8 bits, or a palette, whose values are classes")
    if values.shape != (height, width):
        raise CourseError(f"{mask} has {values.shape[1]} x {values.shape[0]} pixels and {image} {width} x {height}: "
                          "a mask is as large as its image")
    return values.astype(np.uint8)
