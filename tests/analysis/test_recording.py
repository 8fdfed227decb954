"""What the recorder hands out is what happens in the network, whatever the network, the batches and the processes."""
import copy
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SwiGLU
from timm.models import create_model
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from lib import distributed
from lib.analysis import recording
from lib.analysis.recording import PerImage, layout_of, mean_and_error, observe, observe_modules, part_names, record
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.models.vit import ViT

SMALL = dict(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=0)
MODELS = {
    "timm": lambda: VisionTransformer(**SMALL),
    "q and k norm": lambda: VisionTransformer(**SMALL, qk_norm=True),
    "registers": lambda: VisionTransformer(**SMALL, reg_tokens=4, init_values=0.5),
    "no prefix": lambda: VisionTransformer(**SMALL, class_token=False, global_pool="avg"),
    "scaled heads": lambda: VisionTransformer(**SMALL, scale_attn_norm=True),
    "distilled": lambda: VisionTransformerDistilled(**SMALL),
    "beit": lambda: Beit(**SMALL, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.5),
    "beit shared": lambda: Beit(**SMALL, use_abs_pos_emb=False, use_shared_rel_pos_bias=True, qkv_bias=False),
    "course": lambda: ViT(16, 4, dim=24, depth=3, heads=3),
    "course relative": lambda: ViT(16, 4, dim=24, depth=3, heads=3, positions="relative", layer_scale=0.5),
}
PREFIX = {"registers": 5, "no prefix": 0, "distilled": 2}


def model(name: str, scale: float = 0.2) -> nn.Module:
    """No weight at its start, so that every norm and every bias matters."""
    torch.manual_seed(0)
    backbone = MODELS[name]().eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(scale * torch.randn(p.shape, generator=g))
    return backbone


def photos(n: int = 5, size: int = 16) -> Shapes:
    return Shapes("val", size, length=n)


class Keep:
    """A metric that keeps all it gets."""

    def __init__(self, reads: str):
        self.reads = reads

    def start(self, layout) -> None:
        self.layout, self.depths, self.kept = layout, [], []

    def update(self, depth, activation) -> None:
        self.depths.append(depth)
        self.kept.append(activation)

    def compute(self) -> dict:
        return {f"{self.reads} kept": self.kept}


class Norms(PerImage):
    """Length of the mean patch token: a number for each image and depth."""

    def measure(self, depth, tokens):
        return {"norms": tokens[:, self.layout.prefix:].mean(1).norm(dim=-1)}


