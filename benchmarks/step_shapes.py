"""The shapes of a whole training step, with the models, tokenizer and prompts that all contestants share."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tiny_policies import write_policy
from tgpo_ray.models import byte_level_tokenizer, character_tokenizer

GROUP_SIZE, RESPONSE, WEIGHT = 8, 64, 2e-3
NUM_ROWS = 512
LEARNING_RATE = 1e-12  # nothing moves, so every step costs the same
ENV_ID = "tgpo/Math-v0"
CHARACTERS = string.ascii_letters + string.digits + " +-*=,;.:!?"
LARGEST_OF_CHARACTERS = 256  # vocabularies up to here have characters, larger ones pieces of words


@dataclass(frozen=True)
class Shape:
    vocabulary: int
    num_groups: int
    prompt: int  # tokens
    goal: float  # tokens a second over TRL's, on-policy
    goal_ahead: float  # the same at staleness 1
    layout: str = "padded"  # of our learner: the quicker one

    @property
    def num_tokens(self) -> int:
        """Response tokens of a step. Every response has the full length."""
        return self.num_groups * GROUP_SIZE * RESPONSE

    @property
    def layers(self) -> dict[str, Any]:
        width = 128 if self.vocabulary < 1024 else 256
        return {
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": width // 4,
            "max_position_embeddings": 512,
        }


SHAPES = {
    "small_vocabulary": Shape(128, 16, 16, 1.1, 1.7),
    "large_vocabulary": Shape(32768, 4, 16, 2.2, 3.3),
    "long_prompts": Shape(32768, 4, 220, 4.0, 6.0, "shared_prompt"),
}


def env_arguments(folder: Path) -> dict[str, Any]:
    """The environment's arguments. Random text has no closed thought, so no contestant's time goes to math-verify."""
    return {"path": str(folder / "rows.jsonl"), "prompt": "{problem}", "format_gate": True}


def prepare(shape: Shape, folder: Path) -> None:
    """Write `policy`, `teacher` and `rows.jsonl` into the folder."""
    tokenizer = tokenizer_of(shape.vocabulary)
    assert len(tokenizer) == shape.vocabulary, f"the tokenizer has {len(tokenizer)} tokens"
    write_policy(folder / "policy", "qwen3", tokenizer, 0.0, **shape.layers)
    # a teacher that names the end would make the loss of a policy that never ends depend on how often it does
    write_policy(folder / "teacher", "qwen3", tokenizer, 0.0, seed=1, **shape.layers)
    rng = np.random.default_rng(0)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(NUM_ROWS):
            file.write(json.dumps({"problem": _text(tokenizer, shape.prompt, rng), "answer": "1"}) + "\n")


def tokenizer_of(vocabulary: int) -> Any:
    """Returns a tokenizer of so many tokens, each with a text."""
    if vocabulary <= LARGEST_OF_CHARACTERS:
        fillers = [f"<{i}>" for i in range(vocabulary - len(CHARACTERS) - 2)]  # two more are the end and the padding
        return character_tokenizer([*CHARACTERS, *fillers])
    rng = np.random.default_rng(1)
    return byte_level_tokenizer([" ".join(_words(rng, 1000)) for _ in range(80)], vocabulary)


def _words(rng: np.random.Generator, count: int) -> Iterator[str]:
    for length in rng.integers(2, 10, count):
        yield "".join(rng.choice([*string.ascii_lowercase], length))


def _text(tokenizer: Any, num_tokens: int, rng: np.random.Generator) -> str:
    """Returns random text of so many tokens."""
    while True:
        text = " ".join(_words(rng, num_tokens))
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        if len(offsets) < num_tokens:
            continue
        text = text[: offsets[num_tokens - 1][1]].strip()
        if len(tokenizer.encode(text)) == num_tokens:  # a blank may have been a token, or the cut one of its own
            return text
