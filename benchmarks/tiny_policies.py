"""Tiny random models whose responses have a known law of lengths, and rows of real text for them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tgpo_ray.models import write_model

CONSTANT = 4.0  # the constant feature, where the others have a norm of about 0.2
NEVER = 40.0  # the logit of an end that never comes is this far below
LARGEST_DEVIATION = 0.02  # of the end's probability from what was asked, relative


def read_problems(path: str | Path) -> list[dict[str, str]]:
    """Returns the rows of a jsonl with their `problem` and `answer`.

    Raises:
        ValueError: there is no such file, or a row lacks a column.
    """
    if not Path(path).is_file():
        raise ValueError(f"--path {path}: no such file: give a jsonl with `problem` and `answer`, such as GSM8K's")
    with Path(path).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    if not rows or any("problem" not in row or "answer" not in row for row in rows):
        raise ValueError(f"--path {path}: every row must have a `problem` and an `answer`")
    return [{"problem": row["problem"], "answer": str(row["answer"])} for row in rows]


def repeat_rows(rows: Sequence[dict[str, str]], path: Path, num_rows: int) -> Path:
    """Returns `path`, after writing `num_rows` rows into it: those of `rows`, again and again."""
    with path.open("w", encoding="utf-8") as file:
        for row in itertools.islice(itertools.cycle(rows), num_rows):
            file.write(json.dumps(row) + "\n")
    return path


def write_policy(
    folder: Path, architecture: str, tokenizer: Any, end_probability: float, *, seed: int = 0, **shape: float | bool
) -> Path:
    """Returns the folder of a random model that ends a response at every token with the same probability.

    So lengths are geometric with mean 1 / end_probability. At 0 a response ends at the token limit only.

    The first feature of every embedding is constant. No layer writes to it, and it is far larger than the others, so it
    is nearly constant after the last norm. The row of the end in the LM head reads this feature alone, and the other
    rows do not read it.

    Raises:
        AssertionError: the probability deviates by more than 2 % somewhere in a random text.
    """
    from transformers import AutoModelForCausalLM

    write_model(folder, architecture, tokenizer, seed=seed, tie_word_embeddings=False, **shape)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    end, head = tokenizer.eos_token_id, model.lm_head.weight  # (V, D)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = CONSTANT
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        head[:, 0] = 0.0
        head[end] = 0.0
        head[end, 0] = _end_weight(model, end, end_probability)
        _check_probability(model, end, end_probability)
    model.save_pretrained(folder)
    return folder


def _end_weight(model: Any, end: int, end_probability: float) -> float:
    """Returns the weight that gives the end its probability: the logit over the constant feature."""
    hidden = model.model(_random_ids(model)).last_hidden_state.flatten(0, 1)  # (N, D)
    if end_probability == 0.0:
        return -NEVER / float(hidden[:, 0].mean())
    logits = hidden @ model.lm_head.weight.T  # (N, V)
    logits[:, end] = -torch.inf
    wanted = math.log(end_probability / (1 - end_probability)) + logits.logsumexp(1).mean()
    return float(wanted / hidden[:, 0].mean())


def _check_probability(model: Any, end: int, end_probability: float) -> None:
    found = model(_random_ids(model, seed=1)).logits.softmax(-1)[..., end]  # (B, T)
    deviation = (found - end_probability).abs().max() / (end_probability or 1.0)
    assert deviation < LARGEST_DEVIATION, f"the end's probability deviates by {deviation:.1%}"


def _random_ids(model: Any, seed: int = 0) -> torch.Tensor:
    """Returns (8, 64) ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, model.config.vocab_size, (8, 64), generator=generator)


def mean_length(end_probability: float, cap: int) -> float:
    """Returns the mean of the lengths, the end included, under a token limit."""
    return cap if end_probability == 0.0 else (1 - (1 - end_probability) ** cap) / end_probability
