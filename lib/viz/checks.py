"""What the attention explorer is given, looked at before anything is sent to a browser: every error in one line."""
import numpy as np
import torch
from torch import Tensor

from lib.errors import CourseError

LIMIT = 64_000_000                    # bytes of attention that a browser is asked to hold


def check_images(images) -> Tensor:
    """Raises CourseError unless these are uint8 images (B, 3, H, W), B > 0."""
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images)
    if not isinstance(images, Tensor):
        raise CourseError(f"images are a {type(images).__name__}; give one uint8 tensor (B, 3, H, W)")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise CourseError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W)")
    if not len(images):
        raise CourseError("no images were given; expected at least one, uint8 (B, 3, H, W)")
    if images.dtype != torch.uint8:
        raise CourseError(f"images are {images.dtype}; expected torch.uint8, from 0 to 255, not yet normalised")
    return images.cpu()


def check_size(size: int, images: int) -> None:
    """Raises CourseError if so many bytes of attention are too many for a browser."""
    if size > LIMIT:
        fit = LIMIT * images // size
        advice = f"at most {fit} of these {images} images" if fit else "fewer or smaller models"
        raise CourseError(f"that is {size / 1e6:.0f} MB of attention, and a page should hold {LIMIT / 1e6:.0f} MB at most; "
                          f"give {advice}")


def check_attention(label: str, maps: Tensor, images: int, patches: int) -> None:
    """Raises CourseError unless maps are (L, B, H, N, N) for so many images, N >= patches, and rows are finite and sum to 1."""
    shape = tuple(maps.shape)
    if maps.ndim != 5 or shape[3] != shape[4] or 0 in shape:
        raise CourseError(f"attention of {label!r} has shape {shape}; expected (layers, images, heads, tokens, tokens), as "
                          "attention_maps gives it")
    if shape[1] != images:
        raise CourseError(f"attention of {label!r} is of {shape[1]} images, and {images} were given; look at the same images")
    if shape[3] < patches:
        raise CourseError(f"attention of {label!r} has {shape[3]} tokens, fewer than the {patches} patches of the grid; "
                          "models side by side need the same grid")
    if not bool(maps.isfinite().all()):
        raise CourseError(f"attention of {label!r} holds NaN or infinity: the weights or the images are damaged")
    if float(maps.min()) < 0 or float((maps.sum(-1) - 1).abs().max()) > 0.02:
        raise CourseError(f"attention of {label!r} has rows that are not shares of 1; give probabilities, after the softmax, "
                          "with queries in rows")
