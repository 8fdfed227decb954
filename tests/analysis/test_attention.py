"""Attention statistics and similarities against loops in float64, at known points, and where CLS takes all."""
import copy
import itertools
import math

import pytest
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lib.analysis.attention import (
    AttentionStatistics,
    DepthSimilarity,
    HeadSimilarity,
    MapSimilarity,
    TokenSimilarity,
    attention_distance,
    attention_maps,
    entropy,
    normalized_mutual_information,
    pairwise_cosine,
    patch_attention,
    patch_distances,
)
from lib.analysis.recording import Attention, Layout, record
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.models.vit import ViT

SMALL = dict(img_size=(8, 16), patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=0)
MODELS = {
    "timm": lambda: VisionTransformer(**SMALL),
    "registers": lambda: VisionTransformer(**SMALL, reg_tokens=2),
    "no prefix": lambda: VisionTransformer(**SMALL, class_token=False, global_pool="avg"),
    "distilled": lambda: VisionTransformerDistilled(**SMALL),
    "beit": lambda: Beit(**SMALL, use_rel_pos_bias=True),
    "course": lambda: ViT(16, 4, dim=24, depth=2, heads=3, positions="relative"),
}
STATISTICS = ["distance", "entropy", "nmi", "distance_full", "entropy_full", "prefix_mass"]


class Wide:
    """`shapes`, cut to the size of a backbone."""
    name = "wide"

    def __init__(self, backbone: nn.Module, n: int = 3):
        self.n, (self.height, self.width) = n, backbone.patch_embed.img_size

    def __len__(self):
        return self.n

    def images(self, indices):
        return Shapes("val", 16, length=self.n).images(indices)[..., :self.height, :self.width]


def model(name: str) -> nn.Module:
    """No weight at its start, and attention that is neither flat nor hard."""
    torch.manual_seed(0)
    backbone = MODELS[name]().eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=g))
    return backbone


def inside(backbone: nn.Module, source) -> dict[str, list]:
    """Attention (B, H, N, N), head outputs (B, N, H, d) and the stream (B, N, D) before, in and after each block: nested lists
    of float64, as the modules make them with fused attention off."""
    backbone, found = copy.deepcopy(backbone).double(), {"attention": [], "heads": [], "entered": [], "halfway": [], "left": []}

    def keep(name, index=0):
        return lambda _, args, out=None: found[name].append((out if index is None else args[index]).tolist())

    for block in backbone.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(keep("attention"))
        block.attn.proj.register_forward_pre_hook(
            lambda _, args: found["heads"].append(args[0].unflatten(-1, (3, -1)).tolist()))
        block.register_forward_pre_hook(keep("entered"))
        block.norm2.register_forward_pre_hook(keep("halfway"))
        block.register_forward_hook(keep("left", None))
    with torch.no_grad():
        backbone.forward_features(normalize(source.images(torch.arange(len(source)))).double())
    return found


