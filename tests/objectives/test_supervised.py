"""Supervised: soft cross-entropy against a slow formulation; labels that matter."""
import math

import pytest
import torch

from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.models.vit import ViT, init_xavier
from lib.objectives.supervised import Supervised
from lib.training.build import build
from lib.training.recipes import recipe
from lib.training.trainer import Trainer


def objective(**changes) -> Supervised:
    torch.manual_seed(0)
    return Supervised(init_xavier(ViT(16, 4, dim=24, depth=2, heads=2)), **dict(classes=5) | changes)


def given(n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 20, 20), dtype=torch.uint8, generator=g), torch.arange(n), torch.arange(n) % 5


@pytest.mark.parametrize("changes", [dict(), dict(mixup=0.0, cutmix=0.0), dict(mixup=0.0, cutmix=0.0, smoothing=0.0),
                                     dict(pooling="mean"), dict(erase=1.0)])
def test_loss_against_the_slow_formulation(changes):
    model = objective(**changes)
    images, keys, labels = given()
    batch = model.prepare(images, keys, labels)
    tokens = model.backbone.forward_features(batch["view"]).double()
    features = (sum(tokens[:, k] for k in range(1, 17)) / 16 if model.pooling == "mean" else tokens[:, 0]).tolist()
    weight, bias = model.head.weight.double().tolist(), model.head.bias.double().tolist()
    total, right = 0.0, 0
    for feature, target in zip(features, batch["targets"].double().tolist(), strict=True):
        logits = [sum(w * x for w, x in zip(row, feature, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        log_sum = math.log(sum(math.exp(z) for z in logits))
        total -= sum(t * (z - log_sum) for t, z in zip(target, logits, strict=True))
        right += logits.index(max(logits)) == target.index(max(target))
    loss, logs = model.loss(batch)
    assert loss.item() == pytest.approx(total / len(features), abs=1e-5) and logs["accuracy"].item() == pytest.approx(right / 6)
    assert torch.allclose(batch["targets"].sum(1), torch.ones(6))


def test_targets_are_the_labels_smoothed():
    model = objective(mixup=0.0, cutmix=0.0, smoothing=0.1)
    targets = model.prepare(*given())["targets"]
    assert torch.equal(targets.argmax(1), torch.arange(6) % 5)
    assert targets.max().item() == pytest.approx(0.92) and targets.min().item() == pytest.approx(0.02)


def test_mixing_takes_from_the_partner():
    plain, mixed = (objective(mixup=m, cutmix=0.0, smoothing=0.0).prepare(*given()) for m in (0.0, 0.8))
    share = mixed["targets"].gather(1, (torch.arange(6) % 5)[:, None])
    expected = share[..., None, None] * plain["view"] + (1 - share[..., None, None]) * plain["view"].flip(0)
    same = (torch.arange(6) % 5) == (torch.arange(6) % 5).flip(0)          # where the label tells nothing of the share
    torch.testing.assert_close(mixed["view"][~same], expected[~same], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shuffled", [False, True])
def test_labels_matter(shuffled):
    """With the labels of other images the loss stays that of a guess."""
    torch.set_num_threads(1)
    source = Loaded(open_source("shapes", "train", 32, limit=1536, difficulty="easy"))
    if shuffled:
        source.all_labels = source.all_labels[torch.randperm(1536, generator=torch.Generator().manual_seed(0))]
    trainer = Trainer(recipe("supervised", "smoke", batch_size=64, knn_every=0, device="cpu"), source)
    assert trainer.recipe.classes == 10 and trainer.objective.head.out_features == 10
    trainer.run()
    accuracy = trainer.history[-1]["accuracy"]
    assert accuracy < 0.2 if shuffled else accuracy > 0.35


def test_without_classes_nothing_is_built():
    with pytest.raises(CourseError, match="classes"):
        build(recipe("supervised", "smoke"))


def test_erasing_covers_a_part_of_the_views_before_they_are_mixed():
    images, keys, labels = given()
    plain, erased = (objective(mixup=0.0, cutmix=0.0, erase=p).prepare(images, keys, labels)["view"] for p in (0.0, 1.0))
    share = (plain != erased).any(1).float().mean((1, 2))
    assert (share > 0).all() and (share < 0.5).all()
    mixed = objective(mixup=0.8, cutmix=0.0, smoothing=0.0, erase=1.0).prepare(images, keys, labels)
    own = mixed["targets"][1, labels[1]]                               # its partner is the last but one, of another class
    torch.testing.assert_close(mixed["view"][1], own * erased[1] + (1 - own) * erased[-2])
