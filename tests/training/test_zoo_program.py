"""The program that trains what ships: its plan, and one network from training to the manifest."""
import argparse
import json
import sys
from dataclasses import replace

import pytest
import torch

from lib import cli
from lib.data import Shapes
from lib.errors import CourseError
from lib.models import vit, zoo
from lib.training.build import build
from lib.training.recipes import describe, objective_of, recipe
from lib.training.trainer import Trainer
from lib.training.zoo import LAMBDAS, MODELS, SHARES, SIZES, VARIANTS, WORLDS, planned
from lib.training.zoo import __main__ as program

TINY = dict(images=64, epochs=1, batch_size=16, image_size=16, patch_size=8, log_every=1, knn_every=0, device="cpu",
            mask_cell=1)


@pytest.mark.parametrize("budget", ["gpu", "cpu"])
@pytest.mark.parametrize("world", WORLDS)
def test_every_plan_is_a_recipe_of_twelve_blocks_and_six_heads(world, budget):
    for model in MODELS:
        r = planned(world, model, budget, seed=3)
        assert objective_of(r) == model and r.seed == 3 and r.data == world
        backbone = r.backbone()
        assert len(backbone.blocks) == 12 and backbone.blocks[0].attn.num_heads >= 6
        assert 2 * sum(p.numel() for p in backbone.parameters()) < 12e6
    assert planned(world, "hybrid", budget, cl_weight=0.6).cl_weight == 0.6
    whole, half = (planned(world, "mae", budget, share=share) for share in (1.0, 0.5))
    assert half.epochs == whole.epochs / 2 and half.warmup_epochs == pytest.approx(whole.warmup_epochs / 2)


def test_the_sweep_holds_every_weight_for_every_seed():
    a = argparse.Namespace(world="shapes", budget="gpu", models=["mae"], seeds=[0, 1], sweep=[], sizes=None, share=1.0)
    jobs = program.jobs_of(a)
    assert [job.name for job in jobs[:2]] == ["mae", "mae-seed1"] and [job.ships for job in jobs[:2]] == [True, True]
    assert [(job.recipe.cl_weight, job.recipe.seed) for job in jobs[2:]] == [(w, s) for s in (0, 1) for w in LAMBDAS]
    assert not any(job.ships for job in jobs[2:]) and len({job.name for job in jobs}) == len(jobs)
    a.models, a.sweep = [], [0.0, 0.6]
    assert [job.name for job in program.jobs_of(a)] == ["hybrid-0", "hybrid-0.6", "hybrid-0-seed1", "hybrid-0.6-seed1"]
    a.sweep = None
    assert program.jobs_of(a) == []


def test_of_some_networks_three_trainings_ship():
    models = [*MODELS, "supervised-mean"]
    a = argparse.Namespace(budget="gpu", models=models, seeds=[0, 1, 2, 3], sweep=[], sizes=None, share=1.0)
    for world in WORLDS:
        a.world = world
        ships = {job.name for job in program.jobs_of(a) if job.ships}
        again = [f"{model}-seed{seed}" for model in models for seed in (1, 2) if world == "shapes"]
        assert ships == {*models, *again}


def test_other_sizes_differ_in_nothing_but_the_model():
    a = argparse.Namespace(world="shapes", budget="cpu", models=["mocov3", "simmim"], seeds=[0, 1], sweep=None,
                           sizes=["vit_thin"], share=1.0)
    jobs = program.jobs_of(a)
    names = ["mocov3-vit_thin", "simmim-vit_thin"]
    assert [job.name for job in jobs] == [*names, *(f"{name}-seed1" for name in names)]
    assert not any(job.ships for job in jobs)
    for job, model in zip(jobs, a.models * 2, strict=True):
        assert job.recipe == replace(planned("shapes", model, "cpu", job.recipe.seed), model="vit_thin")
    for world in WORLDS:
        for budget, sizes in SIZES.items():
            assert {planned(world, model, budget).model for model in MODELS} < set(sizes) <= set(vit.SIZES)


