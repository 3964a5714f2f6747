"""The output of `tgpo-ray plan --cluster`: memory of each actor, seconds of each stage, and the best split."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tgpo_ray.cli.plan import counted_text
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.costs import (
    CARD_SHARE,
    Actor,
    Engines,
    Estimate,
    Learners,
    Memory,
    estimate,
    fits,
    parse_cluster,
    shapes_from_file,
)

GIB = 2**30
PARTS = ("weights", "gradients", "optimizer", "activations", "kv_cache", "logits")


def plan_on_cluster(
    config: AlgorithmConfig,
    cluster: str,
    console: Console,
    *,
    mean_prompt: float | None = None,
    mean_response: float | None = None,
    shapes: str | None = None,
) -> int:
    """Prints the estimate and returns 0, or 1 where the run does not fit the cluster."""
    found = estimate(
        config,
        parse_cluster(cluster),
        mean_prompt=mean_prompt,
        mean_response=mean_response,
        shapes=shapes_from_file(shapes) if shapes else None,
    )
    given = mean_prompt is not None and mean_response is not None
    console.print(render_estimate(found, means_given=given))
    return 1 if list(shortages(found)) else 0


def render_estimate(found: Estimate, *, means_given: bool) -> Group:
    """Returns the tables and what they do not say. Nothing in them is measured on the cluster."""
    lines = [
        *(f"DOES NOT FIT: {line}" for line in shortages(found)),
        *(f"{actor.kind}: KV cache of {_held(actor)}" for actor in found.actors if _has_cache(actor)),
        f"Rates: {found.cluster.card.efficiency.source}. Peaks: {found.cluster.card.source}.",
    ]
    batch = found.batch
    lengths = (
        f"mean prompt {batch.prompt:.0f}, mean response {batch.response:.0f} tokens, at most {batch.longest_response}"
        + ("" if means_given else "; a mean that is not given is a third of the longest")
    )
    parts = [memory_table(found), "", seconds_table(found), Text(lengths), "", *split(found)]
    return Group(*parts, "", *(Text(line) for line in lines))


def shortages(found: Estimate) -> Iterator[str]:
    """Yields what the cluster lacks for the configuration as it is."""
    needed, there = found.cards(found.counts), found.cluster.num_cards
    if needed > there + 1e-6:
        yield f"{needed:g} cards needed, {found.cluster.text} has {there}"
    for actor in found.actors:
        if not fits(actor, actor.count, found.cluster):
            total, room = actor.memory(actor.count).on_card, _room(actor, found)
            yield f"{actor.kind}: {_gib(total)} GiB of a card, of which it has {_gib(room)} GiB"
            if isinstance(actor, Learners) and actor.lent:
                kept, place = actor.rests_in(actor.count)
                yield f"{actor.kind}: keeps {_gib(kept)} GiB while engines are awake, and has {_gib(place)} GiB then"
        if isinstance(actor, Engines) and actor.tensor_parallel_size > found.cluster.cards_per_node:
            yield f"{actor.kind}: tensor_parallel_size {actor.tensor_parallel_size} spans more than a node"


def memory_table(found: Estimate) -> Table:
    """Returns GiB on a card of each kind of actor; of learners also with the other choice of checkpointing."""
    title = f"Memory on a card of {found.cluster.text}, GiB ({CARD_SHARE:.0%} of a card is planned for)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("who", overflow="fold")
    for name in ("weights", "grads", "optim.", "activ.", "KV", "logits", "total", "of", "host"):
        table.add_column(name, justify="right", no_wrap=True)  # 80 columns have room for all
    for actor in found.actors:
        for who, memory in _memories(actor):
            cells = [_gib(getattr(memory, part)) for part in PARTS]
            table.add_row(who, *cells, _gib(memory.on_card), _gib(_room(actor, found)), _gib(memory.host))
    return table


def _memories(actor: Actor) -> Iterator[tuple[str, Memory]]:
    yield actor.kind, actor.memory(actor.count)
    if isinstance(actor, Learners):
        other = not actor.checkpointing
        label = "  checkpointing" if other else "  no checkpointing"
        yield label, actor.memory_with(actor.count, checkpointing=other)


def seconds_table(found: Estimate) -> Table:
    """Returns the seconds of each kind in an iteration, and the share of it in which the kind waits."""
    batch, timing = found.batch, found.timing(found.counts)
    title = f"One iteration as configured: {batch.groups} groups x {batch.group_size}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_footer=True)
    table.add_column(
        "who", footer=f"iteration (max_staleness {found.max_staleness}), weight sync {_seconds(timing.sync)} s"
    )
    table.add_column("actors", justify="right")
    table.add_column("cards", justify="right", footer=f"{found.cards(found.counts):g}")
    table.add_column("seconds", justify="right", footer=_seconds(timing.iteration))
    table.add_column("waits", justify="right")
    table.add_column("")
    for index, (actor, seconds, waits) in enumerate(zip(found.actors, timing.stages, timing.waits(), strict=True)):
        cells = (str(actor.count), f"{actor.count * actor.cards:g}", _seconds(seconds), f"{waits:.0%}")
        table.add_row(actor.kind, *cells, "slowest" if index == timing.slowest else "")
    return table


def split(found: Estimate) -> list[Table | Text]:
    """Returns the numbers of actors with the shortest iteration on all cards, and the overrides that set them."""
    counts = found.balanced()
    if counts is None:
        return [Text("No split of the cards fits: raise tensor_parallel_size, offload, or lower kv_cache_memory.")]
    timing = found.timing(counts)
    title = f"Best split: {_seconds(timing.iteration)} s on {found.cards(counts):g} cards"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("who", "actors", "cards", "seconds", "waits"):
        table.add_column(name, justify="left" if name == "who" else "right")
    for actor, count, seconds, waits in zip(found.actors, counts, timing.stages, timing.waits(), strict=True):
        table.add_row(actor.kind, str(count), f"{count * actor.cards:g}", _seconds(seconds), f"{waits:.0%}")
    return [table, Text(" ".join(f"{actor.keys}={count}" for actor, count in zip(found.actors, counts, strict=True)))]


def _has_cache(actor: Actor) -> bool:
    return isinstance(actor, Engines) and actor.kv_cache is not None


def _held(actor: Actor) -> str:
    assert isinstance(actor, Engines)
    cache = actor.memory(actor.count).kv_cache * actor.tensor_parallel_size
    tokens = actor.batch.longest
    return f"{_gib(cache)} GiB = {counted_text(actor.held(tokens), tokens, actor.max_num_seqs)}"


def _room(actor: Actor, found: Estimate) -> float:
    share = actor.share if isinstance(actor, Engines | Learners) else min(1.0, actor.cards)
    return min(1.0, share) * found.cluster.card.memory


def _gib(count: float) -> str:
    return f"{count / GIB:.1f}"


def _seconds(count: float) -> str:
    return f"{count:.0f}" if count >= 10 else f"{count:.2g}"
