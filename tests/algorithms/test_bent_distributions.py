"""GKD's divergence of real models is that of their own distributions, whatever they do to the logits of their heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.kernels.test_kernels_full_vocabulary import reference
from tests.core.models.bent_models import KINDS, SIZE, fast_ones, write_kind
from tests.episodes import make_episode
from tgpo_ray.algorithms.full_vocabulary import DivergenceLoss, TeacherHead
from tgpo_ray.algorithms.gkd import GKDConfig
from tgpo_ray.checks.teacher_head import head_gap
from tgpo_ray.episode import Episode, EpisodeGroup, Guidance
from tgpo_ray.kernels import LogitTransform
from tgpo_ray.learners.learner import Learner, LearnerSpec
from tgpo_ray.learners.planning import Piece
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.models import EngineSpec, ScoringRequest, Want, find_head
from tgpo_ray.teachers import Teacher, TeacherSpec
from tgpo_ray.teachers.backends.transformers_backend import TransformersBackend

PROMPT, TEMPERATURE = 4, 0.9
BENT = ("granite", "granite tied", "cohere", "gemma2", "phi", "gpt2", "gpt_neox", "falcon_h1")
PLAIN = "gpt2"  # neither scale, nor cap, nor bias


class Folders(dict[str, str]):
    """A folder for "policy <kind>" and "teacher <kind>", written where it is asked for first."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, key: str) -> str:
        role, name = key.split(" ", 1)
        self[key] = write_kind(self._root / key.replace(" ", "-"), name, ("policy", "teacher").index(role))
        return self[key]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("bent"))


def own_logprobs(folder: str, ids: np.ndarray) -> tuple[Any, Tensor]:
    """The model as transformers loads it, and (R, V) log-probs of the response's tokens."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    logits = model(input_ids=torch.from_numpy(ids).long()[None]).logits[0, PROMPT - 1 : -1]
    return model, torch.log_softmax(logits.float() / TEMPERATURE, -1)


def taught_episode(teacher: str, ids: np.ndarray) -> Episode:
    """An episode with the hidden states that a teacher gives."""
    spec = EngineSpec(teacher, "float32", 128, kv_cache_memory=0)
    (scores,) = TransformersBackend(spec).score([ScoringRequest(ids, PROMPT)], Want(hidden=True))
    episode = make_episode(prompt=ids[:PROMPT], response=ids[PROMPT:])
    return replace(episode, guidance={"teacher": Guidance(hidden=scores.hidden)})


@pytest.mark.parametrize("bent_one", ["policy", "teacher"])
@pytest.mark.parametrize("name", fast_ones(BENT))
def test_the_divergence_and_its_gradient_are_those_of_the_models_own_logits(folders: Folders, name: str, bent_one: str):
    policy, teacher = (name, PLAIN) if bent_one == "policy" else (PLAIN, name)
    own, theirs = folders[f"policy {policy}"], folders[f"teacher {teacher}"]
    ids = np.random.default_rng(0).integers(2, SIZE, 20).astype(np.int32)
    config = GKDConfig().model(path=own).teachers(path=theirs, backend="transformers")
    loss = DivergenceLoss(TeacherHead.of(config).divergence(beta=0.0, weight=1.0))
    learner = Learner(LearnerSpec(own, own, StrategyOptions(), temperature=TEMPERATURE, threads=1))
    group = EpisodeGroup((taught_episode(theirs, ids),))
    learner.accumulate([[Piece(0, group, {}, np.zeros(1, np.float32), (0,))]], loss)

    model, log_p = own_logprobs(own, ids)
    _, log_q = own_logprobs(theirs, ids)
    expected = reference(log_p, log_q.detach(), 0.0).sum()
    expected.backward()
    assert learner.take_loss_sums()["total"] == pytest.approx(expected.item(), rel=1e-4)
    gradients = {name: it.grad for name, it in learner._model.named_parameters() if it.grad is not None}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", fast_ones(KINDS))
def test_a_teachers_head_is_found_under_the_names_of_its_architecture(name: str, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    folder = write_kind(tmp_path, name)
    head: Any = AutoModelForCausalLM.from_pretrained(folder).get_output_embeddings()
    weight, bias = find_head(folder).read()
    assert torch.equal(weight, head.weight)
    assert (bias is None) == (head.bias is None) and (bias is None or torch.equal(bias, head.bias))


def test_overrides_of_a_teachers_logits_reach_the_divergence(folders: Folders):
    teacher = folders["teacher granite"]
    config = (
        GKDConfig().model(path=folders[f"policy {PLAIN}"]).teachers(path=teacher, hf_overrides={"logits_scaling": 4.0})
    )
    assert TeacherHead.of(config).transform.scale == 1 / 4


def test_a_folder_without_the_heads_bias_is_refused(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = write_kind(tmp_path, "phi")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"found none of lm_head\.bias in its safetensors, so the bias of its LM head"):
        find_head(folder)


@pytest.mark.parametrize("name", ["granite", "gemma2", "phi"])
def test_preflight_compares_a_teachers_head_with_its_own_logprobs(folders: Folders, name: str):
    """The check runs in the teacher's actor, with any backend: a transform that is not the model's is seen."""
    folder = folders[f"teacher {name}"]
    spec = EngineSpec(folder, "float32", 128, kv_cache_memory=0)
    teacher = Teacher(TeacherSpec(spec, policy_tokenizer=folder, backend="transformers"))
    ids = np.random.default_rng(0).integers(2, SIZE, 30).astype(np.int32)
    groups = [EpisodeGroup((make_episode(prompt=ids[:PROMPT], response=ids[PROMPT:]),))]
    head = TeacherHead.of(GKDConfig().model(path=folder).teachers(path=folder))
    assert head_gap(teacher, head, groups).mean < 1e-4
    wrong = replace(head, transform=LogitTransform(2.0 * head.transform.scale, None))
    assert head_gap(teacher, wrong, groups).mean > 0.1
    assert head_gap(teacher, head, []).num_tokens == 0
