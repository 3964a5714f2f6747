"""The page of tokens: nothing of a model is read as HTML, nothing hides, nothing is loaded, and sizes are bounded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.reporting.token_episodes import PIECES, token_episode
from tgpo_ray.reporting.metrics import JsonlWriter
from tgpo_ray.reporting.report import distinct, write_reports
from tgpo_ray.reporting.tokens import TokenFiles, entry_of, read_rows, token_page, write_token_page
from tgpo_ray.reporting.tokens import page as page_module
from tgpo_ray.reporting.tokens.records import MAX_PROMPT, MAX_TOKENS
from tgpo_ray.reporting.tokens.visible import MAX_SHOWN, visible


class Page(HTMLParser):
    """The texts of a page's script and style elements, its tags, and every attribute value."""

    def __init__(self, text: str):
        super().__init__()
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.data: dict[str, Any] = {}
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._open: tuple[str, dict[str, str]] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._open = (tag, {name: value or "" for name, value in attrs})

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open is None or self._open[0] not in self.inside:
            return
        if self._open[1].get("type") == "application/json":
            self.data[self._open[1]["id"]] = json.loads(data)
        else:
            self.inside[self._open[0]].append(data)


def written(folder: Path, **fields: Any) -> Page:
    TokenFiles(folder).write(1, [token_episode(**fields)])
    path = write_token_page(folder / "page.html", [("TGPO", folder)], title="Run")
    assert path is not None
    return Page(path.read_text("utf-8"))


# ---- the text of a token


@pytest.mark.parametrize(
    ("piece", "seen"),
    [
        (" the", " the"),
        ("a\n\nb", "a⏎\n⏎\nb"),
        ("\r\t\x07\x7f", "␍⇥\t␇␡"),
        ("\u202eabc\u2066", "⟨U+202E⟩abc⟨U+2066⟩"),
        ("\u200b\u00a0\u2028\ufeff", "⟨U+200B⟩⟨U+00A0⟩⟨U+2028⟩⟨U+FEFF⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\u0301x", "◌\u0301x"),
        ("e\u0301", "e\u0301"),
        ("<b>&amp;", "<b>&amp;"),  # the page writes text nodes: what is escaped here would be seen twice
        ({"bytes": "e282"}, "⟨E2 82⟩"),
        ({"special": "<|im_end|>"}, "<|im_end|>"),
        ("שלום 你好", "שלום 你好"),
        ("", ""),
    ],
)
def test_nothing_in_a_token_hides(piece, seen):
    assert visible(piece) == seen


def test_a_long_token_is_cut():
    assert visible("x" * 5000) == "x" * MAX_SHOWN + "…"
    assert len(visible({"bytes": "ff" * 5000})) < MAX_SHOWN + 3


# ---- the files


def test_an_episode_is_read_back_as_it_was_written(tmp_path):
    episode = token_episode(teacher_logprobs=np.array([-0.123456, np.nan, *[-1.0] * 17]))
    TokenFiles(tmp_path).write(20, [episode, token_episode(member=1)])
    first, second = read_rows(tmp_path / "tokens" / "000020.jsonl")
    assert (first["ids"], first["origin"]) == (list(PIECES), "1" * len(PIECES))
    assert episode.teacher_ids is not None and first["teacher_ids"] == episode.teacher_ids.tolist()
    assert first["teacher_logprobs"][:2] == [-0.1235, None]
    assert first["pieces"]["5"] == {"bytes": "e282"} and first["pieces"]["4"] == "\u202eturned"
    assert (second["member"], first["num_tokens"]) == (1, len(PIECES))
    assert not list((tmp_path / "tokens").glob("*.tmp"))


def test_only_the_pieces_that_occur_are_kept(tmp_path):
    row = token_episode(ids=[1, 2], teacher_ids=np.array([1, 14])).row()
    assert set(row["pieces"]) == {"1", "2", "14"}
    assert token_episode(ids=[1], teacher_ids=None).row()["teacher_ids"] is None


def test_a_long_episode_is_cut_and_says_so():
    length = MAX_TOKENS + 5
    row = token_episode(ids=[1] * length, prompt="p" * (MAX_PROMPT + 1)).row()
    assert {len(row[name]) for name in ("ids", "origin", "teacher_ids", "logprobs", "gate")} == {MAX_TOKENS}
    assert (row["num_tokens"], len(row["prompt"])) == (length, MAX_PROMPT)


def test_files_of_taken_back_iterations_go(tmp_path):
    files = TokenFiles(tmp_path)
    for iteration in (1, 20, 40):
        files.write(iteration, [token_episode(iteration=iteration)])
    files.truncate_after(20)
    assert [iteration for iteration, _ in files.paths()] == [1, 20]
    files.write(20, [])
    assert [iteration for iteration, _ in files.paths()] == [1]


@pytest.mark.parametrize("line", ["{", "[]", '{"iteration": 1}'])
def test_a_damaged_file_is_named(tmp_path, line):
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"x\.jsonl, line 1: every line must be an episode"):
        read_rows(tmp_path / "x.jsonl")


# ---- the page


