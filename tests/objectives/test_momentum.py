"""The schedule of the momentum, and the step of a slow network towards a fast one against a loop."""
import math

import pytest
import torch
from torch import nn

from lib.objectives.momentum import follow, momentum_at


def test_momentum_goes_from_its_start_to_1():
    assert momentum_at(0, 0.99) == pytest.approx(0.99) and momentum_at(1, 0.99) == 1 and momentum_at(0.5, 0.99) == 0.995
    values = [momentum_at(k / 20, 0.9) for k in range(21)]
    assert values == sorted(values)
    assert momentum_at(0.25, 0.9) == pytest.approx(1 - 0.1 * (1 + math.sqrt(0.5)) / 2)


def test_follow_against_a_loop():
    torch.manual_seed(0)
    slow, fast = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    slow.requires_grad_(False)
    fast(torch.randn(8, 3) + 5)                                    # moves the buffers of the fast one
    expected = [[0.7 * s + 0.3 * f for s, f in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
                for a, b in zip(slow.parameters(), fast.parameters(), strict=True)]
    before = [p.clone() for p in fast.parameters()]
    follow(slow, fast, 0.7)
    for p, numbers in zip(slow.parameters(), expected, strict=True):
        assert p.flatten().tolist() == pytest.approx(numbers, abs=1e-6)
    assert all(torch.equal(p, old) for p, old in zip(fast.parameters(), before, strict=True))
    assert torch.equal(slow[1].running_mean, torch.zeros(4)) and not torch.equal(fast[1].running_mean, torch.zeros(4))
