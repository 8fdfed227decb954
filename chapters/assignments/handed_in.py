"""What students hand in: found in a folder, and put into the form that can be graded.

Students delete cells, copy them, rename the file. So what is graded is the notebook that was handed out, with the student's
answers in it, and with the cells that the student added where they stood.
"""
import ast
import json
import re
import shutil
import unicodedata
import warnings
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import nbformat
import release

from lib.errors import CourseError

HERE = Path(__file__).resolve().parent
LARGEST = 20 * 2**20                                           # bytes of a notebook that is read
OURS = ("submitted", "autograded", "feedback", "release", "instructor", "source")
# "!pip install x", "%pip ...", "!python -m pip ...", "!{sys.executable} -m pip ...", with the lines that they go on in
INSTALL = re.compile(r"(?m)^([ \t]*)((?:[!%][ \t]*(?:\S+[ \t]+-m[ \t]+)?(?:pip3?|conda|mamba|uv)\b|pip3?[ \t]+install\b)"
                     r"(?:[^\n]*\\\n)*[^\n]*)$")
PASTED = re.compile(r"!\[[^\]]*\]\(attachment:([^)\s]+)[^)]*\)")       # a picture in a cell of text


def find(folder: Path, course: Path) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """{(student, assignment): notebook}, and a line for each file that is left out. Of several the newest counts.

    Raises CourseError if there is no such folder, it is one that grading writes, or two students would get one name.
    """
    if not folder.is_dir():
        raise CourseError(f"{folder} is not a folder. It should hold a folder for each student, with their notebooks")
    place, course = folder.resolve(), course.resolve()
    if course.is_relative_to(place) or HERE.is_relative_to(place) or any(place.is_relative_to(course / name) for name in OURS):
        raise CourseError(f"{folder} is where the course keeps its own files. Put what was handed in into a folder of its own, "
                          "with a folder for each student")
    found, left, folders = {}, [], {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith((".", "__MACOSX")) for part in inside.parts) or path.suffix.lower() != ".ipynb":
            continue
        if path.is_symlink() or not path.resolve().is_relative_to(place):
            left.append(f"{inside}: a link, not a file")
        elif len(inside.parts) < 2:
            left.append(f"{inside}: not in a folder named as its student")
        elif path.stat().st_size > LARGEST:
            left.append(f"{inside}: {path.stat().st_size / 2**20:.0f} MiB are more than a notebook should have")
        elif (number := number_of(path)) is None:
            left.append(f"{inside}: neither its cells nor its name say which assignment it is")
        else:
            student = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", inside.parts[0]))
            other = folders.setdefault(student, inside.parts[0])
            if other != inside.parts[0]:
                raise CourseError(f"the folders {other!r} and {inside.parts[0]!r} would both be the student {student}; rename "
                                  "one. Names keep letters, digits, '.', '-' and '_' only")
            if (student, number) in found:
                older, path = sorted((found[student, number], path), key=lambda p: p.stat().st_mtime)
                left.append(f"{older.relative_to(folder)}: {path.name} is newer")
            found[student, number] = path
    students = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    left += [f"{path.name}: no notebook in this folder" for path in students
             if not any(each.suffix.lower() == ".ipynb" for each in path.rglob("*"))]
    return found, left


def number_of(path: Path) -> str | None:
    """Which assignment: what most of its cells belong to, else the number that its name begins with."""
    try:
        came = names_in(read(path))
    except Exception:                                          # whatever a file may hold: it is looked at again later
        came = set()
    common = {number: len(came & names) for number, names in all_names().items()}
    if any(common.values()):
        return max(common, key=common.get)
    named = re.match(r"(\d\d)(?!\d)", path.name)
    return named[1] if named and named[1] in common else None


@cache
def all_names() -> dict[str, set[str]]:
    """{assignment: the names that its cells alone have}"""
    found = {number: names_in(release.instructor(number)) for number in release.numbers()}
    count = Counter(name for names in found.values() for name in names)
    return {number: {name for name in names if count[name] == 1} for number, names in found.items()}


