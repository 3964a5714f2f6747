"""Whether the learner's view of a model is the model: its head's logits, and its trunk in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tgpo_ray.kernels import LogitTransform
from tgpo_ray.models.partitioned import gathered_by_layer
from tgpo_ray.models.split_parameters import gathered, whole_shape

NUM_TOKENS = 4
LARGE = 50.0  # logits of the probe: a soft cap of 30 or so shows there, not at the logits of a random model
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}  # of the largest logit
UNKNOWN = "the fused head would train and score another distribution, so use a model whose logits are its head's"
REFUSALS = (NotImplementedError, RuntimeError, ImportError)  # of kernels that a CPU has not


@torch.no_grad()
def check_head(model: Any, path: str, transform: LogitTransform, *, dropout: bool) -> None:
    """Compare the model's own logits of a few tokens with those that the fused head gives from its hidden states.

    A model whose kernels do not run here is not compared, and a line says so.

    Args:
        model: in evaluation mode, before DeepSpeed's engine wraps it. Its parameters may be split over the ranks,
            which then all call this.
        dropout: whether dropout may be on in training, which then is not compared with evaluation.

    Raises:
        ValueError: the model has no LM head, bends its logits in a way that is not known here, or computes other
            logits in training than in evaluation.
    """
    head, name = model.get_output_embeddings(), type(model).__name__
    if getattr(head, "weight", None) is None:
        raise ValueError(f"model {path!r}: {name} has no LM head with a weight, so it cannot be trained here")
    ids = torch.arange(1, NUM_TOKENS + 1, device=head.weight.device)[None] % whole_shape(head.weight)[0]  # (1, T)
    try:
        with _default_attention(model), gathered_by_layer(model), _large_logits(head) as factor:
            own = model(input_ids=ids, use_cache=False).logits[0].float()  # (T, V)
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]  # (T, D)
            training = own if dropout else _in_training(model, ids)
    except REFUSALS as error:
        print(f"model {path!r}: {name} does not run here, so its head is not compared: {error}", flush=True)
        return
    who, dtype = f"model {path!r}: {name}", head.weight.dtype
    with gathered(head.parameters(recurse=False)):
        weight, bias = head.weight, getattr(head, "bias", None)
        if hidden.shape[1] != weight.shape[1]:
            raise ValueError(f"{who} has {hidden.shape[1]} hidden states for a head of {weight.shape[1]}: {UNKNOWN}")
        z = factor[0] * nn.functional.linear(hidden, weight, bias).float()  # (T, V)
    _compare(own, transform(z), transform, dtype, who)
    if not _near(training, own, dtype):
        raise ValueError(
            f"{who} computes other logits in training than in evaluation (up to {(training - own).abs().max():.3g} "
            "apart), also without dropout: the loss would see another model than the one that samples; look for noise "
            "or jitter in its config.json and set it to 0 in hf_overrides"
        )


def _compare(own: Tensor, fused: Tensor, transform: LogitTransform, dtype: torch.dtype, who: str) -> None:
    if own.shape != fused.shape:
        raise ValueError(f"{who} has {own.shape[1]} logits from a head of {fused.shape[1]} rows: {UNKNOWN}")
    if not _near(fused, own, dtype):
        raise ValueError(
            f"{who}: its own logits differ by up to {(fused - own).abs().max():.3g} from those of its LM head with "
            f"scale {transform.scale:g} and soft cap {transform.cap}, as its config.json says: {UNKNOWN}"
        )


def _in_training(model: Any, ids: Tensor) -> Tensor:
    """(T, V) logits of a pass in training mode. The model is in evaluation mode afterwards."""
    with torch.random.fork_rng(devices=[]):  # noise, if there is any, takes nothing from the run's generator
        model.train()
        try:
            return model(input_ids=ids, use_cache=False).logits[0].float()
        finally:
            model.eval()


def _near(values: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    bound = TOLERANCE.get(dtype, TOLERANCE[torch.float32]) * expected.abs().max().clamp(min=1e-6)
    return bool((values - expected).abs().max() <= bound)


@contextmanager
def _large_logits(head: nn.Module) -> Iterator[list[float]]:
    """The head's outputs are multiplied by a factor that makes them large. Yields [factor], 1 before the first pass."""
    factor: list[float] = [1.0]
    first = True

    def enlarge(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        nonlocal first
        if first:
            factor[0], first = LARGE / max(float(output.abs().max()), 1e-6), False
        return output * factor[0]

    hook = head.register_forward_hook(enlarge)
    try:
        yield factor
    finally:
        hook.remove()


@contextmanager
def _default_attention(model: Any) -> Iterator[None]:
    """The attention of transformers that runs on every device, in place of flash attention."""
    chosen = model.config._attn_implementation
    if not str(chosen).startswith("flash"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(chosen)
