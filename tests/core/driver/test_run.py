"""A run's folder: what is in it after success and after a failure, a second run of the name, and a continued one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tgpo_ray.config import ConfigError
from tgpo_ray.driver.run import fit
from tgpo_ray.reporting.metrics import read_metrics
from tgpo_ray.reporting.tokens import read_rows


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def first(make_config: Callable[..., Any], storage: Path, env_runners: Any, teachers: Any) -> Any:
    """The Result of two iterations of TGPO."""
    return fit(guided(make_config, storage), env_runners=env_runners, teachers=teachers)


def guided(make_config: Callable[..., Any], storage: Path, **training: Any) -> Any:
    return make_config(
        "TGPO",
        name="guided",
        training={"updates_per_iteration": 1, **training},
        evaluation={"every": 1},
        checkpointing={"storage_path": str(storage), "every": 1},
        reporting={"progress": False, "samples_every": 1},
    )


def iterations(path: Path) -> list[int]:
    return [row["iteration"] for row in read_metrics(path)]


def test_a_run_writes_its_folder(first: Any, storage: Path) -> None:
    folder = storage / "guided"
    assert Path(first.path) == folder
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "samples.jsonl", "report.html", "run.json", "checkpoints"}
    assert iterations(folder / "metrics.jsonl") == [0, 1, 2]
    assert json.loads((folder / "run.json").read_text())["iteration"] == 2
    assert "<svg" in (folder / "report.html").read_text() or "<img" in (folder / "report.html").read_text()


def test_the_result_carries_last_metrics_and_last_checkpoint(first: Any, storage: Path) -> None:
    last = read_metrics(storage / "guided" / "metrics.jsonl")[-1]
    assert first.error is None
    assert {name: value for name, value in first.metrics.items() if last.get(name) != value} == {}
    assert Path(first.checkpoint.path) == storage / "guided" / "checkpoints" / "checkpoint_000002"
    assert Path(first.checkpoint.path).is_dir()


def test_every_row_says_what_a_guided_iteration_did(first: Any, storage: Path) -> None:
    base, *rows = read_metrics(storage / "guided" / "metrics.jsonl")
    assert "evaluation/accuracy" in base and "reward" not in base
    tokens = 0.0
    for row in rows:
        tokens += row["tokens/response"]
        assert row["tokens/total"] == tokens
        assert {"reward", "evaluation/accuracy", "guidance/weight", "guidance/nll", "optimizer/grad_norm"} <= row.keys()
        # one vocabulary: the teacher has a word on every token that the policy wrote
        assert row["guidance/coverage"] == 1.0 and row["guidance/unmapped"] == 0.0
    assert [row["weights_version_lag"] for row in rows] == [0.0, 0.0]
    totals = [row["time/total_s"] for row in (base, *rows)]
    assert totals == sorted(totals)


def test_a_few_episodes_are_kept_token_by_token(first: Any, storage: Path) -> None:
    folder = storage / "guided"
    for iteration in (1, 2):
        rows = read_rows(folder / "tokens" / f"{iteration:06d}.jsonl")
        assert len(rows) == 4 and {row["iteration"] for row in rows} == {iteration}
        for row in rows:
            length = row["num_tokens"]
            assert len(row["ids"]) == len(row["teacher_ids"]) == length > 0 and row["origin"] == "1" * length
            # one vocabulary: the teacher has a word, and a log-prob of the policy's, at every token
            assert min(row["teacher_ids"]) >= 0 and None not in row["teacher_logprobs"] + row["logprobs"]
            assert {str(i) for i in row["ids"] + row["teacher_ids"]} == set(row["pieces"])
            assert row["gate"] == [1.0] * length and row["guidance_weight"] == 0.1
            assert row["token_guidance"] == [0.1] * length
            assert row["token_advantages"] == pytest.approx([row["advantage"]] * length, rel=1e-3)
            assert row["prompt"] and row["env"] == "Arithmetic"
    assert "report_tokens.html" in (folder / "report.html").read_text()
    assert (folder / "report_tokens.html").stat().st_size > 10_000


def test_samples_have_text_of_both_phases(first: Any, storage: Path) -> None:
    rows = read_metrics(storage / "guided" / "samples.jsonl")
    assert {(row["iteration"], row["phase"]) for row in rows} == {
        (0, "evaluation"), (1, "train"), (1, "evaluation"), (2, "train"), (2, "evaluation")
    }  # fmt: skip
    assert all(row["prompt"] and len(row["responses"]) == len(row["rewards"]) == len(row["outcomes"]) for row in rows)


def test_a_run_continues_in_its_folder_without_repeated_rows(
    first: Any, make_config: Callable[..., Any], storage: Path, env_runners: Any, teachers: Any
) -> None:
    folder = shutil.copytree(first.path, storage / "moved")
    with (folder / "metrics.jsonl").open("a") as file:  # as if the run had died after its last checkpoint
        file.write(json.dumps({"iteration": 3, "reward": 9.0}) + "\n" + '{"iteration": 4, "rew')
    with (folder / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 3, "phase": "train"}) + "\n")

    config = guided(make_config, storage, num_iterations=4)
    result = fit(config, resume=str(folder), env_runners=env_runners, teachers=teachers)

    assert Path(result.path) == folder
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3, 4]
    assert all(row.get("reward") != 9.0 for row in rows)
    assert [row["tokens/total"] for row in rows] == sorted(row["tokens/total"] for row in rows)
    assert [row["time/total_s"] for row in rows] == sorted(row["time/total_s"] for row in rows)
    samples = read_metrics(folder / "samples.jsonl")
    assert max(row["iteration"] for row in samples) == 4
    assert all(row.get("responses") for row in samples)
    state = json.loads((folder / "run.json").read_text())
    found = {name: state[name] for name in ("checkpoint", "iteration", "session")}
    assert found == {"checkpoint": "checkpoints-2/checkpoint_000004", "iteration": 4, "session": 2}
    there = {f"{path.parent.name}/{path.name}" for path in folder.glob("checkpoints*/checkpoint_0*")}
    assert there == {checkpoint["folders"][0] for checkpoint in state["checkpoints"]}
    assert 2 <= len(there) <= 3  # the newest two, and the best if it is none of them


@pytest.mark.slow
def test_a_policy_that_writes_nothing_stops_the_run_and_leaves_folders_intact(
    first: Any, make_config: Callable[..., Any], storage: Path, env_runners: Any, tiny_models: dict[str, str]
) -> None:
    before = (storage / "guided" / "metrics.jsonl").read_bytes()
    config = make_config(
        name="guided",
        model={"path": silenced(tiny_models["policy"], storage / "silent")},
        training={"num_iterations": 9, "lr": 1e-9, "updates_per_iteration": 1},
        checkpointing={"storage_path": str(storage), "every": 1},
        evaluation={"at_start": False},
    )
    with pytest.raises(RuntimeError, match="every response of the last 3 iterations is empty: the policy writes its"):
        fit(config, env_runners=env_runners)
    assert (storage / "guided" / "metrics.jsonl").read_bytes() == before
    folder = storage / "guided-2"  # the name is taken
    assert iterations(folder / "metrics.jsonl") == [1, 2]
    state = json.loads((folder / "run.json").read_text())
    assert state["iteration"] == 2
    assert (folder / state["checkpoint"] / "learner.pt").is_file()


def silenced(model: str, folder: Path) -> str:
    """A copy of the model whose next token is always end-of-sequence.

    Attention and MLP add nothing, so that a token's hidden state is its own embedding, (1, -1, 0, ...) or, for the end,
    (1, 1, 0, ...). The last norm drops the first coordinate and flips and stretches the second: end 170, others -170.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy: Any = AutoModelForCausalLM.from_pretrained(model)
    embedding = policy.get_input_embeddings().weight
    with torch.no_grad():
        for layer in policy.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding.zero_()
        embedding[:, 0], embedding[:, 1] = 1.0, -1.0
        embedding[tokenizer.eos_token_id, 1] = 1.0
        policy.model.norm.weight[0], policy.model.norm.weight[1] = 0.0, -30.0
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_folder_that_holds_no_run_cannot_be_continued(make_config: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume: no such folder: .*nowhere"):
        fit(make_config(), resume=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"it holds no run\.json, so no checkpoint was finished: start a new run"):
        fit(make_config(), resume=str(tmp_path))
