"""Methods that need a teacher's hidden states or its traces train on real actors; the `traces` command writes those."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import ray
from transformers import AutoTokenizer

from tests.algorithms.test_methods_train import TRAINING, assert_trains
from tgpo_ray.cli import main
from tgpo_ray.env_runners.cursor import Cursor
from tgpo_ray.episode import ORIGIN_BASE, ORIGIN_POLICY, ORIGIN_TEACHER
from tgpo_ray.teachers.prefix_file import PrefixFile

SMALL = {"kv_cache_memory": "64MiB", "num_cpus_per_replica": 0.5}


@pytest.fixture(scope="module")
def trace_file(make_config: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Gold answers of the problems that a run with seed 0 meets first, as `tgpo-ray traces` would write them."""
    config = make_config("GRPO")
    env = gymnasium.make(config.envs[0].id, **config.envs[0].kwargs)
    path = tmp_path_factory.mktemp("traces") / "traces.jsonl"
    with path.open("w") as file:
        for task in Cursor([None], [1.0], 0).next(4):  # the first iteration's; the second finds none
            prompt, _ = env.reset(seed=task.seed, options={"index": task.problem_index})
            gold = env.unwrapped.gold_response(task.problem_index)  # pyright: ignore[reportAttributeAccessIssue]
            file.write(json.dumps({"prompt": prompt, "response": gold, "reward": 1.0}) + "\n")
    return str(path)


@pytest.fixture
def built(make_config: Any, env_runners: Any, teachers: Any, standing_learners: None) -> Iterator[Any]:
    """built("LUFFY", section={...}) -> the algorithm on the shared groups, stopped after the test."""
    started: list[Any] = []

    def build(algorithm: str, **sections: Any) -> Any:
        sections["training"] = TRAINING | sections.get("training", {})
        config = make_config(algorithm, **sections)
        started.append(config.build_algo(env_runners=env_runners, teachers=teachers))
        return started[-1]

    yield build
    for algorithm in started:
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.parametrize("trace_loss", ["shaped", "nll"])
def test_luffy_trains_with_a_trace_in_each_group_that_has_one(built, trace_file, trace_loss):
    luffy = built("LUFFY", traces={"path": trace_file}, training={"trace_loss": trace_loss})
    shares = []
    check = luffy.check_metrics
    luffy.check_metrics = lambda metrics: shares.append(check(metrics)) or shares[-1]
    assert_trains(luffy, {"guidance/traced_groups"})
    assert shares[0]["loss/trace_nll"] > 0.0 and "loss/trace_nll" not in shares[1]
    assert [metrics["guidance/traced_groups"] for metrics in shares] == [1.0, 0.0]
    assert shares[0]["reward"] < 0.5  # of the rollouts: with the traces it would be a quarter more


@pytest.mark.slow
def test_tropd_continues_the_teachers_beginning(built, tiny_models, trace_file):
    tropd = built(
        "TrOPD",
        teacher={"path": tiny_models["teacher"], **SMALL},
        guidance={"top_k": 4, "prefix_share": 0.5},
        traces={"path": trace_file},
        training={"updates_per_iteration": 1},
    )
    metrics = tropd.train()
    assert metrics["guidance/prefix_nll"] > 0.0 and 0.0 <= metrics["guidance/trusted"] <= 1.0
    for group in tropd.sampled:
        found: Any = ray.get(group.ref)
        for episode in found.episodes:
            written = np.flatnonzero(episode.origin == ORIGIN_TEACHER)
            assert len(written) and written.tolist() == list(range(len(written)))  # at the beginning, and nowhere else
            assert (episode.origin[len(written) :] == ORIGIN_POLICY).all()
    assert tropd.env_runners.prefixes is None  # evaluation is the policy's alone


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["bernoulli", "expected", "threshold"])
def test_tropd_trains_with_each_gate(built, tiny_models, gate):
    tropd = built("TrOPD", teacher={"path": tiny_models["teacher"], **SMALL}, guidance={"top_k": 4, "gate": gate})
    assert_trains(tropd, {"guidance/trusted", "guidance/outlier_kl", "guidance/log_ratio"})


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_gkd_trains_on_its_own_responses(built, tiny_models, beta):
    gkd = built(
        "GKD",
        teacher={"path": tiny_models["teacher"], **SMALL},
        guidance={"beta": beta},
        training={"on_policy_share": 1.0, "updates_per_iteration": 1},
    )
    assert_trains(gkd, {"guidance/divergence", "guidance/scored"})


