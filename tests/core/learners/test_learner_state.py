"""One rank, alone in this process: old log-probabilities, overrides, folders, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.core.learners.learner_cases import ALL, episode, piece, spec_of, three_groups, weights
from tgpo_ray.learners.learner import Learner, load_policy
from tgpo_ray.learners.planning import Piece


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return three_groups()


# ---- old log-probabilities


def test_remembered_logprobs_give_the_ratio_of_later_updates(tiny_models, pieces):
    learner = Learner(spec_of(tiny_models["policy"]))
    plain = pieces[1:]
    old = learner.logprobs(plain)
    learner.remember_logprobs([plain])
    assert learner.accumulate([plain], ALL)["policy/ratio_deviation"] == pytest.approx((0.0, 23.0), abs=1e-5)
    learner.step(23.0, 1e-2)
    sums = learner.accumulate([plain], ALL)
    new = learner.logprobs(plain)
    deviation = sum(float(np.abs(np.exp(new[key] - old[key]) - 1.0).sum()) for key in old)
    assert deviation > 0.1
    assert sums["policy/ratio_deviation"] == pytest.approx((deviation, 23.0), rel=1e-4)
    learner.forget_logprobs()
    assert "policy/ratio_deviation" not in learner.accumulate([plain], ALL)


def test_logprobs_carried_by_episodes_are_the_old_ones(tiny_models):
    learner = Learner(spec_of(tiny_models["policy"]))
    bare = piece(0, [episode(0, 6)], [1.0])
    own = learner.logprobs([bare])[0, 0]
    carried = replace(bare.ref.episodes[0], old_logprobs=own - 0.1)
    sums = learner.accumulate([[piece(0, [carried], [1.0])]], ALL)
    assert sums["policy/ratio_deviation"][0] == pytest.approx(6 * (np.exp(0.1) - 1.0), rel=1e-4)


# ---- what is refused


def test_gradient_that_is_not_finite_stops_the_run(tiny_models):
    learner = Learner(spec_of(tiny_models["policy"]))
    learner.accumulate([[piece(0, [episode(0, 5)], [float("nan")])]], ALL)
    with pytest.raises(FloatingPointError, match=r"gradient norm of update 1 is nan: lower training\.lr"):
        learner.step(5.0, 1e-3)


def test_a_soft_cap_that_the_architecture_does_not_apply_is_refused(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models["policy"], tmp_path / "capped")
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"final_logit_softcapping": 30.0}))
    with pytest.raises(ValueError, match=r"Qwen2ForCausalLM: its own logits differ .* soft cap 30\.0, as its config"):
        load_policy(spec_of(str(folder)))


def test_override_that_the_configuration_lacks_is_refused(tiny_models):
    with pytest.raises(ValueError, match=r"hf_overrides\.rope_theta: Qwen2Config .* has no such key.*rope_parameters"):
        load_policy(spec_of(tiny_models["policy"], hf_overrides={"rope_theta": 40000}))


# ---- overrides and folders


def test_overrides_reach_model_and_export(tiny_models, pieces, tmp_path):
    from transformers import AutoConfig

    rope = {"rope_type": "default", "rope_theta": 40.0}
    overrides = {"rope_parameters": rope, "max_position_embeddings": 4096}
    changed = Learner(spec_of(tiny_models["policy"], hf_overrides=overrides))
    plain = Learner(spec_of(tiny_models["policy"]))
    left, right = changed.logprobs(pieces), plain.logprobs(pieces)
    assert max(np.abs(left[key] - right[key]).max() for key in left) > 1e-4
    changed.export(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.rope_parameters, config.max_position_embeddings) == (rope, 4096)
    exported = Learner(spec_of(str(tmp_path))).logprobs(pieces)
    assert all(np.array_equal(left[key], exported[key]) for key in left)


def test_saved_learner_continues_to_the_bit(tiny_models, pieces, tmp_path):
    spec = spec_of(tiny_models["policy"])
    first, second = Learner(spec), Learner(spec)
    first.accumulate([pieces], ALL)
    first.step(32.0, 1e-3)
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.num_steps == 1
    for learner in (first, second):
        learner.accumulate([pieces], ALL)
        learner.step(32.0, 1e-3)
    left, right = weights(first), weights(second)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_tied_weights_are_published_once(tiny_models):
    names = [name for name, _ in Learner(spec_of(tiny_models["policy"])).named_weights()]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    untied = [name for name, _ in Learner(spec_of(tiny_models["teacher"])).named_weights()]
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(untied)
