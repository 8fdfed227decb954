"""CKA is that of the formula, of known points and of plain loops, whatever the layers, the minibatches and the network."""
import copy
import itertools
import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models import create_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib import distributed
from lib.analysis import similarity as module
from lib.analysis.recording import part_names
from lib.analysis.similarity import CKA, Representations, centered, examples, gram, linear_cka, similarity
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.models.vit import ViT


def loops(x: list[list[float]], y: list[list[float]]) -> float:
    """HSIC_1 word for word, in Python's own numbers: no centring, no matrix library."""
    n = len(x)
    k, l_ = ([[0.0 if i == j else sum(a * b for a, b in zip(z[i], z[j], strict=True)) for j in range(n)] for i in range(n)]
             for z in (x, y))
    trace = sum(k[i][j] * l_[j][i] for i in range(n) for j in range(n))
    both = sum(map(sum, k)) * sum(map(sum, l_)) / ((n - 1) * (n - 2))
    product = sum(k[i][j] * l_[j][m] for i in range(n) for j in range(n) for m in range(n))
    return (trace + both - 2 * product / (n - 2)) / (n * (n - 3))


def hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    n = len(x)
    return ((centered(gram(x)) * centered(gram(y))).sum() / (n * (n - 3))).item()


def minibatches(pairs, biased: bool = False) -> float:
    cka = CKA(biased)
    for x, y in pairs:
        cka.update([gram(x)], [gram(y)])
    return cka.compute().item()


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def related(n: int = 20, p: int = 5, q: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Two layers that are neither alike nor independent, CKA about one half."""
    x = normal(n, p)
    return x, x @ normal(p, q, seed=1) + 2 * normal(n, q, seed=2)


# ------------------------------------------------------------------------------------------------------- the estimator

@pytest.mark.parametrize("n", [4, 5, 11])
def test_hsic_is_that_of_plain_loops(n):
    x, y = related(n)
    expected = [loops(a.tolist(), b.tolist()) for a, b in [(x, y), (x, x), (y, y)]]
    assert [hsic(x, y), hsic(x, x), hsic(y, y)] == pytest.approx(expected, rel=1e-9)
    assert linear_cka(x, y) == pytest.approx(expected[0] / math.sqrt(expected[1] * expected[2]), rel=1e-9)
    assert hsic(x, x) > 0 and abs(linear_cka(x, y)) < 0.99


@pytest.mark.parametrize(("n", "xx", "xy", "yy", "unbiased", "biased"), [
    (6, 10.5, 504.2777777777, 25458.7666666666, 0.975341044, 0.958279009),
    (4, 2.1666666666, 52.5, 1273.5, 0.999456226, 0.968992248)])
def test_a_line_and_its_squares(n, xx, xy, yy, unbiased, biased):
    x = torch.arange(1.0, n + 1, dtype=torch.float64)[:, None]
    assert [hsic(x, x), hsic(x, x**2), hsic(x**2, x**2)] == pytest.approx([xx, xy, yy], rel=1e-10)
    assert linear_cka(x, x**2) == pytest.approx(unbiased, abs=1e-9)
    assert linear_cka(x, x**2, biased=True) == pytest.approx(biased, abs=1e-9)


def test_the_published_example():
    np.random.seed(1337)
    x = np.random.randn(100, 10)
    x, y = torch.from_numpy(x), torch.from_numpy(np.random.randn(100, 10) + x)
    parts = list(zip(x.split(25), y.split(25), strict=True))
    assert linear_cka(x, y, biased=True) == pytest.approx(0.55761, abs=5e-6)
    assert linear_cka(x, y) == pytest.approx(0.51346, abs=5e-6)
    assert minibatches(parts) == pytest.approx(0.51327, abs=5e-6)  # the mean of their four CKAs would be .51313
    assert minibatches(parts, biased=True) == pytest.approx(0.65480, abs=5e-6)


def test_the_closed_form_of_products():
    x, y = related()
    x, y, n = x - x.mean(0), y - y.mean(0), len(x)
    a, b = x.square().sum(1), y.square().sum(1)
    expected = (x.T @ y).square().sum() - n / (n - 2) * (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2))
    assert n * (n - 3) * hsic(x, y) == pytest.approx(expected.item(), rel=1e-11)


def test_minibatches_of_different_size_weigh_by_their_hsic():
    x, y = related(30)
    parts = [(x[:8], y[:8]), (x[8:13], y[8:13]), (x[13:], y[13:])]
    xy, xx, yy = (sum(loops(p[i].tolist(), p[j].tolist()) for p in parts) for i, j in [(0, 1), (0, 0), (1, 1)])
    assert minibatches(parts) == pytest.approx(xy / math.sqrt(xx * yy), rel=1e-9)
    xy, xx, yy = (sum(np.square(np.cov(p[i], p[j], rowvar=False)[:p[i].shape[1], p[i].shape[1]:]).sum() for p in parts)
                  for i, j in [(0, 1), (0, 0), (1, 1)])            # the biased HSIC is the sum of squared covariances
    assert minibatches(parts, biased=True) == pytest.approx(xy / math.sqrt(xx * yy), rel=1e-9)


@pytest.mark.parametrize("biased", [False, True])
def test_what_does_not_change_it_and_what_does(biased):
    x, y = related()
    value = linear_cka(x, y, biased)
    rotation = torch.linalg.qr(normal(7, 7, seed=3)).Q
    for same in (y @ rotation, y[:, torch.tensor([6, 2, 0, 1, 5, 4, 3])], -3.7 * y, y + 50 * normal(7, seed=4), y[:, None, :]):
        assert linear_cka(x, same, biased) == pytest.approx(value, abs=1e-11)
        assert linear_cka(same, y, biased) == pytest.approx(1, abs=1e-11)
    assert abs(linear_cka(x, y @ normal(7, 7, seed=5), biased) - value) > 0.01
    assert abs(linear_cka(x, y.flip(0), biased) - value) > 0.1     # the order of the images counts


def test_independent_layers():
    """Standard deviation sqrt(2 / (n (n - 1))) at one minibatch; the biased form is near sqrt(p q / ((p + n) (q + n)))."""
    x, y = normal(32, 768), normal(32, 768, seed=1)
    assert linear_cka(x, y, biased=True) == pytest.approx(0.960, abs=0.003)
    parts = [(normal(32, 768, seed=2 * k), normal(32, 768, seed=2 * k + 1)) for k in range(16)]
    assert abs(minibatches(parts)) < 4 * math.sqrt(2 / (32 * 31 * 16))
    values = torch.tensor([linear_cka(*part) for part in parts])
    assert 0.02 < values.std() < 0.09 and values.min() < 0        # .045, and never clamped


def test_one_outlier_image_and_one_outlier_channel():
    x, moved = normal(512, 64), normal(512, 64)
    moved[0] += 100 * F.normalize(normal(64, seed=1), dim=0)
    assert linear_cka(x, moved, biased=True) == pytest.approx(0.395, abs=0.01)
    assert linear_cka(x, moved) == pytest.approx(0.805, abs=0.04)
    shared, s = normal(512, 1, seed=2), 10
    a, b = (torch.cat([s * shared, normal(512, 63, seed=seed)], dim=1) for seed in (3, 4))
    assert linear_cka(a, b) == pytest.approx(s**4 / (s**4 + 63), abs=0.005)
    a, b = (examples(z, control="channels") for z in (a, b))
    assert linear_cka(a, b) == pytest.approx(1 / 64, abs=0.01)


def test_large_means_and_many_columns_in_float32(monkeypatch):
    x, y = related(64, 50, 70)
    expected = linear_cka(x, y)
    assert linear_cka((x + 100).float(), (y - 100).float()) == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(module, "COLUMNS", 16)                     # the last of them holds less
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)
    assert gram(x.bfloat16()).dtype == torch.float64
    assert linear_cka(x.bfloat16(), y.bfloat16()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("biased", [False, True])
def test_layers_that_do_not_differ_have_no_cka(biased):
    x, y = related()
    flat = normal(33, seed=6, dtype=torch.float32).expand(20, 33)
    assert (flat - flat.mean(0)).any()                             # rounding, of which nothing may be made
    assert not gram(flat).any() and math.isnan(linear_cka(flat, y.float(), biased))
    noise = 1e-7 * flat * normal(20, 33, seed=7, dtype=torch.float32)
    assert (flat + noise != flat).any() and math.isnan(linear_cka(flat + noise, y.float(), biased))
    assert linear_cka(1e-9 * x, y, biased) == pytest.approx(linear_cka(x, y, biased), abs=1e-11)      # small is not constant
    assert linear_cka(x + 1e4, y, biased) == pytest.approx(linear_cka(x, y, biased), abs=1e-6)


def test_all_pairs_in_one_product():
    layers = [normal(12, p, seed=p) for p in (3, 5, 9)] + list(related(12))
    cka, square = CKA(), CKA()
    cka.update([gram(x) for x in layers[:2]], [gram(x) for x in layers])
    square.update([gram(x) for x in layers])
    assert cka.compute().shape == (2, 5) and square.compute().dtype == torch.float64
    for i, x in enumerate(layers):
        for j, y in enumerate(layers):
            assert square.compute()[i, j].item() == pytest.approx(linear_cka(x, y), abs=1e-12)
    assert torch.allclose(cka.compute(), square.compute()[:2])


# --------------------------------------------------------------------------------------------------------- the examples

def test_poolings():
    x = normal(3, 7, 4)                                            # two prefix tokens, five patches
    assert torch.equal(examples(x, 2), x)
    assert torch.equal(examples(x, 2, "cls"), x[:, :1])
    assert torch.equal(examples(x, 2, "mean")[:, 0], x[:, 2:].mean(1))
    assert torch.equal(examples(x, 2, 0), x[:, 2:3]) and torch.equal(examples(x, 2, 4), x[:, 6:])
    maps = normal(3, 4, 2, 5)                                      # channels, rows, columns
    assert torch.equal(examples(maps, pooling=6)[:, 0], maps[:, :, 1, 1])
    assert torch.equal(examples(maps).permute(0, 2, 1).reshape(3, 4, 2, 5), maps)
    assert torch.allclose(examples(maps, pooling="mean")[:, 0], maps.mean((2, 3)))
    assert torch.equal(examples(x[:, 0]), x[:, :1])


def test_control_of_channels_undoes_a_gain():
    x = normal(20, 7, 6) + 0.5 * normal(7, 6, seed=1)
    gain, shift = normal(6, seed=2).exp() * torch.tensor([1, -1, 30, 1, 1, 1]), normal(6, seed=3)
    for pooling in ("flat", "cls", "mean", 3):
        a, b = (examples(z, 1, pooling, "channels") for z in (x, gain * x + shift))
        assert linear_cka(a, b) == pytest.approx(1, abs=1e-11)
        assert linear_cka(examples(x, 1, pooling), examples(gain * x + shift, 1, pooling)) < 0.8
        assert torch.allclose(a.square().mean((0, 1)), torch.ones(6, dtype=torch.float64))
        assert torch.allclose(a.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    still = x.clone()
    still[..., 2] = 0.5                                            # a channel that never changes stays out
    assert linear_cka(examples(still, control="channels"), examples(x[..., [0, 1, 3, 4, 5]], control="channels")) == \
        pytest.approx(1, abs=1e-11)


def test_control_of_tokens_is_a_layernorm_without_gain():
    x = 3 * normal(5, 7, 6) + 2
    norm = nn.LayerNorm(6, eps=1e-6, elementwise_affine=False)
    for pooling in ("flat", "cls", "mean", 3):
        assert torch.allclose(examples(x, 1, pooling, "tokens"), examples(norm(x), 1, pooling))
    maps = normal(3, 6, 2, 5)
    assert torch.allclose(examples(maps, control="tokens"), norm(maps.permute(0, 2, 3, 1)).flatten(1, 2))


@pytest.mark.parametrize(("change", "message"), [
    ({"pooling": "max"}, "no pooling 'max'; choose one of flat, cls, mean, or a patch from 0 to 4"),
    ({"pooling": 5}, "no pooling 5"), ({"pooling": -1}, "no pooling -1"),
    ({"prefix": 0, "pooling": "cls"}, "no CLS token here"),
    ({"control": "gain"}, "no control 'gain'; choose one of None, channels"),
    ({"activation": torch.zeros(3)}, r"an activation \(3,\), expected \(B, D\)")])
def test_examples_that_do_not_exist(change, message):
    with pytest.raises(CourseError, match=message):
        examples(**{"activation": normal(3, 7, 4), "prefix": 2} | change)


# --------------------------------------------------------------------------------------------------- networks and images

def vit(seed: int = 0, depth: int = 2) -> ViT:
    torch.manual_seed(seed)
    backbone = ViT(16, 4, dim=24, depth=depth, heads=3)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return backbone.eval()


class Photos:
    """A source that remembers which images were asked for."""
    name = "photos"

    def __init__(self, length: int = 24, size: int = 16, seed: int = 0):
        self.inner, self.asked = Shapes("val", size, length, seed=seed), []         # asked: numbers of each minibatch

    def __len__(self):
        return len(self.inner)

    def labels(self, indices):
        return self.inner.labels(indices)

    def images(self, indices):
        self.asked.append(indices.tolist())
        return self.inner.images(indices)


def test_a_heat_map_is_that_of_the_named_intermediates():
    backbone, other, source = vit(), vit(1, depth=1), Photos()
    found = similarity(Representations(backbone, source), Representations(other, source, pooling="mean"))
    assert found.rows == part_names(2) and found.columns == part_names(1) and found.values.shape == (21, 11)
    with torch.no_grad():
        images = normalize(source.images(torch.arange(24)))
        a, b = backbone.intermediates(images), other.intermediates(images)
    assert len(a) - 1 == 5
    for i, x in list(a.items())[:-1]:                              # the last is after the final norm
        for j, y in list(b.items())[:-1]:
            value = found.values[found.rows.index(i), found.columns.index(j)].item()
            assert value == pytest.approx(linear_cka(x, y[:, 1:].mean(1)), abs=1e-5)
    within = similarity(Representations(backbone, source))
    assert torch.allclose(within.values.diagonal(), torch.ones(21, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.allclose(within.values, within.values.T, atol=1e-12, rtol=0)
    assert within.values.min() < 0.9


def test_minibatches_add_up_and_hold_all_images_once():
    backbone, source = vit(depth=1), Photos(23)
    found = similarity(Representations(backbone, source), batch_size=6)
    assert [len(batch) for batch in source.asked] == [6, 6, 6, 5]
    order = list(itertools.chain(*source.asked))
    assert sorted(order) == list(range(23)) != order
    cka = CKA()
    for batch in source.asked:
        with torch.no_grad():
            named = backbone.intermediates(normalize(source.inner.images(torch.tensor(batch))))
        cka.update([gram(named[name]) for name in ("embedding", "block1.attention", "block1")])
    some = found.only(r"embedding|block1(\.attention)?")
    assert some.rows == some.columns == ["embedding", "block1.attention", "block1"]
    assert torch.allclose(some.values, cka.compute(), atol=1e-5)


def test_the_gram_matrices_of_one_minibatch_are_kept_and_no_more(monkeypatch):
    seen, alive = [], []

    def watched(x):
        found = gram(x)
        seen.append(weakref.ref(found))
        alive.append(sum(ref() is not None for ref in seen))
        return found

    monkeypatch.setattr(module, "gram", watched)
    similarity(Representations(vit(depth=1), Photos()), Representations(vit(1, depth=1), Photos()), batch_size=4)
    assert len(alive) == 6 * 22 and max(alive) == 22


def test_how_many_images_and_which():
    side, orders = Representations(vit(depth=1), Photos()), []
    for seed in (0, 0, 1):
        side.source.asked.clear()
        similarity(side, images=10, batch_size=5, seed=seed)
        assert [len(batch) for batch in side.source.asked] == [5, 5]
        orders.append(list(itertools.chain(*side.source.asked)))
    assert orders[0] == orders[1] != orders[2] and len(set(orders[0])) == len(set(orders[2])) == 10


def test_both_networks_see_the_same_images():
    small, large = Photos(size=16), Photos(size=32)
    torch.manual_seed(0)
    resnet = create_model("resnet10t", num_classes=0)
    stages = {f"stage{k}": getattr(resnet, f"layer{k}") for k in (1, 2, 3, 4)}
    found = similarity(Representations(vit(), small), Representations(resnet, large, stages), batch_size=8)
    assert small.asked == large.asked and len(small.asked) == 3
    assert found.columns == ["stage1", "stage2", "stage3", "stage4"] and found.values.isfinite().all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in resnet.modules()) and resnet.training
    with pytest.raises(CourseError, match="sources, of 24 and 20 images, differ in length or order of labels"):
        similarity(Representations(vit(), small), Representations(resnet, Photos(20, 32), stages))
    with pytest.raises(CourseError, match="sources, of 24 and 24 images, differ in length or order of labels"):
        similarity(Representations(vit(), small), Representations(resnet, Photos(24, 32, seed=1), stages))


def test_modules_of_any_network():
    torch.manual_seed(0)
    resnet, source = create_model("resnet10t", num_classes=0).eval(), Photos(size=32)
    found = similarity(Representations(resnet, source, {"late": resnet.layer4, "early": resnet.layer1}, pooling="mean"))
    assert found.rows == ["late", "early"]                         # as the caller ordered them
    with torch.no_grad():
        early = resnet.layer1(resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(normalize(source.images(torch.arange(24))))))))
        late = resnet.layer4(resnet.layer3(resnet.layer2(early)))
    assert found.values[0, 1].item() == pytest.approx(linear_cka(late.mean((2, 3)), early.mean((2, 3))), abs=1e-5)
    backbone, source = vit(), Photos()                             # of a ViT too, which has a CLS token
    named = similarity(Representations(backbone, source, {"one": backbone.blocks[0], "end": backbone.norm}, pooling="cls"))
    parts = similarity(Representations(backbone, source, pooling="cls")).values
    assert parts[:1].isnan().all() and parts[1:2].isnan().all()    # CLS in the embedding and its norm: one for all images
    with torch.no_grad():
        stops = backbone.intermediates(normalize(source.images(torch.arange(24))))
    expected = linear_cka(stops["block1"][:, 0], stops["norm"][:, 0])
    assert named.values[0, 1].item() == pytest.approx(expected, abs=1e-5)


def test_a_gain_that_was_learned_is_controlled_for():
    plain, source = vit(depth=1), Photos()
    gained = copy.deepcopy(plain)
    with torch.no_grad():
        gained.blocks[0].norm1.weight.mul_(torch.tensor([20.0] + 23 * [1.0]))
    free = similarity(*(Representations(net, source) for net in (plain, gained))).only(r".*norm1").values.item()
    kept = similarity(*(Representations(net, source, control="channels") for net in (plain, gained))).only(r".*norm1")
    assert free < 0.97 and kept.values.item() == pytest.approx(1, abs=1e-6)


def test_two_processes_add_up_to_one(monkeypatch):
    side, sums = Representations(vit(depth=1), Photos(22)), []
    expected = similarity(side, batch_size=6).values
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: 2)
        patch.setattr(distributed, "mean", lambda x: (sums.append(x), x)[1])
        for rank in (0, 1):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            similarity(side, batch_size=6)
        with pytest.raises(CourseError, match="1 minibatches for 2 processes"):
            similarity(side)
    cross, first, second = (sums[k] + sums[k + 3] for k in range(3))
    assert torch.allclose(cross / (first[:, None] * second).sqrt(), expected)


@pytest.mark.parametrize(("change", "message"), [
    ({"batch_size": 3}, r"3 image\(s\) in a minibatch, unbiased CKA needs at least 4"),
    ({"images": 3}, r"3 image\(s\) in a minibatch"), ({"images": 9, "batch_size": 4}, r"3 image\(s\) in a minibatch"),
    ({"batch_size": 0}, r"0 image\(s\) in a minibatch"),
    ({"batch_size": 1, "biased": True}, r"1 image\(s\) in a minibatch, biased CKA needs at least 2"),
    ({"images": 25}, "25 images of 24"), ({"images": 0}, "0 images of 24")])
def test_too_few_images(change, message):
    source = Photos()
    with pytest.raises(CourseError, match=message):
        similarity(Representations(vit(depth=1), source), **change)
    assert source.asked == []                                      # before any work


def test_layers_that_do_not_fit():
    with pytest.raises(CourseError, match="layers of 5 and of 6 images cannot be compared"):
        linear_cka(normal(6, 2), normal(5, 2))
    with pytest.raises(CourseError, match=r"3 image\(s\) in a minibatch"):
        linear_cka(normal(3, 2), normal(3, 2))
    with pytest.raises(CourseError, match="ResNet has no attention blocks"):
        similarity(Representations(create_model("resnet10t", num_classes=0), Photos()))
    patches = VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, class_token=False,
                                global_pool="avg")
    with pytest.raises(CourseError, match="no CLS token here"):
        similarity(Representations(patches, Photos(), pooling="cls"))
    broken = vit(depth=1)
    with torch.no_grad():
        broken.blocks[0].mlp.fc1.bias[0] = torch.nan
    with pytest.raises(CourseError, match=r"first out of block1\.fc1 in a minibatch of photos"):
        similarity(Representations(broken, Photos()))
