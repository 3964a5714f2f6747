"""`tgpo/ReasoningGym-v0`: the procedural tasks of reasoning-gym, alone or mixed, at a level of difficulty."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .base import Problem, SingleTurnEnv
from .boxed import last_boxed
from .prompts import THINK_CLOSE, PromptTemplate, after_thought, empty_thought
from .verdict import UNPARSABLE, Verdict
from .verifiers import DEFAULT_DEADLINE_S, shared_pool

WORKER = Path(__file__).parent / "verifiers" / "reasoning_gym_answer.py"
MAKER, SCORER = f"{WORKER}:make", f"{WORKER}:score"
MAKE_S = 60.0  # seconds to make one problem, which no setting of the user's bounds
OPEN, CLOSE = "<answer>", "</answer>"
BLOCK = 1000  # indices that share a data set of reasoning-gym: some of its tasks prepare all of their problems at once


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task of the mixture.

    Args:
        weight: how often, in proportion to the other weights.
        level: of the task's own curriculum, 0 the easiest; a list is walked through as the index grows. None: the
            task's default configuration.
        config: the task's own settings; they win over the level's.
    """

    name: str
    weight: float = 1.0
    level: int | Sequence[int] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


class ReasoningGymEnv(SingleTurnEnv):
    r"""Problems of reasoning-gym, scored by each task's own `score_answer`, partial scores included.

    The answer is what the last `<answer>...</answer>` holds, else the last `\boxed{}`. Problem i depends on the
    arguments and on i alone: problems are made in the verifier pool's processes, whose PYTHONHASHSEED is fixed, as some
    tasks (`polynomial_multiplication`, `isomorphic_strings`, `ransom_note`) iterate over sets of strings.

    Args:
        tasks: the name of a task, a list of names, or `{name: {"weight": 2, "level": 1, "config": {...}}}`.
        seed: which endless sequence of problems the indices address.
        size: problems that count as the whole set; None: unlimited.
        problems_per_level: where a task's `level` is a list, how many indices each of its entries lasts.
        prompt, system_prompt, format_gate, deadline_s, verify_workers: as in `tgpo/Math-v0`.

    Raises:
        ImportError: without reasoning-gym.
        ValueError: for an unknown task, level or setting.
    """

    def __init__(
        self,
        tasks: str | Sequence[str] | Mapping[str, Mapping[str, Any] | None],
        *,
        seed: int = 0,
        size: int | None = None,
        problems_per_level: int = 1000,
        prompt: str = "plain",
        system_prompt: str | None = None,
        format_gate: bool | None = None,
        deadline_s: float = DEFAULT_DEADLINE_S,
        verify_workers: int = 1,
    ) -> None:
        super().__init__()
        if find_spec("reasoning_gym") is None:
            raise ImportError("tgpo/ReasoningGym-v0 needs reasoning-gym: pip install 'tgpo-ray[reasoning-gym]'")
        for name, value in {"size": size, "problems_per_level": problems_per_level}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.template = PromptTemplate(prompt, system_prompt)
        self.format_gate = self.template.opens_thought if format_gate is None else format_gate
        self.tasks, self.seed, self.problems_per_level = _task_specs(tasks), seed, problems_per_level
        self.deadline_s, self.verify_workers, self.num_problems = deadline_s, verify_workers, size
        for task in self.tasks:
            for level in task.level if isinstance(task.level, Sequence) else [task.level]:
                _data_set(task.name, self._config(task, level, 0))

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """The question of one task, drawn by weight."""
        task, config, entry = self._entry(index)
        question = entry["question"]
        extra = {"task": task.name, "config": config, "entry": entry["packed"]}
        return Problem(self.template.text(question), str(entry["answer"]), self.template.messages(question), extra)

    def gold_response(self, index: int) -> str | None:
        """The task's own answer in `<answer>` tags; None where the task gives none."""
        answer = self._entry(index)[2]["answer"]
        if answer is None:
            return None
        thought = empty_thought(opened=self.template.opens_thought) if self.format_gate else ""
        return f"{thought}{OPEN}{answer}{CLOSE}"

    def verify(self, problem: Problem, response: str) -> Verdict:
        """The task's own score, computed in a process that can be killed."""
        text = after_thought(response, opened=self.template.opens_thought) if self.format_gate else response
        if text is None:
            return Verdict(0.0, UNPARSABLE, detail=f"no closed <think> ... {THINK_CLOSE} section")
        answer = tagged_answer(text)
        if answer is None:
            return Verdict(0.0, UNPARSABLE, detail=f"neither {OPEN} nor \\boxed{{}} in the response")
        arguments = (problem.extra["task"], problem.extra["config"], problem.extra["entry"], answer)
        return shared_pool(self.verify_workers).verify(SCORER, *arguments, deadline_s=self.deadline_s)

    def _entry(self, index: int) -> tuple[TaskSpec, str, dict[str, Any]]:
        draw = random.Random(f"{self.seed}/{index}")
        (task,) = draw.choices(self.tasks, weights=[task.weight for task in self.tasks])
        level = task.level
        if isinstance(level, Sequence):
            level = level[min(index // self.problems_per_level, len(level) - 1)]
        config = self._config(task, level, index // BLOCK)
        return task, config, _made(task.name, config, index % BLOCK)

    def _config(self, task: TaskSpec, level: int | None, block: int) -> str:
        # reasoning-gym adds the index to the seed: neighbouring seeds would share all but one of their problems
        digest = hashlib.blake2b(f"{self.seed}/{task.name}/{block}".encode(), digest_size=4).digest()
        given = {"size": BLOCK, "seed": int.from_bytes(digest, "big") >> 2, **task.config}
        return json.dumps(given if level is None else {**_level_config(task.name, level), **given}, sort_keys=True)


def tagged_answer(text: str) -> str | None:
    r"""What the last complete `<answer>...</answer>` holds, else the last `\boxed{}`; in linear time."""
    end = text.rfind(CLOSE)
    start = text.rfind(OPEN, 0, max(end, 0))
    return text[start + len(OPEN) : end].strip() if start >= 0 else last_boxed(text)


def _task_specs(tasks: str | Sequence[str] | Mapping[str, Mapping[str, Any] | None]) -> tuple[TaskSpec, ...]:
    from reasoning_gym.factory import DATASETS

    if isinstance(tasks, str):
        tasks = [tasks]
    options = tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
    if not options:
        raise ValueError("tasks must name at least one task of reasoning-gym, got none")
    for name, given in options.items():
        if name not in DATASETS or name == "composite":
            near = difflib.get_close_matches(name, DATASETS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"reasoning-gym has no task {name!r}{hint} It has {len(DATASETS) - 1}; mix them with tasks"
            )
        for key in given or {}:
            if key not in ("weight", "level", "config"):
                raise ValueError(f"task {name!r} has the unknown setting {key!r}: it takes weight, level, config")
    specs = tuple(TaskSpec(name, **dict(given or {})) for name, given in options.items())
    for spec in specs:
        if not spec.weight > 0:
            raise ValueError(f"the weight of task {spec.name!r} must be > 0, got {spec.weight}")
    return specs


@functools.lru_cache(maxsize=256)  # the episodes of a group share their problem
def _made(name: str, config: str, index: int) -> dict[str, Any]:
    verdict = shared_pool().verify(MAKER, name, config, index, deadline_s=MAKE_S)
    if verdict.data is None:
        raise RuntimeError(f"reasoning-gym's {name!r} made no problem {index} of {config}: {verdict.detail}")
    return verdict.data


@functools.lru_cache(maxsize=64)
def _data_set(name: str, config: str) -> Any:
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, **json.loads(config))
    except (TypeError, AssertionError, ValueError) as failure:
        raise ValueError(f"reasoning-gym's {name!r} does not take this configuration: {failure}") from failure


@functools.lru_cache(maxsize=256)
def _level_config(name: str, level: int) -> dict[str, Any]:
    """The settings of a level of the task's curriculum, as far as the curriculum decides them."""
    from reasoning_gym.factory import create_curriculum, has_curriculum

    if not has_curriculum(name):
        raise ValueError(f"reasoning-gym's {name!r} has no curriculum: use config instead of level")
    curriculum = create_curriculum(name)
    last = max(len(attribute.levels) for attribute in curriculum.attributes.values()) - 1
    if not 0 <= level <= last:
        raise ValueError(f"level of task {name!r} must be in [0, {last}], got {level}")
    curriculum.set_global_level(level)
    config = asdict(curriculum.generate_configuration())
    return {key: value for key, value in config.items() if key not in ("seed", "size")}