def read(path: Path) -> nbformat.NotebookNode:
    """Any notebook, also one that a program wrote carelessly: without metadata, with half a letter, with ids twice."""
    data = json.loads(path.read_text(encoding="utf-8-sig"))
    for part in [data, *(data.get("cells") or [])]:
        part.setdefault("metadata", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notebook = nbformat.reads(json.dumps(data), as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.encode("utf-8", "replace").decode()                # half of a pair of surrogates
    return notebook


def name_of(cell) -> str | None:
    """How the assignment calls a cell: "attend", "attend-1"; None for a cell of the student's own."""
    named = cell.metadata.get("nbgrader")
    return named.get("grade_id") if isinstance(named, dict) else None


def names_in(notebook) -> set[str]:
    return {name for cell in notebook.cells if cell.cell_type == "code" and (name := name_of(cell))}


def assemble(handed_in, handed_out) -> nbformat.NotebookNode:
    """The notebook that was handed out, with the answers of the one that was handed in, and with the cells added to it.

    A cell that was copied counts at its first place (there, too, if only the copy was filled in); other copies, and cells
    that lost their name, are cells that the student added, and so is what the student made of a cell that is given or a test.
    An answer that another cell holds, under whatever name, is not covered by the stub. Behind the last cell of code, all that
    the student wrote belongs to the open question, with the pictures in it. Lines that install something are left out.
    """
    known = {name: cell for cell in handed_out.cells if (name := name_of(cell))}
    answers, before, behind = {}, {}, {None: []}               # of cells that are known: answer, and what was added
    written, last, told = [], None, {cell.source.strip() for cell in handed_out.cells}
    pictures = with_own_names(handed_in.cells)
    for cell in handed_in.cells:
        name, text = name_of(cell), cell.source
        if name in known and name not in answers and is_open(known[name]):
            answers[name] = text
        elif name in known and name not in behind and cell.cell_type == "code":
            last, behind[name] = name, []
            if is_answer(known[name]):
                answers[name] = text
            elif text.strip() != known[name].source.strip():
                before[name] = text
            written = []
        elif name in answers and name in behind and is_stub(answers[name], known[name]) and not is_stub(text, known[name]):
            answers[name] = text                               # the stub stayed above the copy that was filled in
        elif cell.cell_type == "code":
            behind[last].append(text)
            written += [text] if is_prose(text) else []
        elif text.strip() not in told:
            written.append(text)
    code = "\n".join(cell.source for cell in handed_in.cells if cell.cell_type == "code")
    for name, cell in known.items():
        if is_open(cell):
            own = [text for text in (answers.get(name, ""), *written) if text.strip() and text.strip() not in told]
            answers[name] = "\n\n".join(own) or cell.source
        elif is_answer(cell) and name not in answers and re.search(rf"(?m)^((def|class) )?{name}\s*[(:=]", code):
            answers[name] = "# in another cell"
    made = nbformat.v4.new_notebook(metadata=handed_out.metadata)
    made.cells = [nbformat.v4.new_code_cell(source) for source in behind[None]]
    for cell in handed_out.cells:
        name = name_of(cell)
        made.cells += [nbformat.v4.new_code_cell(before[name])] if name in before else []
        cell.source = answers.get(name, cell.source)
        if name in known and is_open(cell):
            cell.source = PASTED.sub(lambda m: m[0] if m[1] in pictures else f"[the picture {m[1]} is missing]", cell.source)
            cell.attachments = {key: picture for key, picture in pictures.items() if f"attachment:{key}" in cell.source}
        made.cells += [cell, *(nbformat.v4.new_code_cell(source) for source in (behind.get(name, []) if name else []))]
    for n, cell in enumerate(made.cells):
        cell.id = f"cell-{n}"                                  # the same for the same answers
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = INSTALL.sub(lambda m: f"{m[1]}pass  # not run here: {' '.join(m[2].split())}", cell.source)
    return made


def with_own_names(cells) -> dict[str, dict]:
    """{name: picture} of what was pasted into cells of text; two of one name get two names, in the texts as well."""
    pictures = {}
    for n, cell in enumerate(cells):
        for name, picture in dict(cell.get("attachments") or {}).items():
            own = name if pictures.get(name, picture) == picture else f"{n}-{name}"
            cell.source = cell.source.replace(f"(attachment:{name}", f"(attachment:{own}")
            pictures[own] = picture
    return pictures


def is_prose(code: str) -> bool:
    """Whether a cell of code holds nothing that runs: comments, or words."""
    try:
        return bool(code.strip()) and not ast.parse(INSTALL.sub("", code)).body
    except (SyntaxError, ValueError):
        return not code.lstrip().startswith(("%", "!"))


def is_open(cell) -> bool:
    return cell.cell_type == "markdown" and name_of(cell) is not None


def is_stub(text: str, handed_out) -> bool:
    return text.strip() == handed_out.source.strip()


def is_answer(cell) -> bool:
    return cell.cell_type == "code" and bool(cell.metadata.nbgrader.get("solution"))


def collect(path: Path, student: str, number: str, course: Path) -> tuple[Path, str, str]:
    """Put a notebook in nbgrader's place for it -> (that place, why it cannot be graded, what else is to be said of it)."""
    place = course / "submitted" / student / number
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    handed_out = nbformat.read(course / "release" / number / f"{number}.ipynb", as_version=4)
    try:
        handed_in = read(path)
        nothing = not names_in(handed_in)
        made = assemble(handed_in, handed_out)
        nbformat.write(made, place / f"{number}.ipynb")
    except Exception as error:                                 # whatever a file may hold
        return place, f"not a notebook ({type(error).__name__})", ""
    if nothing:
        (place / f"{number}.ipynb").unlink()
        return place, "none of its cells is one of the assignment; was it copied into a new notebook?", ""
    stamp = path.parent / "timestamp.txt"
    if not stamp.is_file() or stamp.is_symlink():
        return place, "", ""
    text = stamp.read_text(encoding="utf-8-sig", errors="replace").strip()
    if (when := moment(text)) is None:
        return place, "", f"timestamp.txt says {text[:40]!r}, a time such as 2026-10-06 09:30:00 UTC was expected"
    (place / "timestamp.txt").write_text(when.strftime("%Y-%m-%d %H:%M:%S UTC"), encoding="utf-8")
    return place, "", ""


def moment(text: str) -> datetime | None:
    """"2026-10-06 09:30:00.5 UTC", or with the name of another zone, or without any (UTC) -> that moment; else None."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?) ?([A-Za-z_/]+|[+-]\d\d:?\d\d)?", text)
    if found is None:
        return None
    try:
        if found[2] is None or found[2] in ("Z", "UTC", "GMT"):
            return datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        if found[2][0] in "+-":
            return datetime.fromisoformat(found[1] + found[2]).astimezone(UTC)
        return datetime.fromisoformat(found[1]).replace(tzinfo=ZoneInfo(found[2])).astimezone(UTC)
    except (ValueError, KeyError, OSError, OverflowError):     # no such day, or no such zone
        return None
