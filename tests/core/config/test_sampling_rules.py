"""What vLLM refuses to sample with, refused in the configuration, and the rules held against the installed vLLM."""

from typing import Any

import pytest

from tgpo_ray.algorithms import GRPOConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError, greedy_problems, temperature_problems
from tgpo_ray.config.sampling_rules import stop_problems


def grpo() -> GRPOConfig:
    return GRPOConfig().environment("tgpo/Math-v0").models(path="org/policy")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            grpo().evaluation(temperature=0, num_samples=2),
            "evaluation.num_samples: must be 1 with evaluation.temperature 0, got 2: greedy responses are all the "
            "same; lower it, or raise evaluation.temperature, as 0.6",
        ),
        (
            grpo().evaluation(temperature=2.5),
            "evaluation.temperature: must be 0 (greedy) or between 0.01 and 2, got 2.5: vLLM samples at no other",
        ),
        (
            grpo().env_runners(temperature=0.001),
            "env_runners.temperature: must be between 0.01 and 2, got 0.001: vLLM samples at no other",
        ),
        (
            grpo().env_runners(stop=["\n\n", ""]),
            "env_runners.stop.1: must not be empty, got '': every response would end at once; delete it",
        ),
    ],
)
def test_a_value_that_vllm_refuses_is_refused_before_it_starts(config: AlgorithmConfig, message: str):
    assert config.problems(files=False) == [message]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stop": ["a", 1]}, "env_runners.stop.1: expected text, got 1"),
        ({"stop": ["\ud83d"]}, "half of a character (a lone surrogate)"),
        ({"temperature": 0.0}, "env_runners.temperature: must be > 0, got 0"),
    ],
)
def test_a_value_of_another_kind_is_refused_when_the_file_is_read(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match="env_runners") as error:
        AlgorithmConfig.from_dict({"algorithm": "GRPO", "model": {"path": "x/y"}, "env_runners": values})
    assert message in str(error.value)


def test_one_greedy_response_and_several_warm_ones_are_accepted():
    for values in ({"temperature": 0, "num_samples": 1}, {"temperature": 0.6, "num_samples": 4}):
        assert grpo().evaluation(**values).problems(files=False) == []


@pytest.mark.slow  # the import of vLLM
@pytest.mark.parametrize("temperature", [0.0, 0.001, 0.01, 0.6, 2.0, 2.1])
@pytest.mark.parametrize(("num_samples", "stop"), [(1, []), (2, []), (1, [""]), (1, ["x"])])
def test_the_rules_are_those_of_the_installed_vllm(temperature: float, num_samples: int, stop: list[str]):
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    problems = [
        *temperature_problems("t", temperature),
        *greedy_problems("t", temperature, "n", num_samples),
        *stop_problems("s", stop),
    ]
    try:
        taken = SamplingParams(n=num_samples, temperature=temperature, stop=stop, max_tokens=1)
    except (ValueError, VLLMValidationError):
        assert problems
    else:
        assert bool(problems) == (taken.temperature != temperature)
