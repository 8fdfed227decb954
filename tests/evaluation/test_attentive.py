"""Attentive probes: against a slow one, where only one patch knows, killed and resumed."""
import math
import re
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from lib import random
from lib.data import Loaded
from lib.data.shapes import Shapes
from lib.errors import CourseError
from lib.evaluation import attentive, kept
from lib.evaluation.attentive import RATES, AttentiveProbe, AttentiveRecipe, attentive_probe
from lib.evaluation.features import extract, stream
from lib.evaluation.linear import hold_out, linear_probe
from lib.models.vit import ViT


@pytest.fixture(scope="module")
def sources() -> tuple[Loaded, Loaded]:
    return Loaded(Shapes("train", 16, 60, "easy")), Loaded(Shapes("val", 16, 30, "easy"))


def backbone() -> ViT:
    torch.manual_seed(0)
    return ViT(16, 4, dim=24, depth=2, heads=2, drop_path=0.5)


SHORT = AttentiveRecipe(queries=3, epochs=2)


def slow_logits(probe: AttentiveProbe, tokens: torch.Tensor) -> list[list[float]]:
    """In float64, by loops; statistics are those of the batch, as in training."""
    x, q, v, w, b = (t.double().detach() for t in (tokens, probe.queries, probe.values, probe.weights, probe.bias))
    rows = x.reshape(-1, x.shape[-1])
    x = (x - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-6).sqrt()
    logits = []
    for image in x:
        gathered = []
        for m, query in enumerate(q):
            scores = [math.exp(sum(float(a * c) for a, c in zip(token, query)) / math.sqrt(len(query))) for token in image]
            part = slice(m * len(query) // len(q), (m + 1) * len(query) // len(q))
            gathered += [sum(s / sum(scores) * float(token @ v[:, d]) for s, token in zip(scores, image))
                         for d in range(part.start, part.stop)]
        logits.append([sum(g * float(w[d, c]) for d, g in enumerate(gathered)) + float(b[c]) for c in range(len(b))])
    return logits


def test_logits_against_the_slow_ones():
    torch.manual_seed(0)
    probe, tokens = AttentiveProbe(6, 4, queries=3), torch.randn(5, 7, 6) * torch.arange(1, 7) + 3
    with torch.no_grad():
        for p in probe.parameters():
            p.normal_()
    torch.testing.assert_close(probe(tokens).double(), torch.tensor(slow_logits(probe, tokens), dtype=torch.float64),
                               rtol=0, atol=1e-4)
    where = probe.attention(tokens)
    assert where.shape == (5, 3, 7) and torch.allclose(where.sum(-1), torch.ones(5, 3)) and where.std() > 0.05


def test_it_begins_as_a_linear_probe_of_the_mean_of_all_tokens():
    probe, tokens = AttentiveProbe(8, 3, queries=4), torch.randn(10, 5, 8)
    with torch.no_grad():
        probe.weights.normal_()
        torch.testing.assert_close(probe.attention(tokens), torch.full((10, 4, 5), 1 / 5))
        mean = probe.standardized(tokens).mean(1)
        torch.testing.assert_close(probe(tokens), mean @ probe.weights)


def test_queries_divide_the_width():
    with pytest.raises(CourseError, match="5 queries do not divide 24 numbers a token; choose a divisor of 24"):
        AttentiveProbe(24, 10, queries=5)


# ------------------------------------------------------------------------------------------------- one patch knows the class

class OnePatchKnows:
    """Images of 4 x 4 patches of 2 x 2 pixels, each of one colour of four; one is marked: its colour is the class."""
    name, size, classes = "one patch", 8, ["red", "green", "blue", "grey"]

    def __init__(self, split: str, n: int):
        g = torch.Generator().manual_seed({"train": 1, "val": 2}[split])
        colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]], dtype=torch.uint8)
        codes, marked = torch.randint(4, (n, 16), generator=g), torch.randint(16, (n,), generator=g)
        patches = colours[codes][:, :, :, None].repeat(1, 1, 1, 4)                              # (n, 16, 3, 4)
        patches[..., 0] = 0
        patches[torch.arange(n), marked, :, 0] = 255                                            # white, others black
        self.split, self.all_labels, self.marked = split, codes[torch.arange(n), marked], marked
        self.all_images = (patches.view(n, 4, 4, 3, 2, 2).permute(0, 3, 1, 4, 2, 5)).reshape(n, 3, 8, 8)

    def __len__(self) -> int:
        return len(self.all_labels)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        return self.all_images[indices]

    def labels(self, indices: torch.Tensor) -> torch.Tensor:
        return self.all_labels[indices]


