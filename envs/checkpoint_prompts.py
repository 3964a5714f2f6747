"""The prompts that released checkpoints were trained with. Evaluated with another one, a checkpoint scores lower.

qwen_math    Qwen2.5-Math-Instruct (its model card), and Oat-Zero ("Understanding R1-Zero-Like Training", 2503.20783)
r1           the template of DeepSeek-R1-Zero (2501.12948, table 1), with which Oat-Zero trains other sizes
prime_zero   Eurus-2-7B-PRIME-Zero (PRIME, 2502.01456)

They are texts, so the special tokens of a chat are written out, and no chat template adds to them. The words are those
of the sources, because a model knows no others.
"""

from __future__ import annotations

FIELD = "{problem}"

CHECKPOINT_PROMPTS = {
    "qwen_math": (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        f"<|im_start|>user\n{FIELD}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "r1": (
        "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The "
        "Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
        "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\n"
        f"User: {FIELD}\nAssistant: <think>"
    ),
    "prime_zero": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
        "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
        f"User: {FIELD}\n\nPresent the answer in LaTex format: \\boxed{{Your answer}}. Assistant:"
    ),
}
"""Templates by name, each with `{problem}` in it."""
