"""The fault matrix: a process of a small TGPO run is killed at a stage; its figures and an undisturbed run's, as JSON.

    python benchmarks/faults.py --folder runs/faults --out runs/faults.json           # every cell, an hour on two cores
    python benchmarks/faults.py --folder runs/faults --kinds mailbox controller --stages update sync       # some cells
    python benchmarks/faults.py --table docs/reliability.md --reports runs/faults.json         # draws what has been run

The runs have five iterations of 4 x 4 episodes, two updates each, a checkpoint and an evaluation at every second one.
kill -9 comes in the fourth, so that the third is repeated where a run goes back. Evaluation and checkpoint are those of
the fourth. Models are tiny and random; the reward is the share of digits in a response, given by a verifier process.
Ray, vLLM, Ray Train and the verifier are real.

A cell is `equal` if every figure of every row is that of the undisturbed run to the last digit. Left out are times and
counts of what was repeated (IGNORED). `driver` is continued by `--resume`, and `raylet` is that of a second node with
the runner, the teacher and the learner. `nothing` is the undisturbed run once more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

import yaml
from benchmarks.reports import print_report
from tgpo_ray.models import character_tokenizer, write_model
from tgpo_ray.reporting import read_metrics

STAGES = ("sampling", "scoring", "update", "sync", "checkpoint", "evaluation")
KINDS = {
    "nothing": "nothing (control)",
    "runner": "EnvRunner",
    "teacher": "Teacher",
    "verifier": "verifier worker",
    "queue": "the runners' task queue",
    "learner": "learner rank",
    "mailbox": "the learners' mailbox",
    "controller": "Ray Train's controller",
    "driver": "driver, then `--resume`",
    "raylet": "raylet of a second node",
}
ALONE = ("driver", "raylet")  # cells of these kinds have a process of their own
IGNORED = ("time/", "wait/", "throughput/", "weights_version", "recoveries", "evaluation/failures", "guidance/retries",
           "guidance/teacher_restarts", "guidance/cache_hits")  # fmt: skip
BEGIN, END = "<!-- fault matrix -->", "<!-- end of the fault matrix -->"
REWARD = "def digits(prompt, response, answer):\n    return sum(map(str.isdigit, response)) / max(1, len(response))\n"
CELLS = Path(__file__).with_name("fault_cells.py")
MARK = "TGPO_RAY_FAULTS"  # environment variable of every process of a child, by which its leftovers are found


def main() -> None:
    options = parse_arguments()
    if options.table:
        write_table(options.table, [json.loads(path.read_text()) for path in options.reports])
        return
    with tempfile.TemporaryDirectory(prefix="faults") as scratch:
        folder = options.folder or Path(scratch)
        write_job(folder)
        report = matrix(folder, options.kinds, options.stages, options.limit)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    print_report(report, options.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds after which no cell goes on or begins")
    parser.add_argument(
        "--folder", type=Path, help="keep models and runs here; cells that have been run are not run again"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    parser.add_argument("--table", type=Path, help="write the table of `--reports` into this page, and run nothing")
    parser.add_argument("--reports", type=Path, nargs="+", default=[], help="files that `--out` has written")
    return parser.parse_args()


def write_job(folder: Path) -> None:
    """Write models, problems, reward and job.yaml into the folder, if they are not there."""
    if (folder / "job.yaml").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = character_tokenizer([*"0123456789+-*=,;", "\\boxed{", "}"])
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    sizes = {"hidden_size": 64, "intermediate_size": 96}
    policy = write_model(folder / "policy", "qwen2", tokenizer, seed=0, tie_word_embeddings=True, **shape, **sizes)
    teacher = write_model(folder / "teacher", "qwen2", tokenizer, seed=1, tie_word_embeddings=False, **shape, **sizes)
    (folder / "digits.py").write_text(REWARD)
    rng = random.Random(0)
    rows = [{"problem": f"{rng.randrange(10)}+{rng.randrange(10)}=", "answer": "0"} for _ in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = {"id": "tgpo/RewardFunction-v0",
           "kwargs": {"path": str(folder / "rows.jsonl"), "reward": f"{folder / 'digits.py'}:digits"}}  # fmt: skip
    job = {
        "algorithm": "TGPO",
        "model": {"path": str(policy)},
        "teacher": {"path": str(teacher), "kv_cache_memory": "64MiB", "num_cpus_per_replica": 0.5},
        "env": env,
        "env_runners": {"max_prompt_tokens": 16, "max_response_tokens": 32, "kv_cache_memory": "64MiB",
                        "num_cpus_per_env_runner": 0.5},
        "learners": {"num_cpus_per_learner": 0.5, "token_budget": 512},
        "training": {"num_iterations": 5, "groups_per_iteration": 4, "group_size": 4, "updates_per_iteration": 2,
                     "lr": 1e-3},
        "guidance": {"weight": 0.1},
        "evaluation": {"every": 2, "at_start": False, "envs": [env], "max_problems": 8},
        "checkpointing": {"storage_path": str(folder / "runs"), "every": 2},
        "fault_tolerance": {"preflight": False, "sampler_gap_every": 0, "max_env_runner_restarts": 100},
        "reporting": {"progress": False},
        "ray": {"num_cpus": 8},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))


def matrix(folder: Path, kinds: Sequence[str], stages: Sequence[str], limit_s: float) -> dict[str, Any]:
    """The report of the cells of these kinds and stages that have been run in this folder, now or earlier."""
    end = time.monotonic() + limit_s
    shared = [f"{kind}:{stage}" for kind in kinds if kind not in (*ALONE, "nothing") for stage in stages]
    run_cells(folder, ["nothing:first", *(["nothing:again"] if "nothing" in kinds else []), *shared], limit_s)
    for cell in [f"{kind}:{stage}" for kind in ALONE if kind in kinds for stage in stages]:
        if time.monotonic() < end:
            run_cells(folder, [cell], min(400.0, end - time.monotonic()))
    reports = finished(folder)
    first = reports.pop("nothing:first", {"error": "it has not ended"})
    if first["error"]:
        raise RuntimeError(f"the undisturbed run: {first['error']}; see {folder / 'output.txt'}")
    undisturbed = figures(folder / "runs" / "nothing-first")
    return {
        "what": "kill -9 of one process at one stage of a TGPO run of five iterations",
        "machine": {"cores": os.cpu_count()},
        "undisturbed": {"seconds": first["seconds"], "last": undisturbed.get(5, {})},
        "cells": [
            cell | compared(undisturbed, folder / "runs" / f"{cell['kind']}-{cell['stage']}")
            for cell in reports.values()
        ],
    }


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """What the cells came to that have been run in this folder."""
    lines = (folder / "cells.jsonl").read_text().splitlines() if (folder / "cells.jsonl").is_file() else []
    return {f"{cell['kind']}:{cell['stage']}": cell for cell in map(json.loads, lines)}


def run_cells(folder: Path, cells: Sequence[str], limit_s: float) -> None:
    """Run those of the cells that have not been run, in one process; cells.jsonl gets a line for each."""
    done = finished(folder)
    cells = [cell for cell in cells if cell not in done]
    for cell in cells:
        shutil.rmtree(folder / "runs" / cell.replace(":", "-"), ignore_errors=True)
    if not cells:
        return
    run_child(folder, cells, limit_s)
    kind, _, stage = cells[0].partition(":")
    if kind == "driver" and cells[0] not in finished(folder):
        with (folder / "cells.jsonl").open("a") as file:
            file.write(json.dumps(resumed(folder, kind, stage)) + "\n")


def run_child(folder: Path, cells: Sequence[str], limit_s: float) -> None:
    """Run the cells in a child process, which writes what they came to, and kill it when the time is over."""
    with tempfile.TemporaryDirectory(prefix="fm", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        mark = Path(ray_folder).name
        command = [sys.executable, str(CELLS), str(folder), str(folder / "cells.jsonl"), *cells]
        environment = os.environ | {"RAY_TMPDIR": ray_folder, "OMP_NUM_THREADS": "1", MARK: mark}
        if cells[0].startswith("raylet"):
            environment["RAY_max_direct_call_object_size"] = "100"  # bytes: the episodes are on the node that is lost
        with (folder / "output.txt").open("a") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                process.kill()
            finally:
                end_leftovers(mark)


def end_leftovers(mark: str) -> None:
    """Kill what a child with this mark has left behind, as a driver does that was killed."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                process.kill()
        except psutil.Error:
            continue


