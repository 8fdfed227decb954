"""Subsets of heads against CKA of what these heads give, put side by side."""
import copy

import pytest
import torch
from timm.models import create_model
from torch import nn

from lib.analysis.attention import AttentionStatistics
from lib.analysis.head_subsets import head_subset_similarity
from lib.analysis.recording import record
from lib.analysis.similarity import CKA, Representations, gram
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.models.vit import ViT


def vit() -> ViT:
    torch.manual_seed(0)
    backbone = ViT(16, 4, dim=24, depth=2, heads=4)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return backbone.eval()


def resnet() -> Representations:
    torch.manual_seed(0)
    network = create_model("resnet10t", num_classes=0).eval()
    return Representations(network, Shapes("val", 32, length=12), {"stage1": network.layer1, "stage2": network.layer2})


@pytest.mark.parametrize(("block", "size"), [(2, 2), (1, None), (2, 4)])
def test_subsets_are_heads_side_by_side(block, size):
    backbone, other, source = vit(), resnet(), Shapes("val", 16, length=12)
    found = head_subset_similarity(backbone, other, block, size, batch_size=12, source=source)
    size = size or 1
    distance = record(backbone, source, [AttentionStatistics()])["distance"][:, block - 1].double().mean(0)         # (heads,)
    order = distance.argsort().tolist()
    assert found.subsets == [order[k:k + size] for k in range(5 - size)] and found.columns == ["stage1", "stage2"]
    assert found.distances.tolist() == pytest.approx([distance[s].mean().item() for s in found.subsets], abs=1e-4)
    kept, exact = [], copy.deepcopy(backbone)
    exact.blocks[block - 1].attn.proj.register_forward_pre_hook(lambda _, args: kept.append(args[0].unflatten(-1, (4, 6))))
    with torch.no_grad():
        exact(normalize(source.images(torch.arange(12))))
    layers = [other.grams(torch.arange(12))[name] for name in found.columns]
    for row, subset in zip(found.values, found.subsets, strict=True):
        cka = CKA()
        cka.update([gram(kept[0][:, :, subset])], layers)
        assert row.tolist() == pytest.approx(cka.compute()[0].tolist(), abs=1e-6)
    assert len(found.subsets) == 1 or found.distances.diff().min() > 1e-3


def test_minibatches_add_up():
    backbone, other, source = vit(), resnet(), Shapes("val", 16, length=12)
    found = head_subset_similarity(backbone, other, 1, 3, batch_size=6, source=source)
    again = head_subset_similarity(backbone, other, 1, 3, batch_size=12, source=source)
    assert found.subsets == again.subsets and torch.allclose(found.distances, again.distances)
    assert not torch.allclose(found.values, again.values, atol=1e-6) and found.values.abs().max() < 1.2
    alone = head_subset_similarity(backbone, Representations(backbone, source, {"first": backbone.blocks[0].attn.proj}), 1, 4)
    assert alone.values.shape == (1, 1) and alone.values.item() > 0.5


@pytest.mark.parametrize(("change", "message"), [
    ({"block": 0}, "no block 0; this backbone has 2"), ({"block": 3}, "no block 3"), ({"size": 5}, "subsets of 5 heads of 4"),
    ({"size": 0}, "subsets of 0 heads"), ({"images": 3}, r"3 image\(s\) in a minibatch"),
    ({"source": Shapes("val", 16, length=11)}, "the sources, of 11 and 12 images, differ"),
    ({"source": None}, "images of 32 x 32 pixels, the backbone takes 16 x 16"),
    ({"backbone": nn.Sequential(nn.Conv2d(3, 3, 1))}, "Sequential has no attention blocks")])
def test_subsets_that_are_not_there(change, message):
    with pytest.raises(CourseError, match=message):
        head_subset_similarity(**{"backbone": vit(), "other": resnet(), "source": Shapes("val", 16, length=12)} | change)
