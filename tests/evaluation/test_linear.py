"""Published linear protocols: schedules, SGD and LARS against slow versions of their own; who sees which image, and when."""
import contextlib
import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from lib import random
from lib.data import Loaded
from lib.data.shapes import Shapes
from lib.data.views import make_view
from lib.errors import CourseError
from lib.evaluation import kept, linear
from lib.evaluation.features import extract
from lib.evaluation.linear import (
    PROTOCOLS,
    VIEW,
    Heads,
    adapted,
    hold_out,
    probe_features,
    published_probe,
    schedule,
    train_heads,
    update,
)
from lib.models.vit import ViT


def clusters(n: int, seed: int, noise: float = 0.3, classes: int = 5, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around one centre for each class, the same centres for every seed."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    return centres[labels] + noise * torch.randn(n, dim, generator=g), labels


def accuracy(predicted: torch.Tensor, truth: torch.Tensor) -> float:
    return (predicted == truth).float().mean().item()


# ------------------------------------------------------------------------------------------------- learning rates over time

def test_the_peaks_are_the_published_ones():
    peaks = {name: p.learning_rates[0] * p.batch_size / 256 for name, p in PROTOCOLS.items() if name != "sweep"}
    assert peaks == {"park": 1.0, "mocov3": 12.0, "mae": pytest.approx(6.4), "dino": pytest.approx(0.004)}


def test_what_the_published_protocols_have_and_have_not():
    p = PROTOCOLS
    assert {name: (p[name].epochs, p[name].batch_size, p[name].weight_decays) for name in p if name != "sweep"} == {
        "park": (50, 1024, (0.05,)), "mocov3": (90, 1024, (0.0,)), "mae": (90, 16_384, (0.0,)), "dino": (100, 1024, (0.0,))}
    assert [name for name in p if p[name].augment] == ["mocov3", "mae", "dino"]
    assert {name: p[name].pooling for name in p if p[name].pooling} == {"mae": "cls", "dino": "cls4"}
    assert [name for name in p if p[name].warmup_epochs] == [name for name in p if p[name].trust] == ["mae"]
    assert [name for name in p if p[name].batch_norm] == ["mae", "sweep"]
    assert p["mae"].trust == 0.001 and {p[name].momentum for name in p} == {0.9}


def slow_schedule(name: str, epoch: float, epochs: int) -> float:
    """As the papers' texts say it, a branch for each."""
    if name in ("mocov3", "dino"):                                 # once an epoch
        return 0.5 * (1 + math.cos(math.pi * int(epoch) / epochs))
    if name == "mae":
        warmup = epochs / 9                                        # 10 of 90
        return epoch / warmup if epoch < warmup else 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


@pytest.mark.parametrize("epochs", [None, 18, 1])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_schedule_against_the_slow_one(name, epochs):
    p = adapted(name, 1000, epochs)
    times = [p.epochs * k / 97 for k in range(97)]
    assert [schedule(p, t) for t in times] == pytest.approx([slow_schedule(name, t, p.epochs) for t in times])


def test_schedule_at_known_points():
    mae, mocov3, park = (adapted(name, 10**6) for name in ("mae", "mocov3", "park"))
    assert [schedule(mae, t) for t in (0, 5, 10, 50)] == pytest.approx([0, 0.5, 1, 0.5])
    assert schedule(mocov3, 45.99) == schedule(mocov3, 45) == pytest.approx(0.5) != schedule(mocov3, 46)
    assert (schedule(park, 0), schedule(park, 25)) == (1, pytest.approx(0.5))


def test_a_batch_is_at_most_a_tenth_of_the_images():
    assert [adapted("mae", n).batch_size for n in (1_281_167, 9469, 20)] == [16_384, 946, 2]
    assert adapted("park", 5000).batch_size == 500 and adapted("park", 5000, batch_size=700).batch_size == 700
    assert adapted("mae", 100, epochs=45).warmup_epochs == 5


# ---------------------------------------------------------------------------------------------------------- one step

def test_a_step_is_that_of_pytorchs_sgd_with_a_rate_and_decay_for_each_head():
    torch.manual_seed(0)
    rates, decays = torch.tensor([0.1, 0.5, 2.0]), torch.tensor([0.0, 0.1, 0.03])
    weights = torch.randn(3, 4, 5)
    theirs = [nn.Parameter(w.clone()) for w in weights]
    optimizers = [torch.optim.SGD([w], lr=r.item(), momentum=0.9, weight_decay=d.item())
                  for w, r, d in zip(theirs, rates, decays, strict=True)]
    velocity = torch.zeros_like(weights)
    for _ in range(4):
        gradient = torch.randn(3, 4, 5)
        update(weights, velocity, gradient, rates[:, None, None], decays[:, None, None], 0.9)
        for w, g, optimizer in zip(theirs, gradient, optimizers, strict=True):
            w.grad = g
            optimizer.step()
    torch.testing.assert_close(weights, torch.stack([w.detach() for w in theirs]))


def slow_lars(weights: list[float], velocity: list[float], gradient: list[float], rate: float, decay: float) -> None:
    """LARS for one head, number by number, with trust 0.001 and momentum 0.9."""
    gradient = [g + decay * w for g, w in zip(gradient, weights, strict=True)]
    length, size = (math.sqrt(sum(x * x for x in numbers)) for numbers in (gradient, weights))
    factor = 0.001 * size / length if length > 0 and size > 0 else 1.0
    for k in range(len(weights)):
        velocity[k] = 0.9 * velocity[k] + factor * gradient[k]
        weights[k] -= rate * velocity[k]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_against_scalars(decay):
    torch.manual_seed(0)
    weights, velocity = torch.randn(2, 3, 4, dtype=torch.float64), torch.zeros(2, 3, 4, dtype=torch.float64)
    slow, slow_velocity = weights.flatten(1).tolist(), velocity.flatten(1).tolist()
    for _ in range(5):
        gradient = torch.randn(2, 3, 4, dtype=torch.float64) * torch.tensor([1.0, 100.0])[:, None, None]
        update(weights, velocity, gradient, 6.4, decay, 0.9, trust=0.001)
        for k in range(2):
            slow_lars(slow[k], slow_velocity[k], gradient[k].flatten().tolist(), 6.4, decay)
    torch.testing.assert_close(weights.flatten(1), torch.tensor(slow, dtype=torch.float64), rtol=1e-12, atol=0)


def test_lars_at_known_points():
    weights, velocity = torch.tensor([[[3.0], [4.0]]]), torch.zeros(1, 2, 1)        # of length 5
    update(weights, velocity, torch.tensor([[[0.0], [1e-4]]]), 2.0, 0.0, 0.9, trust=0.001)
    assert weights.flatten().tolist() == [3.0, pytest.approx(4 - 2 * 0.001 * 5)]   # however short the gradient
    zero, still = torch.zeros(1, 2, 1), torch.ones(1, 2, 1)
    update(zero, torch.zeros(1, 2, 1), torch.ones(1, 2, 1), 2.0, 0.0, 0.9, trust=0.001)
    update(still, torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), 2.0, 0.0, 0.9, trust=0.001)
    assert zero.flatten().tolist() == [-2, -2] and still.flatten().tolist() == [1, 1]


