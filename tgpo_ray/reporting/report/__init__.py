"""An HTML report of one run, or of several side by side, with figures, plots, sample episodes and configuration.

The page is one file that loads nothing from elsewhere and runs no script. A plot imports matplotlib when it is drawn.
"""

from .conclusions import conclude
from .page import line_key, report_page, write_report
from .pages import distinct, write_reports
from .plots import draw_svg, moving_average, smoothing_width, style
from .record import RunRecord, load_run
from .stylesheet import CSS

__all__ = [
    "CSS",
    "RunRecord",
    "conclude",
    "distinct",
    "draw_svg",
    "line_key",
    "load_run",
    "moving_average",
    "report_page",
    "smoothing_width",
    "style",
    "write_report",
    "write_reports",
]
