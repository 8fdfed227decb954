"""Pictures to look at when you have none at hand: shapes, and free photographs that come with scikit-image and scikit-learn."""
import importlib.util
import os
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lib.data.shapes import Shapes
from lib.data.store import square
from lib.errors import CourseError

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
    source = Shapes("val", size, difficulty="mild")                # what the networks that ship were trained on
    labels = source.labels(torch.arange(shapes)).tolist()
    pictures = {f"{n + 1}: {source.classes[label]}": image
                for n, (label, image) in enumerate(zip(labels, source.images(torch.arange(shapes))))}
    found = [(path, name) for package, file, name in PHOTOGRAPHS if (path := _path(package, file)) is not None]
    return pictures | {name: read_picture(path, size) for path, name in found[:photographs]}


def read_picture(path: str | Path, size: int) -> Tensor:
    """Any image file, its short side brought to `size` and its centre cut out: uint8 (3, size, size).

    A photograph is turned the way its camera was held, what is transparent is put on white. Raises CourseError, which names
    the file, if it is not an image or not there.
    """
    if not os.path.isfile(path):
        raise CourseError(f"{str(path)[:200]} is {'a folder' if os.path.isdir(path) else 'not there'}; give the path of an "
                          "image file")
    try:
        with Image.open(path) as picture:
            return _squared(picture, size, str(path))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, CourseError):
            raise
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({' '.join(str(error).split())})"
        raise CourseError(f"{path} is no image that can be read{why}; give a PNG or JPEG file") from None


def _squared(picture: Image.Image, size: int, name: str) -> Tensor:
    """Turned the way the camera was held, what is transparent on white, the centre: uint8 (3, size, size)."""
    if picture.mode.startswith("I") or picture.mode == "F":
        raise CourseError(f"{name} has mode {picture.mode}, more than 8 bits a channel; convert it to 8 bits first")
    try:
        picture = ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError) as error:            # a file that was closed, or cut short
        raise CourseError(f"{name} cannot be read ({' '.join(str(error).split())})") from None
    if 0 in picture.size:
        raise CourseError(f"{name} has no pixels, {picture.size[0]} x {picture.size[1]}")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return torch.from_numpy(square(picture, size).copy())


def read_pictures(pictures, size: int) -> tuple[Tensor, list[str]]:
    """Paths, PIL images and uint8 (3, H, W), one or a list -> uint8 (B, 3, H, W), and a name for each.

    Paths and PIL images become `size` x `size`, as in `read_picture`; tensors stay as they are, and must fit the others.
    Raises CourseError for whatever is no image, with its place in the list.
    """
    pictures = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
    found, names = [], []
    for n, picture in enumerate(pictures):
        name = f"image {n}"
        if isinstance(picture, str | Path):
            picture, name = read_picture(picture, size), Path(picture).stem
        elif isinstance(picture, Image.Image):
            picture = _squared(picture, size, name)
        elif not isinstance(picture, Tensor):
            raise CourseError(f"{name} is a {type(picture).__name__}; give a path, a PIL image or a uint8 tensor (3, H, W)")
        if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype != torch.uint8:
            raise CourseError(f"{name} is {picture.dtype} {tuple(picture.shape)}; expected uint8 (3, H, W), from 0 to 255")
        found.append(picture.cpu().clone())
        names.append(name)
    sizes = {tuple(picture.shape[1:]) for picture in found}
    if len(sizes) > 1:
        raise CourseError("the images have different sizes: " + ", ".join(f"{h} x {w}" for h, w in sorted(sizes))
                          + f"; paths and PIL images become {size} x {size}, give tensors of that size too")
    if not found:
        raise CourseError("no images were given; expected at least one path, PIL image or uint8 tensor (3, H, W)")
    return torch.stack(found), names


def _path(package: str, file: str) -> Path | None:
    """A file that an installed package carries, or None; nothing is imported for it."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec is not None and spec.origin else None
    return path if path is not None and path.exists() else None