def slow_entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def slow_statistics(rows: list[list[float]], prefix: int, columns: int, patch: int) -> dict[str, float]:
    """Of one head: attention row by row, queries and keys one at a time."""
    n = len(rows) - prefix
    found, share = dict.fromkeys(STATISTICS, 0.0), [0.0] * n
    for q in range(n):
        row = rows[prefix + q]
        mass = sum(row[prefix:])
        own = [x / mass for x in row[prefix:]]
        for k in range(n):
            length = patch * math.hypot(q // columns - k // columns, q % columns - k % columns)
            found["distance"] += own[k] * length / n
            found["distance_full"] += row[prefix + k] * length / n
            share[k] += own[k] / n
        found["entropy"] += slow_entropy(own) / n
        found["entropy_full"] += slow_entropy(row) / n
        found["prefix_mass"] += sum(row[:prefix]) / n
    found["nmi"] = (slow_entropy(share) - found["entropy"]) / math.sqrt(math.log(n) * slow_entropy(share))
    return found


def slow_cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def average(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def statistics_of(logits: torch.Tensor, grid: tuple[int, int], patch: float = 16, prefix: int = 1) -> dict[str, torch.Tensor]:
    """AttentionStatistics of logits (B, H, N, N): each (B, H)."""
    metric = AttentionStatistics()
    metric.start(Layout(prefix, grid, (patch, patch), 1))
    metric.update(1, Attention(logits, None))
    return {name: values[:, 0] for name, values in metric.compute().items()}


# ------------------------------------------------------------------------------------------------------ against loops

@pytest.mark.parametrize("name", MODELS)
def test_statistics_against_loops(name):
    backbone = model(name)
    source = Wide(backbone)
    found = record(backbone, source, [AttentionStatistics()], batch_size=2)
    attention, prefix = inside(backbone, source)["attention"], backbone.num_prefix_tokens
    assert set(found) == set(STATISTICS)
    spread = {key: found[key].std() for key in STATISTICS}
    for image, block, head in itertools.product(range(3), range(2), range(3)):
        expected = slow_statistics(attention[block][image][head], prefix, 4, 4)
        for key in STATISTICS:
            assert found[key].shape == (3, 2, 3)
            assert found[key][image, block, head].item() == pytest.approx(expected[key], abs=1e-5)
            assert spread[key] > 1e-3 or (prefix == 0 and key == "prefix_mass")


@pytest.mark.parametrize("name", ["timm", "distilled", "beit", "course"])
def test_similarities_against_loops(name):
    backbone = model(name)
    source, prefix = Wide(backbone), backbone.num_prefix_tokens
    found = record(backbone, source, [HeadSimilarity(), MapSimilarity(), TokenSimilarity(), DepthSimilarity()], batch_size=2)
    made = inside(backbone, source)
    patches = range(prefix, len(made["left"][0][0]))
    pairs = list(itertools.combinations(range(3), 2))
    stream = [made["entered"][0], *made["left"]]
    assert {key: tuple(x.shape) for key, x in found.items()} == {
        "head_similarity": (3, 2), "map_similarity": (3, 2), "token_similarity": (3, 3), "attention_similarity": (3, 2),
        "block_similarity": (3, 2)}
    for image, block in itertools.product(range(3), range(2)):
        heads, maps, before, halfway, after = (made[key][block][image] for key in (
            "heads", "attention", "entered", "halfway", "left"))
        expected = {"head_similarity": average(slow_cosine(heads[n][a], heads[n][b]) for n in patches for a, b in pairs),
                    "map_similarity": average(slow_cosine(maps[a][n][prefix:], maps[b][n][prefix:])
                                              for n in patches for a, b in pairs),
                    "attention_similarity": average(slow_cosine(before[n], halfway[n]) for n in patches),
                    "block_similarity": average(slow_cosine(before[n], after[n]) for n in patches)}
        for key, value in expected.items():
            assert found[key][image, block].item() == pytest.approx(value, abs=1e-5)
    for image, depth in itertools.product(range(3), range(3)):
        tokens = stream[depth][image]
        value = average(slow_cosine(tokens[i], tokens[j]) for i, j in itertools.combinations(patches, 2))
        assert found["token_similarity"][image, depth].item() == pytest.approx(value, abs=1e-5)


def test_functions_and_metric_agree():
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 13, 13, generator=g)
    found, attention = statistics_of(logits, (3, 4), 8), patch_attention(logits)
    torch.testing.assert_close(found["distance"], attention_distance(attention, patch_distances((3, 4), (8, 8))))
    torch.testing.assert_close(found["entropy"], entropy(attention).mean(-1))
    torch.testing.assert_close(found["nmi"], normalized_mutual_information(attention))
    full = logits[:, :, 1:].softmax(-1)
    torch.testing.assert_close(found["entropy_full"], entropy(full).mean(-1))
    torch.testing.assert_close(found["prefix_mass"], full[..., 0].mean(-1))


def test_distances_of_patches_that_are_not_squares():
    found = patch_distances((2, 3), (4, 8))
    places = [(4 * row, 8 * column) for row in range(2) for column in range(3)]
    assert found.tolist() == [[pytest.approx(math.dist(a, b), abs=1e-12) for b in places] for a in places]


# ------------------------------------------------------------------------------------------------------- known points

@pytest.mark.parametrize(("side", "patch", "expected"), [(14, 16, 116.49), (7, 32, 115.50), (16, 14, 116.57), (8, 4, 16.55),
                                                         (8, 8, 33.09)])
def test_uniform_attention(side, patch, expected):
    n = side * side
    found = statistics_of(torch.zeros(1, 2, n + 1, n + 1), (side, side), patch)
    assert found["distance"].tolist() == [[pytest.approx(expected, abs=0.005)] * 2]
    assert found["distance_full"].tolist() == [[pytest.approx(expected * n / (n + 1), abs=0.005)] * 2]
    assert found["entropy"].tolist() == [[pytest.approx(math.log(n), abs=1e-5)] * 2]
    assert found["entropy_full"].tolist() == [[pytest.approx(math.log(n + 1), abs=1e-5)] * 2]
    assert found["nmi"].abs().max() < 1e-5
    assert found["prefix_mass"].tolist() == [[pytest.approx(1 / (n + 1), abs=1e-6)] * 2]


def test_identity_and_permutations():
    g = torch.Generator().manual_seed(0)
    for order in (torch.arange(196), torch.randperm(196, generator=g), torch.arange(195, -1, -1)):
        attention = torch.zeros(1, 1, 196, 196)
        attention[0, 0, torch.arange(196), order] = 1
        distances = patch_distances((14, 14), (16, 16))
        moved = torch.tensor([16 * math.dist(divmod(q, 14), divmod(k, 14)) for q, k in enumerate(order.tolist())])
        logits = nn.functional.pad(1e4 * attention, (1, 0, 1, 0), value=-1e4)
        for found in (statistics_of(logits, (14, 14)), {"distance": attention_distance(attention, distances),
                                                        "nmi": normalized_mutual_information(attention),
                                                        "entropy": entropy(attention).mean(-1)}):
            assert found["distance"].item() == pytest.approx(moved.mean().item(), abs=1e-3)
            assert found["nmi"].item() == pytest.approx(1, abs=1e-5)
            assert found["entropy"].item() == 0
    assert moved.max() > 200                                       # the last one is a point reflection


def test_all_queries_on_one_key():
    logits = torch.zeros(1, 1, 17, 17)
    logits[..., 1] = 1e4                                           # the patch in the corner
    found = statistics_of(logits, (4, 4), 1)
    to_corner = sum(math.hypot(*divmod(q, 4)) for q in range(16)) / 16
    assert found["distance"].item() == pytest.approx(to_corner, abs=1e-5)
    assert found["nmi"].item() == 0 and found["entropy"].item() == 0
    assert normalized_mutual_information(patch_attention(logits)).item() == 0
    soft = torch.zeros(1, 1, 17, 17)
    soft[..., 1:9] = 2.0                                           # soft, but the same for all: rounding alone is not NMI
    assert 0 <= statistics_of(soft, (4, 4))["nmi"].item() < 1e-3


def test_nmi_is_not_below_0_by_rounding():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 4, 1, 196, generator=g).expand(-1, -1, 196, -1)
    padded = nn.functional.pad(rows, (1, 0, 1, 0))
    for nmi in (normalized_mutual_information(rows.softmax(-1)), statistics_of(padded, (14, 14))["nmi"]):
        assert nmi.min() >= 0 and nmi.max() < 1e-3