def unfused_attention(backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Attention as the module itself computes it when it may not use the fused kernel: (B, H, N, N) for each block."""
    backbone, found = copy.deepcopy(backbone), []
    for block in backbone.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        backbone.forward_features(images)
    return found


def close(a, b, tolerance=1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------------------------- what is handed out

@pytest.mark.parametrize("name", MODELS)
def test_recomputed_attention_is_that_of_the_unfused_module(name):
    backbone, metric = model(name), Keep("attention")
    record(backbone, photos(), [metric])
    expected = unfused_attention(backbone, normalize(photos().images(torch.arange(5))))
    assert metric.depths == [1, 2, 3] and metric.layout.prefix == PREFIX.get(name, 1)
    for attention, truth in zip(metric.kept, expected, strict=True):
        close(attention.logits.softmax(-1), truth)
        assert truth.std() > 0.005                                 # not just uniform
    images = normalize(photos().images(torch.arange(5)))
    double = unfused_attention(backbone.double(), images.double())
    record(backbone, photos(), [metric])
    for attention, truth in zip(metric.kept, double, strict=True):
        assert attention.logits.dtype == torch.float64
        close(attention.logits.softmax(-1), truth, 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_values_and_attention_give_what_the_module_gave(name):
    backbone, metric, outputs = model(name), Keep("attention"), []
    for block in backbone.blocks:
        block.attn.register_forward_hook(lambda _, args, out: outputs.append(out))
    record(backbone, photos(), [metric])
    for block, attention, output in zip(backbone.blocks, metric.kept, outputs, strict=True):
        heads = [attention.logits[:, h].softmax(-1) @ attention.values[:, h] for h in range(3)]
        with torch.no_grad():
            mixed = torch.cat(heads, dim=-1)
            close(block.attn.proj(block.attn.norm(mixed) if name == "scaled heads" else mixed), output)


@pytest.mark.parametrize("name", ["course", "course relative"])
def test_the_stream_is_that_of_the_named_intermediates(name):
    backbone, whole, halves = model(name), Keep("tokens"), Keep("halves")
    record(backbone, photos(), [whole, halves])
    with torch.no_grad():
        named = backbone.intermediates(normalize(photos().images(torch.arange(5))))
    assert whole.depths == [0, 1, 2, 3] and halves.depths == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    for depth, tokens in zip(whole.depths, whole.kept, strict=True):
        close(tokens, named["embedding" if depth == 0 else f"block{depth}"])
    for depth, tokens in zip(halves.depths, halves.kept, strict=True):
        attended = f"block{round(depth + 0.5)}.attention"
        close(tokens, named[attended] if depth % 1 else whole.kept[int(depth)])


@pytest.mark.parametrize("name", ["timm", "registers", "distilled", "beit"])
def test_the_stream_is_that_of_timm(name):
    backbone, metric = model(name), Keep("tokens")
    record(backbone, photos(), [metric])
    images = normalize(photos().images(torch.arange(5)))
    with torch.no_grad():
        expected = backbone.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    for tokens, truth in zip(metric.kept[1:], expected, strict=True):
        close(tokens[:, PREFIX.get(name, 1):], truth)


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_what_the_steps_of_a_block_give(name):
    backbone, parts, halves, attention = model(name), Keep("parts"), Keep("halves"), Keep("attention")
    record(backbone, photos(), [parts, halves, attention])
    assert parts.depths == part_names(3) and len(parts.depths) == 31
    named, stream = dict(zip(parts.depths, parts.kept, strict=True)), dict(zip(halves.depths, halves.kept, strict=True))
    close(named["embedding"], stream[0], 0)
    with torch.no_grad():
        for depth, block in enumerate(backbone.blocks, start=1):
            before, halfway = stream[depth - 1], stream[depth - 0.5]

            def part(step, depth=depth):
                return named[f"block{depth}.{step}"]

            close(part("norm1"), block.norm1(before))
            qkv = block.attn.qkv(part("norm1"))
            if getattr(block.attn, "q_bias", None) is not None:
                qkv = qkv + torch.cat([block.attn.q_bias, block.attn.k_bias, block.attn.v_bias])
            close(part("qkv"), qkv)
            heads = attention.kept[depth - 1].logits.softmax(-1) @ attention.kept[depth - 1].values
            heads = heads.transpose(1, 2).flatten(2)
            close(part("heads"), block.attn.norm(heads) if name == "scaled heads" else heads)
            close(part("proj"), block.attn.proj(part("heads")))
            close(part("attention"), halfway, 0)
            close(part("norm2"), block.norm2(halfway))
            close(part("fc1"), block.mlp.fc1(part("norm2")))
            close(part("act"), F.gelu(part("fc1")))
            close(part("fc2"), block.mlp.fc2(part("act")))
            close(named[f"block{depth}"], stream[depth], 0)
            if name == "timm":
                close(part("proj"), halfway - before)
                close(part("fc2"), stream[depth] - halfway)


def test_named_modules_of_any_network():
    torch.manual_seed(0)
    resnet, keep = create_model("resnet10t", num_classes=0).train(), Keep("parts")
    keep.start(None)
    images = photos(3, 32).images(torch.arange(3))
    observe_modules(resnet, {"late": resnet.layer4, "early": resnet.layer1}, images, [keep])
    assert keep.depths == ["early", "late"] and resnet.training and number_of_hooks(resnet) == 0
    with torch.no_grad():
        resnet.eval()
        early = resnet.layer1(resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(normalize(images))))))
        close(keep.kept[0], early)
        close(keep.kept[1], resnet.layer4(resnet.layer3(resnet.layer2(early))))


def test_fused_attention_stays_on_and_the_backbone_is_left_as_it_was(monkeypatch):
    backbone, calls = model("timm").train(), []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), fused(*a, **k))[1])
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    metrics = [Keep("attention"), Keep("halves")]
    record(backbone, photos(), metrics, batch_size=5)
    assert len(calls) == 3 and backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert not any(tensor.requires_grad for tensor in metrics[1].kept)
    assert number_of_hooks(backbone) == 0
    broken = model("timm").train()
    with torch.no_grad():
        broken.blocks[1].mlp.fc1.weight.fill_(torch.nan)
    with pytest.raises(CourseError):
        record(broken, photos(), metrics)
    assert number_of_hooks(broken) == 0 and broken.training


def number_of_hooks(backbone: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.modules())


def test_dropout_is_off():
    backbone = VisionTransformer(**SMALL, proj_drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5).train()
    first, second = (record(backbone, photos(), [Norms()])["norms"] for _ in range(2))
    assert torch.equal(first, second)


def test_nothing_is_kept_after_its_update():
    seen, alive = [], []

    class Watch:
        def __init__(self, reads):
            self.reads = reads

        def start(self, layout):
            pass

        def update(self, depth, activation):
            alive.append(sum(ref() is not None for ref in seen))
            seen.append(weakref.ref(activation.logits if self.reads == "attention" else activation))

        def compute(self):
            return {}

    backbone = VisionTransformer(**SMALL | {"depth": 8})
    for block in backbone.blocks:
        block.attn.qkv.register_forward_hook(lambda _, args, out: seen.append(weakref.ref(out)))
    record(backbone, photos(6), [Watch("attention"), Watch("tokens"), Watch("halves"), Watch("parts")], batch_size=1)
    assert len(alive) == 6 * (8 + 9 + 17 + 81) and len(seen) == len(alive) + 6 * 8
    assert max(alive) <= 10                                        # of the block that runs, however many blocks and images
    assert not any(ref() is not None for ref in seen)


# ---------------------------------------------------------------------------------------------- images, batches, processes

@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_results_are_those_of_each_image_whatever_the_batches(batch_size):
    backbone, source = model("timm"), photos(7)
    found = record(backbone, source, [Norms()], batch_size=batch_size)["norms"]
    assert found.shape == (7, 4)
    for k in range(7):
        metric = Keep("tokens")
        metric.start(None)
        images = source.images(torch.tensor([k]))
        observe(backbone, images, [metric], layout_of(backbone, images))
        close(found[k], torch.stack([tokens[0, 1:].mean(0).norm() for tokens in metric.kept]))
    assert found.std(0).min() > 1e-3                               # an image of the wrong place would show


def test_a_metric_used_again_forgets():
    backbone, metric = model("timm"), Norms()
    record(backbone, photos(7), [metric])
    assert torch.equal(record(backbone, photos(3), [metric])["norms"], record(backbone, photos(3), [Norms()])["norms"])


def test_float_images_are_taken_as_they_come():
    class Normalised:
        def __init__(self, images):
            self.all = images

        def __len__(self):
            return len(self.all)

        def images(self, indices):
            return self.all[indices]

    backbone, source = model("timm"), photos()
    ready = Normalised(normalize(source.images(torch.arange(5))))
    close(record(backbone, ready, [Norms()])["norms"], record(backbone, source, [Norms()])["norms"])


def test_a_grid_that_is_not_a_square_and_dynamic_sizes():
    class Wide:
        def __len__(self):
            return 2

        def images(self, indices):
            return torch.zeros(len(indices), 3, 8, 24, dtype=torch.uint8)

    metric = Keep("tokens")
    record(VisionTransformer(**SMALL | {"img_size": (8, 24)}), Wide(), [metric])
    assert metric.layout.grid == (2, 6) and metric.layout.patch == (4, 4) and metric.layout.depth == 3
    record(VisionTransformer(**SMALL, dynamic_img_size=True), Wide(), [metric])
    assert metric.layout.grid == (2, 6)
    record(VisionTransformer(**SMALL | {"img_size": (8, 24), "patch_size": (4, 8)}), Wide(), [metric])
    assert metric.layout.grid == (2, 3) and metric.layout.patch == (4, 8)


@pytest.fixture
def in_two_processes(monkeypatch):
    """run(work): work() in two threads that see `lib.distributed` as two processes would; -> what each returned.

    That `lib.distributed` does so between true processes is shown by its own tests.
    """
    here, meeting, given = threading.local(), threading.Barrier(2, timeout=60), [None, None]

    def exchange(x: torch.Tensor) -> list[torch.Tensor]:
        if not hasattr(here, "rank"):
            return [x]
        given[here.rank] = x.detach().clone()
        meeting.wait()
        both = list(given)
        meeting.wait()
        assert both[0].shape == both[1].shape                      # or true processes would wait for ever
        return both

    monkeypatch.setattr(distributed, "world_size", lambda: 2 if hasattr(here, "rank") else 1)
    monkeypatch.setattr(distributed, "rank", lambda: getattr(here, "rank", 0))
    monkeypatch.setattr(distributed, "gather", lambda x: torch.cat(exchange(x)))
    monkeypatch.setattr(distributed, "mean", lambda x: torch.stack(exchange(x)).mean(0))

    def process(rank: int, work):
        here.rank = rank
        return work()

    def run(work) -> list:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(process, [0, 1], [work, work]))

    return run


@pytest.mark.parametrize("images", [7, 8, 2])
def test_two_processes_add_up_to_one(in_two_processes, images):
    backbone = model("timm")

    def work():
        keep = Keep("tokens")
        norms = record(copy.deepcopy(backbone), photos(images), [Norms(), keep], batch_size=2)["norms"]
        return norms, sum(len(tokens) for depth, tokens in zip(keep.depths, keep.kept, strict=True) if depth == 0)

    expected = record(backbone, photos(images), [Norms()])["norms"]
    for (norms, seen), share in zip(in_two_processes(work), (-(-images // 2), images // 2), strict=True):
        close(norms, expected)
        assert seen == share


def test_more_processes_than_images(in_two_processes):
    with pytest.raises(CourseError, match=r"1 images for 2 process\(es\)"):
        in_two_processes(lambda: record(model("timm"), photos(1), [Norms()]))


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_low_precision(how):
    backbone, exact, rough = model("timm", scale=0.05), Keep("attention"), Keep("attention")
    record(backbone, photos(), [exact])
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            record(backbone, photos(), [rough])
    else:
        record(backbone.bfloat16(), photos(), [rough])
    for attention, truth in zip(rough.kept, exact.kept, strict=True):
        assert attention.logits.dtype == attention.values.dtype == torch.float32
        assert len(attention.logits.unique()) > 2 * len(attention.logits.bfloat16().unique())      # multiplied in float32
        close(attention.logits.softmax(-1), truth.logits.softmax(-1), 0.02)


def test_metrics_work_in_float32_under_autocast():
    class Product(PerImage):
        def measure(self, depth, tokens):
            product = tokens.float() @ tokens.float().mT
            assert product.dtype == torch.float32
            return {"product": product.mean((1, 2))}

    with torch.autocast("cpu", torch.bfloat16):
        record(model("timm"), photos(), [Product()])


def test_mean_and_error():
    values = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    mean, error = mean_and_error(values)
    assert mean.tolist() == [3, 5]
    assert error.tolist() == pytest.approx([(14 / 2 / 3) ** 0.5, 0])


# ------------------------------------------------------------------------------------------------------------ bad input

@pytest.mark.parametrize("backbone", [nn.Linear(3, 3), create_model("resnet10t", num_classes=0),
                                      create_model("mixer_s32_224", num_classes=0)], ids=["linear", "resnet", "mixer"])
def test_without_attention_blocks(backbone):
    with pytest.raises(CourseError, match=f"{type(backbone).__name__} has no attention blocks"):
        record(backbone, photos(), [Norms()])


def test_without_a_count_of_prefix_tokens():
    backbone = model("timm")
    del backbone.num_prefix_tokens
    with pytest.raises(CourseError, match="expected a timm-style Vision Transformer: `num_prefix_tokens`"):
        record(backbone, photos(), [Norms()])


def test_source_of_another_size():
    with pytest.raises(CourseError, match=r"gives images of 32 x 32 pixels, the backbone takes 16 x 16"):
        record(model("timm"), photos(size=32), [Norms()])


def test_grid_is_asked_for_and_checked():
    backbone = model("timm")
    backbone.patch_embed.patch_size = None
    with pytest.raises(CourseError, match=r"PatchEmbed does not say how large a patch is; give grid="):
        record(backbone, photos(), [Norms()])
    metric = Keep("tokens")
    record(backbone, photos(), [metric], grid=(2, 8))
    assert metric.layout.grid == (2, 8) and metric.layout.patch == (8, 2)
    with pytest.raises(CourseError, match=r"tokens \(5, 17, 24\), which is not 1 \+ 3 x 5"):
        record(backbone.train(), photos(), [metric], grid=(3, 5))
    assert backbone.training and number_of_hooks(backbone) == 0    # an error from inside leaves all as it was, too
    with pytest.raises(CourseError, match=r"which is not 1 \+ 4 x 4"):
        record(VisionTransformer(**SMALL, embed_layer=HalfAsMany), photos(), [metric])


class HalfAsMany(nn.Module):
    """An embedding that merges its patches two by two and does not say so."""

    def __init__(self, img_size, patch_size, embed_dim, **_):
        super().__init__()
        self.num_patches, self.patch_size, self.img_size = 8, (patch_size, patch_size), (img_size, img_size)
        self.proj = nn.Conv2d(3, embed_dim, (patch_size, 2 * patch_size), (patch_size, 2 * patch_size))

    def forward(self, x):
        return self.proj(x).flatten(2).mT


@pytest.mark.parametrize(("damage", "named"), [
    (lambda m: m.patch_embed.proj.weight, "the embedding"), (lambda m: m.blocks[1].attn.qkv.weight, r"blocks.1.attn"),
    (lambda m: m.blocks[1].attn.proj.bias, "the attention half of blocks.1"), (lambda m: m.blocks[2].mlp.fc2.bias, "blocks.2")])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_activations_that_are_not_finite_are_named(damage, named, value):
    backbone = model("timm")
    with torch.no_grad():
        damage(backbone).view(-1)[0] = value
    with pytest.raises(CourseError, match=rf"first out of {named} in batch 1 \(images 0 to 1 of shapes\)"):
        record(backbone, photos(), [Keep("halves"), Keep("attention")], batch_size=2)


def test_the_part_that_is_not_finite_is_named():
    backbone = model("timm")
    with torch.no_grad():
        backbone.blocks[1].mlp.fc1.bias[0] = torch.nan
    with pytest.raises(CourseError, match=r"first out of block2\.fc1 in batch 1"):
        record(backbone, photos(), [Keep("parts")])


def test_the_batch_that_is_not_finite_is_named():
    class Late:
        name = "late"

        def __len__(self):
            return 7

        def images(self, indices):
            return torch.where(indices == 4, torch.nan, 0.5)[:, None, None, None].expand(-1, 3, 16, 16)

    with pytest.raises(CourseError, match=r"the embedding in batch 3 \(images 4 to 5 of late\)"):
        record(model("timm"), Late(), [Norms()], batch_size=2)


class Masked(VisionTransformer):
    """Calls its blocks with a mask that says yes or no, where the recorder expects one to be added."""

    def forward_features(self, x):
        tokens = self.norm_pre(self._pos_embed(self.patch_embed(x)))
        for block in self.blocks:
            tokens = block(tokens, attn_mask=torch.ones(17, 17, dtype=torch.bool).tril())
        return self.norm(tokens)


class Windowed(VisionTransformer):
    """Has attention that adds something of its own, which the recorder cannot know of."""

    def __init__(self, **options):
        super().__init__(**options)
        for block in self.blocks:
            block.attn.forward = partial(block.attn.forward, attn_mask=3.0 * torch.eye(17))
            block.forward = partial(self.run, block)

    def run(self, block, x, **_):
        x = x + block.attn(block.norm1(x))
        return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("build", [lambda: Masked(**SMALL), lambda: Windowed(**SMALL), lambda: Eva(
    **SMALL | {"embed_dim": 24, "num_heads": 2}, use_rot_pos_emb=True)], ids=["yes or no", "windowed", "rotary"])
def test_attention_of_another_kind_is_refused_and_never_wrong(build):
    torch.manual_seed(0)
    backbone = build()
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.2 * torch.randn_like(p))
    record(backbone, photos(), [Norms()])                          # its tokens may be read
    with pytest.raises(CourseError, match=r"blocks.0.attn \(\w*Attention\) does not give softmax"):
        record(backbone, photos(), [Keep("attention")])


def test_blocks_without_a_halfway_are_refused():
    backbone = VisionTransformer(**SMALL, block_fn=ResPostBlock)
    record(backbone, photos(), [Keep("attention"), Keep("tokens")])
    with pytest.raises(CourseError, match=r"blocks.0 does not start with a norm"):
        record(backbone, photos(), [Keep("halves")])


def test_blocks_without_all_parts_are_refused():
    with pytest.raises(CourseError, match=r"blocks\.0\.mlp is a SwiGLU without fc1, act or fc2"):
        record(VisionTransformer(**SMALL, mlp_layer=SwiGLU), photos(), [Keep("parts")])
    with pytest.raises(CourseError, match=r"blocks\.0 does not start with a norm"):
        record(VisionTransformer(**SMALL, block_fn=ResPostBlock), photos(), [Keep("parts")])
    silent = model("timm")
    silent.blocks[2].mlp.forward = lambda x: x
    with pytest.raises(CourseError, match=r"block3\.fc1 is not passed when the network runs"):
        record(silent, photos(), [Keep("parts")])
    assert number_of_hooks(silent) == 0


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(("choose", "message"), [
    (lambda net: {}, "no modules were named"),
    (lambda net: {"unused": nn.ReLU()}, "unused is not passed when the network runs"),
    (lambda net: {"relu": net.relu}, "relu is passed more than once"), (lambda net: {"pair": net.pair}, "pair gives a tuple")])
def test_modules_that_do_not_fit(choose, message):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.pair = nn.Conv2d(3, 4, 3), nn.ReLU(), Pair()

        def forward(self, x):
            return self.relu(self.pair(self.relu(self.conv(x)))[0])

    net, keep = Net(), Keep("parts")
    keep.start(None)
    with pytest.raises(CourseError, match=message):
        observe_modules(net, choose(net), photos().images(torch.arange(2)), [keep])
    assert number_of_hooks(net) == 0


def test_metrics_that_do_not_fit():
    with pytest.raises(CourseError, match="Keep reads 'pixels'; a metric reads one of tokens, halves, attention, parts"):
        record(model("timm"), photos(), [Keep("pixels")])
    with pytest.raises(CourseError, match="two metrics give norms"):
        record(model("timm"), photos(), [Norms(), Norms()])
    assert list(recording.READS) == ["tokens", "halves", "attention", "parts"]


def test_an_empty_source():
    class Empty:
        def __len__(self):
            return 0

    with pytest.raises(CourseError, match="0 images for 1 process"):
        record(model("timm"), Empty(), [Norms()])
