"""Pictures to look at when you have none at hand: shapes, and free photographs that come with scikit-image and scikit-learn."""
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from lib.data.images import read_image
from lib.data.shapes import Shapes
from lib.data.store import square

# Package, file in it, and the name that is shown, with the credit that the licence asks for. The first four are free of
# rights: CC0, or in the public domain.
PHOTOGRAPHS = [
    ("skimage", "data/chelsea.png", "cat (S. van der Walt, CC0)"),
    ("skimage", "data/astronaut.png", "astronaut (NASA, public domain)"),
    ("skimage", "data/coffee.png", "coffee (R. Michetti, CC0)"),
    ("skimage", "data/rocket.jpg", "rocket (SpaceX, public domain)"),
    ("sklearn", "datasets/images/china.jpg", "palace (danielbuechele, CC BY 2.0, cropped)"),
    ("sklearn", "datasets/images/flower.jpg", "flower (vultilion, CC BY 2.0, cropped)"),
]


def gallery(size: int = 64, shapes: int = 3, photographs: int = 3) -> dict[str, Tensor]:
    """{name: uint8 (3, size, size)}, of shapes first, then of as many photographs as asked for and installed."""
    source = Shapes("val", size)
    labels = source.labels(torch.arange(shapes)).tolist()
    pictures = {f"{n + 1}: {source.classes[label]}": image
                for n, (label, image) in enumerate(zip(labels, source.images(torch.arange(shapes))))}
    found = [(path, name) for package, file, name in PHOTOGRAPHS if (path := _path(package, file)) is not None]
    return pictures | {name: read_picture(path, size) for path, name in found[:photographs]}


def read_picture(path: str | Path, size: int) -> Tensor:
    """Any image file, its short side brought to `size` and its centre cut out: uint8 (3, size, size).

    Raises CourseError, which names the file, if it is not an image or not there.
    """
    return torch.from_numpy(square(read_image(path), size).copy())


def _path(package: str, file: str) -> Path | None:
    """A file that an installed package carries, or None; nothing is imported for it."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec is not None and spec.origin else None
    return path if path is not None and path.exists() else None
