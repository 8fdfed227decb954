"""The answers to open questions as a table that a spreadsheet edits: written for the lecturer, read for the gradebook."""
import csv
import math
import shutil
from pathlib import Path

import nbformat

from lib.errors import CourseError
from lib.training.checkpoint import write_atomically

MARKS = ["assignment", "student", "question", "points", "of", "comment", "answer"]
csv.field_size_limit(2**30)                                    # of an answer
TEXT = {"encoding": "utf-8-sig", "newline": ""}                # so that spreadsheets see the umlauts


def write(path: Path, names: list[str], lines: list[dict]) -> None:
    """A table, whole or not at all."""
    def write_to(temporary: Path) -> None:
        with temporary.open("w", **TEXT) as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(lines)

    write_atomically(path, write_to)


def read_marks(path: Path) -> dict[tuple[str, str, str], dict]:
    """{(assignment, student, question): line}. Raises CourseError, in one line, for whatever cannot be entered."""
    if not path.exists():
        return {}
    try:
        with path.open(**TEXT) as file:
            lines = list(csv.DictReader(file, dialect=dialect(file), restval=""))
    except UnicodeDecodeError:
        raise CourseError(f"{path} is not in UTF-8. Save it again as 'CSV UTF-8', or the comments lose their umlauts") from None
    if lines and not set(MARKS) <= lines[0].keys():
        raise CourseError(f"{path}: the columns {', '.join(MARKS)} were expected, and {', '.join(map(str, lines[0]))} came. "
                          "Put them back, or delete the file: marks that were entered before are kept")
    found: dict[tuple[str, str, str], dict] = {}
    for line in lines:
        key = line["assignment"].strip().zfill(2), line["student"].strip(), line["question"].strip()
        if key in found and (found[key]["points"], found[key]["comment"]) != (line["points"], line["comment"]):
            raise CourseError(f"{path}: two lines for {', '.join(key)}, which say different things. Delete one")
        found[key] = line
        points_in(line, path)
    return found


def points_in(line: dict, path: Path, most: float = math.inf) -> float | None:
    """The points of a line, None where there are none yet. Raises CourseError if they are no points from 0 to `most`."""
    text = line["points"].strip()
    if not text:
        return None
    try:
        points = float(text.replace(",", "."))
    except ValueError:
        points = math.nan
    if not 0 <= points <= most or points == math.inf:
        raise CourseError(f"{path}: {line['student']}, {line['assignment']}, {line['question']}: points from 0 to "
                          f"{line['of'] if most == math.inf else format(most, 'g')} were expected, and {text!r} came")
    return points


def dialect(file) -> type[csv.Dialect]:
    """Spreadsheets save with commas or with semicolons."""
    first = file.readline()
    file.seek(0)
    return type("Found", (csv.excel,), {"delimiter": ";" if first.count(";") > first.count(",") else ","})


def open_grades(book):
    """The grades of open questions that were answered: (assignment, student, grade)."""
    for assignment in book.assignments:
        for submission in assignment.submissions:
            for notebook in submission.notebooks:
                for one in notebook.grades:
                    if one.cell.cell_type == "markdown" and one.auto_score is None:
                        yield assignment.name, submission.student.id, one


def answer_in(course: Path, number: str, student: str, question: str) -> str:
    path = course / "autograded" / student / number / f"{number}.ipynb"
    cells = nbformat.read(path, as_version=4).cells if path.exists() else []
    text = next((cell.source for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == question), "")
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text    # a spreadsheet would take it for a formula


def enter_marks(path: Path, book) -> tuple[set[tuple[str, str]], list[str]]:
    """The points and comments of marks.csv into the gradebook -> (whose changed, what could not be entered, a line each).

    A mark belongs to an answer: it is not entered for another one that was handed in since. Lines without points change
    nothing. Raises CourseError on impossible points.
    """
    marks, changed, lost = read_marks(path), set(), []
    for number, student, one in open_grades(book):
        line = marks.pop((number, student, one.name), None)
        if line is None:
            if one.needs_manual_grade and one.manual_score is not None:    # that of an answer before
                one.manual_score = None
                changed.add((student, number))
            continue
        answer = answer_in(path.parent, number, student, one.name)
        points = points_in(line, path, one.max_score)
        if points is None and not line["comment"].strip():
            continue
        if line["answer"].split() != answer.split():
            lost.append(f"{student}, {number}, {one.name}: another answer was handed in since it was marked")
            one.manual_score, one.needs_manual_grade = None, True
            book.find_comment(one.name, number, number, student).manual_comment = None
            changed.add((student, number))
            continue
        comment = book.find_comment(one.name, number, number, student)
        before = one.manual_score, one.needs_manual_grade, comment.manual_comment
        if points is not None:
            one.manual_score, one.needs_manual_grade = points, False
        comment.manual_comment = line["comment"] or None
        if before != (one.manual_score, one.needs_manual_grade, comment.manual_comment):
            changed.add((student, number))
    book.db.commit()
    lost += [f"{student}, {number}, {question}: there is no such answer" for (number, student, question), line in marks.items()
             if line["points"].strip() or line["comment"].strip()]
    return changed, lost


def write_marks(course: Path, book, keep: bool) -> None:
    """All answers with the marks so far; keep: what was there before stays too, as marks-before.csv."""
    path, lines = course / "marks.csv", []
    if keep:
        shutil.copyfile(path, path.with_name("marks-before.csv"))
    for number, student, one in open_grades(book):
        lines.append({"assignment": number, "student": student, "question": one.name, "of": f"{one.max_score:g}",
                      "points": "" if one.needs_manual_grade or one.manual_score is None else f"{one.manual_score:g}",
                      "comment": book.find_comment(one.name, number, number, student).manual_comment or "",
                      "answer": answer_in(course, number, student, one.name)})
    write(path, MARKS, sorted(lines, key=lambda line: [line[name] for name in MARKS[:3]]))
