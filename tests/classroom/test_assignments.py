"""Every assignment: solutions pass, releases give nothing away, and each usual mistake is found and named."""
import ast
import contextlib
import inspect
import io
import json
import re
import sys

import checks
import pytest
import release
from submissions import ROOT, kind_of, named, solved

NUMBERS = release.numbers()
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", re.DOTALL)
SOLUTION = re.compile(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", re.DOTALL)

each = pytest.mark.parametrize("number", NUMBERS)


def run(notebook, folder, monkeypatch) -> dict[str, Exception]:
    """Run the code cells here, with the checks of a release -> {cell: its error}."""
    monkeypatch.setattr(checks, "KNOWN", folder / "checks.json")
    monkeypatch.setitem(sys.modules, "checks", checks)
    errors, namespace = {}, {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()):
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            try:
                exec(cell.source, namespace)
            except Exception as error:
                errors[cell.metadata.get("nbgrader", {}).get("grade_id", f"cell {index}")] = error
    return errors


def task_of(test: str) -> str:
    return re.sub(r"-\d+$", "", test)


@each
def test_the_instructors_notebook_passes_whole(number, made, monkeypatch):
    one = made(number)
    assert run(one.source, one.folder, monkeypatch) == {}


@each
def test_a_release_stops_at_the_first_stub_and_at_stubs_only(number, made, monkeypatch):
    one = made(number)
    errors = run(one.student, one.folder, monkeypatch)
    tests = [name for name, cell in named(one.student, "test").items() if "check(" in cell.source]
    assert list(errors) == tests and {type(error) for error in errors.values()} == {NotImplementedError}


@each
def test_a_release_gives_nothing_away(number, made):
    one = made(number)
    source = "\n".join(cell.source for cell in one.source.cells)
    secrets = [line.strip() for text in SOLUTION.findall(source) + HIDDEN.findall(source) for line in text.splitlines()]
    secrets += [line.strip() for cell in named(one.source, "open").values() for line in cell.source.splitlines()]
    public = HIDDEN.sub("", SOLUTION.sub("", source))
    secrets = [line for line in secrets if len(line) > 12 and line not in public]
    assert len(secrets) > 20
    for path in one.folder.rglob("*"):
        text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        text += text.encode().decode("unicode_escape", errors="replace") if path.suffix in (".ipynb", ".json") else ""
        assert [line for line in secrets if line in text or json.dumps(line, ensure_ascii=False)[1:-1] in text] == []
        assert "BEGIN SOLUTION" not in text and "HIDDEN TESTS" not in text and "Rubric" not in text
    assert all(cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in one.student.cells)
    beside = {path.name for path in (ROOT / f"chapters/assignments/source/{number}").iterdir() if path.suffix == ".png"}
    assert {path.name for path in one.folder.iterdir()} == {"checks.json", "checks.py", f"{number}.ipynb"} | beside


def signatures(code: str) -> dict[str, tuple[str, str | None]]:
    functions = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef))
    return {f.name: (ast.unparse(f.args), ast.get_docstring(f)) for f in functions}


@each
def test_stubs_have_the_signature_and_docstring_of_the_solutions(number, made):
    one = made(number)
    stubs, solutions = named(one.student, "answer"), named(one.source, "answer")
    assert list(stubs) == list(solutions)
    for name, cell in stubs.items():
        (task, stub), = signatures(cell.source).items()
        assert task == name and stub == signatures(solutions[name].source)[name] and stub[1]
        assert cell.source.rstrip().endswith("raise NotImplementedError")


