"""A rank's part of a card that it shares with other actors. None of it does anything on a CPU. Untested on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CardShare:
    """The memory of a card that a rank may take, as shares of the whole.

    Args:
        working: at any time.
        resting: between an iteration's updates and the next one, when engines are awake.
    """

    working: float = 1.0
    resting: float = 1.0

    def keep(self, device: torch.device) -> None:
        """Make torch refuse memory above the working share, with its own out-of-memory error."""
        if device.type == "cuda" and self.working < 1.0:
            torch.cuda.set_per_process_memory_fraction(self.working, device)

    def rest(self, device: torch.device) -> None:
        """Give the memory above the resting share back to the card.

        Raises:
            RuntimeError: what stays (weights and optimizer) is more than the resting share.
        """
        if device.type != "cuda" or self.resting >= self.working:
            return
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        kept = torch.cuda.memory_reserved(device) / total
        if kept > self.resting:
            raise RuntimeError(
                f"a learner keeps {kept:.2f} of its card between updates, its share is {self.resting:g} "
                "(learners.num_gpus_per_learner): the engines would not find room when they wake up. Raise it and "
                "lower env_runners.num_gpus_per_env_runner, or offload the optimizer (learners.offload)"
            )
