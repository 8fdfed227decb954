"""The trainer: a run that was killed and resumed is the run that was never killed; what stops it says why."""
import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib import cli
from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.precision import has_bf16
from lib.training import __main__ as command_line
from lib.training import checkpoint
from lib.training.build import build
from lib.training.recipes import recipe
from lib.training.settings import LATER
from lib.training.trainer import Trainer, learning_rate_at, make_optimizer

ROOT = Path(__file__).resolve().parents[2]
TINY = dict(images=48, epochs=2, batch_size=8, image_size=16, patch_size=4, model="vit_nano", warmup_epochs=0.5, knn_every=0,
            log_every=4, device="cpu", difficulty="easy", seed=0)
EXTRA = {"mocov3": dict(hidden=32, dim=16, freeze_patches=True, learning_rate=1e-3, clip_norm=0.0),
         "simmim": dict(mask_cell=1, learning_rate=1e-3, clip_norm=5.0, drop_path=0.3, positions="relative", layer_scale=0.1),
         "dino": dict(hidden=32, bottleneck=16, prototypes=24, local_size=8, local_crops=2, weight_decay_end=0.4, drop_path=0.3,
                      teacher_warmup=0.5, teacher_temperature=0.07, freeze_last=0.3, learning_rate_end=1e-4),
         "mae": dict(decoder_dim=16, decoder_depth=1, decoder_heads=2),
         "supervised": dict(mixup=0.8, cutmix=1.0, drop_path=0.3),
         "hybrid": dict(hidden=32, dim=16, mask_cell=1, cl_weight=0.4)}
PAIR = ("mocov3", "simmim")                                        # where one of either kind is enough


