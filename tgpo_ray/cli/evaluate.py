"""The command `tgpo-ray evaluate`: a run's model on its own sets, or several models on those of a suite."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

OF_SUITES = ("sets", "only", "to", "published")
RESULTS = "evaluations"


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments to the command's parser."""
    parser.add_argument("config", nargs="?", help="YAML file of a run; with --suite: the first MODEL")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with --suite also further MODELs")
    parser.add_argument("--checkpoint", help="checkpoint folder of the run; default: the model")
    parser.add_argument(
        "--suite", help="evaluate MODELs (folders, ids, url:http://host:8000) on `paper` or a YAML file"
    )
    parser.add_argument("--sets", help="YAML file: set -> path or arguments; or a folder. Default: suite.yaml")
    parser.add_argument("--only", help="names of sets, with commas between; default: all")
    parser.add_argument("--to", help=f"folder of answers and tables; default: {RESULTS}/<name of the suite>")
    parser.add_argument("--published", help="names of published figures to show beside the models, with commas between")
    parser.add_argument("--rescore", action="store_true", help="give kept answers new verdicts; sample nothing")


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a run's model, a checkpoint, or several models on a suite of sets."""
    if options.suite is not None:
        return _evaluate_suite(options)
    for name in (*OF_SUITES, "rescore"):
        if getattr(options, name):
            raise ValueError(f"--{name}: needs --suite")
    if options.config is None:
        raise ValueError("needs the YAML file of a run, or --suite with MODELs")
    from tgpo_ray.config import AlgorithmConfig, ConfigError

    config = AlgorithmConfig.from_yaml(options.config, options.overrides)
    if not config.evaluation.envs:
        raise ConfigError(["evaluation.envs: required here: name at least one held-out set"])
    metrics = _of_checkpoint(config, options.checkpoint) if options.checkpoint else _of_model(config)
    print(json.dumps(metrics, indent=2))
    return 0


def _of_model(config: AlgorithmConfig) -> dict[str, float]:
    """Returns the metrics of the model that a run begins with. Engines start, and neither learners nor teachers."""
    from tgpo_ray.checks import check_environments, check_models, left_out
    from tgpo_ray.driver import evaluate as evaluate_on
    from tgpo_ray.driver import sampling_seed
    from tgpo_ray.suites import SuiteConfig, standing_engines

    suite = SuiteConfig.of_run(config)
    check_models(suite.check())
    out = left_out(suite, check_environments(suite))
    with standing_engines(suite) as (resolved, runners):
        return evaluate_on(resolved, runners, sampling_seed(config.seed, 0) + 1, out)[0]


def _of_checkpoint(config: AlgorithmConfig, checkpoint: str) -> dict[str, float]:
    """Returns the metrics of a checkpoint, whose weights only the run's learners can read."""
    import tempfile

    from tgpo_ray.driver import Algorithm

    with tempfile.TemporaryDirectory(prefix="tgpo-ray-") as folder:
        algorithm = Algorithm(config, run_folder=folder)
        try:
            algorithm.restore(checkpoint)
            return algorithm.evaluate()[0]
        finally:
            algorithm.stop()


def _evaluate_suite(options: argparse.Namespace) -> int:
    from tgpo_ray.suites import evaluate_suite, open_suite, rescore_suite, write_tables

    if options.checkpoint:
        raise ValueError("--checkpoint: --suite takes model folders: write one with `tgpo-ray export`")
    words = [word for word in (options.config, *options.overrides) if word is not None]
    overrides = [word for word in words if "=" in word and not _is_model(word)]
    names = [word for word in words if word not in overrides]
    suite = open_suite(options.suite, overrides, places=options.sets, only=_names("--only", options.only)).check(
        files=False
    )
    candidates = suite.chosen(names)
    if shown := _names("--published", options.published):
        if unknown := [name for name in shown if name not in suite.published]:
            known = ", ".join(suite.published) or "none"
            raise ValueError(f"--published: no figures are called {unknown[0]!r}; there is: {known}")
        first = candidates[0]
        extra = [name for name in shown if name not in first.published]
        candidates = [first.model_copy(update={"published": [*first.published, *extra]}), *candidates[1:]]
    folder = Path(options.to or Path(RESULTS) / (Path(options.suite).stem))

    def say(line: str) -> None:
        print(line, flush=True)

    if options.rescore:
        figures = rescore_suite(suite, candidates, folder, say)
    else:
        figures = evaluate_suite(suite, candidates, folder, say, lambda so_far: write_tables(folder, suite, so_far))
    print(write_tables(folder, suite, figures))
    print(f"{folder / 'table.html'}")
    return 0


def _is_model(word: str) -> bool:
    """Whether a word is no override though it has a `=`: an address, or a folder as `runs/lr=1e-5/export`."""
    if word.removeprefix("url:").startswith(("http://", "https://")):
        return True
    return "/" in word.partition("=")[0] or Path(word).expanduser().is_dir()


def _names(option: str, text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if text is not None and not names:
        raise ValueError(f"{option}: needs at least one name, got {text!r}")
    return names
