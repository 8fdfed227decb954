"""Two or four processes train like one at the same global batch: batch norm, keys of all, loss curves, weights.

Whether each holds the whole network or a share of it, whether they go on from one process or one from them, and after one
was killed. The processes run on the CPU and talk by gloo; torchrun starts them, as it does on GPUs.
"""
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lib import cli, distributed
from lib.data import Loaded, open_source
from lib.distributed import BatchNorm
from lib.errors import CourseError
from lib.evaluation.attentive import AttentiveRecipe, attentive_probe
from lib.evaluation.features import extract
from lib.evaluation.finetune import FineTuneRecipe, finetune
from lib.evaluation.linear import published_probe
from lib.models.vit import ViT, init_xavier
from lib.objectives.contrastive import info_nce
from lib.training import __main__ as command_line
from lib.training import checkpoint
from lib.training.recipes import recipe
from lib.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
MOCOV3 = ("mocov3 --scale smoke --data shapes --images 64 --batch-size 16 --image-size 16 --patch-size 4 "
          "--hidden 32 --dim 16 --warmup-epochs 0.5 --log-every 1 --device cpu")
SIMMIM = dict(images=64, epochs=2, batch_size=16, image_size=16, patch_size=4, mask_cell=1, warmup_epochs=0.5, log_every=2,
              knn_every=1, checkpoint_every=3, clip_norm=1.0, drop_path=0.0, device="cpu")

OTHERS = {"dino": dict(hidden=32, bottleneck=16, prototypes=24, local_size=8, local_crops=2, freeze_last=0.4),
          "mae": dict(decoder_dim=16, decoder_depth=1, decoder_heads=2),
          "supervised": dict(mixup=0.0, cutmix=0.0),               # which mix an image with one of its own process
          "hybrid": dict(hidden=32, dim=16, mask_cell=1, cl_weight=0.4)}
SHARDED = {"mocov3": dict(hidden=32, dim=16, clip_norm=0.02, clip_each=True, keep_every=1),
           "mae": dict(OTHERS["mae"], checkpoint_blocks=True, accumulate=2, clip_norm=0.1)}
ELASTIC = dict(SIMMIM, precision="fp64", log_every=1, checkpoint_every=1)


def torchrun(*command: str, processes: int = 2) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run([sys.executable, *launcher, *command], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=900)


def numbers() -> dict[str, torch.Tensor]:
    """What both processes and the single one start from: a batch of 12, its weights in a loss, and 12 other rows."""
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(12, 5, generator=g) * 2 + 1 for name in ("x", "weights", "keys")}


