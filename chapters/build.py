"""Run the chapters: source/NN_name.py (py:percent, what people edit) -> NN_name.ipynb (executed, what people read).

    python chapters/build.py               chapters whose source changed since their notebook was built
    python chapters/build.py 01 02 --force these two, changed or not
    python chapters/build.py --check       build nothing; name the chapters that need it, and exit with 1 if any does

Built twice from the same source, a notebook is the same to the last byte: cell ids come from the chapter and the
position of the cell, and nothing is kept of times, interpreter versions and live widgets.
"""
import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

CHAPTERS = Path(__file__).resolve().parent
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def read_source(source: Path) -> nbformat.NotebookNode:
    """The notebook that a source describes, not yet run."""
    text = source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem[:50]}-{index:03d}"
        cell.metadata = {key: cell.metadata[key] for key in ("tags", "nbgrader") if key in cell.metadata}
    notebook.metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
        "course": {"source": hashlib.sha256(text.encode()).hexdigest()},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.from_dict(notebook)


def is_current(source: Path, path: Path) -> bool:
    """Was the notebook at `path` built from this very source, and are its cells still those of the source?"""
    if not path.exists():
        return False
    expected, found = read_source(source), nbformat.read(path, as_version=4)
    return (found.metadata.get("course") == expected.metadata.course and
            [(cell.cell_type, cell.source) for cell in found.cells] ==
            [(cell.cell_type, cell.source) for cell in expected.cells])


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute in place, in `folder`, with one thread. Raises RuntimeError that names the cell which failed."""
    started = [0]
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
        record_timing=False, store_widget_state=False, coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        on_cell_start=lambda cell, cell_index: started.append(cell_index),
    )
    try:
        client.execute(env=os.environ | {"OMP_NUM_THREADS": "1"})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise RuntimeError(f"cell {started[-1]}\n{error}") from error
    notebook.metadata.language_info = {"name": "python"}         # the kernel adds its version
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)             # the picture or text beside it stays


def build(source: Path, path: Path) -> None:
    """Write the executed notebook, whole or not at all; if a cell fails, raise RuntimeError and leave `path` alone."""
    notebook = read_source(source)
    run(notebook, path.parent)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the chapters and save them as notebooks.")
    parser.add_argument("names", nargs="*", help="chapters, such as 02 or 02_contrastive; all if none is named")
    parser.add_argument("--force", action="store_true", help="also those whose source did not change")
    parser.add_argument("--check", action="store_true", help="build nothing; exit with 1 if a chapter needs building")
    options = parser.parse_args(arguments)

    sources = sorted((CHAPTERS / "source").glob("[0-9]*.py"))
    for name in options.names:
        if not any(source.stem.startswith(name) for source in sources):
            parser.error(f"no chapter {name!r}; there are: {', '.join(source.stem for source in sources) or 'none'}")
    if options.names:
        sources = [source for source in sources if source.stem.startswith(tuple(options.names))]
    if not options.force:
        sources = [source for source in sources if not is_current(source, CHAPTERS / f"{source.stem}.ipynb")]
    if not sources:
        print("Every notebook is up to date.")
    for source in sources:
        if options.check:
            print(f"{source.stem} needs building")
            continue
        print(f"{source.stem} ", end="", flush=True)
        start = time.perf_counter()
        try:
            build(source, CHAPTERS / f"{source.stem}.ipynb")
        except RuntimeError as error:
            print(f"stopped at {error}\n{source.stem}: the notebook is left as it was")
            return 1
        print(f"{time.perf_counter() - start:.1f} s")
    return int(options.check and bool(sources))


if __name__ == "__main__":
    sys.exit(main())
