"""The plan, the JSON schema, and every file under yaml/."""

from pathlib import Path

import jsonschema
import pytest

from tests.paths import YAML
from tgpo_ray.algorithms import GRPOConfig, SFTConfig, TGPOConfig
from tgpo_ray.cli.plan import local_cluster, plan_text
from tgpo_ray.config import ActorDemand, AlgorithmConfig, ConfigError, json_schema, load_file, load_yaml, resource_plan

YAML_FILES = sorted(path for path in YAML.rglob("*.yaml") if not path.is_relative_to(YAML / "studies"))


def tgpo() -> TGPOConfig:
    config = TGPOConfig().environment("tgpo/Math-v0").models(path="org/policy").teachers(path="org/teacher")
    return config.guidance(decay=1e-5)


def test_the_plan_says_who_gets_which_resources():
    config = tgpo().learners(num_learners=2, num_cpus_per_learner=0.5).teachers("maths", path="a/b", num_replicas=2)
    assert resource_plan(config, gpus=True) == [
        ActorDemand("learner", "learners", 2, 0.5, 1.0),
        ActorDemand("env runner", "env_runners", 1, 1.0, 1.0),
        ActorDemand("teacher default", "teachers.default", 1, 1.0, 1.0),
        ActorDemand("teacher maths", "teachers.maths", 2, 1.0, 1.0),
    ]
    assert all(row.gpus == 0.0 for row in resource_plan(config, gpus=False))


def test_a_reference_takes_resources_where_the_loss_has_a_kl_term():
    config = GRPOConfig().reference(num_replicas=2, num_cpus_per_replica=0.5)
    assert "reference" not in [row.kind for row in resource_plan(config, gpus=False)]
    rows = resource_plan(config.training(kl_weight=0.1), gpus=True)
    assert rows[-1] == ActorDemand("reference", "reference", 2, 0.5, 1.0)
    assert config.models(path="a/b").facts()["reference"] == "a/b, frozen, called in every iteration"


def test_sft_starts_runners_only_to_evaluate():
    assert [row.kind for row in resource_plan(SFTConfig(), gpus=False)] == ["learner"]
    evaluated = SFTConfig().evaluation(envs=[{"id": "tgpo/Math-v0"}])
    assert [row.kind for row in resource_plan(evaluated, gpus=False)] == ["learner", "env runner"]


def test_the_plan_text_holds_config_resources_and_step():
    text = plan_text(tgpo(), {"CPU": 8.0, "GPU": 2.0})
    assert load_yaml(text[: text.index("Resources")]) == tgpo().resolved(gpus=True).to_dict()
    assert "3 of 8" in text
    assert "3 of 2" in text
    assert "128 groups x 8 = 1024 episodes" in text
    assert "last called in iteration 200 of 300" in text


def test_the_plan_bounds_tokens_and_denominators():
    config = (
        tgpo().env_runners(max_prompt_tokens=100, max_response_tokens=400).learners(token_budget=1000, num_learners=2)
    )
    facts = config.facts()
    assert facts["denominator Z"].endswith("at most 204,800")  # 1024 episodes / 2 updates x 400 tokens
    assert facts["tokens"] == "at most 512,000 (409,600 of them responses)"
    assert facts["micro-batches"].startswith("128 ")  # 512 episodes / 2 learners / 2 that fit in 1000 tokens


def test_the_plan_of_sft_counts_rows():
    facts = SFTConfig().evaluation(every=5, envs=[{"id": "tgpo/Math-v0"}]).facts()
    assert facts["iterations"] == "3 epochs of the data"
    assert facts["evaluation"] == "Math: at the start, every 5 iterations, at the end"
    assert "teacher" not in facts


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        ({"weight": 0.0, "decay": 0.0}, "never called: guidance.weight is 0"),
        ({"decay": 0.0}, "called in all 300 iterations"),
        ({"decay": 1e-5}, "last called in iteration 200 of 300; then w = 0 and its resources return"),
        ({"decay": 1e-5, "minimum": 1e-4}, "called in all 300 iterations"),
        ({"decay": 0.0, "schedule": "cosine"}, "called in all 300 iterations"),
    ],
)
def test_the_plan_says_when_the_teacher_leaves(guidance: dict, said: str):
    assert tgpo().guidance(**guidance).facts()["teacher"] == said


def test_a_local_cluster_counts_what_the_config_says():
    assert local_cluster(tgpo().ray(num_cpus=5)) == {"CPU": 5.0}
    assert local_cluster(tgpo())["CPU"] >= 1.0


@pytest.mark.parametrize("config", [tgpo(), GRPOConfig(), SFTConfig().evaluation(envs=[{"id": "a"}])])
def test_the_schema_takes_what_the_models_take(config: AlgorithmConfig):
    for data in (config.to_dict(), config.resolved(gpus=False).to_dict()):
        jsonschema.validate({**data, "model": {**data["model"], "path": "a"}}, json_schema())
        jsonschema.validate(data, json_schema(config.algorithm))


def test_the_schema_takes_the_shorthand_and_units():
    data = {"algorithm": "TGPO", "teacher": {"path": "a", "kv_cache_memory": "40GiB"}, "env": {"id": "x"}}
    jsonschema.validate(data, json_schema())


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"algorithm": "tgpo"},
        {"algorithm": "GRPO", "guidance": {}},
        {"algorithm": "TGPO", "training": {"lrr": 1}},
        {"algorithm": "TGPO", "training": {"lr": "abc"}},
        {"algorithm": "TGPO", "teacher": {}},
        {"algorithm": "TGPO", "env_runners": {"kv_cache_memory": "much"}},
        {"algorithm": "SFT", "training": {"group_size": 2}},
    ],
)
def test_the_schema_refuses_what_the_models_refuse(data: dict):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema())


def test_every_key_of_the_schema_is_described():
    for name in ("TGPO", "GRPO", "SFT"):
        schema = json_schema(name)
        for model in (schema, *schema["$defs"].values()):
            for key, value in model.get("properties", {}).items():
                assert value.get("description"), f"{model.get('title')}.{key}"


def test_the_schema_of_an_unknown_algorithm_is_refused():
    with pytest.raises(ConfigError, match="algorithm: unknown 'XX'"):
        json_schema("XX")


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_every_yaml_file_loads_breaks_no_rule_and_fits_the_schema(path: Path):
    config = AlgorithmConfig.from_yaml(path)
    assert config.problems(files=False) == []
    assert AlgorithmConfig.from_dict(config.to_dict()) == config
    jsonschema.validate(load_file(path), json_schema())
