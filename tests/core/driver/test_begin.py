"""A new run that goes on from another run's checkpoint, as population-based training has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.core.driver.counting_algorithm import Counting, rewards, run, saved
from tgpo_ray.config import ConfigError
from tgpo_ray.driver.run import Run
from tgpo_ray.driver.signals import Notice


def begun(config: Any, checkpoint: str) -> Any:
    here = Run(config, None, checkpoint)
    try:
        return here.go(Counting(config, here, {}), Notice())  # pyright: ignore[reportArgumentType]
    finally:
        here.close()


def test_it_has_a_folder_and_rows_of_its_own(config_of: Any, tmp_path: Path, capsys: Any) -> None:
    first = run(config_of(str(tmp_path), keep=9))
    checkpoint = str(tmp_path / "counted" / saved(first.path)[0])  # of iteration 2
    second = begun(config_of(str(tmp_path), keep=9), checkpoint)
    assert Path(second.path).name == "counted-2"
    assert rewards(second.path) == rewards(first.path)[2:]  # iterations 3 to 6, with the first run's numbers
    assert f"begins at iteration 2 of 6, from {checkpoint}" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_starts(config_of: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--from: .*nowhere is not a checkpoint"):
        Run(config_of(str(tmp_path)), None, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="drop --from, or --resume"):
        Run(config_of(str(tmp_path)), "auto", str(tmp_path / "nowhere"))
    assert not (tmp_path / "counted").exists()
