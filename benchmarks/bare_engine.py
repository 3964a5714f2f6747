"""vLLM's `LLM` and nothing else: what a runner is compared with.

As a command it reads a task as JSON (`engine`, `sampling`, `prompts` as ids, `n`), answers it, and prints its memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tgpo_ray.models import EngineSpec, Sampling, engine_environment


class BareEngine:
    """`LLM` with the arguments of a runner's engine. Its process must have `engine_environment`."""

    def __init__(self, spec: EngineSpec) -> None:
        from vllm import LLM

        from tgpo_ray.models import engine_arguments

        self.llm = LLM(**engine_arguments(spec, gpu=False))

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int, seed: int | None = None
    ) -> list[list[int]]:
        """Returns the number of tokens of each response to each prompt, from one call of `LLM.generate`.

        With a `seed` each request has a seed of its own, and so a generator.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            logprobs=0 if sampling.logprobs else None,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        inputs: Any = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        each: Any = params
        if seed is not None:
            each = [params.clone() for _ in prompts]
            for number, own in enumerate(each):
                own.seed = (seed * len(prompts) + number) * n  # n responses have n seeds
        outputs = self.llm.generate(inputs, each, use_tqdm=False)
        return [[len(choice.token_ids) for choice in output.outputs] for output in outputs]

    def timed(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int, seed: int | None = None
    ) -> tuple[list[list[int]], float]:
        """Returns what `generate` does, and its seconds."""
        start = time.perf_counter()
        lengths = self.generate(prompts, sampling, n, seed)
        return lengths, time.perf_counter() - start


def main() -> None:
    import psutil

    from benchmarks.process_memory import peak_rss_mib, private_mib

    task = json.loads(sys.stdin.read())
    sampling = Sampling(**{**task["sampling"], "stop": ()})
    lengths = BareEngine(EngineSpec(**task["engine"])).generate(task["prompts"], sampling, task["n"])
    assert len(lengths) == len(task["prompts"])
    print(json.dumps({"peak_rss_mib": peak_rss_mib(), "private_mib": private_mib(psutil.Process())}))


if __name__ == "__main__":
    os.environ.update(engine_environment(gpu=False))
    main()
