"""What `tgpo-ray traces` asks of a cluster before it starts anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from tgpo_ray import cluster
from tgpo_ray.cli import main, traces
from tgpo_ray.config import dump_yaml


def test_traces_need_the_teachers_room_alone_and_settle_what_auto_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_models: Mapping[str, str]
) -> None:
    seen: list[Any] = []

    def writers(config: Any, teacher: Any) -> None:
        seen.append(config)
        raise RuntimeError("nothing starts here")

    monkeypatch.setattr(traces, "build_writers", writers)
    monkeypatch.setattr(cluster, "connect", lambda section: False)
    monkeypatch.setattr(cluster, "has_gpus", lambda: False)
    monkeypatch.setattr(cluster, "node_resources", list)
    env = {"id": "tgpo/Arithmetic-v0", "kwargs": {"digits": [1, 1]}}
    data = {
        "algorithm": "TGPO",
        "model": {"path": tiny_models["policy"]},
        "teacher": {"path": tiny_models["teacher"], "num_cpus_per_replica": 1.0},
        "env": env,
        "env_runners": {"max_prompt_tokens": 16, "max_response_tokens": 16},
        "learners": {"num_cpus_per_learner": 64},
    }
    (tmp_path / "job.yaml").write_text(dump_yaml(data))
    command = ["traces", str(tmp_path / "job.yaml"), "--to", str(tmp_path / "x.jsonl"), "--num-problems", "4"]
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 0.5})
    assert main(command) == 2 and "1 CPUs needed" in capsys.readouterr().err
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    main(command)
    (config,) = seen
    assert config.env_runners.kv_cache_memory == 2**30  # `auto` on a CPU
