"""Checks that answers are compared as values: each with itself in another spelling, and with those of other rows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise

from tgpo_ray.checks.results import CheckResult, Finding, judged, shortened, skipped

from .playing import Played, Subject

NUM_RESPELLED = 100  # rows whose answers are written in other ways: several verifications each
NUM_PAIRS = 500  # pairs of rows that are given each other's answers: two verifications each
LOOK_S = 30.0

_INTEGER = re.compile(r"(?<![\w.,^])\d+(?![\w.,])")
_NOT_SIGNIFICANT = re.compile(r"\\[A-Za-z]+|[^0-9A-Za-z]")


def check_values(subject: Subject) -> CheckResult:
    """Returns whether an answer with a number in it agrees with the same value in another spelling: `7` with `7.0`.

    Where the verifier takes no other spelling of any row, it compares texts, and nothing is said against it. Where it
    takes most, the others are answers that it could not read, and that agree with themselves as text alone.
    """
    bound = "another spelling scores 1.0"
    alone, tried = [], 0
    for played in _right(subject)[:NUM_RESPELLED]:
        spellings = _respelled(played)
        tried += bool(spellings)
        if spellings and not any(subject.play(played.index, spelling).reward >= 1.0 for spelling in spellings):
            text = f"{shortened(played.info['answer'])} agrees with itself as text alone"
            alone.append(Finding(played.index, text))
    if not tried:
        return skipped("values", "no right answer with a number in it is known", bound)
    if len(alone) == tried:
        return CheckResult("values", "ok", f"the verifier compares texts ({tried} answers)", bound)
    measured = f"{tried - len(alone)} of {tried} answers with a number are read as values"
    fix = "write the answer as the verifier reads it: a value, without words and without Python's brackets"
    # a finding, and no failure: a text such as a name may have a number in it
    return CheckResult("values", "ok", measured, bound, fix, tuple(alone))


def check_other_answers(subject: Subject) -> CheckResult:
    """Returns whether the right answer of one row is wrong for the others, the most similar ones first.

    Two answers that each satisfy the other's row are one value in two spellings, which is listed. One that satisfies
    the other and not the other way round is a value that the verifier reads in part.
    """
    bound = "wrong, or right both ways"
    if subject.has_turns:
        return skipped("other answers", "several turns: answers are not given at once", bound)
    rows = _distinct(_right(subject))
    if len(rows) < 2:
        return skipped("other answers", "fewer than two right answers are known", bound)
    failures, spellings, tried = [], [], 0
    until = time.monotonic() + LOOK_S
    for one, other in list(pairwise(rows))[:NUM_PAIRS]:
        if time.monotonic() > until:
            break
        tried += 1
        takes = [subject.play(a.index, b.responses).reward >= 1.0 for a, b in ((one, other), (other, one))]
        texts = [shortened(it.info["answer"]) for it in (one, other)]
        if all(takes):
            spellings.append(Finding(one.index, f"{texts[0]} and {texts[1]} of problem {other.index} are one value"))
        elif any(takes):
            (of, taken), index = (texts, one.index) if takes[0] else (texts[::-1], other.index)
            failures.append(Finding(index, f"{of} is satisfied by {taken}, and not the other way round"))
    return CheckResult(
        "other answers",
        "failed" if failures else "ok",
        f"{tried} pairs of similar answers: {len(spellings)} are one value, {len(failures)} agree one way only",
        bound,
        "write the answer so that all of it is read; compare whole values",
        (*failures, *spellings),
    )


def check_spread(subject: Subject) -> CheckResult:
    """Returns whether the rewards of all episodes so far differ: a constant reward teaches nothing."""
    bound = "not all the same"
    rewards = {played.reward for played in subject.played}
    knows_right = any(subject.gold(index) is not None for index in subject.indices[:1])
    # without a right response, none of those that were tried may have been right
    constant = len(rewards) == 1 and len(subject.played) > 1 and (knows_right or rewards != {0.0})
    text = f"every one of {len(subject.played)} responses, right and wrong, has the reward {min(rewards, default=0):g}"
    return judged(
        "spread",
        [Finding(None, text)] if constant else [],
        measured=f"{len(rewards)} different rewards in {len(subject.played)} episodes",
        bound=bound,
        fix="look at what the verifier compares: it does not read the response, or not the answer",
    )


def _right(subject: Subject) -> list[Played]:
    """Returns the right answer of each row of one turn, from the episodes so far; gold responses are among them."""
    found: dict[int, Played] = {}
    for played in subject.played:
        if played.reward >= 1.0 and len(played.responses) == 1 and isinstance(played.info.get("answer"), str):
            found.setdefault(played.index, played)
    return [found[index] for index in sorted(found)]


def _respelled(played: Played) -> list[tuple[str, ...]]:
    """Returns responses with the last whole number of the answer, or the whole answer, written in another way."""
    (response,), answer = played.responses, played.info["answer"]
    start, numbers = response.rfind(answer), list(_INTEGER.finditer(answer))
    if start < 0 or not numbers:
        return []
    at, number = numbers[-1].span(), numbers[-1][0]
    answers = [f"{answer[: at[0]]}{new}{answer[at[1] :]}" for new in (f"{number}.0", f"({number})", f"0{number}")]
    return [(response[:start] + new + response[start + len(answer) :],) for new in (*answers, f"({answer})")]


def _distinct(rows: list[Played]) -> list[Played]:
    """Returns one row of each answer, with similar answers beside each other."""
    by_text: Iterator[tuple[str, Played]] = ((row.info["answer"], row) for row in reversed(rows))
    return sorted(dict(by_text).values(), key=lambda row: _NOT_SIGNIFICANT.sub("", row.info["answer"]).lower())
