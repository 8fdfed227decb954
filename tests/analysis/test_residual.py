"""Norm ratios against float64 sums by hand, and networks without a skip connection against their formula."""
import copy
import io

import pytest
import torch
import torch.nn.functional as F
from timm.models import create_model
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import nn

from lib.analysis.recording import record
from lib.analysis.residual import NormRatios, SkipCosines, WithoutSkip, apart, resnet_norm_ratios, without_skip
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.models.vit import ViT

SMALL = dict(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=0)
MODELS = {
    "course": lambda: ViT(16, 4, dim=24, depth=3, heads=3),
    "relative": lambda: ViT(16, 4, dim=24, depth=3, heads=3, positions="relative", layer_scale=0.5),
    "registers": lambda: VisionTransformer(**SMALL, reg_tokens=4, init_values=0.5),
}


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    backbone = MODELS[name]().eval()
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return backbone


def by_hand(backbone: nn.Module, images: torch.Tensor, missing: dict[int, str] | None = None) -> list[tuple]:
    """(z, f(z)) of each half, in float64: z is 0 where the skip is missing, {block: halves}."""
    backbone, found = copy.deepcopy(backbone).double(), []
    course = isinstance(backbone, ViT)
    with torch.no_grad():
        x = images.double()
        x = backbone.embed(x) if course else backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(x)))
        for depth, block in enumerate(backbone.blocks, start=1):
            for half in ("attention", "mlp"):
                if half == "attention":
                    f = block.ls1(block.attn(block.norm1(x), attn_mask=backbone.relative_bias() if course else None))
                else:
                    f = block.ls2(block.mlp(block.norm2(x)))
                z = torch.zeros_like(x) if half in (missing or {}).get(depth, "") else x
                found.append((z, f))
                x = z + f
    return found


def close(a, b, tolerance=1e-4) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


# ------------------------------------------------------------------------------------------------------- norm ratios

@pytest.mark.parametrize("name", MODELS)
def test_ratios_and_cosines_of_every_token(name):
    backbone, source = model(name), Shapes("val", 16, length=5)
    found = record(backbone, source, [NormRatios(), SkipCosines()], batch_size=2)
    pairs = by_hand(backbone, normalize(source.images(torch.arange(5))))
    tokens = pairs[0][0].shape[1]
    for half, start in (("attention", 0), ("mlp", 1)):
        assert found[f"{half}_norm_ratio"].shape == found[f"{half}_skip_cosine"].shape == (5, 3, tokens)
        for block, (z, f) in enumerate(pairs[start::2]):
            close(found[f"{half}_norm_ratio"][:, block], z.square().sum(-1).sqrt() / f.square().sum(-1).sqrt())
            close(found[f"{half}_skip_cosine"][:, block], F.cosine_similarity(z, z + f, dim=-1))
    assert set(found) == {"attention_norm_ratio", "mlp_norm_ratio", "attention_skip_cosine", "mlp_skip_cosine"}
    assert found["attention_norm_ratio"].std() > 0.05


class Quarter(nn.Module):
    def forward(self, x):
        return x / 4


def test_a_branch_that_adds_a_quarter_and_one_that_adds_nothing():
    backbone = model("course")
    with torch.no_grad():
        backbone.blocks[0].attn.proj.weight.zero_()
        backbone.blocks[0].attn.proj.bias.zero_()
    backbone.blocks[0].norm2, backbone.blocks[0].mlp = nn.Identity(), Quarter()
    found = record(backbone, Shapes("val", 16, length=3), [NormRatios(), SkipCosines()])
    assert found["attention_norm_ratio"][:, 0].isposinf().all() and found["mlp_norm_ratio"].isfinite().all()
    for name, value in [("mlp_norm_ratio", 4), ("mlp_skip_cosine", 1), ("attention_skip_cosine", 1)]:
        close(found[name][:, 0], torch.full((3, 17), float(value)))
    assert (found["mlp_norm_ratio"][:, 1] - 4).abs().min() > 1e-3


def test_cls_and_patches_apart():
    values = torch.tensor([[1.0, 50.0, 2.0, 4.0], [3.0, 60.0, 0.0, 5.0]])
    cls, patches = apart(values, prefix=2)
    assert cls.tolist() == [1, 3] and patches.tolist() == [3, 2.5]
    for prefix in (0, 4):
        with pytest.raises(CourseError, match=rf"{prefix} prefix token\(s\) of 4; expected CLS first"):
            apart(values, prefix)


