"""Receptive fields against finite differences in float64, where the answer is known, and the numbers that are read off them."""
import math

import pytest
import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib.analysis.receptive_field import ReceptiveField, centre_of_mass, radius, receptive_fields
from lib.errors import CourseError
from lib.models.vit import ViT

MODELS = {
    "course": lambda: ViT(8, 4, dim=12, depth=2, heads=3),
    "registers, no square": lambda: VisionTransformer(img_size=(8, 12), patch_size=4, embed_dim=12, depth=2, num_heads=3,
                                                      num_classes=0, reg_tokens=2, init_values=0.5),
    "no prefix": lambda: VisionTransformer(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=3, num_classes=0,
                                           class_token=False, global_pool="avg"),
}


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    backbone = MODELS[name]().eval()
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return backbone


def gaussian(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def differences(forward, image: torch.Tensor, pixels=None, step: float = 1e-5) -> torch.Tensor:
    """(pixels, C): how each output of forward: (B, 3, H, W) -> (B, C) changes with each number of an image, in float64."""
    steps = step * torch.eye(image.numel(), dtype=torch.float64).view(-1, *image.shape)
    steps = steps if pixels is None else steps[pixels]
    with torch.no_grad():
        return (forward(image.double() + steps) - forward(image.double() - steps)) / (2 * step)


def close(a, b, tolerance=1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance, check_dtype=False)


# ------------------------------------------------------------------------------------------------------------- fields

@pytest.mark.parametrize("name", MODELS)
def test_fields_are_finite_differences(name):
    backbone, (rows, columns) = model(name), model(name).patch_embed.grid_size
    images = gaussian(2, 3, 4 * rows, 4 * columns)
    place, index = (1, 0), backbone.num_prefix_tokens + columns
    found = receptive_fields(backbone, images, ["block2", "block1.attention", "block1.proj"], place=place)
    summed = receptive_fields(backbone, images, ["block2"], place=place, channels="sum")["block2"]
    one = receptive_fields(backbone, images, ["block2"], place=place, channels=1)["block2"]
    assert list(found) == ["block2", "block1.attention", "block1.proj"]
    exact = model(name).double()
    first, second = exact.blocks

    def attended(x):
        return first.attn(first.norm1(embedded(exact, x)))

    forwards = {"block1.proj": attended, "block1.attention": lambda x: embedded(exact, x) + first.ls1(attended(x)),
                "block2": lambda x: second(first(embedded(exact, x)))}
    for part, forward in forwards.items():
        field = found[part]
        assert field.place == place and field.patch == (4, 4) and field.fields.shape == (2, 4 * rows, 4 * columns)
        for k, image in enumerate(images):
            slopes = differences(lambda x, forward=forward: forward(x)[:, index], image).view(*image.shape, -1)
            close(field.fields[k], slopes.abs().mean((0, 3)))
            assert field.fields[k].max() > 0.01
    close(summed.fields[1], slopes.sum(-1).abs().mean(0))          # slopes: those of block2 and the last image
    errors = sorted((one.fields[1] - slopes[..., c].abs().mean(0)).abs().max() for c in range(12))
    assert errors[0] < 1e-5 < 1e-3 < errors[1]
    assert (summed.fields - found["block2"].fields).abs().max() > 1e-2


def embedded(backbone: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if isinstance(backbone, ViT):
        return backbone.embed(x)
    return backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(x))))


