"""A file that takes hours: what a killed command wrote is there for the next one."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms.driver_parts import config_of
from tgpo_ray.cli.unfinished import Unfinished, content_of
from tgpo_ray.episode import Task

TASKS = [Task(0, index, seed=0, ordinal=index) for index in range(4)]


def ordinals(file: Unfinished) -> list[int]:
    return [task.ordinal for task in file.left(TASKS)]


def killed(path: Path, *parts: tuple[int, bytes], then: bytes = b"") -> Unfinished:
    """A file whose command was killed after these parts, in the middle of another."""
    with pytest.raises(KeyboardInterrupt), Unfinished(path, {"seed": 0}, b"head;") as file:
        for ordinal, part in parts:
            file.write(ordinal, part, len(part) // 2)
        file._file.write(then)
        raise KeyboardInterrupt
    return file


def test_it_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x"
    with Unfinished(path, {}, b"head;") as file:
        for task in file.left(TASKS):
            assert not path.exists()
            file.write(task.ordinal, b"%d;" % task.ordinal, 1)
    assert path.read_bytes() == b"head;0;1;2;3;" and file.num_rows == 4
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_command_goes_on_and_half_a_part_is_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "x"
    killed(path, (2, b"2;"), (0, b""), then=b"1")
    with Unfinished(path, {"seed": 0}, b"head;") as file:
        assert (ordinals(file), file.num_rows) == ([1, 3], 1)  # an empty part is done, too
        file.write(3, b"3;", 1)
        file.write(1, b"1;", 1)
    assert path.read_bytes() == b"head;2;3;1;" and file.num_rows == 3
    assert "goes on after 2 of 4 problems" in capsys.readouterr().out


def test_what_was_written_stays_after_an_error_and_after_a_second_kill(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(RuntimeError), Unfinished(path, {"seed": 0}, b"head;") as file:
        file.write(0, b"0;", 1)
        raise RuntimeError("the teacher died")
    assert not path.exists()
    again = killed(path, (1, b"1;"), then=b"2")
    assert again.done == {0, 1}
    assert ordinals(Unfinished(path, {"seed": 0}, b"head;")) == [2, 3]


def test_lines_whose_bytes_never_reached_the_disk_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "x"
    killed(path, (0, b"0;"), (1, b"1;"))
    (tmp_path / "x.partial").write_bytes(b"head;0;1")
    with (tmp_path / "x.done").open("a") as log:
        log.write("[2, 11")
    with Unfinished(path, {"seed": 0}, b"head;") as file:
        assert ordinals(file) == [1, 2, 3]
        file.write(1, b"1;", 1)
    assert path.read_bytes() == b"head;0;1;"


def test_another_command_is_told_what_differs_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    killed(path, (0, b"0;"))
    with pytest.raises(ValueError, match=r"x\.partial was begun with other --of, seed: give what it was begun with"):
        Unfinished(path, {"seed": 1, "--of": "base"}, b"head;")
    assert (tmp_path / "x.partial").read_bytes() == b"head;0;"


def test_the_number_of_learners_changes_no_content_and_the_seed_does() -> None:
    config = config_of("TGPO", teachers={"teacher": {"path": "teacher"}})
    content = content_of(config, Namespace(num_samples=4, to="x"), "num_samples")
    assert content["--num-samples"] == 4 and "--to" not in content and content["seed"] == config.seed
    assert not {"learners", "ray", "checkpointing"} & {*content}


@pytest.mark.parametrize(
    "changed, matters",
    [
        ({"env_runners": {"num_env_runners": 4, "kv_cache_memory": 2**30}}, False),
        ({"teachers": {"teacher": {"path": "teacher", "num_replicas": 2, "tensor_parallel_size": 2}}}, False),
        ({"env_runners": {"temperature": 0.5}}, True),
        ({"teachers": {"teacher": {"path": "another"}}}, True),
    ],
)
def test_more_actors_and_memory_change_no_content(changed: dict[str, Any], matters: bool) -> None:
    """A file that was begun on one machine goes on on a larger one."""
    teachers = {"teachers": {"teacher": {"path": "teacher"}}}
    before, after = (
        content_of(config_of("TGPO", **sections), Namespace()) for sections in (teachers, teachers | changed)
    )
    assert (before != after) == matters
