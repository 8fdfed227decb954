"""Release, hand in, grade, feedback, tables: through nbgrader, with kernels, as a lecturer runs it."""
import csv
import json
import os

import grade
import pytest
import release
from submissions import DEADLY, ENDLESS, HUNGRY, LIMITS, hand_in, named, solved, tampered, with_answers, worth

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
    hand_in(folder, "mistaken", FIRST, release.instructor(release.numbers()[1]))
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
        "hungry": worth(one, tasks[2:]), "broken": 0, "mistaken": 0}
    assert {name for name, line in lines.items() if line["to mark"] == worth(one, [question])} == {"full"}
    graded_ones = {line["of"] for name, line in lines.items() if name not in ("broken", "mistaken")}
    assert graded_ones == {sum(release.points(one.source).values())}
    assert lines["broken"]["state"].startswith("not a notebook") and lines["full"]["state"] == "marks are missing"


def test_late_work_is_counted_in_hours_and_loses_nothing(graded):
    lines = graded[0]
    assert lines["half"]["hours late"] == 15.5 and lines["full"]["hours late"] == 0


def test_what_cannot_be_graded_is_said(graded):
    said = "\n".join(graded[3])
    assert "left out: stray.ipynb: not in a folder named as its student" in said
    assert f"broken, assignment {FIRST}: " in said and "not a notebook" in said
    assert graded[0]["mistaken"]["state"] == (
        f"its name says {FIRST}, its cells are those of {release.numbers()[1]}; rename it")


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
    assert [(line["student"], line["question"], line["points"]) for line in marks] == [("full", question, "")]
    assert "Model answer" in marks[0]["answer"]
    marks[0] |= {"points": "1,5", "comment": "What about (b)?"}
    grade.write(path, grade.MARKS, marks)
    said = []
    again = {line["student"]: line for line in
             grade.grade(folder, one.course, LIMITS, say=lambda *text, **_: said.append(" ".join(text)))}
    assert again["full"]["points"] == lines["full"]["points"] + 1.5 and again["full"]["state"] == "done"
    assert "What about (b)?" in feedback(one, "full")
    assert [text for text in said if "assignment" in text and not text.startswith(("broken", "mistaken"))] == []
    marks[0]["points"] = "99"
    grade.write(path, grade.MARKS, marks)
    with pytest.raises(grade.CourseError, match=r"points from 0 to \d were expected, and '99' came"):
        grade.grade(folder, one.course, LIMITS, say=lambda *text, **_: None)
    path.write_bytes(path.read_text(encoding="utf-8-sig").replace("What about", "Für").encode("cp1252"))
    with pytest.raises(grade.CourseError, match="is not in UTF-8"):
        grade.grade(folder, one.course, LIMITS, say=lambda *text, **_: None)
    path.unlink()                                              # other tests grade into the same course


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
    path.write_text(";".join(grade.MARKS) + "\n1;anna;why\n", encoding="utf-8")
    assert grade.read_marks(path)["01", "anna", "why"]["points"] == ""


def test_which_notebooks_are_found(tmp_path):
    for name in ("anna/01.ipynb", "bert b/late/01 (2).ipynb", "carl/essay.ipynb", "dora/.ipynb_checkpoints/01-checkpoint.ipynb",
                 "emil/011.ipynb", "fritz/01.ipynb", "fritz/old/01.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({}))
    os.utime(tmp_path / "fritz/old/01.ipynb", (0, 0))
    (tmp_path / "gerd").mkdir()
    (tmp_path / "gerd/01.ipynb").symlink_to(tmp_path / "anna/01.ipynb")
    found, left = grade.find(tmp_path)
    assert {key: str(path.relative_to(tmp_path)) for key, path in found.items()} == {
        ("anna", "01"): "anna/01.ipynb", ("bert_b", "01"): "bert b/late/01 (2).ipynb", ("fritz", "01"): "fritz/01.ipynb"}
    assert [line.split(":")[0] for line in left] == [
        "carl/essay.ipynb", "emil/011.ipynb", "fritz/old/01.ipynb", "gerd/01.ipynb"]
