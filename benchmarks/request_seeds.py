"""Benchmark: what a seed for each request costs an engine, and what its tokens depend on, as JSON.

    python benchmarks/request_seeds.py
    python benchmarks/request_seeds.py --vocabulary 32768 --rounds 9

One engine samples 16 groups of 8 responses of 64 tokens, in turns with one generator for all requests and with one for
each response. Then the same groups are sampled in other compositions of the batch, and compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import string
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tgpo_ray.models import (
    Completion,
    Engine,
    EngineSpec,
    Sampling,
    character_tokenizer,
    completions,
    engine_environment,
    write_model,
)

NUM_GROUPS, GROUP_SIZE, NUM_TOKENS, PROMPT = 16, 8, 64, 16
Groups = dict[int, list[Completion]]


def make_engine(vocabulary: int) -> Engine:
    folder = tempfile.mkdtemp()
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 512}
    tokenizer = character_tokenizer(list(string.printable[:90]))
    write_model(
        folder, "qwen2", tokenizer, vocab_size=vocabulary, hidden_size=256, max_position_embeddings=512, **shape
    )
    return Engine(EngineSpec(folder, "float32", max_model_len=128, kv_cache_memory=2**28))


def sample(engine: Engine, *, seeded: bool, helpings: Sequence[Sequence[int]]) -> tuple[float, Groups]:
    """Returns (seconds, the responses by group); the groups of a helping are in the engine at the same time."""
    prompts = np.random.default_rng(0).integers(3, 90, (NUM_GROUPS, PROMPT))
    engine.seed(0)
    found: Groups = {}
    start = time.perf_counter()
    for helping in helpings:
        ids = {}
        for group in helping:
            seed = 1000 * group if seeded else None
            ids[engine.generate(prompts[group], Sampling(NUM_TOKENS, logprobs=True, seed=seed), n=GROUP_SIZE)] = group
        found |= {ids[name]: completions(output) for name, output in engine.finish().items()}
    return time.perf_counter() - start, found


def share_equal(first: Groups, second: Groups) -> float:
    """Returns the share of responses whose tokens and log-probs are equal bit by bit."""
    pairs = [pair for group in first for pair in zip(first[group], second[group], strict=True)]
    equal = [
        np.array_equal(a.token_ids, b.token_ids)
        and a.logprobs is not None
        and b.logprobs is not None
        and np.array_equal(a.logprobs, b.logprobs)
        for a, b in pairs
    ]
    return float(np.mean(equal))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    os.environ.update(engine_environment(gpu=False))
    engine = make_engine(options.vocabulary)
    together = [list(range(NUM_GROUPS))]
    sample(engine, seeded=True, helpings=together)  # the first call compiles and allocates
    seconds = [
        [sample(engine, seeded=seeded, helpings=together)[0] for seeded in (False, True)] for _ in range(options.rounds)
    ]
    plain, seeded = np.median(seconds, axis=0)
    _, reference = sample(engine, seeded=True, helpings=together)
    compositions = {
        "reversed": [list(reversed(together[0]))],
        "four at a time": [list(range(i, i + 4)) for i in range(0, NUM_GROUPS, 4)],
        "one at a time": [[i] for i in range(NUM_GROUPS)],
    }
    equal = {
        name: share_equal(reference, sample(engine, seeded=True, helpings=helpings)[1])
        for name, helpings in compositions.items()
    }
    report = {
        "vocabulary": options.vocabulary,
        "one_generator_s": float(plain),
        "a_generator_each_s": float(seeded),
        "ratio": float(np.median([b / a for a, b in seconds])),
        "responses_equal_bit_by_bit": equal,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
