"""What is still to be sampled of one model: its sets, the hashes of their prompts, and the files of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.env_runners import EnvSpec, all_envs, evaluation_tasks, explained
from tgpo_ray.episode import Task
from tgpo_ray.suites.answers_file import AnswersFile, missing_of, read_answers, read_header, replace_answers
from tgpo_ray.suites.fingerprints import header_of, prompt_hash
from tgpo_ray.suites.suite_config import set_file

if TYPE_CHECKING:
    from tgpo_ray.suites.suite_config import CandidateConfig, SuiteConfig


@dataclass(frozen=True)
class EvaluationSet:
    """One set as a model reads it."""

    label: str
    spec: EnvSpec
    num_samples: int
    seed: int  # of every `reset`
    hashes: Mapping[int, str]  # of the prompts, by problem
    is_chat: bool
    left_out: frozenset[int] = frozenset()  # problems whose prompts are too long for the model, of the whole set
    max_problems: int | None = None  # only the first of the set

    @property
    def num_left_out(self) -> int:
        """Of the problems that are left out, the number of those that `max_problems` would have used."""
        return sum(self.max_problems is None or problem < self.max_problems for problem in self.left_out)

    def tasks(self, env_index: int, problems: Sequence[int]) -> list[Task]:
        """The tasks of these problems for runners."""
        return [Task(env_index, problem, self.seed) for problem in problems]


@dataclass(frozen=True)
class OpenSet:
    """A set with the file of its answers, which this process has opened to write."""

    evaluated: EvaluationSet
    file: AnswersFile
    missing: Sequence[int]  # problems without answers


def sets_of(config: SuiteConfig, left_out: Sequence[frozenset[int]] = ()) -> list[EvaluationSet]:
    """Returns the sets of a model's configuration, after making each prompt once.

    Args:
        left_out: of each set, the problems whose prompts are too long.

    Raises:
        ConfigError: an environment cannot be made. The message names the set, the cause and the fix.
    """
    from tgpo_ray.config import ConfigError

    sets: list[EvaluationSet] = []
    problems: list[str] = []
    section = config.evaluation
    for index, (env, spec) in enumerate(zip(section.envs, all_envs(config), strict=True)):
        out = left_out[index] if left_out else frozenset()
        try:
            hashes, is_chat = _prompts(spec, index, section.max_problems, config.seed, out)
        except Exception as error:  # a user's environment may raise anything
            problems.append(f"{env.label} ({spec.id}): {explained(spec.id, error)}")
            continue
        number, limit = section.samples_of(env), section.max_problems
        sets.append(EvaluationSet(env.label, spec, number, config.seed, hashes, is_chat, out, limit))
    if problems:
        raise ConfigError(problems)
    return sets


def _prompts(
    spec: EnvSpec, index: int, limit: int | None, seed: int, left_out: frozenset[int]
) -> tuple[dict[int, str], bool]:
    env = spec.make()
    try:
        count = getattr(env.unwrapped, "num_problems", None)
        hashes, info = {}, {}
        for task in evaluation_tasks(index, count, limit, seed, left_out):
            prompt, info = env.reset(seed=seed, options={"index": task.problem_index})
            hashes[task.problem_index] = prompt_hash(prompt, info.get("messages"))
        return hashes, info.get("messages") is not None
    finally:
        env.close()


def headers_of(config: SuiteConfig, candidate: CandidateConfig, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the first line of the file of each set, of a resolved configuration."""
    return [header_of(config, candidate, env, model) for env in config.evaluation.envs]


def answers_path(folder: Path, candidate: CandidateConfig, label: str) -> Path:
    """Returns the file of a model's answers to the set `label`."""
    return folder / candidate.label / set_file(label)


def opened(
    stack: ExitStack,
    sets: Sequence[EvaluationSet],
    paths: Sequence[Path],
    headers: Sequence[Mapping[str, Any]],
) -> list[OpenSet]:
    """Returns the sets with their files, which close with `stack`."""
    places = zip(sets, paths, headers, strict=True)
    files = [stack.enter_context(opened_file(path, header, it.hashes)) for it, path, header in places]
    return [OpenSet(it, file, missing_of(file, it.hashes)) for it, file in zip(sets, files, strict=True)]


def opened_file(path: Path, header: Mapping[str, Any], prompts: Mapping[int, str]) -> AnswersFile:
    """The file, whose header names the problems that are left out now: scoring again goes by it."""
    file = AnswersFile(path, header, prompts)
    there, out = read_header(path), header.get("left_out", [])
    if there.get("left_out", []) == out:
        return file
    file.close()
    replace_answers(path, there | {"left_out": out}, read_answers(path))
    return AnswersFile(path, header, prompts)
