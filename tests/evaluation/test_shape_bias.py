"""Shape bias: 1 for an eye for shape, 0 for one for texture, a half by chance; Geirhos' stimuli by name and category."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data.images import open_images
from lib.data.shapes import Shapes
from lib.data.views import normalize
from lib.errors import CourseError
from lib.evaluation import linear
from lib.evaluation import shape_bias as module
from lib.evaluation.shape_bias import cue_conflict, decide, read_categories, shape_bias, shapes_cue_conflict, stimuli, top1
from lib.models.vit import ViT


def cues(n: int, seed: int = 0, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = torch.randint(classes, (n,), generator=g)
    return shapes, (shapes + 1 + torch.randint(classes - 1, (n,), generator=g)) % classes


# ------------------------------------------------------------------------------------------------------- the measure

def test_bias_against_a_loop():
    shapes, textures = cues(300)
    predicted = torch.where(torch.arange(300) % 3 == 0, textures, (shapes + torch.arange(300) % 2) % 10)
    count = {"shape": 0, "texture": 0, "neither": 0}
    for p, s, t in zip(predicted.tolist(), shapes.tolist(), textures.tolist(), strict=True):
        count["shape" if p == s else "texture" if p == t else "neither"] += 1
    result = shape_bias(predicted, shapes, textures)
    assert min(count.values()) > 20 and result["images"] == 300
    assert {cue: result[cue] for cue in count} == pytest.approx({cue: count[cue] / 300 for cue in count})
    assert result["shape_bias"] == pytest.approx(count["shape"] / (count["shape"] + count["texture"]))


def test_interval_of_the_bias_against_drawn_images():
    shapes, textures = cues(120)
    predicted = torch.where(torch.arange(120) < 30, shapes, torch.where(torch.arange(120) < 50, textures, -1))
    rng, biases = np.random.default_rng(3), []
    for _ in range(2000):
        drawn = rng.integers(120, size=120)
        s, t = ((predicted == cue)[drawn].sum().item() for cue in (shapes, textures))
        biases.append(s / (s + t))
    low, high = shape_bias(predicted, shapes, textures)["interval"]
    assert (low, high) == pytest.approx(np.quantile(biases, [0.025, 0.975]), abs=0.02)
    assert low < 0.6 < high and shape_bias(predicted, shapes, textures)["interval"] == [low, high]


def test_bias_at_known_points():
    shapes, textures = cues(20_000)
    for predicted, bias in ((shapes, 1), (textures, 0)):
        result = shape_bias(predicted, shapes, textures)
        assert result["shape_bias"] == bias and result["interval"] == [bias, bias] and result["neither"] == 0
    chance = shape_bias(torch.randint(10, (20_000,), generator=torch.Generator().manual_seed(9)), shapes, textures)
    assert chance["shape_bias"] == pytest.approx(0.5, abs=0.03) and chance["neither"] == pytest.approx(0.8, abs=0.01)
    blind = shape_bias(torch.full_like(shapes, 11), shapes, textures)
    assert blind["neither"] == 1 and blind["shape_bias"] is None and blind["interval"] is None


def test_draws_without_a_decision_do_not_spoil_the_interval():
    shapes, textures = cues(50)
    predicted = torch.where(torch.arange(50) == 0, shapes, -1)     # one decision: many draws have none
    assert shape_bias(predicted, shapes, textures)["interval"] == [1, 1]


def test_images_without_conflict_are_named():
    shapes, textures = cues(10)
    textures[3] = shapes[3]
    with pytest.raises(CourseError, match="got 10 images, 1 of them without conflict"):
        shape_bias(shapes, shapes, textures)
    with pytest.raises(CourseError, match="got 0 images"):
        shape_bias(shapes[:0], shapes[:0], shapes[:0])


# -------------------------------------------------------------------------------------------------- in the shapes world

def seeing(monkeypatch, **strengths):
    """A backbone whose features are one-hot codes of the named factors."""
    def extract(backbone, source, pooling, depth, mean, std):
        factors = source.factors(torch.arange(len(source)))
        g = torch.Generator().manual_seed(len(source))
        parts = [strength * torch.eye(10)[factors[name]] if name != "noise" else torch.randn(len(source), 10, generator=g)
                 for name, strength in strengths.items()]
        return torch.cat(parts, 1), factors["shape"]

    monkeypatch.setattr(module, "extract", extract)
    return shapes_cue_conflict(ViT(16, 4, dim=24, depth=1, heads=2), train_images=300, val_images=400)


def test_an_eye_for_texture_has_no_shape_bias(monkeypatch):
    result = seeing(monkeypatch, texture=1)
    assert result["shape_bias"] == 0 and result["texture"] == 1 and result["congruent"]["accuracy"] == 1
    assert result["readable"]["texture"]["accuracy"] == 1 and result["readable"]["shape"]["accuracy"] < 0.2
    assert (result["images"], result["training_images"]) == (400, 300)


def test_an_eye_for_shape_has_a_shape_bias_of_1(monkeypatch):
    result = seeing(monkeypatch, shape=1)
    assert result["shape_bias"] == result["shape"] == 1 and result["congruent"]["accuracy"] == 1
    assert result["readable"]["shape"]["accuracy"] == 1 and result["readable"]["texture"]["accuracy"] < 0.2
    assert result["told_shape"]["shape_bias"] == 1


def test_an_eye_for_both_that_was_told_shape_goes_by_shape(monkeypatch):
    result = seeing(monkeypatch, texture=1, shape=1)
    assert result["told_shape"]["shape_bias"] > 0.98 and 0 < result["shape_bias"] < 1
    assert min(r["accuracy"] for r in result["readable"].values()) > 0.98


def test_a_blind_eye_is_at_chance(monkeypatch):
    result = seeing(monkeypatch, noise=1)
    low, high = result["interval"]
    assert low < 0.5 < high and result["neither"] == pytest.approx(0.8, abs=0.06)
    assert result["congruent"]["accuracy"] == pytest.approx(0.1, abs=0.06)
    assert all(r["accuracy"] == pytest.approx(0.1, abs=0.06) for r in result["readable"].values())


def test_the_worlds_are_the_right_ones(monkeypatch):
    """Trained on congruent images; the conflict images are the congruent validation scenes in another texture."""
    opened = []

    class Watched(Shapes):
        def __init__(self, split, size, **options):
            super().__init__(split, size, **options)
            opened.append((split, size, options["pairing"], options["length"], options["difficulty"]))

    monkeypatch.setattr(module, "Shapes", Watched)
    monkeypatch.setattr(linear, "WEIGHT_DECAYS", (0.1,))
    torch.manual_seed(0)
    result = shapes_cue_conflict(ViT(16, 4, dim=24, depth=1, heads=2), "mean", "easy", train_images=40, val_images=30)
    assert set(opened) == {("train", 16, "congruent", 40, "easy"), ("val", 16, "congruent", 30, "easy"),
                           ("val", 16, "conflict", 30, "easy"), ("train", 16, "independent", 40, "easy"),
                           ("val", 16, "independent", 30, "easy")}
    familiar, conflict = (Shapes("val", 16, 30, pairing=p).factors(torch.arange(30)) for p in ("congruent", "conflict"))
    assert [name for name in familiar if not torch.equal(familiar[name], conflict[name])] == ["texture"]
    assert 0 <= result["shape"] <= 1 and result["images"] == 30


# ------------------------------------------------------------------------------------------------- with Geirhos' stimuli

CATEGORIES = {"n01": "cat", "n02": "dog", "n03": "dog", "n04": "car", "n05": "clock"}
CLASSES = ["n01", "n99", "n03", "n04", "n02"]                     # no clock; n99 is in no category


def draw(folder, shape: int, texture: int, name: str):
    """A stimulus that says what it is: 40 grey levels a class, shape in red and texture in green."""
    path = folder / name.split("-")[0].rstrip("0123456789") / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (40 * shape, 40 * texture, 0)).save(path)


@pytest.fixture
def folder(tmp_path):
    kinds = ["car", "cat", "clock", "dog"]
    for s, shape in enumerate(kinds):
        for t, texture in enumerate(kinds):
            for k in range(2):
                draw(tmp_path / "cue-conflict", s, t, f"{shape}{k + 1}-{texture}{10 + k}")
    return tmp_path / "cue-conflict"


def reader(channel: int):
    """Probabilities of CLASSES from one channel of what `draw` painted."""
    sure = torch.tensor([[0, 0.02, 0, 0.9, 0.08], [0.9, 0.02, 0.08, 0, 0], [0, 1, 0, 0, 0], [0.1, 0, 0.5, 0.0, 0.4]])

    def probabilities(images):
        levels = images[:, channel].mean((1, 2)) - normalize(torch.zeros(3, 1, 1, dtype=torch.uint8))[channel, 0, 0]
        scale = normalize(torch.full((3, 1, 1), 40, dtype=torch.uint8)) - normalize(torch.zeros(3, 1, 1, dtype=torch.uint8))
        return sure[(levels / scale[channel, 0, 0]).round().long()]

    return probabilities


def test_stimuli_are_read_by_name(folder):
    every = stimuli(folder)
    assert len(every) == 32 and (every[2][0].name, *every[2][1:]) == ("car1-clock10.png", "car", "clock")


@pytest.mark.parametrize(("channel", "bias"), [(0, 1), (1, 0)])
def test_an_eye_for_one_cue(folder, channel, bias):
    result = cue_conflict(reader(channel), folder, CLASSES, CATEGORIES, 16, batch_size=5)
    assert result["shape_bias"] == bias and result["neither"] == 0 and result["size"] == 16
    assert result["categories"] == ["car", "cat", "dog"] and result["images"] == 12
    assert result["left_out"] == {"agree": 8, "unknown": 12}


def test_a_random_eye_is_at_chance(tmp_path):
    for k in range(300):
        draw(tmp_path, 0, 1, f"car{k}-cat{k}")
    g = torch.Generator().manual_seed(0)
    known = ["n01", "n04", "n05"]
    result = cue_conflict(lambda images: torch.rand(len(images), 3, generator=g), tmp_path, known, CATEGORIES, 8)
    assert result["shape_bias"] == pytest.approx(0.5, abs=0.1) and result["neither"] == pytest.approx(1 / 3, abs=0.08)


def test_a_category_has_the_mean_of_its_classes():
    """Not the sum, which favours categories of many classes, nor the largest."""
    probabilities = torch.tensor([[0.30, 0.30, 0.20, 0.00, 0.20],          # cat .30, dog .20: by the sum it would be dog
                                  [0.25, 0.00, 0.40, 0.00, 0.05],          # dog .225: by the largest it would be dog
                                  [0.10, 0.50, 0.15, 0.05, 0.20],          # dog .175
                                  [0.00, 0.90, 0.05, 0.05, 0.00]])         # dog .025, car .05
    chosen, covered = decide(probabilities, CLASSES, CATEGORIES)
    assert covered == ["car", "cat", "dog"] and [covered[k] for k in chosen.tolist()] == ["cat", "cat", "dog", "car"]


def test_images_are_cut_and_normalised(folder):
    seen = []
    cue_conflict(lambda images: seen.append(images) or torch.rand(len(images), 5), folder, CLASSES, CATEGORIES, 16)
    expected = normalize(torch.tensor([0, 40, 0], dtype=torch.uint8).view(3, 1, 1)).expand(3, 16, 16)      # car1-cat10
    assert seen[0].shape == (12, 3, 16, 16)
    torch.testing.assert_close(seen[0][0], expected)
    cue_conflict(lambda images: seen.append(images) or torch.rand(len(images), 5), folder, CLASSES, CATEGORIES, 16,
                 mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.testing.assert_close(seen[1][0, :, 0, 0], torch.tensor([-1, 40 / 127.5 - 1, -1]))


def test_wrong_stimuli_are_named(folder):
    def look():
        return cue_conflict(reader(0), folder, CLASSES, CATEGORIES, 16)

    extra = folder / "cat" / "kitten.png"
    (folder / "cat" / "cat1-dog10.png").rename(extra)
    with pytest.raises(CourseError, match=r"cat/kitten.png is not named like a cue-conflict stimulus"):
        look()
    extra.rename(folder / "cat" / "dog1-cat10.png")
    with pytest.raises(CourseError, match=r"cat/dog1-cat10.png is not named like"):
        look()
    (folder / "cat" / "dog1-cat10.png").rename(folder / "cat" / "cat1-dog10.png")
    (folder / "cat" / "cat1-dog10.png").write_bytes(b"no image")
    with pytest.raises(CourseError, match=r"cat1-dog10.png cannot be decoded"):
        look()
    with pytest.raises(CourseError, match=r"holds no stimuli SHAPE/SHAPE1-TEXTURE2.png"):
        stimuli(folder / "cat")


def test_classes_that_do_not_fit_are_named(folder):
    with pytest.raises(CourseError, match=r"none of the 24 conflict stimuli .* \(cat\)"):
        cue_conflict(reader(0), folder, ["n01", "n99"], CATEGORIES, 16)
    with pytest.raises(CourseError, match="a probability for each of 4 classes, got 5"):
        cue_conflict(reader(0), folder, CLASSES[:4], CATEGORIES, 16)
    with pytest.raises(CourseError, match="classes of at least 2 categories, got 1"):
        decide(torch.rand(2, 2), ["n02", "n03"], CATEGORIES)


def test_categories_are_read(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"wnid_to_category": CATEGORIES, "more": 1}))
    assert read_categories(path) == CATEGORIES
    for text in ("{", "[]", '{"categories": {}}', '{"wnid_to_category": {"n01": 3}}', '{"wnid_to_category": [1]}'):
        path.write_text(text)
        with pytest.raises(CourseError, match=r"map.json is no map of categories .*wnid_to_category"):
            read_categories(path)
    with pytest.raises(CourseError, match="is no map of categories"):
        read_categories(tmp_path / "none.json")


# ----------------------------------------------------------------------------------------------- another version of a set

def test_top1_matches_classes_by_name(tmp_path):
    """A stylised set with two of the classes, in another order than the classifier's."""
    for name, level, count in (("n02", 40, 3), ("n04", 80, 2)):
        for k in range(count):
            path = tmp_path / "stylized" / "val" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (level, 0, 0)).save(path)
    source = open_images(str(tmp_path / "stylized"), "val", 16, root=tmp_path)

    def red(images):                                               # n04 or n02, and once n01
        answers = torch.where(images[:, 0, 0, 0] > images[:, 0, 0, 0].mean(), 3, 4)
        answers[0] = 0
        return torch.eye(5)[answers]

    result = top1(red, source, CLASSES)
    assert result["accuracy"] == pytest.approx(4 / 5) and result["images"] == 5
    assert result["interval"][0] < 0.8 < result["interval"][1]
    with pytest.raises(CourseError, match=r"a class that the classifier does not know, n02: .*n01 is one of the 2 known"):
        top1(red, source, ["n01", "n04"])
