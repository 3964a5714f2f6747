"""`tgpo-ray`: init, train, study, plan, schema, evaluate, export, report, make-models, traces, prefixes, preflight,
data, env."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tgpo_ray.cli.data import add_data_command
from tgpo_ray.cli.env import add_env_command
from tgpo_ray.cli.evaluate import add_evaluate_arguments, evaluate
from tgpo_ray.cli.init import add_init_arguments, init
from tgpo_ray.cli.make_models import add_make_models_arguments, make_models
from tgpo_ray.cli.report import add_report_arguments, report
from tgpo_ray.cli.study import add_study_arguments, study
from tgpo_ray.train import (
    EXIT_USAGE,
    add_train_arguments,
    quiet_other_packages,
    report_failure,
    train,
    train_overrides,
)

if TYPE_CHECKING:
    from tgpo_ray.driver import Algorithm


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status of the console script, whose entry point this is."""
    sys.path.insert(0, os.getcwd())  # as `python -m` does: `algorithm: my_pkg:MyMethod` may be in this folder
    options = parsed(build_parser(), arguments)
    quiet_other_packages()
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"tgpo-ray {options.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RuntimeError as error:
        return report_failure(f"tgpo-ray {options.command}", error)


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options. Overrides may follow them, which argparse allows only before the first option."""
    options, rest = parser.parse_known_args(arguments)
    has_models = getattr(options, "suite", None) is not None  # whose names may follow options, too
    late = [word for word in rest if ("=" in word or has_models) and not word.startswith("-")]
    if late != rest or (late and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:
        options.overrides = [*options.overrides, *late]
    options.command_line = list(sys.argv[1:] if arguments is None else arguments)
    return options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tgpo-ray", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    add_init_arguments(command("init", init))
    add_train_arguments(command("train", _train))
    add_study_arguments(command("study", study))
    add_evaluate_arguments(command("evaluate", evaluate))
    for name, run in (("plan", _plan), ("export", _export)):
        sub = command(name, run)
        sub.add_argument("config", help="YAML file of the run")
        sub.add_argument("overrides", nargs="*", metavar="key=value")
        if name == "plan":
            _add_cluster_arguments(sub)
        else:
            sub.add_argument("--checkpoint", required=True, help="checkpoint folder")
            sub.add_argument("--to", required=True, help="folder or URI of the Hugging Face model to write")
            sub.add_argument(
                "--merge", action="store_true", help="with model.lora: the model, with its adapters merged"
            )
    command("schema", _schema).add_argument("algorithm", nargs="?", help="one algorithm's schema; default: all")
    add_report_arguments(command("report", report))
    add_make_models_arguments(command("make-models", make_models))
    _add_traces_arguments(command("traces", _traces))
    _add_prefixes_arguments(command("prefixes", _prefixes))
    preflight = command("preflight", _preflight)
    preflight.add_argument("config", help="YAML file of the run")
    preflight.add_argument("overrides", nargs="*", metavar="key=value")
    preflight.add_argument("--files-only", action="store_true", help="start no actor and load no model")
    add_data_command(commands)
    add_env_command(commands)
    return parser


def _add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster", help="estimate memory and seconds there: 8xH100-80GB, 2x8xH200 (nodes first), or a YAML file"
    )
    parser.add_argument("--mean-prompt", type=float, help="mean tokens of a prompt; default: a third of the longest")
    parser.add_argument(
        "--mean-response", type=float, help="mean tokens of a response; default: a third of the longest"
    )
    parser.add_argument("--shapes", help="YAML file: model -> keys of its config.json, for models that are not here")


def _add_traces_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file whose envs and teacher are used")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--to", required=True, help="jsonl file to write; must not exist")
    parser.add_argument("--teacher", default="default", help="its name in `teachers`")
    parser.add_argument("--num-problems", type=int, help="problems to answer; default: every row of the environments")
    parser.add_argument("--num-samples", type=int, default=1, help="tries at each problem; the first right one is kept")
    parser.add_argument("--temperature", type=float, default=0.7)


def _add_prefixes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file whose envs, model and teacher are used")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--to", required=True, help="file to write (Arrow); must not exist")
    parser.add_argument("--of", choices=("base", "teacher"), default="base", help="who writes; `base`: `model`")
    parser.add_argument("--teacher", default="default", help="its name in `teachers`")
    parser.add_argument("--num-problems", type=int, help="problems to answer; default: every row of the environments")
    parser.add_argument("--num-samples", type=int, help="responses to each problem; default: training.group_size")


def _train(options: argparse.Namespace) -> int:
    """Run the job of a YAML file."""
    return train(options.config, train_overrides(options), options.resume, begin=options.begin)


def _plan(options: argparse.Namespace) -> int:
    """Print the resolved configuration, who gets which CPUs and GPUs, and the teacher's last step."""
    from rich.console import Console

    from tgpo_ray.checks import check_environments, check_models, check_start, left_out, storage_facts
    from tgpo_ray.cli.plan import facts_table, render_plan
    from tgpo_ray.config import AlgorithmConfig

    config = AlgorithmConfig.from_yaml(options.config, options.overrides)
    if options.cluster:
        from tgpo_ray.cli.cluster_plan import plan_on_cluster

        means = {"mean_prompt": options.mean_prompt, "mean_response": options.mean_response}
        return plan_on_cluster(config.check(files=False), options.cluster, Console(), **means, shapes=options.shapes)
    _refuse_without_cluster(options)
    Console().print(render_plan(config))
    check_models(config.check())
    left_out(config, check_environments(config))
    check_start(config)
    Console().print(facts_table("Results", storage_facts(config)))
    return 0


