"""What torch and transformers alone can show on a GPU: kernels, guidance, torch learner, transformers teacher.

Each check compares the device with float64 or with the CPU on the same inputs, and then measures at a size that fills a
card. With `tiny` the sizes are those of a test.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.kit import Part
from benchmarks.half_logits import report as half_logits

EXACT = 1e-4  # relative, float32 against float64 or against the CPU
NEAR = 0.05  # nats, bfloat16 against float32
SHAPE = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": False}
SMALL = SHAPE | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "initializer_range": 0.2}
LARGE = {
    "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 16, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768, "tie_word_embeddings": False,
}  # fmt: skip


def seconds(run: Callable[[], object], device: str, rounds: int = 3) -> float:
    """Returns the least seconds of some rounds after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def relative(found: Tensor, expected: Tensor) -> float:
    expected = expected.double().cpu()
    return float((found.double().cpu() - expected).norm() / expected.norm().clamp(min=1e-12))


def kernels(device: str, tiny: bool) -> dict[str, Any]:
    """The fused loss beside full logits and autograd, and its time and memory beside three matrix products."""
    from benchmarks.loss_contestants import Gemms, Problem, naive, ours

    small = Problem.make(96, 64, 4096, torch.float32, device)
    error = max(relative(a, b) for a, b in zip(ours(small), naive(small), strict=True))
    shape = (256, 64, 4096) if tiny else (8192, 4096, 131072)
    large = Problem.make(*shape, torch.float32 if tiny else torch.bfloat16, device)
    ratio = seconds(lambda: ours(large), device) / seconds(lambda: Gemms()(large), device)
    figures = {"gradient_error": error, "ratio_to_gemms": round(ratio, 3), "ok": error < EXACT}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ours(large)
        beyond = torch.cuda.max_memory_allocated() - before - large.gradient_bytes()
        figures["beyond_gradients_mib"] = round(beyond / 2**20)
    return figures


def half_precision(device: str, tiny: bool) -> dict[str, Any]:
    """Log-probs of bfloat16 weights against float64, with logits in float32 and rounded."""
    found: Any = half_logits(device, (64, 64, 4096) if tiny else (8192, 4096, 131072), 64, 1 if tiny else 3)
    kept, rounded = found["kept"], found["rounded"]
    better = kept["logprob_largest"] < 1e-3 and kept["logprob_largest"] < rounded["logprob_largest"]
    return {"kept": kept, "rounded": rounded, "ms": found["ms"], "ok": better}


def guidance(device: str, tiny: bool) -> dict[str, Any]:
    """The guidance losses and their gradients, and the divergence of whole distributions, against the CPU."""
    from tgpo_ray.guidance import guidance_loss
    from tgpo_ray.kernels import HeadWeights, fused_divergence

    generator = torch.Generator().manual_seed(0)
    rows, width, vocabulary = (32, 16, 512) if tiny else (4096, 1024, 32768)
    hidden, teacher = (torch.randn(rows, width, generator=generator) for _ in range(2))
    head, teacher_head = (torch.randn(vocabulary, width, generator=generator) / width**0.5 for _ in range(2))
    mask = (torch.arange(rows) % 3 > 0).float()

    def run(where: str) -> list[Tensor]:
        inputs = [it.to(where).requires_grad_() for it in (hidden, head)]
        logprobs = torch.log_softmax(inputs[0] @ inputs[1].t(), -1)[:, 0]
        guided = guidance_loss(logprobs, mask.to(where)).sum()
        heads = HeadWeights(inputs[1]), teacher.to(where), HeadWeights(teacher_head.to(where))
        diverging = fused_divergence(inputs[0], *heads, mask.to(where), beta=0.5).loss
        return [guided.detach(), diverging.detach(), *torch.autograd.grad(guided + diverging, inputs)]

    errors = [relative(a, b) for a, b in zip(run(device), run("cpu"), strict=True)]
    return {"error": max(errors), "divergence_s": seconds(lambda: run(device), device), "ok": max(errors) < 1e-3}


def _model(folder: str, shape: dict[str, Any]) -> str:
    from tgpo_ray.models import character_tokenizer, write_model

    return str(write_model(folder, "qwen3", character_tokenizer("0123456789+-*/= ()"), **shape))


