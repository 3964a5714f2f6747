"""`tgpo-ray plan --cluster`: what it prints, its exit status, and the examples of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.paths import YAML
from tgpo_ray import cli
from tgpo_ray.algorithms import TGPOConfig
from tgpo_ray.cli.plan import plan_text
from tgpo_ray.config import ConfigError, load_yaml
from tgpo_ray.costs import parse_cluster, shape_of
from tgpo_ray.costs.cards import cluster_from_dict

PRESET = str(YAML / "paper" / "7b" / "tgpo_annealing.yaml")
PAGE = Path(__file__).resolve().parents[3] / "docs" / "cost_model.md"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


def test_the_plan_on_a_cluster_names_memory_seconds_waits_and_the_best_split(capsys: pytest.CaptureFixture[str]):
    means = ["--mean-prompt", "200", "--mean-response", "3000"]
    assert cli.main(["plan", PRESET, "--cluster", "8xH100-80GB", *means]) == 0
    text = capsys.readouterr().out
    for who in ("learner", "env runner", "teacher default"):
        assert len(re.findall(rf"^ +{who} ", text, flags=re.MULTILINE)) == 3  # memory, as configured, best split
    assert "no checkpointing" in text
    assert text.count("slowest") == 1
    assert "mean prompt 200, mean response 3000 tokens, at most 8192\n" in text
    assert re.search(
        r"learners\.num_learners=\d env_runners\.num_env_runners=\d teachers\.default\.num_replicas=\d", text
    )
    assert "env runner: KV cache of 40.0 GiB = 81 sequences of 9216 tokens\n" in text
    assert "published figures, not measured here" in text
    assert "DOES NOT FIT" not in text


def test_a_mean_that_is_a_guess_is_called_one(capsys: pytest.CaptureFixture[str]):
    cli.main(["plan", PRESET, "--cluster", "8xH100"])
    assert "a mean that is not given is a third of the longest" in capsys.readouterr().out


def test_a_run_that_does_not_fit_exits_with_1_and_says_what_is_too_large(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", PRESET, "--cluster", "4xA100-40GB", "learners.offload=none"]) == 1
    text = capsys.readouterr().out
    assert "DOES NOT FIT: 8 cards needed, 4 x A100-40GB has 4" in text
    assert re.search(r"DOES NOT FIT: learner: \d+\.\d GiB of a card, of which it has 40\.0 GiB", text)


def test_a_cache_of_auto_fills_the_card_and_few_sequences_are_a_warning(capsys: pytest.CaptureFixture[str]):
    cli.main(["plan", PRESET, "--cluster", "8xH200", "env_runners.kv_cache_memory=auto"])
    held = re.search(r"env runner: KV cache of [\d.]+ GiB = (\d+) sequences of 9216 tokens\n", capsys.readouterr().out)
    assert held and int(held[1]) > 200
    cli.main(["plan", PRESET, "--cluster", "8xH200", "env_runners.kv_cache_memory=20GiB"])
    assert "40 sequences of 9216 tokens; WARNING: fewer than a quarter of max_num_seqs = 256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cluster", "8xH900"], "unknown card 'H900'; known: A100-40GB"),
        (["--cluster", "nowhere.yaml"], "nowhere.yaml"),
        (["--cluster", "8xH100", "model.path=no/such"], "no/such: its shape is not known here"),
        (["--cluster", "8xH100", "--mean-response", "9000"], "--mean-response: must be above 0 and at most"),
        (["--mean-response", "9000"], "--mean-response: needs --cluster"),
        (["--shapes", "a.yaml"], "--shapes: needs --cluster"),
    ],
)
def test_what_cannot_be_estimated_exits_with_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", PRESET, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_examples_of_the_page_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shapes, cluster = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert cluster_from_dict(load_yaml(cluster), "page").num_cards == 8
    ((name, facts),) = load_yaml(shapes).items()
    assert shape_of(name, {}, {name: facts}).parameters == pytest.approx(8.2e9, rel=0.01)
    path, other = tmp_path / "shapes.yaml", tmp_path / "cluster.yaml"
    path.write_text(shapes)
    other.write_text(cluster)
    assert parse_cluster(str(other)).card.memory == 48e9
    options = ["--cluster", str(other), "--shapes", str(path), f"model.path={name}"]
    assert cli.main(["plan", PRESET, *options]) in (0, 1)
    assert "2 x 4 x mine" in capsys.readouterr().out
    path.write_text("my/model: 8B\n")
    assert cli.main(["plan", PRESET, *options]) == 2
    assert "my/model: expected the keys of a config.json, got '8B'" in capsys.readouterr().err


def test_the_plan_without_a_cluster_says_how_many_sequences_a_cache_holds():
    config = TGPOConfig().environment("tgpo/Math-v0").models(path="Qwen/Qwen2.5-Math-7B").teachers(path="org/unknown")
    here = plan_text(config, {"CPU": 8.0})
    # 2 * 28 layers * 512 numbers * 4 bytes * 3072 tokens = 336 MiB
    assert "1GiB = 3 sequences of 3072 tokens; WARNING: fewer than a quarter of max_num_seqs = 256" in " ".join(
        here.split()
    )
    assert "not known: the model's config.json is not here" in " ".join(here.split())
    on_cards = " ".join(plan_text(config, {"CPU": 8.0, "GPU": 8.0}).split())
    assert "auto: what is left of its share of the card of 168MiB a sequence of 3072 tokens" in on_cards
    enough = " ".join(plan_text(config.env_runners(kv_cache_memory="40GiB"), {"CPU": 8.0, "GPU": 8.0}).split())
    assert "40GiB = 243 sequences of 3072 tokens" in enough
    with pytest.raises(ConfigError, match="expected bytes"):
        config.env_runners(kv_cache_memory="lots")


@pytest.mark.parametrize(
    "arguments",
    [["plan", "a.yaml", "--means=1"], ["plan", "a.yaml", "--cluster", "x", "word"], ["schema", "TGPO", "a=b"]],
)
def test_overrides_may_follow_options_and_nothing_else_may(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert "unrecognized arguments" in capsys.readouterr().err


SHARED = [
    "model.path=Qwen/Qwen2.5-Math-1.5B", "learners.num_learners=1", "learners.num_gpus_per_learner=0.4",
    "env_runners.num_env_runners=1", "env_runners.num_gpus_per_env_runner=0.6", "env_runners.kv_cache_memory=auto",
    "learners.engine=torch", "learners.zero_stage=0", "learners.offload=none", "learners.gradient_checkpointing=true",
]  # fmt: skip


def test_a_learner_on_a_part_of_a_card_works_in_what_a_sleeping_engine_leaves(capsys: pytest.CaptureFixture[str]):
    """0.4 of 80 GB are too few to work in and enough to rest in; with 0.1 of the card they are not."""
    grpo = str(YAML / "paper" / "1.5b" / "grpo.yaml")

    def shortages(*overrides: str) -> list[str]:
        cli.main(["plan", grpo, "--cluster", "1xH100-80GB", *SHARED, *overrides])
        return re.findall(r"DOES NOT FIT: (learner: .*)", capsys.readouterr().out)

    assert any("39.0 GiB of a card, of which it has 31.8 GiB" in line for line in shortages())
    assert shortages("env_runners.sleep=true") == []
    small = ("learners.num_gpus_per_learner=0.1", "env_runners.num_gpus_per_env_runner=0.9")
    assert any(
        "GiB while engines are awake, and has 8.0 GiB then" in it for it in shortages("env_runners.sleep=true", *small)
    )
