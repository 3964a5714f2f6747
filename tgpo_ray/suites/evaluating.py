"""Models evaluated on a suite, one after the other, and their answers scored again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.checks import check_environments, check_models, left_out
from tgpo_ray.suites.answers_file import ProblemAnswers, read_answers, read_header, replace_answers
from tgpo_ray.suites.figures import ALL_SETS, ModelFigures, figures_of, mean_figures
from tgpo_ray.suites.fingerprints import model_fingerprint
from tgpo_ray.suites.sampling import engine_answers, standing_engines
from tgpo_ray.suites.scoring import rescored
from tgpo_ray.suites.served import ServedModel
from tgpo_ray.suites.work import EvaluationSet, OpenSet, answers_path, headers_of, opened, sets_of

if TYPE_CHECKING:
    from tgpo_ray.suites.suite_config import CandidateConfig, SuiteConfig

Say = Callable[[str], None]
PARTS = 20  # notes of progress on each set


@dataclass(frozen=True)
class _Checked:
    """A model whose configuration and prompts are known to be right."""

    candidate: CandidateConfig
    config: SuiteConfig
    sets: list[EvaluationSet]


def evaluate_suite(
    suite: SuiteConfig,
    candidates: Sequence[CandidateConfig],
    folder: Path,
    say: Say = print,
    each: Callable[[list[ModelFigures]], object] = lambda figures: None,
) -> list[ModelFigures]:
    """Returns the figures of each model, after sampling the problems without answers in `folder`.

    What is answered stays, whatever ends this call: another call goes on from there. A model whose problems all have
    answers is not loaded.

    Args:
        say: takes lines of progress.
        each: takes the figures so far after each model but the last, which a later one's error then leaves.

    Raises:
        ConfigError: a wrong key, file or model, before any engine starts.
        ValueError: a file in `folder` holds answers that were sampled in another way, or a server lacks the model,
            before any engine starts, too.
    """
    _refuse_equal_labels(candidates)
    checked = [_checked(suite, candidate) for candidate in candidates]
    for it in checked:
        with _opened(it, folder):
            pass
    for done, it in enumerate(checked, start=1):
        _sample(it, folder, say)
        if done < len(checked):
            each([_figures(suite, it, folder) for it in checked[:done]])
    return [_figures(suite, it, folder) for it in checked]


def rescore_suite(
    suite: SuiteConfig, candidates: Sequence[CandidateConfig], folder: Path, say: Say = print
) -> list[ModelFigures]:
    """Returns the figures of each model, after giving every answer in `folder` the verdict of today's verifier.

    No model is loaded, and nothing is sampled. Problems without answers stay without.

    Raises:
        ConfigError, ValueError: as `evaluate_suite`; and a model has no answers to a set in `folder`.
    """
    _refuse_equal_labels(candidates)
    checked = [_answered(suite, candidate, folder) for candidate in candidates]
    for it in checked:
        headers = headers_of(it.config, it.candidate, {})
        for evaluated, header in zip(it.sets, headers, strict=True):
            path = answers_path(folder, it.candidate, evaluated.label)
            kept = read_header(path) | {"scoring": header["scoring"]}
            workers = it.config.env_runners.verifier_workers
            replace_answers(path, kept, rescored(evaluated, read_answers(path), workers))
            say(f"{it.candidate.label}, {evaluated.label}: scored again")
    return [_figures(suite, it, folder) for it in checked]


def _refuse_equal_labels(candidates: Sequence[CandidateConfig]) -> None:
    labels = [it.label for it in candidates]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise ValueError(f"two models are called {label!r} in the table: list them as `candidates`, with names")


def _checked(suite: SuiteConfig, candidate: CandidateConfig) -> _Checked:
    config = suite.of(candidate)
    if candidate.url is not None:
        config.check(files=False)
        return _Checked(candidate, config, sets_of(config))
    check_models(config.check())
    return _Checked(candidate, config, sets_of(config, left_out(config, check_environments(config))))


def _answered(suite: SuiteConfig, candidate: CandidateConfig, folder: Path) -> _Checked:
    """The model without its files: which prompts are too long for it, its answers say."""
    config = suite.of(candidate)
    config.check(files=False)
    out: list[frozenset[int]] = []
    for env in config.evaluation.envs:
        path = answers_path(folder, candidate, env.label)
        if not path.is_file():
            raise ValueError(f"--rescore: there is no {path}: evaluate {candidate.label} first")
        out.append(frozenset(read_header(path).get("left_out", ())))
    return _Checked(candidate, config, sets_of(config, out))


def _sample(it: _Checked, folder: Path, say: Say) -> None:
    """Sample what is missing. The engine starts only where something is."""
    with _opened(it, folder) as (sets, served):
        if served is not None:
            _append(it.candidate, sets, served.answers(sets), say)
        elif any(one.missing for one in sets):
            with standing_engines(it.config) as (running, runners):
                _append(it.candidate, sets, engine_answers(running, runners, sets), say)


@contextmanager
def _opened(it: _Checked, folder: Path) -> Iterator[tuple[list[OpenSet], ServedModel | None]]:
    """The model's sets with their files, and the client of a served one."""
    paths = [answers_path(folder, it.candidate, evaluated.label) for evaluated in it.sets]
    with ExitStack() as stack:
        served: ServedModel | None = None
        model: dict[str, Any] = {}
        if it.candidate.url is None:
            model = model_fingerprint(it.config.model.path)
        else:
            served = stack.enter_context(closing(ServedModel(it.config, it.candidate)))
            model = {"served": served.name}
        headers = headers_of(it.config, it.candidate, model)
        headers = [header | {"left_out": sorted(one.left_out)} for header, one in zip(headers, it.sets, strict=True)]
        yield opened(stack, it.sets, paths, headers), served


def _append(
    candidate: CandidateConfig, sets: Sequence[OpenSet], answers: Iterator[tuple[int, ProblemAnswers]], say: Say
) -> None:
    for index, row in answers:
        one = sets[index]
        one.file.append(row)
        total, done = len(one.evaluated.hashes), len(one.file.done)
        if done == total or done % max(1, total // PARTS) == 0:
            say(f"{candidate.label}, {one.evaluated.label}: {done} of {total} problems")


def _figures(suite: SuiteConfig, it: _Checked, folder: Path) -> ModelFigures:
    found = {}
    for evaluated in it.sets:
        path = answers_path(folder, it.candidate, evaluated.label)
        # a file may also have problems that this suite leaves out, as max_problems does
        rows = (row for row in read_answers(path) if row.problem in evaluated.hashes)
        figures = figures_of(evaluated.label, rows, len(evaluated.hashes), it.config.seed)
        if figures is not None:
            found[evaluated.label] = replace(figures, num_left_out=evaluated.num_left_out)
    groups = dict(suite.means)
    if len(found) > 1:
        groups[ALL_SETS] = list(found)
    return ModelFigures(it.candidate.label, found, mean_figures(groups, found), it.candidate.published)
