"""An HTML report of one run, or of several side by side, with figures, plots, sample episodes and configuration.

The page is one file that loads nothing from elsewhere and runs no script. A plot imports matplotlib when it is drawn.
"""

from .conclusions import conclude
from .page import write_report
from .record import RunRecord, load_run
from .stylesheet import CSS

__all__ = ["CSS", "RunRecord", "conclude", "load_run", "write_report"]
