"""Grade a folder of submissions: points, feedback for each student, and tables. Everything stays on this machine.

    python chapters/assignments/grade.py SUBMISSIONS [--course FOLDER] [--due "01=2026-10-05 18:00"]

SUBMISSIONS holds a folder for each student, named as the student, with notebooks whose names begin with the number of the
assignment, at any depth: anna/01.ipynb, bert/submission_3/01 (2).ipynb, nbgrader's own anna/01/01.ipynb.

Below the course folder appear: feedback/STUDENT/NN/NN.html; grades.csv, a line for each submission; tasks.csv, a line for
each task; marks.csv, with the answers to the open questions. Fill in its column `points` (and `comment`), run the same
command again, and the marks are in the grades and the feedback. Submissions that did not change are not run again.

A submission is a program that runs with your rights: README.md says how to confine it.
"""
import argparse
import csv
import hashlib
import re
import shutil
import sys
import time
from datetime import datetime
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import release  # noqa: E402

from lib.errors import CourseError  # noqa: E402
from lib.training.checkpoint import write_atomically  # noqa: E402

LARGEST = 20 * 2**20                                           # bytes of a notebook that is read
MARKS = ["assignment", "student", "question", "points", "of", "comment", "answer"]
TEXT = {"encoding": "utf-8-sig", "newline": ""}                # so that spreadsheets see the umlauts


def find(folder: Path) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """{(student, assignment): notebook}, and a line for each notebook that is left out. Of several the newest counts.

    Raises CourseError if there is no such folder, or two students would get one name.
    """
    if not folder.is_dir():
        raise CourseError(f"{folder} is not a folder. It should hold a folder for each student, with their notebooks")
    found, left, folders = {}, [], {}
    for path in sorted(folder.rglob("*.ipynb")):
        inside = path.relative_to(folder)
        number = re.match(r"(\d\d)(?!\d)", path.name)
        if ".ipynb_checkpoints" in inside.parts:
            continue
        if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
            left.append(f"{inside}: a link, not a file")
        elif len(inside.parts) < 2:
            left.append(f"{inside}: not in a folder named as its student")
        elif number is None or number[1] not in release.numbers():
            left.append(f"{inside}: its name does not begin with the number of an assignment")
        elif path.stat().st_size > LARGEST:
            left.append(f"{inside}: {path.stat().st_size / 2**20:.0f} MiB are more than a notebook should have")
        else:
            key = re.sub(r"[^\w.-]", "_", inside.parts[0]), number[1]
            other = folders.setdefault(key[0], inside.parts[0])
            if other != inside.parts[0]:
                raise CourseError(f"the folders {other!r} and {inside.parts[0]!r} would both be the student {key[0]}; rename "
                                  "one. Names keep letters, digits, '.', '-' and '_' only")
            if key in found:
                older, path = sorted((found[key], path), key=lambda p: p.stat().st_mtime)
                left.append(f"{older.relative_to(folder)}: {path.name} is newer")
            found[key] = path
    return found, left


def collect(path: Path, student: str, number: str, course: Path) -> tuple[Path, str | None]:
    """Copy a notebook to nbgrader's place for it -> (that place, what is wrong with the notebook)."""
    place = course / "submitted" / student / number
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, place / f"{number}.ipynb")
    stamp = path.parent / "timestamp.txt"
    if stamp.is_file() and not stamp.is_symlink():
        shutil.copyfile(stamp, place / "timestamp.txt")
    try:
        notebook = nbformat.read(place / f"{number}.ipynb", as_version=4)
        nbformat.validate(notebook)
        came = cells_of(notebook)
    except Exception as error:                                 # whatever a file may hold
        return place, f"not a notebook ({type(error).__name__})"
    if not came:
        return place, "none of its cells is one of an assignment; was it copied into a new notebook?"
    if not came & cells_of(release.instructor(number)):
        others = [other for other in release.numbers() if came & cells_of(release.instructor(other))]
        return place, f"its name says {number}, its cells are those of {' or '.join(others) or 'no assignment'}; rename it"
    return place, None


def cells_of(notebook) -> set[str]:
    """The names of an assignment's answers and tests that are in a notebook."""
    graded = (cell.metadata.get("nbgrader", {}) for cell in notebook.cells if cell.cell_type == "code")
    return {one["grade_id"] for one in graded if "grade_id" in one and (one.get("solution") or one.get("grade"))}


