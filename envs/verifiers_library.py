"""One small interface to both kinds of environment of `verifiers`: classic ones, and tasksets (0.4 and later).

The environment imports this module for the prompts, a worker of the verifier pool for the scores. `verifiers` itself is
imported only where an environment needs it.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .verifiers.worker import load

Prompt = str | list[dict[str, str]]


class Source(Protocol):
    """Problems by index, and the reward of a response with its named parts."""

    def __len__(self) -> int: ...

    def prompt(self, index: int) -> Prompt: ...

    def answer(self, index: int) -> Any: ...

    async def score(self, index: int, response: str) -> tuple[float, dict[str, float]]: ...


class RubricSource:
    """A classic environment: a data set, and a rubric that fills the state of one rollout."""

    def __init__(self, environment: Any) -> None:
        for one in [environment, *getattr(environment, "envs", [])]:  # an EnvGroup has several
            if getattr(one, "max_turns", 1) != 1:
                raise ValueError(f"{one!r} takes several turns: only single-turn environments can be adapted")
        self._rubric = environment.rubric
        get = getattr(environment, "get_dataset", None)
        self._rows: Any = get() if callable(get) else environment.dataset
        self._names = list(inspect.signature(self._rubric.score_rollout).parameters)

    def __len__(self) -> int:
        return len(self._rows)

    def prompt(self, index: int) -> Prompt:
        prompt = self._rows[index]["prompt"]
        return prompt if isinstance(prompt, str) else [_message(message) for message in prompt]

    def answer(self, index: int) -> Any:
        return self._rows[index].get("answer")

    async def score(self, index: int, response: str) -> tuple[float, dict[str, float]]:
        row = dict(self._rows[index])
        info = row.get("info") or {}
        row["info"] = json.loads(info) if isinstance(info, str) else info  # verifiers stores mappings as JSON
        state = {
            "prompt": self.prompt(index), "completion": self._completion(index, response), "input": row,
            "answer": row.get("answer", ""), "task": row.get("task", "default"), "info": row["info"],
            "trajectory": [], "timing": {},
        }  # fmt: skip
        if "completion" in self._names:  # up to about 0.1.6 it takes the parts by position and returns a score
            result = self._rubric.score_rollout(**{name: state.get(name, state) for name in self._names[:6]})
        else:
            result = self._rubric.score_rollout(state)
        result = await result if inspect.isawaitable(result) else result
        reward = state.get("reward") if result is None else getattr(result, "reward", None)
        metrics = state.get("metrics") if result is None else getattr(result, "metrics", None)
        if not isinstance(reward, int | float):
            raise TypeError("the rubric's score_rollout gave no reward")
        return float(reward), {name: float(value) for name, value in dict(metrics or {}).items()}  # type: ignore[arg-type]

    def _completion(self, index: int, response: str) -> Any:
        if isinstance(self.prompt(index), str):
            return response
        message = {"role": "assistant", "content": response}
        try:  # the parsers of later versions read attributes
            from verifiers.types import AssistantMessage  # pyright: ignore[reportMissingImports]
        except ImportError:
            return [message]
        return [AssistantMessage(**message)]


class TasksetSource:
    """A taskset: tasks that score a trace. The trace here is the prompt and one sampled reply."""

    def __init__(self, taskset: Any) -> None:
        if not getattr(taskset, "bounded", True):
            raise ValueError(f"{taskset!r} has no end: give a function that returns a view, as taskset.take(1000)")
        self._tasks = list(taskset)
        for task in self._tasks[:1]:
            _check_single_reply(task)
        vf: Any = importlib.import_module("verifiers.v1")
        self._vf, self._graph = vf, importlib.import_module("verifiers.v1.graph")

    def __len__(self) -> int:
        return len(self._tasks)

    def prompt(self, index: int) -> Prompt:
        return self.messages(index)

    def messages(self, index: int) -> list[dict[str, str]]:
        data = self._tasks[index].data
        system = [] if data.system_prompt is None else [{"role": "system", "content": data.system_prompt}]
        if isinstance(data.prompt, str):
            return [*system, {"role": "user", "content": data.prompt}]
        return [*system, *map(_message, data.prompt)]

    def answer(self, index: int) -> Any:
        return getattr(self._tasks[index].data, "answer", None)

    async def score(self, index: int, response: str) -> tuple[float, dict[str, float]]:
        task, vf = self._tasks[index], self._vf
        kinds = {"system": vf.SystemMessage, "user": vf.UserMessage, "assistant": vf.AssistantMessage}
        messages = [kinds[m["role"]](content=m["content"]) for m in self.messages(index)]
        nodes = [self._graph.MessageNode(parent=n - 1 if n else None, message=m) for n, m in enumerate(messages)]
        reply = vf.AssistantMessage(content=response)
        nodes.append(
            self._graph.MessageNode(parent=len(messages) - 1 if messages else None, message=reply, sampled=True)
        )
        seeded = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
        trace = vf.Trace(task=seeded, agent=vf.AgentInfo(config=vf.AgentConfig()), nodes=nodes)
        await task.score(trace)
        parts = {name: float(value) for name, value in trace.metrics.items() if value is not None}
        parts |= {name: float(reward.score) for name, reward in trace.rewards.items() if reward is not None}
        if not trace.rewards:
            raise TypeError(f"{type(task).__name__} has no reward")
        return float(trace.reward), parts


def source_of(environment: str, kwargs: Mapping[str, Any]) -> Source:
    """The environment or taskset with this name: an id of an installed package, or `module:function` that returns one.

    Raises:
        ValueError: for an environment of several turns, with tools, without an end, or of another kind.
        ImportError: when a package that is named is not installed.
    """
    try:
        source = load(environment)(**kwargs) if ":" in environment else _by_id(environment, kwargs)
    except ModuleNotFoundError as failure:
        raise ImportError(f"{environment!r} needs a package that is not installed: {failure.name}") from failure
    if hasattr(source, "rubric"):
        return RubricSource(source)
    if hasattr(source, "load") and hasattr(source, "__iter__"):
        return TasksetSource(source)
    raise ValueError(f"{environment!r} has neither a rubric nor tasks: it is no environment of the verifiers package")


def score(environment: str, kwargs: str, index: int, response: str) -> dict[str, Any]:
    """The reward of one response, in a worker. An exception of the rubric becomes the outcome `error`."""
    source = cached_source(environment, kwargs)
    reward, parts = _loop().run_until_complete(source.score(index, response))
    return {"score": reward, "parts": {**parts, "reward": reward}}


def load_source(environment: str, kwargs: str, *_: Any) -> None:
    """Loads an environment and its data set before the deadline runs."""
    cached_source(environment, kwargs)
    _loop()


score.before_deadline = load_source  # pyright: ignore[reportFunctionMemberAccess]


@functools.lru_cache(maxsize=8)
def cached_source(environment: str, kwargs: str) -> Source:
    return source_of(environment, json.loads(kwargs))


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for all scores of this process, as a judge model's clients are bound to their loop."""
    return asyncio.new_event_loop()


