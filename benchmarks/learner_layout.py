"""Benchmark: how much of what the learners compute is useful, and how long planning takes, as JSON.

    python benchmarks/learner_layout.py                         # 1 and 8 ranks; budgets of 16k, 32k and 64k tokens
    python benchmarks/learner_layout.py --ranks 64 --seeds 10

Ranks run micro-batches in lockstep, so a step takes as long as its largest one. The useful share is the tokens over
ranks x the largest micro-batch's padded tokens, summed over steps. An iteration has 128 groups of 8, prompts of 200
tokens and response lengths that are independent, lognormal (sigma 0.8) and cut at a cap:

planned           all groups at once, as with several updates an iteration
streamed          groups handed over as they arrive, once they fill a micro-batch on each rank
order_of_arrival  groups one after the other, cut into micro-batches where the next sequence would break the budget
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tgpo_ray.driver import Handover
from tgpo_ray.episode import EpisodeInfo, SampledGroup, Task
from tgpo_ray.learners import Piece, plan_micro_batches

NUM_GROUPS, GROUP_SIZE, PROMPT, SIGMA = 128, 8, 200, 0.8
LENGTHS = {"long": (1480, 8192), "short": (330, 2048)}  # median and cap of the responses
GOALS = {1: 0.95, 8: 0.93}  # of `planned`, at 32k
Plan = list[list[list[Piece]]]  # [rank][step]


def sample(median: int, cap: int, seed: int) -> list[SampledGroup]:
    responses = np.random.default_rng(seed).lognormal(np.log(median), SIGMA, (NUM_GROUPS, GROUP_SIZE))
    responses = np.minimum(responses, cap).astype(int).tolist()
    return [
        SampledGroup(key, Task(0, key, 0), tuple(EpisodeInfo(0.0, PROMPT, n, n, "wrong", "stop", 0) for n in row), None)
        for key, row in enumerate(responses)
    ]


def lengths_of(groups: Sequence[SampledGroup]) -> dict[int, list[int]]:
    return {group.ordinal: [info.num_tokens for info in group.infos] for group in groups}


def planned(groups: Sequence[SampledGroup], num_ranks: int, budget: int) -> Plan:
    members, advantages = tuple(range(GROUP_SIZE)), np.zeros(GROUP_SIZE, np.float32)
    pieces = [Piece(group.ordinal, group.ref, group.guidance, advantages, members) for group in groups]
    return plan_micro_batches(pieces, lengths_of(groups), num_ranks, budget)


def streamed(groups: Sequence[SampledGroup], num_ranks: int, budget: int) -> list[Plan]:
    plans: list[Plan] = []
    handover = Handover(lambda waiting: plans.append(planned(waiting, num_ranks, budget)), budget * num_ranks)
    for group in groups:
        handover.take(group)
    handover.flush()
    return plans


def order_of_arrival(groups: Sequence[SampledGroup], num_ranks: int, budget: int) -> int:
    """Tokens that the ranks compute."""
    micro_batches: list[list[int]] = [[]]
    for length in (length for lengths in lengths_of(groups).values() for length in lengths):
        if max([length, *micro_batches[-1]]) * (len(micro_batches[-1]) + 1) > budget:
            micro_batches.append([])
        micro_batches[-1].append(length)
    padded = [len(micro_batch) * max(micro_batch) for micro_batch in micro_batches]
    return num_ranks * sum(max(padded[start : start + num_ranks]) for start in range(0, len(padded), num_ranks))


def computed(plans: Sequence[Plan], groups: Sequence[SampledGroup], num_ranks: int, budget: int) -> int:
    """Tokens that the ranks compute, after a look at what must hold for any plan."""
    lengths, seen, total = lengths_of(groups), [], 0
    for plan in plans:
        for step in zip(*plan, strict=True):
            keys = [[(piece.ordinal, i) for piece in micro_batch for i in piece.members] for micro_batch in step]
            sizes = [len(of_rank) * max((lengths[key][i] for key, i in of_rank), default=0) for of_rank in keys]
            assert max(sizes) <= budget, f"a micro-batch of {max(sizes)} tokens"
            total += num_ranks * max(sizes)
            seen += [key for of_rank in keys for key in of_rank]
    assert sorted(seen) == [(group.ordinal, i) for group in groups for i in range(GROUP_SIZE)], "an episode was lost"
    return total


def measure(median: int, cap: int, num_ranks: int, budget: int, seeds: int) -> dict[str, float]:
    """Means over the seeds; the median time of a plan."""
    shares: dict[str, list[float]] = {"planned": [], "streamed": [], "order_of_arrival": []}
    steps, milliseconds = [], []
    for seed in range(seeds):
        groups = sample(median, cap, seed)
        useful = sum(map(sum, lengths_of(groups).values()))
        start = time.perf_counter()
        plan = planned(groups, num_ranks, budget)
        milliseconds.append(1000 * (time.perf_counter() - start))
        shares["planned"].append(useful / computed([plan], groups, num_ranks, budget))
        plans = streamed(groups, num_ranks, budget)
        shares["streamed"].append(useful / computed(plans, groups, num_ranks, budget))
        shares["order_of_arrival"].append(useful / order_of_arrival(groups, num_ranks, budget))
        steps.append(len(plan[0]))
    figures = {name: round(statistics.mean(values), 3) for name, values in shares.items()}
    return figures | {"steps": statistics.mean(steps), "planning_ms": round(statistics.median(milliseconds), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--budgets", type=int, nargs="+", default=[16_384, 32_768, 65_536])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    planned(sample(*LENGTHS["short"], 0), 1, 16_384)  # what numpy does once
    report: dict[str, object] = {"settings": vars(options), "goals_at_32k": GOALS}
    for name, (median, cap) in LENGTHS.items():
        means = [np.mean([info.num_tokens for g in sample(median, cap, seed) for info in g.infos]) for seed in range(3)]
        report[name] = {
            "mean_tokens": round(float(np.mean(means))),
            "useful_share": [
                {"ranks": ranks, "budget": budget} | measure(median, cap, ranks, budget, options.seeds)
                for ranks in options.ranks
                for budget in options.budgets
            ],
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
