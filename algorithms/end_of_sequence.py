"""The policy's end-of-sequence ids, which the terms of the teacher's log-ratio leave out."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tgpo_ray.models import end_of_sequence_ids

if TYPE_CHECKING:
    from tgpo_ray.config import ModelConfig

    from .ratio_config import RatioConfig


def masked_ids(model: ModelConfig, guidance: RatioConfig) -> tuple[int, ...]:
    """The policy's end-of-sequence ids, which the teacher's term leaves out; none with `mask_teacher_at_eos: false`."""
    if not guidance.mask_teacher_at_eos:
        return ()
    return _end_ids(model.path, model.tokenizer, model.trust_remote_code)


@cache  # a loss is made for every few groups, and these ids are read from files
def _end_ids(path: str, tokenizer: str | None, trust_remote_code: bool) -> tuple[int, ...]:
    return end_of_sequence_ids(path, tokenizer, trust_remote_code=trust_remote_code)
