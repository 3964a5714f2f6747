"""The conversation between an environment and the engine, which becomes one episode.

Sampled ids are never decoded and encoded again, because that may change them. The ids of the engine are appended as
they are. The ids of the environment follow. They encode its text, or the chat template's text around its messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tgpo_ray.env_runners.chat_turns import Message, chat_turn_ids
from tgpo_ray.env_runners.prompt_tokens import whole_messages
from tgpo_ray.episode import (
    ORIGIN_ENVIRONMENT,
    ORIGIN_POLICY,
    ORIGIN_TEACHER,
    OUTCOMES,
    Episode,
    EpisodeGroup,
    Task,
)
from tgpo_ray.models import Completion, whole_text

if TYPE_CHECKING:
    from gymnasium import Env

    from tgpo_ray.models import Tokenizer

PROMPT_END = 64  # tokens of a prompt that environments are told
SHOWN = 120  # characters of a text in an error


def check_one_problem(resets: Sequence[tuple[str, dict[str, Any]]], where: str) -> None:
    """Check that the mates of a group show the same problem: one prompt serves all of them.

    Raises:
        ValueError: an observation or the messages of a `reset` differ from the first; `where` names the problem.
    """
    prompt, messages = resets[0][0], resets[0][1].get("messages")
    for number, (other, info) in enumerate(resets):
        if other != prompt or info.get("messages") != messages:
            shown = [repr(text)[:SHOWN] for text in (prompt, other)]
            raise ValueError(
                f"{where}: the environment gave mate {number} of the group another problem than mate 0 for the same "
                f"seed and index, {shown[1]} for {shown[0]}: draw only from self.np_random, and keep nothing from one "
                "reset to the next (`tgpo-ray env check` finds it)"
            )


def tell_prompt(envs: Iterable[Env[str, str]], tokenizer: Tokenizer, ids: np.ndarray) -> None:
    """Tell environments the end of the prompt (P,) as the model reads it: the chat template may open a thought there.

    An environment without the method `prompt_rendered` of `tgpo_ray.envs.TextEnv` is told nothing.
    """
    end = tokenizer.decode(ids[-PROMPT_END:], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    for env in envs:
        told = getattr(env.unwrapped, "prompt_rendered", None)
        if told is not None:
            told(end)


@dataclass
class Rollout:
    """The state of one running episode."""

    env: Env[str, str]  # reset to the task
    # the environment's messages of a chat, one list a turn, the prompt's first
    turns: list[list[Message]] = field(default_factory=list)
    stop_reason: str = "stop"
    ids: list[np.ndarray] = field(default_factory=list)  # pieces of the response, each (T,) int32, in order
    origins: list[np.ndarray] = field(default_factory=list)  # of the same pieces, uint8
    logprobs: list[np.ndarray] = field(default_factory=list)  # of the same pieces, float32, 0 where not sampled
    texts: list[str] = field(default_factory=list)
    turn_ends: list[int] = field(default_factory=list)  # number of response tokens after each turn of the policy
    turn_rewards: list[float] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)  # (first token, its weights version), changes only
    info: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    number: int = 0  # in its group

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.ids))

    def add_completion(self, completion: Completion) -> None:
        """Append the policy's next turn."""
        for start, version in completion.versions:
            if not self.versions or self.versions[-1][1] != version:
                self.versions.append((self.num_tokens + start, version))
        self._append(completion.token_ids, ORIGIN_POLICY, completion.logprobs)
        self.stop_reason = completion.stop_reason
        self.turn_ends.append(self.num_tokens)

    @classmethod
    def begun(cls, env: Env[str, str], info: dict[str, Any], number: int = 0) -> Rollout:
        """Returns the rollout of an environment whose `reset` returned `info`."""
        messages = info.get("messages")
        return cls(env, [] if messages is None else [whole_messages(messages)], number=number)

    def environment_ids(self, tokenizer: Tokenizer, observation: str) -> np.ndarray:
        """Returns (T,) int32, the environment's turn after the last step.

        For `messages` in the step's info it is the text that the chat template adds. Otherwise it is the observation.

        Raises:
            ValueError: messages follow a prompt without messages, or the template cannot append them.
        """
        messages = self.info.get("messages")
        if messages is None:
            return np.asarray(tokenizer.encode(whole_text(observation), add_special_tokens=False), np.int32)
        if not self.turns or not messages:
            has = "an empty list of messages" if self.turns else "messages after a prompt that was none"
            raise ValueError(f"the info of step() has {has}: a chat begins with info['messages'] of reset()")
        self.turns.append(whole_messages(messages))
        return chat_turn_ids(tokenizer, self.turns, self.ids[-1])

    def begin_with(self, prefix: np.ndarray) -> None:
        """Begin the response with these ids (T,) of a teacher. Call it before the first completion."""
        if len(prefix):
            self._append(prefix, ORIGIN_TEACHER, None)

    def turn_ids(self) -> np.ndarray:
        """Returns (T,) int32, the turn that was just completed. The first turn includes its prefix."""
        first = len(self.turn_ends) == 1
        return np.concatenate(self.ids) if first else self.ids[-1]

    def add_environment_tokens(self, token_ids: np.ndarray) -> None:
        """Append ids (T,) of the environment, which training masks."""
        self._append(token_ids, ORIGIN_ENVIRONMENT, None)

    def _append(self, token_ids: np.ndarray, origin: int, logprobs: np.ndarray | None) -> None:
        self.ids.append(token_ids)
        self.origins.append(np.full(len(token_ids), origin, np.uint8))
        self.logprobs.append(np.zeros(len(token_ids), np.float32) if logprobs is None else logprobs)

    def step(self, text: str) -> str:
        """Returns the environment's next observation, after a step with this response. It runs in a thread."""
        observation, reward, terminated, truncated, info = self.env.step(text)
        self.texts.append(text)
        self.turn_rewards.append(float(reward))
        self.info = info
        # a response at its token limit leaves no room for a next turn
        self.done = terminated or truncated or self.stop_reason != "stop"
        return observation


