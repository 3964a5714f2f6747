"""Whether the tensors of a folder are those of its architecture, judged by names and shapes without reading weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgpo_ray.models.weight_files import stored_tensors, weight_files

NAMED_AT_MOST = 3
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# buffers that older releases stored and that follow from the configuration
COMPUTED = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|\.attention\.(masked_)?bias|position_ids)$")


class MissingWeightsError(ValueError):
    """Weights of the architecture are not in the files, and transformers would draw random ones."""


def without_missing_weights(path: str, loaded: Any) -> Any:
    """Returns the model of `from_pretrained(..., output_loading_info=True)`, which returns it with a report.

    Raises:
        MissingWeightsError: weights were not in the files. The message has names and fix.
    """
    model, report = loaded
    if report["missing_keys"]:
        text = _missing_text(sorted(report["missing_keys"]), report["unexpected_keys"])
        raise MissingWeightsError(f"model {path!r}: {text}")
    return model


@dataclass(frozen=True)
class MetaModel:
    """A folder's architecture on the meta device, with the report of loading the folder's headers into it."""

    model: Any
    files: Sequence[Path]
    stored: Collection[str]
    report: Mapping[str, Any]

    @property
    def vocabulary(self) -> int:
        """The number of rows of the input embeddings."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def tied(self) -> dict[str, str]:
        """The names of weights that are the same tensor as another: {the head: the embeddings}."""
        return dict(getattr(self.model, "all_tied_weights_keys", None) or {})


def load_headers(folder: Path, hf_overrides: Mapping[str, Any], *, trust_remote_code: bool = False) -> MetaModel:
    """Returns the architecture of `config.json`, "loaded" from the headers of the folder's weights.

    transformers does the mapping of names itself, with all its conversions (such as experts that it packs), and on the
    meta device no weight is read: a model of 30 billion parameters takes seconds.

    Raises:
        WeightFilesError: no weights, or files that are not whole.
        MissingWeightsError: some of the tensors that transformers puts together to one are not there.
        Exception: what transformers raises for a configuration that it cannot build.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    files = weight_files(folder)
    stored = stored_tensors(files)
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **hf_overrides)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    try:
        with _quiet_transformers():
            model, report = type(built).from_pretrained(
                None,
                config=config,
                state_dict=dict(stored),
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )
    except RuntimeError as error:  # transformers cannot pack experts of which one is not there
        expected = stored_layout(built, built.state_dict()).keys() - _tied_names(built)
        lacking = sorted(expected - stored.keys())
        if not lacking:
            raise
        raise MissingWeightsError(_missing_text(lacking, stored.keys() - expected)) from error
    return MetaModel(model, files, stored.keys(), report)


def stored_layout(model: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """Returns a model's weights under the names of a checkpoint, with experts that transformers packs taken apart."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, weights))


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hold back the report that transformers logs, and its progress bar."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def tensor_problems(loaded: MetaModel, hf_overrides: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with names and shapes: tensors that are missing, of another shape, or not computed with."""
    problems = []
    missing, unexpected = sorted(loaded.report["missing_keys"]), sorted(loaded.report["unexpected_keys"])
    if missing:
        problems.append(_missing_text(missing, unexpected))
    mismatched = sorted(loaded.report["mismatched_keys"])
    if mismatched:
        name, stored, expected = mismatched[0]
        more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        problems.append(
            f"{name} is {list(stored)} in the files and {list(expected)} by config.json{more}: correct config.json or "
            "hf_overrides, or take the files that belong to it"
        )
    unused = [] if missing else [name for name in unexpected if _is_computed_with(name, loaded.model, hf_overrides)]
    if unused:
        problems.append(
            f"the files hold {_named(unused)}, which {type(loaded.model).__name__} with this config.json leaves out: "
            "correct config.json (layers that are meant to be left out are hf_overrides.num_hidden_layers)"
        )
    return problems


def _missing_text(missing: Sequence[str], unexpected: Collection[str]) -> str:
    other = f"; they hold {_named(sorted(unexpected))} instead" if unexpected else ""
    prefix = _common_prefix(missing, unexpected)
    fix = f"take the prefix {prefix!r} off the names" if prefix else "take the whole checkpoint, under its own names"
    return (
        f"the files lack {_named(missing)} of the architecture{other}. transformers would train random numbers in "
        f"their place: {fix}"
    )


