"""Fine-tuning: layers and groups by hand, the wiring of a step, a toy that can be learned, and what must not change."""
import copy
import math
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib.data import mixing
from lib.data.views import normalize
from lib.errors import CourseError
from lib.evaluation import finetune as module
from lib.evaluation.features import extract
from lib.evaluation.finetune import (
    RECIPES,
    FineTuneRecipe,
    finetune,
    layer_lr_scale,
    make_classifier,
    parameter_groups,
    predict,
)
from lib.models.vit import ViT

TINY = FineTuneRecipe(epochs=4, batch_size=32, learning_rate=5e-3, learning_rate_end=1e-4, warmup_epochs=1, layer_decay=0.8,
                      clip_norm=1.0, crop_min=0.4, erase=0.2, mixup=0.2, cutmix=0.3, jitter=0.5, rand_augment=0)


class Toy:
    """Noise in six tints, which are its classes."""
    name, size = "toy", 16

    def __init__(self, n: int, split: str = "train", size: int = 16):
        g = torch.Generator().manual_seed(len(split))
        self.split, self.size, self.classes = split, size, ["red", "green", "blue", "cyan", "magenta", "yellow"]
        self.truth = torch.randint(6, (n,), generator=g)
        tints = torch.cat([torch.eye(3), 1 - torch.eye(3)])[self.truth]              # (n, 3)
        self.pixels = (torch.rand(n, 3, size, size, generator=g) * 125 + 130 * tints[..., None, None]).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.truth)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        return self.pixels[indices]

    def labels(self, indices: torch.Tensor) -> torch.Tensor:
        return self.truth[indices]


TRAIN, VAL = Toy(96), Toy(200, "val")


class Darker(Toy):
    def images(self, indices):
        return super().images(indices) // 2


class Killed(Toy):
    """Raises at the so-many-th call for images."""

    def __init__(self, n: int, calls: int):
        super().__init__(n)
        self.left = calls

    def images(self, indices):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().images(indices)


def backbone(**changes) -> ViT:
    torch.manual_seed(0)
    return ViT(16, 4, dim=24, depth=2, heads=2, **changes)


def beit() -> Beit:
    """SimMIM's own network as timm knows it: one relative bias for all blocks, layer scale, final LayerNorm."""
    torch.manual_seed(0)
    return Beit(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=0, use_abs_pos_emb=False,
                use_shared_rel_pos_bias=True, init_values=1.0, global_pool="token")


def plain() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=7, reg_tokens=2,
                             init_values=1.0)


BACKBONES = {"sincos": backbone, "relative": lambda: backbone(positions="relative", mask_token=True, layer_scale=0.1),
             "timm": plain, "beit": beit}


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def accuracy(predictions: torch.Tensor) -> float:
    return (predictions == VAL.truth).float().mean().item()


# ---------------------------------------------------------------------------------------------------- layers and groups

@pytest.mark.parametrize(("name", "scale"), [
    ("cls_token", 0.125), ("pos_embed", 0.125), ("mask_token", 0.125), ("reg_token", 0.125), ("bias_table", 1.0),
    ("rel_pos_bias.relative_position_bias_table", 1.0), ("patch_embed.proj.weight", 0.125), ("patch_embed.proj.bias", 0.125),
    ("norm_pre.weight", 0.125), ("blocks.0.norm1.weight", 0.25), ("blocks.0.attn.qkv.bias", 0.25),
    ("blocks.1.mlp.fc2.weight", 0.5), ("norm.weight", 1.0), ("fc_norm.bias", 1.0), ("head.weight", 1.0), ("head.bias", 1.0),
])
def test_layer_decay_by_hand(name, scale):
    """Two blocks and a decay of 1/2: head 1, last block 1/2, first block 1/4, embedding 1/8."""
    assert layer_lr_scale(name, 2, 0.5) == scale
    assert layer_lr_scale(name, 2, 1.0) == 1


