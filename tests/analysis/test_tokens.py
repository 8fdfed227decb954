"""Movements and neighbourhoods of tokens against loops, and where they are known."""
import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib.analysis import tokens as module
from lib.analysis.recording import record
from lib.analysis.tokens import (
    Unison,
    chance_purity,
    neighbour_purity,
    patch_tokens,
    project_tokens,
    silhouette,
    token_tsne,
    unison,
)
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.models.vit import ViT

SMALL = dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=0)
MODELS = {
    "timm": lambda: VisionTransformer(**SMALL, reg_tokens=2),
    "course": lambda: ViT(16, 4, dim=24, depth=2, heads=3, positions="relative"),
}


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apart(images: int = 4, patches: int = 25, channels: int = 6) -> torch.Tensor:
    """Images whose tokens lie close together and far from those of the others."""
    return 50 * gaussian(images, 1, channels, seed=1) + gaussian(images, patches, channels)


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    backbone = MODELS[name]().double().eval()
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype))
    return backbone


def halves(backbone: nn.Module, images: torch.Tensor) -> dict[float, torch.Tensor]:
    """Patch tokens at 0, 0.5, 1, ..., from what each block takes in, hands to its second norm, and gives."""
    found, handles = {}, []
    for depth, block in enumerate(backbone.blocks, start=1):
        handles += [
            block.register_forward_pre_hook(lambda _, args, depth=depth: found.__setitem__(depth - 1, args[0])),
            block.norm2.register_forward_pre_hook(lambda _, args, depth=depth: found.__setitem__(depth - 0.5, args[0])),
            block.register_forward_hook(lambda _, args, out, depth=depth: found.__setitem__(depth, out)),
        ]
    with torch.no_grad():
        backbone.forward_features(normalize(images).double())
    for handle in handles:
        handle.remove()
    return {depth: tokens[:, backbone.num_prefix_tokens:] for depth, tokens in found.items()}


def slow_unison(before: list[list[float]], after: list[list[float]]) -> float:
    steps = [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)]
    common = [sum(channel) / len(steps) for channel in zip(*steps, strict=True)]
    return sum(x * x for x in common) / (sum(x * x for step in steps for x in step) / len(steps))


def slow_distance(a: list[float], b: list[float], metric: str) -> float:
    if metric == "euclidean":
        return math.dist(a, b)
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def slow_neighbours(tokens: torch.Tensor, k: int, metric: str) -> tuple[list[float], list[float]]:
    """Purity and silhouette of each image, one token and one distance at a time."""
    every = [(image, token) for image, rows in enumerate(tokens.tolist()) for token in rows]
    purity, width = [0.0] * len(tokens), [0.0] * len(tokens)
    for i, (image, token) in enumerate(every):
        others = sorted((slow_distance(token, other, metric), label) for j, (label, other) in enumerate(every) if j != i)
        purity[image] += sum(label == image for _, label in others[:k]) / k / tokens.shape[1]
        means = {label: np.mean([d for d, other in others if other == label]) for label in range(len(tokens))}
        a = means.pop(image)
        b = min(means.values())
        width[image] += (b - a) / max(a, b) / tokens.shape[1]
    return purity, width


# ------------------------------------------------------------------------------------------------- what is handed out

@pytest.mark.parametrize("name", MODELS)
def test_patch_tokens_are_those_of_the_blocks(name):
    backbone, images = model(name), Shapes("val", 16, length=3).images(torch.arange(3))
    found, expected = patch_tokens(backbone, images), halves(backbone, images)
    assert list(found) == [0, 0.5, 1, 1.5, 2]
    for depth, tokens in found.items():
        torch.testing.assert_close(tokens, expected[depth], rtol=0, atol=1e-12)
        assert tokens.shape == (3, 16, 24)


# ------------------------------------------------------------------------------------------------------------ unison

@pytest.mark.parametrize("name", MODELS)
def test_unison_against_loops(name):
    backbone, source = model(name), Shapes("val", 16, length=5)
    found = record(backbone, source, [Unison()], batch_size=2)
    stream = halves(backbone, source.images(torch.arange(5)))
    pairs = {"attention_unison": (-1, -0.5), "mlp_unison": (-0.5, 0), "block_unison": (-1, 0)}
    assert set(found) == set(pairs)
    for key, (first, last) in pairs.items():
        assert found[key].shape == (5, 2)
        for image in range(5):
            expected = [slow_unison(stream[l + first][image].tolist(), stream[l + last][image].tolist()) for l in (1, 2)]
            assert found[key][image].tolist() == pytest.approx(expected, abs=1e-9)
    assert min(values.std() for values in found.values()) > 1e-3


def test_unison_at_known_points():
    before, step = gaussian(2, 9, 4), gaussian(2, 1, 4, seed=1)
    apiece = gaussian(2, 9, 4, seed=2)
    apiece -= apiece.mean(1, keepdim=True)
    torch.testing.assert_close(unison(before, before + step), torch.ones(2).double())
    assert unison(before, before + apiece).max() < 1e-30
    lengths = [x.square().sum(-1).mean(1) for x in (step, apiece)]
    torch.testing.assert_close(unison(before, before + step + apiece), lengths[0] / (lengths[0] + lengths[1]))
    assert unison(before, before).isnan().all()


