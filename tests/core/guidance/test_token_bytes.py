"""Tokenizers seen as byte strings, in the alphabets of byte-level BPE, SentencePiece and plain text."""

from __future__ import annotations

from tests.core.guidance.guidance_tokenizers import encode, large, reference_bytes, sentencepiece, small
from tgpo_ray.guidance import TokenBytes
from tgpo_ray.models import character_tokenizer


def test_every_token_is_a_byte_string_in_three_alphabets():
    values = TokenBytes.from_tokenizer(sentencepiece())
    assert values.ids[b" think"] == sentencepiece().convert_tokens_to_ids("▁think")
    assert values.values[sentencepiece().convert_tokens_to_ids("<0xE4>")] == b"\xe4"
    assert values.values[sentencepiece().convert_tokens_to_ids("<0x61>")] == b"a"
    assert values.ids[b"a"] == sentencepiece().convert_tokens_to_ids("a")  # the token that is written, not the byte's
    byte_level = TokenBytes.from_tokenizer(small())
    assert {i: value for i, value in enumerate(byte_level.values) if value} == reference_bytes(small)
    symbols = TokenBytes.from_tokenizer(character_tokenizer(["a", "b", " ", "\n", "\\boxed{"]))
    assert sorted(value for value in symbols.values if value) == [b"\n", b" ", b"\\boxed{", b"a", b"b"]


def test_a_piece_by_itself_is_what_the_tokenizer_makes_of_it():
    for make in (small, large, sentencepiece):
        tokens = TokenBytes.from_tokenizer(make())
        for text in (" think", "hello", "你好", "🦊", " 漢", "\n\n  ", "x\u0301"):
            first = tokens.first_piece(text.encode())
            bare = make().encode("\n" + text, add_special_tokens=False)
            assert text.encode().startswith(tokens.values[first]) and tokens.values[first]
            assert first in bare or make is not sentencepiece
            assert first == encode(make(), text)[0] or make is sentencepiece
        half = "🙂".encode()[2:] + b" think"
        assert half.startswith(tokens.values[tokens.first_piece(half)])
        assert tokens.first_piece(b"") == -1
