"""How a submission is run: a time limit for each cell, a memory limit, and a fresh kernel after code that ran away.

nbgrader interrupts a cell that takes too long, and goes on. That is not enough where the code catches the interrupt, ends
the kernel, or fills the memory: every cell after it would fail too. Here the kernel is then replaced, and the cells
before are run again, without those that ran away, so that the other tasks earn their points.
"""
import ast
import copy
import os
import re
import tempfile

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.util import run_sync
from nbformat.v4 import new_output
from nbgrader.preprocessors import Execute, NbGraderPreprocessor
from nbgrader.utils import is_grade, is_locked, is_solution
from traitlets import Float, Integer

PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT")
HIDDEN = "BEGIN HIDDEN TESTS"                                   # what a test holds that students do not see
OUT_OF_MEMORY = re.compile(r"MemoryError|can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory")

# A module in the kernel, out of reach of what the student's cells do to names, to the folder, or to the files in it. Tests run
# in `names`: what is given, as it was made, the answers, and the checks.
GRADED = """
import json, pathlib, types
from IPython import get_ipython

names = {"__name__": "__main__"}
here = pathlib.Path().absolute()
texts = {name: (here / name).read_text(encoding="utf-8") for name in ("checks.py", "checks.json")}

def keep(wanted):
    space = get_ipython().user_ns
    names.update({name: space[name] for name in wanted if name in space})

def test(answers, source, shown):
    keep(answers)
    checks = types.ModuleType("checks")
    checks.__file__ = str(here / "checks.py")
    exec(compile(texts["checks.py"], "checks.py", "exec"), checks.__dict__)
    checks.entries = lambda: json.loads(texts["checks.json"])
    names.update(check=checks.check, same=checks.same)
    try:
        exec(compile(source, "<test>", "exec"), names)
    finally:                                        # what a test makes that students see is there for their cells too
        get_ipython().user_ns.update({name: names[name] for name in shown if name in names})

class Left(BaseException):
    pass

def leave(*inputs, **words):
    raise Left

def prepare(answers, source):
    names.update(dict.fromkeys(["check", "same", *answers], leave))
    try:
        exec(compile(source, "<test>", "exec"), names)
    except BaseException:
        pass
"""
# In a new kernel: exit() in a cell must not end it, and the module is made.
BEGIN = """import sys as _sys, types as _types
get_ipython().ask_exit = lambda: None
_sys.modules["graded"] = _types.ModuleType("graded")
exec(compile({source}, "<graded>", "exec"), _sys.modules["graded"].__dict__)"""
CALL = """import sys as _sys
_sys.modules["graded"].{call}"""


def is_given(cell) -> bool:
    """A code cell that the assignment brings, neither answer nor test."""
    return cell.cell_type == "code" and is_locked(cell) and not is_grade(cell)


def made_by(source: str) -> set[str]:
    """The names that a cell imports, assigns or defines."""
    nodes = list(ast.walk(ast.parse(source)))
    return ({node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            | {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)})


