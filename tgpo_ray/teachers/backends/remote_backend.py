"""A served teacher, which is an OpenAI-compatible server that returns prompt log-probs by token id.

The dialect is vLLM's. `/v1/completions` takes token ids as the prompt. `prompt_logprobs=k` returns the log-prob of each
id and those of the k best. Servers that only know `echo=true, logprobs=k` return token *strings*. A string does not
identify its id (byte pieces, special tokens), so these servers do not work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from tgpo_ray.models import Completion, EngineSpec, Sampling, Scores, ScoringRequest, Want, load_tokenizer
from tgpo_ray.teachers.backends.json_server import JsonServer, ServerError
from tgpo_ray.teachers.spec import ServerSpec

PROBE = "Let 3x + 12 = 48; then x = 12.\né 日本 \\boxed{12}"
WRITING_TIMEOUTS = 10  # a response takes one pass a token, a score one in all
MINUS_INFINITY = -9999.0  # vLLM's server writes this number: JSON has no infinity
# The server takes each of these from the model's folder where a request leaves it out.
PLAIN_SAMPLING = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class RemoteBackend:
    """A backend that scores through `/v1/completions`, with several requests in flight.

    The tokenizer is loaded from `spec.tokenizer` or `spec.model`.

    Args:
        spec: `max_num_seqs` bounds the requests in flight. Fields about a model in this process are ignored.

    Raises:
        ValueError: the server has no such model, another tokenizer, or no prompt log-probs.
        ServerError: the server does not answer.
    """

    def __init__(self, spec: EngineSpec, server: ServerSpec) -> None:
        self._timeout_s = server.timeout_s
        self._server = JsonServer(server.url, api_key_env=server.api_key_env, num_connections=spec.max_num_seqs)
        self._threads = ThreadPoolExecutor(spec.max_num_seqs, thread_name_prefix="served-teacher")
        self.tokenizer: Any = load_tokenizer(
            spec.tokenizer or spec.model,
            trust_remote_code=spec.trust_remote_code,
            chat_template_kwargs=spec.chat_template_kwargs,
        )
        try:
            self._model = self._served_model(server.served_model, spec.model)
            self._check_vocabulary(spec.tokenizer or spec.model)
        except BaseException:
            self.stop()
            raise

    def _served_model(self, wanted: str | None, path: str) -> str:
        """Returns the name of the model at the server, after a check that the server has it."""
        answer = self._server.get("/v1/models", deadline=time.monotonic() + self._timeout_s)
        try:
            served = [str(card["id"]) for card in answer["data"]]
        except (KeyError, TypeError):
            raise ValueError(
                f"{self._server.url}/v1/models lists no models: is it an OpenAI-compatible server?"
            ) from None
        name = wanted or (served[0] if len(served) == 1 else path)
        if name not in served:
            raise ValueError(
                f"{self._server.url} has no model {name!r}, it serves {', '.join(served) or 'none'}: name one of them "
                "as `served_model`"
            )
        return name

    def _check_vocabulary(self, source: str) -> None:
        """Check that the server's tokenizer gives the same ids, and that its prompt log-probs name the ids sent.

        The first check is left out where the server has no `/tokenize`.
        """
        ids = self.tokenizer.encode(PROBE, add_special_tokens=False)
        deadline = time.monotonic() + self._timeout_s
        try:
            body = {"model": self._model, "prompt": PROBE, "add_special_tokens": False}
            theirs = self._server.post("/tokenize", body, deadline=deadline).get("tokens")
        except ServerError as error:
            if error.status not in (404, 405, 501):
                raise
            theirs = None  # `/tokenize` is no part of OpenAI's interface
        if theirs is not None and theirs != ids:
            raise ValueError(
                f"{self._server.url} serves {self._model!r} with another tokenizer than {source!r} (it reads {PROBE!r} "
                f"as {theirs}, here it is {ids}): name the served model's own as `tokenizer`"
            )
        if len(ids) > 1:
            self.score([ScoringRequest(np.asarray(ids, np.int32), 1)], Want(argmax=True, logprob=True))

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        if want.sample or want.hidden:
            name = "sample" if want.sample else "hidden"
            raise ValueError(f"prompt_logprobs of a server do not give {name!r}: backends vllm and transformers do")
        deadline = time.monotonic() + self._timeout_s

        def scored(request: ScoringRequest) -> Scores:
            if request.first == len(request.ids):
                return parse_scores([], request.ids[:0], want)
            # the interface has no request without a new token, and an argmax needs the best one
            body = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": max(want.top_k, 1), **PLAIN_SAMPLING}
            (choice,) = self._complete(request.ids, body, deadline, num_choices=1)
            rows = choice.get("prompt_logprobs")
            if not isinstance(rows, list):
                raise ValueError(
                    f"{self._server.url} returned no prompt_logprobs: a served teacher has to speak vLLM's dialect of "
                    "/v1/completions (`echo` with token strings does not say which ids they are of)"
                )
            if len(rows) != len(request.ids):
                raise ServerError(
                    f"{self._server.url} returned {len(rows)} prompt_logprobs for {len(request.ids)} tokens"
                )
            return parse_scores(rows[request.first :], request.ids[request.first :], want)

        return self._in_flight(scored, requests)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        """Returns n responses to each prompt, in the served model's ids.

        Raises:
            ValueError: log-probs are wanted at another temperature or top_p than 1. The server's own setting decides
                whether it reports them before or after these.
        """
        if sampling.logprobs and (sampling.temperature not in (0.0, 1.0) or sampling.top_p < 1.0):
            raise ValueError(
                "log-probs of a served teacher need temperature 1.0 and top_p 1.0, got "
                f"{sampling.temperature:g} and {sampling.top_p:g}: the server decides whether it reports them before "
                "or after these"
            )
        draws = n if sampling.temperature > 0.0 else 1  # greedy responses are equal, and servers refuse n > 1
        body = {
            "max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p, "n": draws,
            "return_token_ids": True, "stop": list(sampling.stop), "include_stop_str_in_output": True,
            "logprobs": 0 if sampling.logprobs else None, **PLAIN_SAMPLING,
        }  # fmt: skip
        deadline = time.monotonic() + WRITING_TIMEOUTS * self._timeout_s

        def written(prompt: Sequence[int]) -> list[Completion]:
            choices = self._complete(prompt, body, deadline, num_choices=draws)
            completions = [parse_completion(choice, logprobs=sampling.logprobs) for choice in choices]
            return completions * (n // draws)

        return self._in_flight(written, prompts)

    def _complete(
        self, ids: Sequence[int] | np.ndarray, body: dict[str, Any], deadline: float, *, num_choices: int
    ) -> list[dict[str, Any]]:
        """Returns the choices of one `/v1/completions` request."""
        prompt = np.asarray(ids).tolist()
        answer = self._server.post(
            "/v1/completions", {"model": self._model, "prompt": prompt, **body}, deadline=deadline
        )
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != num_choices or not isinstance(choices[0], dict):
            raise ServerError(
                f"{self._server.url}/v1/completions returned no {num_choices} choices: {str(answer)[:200]}"
            )
        return choices

    def _in_flight(self, work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
        """Returns `work` of each item, in order. After an error no further item begins."""
        return list(self._threads.map(work, items))

    def stop(self) -> None:
        """Close the connections. A second call does nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._server.close()


