"""`python -m lib.training` and `python -m lib.evaluation`: help that tells, and one line for whatever is wrong."""
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib import cli
from lib.data import open_source
from lib.evaluation import __main__ as evaluation
from lib.evaluation.attentive import Attentive
from lib.evaluation.yardsticks import COUNTS
from lib.training import __main__ as training
from lib.training.recipes import RECIPES, recipe

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("--images 64 --epochs 1 --batch-size 16 --image-size 16 --patch-size 4 --warmup-epochs 0 --knn-every 1 --log-every 2 "
         "--device cpu --seed 1")
SMALL = FLAGS.split()


@pytest.fixture(autouse=True)
def quiet_process(monkeypatch, tmp_path):
    """One thread, a folder of its own, no sets of images, and the signal handlers of before."""
    threads, handlers = torch.get_num_threads(), {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets").mkdir()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("COLUMNS", "300")
    yield
    torch.set_num_threads(threads)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def call(program, *arguments: str) -> int:
    """Run a program with these arguments, in this process; -> its exit code."""
    before, sys.argv = sys.argv, ["program", *arguments]
    try:
        cli.main(program)
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


def assert_one_line(capsys, program, arguments: list[str], said: str) -> None:
    assert call(program, *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and errors.endswith("\n") and "\r" not in errors, errors
    assert re.search(said, errors), errors


# ---------------------------------------------------------------------------------------------------------------- help

@pytest.mark.parametrize(("objective", "scale"), RECIPES)
def test_help_shows_every_field_with_meaning_and_default(objective, scale, capsys):
    assert call(training.train, objective, "--scale", scale, "--help") == 0
    text = capsys.readouterr().out
    assert f"Train {objective} at scale {scale}" in " ".join(text.split())
    options = {lines.split()[0].rstrip(","): " ".join(lines.split()) for lines in re.split(r"\n  (?=--)", text)}
    for f in fields(RECIPES[objective, scale]):
        shown = options["--" + f.name.replace("_", "-")]
        assert f.metadata["help"] in shown
        assert f"(default: {getattr(RECIPES[objective, scale], f.name)})" in shown
        assert all(choice in shown for choice in f.metadata["choices"])
    assert {"--scale", "--out", "--resume", "--dry-run", "--gpus", "--tflops", "--utilisation", "--price",
            "--gpu-memory"} <= set(options)


def test_help_of_evaluation(capsys):
    assert call(evaluation.main, "--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in evaluation.ABOUT) and set(evaluation.ABOUT) == {*evaluation.MEASURES, "table"}
    for name in evaluation.ABOUT:
        assert call(evaluation.main, name, "--help") == 0
        text = capsys.readouterr().out
        assert all(flag in text for flag in (("--world", "--device") if name == "table" else
                                             ("network", "--difficulty", "--images", "--untrained", "--device", "--out")))
        for flag, without in {"--data": ("dense", "table"), "--pooling": ("dense", "depths", "attentive", "table"),
                              "--crop": ("dense", "table", "noise", "shape-bias"), "--depth": ("finetune", "table")}.items():
            assert (f" {flag} " in text) == (name not in without)


def parsed(monkeypatch, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    return training.parse()


def test_flags_change_the_recipe(monkeypatch):
    objective, scale, r, out, resume, plan = parsed(
        monkeypatch, "mocov3", "--scale", "course", "--epochs", "3", "--learning-rate=1e-3", "--warmup-epochs", "2.5",
        "--no-freeze-patches", "--compile", "--resume")
    assert (objective, scale, out, resume, plan) == ("mocov3", "course", "runs/mocov3-course", True, None)
    assert r == recipe("mocov3", "course", epochs=3, learning_rate=1e-3, warmup_epochs=2.5, freeze_patches=False, compile=True)


def test_objective_and_scale_may_stand_anywhere(monkeypatch):
    expected = recipe("simmim", "paper", epochs=3, compile=False)
    for line in ("simmim --scale paper --epochs 3 --no-compile --out mocov3", "--out mocov3 --epochs 3 --no-compile simmim "
                 "--scale=paper", "--epochs 3 --no-compile --scale paper --out mocov3 simmim"):
        objective, scale, r, out, _, _ = parsed(monkeypatch, *line.split())
        assert (objective, scale, r, out) == ("simmim", "paper", expected, "mocov3")


def test_dry_run_starts_nothing(capsys):
    command = ["mae", "--scale", "paper", "--model", "vit_nano", "--decoder-dim", "16", "--decoder-heads", "2"]
    assert call(training.train, *command, "--dry-run", "--gpus", "4", "--price", "2.5") == 0
    text = capsys.readouterr().out
    assert text.startswith("plan of mae at scale paper; nothing is started") and "at 2.5 a GPU-hour" in text
    assert "read from a packed file of 393.6 GB: whole photographs, squares of 320 pixels" in text
    assert "1,281,167 images of imagenet" in text and "on each of 4 GPU(s), 1,024 images each" in text
    assert {path.name for path in Path().iterdir()} == {"sets"}


def test_a_batch_size_moves_the_learning_rate_of_a_paper_and_says_so(capsys):
    command = ["mae", "--scale", "paper", "--model", "vit_nano", "--decoder-dim", "16", "--decoder-heads", "2", "--dry-run"]
    said = "note: the learning rate follows the batch size: 0.0024 at 4,096 images a step, as published, 0.0003 at 512;"
    assert call(training.train, *command, "--batch-size", "512") == 0 and said in capsys.readouterr().out
    for given in (["--batch-size", "512", "--learning-rate", "0.0024"], ["--batch-size", "4096"]):
        assert call(training.train, *command, *given) == 0 and "note" not in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- wrong input

WRONG = [
    ([], "required: objective"),
    (["mocov4"], r"invalid choice: 'mocov4' \(choose from"),
    (["mocov3", "--scale", "large"], "--scale: invalid choice: 'large'"),
    (["mocov3", "--epoch", "3"], "unrecognized arguments: --epoch 3"),
    (["mocov3", "--mask-ratio", "0.5"], "unrecognized arguments: --mask-ratio"),
    (["mocov3", "--epochs", "three"], "--epochs: invalid int value: 'three'"),
    (["mocov3", "--epochs", "0"], "epochs must be at least 1, got 0"),
    (["mocov3", "--epochs"], "--epochs: expected one argument"),
    (["mocov3", "--learning-rate", "fast"], "--learning-rate: invalid float value: 'fast'"),
    (["mocov3", "--image-size", "1000000000"], "image_size must lie from 0 to 16,384, got 1000000000"),
    (["mocov3", "--epochs", "9" * 400], "epochs must lie from 0 to 1,000,000,000, got 9999"),
    (["dino", "--dry-run", "--local-crops", "100000"], "local_crops must lie from 0 to 1,000"),
    (["simmim", "--layer-scale", "1e300"], "layer_scale must lie from 0 to"),
    (["mocov3", "--learning-rate", "nan"], "learning_rate must lie from 0 to .*, got nan"),
    (["mocov3", "--learning-rate=-1"], "learning_rate must lie from 0"),
    (["mocov3", "--temperature", "0"], "temperature must be greater than 0"),
    (["mocov3", "--momentum", "2"], "momentum must be at least 0"),
    (["mocov3", "--hidden", "0"], "hidden must be at least 1"),
    (["mocov3", "--beta2", "1.5"], "beta2 must be"),
    (["mocov3", "--seed", "99999999999999999999"], "seed must fit"),
    (["mocov3", "--batch-size", "1"], "batch_size must be at least 2"),
    (["simmim", "--drop-path", "1.5"], "drop_path must be"),
    (["simmim", "--mask-cell", "0"], "mask_cell must be at least 1"),
    (["simmim", *SMALL, "--mask-cell", "3"], "does not divide into cells of 3 x 3"),
    (["simmim", *SMALL, "--mask-ratio", "1"], "mask ratio must lie between 0 and 1"),
    (["simmim", *SMALL, "--crop-min", "2"], "scale must be a range"),
    (["simmim", *SMALL, "--patch-size", "5"], "16 pixels do not divide into patches of 5; try 15 pixels"),
    (["simmim", *SMALL, "--image-size", "4"], "size of at least 8 pixels"),
    (["simmim", *SMALL, "--batch-size", "65"], "a batch of 65 needs as many images, shapes has 64"),
    (["simmim", "--device", "tpu"], "--device: invalid choice: 'tpu'"),
    (["simmim", "--model", "vit_enormous"], "--model: invalid choice: 'vit_enormous'"),
    (["simmim", *SMALL, "--data", "cifar11"], "no image set 'cifar11': choose one of cifar10"),
    (["simmim", *SMALL, "--data", "imagenette"], "imagenette is not in .*python -m lib.data fetch imagenette"),
    (["simmim", *SMALL, "--data", "imagenet"], "imagenet is not in .*image-net.org"),
    (["simmim", *SMALL, "--data", "sets"], "sets cannot be used .*no folder train/"),
    (["simmim", *SMALL, "--resume"], "holds no checkpoint to resume from"),
    (["simmim", *SMALL, "--out", "/dev/null/run"], "cannot write to /dev/null/run"),
    (["mocov3", "--accumulate", "2"], "accumulate must be 1 here, got 2: this loss compares .* --checkpoint-blocks"),
    (["hybrid", "--accumulate", "2"], "accumulate must be 1 here"),
    (["dino", "--accumulate", "2"], "accumulate must be 1 here"),
    (["mae", "--accumulate", "0"], "accumulate must be at least 1"),
    (["simmim", *SMALL, "--accumulate", "3"], "16 images a process do not divide into 3 parts"),
    (["mae", "--gpus", "4"], "--gpus, --tflops, --utilisation, --price, --gpu-memory belong to --dry-run"),
    (["mae", "--dry-run", "--start-from", "nowhere"], "--start-from takes a run's folder, .*; got 'nowhere'"),
    (["mae", "--dry-run", "--start-from", "shapes/mae"], "the weights of shapes/mae do not fit: cls_token is .*; give --model"),
    (["mae", "--dry-run", "--start-from", "official:nobody"], "there is no official checkpoint 'nobody'"),
    (["mae", "--leave-out", "blur"], "leave_out names blur, which this training does not have; it has crop, flip"),
    (["mae", "--dry-run", "--gpus", "0"], "a plan needs at least 1 GPU, got --gpus 0"),
    (["mae", "--dry-run", "--gpus", "3"], "a batch of 128 does not divide over 3 GPUs"),
    (["mae", "--dry-run", "--utilisation", "1.5"], "utilisation from 1e-6 to 1"),
    (["mae", "--dry-run", "--gpu-memory", "0"], "more than 0 GB of memory, got --gpu-memory 0"),
    (["mae", "--dry-run", "--data", "nowhere"], "no image set 'nowhere'"),
    (["simmim", *SMALL, "--images", "1000000000000"], "not enough memory"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(arguments[:1] + arguments[-2:]) for arguments, _ in WRONG])
def test_wrong_arguments_of_training_get_one_line(arguments, said, capsys):
    if "not enough memory" in said:                                # the bar over all steps is there by then
        assert call(training.train, *arguments) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: not enough memory; take smaller batches")
        return
    assert_one_line(capsys, training.train, arguments, said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
@pytest.mark.parametrize("program", [training.train, evaluation.main])
def test_no_gpu(program, capsys, run):
    arguments = ["simmim", *SMALL] if program is training.train else [str(run)]
    assert_one_line(capsys, program, [*arguments, "--device", "cuda"], "sees no CUDA GPU here; use --device cpu")


def test_nan_stops_with_one_line_after_the_bar(capsys):
    assert call(training.train, "simmim", *SMALL, "--learning-rate", "1e30") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the loss, or a weight, is not a finite number at step") and "learning_rate=1e+30" in last


def test_interrupted_before_training_says_so(capsys):
    def program():
        raise KeyboardInterrupt

    assert call(program) == 130 and capsys.readouterr().err == "interrupted\n"


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a defect"):
        call(lambda: (_ for _ in ()).throw(RuntimeError("a defect")))


def test_real_process_exits_with_2_and_one_line(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-m", "lib.training", "simmim", "--epochs", "0"], cwd=tmp_path, env=environment,
                            capture_output=True, text=True, timeout=120)
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------- train, then evaluate, for real

@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "x"
    assert call(training.train, "simmim", *SMALL, "--out", str(folder)) == 0
    return folder


def test_training_says_what_it_does(tmp_path, capsys):
    command = ["mocov3", *SMALL, "--hidden", "16", "--dim", "8", "--out", "y"]
    assert call(training.train, *command) == 0
    out = capsys.readouterr().out
    assert "mocov3 at scale smoke: 64 images of shapes, 4 steps of 16" in out and "into y" in out
    assert re.search(r"done in .* min: loss \d\.\d{4} -> \d\.\d{4}, k-NN \d+\.\d%; weights in y/backbone.safetensors", out)
    assert {"last.pt", "log.jsonl", "recipe.json", "backbone.safetensors"} <= {path.name for path in Path("y").iterdir()}
    assert list(Path("y").glob("events.out.tfevents.*"))
    assert_one_line(capsys, training.train, command, "already holds a run")
    assert_one_line(capsys, training.train, [*command, "--resume", "--weight-decay", "0.3"],
                    "was begun with weight_decay=.*, not weight_decay=0.3")


def test_evaluation_writes_what_it_measured(run, capsys):
    assert call(evaluation.main, str(run), "--images", "200", "--out", "results/x.json", "--device", "cpu") == 0
    out, result = capsys.readouterr().out, json.loads(Path("results/x.json").read_text())
    assert result["recipe"]["objective"] == "simmim" and result["pooling"] == "mean"
    assert result["device"] == "cpu" and result["data"] == "shapes" and result["seeds"] == [0]
    assert "--images 200" in result["command"] and result["log"]
    for network in ("trained", "untrained"):
        assert set(result[network]) == {"knn", "linear", "texture", "ground", "x", "y", "miou"}
        for probe, m in result[network].items():
            assert m["interval"][0] <= m["value"] <= m["interval"][1] <= 1
            assert re.search(rf"{network} +{probe}: {m['value']:.3f}", out)


@pytest.mark.parametrize(("command", "more", "inside"), [
    ("frozen", ("--protocol", "park", "--depth", "1"), "linear"),
    ("finetune", ("--epochs", "1", "--warmup-epochs", "0", "--batch-size", "32"), "finetuned"),
    ("finetune", ("--epochs", "1", "--warmup-epochs", "0", "--batch-size", "32", "--image-size", "24"), "finetuned"),
    ("attentive", ("--epochs", "1", "--batch-size", "8", "--depth", "1"), "attentive"),
    ("attentive", ("--epochs", "1", "--augment", "--precision", "bf16", "--keep", "kept"), "learning_rate"),
    ("dense", ("--image-size", "24"), "miou"),
    ("noise", ("--mode", "energy", "--precision", "bf16"), "bands"),
    ("shape-bias", ("--pooling", "cls+mean"), "shape_bias"),
])
def test_every_yardstick_writes_both_networks(run, capsys, command, more, inside):
    assert call(evaluation.main, command, str(run), "--images", "100", *more, "--device", "cpu", "--out", "y.json") == 0
    result = json.loads(Path("y.json").read_text())
    assert inside in result["trained"] and inside in result["untrained"] and f"lib.evaluation {command}" in result["command"]
    out = capsys.readouterr().out
    assert "  trained" in out and "untrained" in out


def test_an_attentive_probe_has_the_same_images_with_new_crops(run, monkeypatch):
    seen = []

    def watched(backbone, train, val, *_, **__):
        seen.append((len(train), len(val)))
        return Attentive(torch.zeros(len(val)), 0.1, None)

    monkeypatch.setattr(evaluation, "attentive_probe", watched)
    for flags in ((), ("--augment",), ("--augment", "--images", "300")):
        assert call(evaluation.main, "attentive", str(run), *flags, "--no-untrained", "--device", "cpu", "--out", "a.json") == 0
    assert seen == [tuple(COUNTS.values()), tuple(COUNTS.values()), (300, COUNTS["val"])]


def test_another_size_and_precision_are_what_is_measured_with(run, monkeypatch):
    seen = []

    def watched(backbone, train, val, pooling, depth):
        weight = next(backbone.parameters())
        seen.append((weight.dtype, backbone.patch_embed.img_size, train.size, val.size, pooling))
        return {}

    monkeypatch.setattr(evaluation, "measure", watched)
    flags = ("--image-size", "24", "--precision", "bf16", "--pooling", "cls+mean", "--out", "s.json", "--device", "cpu")
    assert call(evaluation.main, "frozen", str(run), *flags) == 0
    assert seen == 2 * [(torch.bfloat16, (24, 24), 24, 24, "cls+mean")]            # trained and untrained
    result = json.loads(Path("s.json").read_text())
    assert result["settings"]["image_size"] == 24 and result["settings"]["precision"] == "bf16"


def test_a_published_protocol_decides_its_pooling_and_what_a_head_is_trained_on(run, monkeypatch):
    """The middle of photographs at --crop, as in the test; but random crops where the protocol makes them. MAE probes CLS."""
    seen = []

    def watched(backbone, train, val, protocol, pooling, depth, seed, keep):
        seen.append((type(train).__name__, train.size, pooling, seed))
        return torch.zeros(len(val), dtype=torch.int64)

    monkeypatch.setattr(evaluation, "published_probe", watched)
    monkeypatch.setattr(evaluation, "in_memory", lambda source: source)
    for label, n in itertools.product(("grey", "red"), range(12)):
        for split in ("train", "val"):
            path = Path("photos") / split / label / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (70, 64), (90 + 9 * n, 90, 90)).save(path)
    monkeypatch.setenv("COURSE_DATA", str(Path("cache").absolute()))
    Path("cache").mkdir()
    flags = ("frozen", str(run), "--data", "photos", "--crop", "0.5", "--no-untrained", "--out", "p.json", "--device", "cpu")
    for protocol, more in (("park", ()), ("mae", ("--seed", "3")), ("mae", ("--pooling", "mean")), ("mocov3", ())):
        assert call(evaluation.main, *flags, "--protocol", protocol, *more) == 0
        result = json.loads(Path("p.json").read_text())
        assert result["settings"]["protocol"] == protocol and result["settings"]["crop"] == 0.5 and result["processes"] == 1
    assert seen == [("Centre", 16, "mean", 0), ("PackedImages", 16, "cls", 3), ("PackedImages", 16, "mean", 0),
                    ("PackedImages", 16, "mean", 0)]
    assert sorted(p.stem.rsplit("-")[-1] for p in Path("cache/packed").glob("*-train-*.images")) == ["16", "32"]


def test_fine_tuning_takes_every_field_of_its_recipe(run):
    flags = ("--images", "64", "--recipe", "mae", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "32", "--drop-path",
             "0", "--layer-decay", "0.5", "--no-untrained", "--device", "cpu", "--out", "t.json")
    assert call(evaluation.main, "finetune", str(run), *flags) == 0
    settings = json.loads(Path("t.json").read_text())["settings"]["tuning"]
    assert settings["layer_decay"] == 0.5 and settings["learning_rate"] == pytest.approx(2e-3 / 32) and settings["mixup"] == 0.8


def test_a_log_that_was_changed_costs_no_measurement(run):
    log = run / "log.jsonl"
    before = log.read_text()
    try:
        strange = ('{"step": NaN, "loss": 1}', '{"step": "x"}', '{"step": 3, "loss": Infinity}', "[1]", '{"loss": 2}', "half a")
        log.write_text(before + "\n".join(strange))
        flags = ("--images", "100", "--no-untrained", "--device", "cpu", "--out", "l.json")
        assert call(evaluation.main, "dense", str(run), *flags) == 0
    finally:
        log.write_text(before)
    assert len(json.loads(Path("l.json").read_text())["log"]) == len(before.splitlines())


def test_the_control_can_be_left_out(run):
    flags = ("--images", "100", "--no-untrained", "--device", "cpu", "--out", "z.json")
    assert call(evaluation.main, "dense", str(run), *flags) == 0
    result = json.loads(Path("z.json").read_text())
    assert "trained" in result and "untrained" not in result and result["data"] == "shapes" and "pooling" not in result


@pytest.mark.parametrize("command", [["frozen"], ["attentive", "--augment"], ["finetune"], ["depths"], ["noise"]])
def test_one_class_is_nothing_to_tell_apart(run, capsys, command):
    for split, n in itertools.product(("train", "val"), range(24)):
        path = Path("alone") / split / "cat" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (9 * n, 0, 0)).save(path)
    for split in ("train", "val"):
        open_source("alone", split, 16)                            # is packed, and says so
    capsys.readouterr()
    assert_one_line(capsys, evaluation.main, [command[0], str(run), *command[1:], "--data", "alone", "--device", "cpu"],
                    "alone has one class, cat: nothing is to be told apart; give two classes or more")


@pytest.mark.parametrize("command", [["frozen"], ["attentive"], ["finetune"]])
def test_one_image_has_no_interval_and_that_is_said_before_the_work(run, capsys, command):
    for split, n, label in itertools.product(("train", "val"), range(24), ("cat", "dog")):
        path = Path("few") / split / label / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if split == "train" or (n, label) == (0, "cat"):
            Image.new("RGB", (20, 16), (9 * n, 0, 0)).save(path)
    for split in ("train", "val"):
        open_source("few", split, 16)                              # is packed, and says so
    capsys.readouterr()
    assert_one_line(capsys, evaluation.main, [*command, str(run), "--data", "few", "--device", "cpu"],
                    "few has one image to measure on, and an interval over images needs two or more; give more")


def test_pixels_of_no_class_can_be_left_out(run, capsys):
    for n in range(40):
        mask = np.tile(np.repeat(np.uint8([0, 1, 255, 0]), 4), (16, 1))
        bright = np.roll(200 * (mask == 1), n % 3, 1).astype(np.uint8)
        for part, image in (("images", np.stack([bright] * 3, 2)), ("masks", mask)):
            path = Path("pairs") / part / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    command = ("dense", str(run), "--pairs", "pairs", "--no-untrained", "--device", "cpu", "--out", "v.json")
    for more, classes, noted in (((), 3, True), (("--void", "255"), 2, False)):
        assert call(evaluation.main, *command, *more) == 0
        assert ("note: 255 counts as a class" in capsys.readouterr().out) == noted
        assert len(json.loads(Path("v.json").read_text())["trained"]["iou"]) == classes
    assert_one_line(capsys, evaluation.main, [*command, "--void", "7"], "no mask of pairs holds the value 7 of --void")


@pytest.mark.parametrize("spelling", ["ascii", "utf-8"])
def test_any_terminal_gets_its_help(spelling):
    answer = subprocess.run([sys.executable, "-m", "lib.training", "hybrid", "--help"], capture_output=True, cwd=ROOT,
                            env=os.environ | {"PYTHONIOENCODING": spelling}, timeout=120)
    assert answer.returncode == 0 and b"--cl-weight" in answer.stdout


def test_a_reader_that_goes_away_is_no_traceback():
    answer = subprocess.run(f"{sys.executable} -m lib.evaluation frozen shapes/mae --help | head -c 1", shell=True, cwd=ROOT,
                            capture_output=True, timeout=120)
    assert answer.returncode == 0 and b"Traceback" not in answer.stderr


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "required: network"),
    (["finetune", "RUN", "--recipe", "best"], "--recipe: invalid choice"),
    (["dense", "RUN", "--pairs", "nowhere"], "nowhere"),
    (["shape-bias", "RUN", "--stimuli", "sets"], "--stimuli needs --categories"),
    (["frozen", "RUN", "--depth", "99"], "--depth must lie from 0 to 3, got 99"),
    (["shapes/best"], "shapes/best does not exist|no checkpoint"),
    (["timm:vit_best"], "timm cannot make 'vit_best'"),
    (["nothing"], "nothing does not exist; a finished run leaves"),
    (["shapes/resnet"], "shapes/resnet is no ViT, which is what is measured here; data/results/zoo/shapes-resnet.json says"),
    (["sets"], "sets/backbone.safetensors does not exist"),
    (["RUN", "--pooling", "max"], "--pooling: invalid choice"),
    (["RUN", "--data", "cifar11"], "no image set 'cifar11'"),
    (["RUN", "--data", "imagenette"], "imagenette is not in"),
    (["RUN", "--images", "0"], "from 1 image to a million millions can be asked for, got a limit of 0"),
    (["RUN", "--images", "5"], "N at least 20"),
    (["RUN", "--images", "few"], "--images: invalid int value"),
    (["RUN", "--out", "/dev/null/x/y.json"], "cannot write /dev/null/x/y.json"),
    (["RUN", "--out", "sets"], "sets is a folder"),
    (["RUN/recipe.json"], "cannot be read .*damaged"),
    (["RUN", "--frobnicate"], "unrecognized arguments"),
    (["dense", "RUN", "--data", "shapes"], "unrecognized arguments: --data"),
    (["finetune", "RUN", "--depth", "1"], "unrecognized arguments: --depth"),
    (["depths", "RUN", "--pooling", "cls"], "unrecognized arguments: --pooling"),
    (["dense", "RUN", "--pairs", "sets", "--images", "3"], "--images is of the objects of shapes"),
    (["dense", "RUN", "--pairs", "sets", "--void", "256"], "--void is a value of the masks of --pairs, from 0 to 255, got 256"),
    (["dense", "RUN", "--void", "255"], "got 255 without --pairs"),
    (["shape-bias", "RUN", "--data", "imagenette"], "--data imagenette goes with --stimuli"),
    (["shape-bias", "RUN", "--stimuli", "sets", "--categories", "x.json"], "--stimuli are of ImageNet's classes"),
    (["finetune", "RUN", "--keep", ""], "an empty name was given for --keep"),
    (["RUN", "--crop", "1e-320"], "--crop is a share of the short side, from 0.01 to 1, got 1e-320"),
    (["RUN", "--crop", "0.5"], "--crop is of photographs, and shapes are square; leave it out"),
    (["RUN", "--stored-size", "320"], "--stored-size is of photographs"),
    (["RUN", "--data", "sets", "--difficulty", "hard"], "--difficulty is of shapes, and sets has one only"),
    (["RUN", "--seed", "3"], "--seed is for --protocol"),
    (["RUN", "--image-size", "18"], "--image-size must be a multiple of the patch size 4, got 18"),
    (["attentive", "RUN", "--queries", "7"], r"7 queries do not divide \d+ numbers a token"),
    (["attentive", "RUN", "--epochs", "0"], "epochs of an attentive probe must be at least 1"),
    (["finetune", "RUN", "--pooling", "cls4"], "--pooling: invalid choice: 'cls4'"),
    (["finetune", "RUN", "--precision", "bf16"], "unrecognized arguments: --precision"),
    (["depths", "RUN", "--seed", "3"], "unrecognized arguments: --seed"),
    (["shape-bias", "RUN", "--categories", "x.json"], "--categories goes with --stimuli"),
    (["finetune", "RUN", "--layer-decay", "2"], "layer_decay must lie from 1e-06 to 1, got 2.0"),
    (["finetune", "RUN", "--keep", "RUN/recipe.json"], "cannot keep states in .*recipe.json"),
    (["RUN", "--out", "RUN/recipe.json"], "recipe.json is there already and is no report"),
    (["RUN", "--images", "9" * 20], "from 1 image to a million millions"),
    (["noise", "RUN", "--seed", "9" * 20], "--seed must fit into 64 bits"),
    (["RUN", "--out", "RUN/last.pt"], "last.pt is there already and is no .json file"),
    (["RUN", "--out", "x" * 240], "is too long for a file"),
    (["RUN", "--data", "~nobody-here/x"], "begins with ~ and a name that no user"),
])
def test_wrong_arguments_of_evaluation_get_one_line(arguments, said, capsys, run):
    capsys.readouterr()
    assert_one_line(capsys, evaluation.main, [a.replace("RUN", str(run)) for a in arguments], said)