# ------------------------------------------------------------------------------------------------------------- the heads

def test_heads_start_as_published():
    heads = Heads(3, 100, 200, True, seed=0)
    assert heads.weights.mean().item() == pytest.approx(0, abs=3e-4)
    assert heads.weights.std().item() == pytest.approx(0.01, rel=0.02)
    share = (heads.weights[0].abs() < 0.01).float().mean().item()
    assert share == pytest.approx(0.6827, abs=0.01)                # of a normal distribution, within one deviation
    assert heads.weights.isfinite().all() and not heads.biases.any()
    assert torch.equal(heads.weights[0], heads.weights[2])
    assert torch.equal(heads.weights, Heads(3, 100, 200, True, 0).weights)
    assert not torch.equal(heads.weights, Heads(3, 100, 200, True, 1).weights)


def test_the_rarest_draws_are_finite_weights(monkeypatch):
    ends = torch.tensor([0.0, 1 - 2**-24])                         # the first and the last number that uniform can give
    monkeypatch.setattr(random, "uniform", lambda key, count: ends.repeat(count // 2))
    assert Heads(1, 2, 4, False, 0).weights.isfinite().all()


def slow_training(features, labels, images, p, rate, decay, seed):
    """One head with PyTorch's own layers in float64; LARS by scalars -> logits for all features."""
    features, classes = features.double(), int(labels.max()) + 1
    start = Heads(1, features.shape[1], classes, False, seed)
    norm = nn.BatchNorm1d(features.shape[1], affine=False, eps=1e-6).double() if p.batch_norm else nn.Identity()
    head = nn.Linear(features.shape[1], classes).double()
    head.weight.data, head.bias.data = start.weights[0].T.double().contiguous(), torch.zeros(classes, dtype=torch.float64)
    optimizer = torch.optim.SGD([{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias]}], lr=1.0,
                                momentum=p.momentum)
    velocity, steps = [0.0] * head.weight.numel(), len(images) // p.batch_size
    for epoch in range(p.epochs):
        order = images[random.permutation(random.combine("linear order", seed, epoch), len(images))]
        for step in range(steps):
            batch = order[step * p.batch_size:(step + 1) * p.batch_size]
            loss = F.cross_entropy(head(norm(features[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            lr = rate * p.batch_size / 256 * schedule(p, epoch + step / steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            if p.trust is not None:
                weights = head.weight.flatten().tolist()
                slow_lars(weights, velocity, head.weight.grad.flatten().tolist(), lr, decay)
                head.weight.data, head.weight.grad = torch.tensor(weights).double().view_as(head.weight), None
            optimizer.step()
    return head(norm.eval()(features)).detach()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_training_against_the_slow_one(name):
    features, labels = clusters(70, 0, noise=1.0)
    images = hold_out(70)[1]
    p = replace(adapted(name, 70, epochs=4, batch_size=15), learning_rates=PROTOCOLS[name].learning_rates[-2:])
    heads = train_heads(lambda epoch, chosen: features[chosen], labels, images, p, 16, seed=3)
    assert not heads.training and not heads.weights.requires_grad
    expected = [slow_training(features, labels, images, p, rate, decay, 3)
                for rate in p.learning_rates for decay in p.weight_decays]
    torch.testing.assert_close(heads(features), torch.stack(expected).float(), rtol=1e-4, atol=1e-4)
    spread = (heads(features)[0] - Heads(1, 16, 5, False, 3)(features)[0]).abs().max()
    assert spread > 0.01                                           # it has moved from its start


def test_only_its_images_are_trained_on_and_all_of_them_in_time():
    features, labels = clusters(50, 0)
    seen = []

    def features_of(epoch, chosen):
        seen.append((epoch, chosen.tolist()))
        return features[chosen]

    images = torch.arange(50)[3::2]                                # 24 images: two batches of 10, four left out
    train_heads(features_of, labels, images, adapted("park", 50, epochs=8, batch_size=10), 16, 0)
    assert [epoch for epoch, _ in seen] == [e for e in range(8) for _ in range(2)]
    assert all(len(chosen) == 10 for _, chosen in seen)
    epochs = [seen[2 * e][1] + seen[2 * e + 1][1] for e in range(8)]
    assert all(len(set(epoch)) == 20 and set(epoch) <= set(images.tolist()) for epoch in epochs)
    assert set().union(*epochs) == set(images.tolist()) and epochs[0] != epochs[1]


def test_lars_learns_when_it_sees_enough():
    features, labels = clusters(200, 0)
    queries, truth = clusters(500, 1)

    def right(rate: float) -> float:
        heads = train_heads(lambda epoch, chosen: features[chosen], labels, torch.arange(200),
                            replace(adapted("mae", 200, 30), learning_rates=(rate,)), 16, 0)
        return accuracy(heads(queries)[0].argmax(1), truth)

    assert right(0.01) < 0.5 < 0.99 < right(50)


# --------------------------------------------------------------------------------------------------- on features that are there

@pytest.mark.parametrize("name", ["park", "sweep"])
def test_separable_classes_are_found(name):
    features, labels = clusters(300, 0)
    queries, truth = clusters(500, 1)
    assert accuracy(probe_features(features, labels, queries, name, epochs=10), truth) > 0.99
    shuffled = labels[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    assert accuracy(probe_features(features, shuffled, queries, name, epochs=10), truth) < 0.5


def test_queries_have_no_say():
    features, labels = clusters(200, 0, noise=2.0)
    queries, _ = clusters(100, 1, noise=2.0)
    whole = probe_features(features, labels, queries, epochs=3)
    parts = torch.cat([probe_features(features, labels, q, epochs=3) for q in (queries[:1], queries[1:])])
    assert torch.equal(whole, parts)
    other = probe_features(features, labels, torch.cat([queries, 1000 * queries]), epochs=3)[:100]
    assert torch.equal(whole, other)


def test_the_winner_is_the_best_on_images_held_out_and_is_trained_again_on_all(monkeypatch):
    features, labels = clusters(100, 0)
    held, kept = hold_out(100)
    assert len(held) == 10 and sorted(held.tolist() + kept.tolist()) == list(range(100))
    calls = []

    def watched(features_of, labels, images, p, dim, seed):
        calls.append((images.tolist(), p.learning_rates, p.weight_decays))
        heads = train_heads(features_of, labels, images, replace(p, epochs=1), dim, seed)
        if len(calls) == 1:                                        # only head 9 knows the held-out images
            heads.weights[:], heads.biases[:] = 0, 0
            heads.weights[9] = torch.linalg.lstsq(heads.norm(features[held]), F.one_hot(labels[held], 5).float()).solution
        return heads

    monkeypatch.setattr(linear, "train_heads", watched)
    probe_features(features, labels, features[:5])
    p = PROTOCOLS["sweep"]
    assert calls == [(kept.tolist(), p.learning_rates, p.weight_decays),
                     (list(range(100)), (p.learning_rates[2],), (p.weight_decays[1],))]     # 9 = 2 * 4 + 1


def test_a_sweep_is_as_good_as_the_best_head_by_lbfgs():
    features, labels = clusters(400, 0, noise=2.5)
    queries, truth = clusters(2000, 1, noise=2.5)
    swept, best = probe_features(features, labels, queries), linear.linear_probe(features, labels, queries)[0]
    assert accuracy(swept, truth) > accuracy(best, truth) - 0.03 > 0.4


def test_scores_rank_the_classes_as_a_slow_softmax_regression_does():
    features, labels = clusters(120, 0, noise=2.0)
    queries, _ = clusters(50, 1, noise=2.0)
    found, decay = linear.linear_scores(features, labels, queries)
    predicted, again = linear.linear_probe(features, labels, queries)
    assert found.shape == (50, 5) and decay == again and torch.equal(found.argmax(1), predicted)
    mean, std = features.double().mean(0), features.double().std(0) + 1e-6
    x, y = ((features - mean) / std).numpy(), labels.numpy()       # of the mean loss, so C = 1 / (N decay)
    slow = LogisticRegression(C=1 / (120 * decay), max_iter=10_000, tol=1e-8).fit(x, y)
    expected = torch.from_numpy(slow.predict_log_proba(((queries - mean) / std).numpy()))
    torch.testing.assert_close(found.double().log_softmax(1), expected, rtol=0.01, atol=0.05)


# ---------------------------------------------------------------------------------------------------------- on a backbone

@pytest.fixture(scope="module")
def sources() -> tuple[Loaded, Loaded]:
    return Loaded(Shapes("train", 20, 60, "easy")), Loaded(Shapes("val", 16, 30, "easy"))


def backbone() -> ViT:
    torch.manual_seed(0)
    return ViT(16, 4, dim=24, depth=2, heads=2, drop_path=0.5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(("depth", "scale"), [(None, None), (1, (0.5, 0.5, 0.5))])
def test_augmented_features_are_those_of_keyed_views(pooling, depth, scale, sources, monkeypatch):
    network, (train, val) = backbone().train(), sources
    caught = []

    def watched(features_of, *rest):
        caught.append(features_of)
        return train_heads(features_of, *rest)

    monkeypatch.setattr(linear, "train_heads", watched)
    published_probe(network, train, val, "mocov3", pooling, depth, epochs=1, seed=5, mean=scale, std=scale)
    assert network.training                                        # and yet no path was dropped:
    chosen = torch.tensor([7, 59, 0])
    features = caught[0](4, chosen)
    network.eval()
    for row, image in zip(features, chosen, strict=True):
        view = make_view(train.images(image[None]), VIEW, 16, random.combine("linear view", 5, 4, image[None]))
        if scale is not None:                                      # from ImageNet's mean and deviation to 0.5
            deviation, mean = (torch.tensor(x).view(3, 1, 1) for x in ([0.229, 0.224, 0.225], [0.485, 0.456, 0.406]))
            view = ((view * deviation + mean).clamp(0, 1) - 0.5) / 0.5
        tokens = network.intermediates(view)["norm" if depth is None else f"block{depth}"][0]
        expected = tokens[0] if pooling == "cls" else tokens[1:].mean(0)
        torch.testing.assert_close(row, expected.detach(), rtol=0, atol=1e-5)
    assert (caught[0](5, chosen) - features).abs().max() > 0.01 and not features.requires_grad


@pytest.mark.parametrize("name", ["park", "mocov3"])
def test_a_backbone_may_be_in_bf16(name, sources):
    train = sources[0] if name == "mocov3" else Loaded(Shapes("train", 16, 60, "easy"))   # park takes its features once
    found = published_probe(backbone().bfloat16(), train, sources[1], name, epochs=2)
    assert found.shape == (30,) and found.dtype == torch.int64


@pytest.mark.parametrize("name", ["mocov3", "mae"])
def test_the_backbone_is_frozen_and_the_answer_repeats(name, sources):
    network, (train, val) = backbone(), sources
    before = {k: v.clone() for k, v in network.state_dict().items()}
    first, again = (published_probe(network, train, val, name, epochs=2) for _ in range(2))
    assert first.shape == (30,) and first.dtype == torch.int64 and torch.equal(first, again)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", ["park", "sweep"])
def test_without_augmentation_the_features_are_taken_once(name, sources):
    network, train, val = backbone(), Loaded(Shapes("train", 16, 60, "easy")), sources[1]
    scale = dict(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    predicted = published_probe(network, train, val, name, "mean", 1, epochs=2, seed=3, batch_size=9, **scale)
    (features, labels), (queries, _) = (extract(network, s, "mean", depth=1, **scale) for s in (train, val))
    assert torch.equal(predicted, probe_features(features, labels, queries, name, 2, 3, 9))


def test_it_learns_what_can_be_seen(sources):
    """Dark images and bright ones: a crop and a flip leave that to an untrained network."""
    class Bright(Shapes):
        def factors(self, indices):
            return super().factors(indices) | {"shape": indices % 2}

        def images(self, indices):
            return (super().images(indices) // 4 + 180 * (indices % 2)[:, None, None, None]).to(torch.uint8)

    train, val = Bright("train", 16, 60), Bright("val", 16, 40)
    assert accuracy(published_probe(backbone(), train, val, "mocov3", "mean", epochs=8), torch.arange(40) % 2) == 1


@pytest.mark.parametrize(("changes", "said"), [
    (dict(protocol="beit"), "no linear protocol 'beit'; choose one of park, mocov3, mae, dino, sweep"),
    (dict(protocol="mae"), "mae makes new features in each epoch; call published_probe"),
    (dict(epochs=0), "got 50 images, 0 epochs"),
    (dict(batch_size=1), "a batch of 1$"),
    (dict(batch_size=46), "a batch of 46$"),
    (dict(features=torch.zeros(19, 4)), "got 19 images"),
    (dict(features=torch.zeros(50, 2, 4), queries=torch.zeros(5, 2, 4)), "a linear probe needs features"),
    (dict(labels=torch.zeros(49, dtype=torch.int64)), "a linear probe needs features"),
    (dict(queries=torch.zeros(5, 3)), "a linear probe needs features"),
    (dict(queries=torch.full((5, 4), math.nan)), "a linear probe needs finite features"),
])
def test_what_cannot_be_probed_is_named(changes, said):
    given = dict(features=torch.zeros(50, 4), labels=torch.arange(50) % 2, queries=torch.zeros(5, 4), protocol="park")
    with pytest.raises(CourseError, match=said):
        probe_features(**given | changes)


# -------------------------------------------------------------------------------------------------------- killed and resumed

class Killed:
    """The source, but raises at the so-many-th call for images."""

    def __init__(self, source, calls: int):
        self.source, self.left = source, calls

    def __getattr__(self, name: str):
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def images(self, indices):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.source.images(indices)


@pytest.mark.parametrize("name", ["mocov3", "mae"])
@pytest.mark.parametrize("steps", [0, 9, 10, 25, 30])
def test_killed_and_called_again_is_never_killed(name, steps, sources, tmp_path):
    (train, val), path = sources, tmp_path / "x" / "state.pt"      # 3 epochs of 10 steps of 6 images, one call each
    heads = []

    def caught(*given):
        heads.append(train_heads(*given))
        return heads[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "train_heads", caught)
        whole = published_probe(backbone(), train, val, name, epochs=3)
        with contextlib.nullcontext() if steps == 30 else pytest.raises(KeyboardInterrupt):
            published_probe(backbone(), Killed(train, 1 + steps), val, name, epochs=3, keep=path)      # 1: its checksum
        assert path.exists() == (steps >= 10)
        rest = Killed(train, 1 + 30 - steps // 10 * 10)
        again = published_probe(backbone(), rest, val, name, epochs=3, keep=path)
    assert rest.left == 0 and torch.equal(again, whole)
    for key, value in heads[0].state_dict().items():
        assert torch.equal(heads[-1].state_dict()[key], value)


def test_a_state_of_another_call_is_refused(sources, tmp_path):
    (train, val), path = sources, tmp_path / "state.pt"
    given = dict(backbone=backbone(), train=train, val=val, protocol="mocov3", epochs=1, keep=path)
    published_probe(**given)
    torch.manual_seed(1)
    network, more = ViT(16, 4, dim=24, depth=2, heads=2), Loaded(Shapes("train", 20, 70, "easy"))
    for changes, said in ((dict(protocol="mae"), "other protocol"), (dict(seed=1), "other seed"),
                          (dict(depth=1), "other depth"),
                          (dict(pooling="mean"), "other pooling"), (dict(mean=(0.5,) * 3, std=(0.5,) * 3), "other scale"),
                          (dict(backbone=network), "other network"), (dict(train=more), "other protocol, images, content")):
        with pytest.raises(CourseError, match=said):
            published_probe(**given | changes)
    state = torch.load(path, weights_only=True)
    for changes, said in ((dict(heads={}), "RuntimeError"), (dict(heads=[]), "TypeError|AttributeError"),
                          (dict(velocities=[torch.zeros(2)] * 2), "RuntimeError"), (dict(epoch=2), "step 2 of 1"),
                          (dict(epoch=True), "step True of 1"), (dict(velocities=[]), "ValueError")):
        torch.save(state | changes, path)
        with pytest.raises(CourseError, match=f"{said}.*delete it to begin anew"):
            published_probe(**given)
    with pytest.raises(CourseError, match="the protocol park runs the backbone once"):
        published_probe(**given | dict(protocol="park"))


def test_one_evaluation_at_a_time_keeps_a_state_and_sweeps_what_a_killed_one_left(tmp_path):
    for name in (".state.pt.123", ".other.pt.123", "state.pt.md"):
        (tmp_path / name).touch()
    with kept.alone(tmp_path / "state.pt"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".other.pt.123", "state.pt.lock", "state.pt.md"]
        with pytest.raises(CourseError, match="another evaluation keeps its state"), kept.alone(tmp_path / "state.pt"):
            pass
        with kept.alone(tmp_path / "other.pt"), kept.alone(None):
            pass
    with kept.alone(tmp_path / "state.pt"):
        pass
    (tmp_path / "file").touch()
    for broken in (lambda: kept.check(tmp_path / "file" / "x"), lambda: kept.check(tmp_path / "file")):
        with pytest.raises(CourseError, match=r"cannot keep states in .*file"):
            broken()


def test_a_fingerprint_sees_every_image_and_the_names_of_weights(sources):
    train = sources[0]
    changed = Loaded(Shapes("train", 20, 60, "easy"))
    assert kept.fingerprint_of_images(changed) == kept.fingerprint_of_images(train)
    changed.all_images[37, 0, 3, 3] ^= 1
    assert kept.fingerprint_of_images(changed) != kept.fingerprint_of_images(train)
    first, second = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    second[1].load_state_dict(first[0].state_dict())
    assert kept.fingerprint(first) != kept.fingerprint(second)


def test_an_image_set_on_the_disk_is_told_by_the_checksums_of_its_file():
    class Packed(Shapes):
        header: ClassVar[dict] = {"checksums": [1, 2]}

        def images(self, indices):
            raise AssertionError("393 GB are not read")

    first, second = (Packed("train", 16, 10, "easy") for _ in range(2))
    assert kept.fingerprint_of_images(first) == kept.fingerprint_of_images(second)
    second.header = {"checksums": [1, 3]}
    assert kept.fingerprint_of_images(first) != kept.fingerprint_of_images(second)
