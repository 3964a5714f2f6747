"""Tiny random models and tokenizers for tests, the demo, and machines without a model hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END, PAD = "<|endoftext|>", "<|pad|>"


def byte_level_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Any:
    """Returns a byte-level BPE tokenizer of Qwen's class, trained on the texts. It can encode every text."""
    from tokenizers import pre_tokenizers

    blank = _qwen_tokenizer({PAD: 0, END: 1})
    return blank.train_new_from_iterator(
        texts, vocabulary_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )


def character_tokenizer(symbols: Sequence[str]) -> Any:
    """Returns a tokenizer with a token for each symbol.

    Longer symbols such as `\\boxed{` are matched first. The tokenizer drops all other characters.
    """
    from tokenizers import AddedToken, pre_tokenizers

    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # the byte-level spelling, in which a blank is `Ġ`
    spelled = [letters.pre_tokenize_str(symbol)[0][0] for symbol in symbols if len(symbol) == 1]
    tokenizer = _qwen_tokenizer({token: i for i, token in enumerate([PAD, END, *spelled])})
    tokenizer.add_tokens([AddedToken(symbol, normalized=False) for symbol in symbols if len(symbol) > 1])
    return tokenizer


def _qwen_tokenizer(vocabulary: dict[str, int]) -> Any:
    # transformers 5 loads the tokenizer of a `qwen2` folder as a Qwen2Tokenizer and ignores the class that the folder
    # names. A tokenizer of another class would therefore come back as a different one.
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token=END, eos_token=END, pad_token=PAD)


def write_model(
    folder: str | Path, architecture: str, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0, **shape: float | bool
) -> Path:
    """Returns the folder, after writing a random causal model with its tokenizer and generation config into it.

    Args:
        architecture: `qwen2` or `qwen3`.
        shape: fields of the architecture's configuration, such as hidden_size or num_hidden_layers.

    Raises:
        ValueError: another architecture.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    known = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    if architecture not in known:
        raise ValueError(f"architecture must be one of {', '.join(known)}, got {architecture!r}")
    config_class, model_class = known[architecture]
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = config_class(**({"vocab_size": len(tokenizer)} | ids | shape))
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
        torch.manual_seed(seed)
        model = model_class(config).float()
    model.generation_config = GenerationConfig(**ids)
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_text_models(data: str, folder: str | Path, seed: int = 0) -> list[Path]:
    """Returns the folders of a tiny random Qwen2 policy and Qwen3 teacher.

    Their BPE tokenizers have different sizes and are trained on the problems.

    Raises:
        ValueError: `data` is no file, or no row has a `problem`.
    """
    texts = list(_problems(data))
    small, large = byte_level_tokenizer(texts, 512), byte_level_tokenizer(texts, 768)
    shape = {"hidden_size": 64, "num_attention_heads": 2, "head_dim": 32, "max_position_embeddings": 512}
    policy = {"intermediate_size": 128, "num_hidden_layers": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
    teacher = {"intermediate_size": 192, "num_hidden_layers": 3, "num_key_value_heads": 1, "tie_word_embeddings": False}
    return [
        write_model(
            Path(folder) / "policy",
            "qwen2",
            small,
            seed=seed,
            **{k: v for k, v in shape.items() if k != "head_dim"},  # Qwen2 derives its head size
            **policy,
        ),
        write_model(Path(folder) / "teacher", "qwen3", large, seed=seed + 1, **shape, **teacher),
    ]


def _problems(data: str) -> Iterator[str]:
    path = Path(data).expanduser()
    if not path.is_file():
        raise ValueError(f"no such file: {data}: give a jsonl with a `problem` column, such as GSM8K's")
    num_problems = 0
    with path.open(encoding="utf-8") as lines:  # not str.splitlines, which also splits at U+2028
        for number, line in enumerate(lines, start=1):
            problem = _row(line, f"{data}, line {number}").get("problem")
            if problem:
                num_problems += 1
                yield problem
    if not num_problems:
        raise ValueError(f"{data} has no row with a `problem`: the tokenizers are trained on that column")


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.strip() or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error.msg}; give a jsonl, one object a line") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object with a `problem`, got {type(row).__name__}")
    return row