def _pieces(num_groups: int, group_size: int, prompt: int, response: int, vocabulary: int) -> list[Any]:
    from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup
    from tgpo_ray.learners import Piece

    rng, pieces = np.random.default_rng(0), []
    for number in range(num_groups):
        asked = rng.integers(2, vocabulary, prompt).astype(np.int32)
        answers = [rng.integers(2, vocabulary, response - i % 3).astype(np.int32) for i in range(group_size)]
        episodes = tuple(
            Episode(asked, it, np.full(len(it), ORIGIN_POLICY, np.uint8), 1.0, "right", "stop", "kit", number, 0, 0)
            for it in answers
        )
        advantages = rng.standard_normal(group_size).astype(np.float32)
        pieces.append(Piece(number, EpisodeGroup(episodes), {}, advantages, tuple(range(group_size))))
    return pieces


def learner(device: str, tiny: bool) -> dict[str, Any]:
    """Updates of the torch learner in bfloat16 near those in float32, then a step of a model of 1.2 billion weights."""
    from tgpo_ray.algorithms.token_losses import PolicyLoss
    from tgpo_ray.learners import Learner, LearnerSpec, StrategyOptions

    def step(folder: str, dtype: Any, pieces: list[Any]) -> tuple[Any, float, float]:
        one = Learner(LearnerSpec(folder, folder, StrategyOptions(dtype=dtype, lr=1e-5), gradient_checkpointing=True))
        tokens = float(sum(len(it.response_ids) for piece in pieces for it in piece.ref.episodes))
        norm = 0.0

        def run() -> None:
            nonlocal norm
            one.accumulate([[piece] for piece in pieces], PolicyLoss())
            norm = one.step(tokens, 1e-5)["grad_norm"]

        run()
        first = norm
        return one, first, tokens / seconds(run, device, 1 if tiny else 2)

    with tempfile.TemporaryDirectory() as folder:
        small, pieces = _model(f"{folder}/small", SMALL), _pieces(4, 2, 6, 9, 18)
        norms = {dtype: step(small, dtype, pieces)[1] for dtype in ("float32", "bfloat16")}
        gap = abs(norms["bfloat16"] / norms["float32"] - 1.0)
        shape = SMALL if tiny else LARGE
        large = _model(f"{folder}/large", shape)
        vocabulary = 18 if tiny else LARGE["vocab_size"]
        pieces = _pieces(2, 2, 6, 9, vocabulary) if tiny else _pieces(4, 4, 512, 1536, vocabulary)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        _, _, rate = step(large, "bfloat16", pieces)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {"norm_gap": gap, "tokens_per_s": round(rate), "peak_gib": peak and round(peak, 1), "ok": gap < NEAR}


def teacher(device: str, tiny: bool) -> dict[str, Any]:
    """Scores of the transformers teacher equal to the CPU's in float32 and near in bfloat16, and its rate."""
    from tgpo_ray.models import EngineSpec, ScoringRequest, Want
    from tgpo_ray.teachers import TransformersBackend

    def scores(folder: str, dtype: str, where: str, requests: list[Any]) -> np.ndarray:
        backend = TransformersBackend(EngineSpec(folder, dtype, 4096, 0), gpu=where == "cuda")
        return np.concatenate([it.logprobs for it in backend.score(requests, want) if it.logprobs is not None])

    want, rng = Want(argmax=True, logprob=True), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        small = _model(f"{folder}/small", SMALL)
        few = [ScoringRequest(rng.integers(2, 18, 24).astype(np.int32), 6) for _ in range(6)]
        exact = scores(small, "float32", "cpu", few)
        gaps = {
            dtype: float(np.abs(scores(small, dtype, device, few) - exact).mean()) for dtype in ("float32", "bfloat16")
        }
        size, length = (18, 32) if tiny else (LARGE["vocab_size"], 2048)
        large = _model(f"{folder}/large", SMALL if tiny else LARGE)
        backend = TransformersBackend(EngineSpec(large, "bfloat16", 4096, 0), gpu=device == "cuda")
        many = [ScoringRequest(rng.integers(2, size, length).astype(np.int32), length // 4) for _ in range(8)]
        rate = sum(len(it.ids) for it in many) / seconds(lambda: backend.score(many, want), device, 1 if tiny else 3)
    within = gaps["float32"] < EXACT and gaps["bfloat16"] < NEAR
    return {"gap_nats": gaps, "tokens_per_s": round(rate), "ok": within}


PARTS = (
    Part("kernels", "the fused loss: gradients, time beside three matrix products, memory", kernels),
    Part("half_precision", "log-probs of bfloat16 weights: logits in float32 against rounded ones", half_precision),
    Part("guidance", "guidance loss and whole-vocabulary divergence equal those of a CPU", guidance),
    Part("learner", "the torch learner: bfloat16 beside float32, tokens a second, memory", learner),
    Part("teacher", "the transformers teacher: equal to a CPU's scores, tokens a second", teacher),
)
