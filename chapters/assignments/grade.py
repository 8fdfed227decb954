"""Grade a folder of submissions: points, feedback for each student, and tables. Everything stays on this machine.

    python chapters/assignments/grade.py SUBMISSIONS [--course FOLDER] [--due "01=2026-10-05 18:00"]

SUBMISSIONS holds a folder for each student, named as the student, with notebooks at any depth and of any name: their cells say
which assignment they are. So anna/01.ipynb, bert/submission_3/my answers (2).ipynb, and nbgrader's own anna/01/01.ipynb.

Below the course folder appear: feedback/STUDENT/NN/NN.html; grades.csv, a line for each submission; tasks.csv, a line for
each task; marks.csv, with the answers to the open questions. Fill in its column `points` (and `comment`), run the same
command again, and the marks are in the grades and the feedback. Submissions that did not change are not run again.

A submission is a program that runs with your rights: README.md says how to confine it.
"""
import argparse
import csv
import hashlib
import re
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import release  # noqa: E402
from handed_in import collect, find  # noqa: E402
from marks import TEXT, enter_marks, read_marks, write, write_marks  # noqa: E402

from lib.errors import CourseError  # noqa: E402

SOUND = ("done", "marks are missing")                          # how the state of what could be graded begins


def fingerprint(place: Path, instructor: Path, late: str) -> str:
    """Changes if the submission, its time, the assignment, or what is late does."""
    parts = sorted(path for folder in (place, instructor) for path in folder.iterdir() if path.is_file())
    return hashlib.sha256(late.encode() + b"".join(path.read_bytes() for path in parts)).hexdigest()


def grade(submissions: Path, course: Path, limits: dict | None = None, due: dict[str, str] | None = None,
          force: bool = False, say=print) -> list[dict]:
    """Everything, from a folder of submissions to the tables; -> the lines of grades.csv."""
    found, left = find(submissions, course)
    if not found:
        raise CourseError(f"no submission in {submissions}. It should hold a folder for each student, with their notebooks, "
                          "such as anna/01.ipynb" + "".join(f"; {line}" for line in left[:3]))
    read_marks(course / "marks.csv")                           # if it cannot be read, better now than after an hour
    check_due(due or {})
    api = release.course_api(course, {"Confined": limits or {}})
    with gradebook(api) as book:
        known = {each.name for each in book.assignments if each.notebooks}
        graded = {(one.student.id, each.name) for each in book.assignments for one in each.submissions}
    for number in sorted({number for _, number in found}):     # gradebook.db may have been deleted, or release/
        if number not in known or not (course / "release" / number / f"{number}.ipynb").exists():
            release.release(number, course)
    dates = set_due(api, due or {})
    troubles, notes = {}, {}
    for (student, number), path in sorted(found.items()):
        place, trouble, notes[student, number] = collect(path, student, number, course)
        done = course / "autograded" / student / number / f"{number}.ipynb"
        late = f"{dates.get(number)} {api.config.LateSubmissionPlugin}"
        print_of = fingerprint(place, course / "instructor" / number, late)
        record = course / "autograded" / student / f".{number}.sha256"
        as_before = (student, number) in graded and done.exists() and record.exists() and record.read_text() == print_of
        if as_before and not trouble and not force:
            continue
        say(f"{student}, assignment {number}: ", end="", flush=True)
        start = time.perf_counter()
        if not trouble:
            forget_time(api, student, number)
            result = api.autograde(number, student, force=True)
            if "KeyboardInterrupt" in (result.get("error") or ""):
                raise KeyboardInterrupt
            if not (result["success"] and done.exists()):
                trouble = f"nbgrader could not grade it: {release.reason(result)}"
        if trouble:
            troubles[student, number] = trouble
            say(trouble)
        else:
            say(f"{time.perf_counter() - start:.1f} s")
            if not feedback(api, student, number):
                troubles[student, number] = "nbgrader could not write its feedback"
            else:
                record.write_text(print_of)
    with gradebook(api) as book:
        changed, lost = enter_marks(course / "marks.csv", book)
    for student, number in sorted(changed):
        feedback(api, student, number)
    with gradebook(api) as book:
        write_marks(course, book, keep=bool(lost))
        write_tasks(course / "tasks.csv", book)
        lines = write_grades(course / "grades.csv", book, set(found), troubles, notes)
    for line in lost:
        say(f"mark not entered: {line}. marks-before.csv still has it")
    for line in left:
        say(f"left out: {line}")
    return lines