def test_a_stage_of_a_resnet():
    torch.manual_seed(0)
    resnet = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=0, channels=(8, 8, 12, 12))
    images = gaussian(2, 3, 32, 32)
    found = receptive_fields(resnet, images, modules={"late": resnet.layer3, "early": resnet.layer1}, batch_size=1)
    assert resnet.training and list(found) == ["late", "early"]
    assert found["early"].place == (4, 4) and found["early"].patch == (4, 4) and found["late"].place == (1, 1)
    resnet.eval().double()
    pixels = torch.randperm(3 * 32 * 32, generator=torch.Generator().manual_seed(0))[:8]

    def stem(x):
        return resnet.layer1(resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(x)))))

    middle = [(16 * 32 + 16) + colour * 32 * 32 for colour in range(3)]          # numbers of one pixel, its three colours
    slopes = differences(lambda x: stem(x)[:, :, 4, 4], images[1], torch.tensor(middle), 1e-7)
    assert slopes.abs().mean() > 0
    close(found["early"].fields[1, 16, 16], slopes.abs().mean(), 1e-4)
    one_colour = differences(lambda x: resnet.layer3(resnet.layer2(stem(x)))[:, :, 1, 1], images[0],
                             torch.cat([pixels % 1024 + colour * 1024 for colour in range(3)]), 1e-7)
    seen = found["late"].fields[0].flatten()[pixels % 1024]
    close(seen, one_colour.abs().mean(1).view(3, 8).mean(0), 1e-4)
    assert seen.max() > 1e-3


def test_without_mixing_a_token_sees_its_own_patch_alone():
    backbone = model("course")
    with torch.no_grad():
        for block in backbone.blocks:
            block.attn.proj.weight.zero_()
    images = gaussian(3, 3, 8, 8)
    found = receptive_fields(backbone, images, ["embedding", "block2"])
    weight = backbone.patch_embed.proj.weight.detach()             # (D, 3, 4, 4)
    for field in found.values():
        assert field.place == (1, 1) and field.centre == (6, 6)
        close(field.own_share, torch.ones(3), 1e-12)
        assert not field.fields[:, :4].any() and not field.fields[:, :, :4].any()
    close(found["embedding"].fields[:, 4:, 4:], weight.abs().mean((0, 1)).expand(3, -1, -1), 1e-6)
    spread = receptive_fields(model("course"), images, ["block2"])["block2"].own_share
    assert (spread < 0.9).all() and (spread > 0).all()


def test_a_convolution_whose_output_is_overwritten():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(inplace=True))
    field, = receptive_fields(network, gaussian(4, 3, 9, 9), modules={"conv": network[0]}, place=(2, 6)).values()
    expected = torch.zeros(9, 9)
    expected[1:4, 5:8] = network[0].weight.detach().abs().mean((0, 1))
    close(field.fields, expected.expand(4, -1, -1), 1e-7)          # a convolution is linear: the same for every image
    assert field.patch == (1, 1) and (field.own_share < 0.3).all()


def test_nothing_is_left_behind():
    backbone, images = model("course").train(), torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        whole = receptive_fields(backbone, images, ["block1"])["block1"].fields
    parts = receptive_fields(backbone, images, ["block1"], batch_size=2)["block1"].fields
    close(whole, parts, 1e-6)
    assert backbone.training and all(p.grad is None for p in backbone.parameters()) and not whole.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    floats = gaussian(1, 3, 8, 8)
    receptive_fields(backbone, floats, ["block1"])
    assert not floats.requires_grad and whole.max() > 0


@pytest.mark.parametrize(("change", "message"), [
    ({"parts": None}, "give either parts of a ViT"), ({"modules": {"x": nn.Identity()}}, "give either parts of a ViT"),
    ({"parts": ["block3"]}, "no part 'block3' in this ViT; choose some of embedding, block1.norm1, ..., block2"),
    ({"place": (2, 0)}, r"block1 has no place \(2, 0\); its grid is 2 x 2"), ({"place": (0, -1)}, r"no place \(0, -1\)"),
    ({"channels": 13}, "channels 13 of a unit with 12; take 1 to 12"), ({"channels": 0}, "channels 0 of"),
    ({"channels": "mean"}, "channels 'mean' of"), ({"batch_size": 0}, "5 images in batches of 0"),
    ({"images": torch.zeros(0, 3, 8, 8)}, "0 images in batches of 32"),
    ({"images": torch.zeros(5, 3, 16, 16)}, "images of 16 x 16 pixels, the backbone takes 8 x 8"),
    ({"images": torch.full((5, 3, 8, 8), torch.nan)}, "activations are not finite")])
