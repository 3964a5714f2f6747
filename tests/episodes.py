"""Episodes, their infos and groups of them, written by hand. Tests that need one build it here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

import numpy as np

from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup, EpisodeInfo, Guidance, SampledGroup, Task


class Verdict(TypedDict, total=False):
    """What an episode and its info both say. Unless given, the outcome follows from the reward."""

    reward: float  # 0.0
    outcome: str  # "correct" above a reward of 0, else "wrong"
    stop_reason: str  # "stop"
    weights_version: int  # 0


class EpisodeFields(Verdict, total=False):
    """What only an episode says; each has the default of `Episode` or is 0."""

    problem_index: int
    seed: int
    old_logprobs: np.ndarray | None
    guidance: Mapping[str, Guidance]


def make_episode(
    *,
    prompt: Sequence[int] | np.ndarray,
    response: Sequence[int] | np.ndarray,
    origin: Sequence[int] | np.ndarray | None = None,
    **fields: Unpack[EpisodeFields],
) -> Episode:
    """An episode of these token ids; the policy wrote the whole response, or what `origin` says."""
    rest = {"reward": 0.0, "stop_reason": "stop", "problem_index": 0, "seed": 0, "weights_version": 0, **fields}
    rest.setdefault("outcome", outcome_of(fields.get("reward", 0.0)))
    return Episode(
        prompt_ids=np.asarray(prompt, np.int32),
        response_ids=np.asarray(response, np.int32),
        origin=np.asarray([ORIGIN_POLICY] * len(response) if origin is None else origin, np.uint8),
        env_id="test",
        **rest,  # pyright: ignore[reportArgumentType]
    )


def random_episode(*, rng: np.random.Generator, length: int, **fields: Unpack[EpisodeFields]) -> Episode:
    """5 prompt tokens and `length` response tokens, from 2 to 19: ids that each tokenizer of the suite has."""
    prompt, response = (rng.integers(2, 20, size) for size in (5, length))
    return make_episode(prompt=prompt, response=response, **fields)


def make_info(*, length: int = 10, prompt_length: int = 5, **fields: Unpack[Verdict]) -> EpisodeInfo:
    """What the driver knows of an episode of `length` response tokens, all of the policy."""
    return EpisodeInfo(
        reward=fields.get("reward", 0.0),
        num_prompt_tokens=prompt_length,
        num_response_tokens=length,
        num_policy_tokens=length,
        outcome=fields.get("outcome", outcome_of(fields.get("reward", 0.0))),
        stop_reason=fields.get("stop_reason", "stop"),
        weights_version=fields.get("weights_version", 0),
    )


def outcome_of(reward: float) -> str:
    return "correct" if reward > 0 else "wrong"


def group_of_infos(
    *, infos: Sequence[EpisodeInfo], ordinal: int = 0, members: tuple[int, ...] | None = None
) -> SampledGroup:
    """A group whose tokens do not exist; its problem has the number `ordinal`."""
    return SampledGroup(ordinal, Task(0, ordinal, 0, ordinal), tuple(infos), ref=None, members=members)


def group_of_rewards(
    *, rewards: Sequence[float], lengths: Sequence[int] | None = None, ordinal: int = 0
) -> SampledGroup:
    """A group whose tokens do not exist, of responses of 10 tokens or of these lengths."""
    pairs = zip(rewards, lengths or [10] * len(rewards), strict=True)
    return group_of_infos(infos=[make_info(reward=reward, length=length) for reward, length in pairs], ordinal=ordinal)


def stored_group(
    *, episodes: Sequence[Episode], prompt_text: str = "", ordinal: int = 0, env_index: int = 0
) -> SampledGroup:
    """Episodes of one problem in Ray's object store, as a runner hands them out."""
    import ray

    ref = ray.put(EpisodeGroup(tuple(episodes), prompt_text))
    task = Task(env_index, episodes[0].problem_index, episodes[0].seed, ordinal)
    return SampledGroup(ordinal, task, tuple(episode.info() for episode in episodes), ref)
