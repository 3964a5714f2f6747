"""What `chat_template_kwargs` may say to a chat template: names that it reads, and that nobody else sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

from tgpo_ray.models.tokenizer import Tokenizer

# Arguments of transformers' `apply_chat_template`, which the package sets or leaves at their defaults.
RESERVED = frozenset(
    {
        "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt",
        "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
        "return_assistant_tokens_mask", "tokenizer_kwargs",
    }
)  # fmt: skip
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")  # a tag of transformers, which Jinja lacks


def template_kwargs_problems(key: str, values: Mapping[str, Any], tokenizer: Tokenizer) -> Iterator[str]:
    """Yields a line for each value that the tokenizer's chat template would not read, or that is not to be set.

    Args:
        key: of the configuration, for messages, as `model.chat_template_kwargs`.
    """
    if not values:
        return
    if tokenizer.chat_template is None:
        yield f"{key}: the tokenizer has no chat template that could read {', '.join(values)}; leave it out"
        return
    known = template_variables(tokenizer)
    for name, value in values.items():
        if name in RESERVED or name.endswith("_token"):
            yield f"{key}.{name}: is set by the package or the tokenizer, got {value!r}; leave it out"
        elif known is not None and name not in known:
            readable = ", ".join(sorted(each for each in known if _is_settable(each))) or "none"
            yield (
                f"{key}.{name}: the tokenizer's chat template does not read it, so {value!r} would change nothing; it "
                f"reads: {readable}"
            )


def template_variables(tokenizer: Tokenizer) -> Set[str] | None:
    """Returns the names that the chat template reads and does not set itself; None where it is no plain Jinja."""
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = tokenizer.chat_template
    texts = list(template.values()) if isinstance(template, Mapping) else [template]  # several, by name
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    names: set[str] = set()
    for text in texts:
        try:
            names |= meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", text)))
        except TemplateSyntaxError:
            return None
    return names


def _is_settable(name: str) -> bool:
    return name not in RESERVED and not name.endswith("_token") and name not in ("raise_exception", "strftime_now")
