"""What is shown of a token is what the loss does to it: the derivatives, the gate, the choice of few episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.episodes import group_of_infos, group_of_rewards, make_episode, make_info
from tgpo_ray.algorithms.teacher_ratio import KDRLLoss, TeacherRatioLoss
from tgpo_ray.algorithms.tgpor import ShapedPolicyLoss
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss, PolicyLoss, SoftGuidedPolicyLoss
from tgpo_ray.driver.token_forces import forces_of
from tgpo_ray.driver.token_pieces import pieces_of, token_bytes
from tgpo_ray.driver.token_view import choose, of_policy, readable, teachers_word, word_logprobs
from tgpo_ray.episode import Guidance, SampledGroup
from tgpo_ray.guidance import UNREADABLE_LOGPROB
from tgpo_ray.learners import TrainEpisode
from tgpo_ray.models import character_tokenizer

LOGPROBS = np.array([-0.5, -1.0, -2.0], np.float32)


def trained(advantage: float = 0.5, origin: Any = None, **guidance: Any) -> TrainEpisode:
    """Three tokens whose teacher has no word on the last."""
    answer = Guidance(teacher_ids=np.array([5, 9, -1], np.int32), **guidance)
    episode = make_episode(prompt=[1], response=[5, 6, 7], origin=origin)
    return TrainEpisode((0, 0), episode, {"teacher": answer}, advantage)


def test_the_advantage_and_the_teachers_weight_are_those_of_the_loss():
    # L = -A r + w m (-log pi(y^T)): the derivatives are -A and -w m; the entropy bonus is no part of either
    forces = forces_of(trained(), GuidedPolicyLoss(guidance_weight=0.2, entropy_weight=0.1), LOGPROBS)
    assert forces["token_advantages"] == pytest.approx([0.5, 0.5, 0.5])
    assert forces["token_guidance"] == pytest.approx([0.2, 0.2, 0.0])
    assert forces["gate"] == pytest.approx([1.0, 1.0, 0.0])
    assert forces["guidance_weight"] == 0.2


def test_they_are_known_without_the_policys_log_probs_where_they_do_not_depend_on_them():
    forces = forces_of(trained(), GuidedPolicyLoss(guidance_weight=0.2), None)
    assert forces["token_advantages"] == pytest.approx([0.5, 0.5, 0.5])
    assert forces["gate"] == pytest.approx([1.0, 1.0, 0.0])


def test_tokens_of_the_environment_have_neither():
    forces = forces_of(trained(origin=[1, 0, 1]), GuidedPolicyLoss(guidance_weight=0.2), LOGPROBS)
    assert forces["token_advantages"] == pytest.approx([0.5, 0.0, 0.5])
    assert forces["token_guidance"] == pytest.approx([0.2, 0.0, 0.0])


def test_a_gate_of_a_loss_is_seen():
    class Gated(GuidedPolicyLoss):
        def guidance(self, logprobs: torch.Tensor, rows: Any) -> torch.Tensor:
            return super().guidance(logprobs, rows) * torch.tensor([0.25, 0.0, 1.0])

    forces = forces_of(trained(), Gated(guidance_weight=0.2), LOGPROBS)
    assert forces["gate"] == pytest.approx([0.25, 0.0, 0.0])


def test_the_teachers_log_ratio_is_an_advantage_of_the_token():
    teacher = np.array([-0.25, -3.0, UNREADABLE_LOGPROB], np.float32)
    forces = forces_of(trained(teacher_logprobs=teacher), TeacherRatioLoss(reward_weight=1.0), LOGPROBS)
    # A + log pi_T - log pi: 0.5 + 0.25, 0.5 - 2, and 0.5 where the teacher cannot read the token
    assert forces["token_advantages"] == pytest.approx([0.75, -1.5, 0.5])
    assert forces["gate"] is None and forces["guidance_weight"] is None


def test_what_depends_on_log_probs_that_nobody_kept_is_unknown():
    teacher = np.array([-0.25, -3.0, UNREADABLE_LOGPROB], np.float32)
    unknown = forces_of(trained(teacher_logprobs=teacher), KDRLLoss(distillation_weight=1.0), None)
    assert np.isnan(unknown["token_advantages"]).tolist() == [True, True, False]
    # the term of Eq. 5 reads the policy's log-prob of the teacher's word, which is never sampled
    shaped = forces_of(trained(), ShapedPolicyLoss(shaping_weight=1.0), LOGPROBS)["token_advantages"]
    assert np.isnan(shaped).tolist() == [True, True, False] and shaped[2] == pytest.approx(0.5)


def test_several_targets_have_no_single_weight():
    ids = np.array([[5, 6], [9, 5], [7, -1]], np.int32)
    topk = {"topk_ids": ids, "topk_logprobs": np.log(np.array([[0.6, 0.2]] * 3, np.float32))}
    forces = forces_of(trained(**topk), SoftGuidedPolicyLoss(guidance_weight=0.2), LOGPROBS)
    assert forces["token_guidance"] is None and forces["token_advantages"] == pytest.approx([0.5] * 3)


def test_a_reference_on_the_driver_is_missed_and_not_guessed():
    forces = forces_of(trained(), PolicyLoss(kl_weight=1.0, kl_estimator="k2"), LOGPROBS)
    assert forces["token_advantages"] == pytest.approx([0.5] * 3)  # rows that no reference answered have no KL


# ---- the teacher's word


def test_the_word_is_the_argmax_or_the_likeliest_of_several():
    ids, logprobs = np.array([[4, 2], [-1, 1]]), np.array([[-0.1, -3.0], [-0.2, -2.0]])
    assert teachers_word(Guidance(teacher_ids=np.array([3, -1]))).tolist() == [3, -1]  # type: ignore[union-attr]
    assert teachers_word(Guidance(topk_ids=ids)).tolist() == [4, -1]  # type: ignore[union-attr]
    assert teachers_word(Guidance()) is None
    known = word_logprobs(Guidance(teacher_ids=np.array([4, 1]), topk_ids=ids, topk_logprobs=logprobs))
    assert known is not None and known[0] == -0.1 and np.isnan(known[1])


def test_log_probs_are_the_policys_tokens_alone_and_no_placeholders():
    values = of_policy(np.array([-1.0, -2.0, UNREADABLE_LOGPROB]), np.array([1, 0, 1]))
    assert np.isnan(readable(values)).tolist() == [False, True, True]  # type: ignore[arg-type]
    assert of_policy(None, np.array([1])) is None and readable(None) is None


# ---- the choice


def places(chosen: Any) -> list[tuple[int, tuple[int, ...]]]:
    return [(group.ordinal, found) for group, found in chosen]


def test_few_episodes_show_every_outcome():
    groups = [group_of_rewards(rewards=[0, 0, 0], ordinal=1), group_of_rewards(rewards=[0, 1, 1], ordinal=0)]
    assert places(choose(groups, 2)) == [(0, (0, 1))]
    assert places(choose(groups, 4)) == [(0, (0, 1, 2)), (1, (0,))]
    assert places(choose(groups, 100)) == [(0, (0, 1, 2)), (1, (0, 1, 2))]
    assert choose(groups, 0) == []


def test_every_environment_is_shown():
    first = [group_of_rewards(rewards=[0, 0], ordinal=i) for i in range(3)]
    other = SampledGroup(9, first[0].task.__class__(1, 0, 0), first[0].infos, None)
    assert places(choose([*first, other], 2)) == [(0, (0,)), (9, (0,))]


def test_an_episode_without_a_token_is_not_chosen():
    group = group_of_infos(infos=[make_info(length=0), make_info(length=2)])
    assert places(choose([group], 2)) == [(0, (1,))]


# ---- the pieces


class Bytewise:
    """A tokenizer of byte-level BPE's alphabet with half of a character and a special token."""

    all_special_ids = (3,)

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "Ġb": 1, "âĤ": 2, "<end>": 3}

    def decode(self, ids: list[int], **options: Any) -> str:
        return b"".join([b"a", b" b", b"\xe2\x82", b"<end>"][i] for i in ids).decode("utf-8", "replace")

    def encode(self, text: str, **options: Any) -> list[int]:
        return []


def test_half_of_a_character_is_its_bytes_and_a_special_token_is_marked():
    tokenizer = Bytewise()
    pieces = pieces_of(tokenizer, token_bytes(tokenizer), np.array([0, 1, 2, 3, 7]), None, np.array([-1]))
    assert pieces == {0: "a", 1: " b", 2: {"bytes": "e282"}, 3: {"special": "<end>"}, 7: {"special": "<7>"}}


def test_a_tokenizer_without_bytes_is_decoded():
    assert pieces_of(Bytewise(), None, np.array([1, 2])) == {1: " b", 2: "\ufffd"}


def test_the_suites_tokenizer_is_spelled():
    tokenizer = character_tokenizer(["1", "\\boxed{"])
    ids = np.array(tokenizer.encode("1\\boxed{", add_special_tokens=False))
    assert list(pieces_of(tokenizer, token_bytes(tokenizer), ids).values()) == ["1", "\\boxed{"]