def normalise(norm: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two passes, and the gradients of a weighted sum of the second one."""
    with torch.no_grad():
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.5)
        norm(x + 1)
    x = x.clone().requires_grad_()
    out = norm(x)
    (out * weights).sum().backward()
    return {"out": out.detach(), "input": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
            "mean": norm.running_mean, "var": norm.running_var, "count": norm.num_batches_tracked,
            "eval": norm.eval()(x).detach()}


def train_simmim(folder: Path | None = None, resume: bool = False, stop_on: int | None = None) -> Trainer:
    """A short run. stop_on: the process that is told to stop while it makes step 3; the other hears of it at the log."""
    r = recipe("simmim", **SIMMIM)
    source = Loaded(open_source("shapes", "train", 16, limit=64, difficulty=r.difficulty))
    trainer = Trainer(r, source, folder, resume=resume, monitor=lambda backbone: {"knn": 0.0})
    step = trainer.train_step
    trainer.train_step = lambda s: (s == 2 and distributed.rank() == stop_on and setattr(trainer, "stop", True), step(s))[1]
    trainer.run()
    return trainer


def losses_in_float64(objective: str) -> list[float]:
    """Of six steps."""
    r = recipe(objective, "smoke", images=32, epochs=3, batch_size=16, image_size=16, patch_size=4, warmup_epochs=0.5,
               log_every=1, knn_every=0, precision="fp64", device="cpu", **OTHERS[objective])
    trainer = Trainer(r, Loaded(open_source("shapes", "train", 16, limit=32, difficulty=r.difficulty)))
    trainer.run()
    return [line["loss"] for line in trainer.history]


def sharded(objective: str, shard: bool, folder: Path | None = None) -> Trainer:
    """Four steps in float64, with the network split over the processes or not."""
    r = recipe(objective, "smoke", images=32, epochs=2, batch_size=16, image_size=16, patch_size=4, warmup_epochs=0.5,
               log_every=1, knn_every=2, precision="fp64", device="cpu", shard=shard, **SHARDED[objective])
    source = Loaded(open_source("shapes", "train", 16, limit=32, difficulty=r.difficulty))
    trainer = Trainer(r, source, folder, monitor=lambda backbone: {"knn": checksum(backbone)})
    trainer.run()
    return trainer


def evaluated() -> dict:
    """Features, k-NN's food, of 50 images by an odd batch size; a published linear probe; an attentive one; three epochs of
    fine-tuning."""
    torch.manual_seed(0)
    backbone = init_xavier(ViT(16, 4, dim=24, depth=2, heads=2))
    train, val = (Loaded(open_source("shapes", split, 16, limit=50, difficulty="easy")) for split in ("train", "val"))
    tune = FineTuneRecipe(epochs=3, batch_size=16, learning_rate=1e-2, warmup_epochs=1, drop_path=0.0, mixup=0.0, cutmix=0.0)
    look = AttentiveRecipe(queries=3, epochs=2, augment=True)
    tuned = finetune(backbone, train, val, tune, "mean", device="cpu")
    return {"features": extract(backbone, train, batch_size=7)[0],
            "probe": published_probe(backbone, train, val, "mocov3", epochs=3, batch_size=10),
            "attentive": attentive_probe(backbone, train, val, look).probe.state_dict(),
            "losses": [line["loss"] for line in tuned.history], "predictions": tuned.predictions,
            "tuned": tuned.network.state_dict()}


def checksum(backbone: nn.Module) -> float:
    """A number that depends on all weights: the representation of a grey image."""
    with torch.no_grad():
        return backbone(torch.full((1, 3, 16, 16), 0.1, dtype=torch.float64)).square().sum().item()


def elastic(folder: Path, resume: bool, upto: int, killed: bool = False) -> tuple[Trainer, dict[int, list[int]]]:
    """A run that ends after a step, by a stop or by the death of the second process; -> it, and the images of each step."""
    r = recipe("simmim", **ELASTIC)
    source, seen = Loaded(open_source("shapes", "train", 16, limit=64, difficulty=r.difficulty)), {}
    trainer = Trainer(r, source, folder, resume=resume)
    step = trainer.train_step

    def watched(s: int):
        seen[s] = trainer.batch_indices(s).tolist()
        if s + 1 == upto and killed and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        trainer.stop = s + 1 == upto
        return step(s)

    trainer.train_step = watched
    trainer.run()
    return trainer, seen


# ---------------------------------------------------------------------------------------- what each of the two processes does

def work(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.start("cpu")
    rank, given = distributed.rank(), numbers()
    x, weights, keys = (given[name][6 * rank:6 * rank + 6] for name in ("x", "weights", "keys"))
    found = normalise(BatchNorm(5), x, weights)
    found |= {"gather": distributed.gather(keys), "averaged": distributed.mean(x), "earliest": distributed.earliest(x),
              "info_nce": torch.stack(info_nce(x, distributed.gather(keys), 0.2))}
    trainer = train_simmim()
    stopped = train_simmim(folder / "run", stop_on=1)
    torch.distributed.barrier()                                    # until the checkpoint is written
    resumed = train_simmim(folder / "run", resume=True)
    found |= {"history": trainer.history, "weights": trainer.objective.state_dict(), "stopped": stopped.step,
              "resumed": resumed.history, "resumed weights": resumed.objective.state_dict()}
    found["others"] = {objective: losses_in_float64(objective) for objective in OTHERS}
    for shard in (False, True):
        for objective in SHARDED:
            trainer = sharded(objective, shard, folder / f"{objective}-sharded" if shard else None)
            share = sum(getattr(p, "_local_tensor", p).numel() for p in trainer.objective.parameters())
            found[f"{objective} {shard}"] = trainer.history, share
    found["evaluated"] = evaluated()
    found["one to two"] = elastic(folder / "one to two", resume=True, upto=8)[1]
    torch.distributed.barrier()
    found["two to one"] = elastic(folder / "two to one", resume=False, upto=3)[1]
    torch.save(found, folder / f"{rank}.pt")
    distributed.stop()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two")
    elastic(folder / "one to two", resume=False, upto=3)           # in this process, in the middle of the first epoch
    answer = torchrun(__file__, str(folder))
    assert answer.returncode == 0, answer.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)] + [folder]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --------------------------------------------------------------------------------------------------------------- tests

def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_batch_norm_is_that_of_the_joined_batch(found):
    first, second, given = found[0], found[1], numbers()
    expected = normalise(nn.BatchNorm1d(5), given["x"], given["weights"])
    for name in ("out", "input", "eval"):
        close(torch.cat([first[name], second[name]]), expected[name])
    for name in ("weight", "bias"):
        close(first[name] + second[name], expected[name])
    for name in ("mean", "var", "count"):
        close(first[name], expected[name])
        assert torch.equal(first[name], second[name])
    halves = normalise(nn.BatchNorm1d(5), given["x"][:6], given["weights"][:6])     # negative control: one half alone
    assert (halves["out"] - expected["out"][:6]).abs().max() > 0.01


def test_batch_norm_of_one_process_is_that_of_pytorch():
    given = numbers()
    ours, theirs = (normalise(norm, given["x"], given["weights"]) for norm in (BatchNorm(5), nn.BatchNorm1d(5)))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert BatchNorm(5).state_dict().keys() == nn.BatchNorm1d(5).state_dict().keys()


def test_batch_norm_keeps_float32_under_autocast():
    x = numbers()["x"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = BatchNorm(5, affine=False)(x)
    assert out.dtype == torch.float32
    close(out, nn.BatchNorm1d(5, affine=False)(x.float()))


def test_what_processes_tell_each_other(found):
    given = numbers()
    for answers in found[:2]:
        assert torch.equal(answers["gather"], given["keys"])       # in rank order
        close(answers["averaged"], (given["x"][:6] + given["x"][6:]) / 2)
        assert torch.equal(answers["earliest"], torch.minimum(given["x"][:6], given["x"][6:]))


def test_queries_meet_the_keys_of_all_processes(found):
    given = numbers()
    loss, accuracy = info_nce(given["x"], given["keys"], 0.2)
    both = (found[0]["info_nce"] + found[1]["info_nce"]) / 2
    assert both.tolist() == pytest.approx([loss.item(), accuracy.item()], abs=1e-6)


def test_a_first_process_that_cannot_be_reached_is_named(monkeypatch):
    def refuse(*_, **__):
        raise torch.distributed.DistNetworkError("The client socket has timed out")

    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    with pytest.raises(CourseError, match="process 1 found no other at MASTER_ADDR node7, MASTER_PORT 29500"):
        distributed.start("cpu")


@pytest.mark.parametrize("changed", [{"RANK": "5"}, {"WORLD_SIZE": "two"}, {"MASTER_PORT": ""}, {"MASTER_ADDR": None}])
def test_an_environment_of_no_process_is_named(monkeypatch, changed):
    for name, value in ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"} | changed).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(CourseError, match="do not describe one of several processes; start with torchrun"):
        distributed.start("cpu")


def test_processes_with_other_recipes_are_named(monkeypatch):
    given = [{"seed": 0, "epochs": 3}, {"seed": 0, "epochs": 3}, {"seed": 1, "epochs": 3}]

    def gather_object(everywhere, mine):
        assert mine == given[0]
        everywhere[:] = given

    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather_object)
    with pytest.raises(CourseError, match="process 2 has seed=1, process 0 has 0: start all with the same command"):
        distributed.check_same(given[0])
    given.pop()
    given.append(given[0])
    distributed.check_same(given[0])


def test_one_process_is_the_identity():
    x = numbers()["x"].requires_grad_()
    for function in (distributed.gather, distributed.mean, distributed.earliest):
        assert torch.equal(function(x), x) and not function(x).requires_grad
    assert distributed.world_size() == 1 and distributed.rank() == 0


def test_simmim_trains_like_one_process(found, one_thread):
    single = train_simmim()
    losses = [line["loss"] for line in single.history if "loss" in line]
    assert [line["loss"] for line in found[0]["history"] if "loss" in line] == pytest.approx(losses, abs=1e-4)
    assert len(losses) == 4 and max(losses) - min(losses) > 1e-3
    difference = largest_difference(single.objective.state_dict(), found[0]["weights"])
    print(f"largest difference of a weight after 8 steps: {difference:.1e}")
    assert difference < 1e-3
    assert largest_difference(found[0]["weights"], found[1]["weights"]) == 0


@pytest.mark.parametrize("objective", OTHERS)
def test_other_objectives_train_like_one_process(objective, found, one_thread):
    alone = losses_in_float64(objective)
    assert len(alone) == 6 and found[0]["others"][objective] == pytest.approx(alone, abs=1e-9)


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def test_a_signal_to_one_process_stops_both(found):
    assert [answers["stopped"] for answers in found[:2]] == [4, 4]  # told in step 3, agreed at the next line of the log
    for answers in found[:2]:
        assert largest_difference(answers["resumed weights"], answers["weights"]) == 0
    assert found[0]["resumed"] == found[0]["history"]
    assert checkpoint.load(found[2] / "run")["step"] == 8


def test_two_processes_evaluate_like_one(found, one_thread):
    one = evaluated()
    for answers in (answers["evaluated"] for answers in found[:2]):
        close(answers["features"], one["features"])
        assert torch.equal(answers["probe"], one["probe"]) and torch.equal(answers["predictions"], one["predictions"])
        assert answers["losses"] == pytest.approx(one["losses"], abs=1e-5)
        assert largest_difference(answers["tuned"], one["tuned"]) < 1e-3
        assert largest_difference(answers["attentive"], one["attentive"]) < 1e-3
    assert largest_difference(found[0]["evaluated"]["tuned"], found[1]["evaluated"]["tuned"]) == 0


def test_a_share_of_what_does_not_divide(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(5).tolist())
    assert shares == [[0, 1], [2, 3], [4, 4], [4, 4]]
    with pytest.raises(CourseError, match="a batch of 6 does not divide over 4 processes"):
        source = open_source("shapes", "train", 16, limit=8, difficulty="easy")
        finetune(ViT(16, 4, dim=24, depth=1, heads=2), source, source, FineTuneRecipe(batch_size=6), device="cpu")


@pytest.mark.parametrize(("local", "seen", "mine"), [("3", 8, 3), ("3", 1, 0)])
def test_a_process_that_sees_its_own_gpu_only_takes_that(monkeypatch, local, seen, mine):
    chosen = []
    for name, value in (("WORLD_SIZE", "8"), ("RANK", "3"), ("LOCAL_RANK", local), ("MASTER_ADDR", "x"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, device_id: chosen.append(device_id))
    assert distributed.start("cuda") == torch.device("cuda", mine) and chosen == [torch.device("cuda", mine)] * 2


def test_torchrun_fine_tunes_on_a_folder_and_writes_one_report(tmp_path, monkeypatch):
    for split, label, n in itertools.product(("train", "val"), ("grey", "red"), range(16)):
        path = tmp_path / "photos" / split / label / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 64), (90 + 9 * n, 90, 90 * (label == "grey"))).save(path)
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "cache"))
    flags = (f"shapes/mae --data {tmp_path}/photos --recipe course --epochs 1 --warmup-epochs 0 --batch-size 16 --device cpu "
             f"--out {tmp_path}/x.json")
    answer = torchrun("-m", "lib.evaluation", "finetune", *flags.split())
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert answer.stdout.count("finetuned:") == 2                  # trained and untrained, each once
    assert json.loads((tmp_path / "x.json").read_text())["trained"]["finetuned"]["value"] > 0


@pytest.mark.parametrize(("processes", "precision", "epochs", "tolerance"),
                         [(2, "fp32", 2, 1e-4), (2, "fp64", 12, 1e-9), (4, "fp64", 2, 1e-9)])
def test_torchrun_gives_the_loss_of_one_process(tmp_path, monkeypatch, one_thread, processes, precision, epochs,
                                                tolerance):
    """In float32 over a few steps, since training amplifies rounding whoever rounds; in float64 to the end of a longer run."""
    flags = [*MOCOV3.split(), "--precision", precision, "--epochs", str(epochs), "--knn-every", str(epochs)]
    answer = torchrun("-m", "lib.training", *flags, "--out", str(tmp_path / "several"), processes=processes)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert f"{processes} process(es)" in answer.stdout and answer.stdout.count("done in") == 1
    monkeypatch.setattr(sys, "argv", ["lib.training", *flags, "--out", str(tmp_path / "one")])
    cli.main(command_line.train)
    one, two = ([json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()]
                for n in ("one", "several"))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for name in ("loss", "accuracy", "spread"):
        curves = [[line[name] for line in lines if name in line] for lines in (one, two)]
        assert len(curves[0]) == 4 * epochs and curves[1] == pytest.approx(curves[0], abs=tolerance)
    assert one[-1]["knn"] == pytest.approx(two[-1]["knn"], abs=0.02)
    states = [without_idle_weights(checkpoint.load(tmp_path / n)["objective"]) for n in ("one", "several")]
    difference = largest_difference(*states)
    print(f"largest difference of a weight at the end: {difference:.1e}")
    assert difference < 10 * tolerance


# ----------------------------------------------------------------------------------------------- another number of processes

@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Trainer, dict[int, list[int]]]:
    return elastic(tmp_path_factory.mktemp("one"), resume=False, upto=8)


def assert_same_run(folder: Path, unbroken: Trainer) -> None:
    """To rounding, which differs with the number of processes."""
    state = checkpoint.load(folder)
    assert state["step"] == unbroken.step == 8
    assert [line["step"] for line in state["history"]] == list(range(1, 9))
    assert [line["loss"] for line in state["history"]] == pytest.approx([line["loss"] for line in unbroken.history], abs=1e-12)
    assert largest_difference(state["objective"], unbroken.objective.state_dict()) < 1e-9


def test_one_process_begins_and_two_go_on(found, unbroken, one_thread):
    trainer, order = unbroken
    seen = [answers["one to two"] for answers in found[:2]]
    assert list(seen[0]) == [3, 4, 5, 6, 7]                        # none twice, none left out
    assert all(seen[0][s] + seen[1][s] == order[s] for s in seen[0])
    assert_same_run(found[2] / "one to two", trainer)


def test_two_processes_begin_and_one_goes_on(found, unbroken, one_thread):
    trainer, order = unbroken
    _, seen = elastic(found[2] / "two to one", resume=True, upto=8)
    first = [answers["two to one"] for answers in found[:2]]
    assert list(first[0]) == [0, 1, 2] and list(seen) == [3, 4, 5, 6, 7]
    assert all(first[0][s] + first[1][s] == order[s] for s in first[0]) and all(seen[s] == order[s] for s in seen)
    epochs = [sorted(i for s in range(4 * e, 4 * e + 4) for i in order[s]) for e in (0, 1)]
    assert epochs == [list(range(64))] * 2                         # every image once an epoch
    assert_same_run(found[2] / "two to one", trainer)


def test_one_of_two_is_killed_and_one_goes_on(tmp_path, unbroken, one_thread):
    """In its sixth step, the second of the second epoch; the fifth has been written."""
    answer = torchrun(__file__, str(tmp_path), "killed")
    assert answer.returncode != 0 and "SIGKILL" in answer.stderr, answer.stderr[-3000:]
    assert checkpoint.load(tmp_path / "killed")["step"] == 5
    elastic(tmp_path / "killed", resume=True, upto=8)
    assert_same_run(tmp_path / "killed", unbroken[0])


# ------------------------------------------------------------------------------------------------------ a share of the network

@pytest.mark.parametrize("objective", SHARDED)
def test_a_sharded_network_trains_like_a_whole_one(objective, found):
    for answers in found[:2]:
        (whole, everything), (split, share) = answers[f"{objective} False"], answers[f"{objective} True"]
        assert share < 0.51 * everything                           # what a process holds
        assert len(whole) == len(split) == 5                       # four steps, and the monitor
        for one, other in zip(whole, split, strict=True):
            assert one.keys() == other.keys()
            for name in one:
                assert other[name] == pytest.approx(one[name], abs=1e-9), name
        assert "knn" in whole[-1]


@pytest.mark.parametrize("objective", SHARDED)
def test_checkpoint_of_a_sharded_network_is_that_of_a_whole_one(objective, found, one_thread, tmp_path):
    folder = found[2] / f"{objective}-sharded"
    alone = sharded(objective, shard=True, folder=tmp_path)       # one process has nothing to split
    state, mine = checkpoint.load(folder), checkpoint.load(tmp_path)
    assert state["step"] == 4 and largest_difference(state["objective"], mine["objective"]) < 1e-5
    assert state["optimizer"]["param_groups"] == mine["optimizer"]["param_groups"]
    for k, moments in mine["optimizer"]["state"].items():
        assert largest_difference(state["optimizer"]["state"][k], moments) < 1e-5
    kept = {path.name: path.read_bytes() for path in folder.glob("backbone*")}
    assert len(kept) == (3 if objective == "mocov3" else 1)        # of both epochs, and of the end
    assert kept.get("backbone-epoch0002.safetensors", kept["backbone.safetensors"]) == kept["backbone.safetensors"]
    weights, _ = checkpoint.read_export(folder / "backbone.safetensors")
    assert all(torch.equal(x, state["objective"][f"backbone.{name}"]) for name, x in weights.items()
               if not name.startswith("decoder."))
    resumed = Trainer(alone.recipe, alone.source, folder, resume=True)
    assert resumed.step == 4 and largest_difference(resumed.objective.state_dict(), state["objective"]) == 0


def without_idle_weights(state: dict) -> dict:
    """Without the weights whose gradient is 0 but for rounding, which AdamW turns into steps of a random sign: the bias
    of the keys (softmax does not see it), the last bias before a batch norm, and with it that norm's running mean."""
    kept = {name: tensor for name, tensor in state.items()
            if not name.endswith(("backbone.norm.bias", "projector.1.running_mean"))}
    return {name: tensor.view(3, -1)[[0, 2]] if name.endswith("qkv.bias") else tensor for name, tensor in kept.items()}


def die(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.start("cpu")
    elastic(folder / "killed", resume=False, upto=6, killed=True)


if __name__ == "__main__":
    die(Path(sys.argv[1])) if sys.argv[2:] else work(Path(sys.argv[1]))
