"""Numbers wide enough to add up: what losses and statistics are computed in, whatever the network ran in."""
import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """bf16 and fp16 become float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
