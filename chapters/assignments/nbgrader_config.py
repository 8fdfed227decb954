"""What nbgrader needs to know here, for the commands of this folder and for `nbgrader` and its formgrader alike."""
import sys
from pathlib import Path

HERE = str(Path(__file__).resolve().parent) if "__file__" in globals() else "."
if HERE not in sys.path:
    sys.path.insert(0, HERE)                                   # for limits.py

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "what-vits-learn"
c.CourseDirectory.source_directory = "instructor"              # made from source/ by release.py
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "feedback", ".DS_Store"]
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.ClearSolutions.text_stub = "*Write your answer here.*"
c.Autograde.autograde_preprocessors = [
    "limits.Confined", "nbgrader.preprocessors.IgnorePattern", "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput", "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties", "nbgrader.preprocessors.CheckCellMetadata",
]
c.Confined.startup_timeout = 300                               # seconds for a kernel to start; a busy machine is slow
c.Confined.extra_arguments = ["--IPKernelApp.log_level=ERROR"]
c.GenerateFeedback.preprocessors = [
    "nbgrader.preprocessors.GetGrades", "limits.HideTests", "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
c.HTMLExporter.sanitize_html = True                            # what a student writes is text, not a program
c.LateSubmissionPlugin.penalty_method = "none"                 # "zero": a late submission earns nothing
