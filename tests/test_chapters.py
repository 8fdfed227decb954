"""The chapters: notebook and source agree, everything was run, and the rules of the house hold.

A rule takes a notebook and returns complaints. Every rule runs over every chapter, and below that over a small notebook
that breaks it. What a cell prints is compared elsewhere, by `pytest --nbval`.
"""
import ast
import contextlib
import importlib.util
import io
import re
import statistics
import subprocess
import symtable
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode, v4
from nbval.plugin import get_sanitize_patterns

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "chapters/source").glob("[0-9]*.py"))
SANITIZE = ROOT / "tests/nbval_sanitize.cfg"

_spec = importlib.util.spec_from_file_location("chapter_builder", ROOT / "chapters/build.py")
builder = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(builder)


# ---------------------------------------------------------------------------------------------- what a notebook holds

def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def python(cell: NotebookNode) -> str:
    """A cell's code with magics such as `%time` turned into Python."""
    return TransformerManager().transform_cell(cell.source)


def outputs(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Every output, with the index of its cell."""
    return [(i, output) for i, cell in enumerate(notebook.cells) for output in cell.get("outputs", [])]


def printed(output: NotebookNode) -> str:
    """What a reader sees of an output as text."""
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")])


# --------------------------------------------------------------------------------------------------------- the rules

def source_disagrees(notebook: NotebookNode, source: NotebookNode) -> list[str]:
    ours, theirs = ([(cell.cell_type, cell.source, tags(cell)) for cell in nb.cells] for nb in (notebook, source))
    complaints = [f"cell {i} differs from the source" for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    if len(ours) != len(theirs):
        complaints.append(f"{len(ours)} cells, the source has {len(theirs)}")
    if notebook.metadata.get("course") != source.metadata.course:
        complaints.append("not built from this source")
    return complaints


def not_run(notebook: NotebookNode) -> list[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}, not 1 to {len(counts)}"]


def errors(notebook: NotebookNode) -> list[str]:
    return [f"cell {i}: {output.ename}" for i, output in outputs(notebook)
            if output.output_type == "error" and "raises-exception" not in tags(notebook.cells[i])]


def long_cells(notebook: NotebookNode) -> list[str]:
    lengths = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    complaints = [f"a code cell has {n} lines, more than 30" for n in lengths if n > 30]
    if lengths and statistics.median(lengths) > 8:
        complaints.append(f"the median code cell has {statistics.median(lengths)} lines, more than 8")
    return complaints


def hidden_globals(notebook: NotebookNode) -> list[str]:
    """A function of a notebook may use its arguments, and what was imported or defined; never a variable of a cell."""
    top = symtable.symtable("\n".join(map(python, code_cells(notebook))), "notebook", "exec")
    variables = {s.get_name() for s in top.get_symbols()
                 if s.is_assigned() and not s.is_imported() and not s.is_namespace()}
    complaints = set()

    def visit(table: symtable.SymbolTable, function: str | None) -> None:
        name = table.get_name().strip("<>")
        if table.get_type() == "function" and name not in ("listcomp", "setcomp", "dictcomp", "genexpr"):
            function = name
        if function:
            read = {s.get_name() for s in table.get_symbols() if s.is_global()}
            complaints.update(f"{function} uses the variable {variable}" for variable in read & variables)
        for child in table.get_children():
            visit(child, function)

    for child in top.get_children():
        visit(child, None)
    return sorted(complaints)


def missing_alt_text(notebook: NotebookNode) -> list[str]:
    return [f"cell {i}: a picture without alt text" for i, output in outputs(notebook)
            if "image/png" in output.get("data", {})
            and len(output.metadata.get("image/png", {}).get("alt", "").strip()) < 20]


def long_numbers(notebook: NotebookNode) -> list[str]:
    return [f"cell {i}: {number} has more than 4 decimals" for i, output in outputs(notebook)
            for number in re.findall(r"\d+\.\d{5,}", printed(output))]


def leaks(notebook: NotebookNode) -> list[str]:
    """Warnings, and paths of the machine that built the notebook, are no part of a chapter."""
    found = [f"cell {i}: wrote to stderr" for i, output in outputs(notebook) if output.get("name") == "stderr"]
    return found + [f"cell {i}: names the folder {match.group()}" for i, output in outputs(notebook)
                    for match in re.finditer(rf"{re.escape(str(ROOT))}|/(tmp|home|Users)/\w+", printed(output))]


# ----------------------------------------------------------------------------------------------------- the exercises

SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```.*?</details>", re.DOTALL)


def exercises(notebook: NotebookNode) -> list[tuple[str, str]]:
    """(solution, the code that follows it up to the next solution) of each exercise."""
    found: list[list[str]] = []
    for cell in notebook.cells:
        if match := SOLUTION.search(cell.source) if cell.cell_type == "markdown" else None:
            found.append([match[1], ""])
        elif cell.cell_type == "code" and found:
            found[-1][1] += python(cell) + "\n"
    return [(solution, code) for solution, code in found]


def functions(code: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}


def check_calls(code: str, name: str) -> list[str]:
    """Calls of the form check_...(name) or module.check_...(name)."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1].startswith("check_")
            and [ast.unparse(argument) for argument in node.args] == [name]]


