"""The report's style sheet, which is light, readable on a phone and printable."""

CSS = """
:root { color-scheme: light; --ink: #1f2430; --muted: #5b6472; --line: #e2e5ea; --card: #fff; --right: #00694b;
  --wrong: #a94400; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f8; color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; font-size: 15px; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 18px 60px; }
h1 { font-size: 1.65rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 1.12rem; margin: 36px 0 12px; }
h3 { font-size: 0.95rem; margin: 0; font-weight: 600; }
h3 span { font-weight: 400; margin-left: 6px; }
.muted, figcaption span, .note { color: var(--muted); }
.small { font-size: 0.85rem; }
.conclusions { background: var(--card); border: 1px solid var(--line); border-left: 5px solid #0072B2;
  border-radius: 8px; padding: 14px 18px; margin: 20px 0; }
.conclusions p { margin: 0; }
.conclusions p:first-child { font-size: 1.12rem; font-weight: 600; }
.conclusions p + p { margin-top: 4px; color: var(--muted); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 14px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; font-size: 0.82rem; color: var(--muted); }
th:first-child, td:first-child, .left th, .left td { text-align: left; }
.left td { white-space: normal; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
.key { display: inline-block; vertical-align: middle; margin-right: 8px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 0 0 10px; font-size: 0.9rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; }
figure { margin: 0; padding: 12px 12px 6px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; display: flex; flex-direction: column; }
figure svg { width: 100%; height: auto; margin-top: auto; }
figcaption { padding: 0 4px 4px; font-size: 0.92rem; font-weight: 600; }
figcaption span { font-weight: 400; font-size: 0.82rem; margin-left: 6px; }
@media (min-width: 1000px) { .wide { grid-column: span 2; grid-row: span 2; } .wide figcaption { font-size: 1.02rem; } }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 12px; margin-top: 10px; }
.sample { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px;
  margin-bottom: 14px; }
.response { border: 1px solid var(--line); border-left: 4px solid var(--wrong); border-radius: 6px; padding: 8px 12px;
  min-width: 0; }
.response.right { border-left-color: var(--right); }
.badge { font-weight: 600; color: var(--wrong); font-size: 0.85rem; }
.right .badge { color: var(--right); }
pre { margin: 6px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.82rem; line-height: 1.45;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px;
  margin-bottom: 10px; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 520px) { main { padding: 18px 12px 40px; } th, td { padding: 8px 10px; }
  .plots { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } figure, .sample { break-inside: avoid; } }
"""
