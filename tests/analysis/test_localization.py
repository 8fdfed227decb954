"""Localization against HSIC of plain sums, and for networks whose units stand for known places."""
import copy
import itertools
import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib import distributed
from lib.analysis.localization import Localization, localization
from lib.analysis.places import image_patches
from lib.analysis.similarity import Representations, minibatches, similarity
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.models.vit import ViT


class Photos:
    """A source that remembers which images were asked for; nothing happens in its corner at the lower right, if it is still."""
    name = "photos"

    def __init__(self, length: int = 10, size: int = 16, still: bool = False):
        self.inner, self.still, self.asked = Shapes("val", size, length), still, []

    def __len__(self):
        return len(self.inner)

    def images(self, indices):
        self.asked.append(indices.tolist())
        images = self.inner.images(indices)
        if self.still:
            images[:, :, 8:, 8:] = 77
        return images

    def labels(self, indices):
        return self.inner.labels(indices)


class Move(nn.Module):
    """Brings every place to the one on its right, the last of a row to its first."""

    def forward(self, x):
        return x.roll(1, 3)


def vit(prefix: int = 1) -> nn.Module:
    torch.manual_seed(0)
    backbone = ViT(16, 8, dim=24, depth=2, heads=3) if prefix == 1 else VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0, reg_tokens=prefix - 1)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return backbone


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC_1 as it is written down, times n (n - 3)."""
    n, k, l_ = len(x), x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l_, 0)
    return np.trace(k @ l_) + k.sum() * l_.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l_).sum() / (n - 2)


@pytest.mark.parametrize("prefix", [1, 3])
def test_maps_are_those_of_the_formula(prefix):
    backbone, source = vit(prefix), Photos(11)
    found = localization(backbone, source, ["block2", "block1"], images=10, batch_size=5, seed=3)
    assert list(found) == ["block2", "block1"] and found["block1"].grid == (2, 2) and found["block1"].patch == (8, 8)
    batches, exact = list(source.asked), copy.deepcopy(backbone).double().eval()
    assert [len(batch) for batch in batches] == [5, 5] and not found["block1"].values.requires_grad
    sums = np.zeros((3, 4, 4))
    for batch in batches:
        images = normalize(source.inner.images(torch.tensor(batch))).double()
        with torch.no_grad():
            x = exact.embed(images) if prefix == 1 else exact._pos_embed(exact.patch_embed(images))
            tokens = exact.blocks(x) if prefix > 1 else exact.blocks[1](exact.blocks[0](x))
        for t, p in itertools.product(range(4), range(4)):
            token = tokens[:, prefix + t].numpy()
            row, column = divmod(p, 2)
            patch = images[:, :, 8 * row:8 * row + 8, 8 * column:8 * column + 8].reshape(5, -1).numpy()
            sums[:, t, p] += hsic(token, patch), hsic(token, token), hsic(patch, patch)
    expected = sums[0] / np.sqrt(sums[1] * sums[2])
    np.testing.assert_allclose(found["block2"].values, expected, atol=1e-4)
    assert np.ptp(expected) > 0.05


def test_units_that_stand_for_their_place_and_for_the_next():
    cells = nn.Sequential(nn.Conv2d(3, 48, 4, stride=4, bias=False), Move())     # each unit holds the pixels of its cell
    with torch.no_grad():
        cells[0].weight.copy_(torch.eye(48).view(48, 3, 4, 4))
    source = Photos(40)
    found = localization(cells, source, modules={"here": cells[0], "moved": cells[1]})
    here, moved = found["here"], found["moved"]
    assert torch.allclose(here.values.diagonal(), torch.ones(16, dtype=torch.float64), atol=1e-9)
    other = here.values[~torch.eye(16, dtype=torch.bool)]
    assert other.max() < 0.95
    summary = here.summary()
    assert summary["own"] == pytest.approx(1) and summary["hits"] == summary["rank"] == 1 and summary["distance"] == 0
    assert summary["contrast"] == pytest.approx(1 - other.mean().item())
    for token in range(16):                                        # the token at (row, column) holds (row, column - 1)
        held = 4 * (token // 4) + (token % 4 - 1) % 4
        assert moved.values[token].argmax() == held and moved.values[token, held].item() == pytest.approx(1)
    summary = moved.summary()
    assert summary["hits"] == 0 and summary["rank"] > 1 and summary["distance"] == (3 * 4 + 12) / 4


def test_places_where_nothing_happens_are_left_out():
    values = localization(vit(), Photos(12, still=True), ["embedding"])["embedding"].values
    assert values[3].isnan().all() and values[:, 3].isnan().all() and values[:3, :3].isfinite().all()
    found = Localization(values, (2, 2), (8, 8)).summary()
    smaller = values[:3, :3]
    own = smaller.diagonal()
    assert found["own"] == pytest.approx(own.mean().item())
    assert found["contrast"] == pytest.approx((own - (smaller.sum(1) - own) / 2).mean().item())
    with pytest.raises(CourseError, match="images differ in 0 of 4 places"):
        Localization(torch.full((4, 4), math.nan), (2, 2), (8, 8)).summary()


def test_a_summary_by_hand():
    values = torch.tensor([[.9, .1, .2, .3], [.8, .5, .1, .6], [.1, .2, .7, .3], [.2, .9, .1, .0]], dtype=torch.float64)
    found = Localization(values, (2, 2), (4.0, 8.0)).summary()
    assert found["own"] == pytest.approx((.9 + .5 + .7 + 0) / 4) and found["hits"] == 0.5
    assert found["contrast"] == pytest.approx((.7 + 0 + .5 - .4) / 4)
    assert found["rank"] == (1 + 3 + 1 + 4) / 4 and found["distance"] == (0 + 8 + 0 + 4) / 4


def test_patches_of_images_row_by_row():
    images = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    patches = image_patches(images, (3, 2))
    assert patches.shape == (2, 6, 24)
    for p in range(6):
        row, column = divmod(p, 2)
        assert torch.equal(patches[:, p], images[:, :, 2 * row:2 * row + 2, 4 * column:4 * column + 4].flatten(1))
    with pytest.raises(CourseError, match="images of 6 x 8 pixels do not divide into 4 x 2 places"):
        image_patches(images, (4, 2))


def test_the_minibatches_are_those_of_similarity(monkeypatch):
    backbone, source = vit(), Photos(13)
    similarity(Representations(backbone, source), images=12, batch_size=5, seed=2)
    assert [batch.tolist() for batch in minibatches(13, 12, 5, 2)] == source.asked
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append([batch.tolist() for batch in minibatches(13, 12, 5, 2)])
    assert shares == [source.asked[::2], source.asked[1::2]]
    with pytest.raises(CourseError, match="1 minibatches for 2 processes"):
        minibatches(13, None, 13, 0)


@pytest.mark.parametrize(("change", "message"), [
    ({"parts": None}, "give either parts of a ViT"), ({"modules": {"x": nn.Identity()}}, "give either parts of a ViT"),
    ({"parts": []}, "give either parts of a ViT"), ({"parts": ["block3"]}, "no part 'block3' in this ViT"),
    ({"batch_size": 3}, r"3 image\(s\) in a minibatch"), ({"images": 3}, r"3 image\(s\) in a minibatch"),
    ({"images": 11}, "11 images of 10"), ({"images": 0}, "0 images of 10")])
def test_what_cannot_be_localized(change, message):
    with pytest.raises(CourseError, match=message):
        localization(vit(), Photos(10), **{"parts": ["block1"]} | change)
