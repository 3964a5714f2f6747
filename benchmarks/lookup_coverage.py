"""Which look-ups of `tgpo/LookupChain-v0` a training text shows: entries of the tables that the policy does not know.

python benchmarks/lookup_coverage.py 16 64 256 1024                  the right traces of so many problems
python benchmarks/lookup_coverage.py --labelled .cache/lookup_chain/base_64.arrow .cache/lookup_chain/teacher_64.arrow
python benchmarks/lookup_coverage.py --traces .cache/lookup_chain/traces_noisy.jsonl

An entry is a table and the state before it. `held_out` is the share of the test split's chains all of whose unknown
entries are shown: what a policy would reach that learned each entry that it was shown, and nothing else.
`off_path` is the number of responses with a look-up that is not right.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reports import print_report
from tgpo_ray.envs import Problem
from tgpo_ray.envs.lookup_chain import Chain, LookupChainEnv
from tgpo_ray.envs.lookup_tables import STATES, TABLES

HELD_OUT = 256
Entry = tuple[str, str]  # table, state before it


def entries_of(prompt: str, response: str) -> Iterator[Entry]:
    """Yields the entries that a response looks up: its words are a table and a state in turn, up to the answer.

    Where it writes no state after a table, the entry is shown all the same by the teacher's label, and is the last one.
    """
    before = prompt.split()[1]  # "From f by B A:"
    words = response.split()
    for table, state in zip(words[::2], words[1::2], strict=False):
        if not (len(table) == 1 and table in TABLES):
            return
        yield table, before
        if not (len(state) == 1 and state in STATES):
            return
        before = state


def main() -> None:
    arguments = parse_arguments()
    test: Any = LookupChainEnv(num_problems=HELD_OUT, split="test")
    chains = [set(_unknown(test, pair)) for pair in _solutions(test)]
    everything = test.options.states * (test.options.tables - test.options.num_known)
    rows = []
    for number in arguments.problems:
        env: Any = LookupChainEnv(num_problems=number)
        rows.append(_row(f"traces of {number} problems", test, _solutions(env), chains, everything))
    for path in arguments.labelled:
        rows.append(_row(path, test, _labelled(path, arguments.policy), chains, everything))
    for path in arguments.traces:
        rows.append(_row(path, test, _traces(path), chains, everything))
    print_report({"entries": everything, "held_out_chains": HELD_OUT, "rows": rows}, arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", type=int, help="numbers of problems with one right trace each")
    parser.add_argument("--labelled", nargs="*", default=[], metavar="FILE", help="files of `tgpo-ray prefixes`")
    parser.add_argument("--traces", nargs="*", default=[], metavar="FILE", help="jsonl with `prompt` and `response`")
    parser.add_argument("--policy", default=".cache/lookup_chain/policy", help="whose tokens these files hold")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser.parse_args()


def _row(text: str, test: Any, pairs: Iterator[tuple[str, str]], chains: list[set[Entry]], everything: int) -> Any:
    shown: set[Entry] = set()
    look_ups = responses = off_path = 0
    for pair in pairs:
        found = list(_unknown(test, pair))
        shown |= {*found}
        look_ups += len(found)
        responses += 1
        off_path += not _is_right(test, *pair)
    covered = sum(chain <= shown for chain in chains) / len(chains)
    shares = {"shown": round(len(shown) / everything, 3), "held_out": round(covered, 3)}
    return {"text": text, "responses": responses, "off_path": off_path, "look_ups": look_ups, **shares}


def _is_right(test: Any, prompt: str, response: str) -> bool:
    """Whether every look-up of a response is right, as the environment judges it."""
    _, start, _, *tables = prompt.rstrip(":").split()
    chain = Chain(STATES.index(start), tuple(TABLES.index(table) for table in tables))
    parts = test.verify(Problem(prompt, "", extra={"chain": chain}), response).parts
    return parts["known"] == parts["unknown"] == 1.0


def _unknown(test: Any, pair: tuple[str, str]) -> Iterator[Entry]:
    return (entry for entry in entries_of(*pair) if not test.tables.knows(TABLES.index(entry[0])))


def _solutions(env: Any) -> Iterator[tuple[str, str]]:
    return ((env.chain(index).prompt, env.gold_response(index)) for index in range(env.num_problems))


def _traces(path: str) -> Iterator[tuple[str, str]]:
    rows = (json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines())
    return ((row["prompt"], row["response"]) for row in rows)


def _labelled(path: str, policy: str) -> Iterator[tuple[str, str]]:
    """The prompts and responses of a file of labelled responses, as texts."""
    import pyarrow as pa

    from tgpo_ray.models import load_tokenizer

    tokenizer = load_tokenizer(policy, trust_remote_code=False)
    with pa.memory_map(path) as file:
        rows = pa.ipc.open_stream(file).read_all().select(["prompt", "response_ids"]).to_pylist()
    return ((row["prompt"], tokenizer.decode(row["response_ids"])) for row in rows)


if __name__ == "__main__":
    main()
