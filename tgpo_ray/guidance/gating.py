"""`Gate`, a function that weighs guidance token by token, and `GateInputs`, the tensors that it may ask for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tgpo_ray.guidance.diagnostics import positions_in_sequence
from tgpo_ray.guidance.divergence import best_logprobs, known_logprobs, log_ratio
from tgpo_ray.kernels import TokenRows

WHOLE_RESPONSES = ("sequence", "positions")  # a gate with one of these looks at more than its own token

ASKED = {"teacher_logprobs": "logprob", "log_ratio": "logprob", "target_logprobs": "topk:1"}
"""Input of a gate -> what the teacher must be asked for. `topk:1` is the least of `topk:k`."""

ROW_FIELDS = {
    "teacher_logprobs": "{scorer}.teacher_logprobs",
    "log_ratio": "{scorer}.teacher_logprobs",
    "target_logprobs": "{scorer}.topk_logprobs",
    "success": "group.success",
    "uniform": "episode.uniform",
}
"""Input of a gate -> the entry of `TokenRows.extra` that has it."""


@dataclass(frozen=True)
class GateInputs:
    """What a gate may look at, (N,) each and without gradient. None: unknown in this batch."""

    mask: Tensor  # 1.0 on tokens that the policy wrote
    sampled_ids: Tensor | None = None  # int64
    teacher_ids: Tensor | None = None  # int64; -1 where there is no guidance
    logprobs: Tensor | None = None  # of the sampled tokens under the policy that wrote them, or the present one
    guidance_logprobs: Tensor | None = None  # the present policy's, of the teacher's token
    teacher_logprobs: Tensor | None = None  # the teacher's, of the sampled token; NaN where it gave none
    target_logprobs: Tensor | None = None  # the teacher's, of its likeliest token that the policy has; NaN likewise
    advantages: Tensor | None = None
    success: Tensor | None = None  # mean reward of the token's group, each reward cut to [0, 1]
    lengths: Tensor | None = None  # the policy's tokens in the response
    sequence: Tensor | None = None  # int64; the response of a token
    uniform: Tensor | None = None  # noise in [0, 1) that depends on the episode alone

    @property
    def log_ratio(self) -> Tensor | None:
        """log pi(y_t) - log pi_T(y_t) in nats; NaN where the teacher gave no probability."""
        if self.logprobs is None or self.teacher_logprobs is None:
            return None
        return log_ratio(self.logprobs, self.teacher_logprobs)

    @property
    def positions(self) -> Tensor | None:
        """Index of each token in its response, int64."""
        return None if self.sequence is None else positions_in_sequence(self.sequence)

    @classmethod
    def from_rows(cls, logprobs: Tensor, rows: TokenRows, *, scorer: str = "teacher") -> GateInputs:
        """Returns the inputs in the rows of a `TokenLoss` (N, K), whose column 1 is the teacher's token."""
        logprobs, has_targets = logprobs.detach(), rows.targets.shape[1] > 1
        extra = {name: rows.extra.get(entry.format(scorer=scorer)) for name, entry in ROW_FIELDS.items()}
        sampled, best = extra["teacher_logprobs"], extra["target_logprobs"]
        return cls(
            mask=rows.mask,
            sampled_ids=rows.targets[:, 0],
            teacher_ids=torch.where(rows.target_mask[:, 1] > 0, rows.targets[:, 1], -1) if has_targets else None,
            logprobs=logprobs[:, 0] if rows.old_logprobs is None else rows.old_logprobs,
            guidance_logprobs=logprobs[:, 1] if has_targets else None,
            teacher_logprobs=None if sampled is None else known_logprobs(sampled),
            target_logprobs=None if best is None else best_logprobs(best),
            advantages=rows.advantages,
            success=extra["success"],
            lengths=rows.lengths,
            sequence=rows.sequence,
            uniform=extra["uniform"],
        )


INPUTS = (*(field.name for field in fields(GateInputs)), "log_ratio", "positions")


