"""vLLM's tensor parallelism, which needs no GPU: policy and teacher each split over two processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.core.model_answers import forced_logprobs, guided, load, process_of

TIE, BOUND = 1e-4, 1e-4  # another order of summation
pytestmark = pytest.mark.long


def vllm_memory() -> set[str]:
    """What vLLM's processes share, by file."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(("psm_", "vllm_dist_"))}


@pytest.fixture(scope="module")
def shared_memory() -> set[str]:
    return vllm_memory()


@pytest.fixture(scope="module")
def trained(shared_memory: set[str], ray_cluster: Any, make_config: Any) -> Iterator[list[tuple[Any, Any]]]:
    """(algorithm, metrics of its two iterations), of the last one that was built; `algorithm` fills the list."""
    found: list[tuple[Any, Any]] = []
    yield found
    for algorithm, _ in found:
        algorithm.stop()


@pytest.fixture
def algorithm(trained: list[tuple[Any, Any]], make_config: Any) -> Any:
    """TGPO after two iterations; a new one where a test has stopped the last."""
    if not trained or not trained[-1][0].env_runners.runners:
        split = {"tensor_parallel_size": 2}
        config = make_config("TGPO", env_runners=split, teacher=split, training={"importance": "truncated"})
        built = config.build_algo()
        trained.append((built, []))
        trained[-1][1].extend(built.train() for _ in range(2))
    return trained[-1][0]


def test_split_engines_take_new_weights_and_sample_from_them(algorithm: Any, trained: list[tuple[Any, Any]]):
    for metrics in trained[-1][1]:
        assert metrics["policy/sampler_gap"] < BOUND  # of the second iteration: with the weights that the first made
        assert metrics["guidance/coverage"] == 1.0 and metrics["guidance/rejected_answers"] == 0.0


def test_a_split_teacher_says_what_transformers_says(algorithm: Any, tiny_models: dict[str, str]):
    model, _ = load(tiny_models["teacher"])
    head = model.get_output_embeddings().weight.detach()
    want = ("argmax", "logprob", "hidden", "topk:3")
    for episode, guidance in guided(algorithm.teachers["default"], algorithm.sampled, *want):
        expected = forced_logprobs(model, episode.prompt_ids, episode.response_ids).numpy()
        rows = np.arange(len(expected))
        assert guidance.teacher_logprobs is not None and guidance.topk_logprobs is not None
        np.testing.assert_allclose(guidance.teacher_logprobs, expected[rows, episode.response_ids], atol=BOUND)
        assert (expected.max(1) - expected[rows, guidance.teacher_ids]).max() < TIE
        np.testing.assert_allclose(guidance.topk_logprobs, -np.sort(-expected)[:, :3], atol=BOUND)
        logprobs = (torch.tensor(guidance.hidden) @ head.t()).log_softmax(-1)
        np.testing.assert_allclose(logprobs, expected, atol=BOUND)


def test_stopping_ends_the_processes_of_both_and_their_shared_memory(algorithm: Any, shared_memory: set[str]):
    actors = [*algorithm.env_runners.runners, *algorithm.teachers["default"].handles]
    processes = [child for actor in actors for child in psutil.Process(process_of(actor)).children(recursive=True)]
    assert len(processes) >= 4
    algorithm.stop()
    _, left = psutil.wait_procs(processes, timeout=20)
    assert not left
    assert not vllm_memory() - shared_memory
