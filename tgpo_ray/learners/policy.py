"""What a rank trains: the model's settings, its loading, and the module with trunk, head and loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tgpo_ray.kernels import FusedHead, HeadWeights, LossOutput, TokenLoss, token_loss_pass
from tgpo_ray.learners.batch import TrainBatch
from tgpo_ray.learners.card import CardShare
from tgpo_ray.learners.strategies import StrategyOptions, split_configuration
from tgpo_ray.learners.threads import Cores
from tgpo_ray.learners.tokens import Layout
from tgpo_ray.models import LoraSpec, flash_attention, load_model, logit_transform


@dataclass(frozen=True)
class LearnerSpec:
    """The model, optimizer and precision of a rank."""

    model: str
    tokenizer: str
    options: StrategyOptions
    temperature: float = 1.0  # of the sampler; log-probs are those of softmax(z / temperature)
    sampler_is_old: bool = True  # log-probs that episodes carry are pi_old's, unless the loss corrects the sampler
    hf_overrides: dict[str, Any] = field(default_factory=dict)
    gradient_checkpointing: bool = False
    dropout: bool = False  # that of the model's configuration, in training
    layout: Layout = "padded"
    trust_remote_code: bool = False
    threads: int | None = None
    cores: Cores | None = None  # of a machine without GPUs; None: a rank has its `threads` and tells nobody
    card: CardShare = field(default_factory=CardShare)
    seed: int = 0
    lora: LoraSpec | None = None  # adapters train, over a frozen model
    base_is_reference: bool = False  # losses that ask for a reference get the log-probs without the adapters
    sends_adapters: bool = False  # to the engines, and not the weights with the adapters merged


class PolicyModule(nn.Module):
    """The module that DeepSpeed wraps: trunk, head and loss. Its output never holds a [tokens, vocabulary] tensor.

    The loss is inside, because ZeRO-3 gathers the head's weight only during a module's forward and backward.
    """

    def __init__(self, model: nn.Module, temperature: float, *, adapters_only: bool = False) -> None:
        super().__init__()
        self.model: Any = model
        self.temperature = temperature
        head = self.model.get_output_embeddings()
        transform = logit_transform(self.model.config)
        self.model.set_output_embeddings(FusedHead(head.weight, getattr(head, "bias", None), transform))
        if adapters_only:
            self.register_state_dict_post_hook(_without_frozen)
            self.register_load_state_dict_post_hook(_expecting_no_frozen)

    @property
    def head(self) -> FusedHead:
        return self.model.get_output_embeddings()

    def forward(
        self,
        batch: TrainBatch,
        loss: TokenLoss | None = None,
        teacher_head: HeadWeights | None = None,
        temperature: float | None = None,
    ) -> LossOutput | Tensor:
        """Returns the LossOutput of the micro-batch, or (N,) log-probs of the sampled tokens if `loss` is None.

        Args:
            temperature: of these log-probs, in place of the sampler's.
        """
        temperature = temperature or self.temperature
        hidden = batch.tokens.states(self.model.base_model)  # (N, D)
        with torch.autocast(hidden.device.type, enabled=False):  # the kernel chooses its own precisions
            if loss is None:
                logprobs, _ = self.head(hidden, targets=batch.rows.targets[:, :1], temperature=temperature)
                return logprobs[:, 0]
            return token_loss_pass(self.head, hidden, batch.rows, loss, temperature, teacher_head)


def _without_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    """Take what does not train out of a state: the folder of the model has it."""
    for name in _frozen(module):
        state.pop(f"{prefix}{name}", None)


def _expecting_no_frozen(module: nn.Module, keys: Any) -> None:
    """Let a strict load of a state miss only what trains."""
    frozen = _frozen(module)
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]


def _frozen(module: nn.Module) -> set[str]:
    """The names in the module's state of weights that do not train, and of buffers; of a tied weight, every name."""
    trained = {name for name, it in module.named_parameters(remove_duplicate=False) if it.requires_grad}
    every = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name for name, _ in every} - trained


def load_policy(spec: LearnerSpec) -> nn.Module:
    """Returns the Hugging Face causal model with the same overrides that vLLM gets.

    Raises:
        ValueError: the model changes its logits after the head in a way that the fused head would miss. Or an override
            is not in the model's configuration, which transformers would ignore silently.
    """
    # TorchStrategy needs float32 weights for autocast; DeepSpeed makes its own float32 copy of bfloat16 weights.
    # Weights that no update changes lose nothing by being bfloat16.
    frozen = spec.lora is not None
    half = spec.options.dtype == "bfloat16" and (spec.options.strategy == "deepspeed" or frozen)
    model: Any = load_model(
        spec.model,
        dtype=torch.bfloat16 if half else torch.float32,
        hf_overrides=spec.hf_overrides,
        trust_remote_code=spec.trust_remote_code,
        attention=_attention(spec),
        dropout=spec.dropout,
        split_by=split_configuration(spec.options),
    )
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def _attention(spec: LearnerSpec) -> str | None:
    """Returns flash attention for packed sequences on a GPU, and None for the default of transformers."""
    if spec.layout != "packed" or not torch.cuda.is_available():
        return None
    name = flash_attention(spec.model, spec.hf_overrides, trust_remote_code=spec.trust_remote_code)
    if name is None or spec.options.dtype != "bfloat16":
        print(
            "learners.layout: packed runs without flash attention here (it needs bfloat16, the package flash_attn, and "
            "a model that supports it), with a mask of tokens x tokens: padded may be faster",
            flush=True,
        )
        return None
    return name
