"""Release, hand in, grade, feedback, tables: through nbgrader, with kernels, as a lecturer runs it."""
import csv
import json
import os
import shutil
from types import SimpleNamespace

import grade
import handed_in
import nbformat
import pytest
import release
from marks import MARKS
from submissions import DEADLY, ENDLESS, HUNGRY, LIMITS, hand_in, messy, named, odd, solved, tampered, with_answers, worth

FIRST = release.numbers()[0]


def table(path) -> list[dict]:
    with path.open(**grade.TEXT) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def graded(made, tmp_path_factory):
    """Submissions of the first assignment in every state, graded -> (grades by student, course, submissions, messages)."""
    one, folder = made(FIRST), tmp_path_factory.mktemp("handed in")
    tasks = list(named(one.source, "answer"))
    hand_in(folder, "full", FIRST, solved(one, [*tasks, *named(one.source, "open")]))
    hand_in(folder, "half", FIRST, solved(one, tasks[:2]))
    (folder / "half/timestamp.txt").write_text("2026-10-06 09:30:00 UTC")
    hand_in(folder, "empty", FIRST, one.student)
    hand_in(folder, "tampered", FIRST, tampered(one))
    hand_in(folder, "endless", FIRST, with_answers(one, ENDLESS))
    hand_in(folder, "hungry", FIRST, with_answers(one, HUNGRY, DEADLY))
    (folder / "broken").mkdir()
    (folder / "broken" / f"{FIRST}.ipynb").write_text("{")
    (folder / "stray.ipynb").write_text("{}")
    hand_in(folder, "messy", "my answers (2)", messy(solved(one, tasks)))
    (folder / "messy/timestamp.txt").write_text("gestern Abend")
    hand_in(folder, "odd", FIRST, odd(solved(one, tasks)))
    path = folder / f"odd/{FIRST}.ipynb"                       # half of an emoji, as some programs write it
    path.write_text(json.dumps(json.loads(path.read_text())).replace("\\ud83c\\udf89", "\\ud83c"))
    said = []
    lines = grade.grade(folder, one.course, LIMITS, {FIRST: "2026-10-05 18:00"},
                        say=lambda *text, **_: said.append(" ".join(text)))
    return {line["student"]: line for line in lines}, one, folder, said


def test_each_submission_earns_what_it_should(graded):
    lines, one, _, _ = graded
    tasks = list(named(one.source, "answer"))
    question, = named(one.source, "open")
    rest = worth(one, tasks[1:])
    assert {name: line["points"] for name, line in lines.items()} == {
        "full": worth(one, tasks), "half": worth(one, tasks[:2]), "empty": 0, "tampered": 0, "endless": rest,
        "hungry": worth(one, tasks[2:]), "broken": 0,
        "messy": worth(one, tasks), "odd": worth(one, tasks)}
    assert {name for name, line in lines.items() if line["to mark"] == worth(one, [question])} == {
        "full", "messy", "odd"}
    graded_ones = {line["of"] for name, line in lines.items() if name != "broken"}
    assert graded_ones == {sum(release.points(one.source).values())}
    assert lines["broken"]["state"].startswith("not a notebook") and lines["full"]["state"] == "marks are missing"


def test_late_work_is_counted_in_hours_and_loses_nothing(graded):
    lines = graded[0]
    assert lines["half"]["hours late"] == 15.5 and lines["full"]["hours late"] is None


def test_what_cannot_be_graded_is_said(graded):
    said = "\n".join(graded[3])
    assert "left out: stray.ipynb: not in a folder named as its student" in said
    assert f"broken, assignment {FIRST}: " in said and "not a notebook" in said
    assert "timestamp.txt says 'gestern Abend', a time such as" in graded[0]["messy"]["state"]


def test_the_tables_add_up(graded):
    lines, one, _, _ = graded
    tasks = table(one.course / "tasks.csv")
    for student in ("full", "half", "endless"):
        assert sum(float(line["points"]) for line in tasks if line["student"] == student) == lines[student]["points"]
    assert [line["student"] for line in table(one.course / "grades.csv")] == sorted(lines)


def feedback(one, student: str) -> str:
    return (one.course / f"feedback/{student}/{one.number}/{one.number}.html").read_text(encoding="utf-8")


def test_feedback_names_the_trouble_and_keeps_hidden_tests_hidden(graded):
    one = graded[1]
    assert "stopped after 6 seconds. Does a loop never end?" in feedback(one, "endless")
    assert "more than 3 GiB of memory" in feedback(one, "hungry")
    assert "the kernel died in this cell" in feedback(one, "hungry")
    assert "1 of the cells of this task ran away before, so this one was not run" in feedback(one, "endless")
    for student in ("full", "empty", "endless"):
        assert "HIDDEN TESTS" not in feedback(one, student) and "Hidden:" in feedback(one, student)


