"""The frame around the course: its dependencies, the direction of its imports, and the commands of its Makefile."""
import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted((ROOT / "lib").rglob("*.py"))


# ------------------------------------------------------------------------------------------------------- dependencies

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
CONDA_ONLY = {"python": f">={PROJECT['requires-python'].removeprefix('>=')}", "pip": "", "setuptools": ">=77"}


def bounds(requirements: list[str]) -> dict[str, str]:
    """{"torch": "!=2.13.*,>=2.11"}: the bounds in sorted order, without spaces."""
    split = (re.match(r"([\w.-]+)\s*(.*)", line).groups() for line in requirements)
    return {name.lower(): ",".join(sorted(bound.replace(" ", "").split(","))) for name, bound in split}


def test_environment_is_in_step_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    extras = PROJECT["optional-dependencies"]
    wanted = bounds(PROJECT["dependencies"] + extras["test"] + extras["classroom"])
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]
    *conda, by_pip = environment["dependencies"]
    assert bounds(conda + by_pip["pip"]) == {CONDA_NAMES.get(name, name): b for name, b in wanted.items()} | CONDA_ONLY


def test_bounds_sees_a_difference():
    assert bounds(["torch >= 2.11, != 2.13.*"]) == bounds(["torch!=2.13.*,>=2.11"]) != bounds(["torch>=2.12,!=2.13.*"])


# ------------------------------------------------------------------------------------------------------------ imports

# A module imports from the rows before its own, and inside its own package. A program (__main__.py) may use everything.
ORDER = [["errors", "precision"], ["random", "distributed", "cli", "locks"], ["data"], ["models"], ["objectives"], ["training"],
         ["evaluation"], ["analysis"], ["viz"], ["exercises"]]
LEVEL = {name: level for level, row in enumerate(ORDER) for name in row}


def imported(code: str, package: str) -> set[str]:
    """Absolute names of everything that a module of `package` imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def against_the_direction(code: str, package: str, own: str) -> list[str]:
    parts = {name.split(".")[1] for name in imported(code, package) if name.startswith("lib.")}
    return sorted(part for part in parts if part != own and LEVEL[part] >= LEVEL[own])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] != "__main__" and parts != ("lib", "__init__"):
        assert against_the_direction(path.read_text(encoding="utf-8"), ".".join(parts[:-1]), parts[1]) == []


@pytest.mark.parametrize("code, found", [
    ("from lib.errors import CourseError\nfrom lib.data import views\nfrom .heads import Projector", []),
    ("import lib.training.trainer", ["training"]),
    ("from lib import objectives, data", ["objectives"]),
    ("def f():\n    from ..viz.plots import show", ["viz"]),
])
def test_a_wrong_direction_is_seen(code, found):
    assert against_the_direction(code, "lib.models", "models") == found


def test_lib_imports_only_what_the_project_declares():
    distributions = packages_distributions()
    code = [(path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parent.parts)) for path in MODULES]
    names = {name.split(".")[0] for text, package in code for name in imported(text, package)} - {"lib"}
    undeclared = {name for name in names - sys.stdlib_module_names
                  if not {d.lower() for d in distributions.get(name, [])} & (bounds(PROJECT["dependencies"]).keys())}
    assert undeclared == set()


# ----------------------------------------------------------------------------------------------------------- commands

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Stands for Python: `-m venv` copies it to .venv, and `-m pip` and everything else is written down in calls.txt.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
    *version_info*) exit ${TOO_OLD:-0} ;;
    *ensurepip*) exit ${NO_VENV:-0} ;;
    "-m pip --version") exit 0 ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
echo "$*" >> calls.txt
case "$*" in "-m pip install"*) exit ${PIP:-0} ;; esac
"""


