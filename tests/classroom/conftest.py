"""Releases, made once for all tests of a file; and the way to the programs that are tested."""
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "chapters/assignments"))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(number) -> the instructor's notebook, what students get, and where both lie; made once."""
    pytest.importorskip("nbgrader", reason='nbgrader is not installed: .venv/bin/python -m pip install -e ".[classroom]"')
    import release
    course, known = tmp_path_factory.mktemp("course"), {}

    def make(number: str) -> SimpleNamespace:
        if number not in known:
            folder = release.release(number, course)
            known[number] = SimpleNamespace(
                number=number, course=course, folder=folder, source=release.instructor(number),
                student=nbformat.read(folder / f"{number}.ipynb", as_version=4))
        return known[number]

    return make