def logits_of_nmi(target: float) -> torch.Tensor:
    """Random logits of 196 patches (1, 1, 196, 196), float64, with the NMI asked for."""
    noise, low, high = torch.randn(1, 1, 196, 196, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.1, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        attention = (middle * noise).softmax(-1)[0, 0].tolist()
        low, high = (middle, high) if slow_statistics_nmi(attention) < target else (low, middle)
    return low * noise


def slow_statistics_nmi(rows: list[list[float]]) -> float:
    keys = slow_entropy([average(column) for column in zip(*rows, strict=True)])
    return (keys - average(slow_entropy(row) for row in rows)) / math.sqrt(math.log(len(rows)) * keys)


def test_nmi_does_not_care_how_much_cls_takes():
    patches = logits_of_nmi(0.535)
    naive = []
    for log10 in (-4, -5, -6, -7, -30, -300):                      # what the patches keep; -300 is 0 in float32
        cls = patches.logsumexp(-1, keepdim=True) - log10 * math.log(10)
        logits = nn.functional.pad(torch.cat([cls, patches], dim=-1), (0, 0, 1, 0)).float()
        found = statistics_of(logits, (14, 14))
        assert found["nmi"].item() == pytest.approx(0.535, abs=1e-4)
        assert normalized_mutual_information(patch_attention(logits)).item() == pytest.approx(0.535, abs=1e-4)
        assert found["entropy"].item() == pytest.approx(entropy(patches.softmax(-1)).mean().item(), abs=1e-4)
        assert found["prefix_mass"].item() == pytest.approx(1 - 10.0**log10, abs=1e-6)
        assert found["distance_full"].item() == pytest.approx(found["distance"].item() * 10.0**log10, rel=1e-2, abs=1e-20)
        kept = logits.softmax(-1)[..., 1:, 1:] + 1e-8              # the form that adds an epsilon and divides
        naive.append(normalized_mutual_information(kept / kept.sum(-1, keepdim=True)).item())
    assert naive[:4] == pytest.approx([0.514, 0.391, 0.101, 0.005], abs=0.002)      # the bias that it has


@pytest.mark.parametrize("scale", [1.0, 100.0, 10_000.0])
def test_float32_is_as_good_as_float64(scale):
    g = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 2, 50, 50, generator=g)
    single, double = (statistics_of(x, (7, 7)) for x in (logits, logits.double()))
    assert double["nmi"].dtype == torch.float64
    for name in STATISTICS:
        torch.testing.assert_close(single[name].double(), double[name], rtol=1e-5, atol=1e-5)


