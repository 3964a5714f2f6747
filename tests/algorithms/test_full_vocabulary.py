"""GKD and MiniLLM: their losses through the kernel with both heads, and MiniLLM's returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.algorithms.oracles import LOG_Q, LOGITS, one_position, random_logits, random_rows, through_autograd
from tests.episodes import make_episode
from tgpo_ray.algorithms.full_vocabulary import HIDDEN, DivergenceLoss
from tgpo_ray.algorithms.minillm import MiniLLMLoss, future_returns, long_term_advantages
from tgpo_ray.driver.token_values import GroupTokens
from tgpo_ray.episode import Guidance
from tgpo_ray.kernels import Divergence, FusedHead, HeadWeights, TokenRows, token_loss_pass
from tgpo_ray.models import character_tokenizer, find_head, write_model
from tgpo_ray.models.shared_vocabulary import num_shared_ids

TEACHER_WIDTH, VOCABULARY = 5, 7
REVERSE_KL = 0.91664215  # of the fixed vector


def taught_rows() -> tuple[TokenRows, Tensor]:
    """Random rows with hidden states of a teacher, one of them unanswered, and the teacher's head."""
    generator = torch.Generator().manual_seed(9)
    rows = random_rows(num_targets=1)
    hidden = torch.randn(12, TEACHER_WIDTH, generator=generator).double()
    hidden[5] = torch.nan
    values = torch.randn(12, generator=generator).double()
    head = torch.randn(VOCABULARY, TEACHER_WIDTH, generator=generator).double()
    return rows.with_extra(**{HIDDEN: hidden, "advantage.values": values}), head


def with_both_heads(loss: DivergenceLoss | MiniLLMLoss, rows: TokenRows, head: Tensor) -> tuple[float, Tensor]:
    hidden = random_logits().clone().requires_grad_()
    policy_head = FusedHead(torch.nn.Parameter(torch.eye(VOCABULARY, dtype=torch.float64)))
    output = token_loss_pass(policy_head, hidden, rows, loss, 1.0, HeadWeights(head))
    output.loss.backward()
    assert hidden.grad is not None and "divergence" in output.rows.extra
    loss.metrics(output.logprobs, output.entropy, output.rows)
    return output.loss.item(), hidden.grad


