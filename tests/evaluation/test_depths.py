"""Probes by depth are those of the single evaluators, at every depth and for both poolings."""
import json

import pytest
import timm
import torch

from lib.data import Shapes
from lib.errors import CourseError
from lib.evaluation.depths import by_depth, written
from lib.evaluation.features import extract
from lib.evaluation.linear import linear_probe
from lib.evaluation.neighbors import knn_accuracy
from lib.models.vit import create


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return create("vit_nano", image_size=32, patch_size=8).eval()


def test_every_depth_is_what_its_own_probe_says(backbone):
    train, val = Shapes("train", 32, 200, "easy"), Shapes("val", 32, 60, "easy")
    found = by_depth(backbone, train, val, [0, 2])
    assert found["depth"] == [0, 2]
    for pooling in ("cls", "mean"):
        for place, depth in enumerate(found["depth"]):
            features, labels = extract(backbone, train, pooling, depth=depth)
            queries, truth = extract(backbone, val, pooling, depth=depth)
            knn, linear = (found[pooling][name][place] for name in ("knn", "linear"))
            assert knn["value"] == pytest.approx(knn_accuracy(features, labels, queries, truth))
            assert linear["value"] == pytest.approx((linear_probe(features, labels, queries)[0] == truth).float().mean().item())
            assert knn["interval"][0] <= knn["value"] <= knn["interval"][1]


def test_before_the_first_block_every_cls_is_the_same(backbone):
    found = by_depth(backbone, Shapes("train", 32, 100), Shapes("val", 32, 100))
    assert found["depth"] == list(range(len(backbone.blocks) + 1))
    assert found["cls"]["linear"][0]["value"] < 0.3 and len(found["mean"]["knn"]) == len(found["depth"])


def test_a_backbone_without_cls_has_pooled_tokens_only():
    bare = timm.models.vision_transformer.VisionTransformer(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2,
                                                            num_classes=0, class_token=False, global_pool="avg").eval()
    found = by_depth(bare, Shapes("train", 32, 60), Shapes("val", 32, 20))
    assert found.keys() == {"depth", "mean"}


@pytest.mark.parametrize("depths, message", [([], "no depth was asked for"), ([9], "no depth 9; this backbone has 0")])
def test_bad_depths_get_a_line(backbone, depths, message):
    with pytest.raises(CourseError, match=message):
        by_depth(backbone, Shapes("train", 32, 20), Shapes("val", 32, 20), depths)


def test_what_was_written_is_read_back_by_name_and_kind(tmp_path):
    result = {"trained": {"depth": [0, 1]}, "untrained": {"depth": [0]}}
    (tmp_path / "shapes-mae-depths.json").write_text(json.dumps(result))
    assert written("shapes", "mae", folder=tmp_path) == {"depth": [0, 1]}
    assert written("shapes", "mae", "untrained", tmp_path) == {"depth": [0]}
    for world, known in {"shapes": "there are mae", "imagenette": "there are none"}.items():
        with pytest.raises(CourseError, match=f"nothing by depth of 'dino' in world '{world}'; {known}"):
            written(world, "dino", folder=tmp_path)


def test_what_ships_has_every_depth():
    found = written("shapes", "simmim")
    assert found["depth"] == list(range(13)) and len(found["mean"]["linear"]) == 13
