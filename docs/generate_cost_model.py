"""Writes the example and the table of cards of docs/cost_model.md.

python docs/generate_cost_model.py            writes them
python docs/generate_cost_model.py --check    exits 1 if the page is not up to date
"""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from generated import with_part, write_or_check
from rich.console import Console

from tgpo_ray.cli import plan_on_cluster
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.costs import KNOWN_CARDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("cost_model.md")
PRESET, CLUSTER, MEANS = "yaml/paper/7b/tgpo_annealing.yaml", "8xH100-80GB", (200.0, 3000.0)


def example() -> str:
    page = StringIO()
    config = AlgorithmConfig.from_yaml(ROOT / PRESET)
    console = Console(file=page, width=80, color_system=None)
    plan_on_cluster(config, CLUSTER, console, mean_prompt=MEANS[0], mean_response=MEANS[1])
    output = "\n".join(line.rstrip() for line in page.getvalue().splitlines())
    command = f"$ tgpo-ray plan {PRESET} --cluster {CLUSTER} --mean-prompt {MEANS[0]:g} --mean-response {MEANS[1]:g}"
    return f"```console\n{command}\n{output}\n```"


def cards() -> str:
    rows = ["| card | memory, GiB | bf16, TFLOP/s | memory, TB/s | link, GB/s | source |", "|---|---|---|---|---|---|"]
    rows += [
        f"| `{it.name}` | {it.memory / 2**30:g} | {it.flops / 1e12:g} | {it.bandwidth / 1e12:g} | {it.link / 1e9:g} "
        f"| {it.source} |"
        for it in KNOWN_CARDS
    ]
    return "\n".join(rows)


def main() -> None:
    script = Path(__file__).name
    write_or_check({PAGE: with_part(PAGE, script, f"{example()}\n\n## Cards\n\n{cards()}")}, script)


if __name__ == "__main__":
    main()
