"""What sits on top of a backbone while it trains, and is thrown away afterwards."""
from itertools import pairwise

from torch import Tensor, nn

from lib.distributed import BatchNorm


def mlp(dims: list[int]) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between: (B, dims[0]) -> (B, dims[-1]) (MoCo v3).

    No linear layer has a bias, since batch norm would remove it; the last batch norm has no scale and shift.
    The projector of MoCo v3 is mlp([D, 4096, 4096, 256]), its predictor mlp([256, 4096, 256]).
    """
    layers = []
    for k, (width, next_width) in enumerate(pairwise(dims)):
        last = k == len(dims) - 2
        layers += [nn.Linear(width, next_width, bias=False), BatchNorm(next_width, affine=not last)]
        layers += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class PixelDecoder(nn.Module):
    """One linear layer from a token to the pixels of its patch: (..., D) -> (..., 3 p^2) (SimMIM, section 3.3).

    On a whole grid of tokens this is the 1 x 1 convolution and pixel shuffle of the paper. Pixels come in the order of
    `lib.objectives.masked.patchify`: row, column, channel.
    """

    def __init__(self, dim: int, patch_size: int):
        super().__init__()
        self.linear = nn.Linear(dim, 3 * patch_size**2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(tokens)
