"""The outputs of a run: metrics with their writers, the progress line, the HTML report."""

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
        draw_svg,
        line_key,
        load_run,
        moving_average,
        smoothing_width,
        style,
        write_report,
    )

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
            "draw_svg",
            "line_key",
            "load_run",
            "moving_average",
            "smoothing_width",
            "style",
            "write_report",
        ],
    },
)
