"""Sample episodes of the first and the last recorded iteration."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .record import RunRecord, is_number

HEAD, TAIL = 1500, 700  # characters of a long text that are shown from its beginning and end


@dataclass(frozen=True)
class Response:
    """One response of a sample, with the verifier's reward and outcome."""

    text: str
    reward: float | None
    outcome: str

    @property
    def is_right(self) -> bool:
        return self.outcome == "correct"


def samples_section(run: RunRecord) -> str:
    """HTML of one run's samples, empty if there are none."""
    iterations = sorted({int(sample["iteration"]) for sample in run.samples})
    parts = []
    for iteration in dict.fromkeys(iterations[:1] + iterations[-1:]):
        sample = pick([sample for sample in run.samples if int(sample["iteration"]) == iteration])
        parts.append(_sample_html(run.label, sample))
    return "".join(parts)


def pick(samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first sample with a right and a wrong response, else the first with a right one, else the first."""

    def kinds(sample: Mapping[str, Any]) -> tuple[bool, bool]:
        rights = [response.is_right for response in responses(sample)]
        return len(set(rights)) == 2, any(rights)

    return max(samples, key=kinds)  # max returns the first of equals


def responses(sample: Mapping[str, Any]) -> list[Response]:
    """The sample's responses. A reward or an outcome that is missing from its list is unknown."""
    rewards, outcomes = sample.get("rewards", []), sample.get("outcomes", [])
    return [
        Response(
            text=str(text),
            reward=float(rewards[i]) if i < len(rewards) and is_number(rewards[i]) else None,
            outcome=str(outcomes[i]) if i < len(outcomes) else "unknown",
        )
        for i, text in enumerate(sample.get("responses", []))
    ]


def _sample_html(label: str, sample: Mapping[str, Any]) -> str:
    all_responses = responses(sample)
    num_right = sum(response.is_right for response in all_responses)
    right = next((response for response in all_responses if response.is_right), None)
    wrong = next((response for response in all_responses if not response.is_right), None)
    pair = "".join(_response_html(response) for response in (right, wrong) if response)
    phase = {"train": "training", "evaluation": "held-out"}.get(str(sample.get("phase")), str(sample.get("phase", "")))
    title = f"{label}, iteration {int(sample['iteration'])}"
    return (
        f'<div class="sample"><h3>{html.escape(title)} <span class="muted small">{html.escape(phase)}; '
        f"{num_right} of {len(all_responses)} right</span></h3>"
        f"<pre>{shorten(str(sample.get('prompt', '')))}</pre>"
        f'<div class="pair">{pair}</div></div>'
    )


def _response_html(response: Response) -> str:
    kind = "response right" if response.is_right else "response"
    reward = "reward unknown" if response.reward is None else f"reward {response.reward:g}"
    return (
        f'<div class="{kind}"><span class="badge">{html.escape(response.outcome)}</span> '
        f'<span class="muted small">{reward}, {len(response.text):,} characters</span>'
        f"<pre>{shorten(response.text)}</pre></div>"
    )


def shorten(text: str) -> str:
    """The escaped text. In a long one a count of characters replaces the middle."""
    if len(text) <= HEAD + TAIL:
        return html.escape(text)
    omitted = len(text) - HEAD - TAIL
    return f"{html.escape(text[:HEAD])}\n[... {omitted:,} characters left out ...]\n{html.escape(text[-TAIL:])}"
