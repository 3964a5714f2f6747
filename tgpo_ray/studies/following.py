"""What a study says while it goes, and its page after each run."""

from __future__ import annotations

import contextlib
from typing import Any

from ray.tune import Callback

from tgpo_ray.cluster import is_file, join
from tgpo_ray.studies.definition import StudyConfig
from tgpo_ray.studies.outcomes import (
    RECORD,
    RUNNING,
    STOPPED,
    TrialState,
    folder_of,
    outcomes,
    trial_folder,
    unfinished,
)
from tgpo_ray.studies.page import write_page


class StudyCallback(Callback):
    """A line for each start and end of a run on the terminal, and the page anew after each end.

    Args:
        study: what is run.
        whole: what the page is of.
    """

    def __init__(self, study: StudyConfig, whole: StudyConfig) -> None:
        self._study, self._whole, self._folder = study, whole, str(folder_of(study))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        print(f"starts {name_of(trial)}", flush=True)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        records = trial_folder(self._folder, name_of(trial))
        state = TrialState.read(records)
        if state.state == RUNNING and is_file(join(records, RECORD)):  # it has not ended by itself
            TrialState(STOPPED, "ended by the scheduler", state.folder, state.attempts).write(records)
        self._write_page(f"ended {name_of(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = TrialState.read(trial_folder(self._folder, name_of(trial))).reason
        self._write_page(f"failed {name_of(trial)}: {reason}")

    def _write_page(self, text: str) -> None:
        # from the records: Tune makes its trials one after the other, and does not know how many there will be
        left = len(unfinished(self._study, self._folder))
        print(f"{text}; {left} to go", flush=True)
        with contextlib.suppress(OSError, ValueError):  # a row that is being written; the next page has it
            write_page(self._whole, outcomes(self._whole, self._folder), folder_of(self._study))


def name_of(trial: Any) -> str:
    """Returns the name of the run of a trial of Tune."""
    return trial.custom_trial_name
