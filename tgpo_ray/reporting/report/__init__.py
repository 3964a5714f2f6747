"""A one-page HTML report of one run, or of several side by side: figures, plots, sample episodes, configuration.

The page is one file that loads nothing from elsewhere and runs no script. matplotlib is imported when a plot is drawn.
"""

from .conclusions import conclude
from .page import write_report
from .record import RunRecord, load_run

__all__ = ["RunRecord", "conclude", "load_run", "write_report"]
