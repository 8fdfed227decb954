"""The benchmarks at their smallest: they run, write what they say they write, and the two analyses agree."""
import importlib
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from lib.evaluation.report import put_between
from lib.training.recipes import recipe
from lib.training.trainer import Trainer


@pytest.fixture
def program(monkeypatch):
    """A benchmark as a module, as it is found when it is run as a file; and one thread."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in ("common", "plain", "plain_training", "training", "analysis", "views", "reading", "table"):
        sys.modules.pop(name, None)


def test_training(program, tmp_path):
    path = tmp_path / "x" / "training.json"
    results = program("training").main(
        f"--objectives mocov3 mae supervised --model vit_nano --image-size 32 --patch-size 8 --batch-size 4 --rounds 2 "
        f"--small-heads --no-compile --matmul 64 --device cpu --out {path}".split())
    assert json.loads(path.read_text()) == results and set(results["objectives"]) == {"mocov3", "mae", "supervised"}
    assert results["about"].keys() >= {"device", "date", "torch", "commit", "command"}
    assert results["matmul_flops_per_second"] > 0
    for found in results["objectives"].values():
        assert len(found["seconds"]["eager"]) == len(found["seconds"]["views"]) == 2
        assert found["eager"]["images_per_second"] > 0 and found["eager"]["utilisation"] > 0
        assert 0 < found["eager"]["views_share"] and found["estimated_bytes"] > 0 and "compiled" not in found
    for name in ("mocov3", "mae"):
        assert all(results["objectives"][name]["plain_over_course"][part] > 0 for part in ("whole", "step", "views"))
    assert "plain_over_course" not in results["objectives"]["supervised"]


def test_training_goes_on_after_a_failure_and_halves_a_batch_that_does_not_fit(program, tmp_path, monkeypatch, capsys):
    training, path, held = program("training"), tmp_path / "training.json", []

    class Large:
        """What a step keeps on the device."""

    def step(limit, error):
        def work(objective, a, batch_size, *rate):
            kept = Large()
            held.append(weakref.ref(kept))
            assert all(other() is None for other in held[:-1]), "memory of an earlier try is still held"
            if objective == "dino":
                raise ValueError("broken\nin two lines")
            if batch_size > limit:
                raise error("CUDA error: out of memory")
            return {"batch_size": batch_size} if rate else {"plain_over_course": {}}
        return work

    monkeypatch.setattr(training, "speed", step(2, torch.OutOfMemoryError))
    monkeypatch.setattr(training, "beside_plain", step(0, RuntimeError))
    results = training.main(f"--objectives mae dino simmim --batch-size 4 --matmul 8 --device cpu --out {path}".split())
    assert json.loads(path.read_text()) == results
    found = {"batch_size": 2, "course_out_of_memory": [4], "plain_out_of_memory": [4, 2, 1]}
    assert results["objectives"] == {"mae": found, "simmim": found,
                                     "dino": {"course_error": "broken", "plain_error": "broken"}}
    assert "mae: 2 images a step; course: not enough memory for 4 images; plain: not" in capsys.readouterr().out
    assert program("table").ratios(results) == [] and program("table").speeds(results | {"about": {"device": "H100"}}) == []


@pytest.mark.parametrize("name", ["mocov3", "dino", "simmim", "mae", "hybrid"])
def test_the_plain_way_to_train_finds_the_same_losses(program, name):
    plain, training = program("plain_training"), program("training")
    changes = {key: value for key, value in training.HEADS.items() if hasattr(recipe(name, "paper"), key)}
    r = recipe(name, "paper", model="vit_nano", image_size=32, patch_size=8, batch_size=4, device="cpu", data="shapes",
               images=32, drop_path=0.0, learning_rate=1e-4, **changes)
    trainer = Trainer(r, training.Noise(32, 32, "cpu"))
    copy, batch = plain.Plain(trainer.objective), trainer.prepare(0)
    torch.nn.init.normal_(next(p for n, p in trainer.objective.named_parameters() if n.endswith("blocks.0.mlp.fc1.weight")))
    other = plain.Plain(trainer.objective)                         # weights that no average has followed
    made = plain.views(trainer.objective, trainer.source.images(torch.arange(4)))
    assert {k: x.shape for k, x in made.items()} == {k: x.shape for k, x in batch.items() if k != "mask"}
    expected = trainer.objective.train().loss(batch)[0].item()
    assert other.loss(other.objective, batch).item() == pytest.approx(expected, abs=1e-4)
    losses = [copy.step(batch) for _ in range(4)]
    assert losses[-1] < losses[0]                                  # and it learns


def test_analysis_agrees_with_the_plain_procedure(program, tmp_path):
    path = tmp_path / "analysis.json"
    results = program("analysis").main(
        f"--model vit_nano --image-size 32 --patch-size 8 --images 3 --batch-size 2 --rounds 1 --device cpu "
        f"--out {path}".split())
    assert json.loads(path.read_text()) == results
    assert results["course_over_bare"] > 0 and results["plain_over_course"] > 0
    assert set(results["largest_difference"]) == {"distance", "entropy", "nmi", "delta_log_amplitude"}
    assert all(value < 1e-4 for value in results["largest_difference"].values()), results["largest_difference"]


def test_views(program, tmp_path):
    path = tmp_path / "views.json"
    results = program("views").main(f"--size 32 --image-size 48 --batch-size 96 --rounds 1 --device cpu --out {path}".split())
    assert json.loads(path.read_text()) == results
    assert results["torchvision_over_course"] > 0 and results["kornia_over_course"] > 0
    ours, *others = (torch.tensor(each) for each in results["statistics"].values())
    for other in others:                                           # alike but for what each draws: not in other units
        assert (other - ours).abs().max() < 0.25, results["statistics"]


def test_reading(program, tmp_path):
    path = tmp_path / "reading.json"
    results = program("reading").main(f"--images 8 --size 64 --batch-size 4 --rounds 2 --out {path}".split())
    assert json.loads(path.read_text()) == results
    assert results["same"] and results["images"] == 8 and results["jpeg_over_store"] > 1


def test_all_goes_on_after_a_failure_and_again_measures_what_is_missing(tmp_path):
    (tmp_path / "python").write_text("""#!/bin/bash
        echo "$(basename $1) ${@:2}" >> calls.txt
        if [[ "$*" == *dino* ]]; then exit 1; fi
        touch "${@: -1}"\n""")
    (tmp_path / "python").chmod(0o755)

    def run(*arguments) -> tuple[int, list[str]]:
        (tmp_path / "calls.txt").unlink(missing_ok=True)
        done = subprocess.run(["bash", Path(__file__).with_name("all.sh"), *arguments], cwd=tmp_path, capture_output=True,
                              env=os.environ | {"RESULTS": str(tmp_path), "PYTHON": str(tmp_path / "python")}, timeout=60)
        calls = tmp_path / "calls.txt"
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    status, calls = run("vit_base", "dino", "mae")
    out = f"--device cuda --out {tmp_path}/training-vit_base-"
    assert status == 1 and calls == [f"training.py --model vit_base --objectives {name} {out}{name}-gpu.json"
                                     for name in ("dino", "mae")]
    assert run("vit_base", "mae") == (0, [])
    status, calls = run()
    assert status == 1 and len(calls) == 17 + 3 and calls[-1] == f"reading.py --out {tmp_path}/reading.json"
    assert len(run()[1]) == 3                                      # DINO of three models


def test_readme_holds_the_table_of_the_measured_files(program):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert put_between(readme, "benchmarks", program("table").table()) == readme, "run: python tests/benchmarks/table.py"


def test_the_table_says_what_the_files_say(program, tmp_path):
    def write(name, **found):
        (tmp_path / f"{name}.json").write_text(json.dumps({"about": {"device": "CPU", "date": "2030-01-02"}} | found))

    one = {"eager": {"images_per_second": 3456.7, "utilisation": 0.417}, "plain_over_course": {"whole": 12.34, "step": 1.234}}
    write("a", size=64, jpeg_over_store=123.4)
    write("b", size=32, torchvision_over_course=0.5, kornia_over_course=2.0)
    write("c", model="vit_x", image_size=16, course_over_bare=1.25, plain_over_course=3.0)
    write("d", model="vit_x", image_size=16, objectives={"mae": one, "supervised": {"eager": one["eager"]}})
    lines = program("table").table(tmp_path).splitlines()
    assert lines[2:] == [
        "| reading images of 64 px | JPEG files | 123 | CPU, 2030-01-02 |",
        "| two views of 32 px | torchvision, image by image | 0.50 | CPU, 2030-01-02 |",
        "| two views of 32 px | kornia | 2.00 | CPU, 2030-01-02 |",
        "| forward pass with attention and Fourier analysis, vit_x, 16 px | the forward pass alone | 0.80 | CPU, 2030-01-02 |",
        "| forward pass with attention and Fourier analysis, vit_x, 16 px | the plain procedure | 3.00 | CPU, 2030-01-02 |",
        "| a step of MAE and its views, vit_x, 16 px | the plain way | 12 | CPU, 2030-01-02 |"]
    write("d", model="vit_x", image_size=16, objectives={"mae": one}, about={"device": "H200", "date": "2030-01-02"})
    assert program("table").table(tmp_path).splitlines()[-1] == "| MAE, vit_x, 16 px | eager | 3,457 | 42% | H200, 2030-01-02 |"
