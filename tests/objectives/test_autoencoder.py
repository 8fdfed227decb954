"""MAE against a slow formulation of its own: one image at a time, heads and pixels in loops, in float64."""
import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from lib import random
from lib.data.shapes import Shapes
from lib.data.views import MAE_VIEW, ViewRecipe, make_view
from lib.errors import CourseError
from lib.models.vit import ViT, init_xavier, sincos_positions
from lib.objectives.masked import MAE, SimMIM, patch_statistics, patchify

CLOSE = dict(rtol=0, atol=1e-5)


def objective(**changes) -> MAE:
    """Images of 16 pixels, 4 x 4 patches of which 12 are masked."""
    torch.manual_seed(0)
    backbone = init_xavier(ViT(16, 4, dim=24, depth=2, heads=2))
    return MAE(backbone, **dict(decoder_dim=16, decoder_depth=2, decoder_heads=2) | changes)


def stirred(**changes) -> MAE:
    """In float64, no parameter at its start, so that none is 0 or 1 by chance."""
    model = objective(**changes).double()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn_like(p))
    return model


def batch(model: MAE, n: int = 4) -> dict[str, torch.Tensor]:
    indices = torch.arange(n)
    made = model.prepare(Shapes("train", 16, difficulty="hard").images(indices), random.combine("test", indices))
    return made | {"view": made["view"].to(next(model.parameters()).dtype)}


def pixels_of(mask: torch.Tensor) -> torch.Tensor:
    """Patches of 4 x 4 pixels that are masked -> pixels: (B, 16) -> (B, 1, 16, 16)."""
    return mask.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)


# ------------------------------------------------------------------------------------- an independent, slow formulation

