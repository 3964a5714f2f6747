"""The YAML file of a study and the runs that follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.core.studies.study_folders import BASE, make_study
from tests.paths import YAML
from tgpo_ray.config import ConfigError, dump_yaml, load_yaml
from tgpo_ray.studies import configs, load_study, points
from tgpo_ray.studies.points import config_of, preparations

PARTS = ("sizes.yaml", "paper_data.yaml", "traces.yaml")  # no studies by themselves
STUDIES = [path for path in sorted((YAML / "studies").rglob("*.yaml")) if path.name not in PARTS]


def write(path: Path, **data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml(data))
    return path


def test_variants_times_seeds_the_first_seed_first() -> None:
    names = [point.name for point in points(make_study(seeds=[3, 4]))]
    assert names == ["grpo-seed3", "tgpo-seed3", "grpo-seed4", "tgpo-seed4"]


def test_a_run_has_the_base_the_studys_keys_the_variants_and_the_seed() -> None:
    study = make_study(set={"training.lr": 1e-4, "guidance.decay": 1e-5, "guidance.weight": 9.0})
    made = configs(study, "/runs")
    tgpo, grpo = made["tgpo-seed2"], made["grpo-seed0"]
    assert (tgpo.seed, tgpo.name, tgpo.checkpointing.storage_path) == (2, "tgpo-seed2", "/runs")
    assert tgpo.to_dict()["guidance"]["weight"] == 0.1  # the variant's own wins
    assert tgpo.to_dict()["guidance"]["decay"] == 1e-5
    assert tgpo.training.lr == grpo.training.lr == 1e-4
    assert "guidance" not in grpo.to_dict()  # GRPO has no such section


def test_a_key_that_no_variant_has_is_an_error_and_so_is_a_variants_own() -> None:
    with pytest.raises(ConfigError, match=r"set\.training\.rate: no method has this key"):
        configs(make_study(set={"training.rate": 1.0, "traces.path": "x"}), "/runs")
    with pytest.raises(ConfigError, match=r"variants\.grpo: guidance: GRPO has no such section"):
        configs(make_study(variants={"grpo": {"set": {"algorithm": "GRPO", "guidance.weight": 1.0}}}), "/runs")


@pytest.mark.parametrize(
    ("key", "value", "variants"),
    [
        ("teacher.path", "near", {"tgpo"}),
        ("teachers.default.path", "near", {"tgpo"}),
        ("envs.0.kwargs.path", "rows.jsonl", {"tgpo", "grpo"}),
        ("evaluation.envs.0.kwargs.path", "rows.jsonl", {"tgpo", "grpo"}),
        ("guidance", {"weight": 0.5}, {"tgpo"}),
    ],
)
def test_the_studys_keys_go_where_they_exist(key: str, value: Any, variants: set[str]) -> None:
    study, plain = make_study(set={key: value}, variants=_plain()), make_study(variants=_plain())
    changed = {
        point.variant
        for point in points(study)
        if config_of(study, point, "r").to_dict() != config_of(plain, point, "r").to_dict()
    }
    assert changed == variants


def _plain() -> dict[str, Any]:
    return {"grpo": {"base": make_study().variants["grpo"].base}, "tgpo": {}}


def test_a_place_in_a_list_that_no_variant_has_is_left_out() -> None:
    study = make_study(set={"evaluation.envs.1.name": "second"})
    assert len(config_of(study, points(study)[0], "r").evaluation.envs) == 1


def test_a_section_may_be_given_whole_and_its_keys_too() -> None:
    variants = {"rkl": {"set": {"algorithm": "RKL", "teacher": {"path": "far"}}}}
    study = make_study(variants=variants, baseline=None, set={"teacher.num_cpus_per_replica": 0.5}, base={**BASE})
    config = config_of(study, points(study)[0], "/runs")
    assert config.teacher_pools()["default"].num_cpus_per_replica == 0.5


def test_the_seed_stands_in_paths() -> None:
    study = make_study(set={"model.path": "models/seed-{seed}/policy"})
    assert {config.model.path for config in configs(study, "r").values()} == {
        f"models/seed-{seed}/policy" for seed in (0, 1, 2)
    }


def test_a_grid_and_a_search_give_every_seed_the_same_values() -> None:
    search = {"guidance.weight": {"loguniform": [1e-3, 1.0]}, "training.group_size": {"choice": [4, 8]}}
    variants = {"tgpo": {}}
    study = make_study(
        variants=variants, baseline=None, grid={"training.lr": [1e-4, 1e-3]}, search=search, num_samples=3, seeds=[0, 1]
    )
    found = points(study)
    assert len(found) == 2 * 3 * 2 and len({point.cell for point in found}) == 6
    assert [point.values for point in found[:6]] == [point.values for point in found[6:]]
    assert all(1e-3 <= point.values["guidance.weight"] <= 1.0 for point in found)
    assert points(study)[0].values == found[0].values  # the draws have a seed
    config = config_of(study, found[0], "r")
    assert (config.training.lr, config.to_dict()["training"]["group_size"]) == (
        1e-4,
        found[0].values["training.group_size"],
    )
    assert "/" not in found[0].name and found[0].name.startswith("tgpo-training.lr=0.0001-guidance.weight=")


def test_members_of_a_population_may_begin_alike_and_searched_values_are_tried_once() -> None:
    choice = {"training.lr": {"choice": [0.1, 0.2]}}
    population = {"pbt": {"every": 2, "mutate": choice}, "variants": {"tgpo": {}}, "baseline": None, "seeds": [0]}
    names = [point.name for point in points(make_study(**population, num_samples=5))]
    assert len(set(names)) == 5 and names[0].startswith("tgpo-member-0-training.lr=0.")
    assert len(points(make_study(search=choice, variants={"tgpo": {}}, baseline=None, seeds=[0], num_samples=9))) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"baseline": "grop"}, "baseline: no variant 'grop'; there is: grpo, tgpo"),
        ({"seeds": [1, 1]}, "seeds: needs different numbers"),
        ({"base": None}, r"variants\.tgpo\.base: required"),
        ({"asha": {}, "pbt": {"every": 2, "mutate": {"training.lr": {"uniform": [0.1, 1.0]}}}}, "keep one"),
        ({"search": {"training.lr": {"uniform": [1.0, 0.5]}}}, "a smaller and a larger number"),
        ({"search": {"training.lr": {"loguniform": [0.0, 0.5]}}}, "numbers above 0"),
        ({"search": {"training.lr": {}}}, "write one of choice, uniform, loguniform, randint, got none"),
        ({"paper_figures": [3]}, "2, 4, 5 or 6"),
        ({"asha": {}, "metric": "average/all", "averages": {"all": ["reward"]}}, "a scheduler needs one of the rows"),
        ({"metric": "average/all"}, "metric: no run writes 'average/all'"),
        ({"metric": "evaluation/acuracy"}, "metric: no run writes 'evaluation/acuracy'"),
        ({"averages": {"all": ["evaluation/A/acc"]}}, "metric: no run writes 'evaluation/A/acc'"),
        ({"averages": {"all": []}}, r"averages\.all"),
        ({"averages": {"all": ["average/all"]}}, "metric: no run writes 'average/all'"),
        ({"metric": "rewerd"}, "metric: no run writes 'rewerd'"),
        ({"figures": [{"title": "t", "panels": ["evaluation/acuracy"]}]}, "metric: no run writes"),
        ({"grid": {"seed": [1, 2]}}, "seed: is what the study gives each run; write `seeds` of the study"),
        ({"set": {"checkpointing.storage_path": "x"}}, "write `storage_path` of the study"),
        ({"grid": {"training.lr": []}}, r"grid\.training\.lr: needs at least 1 value"),
        ({"num_samples": 4}, "num_samples: counts draws of `search` or members of `pbt`, got 4 with neither"),
        ({"pbt": {"every": 2, "mutate": {"training.lr": {"uniform": [0.1, 1.0]}}}}, "pbt: has one variant and one"),
        ({"variants": {"a": {"label": "same"}, "b": {"label": "same"}}}, "two are called 'same' in the tables"),
        ({"variants": ["a"]}, r"variants: must be a map, got \['a'\]"),
        ({"variants": {"a": "x"}}, r"variants\.a: must be a map"),
        ({"set": ["training.lr"]}, "set: must be a map"),
        ({"extends": 5}, "extends: must be a list of names, got 5"),
        ({"keeps": [{"a": 1}]}, "keeps: must be a list of names"),
        ({"variants": {"a": {}, "b": None}}, "there is no 'b'"),
        (
            {"seeds": [0, 1], "prepare": [{"creates": "x", "run": "python a.py {seed}"}]},
            "prepare: 'x' is one file, and its command has",
        ),
        ({"prepare": [{"creates": "x", "run": ""}]}, r"prepare\.0\.run"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    data = {"base": BASE, "variants": {"grpo": {"base": BASE}, "tgpo": {}}, **fields}
    with pytest.raises(ConfigError, match=message):
        load_study(write(tmp_path / "s.yaml", **data))


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", base=BASE, variants={"a": {}}, seed=[0])
    with pytest.raises(ConfigError, match=r"seed: unknown key; did you mean 'seeds'\?"):
        load_study(path)


def test_a_twin_has_the_variants_of_the_study_that_it_extends_and_other_numbers(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "tgpo.yaml", **BASE)
    write(
        tmp_path / "big.yaml",
        base="runs/tgpo.yaml", seeds=[0, 1, 2], set={"training.lr": 1e-6, "training.num_iterations": 300},
        variants={"a": {"set": {"guidance.weight": 0.5}}, "b": {"label": "B"}},
    )  # fmt: skip
    tiny = write(
        tmp_path / "tiny" / "big.yaml",
        extends="../big.yaml", seeds=[0], set={"training.num_iterations": 2},
        variants={"a": {"set": {"guidance.decay": 0.1}}, "b": None},
    )  # fmt: skip
    study = load_study(tiny, ["at_once=3", "set.training.grad_clip=0.5"])
    assert (study.name, study.seeds, study.at_once, list(study.variants)) == ("big", [0], 3, ["a"])
    (config,) = configs(study, "r").values()
    assert (config.training.lr, config.num_iterations, config.training.grad_clip) == (1e-6, 2, 0.5)
    guidance = config.to_dict()["guidance"]
    assert (guidance["weight"], guidance["decay"]) == (0.5, 0.1)


def test_a_section_as_a_whole_takes_the_place_of_its_keys_below(tmp_path: Path) -> None:
    keys = {"envs.0.kwargs.path": "big.jsonl", "training.lr": 1.0}
    write(tmp_path / "big.yaml", set=keys, variants={"a": {"base": BASE}})
    write(tmp_path / "small.yaml", extends="big.yaml", set={"envs": [{"id": "tgpo/Arithmetic-v0"}]}, variants={})
    assert load_study(tmp_path / "small.yaml").set == {"training.lr": 1.0, "envs": [{"id": "tgpo/Arithmetic-v0"}]}


def test_a_study_that_extends_another_changes_a_number_in_all_its_texts(tmp_path: Path) -> None:
    write(
        tmp_path / "n9.yaml",
        title="{n} problems", values={"n": 9}, base=BASE, set={"training.num_iterations": "{n}"},
        variants={"a": {}}, prepare=[{"creates": "rows_{n}", "run": "python {here}/x.py {n} {seed}"}],
    )  # fmt: skip
    study = load_study(write(tmp_path / "n5.yaml", extends="n9.yaml", values={"n": 5}))
    assert (study.name, study.title, study.set) == ("n5", "5 problems", {"training.num_iterations": 5})
    assert list(preparations(study)) == [("rows_5", f"python {tmp_path}/x.py 5 0")]
    assert load_study(tmp_path / "n9.yaml", ["values.n=7"]).title == "7 problems"
    with pytest.raises(ConfigError, match=r"values: \{seed\} has a meaning of its own"):
        load_study(tmp_path / "n9.yaml", ["values.seed=7"])


def test_a_study_keeps_those_variants_of_the_other_that_it_names(tmp_path: Path) -> None:
    write(tmp_path / "below.yaml", base=BASE, variants={"a": {}, "b": {"label": "second"}, "c": {}})
    above = {"extends": "below.yaml", "variants": {"d": {}}}
    assert list(load_study(write(tmp_path / "two.yaml", **above, keeps=["b", "c"])).variants) == ["b", "c", "d"]
    assert load_study(tmp_path / "two.yaml").variants["b"].label == "second"
    assert list(load_study(write(tmp_path / "none.yaml", **above, keeps=[])).variants) == ["d"]
    with pytest.raises(ConfigError, match=r"variants of the extended study: there is no 'e' \(a, b, c\)"):
        load_study(write(tmp_path / "unknown.yaml", **above, keeps=["b", "e"]))
    with pytest.raises(ConfigError, match="none, because it extends no study"):
        load_study(write(tmp_path / "alone.yaml", base=BASE, keeps=["a"], variants={"a": {}}))


def test_a_variant_may_be_left_out_of_any_of_several_extended_studies(tmp_path: Path) -> None:
    write(tmp_path / "one.yaml", base=BASE, variants={"a": {}, "b": {}})
    write(tmp_path / "two.yaml", set={"training.lr": 0.1})
    path = write(tmp_path / "s.yaml", extends=["one.yaml", "two.yaml"], variants={"b": None})
    assert list(load_study(path).variants) == ["a"]


def test_a_metric_of_a_set_that_no_run_has_is_refused_and_so_is_a_scheduler_without_evaluations() -> None:
    with pytest.raises(ConfigError, match="evaluation/AIME24/accuracy is of a held-out set that a run has not"):
        configs(make_study(metric="evaluation/AIME24/accuracy"), "/runs")
    silent = make_study(asha={}, variants=_plain(), set={"evaluation.every": None})
    with pytest.raises(
        ConfigError, match=r"a scheduler compares evaluation/accuracy on the way: set evaluation\.every"
    ):
        configs(silent, "/runs")


def test_a_study_that_extends_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", extends="b.yaml", variants={})
    write(tmp_path / "b.yaml", extends="a.yaml", variants={})
    with pytest.raises(ConfigError, match="extends itself"):
        load_study(tmp_path / "a.yaml")


def test_preparations_are_made_for_each_seed_where_they_name_it() -> None:
    steps = [{"creates": "m/{seed}", "run": "tgpo-ray make-models --seed {seed}"}, {"creates": "d", "run": "python x"}]
    assert list(preparations(make_study(prepare=steps, seeds=[4, 5]))) == [
        ("m/4", "tgpo-ray make-models --seed 4"),
        ("m/5", "tgpo-ray make-models --seed 5"),
        ("d", "python x"),
    ]


def test_what_only_other_variants_need_is_not_prepared() -> None:
    steps = [{"creates": "all", "run": "python x"}, {"creates": "of_b", "run": "python y", "variants": ["b", "gone"]}]
    study = make_study(prepare=steps, variants={"a": {}, "b": {}}, baseline="a")
    assert [path for path, _ in preparations(study)] == ["all", "of_b"]
    kept = study.model_copy(update={"variants": {"a": study.variants["a"]}})
    assert [path for path, _ in preparations(kept)] == ["all"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.relative_to(YAML).as_posix())
def test_every_study_of_the_tree_makes_valid_runs(path: Path) -> None:
    study = load_study(path)
    for name, config in configs(study.model_copy(update={"seeds": study.seeds[:1]}), "runs").items():
        assert list(config.rules()) == [], name
        measured = {f"evaluation/{env.label}/accuracy" for env in config.evaluation.envs}
        assert {part for parts in study.averages.values() for part in parts} <= measured, name


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "fig2", "fig5"])
def test_a_tiny_twin_has_the_variants_of_the_full_size(name: str) -> None:
    full, tiny = (load_study(YAML / "studies" / folder / f"{name}.yaml") for folder in ("", "tiny"))
    assert list(tiny.variants) == list(full.variants) and tiny.paper_figures == full.paper_figures
    assert load_yaml((YAML / "studies" / "tiny" / f"{name}.yaml").read_text())["extends"][0] == f"../{name}.yaml"