def _by_id(environment: str, kwargs: Mapping[str, Any]) -> Any:
    package = importlib.import_module("verifiers")
    if hasattr(package, "load_environment"):
        return package.load_environment(environment, **kwargs)
    vf: Any = importlib.import_module("verifiers.v1")
    return vf.load_taskset(vf.taskset_config_type(environment).model_validate({**kwargs, "id": environment}))


def _check_single_reply(task: Any) -> None:
    """Refuses tasks whose score is not a function of the reply alone."""
    if task.NEEDS_CONTAINER or task.toolsets(task.config):
        raise ValueError(f"{type(task).__name__} needs a container or tools: only tasks of one reply can be adapted")
    if task.data.prompt is None:
        raise ValueError(f"{type(task).__name__} has no prompt: its user opens the conversation")
    for reward in task.hooks("reward"):
        runtime = inspect.signature(reward).parameters.get("runtime")
        if runtime is not None and runtime.default is inspect.Parameter.empty:
            name = f"{type(task).__name__}.{reward.__name__}"
            raise ValueError(f"the reward {name} needs a runtime: only rewards of the reply alone can be adapted")


def _message(message: Any) -> dict[str, str]:
    fields: Any = message if isinstance(message, Mapping) else vars(message)
    content: Any = fields["content"]
    if isinstance(content, Sequence) and not isinstance(content, str):  # parts
        parts = [part if isinstance(part, Mapping) else vars(part) for part in content]
        content = "".join(str(part.get("text", "")) for part in parts)
    return {"role": str(fields["role"]), "content": "" if content is None else str(content)}
