"""Which architectures train from the weights that they sample from: the table of docs/models.md.

python benchmarks/models.py                      tries all and writes the table
python benchmarks/models.py llama gpt_oss        tries these and prints their rows
python benchmarks/models.py --json FILE llama    writes what was measured, for a program
python benchmarks/models.py --page FILE ...      writes the table from such files

Each is a tiny random model (`tiny_architectures.py`). A vLLM engine in a process of its own samples with the learner's
weights, before and after all of them have changed, and the learner computes the log-probs of the same tokens. Then the
learner exports, and transformers reads that back.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.tiny_architectures import ARCHITECTURES, write_tiny  # noqa: E402
from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup  # noqa: E402
from tgpo_ray.learners import Learner, LearnerSpec, Piece, StrategyOptions  # noqa: E402
from tgpo_ray.models import (  # noqa: E402
    PROVEN,
    REFUSED,
    Engine,
    EngineSpec,
    Sampling,
    completions,
    engine_environment,
    fill_buckets,
    saved_buffers,
)

PAGE = ROOT / "docs" / "models.md"
START, END = "<!-- generated: python benchmarks/models.py -->", "<!-- end of the generated part -->"
BOUND = 1e-3  # nats, in float32
NUM_PROMPTS, NUM_TOKENS = 6, 24
LEAST_CHANGE = 0.05  # nats; a change of weights that moves the log-probs less proves nothing
TIMEOUT_S = 120.0


@dataclass
class Row:
    """What was measured of one architecture. A gap is the mean |learner - sampler| in nats."""

    model_type: str
    model_class: str = ""
    engine_class: str = ""  # of vLLM
    before: float | None = None
    after: float | None = None
    change: float | None = None  # mean change of the log-probs of the first tokens, between the two
    export: str = ""  # "equal", or what differs
    error: str = ""
    seconds: float = 0.0

    @property
    def proven(self) -> bool:
        return (
            not self.error
            and self.export == "equal"
            and all(gap is not None and gap <= BOUND for gap in (self.before, self.after))
            and (self.change or 0.0) >= LEAST_CHANGE
        )


def engine_process(spec: EngineSpec, channel: Connection) -> None:
    """Answer the calls of the learner's process: buckets in, (class, sampled tokens) out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # vLLM's own progress and warnings
    try:
        engine = Engine(spec)
        channel.send(_class_of(engine))
        while True:
            engine.load_weights(channel.recv())
            engine.seed(0)
            channel.send(_sampled(engine))
    except BaseException as error:
        channel.send(error if isinstance(error, ValueError | RuntimeError) else RuntimeError(_described(error)))


def _class_of(engine: Any) -> str:
    runner = engine._engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    kind = type(runner.get_model())
    return f"{kind.__module__}.{kind.__name__}".removeprefix("vllm.model_executor.models.")


def _sampled(engine: Engine) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns (prompt ids, response ids, log-probs) of each prompt."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 34, 5 + index) for index in range(NUM_PROMPTS)]
    sampling = Sampling(NUM_TOKENS, 1.0, logprobs=True)
    requests = [engine.generate(prompt, sampling) for prompt in prompts]
    outputs = engine.finish()
    responses = [completions(outputs[request])[0] for request in requests]
    return [
        (prompt.astype(np.int32), it.token_ids, np.asarray(it.logprobs))
        for prompt, it in zip(prompts, responses, strict=True)
    ]


def change_weights(learner: Learner, seed: int) -> None:
    """Change every parameter, and the buffers that are saved with it, by a good part of its size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in [*learner._model.named_parameters(), *saved_buffers(learner._model)]:
            size = 0.1 if weight.ndim < 2 else 0.3 * float(weight.std())
            weight.add_(size * torch.randn(weight.shape, generator=generator))


def logprobs(learner: Learner, sampled: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns the learner's log-probs of all sampled tokens, one after the other."""
    episodes = tuple(
        Episode(
            prompt,
            response,
            np.full(len(response), ORIGIN_POLICY, np.uint8),
            0.0,
            "wrong",
            "length",
            "none",
            index,
            0,
            1,
        )
        for index, (prompt, response, _) in enumerate(sampled)
    )
    members = tuple(range(len(episodes)))
    found = learner.logprobs([Piece(0, EpisodeGroup(episodes), {}, np.zeros(len(episodes), np.float32), members)])
    return np.concatenate([found[0, index] for index in members])


