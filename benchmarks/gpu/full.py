"""The GPU kit on a machine with vLLM and DeepSpeed: the bare parts, tests marked `gpu`, a shared card, the benchmarks.

    python benchmarks/gpu/full.py                         # writes benchmarks/gpu/results/full.json
    python benchmarks/gpu/full.py --device cpu --tiny --out report.json

Each part is a command with a limit of its own, and one that would begin after `--seconds` is left out. Then
`python docs/generate_gpu.py` writes the figures into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.kit import RESULTS, SECONDS, Part, run_parts  # noqa: E402
from benchmarks.reports import print_report  # noqa: E402

TAIL = 1500  # characters of a failed command's errors


@dataclass(frozen=True)
class Command:
    """A part that is a command.

    Args:
        arguments: after `python`. `{out}` is the file of its report, which may be printed instead, `{rows}` one of
            problems, `{device}` the device.
        tiny: those of a test; None: it has no size for one, and is left out there.
        limit_s: seconds after which it is ended, and has failed.
    """

    name: str
    checks: str
    arguments: Sequence[str]
    tiny: Sequence[str] | None
    limit_s: float


REHEARSAL = ["benchmarks/rehearsal.py", "--path", "{rows}", "--runners", "1", "--out", "{out}"]
SMALL = ["--groups", "4", "--max-response", "32", "--mean-response", "16", "--rows", "50", "--iterations", "2"]
BARE = ["benchmarks/gpu/bare.py", "--out", "{out}", "--device", "{device}"]
SHARED = ["benchmarks/gpu/shared_card.py", "--device", "{device}", "--out", "{out}"]
GPU_TESTS = ["-m", "pytest", "-q", "-m", "gpu", "tests/core"]
COMMANDS = (
    Command("tests", "the tests marked gpu", GPU_TESTS, [*GPU_TESTS, "--collect-only"], 120),
    Command("shared_card", "runner and learner on parts of a card, the engine asleep in between", SHARED, SHARED, 120),
    Command("bare", "what the other command checks", BARE, [*BARE, "--tiny"], 240),
    Command(
        "rehearsal", "whole iterations of TGPO through all actors",
        [*REHEARSAL, "--groups", "64", "--iterations", "2"], [*REHEARSAL, *SMALL], 150,
    ),
    Command("a1_a2", "time and memory of the loss beside those of others",
            ["benchmarks/loss_kernel.py", "--device", "cuda", "--rounds", "2", "--out", "{out}"], None, 90),
    Command("b", "teacher scoring beside prompt_logprobs",
            ["benchmarks/teacher_scoring.py", "--vocabulary", "32768", "--rounds", "1", "--out", "{out}"], None, 120),
    Command("c", "rollouts through the actor beside bare generate",
            ["benchmarks/rollout.py", "--rounds", "1", "--out", "{out}"], None, 120),
    Command("e", "new weights from learner to engine",
            ["benchmarks/weight_sync.py", "--rounds", "2", "--iterations", "1"], None, 120),
    Command("h", "guidance weight 0 beside GRPO",
            ["benchmarks/zero_weight.py", "--pairs", "8"], None, 120),
)  # fmt: skip


def run_command(command: Command, rows: Path, device: str, tiny: bool) -> dict[str, Any]:
    """Returns `ok`, and the report that the command has written or the end of its errors."""
    chosen = command.tiny if tiny else command.arguments
    if chosen is None:
        return {"ok": True, "left_out": "it has no tiny size"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "report.json")
        words = {"out": out, "rows": rows, "device": device}
        arguments = [sys.executable, *(part.format(**words) for part in chosen)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=command.limit_s
            )
        except subprocess.TimeoutExpired:
            return {"ok": False, "error": f"not ready within {command.limit_s:.0f} s"}
        report = json.loads(out.read_text()) if out.is_file() else printed_report(done.stdout)
    failed = {} if done.returncode == 0 else {"error": (done.stderr or done.stdout)[-TAIL:]}
    return {"ok": done.returncode == 0, "report": report} | failed


def printed_report(text: str) -> Any:
    """Returns the JSON object that ends a command's output, or None without one."""
    start = text.find("\n{\n") + 1 if not text.startswith("{") else 0
    try:
        return json.loads(text[start:])
    except ValueError:
        return None


def write_rows(file: Path) -> Path:
    """Returns the file, with problems of the shape that the rehearsal reads."""
    texts = [f"A shop sells {n} pencils at {n % 9} cents each. What do they cost?" for n in range(200)]
    file.write_text("".join(json.dumps({"problem": text, "answer": "1"}) + "\n" for text in texts))
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--only", nargs="+", choices=[it.name for it in COMMANDS], help="these parts alone")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, default=RESULTS / "full.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder, "rows.jsonl"))
        chosen = [it for it in COMMANDS if not arguments.only or it.name in arguments.only]
        parts = [Part(it.name, it.checks, partial(run_command, it, rows)) for it in chosen]
        report = run_parts(parts, arguments.device, tiny=arguments.tiny, seconds=arguments.seconds)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    print_report(report, arguments.out)
    return 0 if all(part["ok"] for part in report["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
