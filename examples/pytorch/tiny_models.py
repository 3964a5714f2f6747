"""A tiny teacher that works additions out, and a tiny policy with the habit of answering at once.

    python examples/pytorch/tiny_models.py            # writes .cache/plugs/teacher and .cache/plugs/policy

It takes half a minute on a CPU and downloads nothing. The policy is mostly wrong when it answers at once. Delete the
folder to train them again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tgpo_ray.envs  # noqa: F401  (registers tgpo/Arithmetic-v0)
from tgpo_ray.guidance import guidance_loss_from_logits
from tgpo_ray.models import character_tokenizer, write_model

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "plugs"
ENV_ID, TASK = "tgpo/Arithmetic-v0", {"operation": "add", "digits": [2, 1]}
SYMBOLS = [*"0123456789*+=,", "\\boxed{", "}"]
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "initializer_range": 0.08, "tie_word_embeddings": True}  # fmt: skip
ARCHITECTURES = {"teacher": ("qwen3", {"head_dim": 32}), "policy": ("qwen2", {})}
LONG_SHARE = 0.1
BATCH, LR = 64, 4e-3


def tiny_models(folder: Path = FOLDER, long_share: float = LONG_SHARE) -> dict[str, str]:
    """Folders of a `teacher` (Qwen3) and a `policy` (Qwen2) of one vocabulary, trained where they are missing.

    Args:
        long_share: worked-out responses in the policy's last 20 steps. Fewer of them make a stronger habit.
    """
    # (steps, share of worked-out responses)
    stages = {"teacher": [(200, 1.0)], "policy": [(150, 0.8), (20, long_share)]}
    folders = {"teacher": folder / "teacher", "policy": folder / "policy"}
    if long_share != LONG_SHARE:
        folders["policy"] = folder / f"policy-{long_share:g}"
    for name, (architecture, shape) in ARCHITECTURES.items():
        if not (folders[name] / "trained").exists():
            write_model(folders[name], architecture, character_tokenizer(SYMBOLS), seed=0, **SHAPE, **shape)
            train(folders[name], [share for steps, share in stages[name] for _ in range(steps)])
    return {name: str(path) for name, path in folders.items()}


def train(folder: Path, long_shares: list[float]) -> None:
    """Trains the model in `folder` to imitate solutions, with their tokens as the teacher's."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=len(long_shares))
    for step, share in enumerate(long_shares):
        ids, teacher_ids = solutions(tokenizer, step, share)
        logits = model(ids).logits[:, :-1]  # (B, L-1, V): those before each of the tokens 1, 2, ...
        loss = guidance_loss_from_logits(logits, teacher_ids[:, 1:]).sum() / (teacher_ids >= 0).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
        if (step + 1) % 100 == 0:
            print(f"{folder.name}: supervised step {step + 1}, nll {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)
    (folder / "trained").touch()


def solutions(tokenizer: Any, step: int, long_share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, L) of problems with their solutions, and the same with -1 for prompts and padding."""
    env: Any = gymnasium.make(ENV_ID, **TASK).unwrapped
    rng = np.random.default_rng(step)
    rows, targets = [], []
    for index in range(step * BATCH, (step + 1) * BATCH):
        text, _ = env.reset(seed=0, options={"index": index})
        prompt = tokenizer(text)["input_ids"]
        solution = env.solution(index, "long" if rng.random() < long_share else "short")
        response = [*tokenizer(solution)["input_ids"], tokenizer.eos_token_id]
        rows.append(torch.tensor(prompt + response))
        targets.append(torch.tensor([-1] * len(prompt) + response))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id), pad(targets, True, -1)


if __name__ == "__main__":
    print(tiny_models())