NETWORKS = {
    "basic": lambda: create_model("resnet10t", num_classes=0),
    "bottleneck, squeeze and excitation": lambda: ResNet(
        Bottleneck, [2, 1, 1, 2], num_classes=0, channels=(8, 8, 16, 16), block_args=dict(attn_layer="se")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_ratios_in_a_resnet(name):
    torch.manual_seed(0)
    resnet = NETWORKS[name]()
    with torch.no_grad():
        for p in resnet.parameters():
            p.add_(0.1 * torch.randn_like(p))
    images = torch.randn(2, 3, 64, 64)
    found, exact = resnet_norm_ratios(resnet, images), copy.deepcopy(resnet).eval().double()
    assert resnet.training
    with torch.no_grad():
        x, names = exact.maxpool(exact.act1(exact.bn1(exact.conv1(images.double())))), []
        for stage in range(1, 5):
            for k, block in enumerate(getattr(exact, f"layer{stage}")):
                skip = x if block.downsample is None else block.downsample(x)
                f = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x))))) if name == "basic" else block.se(
                    block.bn3(block.conv3(block.act2(block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))))))
                names.append(f"layer{stage}.{k}")
                close(found[names[-1]], (skip.norm(dim=1) / f.norm(dim=1)).flatten(1))
                x = block(x)
    assert list(found) == names and len(names) == (4 if name == "basic" else 6)


def test_networks_that_are_no_resnet():
    with pytest.raises(CourseError, match="ViT has no stages layer1 to layer4; expected timm's ResNet"):
        resnet_norm_ratios(model("course"), torch.zeros(1, 3, 16, 16))
    other = nn.Sequential()
    other.layer1 = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(CourseError, match=r"layer1\.0 of Sequential is no residual block"):
        resnet_norm_ratios(other, torch.zeros(1, 3, 16, 16))


# -------------------------------------------------------------------------------------------------------- a skip less

@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("half", "halves"), [("attention", "attention"), ("mlp", "mlp"), ("both", "attention mlp")])
def test_a_network_without_a_skip(name, half, halves):
    backbone, images = model(name), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    changed = without_skip(backbone, 2, half)
    z, f = by_hand(backbone, images, {2: halves})[-1]
    with torch.no_grad():
        before, after = backbone.forward_features(images), changed.forward_features(images)
        close(after, copy.deepcopy(changed.norm).double()(z + f))
        close(backbone.forward_features(images), before, 0)
    assert (before - after).abs().max() > 0.01
    assert type(changed) is type(backbone) and list(changed.state_dict()) == list(backbone.state_dict())
    assert not {id(p) for p in changed.parameters()} & {id(p) for p in backbone.parameters()}
    assert [isinstance(block, WithoutSkip) for block in changed.blocks] == [False, True, False]


def test_it_can_be_recorded_saved_trained_and_changed_again():
    backbone, images = model("relative"), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    changed = without_skip(without_skip(backbone, 1, "mlp"), 3)
    ratios = record(changed, Shapes("val", 16, length=2), [NormRatios()])["mlp_norm_ratio"]
    pairs = by_hand(backbone, normalize(Shapes("val", 16, length=2).images(torch.arange(2))), {1: "mlp", 3: "attention mlp"})
    entered, left = pairs[2][0], pairs[1][1]                       # without a skip, what leaves block 1 is f(z) alone
    close(entered, left, 1e-12)
    close(ratios[:, 1], pairs[3][0].norm(dim=-1) / pairs[3][1].norm(dim=-1))
    file = io.BytesIO()
    torch.save(changed, file)
    again = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    close(again.forward_features(images), changed.forward_features(images), 0)
    changed.forward_features(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in changed.blocks[2].parameters())


def test_a_half_without_a_skip_is_never_dropped():
    torch.manual_seed(0)
    backbone = ViT(16, 4, dim=24, depth=3, heads=3, drop_path=0.9).train()
    block = without_skip(backbone, 3).blocks[2]
    tokens = torch.randn(64, 17, 24)
    assert block.training
    close(block(tokens), copy.deepcopy(block).eval()(tokens), 0)
    kept = without_skip(backbone, 3, "attention").blocks[2]        # its MLP half still may be
    attention = kept.ls1(kept.attn(kept.norm1(tokens)))
    same = (kept(tokens) == attention).all(-1).all(-1)
    assert 40 < same.sum() < 64


@pytest.mark.parametrize(("block", "half", "message"), [
    (0, "both", "no block 0; this backbone has 3, counted from 1"), (4, "both", "no block 4"),
    (1, "heads", "no half 'heads'; choose one of attention, mlp, both")])
def test_skips_that_are_not_there(block, half, message):
    with pytest.raises(CourseError, match=message):
        without_skip(model("course"), block, half)


def test_blocks_of_another_kind():
    parallel = VisionTransformer(**SMALL, block_fn=ParallelScalingBlock)
    with pytest.raises(CourseError, match=r"block 1 is a ParallelScalingBlock; expected the Block of timm\.models"):
        without_skip(parallel, 1)
    with pytest.raises(CourseError, match="block 2 is a WithoutSkip"):
        without_skip(without_skip(model("course"), 2, "mlp"), 2, "attention")
    with pytest.raises(CourseError, match="no block 1; this backbone has 0"):
        without_skip(create_model("resnet10t", num_classes=0), 1)