class Pixels(nn.Module):
    """A backbone whose tokens are the pixels of the patches."""
    num_prefix_tokens, embed_dim = 0, 12

    def __init__(self):
        super().__init__()
        self.scale, self.blocks = nn.Parameter(torch.ones(())), nn.ModuleList()
        self.patch_embed = SimpleNamespace(img_size=(8, 8), grid_size=(4, 4), strict_img_size=True)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.unfold(images, 2, stride=2).mT                        # (B, 16, 12)


def test_it_finds_the_patch_that_knows_where_the_mean_of_all_does_not():
    train, val = OnePatchKnows("train", 2000), OnePatchKnows("val", 400)
    network, truth = Pixels(), val.labels(torch.arange(400))
    found = attentive_probe(network, train, val, AttentiveRecipe(queries=4, epochs=20))
    linear = linear_probe(*extract(network, train, "mean"), extract(network, val, "mean")[0])[0]
    assert (found.predictions == truth).float().mean() > 0.95 and (linear == truth).float().mean() < 0.6
    where = found.probe.attention(extract(network, val, "tokens")[0])                           # (400, 4, 16)
    assert (where.mean(1).argmax(1) == val.marked).float().mean() > 0.95 and found.learning_rate in RATES


def test_without_a_class_to_be_found_it_guesses():
    train, val = OnePatchKnows("train", 500), OnePatchKnows("val", 400)
    train.all_labels = train.all_labels[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    found = attentive_probe(Pixels(), train, val, AttentiveRecipe(queries=4, epochs=5))
    assert abs((found.predictions == val.all_labels).float().mean() - 0.25) < 0.08


# ----------------------------------------------------------------------------------------------------------- how it is trained

def test_the_rate_is_the_best_on_images_held_out_and_all_train_the_last(sources, monkeypatch):
    calls, train = [], attentive._train

    def watched(tokens_of, labels, images, r, rates, *rest):
        calls.append((images, rates))
        return train(tokens_of, labels, images, r, rates, *rest)

    def second(probes, tokens_of, labels, images, epoch):
        assert len(probes) == len(RATES) and torch.equal(images, hold_out(60)[0])
        return 1

    monkeypatch.setattr(attentive, "_train", watched)
    monkeypatch.setattr(attentive, "_best", second)
    assert attentive_probe(backbone(), *sources, SHORT).learning_rate == RATES[1]
    assert torch.equal(calls[0][0], hold_out(60)[1]) and calls[0][1] == RATES
    assert torch.equal(calls[1][0], torch.arange(60)) and calls[1][1] == (RATES[1],)


def test_the_best_is_right_most_often():
    class Says(nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, tokens):
            return nn.functional.one_hot(torch.full((len(tokens),), self.answer), 3).float()

    probes, labels = nn.ModuleList([Says(0), Says(2), Says(1)]), torch.tensor([2, 2, 1, 0, 0])
    asked = []

    def tokens_of(epoch, images):
        asked.append(epoch)
        return torch.zeros(len(images), 1, 1)

    assert attentive._best(probes, tokens_of, labels, torch.tensor([0, 1, 2, 3]), 7) == 1 and asked == [7]


def slow_training(tokens_of, labels, images, r: AttentiveRecipe, rate: float, dim: int, classes: int, seed: int):
    """Queries, values, weights and bias after the same steps: AdamW written out, with PyTorch's gradients alone."""
    p = [torch.zeros(r.queries, dim), torch.eye(dim), torch.zeros(dim, classes), torch.zeros(classes)]
    p = [x.requires_grad_() for x in p]
    first, second = ([torch.zeros_like(x) for x in p] for _ in range(2))
    steps, t = len(images) // r.batch_size, 0
    for epoch in range(r.epochs):
        order = images[random.permutation(random.combine("attentive order", seed, epoch), len(images))]
        for step in range(steps):
            chosen, t = order[step * r.batch_size:(step + 1) * r.batch_size], t + 1
            x = tokens_of(epoch, chosen)
            x = (x - x.mean((0, 1))) / (x.var((0, 1), unbiased=False) + 1e-6).sqrt()
            parts = (x @ p[1]).split(dim // r.queries, dim=2)
            gathered = [torch.einsum("bn,bnd->bd", ((x @ q) / dim**0.5).softmax(1), part) for q, part in zip(p[0], parts)]
            logits = torch.cat(gathered, 1) @ p[2] + p[3]
            loss = -logits.log_softmax(1)[torch.arange(len(chosen)), labels[chosen]].mean()
            lr = rate * math.cos(math.pi / 2 * (epoch + step / steps) / r.epochs) ** 2        # half a cosine, as a square
            for i, gradient in enumerate(torch.autograd.grad(loss, p)):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                move = first[i] / (1 - 0.9**t) / ((second[i] / (1 - 0.999**t)).sqrt() + 1e-8)
                with torch.no_grad():
                    p[i] -= lr * (move + (r.weight_decay * p[i] if i == 2 else 0))            # decays the last layer alone
    return [x.detach() for x in p]


@pytest.fixture
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_training_against_a_slow_one(in_float64):
    g = torch.Generator().manual_seed(0)
    tokens, moved = torch.randn(2, 45, 5, 6, generator=g)
    labels, images = torch.randint(3, (45,), generator=g), torch.arange(45)[torch.arange(45) % 9 != 2]
    r = AttentiveRecipe(queries=2, epochs=3, batch_size=4, weight_decay=2.0)

    def tokens_of(epoch, chosen):
        return tokens[chosen] + 0.3 * epoch * moved[chosen]                        # new views in every epoch

    probes = attentive._train(tokens_of, labels, images, r, (0.01, 0.03), 6, 5, None, {}, False)
    for probe, rate in zip(probes, (0.01, 0.03)):
        found = [probe.queries, probe.values, probe.weights, probe.bias]
        for fast, slow in zip(found, slow_training(tokens_of, labels, images, r, rate, 6, 3, seed=5)):
            torch.testing.assert_close(fast, slow, rtol=0, atol=1e-6)
            assert slow.abs().max() > 0.01


def test_after_few_steps_it_standardises_by_all_tokens_it_has_seen():
    tokens, r = 5 + 3 * torch.randn(40, 5, 6), AttentiveRecipe(queries=2, epochs=1, batch_size=4)
    probe, = attentive._train(lambda _, chosen: tokens[chosen], torch.arange(40) % 3, torch.arange(40), r, (0.01,), 6, 0, None,
                              {}, False)
    torch.testing.assert_close(probe.norm.running_mean, tokens.mean((0, 1)), rtol=0, atol=1e-4)
    torch.testing.assert_close(probe.norm.running_var.sqrt(), tokens.std((0, 1)), rtol=0.1, atol=0)


@pytest.mark.parametrize("augment", [False, True])
def test_depth_scale_and_seed_reach_the_backbone(augment, sources, monkeypatch):
    seen, mean, std = [], (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

    def watched(name):
        true = getattr(attentive, name)

        def call(*args, **more):
            seen.append((name, *args[2:], more["mean"], more["std"], more.get("depth")))
            return true(*args, **more)
        monkeypatch.setattr(attentive, name, call)

    for name in ("extract", "features_of_new_views", "stream"):
        watched(name)
    r = AttentiveRecipe(queries=3, epochs=1, augment=augment)
    attentive_probe(backbone(), *sources, r, depth=1, seed=4, mean=mean, std=std)
    ends = ("stream", (1,), "tokens", mean, std, None)
    trains = ("features_of_new_views", "tokens", 1, 4, mean, std, None) if augment else ("extract", "tokens", mean, std, 1)
    assert sorted(seen) == sorted([ends, ends, trains])


@pytest.mark.parametrize("augment", [False, True])
def test_the_backbone_is_frozen_the_answer_repeats_and_the_seed_counts(augment, sources):
    network, r = backbone().train(), AttentiveRecipe(queries=3, epochs=2, augment=augment)
    before = {name: x.clone() for name, x in network.state_dict().items()}
    runs = [attentive_probe(network, *sources, r, seed=seed) for seed in (0, 0, 1)]
    assert network.training and all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    weights = [run.probe.weights for run in runs]
    assert torch.equal(weights[0], weights[1]) and torch.equal(runs[0].predictions, runs[1].predictions)
    assert not torch.equal(weights[0], weights[2]) and not runs[0].probe.training


def test_augmentation_shows_new_views(sources):
    plain, views = (attentive_probe(backbone(), *sources, AttentiveRecipe(queries=3, epochs=2, augment=a)).probe.weights
                    for a in (False, True))
    assert not torch.equal(plain, views)


@pytest.mark.parametrize("depth", [0, 1])
def test_tokens_are_those_of_the_depth(depth, sources):
    train, val = sources
    found = attentive_probe(backbone(), train, val, SHORT, depth=depth)
    tokens = torch.cat([some[depth] for some in stream(backbone(), val, (depth,), "tokens", batch_size=7)])
    torch.testing.assert_close(tokens, extract(backbone(), val, "tokens", depth=depth)[0], rtol=0, atol=1e-5)
    assert torch.equal(found.probe(tokens).argmax(1), found.predictions)


class Killed(Loaded):
    """The source, but raises when so many images have been read after their checksum."""

    def __init__(self, source, images: int):
        self.__dict__.update(source.__dict__)
        self.left = len(source) + images

    def images(self, indices):
        self.left -= len(indices)
        if self.left < 0:
            raise KeyboardInterrupt
        return super().images(indices)


@pytest.mark.parametrize("images", [30, 80, 103, 140, 200])        # of 50 in each of two epochs, 6 held out, then of 60
def test_killed_and_called_again_is_never_killed(images, sources, tmp_path):
    (train, val), r = sources, AttentiveRecipe(queries=3, epochs=2, augment=True)
    whole = attentive_probe(backbone(), train, val, r)
    with pytest.raises(KeyboardInterrupt):
        attentive_probe(backbone(), Killed(train, images), val, r, keep=tmp_path)
    rest = Killed(train, 226 - (images > 50) * 50 - (images > 100) * 50 - (images > 166) * 60)
    again = attentive_probe(backbone(), rest, val, r, keep=tmp_path)
    assert rest.left == 0
    assert torch.equal(again.predictions, whole.predictions) and again.learning_rate == whole.learning_rate
    for key, value in whole.probe.state_dict().items():
        assert torch.equal(again.probe.state_dict()[key], value)
    with pytest.raises(CourseError, match=r"attentive-choice.pt is of another call \(other seed\)"):
        attentive_probe(backbone(), train, val, r, seed=3, keep=tmp_path)


@pytest.mark.parametrize(("change", "said"), [
    (lambda call: call(r=AttentiveRecipe(queries=3, epochs=3)), "choice.pt is of another call (other recipe)"),
    (lambda call: call(depth=1), "choice.pt is of another call (other depth)"),
    (lambda call: call(mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)), "choice.pt is of another call (other scale)"),
    (lambda call: call(weights=1), "choice.pt is of another call (other network)"),
    (lambda call: call(others=7), "choice.pt is of another call (other content)"),
])
def test_what_a_state_is_of(change, said, sources, tmp_path):
    def call(r=SHORT, weights=0, others=0, **more):
        network, train = backbone(), Loaded(sources[0])
        with torch.no_grad():
            network.cls_token += weights
        train.all_images = train.all_images.roll(others, 0) if others else train.all_images
        attentive_probe(network, train, sources[1], r, keep=tmp_path, **more)

    call()
    with pytest.raises(CourseError, match=re.escape(said)):
        change(call)


def test_the_last_probe_of_another_rate_is_of_another_call(sources, monkeypatch, tmp_path):
    chosen = RATES.index(attentive_probe(backbone(), *sources, SHORT, keep=tmp_path).learning_rate)
    monkeypatch.setattr(attentive, "_best", lambda *_: chosen - 1)
    with pytest.raises(CourseError, match=r"attentive-final.pt is of another call \(other learning rate\)"):
        attentive_probe(backbone(), *sources, SHORT, keep=tmp_path)


def test_two_cannot_keep_one_state(sources, tmp_path):
    with kept.alone(tmp_path / "attentive-choice.pt"), pytest.raises(CourseError, match="another evaluation keeps its state"):
        attentive_probe(backbone(), *sources, SHORT, keep=tmp_path)


# ------------------------------------------------------------------------------------------------------------- what is refused

def test_a_state_of_another_call_is_refused_before_the_network_runs(sources, monkeypatch, tmp_path):
    attentive_probe(backbone(), *sources, SHORT, keep=tmp_path)
    monkeypatch.setattr(attentive, "extract", None)
    with pytest.raises(CourseError, match=r"attentive-choice.pt is of another call \(other seed\)"):
        attentive_probe(backbone(), *sources, SHORT, seed=3, keep=tmp_path)


def test_tokens_that_cannot_be_held_are_counted_first(sources, monkeypatch):
    monkeypatch.setattr(attentive, "HELD", 60 * 17 * 24 * 4 - 1)
    with pytest.raises(CourseError, match="the tokens of 60 images take 0 GB, more than 0; take fewer images, or augment"):
        attentive_probe(backbone(), *sources, SHORT)
    monkeypatch.setattr(attentive, "HELD", 60 * 17 * 24 * 4)
    attentive_probe(backbone(), *sources, SHORT)


@pytest.mark.parametrize("name", ["resnet18", "xcit_nano_12_p16_224"])
def test_a_network_without_a_grid_of_tokens_is_refused(name, sources):
    with pytest.raises(CourseError, match=r"needs a ViT, with one grid of patches as tokens; got (ResNet|Xcit)"):
        attentive_probe(timm.create_model(name, num_classes=0), *sources, SHORT)


def test_images_that_do_not_fit_are_told_before_the_training(sources, monkeypatch):
    monkeypatch.setattr(attentive, "_train", None)
    large = Loaded(Shapes("val", 20, 30, "easy"))
    with pytest.raises(CourseError, match="takes images of 16 x 16 pixels, those of shapes have 20"):
        attentive_probe(backbone(), sources[0], large, SHORT)


@pytest.mark.parametrize(("changes", "said"), [
    (dict(queries=0), "queries of an attentive probe must be at least 1 and finite, got 0"),
    (dict(epochs=0), "epochs of an attentive probe must be at least 1 and finite, got 0"),
    (dict(batch_size=0), "batch_size of an attentive probe must be at least 2"),
    (dict(weight_decay=-0.1), "weight_decay of an attentive probe must be at least 0 and finite, got -0.1"),
    (dict(weight_decay=math.nan), "weight_decay of an attentive probe must be at least 0 and finite, got nan"),
])
def test_recipes_without_a_sense_are_refused(changes, said):
    with pytest.raises(CourseError, match=said):
        AttentiveRecipe(**changes)


def test_sources_that_do_not_fit_are_refused(sources):
    train, val = sources
    with pytest.raises(CourseError, match="an attentive probe needs 20 training images or more"):
        attentive_probe(backbone(), Loaded(train, limit=19), val, SHORT)
    other = Loaded(val)
    other.classes = ["a", "b"]
    with pytest.raises(CourseError, match=r"the same classes in both; .* of 10 and 2 classes"):
        attentive_probe(backbone(), train, other, SHORT)


def test_weights_that_are_not_finite_are_named(sources):
    network = backbone()
    with torch.no_grad():
        network.norm.weight[0] = math.nan
    for augment in (False, True):
        with pytest.raises(CourseError, match="finite"):
            attentive_probe(network, *sources, AttentiveRecipe(queries=3, epochs=1, augment=augment))
