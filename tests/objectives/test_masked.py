"""SimMIM: masks made of whole cells, and a loss that counts masked pixels only, against loops in float64."""
import math

import pytest
import torch

from lib import random
from lib.data.shapes import Shapes
from lib.errors import CourseError
from lib.models.vit import ViT, init_truncated
from lib.objectives.masked import SimMIM, cell_mask, count_masked, patchify, unpatchify


def objective(**changes) -> SimMIM:
    torch.manual_seed(0)
    return SimMIM(init_truncated(ViT(16, 4, dim=48, depth=2, heads=2, mask_token=True)), **dict(mask_cell=1) | changes)


def batch(model: SimMIM, n: int = 4) -> dict[str, torch.Tensor]:
    indices = torch.arange(n)
    return model.prepare(Shapes("train", 16, difficulty="hard").images(indices), random.combine("test", indices))


# ------------------------------------------------------------------------------------------------------------- patches

def test_patchify_against_loops():
    images, p = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12), 4
    patches = patchify(images, p)
    assert patches.shape == (2, 6, 48)
    for b in range(2):
        for n in range(6):
            for k in range(48):
                row, column, channel = k // 12, k // 3 % 4, k % 3
                assert patches[b, n, k] == images[b, channel, n // 3 * p + row, n % 3 * p + column]


def test_unpatchify_is_the_inverse():
    images = torch.randn(2, 3, 20, 20)
    assert torch.equal(unpatchify(patchify(images, 5), 5), images)


# --------------------------------------------------------------------------------------------------------------- masks

def test_masks_of_the_paper():
    assert count_masked(14, 2, 0.6) == 120                         # 30 of 49 cells of 32 pixels
    masks = cell_mask(random.combine("paper", torch.arange(64)), 14, 2, 0.6)
    assert masks.shape == (64, 196) and masks.dtype == torch.bool
    assert (masks.sum(1) == 120).all()
    cells = masks.view(64, 7, 2, 7, 2).transpose(2, 3).reshape(64, 49, 4)
    assert (cells.all(2) | ~cells.any(2)).all()                    # whole cells
    assert (cells.all(2).sum(1) == 30).all()


@pytest.mark.parametrize(("side", "cell", "ratio"), [(4, 1, 0.6), (4, 2, 0.5), (12, 3, 0.25), (8, 4, 0.7), (6, 2, 0.01)])
def test_every_image_has_the_same_number_of_masked_cells(side, cell, ratio):
    masks = cell_mask(random.combine("n", torch.arange(50)), side, cell, ratio)
    assert (masks.sum(1) == math.ceil(ratio * (side // cell) ** 2) * cell**2).all()
    assert (masks.sum(1) == count_masked(side, cell, ratio)).all()
    grid = masks.view(50, side, side)
    assert torch.equal(grid, grid[:, ::cell, ::cell].repeat_interleave(cell, 1).repeat_interleave(cell, 2))


def test_masks_depend_on_their_key_alone():
    keys = random.combine("keyed", torch.arange(10))
    masks = cell_mask(keys, 8, 2, 0.5)
    assert torch.equal(masks[[7, 2]], cell_mask(keys[[7, 2]], 8, 2, 0.5))
    assert len({tuple(mask.tolist()) for mask in masks}) > 8


def test_cells_are_masked_alike_and_in_pairs():
    masks = cell_mask(random.combine("uniform", torch.arange(8000)), 4, 1, 0.5).double()
    share = masks.mean(0)
    assert (share - 0.5).abs().max() < 5 * 0.5 / 8000**0.5
    together = masks.T @ masks / 8000
    pairs = together[~torch.eye(16, dtype=torch.bool)]             # 8 of 16 without replacement: 8/16 x 7/15
    assert (pairs - 0.5 * 7 / 15).abs().max() < 5 * 0.5 / 8000**0.5


@pytest.mark.parametrize(("side", "cell", "ratio", "said"), [
    (14, 4, 0.6, "14 x 14 patches does not divide into cells of 4 x 4"),
    (4, 1, 0.0, "between 0 and 1, got 0"), (4, 1, 1.0, "between 0 and 1"), (4, 1, float("nan"), "got nan")])
def test_wrong_masks_are_named(side, cell, ratio, said):
    with pytest.raises(CourseError, match=said):
        count_masked(side, cell, ratio)


def test_a_mask_token_is_needed():
    with pytest.raises(CourseError, match="mask_token=True"):
        SimMIM(ViT(16, 4, dim=48, depth=1, heads=2))


# ---------------------------------------------------------------------------------------------------------------- loss

@pytest.mark.parametrize("cell", [1, 2])
def test_loss_against_a_loop_over_masked_pixels(cell):
    model = objective(mask_cell=cell)
    inputs = batch(model)
    tokens = model.backbone.forward_features(inputs["view"], inputs["mask"])[:, 1:]
    predicted = unpatchify(model.decoder(tokens).detach().double(), 4)                           # (4, 3, 16, 16)
    total, count = 0.0, 0
    for b in range(4):
        for y in range(16):
            for x in range(16):
                if inputs["mask"][b, y // 4 * 4 + x // 4]:
                    count += 1
                    total += sum(abs(inputs["view"][b, c, y, x].item() - predicted[b, c, y, x].item()) for c in range(3))
    assert count == 4 * model.masked * 16
    loss, logs = model.loss(inputs)
    assert loss.item() == pytest.approx(total / (count + 1e-5) / 3, rel=1e-5)       # the official normalisation
    assert logs == {}


def test_visible_patches_are_not_predicted():
    model = objective()
    inputs = batch(model)
    kept = {}
    model.backbone.norm.register_forward_hook(lambda module, _, tokens: (tokens.retain_grad(), kept.update(tokens=tokens))[0])
    model.loss(inputs)[0].backward()
    influence = kept["tokens"].grad.abs().sum(2)                                                 # (4, 17)
    assert (influence[:, 1:][inputs["mask"]] > 0).all()
    assert not influence[:, 1:][~inputs["mask"]].any() and not influence[:, 0].any()


def test_target_is_what_lies_under_the_mask():
    model = objective()
    inputs = batch(model)
    perfect = {"view": model.reconstruct(inputs), "mask": inputs["mask"]}           # what it says becomes the truth
    assert model.loss(perfect)[0] < 1e-6 < 0.1 < model.loss(inputs)[0]
    visible = ~inputs["mask"].view(4, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(torch.where(visible, perfect["view"], 0), torch.where(visible, inputs["view"], 0))
    hidden = ~visible.expand_as(perfect["view"])
    distance = (perfect["view"][hidden] - inputs["view"][hidden]).abs().mean().item()
    assert distance == pytest.approx(model.loss(inputs)[0].item(), rel=1e-4)


def test_prepare_is_keyed_on_the_sample():
    model = objective()
    images, keys = Shapes("train", 24).images(torch.arange(6)), random.combine("p", torch.arange(6))
    both, part = model.prepare(images, keys), model.prepare(images[4:], keys[4:])
    assert both["view"].shape == (6, 3, 16, 16) and both["mask"].shape == (6, 16)
    assert torch.equal(both["mask"][4:], part["mask"])
    torch.testing.assert_close(both["view"][4:], part["view"], rtol=0, atol=1e-5)


def train(leak: bool, steps: int = 60) -> float:
    """Loss of the last steps; with a leak the network sees the patches that it is asked for."""
    model, world = objective(), Shapes("train", 16, difficulty="hard")
    if leak:
        forward = model.backbone.forward_features
        model.backbone.forward_features = lambda images, mask: forward(images)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(steps):
        indices = torch.arange(32) + 32 * (step % 20)
        loss, _ = model.loss(model.prepare(world.images(indices), random.combine(step, indices)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


def test_masking_is_what_makes_it_hard():
    assert train(leak=True) < 0.6 * train(leak=False)


def test_a_mask_that_hides_everything_is_refused():
    with pytest.raises(CourseError, match="hides all 4 cells"):
        cell_mask(random.combine("n", torch.arange(2)), side=8, cell=4, ratio=0.9)
