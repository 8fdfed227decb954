"""Features at any depth of any timm ViT, against the models' own ways of telling them."""
import math

import pytest
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from lib.data import Loaded, open_source
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.evaluation.features import extract, extract_depths, pooled, standardize
from lib.models.vit import ViT

TINY = dict(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=2)
DEPTHS = (0, 1, 2, 3, None)
MODELS = {
    "course": lambda: ViT(16, 4, dim=24, depth=3, heads=2, drop_path=0.5),
    "course, relative": lambda: ViT(16, 4, dim=24, depth=3, heads=2, positions="relative", layer_scale=0.5),
    "timm": lambda: VisionTransformer(**TINY, num_classes=7),
    "timm, mean": lambda: VisionTransformer(**TINY, num_classes=7, global_pool="avg"),
    "timm, registers": lambda: VisionTransformer(**TINY, num_classes=0, reg_tokens=4, pre_norm=True),
    "deit": lambda: VisionTransformerDistilled(**TINY, num_classes=7),
    "beit": lambda: Beit(**TINY, num_classes=7, global_pool="token", use_abs_pos_emb=False, use_shared_rel_pos_bias=True,
                         init_values=0.5),
    "beit, mean": lambda: Beit(**TINY, num_classes=7, use_rel_pos_bias=True),
}
PREFIX = {"deit": 2, "timm, registers": 5}


@pytest.fixture(scope="module")
def source() -> Loaded:
    return Loaded(open_source("shapes", "val", 16, limit=20))


def model(name: str):
    """With every weight moved, so that biases, positions and layer scales are not at a start that hides them."""
    torch.manual_seed(0)
    network = MODELS[name]()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def slow_tokens(name: str, network, images: torch.Tensor) -> dict[int | None, torch.Tensor]:
    """Tokens at each depth, from `ViT.intermediates` or timm's `forward_intermediates`, neither of which uses hooks."""
    network.eval()
    with torch.no_grad():
        if isinstance(network, ViT):
            named = network.intermediates(images)
            return {0: named["embedding"], **{k: named[f"block{k}"] for k in (1, 2, 3)}, None: named["norm"]}
        blocks = network.forward_intermediates(images, norm=False, output_fmt="NLC", return_prefix_tokens=True,
                                               intermediates_only=True)
        tokens = {k: torch.cat([prefix, patches], 1) for k, (patches, prefix) in enumerate(blocks, start=1)}
        if isinstance(network, Beit):
            patches = network.patch_embed(images)
            tokens[0] = torch.cat([network.cls_token.expand(len(images), -1, -1), patches], 1)
            tokens[0] = tokens[0] if network.pos_embed is None else tokens[0] + network.pos_embed
        else:
            tokens[0] = network.norm_pre(network._pos_embed(network.patch_embed(images)))
        return tokens | {None: network.norm(tokens[3])}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", MODELS)
def test_every_depth_is_what_the_model_says_it_is(name, pooling, source):
    network = model(name)
    tokens = slow_tokens(name, network, normalize(source.images(torch.arange(20))))
    features, labels = extract_depths(network.train(), source, DEPTHS, pooling, batch_size=8)
    assert network.training and not features[2].requires_grad
    assert list(features) == list(DEPTHS) and torch.equal(labels, source.labels(torch.arange(20)))
    for depth in DEPTHS:
        rows = [image[0] if pooling == "cls" else image[PREFIX.get(name, 1):].mean(0) for image in tokens[depth]]
        expected = torch.stack(rows)
        expected = network.fc_norm(expected).detach() if depth is None else expected
        torch.testing.assert_close(features[depth], expected, rtol=0, atol=2e-5)
        assert torch.equal(features[depth], extract(network, source, pooling, 8, depth)[0])
        assert depth == 3 or (features[depth] - features[3]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["course", "timm, registers", "timm, mean"])
