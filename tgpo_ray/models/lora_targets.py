"""The layers of a model that get LoRA adapters, by `model.lora.target_modules`. Only the functions import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.models.lora_spec import LoraSpec
from tgpo_ray.models.overrides import load_config
from tgpo_ray.models.split_parameters import whole_shape

if TYPE_CHECKING:
    from torch import nn

EXPERTS = ".experts."
# peft takes these names for packed experts and their router, wherever a model with experts has them
NAMES_OF_EXPERTS = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})


class TargetModulesError(ValueError):
    """`model.lora.target_modules` names what has no adapter here."""


def target_names(model: Any, spec: LoraSpec) -> list[str]:
    """Returns the names of the linear layers that get adapters, in the order of the model.

    Raises:
        TargetModulesError: a name fits no linear layer, or the head, the embeddings or experts.
    """
    linear = _linear_layers(model)
    if spec.target_modules is None:
        return list(linear)
    chosen = {target: [name for name in linear if _fits(name, target)] for target in spec.target_modules}
    for target, names in chosen.items():
        if not names:
            raise TargetModulesError(_no_target(model, target, linear))
    return [name for name in linear if any(name in names for names in chosen.values())]


def _linear_layers(model: Any) -> dict[str, nn.Module]:
    """Returns the linear layers by name, without the head, and without what peft would take for packed experts."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's, with W (in, out)

    packed = _has_packed_experts(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not model.get_output_embeddings()
        and not (packed and name.rpartition(".")[2] in NAMES_OF_EXPERTS)
    }


def _has_packed_experts(model: nn.Module) -> bool:
    return any(EXPERTS in name and len(whole_shape(parameter)) == 3 for name, parameter in model.named_parameters())


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _no_target(model: Any, target: str, linear: dict[str, nn.Module]) -> str:
    """Returns why a name has no adapter, and those that may have one."""
    special = {id(model.get_output_embeddings()): "the head", id(model.get_input_embeddings()): "the embeddings"}
    what = next(
        (special[id(it)] for name, it in model.named_modules() if id(it) in special and _fits(name, target)), ""
    )
    if what:
        reason = f"is {what}: the loss reads the head's own weight, chunk by chunk, and both may be one tensor"
    elif target in NAMES_OF_EXPERTS and _has_packed_experts(model):
        reason = "names experts, which transformers packs into one tensor a layer: they stay frozen"
    else:
        reason = f"is no linear layer of {type(model).__name__}"
    ends = sorted({name.rpartition(".")[2] for name in linear})
    return f"model.lora.target_modules: {target} {reason}; choose from {', '.join(ends)}"


def target_problems(
    path: str, hf_overrides: Mapping[str, Any], spec: LoraSpec, *, trust_remote_code: bool = False
) -> list[str]:
    """Returns what is wrong with the target modules of a folder's model, built without weights; nothing for an id."""
    folder = Path(path).expanduser()
    if spec.target_modules is None or not (folder / "config.json").is_file():
        return []
    import torch
    from transformers import AutoModelForCausalLM

    try:
        config = load_config(str(folder), dict(hf_overrides), trust_remote_code=trust_remote_code, section="model")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # code of its own, or a broken file: the checks of the folder say which
        return []
    try:
        target_names(model, spec)
    except TargetModulesError as error:
        return [str(error)]
    return []


def shortest_targets(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Returns the last parts of the names, where no other module has such a name, else the names themselves."""
    ends = {name.rpartition(".")[2] for name in names}
    same = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends}
    return sorted(ends if same == set(names) else names)
