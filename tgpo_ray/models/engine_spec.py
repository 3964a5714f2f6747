"""Plain data about a vLLM engine: its settings, how it samples, and its responses. No model library is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from tgpo_ray.models.folder import local_model
from tgpo_ray.models.lora_spec import LoraSpec


class ModelSection(Protocol):
    """The fields that an engine reads from a section with a model, which is `model` or a teacher."""

    @property
    def path(self) -> str: ...

    @property
    def tokenizer(self) -> str | None: ...

    @property
    def dtype(self) -> str: ...

    @property
    def hf_overrides(self) -> dict[str, Any]: ...

    @property
    def chat_template_kwargs(self) -> dict[str, Any]: ...


class EngineSection(Protocol):
    """The fields that an engine reads from a section with actors: `env_runners`, `reference` or a teacher."""

    @property
    def kv_cache_memory(self) -> int | Literal["auto"]: ...

    @property
    def max_num_seqs(self) -> int: ...

    @property
    def tensor_parallel_size(self) -> int: ...


@dataclass(frozen=True)
class EngineSpec:
    """The model that an engine loads and the memory that it may take, for runners and teachers."""

    model: str
    dtype: str
    max_model_len: int
    kv_cache_memory: int | None  # bytes, for each GPU of the engine; None: what is left of `card_share`
    max_num_seqs: int = 256
    tokenizer: str | None = None
    tensor_parallel_size: int = 1
    hf_overrides: dict[str, Any] = field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # at every rendering of the chat template
    trust_remote_code: bool = False
    seed: int = 0
    max_logprobs: int = 20
    card_share: float = 1.0  # of each card that the engine runs on
    idle_cores: bool = False  # on a CPU: compute on cores that no other actor uses, see `IdleCores`
    lora: LoraSpec | None = None  # the updates are adapters over the folder's weights
    sleep: bool = False  # give the card back while the learners work, see `Engine.sleep`; needs a GPU
    weight_transfer: str | None = None  # nccl, ipc or `module:Class`, see `trainer_info_class`; buckets always work

    @classmethod
    def of_sections(
        cls,
        model: ModelSection,
        engine: EngineSection,
        *,
        max_model_len: int,
        trust_remote_code: bool,
        seed: int,
        gpus: float | None,
        idle_cores: bool = False,
    ) -> EngineSpec:
        """Returns the engine of a resolved configuration's sections, with folders as absolute paths.

        Args:
            gpus: those of the actor. A fraction is the share of a card that the engine may fill.
        """
        return cls(
            model=local_model(model.path),
            tokenizer=model.tokenizer and local_model(model.tokenizer),
            dtype=model.dtype,
            max_model_len=max_model_len,
            kv_cache_memory=None if engine.kv_cache_memory == "auto" else engine.kv_cache_memory,
            max_num_seqs=engine.max_num_seqs,
            tensor_parallel_size=engine.tensor_parallel_size,
            hf_overrides=model.hf_overrides,
            chat_template_kwargs=model.chat_template_kwargs,
            trust_remote_code=trust_remote_code,
            seed=seed,
            idle_cores=idle_cores,
            card_share=min(1.0, (gpus or 1.0) / engine.tensor_parallel_size),
        )


@dataclass(frozen=True)
class Sampling:
    """The way a response is drawn. `logprobs` asks for log pi(y_t) of each sampled token.

    Response i of a request with a `seed` is drawn from a generator of its own, seeded with `seed` + i. Its tokens then
    do not depend on the other requests. Without one, all share the engine's generator.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    logprobs: bool = False
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """One response as the engine returned it."""

    token_ids: np.ndarray  # (T,) int32, the end-of-sequence token included
    logprobs: np.ndarray | None  # (T,) float32
    stop_reason: str  # stop | length | abort
    # rows of (first token, weights version) for each stretch of tokens; empty where the engine was given no version
    versions: tuple[tuple[int, int], ...] = ()