@each
def test_tasks_points_and_questions_are_as_promised(number, made):
    """3 to 6 tasks; what the table and the headings say is what the cells are worth; one open question."""
    one = made(number)
    table = {int(row[0]): (float(row[2]), int(row[3])) for row in re.findall(
        r"^\| (\d) \| (.*?) \| (\d+) \| (\d+) \|$", one.source.cells[0].source, re.MULTILINE)}
    heads = [(int(n), float(p)) for cell in one.source.cells if kind_of(cell) == "text"
             for n, p in re.findall(r"^## (\d)\. .* · (\d+) points?$", cell.source, re.MULTILINE)]
    worth: dict[str, float] = {}
    for name, points in release.points(one.source).items():
        worth[task_of(name)] = worth.get(task_of(name), 0) + points
    assert 3 <= len(table) <= 6 and len(named(one.source, "open")) == 1
    assert heads == [(n, p) for n, (p, _) in table.items()]
    assert list(worth.values()) == [p for _, p in heads] and list(worth)[:-1] == list(named(one.source, "answer"))
    for task in named(one.source, "answer"):
        tests = [cell.source for name, cell in named(one.source, "test").items() if task_of(name) == task]
        assert len(tests) >= 3 and any("check(" in test for test in tests) and sum("HIDDEN" in test for test in tests) >= 2
        assert all(("HIDDEN" in test) != ("check(" in test) for test in tests)
    rubric = next(iter(named(one.source, "open").values())).source
    assert "**Model answer.**" in rubric and "**Rubric.**" in rubric


@each
def test_the_lecturers_table_says_what_the_assignment_is(number, made):
    one = made(number)
    page = (ROOT / "chapters/assignments/README.md").read_text(encoding="utf-8")
    row, = re.findall(rf"^\| {number} \| (.*) \|$", page, re.MULTILINE)
    title, chapter, minutes, machine, hand, tasks = row.split(" | ")
    points = release.points(one.source)
    assert one.source.cells[0].source.startswith(f"# Assignment {number} · {title}\n")
    assert re.findall(r"`(\w+)`", tasks) == list(named(one.source, "answer"))
    assert float(hand) == sum(points[name] for name in named(one.source, "open"))
    assert float(machine) == sum(points.values()) - float(hand)
    rows = re.findall(r"^\| \d \| .* \| (\d+) \|$", one.source.cells[0].source, re.MULTILINE)
    assert int(minutes) == sum(map(int, rows))
    source = next((ROOT / "chapters/source").glob(f"{number}_*.py")).read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    whole = re.search(rf"^\| {number} \| .* \| (\d+) \| \d+ \|$", readme, re.MULTILINE)
    assert re.search(r"\*Time:\*\D+(\d+)\D", source)[1] == chapter == whole[1]


def wrong_answers() -> list[tuple[str, str, str]]:
    found = []
    for number in NUMBERS:
        tree = ast.parse((ROOT / f"chapters/assignments/mistakes/{number}.py").read_text(encoding="utf-8"))
        names = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
        found += [(number, *name.split("__")) for name in names if "__" in name]
    return found


@each
def test_each_task_has_three_mistakes_that_a_check_names(number, made):
    seen = [task for n, task, name in wrong_answers() if n == number]
    assert {task: seen.count(task) >= 3 for task in named(made(number).source, "answer")} == dict.fromkeys(seen, True)


@pytest.fixture(scope="session")
def worlds(made):
    """worlds(number) -> the names that given cells and solutions define, without any test; made once."""
    known: dict[str, dict] = {}

    def world(number: str) -> dict:
        if number not in known:
            known[number] = {"__name__": "__main__"}
            for cell in made(number).source.cells:
                if kind_of(cell) in ("given", "answer"):
                    exec(cell.source, known[number])
        return known[number]

    return world


def cells_of(one, task: str) -> dict[str, str]:
    return {name: cell.source for name, cell in named(one.source, "test").items() if task_of(name) == task}


