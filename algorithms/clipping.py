"""Options of `PolicyLoss` that switch its clip off."""

from typing import Any

NO_CLIP: dict[str, Any] = {"clip_low": 1.0, "clip_high": float("inf")}  # the ratio is never below 0
