"""`tgpo-ray data prepare | solutions`: training files from data sets, and worked solutions of an environment."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tgpo_ray.cli.env import made, parsed_kwargs

DATA_SETS = "tgpo_ray.envs.data_sets"  # environments are found by name; nobody here imports them
VERSIONS = ("tgpo-ray", "math-verify", "datasets")
BESIDE = (".md", ".removed.jsonl")  # what `data prepare` writes beside the file
DEADLINE_S = 5.0


def add_data_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `data` with its sub-commands to the sub-parsers of `tgpo-ray`."""
    text = "Write training files: rows of a data set, or worked solutions of an environment."
    subs = commands.add_parser("data", help=text, description=text).add_subparsers(dest="data_command", required=True)
    _add_prepare(subs)
    text = (_solutions.__doc__ or "").splitlines()[0]
    sub = subs.add_parser("solutions", help=text, description=text)
    sub.set_defaults(run=_solutions)
    sub.add_argument("id", help="tgpo/LookupChain-v0, or another environment with gold responses")
    help_text = "the environment's arguments: a JSON object, or key=value with YAML values"
    sub.add_argument("--kwargs", nargs="+", default=[], metavar="key=value", help=help_text)
    sub.add_argument("--to", required=True, help="jsonl file to write; must not exist")
    sub.add_argument("-n", type=int, help="how many problems; default: all")