@dataclass(frozen=True)
class Gate:
    """A gate with its options. `Gate.of` makes it and says what is wrong with either.

    It is a small value, which processes exchange. The function must be importable where it is called.
    """

    function: Callable[..., Tensor]
    inputs: tuple[str, ...]  # names of its positional parameters, which are those of `GateInputs`
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Tensor], options: Mapping[str, Any] | None = None) -> Gate:
        """Returns the gate of a function and its options, after it was tried on three tokens.

        Raises:
            ValueError: the function asks for an unknown tensor, an option is unknown, missing or out of its range, or
                the result is not a number for each token.
        """
        options = dict(options or {})
        parameters = inspect.signature(function).parameters.values()
        inputs = [it.name for it in parameters if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)]
        keywords = {it.name: it for it in parameters if it.kind == it.KEYWORD_ONLY}
        if unknown := [name for name in inputs if name not in INPUTS]:
            raise ValueError(
                f"a gate knows no tensor {unknown[0]!r}{_nearest(unknown[0], INPUTS)}; it may take {_list(INPUTS)}"
            )
        if unknown := [name for name in options if name not in keywords]:
            takes = f"it takes {_list(keywords)}" if keywords else "it takes none"
            raise ValueError(f"unknown option {unknown[0]!r}{_nearest(unknown[0], keywords)}; {takes}")
        if missing := [it.name for it in keywords.values() if it.default is it.empty and it.name not in options]:
            raise ValueError(f"option {missing[0]!r} is required")
        for name, value in options.items():
            if keywords[name].annotation in ("float", float) and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ValueError(f"{name} must be a number, got {value!r}")
        made = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        gate = cls(function, tuple(inputs), tuple(made.items()))
        gate._try()
        return gate

    def _try(self) -> None:
        ids, ones = torch.tensor([5, 6, 7]), torch.ones(3)
        logs, sequence = torch.tensor([-0.5, -1.0, -2.0]), torch.tensor([0, 0, 1])
        success = torch.tensor([0.0, 0.5, 1.0])
        sample = GateInputs(ones, ids, ids, logs, logs, logs, logs, ones, success, 2 * ones, sequence, 0.5 * ones)
        try:
            result = self.function(*(getattr(sample, name) for name in self.inputs), **dict(self.options))
        except (ValueError, TypeError) as error:  # a text where a number belongs
            raise ValueError(str(error)) from error
        except Exception as error:  # one's own function may raise anything
            raise ValueError(f"the gate failed on three tokens: {type(error).__name__}: {error}") from error
        if not isinstance(result, Tensor) or result.shape != (3,):
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"a gate must return one number for each of N tokens, (N,), got {shape} for N = 3")
        if bool(torch.isinf(result).any()):
            raise ValueError(f"a gate must return finite numbers, got {result.tolist()} where success is 0, 0.5 and 1")

    @property
    def wants(self) -> set[str]:
        """What the teacher must be asked for beside its token: `logprob`, `topk:1`."""
        return {ASKED[name] for name in self.inputs if name in ASKED}

    def row_fields(self, scorer: str = "teacher") -> tuple[str, ...]:
        """The fields that a `TokenLoss` with this gate must list."""
        return tuple(
            dict.fromkeys(ROW_FIELDS[name].format(scorer=scorer) for name in self.inputs if name in ROW_FIELDS)
        )

    @property
    def whole_responses(self) -> bool:
        """Whether the gate needs all tokens of a response at once. Others may be called on any rows of a batch."""
        return any(name in WHOLE_RESPONSES for name in self.inputs)

    @property
    def needs_ratio(self) -> bool:
        """Whether the gate compares log-probabilities of policy and teacher, which must be of one temperature."""
        return "log_ratio" in self.inputs or {"logprobs", "teacher_logprobs"} <= set(self.inputs)

    def shuts(self, success: float) -> bool:
        """Returns whether a group of this mean reward has no guidance at all, so that no teacher need read it.

        False also where the rewards alone do not say it.
        """
        if self.inputs != ("success",):
            return False
        reward = torch.tensor([success])
        return not float(self(GateInputs(torch.ones(1), success=reward)))

    @torch.no_grad()
    def __call__(self, inputs: GateInputs) -> Tensor:
        """Returns the factor (N,) of guidance at each token. What is NaN, infinite or below 0 becomes 0.

        Raises:
            ValueError: the batch lacks a tensor that the gate needs.
        """
        tensors = {name: getattr(inputs, name) for name in self.inputs}
        if missing := [name for name, tensor in tensors.items() if tensor is None]:
            raise ValueError(
                f"the gate needs {missing[0]!r}, which is None in this batch: give GateInputs that tensor"
                + (f" (ask the teacher for {ASKED[missing[0]]!r})" if missing[0] in ASKED else "")
            )
        factor = self.function(*tensors.values(), **dict(self.options))
        return torch.nan_to_num(factor, nan=0.0, posinf=0.0).clamp(min=0.0)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