@pytest.fixture
def make(tmp_path):
    """make(...) runs the Makefile in a folder with a space in its name, with the fake Python; gives (status, output, calls)."""
    folder = tmp_path / "a course"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "fake python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def run(*arguments: str, at: Path = folder, **environment: str) -> tuple[int, str, list[str]]:
        (at / "calls.txt").unlink(missing_ok=True)
        result = subprocess.run(["make", f"PYTHON={python}", *arguments], cwd=at, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]} | environment, timeout=60)
        calls = (at / "calls.txt").read_text().splitlines() if (at / "calls.txt").exists() else []
        return result.returncode, result.stdout, calls

    run.folder = folder
    return run


@needs_make
def test_setup_once_and_again_only_when_needed(make):
    status, output, calls = make("setup")
    assert status == 0 and "Installing the course" in output
    assert [call.split(" --")[0] for call in calls] == ["-m venv", "-m pip install"]
    assert calls[1].endswith("-e .[test,classroom]")
    assert make("setup") == (0, "The course is installed in .venv\n", [])

    os.utime(make.folder / ".venv/.installed", (0, 0))                   # now pyproject.toml is the newer one
    status, output, calls = make("setup")
    assert status == 0 and len(calls) == 1 and calls[0].startswith("-m pip install")
    assert make("setup")[2] == []


@needs_make
def test_an_interrupted_setup_is_redone(make):
    status, output, _ = make("test", PIP="1")
    assert status != 0 and "Running the tests" not in output
    status, _, calls = make("test")
    assert status == 0 and [call.split()[1] for call in calls] == ["pip", "pytest"]


@needs_make
def test_a_moved_folder_is_set_up_again(make):
    make("setup")
    moved = make.folder.rename(make.folder.with_name("moved"))
    assert [call.split()[1] for call in make("setup", at=moved)[2]] == ["pip"]
    assert make("setup", at=moved)[2] == []


@needs_make
@pytest.mark.parametrize("trouble, message", [({"TOO_OLD": "1"}, "needs Python 3.11 or newer"),
                                              ({"NO_VENV": "1"}, "apt install python3-venv")])
def test_a_python_that_will_not_do_gets_one_line(make, trouble, message):
    status, output, calls = make("setup", **trouble)
    lines = [line for line in output.splitlines() if not line.startswith("make:")]
    assert status != 0 and calls == [] and len(lines) == 1 and message in lines[0]


@needs_make
@pytest.mark.parametrize("arguments, call, says", [
    (["lab", "ARGS=--no-browser --port 8899"], "-m jupyterlab chapters --no-browser --port 8899", "Opening JupyterLab"),
    (["test", "ARGS=-k 'one or two'"], "-m pytest --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg -n 2 "
                                       "--dist loadfile --no-loadscope-reorder -k one or two", "Running the tests"),
    (["chapters"], "chapters/build.py", "Building the notebooks"),
    (["chapters", "FORCE=1", "ARGS=01"], "chapters/build.py --force 01", "Building the notebooks"),
    (["assignments", "ARGS=01"], "chapters/assignments/release.py 01", "Making what students get"),
    (["grade", "SUBMISSIONS=the handed in"], "chapters/assignments/grade.py the handed in", "Grading the handed in"),
    (["lint"], "-m ruff check .", "Checking the style"),
])
def test_each_command_says_and_does_one_thing(make, arguments, call, says):
    make("setup")
    status, output, calls = make(*arguments)
    assert status == 0 and calls == [call] and output.startswith(says) and output.count("\n") == 1


@needs_make
def test_grading_needs_a_folder(make):
    make("setup")
    status, output, calls = make("grade")
    assert status != 0 and calls == [] and output.startswith("Name the folder") and "SUBMISSIONS=folder" in output


@needs_make
def test_make_alone_lists_the_commands(make):
    status, output, calls = make()
    assert status == 0 and calls == [] and not (make.folder / ".venv").exists()
    assert re.findall(r"^make (\w+)", output, re.MULTILINE) == ["lab", "test", "chapters", "assignments", "grade", "lint",
                                                                "setup"]


def test_the_clean_machine_script_is_a_program():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", str(script)], check=True)
