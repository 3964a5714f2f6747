"""Data sets that are known by a short name, and which of their columns mean what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..boxed import last_boxed
from ..cells import answer_cell, is_messages, is_missing, prompt_cell, shown
from ..hints import nearest
from ..row_store import Row, part_of

MEANINGS = ("problem", "answer", "trace")
GSM8K_MARKER = "#### "  # GSM8K ends a worked solution with it and the answer
WORKED = ("solution",)  # columns of worked solutions, whose last box is the answer

PROBLEM_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "reward_model.ground_truth", "final_answer", "solution")
TRACE_COLUMNS = ("trace", "target", "response")


@dataclass(frozen=True)
class Source:
    """A data set and where its values stand.

    Args:
        path: name on the hub; "" for the user's own file.
        columns: names that its columns may have, the first that is there counts; by meaning.
        prompt: the style in which prompts of verified traces are written.
        about: what it is, for people.
        option: how the user says which column has a meaning.
    """

    path: str
    about: str
    subset: str | None = None
    split: str | None = "train"
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    prompt: str = "plain"
    option: str = "--columns {meaning}={column}"

    def candidates(self, meaning: str) -> Sequence[str]:
        """The names that the column of this meaning may have."""
        usual = {"problem": PROBLEM_COLUMNS, "answer": ANSWER_COLUMNS, "trace": TRACE_COLUMNS}
        return self.columns.get(meaning, usual[meaning])


SOURCES: dict[str, Source] = {
    "openr1-46k": Source(
        "Elliott/Openr1-Math-46k-8192",
        "LUFFY's 46,000 problems of OpenR1-Math with a trace of DeepSeek-R1, which the paper trains on",
        columns={"problem": ("prompt", "problem"), "answer": ("reward_model.ground_truth", "answer")},
        prompt="think",
    ),
    "gsm8k": Source("openai/gsm8k", "7,473 word problems of primary school, with whole numbers", subset="main"),
    "math": Source(
        "DigitalLearningGmbH/MATH-lighteval",
        "7,500 problems of school competitions, the training half of MATH",
        columns={"trace": ("solution",)},
    ),
    "deepscaler": Source(
        "agentica-org/DeepScaleR-Preview-Dataset", "40,000 problems of AIME, AMC, Omni-MATH and STILL"
    ),
    "file": Source("", "a jsonl or parquet file of your own", split=None),
}
"""Names for `tgpo-ray data prepare`."""

EVALUATION = Source("", "an evaluation set", split=None, option="--against FILE:{column}")


def source_named(name: str) -> Source:
    """Returns the data set of a short name.

    Raises:
        ValueError: for another name, with the nearest known one.
    """
    if name not in SOURCES:
        raise ValueError(f"no data set is called {name!r}{nearest(name, SOURCES)}: there is {', '.join(SOURCES)}")
    return SOURCES[name]


@dataclass(frozen=True)
class Columns:
    """Which column of the file has which meaning."""

    names: Mapping[str, str]  # by meaning; `trace` only where it is wanted
    option: str

    @classmethod
    def of(cls, source: Source, chosen: Mapping[str, str], row: Row, meanings: Iterable[str], path: str) -> Columns:
        """Finds the columns in the first row.

        Args:
            chosen: what the user says, by meaning.

        Raises:
            ValueError: for an unknown meaning, and where a column is missing: it names the columns that there are.
        """
        for meaning in chosen:
            if meaning not in MEANINGS:
                raise ValueError(f"--columns: unknown {meaning!r}{nearest(meaning, MEANINGS)}: {', '.join(MEANINGS)}")
        names = {meaning: _found(source, chosen.get(meaning), row, meaning, path) for meaning in meanings}
        return cls(names, source.option)

    def values(self, row: Row) -> dict[str, str | None]:
        """The text of each meaning; None where the row has none, and "" for a worked solution without an answer.

        Raises:
            ValueError: for a value that is neither text nor a number nor a conversation.
        """
        return {meaning: self._value(row, meaning, name) for meaning, name in self.names.items()}

    def _value(self, row: Row, meaning: str, name: str) -> str | None:
        value = part_of(row, name)
        if is_messages(value):
            value = _said(value, "assistant" if meaning == "trace" else "user")
        if is_missing(value):
            return None
        if isinstance(value, list | Mapping):
            first = 0 if isinstance(value, list) else next(iter(value), "key")
            part = self.option.format(meaning=meaning, column=f"{name}.{first}")
            raise ValueError(
                f"the column {name!r} must be text, got {type(value).__name__} {shown(value)}: name the part that is "
                f"meant, as {part}"
            )
        try:
            text = answer_cell({name: value}, name) if meaning == "answer" else str(prompt_cell({name: value}, name))
        except ValueError as failure:
            raise ValueError(f"the column {name!r} {failure}") from failure
        return _answer_of(text, name) if meaning == "answer" else text.strip()


def _found(source: Source, chosen: str | None, row: Row, meaning: str, path: str) -> str:
    candidates = source.candidates(meaning) if chosen is None else (chosen,)
    for name in candidates:
        if name in row or (part_of(row, name) is not None):
            return name
    wanted = " or ".join(map(repr, candidates))
    near = "" if chosen is None else nearest(chosen, _names(row), cutoff=0.5)
    raise ValueError(
        f"{path} has no column {wanted} for the {meaning}{near or '.'} Columns found: {', '.join(_names(row))}. "
        f"Choose with {source.option.format(meaning=meaning, column='<column>')}"
    )


def _names(row: Row) -> Iterator[str]:
    """The columns of a row, with the keys of those that hold a dict."""
    for name, value in row.items():
        yield from ([f"{name}.{key}" for key in value] if isinstance(value, Mapping) and value else [str(name)])


def _said(messages: Sequence[Mapping[str, Any]], role: str) -> Any:
    """The last message of this role, or None."""
    return next((message["content"] for message in reversed(messages) if message["role"] == role), None)


def _answer_of(text: str, column: str) -> str | None:
    """The answer in a cell: behind GSM8K's marker, in the last box of a worked solution, or all of it."""
    if column.rpartition(".")[2] in WORKED:
        return (last_boxed(text) or "").strip()
    return text.rpartition(GSM8K_MARKER)[2].strip() or None
