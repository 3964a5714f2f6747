"""The cursor: every row once an epoch, environments by weight, and an exact continuation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tgpo_ray.env_runners.cursor import Cursor, evaluation_tasks
from tgpo_ray.episode import Task


def test_each_row_comes_once_an_epoch_and_epochs_differ():
    cursor = Cursor([7], [1.0], seed=0)
    epochs = [[task.problem_index for task in cursor.next(7)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_an_epoch_may_end_in_the_middle_of_an_iteration():
    cursor = Cursor([5], [1.0], seed=0)
    indices = [task.problem_index for _ in range(5) for task in cursor.next(4)]  # 20 tasks: 4 epochs of 5
    assert Counter(indices) == dict.fromkeys(range(5), 4)


def test_tasks_are_numbered_from_zero_in_each_iteration():
    cursor = Cursor([None], [1.0], seed=0)
    assert [[task.ordinal for task in cursor.next(3)] for _ in range(2)] == [[0, 1, 2]] * 2


def test_a_procedural_environment_counts_up_and_never_repeats():
    cursor = Cursor([None], [1.0], seed=0)
    assert [task.problem_index for _ in range(2) for task in cursor.next(4)] == list(range(8))


def test_environments_are_drawn_by_weight():
    cursor = Cursor([None, None], [3.0, 1.0], seed=0)
    counts = Counter(task.env_index for task in cursor.next(2000))
    # 2000 draws at 3/4: the standard deviation is sqrt(2000 * 3/16) = 19
    assert abs(counts[0] - 1500) < 80


def test_each_environment_walks_its_own_rows():
    cursor = Cursor([3, None], [1.0, 1.0], seed=1)
    tasks = cursor.next(40)
    rows = [task.problem_index for task in tasks if task.env_index == 0]
    assert all(sorted(rows[start : start + 3]) == [0, 1, 2] for start in range(0, len(rows) // 3 * 3, 3))
    unlimited = [task.problem_index for task in tasks if task.env_index == 1]
    assert unlimited == list(range(len(unlimited)))


def test_a_seed_fixes_the_walk_and_another_changes_it():
    def walk(seed: int) -> list[Task]:
        return Cursor([11, None], [1.0, 2.0], seed).next(30)

    assert walk(5) == walk(5)
    assert walk(5) != walk(6)


def test_task_seeds_differ():
    assert len({task.seed for task in Cursor([None], [1.0], seed=0).next(500)}) == 500


def test_a_restored_cursor_continues_exactly():
    cursor = Cursor([5, None], [1.0, 1.0], seed=3)
    cursor.next(7)
    state = cursor.state_dict()
    expected = [cursor.next(4) for _ in range(5)]
    fresh = Cursor([5, None], [1.0, 1.0], seed=3)
    fresh.load_state_dict(state)
    assert [fresh.next(4) for _ in range(5)] == expected


def test_a_state_does_not_change_when_its_cursor_goes_on():
    cursor = Cursor([5], [1.0], seed=3)
    state = cursor.state_dict()
    cursor.next(4)
    assert state["drawn"] == [0]


def test_a_restored_seed_replaces_the_order_drawn_before_it():
    saved = Cursor([50], [1.0], seed=3)
    other = Cursor([50], [1.0], seed=4)
    other.next(10)  # has cached its own first epoch
    other.load_state_dict(saved.state_dict())
    assert other.next(50) == saved.next(50)


def test_other_environments_than_the_checkpoints_are_refused():
    with pytest.raises(ValueError, match=r"environments of \[5\] problems, these have \[6\]: restore with the same"):
        Cursor([6], [1.0], seed=0).load_state_dict(Cursor([5], [1.0], seed=0).state_dict())


def test_an_empty_data_set_is_named():
    with pytest.raises(ValueError, match="environment 1 has no problems: its data set is empty"):
        Cursor([3, 0], [1.0, 1.0], seed=0)


def test_evaluation_walks_the_rows_in_order_with_one_seed():
    assert evaluation_tasks(2, 3, None, seed=9) == [Task(2, i, 9, ordinal=i) for i in range(3)]


@pytest.mark.parametrize(("rows", "limit", "expected"), [(10, 4, 4), (3, 4, 3), (None, 4, 4)])
def test_evaluation_stops_at_the_rows_or_the_limit(rows: int | None, limit: int, expected: int):
    assert len(evaluation_tasks(0, rows, limit, seed=0)) == expected


def test_evaluation_of_a_procedural_environment_needs_a_limit():
    with pytest.raises(ValueError, match=r"evaluation.max_problems must be given for a procedural environment"):
        evaluation_tasks(0, None, None, seed=0)


# ---- problems that are left out


def test_problems_that_are_left_out_are_never_drawn_and_the_others_once_an_epoch() -> None:
    cursor = Cursor([7], [1.0], seed=0, left_out=[{2, 5}])
    for _ in range(3):
        assert sorted(task.problem_index for task in cursor.next(5)) == [0, 1, 3, 4, 6]


def test_without_such_problems_the_walk_is_that_of_all_rows() -> None:
    first = [task.problem_index for task in Cursor([6], [1.0], seed=0).next(6)]
    assert first == np.random.default_rng([0, 2, 0, 0]).permutation(6).tolist()
    assert first == [task.problem_index for task in Cursor([6], [1.0], seed=0, left_out=[()]).next(6)]


def test_a_checkpoint_is_continued_with_the_same_problems_left_out_or_not_at_all() -> None:
    saved = Cursor([7, None], [1.0, 1.0], seed=0, left_out=[{2}, ()])
    saved.next(9)
    same = Cursor([7, None], [1.0, 1.0], seed=3, left_out=[{2}, ()])
    same.load_state_dict(saved.state_dict())
    assert same.next(9) == saved.next(9)
    with pytest.raises(ValueError, match=r"left \[1, 0\] problems out.*leaves out \[0, 0\].*max_prompt_tokens"):
        Cursor([7, None], [1.0, 1.0], seed=0).load_state_dict(saved.state_dict())


def test_a_checkpoint_that_does_not_say_left_nothing_out() -> None:
    state = Cursor([7], [1.0], seed=0).state_dict()
    del state["left_out"]
    Cursor([7], [1.0], seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match="max_prompt_tokens"):
        Cursor([7], [1.0], seed=0, left_out=[{1}]).load_state_dict(state)


def test_evaluation_leaves_them_out_and_keeps_its_set() -> None:
    assert [task.problem_index for task in evaluation_tasks(0, 9, 5, 0, left_out={1, 7})] == [0, 2, 3, 4]
