"""What is known to be wrong around a run before any actor starts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tgpo_ray.checks import check_start, refuse_unshared, start, storage_facts
from tgpo_ray.config import ConfigError
from tgpo_ray.costs import checkpoint_bytes

needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="needs the [logging] extra")


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    if "wandb" in sys.modules:  # it keeps the settings of this moment for the whole process
        sys.modules["wandb"].teardown()


def test_a_storage_that_can_be_written_passes_and_stays_as_it_was(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    check_start(make_config(checkpointing={"storage_path": str(tmp_path / "new/runs")}))
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_is_a_file_is_refused(make_config: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"checkpointing\.storage_path: .*/file/runs cannot be written: .*/file is a"):
        check_start(make_config(checkpointing={"storage_path": str(tmp_path / "file/runs")}))


def test_a_disk_without_room_for_one_checkpoint_is_refused(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(checkpointing={"storage_path": str(tmp_path)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(
        ConfigError, match=r"has 97\.66KiB free, and one checkpoint takes about .*KiB: make room, or na"
    ):
        check_start(config)
    size = checkpoint_bytes(config)
    assert size is not None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * size))
    check_start(config)
    assert storage_facts(config)["storage"].endswith("free: WARNING: less than that")


def test_the_plan_says_where_results_go_and_what_stays(make_config: Callable[..., Any], tmp_path: Path) -> None:
    storage = {"storage_path": str(tmp_path), "every": 5, "keep": 3}
    facts = storage_facts(make_config(checkpointing=storage))
    assert facts["results"] == f"{tmp_path}/run (-2, -3, ... where earlier runs of the name are)"
    assert facts["checkpoints"] == (
        "every 5 iterations, every 30 minutes, at the end; the newest 3 and the best by evaluation/reward stay"
    )
    assert facts["storage"].startswith("about ") and "each, " in facts["storage"]
    alone = storage_facts(make_config(checkpointing={"storage_path": str(tmp_path), "keep_best": None}))
    assert alone["checkpoints"] == "every 30 minutes, at the end; the newest 2 stay"


def test_a_checkpoint_of_an_unknown_model_has_no_size(make_config: Callable[..., Any], tmp_path: Path) -> None:
    config = make_config(model={"path": "org/unknown"}, checkpointing={"storage_path": str(tmp_path)})
    assert checkpoint_bytes(config) is None and "storage" not in storage_facts(config)
    check_start(config)


def test_nobody_at_the_address_is_said_with_everything_else(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tgpo_ray.cluster.connection.ray.is_initialized", lambda: False)
    (tmp_path / "file").write_text("")
    storage = {"storage_path": str(tmp_path / "file")}
    with pytest.raises(ConfigError) as error:
        check_start(make_config(ray={"address": "127.0.0.1:1"}, checkpointing=storage))
    assert [line.partition(":")[0] for line in error.value.problems] == ["ray.address", "checkpointing.storage_path"]


@needs_wandb
def test_wandb_without_a_login_is_refused(
    make_config: Callable[..., Any], no_login: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(reporting={"wandb": "maths"})
    with pytest.raises(
        ConfigError, match=r"reporting\.wandb: 'maths' needs a login: run `wandb login` where the driver"
    ):
        check_start(config)
    (no_login / ".netrc").write_text("machine api.wandb.ai login user password " + "k" * 40 + "\n")
    check_start(config)
    (no_login / ".netrc").unlink()
    for name, value in (("WANDB_API_KEY", "k" * 40), ("WANDB_MODE", "offline")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            check_start(config)


def test_a_writer_that_is_not_installed_is_named(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tgpo_ray.reporting.metrics.writers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^reporting\.tensorboard is on, but the package tensorboard is not installed"
    ):
        check_start(make_config(reporting={"tensorboard": True}))


def test_a_folder_of_one_node_is_refused(make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(start, "nodes_without", lambda path, **needs: asked.append((path, needs)) or ["10.0.0.2"])
    with pytest.raises(
        ConfigError, match=r"/a is on one node's disk, and a learner may run on 10\.0\.0\.2, where it is"
    ):
        refuse_unshared(make_config(), "/a/run")
    assert asked == [("/a", {"num_cpus": 0.5, "num_gpus": 0.0})]
