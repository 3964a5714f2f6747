"""Writes the tables of docs/metrics.md from the names of metrics in `tgpo_ray/reporting/`.

python docs/generate_metrics.py            writes them
python docs/generate_metrics.py --check    exits 1 if the page is not up to date
"""

from __future__ import annotations

from pathlib import Path

from generated import with_part, write_or_check

from tgpo_ray.reporting import METRICS

PAGE = Path(__file__).with_name("metrics.md")
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


def main() -> None:
    tables = "\n\n".join("\n".join([f"### {heading}", "", *table(names)]) for heading, names in groups().items())
    script = Path(__file__).name
    write_or_check({PAGE: with_part(PAGE, script, tables)}, script)


if __name__ == "__main__":
    main()