def test_layer_decay_of_a_base_model():
    """0.65^13, 0.65^12 and 0.65^1, worked out by hand."""
    assert layer_lr_scale("patch_embed.proj.weight", 12, 0.65) == pytest.approx(0.00369720, rel=1e-5)
    assert layer_lr_scale("blocks.0.attn.proj.weight", 12, 0.65) == pytest.approx(0.00568801, rel=1e-5)
    assert layer_lr_scale("blocks.11.attn.proj.weight", 12, 0.65) == 0.65


@pytest.mark.parametrize("name", ["attn_pool.kv.weight", "stages.0.weight", "backbone.blocks.0.weight"])
def test_a_parameter_of_no_layer_is_named(name):
    with pytest.raises(CourseError, match=f"^it is not known to which layer the parameter '{name}' belongs"):
        layer_lr_scale(name, 2, 0.5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_groups_hold_every_parameter_once(kind, pooling):
    network = make_classifier(BACKBONES[kind](), 3, pooling, 0.1)
    groups = parameter_groups(network, replace(TINY, layer_decay=0.5, weight_decay=0.07))
    found = {id(p): group for group in groups for p in group["params"]}
    named = dict(network.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(found) == len(named)
    for name, p in named.items():
        group = found[id(p)]
        assert group["lr_scale"] == layer_lr_scale(name, 2, 0.5)
        free = name.endswith("bias") or "norm" in name or "gamma" in name or name in ("cls_token", "reg_token", "pos_embed")
        assert group["weight_decay"] == (0 if free else 0.07), name
        assert p.requires_grad, name
    assert len(groups) == 8                                        # four layers, decayed or not


def test_relative_bias_and_mask_token_are_decayed():
    """As in SimMIM: its list of exceptions has CLS and positions only."""
    for kind, names in (("relative", ["bias_table", "mask_token"]), ("beit", ["rel_pos_bias.relative_position_bias_table"])):
        network = make_classifier(BACKBONES[kind](), 3, "mean", 0.1)
        decayed = {id(p) for group in parameter_groups(network, TINY) if group["weight_decay"] for p in group["params"]}
        for name in names:
            assert id(network.get_parameter(name)) in decayed


# ------------------------------------------------------------------------------------------------------- the classifier

@pytest.mark.parametrize("kind", BACKBONES)
def test_the_head_is_on_cls_or_on_the_mean_of_the_patches(kind):
    start, images = BACKBONES[kind]().eval(), normalize(VAL.images(torch.arange(5)))
    nn.init.normal_(start.norm.bias)                               # so that it shows which LayerNorm is used
    prefix = start.num_prefix_tokens
    tokens = start.forward_features(images)                        # (B, prefix + N, D), after the final LayerNorm
    start.norm, kept = nn.Identity(), start.norm
    before = start.forward_features(images)
    start.norm = kept

    network = make_classifier(start, 3, "cls", 0.0).eval()
    torch.testing.assert_close(network(images), network.head(tokens[:, 0]), rtol=0, atol=1e-6)
    network = make_classifier(start, 3, "mean", 0.0).eval()
    nn.init.normal_(network.head.weight)
    pooled = before[:, prefix:].mean(1)
    pooled = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(network(images), network.head(pooled), rtol=0, atol=1e-4)


def test_a_norm_behind_the_mean_that_is_there_already_stays():
    start = VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2, num_classes=0, global_pool="avg")
    nn.init.normal_(start.fc_norm.weight)
    assert torch.equal(make_classifier(start, 3, "mean", 0.0).fc_norm.weight, start.fc_norm.weight)


def test_the_head_starts_small():
    head = make_classifier(backbone(), 3, "cls", 0.0).head
    assert head.weight.shape == (3, 24) and 1e-5 < head.weight.std() < 3e-5 and not head.bias.any()


def test_drop_path_rises_to_the_last_block_and_replaces_that_of_the_pretraining():
    torch.manual_seed(0)
    start = ViT(16, 4, dim=24, depth=4, heads=2, drop_path=0.9)
    network = make_classifier(start, 3, "cls", 0.3)
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in network.blocks]
    assert rates == [(pytest.approx(r), pytest.approx(r)) for r in (0, 0.1, 0.2, 0.3)]
    one = make_classifier(ViT(16, 4, dim=24, depth=1, heads=2), 3, "cls", 0.3)
    assert one.blocks[0].drop_path1.drop_prob == 0


