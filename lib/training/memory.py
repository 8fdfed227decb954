"""A step in less memory: its images in parts, or the inside of each block computed twice. Both give the same gradients.

But for stochastic depth, whose paths each part of a step draws for itself.
"""
from functools import partial

from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def parts(batch: dict[str, Tensor], images: int, count: int) -> list[dict[str, Tensor]]:
    """A batch of so many images in `count` equal parts, which it must divide into.

    A tensor has a row for each image, or several: those of the first crop of all images, then those of the second.
    """
    if count == 1:
        return [batch]
    rows = {name: x.unflatten(0, (-1, images)).chunk(count, dim=1) for name, x in batch.items()}
    return [{name: x[k].flatten(0, 1) for name, x in rows.items()} for k in range(count)]


def checkpoint_blocks(objective: nn.Module) -> None:
    """From now on every block that learns keeps only its input, and computes the rest again for the backward pass.

    Random numbers of stochastic depth are the same both times. Names and weights stay as they are.
    """
    for block in objective.modules():
        if isinstance(block, Block) and any(p.requires_grad for p in block.parameters()):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
