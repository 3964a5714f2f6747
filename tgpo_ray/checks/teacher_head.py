"""The check that the distributions which learners rebuild from a teacher's hidden states are the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tgpo_ray.checks.read_back import WritingTeacher, given
from tgpo_ray.checks.results import CheckResult, Finding, judged, skipped
from tgpo_ray.episode import EpisodeGroup
from tgpo_ray.models import ScoringRequest, Want

if TYPE_CHECKING:
    from tgpo_ray.kernels import LogitTransform
    from tgpo_ray.teachers import TeacherGroup


class RebuiltHead(Protocol):
    """What the learners know of the teacher's head."""

    @property
    def model(self) -> str: ...  # folder

    @property
    def transform(self) -> LogitTransform: ...

    @property
    def trust_remote_code(self) -> bool: ...


@dataclass(frozen=True)
class HeadGap:
    """The distance of two log-probs of the same tokens: from the hidden states, and as the teacher gave them."""

    num_tokens: int
    mean: float  # nats
    largest: float


def check_teacher_head(
    who: str, pool: TeacherGroup, head: RebuiltHead, groups: Sequence[EpisodeGroup], bound: float
) -> CheckResult:
    """Returns whether the teacher's head, as the learners read it, gives the log-probs that the teacher gives.

    Args:
        bound: nats that the log-probs may differ by in the mean.
    """
    import ray

    look = partial(head_gap, head=head, groups=groups)
    gap: HeadGap = ray.get(pool.handles[0].__ray_call__.remote(look))
    name, shown = f"the head of {who}", f"mean <= {bound:g} nats"
    if not gap.num_tokens:
        return skipped(name, "the policy wrote nothing", shown)
    return judged(
        name,
        [Finding(None, f"mean gap {gap.mean:.3g} nats over {gap.num_tokens} tokens")] if not gap.mean <= bound else [],
        measured=(
            f"log-probs of {gap.num_tokens} tokens from its hidden states differ by {gap.mean:.2g} nats from its own, "
            f"at most {gap.largest:.2g}"
        ),
        bound=shown,
        fix="its logits are not those of its LM head with the scale and soft cap that its config.json says: choose "
        "another teacher for this method",
    )


def head_gap(teacher: WritingTeacher, head: RebuiltHead, groups: Sequence[EpisodeGroup]) -> HeadGap:
    """Returns the gap over the groups' responses. It runs inside the teacher's actor and in the teacher's ids."""
    import torch

    from tgpo_ray.kernels import chunked_logprobs
    from tgpo_ray.models import find_head

    pairs = [(group, episode) for group in groups for episode in group.episodes if len(episode.response_ids)]
    if not pairs:
        return HeadGap(0, 0.0, 0.0)
    requests: list[ScoringRequest] = [teacher.translator.request(group, episode)[0] for group, episode in pairs]
    scores = teacher.backend.score(requests, Want(logprob=True, hidden=True))
    weight, bias = find_head(head.model, trust_remote_code=head.trust_remote_code).read()
    hidden = torch.from_numpy(np.concatenate([given(it.hidden) for it in scores])).to(weight.dtype)  # (N, D)
    targets = np.concatenate([it.ids[it.first :] for it in requests]).astype(np.int64)  # (N,)
    rebuilt, _ = chunked_logprobs(
        hidden, weight, torch.from_numpy(targets)[:, None], bias=bias, transform=head.transform
    )
    gaps = np.abs(rebuilt[:, 0].numpy() - np.concatenate([given(it.logprobs) for it in scores]))
    return HeadGap(len(gaps), float(gaps.mean()), float(gaps.max()))