@pytest.mark.parametrize("budget", ["gpu", "cpu"])
@pytest.mark.parametrize(("world", "whole"), [("shapes", 20_000), ("imagenette", 9_469)])
def test_variants_are_the_supervised_network_but_for_one_thing(budget, world, whole):
    usual = planned(world, "supervised", budget)
    images = usual.images or whole
    steps = usual.epochs * (images // usual.batch_size)
    assert planned(world, "supervised-mean", budget) == replace(usual, pooling="mean")
    for name, share in SHARES.items():
        if share * images < usual.batch_size:
            with pytest.raises(CourseError, match=f"{name} of {world} has {round(share * images)} images, a batch has"):
                planned(world, name, budget)
            continue
        r = planned(world, name, budget)
        assert r.images == round(share * images) and r.epochs * (r.images // r.batch_size) == pytest.approx(steps, rel=0.05)
        assert replace(r, images=usual.images, epochs=usual.epochs, warmup_epochs=usual.warmup_epochs) == usual
    assert set(VARIANTS) == {"supervised-mean", *SHARES}


def test_variants_have_one_size(capsys):
    assert run("--models", "supervised-mean", "--budget", "cpu", "--sizes", "vit_thin") == 2
    assert "--sizes are of the objectives" in capsys.readouterr().err


def test_sizes_that_are_not_of_the_budget_are_told_before_the_work(capsys):
    for arguments, words in ((("--sizes", "vit_base", "--budget", "cpu"), "--sizes of --budget cpu are vit_thin"),
                             (("--sizes", "vit_slim", "--budget", "cpu"), "since vit_slim ships"),
                             (("--sizes", "vit_thin", "vit_base", "--budget", "cpu"), "got vit_base"),
                             (("--sizes", "vit_thin", "--budget", "cpu", "--sweep"), "--sizes go without --sweep")):
        assert run("--models", "mocov3", *arguments) == 2
        assert words in capsys.readouterr().err


def run(*arguments: str) -> int:
    before, sys.argv = sys.argv, ["zoo", *arguments]
    try:
        cli.main(program.main)
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


def test_from_training_to_the_manifest(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "planned", lambda world, model, *_: recipe(model, "smoke", **TINY))
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "checkpoints")
    monkeypatch.setattr(program.pack, "__defaults__", (tmp_path / "checkpoints",))
    monkeypatch.setitem(program.LABELS["gpu"], "shapes", 64)
    monkeypatch.setitem(program.EVALUATIONS, "", ["lib.evaluation", "frozen", "--images", "100"])
    monkeypatch.setitem(program.EVALUATIONS, "-depths", ["lib.evaluation", "depths", "--images", "100"])
    monkeypatch.setitem(program.EVALUATIONS, "-attentive", ["lib.evaluation", "attentive", "--images", "60", "--epochs", "1"])
    for what in ("noise", "shape-bias"):
        monkeypatch.setitem(program.EVALUATIONS, f"-{what}", ["lib.evaluation", what, "--images", "60", "--val-images", "50"])
    command = ("--models", "simmim", "--runs", str(tmp_path / "runs"))
    assert run(*command) == 0
    said = capsys.readouterr().out
    entry = zoo.manifest(tmp_path / "checkpoints")["shapes/simmim"]
    result = json.loads((tmp_path / "results" / "shapes-simmim.json").read_text())
    tuned = json.loads((tmp_path / "results" / "shapes-simmim-finetuned.json").read_text())
    assert " finetune --images 64 " in tuned["command"] and {"value", "interval"} <= set(tuned["trained"]["finetuned"])
    depths = json.loads((tmp_path / "results" / "shapes-simmim-depths.json").read_text())["trained"]
    assert len(depths["mean"]["knn"]) == len(depths["depth"])
    inside = json.loads((tmp_path / "results" / "shapes-simmim-curves.json").read_text())
    assert len(inside["trained"]["nmi"]["value"]) == len(zoo.load("simmim", "shapes", tmp_path / "checkpoints").blocks)
    asked = json.loads((tmp_path / "results" / "shapes-simmim-attentive.json").read_text())
    assert {"value", "interval"} <= set(asked["trained"]["attentive"]) and "attentive" in asked["untrained"]
    under_noise = json.loads((tmp_path / "results" / "shapes-simmim-noise.json").read_text())["trained"]
    assert under_noise["images"] == 50 and under_noise["mode"] == "published" and len(under_noise["bands"]) == 9
    decisions = json.loads((tmp_path / "results" / "shapes-simmim-shape-bias.json").read_text())["trained"]
    assert decisions["images"] == 50 and decisions["training_images"] == 60 and "readable" in decisions
    assert f"knn {result['trained']['knn']['value']:.1%}" in said and entry["knn"] == result["trained"]["knn"]["value"]
    assert entry["recipe"]["objective"] == "simmim" and entry["command"].startswith("python -m lib.training simmim")
    assert {"commit", "device", "minutes", "first_loss", "last_loss", "linear", "seed", "data"} <= set(entry)
    loaded = zoo.load("simmim", "shapes", tmp_path / "checkpoints")
    trained = torch.load(tmp_path / "runs" / "shapes-simmim" / "last.pt", weights_only=True)["objective"]
    assert torch.equal(loaded.blocks[0].mlp.fc1.weight, trained["backbone.blocks.0.mlp.fc1.weight"].half().float())
    shipped = zoo.weights("simmim", "shapes", tmp_path / "checkpoints")
    decoder = build(recipe("simmim", "smoke", **TINY)).decoder
    decoder.load_state_dict({k.removeprefix("decoder."): x for k, x in shipped.items() if k.startswith("decoder.")})

    monkeypatch.setattr(program, "planned", lambda world, model, _, seed=0, *__: recipe(model, "smoke", seed=seed, **TINY))
    few = {end: words for end, words in program.EVALUATIONS.items() if end in ("", "-finetuned", "-depths")}
    monkeypatch.setattr(program, "EVALUATIONS", few)               # all were tried above
    assert run(*command, "--seeds", "1") == 0                      # ships as well, among the others
    assert zoo.others(tmp_path / "checkpoints")["shapes/simmim-seed1"]["seed"] == 1
    assert {p.name for p in (tmp_path / "results").glob("shapes-simmim-seed1*")} == {
        f"shapes-simmim-seed1{end}.json" for end in few}
    other = zoo.load("simmim-seed1", "shapes", tmp_path / "checkpoints")
    assert not torch.equal(loaded.blocks[0].mlp.fc1.weight, other.blocks[0].mlp.fc1.weight)

    pooled = replace(recipe("supervised", "smoke", **{k: v for k, v in TINY.items() if k != "mask_cell"}), pooling="mean")
    monkeypatch.setattr(program, "planned", lambda *_: pooled)
    assert run("--models", "supervised-mean", "--runs", str(tmp_path / "runs")) == 0
    assert list(zoo.manifest(tmp_path / "checkpoints")) == ["shapes/simmim"]
    assert zoo.names("shapes", tmp_path / "checkpoints") == ["simmim"]
    assert list(zoo.others(tmp_path / "checkpoints")) == ["shapes/supervised-mean", "shapes/simmim-seed1"]
    assert zoo.others(tmp_path / "checkpoints")["shapes/supervised-mean"]["recipe"]["pooling"] == "mean"
    assert zoo.load("supervised-mean", "shapes", tmp_path / "checkpoints").embed_dim == loaded.embed_dim
    assert json.loads((tmp_path / "results" / "shapes-supervised-mean.json").read_text())["pooling"] == "mean"
    monkeypatch.setattr(program, "planned", lambda world, model, *_: recipe(model, "smoke", **TINY))

    stamp = (tmp_path / "runs" / "shapes-simmim" / "last.pt").stat().st_mtime_ns
    assert run(*command) == 0 and (tmp_path / "runs" / "shapes-simmim" / "last.pt").stat().st_mtime_ns == stamp


def test_a_seed_below_zero_is_refused(capsys):
    assert run("--models", "mae", "--seeds", "1", "-1") == 2
    assert "--seeds are 0 or more, got -1" in capsys.readouterr().err


@pytest.fixture
def planned_tiny(monkeypatch, tmp_path):
    monkeypatch.setattr(program, "planned", lambda world, model, *_: recipe(model, "smoke", **TINY))
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()


def test_a_run_of_another_network_is_not_packed(tmp_path, planned_tiny, capsys):
    Trainer(recipe("simmim", "smoke", **TINY | {"seed": 5}), Shapes("train", 16, 64), tmp_path / "runs" / "shapes-simmim").run()
    assert run("--models", "simmim", "--runs", str(tmp_path / "runs")) == 2
    assert "holds a run with seed=5, simmim has seed=0; move it away, or choose another --runs" in capsys.readouterr().err
    assert not list((tmp_path / "results").iterdir())


def test_a_result_of_another_run_is_measured_again_and_a_damaged_one_is_named(tmp_path, planned_tiny):
    job = program.Job("shapes", "simmim", "simmim", recipe("simmim", "smoke", **TINY), True, None)
    Trainer(job.recipe, Shapes("train", 16, 64), job.folder(tmp_path)).run()
    out, backbone = tmp_path / "results" / "shapes-simmim.json", job.folder(tmp_path) / "backbone.safetensors"
    assert not program.measured(out, backbone)
    for changes, same in ({}, True), ({"seed": 5}, False):
        out.write_text(json.dumps({"recipe": describe(replace(job.recipe, **changes))}))
        assert program.measured(out, backbone) == same
    out.write_text('{"recipe"')
    with pytest.raises(CourseError, match=f"is damaged; delete it to measure again, or restore it with git checkout {out}"):
        program.measured(out, backbone)


def test_folders_that_cannot_be_written_and_jobs_named_twice(tmp_path, planned_tiny, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert run("--models", "simmim", "--runs", str(tmp_path / "file")) == 2
    assert "cannot write to" in (said := capsys.readouterr().err) and "choose another --runs" in said
    seen = []
    monkeypatch.setattr(program, "jobs_of", lambda a: seen.append(a) or [])
    assert run("--models", "simmim", "simmim", "--seeds", "1", "1", "--sweep", "0.2", "0.2") == 0
    assert (seen[0].models, seen[0].seeds, seen[0].sweep) == (["simmim"], [1], [0.2])


def test_what_fails_is_named_and_the_rest_is_done(tmp_path, monkeypatch, capsys):
    def fails(job, runs):
        raise program.CourseError(f"{job.name} did not finish") if job.name == "mae" else program.CourseError("also")

    monkeypatch.setattr(program, "train", fails)
    assert run("--models", "mae", "dino", "--runs", str(tmp_path)) == 2
    errors = capsys.readouterr().err
    assert "shapes/mae failed: mae did not finish" in errors and "not finished: mae, dino" in errors
