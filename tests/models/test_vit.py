"""The course's ViT against timm's, its positions and biases against slow loops, its initial weights against their law."""
import math

import pytest
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib.errors import CourseError
from lib.models import vit
from lib.models.vit import SIZES, ViT, create, init_normal, init_truncated, init_xavier, relative_index, sincos_positions

SMALL = dict(image_size=32, patch_size=8, dim=48, depth=3, heads=4)
CLOSE = dict(rtol=0, atol=1e-5)


def images(n: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def small(**changes) -> ViT:
    """A small ViT in eval mode whose every parameter, positions apart, is away from its start."""
    torch.manual_seed(0)
    backbone = ViT(**SMALL | changes).eval()
    with torch.no_grad():
        for name, p in backbone.named_parameters():
            if name != "pos_embed":
                p.add_(0.1 * torch.randn_like(p))
    return backbone


def half_masked(n: int = 3) -> torch.Tensor:
    mask = torch.zeros(n, 16, dtype=torch.bool)
    mask[0, ::2], mask[1, 4:12], mask[2, [0, 5, 15]] = True, True, True
    return mask


# ------------------------------------------------------------------------------------------------- the same as timm

def test_same_weights_give_the_tokens_of_timm():
    ours = small()
    theirs = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=0).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(ours.forward_features(images()), theirs.forward_features(images()), **CLOSE)
    assert ours.forward_features(images()).shape == (3, 17, 48)


