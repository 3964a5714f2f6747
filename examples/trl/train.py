"""Guidance in TRL, by a GRPOTrainer whose loss also raises the teacher's tokens on the policy's own completions.

    python examples/pytorch/tiny_models.py            # a tiny teacher and policy, 30 s
    python examples/trl/train.py                      # GRPO with guidance on tgpo/Arithmetic-v0
    python examples/trl/train.py --weight 0           # GRPO as TRL has it

`--policy` and `--teacher` take any two causal models of one vocabulary. One process or plain data parallelism.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from tgpo_ray.envs import as_trl_reward, trl_rows
from tgpo_ray.guidance import LinearDecay, fused_guidance_loss

ROOT = Path(__file__).resolve().parents[2]
ENV_ID, TASK = "tgpo/Arithmetic-v0", {"operation": "add", "digits": [2, 1]}


class GuidedGRPOTrainer(GRPOTrainer):
    """GRPO's loss + w_t / Z * sum of -log pi(y^T_it | x_i, y_i<t) over completion tokens; t = `state.global_step`.

    Z is the number of completion tokens that share an optimizer step, on all ranks. The teacher reads each batch of
    completions once, when it is generated. The policy's final hidden states are taken from TRL's own forward pass, so
    guidance adds no second one, and no (B, T, V) logits of the policy.

    Raises:
        ValueError: TRL is of another version, models are sharded or wrapped, or the LM head is not plain.
    """

    model: Any  # a PreTrainedModel, which TRL and transformers type more loosely
    args: Any  # a GRPOConfig

    def __init__(self, *args: Any, teacher: PreTrainedModel, weight: LinearDecay, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _require_plain(self)
        self.teacher: Any = teacher.eval().requires_grad_(False)
        self.teacher.to(self.accelerator.device)
        self.guidance_weight = weight
        self._hidden = torch.empty(0)
        self.model.base_model.register_forward_hook(self._keep_hidden)

    def _keep_hidden(self, module: Any, inputs: Any, output: Any) -> None:
        self._hidden = output.last_hidden_state  # (B, P+T, D)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        end = self.guidance_weight.last_step()
        if self.model.training and (end is None or self.state.global_step < end):
            batch["teacher_ids"] = self._teacher_argmax(batch)  # TRL shuffles and splits it with the rest
        return batch

    @torch.no_grad()
    def _teacher_argmax(self, batch: dict[str, Any]) -> torch.Tensor:
        """(B, T) the teacher's tokens, -1 where the completion is over or a tool wrote it."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        num_kept = batch["completion_ids"].shape[1] + 1
        size = self.args.per_device_train_batch_size
        argmax = [
            self.teacher(input_ids=a, attention_mask=b, logits_to_keep=num_kept).logits[:, :-1].argmax(-1)
            for a, b in zip(ids.split(size), attention.split(size), strict=True)
        ]
        return torch.cat(argmax).masked_fill(_response_mask(batch) == 0, -1)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        weight = self.guidance_weight(self.state.global_step)
        if weight == 0.0 or "teacher_ids" not in inputs:
            return loss
        teacher_ids = inputs["teacher_ids"]  # (B, T)
        hidden = self._hidden[:, -teacher_ids.shape[1] - 1 : -1]  # (B, T, D), those before each completion token
        self._hidden = torch.empty(0)  # frees the activations of this step
        head = self.model.get_output_embeddings().weight
        guidance = fused_guidance_loss(hidden, head, teacher_ids, temperature=self.temperature)
        # `num_items_in_batch` counts the tokens of all ranks in a generation batch; Z those of one optimizer step
        share = self.current_gradient_accumulation_steps / self.args.steps_per_generation
        num_tokens = inputs["num_items_in_batch"].clamp(min=1) * share / self.accelerator.num_processes
        self._log_guidance(guidance, weight, inputs)
        return loss + weight * guidance / num_tokens

    def _log_guidance(self, guidance: torch.Tensor, weight: float, inputs: dict[str, Any]) -> None:
        guided = inputs["teacher_ids"] >= 0
        agree = ((inputs["teacher_ids"] == inputs["completion_ids"]) & guided).sum()
        sums: Any = torch.stack([guidance.detach().float(), agree.float(), guided.sum().float()])
        sums = self.accelerator.reduce(sums, reduction="sum")
        nll, agreement, count = sums.tolist()
        values = {"weight": weight, "nll": nll / max(count, 1.0), "sample_agreement": agreement / max(count, 1.0)}
        for name, value in values.items():
            self._metrics["train"][f"guidance/{name}"].append(value)


def _response_mask(batch: dict[str, Any]) -> torch.Tensor:
    return batch["completion_mask"] * batch.get("tool_mask", 1)


def _require_plain(trainer: GuidedGRPOTrainer) -> None:
    if not trl.__version__.startswith("1.16."):
        raise ValueError(f"trl must be 1.16, got {trl.__version__}: compare the overridden methods with its source")
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or not isinstance(trainer.model, PreTrainedModel):
        raise ValueError("the model must be whole and unwrapped (no ZeRO-3, FSDP or PEFT): guidance reads its LM head")
    policy: Any = trainer.model
    head, config = policy.get_output_embeddings(), policy.config.get_text_config()
    scales = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
    if head.bias is not None or any(getattr(config, name, None) is not None for name in scales):
        raise ValueError(f"logits must be hidden @ head.T, but {config.model_type} has a bias, a scale or a cap")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default=str(ROOT / ".cache" / "plugs" / "policy"))
    parser.add_argument("--teacher", default=str(ROOT / ".cache" / "plugs" / "teacher"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--weight", type=float, default=0.3, help="of guidance at step 0; it falls to 0 at two thirds")
    parser.add_argument("--output", default=str(ROOT / "runs" / "trl"))
    options = parser.parse_args()
    tokenizer = same_tokenizer(options.policy, options.teacher)
    arguments = GRPOConfig(
        output_dir=options.output, max_steps=options.steps, learning_rate=3e-4, lr_scheduler_type="constant",
        per_device_train_batch_size=64, num_generations=8, max_completion_length=24,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, seed=0,
        use_cpu=not torch.cuda.is_available(), bf16=torch.cuda.is_available(), gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GuidedGRPOTrainer(
        model=options.policy,
        reward_funcs=as_trl_reward(ENV_ID, **TASK),
        args=arguments,
        train_dataset=Dataset.from_list(trl_rows(ENV_ID, count=2000, **TASK)),
        processing_class=tokenizer,
        teacher=AutoModelForCausalLM.from_pretrained(options.teacher),
        weight=LinearDecay(options.weight, decay=1.5 * options.weight / options.steps),
    )
    trainer.train()


def same_tokenizer(policy: str, teacher: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(policy)
    if tokenizer.get_vocab() != AutoTokenizer.from_pretrained(teacher).get_vocab():
        raise ValueError(f"{policy} and {teacher} must share a vocabulary: two need a tgpo_ray.guidance.VocabularyMap")
    return tokenizer


if __name__ == "__main__":
    main()
