"""The course run headless, checked, and reported as pages."""

from metlib.notebooks.kernel import NotebookFailed, Refused, execute
from metlib.notebooks.report import Entry, read_scores, write_index, write_page
from metlib.notebooks.runner import course, paint_default, read_parameters
from metlib.notebooks.stamping import stamp
