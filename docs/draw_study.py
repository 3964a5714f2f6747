"""Draws docs/study.svg, held-out accuracy over the updates in several studies, from the folders of their runs.

tgpo-ray study yaml/studies/lookup_chain/n64.yaml num_cpus=8 at_once=2     # beforehand; of seeds 0 to 4 what is there
python docs/draw_study.py yaml/studies/lookup_chain/n64.yaml yaml/studies/lookup_chain/n256.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tgpo_ray.reporting import style
from tgpo_ray.studies import StudyConfig, folder_of, load_study, outcomes

PICTURE = Path(__file__).with_name("study.svg")
METRIC = "evaluation/accuracy"
# ids that are the same each time; text stays text
RC_PARAMS: Any = {
    "svg.hashsalt": "study",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(axes: Any, study: StudyConfig) -> None:
    """Draw the mean over the finished runs of each variant, and the runs themselves as thin lines."""
    found = [run for run in outcomes(study, str(folder_of(study))) if run.counts]
    for index, (name, variant) in enumerate(study.variants.items()):
        curves = [run.series(METRIC) for run in found if run.point.variant == name]
        if not curves:
            continue
        color, dash, marker = style(index)
        for iterations, values in curves if len(curves) > 1 else ():
            axes.plot(iterations, values, color=color, linewidth=0.6, alpha=0.35)
        mean = sum(values for _, values in curves) / len(curves)
        label = variant.label or name
        axes.plot(
            curves[0][0], mean, color=color, linestyle=dash, marker=marker, markersize=4, linewidth=1.8, label=label
        )
    axes.set(title=study.title, xlabel="update", ylim=(0, 1))
    axes.grid(color="#e6e8ee")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", help="YAML files of studies whose runs have been made")
    studies = [load_study(path, ["seeds=[0,1,2,3,4]"]) for path in parser.parse_args().studies]
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(4.4 * len(studies), 4.6), layout="constrained")
        panels = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
        for axes, study in zip(panels, studies, strict=True):
            draw(axes, study)
        panels[0].set_ylabel("held-out accuracy")
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(PICTURE, metadata={"Date": None})
    lines = PICTURE.read_text(encoding="utf-8").splitlines()
    PICTURE.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")  # matplotlib leaves blanks


if __name__ == "__main__":
    main()
