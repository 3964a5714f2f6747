"""One episode while it is being written: the conversation between an environment and the engine.

Sampled ids are never decoded and encoded again: what the engine returns is appended as it is, and after it only the
text that the environment adds, encoded on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tgpo_ray.engine import Completion
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, OUTCOMES, Episode, EpisodeGroup, Task


def prompt_ids(tokenizer: Any, prompt: str, info: dict[str, Any]) -> np.ndarray:
    """(P,) int32: the first observation as the model reads it, through its chat template where `info` has messages."""
    if info.get("messages") is not None:
        ids = tokenizer.apply_chat_template(info["messages"], add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer.encode(prompt, add_special_tokens=True)
    return np.asarray(ids, np.int32)


@dataclass
class Rollout:
    """The state of one running episode."""

    env: Any  # gymnasium.Env[str, str], reset to the task
    stop_reason: str = "stop"
    ids: list[np.ndarray] = field(default_factory=list)  # response pieces, in order
    origins: list[np.ndarray] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    turn_ends: list[int] = field(default_factory=list)
    turn_rewards: list[float] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.ids))

    def add_completion(self, completion: Completion) -> None:
        self._append(completion.token_ids, ORIGIN_POLICY, completion.logprobs)
        self.stop_reason = completion.stop_reason
        self.turn_ends.append(self.num_tokens)

    def add_environment_tokens(self, token_ids: np.ndarray) -> None:
        self._append(token_ids, ORIGIN_ENVIRONMENT, None)

    def _append(self, token_ids: np.ndarray, origin: int, logprobs: np.ndarray | None) -> None:
        self.ids.append(token_ids)
        self.origins.append(np.full(len(token_ids), origin, np.uint8))
        self.logprobs.append(np.zeros(len(token_ids), np.float32) if logprobs is None else logprobs)

    def step(self, text: str) -> str:
        """Give the response to the environment and return its next observation. Runs in a thread."""
        observation, reward, terminated, truncated, info = self.env.step(text)
        self.texts.append(text)
        self.turn_rewards.append(float(reward))
        self.info = info
        # a response that hit its token limit cannot go on: the context is spent
        self.done = terminated or truncated or self.stop_reason != "stop"
        return observation


@dataclass
class RunningGroup:
    """The G rollouts of one task."""

    task: Task
    prompt_text: str
    prompt_ids: np.ndarray  # (P,) int32
    rollouts: list[Rollout]
    num_open: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_open = len(self.rollouts)

    def finish(self, env_id: str, weights_version: int, *, with_logprobs: bool) -> EpisodeGroup:
        episodes = tuple(
            finished_episode(rollout, self, env_id, weights_version, with_logprobs=with_logprobs)
            for rollout in self.rollouts
        )
        return EpisodeGroup(episodes, self.prompt_text, tuple("".join(rollout.texts) for rollout in self.rollouts))


def finished_episode(
    rollout: Rollout, group: RunningGroup, env_id: str, weights_version: int, *, with_logprobs: bool
) -> Episode:
    """The finished rollout as an Episode.

    Raises:
        ValueError: the environment returned a reward that is not a finite number, or an unknown outcome.
    """
    reward = sum(rollout.turn_rewards)
    where = f"{env_id}, problem {group.task.problem_index}, seed {group.task.seed}"
    if not math.isfinite(reward):
        raise ValueError(
            f"{where}: the environment returned the reward {reward}; a reward must be a finite number. "
            f"Response: {''.join(rollout.texts)[:200]!r}"
        )
    outcome = str(rollout.info.get("outcome", "correct" if reward > 0 else "wrong"))
    if outcome not in OUTCOMES:
        raise ValueError(f"{where}: info['outcome'] must be one of {', '.join(OUTCOMES)}, got {outcome!r}")
    return Episode(
        prompt_ids=group.prompt_ids,
        response_ids=np.concatenate(rollout.ids).astype(np.int32),
        origin=np.concatenate(rollout.origins),
        reward=reward,
        outcome=outcome,
        stop_reason=rollout.stop_reason,
        env_id=env_id,
        problem_index=group.task.problem_index,
        seed=group.task.seed,
        weights_version=weights_version,
        old_logprobs=np.concatenate(rollout.logprobs) if with_logprobs else None,
        turn_ends=np.asarray(rollout.turn_ends, np.int32),
        turn_rewards=np.asarray(rollout.turn_rewards, np.float32),
        reward_parts=dict(rollout.info.get("reward_parts", {})),
    )