def outcome(call: str, name: str, definition: str, imports: str) -> tuple[bool, str]:
    """Define `name`, make the call with the chapter's imports: (no exception and not False, what it said)."""
    own, scope, text = {}, {}, io.StringIO()
    try:
        exec(definition, own)
        exec(imports, scope)
        with contextlib.redirect_stdout(text):
            value = eval(call, scope | {name: own[name]})
        return value is not False, f"{text.getvalue()}{value}"
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"


def failed_exercises(notebook: NotebookNode) -> list[str]:
    """Each solution passes its check, the stub gets another answer, and both have the same name and arguments."""
    found = exercises(notebook)
    headings = sum(len(re.findall(r"^#+ Exercise \d", cell.source, re.MULTILINE))
                   for cell in notebook.cells if cell.cell_type == "markdown")
    complaints = [] if headings == len(found) else [f"{headings} exercises, {len(found)} folded solutions"]
    imports = "\n".join(ast.unparse(node) for cell in code_cells(notebook) for node in ast.parse(python(cell)).body
                        if isinstance(node, ast.Import | ast.ImportFrom))
    for number, (solution, code) in enumerate(found, 1):
        stub = next((f for f in functions(code).values() if "raise NotImplementedError" in ast.unparse(f)), None)
        calls = check_calls(code, stub.name) if stub else []
        answer = functions(solution).get(stub.name) if stub else None
        if not calls:
            complaints.append(f"exercise {number}: no stub that raises NotImplementedError with a check_...(stub)")
        elif answer is None or ast.unparse(answer.args) != ast.unparse(stub.args):
            complaints.append(f"exercise {number}: the solution does not define {stub.name}({ast.unparse(stub.args)})")
        else:
            for call in calls:
                passed, said = outcome(call, stub.name, solution, imports)
                if not passed:
                    complaints.append(f"exercise {number}: the solution fails {call}: {said}")
                if said == outcome(call, stub.name, f"{imports}\n{ast.unparse(stub)}", imports)[1]:
                    complaints.append(f"exercise {number}: {call} says the same of the stub as of the solution")
    return complaints


# ------------------------------------------------------------------------------------------ the rules on every chapter

RULES = [not_run, errors, long_cells, hidden_globals, missing_alt_text, long_numbers, leaks, failed_exercises]
needs_chapters = pytest.mark.skipif(not SOURCES, reason="chapters/source holds no chapter yet")
each_chapter = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def saved(source: Path) -> NotebookNode:
    path = ROOT / "chapters" / f"{source.stem}.ipynb"
    assert path.exists(), f"{path.name} does not exist: run `make chapters`"
    return nbformat.read(path, as_version=4)


