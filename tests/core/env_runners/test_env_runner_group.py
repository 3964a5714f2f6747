"""Real runners, two of them: what they sample, what they refuse, and how the group outlives them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.core.env_runners.runner_envs import ANSWERS, write_chat_tokenizer
from tests.core.env_runners.runner_groups import (
    ARITHMETIC,
    CHATS,
    COUNTS,
    DRIFTS,
    HALF_A_CHAT,
    LONG_PROMPTS,
    MAX_NUM_SEQS,
    NAN,
    RAISES,
    SAMPLING,
    TURNS,
    Supply,
    runner_spec,
    sample,
    tasks,
)
from tests.core.model_answers import forced_logprobs, load, process_of
from tgpo_ray.cluster.actors import ActorStartError
from tgpo_ray.env_runners.group import EnvRunnerGroup
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, Episode, EpisodeGroup, SampledGroup, Task
from tgpo_ray.models.weight_buckets import fill_buckets


@pytest.fixture(scope="module")
def supply(ray_cluster: Any, tiny_models: dict[str, str], tmp_path_factory: Any) -> Iterator[Supply]:
    tokenizer = write_chat_tokenizer(tiny_models["policy"], tmp_path_factory.mktemp("tokenizer"))
    supply = Supply(runner_spec(tiny_models["policy"], tokenizer))
    yield supply
    supply.stop()


@pytest.fixture
def group(supply: Supply) -> EnvRunnerGroup:
    return supply.intact()


@pytest.fixture
def runners(group: EnvRunnerGroup, policy_buckets: list[Any]) -> EnvRunnerGroup:
    """The two with the policy's weights, under a version of their own for each test."""
    group.sync_weights(group.weights_version + 1, policy_buckets)
    group.weight_source = lambda members: nullcontext((group.weights_version, policy_buckets))
    return group


def fetch(groups: list[SampledGroup]) -> list[EpisodeGroup]:
    import ray

    return ray.get([sampled.ref for sampled in groups])


@pytest.mark.slow
def test_a_stale_runner_refuses(supply: Supply):
    supply.intact()
    assert "weights are stale: call sync_weights before sample" in supply.refusal


def test_the_runners_know_how_many_problems_there_are(group: EnvRunnerGroup):
    assert group.num_problems == [None] * len(group.spec.envs)


def test_every_task_returns_once_with_its_group(runners: EnvRunnerGroup):
    groups = sample(runners, tasks(7))
    assert [sampled.ordinal for sampled in groups] == list(range(7))
    assert [sampled.task for sampled in groups] == tasks(7)
    for sampled, episodes in zip(groups, fetch(groups), strict=True):
        assert sampled.infos == tuple(episode.info() for episode in episodes.episodes)
        assert len(sampled.infos) == len(episodes.response_texts) == 3
        assert {episode.problem_index for episode in episodes.episodes} == {sampled.task.problem_index}


def test_group_mates_share_the_prompt_and_differ_in_their_responses(runners: EnvRunnerGroup):
    (episodes,) = fetch(sample(runners, tasks(1), size=4))
    prompts = {tuple(episode.prompt_ids.tolist()) for episode in episodes.episodes}
    assert len(prompts) == 1
    assert len({tuple(episode.response_ids.tolist()) for episode in episodes.episodes}) > 1


def test_an_episode_carries_the_version_of_its_weights(runners: EnvRunnerGroup, policy_buckets: list[Any]):
    runners.sync_weights(41, policy_buckets)
    groups = sample(runners, tasks(3))
    assert {info.weights_version for sampled in groups for info in sampled.infos} == {41}
    assert {e.weights_version for episodes in fetch(groups) for e in episodes.episodes} == {41}


def test_a_runner_makes_as_many_environments_as_its_engine_writes_episodes(runners: EnvRunnerGroup):
    groups = sample(runners, tasks(60, COUNTS), size=4)
    assert [sampled.ordinal for sampled in groups] == list(range(60))
    num_environments = max(info.reward for sampled in groups for info in sampled.infos)
    # 120 episodes on each of the two: those that are written, and those that are scored or wait for their mates
    assert num_environments <= 3 * MAX_NUM_SEQS


def responses(groups: list[SampledGroup]) -> list[list[int]]:
    return [episode.response_ids.tolist() for episodes in fetch(groups) for episode in episodes.episodes]


def test_a_seed_fixes_the_tokens_and_another_changes_them(runners: EnvRunnerGroup):
    first = responses(sample(runners, tasks(6), seed=7))
    assert responses(sample(runners, tasks(6), seed=7)) == first
    assert responses(sample(runners, tasks(6), seed=8)) != first


