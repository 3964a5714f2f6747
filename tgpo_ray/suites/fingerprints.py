"""What answers follow from, in a few lines of JSON: another model, prompt or way of sampling has another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.models import local_model
from tgpo_ray.suites.answers_file import DATA_HASH

if TYPE_CHECKING:
    from tgpo_ray.config import EvaluationEnvConfig
    from tgpo_ray.suites.suite_config import CandidateConfig, SuiteConfig

END = 2**20  # bytes of a weight file that are read at its beginning and at its end
SMALL = 2**24  # bytes up to which a file is read whole
WEIGHTS = (".safetensors", ".bin", ".pt")
# Texts that a tokenizer and a model are made of. README.md and the like change no answer.
READ = (".json", ".txt", ".model", ".jinja", *WEIGHTS)
# Arguments that say where the rows come from. Hashes stand for them: of the prompts, and of the data.
ROWS = {"path", "subset", "split", "columns"}


def model_fingerprint(path: str) -> dict[str, str]:
    """Returns the hash of a model's folder, or the id of a model that is no folder. A copy elsewhere has the same.

    Of a large file only its size and both of its ends are read: training changes every tensor.
    """
    folder = Path(local_model(path))
    if not folder.is_dir():
        return {"id": path}
    digest = hashlib.sha256()
    for file in sorted(it for it in folder.iterdir() if it.is_file() and it.suffix in READ):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as content:
            if size <= SMALL:
                digest.update(content.read())
                continue
            digest.update(content.read(END))
            content.seek(-END, 2)
            digest.update(content.read())
    return {"sha256": digest.hexdigest()[:16]}


def prompt_hash(prompt: str, messages: object) -> str:
    """Returns a hash of the text, or of the messages of a chat."""
    content = json.dumps([prompt, messages], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]


def header_of(
    config: SuiteConfig, candidate: CandidateConfig, env: EvaluationEnvConfig, model: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the first line of a file of answers.

    Args:
        config: resolved, of this candidate.
        model: its `model_fingerprint`, or the name of a served model.
    """
    own = config.model
    engine = {
        "dtype": own.dtype,
        "tokenizer": own.tokenizer and model_fingerprint(own.tokenizer),
        "hf_overrides": own.hf_overrides,
        "chat_template_kwargs": own.chat_template_kwargs,
    }
    sampling = {
        "env": env.id,
        "model": dict(model),
        **({"request": candidate.request} if candidate.url else {"engine": engine}),
        "num_samples": config.evaluation.samples_of(env),
        "temperature": config.evaluation.temperature,
        "max_response_tokens": config.env_runners.max_response_tokens,
        "stop": list(config.env_runners.stop),
        "seed": config.seed,
    }
    kwargs = {**env.kwargs, **config.evaluation.kwargs}
    scoring = {name: value for name, value in sorted(kwargs.items()) if name not in ROWS}
    return {
        "set": env.label,
        "model": candidate.label,
        "sampling": sampling,
        "scoring": scoring | data_hash(kwargs),
    }


def data_hash(kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Returns the hash of the rows that have the right answers, as a part of `scoring`; empty without a `path`.

    Of a local file or folder the content counts, and of a data set on the hub its name. Another column of answers, or
    another split, has other answers, too.
    """
    name = kwargs.get("path")
    if not isinstance(name, str) or not name:
        return {}
    path, digest = Path(name).expanduser(), hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    said = {key: kwargs[key] for key in sorted(ROWS & kwargs.keys()) if key != "path" or not path.exists()}
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    return {DATA_HASH: digest.hexdigest()[:16]}
