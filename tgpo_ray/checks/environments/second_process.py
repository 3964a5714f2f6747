"""The other process of the determinism check, which prints the transcripts of a job on standard input."""

from __future__ import annotations

import json
import sys

from tgpo_ray.checks.environments.playing import transcript
from tgpo_ray.env_runners import make_env


def main() -> None:
    job = json.load(sys.stdin)
    env = make_env(job["id"], job["kwargs"])
    lines = [transcript(env, index, job["seed"], responses) for index, responses in job["episodes"]]
    env.close()
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
