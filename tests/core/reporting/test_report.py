"""The report: honest sentences, figures that equal the rows, a page that is safe and complete in itself."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tgpo_ray.reporting.metrics import JsonlWriter
from tgpo_ray.reporting.report import RunRecord, conclude, load_run, write_report
from tgpo_ray.reporting.report.conclusions import summarize
from tgpo_ray.reporting.report.page import flatten
from tgpo_ray.reporting.report.plots import moving_average, stage_seconds
from tgpo_ray.reporting.report.samples import HEAD, TAIL, pick, shorten


def record(
    label: str, accuracies: dict[int, float], *, problems: int | None = None, last: int = 20, **config
) -> RunRecord:
    rows: list[dict] = []
    for i in range(last + 1):
        row: dict = {"iteration": i}
        if i > 0:
            row |= {"reward": i / last, "time/iteration_s": 2.0, "tokens/response": 100.0}
        if i in accuracies:
            row["evaluation/accuracy"] = accuracies[i]
            if problems is not None:
                row["evaluation/num_problems"] = problems
        rows.append(row)
    config = {"algorithm": label, **config}
    if config["algorithm"] == "TGPO":  # its resolved configuration has teachers
        config = {"teachers": {"default": {"path": "t"}}, **config}
    return RunRecord(label, rows, config)


def sample(iteration: int, outcomes: list[str], text: str = "text") -> dict:
    return {
        "iteration": iteration,
        "phase": "train",
        "prompt": "2 + 2 = ?",
        "responses": [f"{text} {i}" for i in range(len(outcomes))],
        "rewards": [float(outcome == "correct") for outcome in outcomes],
        "outcomes": outcomes,
    }


class Page(HTMLParser):
    """Collects the tags, and every attribute value, of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_summary_equals_the_rows():
    summary = summarize(record("TGPO", {0: 0.2, 10: 0.7, 20: 0.6}, problems=100))
    assert (summary.start, summary.end, summary.best, summary.best_iteration) == (0.2, 0.6, 0.7, 10)
    assert summary.change == pytest.approx(0.4)
    assert summary.reward == pytest.approx(np.mean([i / 20 for i in range(11, 21)]))  # the last 10 iterations
    assert (summary.wall_s, summary.tokens) == (40.0, 2000.0)  # 20 iterations of 2 s and 100 tokens
    assert summary.standard_error == pytest.approx(0.04899, abs=1e-5)  # sqrt(0.6 * 0.4 / 100)


def test_running_totals_win_over_sums():
    rows = [{"iteration": 1, "time/iteration_s": 5.0, "time/total_s": 9.0, "tokens/total": 7.0}]
    summary = summarize(RunRecord("x", rows))
    assert (summary.wall_s, summary.tokens) == (9.0, 7.0)


def test_conclusions_when_the_guided_run_wins():
    lines = conclude([record("TGPO", {0: 0.2, 20: 0.64}), record("GRPO", {0: 0.2, 20: 0.6})])
    assert lines == [
        "TGPO ended 0.04 above GRPO.",
        "TGPO rose from 0.20 to 0.64 (+0.44).",
        "GRPO rose from 0.20 to 0.60 (+0.40).",
    ]


@pytest.mark.parametrize("guided_first", [True, False])
def test_conclusions_when_guidance_loses(guided_first):
    runs = [record("TGPO", {0: 0.2, 20: 0.55}), record("GRPO", {0: 0.2, 20: 0.63})]
    lines = conclude(runs if guided_first else runs[::-1])
    assert lines[0] == "GRPO ended 0.08 above TGPO: on this task guidance did not win."


def test_conclusions_say_when_chance_explains_the_gap():
    # se = sqrt(.64 * .36 / 200) = 0.0339 and sqrt(.6 * .4 / 200) = 0.0346; 1.96 * sqrt(.0339^2 + .0346^2) = 0.095
    lines = conclude(
        [record("TGPO", {0: 0.2, 20: 0.64}, problems=200), record("GRPO", {0: 0.2, 20: 0.6}, problems=200)]
    )
    assert lines[0].startswith("TGPO ended 0.04 above GRPO, which chance alone can explain (gaps of up to 0.10")
    lines = conclude([record("TGPO", {0: 0.2, 20: 0.9}, problems=200), record("GRPO", {0: 0.2, 20: 0.6}, problems=200)])
    assert lines[0] == "TGPO ended 0.30 above GRPO."


def test_conclusions_on_equal_ends_name_no_winner():
    assert conclude([record("TGPO", {0: 0.2, 20: 0.6}), record("GRPO", {0: 0.2, 20: 0.602})])[0] == (
        "TGPO and GRPO ended level, at 0.60."
    )


