"""Spectra against a full singular-value decomposition of numpy's covariance, at covariances that are known, and in pieces."""
import numpy as np
import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib import distributed
from lib.analysis.recording import Layout, mean_and_error, record
from lib.analysis.spectra import ImageSpectrum, TokenSpectrum, token_spectrum
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError

SMALL = dict(img_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=3, num_classes=0)
MODELS = {
    "cls": lambda: VisionTransformer(**SMALL),
    "distilled": lambda: VisionTransformerDistilled(**SMALL),
    "wide, no prefix": lambda: VisionTransformer(**SMALL | {"embed_dim": 24}, class_token=False, global_pool="avg"),
}


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_spectrum(rows: torch.Tensor) -> torch.Tensor:
    """ln of the singular values of the covariance of rows (n, D), as many as can differ from 0."""
    values = np.linalg.svd(np.cov(rows.double().numpy(), rowvar=False), compute_uv=False)
    return torch.from_numpy(np.log(values[:min(len(rows) - 1, rows.shape[1])]))


def with_variances(variances: list[float], n: int, channels: int) -> torch.Tensor:
    """n rows whose covariance has these eigenvalues and no others, around a mean that is not 0."""
    left = torch.linalg.qr(torch.cat([torch.ones(n, 1).double(), gaussian(n, len(variances))], dim=1)).Q[:, 1:]
    right = torch.linalg.qr(gaussian(channels, len(variances), seed=1)).Q
    return 3 + (left * torch.tensor(variances).double().mul(n - 1).sqrt()) @ right.mT


def image_spectrum(batches: list[torch.Tensor], prefix: int = 0) -> torch.Tensor:
    """Of tokens at one depth, batch after batch: (min(D, images - 1),)."""
    metric = ImageSpectrum()
    metric.start(Layout(prefix, (1, batches[0].shape[1] - prefix), (4, 4), 0))
    for tokens in batches:
        metric.update(0, tokens)
    return metric.compute()["image_spectrum"][0]