def _common_prefix(missing: Sequence[str], unexpected: Collection[str]) -> str | None:
    """Returns what a wrapper such as DDP (`module.`) or torch.compile (`_orig_mod.`) put in front of every name."""
    probe = missing[-1]  # the first may be a tied head, which is not stored
    for name in unexpected:
        prefix = name.removesuffix(probe)
        if prefix not in ("", name) and sum(f"{prefix}{it}" in unexpected for it in missing) > len(missing) / 2:
            return prefix
    return None


def _named(names: Sequence[str]) -> str:
    """Returns up to three names and the number of the others. A name stands for itself in all layers."""
    kinds = list(dict.fromkeys(NUMBER.sub("*", name) for name in names))
    shown = kinds if len(names) > NAMED_AT_MOST else list(names)
    more = f" and {len(shown) - NAMED_AT_MOST} more kinds" if len(shown) > NAMED_AT_MOST else ""
    tensors = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {tensors} ({', '.join(shown[:NAMED_AT_MOST])}{more})"


def _is_computed_with(name: str, model: Any, hf_overrides: Mapping[str, Any]) -> bool:
    """Returns whether the model that wrote the files computes with the tensor, in a module that ours has too.

    A value head or a vision tower is a module apart. So are the layers for multi-token prediction after the last.
    """
    if COMPUTED.search(name) or name in _tied_names(model):
        return False
    modules = dict(model.named_modules())
    parts = name.split(".")
    present = next(".".join(parts[:n]) for n in range(len(parts) - 1, -1, -1) if ".".join(parts[:n]) in modules)
    if NUMBER.search(f".{present}.") or present == ".".join(parts[:-1]):
        return bool(present)
    beyond = re.match(rf"{re.escape(present)}\.(\d+)\.", name)  # a layer after those that the model has
    config = model.config.get_text_config()
    ahead = getattr(config, "num_nextn_predict_layers", 0) or 0
    count = getattr(config, "num_hidden_layers", 0) or 0
    overridden = "num_hidden_layers" in hf_overrides or "num_layers" in hf_overrides
    return beyond is not None and not overridden and int(beyond[1]) >= count + ahead


def _tied_names(model: Any) -> Collection[str]:
    return (getattr(model, "all_tied_weights_keys", None) or {}).keys()


def tied_head_problem(loaded: MetaModel) -> str | None:
    """Returns what is wrong with a head that is tied by the configuration and stored beside the embeddings."""
    for target, source in loaded.tied.items():
        head, embeddings = _stored_name(target, loaded.stored), _stored_name(source, loaded.stored)
        if head and embeddings and not _equal(loaded.files, head, embeddings):
            return (
                f"tie_word_embeddings is true and the files hold a {head} that differs from {embeddings}: the learner "
                "would use both, and vLLM the embeddings alone. Set tie_word_embeddings false (config.json or "
                "hf_overrides) where the head was trained apart, or delete it from the files"
            )
    return None


def _stored_name(name: str, stored: Collection[str]) -> str | None:
    """Returns the name in the files, which may lack the prefix of the base model or have one more."""
    return next((it for it in stored if it == name or name.endswith(f".{it}") or it.endswith(f".{name}")), None)


def _equal(files: Sequence[Path], first: str, second: str, rows: int = 4096) -> bool:
    """Returns whether two (V, D) tensors are equal. A sample of rows goes first, which settles most that differ."""
    import torch

    with contextlib.ExitStack() as stack:
        left, right = (_slice(files, name, stack) for name in (first, second))
        if list(left.get_shape()) != list(right.get_shape()):
            return False
        count = left.get_shape()[0]
        if not all(torch.equal(left[i : i + 1], right[i : i + 1]) for i in range(0, count, max(1, count // 64))):
            return False
        return all(torch.equal(left[i : i + rows], right[i : i + rows]) for i in range(0, count, rows))


def _slice(files: Sequence[Path], name: str, stack: contextlib.ExitStack) -> Any:
    from safetensors import safe_open

    for file in files:
        if file.suffix != ".safetensors":
            continue
        tensors = stack.enter_context(safe_open(file, framework="pt"))
        if name in tensors.keys():  # noqa: SIM118  (no mapping)
            return tensors.get_slice(name)
    return _PickledSlice(files, name)


class _PickledSlice:
    """A tensor of a pytorch_model.bin with the two methods of a slice of safetensors."""

    def __init__(self, files: Sequence[Path], name: str) -> None:
        import torch

        states = (torch.load(file, map_location="cpu", weights_only=True) for file in files)
        self._tensor = next(state[name] for state in states if name in state)

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def __getitem__(self, rows: slice) -> Any:
        return self._tensor[rows]
