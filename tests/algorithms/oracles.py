"""What the tests of losses share: the fixed vector of one position, closed forms, and ways through the fused kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgpo_ray.kernels import TokenLoss, TokenRows, chunked_logprobs, fused_token_loss

LOGITS = torch.tensor([1.0, 0.5, -0.5, 0.0], dtype=torch.float64)
TEACHER_LOGITS = torch.tensor([-1.0, 2.0, 0.0, 0.5], dtype=torch.float64)
LOG_P, LOG_Q = torch.log_softmax(LOGITS, -1), torch.log_softmax(TEACHER_LOGITS, -1)  # policy, teacher
P, Q = LOG_P.exp(), LOG_Q.exp()  # [.45505423 .27600434 .10153632 .1674051], [.03535379 .71009992 .09610157 .15844471]
SAMPLED, TEACHER = 0, 1  # a, and the teacher's argmax y^T
P_TRUST = [0.07769138, 1.0, 0.94647482, 0.94647482]  # min(q / p, 1)


@dataclass(frozen=True)
class Oracle:
    """dL/dz at the fixed vector, and L where it is known."""

    gradient: tuple[float, ...]
    loss: float | None = None


FIXED: Mapping[str, Oracle] = {
    "policy": Oracle((-0.54494577, 0.27600434, 0.10153632, 0.1674051)),  # A = 1, r = 1
    "guidance": Oracle((0.00091011, -0.00144799, 0.00020307, 0.00033481)),  # w = 0.002
    "tgpo": Oracle((-0.54403566, 0.27455635, 0.1017394, 0.16773991)),  # the two above together
    "tgpor_logp": Oracle((-0.53091517, 0.26889812, 0.09892209, 0.16309496)),  # A = 1, lambda = 0.02
    "k1": Oracle((0.54494577, -0.27600434, -0.10153632, -0.1674051)),
    "k2": Oracle((1.39234238, -0.70519411, -0.25942642, -0.42772185)),  # also OPD with coefficient 1
    "k3": Oracle((0.50260818, -0.25456119, -0.09364783, -0.15439916)),
    "reverse_kl": Oracle((0.74554664, -0.51381831, -0.08748687, -0.14424146), 0.91664215),  # KL(p||q), all tokens
    "forward_kl": Oracle((0.41970044, -0.43409558, 0.00543475, 0.00896039), 0.56670453),  # KL(q||p)
    "jsd": Oracle((0.11144182, -0.09780608, -0.00514805, -0.00848769), 0.15600066),  # beta = 0.5
    "luffy": Oracle((0.08883689, -0.14134035, 0.01982219, 0.03268127), -0.73404563),  # token 1, A = 1, gamma = 0.1
    "forward_kl_top2": Oracle((0.39523491, -0.47037783, 0.08818883, -0.01304591), 0.66232049),  # not renormalised
    "entropy": Oracle((0.00020828, -0.00001167, -0.00010583, -0.00009078)),  # weight 0.001
}


def one_hot(index: int, like: Tensor = P) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(index), len(like)).to(like.dtype)


def one_position(advantage: float = 0.0, targets: Sequence[int] = (SAMPLED, TEACHER), **extra: Tensor) -> TokenRows:
    """One row with these target columns, strictly on-policy. `extra`: (1, ...) float64 fields.

    Names with a dot: `one_position().with_extra(**{"teacher.teacher_logprobs": LOG_Q[[SAMPLED]]})`.
    """
    return TokenRows(
        targets=torch.tensor([list(targets)]),
        target_mask=torch.ones(1, len(targets), dtype=torch.float64),
        advantages=torch.tensor([advantage], dtype=torch.float64),
        old_logprobs=None,
        sequence=torch.zeros(1, dtype=torch.long),
        lengths=torch.ones(1, dtype=torch.float64),
        extra=extra,
    )


def random_rows(num_rows: int = 12, vocabulary: int = 7, num_targets: int = 2, *, seed: int = 0) -> TokenRows:
    """Float64 rows of sequences of 4 tokens, a fifth of them masked; old log-probs near those of `random_logits`.

    `extra` is empty: add fields with `rows.with_extra(...)`.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(num_rows, num_targets, generator=generator) > 0.2).double()
    targets = torch.randint(0, vocabulary, (num_rows, num_targets), generator=generator)
    logprobs = torch.log_softmax(random_logits(num_rows, vocabulary, seed=seed), -1).gather(1, targets[:, :1])[:, 0]
    mask = mask * mask[:, :1]
    sequence = torch.arange(num_rows) // 4
    lengths = torch.zeros(int(sequence.max()) + 1, dtype=torch.float64).index_add(0, sequence, mask[:, 0])[sequence]
    return TokenRows(
        targets=targets,
        target_mask=mask,
        advantages=torch.randn(num_rows, generator=generator).double(),
        old_logprobs=logprobs + 0.3 * torch.randn(num_rows, generator=generator).double(),
        sequence=sequence,
        lengths=lengths,
    )


