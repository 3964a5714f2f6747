"""tgpo/LookupChain-v0: tables, chains, splits, verdicts, and what policy and teacher are taught."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from tests.paths import ROOT
from tgpo_ray.envs.lookup_chain import Chain, LookupChainEnv, split_of
from tgpo_ray.envs.lookup_tables import LookupTables


def tables(**changes: Any) -> LookupTables:
    settings = {"num_states": 10, "num_tables": 4, "world": 0, "num_known": 2, "teacher": "exact", "error_share": 0.25}
    return LookupTables(**{**settings, **changes})


def prompts(**kwargs: Any) -> list[str]:
    env = LookupChainEnv(**kwargs)
    return [env.chain(index).prompt for index in range(env.num_problems or 200)]


def played(env: LookupChainEnv, index: int, response: str) -> tuple[float, str, dict[str, float]]:
    env.reset(seed=0, options={"index": index})
    _, reward, _, _, info = env.step(response)
    return float(reward), info["outcome"], info["reward_parts"]


@pytest.mark.parametrize("kwargs", [{}, {"num_problems": 16, "states": 5, "tables": 3, "length": 2}])
def test_it_passes_gymnasiums_checks(kwargs: dict[str, Any]) -> None:
    check_env(gymnasium.make("tgpo/LookupChain-v0", **kwargs).unwrapped)


def test_every_table_is_a_permutation_and_another_world_has_others() -> None:
    right = tables().right
    assert all(sorted(table) == list(range(10)) for table in right) and len(set(right)) == 4
    assert tables(world=1).right != right
    assert tables(num_tables=8).right[:4] == right  # more tables leave the first ones as they are


def test_a_chain_is_worked_out_table_by_table() -> None:
    env = LookupChainEnv(states=5, tables=3, length=3, num_problems=4)
    for index in range(4):
        chain, words = env.chain(index), env.gold_response(index).split()
        assert chain.prompt == f"From {'abcde'[chain.start]} by {' '.join('ABC'[table] for table in chain.tables)}:"
        state, expected = chain.start, []
        for table in chain.tables:
            state = env.tables.right[table][state]
            expected += ["ABC"[table], "abcde"[state]]
        assert words == [*expected, "\\boxed{", "abcde"[state], "}"]
        assert played(env, index, env.gold_response(index)) == (
            1.0,
            "correct",
            {"accuracy": 1.0, "known": 1.0, "unknown": 1.0},
        )


def test_the_last_box_alone_is_the_answer() -> None:
    env = LookupChainEnv(states=5, tables=3, length=3, num_problems=4)
    answer = env.gold_response(0).split()[-2]
    other = "a" if answer != "a" else "b"
    assert played(env, 0, f"\\boxed{{{answer}}}")[:2] == (1.0, "correct")
    assert played(env, 0, f"\\boxed{{{other}}} no, \\boxed{{{answer}}}")[:2] == (1.0, "correct")
    assert played(env, 0, f"\\boxed{{{answer}}} no, \\boxed{{{other}}}")[:2] == (0.0, "wrong")
    assert played(env, 0, f" A {answer}")[:2] == (0.0, "unparsable")
    assert played(env, 0, "\\boxed{" + "x" * 10**6 + "}")[:2] == (0.0, "wrong")


def test_a_look_up_is_judged_from_the_state_before_it() -> None:
    env = LookupChainEnv(states=5, tables=2, length=4, num_problems=50, known=0.5)  # A is known, B is not
    index = next(i for i in range(50) if env.chain(i).tables == (0, 1, 0, 1))
    (first, second), start = env.tables.right, env.chain(index).start
    wrong = (first[start] + 1) % 5
    path = [wrong, second[wrong], first[second[wrong]], (second[first[second[wrong]]] + 1) % 5]
    written = " ".join(f"{name} {'abcde'[state]}" for name, state in zip("ABAB", path, strict=True))
    # A: the first is wrong, the third right; B: the second is right, the fourth wrong
    assert played(env, index, written)[2] == {"known": 0.5, "unknown": 0.5}
    assert played(env, index, "")[2] == {"known": 0.0, "unknown": 0.0}
    assert played(env, index, "A ? B ab A \N{GRINNING FACE} B")[2] == {"known": 0.0, "unknown": 0.0}


def test_no_chain_is_in_two_splits_whatever_the_seeds() -> None:
    found = [
        {prompt for seed in range(3) for prompt in prompts(length=3, tables=2, states=6, split=split, seed=seed)}
        for split in ("train", "validation", "test")
    ]
    assert all(found) and not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    shares = [split_of(Chain(a, (b, c, d))) for a in range(8) for b in range(6) for c in range(6) for d in range(6)]
    assert 0.1 < shares.count("test") / len(shares) < 0.15  # one in eight
    assert 0.1 < shares.count("validation") / len(shares) < 0.15


def test_problems_differ_and_more_of_them_begin_with_the_same() -> None:
    few = prompts(length=2, tables=2, states=4, num_problems=8)
    assert len(set(few)) == 8
    assert prompts(length=2, tables=2, states=4, num_problems=10)[:8] == few
    assert prompts(num_problems=8) == prompts()[:8]
    assert prompts(num_problems=8, seed=1) != prompts(num_problems=8)
    with pytest.raises(ValueError, match=r"not 99 different chains of length 2 in the split 'train' \(found \d+\)"):
        prompts(length=2, tables=2, states=4, num_problems=99)


def test_problems_are_the_same_in_every_process() -> None:
    code = "from tgpo_ray.envs.lookup_chain import *; print(LookupChainEnv(num_problems=9).gold_response(8))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.rstrip("\n") == LookupChainEnv(num_problems=9).gold_response(8)


def test_an_environment_survives_pickling() -> None:
    env = LookupChainEnv(num_problems=5)
    env.reset(seed=0, options={"index": 2})
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step(env.gold_response(2))[1] == 1.0


def test_problems_may_be_of_known_or_of_unknown_tables_alone() -> None:
    def used(use: str) -> set[int]:
        env = LookupChainEnv(tables=8, known=0.25, use=use)
        return {table for index in range(40) for table in env.chain(index).tables}

    assert used("known") == {0, 1}
    assert used("unknown") == {2, 3, 4, 5, 6, 7}
    assert used("all") == set(range(8))


def test_the_policy_guesses_where_it_does_not_know() -> None:
    world, draw = tables(), random.Random(0)
    assert all(world.believed("policy", 1, state, draw) == world.right[1][state] for state in range(10))
    guesses = {world.believed("policy", 2, 0, draw) for _ in range(300)}
    assert guesses == set(range(10))
    assert all(world.believed("teacher", 2, state, draw) == world.right[2][state] for state in range(10))


def test_a_mistaken_teacher_is_always_wrong_in_the_same_places_that_the_policy_knows() -> None:
    world, draw = tables(teacher="mistaken"), random.Random(0)
    assert len(world.mistakes) == 5 and all(table < 2 for table, _ in world.mistakes)  # a quarter of 2 * 10
    for table in range(4):
        for state in range(10):
            believed = {world.believed("teacher", table, state, draw) for _ in range(5)}
            assert len(believed) == 1
            assert ((table, state) in world.mistakes) == (believed != {world.right[table][state]})


def test_a_noisy_teacher_is_wrong_at_random() -> None:
    world, draw = tables(teacher="noisy"), random.Random(0)
    right = [world.believed("teacher", 0, 3, draw) == world.right[0][3] for _ in range(2000)]
    assert 0.71 < sum(right) / 2000 < 0.79


def test_lessons_are_what_each_would_write() -> None:
    env = LookupChainEnv(teacher="exact")
    for index in range(20):
        prompt, response = env.lesson("teacher", index)
        assert isinstance(response, str)
        start, names = prompt.removeprefix("From ").rstrip(":").split(" by ")
        chain = Chain("abcdefghijklmnopqrstuvwxyz".index(start), tuple(ord(name) - 65 for name in names.split()))
        assert env._shares(chain, response) == {"known": 1.0, "unknown": 1.0}
        assert env.lesson("policy", index) != (prompt, response)
    assert env.lesson("policy", 3) == LookupChainEnv(num_problems=4).lesson("policy", 3)
    assert isinstance(LookupChainEnv(unknown="random").lesson("policy", 3)[1], str)
    with pytest.raises(ValueError, match="role must be one of policy, teacher, got 'tutor'"):
        env.lesson("tutor", 0)


def test_a_policy_that_has_not_seen_a_table_learns_no_state_after_it() -> None:
    unseen, guessing = LookupChainEnv(), LookupChainEnv(unknown="random")
    for index in range(20):
        prompt, pieces = unseen.lesson("policy", index)
        assert (prompt, "".join(text for text, _ in pieces)) == guessing.lesson("policy", index)
        states, names = pieces[1:-1:2], pieces[:-1:2]
        assert all(learned for _, learned in names) and pieces[-1][1]
        assert [learned for _, learned in states] == [ord(name[-1]) - 65 < 8 for name, _ in names]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"states": 27}, r"states must be a whole number in \[2, 26\], got 27"),
        ({"tables": True}, r"tables must be a whole number in \[1, 26\], got True"),
        ({"length": 0}, r"length must be a whole number in \[1, 64\], got 0"),
        ({"num_problems": 0}, r"num_problems must be a whole number in \[1, 1048576\], got 0"),
        ({"split": "tests"}, "split must be one of train, validation, test, got 'tests'; did you mean 'test'"),
        ({"teacher": "wrong"}, "teacher must be one of exact, noisy, mistaken, got 'wrong'"),
        ({"known": 1.5}, r"known must be in \[0, 1\], got 1.5"),
        ({"error_share": -1}, r"error_share must be in \[0, 1\], got -1"),
        ({"use": "known", "known": 0.0}, "use: 'known' leaves no table: 0 of 16 are known"),
    ],
)
def test_a_value_outside_its_range_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookupChainEnv(**kwargs)
