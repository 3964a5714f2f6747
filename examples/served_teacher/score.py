"""A served teacher's answers on a policy's responses, token beside token.

    python examples/served_teacher/score.py --url http://localhost:8000 --policy Qwen/Qwen2.5-Math-1.5B \\
        --teacher Qwen/Qwen3-8B --prompt "What is 17 * 24?"

The policy writes here with transformers, and the teacher reads in its server. This process has no Ray and no vLLM.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup, Guidance
from tgpo_ray.models import Completion, EngineSpec, Sampling
from tgpo_ray.teachers import ServerSpec, Teacher, TeacherSpec, TransformersBackend


def main() -> None:
    options = arguments()
    policy = TransformersBackend(engine(options.policy, options.seed))
    server = ServerSpec(options.url, options.served_model, options.api_key_env)
    spec = TeacherSpec(engine(options.teacher), options.policy, backend="remote", server=server)
    teacher = Teacher(spec)
    try:
        sampling = Sampling(options.max_tokens, options.temperature)
        for prompt in options.prompt:
            prompt_ids = policy.tokenizer.encode(prompt)
            (responses,) = policy.generate([prompt_ids], sampling, n=options.num_responses)
            group = EpisodeGroup(tuple(episode(prompt_ids, response) for response in responses), prompt)
            answers = teacher.annotate(group, ["argmax", "logprob"])
            for response, guidance in zip(responses, answers, strict=True):
                show(policy.tokenizer, prompt, response.token_ids, guidance)
    finally:
        teacher.stop()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="of a vLLM server, as http://host:8000")
    parser.add_argument("--policy", required=True, help="folder or id of the policy")
    parser.add_argument("--teacher", required=True, help="folder or id of the served model: its tokenizer is read here")
    parser.add_argument("--served-model", help="the teacher's name at the server, where it serves several")
    parser.add_argument("--api-key-env", help="environment variable with the server's key")
    parser.add_argument("--prompt", action="append", required=True, help="once for each prompt")
    parser.add_argument("--num-responses", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def engine(model: str, seed: int = 0) -> EngineSpec:
    # Only vLLM reads the context and the KV cache.
    return EngineSpec(model, "float32", max_model_len=0, kv_cache_memory=0, max_num_seqs=16, seed=seed)


def episode(prompt_ids: list[int], response: Completion) -> Episode:
    """The episode of a response, without its reward, because a teacher reads only ids."""
    return Episode(
        prompt_ids=np.asarray(prompt_ids, np.int32),
        response_ids=response.token_ids,
        origin=np.full(len(response.token_ids), ORIGIN_POLICY, np.uint8),
        reward=0.0,
        outcome="wrong",
        stop_reason=response.stop_reason,
        env_id="example",
        problem_index=0,
        seed=0,
        weights_version=0,
    )


def show(tokenizer: Any, prompt: str, response_ids: np.ndarray, guidance: Guidance) -> None:
    """Prints a row for each response token: the policy's token, and the one that the teacher prefers."""
    assert guidance.teacher_ids is not None
    assert guidance.teacher_logprobs is not None
    table = Table("policy", "teacher", "log p of the policy's token", title=f"{prompt!r}", title_justify="left")
    for token, teacher_id, logprob in zip(response_ids, guidance.teacher_ids, guidance.teacher_logprobs, strict=True):
        # -1: the policy has no such token
        if teacher_id < 0:
            text = "(no token of the policy)"
        else:
            text = "=" if teacher_id == token else repr(tokenizer.decode([teacher_id]))
        table.add_row(repr(tokenizer.decode([token])), text, f"{logprob:.3f}")
    agreement = float((guidance.teacher_ids == response_ids).mean())
    table.caption = f"agreement {agreement:.0%}, mean log p {guidance.teacher_logprobs.mean():.3f}"
    Console().print(table, markup=False)


if __name__ == "__main__":
    main()
