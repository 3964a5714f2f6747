"""Benchmark: a learner's forward and backward pass in each layout of a micro-batch, as JSON.

    python benchmarks/shared_prompts.py                      # P=220, R=64, G=8, and the same with ragged lengths
    python benchmarks/shared_prompts.py --prompt 1024 --response 256

`Learner.accumulate` on TGPO's loss: trunk, LM head, loss and gradients, over the micro-batches that the driver plans.
The layouts run in turn, `--rounds` times, on one thread; a time is the median. The model is a random Qwen2 of 4 layers.
Gradients of all layouts are compared with those of padded sequences. `ragged` draws prompts (sigma 0.5) and responses
(sigma 0.8) from lognormal laws of these medians. Without flash attention, `packed` masks all tokens of a micro-batch
against all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss
from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup, Guidance
from tgpo_ray.learners import LAYOUTS, Layout, Learner, LearnerSpec, Piece, StrategyOptions, plan_micro_batches

VOCABULARY, GROUP_SIZE, TOLERANCE = 512, 8, 1e-5
LOSS = GuidedPolicyLoss(guidance_weight=0.1)
GOAL = 3.0  # of shared_prompt over padded, at P=220, R=64, G=8


def write_model(folder: str, hidden: int) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=4,
        num_attention_heads=hidden // 32, num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)


def episode(rng: np.random.Generator, prompt: np.ndarray, length: int) -> Episode:
    response, teacher = rng.integers(0, VOCABULARY, (2, length), np.int32)
    origin, guidance = np.full(length, ORIGIN_POLICY, np.uint8), {"teacher": Guidance(teacher_ids=teacher)}
    return Episode(prompt, response, origin, 0.0, "wrong", "stop", "benchmark", 0, 0, 0, guidance=guidance)


def batch(prompt: int, response: int, num_groups: int, *, ragged: bool) -> list[Piece]:
    rng, pieces = np.random.default_rng(0), []
    for ordinal in range(num_groups):
        width = int(prompt * rng.lognormal(0.0, 0.5)) + 1 if ragged else prompt
        lengths = (
            (response * rng.lognormal(0.0, 0.8, GROUP_SIZE)).astype(int) + 1 if ragged else [response] * GROUP_SIZE
        )
        ids = rng.integers(0, VOCABULARY, width, np.int32)
        group = EpisodeGroup(tuple(episode(rng, ids, int(length)) for length in lengths))
        advantages = rng.normal(size=GROUP_SIZE).astype(np.float32)
        pieces.append(Piece(ordinal, group, {}, advantages, tuple(range(GROUP_SIZE))))
    return pieces


def planned(pieces: Sequence[Piece], layout: Layout, budget: int) -> list[list[Piece]]:
    prompts = {piece.ordinal: len(piece.ref.episodes[0].prompt_ids) for piece in pieces}
    lengths = {p.ordinal: [prompts[p.ordinal] + len(one.response_ids) for one in p.ref.episodes] for p in pieces}
    (steps,) = plan_micro_batches(pieces, lengths, 1, budget, layout=layout, prompts=prompts)
    return steps


def seconds(learner: Learner, steps: Sequence[list[Piece]]) -> float:
    start = time.perf_counter()
    learner.accumulate(steps, LOSS)
    return time.perf_counter() - start


def taken_gradients(learner: Learner) -> dict[str, Tensor]:
    module = learner._strategy.module
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return gradients


def gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of an entry, over the largest entry."""
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / scale


def measure(folder: str, pieces: Sequence[Piece], budget: int, rounds: int) -> dict[str, Any]:
    learners: dict[Layout, Learner] = {
        layout: Learner(LearnerSpec(folder, folder, StrategyOptions(), threads=1, layout=layout)) for layout in LAYOUTS
    }
    plans = {layout: planned(pieces, layout, budget) for layout in learners}
    times: dict[Layout, list[float]] = {layout: [] for layout in learners}
    gradients: dict[Layout, dict[str, Tensor]] = {}
    for _ in range(rounds + 1):  # the first round warms up
        for layout, learner in learners.items():
            times[layout].append(seconds(learner, plans[layout]))
            gradients[layout] = taken_gradients(learner)
    report: dict[str, Any] = {}
    medians = {layout: statistics.median(values[1:]) for layout, values in times.items()}
    for layout in learners:
        difference = gap(gradients[layout], gradients["padded"])
        assert difference < TOLERANCE, f"{layout}: gradients differ by {difference:.1e}"
        report[layout] = {
            "seconds": round(medians[layout], 3),
            "speed": round(medians["padded"] / medians[layout], 2),
            "micro_batches": len(plans[layout]),
            "gradient_gap": float(f"{difference:.1e}"),
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=220, help="tokens of a prompt")
    parser.add_argument("--response", type=int, default=64, help="tokens of a response")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--budget", type=int, default=4096, help="tokens of a micro-batch")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    report: dict[str, Any] = {"settings": vars(options), "goal": GOAL}
    for hidden in options.hidden:
        with tempfile.TemporaryDirectory() as folder:
            write_model(folder, hidden)
            for name in ("equal", "ragged"):
                pieces = batch(options.prompt, options.response, options.groups, ragged=name == "ragged")
                report[f"{name}, hidden size {hidden}"] = measure(folder, pieces, options.budget, options.rounds)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
