"""Preflight: a sound job passes, and each thing that is wrong is found, measured and named with its fix."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import yaml
from tests.conftest import SYMBOLS
from tests.episodes import make_episode
from tgpo_ray.checks import PreflightError, check_actors, check_files, print_results, refuse_failed
from tgpo_ray.checks.read_back import ReadBack, read_back
from tgpo_ray.checks.results import CheckResult
from tgpo_ray.checks.running_actors import _labels_are_mapped, _misplaced, _replicas_agree, check_pool, sampled_probe
from tgpo_ray.cli import main
from tgpo_ray.episode import EpisodeGroup, Guidance
from tgpo_ray.models import Scores, ScoringRequest, Want, character_tokenizer, write_model
from tgpo_ray.models.engine_spec import EngineSpec
from tgpo_ray.teachers import Teacher, TeacherSpec

SHAPE = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128, "tie_word_embeddings": False, "initializer_range": 0.5,
}  # fmt: skip


def by_name(results: Any) -> dict[str, CheckResult]:
    return {result.name: result for result in results}


# ---- what files say


def test_a_sound_job_passes_and_says_what_was_measured(make_config: Callable[..., Any]):
    results = by_name(check_files(make_config("TGPO").resolved(gpus=False)))
    assert {name for name, result in results.items() if result.status != "ok"} == {"chat template of policy"}
    assert results["context of teacher default"].measured == "128 tokens"
    assert results["context of teacher default"].bound.startswith(">= 48 tokens")
    assert "KV cache = " in results["memory of teacher default"].measured
    assert "sequences of 48 tokens" in results["memory of an env runner"].measured
    assert results["vocabulary of teacher default"].measured.endswith("ids, the same on both sides")


def test_a_context_that_is_too_short_is_found(make_config: Callable[..., Any]):
    config = make_config("TGPO", env_runners={"max_response_tokens": 113, "max_prompt_tokens": 16})
    results = by_name(check_files(config.resolved(gpus=False)))
    assert results["context of policy"].failed
    assert "reads 128 tokens" in results["context of teacher default"].findings[0].text


def test_another_vocabulary_is_reported_and_one_with_little_in_common_fails(
    make_config: Callable[..., Any], tmp_path: Path
):
    larger = character_tokenizer([*"0123456789+-*=,;", "\\boxed{", "}", "[", "]"])
    foreign = character_tokenizer([*"abcdefghijklmnopqrstuvwxyz0123456789+-*=,;", "\\boxed{", "}"])
    folders = [write_model(tmp_path / str(i), "qwen2", it, **SHAPE) for i, it in enumerate((larger, foreign))]
    said = []
    for folder in folders:
        config = make_config("TGPO", teacher={"path": str(folder), "kv_cache_memory": "64MiB"})
        said.append(by_name(check_files(config.resolved(gpus=False)))["vocabulary of teacher default"])
    assert not said[0].failed
    assert "2 unmapped" in said[0].measured
    assert said[1].failed
    assert "of the teacher's ids give no guidance" in said[1].findings[0].text


def test_a_template_that_is_asked_for_must_exist_and_spell_its_text(make_config: Callable[..., Any], tmp_path: Path):
    def result(template: str | None) -> CheckResult:
        tokenizer = character_tokenizer([*"0123456789+-*=,;", "\\boxed{", "}", "[", "]"])
        if template:
            tokenizer.chat_template = template
        folder = write_model(tmp_path / str(hash(template)), "qwen2", tokenizer, **SHAPE)
        teacher = {"path": str(folder), "kv_cache_memory": "64MiB", "prompt": "own_template"}
        config = make_config("TGPO", teacher=teacher)
        return by_name(check_files(config.resolved(gpus=False)))["chat template of teacher default"]

    assert "has no chat template" in result(None).findings[0].text
    assert not result("[{{ messages[0]['content'] }}]").failed
    assert "comes back as" in result("User: {{ messages[0]['content'] }}").findings[0].text  # it has no such letters


def test_more_memory_than_the_machine_has_is_refused(make_config: Callable[..., Any]):
    config = make_config("GRPO", env_runners={"kv_cache_memory": "900TiB"})
    result = by_name(check_files(config.resolved(gpus=False)))["memory in all"]
    assert result.failed
    assert "this machine's memory" in result.bound


# ---- what a teacher says of its own writing


class Shifted:
    """A backend whose rows belong one position further on."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.generate = backend.generate

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        found = self._backend.score(requests, want)
        return [replace(it, argmax_ids=np.roll(it.argmax_ids, 1), logprobs=np.roll(it.logprobs, 1)) for it in found]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    tokenizer = character_tokenizer(SYMBOLS)
    folder = str(write_model(tmp_path_factory.mktemp("teacher") / "qwen2", "qwen2", tokenizer, seed=4, **SHAPE))
    engine = EngineSpec(model=folder, dtype="float32", max_model_len=128, kv_cache_memory=0)
    return Teacher(TeacherSpec(engine, policy_tokenizer=folder, backend="transformers"))


GROUPS = [EpisodeGroup((make_episode(prompt=[3, i], response=[6]),)) for i in range(5)]


def test_a_teacher_recognises_what_it_wrote(teacher: Teacher):
    found = read_back(teacher, GROUPS, 32)
    assert (found.agreement, found.num_tokens > 0) == (1.0, True)
    assert found.gap < 1e-4
    assert _misplaced(found, 0.95, 1e-3) == []