# ------------------------------------------------------------------------------------------------------------- the steps

@pytest.fixture(scope="module")
def watched():
    """One fine-tuning, with what every step did: learning rates, norms, keys and arguments of mixing, waits for the device."""
    seen = {"rates": [], "norms": [], "mix": [], "erase": [], "views": [], "waits": 0}

    class Watched(torch.optim.AdamW):
        def step(self):
            seen["rates"].append([(group["lr"], group["lr_scale"]) for group in self.param_groups])
            grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            seen["norms"].append(math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads)))
            super().step()

    def watch(name, function):
        def call(*arguments):
            seen[name].append(arguments)
            return function(*arguments)
        return call

    def item(tensor, original=torch.Tensor.item):
        seen["waits"] += 1
        return original(tensor)

    start = backbone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Watched)
        patch.setattr(module, "mix", watch("mix", mixing.mix))
        patch.setattr(module, "erase", watch("erase", mixing.erase))
        patch.setattr(module, "make_view", watch("views", module.make_view))
        patch.setattr(torch.Tensor, "item", item)
        seen["result"] = finetune(start, TRAIN, VAL, replace(TINY, epochs=5), "mean", seed=3, device="cpu")
    return seen


def test_learning_rates_of_all_steps(watched):
    """3 steps an epoch: one epoch up from 0, four down half a cosine to the end, times the share of each layer."""
    assert len(watched["rates"]) == 15
    for step, rates in enumerate(watched["rates"]):
        epoch = step / 3
        expected = 5e-3 * epoch if epoch < 1 else 1e-4 + (5e-3 - 1e-4) / 2 * (1 + math.cos(math.pi * (epoch - 1) / 4))
        assert len({scale for _, scale in rates}) == 4
        for rate, scale in rates:
            assert rate == pytest.approx(expected * scale, rel=1e-9)


def test_gradients_are_clipped(watched):
    assert max(watched["norms"]) <= 1 + 1e-4


def test_the_history_has_a_line_every_10_steps_and_one_at_the_end(watched):
    history = watched["result"].history
    assert [(line["step"], line["epoch"]) for line in history] == [(10, 10 / 3), (15, 5)]
    assert history[0]["learning_rate"] == watched["rates"][9][0][0] / watched["rates"][9][0][1]
    assert math.log(6) + 0.2 > history[0]["loss"] > history[1]["loss"] > 0


def test_the_device_is_waited_for_at_the_lines_of_the_history_only(watched):
    assert watched["waits"] == len(watched["result"].history)


def test_every_epoch_shows_every_image_once_with_draws_of_its_own(watched):
    keys = torch.stack([arguments[3] for arguments in watched["views"]])           # (15, 32)
    assert keys.unique().numel() == 15 * 32
    for epoch in keys.view(5, 96):
        shown = torch.cat([labels for _, labels, *_ in watched["mix"][:3]])
        assert len(epoch) == 96 and shown.bincount().tolist() == TRAIN.truth.bincount().tolist()
    for step in range(15):
        assert torch.equal(keys[step], watched["mix"][step][2]) and torch.equal(keys[step], watched["erase"][step][1])
    orders = {tuple(torch.cat([labels for _, labels, *_ in watched["mix"][s:s + 3]]).tolist()) for s in range(0, 15, 3)}
    assert len(orders) == 5


