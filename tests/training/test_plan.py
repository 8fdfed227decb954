"""The plan of a run: parameters of the papers, operations by hand, bytes as a real pass keeps them."""
from dataclasses import replace

import pytest
import torch

from lib.errors import CourseError
from lib.models.vit import ViT
from lib.training import plan as planning
from lib.training.build import build
from lib.training.plan import Assumptions, batch_shapes, count_flops, empty, plan, saved_bytes, show, without_numbers
from lib.training.recipes import DEPARTURES, OBJECTIVES, recipe

TINY = dict(image_size=32, patch_size=8, model="vit_nano", images=64, batch_size=16, epochs=3, precision="fp32")
SMALL = {"mocov3": dict(hidden=32, dim=16), "dino": dict(hidden=32, bottleneck=16, prototypes=24, local_size=16, local_crops=2),
         "mae": dict(decoder_dim=16, decoder_depth=1, decoder_heads=2), "simmim": dict(mask_cell=1),
         "hybrid": dict(hidden=32, dim=16, mask_cell=1), "supervised": dict(classes=10)}
DIM, DEPTH, TOKENS, PATCH = 48, 3, 17, 8                           # of TINY


def tiny(objective: str, **changes):
    return recipe(objective, **TINY | SMALL[objective] | changes)


# Elements of the released files: MoCo v3 215.7 M and MAE 111.9 M with their heads, a plain ViT-B 85,798,656.
@pytest.mark.parametrize(("objective", "elements"), [("mocov3", 215.7), ("mae", 111.9)])
def test_published_networks_have_their_published_sizes(objective, elements):
    network = without_numbers(recipe(objective, "paper"))
    assert sum(p.numel() for p in network.backbone.parameters()) == 85_798_656
    assert sum(x.numel() for x in network.state_dict().values()) / 1e6 == pytest.approx(elements, abs=0.05)
    assert {x.device.type for x in network.state_dict().values()} == {"meta"}


def test_the_hybrids_two_halves_share_a_backbone_in_its_plan():
    r = recipe("hybrid", "paper", **SMALL["hybrid"], model="vit_nano", image_size=64, patch_size=8)
    alone = replace(r, cl_weight=0.0)                              # 128 images: enough for its products to be remembered
    assert plan(r, Assumptions(gpus=8)).backbone == plan(alone, Assumptions(gpus=8)).backbone


