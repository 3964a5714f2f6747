"""The rules of vLLM's SamplingParams for what a configuration samples with, so that no engine starts on others.

They are those of vLLM 0.11 to 0.32 (`_verify_args`, `_verify_greedy_sampling`), stated here because the driver does
not import vLLM. `tests/core/config/test_sampling_rules.py` compares them with the installed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0  # vLLM raises a lower one to the first without an error


def temperature_problems(key: str, temperature: float, *, may_be_greedy: bool = True) -> Iterator[str]:
    """Yields a line where vLLM would refuse the temperature or take another one."""
    if temperature == 0.0 and may_be_greedy:
        return
    if not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        greedy = "0 (greedy) or " if may_be_greedy else ""
        yield (
            f"{key}: must be {greedy}between {LOWEST_TEMPERATURE:g} and {HIGHEST_TEMPERATURE:g}, got {temperature:g}: "
            "vLLM samples at no other"
        )


def greedy_problems(key: str, temperature: float, samples_key: str, num_samples: int) -> Iterator[str]:
    """Yields a line for several responses at temperature 0, which would be equal, and which vLLM refuses."""
    if temperature == 0.0 and num_samples > 1:
        yield (
            f"{samples_key}: must be 1 with {key} 0, got {num_samples}: greedy responses are all the same; lower it, "
            f"or raise {key}, as 0.6"
        )


def stop_problems(key: str, stops: Sequence[str]) -> Iterator[str]:
    """Yields a line for an empty text, at which every response would end before its first token."""
    for index, stop in enumerate(stops):
        if not stop:
            yield f"{key}.{index}: must not be empty, got {stop!r}: every response would end at once; delete it"
