"""What a network is trained to do."""
from torch import Tensor, nn


class Objective(nn.Module):
    """What the trainer asks of an objective; `backbone` is the network that stays when the training is over.

    prepare(images, keys)   uint8 images (B, 3, H, W) and a random key each (B,) -> a batch, a dict of tensors: views, masks.
                            Where `needs_labels` is set, labels (B,) int64 come as a third argument
    begin_step(progress)    before every step, progress from 0 to 1 over the training: move what moves without a gradient
    resting()               parameters that the optimiser leaves alone in this step, as if they had no gradient
    loss(batch)             -> the loss, a scalar, and a dict of scalars for the log
    """
    needs_labels = False
    ships: tuple[str, ...] = ()                        # modules worth keeping beside the backbone: a decoder, a head
    backbone: nn.Module

    def begin_step(self, progress: float) -> None:
        """Nothing moves by itself."""

    def resting(self) -> tuple[nn.Parameter, ...]:
        return ()

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch)
