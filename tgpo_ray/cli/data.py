"""`tgpo-ray data prepare | solutions`: training files from data sets, and worked solutions of an environment."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tgpo_ray.cli.env import made, parsed_kwargs

DATA_SETS = "tgpo_ray.envs.data_sets"  # environments are found by name; nobody here imports them
DEADLINE_S = 5.0
VERSIONS = ("tgpo-ray", "math-verify", "datasets")


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
    help_text = "evaluation sets: jsonl, parquet, or names on the hub. Rows that overlap with one of their problems go"
    sub.add_argument("--against", nargs="+", default=[], metavar="FILE", help=help_text)
    help_text = "names that their column of problems may have, beside problem, question and prompt"
    sub.add_argument("--against-columns", nargs="+", default=[], metavar="NAME", help=help_text)
    sub.add_argument("--ngram", type=int, default=8, help="words in a row that overlapping problems share (8)")
    sub.add_argument("--overlap", type=float, default=0.6, help="share of the shorter problem that is common (0.6)")
    help_text = "keep the rows with a trace that the verifier approves, with the columns prompt and response"
    sub.add_argument("--verified", action="store_true", help=help_text)
    sub.add_argument(
        "--traces", help="with --verified: a file of `tgpo-ray traces`; default: the data set's own traces"
    )
    sub.add_argument("--prompt", help="with --verified: the environment's prompt style; openr1-46k: think, else plain")
    sub.add_argument("--system-prompt", help="with --verified: replaces the style's system paragraph")
    sub.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="verifying processes; default: all cores")
    sub.add_argument("--deadline-s", type=float, help="with --verified: seconds for one verification (5)")
    sub.add_argument("--limit", type=int, help="rows to read; default: all")


def _prepare(options: argparse.Namespace) -> int:
    """Write a data set as a training file, with a card: duplicates and overlap with evaluation sets are left out."""
    data_sets: Any = importlib.import_module(DATA_SETS)
    source = data_sets.source_named(options.name)
    target = new_file(options.to)
    data_sets.refuse_existing(target)
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
        chosen=_chosen_columns(options.columns),
        evaluation=data_sets.evaluation_problems(
            options.against, columns=options.against_columns, ngram=options.ngram, min_share=options.overlap
        ),
        traces=data_sets.TraceFile(Path(options.traces)) if options.traces else None,
        limit=options.limit,
    )
    if not options.verified:
        data_sets.prepare(preparation, target)
    else:
        style = {"prompt": options.prompt or source.prompt, "system_prompt": options.system_prompt}
        deadline_s = DEADLINE_S if options.deadline_s is None else options.deadline_s
        with data_sets.trace_verifier(options.workers, deadline_s, **style) as preparation.verifier:
            data_sets.prepare(preparation, target)
    command = shlex.join(["tgpo-ray", *options.command_line])
    text = data_sets.card(preparation, target, command=command, versions=_versions())
    place = data_sets.beside(target, ".md")
    place.write_text(text, encoding="utf-8")
    _print_counts(preparation, target, place)
    return 0


def _chosen_columns(words: list[str]) -> dict[str, str]:
    """The names by meaning. A name is text, whatever YAML would read in it."""
    pairs = [word.partition("=") for word in words]
    for word, (meaning, _, name) in zip(words, pairs, strict=True):
        if not (meaning and name):
            raise ValueError(f"--columns: must be meaning=column, as problem=question, got {word!r}")
    return {meaning: name for meaning, _, name in pairs}


def _check_numbers(options: argparse.Namespace) -> None:
    for name in ("ngram", "workers", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: must be >= 1, got {value}")


def _refuse_without_verified(options: argparse.Namespace) -> None:
    for name in ("traces", "prompt", "system_prompt"):
        if getattr(options, name) is not None and not options.verified:
            raise ValueError(f"--{name.replace('_', '-')}: needs --verified, which writes prompts and traces")
    if options.deadline_s is not None and not options.verified:
        raise ValueError("--deadline-s: needs --verified, whose verifications it limits")
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
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as folder:
        partial = Path(folder, target.name)
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        partial.rename(target)
    print(f"{target}: {len(rows)} solutions")
    return 0


def _worked(env: Any, options: argparse.Namespace) -> Any:
    inner, count = env.unwrapped, options.n
    there = getattr(inner, "num_problems", None)
    if count is None and there is None:
        raise ValueError(f"-n: required, {options.id} makes its problems up, without end")
    count = there if count is None else count
    if count < 1 or (there is not None and count > there):
        most = "" if there is None else f" and at most {there}, the problems of {options.id}"
        raise ValueError(f"-n: must be at least 1{most}, got {count}")
    for index in range(count):
        prompt, info = env.reset(seed=0, options={"index": index})
        gold = getattr(inner, "gold_response", lambda index: None)(index)
        if not isinstance(gold, str) or info.get("messages"):
            reason = "has several turns or a chat" if gold else "is not known"
            raise ValueError(f"{options.id}: the right response to problem {index} {reason}: use `tgpo-ray traces`")
        yield {"prompt": prompt, "response": gold, "reward": 1.0, "env": options.id, "problem_index": index}


def new_file(path: str) -> Path:
    """Returns the path of a jsonl file that is not there yet.

    Raises:
        ValueError: there is such a file, or the name ends differently.
    """
    target = Path(path).expanduser()
    if target.suffix != ".jsonl":
        raise ValueError(f"--to: must end in .jsonl, got {path!r}")
    if target.exists():
        raise ValueError(f"--to: {target} exists already: name another file, or move it away")
    return target
