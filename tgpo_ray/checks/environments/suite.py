"""All checks of an environment, in the order in which an author reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tgpo_ray.checks.results import CheckResult, Finding

from .contract import check_api, check_determinism, check_info, check_pickling
from .deadlines import check_deadline
from .playing import Subject
from .texts import check_duplicates, check_texts
from .tokens import check_masks, check_prompts
from .values import check_other_answers, check_spread, check_values
from .verifying import check_gold, check_near_misses, check_rewards

CHECKS: tuple[Callable[[Subject], CheckResult], ...] = (
    check_api,
    check_info,
    check_determinism,
    check_pickling,
    check_gold,
    check_near_misses,
    check_values,
    check_other_answers,
    check_duplicates,
    check_texts,
    check_rewards,
    check_spread,
    check_deadline,
    check_prompts,
    check_masks,
)


def run_checks(subject: Subject) -> Iterator[CheckResult]:
    """Yields the results one by one. A check has failed if the environment makes it raise an error."""
    for check in CHECKS:
        try:
            yield check(subject)
        except Exception as error:  # a user's environment may raise anything
            name = check.__name__.removeprefix("check_").replace("_", " ")
            finding = Finding(None, f"{type(error).__name__}: {error}")
            yield CheckResult(name, "failed", "raised", "runs to its end", "fix what raises", (finding,))