@needs_chapters
@each_chapter
def test_notebook_and_source_agree(source):
    assert source_disagrees(saved(source), builder.read_source(source)) == [], "run `make chapters`"


@needs_chapters
@each_chapter
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_chapter_keeps(rule, source):
    assert rule(saved(source)) == []


@needs_chapters
def test_every_notebook_has_a_source():
    assert {path.stem for path in (ROOT / "chapters").glob("*.ipynb")} == {source.stem for source in SOURCES}


# ------------------------------------------------------------------------------------------- each rule fires when it should

def code(source: str, outputs: tuple = (), count: int | None = 1, tags: tuple = ()) -> NotebookNode:
    return v4.new_code_cell(source, outputs=list(outputs), execution_count=count, metadata={"tags": list(tags)})


def notebook(*cells: NotebookNode | str) -> NotebookNode:
    return v4.new_notebook(cells=[cell if isinstance(cell, dict) else code(cell, count=i)
                                  for i, cell in enumerate(cells, 1)])


def picture(alt: str) -> NotebookNode:
    return v4.new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": alt}})


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return v4.new_output("stream", text=text, name=name)


GOOD = notebook("import math\n\ndef area(r):\n    return math.pi * r**2", "%time x = 3\n[area(r) for r in range(x)]",
                code("area(1)", [v4.new_output("execute_result", {"text/plain": "3.1416"}), picture("A circle, " * 3)], 3))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_is_content_with_a_good_notebook(rule):
    assert rule(GOOD) == []


@pytest.mark.parametrize("rule, bad, complaint", [
    (not_run, notebook("1", code("2", count=None)), "[1, None]"),
    (not_run, notebook("1", code("2", count=3)), "[1, 3]"),
    (errors, notebook(code("1/0", [v4.new_output("error", ename="ZeroDivisionError")])), "ZeroDivisionError"),
    (long_cells, notebook("\n".join("x" * 31), "1", "2"), "31 lines"),
    (long_cells, notebook("\n".join("x" * 9), "\n".join("x" * 9), "1"), "median"),
    (hidden_globals, notebook("x = 1", "def f():\n    return x"), "f uses the variable x"),
    (hidden_globals, notebook("def f():\n    return x", "for x in range(3): pass"), "f uses the variable x"),
    (hidden_globals, notebook("x = [1]; y = sorted(x, key=lambda i: x[i])"), "lambda uses the variable x"),
    (hidden_globals, notebook("x = 1", "def f(n):\n    return [x for _ in range(n)]"), "f uses the variable x"),
    (hidden_globals, notebook("x = 1", "def f():\n    global x\n    x = 2"), "f uses the variable x"),
    (hidden_globals, notebook("x = 1", "class A:\n    def f(self):\n        return x"), "f uses the variable x"),
    (missing_alt_text, notebook(code("1", [picture("A figure")])), "without alt text"),
    (missing_alt_text, notebook(code("1", [v4.new_output("display_data", {"image/png": "AAAA"})])), "without alt text"),
    (long_numbers, notebook(code("1", [stream("loss 0.12345")])), "0.12345"),
    (long_numbers, notebook(code("1", [v4.new_output("execute_result", {"text/plain": "[1.5, 2.00001]"})])), "2.00001"),
    (leaks, notebook(code("1", [stream("UserWarning", "stderr")])), "stderr"),
    (leaks, notebook(code("1", [stream("saved in /home/someone/runs")])), "/home/someone"),
])
def test_rule_fires(rule, bad, complaint):
    complaints = rule(bad)
    assert len(complaints) == 1 and complaint in complaints[0]


def test_an_announced_error_is_allowed():
    cell = code("1/0", [v4.new_output("error", ename="ZeroDivisionError")], tags=["raises-exception"])
    assert errors(notebook(cell)) == []


def test_functions_may_use_what_they_define_themselves():
    cells = "x = 1", "class A: pass", "def f(x):\n    y = x\n    return A(), (lambda: y)()", "[x for _ in range(x)]"
    assert hidden_globals(notebook(*cells)) == []


