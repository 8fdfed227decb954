"""Intervals over images against known ones, and files that say how they were made."""
import json
import math
import subprocess
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from lib.errors import CourseError
from lib.evaluation import report
from lib.evaluation.report import (
    bootstrap,
    bootstrap_mean,
    bootstrap_r2,
    bootstrap_statistic,
    check_out,
    commit,
    put_between,
    r_squared,
    write_report,
)


def test_interval_of_a_mean_is_the_normal_one():
    values = 3 + 2 * torch.randn(500, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_mean(values)
    mean, error = values.mean().item(), values.std().item() / math.sqrt(500)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)
    assert bootstrap_mean(values) == [low, high] and bootstrap_mean(torch.ones(9)) == [1, 1]


def test_interval_of_a_mean_of_right_and_wrong_is_that_of_the_share():
    right = torch.arange(1000) < 700
    assert bootstrap_mean(right) == pytest.approx(bootstrap(right), abs=0.003)


def line(n: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    truth = 5 + torch.randn(n, generator=g)
    return truth + 0.5 * torch.randn(n, generator=g), truth


def test_r2_against_scikit_learn_and_at_known_points():
    predicted, truth = line()
    assert r_squared(predicted, truth) == pytest.approx(r2_score(truth.double().numpy(), predicted.double().numpy()), rel=1e-9)
    assert r_squared(truth, truth) == 1
    assert r_squared(truth.mean().expand(100), truth) == pytest.approx(0, abs=1e-6)
    with pytest.raises(CourseError, match="all 4 values are the same"):
        r_squared(torch.arange(4.0), torch.ones(4))


def test_interval_of_r2_against_a_loop():
    predicted, truth = line()
    low, high = bootstrap_r2(predicted, truth)
    generator, values = np.random.default_rng(7), []
    for _ in range(1000):
        chosen = [int(100 * u) for u in generator.random(100)]
        p, t = [predicted[k].item() for k in chosen], [truth[k].item() for k in chosen]
        mean = sum(t) / 100
        values.append(1 - sum((a - b) ** 2 for a, b in zip(p, t, strict=True)) / sum((b - mean) ** 2 for b in t))
    expected = np.quantile(values, [0.025, 0.975])
    assert [low, high] == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))
    assert low < r_squared(predicted, truth) < high
    assert bootstrap_r2(truth, truth) == [1, 1]                    # a prediction stays with its truth


def test_any_statistic_of_rows():
    rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_statistic(lambda x, w: (x.sum(1) * w).median(), rows, torch.ones(200), draws=200)
    assert low < rows.sum(1).median() < high


@pytest.mark.parametrize("values", [(torch.ones(0),), (torch.ones(3), torch.ones(4))])
def test_values_of_other_images_are_named(values):
    with pytest.raises(CourseError, match="needs values of the same images"):
        bootstrap_statistic(lambda *v: 0.0, *values)


def test_values_that_are_not_finite_are_named():
    with pytest.raises(CourseError, match="needs finite values"):
        bootstrap_mean(torch.tensor([1.0, math.nan]))


# ---------------------------------------------------------------------------------------------------------------- the file

def test_a_report_of_another_kind_is_not_replaced(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"command": "python -m lib.analysis claims"}))
    check_out(str(path), "lib.analysis claims")
    for other in ("lib.evaluation dense", "lib.analysis curves", "lib.analysis claim"):
        with pytest.raises(CourseError, match=r"x.json holds what python -m lib.analysis claims found; choose another --out"):
            check_out(str(path), other)
    path.write_text(json.dumps({"command": "python -m lib.evaluation runs/x --out x.json"}))
    check_out(str(path), "lib.evaluation frozen")
    with pytest.raises(CourseError, match=r"its name ends in .json; got .*x.txt"):
        check_out(str(tmp_path / "x.txt"), "lib.analysis claims")


def write(path, result, device="cpu") -> None:
    write_report(path, result, command="python -m lib.evaluation x", seeds=[0, 1], device=device)


def test_a_report_says_how_it_was_made(tmp_path):
    write(tmp_path / "new" / "x.json", {"accuracy": 0.5, "by depth": [1, 2]}, torch.device("cpu"))
    text = (tmp_path / "new" / "x.json").read_text()
    assert json.loads(text) == {
        "command": "python -m lib.evaluation x", "commit": commit(), "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__, "seeds": [0, 1], "device": "cpu", "accuracy": 0.5, "by depth": [1, 2]}
    assert text.endswith("}\n") and list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "x.json"]


def test_a_gpu_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    write(tmp_path / "x.json", {}, "cuda:1")
    assert json.loads((tmp_path / "x.json").read_text())["device"] == "GPU of cuda:1"


@pytest.mark.parametrize(("result", "said"), [
    ({"accuracy": math.nan}, "plain finite numbers"), ({"accuracy": torch.ones(1)}, "plain finite numbers"),
    ({"seeds": 3, "commit": "x"}, "a result has no commit, seeds of its own"),
])
def test_a_result_that_cannot_be_written_leaves_the_old_file(result, said, tmp_path):
    write(tmp_path / "x.json", {"old": 1})
    with pytest.raises(CourseError, match=said):
        write(tmp_path / "x.json", result)
    assert json.loads((tmp_path / "x.json").read_text())["old"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def stopped(source, target):
        raise OSError(28, "No space left on device")

    write(tmp_path / "x.json", {"old": 1})
    monkeypatch.setattr("os.replace", stopped)
    with pytest.raises(CourseError, match=r"could not write .*x.json: No space left on device; what was there before"):
        write(tmp_path / "x.json", {"new": 1})
    assert json.loads((tmp_path / "x.json").read_text())["old"] == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match=r"cannot write .*x.json: .*; choose another file"):
        write(tmp_path / "file" / "folder" / "x.json", {})


def test_commit_is_gits_or_unknown(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, "abc-dirty\n", ""))
    monkeypatch.setattr(report.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert commit() == "abc-dirty"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 128, "", "not a repository"))
    assert commit() == "unknown"
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("there is no git to run"))
    assert commit() == "unknown"


def test_the_readme_gets_what_is_new_between_two_marks():
    before = "a\n<!-- numbers -->\nold\n<!-- end of numbers -->\nb\n<!-- others -->\nkept\n<!-- end of others -->\n"
    once = put_between(before, "numbers", "| new |\n")
    assert once == before.replace("old\n", "\n| new |\n\n") and put_between(once, "numbers", "| new |\n") == once
    for document in ("nothing", "<!-- end of numbers -->\n<!-- numbers -->\n"):
        with pytest.raises(CourseError, match=r"write two lines into it: <!-- numbers --> and <!-- end of numbers -->"):
            put_between(document, "numbers", "x")