@pytest.fixture(autouse=True)
def one_thread_and_signals():
    threads, handlers = torch.get_num_threads(), {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def tiny(objective: str = "simmim", **changes):
    return recipe(objective, **TINY | EXTRA[objective] | changes)


@pytest.fixture(scope="module")
def source():
    return Loaded(open_source("shapes", "train", 16, limit=48, difficulty="easy"))


def trained(source, folder=None, resume=False, stop_at=None, monitor=None, objective="simmim", **changes) -> Trainer:
    trainer = Trainer(tiny(objective, **changes), source, folder, resume=resume, monitor=monitor)
    if stop_at:
        step = trainer.train_step
        trainer.train_step = lambda s: (setattr(trainer, "stop", s + 1 == stop_at), step(s))[1]
    trainer.run()
    return trainer


def same(a, b) -> bool:
    """Equal to the last bit, through dicts and lists."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def read_log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


# ------------------------------------------------------------------------------------- killed and resumed, bit for bit

EPOCH, EPOCHS = 13, 6                                              # steps; checkpoints every 5 lie inside of epochs


def flag(name: str, value) -> str:
    name = name.replace("_", "-")
    return f"--{'' if value else 'no-'}{name}" if isinstance(value, bool) else f"--{name}={value}"


def flags(objective: str, folder: Path, *more: str) -> list[str]:
    options = dict(TINY | EXTRA[objective], images=8 * EPOCH, epochs=EPOCHS, checkpoint_every=5)
    return [objective, "--out", str(folder), *(flag(k, v) for k, v in options.items()), *more]


def start(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "lib.training", *arguments], cwd=ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def here(monkeypatch, *arguments: str) -> None:
    """The same command in this process, which saves the seconds of an import."""
    monkeypatch.setattr(sys, "argv", ["lib.training", *arguments])
    cli.main(command_line.train)


def interrupt(process: subprocess.Popen, folder: Path, signum: int) -> tuple[str, str]:
    """Send a signal as soon as the log shows step 16 and a checkpoint is there."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        log = folder / "log.jsonl"
        if (folder / "last.pt").exists() and log.exists() and '"step": 16,' in log.read_text():
            process.send_signal(signum)
            break
        time.sleep(0.002)
    return process.communicate(timeout=300)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of an uninterrupted run of an objective; made once."""
    made = {}

    def folder(objective: str, monkeypatch) -> Path:
        if objective not in made:
            made[objective] = tmp_path_factory.mktemp(objective)
            here(monkeypatch, *flags(objective, made[objective]))
        return made[objective]

    return folder


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "backbone.safetensors").read_bytes() == (other / "backbone.safetensors").read_bytes()
    states = [checkpoint.load(folder) for folder in (one, other)]
    assert states[0]["step"] == EPOCHS * EPOCH
    for key in ("objective", "optimizer", "history", "recipe", "pending"):
        assert same(states[0][key], states[1][key]), key
    logs = [read_log(folder) for folder in (one, other)]
    assert logs[0] == logs[1] == states[0]["history"]


@pytest.mark.parametrize("objective", PAIR)
def test_killed_and_resumed_is_never_killed(objective, tmp_path, monkeypatch, uninterrupted):
    process = start(*flags(objective, tmp_path))
    _, errors = interrupt(process, tmp_path, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, errors
    assert not (tmp_path / "backbone.safetensors").exists()
    assert checkpoint.load(tmp_path)["step"] % EPOCH > 0           # in the middle of an epoch
    if objective == "mocov3":
        process = start(*flags(objective, tmp_path, "--resume"))
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0 and "done in" in output, errors
    else:
        here(monkeypatch, *flags(objective, tmp_path, "--resume"))
    assert_same_run(tmp_path, uninterrupted(objective, monkeypatch))


def test_sigterm_leaves_a_checkpoint(tmp_path, monkeypatch, uninterrupted):
    process = start(*flags("simmim", tmp_path))
    output, errors = interrupt(process, tmp_path, signal.SIGTERM)
    assert process.returncode == os.EX_TEMPFAIL and "--resume goes on" in output, errors
    step = checkpoint.load(tmp_path)["step"]
    assert f"stopped after step {step} of {EPOCHS * EPOCH}" in output and step >= 16
    here(monkeypatch, *flags("simmim", tmp_path, "--resume"))
    assert_same_run(tmp_path, uninterrupted("simmim", monkeypatch))


# k: inside a line of the log, at the end of an epoch, after it
@pytest.mark.parametrize(("objective", "k"), [(objective, k) for objective in EXTRA
                                              for k in ((1, 6, 7) if objective in PAIR else (7,))])
def test_stopped_and_resumed_is_never_stopped(objective, k, tmp_path, source):
    whole = trained(source, objective=objective)
    stopped = trained(source, tmp_path, stop_at=k, objective=objective)
    assert stopped.step == k and checkpoint.load(tmp_path)["step"] == k
    resumed = trained(source, tmp_path, resume=True, objective=objective)
    assert resumed.step == 12 and resumed.history == whole.history
    assert same(dict(resumed.objective.state_dict()), dict(whole.objective.state_dict()))
    assert same(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


def test_tensorboard_shows_what_the_log_holds(tmp_path, source):
    """After a stop at the end of an epoch, too: its point is older than the run that goes on."""
    EventAccumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    trained(source, tmp_path, stop_at=6, log_every=2)
    time.sleep(1.1)                                                # TensorBoard orders files by names, which hold the second
    trained(source, tmp_path, resume=True, log_every=2)
    board = EventAccumulator(str(tmp_path)).Reload()
    steps = [2, 4, 6, 8, 10, 12]
    assert [event.step for event in board.Scalars("loss")] == [line["step"] for line in read_log(tmp_path)] == steps


def test_another_seed_is_another_run(source):
    one, again, other = (trained(source, seed=s, epochs=1).objective.decoder.linear.weight for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


# --------------------------------------------------------------------------------------------------- what stops a run

def test_loss_that_is_not_finite_stops_the_run(tmp_path, source):
    trainer = Trainer(tiny(epochs=2, log_every=3, checkpoint_every=2), source, tmp_path)
    step = trainer.train_step
    trainer.train_step = lambda s: step(s) | ({"loss": torch.tensor(math.nan)} if s + 1 == 5 else {})
    with pytest.raises(CourseError) as caught:
        trainer.run()
    message = str(caught.value)
    assert "not a finite number at step 5 " in message and "SimMIMRecipe" in message and "learning_rate=0.001" in message
    assert str(tmp_path / "last.pt") in message and "--learning-rate" in message and "\n" not in message
    assert checkpoint.load(tmp_path)["step"] == 4


@pytest.mark.parametrize("objective", PAIR)
def test_absurd_learning_rate_leaves_a_good_checkpoint(objective, tmp_path, source):
    """The first step of a warm-up has a rate of 0; the second one blows the weights up while its loss is still finite."""
    with pytest.raises(CourseError, match="not a finite number at step 2 ") as caught:
        trained(source, tmp_path, objective=objective, learning_rate=1e30, checkpoint_every=1, warmup_epochs=1)
    assert "learning_rate=1e+30" in str(caught.value) and str(tmp_path / "last.pt") in str(caught.value)
    state = checkpoint.load(tmp_path)
    assert state["step"] == 1
    assert all(x.isfinite().all() for x in state["objective"].values())
    assert not (tmp_path / "backbone.safetensors").exists()


def test_without_a_checkpoint_it_says_so(source):
    with pytest.raises(CourseError, match="no checkpoint was written yet"):
        trained(source, learning_rate=1e30, warmup_epochs=0.0)


def test_too_few_images(source):
    with pytest.raises(CourseError, match="a batch of 64 needs as many images, shapes has 48"):
        Trainer(tiny(batch_size=64), source)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
def test_no_gpu(source):
    with pytest.raises(CourseError, match="sees no CUDA GPU"):
        Trainer(tiny(device="cuda"), source)


# --------------------------------------------------------------------------------------------------------- checkpoints

@pytest.fixture
def run(tmp_path, source) -> Path:
    """A run of six steps with checkpoints at steps 2, 4 and 6."""
    trained(source, tmp_path, epochs=1, checkpoint_every=2)
    return tmp_path


def flip_one_bit(data: bytes) -> bytes:
    """In the middle of the largest tensor."""
    entry = max(zipfile.ZipFile(io.BytesIO(data)).infolist(), key=lambda e: e.file_size)
    extra = int.from_bytes(data[entry.header_offset + 28:entry.header_offset + 30], "little")
    place = entry.header_offset + 30 + len(entry.filename) + extra + entry.file_size // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]


DAMAGE = {
    "empty": lambda data: b"",
    "half": lambda data: data[:len(data) // 2],
    "garbage": lambda data: b"not a checkpoint" * 100,
    "zeros at the end": lambda data: data[:-2000] + bytes(2000),
    "one bit": flip_one_bit,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_falls_back_to_the_one_before(damage, run, source):
    whole = checkpoint.load(run)
    last, previous = run / "last.pt", run / "previous.pt"
    last.write_bytes(DAMAGE[damage](last.read_bytes()))
    assert checkpoint.load(run)["step"] == 4
    trained(source, run, resume=True, epochs=1, checkpoint_every=2)
    assert same(checkpoint.load(run), whole)                       # the two steps were done again
    assert torch.load(previous, weights_only=True)["step"] == 4    # not the damaged one
    last.write_bytes(DAMAGE[damage](last.read_bytes()))
    previous.write_bytes(DAMAGE[damage](previous.read_bytes()))
    with pytest.raises(CourseError, match="damaged") as caught:
        checkpoint.load(run)
    assert str(last) in str(caught.value) and str(previous) in str(caught.value) and "\n" not in str(caught.value)


def test_file_of_another_program_is_no_checkpoint(run):
    (run / "previous.pt").unlink()
    for other in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        torch.save(other, run / "last.pt")
        with pytest.raises(CourseError, match="cannot be read"):
            checkpoint.load(run)


def test_checkpoints_hold_data_only(run):
    state = torch.load(run / "last.pt", weights_only=True)
    assert set(state) == set(checkpoint.KEYS) and state["step"] == 6 and state["recipe"]["objective"] == "simmim"
    assert torch.load(run / "previous.pt", weights_only=True)["step"] == 4


class Trap:
    """What a pickle could do if it were run."""

    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def test_code_in_a_checkpoint_is_not_run(run, monkeypatch):
    monkeypatch.chdir(run)
    torch.save(checkpoint.load(run) | {"history": Trap()}, run / "last.pt")
    assert checkpoint.load(run)["step"] == 4 and not (run / "trapped").exists()


@pytest.mark.parametrize("place, why", [("read-only", "Read-only file system"), ("others'", "no permission"),
                                        ("file", "Not a directory")])
def test_a_folder_that_cannot_be_written_is_named_before_training(place, why, source, tmp_path, monkeypatch):
    folder, real = tmp_path / place / "run", Path.mkdir
    if place == "file":
        (tmp_path / place).write_text("a file where a folder should be")

    def mkdir(path, *arguments, **options):
        if place == "read-only" and path.is_relative_to(tmp_path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    if place == "others'":                                         # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CourseError, match=rf"cannot write to .*run: {why}; choose another --out"):
        Trainer(tiny(), source, folder)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed"),
                                     KeyboardInterrupt()], ids=["disk full", "writer", "interrupted"])
def test_interrupted_write_leaves_the_old_file(failure, run, monkeypatch):
    before = checkpoint.load(run)

    def broken(state, path):
        Path(path).write_bytes(b"half of it")
        raise failure

    monkeypatch.setattr(torch, "save", broken)
    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else CourseError
    with pytest.raises(expected) as caught:
        checkpoint.save(run, before | {"step": 99})
    monkeypatch.undo()
    assert expected is KeyboardInterrupt or "could not write" in str(caught.value)
    assert same(checkpoint.load(run), before)
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_kill_in_the_middle_of_a_write_leaves_the_old_file(run, monkeypatch):
    before = checkpoint.load(run)

    def killed(state, path):
        Path(path).write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(torch, "save", killed)
    child = os.fork()
    if child == 0:
        checkpoint.save(run, before | {"step": 99})
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert same(checkpoint.load(run), before)


def test_kill_between_two_renames_leaves_the_one_before(run):
    """last.pt has become previous.pt, and the new one is not there yet."""
    before = checkpoint.load(run)
    (run / "last.pt").replace(run / "previous.pt")
    assert same(checkpoint.load(run), before)


def test_exported_backbone_is_that_of_the_run(run, source):
    weights, described = checkpoint.read_export(run / "backbone.safetensors")
    state = checkpoint.load(run)
    assert described == state["recipe"] == json.loads((run / "recipe.json").read_text())
    shipped = {name for name in weights if name.startswith("decoder.")}
    assert shipped == {"decoder.linear.weight", "decoder.linear.bias"}
    for name, tensor in weights.items():
        assert torch.equal(tensor, state["objective"][name if name in shipped else f"backbone.{name}"])
    for damage in ("empty", "half", "garbage"):
        data = (run / "backbone.safetensors").read_bytes()
        (run / "damaged").write_bytes(DAMAGE[damage](data))
        with pytest.raises(CourseError, match="damaged; train or copy it again"):
            checkpoint.read_export(run / "damaged")
    with pytest.raises(CourseError, match="does not exist"):
        checkpoint.read_export(run / "nothing")


# ------------------------------------------------------------------------------------------------------------ resuming

def test_another_recipe_is_named(run, source):
    with pytest.raises(CourseError, match=r"begun with epochs=1, not epochs=2 \(also differ: seed\)"):
        Trainer(tiny(seed=1), source, run, resume=True)
    with pytest.raises(CourseError, match="objective=simmim, not objective=mocov3"):
        Trainer(tiny("mocov3", epochs=1), source, run, resume=True)


def test_what_does_not_change_the_numbers_may_differ(run, source):
    assert Trainer(tiny(epochs=1, log_every=1, checkpoint_every=3, knn_every=5), source, run, resume=True).step == 6


def test_other_data_is_named(run):
    fewer = Loaded(open_source("shapes", "train", 16, limit=40))
    with pytest.raises(CourseError, match="begun on 48 images, shapes now has 40"):
        Trainer(tiny(epochs=1), fewer, run, resume=True)


def test_weights_of_another_version_are_named(run, source):
    state = checkpoint.load(run)
    state["objective"]["decoder.linear.bias"] = torch.zeros(5)
    checkpoint.save(run, state)
    with pytest.raises(CourseError, match="does not fit this recipe"):
        Trainer(tiny(epochs=1), source, run, resume=True)


def test_a_run_begun_before_a_field_was_added_goes_on(run, source):
    state = checkpoint.load(run)
    state["recipe"] = {name: value for name, value in state["recipe"].items() if name not in LATER | {"keep_every": 0}}
    checkpoint.save(run, state)
    assert Trainer(tiny(epochs=1), source, run, resume=True).step == state["step"]
    with pytest.raises(CourseError, match="was begun with heads=0, not heads=4"):
        Trainer(tiny(epochs=1, heads=4), source, run, resume=True)


def test_a_folder_is_not_overwritten(run, source):
    before = (run / "last.pt").read_bytes()
    with pytest.raises(CourseError, match="already holds a run; add --resume"):
        Trainer(tiny(epochs=1), source, run)
    assert (run / "last.pt").read_bytes() == before


def test_a_folder_that_another_run_took_meanwhile_is_not_overwritten(tmp_path, source):
    mine, other = Trainer(tiny(epochs=1), source, tmp_path), Trainer(tiny(epochs=1, seed=1), source, tmp_path)
    other.run()
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(CourseError, match="already holds a run; add --resume"):
        mine.run()
    assert (tmp_path / "last.pt").read_bytes() == before
    other.run()                                                    # its own folder


def test_moments_of_another_shape_are_named(run, source):
    """PyTorch's fused AdamW would read beyond their end."""
    state = checkpoint.load(run)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    checkpoint.save(run, state)
    with pytest.raises(CourseError, match="does not fit this recipe"):
        Trainer(tiny(epochs=1), source, run, resume=True)


@pytest.mark.parametrize("change", [{"step": -5}, {"step": "x"}, {"objective": None}, {"optimizer": {}}, {"history": None},
                                    {"pending": {}}, {"recipe": []}])
def test_a_checkpoint_of_other_kinds_is_damaged(run, change):
    checkpoint.save(run, checkpoint.load(run) | change)
    (run / "previous.pt").unlink()
    with pytest.raises(CourseError, match=r"last\.pt cannot be read: damaged"):
        checkpoint.load(run)


def test_what_a_kill_while_writing_left_is_removed(tmp_path, source):
    (tmp_path / ".last.pt.4711").write_bytes(b"half a checkpoint")
    trained(source, tmp_path, epochs=1)
    assert not list(tmp_path.glob(".*.pt.*")) and (tmp_path / "last.pt").exists()


def test_whole_photographs_train_too(tmp_path, source):
    """The views of each objective are cut from squeezed images; with aspects of 1 they are the views of before."""
    for aspect, same_as_before in ((1.0, True), (1.6, False)):
        squeezed = Loaded(source)
        squeezed.aspects = torch.full((len(source),), aspect)
        for objective in ("simmim", "dino"):
            batches = [Trainer(tiny(objective), images).prepare(3) for images in (source, squeezed)]
            assert all(torch.equal(x, batches[1][name]) for name, x in batches[0].items()) == same_as_before


def test_nothing_to_resume(tmp_path, source):
    with pytest.raises(CourseError, match="holds no checkpoint to resume from"):
        Trainer(tiny(), source, tmp_path / "new", resume=True)


def test_finished_run_stays_finished(run, source):
    before = read_log(run), (run / "backbone.safetensors").read_bytes()
    trained(source, run, resume=True, epochs=1, checkpoint_every=2)
    assert (read_log(run), (run / "backbone.safetensors").read_bytes()) == before


def test_log_cut_short_by_a_kill_is_mended(tmp_path, source):
    trained(source, tmp_path, stop_at=5, log_every=1)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": 6, "loss": 1.0}\n{"step": 7, "lo\xff')
    trained(source, tmp_path, resume=True, log_every=1)
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, 13))