def test_a_groups_tokens_depend_on_neither_its_neighbours_nor_its_runner(runners: EnvRunnerGroup):
    for env in (ARITHMETIC, TURNS):  # with turns, each has a seed of its own
        together = {sampled.ordinal: sampled for sampled in sample(runners, tasks(12, env))}
        for task in tasks(12, env)[::5]:
            assert responses(sample(runners, [task])) == responses([together[task.ordinal]])


def test_a_response_ends_with_the_end_of_sequence_or_at_the_limit(runners: EnvRunnerGroup):
    end = load(runners.spec.engine.model)[0].config.eos_token_id
    for episodes in fetch(sample(runners, tasks(8), max_tokens=8)):
        for episode in episodes.episodes:
            length = len(episode.response_ids)
            assert (episode.response_ids == end).sum() == (episode.stop_reason == "stop")
            assert length <= 8
            assert length == 8 or (episode.stop_reason == "stop" and episode.response_ids[-1] == end)


def test_a_prompt_that_is_too_long_names_its_problem_and_the_limit(runners: EnvRunnerGroup):
    message = r"tgpo/Arithmetic-v0, problem 5, seed 0: the prompt has 26 tokens, env_runners.max_prompt_tokens is 16"
    with pytest.raises(ValueError, match=message):
        sample(runners, [*tasks(4), Task(LONG_PROMPTS, 5, seed=0, ordinal=4)])
    assert len(sample(runners, tasks(4))) == 4  # the runners go on


def test_a_reward_that_is_no_number_names_the_environment_and_the_problem(runners: EnvRunnerGroup):
    with pytest.raises(ValueError, match=r"NoNumber-v0, problem 3, seed 9: the environment returned the reward nan"):
        sample(runners, [Task(NAN, 3, seed=9)])
    assert len(sample(runners, tasks(4))) == 4


def test_an_environment_that_raises_is_named_with_the_problem_and_the_line(runners: EnvRunnerGroup) -> None:
    message = r"RaisesLookup-v0, problem 4, seed 2: step raised LookupError: no such answer \(.*runner_envs.py:\d+\)"
    with pytest.raises(RuntimeError, match=message):
        sample(runners, [Task(RAISES, 4, seed=2)])


def test_mates_with_different_problems_end_the_run_with_environment_and_problem_named(runners: EnvRunnerGroup) -> None:
    message = r"Drifting-v0, problem 6, seed 1: the environment gave mate 1 of the group another problem than mate 0"
    with pytest.raises(ValueError, match=message):
        sample(runners, [Task(DRIFTS, 6, seed=1)])
    assert len(sample(runners, tasks(4))) == 4


def test_turns_alternate_and_the_engine_saw_the_very_ids_of_the_episode(runners: EnvRunnerGroup):
    model, tokenizer = load(runners.spec.engine.model)
    episodes = [e for found in fetch(sample(runners, tasks(8, TURNS), size=4)) for e in found.episodes]
    assert max(len(episode.turn_ends) for episode in episodes) == 3
    for episode in episodes:
        environment: list[int] = []
        for answer in ANSWERS[: len(episode.turn_ends) - 1]:
            environment += tokenizer.encode(answer)
        assert episode.response_ids[episode.origin == ORIGIN_ENVIRONMENT].tolist() == environment
        assert episode.origin[episode.turn_ends - 1].tolist() == [ORIGIN_POLICY] * len(episode.turn_ends)
        assert episode.reward == len(episode.turn_ends) == len(episode.turn_rewards)
        assert len(episode.response_ids) <= SAMPLING.max_tokens
        assert_sampled_from(model, episode)


@pytest.mark.parametrize("stop", [(), ("5",)])
def test_a_chat_goes_on_as_the_template_writes_it(runners: EnvRunnerGroup, stop: tuple[str, ...]):
    model, tokenizer = load(runners.spec.engine.model)
    episodes = [e for found in fetch(sample(runners, tasks(8, CHATS), size=4, stop=stop)) for e in found.episodes]
    assert max(len(episode.turn_ends) for episode in episodes) == 3
    for episode in episodes:
        assert tokenizer.decode(episode.prompt_ids) == f"*{episode.problem_index};="
        expected = ""
        for end, turn in zip(episode.turn_ends[:-1], ("*7;=", "+8;="), strict=False):
            ended = episode.response_ids[end - 1] == tokenizer.eos_token_id  # else a stop string ended it
            expected += turn if ended else tokenizer.eos_token + turn
        assert tokenizer.decode(episode.response_ids[episode.origin == ORIGIN_ENVIRONMENT]) == expected
        assert_sampled_from(model, episode)


