"""A served model's answers, from any server that speaks OpenAI's interface. Its environments are scored here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any

from tgpo_ray.suites.answers_file import Answer, ProblemAnswers
from tgpo_ray.suites.scoring import EnvPool, verdict_of
from tgpo_ray.teachers import JsonServer, ServerError

if TYPE_CHECKING:
    from tgpo_ray.suites.suite_config import CandidateConfig, SuiteConfig
    from tgpo_ray.suites.work import EvaluationSet, OpenSet

Place = tuple[int, int]  # index of the set, and problem
START_S = 30.0  # for the list of models: an address that is wrong is found soon
THOUGHT_KEYS = ("reasoning_content", "reasoning")  # where servers with a parser of thoughts put them


class ServedModel:
    """The client of one served model. Each response is a request, so that a server has as many as `max_num_seqs`.

    Raises:
        ValueError: the server lists no such model, or the address or key is missing.
        ServerError: the server does not answer.
    """

    def __init__(self, config: SuiteConfig, candidate: CandidateConfig) -> None:
        self._config, self._candidate = config, candidate
        self._connections = config.env_runners.max_num_seqs
        self._server = JsonServer(
            candidate.url or "", api_key_env=candidate.api_key_env, num_connections=self._connections
        )
        self.name = self._served_model(candidate.served_model)

    def _served_model(self, wanted: str | None) -> str:
        answer = self._server.get("/v1/models", deadline=min(self._deadline(), time.monotonic() + START_S))
        cards = answer.get("data") if isinstance(answer, dict) else None
        served = [str(card.get("id")) for card in cards or () if isinstance(card, dict)]
        name = wanted or (served[0] if len(served) == 1 else "")
        if name not in served:
            raise ValueError(
                f"{self._server.url} has no model {wanted or 'that is the only one'!r}, it serves "
                f"{', '.join(served) or 'none'}: name one of them as `served_model` in the suite's candidates"
            )
        return name

    def _deadline(self) -> float:
        return time.monotonic() + self._config.fault_tolerance.sample_timeout_s

    def answers(self, sets: Sequence[OpenSet]) -> Iterator[tuple[int, ProblemAnswers]]:
        """Yields (set, answers to one problem) as problems are done, of those without answers.

        An error of the server ends it, and a later call asks for what was not yielded.
        """
        pools = [EnvPool(it.evaluated.spec) for it in sets]
        threads = ThreadPoolExecutor(self._connections, thread_name_prefix="served-model")
        waiting = ((index, problem) for index, it in enumerate(sets) for problem in it.missing)
        pending: dict[Future[Answer], Place] = {}
        asked: dict[Place, list[Future[Answer]]] = {}  # the responses of each problem that has begun, in order
        try:
            while True:
                while len(pending) < 2 * self._connections and (place := next(waiting, None)):
                    it, pool = sets[place[0]].evaluated, pools[place[0]]
                    answer = partial(self._answer, it, pool, place[1])
                    asked[place] = [threads.submit(answer, number) for number in range(it.num_samples)]
                    pending |= dict.fromkeys(asked[place], place)
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    future.result()
                    place = pending.pop(future)
                    if not any(other in pending for other in asked[place]):
                        answers = tuple(it.result() for it in asked.pop(place))
                        yield place[0], self._row(sets[place[0]].evaluated, pools[place[0]], place[1], answers)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
            for pool in pools:
                pool.close()

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _row(self, it: EvaluationSet, pool: EnvPool, problem: int, answers: tuple[Answer, ...]) -> ProblemAnswers:
        with pool.env() as env:
            prompt, _ = env.reset(seed=it.seed, options={"index": problem})
        return ProblemAnswers(problem, it.hashes[problem], prompt, None, answers)

    def _answer(self, it: EvaluationSet, pool: EnvPool, problem: int, number: int) -> Answer:
        with pool.env() as env:
            prompt, info = env.reset(seed=it.seed, options={"index": problem})
            messages = info.get("messages")
            text, stop_reason, num_tokens = self._response(prompt, messages, _seed(it, problem, number))
            verdict = verdict_of(env, text, f"{it.label}, problem {problem}")
        return Answer(text, verdict.outcome, verdict.reward, verdict.answer, stop_reason, num_tokens)

    def _response(self, prompt: str, messages: Any, seed: int) -> tuple[str, str, int]:
        """Returns one response, why it ended, and its number of tokens."""
        config = self._config
        body: dict[str, Any] = {
            "model": self.name, "temperature": config.evaluation.temperature, "top_p": 1.0, "seed": seed,
            "max_tokens": config.env_runners.max_response_tokens, **self._candidate.request,
        }  # fmt: skip
        if config.env_runners.stop:
            body["stop"] = list(config.env_runners.stop)
        path = "/v1/completions" if messages is None else "/v1/chat/completions"
        body |= {"prompt": prompt} if messages is None else {"messages": list(messages)}
        answer = self._server.post(path, body, deadline=self._deadline())
        try:
            choice = answer["choices"][0]
            text = choice["text"] if messages is None else _spoken(choice["message"])
            if not isinstance(text, str):
                raise TypeError
            num_tokens = int(answer["usage"]["completion_tokens"])
            reason = "length" if choice.get("finish_reason") == "length" else "stop"
        except (KeyError, IndexError, TypeError, ValueError):
            raise ServerError(f"{self._server.url}{path} returned no completion: {str(answer)[:200]}") from None
        return text, reason, num_tokens


def _spoken(message: dict[str, Any]) -> str:
    """Returns a chat's message as the model wrote it, with the thought that the server has taken out of it."""
    content = message.get("content") or ""
    thought = next((message[key] for key in THOUGHT_KEYS if message.get(key)), None)
    return content if thought is None else f"<think>\n{thought}\n</think>\n\n{content}"


def _seed(it: EvaluationSet, problem: int, number: int) -> int:
    """Returns the seed of one response, which follows from the set, the problem and the response's number."""
    digest = hashlib.sha256(f"{it.seed}/{it.label}/{problem}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
