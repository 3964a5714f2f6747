"""Lean scoring without an engine: a chunk of rows, a runner's steps, rows of cached positions, the probe."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scoring import given as of  # hypothesis has a `given` too
from tests.scoring import request
from tgpo_ray.models import Scores, Want
from tgpo_ray.models.lean_scoring import RowCollector, ScoredRows, argmax, predictions
from tgpo_ray.models.scored_rows import assemble, cut, distinct, partings_of
from tgpo_ray.models.scoring import SCORED_INDEX
from tgpo_ray.teachers.backends.vllm_backend import disagree, probe_requests

# ---- a chunk of rows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_predictions_of_a_row_written_out():
    # logits (log 1, log 2, log 5) - (log 4): p = 1/8, 2/8, 5/8; the second row is uniform
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]])) - np.log(4.0)
    found = predictions(logits, torch.tensor([1, 0]), Want(argmax=True, logprob=True, top_k=2), generator())
    assert found["argmax_ids"].tolist() == [2, found["topk_ids"][1, 0]]
    torch.testing.assert_close(found["logprobs"], torch.log(torch.tensor([2 / 8, 1 / 3])))
    assert found["topk_ids"][0].tolist() == [2, 1]
    torch.testing.assert_close(found["topk_logprobs"][0], torch.log(torch.tensor([5 / 8, 2 / 8])))
    assert {name: values.dtype for name, values in found.items()} == {
        "argmax_ids": torch.int32, "topk_ids": torch.int32, "logprobs": torch.float32, "topk_logprobs": torch.float32
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_argmax_is_torchs_and_of_equal_ones_the_first(dtype: torch.dtype):
    logits = torch.randn(50, 300, generator=generator()).to(dtype)
    logits[0, 7] = logits[0, 200] = logits.max() + 1
    assert argmax(logits).tolist() == logits.argmax(-1).tolist()
    assert argmax(logits)[0] == 7


def test_samples_follow_the_distribution_and_the_seed():
    share = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0])
    logits = share.log().expand(20_000, -1)

    def draw(seed: int) -> torch.Tensor:
        return predictions(logits, torch.zeros(len(logits), dtype=torch.int64), Want(sample=True), generator(seed))[
            "sampled_ids"
        ]

    counts = torch.bincount(draw(0).long(), minlength=5) / len(logits)
    assert counts[1] == counts[4] == 0.0  # impossible ids, the last among them, are never drawn
    assert (counts - share).abs().max() < 0.015  # four standard deviations: 4 sqrt(0.25 / 20000)
    assert (draw(0) == draw(0)).all() and not (draw(0) == draw(1)).all()


# ---- the steps of a runner; vLLM's second one needs a GPU, so both layouts are stood in for


class Runner:
    """Hidden states whose argmax is 10 * request + position; rows of a step lie in the order of the batch."""

    def __init__(self, *, second: bool) -> None:
        self.second = second
        self.execute_model_state: Any = None
        self.model = SimpleNamespace(compute_logits=lambda hidden: torch.nn.functional.one_hot(hidden[:, 0], 64) * 1.0)
        self.model_config = SimpleNamespace(get_vocab_size=lambda: 64)

    def execute_model(self, scheduler_output: Any) -> None:
        names = sorted(scheduler_output.num_scheduled_tokens)  # another order than the scheduler's
        computed = {new.req_id: new.num_computed_tokens for new in scheduler_output.scheduled_new_reqs}
        cached = scheduler_output.scheduled_cached_reqs
        computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        counts = scheduler_output.num_scheduled_tokens
        hidden = [[10 * int(name[1]) + computed[name] + i] for name in names for i in range(counts[name])]
        starts = np.cumsum([0, *[counts[name] for name in names]])
        self.execute_model_state = SimpleNamespace(hidden_states=torch.tensor(hidden))
        if self.second:
            self.execute_model_state.input_batch = SimpleNamespace(req_ids=names, query_start_loc_np=starts)
        else:
            self.query_start_loc = SimpleNamespace(np=starts)
            self.input_batch = SimpleNamespace(req_id_to_index={name: i for i, name in enumerate(names)})


def step(new: dict[str, tuple[int, int]], cached: dict[str, tuple[int, int]]) -> Any:
    """A scheduler's output: request -> (tokens in the cache, tokens of this step). `r0` and `r1` are to be scored."""
    return SimpleNamespace(
        num_scheduled_tokens={name: count for name, (_, count) in (cached | new).items()},
        scheduled_new_reqs=[
            SimpleNamespace(
                req_id=name,
                num_computed_tokens=computed,
                sampling_params=SimpleNamespace(extra_args={SCORED_INDEX: int(name[1])} if name < "r2" else None),
            )
            for name, (computed, _) in new.items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached), num_computed_tokens=[computed for computed, _ in cached.values()]
        ),
    )


