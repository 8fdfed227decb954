"""Assignments: source/NN/NN.py -> instructor/NN/ (with solutions) -> release/NN/ (what students get).

    python chapters/assignments/release.py           all of them
    python chapters/assignments/release.py 01 03     these two

A source is py:percent, read as the chapters are. Its cells say in a short form what they are for:

    # %% nbgrader={"answer": "attend"}                       students write here, between BEGIN and END SOLUTION
    # %% nbgrader={"test": "attend-1", "points": 1}          a test of the task `attend`, worth a point
    # %% [markdown] nbgrader={"open": "why", "points": 3}    a question that is marked by hand: model answer and rubric

The usual mistakes are in mistakes/NN.py, a function each, named task__mistake, whose docstring is what the check says.
They are run here once, on the inputs of the visible checks, and students get the numbers that came (checks.json).
"""
import argparse
import io
import json
import logging
import os
import re
import shutil
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import FunctionType, SimpleNamespace

import nbformat
from traitlets.config import Config, PyFileConfigLoader

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import checks  # noqa: E402
from build import read_source  # noqa: E402

from lib.errors import CourseError  # noqa: E402

UNSEEN = "Unseen:"                                             # begins the docstring of a mistake that hidden tests alone see
KINDS = {"answer": dict(solution=True, grade=False, locked=False), "test": dict(solution=False, grade=True, locked=True),
         "open": dict(solution=True, grade=True, locked=False)}


def numbers() -> list[str]:
    """["01", "02", ...]: the assignments that have a source."""
    return sorted(path.parent.name for path in (HERE / "source").glob("*/*.py") if path.stem == path.parent.name)


def instructor(number: str) -> nbformat.NotebookNode:
    """The notebook with solutions and hidden tests, with nbgrader's metadata spelt out."""
    notebook = read_source(HERE / f"source/{number}/{number}.py")
    for index, cell in enumerate(notebook.cells):
        short = dict(cell.metadata.get("nbgrader", {}))
        kind = next((kind for kind in KINDS if kind in short), None)
        if kind is None and cell.cell_type == "code":
            short, kind = {"test": f"setup{index:02d}"}, "test"
        if kind is None:
            continue
        full = {"schema_version": 3, "task": False, "grade_id": short[kind], **KINDS[kind]}
        if kind == "test" and "points" not in short:
            full["grade"] = False                              # code that is given: it is put back if a student changes it
        cell.metadata["nbgrader"] = full | ({"points": short["points"]} if full["grade"] else {})
    return notebook


def mistakes(number: str, namespace: dict) -> dict[str, list[tuple[str, str, FunctionType]]]:
    """{task: [(name, what to say, the wrong function)]}, in the world that the notebook leaves behind."""
    path = HERE / f"mistakes/{number}.py"
    world = dict(namespace)
    before = set(world)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), world)
    found: dict[str, list] = {}
    for name in world.keys() - before:
        if "__" in name.strip("_") and isinstance(world[name], FunctionType):
            found.setdefault(name.split("__")[0], []).append((name, " ".join((world[name].__doc__ or "").split()), world[name]))
    order = {name: line for line, name in enumerate(world)}
    return {task: sorted(some, key=lambda one: order[one[0]]) for task, some in found.items()}


def play(notebook: nbformat.NotebookNode, check, folder: Path) -> dict:
    """Run the code cells here, without a kernel, with `check` for checks.check; -> the names they leave."""
    os.environ.setdefault("MPLBACKEND", "agg")
    sys.modules["checks"] = SimpleNamespace(check=check, same=checks.same)
    namespace: dict = {"__name__": "__main__"}
    try:
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{folder.name}, cell {index}", "exec"), namespace)
    finally:
        sys.modules["checks"] = checks
    return namespace


