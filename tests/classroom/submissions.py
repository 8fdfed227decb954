"""Assignments as the tests see them: their cells, and submissions made of them."""
import copy
from pathlib import Path
from types import SimpleNamespace

import grade
import limits
import nbformat
import release

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"seconds": 6.0, "memory": 3 * 2**30, "patience": 1}                      # a cell, a kernel, runaway cells


def kind_of(cell) -> str:
    """answer, test, open, given or text."""
    meta = cell.metadata.get("nbgrader", {})
    if cell.cell_type == "markdown":
        return "open" if meta.get("grade") else "text"
    return "answer" if meta.get("solution") else "test" if meta.get("grade") else "given"


def named(notebook, kind: str) -> dict[str, nbformat.NotebookNode]:
    return {cell.metadata["nbgrader"]["grade_id"]: cell for cell in notebook.cells if kind_of(cell) == kind}


def solved(one: SimpleNamespace, tasks: list[str]) -> nbformat.NotebookNode:
    """A student's notebook with right answers to these tasks."""
    notebook, answers = copy.deepcopy(one.student), named(one.source, "answer") | named(one.source, "open")
    for name, cell in (named(notebook, "answer") | named(notebook, "open")).items():
        if name in tasks:
            cell.source = answers[name].source
    return notebook


def tampered(one):
    """No answers; tests emptied, one deleted, one worth more, and the check replaced by one that is content."""
    notebook = copy.deepcopy(one.student)
    tests = list(named(notebook, "test").values())
    for cell in tests:
        cell.source = "pass"
    tests[0].metadata["nbgrader"]["points"] = 100
    notebook.cells.remove(tests[1])
    for cell in named(notebook, "answer").values():
        cell.source += "\n\ndef check(*inputs, **words):\n    pass\n\nimport checks\nchecks.check = checks.same = check"
    return notebook


NOISY = """
as_it_was = {name}


def {name}(*inputs):
    mine.warn("mind this")
    return as_it_was(*inputs)
"""


def messy(notebook):
    """Right answers, after an evening with the mouse: cells copied, merged, deleted, edited, nameless; exit(), warnings."""
    notebook = copy.deepcopy(notebook)
    answers, tests = named(notebook, "answer"), list(named(notebook, "test").items())
    (first, one), (_, two), (third, three), (_, four) = list(answers.items())[:4]
    next(iter(named(notebook, "given").values())).source += "\nimport warnings as mine"
    again = copy.deepcopy(one)
    again.id = "again"
    notebook.cells.insert(notebook.cells.index(one) + 1, again)                                  # copied
    notebook.cells.remove([test for name, test in tests if grade.task_of(name) == first][-1])    # a test deleted
    two.metadata = {}                                                                            # its name lost
    three.source = "%pip install nothing-at-all\n" + three.source + NOISY.format(name=third) + "\nexit()"
    three.source += "\n\n" + four.source                                                         # two answers in one cell
    notebook.cells.remove(four)
    scratch = nbformat.v4.new_code_cell("a = b = x = tokens = images = count = steps = 7\nsum = max = None\ndel sum, max")
    notebook.cells.insert(notebook.cells.index(tests[1][1]), scratch)
    notebook.cells.append(nbformat.v4.new_markdown_cell("My answer stands in a cell of its own"))
    notebook.metadata = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    return notebook


def odd(notebook):
    """Right answers among cells that change names and folders, install things, use what visible tests made; words as code."""
    notebook = copy.deepcopy(notebook)
    answers = list(named(notebook, "answer").values())
    visible = [cell.source for cell in named(notebook, "test").values() if "HIDDEN" not in cell.source]
    names = ", ".join(sorted(next(found for source in visible if (found := limits.made_by(source)))))
    before = nbformat.v4.new_code_cell("import os\nos.chdir('..')\nfrom torch import *\nglobals = exec = 7")
    notebook.cells.insert(notebook.cells.index(answers[0]), before)
    answers[0].source = "!pip install -q \\\n    nothing-at-all\n!python -m pip install nothing\n" + answers[0].source
    answers[-1].source = f"print({names})\n" + answers[-1].source
    question, = named(notebook, "open").values()
    question.source = "see ![](attachment:image.png) ![so](attachment:gone.png)"
    question.attachments = {"image.png": {"image/png": "iVBORw0KGgo="}}
    notebook.cells.append(nbformat.v4.new_code_cell("# (a) 784\N{PARTY POPPER}"))
    return notebook


def with_answers(one, *bodies: str):
    """All right, but for the first tasks, whose functions do this."""
    notebook = solved(one, list(named(one.source, "answer")))
    for cell, body in zip(named(notebook, "answer").values(), bodies):
        head = cell.source.split("    ### BEGIN SOLUTION")[0]
        cell.source = head + "".join(f"    {line}\n" for line in body.splitlines())
    return notebook


ENDLESS = "while True:\n    try:\n        pass\n    except BaseException:\n        pass"          # it catches the interrupt too
HUNGRY = "kept = []\nwhile True:\n    kept.append(torch.empty(2**26))"                          # 256 MiB each
DEADLY = "import os\nos._exit(1)"


def worth(one, tasks: list[str]) -> float:
    return sum(points for name, points in release.points(one.source).items() if grade.task_of(name) in tasks)


def hand_in(folder, student: str, number: str, notebook) -> None:
    (folder / student).mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / student / f"{number}.ipynb")
