"""The data of one response to one problem, in flat arrays without a Python object for each token.

`Episode` and `Guidance` travel between actors through Ray's object store, where numpy arrays are read without a copy.
The driver sees only `EpisodeInfo`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

ORIGIN_ENVIRONMENT, ORIGIN_POLICY, ORIGIN_TEACHER, ORIGIN_BASE = 0, 1, 2, 3
"""Who wrote a response token: the environment (or a tool), the policy, the teacher (traces, prefixes), or the policy
as it was before training (`guidance.prefixes: base`)."""

OUTCOMES = ("correct", "wrong", "unparsable", "timeout", "error")
STOP_REASONS = ("stop", "length", "abort")

TaskKey = tuple[int, int]
"""The batch and the ordinal of a task, which name it while it is sampled."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """One scorer's answer at each of the T response positions of an episode. Fields outside the request are None.

    Position t is aligned with response token t. There the scorer read the prompt and the tokens before t.
    """

    teacher_ids: np.ndarray | None = None  # (T,) int32, the scorer's token in the policy's ids; -1: no guidance here
    teacher_logprobs: np.ndarray | None = None  # (T,) float32, the scorer's log-probability of the sampled token
    topk_ids: np.ndarray | None = None  # (T, k) int32, -1 where missing
    topk_logprobs: np.ndarray | None = None  # (T, k) float32
    hidden: np.ndarray | None = None  # (T, D) float32, the scorer's final hidden states, for full-vocabulary losses
    values: np.ndarray | None = None  # (T,) float32, any number a scorer gives a token, e.g. a process advantage

    def arrays(self) -> list[np.ndarray]:
        """The fields that are not None, each of T rows."""
        arrays = (getattr(self, field.name) for field in fields(self))
        return [values for values in arrays if values is not None]


@dataclass(frozen=True, slots=True)
class Episode:
    """One prompt, one response (P prompt tokens, T response tokens) and its reward."""

    prompt_ids: np.ndarray  # (P,) int32
    response_ids: np.ndarray  # (T,) int32
    origin: np.ndarray  # (T,) uint8, ORIGIN_*: every mask derives from it
    reward: float
    outcome: str  # one of OUTCOMES
    stop_reason: str  # one of STOP_REASONS
    env_id: str
    problem_index: int
    seed: int
    weights_version: int  # of the first token
    old_logprobs: np.ndarray | None = None  # (T,) float32, under the weights that wrote each token
    version_changes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    """(C, 2) int32, rows of (first response token, its weights version) where weights changed within the response."""
    turn_ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # (turns,) int32, exclusive
    turn_rewards: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # (turns,) float32
    reward_parts: Mapping[str, float] = field(default_factory=dict)
    guidance: Mapping[str, Guidance] = field(default_factory=dict)  # by scorer: "teacher", "reference", a user's
    answer: str | None = None  # the response's answer as the verifier read it; None: it found none, or says nothing

    @property
    def num_policy_tokens(self) -> int:
        return int((self.origin == ORIGIN_POLICY).sum())

    @property
    def token_versions(self) -> np.ndarray:
        """(T,) int32, the version of the weights that wrote each token, or before which the environment did."""
        versions = np.full(len(self.response_ids), self.weights_version, np.int32)
        for start, version in self.version_changes:
            versions[start:] = version
        return versions

    @property
    def correct(self) -> float:
        """1.0 if the verifier judged the response right, else 0.0."""
        return float(self.outcome == "correct")

    @property
    def uniform(self) -> np.ndarray:
        """(T,) float32 in [0, 1), noise that depends only on the episode's content."""
        entropy = [self.problem_index, self.seed, self.weights_version, *self.response_ids.tolist()]
        return np.random.default_rng(np.abs(entropy)).random(len(self.response_ids), np.float32)

    def info(self) -> EpisodeInfo:
        return EpisodeInfo(
            reward=self.reward,
            num_prompt_tokens=len(self.prompt_ids),
            num_response_tokens=len(self.response_ids),
            num_policy_tokens=self.num_policy_tokens,
            outcome=self.outcome,
            stop_reason=self.stop_reason,
            weights_version=self._mean_version(),
        )

    def _mean_version(self) -> float:
        written = self.origin == ORIGIN_POLICY
        if not len(self.version_changes) or not written.any():
            return float(self.weights_version)
        return float(self.token_versions[written].mean())


@dataclass(frozen=True, slots=True)
class EpisodeInfo:
    """The figures of an episode for the driver. The tokens stay behind the group's reference."""

    reward: float
    num_prompt_tokens: int
    num_response_tokens: int
    num_policy_tokens: int
    outcome: str
    stop_reason: str
    weights_version: float  # mean over the policy's tokens; whole unless weights changed within the response

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_response_tokens


@dataclass(frozen=True, slots=True)
class EpisodeGroup:
    """The G episodes of one problem: the same environment, index, seed and prompt."""

    episodes: tuple[Episode, ...]
    prompt_text: str = ""
    response_texts: tuple[str, ...] = ()  # filled for the groups whose samples the report shows

    def __len__(self) -> int:
        return len(self.episodes)


@dataclass(frozen=True, slots=True)
class Task:
    """A problem for a runner, with its number in its batch. `ordinal` orders the results."""

    env_index: int  # into the configuration's `envs`
    problem_index: int
    seed: int
    ordinal: int = 0
    batch: int = 0  # number of the batch, where the tasks of several are sampled at the same time

    @property
    def key(self) -> TaskKey:
        return self.batch, self.ordinal


@dataclass(frozen=True)
class SampledGroup:
    """A finished group on the driver, with figures here and tokens behind `ref`."""

    ordinal: int
    task: Task
    infos: tuple[EpisodeInfo, ...]
    ref: Any  # ObjectRef of an EpisodeGroup
    guidance: dict[str, Any] = field(default_factory=dict)  # scorer -> ObjectRef of a list of Guidance, one an episode
    members: tuple[int, ...] | None = None  # indices behind `ref` of the episodes in `infos`; None: all

    def keeping(self, indices: Sequence[int]) -> SampledGroup:
        """The group with only these episodes. Advantages and learners do not see the others."""
        members = range(len(self.infos)) if self.members is None else self.members
        return replace(self, infos=tuple(self.infos[i] for i in indices), members=tuple(members[i] for i in indices))

    @property
    def rewards(self) -> list[float]:
        return [info.reward for info in self.infos]

    @property
    def success(self) -> float:
        """The mean reward of the policy's episodes, each cut to [0, 1]; 0.0 without any."""
        rewards = [min(1.0, max(0.0, info.reward)) for info in self.infos]
        return sum(rewards) / len(rewards) if rewards else 0.0

    @property
    def num_policy_tokens(self) -> int:
        return sum(info.num_policy_tokens for info in self.infos)