def test_conclusions_tell_of_harm_and_of_a_lost_best():
    assert conclude([record("TGPO", {0: 0.3, 20: 0.1})]) == [
        "TGPO fell from 0.30 to 0.10 (-0.20): this training did harm."
    ]
    assert conclude([record("TGPO", {0: 0.3, 10: 0.8, 20: 0.5})]) == [
        "TGPO rose from 0.30 to 0.50 (+0.20), 0.30 below its best of 0.80 at iteration 10."
    ]


def test_a_fall_within_chance_is_not_called_harm():
    # se = sqrt(0.08 * 0.92 / 256) = 0.017, so two evaluations may differ by 1.96 * sqrt(2) * 0.017 = 0.047
    assert conclude([record("GRPO", {0: 0.1, 20: 0.08}, problems=256)]) == [
        "GRPO fell from 0.10 to 0.08 (-0.02), within chance."
    ]


def test_a_run_with_teachers_is_guided_whatever_its_method():
    runs = [record("GRPO", {0: 0.2, 20: 0.6}), record("KDRL", {0: 0.2, 20: 0.4}, teachers={"default": {"path": "t"}})]
    assert conclude(runs)[0] == "GRPO ended 0.20 above KDRL: on this task guidance did not win."


def test_guided_runs_are_compared_with_the_others_of_their_seed():
    runs = [
        record(f"{name} {seed}", {0: 0.2, 20: end}, algorithm=name, seed=seed)
        for name, seed, end in (("TGPO", 0, 0.8), ("GRPO", 0, 0.3), ("TGPO", 1, 0.7), ("GRPO", 1, 0.5))
    ]
    assert conclude(runs)[:2] == ["TGPO 0 ended 0.50 above GRPO 0.", "TGPO 1 ended 0.20 above GRPO 1."]


def test_many_runs_are_ranked():
    runs = [
        record(f"run{i}", {0: 0.3, 20: i / 10}, problems=100, algorithm="TGPO" if i % 2 else "GRPO") for i in range(8)
    ]
    assert conclude(runs) == [
        "run7 ended highest of 8 runs, at 0.70.",
        "In order: run7 0.70, run6 0.60, run5 0.50, run4 0.40, run3 0.30, run2 0.20, run1 0.10, run0 0.00.",
        "Training did harm to run1 and run0.",  # 0.20 is within 1.96 * sqrt(2) * 0.04 of 0.30
        "Chance alone can explain gaps of up to 0.14 at this number of held-out problems.",
    ]
    assert len(conclude(runs[:7])) > 7


def test_nothing_is_concluded_without_an_evaluation_after_training():
    for accuracies in ({}, {0: 0.3}):
        assert conclude([record("TGPO", accuracies)]) == [
            "TGPO recorded no held-out accuracy after training: nothing is concluded."
        ]
    assert conclude([record("TGPO", {20: 0.6})]) == [
        "TGPO ended at 0.60; its base was not evaluated, so its gain is unknown."
    ]


def test_conclusions_name_unequal_budgets_and_starts():
    lines = conclude([record("TGPO", {0: 0.2, 20: 0.6}), record("GRPO", {0: 0.3, 10: 0.5}, last=10)])
    assert "The budgets differ, in iterations: TGPO 20 and GRPO 10." in lines
    assert "The runs did not start from the same accuracy (0.20 to 0.30)." in lines


def test_conclusions_between_two_unguided_runs_do_not_speak_of_guidance():
    lines = conclude(
        [record("A", {0: 0.2, 20: 0.5}, algorithm="GRPO"), record("B", {0: 0.2, 20: 0.6}, algorithm="SFT")]
    )
    assert lines[0] == "B ended 0.10 above A: on this task A did not win."


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    runs = [record("TGPO", {0: 0.2, 10: 0.4, 20: 0.6}), record("GRPO", {0: 0.2, 10: 0.5, 20: 0.5})]
    text = write_report(tmp_path / "sub" / "report.html", runs, title="Demo", notes="One note.").read_text("utf-8")
    page = Page(text)
    assert "://" not in text and "@import" not in text
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    inside = re.compile(r"#[\w-]+$")  # markers of the plots point into the page
    assert all(inside.match(value) for name, value in page.attributes if name in {"href", "src", "xlink:href"})
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "One note." in text and text.count("<figure") == 3  # accuracy, reward and time were recorded


def test_ids_of_different_plots_do_not_meet(tmp_path):
    text = write_report(tmp_path / "r.html", [record("TGPO", {0: 0.2, 20: 0.6})], title="x").read_text("utf-8")
    page = Page(text)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    used = {value[1:] for name, value in page.attributes if name in {"href", "xlink:href"}}
    used |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids)


