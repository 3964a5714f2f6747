"""The two-way vocabulary map on a policy that spells `</think>` in pieces and a teacher that has one id for it."""

from __future__ import annotations

import numpy as np
import pytest

from tgpo_ray.guidance import VocabularyMap

POLICY = {"a": 0, "b": 1, "ab": 2, "</": 3, "think": 4, ">": 5, "<eos>": 6, "<|im_end|>": 7}
TEACHER = {"b": 0, "a": 1, "</": 2, "think": 3, ">": 4, "</think>": 5, "<|im_end|>": 6}


def spell(vocabulary: dict[str, int]):
    """Greedy longest match: enough of a tokenizer for these strings."""

    def encode(text: str) -> list[int]:
        ids = []
        while text:
            piece = max((token for token in vocabulary if text.startswith(token)), key=len, default=None)
            if piece is not None:
                ids.append(vocabulary[piece])
            text = text[len(piece or "x") :]
        return ids

    return encode


def make_map(**changes) -> VocabularyMap:
    options = {
        "policy_eos_ids": [6],
        "teacher_eos_ids": [6],
        "encode_policy": spell(POLICY),
        "encode_teacher": spell(TEACHER),
    }
    return VocabularyMap.from_vocabularies(POLICY, TEACHER, **(options | changes))


def test_teacher_ids_become_policy_ids_by_token_string():
    mapped = make_map().map_teacher_ids(np.array([[0, 1, 2], [5, -1, 99]]))
    assert mapped.tolist() == [[1, 0, 3], [-1, -1, -1]] and mapped.dtype == np.int32


def test_the_first_piece_can_stand_for_a_token_that_the_policy_lacks():
    assert make_map(unmapped="first_piece").map_teacher_ids(np.array([5, 0])).tolist() == [3, 1]


def test_the_teachers_end_of_sequence_becomes_the_policys():
    """The policy has `<|im_end|>` too, but its sampler does not stop there."""
    assert make_map().map_teacher_ids(np.array([6])).tolist() == [6]
    assert make_map(policy_eos_ids=[6, 7]).map_teacher_ids(np.array([6])).tolist() == [7]  # it does stop there


def test_policy_ids_are_spelled_for_the_teacher_with_their_positions():
    ids, starts = make_map().policy_ids_for_teacher(np.array([2, 1, 3, 6]))
    # "ab" is two teacher tokens, so what follows begins one place later; <eos> reads as the teacher's own end
    assert ids.tolist() == [1, 0, 0, 2, 6] and starts.tolist() == [0, 2, 3, 4]
    assert ids.dtype == starts.dtype == np.int32


def test_ids_that_the_teacher_cannot_read_take_no_place():
    ids, starts = make_map().policy_ids_for_teacher(np.array([0, 200, -1, 1]))
    assert ids.tolist() == [1, 0] and starts.tolist() == [0, 1, 1, 1]
    empty, none = make_map().policy_ids_for_teacher(np.array([], dtype=np.int32))
    assert len(empty) == len(none) == 0


def test_spelled_ids_say_the_same_text():
    names = {index: token for token, index in POLICY.items()}
    teacher_names = {index: token for token, index in TEACHER.items()}
    sequence = np.random.default_rng(0).integers(0, 6, 200)
    ids, starts = make_map().policy_ids_for_teacher(sequence)
    assert "".join(teacher_names[i] for i in ids) == "".join(names[i] for i in sequence)
    for t in (0, 50, 199):
        before = "".join(names[i] for i in sequence[:t])
        assert "".join(teacher_names[i] for i in ids[: starts[t]]) == before


def test_share_unmapped_counts_what_gets_no_guidance():
    assert make_map().share_unmapped(np.array([5, 0, 1, 5, -1])) == 0.5
    assert make_map(unmapped="first_piece").share_unmapped(np.array([5, 0])) == 0.0
    assert make_map().share_unmapped(np.array([-1])) == 0.0


def test_equal_vocabularies_need_no_map():
    same = VocabularyMap.from_vocabularies(POLICY, dict(POLICY), policy_eos_ids=[6], teacher_eos_ids=[6])
    ids = np.arange(8)
    assert same.is_identity and not make_map().is_identity
    assert same.map_teacher_ids(ids).tolist() == same.policy_ids_for_teacher(ids)[0].tolist() == ids.tolist()
    other_end = VocabularyMap.from_vocabularies(POLICY, dict(POLICY), policy_eos_ids=[6], teacher_eos_ids=[7])
    assert not other_end.is_identity and other_end.map_teacher_ids(np.array([7])).tolist() == [6]


