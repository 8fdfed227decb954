"""Rollout and cosines of tokens against loops in float64, and where the answer is known."""
import math

import numpy as np
import pytest
import torch

from lib.analysis.attention import pairwise_cosine
from lib.analysis.rollout import attention_rollout, token_cosines
from lib.errors import CourseError


def attention(layers=3, images=2, heads=2, tokens=5):
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(layers, images, heads, tokens, tokens, generator=generator, dtype=torch.float64)).softmax(-1)


def rollout_loop(maps):
    """(L, H, N, N) of one image -> (L, N, N), entry by entry."""
    layers, heads, tokens = maps.shape[:3]
    found, before = [], np.eye(tokens)
    for layer in range(layers):
        mixed = np.zeros((tokens, tokens))
        for query in range(tokens):
            for key in range(tokens):
                mean = sum(maps[layer, head, query, key] for head in range(heads)) / heads
                mixed[query, key] = 0.5 * mean + (0.5 if query == key else 0)
            mixed[query] /= sum(mixed[query])
        after = np.zeros((tokens, tokens))
        for query in range(tokens):
            for key in range(tokens):
                for through in range(tokens):
                    after[query, key] += mixed[query, through] * before[through, key]
        found.append(after)
        before = after
    return np.stack(found)


def test_rollout_is_the_loop():
    maps = attention()
    found = attention_rollout(maps)
    assert found.shape == (3, 2, 5, 5)
    for image in range(2):
        np.testing.assert_allclose(found[:, image], rollout_loop(maps[:, image].numpy()), atol=1e-14)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 2, 5, dtype=torch.float64))


def test_rows_are_renormalised():
    maps = attention()
    short = 0.9 * maps                                                           # as after a rounding, or a dropout
    found = attention_rollout(short)
    for image in range(2):
        np.testing.assert_allclose(found[:, image], rollout_loop(short[:, image].numpy()), atol=1e-14)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 2, 5, dtype=torch.float64))


def test_a_chain_of_tokens_is_followed_back():
    """Every token looks at the one before it: after l blocks a half^l of it is its own, and nothing came from behind it."""
    step = torch.eye(5).roll(-1, dims=1)                                         # row q looks at column q - 1
    step[0] = torch.tensor([1.0, 0, 0, 0, 0])
    found = attention_rollout(step.expand(3, 1, 2, 5, 5))
    assert found[2, 0, 4].tolist() == [0, 1 / 8, 3 / 8, 3 / 8, 1 / 8]            # binomial: three blocks, each a step or none


def test_rollout_of_another_shape():
    with pytest.raises(CourseError, match=r"rollout got attention of shape \(2, 5, 5\); expected \(layers, images"):
        attention_rollout(torch.ones(2, 5, 5))


def test_cosines_are_the_loop_and_their_mean_is_that_of_chapter_5():
    tokens = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    found = token_cosines(tokens)
    for image in range(2):
        for one in range(4):
            for other in range(4):
                a, b = tokens[image, one].double().tolist(), tokens[image, other].double().tolist()
                dot, lengths = sum(x * y for x, y in zip(a, b)), math.hypot(*a) * math.hypot(*b)
                assert float(found[image, one, other]) == pytest.approx(dot / lengths, abs=1e-6)
    pairs = (found.sum((1, 2)) - found.diagonal(dim1=1, dim2=2).sum(1)) / 12
    torch.testing.assert_close(pairs, pairwise_cosine(tokens))
    assert float(token_cosines(1e3 * torch.ones(1, 3, 7)).max()) <= 1
