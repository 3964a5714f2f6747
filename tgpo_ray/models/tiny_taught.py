"""Tiny models that know something of a task: a teacher that mostly answers right, a policy that sometimes does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tgpo_ray.models.tiny import byte_level_tokenizer, write_model

Response = str | Sequence[tuple[str, bool]]  # a text, or its pieces with whether they are learned or only read
Pair = tuple[str, Response]  # a prompt and a response
STEPS = {"policy": 50, "teacher": 150}
BATCH, LR, MAX_TOKENS = 64, 4e-3, 512
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.08,
         "max_position_embeddings": 1024, "tie_word_embeddings": True}  # fmt: skip
POLICY = {"intermediate_size": 128, "num_hidden_layers": 2}
TEACHER = {"intermediate_size": 192, "num_hidden_layers": 3, "head_dim": 32}


def make_taught_models(
    pairs: Sequence[Pair] | Mapping[str, Sequence[Pair]],
    folder: str | Path,
    seed: int = 0,
    *,
    steps: Mapping[str, int] | None = None,
) -> list[Path]:
    """Returns the folders of a Qwen2 `policy` and a Qwen3 `teacher`, after a supervised training on the pairs.

    Both have one tokenizer, which can write every text.

    Args:
        pairs: of both models, or by name (`policy`, `teacher`) where they learn different things.
        steps: of each model by name, with `BATCH` pairs each; None: `STEPS`.

    Raises:
        ValueError: there is no pair, or none of at most `MAX_TOKENS` tokens.
    """
    lessons = pairs if isinstance(pairs, Mapping) else {"policy": pairs, "teacher": pairs}
    if not all(lessons.values()):
        raise ValueError("no problem with a right response: the models are taught with them")
    texts = [
        prompt + "".join(text for text, _ in _pieces(response))
        for each in lessons.values()
        for prompt, response in each
    ]
    tokenizer = byte_level_tokenizer(texts, 512)
    rows = {name: _rows(tokenizer, each) for name, each in lessons.items()}
    folder = Path(folder)
    folders = [
        write_model(folder / "policy", "qwen2", tokenizer, seed=seed, **SHAPE, **POLICY),
        write_model(folder / "teacher", "qwen3", tokenizer, seed=seed + 1, **SHAPE, **TEACHER),
    ]
    for path in folders:
        _teach(path, rows[path.name], tokenizer.pad_token_id, seed=seed, steps=(steps or STEPS)[path.name])
    return folders


def _rows(tokenizer: Any, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
    """Returns the rows that are short enough."""
    rows = [row for row in (_row(tokenizer, pair) for pair in pairs) if len(row[0]) <= MAX_TOKENS]
    if not rows:
        raise ValueError(f"every prompt with its response has more than {MAX_TOKENS} tokens: tiny models learn less")
    return rows


def _row(tokenizer: Any, pair: Pair) -> tuple[list[int], list[int]]:
    """Returns the ids of prompt, response and end, and the same with -100 for what is not learned."""
    ids = tokenizer(pair[0])["input_ids"]
    labels = [-100] * len(ids)
    for text, learned in [*_pieces(pair[1]), (tokenizer.eos_token, True)]:
        piece = tokenizer(text)["input_ids"]
        ids, labels = ids + piece, labels + (piece if learned else [-100] * len(piece))
    return ids, labels


def _pieces(response: Response) -> Sequence[tuple[str, bool]]:
    return [(response, True)] if isinstance(response, str) else response


def _teach(folder: Path, rows: Sequence[tuple[list[int], list[int]]], pad_id: int, *, seed: int, steps: int) -> None:
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = [rows[i] for i in torch.randint(len(rows), (BATCH,), generator=draw).tolist()]
        ids, labels = (
            pad_sequence([torch.tensor(row[part]) for row in batch], batch_first=True, padding_value=value)
            for part, value in enumerate((pad_id, -100))
        )  # (B, T) each
        loss = model(input_ids=ids, attention_mask=(ids != pad_id).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
    model.save_pretrained(folder)
