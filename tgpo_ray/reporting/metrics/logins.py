"""Whether the writers of a run can write: their packages and logins, before anything starts."""

from __future__ import annotations

import importlib
import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .writers import ReportingLike, require_logging_package

WANDB_HOST = "api.wandb.ai"  # keys may stand under this name, whatever the server is called


def writer_problems(reporting: ReportingLike) -> Iterator[str]:
    """Yields why a configured writer cannot write, each line with its key in `reporting`. No server is asked."""
    for package, is_on in (("tensorboard", reporting.tensorboard), ("wandb", bool(reporting.wandb))):
        if is_on:
            try:
                require_logging_package(package)
            except ValueError as error:
                yield str(error).removeprefix("reporting.")
                return
    if reporting.wandb and not has_wandb_login():
        yield (
            f"wandb: {reporting.wandb!r} needs a login: run `wandb login` where the driver runs, set WANDB_API_KEY "
            "(for `ray job submit` in --runtime-env-json, under env_vars), set WANDB_MODE=offline, or write null"
        )


def has_wandb_login() -> bool:
    """Returns whether W&B has a key for its server, or needs none: offline or disabled."""
    wandb: Any = importlib.import_module("wandb")
    settings = wandb.setup().settings
    if os.environ.get("WANDB_MODE", settings.mode) in ("offline", "disabled", "dryrun"):
        return True
    if os.environ.get("WANDB_API_KEY") or settings.api_key or settings.identity_token_file:
        return True
    hosts = [urlsplit(settings.base_url).netloc]
    if not os.environ.get("WANDB_BASE_URL"):
        hosts.append(WANDB_HOST)
    for file in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        try:
            keys = netrc.netrc(Path(file).expanduser())
        except (OSError, netrc.NetrcParseError):
            continue
        if any((found := keys.authenticators(host)) and found[2] for host in hosts):
            return True
    return False