def prove(model_type: str, folder: Path) -> Row:
    """Returns the row of one architecture. An error is part of it."""
    row, start = Row(model_type), time.monotonic()
    try:
        _measure(row, write_tiny(model_type, folder / "model"), folder / "export")
    except Exception as error:
        traceback.print_exc()
        row.error = _described(error)
    row.seconds = time.monotonic() - start
    return row


def _measure(row: Row, model: Path, export: Path) -> None:
    learner = Learner(LearnerSpec(str(model), str(model), StrategyOptions(), threads=1))
    row.model_class = type(learner._model).__name__
    spec = EngineSpec(str(model), "float32", 128, 16 * 2**20, max_num_seqs=8)
    with engine(spec) as channel:
        row.engine_class = _answer(channel)
        first = _exchange(channel, learner)
        before = logprobs(learner, first)
        row.before = _gap(before, first)
        buffers = [(buffer, buffer.clone()) for _, buffer in saved_buffers(learner._model)]
        change_weights(learner, 1)
        row.change = float(np.abs(logprobs(learner, first) - before).mean())
        second = _exchange(channel, learner)
        row.after = _gap(logprobs(learner, second), second)
    for buffer, loaded in buffers:  # nothing trains them, and an export writes them as they were loaded
        buffer.copy_(loaded)
    row.export = exported(learner, export)


@contextlib.contextmanager
def engine(spec: EngineSpec) -> Iterator[Connection]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tgpo_ray.models.engine", "vllm.v1.engine.llm_engine"])
    here, there = context.Pipe()
    process = context.Process(target=engine_process, args=(spec, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        process.kill()
        process.join()


def _exchange(channel: Connection, learner: Learner) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    channel.send(list(fill_buckets(learner.checkpoint_weights())))
    return _answer(channel)


def _answer(channel: Connection) -> Any:
    if not channel.poll(TIMEOUT_S):
        raise TimeoutError(f"the engine has not answered in {TIMEOUT_S:.0f} s")
    answer = channel.recv()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _gap(found: np.ndarray, sampled: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    return float(np.abs(found - np.concatenate([values for *_, values in sampled])).mean())


def exported(learner: Learner, folder: Path) -> str:
    """Returns "equal" where transformers reads the learner's weights from its export, or what differs."""
    from transformers import AutoModelForCausalLM

    learner.export(folder)
    read: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found, expected = read.state_dict(), learner._model.state_dict()
    different = [name for name in expected if name not in found or not torch.equal(found[name], expected[name])]
    return f"differs in {', '.join(different[:2])} ({len(different)} tensors)" if different else "equal"


def _described(error: BaseException) -> str:
    text = re.sub(rf"model '{re.escape(tempfile.gettempdir())}[^']*': ", "", str(error))  # a folder of this run
    return f"{type(error).__name__}: {' '.join(text.split())}"[:160]


def table(rows: Sequence[Row]) -> str:
    lines = ["| `model_type` | class | vLLM's | before | after | export | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        verdict = "proven" if row.proven else f"refused: {REFUSED[row.model_type]}" if row.model_type in REFUSED else ""
        verdict = verdict or f"not proven: {row.error or 'the gap is too large'}"
        gaps = ["" if gap is None else f"{gap:.1g}" for gap in (row.before, row.after)]
        cells = (f"`{row.model_type}`", row.model_class, row.engine_class, *gaps, row.export, verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def all_rows(names: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of these architectures, each as soon as it is measured."""
    os.environ |= engine_environment(gpu=False)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            row = prove(name, Path(folder) / name)
            print(row, flush=True)
            yield row


def write_page(part: str) -> None:
    """Write the part of the page between its two marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    PAGE.write_text(f"{before}{START}\n\n{part}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL_TYPE", help=f"of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    if arguments.page:
        read = [row for file in arguments.page for row in json.loads(file.read_text())]
        rows = [Row(**{name: value for name, value in row.items() if name != "proven"}) for row in read]
    else:
        rows = list(all_rows(arguments.models or list(ARCHITECTURES)))
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(row) | {"proven": row.proven} for row in rows]))
    if arguments.models:
        print(table(rows))
    else:
        write_page(table(rows))
        proven = {row.model_type for row in rows if row.proven}
        print(
            f"proven, but not in PROVEN: {sorted(proven - set(PROVEN))}; in it, but not: {sorted(set(PROVEN) - proven)}"
        )


if __name__ == "__main__":
    main()
