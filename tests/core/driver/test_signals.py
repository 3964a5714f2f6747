"""SIGTERM as a notice: what it interrupts at once, what may end first, and what a second signal does."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tgpo_ray.driver.signals import Notice, terminated_by_signal
from tgpo_ray.driver.way_on import way_on


def send(number: signal.Signals) -> None:
    """As from another process, and seen before the next line."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def test_a_notice_interrupts_at_once_where_a_checkpoint_can_be_made():
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), terminated_by_signal(60.0) as notice:
        notice.can_save = lambda: True
        try:
            send(signal.SIGTERM)
        finally:
            assert notice.given
        pytest.fail("it went on")


def test_an_update_ends_first_and_the_loop_learns_of_the_notice_after_it():
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), terminated_by_signal(60.0) as notice:
        notice.can_save = lambda: False
        send(signal.SIGTERM)
        steps.append("update")
        assert notice.given
        notice.check()
    assert steps == ["update"]


def test_an_evaluation_is_interrupted_when_the_grace_is_over():
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), terminated_by_signal(0.2) as notice:
        notice.can_save = lambda: True
        with notice.held():
            send(signal.SIGTERM)
            time.sleep(10.0)
    assert 0.1 < time.monotonic() - start < 5.0


def test_a_checkpoint_that_is_being_written_is_not_interrupted():
    with pytest.raises(KeyboardInterrupt), terminated_by_signal(0.05) as notice:
        notice.can_save = lambda: True
        with notice.held(without_limit=True):
            send(signal.SIGTERM)
            time.sleep(0.2)
        notice.check()


def test_the_grace_of_an_update_does_not_end_the_checkpoint_after_it():
    with pytest.raises(KeyboardInterrupt), terminated_by_signal(0.1) as notice:
        notice.can_save = lambda: False
        send(signal.SIGTERM)
        with notice.held(without_limit=True):
            time.sleep(0.2)
        notice.check()


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGTERM", "SIGINT"), ("SIGINT", None)])
def test_a_second_signal_or_ctrl_c_ends_the_run_without_a_checkpoint(first: str, second: str | None):
    with pytest.raises(KeyboardInterrupt, match=second or first), terminated_by_signal(60.0) as notice:
        notice.can_save = lambda: False
        try:
            send(signal.Signals[first])
            assert second is not None
            send(signal.Signals[second])
        finally:
            assert not notice.given


def test_while_actors_start_there_is_nothing_to_save_and_nothing_to_wait_for():
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), terminated_by_signal(60.0):
        send(signal.SIGTERM)
        pytest.fail("it went on")


def test_without_grace_a_notice_is_like_ctrl_c():
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), terminated_by_signal(0.0):
        send(signal.SIGTERM)
        pytest.fail("it went on")


def test_a_run_in_another_thread_leaves_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with terminated_by_signal(60.0) as notice, notice.held(without_limit=True):
            notice.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_notes_of_an_interruption_stay_with_it():
    with pytest.raises(KeyboardInterrupt) as raised, terminated_by_signal():
        error = KeyboardInterrupt()
        error.add_note("last checkpoint: none")
        raise error
    assert raised.value.__notes__ == ["last checkpoint: none"]


def test_the_way_on_names_checkpoint_and_command():
    assert way_on("/runs/my run", "/runs/my run/checkpoints/checkpoint_000004") == (
        "last checkpoint: /runs/my run/checkpoints/checkpoint_000004; "
        "go on with: python -m tgpo_ray.train '/runs/my run/config.yaml' --resume '/runs/my run'"
    )
    assert way_on("/runs/a", None) == "no checkpoint was finished in /runs/a: start the run again"


def test_a_notice_counts_only_while_it_is_the_one_signal():
    notice = Notice(0.0)
    assert not notice.given
    with pytest.raises(KeyboardInterrupt):
        notice.receive(signal.SIGTERM)
    assert notice.given