def test_independent_steps_are_in_unison_by_chance():
    before = gaussian(400, 10, 8)
    values = unison(before, before + gaussian(400, 10, 8, seed=1))
    assert values.mean().item() == pytest.approx(1 / 10, abs=4 * values.std().item() / 20)
    assert values.std() < 0.06                                     # so that the line above says something


def test_small_steps_of_single_precision_tokens():
    before = gaussian(2, 9, 4).float()
    after = before + 1e-3 * gaussian(2, 9, 4, seed=1).float()
    expected = [slow_unison(before[i].tolist(), after[i].tolist()) for i in range(2)]
    assert unison(before, after).tolist() == pytest.approx(expected, rel=1e-9)


# -------------------------------------------------------------------------------------------------------- projection

def test_projection_against_the_eigenvectors_of_the_covariance():
    before, after = 5 + gaussian(7, 6), 5 + gaussian(7, 6, seed=1)
    both = torch.cat([before, after])
    values, vectors = np.linalg.eigh(np.cov(both.numpy(), rowvar=False))
    found = project_tokens(before, after)
    coordinates = torch.cat([found.before, found.after]).numpy()
    assert found.variance.tolist() == pytest.approx((values[::-1][:3] / values.sum()).tolist())
    for axis in range(3):
        direction = vectors[:, -1 - axis]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(coordinates[:, axis], (both.numpy() - both.numpy().mean(0)) @ direction, atol=1e-10)
    seen = np.linalg.norm(coordinates[7:] - coordinates[:7]) ** 2
    assert found.movement == pytest.approx(seen / (after - before).square().sum().item())
    assert 0.05 < found.movement < 0.95


def test_signs_do_not_hang_on_the_order_of_tokens():
    before, after = gaussian(7, 6), gaussian(7, 6, seed=1)
    for seed in range(5):
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        shuffled = project_tokens(before[order], after[order])
        torch.testing.assert_close(shuffled.before, project_tokens(before, after).before[order])


def test_three_dimensions_are_shown_whole():
    axes = torch.linalg.qr(gaussian(8, 3)).Q.mT
    before, after = gaussian(7, 3) @ axes + 4, gaussian(7, 3, seed=1) @ axes + 4
    found = project_tokens(before, after)
    assert found.variance.sum().item() == pytest.approx(1) and found.movement == pytest.approx(1)
    torch.testing.assert_close(torch.cdist(found.before, found.after), torch.cdist(before, after))


def test_a_common_step_out_of_the_cloud_is_seen():
    """In the directions of the tokens before alone nothing would move."""
    before = gaussian(20, 8)
    before[:, 7] = 0
    step = torch.zeros(8).double()
    step[7] = 10
    found = project_tokens(before, before + step)
    assert found.movement > 0.95
    assert unison(found.before[None], found.after[None]).item() == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------------- neighbours

@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_purity_and_silhouette_against_loops(metric, k):
    tokens = 0.5 + 0.7 * gaussian(3, 1, 4, seed=1) + gaussian(3, 7, 4)
    purity, width = slow_neighbours(tokens, k, metric)
    assert neighbour_purity(tokens, k, metric).tolist() == pytest.approx(purity)
    assert silhouette(tokens, metric).tolist() == pytest.approx(width)
    assert neighbour_purity(tokens, k, metric).dtype == silhouette(tokens, metric).dtype == torch.float64


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_images_that_lie_apart(metric):
    tokens = apart()
    assert neighbour_purity(tokens, metric=metric).tolist() == [1.0] * 4
    assert silhouette(tokens, metric).min() > 0.8
    mixed = tokens.flatten(0, 1)[torch.randperm(100, generator=torch.Generator().manual_seed(0))].unflatten(0, (4, 25))
    assert neighbour_purity(mixed, metric=metric).mean().item() == pytest.approx(chance_purity(4, 25), abs=0.04)
    assert silhouette(mixed, metric).mean() < 0


def test_chance_is_that_of_tokens_without_images():
    assert chance_purity(4, 25) == 24 / 99
    values = torch.stack([neighbour_purity(gaussian(3, 12, 5, seed=seed), k=4).mean() for seed in range(100)])
    assert values.mean().item() == pytest.approx(chance_purity(3, 12), abs=4 * values.std().item() / 10)


