"""Supervised data: what is read, what is refused, and in which order it is walked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from tgpo_ray.config import ConfigError
from tgpo_ray.episode import ORIGIN_TEACHER, EpisodeGroup
from tgpo_ray.teachers.trace_file import TraceData

ROWS = [{"prompt": f"{a}*2=", "response": f"{2 * a};\\boxed{{{2 * a}}}"} for a in range(2, 9)]


@pytest.fixture
def read(tmp_path: Path, make_config: Callable[..., Any]) -> Callable[..., TraceData]:
    """read(rows, seed=0, **data options) writes a jsonl and reads it."""

    def reader(rows: list[dict[str, Any]], seed: int = 0, **data: Any) -> TraceData:
        path = tmp_path / "traces.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return traces_of(make_config("SFT", seed=seed, data={"path": str(path), **data}))

    return reader


def traces_of(config: Any) -> TraceData:
    return TraceData.read(config, config.data, config.data.max_tokens)


def tokenizer_of(tiny_models: dict[str, str]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_models["policy"])


def test_a_row_is_an_episode_of_the_teachers_that_ends(read: Callable[..., TraceData], tiny_models: dict[str, str]):
    tokenizer = tokenizer_of(tiny_models)
    episode = read(ROWS).episodes[0]
    assert tokenizer.decode(episode.prompt_ids) == "2*2="
    assert tokenizer.convert_ids_to_tokens(episode.response_ids) == [
        "4",
        ";",
        "\\boxed{",
        "4",
        "}",
        tokenizer.eos_token,
    ]
    assert episode.origin.tolist() == [ORIGIN_TEACHER] * 6
    assert episode.prompt_ids.dtype == episode.response_ids.dtype == np.int32
    assert [other.problem_index for other in read(ROWS).episodes] == list(range(7))


def test_a_parquet_file_reads_the_same(read: Callable[..., TraceData], tmp_path: Path, make_config: Callable[..., Any]):
    path = tmp_path / "traces.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    data = traces_of(make_config("SFT", data={"path": str(path)}))
    for ours, theirs in zip(data.episodes, read(ROWS).episodes, strict=True):
        np.testing.assert_array_equal(ours.response_ids, theirs.response_ids)


def test_texts_that_look_like_numbers_or_dates_stay_texts(read: Callable[..., TraceData], tiny_models: dict[str, str]):
    rows = [{"prompt": "1+1=", "response": "02"}, {"prompt": "1+2=", "response": "2000-01-01"}]
    tokenizer = tokenizer_of(tiny_models)
    texts = [tokenizer.decode(e.response_ids, skip_special_tokens=True) for e in read(rows).episodes]
    assert texts == ["02", "2000-01-01"]


def walk(data: TraceData, count: int) -> list[int]:
    return [data._row(i) for i in range(count)]


def test_epochs_show_each_row_once_in_a_seeded_order(read: Callable[..., TraceData]):
    data = read(ROWS)
    first, second = walk(data, 14)[:7], walk(data, 14)[7:]
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert walk(read(ROWS), 14) == first + second
    assert walk(read(ROWS, seed=1), 7) != first


def test_without_shuffling_rows_come_as_they_stand(read: Callable[..., TraceData]):
    assert walk(read(ROWS, shuffle=False), 9) == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_any_batch_can_be_asked_for_first(read: Callable[..., TraceData]):
    data = read(ROWS)
    forwards = walk(data, 21)
    assert [read(ROWS)._row(i) for i in reversed(range(21))] == forwards[::-1]


@pytest.mark.usefixtures("ray_cluster")
def test_a_batch_deals_its_rows_over_the_learners(read: Callable[..., TraceData]):
    import ray

    data = read(ROWS)
    groups = data.batch(1, 4, num_groups=2)  # rows 4 to 7 of the walk: the last one is of the second epoch
    held: list[EpisodeGroup] = [ray.get(group.ref) for group in groups]
    assert [[e.problem_index for e in group.episodes] for group in held] == [
        [data._row(4), data._row(6)],
        [data._row(5), data._row(7)],
    ]
    assert [len(group.infos) for group in groups] == [2, 2]
    assert [group.ordinal for group in groups] == [0, 1]
    assert len(data.batch(0, 1, num_groups=3)) == 1  # fewer rows than learners


def test_rows_above_the_limit_are_left_out_and_counted(read: Callable[..., TraceData]):
    long = {"prompt": "9*2=", "response": "1" * 40}
    data = read([*ROWS, long], max_tokens=16)
    assert (len(data), data.num_skipped) == (7, 1)
    assert all(len(e.prompt_ids) + len(e.response_ids) <= 16 for e in data.episodes)


def test_only_rows_above_the_limit_are_an_error(read: Callable[..., TraceData]):
    with pytest.raises(ConfigError, match=r"data.max_tokens: every row of .* has more than 3 tokens: raise it"):
        read(ROWS, max_tokens=3)


def test_a_wrong_column_names_the_nearest(read: Callable[..., TraceData]):
    with pytest.raises(ConfigError) as caught:
        read(ROWS, prompt_column="promt", response_column="zzz")
    message = str(caught.value)
    assert "data.prompt_column" in message
    assert "has no column 'promt'; did you mean 'prompt'? It has: prompt, response" in message
    assert "data.response_column" in message
    assert "has no column 'zzz'. It has: prompt, response" in message


@pytest.mark.parametrize("value", [None, 7, ["4"]])
def test_a_cell_that_is_no_text_names_its_row(read: Callable[..., TraceData], value: Any):
    with pytest.raises(ConfigError, match=r"data.response_column: 'response' of row 7 of .* it must be a text"):
        read([*ROWS, {"prompt": "1+1=", "response": value}])


def test_an_empty_file_has_no_rows(read: Callable[..., TraceData]):
    with pytest.raises(ConfigError, match=r"data.path: .*traces.jsonl has no rows"):
        read([])


def test_a_missing_file_is_named(make_config: Callable[..., Any]):
    with pytest.raises(ConfigError, match=r"data.path: no such file: 'nowhere.jsonl' \(relative to "):
        traces_of(make_config("SFT", data={"path": "nowhere.jsonl"}))


def test_a_file_that_is_no_jsonl_is_named(tmp_path: Path, make_config: Callable[..., Any]):
    path = tmp_path / "traces.jsonl"
    path.write_text("{not json\n")
    with pytest.raises(ConfigError, match=r"data.path: .*traces.jsonl is not readable as .jsonl"):
        traces_of(make_config("SFT", data={"path": str(path)}))


def test_half_of_a_character_is_refused_with_its_row(read: Callable[..., TraceData]):
    with pytest.raises(ConfigError, match=r"data\.response_column: 'response' of row 1 .* has half of a character"):
        read([ROWS[0], {"prompt": "2*2=", "response": "4 \ud83d"}])
