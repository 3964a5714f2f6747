"""Checks of the running actors, which sample and score a few episodes and train nothing."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tgpo_ray.checks.read_back import ReadBack, given, read_back
from tgpo_ray.checks.results import CheckResult, Finding, judged, skipped
from tgpo_ray.checks.teacher_head import RebuiltHead, check_teacher_head
from tgpo_ray.cluster import ACTOR_ERRORS, root_cause
from tgpo_ray.episode import ORIGIN_POLICY, EpisodeGroup, Guidance, SampledGroup, Task
from tgpo_ray.models import Sampling

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.env_runners import EnvRunnerGroup
    from tgpo_ray.learners import LearnerGroup
    from tgpo_ray.teachers import TeacherGroup

NUM_PROBLEMS, GROUP_SIZE, MAX_TOKENS = 2, 2, 64  # of the probe, for each environment
PROBE_SEED = 0
MEAN_GAP = {"float32": 1e-3, "bfloat16": 0.05}  # nats; two engines sum in different orders, and bfloat16 has 8 bits
LARGEST_GAP = {"float32": 1e-2, "bfloat16": 1.0}  # of a single token: rare tokens have small, coarse probabilities
LEAST_AGREEMENT = {"float32": 0.95, "bfloat16": 0.9}  # two tokens may be equally likely
REPEATS = 0.9  # a text that repeats one token agrees with itself when shifted
WANT = ("argmax", "logprob")


@dataclass(frozen=True)
class Probe:
    """A few episodes of the policy, with the log-probs of the sampler."""

    groups: list[SampledGroup]
    episodes: list[EpisodeGroup]  # the same groups, fetched from the object store


class SentWeights(Protocol):
    """The path of the learners' weights to the engines."""

    def resend(self) -> None: ...


class RunningAlgorithm(Protocol):
    """The attributes of a running algorithm that the checks use."""

    has_runners: bool
    iteration: int
    learners: LearnerGroup
    env_runners: EnvRunnerGroup  # where `has_runners` is true

    @property
    def weights(self) -> SentWeights: ...

    teachers: Mapping[str, TeacherGroup]
    reference: TeacherGroup | None
    left_out: Sequence[Collection[int]]  # of each environment, the problems whose prompts are too long

    @property
    def config(self) -> AlgorithmConfig: ...


def check_actors(algorithm: RunningAlgorithm) -> Iterator[CheckResult]:
    """Yields the results one by one. `algorithm` has built its actors and synced its weights."""
    if not algorithm.has_runners or not algorithm.config.envs:
        yield skipped("actors", "the algorithm samples from no environment", "stated")
        return
    probe = sampled_probe(algorithm)
    result = check_sampler(algorithm, probe)
    yield result
    if not result.failed:
        yield check_changed_weights(algorithm)
    reference = algorithm.reference
    head: RebuiltHead | None = getattr(algorithm, "teacher_head", None)  # of methods that compare whole distributions
    for name, pool in algorithm.teachers.items():
        if pool is not reference:
            yield from check_pool(f"teacher {name}", pool, probe, algorithm.config.max_unmapped_share, head)
    if reference is not None:
        yield from check_pool("the reference", reference, probe, 0.0)
        yield check_reference(algorithm, reference, probe)


def sampled_probe(algorithm: RunningAlgorithm) -> Probe:
    """Returns episodes of the first problems of every training environment. The cursor does not move."""
    import ray

    config, runners = algorithm.config.env_runners, algorithm.env_runners
    tasks = []
    for env_index, out in enumerate(algorithm.left_out[: len(algorithm.config.envs)]):
        count = runners.num_problems[env_index]
        walked = (problem for problem in (itertools.count() if count is None else range(count)) if problem not in out)
        for number, problem in enumerate(itertools.islice(walked, NUM_PROBLEMS)):
            tasks.append(Task(env_index, problem, PROBE_SEED, ordinal=env_index * NUM_PROBLEMS + number))
    sampling = Sampling(min(MAX_TOKENS, config.max_response_tokens), config.temperature, logprobs=True)
    groups = sorted(runners.sample(tasks, GROUP_SIZE, sampling, PROBE_SEED), key=lambda group: group.ordinal)
    return Probe(groups, ray.get([group.ref for group in groups]))


