"""What the attention explorer is given, looked at before anything is sent to a browser: every error in one line."""
import numpy as np
import torch
from torch import Tensor

from lib.errors import CourseError

LIMIT = 64_000_000                    # bytes of attention that a browser is asked to hold


def check_images(images) -> Tensor:
    """Raises CourseError unless these are uint8 images (B, 3, H, W), B > 0."""
    if isinstance(images, np.ndarray) and images.dtype.kind in "buif":
        images = torch.from_numpy(images.copy())                   # whatever its order in memory
    if not isinstance(images, Tensor):
        raise CourseError(f"images are a {type(images).__name__}; give one uint8 tensor (B, 3, H, W)")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise CourseError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W)")
    if not len(images):
        raise CourseError("no images were given; expected at least one, uint8 (B, 3, H, W)")
    if images.dtype != torch.uint8:
        raise CourseError(f"images are {images.dtype}; expected torch.uint8, from 0 to 255, not yet normalised")
    return images.detach().cpu().clone()                           # the caller's may change


def check_networks(models: dict[str, torch.nn.Module]) -> tuple[int, int]:
    """-> height and width that the first takes, 224 where it does not say. Raises CourseError if it takes other than RGB."""
    for label, model in models.items():
        projection = getattr(getattr(model, "patch_embed", None), "proj", None)
        if getattr(projection, "in_channels", 3) != 3:
            raise CourseError(f"{label!r} takes images of {projection.in_channels} channels; expected 3, red, green, blue")
    return tuple(getattr(getattr(next(iter(models.values())), "patch_embed", None), "img_size", None) or (224, 224))


def check_fits(images: Tensor, models: dict[str, torch.nn.Module]) -> None:
    """Raises CourseError unless the images have the size that each model takes, or, where it takes any, whole patches."""
    height, width = images.shape[2:]
    for label, model in models.items():
        embed = getattr(model, "patch_embed", None)
        wanted, patch = getattr(embed, "img_size", None), getattr(embed, "patch_size", None)
        if wanted is not None and getattr(embed, "strict_img_size", True) and (height, width) != tuple(wanted):
            raise CourseError(f"{label!r} takes images of {wanted[0]} x {wanted[1]} pixels, and these have {height} x {width}; "
                              "models side by side need images of one size")
        if patch is not None and (height % patch[0] or width % patch[1]):
            raise CourseError(f"images of {height} x {width} pixels do not divide into the patches of {label!r}, "
                              f"{patch[0]} x {patch[1]} pixels")


def check_grid(grid) -> tuple[int, int]:
    """Raises CourseError unless this is (rows, columns) of patches."""
    if not (isinstance(grid, tuple | list) and len(grid) == 2 and all(type(n) is int and n > 0 for n in grid)):
        raise CourseError(f"the grid is {grid!r}; expected (rows, columns) of patches")
    return tuple(grid)


def check_size(size: int, images: int) -> None:
    """Raises CourseError if so many bytes of attention are too many for a browser."""
    if size > LIMIT:
        fit = LIMIT * images // size
        advice = f"at most {fit} of these {images} images" if fit else "fewer or smaller models"
        raise CourseError(f"that is {size / 1e6:.0f} MB of attention, and a page should hold {LIMIT / 1e6:.0f} MB at most; "
                          f"give {advice}")


def check_attention(label: str, maps: Tensor, images: int, patches: int) -> None:
    """Raises CourseError unless maps are (L, B, H, N, N) for so many images, N >= patches, and rows are finite and sum to 1."""
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise CourseError(f"attention of {label!r} is {maps.dtype if isinstance(maps, Tensor) else type(maps).__name__}; "
                          "expected a float tensor (layers, images, heads, tokens, tokens)")
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
