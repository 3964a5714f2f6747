"""The table of fixed values itself: each entry is the gradient of its formula, so that a slip in it cannot hide one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracles import (
    FIXED,
    LOG_Q,
    P_TRUST,
    SAMPLED,
    TEACHER,
    P,
    Q,
    assert_oracle,
    through_autograd,
)


def jensen_shannon(log_p: Tensor) -> Tensor:
    mixture = (0.5 * (log_p.exp() + Q)).log()
    return 0.5 * (Q * (LOG_Q - mixture)).sum() + 0.5 * (log_p.exp() * (log_p - mixture)).sum()


def luffy(log_p: Tensor) -> Tensor:
    return -log_p[0, TEACHER].exp() / (log_p[0, TEACHER].exp() + 0.1)


def top2(log_p: Tensor) -> Tensor:
    best = Q.topk(2).indices
    return (Q[best] * (LOG_Q[best] - log_p[0, best])).sum()


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "policy": lambda log_p: -log_p[0, SAMPLED],
    "guidance": lambda log_p: -2e-3 * log_p[0, TEACHER],
    "tgpo": lambda log_p: -log_p[0, SAMPLED] - 2e-3 * log_p[0, TEACHER],
    "tgpor_logp": lambda log_p: -(1.0 + 0.02 * log_p[0, TEACHER].detach()) * log_p[0, SAMPLED],
    "k1": lambda log_p: log_p[0, SAMPLED] - LOG_Q[SAMPLED],
    "k2": lambda log_p: 0.5 * (log_p[0, SAMPLED] - LOG_Q[SAMPLED]).square(),
    "k3": lambda log_p: torch.exp(LOG_Q[SAMPLED] - log_p[0, SAMPLED]) - 1 + log_p[0, SAMPLED] - LOG_Q[SAMPLED],
    "reverse_kl": lambda log_p: (log_p.exp() * (log_p - LOG_Q)).sum(),
    "forward_kl": lambda log_p: (Q * (LOG_Q - log_p)).sum(),
    "jsd": jensen_shannon,
    "luffy": luffy,
    "forward_kl_top2": top2,
    "entropy": lambda log_p: 1e-3 * (log_p.exp() * log_p).sum(),
}


@pytest.mark.parametrize("name", FIXED)
def test_the_table_holds_the_gradient_of_its_formula(name):
    assert_oracle(through_autograd(FORMULAS[name]), FIXED[name])


def test_trust_is_the_acceptance_of_speculative_decoding():
    trust = torch.tensor(P_TRUST, dtype=torch.float64)
    torch.testing.assert_close((Q / P).clamp(max=1.0), trust, atol=1e-8, rtol=0)
