"""Projectors, predictors, prototypes and the pixel decoder."""
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from lib.distributed import BatchNorm
from lib.models.heads import PixelDecoder, PrototypeHead, mlp
from lib.objectives.masked import unpatchify


@pytest.mark.parametrize("dims", [[48, 64, 64, 16], [16, 64, 16], [8, 4]])
def test_mlp_is_linear_layers_with_batch_norm(dims):
    head = mlp(dims)
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    norms = [layer for layer in head if isinstance(layer, BatchNorm)]
    assert [layer.weight.shape for layer in linears] == [(b, a) for a, b in pairwise(dims)]
    assert all(layer.bias is None for layer in linears)
    assert [norm.affine for norm in norms] == [True] * (len(norms) - 1) + [False]
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, BatchNorm, nn.ReLU] * (len(dims) - 2) + [nn.Linear, BatchNorm]


def test_mlp_has_the_keys_of_the_official_heads():
    projector, predictor = mlp([8, 16, 16, 4]).state_dict(), mlp([4, 16, 4]).state_dict()
    assert [k for k in projector if k.endswith("weight")] == ["0.weight", "1.weight", "3.weight", "4.weight", "6.weight"]
    assert {"7.running_mean", "7.running_var"} <= set(projector) and "7.weight" not in projector
    assert [k for k in predictor if k.endswith("weight")] == ["0.weight", "1.weight", "3.weight"]


def test_mlp_output_is_normalised_over_the_batch():
    torch.manual_seed(0)
    out = mlp([8, 32, 6])(torch.randn(64, 8) * 5 + 3)
    assert out.shape == (64, 6)
    torch.testing.assert_close(out.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(6), rtol=0, atol=1e-2)


def test_pixel_decoder_is_a_convolution_and_a_pixel_shuffle():
    torch.manual_seed(0)
    p, dim, side = 4, 10, 3
    decoder, convolution = PixelDecoder(dim, p), nn.Conv2d(dim, 3 * p * p, 1)
    # The shuffle reads channel, row, column from the channels of the convolution; ours are row, column, channel.
    order = torch.arange(3 * p * p).view(3, p, p).permute(1, 2, 0).flatten()
    decoder.linear.weight.data = convolution.weight.data[order, :, 0, 0]
    decoder.linear.bias.data = convolution.bias.data[order]
    tokens = torch.randn(2, side * side, dim)
    expected = nn.PixelShuffle(p)(convolution(tokens.mT.reshape(2, dim, side, side)))           # (2, 3, 12, 12)
    assert decoder(tokens).shape == (2, 9, 48)
    torch.testing.assert_close(unpatchify(decoder(tokens), p), expected, rtol=0, atol=1e-5)


def prototype_head() -> PrototypeHead:
    torch.manual_seed(0)
    return PrototypeHead(6, 10, 4, 9)


def test_prototype_head_is_an_mlp_and_cosines():
    head, x = prototype_head().double(), torch.randn(5, 6, dtype=torch.float64)
    with torch.no_grad():
        for layer in head.mlp[::2]:
            layer.bias.normal_()
    linears = [layer for layer in head.mlp if isinstance(layer, nn.Linear)]
    assert [type(layer) for layer in head.mlp] == [nn.Linear, nn.GELU] * 2 + [nn.Linear]
    assert [(layer.in_features, layer.out_features) for layer in linears] == [(6, 10), (10, 10), (10, 4)]
    assert head.prototypes.weight.shape == (9, 4) and head.prototypes.bias is None
    hidden = x
    for k, layer in enumerate(linears):
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = hidden if k == 2 else hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    expected = [[(row @ p / (row @ row).sqrt() / (p @ p).sqrt()).item() for p in head.prototypes.weight] for row in hidden]
    assert [row.tolist() for row in head(x)] == [pytest.approx(row, abs=1e-12) for row in expected]


def test_prototypes_count_by_their_direction_alone():
    head, x = prototype_head(), torch.randn(5, 6)
    before = head(x)
    with torch.no_grad():
        head.prototypes.weight.mul_(torch.linspace(0.1, 10, 9)[:, None])
    torch.testing.assert_close(head(x), before, rtol=0, atol=1e-6)
    with torch.no_grad():
        head.prototypes.weight[3] *= -1                            # negative control
    torch.testing.assert_close(head(x)[:, 3], -before[:, 3], rtol=0, atol=1e-6)


def test_frozen_prototypes_have_a_gradient_of_0_and_the_rest_its_own():
    head, x, weights = prototype_head(), torch.randn(5, 6), torch.randn(5, 9)
    gradients = {}
    for head.frozen in (False, True):
        head.zero_grad()
        (head(x) * weights).sum().backward()
        gradients[head.frozen] = [p.grad.clone() for p in head.parameters()]
    *mlp_free, prototypes_free = gradients[False]
    *mlp_frozen, prototypes_frozen = gradients[True]
    assert torch.equal(prototypes_frozen, torch.zeros(9, 4)) and prototypes_free.abs().max() > 0.01
    assert all(torch.equal(a, b) and a.abs().max() > 0 for a, b in zip(mlp_free, mlp_frozen, strict=True))


def test_cosines_are_float32_under_autocast():
    head, x = prototype_head(), torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out, features = head(x), head.mlp(x)
    assert features.dtype == torch.bfloat16 and out.dtype == torch.float32
    unit = [v / v.norm(dim=1, keepdim=True) for v in (features.double(), head.prototypes.weight.double())]
    torch.testing.assert_close(out.double(), unit[0] @ unit[1].T, rtol=0, atol=1e-6)     # bf16 would be off by 1e-3


@pytest.mark.parametrize(("width", "deviation"), [(32, 0.177), (384, 0.051)])
def test_prototype_head_starts_xavier(width, deviation):
    torch.manual_seed(0)
    head = PrototypeHead(width, width, width, 4)
    for layer in head.mlp[::2]:
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05) and layer.bias.abs().max() == 0
