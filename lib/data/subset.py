"""Some images of a source, without reading any."""
import torch
from torch import Tensor


class Subset:
    """So many images of a source at even steps through it, and so of every class where a set is sorted by class.

    `kept` (N,) are their numbers in the source, all of them if it has no more. `path` is there where the source is on a disk.
    """

    def __init__(self, source, limit: int):
        n = min(limit, len(source))
        self.source, self.kept = source, torch.arange(n) * len(source) // n
        self.name, self.split, self.size, self.classes = source.name, source.split, source.size, source.classes
        aspects = getattr(source, "aspects", None)
        self.aspects = None if aspects is None else aspects[self.kept]
        if hasattr(source, "path"):
            self.path = source.path

    def __len__(self) -> int:
        return len(self.kept)

    def images(self, indices: Tensor) -> Tensor:
        return self.source.images(self.kept[indices])

    def labels(self, indices: Tensor) -> Tensor:
        return self.source.labels(self.kept[indices])
