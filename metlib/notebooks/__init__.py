"""The course run headless, checked, and reported as pages."""

from metlib.notebooks.report import Ran, read_scores, write_pages
from metlib.notebooks.runner import NotebookFailed, Refused, course, parameters, run, stamp

__all__ = ["NotebookFailed", "Ran", "Refused", "course", "parameters", "read_scores", "run", "stamp", "write_pages"]
