"""The outputs of a run: metrics with their writers, the progress line, the HTML report and its page of tokens."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.reporting.metrics import (
        METRICS,
        JsonlWriter,
        MetricsWriter,
        open_writers,
        read_metrics,
        reduce,
        rollout_metrics,
        writer_problems,
    )
    from tgpo_ray.reporting.progress import Progress
    from tgpo_ray.reporting.report import (
        CSS,
        RunRecord,
        distinct,
        draw_svg,
        line_key,
        load_run,
        moving_average,
        report_page,
        smoothing_width,
        style,
        write_report,
        write_reports,
    )
    from tgpo_ray.reporting.tokens import TOKEN_FOLDER, Piece, TokenEpisode, TokenFiles
    from tgpo_ray.reporting.watch_server import WatchServer

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "metrics": [
            "JsonlWriter",
            "METRICS",
            "MetricsWriter",
            "open_writers",
            "read_metrics",
            "reduce",
            "rollout_metrics",
            "writer_problems",
        ],
        "progress": ["Progress"],
        "report": [
            "CSS",
            "RunRecord",
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
        ],
        "tokens": ["Piece", "TOKEN_FOLDER", "TokenEpisode", "TokenFiles"],
        "watch_server": ["WatchServer"],
    },
)
