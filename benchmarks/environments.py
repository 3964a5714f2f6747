"""Benchmark: seconds and memory of many environments on one data set, as JSON.

    python benchmarks/environments.py                         # 46,000 rows, 1,024 environments of tgpo/Math-v0
    python benchmarks/environments.py --path train.jsonl --columns '{"problem": "question"}'

Without `--path` the rows are word problems of about 250 characters, made here. Memory is this process's resident set.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gymnasium
import psutil

import tgpo_ray.envs  # noqa: F401  (registers the ids)

MIB = 2**20
SENTENCE = (
    "A shop sells {count} boxes of {size} pencils each at {price} cents a pencil and gives a discount of 5 cents. "
)


def write_rows(path: Path, num_rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for n in range(num_rows):
            text = SENTENCE.format(count=n % 97, size=n % 89, price=n % 83) * 2 + f"What is the sum in problem {n}?"
            file.write(json.dumps({"problem": text, "answer": str(n % 97 * (n % 89)), "source": "made"}) + "\n")


def measured(path: str, num_environments: int, columns: dict[str, str] | None) -> dict[str, Any]:
    """Returns the cost of the first environment, and of all others."""
    process = psutil.Process()
    start, memory = time.perf_counter(), process.memory_info().rss
    environments = [gymnasium.make("tgpo/Math-v0", path=path, columns=columns)]
    first, first_memory = time.perf_counter(), process.memory_info().rss
    environments += [gymnasium.make("tgpo/Math-v0", path=path, columns=columns) for _ in range(num_environments - 1)]
    end, end_memory = time.perf_counter(), process.memory_info().rss
    for index, env in enumerate(environments):
        env.reset(seed=0, options={"index": index})
    return {
        "environments": num_environments,
        "first_s": round(first - start, 3),
        "first_mib": round((first_memory - memory) / MIB, 1),
        "others_s": round(end - first, 3),
        "others_mib": round((end_memory - first_memory) / MIB, 1),
        "reset_us": round((time.perf_counter() - end) / num_environments * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a data set instead of the rows that are made here")
    parser.add_argument("--columns", type=json.loads, help="JSON, as the environment's `columns`")
    parser.add_argument("--rows", type=int, default=46_000)
    parser.add_argument("--environments", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.path or str(Path(folder) / "rows.jsonl")
        if options.path is None:
            write_rows(Path(path), options.rows)
        size = Path(path).stat().st_size / MIB if Path(path).is_file() else None
        result = {"path": options.path, "file_mib": size and round(size, 1)}
        print(json.dumps(result | measured(path, options.environments, options.columns), indent=2))


if __name__ == "__main__":
    main()
