"""Taught: the part of an iteration that all methods with a teacher share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tgpo_ray.driver import OnPolicyAlgorithm
from tgpo_ray.guidance import AdaptiveSchedule, BalancedWeight

from .weight_schedules import weight_at

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.teachers import GroupRequest, TeacherGroup

    from .taught_config import TaughtConfig

TaughtConfigT = TypeVar("TaughtConfigT", bound="TaughtConfig")


class Taught(OnPolicyAlgorithm[TaughtConfigT]):
    """An algorithm whose teachers score the groups while the scheduled weight of their term is above 0.

    w_t is constant over the updates of iteration t, counted from 0. At w_t = 0 no teacher is called. Once it stays 0,
    the teachers started here end, and their resources return to the cluster. An adaptive schedule observes the metrics
    of each iteration and of each evaluation, and a checkpoint has its state.

    A method defines the answers that it needs (`wanted`), the groups that it needs them for (`asks_teacher`), and their
    place in its loss.
    """

    teachers: Mapping[str, TeacherGroup]  # by name; empty once they are released

    def wanted(self) -> set[str]:
        """The answers that the teacher gives: argmax, sample, logprob, topk:<k>, hidden."""
        return {"argmax"}

    def asks_teacher(self, group: SampledGroup) -> bool:
        """Whether this group goes to its teacher. Others train without guidance. True by default."""
        return True

    # ---- the schedule

    @property
    def guidance_weight(self) -> float:
        """w_t of the iteration that is being learned.

        Raises:
            ValueError: a schedule of one's own gives none that is finite and at least 0.
        """
        return weight_at(self.schedule, self.iteration)

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        super().build_scorers(teachers)
        self.schedule = self.config.guidance.build_schedule(self.num_iterations)
        self.teachers = teachers or {}
        if teachers is None and self.schedule.last_step() != 0:
            self._start_teachers()

    def _start_teachers(self) -> None:
        from tgpo_ray.teachers import build_teachers

        self.teachers = build_teachers(self.config, self.config.teacher_pools(), unmapped=self.config.unmapped)
        for group in self.teachers.values():
            self._own(group)

    def begin_iteration(self) -> None:
        """Releases the teachers once their weight stays 0, and starts them where they are needed again.

        Ahead of the learners they may still score the batch before this one. Then a later iteration releases them.
        """
        super().begin_iteration()
        if self.schedule(self.sampling_iteration) == 0.0:
            self._release_teachers()
        elif not self.teachers:  # a checkpoint took the run back behind their release
            self._start_teachers()
            for group in self.teachers.values():
                group.wait_until_ready()

    def _release_teachers(self) -> None:
        last = self.schedule.last_step()
        is_over = last is not None and self.sampling_iteration >= last
        if is_over and self.teachers and not any(group.num_open for group in self.teachers.values()):
            for group in self.teachers.values():
                self._disown(group)
            self.teachers = {}
            print(
                f"guidance: w = 0 after iteration {self.sampling_iteration}; the teachers' resources return", flush=True
            )

    def training_step(self) -> Metrics:
        metrics = super().training_step()
        self._observe(self.iteration, metrics)
        return metrics

    def evaluate(self) -> tuple[Metrics, list[SampledGroup]]:
        metrics, groups = super().evaluate()
        self._observe(self.iteration, metrics)
        return metrics, groups

    def _observe(self, iteration: int, metrics: Metrics) -> None:
        if isinstance(self.schedule, AdaptiveSchedule):
            self.schedule.observe(iteration, metrics)

    def state_dict(self) -> dict[str, Any]:
        """The driver's state, with that of an adaptive schedule."""
        state = super().state_dict()
        if isinstance(self.schedule, AdaptiveSchedule):
            state["schedule"] = {"name": self.config.guidance.schedule, "state": self.schedule.state_dict()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to a saved state. A schedule that the checkpoint does not know begins at its first weight."""
        super().load_state_dict(state)
        if not isinstance(self.schedule, AdaptiveSchedule):
            return
        saved, name = state.get("schedule"), self.config.guidance.schedule
        if saved is not None and saved["name"] == name:
            self.schedule.load_state_dict(saved["state"])
        else:
            print(f"guidance: the checkpoint has no state of schedule {name}, which begins anew", flush=True)
            self.schedule = self.config.guidance.build_schedule(self.num_iterations)

    # ---- scoring

    def scorers(self) -> list[TeacherGroup]:
        return [*self.teachers.values(), *super().scorers()]

    def scoring_requests(self, group: SampledGroup) -> list[GroupRequest]:
        """The requests to the reference, where there is one, and to the teacher of the group's environment."""
        from tgpo_ray.teachers import GroupRequest

        requests = super().scoring_requests(group)
        if self.schedule(self.sampling_iteration) == 0.0 or not self.asks_teacher(group):
            return requests
        teacher = self.teachers[self.config.envs[group.task.env_index].teacher]
        return [*requests, GroupRequest("teacher", teacher, self._wanted_now())]

    def _wanted_now(self) -> set[str]:
        """`wanted`, and the sampled token's log-prob where the report shows the iteration's tokens: no further pass."""
        wanted = self.wanted()
        reads_logits = "hidden" not in wanted
        return wanted | {"logprob"} if reads_logits and self.shows_tokens(self.sampling_iteration) else wanted

    def check_metrics(self, metrics: Metrics) -> Metrics:
        """The metrics with `guidance/weight`, `guidance/unmapped` and `guidance/unguided_episodes`.

        Raises:
            RuntimeError: the policy's vocabulary lacks more than `guidance.max_unmapped_share` of the teacher's tokens.
        """
        metrics = super().check_metrics(metrics) | {"guidance/weight": self.guidance_weight}
        if isinstance(self.schedule, BalancedWeight):
            metrics |= self.schedule.metrics()
        if "guidance/coverage" not in metrics:
            return metrics
        unguided = [group for group in self.sampled if "teacher" not in group.guidance]
        # A group that no teacher scored lacks guidance too, so its tokens are not counted as unmapped.
        unguided_share = num_tokens(unguided) / num_tokens(self.sampled)
        unmapped = max(0.0, 1.0 - unguided_share - metrics["guidance/coverage"])
        limit = self.config.guidance.max_unmapped_share
        if unmapped > limit:
            raise RuntimeError(
                f"{unmapped:.1%} of the teacher's tokens have no id in the policy's vocabulary, above "
                f"guidance.max_unmapped_share = {limit:g}: choose a teacher with the policy's tokenizer, set "
                "guidance.unmapped: first_piece, or raise the limit"
            )
        return metrics | {
            "guidance/unmapped": unmapped,
            "guidance/unguided_episodes": sum(len(group.infos) for group in unguided if self.asks_teacher(group))
            / sum(len(group.infos) for group in self.sampled),
        }


def num_tokens(groups: Sequence[SampledGroup]) -> int:
    """The number of the policy's tokens in these groups."""
    return sum(group.num_policy_tokens for group in groups)
