"""TokenView, which looks at a few episodes of an iteration token by token, as their teacher and their loss saw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from tgpo_ray.driver.run_folder import say
from tgpo_ray.driver.token_forces import Learned, forces_of
from tgpo_ray.driver.token_pieces import pieces_of, token_bytes
from tgpo_ray.episode import ORIGIN_POLICY, EpisodeGroup, Guidance, SampledGroup
from tgpo_ray.guidance import UNREADABLE_LOGPROB
from tgpo_ray.learners import TrainEpisode, episodes_of, piece_of
from tgpo_ray.models import load_tokenizer
from tgpo_ray.reporting import TokenEpisode

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

FETCH_TIMEOUT_S = 60.0
TEACHER = "teacher"

Chosen = tuple[SampledGroup, tuple[int, ...]]
"""A group, and places of some episodes in its `infos`."""


class TokenView:
    """The token episodes of an iteration, with the vocabulary that spells them.

    Args:
        config: of a run that begins.
    """

    def __init__(self, config: AlgorithmConfig) -> None:
        self._config = config

    def episodes(
        self, groups: Sequence[SampledGroup], learned: Mapping[int, Learned], iteration: int
    ) -> list[TokenEpisode]:
        """At most `reporting.token_episodes` episodes. A failure to get them is reported, and ends no run.

        Args:
            learned: by ordinal, what the learners got. A group that is not in it has no advantages here.
        """
        chosen = choose(groups, self._config.reporting.token_episodes)
        try:
            return [
                self._view(group, learned.get(group.ordinal), it, place, prompt, iteration)
                for (group, places), (episodes, answers, prompt) in zip(chosen, fetch(chosen), strict=True)
                for place, it in zip(places, _train_episodes(group, learned, episodes, answers, places), strict=True)
            ]
        except Exception as error:  # a node that is gone with its episodes, a tokenizer that spells nothing
            say(f"WARNING: iteration {iteration} has no token page: {type(error).__name__}: {error}")
            return []

    @cached_property
    def _tokenizer(self) -> Any:
        model = self._config.model
        return load_tokenizer(model.tokenizer or model.path, trust_remote_code=model.trust_remote_code)

    @cached_property
    def _bytes(self) -> Any:
        return token_bytes(self._tokenizer)

    def _view(
        self,
        group: SampledGroup,
        learned: Learned | None,
        it: TrainEpisode,
        place: int,
        prompt: str,
        iteration: int,
    ) -> TokenEpisode:
        episode, teacher = it.episode, it.guidance.get(TEACHER, Guidance())
        logprobs = of_policy(episode.old_logprobs, episode.origin)
        word = teachers_word(teacher)
        forces = {} if learned is None else forces_of(it, learned.loss, logprobs)
        return TokenEpisode(
            iteration=iteration,
            env=self._config.envs[group.task.env_index].label,
            group=group.ordinal,
            member=place,
            problem_index=episode.problem_index,
            outcome=episode.outcome,
            reward=episode.reward,
            stop_reason=episode.stop_reason,
            weights_version=episode.weights_version,
            prompt=prompt,
            pieces=pieces_of(self._tokenizer, self._bytes, episode.response_ids, word),
            ids=episode.response_ids,
            origin=episode.origin,
            advantage=None if learned is None else it.advantage,
            teacher_ids=word,
            # of another temperature than the teacher's they would make a log-ratio without a meaning
            logprobs=logprobs if self._config.env_runners.temperature == 1.0 else None,
            teacher_logprobs=readable(of_policy(teacher.teacher_logprobs, episode.origin)),
            word_logprobs=word_logprobs(teacher),
            **forces,
        )


def choose(groups: Sequence[SampledGroup], number: int) -> list[Chosen]:
    """The groups and places of `number` episodes, in turn from each environment and outcome, so that few show much."""
    kinds: dict[tuple[int, str], list[tuple[int, int]]] = {}
    ordered = sorted(range(len(groups)), key=lambda i: groups[i].ordinal)
    for i in ordered:
        for place, info in enumerate(groups[i].infos):
            if info.num_response_tokens:
                kinds.setdefault((groups[i].task.env_index, info.outcome), []).append((i, place))
    turns = [found for turn in range(number) for kind in kinds.values() for found in kind[turn : turn + 1]]
    places: dict[int, list[int]] = {}
    for i, place in turns[:number]:
        places.setdefault(i, []).append(place)
    return [(groups[i], tuple(sorted(places[i]))) for i in ordered if i in places]


def fetch(chosen: Sequence[Chosen]) -> list[tuple[EpisodeGroup, dict[str, list[Guidance]], str]]:
    """The chosen episodes of each group, its scorers' answers to them, and its prompt.

    A task for each group leaves the rest where it is: the other episodes, and hidden states of gigabytes.
    """
    task: Any = ray.remote(_few).options(num_cpus=0)
    refs: list[Any] = []
    for group, places in chosen:
        behind = places if group.members is None else tuple(group.members[place] for place in places)
        # as arguments of their own, so that Ray runs the task where most of them are
        refs.append(task.remote(behind, tuple(group.guidance), group.ref, *group.guidance.values()))
    return ray.get(refs, timeout=FETCH_TIMEOUT_S) if refs else []


def _few(
    members: Sequence[int], scorers: Sequence[str], group: EpisodeGroup, *answers: list[Guidance]
) -> tuple[EpisodeGroup, dict[str, list[Guidance]], str]:
    episodes = tuple(_without_hidden(group.episodes[i]) for i in members)
    guidance = {
        scorer: [replace(answer[i], hidden=None) for i in members]
        for scorer, answer in zip(scorers, answers, strict=True)
    }
    return EpisodeGroup(episodes), guidance, group.prompt_text


def _without_hidden(episode: Any) -> Any:
    own = {scorer: replace(answer, hidden=None) for scorer, answer in episode.guidance.items()}
    return replace(episode, guidance=own)


def _train_episodes(
    group: SampledGroup,
    learned: Mapping[int, Learned],
    episodes: EpisodeGroup,
    answers: Mapping[str, list[Guidance]],
    places: Sequence[int],
) -> list[TrainEpisode]:
    """The fetched episodes as a rank of the learners gets them."""
    found = learned.get(group.ordinal)
    advantages = np.zeros(len(group.infos)) if found is None else found.advantages
    whole = piece_of(group, advantages)
    few = replace(
        whole,
        ref=episodes,
        guidance=answers,
        advantages=np.asarray(advantages, np.float32)[list(places)],
        members=tuple(range(len(places))),
    )
    return list(episodes_of([few]))


def of_policy(logprobs: np.ndarray | None, origin: np.ndarray) -> np.ndarray | None:
    """(T,) the log-probs of the policy's tokens, NaN on those that it did not write."""
    return None if logprobs is None else np.where(origin == ORIGIN_POLICY, logprobs, np.nan)


def readable(logprobs: np.ndarray | None) -> np.ndarray | None:
    """(T,) the teacher's log-probs, NaN where it cannot read the token."""
    return None if logprobs is None else np.where(logprobs == UNREADABLE_LOGPROB, np.nan, logprobs)


def teachers_word(teacher: Guidance) -> np.ndarray | None:
    """(T,) the token that the teacher would have written, its likeliest where it gave several; -1 where it has none."""
    if teacher.teacher_ids is not None:
        return teacher.teacher_ids
    return None if teacher.topk_ids is None else teacher.topk_ids[:, 0]


def word_logprobs(teacher: Guidance) -> np.ndarray | None:
    """(T,) nats, log pi_T of the teacher's word where it is the first of its likeliest; NaN elsewhere."""
    word = teachers_word(teacher)
    if word is None or teacher.topk_ids is None or teacher.topk_logprobs is None:
        return None
    return np.where((teacher.topk_ids[:, 0] == word) & (word >= 0), teacher.topk_logprobs[:, 0], np.nan)
