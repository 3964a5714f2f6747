"""`tgpo/LookupChain-v0`: chains of look-ups in tables of which a base policy knows a part and a teacher all."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Problem, SingleTurnEnv
from .boxed import last_boxed
from .hints import check_choice
from .lookup_tables import POLICY, ROLES, STATES, TABLES, TEACHERS, LookupTables
from .options import Options, takes
from .verdict import CORRECT, UNPARSABLE, WRONG, Verdict

SPLITS = ("train", "validation", "test")
HELD_OUT = {0: "test", 1: "validation"}  # by remainder: one chain in eight each
SPLIT_BY = 8
UNSEEN, _ = UNKNOWN = ("unseen", "random")
USES = ("all", "known", "unknown")
MAX_LENGTH = 64
MAX_PROBLEMS = 2**20
MAX_DRAWS = 10_000  # of a chain for one problem, until it is of the right split and new


@dataclass(frozen=True, kw_only=True)
class LookupChainOptions(Options):
    """Options of `tgpo/LookupChain-v0`.

    Raises:
        ValueError: for a value outside its range.
    """

    states: int = 20
    """Number of states, 2 to 26: the letters from `a`."""
    tables: int = 16
    """Number of tables, 1 to 26: the letters from `A`. Each maps every state to another, as a permutation."""
    length: int = 8
    """Look-ups of a chain, 1 to 64."""
    num_problems: int | None = None
    """How many different problems there are. null: without end; then a problem may occur twice."""
    split: str = "train"
    """`train`, `validation` or `test`. No chain is in two of them, whatever the seeds."""
    use: str = "all"
    """Tables that occur in problems: `all`, or those that the base policy knows (`known`) or does not know (`unknown`).
    """
    seed: int = 0
    """Which sequence of problems the indices address."""
    world: int = 0
    """Which tables. Models that were made for one world know nothing of another."""
    known: float = 0.5
    """The share of the tables, from `A` on, that the policy of `tgpo-ray make-models` knows."""
    unknown: str = "unseen"
    """What that policy has learned of the other tables: nothing (`unseen`), or to write any state after them, all
    equally likely (`random`)."""
    teacher: str = "exact"
    """What the teacher of `tgpo-ray make-models` knows: all tables (`exact`); all, with look-ups that go wrong at
    random (`noisy`), so that what it holds most likely is right; all but a part of what the policy knows, where it is
    sure of a wrong state (`mistaken`)."""
    error_share: float = 0.25
    """Of a noisy teacher the share of look-ups that go wrong. Of a mistaken one the share of the entries of the known
    tables that it has wrong."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole("states", self.states, 2, len(STATES))
        _check_whole("tables", self.tables, 1, len(TABLES))
        _check_whole("length", self.length, 1, MAX_LENGTH)
        if self.num_problems is not None:
            _check_whole("num_problems", self.num_problems, 1, MAX_PROBLEMS)
        for name, allowed in (("split", SPLITS), ("use", USES), ("teacher", TEACHERS)):
            check_choice(name, getattr(self, name), allowed)
        for name in ("known", "error_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)!r}: it is a share")
        if self.used_tables == []:
            raise ValueError(f"use: {self.use!r} leaves no table: {self.num_known} of {self.tables} are known")

    @property
    def num_known(self) -> int:
        """How many tables the base policy knows."""
        return round(self.known * self.tables)

    @property
    def used_tables(self) -> list[int]:
        """The tables that occur in problems."""
        known = self.num_known
        return list({"all": range(self.tables), "known": range(known), "unknown": range(known, self.tables)}[self.use])

    def lookup_tables(self) -> LookupTables:
        return LookupTables(
            self.states, self.tables, self.world, self.num_known, self.teacher, self.error_share
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chain:
    """A first state and the tables in which the next ones are looked up."""

    start: int
    tables: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """`From f by B A D:`. Every symbol is a word, so that tokenizers give it a token of its own."""
        return f"From {STATES[self.start]} by {' '.join(TABLES[table] for table in self.tables)}:"


class LookupChainEnv(SingleTurnEnv):
    r"""Prompts such as `From f by B A:`; right is a response whose last `\boxed{}` holds the last state.

    The worked solution ` B g A k \boxed{ k }` writes each table and the state that it leads to. What is not known is
    local: what comes after any state in a table, on the right path and off it. Problem i depends only on the arguments
    (`LookupChainOptions` lists them) and on i. A guess is right once in `states` times.
    """

    @takes(LookupChainOptions)
    def __init__(self, options: LookupChainOptions) -> None:
        super().__init__()
        self.options, self.tables = options, options.lookup_tables()
        self.num_problems = options.num_problems
        self._chains = None if self.num_problems is None else _different_chains(options, self.num_problems)

    def chain(self, index: int) -> Chain:
        """The first state and the tables of problem `index`."""
        return self._chains[index] if self._chains is not None else _drawn(self.options, f"{index}")

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """The prompt and the last state."""
        chain = self.chain(index)
        return Problem(chain.prompt, STATES[self._path(chain)[-1]], extra={"chain": chain})

    def gold_response(self, index: int) -> str:
        """The worked solution."""
        chain = self.chain(index)
        return _written(chain, self._path(chain))

    def lesson(self, role: str, index: int) -> tuple[str, str | Sequence[tuple[str, bool]]]:
        """A chain as the base policy (`policy`) or the teacher would work it out, for supervised training.

        Lessons use all tables and are drawn apart from the problems. After a wrong state they go on from it. With
        `unknown: unseen` the policy does not learn the states after tables that it does not know, it reads them.
        """
        check_choice("role", role, ROLES)
        options, draw = self.options, random.Random(f"lesson/{role}/{self.options.seed}/{index}")
        chain = Chain(draw.randrange(options.states), tuple(draw.choices(range(options.tables), k=options.length)))
        path, state = [], chain.start
        for table in chain.tables:
            state = self.tables.believed(role, table, state, draw)
            path.append(state)
        if role == POLICY and options.unknown == UNSEEN:
            return chain.prompt, self._without_unknown(chain, path)
        return chain.prompt, _written(chain, path)

    def _without_unknown(self, chain: Chain, path: Sequence[int]) -> list[tuple[str, bool]]:
        """The pieces of `_written`, each with whether it is learned."""
        pieces: list[tuple[str, bool]] = []
        for table, state in zip(chain.tables, path, strict=True):
            pieces += [(f" {TABLES[table]}", True), (f" {STATES[state]}", self.tables.knows(table))]
        return [*pieces, (_boxed(path), True)]

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Compares the last state alone. The parts say how many look-ups are right, each from the state before it."""
        answer, parts = last_boxed(response), self._shares(problem.extra["chain"], response)
        if answer is None:
            return Verdict(0.0, UNPARSABLE, detail="no complete \\boxed{} in the response", parts=parts)
        answer = answer.strip()
        if answer == problem.answer:
            return Verdict(1.0, CORRECT, extracted=answer, parts={"accuracy": 1.0, **parts})
        return Verdict(0.0, WRONG, extracted=answer[:200], parts={"accuracy": 0.0, **parts})  # it may hold megabytes

    def _path(self, chain: Chain) -> list[int]:
        """The right states after each look-up."""
        path, state = [], chain.start
        for table in chain.tables:
            state = self.tables.right[table][state]
            path.append(state)
        return path

    def _shares(self, chain: Chain, response: str) -> dict[str, float]:
        """The share of look-ups that are right, of tables that the base policy knows and of the others.

        1.0 where the chain has none of a kind. Words that are not where the worked solution has them count as wrong.
        """
        words = response[: 8 * MAX_LENGTH].split()
        right: dict[str, list[bool]] = {"known": [], "unknown": []}
        before = STATES[chain.start]
        for step, table in enumerate(chain.tables):
            name, after = [*words[2 * step : 2 * step + 2], "", ""][:2]
            follows = len(before) == 1 and before in STATES[: self.options.states]
            expected = STATES[self.tables.right[table][STATES.index(before)]] if follows else None
            kind = "known" if self.tables.knows(table) else "unknown"
            right[kind].append(name == TABLES[table] and after == expected)
            before = after
        return {kind: sum(each) / len(each) if each else 1.0 for kind, each in right.items()}


def _written(chain: Chain, path: Sequence[int]) -> str:
    steps = [f" {TABLES[table]} {STATES[state]}" for table, state in zip(chain.tables, path, strict=True)]
    return f"{''.join(steps)}{_boxed(path)}"


def _boxed(path: Sequence[int]) -> str:
    return f" \\boxed{{ {STATES[path[-1]]} }}"


@functools.lru_cache(maxsize=16)  # the instances of a runner share theirs
def _different_chains(options: LookupChainOptions, count: int) -> tuple[Chain, ...]:
    """The first `count` chains that differ; with more problems the first ones stay the same."""
    chains: dict[Chain, None] = {}
    for index in range(count):
        for again in range(MAX_DRAWS):
            chain = _drawn(options, f"{index}/{again}" if again else f"{index}")
            if chain not in chains:
                chains[chain] = None
                break
        else:
            raise ValueError(
                f"num_problems: there are not {count} different chains of length {options.length} in the split "
                f"{options.split!r} (found {len(chains)}): ask for fewer, or for more states, tables or look-ups"
            )
    return tuple(chains)


def _drawn(options: LookupChainOptions, name: str) -> Chain:
    """The chain that belongs to this name, of the right split."""
    # Random hashes a text with SHA-512: the same in every process, and neighbouring indices share nothing.
    draw = random.Random(f"{options.seed}/{name}")
    used = options.used_tables
    for _ in range(MAX_DRAWS):
        chain = Chain(draw.randrange(options.states), tuple(draw.choices(used, k=options.length)))
        if split_of(chain) == options.split:
            return chain
    raise ValueError(f"split {options.split!r} has no chain of length {options.length}: ask for longer ones")


def split_of(chain: Chain) -> str:
    """`train`, `validation` or `test`, by the chain's text alone."""
    # Not `hash`, which Python salts anew in each process.
    remainder = hashlib.blake2b(chain.prompt.encode(), digest_size=8).digest()[0] % SPLIT_BY
    return HELD_OUT.get(remainder, "train")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number in [{low}, {high}], got {value!r}")
