"""tgpo/MultipleChoice-v0."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.envs.single_step import step
from tgpo_ray.envs.choices import chosen
from tgpo_ray.envs.multiple_choice import MultipleChoiceEnv

PLANETS = {"problem": "Which is red?", "choices": ["Venus", "Mars.", "the Earth", "rr", "RR"], "answer": "B"}
DATA_SETS = ["arc_challenge", "mmlu_pro_560"]


def failures(path: Path, count: int | None, **kwargs: Any) -> list[Any]:
    env = MultipleChoiceEnv(str(path), **kwargs)
    failed = []
    for index in range(count or env.num_problems or 0):
        row = env.row(index)
        right = [env.gold_response(index), f"Answer: {' '.join(row.choices[row.answer].split())}"]
        # an option that is itself a letter is read as one
        right = right[:1] if len(row.choices[row.answer].strip()) == 1 else right
        wrong = [f"\\boxed{{{letter}}}" for i, letter in enumerate("ABCDEFGHIJ") if i != row.answer]
        failed += [(index, text) for text in right if step(env, index, text)[0] != 1.0]
        failed += [(index, text) for text in wrong if step(env, index, text)[0] != 0.0]
    return failed


@pytest.fixture
def planets(write_jsonl) -> str:
    return write_jsonl(PLANETS)


@pytest.mark.parametrize("prompt", ["plain", "think", "chat"])
def test_it_passes_gymnasiums_checks(planets, prompt):
    check_env(gymnasium.make("tgpo/MultipleChoice-v0", path=planets, prompt=prompt).unwrapped)


@pytest.mark.parametrize("name", DATA_SETS)
def test_gold_answers_of_a_sample_score_one_and_the_other_letters_nothing(data_folder, name):
    assert failures(data_folder / f"{name}.jsonl", 150) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA_SETS)
def test_gold_answers_of_every_row_score_one_and_the_other_letters_nothing(data_folder, name):
    assert failures(data_folder / f"{name}.jsonl", None) == []
    assert failures(data_folder / f"{name}.jsonl", None, shuffle=False) == []


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        ("\\boxed{B}", "correct"),
        ("\\boxed{b}", "correct"),
        ("\\boxed{(B)}", "correct"),
        ("\\boxed{\\text{B}}", "correct"),
        ("\\boxed{\\textbf{(B) Mars}}", "correct"),
        ("\\boxed{B. Mars}", "correct"),
        ("\\boxed{mars}", "correct"),
        ("\\boxed{ Mars }", "correct"),
        ("\\boxed{A}, no: \\boxed{B}", "correct"),
        ("Answer: B", "correct"),
        ("The answer is (B).", "correct"),
        ("**Final answer: B**", "correct"),
        ("Answer: A\nNo.\nAnswer: Option B", "correct"),
        ("Answer: A, or rather \\boxed{B}", "correct"),
        ("Answer: B) the red one", "correct"),
        ("Answer: rr", "wrong"),
        ("The answer is B. Wait, no. The answer is A.", "wrong"),  # the last statement, also within a line
        ("The answer is A. Wait, no. The answer is B.", "correct"),
        ("The answer is not clear. Still, the answer is B.", "correct"),
        ("\\boxed{CO_2}. Answer: B", "correct"),  # a box that is no option
        ("\\boxed{B (Mars)}", "correct"),
        ("\\boxed{\\(B\\)}", "correct"),
        ("\\boxed{{B}}", "correct"),
        ("\\boxed{B\\,}", "correct"),
        ("\\boxed{Mars (B)}", "correct"),
        ("The answer is B because A is blue.", "correct"),
        ("The answer is B, not C.", "correct"),
        ("\\boxed{(B) or (C)}", "wrong"),  # two letters
        ("\\boxed{B. C. D. A.}", "wrong"),
        ("\\boxed{B: I am not sure, maybe C}", "wrong"),
        ("Answer: B/C", "wrong"),
        ("\\boxed{A}", "wrong"),
        ("\\boxed{J}", "wrong"),
        ("\\boxed{B. Venus}", "wrong"),  # a letter and a text that disagree
        ("\\boxed{A. Mars}", "wrong"),
        ("\\boxed{AB}", "wrong"),
        ("\\boxed{Marsh}", "wrong"),
        ("\\boxed{}", "wrong"),
        ("B", "unparsable"),
        ("It is Mars, I think", "unparsable"),
        ("\\boxed{B", "unparsable"),
        ("", "unparsable"),
    ],
)
def test_letters_and_texts_are_read_and_near_misses_are_not(planets, response, outcome):
    reward, info = step(MultipleChoiceEnv(planets, shuffle=False), 0, response)
    assert (info["outcome"], reward) == (outcome, float(outcome == "correct"))


def test_options_that_differ_in_case_alone_are_two():
    assert chosen("rr", PLANETS["choices"]) == 3
    assert chosen("RR", PLANETS["choices"]) == 4
    assert chosen("Rr", PLANETS["choices"]) is None


def test_the_same_text_under_another_letter_is_right_as_well(write_jsonl):
    path = write_jsonl({"problem": "1+1?", "choices": ["2", "3", "2"], "answer": "A"})
    env = MultipleChoiceEnv(path, shuffle=False)
    assert [step(env, 0, f"\\boxed{{{letter}}}")[0] for letter in "ABC"] == [1.0, 0.0, 1.0]


def test_options_are_shuffled_by_seed_and_index_and_every_letter_is_as_likely(write_jsonl):
    path = write_jsonl(*[PLANETS] * 400)
    env = MultipleChoiceEnv(path, seed=1)
    letters = [env.problem(index, env.np_random).answer for index in range(400)]
    assert letters == [MultipleChoiceEnv(path, seed=1).problem(i, env.np_random).answer for i in range(400)]
    assert letters != [MultipleChoiceEnv(path, seed=2).problem(i, env.np_random).answer for i in range(400)]
    assert all(50 < count < 115 for count in Counter(letters).values())  # 80 expected, deviation 8
    assert {MultipleChoiceEnv(path, shuffle=False).row(index).answer for index in range(20)} == {1}


def test_options_that_name_others_by_letter_keep_their_order(write_jsonl):
    row = {"problem": "?", "choices": ["one", "two", "three", "Both A and B"], "answer": "D"}
    env = MultipleChoiceEnv(write_jsonl(*[row] * 20))
    assert {env.row(index).answer for index in range(20)} == {3}


def test_the_prompt_shows_lettered_options(planets):
    text, _ = MultipleChoiceEnv(planets, shuffle=False).reset(seed=0, options={"index": 0})
    assert "Which is red?\n\nA. Venus\nB. Mars.\nC. the Earth\nD. rr\nE. RR\n\nAnswer with the letter" in text


def test_rows_may_have_the_shapes_of_arc_mmlu_pro_and_gpqa(write_jsonl):
    arc = {"question": "?", "choices": {"text": ["x1", "x2", "x3"], "label": ["1", "2", "3"]}, "answerKey": "3"}
    gpqa = {"Question": "?", "Correct": "yes", "No 1": "no", "No 2": "never"}
    mmlu = {"question": "?", "options": ["x1", "x2", "x3"], "answer": "C", "answer_index": 2}
    names: dict[str, Any] = {"problem": "question", "answer": "answerKey"}
    assert MultipleChoiceEnv(write_jsonl(arc), columns=names, shuffle=False).row(0).answer == 2
    names = {"problem": "question", "choices": "options"}
    assert MultipleChoiceEnv(write_jsonl(mmlu), columns=names, shuffle=False).row(0).answer == 2
    names = {"problem": "Question", "choices": ["No 1", "No 2"], "answer": "Correct"}
    env = MultipleChoiceEnv(write_jsonl(gpqa), columns=names)
    row = env.row(0)
    assert sorted(row.choices) == ["never", "no", "yes"] and row.choices[row.answer] == "yes"


def test_the_gate_reads_only_what_follows_the_closed_thought(planets):
    env = MultipleChoiceEnv(planets, prompt="think", shuffle=False)
    assert step(env, 0, "\\boxed{A}</think> \\boxed{B}")[1]["reward_parts"] == {"accuracy": 1.0, "format": 1.0}
    assert step(env, 0, "\\boxed{B}")[1]["reward_parts"] == {"accuracy": 0.0, "format": 0.0}
    assert step(env, 0, "</think>?")[1]["reward_parts"] == {"accuracy": 0.0, "format": 1.0}


@pytest.mark.parametrize(
    ("row", "kwargs", "message"),
    [
        ({"answer": "F"}, {}, "row 0: the answer must be one of A, B, C, D, E or the text of a choice, got 'F'"),
        ({"choices": ["one"]}, {}, "row 0: a problem must have 2 to 10 choices, got 1"),
        ({"choices": list("abcdefghijk")}, {}, "2 to 10 choices, got 11"),
        ({"choices": "A) x B) y"}, {}, "row 0: the choices must be a list of texts, got str"),
        ({"choices": '["x", "y"]'}, {}, "write a JSON list such as"),
        ({"choices": ["x", None]}, {}, "row 0: choice 2 is missing, got None: fill it in or drop the row"),
        ({"choices": ["x", " "]}, {}, "row 0: choice 2 is missing, got ' '"),
        ({"choices": ["x", float("nan")]}, {}, "row 0: choice 2 is missing, got nan"),
        ({"choices": [["x"], ["y"]]}, {}, r"row 0: choice 1 must be text, got list \['x'\]: write it as text"),
        ({"choices": [True, False]}, {}, "row 0: choice 1 must be text, got bool True"),
        ({"choices": {"text": ["x", "y"], "label": ["A", None]}}, {}, "row 0: label 2 is missing"),
        ({"choices": {"text": "xyz", "label": ["A"]}}, {}, "row 0: the choices must be a list of texts, got str"),
        ({"choices": {"text": ["x", "y"], "label": list("ABC")}, "answer": "C"}, {}, "got 3 labels .* and 2 texts"),
        ({"wrong": ["x"]}, {"columns": {"choices": ["wrong"]}}, "row 0: the column 'wrong' must be text, got list"),
        ({"answer": ["x"], "wrong": "x"}, {"columns": {"choices": ["wrong"]}}, "row 0: the answer must be text, got l"),
        ({"choices": ["1", "2", "3"], "answer": 2}, {}, "row 0: the answer 2 may be an option's text or its place"),
        ({"answer": 2}, {}, "answer_index: 0 or 1 where answers count the options"),
        ({"answer": 5}, {"answer_index": 0}, "a whole number from 0 to 4 with answer_index: 0, got 5"),
        ({}, {"answer_index": 2}, "answer_index must be 0, 1 or null, got 2"),
        ({}, {"columns": {"choices": "options"}}, "has no column 'options'"),
        ({}, {"columns": {"choises": "options"}}, "unknown key 'choises'; did you mean 'choices'"),
        ({}, {"columns": {"choices": ["wrong 1"]}}, "has no column 'wrong 1'"),
        ({}, {"prompt": "thnk"}, "did you mean 'think'"),
    ],
)
def test_a_wrong_row_or_setting_is_named(write_jsonl, row, kwargs, message):
    with pytest.raises(ValueError, match=message):
        MultipleChoiceEnv(write_jsonl({**PLANETS, **row}), **kwargs)


def test_blanks_around_a_choice_a_label_or_the_answer_make_no_difference(write_jsonl):
    path = write_jsonl({"problem": "?", "choices": ["x ", " y"], "answer": "x "})
    assert MultipleChoiceEnv(path, shuffle=False).row(0).choices == ("x", "y")
    path = write_jsonl({"problem": "?", "choices": {"text": ["x", 2], "label": ["p ", "q"]}, "answer": "p"})
    assert MultipleChoiceEnv(path, shuffle=False).row(0).answer == 0


@pytest.mark.parametrize(("first", "place"), [(0, 2), (1, 1)])
def test_answers_may_count_the_choices(write_jsonl, first, place):
    path = write_jsonl({"problem": "?", "choices": ["1", "2", "3"], "answer": 2})
    assert MultipleChoiceEnv(path, answer_index=first, shuffle=False).row(0).answer == place


def test_it_survives_pickling_in_the_middle_of_an_episode(planets):
    env = MultipleChoiceEnv(planets)
    env.reset(seed=0, options={"index": 0})
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step(env.gold_response(0))[1] == 1.0


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        ("Answer: Neither proof nor disproof", "correct"),
        ("The answer is neither proof nor disproof.", "correct"),
        ("The answer is not proof.", "unparsable"),
        ("The answer is neither A nor B.", "unparsable"),
    ],
)
def test_an_option_may_itself_be_a_denial(write_jsonl, response, outcome):
    row = {"problem": "What is it?", "choices": ["proof", "disproof", "Neither proof nor disproof"], "answer": "C"}
    assert step(MultipleChoiceEnv(write_jsonl(row)), 0, response)[1]["outcome"] == outcome


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=120) | st.text("\\{}$*()[] ABCanswer:is.boxedtext", max_size=80))
def test_no_text_raises_and_every_outcome_is_typed(planets, text):
    for response in (text, f"\\boxed{{{text}}}", f"Answer: {text}"):
        reward, info = step(MultipleChoiceEnv(planets), 0, response)
        assert info["outcome"] in {"correct", "wrong", "unparsable"}
        assert reward == float(info["outcome"] == "correct")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", ["answer: ", "\\boxed{", "answer is\n", "\\text{", "*", " ", "x"])
def test_a_megabyte_takes_seconds_and_not_minutes(planets, part):
    env, text = MultipleChoiceEnv(planets), "\\boxed{" + part * (1_000_000 // len(part))
    for response in (text, text + "}"):
        start = time.process_time()  # of this process alone: the machine may be busy with other things
        step(env, 0, response)
        assert time.process_time() - start < 5.0  # about 1 s; were it quadratic, an hour