def slow_norm(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    mean = x.sum(1, keepdim=True) / x.shape[1]
    variance = ((x - mean) ** 2).sum(1, keepdim=True) / x.shape[1]
    return (x - mean) / (variance + 1e-6).sqrt() * norm.weight + norm.bias


def slow_block(block: nn.Module, x: torch.Tensor, keys: list[int], heads: int) -> torch.Tensor:
    """One block on one image: x (T, D); every token asks, only `keys` answer."""
    q, k, v = (slow_norm(block.norm1, x) @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=1)
    width, answers = x.shape[1] // heads, torch.zeros_like(x)
    for h in range(heads):
        own = slice(h * width, (h + 1) * width)
        for t in range(len(x)):
            weights = [math.exp(float(q[t, own] @ k[j, own]) / math.sqrt(width)) for j in keys]
            answers[t, own] = sum(w * v[j, own] for w, j in zip(weights, keys, strict=True)) / sum(weights)
    x = x + answers @ block.attn.proj.weight.T + block.attn.proj.bias
    hidden = slow_norm(block.norm2, x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


@torch.no_grad()
def slow_prediction(model: MAE, view: torch.Tensor, mask: list[bool]) -> torch.Tensor:
    """(3, 16, 16) -> (16, 48). The encoder runs on all patches, but no token hears of a masked one."""
    vit, decoder = model.backbone, model.decoder
    weight = vit.patch_embed.proj.weight                                           # (D, 3, 4, 4)
    patches = [(weight * view[:, y:y + 4, x:x + 4]).sum((1, 2, 3)) + vit.patch_embed.proj.bias
               for y in range(0, 16, 4) for x in range(0, 16, 4)]
    places = sincos_positions((4, 4), 24).double()
    tokens = torch.stack([vit.cls_token[0, 0], *(patch + place for patch, place in zip(patches, places, strict=True))])
    visible = [n for n in range(16) if not mask[n]]
    for block in vit.blocks:
        tokens = slow_block(block, tokens, [0, *(1 + n for n in visible)], heads=2)
    tokens = slow_norm(vit.norm, tokens)

    places = sincos_positions((4, 4), 16).double()
    entered = [tokens[0] @ decoder.embed.weight.T + decoder.embed.bias]
    for n in range(16):
        token = decoder.mask_token[0, 0] if mask[n] else tokens[1 + n] @ decoder.embed.weight.T + decoder.embed.bias
        entered.append(token + places[n])
    tokens = torch.stack(entered)
    for block in decoder.blocks:
        tokens = slow_block(block, tokens, list(range(17)), heads=2)
    return slow_norm(decoder.norm, tokens)[1:] @ decoder.pred.weight.T + decoder.pred.bias


def slow_target(view: torch.Tensor, n: int, normalize: bool) -> list[float]:
    y, x = n // 4 * 4, n % 4 * 4
    pixels = [view[c, y + row, x + column].item() for row in range(4) for column in range(4) for c in range(3)]
    if not normalize:
        return pixels
    mean = sum(pixels) / 48
    variance = sum((pixel - mean) ** 2 for pixel in pixels) / 47
    return [(pixel - mean) / math.sqrt(variance + 1e-6) for pixel in pixels]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("ratio", [0.75, 0.4])
def test_loss_against_the_slow_formulation(normalize, ratio):
    model = stirred(normalize_target=normalize, mask_ratio=ratio)
    inputs = batch(model, 2)
    of_patches = []
    for view, mask in zip(inputs["view"], inputs["mask"].tolist(), strict=True):
        predicted = slow_prediction(model, view, mask)
        torch.testing.assert_close(model.predict(view[None], torch.tensor([mask]))[0], predicted, rtol=0, atol=1e-9)
        for n in range(16):
            if mask[n]:
                target = slow_target(view, n, normalize)
                errors = [(p - t) ** 2 for p, t in zip(predicted[n].tolist(), target, strict=True)]
                of_patches.append(sum(errors) / 48)
    assert len(of_patches) == 2 * {0.75: 12, 0.4: 7}[ratio]
    loss, logs = model.loss(inputs)
    assert loss.item() == pytest.approx(sum(of_patches) / len(of_patches), rel=1e-10)
    assert logs == {}


def test_targets_against_a_loop():
    view = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    view[0, :, :4, 4:8] = 0.5                                      # one colour: the target is 0, not nan
    patches = patchify(view, 4)
    mean, std = patch_statistics(patches)
    assert mean.shape == std.shape == (2, 16, 1)
    for b in range(2):
        for n in range(16):
            expected = torch.tensor(slow_target(view[b], n, True), dtype=torch.float64)
            torch.testing.assert_close(((patches - mean) / std)[b, n], expected, rtol=0, atol=1e-9)
    assert std[0, 1] == pytest.approx(1e-3) and not ((patches - mean) / std)[0, 1].any()


@pytest.mark.parametrize("normalize", [True, False])
def test_units_of_the_loss(normalize):
    """A decoder that says 0: the loss is the variance within a patch, about 1, or else the mean square of the pixels."""
    model = objective(normalize_target=normalize).requires_grad_(False)
    model.decoder.pred.weight.zero_()
    inputs = batch(model)
    hidden = pixels_of(inputs["mask"]).expand_as(inputs["view"])
    twice = inputs | {"view": 2 * inputs["view"]}
    if normalize:
        assert model.loss(inputs)[0].item() == pytest.approx(47 / 48, rel=1e-3)
        assert model.loss(twice)[0].item() == pytest.approx(47 / 48, rel=1e-3)
    else:
        assert model.loss(inputs)[0].item() == pytest.approx(inputs["view"][hidden].square().mean().item(), rel=1e-5)
        assert model.loss(twice)[0].item() == pytest.approx(4 * model.loss(inputs)[0].item(), rel=1e-5)


# --------------------------------------------------------------------------------------------------------------- masks

@pytest.mark.parametrize("ratio", ["0.75", "0.5", "0.4", "0.9", "0.6"])
@pytest.mark.parametrize("side", [4, 6, 12, 14])
def test_visible_patches_are_counted_as_published(side, ratio):
    keys = random.combine("counted", torch.arange(20))
    model = MAE(ViT(2 * side, 2, dim=8, depth=1, heads=1), float(ratio), decoder_dim=8, decoder_depth=1, decoder_heads=1)
    mask = model.prepare(torch.zeros(20, 3, 16, 16, dtype=torch.uint8), keys)["mask"]
    kept = int(side**2 * (1 - Fraction(ratio)))                    # the part after the point is dropped
    assert mask.dtype == torch.bool and ((~mask).sum(1) == kept).all()
    visible, masked = model.split(mask)
    assert visible.shape == (20, kept) and masked.shape == (20, side**2 - kept)


def test_the_paper_sees_49_of_196_patches():
    with torch.device("meta"):
        model = MAE(ViT(224, 16, dim=8, depth=1, heads=1), decoder_dim=8, decoder_depth=1, decoder_heads=1)
    assert 196 - model.masked == 49


def test_split_against_a_loop():
    model = objective()
    mask = batch(model, 8)["mask"]
    visible, masked = model.split(mask)
    for b in range(8):
        assert visible[b].tolist() == [n for n in range(16) if not mask[b, n]]
        assert masked[b].tolist() == [n for n in range(16) if mask[b, n]]


def test_patches_are_masked_alike_and_in_pairs():
    model, keys = objective(), random.combine("uniform", torch.arange(8000))
    masks = model.prepare(torch.zeros(8000, 3, 16, 16, dtype=torch.uint8), keys)["mask"].double()
    error = 5 * 0.5 / 8000**0.5
    assert (masks.mean(0) - 0.75).abs().max() < error
    together = masks.T @ masks / 8000
    pairs = together[~torch.eye(16, dtype=torch.bool)]             # 12 of 16 without replacement: 12/16 x 11/15
    assert (pairs - 0.75 * 11 / 15).abs().max() < error


def test_prepare_is_keyed_on_the_sample():
    model = objective()
    images, keys = Shapes("train", 24).images(torch.arange(6)), random.combine("p", torch.arange(6))
    both, part = model.prepare(images, keys), model.prepare(images[4:], keys[4:])
    assert both["view"].shape == (6, 3, 16, 16) and both["mask"].shape == (6, 16)
    assert torch.equal(both["mask"][4:], part["mask"])
    torch.testing.assert_close(both["view"][4:], part["view"], **CLOSE)
    assert len({tuple(mask.tolist()) for mask in both["mask"]}) == 6
    torch.testing.assert_close(both["view"], make_view(images, MAE_VIEW, 16, random.combine(keys, 1)), **CLOSE)


def test_views_are_crops_and_flips_as_published():
    assert MAE_VIEW == ViewRecipe(scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)
    assert objective().view == MAE_VIEW


def test_same_keys_hide_the_same_patches_from_simmim():
    simmim = SimMIM(ViT(16, 4, dim=24, depth=1, heads=2, mask_token=True), mask_ratio=0.75, mask_cell=1)
    images, keys = torch.zeros(5, 3, 16, 16, dtype=torch.uint8), random.combine("both", torch.arange(5))
    assert torch.equal(objective().prepare(images, keys)["mask"], simmim.prepare(images, keys)["mask"])


# ----------------------------------------------------------------------------------------------------- who sees what

def test_predictions_do_not_know_what_is_masked():
    model = stirred()
    inputs = batch(model)
    view, mask, hidden = inputs["view"], inputs["mask"], pixels_of(inputs["mask"])
    said = model.predict(view, mask)
    assert torch.equal(model.predict(torch.where(hidden, torch.randn_like(view), view), mask), said)
    seen = model.predict(torch.where(hidden, view, view + 1), mask)
    assert (seen - said).abs().amax(2).min() > 1e-4                # every patch, in every image


def test_the_encoder_gets_visible_patches_and_cls_alone():
    model = objective()
    inputs, lengths = batch(model), {}
    for name, network in (("encoder", model.backbone), ("decoder", model.decoder)):
        network.blocks[0].register_forward_pre_hook(lambda block, args, name=name: lengths.update({name: args[0].shape}))
    model.loss(inputs)
    assert lengths == {"encoder": (4, 1 + 4, 24), "decoder": (4, 1 + 16, 16)}


def test_visible_patches_are_not_predicted():
    model = stirred()
    inputs, kept = batch(model), {}
    model.decoder.norm.register_forward_hook(lambda module, _, tokens: (tokens.retain_grad(), kept.update(tokens=tokens))[0])
    model.loss(inputs)[0].backward()
    influence = kept["tokens"].grad.abs().sum(2)                                                 # (4, 17)
    assert (influence[:, 1:][inputs["mask"]] > 0).all()
    assert not influence[:, 1:][~inputs["mask"]].any() and not influence[:, 0].any()


def test_gradient_reaches_encoder_and_decoder():
    model = stirred()
    model.loss(batch(model))[0].backward()
    for name, p in model.named_parameters():
        assert name == "backbone.pos_embed" or (p.grad is not None and p.grad.abs().max() > 0), name
    assert model.backbone.pos_embed.grad is None


def test_visible_patches_may_come_in_any_order():
    model = stirred()
    inputs = batch(model)
    expected, split = model.loss(inputs)[0], model.split
    model.split = lambda mask: (split(mask)[0].flip(1), split(mask)[1].roll(3, 1))
    assert model.loss(inputs)[0].item() == pytest.approx(expected.item(), rel=1e-12)


def test_bf16_counts_in_float32():
    model = objective()
    inputs = batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.loss(inputs)
        assert model.predict(inputs["view"], inputs["mask"]).dtype == model.reconstruct(inputs).dtype == torch.float32
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(model.loss(inputs)[0].item(), rel=0.02)


# ------------------------------------------------------------------------------------------------------ reconstruction

@pytest.mark.parametrize("normalize", [True, False])
def test_reconstruction_fills_in_what_was_said(normalize):
    model = stirred(normalize_target=normalize)
    inputs = batch(model)
    view, filled, said = inputs["view"], model.reconstruct(inputs), model.predict(inputs["view"], inputs["mask"])
    assert filled.shape == view.shape and not filled.requires_grad
    for b in range(4):
        for n in range(16):
            y, x = n // 4 * 4, n % 4 * 4
            pixels, truth = (picture[b, :, y:y + 4, x:x + 4].permute(1, 2, 0).flatten() for picture in (filled, view))
            if not inputs["mask"][b, n]:
                assert torch.equal(pixels, truth)
            elif normalize:
                deviation = (((truth - truth.mean()) ** 2).sum() / 47 + 1e-6).sqrt()
                torch.testing.assert_close(pixels, said[b, n] * deviation + truth.mean(), rtol=0, atol=1e-9)
            else:
                torch.testing.assert_close(pixels, said[b, n], rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_perfect_prediction_costs_nothing_and_gives_the_view_back(normalize):
    model = stirred(normalize_target=normalize)
    inputs = batch(model)
    truth = torch.tensor([[slow_target(view, n, normalize) for n in range(16)] for view in inputs["view"]], dtype=torch.float64)
    model.decoder.forward = lambda tokens, visible: truth
    assert model.loss(inputs)[0] < 1e-15
    torch.testing.assert_close(model.reconstruct(inputs), inputs["view"], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- the safeguard

def train(leak: bool, steps: int = 80) -> float:
    """Loss of the last steps; with a leak the encoder gets the patches that are asked for."""
    model, world = objective(decoder_dim=32), Shapes("train", 16, length=640, difficulty="hard")
    if leak:
        split = model.split
        model.split = lambda mask: (torch.arange(16).expand(len(mask), -1), split(mask)[1])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3, betas=(0.9, 0.95))
    images, losses = world.images(torch.arange(640)), []
    for step in range(steps):
        indices = torch.arange(32) + 32 * (step % 20)
        loss, _ = model.loss(model.prepare(images[indices], random.combine(step, indices)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


def test_masking_is_what_makes_it_hard():
    assert train(leak=True) < 0.6 * train(leak=False)


# -------------------------------------------------------------------------------------------------------- wrong input

@pytest.mark.parametrize(("wrong", "said"), [
    (dict(mask_ratio=0.0), "between 0 and 1, got 0"), (dict(mask_ratio=1.0), "between 0 and 1, got 1"),
    (dict(mask_ratio=0.99), "hides all 16 cells"),
    (dict(decoder_dim=20, decoder_heads=8), "width 20 does not divide into 8 heads"),
])
def test_wrong_arguments_are_named(wrong, said):
    with pytest.raises(CourseError, match=said):
        objective(**wrong)


def test_relative_positions_are_refused():
    with pytest.raises(CourseError, match="positions 'sincos', got 'relative'"):
        MAE(ViT(16, 4, dim=24, depth=1, heads=2, positions="relative"))


@pytest.mark.parametrize("mask", [torch.ones(4, 15, dtype=torch.bool), torch.ones(4, 16), torch.ones(16, dtype=torch.bool)])
def test_masks_of_another_kind_are_named(mask):
    model = objective()
    with pytest.raises(CourseError, match=r"a mask is bool \(B, 16\), got torch"):
        model.loss(batch(model) | {"mask": mask})


def test_views_of_another_size_are_named():
    model = objective()
    with pytest.raises(CourseError, match=r"\(B, 3, 16, 16\), got torch.float32 \(4, 3, 20, 20\)"):
        model.predict(torch.zeros(4, 3, 20, 20), batch(model)["mask"])
