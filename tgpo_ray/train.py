"""One run from a YAML file: `python -m tgpo_ray.train yaml/x.yaml [key=value ...] [--resume FOLDER|URI|auto]`.

`ray job submit --working-dir . -- python -m tgpo_ray.train yaml/x.yaml` executes it on a cluster. If the run fails, the
last line of its output is the reason.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
PACKAGE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status of the run: 0 done, 1 failed, 2 bad configuration, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tgpo_ray.train", description="Run the job of a YAML file.")
    add_train_arguments(parser)
    options = parser.parse_args(arguments)
    return train(options.config, train_overrides(options), options.resume, begin=options.begin)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as training.lr=1e-4")
    parser.add_argument("--no-preflight", action="store_true", help="do not check the actors first")
    parser.add_argument(
        "--resume",
        metavar="FOLDER",
        help="continue the run in this folder or URI from its last checkpoint; auto: the newest run of this name in "
        "checkpointing.storage_path, or a new run where none has a checkpoint",
    )
    parser.add_argument(
        "--from", dest="begin", metavar="CHECKPOINT", help="a new run that goes on from another run's checkpoint"
    )


def train_overrides(options: argparse.Namespace) -> list[str]:
    """Returns the overrides of a command line, its switches included."""
    return [*options.overrides, *(["fault_tolerance.preflight=false"] if options.no_preflight else [])]


def train(path: str, overrides: Sequence[str], resume: str | None, *, begin: str | None = None) -> int:
    """Returns the exit status of the run in `path`. Problems become one message on standard error."""
    from tgpo_ray.config import AlgorithmConfig, ConfigError

    quiet_other_packages()
    try:
        config = AlgorithmConfig.from_yaml(path, overrides).check()
        from tgpo_ray.driver import fit

        result = fit(config, resume=resume, begin=begin)
    except ConfigError as error:
        return _fail(f"configuration error: {error}", EXIT_USAGE)
    except KeyboardInterrupt as error:
        return _fail(f"interrupted ({str(error) or 'Ctrl-C'}): all actors have ended{_notes(error)}", EXIT_INTERRUPTED)
    except Exception as error:
        return report_failure("the run failed", error)
    from tgpo_ray.cluster import shown

    print(f"done: {shown(result.path)}", flush=True)
    return 0


def quiet_other_packages() -> None:
    """Keeps banners of other packages out of a run's output. Their errors stay."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # A filter, because DeepSpeed sets its logger's level when it is imported.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def report_failure(what: str, error: Exception) -> int:
    """Returns the exit status, after printing the traceback where it helps and the reason as the last line."""
    from tgpo_ray.cluster import root_cause

    if not _raised_on_purpose(error):
        traceback.print_exception(error)
    return _fail(f"{what}: {root_cause(error)}{_notes(error)}", EXIT_FAILED)


def _notes(error: BaseException) -> str:
    """What the run has added to the error: its last checkpoint, and the command that goes on."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", []))


def _raised_on_purpose(error: Exception) -> bool:
    """Whether this package raised the error, here or in an actor, with a message that tells the user enough."""
    if not isinstance(error, ValueError | RuntimeError | TimeoutError | ArithmeticError):
        return False
    # An actor's error has its traceback as text.
    files = re.findall(r'File "([^"]+)", line', str(error)) or [
        frame.filename for frame in traceback.extract_tb(error.__traceback__)
    ]
    return bool(files) and Path(files[-1]).is_relative_to(PACKAGE)


def _fail(message: str, status: int) -> int:
    from tgpo_ray.cluster import shown

    sys.stdout.flush()  # so that the reason is the last line where both streams go to one file
    print(shown(message), file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
