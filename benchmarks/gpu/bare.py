"""The GPU kit on a bare machine: torch >= 2.11 and transformers, without Ray, vLLM and DeepSpeed.

    python benchmarks/gpu/bare.py                         # on a GPU; writes benchmarks/gpu/results/bare.json
    python benchmarks/gpu/bare.py --device cpu --tiny --out report.json

It takes less than ten minutes: a part that would begin after `--seconds` is left out. Then
`python docs/generate_gpu.py` writes the figures into docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.absent import fill_in_absent  # noqa: E402
from benchmarks.gpu.kit import RESULTS, SECONDS, run_parts  # noqa: E402
from benchmarks.reports import print_report  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, default=RESULTS / "bare.json")
    arguments = parser.parse_args()
    absent = fill_in_absent()
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU: run this on a machine with one, or write --device cpu --tiny")
    from benchmarks.gpu.checks import PARTS

    report = run_parts(PARTS, arguments.device, tiny=arguments.tiny, seconds=arguments.seconds)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    print_report(report | {"absent": absent}, arguments.out)
    return 0 if all(part["ok"] for part in report["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
