"""`tgpo/ReasoningGym-v0`: the procedural tasks of reasoning-gym, one or several, at a level of difficulty."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .base import Problem, SingleTurnEnv
from .boxed import last_boxed
from .format_gate import NO_THOUGHT
from .hints import nearest
from .options import takes
from .prompt_options import PromptOptions
from .verdict import UNPARSABLE, Verdict
from .verifiers import VerifierOptions, shared_pool

WORKER = Path(__file__).parent / "verifiers" / "reasoning_gym_answer.py"
MAKER, SCORER = f"{WORKER}:make", f"{WORKER}:score"
MAKE_S = 60.0  # seconds to make one problem
OPEN, CLOSE = "<answer>", "</answer>"
BLOCK = 1000  # indices that share a data set of reasoning-gym: some of its tasks prepare all of their problems at once


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task of the mixture.

    Args:
        weight: how often the task occurs, in proportion to the other weights.
        level: level of the task's own curriculum, 0 the easiest. The entries of a list follow one another as the index
            grows. None: the task's default configuration.
        config: the task's own settings. They win over those of the level.
    """

    name: str
    weight: float = 1.0
    level: int | Sequence[int] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReasoningGymOptions(VerifierOptions, PromptOptions):
    """Options of `tgpo/ReasoningGym-v0`."""

    tasks: str | Sequence[str] | Mapping[str, Mapping[str, Any] | None]
    """The name of a task, a list of names, or `{name: {weight: 2, level: 1, config: {...}}}`."""
    _: KW_ONLY
    seed: int = 0
    """Which endless sequence of problems the indices address."""
    size: int | None = None
    """Problems that count as the whole set. null: unlimited."""
    problems_per_level: int = 1000
    """Where a task's `level` is a list, how many indices each of its entries lasts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "problems_per_level"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")


class ReasoningGymEnv(SingleTurnEnv):
    r"""Problems of reasoning-gym, scored by each task's own `score_answer`, partial scores included.

    The answer is the content of the last `<answer>...</answer>`, else of the last `\boxed{}`. Problem i depends only on
    the arguments (`ReasoningGymOptions` lists them) and on i. Problems are made in the verifier pool's processes, whose
    PYTHONHASHSEED is fixed, because some tasks (`polynomial_multiplication`, `isomorphic_strings`, `ransom_note`)
    iterate over sets of strings.

    Raises:
        ImportError: without reasoning-gym.
        ValueError: for an unknown task, level or setting.
    """

    @takes(ReasoningGymOptions)
    def __init__(self, options: ReasoningGymOptions) -> None:
        super().__init__()
        if find_spec("reasoning_gym") is None:
            raise ImportError("tgpo/ReasoningGym-v0 needs reasoning-gym: pip install 'tgpo-ray[reasoning-gym]'")
        self.options, self.deadline_s, self.num_problems = options, options.deadline_s, options.size
        self.template, self.gate = options.template, options.gate
        self.tasks = _task_specs(options.tasks)
        for task in self.tasks:  # makes each data set once, so that a wrong configuration fails here
            for level in task.level if isinstance(task.level, Sequence) else [task.level]:
                _data_set(task.name, self._config(task, level, 0))

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """The question of one task, drawn by weight."""
        task, config, entry = self._entry(index)
        question = entry["question"]
        return self.template.problem(
            question, str(entry["answer"]), task=task.name, config=config, entry=entry["packed"]
        )

    def gold_response(self, index: int) -> str | None:
        """The task's own answer in `<answer>` tags, or None where the task gives no answer."""
        answer = self._entry(index)[2]["answer"]
        if answer is None:
            return None
        return f"{self.gate.empty_thought}{OPEN}{answer}{CLOSE}"

    def verify(self, problem: Problem, response: str) -> Verdict:
        """The task's own score, computed in a process that can be killed."""
        text = self.gate.scored_text(response)
        if text is None:
            return Verdict(0.0, UNPARSABLE, detail=NO_THOUGHT)
        answer = tagged_answer(text)
        if answer is None:
            return Verdict(0.0, UNPARSABLE, detail=f"neither {OPEN} nor \\boxed{{}} in the response")
        arguments = (problem.extra["task"], problem.extra["config"], problem.extra["entry"], answer)
        return self.options.verify(SCORER, *arguments)

    def _entry(self, index: int) -> tuple[TaskSpec, str, dict[str, Any]]:
        draw = random.Random(f"{self.options.seed}/{index}")
        (task,) = draw.choices(self.tasks, weights=[task.weight for task in self.tasks])
        level = task.level
        if isinstance(level, Sequence):
            level = level[min(index // self.options.problems_per_level, len(level) - 1)]
        config = self._config(task, level, index // BLOCK)
        return task, config, _made(task.name, config, index % BLOCK)

    def _config(self, task: TaskSpec, level: int | None, block: int) -> str:
        # reasoning-gym adds the index to the seed, so neighbouring seeds would share all but one of their problems.
        digest = hashlib.blake2b(f"{self.options.seed}/{task.name}/{block}".encode(), digest_size=4).digest()
        settings = {"size": BLOCK, "seed": int.from_bytes(digest, "big") >> 2, **task.config}
        base = {} if level is None else _level_config(task.name, level)
        return json.dumps({**base, **settings}, sort_keys=True)


def tagged_answer(text: str) -> str | None:
    r"""Content of the last complete `<answer>...</answer>`, else of the last `\boxed{}`, in linear time."""
    end = text.rfind(CLOSE)
    start = text.rfind(OPEN, 0, max(end, 0))
    return text[start + len(OPEN) : end].strip() if start >= 0 else last_boxed(text)


def _task_specs(tasks: str | Sequence[str] | Mapping[str, Mapping[str, Any] | None]) -> tuple[TaskSpec, ...]:
    from reasoning_gym.factory import DATASETS  # an extra: this module must load without it

    if isinstance(tasks, str):
        tasks = [tasks]
    options = tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
    if not options:
        raise ValueError("tasks must name at least one task of reasoning-gym, got none")
    for name, settings in options.items():
        if name not in DATASETS or name == "composite":  # its own mixture, which `tasks` replaces
            hint = nearest(name, DATASETS)
            raise ValueError(
                f"reasoning-gym has no task {name!r}{hint} It has {len(DATASETS) - 1}; mix them with tasks"
            )
        for key in settings or {}:
            if key not in ("weight", "level", "config"):
                raise ValueError(f"task {name!r} has the unknown setting {key!r}: it takes weight, level, config")
    specs = tuple(TaskSpec(name, **dict(settings or {})) for name, settings in options.items())
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
    """The settings that the task's curriculum gives for a level, without seed and size."""
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
