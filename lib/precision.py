"""What networks run in, and numbers wide enough to add up: what losses and statistics are computed in, whatever that was."""
import torch
from torch import Tensor


def has_bf16(device: torch.device) -> bool:
    """Whether a device itself multiplies in bf16: NVIDIA's GPUs from Ampere (2020) on. Older ones pretend to, slowly."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def widen(x: Tensor) -> Tensor:
    """bf16 and fp16 become float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