def test_a_chat_that_begins_as_text_is_named(runners: EnvRunnerGroup):
    message = r"ChatTurns-v0, problem 3, seed 9, turn 1: the info of step\(\) has messages after a prompt that was none"
    with pytest.raises(ValueError, match=message):
        sample(runners, [Task(HALF_A_CHAT, 3, seed=9)], size=8)


def assert_sampled_from(model: Any, episode: Episode) -> None:
    """The engine saw the very ids of the episode, the environment's too."""
    assert episode.old_logprobs is not None
    written = episode.origin == ORIGIN_POLICY
    every = forced_logprobs(model, episode.prompt_ids, episode.response_ids).numpy()  # (T, V)
    expected = every[np.arange(len(every)), episode.response_ids]
    np.testing.assert_allclose(episode.old_logprobs[written], expected[written], atol=1e-4)
    assert (episode.old_logprobs[~written] == 0).all()


def always_ends(folder: str) -> Any:
    """The policy with weights that write the end of sequence whatever they read."""
    model, _ = load(folder)
    with torch.no_grad():
        for layer in model.model.layers:  # attention and MLP add nothing: the embedding reaches the head as it is
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        # all embeddings point the same way, and the tied head's row of the end of sequence is the longest
        model.model.embed_tokens.weight.fill_(0.1)
        model.model.embed_tokens.weight[model.config.eos_token_id] = 10.0
    return model


def test_a_policy_that_writes_nothing_but_its_end_is_sampled(runners: EnvRunnerGroup, tiny_models: dict[str, str]):
    model = always_ends(tiny_models["policy"])
    buckets: list[Any] = list(fill_buckets(model.named_parameters()))
    runners.sync_weights(runners.weights_version + 1, buckets)
    groups = sample(runners, tasks(3))
    assert responses(groups) == [[model.config.eos_token_id]] * 9
    infos = [info for sampled in groups for info in sampled.infos]
    assert {(info.num_policy_tokens, info.stop_reason, info.outcome) for info in infos} == {(1, "stop", "unparsable")}
    assert [text for episodes in fetch(groups) for text in episodes.response_texts] == [""] * 9


@pytest.mark.slow
def test_the_group_outlives_a_runner_until_its_restarts_are_used_up(runners: EnvRunnerGroup):
    version = runners.weights_version
    work = tasks(160)
    victim = process_of(runners.runners[0])
    stream = runners.sample(work, 4, SAMPLING, 0)
    groups = [next(stream)]
    os.kill(victim, signal.SIGKILL)
    groups += list(stream)
    assert runners.num_restarts == 1
    assert sorted(sampled.ordinal for sampled in groups) == list(range(160))
    assert {info.weights_version for sampled in groups for info in sampled.infos} == {version}
    assert sum(len(episodes) for episodes in fetch(groups)) == 640  # what the dead runner had finished is there too
    assert len(sample(runners, tasks(4))) == 4

    victim = process_of(runners.runners[0])
    stream = runners.sample(work, 4, SAMPLING, 0)
    next(stream)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="max_env_runner_restarts is used up"):
        list(stream)


@pytest.mark.slow
def test_a_model_that_vllm_cannot_load_is_named_with_the_cause(ray_cluster: Any, tmp_path: Path, tiny_models: Any):
    import shutil

    folder = shutil.copytree(tiny_models["policy"], tmp_path / "no-weights")
    (folder / "model.safetensors").unlink()
    group = EnvRunnerGroup(runner_spec(str(folder)), 1, num_cpus=0.5)
    with pytest.raises(ActorStartError) as caught:
        group.wait_until_ready()
    message = str(caught.value)
    assert message.startswith("EnvRunner failed to start: ")
    assert "no-weights" in message
    assert "Cannot find any model weights" in message
    assert "It loads model" in message


def test_stop_leaves_no_process(group: EnvRunnerGroup):
    alive = [runner for runner in group.runners if is_alive(runner)]
    processes = [psutil.Process(process_of(runner)) for runner in alive]
    processes += [child for process in processes for child in process.children(recursive=True)]
    assert processes
    group.stop()
    _, left = psutil.wait_procs(processes, timeout=20)
    assert not left
    group.stop()  # twice is harmless


def is_alive(runner: Any) -> bool:
    from ray.exceptions import RayActorError

    try:
        process_of(runner)
    except RayActorError:
        return False
    return True