@pytest.mark.parametrize("second", [False, True])
def test_the_rows_of_a_step_are_found_in_both_runners_layouts(second: bool):
    runner = Runner(second=second)
    before = runner.execute_model
    requests = [request(range(9), 3), request(range(7), 2)]
    collector = RowCollector(runner, requests, {0: [(1, 1), (4, 1)]}, Want(argmax=True), 0)
    runner.execute_model(step({"r2": (0, 2), "r0": (0, 5)}, {}))  # positions 0..4: rows 0..2 of r0, at 2, 3 and 4
    runner.execute_model(step({"r1": (4, 1)}, {"r2": (2, 1), "r0": (5, 3)}))  # r0's rows 3..5, r1's row 3 at 4
    rows = collector.take()
    assert rows is not None
    assert rows.spans.tolist() == [[0, 0, 3], [1, 1, 2], [0, 3, 6], [1, 4, 5], [1, 3, 4]]
    assert rows.fields["argmax_ids"].tolist() == [2, 3, 4, 3, 5, 6, 7, 6, 14]
    assert runner.execute_model == before


def test_a_process_without_logits_has_no_rows():
    runner = Runner(second=False)
    runner.model.compute_logits = lambda hidden: None  # vLLM gathers the logits at the first rank
    collector = RowCollector(runner, [request(range(9), 3)], {}, Want(argmax=True), 0)
    runner.execute_model(step({"r0": (0, 8)}, {}))
    assert collector.take() is None


# ---- rows of cached positions


def test_a_cached_row_stands_with_the_mate_that_computed_it():
    # [7 8 | 5 5 6] and [7 8 | 5 5 9], blocks of 4 ids: the first four of the second are in the cache, and row 2 of both
    # is predicted behind them, so the first computes row 2 for the second as well
    requests = [request([7, 8, 5, 5, 6], 2), request([7, 8, 5, 5, 9], 2)]
    assert partings_of(requests, 4) == {0: [(2, 1)], 1: [(2, 0)]}
    rows = ScoredRows(np.array([[0, 0, 3], [1, 2, 3]]), {"argmax_ids": np.array([10, 11, 12, 22], np.int32)})
    one, other = assemble(rows, requests)
    assert of(one.argmax_ids).tolist() == [10, 11, 12]
    assert of(other.argmax_ids).tolist() == [10, 11, 22]
    assert one.logprobs is None


def test_only_mates_that_part_at_the_end_of_a_block_are_told_of():
    prompt = [1] * 16
    requests = [request([*prompt, *response], 16) for response in ([2, 3], [4, 3], [2, 5], [2])]
    assert partings_of(requests) == {0: [(0, 1)], 1: [(0, 0), (0, 2), (0, 3)], 2: [(0, 1)], 3: [(0, 1)]}
    assert partings_of([request([1, *prompt, 2], 17), request([1, *prompt, 3], 17)]) == {}
    assert partings_of([request([*prompt, 2], 16), request([*prompt, 3, 4], 15)]) == {}  # other prompts


