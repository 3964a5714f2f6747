"""`tgpo-ray report`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

MAX_PORT = 65_535


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", help="run folders to compare")
    parser.add_argument("--to", help="page to write; default: report.html")
    parser.add_argument(
        "--watch", action="store_true", help="serve the report on this machine alone, and follow runs that still go"
    )
    parser.add_argument("--port", type=int, help="with --watch: default: a free one")


def report(options: argparse.Namespace) -> int:
    """Write one HTML page that compares runs, and one of their tokens; or serve both while the runs go."""
    from tgpo_ray.reporting import write_reports

    if not options.watch:
        if options.port is not None:
            raise ValueError("--port: needs --watch: a page that is written has no server")
        for path in write_reports(Path(options.to or "report.html"), options.folders):
            print(path)
        return 0
    if options.to is not None:
        raise ValueError("--to: a report that is served is not written; leave it out, or leave --watch out")
    if not 0 <= (options.port or 0) <= MAX_PORT:
        raise ValueError(f"--port: must be 0 to {MAX_PORT}, got {options.port}")
    _watch([Path(folder) for folder in options.folders], options.port or 0)
    return 0


def _watch(folders: list[Path], port: int) -> None:
    from tgpo_ray.reporting import WatchServer, distinct, load_run, report_page

    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"--watch: no such folder: {folder}; a run prints its folder first (URIs are not followed)"
            )
    names = distinct([_label(folder) for folder in folders], folders)

    def page() -> str:
        runs = [replace(load_run(folder), label=name) for folder, name in zip(folders, names, strict=True)]
        return report_page(runs, title=", ".join(names), tokens="tokens")

    server = WatchServer(list(zip(names, folders, strict=True)), page, title=", ".join(names), port=port)
    print(f"{server.url} (this machine alone; Ctrl-C ends it)", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        pass
    finally:
        server.release()


def _label(folder: Path) -> str:
    from tgpo_ray.reporting import load_run

    try:
        return load_run(folder).label
    except ValueError:  # a run that is about to begin
        return folder.resolve().name