class Confined(Execute):
    """nbgrader's Execute with the limits. `seconds` for a cell; the first cells, which import, have `setup_seconds`."""

    seconds = Float(10, help="Time limit of a cell that a student may write or that tests one.").tag(config=True)
    setup_seconds = Float(120, help="Time limit of the other cells, which import.").tag(config=True)
    memory = Integer(4 * 2**30, help="Most memory a kernel may have of its own, in bytes; 0 sets no limit.").tag(config=True)
    disk = Integer(2**28, help="Largest file that a kernel may write, in bytes.").tag(config=True)
    patience = Integer(2, help="After so many cells of one task that ran away, its other tests are not run.").tag(config=True)

    def preprocess(self, nb, resources):
        self.timeout_func = lambda cell: self.setup_seconds if is_given(cell) else self.seconds
        self.answers = [cell.metadata.nbgrader.grade_id for cell in nb.cells if cell.cell_type == "code" and is_solution(cell)]
        self.log.disabled = True                               # its tracebacks of lost kernels say nothing to a lecturer
        self.wild, self.strikes = set(), {}
        with tempfile.TemporaryDirectory() as home:
            self.home = home
            try:
                return super().preprocess(nb, resources)
            finally:
                self.log.disabled = False

    def start_new_kernel(self, **kwargs):
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"HOME": self.home, "OMP_NUM_THREADS": "1", "NBGRADER_EXECUTION": "autograde", "MPLBACKEND": "agg"}
        environment |= {"PIP_TARGET": f"{self.home}/packages", "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "CONDA_OFFLINE": "1"}
        run_sync(self.async_start_new_kernel)(env=environment, preexec_fn=self.set_limits, **kwargs)

    def start_new_kernel_client(self, **kwargs):
        client = super().start_new_kernel_client(**kwargs)
        self.kc.execute(BEGIN.format(source=repr(GRADED)), silent=True, store_history=False)
        return client

    def set_limits(self):
        """In the new process, before Python starts."""
        try:
            import resource
        except ImportError:                                    # Windows has no such limits
            return
        for name, limit in (("RLIMIT_DATA", self.memory), ("RLIMIT_FSIZE", self.disk), ("RLIMIT_CORE", 1)):
            if limit and hasattr(resource, name):
                resource.setrlimit(getattr(resource, name), (limit, limit))

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type != "code" or not cell.source.strip():
            return cell, resources
        task = cell.metadata.get("nbgrader", {}).get("grade_id", "").rpartition("-")[0] if is_grade(cell) else ""
        if task and self.strikes.get(task, 0) >= self.patience:
            self.fail(cell, "NotRun", f"{self.patience} of the cells of this task ran away before, so this one was not run")
            return cell, resources
        runaway = self.attempt(cell, resources, index)
        if runaway:
            self.wild.add(index)
            self.strikes[task] = self.strikes.get(task, 0) + 1
            self.replace_kernel(index)
        return cell, resources

    def attempt(self, cell, resources, index) -> bool:
        """Run the cell; did it run away?"""
        source = cell.source
        if is_grade(cell):
            shown = [] if HIDDEN in source else sorted(made_by(source))
            cell.source = CALL.format(call=f"test({self.answers}, {source!r}, {shown})")
        try:
            return self.run_limited(cell, resources, index)
        finally:
            cell.source = source
            if is_grade(cell):                                 # nbgrader takes a warning for a failure
                cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            elif is_given(cell):
                self.kc.execute(CALL.format(call=f"keep({sorted(made_by(source))})"), silent=True, store_history=False)

    def run_limited(self, cell, resources, index) -> bool:
        late = f"stopped after {self.seconds:g} seconds. Does a loop never end?"
        self.iopub_timeout = 120                               # a busy machine may be slow to deliver what was printed
        try:
            super().preprocess_cell(cell, resources, index)
        except DeadKernelError:
            self.fail(cell, "DeadKernel", "the kernel died in this cell")
            return True
        except CellTimeoutError:                               # nothing is known of its outputs: a test that is not known to
            self.fail(cell, "CellTimeout", late)               # have passed has failed
            return True
        for output in cell.outputs:
            if output.output_type == "error" and output.ename == "CellTimeoutError":
                self.fail(cell, "CellTimeout", late)
                return True
            if output.output_type == "error" and OUT_OF_MEMORY.search(f"{output.ename} {output.evalue}"):
                self.fail(cell, "OutOfMemory", f"stopped: it asked for more than {self.memory / 2**30:.2g} GiB of memory")
                return True
        return False

    async def _async_handle_timeout(self, timeout, cell=None):
        self.iopub_timeout = 4                                 # code that goes on after the interrupt is not waited for
        return await super()._async_handle_timeout(timeout, cell)

    @staticmethod
    def fail(cell, name, text):
        cell.outputs = [new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"])]

    def replace_kernel(self, index):
        """A new kernel in the state that the cells before had left, except for those that ran away."""
        self._cleanup_kernel()
        self.km = self.create_kernel_manager()
        self.start_new_kernel()
        self.start_new_kernel_client()
        for i, cell in enumerate(self.nb.cells[:index + 1]):   # the one that ran away too, as far as it may go
            if i in self.wild and is_grade(cell):              # what it made before it called the answer, others may need
                self.kc.execute(CALL.format(call=f"prepare({self.answers}, {cell.source!r})"), silent=True,
                                store_history=False)
            elif cell.cell_type == "code" and cell.source.strip() and i not in self.wild:
                shadow = copy.deepcopy(cell)
                if self.attempt(shadow, self.resources, i):    # it ran before, and does not now: leave it out for good
                    self.wild.add(i)
                    return self.replace_kernel(index)
                self.nb.cells[i] = cell                        # the outputs of the first time


class HideTests(NbGraderPreprocessor):
    """For the feedback: of a hidden test its result alone; of the student's cells no outputs, which may name what is hidden."""

    SAFE = ("NotRight", "CellTimeout", "DeadKernel", "OutOfMemory", "NotRun", "NotImplementedError")      # say what is ours

    def preprocess_cell(self, cell, resources, cell_index):
        if cell.cell_type != "code":
            return cell, resources
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        hidden = is_grade(cell) and HIDDEN in cell.source
        if hidden:
            cell.source = re.sub(r"[^\n]*BEGIN HIDDEN TESTS.*?END HIDDEN TESTS[^\n]*\n?", "", cell.source, flags=re.DOTALL)
        for output in errors if hidden or not is_grade(cell) else ():
            said = output.evalue if output.ename in self.SAFE or not hidden else "(its text may hold what is hidden)"
            output.evalue, output.traceback = said[:500], [f"{output.ename}: {said[:500]}"]
        for output in errors if is_grade(cell) else ():
            short = [part for part in output.traceback if "graded" not in part]               # without the lines of GRADED
            output.traceback = short or [f"{output.ename}: {output.evalue}"]
        if hidden or not is_grade(cell):
            cell.outputs = errors
        return cell, resources
