"""Projectors, predictors and the pixel decoder."""
from itertools import pairwise

import pytest
import torch
from torch import nn

from lib.distributed import BatchNorm
from lib.models.heads import PixelDecoder, mlp
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