def test_what_cannot_be_looked_at(change, message):
    with pytest.raises(CourseError, match=message):
        receptive_fields(model("course"), **{"images": torch.zeros(5, 3, 8, 8), "parts": ["block1"]} | change)


def test_modules_that_are_no_grid():
    backbone, images = model("course"), torch.zeros(2, 3, 8, 8)
    found = receptive_fields(backbone, images, modules={"end": backbone.norm})   # tokens of a ViT, by their module
    assert found["end"].fields.shape == (2, 8, 8)
    with pytest.raises(CourseError, match=r"head gives \(2, 12\), expected tokens of a ViT"):
        receptive_fields(backbone, images, modules={"head": backbone.head})
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(CourseError, match=r"flat gives \(2, 192\), expected tokens of a ViT \(B, N, D\) or a map"):
        receptive_fields(flat, images, modules={"flat": flat[0]})


# ------------------------------------------------------------------------------------------------------------ numbers

def slow_radius(field: list[list[float]], centre: tuple[float, float], share: float) -> float:
    pixels = sorted((math.hypot(i + 0.5 - centre[0], j + 0.5 - centre[1]), mass)
                    for i, row in enumerate(field) for j, mass in enumerate(row))
    return next(d for d, _ in pixels if sum(m for e, m in pixels if e <= d) >= share * sum(m for _, m in pixels))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("centre", [(2.5, 3.0), (0.0, 7.0), (3.3, 1.9)])
def test_radius_of_plain_loops(share, centre):
    fields = gaussian(2, 3, 5, 7).abs()
    found = radius(fields, centre, share)
    assert found.shape == (2, 3) and found.dtype == torch.float64
    for i in range(2):
        for j in range(3):
            assert found[i, j].item() == pytest.approx(slow_radius(fields[i, j].tolist(), centre, share), abs=1e-9)
            own = radius(fields[i, j], tuple(centre_of_mass(fields[i, j]).tolist()), share)
            assert radius(fields, share=share)[i, j].item() == pytest.approx(own.item(), abs=1e-9)


def test_radii_that_are_known():
    point, ring = torch.zeros(2, 16, 16)
    point[3, 5] = 2.0
    assert radius(point, (3.5, 5.5), 1.0) == 0 and radius(point, (7.5, 8.5), 0.01) == 5 and radius(point) == 0
    assert centre_of_mass(point).tolist() == [3.5, 5.5]
    ring[3, 5], ring[8, 5] = 0.5, 0.5
    assert radius(ring, (3.5, 5.5), 0.5) == 0 and radius(ring, (3.5, 5.5), 0.51) == 5 and radius(ring, share=1.0) == 2.5
    assert radius(torch.ones(200, 200)).item() == pytest.approx(200 * math.sqrt(0.5 / math.pi), abs=0.5)
    assert radius(torch.ones(200, 200), share=1.0).item() == pytest.approx(99.5 * math.sqrt(2))
    assert radius(torch.zeros(3, 4, 4), (2.0, 2.0)).isnan().all() and radius(torch.zeros(4, 4)).isnan()
    for share in (0, 1.1, -0.5):
        with pytest.raises(CourseError, match="of the gradient; expected more than 0 and at most 1"):
            radius(point, share=share)


def test_own_share_of_patches_that_are_no_square():
    fields = torch.ones(1, 6, 12)
    field = ReceptiveField(fields, (2, 1), (2.0, 3.0))
    assert field.own_share.item() == pytest.approx(6 / 72) and field.centre == (5.0, 4.5)
    fields[0, 4:, 3:6] = 11.0
    assert field.own_share.item() == pytest.approx(0.5)
    assert ReceptiveField(torch.zeros(1, 6, 12), (0, 0), (2.0, 3.0)).own_share.isnan().all()