def test_text_from_models_is_escaped_everywhere(tmp_path):
    bad = "<script>alert(1)</script>"
    sets = {f"evaluation/{name}/accuracy": 0.5 for name in (bad, 'x"><img src=x onerror=alert(1)>')}
    rows = [{**row, **sets} for row in record(bad, {0: 0.1, 20: 0.2}).metrics]
    run = RunRecord(
        bad, rows, {"algorithm": bad, bad: {"x": bad}}, [sample(1, ["correct", bad], bad) | {"prompt": bad}]
    )
    other = record("GRPO", {0: 0.1, 20: 0.3})
    text = write_report(tmp_path / "r.html", [run, other], title=bad, notes=[bad]).read_text("utf-8")
    assert "<script" not in text and "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_same_runs_give_the_same_page(tmp_path):
    runs = [record("TGPO", {0: 0.2, 20: 0.6})]
    pages = [write_report(tmp_path / name, runs, title="x").read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_a_run_without_any_figure_still_gives_a_page(tmp_path):
    text = write_report(tmp_path / "r.html", [RunRecord("TGPO", [])], title="x").read_text("utf-8")
    assert "nothing is concluded" in text and "<figure" not in text


def test_a_report_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 run, got 0"):
        write_report(tmp_path / "r.html", [], title="x")


def test_settings_in_which_runs_differ_are_listed(tmp_path):
    runs = [
        record("A", {0: 0.2}, algorithm="TGPO", training={"lr": 0.5, "group_size": 8}),
        record("B", {0: 0.2}, algorithm="TGPO", training={"lr": 0.25, "group_size": 8}),
    ]
    text = write_report(tmp_path / "r.html", runs, title="x").read_text("utf-8")
    assert "<tr><td>training.lr</td><td>0.5</td><td>0.25</td></tr>" in text
    assert "<td>training.group_size</td>" not in text
    assert flatten({"a": {"b": {"c": 1}}, "d": [], "e": {}}) == {"a.b.c": 1, "d": [], "e": {}}


def test_samples_show_a_right_and_a_wrong_response_of_the_first_and_last_iteration(tmp_path):
    samples = [sample(i, ["wrong", "correct", "correct"], f"it{i}") for i in (1, 2, 3)]
    run = RunRecord("TGPO", [], {}, samples)
    text = write_report(tmp_path / "r.html", [run], title="x").read_text("utf-8")
    assert re.findall(r"it\d \d", text) == ["it1 1", "it1 0", "it3 1", "it3 0"]  # the right one first
    assert "2 of 3 right" in text


def test_a_mixed_sample_is_preferred_then_a_right_one():
    wrong, right, mixed = sample(1, ["wrong"]), sample(1, ["correct"]), sample(1, ["wrong", "correct"])
    assert pick([wrong, right, mixed]) is mixed
    assert pick([wrong, right]) is right
    assert pick([wrong, sample(1, ["timeout"])]) is wrong


def test_the_middle_of_a_long_response_is_counted_not_shown():
    text = shorten("a" * HEAD + "b" * 1234 + "c" * TAIL)
    assert "b" not in text.replace("[... 1,234 characters left out ...]", "")
    assert text.count("a") - "characters".count("a") == HEAD and text.endswith("c" * TAIL)


def test_moving_average_uses_what_exists_at_the_beginning():
    # 1; (1+3)/2; (3+5)/2; (5+7)/2
    assert moving_average(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_time_that_no_stage_explains_is_shown_as_other():
    rows = [{"iteration": i, "time/sample_s": 1.0, "time/update_s": 0.5, "time/iteration_s": 2.0} for i in (1, 2)]
    seconds = stage_seconds(RunRecord("x", rows))
    assert (seconds["sample"], seconds["update"], seconds["other"], seconds["sync"]) == (1.0, 0.5, 0.5, 0.0)


def test_a_run_folder_is_read_back(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write(0, {"evaluation/accuracy": 0.5, "loss/total": float("nan")})
    writer.close()
    (tmp_path / "config.yaml").write_text("algorithm: TGPO\ntraining: {lr: 0.5}\nteachers: {default: {path: t}}\n")
    (tmp_path / "samples.jsonl").write_text('{"iteration": 1, "phase": "train", "prompt": "p"}\n{"iterat')
    run = load_run(tmp_path)
    assert (run.label, run.config["training"], len(run.samples)) == ("TGPO", {"lr": 0.5}, 1)
    assert run.series("evaluation/accuracy")[1].tolist() == [0.5]
    assert len(run.series("loss/total")[0]) == 0  # null is no point
    assert load_run(tmp_path, label="seed 1").label == "seed 1"
    assert run.is_guided


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no metrics\.jsonl"):
        load_run(tmp_path)


@pytest.mark.parametrize("text", ["a: [", "- 1\n"])
def test_an_unreadable_config_is_named(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        load_run(tmp_path)