# ------------------------------------------------------------------------------------------------- schedules and groups

def test_cosine_schedule():
    r = replace(tiny(), epochs=10, warmup_epochs=2, warmup_start=1e-4, learning_rate=1e-2)
    at = [learning_rate_at(r, epoch) for epoch in (0, 1, 2, 4, 6, 8, 10)]
    assert at == pytest.approx([1e-4, 5.05e-3, 1e-2, 1e-2 * (1 + math.sqrt(0.5)) / 2, 5e-3, 1e-2 * (1 - math.sqrt(0.5)) / 2, 0])


def test_step_schedule():
    r = replace(tiny(), epochs=800, warmup_epochs=10, warmup_start=2e-6, learning_rate=4e-4, schedule="step")
    at = [learning_rate_at(r, epoch) for epoch in (0, 5, 10, 400, 699.99, 700, 799)]
    assert at == pytest.approx([2e-6, 2.01e-4, 4e-4, 4e-4, 4e-4, 4e-5, 4e-5])


def test_no_warmup_starts_at_the_peak():
    assert learning_rate_at(replace(tiny(), warmup_epochs=0.0), 0) == pytest.approx(1e-3)


def test_schedule_reaches_the_optimiser(source):
    trainer = trained(source, log_every=1)
    rates = [line["learning_rate"] for line in trainer.history]
    assert rates == [learning_rate_at(trainer.recipe, step / 6) for step in range(12)] and rates[0] == 0