def _add_prepare(subs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = (_prepare.__doc__ or "").splitlines()[0]
    sub = subs.add_parser("prepare", help=text, description=text)
    sub.set_defaults(run=_prepare)
    sub.add_argument("name", help="openr1-46k, gsm8k, math, deepscaler, or file with --from")
    sub.add_argument("--to", required=True, help="jsonl file to write; must not exist")
    sub.add_argument("--from", dest="path", help="a local copy: jsonl, parquet or a folder; default: the hub")
    sub.add_argument("--subset", help="configuration of the data set")
    sub.add_argument("--split", help="split of the data set; default: train")
    help_text = "names of its columns, by meaning: problem, answer, trace"
    sub.add_argument("--columns", nargs="+", default=[], metavar="meaning=column", help=help_text)
    help_text = "evaluation sets: jsonl, parquet, or names on the hub, with the column of problems where it is called"
    help_text += " differently: FILE:column. Rows that overlap with one of their problems go"
    sub.add_argument("--against", nargs="+", default=[], metavar="FILE", help=help_text)
    sub.add_argument("--ngram", type=int, default=8, help="words in a row that overlapping problems share (8)")
    sub.add_argument("--overlap", type=float, default=0.6, help="share of the shorter problem that is common (0.6)")
    help_text = "keep the rows with a trace that the verifier approves, with the columns prompt and response"
    sub.add_argument("--verified", action="store_true", help=help_text)
    sub.add_argument(
        "--traces", help="with --verified: a file of `tgpo-ray traces`; default: the data set's own traces"
    )
    sub.add_argument("--prompt", help="with --verified: the environment's prompt style; openr1-46k: think, else plain")
    sub.add_argument("--system-prompt", help="with --verified: replaces the style's system paragraph")
    sub.add_argument("--workers", type=int, help="with --verified: verifying processes; default: all cores")
    sub.add_argument("--deadline-s", type=float, help=f"with --verified: seconds for one verification ({DEADLINE_S:g})")
    sub.add_argument("--limit", type=int, help="rows to read; default: all")


def _prepare(options: argparse.Namespace) -> int:
    """Write a data set as a training file, with a card: duplicates and overlap with evaluation sets are left out."""
    data_sets: Any = importlib.import_module(DATA_SETS)
    source = data_sets.source_named(options.name)
    target = new_file(options.to, BESIDE)
    path = options.path or source.path
    if not path:
        raise ValueError(f"--from: required for the data set {options.name!r}: name a jsonl or parquet file")
    _check_numbers(options)
    _refuse_without_verified(options)
    preparation = data_sets.Preparation(
        source,
        path,
        subset=options.subset or (None if options.path else source.subset),
        split=options.split or (None if options.path else source.split),
        chosen=_columns(options.columns),
        evaluation=data_sets.evaluation_problems(options.against, ngram=options.ngram, min_share=options.overlap),
        traces=data_sets.TraceFile(Path(options.traces)) if options.traces else None,
        limit=options.limit,
    )
    if not options.verified:
        data_sets.prepare(preparation, target)
    else:
        style = {"prompt": options.prompt or source.prompt, "system_prompt": options.system_prompt}
        workers = options.workers or os.cpu_count() or 1
        deadline_s = DEADLINE_S if options.deadline_s is None else options.deadline_s
        with data_sets.trace_verifier(workers, deadline_s, **style) as preparation.verifier:
            data_sets.prepare(preparation, target)
    command = shlex.join(["tgpo-ray", *options.command_line])
    text = data_sets.card(preparation, target, command=command, versions=_versions())
    place = data_sets.beside(target, ".md")
    place.write_text(text, encoding="utf-8")
    _print_counts(preparation, target, place)
    return 0


def _columns(items: list[str]) -> dict[str, str]:
    """Columns by meaning. A column's name is text, also where it reads as a number."""
    chosen = {}
    for item in items:
        meaning, _, column = item.partition("=")
        if not meaning or not column:
            raise ValueError(f"--columns: must be meaning=column, as problem=question, got {item!r}")
        chosen[meaning] = column
    return chosen


def _check_numbers(options: argparse.Namespace) -> None:
    for name in ("ngram", "workers", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: must be >= 1, got {value}")


def _refuse_without_verified(options: argparse.Namespace) -> None:
    for name in ("traces", "prompt", "system_prompt", "workers", "deadline_s"):
        if getattr(options, name) is not None and not options.verified:
            raise ValueError(f"--{name.replace('_', '-')}: needs --verified, which verifies traces and writes prompts")
    if options.prompt == "chat":
        raise ValueError(
            "--prompt: chat is made by the model's chat template, which is not known here: have `tgpo-ray traces` "
            "write such traces, or use plain, think or a text with {problem}"
        )


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra that is not installed, or a checkout
            continue
    return found


def _print_counts(preparation: Any, target: Path, place: Path) -> None:
    counts = preparation.counts
    for reason, out, _ in counts.table():
        print(f"{out:8,} left out: {reason}")
    print(f"{target}: {counts.written:,} rows of {counts.read:,}; card: {place}")
    if not preparation.evaluation.sizes:
        print("not compared with any evaluation set: name them with --against", file=sys.stderr)


def _solutions(options: argparse.Namespace) -> int:
    """Write worked solutions of an environment's problems as traces for SFT and LUFFY."""
    target = new_file(options.to)
    env = made(options.id, parsed_kwargs(options.kwargs))
    try:
        rows = list(_worked(env, options))
    finally:
        env.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        partial = Path(folder) / target.name
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        partial.rename(target)
    print(f"{target}: {len(rows)} solutions")
    return 0


def _worked(env: Any, options: argparse.Namespace) -> Any:
    inner = env.unwrapped
    count = _num_solutions(options, getattr(inner, "num_problems", None))
    for index in range(count):
        prompt, info = env.reset(seed=0, options={"index": index})
        gold = getattr(inner, "gold_response", lambda index: None)(index)
        if not isinstance(gold, str) or info.get("messages"):
            reason = "has several turns or a chat" if gold else "is not known"
            raise ValueError(f"{options.id}: the right response to problem {index} {reason}: use `tgpo-ray traces`")
        yield {"prompt": prompt, "response": gold, "reward": 1.0, "env": options.id, "problem_index": index}


def _num_solutions(options: argparse.Namespace, num_problems: int | None) -> int:
    count = num_problems if options.n is None else options.n
    if count is None:
        raise ValueError(f"-n: required, {options.id} makes its problems up, without end")
    if count < 1:
        raise ValueError(f"-n: must be >= 1, got {count}")
    if num_problems is not None and count > num_problems:
        raise ValueError(f"-n: must be <= {num_problems}, the number of problems of {options.id}, got {count}")
    return count


def new_file(path: str, beside: Sequence[str] = ()) -> Path:
    """Returns the path of a jsonl file that is not there yet.

    Args:
        beside: endings of the files that are written with it: `.md` for `name.md` beside `name.jsonl`.

    Raises:
        ValueError: there is such a file or one beside it, or the name ends differently.
    """
    target = Path(path).expanduser()
    if target.suffix != ".jsonl":
        raise ValueError(f"--to: must end in .jsonl, got {path!r}")
    for place in (target, *(target.with_suffix(ending) for ending in beside)):
        if os.path.lexists(place):
            raise ValueError(f"--to: {place} exists already: choose another --to, or move it away")
    return target