def test_equal_vocabularies_pass_arrays_through_untouched():
    same = VocabularyMap.from_vocabularies(POLICY, dict(POLICY), policy_eos_ids=[6], teacher_eos_ids=[6])
    ids = np.arange(8, dtype=np.int32)
    assert same.map_teacher_ids(ids) is ids
    read, starts = same.policy_ids_for_teacher(ids)
    assert read is ids and starts.tolist() == ids.tolist()
    assert same.teacher_targets(ids, read, starts, ids) is ids
    assert same.has_own_logprob(read, starts).all() and same.share_unmapped(ids) == 0.0
    # a head has rows beyond the tokenizer's ids: those still mean nothing
    assert same.map_teacher_ids(np.array([3, 99], np.int32)).tolist() == [3, -1]
    assert same.policy_ids_for_teacher(np.array([3, 99, -1], np.int32))[0].tolist() == [3]


def test_the_end_of_sequence_can_be_a_token_like_any_other():
    apart = make_map(map_eos=False)
    assert apart.map_teacher_ids(np.array([6])).tolist() == [7]  # `<|im_end|>` by its string
    assert apart.policy_ids_for_teacher(np.array([6]))[0].tolist() == [4]  # `<eos>` in pieces: `>` is all there is
    assert make_map(map_eos=False, policy_eos_ids=[7]).summary().end_of_sequence == ((6, 7),)


def test_targets_are_the_mapped_predictions_for_first_pieces():
    vocabulary = make_map()
    ids = np.array([2, 1, 3])  # "ab", "b", "</": the teacher reads "a" "b" "b" "</"
    read, starts = vocabulary.policy_ids_for_teacher(ids)
    predicted = np.array([0, 0, 5, 2], np.int32)  # "b" for "a", "b", `</think>` for "b", "</"
    targets = vocabulary.teacher_targets(ids, read, starts, predicted)
    assert targets.tolist() == [1, -1, 3] and targets.dtype == np.int32


def test_a_token_that_the_teacher_would_spell_out_stays_whole():
    """Teaching its first piece would teach the policy to write `a`, `b` for its own `ab`."""
    vocabulary = make_map()
    ids = np.array([2, 2, 1])
    read, starts = vocabulary.policy_ids_for_teacher(ids)
    assert vocabulary.teacher_targets(ids, read, starts, read).tolist() == ids.tolist()
    predicted = read.copy()
    predicted[3] = 3  # agrees with the second "ab"'s "a", but goes on with "think"
    assert vocabulary.teacher_targets(ids, read, starts, predicted).tolist() == [2, 0, 1]
    assert vocabulary.has_own_logprob(read, starts).all()


def test_ids_that_the_teacher_cannot_read_get_no_guidance():
    ids = np.array([0, 200, 1])
    read, starts = make_map().policy_ids_for_teacher(ids)
    assert make_map().teacher_targets(ids, read, starts, np.array([1, 1], np.int32)).tolist() == [0, -1, 0]
    assert make_map().has_own_logprob(read, starts).tolist() == [True, False, True]


def test_the_summary_says_how_the_vocabularies_fit():
    summary = make_map().summary()
    # the teacher's b, a, </, think, > are shared, `<|im_end|>` ends; `</think>` is not there
    assert (summary.teacher_size, summary.shared, summary.respelled, summary.unmapped) == (7, 6, 0, 1)
    # the policy's "ab" is read as two, the rest as one
    assert (summary.policy_size, summary.read_whole, summary.read_in_pieces, summary.unreadable) == (8, 7, 1, 0)
    assert summary.end_of_sequence == ((6, 6),) and not summary.is_identity
    pieces = make_map(unmapped="first_piece").summary()
    assert (pieces.shared, pieces.respelled, pieces.unmapped) == (6, 1, 0)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="unmapped must be 'mask' or 'first_piece', got 'skip'"):
        make_map(unmapped="skip")
    with pytest.raises(ValueError, match="needs encode_policy"):
        make_map(unmapped="first_piece", encode_policy=None)
    with pytest.raises(ValueError, match=r"policy token 'ab' \(id 2\) is not in the teacher's vocabulary"):
        make_map(encode_teacher=None)
    with pytest.raises(ValueError, match="policy_eos_ids is empty"):
        make_map(policy_eos_ids=[])
