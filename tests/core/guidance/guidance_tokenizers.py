"""Small tokenizers with different alphabets, trained on the same text, and alignments between them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tgpo_ray.guidance import TextAlignment
from tgpo_ray.models import byte_level_tokenizer

TEXTS = [
    "Let us think about it: 12 + 30 = 42, so the answer is \\boxed{42}.\n",
    "the thinking thinker thinks of things that thicken\n",
    "我们来想一想这个问题。答案是四十二。 你好世界\n",
    "naïve café Zoë e\u0301te\u0301 \u1e9b\u0323 한국어 👍🏽👩‍👩‍👧 🙂🙂 ∑∫≤\n",
    "    def f(x):\n        return x ** 2\n\n",
]


@cache
def small() -> Any:
    return byte_level_tokenizer(TEXTS * 3, 330)


@cache
def large() -> Any:
    return byte_level_tokenizer(TEXTS * 3, 620)


@cache
def sentencepiece() -> Any:
    """As Llama-2's: `▁` for a space and one in front of every text, `<0xE4>` for bytes of unknown characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    def tokenizer(model: Any) -> Any:
        made = Tokenizer(model)
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(strip)
        return made

    trained = tokenizer(models.BPE())
    trained.train_from_iterator([TEXTS[0], TEXTS[1]] * 3, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    model = models.BPE(
        {token: i for i, token in enumerate(tokens)},
        [tuple(merge) for merge in learnt["merges"]],
        byte_fallback=True,
        unk_token="<unk>",
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(model), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


PAIRS = {
    "small-large": (small, large),
    "large-small": (large, small),
    "small-sentencepiece": (small, sentencepiece),
    "sentencepiece-large": (sentencepiece, large),
}


@cache
def aligned(pair: str) -> TextAlignment:
    policy, teacher = (make() for make in PAIRS[pair])
    return TextAlignment.from_tokenizers(
        policy, teacher, policy_eos_ids=[policy.eos_token_id], teacher_eos_ids=[teacher.eos_token_id]
    )


def encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@cache
def reference_bytes(tokenizer_of: Any) -> dict[int, bytes]:
    """Every token's bytes from the library's own table of byte-level BPE's alphabet, special tokens left out."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokenizer = tokenizer_of()
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    special = set(tokenizer.all_special_ids)
    return {i: bytes(byte_of[c] for c in token) for token, i in tokenizer.get_vocab().items() if i not in special}