def fingerprint(place: Path, instructor: Path) -> str:
    """Changes if the submission, its time or the assignment does."""
    parts = sorted(path for folder in (place, instructor) for path in folder.iterdir() if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()


def grade(submissions: Path, course: Path, limits: dict | None = None, due: dict[str, str] | None = None,
          force: bool = False, say=print) -> list[dict]:
    """Everything, from a folder of submissions to the tables; -> the lines of grades.csv."""
    found, left = find(submissions)
    read_marks(course / "marks.csv")                           # if it cannot be read, better now than after an hour
    for line in left:
        say(f"left out: {line}")
    if not found:
        raise CourseError(f"no submission in {submissions}. It should hold a folder for each student, with notebooks whose "
                          "names begin with the number of the assignment, such as anna/01.ipynb")
    for number in sorted({number for _, number in found}):
        if not (course / "release" / number).exists():
            release.release(number, course)
    api = release.course_api(course, {"Confined": limits or {}})
    set_due(api, due or {})
    troubles: dict[tuple[str, str], str] = {}
    ran = set()
    for (student, number), path in sorted(found.items()):
        place, trouble = collect(path, student, number, course)
        done = course / "autograded" / student / number / f"{number}.ipynb"
        print_of = fingerprint(place, course / "instructor" / number)
        record = course / "autograded" / student / f".{number}.sha256"
        if trouble is None and not force and done.exists() and record.exists() and record.read_text() == print_of:
            continue
        say(f"{student}, assignment {number}: ", end="", flush=True)
        start = time.perf_counter()
        if trouble is None:
            result = api.autograde(number, student, force=True)
            if not (result["success"] and done.exists()):
                trouble = f"nbgrader could not grade it: {release.reason(result)}"
        if trouble is None:
            record.write_text(print_of)
            ran.add((student, number))
            say(f"{time.perf_counter() - start:.1f} s")
        else:
            troubles[student, number] = trouble
            say(trouble)
    with gradebook(api) as book:
        ran |= enter_marks(course / "marks.csv", book)
    for student, number in sorted(ran):
        api.generate_feedback(number, student, force=True)
    with gradebook(api) as book:
        write_marks(course, book)
        write_tasks(course / "tasks.csv", book)
        return write_grades(course / "grades.csv", book, found, troubles)


def gradebook(api):
    from nbgrader.api import Gradebook
    return Gradebook(api.coursedir.db_url, api.coursedir.course_id)


def set_due(api, due: dict[str, str]) -> None:
    with gradebook(api) as book:
        for number, when in due.items():
            if number not in release.numbers():
                raise CourseError(f'--due "{number}={when}": no assignment {number!r}; there are: '
                                  + ", ".join(release.numbers()))
            try:
                datetime.fromisoformat(when)
            except ValueError:
                raise CourseError(f'--due "{number}={when}": a date was expected, such as 2026-10-05 18:00 (UTC)') from None
            book.update_or_create_assignment(number, duedate=when)


# ---------------------------------------------------------------------------------------------- open questions, by hand

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


def read_marks(path: Path) -> dict[tuple[str, str, str], dict]:
    if not path.exists():
        return {}
    try:
        with path.open(**TEXT) as file:
            lines = list(csv.DictReader(file, dialect=dialect(file), restval=""))
    except UnicodeDecodeError:
        raise CourseError(f"{path} is not in UTF-8. Save it again as 'CSV UTF-8', or the comments lose their umlauts") from None
    if lines and not set(MARKS) <= lines[0].keys():
        raise CourseError(f"{path}: the columns {', '.join(MARKS)} were expected, and {', '.join(map(str, lines[0]))} came. "
                          "Delete the file to begin anew")
    return {(line["assignment"].zfill(2), line["student"], line["question"]): line for line in lines}


def dialect(file) -> type[csv.Dialect]:
    """Spreadsheets save with commas or with semicolons."""
    first = file.readline()
    file.seek(0)
    return type("Found", (csv.excel,), {"delimiter": ";" if first.count(";") > first.count(",") else ","})


def enter_marks(path: Path, book) -> set[tuple[str, str]]:
    """The points and comments of marks.csv into the gradebook -> whose changed. Raises CourseError on impossible points."""
    marks, changed = read_marks(path), set()
    for number, student, one in open_grades(book):
        line = marks.get((number, student, one.name))
        if line is None or not line["points"].strip() or line["answer"].split() != answer_in(path.parent, number, student,
                                                                                           one.name).split():
            continue
        try:
            mark = float(line["points"].replace(",", "."))
        except ValueError:
            mark = -1.0
        if not 0 <= mark <= one.max_score:
            raise CourseError(f"{path}: {student}, {number}, {one.name}: points from 0 to {one.max_score:g} were expected, and "
                              f"{line['points']!r} came")
        comment = book.find_comment(one.name, number, number, student)
        if (one.manual_score, one.needs_manual_grade, comment.manual_comment) != (mark, False, line["comment"] or None):
            changed.add((student, number))
        one.manual_score, one.needs_manual_grade, comment.manual_comment = mark, False, line["comment"] or None
    book.db.commit()
    return changed


def write_marks(course: Path, book) -> None:
    old, lines = read_marks(course / "marks.csv"), []
    for number, student, one in open_grades(book):
        before = old.get((number, student, one.name), {})
        lines.append({"assignment": number, "student": student, "question": one.name, "of": f"{one.max_score:g}",
                      "points": "" if one.needs_manual_grade or one.manual_score is None else f"{one.manual_score:g}",
                      "comment": before.get("comment", ""), "answer": answer_in(course, number, student, one.name)})
    write(course / "marks.csv", MARKS, sorted(lines, key=lambda line: [line[name] for name in MARKS[:3]]))


# -------------------------------------------------------------------------------------------------------------- tables

def write(path: Path, names: list[str], lines: list[dict]) -> None:
    def write_to(temporary: Path) -> None:
        with temporary.open("w", **TEXT) as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(lines)

    write_atomically(path, write_to)


def task_of(name: str) -> str:
    """attend-2 -> attend: what a test cell belongs to."""
    return re.sub(r"-\d+$", "", name)


def write_tasks(path: Path, book) -> None:
    lines: dict[tuple, dict] = {}
    for assignment in book.assignments:
        for submission in assignment.submissions:
            for one in (one for notebook in submission.notebooks for one in notebook.grades):
                key = submission.student.id, assignment.name, task_of(one.name)
                line = lines.setdefault(key, dict(zip(("student", "assignment", "task"), key)) | {"points": 0.0, "of": 0.0})
                line["points"] += one.score
                line["of"] += one.max_score
    write(path, ["student", "assignment", "task", "points", "of"], [lines[key] for key in sorted(lines)])


def write_grades(path: Path, book, found: dict, troubles: dict) -> list[dict]:
    lines = []
    for assignment in book.assignments:
        for submission in assignment.submissions:
            key = submission.student.id, assignment.name
            graded = [one for notebook in submission.notebooks for one in notebook.grades]
            waiting = sum(one.max_score for one in graded if one.needs_manual_grade)
            late = submission.total_seconds_late
            penalty = submission.late_submission_penalty or 0
            lines.append({"student": key[0], "assignment": key[1], "points": submission.score - penalty,
                          "of": submission.max_score, "to mark": waiting, "hours late": round(late / 3600, 1),
                          "state": troubles.get(key, "marks are missing" if waiting else "done")})
    known = {(line["student"], line["assignment"]) for line in lines}
    lines += [{"student": key[0], "assignment": key[1], "points": 0.0, "of": None, "to mark": 0.0, "hours late": None,
               "state": text} for key, text in troubles.items() if key not in known]
    lines.sort(key=lambda line: (line["assignment"], line["student"]))
    write(path, ["student", "assignment", "points", "of", "to mark", "hours late", "state"], lines)
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Grade a folder of submissions.")
    parser.add_argument("submissions", type=Path, help="holds a folder for each student: anna/01.ipynb")
    parser.add_argument("--course", type=Path, default=HERE, help="where the results go (default: here)")
    parser.add_argument("--due", action="append", default=[], metavar="01=DATE", help='in UTC, such as "01=2026-10-05 18:00"')
    parser.add_argument("--seconds", type=float, default=10, help="time limit of a cell (10)")
    parser.add_argument("--memory", type=float, default=4, help="memory limit in GiB, on Linux (4)")
    parser.add_argument("--force", action="store_true", help="also run submissions that did not change")
    options = parser.parse_args(arguments)
    try:
        due = dict(text.split("=", 1) if "=" in text else (text, "") for text in options.due)
        limits = {"seconds": options.seconds, "memory": int(options.memory * 2**30)}
        lines = grade(options.submissions, options.course.resolve(), limits, due, options.force)
    except (CourseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in lines:
        print(f"{line['assignment']}  {line['student']:20} {line['points']:5g} of {line['of'] or 0:g}  {line['state']}")
    print(f"Written: grades.csv, tasks.csv, marks.csv and feedback/ in {options.course}")
    return int(any(line["state"] not in ("done", "marks are missing") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