def resumed(folder: Path, kind: str, stage: str) -> dict[str, Any]:
    """What came of the run of a driver that was killed, after the command that a user would give."""
    run = folder / "runs" / f"{kind}-{stage}"
    command = [sys.executable, "-m", "tgpo_ray.train", str(run / "config.yaml"), "--resume", str(run)]
    with tempfile.TemporaryDirectory(prefix="fm", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        environment = os.environ | {"RAY_TMPDIR": ray_folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    error = None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"kind": kind, "stage": stage, "killed": True, "error": error, "seconds": None}


def figures(run: Path) -> dict[int, dict[str, float]]:
    """The figures of each row, without those that a repetition changes."""
    rows = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []
    return {
        row["iteration"]: {name: value for name, value in row.items() if not name.startswith(IGNORED)} for row in rows
    }


def compared(undisturbed: dict[int, dict[str, float]], run: Path) -> dict[str, Any]:
    """Whether all rows are there, and how far the figures are from the undisturbed run's."""
    rows = figures(run)
    gaps: dict[str, float] = {}
    for iteration, expected in undisturbed.items():
        found = rows.get(iteration, {})
        for name in expected.keys() | found.keys():
            gap = abs(expected.get(name, float("inf")) - found.get(name, float("-inf")))
            if gap > 0:
                gaps[name] = max(gap, gaps.get(name, 0.0))
    raw = read_metrics(run / "metrics.jsonl") if rows else []
    return {
        "rows": len(rows),
        "equal": rows.keys() == undisturbed.keys() and not gaps,
        "largest_gaps": dict(sorted(gaps.items(), key=lambda item: -item[1])[:4]),
        "recoveries": max((row.get("recoveries", 0.0) for row in raw), default=0.0),
    }


# ---- the table


def write_table(page: Path, reports: Sequence[dict[str, Any]]) -> None:
    """Replace the part of the page between the marks by the table of these reports; later ones count."""
    cells = {(cell["kind"], cell["stage"]): cell for report in reports for cell in report["cells"]}
    text = page.read_text()
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(cells)}\n{END}{rest.split(END)[1]}")


def table(cells: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Returns the Markdown table of the cells, `not run` where there is none."""
    lines = ["| killed | " + " | ".join(STAGES) + " |", "|---" * (len(STAGES) + 1) + "|"]
    for kind, name in KINDS.items():
        if kind == "nothing":
            continue
        lines.append(f"| {name} | " + " | ".join(said(cells.get((kind, stage))) for stage in STAGES) + " |")
    return "\n".join(lines)


def said(cell: dict[str, Any] | None) -> str:
    """Returns the text of a cell."""
    if cell is None or not cell["killed"]:
        return "not run"
    if cell["error"]:
        return "ends: " + cell["error"].partition(": ")[0]
    back = f", back {cell['recoveries']:.0f}x" if cell["recoveries"] else ""
    if cell["equal"]:
        return "equal" + back
    return f"within {max(cell['largest_gaps'].values(), default=float('inf')):.0e}{back}"


if __name__ == "__main__":
    main()
