"""GRPO with a tiny model on parts of one card: runner and learner take turns, the engine sleeps in between.

    python benchmarks/gpu/shared_card.py --out report.json
    python benchmarks/gpu/shared_card.py --device cpu --out report.json      without sleep, which a CPU has not

The report has the figures of each iteration, and whether learner and sampler stay one policy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.reports import print_report  # noqa: E402

SYMBOLS = [*"0123456789+-*=,;", "\\boxed{", "}"]
SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip
PARTS = {"env_runners": {"num_gpus_per_env_runner": 0.6, "sleep": True}, "learners": {"num_gpus_per_learner": 0.4}}


def job(folder: str, *, gpu: bool) -> dict[str, Any]:
    """Returns the configuration of two iterations."""
    from tgpo_ray.models import character_tokenizer, write_model

    model = write_model(f"{folder}/policy", "qwen2", character_tokenizer(SYMBOLS), **SHAPE)
    sections: dict[str, Any] = {
        "env_runners": {"max_prompt_tokens": 16, "max_response_tokens": 32, "kv_cache_memory": "64MiB"},
        "learners": {"token_budget": 512},
    }
    for name, values in PARTS.items() if gpu else ():
        sections[name] |= values
    return sections | {
        "algorithm": "GRPO",
        "name": "shared_card",
        "model": {"path": str(model)},
        "env": {"id": "tgpo/Arithmetic-v0", "kwargs": {"digits": [1, 1]}},
        "training": {"num_iterations": 2, "groups_per_iteration": 4, "group_size": 4, "lr": 1e-3},
        "fault_tolerance": {"sampler_gap_every": 1},
        "checkpointing": {"storage_path": f"{folder}/runs"},
        "reporting": {"progress": False},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from tgpo_ray.config import AlgorithmConfig

    with tempfile.TemporaryDirectory() as folder:
        algorithm = AlgorithmConfig.from_dict(job(folder, gpu=arguments.device == "cuda")).build_algo()
        try:
            figures = [algorithm.train() for _ in range(2)]
        finally:
            algorithm.stop()
    gaps = [it["sampler/gap"] for it in figures if "sampler/gap" in it]
    bound = 0.2 if arguments.device == "cuda" else 0.01  # bfloat16 and float32
    ok = bool(gaps) and max(gaps) <= bound
    print_report({"ok": ok, "sampler_gap_nats": gaps, "iterations": figures}, arguments.out)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
