"""The course run headless, checked, and reported as pages."""

from metlib.notebooks.report import ExecutedNotebook, read_scores, write_pages
from metlib.notebooks.runner import NotebookFailed, Refused, course, execute, paint_default, read_parameters
from metlib.notebooks.stamping import stamp
