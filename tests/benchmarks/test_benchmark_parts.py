"""The parts that several benchmarks share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.actor_clock import ActorClock, length_of_union
from benchmarks.contestant import Contestant
from benchmarks.driver_profile import DriverProfile
from benchmarks.lookup_coverage import entries_of
from benchmarks.process_memory import MemoryWatch, peak_rss_mib
from benchmarks.scheduling import ROOM, ideal_seconds, lengths_of
from benchmarks.step_shapes import SHAPES, env_arguments, prepare
from benchmarks.tiny_policies import mean_length, read_problems, repeat_rows, write_policy
from tests.paths import ROOT
from tgpo_ray.envs.lookup_chain import LookupChainEnv
from tgpo_ray.episode import Task
from tgpo_ray.models import character_tokenizer

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_a_union_counts_what_overlaps_once() -> None:
    assert length_of_union([(0.0, 2.0), (1.0, 3.0), (1.5, 1.7), (5.0, 6.0)]) == 4.0
    assert length_of_union([]) == 0.0


def test_the_clock_cuts_intervals_to_the_stretch_that_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with ActorClock() as clock:
        folder = Path(clock.runtime_env["env_vars"]["TGPO_BENCHMARK_CLOCK"])
        (folder / "1").write_text("env_runners\n1.0 3.0\n6.0 9.0\n")
        (folder / "2").write_text("learners\n2.0 4.0\n20.0 30.0\n")
        busy = clock.busy(2.0, 8.0)
    assert busy.stages == {"env_runners": 3.0, "learners": 2.0}
    assert (busy.wall_s, busy.any_s, busy.first_end) == (6.0, 4.0, 3.0)
    # the slower stage needs 3 s, and two cores 2.5 s for both
    assert busy.report(2)["bound_s"] == 3.0
    assert busy.report(1, num_steps=2)["bound_s"] == 2.5
    assert busy.report(2)["outside_models_share"] == pytest.approx(2 / 6, abs=1e-4)


@pytest.mark.parametrize("end_probability", [0.0, 1 / 16, 1 / 1000])
def test_a_policy_ends_with_the_same_probability_everywhere(tmp_path: Path, end_probability: float) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = character_tokenizer([*"0123456789+="])
    write_policy(tmp_path, "qwen2", tokenizer, end_probability, num_key_value_heads=1, **TINY)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(2, 14, (4, 200), generator=torch.Generator().manual_seed(5))
    ends = model(ids).logits.softmax(-1)[..., tokenizer.eos_token_id]
    assert ends.detach().numpy() == pytest.approx(end_probability, rel=0.02, abs=1e-12)


def test_the_mean_length_is_that_of_a_geometric_law_under_a_cap() -> None:
    drawn = np.minimum(np.random.default_rng(0).geometric(1 / 50, 200_000), 100)
    assert mean_length(1 / 50, 100) == pytest.approx(drawn.mean(), rel=0.01)
    assert mean_length(0.0, 64) == 64


def test_rows_are_repeated_and_a_missing_file_is_named(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": "2"}]
    lines = repeat_rows(rows, tmp_path / "rows.jsonl", 5).read_text().splitlines()
    assert [json.loads(line)["problem"] for line in lines] == ["a", "b", "a", "b", "a"]
    assert len(read_problems(tmp_path / "rows.jsonl")) == 5
    with pytest.raises(ValueError, match=r"--path nowhere.jsonl: no such file: give a jsonl"):
        read_problems("nowhere.jsonl")


def test_the_prompts_of_a_shape_have_its_length(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    shape = SHAPES["small_vocabulary"]
    prepare(shape, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    problems = read_problems(env_arguments(tmp_path)["path"])
    assert {len(tokenizer.encode(row["problem"])) for row in problems} == {shape.prompt}
    assert len(tokenizer) == shape.vocabulary


def test_the_ideal_schedule_gives_each_group_the_first_free_place() -> None:
    tasks = [Task(0, i, seed=i, ordinal=i) for i in range(3)]
    longest = [float(lengths_of(task).max()) for task in tasks]
    assert ROOM == 2
    assert ideal_seconds(tasks, 1) == max(longest[0], longest[1], min(longest[:2]) + longest[2])
    assert ideal_seconds(tasks, 2) == max(longest)


def test_the_drivers_time_goes_to_whom_it_belongs() -> None:
    with DriverProfile(profiled=True) as profile:
        sum(i * i for i in range(200_000))
    report = profile.report(num_episodes=10)
    assert report["us_per_episode_main_thread"] > 0
    assert sum(report["main_thread_shares"].values()) == pytest.approx(1.0, abs=0.01)


def test_the_watch_sees_this_process_and_what_it_starts() -> None:
    with MemoryWatch() as watch:
        watch.sample()
    (driver,) = watch.peaks["driver"]
    assert 0 < driver["peak_private_mib"] <= driver["peak_rss_mib"] <= peak_rss_mib() + 1


def test_contestants_take_turns(tmp_path: Path) -> None:
    script = tmp_path / "counts.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from benchmarks.contestant import keep_output_for_replies, reply, turns\n"
        "keep_output_for_replies()\n"
        "print('not a reply')\n"
        "reply({'ready': 1})\n"
        "for steps in turns():\n"
        "    reply({'steps': steps})\n"
    )
    contestant = Contestant([str(script)], {"PYTHONUNBUFFERED": "1"})
    try:
        assert contestant.ready == {"ready": 1}
        assert contestant.turn(3) == {"steps": 3}
        assert contestant.turn(5) == {"steps": 5}
    finally:
        contestant.stop()


def test_a_contestant_that_ends_early_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the contestant ended with code 3"):
        Contestant(["-c", "import sys; sys.exit(3)"], {})


def test_a_response_shows_its_look_ups_off_the_right_path_too() -> None:
    env = LookupChainEnv(num_problems=1)
    right = list(entries_of(env.chain(0).prompt, env.gold_response(0)))
    assert len(right) == 8 and [table for table, _ in right] == env.chain(0).prompt.rstrip(":").split()[3:]
    assert list(entries_of("From f by B A:", " B g A k \\boxed{ k }")) == [("B", "f"), ("A", "g")]
    assert list(entries_of("From f by B A:", " B z A A A g")) == [("B", "f"), ("A", "z")]  # a slip is the last one