def check_changed_weights(algorithm: RunningAlgorithm) -> CheckResult:
    """Returns whether learner and sampler are still one policy after every weight has changed.

    Weights that an engine does not take over would show otherwise only when training has moved them far enough. The
    learners halve theirs, or give adapters random numbers, and undo that to the last bit.
    """
    changed = "weights halved" if algorithm.config.model.lora is None else "adapters changed"
    algorithm.learners.change_weights()
    try:
        algorithm.weights.resend()
        return check_sampler(algorithm, sampled_probe(algorithm), f"learner and sampler, {changed}")
    finally:
        algorithm.learners.change_weights(back=True)
        algorithm.weights.resend()


def check_sampler(algorithm: RunningAlgorithm, probe: Probe, name: str = "learner and sampler") -> CheckResult:
    """Returns whether learner and sampler are one policy, with the same weights, temperature and positions."""
    bound = MEAN_GAP[algorithm.config.model.dtype]
    gaps = algorithm.learners.sampler_gaps(probe.groups)
    if not len(gaps):
        return skipped(name, "the policy wrote nothing", f"mean <= {bound:g} nats")
    mean = float(gaps.mean())
    return judged(
        name,
        [Finding(None, f"mean gap {mean:.3g} nats over {len(gaps)} tokens")] if not mean <= bound else [],
        measured=f"log-probs of {len(gaps)} tokens differ by {mean:.2g} nats, at most {gaps.max():.2g}",
        bound=f"mean <= {bound:g} nats",
        fix="are model.hf_overrides, dtype and tokenizer those of the engine? Is vLLM's version a supported one? "
        "docs/models.md says which architectures are proven",
    )


def check_pool(
    who: str, pool: TeacherGroup, probe: Probe, max_unmapped: float, head: RebuiltHead | None = None
) -> Iterator[CheckResult]:
    """Yields the results of one pool of scorers. An error of its actors is a failed check.

    Args:
        head: the teacher's head as the learners read it, for methods that compare whole distributions.
    """
    from ray.exceptions import RayTaskError

    dtype = pool.spec.engine.dtype
    try:
        answers = _answers(pool, probe)
        yield _replicas_agree(who, answers, dtype)
        yield _labels_are_mapped(who, answers[0], max_unmapped)
        yield _reads_itself(who, pool, probe, dtype)
        if head is not None:
            yield check_teacher_head(who, pool, head, probe.episodes, MEAN_GAP[dtype])
    except (*ACTOR_ERRORS, RayTaskError) as error:
        finding = Finding(None, root_cause(error))
        yield judged(f"scoring by {who}", [finding], measured="raised", bound="runs to its end", fix="fix what raises")


def _answers(pool: TeacherGroup, probe: Probe) -> list[list[Guidance]]:
    """Returns the guidance of every replica for all episodes, as [replica][episode]."""
    import ray

    refs = [[handle.annotate.remote(group.ref, list(WANT)) for group in probe.groups] for handle in pool.handles]
    return [[guidance for group in ray.get(of_replica) for guidance in group] for of_replica in refs]