def test_views_erasing_and_mixing_are_those_of_the_recipe(watched):
    _, view, size, _ = watched["views"][0]
    assert (view.scale, view.flip, view.jitter, view.rand_augment, size) == ((TINY.crop_min, 1.0), 0.5, TINY.jitter,
                                                                             TINY.rand_augment, 16)
    assert watched["erase"][0][2] == TINY.erase
    assert watched["mix"][0][3:] == (6, TINY.mixup, TINY.cutmix, TINY.smoothing)


def test_the_first_loss_is_that_of_an_even_guess_on_soft_targets(watched):
    """Logits start at 0, so that the first loss is log 6 whatever the targets."""
    result = finetune(backbone(), TRAIN, VAL, replace(TINY, learning_rate=0, learning_rate_end=0), device="cpu")
    assert [line["loss"] for line in result.history] == [pytest.approx(math.log(6), abs=1e-3)] * 2


def test_a_step_in_parts_is_the_step(monkeypatch):
    """Three parts of unequal size: the same images pass, and the weights are the same to rounding. A mean of means is not."""
    sizes, r = [], replace(TINY, epochs=2, drop_path=0, batch_size=32)
    whole = finetune(backbone(), TRAIN, VAL, r, "mean", seed=3, device="cpu")
    cross_entropy = module.F.cross_entropy
    monkeypatch.setattr(module.F, "cross_entropy", lambda x, y, **o: (sizes.append(len(x)), cross_entropy(x, y, **o))[1])
    parts = finetune(backbone(), TRAIN, VAL, replace(r, accumulate=3), "mean", seed=3, device="cpu")
    assert sizes == [11, 11, 10] * 6
    for a, b in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)
    assert parts.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], abs=1e-5)


# ---------------------------------------------------------------------------------------------- what it does and leaves

@pytest.mark.parametrize(("kind", "pooling"), [("sincos", "cls"), ("sincos", "mean"), ("relative", "mean"), ("timm", "cls"),
                                               ("beit", "mean")])
def test_a_toy_is_learned_and_the_backbone_is_left_alone(kind, pooling):
    start = BACKBONES[kind]().train()
    start.patch_embed.requires_grad_(False)                        # as MoCo v3 leaves it
    before, frozen = weights(start), [p.requires_grad for p in start.parameters()]
    r = replace(TINY, epochs=8, mixup=0, cutmix=0, erase=0)
    result = finetune(start, TRAIN, VAL, r, pooling, device="cpu")
    still = finetune(start, TRAIN, VAL, replace(r, epochs=2, learning_rate=0, learning_rate_end=0), pooling, device="cpu")
    assert accuracy(result.predictions) > 0.9                      # six classes
    assert accuracy(still.predictions) < 0.6
    assert same(weights(start), before) and [p.requires_grad for p in start.parameters()] == frozen
    assert start.training and not any(isinstance(m, nn.Linear) and m.out_features == 6 for m in start.modules())
    after = weights(result.network)
    for name in set(before) & set(after) - {"mask_token", "head.weight", "head.bias"}:
        moves = not name.endswith(("relative_position_index", "k_bias"))
        assert torch.equal(after[name], before[name]) != moves, name
    if "mask_token" in before:                                     # nothing is masked, so nothing moves it
        assert torch.equal(after["mask_token"], before["mask_token"])


def test_the_same_seed_gives_the_same_network():
    r = replace(TINY, epochs=2, drop_path=0.5)
    first = finetune(backbone(), TRAIN, VAL, r, "mean", seed=1, device="cpu")
    start = backbone().requires_grad_(False).eval()
    torch.manual_seed(123)
    again = finetune(start, TRAIN, VAL, r, "mean", seed=1, device="cpu")
    assert same(weights(first.network), weights(again.network)) and first.history == again.history
    assert torch.equal(first.predictions, again.predictions)
    other = finetune(backbone(), TRAIN, VAL, r, "mean", seed=2, device="cpu")
    assert not same(weights(first.network), weights(other.network))


