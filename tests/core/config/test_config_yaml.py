"""YAML as YAML 1.2 reads it, overrides by the same rules, and what is said of a file that cannot be read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import yaml
from tgpo_ray.algorithms import GRPOConfig, TGPOConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError, dump_yaml, load_file, load_yaml

TGPO_FILE = """\
algorithm: TGPO
model: {path: org/policy}
teacher: {path: org/teacher}
env: {id: tgpo/Math-v0, kwargs: {path: rows.jsonl}}
training: {lr: 1e-6}
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E6", 1e6),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("012", 12),
        ("0o14", 12),
        ("0xff", 255),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-05-06", "2024-05-06"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("'1e-6'", "1e-6"),
        ("<think>", "<think>"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_a_scalar_is_read_as_yaml_1_2_reads_it(text: str, value: object):
    read = load_yaml(f"key: {text}")["key"]
    assert read == value
    assert type(read) is type(value)


@given(
    st.dictionaries(
        st.text(min_size=1),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=6,
        ),
    )
)
def test_what_is_dumped_is_read_back_unchanged(data: dict):
    assert load_yaml(dump_yaml(data)) == data


@pytest.mark.parametrize("value", [1e-6, 1e22, 3.0, "no", "1e-6", "012", "null", "", "1:30", True])
def test_readers_of_yaml_1_1_take_the_dump_back_too(value: object):
    read = yaml.safe_load(dump_yaml({"key": value}))["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nmodel: {}\nseed: 2\n", "x.yaml:3: key 'seed' stands twice, first on line 1: delete one"),
        ("a:\n\tb: 1\n", "x.yaml:2: a tab cannot indent YAML: use spaces"),
        ("a: [1, 2\nb: 3\n", "x.yaml:2: expected ',' or ']'"),
        ("a: !!python/name:os.system\n", "x.yaml:1: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: but found another document"),
        ("1: x\n", "x.yaml:1: keys are text, got 1"),
        ("", "x.yaml: expected sections such as `algorithm:` and `model:`, got nothing"),
        ("- a\n", "x.yaml: expected sections such as `algorithm:` and `model:`, got ['a']"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, monkeypatch, text: str, message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_file("x.yaml")
    assert str(caught.value).startswith(message)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_file(tmp_path / "nowhere.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"x\.yaml: cannot be read"):
        load_file(tmp_path / "x.yaml")


def load(tmp_path, *overrides: str, text: str = TGPO_FILE, cls: type[AlgorithmConfig] = AlgorithmConfig):
    path = tmp_path / "my_run.yaml"
    path.write_text(text)
    return cls.from_yaml(path, overrides=overrides)


def test_the_file_says_which_class_is_made_and_names_the_run(tmp_path):
    config = load(tmp_path)
    assert type(config) is TGPOConfig
    assert config.name == "my_run"
    assert config.training.lr == 1e-6
    assert config.teachers["default"].path == "org/teacher"
    assert config.envs[0].kwargs == {"path": "rows.jsonl"}


def test_shorthand_and_full_form_are_equal(tmp_path):
    full = TGPO_FILE.replace("teacher: {path: org/teacher}", "teachers: {default: {path: org/teacher}}")
    full = full.replace("env: {id", "envs: [{id").replace("rows.jsonl}}", "rows.jsonl}}]")
    assert load(tmp_path) == load(tmp_path, text=full)


def test_both_forms_at_once_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="teacher: `teachers` is given too"):
        load(tmp_path, text=TGPO_FILE + "teachers: {default: {path: x/y}}\n")


def test_an_empty_section_means_its_defaults(tmp_path):
    assert load(tmp_path, text=TGPO_FILE + "reporting:\nlearners: null\n") == load(tmp_path)


def test_overrides_reach_sections_lists_and_shorthand(tmp_path):
    config = load(
        tmp_path,
        "training.lr=1e-4",
        "teacher.path=org/other",
        "env.kwargs.path=more.jsonl",
        "envs.0.weight=2",
        "model.hf_overrides={max_position_embeddings: 64}",
        "env_runners.stop=['</s>', no]",
        "env_runners.kv_cache_memory=512MiB",
        "training.betas=[0.9, 0.95]",
        "reporting.wandb=012x=y",
    )
    assert isinstance(config, TGPOConfig)
    assert config.training.lr == 1e-4
    assert config.teachers["default"].path == "org/other"
    assert config.envs[0].kwargs == {"path": "more.jsonl"}
    assert config.envs[0].weight == 2.0
    assert config.model.hf_overrides == {"max_position_embeddings": 64}
    assert config.env_runners.stop == ["</s>", "no"]
    assert config.env_runners.kv_cache_memory == 512 * 2**20
    assert config.training.betas == (0.9, 0.95)
    assert config.reporting.wandb == "012x=y"


def test_a_section_can_be_dropped_to_run_another_algorithm(tmp_path):
    config = load(tmp_path, "algorithm=GRPO", "teacher=null")
    assert type(config) is GRPOConfig


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr", "override 'training.lr': expected key=value, as training.lr=1e-4"),
        ("training..lr=1", "override 'training..lr=1': the key has an empty part"),
        ("training.lr=[1", "override 'training.lr=[1': expected ',' or ']'"),
        ("seed.x=1", "seed: expected a whole number, got {'x': 1}"),
        ("model.path.x=1", "override model.path.x: model.path is 'org/policy', which has no keys"),
        ("envs.3.id=x", "override envs.3.id: envs is a list of 1, counted from 0, got '3'"),
        ("envs.first.id=x", "override envs.first.id: envs is a list of 1, counted from 0, got 'first'"),
        ("training.lr=abc", "training.lr: expected a number, got 'abc'"),
        ("training.learning_rate=1e-4", "training.learning_rate: unknown key; did you mean 'training.lr'?"),
        ("algorithm=TGP0", "algorithm: unknown 'TGP0'; did you mean 'TGPO'?"),
    ],
)
def test_a_wrong_override_is_explained(tmp_path, override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, override)
    assert message in str(caught.value)


