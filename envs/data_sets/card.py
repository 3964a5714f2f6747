"""The data card: what a training file holds, where it comes from, and what was left out."""

from __future__ import annotations

from pathlib import Path

from .counts import STEPS
from .overlap import EvaluationProblems
from .preparing import Preparation, beside


def card(preparation: Preparation, target: Path, *, command: str, versions: dict[str, str]) -> str:
    """Returns the card as Markdown.

    Args:
        command: the command line that writes the file again.
        versions: of the packages on which the file depends.
    """
    sections = [
        f"# {target.name}",
        f"{preparation.counts.written:,} rows of {preparation.source.about}.",
        f"```\n{command}\n```",
        _table(("", "value"), _facts(preparation, versions)),
        "## Columns",
        _table(("column", "what it holds"), _columns(preparation)),
        "## Rows",
        _table(("step", "left out", "remain"), _steps(preparation)),
        f"`{beside(target, '.removed.jsonl').name}` has the number and the reason of every row that was left out.",
        *_evaluation_sets(preparation),
    ]
    return "\n\n".join(sections) + "\n"


def _facts(preparation: Preparation, versions: dict[str, str]) -> list[tuple[str, str]]:
    place = [f"subset `{preparation.subset}`"] if preparation.subset else []
    place += [f"split `{preparation.split}`"] if preparation.split else []
    facts = [
        ("read from", ", ".join([f"`{preparation.path}`", *place])),
        ("sha256 of the values that were read", f"`{preparation.digests['read']}`"),
        ("sha256 of the file", f"`{preparation.digests['written']}`"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    if preparation.verifier is not None:
        traces = "its column of traces" if preparation.traces is None else f"`{preparation.traces.path}`"
        facts.append(("traces", f"{traces}, verified within {preparation.verifier.pool.deadline_s:g} s each"))
        facts.append(("prompt", f"style `{preparation.verifier.options.prompt}`"))
    return facts


def _columns(preparation: Preparation) -> list[tuple[str, str]]:
    names = preparation.columns.names if preparation.columns else {}
    columns = [(f"`{meaning}`", f"from `{names[meaning]}`") for meaning in ("problem", "answer")]
    columns.append(("`row`", "its number in the data set, from 0"))
    if preparation.verifier is not None:
        origin = f"from `{names['trace']}`" if "trace" in names else "from the file of traces"
        columns.append(("`prompt`", "as the environment writes it: the prompt of SFT and LUFFY"))
        columns.append(("`response`", f"the trace, {origin}"))
        columns.append(("`reward`", "1.0: the verifier approved of it"))
    return columns


def _steps(preparation: Preparation) -> list[tuple[str, str, str]]:
    counts = preparation.counts
    steps = [("read", "", f"{counts.read:,}")]
    steps += [(f"{step}: {STEPS[step]}", f"{out:,}", f"{remain:,}") for step, out, remain in counts.table()]
    return [*steps, ("written", "", f"{counts.written:,}")]


def _evaluation_sets(preparation: Preparation) -> list[str]:
    evaluation = preparation.evaluation
    if not evaluation.sizes:
        return ["## Evaluation sets", "**Not compared with any**: no `--against` was given."]
    rows = [(name, f"{size:,}", f"{preparation.overlaps.get(name, 0):,}") for name, size in evaluation.sizes.items()]
    return ["## Evaluation sets", _table(("set", "problems", "rows left out"), rows), _rule(evaluation)]


def _rule(evaluation: EvaluationProblems) -> str:
    return (
        f"A row is left out if it has the same words, numbers and signs as a problem of a set, or if it shares "
        f"{evaluation.ngram} of them in a row with it and their longest common subsequence has at least "
        f"{evaluation.min_common}, and {evaluation.min_share:.0%} of the shorter text. The same problem with other "
        "numbers counts as overlap; a problem in other words is not found."
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
