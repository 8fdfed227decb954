"""The middle of images, at another size: what networks are evaluated on."""
import torch
from torch import Tensor

from lib.data.views import resized_crop
from lib.errors import CourseError


class Centre:
    """A source of the central squares of another source's images, `size` pixels a side.

    crop: the square's side as a share of the image's short side; 0.875 is the usual 224 of 256 pixels on ImageNet. Of images
    that were squeezed into squares (`aspects` of the source) it is the square of the image before. Raises CourseError for a
    crop outside (0, 1].
    """

    def __init__(self, source, size: int, crop: float = 1.0):
        if not 0 < crop <= 1:
            raise CourseError(f"a crop is a share of the short side, above 0 and at most 1, got {crop}")
        self.source, self.size, self.crop = source, size, crop
        self.name, self.split, self.classes = source.name, source.split, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def labels(self, indices: Tensor) -> Tensor:
        return self.source.labels(indices)

    def images(self, indices: Tensor) -> Tensor:
        """uint8 (B, 3, size, size), on the device of the source."""
        pixels, side = self.source.images(indices), self.source.size
        aspects = getattr(self.source, "aspects", None)
        aspects = torch.ones(len(indices)) if aspects is None else aspects[indices]
        shares = self.crop * torch.stack([aspects, 1 / aspects], dim=1).clamp(max=1)              # (B, 2), of height and width
        extent = (side * shares).round().clamp(min=1)
        start = ((side - extent) / 2).floor()
        boxes = torch.cat([start, extent], dim=1).long().to(pixels.device)
        return (255 * resized_crop(pixels.float() / 255, boxes, self.size)).round().byte()
