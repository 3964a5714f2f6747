"""The demo: train a tiny teacher and a tiny base policy, then compare TGPO with GRPO on the same budget.

    python examples/demo/run.py                   # seed 0
    python examples/demo/run.py --seeds 0 1 2     # three of everything, in one report
    python examples/demo/run.py --habit 0.05      # a base policy that still works 5 % of its answers out

Nothing is downloaded. The task is three-digit times one-digit multiplication. An answer is at once (short, mostly wrong
for a model this small) or digit by digit (long, right). The base policy knows both ways and has the habit of the first.
The teacher mostly works the second way. Models are cached in .cache/demo, and runs go to runs/demo.

With no long answer in its habit, a group of rollouts hardly ever has one that reward could prefer. Guidance has most to
add there. `--habit` is the share of long answers in the traces that teach the habit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import ray
from rich.console import Console

import tgpo_ray.envs  # noqa: F401  (registers tgpo/Arithmetic-v0)
from tgpo_ray.cluster import absolute, connect
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.driver import fit
from tgpo_ray.models import character_tokenizer, write_model
from tgpo_ray.reporting import load_run, write_report
from tgpo_ray.train import quiet_other_packages

ROOT = Path(__file__).resolve().parents[2]
YAML = ROOT / "yaml" / "demo"
TASK = {"operation": "multiply", "digits": [3, 1]}
SYMBOLS = [*"0123456789*+=-,; ", "\\boxed{", "}"]
NUM_TRACES = 20_000
LONG_SHARE = {"teacher": 0.7, "base": 0.7}  # of the traces, those worked out digit by digit
POLICY = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2,
          "intermediate_size": 192, "initializer_range": 0.08}  # fmt: skip
TEACHER = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
           "head_dim": 32, "intermediate_size": 256, "initializer_range": 0.06}  # fmt: skip

console = Console()


def main() -> int:
    quiet_other_packages()
    options = parse_arguments()
    start = time.monotonic()
    connect(AlgorithmConfig.from_yaml(YAML / "tgpo.yaml").ray)
    runs = []
    try:
        for seed in options.seeds:
            models = prepare_models(seed, options.habit, fresh=options.fresh)
            for name in options.algorithms:
                runs.append(train(name, seed, models))
    finally:
        ray.shutdown()
    records = [load_run(folder, label=label) for label, folder in runs]
    notes = [
        f"Command: python examples/demo/run.py {' '.join(sys.argv[1:])}".rstrip(),
        f"The base policy was taught the habit of answering at once: {options.habit:.1%} of the traces of its last "
        "training work the answer out. The fewer there are, the later reward alone finds the long way, and the more "
        "guidance adds.",
    ]
    report = write_report(
        ROOT / "runs" / "demo" / "report.html", records, title="TGPO and GRPO on 2 CPU cores", notes=notes
    )
    console.print(f"\n[bold]Report:[/] {report}\nWall time: {time.monotonic() - start:.0f} s")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run of everything for each (default: 0)")
    parser.add_argument("--algorithms", nargs="+", default=["tgpo", "grpo"], choices=["tgpo", "grpo"])
    parser.add_argument("--habit", type=float, default=0.0, help="share of long answers in the habit's traces")
    parser.add_argument("--fresh", action="store_true", help="train teacher and base policy again")
    return parser.parse_args()


def prepare_models(seed: int, habit: float, *, fresh: bool) -> Path:
    """The folder with `teacher` and `policy`, which are trained if the cache lacks them."""
    cache = ROOT / ".cache" / "demo" / f"seed-{seed}-habit-{habit:g}"
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    if not (cache / "policy" / "config.json").is_file():
        shutil.rmtree(cache, ignore_errors=True)  # an interrupted demo may leave half a model
        write_traces(cache, seed, {**LONG_SHARE, "habit": habit})
        tokenizer = character_tokenizer(SYMBOLS)
        shape = {"max_position_embeddings": 128, "tie_word_embeddings": True}
        write_model(cache / "init" / "teacher", "qwen3", tokenizer, seed=seed, **TEACHER, **shape)
        write_model(cache / "init" / "policy", "qwen2", tokenizer, seed=seed, **POLICY, **shape)
        supervise("teacher", "teacher", cache / "init" / "teacher", cache / "teacher", seed)
        supervise("base policy", "base", cache / "init" / "policy", cache / "base", seed)
        supervise("base policy's habit", "habit", cache / "base", cache / "policy", seed)
    return cache


def write_traces(folder: Path, seed: int, long_share: dict[str, float]) -> None:
    """Writes solutions of training problems, a jsonl file for each of the three supervised runs."""
    env: Any = gymnasium.make("tgpo/Arithmetic-v0", **TASK).unwrapped
    folder.mkdir(parents=True)
    for number, (stage, share) in enumerate(sorted(long_share.items())):
        rng = np.random.default_rng([seed, number])
        with (folder / f"{stage}.jsonl").open("w") as file:
            for index in range(NUM_TRACES):
                style = "long" if rng.random() < share else "short"
                prompt, _ = env.reset(seed=0, options={"index": index})
                file.write(json.dumps({"prompt": prompt, "response": env.solution(index, style)}) + "\n")


def supervise(title: str, stage: str, model: Path, target: Path, seed: int) -> None:
    """Runs SFT on the traces of a stage and exports the model to `target`."""
    console.rule(f"SFT: {title}")
    cache = target.parent
    overrides = [f"seed={seed}", f"model.path={model}", f"data.path={cache / f'{stage}.jsonl'}"]
    config = AlgorithmConfig.from_yaml(YAML / f"sft_{stage}.yaml", overrides)
    algorithm = config.check().get_algo_class()(config, run_folder=absolute(str(cache / "sft" / stage)))
    try:
        while algorithm.iteration < algorithm.num_iterations:
            metrics = algorithm.train()
            if algorithm.iteration % 100 == 0:
                console.print(f"  step {algorithm.iteration}/{algorithm.num_iterations}  nll {metrics['loss/sft']:.3f}")
        algorithm.export(str(target))
    finally:
        algorithm.stop()


def train(name: str, seed: int, models: Path) -> tuple[str, str]:
    """The label and the folder of one RL run."""
    console.rule(f"{name.upper()}, seed {seed}")
    overrides = [f"seed={seed}", f"model.path={models / 'policy'}", f"name={name}-seed{seed}"]
    if name == "tgpo":
        overrides.append(f"teacher.path={models / 'teacher'}")
    config = AlgorithmConfig.from_yaml(YAML / f"{name}.yaml", overrides)
    config.checkpointing(storage_path=str(ROOT / "runs" / "demo"))
    result = fit(config)
    return f"{name.upper()} seed {seed}", str(result.path)


if __name__ == "__main__":
    sys.exit(main())
