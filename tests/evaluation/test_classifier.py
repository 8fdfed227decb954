"""Backbone and linear probe as one network: the same answers as the two apart."""
import pytest
import torch

from lib.data import Loaded, open_source
from lib.data.views import normalize
from lib.evaluation import linear
from lib.evaluation.classifier import LinearClassifier
from lib.evaluation.features import extract, standardize
from lib.evaluation.linear import fit, linear_probe
from lib.models.vit import ViT


@pytest.fixture(scope="module")
def sources():
    return [Loaded(open_source("shapes", split, 16, limit=n)) for split, n in (("train", 60), ("val", 30))]


@pytest.fixture(autouse=True)
def few_decays(monkeypatch):
    monkeypatch.setattr(linear, "WEIGHT_DECAYS", (0.03, 0.3))      # the others take longer


def backbone() -> ViT:
    torch.manual_seed(0)
    return ViT(16, 4, dim=24, depth=2, heads=2, drop_path=0.5).train()


@pytest.mark.parametrize(("pooling", "depth"), [("cls", None), ("mean", 1)])
def test_it_answers_like_the_probe_on_features(sources, pooling, depth):
    train, val = sources
    network = backbone()
    classifier = LinearClassifier(network, train, pooling, depth)
    features, labels = extract(network, train, pooling, depth=depth)
    queries, _ = extract(network, val, pooling, depth=depth)
    images = normalize(val.images(torch.arange(30)))
    expected, decay = linear_probe(features, labels, queries)
    assert classifier.predict(images).tolist() == expected.tolist() and classifier.weight_decay == decay
    mean, std = features.mean(0), features.std(0) + 1e-6
    weights = fit((features - mean) / std, labels, 10, decay).double()
    for some, query in zip(classifier.probabilities(images), queries.double(), strict=True):
        odds = [((query - mean) / std @ weights[:-1, k] + weights[-1, k]).exp().item() for k in range(10)]
        assert some.tolist() == pytest.approx([odd / sum(odds) for odd in odds], abs=1e-3)
    assert network.training and not classifier.probabilities(images).requires_grad


def test_other_normalisations(sources):
    train, val = sources
    half = dict(mean=(0.5,) * 3, std=(0.5,) * 3)
    classifier = LinearClassifier(backbone(), train, **half)
    features, labels = extract(backbone(), train, **half)
    expected, _ = linear_probe(features, labels, extract(backbone(), val, **half)[0])
    assert classifier.predict(standardize(val.images(torch.arange(30)), **half)).tolist() == expected.tolist()
