"""Recipes: what the papers say, and values that make no sense."""
import json
from dataclasses import fields, replace

import pytest
import torch

from lib.data.views import ViewRecipe
from lib.errors import CourseError
from lib.models import zoo
from lib.objectives.contrastive import MoCoV3
from lib.objectives.distillation import DINO
from lib.objectives.hybrid import Hybrid
from lib.objectives.masked import MAE, SimMIM
from lib.objectives.supervised import Supervised
from lib.training.build import build, from_description
from lib.training.recipes import DEPARTURES, OBJECTIVES, RECIPES, SCALES, command, describe, objective_of, recipe
from lib.training.settings import Own

CLASSES = {"dino": DINO, "mae": MAE, "mocov3": MoCoV3, "simmim": SimMIM, "supervised": Supervised, "hybrid": Hybrid}


def test_every_objective_has_every_scale():
    assert set(RECIPES) == {(objective, scale) for objective in OBJECTIVES for scale in SCALES}
    assert {"mocov3", "simmim"} <= set(OBJECTIVES)
    for (objective, scale), r in RECIPES.items():
        assert objective_of(r) == objective and recipe(objective, scale) == r
        assert all(f.metadata["help"] for f in fields(r))


def test_mocov3_as_published():
    r = recipe("mocov3", "paper")
    published = dict(model="vit_base", image_size=224, patch_size=16, positions="sincos", epochs=300, batch_size=4096,
                     learning_rate=2.4e-3, warmup_epochs=40, warmup_start=0, schedule="cosine", weight_decay=0.1,
                     decay_all=True, beta2=0.999, clip_norm=0, hidden=4096, dim=256, temperature=0.2, momentum=0.99,
                     freeze_patches=True, crop_min=0.08, drop_path=0, layer_scale=0)
    assert {name: getattr(r, name) for name in published} == pytest.approx(published)


def test_simmim_as_published():
    r = recipe("simmim", "paper")
    published = dict(model="vit_base", image_size=224, patch_size=16, positions="relative", layer_scale=0.1, drop_path=0.1,
                     epochs=800, batch_size=2048, learning_rate=4e-4, warmup_epochs=10, warmup_start=2e-6, schedule="step",
                     weight_decay=0.05, decay_all=False, beta2=0.999, clip_norm=5, mask_ratio=0.6, mask_cell=2, crop_min=0.67)
    assert {name: getattr(r, name) for name in published} == pytest.approx(published)


def test_dino_as_published():
    r = recipe("dino", "paper")
    published = dict(model="vit_base", positions="learned", init="normal", heads=0, clip_norm=0.3, clip_each=True,
                     drop_path=0.1, batch_size=1024, learning_rate=3e-3, learning_rate_end=2e-6, local_crops=10)
    assert {name: getattr(r, name) for name in published} == pytest.approx(published)
    assert not any(RECIPES[key].clip_each for key in RECIPES if key != ("dino", "paper"))


@pytest.mark.parametrize("objective", ["dino", "supervised"])
def test_the_backbones_of_dino_and_deit(objective):
    """At 8 by 8 patches instead of 14 by 14, which changes the table of positions alone."""
    small = dict(image_size=128, classes=2) if objective == "supervised" else dict(image_size=128, prototypes=4, hidden=8)
    for model, heads in (("vit_small", 6), ("vit_tiny", 3), ("vit_base", 12)):
        r = recipe(objective, "paper", model=model, **small)
        with torch.device("meta"):
            network = r.backbone()
        assert network.blocks[0].attn.num_heads == heads and network.pos_embed.requires_grad
    assert recipe(objective, "paper", model="vit_small", heads=4).heads == 4
    assert recipe("mocov3", "paper", model="vit_small").heads == recipe(objective, "course", model="vit_small").heads == 0
    weight = recipe(objective, "paper", model="vit_nano", **small).backbone().blocks[2].mlp.fc2.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_learning_rate_of_a_paper_follows_the_batch():
    assert recipe("mocov3", "paper", batch_size=1024).learning_rate == pytest.approx(1.5e-4 * 1024 / 256)
    assert recipe("mocov3", "paper", batch_size=1024, learning_rate=2.4e-3).learning_rate == 2.4e-3
    assert recipe("mocov3", "paper", batch_size=4096) == recipe("mocov3", "paper")
    half = recipe("simmim", "paper", batch_size=1024)              # the official code scales the start of the warm-up too
    assert (half.learning_rate, half.warmup_start) == pytest.approx((2e-4, 1e-6))
    half = recipe("supervised", "paper", batch_size=512)
    assert (half.learning_rate, half.warmup_start, half.learning_rate_end) == pytest.approx((5e-4, 1e-6, 1e-5))
    for scale in ("smoke", "course"):
        assert recipe("mocov3", scale, batch_size=64).learning_rate == RECIPES["mocov3", scale].learning_rate


