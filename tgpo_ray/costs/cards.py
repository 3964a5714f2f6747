"""Cards and clusters: memory, arithmetic and bandwidths from data sheets, and what stages reach of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tgpo_ray.config import ConfigError, load_file

GB, TB, TFLOPS, GIB = 1e9, 1e12, 1e12, 2**30


@dataclass(frozen=True)
class Rates:
    """What one stage reaches of a card's peak.

    seconds = FLOPs / (compute * peak) + bytes / (bandwidth * peak) + elementwise * activation bytes / peak
              + call_s * calls + item_s * items
    """

    compute: float  # share of the peak FLOP/s
    bandwidth: float = 1.0  # share of the peak bytes/s
    elementwise: float = 0.0  # passes over the activations beside the matrix products; 0: `compute` includes them
    call_s: float = 0.0  # seconds of a call: an engine's step, a layer of a micro-batch
    item_s: float = 0.0  # seconds of an item: a token that is sampled, a sequence that is scored


@dataclass(frozen=True)
class Efficiency:
    """The rates of the three stages, and where they come from."""

    rollout: Rates
    teacher: Rates
    learner: Rates
    link: float = 0.8  # share of a link's peak bytes/s
    source: str = ""


# Shares of the peak that others have published; docs/cost_model.md has what was read from where.
PUBLISHED = Efficiency(
    rollout=Rates(compute=0.5, bandwidth=0.7),
    teacher=Rates(compute=0.5, bandwidth=0.7),
    learner=Rates(compute=0.5, bandwidth=0.7),
    source="published figures, not measured here",
)


@dataclass(frozen=True)
class Card:
    """One accelerator, or one core of a CPU machine. Peaks are those of the data sheet, without sparsity."""

    name: str
    memory: float  # bytes
    flops: float  # FLOP/s of dense bfloat16 products; on a CPU of float32 products
    bandwidth: float  # bytes/s of the card's memory
    link: float  # bytes/s to another card of the node, one direction
    host_link: float  # bytes/s between the card and the host's memory, one direction
    network: float = 50 * GB  # bytes/s to another node, one direction: a 400 Gbit/s adapter for each card
    device: str = "gpu"
    source: str = ""
    efficiency: Efficiency = field(default=PUBLISHED)


# `memory` is what the driver reports, the name has what is sold.
# PCIe 4 and 5 x16 move 32 and 64 GB/s in one direction. NVLink's data sheets add up both directions.
KNOWN_CARDS: tuple[Card, ...] = (
    Card("A100-40GB", 40 * GIB, 312 * TFLOPS, 1.555 * TB, 300 * GB, 32 * GB, source="NVIDIA A100 data sheet, SXM"),
    Card("A100-80GB", 80 * GIB, 312 * TFLOPS, 2.039 * TB, 300 * GB, 32 * GB, source="NVIDIA A100 data sheet, SXM"),
    Card("L40S-48GB", 45 * GIB, 362 * TFLOPS, 0.864 * TB, 32 * GB, 32 * GB, source="NVIDIA L40S data sheet"),
    Card("H100-80GB", 79.6 * GIB, 989 * TFLOPS, 3.35 * TB, 450 * GB, 64 * GB, source="NVIDIA H100 data sheet, SXM"),
    Card("H200-141GB", 140.4 * GIB, 989 * TFLOPS, 4.8 * TB, 450 * GB, 64 * GB, source="NVIDIA H200 data sheet, SXM"),
    Card("B200-180GB", 179 * GIB, 2250 * TFLOPS, 8.0 * TB, 900 * GB, 64 * GB, source="NVIDIA DGX B200 data sheet"),
)


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal cards."""

    nodes: int
    cards_per_node: int
    card: Card
    host_memory: float | None = None  # bytes of a node, for offloaded weights and optimizer; None: not known

    @property
    def num_cards(self) -> int:
        return self.nodes * self.cards_per_node

    @property
    def text(self) -> str:
        nodes = f"{self.nodes} x " if self.nodes > 1 else ""
        return f"{nodes}{self.cards_per_node} x {self.card.name}"

    def link(self, num_cards: int) -> float:
        """Returns the bytes/s between `num_cards` neighbouring cards: the network's where they span nodes."""
        return self.card.link if num_cards <= self.cards_per_node else min(self.card.link, self.card.network)


