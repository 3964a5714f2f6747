"""Traces joined to groups and cut to prefixes, without Ray: the actor's class is a plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.episodes import make_episode
from tgpo_ray.episode import ORIGIN_TEACHER, EpisodeGroup
from tgpo_ray.teachers.trace_book import TraceBook


@pytest.fixture
def book(tiny_models: dict[str, str]) -> TraceBook:
    rows = [("1+2=", "3;", 1.0), ("1+2=", "4;", 1.0), ("2*2=", "2*2=4;12", 0.0)]
    return TraceBook(rows, tiny_models["policy"], max_tokens=6)


def group_of(prompt: str, **changes: Any) -> EpisodeGroup:
    episode = make_episode(prompt=range(4), response=range(2), problem_index=3, seed=5, weights_version=7, **changes)
    return EpisodeGroup((episode, episode), prompt, ("a", "b"))


def test_a_group_gets_its_prompts_first_trace_as_its_last_episode(book: TraceBook, tiny_models: dict[str, str]):
    from transformers import AutoTokenizer

    joined, (info,) = book.joined(group_of("1+2="))
    trace = joined.episodes[-1]
    assert len(joined) == 3 and info.reward == 1.0 and info.num_policy_tokens == 0
    assert AutoTokenizer.from_pretrained(tiny_models["policy"]).decode(trace.response_ids[:-1]) == "3;"
    assert (trace.origin == ORIGIN_TEACHER).all() and trace.stop_reason == "stop" and trace.outcome == "correct"
    assert trace.problem_index == 3 and trace.weights_version == 7
    assert (trace.prompt_ids == joined.episodes[0].prompt_ids).all()


def test_a_prompt_without_a_trace_leaves_its_group_as_it_is(book: TraceBook):
    group = group_of("7+7=")
    assert book.joined(group) == (group, ())
    assert len(book.prefix("7+7=", 1.0)) == 0


def test_a_long_trace_is_cut_and_then_has_no_end(book: TraceBook):
    joined, _ = book.joined(group_of("2*2="))
    trace = joined.episodes[-1]
    assert len(trace.response_ids) == 6 and trace.stop_reason == "length" and trace.outcome == "wrong"


def test_a_trace_has_the_log_probs_shape_of_its_mates(book: TraceBook):
    joined, _ = book.joined(group_of("1+2=", old_logprobs=np.zeros(2, np.float32)))
    found = joined.episodes[-1].old_logprobs
    assert found is not None and len(found) == len(joined.episodes[-1].response_ids)


def test_a_prefix_is_a_share_of_the_trace_without_its_end(book: TraceBook):
    assert len(book.prefix("1+2=", 1.0)) == 2 and len(book.prefix("1+2=", 0.5)) == 1
    assert len(book.prefix("1+2=", 0.0)) == 0


def test_a_file_that_is_not_there_is_named(tmp_path: Path, tiny_models: dict[str, str]):
    from tgpo_ray.algorithms import LUFFYConfig

    config = LUFFYConfig.from_dict(
        {
            "algorithm": "LUFFY", "model": {"path": tiny_models["policy"]}, "env": {"id": "tgpo/Arithmetic-v0"},
            "traces": {"path": str(tmp_path / "none.jsonl")},
            "env_runners": {"max_prompt_tokens": 16, "max_response_tokens": 32},
        }
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"traces\.path: no such file"):
        config.build_algo()
