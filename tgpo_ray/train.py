"""`python -m tgpo_ray.train yaml/x.yaml [key=value ...] [--resume FOLDER]`: one run, from a YAML file.

What `ray job submit --working-dir . -- python -m tgpo_ray.train yaml/x.yaml` executes. If the run fails, the last line
of its output is the reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0 done, 1 failed, 2 bad configuration, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tgpo_ray.train", description="Run the job of a YAML file.")
    add_train_arguments(parser)
    options = parser.parse_args(arguments)
    return train(options.config, options.overrides, options.resume)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as training.lr=1e-4")
    parser.add_argument("--resume", metavar="FOLDER", help="continue the run in this folder from its last checkpoint")


def train(path: str, overrides: Sequence[str], resume: str | None) -> int:
    """Load, check and run; problems become one message on standard error."""
    from tgpo_ray.config import AlgorithmConfig, ConfigError

    try:
        config = AlgorithmConfig.from_yaml(path, overrides).check()
        from tgpo_ray.run import fit

        result = fit(config, resume=resume)
    except (ConfigError, FileNotFoundError) as error:
        return _fail(f"configuration error: {error}", EXIT_USAGE)
    except KeyboardInterrupt as error:
        return _fail(f"interrupted ({error or 'Ctrl-C'}): all actors have ended", EXIT_INTERRUPTED)
    except Exception as error:
        if _is_unexpected(error):
            import traceback

            traceback.print_exc()
        return _fail(f"the run failed: {error}", EXIT_FAILED)
    print(f"done: {result.path}", flush=True)
    return 0


def _is_unexpected(error: Exception) -> bool:
    """Whether a traceback helps: errors that were raised on purpose say all there is to say."""
    return not isinstance(error, ValueError | RuntimeError | TimeoutError)


def _fail(message: str, status: int) -> int:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