def test_every_paper_says_what_it_leaves_out():
    assert set(DEPARTURES) == set(OBJECTIVES) and all(text and "\n" not in text for text in DEPARTURES.values())


def test_smoke_and_course_recipes_build():
    for (objective, scale), r in RECIPES.items():
        if scale != "paper":
            r = replace(r, classes=10) if objective == "supervised" else r
            assert isinstance(build(r), CLASSES[objective])


def test_build_is_the_same_for_the_same_seed():
    first, again, other = (build(recipe("simmim", image_size=16, patch_size=4, seed=s)).state_dict() for s in (3, 3, 4))
    assert all((first[k] == again[k]).all() for k in first)
    assert (first["decoder.linear.weight"] != other["decoder.linear.weight"]).any()


@pytest.mark.parametrize(("objective", "scale"), RECIPES)
def test_description_makes_the_recipe_again(objective, scale):
    r = recipe(objective, scale, seed=5, learning_rate=1e-3)
    assert from_description(json.loads(json.dumps(describe(r)))) == r


def test_description_of_another_version_is_named():
    described = describe(recipe("simmim"))
    with pytest.raises(CourseError, match="no field 'colour'"):
        from_description(described | {"colour": 1})
    described.pop("mask_cell")
    with pytest.raises(CourseError, match="lacks mask_cell"):
        from_description(described)
    with pytest.raises(CourseError, match="no recipe"):
        from_description({})


def test_description_of_before_a_way_to_run_was_added_is_understood():
    """Fields that do not change what is computed may be missing: checkpoints that ship outlive the options of the trainer."""
    described = describe(recipe("simmim", seed=5))
    older = {name: value for name, value in described.items() if name not in ("accumulate", "checkpoint_blocks", "shard")}
    assert len(older) == len(described) - 3 and from_description(older) == recipe("simmim", seed=5)


def test_descriptions_of_shipped_checkpoints_are_understood():
    """They were written before a recipe had `heads`, `clip_each` and `keep_every`, whose defaults are what was done then."""
    older = [entry["recipe"] for entry in zoo.manifest().values()]
    assert older
    for described in older:
        r = from_description(described)
        assert (r.heads, r.clip_each) == (described.get("heads", 0), described.get("clip_each", False))
        assert describe(r).items() >= described.items()


@pytest.mark.parametrize(("objective", "changes", "said"), [
    ("simmim", dict(epochs=0), "epochs must be at least 1, got 0"),
    ("simmim", dict(mask_cell=0), "mask_cell must be at least 1"),
    ("mocov3", dict(hidden=0), "hidden must be at least 1"),
    ("mocov3", dict(learning_rate=float("nan")), "learning_rate must lie from 0 to .*, got nan"),
    ("mocov3", dict(weight_decay=-1), "weight_decay must lie from 0"),
    ("mocov3", dict(temperature=0.0), "temperature must be greater than 0"),
    ("mocov3", dict(momentum=1.5), "momentum must be at least 0 and less than 1, got 1.5"),
    ("mocov3", dict(batch_size=1), "batch_size must be at least 2"),
    ("supervised", dict(jitter=1.5), "jitter must lie from 0 to 1, got 1.5"),
    ("supervised", dict(erase=-0.1), "erase must lie from 0 to 1, got -0.1"),
    ("supervised", dict(rand_augment=11), "rand_augment must lie from 0 to 10, got 11"),
    ("simmim", dict(drop_path=1.0), "drop_path must be at least 0 and less than 1"),
    ("simmim", dict(beta2=1.5), "beta2 must be at least 0 and less than 1"),
    ("simmim", dict(seed=2**63), "seed must fit into 64 bits"),
    ("simmim", dict(model="vit_enormous"), "model must be one of vit_nano"),
    ("simmim", dict(schedule="linear"), "schedule must be one of cosine, step, got 'linear'"),
    ("simmim", dict(momentum=0.9), "a simmim recipe has no field 'momentum'"),
])
def test_wrong_values_are_named(objective, changes, said):
    with pytest.raises(CourseError, match=said) as caught:
        recipe(objective, **changes)
    assert "\n" not in str(caught.value)