@dataclass
class RunningGroup:
    """The G rollouts of one task."""

    task: Task
    prompt_text: str
    prompt_ids: np.ndarray  # (P,) int32
    rollouts: list[Rollout]
    seed: int | None = None  # of the first turn's request
    num_open: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_open = len(self.rollouts)

    def finish(self, env_id: str, weights_version: int, *, with_logprobs: bool) -> EpisodeGroup:
        """Returns the finished rollouts as a group of episodes."""
        episodes = tuple(
            finished_episode(rollout, self, env_id, weights_version, with_logprobs=with_logprobs)
            for rollout in self.rollouts
        )
        return EpisodeGroup(
            episodes, whole_text(self.prompt_text), tuple("".join(rollout.texts) for rollout in self.rollouts)
        )


def finished_episode(
    rollout: Rollout, group: RunningGroup, env_id: str, weights_version: int, *, with_logprobs: bool
) -> Episode:
    """Returns the finished rollout as an Episode.

    Args:
        weights_version: of all tokens, where the engine does not say which weights wrote which.

    Raises:
        ValueError: the environment returned a reward that is not a finite number, or an unknown outcome.
    """
    reward = sum(rollout.turn_rewards)
    first, *changes = rollout.versions or [(0, weights_version)]
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
        response_ids=np.concatenate(rollout.ids).astype(np.int32),  # (T,)
        origin=np.concatenate(rollout.origins),  # (T,) uint8
        reward=reward,
        outcome=outcome,
        stop_reason=rollout.stop_reason,
        env_id=env_id,
        problem_index=group.task.problem_index,
        seed=group.task.seed,
        weights_version=first[1],
        version_changes=np.asarray(changes, np.int32).reshape(-1, 2),
        old_logprobs=np.concatenate(rollout.logprobs) if with_logprobs else None,
        turn_ends=np.asarray(rollout.turn_ends, np.int32),
        turn_rewards=np.asarray(rollout.turn_rewards, np.float32),
        reward_parts=dict(rollout.info.get("reward_parts", {})),
        answer=None if (answer := rollout.info.get("answer")) is None else str(answer),
    )