def test_a_row_that_nobody_computed_is_an_error():
    requests = [request([7, 8, 5], 2), request([9, 8, 5], 2)]  # other prompts: not mates
    rows = ScoredRows(np.array([[0, 0, 1]]), {"argmax_ids": np.array([10], np.int32)})
    with pytest.raises(RuntimeError, match="left 1 of 2 rows uncomputed"):
        assemble(rows, requests)
    with pytest.raises(RuntimeError, match="computed none of the rows"):
        assemble(None, requests)


def row_key(ids: Sequence[int], first: int, row: int) -> int:
    """What a model would say there: a function of the ids before it and of the token that is scored."""
    return hash((first, tuple(int(i) for i in ids[: first + row + 1]))) % 2**31


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_order_of_cache_hits_and_steps_gives_every_request_its_own_rows(data: st.DataObject):
    block, cache, spans, values = data.draw(st.integers(1, 4)), set(), [], []
    prompts = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=3))
    drawn = [
        request([*prompt, *data.draw(st.lists(st.integers(0, 1), max_size=8))], len(prompt))
        for prompt in prompts
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    requests, which = distinct(drawn)
    parted = partings_of(requests, block)
    for index, one in enumerate(requests):  # an engine with a prefix cache for equal `first`, a prefill in two steps
        read, prefixes = len(one.ids) - 1, [(one.first, one.ids[:n].tobytes()) for n in range(len(one.ids))]
        cached = 0
        while cached + block < read and prefixes[cached + block] in cache:
            cached += block
        split = data.draw(st.integers(cached, read))
        for begin, end in ((cached, split), (split, read)):
            start, stop = max(begin - one.first + 1, 0), end - one.first + 1
            if start < stop:
                spans.append((index, start, stop))
                values += [row_key(one.ids.tolist(), one.first, row) for row in range(start, stop)]
                for row, mate in parted.get(index, ()):
                    if start <= row < stop:
                        spans.append((mate, row, row + 1))
                        values.append(row_key(requests[mate].ids.tolist(), one.first, row))
        cache.update(prefixes)
    found = assemble(ScoredRows(np.array(spans), {"argmax_ids": np.array(values, np.int32)}), requests)
    for index, one in zip(which, drawn, strict=True):
        expected = [row_key(one.ids.tolist(), one.first, row) for row in range(len(one.ids) - one.first)]
        assert of(cut(found[index], one).argmax_ids).tolist() == expected


def test_equal_requests_are_read_once_and_one_without_rows_keeps_none():
    requests = [request([1, 2, 3], 2), request([1, 2, 3], 1), request([1, 2, 3], 2), request([1, 2], 2)]
    kept, which = distinct(requests)
    assert which == [0, 1, 0, 2]
    assert [len(one.ids) - one.first for one in kept] == [1, 2, 1]
    empty = cut(Scores(logprobs=np.zeros(1, np.float32), topk_ids=np.zeros((1, 3), np.int32)), requests[3])
    assert of(empty.logprobs).shape == (0,)
    assert of(empty.topk_ids).shape == (0, 3)


# ---- the probe


def test_the_probe_sees_a_shift_and_forgives_rounding():
    rng = np.random.default_rng(0)
    right = [Scores(argmax_ids=np.arange(40), logprobs=rng.normal(-5.0, 0.2, 40).astype(np.float32))]
    noisy = [Scores(argmax_ids=right[0].argmax_ids, logprobs=of(right[0].logprobs) + rng.normal(0.0, 0.004, 40))]
    shifted = [Scores(argmax_ids=np.arange(40), logprobs=np.roll(of(right[0].logprobs), 1))]
    others = [Scores(argmax_ids=np.arange(1, 41), logprobs=right[0].logprobs)]
    assert not disagree(right, right) and not disagree(noisy, right)
    assert disagree(shifted, right) and disagree(others, right)


@pytest.mark.parametrize("max_model_len", [3, 16, 4096])
def test_the_probe_fits_every_context(max_model_len: int):
    for one in probe_requests(max_model_len):
        assert 1 <= one.first < len(one.ids) < max_model_len
