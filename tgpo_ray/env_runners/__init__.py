"""vLLM engines with environments, which answer tasks with groups of episodes."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.env_runners.building import (
        build_env_runners,
        check_same_envs,
        env_runner_spec,
        evaluation_sampling,
        training_sampling,
    )
    from tgpo_ray.env_runners.chat_turns import why_refused
    from tgpo_ray.env_runners.cursor import Cursor, evaluation_tasks
    from tgpo_ray.env_runners.env_spec import EnvSpec, all_envs
    from tgpo_ray.env_runners.group import EnvRunnerGroup
    from tgpo_ray.env_runners.prompt_tokens import NO_TOKENS, OVERLONG_FIX, prompt_ids, prompt_lengths
    from tgpo_ray.env_runners.registry import (
        BUILT_IN_ENVS,
        argument_lines,
        description,
        explained,
        listed_ids,
        load_plugins,
        make_env,
    )
    from tgpo_ray.env_runners.rollout import Rollout, RunningGroup, tell_prompt
    from tgpo_ray.env_runners.runner import EnvRunner
    from tgpo_ray.env_runners.runner_spec import EnvRunnerSpec, Finished
    from tgpo_ray.env_runners.sampling_session import SamplingSession, SessionAbortedError
    from tgpo_ray.env_runners.task_queue import TaskSource

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "building": [
            "build_env_runners",
            "check_same_envs",
            "env_runner_spec",
            "evaluation_sampling",
            "training_sampling",
        ],
        "chat_turns": ["why_refused"],
        "cursor": ["Cursor", "evaluation_tasks"],
        "env_spec": ["EnvSpec", "all_envs"],
        "group": ["EnvRunnerGroup"],
        "prompt_tokens": ["NO_TOKENS", "OVERLONG_FIX", "prompt_ids", "prompt_lengths"],
        "registry": [
            "BUILT_IN_ENVS",
            "argument_lines",
            "description",
            "explained",
            "listed_ids",
            "load_plugins",
            "make_env",
        ],
        "rollout": ["Rollout", "RunningGroup", "tell_prompt"],
        "runner": ["EnvRunner"],
        "runner_spec": ["EnvRunnerSpec", "Finished"],
        "sampling_session": ["SamplingSession", "SessionAbortedError"],
        "task_queue": ["TaskSource"],
    },
)