def test_patches_that_are_masked_away():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 10, 10, generator=g)
    logits[..., [1, 5]] = -1e30                                    # nobody looks at patches 0 and 4
    found, full = statistics_of(logits, (3, 3)), logits.double()[0, 0, 1:].softmax(-1)
    assert found["prefix_mass"].item() == pytest.approx(full[:, 0].mean().item(), abs=1e-6)
    assert found["entropy_full"].item() == pytest.approx(average(map(slow_entropy, full.tolist())), abs=1e-5)
    assert found["nmi"].isfinite().all()


def test_entropy_of_0_is_0():
    assert entropy(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])).tolist() == [0, pytest.approx(math.log(2))]


# ------------------------------------------------------------------------------------------------------- similarities

def test_pairwise_cosine_at_known_points():
    same, apart = torch.tensor([[1.0, 2.0]]).expand(5, -1) * torch.arange(1, 6)[:, None], torch.eye(4)
    assert pairwise_cosine(same).item() == pytest.approx(1, abs=1e-6)
    assert pairwise_cosine(apart).item() == pytest.approx(0, abs=1e-6)
    assert pairwise_cosine(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])).item() == pytest.approx(-1, abs=1e-6)
    assert pairwise_cosine(torch.zeros(3, 2)).item() == 0          # a row of zeros is like nothing, not even itself
    assert pairwise_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])).item() == pytest.approx(1 / 3)
    assert math.isnan(pairwise_cosine(torch.ones(1, 2)).item())


def test_one_head_has_no_similarity():
    backbone = ViT(16, 4, dim=24, depth=2, heads=1)
    assert record(backbone, Wide(backbone), [HeadSimilarity()])["head_similarity"].isnan().all()


def test_depth_similarity_keeps_no_tokens():
    backbone, metric = model("timm"), DepthSimilarity()
    record(backbone, Wide(backbone), [metric])
    assert metric.before is None


def test_blocks_that_add_nothing_change_nothing():
    backbone = ViT(16, 4, dim=24, depth=2, heads=3)
    with torch.no_grad():
        for block in backbone.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_(), layer.bias.zero_()
    found = record(backbone, Wide(backbone), [DepthSimilarity()])
    assert found["block_similarity"].flatten().tolist() == found["attention_similarity"].flatten().tolist()
    assert found["block_similarity"].flatten().tolist() == pytest.approx([1.0] * 6, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------- maps

@pytest.mark.parametrize("name", ["timm", "distilled", "beit", "course"])
def test_attention_maps_are_those_of_the_unfused_module(name):
    backbone = model(name)
    images = Wide(backbone).images(torch.arange(3))
    maps = attention_maps(backbone, images)
    expected = torch.tensor(inside(backbone, Wide(backbone))["attention"])
    assert maps.shape == expected.shape and maps.shape[:3] == (2, 3, 3) and maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(attention_maps(backbone, normalize(images)), maps)


def test_attention_maps_of_images_that_do_not_fit():
    with pytest.raises(CourseError, match="gives images of 16 x 16 pixels, the backbone takes 8 x 16"):
        attention_maps(model("timm"), torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    damaged = model("timm")
    with torch.no_grad():
        damaged.blocks[0].attn.qkv.bias[0] = torch.nan
    with pytest.raises(CourseError, match=r"not finite, first out of blocks.0.attn in these images"):
        attention_maps(damaged, torch.zeros(2, 3, 8, 16, dtype=torch.uint8))
