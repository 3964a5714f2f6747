"""What the policy reads and what it is trained on: lengths of prompts, and who wrote which token."""

from __future__ import annotations

from typing import Any

import numpy as np

from tgpo_ray.engine import Completion
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, Episode, Task
from tgpo_ray.rollout import Rollout, RunningGroup, prompt_ids

from .contract import FIXED_RESPONSES
from .playing import Subject
from .results import CheckResult, Row, judged, shortened, skipped

NUM_CONVERSATIONS = 5
MAX_TURNS = 6


def check_prompts(subject: Subject) -> CheckResult:
    """Prompts within the tokens that a run allows, under the policy's tokenizer."""
    limit = subject.max_prompt_tokens
    bound = "stated" if limit is None else f"at most {limit} tokens"
    if subject.tokenizer is None:
        return skipped("prompt lengths", "give --tokenizer FOLDER", bound)
    lengths = {}
    for index in subject.indices:
        prompt, info = subject.env.reset(seed=subject.seed, options={"index": index})
        lengths[index] = len(prompt_ids(subject.tokenizer, prompt, info))
    rows = [Row(i, f"{n} tokens") for i, n in lengths.items() if n == 0 or (limit is not None and n > limit)]
    rows.sort(key=lambda row: -lengths[row.index])  # pyright: ignore[reportArgumentType]
    values = np.asarray(list(lengths.values()) or [0])
    return judged(
        "prompt lengths",
        rows,
        measured=f"median {np.median(values):.0f}, longest {values.max()} tokens ({subject.of_rows})",
        bound=bound,
        fix="raise env_runners.max_prompt_tokens or leave these rows out; a prompt without a token has nothing to read",
    )


def check_masks(subject: Subject) -> CheckResult:
    """Conversations as a runner puts them down: the policy's tokens are trained on, the environment's are not.

    Each observation is encoded on its own and appended; sampled ids stay as they were. So an observation is this turn's
    text alone: one that repeats the conversation would have the policy read it twice.
    """
    rows: list[Row] = []
    turns = policy = environment = reencoded = 0
    for index in subject.indices[:NUM_CONVERSATIONS]:
        talk = _Conversation(subject, index)
        episode = talk.episode()
        rows += [Row(index, problem) for problem in [*talk.problems, *talk.misattributed(episode)]]
        turns = max(turns, len(talk.responses))
        policy += int((episode.origin == ORIGIN_POLICY).sum())
        environment += int((episode.origin == ORIGIN_ENVIRONMENT).sum())
        reencoded += talk.would_change
    measured = f"{turns} turns at most, {policy} tokens of the policy, {environment} of the environment"
    if reencoded:
        measured += f"; {reencoded} conversations would change if they were encoded anew, so they are not"
    fix = "return this turn's text alone from step(), and something to answer while the episode goes on"
    return judged("masks", rows, measured=measured, bound="every token has its author", fix=fix)


class _Conversation:
    """One episode through the runner's own `Rollout`, with the tokenizer at hand or else bytes as tokens."""

    def __init__(self, subject: Subject, index: int) -> None:
        self._tokenizer = subject.tokenizer
        self._index, self._seed = index, subject.seed
        self.responses: list[str] = []
        self.observations: list[str] = []
        self.problems: list[str] = []
        env = subject.env
        gold = subject.gold(index) or ()
        # wrong answers, so that an environment with turns shows them, unless the right ones take several
        texts = gold if len(gold) > 1 else FIXED_RESPONSES * (MAX_TURNS // len(FIXED_RESPONSES))
        self.prompt, _ = env.reset(seed=subject.seed, options={"index": index})
        self.rollout = Rollout(env)
        for response in texts:
            self._turn(response)
            if self.rollout.done:
                break

    def _turn(self, response: str) -> None:
        self.responses.append(response)
        ids = self._encode(response)
        self.rollout.add_completion(Completion(ids, np.zeros(len(ids), np.float32), "stop"))
        observation = self.rollout.step(response)
        if self.rollout.done:
            return
        for earlier in (self.prompt, *self.observations):
            if len(earlier) > len(response) and earlier + response in observation:
                self.problems.append(f"turn {len(self.responses)} repeats the conversation: {shortened(observation)}")
        if not observation:
            self.problems.append(f"turn {len(self.responses)} goes on without a text to answer")
        self.observations.append(observation)
        self.rollout.add_environment_tokens(self._encode(observation))

    def _encode(self, text: str) -> np.ndarray:
        if self._tokenizer is None:
            return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False), np.int32)

    def episode(self) -> Episode:
        group = RunningGroup(Task(0, self._index, self._seed), self.prompt, self._encode(self.prompt), [self.rollout])
        return group.finish("the environment", 0, with_logprobs=False).episodes[0]

    def misattributed(self, episode: Episode) -> list[str]:
        """A line for each author whose tokens are not those that it wrote."""
        found = []
        for author, origin, texts in (
            ("policy", ORIGIN_POLICY, self.responses),
            ("environment", ORIGIN_ENVIRONMENT, self.observations),
        ):
            wrote: list[Any] = [token for text in texts for token in self._encode(text).tolist()]
            if episode.response_ids[episode.origin == origin].tolist() != wrote:
                found.append(f"the tokens under the {author}'s mask are not what it wrote")
        return found

    @property
    def would_change(self) -> bool:
        """Whether encoding the whole conversation at once gives other ids than its pieces."""
        texts = [text for pair in zip(self.responses, [*self.observations, ""], strict=False) for text in pair]
        pieces = [token for text in texts for token in self._encode(text).tolist()]
        return bool(self.observations) and self._encode("".join(texts)).tolist() != pieces
