"""EnvRunner, the actor with a vLLM engine and its environments. It streams groups of episodes as they finish."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tgpo_ray.env_runners.env_spec import EnvSpec
from tgpo_ray.env_runners.rollout import Rollout, RunningGroup, prompt_ids
from tgpo_ray.episode import EpisodeGroup, EpisodeInfo, Task
from tgpo_ray.models import Engine, EngineSpec, Sampling, completions

if TYPE_CHECKING:
    import ray
    from gymnasium import Env

    from tgpo_ray.models import Bucket, RequestOutput
    from tgpo_ray.teachers import Prefixes

EOS_DECODE_OPTIONS = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@dataclass(frozen=True)
class EnvRunnerSpec:
    """The settings of one runner."""

    engine: EngineSpec
    envs: tuple[EnvSpec, ...]  # training environments first, then those for evaluation
    max_prompt_tokens: int
    num_verifier_threads: int = 1
    gpu: bool = False
    frozen: bool = False  # sample from the weights on disk, without a sync


class EnvRunner:
    """A sampler of groups of episodes. EnvRunnerGroup wraps it in a Ray actor, and it works without Ray too."""

    def __init__(self, spec: EnvRunnerSpec) -> None:
        self._spec = spec
        self._idle_envs: list[list[Env[str, str]]] = [[env.make()] for env in spec.envs]
        self._num_problems = [getattr(envs[0].unwrapped, "num_problems", None) for envs in self._idle_envs]
        self._engine = Engine(spec.engine, gpu=spec.gpu)
        self._threads = ThreadPoolExecutor(spec.num_verifier_threads, thread_name_prefix="env-step")
        # None means stale: the weights on disk are not the learners'
        self._version: int | None = 0 if spec.frozen else None

    def num_problems(self) -> list[int | None]:
        """Returns the number of problems of each environment, None where it is procedural."""
        return self._num_problems

    def sync_weights(self, version: int, buckets: Sequence[ray.ObjectRef[Bucket] | Bucket]) -> int:
        """Returns `version`, after loading the buckets. Later episodes have this version."""
        if self._spec.engine.tensor_parallel_size > 1:
            import ray

            # vLLM's tensor-parallel processes are no Ray processes and cannot resolve references
            buckets = [ray.get(bucket) if isinstance(bucket, ray.ObjectRef) else bucket for bucket in buckets]
        self._engine.load_weights(buckets)
        self._version = version
        return version

    def sample(
        self, tasks: Sequence[Task], group_size: int, sampling: Sampling, seed: int, prefixes: Prefixes | None = None
    ) -> Iterator[EpisodeGroup | tuple[int, tuple[EpisodeInfo, ...]]]:
        """Yields two items for each task as its group finishes, the group and then `(ordinal, infos)`.

        Args:
            prefixes: teacher-written beginnings of responses, by prompt. The policy continues them.

        Raises:
            RuntimeError: the engine's weights were never synced.
            ValueError: a prompt is longer than `max_prompt_tokens`, or a reward is not finite.
        """
        if self._version is None:
            raise RuntimeError("this EnvRunner's weights are stale: call sync_weights before sample")
        self._engine.seed(seed)
        self._requests: dict[str, tuple[RunningGroup, list[Rollout]]] = {}
        self._steps: dict[Future[str], tuple[RunningGroup, Rollout]] = {}
        start_group = partial(self._start_group, group_size=group_size, sampling=sampling, prefixes=prefixes)
        try:
            for group in self._finished_groups(deque(tasks), group_size, start_group, sampling):
                episodes = group.finish(
                    self._spec.envs[group.task.env_index].id, self._version, with_logprobs=sampling.logprobs
                )
                yield episodes
                yield group.task.ordinal, tuple(episode.info() for episode in episodes.episodes)
        finally:
            self._engine.abort_all()

    def _start_group(self, task: Task, *, group_size: int, sampling: Sampling, prefixes: Prefixes | None) -> None:
        # all envs get the same seed and index, so one prompt serves the group
        envs = [self._acquire_env(task.env_index) for _ in range(group_size)]
        resets = [env.reset(seed=task.seed, options={"index": task.problem_index}) for env in envs]
        prompt, info = resets[0]
        ids = prompt_ids(self._engine.tokenizer, prompt, info)
        if len(ids) > self._spec.max_prompt_tokens:
            raise ValueError(
                f"{self._spec.envs[task.env_index].id}, problem {task.problem_index}: the prompt has "
                f"{len(ids)} tokens, env_runners.max_prompt_tokens is {self._spec.max_prompt_tokens}: "
                "raise it (the model's context permitting) or leave such problems out of the data"
            )
        rollouts = [Rollout.begun(env, info) for env, (_, info) in zip(envs, resets, strict=True)]
        group = RunningGroup(task, prompt, ids, rollouts)
        if prefixes is not None:
            prefix = prefixes.of(prompt)[: sampling.max_tokens - 1]  # (T,), the policy samples at least one token
            for rollout in rollouts:
                rollout.begin_with(prefix)
            ids, sampling = (
                np.concatenate([ids, prefix]),
                replace(sampling, max_tokens=sampling.max_tokens - len(prefix)),
            )
        self._requests[self._engine.generate(ids, sampling, n=group_size)] = (group, group.rollouts)

    def _finished_groups(
        self, tasks: deque[Task], group_size: int, start_group: Callable[[Task], None], sampling: Sampling
    ) -> Iterator[RunningGroup]:
        """Yields the groups as they finish. A task begins when the engine has room for all of its episodes.

        Environments therefore number as many as the engine has sequences, and not as many as the iteration has
        episodes. The room depends on the engine's steps only, so the same seed begins the same groups at the same time.
        """
        num_open = 0
        while tasks or num_open:
            while tasks and self._has_room(group_size):
                start_group(tasks.popleft())
                num_open += 1
            if self._engine.busy:
                for output in self._engine.step():
                    self._on_output(output)
            for group in self._collect_steps(sampling):
                num_open -= 1
                yield group

    def _has_room(self, num_sequences: int) -> bool:
        """Returns whether the engine can write that many more sequences at once, or has nothing else to write."""
        num_unfinished = self._engine.num_unfinished
        return not num_unfinished or num_unfinished + num_sequences <= self._spec.engine.max_num_seqs

    def _on_output(self, output: RequestOutput) -> None:
        """Start the environments' steps for the responses of a finished request."""
        group, rollouts = self._requests.pop(output.request_id)
        for rollout, completion in zip(rollouts, completions(output), strict=True):
            rollout.add_completion(completion)
            future = self._threads.submit(rollout.step, self._decode(rollout.turn_ids()))
            self._steps[future] = (group, rollout)

    def _decode(self, ids: np.ndarray) -> str:
        return self._engine.tokenizer.decode(ids, **EOS_DECODE_OPTIONS)

    def _collect_steps(self, sampling: Sampling) -> Iterator[RunningGroup]:
        """Yields the groups whose last episode has its reward. Other episodes go on with the environment's answer."""
        if not self._steps:
            return
        # a busy engine must not wait for environments; an idle one has nothing else to wait for
        done, _ = wait(self._steps, timeout=0 if self._engine.busy else None, return_when=FIRST_COMPLETED)
        for future in done:
            group, rollout = self._steps.pop(future)
            observation = self._observation(future, group.task)
            if not rollout.done and not self._continue(group, rollout, observation, sampling):
                rollout.stop_reason = "length"
                rollout.done = True
            if rollout.done:
                self._release_env(group.task.env_index, rollout.env)
                group.num_open -= 1
                if group.num_open == 0:
                    yield group

    def _observation(self, future: Future[str], task: Task) -> str:
        """Returns the environment's answer. Its exception is raised again with the problem and the line."""
        try:
            return future.result()
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise RuntimeError(
                f"{self._where(task)}: step raised {type(error).__name__}: {error} ({last.filename}:{last.lineno}); "
                "an environment must score any text"
            ) from error

    def _where(self, task: Task) -> str:
        return f"{self._spec.envs[task.env_index].id}, problem {task.problem_index}, seed {task.seed}"

    def _continue(self, group: RunningGroup, rollout: Rollout, observation: str, sampling: Sampling) -> bool:
        """Returns whether the next turn is queued. It is not where the environment's text leaves no room for it."""
        try:
            added = rollout.environment_ids(self._engine.tokenizer, observation)
        except ValueError as error:
            raise ValueError(f"{self._where(group.task)}, turn {len(rollout.turn_ends)}: {error}") from error
        room = sampling.max_tokens - rollout.num_tokens - len(added)
        if room <= 0:
            return False
        rollout.add_environment_tokens(added)
        ids = np.concatenate([group.prompt_ids, *rollout.ids])  # (P + T,)
        turn = Sampling(room, sampling.temperature, sampling.top_p, sampling.logprobs, sampling.stop)
        self._requests[self._engine.generate(ids, turn)] = (group, [rollout])
        return True

    def _acquire_env(self, env_index: int) -> Env[str, str]:
        idle = self._idle_envs[env_index]
        # one environment always stays, because `num_problems` reads it
        return idle.pop() if idle else self._spec.envs[env_index].make()

    def _release_env(self, env_index: int, env: Env[str, str]) -> None:
        self._idle_envs[env_index].append(env)

    def stop(self) -> None:
        """Close the environments, their verifier processes and the engine."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for envs in self._idle_envs:
            for env in envs:
                env.close()
        self._engine.stop()
