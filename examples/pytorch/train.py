"""Guidance in a training loop of your own, with torch and transformers in one process, under a minute on a CPU.

    python examples/pytorch/train.py

A tiny policy learns to add, by GRPO with rewards of `tgpo/Arithmetic-v0`. It does so once without a teacher and once
with guidance towards a teacher's tokens on the policy's own responses. The guidance is three lines in `update`.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import torch
from tiny_models import ENV_ID, LONG_SHARE, TASK, tiny_models
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import tgpo_ray.envs  # noqa: F401  (registers tgpo/Arithmetic-v0)
from tgpo_ray.guidance import LinearDecay, guidance_loss_from_logits

NUM_PROMPTS, GROUP_SIZE, MAX_RESPONSE_TOKENS, LR = 8, 8, 24, 3e-4
WINDOW = 5  # iterations a line of the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--weight", type=float, default=0.3, help="of guidance at step 0; it falls to 0 at two thirds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--long-share", type=float, default=LONG_SHARE, help="see tiny_models; the lower, the harder")
    options = parser.parse_args()
    models = tiny_models(long_share=options.long_share)
    for weight in (0.0, options.weight):
        print(f"\n{'GRPO alone' if weight == 0.0 else f'GRPO with guidance, weight {weight}'}", flush=True)
        runs = [train(models, weight, options.iterations, seed) for seed in options.seeds]
        for start in range(0, options.iterations, WINDOW):
            rows = [row for run in runs for row in run[start : start + WINDOW]]
            means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
            print("  ".join(f"{name} {value:<6.3f}" for name, value in means.items()), flush=True)


def train(models: dict[str, str], weight: float, iterations: int, seed: int) -> list[dict[str, float]]:
    """A row of metrics for each iteration of one run."""
    torch.manual_seed(seed)
    policy, teacher = (AutoModelForCausalLM.from_pretrained(models[name]) for name in ("policy", "teacher"))
    tokenizer = AutoTokenizer.from_pretrained(models["policy"])  # the teacher's too
    env = gymnasium.make(ENV_ID, **TASK).unwrapped
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LR)
    schedule = LinearDecay(weight, decay=1.5 * weight / iterations)
    rows = []
    for step in range(iterations):
        ids, mask, rewards = rollout(policy, tokenizer, env, first_index=step * NUM_PROMPTS)
        metrics = update(policy, teacher, optimizer, ids, mask, rewards, schedule(step))
        rows.append({"step": float(step), "reward": rewards.mean().item(), **metrics})
    return rows


@torch.no_grad()
def rollout(policy: Any, tokenizer: Any, env: Any, first_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of prompts and responses (B, L), the mask (B, T) of response tokens, and rewards (P, G); B = P G."""
    indices = [first_index + i for i in range(NUM_PROMPTS) for _ in range(GROUP_SIZE)]
    prompts = [env.reset(seed=0, options={"index": index})[0] for index in indices]
    prompt_ids = tokenizer(prompts, return_tensors="pt")["input_ids"]  # all of one length: no padding on the left
    ids = policy.generate(prompt_ids, attention_mask=torch.ones_like(prompt_ids), do_sample=True, top_k=0,
                          max_new_tokens=MAX_RESPONSE_TOKENS)  # fmt: skip
    responses = ids[:, prompt_ids.shape[1] :]  # (B, T)
    is_end = responses == tokenizer.eos_token_id
    mask = (is_end.cumsum(1) - is_end.long() == 0).float()  # the end counts, what follows it does not
    rewards = []
    for index, text in zip(indices, tokenizer.batch_decode(responses, skip_special_tokens=True), strict=True):
        env.reset(seed=0, options={"index": index})
        rewards.append(env.step(text)[1])
    return ids, mask, torch.tensor(rewards).view(NUM_PROMPTS, GROUP_SIZE)


def update(
    policy: Any, teacher: Any, optimizer: Any, ids: Tensor, mask: Tensor, rewards: Tensor, weight: float
) -> dict[str, float]:
    """The metrics of one step on the policy gradient plus `weight` times guidance."""
    num_response = mask.shape[1]
    logits = policy(ids).logits[:, -num_response - 1 : -1]  # (B, T, V), those before each response token
    logprobs = torch.log_softmax(logits, -1).gather(-1, ids[:, -num_response:, None]).squeeze(-1)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)  # (P, G)
    loss = -(advantages.view(-1, 1) * logprobs * mask).sum() / mask.sum()  # on-policy, one update: the ratio is 1

    teacher_ids = teacher_argmax(teacher, ids, num_response)
    guidance = guidance_loss_from_logits(logits, teacher_ids, mask).sum() / mask.sum()
    loss = loss + weight * guidance

    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    agreement = ((teacher_ids == logits.argmax(-1)) * mask).sum() / mask.sum()
    return {"weight": weight, "guidance_nll": guidance.item(), "agreement": agreement.item()}


@torch.no_grad()
def teacher_argmax(teacher: Any, ids: Tensor, num_response: int) -> Tensor:
    """The teacher's tokens (B, T) on the policy's responses, by one prefill without generation."""
    return teacher(ids, logits_to_keep=num_response + 1).logits[:, :-1].argmax(-1)


if __name__ == "__main__":
    main()
