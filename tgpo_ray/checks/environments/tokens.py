"""Checks of the tokens that the policy reads and trains on: lengths of prompts, and the author of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tgpo_ray.checks.results import CheckResult, Finding, judged, shortened, skipped
from tgpo_ray.env_runners import Rollout, RunningGroup, prompt_ids, tell_prompt
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, Episode, Task
from tgpo_ray.models import Completion

from .contract import FIXED_RESPONSES
from .playing import Subject

NUM_CONVERSATIONS = 5
MAX_TURNS = 6

Message = Mapping[str, Any]


def check_prompts(subject: Subject) -> CheckResult:
    """Returns whether prompts have at most the tokens that a run allows, under the policy's tokenizer."""
    limit = subject.max_prompt_tokens
    bound = "--max-prompt-tokens" if limit is None else f"at most {limit} tokens"
    if subject.tokenizer is None:
        return skipped("prompt lengths", "no tokenizer to measure with: give --tokenizer FOLDER", bound)
    lengths = {}
    for index in subject.indices:
        prompt, info = subject.reset(index)
        lengths[index] = len(prompt_ids(subject.tokenizer, prompt, info))
    findings = [Finding(i, f"{n} tokens") for i, n in lengths.items() if n == 0 or (limit is not None and n > limit)]
    findings.sort(key=lambda finding: -lengths[finding.index])  # pyright: ignore[reportArgumentType]
    values = np.asarray(list(lengths.values()) or [0])
    return judged(
        "prompt lengths",
        findings,
        measured=f"median {np.median(values):.0f}, longest {values.max()} tokens ({subject.looked_at})",
        bound=bound,
        fix="raise env_runners.max_prompt_tokens or leave these rows out; a prompt without a token has nothing to read",
    )


def check_masks(subject: Subject) -> CheckResult:
    """Returns whether the tokens of conversations have their right author, as a runner records them.

    A run trains on the policy's tokens and not on the environment's. Each turn of the environment is encoded by itself
    and appended, and sampled ids stay unchanged. So an observation must be only the text of its turn. If it repeated
    the conversation, the policy would read that twice.
    """
    findings: list[Finding] = []
    turns = policy = environment = reencoded = 0
    chat = False
    for index in subject.indices[:NUM_CONVERSATIONS]:
        talk = _Conversation(subject, index)
        episode = talk.episode()
        findings += [Finding(index, problem) for problem in [*talk.problems, *talk.misattributed(episode)]]
        turns = max(turns, len(talk.responses))
        policy += int((episode.origin == ORIGIN_POLICY).sum())
        environment += int((episode.origin == ORIGIN_ENVIRONMENT).sum())
        reencoded += talk.would_change(episode)
        chat = chat or len(talk.rollout.turns) > 1
    unit = "bytes" if subject.tokenizer is None else "tokens"
    measured = (
        f"{turns} turn{'s' * (turns != 1)} at most, {policy} {unit} of the policy, {environment} of the environment"
    )
    if chat:
        measured += f"; a chat, {'without its template: give --tokenizer' if unit == 'bytes' else 'with its template'}"
    if reencoded:
        measured += f"; {reencoded} conversations would change if they were encoded anew, so they are not"
    fix = "return this turn's text alone from step(), and something to answer while the episode goes on"
    return judged("masks", findings, measured=measured, bound="every token has its author", fix=fix)


class _Bytes:
    """The tokenizer in place of a missing one. Bytes are its tokens, and a chat is the contents of its messages."""

    chat_template = "the contents"
    eos_token_id = None
    all_special_ids: tuple[int, ...] = ()

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode("utf-8", "surrogatepass"))

    def decode(self, ids: Sequence[int] | np.ndarray, **_: Any) -> str:
        return bytes(np.asarray(ids, np.uint8)).decode("utf-8", "surrogatepass")

    def apply_chat_template(self, messages: Sequence[Message], *, tokenize: bool = True, **_: object) -> Any:
        text = "".join(str(message["content"]) for message in messages)
        return self.encode(text) if tokenize else text


class _Conversation:
    """One episode through the runner's own `Rollout`, with the given tokenizer or with bytes as tokens."""

    def __init__(self, subject: Subject, index: int) -> None:
        self._tokenizer = subject.tokenizer or _Bytes()
        self._task = Task(0, index, subject.seed)
        self.responses: list[str] = []
        self.observations: list[str] = []
        self.problems: list[str] = []
        env = subject.env
        gold = subject.gold(index) or ()
        # wrong answers, so that an environment with turns shows them, unless the right ones take several
        texts = gold if len(gold) > 1 else FIXED_RESPONSES * (MAX_TURNS // len(FIXED_RESPONSES))
        self.prompt, info = env.reset(seed=subject.seed, options={"index": index})
        self.prompt_ids = prompt_ids(self._tokenizer, self.prompt, info)
        tell_prompt([env], self._tokenizer, self.prompt_ids)
        self.rollout = Rollout.begun(env, info)
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
        try:
            self.rollout.add_environment_tokens(self.rollout.environment_ids(self._tokenizer, observation))
        except ValueError as error:  # the run would be refused
            self.problems.append(f"turn {len(self.responses)}: {error}")
            self.rollout.done = True

    def _encode(self, text: str) -> np.ndarray:
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False), np.int32)

    def episode(self) -> Episode:
        group = RunningGroup(self._task, self.prompt, self.prompt_ids, [self.rollout])
        return group.finish("the environment", 0, with_logprobs=False).episodes[0]

    def misattributed(self, episode: Episode) -> list[str]:
        """Returns a line if the policy's tokens are not those that it wrote, and one if environment text is lost."""
        problems = []
        wrote = [token for text in self.responses for token in self._encode(text).tolist()]
        if episode.response_ids[episode.origin == ORIGIN_POLICY].tolist() != wrote:
            problems.append("the tokens under the policy's mask are not what it wrote")
        environments_text = self._tokenizer.decode(episode.response_ids[episode.origin == ORIGIN_ENVIRONMENT])
        spoken = [message["content"] for turn in self.rollout.turns[1:] for message in turn]
        for text in self.observations if len(self.rollout.turns) < 2 else spoken:
            if self._tokenizer.decode(self._encode(text)).strip() not in environments_text:
                problems.append(f"the tokens under the environment's mask lack {shortened(text)}")
        return problems

    def would_change(self, episode: Episode) -> bool:
        """Returns whether encoding the whole conversation at once gives other ids than encoding its pieces."""
        return self._encode(self._tokenizer.decode(episode.response_ids)).tolist() != episode.response_ids.tolist()