def parse_scores(rows: Sequence[dict[str, Any]], ids: np.ndarray, want: Want) -> Scores:
    """Returns the scores of R tokens from the server's rows, {id as text: {"logprob": ..., "rank": ...}, ...}.

    Raises:
        ServerError: a row lacks its own token, has too few tokens, or has an invalid number.
    """
    width = max(want.top_k, 1)
    best_ids = np.empty((len(ids), width), np.int32)  # (R, k)
    best_logprobs = np.empty((len(ids), width), np.float32)
    logprobs = np.empty(len(ids), np.float32)  # (R,)
    for index, (row, own) in enumerate(zip(rows, ids.tolist(), strict=True)):
        entries = _entries(row)
        if own not in entries:
            raise ServerError(f"the server's prompt_logprobs do not name the token {own} that was sent, but {row}")
        # the server lists the token itself first at any rank; among equal log-probs the lower rank is better
        best = sorted(entries, key=lambda token: (-entries[token][0], entries[token][1]))[:width]
        if len(best) < width:
            raise ServerError(f"the server named {len(best)} tokens where {width} were asked for: {row}")
        logprobs[index] = entries[own][0]
        best_ids[index], best_logprobs[index] = best, [entries[token][0] for token in best]
    return Scores(
        argmax_ids=best_ids[:, 0] if want.argmax else None,
        logprobs=logprobs if want.logprob else None,
        topk_ids=best_ids if want.top_k else None,
        topk_logprobs=best_logprobs if want.top_k else None,
    )


def _entries(row: dict[str, Any]) -> dict[int, tuple[float, int]]:
    """Returns {id: (log-prob, rank)} of one row."""
    try:
        entries = {int(token): (float(entry["logprob"]), int(entry.get("rank") or 0)) for token, entry in row.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ServerError(f"the server's prompt_logprobs are not ids with log-probs: {str(row)[:200]}") from None
    for token, (logprob, _) in entries.items():
        if token < 0 or not MINUS_INFINITY < logprob < 0.01:  # false for NaN
            raise ServerError(f"the server gives token {token} the log-prob {logprob}")
    return entries


def parse_completion(choice: dict[str, Any], *, logprobs: bool) -> Completion:
    """Returns the response of one choice of a /v1/completions request with `return_token_ids`.

    Raises:
        ServerError: the choice has no ids, or not one log-prob for each id.
    """
    ids = choice.get("token_ids")
    if not isinstance(ids, list) or not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ServerError(f"the server returned no token_ids (vLLM's return_token_ids): {str(choice)[:200]}")
    values = (choice.get("logprobs") or {}).get("token_logprobs") if logprobs else None
    if logprobs and (not isinstance(values, list) or len(values) != len(ids) or not all(map(_is_finite, values))):
        raise ServerError(f"the server returned not one finite log-prob for each of {len(ids)} tokens: {values}")
    reason = choice.get("finish_reason")
    return Completion(
        np.asarray(ids, np.int32),
        None if values is None else np.asarray(values, np.float32),
        reason if reason in ("stop", "length") else "abort",
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
