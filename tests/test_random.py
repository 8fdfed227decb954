"""Keyed random numbers: the published hash, and what makes numbers random and runs repeatable."""
import zlib

import pytest
import torch

from lib import random

MODULUS = 2**64
GOLDEN = 0x9E3779B97F4A7C15


def splitmix(state: int) -> int:
    """The finaliser of SplitMix64 in Python's unlimited integers."""
    z = state % MODULUS
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % MODULUS
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % MODULUS
    return z ^ (z >> 31)


def combine(*parts: int | str) -> int:
    key = 0
    for part in parts:
        part = zlib.crc32(part.encode()) if isinstance(part, str) else part
        key = splitmix(key * 3 + part + GOLDEN)
    return key


def unsigned(x: torch.Tensor) -> int:
    return int(x) % MODULUS


def test_hash_is_splitmix64():
    # The first outputs of SplitMix64 from state 1234567, as published with the algorithm.
    state, published = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]
    ours = [unsigned(random._mix(state + torch.tensor(k) * random.GOLDEN)) for k in (1, 2, 3)]
    assert ours == published == [splitmix(state + k * GOLDEN) for k in (1, 2, 3)]


@pytest.mark.parametrize("parts", [(), (0,), (1, 2), (-5, 2**62), ("train", 7), ("a", "b", 3), (0, 0, 0)])
def test_combine_against_python_integers(parts):
    assert unsigned(random.combine(*parts)) == (combine(*parts) if parts else 0)


def test_uniform_against_python_integers():
    key = random.combine("test", 3)
    expected = [(splitmix(unsigned(key) + k * GOLDEN) >> 40) / 2**24 for k in range(1, 6)]
    assert random.uniform(key, 5).tolist() == expected


def test_order_and_number_of_parts_matter():
    keys = {unsigned(random.combine(*parts)) for parts in [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (1,), (2,), ("1", 2)]}
    assert len(keys) == 7


def test_a_number_does_not_depend_on_its_batch():
    indices = torch.tensor([5, 0, 99, 17])
    together = random.uniform(random.combine(0, "views", indices, 1), 6)
    alone = torch.stack([random.uniform(random.combine(0, "views", i, 1), 6) for i in indices.tolist()])
    assert together.shape == (4, 6) and torch.equal(together, alone)
    assert torch.equal(random.uniform(random.combine(0, "views", indices.flip(0), 1), 6), together.flip(0))
    assert torch.equal(random.uniform(random.combine(0, "views", indices, 1), 3), together[:, :3])


def test_parts_broadcast():
    table = random.combine(torch.arange(3)[:, None], torch.arange(4))
    assert table.shape == (3, 4) and table[2, 1] == random.combine(2, 1)


def test_numbers_are_uniform_and_independent():
    u = random.uniform(random.combine("law", torch.arange(50_000)), 4).double()                  # (50000, 4)
    assert 0 <= u.min() and u.max() < 1
    # A mean of n uniform numbers has standard error 0.289 / sqrt(n) = 0.0013; five of them are allowed.
    assert (u.mean(0) - 1 / 2).abs().max() < 0.0065
    assert (u.var(0) - 1 / 12).abs().max() < 0.002
    across = torch.cat([u[:-1], u[1:]], 1).T.corrcoef()                             # between draws, and between keys
    assert (across - torch.eye(8)).abs().max() < 5 / 50_000**0.5
    counts = torch.histc(u[:, 0], 20, 0, 1)
    assert ((counts - 2500) ** 2 / 2500).sum() < 50                                 # chi-square, 19 degrees: 99.99 %


def test_permutation():
    first, second = (random.permutation(random.combine("order", epoch), 1000) for epoch in (0, 1))
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert (first == second).sum() < 10 and (first == torch.arange(1000)).sum() < 10
    assert torch.equal(first, random.permutation(random.combine("order", 0), 1000))
    assert random.permutation(random.combine(1), 1).tolist() == [0]


def test_permutations_are_uniform():
    orders = [tuple(random.permutation(random.combine("three", k), 3).tolist()) for k in range(3000)]
    counts = torch.tensor([orders.count(order) for order in set(orders)])
    assert len(counts) == 6 and ((counts - 500) ** 2 / 500).sum() < 26              # chi-square, 5 degrees: 99.99 %