def stream(backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Tokens at depths 0, 0.5, 1, ..., from the modules themselves, one block at a time."""
    with torch.no_grad():
        x = backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(images))))
        found = [x]
        for block in backbone.blocks:
            x = x + block.attn(block.norm1(x))
            found.append(x)
            x = x + block.mlp(block.norm2(x))
            found.append(x)
    return found


def close(a, b, tolerance=1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance, check_dtype=False)


# ---------------------------------------------------------------------------------------------------- against numpy

@pytest.mark.parametrize(("patches", "channels"), [(6, 10), (10, 6), (2, 3), (9, 9), (5, 1)])
def test_token_spectrum_against_a_full_decomposition(patches, channels):
    tokens = 1 + gaussian(3, patches, channels)
    found = token_spectrum(tokens)
    assert found.shape == (3, min(patches - 1, channels))
    for image in range(3):
        expected = slow_spectrum(tokens[image]) if channels > 1 else tokens[image].var(0).log()
        close(found[image], expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("images", [5, 30])
def test_metrics_against_a_full_decomposition(name, images):
    torch.manual_seed(0)
    backbone = MODELS[name]().double().eval()
    source, prefix = Shapes("val", 16, length=images), backbone.num_prefix_tokens
    expected = stream(backbone, normalize(source.images(torch.arange(images))).double())
    found = record(backbone, source, [TokenSpectrum(), ImageSpectrum()], batch_size=4)
    width = backbone.embed_dim
    assert set(found) == {"token_spectrum", "image_spectrum"}
    assert found["token_spectrum"].shape == (images, 5, min(15, width))
    assert found["image_spectrum"].shape == (5, min(images - 1, width))
    for depth, tokens in enumerate(expected):
        patches = tokens[:, prefix:]
        close(found["image_spectrum"][depth], slow_spectrum(torch.stack([image.mean(0) for image in patches])), 1e-7)
        for image in range(images):
            close(found["token_spectrum"][image, depth], slow_spectrum(patches[image]), 1e-7)


def test_single_precision_is_enough():
    torch.manual_seed(0)
    backbone, source = MODELS["cls"]().eval(), Shapes("val", 16, length=20)
    metrics = [TokenSpectrum(), ImageSpectrum()]
    single, double = record(backbone, source, metrics), record(backbone.double(), source, metrics)
    for name in single:
        close(single[name], double[name], 1e-2)
        assert single[name].dtype == torch.float64


# ------------------------------------------------------------------------------------------------------ known points

@pytest.mark.parametrize(("n", "channels"), [(20, 8), (8, 20)])
def test_given_variances_come_back(n, channels):
    variances = [100.0, 2.0, 0.5, 1e-4]
    rows = with_variances(variances, n, channels)
    for found in (token_spectrum(rows[None])[0], image_spectrum([rows[:, None]])):
        close(found[:4], torch.tensor(variances).double().log())
        assert found[4:].isnan().all() and len(found) == min(n - 1, channels)      # the rest is rounding


def test_the_levels_do_not_see_each_other():
    """What the tokens of an image share is nothing to the token level, what sums to 0 in it nothing to the image level."""
    shared, own = gaussian(7, 1, 4), gaussian(7, 5, 4, seed=1)
    own = own - own.mean(1, keepdim=True)
    close(token_spectrum(shared + own), token_spectrum(own))
    close(image_spectrum([shared + own]), image_spectrum([shared]))
    assert token_spectrum(shared.expand(-1, 5, -1)).isnan().all()
    assert image_spectrum([own]).isnan().all()


def test_prefix_tokens_are_left_out():
    tokens = gaussian(7, 5, 4)
    odd = torch.cat([1000 * gaussian(7, 2, 4, seed=1), tokens], dim=1)
    torch.testing.assert_close(image_spectrum([odd], prefix=2), image_spectrum([tokens]))


def test_the_mean_ends_with_the_shortest_spectrum():
    tokens = torch.stack([with_variances(v, 10, 6) for v in ([8.0, 4.0, 2.0], [8.0, 4.0])])
    mean, _ = mean_and_error(token_spectrum(tokens))
    close(mean[:2], torch.tensor([8.0, 4.0]).double().log())
    assert mean[2:].isnan().all()


# -------------------------------------------------------------------------------------------------------- rounding noise

@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_rounding_makes_is_cut_off(dtype):
    """Two directions of tokens far from 0: rounding fills all others, with variances that float64 sees well."""
    eps = torch.finfo(dtype).eps
    rows = 100 + with_variances([4e4, 4e2], 30, 12)
    rounded = rows.to(dtype)
    filled = slow_spectrum(rounded)
    assert (filled[2:] > np.log(1e-3 * eps**2 * 1e4)).all()        # an SVD finds full rank
    for found in (token_spectrum(rounded[None])[0], image_spectrum([rounded[:, None]])):
        close(found[:2], torch.tensor([4e4, 4e2]).log(), 0.2)
        assert found[2:].isnan().all()


def test_no_more_is_cut_off_than_rounding_could_make():
    variances = [1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10]
    rows = with_variances(variances, 30, 12) - 3
    for found in (token_spectrum(rows.float()[None])[0], image_spectrum([rows.float()[:, None]])):
        close(found[:6], torch.tensor(variances).log(), 1e-2)


# ------------------------------------------------------------------------------------------------- batches and processes

@pytest.mark.parametrize("sizes", [[1] * 9, [2, 2, 5], [8, 1]])
def test_batches_add_up(sizes):
    tokens = 10 + gaussian(9, 5, 6)
    close(image_spectrum(list(tokens.split(sizes))), slow_spectrum(tokens.mean(1)))


def test_processes_add_up(monkeypatch):
    tokens, parts = 10 + gaussian(9, 5, 6), []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "mean", lambda x: parts.append(x) or x)
    image_spectrum([tokens[1::2]])                                 # the other process: what it puts into the three means
    monkeypatch.setattr(distributed, "mean", lambda x: (x + parts.pop(0)) / 2)
    close(image_spectrum([tokens[::2]]), slow_spectrum(tokens.mean(1)))
    assert parts == []


def test_a_second_run_starts_afresh():
    torch.manual_seed(0)
    backbone, metric = MODELS["cls"]().eval(), ImageSpectrum()
    first = record(backbone, Shapes("val", 16, length=6), [metric])["image_spectrum"]
    torch.testing.assert_close(record(backbone, Shapes("val", 16, length=6), [metric])["image_spectrum"], first)


# ------------------------------------------------------------------------------------------------------------ bad input

def test_one_of_a_kind_does_not_vary():
    with pytest.raises(CourseError, match=r"^1 image\(s\), which do not vary; .* at least 2"):
        image_spectrum([gaussian(1, 5, 4)])
    with pytest.raises(CourseError, match=r"^1 patch token\(s\) in an image, which do not vary; .* at least 2"):
        token_spectrum(gaussian(5, 1, 4))
    assert image_spectrum([gaussian(2, 5, 4)]).shape == (1,) and token_spectrum(gaussian(5, 2, 4)).shape == (5, 1)
