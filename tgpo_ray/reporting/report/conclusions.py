"""The headline figures of a run, and computed sentences that say which run did better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .record import ACCURACY, RunRecord

REWARD_WINDOW = 10  # iterations that the final training reward is a mean of
SAME = 0.005  # accuracies with a smaller gap print alike at two digits
MANY = 8  # at this number of runs a ranking replaces a sentence for each pair, which nobody would read


@dataclass(frozen=True)
class Summary:
    """The figures of one run, None where the run did not record them."""

    label: str
    start: float | None  # held-out accuracy of the first evaluation
    end: float | None  # of the last evaluation; None if only the base was evaluated
    best: float | None
    best_iteration: int | None
    reward: float | None  # mean of the last REWARD_WINDOW iterations
    wall_s: float | None
    tokens: float | None  # response tokens trained on
    num_iterations: int
    standard_error: float | None  # of `end`: sqrt(p (1 - p) / problems)

    @property
    def change(self) -> float | None:
        return None if self.start is None or self.end is None else self.end - self.start


Measured = tuple[RunRecord, Summary]


def summarize(run: RunRecord) -> Summary:
    """The headline figures of a run, from its rows only."""
    iterations, accuracy = run.series(ACCURACY)
    _, reward = run.series("reward")
    best = int(accuracy.argmax()) if len(accuracy) else None
    evaluated_at_start = len(accuracy) > 0 and iterations[0] == 0
    evaluated_later = len(accuracy) > 0 and iterations[-1] > 0
    return Summary(
        label=run.label,
        start=float(accuracy[0]) if evaluated_at_start else None,
        end=float(accuracy[-1]) if evaluated_later else None,
        best=None if best is None else float(accuracy[best]),
        best_iteration=None if best is None else int(iterations[best]),
        reward=float(reward[-REWARD_WINDOW:].mean()) if len(reward) else None,
        wall_s=_total(run, "time/total_s", "time/iteration_s"),
        tokens=_total(run, "tokens/total", "tokens/response"),
        num_iterations=run.num_iterations,
        standard_error=_standard_error(run, accuracy) if evaluated_later else None,
    )


def conclude(runs: Sequence[RunRecord]) -> list[str]:
    """Sentences about held-out accuracy: guided runs against others of their seed, then each run against its start.

    Two ends count as different when their gap exceeds 1.96 sqrt(se_1^2 + se_2^2), the 95 % range of a gap between two
    independent samples of problems. Most runs are tested on the same problems, so this bound is careful. `MANY` or more
    runs are ranked instead.
    """
    pairs = [(run, summarize(run)) for run in runs]
    missing = [summary.label for _, summary in pairs if summary.end is None]
    complete = [(run, summary) for run, summary in pairs if summary.end is not None]
    summaries = [summary for _, summary in complete]
    if len(complete) >= MANY:
        sentences = _ranking(summaries)
    else:
        sentences = [_against(subject, rival) for subject, rival in _pairs(complete)]
        sentences += [_against_start(summary) for summary in summaries]
    if missing:
        sentences.append(f"{_and(missing)} recorded no held-out accuracy after training: nothing is concluded.")
    return sentences + _caveats(summaries)


def _ranking(summaries: Sequence[Summary]) -> list[str]:
    """Sentences on the order of the runs, on those that fell, and on the gap that chance explains."""
    ranked = sorted(summaries, key=lambda summary: -(summary.end or 0.0))
    ends = ", ".join(f"{summary.label} {summary.end:.2f}" for summary in ranked)
    sentences = [
        f"{ranked[0].label} ended highest of {len(ranked)} runs, at {ranked[0].end:.2f}.",
        f"In order: {ends}.",
    ]
    fallen = [summary.label for summary in ranked if (summary.change or 0.0) < -_start_noise(summary) - SAME]
    if fallen:
        sentences.append(f"Training did harm to {_and(fallen)}.")
    bounds = [1.96 * 2**0.5 * summary.standard_error for summary in ranked if summary.standard_error is not None]
    if bounds:
        sentences.append(
            f"Chance alone can explain gaps of up to {max(bounds):.2f} at this number of held-out problems."
        )
    return sentences


def _pairs(runs: Sequence[Measured]) -> list[tuple[Measured, Measured]]:
    """The pairs to compare: each guided run with the unguided ones of its seed, or with all if none has its seed."""
    guided = [pair for pair in runs if pair[0].is_guided]
    others = [pair for pair in runs if not pair[0].is_guided]
    if not guided or not others:
        return [(runs[0], rival) for rival in runs[1:]]
    pairs = []
    for subject in guided:
        same_seed = [rival for rival in others if rival[0].config.get("seed") == subject[0].config.get("seed")]
        pairs += [(subject, rival) for rival in same_seed or others]
    return pairs


def _against(subject: Measured, rival: Measured) -> str:
    (run, ours), (other, theirs) = subject, rival
    assert ours.end is not None and theirs.end is not None
    gap = ours.end - theirs.end
    if abs(gap) < SAME:
        return f"{ours.label} and {theirs.label} ended level, at {ours.end:.2f}."
    guidance = run.is_guided and not other.is_guided
    won = f"{ours.label} ended {gap:.2f} above {theirs.label}"
    lost = f"{theirs.label} ended {-gap:.2f} above {ours.label}: on this task "
    lost += "guidance did not win" if guidance else f"{ours.label} did not win"
    return (won if gap > 0 else lost) + _noise(abs(gap), ours, theirs) + "."


def _noise(gap: float, ours: Summary, theirs: Summary) -> str:
    if ours.standard_error is None or theirs.standard_error is None:
        return ""
    bound = 1.96 * float(np.hypot(ours.standard_error, theirs.standard_error))
    if gap > bound:
        return ""
    return f", which chance alone can explain (gaps of up to {bound:.2f} at this number of held-out problems)"


def _against_start(summary: Summary) -> str:
    if summary.change is None or summary.start is None:
        return f"{summary.label} ended at {summary.end:.2f}; its base was not evaluated, so its gain is unknown."
    figures = f"{summary.start:.2f} to {summary.end:.2f} ({summary.change:+.2f})"
    if summary.change <= -SAME:
        doubt = ": this training did harm" if -summary.change > _start_noise(summary) else ", within chance"
        return f"{summary.label} fell from {figures}{doubt}."
    if summary.change < SAME:
        return f"{summary.label} stayed level, {figures}."
    return f"{summary.label} rose from {figures}" + _after_best(summary)


def _start_noise(summary: Summary) -> float:
    """The gap that chance explains (95 %) between two evaluations; 0 where the number of problems is unknown."""
    return 1.96 * 2**0.5 * (summary.standard_error or 0.0)


def _after_best(summary: Summary) -> str:
    assert summary.best is not None and summary.end is not None
    fall = summary.best - summary.end
    if fall <= max(0.05, 2 * (summary.standard_error or 0.0)):
        return "."
    return f", {fall:.2f} below its best of {summary.best:.2f} at iteration {summary.best_iteration}."


def _caveats(summaries: Sequence[Summary]) -> list[str]:
    """Sentences on what makes the comparison uneven: other budgets, other starting points."""
    if len(summaries) < 2:
        return []
    caveats = []
    budgets = {summary.label: summary.num_iterations for summary in summaries}
    if len(set(budgets.values())) > 1:
        numbers = _and([f"{label} {number}" for label, number in budgets.items()])
        caveats.append(f"The budgets differ, in iterations: {numbers}.")
    starts = [summary.start for summary in summaries if summary.start is not None]
    if starts and max(starts) - min(starts) > 0.02:
        caveats.append(f"The runs did not start from the same accuracy ({min(starts):.2f} to {max(starts):.2f}).")
    return caveats


def _standard_error(run: RunRecord, accuracy: np.ndarray) -> float | None:
    _, problems = run.series("evaluation/num_problems")
    if not len(accuracy) or not len(problems) or problems[-1] < 1:
        return None
    p = float(np.clip(accuracy[-1], 0.0, 1.0))
    return float(np.sqrt(p * (1.0 - p) / problems[-1]))


def _total(run: RunRecord, running: str, each: str) -> float | None:
    """The last value of a running total, else the sum over the iterations."""
    _, totals = run.series(running)
    if len(totals):
        return float(totals[-1])
    _, parts = run.series(each)
    return float(parts.sum()) if len(parts) else None


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