def test_relative_positions_give_the_tokens_of_beit():
    ours = small(positions="relative", layer_scale=0.1)
    theirs = Beit(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=0, use_abs_pos_emb=False,
                  use_rel_pos_bias=False, use_shared_rel_pos_bias=True, init_values=0.1, global_pool="token").eval()
    renamed = {}
    for name, tensor in ours.state_dict().items():
        if name.endswith("qkv.bias"):                              # BEiT's keys have no bias, which changes no softmax
            q, _, v = tensor.chunk(3)
            renamed[name.replace("qkv.bias", "q_bias")], renamed[name.replace("qkv.bias", "v_bias")] = q, v
        else:
            name = {"bias_table": "rel_pos_bias.relative_position_bias_table"}.get(name, name)
            renamed[name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = tensor
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected and all("relative_position_index" in name or "k_bias" in name for name in missing)
    torch.testing.assert_close(ours.forward_features(images()), theirs.forward_features(images()), **CLOSE)
    with torch.no_grad():
        ours.bias_table.zero_()                                    # negative control: the bias is in the answer
    assert (ours.forward_features(images()) - theirs.forward_features(images())).abs().max() > 1e-3


@pytest.mark.parametrize("positions", vit.POSITIONS)
def test_intermediates_end_in_forward_features(positions):
    backbone = small(positions=positions, layer_scale=0.5, mask_token=True)
    named = backbone.intermediates(images(), half_masked())
    assert list(named) == ["embedding", *(f"block{k}{half}" for k in (1, 2, 3) for half in (".attention", "")), "norm"]
    assert all(tokens.shape == (3, 17, 48) for tokens in named.values())
    torch.testing.assert_close(named["norm"], backbone.forward_features(images(), half_masked()), **CLOSE)
    torch.testing.assert_close(named["embedding"], backbone.embed(images(), half_masked()), **CLOSE)
    assert (named["block1"] - named["block1.attention"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["vit_nano", "vit_tiny"])
def test_create_makes_the_size(name):
    dim, depth, heads = SIZES[name]
    backbone = create(name, image_size=32, patch_size=8)
    assert (backbone.embed_dim, len(backbone.blocks), backbone.blocks[0].attn.num_heads) == (dim, depth, heads)
    other = create(name, heads=2, image_size=32, patch_size=8)
    assert other.blocks[0].attn.num_heads == 2 and other.state_dict().keys() == backbone.state_dict().keys()


def test_sizes_of_the_papers():
    assert SIZES["vit_small"] == (384, 12, 12) and SIZES["vit_base"] == (768, 12, 12) and SIZES["vit_large"] == (1024, 24, 16)
    with torch.device("meta"):
        huge = create("vit_huge", image_size=224, patch_size=14)
    assert sum(p.numel() for p in huge.parameters()) == 630_764_800                # timm's vit_huge_patch14_224, no classifier


# ------------------------------------------------------------------------------------------------------------- masks

@pytest.mark.parametrize("positions", vit.POSITIONS)
def test_what_is_masked_has_no_influence(positions):
    backbone, mask, x = small(positions=positions, mask_token=True), half_masked(), images()
    hidden = mask.view(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)               # (3, 1, 32, 32)
    changed = torch.where(hidden, images().flip(0) + 1, x)
    assert torch.equal(backbone.forward_features(x, mask), backbone.forward_features(changed, mask))
    assert (backbone.forward_features(x) - backbone.forward_features(changed)).abs().amax((1, 2)).min() > 1e-2
    seen = torch.where(hidden, x, x + 1)
    assert (backbone.forward_features(x, mask) - backbone.forward_features(seen, mask)).abs().amax((1, 2)).min() > 1e-2


def test_masked_patches_are_the_mask_token():
    backbone, mask = small(mask_token=True), half_masked()
    embedded, plain = backbone.embed(images(), mask), backbone.embed(images())
    expected = backbone.mask_token[0] + backbone.pos_embed[0, 1:]                                # (16, 48)
    for b in range(3):
        torch.testing.assert_close(embedded[b, 1:][mask[b]], expected[mask[b]], **CLOSE)
        assert torch.equal(embedded[b, 1:][~mask[b]], plain[b, 1:][~mask[b]])
    assert torch.equal(embedded[:, 0], plain[:, 0])
    assert torch.equal(backbone.embed(images(), torch.zeros(3, 16, dtype=torch.bool)), plain)
    assert small().mask_token is None


def test_mask_token_learns():
    backbone = small(mask_token=True)
    backbone.forward_features(images(), half_masked()).square().mean().backward()
    assert backbone.mask_token.grad.abs().max() > 0
    backbone.zero_grad()
    backbone.forward_features(images()).square().mean().backward()
    assert backbone.mask_token.grad is None


# --------------------------------------------------------------------------------------------------------- positions

def slow_sincos(row: int, column: int, dim: int, first: int, second: int) -> list[float]:
    angle = [p / 10_000 ** (k / (dim // 4)) for p in (first, second) for k in range(dim // 4)]
    q = dim // 4
    return [f(a) for part in (angle[:q], angle[q:]) for f in (math.sin, math.cos) for a in part]


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_sincos_against_a_loop(grid):
    table, dim = sincos_positions(grid, 24), 24
    assert table.shape == (grid[0] * grid[1], dim) and table.dtype == torch.float32
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = slow_sincos(row, column, dim, column, row)  # MoCo v3: the first half of the channels is the column
            torch.testing.assert_close(table[row * grid[1] + column].double(), torch.tensor(expected, dtype=torch.float64),
                                       rtol=0, atol=1e-7)


def test_first_half_of_the_channels_is_the_column():
    table = sincos_positions((5, 5), 32).view(5, 5, 32)
    assert torch.equal(table[0, :, :16], table[3, :, :16]) and not torch.equal(table[:, 0, :16], table[:, 3, :16])
    assert not torch.equal(table[0, :, :16], table[0, :, 16:])
    assert torch.equal(table[:, 0, 16:], table[:, 3, 16:]) and not torch.equal(table[0, :, 16:], table[3, :, 16:])


def test_sincos_is_the_spatial_transpose_of_the_other_convention():
    """The table with rows in the first half, on the transposed grid, is this one; so is one with its halves swapped."""
    n, dim = 6, 32
    rows_first = torch.tensor([slow_sincos(r, c, dim, r, c) for r in range(n) for c in range(n)])
    ours = sincos_positions((n, n), dim)
    transposed = rows_first.view(n, n, dim).transpose(0, 1).reshape(n * n, dim)
    torch.testing.assert_close(ours, transposed, rtol=0, atol=7e-7)
    torch.testing.assert_close(ours, rows_first.roll(dim // 2, 1), rtol=0, atol=7e-7)
    assert (ours - rows_first).abs().max() > 0.5


def test_sincos_positions_are_fixed_and_cls_has_none():
    backbone = ViT(**SMALL)
    assert not backbone.pos_embed.requires_grad and not backbone.pos_embed[0, 0].any()
    assert torch.equal(backbone.pos_embed[0, 1:], sincos_positions((4, 4), 48))
    assert torch.equal(init_xavier(init_truncated(backbone)).pos_embed[0, 1:], sincos_positions((4, 4), 48))


def test_learned_positions_learn_and_are_added():
    torch.manual_seed(0)
    backbone = ViT(**SMALL, positions="learned")
    assert backbone.pos_embed.requires_grad and backbone.pos_embed.shape == (1, 17, 48)
    assert backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    tokens = backbone.embed(images())
    tokens[:, 2].sum().backward()
    expected = torch.zeros(17, 48)
    expected[2] = 3                                                # three images, one place
    assert torch.equal(backbone.pos_embed.grad[0], expected)
    with torch.no_grad():
        backbone.pos_embed.add_(1.0)
    torch.testing.assert_close(backbone.embed(images()), tokens + 1, **CLOSE)
    backbone.any_size = True
    assert backbone.embed(images(size=16)).shape == (3, 5, 48)
    assert init_normal(backbone).pos_embed is backbone.pos_embed


@pytest.mark.parametrize("grid", [(3, 3), (2, 4)])
def test_relative_index_against_a_loop(grid):
    index = relative_index(grid)
    places = [(r, c) for r in range(grid[0]) for c in range(grid[1])]
    entry = {}                                                     # displacement -> row of the table
    for q, (qr, qc) in enumerate(places, start=1):
        for k, (kr, kc) in enumerate(places, start=1):
            assert entry.setdefault((qr - kr, qc - kc), int(index[q, k])) == index[q, k]
    cls = [set(index[0, 1:].tolist()), set(index[1:, 0].tolist()), {int(index[0, 0])}]
    count = (2 * grid[0] - 1) * (2 * grid[1] - 1)
    assert sorted(entry.values()) == list(range(count))            # another displacement, another row
    assert cls == [{count}, {count + 1}, {count + 2}]


def test_relative_bias_at_the_size_of_the_paper():
    torch.manual_seed(0)
    backbone = ViT(image_size=224, patch_size=16, dim=48, depth=1, heads=12, positions="relative")
    assert backbone.bias_table.shape == (732, 12) and backbone.bias_table.requires_grad
    nn.init.normal_(backbone.bias_table)
    bias = backbone.relative_bias()
    assert bias.shape == (1, 12, 197, 197)
    grid = bias[0, :, 1:, 1:].view(12, 14, 14, 14, 14)             # head, query row and column, key row and column
    assert torch.equal(grid[:, :10, :10, :10, :10], grid[:, 4:, 3:13, 4:, 3:13])    # all displaced alike
    assert not torch.equal(grid[:, 5, 5, 2, 3], grid[:, 2, 3, 5, 5])
    assert bias.is_contiguous() and bias.to(torch.bfloat16).stride() == (12 * 197 * 197, 197 * 197, 197, 1)
    assert "bias_index" not in backbone.state_dict() and getattr(backbone, "pos_embed", None) is None
    assert ViT(**SMALL).relative_bias() is None


# ---------------------------------------------------------------------------------------------------- initial weights

def test_xavier_sees_q_k_and_v_apart():
    torch.manual_seed(0)
    backbone = init_xavier(ViT(**SMALL | dict(dim=96))).requires_grad_(False)
    block, projection = backbone.blocks[1], backbone.patch_embed.proj
    for weight, fans in ((block.attn.qkv.weight, 96 + 96), (block.attn.proj.weight, 96 + 96), (block.mlp.fc1.weight, 96 + 384),
                         (block.mlp.fc2.weight, 96 + 384), (projection.weight, 3 * 64 + 96)):
        bound = math.sqrt(6 / fans)
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.03) and weight.mean().abs() < 0.03 * bound
    assert block.attn.qkv.weight.abs().max() > math.sqrt(6 / (96 + 3 * 96))         # what one matrix for all three would have
    for bias in (block.attn.qkv.bias, block.attn.proj.bias, block.mlp.fc1.bias, block.mlp.fc2.bias, projection.bias):
        assert not bias.any()
    assert 0 < backbone.cls_token.std() < 1e-5


# Standard deviation of a normal of 0.02 cut off at one standard deviation: 0.02 sqrt(1 - 2 phi(1) / (Phi(1) - Phi(-1))).
NARROW = 0.02 * math.sqrt(1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(1 / math.sqrt(2)))


def test_truncated_shrinks_with_depth():
    torch.manual_seed(0)
    backbone = init_truncated(ViT(**SMALL | dict(dim=96, depth=4, mask_token=True))).requires_grad_(False)
    for depth, block in enumerate(backbone.blocks, start=1):
        for weight, divisor in ((block.attn.qkv.weight, 1), (block.mlp.fc1.weight, 1),
                                (block.attn.proj.weight, math.sqrt(2 * depth)), (block.mlp.fc2.weight, math.sqrt(2 * depth))):
            assert weight.std() == pytest.approx(NARROW / divisor, rel=0.04)
            assert 0.0199 < weight.abs().max() * divisor <= 0.020001 and weight.mean().abs() < 0.001
        assert not block.attn.qkv.bias.any() and not block.mlp.fc2.bias.any()
    projection = backbone.patch_embed.proj
    assert projection.weight.std() == pytest.approx(NARROW, rel=0.04) and not projection.bias.any()
    for token in (backbone.cls_token, backbone.mask_token):
        assert token.std() == pytest.approx(NARROW, rel=0.3) and token.abs().max() <= 0.02


def test_normal_is_as_wide_at_every_depth():
    torch.manual_seed(0)
    backbone = init_normal(ViT(**SMALL | dict(dim=96, depth=4, mask_token=True))).requires_grad_(False)
    for block in backbone.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            assert layer.weight.std() == pytest.approx(0.02, rel=0.04) and layer.weight.mean().abs() < 0.001
            assert not layer.bias.any()
    bound = 1 / math.sqrt(3 * 64)                                  # of PyTorch's convolution
    assert 0.98 * bound < backbone.patch_embed.proj.weight.abs().max() <= bound
    assert backbone.cls_token.std() == pytest.approx(0.02, rel=0.3)


def test_fused_attention_is_handed_a_bias_in_one_piece(monkeypatch):
    """Under autocast too, which casts the bias to bf16: CUDA's fused kernels refuse one whose last stride is not 1."""
    backbone, seen = small(positions="relative"), []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(*arguments, attn_mask=None, **options):
        seen.append(attn_mask)
        return real(*arguments, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            backbone(images())
    assert len(seen) == 6 and all(bias.stride()[-1] == 1 and bias.to(torch.bfloat16).is_contiguous() for bias in seen)


def test_drop_path_rises_to_its_rate():
    rates = [block.drop_path1.drop_prob if isinstance(block.drop_path1, nn.Module) and hasattr(block.drop_path1, "drop_prob")
             else 0.0 for block in ViT(**SMALL, drop_path=0.2).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


# -------------------------------------------------------------------------------------------------------- wrong input

@pytest.mark.parametrize(("wrong", "said"), [
    (dict(positions="rotary"), "no positions 'rotary'; choose one of sincos, relative, learned"),
    (dict(image_size=33), "do not divide into patches of 8; try 32 pixels"),
    (dict(image_size=8, patch_size=16), "try 16 pixels"),
    (dict(dim=50), "does not divide into 4 heads"),
    (dict(dim=42, heads=2), "multiple of 4"),
])
def test_wrong_arguments_are_named(wrong, said):
    with pytest.raises(CourseError, match=said):
        ViT(**SMALL | wrong)


def test_unknown_name_is_named():
    with pytest.raises(CourseError, match="no model 'vit_enormous'; choose one of vit_nano"):
        create("vit_enormous")
