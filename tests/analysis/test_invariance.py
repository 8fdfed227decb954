"""Invariance against plain loops, at transforms that change nothing, and the transforms themselves."""
import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lib.analysis.invariance import TRANSFORMS, Pooled, Transformed, compare, invariances, paired_cka
from lib.analysis.recording import record
from lib.analysis.similarity import linear_cka
from lib.data.shapes import Shapes
from lib.data.views import ViewRecipe, normalize
from lib.errors import CourseError
from lib.models.vit import ViT

SAME = ViewRecipe(ratio=(1.0, 1.0))                                # does nothing


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vit() -> ViT:
    torch.manual_seed(0)
    backbone = ViT(16, 4, dim=24, depth=2, heads=3)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return backbone.eval()


class Photos:
    """A source of images that `change` made of those of the shapes."""
    name = "photos"

    def __init__(self, change=lambda images: images, length: int = 12):
        self.inner, self.change = Shapes("val", 16, length), change

    def __len__(self):
        return len(self.inner)

    def images(self, indices):
        return self.change(self.inner.images(indices))

    def labels(self, indices):
        return self.inner.labels(indices)


# ---------------------------------------------------------------------------------------------------------- the numbers

def cosine(u: list[float], v: list[float]) -> float:
    return sum(a * b for a, b in zip(u, v, strict=True)) / math.sqrt(sum(a * a for a in u) * sum(b * b for b in v))


def test_against_plain_loops():
    x, mean = gaussian(7, 2, 5), torch.tensor([1.0, 2, 0, 0, 0])
    y = x + gaussian(7, 2, 5, seed=1) + mean
    x = x + mean
    found = compare(x, y)
    for depth in range(2):
        u, v = x[:, depth].double().tolist(), y[:, depth].double().tolist()
        paired = [cosine(a, b) for a, b in zip(u, v, strict=True)]
        unpaired = [sum(cosine(u[i], v[j]) for j in range(7) if j != i) / 6 for i in range(7)]
        chance = sum(unpaired) / 7
        assert found.paired[:, depth].tolist() == pytest.approx(paired, abs=1e-9)
        assert found.unpaired[:, depth].tolist() == pytest.approx(unpaired, abs=1e-9)
        assert found.difference[:, depth].tolist() == pytest.approx([p - q for p, q in zip(paired, unpaired, strict=True)])
        assert found.invariance[:, depth].tolist() == pytest.approx([(p - chance) / (1 - chance) for p in paired], abs=1e-9)
        assert found.cka[depth].item() == pytest.approx(linear_cka(x[:, depth], y[:, depth]), abs=1e-6)
        assert 0.1 < chance < 0.9


def test_known_ends():
    x = gaussian(200, 1, 30)
    same, far, moved, mirror = compare(x, x), compare(x, gaussian(200, 1, 30, seed=1)), compare(x, x + 100), compare(x, -x)
    assert torch.allclose(same.invariance, torch.ones(200, 1, dtype=torch.float64)) and same.cka.item() == pytest.approx(1)
    assert abs(far.invariance.mean()) < 4 / math.sqrt(30 * 200) and abs(far.cka.item()) < 4 * math.sqrt(2 / (200 * 199))
    assert abs(moved.invariance.mean()) < 0.05 and moved.cka.item() == pytest.approx(1, abs=1e-6)     # a place, and an order
    assert mirror.invariance.mean() < -0.9
    alike = compare(torch.ones(5, 1, 3) + torch.zeros(5, 1, 1), torch.full((5, 1, 3), 2.0))
    assert alike.invariance.isnan().all() and (alike.paired > 1 - 1e-9).all() and alike.cka.isnan().all()
    assert compare(x[:3], x[:3]).cka.isnan().all() and compare(x[:3], x[:3]).invariance.isfinite().all()


def test_minibatches_of_cka_are_drawn_over_all_images():
    """Images sorted by class, of which the transform keeps the class alone: minibatches of one class would see nothing."""
    classes = gaussian(2, 1, 8).repeat_interleave(20, 0)
    x, y = classes + 0.1 * gaussian(40, 1, 8, seed=1), classes + 0.1 * gaussian(40, 1, 8, seed=2)
    assert paired_cka(x, y).item() == pytest.approx(linear_cka(x, y), abs=1e-9) and linear_cka(x, y) > 0.9
    assert paired_cka(x, y, batch_size=20).item() > 0.9 > 0.3 > abs(linear_cka(x[:20], y[:20]))


@pytest.mark.parametrize(("x", "y", "message"), [
    (torch.zeros(5, 2, 3), torch.zeros(5, 2, 4), r"features \(5, 2, 3\) and \(5, 2, 4\); expected both"),
    (torch.zeros(5, 3), torch.zeros(5, 3), r"features \(5, 3\) and"),
    (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), "at least 2 images")])
def test_features_that_do_not_fit(x, y, message):
    with pytest.raises(CourseError, match=message):
        compare(x, y)
    with pytest.raises(CourseError, match=r"3 image\(s\) in a minibatch"):
        compare(gaussian(5, 2, 3), gaussian(5, 2, 3), batch_size=3)


# ----------------------------------------------------------------------------------------------------------- transforms

