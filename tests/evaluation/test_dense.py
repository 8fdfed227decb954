"""Linear segmentation: exact where tokens tell the class, at the mean mask where they tell nothing, against slow counts."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib.data.pairs import VOID
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.evaluation import dense
from lib.evaluation.dense import IntersectionOverUnion, class_shares, dense_probe, fit, patch_tokens, upsample
from lib.models.vit import ViT


def random_masks(n: int, height: int, width: int, classes: int, seed: int = 0, void: bool = False) -> torch.Tensor:
    return torch.randint(VOID if void else 0, classes, (n, height, width), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------- class shares

def test_shares_against_a_loop():
    masks = random_masks(3, 8, 12, 4, void=True)
    shares = class_shares(masks, (2, 3), 4)                        # cells of 4 x 4 pixels
    assert shares.shape == (3, 4, 2, 3)
    for b in range(3):
        for row in range(2):
            for column in range(3):
                pixels = [masks[b, 4 * row + i, 4 * column + j].item() for i in range(4) for j in range(4)]
                assert shares[b, :, row, column].tolist() == [pixels.count(k) / 16 for k in range(4)]
    assert shares.sum(1).min() < 1


def test_masks_that_do_not_divide_are_named():
    with pytest.raises(CourseError, match="masks of 9 x 12 pixels do not divide into 2 x 3 cells"):
        class_shares(torch.zeros(1, 9, 12), (2, 3), 2)


# ---------------------------------------------------------------------------------------------- intersection over union

def slow_iou(predicted: list[torch.Tensor], truth: list[torch.Tensor], classes: int) -> list[float | None]:
    answer = []
    for k in range(classes):
        both = either = 0
        for p, t in zip(predicted, truth, strict=True):
            for a, b in zip(p.flatten().tolist(), t.flatten().tolist(), strict=True):
                if b != VOID:
                    both += a == k and b == k
                    either += a == k or b == k
        answer.append(both / either if either else None)
    return answer


def test_iou_against_a_loop_whatever_the_batches():
    predicted, truth = random_masks(7, 5, 6, 3, seed=1), random_masks(7, 5, 6, 3, seed=2, void=True)
    expected = slow_iou(list(predicted), list(truth), 3)
    for batch in (1, 3, 7):
        metric = IntersectionOverUnion(4)                          # of which the last never occurs
        for p, t in zip(predicted.split(batch), truth.split(batch), strict=True):
            metric.update(p, t)
        result = metric.compute()
        assert result["iou"] == pytest.approx([*expected, None])
        assert result["miou"] == metric.miou() == pytest.approx(sum(expected) / 3)


def test_pixels_count_alike_over_images():
    """The counts are added up before the division: a large object weighs more than a small one."""
    metric = IntersectionOverUnion(2)
    truth = torch.zeros(2, 4, 4, dtype=torch.int64)
    truth[0, :2], truth[1, 0, 0] = 1, 1                             # objects of 8 pixels and of 1
    predicted = truth.clone()
    predicted[1, 0, 0] = 0                                         # the small one is missed
    metric.update(predicted, truth)
    assert metric.compute()["iou"] == pytest.approx([23 / 24, 8 / 9])


def test_interval_of_miou_against_other_draws():
    truth = random_masks(60, 6, 6, 2, seed=1)
    errors = torch.rand(60, 6, 6, generator=torch.Generator().manual_seed(2)) < torch.linspace(0, 0.6, 60)[:, None, None]
    predicted = torch.where(errors, 1 - truth, truth)
    metric = IntersectionOverUnion(2)
    metric.update(predicted, truth)
    rng, means = np.random.default_rng(7), []
    for _ in range(400):
        drawn = rng.integers(60, size=60)
        p, t = predicted[drawn], truth[drawn]
        means.append(sum(((p == k) & (t == k)).sum().item() / ((p == k) | (t == k)).sum().item() for k in range(2)) / 2)
    low, high = metric.compute()["interval"]
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)
    assert low < metric.miou() < high and high - low > 0.05
    metric = IntersectionOverUnion(2)
    metric.update(predicted[:1].expand(9, -1, -1), truth[:1].expand(9, -1, -1))
    low, high = metric.compute()["interval"]
    assert low == pytest.approx(high)                              # nine times the same image


# ------------------------------------------------------------------------------------------------------- the linear layer

def test_upsampling_agrees_with_a_loop():
    """Bilinear with the centres of patches in place: output (0, 0) lies a quarter of a patch before the first centre."""
    g = torch.Generator().manual_seed(0)
    tokens, weights = torch.randn(2, 6, 5, generator=g).double(), torch.randn(6, 3, generator=g).double()
    maps = upsample(tokens, weights, (2, 3), (8, 9))
    assert maps.shape == (2, 3, 8, 9)
    logits = [[[sum(tokens[b, p, d] * weights[d, c] for d in range(5)) + weights[5, c] for c in range(3)]
               for p in range(6)] for b in range(2)]
    for b, c, y, x in ((0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 7, 8), (1, 1, 4, 2)):
        v, u = min(max((y + 0.5) / 4 - 0.5, 0), 1), min(max((x + 0.5) / 3 - 0.5, 0), 2)
        expected = 0.0
        for row in range(2):
            for column in range(3):
                expected += max(0, 1 - abs(v - row)) * max(0, 1 - abs(u - column)) * logits[b][3 * row + column][c]
        assert maps[b, c, y, x].item() == pytest.approx(float(expected))


def test_fit_is_at_the_minimum_of_the_mean_loss_over_quarters():
    """The gradient of the loss, written pixel by pixel, vanishes; a VOID pixel adds nothing."""
    g = torch.Generator().manual_seed(0)
    tokens, masks = torch.randn(8, 6, 4, generator=g).double(), random_masks(8, 8, 12, 3, void=True)
    weights = fit(tokens, masks, (2, 3), 3, 0.01).requires_grad_()
    quarters = upsample(tokens, weights, (2, 3), (4, 6)).log_softmax(1)
    pixels = quarters.repeat_interleave(2, 2).repeat_interleave(2, 3)              # (8, 3, 8, 12): four pixels a quarter
    chosen = pixels.gather(1, masks.clamp(min=0)[:, None])[:, 0]
    loss = -(chosen * (masks != VOID)).mean() + 0.005 * weights[:-1].square().sum()
    loss.backward()
    assert weights.grad.abs().max() < 1e-3 and loss < math.log(3) * (masks != VOID).double().mean()


def test_fit_comes_near_to_training_on_every_pixel():
    """Quarters are enough, whole patches are not: outlines that lie across patches get blunt."""
    axis = torch.arange(32).float()
    centres = 8 + 16 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    distance = ((axis[:, None] - centres[:, 0, None, None]) ** 2 + (axis[None] - centres[:, 1, None, None]) ** 2).sqrt()
    masks = (distance < 7).long()                                  # disks, and tokens that know how far their middle is
    tokens = (distance[:, 3::8, 3::8].flatten(1, 2)[..., None] - 7) / 8
    tokens = torch.cat([tokens, tokens.square()], -1)

    def miou(weights):
        metric = IntersectionOverUnion(2)
        metric.update(upsample(tokens, weights, (4, 4), (32, 32)).argmax(1), masks)
        return metric.miou()

    def on(cells):
        weights, shares = torch.zeros(3, 2, requires_grad=True), class_shares(masks, (cells, cells), 2)
        optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(upsample(tokens, weights, (4, 4), (cells, cells)), shares)
            loss.backward()
            return loss

        optimizer.step(closure)
        return miou(weights.detach())

    assert miou(fit(tokens, masks, (4, 4), 2, 1e-6)) == pytest.approx(on(32), abs=0.02)
    assert on(4) < on(32) - 0.02


# ------------------------------------------------------------------------------------------------------------- tokens

def timm_vit(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=0) | changes)


def pictures(height: int = 16, width: int = 16, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("options", "prefix"), [({}, 1), ({"reg_tokens": 3}, 4), ({"class_token": False,
                                                                                    "global_pool": "avg"}, 0)])
def test_prefix_tokens_are_no_patches(options, prefix):
    network = timm_vit(**options).eval()
    with torch.no_grad():
        every = network.forward_features(pictures())
    tokens = patch_tokens(network, pictures())
    assert tokens.shape == (3, 16, 24) and every.shape[1] == 16 + prefix
    torch.testing.assert_close(tokens, every[:, prefix:])


def test_depths_are_those_of_the_named_intermediates():
    torch.manual_seed(0)
    network = ViT(16, 4, dim=24, depth=3, heads=2, positions="relative").eval()
    with torch.no_grad():
        nn.init.normal_(network.bias_table)
        named = network.intermediates(pictures())
    for depth, name in ((0, "embedding"), (1, "block1"), (3, "block3"), (None, "norm")):
        torch.testing.assert_close(patch_tokens(network, pictures(), depth), named[name][:, 1:])


def test_the_backbone_is_left_as_it_was():
    network = ViT(16, 4, dim=24, depth=2, heads=2, drop_path=0.5).train()
    first = patch_tokens(network, pictures(), 2)
    assert network.training and not first.requires_grad and torch.equal(first, patch_tokens(network, pictures(), 2))
    broken = ViT(16, 4, dim=24, depth=2, heads=2).train()
    broken.norm = None                                             # an error on the way
    broken.norm = nn.LayerNorm(7)
    with pytest.raises(RuntimeError):
        patch_tokens(broken, pictures(), 1)
    for net in (network, broken):
        assert net.training and not any(m._forward_pre_hooks for m in net.modules())


def test_wrong_tokens_are_named():
    network = timm_vit()
    for depth in (-1, 3):
        with pytest.raises(CourseError, match=rf"there is no depth {depth}; this backbone has 0 \(the embedding\) to 2"):
            patch_tokens(network, pictures(), depth)
    with pytest.raises(CourseError, match=r"takes images of 16 x 16 pixels, got \(32, 16\): open the source at that size"):
        patch_tokens(network, pictures(32, 16))
    network.norm.bias.data[2] = math.nan
    with pytest.raises(CourseError, match="patch tokens are not finite"):
        patch_tokens(network, pictures())


# ---------------------------------------------------------------------------------------------------------- the whole probe

class Painted:
    """A source of masks made of whole patches, painted in the red channel; or of anything else that is given."""
    name = "painted"

    def __init__(self, masks: torch.Tensor, images: torch.Tensor | None = None):
        self.all_masks = masks
        self.all_images = (masks * 100).to(torch.uint8)[:, None].expand(-1, 3, -1, -1) if images is None else images

    def __len__(self):
        return len(self.all_masks)

    def images(self, indices):
        return self.all_images[indices]

    def masks(self, indices):
        return self.all_masks[indices]


class Looker(nn.Module):
    """A backbone whose patch tokens are what `see` makes of the patches (B, 3, rows, columns, 4, 4)."""

    def __init__(self, see, grid=(4, 6), prefix=2):
        super().__init__()
        self.see, self.num_prefix_tokens, self.blocks, self.norm = see, prefix, nn.ModuleList([nn.Identity()]), nn.Identity()
        self.patch_embed = nn.Module()
        self.patch_embed.grid_size, self.patch_embed.img_size = grid, (4 * grid[0], 4 * grid[1])
        self.weight = nn.Parameter(torch.zeros(()))

    def forward_features(self, images):
        tokens = self.see(images.unfold(2, 4, 4).unfold(3, 4, 4))                 # (B, rows, columns, D)
        tokens = tokens.flatten(1, 2)
        decoys = 1000 * torch.randn(len(tokens), self.num_prefix_tokens, tokens.shape[-1])
        return self.norm(self.blocks[0](torch.cat([decoys, tokens], 1)))


def colours(patches: torch.Tensor) -> torch.Tensor:
    """Mean and its square of the red channel: enough to tell three classes apart by a linear layer."""
    red = patches[:, 0].mean((-2, -1))
    return torch.stack([red, red**2], -1)


def painted(n: int, classes: int, seed: int) -> Painted:
    """Stripes as wide as patches: their outlines are straight and half way between patches, where bilinear ones are."""
    return Painted(random_masks(n, 1, 6, classes, seed).repeat_interleave(4, 2).repeat(1, 16, 1))


def test_tokens_that_tell_the_class_find_it():
    """On a grid of 4 x 6 patches, behind two prefix tokens."""
    result = dense_probe(Looker(colours), painted(60, 2, 0), painted(20, 2, 1))
    assert result["miou"] > 0.999 and result["iou"] == pytest.approx({"ground": 1, "object": 1}, abs=1e-3)
    assert 0.2 < result["prior"] < 0.6 and (result["training_images"], result["validation_images"]) == (60, 20)
    three = dense_probe(Looker(colours), painted(60, 3, 0), painted(20, 3, 1), classes=("a", "b", "c"))
    assert three["miou"] > 0.9 and list(three["iou"]) == ["a", "b", "c"]


def test_tokens_are_standardised():
    """Neither the scale of a feature nor its offset matters, in training as in validation."""
    train, val = painted(24, 2, 0), painted(5, 2, 1)
    train.all_images = train.all_images // 2 + random_masks(24, 16, 24, 90)[:, None].to(torch.uint8)      # not too easy
    plain = dense_probe(Looker(colours), train, val)
    other = dense_probe(Looker(lambda patches: 1000 * colours(patches) + 5), train, val)
    assert other["miou"] == pytest.approx(plain["miou"], abs=0.01) and other["weight_decay"] == plain["weight_decay"]


def test_constant_features_give_the_commonest_class():
    train, val = painted(60, 2, 0), painted(20, 2, 1)
    for source in (train, val):
        source.all_masks = torch.where(random_masks(len(source), 16, 24, 2, seed=5) == 1, 0, source.all_masks)   # ground wins
    result = dense_probe(Looker(lambda patches: torch.ones(*patches[:, 0, :, :, 0, 0].shape, 3)), train, val)
    ground = (val.all_masks == 0).double().mean().item()
    assert result["miou"] == pytest.approx(ground / 2) and result["iou"] == pytest.approx({"ground": ground, "object": 0})


def test_position_alone_gives_the_prior():
    """Objects that always lie at the same place: the average mask finds them, tokens of a blind backbone do not."""
    masks = torch.zeros(40, 16, 24, dtype=torch.int64)
    masks[:, 3:9, 5:17] = 1
    source = Painted(masks, torch.zeros(40, 3, 16, 24, dtype=torch.uint8))
    result = dense_probe(Looker(colours), source, source)
    assert result["prior"] == 1 and result["miou"] == pytest.approx((masks == 0).double().mean().item() / 2)


def test_void_pixels_have_no_say():
    train, val = painted(60, 2, 0), painted(20, 2, 1)
    whole = dense_probe(Looker(colours), train, val)
    for source in (train, val):                                    # the left half would teach the opposite
        source.all_images = source.all_images.clone()
        source.all_images[..., :8] = (100 * (1 - source.all_masks[..., :8]))[:, None].to(torch.uint8)
        source.all_masks[..., :12] = VOID                          # and a column of patches, for the bilinear outlines
    assert dense_probe(Looker(colours), train, val)["miou"] == pytest.approx(whole["miou"], abs=1e-3)


def test_whole_images_are_held_out_and_the_best_decay_is_used(monkeypatch):
    seen = []

    def watched(tokens, masks, grid, classes, weight_decay):
        seen.append((len(tokens), weight_decay))
        return fit(tokens, masks, grid, classes, weight_decay) if weight_decay == 1e-3 else torch.zeros(3, 2)

    monkeypatch.setattr(dense, "fit", watched)
    result = dense_probe(Looker(colours), painted(60, 2, 0), painted(20, 2, 1))
    assert seen == [(54, decay) for decay in dense.WEIGHT_DECAYS] + [(60, 1e-3)]
    assert result["weight_decay"] == 1e-3 and result["miou"] > 0.99


def test_validation_images_have_no_say():
    """Images of another kind beside them change neither the layer nor what it says of an image."""
    train, val, other = painted(24, 2, 0), painted(5, 2, 1), painted(5, 2, 2)
    train.all_images = train.all_images // 2 + random_masks(24, 16, 24, 90)[:, None].to(torch.uint8)      # not too easy
    alone = dense_probe(Looker(colours), train, val)
    other.all_masks[:] = VOID
    both = Painted(torch.cat([val.all_masks, other.all_masks]), torch.cat([val.all_images, 255 - other.all_images]))
    beside = dense_probe(Looker(colours), train, both)
    for entry in ("miou", "iou", "prior", "weight_decay"):
        assert alone[entry] == pytest.approx(beside[entry])


def test_it_runs_on_shapes_at_any_depth_and_says_the_same_twice():
    torch.manual_seed(0)
    network = ViT(16, 4, dim=24, depth=2, heads=2)
    train, val = Shapes("train", 16, length=24), Shapes("val", 16, length=70)        # more than a batch
    result = dense_probe(network, train, val)
    assert result == dense_probe(network, train, val) and result["validation_images"] == 70
    assert result["miou"] != dense_probe(network, train, val, depth=1)["miou"]
    masks = val.masks(torch.arange(70))
    prior = torch.stack([train.masks(torch.arange(24)).float().mean(0) > 0.5] * 70)
    expected = [((prior == k) & (masks == k)).sum() / ((prior == k) | (masks == k)).sum() for k in (False, True)]
    assert result["prior"] == pytest.approx(float(sum(expected)) / 2)


def test_images_are_normalised_as_asked():
    seen = []
    network = Looker(lambda patches: seen.append(patches[0, :, 0, 0, 0, 0].tolist()) or colours(patches))
    train = painted(20, 2, 0)
    first = train.all_images[0, :, 0, 0]
    dense_probe(network, train, train)
    dense_probe(network, train, train, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    assert seen[0] == pytest.approx(normalize(first[:, None, None])[:, 0, 0].tolist(), abs=1e-5)
    assert seen[-1] == seen[2] == pytest.approx(((first / 255 - 0.5) / torch.tensor([0.25, 0.5, 1.0])).tolist(), abs=1e-5)


def test_wrong_sources_are_named():
    network = Looker(colours)
    with pytest.raises(CourseError, match="at least 20 training and 1 validation images, got 19 and 5"):
        dense_probe(network, painted(19, 2, 0), painted(5, 2, 0))
    with pytest.raises(CourseError, match=r"a mask of painted holds class 2, and only 2 are named \(ground, object\)"):
        dense_probe(network, painted(30, 3, 0), painted(5, 2, 0))
    with pytest.raises(CourseError, match="a mask of painted holds class 2"):
        dense_probe(network, painted(30, 2, 0), painted(5, 3, 0))
