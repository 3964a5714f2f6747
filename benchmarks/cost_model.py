"""Benchmark: the cost model of `tgpo-ray plan --cluster` against measured seconds and memory, as JSON.

    python benchmarks/cost_model.py                      # calibrate on two models, predict two others
    python benchmarks/cost_model.py --card card.yaml     # also write this machine, for `plan --cluster card.yaml`
    python benchmarks/cost_model.py --quick              # predict one other model

Measures one core's peak (float32 products of 1024 x 1024, copies of 512 MiB), then the seconds of sampling, scoring and
learning with random models of two sizes in batches of three shapes. From these come the rates of each stage: least
squares of relative errors, no rate below zero. They predict the seconds of models and batches that were not fitted. The
memory of a learner is predicted without any calibration. Each model and stage runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.optimize import nnls

from benchmarks.cost_stages import least
from benchmarks.process_memory import PLAIN_MALLOC
from benchmarks.reports import print_report
from tgpo_ray.config import dump_yaml
from tgpo_ray.costs import (
    Card,
    Efficiency,
    ModelShape,
    Rates,
    TrainingState,
    Work,
    activation_memory,
    learner_work,
    loss_memory,
    prompt_work,
    rollout_work,
    shape_of,
    teacher_work,
    training_memory,
    unshared_tokens,
)
from tgpo_ray.models import engine_environment

STAGES = ("teacher", "rollout", "learner")  # sampling reads its prompts at the rates of scoring
GOALS = {"seconds": 1.3, "memory": 0.15}
SLOTS = 256  # vLLM's max_num_seqs
BLOCK = 32  # tokens of a block of its prefix cache on a CPU
# indices of `Work.parts` that a stage's rates are fitted to: FLOPs, bytes, activation bytes, calls, items
FITTED = {"rollout": (0, 1, 3, 4), "teacher": (0, 2, 3, 4), "learner": (0, 2, 3)}
RATE_NAMES = ("compute", "bandwidth", "elementwise", "call_s", "item_s")
TOKEN_BUDGET = {"learner": 4096, "memory": 16384}
STATE = TrainingState(1, "torch", 0, "none", half=False)


def model(hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """The config.json of a Qwen3 model with four heads."""
    return {
        "model_type": "qwen3", "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": hidden // 4, "vocab_size": vocabulary,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    }  # fmt: skip


CALIBRATED = {"128x4": model(128, 4, 2048), "384x6": model(384, 6, 8192)}
PREDICTED = {"256x5": model(256, 5, 4096), "512x4": model(512, 4, 12288)}
# prompts, responses of each, tokens of a prompt, tokens of a response
FITTED_BATCHES = [[2, 4, 32, 32], [8, 8, 32, 64], [4, 8, 200, 48]]
OTHER_BATCHES = [[4, 8, 64, 64], [6, 6, 120, 96]]
MEMORY_BATCHES = [[2, 8, 32, 96], [4, 8, 32, 224]]


def measure(stage: str, model: dict[str, Any], batches: list[list[int]], rounds: int, **options: Any) -> list[Any]:
    """Returns what `cost_stages.py` prints, from a process of its own with one thread."""
    case = {"stage": stage, "model": model, "batches": batches, "rounds": rounds, **options}
    case["token_budget"] = TOKEN_BUDGET.get(stage, 0)
    environment = os.environ | engine_environment(gpu=False) | (PLAIN_MALLOC if stage == "memory" else {})
    script = Path(__file__).with_name("cost_stages.py")
    command = [sys.executable, str(script), json.dumps(case)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"})
    if result.returncode:
        raise RuntimeError(f"{stage} of {model}: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def machine() -> Card:
    """Returns one core of this machine, with its measured peaks."""
    import torch

    torch.set_num_threads(1)
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    flops = 0.0
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        flops = max(flops, 2 * 1024**3 / least(lambda: left @ right, 20))
    torch.set_float32_matmul_precision("highest")
    source, target = torch.ones(2**26), torch.empty(2**26)
    bandwidth = 2 * source.nbytes / least(lambda: target.copy_(source), 5)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (os.cpu_count() or 1)
    name = f"{platform.machine()} core"
    return Card(name, memory, flops, bandwidth, bandwidth, bandwidth, bandwidth, "cpu", "measured on this machine")


@cache
def shape(name: str) -> ModelShape:
    return shape_of(name, {}, CALIBRATED | PREDICTED)


def work_of(stage: str, shape: ModelShape, result: dict[str, Any]) -> Work:
    """Returns the work of a measured batch, as the model of costs counts it."""
    prompts, group_size, prompt, response = result["batch"]
    if stage == "rollout":
        return rollout_work(shape, result["lengths"], prompt=prompt, slots=SLOTS, number_bytes=4)
    if stage == "teacher":
        unshared = unshared_tokens(prompt + 1, BLOCK)  # a row that the cache hides is taken from a mate
        size = {"group_size": group_size, "prompt": prompt, "response": response, "unshared": unshared - 1}
        return teacher_work(shape, groups=prompts, number_bytes=4, **size)
    return learner_work(
        shape, STATE, sequences=prompts * group_size, prompt=prompt, response=response, useful=1.0,
        micro_batches=result["micro_batches"], updates=1, checkpointing=False, extra_passes=0,
    )  # fmt: skip


def known_seconds(stage: str, shape: ModelShape, card: Card, result: dict[str, Any]) -> float:
    """Returns the seconds of a measured batch that follow from rates which are fitted already: of reading prompts."""
    if stage != "rollout":
        return 0.0
    prompts, group_size, prompt, _ = result["batch"]
    size = {"group_size": group_size, "prompt": prompt, "unshared": unshared_tokens(prompt, BLOCK)}
    work = prompt_work(shape, groups=prompts, number_bytes=4, **size)
    return work.seconds(card, card.efficiency.teacher)


def fitted(stage: str, card: Card, results: list[tuple[ModelShape, dict[str, Any]]]) -> Rates:
    """Returns the rates of a stage with the least squares of relative errors."""
    columns = list(FITTED[stage])
    rows = [np.asarray(work_of(stage, shape, it).terms(card))[columns] / it["seconds"] for shape, it in results]
    unknown = [1 - known_seconds(stage, shape, card, it) / it["seconds"] for shape, it in results]  # (M,)
    found = dict(zip(columns, nnls(np.asarray(rows), np.asarray(unknown))[0].tolist(), strict=True))
    # the first two divide: a rate of 1e6 takes no time
    values = {RATE_NAMES[i]: value if i > 1 else 1 / max(value, 1e-6) for i, value in found.items()}
    return Rates(**values)


def measured_in_turns(stage: str, names: list[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Returns the fastest of each model's batches over `rounds` turns: a slow minute is then not one model's alone."""
    fastest: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name in names:
            found = measure(stage, (CALIBRATED | PREDICTED)[name], FITTED_BATCHES + OTHER_BATCHES, 1)
            pairs = zip(fastest.get(name, found), found, strict=True)
            fastest[name] = [min(pair, key=lambda it: it["seconds"]) for pair in pairs]
    return fastest