def known_numbers(number: str, notebook: nbformat.NotebookNode) -> dict:
    """What checks.json holds: {check: {"right", "mistakes": [(what to say, numbers)]}}. Raises CourseError if one is unseen."""
    calls = []

    def record(function, *inputs, case=""):
        calls.append((function, inputs, case))

    with redirect_stdout(io.StringIO()):
        wrong = mistakes(number, play(notebook, record, HERE / f"source/{number}"))
    entries, seen = {}, set()
    for function, inputs, case in calls:
        right = checks.packed(function, *checks.copy.deepcopy(inputs))
        entry = entries[checks.key(function.__name__, case)] = {"right": right, "mistakes": []}
        for _, text, other in wrong.get(function.__name__, []):
            if text.startswith(UNSEEN):
                continue
            came = checks.packed(other, *checks.copy.deepcopy(inputs))
            if checks.difference(came, right) is None:
                continue                                       # not to be seen in this case
            entry["mistakes"].append((text, came))
        for text, came in entry["mistakes"]:
            if not any(said != text and checks.difference(came, other) is None for said, other in entry["mistakes"]):
                seen.add(text)
    missed = [name for some in wrong.values() for name, text, _ in some if text not in seen and not text.startswith(UNSEEN)]
    if missed:
        raise CourseError(f"assignment {number}: no visible check tells {', '.join(missed)} from the right answer, or from "
                          "another mistake. Change the inputs of a check, or begin its docstring with 'Unseen:'")
    return entries


def settings(course: Path, extra: dict | None = None) -> Config:
    """nbgrader's settings for a course folder: where everything that is made and handed in lies."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(HERE)).load_config()
    config.CourseDirectory.root = str(course)
    for name, values in (extra or {}).items():
        config[name].update(values)
    return config


def course_api(course: Path, extra: dict | None = None):
    """nbgrader's own programming interface, without its log."""
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError:
        raise CourseError('nbgrader is not installed: .venv/bin/python -m pip install -e ".[classroom]"') from None
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])   # it calls alembic
    warnings.filterwarnings("ignore", module="nbgrader")       # SQLAlchemy's, about itself
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    course.mkdir(parents=True, exist_ok=True)
    api = NbGraderAPI(config=settings(course, extra))
    api.log.setLevel(logging.ERROR)
    return api


def reason(result: dict) -> str:
    """The line of nbgrader's log that says what went wrong."""
    lines = [line.strip() for text in (result.get("error"), result.get("log")) for line in (text or "").splitlines()]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)), "no reason given")


def release(number: str, course: Path) -> Path:
    """Make instructor/NN and release/NN below `course`; -> the latter. Raises CourseError if the source is at fault."""
    notebook = instructor(number)
    folder = course / "instructor" / number
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (HERE / "source" / number).iterdir():          # pictures and the like
        if path.is_file() and path.suffix not in (".py", ".ipynb"):
            shutil.copy(path, folder)
    shutil.copy(HERE / "checks.py", folder)
    text = json.dumps(known_numbers(number, notebook), ensure_ascii=False, indent=0)
    (folder / "checks.json").write_text(text + "\n", encoding="utf-8")
    nbformat.write(notebook, folder / f"{number}.ipynb")
    result = course_api(course).generate_assignment(number, force=True)
    if not result["success"]:
        raise CourseError(f"assignment {number}: nbgrader made no release: {reason(result)}. (Where there are submissions "
                          "already, cells can be neither added nor removed: use another --course folder)")
    return course / "release" / number


def points(notebook: nbformat.NotebookNode) -> dict[str, float]:
    """{"attend-1": 1.0, "why": 3.0}: what each graded cell is worth."""
    graded = (cell.metadata.get("nbgrader", {}) for cell in notebook.cells)
    return {one["grade_id"]: float(one["points"]) for one in graded if one.get("grade")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make what students get from the sources of the assignments.")
    parser.add_argument("numbers", nargs="*", help="assignments, such as 02; all if none is named")
    parser.add_argument("--course", type=Path, default=HERE, help="where instructor/ and release/ are made (default: here)")
    options = parser.parse_args(arguments)
    try:
        for number in options.numbers:
            if number not in numbers():
                meant = f" (did you mean {number.zfill(2)}?)" if number.zfill(2) in numbers() else ""
                raise CourseError(f"no assignment {number!r}{meant}; there are: {', '.join(numbers())}")
        for number in options.numbers or numbers():
            start = time.perf_counter()
            folder = release(number, options.course.resolve())
            total = sum(points(instructor(number)).values())
            print(f"{folder}: {total:g} points, {time.perf_counter() - start:.1f} s")
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