def test_seeds_have_orders_and_views_of_their_own(monkeypatch):
    class Seen(Exception):
        pass

    def stop(images, view, size, keys):
        raise Seen(images, keys)

    monkeypatch.setattr(module, "make_view", stop)
    seen = []
    for seed in (0, 1):
        with pytest.raises(Seen) as raised:
            finetune(TINY_BACKBONE, TRAIN, VAL, replace(TINY, batch_size=96), seed=seed, device="cpu")
        seen.append(raised.value.args)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert not set(seen[0][1].tolist()) & set(seen[1][1].tolist())


def test_the_random_state_of_the_caller_is_left_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    finetune(copy.deepcopy(TINY_BACKBONE), TRAIN, VAL, replace(TINY, epochs=2), device="cpu")
    assert torch.equal(torch.get_rng_state(), state)


TINY_BACKBONE = backbone()


def test_predictions_are_the_classes_of_whole_images():
    result = finetune(TINY_BACKBONE, TRAIN, VAL, replace(TINY, epochs=2, drop_path=0.9), device="cpu")
    assert not result.network.training and result.predictions.dtype == torch.int64
    expected = [int(result.network(normalize(VAL.pixels[i:i + 1])).argmax()) for i in range(len(VAL))]
    assert result.predictions.tolist() == expected
    result.network.train()
    for batch_size in (7, 1000):
        assert predict(result.network, VAL, batch_size).tolist() == expected
    assert result.network.training


def test_validation_has_no_say_in_the_training():
    whole = finetune(TINY_BACKBONE, TRAIN, VAL, replace(TINY, epochs=2), device="cpu")
    part = finetune(TINY_BACKBONE, TRAIN, Toy(3, "val"), replace(TINY, epochs=2), device="cpu")
    assert same(weights(whole.network), weights(part.network)) and len(part.predictions) == 3


def test_the_network_is_a_backbone_again():
    """What is fine-tuned can be analysed like any other."""
    result = finetune(TINY_BACKBONE, TRAIN, VAL, replace(TINY, epochs=2), "mean", device="cpu")
    features, _ = extract(result.network, VAL, "mean")
    assert torch.equal((features @ result.network.head.weight.T + result.network.head.bias).argmax(1), result.predictions)


# ----------------------------------------------------------------------------------------------------- recipes, bad input

@pytest.mark.parametrize(("name", "at_batch", "rate", "warmup", "epochs", "decay", "clip"), [
    ("mocov3", 512, 5e-4, 5, 150, 1.0, 5.0), ("simmim", 512, 1.25e-3, 20, 100, 0.65, 5.0),
    ("mae", 256, 5e-4, 5, 100, 0.65, 0.0),
])
def test_published_recipes(name, at_batch, rate, warmup, epochs, decay, clip):
    r = RECIPES[name]
    assert r.learning_rate == pytest.approx(rate * r.batch_size / at_batch)
    assert (r.warmup_epochs, r.epochs, r.layer_decay, r.clip_norm) == (warmup, epochs, decay, clip)
    assert (r.weight_decay, r.drop_path, r.mixup, r.cutmix, r.smoothing, r.erase) == (0.05, 0.1, 0.8, 1.0, 0.1, 0.25)
    assert (r.rand_augment, r.jitter) == (9, 0)
    assert 0 < r.learning_rate_end < r.learning_rate / 10


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"learning_rate": math.inf},
                                   {"layer_decay": 0.0}, {"layer_decay": 1.1}, {"drop_path": 1.0}, {"smoothing": 1.0},
                                   {"crop_min": 0.0}, {"crop_min": 1.1}, {"jitter": 1.1}, {"rand_augment": 10.5},
                                   {"accumulate": 0}, {"accumulate": 33}, {"erase": 2.0}, {"mixup": math.nan},
                                   {"warmup_epochs": 4.0}])
def test_a_wrong_recipe_is_named_in_one_line(wrong):
    with pytest.raises(CourseError, match=r"^[^\n]*(got|leaves nothing)[^\n]*$"):
        replace(TINY, **wrong)