def test_marks_are_entered_and_nothing_is_run_again(graded):
    lines, one, folder, _ = graded
    path, (question,) = one.course / "marks.csv", named(one.source, "open")
    marks = table(path)
    assert [(line["student"], line["question"], line["points"]) for line in marks] == [
        ("full", question, ""), ("messy", question, ""), ("odd", question, "")]
    assert marks[1]["answer"] == "My answer stands in a cell of its own"
    assert marks[2]["answer"] == "see ![](attachment:image.png) [the picture gone.png is missing]\n\n# (a) 784?"
    assert "iVBORw0KGgo=" in feedback(one, "odd")
    assert "Model answer" in marks[0]["answer"]
    marks[0] |= {"points": "1,5", "comment": "What about (b)?"}
    grade.write(path, MARKS, marks)
    said = []
    again = {line["student"]: line for line in
             grade.grade(folder, one.course, LIMITS, say=lambda *text, **_: said.append(" ".join(text)))}
    assert again["full"]["points"] == lines["full"]["points"] + 1.5 and again["full"]["state"] == "done"
    assert "What about (b)?" in feedback(one, "full")
    assert [text for text in said if "assignment" in text and not text.startswith("broken")] == []
    marks[0]["points"] = "99"
    grade.write(path, MARKS, marks)
    with pytest.raises(grade.CourseError, match=r"points from 0 to \d were expected, and '99' came"):
        grade.grade(folder, one.course, LIMITS, say=lambda *text, **_: None)
    path.write_bytes(path.read_text(encoding="utf-8-sig").replace("What about", "Für").encode("cp1252"))
    with pytest.raises(grade.CourseError, match="is not in UTF-8"):
        grade.grade(folder, one.course, LIMITS, say=lambda *text, **_: None)
    path.unlink()                                              # other tests grade into the same course


def test_a_gradebook_that_was_deleted_is_made_again(graded, tmp_path):
    _, one, folder, _ = graded
    hand_in(tmp_path, "full", FIRST, nbformat.read(folder / f"full/{FIRST}.ipynb", as_version=4))
    course = shutil.copytree(one.course, tmp_path.parent / f"{tmp_path.name} course")
    (course / "gradebook.db").unlink()
    line = {each["student"]: each for each in grade.grade(tmp_path, course, LIMITS, say=lambda *text, **_: None)}["full"]
    assert line["points"] == worth(one, list(named(one.source, "answer")))


def test_two_do_not_grade_into_one_folder_at_once(tmp_path, capsys):
    with grade.alone(tmp_path / "course"):
        assert grade.main([str(tmp_path), "--course", str(tmp_path / "course")]) == 2
    assert "another `make grade` is at work" in capsys.readouterr().err


def test_tests_have_names_of_their_own(tmp_path, monkeypatch):
    import limits
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checks.py").write_text("def check(f):\n    assert f() == entries()['n']\n\n\nsame = entries = None\n")
    (tmp_path / "checks.json").write_text('{"n": 5}')
    space = {}
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns=space))
    module = {}
    exec(limits.GRADED, module)
    (tmp_path / "checks.json").write_text("{}")                # what the answers' code does to the files
    space |= {"answer": lambda: 5, "count": 1, "given": 3}
    module["keep"](["given"])
    space |= {"given": "mine", "check": "mine"}
    module["test"](["answer"], "count = given\nhidden = 1\ncheck(answer)", ["count"])
    assert space["count"] == 3 and "hidden" not in space and space["given"] == "mine"
    space["answer"] = lambda: 6
    with pytest.raises(AssertionError):
        module["test"](["answer"], "seen = 1\ncheck(answer)\nlate = 1", ["seen", "late"])
    assert space["seen"] == 1 and "late" not in space
    module["prepare"](["answer"], "made = 7\ncheck(answer(made))\nafter = 1")           # a test that ran away
    assert module["names"]["made"] == 7 and "after" not in module["names"]


