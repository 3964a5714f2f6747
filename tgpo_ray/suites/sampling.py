"""A model's answers from the house's own runners, so that prompts and limits are those of a run's evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from tgpo_ray import cluster
from tgpo_ray.config import check_resources
from tgpo_ray.env_runners import EnvRunnerGroup, build_env_runners, evaluation_sampling
from tgpo_ray.episode import EpisodeGroup, SampledGroup
from tgpo_ray.models import load_tokenizer
from tgpo_ray.suites.answers_file import Answer, ProblemAnswers

if TYPE_CHECKING:
    from tgpo_ray.suites.suite_config import SuiteConfig
    from tgpo_ray.suites.work import EvaluationSet, OpenSet

PROMPT_END = 64  # tokens of a chat's prompt that environments are told, as runners do


@contextmanager
def standing_engines(config: SuiteConfig) -> Iterator[tuple[SuiteConfig, EnvRunnerGroup]]:
    """Yields the resolved configuration and runners with the model's own weights. No learner and no teacher starts.

    Raises:
        ConfigError: the cluster is too small.
        ActorStartError: an engine did not start.
    """
    owns_ray = cluster.connect(config.ray)
    try:
        check_resources(config, ray.cluster_resources(), cluster.node_resources())
        config = config.resolved(gpus=cluster.has_gpus())
        runners = build_env_runners(config, frozen=True)
        try:
            runners.wait_until_ready()
            yield config, runners
        finally:
            runners.stop()
    finally:
        if owns_ray:
            ray.shutdown()


def engine_answers(
    config: SuiteConfig, runners: EnvRunnerGroup, sets: Sequence[OpenSet]
) -> Iterator[tuple[int, ProblemAnswers]]:
    """Yields (set, answers to one problem) as they finish, of the problems without answers.

    Sets with equally many responses a problem are sampled together: the engines wait for the longest ones once.
    """
    tokenizer: Any = None
    if any(it.evaluated.is_chat for it in sets):
        model = config.model
        tokenizer = load_tokenizer(model.tokenizer or model.path, trust_remote_code=model.trust_remote_code)
    for number in dict.fromkeys(it.evaluated.num_samples for it in sets):
        tasks = [
            task
            for index, it in enumerate(sets)
            if it.evaluated.num_samples == number
            for task in it.evaluated.tasks(index, it.missing)
        ]
        if not tasks:
            continue
        numbered = [replace(task, ordinal=ordinal) for ordinal, task in enumerate(tasks)]
        for group in runners.sample(numbered, number, evaluation_sampling(config), config.seed):
            index = group.task.env_index
            yield index, _answers_of(group, sets[index].evaluated, tokenizer)


def _answers_of(group: SampledGroup, evaluated: EvaluationSet, tokenizer: Any) -> ProblemAnswers:
    content: EpisodeGroup = ray.get(group.ref)
    problem = group.task.problem_index
    prompt_end = None
    if evaluated.is_chat:
        ids = content.episodes[0].prompt_ids[-PROMPT_END:]
        prompt_end = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    answers = tuple(
        Answer(text, it.outcome, it.reward, it.answer, it.stop_reason, it.num_policy_tokens)
        for it, text in zip(content.episodes, content.response_texts, strict=True)
    )
    prompt = evaluated.hashes[problem]  # the runner has made the same prompt: same environment, seed and index
    return ProblemAnswers(problem, prompt, content.prompt_text, prompt_end, answers)
