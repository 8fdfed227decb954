"""The benchmarks at their smallest: they run, write what they say they write, and the two analyses agree."""
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def program(monkeypatch):
    """A benchmark as a module, as it is found when it is run as a file; and one thread."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in ("common", "plain", "training", "analysis"):
        sys.modules.pop(name, None)


def test_training(program, tmp_path):
    path = tmp_path / "x" / "training.json"
    results = program("training").main(
        f"--objectives mocov3 mae --model vit_nano --image-size 32 --patch-size 8 --batch-size 4 --rounds 2 --small-heads "
        f"--no-compile --matmul 64 --device cpu --out {path}".split())
    assert json.loads(path.read_text()) == results and set(results["objectives"]) == {"mocov3", "mae"}
    assert results["about"].keys() >= {"device", "date", "torch", "commit", "command"}
    assert results["matmul_flops_per_second"] > 0
    for found in results["objectives"].values():
        assert len(found["seconds"]["eager"]) == len(found["seconds"]["views"]) == 2
        assert found["eager"]["images_per_second"] > 0 and found["eager"]["utilisation"] > 0
        assert 0 < found["eager"]["views_share"] and found["estimated_bytes"] > 0 and "compiled" not in found


def test_analysis_agrees_with_the_plain_procedure(program, tmp_path):
    path = tmp_path / "analysis.json"
    results = program("analysis").main(
        f"--model vit_nano --image-size 32 --patch-size 8 --images 3 --batch-size 2 --rounds 1 --device cpu "
        f"--out {path}".split())
    assert json.loads(path.read_text()) == results
    assert results["course_over_bare"] > 0 and results["plain_over_course"] > 0
    assert set(results["largest_difference"]) == {"distance", "entropy", "nmi", "delta_log_amplitude"}
    assert all(value < 1e-4 for value in results["largest_difference"].values()), results["largest_difference"]
