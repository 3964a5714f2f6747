"""docs/guidance.md runs as it stands, and the figure on it is what its command measures."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from tests.paths import DATA, ROOT

PAGE = ROOT / "docs" / "guidance.md"


def test_the_blocks_of_the_page_run_in_their_order_and_the_three_forms_agree(capsys) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    torch.manual_seed(0)
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 9
    for number, block in enumerate(found):
        exec(compile(block, f"guidance.md, block {number}", "exec"), namespace)
    torch.testing.assert_close(namespace["first"], namespace["second"])
    torch.testing.assert_close(namespace["first"], namespace["third"])
    torch.testing.assert_close(namespace["soft"], namespace["same"])
    torch.testing.assert_close(namespace["soft"].sum(), namespace["total"])
    names = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), flags=re.MULTILINE))))
    figures = namespace["figures"]
    assert isinstance(figures, dict) and figures.keys() == {
        name for name, (_, count) in namespace["sums"].items() if float(count) > 0.0
    }
    reported = {name.split("/")[1] for name in figures}
    assert reported <= names and "VocabularySummary" in capsys.readouterr().out


@pytest.mark.slow
def test_the_share_of_shared_boundaries_is_the_pages() -> None:
    from tgpo_ray.guidance import TextAlignment
    from tgpo_ray.models import byte_level_tokenizer

    path = DATA / "gsm8k_train.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path.name}: set TGPO_RAY_DATA")
    with path.open(encoding="utf-8") as lines:
        problems = [json.loads(line)["problem"] for line in lines]
    small, large = (byte_level_tokenizer(problems[:4000], size) for size in (2000, 8000))

    def coverage(policy, teacher) -> float:
        ends = [policy.eos_token_id], [teacher.eos_token_id]
        alignment = TextAlignment.from_tokenizers(policy, teacher, policy_eos_ids=ends[0], teacher_eos_ids=ends[1])
        ids = [i for problem in problems[4000:4200] for i in policy.encode(problem)]
        return alignment.coverage(np.array(ids))

    assert coverage(small, large) == pytest.approx(0.85, abs=0.005)
    assert coverage(large, small) == 1.0
