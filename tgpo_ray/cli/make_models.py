"""`tgpo-ray make-models`: tiny models for machines without a model hub, random or taught an environment's answers."""

from __future__ import annotations

import argparse
from typing import Any

from tgpo_ray.cli.env import made, parsed_kwargs

Pair = tuple[str, Any]  # a prompt and a response, which may be in pieces (`make_taught_models`)
ROLES: tuple[str, ...] = ("policy", "teacher")
NUM_PROBLEMS = 4000  # that the models are taught with
NUM_LESSONS = 20_000  # of each model, where the environment has lessons: they may be wrong at random, not to be learned


def add_make_models_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="random models: jsonl whose `problem` column their tokenizers are trained on")
    source.add_argument("--env", metavar="ID", help="models that learn its gold responses for half a minute")
    help_text = "with --env, its arguments: a JSON object, or key=value with YAML values"
    parser.add_argument("--kwargs", nargs="+", default=[], metavar="key=value", help=help_text)
    help_text = "with --env, steps of 64 problems that the policy and the teacher learn; default: 50 150"
    parser.add_argument("--steps", nargs=2, type=int, metavar=("POLICY", "TEACHER"), help=help_text)
    parser.add_argument("--to", default="models", help="folder to write policy/ and teacher/ into")
    parser.add_argument("--seed", type=int, default=0)


def make_models(options: argparse.Namespace) -> int:
    """Write tiny Qwen2 (policy) and Qwen3 (teacher) folders with tokenizers for a data set or an environment."""
    from tgpo_ray.models import make_taught_models, make_text_models

    if options.data:
        _refuse_without_env(options)
        folders = make_text_models(options.data, options.to, options.seed)
    else:
        if options.steps and min(options.steps) < 1:
            raise ValueError(f"--steps: must be >= 1 each, got {options.steps[0]} {options.steps[1]}")
        steps = dict(zip(ROLES, options.steps, strict=True)) if options.steps else None
        lessons = lessons_of(options.env, parsed_kwargs(options.kwargs))
        folders = make_taught_models(lessons, options.to, options.seed, steps=steps)
    for folder in folders:
        print(folder)
    return 0


def _refuse_without_env(options: argparse.Namespace) -> None:
    if options.kwargs:
        raise ValueError("--kwargs are arguments of an environment: they need --env")
    if options.steps:
        raise ValueError("--steps are of models that learn an environment: they need --env")


def lessons_of(env_id: str, kwargs: dict[str, Any]) -> dict[str, list[Pair]]:
    """Returns what policy and teacher learn: the environment's `lesson`s, or its right responses for both.

    Raises:
        ValueError: as `gold_pairs`.
    """
    env = made(env_id, kwargs)
    lesson: Any = getattr(env.unwrapped, "lesson", lambda role, index: None)
    try:
        if lesson(ROLES[0], 0) is not None:
            return {role: [lesson(role, index) for index in range(NUM_LESSONS)] for role in ROLES}
    finally:
        env.close()
    pairs = gold_pairs(env_id, kwargs)
    return dict.fromkeys(ROLES, pairs)


def gold_pairs(env_id: str, kwargs: dict[str, Any]) -> list[Pair]:
    """Returns prompts with right responses, of the environment's first problems; of several turns, the first.

    Raises:
        ValueError: the environment cannot be made, or does not say what is right.
    """
    env = made(env_id, kwargs)
    try:
        known = getattr(env.unwrapped, "gold_response", lambda index: None)
        count = getattr(env.unwrapped, "num_problems", None)
        pairs = []
        for index in range(NUM_PROBLEMS if count is None else min(count, NUM_PROBLEMS)):
            prompt, _ = env.reset(seed=0, options={"index": index})
            gold = known(index)
            if gold is None:
                raise ValueError(
                    f"{env_id} knows no right response to problem {index}, which the models would learn: define "
                    "gold_response(index), or make random models with --data"
                )
            pairs.append((prompt, gold if isinstance(gold, str) else gold[0]))
        return pairs
    finally:
        env.close()
