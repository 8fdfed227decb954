"""Evaluators: exact where the answer is known, at chance where there is nothing to find."""
import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.data import Loaded, open_source
from lib.data.views import normalize
from lib.errors import CourseError
from lib.evaluation import linear
from lib.evaluation.features import extract
from lib.evaluation.linear import WEIGHT_DECAYS, fit, linear_probe, predict
from lib.evaluation.load import load_backbone, untrained_backbone
from lib.evaluation.neighbors import knn_accuracy, knn_predict
from lib.evaluation.report import bootstrap
from lib.models.vit import ViT
from lib.training.recipes import recipe
from lib.training.trainer import Trainer


def clusters(n: int, seed: int, classes: int = 5, dim: int = 16, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around one centre for each class, the same centres for every seed."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    return centres[labels] + noise * torch.randn(n, dim, generator=g), labels


def accuracy(predicted: torch.Tensor, truth: torch.Tensor) -> float:
    return (predicted == truth).float().mean().item()


# ---------------------------------------------------------------------------------------------------- nearest neighbours

def slow_knn(bank, labels, query, k, temperature) -> int:
    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    nearest = sorted(((cosine(query, row), label) for row, label in zip(bank, labels, strict=True)), reverse=True)[:k]
    votes = {}
    for similarity, label in nearest:
        votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
    return max(votes, key=votes.get)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 1.0), (500, 0.2)])
def test_knn_against_a_loop(k, temperature):
    bank, labels = clusters(60, 0, noise=3.0)
    queries, _ = clusters(40, 1, noise=3.0)
    expected = [slow_knn(bank.double().tolist(), labels.tolist(), q, k, temperature) for q in queries.double().tolist()]
    assert knn_predict(bank, labels, queries, k, temperature).tolist() == expected
    assert len(set(expected)) > 1