def other_classes() -> Toy:
    toy = Toy(50, "val")
    toy.classes = toy.classes[::-1]
    return toy


@pytest.mark.parametrize(("changes", "says"), [
    ({"val": other_classes()}, "must have the same classes in the same order, got 6 of toy/train and 6 others of toy/val"),
    ({"train": Toy(31)}, "a batch of 32 needs as many images and validation at least 1, got 31 and 200; lower batch_size"),
    ({"val": Toy(0, "val")}, "validation at least 1, got 96 and 0"),
    ({"val": Toy(9, "val", 20)}, "takes images of 16 pixels, those of toy/val have 20; open the source at a size of 16"),
    ({"pooling": "max"}, "there is no pooling 'max'; choose one of cls, mean"),
    ({"backbone": timm.create_model("resnet18")}, "takes a ViT like timm's, this ResNet has no blocks, patch_embed, norm"),
    ({"backbone": VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2, class_token=False,
                                    global_pool="avg")}, "has no CLS token; choose the pooling mean"),
])
def test_what_does_not_fit_is_named_in_one_line(changes, says):
    arguments = {"backbone": TINY_BACKBONE, "train": TRAIN, "val": VAL, "r": TINY, "pooling": "cls", "device": "cpu"}
    with pytest.raises(CourseError, match=says) as raised:
        finetune(**arguments | changes)
    assert "\n" not in str(raised.value)


def test_images_to_train_on_may_have_another_size():
    result = finetune(TINY_BACKBONE, Toy(64, "train", 24), VAL, replace(TINY, epochs=2), device="cpu")
    assert len(result.predictions) == len(VAL)


def test_a_loss_that_is_not_finite_stops_at_the_next_line():
    damaged = backbone()
    damaged.blocks[1].mlp.fc2.weight.data[0, 0] = math.nan
    with pytest.raises(CourseError, match=r"between steps 1 and 10 \(learning_rate=0.005, .*clip_norm=1.0\); try") as raised:
        finetune(damaged, TRAIN, VAL, TINY, device="cpu")
    assert "\n" not in str(raised.value)


def test_logits_that_are_not_finite_are_named():
    network = make_classifier(backbone(), 3, "cls", 0.0)
    network.head.bias.data[1] = math.inf
    with pytest.raises(CourseError, match="logits are not finite"):
        predict(network, VAL)


def test_soft_targets_are_learned_by_cross_entropy():
    """The loss of a step is -sum target * log softmax, averaged over the batch, of views that are mixed."""
    losses = []
    r = replace(TINY, epochs=2, warmup_epochs=0, drop_path=0)

    class Keep(torch.optim.AdamW):
        def step(self):
            raise StopIteration

    def slow(logits, targets, original=F.cross_entropy):
        losses.append(original(logits, targets))
        expected = 0.0
        for row, target in zip(logits.double().tolist(), targets.double().tolist(), strict=True):
            total = math.log(sum(math.exp(x) for x in row))
            expected -= sum(t * (x - total) for x, t in zip(row, target, strict=True)) / len(logits)
        assert losses[-1].item() == pytest.approx(expected, abs=1e-5)
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.F, "cross_entropy", slow)
        patch.setattr(torch.optim, "AdamW", Keep)
        with pytest.raises(StopIteration):
            finetune(backbone(), TRAIN, VAL, r, seed=0, device="cpu")
    assert len(losses) == 1


