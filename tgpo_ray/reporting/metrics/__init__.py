"""Names, reduction and writers of the figures that a run reports.

A metric is a float with a slash-separated name (`guidance/nll`). Ranks and micro-batches send (sum, count) pairs, which
`reduce` turns into means. The driver adds its own metrics and gives the writers one dictionary an iteration. Iteration
0 is the state before the first update, and its row has the evaluation of the base policy.
"""

from .logins import writer_problems
from .names import METRICS, MetricInfo
from .reduction import Sums, reduce, rollout_metrics, zero_advantage_share
from .writers import (
    JsonlWriter,
    MetricsWriter,
    ReportingLike,
    TensorBoardWriter,
    WandbWriter,
    finite,
    open_writers,
    read_metrics,
)

__all__ = [
    "METRICS",
    "JsonlWriter",
    "MetricInfo",
    "MetricsWriter",
    "ReportingLike",
    "Sums",
    "TensorBoardWriter",
    "WandbWriter",
    "finite",
    "open_writers",
    "read_metrics",
    "reduce",
    "rollout_metrics",
    "writer_problems",
    "zero_advantage_share",
]
