"""What learners send is what a checkpoint of the model holds: names, shapes and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.tiny_architectures import write_tiny
from tgpo_ray.models.checkpoint_layout import CheckpointLayout, saved_buffers

PACKED = ["qwen2_moe", "qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "ernie4_5_moe", "olmoe", "granitemoe"]
PLAIN = ["llama", "gpt2", "gpt_oss", "phi3"]


@pytest.mark.parametrize("model_type", [*PACKED, *PLAIN])
def test_what_is_sent_is_what_save_pretrained_writes(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(model_type, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in [*model.parameters(), *(buffer for _, buffer in saved_buffers(model))]:
            weight.add_(torch.randn(weight.shape))  # so that what has initial values shows, too
    model.save_pretrained(folder)
    written = load_file(folder / "model.safetensors")
    layout = CheckpointLayout(model)
    sent = dict(layout.weights((name, weight.detach()) for name, weight in model.named_parameters()))
    assert sent.keys() == written.keys()
    assert all(torch.equal(sent[name], weight) for name, weight in written.items())
    declared = [(it.name, it.shape) for it in layout.sent(torch.float32)]
    assert declared == [(name, tuple(weight.shape)) for name, weight in sent.items()]


def test_a_weight_may_change_once_the_next_one_is_asked_for(tmp_path: Path) -> None:
    """As with ZeRO-3, which takes a gathered parameter apart again."""
    model: Any = AutoModelForCausalLM.from_pretrained(write_tiny("qwen3_moe", tmp_path))
    layout = CheckpointLayout(model)
    expected = {name: it.clone() for name, it in layout.weights(model.state_dict().items())}

    def gathered() -> Any:
        for name, weight in model.named_parameters():
            whole = weight.detach().clone()
            yield name, whole
            whole.fill_(torch.nan)

    sent = {name: weight.clone() for name, weight in layout.weights(gathered())}
    assert all(torch.equal(sent[name], weight) for name, weight in expected.items())