@pytest.mark.parametrize("number, task, mistake", wrong_answers())
def test_a_mistake_fails_and_is_named(number, task, mistake, made, worlds, monkeypatch):
    """And the right answer passes the tests of its task alone, without those of tasks before it."""
    one = made(number)
    monkeypatch.setattr(checks, "KNOWN", one.folder / "checks.json")
    wrong = {name: (text, function) for name, text, function in release.mistakes(number, worlds(number))[task]}
    text, function = wrong[f"{task}__{mistake}"]
    function.__name__ = task
    errors = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for answer, found in ((worlds(number)[task], {}), (function, errors)):
            namespace = {**worlds(number), task: answer}
            for name, source in cells_of(one, task).items():
                try:
                    exec(source, namespace)
                except Exception as error:
                    found[name] = str(error)
            assert found == {} or answer is function
    assert errors
    visible = [said for name, said in errors.items() if "check(" in cells_of(one, task)[name]]
    if text.startswith(release.UNSEEN):
        assert visible == []
    else:
        assert any(said.endswith(f"Likely mistake: {text}") for said in visible), visible
        assert all(re.search("was expected|were expected|it stopped with", said) for said in visible)


@each
def test_half_the_tasks_earn_the_points_of_half_the_tasks(number, made, monkeypatch):
    one = made(number)
    tasks = list(named(one.source, "answer"))
    done = tasks[:len(tasks) // 2]
    errors = run(solved(one, done), one.folder, monkeypatch)
    assert {task_of(name) for name in errors} == set(tasks[len(tasks) // 2:])


# ------------------------------------------------------------------------------------------------- the checks' own words

def answer(result):
    def task(x):
        return result(x) if callable(result) else result
    return task


@pytest.fixture
def file(tmp_path, monkeypatch):
    """file(right, **mistakes) puts the numbers of a check on file."""
    def put(right, **mistakes):
        known = {"task": {"right": checks.pack(right), "mistakes": [[text, checks.pack(x)] for text, x in mistakes.items()]}}
        (tmp_path / "checks.json").write_text(json.dumps(known))
        monkeypatch.setattr(checks, "KNOWN", tmp_path / "checks.json")
    return put


def said(result, *inputs) -> str:
    with pytest.raises(AssertionError) as error:
        checks.check(answer(result), *inputs)
    return str(error.value)


def test_a_check_says_what_was_expected_what_came_and_the_mistake(file, capsys):
    import torch
    file(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), transposed=torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    checks.check(answer(torch.tensor([[1.0, 2.0], [3.0, 4.00001]])), 0)
    assert capsys.readouterr().out == "`task` is right here\n"
    assert said(torch.tensor([[1.0, 3.0], [2.0, 4.0]]), 0) == \
        "`task`: 2 was expected at [0, 1], and 3 came. Likely mistake: transposed"
    assert said(torch.tensor([[1.0, 2.0], [3.0, 4.1]]), 0) == "`task`: 4 was expected at [1, 1], and 4.1 came."
    assert said(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]), 0) == "`task`: 4 was expected at [1, 1], and nan came."
    assert said(torch.ones(2), 0) == "`task`: the shape (2, 2) was expected, and (2,) came."
    assert said(None, 0) == "`task`: a tensor or number was expected, and nothing came (is the return missing?)."
    assert said((1, 2), 0) == "`task`: a tensor or number was expected, and 2 results together came."
    assert said(lambda x: 1 / 0, 0) == "`task`: it stopped with ZeroDivisionError: division by zero."
    assert said(lambda x: x.mul_(0) + torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2)) == \
        "`task`: the result is right, but an input was changed on the way: work on a copy."
    with pytest.raises(NotImplementedError):
        checks.check(answer(lambda x: (_ for _ in ()).throw(NotImplementedError())), 0)


def test_a_check_knows_truth_values_and_several_results(file):
    import torch
    file((torch.tensor([True, False]), 2))
    checks.check(answer((torch.tensor([True, False]), 2.0)), 0)
    assert "True and False were expected" in said((torch.tensor([1, 0]), 2), 0)
    assert "result 1 of 2: True was expected at [0], and False came" in said((torch.tensor([False, False]), 2), 0)
    assert "result 2 of 2: 2 was expected, and 3 came" in said((torch.tensor([True, False]), 3), 0)


def test_the_checks_need_nothing_but_torch():
    """Students may have no course installed."""
    tree = ast.parse(inspect.getsource(checks))
    names = {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - sys.stdlib_module_names == {"torch"}
