"""The trainer of networks that are no ViTs: the ViT's views, a run that goes on, from training to `zoo.load`."""
import json
import sys
from dataclasses import replace

import pytest
import torch

from lib import cli
from lib.data import Loaded, Shapes
from lib.errors import CourseError
from lib.evaluation.load import open_subject
from lib.models import mixer, resnet, zoo
from lib.training.others import __main__ as others
from lib.training.trainer import Trainer
from lib.training.zoo import in_order, planned

TINY = replace(planned("shapes", "supervised", "cpu"), images=48, epochs=1, batch_size=12, image_size=32, model="vit_nano",
               log_every=1, checkpoint_every=2)


@pytest.fixture(scope="module")
def source():
    return Loaded(Shapes("train", size=32, length=48, difficulty="mild"))


def test_it_sees_what_the_vit_sees(source):
    ours, vits = others.OtherTrainer(TINY, source, None, "resnet_nano"), Trainer(TINY, source)
    for step in (0, 3):
        assert torch.equal(ours.batch_indices(step), vits.batch_indices(step))
        mine, theirs = ours.prepare(step), vits.prepare(step)
        assert torch.equal(mine["view"], theirs["view"])
        assert torch.equal(mine["labels"], theirs["targets"].argmax(1))
    logits = torch.randn(12, 10, dtype=torch.float64)
    del ours.objective.backbone
    ours.objective.backbone = lambda view: logits                  # the loss: cross-entropy with smoothed labels, by hand
    targets = torch.full((12, 10), 0.01, dtype=torch.float64)
    targets[torch.arange(12), mine["labels"]] = 0.91
    by_hand = -(targets * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()
    loss, logs = ours.objective.loss(mine)
    torch.testing.assert_close(loss, by_hand)
    assert logs["accuracy"] == (logits.argmax(1) == mine["labels"]).float().mean()


@pytest.mark.parametrize("model", ["resnet_nano", "mixer_nano"])
def test_a_run_that_stopped_goes_on_as_if_it_had_not(model, source, tmp_path):
    whole = others.OtherTrainer(TINY, source, None, model)
    whole.run()
    first = others.OtherTrainer(TINY, source, tmp_path, model)
    first.stop = True
    first.run()
    assert 0 < first.step < first.steps
    with pytest.raises(CourseError, match="already holds a run"):
        others.OtherTrainer(TINY, source, tmp_path, model)
    second = others.OtherTrainer(TINY, source, tmp_path, model, resume=True)
    second.run()
    for name, x in whole.objective.state_dict().items():
        assert torch.equal(x, second.objective.state_dict()[name]), name


def run(*arguments: str) -> int:
    before, sys.argv = sys.argv, ["others", *arguments]
    try:
        cli.main(others.main)
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


@pytest.mark.parametrize("model", ["resnet_nano", "mixer_nano"])
def test_from_training_to_the_zoo(model, tmp_path, monkeypatch, capsys):
    name, sizes = model.split("_")[0], {"patch_size": 8} if model in mixer.SIZES else {}
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    entry = {"file": "x.safetensors", "sha256": "", "bytes": 0, "model": {"name": "vit_nano"}}
    (checkpoints / "manifest.json").write_text(json.dumps({"shapes/simmim": entry}))
    (checkpoints / zoo.OTHERS).write_text(json.dumps({"shapes/other": entry}))
    monkeypatch.setattr(others, "planned", lambda *_: TINY)
    monkeypatch.setattr(others, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(others.pack, "__defaults__", (checkpoints,))
    monkeypatch.setattr(zoo.others, "__defaults__", (checkpoints,))
    monkeypatch.setattr(others.evaluate, "__defaults__", ({"train": 40, "val": 30},))
    command = (model, "--out", str(tmp_path / "run"))
    assert run(*command) == 0                                      # a trial replaces nothing that ships
    assert "trained: knn " in capsys.readouterr().out and list(zoo.others(checkpoints)) == ["shapes/other"]
    trial = json.loads((tmp_path / "run/results.json").read_text())
    assert not (tmp_path / "results").exists() and trial["recipe"]["model"] == model
    assert run(*command) == 2 and "already holds a run" in capsys.readouterr().err
    other = {"resnet_nano": "mixer_nano", "mixer_nano": "resnet_nano"}[model]
    assert run(other, "--out", str(tmp_path / "run"), "--resume") == 2
    assert f"was begun with model={model}, not model={other}" in capsys.readouterr().err
    with pytest.raises(CourseError, match=f"is a {model}, no ViT"):
        open_subject(str(tmp_path / "run"))
    command = (*command, "--resume", "--ship")
    assert run(*command) == 0                                      # a finished run is evaluated again, and shipped
    entry = zoo.others(checkpoints)[f"shapes/{name}"]
    result = json.loads((tmp_path / f"results/shapes-{name}.json").read_text())
    assert list(zoo.others(checkpoints)) == [f"shapes/{name}", "shapes/other"]
    assert zoo.names("shapes", checkpoints) == ["simmim"]
    assert entry["model"] == {"name": model, "classes": 10, "image_size": 32} | sizes and entry["seed"] == 0
    assert entry["command"].startswith(f"python -m lib.training.others {model}") and entry["recipe"]["model"] == model
    for key in ("knn", "linear", "accuracy"):
        low, high = result["trained"][key]["interval"]
        assert entry[key] == result["trained"][key]["value"] and low <= entry[key] <= high and key in result["untrained"]
    loaded = zoo.load(name, folder=checkpoints)
    trained = torch.load(tmp_path / "run/last.pt", weights_only=True)["objective"]
    assert not loaded.training
    for key, x in loaded.state_dict().items():
        packed = trained[f"backbone.{key}"]
        assert torch.equal(x, packed.half().float() if packed.is_floating_point() else packed), key
    before = (checkpoints / entry["file"]).read_bytes()
    assert run(*command) == 0
    assert (checkpoints / entry["file"]).read_bytes() == before
    (checkpoints / entry["file"]).write_bytes(before[:-3])
    with pytest.raises(CourseError, match=rf"shapes-{name}\.safetensors is damaged"):
        zoo.load(name, folder=checkpoints)
    with pytest.raises(CourseError, match=f"no checkpoint 'cnn' ships for world 'shapes'; there are simmim, {name}, other"):
        zoo.load("cnn", folder=checkpoints)


def test_another_training_ships_under_a_name_of_its_own():
    assert [others.name_of("mixer_slim", seed) for seed in (0, 1)] == ["mixer", "mixer-seed1"]
    ordered = ["shapes/resnet", "shapes/mixer", "shapes/supervised-mean", "shapes/mine", "shapes/mae-seed1", "shapes/mae-seed2",
               "shapes/resnet-seed1", "imagenette/resnet"]
    assert list(in_order(dict.fromkeys(ordered[::-1]))) == ordered == list(in_order(dict.fromkeys(sorted(ordered))))


def test_outputs_are_the_networks_own(source):
    network = resnet.untrained(source.images(torch.arange(16)), "resnet_nano")
    features, logits, labels = others.outputs(network, source)
    from lib.data.views import normalize
    with torch.no_grad():
        maps = network.forward_features(normalize(source.images(torch.arange(48))))
        torch.testing.assert_close(features, maps.mean((2, 3)))
        torch.testing.assert_close(logits, network(normalize(source.images(torch.arange(48)))))
    assert torch.equal(labels, source.labels(torch.arange(48)))


def test_help_has_no_empty_defaults(capsys):
    assert run("--help") == 0
    help = " ".join(capsys.readouterr().out.split())
    assert "(default: those of the supervised ViT)" in help and "(default: shapes)" in help and "None" not in help


@pytest.mark.parametrize(("words", "said"), [
    (("resnet_nano", "--epochs", "0"), "--epochs must be at least 1, got 0"),
    (("mixer_nano", "--images", "-3"), "--images must be at least 128, a batch, got -3"),
    (("mixer_nano", "--out", ""), "--out is empty"),
    (("mixer_nano", "--seed", "-1"), "--seed is 0 or more, got -1"),
])
def test_what_cannot_be_is_named(words, said, capsys):
    assert run(*words) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_manifest_is_told_before_the_work(tmp_path, monkeypatch, capsys):
    (tmp_path / zoo.OTHERS).write_text("{")
    monkeypatch.setattr(zoo.others, "__defaults__", (tmp_path,))
    assert run("mixer_nano", "--ship", "--out", str(tmp_path / "run")) == 2
    assert f"is damaged; restore it with git checkout {tmp_path / zoo.OTHERS}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
