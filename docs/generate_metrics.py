"""Writes the tables of docs/metrics.md from the names of metrics in `tgpo_ray/reporting/`.

python docs/generate_metrics.py            writes them
python docs/generate_metrics.py --check    exits 1 if the page is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from tgpo_ray.reporting import METRICS

PAGE = Path(__file__).with_name("metrics.md")
START, END = "<!-- generated: python docs/generate_metrics.py -->", "<!-- end of the generated part -->"
NO_PREFIX = "without a prefix"


def groups() -> dict[str, list[str]]:
    """Prefix -> its metrics, both in the order of METRICS."""
    names: dict[str, list[str]] = {}
    for name in METRICS:
        prefix, slash, _ = name.partition("/")
        names.setdefault(f"`{prefix}/`" if slash else NO_PREFIX, []).append(name)
    return names


def stretches(name: str) -> list[str]:
    """The stretches of a response for which METRICS has the metric too: `0-63`, `64-255`."""
    return [other.removeprefix(f"{name}/") for other in METRICS if other.startswith(f"{name}/")]


def table(names: list[str]) -> list[str]:
    """A row for each metric. Those of stretches share the row of the metric that they split."""
    rows = ["| metric | unit | |", "|---|---|---|"]
    for name in names:
        if name.rpartition("/")[0] in METRICS:
            continue
        entry, parts = METRICS[name], ", ".join(f"`{part}`" for part in stretches(name))
        meaning = f"{entry.meaning}; `{name}/<tokens>` is of response tokens {parts} only" if parts else entry.meaning
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{name}`", entry.unit, meaning)) + " |")
    return rows


def page_with_tables(page: str) -> str:
    before, rest = page.split(START)
    after = rest.split(END)[1]
    tables = "\n\n".join("\n".join([f"### {heading}", "", *table(names)]) for heading, names in groups().items())
    return f"{before}{START}\n\n{tables}\n\n{END}{after}"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    wanted = page_with_tables(page)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted, encoding="utf-8")
    elif page != wanted:
        sys.exit("docs/metrics.md differs from the names of metrics: run `python docs/generate_metrics.py`")


if __name__ == "__main__":
    main()
