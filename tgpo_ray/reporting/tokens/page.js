"use strict";
// Every text reaches the page as a text node: nothing of a model is ever read as HTML.
(() => {
  const byId = (id) => document.getElementById(id);
  const LIVE = document.documentElement.dataset.live === "yes";
  const POLL_MS = 2000;
  const KINDS = {
    agree: "the teacher would have written the same",
    differ: "the teacher would have written something else",
    unmapped: "the teacher's word is no token of the policy's vocabulary",
    unasked: "no teacher was asked here",
    trace: "written by the teacher",
    environment: "written by the environment or a tool",
  };
  const MODES = {
    agreement: { name: "Agreement", has: (e) => e.teacher_ids || e.origin.includes("2") },
    ratio: { name: "Log-ratio", has: (e) => e.teacher_logprobs && e.logprobs },
    gate: { name: "Gate", has: (e) => e.gate },
    advantage: { name: "Advantage", has: (e) => e.token_advantages },
  };
  const RATIO_STEPS = [0.1, 0.5, 1.5, 3]; // nats
  const state = { index: [], shown: [], key: null, episode: null, token: 0, mode: "agreement", spans: [], cache: new Map() };

  // ---- data: embedded in the page, or from the server that made it

  async function fetchJson(url) {
    const answer = await fetch(url, { cache: "no-cache", credentials: "omit" });
    if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
    return answer.json();
  }
  const loadIndex = async () => (LIVE ? fetchJson("index.json") : JSON.parse(byId("index").textContent));
  async function loadEpisode(entry) {
    const known = state.cache.get(entry.key);
    if (known && known.stamp === entry.stamp) return known.episode;
    const episode = LIVE
      ? await fetchJson(`episode.json?key=${encodeURIComponent(entry.key)}`)
      : JSON.parse(byId(`episode-${entry.number}`).textContent);
    if (state.cache.size > 40) state.cache.clear();
    state.cache.set(entry.key, { stamp: entry.stamp, episode });
    return episode;
  }

  // ---- small builders

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  const number = (value, digits = 3) =>
    value === null || value === undefined ? "unknown" : Number(value).toPrecision(digits).replace(/\.?0+$/, "").replace("-", "−");
  const signed = (value) => (value > 0 ? "+" : "") + number(value);
  const percent = (value) => `${Math.round(100 * value)} %`;
  const at = (values, i) => (values && values[i] !== undefined ? values[i] : null);

  // ---- the list of episodes and its filters

  const FILTERS = ["run", "env", "outcome", "iteration"];
  function fillFilters() {
    for (const name of FILTERS) {
      const select = byId(name);
      const values = [...new Set(state.index.map((entry) => String(entry[name])))];
      const wanted = select.value;
      if (select.options.length === values.length + 1) continue;
      select.replaceChildren(new Option(`all (${values.length})`, ""), ...values.map((value) => new Option(value, value)));
      select.value = values.includes(wanted) ? wanted : "";
    }
  }
  const matches = (entry) => FILTERS.every((name) => !byId(name).value || String(entry[name]) === byId(name).value);

  function drawList() {
    state.shown = state.index.filter(matches);
    byId("count").textContent = `${state.shown.length} of ${state.index.length} episodes`;
    byId("list").replaceChildren(...state.shown.map((entry) => {
      const item = make("li", null, entry.outcome === "correct" ? "correct" : "");
      item.id = `item-${entry.number}`;
      item.setAttribute("role", "option");
      item.append(make("b", `${entry.outcome}`), ` · iteration ${entry.iteration} · ${entry.env} #${entry.problem_index}`);
      const agreed = entry.agreed === null ? "no teacher's word" : `${percent(entry.agreed)} agreed`;
      const advantage = entry.advantage === null ? "" : ` · A ${signed(entry.advantage)}`;
      item.append(make("div", `${entry.num_tokens} tokens · ${agreed}${advantage}`, "muted small"));
      item.addEventListener("click", () => choose(entry.key));
      return item;
    }));
    markChosen();
  }
  function markChosen() {
    for (const [i, item] of [...byId("list").children].entries()) {
      const isChosen = state.shown[i].key === state.key;
      item.setAttribute("aria-selected", String(isChosen));
      if (!isChosen) continue;
      byId("list").setAttribute("aria-activedescendant", item.id);
      item.scrollIntoView({ block: "nearest" });
    }
  }
  function step(by) {
    const here = state.shown.findIndex((entry) => entry.key === state.key);
    const next = state.shown[Math.max(0, Math.min(state.shown.length - 1, here < 0 ? 0 : here + by))];
    if (next) choose(next.key);
  }

  // ---- one episode

  async function choose(key, token = 0) {
    const entry = state.index.find((it) => it.key === key);
    if (!entry) return;
    state.key = key;
    markChosen();
    let episode;
    try { episode = await loadEpisode(entry); } catch (error) { return say(`this episode could not be loaded: ${error.message}`); }
    if (state.key !== key) return; // another was chosen meanwhile
    state.episode = episode;
    drawHead(entry);
    drawTokens();
    select(Math.min(token, state.spans.length - 1), false);
  }
  function drawHead(entry) {
    const episode = state.episode;
    byId("title").textContent = `${entry.env} #${entry.problem_index}, iteration ${entry.iteration}: ${entry.outcome}`;
    const facts = [`reward ${number(episode.reward)}`, `advantage ${episode.advantage === null ? "unknown" : signed(episode.advantage)}`,
      `group ${episode.group}, episode ${episode.member}`, `weights ${episode.weights_version}`, `ended by ${episode.stop_reason}`,
      `w ${number(episode.guidance_weight)}`, state.episode.ids.length < episode.num_tokens
        ? `the first ${episode.ids.length} of ${episode.num_tokens} tokens` : `${episode.num_tokens} tokens`];
    byId("facts").textContent = facts.join(" · ");
    byId("prompt").textContent = episode.prompt;
    for (const [mode, { has }] of Object.entries(MODES)) byId(`mode-${mode}`).disabled = !has(episode);
    if (byId(`mode-${state.mode}`).disabled) state.mode = Object.keys(MODES).find((it) => MODES[it].has(episode)) || "agreement";
  }
  function kindOf(episode, i) {
    if (episode.origin[i] === "0") return "environment";
    if (episode.origin[i] === "2") return "trace";
    const word = at(episode.teacher_ids, i);
    if (word === null) return "unasked";
    return word < 0 ? "unmapped" : word === episode.ids[i] ? "agree" : "differ";
  }
  function ratioOf(episode, i) {
    const teacher = at(episode.teacher_logprobs, i), policy = at(episode.logprobs, i);
    return teacher === null || policy === null || kindOf(episode, i) === "environment" ? null : teacher - policy;
  }
  const bucket = (value, steps) => {
    const size = steps.filter((step) => Math.abs(value) >= step).length;
    return size === 0 ? "" : `${value > 0 ? "up" : "down"}${size}`;
  };
  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value || 0)), 0);
  function painter(episode) {
    if (state.mode === "agreement") return (i) => kindOf(episode, i);
    if (state.mode === "ratio") return (i) => { const ratio = ratioOf(episode, i); return ratio === null ? "" : bucket(ratio, RATIO_STEPS); };
    const values = state.mode === "gate" ? episode.gate : episode.token_advantages;
    const most = largest(values) || 1;
    const steps = [0.02, 0.25, 0.5, 0.75].map((share) => share * most);
    return (i) => (at(values, i) === null ? "" : bucket(values[i], steps));
  }
  function drawTokens() {
    const episode = state.episode;
    state.spans = episode.ids.map((id, i) => {
      const piece = episode.pieces[id] || { text: `⟨${id}⟩`, special: true };
      const span = make("span", piece.text);
      span.id = `t${i}`;
      span.dataset.special = piece.special ? "yes" : "";
      span.setAttribute("role", "option");
      return span;
    });
    byId("tokens").replaceChildren(...state.spans);
    paint();
  }
  function paint() {
    if (!state.episode) return;
    const colour = painter(state.episode);
    state.spans.forEach((span, i) => {
      const kind = kindOf(state.episode, i);
      const classes = [colour(i), kind === "environment" ? kind : "", span.dataset.special ? "special" : ""];
      span.className = [...new Set(classes)].filter(Boolean).join(" ") + (i === state.token ? " current" : "");
    });
    for (const mode of Object.keys(MODES)) byId(`mode-${mode}`).setAttribute("aria-pressed", String(mode === state.mode));
    drawLegend();
  }
  function drawLegend() {
    const entry = (className, text) => { const line = make("span"); line.append(make("i", "Aa", className), text); return line; };
    const lines = {
      agreement: () => ["agree", "differ", "unmapped", "trace"].filter((kind) => state.spans.some((_, i) => kindOf(state.episode, i) === kind))
        .map((kind) => entry(kind, KINDS[kind])),
      ratio: () => [entry("down4", "log-ratio ≤ −3: the teacher finds it far less likely"), entry("down2", "−0.5"), entry("up2", "+0.5"),
        entry("up4", "≥ +3: far likelier")],
      gate: () => [make("span", "no colour: the gate is shut"), entry("up2", "half open"), entry("up4", "open")],
      advantage: () => [entry("down4", "pushed down"), make("span", "no colour: nothing"), entry("up4", "pushed up")],
    };
    byId("legend").replaceChildren(...lines[state.mode]());
  }

  // ---- one token

  function select(i, isMoved = true) {
    if (i < 0 || i >= state.spans.length) return;
    if (state.spans[state.token]) state.spans[state.token].classList.remove("current");
    state.token = i;
    state.spans[i].classList.add("current");
    byId("tokens").setAttribute("aria-activedescendant", `t${i}`);
    if (isMoved) keepInSight(state.spans[i]);
    describe(i);
    history.replaceState(null, "", `#${encodeURIComponent(state.key)}:${i}`);
  }
  function keepInSight(span) {
    const box = byId("tokens"), top = span.offsetTop, bottom = top + span.offsetHeight;
    if (top < box.scrollTop + 8) box.scrollTop = top - 8;
    else if (bottom > box.scrollTop + box.clientHeight - 8) box.scrollTop = bottom - box.clientHeight + 8;
  }
  function describe(i) {
    const episode = state.episode, lines = [], kind = kindOf(episode, i);
    const wordOf = (id) => { const word = make("code", (episode.pieces[id] || { text: `⟨${id}⟩` }).text.replaceAll(" ", "␣").replaceAll("\n", "")); return word; };
    const add = (name, ...parts) => { const value = make("dd"); value.append(...parts); lines.push(make("dt", name), value); };
    add("Token", wordOf(episode.ids[i]), ` ${i + 1} of ${episode.num_tokens}, id ${episode.ids[i]}${kind === "trace" || kind === "environment" ? `, ${KINDS[kind]}` : ""}`);
    const word = at(episode.teacher_ids, i);
    if (word !== null && word >= 0) add("Teacher's word", wordOf(word), ` ${kind === "agree" ? "the same" : "another"}, id ${word}${at(episode.word_logprobs, i) === null ? "" : `, which it gives ${number(Math.exp(episode.word_logprobs[i]))}`}`);
    else add("Teacher's word", KINDS[kind]);
    const ratio = ratioOf(episode, i), share = (logprob) => `${number(Math.exp(logprob))}`;
    if (ratio !== null) add("Log-ratio", `${signed(ratio)} nats: the teacher gives this token ${share(episode.teacher_logprobs[i])}, the policy gave it ${share(episode.logprobs[i])}`);
    else if (at(episode.teacher_logprobs, i) !== null) add("Log-ratio", `the teacher gives this token ${share(episode.teacher_logprobs[i])}; the policy's share was not kept`);
    else add("Log-ratio", "the teacher gave no probability of this token");
    const gate = at(episode.gate, i), guidance = at(episode.token_guidance, i);
    add("Gate", gate === null ? "unknown" : number(gate), guidance === null ? "" : `, weight of the teacher's word ${number(guidance)}`);
    const token = at(episode.token_advantages, i);
    add("Advantage", episode.advantage === null ? "unknown" : signed(episode.advantage), token === null ? "" : `, at this token ${signed(token)}`);
    byId("facts-of-token").replaceChildren(...lines);
  }
  function otherLine(by) {
    const here = state.spans[state.token].getBoundingClientRect();
    let best = state.token, line = null;
    for (let i = state.token + by; i >= 0 && i < state.spans.length; i += by) {
      const box = state.spans[i].getBoundingClientRect();
      if (Math.abs(box.top - here.top) < 4) continue;
      if (line === null) line = box.top;
      if (Math.abs(box.top - line) >= 4) break;
      const distance = Math.abs(box.left - here.left);
      if (best === state.token || distance < Math.abs(state.spans[best].getBoundingClientRect().left - here.left)) best = i;
    }
    return best;
  }
  function nextDifference(by) {
    for (let i = state.token + by; i >= 0 && i < state.spans.length; i += by) if (kindOf(state.episode, i) === "differ") return i;
    return state.token;
  }

  // ---- mouse and keyboard

  const tokenOf = (event) => (event.target.parentElement === byId("tokens") ? Number(event.target.id.slice(1)) : null);
  byId("tokens").addEventListener("mouseover", (event) => { const i = tokenOf(event); if (i !== null) describe(i); });
  byId("tokens").addEventListener("mouseleave", () => state.episode && state.spans.length && describe(state.token));
  byId("tokens").addEventListener("click", (event) => { const i = tokenOf(event); if (i !== null) select(i); });
  byId("tokens").addEventListener("keydown", (event) => {
    if (!state.spans.length || event.ctrlKey || event.altKey || event.metaKey) return;
    const to = { ArrowRight: () => state.token + 1, ArrowLeft: () => state.token - 1, ArrowDown: () => otherLine(1),
      ArrowUp: () => otherLine(-1), Home: () => 0, End: () => state.spans.length - 1 }[event.key];
    if (!to) return;
    event.preventDefault();
    select(Math.max(0, Math.min(state.spans.length - 1, to())));
  });
  byId("list").addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, Home: -state.shown.length, End: state.shown.length }[event.key];
    if (!by || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    step(by);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.target.tagName === "INPUT" || event.ctrlKey || event.altKey || event.metaKey) return;
    const act = { j: () => step(1), k: () => step(-1), n: () => select(nextDifference(1)), p: () => select(nextDifference(-1)) }[event.key];
    const mode = Object.keys(MODES)[Number(event.key) - 1];
    if (mode && !byId(`mode-${mode}`).disabled) { state.mode = mode; paint(); } else if (act && (state.spans.length || "jk".includes(event.key))) act();
  });
  for (const mode of Object.keys(MODES)) byId(`mode-${mode}`).addEventListener("click", () => { state.mode = mode; paint(); });
  for (const name of FILTERS) byId(name).addEventListener("change", () => { drawList(); if (!state.shown.some((it) => it.key === state.key)) step(0); });

  // ---- the beginning, and new episodes while a run goes

  const say = (text) => { byId("status").textContent = text; };
  async function refresh() {
    const before = JSON.stringify(state.index.map((entry) => [entry.key, entry.stamp]));
    state.index = await loadIndex();
    if (before === JSON.stringify(state.index.map((entry) => [entry.key, entry.stamp]))) return;
    fillFilters();
    drawList();
    if (byId("follow").checked && LIVE && state.shown.length) await choose(state.shown[0].key);
    else if (state.key === null && state.shown.length) await choose(state.shown[0].key);
  }
  async function poll() {
    try { if (!document.hidden) { await refresh(); say(state.index.length ? "live" : "live: no episode yet"); } }
    catch (error) { say("the server has ended; what is here stays"); }
    setTimeout(poll, POLL_MS);
  }
  async function begin() {
    const [key, token] = location.hash.slice(1).split(":");
    await refresh();
    if (!state.index.length) say("no episodes");
    if (key) await choose(decodeURIComponent(key), Number(token) || 0);
    document.documentElement.dataset.ready = "yes";
    if (LIVE) poll();
  }
  begin().catch((error) => say(`the page could not be drawn: ${error.message}`));
})();
