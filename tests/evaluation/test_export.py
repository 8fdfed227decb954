"""What is exported is, to timm alone, the vector that the course evaluates."""
import json

import pytest
import timm
import torch

from lib.errors import CourseError
from lib.evaluation import export
from lib.evaluation.features import pooled
from lib.evaluation.load import Subject, open_subject
from lib.models.vit import ViT


def subject(pooling: str = "cls", **options) -> Subject:
    """With every weight moved, so that nothing is at a start that hides it."""
    torch.manual_seed(0)
    network = ViT(16, 4, dim=24, depth=3, heads=2, **options).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return Subject(network, network, 16, "shapes", "mild", pooling, {"objective": "own"})


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("options", [{}, {"positions": "learned", "layer_scale": 0.5}, {"mask_token": True}])
def test_timm_alone_computes_the_same(tmp_path, monkeypatch, options, pooling):
    mine = subject(pooling, **options)
    monkeypatch.setattr(export, "open_subject", lambda name: mine)
    for _ in range(2):                                             # the second in the place of the first
        folder = export.export("runs/x", tmp_path / "deep" / "x")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = pooled(mine.backbone, images, pooling=pooling)[None]
        torch.testing.assert_close(loaded(images), expected, rtol=0, atol=1e-5)
    assert timm.data.resolve_model_data_config(loaded)["mean"] == [0.485, 0.456, 0.406]
    assert json.loads((folder / "config.json").read_text())["trained"] == {"objective": "own"}


def test_a_shipped_network_comes_back_by_its_folder(tmp_path):
    folder = export.export("shapes/simmim", tmp_path / "simmim")
    back, first = open_subject(f"timm:local-dir:{folder}"), open_subject("shapes/simmim")
    assert (back.size, back.pooling) == (64, "mean") and timm.create_model(f"local-dir:{folder}").num_features == 96
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(back.backbone.forward_features(images), first.backbone.forward_features(images))


def test_what_cannot_be_exported_is_named(tmp_path, monkeypatch):
    with pytest.raises(CourseError, match="timm:vit_tiny_patch16_224 is timm's already"):
        export.export("timm:vit_tiny_patch16_224", tmp_path / "x")
    (tmp_path / "mine.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(CourseError, match="is there already and holds other things; name a new folder"):
            export.export("shapes/mae", taken)
    with pytest.raises(CourseError, match="cannot write to /dev/null/x: Not a directory"):
        export.export("shapes/mae", "/dev/null/x")
    monkeypatch.setattr(export, "open_subject", lambda name: subject(positions="relative"))
    with pytest.raises(CourseError, match="a relative position bias for all blocks, which no Vision Transformer of timm has"):
        export.export("official:simmim-vitb16", tmp_path / "x")
    monkeypatch.setattr(export, "pooled", lambda *_, **__: {None: torch.zeros(2, 24)})
    monkeypatch.setattr(export, "open_subject", lambda name: subject())
    with pytest.raises(CourseError, match=r"timm .* computes other vectors with these weights"):
        export.export("runs/x", tmp_path / "x")
    assert not (tmp_path / "x").exists()
