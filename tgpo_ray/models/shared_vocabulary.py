"""The token ids that mean the same to policy and teacher. Full-vocabulary methods compare only these."""

from __future__ import annotations

from collections.abc import Mapping

MIN_SHARED = 0.9  # of the smaller vocabulary


def num_shared_ids(policy: Mapping[str, int], teacher: Mapping[str, int]) -> int:
    """Returns the largest n such that each id below n is the same token in both vocabularies.

    Raises:
        ValueError: n is below nine tenths of the smaller vocabulary, so whole distributions are not comparable.
    """
    by_id = ({index: token for token, index in vocabulary.items()} for vocabulary in (policy, teacher))
    policy_tokens, teacher_tokens = by_id
    shared = 0
    while shared in policy_tokens and policy_tokens[shared] == teacher_tokens.get(shared):
        shared += 1
    smaller = min(len(policy), len(teacher))
    if shared < MIN_SHARED * smaller:
        raise ValueError(
            f"policy and teacher share the first {shared} of {smaller} token ids: a divergence of whole distributions "
            "needs one vocabulary. Choose a teacher of the policy's family, or TGPO, whose guidance is mapped by token"
        )
    return shared
