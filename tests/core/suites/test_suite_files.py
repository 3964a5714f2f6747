"""The built-in suite, the user's file of sets, and the models of a command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.paths import YAML
from tgpo_ray.config import AlgorithmConfig, ConfigError
from tgpo_ray.suites import SuiteConfig, open_suite
from tgpo_ray.suites.fingerprints import model_fingerprint
from tgpo_ray.suites.work import sets_of

NINE = ["AIME24", "AIME25", "AMC", "MATH-500", "Minerva", "OlympiadBench", "ARC-c", "GPQA-diamond", "MMLU-Pro"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_papers_suite_has_nine_sets_32_responses_on_three_and_shuffled_options() -> None:
    suite = open_suite("paper").check(files=False)
    section = suite.evaluation
    assert {env.label: section.samples_of(env) for env in section.envs} == {
        name: 32 if name in NINE[:3] else 1 for name in NINE
    }
    assert (section.temperature, suite.env_runners.max_response_tokens) == (0.6, 8192)
    for env in section.envs:
        assert env.kwargs["prompt"] == "think"
        assert env.kwargs.get("shuffle") is (True if env.label in NINE[6:] else None)
    assert [name for names in suite.means.values() for name in names] == NINE
    assert all(set(row.scores) == set(NINE) for row in suite.published.values())


def test_the_built_in_suite_is_the_file_under_yaml() -> None:
    file = YAML / "paper" / "evaluation.yaml"
    assert AlgorithmConfig.from_yaml(file).to_dict() | {"name": None} == open_suite("paper").to_dict() | {"name": None}


def test_a_file_says_where_the_sets_are_and_which_are_left_out(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "aime.jsonl").write_text("")
    (tmp_path / "places.yaml").write_text(
        "AIME24: aime.jsonl\nMMLU-Pro: {path: org/MMLU-Pro, split: test, columns: {choices: options}}\nMinerva: null\n"
    )
    suite = open_suite("paper", places=str(tmp_path / "places.yaml"))
    kwargs = {env.label: env.kwargs for env in suite.evaluation.envs}
    assert list(kwargs) == [name for name in NINE if name != "Minerva"]
    assert kwargs["AIME24"] == {"path": str(tmp_path / "aime.jsonl"), "prompt": "think", "require_box": True}
    assert kwargs["MMLU-Pro"]["path"] == "org/MMLU-Pro" and kwargs["MMLU-Pro"]["split"] == "test"
    assert kwargs["AMC"]["path"] == "amc.jsonl"
    (elsewhere / "suite.yaml").write_text("AMC: other.jsonl\n")
    assert {env.label: env.kwargs["path"] for env in open_suite("paper").evaluation.envs}["AMC"] == "other.jsonl"


def test_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "places.yaml").write_text("Math500: x.jsonl\n")
    with pytest.raises(ConfigError, match="no set is called 'Math500'; did you mean 'MATH-500'"):
        open_suite("paper", places=str(tmp_path / "places.yaml"))
    with pytest.raises(ConfigError, match="--only: no set is called 'aime24'; did you mean 'AIME24'"):
        open_suite("paper", only=["aime24"])
    with pytest.raises(ConfigError, match="--suite: 'papers' is no file and none of the built-in suites: paper"):
        open_suite("papers")


def test_a_folder_that_lacks_sets_is_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "amc.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"lacks the files of AIME24 \(aime24\.jsonl\), .*--only"):
        open_suite("paper", places=str(tmp_path))
    (env,) = open_suite("paper", places=str(tmp_path), only=["AMC"]).evaluation.envs
    assert env.kwargs["path"] == str(tmp_path / "amc.jsonl")


def test_overrides_belong_to_the_model_that_they_were_written_for() -> None:
    suite = open_suite("paper")
    listed, stranger, teacher = suite.chosen(
        ["Qwen2.5-Math-7B", "runs/tgpo/export", "Qwen/Qwen3-30B-A3B-Thinking-2507"]
    )
    assert suite.of(listed).model.hf_overrides["max_position_embeddings"] == 16384
    assert suite.of(stranger).model.hf_overrides == {} and stranger.label == "export"
    config = suite.of(teacher)
    assert (config.model.hf_overrides, config.env_runners.tensor_parallel_size) == ({}, 2)
    assert config.evaluation.kwargs == {"prompt": "chat"}
    assert [it.label for it in suite.chosen([])] == [it.label for it in suite.candidates]


def test_a_runs_sets_come_from_the_file_and_its_learners_stay_behind() -> None:
    run = AlgorithmConfig.from_yaml(YAML / "paper" / "7b" / "tgpo.yaml")
    assert [env.label for env in run.evaluation.envs] == NINE[:6]
    assert [run.evaluation.samples_of(env) for env in run.evaluation.envs] == [32, 32, 32, 1, 1, 1]
    suite = SuiteConfig.of_run(run)
    assert (suite.learner_groups, len(suite.teacher_pools()), suite.model) == ((), 0, run.model)
    assert suite.evaluation == run.evaluation and suite.env_runners == run.env_runners


@pytest.mark.parametrize(
    ("envs", "expected"),
    [
        ("{from: none.yaml}", "none.yaml: no such file"),
        ("{from: sets.yaml, sets: [b, c]}", "evaluation.envs.sets: 'c' is none of the sets of sets.yaml: a, b"),
        ("{from: sets.yaml, names: [a]}", "evaluation.envs.names: unknown key; there are `from`"),
        ("{from: 1}", "evaluation.envs.from: expected the path of a YAML file, got 1"),
        ("{from: empty.yaml}", "evaluation.envs.from: empty.yaml has no list `evaluation.envs`"),
    ],
)
def test_a_wrong_file_of_sets_is_explained(elsewhere: Path, envs: str, expected: str) -> None:
    sets = [{"id": "tgpo/Arithmetic-v0", "name": name} for name in "ab"]
    (elsewhere / "sets.yaml").write_text(json.dumps({"evaluation": {"envs": sets}}))
    (elsewhere / "empty.yaml").write_text("evaluation: {}")
    job = elsewhere / "job.yaml"
    job.write_text(f"algorithm: GRPO\nevaluation: {{envs: {envs}}}\n")
    with pytest.raises(ConfigError) as error:
        AlgorithmConfig.from_yaml(job)
    assert expected in str(error.value)


def test_an_override_may_name_the_file_of_sets(elsewhere: Path) -> None:
    sets = [{"id": "tgpo/Arithmetic-v0", "name": name, "kwargs": {"digits": [1, 1]}} for name in "ab"]
    (elsewhere / "sets.yaml").write_text(json.dumps({"evaluation": {"num_samples": 4, "envs": sets}}))
    job = elsewhere / "job.yaml"
    job.write_text("algorithm: GRPO\nevaluation: {envs: {from: sets.yaml}}\n")
    config = AlgorithmConfig.from_yaml(job, ["evaluation.envs.1.num_samples=2"])
    assert [config.evaluation.samples_of(env) for env in config.evaluation.envs] == [4, 2]
    config = AlgorithmConfig.from_yaml(job, ["evaluation.envs={from: sets.yaml, sets: [b]}"])
    assert [env.label for env in config.evaluation.envs] == ["b"]


def test_the_shared_sets_are_read_and_their_prompts_hashed(data_folder: Path) -> None:
    suite = open_suite("paper", places=str(data_folder), only=["AIME24", "ARC-c"]).models(path="policy")
    first, second = sets_of(suite)
    assert (len(first.hashes), first.num_samples, len(second.hashes)) == (30, 32, 1172)
    assert len(set(second.hashes.values())) > 1100
    shuffled = suite.model_copy(deep=True).evaluation(kwargs={})
    shuffled.evaluation.envs[1].kwargs["seed"] = 1
    assert sets_of(shuffled)[1].hashes != second.hashes


def test_a_model_is_known_by_what_is_in_its_folder(tmp_path: Path) -> None:
    for name, weights in (("a", b"x" * 100), ("b", b"x" * 100), ("c", b"y" + b"x" * 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "README.md").write_text(name)
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    a, b, c = (model_fingerprint(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    assert model_fingerprint("org/model") == {"id": "org/model"}