def test_images_that_a_gpu_will_hold_are_in_its_plan():
    r = recipe("simmim", "course", data="imagenet", batch_size=256)                # 1,281,167 images of 96 pixels: 35.4 GB
    held, left = (plan(r, Assumptions(gpus=1, gpu_memory=memory)).memory["images"] for memory in (160.0, 80.0))
    assert held == 1_281_167 * 3 * 96**2 and left == 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_published_recipe_has_a_plan(objective):
    small = {k: v for k, v in SMALL[objective].items() if k not in ("mask_cell", "local_size")}
    r = recipe(objective, "paper", **small | dict(model="vit_nano"))
    p = plan(r, Assumptions(gpus=8))
    network = build(r)
    assert p.backbone + p.heads + p.copies == sum(x.numel() for x in network.parameters())
    assert p.trained == sum(x.numel() for x in network.parameters() if x.requires_grad)
    assert p.backbone == sum(x.numel() for x in network.backbone.parameters())
    assert (p.copies > 0) == (objective in ("mocov3", "dino", "hybrid")) and p.heads > 0
    assert p.images == 1_281_167 and p.steps == r.epochs * (1_281_167 // r.batch_size) and p.local == r.batch_size / 8
    text = show(r, "paper", Assumptions(gpus=8))
    assert f"{p.steps:,} of {r.batch_size:,} images" in text and "cost" not in text and "assumed, not measured" in text
    assert f"departures  from the paper: {DEPARTURES[objective]}" in text
    assert "departures" not in show(tiny(objective), "smoke", Assumptions(gpus=8))
    published = recipe(objective, "paper", model="vit_small", batch_size=512, device="cpu", seed=3)
    assert "and here" not in show(published, "paper", Assumptions(gpus=8))
    other = show(replace(published, drop_path=0.25, leave_out="flip"), "paper", Assumptions(gpus=8))
    assert "            and here: drop_path 0.25, leave_out 'flip'" in other.splitlines()
    assert all("≈" in line for line in text.splitlines() if line.startswith(("memory", "work", "time")))


def by_hand(tokens: int) -> tuple[int, int]:
    """Multiplications of the blocks of one image, and of its patch projection."""
    width = 12 * tokens * DIM**2 + 2 * tokens**2 * DIM             # qkv 3, proj 1, MLP 8; attention twice
    return DEPTH * width, (TOKENS - 1) * 3 * PATCH**2 * DIM


def test_operations_are_those_counted_by_hand():
    blocks, patches = by_hand(TOKENS)
    head = 10 * DIM
    r = tiny("supervised")
    expected = 2 * (3 * blocks + 2 * patches + 3 * head)           # the images need no gradient
    assert count_flops(r, empty(batch_shapes(r), 4)) == 4 * expected
    r = tiny("simmim")
    masked = 10                                                    # ceil(0.6 * 16) patches are decoded
    expected = 2 * (3 * blocks + 2 * patches + 3 * masked * DIM * 3 * PATCH**2)
    assert count_flops(r, empty(batch_shapes(r), 4)) == 4 * expected


def test_operations_of_mocov3_are_two_views_and_their_keys():
    r = tiny("mocov3", freeze_patches=True)
    blocks, patches = by_hand(TOKENS)
    projector, predictor = DIM * 32 + 32 * 32 + 32 * 16, 16 * 32 + 32 * 16
    online = 3 * (blocks + projector + predictor) + patches        # a frozen projection has no backward pass
    momentum = blocks + patches + projector
    images = 4
    loss = 2 * images * 16 * 2                                     # logits of a query, forward and to the query, both ways
    counted = count_flops(r, empty(batch_shapes(r), images)) / images
    assert counted == pytest.approx(2 * (2 * (online + momentum) + loss), rel=0.02)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bytes_kept_are_those_of_a_real_pass(objective):
    r = tiny(objective, drop_path=0.1)
    shapes = batch_shapes(r)
    network = build(r).train()
    network.begin_step(0.0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = [torch.zeros(6, dtype=torch.int64)] if network.needs_labels else []
    batch = network.prepare(images, torch.arange(6), *labels)
    kept, own = {}, {x.data_ptr() for x in (*network.parameters(), *network.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.untyped_storage().data_ptr(), x) is None or x,
                                                  lambda x: x):
        network(batch)
    real = sum(x.untyped_storage().nbytes() for pointer, x in kept.items() if pointer not in own)
    assert saved_bytes(r, empty(shapes, 6)) == pytest.approx(real, rel=0.01)


def test_what_saves_memory_saves_memory():
    r = tiny("supervised", model="vit_tiny", batch_size=64)
    def kept(**changes):
        return plan(replace(r, **changes), Assumptions(gpus=2)).memory

    plain, checkpointed, halved, split = kept(), kept(checkpoint_blocks=True), kept(accumulate=2), kept(shard=True)
    assert checkpointed["backward"] < 0.25 * plain["backward"]
    inputs = 12 * 32 * TOKENS * 192 * 4
    assert checkpointed["backward"] > inputs + plain["backward"] / 14              # twelve inputs, and one block at work
    assert halved["backward"] == pytest.approx(plain["backward"] / 2, rel=0.01) and halved["views"] == plain["views"]
    assert split["weights"] == plain["weights"] / 2 and split["AdamW"] == plain["AdamW"] / 2 and split["buckets"] == 0
    assert plain["gradients"] == plain["AdamW"] / 2 and plain["buckets"] == 0     # they hold the gradients, which are views
    assert halved["buckets"] == plain["gradients"]                 # but not those of the parts before the last


def test_checkpointed_blocks_are_computed_twice():
    r = tiny("simmim")
    batch = empty(batch_shapes(r), 4)
    extra = count_flops(replace(r, checkpoint_blocks=True), batch) - count_flops(r, batch)
    blocks, _ = by_hand(TOKENS)
    assert extra == 4 * 2 * (blocks - DEPTH * 4 * TOKENS * DIM**2)             # but for each block's last, which nobody needs


def test_a_learned_bias_keeps_no_attention_maps():
    """As on a GPU. A CPU's fused attention refuses a bias that learns, and the slow one keeps (images, heads, N, N) maps."""
    fixed, learned = tiny("simmim"), tiny("simmim", positions="relative")
    more = [saved_bytes(learned, empty(batch_shapes(r), n)) - saved_bytes(fixed, empty(batch_shapes(r), n))
            for n in (4, 8) for r in (fixed,)]
    assert 0 < more[0] == more[1]                                  # the bias itself, whatever the number of images


def test_a_plan_says_whether_it_fits():
    r = tiny("simmim")
    needed = sum(plan(r, Assumptions(gpus=2)).memory.values()) / 1e9
    for there, said in ((1.01 * needed, "fits into the"), (0.99 * needed, "does not fit into the")):
        assert said in show(r, "smoke", Assumptions(gpus=2, gpu_memory=there))
    tight = dict(gpu_memory=0.99 * needed)
    assert "try --checkpoint-blocks, --shard, --accumulate, a smaller --batch-size or more" in show(
        r, "smoke", Assumptions(gpus=2, **tight))
    assert "--accumulate" not in show(tiny("mocov3"), "smoke", Assumptions(gpus=2, gpu_memory=1e-3))
    assert "--shard" not in show(r, "smoke", Assumptions(gpus=1, **tight))


def test_hours_and_cost_follow_from_the_operations(monkeypatch):
    r = tiny("simmim", precision="bf16")
    monkeypatch.setattr(planning, "count_flops", lambda r, batch: 2 * 3.6e15)      # 3.6 PFLOP a sample; 3 x 4 steps of 16
    given = Assumptions(gpus=2, tflops=100, utilisation=0.5, price=3)
    p = plan(r, given)
    assert p.gpu_hours == pytest.approx(192 * 3.6e15 / 50e12 / 3600)
    text = show(r, "smoke", given)
    assert "≈ 4 GPU-hours, 1.9 hours on 2 GPU(s), if a GPU reaches 50% of 100 TFLOP/s in bf16" in text
    assert "cost        ≈ 12 at 3 a GPU-hour" in text
    slow = replace(r, precision="fp32")
    assert plan(slow, given).gpu_hours == pytest.approx(planning.SLOWER * p.gpu_hours)
    assert "reaches 50% of 6.67 TFLOP/s in fp32" in show(slow, "smoke", given)


def test_a_teacher_is_a_copy_and_not_the_backbone_that_learns():
    p = plan(tiny("dino"), Assumptions(gpus=1))
    network = build(tiny("dino"))
    assert isinstance(network.student_backbone, ViT) and p.copies == p.backbone + p.heads
    assert p.memory["buckets"] == 0                                # one GPU


@pytest.mark.parametrize(("changes", "said"), [
    (dict(batch_size=18), "a batch of 18 does not divide over 4 GPUs"),
    (dict(accumulate=8), "a batch of 16 does not divide over 4 GPUs in 8 parts"),
    (dict(images=8), "a batch of 16 needs as many images, shapes has 8"),
])
def test_plans_that_cannot_be(changes, said):
    with pytest.raises(CourseError, match=said):
        plan(tiny("simmim", **changes), Assumptions(gpus=4))
