"""Guidance between two tokenizers through the text they share, against a decoder that tries every pair of places."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.core.guidance.guidance_tokenizers import (
    PAIRS,
    TEXTS,
    aligned,
    encode,
    large,
    reference_bytes,
    sentencepiece,
    small,
)
from tgpo_ray.guidance import TextAlignment, TokenBytes

CHARACTERS = sorted(set("".join(TEXTS)) | set("\u0301\u0323abc🦊漢"))
SETTINGS = settings(max_examples=150, deadline=None)


def brute_force(policy_of: Any, teacher_of: Any, ids: list[int], teacher_ids: list[int], predicted: list[int]):
    """The targets by trying every pair of places; texts of special tokens excluded. Only for byte-level tokenizers."""
    policy_bytes, teacher_bytes = reference_bytes(policy_of), reference_bytes(teacher_of)
    policy, by_bytes = policy_of(), {value: i for i, value in reference_bytes(policy_of).items()}
    targets = []
    for t, token in enumerate(ids):
        before = b"".join(policy_bytes[i] for i in ids[:t])
        places = [j for j in range(len(teacher_ids)) if b"".join(teacher_bytes[i] for i in teacher_ids[:j]) == before]
        if not places:
            targets.append(-1)
            continue
        j, text = places[0], b""
        while len(text) < len(policy_bytes[token]) and predicted[j] == teacher_ids[j]:
            text += teacher_bytes[teacher_ids[j]]
            j += 1
        if len(text) >= len(policy_bytes[token]):
            targets.append(token)
            continue
        text += teacher_bytes[predicted[j]]
        if text in by_bytes:
            targets.append(by_bytes[text])
        elif text.decode("utf-8", "replace").encode() == text:
            targets.append(encode(policy, text.decode())[0])
        else:
            targets.append(next(by_bytes[text[:n]] for n in range(len(text), 0, -1) if text[:n] in by_bytes))
    return targets


def shared_places(alignment: TextAlignment, ids: list[int], teacher_ids: list[int]) -> list[bool]:
    ends = {len(alignment.teacher.join(teacher_ids[:j])) for j in range(len(teacher_ids))}
    return [len(alignment.policy.join(ids[:t])) in ends for t in range(len(ids))]


texts = st.lists(st.sampled_from([*CHARACTERS, *"  \n", " the", "think", "ing"]), max_size=30).map("".join)


@pytest.mark.parametrize("pair", ["small-large", "large-small"])
@given(data=st.data())
@SETTINGS
def test_targets_are_those_of_a_brute_force_decoder(pair, data):
    policy_of, teacher_of = PAIRS[pair]
    alignment = aligned(pair)
    # pieces encoded apart and strung together: what a policy samples is not always what its tokenizer would write
    ids = [i for text in data.draw(st.lists(texts, max_size=3)) for i in encode(policy_of(), text)]
    if data.draw(st.booleans()):  # characters split into their bytes
        values, by_bytes = alignment.policy.values, alignment.policy.ids
        ids = [
            by_bytes[bytes([byte])] if i % 3 == 0 else i for i in ids for byte in (values[i] if i % 3 == 0 else b"x")
        ]
    teacher_ids, starts = alignment.policy_ids_for_teacher(np.array(ids, np.int32))
    written = b"".join(reference_bytes(policy_of)[i] for i in ids)
    assume(unicodedata.is_normalized("NFC", written.decode()))  # Qwen's tokenizers compose characters: tested below
    assert b"".join(reference_bytes(teacher_of)[i] for i in teacher_ids.tolist()) == written
    ordinary = sorted(reference_bytes(teacher_of))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    predicted = np.where(random.random(len(teacher_ids)) < 0.5, teacher_ids, random.choice(ordinary, len(teacher_ids)))
    targets = alignment.teacher_targets(np.array(ids), teacher_ids, starts, predicted.astype(np.int32))
    assert targets.tolist() == brute_force(policy_of, teacher_of, ids, teacher_ids.tolist(), predicted.tolist())
    assert ((targets >= 0) == (np.diff(starts, append=len(teacher_ids)) > 0)).all()


@pytest.mark.parametrize("pair", PAIRS)
@given(data=st.data())
@SETTINGS
def test_the_teacher_reads_the_very_bytes_of_any_ids(pair, data):
    """Broken characters too: a sampler may stop in the middle of one, and an untrained one writes nothing else."""
    alignment = aligned(pair)
    size = len(alignment.policy.values)
    ids = [i for i in data.draw(st.lists(st.integers(0, size - 1), max_size=25)) if alignment.policy.values[i]]
    teacher_ids, starts = alignment.policy_ids_for_teacher(np.array(ids, np.int32))
    joined = alignment.policy.join(ids)
    assume(unicodedata.is_normalized("NFC", joined.decode(errors="replace")))
    assert alignment.teacher.join(teacher_ids.tolist()) == joined
    readable = np.diff(starts, append=len(teacher_ids)) > 0
    assert readable.tolist() == shared_places(alignment, ids, teacher_ids.tolist())
    for t in np.flatnonzero(readable):
        assert alignment.teacher.join(teacher_ids[: starts[t]].tolist()) == alignment.policy.join(ids[:t])


def pieces_of(values: list[bytes]) -> TokenBytes:
    """A tokenizer of these byte strings that always takes the longest."""
    tokens = TokenBytes(tuple(values), {}, lambda text: [], {})
    return TokenBytes(tuple(values), {}, lambda text: tokens._spell_bytes(text.encode())[0].tolist(), {})


def test_the_example_of_the_docstring():
    policy = pieces_of([b"", b" th", b"ink", b"ing", b"ought", b" thinking", b" thin"])
    teacher = pieces_of([b"", b" think", b"ing", b" thought", b"er"])
    alignment = TextAlignment(policy, teacher, policy_eos_ids=[0], teacher_eos_ids=[0])
    ids = np.array([1, 2, 3])
    teacher_ids, starts = alignment.policy_ids_for_teacher(ids)
    assert teacher_ids.tolist() == [1, 2] and starts.tolist() == [0, 1, 1]
    # the teacher says " thought", then the end
    assert alignment.teacher_targets(ids, teacher_ids, starts, np.array([3, 0])).tolist() == [1, -1, 0]
    assert alignment.coverage(ids) == pytest.approx(2 / 3)
    assert alignment.has_own_logprob(teacher_ids, starts).tolist() == [False, False, True]

    whole = np.array([5])  # " thinking"
    teacher_ids, starts = alignment.policy_ids_for_teacher(whole)
    assert teacher_ids.tolist() == [1, 2] and starts.tolist() == [0]
    for predicted, target in (([1, 4], 6), ([1, 2], 5), ([3, 2], 1)):  # " thinker" begins with " thin"
        assert alignment.teacher_targets(whole, teacher_ids, starts, np.array(predicted)).tolist() == [target]


@pytest.mark.parametrize("pair", PAIRS)
def test_a_teacher_that_would_have_written_the_same_teaches_the_same(pair):
    alignment = aligned(pair)
    ids = np.array([i for text in TEXTS for i in encode(PAIRS[pair][0](), text)])
    teacher_ids, starts = alignment.policy_ids_for_teacher(ids)
    targets = alignment.teacher_targets(ids, teacher_ids, starts, teacher_ids)
    guided = targets >= 0
    assert (targets[guided] == ids[guided]).all() and guided.mean() == alignment.coverage(ids) > 0.15


def test_equal_tokenizers_meet_everywhere():
    tokenizer = small()
    ends = [tokenizer.eos_token_id]
    alignment = TextAlignment.from_tokenizers(tokenizer, tokenizer, policy_eos_ids=ends, teacher_eos_ids=ends)
    ids = np.array([*encode(tokenizer, "".join(TEXTS)), tokenizer.eos_token_id])
    teacher_ids, starts = alignment.policy_ids_for_teacher(ids)
    assert teacher_ids.tolist() == ids.tolist() and starts.tolist() == list(range(len(ids)))
    predicted = np.arange(len(ids)) % len(tokenizer)
    predicted[predicted == tokenizer.pad_token_id] = 7
    assert alignment.teacher_targets(ids, teacher_ids, starts, predicted).tolist() == predicted.tolist()
    assert alignment.coverage(ids) == 1.0 and alignment.has_own_logprob(teacher_ids, starts).all()


def test_ends_of_sequence_are_matched_and_special_tokens_stand_alone():
    policy, teacher = small(), sentencepiece()
    alignment, eos = aligned("small-sentencepiece"), policy.eos_token_id
    ids = np.array([*encode(policy, "think</s>"), eos, policy.pad_token_id, *encode(policy, "it")])
    teacher_ids, starts = alignment.policy_ids_for_teacher(ids)
    tokens = teacher.convert_ids_to_tokens(teacher_ids.tolist())
    assert tokens.count("</s>") == 1  # the one that the policy wrote as a token, not the one that it spelled
    assert starts[len(ids) - 4 + 1] >= 0 and teacher_ids[starts[ids.tolist().index(eos)]] == teacher.eos_token_id
    assert alignment.teacher.join(teacher_ids.tolist()) == b"think</s><|pad|>it"  # and no space in front of a piece
    assert alignment.map_teacher_ids(np.array([teacher.eos_token_id, teacher.bos_token_id])).tolist() == [eos, -1]
    apart = TextAlignment(alignment.policy, alignment.teacher, policy_eos_ids=[eos], teacher_eos_ids=[2], map_eos=False)
    assert apart.map_teacher_ids(np.array([2])).tolist() == [-1]
    assert apart.share_unmapped(np.array([2, 300, -1])) == 0.5


def test_text_that_the_teacher_normalizes_is_masked_where_it_changes():
    policy, teacher = small(), large()
    # "e" and its accent from two tokens: the teacher's tokenizer composes them
    pieces = [encode(policy, text) for text in ("think e", "\u0301", " think think e", "\u0301", " 42")]
    ids = np.array([i for piece in pieces for i in piece])
    alignment = aligned("small-large")
    teacher_ids, starts = alignment.policy_ids_for_teacher(ids)
    assert teacher.decode(teacher_ids) == "think \u00e9 think think \u00e9 42"
    guided = np.diff(starts, append=len(teacher_ids)) > 0
    targets = alignment.teacher_targets(ids, teacher_ids, starts, teacher_ids)
    assert guided[0] and (targets[guided] == ids[guided]).all()
    after = len(pieces[0]) + len(pieces[1])
    assert guided[after] and not guided[after - 1]  # and what lies between two such places is aligned again
    assert guided[-len(pieces[-1])] and not guided[-len(pieces[-1]) - 1]


def test_ids_without_a_text_take_no_place_and_get_no_guidance():
    alignment = aligned("small-large")
    a, *_ = encode(small(), "a")
    ids = np.array([a, 10**6, a, -1])
    teacher_ids, starts = alignment.policy_ids_for_teacher(ids)
    assert alignment.teacher.join(teacher_ids.tolist()) == b"aa"
    targets = alignment.teacher_targets(ids, teacher_ids, starts, teacher_ids)
    assert targets[[1, 3]].tolist() == [-1, -1] and targets[0] == a
    empty, none = alignment.policy_ids_for_teacher(np.zeros(0, np.int32))
    assert len(empty) == len(none) == len(alignment.teacher_targets(none, empty, none, empty)) == 0
    assert len(alignment.has_own_logprob(empty, none)) == 0 and alignment.coverage(none) == 0.0
    assert alignment.map_teacher_ids(np.array([-1, 10**6])).tolist() == [-1, -1]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_summary_adds_up(pair):
    alignment = aligned(pair)
    summary = alignment.summary()
    assert summary.shared + summary.respelled + summary.unmapped == summary.teacher_size
    assert summary.read_whole + summary.read_in_pieces + summary.unreadable == summary.policy_size
    mapped = alignment.map_teacher_ids(np.arange(summary.teacher_size))
    assert (mapped < 0).sum() == summary.unmapped and not summary.is_identity
    eos = PAIRS[pair][0]().eos_token_id
    assert [policy for _, policy in summary.end_of_sequence] == [eos]


def test_what_cannot_be_aligned_is_named():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"[UNK]": 0, "think": 1, **{f"##{piece}": i for i, piece in enumerate(["ing", "er", "s"], 2)}}
    wordpiece = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    wordpiece.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    wordpiece.decoder = decoders.WordPiece()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="byte-level BPE's alphabet, in SentencePiece's or in plain text"):
        TokenBytes.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=wordpiece, unk_token="[UNK]"))
    tokens = TokenBytes.from_tokenizer(small())
    with pytest.raises(ValueError, match="policy_eos_ids is empty"):
        TextAlignment(tokens, tokens, policy_eos_ids=[], teacher_eos_ids=[])
    with pytest.raises(ValueError, match=r"teacher_eos_ids \[99999\] are outside"):
        TextAlignment(tokens, tokens, policy_eos_ids=[1], teacher_eos_ids=[99999])
