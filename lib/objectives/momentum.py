"""Slow copies of a network, which follow it as the average of its past steps: momentum encoders and teachers."""
import math

import torch
from torch import nn


def momentum_at(progress: float, start: float) -> float:
    """Momentum of the average, from `start` to 1 along a half cosine (MoCo v3, DINO); progress from 0 to 1."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow <- momentum * slow + (1 - momentum) * fast, for all parameters, in place. Buffers are left as they are."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - momentum)
