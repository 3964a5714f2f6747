"""Checks that the verifier tells right from wrong and that rewards stay in a stated range."""

from __future__ import annotations

import math

from tgpo_ray.checks.results import CheckResult, Finding, judged, shortened, skipped

from .deadlines import GRACE_S
from .near_misses import near_misses
from .playing import Subject

NUM_PERTURBED = 25  # rows whose gold answers are changed: several verifications each
START_S = 30.0  # a verifier's process may have to start and import first
SLOW_S = 10.0  # for a step that has no deadline of its own
ODD_RESPONSES = (
    "", " \n", "\x00", "}{" * 100, "\\boxed{" * 2000, "\\frac{1}{" * 500, "9" * 100_000, "x" * 1_000_000,
    "\u202e\u0661\u0662 \U0001f9ee \u221a2 \ufffd",
)  # fmt: skip


def check_gold(subject: Subject) -> CheckResult:
    """Returns whether the gold response of every row scores 1.0 and ends the episode."""
    bound = "1.0 on every row"
    findings, known = [], 0
    for index in subject.indices:
        gold = subject.gold(index)
        if gold is None:
            continue
        known += 1
        played = subject.play(index, gold)
        if not (math.isclose(played.reward, 1.0) and played.done):
            findings.append(Finding(index, f"{shortened(gold[-1])}: {played.outcome_text}"))
    if not known:
        return skipped("gold answers", "no right response is known: define gold_response(index)", bound)
    measured = f"{known - len(findings)} of {known} score 1.0 ({subject.looked_at})"
    fix = "correct the answers in the data, or what the verifier reads; leave rows out that cannot be verified"
    return judged("gold answers", findings, measured=measured, bound=bound, fix=fix)


def check_near_misses(subject: Subject) -> CheckResult:
    """Returns whether the empty response and gold responses with a changed answer score below 1.0."""
    bound = "below 1.0"
    findings, tried, known = [], 0, 0
    for index in subject.indices[:NUM_PERTURBED]:
        gold = subject.gold(index)
        if gold is None:
            continue
        known += 1
        right = subject.play(index, gold)
        if right.reward < 1.0:
            continue  # the check of gold answers reports it
        answer = right.info.get("answer")
        for kind, responses in near_misses(gold[-1], answer if isinstance(answer, str) else None).items():
            missed = [subject.play(index, (*gold[:-1], response)) for response in responses]
            tried += len(missed)
            if all(played.reward >= 1.0 for played in missed):
                findings.append(
                    Finding(index, f"{kind}: {shortened(missed[0].responses[-1])}: {missed[0].outcome_text}")
                )
    if not known:
        return skipped("near misses", "no right response is known: define gold_response(index)", bound)
    measured = f"{tried} responses to {known} findings, {len(findings)} kinds of them taken"
    fix = "compare whole values, not parts of a text; read the answer in one place only"
    return judged("near misses", findings, measured=measured, bound=bound, fix=fix)


def check_rewards(subject: Subject) -> CheckResult:
    """Returns whether all rewards, also of odd responses, are finite and in the range, without errors or slow steps."""
    findings = []
    index = subject.indices[0] if subject.indices else 0
    for response in ODD_RESPONSES:
        try:
            subject.play(index, (response,))
        except Exception as error:  # a verifier may raise anything on text that it did not expect
            findings.append(Finding(index, f"{shortened(response)} raised {type(error).__name__}: {str(error)[:200]}"))
    low, high = subject.reward_range
    for played in subject.played:
        if not (math.isfinite(played.reward) and low <= played.reward <= high):
            findings.append(Finding(played.index, f"{shortened(played.responses[-1])}: reward {played.reward}"))
    deadline = getattr(subject.env.unwrapped, "deadline_s", None)
    slow = SLOW_S if deadline is None else deadline + GRACE_S
    slowest = max(subject.played, key=lambda played: played.seconds, default=None)
    # the first verification of a process also starts it
    if slowest and slowest.seconds > slow + START_S:
        findings.append(Finding(slowest.index, f"{shortened(slowest.responses[-1])} took {slowest.seconds:.1f} s"))
    rewards = [played.reward for played in subject.played]
    return judged(
        "rewards",
        findings,
        measured=f"{min(rewards, default=0):g} to {max(rewards, default=0):g} in {len(rewards)} episodes, slowest step "
        f"{slowest.seconds if slowest else 0:.2f} s",
        bound=f"finite, in [{low:g}, {high:g}], nothing raises",
        fix="catch what the verifier raises as the outcome `error`; state another range with --reward-range",
    )
