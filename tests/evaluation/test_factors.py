"""Probes of factors: exact where the features tell the factor, at chance where they do not."""
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from lib.data import Loaded
from lib.data.shapes import Shapes
from lib.errors import CourseError
from lib.evaluation import factors as module
from lib.evaluation.factors import RIDGES, factor_probes, fit_ridge, probe_factors, ridge_probe
from lib.evaluation.features import extract
from lib.evaluation.linear import hold_out
from lib.evaluation.report import r_squared
from lib.models.vit import ViT


def line(n: int, seed: int, noise: float = 0.0, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and targets that are a weighted sum of them."""
    weights = torch.randn(dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(n, dim, generator=g)
    return features * 10 + 3, features @ weights + 40 + noise * torch.randn(n, generator=g)


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
def test_ridge_against_scikit_learn(ridge):
    features, targets = line(60, 0, noise=1.0)
    features, targets = (features - features.mean(0)).double(), (targets - targets.mean()).double()
    theirs = Ridge(alpha=60 * ridge, fit_intercept=False).fit(features.numpy(), targets.numpy()).coef_
    torch.testing.assert_close(fit_ridge(features, targets, ridge), torch.from_numpy(theirs))


def test_ridges_of_many_features_and_targets_at_once():
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(3, 30, 6, generator=generator).double(), torch.randn(30, 2, generator=generator).double()
    many = fit_ridge(features, targets, 0.3)
    one_by_one = torch.stack([torch.stack([fit_ridge(x, y, 0.3) for y in targets.T], 1) for x in features])
    torch.testing.assert_close(many, one_by_one)


def test_a_line_is_read_off_and_noise_is_not():
    features, targets = line(200, 0)
    queries, truth = line(500, 1)
    predicted, ridge = ridge_probe(features, targets, queries)
    assert r_squared(predicted, truth) > 0.9999 and ridge == RIDGES[0] and predicted.dtype == torch.float64
    nothing = torch.randn(200, generator=torch.Generator().manual_seed(2))
    predicted, _ = ridge_probe(features, nothing, queries)
    assert abs(r_squared(predicted, torch.randn(500, generator=torch.Generator().manual_seed(3)))) < 0.1


def test_queries_have_no_say():
    features, targets = line(100, 0, noise=3.0)
    queries, _ = line(50, 1)
    whole, ridge = ridge_probe(features, targets, queries)
    for part in (queries[:1], queries[10:]):
        predicted, chosen = ridge_probe(features, targets, part)
        assert chosen == ridge
        torch.testing.assert_close(predicted, whole[:1] if len(part) == 1 else whole[10:])


def test_the_ridge_is_the_best_on_images_held_out(monkeypatch):
    """Nine tenths are fitted with each ridge, the tenth left out says which is best, and the last fit has all of them."""
    features, targets = line(100, 0, noise=3.0)
    tried = []

    def watched(features, targets, ridge):
        tried.append((len(features), ridge))
        return fit_ridge(features, targets, ridge)

    monkeypatch.setattr(module, "fit_ridge", watched)
    _, chosen = ridge_probe(features, targets, features[:5])
    assert tried == [(90, ridge) for ridge in RIDGES] + [(100, chosen)]
    held, kept = hold_out(100)
    x, y = ((features - features.mean(0)) / (features.std(0) + 1e-6)).double().numpy(), targets.double().numpy()
    y = y - y.mean()
    errors = {r: ((Ridge(alpha=90 * r, fit_intercept=False).fit(x[kept], y[kept]).predict(x[held]) - y[held]) ** 2).mean()
              for r in RIDGES}
    assert chosen == min(errors, key=errors.get) and RIDGES[0] < chosen < RIDGES[-1]


# ---------------------------------------------------------------------------------------------------------------- factors

def told(f: dict[str, torch.Tensor], *names: str) -> torch.Tensor:
    """Features that tell some of the factors, and noise beside them."""
    columns = [f["position"][:, "xy".index(name), None] if name in "xy" else nn.functional.one_hot(f[name], 10).float()
               for name in names]
    return torch.cat([*columns, torch.randn(len(f["shape"]), 4, generator=torch.Generator().manual_seed(0))], 1)


@pytest.mark.parametrize("known", ["shape", "texture", "ground", "x", "y"])
def test_a_factor_is_found_where_the_features_tell_it_and_nowhere_else(known):
    train, val = (Shapes(split, 16, n).factors(torch.arange(n)) for split, n in (("train", 300), ("val", 400)))
    found = probe_factors(told(train, known), train, told(val, known), val)
    assert list(found) == ["shape", "texture", "ground", "x", "y"]
    for name, probe in found.items():
        low, high = probe["interval"]
        assert probe["measure"] == ("R2" if name in "xy" else "accuracy") and probe["chance"] == (0 if name in "xy" else 0.1)
        assert low <= probe["value"] <= high
        if name == known:
            assert probe["value"] > 0.999
        else:
            assert probe["value"] == pytest.approx(probe["chance"], abs=0.07)


class Pixels(nn.Module):
    """A backbone that only looks: its one token is the image, as grey numbers."""
    num_prefix_tokens, any_size = 0, True

    def __init__(self):
        super().__init__()
        self.blocks, self.patch_embed = nn.ModuleList([nn.Identity()]), nn.Identity()
        self.patch_embed.img_size = (8, 8)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward_features(self, images):
        return self.blocks[0](images.mean(1).flatten(1)[:, None])


class Blob(Shapes):
    """A bright object on a dark ground: where it lies is nearly a weighted sum of pixels."""
    def images(self, indices):
        axis = (torch.arange(8) + 0.5) / 4 - 1
        x, y = self.factors(indices)["position"].T[..., None]
        rows, columns = torch.exp(-4 * (axis - y) ** 2), torch.exp(-4 * (axis - x) ** 2)
        return (200 * rows[:, :, None] * columns[:, None]).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def test_place_is_read_off_pixels():
    train, val = Blob("train", 8, 200), Blob("val", 8, 100)
    features, queries = (extract(Pixels(), source, "mean")[0] for source in (train, val))
    upside_down = queries.view(-1, 8, 8).flip(1).flatten(1)
    for axis, name in enumerate("xy"):
        place, truth = (source.factors(torch.arange(len(source)))["position"][:, axis] for source in (train, val))
        assert r_squared(ridge_probe(features, place, queries)[0], truth) > 0.95
        turned = r_squared(ridge_probe(features, place, upside_down)[0], truth)
        assert turned > 0.95 if name == "x" else turned < -0.5


def test_depth_and_pooling_are_those_asked_for(monkeypatch):
    torch.manual_seed(0)
    network, train, val = ViT(16, 4, dim=24, depth=2, heads=2), Shapes("train", 16, 60), Shapes("val", 16, 40)
    monkeypatch.setattr(module, "probe_factors", lambda *arguments: arguments)
    for pooling, depth in (("mean", 1), ("cls", None)):
        features, factors, queries, truth = factor_probes(network, train, val, pooling, depth)
        assert torch.equal(features, extract(network, train, pooling, depth=depth)[0])
        assert torch.equal(queries, extract(network, val, pooling, depth=depth)[0])
        assert torch.equal(factors["ground"], train.factors(torch.arange(60))["ground"])
        assert torch.equal(truth["position"], val.factors(torch.arange(40))["position"])


def test_a_source_that_does_not_know_its_factors_is_named():
    source = Shapes("train", 16, 30)
    with pytest.raises(CourseError, match="only the world of shapes knows its factors, got Loaded of shapes"):
        factor_probes(Pixels(), source, Loaded(source))
    with pytest.raises(CourseError, match="a linear probe needs features"):
        ridge_probe(torch.zeros(19, 4), torch.zeros(19), torch.zeros(3, 4))
