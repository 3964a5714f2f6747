"""Every metric that the package writes, with unit and meaning. The documentation prints this table."""

from __future__ import annotations

from typing import NamedTuple


class MetricInfo(NamedTuple):
    """The unit and the meaning of a metric. `unit` is empty for pure numbers."""

    unit: str
    meaning: str


METRICS: dict[str, MetricInfo] = {
    "iteration": MetricInfo("iterations", "updates of the policy's sampling weights so far; 0 is the base policy"),
    "recoveries": MetricInfo("times", "that the run has gone back to its last checkpoint so far: learners had died"),
    "reward": MetricInfo("reward", "mean reward of the iteration's episodes"),
    "zero_advantage_groups": MetricInfo("share", "groups whose rewards are all equal: no advantage, guidance only"),
    "sampling/refused_groups": MetricInfo("share", "sampled groups that dynamic sampling replaced by others"),
    "sampling/overlong_groups": MetricInfo("groups", "replaced by others: their prompts turned out to be too long"),
    "sampling/overlong_rows": MetricInfo(
        "problems", "of the data sets, left out of the run: their prompts are too long"
    ),
    "weights_version": MetricInfo("versions", "version of the learners' weights when the episodes were taken in"),
    "weights_version_lag": MetricInfo("versions", "mean of that version minus the version that wrote the episode"),
    "episode/response_length": MetricInfo("tokens", "mean length of a response, all turns"),
    "episode/response_length_max": MetricInfo("tokens", "longest response of the iteration"),
    "episode/prompt_length": MetricInfo("tokens", "mean length of a prompt"),
    "episode/truncated": MetricInfo("share", "episodes cut by the token limit"),
    "outcome/correct": MetricInfo("share", "episodes that the verifier judged right"),
    "outcome/wrong": MetricInfo("share", "episodes with a readable answer that is wrong"),
    "outcome/unparsable": MetricInfo("share", "episodes without a readable answer"),
    "outcome/timeout": MetricInfo("share", "episodes whose verifier ran past its deadline"),
    "outcome/error": MetricInfo("share", "episodes whose verifier or environment crashed"),
    "loss/total": MetricInfo("nats/token", "what an update minimises: the summed loss over the update's denominator"),
    "loss/policy": MetricInfo("nats/token", "part of loss/total: the clipped policy gradient"),
    "loss/guidance": MetricInfo("nats/token", "part of loss/total: guidance, weight included"),
    "loss/entropy": MetricInfo("nats/token", "part of loss/total: the entropy bonus, weight included"),
    "loss/reference_kl": MetricInfo("nats/token", "part of loss/total: the KL to the reference, weight included"),
    "loss/distillation": MetricInfo("nats/token", "part of loss/total: KDRL's KL to the teacher, weight included"),
    "loss/divergence": MetricInfo("nats/token", "part of loss/total: GKD's and MiniLLM's divergence, weight included"),
    "loss/reverse_kl": MetricInfo("nats/token", "part of loss/total: TrOPD's term of trusted tokens, weight included"),
    "loss/forward_kl": MetricInfo("nats/token", "part of loss/total: TrOPD's term of outliers, weight included"),
    "loss/prefix": MetricInfo("nats/token", "part of loss/total: TrOPD's term of teachers' prefixes, weight included"),
    "loss/trace": MetricInfo("nats/token", "part of loss/total: LUFFY's term of teachers' traces, weight included"),
    "loss/sft": MetricInfo("nats/token", "negative log-likelihood of the reference responses"),
    "policy/entropy": MetricInfo("nats", "mean entropy of the policy's next-token distribution"),
    "policy/clip_fraction": MetricInfo("share", "trained tokens where the clip takes the gradient away"),
    "policy/ratio_deviation": MetricInfo("", "mean of |pi(y_t) / pi_old(y_t) - 1|"),
    "policy/reference_kl": MetricInfo("nats", "estimate of KL(pi || reference) from the sampled tokens"),
    "policy/old_kl": MetricInfo("nats", "estimate of KL(pi_old || pi) from the sampled tokens"),
    "policy/importance_weight": MetricInfo("", "mean importance weight against the sampler, after the cut"),
    "policy/importance_weight_squared": MetricInfo("", "mean square of these weights"),
    "policy/importance_cut": MetricInfo("share", "trained tokens whose importance weight is cut at importance_cap"),
    "policy/effective_sample_size": MetricInfo(
        "share", "squared mean of the importance weights over their mean square; 1: all weigh the same"
    ),
    "policy/sampler_gap": MetricInfo("nats", "mean |learner - sampler| log-probability of the sampled tokens"),
    "sampler/gap": MetricInfo(
        "nats", "mean |learner - sampler| log-probability of one micro-batch, in every sampler_gap_every-th iteration"
    ),
    "guidance/nll": MetricInfo("nats", "-log pi of the teacher's token, mean over guided tokens"),
    "guidance/agreement": MetricInfo("share", "guided tokens where the sampled token is the teacher's"),
    "guidance/weight": MetricInfo("", "w_t, the weight of guidance at this iteration"),
    "guidance/ratio": MetricInfo("", "schedule balanced: guidance's gradient over the policy loss's, averaged"),
    "guidance/ratio_aim": MetricInfo("", "schedule balanced: what that ratio is to be, k_t"),
    "guidance/gate": MetricInfo("", "mean factor of guidance.gate over guided tokens"),
    "guidance/gate_open": MetricInfo("share", "guided tokens where that factor is above 0: the gate's coverage"),
    "guidance/coverage": MetricInfo("share", "response tokens that carry guidance"),
    "guidance/unmapped": MetricInfo("share", "teacher tokens that the policy's vocabulary lacks"),
    "guidance/unguided_episodes": MetricInfo("share", "episodes left without guidance (timeout, failure)"),
    "guidance/unguided_groups": MetricInfo("share", "groups that a scorer (teacher, reference) gave up on"),
    "guidance/retries": MetricInfo("requests", "sent to a scorer once more: it died, hung, raised or was refused"),
    "guidance/rejected_answers": MetricInfo("answers", "refused: rows, ids or log-probs that cannot be"),
    "guidance/teacher_restarts": MetricInfo("restarts", "of scorers' replicas"),
    "guidance/cache_hits": MetricInfo("share", "sequences that a scorer had scored before"),
    "guidance/out_of_vocabulary": MetricInfo(
        "share", "response tokens for which the teacher's is not in the vocabulary"
    ),
    "guidance/zero_advantage_taught": MetricInfo("share", "episodes of equal rewards that guidance still teaches"),
    "guidance/gradient_ratio": MetricInfo("", "estimate of the norm of guidance's gradient over the policy loss's"),
    "guidance/gradient_norm": MetricInfo(
        "nats/token", "estimate of the norm of guidance's gradient on the logits, weight and gate included"
    ),
    "policy/gradient_norm": MetricInfo(
        "nats/token", "estimate of the norm of the policy loss's gradient on the logits, before the clip"
    ),
    "guidance/argmax_agreement": MetricInfo(
        "share", "guided tokens where the policy's likeliest token is the teacher's"
    ),
    "guidance/confidence_where_different": MetricInfo("", "the teacher's probability of its token where they differ"),
    "guidance/confidence": MetricInfo("", "the teacher's probability of its likeliest token, over guided tokens"),
    "guidance/topk_agreement": MetricInfo("share", "guided tokens where the sampled token is in the teacher's top k"),
    "guidance/log_ratio_p95": MetricInfo("nats", "95th percentile of log pi_old - log pi_T, mean over micro-batches"),
    "guidance/log_ratio_above": MetricInfo("share", "tokens that the teacher finds 148 times less likely or worse"),
    "guidance/kl_k3": MetricInfo("nats", "k3 estimate of KL(pi || pi_T) from the sampled tokens"),
    "guidance/log_ratio": MetricInfo("nats", "mean of log pi_old - log pi_T over the policy's tokens that were scored"),
    "guidance/scored": MetricInfo("share", "the policy's tokens whose probability the teacher gave, ends left out"),
    "guidance/trusted": MetricInfo("share", "scored tokens that passed TrOPD's gate"),
    "guidance/outlier_kl": MetricInfo("nats", "forward KL on the teacher's best tokens where the gate was shut"),
    "guidance/prefix_nll": MetricInfo("nats", "-log pi of the tokens of teacher-written prefixes"),
    "guidance/divergence": MetricInfo("nats", "divergence of whole distributions, policy and teacher"),
    "guidance/prefixed_groups": MetricInfo("share", "groups that labelled responses of the base or the teacher joined"),
    "guidance/traced_groups": MetricInfo("share", "groups whose prompt had a teacher's trace"),
    "loss/trace_nll": MetricInfo("nats/token", "-log pi of the tokens of teacher's traces"),
    "process_reward/loss": MetricInfo("nats", "cross-entropy of the process-reward model with the verdicts"),
    "process_reward/accuracy": MetricInfo("share", "responses whose verdict the process-reward model has right"),
    "process_reward/grad_norm": MetricInfo("", "norm of the process-reward model's gradient before clipping"),
    "optimizer/grad_norm": MetricInfo("", "norm of the gradient before clipping"),
    "optimizer/lr": MetricInfo("", "learning rate of the update"),
    "time/sample_s": MetricInfo("s", "waiting for episodes and their rewards; sampled ahead: for sampled batches"),
    "time/guidance_s": MetricInfo("s", "waiting for scorers (teachers, reference) after the last episode"),
    "time/update_s": MetricInfo("s", "handing groups to the learners, and waiting for the optimizer step"),
    "time/sync_s": MetricInfo("s", "weights from learners to engines"),
    "time/evaluate_s": MetricInfo("s", "held-out evaluation"),
    "checkpoint/failures": MetricInfo("checkpoints", "that could not be written, since the run began or was resumed"),
    "time/checkpoint_s": MetricInfo("s", "writing a checkpoint"),
    "time/iteration_s": MetricInfo("s", "the whole iteration, evaluation included"),
    "time/total_s": MetricInfo("s", "wall time since the run began, restarts' downtime excluded"),
    "wait/env_runners": MetricInfo("share", "of the iteration in which the runners' engines did nothing, mean"),
    "wait/teachers": MetricInfo("share", "of the iteration in which the scorers (teachers, reference) waited, mean"),
    "wait/learners": MetricInfo("share", "of the iteration in which the learners waited for a command, mean"),
    "throughput/response_tokens_per_s": MetricInfo("tokens/s", "response tokens of the iteration over its wall time"),
    "throughput/trained_tokens_per_s": MetricInfo("tokens/s", "tokens/trained over time/update_s"),
    "tokens/response": MetricInfo("tokens", "response tokens of the iteration"),
    "tokens/trained": MetricInfo("tokens", "the policy's tokens that the iteration's updates trained on"),
    "tokens/total": MetricInfo("tokens", "response tokens of the run so far, evaluation excluded"),
    "evaluation/accuracy": MetricInfo("share", "held-out responses judged right, mean over sets and samples"),
    "evaluation/reward": MetricInfo("reward", "mean held-out reward"),
    "evaluation/response_length": MetricInfo("tokens", "mean length of a held-out response"),
    "evaluation/truncated": MetricInfo("share", "held-out responses cut by the token limit"),
    "evaluation/failures": MetricInfo("evaluations", "that raised an error, since the run began or was resumed"),
    "evaluation/num_problems": MetricInfo("problems", "problems in the held-out sets"),
    "evaluation/overlong_prompts": MetricInfo("problems", "of the held-out sets, left out: their prompts are too long"),
}
"""Every name that the package writes. A named evaluation set adds `evaluation/<set>/accuracy` and so on. `pass@k` has
the name `evaluation/pass_at_<k>`. Algorithms may add names under `loss/`, `policy/` and `guidance/`."""

# The same metrics by the position in the response: a policy may leave its teacher late in a long answer.
for _name in ("agreement", "argmax_agreement", "log_ratio"):
    for _stretch in ("0-63", "64-255", "256-1023", "1024-4095", "4096+"):
        _unit = METRICS[f"guidance/{_name}"].unit
        METRICS[f"guidance/{_name}/{_stretch}"] = MetricInfo(_unit, f"the same, response tokens {_stretch} alone")
