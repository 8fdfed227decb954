"""MAE's decoder: tokens at their places, blocks against timm's, initial weights and names against the published ones."""
import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lib.errors import CourseError
from lib.models.decoder import MAEDecoder
from lib.models.vit import sincos_positions

CLOSE = dict(rtol=0, atol=1e-5)
VISIBLE = torch.tensor([[0, 5, 15], [2, 3, 4], [1, 8, 14]])


def small(**changes) -> MAEDecoder:
    """A small decoder whose every parameter is away from its start."""
    torch.manual_seed(0)
    decoder = MAEDecoder(**dict(grid=(4, 4), patch_size=2, encoder_dim=24, dim=32, depth=2, heads=4) | changes)
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return decoder


def encoded(n: int = 4, dim: int = 24) -> torch.Tensor:
    return torch.randn(3, n, dim, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------------------------ places

def test_tokens_stand_at_their_places():
    """A decoder whose embedding is the identity: every token and position can be seen in the input of the blocks."""
    decoder = small(encoder_dim=32)
    decoder.embed.weight.data, decoder.embed.bias.data = torch.eye(32), torch.zeros(32)
    tokens = encoded(dim=32)
    found = decoder.intermediates(tokens, VISIBLE)["input"]
    positions = sincos_positions((4, 4), 32)
    assert found.shape == (3, 17, 32)
    for b in range(3):
        torch.testing.assert_close(found[b, 0], tokens[b, 0], **CLOSE)             # CLS has no position
        places = VISIBLE[b].tolist()
        for n in range(16):
            token = tokens[b, 1 + places.index(n)] if n in places else decoder.mask_token[0, 0]
            torch.testing.assert_close(found[b, 1 + n], token + positions[n], **CLOSE)


def test_tokens_are_brought_to_the_width_of_the_decoder():
    decoder, tokens = small(), encoded()
    found = decoder.intermediates(tokens, VISIBLE)["input"] - decoder.pos_embed
    expected = (tokens.double() @ decoder.embed.weight.double().T + decoder.embed.bias.double()).float()
    torch.testing.assert_close(found[:, 0], expected[:, 0], **CLOSE)
    torch.testing.assert_close(found[:, 1:].take_along_dim(VISIBLE[..., None], 1), expected[:, 1:], **CLOSE)


def test_the_order_in_which_visible_patches_come_does_not_matter():
    decoder, tokens = small(), encoded()
    shuffled = tokens[:, [0, 3, 1, 2]]
    torch.testing.assert_close(decoder(shuffled, VISIBLE[:, [2, 0, 1]]), decoder(tokens, VISIBLE), **CLOSE)
    assert (decoder(shuffled, VISIBLE) - decoder(tokens, VISIBLE)).abs().max() > 1e-2      # but it goes with the numbers


def test_positions_are_fixed():
    decoder = small()
    assert "pos_embed" in decoder.state_dict() and "pos_embed" not in dict(decoder.named_parameters())
    assert torch.equal(decoder.pos_embed[0, 1:], sincos_positions((4, 4), 32)) and not decoder.pos_embed[0, 0].any()


# ------------------------------------------------------------------------------------------------------------ blocks

def test_blocks_are_those_of_timm_and_names_those_of_its_depths():
    decoder = small()
    theirs = VisionTransformer(img_size=8, patch_size=2, embed_dim=32, depth=2, num_heads=4, num_classes=0)
    theirs.blocks.load_state_dict(decoder.blocks.state_dict(), strict=True)
    theirs.norm.load_state_dict(decoder.norm.state_dict(), strict=True)
    named = decoder.intermediates(encoded(), VISIBLE)
    assert list(named) == ["input", "block1", "block2", "norm"] and all(x.shape == (3, 17, 32) for x in named.values())
    first = theirs.blocks[0](named["input"])
    second = theirs.blocks[1](first)
    for name, expected in (("block1", first), ("block2", second), ("norm", theirs.norm(second))):
        torch.testing.assert_close(named[name], expected, **CLOSE)
    pixels = named["norm"][:, 1:] @ decoder.pred.weight.T + decoder.pred.bias
    torch.testing.assert_close(decoder(encoded(), VISIBLE), pixels, **CLOSE)
    assert pixels.shape == (3, 16, 12)
    norms = [module for module in decoder.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 5 and all(norm.eps == 1e-6 for norm in norms)


def test_every_token_has_a_say_and_all_weights_learn():
    decoder, tokens = small(), encoded().requires_grad_()
    decoder(tokens, VISIBLE)[:, 7].square().sum().backward()                       # of a patch that nobody shows
    assert (tokens.grad.abs().amax(2) > 0).all()                                   # CLS too
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in decoder.parameters())


def test_without_hidden_places_there_is_no_mask_token():
    decoder = small()
    decoder(encoded(17), torch.arange(16).expand(3, -1)).square().sum().backward()
    assert not decoder.mask_token.grad.any()


# --------------------------------------------------------------------------------------- initial weights, names, sizes

def test_initial_weights():
    torch.manual_seed(0)
    decoder = MAEDecoder((4, 4), 8, encoder_dim=96, dim=128, depth=2, heads=4).requires_grad_(False)
    linears = [module for module in decoder.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 2 + 2 * 4
    for linear in linears:
        bound = math.sqrt(6 / (linear.in_features + linear.out_features))
        assert 0.99 * bound < linear.weight.abs().max() <= bound
        assert linear.weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert linear.bias is not None and not linear.bias.any()
    assert decoder.mask_token.std() == pytest.approx(0.02, rel=0.2) and decoder.mask_token.mean().abs() < 0.006
    assert torch.equal(decoder.norm.weight, torch.ones(128)) and not decoder.norm.bias.any()


def test_names_and_size_are_the_published_ones():
    """254 names and 111.9 million numbers in the released file with the decoder, of which the encoder has 150."""
    with torch.device("meta"):
        weights = MAEDecoder((14, 14), 16, encoder_dim=768).state_dict()
    assert len(weights) == 254 - 150
    assert sum(weight.numel() for weight in weights.values()) + 85_798_656 == pytest.approx(111.9e6, abs=0.05e6)
    assert {"mask_token", "pos_embed", "embed.weight", "blocks.7.attn.qkv.bias", "norm.weight", "pred.weight"} <= set(weights)
    assert weights["pred.weight"].shape == (768, 512) and weights["mask_token"].shape == (1, 1, 512)
    assert weights["pos_embed"].shape == (1, 197, 512)


@pytest.mark.parametrize(("wrong", "said"), [
    (dict(dim=36, heads=8), "a decoder of width 36 does not divide into 8 heads"),
    (dict(dim=30, heads=5), "multiple of 4, got 30"),
])
def test_wrong_widths_are_named(wrong, said):
    with pytest.raises(CourseError, match=said):
        small(**wrong)
