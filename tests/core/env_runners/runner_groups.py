"""The environments of the tests of runners, work for those, and groups of two that tests may harm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.core.env_runners.runner_envs import CHAT, COUNTED, DRIFTING, NO_NUMBER, RAISING, THREE_TURNS
from tgpo_ray.env_runners.env_spec import EnvSpec
from tgpo_ray.env_runners.group import EnvRunnerGroup
from tgpo_ray.env_runners.runner import EnvRunnerSpec
from tgpo_ray.episode import SampledGroup, Task
from tgpo_ray.models.engine import EngineSpec, Sampling

ARITHMETIC, LONG_PROMPTS, TURNS, NAN, RAISES, CHATS, HALF_A_CHAT, COUNTS, DRIFTS = range(9)
ENVS = (
    EnvSpec("tgpo/Arithmetic-v0", {"digits": [1, 1]}),
    EnvSpec("tgpo/Arithmetic-v0", {"digits": [12, 12]}),
    EnvSpec(THREE_TURNS),
    EnvSpec(NO_NUMBER),
    EnvSpec(RAISING),
    EnvSpec(CHAT),
    EnvSpec(CHAT, {"begun": False}),
    EnvSpec(COUNTED),
    EnvSpec(DRIFTING),
)
MAX_NUM_SEQS = 16
SAMPLING = Sampling(max_tokens=32, logprobs=True)


def runner_spec(model: str, tokenizer: str | None = None) -> EnvRunnerSpec:
    engine = EngineSpec(
        model,
        dtype="float32",
        max_model_len=48,
        kv_cache_memory=64 * 2**20,
        tokenizer=tokenizer,
        max_num_seqs=MAX_NUM_SEQS,
    )
    return EnvRunnerSpec(engine, ENVS, max_prompt_tokens=16)


def tasks(count: int, env: int = ARITHMETIC) -> list[Task]:
    return [Task(env, index, seed=index, ordinal=index) for index in range(count)]


def sample(group: EnvRunnerGroup, work: list[Task], size: int = 3, seed: int = 0, **options: Any) -> list[SampledGroup]:
    found = list(group.sample(work, size, replace(SAMPLING, **options), seed))
    return sorted(found, key=lambda sampled: sampled.ordinal)


@dataclass
class Supply:
    """Two runners whose tokenizer has a chat template; new ones where a test has harmed or stopped those before."""

    spec: EnvRunnerSpec
    group: EnvRunnerGroup | None = None
    refusal: str = ""
    """What runners said that had no weights from a learner yet."""

    def intact(self) -> EnvRunnerGroup:
        if self.group is None or self.group.num_restarts or not self.group.runners:
            self.stop()
            self.group = EnvRunnerGroup(self.spec, 2, num_cpus=0.5, max_restarts=1)
            self.group.wait_until_ready()
            with pytest.raises(RuntimeError) as caught:
                sample(self.group, tasks(1))
            self.refusal = str(caught.value)
        return self.group

    def stop(self) -> None:
        if self.group is not None:
            self.group.stop()
