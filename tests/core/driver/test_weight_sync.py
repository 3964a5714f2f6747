"""Weights on their way from a learner to the engines: bits, buckets, versions, and what the engines do with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tgpo_ray.algorithms.token_losses import SFTLoss
from tgpo_ray.driver.weight_sync import WeightSync
from tgpo_ray.env_runners.group import EnvRunnerGroup
from tgpo_ray.episode import EpisodeGroup, SampledGroup, Task
from tgpo_ray.learners.learner import Learner, LearnerSpec
from tgpo_ray.learners.planning import Piece
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.models.engine_spec import Sampling
from tgpo_ray.models.weight_buckets import fill_buckets, from_array, read_buckets, to_array

# The largest difference seen between the log-probs of vLLM and of the learner, both float32: 7e-7.
LOGPROB_BOUND = 1e-4


def make_learner(folder: str, temperature: float = 1.0) -> Learner:
    return Learner(LearnerSpec(folder, folder, StrategyOptions(lr=1e-2), temperature=temperature))


def pieces(groups: Sequence[EpisodeGroup]) -> list[Piece]:
    return [Piece(i, group, {}, np.zeros(len(group)), tuple(range(len(group)))) for i, group in enumerate(groups)]


def sample(runners: EnvRunnerGroup, temperature: float) -> tuple[list[SampledGroup], list[EpisodeGroup]]:
    import ray

    tasks = [Task(0, index, seed=index, ordinal=index) for index in range(6)]
    sampling = Sampling(max_tokens=24, temperature=temperature, logprobs=True)
    groups = list(runners.sample(tasks, 4, sampling, seed=0))
    return groups, ray.get([group.ref for group in groups])


def differences(learner: Learner, groups: Sequence[EpisodeGroup]) -> np.ndarray:
    """|learner - sampler| of every token's log-prob."""
    ours = learner.logprobs(pieces(groups))
    found = []
    for i, group in enumerate(groups):
        for j, episode in enumerate(group.episodes):
            assert episode.old_logprobs is not None
            found.append(np.abs(ours[i, j] - episode.old_logprobs))
    return np.concatenate(found)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_after_an_update_and_a_sync_the_sampler_and_the_learner_agree(
    env_runners: EnvRunnerGroup, tiny_models: dict[str, str], temperature: float
):
    learner = make_learner(tiny_models["policy"], temperature)
    weights = WeightSync(learner, env_runners)  # pyright: ignore[reportArgumentType]  (one rank is a group of one)
    before = weights.sync()
    _, groups = sample(env_runners, temperature)
    assert differences(learner, groups).max() < LOGPROB_BOUND

    learner.accumulate([pieces(groups)], SFTLoss())
    learner.step(denominator=100.0, lr=1e-2)
    assert differences(learner, groups).max() > 100 * LOGPROB_BOUND  # the update moved what is compared

    assert weights.sync() == before + 1
    sampled, groups = sample(env_runners, temperature)
    found = differences(learner, groups)
    print(f"T = {temperature}: largest difference {found.max():.1e} over {len(found)} tokens")
    assert found.max() < LOGPROB_BOUND
    assert {info.weights_version for group in sampled for info in group.infos} == {before + 1}


def test_log_probs_of_another_temperature_do_not_agree(env_runners: EnvRunnerGroup, tiny_models: dict[str, str]):
    learner = make_learner(tiny_models["policy"], temperature=1.0)
    WeightSync(learner, env_runners).sync()  # pyright: ignore[reportArgumentType]
    _, groups = sample(env_runners, temperature=0.7)
    assert differences(learner, groups).max() > 10 * LOGPROB_BOUND


def test_a_version_rises_and_never_goes_back(env_runners: EnvRunnerGroup, tiny_models: dict[str, str]):
    weights = WeightSync(make_learner(tiny_models["policy"]), env_runners)  # pyright: ignore[reportArgumentType]
    first = weights.sync()
    assert weights.sync() == first + 1
    assert weights.sync(first + 10) == first + 10
    assert weights.sync(first) == first + 11
    assert env_runners.weights_version == first + 11
    assert WeightSync(make_learner(tiny_models["policy"]), env_runners).version == first + 11  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("model", "head_is_sent"), [("policy", False), ("teacher", True)])
def test_a_tied_head_is_sent_once_under_the_embeddings_name(
    ray_cluster: Any, tiny_models: dict[str, str], model: str, head_is_sent: bool
):
    from transformers import AutoModelForCausalLM

    sent = dict(read_buckets(make_learner(tiny_models[model]).weight_buckets()))
    expected = dict(AutoModelForCausalLM.from_pretrained(tiny_models[model]).named_parameters())
    assert sent.keys() == expected.keys()
    assert ("lm_head.weight" in sent) == head_is_sent
    assert all(torch.equal(sent[name], weight) for name, weight in expected.items())


def test_buckets_are_limited_in_bytes_and_keep_the_order():
    weights = [("a", torch.zeros(10)), ("b", torch.zeros(10)), ("c", torch.zeros(100)), ("d", torch.zeros(5))]
    buckets = list(fill_buckets(weights, max_bytes=100))  # of 40, 40, 400 and 20 bytes
    assert [[name for name, _, _ in bucket] for bucket in buckets] == [["a", "b"], ["c"], ["d"]]
    assert [name for name, _ in read_buckets(buckets)] == ["a", "b", "c", "d"]
    assert [len(bucket) for bucket in fill_buckets(weights)] == [4]
    assert list(fill_buckets([])) == []


def test_bfloat16_keeps_every_bit():
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)  # every value, NaNs and infinities too
    dtype, array = to_array(bits.view(torch.bfloat16).reshape(256, 256))
    assert (dtype, array.dtype, array.shape) == ("bfloat16", np.int16, (256, 256))
    back = from_array(dtype, array)
    assert back.dtype == torch.bfloat16
    assert torch.equal(back.view(torch.int16).flatten(), bits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_types_come_back_as_they_were(dtype: torch.dtype):
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype).T  # not contiguous
    assert torch.equal(from_array(*to_array(tensor)), tensor)


def test_an_array_from_the_object_store_is_read_without_a_warning(ray_cluster: Any):
    import ray

    bucket = next(fill_buckets([("w", torch.arange(4.0))]))
    ((name, tensor),) = read_buckets([ray.put(bucket)])  # read-only memory
    assert name == "w"
    assert tensor.tolist() == [0, 1, 2, 3]
