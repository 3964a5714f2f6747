"""Hugging Face data sets as problems: local folders of files and of `save_to_disk`, and what the errors say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.paths import ROOT
from tgpo_ray.envs.hub_rows import is_data_set
from tgpo_ray.envs.math_env import MathEnv
from tgpo_ray.envs.multiple_choice import MultipleChoiceEnv
from tgpo_ray.envs.rows import read_rows

TRAIN = [{"question": f"{n} + 1 = ?", "answer": f"One more.\n#### {n + 1}"} for n in range(3)]
TEST = [{"question": "7 + 7 = ?", "answer": "#### 14"}]


@pytest.fixture
def datasets(monkeypatch, tmp_path) -> Any:
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    package.disable_progress_bars()
    return package


@pytest.fixture
def folder(tmp_path, datasets) -> str:
    """As a repository of the hub: two configurations, one of them with two splits."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    home = tmp_path / "gsm8k"
    (home / "main").mkdir(parents=True)
    (home / "socratic").mkdir()
    parquet.write_table(pa.Table.from_pylist(TRAIN), home / "main" / "train-00000-of-00001.parquet")
    parquet.write_table(pa.Table.from_pylist(TEST), home / "main" / "test-00000-of-00001.parquet")
    parquet.write_table(pa.Table.from_pylist(TEST), home / "socratic" / "train.parquet")
    (home / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train-*}\n"
        "  - {split: test, path: main/test-*}\n- config_name: socratic\n  data_files: socratic/train.parquet\n---\n"
    )
    return str(home)


def test_a_data_set_gives_the_rows_of_its_subset_and_split(folder):
    assert read_rows(folder, subset="main", split="train") == TRAIN
    assert read_rows(folder, subset="main", split="train[1:]") == TRAIN[1:]
    assert read_rows(folder, subset="main", split="test") == TEST == read_rows(folder, subset="socratic")


def test_math_problems_come_from_a_data_set(folder):
    env = MathEnv(folder, subset="main", split="train", columns={"problem": "question"}, deadline_s=30.0)
    assert env.num_problems == 3 and env.row(1) == ("1 + 1 = ?", "2")
    env.reset(seed=0, options={"index": 1})
    assert env.step(env.gold_response(1))[1] == 1.0


def test_a_folder_of_jsonl_files_is_a_data_set_too(tmp_path, datasets):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TRAIN))
    assert read_rows(str(tmp_path)) == TRAIN


def test_a_folder_of_save_to_disk_is_read_with_splits_and_without(tmp_path, datasets):
    row = {"question": "Which?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}  # ARC's
    datasets.Dataset.from_list([row]).save_to_disk(str(tmp_path / "one"))
    columns = {"problem": "question", "answer": "answerKey"}
    env = MultipleChoiceEnv(str(tmp_path / "one"), columns=columns, shuffle=False)
    env.reset(seed=0, options={"index": 0})
    assert env.step("\\boxed{B}")[1] == 1.0
    splits = {"train": datasets.Dataset.from_list(TRAIN), "test": datasets.Dataset.from_list(TEST)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "two"))
    assert read_rows(str(tmp_path / "two"), split="test") == TEST
    with pytest.raises(ValueError, match="has the splits train, test: choose one with split="):
        read_rows(str(tmp_path / "two"))
    with pytest.raises(ValueError, match="has no split 'dev': it has train, test"):
        read_rows(str(tmp_path / "two"), split="dev")
    with pytest.raises(ValueError, match="has no subsets, got 'main'"):
        read_rows(str(tmp_path / "two"), subset="main", split="test")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"subset": "main"}, "has the splits train, test: choose one with split="),
        ({"split": "train"}, r"subset=None, split='train'\): Config name is missing.*main.*socratic"),
        ({"subset": "mian", "split": "train"}, "'mian' not found. Available: .*main"),
        ({"subset": "main", "split": "dev"}, 'Unknown split "dev"'),
    ],
)
def test_a_wrong_subset_or_split_is_named(folder, choice, message):
    with pytest.raises(ValueError, match=message):
        read_rows(folder, **choice)


def test_a_folder_without_data_and_a_file_with_a_split_are_named(tmp_path, write_jsonl, datasets):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"the folder .*empty' holds no data set"):
        read_rows(str(tmp_path / "empty"))
    with pytest.raises(
        ValueError, match=r"subset and split choose from a Hugging Face data set: .*problems.jsonl' names"
    ):
        read_rows(write_jsonl(*TEST), split="train")


def test_the_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"'openai/gsm8k' is no file here; .*pip install 'tgpo-ray\[datasets\]'"):
        MathEnv("openai/gsm8k", subset="main", split="train")


def test_a_name_that_is_neither_a_file_nor_a_data_set_says_so(datasets):
    script = "from tgpo_ray.envs.rows import read_rows; read_rows('nobody/nothing', split='train')"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}  # as without a network, at once
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=offline, capture_output=True, text=True, timeout=120
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("FileNotFoundError: 'nobody/nothing' is neither a file nor a folder here"), last
    assert "nor a Hugging Face data set that can be read: Couldn't" in last, last


def test_names_of_files_are_no_data_sets(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # where none of these is there
    assert is_data_set("openai/gsm8k") and is_data_set("squad") and is_data_set(str(tmp_path))
    assert not any(map(is_data_set, ("train.jsonl", "data/train.parquet", "a.csv", "/no/such/place", "a/b/c", "../a")))
