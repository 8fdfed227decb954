"""DINO against a slow formulation of its own, number by number in float64; the teacher, its centre, and collapse."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F

from lib import random
from lib.data.shapes import Shapes
from lib.data.views import PLAIN, ViewRecipe, make_view
from lib.errors import CourseError
from lib.evaluation.features import extract
from lib.models.heads import PrototypeHead
from lib.models.vit import ViT, init_xavier
from lib.objectives import distillation
from lib.objectives.distillation import DINO, distillation_loss

N = 4                                                              # images in a batch


def objective(drop_path: float = 0.0, positions: str = "sincos", **changes) -> DINO:
    """Images of 16 pixels in patches of 4, local crops of 8."""
    torch.manual_seed(0)
    backbone = init_xavier(ViT(16, 4, dim=24, depth=2, heads=2, drop_path=drop_path, positions=positions))
    return DINO(backbone, **dict(hidden=16, bottleneck=8, prototypes=12, local_crops=3, local_size=8) | changes)


def stirred(**changes) -> DINO:
    """In float64, student and teacher far apart, no parameter or centre at its start."""
    model = objective(**changes).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        model.center.copy_(0.3 * torch.randn(12))
    return model


def batch(local_crops: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    views = {f"global{k}": torch.randn(N, 3, 16, 16, generator=g).to(dtype) for k in (1, 2)}
    if local_crops:
        views["local"] = torch.randn(local_crops * N, 3, 8, 8, generator=g).to(dtype)
    return views


# ------------------------------------------------------------------------------------- an independent, slow formulation

def slow_head(head: PrototypeHead, rows: list[list[float]]) -> list[list[float]]:
    """Cosines with the prototypes: rows (D numbers) in, rows (K numbers) out."""
    for k in (0, 2, 4):
        weight, bias = head.mlp[k].weight.tolist(), head.mlp[k].bias.tolist()
        rows = [[sum(w * x for w, x in zip(line, row, strict=True)) + b for line, b in zip(weight, bias, strict=True)]
                for row in rows]
        if k < 4:
            rows = [[x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in row] for row in rows]
    return [[sum(x * y for x, y in zip(row, line, strict=True))
             / math.sqrt(sum(x * x for x in row) * sum(y * y for y in line)) for line in head.prototypes.weight.tolist()]
            for row in rows]


def slow_scores(backbone: ViT, head: PrototypeHead, images: torch.Tensor) -> list[list[float]]:
    return slow_head(head, backbone.forward_features(images)[:, 0].tolist())


def slow_softmax(scores: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(s / temperature) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def slow_entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def slow_loss(model: DINO, views: dict[str, torch.Tensor], temperature: float) -> tuple[float, float, float, int]:
    """-> loss, entropy, spread, and how many pairs of crops were compared for each image."""
    crops = [views["global1"], views["global2"], *(views["local"].split(N) if "local" in views else [])]
    answers = [[slow_softmax(row, model.student_temperature) for row in
                slow_scores(model.student_backbone, model.student_head, crop)] for crop in crops]
    center = model.center.tolist()
    targets = [[slow_softmax([s - c for s, c in zip(row, center, strict=True)], temperature)
                for row in slow_scores(model.backbone, model.teacher_head, crop)] for crop in crops[:2]]
    terms = [-sum(p * math.log(q) for p, q in zip(targets[t][i], answers[s][i], strict=True))
             for i in range(N) for t in range(2) for s in range(len(crops)) if s != t]
    flat = [p for view in targets for p in view]
    entropy = sum(slow_entropy(p) for p in flat) / len(flat)
    spread = slow_entropy([sum(column) / len(flat) for column in zip(*flat, strict=True)])
    return sum(terms) / len(terms), entropy / math.log(12), spread / math.log(12), len(terms) // N


@pytest.mark.parametrize("local_crops", [0, 1, 3])
@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.1), (0.2, 0.2), (0.9, 0.3)])
def test_loss_against_the_slow_formulation(local_crops, progress, temperature):
    model = stirred(local_crops=local_crops, student_temperature=0.4, teacher_temperature_start=0.1, teacher_temperature=0.3,
                    teacher_warmup=0.4, momentum=0.9)
    model.begin_step(progress)
    views = batch(local_crops)
    loss, entropy, spread, pairs = slow_loss(model, views, temperature)
    found, logs = model.loss(views)
    assert found.item() == pytest.approx(loss, abs=1e-10) and pairs == 2 * (2 + local_crops) - 2
    assert logs["entropy"].item() == pytest.approx(entropy, abs=1e-10)
    assert logs["spread"].item() == pytest.approx(spread, abs=1e-10)
    assert entropy < spread - 0.01


@pytest.mark.parametrize("crops", [2, 3, 10])
def test_every_pair_of_different_crops_counts_once(crops):
    """Student crop s costs 10^s under any answer, so the digits of the sum count the pairs it was in."""
    student = -(10.0 ** torch.arange(crops, dtype=torch.float64)).view(crops, 1, 1).expand(crops, 5, 7)
    teacher = torch.rand(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = distillation_loss(student, teacher / teacher.sum(-1, keepdim=True))
    assert round(loss.item() * (2 * crops - 2)) == int("2" * (crops - 2) + "11")


def test_loss_at_known_points():
    k = 8
    uniform, one = torch.full((2, 3, k), 1 / k), F.one_hot(torch.tensor([[0, 1, 2]] * 2), k).float()
    assert distillation_loss(uniform.log(), uniform).item() == pytest.approx(math.log(k), rel=1e-6)
    assert distillation_loss(uniform.log(), one).item() == pytest.approx(math.log(k), rel=1e-6)
    assert distillation_loss((0.99 * one + 0.01 * uniform).log(), one).item() == pytest.approx(-math.log(0.99125), rel=1e-5)


def test_local_crops_reach_the_student_alone():
    model, views = stirred(), batch()
    sizes = {"student": [], "teacher": []}
    model.student_backbone.register_forward_pre_hook(lambda _, x: sizes["student"].append(tuple(x[0].shape)))
    model.backbone.register_forward_pre_hook(lambda _, x: sizes["teacher"].append(tuple(x[0].shape)))
    model.loss(views)
    assert sizes == {"student": [(2 * N, 3, 16, 16), (3 * N, 3, 8, 8)], "teacher": [(2 * N, 3, 16, 16)]}
    with pytest.raises(CourseError, match="takes normalised float images"):    # the teacher keeps to one size
        model.backbone(views["local"])


# --------------------------------------------------------------------------------------------------------------- views

def test_prepare_makes_views_keyed_on_the_sample():
    images, keys = Shapes("train", 32, length=6).images(torch.arange(6)), random.combine(0, "views", 0, torch.arange(6))
    model = objective()
    views = model.prepare(images, keys)
    assert {name: tuple(x.shape) for name, x in views.items()} == {
        "global1": (6, 3, 16, 16), "global2": (6, 3, 16, 16), "local": (18, 3, 8, 8)}
    part = model.prepare(images[4:], keys[4:])
    torch.testing.assert_close(part["global2"], views["global2"][4:], rtol=0, atol=1e-5)
    torch.testing.assert_close(part["local"], views["local"].view(3, 6, 3, 8, 8)[:, 4:].flatten(0, 1), rtol=0, atol=1e-5)
    crops = [views["global1"], views["global2"], *views["local"].split(6)]
    for a in range(5):
        for b in range(a):
            if crops[a].shape == crops[b].shape:                   # each draws for itself
                assert (crops[a] - crops[b]).abs().amax((1, 2, 3)).min() > 0.1
    assert set(objective(local_crops=0).prepare(images, keys)) == {"global1", "global2"}


def test_every_kind_of_view_has_its_own_recipe():
    images, keys = Shapes("train", 32, length=3).images(torch.arange(3)), torch.arange(3)
    inverted, grey = ViewRecipe(ratio=(1.0, 1.0), solarize=1.0), ViewRecipe(ratio=(1.0, 1.0), grayscale=1.0)
    views = objective(global_views=(PLAIN, inverted), local_view=grey).prepare(images, keys)
    for name, recipe, size in (("global1", PLAIN, 16), ("global2", inverted, 16), ("local", grey, 8)):
        assert torch.equal(views[name][:3], make_view(images, recipe, size, keys)), name


# -------------------------------------------------------------------------------------------------------------- centre

def test_centre_against_a_loop():
    model = stirred(center_momentum=0.7)
    expected = model.center.tolist()
    for seed in (1, 2):
        views = batch(seed=seed)
        scores = [row for k in (1, 2) for row in slow_scores(model.backbone, model.teacher_head, views[f"global{k}"])]
        expected = [0.7 * c + 0.3 * sum(column) / len(scores) for c, column in zip(expected, zip(*scores, strict=True),
                                                                                   strict=True)]
        model.loss(views)
        assert model.center.tolist() == pytest.approx(expected, abs=1e-12)
    model.eval()
    model.loss(batch(seed=3))
    assert model.center.tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(model.state_dict()["center"], model.center)                # a resumed run goes on with it


def test_centre_is_moved_after_the_loss():
    model, views = stirred(center_momentum=0.0), batch()
    before = slow_loss(model, views, 0.04)[0]
    assert model.loss(views)[0].item() == pytest.approx(before, abs=1e-10)
    assert abs(model.loss(views)[0].item() - before) > 1e-3


def test_statistics_are_those_of_all_processes(monkeypatch):
    """Another process, whose teacher has scores of 0 and always names the last prototype."""
    model, views = stirred(center_momentum=0.0), batch()
    alone = copy.deepcopy(model)
    _, logs = alone.loss(views)
    last = F.one_hot(torch.tensor(11), 12).double()
    answers = iter([torch.zeros(12).double(), last])
    monkeypatch.setattr(distillation.distributed, "mean", lambda x: (x.detach() + next(answers)) / 2)
    center, found = model.center.clone(), model.loss(views)[1]
    torch.testing.assert_close(model.center, alone.center / 2)
    scores = model.teacher_head(model.backbone(torch.cat([views["global1"], views["global2"]])))
    mean = (F.softmax((scores - center) / 0.04, 1).mean(0) + last) / 2
    assert found["spread"].item() == pytest.approx(slow_entropy(mean.tolist()) / math.log(12), abs=1e-10)
    assert abs(found["spread"] - logs["spread"]) > 0.01 and found["entropy"] == logs["entropy"]


# ------------------------------------------------------------------------------------------------- student and teacher

def test_teacher_carries_no_gradient_and_every_weight_of_the_student_does():
    model = stirred()
    model.loss(batch())[0].backward()
    student = [*model.student_backbone.named_parameters(prefix="student_backbone"),
               *model.student_head.named_parameters(prefix="student_head")]
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in student} - {"student_backbone.pos_embed"}
    for name, p in model.named_parameters():
        assert (p.grad is not None) == (name in trainable), name
        assert name not in trainable or p.grad.abs().max() > 1e-12, name


def test_average_against_a_loop():
    model = stirred(momentum=0.9)
    before = copy.deepcopy(model)
    model.begin_step(0.25)
    m = 1 - 0.1 * (1 + math.cos(math.pi / 4)) / 2
    for teacher, student in (("backbone", "student_backbone"), ("teacher_head", "student_head")):
        for (name, slow), old, fast in zip(getattr(model, teacher).named_parameters(), getattr(before, teacher).parameters(),
                                           getattr(before, student).parameters(), strict=True):
            expected = [m * o + (1 - m) * f for o, f in zip(old.flatten().tolist(), fast.flatten().tolist(), strict=True)]
            assert slow.flatten().tolist() == pytest.approx(expected, abs=1e-12), name
        unmoved = zip(getattr(model, student).parameters(), getattr(before, student).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in unmoved)
    still = copy.deepcopy(model.backbone.state_dict())
    model.begin_step(1.0)                                          # at the end the teacher stands still
    assert all(torch.equal(x, still[name]) for name, x in model.backbone.state_dict().items())


def test_teacher_begins_as_the_student_and_is_what_is_evaluated():
    model, source = objective(), Shapes("val", 16, length=8)
    assert all(torch.equal(a, b) for a, b in zip(model.backbone.parameters(), model.student_backbone.parameters(), strict=True))
    with torch.no_grad():
        model.student_backbone.norm.weight.mul_(2)
    assert not torch.equal(*(extract(net, source)[0] for net in (model.student_backbone, model.backbone)))
    assert torch.equal(extract(model.backbone.eval(), source)[0], extract(objective().student_backbone.eval(), source)[0])


def test_only_the_student_drops_paths():
    model, x = objective(drop_path=0.9), batch(dtype=torch.float32)["global1"]
    student, teacher = ([net(x) for _ in range(4)] for net in (model.student_backbone, model.backbone))
    assert all(torch.equal(teacher[0], again) for again in teacher)
    assert any(not torch.equal(student[0], again) for again in student)
    assert torch.equal(model.student_backbone.eval()(x), teacher[0])


@pytest.mark.parametrize(("freeze", "progress", "frozen"), [(0.0, 0.0, False), (0.3, 0.0, True), (0.3, 0.29, True),
                                                            (0.3, 0.3, False), (1.0, 0.99, True)])
def test_prototypes_stand_still_during_freeze_last(freeze, progress, frozen):
    model, free = stirred(freeze_last=freeze), stirred()
    for m in (model, free):
        m.begin_step(progress)
    loss, expected = (m.loss(batch())[0] for m in (model, free))
    loss.backward()
    expected.backward()
    assert loss == expected                                        # only gradients differ, and only those of the prototypes
    for (name, p), q in zip(model.named_parameters(), free.parameters(), strict=True):
        if name == "student_head.prototypes.weight":
            assert [id(still) for still in model.resting()] == [id(p)] * frozen
            assert p.grad is not None and bool((p.grad == 0).all()) == frozen
        elif p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def test_temperature_rises_along_a_line():
    model = objective(teacher_temperature_start=0.02, teacher_temperature=0.06, teacher_warmup=0.5)
    assert model.temperature == pytest.approx(0.02)                # before the first step too
    for progress, expected in ((0, 0.02), (0.125, 0.03), (0.25, 0.04), (0.5, 0.06), (0.8, 0.06), (1, 0.06)):
        model.begin_step(progress)
        assert model.temperature == pytest.approx(expected)
    constant = objective(teacher_temperature_start=0.02, teacher_temperature=0.06)
    constant.begin_step(0)
    assert constant.temperature == 0.06


def test_loss_is_float32_under_autocast():
    model = objective().eval()
    exact, _ = model.loss(batch(dtype=torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        loss, logs = model.loss(batch(dtype=torch.float32))
    assert {x.dtype for x in (loss, *logs.values())} == {torch.float32}
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.parametrize(("wrong", "message"), [
    (dict(positions="relative"), "positions 'sincos'"), (dict(local_size=10), "crops of 10 pixels"),
    (dict(prototypes=1), "at least 2, got 1"),
])
def test_bad_input_is_named_in_one_line(wrong, message):
    with pytest.raises(CourseError, match=message) as error:
        objective(**wrong)
    assert "\n" not in str(error.value)


def test_without_local_crops_their_bounds_do_not_matter():
    objective(positions="relative", local_crops=0, local_size=10).loss(batch(0, torch.float32))


# ------------------------------------------------------------------------------------------------------------ collapse

class OwnTeacher(DINO):
    """The student is its own teacher, and the gradient flows through both."""

    def loss(self, batch):
        answers = self.student_head(self.student_backbone(torch.cat([batch["global1"], batch["global2"]])))
        targets = F.softmax((answers - self.center) / self.temperature, dim=1)
        self.center.lerp_(answers.detach().mean(0), 1 - self.center_momentum)
        loss = distillation_loss(F.log_softmax(answers / self.student_temperature, dim=1).unflatten(0, (2, -1)),
                                 targets.unflatten(0, (2, -1)))
        entropies = torch.special.entr(torch.cat([targets, targets.mean(0, keepdim=True)])).sum(1) / math.log(32)
        return loss, {"entropy": entropies[:-1].mean(), "spread": entropies[-1]}


def train(kind: type[DINO] = DINO, steps: int = 40, **changes) -> tuple[float, float]:
    """Entropy and spread of the teacher's answers over the last 5 steps."""
    torch.manual_seed(0)
    settings = dict(hidden=32, bottleneck=16, prototypes=32, teacher_temperature=0.02, momentum=0.95, center_momentum=0.5,
                    local_crops=1, local_size=8)
    model = kind(init_xavier(ViT(16, 4, dim=24, depth=2, heads=2)), **settings | changes)
    world, learned = Shapes("train", 16, difficulty="medium"), [p for p in model.parameters() if p.requires_grad]
    optimizer, history = torch.optim.AdamW(learned, lr=3e-3), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, step / 10)
        model.begin_step(step / steps)
        indices = torch.arange(32) + 32 * step
        loss, logs = model.loss(model.prepare(world.images(indices), random.combine(0, indices)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 0.3)
        optimizer.step()
        history.append((logs["entropy"].item(), logs["spread"].item()))
    return tuple(torch.tensor(history[-5:]).mean(0).tolist())


def test_it_does_not_collapse_with_its_safeguards():
    entropy, spread = train()
    assert entropy < 0.65 and spread > 0.4 and spread - entropy > 0.2


def test_without_centring_one_prototype_takes_all():
    entropy, spread = train(center_momentum=1.0)                   # the centre stays at 0
    assert spread < 0.25 and entropy < 0.1


def test_without_sharpening_all_prototypes_are_alike():
    entropy, spread = train(teacher_temperature=0.2)               # the student's is 0.1
    assert entropy > 0.95 and spread > 0.95


def test_without_a_stopped_gradient_the_answer_forgets_the_image():
    entropy, spread = train(OwnTeacher)
    assert spread - entropy < 0.05
