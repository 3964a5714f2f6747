"""Metrics: reduction over ranks, rollout figures, writers that survive crashes and restores."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from tests.episodes import make_info
from tgpo_ray.episode import OUTCOMES
from tgpo_ray.reporting.metrics import METRICS, JsonlWriter, finite, open_writers, read_metrics, reduce, rollout_metrics


@dataclass
class Reporting:
    tensorboard: bool = False
    wandb: str | None = None


info = partial(make_info, prompt_length=4, weights_version=3)


def test_reduce_weighs_micro_batches_by_their_count():
    parts = [{"guidance/nll": (6.0, 2.0)}, {"guidance/nll": (2.0, 6.0)}]
    assert reduce(parts) == {"guidance/nll": 1.0}  # (6 + 2) / (2 + 6); the mean of the means would be 1.67


def test_reduce_does_not_depend_on_how_the_rows_were_split():
    values = np.array([0.5, 1.5, 4.0, 2.0])
    whole = reduce([{"x": (float(values.sum()), 4.0)}])
    split = reduce([{"x": (0.5, 1.0)}, {"x": (5.5, 2.0)}, {"x": (2.0, 1.0)}])
    assert whole == split == {"x": 2.0}


def test_reduce_leaves_out_what_nobody_counted_even_where_its_sum_is_nan():
    assert reduce([{"a": (math.nan, 0.0), "b": (1.0, 2.0)}, {"a": (0.0, 0.0)}]) == {"b": 0.5}
    assert reduce([{"a": (math.nan, 0.0)}, {"a": (3.0, 1.0)}]) == {"a": 3.0}
    assert reduce([]) == {}


def test_rollout_metrics_of_two_groups():
    groups = [
        [info(reward=1.0), info(length=30, stop_reason="length", weights_version=2)],
        [info(length=20, outcome="timeout"), info(length=20, outcome="unparsable")],
    ]
    metrics = rollout_metrics(groups, weights_version=3)
    assert metrics["reward"] == 0.25  # 1 of 4
    assert metrics["episode/response_length"] == 20.0  # (10 + 30 + 20 + 20) / 4
    assert metrics["episode/response_length_max"] == 30.0
    assert metrics["episode/prompt_length"] == 4.0
    assert metrics["episode/truncated"] == 0.25
    assert metrics["tokens/response"] == 80.0
    assert metrics["zero_advantage_groups"] == 0.5  # the second group is 0, 0
    assert metrics["weights_version_lag"] == 0.25  # one episode is one version old
    assert [metrics[f"outcome/{name}"] for name in OUTCOMES] == [0.25, 0.25, 0.25, 0.25, 0.0]


def test_rollout_metrics_do_not_depend_on_the_order_of_groups():
    first, second = [info(reward=1.0), info(length=7)], [info(reward=0.5), info(reward=0.5)]
    assert rollout_metrics([first, second], weights_version=3) == rollout_metrics([second, first], weights_version=3)


def test_an_iteration_without_episodes_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="at least 1 episode, got 0 in 2 groups"):
        rollout_metrics([[], []], weights_version=0)


def test_every_rollout_metric_is_in_the_table_of_names():
    names = rollout_metrics([[info(reward=1.0)]], weights_version=3)
    assert set(names) <= set(METRICS)
    assert all(entry.meaning for entry in METRICS.values())


def test_rows_are_read_back_and_nan_is_stored_as_null(tmp_path):
    writer = JsonlWriter(tmp_path / "run" / "metrics.jsonl")
    writer.write(0, {"reward": np.float32(0.5), "loss/total": math.nan, "optimizer/grad_norm": math.inf})
    writer.append({"iteration": 1, "rewards": [np.float64(1.0), math.nan], "prompt": "é"})
    rows = read_metrics(writer.path)  # before close: each line is flushed
    assert rows[0] == {"iteration": 0, "reward": 0.5, "loss/total": None, "optimizer/grad_norm": None}
    assert rows[1] == {"iteration": 1, "rewards": [1.0, None], "prompt": "é"}
    writer.close()


@pytest.mark.parametrize("num_bytes_lost", [1, 2, 5, 15])
def test_a_half_written_last_line_is_left_out_and_the_next_row_stands_alone(tmp_path, num_bytes_lost):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"iteration": 1, "reward": 0.5}\n{"iteration": 2, "reward": 0.6}\n'
    path.write_bytes(whole[:-num_bytes_lost])
    # Losing the newline alone (1 byte) leaves a whole object, which is kept.
    kept = [1, 2] if num_bytes_lost == 1 else [1]
    assert [row["iteration"] for row in read_metrics(path)] == kept
    writer = JsonlWriter(path)
    writer.write(7, {})
    writer.close()
    assert [row["iteration"] for row in read_metrics(path)] == [*kept, 7]


def test_a_line_cut_inside_a_character_is_tolerated(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"iteration": 1}\n' + '{"iteration": 2, "prompt": "é'.encode()[:-1])
    assert read_metrics(path) == [{"iteration": 1}]


def test_half_of_a_character_ends_no_run(tmp_path):
    writer = JsonlWriter(tmp_path / "samples.jsonl")
    writer.append({"iteration": 1, "prompt": "a \ud83d b", "responses": ["😀"]})
    writer.append({"iteration": 2, "prompt": "c"})
    writer.truncate_after(1)
    writer.close()
    assert read_metrics(tmp_path / "samples.jsonl") == [{"iteration": 1, "prompt": "a ? b", "responses": ["😀"]}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iter\n{"iteration": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: every line must be a JSON object"):
        read_metrics(path)


def test_a_writer_killed_in_the_act_leaves_every_flushed_row(tmp_path):
    script = (
        "import os, sys; from tgpo_ray.reporting.metrics import JsonlWriter\n"
        "writer = JsonlWriter(sys.argv[1])\n"
        "for i in range(3): writer.write(i, {'reward': i})\n"
        "os._exit(9)"  # no interpreter shutdown, so nothing is flushed for us
    )
    path = tmp_path / "metrics.jsonl"
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == 9
    assert [row["reward"] for row in read_metrics(path)] == [0, 1, 2]


def test_restoring_cuts_the_rows_after_the_restored_iteration(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    for iteration in range(5):
        writer.write(iteration, {"reward": 0.1 * iteration})
    writer.truncate_after(2)
    writer.write(3, {"reward": 9.0})
    writer.close()
    assert [(row["iteration"], row["reward"]) for row in read_metrics(writer.path)][2:] == [(2, 0.2), (3, 9.0)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]  # no temporary file stays


def test_open_writers_writes_the_jsonl_file_and_resumes_it(tmp_path):
    reporting = Reporting()
    (writer,) = open_writers(reporting, tmp_path)
    for iteration in (1, 2, 3):
        writer.write(iteration, {})
    writer.close()
    (writer,) = open_writers(reporting, tmp_path, resume_after=1)
    writer.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"iteration": 1}


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_logging_package_is_named_with_its_extra(tmp_path, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reporting = Reporting(tensorboard=package == "tensorboard", wandb="project" if package == "wandb" else None)
    with pytest.raises(ValueError, match=rf"reporting.{package} is on.*tgpo-ray\[logging\]"):
        open_writers(reporting, tmp_path)
    assert not list(tmp_path.iterdir())  # refused before anything was created


def test_only_finite_numbers_reach_charts():
    metrics = {"a": 1, "b": np.float32(0.5), "c": math.nan, "d": "text", "e": None, "f": [1.0]}
    assert finite(metrics) == {"a": 1.0, "b": 0.5}


def test_metrics_import_nothing_heavy():
    script = (
        "import sys, tgpo_ray.reporting.metrics, tgpo_ray.reporting.progress, tgpo_ray.reporting.report\n"
        "print([name for name in ('torch', 'ray', 'vllm', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the [logging] extra")
def test_tensorboard_hides_points_after_the_restored_iteration(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-not-found]

    for resume_after, values in ((None, (1.0, 2.0, 3.0)), (1, (9.0,))):
        for writer in open_writers(Reporting(tensorboard=True), tmp_path, resume_after=resume_after):
            for step, value in enumerate(values, start=1 + (resume_after or 0)):
                writer.write(step, {"reward": value, "loss/total": math.nan})
            writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(1, 1.0), (2, 9.0)]


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs the [logging] extra")
def test_wandb_goes_on_with_a_restored_run_and_keeps_those_of_one_name_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    first, other = tmp_path / "a" / "run", tmp_path / "b" / "run"
    for folder, resume_after in ((first, None), (first, 1), (other, None)):
        for writer in open_writers(Reporting(wandb="project"), folder, resume_after=resume_after):
            writer.write(1 + (resume_after or 0), {"guidance/nll": 0.5, "loss/total": math.nan})
            writer.close()
    names = [sorted(path.name for path in folder.glob("wandb/offline-run-*/*.wandb")) for folder in (first, other)]
    assert len(names[0]) == 2 and len({*names[0]}) == 1 and len(names[1]) == 1 and names[0][0] != names[1][0]
    (written,) = [path.read_bytes() for path in other.glob("wandb/offline-run-*/*.wandb")]
    assert b"guidance/nll" in written and b"loss/total" not in written


def test_every_diagnostic_of_guidance_has_a_name_and_a_meaning():
    import torch

    from tgpo_ray.guidance.diagnostics import GuidanceBatch, diagnostic_sums

    ones, ids = torch.ones(4), torch.arange(4)
    batch = GuidanceBatch(
        mask=ones, sampled_ids=ids, teacher_ids=ids.flip(0), guidance_logprobs=-ones, logprobs=-ones,
        teacher_logprobs=-2 * ones, target_logprobs=-ones, policy_argmax=ids, advantages=ones, groups=ids,
        positions=ids,
    )  # fmt: skip
    assert set(diagnostic_sums(batch, guidance_weight=0.1)) <= set(METRICS)