def test_knn_is_perfect_on_separable_features_and_at_chance_on_shuffled_labels():
    bank, labels = clusters(500, 0)
    queries, truth = clusters(1000, 1)
    assert knn_accuracy(bank, labels, queries, truth) == 1
    shuffled = labels[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    assert knn_accuracy(bank, shuffled, queries, truth) < 0.45     # five classes; neighbours vote alike within a cluster
    noise = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    assert knn_accuracy(noise, labels, torch.randn(1000, 16), truth) == pytest.approx(0.2, abs=0.07)


def test_knn_does_not_care_for_length_or_chunks():
    bank, labels = clusters(100, 0, noise=2.0)
    queries, _ = clusters(1500, 1, noise=2.0)
    whole = knn_predict(bank, labels, queries)
    assert torch.equal(whole, torch.cat([knn_predict(bank * 7, labels, q) for q in (queries * 3).split(400)]))


@pytest.mark.parametrize(("bank", "labels", "queries"), [((0, 4), 0, (3, 4)), ((5, 4), 5, (3, 6)), ((5, 4), 4, (3, 4))])
def test_knn_names_wrong_shapes(bank, labels, queries):
    with pytest.raises(CourseError, match="k-NN needs a bank"):
        knn_predict(torch.zeros(bank), torch.zeros(labels, dtype=torch.int64), torch.zeros(queries))


# ------------------------------------------------------------------------------------------------------------ linear probe

def test_linear_probe_finds_separable_classes():
    features, labels = clusters(300, 0)
    queries, truth = clusters(500, 1)
    assert accuracy(linear_probe(features * 100 + 5, labels, queries * 100 + 5)[0], truth) > 0.99


def test_linear_probe_is_at_chance_on_noise():
    g = torch.Generator().manual_seed(0)
    features, queries = torch.randn(400, 16, generator=g), torch.randn(1000, 16, generator=g)
    labels, truth = torch.randint(5, (400,), generator=g), torch.randint(5, (1000,), generator=g)
    assert accuracy(linear_probe(features, labels, queries)[0], truth) == pytest.approx(0.2, abs=0.06)


def test_queries_have_no_say_in_the_probe():
    features, labels = clusters(300, 0, noise=2.0)
    queries, _ = clusters(200, 1, noise=2.0)
    whole, decay = linear_probe(features, labels, queries)
    for part in (queries[:1], queries[50:53], queries.flip(0)[:9]):
        predicted, chosen = linear_probe(features, labels, part)
        assert chosen == decay
        assert predicted.tolist() == [whole[(queries == q).all(1).nonzero()[0, 0]].item() for q in part]
    assert linear_probe(features, labels, 1000 * torch.randn(9, 16))[1] == decay


def test_weight_decay_is_the_best_on_images_held_out(monkeypatch):
    """Each decay is tried on nine tenths, the tenth left out is disjoint from them, and the last fit uses all."""
    features, labels = clusters(200, 0, noise=2.0)
    tried = []

    def watched(features, labels, classes, weight_decay, steps=100):
        tried.append((len(features), weight_decay))
        return fit(features, labels, classes, weight_decay, 10)

    monkeypatch.setattr(linear, "fit", watched)
    _, chosen = linear_probe(features, labels, features[:5])
    assert tried == [(180, decay) for decay in WEIGHT_DECAYS] + [(200, chosen)]


def test_strong_noise_wants_a_strong_decay():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(120, 100, generator=g)                  # one useful direction, 99 others, few images
    labels = (features[:, 0] + 0.5 * torch.randn(120, generator=g) > 0).long()
    queries = torch.randn(2000, 100, generator=g)
    truth = (queries[:, 0] > 0).long()
    strong, weak = (accuracy(predict(queries, fit(features, labels, 2, decay)), truth) for decay in (0.3, 1e-6))
    assert strong > weak


def test_fit_is_at_a_minimum():
    features, labels = clusters(100, 0, noise=2.0)
    weights = fit(features, labels, 5, 0.01).requires_grad_()
    padded = torch.nn.functional.pad(features, (0, 1), value=1.0)
    loss = torch.nn.functional.cross_entropy(padded @ weights, labels) + 0.005 * weights[:-1].square().sum()
    loss.backward()
    assert weights.grad.abs().max() < 1e-3 and loss < math.log(5)


@pytest.mark.parametrize(("features", "labels", "queries"), [((19, 4), 19, (3, 4)), ((50, 4), 50, (3, 5)),
                                                             ((50, 4), 49, (3, 4))])
def test_linear_probe_names_wrong_shapes(features, labels, queries):
    with pytest.raises(CourseError, match="a linear probe needs features"):
        linear_probe(torch.randn(features), torch.zeros(labels, dtype=torch.int64), torch.randn(queries))


def test_interval_is_that_of_a_binomial():
    correct = torch.arange(1000) < 700
    low, high = bootstrap(correct)
    assert (low, high) == pytest.approx((0.7 - 1.96 * 0.01449, 0.7 + 1.96 * 0.01449), abs=0.003)
    assert bootstrap(correct) == [low, high]
    with pytest.raises(CourseError, match="an interval over images needs 2 images or more, got 1"):
        bootstrap(correct[:1])


# ---------------------------------------------------------------------------------------------------------------- features

@pytest.fixture(scope="module")
def source() -> Loaded:
    return Loaded(open_source("shapes", "val", 16, limit=50))


def backbone(**changes) -> ViT:
    torch.manual_seed(0)
    return ViT(16, 4, dim=24, depth=2, heads=2, **changes)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_features_do_not_depend_on_the_batch_size(pooling, source):
    network = backbone()
    features, labels = extract(network, source, pooling)
    assert features.shape == (50, 24) and features.dtype == torch.float32
    assert torch.equal(labels, source.labels(torch.arange(50)))
    for batch_size in (1, 7, 50):
        torch.testing.assert_close(extract(network, source, pooling, batch_size)[0], features, rtol=0, atol=1e-5)


def test_pooling_takes_the_right_tokens(source):
    network = backbone().eval()
    tokens = network.forward_features(normalize(source.images(torch.arange(50)))).detach()
    torch.testing.assert_close(extract(network, source, "cls")[0], tokens[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(extract(network, source, "mean")[0], tokens[:, 1:].mean(1), rtol=0, atol=1e-5)


def test_features_are_made_in_eval_mode_and_the_mode_is_restored(source):
    network = backbone(drop_path=0.5).train()
    first = extract(network, source)[0]
    assert network.training and torch.equal(first, extract(network, source)[0])
    assert not first.requires_grad
    network.eval()
    extract(network, source)
    assert not network.training


def test_wrong_features_are_named(source):
    with pytest.raises(CourseError, match="no pooling 'max'; choose one of cls, mean"):
        extract(backbone(), source, "max")
    damaged = backbone()
    damaged.norm.bias.data[3] = math.nan
    with pytest.raises(CourseError, match="features are not finite, first for image 0 of shapes"):
        extract(damaged, source)


# ------------------------------------------------------------------------------------------------------- a run, read again

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    r = recipe("mocov3", images=32, epochs=1, batch_size=16, image_size=16, patch_size=4, hidden=16, dim=8, knn_every=0,
               warmup_epochs=0.0, device="cpu")
    trainer = Trainer(r, Loaded(open_source("shapes", "train", 16, limit=32)), folder)
    start = copy.deepcopy(trainer.objective.backbone)
    trainer.run()
    return folder, trainer, start


def test_a_run_is_read_as_it_was_left(run, source):
    folder, trainer, start = run
    for path in (folder, folder / "backbone.safetensors", str(folder)):
        network, r = load_backbone(path)
        assert r == trainer.recipe and not network.training
        assert torch.equal(extract(network, source)[0], extract(trainer.objective.backbone, source)[0])
    untrained = extract(untrained_backbone(trainer.recipe), source)[0]
    assert torch.equal(untrained, extract(start, source)[0])
    assert (untrained - extract(network, source)[0]).abs().max() > 1e-2


def test_weights_that_do_not_fit_are_named(run, tmp_path):
    folder = run[0]
    weights = load_file(folder / "backbone.safetensors")
    described = json.loads((folder / "recipe.json").read_text())
    for change, said in (({"extra": torch.zeros(1)}, r"extra is \(1,\), expected no such weight"),
                         ({"norm.weight": torch.zeros(3)}, r"norm.weight is \(3,\), expected \(\d+,\)")):
        save_file(weights | change, tmp_path / "x.safetensors", metadata={"recipe": json.dumps(described)})
        with pytest.raises(CourseError, match=said):
            load_backbone(tmp_path / "x.safetensors")
    save_file(weights, tmp_path / "foreign.safetensors")
    with pytest.raises(CourseError, match="holds weights but no recipe"):
        load_backbone(tmp_path / "foreign.safetensors")