def timed_stage(stage: str, card: Card, names: list[str], rounds: int) -> tuple[Rates, list[dict[str, Any]]]:
    """Returns the rates of a stage, and its predictions beside the measurements."""
    measured = measured_in_turns(stage, names, rounds)
    for_fit = [(shape(name), it) for name in CALIBRATED for it in measured[name][: len(FITTED_BATCHES)]]
    rates = fitted(stage, card, for_fit)
    rows = []
    for name, results in measured.items():
        for index, it in enumerate(results):
            predicted = work_of(stage, shape(name), it).seconds(card, rates)
            predicted += known_seconds(stage, shape(name), card, it)
            rows.append(
                {
                    "stage": stage, "model": name, "batch": it["batch"], "measured_s": round(it["seconds"], 4),
                    "predicted_s": round(predicted, 4), "ratio": round(predicted / it["seconds"], 3),
                    "fitted": name in CALIBRATED and index < len(FITTED_BATCHES),
                }
            )  # fmt: skip
    return rates, rows


def memory_rows(name: str) -> list[dict[str, Any]]:
    """Returns a learner's predicted memory beside the measured, with gradient checkpointing and without."""
    rows, facts = [], (CALIBRATED | PREDICTED)[name]
    for checkpointing in (False, True):
        for it in measure("memory", facts, MEMORY_BATCHES, 1, gradient_checkpointing=checkpointing):
            prompts, group_size, prompt, response = it["batch"]
            width = prompt + response
            tokens, rows_of_head = prompts * group_size * width, prompts * group_size * response
            parts = training_memory(shape(name), STATE)
            activations = activation_memory(shape(name), tokens, width, STATE, checkpointing=checkpointing)
            logits = loss_memory(shape(name), rows_of_head, STATE, "cpu", with_entropy=False)
            predicted = replace(parts, activations=activations, logits=logits).on_card
            rows.append(
                {
                    "model": name, "batch": it["batch"], "checkpointing": checkpointing,
                    "measured_mib": round(it["bytes"] / 2**20, 1), "predicted_mib": round(predicted / 2**20, 1),
                    "ratio": round(predicted / it["bytes"], 3),
                }
            )  # fmt: skip
    return rows


def report_of(names: list[str], rounds: int) -> tuple[dict[str, Any], Card]:
    card, rows = machine(), []
    efficiency = Efficiency(Rates(1.0), Rates(1.0), Rates(1.0), link=1.0, source="fitted by benchmarks/cost_model.py")
    for stage in STAGES:
        rates, found = timed_stage(stage, replace(card, efficiency=efficiency), names, rounds)
        efficiency = replace(efficiency, **{stage: rates})
        rows += found
    memory = [row for name in names if name not in CALIBRATED for row in memory_rows(name)]
    card = replace(card, efficiency=efficiency)
    worst = max(max(row["ratio"], 1 / row["ratio"]) for row in rows if not row["fitted"])
    report = {
        "what": "predicted over measured: seconds of stages that were not fitted, memory of a learner",
        "card": asdict(card),
        "goals": GOALS,
        "worst": {"seconds": worst, "memory": max(abs(row["ratio"] - 1) for row in memory)},
        "seconds": rows,
        "memory": memory,
        "load": round(os.getloadavg()[0], 2),
    }
    return report, card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns in which every model is measured")
    parser.add_argument("--quick", action="store_true", help="predict one model that was not fitted, not two")
    parser.add_argument("--card", type=Path, help="write this machine as a cluster for `tgpo-ray plan --cluster`")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    predicted = list(PREDICTED)[: 1 if arguments.quick else None]
    report, card = report_of([*CALIBRATED, *predicted], arguments.rounds)
    print_report(report, arguments.out)
    if arguments.card:
        cluster = {"nodes": 1, "cards_per_node": os.cpu_count() or 1, "card": asdict(card)}
        arguments.card.write_text(dump_yaml(cluster))


if __name__ == "__main__":
    main()
