"""The page of tokens: its frame, and its data either embedded or left to a server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from .records import TokenFiles, read_rows
from .visible import visible

MAX_PAGE_BYTES = 32 * 2**20  # of embedded episodes; a page of this size opens in a second or two
ORIGIN_POLICY = "1"
FILTERS = {"run": "Run", "env": "Environment", "outcome": "Outcome", "iteration": "Iteration"}
MODES = {"agreement": "Agreement", "ratio": "Log-ratio", "gate": "Gate", "advantage": "Advantage"}
KEYS = (
    ("← → ↑ ↓", "token"), ("Home End", "ends"), ("n p", "next, previous disagreement"), ("j k", "episode"),
    ("1 2 3 4", "colours"),
)  # fmt: skip


def write_token_page(
    path: str | os.PathLike[str], folders: Sequence[tuple[str, str | os.PathLike[str]]], *, title: str, report: str = ""
) -> Path | None:
    """Returns the path of a self-contained page of the runs' episodes after writing it, or None where there are none.

    Args:
        folders: (label, the run's folder). No two labels are alike.
        report: address of the report from the page.

    Raises:
        ValueError: a file of episodes is unreadable.
    """
    path = Path(path)
    files = newest_first([(label, *found) for label, folder in folders for found in TokenFiles(folder).paths()])
    if not files:
        path.unlink(missing_ok=True)  # of an earlier report
        return None
    # one file at a time, because a run that keeps many is larger than memory
    episodes = ((label, number, row) for label, _, file in files for number, row in enumerate(read_rows(file)))
    text = token_page(title, episodes, report=report)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


def newest_first(files: Sequence[tuple[str, int, Path]]) -> list[tuple[str, int, Path]]:
    """(label, iteration, file) by falling iteration; runs keep their order."""
    return sorted(files, key=lambda file: -file[1])


def entry_of(label: str, number: int, row: dict[str, Any], stamp: str = "") -> dict[str, Any]:
    """What the list of episodes says of one.

    Args:
        number: of the episode in its iteration's file.
        stamp: changes when the file does.
    """
    asked = [
        (token, word)
        for token, word, origin in zip(row["ids"], row.get("teacher_ids") or (), row["origin"], strict=False)
        if word is not None and word >= 0 and origin == ORIGIN_POLICY
    ]
    known = ("iteration", "env", "outcome", "problem_index", "advantage", "num_tokens", "reward")
    return {name: row.get(name) for name in known} | {
        "run": label,
        "key": f"{label}/{row['iteration']}/{number}",
        "stamp": stamp,
        "agreed": sum(token == word for token, word in asked) / len(asked) if asked else None,
    }


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """The episode as the page draws it: every text of a token made visible."""
    pieces = {
        name: {"text": visible(piece), "special": not isinstance(piece, str)} for name, piece in row["pieces"].items()
    }
    prompt = "".join(visible(character) if character not in "\n\t" else character for character in row["prompt"])
    return row | {"pieces": pieces, "prompt": prompt}


def token_page(title: str, episodes: Iterable[tuple[str, int, dict[str, Any]]] | None, *, report: str = "") -> str:
    """The page with these (label, number in its file, episode), as many as fit; None: it asks its server for them.

    Args:
        report: address of the report from the page.
    """
    is_live = episodes is None
    data, num_left_out = ("", 0) if episodes is None else _embedded(episodes)
    notes = ["What the teacher thought of every token that the policy wrote."]
    if num_left_out:
        notes.append(f"{num_left_out:,} older episodes are left out: <code>tgpo-ray report --watch</code> has them.")
    if report:
        notes.append(f'<a href="{html.escape(report)}">The report</a>.')
    return f"""<!DOCTYPE html>
<html lang="en" data-live="{"yes" if is_live else "no"}"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(is_live=is_live)}">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<title>{html.escape(title)}: tokens</title><style>{_file("page.css")}</style></head>
<body><main>
<h1>{html.escape(title)}</h1>
<p class="muted small">{" ".join(notes)} <span id="status" role="status"></span></p>
<form class="bar" aria-label="Filters">{_filters(is_live=is_live)}</form>
<div class="grid">
<ol id="list" class="card" role="listbox" tabindex="0" aria-label="Episodes"></ol>
<section class="card" aria-label="Episode"><div class="head"><h2 id="title">No episode</h2>
<p id="facts" class="muted small"></p><div class="modes" role="group" aria-label="Colours">{_modes()}</div></div>
<div id="legend" class="legend" aria-label="Legend"></div>
<details><summary>Prompt</summary><pre id="prompt"></pre></details>
<div id="tokens" role="listbox" tabindex="0" aria-label="Tokens of the response"></div>
<div id="word" role="status" aria-live="polite" aria-label="The token"><dl id="facts-of-token"></dl></div></section>
</div>
<p class="muted small">Keys: {_keys()}</p>
<noscript><p>This page draws its tokens with a script of its own, which this browser does not run.</p></noscript>
</main>{data}<script>{_file("page.js")}</script></body></html>
"""


def policy(*, is_live: bool) -> str:
    """The page's own rules for its browser: its one script, its one style sheet, its server, and nothing else."""
    script, style = (_digest(_file(name)) for name in ("page.js", "page.css"))
    own_server = " connect-src 'self';" if is_live else ""
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:;{own_server} "
        "base-uri 'none'; form-action 'none'"
    )


def in_html(value: Any) -> str:
    """JSON that may stand in a `<script>` element: no character of it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _embedded(episodes: Iterable[tuple[str, int, dict[str, Any]]]) -> tuple[str, int]:
    """Script elements of data, the list and then the episodes as far as they fit, and the number of the others."""
    entries: list[dict[str, Any]] = []
    texts: list[str] = []
    size = num_left_out = 0
    for label, number, row in episodes:
        text = "" if num_left_out else in_html(shown(row))
        size += len(text)
        if num_left_out or (texts and size > MAX_PAGE_BYTES):
            num_left_out += 1
            continue
        entries.append(entry_of(label, number, row) | {"number": len(texts)})
        texts.append(f'<script type="application/json" id="episode-{len(texts)}">{text}</script>')
    index = f'<script type="application/json" id="index">{in_html(entries)}</script>'
    return "\n".join([index, *texts]), num_left_out


def _filters(*, is_live: bool) -> str:
    selects = "".join(f'<label>{text}<select id="{name}"></select></label>' for name, text in FILTERS.items())
    hidden = "" if is_live else " hidden"
    follow = f'<label class="inline"{hidden}><input type="checkbox" id="follow">show the newest</label>'
    return f'{selects}{follow}<span id="count" class="muted small" role="status"></span>'


def _modes() -> str:
    return "".join(
        f'<button type="button" id="mode-{name}" aria-pressed="false">{text}</button>' for name, text in MODES.items()
    )


def _keys() -> str:
    return ", ".join(f"<kbd>{keys}</kbd> {text}" for keys, text in KEYS)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _file(name: str) -> str:
    return (resources.files(__package__ or "") / name).read_text(encoding="utf-8")
