"""Peak memory of a learner that trains adapters against one that trains all weights, as JSON.

    python benchmarks/lora_memory.py                 # a random Qwen3 of 197 million parameters
    python benchmarks/lora_memory.py --rank 64

One learner in a process of its own, without Ray, takes two updates on the same 8 sequences. The peak is the kernel's
mark (VmHWM), set back after the model is loaded, less what the process held before it had a model. `predicted_mib` is
what `tgpo-ray plan --cluster` counts. `peak_returned_mib` is the peak in a second process whose C library gives a block
of more than 256 KiB back to the kernel as soon as it is freed (MALLOC_MMAP_THRESHOLD_); by itself glibc raises that
bound to 32 MiB, and what lies between freed blocks stays. A KL to a frozen reference is part of `lora, kl`: the model
without its adapters answers. Beside a learner of all weights that takes a second model, in an actor, which is not in
these figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.process_memory import peak_rss_mib
from benchmarks.reports import print_report
from tgpo_ray.algorithms.token_losses import PolicyLoss
from tgpo_ray.costs import TrainingState, activation_memory, loss_memory, shape_of, training_memory
from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup
from tgpo_ray.learners import Learner, LearnerSpec, Piece, StrategyOptions
from tgpo_ray.models import LoraSpec, character_tokenizer, write_model

SHAPE = {
    "vocab_size": 32768, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 64, "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}  # fmt: skip
SEQUENCES, PROMPT, RESPONSE = 8, 64, 64
MIB = 2**20
CONTESTANTS = {
    "all weights": {"lora": False, "dtype": "float32", "kl": False},
    "lora": {"lora": True, "dtype": "float32", "kl": False},
    "lora, kl": {"lora": True, "dtype": "float32", "kl": True},
    "all weights, bfloat16": {"lora": False, "dtype": "bfloat16", "kl": False},
    "lora, bfloat16": {"lora": True, "dtype": "bfloat16", "kl": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one[0], options.one[1], options.rank)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, "qwen3", character_tokenizer("0123456789"), **SHAPE)
        found = {name: in_own_process(name, folder, options.rank) for name in CONTESTANTS}
        shape = shape_of(folder, {}, lora=LoraSpec(options.rank, 2.0 * options.rank))
    print_report(
        {"parameters": shape.parameters, "adapters": shape.adapters, "rank": options.rank, "contestants": found},
        options.out,
    )


def in_own_process(name: str, folder: str, rank: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--rank", str(rank), "--one", name, folder]
    found: list[dict[str, float]] = []
    for options in ({}, {"MALLOC_MMAP_THRESHOLD_": str(256 * 1024)}):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **options}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(json.loads(result.stdout.splitlines()[-1]))
    return found[0] | {"peak_returned_mib": found[1]["peak_mib"]}


def measured(name: str, folder: str, rank: int) -> dict[str, float]:
    """Returns the peaks of one contestant in this process, and its gradients' norm, which shows that it trains."""
    contestant: dict[str, Any] = CONTESTANTS[name]
    lora = LoraSpec(rank, 2.0 * rank) if contestant["lora"] else None
    import transformers  # noqa: F401  (counted before the model)

    if lora is not None:
        import peft  # noqa: F401
    before = resident_mib()
    options = StrategyOptions(dtype=contestant["dtype"], lr=1e-4)
    spec = LearnerSpec(folder, folder, options, threads=1, lora=lora, base_is_reference=contestant["kl"])
    learner = Learner(spec)
    loaded = resident_mib()
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
    loss = PolicyLoss(kl_weight=0.1 if contestant["kl"] else 0.0, kl_estimator="k3")
    norm = float("nan")
    for _ in range(2):  # the first makes the optimizer's state
        learner.accumulate([pieces()], loss)
        norm = learner.step(float(SEQUENCES * RESPONSE), 1e-4)["grad_norm"]
    return {
        "loaded_mib": round(loaded - before),
        "peak_mib": round(peak_rss_mib() - before),
        "predicted_mib": round(predicted(folder, options, lora) / MIB),
        "grad_norm": round(norm, 4),
    }


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def pieces() -> list[Piece]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, SHAPE["vocab_size"], (SEQUENCES, PROMPT + RESPONSE)).astype(np.int32)
    origin = np.full(RESPONSE, ORIGIN_POLICY, np.uint8)
    episodes = tuple(
        Episode(row[:PROMPT], row[PROMPT:], origin, 0.0, "wrong", "length", "benchmark", 0, 0, 0) for row in ids
    )
    advantages = np.linspace(-1.0, 1.0, SEQUENCES).astype(np.float32)
    return [Piece(0, EpisodeGroup(episodes), {}, advantages, tuple(range(SEQUENCES)))]


def predicted(folder: str, options: StrategyOptions, lora: LoraSpec | None) -> float:
    """Returns the bytes of the cost model for this learner and micro-batch."""
    state = TrainingState(1, "torch", 0, "none", half=options.dtype == "bfloat16", frozen=lora is not None)
    shape, tokens = shape_of(folder, {}, lora=lora), SEQUENCES * (PROMPT + RESPONSE)
    activations = activation_memory(shape, tokens, PROMPT + RESPONSE, state, checkpointing=False)
    logits = loss_memory(shape, SEQUENCES * RESPONSE, state, "cpu", with_entropy=False)
    return replace(training_memory(shape, state), activations=activations, logits=logits).on_card


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
