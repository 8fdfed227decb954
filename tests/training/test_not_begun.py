"""SIGTERM before there is a trainer, or an evaluator: status 75 and one line, so that a cluster starts the program again."""
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SAID = "stopped before the training began; the same command begins again, and packing goes on where it was"


def environment(*folders: Path, **more: str) -> dict:
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*folders, ROOT))), "OMP_NUM_THREADS": "1"} | more


@pytest.mark.parametrize(("words", "said"), [(["lib.training", "mae", "--out", "run"], SAID),
                                              (["lib.evaluation", "frozen", "run"], "stopped; the same command begins again, "
                                               "or goes on where --keep was given and an epoch was finished"),
                                              (["lib.analysis", "claims"], "stopped; the same command begins again, and "
                                               "claims that were measured are kept")])
def test_while_modules_are_imported(tmp_path, words, said):
    """A stand-in for torch, the first slow import, that is sent the signal."""
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n")
    done = subprocess.run([sys.executable, "-m", *words], env=environment(tmp_path), cwd=tmp_path, timeout=60,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (os.EX_TEMPFAIL, said), done.stderr


@pytest.mark.parametrize("words", [["lib.training", "mae"], ["lib.evaluation", "run"], ["lib.analysis", "claims"]])
def test_interrupted_while_modules_are_imported(tmp_path, words):
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    done = subprocess.run([sys.executable, "-m", *words], env=environment(tmp_path), cwd=tmp_path, timeout=60,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted"), done.stderr


def test_while_images_are_packed(tmp_path):
    """A thousand images are slow enough to be stopped among; nothing is left but what the next start can go on from."""
    for k, split in enumerate(("train", "val")):
        (tmp_path / "set" / split / "a").mkdir(parents=True)
        Image.new("RGB", (900, 900), (k, 0, 0)).save(tmp_path / "set" / split / "a" / "0.png")
        for i in range(1, 1000):
            os.link(tmp_path / "set" / split / "a" / "0.png", tmp_path / "set" / split / "a" / f"{i}.png")
    (tmp_path / "cache").mkdir()
    command = [sys.executable, "-m", "lib.training", "mae", "--data", tmp_path / "set", "--device", "cpu",
               "--out", tmp_path / "run"]
    with subprocess.Popen(command, env=environment(COURSE_DATA=str(tmp_path / "cache")), cwd=tmp_path, text=True,
                          stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not list(tmp_path.glob("cache/packed/*.partial")) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL, said
    assert said.splitlines().count(SAID) == 1 and "Traceback" not in said
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("cache/packed/*.images"))