CHECK = "from types import SimpleNamespace\n" + textwrap.dedent("""
    def check_double(double):
        try:
            print("right" if double(2) == 4 else "wrong: is it twice?")
            return double(2) == 4
        except NotImplementedError:
            print("not written yet")
""")
PROSE = "### Exercise 1 · ★☆☆ · 2 minutes\nDouble it.\n<details><summary>Solution</summary>\n\n```python\n{}\n```\n</details>"
RIGHT = "def double(x):\n    return 2 * x"


@pytest.fixture
def exercise(tmp_path, monkeypatch):
    """A notebook with one exercise, made from its solution, its stub and its check."""
    (tmp_path / "small_checks.py").write_text(CHECK + "\ndef check_nothing(double):\n    print('well done')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def make(solution=RIGHT, stub="def double(x):\n    raise NotImplementedError", check="small_checks.check_double(double)"):
        return notebook("import small_checks", v4.new_markdown_cell(PROSE.format(solution)), stub, check)

    yield make
    sys.modules.pop("small_checks", None)


def test_a_right_solution_passes(exercise):
    assert failed_exercises(exercise()) == []


@pytest.mark.parametrize("change, complaint", [
    ({"solution": "def double(x):\n    return 3 * x"}, "solution fails small_checks.check_double(double): wrong: is it twice?"),
    ({"solution": "def double(x):\n    return torch.add(x, x)"}, "NameError"),
    ({"solution": "def double(y):\n    return 2 * y"}, "does not define double(x)"),
    ({"solution": "def twice(x):\n    return 2 * x"}, "does not define double(x)"),
    ({"stub": RIGHT}, "no stub"),
    ({"check": "double(2)"}, "no stub that raises NotImplementedError with a check"),
    ({"check": "small_checks.check_nothing(double)"}, "says the same of the stub"),
])
def test_a_bad_exercise_is_found(exercise, change, complaint):
    complaints = failed_exercises(exercise(**change))
    assert len(complaints) == 1 and complaint in complaints[0]


def test_an_exercise_without_solution_is_found():
    assert failed_exercises(notebook(v4.new_markdown_cell("### Exercise 1 · ★☆☆\nTry."))) == ["1 exercises, 0 folded solutions"]


# ------------------------------------------------------------------------------------------------------- the builder

SOURCE = """# %% [markdown]
# # A small chapter

# %% tags=["slow"]
import os
import matplotlib.pyplot as plt
from lib.viz import plots
print("threads", os.environ["OMP_NUM_THREADS"], end=" ", flush=True)
print("in", os.path.basename(os.getcwd()))

# %%
figure, axes = plt.subplots()
axes.plot([1, 2, 3]), axes.set_xlabel("epoch"), axes.set_ylabel("loss")
plots.show(figure, "A line that rises from 1 to 3 in three epochs")
"""


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """A folder with one chapter in it, for the builder."""
    folder = tmp_path / "chapters"
    (folder / "source").mkdir(parents=True)
    (folder / "source/01_small.py").write_text(SOURCE)
    monkeypatch.setattr(builder, "CHAPTERS", folder)
    return folder


def test_build_twice_gives_the_same_bytes_and_a_notebook_that_keeps_the_rules(chapters, capsys):
    path = chapters / "01_small.ipynb"
    assert builder.main(["--check"]) == 1 and not path.exists()
    assert builder.main([]) == 0
    first = path.read_bytes()
    built = nbformat.read(path, as_version=4)
    nbformat.validate(built)
    assert [rule(built) for rule in RULES] == [[]] * len(RULES)
    assert source_disagrees(built, builder.read_source(chapters / "source/01_small.py")) == []
    assert built.cells[1].outputs[0].text == "threads 1 in chapters\n" and tags(built.cells[1]) == ["slow"]
    assert built.cells[2].outputs[0].data["text/plain"] == "A line that rises from 1 to 3 in three epochs"
    assert builder.main(["--check"]) == 0
    assert builder.main(["01", "--force"]) == 0
    assert path.read_bytes() == first
    assert sorted(file.name for file in chapters.iterdir()) == ["01_small.ipynb", "source"]
    assert "01_small" in capsys.readouterr().out


def test_an_edited_source_or_notebook_is_seen(chapters):
    source, path = chapters / "source/01_small.py", chapters / "01_small.ipynb"
    nbformat.write(builder.read_source(source), path)
    assert builder.is_current(source, path)
    source.write_text(SOURCE + "\n# a remark\n")
    assert not builder.is_current(source, path)
    assert "not built from this source" in source_disagrees(nbformat.read(path, 4), builder.read_source(source))
    source.write_text(SOURCE)
    edited = builder.read_source(source)
    edited.cells[0].source = "# Another chapter"
    nbformat.write(edited, path)
    assert not builder.is_current(source, path)
    assert source_disagrees(edited, builder.read_source(source)) == ["cell 0 differs from the source"]
    edited.cells.pop()
    assert "2 cells, the source has 3" in source_disagrees(edited, builder.read_source(source))


def test_a_failing_cell_is_named_and_leaves_the_old_notebook(chapters, capsys):
    (chapters / "source/01_small.py").write_text("# %%\nprint(1)\n\n# %%\n1 / 0\n")
    (chapters / "01_small.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    assert builder.main([]) == 1
    out = capsys.readouterr().out
    assert "01_small stopped at cell 1" in out and "ZeroDivisionError" in out
    assert (chapters / "01_small.ipynb").read_text().startswith('{"cells": []')
    assert sorted(file.name for file in chapters.iterdir()) == ["01_small.ipynb", "source"]


def test_an_unknown_chapter_is_refused(chapters, capsys):
    with pytest.raises(SystemExit) as stop:
        builder.main(["07"])
    assert stop.value.code == 2 and "no chapter '07'; there are: 01_small" in capsys.readouterr().err


# --------------------------------------------------------------------- what `pytest --nbval` compares, and what it overlooks

def sanitized(text: str) -> str:
    for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8")):
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize("one, other", [
    ("loss ≈ 0.873", "loss ≈ 1.2"), ("≈ 87 % of them", "≈ 9 % of them"), ("d ≈ -1.2\n", "d ≈ 0.3\n"),
    ("≈   9.50  k", "≈ 10.25 k"), ("['≈ 1', '≈ 2.5']", "['≈ 1.25', '≈ 3']"), ("≈ 0.87 ± 0.02", "≈ 0.9 ± 0.011"),
    ("≈ 1.2e-05", "≈ 3e-4"), ("  ≈ 900 img/s", "≈ 1,200 img/s"),
])
def test_trained_numbers_are_overlooked(one, other):
    assert sanitized(one) == sanitized(other) and "≈ N" in sanitized(one)


@pytest.mark.parametrize("one, other", [
    ("loss 0.873", "loss 0.874"), ("≈ 0.5", "≈ nan"), ("≈ 0.5", "0.5"), ("≈ 87 %", "≈ 87 px"), ("≈ 1 of 10", "≈ 1 of 11"),
    ("loss ≈ 0.8", "error ≈ 0.8"), ("≈ 0.8", ""),
])
def test_everything_else_is_compared(one, other):
    assert sanitized(one) != sanitized(other)


def test_nbval_uses_the_convention(tmp_path):
    for name, text in {"trained": "accuracy ≈ 0.8731 of 10", "exact": "accuracy 0.8731 of 10"}.items():
        cell = code(f"print({text.replace('0.8731', '0.91')!r})", [stream(text + "\n")])
        nbformat.write(notebook(cell), tmp_path / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-sanitize-with", str(SANITIZE), "-rA", "--rootdir",
               str(tmp_path), "-c", "/dev/null", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "1 failed, 1 passed" in result.stdout, result.stdout
    assert re.search(r"^FAILED \S*exact\.ipynb", result.stdout, re.MULTILINE), result.stdout