# ---- anchors and merge keys


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{b: &b {x: 1, y: 2}, m: {<<: *b, y: 3}}", {"b": {"x": 1, "y": 2}, "m": {"x": 1, "y": 3}}),
        ("{b: &b {x: 1}, m: {y: 3, <<: *b}}", {"b": {"x": 1}, "m": {"y": 3, "x": 1}}),
        ("{b: &b {x: 1}, c: &c {x: 2, y: 2}, m: {<<: [*b, *c]}}",
         {"b": {"x": 1}, "c": {"x": 2, "y": 2}, "m": {"x": 1, "y": 2}}),
        ("{b: &b {x: 1}, m: &m {<<: *b, x: 2}, t: {<<: *m}}", {"b": {"x": 1}, "m": {"x": 2}, "t": {"x": 2}}),
        ("{t: {<<: &m {<<: &b {x: 1}, x: 2}}, u: *m}", {"t": {"x": 2}, "u": {"x": 2}}),
        ("'<<': 1", {"<<": 1}),
    ],
)  # fmt: skip
def test_merge_keys_take_the_keys_of_other_mappings(text: str, value: object):
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{b: &b {x: 1}, m: {<<: *b, x: 2, x: 3}}", "key 'x' stands twice, first on line 1: delete one"),
        ("{b: &b {x: 1}, m: {<<: *b, <<: *b}}",
         "key '<<' stands twice, first on line 1: write one, `<<: [*first, *second]`"),
        ("m: {<<: 3}", "<< takes a mapping or a list of mappings, as `<<: *anchor`"),
        ("m: {<<: [3]}", "<< takes a mapping or a list of mappings, as `<<: *anchor`"),
        ("m: &m {x: *m}", "*m stands within &m, so that it would contain itself"),
        ("m: &m {<<: *m}", "*m stands within &m, so that it would contain itself"),
        ("m: &m [1, [*m]]", "*m stands within &m, so that it would contain itself"),
    ],
)  # fmt: skip
def test_a_wrong_merge_is_named(text: str, problem: str):
    with pytest.raises(ConfigError) as error:
        load_yaml(text, "run.yaml")
    assert str(error.value) == f"run.yaml:1: {problem}"


def test_an_x_section_holds_what_anchors_name_and_an_override_changes_one_place(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "x-math: &math {id: tgpo/Math-v0, kwargs: &rows {path: rows.jsonl}}\n"
        "algorithm: GRPO\nmodel: {path: org/policy}\nenvs:\n- <<: *math\n  weight: 2.0\n"
        "- {<<: *math, kwargs: *rows}\n"
    )
    config = AlgorithmConfig.from_yaml(file, ["envs.0.kwargs.path=other.jsonl"])
    assert [env.kwargs for env in config.envs] == [{"path": "other.jsonl"}, {"path": "rows.jsonl"}]
    assert [env.weight for env in config.envs] == [2.0, 1.0]
    assert AlgorithmConfig.from_dict(load_yaml(config.to_yaml())) == config