@pytest.mark.parametrize("steps", [0, 2, 3, 7, 12])
def test_killed_and_called_again_is_never_killed(steps, tmp_path):
    r = replace(TINY, drop_path=0.5)                               # 4 epochs of 3 steps; drop path draws from the global state
    whole = finetune(backbone(), TRAIN, VAL, r, "mean", device="cpu")
    path = tmp_path / "x" / "state.pt"
    if steps < 12:
        with pytest.raises(KeyboardInterrupt):
            finetune(backbone(), Killed(96, 1 + steps), VAL, r, "mean", device="cpu", keep=path)
        assert path.exists() == (steps >= 3)
    else:
        finetune(backbone(), TRAIN, VAL, r, "mean", device="cpu", keep=path)
    torch.rand(7)                                                  # what another program did to the global state
    rest = Killed(96, 1 + 12 - steps // 3 * 3)                     # the first call is for the checksum of the images
    again = finetune(backbone(), rest, VAL, r, "mean", device="cpu", keep=path)
    assert rest.left == 0 and again.history == whole.history and torch.equal(again.predictions, whole.predictions)
    for a, b in zip(again.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_another_call_is_refused(tmp_path):
    path, r = tmp_path / "state.pt", replace(TINY, epochs=2)
    finetune(backbone(), TRAIN, VAL, r, device="cpu", keep=path)
    torch.manual_seed(1)
    other = ViT(16, 4, dim=24, depth=2, heads=2)
    for network, source, recipe, seed, said in ((backbone(), TRAIN, replace(r, learning_rate=1e-3), 0, "other recipe"),
                                                (backbone(), TRAIN, r, 1, "other seed"), (other, TRAIN, r, 0, "other network"),
                                                (backbone(), Toy(64), r, 0, "other images"),
                                                (backbone(), Darker(96), r, 0, "other content")):
        with pytest.raises(CourseError, match=said):
            finetune(network, source, VAL, recipe, seed=seed, device="cpu", keep=path)
    with pytest.raises(CourseError, match="other network"):         # the same weights, in another place
        finetune(backbone(), TRAIN, VAL, r, "mean", device="cpu", keep=path)
    state = torch.load(path, weights_only=True)
    for changes, said in ((dict(step=7), "step 7 of 6"), (dict(step="3"), "TypeError"), (dict(step=2), "step -1"),
                          (dict(network={}), "RuntimeError"), (dict(optimizer={}), "KeyError"),
                          (dict(pending=3.0), "AttributeError"), (dict(history=[1]), "TypeError"),
                          (dict(random=[]), "IndexError"), (dict(since="x"), "ValueError")):
        torch.save(state | changes, path)
        with pytest.raises(CourseError, match=f"{said}.*delete it to begin anew"):
            finetune(backbone(), TRAIN, VAL, r, device="cpu", keep=path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CourseError, match="delete it to begin anew"):
        finetune(backbone(), TRAIN, VAL, r, device="cpu", keep=path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="cannot write to"):
        finetune(backbone(), TRAIN, VAL, r, device="cpu", keep=tmp_path / "file" / "state.pt")


@pytest.mark.parametrize("changes", [dict(epochs=1.5), dict(epochs=True), dict(drop_path="0.1"), dict(bicubic=1)])
def test_a_field_of_another_kind_is_named(changes):
    name, value = next(iter(changes.items()))
    with pytest.raises(CourseError, match=f"{name} must be (int|float|bool), got {value!r}"):
        module.recipe("course", **changes)
    assert module.recipe("course", drop_path=0).drop_path == 0


def test_learning_rates_of_published_recipes_follow_the_batch():
    mae = RECIPES["mae"]
    half = module.recipe("mae", batch_size=mae.batch_size // 2, mixup=0.0)
    assert half == replace(mae, batch_size=mae.batch_size // 2, mixup=0.0, learning_rate=mae.learning_rate / 2,
                           learning_rate_end=mae.learning_rate_end / 2, warmup_start=mae.warmup_start / 2)
    assert module.recipe("mae", batch_size=64, learning_rate=0.1).learning_rate_end == mae.learning_rate_end
    assert module.recipe("course", batch_size=32) == replace(RECIPES["course"], batch_size=32)      # no published one
    with pytest.raises(CourseError, match="no recipe 'beit' of fine-tuning; choose one of course"):
        module.recipe("beit")