def test_cosine_does_not_see_lengths():
    tokens = apart()
    longer = tokens * gaussian(4, 25, 1, seed=3).exp()
    for measure in (neighbour_purity, silhouette):
        torch.testing.assert_close(measure(longer, metric="cosine"), measure(tokens, metric="cosine"))
        assert (measure(longer, metric="euclidean") - measure(tokens, metric="euclidean")).abs().max() > 0.01


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("rounding", [0, 1e-8])
def test_equal_tokens_share_the_places(metric, rounding):
    """Collapse is no neighbourhood: where all tokens are the same, up to rounding, purity is that of chance."""
    same = gaussian(1, 1, 6).expand(3, 8, 6) * (1 + rounding * gaussian(3, 1, 6, seed=1))
    assert neighbour_purity(same, 4, metric).tolist() == pytest.approx([chance_purity(3, 8)] * 3)


def test_a_plain_background_shares_the_places_that_are_left():
    """Of 8 tokens, 3 are one background in all images, and 5 lie by themselves. Of the 4 neighbours of a background token all
    are among the 8 other background tokens, 2 of which are its own image's."""
    tokens = 1000 * gaussian(3, 1, 6, seed=1) + gaussian(3, 8, 6)
    tokens[:, :3] = 0
    found = neighbour_purity(tokens, 4, "euclidean")
    assert found.tolist() == pytest.approx([(3 * 2 / 8 + 5) / 8] * 3)


# --------------------------------------------------------------------------------------------------------------- t-SNE

def test_tsne_keeps_images_apart_and_repeats():
    tokens = apart(3, 40).float()
    positions, patches = token_tsne(tokens, seed=1, per_image=30)
    assert positions.shape == (3, 30, 2) and patches.shape == (3, 30)
    assert neighbour_purity(positions, metric="euclidean").min() == 1
    assert all(len(set(row)) == 30 and set(row) <= set(range(40)) for row in patches.tolist())
    assert patches[0].tolist() != patches[1].tolist()
    np.random.seed(5)                                              # the global state is nothing to it
    again = token_tsne(tokens, seed=1, per_image=30)
    assert torch.equal(again[0], positions) and torch.equal(again[1], patches)
    other = token_tsne(tokens, seed=2, per_image=30)
    assert not torch.allclose(other[0], positions) and not torch.equal(other[1], patches)


def test_tsne_is_that_of_scikit_learn_at_the_chosen_patches(monkeypatch):
    class Seen:
        def __init__(self, **settings):
            given.update(settings)

        def fit_transform(self, x):
            given["x"] = x
            return x[:, :2]

    given, tokens = {}, gaussian(2, 30, 4)
    monkeypatch.setattr(module, "TSNE", Seen)
    positions, patches = token_tsne(tokens, per_image=20)
    expected = torch.stack([tokens[image, patches[image]] for image in range(2)]).float()
    assert np.array_equal(given["x"], expected.flatten(0, 1).numpy()) and torch.equal(positions, expected[..., :2])
    assert (given["perplexity"], given["init"], given["learning_rate"], given["max_iter"]) == (20, "random", "auto", 1000)
    assert token_tsne(tokens)[1].tolist() == [list(range(30))] * 2             # all, where there are no more


# ------------------------------------------------------------------------------------------------------------ bad input

@pytest.mark.parametrize("call, message", [
    (lambda: unison(gaussian(2, 1, 4), gaussian(2, 1, 4)), r"^1 patch token\(s\) in an image"),
    (lambda: project_tokens(gaussian(5, 4), gaussian(6, 4)), r"^tokens \(5, 4\) before and \(6, 4\) after; expected both"),
    (lambda: project_tokens(gaussian(1, 5, 4), gaussian(1, 5, 4)), r"^tokens \(1, 5, 4\) before"),
    (lambda: project_tokens(gaussian(1, 4), gaussian(1, 4)), "at least 2 tokens"),
    (lambda: project_tokens(gaussian(5, 2), gaussian(5, 2)), "at least 3 channels"),
    (lambda: token_tsne(gaussian(2, 10, 4)), "^20 tokens for a perplexity of 20"),
    (lambda: neighbour_purity(gaussian(2, 5, 4), 5), "^5 neighbours where a token has 4 others in its image; take 1 to 4"),
    (lambda: neighbour_purity(gaussian(2, 5, 4), 0), "^0 neighbours"),
    (lambda: neighbour_purity(gaussian(2, 5, 4), 2, "manhattan"), "^metric 'manhattan'; expected cosine or euclidean"),
    (lambda: neighbour_purity(gaussian(1, 5, 4), 2), r"^1 image\(s\) of 5 token\(s\)"),
    (lambda: silhouette(gaussian(2, 1, 4)), r"^2 image\(s\) of 1 token\(s\); expected at least 2"),
    (lambda: silhouette(gaussian(2, 5, 4), "manhattan"), "^metric 'manhattan'"),
])
def test_bad_input(call, message):
    with pytest.raises(CourseError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_least_that_is_enough():
    assert project_tokens(gaussian(2, 3), gaussian(2, 3, seed=1)).before.shape == (2, 3)
    assert token_tsne(gaussian(3, 7, 4))[0].shape == (3, 7, 2)
    assert neighbour_purity(gaussian(2, 2, 4), 1).shape == silhouette(gaussian(2, 2, 4)).shape == (2,)
