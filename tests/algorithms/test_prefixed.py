"""Guidance on text of the base or the teacher: the loss, the driver's part, the file and the actor that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.algorithms.driver_parts import config_of, without_actors
from tests.algorithms.oracles import LOGITS, P, one_hot, one_position, random_logits, random_rows, through_kernel
from tests.episodes import make_episode, make_info
from tgpo_ray.algorithms.prefixed import PrefixedPolicyLoss
from tgpo_ray.cli.prefixes import labelling
from tgpo_ray.config import ConfigError
from tgpo_ray.episode import (
    ORIGIN_BASE,
    ORIGIN_ENVIRONMENT,
    ORIGIN_POLICY,
    EpisodeGroup,
    EpisodeInfo,
    SampledGroup,
    Task,
)
from tgpo_ray.models import load_tokenizer
from tgpo_ray.teachers import PrefixHeader, PrefixShelf, head_bytes, row_bytes, vocabulary_digest
from tgpo_ray.teachers.prefix_book import PrefixBook
from tgpo_ray.teachers.prefix_file import PrefixFile

TEACHER = {"teacher": {"path": "teacher"}}


# ---- the loss


def row(origin: int) -> Any:
    """One token, 0, of advantage 1; the teacher would have written 1."""
    return one_position(1.0, (0, 1), **{"episode.origin": torch.tensor([origin])})


def test_the_policys_token_has_the_policy_gradient_alone():
    _, gradient = through_kernel(PrefixedPolicyLoss(guidance_weight=0.5), row(ORIGIN_POLICY))
    torch.testing.assert_close(gradient[0], P - one_hot(0))


def test_a_token_of_the_base_has_guidance_alone():
    _, gradient = through_kernel(PrefixedPolicyLoss(guidance_weight=0.5), row(ORIGIN_BASE))
    torch.testing.assert_close(gradient[0], 0.5 * (P - one_hot(1)))
    lower = torch.softmax(LOGITS - 0.1 * gradient, -1).flatten()
    assert lower[1] > P[1]


def test_mixed_guides_both_and_rewards_only_the_policys():
    loss = PrefixedPolicyLoss(guidance_weight=0.5, guides_policy=True)
    _, own = through_kernel(loss, row(ORIGIN_POLICY))
    torch.testing.assert_close(own[0], (P - one_hot(0)) + 0.5 * (P - one_hot(1)))
    _, other = through_kernel(loss, row(ORIGIN_BASE))
    torch.testing.assert_close(other[0], 0.5 * (P - one_hot(1)))


@pytest.mark.parametrize("guides_policy", [False, True])
def test_metrics_of_policy_and_guidance_are_of_their_own_tokens(guides_policy):
    rows = random_rows(num_targets=2)
    origin = torch.where(rows.sequence == 2, ORIGIN_BASE, ORIGIN_POLICY)
    rows = rows.with_extra(**{"episode.origin": origin})
    logprobs = torch.log_softmax(random_logits(), -1).gather(1, rows.targets)
    metrics = PrefixedPolicyLoss(guidance_weight=0.3, guides_policy=guides_policy).metrics(logprobs, None, rows)
    own = float((rows.mask * (origin == ORIGIN_POLICY)).sum())
    everything = float(rows.mask.sum())
    assert float(metrics["policy/clip_fraction"][1]) == own
    assert float(metrics["guidance/coverage"][1]) == (everything if guides_policy else everything - own)


# ---- the driver's part


def group_with_prefixes(rewards: list[float], lengths: list[int], joined: list[int]) -> SampledGroup:
    own = [make_info(length=length, reward=reward) for reward, length in zip(rewards, lengths, strict=True)]
    others = [
        EpisodeInfo(1.0, 5, length, 0, "correct", "stop", 0.0) for length in joined
    ]  # right, which the policy's advantages must not see
    return SampledGroup(0, Task(0, 0, 0), (*own, *others), ref=None)


def algorithm_of(**guidance: Any) -> Any:
    return without_actors(config_of("TGPO", **TEACHER, guidance={"weight": 0.4, **guidance}))


def test_joined_episodes_have_no_advantage_and_are_not_compared_with():
    algorithm = algorithm_of(prefixes="base", prefix_file="x.arrow")
    (found,) = algorithm.advantages([group_with_prefixes([1.0, 0.0], [4, 6], [3, 5])])
    (plain,) = algorithm_of().advantages([group_with_prefixes([1.0, 0.0], [4, 6], [])])
    assert found[:2].tolist() == plain.tolist() and found[2:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize(("prefixes", "guided"), [("base", 8), ("teacher", 8), ("mixed", 18)])
def test_guidance_is_a_mean_over_guided_tokens_whatever_the_step_divides_by(aggregation, prefixes, guided):
    config = config_of(
        "TGPO",
        **TEACHER,
        guidance={"weight": 0.4, "prefixes": prefixes, "prefix_file": "x.arrow"},
        training={"loss_aggregation": aggregation},
    )
    algorithm = without_actors(config)
    algorithm.shelf = object()
    groups = [group_with_prefixes([1.0, 0.0], [4, 6], [3, 5])]
    loss = algorithm.loss(groups)
    assert loss.guidance_weight / algorithm.denominator(groups) == pytest.approx(0.4 / guided)
    assert loss.guides_policy == (prefixes == "mixed") and algorithm.needs_batch
    without = [group_with_prefixes([1.0, 0.0], [4, 6], [])]
    assert algorithm.denominator(groups) == without_actors(config).denominator(without)


def test_labels_from_a_file_need_no_teacher_and_nobody_asks_one():
    base = config_of("TGPO", guidance={"prefixes": "base", "prefix_file": "x.arrow"})
    assert base.problems(files=False) == [] and not len(base.teacher_pools())
    assert "never called" in base.guidance.last_call(100)
    assert not without_actors(base).asks_teacher(group_with_prefixes([1.0], [4], []))
    mixed = config_of("TGPO", guidance={"prefixes": "mixed", "prefix_file": "x.arrow"})
    assert any(line.startswith("teachers: required") for line in mixed.problems(files=False))


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ({"prefixes": "base"}, "guidance.prefix_file: prefixes base needs a file"),
        (
            {"prefix_file": "x.arrow"},
            "guidance.prefix_file: needs guidance.prefixes base, teacher or mixed, got policy",
        ),
        ({"prefixes_per_group": 2}, "guidance.prefixes_per_group: needs guidance.prefixes base"),
        (
            {"prefixes": "base", "prefix_file": "x", "label": "topk"},
            "guidance.label: must be argmax with",
        ),
        (
            {"prefixes": "mixed", "prefix_file": "x", "gate": "accuracy"},
            "guidance.gate: must be none with prefixes mixed, got accuracy",
        ),
        ({"prefixes": "base", "prefix_file": "x", "diagnostics": "light"}, "guidance.diagnostics: must be none"),
        ({"prefixes": "base", "prefix_file": "x", "schedule": "balanced"}, "guidance.schedule: balanced weighs"),
    ],
)
def test_what_means_nothing_is_refused(guidance, message):
    problems = config_of("TGPO", **TEACHER, guidance=guidance).problems(files=False)
    assert any(line.startswith(message) for line in problems), problems


def test_the_command_asks_the_teacher_of_a_run_that_reads_its_file():
    config = config_of("TGPO", **TEACHER, guidance={"weight": 0.4, "prefixes": "base", "prefix_file": "x.arrow"})
    changed: Any = labelling(config)
    assert changed.problems(files=False) == [] and len(changed.teacher_pools()) == 1
    assert changed.guidance.prefixes == "policy" and changed.guidance.weight == 0.4


# ---- the file


@pytest.fixture
def written(tmp_path: Path, tiny_models: dict[str, str]) -> str:
    """A file with three responses of the base to 1+2= and one to 2*2=."""
    digest = vocabulary_digest(load_tokenizer(tiny_models["policy"], trust_remote_code=False))
    header = PrefixHeader("base", tiny_models["policy"], tiny_models["teacher"], digest)
    path = tmp_path / "folder" / "prefixes.arrow"
    path.parent.mkdir()
    some, none = [labelled("1+2=", [2 + i, 3], [5, -1]) for i in range(3)], []
    other = [labelled("2*2=", [4, 5, 6], [4, 5, 7])]
    path.write_bytes(b"".join([head_bytes(header), row_bytes(some), row_bytes(none), row_bytes(other)]))
    return str(path)


def labelled(prompt: str, ids: list[int], labels: list[int]) -> dict[str, Any]:
    origin = [ORIGIN_BASE] * (len(ids) - 1) + [ORIGIN_ENVIRONMENT]
    verdict = {"reward": 1.0, "outcome": "correct", "stop_reason": "stop"}
    return {
        "prompt": prompt,
        "response_ids": np.asarray(ids, np.int32),
        "origin": np.asarray(origin, np.uint8),
        "label_ids": np.asarray(labels, np.int32),
        **verdict,
    }


def test_a_file_gives_back_what_was_written(written: str):
    file = PrefixFile(written)
    assert len(file) == 4 and file.rows("1+2=") == [0, 1, 2] and file.rows("9+9=") == []
    row = file.row(3)
    assert row.response_ids.tolist() == [4, 5, 6] and row.label_ids.tolist() == [4, 5, 7]
    assert row.origin.tolist() == [ORIGIN_BASE, ORIGIN_BASE, ORIGIN_ENVIRONMENT]
    assert (row.reward, row.outcome, row.stop_reason) == (1.0, "correct", "stop")
    assert row.response_ids.dtype == row.label_ids.dtype == np.int32 and row.origin.dtype == np.uint8


def test_a_wrong_file_is_refused_before_anything_starts(written: str, tmp_path: Path, tiny_models: dict[str, str]):
    config = config_of("TGPO", model={"path": tiny_models["policy"]}, guidance={"prefixes": "teacher"})
    with pytest.raises(ConfigError, match=r"its responses are the base's, guidance\.prefixes says teacher"):
        PrefixShelf(config, written, written_by="teacher", per_group=8)
    other = tmp_path / "other.arrow"
    header = PrefixHeader("base", "models/elsewhere", "", "0")
    other.write_bytes(head_bytes(header) + row_bytes([labelled("1+2=", [2, 3], [5, -1])]))
    with pytest.raises(ConfigError, match="written with the tokenizer of models/elsewhere"):
        PrefixShelf(config, str(other), written_by="base", per_group=8)
    (tmp_path / "text.arrow").write_text("no arrow")
    for name, message in (("text.arrow", "is no file of `tgpo-ray prefixes`"), ("none.arrow", "no such file")):
        with pytest.raises(ConfigError, match=message):
            PrefixFile(str(tmp_path / name))


# ---- the actor


def group_of(prompt: str, seed: int = 5) -> EpisodeGroup:
    mate = make_episode(prompt=range(4), response=range(2), seed=seed, old_logprobs=np.zeros(2, np.float32))
    return EpisodeGroup((mate, mate), prompt, ("a", "b"))


def test_labelled_responses_join_as_last_episodes_with_their_guidance(written: str):
    joined, infos = PrefixBook(written, per_group=8).joined(group_of("1+2="))
    assert len(joined) == 5 and len(infos) == 3 and all(info.num_policy_tokens == 0 for info in infos)
    for episode in joined.episodes[2:]:
        assert episode.guidance["teacher"].teacher_ids.tolist() == [5, -1]  # pyright: ignore
        assert (episode.prompt_ids == joined.episodes[0].prompt_ids).all()
        assert episode.old_logprobs is not None and len(episode.old_logprobs) == 2
    assert joined.episodes[0].guidance == {}
    assert PrefixBook(written, per_group=8).joined(group_of("9+9="))[1] == ()


def test_of_more_than_fit_the_tasks_seed_draws(written: str):
    book = PrefixBook(written, per_group=2)

    def drawn(seed: int) -> tuple[int, ...]:
        group, infos = book.joined(group_of("1+2=", seed))
        assert len(infos) == 2
        return tuple(int(episode.response_ids[0]) for episode in group.episodes[2:])

    assert drawn(3) == drawn(3)
    assert {token for seed in range(20) for token in drawn(seed)} == {2, 3, 4}
