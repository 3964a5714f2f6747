"""The page of tokens in a real browser: what is seen, the keyboard, light and dark, no network, and a run that goes."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import Browser, find_browser
from tests.core.reporting.token_episodes import PIECES, token_episode
from tgpo_ray.reporting import TokenFiles, WatchServer
from tgpo_ray.reporting.tokens import write_token_page
from tgpo_ray.reporting.tokens.visible import visible

pytestmark = pytest.mark.slow  # a browser takes seconds to start
LONG = 8192
GROUND = {"light": 245, "dark": 18}  # red of the page behind the cards


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on the path (set TGPO_RAY_BROWSER)")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two iterations, with an episode of the paper's length and one without a teacher."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    long = token_episode(iteration=20, ids=rng.integers(0, 19, LONG).tolist(), outcome="timeout", member=1)
    bare = token_episode(
        iteration=20, member=2, outcome="wrong", env="tgpo/Code-v0", teacher_ids=None, teacher_logprobs=None, gate=None
    )
    TokenFiles(folder).write(1, [token_episode()])
    TokenFiles(folder).write(20, [token_episode(iteration=20), long, bare])
    path = write_token_page(folder / "report_tokens.html", [("TGPO", folder)], title="Run", report="report.html")
    assert path is not None
    return path


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.messages.clear()
    browser.requests.clear()
    browser.call("Page.navigate", url="about:blank")
    browser.open(page.as_uri())
    return browser


def facts(browser: Browser) -> dict[str, str]:
    """What the panel says of the token."""
    return browser.value(
        "Object.fromEntries([...document.querySelectorAll('#word dt')].map(e => [e.textContent, "
        "e.nextElementSibling.textContent]))"
    )


def current(browser: Browser) -> int:
    return browser.value("[...document.querySelectorAll('#tokens span')].findIndex(e => e.matches('.current'))")


def pixels(browser: Browser, name: str, folder: Path) -> np.ndarray:
    """(height, width, 3) of a screenshot, which stays in TGPO_RAY_SCREENSHOTS where that is set."""
    data = browser.screenshot(Path(os.environ.get("TGPO_RAY_SCREENSHOTS", folder)) / f"{name}.png")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_every_token_is_seen_as_text_and_nothing_else_is_asked_for(opened: Browser, page: Path) -> None:
    texts = opened.value("[...document.querySelectorAll('#tokens span')].map(e => e.textContent)")
    assert texts == [visible(piece).replace("\ud800", "?") for piece in PIECES.values() if piece != "\ud800"] + ["?"]
    assert opened.requests == [page.as_uri()] and opened.messages == []
    assert opened.value("document.querySelectorAll('#tokens span *').length") == 0
    kinds = opened.value("[...document.querySelectorAll('#tokens span')].map(e => e.classList[0])")
    assert kinds[:7] == ["agree", "agree", "differ", "agree", "agree", "differ", "unmapped"]


def test_the_pages_own_rules_hold_a_script_that_got_in(opened: Browser) -> None:
    opened.value("(() => { const s = document.createElement('script'); s.textContent = 'window.broken = 1';"
                 "document.body.append(s); })()")  # fmt: skip
    opened.value("new Promise(done => { const i = new Image(); i.onerror = i.onload = () => done(1);"
                 "i.src = 'http://127.0.0.1:9/x'; })")  # fmt: skip
    assert opened.value("window.broken === undefined")
    assert any("Content Security Policy" in text for text in opened.messages)


def test_hover_shows_the_teachers_word_and_leaving_the_chosen_tokens(opened: Browser) -> None:
    opened.move("#t2")
    found = facts(opened)
    assert found["Token"].startswith("␣answer 3 of 19, id 2")
    assert found["Teacher's word"].startswith("⏎⏎ another, id 3")
    # log pi_T - log pi = -4.5 sin(2) = -4.09; pi = exp(-0.7) = 0.497, pi_T = exp(-4.79) = 0.0083
    assert found["Log-ratio"].startswith("\u22124.09 nats: the teacher gives this token 0.0083")
    assert found["Gate"] == "0.5, weight of the teacher's word 0.002"
    assert found["Advantage"] == "+0.875, at this token +0.688"
    opened.move("h1")
    assert facts(opened)["Token"].startswith("<script>alert(1)</script> 1 of 19")
    opened.move("#t6")
    assert facts(opened)["Teacher's word"] == "the teacher's word is no token of the policy's vocabulary"


def test_everything_is_reached_with_the_keyboard(opened: Browser) -> None:
    order = []
    for _ in range(14):
        opened.press("Tab")
        order.append(opened.value("document.activeElement.id || document.activeElement.tagName"))
    wanted = ["run", "env", "outcome", "iteration", "list", "mode-agreement", "mode-ratio", "mode-gate", "tokens"]
    assert [name for name in order if name in wanted] == wanted
    opened.value("document.getElementById('tokens').focus()")
    for key, place in (("ArrowRight", 1), ("End", 18), ("ArrowLeft", 17), ("Home", 0), ("ArrowLeft", 0)):
        opened.press(key)
        assert current(opened) == place, key
    opened.press("n")
    assert current(opened) == 2 and facts(opened)["Token"].startswith("␣answer")
    opened.press("n")
    opened.press("p")
    assert current(opened) == 2
    opened.press("ArrowDown")
    down = current(opened)
    top = "document.querySelector('#t%d').getClientRects()[0].top"
    assert opened.value(f"{top % down} > {top % 2}")
    opened.press("ArrowUp")
    assert opened.value(f"{top % current(opened)} === {top % 2}")
    active = opened.value("document.getElementById('tokens').getAttribute('aria-activedescendant')")
    assert active == f"t{current(opened)}"


def test_colours_change_with_a_key_and_modes_without_data_are_off(opened: Browser) -> None:
    for key, mode in (("2", "ratio"), ("3", "gate"), ("4", "advantage"), ("1", "agreement")):
        opened.press(key)
        assert opened.value(f"document.getElementById('mode-{mode}').getAttribute('aria-pressed')") == "true"
    opened.press("2")
    # -4.5 sin(i): 0, -3.8, -4.1, -0.6, +3.4
    first = "[...document.querySelectorAll('#tokens span')].slice(0, 5).map(e => e.classList[0] || '')"
    assert opened.value(first) == ["current", "down4", "down4", "down2", "up4"]
    opened.press("j")
    opened.press("j")
    opened.wait_for("document.getElementById('title').textContent.includes('Code-v0')")
    off = "[...document.querySelectorAll('.modes button')].filter(e => e.disabled).map(e => e.id)"
    assert opened.value(off) == ["mode-agreement", "mode-ratio", "mode-gate"]
    assert facts(opened)["Teacher's word"] == "no teacher was asked here"


def test_environment_and_outcome_filter_the_list(opened: Browser) -> None:
    def choose(name: str, value: str) -> int:
        opened.value(f"(() => {{ const s = document.getElementById('{name}'); s.value = '{value}';"
                     "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
        return opened.value("document.querySelectorAll('#list li').length")

    assert choose("env", "") == 4
    assert choose("env", "tgpo/Code-v0") == 1
    opened.wait_for("document.getElementById('title').textContent.includes('Code-v0')")
    assert choose("outcome", "correct") == 0
    assert choose("env", "") == 2 and choose("iteration", "1") == 1
    assert opened.value("document.getElementById('count').textContent") == "1 of 4 episodes"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(opened: Browser, scheme: str, tmp_path: Path) -> None:
    opened.prefer(scheme)
    picture = pixels(opened, f"tokens-{scheme}", tmp_path)
    assert abs(int(picture[5, 5, 0]) - GROUND[scheme]) <= 2  # the page's ground
    background, ink = opened.value(
        "[...document.querySelectorAll('.differ')].slice(0, 1).flatMap(e => [getComputedStyle(e).backgroundColor,"
        "getComputedStyle(e).color])"
    )
    assert background.startswith("rgba(213, 94, 0" if scheme == "light" else "rgba(255, 150, 80")
    assert ink == ("rgb(31, 36, 48)" if scheme == "light" else "rgb(230, 232, 236)")
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    greenish, orange = (green > red + 12) & (green > blue), (red > green + 25) & (green > blue + 5)
    assert greenish.sum() > 500 and orange.sum() > 200  # tokens of both kinds are on the picture
    opened.prefer("light")


def test_an_episode_of_8192_tokens_is_drawn_and_walked_through(opened: Browser, tmp_path: Path) -> None:
    opened.press("j")
    opened.wait_for(f"document.querySelectorAll('#tokens span').length === {LONG}")
    opened.value("document.getElementById('tokens').focus()")
    opened.press("End")
    assert current(opened) == LONG - 1
    assert opened.value("document.getElementById('tokens').scrollTop") > 1000
    milliseconds = opened.value("(() => { const t = performance.now(); document.getElementById('mode-ratio').click();"
                                "document.body.offsetHeight; return performance.now() - t; })()")  # fmt: skip
    assert milliseconds < 5000
    pixels(opened, "tokens-long", tmp_path)


def test_an_address_names_an_episode_and_a_token(opened: Browser, page: Path) -> None:
    opened.press("k")
    opened.value("document.getElementById('tokens').focus()")
    opened.press("n")
    address = opened.value("location.href")
    opened.call("Page.navigate", url="about:blank")
    opened.open(address)
    assert current(opened) == 2


def test_a_narrow_window_has_no_sideways_scroll(opened: Browser) -> None:
    opened.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    assert opened.value("document.documentElement.scrollWidth") <= 390
    opened.call("Emulation.clearDeviceMetricsOverride")


def test_new_episodes_of_a_run_that_goes_appear_by_themselves(browser: Browser, tmp_path: Path) -> None:
    report = ["<!DOCTYPE html><main><h1>one</h1></main></body>"]
    (tmp_path / "metrics.jsonl").write_text("")
    server = WatchServer([("TGPO", tmp_path)], lambda: report[0], title="Run", clock=iter(range(0, 10**6, 60)).__next__)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        browser.messages.clear()
        browser.requests.clear()
        browser.open(server.url + "tokens")
        browser.wait_for("document.getElementById('status').textContent === 'live: no episode yet'")
        TokenFiles(tmp_path).write(1, [token_episode()])
        browser.wait_for("document.querySelectorAll('#tokens span').length === 19")
        browser.move("#follow", click=True)
        TokenFiles(tmp_path).write(2, [token_episode(iteration=2)])
        browser.wait_for("document.getElementById('title').textContent.includes('iteration 2')")
        assert {url.rpartition("/")[0] + "/" for url in browser.requests} == {server.url}
        assert browser.messages == []
        browser.call("Page.navigate", url=server.url)
        browser.wait_for("document.querySelector('h1').textContent === 'one'")
        report[0] = report[0].replace("one", "two")
        (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n')
        browser.wait_for("document.querySelector('h1').textContent === 'two'")
        browser.open(server.url + "tokens")
    finally:
        server.close()
        thread.join()
    browser.wait_for("document.getElementById('status').textContent.startsWith('the server has ended')")
    assert browser.value("document.querySelectorAll('#tokens span').length") == 19