def test_all_tokens_and_single_patches(name, source):
    network = model(name)
    prefix, tokens = PREFIX.get(name, 1), slow_tokens(name, network, normalize(source.images(torch.arange(20))))
    everything = extract_depths(network, source, DEPTHS, "tokens", batch_size=8)[0]
    for depth in DEPTHS:
        expected = network.fc_norm(tokens[depth]).detach() if depth is None else tokens[depth]
        torch.testing.assert_close(everything[depth], expected, rtol=0, atol=2e-5)
        for patch in (0, 7, 15):
            one = extract(network, source, patch, depth=depth)[0]
            torch.testing.assert_close(one, expected[:, prefix + patch], rtol=0, atol=2e-5)
    assert everything[1].shape == (20, prefix + 16, 24)


@pytest.mark.parametrize("name", ["course", "timm, registers", "timm, mean", "beit"])
def test_several_vectors_side_by_side(name, source, monkeypatch):
    monkeypatch.setitem(TINY, "depth", 5)
    monkeypatch.setitem(MODELS, "course", lambda: ViT(16, 4, dim=24, depth=5, heads=2))
    network, images = model(name).eval(), normalize(source.images(torch.arange(20)))
    after = network.forward_intermediates(images, norm=False, output_fmt="NLC", return_prefix_tokens=True,
                                          intermediates_only=True)
    with torch.no_grad():
        four = [network.fc_norm(network.norm(prefix[:, 0])) for _, prefix in after[-4:]]
        tokens = network.norm(torch.cat([after[-1][1], after[-1][0]], 1))
        both = [network.fc_norm(x) for x in (tokens[:, 0], tokens[:, PREFIX.get(name, 1):].mean(1))]
    for pooling, expected in (("cls4", four), ("cls+mean", both)):
        found = extract(network, source, pooling, batch_size=8)[0]
        assert found.shape == (20, len(expected) * 24)
        for part, one in zip(found.split(24, 1), expected, strict=True):
            torch.testing.assert_close(part, one, rtol=0, atol=2e-5)
    torch.testing.assert_close(extract(network, source, "cls+mean", depth=3)[0][:, :24], extract(network, source, depth=3)[0])


@pytest.mark.parametrize("name", ["timm", "timm, mean", "beit", "beit, mean"])
def test_the_end_is_what_the_model_puts_before_its_head(name, source):
    network = model(name).eval()
    with torch.no_grad():
        tokens = network.forward_features(normalize(source.images(torch.arange(20))))
        before_head = network.forward_head(tokens, pre_logits=True)
    features, _ = extract(network, source, "mean" if "mean" in name else "cls")
    torch.testing.assert_close(features, before_head, rtol=0, atol=1e-5)


def test_all_depths_come_from_one_pass_over_the_images(source):
    network, read = model("course"), []
    count = network.blocks[1].norm2.register_forward_hook(lambda module, inputs, output: read.append(len(output)))
    extract_depths(network, source, DEPTHS, batch_size=8)
    assert read == [8, 8, 4]
    count.remove()


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_features_at_a_depth_do_not_depend_on_the_batch_size(batch_size, source):
    network = model("course, relative")
    whole, parts = (extract_depths(network, source, (0, 2), "mean", n)[0] for n in (256, batch_size))
    for depth in (0, 2):
        torch.testing.assert_close(parts[depth], whole[depth], rtol=0, atol=1e-5)


def test_a_backbone_is_left_as_it_was(source):
    network = model("course").train()
    first = extract_depths(network, source, DEPTHS)[0]
    assert network.training
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in network.blocks)
    network.blocks[1].mlp.fc2.bias.data[3] = math.nan
    for pooling in ("cls", "tokens"):
        with pytest.raises(CourseError, match="features are not finite, first for image 0 of shapes at depth 2: the weights"):
            extract_depths(network, source, (0, 1, 2), pooling)
    assert torch.equal(extract_depths(network, source, (0, 1))[0][1], first[1])    # before the damage nothing is wrong
    assert network.training


