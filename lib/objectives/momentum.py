"""Slow copies of a network, which follow it as the average of its past steps: momentum encoders and teachers."""
import copy
import math

import torch
from timm.layers import DropPath
from torch import nn


def slow_copy(network: nn.Module) -> nn.Module:
    """A copy that learns nothing by gradients and drops no paths: its answer is a target, the same whenever it is asked."""
    copied = copy.deepcopy(network).requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return copied


def momentum_at(progress: float, start: float) -> float:
    """Momentum of the average, from `start` to 1 along a half cosine (MoCo v3, DINO); progress from 0 to 1."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow <- momentum * slow + (1 - momentum) * fast, for all parameters, in place. Buffers are left as they are."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - momentum)
