"""A model whose parameters are split over the ranks as it is loaded (ZeRO-3): no rank ever holds the whole model.

DeepSpeed's `zero.Init` splits each parameter where the model's class makes it. Then the files are read layer by layer:
rank 0 reads, and each parameter is whole, on every rank, only while it gets its values.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tgpo_ray.models.checkpoint_layout import by_layer
from tgpo_ray.models.split_parameters import gathered, is_split, whole_shape
from tgpo_ray.models.weight_files import WeightFilesError, stored_tensors, weight_files

Report = dict[str, list[str]]


def load_partitioned(
    path: str, config: Any, deepspeed_config: Mapping[str, Any], *, trust_remote_code: bool, **options: Any
) -> tuple[Any, Report]:
    """Returns the model in evaluation mode with its parameters split over the ranks, and a report of names.

    Every rank of the process group calls it. The report has `missing_keys` and `unexpected_keys`, as that of
    `from_pretrained(..., output_loading_info=True)`.

    Args:
        path: a folder, or an id of the hub, which is downloaded.
        config: the model's configuration of transformers.
        deepspeed_config: the configuration that `deepspeed.initialize` gets later.
        options: of `from_config`, such as dtype and attn_implementation.

    Raises:
        WeightFilesError: no weights, files that are not whole, or a tensor of another shape than the architecture's.
    """
    folder = _folder(path)
    files = weight_files(folder)
    model = _built(config, deepspeed_config, trust_remote_code=trust_remote_code, **options)
    _set_generation_config(model, folder)
    return model.eval(), _fill(model, files)


def _folder(path: str) -> Path:
    if Path(path).expanduser().is_dir():
        return Path(path).expanduser()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.py"]))


def _built(config: Any, deepspeed_config: Mapping[str, Any], **options: Any) -> Any:
    """Returns the model with parameters that have no values yet."""
    import deepspeed
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    # a buffer keeps the type that the model gives it: bfloat16 would ruin the frequencies of rotary embeddings
    overrides = [deepspeed.zero.DeepSpeedTensorOverride.device] if torch.cuda.is_available() else []
    context = deepspeed.zero.Init(config_dict_or_path=dict(deepspeed_config), tensor_overrides=overrides)
    with no_init_weights(), context:
        model: Any = AutoModelForCausalLM.from_config(config, **options)
    model.tie_weights()  # `no_init_weights` leaves it out
    return model


def _set_generation_config(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    with contextlib.suppress(OSError):  # the folder has none
        model.generation_config = GenerationConfig.from_pretrained(folder)


def _fill(model: Any, files: Sequence[Path]) -> Report:
    """Give parameters and buffers their values, layer by layer. Returns the names that did not fit."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    mapping = get_model_conversion_mapping(model)
    stored = stored_tensors(files)  # without data
    filled: set[int] = set()
    unexpected = []
    for names in by_layer(stored):
        converted = _converted(model, mapping, _read(files, names) if dist.get_rank() == 0 else _some(stored, names))
        unexpected += [] if converted else names
        for name, values in converted.items():
            target = model.get_parameter_or_buffer(name)
            filled.add(id(target))
            _assign(name, target, values)
    ignored = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    wanted = {name: it for name, it in model.state_dict(keep_vars=True).items() if id(it) not in filled}
    missing = [name for name in wanted if not any(re.search(pattern, name) for pattern in ignored)]
    return {"missing_keys": missing, "unexpected_keys": unexpected if missing else []}


def _some(stored: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: stored[name] for name in names}


def _converted(model: Any, mapping: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors under the names and in the shapes of the model: transformers packs experts, for example."""
    from transformers.integrations.deepspeed import _apply_weight_conversions_to_state_dict

    return _apply_weight_conversions_to_state_dict(model, dict(tensors), mapping)


def _read(files: Sequence[Path], names: Sequence[str]) -> dict[str, Tensor]:
    """Returns tensors of the files by name. Safetensors map them: a page is read where it is used."""
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    for file in files:
        if file.suffix != ".safetensors":
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            found |= {name: state[name] for name in names if name in state}
            continue
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in set(names).intersection(tensors.keys())}
    return _some(found, names)  # the same order on every rank


@torch.no_grad()
def _assign(name: str, target: Tensor, values: Tensor) -> None:
    """Give a parameter or a buffer the values of rank 0."""
    shape = whole_shape(target)
    if shape != tuple(values.shape):  # on every rank, so that none waits for another
        raise WeightFilesError(f"{name} is {list(values.shape)} in the files and {list(shape)} by config.json")
    if not is_split(target):  # a buffer
        if dist.get_rank() == 0:
            target.copy_(values)
        dist.broadcast(target, 0)
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([target], modifier_rank=0):  # it sends the values of rank 0 to the others
        if dist.get_rank() == 0:
            target.copy_(values)


@contextlib.contextmanager
def gathered_by_layer(model: nn.Module) -> Iterator[None]:
    """The model computes inside the block, with one layer's parameters whole at a time.

    DeepSpeed's engine does so for the model that it wraps; a model before that needs it from here.
    """
    open_blocks: list[contextlib.AbstractContextManager[None]] = []

    def enter(parameters: list[nn.Parameter]) -> None:
        open_blocks.append(gathered(parameters))
        open_blocks[-1].__enter__()

    def leave() -> None:
        open_blocks.pop().__exit__(None, None, None)

    hooks = []
    for module, parameters in _units(model):
        hooks.append(module.register_forward_pre_hook(lambda *_, it=parameters: enter(it)))
        hooks.append(module.register_forward_hook(lambda *_: leave()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        while open_blocks:  # a forward pass that raised
            leave()


def _units(module: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    """Yields the layers with all their parameters, and the other modules with their own."""
    own = [it for it in module.parameters(recurse=False) if is_split(it)]
    if own:
        yield module, own
    for child in module.children():
        if not isinstance(module, nn.ModuleList):
            yield from _units(child)
        elif split := [it for it in child.parameters() if is_split(it)]:
            yield child, split