def names_by_decay(r) -> dict[float, set[str]]:
    objective = build(r)
    names = {p: name for name, p in objective.named_parameters()}
    groups = make_optimizer(r, objective).param_groups
    return {group["weight_decay"]: {names[p] for p in group["params"]} for group in groups}


def test_simmim_decays_matrices_and_what_the_official_code_decays():
    r = tiny(weight_decay=0.05)
    groups = names_by_decay(r)
    assert set(groups) == {0.05, 0.0}
    assert {"backbone.mask_token", "backbone.bias_table", "decoder.linear.weight",
            "backbone.patch_embed.proj.weight"} <= groups[0.05]
    assert "backbone.cls_token" in groups[0.0]
    assert not [name for name in groups[0.05] if name.endswith(("bias", "gamma")) or ".norm" in name]
    assert len(groups[0.05] | groups[0.0]) == len([p for p in build(r).parameters() if p.requires_grad])


def test_mocov3_of_the_paper_decays_everything_that_learns():
    r = tiny("mocov3", weight_decay=0.1, decay_all=True)
    groups = names_by_decay(r)
    learning = {name for name, p in build(r).named_parameters() if p.requires_grad}
    assert groups == {0.1: learning}
    assert not [name for name in learning if "momentum" in name or "patch_embed" in name or "pos_embed" in name]