@pytest.mark.parametrize("program, arguments, complaint", [
    (grade, ["nowhere"], "nowhere is not a folder"),
    (grade, ["three", "--due", "01=soon"], "no submission in three"),
    (grade, ["one", "--due", "77=2026-10-05"], "no assignment '77'; there are: 01"),
    (grade, ["one", "--due", "01=soon"], '--due "01=soon": a date was expected'),
    (grade, ["two"], "'a b' and 'a_b' would both be the student a_b; rename one"),
    (release, ["77"], "no assignment '77'; there are: 01"),
    (release, ["4"], "no assignment '4' (did you mean 04?)"),
])
def test_a_mistyped_command_gets_one_line(program, arguments, complaint, tmp_path, monkeypatch, capsys, made):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "three").mkdir()
    for name in ("one/anna", "two/a b", "two/a_b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / f"{FIRST}.ipynb").write_text("{}")
    (tmp_path / "course/release" / FIRST).mkdir(parents=True)       # as if it had been made
    assert program.main([*arguments, "--course", "course"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error and error.count("\n") == 1


def test_lines_that_a_spreadsheet_cut_short_are_read(tmp_path):
    path = tmp_path / "marks.csv"
    path.write_text(";".join(MARKS) + "\n1;anna;why\n", encoding="utf-8")
    assert grade.read_marks(path)["01", "anna", "why"]["points"] == ""


def test_which_notebooks_are_found(tmp_path):
    for name in ("anna/01.ipynb", "bert b/late/01 (2).IPYNB", "carl/essay.ipynb", "dora/.ipynb_checkpoints/01-checkpoint.ipynb",
                 "emil/011.ipynb", "fritz/01.ipynb", "fritz/old/01.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({}))
    os.utime(tmp_path / "fritz/old/01.ipynb", (0, 0))
    (tmp_path / "gerd").mkdir()
    (tmp_path / "gerd/01.ipynb").symlink_to(tmp_path / "anna/01.ipynb")
    hand_in(tmp_path, "hanna", "01", release.instructor("03"))                                  # the name is wrong
    found, left = handed_in.find(tmp_path, tmp_path.parent / "course")
    assert {key: str(path.relative_to(tmp_path)) for key, path in found.items()} == {
        ("anna", "01"): "anna/01.ipynb", ("bert_b", "01"): "bert b/late/01 (2).IPYNB", ("fritz", "01"): "fritz/01.ipynb",
        ("hanna", "03"): "hanna/01.ipynb"}
    assert [line.split(":")[0] for line in left] == [
        "carl/essay.ipynb", "emil/011.ipynb", "fritz/old/01.ipynb", "gerd/01.ipynb"]
    with pytest.raises(grade.CourseError, match="where the course keeps its own files"):
        handed_in.find(tmp_path, tmp_path / "anna/course")
    (tmp_path / "ines").mkdir()
    assert "ines: no notebook in this folder" in handed_in.find(tmp_path, tmp_path.parent / "course")[1]
    with pytest.raises(grade.CourseError, match="where the course keeps its own files"):
        handed_in.find(tmp_path / "anna", tmp_path / "anna")


@pytest.mark.parametrize("text, utc", [
    ("2026-10-06 09:30:00 UTC", "2026-10-06 09:30"), ("2026-10-06 09:30", "2026-10-06 09:30"),
    ("2026-10-06 09:30:00.250000 Europe/Berlin", "2026-10-06 07:30"), ("2026-10-06 09:30:00 +0200", "2026-10-06 07:30"),
    ("0001-01-01 00:00:00 +1400", None), ("06.10.2026 09:30", None), ("2026-10-06 09:30:00 CEST", None),
    ("2026-13-06 09:30", None), ("", None)])
def test_when_it_was_handed_in(text, utc):
    when = handed_in.moment(text)
    assert (when and when.strftime("%Y-%m-%d %H:%M")) == utc


def test_the_notebook_that_is_graded_keeps_its_order_and_what_was_added():
    def code(source, name=None, **kind):
        return nbformat.v4.new_code_cell(source, metadata={"nbgrader": {"grade_id": name, **kind}} if name else {})

    out = nbformat.v4.new_notebook(cells=[code("def f(): stub", "f", solution=True), code("test f", "f-1", grade=True),
                                          code("def g(): stub", "g", solution=True), code("test g", "g-1", grade=True)])
    came = nbformat.v4.new_notebook(cells=[
        code("import mine"), code("def g(): 2"), code("def f(): 1", "f", solution=True),
        code("def f(): again", "f", solution=True), code("!pip install x\nhelp_me()"), code("nonsense", "other"),
        code("changed", "g-1", grade=True)])
    made = handed_in.assemble(came, out)
    assert [cell.source for cell in made.cells] == [
        "import mine", "def g(): 2", "def f(): 1", "def f(): again", "pass  # not run here: !pip install x\nhelp_me()",
        "nonsense", "test f", "# in another cell", "changed", "test g"]
    assert [handed_in.name_of(cell) for cell in made.cells] == [None, None, "f", None, None, None, "f-1", "g", None, "g-1"]


@pytest.mark.parametrize("line, left", [
    ("!pip install x", ""), ("    %pip install \\\n  x \\\n  y", ""), ("!python3 -m pip install x", ""),
    ("%conda install x", ""), ("pip install x", ""),
    ("!{sys.executable} -m pip install x", ""), ("pip = 3", "pip = 3"), ("!ls", "!ls"), ("x = y % pip", "x = y % pip")])
def test_lines_that_install_are_left_out(line, left):
    out = handed_in.INSTALL.sub("", f"a = 1\n{line}\nb = 2")
    assert out == f"a = 1\n{left}\nb = 2"


@pytest.mark.parametrize("code, prose", [("# (a) 784", True), ("The mean is 3, since ...", True), ("x = 1  # so", False),
                                         ("!ls", False), ("%timeit x", False), ("", False), ("print(3)", False)])
def test_words_in_a_cell_of_code_are_words(code, prose):
    assert handed_in.is_prose(code) == prose


def test_pictures_of_one_name_get_two(tmp_path):
    def words(text, picture):
        cell = nbformat.v4.new_markdown_cell(text)
        cell.attachments = {"image.png": {"image/png": picture}}
        return cell

    cells = [words("![](attachment:image.png)", "a"), words("and ![](attachment:image.png)", "b")]
    assert handed_in.with_own_names(cells) == {"image.png": {"image/png": "a"}, "1-image.png": {"image/png": "b"}}
    assert cells[1].source == "and ![](attachment:1-image.png)"


def test_carelessly_written_notebooks_are_read(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text('{"nbformat": 4, "nbformat_minor": 5, "cells": [{"cell_type": "markdown", "id": "a", "source": "\\ud83d"}, '
                    '{"cell_type": "markdown", "id": "a", "source": "two"}]}')
    assert [cell.source for cell in handed_in.read(path).cells] == ["?", "two"]


def test_a_copy_that_was_filled_in_counts_in_the_place_of_the_stub():
    def code(source, name, **kind):
        return nbformat.v4.new_code_cell(source, metadata={"nbgrader": {"grade_id": name, **kind}})

    stub, test = code("def f(): stub", "f", solution=True), code("test f", "f-1", grade=True)
    out = nbformat.v4.new_notebook(cells=[stub, test])
    came = nbformat.v4.new_notebook(cells=[stub, test, code("def f(): 1", "f", solution=True), test,
                                           code("def f(): 2", "f", solution=True)])
    assert [cell.source for cell in handed_in.assemble(came, out).cells][:2] == ["def f(): 1", "test f"]


def test_feedback_shows_nothing_that_a_hidden_test_printed_or_raised():
    import limits
    hidden = "# Hidden: other shapes.\n### BEGIN HIDDEN TESTS\nsecret = 42\n### END HIDDEN TESTS"
    outputs = [nbformat.v4.new_output("stream", text="secret 42"),
               nbformat.v4.new_output("error", ename="ValueError", evalue="secret 42", traceback=["secret 42"])]
    test = nbformat.v4.new_code_cell(hidden, outputs=outputs, metadata={"nbgrader": {"grade": True, "grade_id": "f-2"}})
    own = nbformat.v4.new_code_cell("print(In)", outputs=[nbformat.v4.new_output("stream", text="secret 42")])
    for cell in (test, own):
        limits.HideTests().preprocess_cell(cell, {}, 0)
        assert "secret" not in json.dumps(cell)
    assert test.outputs[0].ename == "ValueError"


def test_a_long_answer_is_read_again(tmp_path):
    line = dict.fromkeys(MARKS, "") | {"assignment": "01", "student": "anna", "question": "why", "answer": "x" * 200_000}
    grade.write(tmp_path / "marks.csv", MARKS, [line])
    assert grade.read_marks(tmp_path / "marks.csv")["01", "anna", "why"]["answer"] == line["answer"]


def test_marks_say_what_cannot_be_entered(tmp_path):
    path = tmp_path / "marks.csv"
    head = ",".join(MARKS)
    for lines, complaint in (("1,anna,why,2,3,,x\n01,anna,why,1,3,,x", "two lines for 01, anna, why"),
                             ("01,anna,why,nan,3,,x", "points from 0 to 3 were expected, and 'nan' came")):
        path.write_text(f"{head}\n{lines}\n", encoding="utf-8")
        with pytest.raises(grade.CourseError, match=complaint):
            grade.read_marks(path)
