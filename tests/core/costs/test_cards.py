"""Cards, clusters in words and in YAML, and lengths of responses."""

import subprocess
import sys
from pathlib import Path

import pytest

from tgpo_ray.config import ConfigError, dump_yaml
from tgpo_ray.costs import KNOWN_CARDS, parse_cluster, response_lengths

CARD = {"name": "mine", "memory": 16e9, "flops": 1e14, "bandwidth": 1e12, "link": 1e10, "host_link": 1e10}


@pytest.mark.parametrize(
    ("text", "nodes", "cards", "name"),
    [
        ("8xH100-80GB", 1, 8, "H100-80GB"),
        ("8xH100", 1, 8, "H100-80GB"),
        ("2xH200", 1, 2, "H200-141GB"),
        ("2x8xH200-141GB", 2, 8, "H200-141GB"),
        ("2x8xh200", 2, 8, "H200-141GB"),
    ],
)
def test_a_cluster_in_words(text: str, nodes: int, cards: int, name: str):
    cluster = parse_cluster(text)
    assert (cluster.nodes, cluster.cards_per_node, cluster.card.name) == (nodes, cards, name)
    assert cluster.num_cards == nodes * cards


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8xH900-80GB", r"unknown card 'H900-80GB'; known: A100-40GB, .*H100-80GB, .*describe another in a YAML file"),
        ("8xA100", "which A100: A100-40GB or A100-80GB"),
        ("H100", "expected 8xH100-80GB, 2x8xH200 or a YAML file, got 'H100'"),
        ("0xH100", "expected 8xH100-80GB"),
        ("8x", "expected 8xH100-80GB"),
    ],
)
def test_a_cluster_that_is_none_is_refused(text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        parse_cluster(text)


def test_a_cluster_in_yaml_may_describe_its_card_and_rates(tmp_path: Path):
    rates = {"rollout": {"compute": 0.4}, "teacher": {"compute": 0.3}, "learner": {"compute": 0.2, "call_s": 0.001}}
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml({"nodes": 3, "cards_per_node": 4, "card": CARD | {"efficiency": rates}}))
    cluster = parse_cluster(str(path))
    assert (cluster.num_cards, cluster.card.memory, cluster.card.efficiency.learner.call_s) == (12, 16e9, 0.001)
    path.write_text(dump_yaml({"cards_per_node": 2, "card": "H200"}))
    assert parse_cluster(str(path)).card is next(card for card in KNOWN_CARDS if card.name == "H200-141GB")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"card": CARD}, "cards_per_node: required"),
        ({"cards_per_node": 8}, "card: required"),
        ({"cards_per_node": 8, "card": {"name": "mine"}}, "card: memory: required"),
        (
            {"cards_per_node": 8, "card": CARD | {"flops": "fast"}},
            "flops: expected a number that is not negative, got 'fast'",
        ),
        ({"cards_per_node": 8, "card": CARD | {"memroy": 1}}, "unknown key 'memroy'; known: name, memory"),
        (
            {"cards_per_node": 8, "card": CARD | {"efficiency": {"rollout": {}}}},
            r"efficiency.rollout: compute: required",
        ),
        ({"cards": 8}, "unknown key 'cards'"),
    ],
)
def test_a_wrong_key_of_a_cluster_is_named(tmp_path: Path, data: dict, said: str):
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(data))
    with pytest.raises(ConfigError, match=said):
        parse_cluster(str(path))


def test_cards_across_nodes_talk_over_the_network():
    cluster = parse_cluster("2x8xH100")
    assert cluster.link(8) == cluster.card.link
    assert cluster.link(9) == cluster.card.network < cluster.card.link


@pytest.mark.parametrize(("mean", "longest"), [(64, 64), (2731, 8192), (100, 8192), (6000, 8192), (20, 32)])
def test_lengths_have_the_mean_and_stay_below_the_longest(mean: float, longest: int):
    lengths = response_lengths(1024, mean, longest)
    assert sum(lengths) / 1024 == pytest.approx(mean, rel=0.03)
    assert min(lengths) >= 1
    assert max(lengths) <= longest
    # each half of the run has its share: the order is mixed
    assert sum(lengths[:512]) == pytest.approx(sum(lengths[512:]), rel=0.05)


def test_the_arithmetic_needs_neither_ray_nor_torch():
    script = (
        "import sys, tgpo_ray.costs.estimate; print(*sorted({'torch', 'ray', 'vllm', 'transformers'} & {*sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == []
