"""Checks of all problems beside one another: the same prompt with two answers, and texts that Python wrote."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from typing import Any

from tgpo_ray.checks.results import CheckResult, Finding, judged, shortened, skipped

from .playing import Subject

LOOK_S = 20.0  # for going through the prompts of all rows, not only those that are played
MIN_VARYING = 3  # prompts from which the text around the problems is told

# `[{'role': 'user', ...}]` and other values that str() made text of
_DICTS = re.compile(r"""\[?\s*\{'(?:role|content|text|value|style|ground_truth|answer)':\s""")
_WHOLE = re.compile(r"""\s*(?:\[?\s*\{'\w+':|None\s*\Z|nan\s*\Z|array\(|<[\w.]+ object at 0x)""")
_ANSWER = re.compile(r"""\s*(?:\[\s*['"{]|\{\s*['"]\w+['"]:|None\s*\Z|nan\s*\Z|array\(|<[\w.]+ object at 0x)""")


def check_duplicates(subject: Subject) -> CheckResult:
    """Returns whether problems with the same prompt have the same answer.

    Answers that are written in two ways are the same where the verifier takes each for the other.
    """
    bound = "one answer a prompt"
    first: dict[bytes, int] = {}
    repeated: list[tuple[int, int]] = []
    num_prompts = 0
    for index, text in _prompts(subject):
        num_prompts += 1
        original = first.setdefault(hashlib.sha256(" ".join(text.split()).encode("utf-8", "replace")).digest(), index)
        if original != index:
            repeated.append((original, index))
    if subject.has_turns and len(first) == 1 and repeated:
        return skipped("duplicates", "all prompts are the same: the turns tell the problems apart", bound)
    findings = [finding for pair in repeated for finding in _other_answer(subject, *pair)]
    of_all = "" if subject.num_problems is None else f" of {subject.num_problems}"
    return judged(
        "duplicates",
        findings,
        measured=f"{num_prompts}{of_all} prompts compared, {len(repeated)} repeat an earlier one",
        bound=bound,
        fix="keep one row of each problem, with the right answer: one of the others is always scored as wrong",
    )


def check_texts(subject: Subject) -> CheckResult:
    """Returns whether prompts and answers are texts of people, and not lists and dicts that were printed."""
    prompts = {index: _prompt(subject, index) for index in subject.indices}
    start, stop = _around(list(prompts.values()))
    findings = []
    for index, text in prompts.items():
        problem = text[start : len(text) - stop]
        if _DICTS.search(text) or _WHOLE.match(problem):
            found = _DICTS.search(text)
            findings.append(
                Finding(index, f"the prompt has a Python value: {shortened(found[0] if found else problem)}")
            )
    for played in subject.played:
        answer = played.info.get("answer")
        if played.reward >= 1.0 and isinstance(answer, str) and _ANSWER.match(answer):
            findings.append(Finding(played.index, f"the right answer is a Python value: {shortened(answer)}"))
    return judged(
        "texts",
        findings,
        measured=f"prompts and answers of {subject.looked_at}",
        bound="no list, dict, None or nan as text",
        fix="name the part of the column that is meant, as `columns: {answer: reward_model.ground_truth}`; messages "
        "become a conversation where the column holds them as a list",
    )


def _prompts(subject: Subject) -> Iterator[tuple[int, str]]:
    """Yields all problems of a data set as far as the time goes, or those to check of an environment without an end."""
    count = subject.num_problems
    until = time.monotonic() + LOOK_S
    for index in subject.indices if count is None else range(count):
        if time.monotonic() > until:
            return
        yield index, _prompt(subject, index)


def _prompt(subject: Subject, index: int) -> str:
    text, info = subject.env.reset(seed=subject.seed, options={"index": index})
    messages: Any = info.get("messages")
    return text if messages is None else "\n".join(f"{it['role']}: {it['content']}" for it in messages)


def _other_answer(subject: Subject, original: int, index: int) -> Iterator[Finding]:
    golds = subject.gold(original), subject.gold(index)
    if golds[0] is None or golds[1] is None or golds[0] == golds[1]:
        return
    if all(subject.play(i, gold).reward >= 1.0 for i, gold in ((index, golds[0]), (original, golds[1]))):
        return
    yield Finding(
        index, f"the prompt of problem {original} too, with another answer: {shortened(golds[1][-1])} for "
        f"{shortened(golds[0][-1])}"
    )  # fmt: skip


def _around(prompts: list[str]) -> tuple[int, int]:
    """Returns how many characters at the beginning and the end all prompts share: the text around the problems."""
    if len(set(prompts)) < MIN_VARYING:
        return 0, 0
    start = _num_shared(prompts)
    stop = _num_shared([prompt[start:][::-1] for prompt in prompts])
    # what all problems begin with, as `[{'role': `, belongs to them
    line = prompts[0].rfind("\n", 0, start) + 1
    return line, stop


def _num_shared(texts: list[str]) -> int:
    """Returns the number of characters that all texts begin with."""
    low, high = min(texts), max(texts)  # what the first and the last in order share, all between them share too
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
