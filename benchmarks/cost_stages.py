"""Seconds and memory of one stage of an iteration with one random model, in a process of its own, for `cost_model.py`.

    python benchmarks/cost_stages.py '{"stage": "learner", "model": {...}, "batches": [[4, 8, 32, 64]], "rounds": 3}'

Prints JSON. A batch is prompts, responses of each, tokens of a prompt, tokens of a response. The stages are what actors
hold: `Engine`, `VllmBackend` and `Learner`, without Ray. Seconds are processor seconds of one thread, in the best
round. The first round warms up.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup, Guidance

KV_CACHE = 512 * 2**20
CONTEXT = 2048
HIGH_WATER = Path("/proc/self/clear_refs"), "5"  # resets VmHWM of /proc/self/status


class Batch(NamedTuple):
    num_prompts: int
    group_size: int
    prompt_tokens: int
    response_tokens: int

    def groups(self, vocabulary: int, *, shorter: int = 0) -> list[EpisodeGroup]:
        """Random episodes with a teacher's token at every position; a group's first is that much shorter."""
        rng = np.random.default_rng(0)
        ids = lambda size: rng.integers(2, vocabulary, size).astype(np.int32)  # noqa: E731
        return [
            EpisodeGroup(
                tuple(
                    self._episode(prompt, ids, self.response_tokens - (0 if i else shorter))
                    for i in range(self.group_size)
                )
            )
            for prompt in (ids(self.prompt_tokens) for _ in range(self.num_prompts))
        ]

    @staticmethod
    def _episode(prompt: np.ndarray, ids: Callable[[int], np.ndarray], length: int) -> Episode:
        return Episode(
            prompt_ids=prompt,
            response_ids=ids(length),
            origin=np.full(length, ORIGIN_POLICY, np.uint8),
            reward=0.0,
            outcome="wrong",
            stop_reason="length",
            env_id="",
            problem_index=0,
            seed=0,
            weights_version=0,
            guidance={"teacher": Guidance(teacher_ids=ids(length))},
        )


def main() -> None:
    import torch

    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(folder, case["model"])
        measure = {"rollout": rollout, "teacher": teacher, "learner": learner, "memory": learner_memory}[case["stage"]]
        results = list(measure(folder, [Batch(*batch) for batch in case["batches"]], case))
    print(json.dumps(results))


def write(folder: str, model: dict[str, Any]) -> None:
    """Write a random model. A head that starts at 0 samples uniformly, so that no response ends early by habit."""
    from tgpo_ray.models import character_tokenizer, write_model

    fields = {key: value for key, value in model.items() if key != "model_type"}
    write_model(folder, model["model_type"], character_tokenizer([*"0123456789+-*=,;"]), **fields)


def least(run: Callable[[], Any], rounds: int) -> float:
    run()
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def spec_of(folder: str) -> Any:
    from tgpo_ray.models import EngineSpec

    return EngineSpec(folder, "float32", CONTEXT, kv_cache_memory=KV_CACHE)


def rollout(folder: str, batches: list[Batch], case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Sampling: all prompts at once, each for `group_size` responses."""
    from tgpo_ray.models import Engine, Sampling, completions

    engine = Engine(spec_of(folder))
    for batch in batches:
        prompts = [group.episodes[0].prompt_ids for group in batch.groups(case["model"]["vocab_size"])]
        lengths: list[int] = []

        def sample(batch: Batch = batch, prompts: list[np.ndarray] = prompts, lengths: list[int] = lengths) -> None:
            sampling = Sampling(batch.response_tokens)
            for prompt in prompts:
                engine.generate(prompt, sampling, n=batch.group_size)
            outputs = engine.finish().values()
            lengths[:] = [len(each.token_ids) for output in outputs for each in completions(output)]

        yield {"batch": batch, "seconds": least(sample, case["rounds"]), "lengths": list(lengths)}


def teacher(folder: str, batches: list[Batch], case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Scoring: the argmax at every position, a group at a time, as a teacher is asked."""
    from tgpo_ray.models import ScoringRequest, Want
    from tgpo_ray.teachers import VllmBackend

    backend = VllmBackend(spec_of(folder))
    assert backend.lean, "this vLLM has no lean scoring"
    for batch in batches:
        groups = [
            [
                ScoringRequest(np.concatenate([it.prompt_ids, it.response_ids]), len(it.prompt_ids))
                for it in group.episodes
            ]
            for group in batch.groups(case["model"]["vocab_size"])
        ]
        run = lambda groups=groups: [backend.score(group, Want(argmax=True)) for group in groups]  # noqa: E731
        yield {"batch": batch, "seconds": least(run, case["rounds"])}


def learner_of(folder: str, case: dict[str, Any]) -> Any:
    from tgpo_ray.learners import Learner, LearnerSpec, StrategyOptions

    checkpointing = case.get("gradient_checkpointing", False)
    return Learner(LearnerSpec(folder, folder, StrategyOptions(), gradient_checkpointing=checkpointing, threads=1))


def micro_batches_of(batch: Batch, case: dict[str, Any]) -> list[Any]:
    from tgpo_ray.learners import Piece, plan_micro_batches

    members, advantages = tuple(range(batch.group_size)), np.ones(batch.group_size, np.float32)
    # sequences of unequal length have a mask, which autograd keeps too
    groups = batch.groups(case["model"]["vocab_size"], shorter=int(case["stage"] == "memory"))
    pieces = [Piece(key, group, {}, advantages, members) for key, group in enumerate(groups)]
    lengths = {
        key: [len(it.prompt_ids) + len(it.response_ids) for it in each.episodes] for key, each in enumerate(groups)
    }
    return plan_micro_batches(pieces, lengths, 1, case["token_budget"])[0]


def update(learner: Any, micro_batches: list[Any]) -> None:
    from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss

    learner.accumulate(micro_batches, GuidedPolicyLoss(guidance_weight=2e-3))
    learner.step(1.0, 1e-6)


def learner(folder: str, batches: list[Batch], case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One update: forward, backward and the optimizer's step."""
    rank = learner_of(folder, case)
    for batch in batches:
        micro_batches = micro_batches_of(batch, case)
        run = lambda micro_batches=micro_batches: update(rank, micro_batches)  # noqa: E731
        yield {"batch": batch, "seconds": least(run, case["rounds"]), "micro_batches": len(micro_batches)}


def resident(key: str) -> int:
    """Returns bytes of this process: VmRSS now, VmHWM at most since the reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def learner_memory(folder: str, batches: list[Batch], case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The most memory in an update of two micro-batches, less that of the process before the model is read."""
    micro_batches = [micro_batches_of(batch, case) for batch in batches]
    warm_up(case)
    before = resident("VmRSS")
    rank = learner_of(folder, case)
    update(rank, micro_batches_of(Batch(1, 2, 4, 4), case))  # the optimizer's moments come with the first step
    for batch, each in zip(batches, micro_batches, strict=True):
        HIGH_WATER[0].write_text(HIGH_WATER[1])
        update(rank, each * 2)  # the second finds the gradients of the first
        yield {"batch": batch, "bytes": resident("VmHWM") - before}


def warm_up(case: dict[str, Any]) -> None:
    """Import and initialise what a process holds once, with a model of no size."""
    with tempfile.TemporaryDirectory() as folder:
        small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 64, "head_dim": 8}
        write(folder, case["model"] | small | {"num_attention_heads": 2, "num_key_value_heads": 1})
        batch, tiny = Batch(1, 2, 4, 4), case | {"model": case["model"] | small}
        update(learner_of(folder, tiny), micro_batches_of(batch, tiny))


if __name__ == "__main__":
    main()
