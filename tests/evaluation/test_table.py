"""The README's numbers come from data/results."""
import json

import pytest

from lib.evaluation import table as table_module
from lib.evaluation.report import put_between
from lib.evaluation.table import ROOT, table


def test_readme_holds_the_table_of_the_measured_results():
    text = (ROOT / "README.md").read_text()
    assert put_between(text, "measured", table()) == text, "run: python -m lib.evaluation.table"


def test_table_reads_what_the_file_of_the_hard_world_says(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module.zoo, "FOLDER", tmp_path)          # where nothing ships
    m = {"value": 0.5, "interval": [0.48, 0.525]}
    result = {"log": [{"step": 7}, {"step": 9}], "trained": {"linear": m}, "untrained": {"linear": m | {"value": 0.4}}}
    (tmp_path / "shapes-hard-supervised.json").write_text(json.dumps(result))
    found = table(tmp_path)
    assert "Supervised (9 steps) names 50.0 % (48.0–52.5) of the shapes by linear probe,\nan untrained network 40.0 %" in found


def test_rebuilt_table_says_where_it_differs(monkeypatch, tmp_path):
    written = {"knn": {"value": 0.5, "interval": [0.4, 0.6]}, "linear": {"value": 0.7, "interval": [0.6, 0.8]}}
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "shapes-mae.json").write_text(json.dumps({"trained": written, "untrained": written}))
    now = {"mae": written, "untrained": written | {"linear": {"value": 0.68, "interval": [0.6, 0.8]}}}
    monkeypatch.setattr(table_module, "RESULTS", tmp_path)
    monkeypatch.setattr(table_module.written, "__defaults__", ("trained", tmp_path))
    monkeypatch.setattr(table_module.zoo, "names", lambda *_: ["mae"])
    monkeypatch.setattr(table_module, "remeasure", lambda world, name, device: now[name])
    text = table_module.rebuild("shapes")
    assert text.splitlines()[2] == "| MAE | 50.0 % (40.0–60.0) | 70.0 % (60.0–80.0) |"
    assert text.endswith("DIFFERS: untrained linear: 0.6800 now, 0.7000 in data/results")
    now["untrained"] = written
    assert table_module.rebuild("shapes").endswith("agrees with data/results")


def test_what_was_written_of_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module.zoo, "names", lambda *_: ["mae"])
    (tmp_path / "zoo").mkdir()

    def write(stem, **found):
        (tmp_path / "zoo" / f"shapes-{stem}.json").write_text(json.dumps(found))

    write("mae", trained={"knn": 1}, untrained={"knn": 2}, log=[{"step": 20}, {"step": 30}])
    write("mae-finetuned", trained={"finetuned": 3}, untrained={"finetuned": 4})
    write("mae-attentive", trained={"attentive": 5, "recipe": 6}, untrained={"attentive": 7})
    write("hybrid-0.4", trained={"knn": 5}, untrained={"knn": 6})
    assert table_module.written("shapes", "mae", folder=tmp_path) == {"knn": 1, "attentive": 5, "finetuned": 3}
    assert table_module.written("shapes", "untrained", folder=tmp_path) == {"knn": 2, "attentive": 7, "finetuned": 4}
    assert table_module.written("shapes", "hybrid-0.4", "untrained", tmp_path) == {"knn": 6}
    assert table_module.trained_steps("shapes", "mae", tmp_path) == 30
    with pytest.raises(table_module.CourseError, match=r"has nothing of 'dino' in world 'shapes'; there are hybrid-0\.4, mae"):
        table_module.written("shapes", "dino", folder=tmp_path)


def test_what_further_commands_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module.zoo, "names", lambda *_: ["mae", "dino", "simmim"])
    (tmp_path / "zoo").mkdir()
    with pytest.raises(table_module.CourseError, match=r"no noise of any network in world 'shapes'.*lib\.training\.zoo"):
        table_module.measured("shapes", "noise", folder=tmp_path)
    for name, value in (("simmim", 1), ("hybrid-0.4", 2), ("mae", 3), ("mae-seed1", 4), ("dino-seed1", 5)):
        (tmp_path / "zoo" / f"shapes-{name}-noise.json").write_text(json.dumps({"trained": {"clean": value},
                                                                                "untrained": {"clean": -value}}))
    found = table_module.measured("shapes", "noise", folder=tmp_path)
    assert list(found.items()) == [("mae", {"clean": 3}), ("simmim", {"clean": 1})]
    assert table_module.measured("shapes", "noise", "untrained", tmp_path)["simmim"] == {"clean": -1}
    monkeypatch.setattr(table_module.zoo, "trainings", lambda name, world: [name, f"{name}-seed1", f"{name}-seed2"])
    again = table_module.measured("shapes", "noise", folder=tmp_path, again=True)
    assert list(again) == ["mae", "mae-seed1", "dino-seed1", "simmim"]
    with pytest.raises(table_module.CourseError, match=r"under the name 'loudness'; there are finetuned, depths"):
        table_module.measured("shapes", "loudness", folder=tmp_path)
    with pytest.raises(table_module.CourseError, match="nothing of 'dino' in world 'shapes'; there are none"):
        table_module.written("shapes", "dino", folder=tmp_path)    # a noise file is no network of that name


@pytest.mark.skipif(not (table_module.zoo.FOLDER / "manifest.json").exists(),
                    reason="no checkpoints ship yet: see lib.training.zoo")
def test_shapes_are_rebuilt_from_the_shipped_checkpoints():
    assert table_module.rebuild("shapes").endswith("agrees with data/results")
