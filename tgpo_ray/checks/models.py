"""The check of what a run asks of its models' tokenizers, on the driver, before any actor starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tgpo_ray.models import (
    end_of_sequence_ids,
    load_tokenizer,
    local_model,
    no_end_problem,
    template_kwargs_problems,
)

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig, ModelConfig, TeacherConfig
    from tgpo_ray.models import Tokenizer


def check_models(config: AlgorithmConfig) -> None:
    """Raise an error for values that a chat template does not read, and for a policy that never ends a response.

    Raises:
        ConfigError: the message names the key, the cause and the fix.
    """
    from tgpo_ray.config import ConfigError

    problems = list(_policy_problems(config))
    for name, teacher in config.teacher_pools().items():
        key = f"teachers.{name}"
        if teacher.chat_template_kwargs and (tokenizer := local_tokenizer(key, teacher, config)) is not None:
            problems += template_kwargs_problems(f"{key}.chat_template_kwargs", teacher.chat_template_kwargs, tokenizer)
    if problems:
        raise ConfigError(problems)


def _policy_problems(config: AlgorithmConfig) -> Iterator[str]:
    model = config.model
    tokenizer = local_tokenizer("model", model, config)
    if tokenizer is None:
        return
    yield from template_kwargs_problems("model.chat_template_kwargs", model.chat_template_kwargs, tokenizer)
    folder = local_model(model.path)
    if Path(folder).is_dir() and not end_of_sequence_ids(folder, tokenizer):
        yield no_end_problem("model", model.path)


def local_tokenizer(where: str, model: ModelConfig | TeacherConfig, config: AlgorithmConfig) -> Tokenizer | None:
    """Returns a model's tokenizer, or None for a Hugging Face id that is not in the cache. Nothing is downloaded.

    Args:
        where: section of the model, for messages.

    Raises:
        ConfigError: the tokenizer in a folder is not readable.
    """
    from tgpo_ray.config import ConfigError

    source = model.tokenizer or model.path
    try:
        return load_tokenizer(
            source,
            trust_remote_code=config.model.trust_remote_code,
            chat_template_kwargs=model.chat_template_kwargs,
            local_files_only=True,
        )
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, and what its parsers raise
        if not Path(source).expanduser().is_dir():
            return None
        key = f"{where}.tokenizer" if model.tokenizer else f"{where}.path"
        reason = str(error).strip().splitlines()[0]
        raise ConfigError([f"{key}: {source} has a tokenizer that cannot be read: {reason}"]) from error