def test_transforms_do_what_they_say():
    source, indices = Photos(), torch.arange(12)
    images = source.images(indices)
    plain = normalize(images)
    seen = {name: Transformed(source, name).images(indices) for name in TRANSFORMS}
    assert torch.allclose(Transformed(source, SAME).images(indices), plain, atol=1e-5)
    assert torch.allclose(seen["flip"], plain.flip(3), atol=1e-5)
    turns = [next((k for k in (0, 1, 2, 3) if torch.equal(a, b.rot90(k, (1, 2)))), None)
             for a, b in zip(seen["quarter turn"], plain, strict=True)]
    assert set(turns) == {1, 2, 3}
    for name, changed in seen.items():
        assert changed.shape == plain.shape and changed.dtype == torch.float32
        assert ((changed - plain).flatten(1).abs().max(1).values > 0.02).all(), name
    again = Transformed(source, "quarter turn").images(torch.tensor([7, 2]))
    assert torch.equal(again, seen["quarter turn"][[7, 2]])
    crops = [Transformed(source, "crop", seed).images(indices) for seed in (0, 0, 1)]
    assert torch.equal(crops[0], crops[1]) and not torch.allclose(crops[0], crops[2], atol=0.1)
    one = Transformed(source, "flip")
    assert len(one) == 12 and one.name == "photos, flip" and torch.equal(one.labels(indices), source.labels(indices))


def test_pooled_tokens():
    backbone, source = vit(), Photos()
    with torch.no_grad():
        stops = backbone.intermediates(normalize(source.images(torch.arange(12))))
    for pooling in ("cls", "mean"):
        found = record(backbone, source, [Pooled(pooling)], batch_size=5)["pooled"]
        assert found.shape == (12, 3, 24)
        for depth, name in enumerate(("embedding", "block1", "block2")):
            expected = stops[name][:, 0] if pooling == "cls" else stops[name][:, 1:].mean(1)
            assert torch.allclose(found[:, depth], expected, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- of a whole network

def test_images_that_a_transform_does_not_change():
    backbone = vit()
    symmetric = Photos(lambda images: torch.maximum(images, images.flip(3)))
    found = invariances(backbone, symmetric, ("flip", "quarter turn", SAME), pooling="mean")
    assert list(found) == ["flip", "quarter turn", SAME]
    for transform in ("flip", SAME):
        assert torch.allclose(found[transform].invariance, torch.ones(12, 3, dtype=torch.float64), atol=1e-4)
        assert torch.allclose(found[transform].cka, torch.ones(3, dtype=torch.float64), atol=1e-4)
    assert found["quarter turn"].invariance.mean(0).max() < 0.99
    grey = Photos(lambda images: images[:, :1].expand(-1, 3, -1, -1).contiguous())
    assert invariances(backbone, grey, ("grey",))["grey"].invariance[:, 1:].min() > 0.999
    assert invariances(backbone, Photos(), ("grey",))["grey"].invariance[:, 1:].min() < 0.99


def test_a_network_is_compared_with_itself_before_and_after():
    backbone, source = vit(), Photos()
    found = invariances(backbone, source, ("crop",), batch_size=5, seed=4)["crop"]
    with torch.no_grad():
        x, y = (torch.stack([backbone.intermediates(images)[name][:, 0] for name in ("embedding", "block1", "block2")], dim=1)
                for images in (normalize(source.images(torch.arange(12))),
                               Transformed(source, "crop", seed=4).images(torch.arange(12))))
    expected = compare(x, y)
    assert found.paired.shape == found.unpaired.shape == (12, 3) and found.cka.shape == (3,)
    assert torch.allclose(found.paired, expected.paired, atol=1e-5)
    assert torch.allclose(found.unpaired, expected.unpaired, atol=1e-5)
    assert found.invariance[:, 0].isnan().all() and found.cka[0].isnan()         # CLS in the embedding: one for all images
    assert torch.allclose(found.cka[1:], expected.cka[1:], atol=1e-4) and found.cka[1:].max() < 0.99


@pytest.mark.parametrize(("change", "message"), [
    ({"transforms": ("rotate",)}, "no transform 'rotate'; choose one of flip, crop, quarter turn"),
    ({"transforms": ()}, "no transform was asked for"), ({"pooling": "max"}, "no pooling 'max'; choose one of cls, mean"),
    ({"source": Photos(lambda images: images.float())}, "square uint8 images are transformed, got torch.float32"),
    ({"backbone": VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, class_token=False,
                                    global_pool="avg")}, "no CLS token; choose the pooling mean")])
def test_what_cannot_be_measured(change, message):
    with pytest.raises(CourseError, match=message):
        invariances(**{"backbone": vit(), "source": Photos(), "transforms": ("flip",)} | change)


def test_the_draws_of_transforms_differ_between_images():
    source = Photos(lambda images: images[:1].expand(len(images), -1, -1, -1).contiguous(), length=8)
    for name in ("crop", "colour", "quarter turn"):
        images = Transformed(source, name).images(torch.arange(8))
        assert len({tuple(image.flatten().tolist()) for image in images}) >= (3 if name == "quarter turn" else 8)
