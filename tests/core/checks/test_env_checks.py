"""Each check finds its flaw, names the rows, and says nothing against an environment that is in order."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.core.chat_templates import APPENDING, DROPPING, chat_tokenizer
from tgpo_ray.checks.environments import CheckResult, Subject, run_checks
from tgpo_ray.checks.environments.near_misses import near_misses
from tgpo_ray.checks.environments.playing import plain
from tgpo_ray.checks.environments.texts import check_duplicates
from tgpo_ray.checks.environments.tokens import check_masks
from tgpo_ray.envs import Seconds

ALL = {
    "check_env", "info", "determinism", "pickling", "gold answers", "near misses", "values", "other answers",
    "duplicates", "texts", "rewards", "spread", "deadline", "prompt lengths", "masks",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("no_worker_outlives_its_module")


@cache
def checked(name: str) -> dict[str, CheckResult]:
    return {result.name: result for result in run_checks(Subject(f"tests.core.checks.flawed_envs:{name}-v0"))}


def failed(name: str) -> set[str]:
    return {result.name for result in checked(name).values() if result.failed}


@pytest.mark.parametrize("name", ["Sums", "Pooled", "Turns", "NoGold", "Unpicklable"])
def test_environments_in_order_pass_every_check(name: str) -> None:
    assert set(checked(name)) == ALL
    assert failed(name) == set(), [result for result in checked(name).values() if result.failed]


@pytest.mark.parametrize(
    ("name", "check", "shown"),
    [
        ("Unseeded", "determinism", "another process"),
        ("Remembering", "determinism", "another order"),
        ("WrongGold", "gold answers", "'7': reward 0, wrong, read as '7'"),
        ("Lenient", "near misses", "a digit behind"),
        ("Generous", "rewards", "reward nan"),
        ("Raising", "rewards", "raised ValueError"),
        ("Swallowing", "deadline", "a hung verifier gave reward 0, wrong"),
        ("Repeating", "masks", "repeats the conversation"),
        ("Silent", "masks", "goes on without a text"),
        ("Duplicated", "duplicates", "the prompt of problem 0 too, with another answer: '6' for '5'"),
        ("ReadInPart", "other answers", "'6m' is satisfied by '6', and not the other way round"),
        ("Printed", "texts", "the prompt has a Python value"),
        ("Printed", "texts", "the right answer is a Python value: \"{'ground_truth': '7'}\""),
        ("Constant", "spread", "right and wrong, has the reward 1"),
        ("Never", "spread", "right and wrong, has the reward 0"),
    ],
)
def test_a_flaw_is_found_with_its_row(name: str, check: str, shown: str) -> None:
    assert check in failed(name)
    result = checked(name)[check]
    assert any(shown in finding.text for finding in result.findings), result.findings
    assert result.fix


def test_failing_rows_are_all_there_by_index() -> None:
    assert [finding.index for finding in checked("WrongGold")["gold answers"].findings] == [3, 7]


def test_a_reward_outside_the_range_fails_unless_the_range_is_stated() -> None:
    findings = checked("Generous")["rewards"].findings
    assert any("reward 2.0" in finding.text for finding in findings)
    stated = Subject("tests.core.checks.flawed_envs:Generous-v0", reward_range=(0.0, 2.0))
    result = next(result for result in run_checks(stated) if result.name == "rewards")
    assert not any("reward 2.0" in finding.text for finding in result.findings)


def test_what_cannot_be_checked_is_skipped_with_the_reason() -> None:
    skipped = {name: result.measured for name, result in checked("NoGold").items() if result.status == "skipped"}
    assert set(skipped) == {"gold answers", "near misses", "values", "other answers", "deadline", "prompt lengths"}
    assert "gold_response" in skipped["gold answers"]
    assert "nothing is killed" in skipped["deadline"]
    assert all(len(reason.split()) > 5 for reason in skipped.values())


def test_a_hung_verifier_is_killed_and_the_real_one_is_back_afterwards() -> None:
    result = checked("Pooled")["deadline"]
    assert "else 4 s" in result.measured
    assert Subject("tests.core.checks.flawed_envs:Pooled-v0").play(5, ("10",)).info["outcome"] == "correct"


def test_an_environment_that_does_not_pickle_whole_travels_as_its_spec() -> None:
    assert "TypeError" in checked("Unpicklable")["pickling"].measured


def test_masks_count_the_tokens_of_each_author() -> None:
    # bytes are the tokens: three responses of 25, 15 and 8 letters, the answer to the first two of 13
    measured = checked("Turns")["masks"].measured
    assert measured.startswith("3 turns at most")
    assert f"{2 * 2 * 13} of the environment" in measured


def test_a_chat_that_the_tokenizers_template_cannot_append_has_wrong_masks() -> None:
    chat = {"prompt": "chat", "max_turns": 3}
    appending, dropping = (
        check_masks(Subject("tgpo/GuessNumber-v0", chat, limit=5, tokenizer=chat_tokenizer(template)))
        for template in (APPENDING, DROPPING)
    )
    assert appending.status == "ok" and "a chat, with its template" in appending.measured
    assert dropping.failed
    assert dropping.findings[0].text.startswith("turn 1: the tokenizer's chat template does not keep earlier thoughts")
    assert "without its template: give --tokenizer" in check_masks(Subject("tgpo/GuessNumber-v0", chat)).measured


def test_prompts_are_measured_in_the_tokenizers_tokens(tiny_models: dict[str, str]) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_models["policy"])
    subject = Subject("tests.core.checks.flawed_envs:Sums-v0", tokenizer=tokenizer, max_prompt_tokens=4)
    result = next(result for result in run_checks(subject) if result.name == "prompt lengths")
    assert "longest 6 tokens" in result.measured  # 10+10=
    assert [finding.index for finding in result.findings] == [10, 11]


def test_duplicates_are_found_by_their_values_among_all_rows() -> None:
    result = checked("Duplicated")["duplicates"]
    assert [finding.index for finding in result.findings] == [2]  # 1 and 1.0 are one answer
    assert result.measured == "6 of 6 prompts compared, 3 repeat an earlier one"
    few = Subject("tests.core.checks.flawed_envs:Duplicated-v0", limit=1)
    assert check_duplicates(few).findings == result.findings


def test_an_answer_that_agrees_with_itself_as_text_alone_is_shown_among_those_that_are_read() -> None:
    result = checked("ReadInPart")["values"]
    assert result.status == "ok" and result.measured == "2 of 3 answers with a number are read as values"
    assert [finding.index for finding in result.findings] == [3]
    assert "compares texts" in checked("Sums")["values"].measured


def test_equal_answers_in_two_spellings_are_shown_and_are_no_fault() -> None:
    result = checked("Duplicated")["other answers"]
    assert result.status == "ok"
    assert any("'1.0'" in finding.text and "are one value" in finding.text for finding in result.findings)


def test_every_prompt_that_python_printed_is_named() -> None:
    findings = checked("Printed")["texts"].findings
    assert sorted({finding.index for finding in findings}, key=str) == [0, 1, 2, 3]


def test_rows_are_drawn_the_same_at_each_call() -> None:
    draws = [Subject("tests.core.checks.flawed_envs:Sums-v0", limit=5).indices for _ in range(2)]
    assert draws[0] == draws[1] and len(set(draws[0])) == 5
    assert Subject("tests.core.checks.flawed_envs:Sums-v0", limit=0).indices == list(range(12))


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        (r"so \boxed{12}", "12", [r"so \boxed{13}", r"so \boxed{112}", r"so \boxed{121}"]),
        ("9 apples, so 2.5", "2.5", ["9 apples, so 3.5", "9 apples, so 12.5", "9 apples, so 2.51"]),
        ("(B)", "B", ["(C)"]),
        ("buzz", None, ["buza"]),
        ("!", "!", []),
    ],
)
def test_near_misses_differ_in_the_answer_alone(response: str, answer: str | None, expected: list[str]) -> None:
    kinds = near_misses(response, answer)
    assert kinds.pop("an empty response") == [""]
    assert [text for texts in kinds.values() for text in texts] == expected


def test_transcripts_leave_durations_out_and_nothing_else() -> None:
    assert plain({"a": Seconds(1.5), "b": (1.5, None)}) == {"a": "a duration", "b": [1.5, None]}