def forget_time(api, student: str, number: str) -> None:
    """nbgrader keeps the time of handing in where the new submission says none."""
    with gradebook(api) as book:
        for submission in book.assignment_submissions(number) if number in {each.name for each in book.assignments} else ():
            if submission.student.id == student:
                submission.timestamp = None
        book.db.commit()


def feedback(api, student: str, number: str) -> bool:
    return api.generate_feedback(number, student, force=True)["success"]


def gradebook(api):
    from nbgrader.api import Gradebook
    return Gradebook(api.coursedir.db_url, api.coursedir.course_id)


def check_due(due: dict[str, str]) -> None:
    """Raises CourseError for an assignment that is not there, and for what is no date."""
    for number, when in due.items():
        if number not in release.numbers():
            raise CourseError(f'--due "{number}={when}": no assignment {number!r}; there are: ' + ", ".join(release.numbers()))
        try:
            datetime.fromisoformat(when)
        except ValueError:
            raise CourseError(f'--due "{number}={when}": a date was expected, such as 2026-10-05 18:00 (UTC)') from None


def set_due(api, due: dict[str, str]) -> dict[str, datetime | None]:
    """Enter when assignments are due -> when those that are known are, in UTC."""
    with gradebook(api) as book:
        for number, when in due.items():
            book.update_or_create_assignment(number, duedate=when)
        return {assignment.name: assignment.duedate for assignment in book.assignments}


# -------------------------------------------------------------------------------------------------------------- tables

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


def write_grades(path: Path, book, found: set, troubles: dict, notes: dict) -> list[dict]:
    """A line for each submission; of those that are not in `found` this time, the state is what it was."""
    before = {}
    if path.exists():
        with path.open(**TEXT) as file:
            before = {(line["student"], line["assignment"]): line for line in csv.DictReader(file)}
    lines = []
    for assignment in book.assignments:
        for submission in assignment.submissions:
            key = submission.student.id, assignment.name
            graded = [one for notebook in submission.notebooks for one in notebook.grades]
            waiting = sum(one.max_score for one in graded if one.needs_manual_grade)
            penalty = submission.late_submission_penalty or 0
            state = SOUND[1] if waiting else SOUND[0]
            if key in troubles:
                state = troubles[key]
            elif key in found and notes[key]:
                state += f"; {notes[key]}"
            elif key not in found and not before.get(key, {"state": SOUND[0]})["state"].startswith(SOUND):
                state = before[key]["state"]
            lines.append({"student": key[0], "assignment": key[1], "points": submission.score - penalty,
                          "of": submission.max_score, "to mark": waiting,
                          "hours late": round(submission.total_seconds_late / 3600, 1) if submission.timestamp else None,
                          "state": state})
    known = {(line["student"], line["assignment"]) for line in lines}
    lines += [{**line, "points": float(line["points"])} for key, line in before.items()
              if key not in known and key not in troubles and key not in found]
    lines += [{"student": key[0], "assignment": key[1], "points": 0.0, "of": None, "to mark": 0.0, "hours late": None,
               "state": text} for key, text in troubles.items() if key not in known]
    lines.sort(key=lambda line: (line["assignment"], line["student"]))
    write(path, ["student", "assignment", "points", "of", "to mark", "hours late", "state"], lines)
    return lines


@contextmanager
def alone(course: Path):
    """One program at a time grades into a folder. Raises CourseError for the second."""
    course.mkdir(parents=True, exist_ok=True)
    with (course / ".grading").open("w") as file:
        try:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:                                    # Windows
            pass
        except BlockingIOError:
            raise CourseError(f"another `make grade` is at work in {course}; wait until it has ended") from None
        yield


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
        with alone(options.course.resolve()):
            lines = grade(options.submissions, options.course.resolve(), limits, due, options.force)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    for line in lines:
        print(f"{line['assignment']}  {line['student']:20} {line['points']:5g} of {line['of'] or 0:g}  {line['state']}")
    print(f"Written: grades.csv, tasks.csv, marks.csv and feedback/ in {options.course}")
    return int(any(not line["state"].startswith(SOUND) for line in lines))


if __name__ == "__main__":
    sys.exit(main())
