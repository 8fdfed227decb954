"""What sits on top of a backbone while it trains, and is thrown away afterwards."""
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.distributed import BatchNorm
from lib.precision import widen


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


class PrototypeHead(nn.Module):
    """How much a token looks like each of K prototypes: (B, D) -> (B, K), cosines from -1 to 1 (DINO).

    An MLP of three linear layers with GELU between leads to `bottleneck` numbers; their direction is compared with that of
    every row of `prototypes`, a linear layer without bias whose rows are used at norm 1. Cosines are computed in float32 at
    least, since a low temperature will enlarge their errors. The MLP starts Xavier-uniform with zero biases: a standard
    deviation of 0.02 to 0.03 at the widths of the paper, and enough to tell images apart at small ones.
    Set `frozen` to keep the prototypes still: their gradient is 0 then. They stay among what is trained, as
    DistributedDataParallel wants a gradient from the same parameters in every step.
    """

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
                                 nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)
        self.frozen = False
        for layer in self.mlp[::2]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        features = widen(self.mlp(tokens))                                         # (B, bottleneck)
        prototypes = self.prototypes.weight                                        # (K, bottleneck)
        if self.frozen:
            prototypes = prototypes.detach() + 0 * prototypes
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(F.normalize(features, dim=1), F.normalize(prototypes, dim=1))


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
