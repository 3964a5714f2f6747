"""`tgpo-ray study`: variants and seeds of a run, compared on one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.studies import StudyConfig


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="YAML file of the study")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as seeds=[0,1] or set.training.lr=1e-4")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these; the page has what there is of all")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--plan", action="store_true", help="check every run and list them; start nothing")
    instead.add_argument("--page", action="store_true", help="write the page from what there is; start nothing")
    parser.add_argument("--retry", action="store_true", help="also go on with runs that have failed")


def study(options: argparse.Namespace) -> int:
    """Run variants x seeds of a run on Ray Tune, and compare them on one page; exits 1 where a run has not finished."""
    from tgpo_ray.studies import (
        configs,
        folder_of,
        load_study,
        outcomes,
        refuse_changed,
        run_study,
        unfinished,
        write_page,
    )

    names, behind = _apart(options.variants)
    whole = load_study(options.study, [*options.overrides, *behind])
    folder = folder_of(whole)
    if options.page:
        print(write_page(whole, outcomes(whole, str(folder)), _there(folder)))
        return 0
    part = _chosen(whole, names)
    if options.plan:
        return _list(part)
    made = configs(part, str(folder / "runs"))
    for config in made.values():
        config.check(files=False)
    refuse_changed(part, made, str(folder))
    run_study(part, made, whole=whole, retry=options.retry, say=lambda text: print(text, flush=True))
    found = outcomes(whole, str(folder))
    print(f"page: {write_page(whole, found, folder)}", flush=True)
    if left := unfinished(part, str(folder)):
        print(f"{len(left)} of {len(made)} runs are not finished: start the same command again to go on", flush=True)
    return int(bool(left) or any(outcome.trial.state == "failed" for outcome in found))


def _apart(words: list[str] | None) -> tuple[list[str] | None, list[str]]:
    """The names of variants, and the overrides that were written behind them."""
    if words is None:
        return None, []
    return [word for word in words if "=" not in word] or None, [word for word in words if "=" in word]


def _there(folder: Path) -> Path:
    """The study's folder, which must be there."""
    if not folder.is_dir():
        raise ValueError(f"--page: no such folder: {folder}; run the study first, without --page")
    return folder


def _chosen(whole: StudyConfig, names: list[str] | None) -> StudyConfig:
    """The study with these variants alone; the baseline need not be among them."""
    if names is None:
        return whole
    for name in names:
        if name not in whole.variants:
            raise ValueError(f"--variants: no variant {name!r}; there is: {', '.join(whole.variants)}")
    kept = {name: whole.variants[name] for name in names}
    changes = {"variants": kept, "baseline": whole.baseline if whole.baseline in kept else None, "figures": []}
    return whole.model_copy(update=changes)


def _list(part: StudyConfig) -> int:
    """Prints each run with what it reserves, after checking its keys, and what would be prepared before."""
    from rich.console import Console
    from rich.table import Column, Table

    from tgpo_ray.studies import configs, folder_of, points, preparations

    made = configs(part, str(folder_of(part) / "runs"))
    title = f"{part.name}: {len(made)} runs"
    table = Table(Column("run", overflow="fold"), "method", "iterations", "with GPUs", "without", title=title)
    for point in points(part):
        config = made[point.name].check(files=False)
        iterations = config.num_iterations or "as the data"
        table.add_row(point.name, config.algorithm, str(iterations), _reserved(config, True), _reserved(config, False))
    Console().print(table)
    for path, line in preparations(part):
        print(f"{path}: {'is there' if Path(path).expanduser().exists() else line}")
    return 0


def _reserved(config: AlgorithmConfig, gpus: bool) -> str:
    """What the actors of a run reserve in Ray, in words."""
    from tgpo_ray.config import resource_plan

    rows = resource_plan(config, gpus=gpus)
    cpus, cards = sum(row.count * row.cpus for row in rows), sum(row.count * row.gpus for row in rows)
    return f"{cpus:g} CPUs, {cards:g} GPUs" if cards else f"{cpus:g} CPUs"