def test_positions_that_are_off_by_one_are_found(teacher: Teacher):
    shifted: Any = SimpleNamespace(backend=Shifted(teacher.backend), translator=teacher.translator)
    found = read_back(shifted, GROUPS, 32)
    assert found.gap > 0.1
    assert _misplaced(found, 0.95, 1e-3)


def test_what_is_misplaced_is_told_from_what_repeats():
    repeating = ReadBack(32, agreement=1.0, shifted=1.0, gap=0.0, shifted_gap=0.0)
    assert _misplaced(repeating, 0.95, 1e-3) == []
    texts = [finding.text for finding in _misplaced(ReadBack(32, 0.2, 0.8, float("nan"), 0.1), 0.95, 1e-3)]
    assert [text.split(":")[0] for text in texts] == [
        "its argmax is what it wrote at 20.0% of the positions",
        "shifted by one it agrees as often",
        "its log-probs differ from those it sampled with by nan nats",
    ]


# ---- what replicas say of the same episodes


def answer(ids: Sequence[int], logprobs: Sequence[float]) -> list[Guidance]:
    return [Guidance(teacher_ids=np.asarray(ids, np.int32), teacher_logprobs=np.asarray(logprobs, np.float32))]


def test_replicas_that_differ_are_named():
    good = answer([1, 2, 3, 4], [-1.0, -1.0, -1.0, -1.0])
    assert _replicas_agree("it", [good], "float32").status == "skipped"
    assert _replicas_agree("it", [good, good], "float32").status == "ok"
    other = answer([1, 2, 3, 9], [-1.0, -1.0, -1.0, -1.5])
    result = _replicas_agree("it", [good, good, other], "float32")
    assert result.failed
    assert [finding.text for finding in result.findings] == ["0 and 2: argmax 75.0% equal, gap 0.5 nats"]


def test_tokens_that_the_policy_lacks_are_counted_against_the_limit():
    some = answer([1, -1, 3, 4], [-1.0] * 4)
    assert _labels_are_mapped("it", some, 0.25).status == "ok"
    assert "25.0% of its tokens have no id" in _labels_are_mapped("it", some, 0.2).findings[0].text


def test_the_suites_own_teacher_passes_on_its_own_runner(env_runners, teachers, make_config):
    config = make_config("TGPO").resolved(gpus=False)
    running: Any = SimpleNamespace(config=config, env_runners=env_runners, left_out=[()])
    probe = sampled_probe(running)
    assert [len(group) for group in probe.episodes] == [2, 2]
    results = by_name(check_pool("teacher default", teachers["default"], probe, 0.05))
    assert {name: result.status for name, result in results.items()} == {
        "replicas of teacher default": "skipped",  # there is one
        "targets of teacher default": "ok",
        "positions of teacher default": "ok",
    }


@pytest.mark.slow
def test_all_actors_of_a_run_agree_and_an_engine_with_other_weights_is_found(
    env_runners, teachers, make_config, tiny_models, sync_model
):
    from tests.core.model_answers import load
    from tgpo_ray.algorithms import TGPO

    algorithm = TGPO(make_config("TGPO"), env_runners=env_runners, teachers=teachers)
    try:
        results = by_name(check_actors(algorithm))
        assert [result.name for result in results.values() if result.failed] == []
        assert results["learner and sampler"].status == "ok"
        assert results["learner and sampler, weights halved"].status == "ok"
        model, _ = load(tiny_models["policy"])
        for weight in model.parameters():
            weight.data *= 1.1
        sync_model(model)
        assert by_name(check_actors(algorithm))["learner and sampler"].failed
    finally:
        algorithm.stop()


# ---- how it is said


FAILED = CheckResult("positions", "failed", "agrees 0%", ">= 95%", "look at vLLM", ())
OK = CheckResult("context", "ok", "128 tokens", ">= 48 tokens")


def test_the_table_has_measure_bound_and_fix():
    page = StringIO()
    console = Console(file=page, width=120, color_system=None)
    assert not print_results("preflight x.yaml", [OK, FAILED], console)
    text = page.getvalue()
    assert all(part in text for part in ("128 tokens", ">= 48 tokens", "positions: look at vLLM", "failed: positions"))
    assert print_results("preflight x.yaml", [OK], console)
    assert "nothing is wrong" in page.getvalue()


def test_a_run_is_refused_with_the_fix():
    assert refuse_failed([OK, OK]) == 2
    with pytest.raises(PreflightError, match=r"positions: .*fix: look at vLLM.*--no-preflight"):
        refuse_failed([OK, FAILED])


def test_the_command_ends_with_status_one_where_something_is_wrong(make_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_config("TGPO").to_yaml("job.yaml")
    assert main(["preflight", "job.yaml", "--files-only"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert main(["preflight", "job.yaml", "env_runners.kv_cache_memory=900TiB", "--files-only"]) == 1
    assert "lower kv_cache_memory" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_starts_the_actors_of_a_job_and_ends_them(make_config, clean_environment, tmp_path):
    """Learner, runner and teacher, on a Ray of its own."""
    storage = {"storage_path": str(tmp_path / "runs")}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_config("TGPO", checkpointing=storage).to_dict()))
    command = [sys.executable, "-m", "tgpo_ray.cli", "preflight", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is wrong" in done.stdout and "learner and sampler" in done.stdout