def random_logits(num_rows: int = 12, vocabulary: int = 7, *, seed: int = 0) -> Tensor:
    """(N, V) float64."""
    return 1.5 * torch.randn(num_rows, vocabulary, generator=torch.Generator().manual_seed(seed + 1000)).double()


def through_kernel(
    loss: TokenLoss, rows: TokenRows, logits: Tensor = LOGITS, *, temperature: float = 1.0, chunk_rows: int = 3
) -> tuple[float, Tensor]:
    """(summed loss, dL/dlogits (N, V)) from the kernel that training uses, several chunks, logits as hidden states."""
    hidden = logits.reshape(-1, logits.shape[-1]).clone().requires_grad_()  # (N, V)
    weight = torch.eye(hidden.shape[1], dtype=hidden.dtype)
    if loss.needs_sequence:
        logprobs, _ = chunked_logprobs(hidden.detach(), weight, rows.targets, temperature=temperature)
        rows = loss.prepare(logprobs, rows)
    chunk_bytes = chunk_rows * hidden.shape[1] * hidden.element_size() * (2 if loss.needs_entropy else 1)
    output = fused_token_loss(hidden, weight, rows, loss, temperature=temperature, chunk_bytes=chunk_bytes)
    if not output.loss.requires_grad:
        return output.loss.item(), torch.zeros_like(hidden)
    output.loss.backward()
    assert hidden.grad is not None
    return output.loss.item(), hidden.grad


def through_autograd(formula: Callable[[Tensor], Tensor], logits: Tensor = LOGITS) -> tuple[float, Tensor]:
    """(value, dL/dlogits) of `formula(log_softmax(logits))`, summed: the reference that the kernel must equal."""
    leaf = logits.reshape(-1, logits.shape[-1]).clone().requires_grad_()
    value = formula(torch.log_softmax(leaf, -1)).sum()
    return value.item(), torch.autograd.grad(value, leaf)[0]


def central_differences(value: Callable[[Tensor], float], logits: Tensor, step: float = 1e-5) -> Tensor:
    """(N, V) numerical gradient of `value(logits)`; only for losses without a stop-gradient (r, Bernoulli gates)."""
    gradient = torch.zeros_like(logits)
    for place in range(logits.numel()):
        shift = torch.zeros_like(logits).view(-1)
        shift[place] = step
        shift = shift.view_as(logits)
        gradient.view(-1)[place] = (value(logits + shift) - value(logits - shift)) / (2 * step)
    return gradient


def every_token(rows_of: Callable[[int], TokenRows], vocabulary: int = len(LOGITS)) -> TokenRows:
    """The rows `rows_of(a)` of all tokens a, one after the other: the vocabulary enumerated as samples."""
    found = [rows_of(token) for token in range(vocabulary)]
    return TokenRows(
        targets=torch.cat([rows.targets for rows in found]),
        target_mask=torch.cat([rows.target_mask for rows in found]),
        advantages=torch.cat([rows.advantages for rows in found]),
        old_logprobs=None,
        sequence=torch.arange(vocabulary),
        lengths=torch.ones(vocabulary, dtype=torch.float64),
        extra={name: torch.cat([rows.extra[name] for rows in found]) for name in found[0].extra},
    )


def expected_gradient(loss: TokenLoss, rows_of: Callable[[int], TokenRows], logits: Tensor = LOGITS) -> Tensor:
    """E over a ~ p of dL/dz (V,), exactly: every token of the vocabulary as the sample, weighted by p = softmax(z)."""
    _, gradients = through_kernel(loss, every_token(rows_of, len(logits)), logits.expand(len(logits), -1))
    return torch.softmax(logits, -1) @ gradients


def assert_oracle(got: tuple[float, Tensor], oracle: Oracle) -> None:
    """`through_kernel`'s answer at the fixed vector against the table, to its eight digits."""
    value, gradient = got
    expected = torch.tensor([oracle.gradient], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, atol=2e-8, rtol=0)
    if oracle.loss is not None:
        assert abs(value - oracle.loss) < 2e-8


def assert_same(got: tuple[float, Tensor], expected: tuple[float, Tensor]) -> None:
    """Value and gradient to 1e-6, the issue's bound; in float64 they agree to 1e-12."""
    assert abs(got[0] - expected[0]) <= 1e-6 * max(1.0, abs(expected[0]))
    torch.testing.assert_close(got[1], expected[1], atol=1e-9, rtol=1e-6)
