"""Tokenizers with chat templates of several sorts, in small. No test file."""

from __future__ import annotations

from functools import cache
from typing import Any

START, END = "<|im_start|>", "<|im_end|>"

APPENDING = """
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""

# A thought is kept only in responses after the last turn of a user; tools speak within a user's turn.
DROPPING = """
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
{%- set role = 'user' if message.role == 'tool' else message.role %}
{%- set content = message.content %}
{%- if role == 'assistant' and loop.index0 < ns.last and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>' + role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' + opening }}{%- endif %}
"""

# The end of a turn is a line and a token, no other roles are known, and turns must alternate.
STRICT = """
{%- for message in messages %}
{%- if message.role != ('assistant' if loop.index0 % 2 else 'user') %}
{{- raise_exception('roles must alternate') }}
{%- endif %}
{{- '[' + message.role + ']' + message.content + '\n<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}
"""


@cache
def chat_tokenizer(template: str, *, opening: str = "") -> Any:
    """Bytes and the two tokens of ChatML, the second of which ends a response, under `template`."""
    from tokenizers import AddedToken

    from tgpo_ray.models import byte_level_tokenizer

    tokenizer = byte_level_tokenizer(["user assistant system tool think 12345 67890"] * 3, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(START), AddedToken(END)]})
    tokenizer.eos_token = END
    tokenizer.chat_template = template.replace("opening", repr(opening))
    return tokenizer
