"""MoCo v3 against a slow formulation of its own, sample by sample in float64; the momentum encoder; collapse."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import random
from lib.data.shapes import Shapes
from lib.models.vit import ViT, init_xavier
from lib.objectives.contrastive import MoCoV3, info_nce


def objective(**changes) -> MoCoV3:
    torch.manual_seed(0)
    return MoCoV3(init_xavier(ViT(16, 4, dim=24, depth=2, heads=2)), **dict(hidden=32, dim=16) | changes)


def batch(n: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {view: torch.randn(n, 3, 16, 16, generator=g) for view in ("view1", "view2")}


# ------------------------------------------------------------------------------------- an independent, slow formulation

def slow_head(head: nn.Sequential, rows: list[list[float]]) -> list[list[float]]:
    """An MLP with batch norm, number by number: rows of the batch in, rows out."""
    for layer in head:
        if isinstance(layer, nn.Linear):
            weight = layer.weight.double().tolist()
            rows = [[sum(w * x for w, x in zip(line, row, strict=True)) for line in weight] for row in rows]
        elif isinstance(layer, nn.ReLU):
            rows = [[max(x, 0.0) for x in row] for row in rows]
        else:
            columns = []
            for k, column in enumerate(zip(*rows, strict=True)):
                mean = sum(column) / len(column)
                variance = sum((x - mean) ** 2 for x in column) / len(column)
                scale, shift = (layer.weight[k].item(), layer.bias[k].item()) if layer.affine else (1.0, 0.0)
                columns.append([(x - mean) / math.sqrt(variance + layer.eps) * scale + shift for x in column])
            rows = [list(row) for row in zip(*columns, strict=True)]
    return rows


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def slow_info_nce(queries: list[list[float]], keys: list[list[float]], temperature: float) -> float:
    total = 0.0
    for i, query in enumerate(queries):
        logits = [cosine(query, key) / temperature for key in keys]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[i]
    return 2 * temperature * total / len(queries)


def test_keys_are_the_same_whenever_they_are_asked_for():
    """The momentum encoder makes targets: it drops no paths, in train mode either. The online one does."""
    torch.manual_seed(0)
    model = MoCoV3(init_xavier(ViT(16, 4, dim=24, depth=2, heads=2, drop_path=0.9)), hidden=32, dim=16).train()
    online, momentum = ([net(batch()["view1"]) for _ in range(4)] for net in (model.backbone, model.momentum_backbone))
    assert all(torch.equal(momentum[0], again) for again in momentum)
    assert any(not torch.equal(online[0], again) for again in online)


def test_logits_are_float32_under_autocast():
    """A product of cosines in bf16, with 8 bits, over a temperature of 0.05 would be wrong in the second digit."""
    g = torch.Generator().manual_seed(0)
    keys = torch.randn(32, 16, generator=g)
    queries = keys + 0.5 * torch.randn(32, 16, generator=g)
    full, _ = info_nce(queries, keys, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = info_nce(queries, keys, 0.05)
        assert (queries @ keys.T).dtype == torch.bfloat16          # what autocast would have made of it
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(full.item(), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_loss_against_the_slow_formulation(temperature):
    model = objective(temperature=temperature)
    with torch.no_grad():
        for p in [*model.momentum_backbone.parameters(), *model.momentum_projector.parameters(), *model.predictor.parameters(),
                  *model.projector.parameters()]:
            p.add_(0.05 * torch.randn_like(p))                     # no two networks alike, no batch norm at its start
    views = batch()
    cls = {(net, v): getattr(model, net).forward_features(views[v])[:, 0].double().tolist()
           for net in ("backbone", "momentum_backbone") for v in views}
    query = {v: slow_head(model.predictor, slow_head(model.projector, cls["backbone", v])) for v in views}
    key = {v: slow_head(model.momentum_projector, cls["momentum_backbone", v]) for v in views}
    expected = (slow_info_nce(query["view1"], key["view2"], temperature)
                + slow_info_nce(query["view2"], key["view1"], temperature))
    loss, logs = model.loss(views)
    assert loss.item() == pytest.approx(expected, abs=2e-5)
    found = [max(range(8), key=lambda j: cosine(q, key[b][j])) == i
             for a, b in (("view1", "view2"), ("view2", "view1")) for i, q in enumerate(query[a])]
    assert logs["accuracy"].item() == pytest.approx(sum(found) / 16)
    units = torch.tensor(key["view1"], dtype=torch.float64)
    units = units / units.square().sum(1, keepdim=True).sqrt()
    assert logs["spread"].item() == pytest.approx((units.std(0).mean() * 4).item(), abs=1e-5)


def test_info_nce_at_known_points():
    keys = torch.eye(4)
    perfect, accuracy = info_nce(3 * keys, keys, 0.2)
    assert perfect.item() == pytest.approx(0.4 * math.log(1 + 3 * math.exp(-5)), rel=1e-5) and accuracy == 1
    blind, _ = info_nce(torch.ones(4, 4), keys, 0.2)               # all keys equally near: the entropy of a guess
    assert blind.item() == pytest.approx(0.4 * math.log(4), rel=1e-6)
    wrong, accuracy = info_nce(keys, keys.roll(1, 0), 0.2)
    assert wrong.item() == pytest.approx(0.4 * (5 + math.log(1 + 3 * math.exp(-5))), rel=1e-5) and accuracy == 0


def test_spread_is_0_when_all_keys_are_one():
    model = objective()
    same = {view: x[:1].expand(8, -1, -1, -1) for view, x in batch().items()}
    assert model.loss(same)[1]["spread"] < 1e-3 < 0.5 < model.loss(batch())[1]["spread"]


def test_prepare_makes_two_different_views_keyed_on_the_sample():
    model, images = objective(), Shapes("train", 32, length=6).images(torch.arange(6))
    keys = random.combine(0, "views", 0, torch.arange(6))
    views = model.prepare(images, keys)
    assert list(views) == ["view1", "view2"] and all(v.shape == (6, 3, 16, 16) for v in views.values())
    assert (views["view1"] - views["view2"]).abs().amax((1, 2, 3)).min() > 0.1
    part = model.prepare(images[3:], keys[3:])
    torch.testing.assert_close(part["view2"], views["view2"][3:], rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------ the momentum encoder

def test_keys_carry_no_gradient():
    model = objective()
    model.loss(batch())[0].backward()
    momentum = [*model.momentum_backbone.parameters(), *model.momentum_projector.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in momentum)
    assert all(p.grad is not None for p in [*model.projector.parameters(), *model.predictor.parameters()])
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.backbone.blocks.parameters())


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_patches_do_not_learn(freeze):
    model = objective(freeze_patches=freeze)
    model.loss(batch())[0].backward()
    assert all((p.grad is None) == freeze for p in model.backbone.patch_embed.parameters())
    assert torch.equal(model.momentum_backbone.patch_embed.proj.weight, model.backbone.patch_embed.proj.weight)


def test_average_against_a_loop():
    model = objective(momentum=0.9)
    with torch.no_grad():
        for p in [*model.backbone.parameters(), *model.projector.parameters()]:
            p.add_(torch.randn_like(p))
    before = copy.deepcopy(model)
    model.begin_step(0.25)
    m = 1 - 0.1 * (1 + math.cos(math.pi / 4)) / 2
    for net in ("backbone", "projector"):
        for (name, slow), old, fast in zip(getattr(model, f"momentum_{net}").named_parameters(),
                                           getattr(before, f"momentum_{net}").parameters(),
                                           getattr(before, net).parameters(), strict=True):
            expected = [m * o + (1 - m) * f for o, f in zip(old.flatten().tolist(), fast.flatten().tolist(), strict=True)]
            assert slow.flatten().tolist() == pytest.approx(expected, abs=1e-6), name
        assert all(torch.equal(a, b) for a, b in zip(getattr(model, net).parameters(), getattr(before, net).parameters(),
                                                     strict=True))
    model.begin_step(1.0)                                          # at the end nothing moves
    again = copy.deepcopy(model.momentum_backbone.state_dict())
    model.begin_step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(again.values(), model.momentum_backbone.state_dict().values(), strict=True))


def test_only_parameters_are_averaged():
    model = objective()
    for _ in range(3):
        model.loss(batch())
    running = model.momentum_projector[1].running_mean.clone()
    with torch.no_grad():
        model.projector[1].running_mean.add_(7)
    model.begin_step(0)
    assert torch.equal(model.momentum_projector[1].running_mean, running)


def test_keys_come_from_the_average_of_this_step():
    """begin_step comes before the loss: with momentum 0 the keys are those of the online network, whatever they were."""
    model = objective(momentum=0.0)
    with torch.no_grad():
        for p in [*model.backbone.parameters(), *model.projector.parameters()]:
            p.add_(torch.randn_like(p))
    before = model.loss(batch())[0]
    model.begin_step(0.0)
    for a, b in zip(model.momentum_backbone.parameters(), model.backbone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert (model.loss(batch())[0] - before).abs() > 1e-3


# ------------------------------------------------------------------------------------------------------------ collapse

def train(negatives: bool, batch_norm: bool, steps: int = 30) -> float:
    """Spread after some steps. Without negatives one trainable branch makes both views and only their cosine counts."""
    model, world = objective(), Shapes("train", 16, difficulty="medium")
    if not batch_norm:                                             # which would hold keys apart by itself
        model.projector = nn.Linear(24, 16, bias=False)
        model.momentum_projector = copy.deepcopy(model.projector).requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        model.begin_step(step / steps)
        indices = torch.arange(32) + 32 * step
        views = model.prepare(world.images(indices), random.combine(0, indices))
        if negatives:
            loss, logs = model.loss(views)
            spread = logs["spread"]
        else:
            a, b = (F.normalize(model.projector(model.backbone.forward_features(views[v])[:, 0]), dim=1) for v in views)
            loss, spread = -(a * b).sum(1).mean(), a.std(0).mean() * 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return spread.item()


def test_it_collapses_without_its_safeguards():
    assert train(negatives=True, batch_norm=True) > 0.5
    kept, collapsed = (train(negatives, batch_norm=False) for negatives in (True, False))
    assert collapsed < 0.1 < 0.3 < kept
