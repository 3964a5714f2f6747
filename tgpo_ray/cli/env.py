"""`tgpo-ray env list | show | play | check`: look at an environment, answer it, and find out what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium import Env

    from tgpo_ray.models import Tokenizer

MAX_PROBLEM = 10**9
FENCE = "```"


def add_env_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `env` with its sub-commands to the sub-parsers of `tgpo-ray`."""
    text = "List, show, play and check environments."
    env = commands.add_parser("env", help=text, description=text)
    subs = env.add_subparsers(dest="env_command", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], *, takes_env: bool = True
    ) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").splitlines()[0]
        sub = subs.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if takes_env:
            sub.add_argument("id", help="tgpo/Math-v0, my_module:MyEnv-v0, or an id of an installed package")
            help_text = "the environment's arguments: a JSON object, or key=value with YAML values"
            sub.add_argument("--kwargs", nargs="+", default=[], metavar="key=value", help=help_text)
            sub.add_argument("--seed", type=int, default=0)
        return sub

    command("list", _list, takes_env=False)
    show = command("show", _show)
    show.add_argument("--arguments", action="store_true", help="print what the environment takes, without making it")
    for sub in (show, command("play", _play)):
        sub.add_argument("-n", type=int, default=5 if "show" in sub.prog else 1, help="how many problems")
        sub.add_argument("--index", type=int, default=0, help="the first of them")
    check = command("check", _check)
    check.add_argument("--limit", type=int, default=500, help="rows looked at, drawn at random; 0: all")
    check.add_argument("--tokenizer", help="folder or id of the policy's tokenizer, to measure prompts with")
    help_text = "values for its chat template: a JSON object, or key=value, as enable_thinking=false"
    check.add_argument("--chat-template-kwargs", nargs="+", default=[], metavar="key=value", help=help_text)
    check.add_argument("--trust-remote-code", action="store_true", help="run Python code that ships with the tokenizer")
    check.add_argument("--max-prompt-tokens", type=int, help="the bound for prompts; needs --tokenizer")
    check.add_argument("--reward-range", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"))


def parsed_kwargs(items: Iterable[str], flag: str = "--kwargs") -> dict[str, Any]:
    """Returns the arguments of a JSON object, or of `key=value` items with values in YAML 1.2.

    Raises:
        ValueError: the items have another form.
    """
    from tgpo_ray.config import load_yaml

    items = list(items)
    if len(items) == 1 and items[0].lstrip().startswith("{"):
        try:
            return dict(json.loads(items[0]))
        except json.JSONDecodeError as error:
            raise ValueError(f'{flag} is not JSON: {error}; write {{"path": "x.jsonl"}} or path=x.jsonl') from None
    kwargs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ValueError(f"{flag} takes key=value or one JSON object, got {item!r}")
        kwargs[key] = load_yaml(value, f"{flag} {key}")
    return kwargs


def made(env_id: str, kwargs: dict[str, Any]) -> Env[str, str]:
    """Returns the environment; ValueError, with the reason for people, where it cannot be made."""
    from tgpo_ray.env_runners import explained, make_env

    try:
        return make_env(env_id, kwargs)
    except Exception as error:  # a user's constructor may raise anything
        raise ValueError(f"{env_id}: {explained(env_id, error)}") from error


def _list(options: argparse.Namespace) -> int:
    """List the environments of this package and of installed packages."""
    from tgpo_ray.env_runners import description, listed_ids, load_plugins

    ids = listed_ids()
    width = max(map(len, ids))
    for env_id in ids:
        print(f"{env_id:{width}}  {description(env_id)}")
    problems = load_plugins().problems
    for point, problem in problems.items():
        print(f"cannot load the entry point {point}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _show(options: argparse.Namespace) -> int:
    """Print problems: prompts as the policy gets them, and gold responses. With --arguments: what it takes."""
    if options.arguments:
        return _show_arguments(options.id)
    env = made(options.id, parsed_kwargs(options.kwargs))
    for index in _indices(env, options):
        prompt, info = env.reset(seed=options.seed, options={"index": index})
        print(f"--- problem {index}")
        _print_chat(info)
        if not info.get("messages"):
            print(_printable(prompt))
        gold = getattr(env.unwrapped, "gold_response", lambda index: None)(index)
        _print_gold(env, (gold,) if isinstance(gold, str) else gold)
        print()
    env.close()
    return 0


def _show_arguments(env_id: str) -> int:
    from tgpo_ray.env_runners import argument_lines, explained

    try:
        lines = argument_lines(env_id)
    except Exception as error:  # an unknown id, or any error of a user's module
        raise ValueError(f"{env_id}: {explained(env_id, error)}") from error
    print("\n".join(lines) or f"{env_id} takes no arguments")
    return 0


def _print_chat(info: dict[str, Any]) -> None:
    for message in info.get("messages") or ():
        print(_printable(f"[{message['role']}]\n{message['content']}"))


def _printable(text: str) -> str:
    """Returns the text as the policy reads it: half of a character would end the command."""
    from tgpo_ray.models import whole_text

    return whole_text(text)


def _print_gold(env: Env[str, str], responses: tuple[str, ...] | None) -> None:
    """Print the right responses, one for each turn, with the environment's text between them."""
    if responses is None or len(responses) == 1:
        print("--- gold response: unknown" if responses is None else f"--- gold response\n{responses[0]}")
        return
    print("--- gold responses, turn by turn")
    for number, response in enumerate(responses, start=1):
        print(f"[policy]\n{response}")
        if number < len(responses):
            text, *_, info = env.step(response)
            _print_chat(info)
            if not info.get("messages"):
                print(f"[environment]\n{text.strip()}")


def _indices(env: Env[str, str], options: argparse.Namespace) -> range:
    count = getattr(env.unwrapped, "num_problems", None)
    if not 0 <= options.index < (MAX_PROBLEM if count is None else count):
        raise ValueError(f"--index must be in [0, {count}), got {options.index}: there is no such problem")
    return range(options.index, min(options.index + options.n, MAX_PROBLEM if count is None else count))


def _play(options: argparse.Namespace) -> int:
    """Answer problems at the terminal; an empty line outside a block of code ends an answer, Ctrl-D ends the game."""
    env = made(options.id, parsed_kwargs(options.kwargs))
    try:
        for index in _indices(env, options):
            print(f"--- problem {index}")
            if not _play_one(env, index, options.seed):
                break
    finally:
        env.close()
    return 0


def _play_one(env: Env[str, str], index: int, seed: int) -> bool:
    """Returns whether the episode was played to its end; False if the input ended before."""
    text, info = env.reset(seed=seed, options={"index": index})
    for message in info.get("messages") or ({"content": text},):
        print(_printable(message["content"]))
    total, done = 0.0, False
    while not done:
        answer = _answer()
        if answer is None:
            return False
        text, reward, terminated, truncated, info = env.step(answer)
        total, done = total + float(reward), terminated or truncated
        print(_printable(text.strip("\n")) if not done else f"--- reward {total:g}{_outcome_text(info)}")
    return True


def _answer() -> str | None:
    """Returns the lines up to an empty one outside a block of code, or None if the input has ended."""
    print("your answer (an empty line ends it):", flush=True)
    lines: list[str] = []
    fenced = False
    while (line := sys.stdin.readline()) and (fenced or line != "\n"):
        fenced ^= line.lstrip().startswith(FENCE)
        lines.append(line.rstrip("\n"))
    return None if not lines and not line else "\n".join(lines)


def _outcome_text(info: dict[str, Any]) -> str:
    parts = [(key, str(info[key])) for key in ("outcome", "answer", "detail") if info.get(key) not in (None, "")]
    return "".join(f", {key} {text if text.isprintable() else repr(text)}" for key, text in parts)


def _check(options: argparse.Namespace) -> int:
    """Check an environment before anything is trained with it; exits 1 where something is wrong."""
    from tgpo_ray.checks import Subject, print_results, run_checks

    if options.max_prompt_tokens is not None and options.tokenizer is None:
        raise ValueError("--max-prompt-tokens needs --tokenizer: the folder of the policy's tokenizer")
    kwargs = parsed_kwargs(options.kwargs)
    env = made(options.id, kwargs)
    env.close()
    low, high = options.reward_range
    subject = Subject(
        options.id,
        kwargs,
        limit=options.limit,
        seed=options.seed,
        reward_range=(low, high),
        tokenizer=_tokenizer(options),
        max_prompt_tokens=options.max_prompt_tokens,
    )
    results = list(run_checks(subject))
    return 0 if print_results(f"env check {options.id}", results) else 1


def _tokenizer(options: argparse.Namespace) -> Tokenizer | None:
    from tgpo_ray.models import load_tokenizer, template_kwargs_problems

    flag = "--chat-template-kwargs"
    values = parsed_kwargs(options.chat_template_kwargs, flag)
    if options.tokenizer is None:
        if values:
            raise ValueError(f"{flag} needs --tokenizer: the folder of the policy's tokenizer")
        return None
    try:
        tokenizer = load_tokenizer(
            options.tokenizer, trust_remote_code=options.trust_remote_code, chat_template_kwargs=values
        )
    except Exception as error:  # OSError, ValueError, ImportError, and what its parsers raise
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--tokenizer {options.tokenizer} cannot be loaded: {reason}") from error
    for problem in template_kwargs_problems(flag, values, tokenizer):
        raise ValueError(problem)
    return tokenizer
