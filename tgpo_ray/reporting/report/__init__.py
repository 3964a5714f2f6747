"""An HTML report of one run, or of several side by side, with figures, plots, sample episodes and configuration.

The page is one file that loads nothing from elsewhere and runs no script. A plot imports matplotlib when it is drawn.
"""

from .conclusions import conclude
from .page import report_page, write_report
from .pages import distinct, write_reports
from .record import RunRecord, load_run

__all__ = ["RunRecord", "conclude", "distinct", "load_run", "report_page", "write_report", "write_reports"]
