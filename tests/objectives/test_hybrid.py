"""The hybrid: a weighted sum, and its parents at the ends of λ, to the last bit."""
import copy

import pytest
import torch

from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.models.vit import ViT, init_xavier
from lib.objectives.contrastive import MoCoV3
from lib.objectives.hybrid import Hybrid
from lib.objectives.masked import SimMIM
from lib.training.build import build
from lib.training.recipes import recipe
from lib.training.trainer import Trainer

SHARED = dict(images=48, epochs=2, batch_size=8, image_size=16, patch_size=4, model="vit_nano", warmup_epochs=0.5, knn_every=0,
              learning_rate=2e-3, clip_norm=1.0, init="xavier", drop_path=0.1, log_every=1, device="cpu")
CL, MIM = dict(hidden=32, dim=16, momentum=0.9, freeze_patches=False, crop_min=0.3), dict(mask_cell=1)


@pytest.fixture(scope="module")
def source():
    torch.set_num_threads(1)
    return Loaded(open_source("shapes", "train", 16, limit=48))


def trained(source, objective: str, **changes) -> Trainer:
    trainer = Trainer(recipe(objective, "smoke", **SHARED | changes), source)
    trainer.run()
    return trainer


@pytest.mark.parametrize(("weight", "parent", "settings"), [(1.0, "mocov3", CL), (0.0, "simmim", MIM | dict(crop_min=0.5))])
def test_the_ends_are_the_parents(source, weight, parent, settings):
    alone = trained(source, parent, **settings)
    both = CL | MIM | (dict(mim_crop_min=0.5) if parent == "simmim" else {})
    ours, between = (trained(source, "hybrid", cl_weight=w, **both) for w in (weight, 0.5))
    for name, tensor in alone.objective.backbone.state_dict().items():
        assert torch.equal(tensor, ours.objective.backbone.state_dict()[name]), name
    assert [line["loss"] for line in ours.history] == [line["loss"] for line in alone.history]
    assert len(list(ours.objective.parameters())) == len(list(alone.objective.parameters()))
    assert any(not torch.equal(tensor, between.objective.backbone.state_dict()[name])                 # negative control
               for name, tensor in alone.objective.backbone.state_dict().items())


def halves() -> tuple[MoCoV3, SimMIM]:
    torch.manual_seed(0)
    backbone = init_xavier(ViT(16, 4, dim=24, depth=2, heads=2, mask_token=True))
    masked = SimMIM(backbone, mask_cell=1)
    return MoCoV3(backbone, hidden=32, dim=16, freeze_patches=False), masked


def batch(hybrid: Hybrid, n: int = 8) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return hybrid.prepare(torch.randint(0, 256, (n, 3, 20, 20), dtype=torch.uint8, generator=g), torch.arange(n))


@pytest.mark.parametrize("weight", [0.1, 0.2, 0.4, 0.6, 0.8])
def test_between_is_the_weighted_sum_in_loss_and_gradient(weight):
    contrastive, masked = halves()
    hybrid = Hybrid(weight, contrastive, masked)
    views = batch(hybrid)
    assert set(views) == {"view1", "view2", "view", "mask"}
    apart = {}
    for name, half in (("cl", contrastive), ("mim", masked)):
        hybrid.zero_grad()
        loss, _ = half.loss(views)
        loss.backward()
        apart[name] = loss.item(), [0 if p.grad is None else p.grad.clone() for p in hybrid.parameters()]
    hybrid.zero_grad()
    loss, logs = hybrid(views)
    loss.backward()
    assert loss.item() == pytest.approx((1 - weight) * apart["mim"][0] + weight * apart["cl"][0], rel=1e-6)
    assert (logs["mim"].item(), logs["cl"].item()) == pytest.approx((apart["mim"][0], apart["cl"][0]))
    assert {"accuracy", "spread"} <= set(logs)
    for p, cl, mim in zip(hybrid.parameters(), apart["cl"][1], apart["mim"][1], strict=True):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, (weight * cl + (1 - weight) * mim), rtol=1e-3, atol=1e-6)


def test_contrastive_views_are_not_masked():
    """Only the masked third view meets the mask token, whatever the mask."""
    contrastive, masked = halves()
    hybrid = Hybrid(0.5, contrastive, masked)
    views = batch(hybrid)
    before = {name: value.item() for name, value in hybrid(views)[1].items()}
    with torch.no_grad():
        hybrid.backbone.mask_token.normal_()
    after = hybrid(views)[1]
    assert after["cl"].item() == before["cl"] and abs(after["mim"].item() - before["mim"]) > 1e-4


def test_momentum_encoder_moves():
    contrastive, masked = halves()
    hybrid = Hybrid(0.2, contrastive, masked)
    with torch.no_grad():
        for p in hybrid.backbone.parameters():
            p.add_(1)
    before = copy.deepcopy(contrastive.momentum_backbone.state_dict())
    hybrid.begin_step(0.0)
    assert any(not torch.equal(x, before[name]) for name, x in contrastive.momentum_backbone.state_dict().items())
    Hybrid(0.0, None, masked).begin_step(0.0)


def test_backbone_is_counted_once():
    hybrid = build(recipe("hybrid", "smoke", cl_weight=0.5))
    parents = [build(recipe(name, "smoke", **extra)) for name, extra in (("mocov3", {}), ("simmim", dict(init="xavier")))]
    count = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (hybrid, *parents, hybrid.backbone)]
    assert count[0] == count[1] + count[2] - count[3] + hybrid.backbone.mask_token.numel()


def test_wrong_halves_are_named():
    contrastive, masked = halves()
    other = halves()[1]
    for weight, *parts in ((1.5, contrastive, masked), (0.0, contrastive, masked), (1.0, contrastive, masked),
                           (0.5, None, masked), (0.5, contrastive, None), (0.5, contrastive, other)):
        with pytest.raises(CourseError, match=r"lies between 0 and 1|only those|one backbone"):
            Hybrid(weight, *parts)
    with pytest.raises(CourseError, match="cl_weight"):
        recipe("hybrid", "smoke", cl_weight=1.1)
