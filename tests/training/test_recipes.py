"""Recipes: what the papers say, and values that make no sense."""
import json
from dataclasses import fields, replace

import pytest

from lib.errors import CourseError
from lib.objectives.contrastive import MoCoV3
from lib.objectives.distillation import DINO
from lib.objectives.hybrid import Hybrid
from lib.objectives.masked import MAE, SimMIM
from lib.objectives.supervised import Supervised
from lib.training.build import build, from_description
from lib.training.recipes import OBJECTIVES, RECIPES, SCALES, command, describe, objective_of, recipe

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


@pytest.mark.parametrize(("objective", "changes", "said"), [
    ("simmim", dict(epochs=0), "epochs must be at least 1, got 0"),
    ("simmim", dict(mask_cell=0), "mask_cell must be at least 1"),
    ("mocov3", dict(hidden=0), "hidden must be at least 1"),
    ("mocov3", dict(learning_rate=float("nan")), "learning_rate must not be negative or infinite, got nan"),
    ("mocov3", dict(weight_decay=-1), "weight_decay must not be negative"),
    ("mocov3", dict(temperature=0.0), "temperature must be greater than 0"),
    ("mocov3", dict(momentum=1.5), "momentum must be at least 0 and less than 1, got 1.5"),
    ("mocov3", dict(batch_size=1), "batch_size must be at least 2"),
    ("simmim", dict(drop_path=1.0), "drop_path must be at least 0 and less than 1"),
    ("simmim", dict(beta2=1.5), "beta2 must be at least 0 and less than 1"),
    ("simmim", dict(seed=2**63), "seed must fit into 64 bits"),
    ("simmim", dict(model="vit_huge"), "model must be one of vit_nano"),
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