# ------------------------------------------------------------------------------------------------------------ the loop

def test_every_image_once_an_epoch_in_a_new_order(source):
    trainer = Trainer(tiny(), source)
    epochs = [torch.cat([trainer.batch_indices(6 * epoch + place) for place in range(6)]) for epoch in (0, 1, 2)]
    assert all(torch.equal(order.sort().values, torch.arange(48)) for order in epochs)
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    assert torch.equal(trainer.batch_indices(3), epochs[0][24:32])  # in any order of asking


def test_log_is_the_mean_of_every_step_and_the_monitor_drops_none(tmp_path, source):
    losses, asked = [], []
    trainer = Trainer(tiny(knn_every=1), source, tmp_path, monitor=lambda backbone: asked.append(backbone) or {"knn": 0.5})
    step = trainer.train_step
    trainer.train_step = lambda s: (lambda logs: losses.append(logs["loss"].item()) or logs)(step(s))
    trainer.run()
    lines = [line for line in trainer.history if "loss" in line]
    assert [line["step"] for line in lines] == [4, 8, 12] and len(losses) == 12
    for line in lines:
        assert line["loss"] == pytest.approx(sum(losses[line["step"] - 4:line["step"]]) / 4, rel=1e-5)
    assert [line for line in trainer.history if "knn" in line] == [{"step": s, "epoch": s / 6, "knn": 0.5} for s in (6, 12)]
    assert asked == [trainer.objective.backbone] * 2
    assert read_log(tmp_path) == trainer.history