def parse_cluster(text: str) -> Cluster:
    """Returns the cluster of `8xH100-80GB`, `2x8xH200` (nodes x cards x card), or of a YAML file.

    Raises:
        ConfigError: no such form, card or file. The message has the known cards.
    """
    if text.endswith((".yaml", ".yml")):
        return cluster_from_dict(load_file(text), text)
    match = re.fullmatch(r"(?:(\d+)x)?(\d+)x([A-Za-z]\S*)", text)
    if match is None or 0 in (int(match[1] or 1), int(match[2])):
        raise ConfigError([f"--cluster: expected 8xH100-80GB, 2x8xH200 or a YAML file, got {text!r}"])
    return Cluster(int(match[1] or 1), int(match[2]), known_card(match[3]))


def known_card(name: str) -> Card:
    """Returns the card called `name`; the memory may be left out where one size is known. ConfigError for another."""
    found = [card for card in KNOWN_CARDS if name.lower() in (card.name.lower(), card.name.partition("-")[0].lower())]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError([f"--cluster: which {name}: {' or '.join(card.name for card in found)}?"])
    known = ", ".join(card.name for card in KNOWN_CARDS)
    raise ConfigError([f"--cluster: unknown card {name!r}; known: {known}; describe another in a YAML file"])


def cluster_from_dict(data: Mapping[str, Any], where: str) -> Cluster:
    """Returns the cluster that a mapping describes, as docs/cost_model.md shows one. ConfigError for a wrong key."""
    _check_keys(data, Cluster, where)
    card = data.get("card")
    if isinstance(card, Mapping):
        _check_keys(card, Card, f"{where}: card")
        rates = card.get("efficiency")
        card = _made(Card, {**card, "efficiency": _efficiency(rates, where) if rates else PUBLISHED}, f"{where}: card")
    elif isinstance(card, str):
        card = known_card(card)
    else:
        raise ConfigError([f"{where}: card: required: a name, or a map with memory, flops, bandwidth and links"])
    return _made(Cluster, {"nodes": 1, **data, "card": card}, where)


def _efficiency(data: Mapping[str, Any], where: str) -> Efficiency:
    _check_keys(data, Efficiency, f"{where}: efficiency")
    stages = {}
    for stage in ("rollout", "teacher", "learner"):
        _check_keys(data.get(stage, {}), Rates, f"{where}: efficiency.{stage}")
        stages[stage] = _made(Rates, data.get(stage, {}), f"{where}: efficiency.{stage}")
    return Efficiency(**{**data, **stages})


def _check_keys(data: Any, kind: type, where: str) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError([f"{where}: expected a map, got {data!r}"])
    known = [each.name for each in fields(kind)]
    unknown = [f"{where}: unknown key {key!r}; known: {', '.join(known)}" for key in data if key not in known]
    if unknown:
        raise ConfigError(unknown)


def _made(kind: type, data: Mapping[str, Any], where: str) -> Any:
    problems = []
    for each in fields(kind):
        value = data.get(each.name)
        if each.name not in data and each.default is each.default_factory:  # both are MISSING: the key is required
            problems.append(f"{where}: {each.name}: required")
        elif each.name in data and str(each.type) in ("float", "int") and not _is_positive(value):
            problems.append(f"{where}: {each.name}: expected a number that is not negative, got {value!r}")
    if problems:
        raise ConfigError(problems)
    return kind(**data)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def shapes_from_file(path: str) -> dict[str, Any]:
    """Returns the config.json facts by model from a YAML file of `--shapes`. ConfigError where a value is no map."""
    data = load_file(Path(path))
    wrong = [
        f"{path}: {name}: expected the keys of a config.json, got {it!r}"
        for name, it in data.items()
        if not isinstance(it, dict)
    ]
    if wrong:
        raise ConfigError(wrong)
    return dict(data)
