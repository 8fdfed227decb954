"""The README's numbers come from data/results."""
import json

from lib.evaluation.table import END, ROOT, START, put, table


def test_readme_holds_the_table_of_the_measured_results():
    text = (ROOT / "README.md").read_text()
    assert put(text, table()) == text, "run: python -m lib.evaluation.table"


def test_table_reads_what_the_files_say(tmp_path):
    m = {"value": 0.5, "interval": [0.48, 0.525]}
    result = {"recipe": {"objective": "simmim", "epochs": 3, "batch_size": 10}, "log": [{"step": 7}, {"step": 9}],
              "training": {"minutes": 31.4},
              "trained": {"knn": m, "linear": m | {"value": 0.6}}, "untrained": {"knn": m, "linear": m}}
    (tmp_path / "imagenette-simmim.json").write_text(json.dumps(result))
    line = table(tmp_path).splitlines()[-1]
    assert line == ("| SimMIM, 3 epochs | 90 | 31 | 50.0 % (48.0–52.5) | 50.0 % (48.0–52.5) | 60.0 % (48.0–52.5) "
                    "| 50.0 % (48.0–52.5) |")


def test_an_old_table_is_replaced_and_nothing_else():
    readme = f"before\n{START}\nold\n\n{END}\nafter\n"
    assert put(readme, "| new |\n") == f"before\n{START}\n| new |\n\n{END}\nafter\n"