def _flat(answers: list[Guidance]) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids (N,) and log-probs (N,) of the tokens of all episodes."""
    ids, logprobs = zip(*((given(it.teacher_ids), given(it.teacher_logprobs)) for it in answers), strict=True)
    return np.concatenate(ids), np.concatenate(logprobs)


def _replicas_agree(who: str, answers: list[list[Guidance]], dtype: str) -> CheckResult:
    name, least, largest = f"replicas of {who}", LEAST_AGREEMENT[dtype], LARGEST_GAP[dtype]
    bound = f"argmax >= {least:.0%} equal, log-probs within {largest:g} nats"
    if len(answers) == 1:
        return skipped(name, "there is one", bound)
    ids, logprobs = _flat(answers[0])
    findings, agreements, gaps = [], [1.0], [0.0]
    for number, other in enumerate(answers[1:], start=1):
        other_ids, other_logprobs = _flat(other)
        agreements.append(float((ids == other_ids).mean()))
        gaps.append(float(np.abs(logprobs - other_logprobs).max()))
        if agreements[-1] < least or not gaps[-1] <= largest:
            findings.append(
                Finding(None, f"0 and {number}: argmax {agreements[-1]:.1%} equal, gap {gaps[-1]:.3g} nats")
            )
    measured = f"{len(answers)} replicas, {len(ids)} tokens: argmax {min(agreements):.1%} equal, gap {max(gaps):.2g}"
    return judged(
        name, findings, measured=measured, bound=bound, fix="do all nodes hold the same model files and versions?"
    )


def _labels_are_mapped(who: str, answers: list[Guidance], limit: float) -> CheckResult:
    ids, _ = _flat(answers)
    share = float((ids < 0).mean())
    return judged(
        f"targets of {who}",
        [Finding(None, f"{share:.1%} of its tokens have no id in the policy's vocabulary")] if share > limit else [],
        measured=f"{share:.1%} of {len(ids)} unmapped",
        bound=f"at most {limit:.0%} (guidance.max_unmapped_share)" if limit else "none: it has the policy's tokenizer",
        fix="choose a teacher with the policy's tokenizer, set guidance.unmapped: first_piece, or raise the limit",
    )


def _reads_itself(who: str, pool: TeacherGroup, probe: Probe, dtype: str) -> CheckResult:
    """Returns whether a teacher's greedy tokens are its argmax, at their own positions and not one further."""
    import ray

    look = partial(read_back, groups=probe.episodes, max_tokens=MAX_TOKENS // 2)
    name, least, largest = f"positions of {who}", LEAST_AGREEMENT[dtype], MEAN_GAP[dtype]
    bound = f"agrees >= {least:.0%}, less when shifted by one; log-probs within {largest:g} nats"
    if pool.spec.backend == "remote":
        return skipped(name, "a served teacher writes no log-probs of its own", bound)
    report: ReadBack = ray.get(pool.handles[0].__ray_call__.remote(look))
    return judged(
        name,
        _misplaced(report, least, largest),
        measured=(
            f"agrees with its own {report.num_tokens} tokens {report.agreement:.1%}, shifted {report.shifted:.1%}; "
            f"gap {report.gap:.2g}, shifted {report.shifted_gap:.2g} nats"
        ),
        bound=bound,
        fix="positions are off: is this vLLM a supported version? Report it with this table",
    )


def _misplaced(report: ReadBack, least: float, largest: float) -> list[Finding]:
    findings = []
    if report.agreement < least:
        findings.append(Finding(None, f"its argmax is what it wrote at {report.agreement:.1%} of the positions"))
    if report.shifted >= report.agreement and report.shifted < REPEATS:
        findings.append(Finding(None, f"shifted by one it agrees as often: {report.shifted:.1%}"))
    if not report.gap <= largest:
        findings.append(Finding(None, f"its log-probs differ from those it sampled with by {report.gap:.3g} nats"))
    return findings


def check_reference(algorithm: RunningAlgorithm, pool: TeacherGroup, probe: Probe) -> CheckResult:
    """Returns whether a reference with the policy's weights has the sampler's log-probs, before the first update."""
    config = algorithm.config
    bound = MEAN_GAP[config.model.dtype]
    name, shown = "reference and policy", f"mean <= {bound:g} nats"
    if config.reference.path is not None or algorithm.iteration > 0 or config.env_runners.temperature != 1.0:
        return skipped(name, "they differ by intention: another model, a trained policy or a temperature", shown)
    gaps = np.concatenate(
        [
            np.abs(given(guidance.teacher_logprobs) - given(episode.old_logprobs))[episode.origin == ORIGIN_POLICY]
            for guidance, episode in zip(
                _answers(pool, probe)[0], [it for group in probe.episodes for it in group.episodes], strict=True
            )
        ]
    )
    return judged(
        name,
        [Finding(None, f"mean gap {gaps.mean():.3g} nats")] if not gaps.mean() <= bound else [],
        measured=f"log-probs of {len(gaps)} tokens differ by {gaps.mean():.2g} nats",
        bound=shown,
        fix="the reference is not the model that the policy starts from: look at reference.path and model.path",
    )
