"""SIGTERM ends an evaluation with status 75 and one line; the same command goes on where --keep says."""
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib.errors import CourseError
from lib.evaluation.__main__ import check, parse

ROOT = Path(__file__).resolve().parents[2]
SAID = "stopped; the same command begins again, or goes on where --keep was given and an epoch was finished"


@pytest.mark.parametrize(("words", "state"), [
    (["finetune", "--recipe", "course", "--warmup-epochs", "0", "--epochs", "12", "--batch-size", "16"], "trained.pt"),
    (["frozen", "--protocol", "mocov3"], "linear-trained.pt")])
def test_while_it_trains(words, state, tmp_path):
    for split, label, n in itertools.product(("train", "val"), ("grey", "red"), range(16)):
        path = tmp_path / "photos" / split / label / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 64), (90 + 9 * n, 90, 90 * (label == "grey"))).save(path)
    (tmp_path / "cache").mkdir()
    command = [sys.executable, "-m", "lib.evaluation", *words, "shapes/mae", "--data", tmp_path / "photos", "--device", "cpu",
               "--no-untrained", "--keep", tmp_path / "kept", "--out", tmp_path / "x.json"]
    settings = dict(cwd=tmp_path, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                                                              "COURSE_DATA": str(tmp_path / "cache")})
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, **settings) as process:
        end = time.monotonic() + 120
        while not (tmp_path / "kept" / state).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL, said
    assert said.splitlines().count(SAID) == 1 and "Traceback" not in said and not (tmp_path / "x.json").exists()
    left = torch.load(tmp_path / "kept" / state, weights_only=True)
    if words[0] == "frozen":                                       # has 90 epochs; that it goes on is tested in test_linear.py
        assert 1 <= left["epoch"] < 90
        return
    assert 2 <= left["step"] < 24
    done = subprocess.run(command, timeout=300, capture_output=True, **settings)
    assert done.returncode == 0, done.stderr
    trained = json.loads((tmp_path / "x.json").read_text())["trained"]
    assert trained["history"][:len(left["history"])] == left["history"] and trained["history"][-1]["step"] == 24


def test_what_keeps_no_state_says_so():
    with pytest.raises(CourseError, match="--keep is for --protocol"):
        check("frozen", parse("frozen", ["shapes/mae", "--keep", "x"]))
    with pytest.raises(SystemExit):
        parse("depths", ["x", "--keep", "y"])