def test_without_a_folder_nothing_is_written(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = trained(source, epochs=1)
    assert trainer.step == 6 and not trainer.objective.training and not list(tmp_path.iterdir())


def test_training_lowers_the_loss(source):
    history = trained(source, epochs=10, drop_path=0.0, log_every=6, learning_rate=3e-3).history
    assert history[-1]["loss"] < 0.95 * history[0]["loss"]


@pytest.mark.parametrize("objective", PAIR)
def test_bf16_trains_like_fp32(objective, source):
    """The first two steps: later ones amplify the rounding."""
    settings = dict(objective=objective, epochs=1, log_every=2)
    full, half = (trained(source, **settings, precision=p).history[0]["loss"] for p in ("fp32", "bf16"))
    assert half == pytest.approx(full, rel=0.03) and half != full


def test_bf16_is_taken_of_gpus_that_have_it(monkeypatch):
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert has_bf16(torch.device("cuda")) == expected
    assert not has_bf16(torch.device("cpu"))


def test_what_rests_has_no_gradient_for_the_optimiser(source):
    """Else its moments would be fed with zeros, and its weights decay."""
    for share, rests in ((1.0, True), (0.0, False)):
        trainer = Trainer(tiny("dino", freeze_last=share), source)
        prototypes = trainer.objective.student_head.prototypes.weight
        before = prototypes.detach().clone()
        trainer.train_step(1)
        assert (prototypes in trainer.optimizer.state) != rests and torch.equal(prototypes, before) == rests


def test_gradients_are_clipped_each_by_itself(source):
    """DINO's way. Each norm is at most the limit, those below it are as they were, and so are all directions."""
    as_published = dict(positions="learned", init="normal", heads=4, clip_each=True)
    plain, clipped = (Trainer(tiny("dino", **as_published, clip_norm=norm), source) for norm in (0.0, 0.5))
    for trainer in (plain, clipped):
        trainer.train_step(1)
    assert plain.objective.student_backbone.pos_embed.grad is not None
    pairs = [(p.grad, q.grad) for p, q in zip(plain.objective.parameters(), clipped.objective.parameters(), strict=True)
             if p.grad is not None]
    norms = [p.norm().item() for p, _ in pairs]
    assert min(norms) < 0.5 < max(norms)
    for (p, q), norm in zip(pairs, norms, strict=True):
        torch.testing.assert_close(q, p * min(1, 0.5 / (norm + 1e-6)), rtol=1e-4, atol=1e-9)


def test_backbones_of_some_epochs_are_kept(tmp_path, source):
    """Every second epoch, in a run that was stopped after the first and in one that was not: the same to the last bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = dict(epochs=4, keep_every=2, checkpoint_every=5)    # no checkpoint at the end of epochs 2 and 4 but for that
    trained(source, whole, **settings)
    trained(source, broken, stop_at=8, **settings)
    assert not list(broken.glob("backbone*"))
    trained(source, broken, resume=True, **settings)
    kept = [f"backbone-epoch{epoch:04d}.safetensors" for epoch in (2, 4)]
    assert sorted(path.name for path in whole.glob("backbone*")) == sorted([*kept, "backbone.safetensors"])
    for name in (*kept, "backbone.safetensors"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert (whole / kept[1]).read_bytes() == (whole / "backbone.safetensors").read_bytes() != (whole / kept[0]).read_bytes()
    middle, weights = trained(source, stop_at=12, **settings).objective.backbone, checkpoint.read_export(whole / kept[0])[0]
    assert same({name: x for name, x in weights.items() if not name.startswith("decoder.")}, dict(middle.state_dict()))


def test_gradients_are_clipped(source):
    trainer = Trainer(tiny(clip_norm=1e-3), source)
    trainer.train_step(1)
    norm = torch.stack([p.grad.norm() for p in trainer.objective.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