def test_no_text_of_a_model_ends_an_element_or_becomes_one(tmp_path):
    bad = "</script><script>alert(1)</script><!-- <b> \u2028"
    page = written(tmp_path, env=bad, outcome=bad, prompt=bad, stop_reason=bad, pieces=dict.fromkeys(PIECES, bad))
    plain = written(tmp_path)
    assert page.tags == plain.tags and len(page.inside["script"]) == 1
    assert page.data["index"][0]["env"] == bad
    assert page.data["episode-0"]["pieces"]["1"]["text"].startswith("</script><script>alert(1)")


def test_titles_and_addresses_are_escaped(tmp_path):
    text = token_page('<i>"&', [], report='"><script>')
    assert "<i>" not in text and '"><script>' not in text and "&lt;i&gt;&quot;&amp;" in text


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path):
    page = written(tmp_path)
    assert not {"img", "iframe", "object", "base", "form action"} & set(page.tags)
    assert all(value in ("data:,", "#") for name, value in page.attributes if name in {"href", "src"})
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    rules = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in rules and "connect-src" not in rules and "unsafe" not in rules
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inside[name][0].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in rules
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|new Function)\b",
                         page.inside["script"][0])  # fmt: skip
    assert "connect-src 'self'" in token_page("x", None)


def test_the_newest_iteration_comes_first_and_agreement_is_counted(tmp_path):
    for iteration in (1, 20):
        TokenFiles(tmp_path).write(iteration, [token_episode(iteration=iteration)])
    path = write_token_page(tmp_path / "page.html", [("TGPO", tmp_path)], title="Run")
    assert path is not None
    entries = Page(path.read_text("utf-8")).data["index"]
    assert [entry["key"] for entry in entries] == ["TGPO/20/0", "TGPO/1/0"]
    # 19 places: 2 have no word (6, 13), of the other 17 the 6 with i % 3 == 2 differ (2, 5, 8, 11, 14, 17)
    assert entries[0]["agreed"] == pytest.approx(11 / 17)
    assert entry_of("x", 0, token_episode(teacher_ids=None).row())["agreed"] is None


def test_only_the_policys_tokens_count_for_agreement():
    origin = np.array([1, 0, 2], np.uint8)
    episode = token_episode(ids=[1, 2, 3], teacher_ids=np.array([1, 9, 9]), origin=origin)
    assert entry_of("x", 0, episode.row())["agreed"] == 1.0


def test_a_page_has_a_largest_size_and_says_what_it_left_out(tmp_path, monkeypatch):
    for iteration in range(1, 5):
        TokenFiles(tmp_path).write(iteration, [token_episode(iteration=iteration)])
    monkeypatch.setattr(page_module, "MAX_PAGE_BYTES", 4_000)
    path = write_token_page(tmp_path / "page.html", [("TGPO", tmp_path)], title="Run")
    assert path is not None
    text = path.read_text("utf-8")
    kept = [entry["iteration"] for entry in Page(text).data["index"]]
    assert 0 < len(kept) < 4 and kept[0] == 4
    assert f"{4 - len(kept)} older episodes are left out" in text


def test_the_papers_longest_episode_stays_small():
    """8,192 tokens with all their numbers, as one of the few of an iteration."""
    length, rng = 8192, np.random.default_rng(0)
    row = token_episode(ids=rng.integers(0, 19, length).tolist()).row()
    assert len(json.dumps(row)) < 60 * length
    assert len(page_module.in_html(page_module.shown(row))) < 60 * length


def test_a_run_without_token_episodes_has_no_such_page(tmp_path):
    assert write_token_page(tmp_path / "page.html", [("TGPO", tmp_path)], title="Run") is None
    assert not (tmp_path / "page.html").exists()


# ---- beside the report


def run_folder(folder: Path, algorithm: str = "TGPO") -> Path:
    writer = JsonlWriter(folder / "metrics.jsonl")
    writer.write(1, {"reward": 0.5})
    writer.close()
    (folder / "config.yaml").write_text(f"algorithm: {algorithm}\n")
    return folder


def test_the_report_leads_to_the_tokens_and_back(tmp_path, monkeypatch):
    monkeypatch.setattr("tgpo_ray.reporting.report.page._plots", lambda runs: "")
    folder = run_folder(tmp_path / "run")
    assert write_reports(tmp_path / "report.html", [folder]) == [tmp_path / "report.html"]
    assert "href" not in (tmp_path / "report.html").read_text()
    TokenFiles(folder).write(1, [token_episode()])
    paths = write_reports(tmp_path / "report.html", [folder])
    assert [path.name for path in paths] == ["report.html", "report_tokens.html"]
    assert 'href="report_tokens.html"' in paths[0].read_text()
    assert 'href="report.html"' in paths[1].read_text()


def test_runs_of_one_name_are_told_apart(tmp_path):
    assert distinct(["A", "B"], [Path("x"), Path("y")]) == ["A", "B"]
    assert distinct(["A", "A"], [tmp_path / "x", tmp_path / "y"]) == ["A (x)", "A (y)"]
    assert distinct(["A", "A"], [tmp_path / "x", tmp_path / "b" / "x"]) == ["A (x) 1", "A (x) 2"]


def test_numbers_that_are_no_numbers_become_null():
    row = replace(token_episode(), advantage=float("nan"), reward=float("inf")).row()
    assert (row["advantage"], row["reward"]) == (None, None)
