"""The table of metrics and what is written are the same names, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from tests.algorithms.losses_by_name import LOSSES, rows_with_everything, through_heads
from tests.paths import ROOT
from tgpo_ray.driver.run import fit
from tgpo_ray.env_runners.cursor import Cursor
from tgpo_ray.guidance.diagnostics import GuidanceBatch, diagnostic_sums
from tgpo_ray.reporting.metrics import METRICS, read_metrics

TRAINING = {"num_iterations": 1, "groups_per_iteration": 4, "group_size": 4, "lr": 1e-3, "updates_per_iteration": 2}


def names_of_losses() -> set[str]:
    """What learners report, whichever method trains them."""
    names = set()
    for build in LOSSES.values():
        loss = build()
        output = through_heads(loss, rows_with_everything())
        names |= {f"loss/{part}" for part in output.sums(loss)}
        names |= set(loss.metrics(output.logprobs, output.entropy, output.rows))
    return names


def names_of_guidance() -> set[str]:
    """What `tgpo_ray.guidance` reports to a trainer that knows everything of a batch."""
    ones, ids = torch.ones(4), torch.arange(4)
    batch = GuidanceBatch(
        mask=ones, sampled_ids=ids, teacher_ids=ids.flip(0), guidance_logprobs=-ones, logprobs=-ones,
        teacher_logprobs=-2 * ones, target_logprobs=-ones, policy_argmax=ids, advantages=ones, groups=ids,
        positions=ids,
    )  # fmt: skip
    return set(diagnostic_sums(batch, guidance_weight=0.1))


def test_every_name_of_a_loss_is_in_the_table() -> None:
    assert names_of_losses() | names_of_guidance() <= set(METRICS)


@pytest.fixture
def trained(make_config: Callable[..., Any], env_runners: Any) -> Iterator[Callable[..., Any]]:
    """trained("PRIME", keep=None, section={...}) -> the metrics of one iteration."""
    started: list[Any] = []

    def train(algorithm: str, keep: Callable[[Any], bool] | None = None, **sections: Any) -> dict[str, float]:
        sections["training"] = TRAINING | sections.get("training", {})
        started.append(make_config(algorithm, **sections).build_algo(env_runners=env_runners))
        if keep is not None:
            started[-1].keep = keep
        return started[-1].train()

    yield train
    for algorithm in started:
        algorithm.stop()


def trace_of_one_problem(config: Any, folder: Path) -> str:
    env = gymnasium.make(config.envs[0].id, **config.envs[0].kwargs)
    (task,) = Cursor([None], [1.0], config.seed).next(1)
    prompt, _ = env.reset(seed=task.seed, options={"index": task.problem_index})
    (folder / "traces.jsonl").write_text(f'{{"prompt": "{prompt}", "response": "1"}}\n')
    return str(folder / "traces.jsonl")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_table_has_the_names_that_are_written_and_no_others(
    make_config: Callable[..., Any], env_runners: Any, teachers: Any, trained: Callable[..., Any], tmp_path: Path
) -> None:
    storage = {"storage_path": str(tmp_path), "every": 1}
    config = make_config("TGPO", training=TRAINING | {"num_iterations": 2}, checkpointing=storage)
    run = fit(config, env_runners=env_runners, teachers=teachers)
    rows = read_metrics(Path(run.path) / "metrics.jsonl")
    written = {name for row in rows for name in row}
    assert {"loss/total", "loss/policy", "loss/guidance", "loss/entropy", "time/guidance_s"} <= written
    last = rows[-1]
    parts = [last[f"loss/{name}"] for name in ("policy", "guidance", "entropy")]
    assert last["loss/total"] == pytest.approx(sum(parts), rel=1e-5)

    reference = {"kv_cache_memory": "64MiB", "num_cpus_per_replica": 0.5}
    written |= set(trained("PRIME", training={"dynamic_sampling": False}, reference=reference))
    written |= set(trained("LUFFY", traces={"path": trace_of_one_problem(config, tmp_path)}))
    sampling = {"dynamic_sampling": True, "max_sampling_rounds": 3}
    written |= set(trained("GRPO", keep=lambda group: group.task.problem_index % 2 == 0, training=sampling))
    written |= names_of_losses() | names_of_guidance()
    assert written <= set(METRICS)
    others = "".join(path.read_text() for path in ROOT.joinpath("tests").rglob("test_*.py") if path != Path(__file__))
    # what only an option or a failure writes has a test that looks at it
    assert [name for name in METRICS if name not in written and name not in others] == []