def test_unknown_recipes_are_named():
    with pytest.raises(CourseError, match="no recipe 'byol' at scale 'smoke'; objectives are mocov3"):
        recipe("byol")
    with pytest.raises(CourseError, match="scales smoke, course, paper"):
        recipe("mocov3", "large")


@pytest.mark.parametrize("changes", [{}, {"epochs": 7}, {"freeze_patches": True, "learning_rate": 3e-4, "compile": True}])
def test_the_command_of_a_recipe_trains_that_recipe(changes, monkeypatch):
    from lib.training.__main__ import parse

    r = recipe("mocov3", "smoke", **changes)
    monkeypatch.setattr("sys.argv", command(r).split()[2:])
    assert parse()[2] == r
    assert len(command(r).split()) <= 6 + 2 * len(changes)


@pytest.mark.parametrize(("objective", "changes"), [
    ("dino", dict(model="vit_small")), ("dino", dict(model="vit_small", heads=0)), ("simmim", dict(batch_size=512)),
    ("simmim", dict(batch_size=512, learning_rate=4e-4)), ("mocov3", dict(batch_size=512, learning_rate=2.4e-3, hidden=64))])
def test_the_command_of_a_published_recipe_says_what_would_not_follow(objective, changes, monkeypatch):
    from lib.training.__main__ import parse

    r = recipe(objective, "paper", **changes)
    monkeypatch.setattr("sys.argv", command(r).split()[2:])
    assert parse()[2] == r


def views_of(objective: str, leave_out: str) -> list[ViewRecipe]:
    """All views that an objective makes."""
    r = recipe(objective, leave_out=leave_out, **{"classes": 10} if objective == "supervised" else {})
    names = ("view", "views", "global_views", "local_view")
    found = [getattr(module, name) for module in build(r).modules() for name in names if hasattr(module, name)]
    return [view for views in found for view in (views if isinstance(views, tuple) else (views,))]


def test_augmentations_can_be_left_out():
    for before, after in zip(views_of("mocov3", ""), views_of("mocov3", "jitter, solarize"), strict=True):
        assert after == replace(before, jitter=0.0, solarize=0.0) and before.jitter == 0.8
    (whole,) = views_of("mae", "crop")
    assert whole.scale == whole.ratio == (1.0, 1.0) and whole.flip == 0.5
    has = dict.fromkeys(("simmim", "mae"), "crop,flip") | {"supervised": "crop,jitter,flip"}
    views = [view for objective in OBJECTIVES
             for view in views_of(objective, has.get(objective, "crop,jitter,grayscale,blur,solarize,flip"))]
    assert len(views) == 11
    for view in views:
        assert view == ViewRecipe(ratio=(1.0, 1.0), strengths=view.strengths, sigma=view.sigma)
    with pytest.raises(CourseError, match=r"leave_out names augmentations, crop, jitter, .*, got 'hue'"):
        recipe("mocov3", leave_out="jitter,hue")


@pytest.mark.parametrize(("objective", "name", "has"), [
    ("simmim", "blur", "crop, flip"), ("mae", "crop,jitter", "crop, flip"),
    ("supervised", "rand_augment", "crop, jitter, flip"),
    ("mocov3", "rand_augment", "crop, jitter, grayscale, blur, solarize, flip"),
    ("hybrid", "rand_augment", "crop, jitter, grayscale, blur, solarize, flip"),
    ("dino", "rand_augment", "crop, jitter, grayscale, blur, solarize, flip")])
def test_what_a_training_does_not_have_cannot_be_left_out(objective, name, has):
    said = f"leave_out names {name.split(',')[-1]}, which this training does not have; it has {has}$"
    with pytest.raises(CourseError, match=said):
        recipe(objective, leave_out=name)
    assert Own(leave_out="blur").leave_out == "blur"               # whose views are not known here
    assert recipe("supervised", rand_augment=9.0, leave_out="rand_augment").leave_out == "rand_augment"


def test_spellings_of_one_recipe_are_one_recipe():
    """A run and its continuation are compared, and may be typed in other words."""
    r = recipe("mocov3", "smoke", leave_out="blur, crop,blur", start_from="runs/first//")
    assert (r.leave_out, r.start_from) == ("crop,blur", "runs/first")
    assert r == recipe("mocov3", "smoke", leave_out="crop,blur", start_from="runs/first")
    assert recipe("mocov3", "smoke", start_from="/").start_from == "/"