def reverse_kl(rows: TokenRows, head: Tensor, log_p: Tensor, shared: int = VOCABULARY) -> Tensor:
    logits = torch.nan_to_num(rows.extra[HIDDEN]) @ head.t()
    log_q = torch.log_softmax(logits[:, :shared], -1)
    log_p = torch.log_softmax(log_p[:, :shared], -1)
    answered = torch.isfinite(rows.extra[HIDDEN]).all(-1) * rows.mask
    return answered * (log_p.exp() * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("shared", [VOCABULARY, VOCABULARY - 2])
def test_gkd_is_the_divergence_of_the_answered_tokens(shared: int):
    rows, head = taught_rows()
    loss = DivergenceLoss(Divergence(beta=1.0, weight=0.7, teacher="", num_shared=shared))
    value, gradient = with_both_heads(loss, rows, head)
    expected = through_autograd(lambda log_p: 0.7 * reverse_kl(rows, head, log_p, shared), random_logits())
    assert value == pytest.approx(expected[0])
    torch.testing.assert_close(gradient, expected[1])


def test_minillm_adds_the_single_step_to_the_clipped_long_term():
    rows, head = taught_rows()
    old = rows.old_logprobs
    assert old is not None
    loss = MiniLLMLoss(against=Divergence(beta=1.0, weight=1.0, teacher="", num_shared=VOCABULARY))
    advantages = rows.extra["advantage.values"]

    def formula(log_p: Tensor) -> Tensor:
        r = torch.exp(log_p.gather(1, rows.targets)[:, 0] - old)
        clipped = torch.maximum(-advantages * r, -advantages * r.clamp(0.8, 1.2))
        return rows.mask * clipped + reverse_kl(rows, head, log_p)

    value, gradient = with_both_heads(loss, rows, head)
    expected = through_autograd(formula, random_logits())
    assert value == pytest.approx(expected[0])
    torch.testing.assert_close(gradient, expected[1])


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_step_of_gkd_lowers_its_own_divergence(beta: float):
    before, after = one_step(DivergenceLoss(Divergence(beta, 1.0, teacher="", num_shared=4)), LOGITS)
    assert after < before


def test_a_step_of_minillm_lowers_the_reverse_kl():
    """The single step alone: its part of what follows a token is 0 where nothing does."""
    before, after = one_step(MiniLLMLoss(against=Divergence(1.0, 1.0, teacher="", num_shared=4)), LOGITS)
    assert before == pytest.approx(REVERSE_KL, abs=1e-8) and after < before


def one_step(loss: DivergenceLoss | MiniLLMLoss, logits: Tensor) -> tuple[float, float]:
    """The divergence of the fixed vector's policy from its teacher, and after one step of SGD at 0.1."""
    head = FusedHead(torch.nn.Parameter(torch.eye(4, dtype=torch.float64)))
    hidden = logits.clone()[None].requires_grad_()
    optimizer, values = torch.optim.SGD([hidden], lr=0.1), []
    for _ in range(2):
        rows = one_position(0.0, (0,), **{HIDDEN: LOG_Q[None], "advantage.values": torch.zeros(1).double()})
        output = token_loss_pass(head, hidden, rows, loss, 1.0, HeadWeights(torch.eye(4, dtype=torch.float64)))
        values.append(float(output.rows.extra["divergence"]))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return values[0], values[1]


def test_returns_begin_after_their_token_and_are_means_of_what_is_left():
    rewards = np.array([1.0, 2.0, 4.0])
    assert future_returns(rewards, 1.0, length_normalization=False).tolist() == [6.0, 4.0, 0.0]
    assert future_returns(rewards, 1.0, length_normalization=True).tolist() == [3.0, 4.0, 0.0]
    assert future_returns(rewards, 0.5, length_normalization=False).tolist() == [4.0, 4.0, 0.0]


def test_long_term_advantages_are_whitened_over_the_batch_and_weighted():
    old_logprobs = np.array([-1.0, -2.0, -3.0], np.float32)
    episode = make_episode(prompt=[0], response=range(3), old_logprobs=old_logprobs)
    said = {"teacher": Guidance(teacher_logprobs=np.array([-3.0, -1.0, -1.5], np.float32))}
    group = GroupTokens([episode], [said], [None])
    ((found,),) = long_term_advantages([group], weight=2.0, discount=1.0, reward_clip=100.0, length_normalization=True)
    raw = np.array([1.25, 1.5, 0.0])  # r = -2, 1, 1.5
    np.testing.assert_allclose(found, 2.0 * (raw - raw.mean()) / raw.std(ddof=1), rtol=1e-5)


def test_shared_ids_are_the_common_beginning():
    policy = {chr(65 + i): i for i in range(20)}
    assert num_shared_ids(policy, policy | {"<think>": 20}) == 20
    assert num_shared_ids(policy | {"<im_end>": 20}, policy | {"<think>": 20}) == 20
    with pytest.raises(ValueError, match="share the first 0 of 20 token ids"):
        num_shared_ids(policy, {token: 19 - i for token, i in policy.items()})


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_read_without_the_model(tied: bool, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    shape = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": tied,
    }  # fmt: skip
    folder = write_model(tmp_path / "model", "qwen2", character_tokenizer([*"0123456789+="]), **shape)
    model = AutoModelForCausalLM.from_pretrained(folder)
    head: Any = model.get_output_embeddings()
    torch.testing.assert_close(find_head(str(folder)).read(), (head.weight.detach(), None))


def test_a_folder_without_safetensors_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match=r"neither model\.safetensors\.index\.json nor model\.safetensors"):
        find_head(str(tmp_path))