def test_hooks_and_mode_are_cleared_after_an_error():
    network = model("course").train()
    with pytest.raises(CourseError, match="normalised float images"):
        pooled(network, torch.zeros(2, 3, 20, 20), DEPTHS)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in network.blocks)

    class Broken(Loaded):
        def images(self, indices):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        extract(network, Broken(Shapes("val", 16, 2)))
    assert network.training


def test_other_weights_get_other_normalisation(source):
    network = model("timm")
    images = source.images(torch.arange(20)).double() / 255
    by_hand = torch.stack([(images[:, c] - m) / s for c, (m, s) in enumerate(zip((0.5, 0.4, 0.3), (0.5, 0.25, 0.2)))], 1)
    torch.testing.assert_close(standardize(source.images(torch.arange(20)), (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)),
                               by_hand.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(standardize(images, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)), by_hand.float(), rtol=0, atol=1e-5)
    with torch.no_grad():
        expected = network.eval().forward_features(by_hand.float())[:, 0]
    features, _ = extract(network, source, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    assert torch.equal(extract(network, source)[0],
                       extract(network, source, mean=None, std=None)[0]) and (extract(network, source)[0] - features).any()
    imagenet = extract(network, source, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))[0]
    torch.testing.assert_close(extract(network, source)[0], imagenet, rtol=0, atol=1e-5)


def test_a_backbone_of_another_precision(source):
    network = model("course").eval()
    single, double = extract(network, source, "mean", depth=2)[0], extract(network.double(), source, "mean", depth=2)[0]
    assert double.dtype == torch.float32
    torch.testing.assert_close(double, single, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("changes", "said"), [
    (dict(depth=4), r"there is no depth 4; this backbone has 0 \(the embedding\) to 3, and None for the end"),
    (dict(depth=-1), "there is no depth -1"),
    (dict(depth=1.5), "there is no depth 1.5"),
    (dict(pooling="max"), r"there is no pooling 'max'; choose one of cls, mean, cls\+mean, cls4, tokens, or a patch from 0 to"),
    (dict(pooling=16), r"there is no pooling 16; .*, or a patch from 0 to 15"),
    (dict(pooling="cls4"), "cls4 joins the last four blocks, of 3 here; leave the depth out, or choose the pooling cls"),
    (dict(pooling=-1), "there is no pooling -1"),
    (dict(mean=(0.5, 0.5, 0.5)), "mean and std are three numbers each"),
    (dict(std=(0.5, 0.5, 0.5)), "mean and std are three numbers each"),
    (dict(mean=(0.5,), std=(0.5, 0.5, 0.5)), "mean and std are three numbers each"),
    (dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.0, 0.5)), "std greater than 0"),
])
def test_what_cannot_be_asked_for_is_named(changes, said, source):
    with pytest.raises(CourseError, match=said):
        extract(model("course"), source, **changes)


def test_what_does_not_fit_is_named(source):
    with pytest.raises(CourseError, match="no depth was asked for"):
        extract_depths(model("course"), source, ())
    large = VisionTransformer(**TINY | dict(img_size=32))
    with pytest.raises(CourseError, match="takes images of 32 x 32 pixels, those of shapes have 16; open the source at"):
        extract(large, source)
    without = VisionTransformer(**TINY, class_token=False, global_pool="avg")
    with pytest.raises(CourseError, match="no CLS token; choose the pooling mean"):
        extract(without, source)
    assert extract(without, source, "mean", depth=1)[0].shape == (20, 24)


def test_images_of_any_size_where_the_model_takes_them(source):
    free = VisionTransformer(**TINY | dict(img_size=32), dynamic_img_size=True)
    assert extract(free, source, depth=2)[0].shape == (20, 24)
    course = ViT(32, 4, dim=24, depth=3, heads=2)
    course.any_size = True
    assert extract(course, source, depth=2)[0].shape == (20, 24)