def _refuse_without_cluster(options: argparse.Namespace) -> None:
    for name in ("mean_prompt", "mean_response", "shapes"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')}: needs --cluster")


def _traces(options: argparse.Namespace) -> int:
    """Have a teacher answer the environments' problems; write its verified answers for SFT and LUFFY."""
    from tgpo_ray.cli.traces import write_traces

    return write_traces(options)


def _prefixes(options: argparse.Namespace) -> int:
    """Have the base or the teacher answer problems, and label each position with the teacher's token, for TGPO."""
    from tgpo_ray.cli.prefixes import write_prefixes

    return write_prefixes(options)


def _preflight(options: argparse.Namespace) -> int:
    """Check models, memory, vocabularies and running actors before a run; exits 1 where something is wrong."""
    from tgpo_ray.checks import print_results
    from tgpo_ray.cli.preflight import all_results
    from tgpo_ray.config import AlgorithmConfig

    config = AlgorithmConfig.from_yaml(options.config, options.overrides).check()
    results = all_results(config, with_actors=not options.files_only)
    return 0 if print_results(f"preflight {options.config}", results) else 1


def _schema(options: argparse.Namespace) -> int:
    """Print the JSON schema of the YAML files, for editors."""
    from tgpo_ray.config import json_schema

    print(json.dumps(json_schema(options.algorithm), indent=2))
    return 0


def _export(options: argparse.Namespace) -> int:
    """Write a checkpoint as a Hugging Face folder, adapters as peft's."""
    from tgpo_ray.cluster import refuse_foreign_folder
    from tgpo_ray.config import AlgorithmConfig

    refuse_foreign_folder(options.to)  # before anything starts
    if options.merge and AlgorithmConfig.from_yaml(options.config, options.overrides).model.lora is None:
        raise ValueError("--merge: needs model.lora, which is null: the whole model is exported without it")
    with _algorithm(options) as algorithm:
        print(algorithm.export(options.to, merge=options.merge))
    return 0


@contextmanager
def _algorithm(options: argparse.Namespace) -> Iterator[Algorithm]:
    """Yields the algorithm of the YAML file in a temporary folder, restored, without engines."""
    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.driver import Algorithm

    config = AlgorithmConfig.from_yaml(options.config, options.overrides)
    with tempfile.TemporaryDirectory(prefix="tgpo-ray-") as folder:
        algorithm = Algorithm(config, run_folder=folder, with_runners=False)
        try:
            algorithm.restore(options.checkpoint)
            yield algorithm
        finally:
            algorithm.stop()


if __name__ == "__main__":
    sys.exit(main())
