"""The progress line: plain and sparse in a log, live in a terminal."""

import io

import pytest
from rich.console import Console

from tgpo_ray.reporting.progress import Progress, format_seconds


class Clock:
    """Time as the test tells it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(iterations, *, terminal: bool = False, enabled: bool = True, seconds: float = 2.0) -> str:
    output, clock = io.StringIO(), Clock()
    console = Console(file=output, force_terminal=terminal, width=120, _environ={})
    with Progress(10, "TGPO", enabled=enabled, console=console, clock=clock) as progress:
        for iteration, metrics in iterations:
            progress.update(iteration, metrics)
            clock.now += seconds
    return output.getvalue()


def test_a_log_gets_one_plain_line_at_most_every_five_seconds_and_the_last_one():
    lines = run([(i, {"reward": i / 10}) for i in range(1, 11)]).splitlines()
    # 2 s an iteration: 1 (0 s), 4 (6 s), 7 (12 s), 10 (18 s)
    assert [line.split()[1] for line in lines] == ["1/10", "4/10", "7/10", "10/10"]
    assert lines[1] == "TGPO  4/10  reward 0.400  left 12 s"  # 6 iterations of 2 s are left
    assert lines[-1] == "TGPO  10/10  reward 1.000"


def test_an_evaluation_is_always_printed_and_stays_on_the_line():
    lines = run(
        [(0, {"evaluation/accuracy": 0.25}), (1, {"evaluation/accuracy": 0.5}), (4, {"reward": 0.1})]
    ).splitlines()
    assert len(lines) == 2
    assert "held-out 0.500" in lines[1]
    lines = run([(1, {"evaluation/accuracy": 0.5}), (2, {"reward": 0.1})], seconds=6.0).splitlines()
    assert lines[1].startswith("TGPO  2/10  reward 0.100  held-out 0.500")


def test_the_line_shows_length_and_tokens_per_second():
    metrics = {"episode/response_length": 41.6, "throughput/response_tokens_per_s": 12345.6}
    assert run([(1, metrics)]) == "TGPO  1/10  length 42  tok/s 12,346\n"


def test_a_terminal_gets_a_live_line():
    output = run([(3, {"reward": 0.5})], terminal=True)
    assert "\x1b[" in output and "3/10" in output and "reward 0.500" in output


def test_nothing_is_written_when_switched_off():
    assert run([(10, {"reward": 0.5, "evaluation/accuracy": 1.0})], enabled=False) == ""
    assert run([(10, {"reward": 0.5})], enabled=False, terminal=True) == ""


def test_time_left_after_a_restore_counts_from_where_it_went_on():
    clock = Clock()
    progress = Progress(100, "TGPO", enabled=False, clock=clock)
    assert progress.seconds_left() is None
    progress.update(60, {})
    assert progress.seconds_left() is None
    clock.now = 3.0
    progress.update(61, {})
    assert progress.seconds_left() == 39 * 3.0


def test_a_note_is_printed_as_written():
    output = io.StringIO()
    with Progress(2, "TGPO", console=Console(file=output, width=20)) as progress:
        progress.note("saved to runs/[red]x and on, longer than the console is wide")
    assert output.getvalue() == "saved to runs/[red]x and on, longer than the console is wide\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (187, "3:07"), (7509, "2:05:09")])
def test_seconds_are_written_for_people(seconds, text):
    assert format_seconds(seconds) == text
