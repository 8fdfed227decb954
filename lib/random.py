"""Random numbers that depend on a key, and on nothing that was drawn before.

A generator that is asked in another order gives other numbers, so a run that was interrupted, or spread over other
processes, would see other images. Here a number is a hash of its key: (seed, epoch, sample, view) -> u. All of it is
integer arithmetic modulo 2^64, so the CPU and every GPU agree to the last bit.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""
import zlib

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB                                     # 2^64 / golden ratio, as a signed 64-bit integer
FIRST, SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15         # the two multipliers of SplitMix64, likewise


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; PyTorch's own shift of a signed integer copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * FIRST
    x = (x ^ _shift(x, 27)) * SECOND
    return x ^ _shift(x, 31)


def combine(*parts: int | str | Tensor) -> Tensor:
    """One int64 key from integers, words and integer tensors, broadcast together.

    The order of the parts matters: combine(1, 2) and combine(2, 1) are different keys.
    """
    key = torch.zeros((), dtype=torch.int64)
    for part in parts:
        part = zlib.crc32(part.encode()) if isinstance(part, str) else part
        part = part.long() if isinstance(part, Tensor) else torch.tensor(part, dtype=torch.int64)
        key = _mix(key * 3 + part + GOLDEN)
    return key


def uniform(key: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each key: key.shape -> key.shape + (count,), float32, multiples of 2^-24."""
    counter = torch.arange(1, count + 1, device=key.device) * GOLDEN
    return _shift(_mix(key[..., None] + counter), 40).float() / 2**24


def permutation(key: Tensor, n: int) -> Tensor:
    """A random order of 0 ... n - 1 for a scalar key: (n,) int64."""
    return _mix(key + torch.arange(1, n + 1, device=key.device) * GOLDEN).argsort(stable=True)