@pytest.mark.slow
def test_gkd_trains_on_given_responses_and_reports_no_reward_then(built, tiny_models, trace_file):
    gkd = built(
        "GKD",
        teacher={"path": tiny_models["teacher"], **SMALL},
        traces={"path": trace_file},
        training={"on_policy_share": 0.0, "updates_per_iteration": 1},
    )
    metrics = gkd.train()
    assert metrics["guidance/divergence"] > 0.0 and "reward" not in metrics


@pytest.mark.slow
def test_minillm_trains(built, tiny_models):
    minillm = built("MiniLLM", teacher={"path": tiny_models["teacher"], **SMALL})
    assert_trains(minillm, {"guidance/divergence", "policy/ratio_deviation"})


@pytest.mark.slow
def test_the_traces_command_writes_what_the_verifier_approves(make_config, tiny_models, ray_cluster, tmp_path, capsys):
    config = make_config("TGPO", name="traces")
    config.to_yaml(tmp_path / "job.yaml")
    target = tmp_path / "traces.jsonl"
    arguments = ["traces", str(tmp_path / "job.yaml"), "--to", str(target)]
    assert main([*arguments, "--num-problems", "4", "--num-samples", "2"]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert f"{len(rows)} traces of 4 problems" in capsys.readouterr().out
    assert all(row["reward"] > 0 and row["prompt"] and row["response"] for row in rows)
    assert main([*arguments, "--num-problems", "4"]) == 2  # what is there is not written over
    assert "exists already" in capsys.readouterr().err


@pytest.fixture(scope="module")
def prefix_file(make_config, tmp_path_factory, ray_cluster) -> str:
    """The base's responses to the first problems of a run with seed 0, labelled by the tiny teacher."""
    folder = tmp_path_factory.mktemp("prefixes")
    make_config("TGPO", name="prefixes").to_yaml(folder / "job.yaml")
    target = folder / "prefixes.arrow"
    arguments = ["prefixes", str(folder / "job.yaml"), "--to", str(target)]
    assert main([*arguments, "--num-problems", "4", "--num-samples", "3"]) == 0
    assert main([*arguments, "--num-problems", "4"]) == 2  # what is there is not written over
    return str(target)


@pytest.mark.slow
@pytest.mark.usefixtures("standing_learners")
@pytest.mark.parametrize("prefixes", ["base", "mixed"])
def test_tgpo_is_guided_on_the_bases_text(make_config, env_runners, teachers, prefix_file, prefixes):
    guidance = {"weight": 0.5, "prefixes": prefixes, "prefix_file": prefix_file, "prefixes_per_group": 2}
    config = make_config("TGPO", training=TRAINING, guidance=guidance)
    tgpo = config.build_algo(env_runners=env_runners, teachers=teachers if prefixes == "mixed" else None)
    try:
        first = tgpo.train()
        assert first["guidance/prefixed_groups"] == 1.0 and first["guidance/nll"] > 0.0 and first["loss/guidance"] > 0.0
        assert first["guidance/unguided_episodes"] == 0.0
        for group in tgpo.sampled:
            found: Any = ray.get(group.ref)
            places = [i for i, it in enumerate(found.episodes) if (it.origin == ORIGIN_BASE).any()]
            assert places == [TRAINING["group_size"], TRAINING["group_size"] + 1]
        second = tgpo.train()  # of problems that the file does not have
        assert second["guidance/prefixed_groups"] == 0.0
        assert (prefixes == "mixed") == bool(tgpo.teachers)
    finally:
        tgpo.stop()


@pytest.mark.slow
def test_the_prefixes_command_reads_the_teachers_text_in_the_policys_ids(make_config, ray_cluster, tmp_path, capsys):
    make_config("TGPO", name="prefixes").to_yaml(tmp_path / "job.yaml")
    target = tmp_path / "teacher.arrow"
    options = ["--of", "teacher", "--num-problems", "4", "--num-samples", "2", "--to", str(target)]
    assert main(["prefixes", str(tmp_path / "job.yaml"), *options]) == 0
    assert "8 labelled responses of the teacher to 4 problems" in capsys.readouterr().out
    file = PrefixFile(str(target))
    rows = [file.row(number) for number in range(len(file))]
    assert file.header.written_by == "teacher" and len(rows) == 8
    assert all(len(row.label_ids) == len(row.response_ids) and (row.label_ids >= 0).any() for row in rows)
    end = AutoTokenizer.from_pretrained(make_config("TGPO").model.path).eos_token_id
    assert all((row.response_ids[-1] == end) == (row.stop_reason == "stop") for row in rows)
