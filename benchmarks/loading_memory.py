"""Peak memory of two ranks that load a model under ZeRO-3: whole on each rank, and split while it is loaded.

python benchmarks/loading_memory.py                      500M random parameters in bfloat16 shards of 200 MB
python benchmarks/loading_memory.py --layers 31 --width 1024 --vocabulary 16384   as many, few in the embedding
python benchmarks/loading_memory.py --layers 2 --width 64 --vocabulary 512

Each rank is a process of its own (gloo, CPU). Its memory is that of its own pages (RssAnon, every 5 ms), which neither
libraries nor mapped files count in, minus what it had before loading. `peak_rss` is the kernel's mark with both. malloc
gives freed memory back at once (MALLOC_MMAP_THRESHOLD_), so that what is measured is what is held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.process_memory import PLAIN_MALLOC, peak_rss_mib  # noqa: E402
from benchmarks.reports import print_report  # noqa: E402

EVERY_S = 0.005
WAYS = ("whole", "split")
HEADS = 64  # numbers of a head


def write_model(folder: str, arguments: argparse.Namespace) -> int:
    """Returns the number of parameters, after writing the model. It is made in bfloat16, so it takes its size once."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    from tgpo_ray.models import character_tokenizer

    tokenizer = character_tokenizer("0123456789")
    heads = max(1, arguments.width // HEADS)
    config = Qwen3Config(
        vocab_size=arguments.vocabulary, hidden_size=arguments.width, intermediate_size=4 * arguments.width,
        num_hidden_layers=arguments.layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 2),
        head_dim=HEADS, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="200MB")
    tokenizer.save_pretrained(folder)
    return sum(it.numel() for it in model.parameters())


def own_mib() -> float:
    """Returns the memory of this process that is no file's."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


@contextmanager
def watched(before: float) -> Iterator[dict[str, float]]:
    """Yields a dictionary that has `peak_own_mib` and `own_mib_after`, above `before`, and `seconds` afterwards."""
    start, peak, done = time.monotonic(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_S):
            peak[0] = max(peak[0], own_mib())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    found: dict[str, float] = {}
    yield found
    peak[0] = max(peak[0], own_mib())
    done.set()
    thread.join()
    found |= {"peak_own_mib": round(peak[0] - before), "own_mib_after": round(own_mib() - before)}
    found["seconds"] = round(time.monotonic() - start, 1)


def load(folder: str, way: str, dtype: str) -> dict[str, Any]:
    """Returns what this rank needed to load the model, and then to make DeepSpeed's engine with its optimizer."""
    import torch
    import torch.distributed as dist

    from tgpo_ray.learners import PolicyModule, StrategyOptions, make_strategy, split_configuration
    from tgpo_ray.models import load_model

    torch.set_num_threads(1)
    options = StrategyOptions(strategy="deepspeed", zero_stage=3, dtype=dtype)  # pyright: ignore[reportArgumentType]
    split_by = split_configuration(options)  # it imports DeepSpeed too, before the memory is looked at
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    dist.barrier()
    before = own_mib()
    with watched(before) as loading:
        model = load_model(
            folder, dtype=getattr(torch, dtype), hf_overrides={}, trust_remote_code=False,
            split_by=split_by if way == "split" else None,
        )  # fmt: skip
        dist.barrier()
    with watched(before) as engine:
        strategy = make_strategy(PolicyModule(model, 1.0), options, torch.device("cpu"))
        dist.barrier()
    del strategy
    return {"loading": loading, "engine": engine, "peak_rss_mib": peak_rss_mib()}


def one_rank(arguments: argparse.Namespace) -> None:
    from datetime import timedelta

    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", f"file://{arguments.meeting}", timedelta(minutes=10), world_size=arguments.ranks, rank=rank
    )
    Path(f"{arguments.meeting}-{rank}.json").write_text(
        json.dumps(load(arguments.model, arguments.rank_of, arguments.dtype))
    )
    dist.destroy_process_group()


def measure(arguments: argparse.Namespace, model: str, way: str) -> list[dict[str, Any]]:
    """Returns the figures of each rank."""
    meeting = f"{model}/{way}"
    command = [
        sys.executable, __file__, "--rank-of", way, "--meeting", meeting, "--model", model,
        "--ranks", str(arguments.ranks), "--dtype", arguments.dtype,
    ]  # fmt: skip
    ranks = []
    for rank in range(arguments.ranks):
        own = PLAIN_MALLOC | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(arguments.ranks),
            "DS_ACCELERATOR": "cpu",
        }
        ranks.append(subprocess.Popen(command, env=os.environ | PLAIN_MALLOC | own, stdout=sys.stderr))
    if [rank.wait() for rank in ranks] != [0] * len(ranks):
        raise RuntimeError(f"a rank that loads the {way} model failed: its error is above")
    return [json.loads(Path(f"{meeting}-{rank}.json").read_text()) for rank in range(arguments.ranks)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=1792)
    parser.add_argument("--vocabulary", type=int, default=65536)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the learner")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path)
    for name in ("--rank-of", "--meeting", "--model"):  # of the processes that this one starts
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank_of:
        one_rank(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        number = write_model(folder, arguments)
        size = number * (4 if arguments.dtype == "float32" else 2) / 2**20
        report: dict[str, Any] = {"parameters": number, "dtype": arguments.dtype, "model_mib": round(size)}
        for way in WAYS:
            report[way] = measure(arguments, folder, way)
    print_report(report, arguments.out)


if __name__ == "__main__":
    main()
