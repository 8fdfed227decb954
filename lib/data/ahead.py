"""Reading ahead: threads fetch the images of coming steps while the device works on this one.

Which images a step needs is known beforehand, so nothing has to be guessed. Several threads share a batch: a disk, and a
network even more, answers many small questions at once faster than one after the other.
"""
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lib.data.views import Whole


def batch_of(source, indices: Tensor, device: torch.device) -> Tensor | Whole:
    """What `make_view` takes of a source: images (B, 3, S, S) on the device, with their aspects where it holds whole ones."""
    return _sent(source.images(indices), _aspects(source, indices), device)


def _aspects(source, indices: Tensor) -> Tensor | None:
    aspects = getattr(source, "aspects", None)
    return None if aspects is None else aspects[indices]


def _sent(images: Tensor, aspects: Tensor | None, device: torch.device) -> Tensor | Whole:
    images = images.to(device, non_blocking=True)
    return images if aspects is None else Whole(images, aspects)


class Ahead:
    """`Ahead(source, indices_of, end, device)(step)` -> what `batch_of` gives for `indices_of(step)`, and reads on meanwhile.

    indices_of: a function of a step -> (B,) int64. end: the first step that is not needed any more. steps: how many coming
    ones are read while this one is worked on. threads: how many read. On a GPU the batches lie in pinned memory, from which
    they travel while it computes. A source in memory is asked directly, since there is nothing to wait for.
    """

    def __init__(self, source, indices_of: Callable[[int], Tensor], end: int, device: torch.device, steps: int = 2,
                 threads: int = 8):
        self.source, self.indices_of, self.end, self.device = source, indices_of, end, device
        self.steps, self.threads, self.coming = steps, threads, {}
        self.pool = ThreadPoolExecutor(threads, "reading") if hasattr(source, "path") else None

    def __call__(self, step: int) -> Tensor | Whole:
        if self.pool is None:
            return batch_of(self.source, self.indices_of(step), self.device)
        wanted = range(step, max(step + 1, min(step + 1 + self.steps, self.end)))
        self.coming = {s: self.coming.get(s) or self._begin(s) for s in wanted}          # what a jump left behind goes
        indices, images, parts = self.coming.pop(step)
        for part in parts:
            part.result()                                          # waits, and raises what the reading raised
        return _sent(images, _aspects(self.source, indices), self.device)

    def _begin(self, step: int) -> tuple:
        """Start to read a batch -> its indices, where it will be, and the threads' work."""
        indices, size = self.indices_of(step), self.source.size
        images = torch.empty(len(indices), 3, size, size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        parts = zip(images.chunk(self.threads), indices.chunk(self.threads), strict=True)
        return indices, images, [self.pool.submit(self._read, *part) for part in parts]

    def _read(self, images: Tensor, indices: Tensor) -> None:
        images.copy_(self.source.images(indices))
