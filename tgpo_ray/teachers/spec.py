"""The settings of one teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tgpo_ray.models import EngineSpec


@dataclass(frozen=True)
class ServerSpec:
    """A served teacher, which is any OpenAI-compatible server that returns prompt log-probs by token id."""

    url: str = ""  # as http://host:8000 or http://host:8000/v1
    served_model: str | None = None  # its name at the server; None: the only one there, or the teacher's path
    api_key_env: str | None = None  # environment variable with the key
    timeout_s: float = 60.0  # for one call of `score`, retries included


@dataclass(frozen=True)
class TeacherSpec:
    """The settings of one teacher. The episodes have the ids of the tokenizer at `policy_tokenizer`."""

    engine: EngineSpec
    policy_tokenizer: str
    prompt: Literal["policy", "own_template"] = "policy"
    unmapped: Literal["mask", "first_piece"] = "mask"
    vocabulary: Literal["auto", "map", "text"] = "auto"  # auto: by text where nine tenths of the tokens are not shared
    map_end_of_sequence: bool = True  # a teacher's end of sequence becomes the policy's
    gpu: bool = False
    cache_memory: int = 64 * 2**20  # bytes of scores that a replica stores; 0: none
    backend: Literal["vllm", "transformers", "remote"] = "vllm"
    token_budget: int = 16384  # of one forward pass of the transformers backend
    server: ServerSpec = ServerSpec()  # of the remote backend
