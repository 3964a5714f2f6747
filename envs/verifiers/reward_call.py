"""Calls a user's reward function in the form that it takes. Runs in a worker."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from .worker import load

STYLES = ("plain", "verl", "trl")


def signature_style(signature: inspect.Signature) -> str:
    """`plain`, `verl` or `trl`, by the names of the arguments.

    Raises:
        ValueError: for arguments that fit none.
    """
    if "completions" in signature.parameters:
        return "trl"
    if "solution_str" in signature.parameters:
        return "verl"
    try:
        signature.bind("prompt", "response", "answer")
    except TypeError as failure:
        forms = "reward(prompt, response, answer), verl's compute_score or a TRL reward function"
        raise ValueError(f"the reward function takes {signature}: it must look like {forms}") from failure
    return "plain"


def score(target: str, call: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    """The reward of one response. `call` has style, prompt, messages, response and answer; `row` is the file's."""
    function = load(target)
    if call["style"] == "plain":
        return function(call["prompt"], call["response"], call["answer"])
    if call["style"] == "verl":
        source, info = row.get("data_source", ""), row.get("extra_info")
        result = function(
            data_source=source, solution_str=call["response"], ground_truth=call["answer"], extra_info=info
        )
        return float(result["score"]) if isinstance(result, Mapping) else result
    return _trl(function, call, row)


def _trl(function: Any, call: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    chat = call["messages"] is not None
    completion = [{"role": "assistant", "content": call["response"]}] if chat else call["response"]
    # TRL calls with batches: every argument is a list, here of one.
    arguments = {name: [value] for name, value in row.items()}
    arguments |= {"answer": [call["answer"]], "prompts": [call["messages"] if chat else call["prompt"]]}
    arguments["completions"] = [completion]
    parameters = inspect.signature(function).parameters
    # Without **kwargs a function takes only the columns that it names.
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        arguments = {name: value for name, value in arguments.items() if name in parameters}
    (reward,) = function(**arguments)
    return reward
