"""EnvRunner, the actor with a vLLM engine and its environments. It streams groups of episodes as they finish."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tgpo_ray.env_runners.prompt_tokens import NO_TOKENS, OVERLONG_FIX, prompt_ids
from tgpo_ray.env_runners.rollout import Rollout, RunningGroup, check_one_problem, tell_prompt
from tgpo_ray.env_runners.runner_spec import EnvRunnerSpec, Finished
from tgpo_ray.env_runners.task_queue import TaskList
from tgpo_ray.episode import EpisodeGroup, Task
from tgpo_ray.models import Engine, Sampling, completions

if TYPE_CHECKING:
    from gymnasium import Env

    from tgpo_ray.env_runners.task_queue import TaskSource
    from tgpo_ray.models import RequestOutput, WeightUpdate
    from tgpo_ray.teachers import Prefixes

DRAW_AGAIN_S = 0.05  # after a draw that found nothing
EOS_DECODE_OPTIONS = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


def request_seed(*key: int) -> int:
    """Returns the seed of a request, which follows from these numbers alone."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 2)  # room for the mates' seeds above it


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
        self._offered: tuple[int, WeightUpdate] | None = None
        self._interrupted = -1  # the last session that is not to go on
        self._busy_s = 0.0

    def num_problems(self) -> list[int | None]:
        """Returns the number of problems of each environment, None where it is procedural."""
        return self._num_problems

    def sync_weights(self, version: int, update: WeightUpdate) -> int:
        """Returns `version`, after loading the update. Later episodes have this version."""
        self._engine.load_weights(update, version)
        self._version, self._offered = version, None  # an older offer is void
        return version

    def sleep(self) -> None:
        """Give the card's memory back, until `sync_weights` wakes the engine up."""
        self._version = None
        self._engine.sleep()

    def offer_weights(self, version: int, update: WeightUpdate) -> None:
        """Have the engine load these weights between two of its steps, or before the next `sample`. It returns at once.

        It may be called from another thread while `sample` runs. Of two offers the later one counts.
        """
        self._offered = (version, update)

    def interrupt(self, session: int) -> None:
        """End a `sample` of this session or an earlier one, in another thread. Its unfinished groups are lost."""
        self._interrupted = session

    def sample(
        self,
        tasks: Sequence[Task] | TaskSource,
        group_size: int,
        sampling: Sampling,
        seed: int,
        prefixes: Prefixes | None = None,
    ) -> Iterator[EpisodeGroup | Finished]:
        """Yields two items for each task as its group finishes, the group and then its `Finished`.

        With `overlong_prompts: drop` the group of a prompt that is too long has no episodes.

        Args:
            tasks: the tasks, or the place where more are drawn whenever the engine has room for a group.
            seed: the tokens of a group follow from it, the weights and the group's task alone. Where `seed_by` is
                `runner` they depend on the other groups of this call too.
            prefixes: teacher-written beginnings of responses, by prompt. The policy continues them.

        Raises:
            RuntimeError: the engine's weights were never synced.
            ValueError: a prompt has no token or more than `max_prompt_tokens`, or a reward is not finite.
        """
        self._take_offer()
        if self._version is None:
            raise RuntimeError("this EnvRunner's weights are stale: call sync_weights before sample")
        if self._spec.seed_by == "runner":
            self._engine.seed(seed)
        self._sampling = sampling
        self._requests: dict[str, tuple[RunningGroup, list[Rollout]]] = {}
        self._steps: dict[Future[str], tuple[RunningGroup, Rollout]] = {}
        start_group = partial(self._start_group, group_size=group_size, seed=seed, prefixes=prefixes)
        source = TaskList(tasks) if isinstance(tasks, Sequence) else tasks
        try:
            for group in self._finished_groups(source, group_size, start_group):
                if isinstance(group, Task):
                    yield EpisodeGroup(())
                    yield Finished(group.key, (), self._take_busy_s())
                    continue
                episodes = group.finish(
                    self._spec.envs[group.task.env_index].id, self._version, with_logprobs=sampling.logprobs
                )
                yield episodes
                infos = tuple(episode.info() for episode in episodes.episodes)
                yield Finished(group.task.key, infos, self._take_busy_s())
        finally:
            self._engine.abort_all()
            self._abandon()

    def _start_group(self, task: Task, *, group_size: int, seed: int, prefixes: Prefixes | None) -> bool:
        """Returns whether the group has begun. It has not where its prompt is too long and such prompts are dropped."""
        # all envs get the same seed and index, so one prompt serves the group
        envs = [self._acquire_env(task.env_index) for _ in range(group_size)]
        resets = [env.reset(seed=task.seed, options={"index": task.problem_index}) for env in envs]
        check_one_problem(resets, self._where(task))
        prompt, info = resets[0]
        ids = prompt_ids(self._engine.tokenizer, prompt, info)
        tell_prompt(envs, self._engine.tokenizer, ids)
        if not self._fits(len(ids), task):
            for env in envs:
                self._release_env(task.env_index, env)
            return False
        begun = enumerate(zip(envs, resets, strict=True))
        rollouts = [Rollout.begun(env, info, number) for number, (env, (_, info)) in begun]
        group = RunningGroup(task, prompt, ids, rollouts)
        if self._spec.seed_by == "request":
            group.seed = request_seed(seed, task.env_index, task.problem_index, task.seed)
        turn = replace(self._sampling, seed=group.seed)
        if prefixes is not None:
            prefix = prefixes.of(prompt)[: turn.max_tokens - 1]  # (T,), the policy samples at least one token
            for rollout in rollouts:
                rollout.begin_with(prefix)
            ids, turn = np.concatenate([ids, prefix]), replace(turn, max_tokens=turn.max_tokens - len(prefix))
        self._requests[self._engine.generate(ids, turn, n=group_size)] = (group, group.rollouts)
        return True

    def _fits(self, num_tokens: int, task: Task) -> bool:
        """Returns whether a prompt of this length is sampled, False for a longer one where those are dropped."""
        limit = self._spec.max_prompt_tokens
        if num_tokens == 0:
            raise ValueError(f"{self._where(task)}: {NO_TOKENS}")
        if num_tokens > limit and self._spec.overlong_prompts == "refuse":
            raise ValueError(
                f"{self._where(task)}: the prompt has {num_tokens} tokens, env_runners.max_prompt_tokens is {limit}: "
                f"{OVERLONG_FIX}"
            )
        return num_tokens <= limit

    def _finished_groups(
        self, source: TaskSource, group_size: int, start_group: Callable[[Task], bool]
    ) -> Iterator[RunningGroup | Task]:
        """Yields the groups as they finish, and tasks that do not begin. A task is drawn when the engine has room.

        Environments therefore number as many as the engine has sequences, and not as many as the iteration has
        episodes. One runner alone draws the same tasks at the same steps whenever it gets the same seed.
        """
        num_open, is_last, next_try = 0, False, 0.0
        while (num_open or not is_last) and source.session > self._interrupted:
            if not is_last and (room := self._room(group_size)) and time.monotonic() >= next_try:
                tasks, is_last = source.draw(room, wait=not num_open)
                if not tasks:  # a busy engine does not ask again at each of its steps
                    next_try = time.monotonic() + DRAW_AGAIN_S
                for task in tasks:
                    if start_group(task):
                        num_open += 1
                    else:
                        yield task
            self._take_offer()  # after the draw: weights that were offered before a task was put write its first token
            if self._engine.busy:
                for output in self._timed(self._engine.step):
                    self._on_output(output)
            for group in self._collect_steps():
                num_open -= 1
                yield group

    def _room(self, group_size: int) -> int:
        """Returns how many groups the engine can write more at once, at least 1 where it has nothing to write."""
        num_unfinished = self._engine.num_unfinished
        room = (self._spec.engine.max_num_seqs - num_unfinished) // group_size
        return max(room, 0 if num_unfinished else 1)

    def _take_offer(self) -> None:
        """Load the weights that `offer_weights` has left, if any."""
        offered, self._offered = self._offered, None
        if offered is not None:
            self.sync_weights(*offered)

    def _timed(self, work: Callable[[], Iterable[RequestOutput]]) -> list[RequestOutput]:
        start = time.monotonic()
        outputs = list(work())
        self._busy_s += time.monotonic() - start
        return outputs

    def _take_busy_s(self) -> float:
        """Returns the seconds in the engine since the last call."""
        busy_s, self._busy_s = self._busy_s, 0.0
        return busy_s

    def _on_output(self, output: RequestOutput) -> None:
        """Start the environments' steps for the responses of a finished request."""
        group, rollouts = self._requests.pop(output.request_id)
        for rollout, completion in zip(rollouts, completions(output), strict=True):
            rollout.add_completion(completion)
            future = self._threads.submit(rollout.step, self._decode(rollout.turn_ids()))
            self._steps[future] = (group, rollout)

    def _decode(self, ids: np.ndarray) -> str:
        return self._engine.tokenizer.decode(ids, **EOS_DECODE_OPTIONS)

    def _collect_steps(self) -> Iterator[RunningGroup]:
        """Yields the groups whose last episode has its reward. Other episodes go on with the environment's answer."""
        if not self._steps:
            return
        # a busy engine must not wait for environments; an idle one has nothing else to wait for
        done, _ = wait(self._steps, timeout=0 if self._engine.busy else None, return_when=FIRST_COMPLETED)
        for future in done:
            group, rollout = self._steps.pop(future)
            observation = self._observation(future, group.task)
            if not rollout.done and not self._continue(group, rollout, observation):
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

    def _continue(self, group: RunningGroup, rollout: Rollout, observation: str) -> bool:
        """Returns whether the next turn is queued. It is not where the environment's text leaves no room for it."""
        try:
            added = rollout.environment_ids(self._engine.tokenizer, observation)
        except ValueError as error:
            raise ValueError(f"{self._where(group.task)}, turn {len(rollout.turn_ends)}: {error}") from error
        room = self._sampling.max_tokens - rollout.num_tokens - len(added)
        if room <= 0:
            return False
        rollout.add_environment_tokens(added)
        ids = np.concatenate([group.prompt_ids, *rollout.ids])  # (P + T,)
        seed = None if group.seed is None else request_seed(group.seed, rollout.number, len(rollout.turn_ends))
        turn = replace(self._sampling, max_tokens=room, seed=seed)
        self._requests[self._engine.generate(ids, turn)] = (group, [rollout])
        return True

    def _acquire_env(self, env_index: int) -> Env[str, str]:
        idle = self._idle_envs[env_index]
        # one environment always stays, because `num_problems` reads it
        return idle.pop() if idle else self._spec.envs[env_index].make()

    def _release_env(self, env_index: int, env: Env[str, str]) -> None:
        self._idle_envs[env_index].append(env)

    def _abandon(self) -> None:
        """Take back the environments of the episodes that an error or an interruption has left open."""
        for group, rollouts in self._requests.values():
            for rollout in rollouts:
                self._release_env(group.task.env_index, rollout.env)
        for future, (group, rollout) in self._steps.items():  # a step may still run in its thread
            future.add_done_callback(lambda _, at=group.task.env_index, env=rollout.env: self._release_env(at, env))

    def stop(self) -> None:
        """Close the environments, their verifier processes and the engine."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for envs in self._idle_envs:
            for env in envs:
                env.close()
        self._engine.stop()
