"""The tables of `tgpo/LookupChain-v0`, and what a base policy and its teachers believe of them."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from functools import cached_property

STATES, TABLES = string.ascii_lowercase, string.ascii_uppercase
POLICY, TEACHER = ROLES = ("policy", "teacher")
EXACT, NOISY, MISTAKEN = TEACHERS = ("exact", "noisy", "mistaken")


@dataclass(frozen=True)
class LookupTables:
    """Tables that map every state to another; each is a permutation, so an error is not undone by right look-ups.

    Args:
        world: seed of the tables.
        num_known: the first so many tables are known to the base policy.
        teacher: `exact`, `noisy` or `mistaken`.
        error_share: of the look-ups of a noisy teacher, and of the entries of the known tables that a mistaken teacher
            has wrong; 0 to 1.
    """

    num_states: int
    num_tables: int
    world: int
    num_known: int
    teacher: str
    error_share: float

    @cached_property
    def right(self) -> tuple[tuple[int, ...], ...]:
        """The state after each state, for each table."""
        return tuple(
            tuple(random.Random(f"table/{self.world}/{table}").sample(range(self.num_states), self.num_states))
            for table in range(self.num_tables)
        )

    @cached_property
    def mistakes(self) -> dict[tuple[int, int], int]:
        """What a mistaken teacher has instead, by table and state: always the same wrong state."""
        draw = random.Random(f"mistakes/{self.world}")
        entries = [(table, state) for table in range(self.num_known) for state in range(self.num_states)]
        chosen = draw.sample(entries, round(self.error_share * len(entries)))
        return {entry: self._wrong(*entry, draw) for entry in chosen}

    def knows(self, table: int) -> bool:
        """Whether the base policy knows the table."""
        return table < self.num_known

    def believed(self, role: str, table: int, state: int, draw: random.Random) -> int:
        """The next state as the base policy (`policy`) or the teacher would write it.

        After a table that it does not know, the base policy takes any state, all equally likely. With `unknown: unseen`
        the environment leaves that state out of what the policy learns from.
        """
        right = self.right[table][state]
        if role == POLICY:
            return right if self.knows(table) else draw.randrange(self.num_states)
        if self.teacher == MISTAKEN:
            return self.mistakes.get((table, state), right)
        if self.teacher == NOISY and draw.random() < self.error_share:
            return self._wrong(table, state, draw)
        return right

    def _wrong(self, table: int, state: int, draw: random.Random) -> int:
        """A state that the table does not have there."""
        return (self.right[table][state] + draw.randrange(1, self.num_states)) % self.num_states
